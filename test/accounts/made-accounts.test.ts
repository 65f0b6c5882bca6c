import t, { type Test } from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import type { ChangeRefused } from '../../src/accounts/account-changes.ts'
import { listAccounts } from '../../src/accounts/account-overview.ts'
import { recordKinds } from '../../src/accounts/account-records.ts'
import { withCalendars } from '../../src/accounts/calendars.ts'
import { AccountHomes } from '../../src/accounts/homes.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { MadeAccounts } from '../../src/accounts/made-accounts.ts'
import { SubscriptionChanges } from '../../src/accounts/subscriptions.ts'
import type { Intent } from '../../src/accounts/subscriptions.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Words } from '../../src/config/account-terms.ts'
import type { Account, Config, KeyConfig, Plan } from '../../src/config/config.ts'
import { resolveEntitlement } from '../../src/metering/entitlement.ts'
import { systemRandom } from '../../src/random.ts'
import type { DueReservation } from '../../src/metering/moves.ts'
import { limitOf } from '../metering/people.ts'
import { FakeRecords, account, configOf, plan } from './fixture.ts'

const day = 86_400_000
const ops: Intent = { who: 'ops', revision: undefined, changeId: undefined }
const free: Plan = { ...plan('free'), limits: [limitOf('monthly total_tokens 1M month')] }
const rpm: Words = { name: 'rpm', meter: 'requests', limit: 60, window: '1m' }

interface World {
  records: FakeRecords
  directory: StoredKeyDirectory
  changes: AccountChanges
  made: MadeAccounts
  subscriptions: SubscriptionChanges
  config: Config
  due: DueReservation[]
  reserved: { now: number }
  set(ms: number): void
  use(config: Config): Promise<void>
}

function offer(accounts: readonly Account[], keys: readonly KeyConfig[] = [], more: Partial<Config> = {}): Config {
  return {
    ...configOf(keys, accounts), plans: new Map([['free', free], ['pro', { ...plan('pro'), version: 2 }]]),
    meters: new Map([['points', { name: 'points', scale: 1, terms: [{ meter: 'output_tokens', coefficient: 4 }] }]]),
    addOns: new Map([['more', { name: 'more', additions: [], limits: [], entitlements: {} }]]), ...more,
  }
}

async function open(accounts: readonly Account[] = [account('acme')], keys: readonly KeyConfig[] = [], records = new FakeRecords(), startMs = Date.parse('2027-04-10T12:00:00Z')): Promise<World> {
  let nowMs = startMs
  const clock = withTime(systemClock, () => nowMs)
  const config = offer(accounts, keys)
  const directory = await StoredKeyDirectory.open(records, config, clock)
  const changes = new AccountChanges(records, directory, clock, systemRandom)
  const due: DueReservation[] = []
  const reserved = { now: 0 }
  const made = new MadeAccounts({
    records, due: async () => due, balances: async (_home, checks) => checks.map(() => ({ used: 0, reserved: reserved.now, room: null })),
  }, directory, changes, clock)
  return {
    records, directory, changes, made, due, reserved, config, subscriptions: new SubscriptionChanges(records, directory, changes, clock), set: (ms) => { nowMs = ms },
    async use(next) {
      await made.notePlans(next)
      directory.use(await directory.prepare(next, clock))
    },
  }
}

async function refused(t: Test, promise: Promise<unknown>, why: ChangeRefused['why'], message: RegExp): Promise<void> {
  await t.rejects(promise, { name: 'ChangeRefused', why, message })
}

