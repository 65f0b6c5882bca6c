import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import type { DeliveryReport, SinkRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { someKind } from './some-kind.ts'
import { check, newId, reserveOf, settleOf } from '../stores/sample-moves.ts'

type Deliver = (batch: readonly SinkRecord[]) => Promise<DeliveryReport>

async function world(t: Teardown, sinks: Record<string, Deliver>): Promise<{ store: Store; add(count: number): Promise<string[]>; deliveries: Delivery[]; metrics: Metrics }> {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  await store.outbox.setConsumers(Object.keys(sinks))
  const metrics = new Metrics()
  const deliveries = Object.entries(sinks).map(([name, deliver]) => {
    return new Delivery({ name, kind: someKind(), mapping: null, sink: { deliver, close: async () => undefined }, outbox: store.outbox, clock: systemClock, random: systemRandom, log: silentLog, metrics, holder: 'test' })
  })
  t.teardown(async () => {
    await Promise.all(deliveries.map((delivery) => delivery.stop()))
    await store.close()
  })
  const add = async (count: number): Promise<string[]> => {
    const ids: string[] = []
    for (let i = 0; i < count; i++) {
      const nowMs = systemClock.nowMs()
      const id = newId(nowMs)
      const checks = [check('tokens', null, 10)]
      await store.reserve(reserveOf(id, nowMs, 'acme', checks))
      await store.settle(settleOf(id, nowMs, 'acme', checks, [7]))
      ids.push(id)
    }
    return ids
  }
  return { store, add, deliveries, metrics }
}


const all = (batch: readonly SinkRecord[]): DeliveryReport => ({ accepted: batch.map((event) => event.id), refused: [] })

t.test('every event arrives in order, once, and what is appended later follows by itself', async (t) => {
  const got: string[] = []
  const { add, deliveries } = await world(t, { one: async (batch) => { got.push(...batch.map((e) => e.id)); return all(batch) } })
  const before = await add(25)
  for (const delivery of deliveries) delivery.start()
  await waitFor('the first', () => got.length === 25)
  const after = await add(3)
  await waitFor('the rest', () => got.length === 28)
  t.same(got, [...before, ...after])
})

t.test('a sink that fails gets the same ids with the same bytes again, and a slow one delays nobody', async (t) => {
  const tries: string[] = []
  const good: string[] = []
  const { add, deliveries, metrics } = await world(t, {
    bad: async (batch) => {
      tries.push(JSON.stringify(batch))
      if (tries.length < 3) throw new Error('down')
      return all(batch)
    },
    stuck: () => new Promise(() => undefined),
    good: async (batch) => { good.push(...batch.map((e) => e.id)); return all(batch) },
  })
  const ids = await add(4)
  for (const delivery of deliveries.filter((_, i) => i !== 1)) delivery.start()
  await waitFor('both', () => good.length === 4 && tries.length === 3)
  t.same(good, ids)
  t.equal(new Set(tries).size, 1, 'three attempts, one and the same payload')
  t.match(await metrics.text(), /tallygate_delivery_retries_total\{sink="bad"\} 2/)
})

t.test('a partial answer: accepted are done, refused are buried with the reason, the rest is tried again', async (t) => {
  const seen = new Map<string, number>()
  let poison = ''
  let first = true
  const { store, add, deliveries } = await world(t, { picky: async (batch) => {
    for (const event of batch) seen.set(event.id, (seen.get(event.id) ?? 0) + 1)
    if (first) {
      first = false
      return { accepted: batch.slice(0, 2).map((e) => e.id), refused: [{ id: poison, reason: 'no such customer' }] }
    }
    return all(batch)
  } })
  const ids = await add(6)
  poison = ids[2]!
  for (const delivery of deliveries) delivery.start()
  await waitFor('all of them', async () => (await store.outbox.lag('picky')).count === 0)
  t.same(ids.map((id) => seen.get(id)), [1, 1, 1, 2, 2, 2], 'only what the sink did not speak about came again')
  const dead = await store.outbox.dead('picky')
  t.same(dead.map(({ record, reason, consumer }) => [record.id, reason, consumer]), [[poison, 'no such customer', 'picky']])
})

t.test('stopping in the middle loses nothing: another one goes on from the cursor', async (t) => {
  const got: string[] = []
  let slow = true
  const deliver: Deliver = async (batch) => {
    if (slow && got.length >= 10) throw new Error('going down')
    got.push(...batch.map((e) => e.id))
    return all(batch)
  }
  const { store, add, deliveries, metrics } = await world(t, { one: deliver })
  const ids = await add(30)
  deliveries[0]!.start()
  await waitFor('the first batch', () => got.length === 10)
  await deliveries[0]!.stop()
  slow = false
  const next = new Delivery({ name: 'one', kind: someKind(), mapping: null, sink: { deliver, close: async () => undefined }, outbox: store.outbox, clock: systemClock, random: systemRandom, log: silentLog, metrics, holder: 'test' })
  next.start()
  t.teardown(() => next.stop())
  t.ok(await next.flush(systemClock.nowMs() + 5_000), 'flush tells when nothing is left')
  t.same(got, ids)
})

t.test('while another delivers the lease is asked for once a second, however much is appended, and nothing is waited for; it is handed over at the end', async (t) => {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => store.close())
  const got: Record<string, string[]> = { a: [], b: [] }
  let asked = 0
  const lease = store.outbox.lease.bind(store.outbox)
  store.outbox.lease = (consumer, holder, ...rest) => {
    if (holder === 'b') asked += 1
    return lease(consumer, holder, ...rest)
  }
  const deliveryOf = (holder: string, deliver: Deliver): Delivery => new Delivery({
    name: 'one', kind: someKind(), mapping: null, sink: { deliver, close: async () => undefined },
    outbox: store.outbox, clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), holder,
  })
  const take = (holder: string): Deliver => async (batch) => {
    got[holder]!.push(...batch.map((event) => event.id))
    return all(batch)
  }
  const a = deliveryOf('a', take('a'))
  const b = deliveryOf('b', take('b'))
  a.start()
  const add = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      const nowMs = systemClock.nowMs()
      const checks = [check('tokens', null, 10)]
      await store.settle(settleOf(newId(nowMs), nowMs, 'acme', checks, [7]))
    }
  }
  await add(1)
  await waitFor('the first holder', () => got['a']!.length === 1)
  b.start()
  await waitFor('the second to ask', () => asked === 1)
  await add(100)
  t.equal(await b.flush(systemClock.nowMs() + 5_000), true, 'what another delivers is not waited for')
  await waitFor('all of it', () => got['a']!.length === 101)
  t.ok(asked <= 2, `asked ${asked} times`)
  await a.stop()
  const startMs = performance.now()
  await add(1)
  await waitFor('the second to take over', () => got['b']!.length === 1)
  t.ok(performance.now() - startMs < 2_000, 'although the lease would have lasted for half a minute')
  await b.stop()
})
