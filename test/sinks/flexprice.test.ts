import t from 'tap'
import { conformance } from './conformance.ts'
import { flexpriceDialect } from './kit/dialects/flexprice.ts'
import { httpSubject } from './kit/http-fake.ts'
import { attempt, failureOf, meterRecord, onTheWire, wireTimeMs } from './on-the-wire.ts'

conformance(t, httpSubject(flexpriceDialect))

t.test('an event carries its id and its time to the millisecond, by which copies are told', async (t) => {
  const { sink, calls } = await onTheWire(t, flexpriceDialect)
  await sink.deliver([meterRecord()], attempt())
  t.same(JSON.parse(calls[0]?.text ?? ''), {
    events: [{
      event_name: 'llm_output_tokens', external_customer_id: 'cus_acme', event_id: meterRecord().id, timestamp: new Date(wireTimeMs).toISOString(), source: 'tallygate',
      properties: { model: 'gpt-4o', provider: 'openai', value: '1250' },
    }],
  })
})

t.test('a request that is refused may have been taken in part, and what is sent again counts once', async (t) => {
  const { sink, fake } = await onTheWire(t, flexpriceDialect)
  fake.judge = ({ id }) => (id === 'bad' ? 'required' : null)
  const records = ['a', 'b', 'bad', 'c'].map((id) => meterRecord({ id }))
  t.equal((await failureOf(sink.deliver(records, attempt()))).kind, 'refused')
  t.same(['a', 'b', 'c'].map((id) => fake.books.copies(id)), [1, 1, 0])
  await sink.deliver(records.filter(({ id }) => id !== 'bad'), attempt())
  t.same(['a', 'b', 'c'].map((id) => fake.books.copies(id)), [1, 1, 1])
})

t.test('a total is only given where the value stands where it is looked for', async (t) => {
  const { sink } = await onTheWire(t, { ...flexpriceDialect, ask: (call) => ({ status: 200, body: JSON.stringify(call.path.endsWith('/query') ? { events: [{ id: 'x', timestamp: 'x', properties: { tokens: '7' } }] } : { value: 0 }) }) })
  t.equal(await sink.readBack?.total?.({ code: 'llm_output_tokens', customer: 'cus_acme', fromMs: 0, untilMs: 1 }, attempt()), null)
})
