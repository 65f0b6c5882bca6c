import { civilDaysBetween } from './calendar.ts'
import type { Period } from './calendar.ts'

/**
 * What a change of plan within a period means for the period's allowances and fees. Counters always stay: what was used is used. Days are those of the
 * account's clock; the day of the change belongs to the new plan.
 */
export type Proration = 'none' | 'by_day'

/** From an instant on the account is on this plan. */
export interface PlanChange {
  readonly plan: string
  readonly version: number
  /** 0: ever since anybody knows. */
  readonly fromMs: number
  /** What was stated for this change. */
  readonly proration: Proration
}

/** The plan in force; undefined: none yet. `changes` are in order. */
export function planAt(changes: readonly PlanChange[], atMs: number): PlanChange | undefined {
  return changes.findLast(({ fromMs }) => fromMs <= atMs)
}

/** A plan's part of a period. */
export interface PlanShare {
  readonly plan: string
  readonly version: number
  readonly days: number
  /** Days of the whole period. */
  readonly ofDays: number
}

/**
 * The ceiling of one limit in a period, seen at an instant. `none`: the new plan's, whole, at once. `by_day`: each plan of the period gives its ceiling for its
 * days (the one in force to the end of the period), summed exactly and rounded down. `ceilingOf` answers null where a plan has no such limit or it is
 * unlimited: then nothing can be prorated, and the new one's holds whole.
 */
export function ceilingIn(changes: readonly PlanChange[], ceilingOf: (plan: string) => number | null, period: Period, timeZone: string, atMs: number): number | null {
  const current = planAt(changes, atMs)
  if (current === undefined) return null
  const whole = ceilingOf(current.plan)
  if (whole === null || current.proration === 'none' || current.fromMs <= period.startMs) return whole
  let sum = 0n
  for (const { plan, days } of sharesBefore(changes, { startMs: period.startMs, endMs: period.endMs }, timeZone, atMs)) {
    const ceiling = ceilingOf(plan)
    if (ceiling === null) return whole
    sum += BigInt(ceiling) * BigInt(days)
  }
  return Number(sum / BigInt(daysOf(period, timeZone)))
}

/** By days, with the plan of `atMs` to the period's end. */
function sharesBefore(changes: readonly PlanChange[], period: Period, timeZone: string, atMs: number): readonly PlanShare[] {
  return shares(changes.filter(({ fromMs }) => fromMs <= atMs), period, timeZone, null)
}

/**
 * Whose flat fees a period bears, and for how many of its days. A change with `by_day` ends the share of the plan before it; one with `none` has no share of
 * the period in which it happens: the plan that was there at the period's beginning is charged to its end. The first plan of all, and the end of everything (`endedMs`), go
 * by what was stated too: whole periods, or days.
 */
export function feeShares(changes: readonly PlanChange[], period: Period, timeZone: string, endedMs: number | null): readonly PlanShare[] {
  const at = planAt(changes, period.startMs)
  const within = changes.filter(({ fromMs }) => fromMs > period.startMs && fromMs < period.endMs && (endedMs === null || fromMs < endedMs))
  if (endedMs !== null && endedMs <= period.startMs) return []
  const charged: PlanChange[] = at === undefined ? [] : [at]
  for (const change of within) {
    if (charged.length === 0) charged.push(change.proration === 'none' ? { ...change, fromMs: period.startMs } : change)
    else if (change.proration === 'by_day') charged.push(change)
  }
  const ends = endedMs !== null && charged.at(-1)?.proration === 'by_day' ? endedMs : null
  return shares(charged, period, timeZone, ends)
}

/** A fee for a period, cut into the shares' parts: rounded so that the parts of one fee add up to it, to the last unit. */
export function feeParts(shared: readonly PlanShare[], feeOf: (share: PlanShare) => number): readonly number[] {
  let before = 0
  return shared.map((share) => {
    const fee = BigInt(feeOf(share))
    const upTo = before + share.days
    const part = rounded(fee * BigInt(upTo), share.ofDays) - rounded(fee * BigInt(before), share.ofDays)
    before = upTo
    return Number(part)
  })
}

/** To the nearest; a half goes up. */
function rounded(amount: bigint, by: number): bigint {
  return (2n * amount + BigInt(by)) / BigInt(2 * by)
}

function shares(changes: readonly PlanChange[], period: Period, timeZone: string, endedMs: number | null): readonly PlanShare[] {
  const ofDays = daysOf(period, timeZone)
  const found: PlanShare[] = []
  for (const [index, { plan, version, fromMs }] of changes.entries()) {
    const toMs = Math.min(period.endMs, changes[index + 1]?.fromMs ?? Infinity, endedMs ?? Infinity)
    const begunMs = Math.max(period.startMs, fromMs)
    if (begunMs >= toMs) continue
    const days = civilDaysBetween(timeZone, begunMs, toMs)
    if (days > 0) found.push({ plan, version, days, ofDays })
  }
  return found
}

/** At least one, so that a period within a day can be divided. */
function daysOf(period: Period, timeZone: string): number {
  return Math.max(1, civilDaysBetween(timeZone, period.startMs, period.endMs))
}
