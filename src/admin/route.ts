import type { AccountChanges } from '../accounts/account-changes.ts'
import type { GrantChanges } from '../accounts/grants.ts'
import type { AccountStanding } from '../accounts/account-standing.ts'
import type { Analytics } from '../analytics/analytics.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { MadeAccounts } from '../accounts/made-accounts.ts'
import type { SubscriptionChanges } from '../accounts/subscriptions.ts'
import type { Clock } from '../clock.ts'
import type { Config, SinkConfig } from '../config/config.ts'
import type { EventHistory } from '../archive/history.ts'
import type { UsageEvent } from '../metering/event.ts'
import type { PendingReservation } from '../metering/moves.ts'
import type { Difference, Reconciliation, ReconcileAsked } from '../reconciliation/reconcile.ts'
import type { DeliveryStatus } from '../sinks/deliver.ts'
import type { Quarantined } from '../sinks/quarantine.ts'
import type { Outbox, Records, StoreDetails, StoreStatus } from '../stores/store.ts'
import type { AnswerShape } from './answer-shape.ts'
import { Problem } from './problem.ts'

export type Role = 'viewer' | 'admin'

/** What an operator's request reaches. The same parts serve the admin port and a command that has opened the store itself. */
export interface AdminParts {
  config(): Config
  readonly directory: StoredKeyDirectory
  readonly changes: AccountChanges
  readonly subscriptions: SubscriptionChanges
  readonly grants: GrantChanges
  readonly accounts: MadeAccounts
  /** Documents made at run time, as they are. */
  readonly records: Pick<Records, 'list'>
  readonly outbox: Outbox
  /** Events of the store and of the archive. */
  readonly history: EventHistory
  readonly clock: Clock
  readonly analytics: Analytics
  /** How an account stands; null: there is no such account, or it has no plan. Rejects with StoreUnavailable. */
  standing(account: string): Promise<AccountStanding | null>
  /** When the first limit of each account is used up, for those of whom that is foreseen; ms since 1970. */
  forecasts(accounts: readonly string[]): Promise<ReadonlyMap<string, number>>
  storeStatus(): StoreStatus
  inspectStore(): Promise<StoreInspection>
  /** What a call that has not ended holds; undefined: nothing is pending under this id, or the store cannot tell. */
  pendingCall(id: string): Promise<PendingReservation | undefined>
  /** Exchanges whose settlement could not be booked as it was sent; kept whole in the store. */
  quarantined(): Promise<readonly string[]>
  /** null: no gateway runs, a command has the store to itself. */
  readonly gateway: RunningGateway | null
  /** Delivers the dead records of a consumer (null: of all) again. Gives how many arrived and how many were refused once more. */
  retryDead(consumer: string | null): Promise<{ readonly delivered: number; readonly failed: number }>
  /** Of the sinks that are delivered to here, by name; nothing while no gateway runs. */
  deliveryStatus(): ReadonlyMap<string, DeliveryStatus | 'replaying'>
  /** A sink that waits or is paused tries again at once, where it is delivered to from here. */
  nudge(sink: string): void
  /** Records that are not sent any more until an operator decides, of one sink or all. */
  withheld(sink?: string): Promise<readonly Quarantined[]>
  /** Sends or drops those of these events or sums (null: all of the sink). */
  releaseWithheld(sink: string, ids: readonly string[] | null, how: 'send' | 'drop'): Promise<{ readonly released: number; readonly failed: number }>
  /** Takes an event back at a sink. */
  credit(sink: string, event: UsageEvent): Promise<'sent' | 'credited' | 'nothing' | { readonly failed: string }>
  /** Compares what was settled with what a sink's receiver says; `note`: and puts it right, saying so before each record that is sent. Throws DeliveryFailed when the receiver does not answer. */
  reconcile(sink: SinkConfig, asked: ReconcileAsked, note: ((difference: Difference) => Promise<void>) | null): Promise<Reconciliation>
  /** Delivers to a sink again what was settled since an instant: `events` of the store, by the sink's own loop, after `archived` of the archive, which are delivered when `done`. */
  replay(sink: SinkConfig, sinceMs: number): Promise<{ readonly events: number; readonly archived: number; readonly done: Promise<void> }>
}

export interface StoreInspection {
  /** null: the store does not say. */
  readonly details: StoreDetails | null
  /** Sinks that have missed events since the books were begun: they were not configured when those were removed. */
  readonly gaps: readonly { readonly sink: string; readonly events: number; /** Of the last one. */ readonly atMs: number }[]
  /** Of this machine; null: there is none. `measure` null: it cannot be read. */
  readonly spool: { readonly directory: string; readonly measure: { readonly settlements: number; readonly bytes: number } | null } | null
}

/** The gateway around the admin port. */
export interface RunningGateway {
  readonly startedMs: number
  draining(): boolean
  reloads(): ReloadState
  /** Reads the config again and uses it, all or nothing. */
  reload(): Promise<ReloadState>
}

export interface ReloadState {
  readonly atMs: number
  readonly ok: boolean
  /** `file:line:column path: sentence`, one per mistake. */
  readonly problems: readonly string[]
}

/**
 * One value of a query or a body. Numbers are integers. `list` and `map` are in the words of the configuration, as JSON or as a text with YAML; handlers get
 * them as text.
 */
