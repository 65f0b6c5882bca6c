import type { Balance, Check } from './check.ts'
import type { EventBody, EventSkeleton, OutboxRecord } from './event.ts'
import type { Quantities } from './meter.ts'

/** The moves of a reservation and their answers: what a store is asked and what it says. `ledger.ts` executes them. */

export interface Reserve {
  readonly id: string
  /** The instant of the move. The windows were chosen by the admission's instant, which the id begins with. */
  readonly nowMs: number
  /** Root account: the partition. */
  readonly home: string
  readonly checks: readonly Check[]
  readonly uMin: number
  readonly uMax: number
  /** When the reservation expires unless its gateway shows a sign of life. */
  readonly deadlineMs: number
  /** What an event needs if this gateway is never heard of again. */
  readonly skeleton: EventSkeleton
}

export type ReserveAnswer =
  | { readonly outcome: 'admitted'; readonly u: number; readonly balances: readonly Balance[]; /** names of shadow limits that would have refused */ readonly shadowed: readonly string[] }
  | { readonly outcome: 'denied'; readonly refusals: readonly CheckRefusal[]; readonly balances: readonly Balance[] }
  | { readonly outcome: 'already_voided' | 'already_settled' | 'expired' | 'too_old' | 'broken' }

export interface CheckRefusal {
  /** Index into the reserve's checks. */
  readonly check: number
  /** Name of the refusing limit. */
  readonly limit: string
  /** `used_up`: settled use alone refuses it. `held`: without the open reservations it would fit. */
  readonly why: 'used_up' | 'held'
}

/** What was counted so far, for the day the gateway is not heard of again. */
export interface Counted {
  /** Amounts, one per check of the reservation, integers ≥ 0 in small units; they only ever rise. */
  readonly amounts: readonly number[]
  readonly usage: Quantities
}

export interface Extend {
  readonly id: string
  readonly nowMs: number
  readonly home: string
  /** Rises with every extend of one exchange. */
  readonly checkpoint: number
  readonly deadlineMs: number
  readonly counted: Counted | null
  /** The reservation's checks again (slots may have grown newer ones), with `fixed` the whole amount now wanted, `perUnit` 0; or null: only a sign of life. */
  readonly checks: readonly Check[] | null
}

export type ExtendAnswer =
  | { readonly outcome: 'extended' | 'revived' }
  | { readonly outcome: 'denied'; readonly refusals: readonly CheckRefusal[] }
  | { readonly outcome: 'expired' | 'already_settled' | 'already_voided' | 'unknown' | 'broken' }

export interface Settle {
  readonly id: string
  readonly nowMs: number
  readonly home: string
  /** The reservation's checks again: where the amounts are booked, and whose balances are answered. `fixed` and `perUnit` are not looked at. */
  readonly checks: readonly Check[]
  /** What was really used: one per check, integers ≥ 0 in small units; 0 for concurrency. */
  readonly amounts: readonly number[]
  readonly usage: Quantities
  readonly event: EventBody
}

/** What a bucket was drawn, or `overrun` beyond all of them. */
export interface Draw {
  readonly bucket: string
  readonly amount: number
}

export type SettleAnswer =
  | { readonly outcome: 'settled' | 'settled_unheld' | 'settled_late'; readonly drawn: readonly Draw[]; readonly overruns: readonly Draw[]; readonly balances: readonly Balance[] }
  | { readonly outcome: 'already_settled' | 'differs' | 'already_voided' | 'quarantined' | 'broken' }

export interface Void {
  readonly id: string
  readonly nowMs: number
  readonly home: string
}
export type VoidAnswer = { readonly outcome: 'voided' | 'already_voided' | 'already_settled' | 'expired' | 'broken' }

export interface Expire {
  readonly id: string
  readonly nowMs: number
  readonly home: string
  /** The checkpoint the sweeper read; null: whatever it is (the embedded store at start, where no gateway can be left). */
  readonly checkpoint: number | null
}
/** `freed`: it was a seat, and has ended without an event. */
export type ExpireAnswer = { readonly outcome: 'expired' | 'freed' | 'not_due' | 'unknown' | 'broken' }

export interface DueReservation {
  readonly id: string
  readonly home: string
  readonly checkpoint: number
  readonly deadlineMs: number
}

/** A reservation that is pending: what an exchange that has not ended holds. */
export interface PendingReservation {
  readonly id: string
  readonly home: string
  readonly deadlineMs: number
  /** The output bound that it was granted. */
  readonly u: number
  /** By counter, in small units. */
  readonly held: readonly { readonly counter: string; readonly amount: number }[]
  readonly skeleton: EventSkeleton
}

export type { EventBody, EventSkeleton, OutboxRecord }
