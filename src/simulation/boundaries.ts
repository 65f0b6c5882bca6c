import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import { periodAt, type Period, type PeriodUnit } from '../metering/calendar.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import { toInstant } from '../metering/event.ts'

/** Whether the periods by which is counted tile the time that was looked at: no instant in two of them, none in none. */
export interface BoundaryCheck {
  /** Calendars (a time zone and a billing day) times units. */
  readonly calendars: number
  readonly periods: number
  /** One sentence each. */
  readonly problems: readonly string[]
  /** Accounts whose calendar the candidate changes. A gateway would let the running period end as it began; here the candidate's holds all along. */
  readonly changed: readonly { readonly account: string; readonly before: string; readonly after: string }[]
}

export type PeriodLookUp = (unit: PeriodUnit, calendar: AccountCalendar, atMs: number) => Period

const units: readonly PeriodUnit[] = ['day', 'week', 'month', 'billing_period']

export function checkBoundaries(current: StoredKeyDirectory, candidate: StoredKeyDirectory, fromMs: number, toMs: number, look: PeriodLookUp = periodAt): BoundaryCheck {
  const calendars = new Map<string, AccountCalendar>()
  const changed: { account: string; before: string; after: string }[] = []
  for (const [id, { calendar }] of candidate.accounts) {
    calendars.set(JSON.stringify([calendar.timeZone, calendar.anchor.slice(8), calendar.before]), calendar)
    const before = current.accountOf(id)
    if (before !== undefined && worded(before.calendar) !== worded(calendar)) changed.push({ account: id, before: worded(before.calendar), after: worded(calendar) })
  }
  const problems: string[] = []
  let periods = 0
  for (const calendar of calendars.values()) for (const unit of units) periods += walk(unit, calendar, fromMs, toMs, look, problems)
  return { calendars: calendars.size * units.length, periods, problems, changed }
}

function walk(unit: PeriodUnit, calendar: AccountCalendar, fromMs: number, toMs: number, look: PeriodLookUp, problems: string[]): number {
  const say = (problem: string): void => { problems.push(`${unit} of ${worded(calendar)}: ${problem}`) }
  let count = 0
  for (let period = look(unit, calendar, fromMs); ;) {
    count += 1
    const { startMs, endMs } = period
    if (endMs <= startMs) {
      say(`the period at ${toInstant(startMs)} has no length`)
      return count
    }
    const last = look(unit, calendar, endMs - 1)
    if (last.startMs !== startMs || last.endMs !== endMs) say(`its last instant ${toInstant(endMs - 1)} is in another period`)
    if (endMs > toMs) return count
    const next = look(unit, calendar, endMs)
    if (next.startMs > endMs) say(`nothing contains ${toInstant(endMs)} up to ${toInstant(next.startMs)}`)
    if (next.startMs < endMs) say(`${toInstant(next.startMs)} up to ${toInstant(endMs)} is in two periods`)
    if (next.endMs <= endMs) return count
    period = next
  }
}

function worded({ timeZone, anchor }: AccountCalendar): string {
  return `${timeZone}, billing day ${Number(anchor.slice(8))}`
}
