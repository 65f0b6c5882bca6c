// Rows S1 to S20 of what can go wrong between the outbox and a receiver, in virtual time against a receiver that keeps books.

import t from 'tap'
import { Attempts } from '../../src/sinks/attempts.ts'
import { reasonFor, rulesIn } from '../../src/sinks/deliver.ts'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { DeliveryFailed } from '../../src/sinks/sink.ts'
import { StoreUnavailable, type Store } from '../../src/stores/store.ts'
import { metricOf, openLab, Receiver, type Behaviour } from './lab.ts'
import { mappingOf } from './sample-events.ts'
import { VirtualClock } from './virtual-clock.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs
const take: Behaviour = (batch, receiver) => receiver.take(batch)
const failing = (failure: () => Error, booksFirst = false): Behaviour => (batch, receiver) => {
  if (booksFirst) receiver.take(batch)
  throw failure()
}
const tokens = mappingOf([{ code: 'in', quantity: 'input_tokens' }, { code: 'out', quantity: 'output_tokens' }])

t.test('S1: 500 for an hour: nothing is lost or doubled, the tries become rarer, and another sink notices nothing', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('sick')
  const healthy = lab.sink('healthy')
  receiver.behaviour = failing(() => new DeliveryFailed('unknown', 'status 500'))
  delivery.start()
  healthy.delivery.start()
  const ids = await lab.add(25)
  await lab.clock.run(hourMs)
  t.strictSame([...healthy.receiver.booked.keys()], ids, 'the other has everything')
  const tries = receiver.batches.map(({ atMs }) => atMs)
  t.ok(tries.length > 60 && tries.length < 1_000, `${tries.length} tries in an hour`)
  const pauses = tries.map((atMs, i) => atMs - (tries[i - 1] ?? atMs))
  t.ok(Math.max(...pauses) <= 62_000, 'never longer than a minute')
  t.ok(new Set(pauses.slice(-20)).size > 10, 'and never at the same moment: the pauses are chance')
  t.equal((await lab.store.outbox.lag('sick')).count, 25, 'the backlog is in the store')
  t.match(delivery.status, { state: 'waiting', reason: 'status 500' })
  receiver.behaviour = take
  t.ok(await lab.drained('sick'))
  t.strictSame([...receiver.booked.keys()], ids)
  t.strictSame([receiver.doubled, receiver.changed], [[], []])
  t.equal(delivery.status.state, 'running')
  t.ok(await metricOf(lab, 'tallygate_delivery_ambiguous_total', 'sick') > 0, 'what nobody answered is counted apart')
  t.equal(await metricOf(lab, 'tallygate_delivery_refused_total', 'sick'), 0)
})

t.test('a store that was away for an hour is not waited for longer than it was away: delivery goes on within two seconds', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('waiting')
  const ids = await lab.add(25)
  const { outbox } = lab.store
  const lease = outbox.lease.bind(outbox)
  let asked = 0
  outbox.lease = () => {
    asked += 1
    return Promise.reject(new StoreUnavailable('away'))
  }
  delivery.start()
  await lab.clock.run(hourMs)
  t.ok(asked > 1_800 && asked < 10_000, `asked ${asked} times in an hour`)
  t.equal(receiver.batches.length, 0)
  outbox.lease = lease
  const backMs = lab.clock.nowMs()
  t.ok(await lab.drained('waiting'))
  t.ok((receiver.batches[0]?.atMs ?? Infinity) - backMs <= 2_000)
  t.strictSame([...receiver.booked.keys()], ids)
})

t.test('S2: Retry-After is kept, and concerns nobody else', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('asked')
  const other = lab.sink('other')
  await lab.add(3)
  receiver.behaviour = failing(() => new DeliveryFailed('busy', 'status 429', 30_000))
  delivery.start()
  other.delivery.start()
  await lab.clock.run(1_000)
  receiver.behaviour = take
  t.ok(await lab.drained('asked'))
  const [first = 0, second = 0] = receiver.batches.map(({ atMs }) => atMs)
  t.ok(second - first >= 30_000 && second - first < 40_000, `${second - first} ms`)
  t.ok((other.receiver.batches[0]?.atMs ?? Infinity) - first < 1_000)
  t.equal(await metricOf(lab, 'tallygate_delivery_ambiguous_total', 'asked'), 0, 'what was put off is not ambiguous')
})

