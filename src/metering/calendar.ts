import { Temporal } from 'temporal-polyfill'
import type { AccountCalendar, CalendarUnit } from './limits/limit.ts'

/** From `startMs` up to, not including, `endMs`: ms since 1970. */
export interface Period {
  readonly startMs: number
  readonly endMs: number
}

export type PeriodUnit = CalendarUnit | 'billing_period'

/** The last period computed per zone and unit (billing: per anchor day). Zones are few and anchor days are 31, so this is bounded. */
const zones = new Map<string, Map<PeriodUnit | number, Period>>()

/**
 * The period that contains `atMs`. Days begin at the first instant of the civil day (23 or 25 hours long where clocks change), weeks on Monday,
 * billing periods on the anchor's day of the month, or the month's last day where the month is shorter. Minutes and hours
 * are those of the zone's clock; a change of offset ends them early.
 */
export function periodAt(unit: PeriodUnit, calendar: AccountCalendar, atMs: number): Period {
  const { before } = calendar
  if (before === undefined) return unchangedPeriodAt(unit, calendar, atMs)
  // A changed anchor or zone must not start a counter anew: nobody gets an allowance twice because of an edit.
  const running = unchangedPeriodAt(unit, before, before.changedMs)
  if (atMs < running.endMs) return unchangedPeriodAt(unit, before, atMs)
  const period = unchangedPeriodAt(unit, calendar, atMs)
  return period.startMs < running.endMs ? { startMs: running.endMs, endMs: period.endMs } : period
}

function unchangedPeriodAt(unit: PeriodUnit, calendar: Pick<AccountCalendar, 'timeZone' | 'anchor'>, atMs: number): Period {
  let periods = zones.get(calendar.timeZone)
  if (periods === undefined) {
    periods = new Map()
    zones.set(calendar.timeZone, periods)
  }
  const key = unit === 'billing_period' ? anchorDay(calendar.anchor) : unit
  const known = periods.get(key)
  if (known !== undefined && known.startMs <= atMs && atMs < known.endMs) return known
  const period = computePeriod(key, calendar.timeZone, atMs)
  periods.set(key, period)
  return period
}

/** YYYY-MM-DD → DD: of the anchor, only the day of the month matters. */
function anchorDay(anchor: string): number {
  return (anchor.charCodeAt(8) - 48) * 10 + anchor.charCodeAt(9) - 48
}

function computePeriod(key: PeriodUnit | number, timeZone: string, atMs: number): Period {
  const now = zoned(atMs, timeZone)
  switch (key) {
    case 'minute': return clockPeriod(now, 60_000)
    case 'hour': return clockPeriod(now, 3_600_000)
    case 'day': return civilPeriod(timeZone, now.toPlainDate(), (first) => first.add({ days: 1 }))
    case 'week': return civilPeriod(timeZone, now.toPlainDate().subtract({ days: now.dayOfWeek - 1 }), (first) => first.add({ days: 7 }))
    case 'month': return civilPeriod(timeZone, now.toPlainDate().with({ day: 1 }), (first) => first.add({ months: 1 }))
    case 'billing_period': return billingPeriod(timeZone, now.toPlainDate(), 1)
    default: return billingPeriod(timeZone, now.toPlainDate(), key)
  }
}

/** A minute or hour of the zone's clock, within the time that its present offset holds: so that periods tile, whatever clocks do. */
function clockPeriod(now: Temporal.ZonedDateTime, lengthMs: number): Period {
  const offsetMs = Math.round(now.offsetNanoseconds / 1_000_000)
  const startMs = Math.floor((now.epochMilliseconds + offsetMs) / lengthMs) * lengthMs - offsetMs
  const endMs = startMs + lengthMs
  // A transition at this very instant is not "previous" for the search, so it starts one millisecond later.
  const previous = now.add({ milliseconds: 1 }).getTimeZoneTransition('previous')
  const next = now.getTimeZoneTransition('next')
  return {
    startMs: previous === null ? startMs : Math.max(startMs, previous.epochMilliseconds),
    endMs: next === null ? endMs : Math.min(endMs, next.epochMilliseconds),
  }
}

