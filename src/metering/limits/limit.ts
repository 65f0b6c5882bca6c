import type { Check } from '../check.ts'
import type { Grant } from '../grant.ts'
import type { Meter } from '../meter.ts'
import type { Subscription } from '../subscription.ts'

export type CalendarUnit = 'minute' | 'hour' | 'day' | 'week' | 'month'

export type Window =
  | { readonly kind: 'sliding'; readonly ms: number }
  | { readonly kind: 'fixed'; readonly ms: number }
  | { readonly kind: 'calendar'; readonly unit: CalendarUnit }
  | { readonly kind: 'billing_period' }
  /** The subscription's term: it begins anew when that is renewed. Without a subscription it never does. */
  | { readonly kind: 'term' }
  | { readonly kind: 'lifetime' }
  /** Concurrency: what is in flight, no window. With `seats`: who is, or was a moment ago. */
  | { readonly kind: 'in_flight'; readonly seats?: Seating }

/** Who holds a seat, and for how long after his last call has ended, in ms: at least so long. */
export interface Seating {
  readonly holder: 'key' | 'end_user'
  readonly lingerMs: number
}

export type Overdraft =
  | { readonly kind: 'none' }
  | { readonly kind: 'absolute'; readonly amount: number }
  | { readonly kind: 'percentage'; readonly percent: number }
  | { readonly kind: 'unlimited' }

/** What a period leaves of its allowance goes on as a grant. */
export interface Rollover {
  /** At most so much of a period, in small units, or a part of its ceiling. */
  readonly max: { readonly kind: 'absolute'; readonly amount: number } | { readonly kind: 'percentage'; readonly percent: number }
  /** How long it lasts, from the period's end: so many periods, a time, or for ever (null). */
  readonly lasts: { readonly kind: 'periods'; readonly count: number } | { readonly kind: 'time'; readonly ms: number } | null
}

/** A configured rule, parsed. Amounts are integers in the meter's small units. */
export interface Limit {
  readonly name: string
  readonly meter: Meter
  /** null: unlimited (it counts, and never refuses). */
  readonly ceiling: number | null
  readonly window: Window
  readonly per: 'account' | 'key' | 'end_user'
  /** Globs; null: every model, every endpoint. */
  readonly forModels: readonly string[] | null
  readonly forEndpoints: readonly string[] | null
  /** `model`: every model has its own counter. */
  readonly each: 'model' | null
  readonly mode: 'enforce' | 'shadow'
  readonly visible: boolean
  readonly overdraft: Overdraft
  /** The ceiling is the number of seats that the account's subscription has; 0 without one. */
  readonly bySubscription?: true
  /** What is drawn here was paid before: when it is used up, payment is required. */
  readonly prepaid?: boolean
  /** Percentages of use that are told, ascending; none: nothing is. Absent: those of `notifications`, where it is among their limits. */
  readonly notify?: readonly number[]
  /** Absent: what is left of a period is lost. */
  readonly rollover?: Rollover
}

/** Whose counter it is, and that account's calendar. */
export interface Scope {
  /** Unique over kinds: `account:acme`, `key:acme-dev`, `end_user:acme-dev/u_17`. */
  readonly id: string
  readonly calendar: AccountCalendar
  /** That account's, or that of the nearest one above it; absent or null: there is none. */
  readonly subscription?: Subscription | null
}

/** An account's time zone (IANA) and the civil date from which its billing periods are counted (day clamped to the month's length). */
export interface AccountCalendar {
  readonly timeZone: string
  /** YYYY-MM-DD. */
  readonly anchor: string
  /** What held until `changedMs`. The period that was running then ends as it would have; only the next one begins by the new calendar. */
  readonly before?: { readonly timeZone: string; readonly anchor: string; readonly changedMs: number }
}

/** What a call needs of one limit's meter: `fixed + perUnit × u`. */
export interface Need {
  readonly fixed: number
  readonly perUnit: number
}

/** A rule applied to one call. */
export interface AppliedLimit {
  readonly limit: Limit
  readonly scope: Scope
  /** The selector's value, such as the model of `each: model`; part of the counter's identity. */
  readonly selector: string
  /** Every grant that extends it, those that are over included; absent: there never was one. */
  readonly grants?: readonly Grant[]
}

/** One file of pure arithmetic per kind; `index.ts` lists them. */
export interface LimitKind {
  readonly name: string
  handles(window: Window): boolean
  /** The check of an admission at `admittedMs`, seen from `nowMs` (later only when a running exchange is extended). */
  check(applied: AppliedLimit, need: Need, admittedMs: number, nowMs: number, clamp: boolean): Check
  /** When the use of `usedBySlot` has wholly gone, ms since 1970; null: never. */
  resetsAtMs(applied: AppliedLimit, nowMs: number, usedBySlot: readonly number[] | undefined): number | null
  /** The earliest instant at which `amount` would fit under `ceiling` if nothing else were used; null: never. */
  fitsAtMs(applied: AppliedLimit, nowMs: number, usedBySlot: readonly number[] | undefined, ceiling: number, amount: number): number | null
  /** The window's length in ms as shown in `w=`; null: none. */
  lengthMs(applied: AppliedLimit, nowMs: number): number | null
}