t.test('S3: a timeout after the receiver had booked: the same id and content again, and the books are right', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('slow')
  const ids = await lab.add(25)
  let times = 0
  receiver.behaviour = (batch, to) => {
    to.take(batch)
    times += 1
    // The answer never comes.
    return times <= 2 ? new Promise(() => undefined) : to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('slow'))
  t.strictSame([...receiver.booked.keys()], ids)
  t.strictSame([receiver.doubled, receiver.changed], [[], []])
  t.ok((receiver.batches[1]?.atMs ?? 0) - (receiver.batches[0]?.atMs ?? 0) >= 20_000, 'an attempt has its end')
})

t.test('S4: an id that the receiver knows already is delivered, and counted as a duplicate', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('knowing')
  const ids = await lab.add(4)
  receiver.behaviour = failing(() => new Error('reset'), true)
  delivery.start()
  await lab.clock.run(100)
  receiver.behaviour = take
  t.ok(await lab.drained('knowing'))
  t.strictSame([[...receiver.booked.keys()], receiver.doubled], [ids, []])
  t.equal(await metricOf(lab, 'tallygate_delivery_duplicates_total', 'knowing'), 4)
  t.equal(await lab.store.outbox.deadCount('knowing'), 0)
})

t.test('S5: of 100 records 97 are done, 2 are buried with their reasons, and 1 comes again by itself', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('partial', { contract: { batchMax: 100 } })
  const ids = await lab.add(100)
  let first = true
  receiver.behaviour = (batch, to) => {
    if (!first) return to.take(batch)
    first = false
    const good = batch.filter((_record, i) => i !== 10 && i !== 20 && i !== 30)
    to.take(good)
    return { accepted: good.map(({ id }) => id), refused: [{ id: ids[10] ?? '', reason: 'no such meter' }, { id: ids[20] ?? '', reason: 'no such customer' }], later: [ids[30] ?? ''] }
  }
  delivery.start()
  t.ok(await lab.drained('partial'))
  t.strictSame(receiver.batches.map((batch) => batch.ids.length), [100, 1])
  t.strictSame(receiver.batches[1]?.ids, [ids[30]])
  t.strictSame((await lab.store.outbox.dead('partial')).map(({ record, reason }) => [record.id, reason]), [[ids[10], 'no such meter'], [ids[20], 'no such customer']])
  t.equal(receiver.booked.size, 98)
  t.equal(await metricOf(lab, 'tallygate_delivered_total', 'partial'), 98)
  t.equal(await metricOf(lab, 'tallygate_delivery_refused_total', 'partial'), 2)
})

t.test('S6: one poison event fails the whole batch: it is found and buried with its reason, all others are delivered', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('poisoned', { contract: { batchMax: 64 } })
  const ids = await lab.add(64)
  const poison = new Set([ids[37], ids[63]])
  receiver.behaviour = (batch, to) => {
    if (batch.some(({ id }) => poison.has(id))) throw new DeliveryFailed('refused', 'status 400')
    return to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('poisoned', 10_000))
  t.equal(receiver.booked.size, 62)
  t.strictSame((await lab.store.outbox.dead('poisoned')).map(({ record, reason }) => [record.id, reason]), [[ids[37], 'status 400'], [ids[63], 'status 400']])
  t.ok(receiver.batches.length <= 2 * 2 * 7, `${receiver.batches.length} requests: bisected, not one by one`)
  t.strictSame(receiver.doubled, [])
  t.match(lab.log.text, /error event refused for good and kept among the dead .*"reason":"status 400"/)
})

