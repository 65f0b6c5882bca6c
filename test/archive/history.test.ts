// What has left the store is found in the archive: each event once, wherever the border between them lies.

import { appendFileSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { reportUsage } from '../../src/admin/usage-report.ts'
import { Archive } from '../../src/archive/archive.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import { toUsageEvent, type UsageEvent } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import { systemRandom } from '../../src/random.ts'
import { eventRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Outbox, Store } from '../../src/stores/store.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { startRedis } from '../fixtures/redis.ts'
import { eventBody, settleOf } from '../stores/sample-moves.ts'
import { openFile } from '../sinks/open.ts'

const dayMs = 86_400_000
const start = Date.UTC(2026, 10, 20, 12)
const never = new AbortController().signal

/** Time that the test sets; housekeeping runs when it says so. */
class HandClock implements Clock {
  now = start
  #tasks: (() => void)[] = []
  nowMs(): number { return this.now }
  monotonicMs(): number { return this.now }
  after(delayMs: number, task: () => void): () => void { return systemClock.after(Math.min(delayMs, 50), task, { unref: true }) }
  every(_periodMs: number, task: () => void): () => void {
    this.#tasks.push(task)
    return () => { this.#tasks = this.#tasks.filter((each) => each !== task) }
  }
  sleep(): Promise<void> { return Promise.resolve() }
  tick(): void { for (const task of this.#tasks) task() }
}

async function rig(t: Teardown, hotMs = dayMs) {
  const clock = new HandClock()
  const dir = tmpDir(t)
  const path = join(dir, 'events.ndjson')
  const store = await openMemory({ clock, forgetAfterMs: 3_600_000, hotMs })
  const sink = await openFile({ path, max_bytes: 4_000, daily: true, keep: 30 * dayMs }, clock)
  const log = new LogLines()
  const history = new EventHistory({ outbox: store.outbox, archive: () => new Archive(path, log), clock })
  await store.outbox.setConsumers(['archive'])
  t.teardown(async () => {
    await sink.close()
    await store.close()
  })
  /** Everything that the archive has not had yet, or only so many of it. */
  const archive = async (count = 1_000): Promise<void> => {
    const fence = (await store.outbox.lease('archive', 'test', clock.now, clock.now + 60_000))!
    const entries = await store.outbox.read(fence, count)
    await sink.deliver(entries.map(({ record }) => eventRecord(toUsageEvent(record))), never)
    await store.outbox.advance(fence, entries)
  }
  return { clock, dir, path, store, history, archive, log }
}

async function settle(store: Store, atMs: number, tokens = 1): Promise<string> {
  const id = exchangeId(atMs, systemRandom.bytes(10))
  await store.settle(settleOf(id, atMs, 'acme', [], [], { usage: { requests: 1, total_tokens: tokens }, event: { ...eventBody, account: 'acme', settled_at: new Date(atMs).toISOString() } }))
  return id
}

async function idsOf(events: AsyncIterable<UsageEvent>): Promise<string[]> {
  const ids: string[] = []
  for await (const event of events) ids.push(event.id)
  return ids
}

/** Four events a day for ten days; archived and trimmed as they come. */
async function tenDays(t: Teardown, hotMs = dayMs) {
  const r = await rig(t, hotMs)
  const ids: string[] = []
  for (let n = 0; n < 40; n++) {
    ids.push(await settle(r.store, r.clock.now, n))
    await r.archive()
    r.clock.tick()
    r.clock.now += dayMs / 4
  }
  return { ...r, ids }
}

t.test('events are told from the archive and the store as if they were in one, from any instant on', async (t) => {
  const { history, store, ids, clock } = await tenDays(t)
  const hot = await store.outbox.scan(null, 1_000)
  t.ok(hot.length > 2 && hot.length < 8, `the store has ${hot.length} of 40 left`)
  for (let n = 0; n <= 40; n += 1) t.same(await idsOf(history.read(start + n * dayMs / 4)), ids.slice(n), `from event ${n} on`)
  t.same(await idsOf(history.read(0)), ids)
  // One that has come after a pause: the store has nothing else.
  clock.now += 20 * dayMs
  clock.tick()
  t.equal((await store.outbox.scan(null, 10)).length, 0)
  t.same(await idsOf(history.read(0)), ids, 'all of it from the archive')
  ids.push(await settle(store, clock.now))
  t.same(await idsOf(history.read(0)), ids)
})

t.test('what the archive does not have yet is told from the store, however old it is', async (t) => {
  const { history, store, archive, clock, path, log } = await rig(t)
  const ids: string[] = []
  for (let n = 0; n < 12; n++) {
    ids.push(await settle(store, clock.now))
    clock.now += dayMs / 4
  }
  // The archive is behind by more than a day, and only what it has may be trimmed.
  await archive(5)
  clock.tick()
  t.equal((await store.outbox.scan(null, 100)).length, 7)
  t.same(await idsOf(history.read(start)), ids)
  await archive(2)
  t.same((await idsOf(history.read(start))).sort(), [...ids].sort(), 'also where both have it')
  t.same(await idsOf(history.read(start + dayMs)), ids.slice(4))
  // One that waited long on some gateway's disk: around it the archive has what the store has too.
  ids.push(await settle(store, start + 5.5 * dayMs / 4))
  t.same((await idsOf(history.read(start))).sort(), [...ids].sort())
  // Where cursors are many, one may be behind what others have had archived since.
  const { outbox } = store
  const partitioned = {
    lag: async () => ({ count: 6, oldestMs: start + 5.5 * dayMs / 4 }), completeSince: () => outbox.completeSince?.(),
    scan: outbox.scan.bind(outbox), positionAt: outbox.positionAt.bind(outbox),
  } as unknown as Outbox
  const over = new EventHistory({ outbox: partitioned, archive: () => new Archive(path, log), clock })
  t.same((await idsOf(over.read(start))).sort(), [...ids].sort())
})

t.test('pages of any size give each event once, and go on with what is written', async (t) => {
  const { history, store, ids, archive, clock } = await tenDays(t)
  for (const size of [1, 3, 7, 1_000]) {
    const seen: string[] = []
    let page = await history.page(null, start + dayMs, size)
    for (;;) {
      seen.push(...page.entries.map(({ event }) => event.id))
      if (page.entries.length < size) break
      page = await history.page(page.next, null, size)
    }
    t.same(seen, ids.slice(4), `${size} at a time`)
    const more = await settle(store, clock.now)
    ids.push(more)
    page = await history.page(page.next, null, size)
    t.same(page.entries.map(({ event }) => event.id), [more])
    await archive()
    t.same((await history.page(page.next, null, size)).entries, [])
  }
  // A reader that slept for so long that the store has lost what comes next.
  const first = await history.page(null, start, 2)
  const seen = first.entries.map(({ event }) => event.id)
  clock.now += 5 * dayMs
  clock.tick()
  for (let next = first.next; ;) {
    const page = await history.page(next, null, 3)
    seen.push(...page.entries.map(({ event }) => event.id))
    next = page.next
    if (page.entries.length < 3) break
  }
  t.same(seen, ids)
  for (const wrong of ['archive-', 'archive-1-2-3', 'archive-x-1-1-1']) await t.rejects(history.page(wrong, null, 1), RangeError)
})

t.test('usage and look-ups by id reach back as far as the archive', async (t) => {
  const { history, ids } = await tenDays(t)
  const all = { fromMs: start, toMs: start + 100 * dayMs, by: [], bucket: null, account: null } as const
  t.match(await reportUsage(history, all), { events: 40, rows: [{ requests: 40, total_tokens: 780 }] })
  t.match(await reportUsage(history, { ...all, fromMs: start + dayMs, toMs: start + 2 * dayMs }), { events: 4, rows: [{ total_tokens: 4 + 5 + 6 + 7 }] })
  for (const n of [0, 1, 20, 39]) t.same((await history.find(ids[n]!)).map(({ id }) => id), [ids[n]])
  t.same(await history.find(exchangeId(start + dayMs, systemRandom.bytes(10))), [])
})

t.test('without an archive only the store is asked', async (t) => {
  const { store, ids, clock } = await tenDays(t)
  const history = new EventHistory({ outbox: store.outbox, archive: () => null, clock })
  const hot = (await store.outbox.scan(null, 1_000)).map(({ record }) => record.id)
  t.same(await idsOf(history.read(0)), hot)
  t.same((await history.page(null, 0, 1_000)).entries.map(({ event }) => event.id), hot)
  t.same(await history.find(ids[0]!), [])
})

t.test('a line twice is told once, a torn end is not seen, and a line that is no event is passed over and told', async (t) => {
  const { history, path, dir, ids, log } = await tenDays(t)
  const files = readdirSync(dir).filter((name) => /^events\.\d{4}-\d{2}-\d{2}\.\d+\.ndjson$/.test(name)).sort()
  t.ok(files.length >= 5, `${files.length} files`)
  const first = join(dir, files[0]!)
  const lines = readFileSync(first, 'utf8')
  writeFileSync(first, `${lines}${lines}not an event\n{"id":1}\n`)
  appendFileSync(path, lines.slice(0, 40))
  t.same(await idsOf(history.read(0)), ids)
  t.match(log.text, /no event/)
})

t.test('a file that gets its name of the past while it is read is read once', async (t) => {
  const { history, path, dir, ids } = await tenDays(t)
  const seen: string[] = []
  for await (const event of history.read(0)) {
    if (seen.length === 0) renameSync(path, join(dir, 'events.2026-11-30.9.ndjson'))
    seen.push(event.id)
  }
  t.same(seen, ids)
  const page = await history.page(null, start, 38)
  renameSync(join(dir, 'events.2026-11-30.9.ndjson'), join(dir, 'events.2026-11-30.10.ndjson'))
  t.same((await history.page(page.next, null, 10)).entries.map(({ event }) => event.id), ids.slice(38))
})

t.test('Redis says how far back it has everything', async (t) => {
  const server = await startRedis(t, {})
  const store = await openTestStore(t, server.url, { partitions: 4 })
  t.equal(await store.outbox.completeSince(), 0)
  const at = systemClock.nowMs()
  const home = ['a', 'b', 'c', 'd', 'e', 'f']
  for (let n = 0; n < 30; n++) {
    const id = exchangeId(at, systemRandom.bytes(10))
    await store.settle(settleOf(id, at + n, home[n % 6]!, [], []))
  }
  t.equal(await store.outbox.completeSince(), 0, 'nothing has been removed')
  const entries = await store.outbox.scan(null, 1_000)
  const partitions = [...new Set(entries.map(({ position }) => Number(position.slice(16, 20))))]
  const one = partitions[0]!
  const of = entries.filter(({ position }) => Number(position.slice(16, 20)) === one)
  await server.cli('XDEL', `test:{p${one}}:out`, `${Number(of[0]!.position.slice(0, 15))}-1`)
  const next = Number(of[1]!.position.slice(0, 15))
  t.equal(await store.outbox.completeSince(), next + 1)
  t.ok(entries.filter(({ record }) => record.atMs >= next + 1).length > 0)
  await server.cli('DEL', `test:{p${one}}:out`)
  t.equal(await store.outbox.completeSince(), Number(of.at(-1)!.position.slice(0, 15)) + 1)
})
