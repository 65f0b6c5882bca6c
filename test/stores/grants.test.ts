// test: timeout 120 s
import t from 'tap'
import type { Principal } from '../../src/accounts/principal.ts'
import { systemClock } from '../../src/clock.ts'
import type { Check } from '../../src/metering/check.ts'
import type { Entitlement } from '../../src/metering/entitlement.ts'
import { burnDown, grantEndsMs, isEffective, type Grant } from '../../src/metering/grant.ts'
import { allowance } from '../../src/metering/limits/allowance.ts'
import { allowanceLook, grantLook } from '../../src/metering/limits/counter.ts'
import type { AppliedLimit } from '../../src/metering/limits/limit.ts'
import { checksAtEnd } from '../../src/metering/late-grants.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { seeded } from '../exactness/model.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openTestStore } from './redis-fixture.ts'
import { eventBody, FORGET_AFTER_MS, LEASE_MS, newId, skeleton } from './sample-moves.ts'

const CALLS = 600
const HOME = 'acme'
const HOUR = 3_600_000

t.setTimeout(100_000)
const redis = await startRedis(t)
const stores: Record<string, (seed: number) => Promise<readonly Store[]>> = {
  memory: async () => [await openMemory({ clock: systemClock, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000 })],
  'redis, over two gateways': (seed) => Promise.all([1, 2].map(() => openTestStore(t, redis.url, { prefix: `grants${seed}` }))),
}

for (const [name, open] of Object.entries(stores)) {
  t.test(`${name}: Σ grants = available + held + settled at every look, no bucket is drawn beyond its amount, and grants burn down in their order`, { timeout: 60_000 }, async (t) => {
    for (const seed of [1, 2, 3]) {
      const random = seeded(seed)
      const below = (n: number): number => Math.floor(random() * n)
      const gateways = await open(seed)
      const store = gateways[0]!
      // Hours are periods here: the calls cross several, with calls open over each edge.
      const start = Math.floor(Date.now() / HOUR) * HOUR
      const grants = Array.from({ length: 3 }, (_, i): Grant => ({
        id: `g${i}`, account: HOME, limit: 'daily', amount: 2_000 + below(3_000), priority: 1 + below(2), effectiveMs: 0, expiresMs: null, createdMs: i, source: 'operator', voidedMs: null, note: null,
      }))
      const limit = (ceiling: number): AppliedLimit => ({
        limit: {
          name: 'daily', meter: { kind: 'builtin', name: 'total_tokens' }, ceiling, window: { kind: 'calendar', unit: 'day' }, per: 'account', forModels: null, forEndpoints: null, each: null, mode: 'enforce',
          visible: true, overdraft: { kind: 'none' },
        },
        scope: { id: `account:${HOME}`, calendar: { timeZone: 'UTC', anchor: '2026-01-01' } }, selector: '', grants,
      })
      const order = burnDown(grants, start).map(({ id }) => id)
      const looks: string[] = []
      let day = 0
      await Promise.all(Array.from({ length: 12 }, async (_, worker) => {
        for (let i = worker; i < CALLS; i += 12) {
          day = Math.max(day, Math.floor(i / (CALLS / 4)))
          const nowMs = start + day * 24 * HOUR
          const check = allowance.check(limit(500 + 100 * day), { fixed: below(120), perUnit: 0 }, nowMs, nowMs, false)
          const gateway = gateways[below(gateways.length)]!
          const move = { id: newId(nowMs), nowMs, home: HOME, checks: [check] }
          const admitted = await gateway.reserve({ ...move, uMin: 0, uMax: 0, deadlineMs: nowMs + LEASE_MS, skeleton })
          if (admitted.outcome !== 'admitted') continue
          const other = gateways[below(gateways.length)]!
          const used = below(check.fixed + 1)
          const end = below(10)
          if (end === 0) await other.void({ id: move.id, nowMs, home: HOME })
          else if (end === 1) await other.expire({ id: move.id, nowMs, home: HOME, checkpoint: null })
          else await other.settle({ ...move, amounts: [used], usage: { total_tokens: used }, event: eventBody })
          const [balance] = await other.balances(HOME, [check])
          // Room is what is left of allowance and grants, less what is held: never below nothing.
          if (balance!.room === null || balance!.room < 0) looks.push(`room ${balance!.room}`)
        }
      }))
      t.same(looks, [], `seed ${seed}: at no look was more held and used than there is`)
      const drawn = new Map<string, number>()
      let settled = 0
      for (let page = await store.outbox.scan(null, 500); page.length > 0; page = await store.outbox.scan(page.at(-1)!.position, 500)) {
        for (const { record } of page) {
          t.same(record.overruns, [])
          for (const { bucket, amount } of record.drawn) {
            drawn.set(bucket, (drawn.get(bucket) ?? 0) + amount)
            settled += amount
          }
        }
      }
      for (const { id, amount } of grants) t.ok((drawn.get(id) ?? 0) <= amount, `seed ${seed}: ${id} was drawn ${drawn.get(id) ?? 0} of ${amount}`)
      const touched = order.filter((id) => (drawn.get(id) ?? 0) > 0)
      for (const id of touched.slice(0, -1)) t.equal(drawn.get(id), grants.find((one) => one.id === id)!.amount, `seed ${seed}: ${id} was empty before the next was touched`)
      // What the last period still has: its allowance, and of each grant what was not drawn.
      const nowMs = start + 3 * 24 * HOUR
      const [last] = await store.balances(HOME, [allowance.check(limit(800), { fixed: 0, perUnit: 0 }, nowMs, nowMs, false)])
      const ofGrants = grants.reduce((sum, { id, amount }) => sum + amount - (drawn.get(id) ?? 0), 0)
      const [raised] = await store.balances(HOME, [allowance.check(limit(1_800), { fixed: 0, perUnit: 0 }, nowMs, nowMs, false)])
      t.equal(last!.reserved, 0)
      t.ok(last!.room! >= ofGrants && last!.room! <= ofGrants + 800, `seed ${seed}: ${last!.room} left, ${ofGrants} of it grants; ${settled} settled`)
      t.equal(raised!.room, last!.room! + 1_000, 'a raised limit resets nothing: it adds the difference')
      t.equal(raised!.used, last!.used)
      for (const gateway of gateways) await gateway.close()
    }
  })
}

