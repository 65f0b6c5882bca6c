import t from 'tap'
import { type PeriodUnit, periodAt } from '../../src/metering/calendar.ts'
import { readTable } from './table.ts'

// The table says what the calendar was, what it became and when, and which period an instant lies in.
t.test('a changed time zone or anchor acts at the next boundary', async (t) => {
  for (const { line, left: [unit, was, is, changed, at], right: [start, end] } of readTable('calendar-change.txt')) {
    const [timeZone, anchor] = is!.split(' ')
    const [oldZone, oldAnchor] = was!.split(' ')
    const period = periodAt(unit as PeriodUnit, { timeZone: timeZone!, anchor: anchor!, before: { timeZone: oldZone!, anchor: oldAnchor!, changedMs: Date.parse(changed!) } }, Date.parse(at!))
    t.same([new Date(period.startMs).toISOString(), new Date(period.endMs).toISOString()], [new Date(start!).toISOString(), new Date(end!).toISOString()], `line ${line}`)
  }
})
