// What periods and grants leave, on a clock that the test moves, with two replicas that both look.

import t from 'tap'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import { documentsOf, recordKinds } from '../../src/accounts/account-records.ts'
import { GrantChanges, listGrants, listBreakage } from '../../src/accounts/grants.ts'
import type { Breakage } from '../../src/accounts/grants.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { PeriodEnds } from '../../src/accounts/period-ends.ts'
import { hashOfSecret, newSecret } from '../../src/accounts/secret.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Account, Config, Plan } from '../../src/config/config.ts'
import { resolveEntitlement } from '../../src/metering/entitlement.ts'
import { exchangeId } from '../../src/metering/id.ts'
import { draftReservation } from '../../src/metering/reservation.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { limitOf } from '../metering/people.ts'
import { skeleton, eventBody } from '../stores/sample-moves.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { account, configOf, key, plan } from './fixture.ts'

const minute = 60_000
const hour = 3_600_000
const day = 86_400_000
const at = (text: string): number => Date.parse(text)
const secret = newSecret(systemRandom)
const forgetAfterMs = 90 * minute

interface World {
  readonly store: Store
  readonly directory: StoredKeyDirectory
  readonly grants: GrantChanges
  /** What was recorded as left, in the order in which it expired. */
  broken(): Promise<readonly Breakage[]>
  set(text: string | number): void
  now(): number
  /** Both replicas look. */
  look(): Promise<void>
  /** A call of so many tokens, admitted at an instant; it stays open when nothing is used yet. */
  call(tokens: number, options?: { admittedMs?: number; open?: true }): Promise<{ outcome: string; settle(used: number): Promise<unknown> }>
  use(plans: readonly Plan[], accounts?: readonly Account[]): Promise<void>
  /** Another process, on the same books. */
  restart(): Promise<void>
  amounts(): Record<string, number>
}

async function open(t: Teardown, startsAt: string, plans: readonly Plan[], accounts: readonly Account[] = [account('acme')]): Promise<World> {
  let nowMs = at(startsAt)
  const clock = withTime(systemClock, () => nowMs)
  const store = await openMemory({ clock, forgetAfterMs, hotMs: day })
  t.teardown(() => store.close())
  const toConfig = (these: readonly Plan[], of: readonly Account[]): Config => ({ ...configOf([key('dev', hashOfSecret(secret), { account: of[0]!.id })], of), plans: new Map(these.map((each) => [each.name, each])), addOns: new Map() })
  let current = toConfig(plans, accounts)
  let replicas: { directory: StoredKeyDirectory; ends: PeriodEnds }[] = []
  const start = async (): Promise<void> => {
    for (const { directory } of replicas) directory.close()
    replicas = await Promise.all([1, 2].map(async () => {
      const directory = await StoredKeyDirectory.open(store.records, current, clock)
      return { directory, ends: new PeriodEnds({ store, directory, clock, forgetAfterMs, failed: (error) => { throw error } }) }
    }))
  }
  await start()
  const directory = (): StoredKeyDirectory => replicas[0]!.directory
  const changes = new AccountChanges(store.records, directory(), clock, systemRandom)
  const world: World = {
    store, broken: () => listBreakage(store.records, null), get directory() { return directory() }, grants: new GrantChanges(store, directory(), changes, clock, systemRandom),
    set: (text) => { nowMs = typeof text === 'number' ? text : at(text) }, now: () => nowMs,
    look: async () => { await Promise.all(replicas.map(({ ends }) => ends.look())) },
    restart: start,
    async use(these, of = accounts) {
      current = toConfig(these, of)
      for (const each of replicas) each.directory.use(await each.directory.prepare(current, clock))
    },
    async call(tokens, { admittedMs = nowMs, open: stays } = {}) {
      const found = directory().find(secret, admittedMs)
      if (found.outcome !== 'found') throw new Error(found.outcome)
      const entitlement = resolveEntitlement(found.principal, { endpoint: 'chat', known: true, endpointByDefault: true, model: 'llama', features: [], endUser: null }, current.plans, admittedMs)
      if (entitlement instanceof Error) throw entitlement
      const draft = draftReservation(entitlement, { fixed: { total_tokens: tokens, requests: 1 }, perUnit: {} }, { uMin: 0, uMax: 0 }, admittedMs)
      if (draft instanceof Error) return { outcome: draft.code, settle: () => Promise.resolve() }
      const move = { id: exchangeId(admittedMs, systemRandom.bytes(10)), nowMs: admittedMs, home: found.principal.home, checks: draft.checks }
      const { outcome } = await store.reserve({ ...move, uMin: 0, uMax: 0, deadlineMs: admittedMs + hour, skeleton })
      const settle = (used: number): Promise<unknown> => store.settle({ ...move, nowMs, amounts: draft.checks.map(() => used), usage: { total_tokens: used }, event: eventBody })
      if (outcome === 'admitted' && stays !== true) await settle(tokens)
      return { outcome, settle }
    },
    amounts: () => Object.fromEntries(listGrants(directory(), 'acme', nowMs).filter(({ where }) => where === 'store').map(({ id, amount }) => [id, amount])),
  }
  return world
}