for (const [name, open] of Object.entries(stores)) {
  t.test(`${name}: Σ grants = available + held + settled + expired to the unit, through expiries, revocations, raised limits and changes of plan, and none of these resets what was used`, { timeout: 60_000 }, async (t) => {
    const random = seeded(11)
    const below = (n: number): number => Math.floor(random() * n)
    const gateways = await open(11)
    const store = gateways[0]!
    const start = Math.floor(Date.now() / HOUR) * HOUR
    const grants: Grant[] = []
    let nowMs = start
    let plan = { name: 'monthly', ceiling: 100 }
    const applied = (): AppliedLimit => ({
      limit: {
        name: plan.name, meter: { kind: 'builtin', name: 'total_tokens' }, ceiling: plan.ceiling, window: { kind: 'lifetime' }, per: 'account', forModels: null, forEndpoints: null, each: null, mode: 'enforce', visible: true,
        overdraft: { kind: 'none' },
      },
      scope: { id: `account:${HOME}`, calendar: { timeZone: 'UTC', anchor: '2026-01-01' } }, selector: '', grants: [...grants],
    })
    const check = (need: number): Check => allowance.check(applied(), { fixed: need, perUnit: 0 }, nowMs, nowMs, false)
    const open_: { id: string; held: number; admittedMs: number; checks: readonly Check[]; applied: AppliedLimit }[] = []
    const principal = { chain: [{ id: HOME }], keyLimits: [] } as unknown as Principal
    const atEnd = ({ checks, applied, admittedMs }: (typeof open_)[number]): readonly Check[] => checksAtEnd(
      { checks, appliedByCheck: [[applied]], admittedMs, entitlement: { principal } as unknown as Entitlement },
      new Map([[HOME, { grants: grants.map((grant) => ({ ...grant, limit: applied.limit.name, meter: 'total_tokens' })), extended: new Set<string>() }]]), nowMs)
    /** What the answers said, by bucket: independent of what the store keeps. */
    const drawn = new Map<string, number>()
    let refused = 0
    for (let step = 0; step < 600; step++) {
      nowMs += below(20) * 60_000
      const gateway = gateways[below(gateways.length)]!
      const what = below(12)
      if (what === 0) grants.push({ id: `g${grants.length}`, account: HOME, limit: 'monthly', amount: 1 + below(300), priority: 1 + below(3), effectiveMs: nowMs + below(3) * HOUR, expiresMs: below(2) === 0 ? null : nowMs + (4 + below(30)) * HOUR, createdMs: nowMs, source: 'operator', voidedMs: null, note: null })
      else if (what === 1 && grants.length > 0) {
        const which = below(grants.length)
        grants[which] = { ...grants[which]!, voidedMs: grants[which]!.voidedMs ?? nowMs }
      } else if (what === 2) plan = below(2) === 0 ? { ...plan, ceiling: plan.ceiling + below(20) } : { name: plan.name === 'monthly' ? 'monthly of another plan' : 'monthly', ceiling: plan.ceiling + below(10) }
      else if (what < 8) {
        const need = 1 + below(120)
        const checks = [check(need)]
        const id = newId(nowMs)
        const admitted = await gateway.reserve({ id, nowMs, home: HOME, checks, uMin: 0, uMax: 0, deadlineMs: nowMs + 100 * HOUR, skeleton })
        if (admitted.outcome === 'admitted') open_.push({ id, held: need, checks, applied: applied(), admittedMs: nowMs })
        else refused += 1
      } else if (open_.length > 0) {
        const [one] = open_.splice(below(open_.length), 1)
        const used = below(one!.held + 1)
        const settled = await gateway.settle({ id: one!.id, nowMs, home: HOME, checks: atEnd(one!), amounts: [used], usage: { total_tokens: used }, event: eventBody })
        if (settled.outcome !== 'settled') throw new Error(settled.outcome)
        for (const { bucket, amount } of settled.drawn) drawn.set(bucket, (drawn.get(bucket) ?? 0) + amount)
      }
      const of = (id: string): number => drawn.get(id) ?? 0
      const [balance, ofAllowance, ...looks] = await store.balances(HOME, [check(0), allowanceLook(check(0).slots[0]!, plan.ceiling), ...grants.map(grantLook)])
      const held = open_.reduce((sum, one) => sum + one.held, 0)
      const byAllowance = of('monthly') + of('monthly of another plan')
      const settled = [...drawn.values()].reduce((sum, amount) => sum + amount, 0)
      const effective = grants.filter((grant) => isEffective(grant, nowMs))
      const lost = grants.filter((grant) => (grantEndsMs(grant) ?? Infinity) <= nowMs).reduce((sum, grant) => sum + grant.amount - of(grant.id), 0)
      const coming = grants.filter((grant) => grant.effectiveMs > nowMs && (grantEndsMs(grant) ?? Infinity) > nowMs).reduce((sum, grant) => sum + grant.amount - of(grant.id), 0)
      const available = effective.reduce((sum, grant) => sum + grant.amount - of(grant.id), 0)
      const given = grants.reduce((sum, grant) => sum + grant.amount, 0)
      const problems = [
        ...looks.map((look, i) => (look.used === of(grants[i]!.id) && look.used <= grants[i]!.amount ? '' : `${grants[i]!.id}: ${look.used} drawn, told ${of(grants[i]!.id)} of ${grants[i]!.amount}`)),
        balance!.used === settled ? '' : `${balance!.used} used, told ${settled}`,
        balance!.reserved === held ? '' : `${balance!.reserved} held, of ${held}`,
        // What was held of a grant that is gone meanwhile may show as a room below nothing; else nothing is below.
        balance!.room === plan.ceiling - byAllowance + available - held ? '' : `room ${balance!.room}, ${plan.ceiling - byAllowance} + ${available} − ${held}`,
        ofAllowance!.room === plan.ceiling - byAllowance - held ? '' : `${ofAllowance!.room} of the allowance alone`,
        given === available + coming + lost + settled - byAllowance ? '' : `${given} given`,
      ].filter((problem) => problem !== '')
      if (problems.length > 0) t.fail(`step ${step}: ${problems.join('; ')}`)
    }
    t.ok(refused > 10 && grants.length > 15 && [...drawn].filter(([bucket]) => bucket.startsWith('g')).length > 5, `${refused} refused, ${grants.length} grants`)
    for (const gateway of gateways) await gateway.close()
  })
}
