import t from 'tap'
import { kafka } from '../../src/sinks/kafka.ts'
import { DeliveryFailed } from '../../src/sinks/sink.ts'
import { conformance, opened } from './conformance.ts'
import { errorCode, FakeKafka, kafkaSubject } from './kit/fake-kafka.ts'
import { sampleEvents } from './kit/samples.ts'
import { surroundings } from './open.ts'

conformance(t, kafkaSubject)

async function failed(delivery: Promise<unknown>): Promise<DeliveryFailed> {
  const error: unknown = await delivery.then(() => null, (reason: unknown) => reason)
  if (error instanceof DeliveryFailed) return error
  throw new Error('it should have failed', { cause: error })
}

const attempt = (): AbortSignal => AbortSignal.timeout(15_000)

t.test('an event is a CloudEvent on the wire, under its account and at the time of its admission', async (t) => {
  for (const mode of ['structured', 'binary'] as const) {
    const fake = await FakeKafka.start()
    const sink = await kafka.open('k', { ...fake.settings(), mode }, surroundings)
    t.teardown(async () => {
      await sink.close()
      await fake.stop()
    })
    const [record] = sampleEvents(1, Date.now())
    if (record === undefined) return t.fail('no event')
    await sink.deliver([record], attempt())
    const { event } = record
    const { data, ...attributes } = event
    t.match(fake.log, [{
      key: event.subject, timestampMs: record.timeMs,
      ...(mode === 'structured'
        ? { value: JSON.stringify(event), headers: { 'content-type': 'application/cloudevents+json' } }
        : {
            value: JSON.stringify(data),
            headers: { 'content-type': 'application/json', ce_specversion: '1.0', ce_type: attributes.type, ce_source: attributes.source, ce_id: event.id, ce_subject: event.subject, ce_time: event.time },
          }),
    }], mode)
  }
})

t.test('the events of one account stand in one partition and keep their order, compressed or not', async (t) => {
  for (const compression of ['none', 'gzip', 'zstd'] as const) {
    const fake = await FakeKafka.start()
    const sink = await kafka.open('k', { ...fake.settings(), compression }, surroundings)
    t.teardown(async () => {
      await sink.close()
      await fake.stop()
    })
    const records = sampleEvents(90, Date.now())
    for (let at = 0; at < records.length; at += 30) await sink.deliver(records.slice(at, at + 30), attempt())
    for (const account of new Set(records.map(({ event }) => event.subject))) {
      const stands = fake.log.filter(({ key }) => key === account)
      t.equal(new Set(stands.map(({ partition }) => partition)).size, 1, `${compression}: one partition of ${account}`)
      t.same(stands.map(({ value }) => (JSON.parse(value) as { id: string }).id), records.filter(({ event }) => event.subject === account).map(({ id }) => id))
    }
    t.same(fake.problems, [])
  }
})

t.test('what the client sends again by itself is written once: the broker knows the batch by its number', async (t) => {
  const fake = await FakeKafka.start()
  t.teardown(() => fake.stop())
  const sink = await opened(t, kafkaSubject, fake)
  const records = sampleEvents(30, Date.now())
  await sink.deliver(records.slice(0, 10), attempt())
  for (const code of [errorCode.notLeader, errorCode.notEnoughReplicas]) {
    fake.answers.push(code)
    await sink.deliver(records.slice(10, 20), attempt())
  }
  t.equal(fake.log.length, 30, 'one for each attempt of the loop, which sent ten of them twice')
  t.equal(fake.books.size, 20, 'whoever reads counts ids')
  t.same(fake.problems, [])
})

