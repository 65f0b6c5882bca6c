// What an operator does about events that are dead, in quarantine, or were never to be billed.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { toUsageEvent } from '../../src/metering/event.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { whyNoReplay } from '../../src/sinks/index.ts'
import { quarantine, quarantined } from '../../src/sinks/quarantine.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { eventBody, newId, settleOf } from '../stores/sample-moves.ts'

const hourMs = 3_600_000
interface Told { readonly id: string; readonly data: { readonly n: number }; readonly type: string }

/** A receiver that books each id once, and a gateway's deliveries to it. */
async function rig(t: Teardown, more = '') {
  const booked = new Map<string, number>()
  const requests: Told[][] = []
  let answer: (batch: readonly Told[]) => number | null | Promise<number | null> = () => 204
  const server = createServer((request, response) => {
    let body = ''
    request.on('error', () => undefined)
    request.on('data', (chunk: Buffer) => { body += chunk.toString('utf8') }).on('end', async () => {
      const batch = JSON.parse(body) as Told[]
      requests.push(batch)
      const status = await answer(batch)
      if (status === 204 || status === null) for (const { id, data } of batch) if (!booked.has(id)) booked.set(id, data.n)
      if (status === null) request.socket.resetAndDestroy()
      else response.writeHead(status).end()
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  const text = `sinks:
  - name: om
    type: openmeter
    url: http://127.0.0.1:${(server.address() as AddressInfo).port}
    private: true
    meters: [{ code: in, quantity: input_tokens, value_property: n }, { code: out, quantity: output_tokens, value_property: n }]${more}
`
  const { config, problems } = loadConfig({ file: 's', text, env: {}, hostName: 'h' })
  if (config === null) throw new Error(JSON.stringify(problems))
  let aheadMs = 0
  const clock = withTime(systemClock, () => systemClock.nowMs() + aheadMs)
  const store = await openMemory({ clock, forgetAfterMs: 100 * hourMs, hotMs: 100 * hourMs })
  const log = new LogLines()
  const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random: systemRandom, log, metrics: new Metrics(), stdout: new PassThrough() })
  t.teardown(async () => {
    await deliveries.stop()
    await store.close()
    server.closeAllConnections()
    server.close()
  })
  return {
    booked, requests, config: config as Config, store, deliveries, log, clock,
    answerWith(next: typeof answer): void { answer = next },
    skip(ms: number): void { aheadMs += ms },
    async settle(): Promise<string> {
      const nowMs = clock.nowMs()
      const id = newId(nowMs)
      await store.settle(settleOf(id, nowMs, 'acme', [], [], { usage: { requests: 1, input_tokens: 3, output_tokens: 5 }, event: eventBody }))
      return id
    },
    idle: () => waitFor('an empty outbox', async () => (await store.outbox.lag('om')).count === 0, { deadlineMs: 10_000 }),
  }
}

t.test('of an event that is dead in part, only that part is delivered again', async (t) => {
  const { deliveries, config, settle, idle, store, booked, requests, answerWith } = await rig(t)
  answerWith((batch) => (batch.some(({ type }) => type === 'out') ? 400 : 204))
  const id = await settle()
  await deliveries.use(config)
  await idle()
  t.strictSame([...booked], [[`${id}:in`, 3]])
  t.match(await store.outbox.dead('om'), [{ reason: 'of ["out"]: status 400' }])
  t.strictSame(await deliveries.retryDead('om', config), { delivered: 0, failed: 1 }, 'still refused: still dead')
  answerWith(() => 204)
  requests.length = 0
  t.strictSame(await deliveries.retryDead('om', config), { delivered: 1, failed: 0 })
  t.strictSame(requests.map((batch) => batch.map(({ id: told }) => told)), [[`${id}:out`]])
  t.strictSame([...booked], [[`${id}:in`, 3], [`${id}:out`, 5]])
  t.equal(await store.outbox.deadCount('om'), 0)
})

t.test('dead events whose retry was never answered are not sent again once the receiver has forgotten them', async (t) => {
  const { deliveries, config, settle, idle, store, booked, answerWith, skip, requests } = await rig(t)
  answerWith(() => 400)
  const id = await settle()
  await deliveries.use(config)
  await idle()
  answerWith(() => null)
  t.strictSame(await deliveries.retryDead(null, config), { delivered: 0, failed: 1 })
  t.equal(booked.size, 2, 'booked, but nobody said so')
  skip(25 * hourMs)
  answerWith(() => 204)
  requests.length = 0
  t.strictSame(await deliveries.retryDead(null, config), { delivered: 0, failed: 1 })
  t.strictSame(requests, [])
  t.match(await deliveries.quarantined('om'), [{ sink: 'om', of: id, why: 'ambiguous' }])
  t.equal(await store.outbox.deadCount('om'), 0, 'they are in quarantine now')
})

t.test('a paused sink whose receiver was mended is tried at once by its name', async (t) => {
  const { deliveries, config, settle, idle, booked, answerWith } = await rig(t)
  answerWith(() => 401)
  await settle()
  await deliveries.use(config)
  const stateOf = (): string => {
    const status = deliveries.status().get('om')
    return typeof status === 'object' ? status.state : String(status)
  }
  await waitFor('the pause', () => stateOf() === 'paused')
  answerWith(() => 204)
  deliveries.nudge('another')
  t.equal(stateOf(), 'paused', 'others are not meant')
  deliveries.nudge('om')
  await idle()
  t.equal(booked.size, 2)
  await waitFor('the end of the pause', () => stateOf() === 'running')
})

t.test('what is in quarantine is sent or dropped when an operator says so, and stays where the receiver does not take it', async (t) => {
  const { deliveries, config, settle, idle, booked, answerWith, skip } = await rig(t)
  answerWith(() => null)
  const ids = [await settle(), await settle(), await settle()]
  await deliveries.use(config)
  await waitFor('the first try', () => booked.size === 6)
  booked.clear()
  skip(25 * hourMs)
  deliveries.nudge()
  answerWith(() => 204)
  await idle()
  t.equal(booked.size, 0)
  t.strictSame((await deliveries.quarantined()).map(({ of }) => of).sort(), [...ids].sort())
  t.strictSame(await deliveries.release(config, 'om', [ids[0] ?? ''], 'drop'), { released: 1, failed: 0 })
  answerWith(() => 400)
  t.strictSame(await deliveries.release(config, 'om', [ids[1] ?? ''], 'send'), { released: 0, failed: 1 })
  answerWith(() => 204)
  t.strictSame(await deliveries.release(config, 'om', [ids[1] ?? '', 'unknown'], 'send'), { released: 1, failed: 1 })
  t.strictSame([...booked.keys()].sort(), [`${ids[1]}:in`, `${ids[1]}:out`])
  t.strictSame((await deliveries.quarantined()).map(({ of }) => of), [ids[2]])
  t.strictSame(await deliveries.release(config, 'om', null, 'send'), { released: 1, failed: 0 })
  t.equal(booked.size, 4)
  const next = await settle()
  await idle()
  t.equal(booked.get(`${next}:in`), 3, 'the loop goes on')
})

t.test('a credit note takes an event back once, with negative values and ids of its own', async (t) => {
  const { deliveries, config, settle, idle, store, booked, answerWith } = await rig(t)
  const id = await settle()
  await deliveries.use(config)
  await idle()
  const [entry] = await store.outbox.scan(null, 1)
  if (entry === undefined) return t.fail('no event')
  const event = toUsageEvent(entry.record)
  answerWith(() => null)
  t.match(await deliveries.credit(config, 'om', event), { failed: 'ECONNRESET' })
  answerWith(() => 204)
  t.equal(await deliveries.credit(config, 'om', event), 'sent')
  t.equal(await deliveries.credit(config, 'om', event), 'credited')
  t.strictSame([...booked], [[`${id}:in`, 3], [`${id}:out`, 5], [`${id}.credit:in`, -3], [`${id}.credit:out`, -5]])
  t.match(await deliveries.credit(config, 'other', event), { failed: /no such sink/ })
})

t.test('nothing is delivered again that its receiver has forgotten, nor sums', async (t) => {
  const { config, clock } = await rig(t)
  const [sink] = config.sinks
  if (sink === undefined) return t.fail('no sink')
  const nowMs = clock.nowMs()
  t.equal(whyNoReplay(sink, nowMs - 20 * hourMs, nowMs), null)
  t.match(whyNoReplay(sink, nowMs - 30 * hourMs, nowMs), /would be booked twice/)
  t.match(whyNoReplay({ ...sink, settings: { ...sink.settings, deduplication: 0 } }, nowMs, nowMs), /does not know an id again/)
  t.match(whyNoReplay({ ...sink, mapping: sink.mapping === null ? null : { ...sink.mapping, rollup: 'hour' } }, nowMs, nowMs), /sums/)
  t.equal(whyNoReplay({ name: 'f', type: 'file', settings: {}, mapping: null }, 0, nowMs), null)
})

t.test('events that are delivered again are held once their receiver may have forgotten them meanwhile', async (t) => {
  const { deliveries, config, settle, idle, booked, store, answerWith, skip, requests } = await rig(t)
  const id = await settle()
  await deliveries.use(config)
  await idle()
  answerWith(() => 503)
  const sink = config.sinks[0]
  if (sink === undefined) return t.fail('no sink')
  await deliveries.replay(sink, 'h', 0, { archivedUntil: async () => null } as never)
  t.equal((await store.outbox.lag('om')).count, 1, 'the cursor was moved back')
  skip(25 * hourMs)
  booked.clear()
  answerWith(() => 204)
  requests.length = 0
  const fresh = await settle()
  deliveries.nudge()
  await idle()
  t.strictSame([...booked.keys()], [`${fresh}:in`, `${fresh}:out`])
  t.match(await deliveries.quarantined('om'), [{ of: id }])
})

t.test('what each sink is doing can be asked', async (t) => {
  const { deliveries, config, settle, answerWith, booked } = await rig(t)
  answerWith(() => 401)
  await settle()
  await deliveries.use(config)
  await waitFor('the pause', () => (deliveries.status().get('om') as { state?: string } | undefined)?.state === 'paused')
  t.match(deliveries.status().get('om'), { state: 'paused', reason: 'status 401' })
  answerWith(() => 204)
  // The same configuration once more: the operator says that something was mended.
  await deliveries.use(config)
  await waitFor('the delivery', () => booked.size === 2)
  await waitFor('the news', () => (deliveries.status().get('om') as { state?: string } | undefined)?.state === 'running')
})

t.test('a renamed sink sends again only what its receiver surely knows; the rest waits for an operator', async (t) => {
  const { deliveries, config, settle, store, requests, skip, log } = await rig(t)
  await deliveries.use(config)
  const old = [await settle(), await settle(), await settle()]
  const done = (name: string): Promise<unknown> => waitFor('an empty outbox', async () => (await store.outbox.lag(name)).count === 0, { deadlineMs: 10_000 })
  await done('om')
  skip(30 * hourMs)
  const young = await settle()
  await done('om')
  requests.length = 0
  const named = (name: string, more: object = {}): Config => ({ ...config, sinks: [{ ...config.sinks[0]!, name, settings: { ...config.sinks[0]!.settings, ...more } }] })
  await deliveries.use(named('billing', { api_key: 'another' }))
  await done('billing')
  t.same(requests.flat().map(({ id }) => id).sort(), [`${young}:in`, `${young}:out`])
  t.same((await deliveries.quarantined('billing')).map(({ of }) => of).sort(), [...old].sort())
  t.ok(log.lines.some(({ fields }) => 'former' in fields && fields.former === 'om'))
  skip(30 * hourMs)
  requests.length = 0
  await deliveries.use(named('om'))
  const next = await settle()
  await done('om')
  t.same(requests.flat().map(({ id }) => id).sort(), [`${next}:in`, `${next}:out`], 'and back again')
  requests.length = 0
  await deliveries.use({ ...config, sinks: [config.sinks[0]!, { ...config.sinks[0]!, name: 'second', settings: { ...config.sinks[0]!.settings, source: 'elsewhere' } }] })
  await done('second')
  t.ok(requests.flat().some(({ id }) => id === `${old[0]}:in`), 'one that is new gets all that there is')
})

t.test('neither a reload nor a stop waits behind a long list of dead events', async (t) => {
  const { deliveries, config, settle, store, requests, answerWith } = await rig(t)
  for (let n = 0; n < 3_000; n++) await settle()
  await store.outbox.setConsumers(['om'])
  const fence = (await store.outbox.lease('om', 'me', Date.now(), Date.now() + 60_000))!
  for (;;) {
    const entries = await store.outbox.read(fence, 1_000)
    if (entries.length === 0) break
    for (const entry of entries) await store.outbox.bury(fence, entry, 'status 400', Date.now())
    await store.outbox.advance(fence, entries)
  }
  await store.outbox.release(fence)
  await deliveries.use(config)
  const dead = await store.outbox.deadCount('om')
  t.equal(dead, 3_000)
  answerWith(async () => {
    await systemClock.sleep(1_500)
    return 204
  })
  requests.length = 0
  const retried = deliveries.retryDead('om', config)
  await waitFor('the first request', () => requests.length > 0)
  const startMs = performance.now()
  await deliveries.use({ ...config, sinks: [] })
  t.ok(performance.now() - startMs < 4_000, `${Math.round(performance.now() - startMs)} ms`)
  const { delivered, failed } = await retried
  t.equal(delivered + failed, dead)
  t.equal(await store.outbox.deadCount('om'), failed, 'the rest stays among the dead')
  t.ok(failed > 0)
})

t.test('of a dead event that is taken in part, only the rest stays dead, and is no less sure for it', async (t) => {
  const { deliveries, config, settle, idle, store, booked, requests, answerWith, skip } = await rig(t)
  answerWith(() => 400)
  const id = await settle()
  await deliveries.use(config)
  await idle()
  t.match(await store.outbox.dead('om'), [{ reason: 'status 400' }])
  answerWith((batch) => (batch.some(({ type }) => type === 'out') ? 400 : 204))
  t.strictSame(await deliveries.retryDead('om', config), { delivered: 0, failed: 1 })
  t.match(await store.outbox.dead('om'), [{ reason: 'of ["out"]: status 400' }])
  skip(25 * hourMs)
  answerWith(() => 204)
  requests.length = 0
  t.strictSame(await deliveries.retryDead('om', config), { delivered: 1, failed: 0 })
  t.strictSame(requests.map((batch) => batch.map(({ id: told }) => told)), [[`${id}:out`]])
  t.strictSame([...booked], [[`${id}:in`, 3], [`${id}:out`, 5]])
  t.strictSame(await deliveries.quarantined('om'), [])
})

t.test('records of one event that come into quarantine one after the other are all kept', async (t) => {
  const { store, clock } = await rig(t)
  const item = (id: string, state: 'held' | 'refused') => ({ record: { is: 'event', id, timeMs: 0, event: {} as never }, rule: id, mark: 'e', sinceMs: state === 'held' ? 5 : null, state, reason: `${id} is ${state}` }) as const
  await quarantine(store.records, 'om', 'e', [item('a', 'refused')], clock.nowMs())
  await quarantine(store.records, 'om', 'e', [item('b', 'held')], clock.nowMs())
  await quarantine(store.records, 'om', 'e', [item('b', 'held')], clock.nowMs())
  t.match(await quarantined(store.records, 'om'), [{ of: 'e', why: 'ambiguous', sinceMs: 5, reason: 'a is refused; b is held', records: [{ id: 'a' }, { id: 'b' }] }])
  t.equal((await quarantined(store.records, 'om'))[0]?.records.length, 2)
})
