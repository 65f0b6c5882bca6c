import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import type { Config, SinkConfig } from '../../src/config/config.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { silentLog, type Log } from '../../src/log.ts'
import { exchangeId } from '../../src/metering/id.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { VirtualClock } from '../sinks/virtual-clock.ts'
import { LogLines } from '../stores/embedded-fixture.ts'

const withSinks = (...sinks: readonly SinkConfig[]): Config => ({ sinks, instance: 'test' }) as unknown as Config
const file = (name: string, path: string): SinkConfig => ({ name, type: 'file', settings: { path, max_bytes: 1_000_000, daily: false, keep: null }, mapping: null })
const ids = (path: string): string[] => readFileSync(path, 'utf8').trim().split('\n').filter((line) => line !== '').map((line) => (JSON.parse(line) as { id: string }).id)

async function open(t: Teardown, { clock = systemClock, log = silentLog }: { readonly clock?: Clock; readonly log?: Log } = {}) {
  const store = await openMemory({ clock, forgetAfterMs: 60_000, hotMs: 3_600_000 })
  const metrics = new Metrics()
  const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random: systemRandom, log, metrics, stdout: new PassThrough() })
  t.teardown(async () => {
    await deliveries.stop()
    await store.close()
  })
  return { store, deliveries, metrics }
}

/** One settled exchange without limits; gives its id. */
async function settle(store: Store): Promise<string> {
  const nowMs = systemClock.nowMs()
  const id = exchangeId(nowMs, systemRandom.bytes(10))
  const skeleton = {
    source: 'tallygate/test', account: 'acme', key: 'dev', plan: 'free', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions', model: 'm', upstream: 'model',
    stream: false, caller: { request_id: null, user: null, session: null, tags: {} },
  }
  await store.reserve({ id, nowMs, home: 'acme', checks: [], uMin: 0, uMax: 0, deadlineMs: nowMs + 15_000, skeleton })
  const event = { ...skeleton, attempt: 1, status: 200, end: 'complete' as const, usage_source: 'upstream' as const, settled_at: new Date(nowMs).toISOString() }
  const answer = await store.settle({ id, nowMs, home: 'acme', checks: [], amounts: [], usage: { requests: 1, total_tokens: 3 }, event })
  if (answer.outcome !== 'settled') throw new Error(answer.outcome)
  return id
}

t.test('sinks follow the config: a new one gets what comes, an unchanged one is left alone, one that is gone and back goes on where it was', async (t) => {
  const dir = tmpDir(t)
  const [a, b] = [join(dir, 'a.ndjson'), join(dir, 'b.ndjson')]
  const { store, deliveries } = await open(t)
  await deliveries.use(withSinks(file('a', a)))
  const first = await settle(store)
  await waitFor('the first event', () => ids(a).length === 1)
  await deliveries.use(withSinks(file('a', a), file('b', b)))
  const second = await settle(store)
  await waitFor('the second event at both', () => ids(a).length === 2 && ids(b).includes(second))
  await deliveries.use(withSinks(file('b', b)))
  const third = await settle(store)
  await waitFor('the third event', () => ids(b).includes(third))
  t.same(ids(a), [first, second], 'a sink that is not configured gets nothing')
  await deliveries.use(withSinks(file('a', a), file('b', b)))
  await waitFor('the gap to be closed', () => ids(a).length === 3)
  t.same(ids(a), [first, second, third], 'no gap and no repetition')
})

t.test('a flush ends when nothing is left', async (t) => {
  const path = join(tmpDir(t), 'usage.ndjson')
  const { store, deliveries } = await open(t)
  await deliveries.use(withSinks(file('a', path)))
  const written = await Promise.all(Array.from({ length: 50 }, () => settle(store)))
  t.equal(await deliveries.flush(systemClock.nowMs() + 5_000), true)
  t.same(ids(path).sort(), written.sort())
})

t.test('dead events are delivered once more on request, and are then dead no longer', async (t) => {
  const path = join(tmpDir(t), 'usage.ndjson')
  const { store, deliveries } = await open(t)
  await store.outbox.setConsumers(['a'])
  const id = await settle(store)
  const nowMs = systemClock.nowMs()
  const fence = await store.outbox.lease('a', 'test', nowMs, nowMs + 1)
  if (fence === undefined) return t.fail('no lease')
  const [entry] = await store.outbox.read(fence, 1)
  if (entry === undefined) return t.fail('no entry')
  await store.outbox.bury(fence, entry, 'not wanted', nowMs)
  await store.outbox.advance(fence, [entry])
  t.equal((await store.outbox.dead('a')).length, 1)
  const config = withSinks(file('a', path))
  t.same(await deliveries.retryDead('a', config), { delivered: 1, failed: 0 })
  t.same(ids(path), [id])
  t.same(await store.outbox.dead('a'), [])
  t.same(await deliveries.retryDead(null, config), { delivered: 0, failed: 0 })
})