t.test('what brokers answer is told as what it means', async (t) => {
  const cases: readonly (readonly [code: number, kind: DeliveryFailed['kind']])[] = [
    [errorCode.topicUnauthorized, 'unauthorized'], [errorCode.messageTooLarge, 'too_large'], [errorCode.invalidRecord, 'refused'], [errorCode.notEnoughReplicas, 'busy'], [errorCode.timedOut, 'unknown'],
  ]
  for (const [code, kind] of cases) {
    const fake = await FakeKafka.start()
    t.teardown(() => fake.stop())
    const sink = await opened(t, kafkaSubject, fake)
    fake.answers.push(code, code, code)
    t.equal((await failed(sink.deliver(sampleEvents(2, Date.now()), attempt()))).kind, kind, `code ${code}`)
    fake.answers.length = 0
    t.equal((await sink.deliver(sampleEvents(2, Date.now()), attempt())).accepted.length, 2, 'and then it goes on')
  }
})

t.test('a topic that does not exist and a broker that is not there are waited for', async (t) => {
  const fake = await FakeKafka.start()
  const sink = await kafka.open('k', { ...fake.settings(), topic: 'other' }, surroundings)
  t.teardown(() => sink.close())
  t.equal((await failed(sink.deliver(sampleEvents(1, Date.now()), attempt()))).kind, 'busy')
  await fake.stop()
  const alone = await kafka.open('k', fake.settings(), surroundings)
  t.teardown(() => alone.close())
  t.match(await failed(alone.deliver(sampleEvents(1, Date.now()), attempt())), { kind: 'busy', message: /^nobody listens at \S+ \(ECONNREFUSED\)$/ })
})

// With KAFKA_BROKERS=host:port the same is asked of a real one, where topics may be made and nobody has to log in.
const brokers = process.env['KAFKA_BROKERS']?.split(',')
if (brokers !== undefined) {
  t.test('a real Kafka has every event once, under its account and at its time, however often it was sent', async (t) => {
    const { Admin, Consumer, stringDeserializers } = await import('@platformatic/kafka')
    const topic = `tallygate-test-${process.pid}-${Date.now()}`
    const admin = new Admin({ clientId: 'test', bootstrapBrokers: brokers })
    await admin.createTopics({ topics: [topic], partitions: 3, replicas: 1 })
    t.teardown(async () => {
      await admin.deleteTopics({ topics: [topic] })
      await admin.close()
    })
    const records = sampleEvents(2_000, Date.now())
    for (const [index, compression] of (['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const).entries()) {
      const sink = await kafka.open('k', { ...(await plainSettings()), brokers, topic, compression, mode: index % 2 === 0 ? 'structured' : 'binary' }, surroundings)
      const part = records.slice(400 * index, 400 * (index + 1))
      t.equal((await sink.deliver(part, attempt())).accepted.length, part.length, compression)
      await sink.close()
    }
    const again = await kafka.open('k', { ...(await plainSettings()), brokers, topic }, surroundings)
    await again.deliver(records.slice(0, 100), attempt())
    await again.close()
    const consumer = new Consumer({ clientId: 'test', groupId: topic, bootstrapBrokers: brokers, deserializers: stringDeserializers })
    const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: false })
    const seen = new Map<string, { key: string | undefined; timestampMs: number }>()
    let messages = 0
    for await (const message of stream) {
      const id = message.headers.get('ce_id') ?? (JSON.parse(message.value ?? '{}') as { id: string }).id
      seen.set(id, { key: message.key, timestampMs: Number(message.timestamp) })
      messages += 1
      if (messages === 2_100) break
    }
    await consumer.close(true)
    t.equal(messages, 2_100, 'what was sent twice stands there twice')
    t.same(seen, new Map(records.map((record) => [record.id, { key: record.event.subject, timestampMs: record.timeMs }])), 'and counts once')
  })

  t.test('with a real Kafka, too, events wait for a topic that does not exist', async (t) => {
    const sink = await kafka.open('k', { ...(await plainSettings()), brokers, topic: `tallygate-none-${Date.now()}` }, surroundings)
    t.teardown(() => sink.close())
    t.equal((await failed(sink.deliver(sampleEvents(1, Date.now()), attempt()))).kind, 'busy')
  })
}

async function plainSettings(): Promise<Readonly<Record<string, unknown>>> {
  const fake = await FakeKafka.start()
  await fake.stop()
  return { ...fake.settings(), sasl: 'none', username: null, password: null }
}
