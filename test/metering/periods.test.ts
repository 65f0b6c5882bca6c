// Periods tile: no instant is in two of them, and none in none. Boundaries are walked, and instants around each are asked for in an order that no memory helps.
import t from 'tap'
import { type Period, type PeriodUnit, type TermLength, lengthsAfter, periodAt, termAt } from '../../src/metering/calendar.ts'
import type { AccountCalendar } from '../../src/metering/limits/limit.ts'
import { readTable } from './table.ts'

const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata', 'Australia/Lord_Howe', 'America/St_Johns', 'Asia/Kathmandu', 'Pacific/Apia', 'America/Santiago']
const anchors = [1, 15, 28, 29, 30, 31]
const minuteMs = 60_000
const dayMs = 86_400_000
/** Two leap years, both clock changes of every year. */
const from = Date.UTC(2024, 0, 1)
const until = Date.UTC(2034, 0, 1)

const anchor = (day: number): string => `2024-01-${String(day).padStart(2, '0')}`
const iso = (ms: number): string => new Date(ms).toISOString()
const same = (one: Period, other: Period): boolean => one.startMs === other.startMs && one.endMs === other.endMs

/** Walks from boundary to boundary; the first thing that is wrong, or how many periods there were. */
function walk(periodOf: (atMs: number) => Period, fromMs: number, untilMs: number, shortestMs: number, longestMs: number): number | string {
  let period = periodOf(fromMs)
  if (period.startMs > fromMs || period.endMs <= fromMs) return `${iso(fromMs)} is not in its period`
  let count = 0
  while (period.endMs < untilMs) {
    const next = periodOf(period.endMs)
    if (next.startMs !== period.endMs) return `after ${iso(period.endMs)} comes ${iso(next.startMs)}`
    const lengthMs = next.endMs - next.startMs
    if (lengthMs < shortestMs || lengthMs > longestMs) return `the period from ${iso(next.startMs)} has ${lengthMs / dayMs} days`
    // The later side first, so that what was asked last is never what is asked now.
    for (const apart of [1, 1_000, 17 * minuteMs]) {
      if (!same(periodOf(period.endMs + Math.min(apart, lengthMs - 1)), next)) return `${apart} ms after ${iso(period.endMs)} is in another period`
      const before = period.endMs - Math.min(apart, period.endMs - period.startMs)
      if (!same(periodOf(before), period)) return `${apart} ms before ${iso(period.endMs)} is in another period`
    }
    period = next
    count += 1
  }
  return count
}

const hours = 3_600_000
const bounds: Record<string, readonly [number, number]> = {
  // 30 December 2011 is not in these years; a day has 22 to 26 hours at the most.
  hour: [30 * minuteMs, hours], day: [23 * hours, 25 * hours], week: [7 * dayMs - hours, 7 * dayMs + hours], month: [28 * dayMs - hours, 31 * dayMs + hours],
  billing_period: [28 * dayMs - hours, 31 * dayMs + hours],
}

t.test('boundaries are where periods.txt says', async (t) => {
  for (const { line, left: [unit, zone, day, at], right: [next, afterNext] } of readTable('periods.txt')) {
    const calendar = { timeZone: zone!, anchor: anchor(Number(day)) }
    const first = periodAt(unit as PeriodUnit, calendar, Date.parse(at!))
    const second = periodAt(unit as PeriodUnit, calendar, first.endMs)
    t.same([iso(first.startMs), iso(first.endMs), iso(second.startMs), iso(second.endMs)], [at!, next!, next!, afterNext!].map((text) => iso(Date.parse(text))), `line ${line}: ${unit} in ${zone}`)
  }
})

