import t from 'tap'
import { amberflo } from '../../src/sinks/amberflo.ts'
import { conformance } from './conformance.ts'
import { amberfloDialect } from './kit/dialects/amberflo.ts'
import { httpSubject } from './kit/http-fake.ts'
import { surroundings } from './open.ts'
import { attempt, failureOf, meterRecord, onTheWire, wireTimeMs } from './on-the-wire.ts'

conformance(t, httpSubject(amberfloDialect))

t.test('a message has a number, a time in ms and dimensions', async (t) => {
  const { sink, calls } = await onTheWire(t, amberfloDialect)
  await sink.deliver([meterRecord()], attempt())
  t.same(JSON.parse(calls[0]?.text ?? ''), [{
    uniqueId: meterRecord().id, meterApiName: 'llm_output_tokens', customerId: 'cus_acme', meterValue: 1_250, meterTimeInMillis: wireTimeMs, dimensions: { model: 'gpt-4o', provider: 'openai' },
  }])
})

t.test('the other address is gone to when the first cannot be connected to, and never with what may have arrived', async (t) => {
  const { fake, calls } = await onTheWire(t, amberfloDialect)
  const away = await amberflo.open('a', { ...fake.settings(), url: 'http://127.0.0.1:9', failover_url: fake.url }, surroundings)
  t.teardown(() => away.close())
  t.equal((await away.deliver([meterRecord()], attempt())).accepted.length, 1)
  const there = await amberflo.open('a', { ...fake.settings(), failover_url: fake.url }, surroundings)
  t.teardown(() => there.close())
  fake.next('reset_after')
  const before = calls.length
  t.equal((await failureOf(there.deliver([meterRecord({ id: 'two' })], attempt()))).kind, 'unknown')
  t.equal(calls.length, before + 1)
})

t.test('fewer than were sent are not all of them', async (t) => {
  const { sink } = await onTheWire(t, { ...amberfloDialect, answer: () => ({ status: 200, body: '1 records were ingested' }) })
  t.equal((await failureOf(sink.deliver([meterRecord(), meterRecord({ id: 'two' })], attempt()))).kind, 'unknown')
})
