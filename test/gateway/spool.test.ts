// The spool keeps what was appended until it is removed, whatever happens to the process, the disk and the files.
// test: timeout 120 s
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import { systemClock } from '../../src/clock.ts'
import type { Settle } from '../../src/metering/moves.ts'
import { openSpool, type Spool, type SpoolOptions } from '../../src/spool/spool.ts'
import { SpoolFile } from '../../src/spool/spool-file.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { check, eventBody, newId, settleOf } from '../stores/sample-moves.ts'

t.setTimeout(120_000)

function move(text = ''): Settle {
  const nowMs = systemClock.nowMs()
  return settleOf(newId(nowMs), nowMs, 'acme', [check('tokens', 1_000, 7)], [7], { event: { ...eventBody, labels: { text } } })
}

async function opened(t: Test, dir: string, options: Partial<SpoolOptions> = {}): Promise<Spool> {
  const spool = await openSpool({ dir, clock: systemClock, log: new LogLines(), ...options })
  t.teardown(() => spool.close())
  return spool
}

async function all(spool: Spool): Promise<{ sequences: number[]; moves: Settle[] }> {
  const found: { sequences: number[]; moves: Settle[] } = { sequences: [], moves: [] }
  for (let page = await spool.read(0, 100); page.length > 0; page = await spool.read(page.at(-1)!.sequence, 100)) {
    found.sequences.push(...page.map(({ sequence }) => sequence))
    found.moves.push(...page.map((entry) => entry.move))
  }
  return found
}

t.test('what was appended is read whole and in order, in pages, until it is removed; over a restart too', async (t) => {
  const dir = tmpDir(t)
  let spool = await opened(t, dir)
  t.match({ count: spool.count, bytes: spool.bytes, oldestMs: spool.oldestMs, full: spool.full }, { count: 0, bytes: 0, oldestMs: null, full: null })
  const moves = Array.from({ length: 700 }, (_, i) => move(`č${i}`))
  const before = systemClock.nowMs()
  await Promise.all(moves.map((one) => spool.append(one)))
  t.equal(spool.count, 700)
  t.ok(spool.bytes > 700 * 400 && (spool.oldestMs ?? 0) >= before)
  t.same((await all(spool)).moves, moves)
  t.equal((await spool.read(0, 3)).length, 3)

  const sequences = (await all(spool)).sequences
  await spool.remove([...sequences.slice(0, 300), ...sequences.slice(400)])
  await spool.remove([sequences[0]!, 999_999])
  await spool.close()
  spool = await opened(t, dir)
  t.same((await all(spool)).moves, moves.slice(300, 400))
  t.equal(spool.count, 100)
  await spool.append(moves[0]!)
  t.ok((await all(spool)).sequences.at(-1)! > sequences.at(-1)!, 'no sequence is used twice')
  await spool.remove((await all(spool)).sequences)
  t.match({ count: spool.count, bytes: spool.bytes, oldestMs: spool.oldestMs }, { count: 0, bytes: 0, oldestMs: null })
})

t.test('a page is bounded in bytes, and the largest settlement is taken', async (t) => {
  const spool = await opened(t, tmpDir(t))
  const large = Array.from({ length: 6 }, () => move('x'.repeat(500_000)))
  await Promise.all(large.map((one) => spool.append(one)))
  const page = await spool.read(0, 256)
  t.ok(page.length < 5, `${page.length} in one page`)
  t.same((await all(spool)).moves, large)
  await t.rejects(spool.append(move('x'.repeat(1_100_000))), /too large/)
})

t.test('appending waits for the disk in a thread of its own and goes on by the thousand', async (t) => {
  const spool = await opened(t, tmpDir(t))
  let worstMs = 0
  let last = performance.now()
  const beat = setInterval(() => { const now = performance.now(); worstMs = Math.max(worstMs, now - last - 5); last = now }, 5)
  const startedAt = performance.now()
  for (let i = 0; i < 20; i++) await Promise.all(Array.from({ length: 200 }, () => spool.append(move('y'.repeat(1_000)))))
  const seconds = (performance.now() - startedAt) / 1_000
  clearInterval(beat)
  t.comment(`${Math.round(4_000 / seconds)} settlements a second; the event loop was ${Math.round(worstMs)} ms late at worst`)
  t.ok(worstMs < 500)
  t.equal(spool.count, 4_000)
})

