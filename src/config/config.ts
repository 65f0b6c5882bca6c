import type { Limit, AccountCalendar } from '../metering/limits/limit.ts'
import type { WeightedMeter } from '../metering/meter.ts'
import type { GrantTerms } from '../metering/recurring-grant.ts'
import type { PlanChange, Proration } from '../metering/plan-change.ts'
import type { Subscription } from '../metering/subscription.ts'
import type { MeterRule } from '../sinks/sink.ts'

/** What a valid configuration is, after parsing: frozen, every default filled in, every name resolved. Nothing after this asks "is it set?". */
export interface Config {
  readonly server: ServerConfig
  readonly admin: AdminConfig
  readonly store: StoreConfig
  readonly upstreams: ReadonlyMap<string, Upstream>
  /** Exact names and globs, in file order. */
  readonly models: readonly Model[]
  readonly plans: ReadonlyMap<string, Plan>
  readonly addOns: ReadonlyMap<string, AddOn>
  /** Meters of the operator's own. */
  readonly meters: ReadonlyMap<string, WeightedMeter>
  /** In how many digits after the point money is counted. */
  readonly moneyScale: number
  /** Those of the file. Everybody who means any account asks the key directory, which also has those made at run time. */
  readonly accounts: ReadonlyMap<string, Account>
  readonly keys: readonly KeyConfig[]
  readonly sinks: readonly SinkConfig[]
  readonly events: EventsConfig
  /** null: nothing is rolled up. */
  readonly analytics: AnalyticsConfig | null
  /** null: nobody is told of anything. */
  readonly notifications: NotificationsConfig | null
  /** Who is told of every call by OpenTelemetry; absent: nobody. */
  readonly telemetry?: TelemetryConfig
  /** Names this gateway in events and in the lease; default: host name. */
  readonly instance: string
  /** Digest of everything above, for logs and `/api/v1/config`. */
  readonly version: string
  /** Files read, for watching. */
  readonly files: readonly string[]
}

export interface Address { readonly host: string; readonly port: number }

export interface ServerConfig {
  readonly listen: Address
  readonly bodyMaxBytes: number
  readonly timeouts: { readonly connectMs: number; readonly firstByteMs: number; readonly idleMs: number; readonly totalMs: number }
  /** CIDR ranges, `loopback`, `linklocal`, `uniquelocal`. */
  readonly trustedProxies: readonly string[]
  readonly cors: { readonly origins: readonly string[] }
  readonly drain: { readonly delayMs: number; readonly timeoutMs: number }
  readonly tls: { readonly certFile: string; readonly keyFile: string } | null
  /** 0: no comment pings in streams. */
  readonly streamPingMs: number
  /** How many upstream drains of gone clients may run at once. */
  readonly drainsMax: number
  /** Processes that share the port; more than one only with a store that several may use. */
  readonly workers: number
}

export interface AdminConfig {
  readonly listen: Address
  readonly tokens: readonly { readonly name: string; readonly hash: string; readonly role: 'admin' | 'viewer' }[]
  readonly metrics: 'token' | 'open'
}

export type StoreConfig =
  | { readonly kind: 'memory' }
  | { readonly kind: 'embedded'; readonly dir: string; readonly synchronous: 'full' | 'normal' }
  | RedisStoreConfig

export interface RedisStoreConfig {
  readonly kind: 'redis'
  /** As written, with user name and password: never shown. */
  readonly url: string
  /** Folder of settlements that the store did not take; null: there is none, and the end of an answer waits for the store. */
  readonly spool: string | null
  /** A spool that is this full stops admission. */
  readonly spoolMaxBytes: number
  /** Begins every key. */
  readonly prefix: string
  /** Fixed when the store is first used. */
  readonly partitions: number
  /** Of every command. */
  readonly deadlineMs: number
  /** What the server must promise at the start: every write is on its disk before it is answered, a second later, or nothing. */
  readonly durability: 'always' | 'everysec' | 'none'
  /** What is waited for after each write, beyond the server's own answer. */
  readonly confirm: { readonly replicas: number; readonly fsync: boolean }
  /** So many events that no sink has taken stop admission. */
  readonly eventsMax: number
}

export interface EventsConfig {
  /** Delivered events stay in the store for this long. */
  readonly hotMs: number
  /** Folder of delivered events as files; null: none are written. */
  readonly archive: string | null
  /** How long those files are kept. */
  readonly keepMs: number
}

/** How long usage is kept by minute, hour, day and month, ms. */
export interface AnalyticsConfig {
  readonly minutesMs: number
  readonly hoursMs: number
  readonly daysMs: number
  readonly monthsMs: number
}

export interface TelemetryConfig {
  /** Of an OTLP receiver over HTTP, without `/v1/traces` and without a slash at its end. */
  readonly endpoint: string
  /** Sent with everything; may hold a secret. */
  readonly headers: Readonly<Record<string, string>>
  /** Of the traces that begin here, from 0 to 1, so many are recorded. */
  readonly sampleShare: number
  readonly serviceName: string
}

