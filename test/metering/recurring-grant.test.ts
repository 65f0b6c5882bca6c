import fc from 'fast-check'
import t from 'tap'
import { extensions, whyNotExtended } from '../../src/metering/extension.ts'
import { burnDown, isEffective } from '../../src/metering/grant.ts'
import type { MeteredGrant } from '../../src/metering/grant.ts'
import { TOGETHER_MAX, grantsAt } from '../../src/metering/recurring-grant.ts'
import type { GrantTerms } from '../../src/metering/recurring-grant.ts'
import { subscriptionOf } from '../../src/metering/subscription.ts'
import { limitOf } from './people.ts'

const day = 86_400_000
const at = (text: string): number => Date.parse(text)
const calendar = (timeZone = 'Europe/Berlin', anchor = '2026-01-31') => ({ timeZone, anchor })
const terms = (more: Partial<GrantTerms> = {}): GrantTerms => ({
  id: 'included', limit: 'monthly', meter: 'total_tokens', amount: 100, priority: 100, effectiveMs: null, expiresMs: null, source: 'plan', note: null, every: 'month', lastsMs: null, where: 'tallygate.yaml:1', ...more,
})
const ids = (grants: readonly MeteredGrant[]): string[] => grants.map(({ id }) => id)

t.test('what recurs gives one grant a period, named by its start, for the period', async (t) => {
  const november = grantsAt(terms(), 'acme', calendar(), null, at('2026-11-22T10:00:00Z'))
  t.match(november, {
    fromMs: at('2026-10-31T23:00:00Z'), untilMs: at('2026-11-30T23:00:00Z'),
    grants: [{ id: 'included@2026-10-31T23:00:00Z', account: 'acme', effectiveMs: at('2026-10-31T23:00:00Z'), expiresMs: at('2026-11-30T23:00:00Z'), createdMs: at('2026-10-31T23:00:00Z'), amount: 100, source: 'plan' }],
  })
  t.equal(november.grants.length, 1)
  t.same(ids(grantsAt(terms({ every: 'billing_period' }), 'acme', calendar(), null, at('2026-03-01T12:00:00Z')).grants), ['included@2026-02-27T23:00:00Z'], 'the 31st is clamped')
  t.same(ids(grantsAt(terms({ every: null }), 'acme', calendar(), null, 0).grants), ['included'])
})

t.test('at every instant exactly one of what recurs may be drawn, whoever asks and whenever', async (t) => {
  const zones = ['UTC', 'Europe/Berlin', 'America/St_Johns', 'Asia/Kathmandu', 'Pacific/Apia']
  let boundaries = 0
  fc.assert(fc.property(
    fc.constantFrom('day', 'week', 'month', 'billing_period'), fc.constantFrom(...zones), fc.integer({ min: 1, max: 31 }), fc.integer({ min: at('2026-01-01'), max: at('2029-01-01') }), fc.integer({ min: -1, max: 1 }),
    (every, zone, anchor, somewhen, besides) => {
      const where = calendar(zone, `2026-01-${String(anchor).padStart(2, '0')}`)
      // The boundary itself, the instant before it, the one after.
      const first = grantsAt(terms({ every }), 'acme', where, null, somewhen)
      const now = first.untilMs + besides
      const seen = grantsAt(terms({ every }), 'acme', where, null, now)
      boundaries += 1
      if (!(seen.fromMs <= now && now < seen.untilMs)) throw new Error('the span does not hold its instant')
      const drawn = seen.grants.filter((grant) => isEffective(grant, now))
      if (drawn.length !== 1) throw new Error(`${drawn.length} at ${new Date(now).toISOString()}`)
      if (besides === -1 && drawn[0]!.id !== first.grants[0]!.id) throw new Error('another one within a period')
      if (besides >= 0 && drawn[0]!.id === first.grants[0]!.id) throw new Error('the same one in another period')
    },
  ), { numRuns: 500 })
  t.equal(boundaries, 500)
})

