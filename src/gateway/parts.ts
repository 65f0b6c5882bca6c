import type { KeyDirectory } from '../accounts/principal.ts'
import type { Clock } from '../clock.ts'
import type { Config } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Paces } from '../metering/forecast.ts'
import type { Metrics } from '../metrics.ts'
import type { Endpoint, Provider } from '../providers/provider.ts'
import type { Random } from '../random.ts'
import type { Spool } from '../spool/spool.ts'
import type { Store } from '../stores/store.ts'
import type { Telemetry } from '../telemetry/telemetry.ts'
import type { KeyOwners } from './authenticate.ts'
import type { UpstreamWire } from './forward.ts'
import type { Guard } from './guard.ts'
import type { Lease } from './lease.ts'
import type { ModelLists } from './models.ts'
import type { Outage } from './outage.ts'
import type { RefusalMemory } from './refusal-memory.ts'
import type { RouteTable } from './route.ts'
import type { Seats } from './seats.ts'
import type { Settler } from './settler.ts'
import type { UpstreamMemory } from './upstream-memory.ts'
import type { HistoryTurns, UsageHistory } from './usage-history.ts'

/** What the gateway is made of; `app.ts` joins it. */
export interface GatewayParts {
  /** The configuration of this moment. An exchange keeps the one it started with. */
  config(): Config
  /** Where it cannot say whose a refused key is, such calls are nobody's. */
  readonly keys: KeyDirectory & Partial<KeyOwners>
  /** How fast limits are used, for forecasts; absent: nobody has noted it. */
  readonly paces?: Paces
  /** What keys have used, for them to look at; absent: nobody keeps it. */
  readonly history?: UsageHistory
  readonly store: Store
  /** Where settlements go that the store does not take in time; absent: there is no such place, and the end of an answer waits for the store or is cut. */
  readonly spool?: Spool | null
  readonly providers: readonly Provider[]
  /** What a path means that no dialect knows. */
  readonly httpEndpoint: Endpoint
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Who is told of every exchange beside log and metrics; absent: nobody, and nothing is made for it. */
  readonly telemetry?: Telemetry | null
  readonly guard: Pick<Guard, 'charge'>
  /** Absent: nobody looks on. */
  readonly onlooker?: Onlooker
  readonly tokenizer: Tokenizer
  /** Another way to the upstreams than over sockets; tests simulate them. */
  readonly forwarder?: UpstreamWire
  /** Bounds that only tests change, in milliseconds. */
  readonly bounds?: Partial<Bounds>
}

/** Is told of every call's end and of who was refused. It may not take longer than adding up does, and never throws. */
export interface Onlooker {
  /** In nanos of `currency`. */
  ended(call: { readonly failed: boolean; readonly tokens: number; readonly costNanos: number; readonly currency: string }): void
  /** `call` null: nobody knows whose it was. */
  refused(reason: string, call: {
    readonly id: string
    readonly atMs: number
    readonly account: string
    readonly key: string
    /** null: no limit refused it. */
    readonly limit: string | null
    readonly reason: string
    readonly model: string | null
    readonly ceiling: number | null
    readonly used: number | null
    readonly remaining: number | null
    readonly resetsAt: string | null
  } | null): void
}

/** Exact counting, for models whose encoding is known. */
export interface Tokenizer {
  /** Tokens of all texts. Works in slices, so that a hostile prompt cannot stall the loop. */
  count(encoding: string, texts: Iterable<string>): Promise<number>
  /** The encoding to count a model's text with; `known`: it is that model's own, so that the count may admit a call. */
  encodingOf(model: string | null): { readonly encoding: string; readonly known: boolean }
}

export interface Bounds {
  /** How long admission waits for the store: longer than a disk under load takes to sync, shorter than a caller's patience. */
  readonly reserveMs: number
  /** How long a settlement waits for the store before it goes to the spool, and steps that no bill depends on: growing a hold, a void, the counting of text. */
  readonly settleMs: number
  /** How long the end of an answer waits for its settlement to be durable. Then it is cut: what is not billed is not completed. */
  readonly endMs: number
  /** How long a plain answer may take to arrive and still be held until it is settled. */
  readonly holdMs: number
  /** A reservation outlives its gateway's last sign of life by this much. */
  readonly leaseMs: number
  readonly renewMs: number
  /** How long a key's history is waited for. */
  readonly historyMs: number
  /** Settlements that may wait for the store before admission stops. */
  readonly settlementsMax: number
}

export const defaultBounds: Bounds = {
  reserveMs: 2_000, settleMs: 2_000, endMs: 10_000, holdMs: 2_000, leaseMs: 15_000, renewMs: 5_000, historyMs: 5_000, settlementsMax: 10_000,
}

/** The parts and what the gateway made of them, as the steps of an exchange see them. */
export interface Workings extends GatewayParts {
  readonly limits: Bounds
  readonly routes: RouteTable
  readonly forwarder: UpstreamWire
  readonly settler: Settler
  readonly lease: Lease
  readonly seats: Seats
  readonly refusals: RefusalMemory
  readonly outage: Outage
  readonly upstreams: UpstreamMemory
  readonly modelLists: ModelLists
  readonly historyTurns: HistoryTurns
  /** Upstream calls that are read on although their client has gone. */
  readonly drains: { running: number }
  /** True once the gateway is being stopped: nothing more is admitted. */
  readonly stopping: boolean
}
