// test: timeout 120 s
import { cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import { layoutOf } from '../../src/stores/embedded/directory.ts'
import { recover, type RecoveryOptions } from '../../src/stores/embedded/recovery.ts'
import { listSnapshots, readSnapshot, snapshotPath, writeSnapshot, type SnapshotStep } from '../../src/stores/embedded/snapshot.ts'
import type { Store } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { embeddedIn, LogLines, newDir, SteppedClock } from './embedded-fixture.ts'
import { check, FORGET_AFTER_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', null, 100)
const DAY_MS = 86_400_000
const options: RecoveryOptions = { forgetAfterMs: FORGET_AFTER_MS, synchronous: 'full', acceptLoss: false, warn: () => {} }

async function exchanges(store: Store, count: number, nowMs: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const id = newId(nowMs)
    await store.reserve(reserveOf(id, nowMs, 'acme', [tokens]))
    await store.settle(settleOf(id, nowMs, 'acme', [tokens], [i]))
  }
}

function copyOf(t: Test, dir: string): string {
  const copy = join(tmpDir(t), 'copy')
  mkdirSync(copy)
  for (const name of readdirSync(dir)) if (!name.startsWith('lock') && !name.endsWith('-shm') && name !== 'ballast') cpSync(join(dir, name), join(copy, name))
  return copy
}

function rowCount(dir: string): number {
  const db = new DatabaseSync(layoutOf(dir).journal, { readOnly: true })
  const count = Number(db.prepare('SELECT count(*) AS n FROM journal').get()!['n'])
  db.close()
  return count
}

t.test('E9: a crash at any step of a snapshot: the next start uses the old or the new one, and leaves nothing half done', async (t) => {
  const dir = newDir(t)
  for (let i = 0; i < 2; i++) {
    const store = await embeddedIn(dir)
    await exchanges(store, 3, Date.now())
    await store.close()
  }
  const running = await embeddedIn(dir)
  await exchanges(running, 3, Date.now())
  const killed = copyOf(t, dir)
  await running.close()
  const whole = [...(await recover(layoutOf(killed), options)).ledger.dump()]

  const steps: SnapshotStep[] = ['created', 'half', 'written', 'synced', 'renamed', 'directory', 'removed']
  for (const at of steps) {
    const copy = copyOf(t, killed)
    const { ledger, bounds, epoch, snapshots } = await recover(layoutOf(copy), options)
    t.throws(() => writeSnapshot(copy, { format: 1, epoch, seq: bounds.last }, ledger.dump(), (step) => { if (step === at) throw new Error('killed here') }), /killed here/)
    const found = await recover(layoutOf(copy), options)
    t.same([...found.ledger.dump()], whole, at)
    t.ok([snapshots[0], bounds.last].includes(found.snapshots[0]!))
    const store = await embeddedIn(copy)
    t.same(readdirSync(copy).filter((name) => name.endsWith('.tmp')), [], 'orphans are gone')
    await store.close()
    t.ok(listSnapshots(copy).length <= 3)
  }
})

t.test('a snapshot is written beside the traffic, and says the same as the books', async (t) => {
  const dir = newDir(t)
  const clock = new SteppedClock()
  const store = await embeddedIn(dir, { clock, snapshotMoves: 50 })
  await exchanges(store, 40, clock.nowMs())
  clock.tick()
  const going = exchanges(store, 200, clock.nowMs())
  const seq = await waitFor('a snapshot', () => listSnapshots(dir)[0])
  await going
  t.ok(seq <= 80, 'of what was durable when it was begun')
  const killed = copyOf(t, dir)
  const { epoch, ledger, replayed } = await recover(layoutOf(killed), options)
  t.ok(replayed >= 400, 'the rest is replayed')
  t.ok([...readSnapshot(killed, seq, epoch)].length > 0)
  t.match(ledger.balances([tokens]), await store.balances('acme', [tokens]))
  await store.close()
})

t.test('the journal is trimmed only of what is delivered, cold and covered by both snapshots', async (t) => {
  const dir = newDir(t)
  const clock = new SteppedClock()
  const log = new LogLines()
  const store = await embeddedIn(dir, { clock, snapshotMoves: 20, hotMs: DAY_MS, log })
  await store.outbox.setConsumers(['sink'])
  const fence = (await store.outbox.lease('sink', 'me', 0, 1))!
  const snapshot = async (): Promise<void> => {
    await exchanges(store, 10, clock.nowMs())
    const before = listSnapshots(dir)[0] ?? 0
    clock.tick()
    await waitFor('a snapshot', () => (listSnapshots(dir)[0] ?? 0) > before)
    await waitFor('it to be known', () => log.lines.filter((line) => line.message === 'snapshot written').at(-1)?.fields !== undefined
      && JSON.stringify(log.lines.filter((line) => line.message === 'snapshot written').at(-1)!.fields).includes(String(listSnapshots(dir)[0])))
  }
  const settle = async (): Promise<number> => {
    clock.tick()
    // Answered after the trimming that was asked before it.
    await store.outbox.positionAt(0)
    await store.outbox.positionAt(0)
    return rowCount(dir)
  }
  await snapshot()
  await snapshot()
  await exchanges(store, 4, clock.nowMs())
  const all = rowCount(dir)
  t.equal(all, 48)
  t.equal(all - await settle(), 1, 'not delivered, not cold: only the first reserve, which is in the snapshots and before every event')
  clock.skippedMs += 2 * DAY_MS
  await waitFor('old reservations to be forgotten, which is a row more', async () => await settle() === all)
  t.equal(await settle(), all, 'not delivered')
  const entries = await store.outbox.scan(null, 100)
  await store.outbox.advance(fence, entries.slice(0, 5))
  const afterFive = await waitFor('trimming', async () => { const rows = await settle(); return rows < all ? rows : 0 })
  t.equal(all - afterFive, 10, 'up to the fifth event, and the reserve that follows it')
  await store.outbox.advance(fence, entries)
  const covered = await waitFor('more trimming', async () => { const rows = await settle(); return rows < afterFive ? rows : 0 })
  t.equal(all - covered, 19, 'not beyond the older snapshot')
  t.equal((await store.outbox.scan(null, 100)).length, entries.length - 10)
  t.equal(await store.outbox.positionAt(0), null)
  t.same(await store.outbox.lag('another'), { count: entries.length - 10, oldestMs: entries[10]!.record.atMs })

  await store.outbox.rewind('sink', null)
  const again = (await store.outbox.lease('sink', 'me', 5, 6))!
  t.equal((await store.outbox.read(again, 100)).length, entries.length - 10, 'delivered again from the oldest kept')
  const balance = await store.balances('acme', [tokens])
  await store.close()
  const reopened = await embeddedIn(dir)
  t.match(await reopened.balances('acme', [tokens]), balance)
  t.equal((await reopened.outbox.scan(null, 100)).length, entries.length - 10)
  await reopened.close()
})

t.test('a consumer that was not configured while events were trimmed gets its gap reported', async (t) => {
  const dir = newDir(t)
  const clock = new SteppedClock()
  const log = new LogLines()
  let store = await embeddedIn(dir, { clock, log, hotMs: 0 })
  await exchanges(store, 1, clock.nowMs())
  const fence = (await store.outbox.lease('old', 'me', 0, 1))!
  await store.outbox.advance(fence, await store.outbox.read(fence, 1))
  for (let i = 0; i < 3; i++) {
    await exchanges(store, 3, clock.nowMs())
    await store.close()
    store = await embeddedIn(dir, { clock, log, hotMs: 0 })
  }
  await store.outbox.setConsumers([])
  clock.skippedMs += DAY_MS
  await waitFor('trimming', async () => { clock.tick(); return await store.outbox.positionAt(0) === null && (await store.outbox.scan(null, 1)).length > 0 && rowCount(dir) < 18 })
  await store.outbox.setConsumers(['old'])
  clock.tick()
  t.match(log.text, /warn events were trimmed before these consumers.*"consumer":"old"/)
  await store.close()
})

t.test('what can change no answer any more is forgotten, also in the next life', async (t) => {
  const dir = newDir(t)
  const clock = new SteppedClock()
  let store = await embeddedIn(dir, { clock })
  await exchanges(store, 20, clock.nowMs())
  const lines = (): number => [...readSnapshot(dir, listSnapshots(dir)[0]!, epochOf(dir))].length
  await store.close()
  const before = lines()
  store = await embeddedIn(dir, { clock })
  clock.skippedMs += FORGET_AFTER_MS + 1000
  clock.tick()
  await store.close()
  t.equal(before - lines(), 20)
  store = await embeddedIn(dir, { clock })
  t.match(await store.balances('acme', [tokens]), [{ used: 190 }], 'the books are not what is forgotten')
  await store.close()
})

function epochOf(dir: string): string {
  const db = new DatabaseSync(layoutOf(dir).journal, { readOnly: true })
  const epoch = String(db.prepare(`SELECT value FROM meta WHERE name = 'epoch'`).get()!['value'])
  db.close()
  return epoch
}

t.test('a snapshot that claims more than the journal knows is not believed', async (t) => {
  const dir = newDir(t)
  let store = await embeddedIn(dir)
  await exchanges(store, 3, Date.now())
  await store.close()
  writeFileSync(snapshotPath(dir, 999), 'anything')
  const log = new LogLines()
  store = await embeddedIn(dir, { log })
  t.match(log.text, /warn a snapshot is ahead of the journal and is not used/)
  t.match(await store.balances('acme', [tokens]), [{ used: 3 }])
  await store.close()
})
