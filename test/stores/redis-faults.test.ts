// test: timeout 280 s
// A Redis that misbehaves, row by row: what the store answers meanwhile, how soon it is back, and that the books are right to the last unit.
// `FAULTS=long` takes the times of the catalogue (minutes) instead of the short ones.

import { renameSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Log } from '../../src/log.ts'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import { slotOf } from '../../src/stores/redis/slot.ts'
import { admitScript, finishScript } from '../../src/stores/redis/scripts.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openTcpRelay } from '../fixtures/tcp-relay.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { openTestStore } from './redis-fixture.ts'
import { audit, homes, secondsOf503, startLoad, tokensOf, type Tally } from './redis-load.ts'
import { check, extendOf, LEASE_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

const long = process.env['FAULTS'] === 'long'
t.setTimeout(long ? 1_500_000 : 270_000)

const deadlineMs = 250
/** What a busy machine may add to a deadline before we call it a hang. */
const slackMs = 500
/** The promise: usable again so long after Redis is. */
const recoveryMs = 2_000
const home = 'acme'

const moveScripts = new RegExp(`${admitScript.sha1}|${finishScript.sha1}|What both scripts share`)
const settling = new RegExp(`${finishScript.sha1}`)

/** What an operator reads. */
function journal(): { log: Log; lines: string[] } {
  const lines: string[] = []
  const note = (fields: object, message: string): void => { lines.push(`${message} ${JSON.stringify(fields)}`) }
  return { log: { debug: note, info: note, warn: note, error: note }, lines }
}

async function failure(call: Promise<unknown>): Promise<Error> {
  return call.then((answer) => new Error(`answered ${JSON.stringify(answer)}`), (error: unknown) => error as Error)
}

/** Both scripts are there then, as after a gateway's first second; nothing is booked. */
async function warm(store: RedisStore): Promise<void> {
  const now = Date.now()
  const id = newId(now)
  await store.reserve(reserveOf(id, now, 'warm', [tokensOf('warm')]))
  await store.void({ id, nowMs: now, home: 'warm' })
}

async function exchange(store: RedisStore, of = home): Promise<string> {
  const now = Date.now()
  const id = newId(now)
  await store.reserve(reserveOf(id, now, of, [tokensOf(of)]))
  await store.settle(settleOf(id, now, of, [tokensOf(of)], [7]))
  return id
}

async function back(t: Test, store: RedisStore, what: string, withinMs = recoveryMs): Promise<number> {
  const fromMs = performance.now()
  await waitFor(`the store to admit again ${what}`, () => store.reserve(reserveOf(newId(Date.now()), Date.now(), 'probe', [tokensOf('probe')])).then(({ outcome }) => outcome === 'admitted', () => false), {
    deadlineMs: 20_000, everyMs: 10,
  })
  const tookMs = performance.now() - fromMs
  t.ok(tookMs < withinMs, `${what}: back after ${Math.round(tookMs)} ms`)
  return tookMs
}

function figures(t: Test, what: string, tally: Tally, tookMs: number, { lost, doubled }: { lost: number; doubled: number }): void {
  t.comment(`${what}: ${tally.asked} calls, ${tally.refused} refused over ${secondsOf503(tally)} s, back after ${Math.round(tookMs)} ms, longest call ${Math.round(tally.longestMs)} ms, events lost ${lost}, doubled ${doubled}`)
}

t.test('R3: an answer that is lost with a server that has the move, repeated to one that lacks it, is made once', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const store = await openTestStore(t, relay.url, { deadlineMs })
  await exchange(store)
  // What a new primary has that had not received the last writes.
  await redis.cli('SAVE')
  const now = Date.now()
  const id = newId(now)
  const move = reserveOf(id, now, home, [tokensOf(home, 100)])
  relay.cut('after', new RegExp(admitScript.sha1))
  t.match(await failure(store.reserve(move)), { name: 'StoreUnavailable' })
  t.equal(await redis.cli('GET', 'test:{p' + new KeyNames('test', 16).partitionOf(home) + '}:h:acme tokens'), '100', 'the lost one has it')
  await redis.stop()
  await redis.start()
  t.equal(await redis.cli('EXISTS', `test:{p${new KeyNames('test', 16).partitionOf(home)}}:h:acme tokens`), '0', 'the new one does not')
  await back(t, store, 'after the failover')
  t.match(await store.reserve(move), { outcome: 'admitted' })
  t.match(await store.reserve(move), { outcome: 'admitted' })
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 7, reserved: 100 }])
  t.match(await store.settle(settleOf(id, now, home, [tokensOf(home)], [30])), { outcome: 'settled' })
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 37, reserved: 0 }])
})

