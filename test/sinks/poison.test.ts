// One record that its receiver never takes, by an answer that says nothing: it is found, it keeps nobody waiting, and it is not tried for ever. A receiver that is down is something else.

import t from 'tap'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { DeliveryFailed, type SinkContract } from '../../src/sinks/sink.ts'
import { openLab, type Behaviour } from './lab.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs
const poisoned = (poison: readonly (string | undefined)[], failure: () => Error): Behaviour => (batch, receiver) => {
  if (batch.some(({ id }) => poison.includes(id))) throw failure()
  return receiver.take(batch)
}
const status500 = (): Error => new DeliveryFailed('unknown', 'status 500')

for (const contract of [{ inFlightMax: 1 }, { inFlightMax: 4 }, { inFlightMax: 4, dedupWindowMs: dayMs }] satisfies Partial<SinkContract>[]) {
  t.test(`three events that are answered with 500 for ever: all others are delivered within minutes, these are held after a day; ${JSON.stringify(contract)}`, async (t) => {
    const lab = await openLab(t)
    const { delivery, receiver } = lab.sink('s', { contract: { batchMax: 100, ...contract } })
    const ids = await lab.add(2_500)
    const poison = [ids[0], ids[150], ids[2_400]]
    receiver.behaviour = poisoned(poison, status500)
    delivery.start()
    await lab.clock.run(300_000)
    t.equal(receiver.booked.size, 2_497)
    const requests = receiver.batches.length
    t.ok(requests < 250, `${requests} requests: parted, not one by one`)
    t.equal(delivery.status.state, 'running')
    const later = await lab.add(5)
    await lab.clock.run(60_000)
    t.equal(receiver.booked.size, 2_502, 'nor is anybody kept waiting who comes later')
    lab.clock.skip(dayMs)
    t.ok(await lab.drained('s', hourMs))
    t.strictSame((await quarantined(lab.store.records, 's')).map(({ of, why }) => [of, why]).sort(), poison.map((id) => [id, 'ambiguous']).sort())
    t.strictSame([receiver.doubled, await lab.store.outbox.deadCount('s')], [[], 0])
    t.ok(later.every((id) => receiver.booked.has(id)))
  })
}

t.test('a receiver that is down for two days has one or two requests at a time, and nothing is held; when it is back, batches are whole', async (t) => {
  for (const inFlightMax of [1, 4]) {
    const lab = await openLab(t)
    const { delivery, receiver } = lab.sink('s', { contract: { batchMax: 100, inFlightMax } })
    const ids = await lab.add(1_000)
    receiver.behaviour = () => { throw status500() }
    delivery.start()
    await lab.clock.run(2 * hourMs)
    t.ok(receiver.batches.length < 500 * (inFlightMax === 1 ? 2 : inFlightMax), `${receiver.batches.length} requests in two hours`)
    lab.clock.skip(46 * hourMs)
    receiver.behaviour = (batch, to) => to.take(batch)
    const before = receiver.batches.length
    t.ok(await lab.drained('s'))
    t.ok(receiver.batches.length - before < 20, `${receiver.batches.length - before} requests for what had waited`)
    t.strictSame([receiver.booked.size, receiver.doubled], [ids.length, []])
    t.strictSame(await quarantined(lab.store.records, 's'), [])
  }
})

t.test('one that is put off for ever keeps nobody waiting, and is dead after a day: it is known not to have been booked', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('s', { contract: { batchMax: 100, inFlightMax: 4, dedupWindowMs: dayMs } })
  const ids = await lab.add(2_500)
  receiver.behaviour = (batch, to) => {
    const good = batch.filter(({ id }) => id !== ids[7])
    to.take(good)
    return { accepted: good.map(({ id }) => id), refused: [], later: batch.filter((record) => !good.includes(record)).map(({ id }) => id) }
  }
  delivery.start()
  await lab.clock.run(300_000)
  t.equal(receiver.booked.size, 2_499)
  lab.clock.skip(dayMs)
  t.ok(await lab.drained('s', hourMs))
  t.match(await lab.store.outbox.dead('s'), [{ record: { id: ids[7] }, reason: 'the receiver puts it off and takes others' }])
  t.strictSame([receiver.doubled, await quarantined(lab.store.records, 's')], [[], []])
})

t.test('what is in doubt at a receiver that knows no id again is not parted', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('s', { contract: { batchMax: 100, inFlightMax: 4, dedupWindowMs: 0 } })
  const ids = await lab.add(300)
  receiver.behaviour = poisoned([ids[0]], status500)
  delivery.start()
  t.ok(await lab.drained('s'))
  t.equal((await quarantined(lab.store.records, 's')).length, 100)
  const sent = receiver.batches.flatMap((batch) => batch.ids)
  t.equal(new Set(sent).size, sent.length, 'each is sent once')
})
