// test: timeout 300 s
import t from 'tap'
import { RedisRollups } from '../../src/analytics/redis-rollups.ts'
import type { Kept } from '../../src/analytics/rollups.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { toPosition } from '../../src/stores/redis/event-position.ts'
import type { KeyNames } from '../../src/stores/redis/keys.ts'
import { startRedis, startRedisCluster } from '../fixtures/redis.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { rollupLaws, startMs } from './rollups.ts'

t.setTimeout(280_000)
const single = await startRedis(t, {})
const cluster = await startRedisCluster(t)
/** The laws' events are of another time than the server's. */
const forEver: Kept = { minute: 1e13, hour: 1e13, day: 1e13, month: 1e13 }

/** Where events lie: in the partition of their account, behind those before them. */
function inPartitions(events: readonly UsageEvent[], keys: KeyNames): string[] {
  const ordinals = new Map<number, number>()
  return events.map((event) => {
    const partition = keys.partitionOf(event.subject)
    const ordinal = (ordinals.get(partition) ?? 0) + 1
    ordinals.set(partition, ordinal)
    return toPosition({ ms: startMs + ordinal, partition, ordinal })
  })
}

for (const [name, url] of [['in Redis', single.url], ['in a Redis cluster', cluster.url]] as const) {
  const store = await openTestStore(t, url, { prefix: name.replaceAll(' ', '-') })
  rollupLaws(t, name, async () => new RedisRollups({ ...store.shared, kept: () => forEver }), (events) => inPartitions(events, store.shared.keys), 1_500)
}

t.test('who keeps longer from now on has everything from now on', async (t) => {
  const store = await openTestStore(t, single.url, { prefix: 'kept-longer' })
  let kept: Kept = { minute: 1e8, hour: 2e8, day: 3e8, month: 4e8 }
  const rollups = new RedisRollups({ ...store.shared, kept: () => kept })
  t.teardown(() => rollups.close())
  await rollups.reset()
  await rollups.complete()
  await rollups.prune(startMs, kept)
  t.same(await rollups.wholeSince(), { minute: 0, hour: 0, day: 0, month: 0 })
  kept = { ...kept, hour: 9e8 }
  t.same(await rollups.wholeSince(), { minute: 0, hour: Infinity, day: 0, month: 0 }, 'before anything was removed under it, too')
  await rollups.prune(startMs + 5_000, kept)
  t.same(await rollups.wholeSince(), { minute: 0, hour: startMs + 5_000, day: 0, month: 0 })
  kept = { ...kept, hour: 1e8 }
  await rollups.prune(startMs + 9_000, kept)
  t.same((await rollups.wholeSince()).hour, startMs + 5_000)
  await rollups.reset()
  t.same(await rollups.wholeSince(), { minute: 0, hour: 0, day: 0, month: 0 }, 'made again, all that there is is in them')
})
