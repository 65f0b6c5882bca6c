import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openRedis, type RedisOptions } from '../../src/stores/redis/redis.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { FORGET_AFTER_MS } from './sample-moves.ts'

/** A gateway's store in a Redis of the test's; it is closed with the test. `prefix` keeps tests of one server apart. */
export async function openTestStore(t: Teardown, url: string, options: Partial<RedisOptions> = {}): Promise<RedisStore> {
  const store = await openRedis({
    url, prefix: 'test', partitions: 16, deadlineMs: 1_000, durability: 'none', confirm: { replicas: 0, fsync: false }, eventsMax: 1_000_000, memoryDir: null,
    clock: systemClock, random: systemRandom, log: silentLog, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000, acceptLoss: false, ...options,
  })
  t.teardown(() => store.close())
  return store
}