for (const timeZone of zones) {
  t.test(`periods tile in ${timeZone} over ten years, whatever the anchor`, async (t) => {
    for (const unit of ['hour', 'day', 'week', 'month', 'billing_period'] as const) {
      for (const day of unit === 'billing_period' ? anchors : [1]) {
        const calendar = { timeZone, anchor: anchor(day) }
        // Hours: the weeks around the clock changes of one year; days: three years, a leap year among them. The rest of ten years would be the same again.
        const spans = unit === 'day' ? [[Date.UTC(2026, 11, 1), Date.UTC(2029, 2, 2)]] as const : unit === 'hour' ? [[Date.UTC(2027, 2, 10), Date.UTC(2027, 3, 7)], [Date.UTC(2027, 9, 1), Date.UTC(2027, 10, 9)]] as const : [[from, until]] as const
        for (const [fromMs, untilMs] of spans) {
          const found = walk((atMs) => periodAt(unit, calendar, atMs), fromMs, untilMs, ...bounds[unit]!)
          t.type(found, 'number', `${unit} ${unit === 'billing_period' ? `from the ${day}` : ''}: ${found}`)
        }
      }
    }
  })
}

t.test('periods tile over a change of time zone or anchor, whenever it comes', async (t) => {
  const calendars = [['UTC', 1], ['Europe/Berlin', 31], ['America/St_Johns', 29], ['Asia/Kathmandu', 15], ['Australia/Lord_Howe', 30]] as const
  const changes = ['2027-01-31T00:00:00Z', '2027-02-28T12:34:56Z', '2028-02-29T23:59:59.999Z', '2027-03-28T00:59:00Z', '2027-10-31T01:30:00Z', '2027-06-15T12:00:00Z'].map((text) => Date.parse(text))
  let walked = 0
  for (const unit of ['day', 'week', 'month', 'billing_period'] as const) {
    for (const [oldZone, oldDay] of calendars) {
      for (const [timeZone, day] of calendars) {
        for (const changedMs of changes) {
          const calendar: AccountCalendar = { timeZone, anchor: anchor(day), before: { timeZone: oldZone, anchor: anchor(oldDay), changedMs } }
          // Where the calendar changes a period may be short; it is never longer than two of them.
          const aroundMs = (unit === 'day' ? 3 : unit === 'week' ? 15 : 70) * dayMs
          const found = walk((atMs) => periodAt(unit, calendar, atMs), changedMs - aroundMs, changedMs + aroundMs, 1, 62 * dayMs)
          if (typeof found === 'string') t.fail(`${unit} from ${oldZone} ${oldDay} to ${timeZone} ${day} at ${iso(changedMs)}: ${found}`)
          const running = periodAt(unit, { timeZone: oldZone, anchor: anchor(oldDay) }, changedMs)
          if (!same(periodAt(unit, calendar, changedMs), running)) t.fail(`${unit}: the change of ${iso(changedMs)} has cut the period that was running`)
          walked += 1
        }
      }
    }
  }
  t.equal(walked, 4 * 25 * 6)
})

t.test('terms of a subscription tile, and begin at the same time of the same day', async (t) => {
  const lengths: TermLength[] = [{ unit: 'month', count: 1 }, { unit: 'month', count: 3 }, { unit: 'year', count: 1 }, { unit: 'day', count: 14 }, { unit: 'month', count: 18 }]
  for (const timeZone of ['UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'America/St_Johns', 'America/Santiago']) {
    for (const start of ['2024-01-31T00:00:00Z', '2024-02-29T10:30:00Z', '2023-12-30T22:15:00Z', '2024-03-31T01:30:00Z', '2024-10-26T23:30:00Z']) {
      for (const length of lengths) {
        const startMs = Date.parse(start)
        const longestMs = (length.unit === 'year' ? 366 : length.unit === 'month' ? 31 : 1) * length.count * dayMs + 2 * hours
        const found = walk((atMs) => termAt(startMs, timeZone, length, atMs), startMs, startMs + (length.unit === 'day' ? 400 : length.unit === 'month' && length.count < 12 ? 1_000 : 3_650) * dayMs, 1, longestMs)
        t.type(found, 'number', `${length.count} ${length.unit} from ${start} in ${timeZone}: ${found}`)
        const tenth = lengthsAfter(startMs, timeZone, length, 10)
        t.equal(termAt(startMs, timeZone, length, tenth).startMs, tenth, 'the tenth begins where it is counted to')
        t.equal(termAt(startMs, timeZone, length, tenth - 1).endMs, tenth)
      }
    }
  }
})