t.test('with little room left it is full; what was admitted before still fits; then nothing is taken and nothing lost', async (t) => {
  const dir = tmpDir(t)
  const spool = await opened(t, dir, { maxBytes: 100_000 })
  const kept: Settle[] = []
  while (spool.full === null) {
    const one = move('z'.repeat(2_000))
    await spool.append(one)
    kept.push(one)
  }
  t.match(spool.full, /^the spool is full: \d+ settlements wait for the store$/)
  const atFull = kept.length
  await t.rejects((async () => {
    for (;;) {
      const one = move('z'.repeat(2_000))
      await spool.append(one)
      kept.push(one)
    }
  })(), /full/)
  t.ok(kept.length >= atFull + 5, `${kept.length - atFull} fit into the reserve`)
  t.ok(spool.bytes <= 100_000)
  t.same((await all(spool)).moves, kept)
  await spool.remove((await all(spool)).sequences)
  t.equal(spool.full, null)
  t.ok(statSync(join(dir, '0', 'spool.db')).size < 40 * 32_768, 'an empty spool gives its space back')
})

t.test('two processes on one folder keep apart; what a dead one has left is taken over', async (t) => {
  const dir = tmpDir(t)
  const first = await opened(t, dir)
  const second = await opened(t, dir)
  const [a, b] = [move(), move()]
  await first.append(a)
  await second.append(b)
  t.same((await all(first)).moves, [a])
  t.same((await all(second)).moves, [b])
  await second.close()
  await first.close()
  const log = new LogLines()
  const third = await opened(t, dir, { log })
  t.same((await all(third)).moves.map(({ id }) => id).sort(), [a.id, b.id].sort())
  const fourth = await opened(t, dir)
  t.equal(fourth.count, 0, 'and not twice')
})

t.test('a folder that others could change is refused in plain words', async (t) => {
  const dir = join(tmpDir(t), 'open')
  mkdirSync(dir)
  spawnSync('chmod', ['777', dir])
  await t.rejects(openSpool({ dir, clock: systemClock, log: new LogLines() }), /can be written by everyone: chmod o-w/)
})

/** A spool of `count` entries whose files are changed while nobody has them open. */
async function damaged(t: Test, count: number, damage: (path: string) => void): Promise<{ moves: Settle[]; found: Settle[]; log: LogLines; dir: string }> {
  const dir = tmpDir(t)
  const spool = await openSpool({ dir, clock: systemClock, log: new LogLines() })
  const moves = Array.from({ length: count }, (_, i) => move(`${i} ${'w'.repeat(700)}`))
  for (let i = 0; i < count; i += 50) await Promise.all(moves.slice(i, i + 50).map((one) => spool.append(one)))
  await spool.close()
  damage(join(dir, '0', 'spool.db'))
  const log = new LogLines()
  const again = await opened(t, dir, { log })
  return { moves, found: (await all(again)).moves, log, dir }
}

function overwrite(path: string, at: number, bytes: Buffer): void {
  const content = readFileSync(path)
  bytes.copy(content, at)
  writeFileSync(path, content)
}

