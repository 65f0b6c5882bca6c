import type { Balance } from './check.ts'
import { exhaustsAtMs, recentMark } from './forecast.ts'
import type { Paces, Standing } from './forecast.ts'
import { counterBase } from './limits/counter.ts'
import type { AppliedLimit } from './limits/limit.ts'
import { usagePeriodAt } from './limits/usage-period.ts'
import type { UsagePeriod } from './limits/usage-period.ts'
import { isLong } from './limits/window.ts'
import type { Draft } from './reservation.ts'

export interface LimitForecast {
  readonly standing: Standing
  readonly period: UsagePeriod
  /** null: not in a hundred years, or nobody can tell. */
  readonly exhaustsMs: number | null
}

/** Where a limit's use leads; undefined: it is unlimited, or its room comes back little by little, or soon. `paces` absent: the average of the period alone. */
export function forecastOf(applied: AppliedLimit, balance: Balance, paces: Paces | undefined, nowMs: number): LimitForecast | undefined {
  const { limit, grants } = applied
  const period = usagePeriodAt(applied, nowMs)
  if (limit.ceiling === null || !period.empties || !isLong(limit.window)) return undefined
  const standing: Standing = {
    used: balance.used, ceiling: limit.ceiling + (grants === undefined ? 0 : balance.granted ?? 0), startMs: period.startMs,
    mark: recentMark(paces?.paceOf(counterBase(applied)), period.startMs ?? 0, nowMs),
  }
  return { standing, period, exhaustsMs: standing.ceiling === 0 ? null : exhaustsAtMs(standing, nowMs) }
}

/** When each limit of a draft is used up, where that is before its period ends; in the order of `quotaItems`. */
export function quotaForecasts(draft: Draft, balances: readonly Balance[], paces: Paces | undefined, nowMs: number): readonly (number | null)[] {
  return draft.checks.flatMap((check, index) => {
    const balance = balances[index]
    const applied = draft.appliedByCheck[index]
    if (balance === undefined || applied === undefined) return []
    return check.ceilings.flatMap((_ceiling, nth) => {
      const one = applied[nth]
      if (one === undefined) return []
      const forecast = forecastOf(one, balance, paces, nowMs)
      const { exhaustsMs = null, period } = forecast ?? {}
      return [exhaustsMs !== null && exhaustsMs < (period?.endMs ?? Infinity) ? exhaustsMs : null]
    })
  })
}
