// Sums over minutes and hours: frozen before they are sent, never changed afterwards.

import t from 'tap'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { DeliveryFailed, type MeterRecord } from '../../src/sinks/sink.ts'
import { openLab, type Receiver } from './lab.ts'
import { mappingOf } from './sample-events.ts'

const sums = mappingOf([{ code: 'in', quantity: 'input_tokens' }], { rollup: 'minute' })
const told = (receiver: Receiver): MeterRecord[] => [...receiver.contents.values()].map((contents) => JSON.parse([...contents][0] ?? '') as MeterRecord)
const total = (receiver: Receiver): number => told(receiver).reduce((sum, { value }) => sum + Number(value), 0)

t.test('one record for each customer and minute, once the minute is over; who comes late lands in a record of its own', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('sums', { takes: 'records', mapping: sums })
  delivery.start()
  await lab.add(10, { usage: { input_tokens: 3 } })
  await lab.clock.run(30_000)
  await lab.add(10, { usage: { input_tokens: 3 }, account: 'globex' })
  t.equal(await delivery.flush(lab.clock.nowMs() + 5_000), true, 'nothing is to be delivered before the end of the minute')
  await lab.clock.run(29_000)
  t.equal(receiver.batches.length, 0)
  await lab.clock.run(10_000)
  t.strictSame(told(receiver).map(({ customer, value }) => [customer, value]), [['acme', '30'], ['globex', '30']])
  t.equal((await lab.store.outbox.lag('sums')).count, 0)
  // Admitted in the first minute, settled in the third.
  await lab.clock.run(60_000)
  const before = told(receiver).length
  await lab.add(1, { usage: { input_tokens: 5 } })
  await lab.clock.run(120_000)
  t.equal(told(receiver).length, before + 1)
  t.equal(new Set(told(receiver).map(({ id }) => id)).size, before + 1)
  t.strictSame([receiver.doubled, receiver.changed, total(receiver)], [[], [], 65])
})

t.test('what is summed up is late once its hour is over and it has not come, not before; a sink that is no more has no figures', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('hourly', { takes: 'records', mapping: { ...sums, rollup: 'hour' } })
  const age = async (): Promise<number | undefined> => (await lab.metrics.outboxAge.get()).values.find(({ labels }) => labels['sink'] === 'hourly')?.value
  receiver.behaviour = () => { throw new DeliveryFailed('busy', 'away') }
  delivery.start()
  await lab.add(1, { usage: { input_tokens: 3 } })
  const leftMs = 3_600_000 - (lab.clock.nowMs() % 3_600_000)
  await lab.clock.run(leftMs - 10_000)
  t.equal(await age(), 0)
  await lab.clock.run(310_000)
  const late = await age() ?? 0
  t.ok(late > 280 && late <= 302, `${late} s`)
  await delivery.stop()
  for (const gauge of [lab.metrics.outboxAge, lab.metrics.outboxLag, lab.metrics.dead, lab.metrics.quarantined, lab.metrics.sinkPaused]) t.same((await gauge.get()).values, [])
})

t.test('a full thousand does not wait for the end of the hour', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('full', { takes: 'records', mapping: { ...sums, rollup: 'hour' } })
  await lab.add(2_300, { usage: { input_tokens: 1 } })
  delivery.start()
  await lab.clock.run(60_000)
  t.strictSame(told(receiver).map(({ value }) => value), ['1000', '1000'])
  await lab.clock.run(3_600_000)
  t.strictSame(told(receiver).map(({ value }) => value), ['1000', '1000', '300'])
  t.strictSame(receiver.doubled, [])
})

t.test('whatever fails, a sum that was sent is sent again as it was, though more has come since; refused ones are put aside whole', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('failing', { takes: 'records', mapping: sums })
  await lab.add(3, { usage: { input_tokens: 3 } })
  await lab.add(2, { usage: { input_tokens: 4 }, account: 'globex' })
  receiver.behaviour = (batch, to) => {
    to.take(batch)
    throw new Error('reset')
  }
  delivery.start()
  await lab.clock.run(90_000)
  await lab.add(3, { usage: { input_tokens: 100 } })
  receiver.behaviour = (batch, to) => {
    const refused = batch.filter((record) => record.is === 'meter' && record.customer === 'globex')
    const good = batch.filter((record) => !refused.includes(record))
    if (good.length > 0 && refused.length > 0) throw new DeliveryFailed('refused', 'status 422')
    if (refused.length > 0) throw new DeliveryFailed('refused', 'status 422')
    return to.take(good)
  }
  t.ok(await lab.drained('failing', 600_000))
  t.strictSame([receiver.doubled, receiver.changed], [[], []])
  t.strictSame(told(receiver).filter(({ customer }) => customer === 'acme').map(({ value }) => value), ['9', '300'])
  t.match(await quarantined(lab.store.records, 'failing'), [{ why: 'ambiguous', reason: 'it was sent before without an answer, and then refused: status 422', records: [{ customer: 'globex', value: '8' }] }], 'and nobody says that it was not booked')
  await lab.add(1, { usage: { input_tokens: 5 }, account: 'globex' })
  t.ok(await lab.drained('failing', 600_000))
  t.match(await quarantined(lab.store.records, 'failing'), [{ why: 'ambiguous' }, { why: 'refused', reason: 'status 422', records: [{ customer: 'globex', value: '5' }] }])
})

t.test('sums that were frozen are finished, also when the configuration asks for single records meanwhile', async (t) => {
  const lab = await openLab(t)
  const { delivery, receiver } = lab.sink('changed', { takes: 'records', mapping: sums })
  await lab.add(3, { usage: { input_tokens: 3 } })
  receiver.behaviour = (batch, to) => {
    to.take(batch)
    throw new Error('reset')
  }
  delivery.start()
  await lab.clock.run(90_000)
  const stopped = delivery.stop()
  await lab.clock.run(5_000)
  await stopped
  receiver.behaviour = (batch, to) => to.take(batch)
  const single = lab.sink('changed', { takes: 'records', mapping: { ...sums, rollup: null }, receiver })
  single.delivery.start()
  await lab.add(2, { usage: { input_tokens: 1 } })
  t.ok(await lab.drained('changed', 600_000))
  t.strictSame(told(receiver).map(({ value }) => value), ['9', '1', '1'])
  t.strictSame(receiver.doubled, [])
})
