import t from 'tap'
import { percentile, slotOf } from '../../src/analytics/counts.ts'
import { incrementOf, incrementOfRecord } from '../../src/analytics/projection.ts'
import { toUsageEvent } from '../../src/metering/event.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import type { BuiltinMeter } from '../../src/metering/meter.ts'
import { eventBody, newId, skeleton } from '../stores/sample-moves.ts'
import { chance, startMs } from './rollups.ts'

const meters: readonly BuiltinMeter[] = ['requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens', 'compute_seconds', 'bytes_in', 'bytes_out', 'audio_seconds', 'images', 'cost']

t.test('a record adds the same as its event does, whatever it is', async (t) => {
  const next = chance(11)
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!
  const quantities = (): OutboxRecord['usage'] => Object.fromEntries(meters.filter(() => next() < 0.6).map((meter) => [meter, Math.floor(next() * pick([2, 5_000, 9e12]))]))
  for (let i = 0; i < 3_000; i++) {
    const kind = pick(['usage', 'usage', 'expired', 'late'] as const)
    const money = pick([{}, { currency: 'USD' }, { currency: 'JPY', money_scale: 2 }, { currency: 'EUR', money_scale: 6 }])
    const hostile = pick(['small', 'small', 'a\u0000b\u001fc\u0085d', 'x'.repeat(400), '\ud800', '', '<script>', '=1+1'])
    const body = kind === 'expired'
      ? { ...skeleton, ...money, model: hostile }
      : { ...eventBody, ...money, model: pick([hostile, null]), status: pick([200, 499, 502]), end: pick(['complete', 'client_gone'] as const), ...pick([{}, { time_to_first_token_ms: Math.floor(next() * 900) }]), ...pick([{}, { shadow: [] }, { shadow: ['rpm'] }]) }
    const record: OutboxRecord = { kind, id: newId(startMs + i), correction: kind === 'late' ? pick([1, 2]) : 0, atMs: startMs + i, body, usage: quantities(), booked: kind === 'late' ? quantities() : null, drawn: [], overruns: [] }
    const wanted = incrementOf(toUsageEvent(record))
    t.strictSame(incrementOfRecord(record), wanted)
    for (const name of Object.values(wanted.dimensions)) if (name.length > 128 || /\p{Cc}/u.test(name)) t.fail(`not a name: ${JSON.stringify(name)}`)
    if (!t.passing()) return
  }
})

t.test('a percentile read from slots is at most 5 % off', async (t) => {
  const next = chance(5)
  const durations = Array.from({ length: 5_000 }, () => Math.ceil(2 ** (next() * 17)))
  const slots = new Map<number, number>()
  for (const ms of durations) slots.set(slotOf(ms), (slots.get(slotOf(ms)) ?? 0) + 1)
  durations.sort((a, b) => a - b)
  for (const share of [0.01, 0.5, 0.95, 0.99, 1]) {
    const exact = durations[Math.ceil(durations.length * share) - 1]!
    const read = percentile(slots, share)!
    t.ok(Math.abs(read - exact) <= Math.max(0.5, exact * 0.05), `${share}: ${read} for ${exact}`)
  }
  t.equal(percentile(new Map(), 0.5), null)
})
