import t from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import type { ChangeRefused } from '../../src/accounts/account-changes.ts'
import { listAccounts, listKeys } from '../../src/accounts/account-overview.ts'
import { recordKinds, toStoredSubscription, toSubscriptionDocument } from '../../src/accounts/account-records.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import type { KeyLookup } from '../../src/accounts/principal.ts'
import { hashOfSecret, newSecret } from '../../src/accounts/secret.ts'
import { SubscriptionChanges, findSubscription, listSubscriptions } from '../../src/accounts/subscriptions.ts'
import type { Intent } from '../../src/accounts/subscriptions.ts'
import { systemClock } from '../../src/clock.ts'
import type { Clock } from '../../src/clock.ts'
import type { Account, AddOn, Config, Plan } from '../../src/config/config.ts'
import { resolveEntitlement } from '../../src/metering/entitlement.ts'
import { subscriptionOf } from '../../src/metering/subscription.ts'
import type { Subscription } from '../../src/metering/subscription.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { Announcer } from '../../src/notices/announcer.ts'
import type { Notice } from '../../src/notices/notice.ts'
import { NoticeBook, listNotices } from '../../src/notices/notice-book.ts'
import { systemRandom } from '../../src/random.ts'
import { limitOf } from '../metering/people.ts'
import { FakeRecords, account, configOf, key, plan } from './fixture.ts'

const day = 86_400_000
const at = (text: string): number => Date.parse(text)
const nowMs = at('2027-04-10T12:00:00Z')
const secret = newSecret(systemRandom)
const sub = newSecret(systemRandom)
const ops: Intent = { who: 'ops', revision: undefined, changeId: undefined }

function subscription(more: Partial<Subscription> = {}): Subscription {
  const made = subscriptionOf({
    kind: 'term', startMs: at('2027-01-01'), trialEndMs: null, endMs: null, graceMs: 0, term: { unit: 'month', count: 1 }, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [],
    where: 'tallygate.yaml:7', ...more, renewal: null,
  })
  if (typeof made === 'string') throw new Error(made)
  return made
}

const free: Plan = { ...plan('free'), limits: [limitOf('monthly total_tokens 1M month'), limitOf('daily total_tokens 100k day'), limitOf('seats concurrency 2 in_flight'), limitOf('lap total_tokens 5k term')] }
const pro: Plan = { ...plan('pro'), proration: 'by_day', limits: [limitOf('monthly total_tokens 4M month'), limitOf('daily total_tokens 400k day'), limitOf('seats concurrency 8 in_flight')] }

interface Set { config: Config; records: FakeRecords; directory: StoredKeyDirectory; subscriptions: SubscriptionChanges; changes: AccountChanges; clock: Clock; set(ms: number): void; find(ms?: number): KeyLookup }

async function open(accounts: readonly Account[], more: { records?: FakeRecords; addOns?: readonly AddOn[] } = {}): Promise<Set> {
  let atMs = nowMs
  const records = more.records ?? new FakeRecords()
  const config: Config = {
    ...configOf([key('dev', hashOfSecret(secret)), key('under', hashOfSecret(sub), { account: 'team' })], accounts),
    plans: new Map([['free', free], ['pro', pro]]), addOns: new Map((more.addOns ?? []).map((each) => [each.name, each])),
  }
  const clock: Clock = {
    nowMs: () => atMs, monotonicMs: () => atMs, after: (ms, task, options) => systemClock.after(ms, task, options), every: (ms, task) => systemClock.every(ms, task), sleep: (ms) => systemClock.sleep(ms),
  }
  const directory = await StoredKeyDirectory.open(records, config, clock)
  const changes = new AccountChanges(records, directory, clock, systemRandom)
  return {
    config, records, directory, changes, clock, subscriptions: new SubscriptionChanges(records, directory, changes, clock),
    set: (ms) => { atMs = ms }, find: (ms = atMs) => directory.find(secret, ms),
  }
}