t.test('S7: a key that is refused pauses the sink with one alarm; it goes on when that is mended and read again, or at a later try; nothing is dropped', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('locked')
  const ids = await lab.add(5)
  receiver.behaviour = failing(() => new DeliveryFailed('unauthorized', 'status 401'))
  delivery.start()
  await lab.clock.run(hourMs)
  t.match(delivery.status, { state: 'paused', reason: 'status 401' })
  t.equal(await metricOf(lab, 'tallygate_sink_paused', 'locked'), 1)
  t.equal(lab.log.lines.filter(({ level }) => level === 'error').length, 1, 'one alarm, not one for each try')
  const tries = receiver.batches.map(({ atMs }) => atMs)
  t.ok(tries.length < 25, `${tries.length} tries in an hour`)
  t.ok((tries.at(-1) ?? 0) - (tries.at(-2) ?? 0) <= 600_000)
  t.equal(await lab.store.outbox.deadCount('locked'), 0)
  receiver.behaviour = take
  const beforeMs = lab.clock.nowMs()
  delivery.nudge()
  t.ok(await lab.drained('locked', 1_000), 'at once')
  t.ok(lab.clock.nowMs() - beforeMs < 1_000)
  t.strictSame([...receiver.booked.keys()], ids)
  t.equal(await metricOf(lab, 'tallygate_sink_paused', 'locked'), 0)
  receiver.behaviour = failing(() => new DeliveryFailed('unauthorized', 'status 403'))
  await lab.add(1)
  await lab.clock.run(60_000)
  receiver.behaviour = take
  t.ok(await lab.drained('locked', 600_000), 'without anybody saying so')
})

t.test('S7: where everything is refused, it is not the events: the sink pauses, and only what was tried by then is buried', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('misnamed', { contract: { batchMax: 100 } })
  await lab.add(1_000)
  receiver.behaviour = failing(() => new DeliveryFailed('refused', 'status 400'))
  delivery.start()
  await lab.clock.run(20_000)
  t.match(delivery.status, { state: 'paused', reason: 'everything is refused' })
  t.ok(await lab.store.outbox.deadCount('misnamed') <= 105, 'not the whole backlog')
  receiver.behaviour = take
  delivery.nudge()
  t.ok(await lab.drained('misnamed'))
  t.equal(receiver.booked.size + await lab.store.outbox.deadCount('misnamed'), 1_000)
})

t.test('S8: what is too large is halved; a single record that is too large is buried; larger batches are tried again later', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('small', { contract: { batchMax: 100 } })
  const ids = await lab.add(300)
  receiver.behaviour = (batch, to) => {
    if (batch.length > 10 || batch.some(({ id }) => id === ids[5])) throw new DeliveryFailed('too_large', 'status 413')
    return to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('small', 60_000))
  t.equal(receiver.booked.size, 299)
  t.match(await lab.store.outbox.dead('small'), [{ reason: 'too large: status 413' }])
  const refused = receiver.batches.filter(({ ids: sent }) => sent.length > 10).length
  t.ok(refused < 12, `${refused} of ${receiver.batches.length} requests were too large: what was learned is kept`)
  receiver.behaviour = take
  for (let n = 0; n < 130; n++) {
    await lab.add(20)
    await lab.drained('small', 10_000)
  }
  t.ok(receiver.batches.slice(-3).some(({ ids: sent }) => sent.length > 10), 'and not for ever')
})

t.test('bytes: no request is larger than the receiver takes, whatever the records', async (t) => {
  const lab = await openLab(t)
  const bytesMax = 4_000
  const { delivery, receiver } = lab.sink('narrow', { contract: { batchMax: 100, bytesMax } })
  await lab.add(60)
  const sizes: number[] = []
  receiver.behaviour = (batch, to) => {
    sizes.push(Buffer.byteLength(JSON.stringify(batch.map((record) => (record.is === 'event' ? record.event : record)))))
    return to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('narrow', 10_000))
  t.ok(Math.max(...sizes) <= bytesMax && sizes.some((size) => size > bytesMax / 2), `${Math.min(...sizes)} to ${Math.max(...sizes)} bytes`)
})