t.test('R16: settlements that a new server has never seen are settled again by themselves, also when the first attempt fails', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const store = await openTestStore(t, relay.url, { deadlineMs })
  await exchange(store)
  await redis.cli('SAVE')
  for (let n = 0; n < 300; n += 50) await Promise.all(Array.from({ length: 50 }, (_, i) => exchange(store, homes[(n + i) % homes.length])))
  await redis.stop()
  // The new server takes nothing that ends a call for a while after it is there.
  relay.answer('LOADING Redis is loading the dataset in memory', settling)
  await redis.start()
  await waitFor('settlements to be repeated', () => relay.seen(settling) > 8, { deadlineMs: 5_000 }).catch(() => undefined)
  await sleep(700)
  relay.heal()
  const used = async (): Promise<number> => (await Promise.all(homes.map(async (one) => (await store.balances(one, [tokensOf(one)]))[0]!.used))).reduce((sum, n) => sum + n, 0)
  await waitFor('the lost settlements to be there', () => used().then((n) => n === 301 * 7, () => false), { deadlineMs: 10_000, everyMs: 50 })
  const events = await store.outbox.scan(null, 1_000)
  t.equal(events.length, 301)
  t.equal(new Set(events.map(({ record }) => record.id)).size, 301)
  t.comment('300 settlements lost with a server and repeated to the next: lost 0, doubled 0')
})

t.test('R5 F5 D4: a Redis with an append-only file that is killed and comes back later has everything that was acknowledged', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const store = await openTestStore(t, redis.url, { deadlineMs, durability: 'everysec' })
  const load = startLoad([store])
  await sleep(700)
  await redis.stop('SIGKILL')
  await sleep(long ? 5_000 : 2_000)
  await redis.start()
  const tookMs = await load.recovery()
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  await sleep(500)
  const tally = await load.stop()
  t.ok(tally.refused > 10, 'refused meanwhile')
  t.ok(tally.longestMs < deadlineMs + slackMs, `the longest call took ${Math.round(tally.longestMs)} ms`)
  figures(t, 'killed for 2 s, append-only file', tally, tookMs, await audit(t, store, tally))
})

t.test('D4 D3: what the append-only file promises is held against what is asked, and a killed Redis keeps every acknowledged move', async (t) => {
  for (const appendonly of ['everysec', 'always'] as const) {
    const redis = await startRedis(t, { appendonly })
    const store = await openTestStore(t, redis.url, { deadlineMs, durability: appendonly })
    for (let round = 0; round < 3; round++) {
      const load = startLoad([store], { parallel: 20, pauseMs: 0 })
      await sleep(250)
      await redis.stop('SIGKILL')
      const acknowledged = load.stop()
      await redis.start()
      await back(t, store, `appendfsync ${appendonly}, round ${round}`)
      const { settled } = await acknowledged
      const ids = new Set((await store.outbox.scan(null, 1_000)).map(({ record }) => record.id))
      for (let page = await store.outbox.scan(null, 1_000); page.length > 0; page = await store.outbox.scan(page.at(-1)!.position, 1_000)) for (const { record } of page) ids.add(record.id)
      t.same([...settled.values()].flatMap((set) => [...set]).filter((id) => !ids.has(id)), [], 'nothing acknowledged is missing')
    }
    await store.close()
  }
})

t.test('a store that is opened while its server is slow, or away for a moment, waits instead of giving up', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  // The first tries miss their deadlines: what the server is asked of itself, and then the books' mark.
  relay.cut('after', /^CONFIG/)
  relay.cut('after', / x:\{books\}:meta/)
  relay.cut('before', /x:\{p7\}:epoch/)
  const store = await openTestStore(t, relay.url, { prefix: 'x', deadlineMs })
  await waitFor('the time to be read', () => store.status().admitting, { deadlineMs: 3_000 })
  await exchange(store)
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 7 }])
  const fromMs = performance.now()
  relay.answer('LOADING Redis is loading the dataset in memory')
  t.match(await failure(openTestStore(t, relay.url, { prefix: 'x', patienceMs: 800 })), { name: 'StoreUnavailable', message: /^Redis cannot be used: .*LOADING/ })
  t.ok(performance.now() - fromMs < 3_000)
})

