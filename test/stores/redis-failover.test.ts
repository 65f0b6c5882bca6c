// test: timeout 200 s
// One primary takes over from another, slots move, a gateway is on the wrong side of a partition, a server's clock jumps: under load, with the books audited
// afterwards. Covers R15, R16, R17, R22 and D5.

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis, startRedisCluster, startRedisSentinel, type Redis } from '../fixtures/redis.ts'
import { openTcpRelay } from '../fixtures/tcp-relay.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { openTestStore } from './redis-fixture.ts'
import { allEvents, audit, homes, secondsOf503, startLoad, tokensOf } from './redis-load.ts'
import { check, extendOf, FORGET_AFTER_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

t.setTimeout(190_000)

const deadlineMs = 250
const recoveryMs = 2_000
const home = 'acme'

const readTime = 'return redis.call("TIME")'
const timeReadings = new RegExp(`${createHash('sha1').update(readTime).digest('hex')}|^EVAL return redis\\.call\\("TIME"\\)`)

async function used(store: RedisStore): Promise<number> {
  const balances = await Promise.all(homes.map((one) => store.balances(one, [tokensOf(one)])))
  return balances.reduce((sum, [balance]) => sum + balance!.used, 0)
}

t.test('R15: slots that move from server to server under load cost a pause of their own accounts alone', async (t) => {
  const cluster = await startRedisCluster(t)
  const stores = await Promise.all([0, 1].map(() => openTestStore(t, cluster.url, { deadlineMs })))
  const keys = new KeyNames('test', 16)
  const load = startLoad(stores, { parallel: 8, pauseMs: 5 })
  await sleep(500)
  const partitions = [...new Set(homes.map((one) => keys.partitionOf(one)))].slice(0, 3)
  const others = homes.filter((one) => !partitions.includes(keys.partitionOf(one)))
  let moved = 0
  let othersRefused = 0
  for (const partition of partitions) {
    const key = keys.epoch(partition)
    const finish = await cluster.beginMove(key, (await cluster.ownerOf(key) + 1) % 3)
    await sleep(200)
    // Accounts in other slots are served meanwhile.
    for (const other of others) {
      const now = Date.now()
      const id = newId(now)
      const answer = await stores[0]!.reserve(reserveOf(id, now, other, [tokensOf(other)])).catch((error: unknown) => error)
      if (answer instanceof StoreUnavailable) othersRefused += 1
      await stores[0]!.void({ id, nowMs: now, home: other })
    }
    await finish()
    moved += 1
  }
  const tookMs = await load.recovery()
  await sleep(500)
  const tally = await load.stop()
  t.equal(moved, 3)
  t.equal(othersRefused, 0)
  t.ok(tookMs < recoveryMs)
  t.notMatch([...tally.reasons].join('\n'), /CROSSSLOT/)
  for (const reason of tally.reasons) t.match(reason, /being moved|no answer within|Redis/, reason)
  const { lost, doubled } = await audit(t, stores[1]!, tally)
  t.comment(`${moved} slots moved under load: ${tally.asked} calls, ${tally.refused} refused over ${secondsOf503(tally)} s, events lost ${lost}, doubled ${doubled}`)
})

t.test('R15: while one server of a cluster is away, the accounts of the others are admitted, settled and swept', async (t) => {
  const cluster = await startRedisCluster(t)
  const store = await openTestStore(t, cluster.url, { deadlineMs })
  for (const node of cluster.nodes) await node.cli('CONFIG', 'SET', 'cluster-require-full-coverage', 'no')
  const keys = new KeyNames('test', 16)
  const owners = new Map<string, number>()
  for (let n = 0; n < 24; n++) owners.set(`account ${n}`, await cluster.ownerOf(keys.epoch(keys.partitionOf(`account ${n}`))))
  const now = Date.now()
  const open = new Map([...owners.keys()].map((name) => [name, newId(now)]))
  for (const [name, id] of open) t.match(await store.reserve(reserveOf(id, now, name, [tokensOf(name)])), { outcome: 'admitted' })
  const dead = owners.get('account 0')!
  await cluster.nodes[dead]!.stop('SIGKILL')
  const lives = [...owners].filter(([, owner]) => owner !== dead).map(([name]) => name)
  await waitFor('the others to be served', () => Promise.all(lives.map((name) => store.reserve(reserveOf(newId(now), now, name, [tokensOf(name)])))).then(() => true, () => false), { deadlineMs: 5_000, everyMs: 20 })
  t.match(await store.reserve(reserveOf(newId(now), now, 'account 0', [tokensOf('account 0')])).catch((error: unknown) => error), { name: 'StoreUnavailable' })
  const due = await store.due(now + 1e9)
  t.ok(lives.every((name) => due.some(({ id }) => id === open.get(name))), 'they are swept')
  t.notOk(due.some(({ id }) => id === open.get('account 0')))
  for (const name of lives) t.match(await store.settle(settleOf(open.get(name)!, now, name, [tokensOf(name)], [7])), { outcome: 'settled' })
})

t.test('R16: a failover under load loses nothing that the gateways were told, although the replica lacked the last writes', async (t) => {
  const sentinel = await startRedisSentinel(t)
  const stores = await Promise.all([0, 1].map(() => openTestStore(t, sentinel.url, { deadlineMs })))
  const load = startLoad(stores, { parallel: 8, pauseMs: 5 })
  await sleep(700)
  const former = await sentinel.primary()
  const replica = sentinel.servers.find((server) => server !== former)!
  // From here on the replica hears of nothing: what is written now is the tail that a failover loses.
  await replica.cli('REPLICAOF', '127.0.0.1', '1')
  const before = load.admitted
  await sleep(250)
  const tail = load.admitted - before
  const { promoted } = await sentinel.killPrimary()
  const killedMs = performance.now()
  await promoted
  const promotedMs = performance.now()
  await load.recovery()
  const tookMs = performance.now() - promotedMs
  t.ok(tookMs < recoveryMs + 1_000, `back after ${Math.round(tookMs)} ms`)
  await sleep(500)
  const tally = await load.stop()
  const total = 7 * [...tally.settled.values()].reduce((sum, ids) => sum + ids.size, 0)
  await waitFor('the lost tail to be settled again', () => used(stores[0]!).then((n) => n >= total, () => false), { deadlineMs: 10_000, everyMs: 50 })
  const { lost, doubled } = await audit(t, stores[1]!, tally)
  t.ok(tail > 10, `a tail of ${tail} calls was lost with the primary`)
  t.comment(`failover under load: ${tally.asked} calls, ${tally.refused} refused, ${((promotedMs - killedMs) / 1000).toFixed(1)} s without a primary, back ${Math.round(tookMs)} ms after the promotion; ${tail} calls of the lost tail repeated, events lost ${lost}, doubled ${doubled}`)
})

t.test('R16 D5: when a gateway dies with the primary, what it had confirmed by a replica is there, and what was not may be missing', async (t) => {
  const sentinel = await startRedisSentinel(t)
  const former = await sentinel.primary()
  const replica = sentinel.servers.find((server) => server !== former)!
  const missing: Record<string, number> = {}
  const prefixes = ['plain', 'confirmed'] as const
  const told = new Map<string, Set<string>>()
  const stores = await Promise.all(prefixes.map((prefix) => openTestStore(t, sentinel.url, { prefix, deadlineMs, confirm: { replicas: prefix === 'confirmed' ? 1 : 0, fsync: false } })))
  const one = async (store: RedisStore, prefix: string): Promise<void> => {
    const now = Date.now()
    const id = newId(now)
    const answered = await store.settle(settleOf(id, now, home, [tokensOf(home)], [7])).then(() => true, () => false)
    if (answered) told.set(prefix, (told.get(prefix) ?? new Set()).add(id))
  }
  for (let n = 0; n < 20; n++) await Promise.all(stores.map((store, i) => one(store, prefixes[i]!)))
  await replica.cli('REPLICAOF', '127.0.0.1', '1')
  const before = prefixes.map((prefix) => told.get(prefix)!.size)
  for (let n = 0; n < 5; n++) await Promise.all(stores.flatMap((store, i) => [one(store, prefixes[i]!), one(store, prefixes[i]!)]))
  const late = prefixes.map((prefix, i) => told.get(prefix)!.size - before[i]!)
  t.same(late[1], 0, 'without its replica nothing is confirmed')
  t.ok(late[0]! > 0)
  // The gateways end too: nobody is left to repeat anything.
  const { promoted } = await sentinel.killPrimary()
  await Promise.all(stores.map((store) => store.close()))
  const next = await promoted
  for (const prefix of prefixes) {
    const reader = await openTestStore(t, next.url, { prefix })
    const there = new Set((await allEvents(reader)).map(({ record }) => record.id))
    missing[prefix] = [...told.get(prefix)!].filter((id) => !there.has(id)).length
  }
  t.equal(missing['confirmed'], 0)
  t.equal(missing['plain'], late[0], 'the test would see a loss')
  t.comment(`primary and gateway die together: of ${told.get('plain')!.size} told settlements ${missing['plain']} missing; with confirm: replicas=1 of ${told.get('confirmed')!.size} 0 missing`)
})

t.test('R17: a gateway that still sees a primary cut off from its replica stops once that notices; both sides admit no more than the limit and the tail', async (t) => {
  const former = await startRedis(t, { args: ['--min-replicas-to-write', '1', '--min-replicas-max-lag', '1', '--repl-ping-replica-period', '1', '--repl-diskless-sync-delay', '0'] })
  const between = await openTcpRelay(t, former.port)
  const next = await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(between.port), '--repl-timeout', '5'] })
  const follows = async (server: Redis): Promise<boolean> => (await server.cli('INFO', 'replication')).includes('state=online')
  await waitFor('the replica to follow', () => follows(former), { deadlineMs: 15_000, everyMs: 50 })
  const limit = 60
  const one = check('shared', limit, 1)
  const a = await openTestStore(t, former.url, { deadlineMs })
  const call = async (store: RedisStore): Promise<'admitted' | 'denied' | 'away'> => {
    const now = Date.now()
    const id = newId(now)
    try {
      const { outcome } = await store.reserve(reserveOf(id, now, home, [one]))
      if (outcome !== 'admitted') return 'denied'
      await store.settle(settleOf(id, now, home, [one], [1]))
      return 'admitted'
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      return 'away'
    }
  }
  let admitted = 0
  for (let n = 0; n < 20; n++) if (await call(a) === 'admitted') admitted += 1
  t.equal(admitted, 20)
  await waitFor('the replica to have it', async () => (await next.cli('GET', new KeyNames('test', 16).settled(new KeyNames('test', 16).partitionOf(home), 'shared'))) === '20', { everyMs: 20 })
  // The partition: A sees the old one, nobody else does.
  between.faults.mute = true
  const fromMs = performance.now()
  let tail = 0
  let refusedMs: number | null = null
  while (performance.now() - fromMs < 5_000) {
    const outcome = await call(a)
    if (outcome === 'admitted') {
      tail += 1
      t.equal(refusedMs, null, 'nothing is admitted after the first refusal')
    }
    if (outcome === 'away') {
      refusedMs ??= performance.now() - fromMs
      if (performance.now() - fromMs > refusedMs + 500) break
    }
    await sleep(100)
  }
  t.ok(refusedMs !== null && refusedMs < 4_000, `A is refused after ${Math.round(refusedMs ?? 0)} ms`)
  await next.cli('REPLICAOF', 'NO', 'ONE')
  await next.cli('CONFIG', 'SET', 'min-replicas-to-write', '0')
  const b = await openTestStore(t, next.url, { deadlineMs })
  let onB = 0
  for (let n = 0; n < limit + 10; n++) if (await call(b) === 'admitted') onB += 1
  t.equal(20 + onB, limit, 'B admits what is left by the books that it has')
  t.ok(20 + tail + onB <= limit + tail)
  t.equal(await call(a), 'away', 'A still does not')
  t.comment(`partition: the cut-off primary was left after ${((refusedMs ?? 0) / 1000).toFixed(1)} s; admitted ${20 + tail + onB} of ${limit}: over by ${20 + tail + onB - limit}, the tail of that time was ${tail}`)
})