t.test('S9: an answer that speaks about nothing, or about a part: the rest has an unknown outcome and comes again with the same ids', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('mute')
  const ids = await lab.add(9)
  let times = 0
  receiver.behaviour = (batch, to) => {
    const report = to.take(batch)
    times += 1
    return times === 1 ? { accepted: [], refused: [] } : times === 2 ? { accepted: report.accepted.slice(0, 4), refused: [] } : report
  }
  delivery.start()
  t.ok(await lab.drained('mute', 60_000))
  t.strictSame(receiver.batches.map((batch) => batch.ids), [ids, ids, ids.slice(4)])
  t.strictSame([[...receiver.booked.keys()], receiver.doubled, receiver.changed], [ids, [], []])
})

t.test('S11: after an outage longer than the receiver\'s memory, what may have been booked is held for an operator, and what was never sent is sent', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('forgetful', { contract: { dedupWindowMs: dayMs } })
  const ids = await lab.add(3)
  receiver.behaviour = failing(() => new Error('reset'), true)
  delivery.start()
  await lab.clock.run(1_000)
  t.equal(receiver.booked.size, 3, 'booked, but nobody said so')
  receiver.behaviour = failing(() => new DeliveryFailed('busy', 'ECONNREFUSED'))
  const later = await lab.add(4)
  await lab.clock.run(hourMs)
  lab.clock.skip(25 * hourMs)
  receiver.behaviour = take
  t.ok(await lab.drained('forgetful'))
  t.strictSame(receiver.doubled, [], 'none is booked twice')
  t.strictSame([...receiver.booked.keys()].sort(), [...ids, ...later].sort())
  const held = await quarantined(lab.store.records, 'forgetful')
  t.strictSame(held.map(({ of, why }) => [of, why]).sort(), ids.map((id) => [id, 'ambiguous']).sort())
  t.match(held[0]?.records, [{ is: 'event' }], 'kept whole')
  await delivery.measure()
  await lab.clock.run(60_000)
  t.equal(await metricOf(lab, 'tallygate_quarantined_records', 'forgetful'), 3)
  t.equal(await lab.store.outbox.deadCount('forgetful'), 0, 'they are not dead')
})

t.test('S11: within the receiver\'s memory the same is simply sent again', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('forgetful', { contract: { dedupWindowMs: dayMs } })
  const ids = await lab.add(3)
  receiver.behaviour = failing(() => new Error('reset'), true)
  delivery.start()
  await lab.clock.run(hourMs)
  lab.clock.skip(19 * hourMs)
  receiver.behaviour = take
  t.ok(await lab.drained('forgetful'))
  t.strictSame([[...receiver.booked.keys()], receiver.doubled], [ids, []])
  t.strictSame(await quarantined(lab.store.records, 'forgetful'), [])
})

t.test('S11: whoever goes on after a crash knows what may have been booked; what was known not to be is not held', async (t) => {
  for (const [fate, expected] of [['unknown', 3], ['busy', 0]] as const) {
    const lab = await openLab(t)
    const { receiver, kind } = lab.sink('forgetful', { contract: { dedupWindowMs: dayMs } })
    const ids = await lab.add(3)
    // The first gateway ends in the middle of an attempt, or after one that has come to nothing.
    const doomed = frozen(lab.store)
    const first = lab.sink('forgetful', { contract: kind.contract, receiver, holder: 'first', store: doomed.store })
    receiver.behaviour = (batch, to) => {
      if (fate === 'busy') throw new DeliveryFailed('busy', 'ECONNREFUSED')
      to.take(batch)
      doomed.freeze()
      return new Promise(() => undefined)
    }
    first.delivery.start()
    await lab.clock.run(5_000)
    doomed.freeze()
    receiver.behaviour = take
    lab.clock.skip(2 * dayMs)
    const second = lab.sink('forgetful', { contract: kind.contract, receiver, holder: 'second' })
    second.delivery.start()
    t.ok(await lab.drained('forgetful'))
    t.equal((await quarantined(lab.store.records, 'forgetful')).length, expected, fate)
    t.strictSame([[...receiver.booked.keys()], receiver.doubled], [ids, []], 'each once')
  }
})