t.test('R12 F4 D6 D7: a Redis that may forget is refused with a sentence, unless that is meant', async (t) => {
  const evicting = await startRedis(t, { maxmemory: '20mb', policy: 'allkeys-lru' })
  t.match(await failure(openTestStore(t, evicting.url)), { name: 'StoreRefused', message: /maxmemory-policy allkeys-lru.*noeviction/ })
  const forgetful = await startRedis(t, {})
  t.match(await failure(openTestStore(t, forgetful.url, { durability: 'everysec' })), { name: 'StoreRefused', message: /appendonly no.*durability: none/ })
  t.match(await failure(openTestStore(t, forgetful.url, { durability: 'always' })), { name: 'StoreRefused' })
  t.equal(await evicting.cli('DBSIZE'), '0', 'nothing was written')
  const everysec = await startRedis(t, { appendonly: 'everysec' })
  t.match(await failure(openTestStore(t, everysec.url, { durability: 'always' })), { name: 'StoreRefused', message: /appendfsync everysec/ })
  t.match(await failure(openTestStore(t, everysec.url, { confirm: { replicas: 0, fsync: true } })), { message: /WAITAOF/ })
  await openTestStore(t, everysec.url, { durability: 'everysec' })
  const { log, lines } = journal()
  await openTestStore(t, forgetful.url, { durability: 'none', log })
  t.match(lines.join('\n'), /no memory bound/, 'what should be changed is said')
})

t.test('R6: a Redis that was emptied admits nothing until an operator accepts the loss, however many gateways race; nobody starts from zero', async (t) => {
  const redis = await startRedis(t, {})
  const memoryDir = tmpDir(t)
  const { log, lines } = journal()
  const stores = await Promise.all([0, 1, 2].map((n) => openTestStore(t, redis.url, { deadlineMs, memoryDir: n === 0 ? memoryDir : tmpDir(t), log })))
  const load = startLoad(stores)
  await sleep(500)
  const admitted = load.admitted
  await redis.cli('FLUSHALL')
  const afterMs = performance.now()
  const answers = await Promise.all(stores.map((store) => failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)])))))
  t.match(answers, answers.map(() => ({ name: 'StoreUnavailable' })))
  t.match(stores.map((store) => store.status()), stores.map(() => ({ admitting: false, reason: /accept-loss/ })))
  t.equal(await redis.cli('KEYS', '*:[shr]:*'), '', 'nothing is counted in emptied books')
  t.ok(admitted > 0)
  // A gateway of a machine that knew the books does not begin anew either.
  const restarted = await failure(openTestStore(t, redis.url, { memoryDir }))
  t.match(restarted, { name: 'StoreRefused', message: /empty.*accept-loss/ })
  t.equal(await redis.cli('EXISTS', 'test:{books}:meta'), '0')
  await sleep(1_200)
  t.ok(stores.every((store) => !store.status().admitting), 'still not')

  // Three operators at once.
  await Promise.all([0, 1, 2].map(async () => (await openTestStore(t, redis.url, { memoryDir: tmpDir(t), acceptLoss: true })).close()))
  const tookMs = await load.recovery()
  await waitFor('all three', () => stores.every((store) => store.status().admitting), { deadlineMs: 3_000 })
  const epochs = (await redis.cli('EVAL', 'local e = {} for p = 0, 15 do e[p + 1] = redis.call("GET", "test:{p" .. p .. "}:epoch") end return e', '0')).split('\n')
  t.equal(new Set(epochs).size, 1, 'one epoch')
  await sleep(300)
  const tally = await load.stop()
  // What the last minute had settled is settled again: of this loss nothing is left, for the gateways were there all the time.
  await waitFor('the repeated settlements', async () => (await stores[0]!.balances(home, [tokensOf(home)]))[0]!.used === 7 * tally.settled.get(home)!.size, { deadlineMs: 5_000 })
  const books = await audit(t, stores[1]!, tally)
  t.equal(lines.filter((line) => line.startsWith('an operator has accepted the loss')).length, 3)
  t.comment(`emptied under load: ${tally.refused} refused until the loss was accepted ${((performance.now() - afterMs) / 1000).toFixed(1)} s later, back ${Math.round(tookMs)} ms after; counts of ${admitted} calls repeated by the gateways, lost ${books.lost}, doubled ${books.doubled}`)
})

t.test('R6: a Redis that restarts empty, and one that lost a single part, admit nothing; a restored backup goes on by itself', async (t) => {
  const redis = await startRedis(t, {})
  const store = await openTestStore(t, redis.url, { deadlineMs, memoryDir: tmpDir(t) })
  await exchange(store)
  await redis.cli('SAVE')
  const dump = (await redis.cli('CONFIG', 'GET', 'dir')).split('\n')[1]!
  await redis.cli('CONFIG', 'SET', 'save', '')
  await redis.stop()
  // Its data is gone, and is restored a while later.
  renameSync(join(dump, 'dump.rdb'), join(dump, 'backup.rdb'))
  await redis.start()
  await waitFor('the loss to be noticed', () => store.status().reason?.includes('accept-loss'), { deadlineMs: 4_000 })
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable' })
  t.equal(await redis.cli('DBSIZE'), '0', 'nothing was written')
  await redis.stop()
  renameSync(join(dump, 'backup.rdb'), join(dump, 'dump.rdb'))
  await redis.start()
  await waitFor('the store to go on', () => store.status().admitting, { deadlineMs: 5_000 })
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 7, reserved: 0 }])

  const keys = new KeyNames('test', 16)
  await redis.cli('DEL', keys.epoch(keys.partitionOf(home)))
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable' })
  t.notOk(store.status().admitting)
})

