import t from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import { GrantChanges } from '../../src/accounts/grants.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { MadeAccounts } from '../../src/accounts/made-accounts.ts'
import { SubscriptionChanges } from '../../src/accounts/subscriptions.ts'
import { answerAdmin } from '../../src/admin/admin-api.ts'
import { toProblem } from '../../src/admin/problem.ts'
import type { AdminParts } from '../../src/admin/route.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import { subscriptionOf } from '../../src/metering/subscription.ts'
import { systemRandom } from '../../src/random.ts'
import { FakeRecords, account, configOf } from '../accounts/fixture.ts'
import { analyticsOff, FakeOutbox } from './fake-outbox.ts'

type Body = Readonly<Record<string, unknown>>

async function open() {
  const records = new FakeRecords()
  const ofFile = subscriptionOf({
    kind: 'perpetual', startMs: 0, trialEndMs: null, endMs: null, graceMs: 0, renewal: null, term: null, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [], where: 'tallygate.yaml:12',
  })
  if (typeof ofFile === 'string') throw new Error(ofFile)
  const config = {
    ...configOf([], [account('acme', { calendar: { timeZone: 'Europe/Berlin', anchor: '2027-01-01' } }), account('filed', { subscription: ofFile })]),
    addOns: new Map([['more', { name: 'more', additions: [], limits: [], entitlements: {} }]]),
  }
  let nowMs = Date.parse('2027-04-10T12:00:00Z')
  const clock = withTime(systemClock, () => nowMs)
  const directory = await StoredKeyDirectory.open(records, config, clock)
  const changes = new AccountChanges(records, directory, clock, systemRandom)
  const outbox = new FakeOutbox()
  const parts: AdminParts = {
    config: () => config, directory, changes, subscriptions: new SubscriptionChanges(records, directory, changes, clock),
    grants: new GrantChanges({ records, balances: async () => [] }, directory, changes, clock, systemRandom),
    accounts: new MadeAccounts({ records, due: async () => [], balances: async () => [] }, directory, changes, clock), records, outbox, clock,
    quarantined: async () => [], storeStatus: () => ({ admitting: true, reason: null }), gateway: null,
    history: new EventHistory({ outbox, archive: () => null, clock }),
    pendingCall: async () => undefined, forecasts: async () => new Map(), standing: async () => null, analytics: analyticsOff(outbox),
    inspectStore: async () => ({ details: null, gaps: [], spool: null }),
    replay: async () => ({ events: 0, archived: 0, done: Promise.resolve() }),
    reconcile: async () => { throw new Error('nobody asks for it here') },
    deliveryStatus: () => new Map(), nudge: () => undefined, withheld: async () => [], releaseWithheld: async () => ({ released: 0, failed: 0 }), credit: async () => 'sent',
    retryDead: () => Promise.resolve({ delivered: 0, failed: 0 }),
  }
  const ask = async (method: string, path: string, body: Body = {}, query: Record<string, string> = {}): Promise<{ status: number; body: Record<string, unknown> }> => {
    try {
      const answer = await answerAdmin({ method, path: `/api/v1/${path}`, query, body, caller: { name: 'ops', role: 'admin' }, gone: () => false }, parts)
      return { status: answer.status, body: JSON.parse(JSON.stringify(answer.body)) as Record<string, unknown> }
    } catch (error) {
      const problem = toProblem(error)
      if (problem === undefined) throw error
      return { status: problem.status, body: problem.toDocument() as Record<string, unknown> }
    }
  }
  return { ask, set: (text: string) => { nowMs = Date.parse(text) } }
}

