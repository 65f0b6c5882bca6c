import type { NotificationsConfig } from '../config/config.ts'
import { matchesAny } from '../metering/glob.ts'
import type { Limit, Window } from '../metering/limits/limit.ts'
import { isLong, isMoney } from '../metering/limits/window.ts'

const hourMs = 3_600_000

/** What is told of one limit. */
export interface Told {
  /** Percentages, ascending. */
  readonly thresholds: readonly number[]
  readonly forecast: boolean
}

const nothing: Told = Object.freeze({ thresholds: Object.freeze([]), forecast: false })

/**
 * What a limit says itself wins. Limits of end users are told of only where they say so: each end user is as many notices as an account, and nobody bounds how many
 * there are.
 */
export function toldOf(limit: Limit, { thresholds, forecast, limits }: NotificationsConfig): Told {
  if (limit.window.kind === 'in_flight' || isShort(limit.window)) return nothing
  if (limit.notify !== undefined) return limit.notify.length === 0 ? nothing : { thresholds: limit.notify, forecast: forecast && limit.per !== 'end_user' }
  if (limit.per === 'end_user') return nothing
  const watched = limits === null ? (limit.mode === 'enforce' && ((limit.visible && isLong(limit.window)) || isMoney(limit) || limit.prepaid === true)) : matchesAny(limits, limit.name)
  return watched ? { thresholds, forecast } : nothing
}

export function isToldOf(limit: Limit, config: NotificationsConfig): boolean {
  const { thresholds, forecast } = toldOf(limit, config)
  return thresholds.length > 0 || forecast
}

/** What it says is over before it is read. */
function isShort(window: Window): boolean {
  if (window.kind === 'sliding' || window.kind === 'fixed') return window.ms < hourMs
  return window.kind === 'calendar' && window.unit === 'minute'
}