/** Ceilings by name, as a call is checked against them; a parent's as `parent/name`. */
function ceilings(found: KeyLookup, config: Config): Record<string, number | null> {
  if (found.outcome !== 'found') throw new Error(`the key is ${found.outcome}`)
  const entitlement = resolveEntitlement(found.principal, { endpoint: 'chat', known: true, endpointByDefault: true, model: 'llama', features: [], endUser: null }, config.plans)
  if (entitlement instanceof Error) throw entitlement
  return Object.fromEntries(entitlement.applied.map(({ limit, scope }) => [scope.id === 'account:acme' ? limit.name : `${scope.id.slice('account:'.length)}/${limit.name}`, limit.ceiling]))
}

const refused = (why: string, message: RegExp) => (error: unknown): boolean => (error as ChangeRefused).why === why && message.test((error as Error).message)

async function rejectsWith(t: { ok(value: unknown, message: string): unknown }, change: Promise<unknown>, why: string, message: RegExp): Promise<void> {
  const error = await change.then(() => undefined, (thrown: unknown) => thrown)
  t.ok(error !== undefined && refused(why, message)(error), error === undefined ? 'it was accepted' : `${(error as ChangeRefused).why}: ${(error as Error).message}`)
}

t.test('a key opens from the start until the grace is over, and says in between what is the matter', async (t) => {
  const { find } = await open([account('acme', { subscription: subscription({ startMs: at('2027-04-11'), endMs: at('2027-05-11'), graceMs: 2 * day }) })])
  t.same(find(at('2027-04-11') - 1), { outcome: 'inactive', why: 'not_started', whose: 'own', startsMs: at('2027-04-11') })
  t.equal(find(at('2027-04-11')).outcome, 'found')
  t.equal(find(at('2027-05-11') - 1).outcome, 'found')
  t.equal(find(at('2027-05-11')).outcome, 'found', 'the grace')
  t.same(find(at('2027-05-13')), { outcome: 'inactive', why: 'ended', whose: 'own', trial: false, endedMs: at('2027-05-11'), servedUntilMs: at('2027-05-13') })
  t.equal(find(at('2027-04-12')).outcome, 'found', 'a clock that goes back is believed')
})

t.test('a parent’s subscription counts, and so does a suspension by it; an operator’s suspension is told first', async (t) => {
  const accounts = [account('acme', { parent: 'group' }), account('group', { subscription: subscription({ suspended: { fromMs: at('2027-04-05'), untilMs: at('2027-04-20') } }) })]
  const { find, changes } = await open(accounts)
  t.same(find(), { outcome: 'inactive', why: 'suspended', whose: 'parent', sinceMs: at('2027-04-05'), untilMs: at('2027-04-20') })
  t.equal(find(at('2027-04-20')).outcome, 'found')
  await changes.suspendAccount('acme', null, 'ops')
  t.same(find(), { outcome: 'inactive', why: 'suspended', whose: 'own', sinceMs: nowMs, untilMs: null })
})

t.test('the store’s subscription is followed as it changes; one of the file stands in front of it', async (t) => {
  const { find, subscriptions, records, directory } = await open([account('acme')])
  t.equal(find().outcome, 'found', 'without a subscription an account is served')
  await subscriptions.set('acme', { kind: 'trial', startMs: at('2027-04-01'), trialEndMs: at('2027-04-15') }, ops)
  t.equal(find(at('2027-04-15') - 1).outcome, 'found')
  t.match(find(at('2027-04-15')), { why: 'ended', trial: true })
  t.match(listKeys(directory, at('2027-04-15')), [{ id: 'dev', state: 'ended' }, {}])
  t.match(listAccounts(directory, at('2027-04-15')), [{ id: 'acme', subscription: 'ended' }])
  const other = await open([account('acme', { subscription: subscription() })], { records })
  t.equal(other.find(at('2027-04-20')).outcome, 'found')
  t.same(listSubscriptions(other.directory, nowMs).map(({ hidden, subscription }) => [subscription.where, hidden]), [['tallygate.yaml:7', false], ['store', true]])
  await subscriptions.remove('acme', ops)
  t.equal(find(at('2027-04-15')).outcome, 'found')
})