const rolling = (text: string, more: object): Plan => ({ ...plan('free'), limits: [{ ...limitOf(text), rollover: { max: { kind: 'absolute', amount: 300 }, lasts: { kind: 'periods', count: 1 } }, ...more }] })

t.test('what a period leaves goes on as a grant, up to its cap, for one period; every replica looks, and it is made once', async (t) => {
  const w = await open(t, '2026-10-31T23:50:00Z', [rolling('daily total_tokens 1000 day', {})])
  await w.look()
  await w.call(800)
  w.set('2026-11-01T00:00:30Z')
  await w.look()
  t.same(w.amounts(), { 'rollover-daily-2026-10-31T00:00:00Z': 200 })
  t.match(listGrants(w.directory, 'acme', w.now()), [{ state: 'active', source: 'rollover', effectiveMs: at('2026-11-01'), expiresMs: at('2026-11-02'), amount: 200 }])
  t.equal((await w.call(1_150)).outcome, 'admitted', 'the allowance and what is carried over')
  t.equal((await w.call(60)).outcome, 'denied')
  w.set('2026-11-02T00:00:30Z')
  await w.look()
  t.same(Object.keys(w.amounts()).length, 1, 'nothing was left of the allowance; what is left of the rollover does not go on')
  await w.call(100)
  w.set('2026-11-03T00:01:00Z')
  await w.look()
  t.equal(w.amounts()['rollover-daily-2026-11-02T00:00:00Z'], 300, 'capped')
})

t.test('it waits until nothing is pending, follows late settlements downward, never up, and is final when none can come any more', async (t) => {
  const w = await open(t, '2026-10-31T23:50:00Z', [rolling('daily total_tokens 1000 day', { rollover: { max: { kind: 'percentage', percent: 100 }, lasts: null } })])
  await w.look()
  const open1 = await w.call(400, { open: true })
  const id = 'rollover-daily-2026-10-31T00:00:00Z'
  w.set('2026-11-01T00:01:00Z')
  await w.look()
  t.same(w.amounts(), {}, 'a call of the period is open')
  await open1.settle(100)
  // Admitted before the end, and only asked for now: its body took long.
  const late = await w.call(250, { admittedMs: at('2026-10-31T23:59:59Z'), open: true })
  t.equal(late.outcome, 'admitted')
  await late.settle(50)
  w.set('2026-11-01T00:02:00Z')
  await w.look()
  t.equal(w.amounts()[id], 850)
  await w.call(200, { admittedMs: at('2026-10-31T23:59:58Z') })
  w.set('2026-11-01T00:20:00Z')
  await w.look()
  t.equal(w.amounts()[id], 650, 'downward')
  // The plan's ceiling is raised: what is over is over.
  await w.use([rolling('daily total_tokens 5000 day', { rollover: { max: { kind: 'percentage', percent: 100 }, lasts: null } })])
  w.set('2026-11-01T00:40:00Z')
  await w.look()
  t.equal(w.amounts()[id], 650)
  w.set('2026-11-01T01:31:00Z')
  await w.look()
  const ending = await w.store.records.get(recordKinds.ending, 'acme')
  t.equal(documentsOf(ending?.['periods']).length, 1, 'only the running period is left')
  t.match(ending, { periods: [{ start_ms: at('2026-11-01'), ceiling: 5_000, first: false }] })
})