t.test('S11: a receiver that knows no id again is never sent anything twice blindly', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('amnesiac', { contract: { dedupWindowMs: 0 } })
  const ids = await lab.add(30)
  let n = 0
  receiver.behaviour = (batch, to) => {
    n += 1
    if (n % 2 === 1) return to.take(batch)
    if (n === 2) to.take(batch)
    throw n === 4 ? new DeliveryFailed('busy', 'status 429') : new Error('reset')
  }
  delivery.start()
  t.ok(await lab.drained('amnesiac'))
  t.strictSame(receiver.doubled, [])
  const held = (await quarantined(lab.store.records, 'amnesiac')).map(({ of }) => of)
  t.strictSame([...new Set([...receiver.booked.keys(), ...held])].sort(), [...ids].sort(), 'each is booked or held')
  t.ok(held.length >= 10 && held.length <= 20, `${held.length} held`)
})

t.test('S12, S18: what is older than the receiver takes, or further ahead than its clock permits, is buried with an alarm; the rest passes', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('dated', { contract: { oldestMs: 35 * dayMs, newestMs: 300_000 } })
  const old = await lab.add(2)
  lab.clock.skip(36 * dayMs)
  const fresh = await lab.add(2)
  // The receiver of a gateway whose clock went back.
  const ahead = lab.sink('ahead', { contract: { newestMs: 300_000 } })
  delivery.start()
  t.ok(await lab.drained('dated'))
  t.strictSame([...receiver.booked.keys()], fresh)
  t.match(await lab.store.outbox.dead('dated'), old.map((id) => ({ record: { id }, reason: 'it is older than the receiver takes: 35 days' })))
  t.match(lab.log.text, /error event refused for good/)
  const future = new VirtualClock(lab.clock.nowMs() - hourMs)
  const behind = new Receiver(future, ahead.kind.contract)
  const attempts = new Attempts({ name: 'ahead', contract: ahead.kind.contract, sink: { deliver: (batch, signal) => behind.deliver(batch, signal), close: async () => undefined }, records: undefined, clock: future, metrics: lab.metrics, markedAs: 'ahead' })
  const item = attempts.item({ is: 'meter', id: 'x', timeMs: lab.clock.nowMs(), code: 'c', customer: 'a', account: 'a', value: '1', valueProperty: 'value', properties: {} }, 'c', 'x', Infinity)
  const never = new AbortController().signal
  await attempts.send([item], { stop: never, abort: never })
  t.match(item, { state: 'refused', reason: /further ahead/ })
})

t.test('S14: of two replicas one delivers; one that was frozen and comes back moves nothing, and what it still sends changes no book', async (t) => {
  const lab = await openLab(t)
  const contract = { dedupWindowMs: dayMs } as const
  const { receiver } = lab.sink('shared', { contract })
  const ids = await lab.add(25)
  const late: (() => void)[] = []
  const a = lab.sink('shared', { contract, receiver, holder: 'a' })
  const b = lab.sink('shared', { contract, receiver, holder: 'b' })
  receiver.behaviour = (batch, to) => new Promise((resolve) => { late.push(() => resolve(to.take(batch))) })
  a.delivery.start()
  await lab.clock.run(100)
  t.equal(receiver.batches.length, 1, 'a is in the middle of a batch')
  // As if a stood still for as long as its lease lasts: b takes over meanwhile.
  await lab.store.outbox.lease('shared', 'nobody', lab.clock.nowMs() + 31_000, lab.clock.nowMs() + 31_001)
  receiver.behaviour = take
  b.delivery.start()
  await lab.clock.run(40_000, () => receiver.booked.size === 25)
  for (const answer of late) answer()
  await lab.add(3)
  t.ok(await lab.drained('shared'))
  t.equal(receiver.booked.size, 28)
  t.strictSame([receiver.doubled, receiver.changed], [[], []])
  t.equal(await lab.store.outbox.deadCount('shared'), 0)
  t.same([...receiver.booked.keys()].slice(0, 25).sort(), [...ids].sort())
})

