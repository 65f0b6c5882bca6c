import { join } from 'node:path'
import { assert } from '../assert.ts'
import type { StoreConfig } from '../config/config.ts'
import type { Store } from '../stores/store.ts'
import { openLocalRollups } from './local-rollups.ts'
import type { Kept, Rollups } from './rollups.ts'

/** The file beside the embedded store. It may be thrown away while no gateway runs: it is made again from the events. */
export const ANALYTICS_FILE = 'analytics.db'

/** The roll-ups that belong to a store: beside it, or within it. */
export async function openRollups(config: StoreConfig, store: Store, kept: () => Kept): Promise<Rollups> {
  switch (config.kind) {
    case 'memory': return await openLocalRollups(':memory:')
    case 'embedded': return await openLocalRollups(join(config.dir, ANALYTICS_FILE))
    case 'redis': {
      // Only then: what it needs of the store is loaded with it.
      const [{ RedisRollups }, { sharedOf }] = await Promise.all([import('./redis-rollups.ts'), import('../stores/redis/store.ts')])
      const shared = sharedOf(store)
      assert(shared !== null, 'the store is in Redis')
      return new RedisRollups({ ...shared, kept })
    }
  }
}
