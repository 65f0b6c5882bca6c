import t from 'tap'
import { exhaustsAtMs, isWorthTelling, paceWith, recentMark } from '../../src/metering/forecast.ts'
import type { Mark, Pace } from '../../src/metering/forecast.ts'
import { readTable } from './table.ts'

const hour = 3_600_000
const day = 24 * hour

function marksOf(text: string): Mark[] {
  return text.split(' ').filter((each) => each !== '').map((each) => {
    const [at = '', used = ''] = each.split(':')
    return { atMs: Number(at) * hour, used: Number(used) }
  })
}

t.test('an amount is used up when forecast.txt says', async (t) => {
  for (const { line, left: [used, ceiling, start, now, marks = ''], right: [at] } of readTable('forecast.txt')) {
    const startMs = start === '-' ? null : Number(start) * hour
    const nowMs = Number(now) * hour
    const mark = recentMark({ period: startMs ?? 0, marks: marksOf(marks) }, startMs ?? 0, nowMs)
    const found = exhaustsAtMs({ used: Number(used), ceiling: Number(ceiling), startMs, mark }, nowMs)
    t.equal(found === null ? '-' : String(Math.round(found / hour)), at, `line ${line}`)
  }
})

t.test('it is worth a notice from a fifth of the amount and a tenth of the period on, while the end is before the period\'s', async (t) => {
  const month = { used: 50, ceiling: 100, startMs: 0, endMs: 30 * day, exhaustsMs: 20 * day }
  t.ok(isWorthTelling(month, 10 * day))
  t.notOk(isWorthTelling({ ...month, exhaustsMs: null }, 10 * day))
  t.notOk(isWorthTelling({ ...month, exhaustsMs: 30 * day }, 10 * day), 'it begins anew at that moment')
  t.ok(isWorthTelling({ ...month, used: 20 }, 10 * day))
  t.notOk(isWorthTelling({ ...month, used: 19 }, 10 * day), 'too little is used')
  t.notOk(isWorthTelling({ ...month, used: 100 }, 10 * day), 'what is used up is no forecast')
  t.notOk(isWorthTelling(month, 3 * day - 1), 'too early')
  t.ok(isWorthTelling(month, 3 * day))
  t.notOk(isWorthTelling({ used: 9, ceiling: 10, startMs: 0, endMs: 5 * hour, exhaustsMs: 2 * hour }, hour - 1), 'a tenth of five hours is half an hour, and an hour the least')
  const credit = { used: 50, ceiling: 100, startMs: null, endMs: null }
  t.ok(isWorthTelling({ ...credit, exhaustsMs: 17 * day }, 10 * day))
  t.notOk(isWorthTelling({ ...credit, exhaustsMs: 17 * day + 1 }, 10 * day), 'more than a week ahead')
})

t.test('marks reach back a day at any time, and there are few of them', async (t) => {
  const month = { startMs: 100 * day, endMs: 130 * day }
  let pace: Pace | undefined
  for (let atMs = month.startMs; atMs < month.endMs; atMs += hour / 2) {
    const next = paceWith(pace, month, atMs - month.startMs, atMs)
    pace = next ?? pace
    t.ok((pace?.marks.length ?? 0) <= 4)
    const mark = recentMark(pace, month.startMs, atMs)
    if (atMs - month.startMs >= 2 * day) t.ok(mark !== null && atMs - mark.atMs >= day && atMs - mark.atMs <= 1.5 * day, `${(atMs - (mark?.atMs ?? 0)) / hour} hours`)
  }
  t.equal(recentMark(pace, month.endMs, month.endMs + 2 * day), null, 'another period begins without them')
  t.same(paceWith(pace, { startMs: month.endMs, endMs: month.endMs + 30 * day }, 3, month.endMs + hour), { period: month.endMs, marks: [{ atMs: month.endMs + hour, used: 3 }] })
  t.equal(paceWith(undefined, { startMs: 0, endMs: day }, 3, hour), undefined, 'a day\'s average is its recent rate')
})