t.test('R7: scripts that are flushed again and again under load cost no call', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const store = await openTestStore(t, relay.url)
  const load = startLoad([store], { parallel: 20, pauseMs: 0 })
  let flushes = 0
  for (const endMs = performance.now() + 1_500; performance.now() < endMs; flushes += 1) {
    await redis.cli('SCRIPT', 'FLUSH')
    await sleep(2)
  }
  const tally = await load.stop()
  t.equal(tally.refused, 0)
  const sent = relay.seen(/^EVAL /)
  t.ok(sent > 20, `sources sent ${sent} times`)
  await audit(t, store, tally)
  t.comment(`${flushes} flushes in 1.5 s: ${tally.asked} calls, refused 0, counted twice 0, sources sent ${sent} times`)
})

t.test('R8: while somebody\'s script runs, calls are refused within the deadline; nobody\'s script is killed', async (t) => {
  const redis = await startRedis(t, { args: ['--busy-reply-threshold', '100'] })
  const relay = await openRedisRelay(t, redis.port)
  const store = await openTestStore(t, relay.url, { deadlineMs })
  await warm(store)
  const load = startLoad([store])
  await sleep(300)
  const hog = failure(redis.cli('EVAL', 'while true do end', '0'))
  await waitFor('the server to be busy', () => redis.cli('PING').then(() => false, (error: unknown) => String(error).includes('BUSY')), { everyMs: 50 })
  await sleep(1_500)
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /BUSY|within 250 ms/ })
  t.notOk(relay.seen(/^(SCRIPT|SHUTDOWN|FUNCTION|DEBUG)/i), 'nothing was killed')
  await redis.cli('SCRIPT', 'KILL')
  const tookMs = await load.recovery()
  t.match(await hog, /killed/)
  const tally = await load.stop()
  t.ok(tookMs < recoveryMs)
  t.ok(tally.refused > 0)
  t.match([...tally.reasons].join('\n'), /BUSY|within 250 ms/)
  t.ok(tally.longestMs < deadlineMs + slackMs, `the longest call took ${Math.round(tally.longestMs)} ms`)
  figures(t, 'busy for 1.5 s', tally, tookMs, await audit(t, store, tally))
})

t.test('R9 R10 R11 R13 R14 R15: what a server answers in a bad state is refused in time and in plain words, and is over when it is', async (t) => {
  const answers: readonly [string, string, RegExp][] = [
    ['R9', 'LOADING Redis is loading the dataset in memory', /loading its data/],
    ['R10', 'READONLY You can\'t write against a read only replica.', /read-only replica/],
    ['R11', 'OOM command not allowed when used memory > \'maxmemory\'.', /no memory left/],
    ['R13', 'MISCONF Redis is configured to save RDB snapshots, but it\'s currently unable to persist to disk.', /cannot write to its disk/],
    ['R14', 'NOAUTH Authentication required.', /password/],
    ['R15', 'CLUSTERDOWN The cluster is down', /cluster is down/],
    ['R15', 'TRYAGAIN Multiple keys request during rehashing of slot', /being moved/],
    ['R10', 'MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to \'no\'.', /lost its primary/],
  ]
  const redis = await startRedis(t, {})
  await Promise.all(answers.map(async ([row, answer, words], n) => {
    const relay = await openRedisRelay(t, redis.port)
    const store = await openTestStore(t, relay.url, { deadlineMs, prefix: `answers${n}` })
    await warm(store)
    const load = startLoad([store], { parallel: 3, pauseMs: 20 })
    await sleep(200)
    relay.answer(answer, moveScripts)
    relay.answer(answer, /^EVALSHA e0e1f9/)
    await sleep(1_500)
    const attempts = relay.acceptedAtMs.length
    relay.heal()
    const tookMs = await load.recovery()
    const tally = await load.stop()
    t.ok(tookMs < recoveryMs, `${row} ${answer.split(' ')[0]}: back after ${Math.round(tookMs)} ms`)
    t.match([...tally.reasons].join('\n'), words, row)
    t.ok(attempts <= 5, `${row}: ${attempts} connections`)
    t.ok(tally.longestMs < deadlineMs + slackMs)
    figures(t, `${row} ${answer.split(' ')[0]} for 1.5 s`, tally, tookMs, await audit(t, store, tally))
  }))
})

