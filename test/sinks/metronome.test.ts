import t from 'tap'
import { conformance } from './conformance.ts'
import { metronomeDialect } from './kit/dialects/metronome.ts'
import { httpSubject } from './kit/http-fake.ts'
import { attempt, meterRecord, onTheWire, wireTimeMs } from './on-the-wire.ts'

conformance(t, httpSubject(metronomeDialect))

t.test('a batch is a bare array, and every value a text', async (t) => {
  const { sink, calls } = await onTheWire(t, metronomeDialect)
  await sink.deliver([meterRecord(), meterRecord({ id: 'two', value: '-0.000000001', valueProperty: 'cost' })], attempt())
  t.equal(calls[0]?.headers['content-type'], 'application/json')
  t.same(JSON.parse(calls[0]?.text ?? ''), [
    { transaction_id: meterRecord().id, customer_id: 'cus_acme', event_type: 'llm_output_tokens', timestamp: new Date(wireTimeMs).toISOString(), properties: { model: 'gpt-4o', provider: 'openai', value: '1250' } },
    { transaction_id: 'two', customer_id: 'cus_acme', event_type: 'llm_output_tokens', timestamp: new Date(wireTimeMs).toISOString(), properties: { model: 'gpt-4o', provider: 'openai', cost: '-0.000000001' } },
  ])
})

t.test('the search tells what was accepted and is not billed, and why', async (t) => {
  const { sink, fake } = await onTheWire(t, metronomeDialect)
  fake.judge = ({ id }) => ({ one: 'customer_unknown', two: 'metric_unknown' })[id] ?? null
  await sink.deliver(['one', 'two', 'three'].map((id) => meterRecord({ id })), attempt())
  fake.books.plantDouble('three')
  const found = await sink.readBack?.find?.(['one', 'two', 'three', 'four'], { code: 'llm_output_tokens', customer: 'cus_acme', fromMs: 0, untilMs: wireTimeMs + 1 }, attempt())
  t.same([...found ?? []].map(([id, { copies, refused }]) => [id, copies, refused]), [['one', 1, 'no_customer'], ['two', 1, 'no_billable_metric'], ['three', 2, null]])
})
