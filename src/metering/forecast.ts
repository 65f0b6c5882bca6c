/**
 * When an amount will be used up if its use goes on as it does. The rate is that of the last day where it is known (a day to a day and a half, so that a night counts
 * as much as a working day), else the average since the period began. Amounts are in small units, instants in ms since 1970.
 */

/** How much of a period was used at an instant of it. */
export interface Mark {
  readonly atMs: number
  readonly used: number
}

/** The marks of one limit's counter, oldest first, all of the period that begins at `period` (0: it has no beginning). */
export interface Pace {
  readonly period: number
  readonly marks: readonly Mark[]
}

/** Where paces are kept: by the name that the limit's counters begin with. */
export interface Paces {
  paceOf(counters: string): Pace | undefined
}

export interface Standing {
  readonly used: number
  /** What there is in the period, grants included. */
  readonly ceiling: number
  /** null: the period has no beginning. */
  readonly startMs: number | null
  /** What was used about a day ago; null: it is not known. */
  readonly mark: Mark | null
}

const hourMs = 3_600_000
const dayMs = 24 * hourMs
/** A rate over less than this is none. */
const LEAST_MS = 10 * 60_000
/** What lies further ahead is not worth a word. */
const AHEAD_MS = 36_525 * dayMs
/** A mark is made so often: three of them reach back a day at any time. */
const MARK_EVERY_MS = 12 * hourMs
const MARKS_KEPT = 4
/** In shorter periods the average is the recent rate. */
const MARKED_FROM_MS = 2 * dayMs

/** The instant at which it is used up, `nowMs` when it is already; null: not in a hundred years at this rate, or there is no rate yet. */
export function exhaustsAtMs({ used, ceiling, startMs, mark }: Standing, nowMs: number): number | null {
  const left = ceiling - used
  if (left <= 0) return nowMs
  const sinceMs = mark === null ? startMs : mark.atMs
  if (sinceMs === null || nowMs - sinceMs < LEAST_MS) return null
  const spent = used - (mark === null ? 0 : mark.used)
  if (spent <= 0) return null
  const aheadMs = Math.ceil(left * ((nowMs - sinceMs) / spent))
  return aheadMs > AHEAD_MS ? null : nowMs + aheadMs
}

export interface Prospect {
  readonly used: number
  readonly ceiling: number
  readonly startMs: number | null
  readonly endMs: number | null
  readonly exhaustsMs: number | null
}

const TOLD_FROM_PERCENT = 20
const TOLD_AFTER_PERCENT = 10
/** Of what has no end, such as prepaid credit. */
const TOLD_AHEAD_MS = 7 * dayMs

/**
 * Is it worth a notice? It will be used up before its period ends, at least a fifth of it is used, and a tenth of the period (and an hour) has passed. What has no end:
 * it will be used up within seven days.
 */
export function isWorthTelling({ used, ceiling, startMs, endMs, exhaustsMs }: Prospect, nowMs: number): boolean {
  // What is used up is no forecast any more.
  if (exhaustsMs === null || used >= ceiling || used < ceiling * (TOLD_FROM_PERCENT / 100)) return false
  if (endMs === null) return exhaustsMs <= nowMs + TOLD_AHEAD_MS
  if (exhaustsMs >= endMs) return false
  const passedMs = nowMs - (startMs ?? -Infinity)
  return passedMs >= hourMs && passedMs >= (endMs - (startMs ?? nowMs)) * (TOLD_AFTER_PERCENT / 100)
}

/** The latest mark of this period that is at least a day old; null: there is none. */
export function recentMark(pace: Pace | undefined, period: number, nowMs: number): Mark | null {
  if (pace === undefined || pace.period !== period) return null
  return pace.marks.findLast((mark) => mark.atMs <= nowMs - dayMs) ?? null
}

/** The pace with what is used now, where another mark is due; undefined: none is. */
export function paceWith(pace: Pace | undefined, { startMs, endMs }: { readonly startMs: number | null; readonly endMs: number | null }, used: number, nowMs: number): Pace | undefined {
  if (startMs !== null && endMs !== null && endMs - startMs < MARKED_FROM_MS) return undefined
  const period = startMs ?? 0
  const marks = pace?.period === period ? pace.marks : []
  const last = marks.at(-1)
  if (last !== undefined && nowMs - last.atMs < MARK_EVERY_MS) return undefined
  return { period, marks: [...marks.slice(1 - MARKS_KEPT), { atMs: nowMs, used }] }
}
