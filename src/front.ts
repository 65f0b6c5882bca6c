import { BooksUnavailable } from './books.ts'
import type { Books } from './books.ts'
import type { Clock } from './clock.ts'
import type { Address, Config, StoreConfig } from './config/config.ts'
import { Gateway } from './gateway/gateway.ts'
import type { Bounds } from './gateway/parts.ts'
import { Guard } from './gateway/guard.ts'
import { startServer } from './gateway/server.ts'
import type { Log } from './log.ts'
import type { Metrics, MetricsSnapshot } from './metrics.ts'
import { httpEndpoint, providers } from './providers/index.ts'
import { tokenizer } from './providers/tokenizer.ts'
import type { Random } from './random.ts'
import { openSpool } from './spool/spool.ts'
import type { Spool } from './spool/spool.ts'
import { StoreUnavailable } from './stores/store.ts'
import type { Telemetry } from './telemetry/telemetry.ts'

/** What answers callers: in this process, or in workers that share the port. */
export interface Front {
  readonly address: Address
  /** Uses another configuration. Resolves when it is in force for new calls, as far as it could be. */
  use(config: Config): Promise<void>
  /** Accepts a little longer, finishes what runs, settles all. Called again it cuts what runs. Resolves when nothing is left. */
  drain(): Promise<void>
  /** What other processes have measured. */
  snapshots(): Promise<readonly MetricsSnapshot[]>
  /** Cuts what is left. */
  close(): Promise<void>
}

export interface FrontParts {
  /** The configuration of this moment. */
  config(): Config
  readonly books: Books
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Of the product, for those who are told of it. */
  readonly version: string
  /** The number of this process among several that share the port. */
  readonly worker?: number
}

/** An address cannot be listened on. */
export class AddressUnavailable extends Error {
  override name = 'AddressUnavailable'
}

/** Callers are answered by this process. Throws AddressUnavailable, or BooksUnavailable when its spool cannot be had. */
export async function openFront(parts: FrontParts): Promise<Front> {
  const { config, books, random, log, metrics } = parts
  const { clock } = books
  const spool = await spoolOf(parts)
  const telemetry = await telemetryOf(parts)
  const gateway = new Gateway({
    config, keys: books.directory, onlooker: books.analytics.traffic, paces: books.paces, history: books.analytics.historyOf(config), store: books.store, spool, providers, httpEndpoint, clock, random, log, metrics, telemetry, guard: new Guard(), tokenizer,
    ...boundsOf(config().store),
  })
  books.analytics.traffic.open = () => ({ open: gateway.openExchanges, streams: gateway.openStreams })
  const cutAll = (): void => gateway.cutAll()
  const { listen } = config().server
  try {
    const server = await listening(listen, startServer({
      listen, settings: () => config().server, clock, log, metrics,
      handle: (d) => gateway.handle(d),
      handleUpgrade: (d, request, socket, head) => gateway.handleUpgrade(d, request, socket, head),
      ready: () => ({ ready: true, reason: '' }),
    }))
    return {
      address: server.address,
      // It asks for the configuration with every call.
      use: async () => undefined,
      async drain() {
        await server.drain(cutAll)
        await gateway.idle()
      },
      snapshots: async () => [],
      async close() {
        await server.close()
        await gateway.close()
        await telemetry?.close()
        await spool?.close()
      },
    }
  } catch (error) {
    await gateway.close()
    await telemetry?.close()
    await spool?.close()
    throw error
  }
}

/**
 * A store that is elsewhere has a deadline of its own for every call, and that is how long admission waits when it is away. Many calls at once wait for each other
 * as well, in this process: they would all be refused in vain if that counted, for as long as so many come.
 */
function boundsOf(store: StoreConfig): { bounds?: Partial<Bounds> } {
  return store.kind === 'redis' ? { bounds: { reserveMs: store.deadlineMs + QUEUE_MS } } : {}
}

const QUEUE_MS = 1_750

/** Whoever does not want it does not pay for it: its packages are not even read. */
async function telemetryOf({ config, clock, random, log, metrics, version, worker }: FrontParts): Promise<Telemetry | null> {
  const { telemetry, instance } = config()
  if (telemetry === undefined) return null
  const { openTelemetry } = await import('./telemetry/otlp.ts')
  return openTelemetry({ ...telemetry, version, instance: worker === undefined ? instance : `${instance}/${worker}` }, { clock, random, log, exports: metrics.telemetryExports })
}

/** Settlements that the store did not take: only one that is elsewhere can be away while this process runs. */
async function spoolOf({ config, clock, log }: FrontParts): Promise<Spool | null> {
  const { store } = config()
  if (store.kind !== 'redis' || store.spool === null) return null
  try {
    return await openSpool({ dir: store.spool, maxBytes: store.spoolMaxBytes, clock, log })
  } catch (error) {
    if (error instanceof StoreUnavailable || (error instanceof Error && error.name === 'DirectoryRefused')) throw new BooksUnavailable(error.message, { cause: error })
    throw error
  }
}

/** Says which address it was that could not be had. */
export async function listening<T>({ host, port }: Address, started: Promise<T>): Promise<T> {
  try {
    return await started
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    const why = { EADDRINUSE: 'something else listens there', EACCES: 'this user may not', EADDRNOTAVAIL: 'this machine has no such address' }[code]
    if (why === undefined) throw error
    throw new AddressUnavailable(`cannot listen on ${host}:${port}: ${why} (${code})`, { cause: error })
  }
}
