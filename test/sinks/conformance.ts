// What every sink owes its receiver and the books, whatever the receiver's words: the same suite runs over every kind.

import type { Test } from 'tap'
import { systemClock, withTime } from '../../src/clock.ts'
import { systemRandom } from '../../src/random.ts'
import { DeliveryFailed, type DeliveryReport, type Sink, type SinkRecord } from '../../src/sinks/sink.ts'
import { canary } from './kit/dialect.ts'
import type { Fake, FakeOptions, Subject } from './kit/fake.ts'
import { equally, type Fault } from './kit/faults.ts'
import { sampleRecords } from './kit/samples.ts'
import { sum } from './kit/books.ts'
import { ship } from './kit/ship.ts'

/** Longer than any test takes, when nothing is wrong. */
const attemptMs = 10_000
const slowMs = 60_000
const impatientMs = 150
const stormRecords = 300
/** Where each is a request of its own. */
const stormSingles = 100

/** One fake and one sink that is pointed at it; both end with the test. */
async function pair(t: Test, subject: Subject, options: FakeOptions & { readonly right?: boolean } = {}): Promise<{ fake: Fake; sink: Sink }> {
  const fake = await subject.start(options)
  t.teardown(() => fake.stop())
  return { fake, sink: await opened(t, subject, fake, options.right ?? true, options.nowMs) }
}

export async function opened(t: Test, subject: Subject, fake: Fake, right = true, nowMs?: () => number): Promise<Sink> {
  const sink = await subject.kind.open(subject.kind.type, fake.settings(right), { clock: nowMs === undefined ? systemClock : withTime(systemClock, nowMs), random: systemRandom, stdout: process.stdout, instance: 'gw-1' })
  t.teardown(() => sink.close())
  return sink
}

const deliver = (sink: Sink, batch: readonly SinkRecord[]): Promise<DeliveryReport> => sink.deliver(batch, AbortSignal.timeout(attemptMs))
const ids = (records: readonly SinkRecord[]): string[] => records.map(({ id }) => id)

/** The failure, which has to be of one of these kinds, and to repeat neither the receiver's words nor a credential. */
async function failure(t: Test, promise: Promise<unknown>, kinds: readonly DeliveryFailed['kind'][], about: string, secrets: readonly string[] = []): Promise<DeliveryFailed | null> {
  const error: unknown = await promise.then(() => null, (reason: unknown) => reason)
  if (!(error instanceof DeliveryFailed)) {
    t.fail(`${about}: should have failed`, { found: error })
    return null
  }
  t.ok(kinds.includes(error.kind), `${about}: ${error.kind} (${error.message}) is one of ${kinds.join(', ')}`)
  t.notMatch(error.message, canary, 'no words of the receiver')
  for (const secret of secrets) t.notOk(error.message.includes(secret), 'no credential')
  return error
}

const secretsOf = (settings: Readonly<Record<string, unknown>>): string[] =>
  Object.entries(settings).filter(([name]) => /key|token|secret|password/.test(name)).flatMap(([, value]) => typeof value === 'string' && value !== '' ? [value] : [])

