// test: timeout 240 s
import t from 'tap'
import type { Test } from 'tap'
import { Projector, ROLLUPS } from '../../src/analytics/projector.ts'
import { RedisRollups } from '../../src/analytics/redis-rollups.ts'
import { bucketOf } from '../../src/analytics/rollups.ts'
import type { Rollups } from '../../src/analytics/rollups.ts'
import { systemClock } from '../../src/clock.ts'
import { withTime } from '../../src/clock.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { check, eventBody, newId, settleOf } from '../stores/sample-moves.ts'
import { chance } from './rollups.ts'

t.setTimeout(220_000)
const kept = { minute: 6 * 3_600_000, hour: 45 * 86_400_000, day: 800 * 86_400_000, month: 3_660 * 86_400_000 }

async function settle(store: RedisStore, count: number): Promise<void> {
  const nowMs = Date.now()
  await Promise.all(Array.from({ length: count }, (_each, i) => {
    const account = `acct-${i % 23}`
    return store.settle({ ...settleOf(newId(nowMs), nowMs, account, [check(`${account} tokens`, null, 1)], [5]), event: { ...eventBody, account, settled_at: new Date(nowMs).toISOString() } })
  }))
}

async function counted(rollups: Rollups): Promise<number> {
  const month = bucketOf('month', Date.now() - 3_600_000)
  const [row] = await rollups.usage({ unit: 'month', fromMs: month, untilMs: month + 80 * 86_400_000, by: [], series: false, only: {}, latencies: false, top: null })
  return row?.counts.events ?? 0
}

function project(t: Test, store: RedisStore, holder: string, rollups: Rollups = new RedisRollups({ ...store.shared, kept: () => kept })): Projector {
  const projector = new Projector({
    outbox: store.outbox, rollups: async () => rollups, clock: withTime(systemClock, () => store.nowMs()), holder, kept: () => kept, archive: () => null,
    holdEvents: () => 200_000, holds: () => undefined, tell: () => undefined, failed: () => undefined,
  })
  t.teardown(() => projector.stop())
  projector.start()
  return projector
}

t.test('two replicas: one of them counts, the other takes over, and each event is counted once', async (t) => {
  const redis = await startRedis(t, {})
  const one = await openTestStore(t, redis.url, { prefix: 'two' })
  const two = await openTestStore(t, redis.url, { prefix: 'two' })
  await one.outbox.setConsumers([ROLLUPS])
  const reading = new RedisRollups({ ...two.shared, kept: () => kept })
  let settled = 0
  const first = project(t, one, 'one')
  const second = project(t, two, 'two')
  for (let round = 0; round < 4; round++) {
    await settle(round % 2 === 0 ? one : two, 200)
    settled += 200
    await systemClock.sleep(300)
  }
  await waitFor('all', async () => await counted(reading) === settled, { deadlineMs: 20_000 })
  await settle(two, 300)
  settled += 300
  // In the middle of it.
  await first.stop()
  await waitFor('the other has taken over', async () => await counted(reading) === settled, { deadlineMs: 20_000 })
  await systemClock.sleep(1_000)
  t.equal(await counted(reading), settled)
  t.equal((await two.outbox.lag(ROLLUPS)).count, 0)
  await second.stop()
})

t.test('two that both believe to be the one, and whose answers are lost, count each event once', async (t) => {
  const redis = await startRedis(t, {})
  const store = await openTestStore(t, redis.url, { prefix: 'both' })
  await store.outbox.setConsumers([ROLLUPS])
  const next = chance(23)
  const counters = [0, 1, 2].map(() => new RedisRollups({ ...store.shared, kept: () => kept }))
  await settle(store, 900)
  const entries = await store.outbox.scan(null, 1_000)
  t.equal(entries.length, 900)
  const { incrementOfRecord } = await import('../../src/analytics/projection.ts')
  const all = entries.map(({ record, position }) => ({ id: record.id, position, increment: incrementOfRecord(record) }))
  // Each goes its own way through them, as often as it takes, with batches that begin again before their middle.
  await Promise.all(counters.map(async (rollups) => {
    for (let at = 0; at < all.length;) {
      const batch = all.slice(at, at + 1 + Math.floor(next() * 120))
      try {
        await rollups.count(batch, await rollups.generation())
        at += next() < 0.4 ? Math.floor(batch.length / 2) : batch.length
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        at = Math.max(0, at - 200)
      }
    }
  }))
  t.equal(await counted(counters[0]!), 900)
})

t.test('scripts whose answers are lost, and connections that break, change no count', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const direct = await openTestStore(t, redis.url, { prefix: 'lossy' })
  const lossy = await openTestStore(t, relay.url, { prefix: 'lossy' })
  await direct.outbox.setConsumers([ROLLUPS])
  const reading = new RedisRollups({ ...direct.shared, kept: () => kept })
  project(t, lossy, 'lossy')
  let settled = 0
  for (let round = 0; round < 7; round++) {
    const before = relay.seen(/^EVALSHA .*counted/)
    relay.cut(round % 2 === 0 ? 'after' : 'before', /^EVALSHA .*counted/, 1 + round * 2)
    if (round % 3 === 2) relay.cut('after', /^EVALSHA .*cursor:rollups/, 3)
    await settle(direct, 100)
    settled += 100
    if (round === 5) relay.drop()
    await waitFor('all', async () => await counted(reading) === settled, { deadlineMs: 30_000 })
    t.ok(relay.seen(/^EVALSHA .*counted/) > before + 10)
    relay.heal()
  }
  await systemClock.sleep(1_500)
  t.equal(await counted(reading), settled)
})

t.test('a server that comes back without its last seconds has lost rows and marks together: what is settled again is counted again, once', async (t) => {
  const redis = await startRedis(t, {})
  const store = await openTestStore(t, redis.url, { prefix: 'tail' })
  await store.outbox.setConsumers([ROLLUPS])
  const rollups = new RedisRollups({ ...store.shared, kept: () => kept })
  project(t, store, 'tail', rollups)
  await settle(store, 200)
  await waitFor('the first', async () => await counted(rollups) === 200, { deadlineMs: 20_000 })
  await redis.cli('SAVE')
  await settle(store, 150)
  await waitFor('the next', async () => await counted(rollups) === 350, { deadlineMs: 20_000 })
  await redis.stop('SIGKILL')
  await redis.start()
  await waitFor('it admits', () => store.status().admitting, { deadlineMs: 20_000 })
  // The settlements of the last minute are repeated by the store itself.
  await waitFor('all of them again', async () => await counted(rollups).catch(() => 0) === 350, { deadlineMs: 40_000 })
  await settle(store, 50)
  await waitFor('more', async () => await counted(rollups) === 400, { deadlineMs: 20_000 })
  await systemClock.sleep(1_500)
  t.equal(await counted(rollups), 400)
  t.equal((await store.outbox.scan(null, 1_000)).length, 400)
})
