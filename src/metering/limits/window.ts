import { unreachable } from '../../assert.ts'
import type { Limit, Window } from './limit.ts'

/** What windows are called: in counters' names, in answers, in sentences. */

const secondMs = 1_000
const minuteMs = 60_000
const hourMs = 3_600_000
const dayMs = 86_400_000

/** A day or longer: such windows are allowances rather than rates; their room does not come back soon. */
export function isLong(window: Window): boolean {
  switch (window.kind) {
    case 'sliding':
    case 'fixed': return window.ms >= dayMs
    case 'calendar': return window.unit !== 'minute' && window.unit !== 'hour'
    case 'billing_period':
    case 'term':
    case 'lifetime': return true
    case 'in_flight': return false
    default: return unreachable(window)
  }
}

/** Does a limit's room come back so slowly that a lower output bound is better than a refusal? Windows of a day or longer, and money. */
export function roomIsSlow(limit: Limit): boolean {
  return isLong(limit.window) || isMoney(limit)
}

export function isMoney(limit: Limit): boolean {
  return limit.meter.kind === 'builtin' && limit.meter.name === 'cost'
}

/** Kind and length, as part of a counter's identity. */
export function windowTag(window: Window): string {
  switch (window.kind) {
    case 'sliding': return `sliding${window.ms}`
    case 'fixed': return `fixed${window.ms}`
    case 'calendar': return window.unit
    // Who holds seats is part of what is counted; for how long he keeps one is not.
    case 'in_flight': return window.seats === undefined ? window.kind : `seats_${window.seats.holder}`
    default: return window.kind
  }
}

/** As the configuration writes it: `1m`, `5h`, `day`, `billing_period`; null for what has no window. */
export function windowName(window: Window): string | null {
  switch (window.kind) {
    case 'sliding':
    case 'fixed': return durationName(window.ms)
    case 'calendar': return window.unit
    case 'billing_period':
    case 'term':
    case 'lifetime': return window.kind
    case 'in_flight': return null
    default: return unreachable(window)
  }
}

/** For a sentence: `per minute`, `per 5 hours`, `per billing period`, `in total`, `at once`. */
export function windowPhrase(window: Window): string {
  switch (window.kind) {
    case 'sliding':
    case 'fixed': return `per ${durationPhrase(window.ms)}`
    case 'calendar': return `per ${window.unit}`
    case 'billing_period': return 'per billing period'
    case 'term': return 'per term of the subscription'
    case 'lifetime': return 'in total'
    case 'in_flight': return 'at once'
    default: return unreachable(window)
  }
}

const units: readonly (readonly [number, string, string])[] = [[dayMs, 'd', 'day'], [hourMs, 'h', 'hour'], [minuteMs, 'm', 'minute'], [secondMs, 's', 'second'], [1, 'ms', 'millisecond']]

function durationName(ms: number): string {
  for (const [unit, letter] of units) if (ms % unit === 0) return `${ms / unit}${letter}`
  return `${ms}ms`
}

function durationPhrase(ms: number): string {
  for (const [unit, , word] of units) if (ms % unit === 0) return ms === unit ? word : `${ms / unit} ${word}s`
  return `${ms} milliseconds`
}

/** A wait as people read it, rounded up to seconds: `12s`, `6m0s`, `3h20m`, `2d4h`. */
export function waitText(ms: number): string {
  const seconds = Math.max(1, Math.ceil(ms / secondMs))
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m${seconds % 60}s`
  const minutes = Math.ceil(seconds / 60)
  if (minutes < 1_440) return `${Math.floor(minutes / 60)}h${minutes % 60}m`
  const hours = Math.ceil(minutes / 60)
  return `${Math.floor(hours / 24)}d${hours % 24}h`
}