t.test('S15: a long backlog is read in pieces: no more than 1,000 events are in memory, however many wait', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('late', { contract: { batchMax: 250, inFlightMax: 4 } })
  await lab.add(20_000)
  receiver.behaviour = async (batch, to) => {
    await lab.clock.sleep(5)
    return to.take(batch)
  }
  let most = 0
  const read = lab.store.outbox.read.bind(lab.store.outbox)
  lab.store.outbox.read = async (fence, count) => {
    most = Math.max(most, count)
    return await read(fence, count)
  }
  delivery.start()
  t.ok(await lab.drained('late'))
  t.equal(receiver.booked.size, 20_000)
  t.equal(most, 1_000)
  t.ok(receiver.mostInFlight > 1 && receiver.mostInFlight <= 4, `${receiver.mostInFlight} on the way at once`)
})

t.test('S16: a receiver that is told everything twice and out of order has the right sum: no value depends on another record', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('shuffling', { takes: 'records', mapping: tokens, contract: { batchMax: 7 } })
  await lab.add(50, { usage: { input_tokens: 3, output_tokens: 5 } })
  const sums = new Map<string, number>()
  const known = new Set<string>()
  receiver.behaviour = (batch, to) => {
    for (const record of [...batch, ...batch].reverse()) {
      if (record.is !== 'meter' || known.has(record.id)) continue
      known.add(record.id)
      sums.set(record.code, (sums.get(record.code) ?? 0) + Number(record.value))
    }
    return to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('shuffling'))
  t.strictSame(Object.fromEntries(sums), { in: 150, out: 250 })
})

t.test('S19: a sink that is gone and comes back goes on at its cursor', async (t) => {
  const lab = await openLab(t)
  const before = lab.sink('coming')
  const first = await lab.add(12)
  before.delivery.start()
  t.ok(await lab.drained('coming'))
  await before.delivery.stop()
  const second = await lab.add(12)
  const after = lab.sink('coming', { receiver: before.receiver })
  after.delivery.start()
  t.ok(await lab.drained('coming'))
  t.strictSame([...before.receiver.booked.keys()], [...first, ...second])
  t.strictSame(before.receiver.batches.flatMap(({ ids }) => ids), [...first, ...second], 'no gap, no repetition')
})

t.test('S20: events that were written before a field existed are delivered; what they do not have is not told', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('old', { takes: 'records', mapping: mappingOf([{ code: 'in', quantity: 'input_tokens', copied: { tier: 'service_tier' } }, { code: 'new', quantity: 'images' }]) })
  await lab.add(1, { usage: { input_tokens: 2 } })
  delivery.start()
  t.ok(await lab.drained('old'))
  t.match([...receiver.contents.values()].map((contents) => JSON.parse([...contents][0] ?? '') as unknown), [{ code: 'in', value: '2', properties: {} }])
})

t.test('an event that becomes several records is done when all are; of a refused one only that is dead, and says so', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('split', { takes: 'records', mapping: tokens, contract: { batchMax: 3 } })
  const ids = await lab.add(4, { usage: { input_tokens: 3, output_tokens: 5 } })
  let retried = false
  receiver.behaviour = (batch, to) => {
    const refused = batch.filter(({ id }) => id === `${ids[1]}:out`)
    const later = retried ? [] : batch.filter(({ id }) => id === `${ids[2]}:in`)
    if (later.length > 0) retried = true
    const good = batch.filter((record) => !refused.includes(record) && !later.includes(record))
    to.take(good)
    return { accepted: good.map(({ id }) => id), refused: refused.map(({ id }) => ({ id, reason: 'no such meter' })), later: later.map(({ id }) => id) }
  }
  delivery.start()
  t.ok(await lab.drained('split'))
  t.equal(receiver.booked.size, 7)
  t.strictSame(receiver.doubled, [])
  const dead = await lab.store.outbox.dead('split')
  t.strictSame(dead.map(({ record, reason }) => [record.id, reason]), [[ids[1], 'of ["out"]: no such meter']])
  t.strictSame(rulesIn(dead[0]?.reason ?? ''), ['out'])
  t.equal(await metricOf(lab, 'tallygate_delivered_total', 'split'), 4)
})

