import type { RedisStoreConfig, StoreConfig } from '../config/config.ts'
import { CommandFailed } from './command.ts'

/**
 * The store that `--to` names. A Redis takes over the settings of the configured one, where that is a Redis, but has no folder of its own: no gateway of this
 * machine knows it yet.
 */
export async function storeTarget(url: string, given: { readonly prefix: string | undefined; readonly partitions: string | undefined }, like: StoreConfig): Promise<StoreConfig> {
  if (url === 'memory:') throw new CommandFailed('a store in memory is gone with the command that fills it', 2)
  if (/^embedded:./.test(url)) {
    if (given.prefix !== undefined || given.partitions !== undefined) throw new CommandFailed('--prefix and --partitions belong to a Redis store', 2)
    return { kind: 'embedded', dir: url.slice('embedded:'.length), synchronous: 'full' }
  }
  const { redisUrlOf } = await import('../config/redis-url.ts')
  const answer = redisUrlOf(url)
  if ('problem' in answer) throw new CommandFailed(/^[a-z+]*:/.test(url) ? `--to: the address ${answer.problem}` : `--to: write embedded:DIRECTORY or a redis:// address`, 2)
  const defaults: RedisStoreConfig = like.kind === 'redis' ? like : {
    kind: 'redis', url, spool: null, spoolMaxBytes: 0, prefix: 'tallygate', partitions: 256, deadlineMs: 250, durability: 'everysec', confirm: { replicas: 0, fsync: false }, eventsMax: 1_000_000,
  }
  const prefix = given.prefix ?? defaults.prefix
  // As in the configuration.
  if (!/^[A-Za-z0-9._:/-]{1,64}$/.test(prefix)) throw new CommandFailed('--prefix has letters, digits and . _ : / - (64 at most)', 2)
  const partitions = given.partitions === undefined ? defaults.partitions : Number(given.partitions)
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > 4_096) throw new CommandFailed('--partitions is a whole number from 1 to 4096', 2)
  return { ...defaults, url, spool: null, prefix, partitions }
}
