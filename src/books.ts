import { AccountChanges } from './accounts/account-changes.ts'
import { SubscriptionChanges } from './accounts/subscriptions.ts'
import { StoredKeyDirectory } from './accounts/key-directory.ts'
import type { AdminParts, RunningGateway } from './admin/route.ts'
import { withTime } from './clock.ts'
import type { Clock } from './clock.ts'
import type { Config } from './config/config.ts'
import { Deliveries } from './deliveries.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import { StoreUnavailable } from './stores/store.ts'
import type { Store } from './stores/store.ts'
import type { Writable } from 'node:stream'

/** The store with everything that reads and changes it, apart from calls: what a gateway and a command without a gateway have in common. */
export interface Books {
  readonly store: Store
  /** The time that everybody who shares the store goes by. */
  readonly clock: Clock
  readonly directory: StoredKeyDirectory
  readonly changes: AccountChanges
  readonly deliveries: Deliveries
  /** For the admin API; `gateway` is given by the one who runs it. */
  adminParts(config: () => Config, gateway: RunningGateway | null): AdminParts
  close(): Promise<void>
}

export interface BooksParts {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  readonly stdout: Writable
  /** Told to whoever finds the store taken. */
  readonly adminAddress?: string
  /** The operator has said that acknowledged moves may be missing (a restored backup). */
  readonly acceptLoss?: boolean
}

/** The store cannot be opened; the message is a sentence that says what to do. */
export class BooksUnavailable extends Error {
  override name = 'BooksUnavailable'
}

/** A closed reservation is remembered for this much longer than the longest exchange. */
const rememberMs = 3_600_000

export async function openBooks(config: Config, parts: BooksParts): Promise<Books> {
  const { random, log, metrics, stdout } = parts
  const store = await openStoreOf(config, parts)
  const clock = store.nowMs === undefined ? parts.clock : withTime(parts.clock, () => store.nowMs?.() ?? parts.clock.nowMs())
  try {
    const directory = await StoredKeyDirectory.open(store.records, config, clock)
    const changes = new AccountChanges(store.records, directory, clock, random)
    const subscriptions = new SubscriptionChanges(store.records, directory, changes, clock)
    const deliveries = new Deliveries({ outbox: store.outbox, clock, random, log, metrics, stdout })
    return {
      store, clock, directory, changes, deliveries,
      adminParts: (current, gateway) => ({
        config: current, directory, changes, subscriptions, outbox: store.outbox, clock, gateway,
        storeStatus: () => store.status(),
        quarantined: async () => (await store.records.list('quarantine')).map(({ id }) => id),
        retryDead: (consumer) => deliveries.retryDead(consumer, current()),
      }),
      async close() {
        await deliveries.stop()
        directory.close()
        await store.close()
      },
    }
  } catch (error) {
    await store.close()
    throw error
  }
}

async function openStoreOf({ store, server, upstreams, events }: Config, { clock, random, log, adminAddress, acceptLoss }: BooksParts): Promise<Store> {
  const longestMs = Math.max(server.timeouts.totalMs, ...[...upstreams.values()].map(({ timeouts }) => timeouts?.totalMs ?? 0))
  try {
    const { openStore } = await import('./stores/index.ts')
    return await openStore(store, {
      clock, random, log, forgetAfterMs: longestMs + rememberMs, hotMs: events.hotMs, acceptLoss: acceptLoss ?? false, ...(adminAddress === undefined ? {} : { adminAddress }),
    })
  } catch (error) {
    const known = error instanceof StoreUnavailable || (error instanceof Error && ['DirectoryRefused', 'JournalDamaged', 'StoreRefused'].includes(error.name))
    const advice = error instanceof Error && error.name === 'JournalDamaged' ? '; `tallygate store repair` writes what can be read to a copy, with a report' : ''
    if (known) throw new BooksUnavailable(`${error.message}${advice}`, { cause: error })
    throw error
  }
}