t.test('those that last longer than their period are there together, the soonest to expire first; none that is over', async (t) => {
  const seen = grantsAt(terms({ lastsMs: 60 * day }), 'acme', calendar('UTC'), null, at('2026-11-22T10:00:00Z'))
  t.same(ids(seen.grants), ['included@2026-11-01T00:00:00Z', 'included@2026-10-01T00:00:00Z'])
  t.same(ids(burnDown(seen.grants as MeteredGrant[], at('2026-11-22T10:00:00Z')) as MeteredGrant[]), ['included@2026-10-01T00:00:00Z', 'included@2026-11-01T00:00:00Z'])
  t.equal(grantsAt(terms({ every: 'day', lastsMs: 900 * day }), 'acme', calendar('UTC'), null, at('2026-11-22')).grants.length, TOGETHER_MAX, 'bounded')
})

t.test('effective and expires bound all of what recurs', async (t) => {
  const bounded = terms({ every: 'day', effectiveMs: at('2026-11-10T12:00:00Z'), expiresMs: at('2026-11-12T06:00:00Z') })
  const on = (text: string) => grantsAt(bounded, 'acme', calendar('UTC'), null, at(text)).grants.map(({ effectiveMs, expiresMs }) => [new Date(effectiveMs).toISOString().slice(0, 13), new Date(expiresMs ?? 0).toISOString().slice(0, 13)])
  t.same(on('2026-11-09T12:00:00Z'), [])
  t.same(on('2026-11-10T01:00:00Z'), [['2026-11-10T12', '2026-11-11T00']])
  t.same(on('2026-11-11T01:00:00Z'), [['2026-11-11T00', '2026-11-12T00']])
  t.same(on('2026-11-12T01:00:00Z'), [['2026-11-12T00', '2026-11-12T06']])
  t.same(on('2026-11-13T01:00:00Z'), [])
})

t.test('every term: anew when the subscription is renewed; without one there is none', async (t) => {
  const made = subscriptionOf({ kind: 'term', startMs: at('2026-01-31'), trialEndMs: null, endMs: null, graceMs: 0, renewal: null, term: { unit: 'month', count: 1 }, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [], where: 'x' })
  if (typeof made === 'string') throw new Error(made)
  t.same(ids(grantsAt(terms({ every: 'term' }), 'acme', calendar(), made, at('2026-03-01')).grants), ['included@2026-02-28T00:00:00Z'])
  t.same(grantsAt(terms({ every: 'term' }), 'acme', calendar(), null, at('2026-03-01')).grants, [])
})

t.test('grants extend allowances of the account with one counter, of their name and meter; of two over one counter only the first', async (t) => {
  for (const [text, why] of [
    ['a requests 5 1m', /is no allowance/], ['a requests 5 fixed:1d', /is no allowance/], ['a concurrency 5 in_flight', /is no allowance/], ['a requests 5 day per:key', /counts per key/], ['a requests 5 day each:model', /each model/], ['a requests - day', /is unlimited/],
  ] as const) t.match(whyNotExtended(limitOf(text)), why, text)
  const [monthly, again, daily, other] = [limitOf('monthly total_tokens 5 month'), limitOf('again total_tokens 9 month'), limitOf('daily total_tokens 5 day'), limitOf('monthly requests 5 month')]
  const grant: MeteredGrant = { id: 'g', account: 'acme', limit: 'monthly', meter: 'total_tokens', amount: 1, priority: 1, effectiveMs: 0, expiresMs: null, createdMs: 0, source: 'operator', voidedMs: null, note: null }
  const given = { grants: [grant], extended: new Set(['total_tokens|monthly', 'total_tokens|again']) }
  const found = (limits: readonly (typeof monthly)[], own = limits): unknown => [...extensions(limits, own, given)].map(([limit, grants]) => [limit.name, ids(grants as MeteredGrant[])])
  t.same(found([monthly, again, daily]), [['monthly', ['g']]], 'again shares the counter')
  t.same(found([again, daily]), [['again', []]], 'it had one once: what that was drawn is known')
  t.same(found([other]), [], 'another meter')
  t.same(found([limitOf('monthly total_tokens 8 month')], [monthly]), [['monthly', ['g']]], 'a key’s own ceiling over the same counter')
  t.same(found([limitOf('monthly total_tokens 8 day')], [monthly]), [], 'a key’s limit with another counter')
})
