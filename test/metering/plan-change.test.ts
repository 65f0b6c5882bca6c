import fc from 'fast-check'
import t from 'tap'
import { periodAt } from '../../src/metering/calendar.ts'
import { type PlanChange, type Proration, ceilingIn, feeParts, feeShares, planAt } from '../../src/metering/plan-change.ts'
import { readTable } from './table.ts'

const ceilings: Record<string, number | null> = { free: 100, pro: 1_000, max: 4_000, open: null, odd: 1_001 }
const fees: Record<string, number> = { free: 0, pro: 3_000, max: 9_000, open: 5_000, odd: 1_000 }
const dayMs = 86_400_000
const ceilingOf = (plan: string): number | null => ceilings[plan] ?? null

function changesOf(text: string): PlanChange[] {
  return text.split(/\s+/).map((word) => {
    const [, plan = '', from = '', proration = ''] = /^(\w+)@(.*):(\w+)$/.exec(word) ?? []
    return { plan, version: 1, fromMs: from === 'ever' ? 0 : Date.parse(from), proration: proration as Proration }
  })
}

t.test('a change of plan means for allowances and fees what plan-change.txt says', async (t) => {
  for (const { line, left: [zone, span, changed, at, ended], right: [ceiling, wanted] } of readTable('plan-change.txt')) {
    const changes = changesOf(changed!)
    const [start, end] = span!.split('..')
    const period = { startMs: Date.parse(start!), endMs: Date.parse(end!) }
    t.equal(String(ceilingIn(changes, ceilingOf, period, zone!, Date.parse(at!)) ?? '-'), ceiling, `line ${line}: the ceiling`)
    const found = feeShares(changes, period, zone!, ended === '-' ? null : Date.parse(ended!))
    const parts = feeParts(found, ({ plan }) => fees[plan]!)
    t.equal(found.map(({ plan, days, ofDays }, index) => `${plan} ${days}/${ofDays}=${parts[index]}`).join(' ') || '-', wanted, `line ${line}: the shares`)
  }
})

const zones = ['UTC', 'Europe/Berlin', 'America/St_Johns', 'Australia/Lord_Howe']
const drawn = fc.record({
  timeZone: fc.constantFrom(...zones), anchorDay: fc.integer({ min: 1, max: 31 }), atMs: fc.integer({ min: Date.UTC(2027, 0, 1), max: Date.UTC(2029, 0, 1) }),
  steps: fc.array(fc.record({ plan: fc.constantFrom('free', 'pro', 'max', 'odd'), afterMs: fc.integer({ min: 1, max: 40 * dayMs }), proration: fc.constantFrom<Proration>('none', 'by_day') }), { minLength: 1, maxLength: 8 }),
}).map(({ steps, atMs, timeZone, anchorDay }) => {
  let fromMs = atMs - 60 * dayMs
  const changes = steps.map(({ plan, afterMs, proration }): PlanChange => ({ plan, version: 1, fromMs: fromMs += afterMs, proration }))
  const period = periodAt('billing_period', { timeZone, anchor: `2027-01-${String(anchorDay).padStart(2, '0')}` }, atMs)
  return { changes, period, timeZone, atMs }
})

t.test('no day of a period is charged twice, and none is left out once there is a plan', async (t) => {
  fc.assert(fc.property(drawn, ({ changes, period, timeZone }) => {
    const shares = feeShares(changes, period, timeZone, null)
    const days = shares.reduce((sum, share) => sum + share.days, 0)
    const ofDays = shares[0]?.ofDays ?? 0
    if (days > ofDays) return false
    const there = planAt(changes, period.startMs) !== undefined
    if (there && days !== ofDays) return false
    // One fee for all of it is charged once, to the last unit.
    const parts = feeParts(shares, () => 1_000_003)
    return !there || parts.reduce((sum, part) => sum + part, 0) === 1_000_003
  }), { numRuns: 1_000 })
  t.pass('1000 histories')
})

t.test('a prorated ceiling lies between the smallest and the largest of the plans, and is the plan’s own where nothing has changed', async (t) => {
  fc.assert(fc.property(drawn, ({ changes, period, timeZone, atMs }) => {
    const ceiling = ceilingIn(changes, ceilingOf, period, timeZone, atMs)
    const current = planAt(changes, atMs)
    if (current === undefined) return ceiling === null
    const before = planAt(changes, period.startMs)
    const of = changes.filter(({ fromMs }) => fromMs <= atMs && fromMs > period.startMs).concat(before === undefined ? [] : [before]).map(({ plan }) => ceilings[plan]!)
    if (current.fromMs <= period.startMs || current.proration === 'none') return ceiling === ceilings[current.plan]
    return ceiling !== null && ceiling <= Math.max(...of) && (before === undefined || ceiling >= Math.min(...of))
  }), { numRuns: 1_000 })
  t.pass('1000 histories')
})