t.test('a stored subscription that cannot be read lets nobody in', async (t) => {
  const records = new FakeRecords()
  await records.put(recordKinds.subscription, 'acme', { kind: 'term', start_ms: 'soon' })
  t.match((await open([account('acme')], { records })).find(), { outcome: 'inactive', why: 'ended' })
  const stored = { subscription: subscription({ seats: 3, addOns: ['more'], suspended: { fromMs: 5, untilMs: null }, plans: [{ plan: 'pro', version: 2, fromMs: 9, proration: 'by_day' }], where: 'store' }), revision: 4, changes: [{ id: 'a', action: 'b', revision: 4, at_ms: 1, by: 'ops' }] }
  t.same(toStoredSubscription(JSON.parse(JSON.stringify(toSubscriptionDocument(stored)))), stored, 'as it was written')
})

t.test('a plan of the subscription begins at its instant, for the keys of accounts below too, and is prorated in its period alone', async (t) => {
  const plans = [{ plan: 'pro', version: 1, fromMs: at('2027-04-16'), proration: 'by_day' as const }]
  const { find, config, directory } = await open([account('acme', { subscription: subscription({ plans }) }), account('team', { parent: 'acme', plan: null })])
  const planOf = (ms: number): string | undefined => { const found = find(ms); return found.outcome === 'found' ? found.principal.plan.name : undefined }
  t.equal(planOf(at('2027-04-16') - 1), 'free')
  t.same(ceilings(find(at('2027-04-16') - 1), config), { monthly: 1_000_000, daily: 100_000, seats: 2, lap: 5_000 })
  t.equal(planOf(at('2027-04-16')), 'pro')
  t.same(ceilings(find(at('2027-04-16')), config), { monthly: 2_500_000, daily: 400_000, seats: 8 }, '15 days of one million, 15 of four')
  t.same(ceilings(find(at('2027-05-01') - 1), config), { monthly: 2_500_000, daily: 400_000, seats: 8 })
  t.same(ceilings(find(at('2027-05-01')), config), { monthly: 4_000_000, daily: 400_000, seats: 8 }, 'the next period is whole')
  const below = directory.find(sub, at('2027-04-20'))
  t.equal(below.outcome === 'found' && below.principal.plan.name, 'pro')
  t.match(ceilings(below, config), { 'team/monthly': 2_500_000, monthly: 2_500_000 })
  t.same(findSubscription(directory, 'acme', nowMs)?.plans.map((change) => [change.plan, change.fromMs]), [['free', at('2027-01-01')], ['pro', at('2027-04-16')]], 'what invoices need')
})

t.test('an edit of the file’s plan is prorated as the new plan states', async (t) => {
  const history = [{ plan: 'free', version: 1, fromMs: 0, proration: 'none' as const }, { plan: 'pro', version: 1, fromMs: at('2027-04-10T09:00:00Z'), proration: 'by_day' as const }]
  const { find, config } = await open([account('acme', { plan: 'pro', planHistory: history })])
  t.same(ceilings(find(), config), { monthly: 3_100_000, daily: 400_000, seats: 8 }, '9 days of one million, 21 of four')
  t.match(ceilings(find(at('2027-05-02')), config), { monthly: 4_000_000 })
})

const more: AddOn = { name: 'more', additions: [{ limit: 'monthly', meter: 'total_tokens', amount: 500_000 }, { limit: 'monthly', meter: 'requests', amount: 7 }], limits: [], entitlements: {} }
const vision: AddOn = {
  name: 'vision', additions: [], limits: [limitOf('pictures images 100 month')],
  entitlements: { models: ['vision-*'], features: ['hosted_tools'], endpoints: ['POST /rerank'], maxOutputTokens: 9_000, priority: 10 },
}

