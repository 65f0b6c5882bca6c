import { unreachable } from '../../assert.ts'
import { periodAt } from '../calendar.ts'
import type { AppliedLimit, LimitKind } from './limit.ts'
import { singleCheck, singleFitsAtMs } from './single.ts'
import { roomIsSlow } from './window.ts'

/** A window with fixed edges: a duration aligned to the clock (UTC), or the minute or hour of the account's time zone. One counter, named by its start. */
export const fixedWindow: LimitKind = {
  name: 'fixed_window',
  handles: (window) => window.kind === 'fixed' || (window.kind === 'calendar' && (window.unit === 'minute' || window.unit === 'hour')),
  check(applied, need, admittedMs, _nowMs, clamp) {
    const { startMs, endMs } = edgesAt(applied, admittedMs)
    return singleCheck(applied, need, startMs, endMs, clamp && roomIsSlow(applied.limit))
  },
  resetsAtMs: (applied, nowMs) => edgesAt(applied, nowMs).endMs,
  fitsAtMs: (applied, nowMs, usedBySlot, ceiling, amount) => singleFitsAtMs(nowMs, edgesAt(applied, nowMs).endMs, usedBySlot?.[0] ?? 0, ceiling, amount),
  lengthMs(applied, nowMs) {
    const { startMs, endMs } = edgesAt(applied, nowMs)
    return endMs - startMs
  },
}

function edgesAt(applied: AppliedLimit, atMs: number): { startMs: number; endMs: number } {
  const { window } = applied.limit
  if (window.kind === 'fixed') {
    const startMs = Math.floor(atMs / window.ms) * window.ms
    return { startMs, endMs: startMs + window.ms }
  }
  if (window.kind === 'calendar') return periodAt(window.unit, applied.scope.calendar, atMs)
  return unreachable(window as never)
}
