// What is known of records while others hold up the cursor: accepted ahead of their turn, in doubt, refused after a doubt. It outlives a restart and other rules.

import t from 'tap'
import { Attempts } from '../../src/sinks/attempts.ts'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { DeliveryFailed, type MeterRecord } from '../../src/sinks/sink.ts'
import { openLab, type Behaviour, type Lab, type Receiver } from './lab.ts'
import { mappingOf } from './sample-events.ts'
import { someKind } from './some-kind.ts'

const hourMs = 3_600_000
const take: Behaviour = (batch, receiver) => receiver.take(batch)
const forgetful = { dedupWindowMs: 24 * hourMs, batchMax: 1, inFlightMax: 8 }
const inputs = mappingOf([{ code: 'in', quantity: 'input_tokens' }])
const value = (receiver: Receiver): number => [...receiver.contents].filter(([id]) => receiver.booked.has(id)).reduce((sum, [, contents]) => sum + Number((JSON.parse([...contents][0] ?? '') as MeterRecord).value), 0)

async function stop(lab: Lab, { delivery }: ReturnType<Lab['sink']>): Promise<void> {
  const stopped = delivery.stop()
  await lab.clock.run(15_000)
  await stopped
}

for (const kind of ['unauthorized', 'busy'] as const) {
  t.test(`${kind} for the first, the others are accepted; two days later the sink begins anew, and its receiver has forgotten: none is told again`, async (t) => {
    const lab = await openLab(t)
    const one = lab.sink('s', { contract: forgetful })
    const ids = await lab.add(6)
    let away = false
    one.receiver.behaviour = (batch, to) => {
      if (away || batch[0]?.id === ids[0]) throw new DeliveryFailed(kind, 'not now')
      return to.take(batch)
    }
    one.delivery.start()
    await lab.clock.run(100)
    t.ok(one.receiver.booked.size > 0 && !one.receiver.booked.has(ids[0] ?? ''), `${one.receiver.booked.size} are accepted`)
    away = true
    await lab.clock.run(hourMs)
    lab.clock.skip(47 * hourMs)
    await stop(lab, one)
    const two = lab.sink('s', { contract: forgetful, receiver: one.receiver, holder: 'two' })
    one.receiver.behaviour = take
    two.delivery.start()
    t.ok(await lab.drained('s'))
    t.strictSame([[...one.receiver.booked.keys()].sort(), one.receiver.doubled], [[...ids].sort(), []])
    t.strictSame(await quarantined(lab.store.records, 's'), [], 'and nothing is held that was accepted')
  })
}

t.test('the same with frozen sums', async (t) => {
  const lab = await openLab(t)
  const options = { contract: forgetful, takes: 'records' as const, mapping: mappingOf([{ code: 'in', quantity: 'input_tokens' }], { rollup: 'minute' }) }
  const one = lab.sink('s', options)
  for (const account of ['a', 'b', 'c']) await lab.add(1, { account, usage: { input_tokens: 5 } })
  let first: string | undefined
  one.receiver.behaviour = (batch, to) => {
    first ??= batch[0]?.id
    if (batch[0]?.id === first) throw new DeliveryFailed('unauthorized', 'status 401')
    return to.take(batch)
  }
  one.delivery.start()
  await lab.clock.run(300_000)
  t.equal(one.receiver.booked.size, 2)
  lab.clock.skip(48 * hourMs)
  await stop(lab, one)
  const two = lab.sink('s', { ...options, receiver: one.receiver, holder: 'two' })
  one.receiver.behaviour = take
  two.delivery.start()
  t.ok(await lab.drained('s'))
  t.strictSame([one.receiver.booked.size, one.receiver.doubled], [3, []])
})

t.test('marks of records that are in doubt stay, whatever is sent meanwhile', async (t) => {
  const lab = await openLab(t)
  const kind = someKind({ contract: { dedupWindowMs: 24 * hourMs } })
  let failure = new DeliveryFailed('unknown', 'timeout')
  const attempts = new Attempts({ name: 's', contract: kind.contract, sink: { deliver: () => Promise.reject(failure), close: async () => undefined }, records: lab.store.records, clock: lab.clock, metrics: lab.metrics, markedAs: 's' })
  const never = new AbortController().signal
  const options = { stop: never, abort: never }
  const told = ['a', 'b'].map((id) => attempts.item({ is: 'event', id, timeMs: lab.clock.nowMs(), event: {} as never }, '', id, Infinity))
  function* others() { yield* told }
  await attempts.send(told.slice(0, 1), options, others())
  failure = new DeliveryFailed('busy', 'status 429')
  await attempts.send(told.slice(1), options, others())
  t.strictSame(Object.keys((await lab.store.records.get('attempt', 's'))?.['marks'] as object), ['a'])
})

t.test('what was refused, or became too old, after an attempt that nobody answered may have been booked: it is held, and not among the dead', async (t) => {
  for (const refusal of ['by the receiver', 'by its age'] as const) {
    const lab = await openLab(t)
    const one = lab.sink('s', { contract: { dedupWindowMs: 24 * hourMs, batchMax: 1, oldestMs: refusal === 'by its age' ? 24 * hourMs : null } })
    const [id] = await lab.add(1)
    if (refusal === 'by its age') lab.clock.skip(24 * hourMs - 1_000)
    let attempts = 0
    one.receiver.behaviour = (batch, to) => {
      to.take(batch)
      attempts += 1
      throw attempts === 1 ? new DeliveryFailed('unknown', 'timeout', 5_000) : new DeliveryFailed('refused', 'status 400')
    }
    one.delivery.start()
    t.ok(await lab.drained('s'))
    t.equal(await lab.store.outbox.deadCount('s'), 0, refusal)
    t.match(await quarantined(lab.store.records, 's'), [{ of: id, why: 'ambiguous', reason: /sent before without an answer, and then refused: / }])
  }
})

