import fc from 'fast-check'
import t from 'tap'
import { burnDown, isEffective, LOOKED_AT_LATE_MS, type Grant } from '../../src/metering/grant.ts'
import { Ledger } from '../../src/metering/ledger.ts'
import { allowance } from '../../src/metering/limits/allowance.ts'
import type { AppliedLimit, Limit } from '../../src/metering/limits/limit.ts'
import { eventBody, newId, skeleton } from '../stores/sample-moves.ts'

const HOUR = 3_600_000
const at = (text: string): number => Date.parse(text)
const grant = (id: string, more: Partial<Grant> = {}): Grant => ({
  id, account: 'acme', limit: 'monthly', amount: 100, priority: 100, effectiveMs: 0, expiresMs: null, createdMs: 0, source: 'operator', voidedMs: null, note: null, ...more,
})
const limit: Limit = {
  name: 'monthly', meter: { kind: 'builtin', name: 'total_tokens' }, ceiling: 1_000, window: { kind: 'calendar', unit: 'month' }, per: 'account', forModels: null, forEndpoints: null, each: null,
  mode: 'enforce', visible: true, overdraft: { kind: 'none' },
}
const applied = (grants: readonly Grant[], more: Partial<Limit> = {}): AppliedLimit => ({
  limit: { ...limit, ...more }, scope: { id: 'account:acme', calendar: { timeZone: 'Europe/Berlin', anchor: '2026-01-31' } }, selector: '', grants,
})

t.test('grants are drawn by priority, then by what expires first, then by what was given first', async (t) => {
  const grants = [
    grant('given second', { createdMs: 2 }), grant('given first', { createdMs: 1 }), grant('expires late', { expiresMs: 900 }), grant('expires soon', { expiresMs: 800 }),
    grant('urgent', { priority: 1 }), grant('not yet', { effectiveMs: 500 }), grant('over', { expiresMs: 100 }), grant('taken back', { voidedMs: 50 }),
  ]
  t.same(burnDown(grants, 100).map(({ id }) => id), ['urgent', 'expires soon', 'expires late', 'given first', 'given second'])
  t.ok(isEffective(grant('g', { effectiveMs: 10, expiresMs: 20 }), 10), 'from its first instant')
  t.notOk(isEffective(grant('g', { effectiveMs: 10, expiresMs: 20 }), 20), 'to its end, which is not included')
})

t.test('a check has the allowance, the grants of its instant, then the overdraft; the counters of its period, and the neighbours\' that may draw the same', async (t) => {
  const check = allowance.check(applied([grant('a/b', { priority: 2 }), grant('first', { priority: 1, expiresMs: at('2026-12-01T00:00:00Z') })], { overdraft: { kind: 'absolute', amount: 5 } }),
    { fixed: 1, perUnit: 0 }, at('2026-11-22T10:00:00Z'), 0, true)
  const november = `account:acme|total_tokens||month|${at('2026-10-31T23:00:00Z')}`
  t.same(check.slots, [november])
  t.same(check.alongside, [`account:acme|total_tokens||month|${at('2026-09-30T22:00:00Z')}`, `account:acme|total_tokens||month|${at('2026-11-30T23:00:00Z')}`])
  t.same(check.ceilings, [{
    limit: 'monthly', refuses: true, visible: true, beyond: `${november}|granted`,
    buckets: [
      { name: 'monthly', ceiling: 1_000, counter: null },
      { name: 'first', ceiling: 100, counter: 'grant|acme|first', endsMs: at('2026-12-01T00:00:00Z') + LOOKED_AT_LATE_MS },
      { name: 'a/b', ceiling: 100, counter: 'grant|acme|a%2Fb', endsMs: null },
      { name: 'monthly.overdraft', ceiling: 5, counter: `${november}|overdraft` },
    ],
  }])
})

