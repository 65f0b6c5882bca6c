import { appendFileSync, existsSync, readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { eventRecord, type EventRecord } from '../../src/sinks/sink.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { openFile, type FileSettings } from './open.ts'

const never = new AbortController().signal
const events = (from: number, count: number): EventRecord[] => Array.from({ length: count }, (_, i) => eventRecord({
  specversion: '1.0', type: 'tallygate.usage.v1', source: 'tallygate/test', id: `e-${from + i}`, subject: 'a', time: '2026-11-22T10:00:00.000Z',
  datacontenttype: 'application/json', data: { total_tokens: from + i, model: 'a\nb "é"' },
}))
const settings = (path: string, more: object = {}): FileSettings => ({ path, max_bytes: 1e9, daily: false, keep: null, ...more })
const idsIn = (path: string): string[] => readFileSync(path, 'utf8').split('\n').filter((line) => line !== '').map((line) => (JSON.parse(line) as UsageEvent).id)
const at = (nowMs: () => number): Clock => ({ ...systemClock, nowMs, monotonicMs: () => 0, after: () => () => undefined, every: () => () => undefined, sleep: async () => undefined })

t.test('every event is one line of JSON, in order, readable by the owner only', async (t) => {
  const path = join(tmpDir(t), 'deep/usage.ndjson')
  const sink = await openFile(settings(path), systemClock)
  const report = await sink.deliver(events(0, 3), never)
  t.same(report, { accepted: ['e-0', 'e-1', 'e-2'], refused: [] })
  t.same(idsIn(path), ['e-0', 'e-1', 'e-2'])
  t.same(JSON.parse(readFileSync(path, 'utf8').split('\n')[1]!), events(1, 1)[0]?.event, 'nothing is lost on the way')
  t.equal(statSync(path).mode & 0o777, 0o600)
  await sink.close()
})

t.test('after a crash the file is resumed at its last whole line, and what it already holds is not written again', async (t) => {
  const path = join(tmpDir(t), 'usage.ndjson')
  const whole = await openFile(settings(path), systemClock)
  await whole.deliver(events(0, 5), never)
  await whole.close()
  appendFileSync(path, JSON.stringify(events(5, 1)[0]?.event).slice(0, 40))
  const torn = statSync(path).size
  const sink = await openFile(settings(path), systemClock)
  t.equal(statSync(path).size, torn, 'opening alone changes nothing: another gateway may be writing that line')
  // The cursor was not advanced before the crash, so the batch comes again, with more behind it.
  t.same((await sink.deliver(events(3, 4), never)).accepted, ['e-3', 'e-4', 'e-5', 'e-6'])
  t.same(idsIn(path), [0, 1, 2, 3, 4, 5, 6].map((n) => `e-${n}`))
  await sink.deliver(events(7, 2), never)
  // On purpose (a replay), the same ids may come again: then they are written.
  await sink.deliver(events(0, 1), never)
  t.same(idsIn(path).slice(-3), ['e-7', 'e-8', 'e-0'])
  await sink.close()
})

t.test('a batch that comes again, because the store could not be told that it is done, is not written again', async (t) => {
  const path = join(tmpDir(t), 'usage.ndjson')
  const sink = await openFile(settings(path), systemClock)
  await sink.deliver(events(0, 3), never)
  t.same((await sink.deliver(events(0, 5), never)).accepted.length, 5, 'once more, with more behind it')
  t.same((await sink.deliver(events(1, 2), never)).accepted.length, 2, 'and a part of it')
  await sink.deliver(events(3, 4), never)
  t.same(idsIn(path), [0, 1, 2, 3, 4, 5, 6].map((n) => `e-${n}`))
  await sink.close()
})

t.test('a tail torn at any byte loses no acknowledged event', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  const first = await openFile(settings(path), systemClock)
  await first.deliver(events(0, 2), never)
  const acknowledged = statSync(path).size
  await first.deliver(events(2, 1), never)
  await first.close()
  const bytes = readFileSync(path)
  for (let cut = acknowledged; cut < bytes.length; cut++) {
    writeFileSync(path, bytes)
    truncateSync(path, cut)
    const sink = await openFile(settings(path), systemClock)
    await sink.deliver(events(2, 1), never)
    await sink.close()
    if (idsIn(path).join() !== 'e-0,e-1,e-2') t.fail(`cut at ${cut}: ${idsIn(path).join()}`)
  }
  t.pass(`${bytes.length - acknowledged} offsets`)
})