t.test('an account is made, its key opens at once, and its limits, labels, parents and plan act as those of the file do', async (t) => {
  const { made, changes, directory } = await open()
  t.match(await made.set('team', { parent: 'acme', labels: { team: 'ml' }, limits: [rpm, { name: 'pts', meter: 'points', limit: '10k', window: 'month' }], entitlements: { models: ['small-*'] }, add_ons: ['more'] }, ops), { revision: 1, created_by: 'ops' })
  const { secret } = await changes.createKey({ id: 'dev', account: 'team', plan: null, expiresMs: null }, 'ops')
  const found = directory.find(secret, Date.parse('2027-04-10T12:00:00Z'))
  if (found.outcome !== 'found') throw new Error(found.outcome)
  const { principal } = found
  t.same(principal.chain.map(({ id }) => id), ['team', 'acme'])
  t.equal(principal.home, 'acme')
  t.equal(principal.plan.name, 'free')
  t.same(principal.labels, { team: 'ml' })
  const ask = { endpoint: 'chat', endpointByDefault: true, known: true, model: 'small-1', features: [], endUser: null }
  const entitlement = resolveEntitlement(principal, ask, directory.config.plans)
  if (!('applied' in entitlement)) throw entitlement
  t.same(entitlement.applied.map(({ limit, scope }) => `${scope.id} ${limit.name} ${String(limit.ceiling)}`), [
    'account:team monthly 1000000', 'account:team rpm 60', 'account:team pts 10000', 'account:acme monthly 1000000',
  ])
  t.match(resolveEntitlement(principal, { ...ask, model: 'large' }, directory.config.plans), { code: 'feature_unavailable' })
  t.match(listAccounts(directory, 0).find(({ id }) => id === 'team'), { where: 'store', revision: 1, parent: 'acme', plan: 'free', keys: 1, add_ons: ['more'], unused_because: null })

  // What is not given stays; a change acts at once.
  await made.set('team', { limits: [{ ...rpm, limit: 5 }] }, ops)
  const after = directory.principalOf('dev', 0)
  t.same(after?.account.limits.map(({ name, ceiling }) => [name, ceiling]), [['monthly', 1_000_000], ['rpm', 5]])
  t.same(after?.labels, { team: 'ml' })
})

t.test('another replica follows, and so does a restart', async (t) => {
  const { made, records, changes } = await open()
  const replica = await open([account('acme')], [], records)
  await made.set('globex', { plan: 'pro' }, ops)
  const { secret } = await changes.createKey({ id: 'g', account: 'globex', plan: null, expiresMs: null }, 'ops')
  t.equal(replica.directory.find(secret, 0).outcome, 'found')
  await refused(t, replica.made.set('globex', {}, { ...ops, revision: 0 }), 'conflict', /already an account "globex" \(store, revision 1\)/)
  await made.set('planless', {}, ops)
  await refused(t, changes.createKey({ id: 'h', account: 'planless', plan: null, expiresMs: null }, 'ops'), 'conflict', /has no plan, and no account above it/)
  const restarted = await open([account('acme')], [], records)
  t.match(restarted.directory.principalOf('g', 0), { account: { id: 'globex', planHistory: [{ plan: 'pro', version: 2 }] } })
})

