// test: timeout 240 s
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import type { Store } from '../../src/stores/store.ts'
import { layoutOf } from '../../src/stores/embedded/directory.ts'
import { JournalDamaged, openForReading, readRows } from '../../src/stores/embedded/journal-file.ts'
import { AcknowledgedLost, recover, type RecoveryOptions } from '../../src/stores/embedded/recovery.ts'
import { readWatermark } from '../../src/stores/embedded/watermark.ts'
import { repair } from '../../src/stores/index.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { embeddedIn, LogLines, newDir } from './embedded-fixture.ts'
import { check, FORGET_AFTER_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', null, 10)
const GROUPS = 6

async function exchange(store: Store, amount: number): Promise<void> {
  const id = newId(Date.now())
  await store.reserve(reserveOf(id, Date.now(), 'acme', [tokens]))
  await store.settle(settleOf(id, Date.now(), 'acme', [tokens], [amount]))
}

/** What a process killed now would leave behind. */
function copyOf(t: Test, dir: string): string {
  const copy = join(tmpDir(t), 'copy')
  mkdirSync(copy)
  for (const name of readdirSync(dir)) if (!name.startsWith('lock') && !name.endsWith('-shm') && name !== 'ballast') cpSync(join(dir, name), join(copy, name))
  return copy
}

/** A store with everything still in the log, as killed; and the watermark from before its last group. */
async function killedStore(t: Test): Promise<{ dir: string; watermarkBefore: Buffer }> {
  const dir = newDir(t)
  const store = await embeddedIn(dir)
  for (let i = 1; i <= GROUPS; i++) await exchange(store, i)
  await store.records.put('key', 'a', { plan: 'pro' })
  const fence = (await store.outbox.lease('sink', 'me', 0, 1))!
  const [entry] = await store.outbox.read(fence, 1)
  await store.outbox.bury(fence, entry!, 'refused', 1)
  await store.outbox.advance(fence, [entry!])
  const settled = (): Promise<unknown> => waitFor('the watermark of what was acknowledged', () => {
    const mark = readWatermark(layoutOf(dir).watermark)
    const db = openForReading(layoutOf(dir).journal)
    const { last } = db.prepare('SELECT max(seq) AS last FROM journal').get() as { last: number }
    db.close()
    return typeof mark === 'object' && mark.seq === last
  })
  // It is written after the acknowledgement has been sent.
  await settled()
  const watermarkBefore = readFileSync(layoutOf(dir).watermark)
  await exchange(store, 100)
  await settled()
  const copy = copyOf(t, dir)
  await store.close()
  return { dir: copy, watermarkBefore }
}

const options: RecoveryOptions = { forgetAfterMs: FORGET_AFTER_MS, synchronous: 'full', acceptLoss: false, warn: () => {} }

/** Everything that a store knows, as text. */
async function contents(dir: string, more: Partial<RecoveryOptions> = {}): Promise<string> {
  const layout = layoutOf(dir)
  const { ledger, bounds, cursors } = await recover(layout, { ...options, ...more })
  const db = openForReading(layout.journal)
  try {
    const rows = [...readRows(db, layout.journal, bounds.first - 1, bounds.last)]
    const documents = db.prepare('SELECT kind, id, value FROM documents').all()
    const dead = db.prepare('SELECT consumer, ordinal, reason, record FROM dead').all()
    return JSON.stringify([[...ledger.dump()], rows, [...cursors], documents, dead])
  } finally {
    db.close()
  }
}

t.test('E2: a log cut at any byte of its last record starts, without that record alone', async (t) => {
  const { dir, watermarkBefore } = await killedStore(t)
  const layout = layoutOf(dir)
  const wal = readFileSync(layout.wal)
  const watermarkAfter = readFileSync(layout.watermark)
  const before = JSON.parse(await contents(dir)) as [unknown, { seq: number }[]]
  writeFileSync(layout.watermark, watermarkBefore)
  const frame = 24 + 4096
  let starts = 0
  let kept = ''
  for (let length = wal.length - 1; length >= wal.length - frame; length--) {
    truncateSync(layout.wal, length)
    const found = await contents(dir)
    if (kept === '') kept = found
    if (found !== kept) t.fail(`cut at ${length}: another content`)
    starts += 1
  }
  t.equal(starts, frame)
  const [, rows] = JSON.parse(kept) as [unknown, { seq: number }[]]
  t.same(rows, before[1].slice(0, -1), 'every record but the last')

  writeFileSync(layout.watermark, watermarkAfter)
  await t.rejects(contents(dir), { name: 'AcknowledgedLost', message: /journal\.db ends at row \d+, though rows up to \d+ were acknowledged/ }, 'had it been acknowledged, its loss is noticed')
})

t.test('a log cut anywhere among acknowledged records is refused, and named with its offset', async (t) => {
  const { dir } = await killedStore(t)
  const layout = layoutOf(dir)
  const wal = readFileSync(layout.wal)
  for (let length = 0; length < wal.length - 4120; length += 1777) {
    writeFileSync(layout.wal, wal.subarray(0, length))
    rmSync(`${layout.journal}-shm`, { force: true })
    await t.rejects(contents(dir), AcknowledgedLost, `cut at ${length}`)
  }
})

t.test('E3: one flipped bit is never a silent loss: start refuses and names the file, or nothing is missing', async (t) => {
  const { dir } = await killedStore(t)
  const whole = await contents(dir)
  const folded = copyOf(t, dir)
  const db = new DatabaseSync(layoutOf(folded).journal)
  db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  db.close()
  t.equal(await contents(folded), whole)
  for (const [where, file] of [[dir, layoutOf(dir).wal], [folded, layoutOf(folded).journal]] as const) {
    const bytes = readFileSync(file)
    let refused = 0
    let harmless = 0
    for (let at = 0; at < bytes.length; at += 61) {
      const flipped = Buffer.from(bytes)
      flipped[at]! ^= 1 << at % 8
      writeFileSync(file, flipped)
      rmSync(`${layoutOf(where).journal}-shm`, { force: true })
      if (where === folded) rmSync(layoutOf(where).wal, { force: true })
      try {
        const found = await contents(where)
        if (found !== whole) t.fail(`bit ${at % 8} of byte ${at} of ${basename(file)}: something else, silently`)
        harmless += 1
      } catch (error) {
        if (!(error instanceof Error) || !(error instanceof JournalDamaged || error instanceof AcknowledgedLost) || !error.message.includes('journal.db')) t.fail(`byte ${at} of ${basename(file)}: ${String(error)}`)
        refused += 1
      }
    }
    writeFileSync(file, bytes)
    t.ok(refused > 10, `${basename(file)}: ${refused} flips refused, ${harmless} in bytes that carry nothing`)
  }
})

t.test('a flipped bit inside a record is named by row, and a store does not start', async (t) => {
  const { dir } = await killedStore(t)
  const layout = layoutOf(dir)
  const db = new DatabaseSync(layout.journal)
  db.exec(`UPDATE journal SET effects = replace(effects, 'acme', 'acmf') WHERE seq = 3; PRAGMA wal_checkpoint(TRUNCATE)`)
  db.close()
  await t.rejects(embeddedIn(dir), { name: 'JournalDamaged', message: /journal\.db: row 3 fails its checksum/ })
  const again = await repair(dir, 1)
  t.same(again.rowsLost.includes(3), true)
})

t.test('E4: zeros after the end, as a power loss leaves them, are not records', async (t) => {
  const { dir, watermarkBefore } = await killedStore(t)
  const layout = layoutOf(dir)
  const whole = await contents(dir)
  const wal = readFileSync(layout.wal)
  writeFileSync(layout.wal, Buffer.concat([wal, Buffer.alloc(65_536)]))
  rmSync(`${layout.journal}-shm`, { force: true })
  t.equal(await contents(dir), whole)

  const torn = Buffer.from(wal)
  torn.fill(0, wal.length - 3000)
  writeFileSync(layout.wal, torn)
  writeFileSync(layout.watermark, watermarkBefore)
  rmSync(`${layout.journal}-shm`, { force: true })
  t.equal((JSON.parse(await contents(dir)) as [unknown, unknown[]])[1].length, (JSON.parse(whole) as [unknown, unknown[]])[1].length - 1)

  writeFileSync(layout.watermark, Buffer.alloc(128))
  const log = new LogLines()
  const store = await embeddedIn(dir, { log })
  t.match(log.text, /warn the watermark is damaged/)
  await store.close()
})

t.test('E12: an old backup of the journal starts only with an explicit yes', async (t) => {
  const dir = newDir(t)
  let store = await embeddedIn(dir)
  await exchange(store, 1)
  await store.close()
  const backup = readFileSync(layoutOf(dir).journal)
  const snapshots = readdirSync(dir).filter((name) => name.startsWith('snapshot-'))
  store = await embeddedIn(dir)
  await exchange(store, 2)
  await store.close()
  writeFileSync(layoutOf(dir).journal, backup)
  await t.rejects(embeddedIn(dir), { name: 'AcknowledgedLost', message: /An old backup, or lost writes/ })
  const log = new LogLines()
  store = await embeddedIn(dir, { acceptLoss: true, log })
  t.match(log.text, /The loss was accepted explicitly/)
  t.match(await store.balances('acme', [tokens]), [{ used: 1, reserved: 0 }])
  await exchange(store, 4)
  await store.close()
  store = await embeddedIn(dir)
  t.match(await store.balances('acme', [tokens]), [{ used: 5 }], 'said once is enough')
  await store.close()
  t.equal(snapshots.length, 1)
})

t.test('files of two stores never mix, and a store that lost its journal is not begun anew', async (t) => {
  const one = newDir(t)
  const other = newDir(t)
  for (const dir of [one, other]) {
    const store = await embeddedIn(dir)
    await exchange(store, 1)
    await store.close()
  }
  cpSync(layoutOf(other).journal, layoutOf(one).journal)
  await t.rejects(embeddedIn(one), { name: 'AcknowledgedLost', message: /belongs to another store/ })
  rmSync(layoutOf(one).journal)
  await t.rejects(embeddedIn(one), { name: 'DirectoryRefused', message: /journal\.db is missing/ })
  t.notOk(existsSync(layoutOf(one).journal))
})

t.test('a journal of another format is refused by name', async (t) => {
  const dir = newDir(t)
  await (await embeddedIn(dir)).close()
  const db = new DatabaseSync(layoutOf(dir).journal)
  db.exec(`UPDATE meta SET value = '99' WHERE name = 'format'`)
  db.close()
  await t.rejects(embeddedIn(dir), { name: 'JournalDamaged', message: /has format 99; this release reads format 1/ })
})

t.test('E3: repair writes a copy and a report, and leaves the damaged store as it was', async (t) => {
  const { dir } = await killedStore(t)
  const layout = layoutOf(dir)
  const db = new DatabaseSync(layout.journal)
  // Row 5 is the third exchange's reserve, in the order of one call after another; its settlement does not need it.
  db.exec(`UPDATE journal SET outbox = '[{}]' WHERE seq = 4; PRAGMA wal_checkpoint(TRUNCATE)`)
  db.close()
  const before = readFileSync(layout.journal)
  await t.rejects(embeddedIn(dir), JournalDamaged)
  const report = repair(dir, 1234)
  t.same(readFileSync(layout.journal), before)
  t.equal(report.copy, `${statSync(dir).isDirectory() ? dir : ''}-repaired-1234`)
  t.match(report.findings.join('\n'), /journal\.db: row 4 fails its checksum/)
  t.match(readFileSync(join(report.copy, 'report.txt'), 'utf8'), /Rows lost: 4/)
  t.teardown(() => rmSync(report.copy, { recursive: true, force: true }))
  const store = await embeddedIn(report.copy)
  const [balance] = await store.balances('acme', [tokens])
  const events = await store.outbox.scan(null, 100)
  const first = 2
  t.equal(balance!.used, 1 + 3 + 4 + 5 + 6 + 100, `all but the settlement of ${first}, which expiry has replaced`)
  t.equal(events.length, GROUPS + 1, 'all events but the lost one, and the expiry of what it left open')
  t.same(await store.records.get('key', 'a'), { plan: 'pro' })
  t.equal((await store.outbox.dead('sink')).length, 1)
  await store.close()
})

t.test('a damaged newest snapshot costs time and nothing else; without any, the whole journal is replayed', async (t) => {
  const dir = newDir(t)
  for (const amount of [1, 2, 3]) {
    const store = await embeddedIn(dir)
    await exchange(store, amount)
    await store.close()
  }
  const snapshots = readdirSync(dir).filter((name) => name.startsWith('snapshot-')).sort()
  t.equal(snapshots.length, 2, 'two are kept')
  const whole = await contents(dir)
  for (const [i, name] of snapshots.reverse().entries()) {
    const path = join(dir, name)
    if (i === 0) truncateSync(path, statSync(path).size - 7)
    else writeFileSync(path, readFileSync(path, 'utf8').replace('tokens', 'tokenz'))
    const log = new LogLines()
    t.equal(await contents(dir, { warn: log.warn }), whole)
    t.match(log.text, new RegExp(`a snapshot is damaged and is not used.*${name}`))
  }
  const db = new DatabaseSync(layoutOf(dir).journal)
  db.exec('DELETE FROM journal WHERE seq <= 2')
  db.close()
  await t.rejects(embeddedIn(dir), { name: 'JournalDamaged', message: /no snapshot is usable, and the journal begins at row 3/ })
})

t.test('E3: a row that is missing in the middle is noticed', async (t) => {
  const { dir } = await killedStore(t)
  const db = new DatabaseSync(layoutOf(dir).journal)
  db.exec('DELETE FROM journal WHERE seq = 5')
  db.close()
  await t.rejects(embeddedIn(dir), { name: 'JournalDamaged', message: /row 5 is missing, though row 6 is there/ })
})
