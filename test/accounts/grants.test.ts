import t from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import type { ChangeRefused } from '../../src/accounts/account-changes.ts'
import { recordKinds } from '../../src/accounts/account-records.ts'
import { GrantChanges, listGrants } from '../../src/accounts/grants.ts'
import type { NewGrant } from '../../src/accounts/grants.ts'
import { AccountHomes } from '../../src/accounts/homes.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { hashOfSecret, newSecret } from '../../src/accounts/secret.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Account, AddOn, Config, Plan } from '../../src/config/config.ts'
import { resolveEntitlement } from '../../src/metering/entitlement.ts'
import type { GrantTerms } from '../../src/metering/recurring-grant.ts'
import { systemRandom } from '../../src/random.ts'
import { subscriptionOf } from '../../src/metering/subscription.ts'
import { limitOf } from '../metering/people.ts'
import { FakeRecords, account, configOf, key, plan } from './fixture.ts'

const at = (text: string): number => Date.parse(text)
const secret = newSecret(systemRandom)
const own = newSecret(systemRandom)
const terms = (id: string, more: Partial<GrantTerms> = {}): GrantTerms => ({
  id, limit: 'monthly', meter: 'total_tokens', amount: 100, priority: 100, effectiveMs: null, expiresMs: null, source: 'plan', note: null, every: null, lastsMs: null, where: 'tallygate.yaml:9', ...more,
})
const free: Plan = { ...plan('free'), limits: [limitOf('monthly total_tokens 1k month'), limitOf('spare total_tokens 2k month'), limitOf('rpm requests 5 1m')], grants: [terms('included', { every: 'month' })] }
const pro: Plan = { ...plan('pro'), limits: [limitOf('monthly total_tokens 4k month')], grants: [terms('included', { every: 'month', amount: 400 }), terms('welcome')] }
const pack: AddOn = { name: 'pack', additions: [], limits: [], entitlements: {}, grants: [terms('more', { source: 'purchase', amount: 50 })] }
const wish = (more: Partial<NewGrant> = {}): NewGrant => ({ account: 'acme', id: 'g', limit: 'monthly', amount: 10, priority: undefined, effectiveMs: undefined, expiresMs: null, source: 'operator', note: null, ...more })

async function open(accounts: readonly Account[], records = new FakeRecords()) {
  let nowMs = at('2026-11-22T10:00:00Z')
  const clock = withTime(systemClock, () => nowMs)
  const config: Config = {
    ...configOf([key('dev', hashOfSecret(secret)), key('solo', hashOfSecret(own), { account: null, plan: 'free' })], accounts), plans: new Map([['free', free], ['pro', pro]]), addOns: new Map([['pack', pack]]),
  }
  const directory = await StoredKeyDirectory.open(records, config, clock)
  const changes = new AccountChanges(records, directory, clock, systemRandom)
  return {
    records, directory, changes, config, grants: new GrantChanges({ records, balances: async (_home, checks) => checks.map(() => ({ used: 3, reserved: 0, room: 0 })) }, directory, changes, clock, systemRandom),
    set: (text: string) => { nowMs = at(text) },
    /** Grants of each limit that a call would be checked against. */
    drawn(atMs = nowMs, of = secret): Record<string, readonly string[]> {
      const found = directory.find(of, atMs)
      if (found.outcome !== 'found') throw new Error(found.outcome)
      const entitlement = resolveEntitlement(found.principal, { endpoint: 'chat', known: true, endpointByDefault: true, model: 'm', features: [], endUser: null }, config.plans)
      if (entitlement instanceof Error) throw entitlement
      return Object.fromEntries(entitlement.applied.filter(({ grants }) => grants !== undefined).map(({ limit, scope, grants }) => [scope.id === 'account:acme' ? limit.name : `${scope.id}/${limit.name}`, (grants ?? []).map(({ id }) => id)]))
    },
  }
}

async function rejects(t: { match(found: unknown, wanted: unknown, message: string): unknown }, change: Promise<unknown>, why: string, message: RegExp): Promise<void> {
  const error = await change.then(() => undefined, (thrown: unknown) => thrown as ChangeRefused)
  t.match(error, { why, message }, String(message))
}