export interface Field {
  readonly type: 'string' | 'integer' | 'boolean' | 'list' | 'map'
  readonly about: string
  readonly required?: boolean
  readonly values?: readonly string[]
  /** Of a text: a number is one too. */
  readonly orNumber?: true
  readonly minimum?: number
  readonly maximum?: number
}
export type Fields = Readonly<Record<string, Field>>

export interface Asked {
  readonly params: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string | number | boolean>>
  readonly body: Readonly<Record<string, string | number | boolean>>
  readonly who: string
  /** Becomes true when nobody waits for the answer any more. */
  gone(): boolean
}

/** What the document of the API says of a path and a method. */
export interface Operation {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** `{name}` stands for one segment. */
  readonly path: string
  /** null: needs no token. */
  readonly role: Role | null
  readonly summary: string
  readonly query?: Fields
  readonly body?: Fields
  /** 200 unless given. */
  readonly status?: number
  /** What the answer holds, in one line. */
  readonly answer: string
  /** What it looks like. */
  readonly shape: AnswerShape
  /** The answer is server-sent events; `shape` is that of the data of each. */
  readonly stream?: true
  /** Statuses that it may refuse with: beside those that its kind has anyway, or nothing but these. */
  readonly problems?: { readonly also: readonly number[] } | { readonly only: readonly number[] }
}

export interface Route extends Operation {
  /** What can be iterated asynchronously is sent as server-sent events, one for each value, for as long as somebody listens. */
  handle(asked: Asked, parts: AdminParts): Promise<unknown> | unknown
}

const wordsMax = 32_768

/** undefined: no such path. Throws a Problem when the path exists with other methods only. */
export function findRoute<R extends Operation>(routes: readonly R[], method: string, path: string): { readonly route: R; readonly params: Readonly<Record<string, string>> } | undefined {
  const segments = path.split('/')
  const allow: string[] = []
  for (const route of routes) {
    const params = paramsOf(route.path, segments)
    if (params === undefined) continue
    if (route.method === method) return { route, params }
    allow.push(route.method)
  }
  if (allow.length === 0) return undefined
  const methods = [...new Set(allow)]
  throw new Problem(405, `${path} answers ${methods.join(' and ')} only`, { allow: methods.join(', ') })
}

function paramsOf(pattern: string, segments: readonly string[]): Record<string, string> | undefined {
  const wanted = pattern.split('/')
  if (wanted.length !== segments.length) return undefined
  const params: Record<string, string> = {}
  for (const [index, part] of wanted.entries()) {
    const segment = segments[index] ?? ''
    if (part.startsWith('{')) {
      const value = decoded(segment)
      if (value === undefined || value === '') return undefined
      params[part.slice(1, -1)] = value
    } else if (part !== segment) return undefined
  }
  return params
}

function decoded(segment: string): string | undefined {
  try {
    return decodeURIComponent(segment)
  } catch (error) {
    // Not a URL segment, so no route has it.
    if (error instanceof URIError) return undefined
    throw error
  }
}

/** Checks what was sent against what the route takes. Throws a Problem that names every mistake. */
export function readFields(fields: Fields, given: Readonly<Record<string, unknown>>, what: 'query' | 'body'): Record<string, string | number | boolean> {
  const mistakes: string[] = []
  const read: Record<string, string | number | boolean> = {}
  const known = Object.keys(fields)
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) mistakes.push(`${what}.${name} is not known here; there ${known.length === 0 ? 'is nothing to give' : `is ${known.join(', ')}`}`)
  }
  for (const [name, field] of Object.entries(fields)) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined
    if (value === undefined || value === null) {
      if (field.required === true) mistakes.push(`${what}.${name} is missing: ${field.about}`)
      continue
    }
    const result = readField(field, value)
    if (typeof result === 'object') mistakes.push(`${what}.${name} ${result.mistake}`)
    else read[name] = result
  }
  if (mistakes.length > 0) throw new Problem(what === 'query' ? 400 : 422, mistakes.join('; '))
  return read
}

function readField(field: Field, value: unknown): string | number | boolean | { mistake: string } {
  if (field.type === 'boolean') {
    if (value === true || value === 'true') return true
    return value === false || value === 'false' ? false : { mistake: 'must be true or false' }
  }
  if (field.type === 'integer') {
    const number = typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : value
    if (typeof number !== 'number' || !Number.isSafeInteger(number)) return { mistake: 'must be a whole number' }
    if (number < (field.minimum ?? 0) || number > (field.maximum ?? Number.MAX_SAFE_INTEGER)) {
      return { mistake: `must be between ${field.minimum ?? 0} and ${field.maximum ?? Number.MAX_SAFE_INTEGER}` }
    }
    return number
  }
  if (field.type === 'list' || field.type === 'map') {
    const isSo = field.type === 'list' ? Array.isArray(value) : typeof value === 'object' && !Array.isArray(value)
    const text = isSo ? JSON.stringify(value) : value
    if (typeof text !== 'string' || text === '') return { mistake: field.type === 'list' ? 'must be a list, or a text with one in YAML' : 'must be an object, or a text with a mapping in YAML' }
    return text.length > wordsMax ? { mistake: `is longer than ${wordsMax} characters` } : text
  }
  if (field.orNumber === true && typeof value === 'number' && Number.isFinite(value)) return String(value)
  if (typeof value !== 'string' || value === '') return { mistake: 'must be a text that is not empty' }
  if (value.length > 1024) return { mistake: 'is longer than 1024 characters' }
  if (field.values !== undefined && !field.values.includes(value)) return { mistake: `must be one of ${field.values.join(', ')}` }
  return value
}
