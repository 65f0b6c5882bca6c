// test: timeout 240 s
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { layoutOf } from '../../src/stores/embedded/directory.ts'
import { fillBallast } from '../../src/stores/embedded/ballast.ts'
import { StoreUnavailable, type Store } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { embeddedIn, LogLines, newDir, Worker } from './embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', null, 100)
const requests = check('requests', null, 1)

t.equal(spawnSync('strace', ['-V']).status, 0, 'strace is installed (Debian: apt-get install strace)')

/** Makes system calls on the journal fail or wait, once it is there. Counted in each thread anew: also in the one that follows a failure. */
function faulty(dir: string, ...injections: string[]): { wrapper: string[] } {
  const layout = layoutOf(dir)
  return { wrapper: ['strace', '-f', '-qq', '-o', '/dev/null', '-P', layout.journal, '-P', layout.wal, '-e', 'trace=pwrite64,fsync,fdatasync', ...injections.flatMap((one) => ['-e', `inject=${one}`])] }
}

async function madeStore(t: Test): Promise<string> {
  const dir = newDir(t)
  await (await embeddedIn(dir)).close()
  return dir
}

/** Everything that was acknowledged is there, and nothing twice. */
async function nothingLost(t: Test, dir: string, lines: readonly string[]): Promise<void> {
  const acknowledged = lines.filter((line) => line.startsWith('S ')).map((line) => line.split(' ')[1]!)
  const store = await embeddedIn(dir)
  const events = []
  for (let page = await store.outbox.scan(null, 1000); page.length > 0; page = await store.outbox.scan(page.at(-1)!.position, 1000)) events.push(...page)
  const ids = new Set(events.map((entry) => entry.record.id))
  t.equal(ids.size, events.length, 'no event twice')
  t.same(acknowledged.filter((id) => !ids.has(id)), [], `all ${acknowledged.length} acknowledged settlements are there`)
  const used = events.reduce((sum, entry) => sum + (entry.record.usage.total_tokens ?? 0), 0)
  t.match(await store.balances('acme', [tokens, requests]), [{ used, reserved: 0 }, { reserved: 0 }], 'the events are the counters')
  await store.close()
}

const faults = [
  { name: 'E6: a failed sync is never reported as success; the store is rebuilt from disk and admits again', inject: ['fsync:error=EIO:when=14', 'fdatasync:error=EIO:when=14'], says: /I\/O error/ },
  { name: 'E5, E6: no space at a sync: the same', inject: ['fsync:error=ENOSPC:when=14', 'fdatasync:error=ENOSPC:when=14'], says: /I\/O error|full/ },
  { name: 'E7: a disk that turned read-only refuses in plain words and recovers when it is writable again', inject: ['pwrite64:error=EROFS:when=30..32'], says: /I\/O error|read-only/ },
  { name: 'E6: a write that fails is not answered with success', inject: ['pwrite64:error=EIO:when=30'], says: /I\/O error/ },
]
for (const fault of faults) {
  t.test(fault.name, async (t) => {
    const dir = await madeStore(t)
    const worker = new Worker(dir, 'one-by-one', faulty(dir, ...fault.inject))
    const refused = await worker.line('no ')
    t.match(refused, fault.says)
    const from = worker.lines.length
    await worker.line('S ', from)
    worker.child.stdin!.write('enough\n')
    await worker.line('closed')
    await worker.exited
    await nothingLost(t, dir, worker.lines)
  })
}

t.test('a log that takes no space lets the ballast go, and nothing is lost', async (t) => {
  const dir = await madeStore(t)
  t.ok(existsSync(layoutOf(dir).ballast))
  const worker = new Worker(dir, 'one-by-one', faulty(dir, 'pwrite64:error=ENOSPC:when=9'))
  t.match(await worker.line('no '), /the disk is full: running calls are settled, no new ones are admitted/)
  const from = worker.lines.length
  await worker.line('S ', from)
  worker.child.stdin!.write('enough\n')
  await worker.exited
  // The settlement that met the full disk was acknowledged, not failed.
  const kinds = worker.lines.filter((line) => /^(R|S|no)/.test(line)).map((line) => line[0])
  for (const [i, kind] of kinds.entries()) if (kind === 'R') t.equal(kinds[i + 1], 'S', 'every admitted call was settled')
  await nothingLost(t, dir, worker.lines)
})

t.test('E8: a sync that hangs keeps the event loop running, gathers what waits, and stops admission after two seconds', async (t) => {
  const dir = await madeStore(t)
  const worker = new Worker(dir, 'stalled', faulty(dir, 'fsync:delay_enter=3000000:when=6', 'fdatasync:delay_enter=3000000:when=6'))
  const worst = Number((await worker.line('worst')).split(' ')[1])
  t.ok(worst < 500, `the event loop was ${worst} ms late at worst`)
  t.match(await worker.line('refused'), /the disk has not confirmed a write for more than two seconds/)
  await worker.exited
  await nothingLost(t, dir, worker.lines)
})

