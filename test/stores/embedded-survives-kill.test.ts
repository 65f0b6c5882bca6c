// test: timeout 240 s
import { spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Store } from '../../src/stores/store.ts'
import { embeddedIn, newDir, Worker } from './embedded-fixture.ts'
import { check, settleOf } from './sample-moves.ts'

const KILLS = 25
const checks = [check('tokens', null, 100), check('requests', null, 1)]

interface Acknowledged { readonly id: string; readonly amount: number }

function acknowledged(lines: readonly string[]): Acknowledged[] {
  return lines.filter((line) => /^S \S{36} \d+$/.test(line)).map((line) => { const [, id = '', amount = ''] = line.split(' '); return { id, amount: Number(amount) } })
}

/** Every acknowledged settlement is there once, nothing is held, and the events are the counters. */
async function booksAreRight(t: Test, store: Store, expected: readonly Acknowledged[]): Promise<void> {
  const byId = new Map<string, number>()
  let used = 0
  let position = null
  for (;;) {
    const page = await store.outbox.scan(position, 1000)
    if (page.length === 0) break
    for (const { record } of page) {
      byId.set(record.id, (byId.get(record.id) ?? 0) + 1)
      used += record.usage.total_tokens ?? 0
    }
    position = page.at(-1)!.position
  }
  t.same(expected.filter(({ id }) => byId.get(id) !== 1), [], `each of ${expected.length} acknowledged settlements has one event`)
  t.same([...byId].filter(([, count]) => count !== 1), [], 'and no exchange has two')
  t.match((await store.balances('acme', checks))[0], { used, reserved: 0 }, 'the events are the counters')
  const last = expected.at(-1)
  if (last !== undefined) {
    const again = await store.settle(settleOf(last.id, Date.now(), 'acme', checks, [last.amount, 1], { usage: { requests: 1, total_tokens: last.amount } }))
    t.equal(again.outcome, 'already_settled', 'a repeated settlement is known')
  }
}

t.test('G8: a process killed at any instant loses nothing that it acknowledged, and leaves nothing held', async (t) => {
  const dir = newDir(t)
  const all: Acknowledged[] = []
  let reserved = 0
  for (let kill = 0; kill < KILLS; kill++) {
    const worker = new Worker(dir, 'work')
    await worker.line('open')
    await sleep(Math.random() * 120)
    await worker.kill()
    for (const one of acknowledged(worker.lines)) all.push(one)
    reserved += worker.lines.filter((line) => line.startsWith('R ')).length
  }
  const store = await embeddedIn(dir)
  await booksAreRight(t, store, all)
  await store.close()
  const again = await embeddedIn(dir)
  await booksAreRight(t, again, all)
  await again.close()
  t.ok(all.length > KILLS, `${KILLS} kills, ${reserved} acknowledged reservations, ${all.length} acknowledged settlements`)
})

t.test('E1, G6: a process killed at any write or sync of its journal loses nothing that it acknowledged', async (t) => {
  t.equal(spawnSync('strace', ['-V']).status, 0, 'strace is installed (Debian: apt-get install strace)')
  const dir = newDir(t)
  const all: Acknowledged[] = []
  const points = [1, 2, 3, 4, 5, 7, 10, 15].flatMap((n) => [['pwrite64', n], ['fsync', n]] as const)
  for (const [call, n] of points) {
    const worker = new Worker(dir, 'work', {
      wrapper: ['strace', '-f', '-qq', '-o', '/dev/null', '-P', `${dir}/journal.db`, '-P', `${dir}/journal.db-wal`, '-e', 'trace=pwrite64,fsync', '-e', `inject=${call}:signal=SIGKILL:when=${n}`],
    })
    await worker.exited
    for (const one of acknowledged(worker.lines)) all.push(one)
  }
  const store = await embeddedIn(dir)
  await booksAreRight(t, store, all)
  await store.close()
  t.ok(all.length > 10, `${all.length} acknowledged settlements`)
})