function civilPeriod(timeZone: string, first: Temporal.PlainDate, following: (first: Temporal.PlainDate) => Temporal.PlainDate): Period {
  return { startMs: startOfDayMs(timeZone, first), endMs: startOfDayMs(timeZone, following(first)) }
}

function billingPeriod(timeZone: string, today: Temporal.PlainDate, day: number): Period {
  const here = clampedDay(today, day)
  const first = Temporal.PlainDate.compare(today, here) < 0 ? clampedDay(today.with({ day: 1 }).subtract({ months: 1 }), day) : here
  return civilPeriod(timeZone, first, () => clampedDay(first.with({ day: 1 }).add({ months: 1 }), day))
}

/** Counted from the anchor's own day each time, so that the 31st comes back after a short month. */
function clampedDay(date: Temporal.PlainDate, day: number): Temporal.PlainDate {
  return date.with({ day: Math.min(day, date.daysInMonth) })
}

function startOfDayMs(timeZone: string, date: Temporal.PlainDate): number {
  return date.toZonedDateTime({ timeZone }).epochMilliseconds
}

export interface TermLength {
  readonly unit: 'day' | 'month' | 'year'
  /** 1 or more. */
  readonly count: number
}

/**
 * `times` lengths after an instant (before it, when negative), at the same time of the zone's clock: the same day of the month, or the month's last where
 * it is shorter; a time that clocks skip is as much later.
 */
export function lengthsAfter(startMs: number, timeZone: string, { unit, count }: TermLength, times: number): number {
  return zoned(startMs, timeZone).add({ [`${unit}s`]: count * times }).epochMilliseconds
}

/** The term that contains `atMs`, of terms counted from `startMs`, each from there anew: the 31st comes back after a short month. */
export function termAt(startMs: number, timeZone: string, length: TermLength, atMs: number): Period {
  const start = zoned(startMs, timeZone)
  const gone = start.until(zoned(atMs, timeZone), { largestUnit: length.unit })
  // The library's own count may be off by one where days are clamped or clocks change; the instants decide.
  let nth = Math.floor((length.unit === 'day' ? gone.days : length.unit === 'month' ? gone.months : gone.years) / length.count) - 1
  while (lengthsAfter(startMs, timeZone, length, nth + 1) <= atMs) nth++
  return { startMs: lengthsAfter(startMs, timeZone, length, nth), endMs: lengthsAfter(startMs, timeZone, length, nth + 1) }
}

/** How often midnight comes between two instants: days, when each is counted for whom it begins with. */
export function civilDaysBetween(timeZone: string, fromMs: number, toMs: number): number {
  return zoned(fromMs, timeZone).toPlainDate().until(zoned(toMs, timeZone).toPlainDate(), { largestUnit: 'day' }).days
}

/** The first instant of a day written YYYY-MM-DD, which has to exist. */
export function civilDayMs(timeZone: string, date: string): number {
  return startOfDayMs(timeZone, Temporal.PlainDate.from(date))
}

function zoned(atMs: number, timeZone: string): Temporal.ZonedDateTime {
  return Temporal.Instant.fromEpochMilliseconds(atMs).toZonedDateTimeISO(timeZone)
}

/** Does the platform know this IANA time zone? */
export function isTimeZone(name: string): boolean {
  try {
    Temporal.Instant.fromEpochMilliseconds(0).toZonedDateTimeISO(name)
  } catch {
    // The library says "unknown zone" by throwing, which is the answer.
    return false
  }
  // Offsets such as +01:00 are zones to the library, and never what someone with a calendar means.
  return /^[A-Za-z]/.test(name)
}

/** Is this a date of the calendar, written YYYY-MM-DD? */
export function isCivilDate(text: string): boolean {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(text)) return false
  try {
    Temporal.PlainDate.from(text, { overflow: 'reject' })
  } catch {
    // A day that does not exist.
    return false
  }
  return true
}