t.test('a subscription is made, shown, changed, renewed, cancelled and taken away, by the account’s clock', async (t) => {
  const { ask, set } = await open()
  t.match(await ask('GET', 'subscriptions/acme'), { status: 404, body: { detail: 'the account "acme" has no subscription' } })
  const made = await ask('POST', 'subscriptions/acme', { term: 'year', renewal: 'none', start: '2027-01-01', grace: '14d', seats: 25, add_ons: 'more, more' })
  t.match(made, { status: 200, body: {
    account: 'acme', kind: 'term', state: 'active', since: '2026-12-31T23:00:00.000Z', until: '2027-12-31T23:00:00.000Z', term: { start: '2026-12-31T23:00:00.000Z', end: '2027-12-31T23:00:00.000Z' },
    grace_ms: 14 * 86_400_000, renewal: 'none', term_length: 'year', timezone: 'Europe/Berlin', seats: 25, add_ons: ['more', 'more'], where: 'store', revision: 1,
    next_announcement: { what: 'subscription', days_ahead: 30, at: '2027-12-01T23:00:00.000Z' },
  } })
  t.same((await ask('GET', 'subscriptions/acme')).body, made.body)
  const moved = await ask('POST', 'subscriptions/acme', { plan: 'pro', plan_from: '2027-04-16', proration: 'by_day', revision: 1 })
  t.same(moved.body['plans'], [
    { plan: 'free', version: 1, from: '2026-12-31T23:00:00.000Z', proration: 'none' }, { plan: 'pro', version: 1, from: '2027-04-15T22:00:00.000Z', proration: 'by_day' },
  ])
  t.match(await ask('POST', 'subscriptions/acme', { seats: 0, add_ons: 'none', suspended_from: '2027-04-01', suspended_until: '2027-04-20' }), { body: { seats: null, add_ons: [], state: 'suspended', until: '2027-04-19T22:00:00.000Z', revision: 3 } })
  t.match(await ask('POST', 'subscriptions/acme', { suspended_from: 'none' }), { body: { state: 'active', suspended: null } })
  set('2028-01-05T00:00:00Z')
  t.match(await ask('GET', 'accounts/acme'), { body: { plan: 'pro', subscription: 'grace' } })
  t.match(await ask('POST', 'subscriptions/acme/renew', { change: 'invoice-7' }), { body: { state: 'active', end: '2028-12-31T23:00:00.000Z', revision: 5 } })
  t.match(await ask('POST', 'subscriptions/acme/renew', { change: 'invoice-7' }), { status: 200, body: { end: '2028-12-31T23:00:00.000Z', revision: 5 } })
  t.match(await ask('POST', 'subscriptions/acme/cancel', { at: '2028-03-01' }), { body: { end: '2028-02-29T23:00:00.000Z', state: 'active' } })
  t.match(await ask('POST', 'subscriptions/acme/cancel', { at: 'now' }), { body: { end: '2028-01-05T00:00:00.000Z', state: 'grace' } })
  t.match(await ask('DELETE', 'subscriptions/acme', {}, { revision: '3' }), { status: 409 })
  t.match(await ask('DELETE', 'subscriptions/acme', {}, { revision: '7' }), { status: 200, body: { removed: true } })
  t.match(await ask('DELETE', 'subscriptions/acme'), { status: 200, body: { removed: false } })
  t.same(((await ask('GET', 'audit')).body['changes'] as { who: string; action: string }[]).map(({ who, action }) => `${who} ${action}`).sort(), [
    'ops subscription.cancel', 'ops subscription.cancel', 'ops subscription.remove', 'ops subscription.renew', 'ops subscription.set', 'ops subscription.set', 'ops subscription.set', 'ops subscription.set',
  ])
})

t.test('what cannot be is refused with a sentence', async (t) => {
  const { ask } = await open()
  const cases: readonly (readonly [string, Body, number, RegExp])[] = [
    ['subscriptions/acme', {}, 422, /needs a term/],
    ['subscriptions/acme', { term: '30d' }, 422, /term: "30d" is not a term/],
    ['subscriptions/acme', { kind: 'trial' }, 422, /a trial needs trial_end/],
    ['subscriptions/acme', { kind: 'lease' }, 422, /must be one of perpetual, term, trial/],
    ['subscriptions/acme', { end: '2027-02-30' }, 422, /end: 2027-02-30 is a day that does not exist/],
    ['subscriptions/acme', { start: 'none', term: 'year' }, 422, /start: a subscription has one/],
    ['subscriptions/acme', { term: 'year', timezone: 'Mars' }, 422, /timezone: "Mars" is not a time zone/],
    ['subscriptions/acme', { term: 'year', plan_from: '2027-05-01' }, 422, /plan_from: give plan too/],
    ['subscriptions/acme', { term: 'year', suspended_until: '2027-05-01' }, 422, /give suspended_from too/],
    ['subscriptions/acme', { term: 'year', plan: 'gone' }, 404, /there is no plan "gone"/],
    ['subscriptions/acme', { term: 'year', revision: 3 }, 409, /there is no subscription of "acme" in the store/],
    ['subscriptions/acme', { ends: '2028-01-01' }, 422, /body.ends is not known here/],
    ['subscriptions/nobody', { term: 'year' }, 404, /there is no account "nobody"/],
    ['subscriptions/filed', { term: 'year' }, 409, /stands in tallygate.yaml:12: it is changed there/],
    ['subscriptions/filed/cancel', {}, 409, /tallygate.yaml:12/],
    ['subscriptions/acme/renew', {}, 404, /has no subscription in the store/],
  ]
  for (const [path, body, status, sentence] of cases) {
    const answer = await ask('POST', path, body)
    t.equal(answer.status, status, JSON.stringify(body))
    t.match(answer.body['detail'], sentence)
  }
  t.match(await ask('GET', 'subscriptions'), { body: { subscriptions: [{ account: 'filed', where: 'tallygate.yaml:12', revision: null }] } }, 'nothing was made')
})
