import t from 'tap'
import { reportUsage } from '../../src/admin/usage-report.ts'
import type { UsageQuestion } from '../../src/admin/usage-report.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { systemClock } from '../../src/clock.ts'
import type { EventBody, OutboxRecord } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import { systemRandom } from '../../src/random.ts'
import { FakeOutbox } from './fake-outbox.ts'

const historyOf = (outbox: FakeOutbox): EventHistory => new EventHistory({ outbox, archive: () => null, clock: systemClock })

const hourMs = 3_600_000
const day = Date.UTC(2026, 10, 22)

function record(admittedMs: number, usage: Quantities, more: Partial<EventBody> = {}, settledMs = admittedMs + 1_000): OutboxRecord {
  const body: EventBody = {
    source: 'tallygate/test', account: 'acme', key: 'dev', plan: 'free', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions', model: 'm1',
    upstream: 'model', stream: false, caller: { request_id: null, user: null, session: null, tags: {} }, attempt: 1, status: 200, end: 'complete',
    usage_source: 'upstream', settled_at: new Date(settledMs).toISOString(), ...more,
  }
  return { kind: 'usage', id: exchangeId(admittedMs, systemRandom.bytes(10)), correction: 0, atMs: settledMs, body, usage, booked: null, drawn: [], overruns: [] }
}

const all: UsageQuestion = { fromMs: day, toMs: day + 24 * hourMs, by: [], bucket: null, account: null }

t.test('quantities are summed by what was asked for', async (t) => {
  const outbox = new FakeOutbox()
  outbox.append(
    record(day + 1, { requests: 1, input_tokens: 10, output_tokens: 5, total_tokens: 15 }),
    record(day + 2, { requests: 1, input_tokens: 1, output_tokens: 1, total_tokens: 2 }, { model: 'm2' }),
    record(day + 3, { requests: 1, input_tokens: 7, output_tokens: 0, total_tokens: 7 }, { account: 'other', key: 'k2' }),
  )
  const byAccount = await reportUsage(historyOf(outbox), { ...all, by: ['account'] })
  t.equal(byAccount.events, 3)
  t.match(byAccount.rows, [{ account: 'acme', requests: 2, input_tokens: 11, output_tokens: 6, total_tokens: 17, events: 2 }, { account: 'other', total_tokens: 7 }])
  t.match((await reportUsage(historyOf(outbox), { ...all, by: ['account', 'model'], account: 'acme' })).rows, [{ model: 'm1', total_tokens: 15 }, { model: 'm2', total_tokens: 2 }])
  t.match((await reportUsage(historyOf(outbox), all)).rows, [{ requests: 3, total_tokens: 24 }])
  t.same((await reportUsage(historyOf(new FakeOutbox()), all)).rows, [])
})

t.test('usage belongs to the instant of admission, whenever it was settled', async (t) => {
  const outbox = new FakeOutbox()
  outbox.append(
    record(day - 1, { requests: 1, total_tokens: 1 }, {}, day + hourMs),
    record(day, { requests: 1, total_tokens: 10 }, {}, day + 30 * hourMs),
    record(day + 24 * hourMs, { requests: 1, total_tokens: 100 }, {}, day + 30 * hourMs),
  )
  t.match((await reportUsage(historyOf(outbox), all)).rows, [{ requests: 1, total_tokens: 10 }], 'from is within, to is not')
})

t.test('buckets are hours, days and months of UTC', async (t) => {
  const outbox = new FakeOutbox()
  outbox.append(record(day + hourMs, { requests: 1, total_tokens: 1 }), record(day + 2 * hourMs - 1, { requests: 1, total_tokens: 2 }), record(day + 2 * hourMs, { requests: 1, total_tokens: 4 }))
  t.match((await reportUsage(historyOf(outbox), { ...all, bucket: 'hour' })).rows, [{ from: '2026-11-22T01:00:00Z', total_tokens: 3 }, { from: '2026-11-22T02:00:00Z', total_tokens: 4 }])
  t.match((await reportUsage(historyOf(outbox), { ...all, bucket: 'day' })).rows, [{ from: '2026-11-22T00:00:00Z', total_tokens: 7 }])
  t.match((await reportUsage(historyOf(outbox), { ...all, bucket: 'month' })).rows, [{ from: '2026-11-01T00:00:00Z', total_tokens: 7 }])
})

t.test('a late correction adds its difference and no request', async (t) => {
  const outbox = new FakeOutbox()
  const first = record(day + 1, { requests: 1, input_tokens: 10, output_tokens: 2, total_tokens: 12 })
  const late: OutboxRecord = { ...first, kind: 'late', correction: 1, usage: { requests: 1, input_tokens: 10, output_tokens: 9, total_tokens: 19 }, booked: first.usage }
  outbox.append(first, late)
  t.match((await reportUsage(historyOf(outbox), all)).rows, [{ requests: 1, output_tokens: 9, total_tokens: 19, events: 2 }])
})

t.test('money is summed to the last nano, by currency', async (t) => {
  const outbox = new FakeOutbox()
  for (let index = 0; index < 10; index += 1) outbox.append(record(day + index, { requests: 1, cost: 100_000_001 }, { currency: 'USD', price_version: '1' }))
  outbox.append(record(day + 20, { requests: 1, cost: 1 }, { currency: 'EUR', price_version: '1' }))
  t.match((await reportUsage(historyOf(outbox), all)).rows, [{ cost: { USD: '1.000000010', EUR: '0.000000001' } }])
})

t.test('a long history is read piece by piece, and an answer without end is refused', async (t) => {
  const outbox = new FakeOutbox()
  outbox.append(...Array.from({ length: 2_500 }, (_each, index) => record(day + index, { requests: 1, total_tokens: 1 })))
  t.match((await reportUsage(historyOf(outbox), all)).rows, [{ requests: 2_500 }])
  t.equal(outbox.reads, 6)
  outbox.append(...Array.from({ length: 10_001 }, (_each, index) => record(day + index, { requests: 1 }, { model: `m${index}x` })))
  await t.rejects(reportUsage(historyOf(outbox), { ...all, by: ['model'] }), { name: 'Problem', status: 422 })
})