t.test('plans, add-ons and accounts give grants; what was bought twice is there twice, and the account’s own stands in place of the plan’s', async (t) => {
  const w = await open([account('acme', { addOns: ['pack', 'pack'], grants: [terms('extra', { source: 'operator' })] })])
  t.same(w.drawn(), { monthly: ['included@2026-11-01T00:00:00Z', 'pack/more', 'pack/more/2', 'extra'] })
  t.same(w.drawn(at('2026-12-01')), { monthly: ['included@2026-12-01T00:00:00Z', 'pack/more', 'pack/more/2', 'extra'] }, 'a new one at the instant at which the month begins')
  t.same(w.drawn(at('2026-12-01') - 1), { monthly: ['included@2026-11-01T00:00:00Z', 'pack/more', 'pack/more/2', 'extra'] })
  t.same(w.drawn(undefined, own), { 'account:solo/monthly': ['included@2026-11-01T00:00:00Z'] }, 'a key that is its own account')
  const instead = await open([account('acme', { grants: [terms('included', { amount: 7 })] })])
  t.same(listGrants(instead.directory, 'acme', at('2026-11-22')).map(({ id, amount, state, where }) => [id, amount, state, where]), [['included', 7, 'active', 'file']])
})

t.test('another plan gives its own, under the same id the same counter: what was used stays used', async (t) => {
  const made = subscriptionOf({
    kind: 'perpetual', startMs: 0, trialEndMs: null, endMs: null, graceMs: 0, renewal: null, term: null, timeZone: 'UTC', suspended: null, seats: null, addOns: [], where: 'x',
    plans: [{ plan: 'pro', version: 1, fromMs: at('2026-11-16'), proration: 'none' }],
  })
  if (typeof made === 'string') throw new Error(made)
  const w = await open([account('acme', { subscription: made })])
  t.same(w.drawn(at('2026-11-15')), { monthly: ['included@2026-11-01T00:00:00Z'] })
  t.same(w.drawn(at('2026-11-16')), { monthly: ['included@2026-11-01T00:00:00Z', 'welcome'] })
})

t.test('a stored grant reaches calls at once, and no others; a parent’s extends the parent’s limits', async (t) => {
  const group = account('group', { plan: null, limits: [limitOf('pool total_tokens 5k month')] })
  const w = await open([account('acme', { parent: 'group' }), group])
  const before = w.directory.find(secret, at('2026-11-22'))
  await w.grants.add(wish({ account: 'solo', id: 'other' }), 'ops')
  t.equal(w.directory.find(secret, at('2026-11-22')).outcome === 'found' && before.outcome === 'found' && before.principal === (w.directory.find(secret, at('2026-11-22')) as typeof before).principal, true, 'nothing is built anew for another account’s grant')
  await w.grants.add(wish(), 'ops')
  await w.grants.add(wish({ account: 'group', limit: 'pool', id: 'spare' }), 'ops')
  t.same(w.drawn(), { monthly: ['included@2026-11-01T00:00:00Z', 'g'], 'account:group/pool': ['spare'] })
  const elsewhere = await open([account('acme', { parent: 'group' }), group], w.records)
  t.same(elsewhere.drawn(), w.drawn(), 'another replica reads the same')
  await elsewhere.grants.revoke('acme', 'g', null, 'ops')
  t.same(w.drawn(), { monthly: ['included@2026-11-01T00:00:00Z'], 'account:group/pool': ['spare'] })
})

t.test('a grant is given once however often it is asked for; another one under its id is refused; everything is journaled', async (t) => {
  const w = await open([account('acme')])
  const first = await w.grants.add(wish({ note: 'sorry' }), 'ops')
  t.match(first, { id: 'g', amount: 10, meter: 'total_tokens', effectiveMs: at('2026-11-22T10:00:00Z'), used: 3, state: 'active', createdBy: 'ops' })
  w.set('2026-11-23T10:00:00Z')
  t.match(await w.grants.add(wish({ note: 'sorry' }), 'someone else'), { effectiveMs: first.effectiveMs, createdBy: 'ops' })
  for (const more of [{ amount: 11 }, { note: null }, { priority: 5 }, { expiresMs: at('2027-01-01') }, { source: 'purchase' as const }, { effectiveMs: at('2026-11-23') }]) {
    await rejects(t, w.grants.add(wish({ note: 'sorry', ...more }), 'ops'), 'conflict', /there is another grant "g" of "acme" already/)
  }
  t.equal((await w.records.list(recordKinds.grant)).length, 1)
  t.same((await w.changes.audit(10)).map(({ who, action, target }) => `${who} ${action} ${target}`), ['ops grant.add acme/g'])
})