t.test('Σ grants = available + settled, whatever calls, periods and edits come; no bucket is drawn beyond its amount, and in the order that is promised', async (t) => {
  let drawnOverall = 0
  fc.assert(fc.property(
    fc.array(fc.record({ amount: fc.integer({ min: 1, max: 300 }), priority: fc.integer({ min: 1, max: 3 }), from: fc.integer({ min: 0, max: 60 }), days: fc.option(fc.integer({ min: 1, max: 90 })) }), { minLength: 1, maxLength: 4 }),
    fc.array(fc.record({ hours: fc.integer({ min: 0, max: 200 }), need: fc.integer({ min: 0, max: 400 }), share: fc.integer({ min: 0, max: 100 }), ceiling: fc.integer({ min: 0, max: 400 }) }), { maxLength: 40 }),
    (given, calls) => {
      const start = at('2026-01-01T00:00:00Z')
      const grants = given.map(({ amount, priority, from, days }, i) => grant(`g${i}`, {
        amount, priority, effectiveMs: start + from * 24 * HOUR, expiresMs: days === null ? null : start + (from + days) * 24 * HOUR, createdMs: i,
      }))
      const ledger = new Ledger({ forgetAfterMs: 2 * HOUR })
      const drawn = new Map<string, number>()
      let nowMs = start
      for (const call of calls) {
        nowMs += call.hours * HOUR
        const check = allowance.check(applied(grants, { ceiling: call.ceiling }), { fixed: call.need, perUnit: 0 }, nowMs, nowMs, false)
        const id = newId(nowMs)
        const move = { id, nowMs, home: 'acme', checks: [check] }
        const admitted = ledger.reserve({ ...move, uMin: 0, uMax: 0, deadlineMs: nowMs + 15_000, skeleton }).answer
        if (admitted.outcome !== 'admitted') continue
        const amount = Math.floor(call.need * call.share / 100)
        const settled = ledger.settle({ ...move, amounts: [amount], usage: { total_tokens: amount }, event: eventBody }).answer
        if (settled.outcome !== 'settled') throw new Error(settled.outcome)
        if (settled.overruns.length > 0) throw new Error('an overrun although it was held')
        const order = burnDown(grants, nowMs).map((one) => one.id)
        const used = settled.drawn.filter(({ bucket }) => bucket !== 'monthly')
        for (const { bucket, amount: share } of used) drawn.set(bucket, (drawn.get(bucket) ?? 0) + share)
        // A later one is touched only when every earlier one is empty.
        const last = used.at(-1)?.bucket
        for (const one of order.slice(0, last === undefined ? 0 : order.indexOf(last))) {
          if ((drawn.get(one) ?? 0) !== grants.find(({ id }) => id === one)!.amount) throw new Error(`${one} was passed over`)
        }
      }
      for (const { id, amount } of grants) {
        const is = drawn.get(id) ?? 0
        drawnOverall += is
        if (is > amount) throw new Error(`${id} was drawn ${is} of ${amount}`)
      }
    },
  ), { numRuns: 400 })
  t.ok(drawnOverall > 1_000, `${drawnOverall} were drawn from grants`)
})

t.test('counters of what ends are kept for a look after the end: of grants, and of allowances that roll over', async (t) => {
  const now = at('2026-11-22T10:00:00Z')
  const ends = (more: Partial<Limit>, grants?: readonly Grant[]): number | null => {
    const { grants: _none, ...plain } = applied([], more)
    return allowance.check(grants === undefined ? plain : { ...plain, grants }, { fixed: 0, perUnit: 0 }, now, now, false).endsMs
  }
  const december = at('2026-11-30T23:00:00Z')
  t.equal(ends({}), december)
  t.equal(ends({ rollover: { max: { kind: 'absolute', amount: 5 }, lasts: null } }), december + LOOKED_AT_LATE_MS)
  t.equal(ends({ window: { kind: 'lifetime' } }), null)
  const bucket = (more: Partial<Grant>): unknown => allowance.check(applied([grant('g', more)]), { fixed: 0, perUnit: 0 }, now, now, false).ceilings[0]!.buckets[1]
  t.match(bucket({}), { endsMs: null })
  t.match(bucket({ expiresMs: december }), { endsMs: december + LOOKED_AT_LATE_MS })
  t.match(bucket({ voidedMs: december - 1, expiresMs: december }), { endsMs: december - 1 + LOOKED_AT_LATE_MS })
})