t.test('an add-on raises ceilings by name and meter, and adds to models, endpoints and features', async (t) => {
  const narrow = { models: ['llama'], features: ['store'] }
  const accounts = [account('acme', { addOns: ['more', 'vision', 'more'], limits: [limitOf('daily total_tokens 7k day')], entitlements: narrow })]
  const { find, config } = await open(accounts, { addOns: [more, vision] })
  t.same(ceilings(find(), config), { monthly: 2_000_000, daily: 7_000, seats: 2, lap: 5_000, pictures: 100 }, 'named twice it counts twice')
  const found = find()
  if (found.outcome !== 'found') return t.fail('not found')
  const ask = (endpoint: string, model: string | null, more = {}) => resolveEntitlement(found.principal, { endpoint, known: true, endpointByDefault: true, model, features: [], endUser: null, ...more }, config.plans)
  const granted = (answer: ReturnType<typeof ask>): boolean => !(answer instanceof Error)
  t.same(['llama', 'vision-2', 'other'].map((model) => granted(ask('chat', model))), [true, true, false])
  t.ok(granted(ask('POST /rerank', null, { known: false, endpointByDefault: false })), 'its endpoint')
  t.ok(granted(ask('embeddings', 'llama')), 'and those that the plan had by default')
  t.notOk(granted(ask('batches', 'llama', { endpointByDefault: false })), 'and no more')
  t.same(['hosted_tools', 'store', 'background'].map((feature) => granted(ask('chat', 'llama', { features: [feature] }))), [true, true, false])
  t.match(ask('chat', 'llama'), { maxOutputTokens: 9_000, priority: 10, maxContextTokens: null })
})

t.test('who has the plan of an account above has its add-ons and seats too', async (t) => {
  const { directory, config, subscriptions } = await open([account('team', { parent: 'acme', plan: null }), account('acme', { addOns: ['more'] })], { addOns: [more] })
  await subscriptions.set('acme', { term: { unit: 'year', count: 1 }, startMs: at('2027-01-01'), seats: 25, addOns: ['more'] }, ops)
  t.match(ceilings(directory.find(sub, nowMs), config), { 'team/monthly': 2_000_000, monthly: 2_000_000, 'team/seats': 25, seats: 25 })
})

t.test('an allowance of a term begins anew when the term does', async (t) => {
  const { find, config } = await open([account('acme', { subscription: subscription({ startMs: at('2027-01-31') }) })])
  const found = find()
  if (found.outcome !== 'found') return t.fail('not found')
  const entitlement = resolveEntitlement(found.principal, { endpoint: 'chat', known: true, endpointByDefault: true, model: 'llama', features: [], endUser: null }, config.plans)
  if (entitlement instanceof Error) return t.fail(entitlement.message)
  const lap = entitlement.applied.find(({ limit }) => limit.name === 'lap')!
  const { kindOf } = await import('../../src/metering/limits/index.ts')
  const kind = kindOf(lap.limit.window)
  const slotAt = (ms: number): string | undefined => kind.check(lap, { fixed: 1, perUnit: 0 }, ms, ms, false).slots[0]
  t.equal(slotAt(at('2027-02-28')), `account:acme|total_tokens||term|${at('2027-02-28')}`)
  t.equal(slotAt(at('2027-03-31') - 1), slotAt(at('2027-02-28')))
  t.equal(kind.resetsAtMs(lap, at('2027-03-15'), undefined), at('2027-03-31'))
  t.equal(kind.lengthMs(lap, at('2027-03-15')), 31 * day)
  t.equal(kind.check(lap, { fixed: 1, perUnit: 0 }, at('2027-03-15'), at('2027-03-15'), false).endsMs, at('2027-03-31') + 366 * day, 'kept: a grace that comes later still counts to it')
  const alone = { ...lap, scope: { ...lap.scope, subscription: null } }
  t.equal(kind.check(alone, { fixed: 1, perUnit: 0 }, nowMs, nowMs, false).slots[0], 'account:acme|total_tokens||term|0', 'without a subscription it is for ever')
  t.equal(kind.resetsAtMs(alone, nowMs, undefined), null)
})

