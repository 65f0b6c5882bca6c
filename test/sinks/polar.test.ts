import t from 'tap'
import { conformance } from './conformance.ts'
import { polarDialect } from './kit/dialects/polar.ts'
import { httpSubject } from './kit/http-fake.ts'
import { attempt, failureOf, meterRecord, onTheWire, wireTimeMs } from './on-the-wire.ts'

conformance(t, httpSubject(polarDialect))

t.test('an event has an id that no other tenant has, a number, and money in cents', async (t) => {
  const { sink, calls } = await onTheWire(t, polarDialect)
  await sink.deliver([meterRecord(), meterRecord({ id: 'two', code: 'llm_cost', value: '0.012500000', valueProperty: '_cost', properties: { model: 'gpt-4o', currency: 'USD' } })], attempt())
  const common = { external_customer_id: 'cus_acme', timestamp: new Date(wireTimeMs).toISOString() }
  t.same(JSON.parse(calls[0]?.text ?? ''), {
    events: [
      { name: 'llm_output_tokens', ...common, external_id: `our-slug:${meterRecord().id}`, metadata: { model: 'gpt-4o', provider: 'openai', value: 1_250 } },
      { name: 'llm_cost', ...common, external_id: 'our-slug:two', metadata: { model: 'gpt-4o', _cost: { amount: '1.25', currency: 'usd' } } },
    ],
  })
})

t.test('metadata stays within Polar\'s bounds, and the value is always among it', async (t) => {
  const { sink, fake } = await onTheWire(t, polarDialect)
  const properties = Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`k${index}${'k'.repeat(50)}`, 'v'.repeat(600)]))
  const few = { short: 'x'.repeat(600) }
  await sink.deliver([meterRecord({ id: 'many', properties }), meterRecord({ id: 'few', properties: few })], attempt())
  t.same(['many', 'few'].map((id) => fake.books.of(id)[0]?.received.value), ['1250', '1250'])
})

t.test('what lies in Polar\'s future waits with its own time, and nothing waits with it', async (t) => {
  const { sink, fake, calls } = await onTheWire(t, polarDialect, { nowMs: () => Date.now() - 1_000 })
  const now = Date.now()
  const [ahead, past] = [meterRecord({ id: 'ahead', timeMs: now + 60_000 }), meterRecord({ id: 'past' })]
  t.same(await sink.deliver([ahead, past], attempt()), { accepted: ['past'], refused: [], later: ['ahead'], duplicates: 0 })
  t.equal(fake.books.copies('ahead'), 0)
  const skewed = meterRecord({ id: 'skewed', timeMs: now })
  t.same(await sink.deliver([skewed, meterRecord({ id: 'other' })], attempt()), { accepted: [], refused: [], later: ['skewed', 'other'] }, 'its clock is behind ours')
  t.ok(calls.at(-1)?.text.includes(new Date(now).toISOString()), 'the time is not touched')
})

t.test('a refusal names the bad events, and the others are sent again', async (t) => {
  const { sink, fake } = await onTheWire(t, polarDialect)
  fake.judge = ({ id }) => (id === 'bad' ? 'metadata' : null)
  const records = ['a', 'bad', 'b'].map((id) => meterRecord({ id }))
  t.same(await sink.deliver(records, attempt()), { accepted: [], refused: [{ id: 'bad', reason: 'status 422 metadata' }], later: ['a', 'b'] })
  t.equal(fake.books.size, 0)
})

t.test('a count that is not ours leaves the outcome open', async (t) => {
  const { sink } = await onTheWire(t, { ...polarDialect, answer: () => ({ status: 200, body: '{"inserted":1,"duplicates":0}' }) })
  t.equal((await failureOf(sink.deliver([meterRecord(), meterRecord({ id: 'two' })], attempt()))).kind, 'unknown')
})

t.test('what is more than an hour ahead is of a clock that was wrong: refused, and nothing waits with it', async (t) => {
  const { sink } = await onTheWire(t, polarDialect)
  const far = meterRecord({ id: 'far', timeMs: Date.now() + 3_700_000 })
  t.match(await sink.deliver([far, meterRecord({ id: 'past' })], attempt()), { accepted: ['past'], refused: [{ id: 'far', reason: /further ahead/ }], later: [] })
})
