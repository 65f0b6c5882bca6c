import type { Draw } from './moves.ts'
import type { Quantities } from './meter.ts'

/** How an exchange ended. */
export type StreamEnd = 'complete' | 'client_gone' | 'upstream_broken' | 'timed_out' | 'quota_stop' | 'expired'

/** Who counted: the upstream, the upstream up to a point, the gateway's tokenizer, or an estimate. */
export type UsageSource = 'upstream' | 'upstream_partial' | 'counted' | 'estimated'

/** The part of an event's data that is known at admission. */
export interface EventSkeleton {
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
  readonly currency?: string
  readonly price_version?: string
}

/** What the caller claimed about himself: bounded in size, never an identity. */
export interface CallerClaims {
  readonly request_id: string | null
  readonly user: string | null
  readonly session: string | null
  readonly tags: Readonly<Record<string, string>>
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