t.test('a restart, or looking twice, makes nothing twice; terms of the file that change afterwards change nothing', async (t) => {
  const plans = [rolling('daily total_tokens 1000 day', {})]
  const w = await open(t, '2026-11-01T10:00:00Z', plans)
  await w.look()
  await w.call(900)
  w.set('2026-11-02T00:03:00Z')
  await w.look()
  await w.restart()
  await w.look()
  w.set('2026-11-02T03:00:00Z')
  await w.restart()
  await w.use([{ ...plan('free'), limits: [{ ...limitOf('daily total_tokens 9000 day') }] }])
  await w.look()
  await w.look()
  t.same(w.amounts(), { 'rollover-daily-2026-11-01T00:00:00Z': 100 })
  t.equal(await w.store.records.get(recordKinds.ending, 'acme'), undefined, 'nothing rolls over any more')
})

t.test('a period that ended while no gateway ran is rolled over by the terms that were last seen, and so are those that passed whole', async (t) => {
  const w = await open(t, '2026-11-01T10:00:00Z', [rolling('daily total_tokens 1000 day', { rollover: { max: { kind: 'absolute', amount: 600 }, lasts: { kind: 'periods', count: 2 } } })])
  await w.look()
  w.set('2026-11-02T10:00:00Z')
  await w.look()
  await w.call(700)
  w.set('2026-11-04T10:00:00Z')
  await w.restart()
  await w.use([rolling('daily total_tokens 50 day', { rollover: { max: { kind: 'absolute', amount: 600 }, lasts: { kind: 'periods', count: 2 } } })])
  await w.look()
  t.same(w.amounts(), {
    'rollover-daily-2026-11-02T00:00:00Z': 300, 'rollover-daily-2026-11-03T00:00:00Z': 50,
  })
  t.same(listGrants(w.directory, 'acme', w.now()).map(({ id, state }) => [id.slice(-20), state]), [['2026-11-02T00:00:00Z', 'active'], ['2026-11-03T00:00:00Z', 'active']])
})

t.test('where the first look came within a period and the next one long after it, nothing is known of it, and nothing rolls over', async (t) => {
  const w = await open(t, '2026-11-01T10:00:00Z', [rolling('daily total_tokens 1000 day', {})])
  await w.call(1_000)
  await w.look()
  w.set('2026-11-02T04:00:00Z')
  await w.look()
  t.same(w.amounts(), {})
})

t.test('days, weeks, months and terms end by the account’s clock, over changes of the clocks', async (t) => {
  const acme = account('acme', { calendar: { timeZone: 'Europe/Berlin', anchor: '2026-01-31' } })
  const w = await open(t, '2026-10-24T21:30:00Z', [{ ...plan('free'), limits: ['day', 'week', 'billing_period'].map((window) => ({ ...rolling(`${window} total_tokens 1000 ${window}`, {}).limits[0]! })) }], [acme])
  await w.look()
  w.set('2026-10-24T22:00:10Z')
  await w.look()
  t.same(Object.keys(w.amounts()), ['rollover-day-2026-10-23T22:00:00Z'])
  w.set('2026-10-25T23:00:10Z')
  await w.look()
  t.same(Object.keys(w.amounts()).sort(), ['rollover-day-2026-10-23T22:00:00Z', 'rollover-day-2026-10-24T22:00:00Z', 'rollover-week-2026-10-18T22:00:00Z'], 'a day of 25 hours')
  t.equal(listGrants(w.directory, 'acme', w.now()).find(({ limit }) => limit === 'week')?.expiresMs, at('2026-11-01T23:00:00Z'))
})