t.test('R22: a server\'s clock that jumps an hour is believed only when it stays so; then it is followed, and nothing is lost, doubled or forgotten', async (t) => {
  const redis = await startRedis(t, {})
  const keys = new KeyNames('test', 16)
  const due = keys.due(keys.partitionOf(home))
  for (const hours of [1, -1]) {
    await redis.cli('FLUSHALL')
    const relay = await openRedisRelay(t, redis.port)
    const store = await openTestStore(t, relay.url, { deadlineMs })
    t.ok(Math.abs(store.nowMs() - Date.now()) < 200)
    const now = store.nowMs()
    const ids = Array.from({ length: 20 }, () => newId(now))
    for (const id of ids) await store.reserve(reserveOf(id, now, home, [tokensOf(home)]))
    // One wrong reading changes nothing.
    const jumped = (text: string): string => text.replace(/^\*2\r\n\$(\d+)\r\n(\d+)/, (_, length: string, seconds: string) => `*2\r\n$${length}\r\n${Number(seconds) + hours * 3_600}`)
    relay.rewrite(jumped, timeReadings, 1)
    await waitFor('a reading in doubt', () => store.status().reason?.includes('clock has jumped'), { deadlineMs: 4_000 })
    await t.rejects(store.due(store.nowMs() + 1e9), { name: 'StoreUnavailable' }, 'nothing is expired meanwhile')
    await waitFor('the next readings to agree with before', () => store.status().admitting, { deadlineMs: 4_000 })
    t.ok(Math.abs(store.nowMs() - Date.now()) < 300, 'one wrong reading is forgotten')

    relay.rewrite(jumped, timeReadings)
    const fromMs = performance.now()
    await waitFor('the jump to be seen', () => !store.status().admitting, { deadlineMs: 4_000 })
    const seenMs = performance.now()
    await waitFor('the jump to be followed', () => store.status().admitting, { deadlineMs: 4_000 })
    const doubtMs = performance.now() - seenMs
    t.ok(doubtMs < recoveryMs, `in doubt for ${Math.round(doubtMs)} ms`)
    t.ok(Math.abs(store.nowMs() - Date.now() - hours * 3_600_000) < 300, 'followed')
    t.ok(performance.now() - fromMs < 4_000)

    // Forward: the leases of calls that run look overdue. What is swept too early comes back with the next sign of life, and is billed once.
    const jumpedMs = store.nowMs()
    const overdue = await store.due(jumpedMs)
    t.equal(overdue.length, hours > 0 ? ids.length : 0)
    for (const { id, checkpoint } of overdue) t.match(await store.expire({ id, nowMs: jumpedMs, home, checkpoint }), { outcome: 'expired' })
    for (const [n, id] of ids.entries()) {
      if (n % 2 === 0) t.match(await store.extend(extendOf(id, store.nowMs(), home, 1, { checks: [tokensOf(home)] })), { outcome: hours > 0 ? 'revived' : 'extended' })
      t.match(await store.settle(settleOf(id, store.nowMs(), home, [tokensOf(home)], [7])), { outcome: hours > 0 ? 'settled_late' : 'settled' })
      t.match(await store.settle(settleOf(id, store.nowMs(), home, [tokensOf(home)], [7])), { outcome: 'already_settled' })
    }
    t.match(await store.balances(home, [tokensOf(home)]), [{ used: 140, reserved: 0 }])
    const events = await allEvents(store)
    t.equal(events.reduce((sum, { record }) => sum + (record.usage.total_tokens ?? 0) - (record.booked?.total_tokens ?? 0), 0), 140)
    t.equal(await redis.cli('ZCARD', due), '0')
    // What is closed is remembered for an hour longer than it matters: the jump may have eaten that, and no more.
    const ttl = Number(await redis.cli('PTTL', keys.reservation(keys.partitionOf(home), ids[0]!)))
    t.ok(ttl > FORGET_AFTER_MS - 60_000, `${Math.round(ttl / 60_000)} min`)
    t.comment(`the clock ${hours > 0 ? 'an hour ahead' : 'an hour back'}: refused for ${Math.round(doubtMs)} ms, ${overdue.length} reservations swept early, usage lost 0, doubled 0`)
    await store.close()
  }
})