t.test('set makes and changes, renew adds a term without a gap, cancel ends with the term, remove takes away', async (t) => {
  const { subscriptions, directory, set, find } = await open([account('acme', { calendar: { timeZone: 'Europe/Berlin', anchor: '2027-01-01' } })])
  const state = (): unknown => { const found = findSubscription(directory, 'acme', set0)!; return [found.revision, found.standing.state, found.subscription.renewal, found.subscription.endMs === null ? null : new Date(found.subscription.endMs).toISOString()] }
  let set0 = nowMs
  const now = (text: string): void => { set0 = at(text); set(set0) }
  await subscriptions.set('acme', { startMs: at('2027-01-30T23:00:00Z'), term: { unit: 'month', count: 1 } }, ops)
  t.same(state(), [1, 'active', 'auto', null])
  t.equal(findSubscription(directory, 'acme', nowMs)?.subscription.timeZone, 'Europe/Berlin', 'the account’s own clock')
  await rejectsWith(t, subscriptions.renew('acme', ops), 'conflict', /renews by itself/)
  await subscriptions.cancel('acme', null, ops)
  t.same(state(), [2, 'active', 'none', '2027-04-29T22:00:00.000Z'], 'with the term: the 30th in Berlin')
  await subscriptions.set('acme', { graceMs: 10 * day }, ops)
  t.same(state(), [3, 'active', 'none', '2027-04-29T22:00:00.000Z'])
  now('2027-05-05T00:00:00Z')
  t.match(state(), [3, 'grace'])
  await subscriptions.renew('acme', ops)
  t.same(state(), [4, 'active', 'none', '2027-05-30T22:00:00.000Z'], 'the day comes back to the 31st')
  t.equal(findSubscription(directory, 'acme', set0)?.standing.term?.startMs, at('2027-04-29T22:00:00Z'), 'from where it had ended')
  now('2027-06-20T00:00:00Z')
  await rejectsWith(t, subscriptions.renew('acme', ops), 'conflict', /is over since 2027-06-09T22:00:00.000Z/)
  await rejectsWith(t, subscriptions.cancel('acme', null, ops), 'conflict', /over already/)
  await subscriptions.set('acme', { renewal: 'auto' }, ops)
  t.same(state(), [5, 'active', 'auto', null], 'to renew again frees the end')
  await subscriptions.set('acme', { kind: 'perpetual' }, ops)
  t.same(state(), [6, 'active', 'none', null])
  await subscriptions.cancel('acme', at('2027-07-01'), ops)
  t.same(state(), [7, 'active', 'none', '2027-07-01T00:00:00.000Z'])
  t.equal(await subscriptions.remove('acme', ops), true)
  t.equal(await subscriptions.remove('acme', ops), false)
  t.equal(find().outcome, 'found')
})

t.test('a trial is cancelled at once or runs out, and becomes a term', async (t) => {
  const { subscriptions, directory } = await open([account('acme'), account('team')])
  await subscriptions.set('acme', { kind: 'trial', trialEndMs: at('2027-04-20') }, ops)
  await subscriptions.set('acme', { kind: 'term', term: { unit: 'year', count: 1 } }, ops)
  t.match(findSubscription(directory, 'acme', at('2027-04-25')), { standing: { state: 'active', term: { startMs: at('2027-04-20'), endMs: at('2028-04-20') } } })
  await subscriptions.set('team', { kind: 'trial', trialEndMs: at('2027-04-20') }, ops)
  await rejectsWith(t, subscriptions.renew('team', ops), 'conflict', /a trial subscription is not renewed/)
  await subscriptions.cancel('team', at('2027-04-11'), ops)
  t.match(findSubscription(directory, 'team', at('2027-04-12')), { standing: { state: 'ended' } })
})