export function conformance(t: Test, subject: Subject): void {
  const { kind, contract } = subject
  const can = (fault: Fault): boolean => subject.faults.includes(fault)
  const batchOf = (count: number, seed = 1): SinkRecord[] => sampleRecords(kind, Math.min(count, contract.batchMax), Date.now(), seed)

  const once = (t: Test, fake: Fake, records: readonly SinkRecord[]): void => {
    t.same(ids(records).filter((id) => fake.books.copies(id) !== 1), [], `each of ${records.length} records counts once`)
    t.equal(fake.books.size, records.length, 'and nothing else does')
    t.same(fake.books.changed, [], 'no copy differed from the first')
  }

  t.test(`${subject.name}: what is delivered is booked once, with its own time, customer and value`, async (t) => {
    const { fake, sink } = await pair(t, subject)
    const records = batchOf(20)
    t.same([...(await deliver(sink, records)).accepted].sort(), ids(records).sort())
    once(t, fake, records)
    for (const record of records) {
      const booked = fake.books.of(record.id)[0]?.received
      const precision = contract.timePrecision === 'second' ? 1_000 : 1
      t.equal(booked?.timeMs, Math.floor(record.timeMs / precision) * precision, 'the time')
      if (record.is === 'meter') t.same([booked?.customer, booked?.code, booked?.value], [record.customer, record.code, record.value], 'customer, meter and value')
    }
  })

  if (subject.locked) {
    t.test(`${subject.name}: a wrong credential is told as such, and nothing is given up`, async (t) => {
      const { fake, sink } = await pair(t, subject, { right: false })
      await failure(t, deliver(sink, batchOf(3)), ['unauthorized'], 'a wrong credential', secretsOf(fake.settings(false)))
      t.equal(fake.books.size, 0)
    })
  }

  t.test(`${subject.name}: a full batch is taken, and one that is too large is told as such`, async (t) => {
    const { fake, sink } = await pair(t, subject)
    const full = batchOf(contract.batchMax)
    t.equal((await deliver(sink, full)).accepted.length, full.length)
    once(t, fake, full)
    if (!can('busy') || kind.type === 'file' || contract.batchMax === 1) return
    const more = sampleRecords(kind, contract.batchMax + 1, Date.now(), 2)
    await failure(t, deliver(sink, more), ['too_large', 'refused'], 'one record too many')
    const { accepted } = await ship(sink, more, { batchMax: contract.batchMax })
    t.equal(accepted.size, more.length)
  })

  if (contract.dedupWindowMs !== 0) {
    t.test(`${subject.name}: a duplicate is a delivery`, async (t) => {
      const { fake, sink } = await pair(t, subject)
      const records = batchOf(20)
      const [first] = records
      if (first === undefined) return t.fail('no records')
      await deliver(sink, records.slice(0, 7))
      const again = await ship(sink, records, { batchMax: contract.batchMax })
      t.same([...again.accepted].sort(), ids(records).sort(), 'a batch of known and new ones')
      t.same([...(await deliver(sink, [first])).accepted], [first.id], 'a known one alone')
      t.same((await deliver(sink, records)).refused, [], 'all of them known')
      once(t, fake, records)
    })
  }

  t.test(`${subject.name}: a bad record takes no good one with it`, async (t) => {
    const { fake, sink } = await pair(t, subject)
    const records = sampleRecords(kind, 30, Date.now())
    const bad = new Set(ids(records).filter((_, index) => index % 10 === 3))
    fake.judge = ({ id }) => bad.has(id) ? 'customer_unknown' : null
    const { accepted, refused } = await ship(sink, records, contract)
    const good = ids(records).filter((id) => !bad.has(id))
    t.same(good.filter((id) => !accepted.has(id) || fake.books.copies(id) !== 1), [], 'the good ones are booked once')
    if (contract.failureUnit === 'async') t.same([...bad].filter((id) => fake.books.rejected(id) === null), [], 'the bad ones were accepted, and refused later')
    else {
      t.same([...refused.keys()].sort(), [...bad].sort(), 'the bad ones are refused')
      for (const reason of refused.values()) {
        t.ok(reason.length > 0 && reason.length <= 300, `with a reason: ${reason}`)
        t.notMatch(reason, canary)
      }
    }
  })

  if (contract.oldestMs !== null || contract.newestMs !== null) {
    t.test(`${subject.name}: what is older or newer than it takes is not booked`, async (t) => {
      const { oldestMs, newestMs } = contract
      for (const nowMs of [...(oldestMs === null ? [] : [Date.now() + oldestMs + 60_000]), ...(newestMs === null ? [] : [Date.now() - newestMs - 60_000])]) {
        const { fake, sink } = await pair(t, subject, { nowMs: () => nowMs })
        const records = batchOf(2)
        const { refused } = await ship(sink, records, contract)
        if (contract.failureUnit !== 'async') t.equal(refused.size, records.length)
        t.same(ids(records).filter((id) => fake.books.copies(id) !== 0), [])
      }
    })
  }

  if (contract.serialBy !== 'none') {
    t.test(`${subject.name}: two requests about the same at the same time are tried again`, async (t) => {
      const { fake, sink } = await pair(t, subject)
      const [first, second] = sampleRecords(kind, 2, Date.now())
      if (first?.is !== 'meter' || second?.is !== 'meter') return t.fail('no records')
      const two = [first, { ...second, code: first.code, customer: first.customer, properties: first.properties }]
      const results = await Promise.allSettled(two.map((record) => deliver(sink, [record])))
      const failed = results.flatMap((result) => result.status === 'rejected' ? [result.reason as unknown] : [])
      t.equal(failed.length, 1)
      t.match(failed[0], { kind: 'busy' })
      await ship(sink, two, contract)
      once(t, fake, two)
    })
  }

  if (can('busy')) {
    t.test(`${subject.name}: whoever is asked to wait waits as long as he was told`, async (t) => {
      const { fake, sink } = await pair(t, subject)
      const records = batchOf(5)
      fake.retryAfterSeconds = 30
      fake.next('busy')
      const failed = await failure(t, deliver(sink, records), ['busy'], 'too many requests')
      t.equal(failed?.retryAfterMs, 30_000)
      t.equal(fake.books.size, 0)
      await ship(sink, records, contract)
      once(t, fake, records)
    })
  }

  /** What may have been booked is sent again and counts once; where copies cannot be told, the loop keeps it for `reconcile`. */
  const ambiguous = (fault: Fault, about: string, kinds: readonly DeliveryFailed['kind'][]): void => {
    if (!can(fault)) return
    t.test(`${subject.name}: ${about} leaves the outcome open, and nothing counts twice or is lost`, async (t) => {
      const { fake, sink } = await pair(t, subject)
      fake.slowMs = slowMs
      const records = batchOf(6)
      fake.next(fault)
      await failure(t, sink.deliver(records, AbortSignal.timeout(fault === 'slow' ? impatientMs : attemptMs)), kinds, about)
      if (contract.dedupWindowMs === 0) return
      await ship(sink, records, contract)
      once(t, fake, records)
    })
  }
  ambiguous('broken_before', 'a 500 before anything was booked', ['unknown'])
  ambiguous('broken_after', 'a 500 after everything was booked', ['unknown'])
  ambiguous('reset_before', 'a connection reset after the body was read, before it was booked', ['unknown'])
  ambiguous('reset_after', 'a connection reset after everything was booked', ['unknown'])
  ambiguous('cut', 'a connection reset before the body was read', ['unknown', 'busy'])
  if (contract.batchMax > 1) ambiguous('half', 'a 500 in the middle', ['unknown'])
  ambiguous('slow', 'an answer that does not come', ['unknown'])
  ambiguous('empty', 'a 200 without a body', ['unknown'])
  ambiguous('html', 'a 200 with the page of a proxy', ['unknown'])

  if (contract.dedupWindowMs !== 0 && subject.faults.length > 0) {
    t.test(`${subject.name}: a storm of faults changes the books once for each record`, async (t) => {
      for (const seed of [1, 2]) {
        const { fake, sink } = await pair(t, subject)
        const records = sampleRecords(kind, contract.batchMax === 1 ? stormSingles : stormRecords, Date.now(), seed)
        fake.faults(seed, equally(0.2, subject.faults))
        const { accepted } = await ship(sink, records, { batchMax: Math.min(contract.batchMax, 10), attemptMs: 2_000 })
        t.equal(accepted.size, records.length, `seed ${seed}`)
        once(t, fake, records)
      }
    })
  }

  t.test(`${subject.name}: what the receiver has booked can be read back, as far as it tells`, async (t) => {
    const { fake, sink } = await pair(t, subject)
    const { readBack } = sink
    t.equal(readBack !== undefined, contract.readsBack, 'as its contract says')
    if (readBack === undefined) return t.pass('it tells nothing')
    // On whole hours, as receivers that add up by windows want it.
    const untilMs = Math.floor(Date.now() / 3_600_000) * 3_600_000
    const fromMs = untilMs - 3_600_000
    const records = sampleRecords(kind, 12, untilMs).filter((record) => record.is === 'meter')
    await ship(sink, records, contract)
    const [first, second] = records
    if (first === undefined || second === undefined) return t.fail('no records')
    const asked = (record: typeof first): { code: string; customer: string; fromMs: number; untilMs: number } => ({ code: record.code, customer: record.customer, fromMs, untilMs })
    const alike = records.filter(({ code, customer }) => code === first.code && customer === first.customer)
    const signal = AbortSignal.timeout(attemptMs)
    await ship(sink, [{ ...first, id: `${first.id}:edge`, timeMs: untilMs }], contract)
    if (readBack.total !== undefined) {
      t.equal(await readBack.total(asked(first), signal), sum(alike.map(({ value }) => value)), 'the total of a customer and meter')
      t.equal(await readBack.total({ ...asked(first), fromMs: fromMs - 3_600_000, untilMs: fromMs }, signal), '0', 'nothing before')
      t.equal(await readBack.total({ ...asked(first), customer: 'cus_nobody' }, signal), '0', 'nothing of others')
    }
    if (readBack.find === undefined) return
    t.match([...await readBack.find([first.id, 'never-sent'], asked(first), signal)], [[first.id, { copies: 1, refused: null }]], 'which ids it knows')
    t.equal((await readBack.find([first.id.slice(0, -1)], asked(first), signal)).size, 0, 'a part of an id is another')
    fake.books.plantLoss(first.id)
    t.equal((await readBack.find([first.id], asked(first), signal)).size, 0, 'one that was lost')
  })
}
