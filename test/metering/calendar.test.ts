import fc from 'fast-check'
import t from 'tap'
import { type PeriodUnit, isCivilDate, isTimeZone, periodAt } from '../../src/metering/calendar.ts'
import { readTable } from './table.ts'

const anchor = (day: string): string => `2024-01-${day.padStart(2, '0')}`

t.test('periods begin and end where calendar.txt says', async (t) => {
  for (const { line, left: [unit, zone, day, at], right: [start, end, hours] } of readTable('calendar.txt')) {
    const period = periodAt(unit as PeriodUnit, { timeZone: zone!, anchor: anchor(day!) }, Date.parse(at!))
    const found = { start: new Date(period.startMs).toISOString(), end: new Date(period.endMs).toISOString(), hours: (period.endMs - period.startMs) / 3_600_000 }
    t.same(found, { start: new Date(start!).toISOString(), end: new Date(end!).toISOString(), hours: Number(hours) }, `line ${line}: ${unit} in ${zone}`)
  }
})

t.test('over ten years no instant is in two periods, and none in none', async (t) => {
  const from = Date.UTC(2024, 0, 1)
  const until = Date.UTC(2034, 0, 1)
  for (const timeZone of ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/Santiago']) {
    for (const unit of ['day', 'week', 'month', 'billing_period'] as const) {
      for (const day of unit === 'billing_period' ? ['1', '28', '29', '30', '31'] : ['1']) {
        const calendar = { timeZone, anchor: anchor(day) }
        let period = periodAt(unit, calendar, from)
        let periods = 0
        while (period.endMs < until) {
          const last = periodAt(unit, calendar, period.endMs - 1)
          const next = periodAt(unit, calendar, period.endMs)
          if (last.startMs !== period.startMs || next.startMs !== period.endMs) t.fail(`${unit} in ${timeZone} has a seam at ${new Date(period.endMs).toISOString()}`)
          period = next
          periods++
        }
        t.ok(periods >= 119, `${unit} ${day} in ${timeZone}: ${periods} periods, no seam`)
      }
    }
  }
})

t.test('every instant lies in its period, and the answer does not depend on what was asked before', async (t) => {
  const zones = ['UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'America/Sao_Paulo', 'Pacific/Apia']
  const units: PeriodUnit[] = ['minute', 'hour', 'day', 'week', 'month', 'billing_period']
  const instant = fc.integer({ min: Date.UTC(2010, 0, 1), max: Date.UTC(2040, 0, 1) })
  fc.assert(fc.property(fc.constantFrom(...zones), fc.constantFrom(...units), fc.integer({ min: 1, max: 31 }), instant, instant, (timeZone, unit, day, one, other) => {
    const calendar = { timeZone, anchor: anchor(String(day)) }
    const first = periodAt(unit, calendar, one)
    periodAt(unit, calendar, other)
    const again = periodAt(unit, calendar, one)
    const edge = periodAt(unit, calendar, first.endMs)
    return first.startMs <= one && one < first.endMs && again.startMs === first.startMs && again.endMs === first.endMs && edge.startMs === first.endMs
  }), { numRuns: 400 })
  t.pass('400 random instants')
})

t.test('a zone or a date that does not exist is told from one that does', async (t) => {
  for (const zone of ['UTC', 'Europe/Berlin', 'Asia/Kolkata']) t.ok(isTimeZone(zone), zone)
  for (const zone of ['', 'Europe/Berlni', '+01:00', 'Mars/Olympus']) t.notOk(isTimeZone(zone), `'${zone}'`)
  for (const date of ['2026-01-15', '2028-02-29', '2026-12-31']) t.ok(isCivilDate(date), date)
  for (const date of ['2026-02-29', '2026-13-01', '2026-1-1', '2026-04-31', 'soon', '2026-01-15T00:00']) t.notOk(isCivilDate(date), date)
})
