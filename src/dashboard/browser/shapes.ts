/** What the API answers, as far as the page reads it. */

import type { Words } from './yaml-text.ts'

export interface LimitStanding {
  /** A parent's is `<account>/<name>`. */
  readonly name: string
  readonly meter: string
  readonly window: string | null
  readonly per: string
  /** With what grants add; null: no end. */
  readonly limit: number | null
  readonly used: number
  readonly reserved: number
  readonly remaining: number | null
  readonly resets_at: string | null
  readonly forecast_at: string | null
  readonly mode: string
}

export interface AccountRow {
  readonly id: string
  readonly plan: string | null
  readonly parent: string | null
  readonly where: string
  /** Of one made at run time; what a change is based on. */
  readonly revision: number | null
  readonly unused_because: string | null
  readonly keys: number
  readonly suspended: boolean
  readonly suspended_reason: string | null
  readonly subscription: string | null
  readonly forecast_at: string | null
  readonly limits_now?: readonly LimitStanding[]
  /** Where it was sorted by that. */
  readonly usage_30d?: { readonly requests: number; readonly total_tokens: number; readonly cost: Readonly<Record<string, string>>; readonly refused: number } | null
}

export interface AccountPage {
  readonly accounts: readonly AccountRow[]
  readonly total: number
}

export interface KeyRow {
  readonly id: string
  readonly account: string
  readonly plan: string | null
  readonly state: string
  readonly where: string
  readonly expires_at: string | null
  readonly created_at: string | null
  readonly created_by: string | null
  readonly revoked_at: string | null
  readonly revoked_by: string | null
  readonly revoked_reason: string | null
  readonly rotated_at: string | null
  readonly grace_until: string | null
}

export interface AccountDetail extends Omit<AccountRow, 'keys' | 'limits_now'> {
  /** null: it has no plan, or the store is away. */
  readonly standing: { readonly limits: readonly LimitStanding[] } | null
  readonly keys: readonly KeyRow[]
  readonly timezone: string
  readonly billing_anchor: string
  readonly add_ons: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  readonly suspended_in: readonly string[]
  readonly suspended_by: string | null
  readonly suspended_at: string | null
  readonly suspended_parent: string | null
  /** As they were given, of one made at run time. */
  readonly terms: {
    readonly plan: string | null
    readonly parent: string | null
    readonly timezone: string | null
    readonly anchor: string | null
    readonly labels: Readonly<Record<string, string>>
    readonly add_ons: readonly string[]
    readonly limits: readonly Words[]
    readonly entitlements: Readonly<Record<string, Words>>
  } | null
  readonly created_at: string | null
  readonly created_by: string | null
}

export interface GrantRow {
  readonly account: string
  readonly id: string
  readonly limit: string
  readonly meter: string
  readonly amount: number
  readonly used: number | null
  readonly remaining: number | null
  readonly priority: number
  readonly effective_at: string | null
  readonly expires_at: string | null
  readonly created_at: string | null
  readonly created_by: string | null
  readonly source: string
  readonly note: string | null
  readonly revoked_at: string | null
  readonly state: string
  readonly where: string
}

export interface SubscriptionShape {
  readonly account: string
  readonly kind: string
  readonly state: string
  readonly since: string | null
  readonly until: string | null
  readonly term: { readonly start: string; readonly end: string | null } | null
  readonly start: string
  readonly end: string | null
  readonly grace_ms: number
  readonly renewal: string
  readonly term_length: string | null
  readonly trial_end: string | null
  readonly timezone: string
  readonly seats: number | null
  readonly suspended: { readonly from: string; readonly until: string | null } | null
  readonly plans: readonly { readonly plan: string; readonly version: number; readonly from: string | null; readonly proration: string }[]
  readonly add_ons: readonly string[]
  readonly next_announcement: { readonly what: string; readonly days_ahead: number; readonly at: string } | null
}

export interface InvoiceLine {
  readonly kind: string
  readonly plan?: string
  readonly price_version?: string
  readonly model?: string
  readonly price?: string
  readonly by?: string
  readonly quantity?: string
  readonly unit_price?: string
  readonly calls?: number
  readonly days?: number
  readonly of_days?: number
  readonly amount: string
}

