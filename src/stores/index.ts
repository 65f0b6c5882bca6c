import type { Clock } from '../clock.ts'
import type { StoreConfig } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Random } from '../random.ts'
import { timeOfId } from '../metering/id.ts'
import { openEmbedded } from './embedded/embedded.ts'
import { fillEmbedded } from './embedded/fill.ts'
import { openMemory } from './memory/memory.ts'
import { RowsRefused, type Filled, type Homes, type StoreRow } from './rows.ts'
import type { Store } from './store.ts'

export { repair } from './embedded/repair.ts'
export { RowsRefused } from './rows.ts'

/** What every store is opened with. */
export interface Opening {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** How long a closed reservation is remembered: the longest exchange and an hour. */
  readonly forgetAfterMs: number
  /** How long delivered events stay readable. */
  readonly hotMs: number
  /** The operator has said that acknowledged moves may be missing. */
  readonly acceptLoss: boolean
  /** Told to whoever finds the store taken. */
  readonly adminAddress?: string
}

/** Every store, by the name that the configuration uses. A package that only one of them needs is loaded with it. */
const stores: { readonly [Kind in StoreConfig['kind']]: (config: Extract<StoreConfig, { kind: Kind }>, opening: Opening) => Promise<Store> } = {
  embedded: ({ dir, synchronous }, opening) => openEmbedded({ ...opening, dir, synchronous }),
  memory: (_config, opening) => openMemory(opening),
  redis: async ({ url, spool, prefix, partitions, deadlineMs, durability, confirm, eventsMax }, opening) => {
    const { openRedis } = await import('./redis/redis.ts')
    return openRedis({ ...opening, url, prefix, partitions, deadlineMs, durability, confirm, eventsMax, memoryDir: spool })
  },
}

/** Throws StoreUnavailable, or an error of the store's own whose message is a sentence for the operator. */
export function openStore(config: StoreConfig, opening: Opening): Promise<Store> {
  return (stores[config.kind] as (config: StoreConfig, opening: Opening) => Promise<Store>)(config, opening)
}

/** Makes a store of another's rows, where there is none yet. Throws RowsRefused, or what `openStore` throws. */
export async function fillStore(config: StoreConfig, opening: Opening, rows: AsyncIterable<StoreRow>, homes: Homes): Promise<Filled> {
  switch (config.kind) {
    case 'memory': throw new RowsRefused('a store in memory cannot be filled: it is gone with the command that fills it')
    case 'embedded': return fillEmbedded({ dir: config.dir, nowMs: opening.clock.nowMs(), forgetAfterMs: opening.forgetAfterMs, timeOf: timeOfId }, rows)
    case 'redis': {
      const { url, prefix, partitions, deadlineMs, durability, confirm, eventsMax } = config
      const { fillEmptyRedis } = await import('./redis/redis.ts')
      return fillEmptyRedis({ ...opening, url, prefix, partitions, deadlineMs, durability, confirm, eventsMax, memoryDir: null }, rows, homes)
    }
  }
}
