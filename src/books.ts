import { AccountChanges } from './accounts/account-changes.ts'
import { accountStanding } from './accounts/account-standing.ts'
import { SubscriptionChanges } from './accounts/subscriptions.ts'
import { GrantChanges } from './accounts/grants.ts'
import { StoredKeyDirectory } from './accounts/key-directory.ts'
import { MadeAccounts } from './accounts/made-accounts.ts'
import type { AdminParts, RunningGateway } from './admin/route.ts'
import { Analytics } from './analytics/analytics.ts'
import type { ArchivedEvents } from './analytics/projector.ts'
import { Archive } from './archive/archive.ts'
import type { ArchivedEvent } from './archive/archive.ts'
import { ARCHIVE, EventHistory } from './archive/history.ts'
import { withTime } from './clock.ts'
import type { Clock } from './clock.ts'
import type { Config } from './config/config.ts'
import { Deliveries, gapKind } from './deliveries.ts'
import type { Log } from './log.ts'
import type { UsageEvent } from './metering/event.ts'
import type { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import { accountForecasts } from './notices/account-forecasts.ts'
import { noticeConsumers } from './notices/notices.ts'
import { StoredPaces } from './notices/paces.ts'
import { reconcile, reconcileAndApply } from './reconciliation/reconcile.ts'
import { openSink } from './sinks/index.ts'
import { measureSpool } from './spool/measure.ts'
import { StoreUnavailable } from './stores/store.ts'
import type { Opening } from './stores/index.ts'
import type { Store } from './stores/store.ts'

/** The store with everything that reads and changes it, apart from calls: what a gateway and a command without a gateway have in common. */
export interface Books {
  readonly store: Store
  /** The time that everybody who shares the store goes by. */
  readonly clock: Clock
  readonly directory: StoredKeyDirectory
  readonly changes: AccountChanges
  readonly accounts: MadeAccounts
  readonly deliveries: Deliveries
  /** What is looked at. Nothing is counted before it is used. */
  readonly analytics: Analytics
  /** How fast limits are used. */
  readonly paces: StoredPaces
  /** So long after its admission a call may still be settled. */
  readonly forgetAfterMs: number
  /** For the admin API; `gateway` is given by the one who runs it. */
  adminParts(config: () => Config, gateway: RunningGateway | null): AdminParts
  close(): Promise<void>
}

export interface BooksParts {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  readonly stdout: NodeJS.WritableStream
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
    const directory = await patiently(clock, () => StoredKeyDirectory.open(store.records, config, clock))
    const changes = new AccountChanges(store.records, directory, clock, random)
    const subscriptions = new SubscriptionChanges(store.records, directory, changes, clock)
    const accounts = new MadeAccounts(store, directory, changes, clock)
    const grants = new GrantChanges(store, directory, changes, clock, random)
    const paces = await patiently(clock, () => StoredPaces.open(store.records))
    const analytics = new Analytics({
      outbox: store.outbox, clock, log, onHold: () => void deliveries.tellConsumers().catch((error: unknown) => log.warn({ error: String(error) }, 'the store could not be told its consumers')),
      open: async (kept) => (await import('./analytics/open-rollups.ts')).openRollups(config.store, store, kept),
      archive: (current) => archivedBy(archiveOf(current, log)),
    })
    const deliveries: Deliveries = new Deliveries({
      outbox: store.outbox, records: store.records, clock, random, log, metrics, stdout, further: (current) => [...noticeConsumers(current), ...analytics.consumers(current)],
      calendarOf: (id) => directory.accountOf(id)?.calendar,
    })
    return {
      store, clock, directory, changes, accounts, deliveries, analytics, paces, forgetAfterMs: openingOf(config, parts).forgetAfterMs,
      adminParts(current, gateway) {
        const history = new EventHistory({ outbox: store.outbox, archive: () => archiveOf(current(), log), clock })
        return {
          config: current, analytics, directory, changes, subscriptions, grants, accounts, outbox: store.outbox, records: store.records, history, clock, gateway,
          standing: (id) => accountStanding({ directory, store, paces }, id, clock.nowMs()),
          forecasts: (ids) => accountForecasts({ directory, store, paces }, ids, clock.nowMs()).catch((error: unknown) => {
            // Who asks about accounts is answered while the store is away, too.
            if (error instanceof StoreUnavailable) return new Map<string, number>()
            throw error
          }),
          storeStatus: () => store.status(),
          pendingCall: async (id) => store.pending?.(id),
          inspectStore: () => inspect(store, current()),
          quarantined: async () => (await store.records.list('quarantine')).map(({ id }) => id),
          retryDead: (consumer) => deliveries.retryDead(consumer, current()),
          deliveryStatus: () => deliveries.status(),
          nudge: (sink) => deliveries.nudge(sink),
          withheld: (sink) => deliveries.quarantined(sink),
          releaseWithheld: (sink, ids, how) => deliveries.release(current(), sink, ids, how),
          credit: (sink, event) => deliveries.credit(current(), sink, event),
          reconcile: async (config, asked, note) => {
            const about = {
              outbox: store.outbox, records: store.records, history, clock, metrics,
              keptSinceMs: async () => (archiveOf(current(), log) === null ? await store.outbox.completeSince?.() ?? 0 : 0),
            }
            const sink = await openSink(config, { clock, random, stdout, instance: current().instance })
            try {
              const found = await (note === null ? reconcile(config, sink, asked, about) : reconcileAndApply(config, sink, asked, about, note))
              // One account says nothing of the others, and a receiver that cannot be asked nothing at all.
              if (asked.account === null && found.asked !== 'nothing') metrics.unexplained.set({ sink: config.name }, found.unexplained)
              return found
            } finally {
              await sink.close().catch(() => undefined)
            }
          },
          replay: (sink, sinceMs) => deliveries.replay(sink, current().instance, sinceMs, history),
        }
      },
      async close() {
        await analytics.stop()
        await deliveries.stop()
        directory.close()
        paces.close()
        await store.close()
      },
    }
  } catch (error) {
    await store.close()
    throw error
  }
}