t.test('R10: a server that is made a replica is refused, and served by again once it is a primary', async (t) => {
  const [redis, other] = await Promise.all([startRedis(t, {}), startRedis(t, {})])
  const store = await openTestStore(t, redis.url, { deadlineMs })
  await exchange(store)
  await redis.cli('CONFIG', 'SET', 'replica-read-only', 'yes')
  // A primary that is not there: its data stays what it is.
  await other.stop()
  await redis.cli('REPLICAOF', other.host, String(other.port))
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /read-only replica|READONLY/ })
  await sleep(500)
  t.notOk(store.status().admitting)
  await redis.cli('REPLICAOF', 'NO', 'ONE')
  await back(t, store, 'a primary again')
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 7, reserved: 0 }])
})

t.test('R11: when memory is full new calls are refused, while those that run are settled, voided and expired; nothing is thrown away', async (t) => {
  const redis = await startRedis(t, { maxmemory: '6mb', policy: 'noeviction' })
  const store = await openTestStore(t, redis.url, { deadlineMs })
  const now = Date.now()
  const ids = Array.from({ length: 300 }, () => newId(now))
  for (let at = 0; at < ids.length; at += 100) await Promise.all(ids.slice(at, at + 100).map((id) => store.reserve(reserveOf(id, now, home, [tokensOf(home)]))))
  // Somebody else's data, until not a byte is left.
  await redis.cli('EVAL', 'for n = 1, 100000 do local ok = redis.pcall("SET", "fill" .. n, string.rep("x", 1000)) if ok.err then return n end end', '0')
  const keysBefore = Number(await redis.cli('DBSIZE'))
  t.match(await failure(store.reserve(reserveOf(newId(now), now, home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /no memory left/ })
  t.match(await failure(store.extend(extendOf(ids[0]!, now, home, 1))), { name: 'StoreUnavailable' })
  const ends = await Promise.all(ids.map((id, n) => (
    n % 3 === 0 ? store.settle(settleOf(id, now, home, [tokensOf(home)], [7]))
      : n % 3 === 1 ? store.void({ id, nowMs: now, home })
        : store.expire({ id, nowMs: now + LEASE_MS, home, checkpoint: 0 })
  )))
  t.same(new Set(ends.map(({ outcome }) => outcome)), new Set(['settled', 'voided', 'expired']))
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 700, reserved: 0 }])
  t.equal((await store.outbox.scan(null, 1_000)).length, 200)
  t.match(await redis.cli('INFO', 'stats'), /evicted_keys:0\r/)
  t.ok(Number(await redis.cli('DBSIZE')) >= keysBefore)
  t.match(await failure(store.reserve(reserveOf(newId(now), now, home, [tokensOf(home)]))), { name: 'StoreUnavailable' }, 'still full')
  await redis.cli('EVAL', 'for n = 1, 100000 do redis.call("DEL", "fill" .. n) end', '0')
  await back(t, store, 'memory is free again')
  t.comment('memory full: 100 settled, 100 voided, 100 expired of 300 in flight; refused for it 0, evicted 0')
})

t.test('R13: a Redis that cannot write to its disk is refused, and goes on when it can', async (t) => {
  const redis = await startRedis(t, { args: ['--save', '3600', '1000000', '--enable-protected-configs', 'yes'] })
  const store = await openTestStore(t, redis.url, { deadlineMs })
  await exchange(store)
  const dir = (await redis.cli('CONFIG', 'GET', 'dir')).split('\n')[1]!
  await redis.cli('CONFIG', 'SET', 'dir', '/proc')
  await redis.cli('BGSAVE')
  await waitFor('the disk to be found wanting', async () => (await redis.cli('INFO', 'persistence')).includes('rdb_last_bgsave_status:err'), { everyMs: 20 })
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /cannot write to its disk/ })
  await redis.cli('CONFIG', 'SET', 'dir', dir)
  await redis.cli('BGSAVE')
  await waitFor('the disk to serve', async () => (await redis.cli('INFO', 'persistence')).includes('rdb_last_bgsave_status:ok'), { everyMs: 20 })
  await back(t, store, 'the disk is there again')
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 7, reserved: 0 }])
})