t.test('why an event is dead says which of its records are, and can be read again', async (t) => {
  t.equal(reasonFor([{ rule: '', reason: 'bad' }], 1), 'bad')
  t.equal(reasonFor([{ rule: 'a', reason: 'bad' }, { rule: 'b', reason: 'bad' }], 2), 'bad')
  for (const rules of [['a'], ['a b', 'c"]: d'], ['x\\"']]) t.strictSame(rulesIn(reasonFor(rules.map((rule) => ({ rule, reason: 'bad' })), 9)) ?? rules, rules)
  t.equal(rulesIn('status 400'), null)
  t.equal(rulesIn('of [not json]: x'), null)
})

t.test('rates: no more requests a second than the receiver takes', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('paced', { contract: { batchMax: 1, ratePerSecond: 50, inFlightMax: 8 } })
  await lab.add(500)
  delivery.start()
  t.ok(await lab.drained('paced'))
  const times = receiver.batches.map(({ atMs }) => atMs)
  const most = Math.max(...times.map((fromMs, i) => times.slice(i).filter((atMs) => atMs < fromMs + 1_000).length))
  t.ok(most <= 56, `${most} in one second`)
  const seconds = ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1_000
  t.ok(seconds > 8 && seconds < 13, `500 took ${seconds} s`)
})

t.test('records of one customer and meter are never on the way at the same time, others are', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('serial', { takes: 'records', mapping: tokens, contract: { batchMax: 1, serialBy: 'customer_and_meter', inFlightMax: 16 } })
  for (let i = 0; i < 20; i++) await lab.add(3, { usage: { input_tokens: 1, output_tokens: 1 }, account: `a${i % 4}` })
  const under = new Set<string>()
  let clashes = 0
  receiver.behaviour = async (batch, to) => {
    const keys = batch.map((record) => (record.is === 'meter' ? `${record.customer} ${record.code}` : ''))
    if (keys.some((key) => under.has(key))) clashes += 1
    for (const key of keys) under.add(key)
    await lab.clock.sleep(50)
    for (const key of keys) under.delete(key)
    return to.take(batch)
  }
  delivery.start()
  t.ok(await lab.drained('serial'))
  t.equal(clashes, 0)
  t.equal(receiver.mostInFlight, 8, 'four customers, two meters')
  t.equal(receiver.booked.size, 120)
})

t.test('events of whom nobody knows at the receiver are buried or left out, as the sink says, and counted', async (t) => {
  for (const [unmapped, dead] of [['bury', 2], ['skip', 0]] as const) {
    const lab = await openLab(t)
    const { delivery, receiver } = lab.sink('named', { takes: 'records', mapping: { ...tokens, customers: { acme: 'cus_1' }, unmapped }, customerDefault: 'none' })
    await lab.add(2, { usage: { input_tokens: 1 }, body: { account: 'nobody', labels: {} } })
    await lab.add(1, { usage: { input_tokens: 1 } })
    delivery.start()
    t.ok(await lab.drained('named'))
    t.equal(receiver.booked.size, 1, unmapped)
    t.equal(await lab.store.outbox.deadCount('named'), dead)
    t.equal(await metricOf(lab, 'tallygate_delivery_unmapped_total', 'named'), 2)
  }
})

/** A store that answers nobody any more once it is frozen, as for a process that is gone. */
function frozen(store: Store): { store: Store; freeze(): void } {
  let gone = false
  const around = <T extends object>(part: T): T => new Proxy(part, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => (gone ? new Promise(() => undefined) : Reflect.apply(value, target, args) as unknown)
    },
  })
  return { store: { ...store, outbox: around(store.outbox), records: around(store.records) } as Store, freeze: () => { gone = true } }
}