const patienceMs = 10_000
const readAgainMs = 100

/** A store that has just been opened may be gone again, or slower than its deadline while many processes start at once: reading is tried again for a while. */
async function patiently<Read>(clock: Clock, read: () => Promise<Read>): Promise<Read> {
  const untilMs = clock.monotonicMs() + patienceMs
  for (;;) {
    try {
      return await read()
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      if (clock.monotonicMs() >= untilMs) throw new BooksUnavailable(`the store cannot be read: ${error.message}`, { cause: error })
    }
    await clock.sleep(readAgainMs)
  }
}

/** What the configured archive has; null: there is none. */
function archiveOf({ events, sinks }: Config, log: Log): Archive | null {
  const path = sinks.find(({ name }) => name === ARCHIVE)?.settings['path']
  return events.archive === null || typeof path !== 'string' ? null : new Archive(path, log)
}

function archivedBy(archive: Archive | null): ArchivedEvents | null {
  return archive === null ? null : {
    consumer: ARCHIVE,
    async snapshot() {
      const until = await archive.end()
      return until === null ? noEvents() : eventsOf(archive.read({ sinceMs: 0, until }))
    },
  }
}

async function* noEvents(): AsyncGenerator<UsageEvent> {}

async function* eventsOf(archived: AsyncIterable<ArchivedEvent>): AsyncGenerator<UsageEvent> {
  for await (const { event } of archived) yield event
}

async function inspect(store: Store, { store: config }: Config): ReturnType<AdminParts['inspectStore']> {
  const gaps = (await store.records.list(gapKind)).map(({ id, value }) => ({ sink: id, events: Number(value['events'] ?? 0), atMs: Number(value['at_ms'] ?? 0) }))
  return {
    details: await store.inspect?.() ?? null, gaps,
    spool: config.kind === 'redis' && config.spool !== null ? { directory: config.spool, measure: measureSpool(config.spool) } : null,
  }
}

/** What a store is opened with under this configuration. */
export function openingOf({ server, upstreams, events }: Config, { clock, random, log, adminAddress, acceptLoss }: Omit<BooksParts, 'metrics' | 'stdout'>): Opening {
  const longestMs = Math.max(server.timeouts.totalMs, ...[...upstreams.values()].map(({ timeouts }) => timeouts?.totalMs ?? 0))
  return {
    clock, random, log, forgetAfterMs: longestMs + rememberMs, hotMs: events.hotMs, acceptLoss: acceptLoss ?? false, ...(adminAddress === undefined ? {} : { adminAddress }),
  }
}

async function openStoreOf(config: Config, parts: BooksParts): Promise<Store> {
  try {
    const { openStore } = await import('./stores/index.ts')
    return await openStore(config.store, openingOf(config, parts))
  } catch (error) {
    const known = error instanceof StoreUnavailable || (error instanceof Error && ['DirectoryRefused', 'JournalDamaged', 'StoreRefused'].includes(error.name))
    const advice = error instanceof Error && error.name === 'JournalDamaged' ? '; `tallygate store repair` writes what can be read to a copy, with a report' : ''
    if (known) throw new BooksUnavailable(`${error.message}${advice}`, { cause: error })
    throw error
  }
}