t.test('a new file is begun by size and by day; no line is lost or split', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  let nowMs = Date.parse('2026-11-22T23:59:00Z')
  const sink = await openFile(settings(path, { max_bytes: 600, daily: true }), at(() => nowMs))
  for (let i = 0; i < 6; i++) await sink.deliver(events(i, 1), never)
  nowMs = Date.parse('2026-11-23T00:01:00Z')
  await sink.deliver(events(6, 1), never)
  await sink.close()
  const names = readdirSync(dir).sort()
  t.same(names, ['usage.2026-11-22.1.ndjson', 'usage.2026-11-22.2.ndjson', 'usage.ndjson'])
  t.same(names.flatMap((name) => idsIn(join(dir, name))), [0, 1, 2, 3, 4, 5, 6].map((n) => `e-${n}`))
})

t.test('a write that fails is cut back and tried again whole', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  const sink = await openFile(settings(path), systemClock)
  await sink.deliver(events(0, 1), never)
  // /dev/full refuses every byte, as a full disk does.
  const full = await openFile(settings('/dev/full'), systemClock).catch(() => null)
  if (full !== null) await t.rejects(full.deliver(events(1, 1), never), { code: 'ENOSPC' })
  t.ok(existsSync(path))
  await t.rejects(sink.deliver(events(1, 1), AbortSignal.abort()))
  await sink.deliver(events(1, 1), never)
  t.same(idsIn(path), ['e-0', 'e-1'])
  await sink.close()
})

t.test('gateways that take turns at one file lose and double nothing, whoever has opened it when', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  const [one, other] = [await openFile(settings(path, { max_bytes: 4_000 }), systemClock), await openFile(settings(path, { max_bytes: 4_000 }), systemClock)]
  for (let n = 0; n < 40; n += 4) {
    await one.deliver(events(n, 3), never)
    // The other has not heard how far the first one came.
    await other.deliver(events(n + 2, 2), never)
  }
  const files = readdirSync(dir).sort()
  t.ok(files.length > 1, 'with a new file in between')
  // A batch that comes again after a new file was begun is not looked for in the one before.
  t.same([...new Set(files.flatMap((name) => idsIn(join(dir, name))))].sort(), Array.from({ length: 40 }, (_, n) => `e-${n}`).sort(), 'every event is there')
  t.same(idsIn(path).length, new Set(idsIn(path)).size)
  await one.close()
  await other.close()
})

t.test('a line that another gateway is writing is not cut off by one that starts', async (t) => {
  const path = join(tmpDir(t), 'usage.ndjson')
  const line = `${JSON.stringify(events(0, 1)[0]?.event)}\n`
  writeFileSync(path, line.slice(0, 50))
  const starting = await openFile(settings(path), systemClock)
  appendFileSync(path, line.slice(50))
  await starting.deliver(events(0, 2), never)
  t.same(idsIn(path), ['e-0', 'e-1'])
  await starting.close()
})

t.test('an archive keeps its files for as long as is asked, and touches no other', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'events.ndjson')
  let nowMs = Date.UTC(2026, 0, 1, 12)
  const sink = await openFile({ path, max_bytes: 1e9, daily: true, keep: 3 * 86_400_000 }, at(() => nowMs))
  const others = ['events.ndjson.bak', 'events.2020-01-01.ndjson', 'other.2020-01-01.1.ndjson', 'events.2020-01-01.1.txt']
  for (const name of others) writeFileSync(join(dir, name), '')
  for (let day = 0; day < 8; day++) {
    await sink.deliver(events(day, 1), never)
    nowMs += 86_400_000
  }
  t.same(readdirSync(dir).filter((name) => !others.includes(name)).sort(), ['events.2026-01-04.1.ndjson', 'events.2026-01-05.1.ndjson', 'events.2026-01-06.1.ndjson', 'events.2026-01-07.1.ndjson', 'events.ndjson'])
  t.same(readdirSync(dir).filter((name) => others.includes(name)).length, others.length)
  await sink.close()
})

t.test('a path that is a folder is warned of when the file is checked, and is no mistake', (t) => {
  const dir = tmpDir(t)
  const check = (path: string): ReturnType<typeof loadConfig> => loadConfig({ file: 'tallygate.yaml', env: {}, hostName: 'test', text: `sinks: [{ name: file, type: file, path: ${path} }]\n` })
  const { config, warnings } = check(dir)
  t.ok(config)
  t.match(warnings.filter(({ path }) => path === 'sinks[0].path'), [{ line: 1, sentence: /^is a folder here, so the sink cannot be opened/ }])
  writeFileSync(join(dir, 'usage.ndjson'), '')
  for (const path of [join(dir, 'usage.ndjson'), join(dir, 'none.ndjson'), join(dir, 'usage.ndjson/under'), join(dir, 'x'.repeat(300))]) t.same(check(path).warnings.filter((warning) => warning.path === 'sinks[0].path'), [], path)
  t.end()
})