export interface Invoice {
  readonly account: string
  readonly period: { readonly start: string; readonly end: string; readonly timezone: string }
  readonly events: number
  readonly corrections: number
  readonly unpriced_events: number
  readonly currencies: readonly { readonly currency: string; readonly usage: string; readonly adjustments: string; readonly total: string; readonly lines: readonly InvoiceLine[] }[]
  readonly known_since: string | null
}

export interface Refusal {
  readonly at: string
  readonly request_id: string
  readonly account: string
  readonly key: string
  readonly limit: string | null
  readonly reason: string
  readonly model: string | null
  readonly ceiling: number | null
  readonly used: number | null
  readonly remaining: number | null
  readonly resets_at: string | null
}

export interface UsageRow {
  readonly from?: string
  readonly account?: string
  readonly key?: string
  readonly model?: string
  readonly requests: number
  readonly input_tokens: number
  readonly output_tokens: number
  readonly total_tokens: number
  readonly cost: Readonly<Record<string, string>>
  /** null: refusals are not told apart by this. */
  readonly refused: number | null
  readonly p50_ms: number | null
  readonly p95_ms: number | null
  readonly ttft_p50_ms: number | null
  readonly tokens_per_second: number | null
}

export interface UsageAnswer {
  readonly unit: 'minute' | 'hour' | 'day' | 'month'
  readonly from: string
  readonly to: string
  /** null: nobody knows; the store is away, or it is being added up again. */
  readonly complete_until: string | null
  /** There is more than an answer holds. */
  readonly truncated: boolean
  readonly rows: readonly UsageRow[]
}

export interface RollupsAnswer {
  readonly state: 'current' | 'behind' | 'rebuilding' | 'failing' | 'off'
  readonly behind: number | null
  /** null: there is none, or another gateway makes it. */
  readonly rebuild: { readonly started_at: string; readonly archived: number } | null
  readonly missed: number
  readonly failure?: string | null
}

export interface Live {
  readonly at: string
  readonly requests_per_second: number
  readonly tokens_per_second: number
  readonly cost_per_second: Readonly<Record<string, string>>
  readonly refused_per_second: number
  readonly open: number
  readonly streams: number
  /** By reason, in the last minute. */
  readonly refusals: Readonly<Record<string, number>>
  readonly sinks: readonly { readonly name: string; readonly lag: number; readonly dead: number }[]
}

export interface PlanLimit {
  readonly name: string
  readonly meter: string
  readonly limit: number | null
  readonly window: string | null
  readonly per: string
  readonly each: string | null
  readonly for: { readonly models: readonly string[] | null; readonly endpoints: readonly string[] | null }
  readonly mode: string
  readonly visible: boolean
  readonly overdraft: string | number
  readonly seats?: { readonly holder: string; readonly linger_ms: number; readonly by_subscription: boolean }
}

export interface Plan {
  readonly name: string
  readonly version: number
  readonly public: boolean
  readonly proration: string
  readonly entitlements: { readonly models: readonly string[]; readonly endpoints: readonly string[] | null; readonly max_output_tokens: number | null; readonly max_context_tokens: number | null; readonly priority: number | null; readonly features: readonly string[]; readonly deny_features: readonly string[] }
  readonly limits: readonly PlanLimit[]
  readonly policy: Readonly<Record<string, string | number | boolean>>
  readonly prices: { readonly currency: string; readonly version: string | null } | null
}

export interface Missed {
  readonly name: string
  readonly missed: number
  readonly missed_at: string | null
}

export interface Store {
  readonly kind: string
  readonly directory?: string
  readonly url?: string
  readonly admitting: boolean
  readonly reason: string | null
  readonly reservations: number | null
  readonly undelivered: number
  readonly quarantined: number
  /** What a crash could lose, in sentences. */
  readonly losses: readonly string[]
  readonly sinks: readonly Missed[]
  /** Of sinks that are configured no longer. */
  readonly missed_before: readonly Missed[]
  readonly spool: { readonly settlements: number | null; readonly bytes: number | null } | null
  readonly servers: readonly { readonly address: string; readonly product: string; readonly version: string | null }[]
}

export interface Sink {
  readonly name: string
  readonly type: string
  readonly contract: 'verified' | 'experimental'
  /** Its books can be asked. */
  readonly reads_back: boolean
  readonly state: 'starting' | 'running' | 'waiting' | 'paused' | 'elsewhere' | 'replaying' | 'not open' | 'stopped'
  readonly reason: string | null
  readonly next_try_at: string | null
  readonly last_delivery_at: string | null
  readonly waiting: number
  readonly oldest_at: string | null
  readonly dead: number
  readonly quarantined: number
}

