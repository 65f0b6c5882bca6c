import type { Plan } from '../config/config.ts'
import { civilDayMs, termAt, type Period } from '../metering/calendar.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import { feeShares, planAt, type PlanChange, type PlanShare } from '../metering/plan-change.ts'
import type { Subscription } from '../metering/subscription.ts'

/** What an invoice is made by, beside the events. */
export interface InvoiceTerms {
  readonly account: string
  readonly period: Period
  readonly timeZone: string
  readonly plans: ReadonlyMap<string, Plan>
  /** Whose fees, included units and minimum the period bears, and for how many of its days. */
  readonly shares: readonly PlanShare[]
  /** Plans that the account came to in the period: their `once` fees are due. */
  readonly joined: readonly string[]
  /** The plan that the account is on as a year of it begins in the period: its yearly fees are due; null: none begins. */
  readonly yearOf: string | null
  /** The limit that a bucket extends, where the bucket is a grant that has been paid for; null: it is none. */
  readonly prepaidLimitOf: (bucket: string) => string | null
}

export interface BilledAccount {
  readonly id: string
  readonly calendar: AccountCalendar
  /** Its own or inherited one; null: none. */
  readonly subscription: Pick<Subscription, 'kind' | 'startMs' | 'trialEndMs' | 'endMs'> | null
  /** All plans that it was on, in order (`planChangesOf`). */
  readonly changes: readonly PlanChange[]
}

/**
 * The terms of an account's billing period. A trial bears no fees. Years are counted from the day on which the subscription began to be paid, else from the
 * anchor of the billing periods.
 */
export function termsOf(account: BilledAccount, period: Period, plans: ReadonlyMap<string, Plan>, prepaidLimitOf: (bucket: string) => string | null): InvoiceTerms {
  const { calendar, subscription } = account
  const { timeZone } = calendar
  const terms = { account: account.id, period, timeZone, plans, prepaidLimitOf }
  if (subscription?.kind === 'trial') return { ...terms, shares: [], joined: [], yearOf: null }
  const begunMs = subscription === null ? null : subscription.trialEndMs ?? subscription.startMs
  const endedMs = subscription?.endMs ?? null
  const changes = begunMs === null ? account.changes : settled(account.changes, begunMs)
  const yearMs = yearIn(begunMs ?? civilDayMs(timeZone, calendar.anchor), timeZone, period)
  return {
    ...terms,
    shares: feeShares(changes, period, timeZone, endedMs),
    // What has been so ever since anybody knows (0) was not come to.
    joined: changes.filter(({ fromMs }) => fromMs > 0 && fromMs >= period.startMs && fromMs < period.endMs && fromMs < (endedMs ?? Infinity)).map(({ plan }) => plan),
    yearOf: yearMs === null || yearMs >= (endedMs ?? Infinity) ? null : planAt(changes, yearMs)?.plan ?? null,
  }
}

/** Whoever changes during the trial comes to the plan that is there when it ends; later changes follow. */
function settled(changes: readonly PlanChange[], begunMs: number): readonly PlanChange[] {
  const first = changes.findLast(({ fromMs }) => fromMs <= begunMs)
  return [...(first === undefined ? [] : [{ ...first, fromMs: begunMs }]), ...changes.filter(({ fromMs }) => fromMs > begunMs)]
}

const year = { unit: 'year', count: 1 } as const

/** When in the period a year begins, of those counted from `startMs`; null: none does. */
function yearIn(startMs: number, timeZone: string, period: Period): number | null {
  if (startMs >= period.endMs) return null
  const { startMs: last } = termAt(startMs, timeZone, year, period.endMs - 1)
  return last >= period.startMs ? last : null
}
