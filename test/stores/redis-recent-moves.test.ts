// What was acknowledged in the last minute can be repeated after a failover; it never takes more than its share of memory.
import t from 'tap'
import { RecentMoves } from '../../src/stores/redis/recent-moves.ts'
import { check, settleOf } from './sample-moves.ts'

const settle = (i: number, counters = 1) => settleOf(`id${i}`, i, 'acme', Array.from({ length: counters }, (_, n) => check(`counter ${n}`, 100, 1)), Array<number>(counters).fill(1))

t.test('the moves of the last minute, the very same objects, the oldest first', async (t) => {
  const recent = new RecentMoves()
  const moves = Array.from({ length: 100 }, (_, i) => (i % 3 === 0 ? { id: `id${i}`, nowMs: i, home: 'acme' } : settle(i)))
  for (const [i, move] of moves.entries()) recent.note(move, i * 1_000)
  const found = recent.since(99_000 - 60_000)
  t.equal(found.length, 61)
  for (const [i, move] of found.entries()) t.equal(move, moves[39 + i])
  t.same(recent.since(98_500), [moves[99]])
  t.same(recent.since(100_000), [])
  t.equal(recent.count, 61, 'older ones are let go')
})

t.test('bounded by count and by bytes, the newest are kept', async (t) => {
  const few = new RecentMoves({ moves: 10, bytes: Infinity })
  for (let i = 0; i < 5_000; i++) few.note(settle(i), 0)
  t.same(few.since(0).map(({ id }) => id), Array.from({ length: 10 }, (_, i) => `id${4_990 + i}`))
  const small = new RecentMoves({ moves: Infinity, bytes: 100_000 })
  for (let i = 0; i < 5_000; i++) {
    small.note(settle(i, 8), 0)
    if (small.bytes > 100_000) t.fail(`${small.bytes} bytes`)
  }
  t.ok(small.count > 5 && small.count < 100)
  t.equal(small.since(0).at(-1)?.id, 'id4999')
})

t.test('noting costs nothing that a call would feel', async (t) => {
  const recent = new RecentMoves()
  const moves = Array.from({ length: 1_000 }, (_, i) => settle(i, 4))
  const startedAt = performance.now()
  for (let i = 0; i < 200_000; i++) recent.note(moves[i % 1_000]!, i / 10)
  const micros = (performance.now() - startedAt) / 200
  t.comment(`${micros.toFixed(2)} µs each; ${recent.count} kept`)
  t.ok(micros < 20)
})