t.test('R14: a password that was changed, and rights that were taken, are told without secrets; with them back the store goes on', async (t) => {
  const redis = await startRedis(t, { password: 'hunter2-first' })
  const { log, lines } = journal()
  const store = await openTestStore(t, redis.url, { deadlineMs, log })
  await exchange(store)
  await redis.cli('CONFIG', 'SET', 'requirepass', 'hunter2-second')
  const admin = (...args: string[]): Promise<string> => redis.cli('--pass', 'hunter2-second', '--no-auth-warning', ...args)
  // Whoever is signed in stays so until the connection ends.
  await exchange(store)
  await admin('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  await waitFor('the refusal', () => store.status().reason?.includes('WRONGPASS'), { deadlineMs: 5_000 })
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /does not accept/ })
  await admin('CONFIG', 'SET', 'requirepass', 'hunter2-first')
  await back(t, store, 'the password is right again')

  await redis.cli('ACL', 'SETUSER', 'default', '-evalsha', '-eval')
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable', message: /may not/ })
  await redis.cli('ACL', 'SETUSER', 'default', '+evalsha', '+eval')
  await back(t, store, 'with the right again')
  t.match(await store.balances(home, [tokensOf(home)]), [{ used: 14, reserved: 0 }])
  t.notMatch(lines.join('\n'), /hunter2/)
  t.match(lines.join('\n'), /WRONGPASS/)
})

t.test('R18: a slow Redis costs its slowness, and beyond the deadline nothing that was refused stays held', async (t) => {
  const redis = await startRedis(t, {})
  for (const [delayMs, served] of [[5, true], [50, true], [500, false], ...(long ? [[5_000, false]] as const : [])] as const) {
    const relay = await openRedisRelay(t, redis.port)
    const store = await openTestStore(t, relay.url, { deadlineMs, prefix: `slow${delayMs}` })
    await warm(store)
    relay.delay(delayMs, moveScripts)
    const load = startLoad([store], { parallel: 5, pauseMs: 20 })
    const fromMs = performance.now()
    await sleep(1_200)
    const admitted = load.admitted
    if (!served) await waitFor('a refusal', () => load.refused > 0)
    t.equal(admitted > 0, served, `+${delayMs} ms: ${admitted} admitted`)
    relay.heal()
    const tookMs = await load.recovery()
    const tally = await load.stop()
    t.ok(tally.longestMs < deadlineMs + slackMs, `the longest call took ${Math.round(tally.longestMs)} ms`)
    if (served) t.equal(tally.refused, 0)
    else t.ok(tookMs < recoveryMs)
    await audit(t, store, tally)
    t.comment(`+${delayMs} ms for ${((performance.now() - fromMs) / 1000).toFixed(1)} s: ${tally.asked} calls, ${tally.refused} refused, longest ${Math.round(tally.longestMs)} ms, held at the end 0`)
  }
})

t.test('R19: a connection over which nothing comes any more is refused within the deadline and replaced', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openTcpRelay(t, redis.port)
  const store = await openTestStore(t, `redis://127.0.0.1:${relay.port}`, { deadlineMs })
  const load = startLoad([store])
  await sleep(300)
  relay.faults.mute = true
  await sleep(long ? 120_000 : 3_000)
  const attempts = relay.accepted
  relay.heal()
  const tookMs = await load.recovery()
  const tally = await load.stop()
  t.ok(attempts >= 2, `${attempts} connections: the dead one was replaced`)
  t.ok(attempts <= (long ? 125 : 6), `${attempts} connections`)
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  t.ok(tally.longestMs < deadlineMs + slackMs, `the longest call took ${Math.round(tally.longestMs)} ms`)
  figures(t, `half-open for ${long ? 120 : 3} s`, tally, tookMs, await audit(t, store, tally))
})

t.test('R20: connections that are reset now and then cost less than one call in a hundred', async (t) => {
  const redis = await startRedis(t, {})
  const seconds = long ? 600 : 15
  const relays = await Promise.all([0, 1].map(() => openRedisRelay(t, redis.port)))
  const stores = await Promise.all(relays.map((relay) => openTestStore(t, relay.url, { deadlineMs })))
  await warm(stores[0]!)
  const load = startLoad(stores, { parallel: 10, pauseMs: 10 })
  // A server is tried once a second at most, from the first connection on.
  await sleep(1_300)
  let resets = 0
  for (const endMs = performance.now() + seconds * 1_000; performance.now() < endMs; resets += 1) {
    await sleep(700)
    relays[resets % 2]!.cut(resets % 4 < 2 ? 'before' : 'after', moveScripts)
  }
  const tally = await load.stop()
  t.ok(tally.refused < tally.asked / 100, `${tally.refused} of ${tally.asked} refused`)
  const books = await audit(t, stores[0]!, tally)
  t.comment(`${resets} resets in ${seconds} s over two gateways: ${tally.asked} calls, ${tally.refused} refused (${(100 * tally.refused / tally.asked).toFixed(2)} %), events lost ${books.lost}, doubled ${books.doubled}`)
})

