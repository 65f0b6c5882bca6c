import { assert } from '../../assert.ts'
import { type Period, periodAt } from '../calendar.ts'
import type { AppliedLimit, LimitKind } from './limit.ts'
import { grantedCheck, singleCheck, singleFitsAtMs } from './single.ts'

/**
 * An amount for a period: day, week, month, billing period or lifetime; a budget is the same in money. One counter, named by the period's start.
 * Grants are drawn after it, then the overdraft, each a bucket with a counter of its own. The output bound may be lowered to fit, where the plan clamps.
 */
export const allowance: LimitKind = {
  name: 'allowance',
  handles: (window) => window.kind === 'billing_period' || window.kind === 'lifetime'
    || (window.kind === 'calendar' && (window.unit === 'day' || window.unit === 'week' || window.unit === 'month')),
  check(applied, need, admittedMs, _nowMs, clamp) {
    const period = periodOf(applied, admittedMs)
    if (applied.grants === undefined) return singleCheck(applied, need, period?.startMs ?? 0, period?.endMs ?? null, clamp)
    const neighbours = period === null ? [] : [periodOf(applied, period.startMs - 1)!.startMs, period.endMs]
    return grantedCheck(applied, need, admittedMs, period?.startMs ?? 0, period?.endMs ?? null, neighbours, clamp)
  },
  resetsAtMs: (applied, nowMs) => periodOf(applied, nowMs)?.endMs ?? null,
  fitsAtMs: (applied, nowMs, usedBySlot, ceiling, amount) => singleFitsAtMs(nowMs, periodOf(applied, nowMs)?.endMs ?? null, usedBySlot?.[0] ?? 0, ceiling, amount),
  lengthMs(applied, nowMs) {
    const period = periodOf(applied, nowMs)
    return period === null ? null : period.endMs - period.startMs
  },
}

/** null: the lifetime, which has no edges. */
function periodOf(applied: AppliedLimit, atMs: number): Period | null {
  const { window } = applied.limit
  if (window.kind === 'lifetime') return null
  if (window.kind === 'billing_period') return periodAt('billing_period', applied.scope.calendar, atMs)
  assert(window.kind === 'calendar', 'an allowance has a calendar window')
  return periodAt(window.unit, applied.scope.calendar, atMs)
}