t.test('two that give the same id at once give one', async (t) => {
  const w = await open([account('acme')])
  const both = await Promise.allSettled([w.grants.add(wish(), 'one'), w.grants.add(wish({ amount: 12 }), 'two')])
  t.same(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  t.equal((await w.records.list(recordKinds.grant)).length, 1)
})

t.test('one of the file is not changed here, but taken back; of one that recurs a single one, or all that would come', async (t) => {
  const w = await open([account('acme')])
  await rejects(t, w.grants.add(wish({ id: 'included' }), 'ops'), 'conflict', /stands in a file: it is changed there; `grants revoke` works all the same/)
  await w.grants.revoke('acme', 'included@2026-11-01T00:00:00Z', 'used for another', 'ops')
  t.same(w.drawn(), { monthly: [] }, 'its counters are known still')
  t.same(w.drawn(at('2026-12-05')), { monthly: ['included@2026-12-01T00:00:00Z'] })
  const once = await w.grants.revoke('acme', 'included', null, 'ops')
  w.set('2026-12-05T00:00:00Z')
  t.same(await w.grants.revoke('acme', 'included', null, 'ops'), once, 'again it changes nothing')
  t.same(w.drawn(at('2026-12-05')), { monthly: [] })
  await rejects(t, w.grants.revoke('acme', 'nothing', null, 'ops'), 'not_found', /has no grant "nothing"/)
  t.match(listGrants(w.directory, 'acme', at('2026-12-05')), [{ id: 'included@2026-12-01T00:00:00Z', state: 'revoked' }])
})

t.test('what cannot be drawn is refused with a sentence', async (t) => {
  const w = await open([account('acme'), account('bare', { plan: null })])
  await rejects(t, w.grants.add(wish({ limit: 'rpm' }), 'ops'), 'invalid', /rpm is no allowance/)
  await rejects(t, w.grants.add(wish({ limit: 'none' }), 'ops'), 'not_found', /has no limit "none"; it has monthly, spare, rpm/)
  await rejects(t, w.grants.add(wish({ account: 'bare' }), 'ops'), 'not_found', /it has none/)
  await rejects(t, w.grants.add(wish({ account: 'nobody' }), 'ops'), 'not_found', /there is no account/)
  await rejects(t, w.grants.add(wish({ limit: 'spare' }), 'ops'), 'conflict', /spare and monthly share their counter/)
  await rejects(t, w.grants.add(wish({ amount: 0 }), 'ops'), 'invalid', /nothing/)
  await rejects(t, w.grants.add(wish({ amount: Number.MAX_SAFE_INTEGER - 500 }), 'ops'), 'invalid', /counted exactly/)
  await rejects(t, w.grants.add(wish({ expiresMs: at('2026-11-01') }), 'ops'), 'invalid', /expires before it is effective/)
  await rejects(t, w.grants.add(wish({ effectiveMs: at('2026-01-01'), expiresMs: at('2026-11-01') }), 'ops'), 'invalid', /would already have expired/)
  await rejects(t, w.grants.add(wish({ id: 'a@b' }), 'ops'), 'invalid', /an id is/)
  await rejects(t, w.grants.add(wish({ id: 'monthly', limit: 'monthly' }), 'ops'), 'invalid', /the id is the name of its limit/)
  t.equal((await w.records.list(recordKinds.grant)).length, 0)
})

t.test('a grant that cannot be read gives nothing, and one whose limit is gone is kept and unused', async (t) => {
  const w = await open([account('acme')])
  await w.records.put(recordKinds.grant, 'acme/broken', { limit: 'monthly', meter: 'total_tokens', amount: 'much' })
  await w.grants.add(wish({ id: 'kept' }), 'ops')
  await w.records.put(recordKinds.grant, 'acme/other-meter', { ...(await w.records.get(recordKinds.grant, 'acme/kept')), meter: 'requests' })
  t.same(w.drawn(), { monthly: ['included@2026-11-01T00:00:00Z', 'kept'] })
  t.same(listGrants(w.directory, 'acme', at('2026-11-23')).map(({ id, state }) => [id, state]), [['included@2026-11-01T00:00:00Z', 'active'], ['kept', 'active'], ['other-meter', 'unused']])
})

t.test('the counter of a grant is kept where its account’s are', async (t) => {
  const w = await open([account('acme', { parent: 'group' }), account('group')])
  const homes = new AccountHomes(w.config)
  t.same(['grant|acme|g', 'grant|acme|pack%2Fmore', 'grant|solo|g', 'grant|gone|g'].map((name) => homes.ofCounter(name)), ['group', 'group', 'solo', 'gone'])
})