t.test('plans are changed one after the other; what has been stays, what was planned gives way', async (t) => {
  const { subscriptions, directory } = await open([account('acme')])
  await subscriptions.set('acme', { term: { unit: 'month', count: 1 }, startMs: at('2027-01-01') }, ops)
  await subscriptions.set('acme', { plan: { name: 'pro', fromMs: null, proration: null } }, ops)
  await subscriptions.set('acme', { plan: { name: 'free', fromMs: at('2027-06-01'), proration: 'none' } }, ops)
  const plans = () => findSubscription(directory, 'acme', nowMs)?.subscription.plans.map(({ plan, fromMs, proration }) => [plan, new Date(fromMs).toISOString().slice(0, 10), proration])
  t.same(plans(), [['pro', '2027-04-10', 'by_day'], ['free', '2027-06-01', 'none']], 'by_day: as the plan states')
  await subscriptions.set('acme', { plan: { name: 'pro', fromMs: at('2027-05-01'), proration: null } }, ops)
  t.same(plans(), [['pro', '2027-04-10', 'by_day'], ['pro', '2027-05-01', 'by_day']])
  await rejectsWith(t, subscriptions.set('acme', { plan: { name: 'gone', fromMs: null, proration: null } }, ops), 'not_found', /no plan "gone"/)
  await rejectsWith(t, subscriptions.set('acme', { addOns: ['gone'] }, ops), 'not_found', /no add-on "gone"/)
})