t.test('a changed letter costs that settlement alone, and is told', async (t) => {
  const { moves, found, log, dir } = await damaged(t, 100, (path) => {
    overwrite(path, readFileSync(path).indexOf('"text":"42 ') + 20, Buffer.from('#'))
  })
  t.same(found.map(({ id }) => id), moves.filter((_, i) => i !== 42).map(({ id }) => id))
  t.match(log.lines.filter(({ level }) => level === 'error'), [{ message: /settlements 43 fail their checksum/ }])
  const db = new DatabaseSync(join(dir, '0', 'spool.db'), { readOnly: true })
  t.match(db.prepare('SELECT seq, line FROM damaged').all(), [{ seq: 43, line: /"text":"42 / }], 'what can be read of it is kept')
  db.close()
})

for (const [what, page] of [['the first page', 0], ['the root of the table', 2], ['a page in the middle', 6]] as const) {
  t.test(`a torn file: ${what} is lost: all settlements that are not on it go on, loudly`, async (t) => {
    const { moves, found, log, dir } = await damaged(t, 200, (path) => overwrite(path, page * 32_768, Buffer.alloc(32_768, 0x5a)))
    const ids = new Set(found.map(({ id }) => id))
    t.equal(ids.size, found.length, 'none twice')
    const lost = moves.filter(({ id }) => !ids.has(id)).length
    t.ok(lost <= 32, `${lost} of 200 were on that page`)
    t.match(log.lines.filter(({ level }) => level === 'error')[0]?.message, /is damaged \(.*\): \d+ settlements were read from it and go on/)
    t.ok(readdirSync(join(dir, '0')).includes('spool.db.damaged-1'), 'the damaged file is kept')
  })
}

t.test('a file cut short keeps what is before the cut', async (t) => {
  const { moves, found } = await damaged(t, 200, (path) => writeFileSync(path, readFileSync(path).subarray(0, 7 * 32_768)))
  t.ok(found.length >= 30 && found.length < 200, `${found.length} of 200`)
  t.ok(found.every(({ id }) => moves.some((one) => one.id === id)))
})

t.test('a log that fails in its middle hides nothing of what follows', async (t) => {
  const dir = tmpDir(t)
  mkdirSync(join(dir, '0'), { recursive: true, mode: 0o700 })
  const file = new SpoolFile({ dir: join(dir, '0'), ballastBytes: 0 })
  const moves = Array.from({ length: 60 }, (_, i) => move(`${i}`))
  for (const one of moves) file.append([{ atMs: 1, json: JSON.stringify(one) }])
  // As a killed process leaves it: the log is not folded into the file.
  const path = join(dir, '0', 'spool.db')
  const [db, wal] = [readFileSync(path), readFileSync(`${path}-wal`)]
  file.close()
  rmSync(`${path}-wal`, { force: true })
  wal.fill(0x5a, 32 + 20 * (24 + 32_768) + 100, 32 + 20 * (24 + 32_768) + 200)
  writeFileSync(path, db)
  writeFileSync(`${path}-wal`, wal)
  const log = new LogLines()
  const spool = await opened(t, dir, { log })
  t.same((await all(spool)).moves.map(({ id }) => id).sort(), moves.map(({ id }) => id).sort())
  t.match(log.lines.filter(({ level }) => level === 'error')[0]?.message, /its log fails its checksum/)
})

t.test('a log that has lost its end is told, although what is left is whole', async (t) => {
  const dir = tmpDir(t)
  mkdirSync(join(dir, '0'), { recursive: true, mode: 0o700 })
  const file = new SpoolFile({ dir: join(dir, '0'), ballastBytes: 0 })
  for (let i = 0; i < 10; i++) file.append([{ atMs: 1, json: JSON.stringify(move()) }])
  const path = join(dir, '0', 'spool.db')
  const [db, wal] = [readFileSync(path), readFileSync(`${path}-wal`)]
  file.close()
  writeFileSync(path, db)
  writeFileSync(`${path}-wal`, wal.subarray(0, wal.length - 5 * (24 + 32_768)))
  const log = new LogLines()
  const spool = await opened(t, dir, { log })
  t.ok(spool.count < 10)
  t.match(log.lines.filter(({ level }) => level === 'error')[0]?.message, /the last \d+ settlements that were written are not there any more/)
})

t.test('a folder deleted under a running gateway: nothing is taken for written that is not, and it begins anew', async (t) => {
  const dir = join(tmpDir(t), 'spool')
  const log = new LogLines()
  const spool = await opened(t, dir, { log })
  await spool.append(move())
  rmSync(dir, { recursive: true })
  await t.rejects(spool.append(move()), /deleted or replaced/)
  t.match(spool.full, /cannot be written/)
  t.ok(log.lines.some(({ level, message }) => level === 'error' && /cannot be written; nothing is admitted/.test(message)))
  await waitFor('the spool to be there again', () => spool.full === null)
  await spool.append(move())
  t.equal(spool.count, 1)
})

t.test('a full disk makes it full, keeps what was acknowledged, and ends when there is room', async (t) => {
  const disk = join(tmpDir(t), 'disk')
  mkdirSync(disk)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', disk]).status !== 0) {
    t.comment('this machine mounts no small disk')
    t.ok(true)
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const log = new LogLines()
  const spool = await opened(t, join(disk, 'spool'), { log, maxBytes: 32 * 1024 * 1024 })
  t.equal(spool.full, null)
  const kept: Settle[] = []
  const write = async (): Promise<void> => {
    const one = move('v'.repeat(50_000))
    await spool.append(one)
    kept.push(one)
  }
  while (spool.full === null) await write()
  t.equal(spool.full, 'the disk of the spool is full')
  const atFull = kept.length
  for (let i = 0; i < 20; i++) await write()
  t.equal(kept.length, atFull + 20, 'what was admitted before is still written')
  await t.rejects((async () => { for (;;) await write() })(), /the disk is full/)
  t.same((await all(spool)).moves.map(({ id }) => id), kept.map(({ id }) => id), `all ${kept.length} are there`)
  await spool.close()

  const again = await opened(t, join(disk, 'spool'), { log, maxBytes: 32 * 1024 * 1024 })
  const { sequences, moves } = await all(again)
  t.same(moves.map(({ id }) => id), kept.map(({ id }) => id), 'after a restart too')
  t.equal(again.full, 'the disk of the spool is full')
  for (let i = 0; i < sequences.length; i += 20) await again.remove(sequences.slice(i, i + 20))
  t.equal(again.count, 0)
  await waitFor('room', () => again.full === null, { deadlineMs: 12_000, everyMs: 50 })
  await again.append(move())
})