for (const [change, next] of [['sums are asked for', mappingOf([{ code: 'in', quantity: 'input_tokens' }], { rollup: 'minute' })], ['a code is renamed', mappingOf([{ code: 'input', quantity: 'input_tokens' }])]] as const) {
  for (const windows of [{}, { dedupWindowMs: 24 * hourMs }]) {
    t.test(`one is put off, those behind it are accepted, ${change}: each is told once; memory ${JSON.stringify(windows)}`, async (t) => {
      const lab = await openLab(t)
      const contract = { batchMax: 1, inFlightMax: 8, ...windows }
      const one = lab.sink('s', { contract, takes: 'records', mapping: inputs })
      const ids = await lab.add(8, { usage: { input_tokens: 10 } })
      one.receiver.behaviour = (batch, to) => (batch[0]?.id.startsWith(ids[0] ?? '') === true ? { accepted: [], refused: [], later: [batch[0].id] } : to.take(batch))
      one.delivery.start()
      await lab.clock.run(100_000)
      t.equal(value(one.receiver), 70)
      await stop(lab, one)
      one.receiver.behaviour = take
      const two = lab.sink('s', { contract, takes: 'records', mapping: next, receiver: one.receiver })
      two.delivery.start()
      t.ok(await lab.drained('s'))
      t.equal(value(one.receiver), 80)
      t.strictSame(await quarantined(lab.store.records, 's'), [])
    })
  }

  t.test(`one is on the way for longer than stopping waits, and ${change} meanwhile: it is held, the others are told once`, async (t) => {
    const lab = await openLab(t)
    const contract = { batchMax: 1, inFlightMax: 8 }
    const one = lab.sink('s', { contract, takes: 'records', mapping: inputs })
    const ids = await lab.add(8, { usage: { input_tokens: 10 } })
    one.receiver.behaviour = async (batch, to) => {
      if (batch[0]?.id.startsWith(ids[0] ?? '') === true) await lab.clock.sleep(10_000)
      return to.take(batch)
    }
    one.delivery.start()
    await lab.clock.run(1_000)
    await stop(lab, one)
    one.receiver.behaviour = take
    const two = lab.sink('s', { contract, takes: 'records', mapping: next, receiver: one.receiver })
    two.delivery.start()
    t.ok(await lab.drained('s'))
    t.equal(value(one.receiver), 80)
    t.match(await quarantined(lab.store.records, 's'), [{ of: ids[0], why: 'ambiguous' }])
  })
}

t.test('the same rules after stopping in the middle: the same ids, nothing told twice and nothing held', async (t) => {
  const lab = await openLab(t)
  const contract = { batchMax: 1, inFlightMax: 8 }
  const one = lab.sink('s', { contract, takes: 'records', mapping: inputs })
  const ids = await lab.add(8, { usage: { input_tokens: 10 } })
  one.receiver.behaviour = async (batch, to) => {
    if (batch[0]?.id.startsWith(ids[0] ?? '') === true) await lab.clock.sleep(10_000)
    return to.take(batch)
  }
  one.delivery.start()
  await lab.clock.run(1_000)
  await stop(lab, one)
  one.receiver.behaviour = take
  const before = one.receiver.batches.length
  const two = lab.sink('s', { contract, takes: 'records', mapping: inputs, receiver: one.receiver })
  two.delivery.start()
  t.ok(await lab.drained('s'))
  t.strictSame([value(one.receiver), one.receiver.doubled, one.receiver.changed], [80, [], []])
  t.strictSame(one.receiver.batches.slice(before).map(({ ids: sent }) => sent), [[`${ids[0]}:in`]], 'only what is in doubt comes again')
  t.strictSame(await quarantined(lab.store.records, 's'), [])
})

t.test('an event of which a part was told: the rest is told by rules that still have it, and held by others', async (t) => {
  for (const [code, held] of [['out', 0], ['output', 1]] as const) {
    const lab = await openLab(t)
    const one = lab.sink('s', { takes: 'records', mapping: mappingOf([{ code: 'in', quantity: 'input_tokens' }, { code: 'out', quantity: 'output_tokens' }]) })
    const [id] = await lab.add(1, { usage: { input_tokens: 10, output_tokens: 1 } })
    one.receiver.behaviour = (batch, to) => {
      const good = batch.filter((record) => record.is === 'meter' && record.code === 'in')
      to.take(good)
      return { accepted: good.map((record) => record.id), refused: [], later: batch.filter((record) => !good.includes(record)).map((record) => record.id) }
    }
    one.delivery.start()
    await lab.clock.run(10_000)
    await stop(lab, one)
    one.receiver.behaviour = take
    const two = lab.sink('s', { takes: 'records', mapping: mappingOf([{ code: 'input', quantity: 'input_tokens' }, { code, quantity: 'output_tokens' }]), receiver: one.receiver })
    two.delivery.start()
    t.ok(await lab.drained('s'))
    t.strictSame([...one.receiver.booked.keys()], held === 0 ? [`${id}:in`, `${id}:out`] : [`${id}:in`])
    t.equal((await quarantined(lab.store.records, 's')).length, held)
  }
})
