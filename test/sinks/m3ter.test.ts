import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { m3ter } from '../../src/sinks/m3ter.ts'
import { conformance } from './conformance.ts'
import { m3terAccounts, m3terDialect, m3terTokens } from './kit/dialects/m3ter.ts'
import { httpSubject } from './kit/http-fake.ts'
import { surroundings } from './open.ts'
import { attempt, failureOf, meterRecord, onTheWire, wireTimeMs } from './on-the-wire.ts'

conformance(t, httpSubject(m3terDialect))

t.test('a measurement has its uid, its account and a number of its meter', async (t) => {
  const { sink, calls } = await onTheWire(t, m3terDialect)
  await sink.deliver([meterRecord()], attempt())
  t.equal(calls[0]?.path, '/organizations/org-1/measurements')
  t.same(JSON.parse(calls[0]?.text ?? ''), {
    measurements: [{ uid: meterRecord().id, meter: 'llm_output_tokens', account: 'cus_acme', ts: new Date(wireTimeMs).toISOString(), measure: { value: 1_250 }, what: { model: 'gpt-4o', provider: 'openai' } }],
  })
})

t.test('one token serves until it nears its end, and requests that run together ask for one', async (t) => {
  const { fake } = await onTheWire(t, m3terDialect)
  let aheadMs = 0
  const sink = await m3ter.open('m', fake.settings(), { ...surroundings, clock: { ...systemClock, nowMs: () => Date.now(), monotonicMs: () => performance.now() + aheadMs, after: systemClock.after.bind(systemClock) } })
  t.teardown(() => sink.close())
  const before = m3terTokens.given
  await Promise.all(['a', 'b', 'c', 'd'].map((id) => sink.deliver([meterRecord({ id })], attempt())))
  t.equal(m3terTokens.given, before + 1)
  aheadMs = 0.85 * 18_000_000
  await sink.deliver([meterRecord({ id: 'e' })], attempt())
  t.equal(m3terTokens.given, before + 1)
  aheadMs = 0.95 * 18_000_000
  await sink.deliver([meterRecord({ id: 'f' })], attempt())
  t.equal(m3terTokens.given, before + 2)
})

t.test('a token that was taken back is replaced within the same attempt', async (t) => {
  const { sink, fake } = await onTheWire(t, m3terDialect)
  await sink.deliver([meterRecord({ id: 'a' })], attempt())
  m3terTokens.valid.clear()
  t.equal((await sink.deliver([meterRecord({ id: 'b' })], attempt())).accepted.length, 1)
  t.same(['a', 'b'].map((id) => fake.books.copies(id)), [1, 1])
})

t.test('an account that m3ter does not have is not made by accident', async (t) => {
  const { sink, fake, calls } = await onTheWire(t, m3terDialect)
  m3terAccounts.known = new Set(['cus_acme'])
  t.teardown(() => { m3terAccounts.known = null })
  const records = [meterRecord({ id: 'known' }), meterRecord({ id: 'typo', customer: 'cus_amce' })]
  t.same(await sink.deliver(records, attempt()), { accepted: ['known'], refused: [{ id: 'typo', reason: 'unknown_account' }] })
  t.same(await sink.deliver([meterRecord({ id: 'typo', customer: 'cus_amce' })], attempt()), { accepted: [], refused: [{ id: 'typo', reason: 'unknown_account' }] })
  t.equal(calls.length, 1, 'nothing is sent when nothing is left')
  const making = await m3ter.open('m', { ...fake.settings(), unknown_accounts: 'create' }, surroundings)
  t.teardown(() => making.close())
  t.equal((await making.deliver(records, attempt())).accepted.length, 2)
})

t.test('a body that is too large is not sent: it would be answered like a wrong key', async (t) => {
  const { sink, calls } = await onTheWire(t, m3terDialect)
  const records = Array.from({ length: 1_000 }, (_, index) => meterRecord({ id: `id-${index}`, properties: { model: 'm'.repeat(480) } }))
  t.equal((await failureOf(sink.deliver(records, attempt()))).kind, 'too_large')
  t.equal(calls.length, 0)
  t.equal((await sink.deliver(records.slice(0, 500), attempt())).accepted.length, 500)
})