t.test('revisions and change ids: nobody writes over what he has not seen, and nothing is done twice', async (t) => {
  const { made, records } = await open()
  t.equal((await made.set('a', { plan: 'free' }, { ...ops, revision: 0, changeId: 'signup-1' })).revision, 1)
  t.equal((await made.set('a', { plan: 'free' }, { ...ops, revision: 0, changeId: 'signup-1' })).revision, 1, 'the same change again')
  t.equal((await made.set('a', { plan: 'free' }, ops)).revision, 1, 'nothing to change')
  t.equal((await made.set('a', { plan: 'pro' }, { ...ops, revision: 1 })).revision, 2)
  await refused(t, made.set('a', { plan: 'free' }, { ...ops, revision: 1 }), 'conflict', /is at revision 2, not 1/)
  await refused(t, made.set('b', {}, { ...ops, revision: 3 }), 'conflict', /there is no account "b"/)
  await refused(t, made.set('a', {}, { ...ops, changeId: 'with spaces' }), 'invalid', /change id/)
  t.same((await records.list(recordKinds.audit)).map(({ value }) => [value['who'], value['action'], value['target']]), [['ops', 'account.set', 'a'], ['ops', 'account.set', 'a']])
  const both = await Promise.allSettled([made.set('c', { plan: 'free' }, { ...ops, revision: 0 }), made.set('c', { plan: 'pro' }, { ...ops, revision: 0 })])
  t.same(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'], 'one of two wins')
})

t.test('what the config’s rules refuse is refused with their sentences, and nothing of the machine is put in', async (t) => {
  const { made, directory } = await open()
  const cases: readonly (readonly [Parameters<MadeAccounts['set']>[1], ChangeRefused['why'], RegExp])[] = [
    [{ plan: 'gold' }, 'not_found', /no plan "gold"/],
    [{ parent: 'nobody' }, 'not_found', /no account "nobody"/],
    [{ add_ons: ['none-such'] }, 'not_found', /no add-on/],
    [{ limits: [{ name: 'x', meter: 'request', limit: 1, window: '1m' }] }, 'invalid', /limits\[0\]\.meter: there is no meter "request"; did you mean "requests"/],
    [{ limits: [{ name: 'x', meter: 'requests', limit: 1 }] }, 'invalid', /limits\[0\].*is missing/],
    [{ limits: [rpm, rpm] }, 'invalid', /two limits named rpm/],
    [{ limits: [{ name: 'spend', meter: 'cost', limit: 5, window: 'month' }], plan: 'free' }, 'invalid', /"spend" of the account "bad" limits cost, but the plan "free" has no prices/],
    [{ labels: { '0bad': 'x' } }, 'invalid', /label/],
    [{ timezone: 'Mars/Olympus' }, 'invalid', /time zone/],
    [{ anchor: '2027-02-30' }, 'invalid', /billing\.anchor/],
    [{ entitlements: { features: ['magic'] } }, 'invalid', /entitlements\.features/],
    [{ labels: { at: '${file:/etc/passwd}' }, limits: [{ ...rpm as object, limit: '${HOME}' }] }, 'invalid', /limits\[0\]\.limit: .*has to be an amount/],
  ]
  for (const [wishes, why, message] of cases) await refused(t, made.set('bad', wishes, ops), why, message)
  await refused(t, made.set('-bad', {}, ops), 'invalid', /an id is/)
  t.notOk(directory.accounts.has('bad'))
  t.equal((await made.set('odd', { labels: { at: '${HOME}' } }, ops)).terms.labels['at'], '${HOME}')
})

t.test('accounts are not under each other in a circle, nor too deep, nor is an account the namesake of a key that is its own', async (t) => {
  const { made, changes } = await open()
  await made.set('a', { parent: 'acme' }, ops)
  await made.set('b', { parent: 'a' }, ops)
  await made.set('c', { parent: 'b' }, ops)
  await refused(t, made.set('d', { parent: 'c' }, ops), 'invalid', /5 levels deep/)
  await refused(t, made.set('a', { parent: 'c' }, ops), 'invalid', /circle/)
  await refused(t, made.set('a', { parent: 'a' }, ops), 'invalid', /circle/)
  await changes.createKey({ id: 'bot', account: null, plan: 'free', expiresMs: null }, 'ops')
  await refused(t, made.set('bot', {}, ops), 'conflict', /its own account/)
  await refused(t, changes.createKey({ id: 'a', account: null, plan: 'free', expiresMs: null }, 'ops'), 'conflict', /"a" is an account/)
})

t.test('an account that has keys does not move under another root, where its counters would begin anew', async (t) => {
  const { made, changes } = await open([account('acme'), account('globex'), account('team', { parent: 'acme' })])
  await made.set('x', { parent: 'acme' }, ops)
  await made.set('x', { parent: 'globex' }, ops)
  await made.set('y', { parent: 'x' }, ops)
  await changes.createKey({ id: 'k', account: 'y', plan: null, expiresMs: null }, 'ops')
  await refused(t, made.set('x', { parent: 'acme' }, ops), 'conflict', /under "globex", where its counters lie.*key "k"/)
  await refused(t, made.set('y', { parent: null }, ops), 'conflict', /cannot move under "y"/)
  t.equal((await made.set('y', { parent: 'globex' }, ops)).terms.parent, 'globex', 'within the same tree it may')
})

t.test('an account of the file is changed there; one that appears in the file hides the one of the store, and nothing is lost when it goes again', async (t) => {
  const { made, directory, use, config, changes } = await open([account('acme', { where: 'tallygate.yaml:9' })])
  await refused(t, made.set('acme', { plan: 'pro' }, ops), 'conflict', /stands in tallygate\.yaml:9/)
  await refused(t, made.remove('acme', ops), 'conflict', /stands in tallygate\.yaml:9/)
  await made.set('later', { plan: 'pro' }, ops)
  await changes.createKey({ id: 'k', account: 'later', plan: null, expiresMs: null }, 'ops')
  const filed = new Map([...config.accounts, ['later', account('later', { plan: 'free', where: 'tallygate.yaml:30' })]])
  await use({ ...config, accounts: filed })
  t.equal(directory.principalOf('k', 0)?.plan.name, 'free')
  await refused(t, made.set('later', { plan: 'pro' }, ops), 'conflict', /stands in tallygate\.yaml:30/)
  t.match(listAccounts(directory, 0).filter(({ id }) => id === 'later'), [
    { where: 'tallygate.yaml:30', revision: null, unused_because: null }, { where: 'store', revision: 1, plan: 'pro', unused_because: /tallygate\.yaml:30 has this name, and wins/ },
  ])
  await use(config)
  t.equal(directory.principalOf('k', 0)?.plan.name, 'pro')
})

t.test('an account whose terms cannot be read any more serves nobody, and says why', async (t) => {
  const { made, directory, changes, use, config } = await open()
  await made.set('x', { plan: 'free', limits: [{ name: 'pts', meter: 'points', limit: 5, window: 'day' }] }, ops)
  const { secret } = await changes.createKey({ id: 'k', account: 'x', plan: null, expiresMs: null }, 'ops')
  await use({ ...config, meters: new Map() })
  t.equal(directory.find(secret, 0).outcome, 'unknown')
  t.match(listAccounts(directory, 0).find(({ id }) => id === 'x'), { unused_because: /no meter "points"/ })
  await use(config)
  t.equal(directory.find(secret, 0).outcome, 'found')
})

t.test('a changed calendar acts at the next boundary, and plans are remembered with their versions', async (t) => {
  const { made, directory, set, use, config, records } = await open()
  await made.set('x', { plan: 'free', timezone: 'UTC', anchor: '2027-01-15' }, ops)
  const changedMs = Date.parse('2027-04-20T00:00:00Z')
  set(changedMs)
  await made.set('x', { anchor: '2027-01-01', plan: 'pro' }, ops)
  t.match(directory.accounts.get('x'), {
    calendar: { timeZone: 'UTC', anchor: '2027-01-01', before: { timeZone: 'UTC', anchor: '2027-01-15', changedMs } },
    planHistory: [{ plan: 'free', version: 1, fromMs: 0 }, { plan: 'pro', version: 2, fromMs: changedMs }],
  })
  set(changedMs + day)
  const pro = config.plans.get('pro')
  if (pro === undefined) throw new Error('no plan')
  const next: Config = { ...config, plans: new Map([...config.plans, ['pro', { ...pro, version: 3 }]]) }
  await use(next)
  t.match(directory.accounts.get('x')?.planHistory.at(-1), { plan: 'pro', version: 3, fromMs: changedMs + day })
  const filed: Config = { ...config, accounts: new Map([['x', account('x', { plan: 'pro', calendar: { timeZone: 'UTC', anchor: '2027-01-01' } })]]) }
  t.match((await withCalendars(filed, records, changedMs + 2 * day)).accounts.get('x'), { calendar: { before: { anchor: '2027-01-15' } }, planHistory: [{ plan: 'free' }, { plan: 'pro' }] }, 'the file goes on with it')
})

t.test('an account is taken away once nobody can call under it and nothing is pending', async (t) => {
  const { made, changes, directory, subscriptions, due, reserved, records } = await open()
  await made.set('x', { plan: 'free' }, ops)
  await made.set('y', { parent: 'x' }, ops)
  await changes.createKey({ id: 'k', account: 'y', plan: null, expiresMs: null }, 'ops')
  await subscriptions.set('x', { seats: 3, renewal: 'none', term: { unit: 'year', count: 1 } }, ops)
  await refused(t, made.remove('x', ops), 'conflict', /"y" is under "x"/)
  await refused(t, made.remove('y', ops), 'conflict', /key "k" belongs to "y"; revoke it first/)
  await changes.revokeKey('k', null, 'ops')
  reserved.now = 1
  await refused(t, made.remove('y', ops), 'conflict', /still running/)
  reserved.now = 0
  await refused(t, made.remove('y', { ...ops, revision: 7 }), 'conflict', /revision 1, not 7/)
  t.equal(await made.remove('y', { ...ops, revision: 1 }), true)
  t.equal(await made.remove('y', ops), false)
  await refused(t, made.remove('x', ops), 'conflict', /has a subscription/)
  await subscriptions.remove('x', ops)
  due.push({ id: 'r', home: 'x', checkpoint: 0, deadlineMs: 9e12 })
  await refused(t, made.remove('x', ops), 'conflict', /still running/)
  due.pop()
  t.equal(await made.remove('x', ops), true)
  t.notOk(directory.accounts.has('x'))
  t.same((await records.list(recordKinds.audit)).map(({ value }) => value['action']).filter((action) => action === 'account.remove'), ['account.remove', 'account.remove'])
})

t.test('a store that is copied knows the root of accounts made at run time, whatever the order of documents', async (t) => {
  const { made, changes, records, config } = await open()
  await made.set('x', { parent: 'acme' }, ops)
  await changes.createKey({ id: 'k', account: 'x', plan: null, expiresMs: null }, 'ops')
  for (const kinds of [[recordKinds.key, recordKinds.account], [recordKinds.account, recordKinds.key]]) {
    const homes = new AccountHomes(config)
    for (const kind of kinds) for (const { id, value } of await records.list(kind)) homes.learn({ kind, id, value })
    t.equal(homes.ofAccount('x'), 'acme')
    t.equal(homes.ofCounter('account:x|requests||day|0'), 'acme')
    t.equal(homes.ofCounter('key:k|requests||day|0'), 'acme')
    t.equal(homes.ofCounter('end_user:k/u1|requests||day|0'), 'acme')
  }
})

t.test('the same change makes no second key, also at two replicas at once; its secret is not told again', async (t) => {
  const { made, changes, directory, records } = await open()
  const replica = await open([account('acme')], [], records)
  const wanted = { id: undefined, account: 'acme', plan: null, expiresMs: null, changeId: 'order-7' }
  const both = await Promise.all([changes.createKey(wanted, 'ops'), replica.changes.createKey(wanted, 'ops')])
  t.equal(both[0].id, both[1].id)
  t.same(both.map(({ secret }) => typeof secret).sort(), ['object', 'string'])
  t.same(await changes.createKey(wanted, 'ops'), { id: both[0].id, secret: null })
  t.equal(directory.storedKeys.size, 1)
  await refused(t, changes.createKey({ ...wanted, id: 'other' }, 'ops'), 'conflict', /change "order-7" was another one/)
  await made.set('globex', { plan: 'free' }, ops)
  await refused(t, changes.createKey({ ...wanted, account: 'globex' }, 'ops'), 'conflict', /another one/)
  t.type((await changes.createKey({ ...wanted, changeId: 'order-8' }, 'ops')).secret, 'string')
  const rotated = await changes.rotateKey(both[0].id, 1_000, 'ops', 'rotate-1')
  t.type(rotated.secret, 'string')
  t.same(await changes.rotateKey(both[0].id, 1_000, 'ops', 'rotate-1'), { id: both[0].id, secret: null, graceUntilMs: rotated.graceUntilMs })
})