t.test('R21: a Redis with no room for another client is knocked at once a second at most', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const store = await openTestStore(t, relay.url, { deadlineMs })
  const load = startLoad([store])
  await sleep(200)
  // Two places, and somebody sits on both.
  const sitters = Array.from({ length: 2 }, () => connect(redis.port, redis.host))
  t.teardown(() => sitters.forEach((socket) => socket.destroy()))
  for (const socket of sitters) socket.on('error', () => undefined)
  await Promise.all(sitters.map((socket) => new Promise((resolve) => socket.once('connect', resolve))))
  await redis.cli('CONFIG', 'SET', 'maxclients', '2')
  relay.drop()
  const [before, fromMs] = [relay.acceptedAtMs.length, performance.now()]
  await sleep(3_500)
  const attempts = relay.acceptedAtMs.slice(before).filter((atMs) => atMs > fromMs + 100).length
  t.ok(attempts <= 5, `${attempts} attempts in 3.5 s`)
  t.match(store.status().reason, /maxclients|was cut/)
  t.match(await failure(store.reserve(reserveOf(newId(Date.now()), Date.now(), home, [tokensOf(home)]))), { name: 'StoreUnavailable' })
  for (const socket of sitters) socket.destroy()
  const tookMs = await load.recovery()
  const tally = await load.stop()
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  await redis.cli('CONFIG', 'SET', 'maxclients', '100')
  figures(t, `no room for 3.5 s, ${attempts} attempts`, tally, tookMs, await audit(t, store, tally))
})

t.test('R25: ten thousand calls of one tenant at once are admitted exactly, and refusals leave nothing behind', async (t) => {
  const redis = await startRedis(t, {})
  const stores = await Promise.all([0, 1].map(() => openTestStore(t, redis.url, { deadlineMs: 5_000 })))
  const limit = 2_000
  const checks = [check('hot', limit, 1), check('hot parallel', 5_000, 1), check('hot cost', 1e12, 17)]
  const now = Date.now()
  const ask = async (n: number): Promise<{ id: string; outcome: string; tookMs: number }> => {
    const fromMs = performance.now()
    const id = newId(now)
    const { outcome } = await stores[n % 2]!.reserve(reserveOf(id, now, home, checks))
    return { id, outcome, tookMs: performance.now() - fromMs }
  }
  const fromMs = performance.now()
  const answers = await Promise.all(Array.from({ length: 5_000 }, (_, n) => ask(n)))
  const keysBefore = await redis.cli('DBSIZE')
  answers.push(...await Promise.all(Array.from({ length: 5_000 }, (_, n) => ask(n))))
  const seconds = (performance.now() - fromMs) / 1_000
  const admitted = answers.filter(({ outcome }) => outcome === 'admitted')
  t.equal(admitted.length, limit)
  t.equal(answers.filter(({ outcome }) => outcome === 'denied').length, 10_000 - limit)
  t.equal(await redis.cli('DBSIZE'), keysBefore, 'a refusal leaves no key')
  await Promise.all(admitted.map(({ id }, n) => stores[n % 2]!.settle(settleOf(id, now, home, checks, [1, 0, 9]))))
  t.match(await stores[0]!.balances(home, checks), [{ used: limit, reserved: 0 }, { used: 0, reserved: 0 }, { used: 9 * limit, reserved: 0 }])
  const latest = answers.map(({ tookMs }) => tookMs).sort((a, b) => a - b)
  t.comment(`10,000 calls of one account over two gateways, 5,000 at once: ${admitted.length} admitted of ${limit}, ${Math.round(10_000 / seconds)} a second, p50 ${Math.round(latest[5_000]!)} ms, p99 ${Math.round(latest[9_900]!)} ms`)
})

t.test('R26: a Redis that comes and goes every second is not run over by five gateways each time it comes', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openTcpRelay(t, redis.port)
  const stores = await Promise.all(Array.from({ length: 5 }, () => openTestStore(t, `redis://127.0.0.1:${relay.port}`, { deadlineMs })))
  const load = startLoad(stores, { parallel: 10, pauseMs: 10 })
  const seconds = long ? 300 : 12
  const before = relay.accepted
  const fromMs = performance.now()
  for (let n = 0; n < seconds / 2; n++) {
    relay.faults.refuse = true
    relay.drop()
    await sleep(1_000)
    relay.heal()
    await sleep(1_000)
  }
  const perSecond = (relay.accepted - before) / ((performance.now() - fromMs) / 1_000)
  t.ok(perSecond <= 5 * 2, `${perSecond.toFixed(1)} connections a second of five gateways`)
  const tookMs = await load.recovery()
  const tally = await load.stop()
  t.ok(tookMs < recoveryMs)
  t.ok(load.admitted > 20, 'calls were served in between')
  t.comment(`${perSecond.toFixed(1)} connections a second of five gateways`)
  figures(t, `coming and going for ${seconds} s`, tally, tookMs, await audit(t, stores[0]!, tally))
})