/** What a notice can be about. */
export const NOTICE_TYPES = ['threshold', 'forecast', 'subscription', 'grant_expiring', 'breakage'] as const
export type NoticeType = (typeof NOTICE_TYPES)[number]

export interface NotificationsConfig {
  /** Percentages of a limit, ascending, for limits that say nothing themselves. */
  readonly thresholds: readonly number[]
  /** Is it told that a limit will be used up before its time? */
  readonly forecast: boolean
  /** Globs of limits' names; null: those that callers see and whose window is a day or longer, and all that are in money or prepaid. */
  readonly limits: readonly string[] | null
  readonly webhooks: readonly WebhookConfig[]
}

export interface WebhookConfig {
  /** Made of the url: what was delivered to it is remembered under this. */
  readonly id: string
  /** May hold a secret: never shown beyond its origin. */
  readonly url: string
  /** As written, `whsec_` and base64; at least one. Each signs. */
  readonly secrets: readonly string[]
  /** null: all. */
  readonly types: readonly NoticeType[] | null
  /** Globs; null: all. */
  readonly accounts: readonly string[] | null
  readonly headers: Readonly<Record<string, string>>
}

/** Of a file that says nothing. */
export const DEFAULT_NOTIFICATIONS: NotificationsConfig = Object.freeze({ thresholds: Object.freeze([50, 80, 100]), forecast: true, limits: null, webhooks: Object.freeze([]) })

export interface Upstream {
  readonly name: string
  /** Origin and path prefix with no trailing slash and no dialect base path (`/v1`). */
  readonly origin: string
  readonly pathPrefix: string
  readonly providers: readonly string[]
  readonly credential: string | null
  readonly isDefault: boolean
  /** How many connections at most; null: no bound. */
  readonly connectionsMax: number | null
  readonly timeouts: ServerConfig['timeouts'] | null
}

export interface Model {
  /** Name or glob as callers use it. */
  readonly pattern: string
  readonly upstream: string | null
  readonly upstreamModel: string | null
  readonly contextTokens: number | null
  readonly outputTokensMax: number | null
  readonly outputField: string | null
  /** Multiplies the input's byte bound; for tokenizers that normalise. */
  readonly inputFactor: number
  readonly templateTokens: { readonly perCall: number; readonly perMessage: number; readonly perTool: number } | null
  /** Tokenizer encoding known to be exact for it (`o200k_base`, `cl100k_base`), or null. */
  readonly encoding: string | null
  readonly imageTokens: number | null
  /** Reasoning and the like: output that is not shown; `reserve: slices` is refused for it. */
  readonly hiddenOutput: boolean
}

export interface Plan {
  readonly name: string
  readonly version: number
  readonly public: boolean
  readonly entitlements: Entitlements
  readonly limits: readonly Limit[]
  readonly policy: Policy
  /** What a change to this plan within a period means for the period's allowances and fees. */
  readonly proration: Proration
  readonly prices: RateCard | null
  /** What the plan costs beside its calls; null: nothing. */
  readonly charges: PlanCharges | null
  /** Every account on it has them; absent: none. */
  readonly grants?: readonly GrantTerms[]
}

export interface Entitlements {
  /** Globs. */
  readonly models: readonly string[]
  /** Endpoint names, or `METHOD /path` globs for endpoints that no dialect knows; null: the stateless ones of its dialects. */
  readonly endpoints: readonly string[] | null
  readonly maxOutputTokens: number | null
  /** Input and output together; null: what the model takes. */
  readonly maxContextTokens: number | null
  /** 1 to 255, a lower one first; null: none. */
  readonly priority: number | null
  readonly features: readonly string[]
  /** Of those that everybody has (tools, vision, streaming, batch): not these, unless `features` names them. Absent: none is denied. */
  readonly deniedFeatures?: readonly string[]
}

/** What can be bought beside a plan. */
export interface AddOn {
  readonly name: string
  /** Put on top of the ceilings of limits of these names and meters; amounts in small units. */
  readonly additions: readonly { readonly limit: string; readonly meter: string; readonly amount: number }[]
  /** Limits of its own. */
  readonly limits: readonly Limit[]
  /** Models, endpoints and features are added to what there is; the others stand in its place. */
  readonly entitlements: Partial<Entitlements>
  /** Absent: none. */
  readonly grants?: readonly GrantTerms[]
}

export interface Policy {
  readonly reserve: 'worst_case' | 'slices'
  readonly outputDefault: number
  readonly onInsufficient: 'clamp' | 'refuse'
  readonly clampFloor: number
  readonly onDisconnect: 'cancel' | 'drain'
  readonly countFailed: boolean
  readonly storeDown: { readonly kind: 'deny' } | { readonly kind: 'allow' } | { readonly kind: 'allow_up_to'; readonly amount: number }
  readonly waitMs: number
  /** A model without a price: `check` is a mistake in the file, and refused; null: refused where a limit in money depends on it. */
  readonly unpriced: 'check' | 'refuse' | 'free' | null
}

/**
 * Prices over time. Money is an integer in 10⁻ˢᶜᵃˡᵉ of the currency ("nanos": the scale is 9 unless the currency is small), prices are a thousand times
 * finer ("picos").
 */
