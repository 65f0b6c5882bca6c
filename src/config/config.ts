import type { Limit, AccountCalendar } from '../metering/limits/limit.ts'

/** What a valid configuration is, after parsing: frozen, every default filled in, every name resolved. Nothing after this asks "is it set?". */
export interface Config {
  readonly server: ServerConfig
  readonly admin: AdminConfig
  readonly store: StoreConfig
  readonly upstreams: ReadonlyMap<string, Upstream>
  /** Exact names and globs, in file order. */
  readonly models: readonly Model[]
  readonly plans: ReadonlyMap<string, Plan>
  readonly accounts: ReadonlyMap<string, Account>
  readonly keys: readonly KeyConfig[]
  readonly sinks: readonly SinkConfig[]
  readonly events: EventsConfig
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
  readonly prices: PriceCard | null
}

export interface Entitlements {
  /** Globs. */
  readonly models: readonly string[]
  /** Endpoint names, or `METHOD /path` globs for endpoints that no dialect knows; null: the stateless ones of its dialects. */
  readonly endpoints: readonly string[] | null
  readonly maxOutputTokens: number | null
  readonly features: readonly string[]
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
}

/** Flat rates for now. Prices are integers: 10⁻¹² of the currency per small unit. */
export interface PriceCard {
  readonly currency: string
  readonly version: string
  readonly rates: readonly ModelRates[]
}

export interface ModelRates {
  readonly models: readonly string[]
  readonly picosPer: { readonly [meter: string]: number }
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
  /** Type-specific settings, already checked: file has { path, maxBytes, daily }, stdout none. */
  readonly settings: Readonly<Record<string, unknown>>
}

/** Of an account that says nothing, and of a key that is its own account. */
export const DEFAULT_CALENDAR: AccountCalendar = Object.freeze({ timeZone: 'UTC', anchor: '2000-01-01' })