t.test('R27: whatever several replicas make of the same overdue reservations, each is given back once and told once', async (t) => {
  const redis = await startRedis(t, {})
  const stores = await Promise.all([0, 1, 2].map(() => openTestStore(t, redis.url)))
  const now = Date.now()
  const ids = Array.from({ length: 200 }, () => newId(now))
  await Promise.all(ids.map((id) => stores[0]!.reserve(reserveOf(id, now, home, [tokensOf(home)]))))
  await Promise.all(ids.map((id) => stores[0]!.extend(extendOf(id, now, home, 1, { counted: { amounts: [3], usage: { requests: 1, total_tokens: 3 } } }))))
  const nowMs = now + LEASE_MS
  for (let round = 0; round < 2; round++) {
    await Promise.all(stores.map(async (store) => {
      for (const due of await store.due(nowMs)) await store.expire({ id: due.id, nowMs, home: due.home, checkpoint: due.checkpoint })
      await Promise.all(ids.slice(0, 50).map((id) => store.void({ id, nowMs, home })))
    }))
  }
  t.match(await stores[1]!.balances(home, [tokensOf(home)]), [{ used: 600, reserved: 0 }])
  const events = await stores[2]!.outbox.scan(null, 1_000)
  t.equal(events.length, 200)
  t.equal(new Set(events.map(({ record }) => record.id)).size, 200)
})

t.test('R15: every key of one move is in one slot, for every root account', async (t) => {
  const names = ['acme', '', 'ünïcode', '{p3}', 'a{b}c', '}{', 'initech / x {books}', '{', '{}x', 'line of words', '0'.repeat(300)]
  const builders = Object.getOwnPropertyNames(KeyNames.prototype).filter((name) => name !== 'constructor' && name !== 'partitionOf')
  const shared = new Set(['meta', 'records', 'changes', 'lease', 'consumers', 'dead', 'deadOrder', 'rollups'])
  t.same(builders.filter((name) => !shared.has(name)).sort(), ['cursor', 'epoch', 'events', 'held', 'lastEvent', 'reservation', 'settled', 'due', 'rollup'].sort(), 'a new builder is to be looked at here')
  for (const prefix of ['tallygate', 'a b', 'ü']) {
    const keys = new KeyNames(prefix, 256)
    const build = (name: string, ...args: unknown[]): string => (keys as unknown as Record<string, (...args: unknown[]) => string>)[name]!(...args)
    for (const home of names) {
      const p = keys.partitionOf(home)
      const slots = new Set(builders.filter((name) => !shared.has(name)).flatMap((name) => names.map((part) => slotOf(build(name, p, `${home}|${part}`)))))
      t.equal(slots.size, 1, JSON.stringify(home))
    }
    t.equal(new Set([...shared].flatMap((name) => names.map((part) => slotOf(build(name, part))))).size, 1)
  }
  t.ok(new Set(Array.from({ length: 256 }, (_, p) => slotOf(new KeyNames('x', 256).epoch(p)))).size > 240, 'partitions are spread')
})

t.test('the audit can fail: a settlement that is not in the books is seen', async (t) => {
  const redis = await startRedis(t, {})
  const store = await openTestStore(t, redis.url)
  const load = startLoad([store])
  await sleep(100)
  const tally = await load.stop()
  const keys = new KeyNames('test', 16)
  await redis.cli('DECRBY', keys.settled(keys.partitionOf(home), 'acme tokens'), '1')
  let failed = 0
  const seen = { equal: (a: unknown, b: unknown) => { if (a !== b) failed += 1 }, match: (a: readonly { used: number }[], b: readonly { used: number }[]) => { if (a[0]?.used !== b[0]?.used) failed += 1 } }
  await audit(seen as unknown as Test, store, tally)
  t.equal(failed, 1)
  const more = { ...tally, settled: new Map([...tally.settled].map(([home, ids]) => [home, home === 'globex' ? new Set([...ids, 'lost']) : ids])) }
  failed = 0
  await audit(seen as unknown as Test, store, more)
  t.ok(failed >= 3)
})
