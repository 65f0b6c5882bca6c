// What a total alone can tell: which records of a minute make the difference.

import fc from 'fast-check'
import t from 'tap'
import { slackOf, textOf, unitsOf } from '../../src/reconciliation/amount.ts'
import { correctedId, proposalOf } from '../../src/reconciliation/compensation.ts'
import { explained } from '../../src/reconciliation/explain.ts'
import { periodOf } from '../../src/reconciliation/period.ts'
import { easyContract } from './some-kind.ts'

const turn = async (): Promise<void> => {}
const pieces = (...values: number[]): { of: number; units: bigint }[] => values.map((value) => ({ of: value, units: BigInt(value) }))

t.test('the simplest explanation that adds up', async (t) => {
  const rows: readonly [about: string, difference: number, firm: number[], open: number[], expected: object][] = [
    ['nothing', 0, [5, 7], [3], { booked: [], missing: [], doubled: [], rest: 0n, guess: false }],
    ['what was on its way has come', 3, [5, 7], [3], { booked: [3], missing: [], doubled: [] }],
    ['some of it', 7, [50, 70], [3, 4, 9], { booked: [3, 4], missing: [], doubled: [] }],
    ['one is missing', -7, [5, 7], [], { booked: [], missing: [7], doubled: [], guess: false }],
    ['one of several alike', -7, [5, 7, 7], [], { missing: [7], guess: true }],
    ['one is doubled', 5, [5, 7], [], { missing: [], doubled: [5] }],
    ['one missing, another doubled', 4, [10, 14, 100], [], { missing: [10], doubled: [14] }],
    ['two are missing', -12, [5, 7, 100], [], { missing: [5, 7], doubled: [] }],
    ['all are missing', -1_112, [1_000, 100, 10, 2], [], { missing: [1_000, 100, 10, 2] }],
    ['one is missing, what was on its way has come', -4, [7, 50], [3], { booked: [3], missing: [7] }],
    ['negative ones are as good as others', 7, [-7, 50], [], { missing: [-7] }],
    ['nothing fits', 1, [50, 70], [30], { booked: [], missing: [], doubled: [], rest: 1n }],
  ]
  for (const [about, difference, firm, open, expected] of rows) t.match(await explained(BigInt(difference), pieces(...firm), pieces(...open), turn), { ...expected, cut: false }, about)
})

t.test('whatever it says adds up', async () => {
  const amount = fc.integer({ min: -50, max: 50 })
  await fc.assert(fc.asyncProperty(fc.array(amount, { maxLength: 8 }), fc.array(amount, { maxLength: 15 }), fc.integer({ min: -200, max: 200 }), async (firm, open, difference) => {
    const { booked, missing, doubled, rest } = await explained(BigInt(difference), pieces(...firm), pieces(...open), turn)
    const sum = (list: readonly number[]): number => list.reduce((all, each) => all + each, 0)
    return BigInt(sum(booked) - sum(missing) + sum(doubled)) + rest === BigInt(difference)
  }), { numRuns: 2_000 })
})

t.test('of many records not everything is tried, and others go on meanwhile', async (t) => {
  const values = (count: number, seed: number): number[] => Array.from({ length: count }, (_, n) => ((n + seed) * 7_919 % 49_999 + 100) * 7)
  let turns = 0
  let atMs = performance.now()
  let longestMs = 0
  const watched = async (): Promise<void> => {
    turns += 1
    longestMs = Math.max(longestMs, performance.now() - atMs)
    await new Promise((resolve) => { setImmediate(resolve) })
    atMs = performance.now()
  }
  const many = values(20_000, 1)
  t.match(await explained(3n, pieces(...many), pieces(...values(12, 30_000)), watched), { rest: 3n, cut: true }, 'three that are none of ours')
  t.match(await explained(3n, pieces(...many), pieces(...values(600, 30_000)), watched), { rest: 3n, cut: true })
  t.ok(turns > 20, `${turns} turns`)
  t.ok(longestMs < 1_000, `the longest took ${Math.round(longestMs)} ms`)
  t.match(await explained(BigInt(-(many[7] ?? 0)), pieces(...many), [], turn), { missing: [many[7]], cut: false }, 'one is found all the same')
  const whole = many.reduce((sum, each) => sum + each, 0)
  t.match(await explained(BigInt(-whole), pieces(...many), pieces(...values(12, 30_000)), turn), { missing: many, rest: 0n }, 'and that all are missing')
  t.match(await explained(-5n, pieces(...Array.from({ length: 100_000 }, () => 5)), [], turn), { missing: [5], guess: true }, 'all of them alike')
})

