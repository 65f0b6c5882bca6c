import { periodAt } from '../calendar.ts'
import { periodOf } from './allowance.ts'
import type { AppliedLimit } from './limit.ts'

/** What a limit's use is counted in: ms since 1970, the end not included; null: it has no such edge. */
export interface UsagePeriod {
  readonly startMs: number | null
  readonly endMs: number | null
  /** The use begins at nothing when the period does. A sliding window's does not: its period is only a stretch of its length, aligned to 1970. */
  readonly empties: boolean
}

const ever: UsagePeriod = Object.freeze({ startMs: null, endMs: null, empties: true })

/** The period of a limit that contains an instant, whatever the kind of its window. */
export function usagePeriodAt(applied: Pick<AppliedLimit, 'limit' | 'scope'>, atMs: number): UsagePeriod {
  const { window } = applied.limit
  switch (window.kind) {
    case 'in_flight': return ever
    case 'sliding':
    case 'fixed': {
      const startMs = Math.floor(atMs / window.ms) * window.ms
      return { startMs, endMs: startMs + window.ms, empties: window.kind === 'fixed' }
    }
    case 'calendar': return { ...periodAt(window.unit, applied.scope.calendar, atMs), empties: true }
    default: {
      const period = periodOf(applied, atMs)
      return period === null ? ever : { ...period, empties: true }
    }
  }
}
