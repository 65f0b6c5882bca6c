// test: timeout 120 s
// A sink gets again what only the archive still has, with the same ids, before what the store has; and what it has missed is told.

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import t from 'tap'
import { Archive } from '../../src/archive/archive.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { systemClock, type Clock } from '../../src/clock.ts'
import type { Config, SinkConfig } from '../../src/config/config.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { exchangeId } from '../../src/metering/id.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { eventBody, settleOf } from '../stores/sample-moves.ts'

const hourMs = 3_600_000

/** The real clock, some time ahead; the store's housekeeping runs when the test says so. */
class AheadClock implements Clock {
  aheadMs = 0
  #tasks: (() => void)[] = []
  nowMs(): number { return systemClock.nowMs() + this.aheadMs }
  monotonicMs(): number { return systemClock.monotonicMs() }
  after(delayMs: number, task: () => void, options?: { unref?: boolean }): () => void { return systemClock.after(delayMs, task, options) }
  every(_periodMs: number, task: () => void): () => void {
    this.#tasks.push(task)
    return () => { this.#tasks = this.#tasks.filter((each) => each !== task) }
  }
  sleep(delayMs: number): Promise<void> { return systemClock.sleep(delayMs) }
  tick(): void { for (const task of this.#tasks) task() }
}

const fileSink = (name: string, path: string): SinkConfig => ({ name, type: 'file', settings: { path, max_bytes: 1e9, daily: false, keep: null }, mapping: null })
const idsIn = (path: string): string[] => readFileSync(path, 'utf8').trim().split('\n').filter((line) => line !== '').map((line) => (JSON.parse(line) as { id: string }).id)

function gateway(t: Teardown, store: Store, dir: string, clock: Clock, sinks: readonly SinkConfig[]) {
  const log = new LogLines()
  const metrics = new Metrics()
  const archive = fileSink('archive', join(dir, 'archive/events.ndjson'))
  const config = { sinks: [...sinks, archive], instance: 'test' } as unknown as Config
  const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random: systemRandom, log, metrics, stdout: new PassThrough() })
  const history = new EventHistory({ outbox: store.outbox, archive: () => new Archive(join(dir, 'archive/events.ndjson'), log), clock })
  t.teardown(() => deliveries.stop())
  return { deliveries, history, config, log, metrics }
}

async function settle(store: Store, atMs: number): Promise<string> {
  const id = exchangeId(atMs, systemRandom.bytes(10))
  await store.settle(settleOf(id, atMs, 'acme', [], [], { event: { ...eventBody, account: 'acme', settled_at: new Date(atMs).toISOString() } }))
  return id
}

/** Six events, of which the store has forgotten the first four. */
async function rig(t: Teardown) {
  const clock = new AheadClock()
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  const store = await openMemory({ clock, forgetAfterMs: hourMs, hotMs: 2.5 * hourMs })
  t.teardown(() => store.close())
  const sink = fileSink('file', path)
  const one = gateway(t, store, dir, clock, [sink])
  await one.deliveries.use(one.config)
  const ids: string[] = []
  const startMs = clock.nowMs()
  for (let n = 0; n < 6; n++) {
    ids.push(await settle(store, clock.nowMs()))
    await waitFor('delivery', async () => (await store.outbox.lag('file')).count === 0 && (await store.outbox.lag('archive')).count === 0)
    clock.aheadMs += hourMs
    clock.tick()
  }
  t.teardown(() => undefined)
  return { ...one, clock, dir, path, store, sink, ids, startMs }
}

t.test('a replay from before what the store has comes out of the archive first, then from the store, and the loop goes on', async (t) => {
  const { store, deliveries, history, config, sink, path, ids, startMs, clock } = await rig(t)
  t.ok((await store.outbox.scan(null, 100)).length <= 3, 'the store has forgotten most')
  t.same(idsIn(path), ids)
  // Its receiver has lost everything.
  rmSync(path)
  const replayed = await deliveries.replay(sink, config.instance, startMs + hourMs, history)
  await replayed.done
  await waitFor('all of it', () => idsIn(path).length >= 5)
  t.same(idsIn(path), ids.slice(1), 'the same ids, in their order')
  t.ok(replayed.archived >= 3)
  const last = await settle(store, clock.nowMs())
  await waitFor('what comes next', () => idsIn(path).at(-1) === last)
})

t.test('a replay that the store can serve alone reads no archive', async (t) => {
  const { deliveries, history, config, sink, path, ids, clock } = await rig(t)
  rmSync(path)
  const replayed = await deliveries.replay(sink, config.instance, clock.nowMs() - hourMs - 1_000, history)
  t.match(replayed, { archived: 0, events: 1 })
  await waitFor('the last one', () => existsSync(path) && idsIn(path).length === 1)
  t.same(idsIn(path), [ids[5]])
})

t.test('a replay waits for a sink that is away, is taken over by a newer one, and ends with the process', async (t) => {
  const { deliveries, history, config, clock, dir, startMs, store } = await rig(t)
  // Its file is a folder: it cannot be opened.
  const broken = fileSink('broken', dir)
  await deliveries.use({ ...config, sinks: [...config.sinks, broken] })
  const first = await deliveries.replay(broken, config.instance, startMs, history)
  await first.done
  // One that opens and then fails: /dev/full takes nothing.
  const full = fileSink('full', '/dev/full')
  const second = await deliveries.replay(full, config.instance, startMs, history)
  const third = await deliveries.replay(full, config.instance, startMs, history)
  await second.done
  const before = clock.nowMs()
  await deliveries.stop()
  await third.done
  t.ok(clock.nowMs() - before < 10_000)
  t.ok(await store.outbox.lease('full', 'another', clock.nowMs(), clock.nowMs() + 1_000), 'the lease is let go')
})

t.test('over Redis the replay takes the lease from whichever gateway delivers, and gives it back', async (t) => {
  const server = await startRedis(t, {})
  const dir = tmpDir(t)
  const path = join(dir, 'usage.ndjson')
  const sink = fileSink('file', path)
  const [a, b] = [await openTestStore(t, server.url, { partitions: 4 }), await openTestStore(t, server.url, { partitions: 4 })]
  const one = gateway(t, a, dir, systemClock, [sink])
  await one.deliveries.use(one.config)
  const ids: string[] = []
  const startMs = systemClock.nowMs()
  for (let n = 0; n < 5; n++) ids.push(await settle(a, startMs + n))
  await waitFor('delivery', async () => (await a.outbox.lag('file')).count === 0 && (await a.outbox.lag('archive')).count === 0)
  const two = gateway(t, b, dir, systemClock, [sink])
  await two.deliveries.use(two.config)
  // All of it leaves the store: it was all in one partition.
  const position = (await a.outbox.scan(null, 1))[0]!.position
  await server.cli('XTRIM', `test:{p${Number(position.slice(16, 20))}}:out`, 'MAXLEN', '1')
  await waitFor('a moment', () => systemClock.nowMs() > startMs + 20)
  rmSync(path)
  const replayed = await two.deliveries.replay(sink, 'test', startMs, two.history)
  await replayed.done
  await waitFor('all of it', () => idsIn(path).length >= 5)
  t.same(idsIn(path), ids)
  const last = await settle(a, systemClock.nowMs())
  await waitFor('what comes next', () => idsIn(path).includes(last), { deadlineMs: 10_000 })
})

t.test('a sink that was away while events left the store is told to have missed them: log, metric, and for good', async (t) => {
  const { store, deliveries, config, clock, dir, ids, log, metrics } = await rig(t)
  const sink = fileSink('late', join(dir, 'late.ndjson'))
  const withLate = { ...config, sinks: [...config.sinks, sink] }
  await deliveries.use(withLate)
  await waitFor('what there is', async () => (await store.outbox.lag('late')).count === 0)
  clock.tick()
  t.equal(await store.records.get('gap', 'late'), undefined, 'a new sink has missed nothing: it begins with what is there')
  await deliveries.use(config)
  for (let n = 0; n < 4; n++) {
    ids.push(await settle(store, clock.nowMs()))
    await waitFor('delivery', async () => (await store.outbox.lag('file')).count === 0 && (await store.outbox.lag('archive')).count === 0)
    clock.aheadMs += hourMs
    clock.tick()
  }
  await deliveries.use(withLate)
  await waitFor('the rest', async () => (await store.outbox.lag('late')).count === 0)
  clock.tick()
  await waitFor('the gap to be kept', async () => await store.records.get('gap', 'late') !== undefined)
  const missed = Number((await store.records.get('gap', 'late'))?.['events'])
  t.ok(missed >= 1 && missed <= 3, String(missed))
  t.match(log.text, /warn events were removed before this sink had them.*"late"/)
  t.match(await metrics.text(), /tallygate_outbox_missed_total\{sink="late"\} [123]/)
  clock.tick()
  t.equal(Number((await store.records.get('gap', 'late'))?.['events']), missed, 'once')
})