t.test('amounts are exact', async (t) => {
  fc.assert(fc.property(fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n }), (units) => unitsOf(textOf(units)) === units))
  t.equal(textOf(unitsOf('-0.000000001') + unitsOf('12345678901234567890.5')), '12345678901234567890.499999999')
  t.throws(() => unitsOf('1e3'))
  t.equal(slackOf(unitsOf('5'), 'number'), 0n, 'whole sums have to be equal')
  t.ok(slackOf(unitsOf('5.1'), 'number') > 0n)
  t.equal(slackOf(unitsOf('5.1'), 'decimal'), 0n)
})

t.test('periods', async (t) => {
  const rows: readonly [string, [from: string, until: string] | null][] = [
    ['2026-11', ['2026-11-01', '2026-12-01']], ['2026-12', ['2026-12-01', '2027-01-01']], ['2028-02-29', ['2028-02-29', '2028-03-01']],
    ['2026-11-01/2026-11-03', ['2026-11-01', '2026-11-03']], ['2026-11-01T10:00:00Z/2026-11-01T11:30:00Z', ['2026-11-01T10:00Z', '2026-11-01T11:30Z']],
    ['2026-13', null], ['2026-02-30', null], ['2026', null], ['', null], ['2026-11-03/2026-11-01', null], ['2026-11-01T10:00:30Z/2026-11-02', null], ['last month', null],
  ]
  for (const [text, expected] of rows) t.same(periodOf(text), expected === null ? null : { fromMs: Date.parse(expected[0]), untilMs: Date.parse(expected[1]) }, text)
})

t.test('what would put it right keeps to the receiver\'s rules', async (t) => {
  const day = 86_400_000
  const record = { is: 'meter', id: 'e1:tokens', timeMs: 100 * day, code: 'tokens', customer: 'c', account: 'a', value: '5', valueProperty: 'value', properties: {} } as const
  const contract = { ...easyContract, dedupWindowMs: day, acknowledges: 'queued' } as const
  const wrong = { record, settledMs: 100 * day, excess: unitsOf('-5'), before: [], same: true }
  const now = 100 * day
  const one = { id: 's e1:tokens:r1', sink: 's', of: record.id, record: { ...record, id: 'e1:tokens:r1' }, atMs: now, done: false }
  const rows: readonly [about: string, actual: ReturnType<typeof proposalOf>, expected: object][] = [
    ['lost, and its id is known still', proposalOf(wrong, contract, now + day / 2), { is: 'send', record }],
    ['lost, and its id may be forgotten: an hour before the end of the window it is', proposalOf(wrong, contract, now + day - 3_500_000), { is: 'send', record: { ...record, id: 'e1:tokens:r1' } }],
    ['too old', proposalOf(wrong, { ...contract, oldestMs: day }, now + 2 * day), { is: 'none', because: /older than 1 days/ }],
    ['lost again', proposalOf({ ...wrong, before: [{ ...one, done: true }], same: false }, contract, now + 2 * day), { record: { id: 'e1:tokens:r2', value: '5' } }],
    ['lost, and what was to put it right was not answered', proposalOf({ ...wrong, before: [one], same: false }, contract, now + 2 * day), { record: one.record }],
    ['twice', proposalOf({ ...wrong, excess: unitsOf('5') }, contract, now + 2 * day), { record: { id: 'e1:tokens:r1', value: '-5', timeMs: record.timeMs } }],
    ['twice, and nothing can be taken back', proposalOf({ ...wrong, excess: unitsOf('5') }, { ...contract, corrections: 'none' }, now + 2 * day), { is: 'none', because: 'the receiver takes nothing back' }],
    ['twice, and just told: it may not show everything yet', proposalOf({ ...wrong, excess: unitsOf('5') }, contract, now + 60_000), { is: 'none', because: /within the last hour/ }],
  ]
  for (const [about, actual, expected] of rows) t.match(actual, expected, about)
  t.equal(correctedId('x'.repeat(97), 1), `${'x'.repeat(97)}:r1`)
  t.ok(correctedId('x'.repeat(98), 1).length <= 100)
})
