// test: timeout 240 s
// Whichever of an exchange's calls to Redis is lost, on its way or on its way back, the books come out right. Covers R1, R2, R4, R27 and F2.

import t, { type Test } from 'tap'
import type { Check } from '../../src/metering/check.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { StoreUnavailable, type OutboxEntry } from '../../src/stores/store.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis, type Redis } from '../fixtures/redis.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { openTestStore } from './redis-fixture.ts'
import { check, extendOf, LEASE_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

t.setTimeout(230_000)

const home = 'acme'
/** Two meters, one of them in buckets, so that a move changes several keys. */
const tokens = (fixed: number): Check => check('tokens', 1000, fixed, {
  buckets: [{ name: 'limit', ceiling: 100, counter: null }, { name: 'overdraft', ceiling: 900, counter: 'tokens overdraft' }],
})
const calls = check('calls', 10, 1)
const admission = [tokens(300), calls]

/** A move as a gateway makes it: what the store did not answer is sent again, the same. */
type Insist = <Answer>(move: () => Promise<Answer>) => Promise<Answer>

/** One exchange's surroundings. */
interface World {
  readonly t: Test
  readonly store: RedisStore
  /** A second gateway's store. */
  another(): Promise<RedisStore>
  readonly insist: Insist
  readonly id: string
  readonly now: number
}

interface Life {
  readonly name: string
  /** Tokens that are counted at the end, and how many events say so. */
  readonly used: number
  readonly events: number
  /** Calls to Redis that a life without faults has at least: what is tried is each of them. */
  readonly callsLeast: number
  live(world: World): Promise<void>
}

const counted = (n: number): { amounts: number[]; usage: { requests: number; total_tokens: number } } => ({ amounts: [n, 1], usage: { requests: 1, total_tokens: n } })
const settle = (store: RedisStore, id: string, nowMs: number, n: number) => store.settle(settleOf(id, nowMs, home, admission, [n, 1], { usage: counted(n).usage }))

async function admit({ t, store, insist, id, now }: World): Promise<void> {
  t.match(await insist(() => store.reserve(reserveOf(id, now, home, admission))), { outcome: 'admitted' })
}

async function tell({ store, insist, id, now }: World): Promise<void> {
  await insist(() => store.extend(extendOf(id, now + 5_000, home, 1, { counted: counted(120) })))
}

/** Whatever is due by then, as the sweep of any replica does it. */
async function sweep({ store, insist, now }: World): Promise<void> {
  const nowMs = now + 5_000 + LEASE_MS
  for (const due of await insist(() => store.due(nowMs))) await insist(() => store.expire({ id: due.id, nowMs, home: due.home, checkpoint: due.checkpoint }))
}

const lives: readonly Life[] = [
  { name: 'is plain', used: 250, events: 1, callsLeast: 2, async live(world) {
    await admit(world)
    await world.insist(() => settle(world.store, world.id, world.now + 900, 250))
  } },
  { name: 'streams, holds more, and tells how far it is', used: 450, events: 1, callsLeast: 4, async live(world) {
    const { store, insist, id, now } = world
    await admit(world)
    await tell(world)
    await insist(() => store.extend(extendOf(id, now + 9_000, home, 2, { counted: counted(290), checks: [tokens(600), calls] })))
    await insist(() => settle(store, id, now + 12_000, 450))
  } },
  { name: 'is voided', used: 0, events: 0, callsLeast: 2, async live(world) {
    await admit(world)
    await world.insist(() => world.store.void({ id: world.id, nowMs: world.now + 900, home }))
  } },
  { name: 'is voided by a gateway that never knew it', used: 0, events: 0, callsLeast: 3, async live(world) {
    await admit(world)
    const stranger = await world.another()
    await world.insist(() => stranger.void({ id: world.id, nowMs: world.now + 900, home }))
  } },
  { name: 'is left alone and expires', used: 120, events: 1, callsLeast: 5, async live(world) {
    await admit(world)
    await tell(world)
    await sweep(world)
  } },
  { name: 'expires twice over, on two gateways', used: 120, events: 1, callsLeast: 6, async live(world) {
    await admit(world)
    await tell(world)
    const { store, insist, id, now, another } = world
    const second = await another()
    const expiry = { id, nowMs: now + 5_000 + LEASE_MS, home, checkpoint: 1 }
    await Promise.all([insist(() => store.expire(expiry)), insist(() => second.expire(expiry))])
    await insist(() => store.void({ id, nowMs: now + 30_000, home }))
  } },
  { name: 'expires, and is settled late', used: 450, events: 2, callsLeast: 6, async live(world) {
    await admit(world)
    await tell(world)
    await sweep(world)
    await world.insist(() => settle(world.store, world.id, world.now + 60_000, 450))
  } },
  { name: 'expires, is revived, and settles', used: 450, events: 2, callsLeast: 7, async live(world) {
    const { t, store, insist, id, now } = world
    await admit(world)
    await tell(world)
    await sweep(world)
    t.match(await insist(() => store.extend(extendOf(id, now + 40_000, home, 2, { counted: counted(300), checks: [tokens(600), calls] }))), { outcome: /revived|extended/ })
    await insist(() => settle(store, id, now + 60_000, 450))
  } },
]

/** What of an exchange goes over the wire: every command on a partition. */
const moves = /\{p\d+\}/

interface Run { readonly calls: number; readonly cuts: number }

let runs = 0

/** One exchange over a relay of its own that loses one call. Its books are read over a connection that nothing happens to. */
async function run(t: Test, redis: Redis, life: Life, lost: { readonly call: number; readonly when: 'before' | 'after' } | null): Promise<Run> {
  const prefix = `anomaly${++runs}`
  const relay = await openRedisRelay(t, redis.port)
  const stores = [await openTestStore(t, relay.url, { prefix })]
  const another = async (): Promise<RedisStore> => {
    const store = await openTestStore(t, relay.url, { prefix })
    stores.push(store)
    return store
  }
  const before = relay.seen(moves)
  if (lost !== null) relay.cut(lost.when, moves, lost.call)
  let cuts = 0
  const insist: Insist = async (move) => {
    for (let tries = 1; ; tries++) {
      try {
        return await move()
      } catch (error) {
        if (!(error instanceof StoreUnavailable) || tries > 3) throw error
        cuts += 1
        await waitFor('the store to be back', () => stores.every((store) => store.status().admitting), { deadlineMs: 5_000 })
      }
    }
  }
  const now = Date.now()
  const id = newId(now)
  await life.live({ t, store: stores[0]!, another, insist, id, now })
  const seen = relay.seen(moves) - before

  const reader = await openTestStore(t, redis.url, { prefix })
  const what = lost === null ? 'nothing lost' : `call ${lost.call} lost ${lost.when}`
  const [left] = await reader.balances(home, [tokens(0)])
  t.match(left, { used: life.used, reserved: 0 }, `${life.name}: ${what}`)
  const [parallel] = await reader.balances(home, [calls])
  t.match(parallel, { used: life.used === 0 ? 0 : 1, reserved: 0 }, `${life.name}: ${what}: calls`)
  const events: readonly OutboxEntry[] = await reader.outbox.scan(null, 10)
  t.equal(events.length, life.events, `${life.name}: ${what}: events`)
  t.equal(events.reduce((sum, { record }) => sum + (record.usage.total_tokens ?? 0) - (record.booked?.total_tokens ?? 0), 0), life.used, `${life.name}: ${what}: what events say`)
  t.same(await reader.due(now + 1e9), [], 'nothing is left to expire')
  await Promise.all([reader, ...stores].map((store) => store.close()))
  return { calls: seen, cuts }
}

/** So that what is lost is a move and not the server's word that it does not know the script. */
async function knowScripts(t: Teardown, redis: Redis): Promise<void> {
  const store = await openTestStore(t, redis.url, { prefix: 'warm' })
  const now = Date.now()
  const id = newId(now)
  await store.reserve(reserveOf(id, now, home, admission))
  await settle(store, id, now, 1)
  await store.close()
}

t.test('R1 R2 R4 R27 F2: whichever call of an exchange is lost, before it was carried out or after, the books come out right', async (t) => {
  const redis = await startRedis(t, {})
  await knowScripts(t, redis)
  let lost = 0
  for (const life of lives) {
    const { calls, cuts } = await run(t, redis, life, null)
    t.ok(calls >= life.callsLeast, `${life.name}: ${calls} calls`)
    t.equal(cuts, 0)
    const faults = (['before', 'after'] as const).flatMap((when) => Array.from({ length: calls }, (_, i) => ({ call: i + 1, when })))
    // Each waits mostly for its connection to come back.
    const outcomes = await Promise.all(faults.map((fault) => run(t, redis, life, fault)))
    t.ok(outcomes.every((one) => one.cuts === 1), `${life.name}: each time exactly one call was lost`)
    lost += outcomes.length
  }
  t.comment(`${lost} exchanges of ${lives.length} kinds, one call lost in each: counted wrongly 0, events lost 0, doubled 0`)
})

t.test('the test can fail: a caller who gives each try an id of its own counts twice when an answer is lost', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  await knowScripts(t, redis)
  const store = await openTestStore(t, relay.url)
  const now = Date.now()
  relay.cut('after', moves, 1)
  await t.rejects(store.settle(settleOf(newId(now), now, home, admission, [250, 1])), { name: 'StoreUnavailable' })
  await waitFor('the store to be back', () => store.status().admitting)
  await store.settle(settleOf(newId(now), now, home, admission, [250, 1]))
  t.match(await store.balances(home, [tokens(0)]), [{ used: 500 }])
})
