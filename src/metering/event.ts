import { timeOfId } from './id.ts'
import { METERS, type BuiltinMeter, type Quantities } from './meter.ts'
import type { Draw } from './moves.ts'
import { decimalOfNanos } from './price.ts'

/** How an exchange ended. */
export type StreamEnd = 'complete' | 'client_gone' | 'upstream_broken' | 'timed_out' | 'quota_stop' | 'expired'

/** Who counted: the upstream, the upstream up to a point, the gateway's tokenizer, or an estimate. */
export type UsageSource = 'upstream' | 'upstream_partial' | 'counted' | 'estimated'

/** The part of an event's data that is known at admission. */
export interface EventSkeleton {
  /** It is no call's, but that of a seat: nothing was used when it ends, so it ends without an event. */
  readonly seat?: true
  readonly source: string
  readonly account: string
  readonly key: string
  readonly plan: string
  readonly plan_version: number
  readonly labels: Readonly<Record<string, string>>
  readonly provider: string
  readonly endpoint: string
  /** As the caller named it; null where the endpoint has none. */
  readonly model: string | null
  readonly upstream: string
  readonly stream: boolean
  readonly caller: CallerClaims
  /** What was used that a plan has to grant. */
  readonly features?: readonly string[]
  /** What was used that a plan may deny: tools, vision, batch. `stream` tells of streaming. */
  readonly uses?: readonly string[]
  readonly currency?: string
  /** In how many digits after the point its money is counted, where that is not 9. */
  readonly money_scale?: number
  readonly price_version?: string
  /** Absent in events of releases that did not tell it. */
  readonly bound?: AdmissionBound
}

/**
 * What an admission was computed from, so that it can be explained, and computed again under another plan. What is 0, false or 1 as a rule is left out
 * then. Numbers only: nothing that anybody has written.
 */
export interface AdmissionBound {
  /** The body's length. */
  readonly bytes: number
  /** The most input tokens; null: nothing bounds them; absent: no dialect can read the call. */
  readonly input?: number | null
  /** The part of `input` that is the bytes of a text, whose tokens could have been counted. */
  readonly text?: number
  /** The output bound per choice that was wanted; absent: there is no output to bound. */
  readonly output?: number
  /** What one unit of it costs, in output tokens; absent: 1. */
  readonly choices?: number
  /** The caller's own bound; absent: he gave none. */
  readonly asked?: number
  /** The dialect's, where the caller gives none. */
  readonly default?: number
  /** The least that the answer can live with. */
  readonly floor?: number
  /** Lowering the bound would break the answer. */
  readonly rigid?: true
  /** The input holds images or sound. */
  readonly media?: true
  /** So many images were to be made. */
  readonly images?: number
  /** How long after its admission's instant it was asked for: its body took so long. */
  readonly after_ms?: number
  /** How long it waited for what calls in flight held, until it was asked for again and let in. */
  readonly waited_ms?: number
}

/** What the caller claimed about himself: bounded in size, never an identity. */
export interface CallerClaims {
  readonly request_id: string | null
  readonly user: string | null
  readonly session: string | null
  readonly tags: Readonly<Record<string, string>>
  /** What a trusted key's calls are counted for, where a header names it and not the body. */
  readonly end_user?: string
}

/** An event's data once the exchange has ended; the quantities travel beside it as `usage`. */
export interface EventBody extends EventSkeleton {
  readonly model_served?: string
  readonly upstream_request_id?: string
  readonly attempt: number
  readonly service_tier?: string
  readonly status: number
  readonly end: StreamEnd
  readonly usage_source: UsageSource
  readonly settled_at: string
  readonly time_to_first_token_ms?: number
  /** "812;asked=4096" when the output bound was lowered. */
  readonly output_bound?: string
  /** Names of shadow limits that would have refused it. */
  readonly shadow?: readonly string[]
}

/**
 * What the settling step writes to the outbox. It is turned into the CloudEvent when it is read, so that a store in Lua needs no JSON arithmetic.
 * `expired`: written by the sweeper from the skeleton. `late`: a correction; `booked` is what expiry had booked.
 */
export interface OutboxRecord {
  readonly kind: 'usage' | 'expired' | 'late'
  /** The exchange's id. */
  readonly id: string
  /** 0 for the first event of an exchange, n for its n-th correction. */
  readonly correction: number
  /** The instant of the move that wrote it. */
  readonly atMs: number
  readonly body: EventBody | EventSkeleton
  readonly usage: Quantities
  readonly booked: Quantities | null
  readonly drawn: readonly Draw[]
  readonly overruns: readonly Draw[]
}

/** CloudEvents 1.0. Contract, section 5. */
export interface UsageEvent {
  readonly specversion: '1.0'
  readonly type: 'tallygate.usage.v1'
  readonly source: string
  readonly id: string
  readonly subject: string
  readonly time: string
  readonly datacontenttype: 'application/json'
  readonly data: Readonly<Record<string, unknown>>
}