export interface RateCard {
  /** null: written in its plan. */
  readonly name: string | null
  readonly currency: string
  readonly scale: number
  /** By `fromMs`; at least one. */
  readonly versions: readonly PriceCard[]
}

/** The prices of one time. */
export interface PriceCard {
  /** In force from then on, until the next one is; null: always. */
  readonly fromMs: number | null
  /** Unique in its card; with the version of the public price data, where that is used. */
  readonly version: string
  readonly rates: readonly ModelRates[]
  /** Public prices with their markup: of the models for which `rates` have nothing. */
  readonly base?: readonly ModelRates[]
  /** That is in `base`, in hundredths of a percent. */
  readonly markup?: number
}

export interface ModelRates {
  readonly models: readonly string[]
  /** What events cost and limits in money count, picos per small unit. Of a price that the whole period decides, the dearest that it can be. */
  readonly picosPer: UnitPrices
  /** Prices that the whole period decides, by meter: the invoice sets events' costs right. */
  readonly byPeriod?: { readonly [meter: string]: PeriodPrice }
  /** Instead of `picosPer`, for calls with a longer input; ascending by `over`, in tokens. */
  readonly longInput?: readonly { readonly over: number; readonly picosPer: UnitPrices }[]
  /** For each call that used the feature, in picos. */
  readonly features?: UnitPrices
}

export interface UnitPrices { readonly [name: string]: number }

/** `graduated`: each unit has the price of its tier. `volume`: all units have the price of the tier that the last one is in. `package`: begun ones count whole. */
export type PeriodPrice =
  | { readonly kind: 'graduated' | 'volume'; readonly tiers: readonly PriceTier[] }
  | { readonly kind: 'package'; /** small units */ readonly size: number; /** nanos each */ readonly nanos: number }

/** Up to and with so many small units; null, the last one's: without end. */
export interface PriceTier { readonly upTo: number | null; readonly picos: number }

/** Money in nanos. */
export interface PlanCharges {
  readonly fees: readonly Fee[]
  /** What a billing period's usage costs at least; null: nothing. */
  readonly minimum: number | null
  /** Free in each billing period, by the meter that is priced, in small units. */
  readonly included: UnitPrices
}

export interface Fee {
  readonly name: string
  readonly amount: number
  /** `year`: in the billing period in which a year of the subscription begins. `once`: in the one in which the account came to the plan. */
  readonly every: 'billing_period' | 'year' | 'once'
}

export interface Account {
  readonly id: string
  readonly plan: string | null
  readonly parent: string | null
  readonly calendar: AccountCalendar
  /** Replace the plan's of the same name. */
  readonly limits: readonly Limit[]
  readonly entitlements: Partial<Entitlements>
  readonly labels: Readonly<Record<string, string>>
  readonly suspended: boolean
  /** null: none in the file; the store may have one. */
  readonly subscription: Subscription | null
  /** Names, in the order in which they apply. */
  readonly addOns: readonly string[]
  /** Of the file; the store may have more. Absent: none. */
  readonly grants?: readonly GrantTerms[]
  /** Which plan of its own the account was on since when, as the gateway has seen it; in order. */
  readonly planHistory: readonly PlanChange[]
  /** Where it stands: file:line, or `store`. */
  readonly where: string
}

export interface KeyConfig {
  readonly id: string
  /** Lower-case hex SHA-256 of the secret. */
  readonly hash: string
  readonly account: string | null
  readonly plan: string | null
  readonly limits: readonly Limit[]
  readonly entitlements: Partial<Entitlements>
  readonly labels: Readonly<Record<string, string>>
  readonly expiresMs: number | null
  readonly endUserFrom: { readonly kind: 'header'; readonly name: string } | { readonly kind: 'body'; readonly field: 'user' } | null
  /** Where it stands: file:line, for messages. */
  readonly where: string
}

export interface SinkConfig {
  readonly name: string
  readonly type: string
  /** Type-specific settings by the names that the file has, already checked, defaults filled in. Durations in ms, sizes in bytes; secrets as they are. */
  readonly settings: Readonly<Record<string, unknown>>
  /** null: every event, as it is. */
  readonly mapping: SinkMapping | null
}

/** Which events a sink gets, and as what. */
export interface SinkMapping {
  /** Patterns with *; null: all. */
  readonly filter: { readonly accounts: readonly string[] | null; readonly plans: readonly string[] | null; readonly models: readonly string[] | null }
  /** null: whole events. */
  readonly meters: readonly MeterRule[] | null
  /** Account → the receiver's id of who pays. */
  readonly customers: Readonly<Record<string, string>>
  /** What happens to events of accounts that have no such id. */
  readonly unmapped: 'bury' | 'skip'
  /** null: each event by itself. */
  readonly rollup: 'minute' | 'hour' | null
}

/** Of an account that says nothing, and of a key that is its own account. */
export const DEFAULT_CALENDAR: AccountCalendar = Object.freeze({ timeZone: 'UTC', anchor: '2000-01-01' })