t.test('E5: a full disk: admission is refused, what runs is settled, reading works, and it recovers by itself', async (t) => {
  const disk = join(tmpDir(t), 'disk')
  mkdirSync(disk)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', disk]).status !== 0) {
    t.comment('this machine mounts no small disk; the injected faults above cover it')
    t.ok(true)
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const dir = join(disk, 'data')
  const log = new LogLines()
  const store = await embeddedIn(dir, { ballastBytes: 2 * 1024 * 1024, log })
  await store.records.put('key', 'a', { plan: 'pro' })
  const admitted: string[] = []
  const reserve = async (): Promise<void> => {
    const id = newId(Date.now())
    const answer = await store.reserve(reserveOf(id, Date.now(), 'acme', [tokens]))
    if (answer.outcome === 'admitted') admitted.push(id)
  }
  for (let i = 0; i < 50; i++) await reserve()

  // Others take the last byte.
  const filler = join(disk, 'filler')
  await appendFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {})
  let refusal: unknown
  for (let i = 0; i < 20_000 && refusal === undefined; i++) await reserve().catch((error: unknown) => { refusal = error })
  t.ok(refusal instanceof StoreUnavailable)
  t.match(store.status(), { admitting: false, reason: /the disk is full/ })
  t.notOk(existsSync(layoutOf(dir).ballast), 'the ballast was let go')

  for (const id of admitted) t.equal((await store.settle(settleOf(id, Date.now(), 'acme', [tokens], [7]))).outcome, 'settled')
  t.match(await store.balances('acme', [tokens]), [{ used: 7 * admitted.length, reserved: 0 }])
  t.equal((await store.outbox.scan(null, 10)).length, 10)
  t.same(await store.records.get('key', 'a'), { plan: 'pro' })

  rmSync(filler)
  await waitFor('admission', () => store.status().admitting, { deadlineMs: 10_000 })
  t.ok(statSync(layoutOf(dir).ballast).size >= 2 * 1024 * 1024, 'and set aside again')
  await reserve()
  await store.close()
  const again = await embeddedIn(dir, { ballastBytes: 2 * 1024 * 1024 })
  t.match(await again.balances('acme', [tokens]), [{ used: 7 * (admitted.length - 1), reserved: 0 }])
  await again.close()
})

t.test('E5: a disk so full that even settling fails: those calls are told, and the books are right when there is room', async (t) => {
  const disk = join(tmpDir(t), 'disk')
  mkdirSync(disk)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', disk]).status !== 0) {
    t.comment('this machine mounts no small disk')
    t.ok(true)
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const dir = join(disk, 'data')
  const store = await embeddedIn(dir, { ballastBytes: 64 * 1024 })
  const filler = join(disk, 'filler')
  await appendFile(filler, Buffer.alloc(64 * 1024 * 1024)).catch(() => {})
  const acknowledged: string[] = []
  const settleUntilRefused = async (store: Store): Promise<unknown> => {
    for (;;) {
      const id = newId(Date.now())
      try {
        await store.settle(settleOf(id, Date.now(), 'acme', [tokens], [7]))
        acknowledged.push(id)
      } catch (error) {
        return error
      }
    }
  }
  t.ok(await settleUntilRefused(store) instanceof StoreUnavailable)
  t.match(store.status(), { admitting: false, reason: /full/ })
  await sleep(300)
  t.equal(store.status().admitting, false, 'not before there is room')
  rmSync(filler)
  await waitFor('admission', () => store.status().admitting, { deadlineMs: 15_000 })
  for (const id of acknowledged) t.equal((await store.settle(settleOf(id, Date.now(), 'acme', [tokens], [7]))).outcome, 'already_settled')
  const events = await store.outbox.scan(null, 1000)
  t.equal((await store.balances('acme', [tokens]))[0]!.used, 7 * events.length)
  await store.close()
})

t.test('E7: a disk that is mounted read-only: start is refused with a sentence', async (t) => {
  const disk = join(tmpDir(t), 'disk')
  mkdirSync(disk)
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', disk]).status !== 0) {
    t.comment('this machine mounts no small disk')
    t.ok(true)
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const dir = join(disk, 'data')
  await (await embeddedIn(dir)).close()
  t.equal(spawnSync('mount', ['-o', 'remount,ro', disk]).status, 0)
  await t.rejects(embeddedIn(dir), { name: 'DirectoryRefused', message: /cannot be written by user \d+, or is mounted read-only: EROFS/ })
})

t.test('E8: more moves waiting than the bound: admission is refused, what waits is answered', async (t) => {
  const store = await embeddedIn(newDir(t))
  const nowMs = Date.now()
  const answers = await Promise.allSettled(Array.from({ length: 50_500 }, () => store.reserve(reserveOf(newId(nowMs), nowMs, 'acme', [requests]))))
  t.equal(answers.filter((answer) => answer.status === 'fulfilled' && answer.value.outcome === 'admitted').length, 50_000)
  t.equal(answers.filter((answer) => answer.status === 'rejected' && answer.reason instanceof StoreUnavailable).length, 500)
  t.match(await store.balances('acme', [requests]), [{ reserved: 50_000 }])
  await store.close()
})

t.test('no ballast is taken where it would fill the disk', async (t) => {
  const path = join(tmpDir(t), 'ballast')
  t.notOk(fillBallast(path, Number.MAX_SAFE_INTEGER))
  t.notOk(existsSync(path))
  writeFileSync(path, 'short')
  t.ok(fillBallast(path, 100_000), 'one that is too short is made again')
  t.equal(statSync(path).size, 100_000)
})