t.test('a sink that cannot be opened holds nobody up, and its events wait', async (t) => {
  const dir = tmpDir(t)
  writeFileSync(join(dir, 'taken'), '')
  const { store, deliveries } = await open(t)
  const good = join(dir, 'good.ndjson')
  await deliveries.use(withSinks(file('bad', join(dir, 'taken/usage.ndjson')), file('good', good)))
  const id = await settle(store)
  await waitFor('the good one', () => ids(good).includes(id))
  t.equal((await store.outbox.lag('bad')).count, 1)
})

t.test('a sink that cannot be opened is told like one that can: what waits for it, that it is sent nothing, why, and when it is tried again', async (t) => {
  const dir = tmpDir(t)
  const path = join(dir, 'folder')
  mkdirSync(path)
  const { store, deliveries, metrics } = await open(t)
  const gauge = async (name: string): Promise<number | null> => {
    const found = new RegExp(`^${name}\\{sink="file"\\} (\\S+)$`, 'm').exec(await metrics.text())?.[1]
    return found === undefined ? null : Number(found)
  }
  const config = withSinks(file('file', path))
  await deliveries.use(config)
  t.equal(await gauge('tallygate_sink_paused'), 1)
  t.match(deliveries.status().get('file'), { state: 'not open', reason: 'it is a folder (EISDIR)', lastDeliveryMs: null })
  const status = deliveries.status().get('file')
  const nextTryMs = typeof status === 'object' ? status.nextTryMs ?? 0 : 0
  t.ok(nextTryMs > systemClock.nowMs() && nextTryMs <= systemClock.nowMs() + 5_000)
  const lost = await settle(store)
  const id = await settle(store)
  const nowMs = systemClock.nowMs()
  const fence = await store.outbox.lease('file', 'test', nowMs, nowMs + 1)
  if (fence === undefined) return t.fail('no lease')
  const [entry] = await store.outbox.read(fence, 1)
  if (entry === undefined) return t.fail('no entry')
  await store.outbox.bury(fence, entry, 'not wanted', nowMs)
  await store.outbox.advance(fence, [entry])
  t.equal(entry.record.id, lost)
  await store.outbox.release(fence)
  await waitFor('what waits to be told', async () => await gauge('tallygate_outbox_events') === 1, { deadlineMs: 5_000 })
  t.ok((await gauge('tallygate_outbox_oldest_seconds') ?? 0) > 0)
  t.strictSame([await gauge('tallygate_dead_events'), await gauge('tallygate_quarantined_records'), await gauge('tallygate_outbox_missed_total')], [1, 0, 0])

  rmdirSync(path)
  deliveries.nudge('file')
  await waitFor('it to be delivered', () => existsSync(path) && ids(path).includes(id))
  t.match(await waitFor('it to be running', () => {
    const now = deliveries.status().get('file')
    return typeof now === 'object' && now.state === 'running' ? now : undefined
  }), { reason: null })
  t.equal(await gauge('tallygate_sink_paused'), 0)
  await waitFor('nothing to wait', async () => await gauge('tallygate_outbox_events') === 0, { deadlineMs: 5_000 })

  mkdirSync(join(dir, 'other'))
  await deliveries.use(withSinks(file('file', join(dir, 'other'))))
  t.equal(await gauge('tallygate_sink_paused'), 1, 'edited into one that cannot')
  await waitFor('it to be measured', async () => await gauge('tallygate_outbox_events') === 0, { deadlineMs: 5_000 })
  await deliveries.use(withSinks())
  t.same([...deliveries.status()], [])
  await waitFor('its series to end', async () => !/^tallygate_(?:outbox_events|outbox_oldest_seconds|dead_events|quarantined_records|sink_paused)\{/m.test(await metrics.text()), { deadlineMs: 5_000 })
})

t.test('several that cannot be opened are tried every five seconds, not ever more often, and one that is paused is left in peace', async (t) => {
  const dir = tmpDir(t)
  let requests = 0
  const receiver = createServer((_request, response) => {
    requests += 1
    response.writeHead(401).end()
  }).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  t.teardown(() => receiver.close())
  const clock = new VirtualClock(systemClock.nowMs())
  const log = new LogLines()
  const { store, deliveries } = await open(t, { clock, log })
  const locked: SinkConfig = {
    name: 'locked', type: 'webhook', mapping: null,
    settings: { url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`, private: true, format: 'batched', batch: 100, secrets: [], token: null, gzip: false },
  }
  await deliveries.use(withSinks(file('a', dir), file('b', dir), locked))
  await settle(store)
  await waitFor('it to be paused', async () => {
    await clock.run(0)
    const status = deliveries.status().get('locked')
    return typeof status === 'object' && status.state === 'paused'
  })
  const before = requests
  for (let round = 0; round < 4; round++) {
    await clock.run(5_000)
    await sleep(50)
    deliveries.nudge('a')
    await sleep(20)
  }
  const tries = log.lines.filter(({ message }) => message.startsWith('the sink cannot be opened')).length
  t.ok(tries >= 10 && tries <= 18, `${tries} tries of two sinks in twenty seconds, with four that were asked for`)
  t.equal(requests, before)
})
