// What a key is told of its own past: its sums and nobody else's, in whole buckets, as far back as they are kept.

import t from 'tap'
import { KeyHistory } from '../../src/analytics/key-history.ts'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { incrementOf } from '../../src/analytics/projection.ts'
import { bucketOf } from '../../src/analytics/rollups.ts'
import type { Increment, Kept, Rollups } from '../../src/analytics/rollups.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { chance, randomEvent, startMs } from './rollups.ts'

const hour = 3_600_000
const day = 24 * hour
const years: Kept = { minute: 2 * day, hour: 45 * day, day: 800 * day, month: 3_660 * day }

async function opened(t: Teardown, increments: readonly Increment[]): Promise<Rollups> {
  const rollups = await openLocalRollups(':memory:')
  t.teardown(() => rollups.close())
  await rollups.reset()
  await rollups.countArchived(increments)
  await rollups.complete()
  return rollups
}

function historyAt(nowMs: number, rollups: Rollups, { kept = years, oldestMs = null }: { kept?: Kept | null; oldestMs?: number | null } = {}): KeyHistory {
  return new KeyHistory({ kept: () => kept, rollups: async () => rollups, outbox: { lag: async () => ({ count: oldestMs === null ? 0 : 1, oldestMs }) }, clock: withTime(systemClock, () => nowMs) })
}

/** Another way to the same: over all events. */
function recount(increments: readonly Increment[], account: string, key: string, unit: 'hour' | 'day' | 'month', fromMs: number): object[] {
  const rows = new Map<number, { fromMs: number; requests: number; inputTokens: number; outputTokens: number; totalTokens: number; costs: Record<string, bigint>; refused: number }>()
  for (const { atMs, dimensions, sums, currency, costNanos } of increments) {
    if (dimensions.account !== account || dimensions.key !== key || atMs < fromMs) continue
    const bucket = bucketOf(unit, atMs)
    const row = rows.get(bucket) ?? { fromMs: bucket, requests: 0, inputTokens: 0, outputTokens: 0, totalTokens: 0, costs: {}, refused: 0 }
    row.requests += sums[1]!
    row.inputTokens += sums[2]!
    row.outputTokens += sums[5]!
    row.totalTokens += sums[7]!
    row.costs[currency] = (row.costs[currency] ?? 0n) + costNanos
    rows.set(bucket, row)
  }
  return [...rows.values()].sort((a, b) => a.fromMs - b.fromMs)
}

t.test('sums are those of the events of this key alone, by hour, day and month', async (t) => {
  const next = chance(7)
  // Two accounts that both call a key of theirs the same.
  const increments = Array.from({ length: 6_000 }, (_, index) => incrementOf(randomEvent(next, index, 3, 70 * day)))
    .map((each) => ({ ...each, dimensions: { ...each.dimensions, key: each.dimensions.key.replace(/^acct-[01]-/, 'shared-') } }))
  const rollups = await opened(t, increments)
  const nowMs = startMs + 70 * day
  const history = historyAt(nowMs, rollups)
  for (const [account, key] of [['acct-0', 'shared-a'], ['acct-1', 'shared-a'], ['acct-2', 'acct-2-b']] as const) {
    for (const [unit, backMs] of [['hour', 30 * day], ['day', 69 * day], ['day', null], ['month', null], ['hour', null]] as const) {
      const { rows, fromMs, untilMs } = await history.of({ account, key, unit, backMs })
      t.same(rows.map((row) => ({ ...row, costs: Object.fromEntries(row.costs) })), recount(increments, account, key, unit, fromMs), `${account} ${key} by the ${unit}`)
      t.ok(rows.length > 0 && fromMs === bucketOf(unit, fromMs) && untilMs > nowMs)
    }
  }
  t.same((await history.of({ account: 'acct-0', key: 'acct-2-b', unit: 'day', backMs: null })).rows, [], 'a key of another account has nothing there')
})

t.test('refusals are of this key alone, also in buckets without use; of a key named as what is put together nothing is told', async (t) => {
  const nowMs = Date.parse('2026-11-20T10:30:00Z')
  const rollups = await opened(t, [])
  const refused = (account: string, key: string, atMs: number, count: number) => ({ atMs, dimensions: { account, key, limit: 'rpm', reason: 'rate_limited', model: 'small' }, refused: count })
  await rollups.countRefusals([refused('a', 'one', nowMs, 3), refused('a', 'one', nowMs - day, 2), refused('a', 'two', nowMs, 7), refused('b', 'one', nowMs, 11), refused('a', 'other', nowMs, 13)])
  const history = historyAt(nowMs, rollups)
  const of = async (key: string, unit: 'day' | 'month') => (await history.of({ account: 'a', key, unit, backMs: null })).rows.map((row) => [new Date(row.fromMs).toISOString().slice(0, 10), row.requests, row.refused])
  t.same(await of('one', 'day'), [['2026-11-19', 0, 2], ['2026-11-20', 0, 3]])
  t.same(await of('one', 'month'), [['2026-11-01', 0, 5]])
  t.same(await of('other', 'day'), [], 'it could be anybody’s')
})

t.test('it begins with the first bucket that is kept as a whole, and says how far it is complete', async (t) => {
  const nowMs = Date.parse('2026-11-20T10:30:00Z')
  const rollups = await opened(t, [])
  const from = async (unit: 'hour' | 'day' | 'month', backMs: number | null, kept: Kept = years): Promise<string> =>
    new Date((await historyAt(nowMs, rollups, { kept }).of({ account: 'a', key: 'k', unit, backMs })).fromMs).toISOString().replace(':00.000Z', 'Z')
  t.equal(await from('hour', null), '2026-11-19T10:00Z')
  t.equal(await from('day', null), '2026-10-21T00:00Z')
  t.equal(await from('month', null), '2025-12-01T00:00Z')
  t.equal(await from('hour', 99_999 * day), '2026-10-06T11:00Z', 'hours for 45 days')
  t.equal(await from('month', 99_999 * day), '2024-10-01T00:00Z', 'of months its days tell')
  t.equal(await from('day', hour), '2026-11-20T00:00Z')
  const little: Kept = { minute: 600_000, hour: 600_000, day, month: day }
  t.equal(await from('hour', null, little), '2026-11-20T10:00Z', 'there is always the present one')
  t.equal(await from('month', null, little), '2026-11-01T00:00Z')
  t.equal((await historyAt(nowMs, rollups, { oldestMs: nowMs - 5_000 }).of({ account: 'a', key: 'k', unit: 'day', backMs: null })).completeUntilMs, nowMs - 5_000)
  t.equal((await historyAt(nowMs, rollups).of({ account: 'a', key: 'k', unit: 'day', backMs: null })).completeUntilMs, nowMs)
  await rollups.reset()
  t.equal((await historyAt(nowMs, rollups).of({ account: 'a', key: 'k', unit: 'day', backMs: null })).completeUntilMs, null, 'while they are made again nobody knows')
  t.equal(historyAt(nowMs, rollups, { kept: null }).isKept, false)
})