/** Records that nobody sends until somebody decides. */
export interface Withheld {
  readonly sink: string
  readonly of: string
  readonly why: 'ambiguous' | 'refused'
  readonly reason: string
  readonly sent_at: string | null
  readonly quarantined_at: string
  readonly records: readonly unknown[]
}

/** Amounts are exact decimal texts. */
export interface BookRow {
  readonly accounts: readonly string[]
  readonly customer: string | null
  readonly code: string
  readonly records: number
  readonly ours: string
  /** null: the receiver cannot be asked. */
  readonly theirs: string | null
  readonly difference: string | null
  readonly late: string
  readonly refused: string
  readonly quarantined: string
  readonly missing: string
  readonly doubled: string
  readonly unexplained: string
}

export interface BookDifference {
  readonly why: string
  readonly record: string | null
  readonly event: string | null
  readonly account: string | null
  readonly customer: string | null
  readonly code: string
  readonly from: string
  readonly until: string
  readonly records: number
  readonly amount: string
  readonly reason: string
  readonly compensation: { readonly how: string; readonly because?: string; readonly record?: { readonly id: string; readonly value?: string } }
  readonly outcome: string | null
}

export interface Books {
  readonly sink: string
  readonly from: string
  readonly until: string
  readonly asked: 'totals' | 'records' | 'totals and records' | 'nothing'
  readonly rows: readonly BookRow[]
  readonly differences: readonly BookDifference[]
  readonly unmapped: number
  readonly unexplained: number
  readonly notes: readonly string[]
}

export interface DeadEvent {
  readonly sink: string
  readonly position: string
  readonly reason: string
  readonly buried_at: string
  readonly event: UsageEvent
}

export interface UsageEvent {
  readonly id: string
  readonly time: string
  readonly subject: string
  readonly data: Readonly<Record<string, unknown>>
}

export interface Notice {
  readonly id: string
  readonly time: string
  readonly subject: string
  readonly data: { readonly type: string; readonly account: string; readonly text: string }
}

export interface Change {
  readonly at: string
  readonly who: string
  readonly action: string
  readonly target: string
  readonly details?: Words
}

export interface ConfigInUse {
  /** null: no gateway runs here. */
  readonly last_reload: { readonly ok: boolean; readonly at: string; readonly problems: readonly string[] } | null
}

export type RefusalExplanation = Omit<Refusal, 'at' | 'request_id'> & { readonly id: string; readonly state: 'refused'; readonly refused_at: string }

export interface Explanation {
  readonly id: string
  readonly state: 'in_flight' | 'settled' | 'expired'
  readonly admitted_at: string
  readonly settled_at: string | null
  readonly account: string
  readonly key: string
  readonly plan: string
  readonly plan_version: number
  readonly endpoint: string
  readonly model: string | null
  readonly model_served: string | null
  readonly provider: string
  readonly upstream: string
  readonly stream: boolean
  readonly features: readonly string[]
  readonly status: number | null
  readonly end: string | null
  readonly usage_source: string | null
  readonly bound: Readonly<Record<string, unknown>> | null
  readonly output_bound: string | null
  readonly limits: readonly {
    readonly name: string
    readonly of: string
    readonly per: string
    readonly meter: string
    readonly window: string | null
    readonly from: string | null
    readonly until: string | null
    readonly limit: number | null
    readonly mode: string
    readonly held: number | null
    readonly used: number | null
    readonly buckets: readonly { readonly bucket: string; readonly of: number | null; readonly drawn: number }[]
  }[]
  readonly shadow: readonly string[]
  readonly usage: Readonly<Record<string, number>>
  readonly price: CallPrice | null
  readonly corrections: readonly { readonly id: string; readonly settled_at: string; readonly usage: Readonly<Record<string, number>>; readonly price: CallPrice }[]
  readonly notes: readonly string[]
}

export interface CallPrice {
  readonly currency: string | null
  readonly cost: string | null
  readonly note: string | null
  readonly price_version: string | null
  readonly parts: readonly PricePart[]
}

export interface PricePart {
  readonly counted: string
  readonly price: string
  readonly quantity: string
  readonly unit_price: string
  readonly amount: string
}