t.test('what an expired grant had left is recorded once, with what was left when the last call was booked; of one that was taken back nothing is', async (t) => {
  const w = await open(t, '2026-11-01T10:00:00Z', [{
    ...plan('free'), limits: [limitOf('daily total_tokens 0 day')],
    grants: [{ id: 'included', limit: 'daily', meter: 'total_tokens', amount: 1_000, priority: 50, effectiveMs: null, expiresMs: null, source: 'plan', note: null, every: 'day', lastsMs: null, where: 'x:1' }],
  }])
  const give = (id: string, amount: number, expires: string) => w.grants.add({ account: 'acme', id, limit: 'daily', amount, priority: undefined, effectiveMs: undefined, expiresMs: at(expires), source: 'purchase', note: null }, 'ops')
  await give('bought', 500, '2026-11-01T12:00:00Z')
  await give('back', 500, '2026-11-01T12:00:00Z')
  await w.grants.revoke('acme', 'back', 'a mistake', 'ops')
  await w.look()
  await w.call(1_100)
  const open1 = await w.call(200, { open: true })
  w.set('2026-11-01T12:30:00Z')
  await w.look()
  t.same(await w.broken(), [], 'a call that was admitted before may still draw it')
  await open1.settle(150)
  w.set('2026-11-01T13:31:00Z')
  await Promise.all([w.look(), w.look()])
  await w.restart()
  await w.look()
  t.match(await w.broken(), [{ account: 'acme', grant: 'bought', limit: 'daily', meter: 'total_tokens', amount: 500, left: 250, expiredMs: at('2026-11-01T12:00:00Z') }])
  t.equal((await w.broken()).length, 1)
  w.set('2026-11-02T02:00:00Z')
  await w.look()
  t.equal((await w.broken()).length, 1, 'all of what the plan included was used')
  w.set('2026-11-03T02:00:00Z')
  await w.restart()
  await w.look()
  t.match((await w.broken()).slice(1), [{ grant: 'included@2026-11-02T00:00:00Z', left: 1_000 }])
  t.same((await w.grants.breakage('acme')).map(({ grant, left }) => [grant, left]), [['bought', 250], ['included@2026-11-02T00:00:00Z', 1_000]])
  t.same(await w.grants.breakage('other'), [])
})

t.test('where there are many grants, those that are used up are left out, which changes nothing that is left', async (t) => {
  const w = await open(t, '2026-11-01T10:00:00Z', [{ ...plan('free'), limits: [limitOf('credit total_tokens 0 lifetime')] }])
  for (let nth = 0; nth < 20; nth++) await w.grants.add({ account: 'acme', id: `top-up-${nth}`, limit: 'credit', amount: 10, priority: nth + 1, effectiveMs: undefined, expiresMs: null, source: 'purchase', note: null }, 'ops')
  await w.call(35)
  await w.look()
  t.same(listGrants(w.directory, 'acme', w.now()).filter(({ state }) => state === 'spent').map(({ id }) => id).sort(), ['top-up-0', 'top-up-1', 'top-up-2'])
  t.same(await Promise.all([170, 165, 0].map(async (tokens) => (await w.call(tokens, { open: true })).outcome)), ['denied', 'admitted', 'admitted'], '165 are left, to the token')
  const again = await w.grants.add({ account: 'acme', id: 'top-up-0', limit: 'credit', amount: 10, priority: 1, effectiveMs: undefined, expiresMs: null, source: 'purchase', note: null }, 'ops')
  t.match(again, { state: 'spent', used: 10 }, 'given again, it is the one that was used')
})