export { timeOfId }

/** The event's own id: the exchange's, and `<id>.late`, `<id>.late2` … for its corrections. */
export function eventId(id: string, correction: number): string {
  if (correction === 0) return id
  return correction === 1 ? `${id}.late` : `${id}.late${correction}`
}

/** What the contract's event shows of the quantities, in its order; `cost` is apart, because it is text. */
const shown: readonly (readonly [BuiltinMeter, string])[] = [
  ['requests', 'requests'], ['input_tokens', 'input_tokens'], ['cached_input_tokens', 'cached_input_tokens'], ['cache_write_tokens', 'cache_write_tokens'],
  ['output_tokens', 'output_tokens'], ['reasoning_tokens', 'reasoning_tokens'], ['total_tokens', 'total_tokens'], ['compute_seconds', 'compute_ms'],
  ['bytes_in', 'bytes_in'], ['bytes_out', 'bytes_out'], ['audio_seconds', 'audio_seconds'], ['images', 'images'],
]

/** The CloudEvent of a record: the same record gives the same event, whenever and wherever it is read. What was not measured is left out. */
export function toUsageEvent(record: OutboxRecord): UsageEvent {
  const { id, correction, body } = record
  const quantities = quantitiesOf(record)
  const data: Record<string, unknown> = {
    account: body.account, key: body.key, plan: body.plan, plan_version: body.plan_version, labels: body.labels,
    provider: body.provider, endpoint: body.endpoint, model: body.model,
  }
  const add = (name: string, value: unknown): void => {
    if (value !== undefined) data[name] = value
  }
  // A skeleton is all there is when a gateway was never heard of again: its end is what the sweeper knows.
  const ended = 'end' in body ? body : null
  add('model_served', ended?.model_served)
  data['upstream'] = body.upstream
  add('upstream_request_id', ended?.upstream_request_id)
  add('attempt', ended?.attempt)
  add('service_tier', ended?.service_tier)
  data['stream'] = body.stream
  if (body.features !== undefined && body.features.length > 0) data['features'] = body.features
  if (body.uses !== undefined && body.uses.length > 0) data['uses'] = body.uses
  add('status', ended?.status)
  data['end'] = ended?.end ?? 'expired'
  data['usage_source'] = ended?.usage_source ?? 'estimated'
  data['settled_at'] = ended?.settled_at ?? toInstant(record.atMs)
  if (correction > 0) data['corrects'] = id
  for (const [meter, name] of shown) {
    const quantity = quantities[meter]
    if (quantity !== undefined) data[name] = meter === 'audio_seconds' ? quantity / METERS.audio_seconds.scale : quantity
    if (meter === 'compute_seconds') add('time_to_first_token_ms', ended?.time_to_first_token_ms)
  }
  if (quantities.cost !== undefined) {
    data['cost'] = decimalOfNanos(quantities.cost, body.money_scale)
    add('currency', body.currency)
    add('price_version', body.price_version)
  }
  add('output_bound', ended?.output_bound)
  add('bound', body.bound)
  add('shadow', ended?.shadow)
  data['drawn'] = record.drawn
  if (record.overruns.length > 0) data['overrun'] = record.overruns
  data['caller'] = body.caller
  return {
    specversion: '1.0', type: 'tallygate.usage.v1', source: body.source, id: eventId(id, correction), subject: body.account,
    time: toInstant(timeOfId(id)), datacontenttype: 'application/json', data,
  }
}

/** What a record adds to what was written before it of the same exchange. */
export function quantitiesOf({ kind, usage, booked }: OutboxRecord): Quantities {
  return kind === 'late' ? correctionOf(usage, booked ?? {}) : usage
}

/** What a late settlement adds to what expiry had booked. It is no second request: `requests` is 0, unless the expiry knew of none at all. */
function correctionOf(usage: Quantities, booked: Quantities): Quantities {
  const difference: Quantities = { requests: 0 }
  for (const meter of Object.keys({ ...usage, ...booked }) as BuiltinMeter[]) difference[meter] = (usage[meter] ?? 0) - (booked[meter] ?? 0)
  return difference
}

let instantMs = 0
let instant = new Date(instantMs).toISOString()

/** RFC 3339 in UTC, in whole seconds, rounded up: what is promised for then is there by then. */
export function toWholeSecond(ms: number): string {
  return new Date(Math.ceil(ms / 1_000) * 1_000).toISOString().replace('.000Z', 'Z')
}

/** RFC 3339 in UTC, with milliseconds. The last one is kept: under load many events have the same. */
export function toInstant(ms: number): string {
  if (ms !== instantMs) {
    instant = new Date(ms).toISOString()
    instantMs = ms
  }
  return instant
}
