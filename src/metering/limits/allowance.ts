import { assert } from '../../assert.ts'
import { periodAt } from '../calendar.ts'
import { grantEndsMs, LOOKED_AT_LATE_MS } from '../grant.ts'
import type { Grant } from '../grant.ts'
import { LONGEST_GRACE_MS, usageTermAt } from '../subscription.ts'
import { Memo } from './counter.ts'
import type { AppliedLimit, LimitKind } from './limit.ts'
import { grantedCheck, grantedNames, singleCheck, singleFitsAtMs } from './single.ts'
import type { Granted } from './single.ts'

/**
 * An amount for a period: day, week, month, billing period, term of the subscription or lifetime; a budget is the same in money. One counter, named by the period's start.
 * Grants are drawn after it, then the overdraft, each a bucket with a counter of its own. The output bound may be lowered to fit, where the plan clamps.
 */
export const allowance: LimitKind = {
  name: 'allowance',
  handles: (window) => window.kind === 'billing_period' || window.kind === 'term' || window.kind === 'lifetime'
    || (window.kind === 'calendar' && (window.unit === 'day' || window.unit === 'week' || window.unit === 'month')),
  check(applied, need, admittedMs, _nowMs, clamp) {
    if (applied.grants !== undefined) return grantedCheck(grantedOf(applied, applied.grants, admittedMs), need, clamp)
    const period = periodOf(applied, admittedMs)
    return singleCheck(applied, need, period?.startMs ?? 0, counterEndsMs(applied, period?.endMs ?? null), clamp)
  },
  resetsAtMs: (applied, nowMs) => periodOf(applied, nowMs)?.endMs ?? null,
  fitsAtMs: (applied, nowMs, usedBySlot, ceiling, amount) => singleFitsAtMs(nowMs, periodOf(applied, nowMs)?.endMs ?? null, usedBySlot?.[0] ?? 0, ceiling, amount),
  lengthMs(applied, nowMs) {
    const period = periodOf(applied, nowMs)
    return period === null || period.endMs === null ? null : period.endMs - period.startMs
  },
}

const granted = new Memo<AppliedLimit, Granted>(4_096)

/** From memory while neither the period nor what may be drawn changes: three periods of a calendar are dear. */
function grantedOf(applied: AppliedLimit, grants: readonly Grant[], atMs: number): Granted {
  const known = granted.get(applied)
  if (known !== undefined && known.fromMs <= atMs && atMs < known.untilMs) return known
  const period = periodOf(applied, atMs)
  const neighbours = period === null ? [] : [periodOf(applied, period.startMs - 1)!.startMs, ...(period.endMs === null ? [] : [period.endMs])]
  const edges = grants.flatMap((grant) => [grant.effectiveMs, grantEndsMs(grant) ?? Infinity])
  const fresh = grantedNames(applied, atMs, period?.startMs ?? 0, counterEndsMs(applied, period?.endMs ?? null), neighbours, {
    fromMs: Math.max(period?.startMs ?? -Infinity, ...edges.filter((edge) => edge <= atMs)), untilMs: Math.min(period?.endMs ?? Infinity, ...edges.filter((edge) => edge > atMs)),
  })
  granted.set(applied, fresh)
  return fresh
}

/**
 * A counter keeps the end that it was begun with, and a term may yet become the last one, whose grace counts to it, or a longer one. Of what rolls over, it is
 * still looked at after the end.
 */
function counterEndsMs({ limit }: AppliedLimit, endMs: number | null): number | null {
  if (endMs === null) return null
  if (limit.window.kind === 'term') return endMs + LONGEST_GRACE_MS
  return limit.rollover === undefined ? endMs : endMs + LOOKED_AT_LATE_MS
}

/** The period of an allowance. null: the lifetime, which has no edges; without a subscription, a term is one. `endMs` null: the last term, after which nothing begins anew. */
export function periodOf(applied: Pick<AppliedLimit, 'limit' | 'scope'>, atMs: number): { readonly startMs: number; readonly endMs: number | null } | null {
  const { window } = applied.limit
  if (window.kind === 'term') {
    const { subscription } = applied.scope
    return subscription === undefined || subscription === null ? null : usageTermAt(subscription, atMs)
  }
  if (window.kind === 'lifetime') return null
  if (window.kind === 'billing_period') return periodAt('billing_period', applied.scope.calendar, atMs)
  assert(window.kind === 'calendar', 'an allowance has a calendar window')
  return periodAt(window.unit, applied.scope.calendar, atMs)
}