t.test('a change names the revision that it is of, and is refused when somebody was quicker', async (t) => {
  const records = new FakeRecords()
  const one = await open([account('acme')], { records })
  const other = await open([account('acme')], { records })
  const year = { term: { unit: 'year', count: 1 } as const, startMs: at('2027-01-01') }
  const made = await one.subscriptions.set('acme', year, { ...ops, revision: 0 })
  t.equal(made.revision, 1)
  await rejectsWith(t, other.subscriptions.set('acme', year, { ...ops, revision: 0 }), 'conflict', /is at revision 1, not 0/)
  const results = await Promise.allSettled([one.subscriptions.set('acme', { seats: 5 }, { ...ops, revision: 1 }), other.subscriptions.set('acme', { seats: 6 }, { ...ops, revision: 1 })])
  t.same(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'], 'one of two at the same time')
  t.equal(findSubscription(one.directory, 'acme', nowMs)?.revision, 2)
  await Promise.all([1, 2, 3].map((seats) => (seats === 2 ? other : one).subscriptions.set('acme', { seats }, ops)))
  t.equal(findSubscription(one.directory, 'acme', nowMs)?.revision, 5, 'without a revision all are made, one after the other')
  await rejectsWith(t, one.subscriptions.remove('acme', { ...ops, revision: 2 }), 'conflict', /revision 5, not 2/)
})

t.test('the same change again changes nothing more', async (t) => {
  const { subscriptions, directory, changes } = await open([account('acme')])
  const year = { term: { unit: 'year', count: 1 } as const, startMs: at('2027-01-01'), renewal: 'none' as const }
  await subscriptions.set('acme', year, ops)
  await subscriptions.set('acme', year, ops)
  t.equal(findSubscription(directory, 'acme', nowMs)?.revision, 1, 'set to what it is')
  for (let again = 0; again < 3; again++) await subscriptions.renew('acme', { ...ops, revision: 1, changeId: 'invoice-42' })
  const found = findSubscription(directory, 'acme', nowMs)
  t.same([found?.revision, found?.subscription.endMs], [2, at('2029-01-01')], 'one year, not three')
  await rejectsWith(t, subscriptions.cancel('acme', null, { ...ops, changeId: 'invoice-42' }), 'conflict', /was another one \(subscription.renew\)/)
  await rejectsWith(t, subscriptions.renew('acme', { ...ops, changeId: 'white space' }), 'invalid', /change id/)
  t.same((await changes.audit(10)).map(({ action, target, details }) => [action, target, details['revision']]).sort(), [['subscription.renew', 'acme', 2], ['subscription.set', 'acme', 1]], 'and stands in the journal once')
})

t.test('a subscription of the file is changed there, and the sentence says where', async (t) => {
  const { subscriptions, changes, find } = await open([account('acme', { subscription: subscription() })])
  await rejectsWith(t, subscriptions.set('acme', { seats: 3 }, ops), 'conflict', /stands in tallygate.yaml:7: it is changed there/)
  await rejectsWith(t, subscriptions.remove('acme', ops), 'conflict', /tallygate.yaml:7/)
  await rejectsWith(t, subscriptions.set('nobody', { seats: 3 }, ops), 'not_found', /no account "nobody"/)
  await changes.suspendAccount('acme', 'unpaid', 'ops')
  t.equal(find().outcome, 'inactive', 'suspending always works')
})

function bookOf({ records, clock }: Set): NoticeBook {
  return new NoticeBook({ records, clock, random: systemRandom, log: silentLog, metrics: new Metrics() })
}

function announcer(set: Set, told: Notice[]): Announcer {
  const book = bookOf(set)
  const tell = async (notice: Notice): Promise<boolean> => {
    const first = await book.tell(notice)
    if (first) told.push(notice)
    return first
  }
  return new Announcer({ store: { records: set.records, balances: async () => [] }, directory: set.directory, book: { tell }, instance: () => 'test', clock: set.clock, failed: (error) => { throw error } })
}

t.test('each end is announced once over all replicas and restarts, late ones by their last word', async (t) => {
  const records = new FakeRecords()
  const accounts = [account('acme', { subscription: subscription({ endMs: at('2027-06-01'), graceMs: 3 * day }) }), account('team', { subscription: subscription() })]
  const replicas = await Promise.all([1, 2, 3].map(() => open(accounts, { records })))
  const told: Notice[] = []
  const announcers = replicas.map((set) => announcer(set, told))
  const look = async (text: string): Promise<string[]> => {
    told.length = 0
    for (const set of replicas) set.set(at(text))
    await Promise.all(announcers.map((each) => each.look()))
    return told.map(({ account, data }) => `${account} ${String(data['what'])} ${String(data['days_ahead'])}`)
  }
  t.same(await look('2027-05-01T00:00:00Z'), [])
  t.same(await look('2027-05-02T00:00:00Z'), ['acme subscription 30'])
  t.same(await look('2027-05-02T00:01:00Z'), [])
  t.same(await look('2027-05-31T10:00:00Z'), ['acme subscription 1'], 'seven days were missed, and are not told any more')
  announcers.push(announcer(replicas[0]!, told))
  t.same(await look('2027-05-31T10:01:00Z'), [], 'after a restart')
  t.same(await look('2027-06-01T00:00:00Z'), ['acme subscription 0'])
  t.same(await look('2027-06-04T12:00:00Z'), ['acme grace 0'])
  t.same((await listNotices(records, { account: null, type: 'subscription', sinceMs: 0 })).map(({ data }) => [data['what'], data['ends_at'], data['days_ahead']]), [
    ['grace', '2027-06-04T00:00:00.000Z', 0], ['subscription', '2027-06-01T00:00:00.000Z', 0], ['subscription', '2027-06-01T00:00:00.000Z', 1], ['subscription', '2027-06-01T00:00:00.000Z', 30],
  ])
})

t.test('a renewed subscription announces its new end, and what was announced is forgotten after a year', async (t) => {
  const set = await open([account('acme')])
  const told: Notice[] = []
  const each = announcer(set, told)
  await set.subscriptions.set('acme', { startMs: at('2027-01-01'), term: { unit: 'year', count: 1 }, renewal: 'none' }, ops)
  set.set(at('2027-12-31T12:00:00Z'))
  await each.look()
  await set.subscriptions.renew('acme', ops)
  await each.look()
  set.set(at('2028-12-31T12:00:00Z'))
  await each.look()
  t.same(told.map(({ data }) => [data['days_ahead'], data['ends_at']]), [[1, '2028-01-01T00:00:00.000Z'], [1, '2029-01-01T00:00:00.000Z']])
  set.set(at('2029-02-10T00:00:00Z'))
  await set.subscriptions.set('acme', { endMs: at('2029-02-10T00:00:00Z') }, ops)
  await each.look()
  await bookOf(set).forget()
  t.same((await listNotices(set.records, { account: 'acme', type: null, sinceMs: 0 })).map(({ data }) => String(data['ends_at']).slice(0, 10)), ['2029-02-10', '2029-01-01'])
})
