import t from 'tap'
import { systemClock, withTime } from '../../src/clock.ts'
import { systemRandom } from '../../src/random.ts'
import { conformance, opened } from './conformance.ts'
import { stripeV1, stripeV1WithoutCodes, stripeV2, stripeStream } from './kit/dialects/stripe.ts'
import { httpSubject } from './kit/http-fake.ts'
import { sampleRecords } from './kit/samples.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(stripeV1))
conformance(t, httpSubject(stripeV1WithoutCodes))
conformance(t, httpSubject(stripeV2))
conformance(t, httpSubject(stripeStream))

wireTable(t, 'stripe', stripeV1.kind, (url) => stripeV1.settings(url, true))

t.test('stripe stream: one session serves everything that is under way', async (t) => {
  const subject = httpSubject(stripeStream)
  const fake = await subject.start()
  t.teardown(() => fake.stop())
  const sink = await opened(t, subject, fake)
  const records = sampleRecords(subject.kind, 3, Date.now())
  await Promise.all(records.map((record) => sink.deliver([record], AbortSignal.timeout(5_000))))
  t.equal(fake.requests, 4, 'three deliveries and a session')
})

t.test('stripe stream: a session is renewed before it ends', async (t) => {
  const subject = httpSubject(stripeStream)
  let nowMs = Date.now()
  const fake = await subject.start({ nowMs: () => nowMs })
  t.teardown(() => fake.stop())
  const sink = await subject.kind.open('stripe', fake.settings(), { clock: withTime(systemClock, () => nowMs), random: systemRandom, stdout: process.stdout, instance: 'gw-1' })
  t.teardown(() => sink.close())
  const [first, second, third] = sampleRecords(subject.kind, 3, nowMs)
  if (first === undefined || second === undefined || third === undefined) return t.fail('no records')
  await sink.deliver([first], AbortSignal.timeout(5_000))
  nowMs += 13 * 60_000
  await sink.deliver([second], AbortSignal.timeout(5_000))
  t.equal(fake.requests, 3, 'it still lasts')
  nowMs += 90_000
  await sink.deliver([third], AbortSignal.timeout(5_000))
  t.equal(fake.requests, 5, 'a new one')
})
