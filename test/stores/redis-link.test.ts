// test: timeout 240 s
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import type { Log } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { parseRedisUrl } from '../../src/stores/redis/address.ts'
import { Breaker } from '../../src/stores/redis/breaker.ts'
import { openLink, type OpenLinkOptions } from '../../src/stores/redis/connection.ts'
import { readErrorReply } from '../../src/stores/redis/error-reply.ts'
import { RedisError, type RedisLink, type Script } from '../../src/stores/redis/link.ts'
import { slotOf } from '../../src/stores/redis/slot.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis, startRedisCluster, startRedisSentinel } from '../fixtures/redis.ts'
import { openTcpRelay } from '../fixtures/tcp-relay.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'

const deadlineMs = 250
/** What a busy machine may add to a deadline before we call it a hang. */
const slackMs = 400
/** The promise: usable again so long after the server is. */
const recoveryMs = 2000

type Line = { readonly level: string; readonly message: string; readonly fields: Readonly<Record<string, unknown>> }

async function open(t: Teardown, url: string, options: Partial<OpenLinkOptions> = {}): Promise<{ link: RedisLink; lines: Line[]; changes: () => number }> {
  const lines: Line[] = []
  const note = (level: string) => (fields: object, message: string): void => { lines.push({ level, message, fields: fields as Line['fields'] }) }
  const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') }
  const link = await openLink({ url, deadlineMs, clock: systemClock, random: systemRandom, log, ...options })
  t.teardown(() => link.close())
  let changes = 0
  link.onServerChange(() => { changes += 1 })
  return { link, lines, changes: () => changes }
}

function script(source: string): Script {
  return { name: 'test', source, sha1: createHash('sha1').update(source).digest('hex') }
}

const incr = script('return redis.call("INCR", KEYS[1])')

async function failure(call: Promise<unknown>): Promise<Error> {
  try {
    const answer = await call
    throw new assert.Answered(`answered ${String(answer)}`)
  } catch (error) {
    if (error instanceof assert.Answered) throw error
    return error as Error
  }
}
const assert = { Answered: class extends Error {} }

/** Calls until one is answered; how long that took from now. */
async function recovery(call: () => Promise<unknown>): Promise<number> {
  const fromMs = performance.now()
  for (;;) {
    const ok = await call().then(() => true, () => false)
    if (ok) return performance.now() - fromMs
    if (performance.now() - fromMs > 15_000) throw new Error('it did not come back within 15 s')
    await sleep(5)
  }
}

t.test('a URL says where Redis is, and is never shown with its password', async (t) => {
  const table: readonly [string, object][] = [
    ['redis://h', { kind: 'single', tls: false, hosts: [{ host: 'h', port: 6379 }], user: null, password: null, db: 0, primary: null, shown: 'redis://h:6379' }],
    ['rediss://:s%40c@h:1/3', { kind: 'single', tls: true, hosts: [{ host: 'h', port: 1 }], user: null, password: 's@c', db: 3, shown: 'rediss://h:1/3' }],
    ['redis://u:a@b@[::1]:7', { hosts: [{ host: '::1', port: 7 }], user: 'u', password: 'a@b', shown: 'redis://[::1]:7' }],
    ['redis+cluster://u:p@a:1,b', { kind: 'cluster', hosts: [{ host: 'a', port: 1 }, { host: 'b', port: 6379 }], shown: 'redis+cluster://a:1,b:6379' }],
    ['rediss+sentinel://a,b:2/main/4', { kind: 'sentinel', tls: true, hosts: [{ host: 'a', port: 26379 }, { host: 'b', port: 2 }], primary: 'main', db: 4, shown: 'rediss+sentinel://a:26379,b:2/main/4' }],
  ]
  for (const [url, parts] of table) t.match(parseRedisUrl(url), parts, url)
  const bad = [
    'http://h', 'redis://', 'redis://a,b', 'redis://hunter2@h', 'redis://:hunter2@h:x', 'redis://:hunter2@h:70000', 'redis+cluster://:hunter2@h/1',
    'redis+sentinel://:hunter2@h', 'redis://:hunter2@h/0/1', 'redis://:hunter2@h/db', 'redis://:hunter2%@h', 'redis://:hunter2@h?x=1', 'redis://:hunter2@a:b:c',
  ]
  for (const url of bad) {
    const error = await failure((async () => parseRedisUrl(url))())
    t.notMatch(error.message, /hunter2/, url)
    t.ok(error.message.length > 20, error.message)
  }
})

t.test('the breaker opens after five calls in a row without an answer, and closes at the first answer', async (t) => {
  const breaker = new Breaker({ ...systemRandom, fraction: () => 0.5 })
  for (let call = 0; call < 4; call += 1) t.notOk(breaker.timedOut(call, 'slow'))
  breaker.answered()
  for (let call = 0; call < 4; call += 1) t.notOk(breaker.timedOut(100 + call, 'slow'), 'an answer in between starts the count again')
  t.notOk(breaker.open)
  t.ok(breaker.timedOut(110, 'slow'))
  t.ok(breaker.open)
  t.equal(breaker.reason, 'slow')
  t.equal(breaker.probeAtMs, 360)
  t.notOk(breaker.timedOut(400, 'slow'), 'opened once')
  t.equal(breaker.probeAtMs, 650)
  t.notOk(breaker.isSilent(1109))
  t.ok(breaker.isSilent(1110), 'nothing heard for a second')
  breaker.refused(1200, 'loading')
  t.equal(breaker.reason, 'loading')
  t.notOk(breaker.isSilent(2199), 'a refusal is a sign of life')
  t.ok(breaker.answered())
  t.notOk(breaker.open)
  t.ok(breaker.refused(3000, 'loading'), 'who serves nobody is asked no more, at once')
})

t.test('every error reply has a meaning', async (t) => {
  const of = (message: string): string => {
    const reply = readErrorReply(message)
    return 'code' in reply ? `${reply.kind} ${reply.code}` : reply.kind
  }
  const table: readonly [string, string][] = [
    ['LOADING Redis is loading the dataset in memory', 'server LOADING'],
    ['MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to \'no\'.', 'server MASTERDOWN'],
    ['READONLY You can\'t write against a read only replica.', 'connection READONLY'],
    ['READONLY You can\'t write against a read only replica. script: 8c, on @user_script:1.', 'connection READONLY'],
    ['NOAUTH Authentication required.', 'connection NOAUTH'],
    ['WRONGPASS invalid username-password pair or user is disabled.', 'connection WRONGPASS'],
    ['ERR max number of clients reached', 'connection ERR'],
    ['OOM command not allowed when used memory > \'maxmemory\'. script: 8c, on @user_script:1.', 'call OOM'],
    ['ERR Error running script (call to f_8c): @user_script:1: @user_script: 1: -OOM command not allowed when used memory > \'maxmemory\'. ', 'call OOM'],
    ['MISCONF Redis is configured to save RDB snapshots, but …', 'call MISCONF'],
    ['BUSY Redis is busy running a script.', 'call BUSY'],
    ['NOPERM this user has no permissions to run the \'evalsha\' command', 'call NOPERM'],
    ['TRYAGAIN Multiple keys request during rehashing of slot', 'call TRYAGAIN'],
    ['CLUSTERDOWN Hash slot not served', 'call CLUSTERDOWN'],
    ['NOREPLICAS Not enough good replicas to write.', 'call NOREPLICAS'],
    ['NOSCRIPT No matching script. Please use EVAL.', 'noscript'],
    ['MOVED 3999 127.0.0.1:6381', 'moved'],
    ['ASK 3999 ::1:6381', 'ask'],
    ['WRONGTYPE Operation against a key holding the wrong kind of value', 'wrong'],
    ['CROSSSLOT Keys in request don\'t hash to the same slot', 'wrong'],
    ['ERR value is not an integer or out of range', 'wrong'],
  ]
  for (const [message, meaning] of table) t.equal(of(message), meaning)
  t.same(readErrorReply('ASK 3999 ::1:6381'), { kind: 'ask', slot: 3999, host: '::1', port: 6381 })
  const unknown = readErrorReply('ERR unknown command \'FOO\', with args beginning with: \'hunter2\' ')
  t.ok(unknown.kind === 'wrong' && !unknown.error.message.includes('hunter2'))
})

t.test('commands written together are answered in order, each on its own', async (t) => {
  const redis = await startRedis(t, {})
  const { link } = await open(t, redis.url)
  t.ok(link.up)
  t.equal(link.reason, null)
  t.equal(link.clustered, false)
  const answers = await link.commands([
    { key: 'k', name: 'SET', args: ['k', 'v'] },
    { key: 'k', name: 'INCR', args: ['k'] },
    { key: 'h', name: 'HSET', args: ['h', 'f', Buffer.from('é')] },
    { key: 'h', name: 'hgetall', args: ['h'] },
    { key: 'n', name: 'INCRBY', args: ['n', '9007199254740993'] },
    { key: 'n', name: 'GET', args: ['n'] },
  ])
  t.equal(answers[0], 'OK')
  t.ok(answers[1] instanceof RedisError)
  t.match(answers[1], { code: 'ERR' })
  t.same(answers[3], ['f', 'é'], 'replies are as they come')
  t.equal(answers[5], '9007199254740993')
  const [one] = await link.info()
  t.match(one?.info.get('redis_version'), /^\d+\./)
  const [configuration] = await link.configuration(['appendonly', 'no-such-setting'])
  t.same([...configuration?.configuration ?? []], [['appendonly', 'no']])
})

t.test('a command whose answer was lost is reported as unknown, and never sent again', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const { link, changes } = await open(t, relay.url)
  relay.cut('after', /^INCR/)
  t.ok(await failure(link.command('k', 'INCR', ['k'])) instanceof StoreUnavailable)
  t.ok(await recovery(() => link.command('k', 'GET', ['k'])) < recoveryMs)
  await sleep(1200)
  t.equal(await redis.cli('GET', 'k'), '1')
  t.equal(changes(), 0, 'it is the same server')

  relay.cut('before', /^INCR/)
  t.ok(await failure(link.command('k', 'INCR', ['k'])) instanceof StoreUnavailable)
  await recovery(() => link.command('k', 'GET', ['k']))
  t.equal(await redis.cli('GET', 'k'), '1')
})

t.test('a script that the server has forgotten is given to it again, once per call, first and concurrent calls alike', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const { link } = await open(t, relay.url)
  for (let round = 1; round <= 3; round += 1) {
    await Promise.all(Array.from({ length: 100 }, () => link.script(incr, ['k'], [])))
    t.equal(await redis.cli('GET', 'k'), String(round * 100))
    await redis.cli('SCRIPT', 'FLUSH')
  }
  const loaded = relay.seen(/^EVAL /)
  await redis.cli('SCRIPT', 'LOAD', incr.source)
  await link.script(incr, ['k'], [])
  t.equal(relay.seen(/^EVAL /), loaded, 'a known script travels as its hash')
})

t.test('what the server answers in a bad state fails the call in plain words, and is over within two seconds of its end', async (t) => {
  const redis = await startRedis(t, {})
  // Which of them speak for all calls: then nothing is sent any more.
  const table: readonly [string, boolean][] = [
    ['OOM command not allowed when used memory > \'maxmemory\'.', true],
    ['MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.', true],
    ['BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.', true],
    ['TRYAGAIN Multiple keys request during rehashing of slot', true],
    ['CLUSTERDOWN The cluster is down', true],
    ['NOPERM this user has no permissions to run the \'evalsha\' command', true],
    ['LOADING Redis is loading the dataset in memory', false],
    ['MASTERDOWN Link with MASTER is down', false],
    ['READONLY You can\'t write against a read only replica.', false],
    ['NOAUTH Authentication required.', false],
  ]
  await Promise.all(table.map(async ([message, staysUp]) => {
    const relay = await openRedisRelay(t, redis.port)
    const { link } = await open(t, relay.url)
    relay.answer(message, /^EVAL/)
    const [code] = message.split(' ')
    for (let call = 0; call < 8; call += 1) {
      const error = await failure(link.script(incr, ['k'], []))
      t.ok(error instanceof StoreUnavailable, `${code}`)
      t.match(error.message, new RegExp(code!))
    }
    t.equal(link.up, staysUp, `${code}: ${staysUp ? 'one call says nothing of others' : 'speaks for all'}`)
    if (!staysUp) t.ok(relay.seen(/^EVALSHA \w+ 1 /) <= 2, `${code}: nothing is sent to who serves nobody`)
    await sleep(300)
    relay.heal()
    const tookMs = await recovery(() => link.script(incr, ['k'], []))
    t.ok(tookMs < recoveryMs, `${code}: back after ${Math.round(tookMs)} ms`)
  }))
})

t.test('no call outlives its deadline, whatever the server does; while it is away calls fail at once; it is back within two seconds', async (t) => {
  const ways: readonly [string, (t: Teardown) => Promise<{ url: string; away(): Promise<unknown>; back(): Promise<unknown> }>][] = [
    ['paused', async (t) => {
      const redis = await startRedis(t, {})
      // Nobody can end such a pause, as everybody is paused.
      let endsAtMs = 0
      const away = (): Promise<unknown> => {
        endsAtMs = performance.now() + 4000
        return redis.cli('CLIENT', 'PAUSE', '4000', 'ALL')
      }
      return { url: redis.url, away, back: () => sleep(endsAtMs - performance.now()) }
    }],
    ['paused for writes', async (t) => {
      const redis = await startRedis(t, {})
      return { url: redis.url, away: () => redis.cli('CLIENT', 'PAUSE', '60000', 'WRITE'), back: () => redis.cli('CLIENT', 'UNPAUSE') }
    }],
    ['stopped', async (t) => {
      const redis = await startRedis(t, {})
      return { url: redis.url, away: () => redis.stop('SIGSTOP'), back: () => redis.stop('SIGCONT') }
    }],
    ['killed and started again', async (t) => {
      const redis = await startRedis(t, { appendonly: 'always' })
      return { url: redis.url, away: () => redis.stop('SIGKILL'), back: () => redis.start() }
    }],
    ['gone silent, connection half-open', async (t) => {
      const redis = await startRedis(t, {})
      const relay = await openTcpRelay(t, redis.port)
      return { url: `redis://127.0.0.1:${relay.port}`, away: async () => { relay.faults.mute = true }, back: async () => relay.heal() }
    }],
    ['5 s slower', async (t) => {
      const redis = await startRedis(t, {})
      const relay = await openTcpRelay(t, redis.port)
      return { url: `redis://127.0.0.1:${relay.port}`, away: async () => { relay.faults.delayMs = 5000 }, back: async () => relay.heal() }
    }],
    ['refusing connections', async (t) => {
      const redis = await startRedis(t, {})
      const relay = await openTcpRelay(t, redis.port)
      return {
        url: `redis://127.0.0.1:${relay.port}`,
        away: async () => {
          relay.faults.refuse = true
          relay.drop()
        },
        back: async () => relay.heal(),
      }
    }],
  ]
  await Promise.all(ways.map(async ([name, make]) => {
    const { url, away, back } = await make(t)
    const states: boolean[] = []
    const { link, lines } = await open(t, url, { onState: (up) => { states.push(up) } })
    t.equal(await link.script(incr, ['k'], []), 1, name)
    await away()
    let longestMs = 0
    const untilMs = performance.now() + 2500
    const calls: Promise<Error>[] = []
    while (performance.now() < untilMs) {
      const fromMs = performance.now()
      calls.push(failure(link.script(incr, ['k'], [])).finally(() => { longestMs = Math.max(longestMs, performance.now() - fromMs) }))
      await sleep(20)
    }
    const errors = await Promise.all(calls)
    t.same(errors.filter((error) => !(error instanceof StoreUnavailable)), [], name)
    t.ok(longestMs < deadlineMs + slackMs, `${name}: longest call ${Math.round(longestMs)} ms`)
    t.notOk(link.up, name)
    const fromMs = performance.now()
    for (let call = 0; call < 100; call += 1) await failure(link.script(incr, ['k'], []))
    t.ok(performance.now() - fromMs < 200, `${name}: a hundred calls that are not sent take no time`)
    await back()
    const tookMs = await recovery(() => link.script(incr, ['k'], []))
    t.ok(tookMs < recoveryMs, `${name}: back after ${Math.round(tookMs)} ms`)
    t.comment(`${name}: longest call ${Math.round(longestMs)} ms, back after ${Math.round(tookMs)} ms`)
    t.ok(link.up, name)
    t.same(states, [true, false, true], name)
    t.equal(lines.filter(({ message }) => message === 'Redis is back').length, 1, name)
    t.ok(lines.length <= 6, `${name}: an outage of ${calls.length} calls takes ${lines.length} lines of log`)
  }))
})

t.test('a link opened while nobody is there, or somebody who never answers, is down with the reason, and comes up by itself', async (t) => {
  const held: Socket[] = []
  const silent = createServer((socket) => { held.push(socket.on('error', () => socket.destroy())) })
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of held) socket.destroy()
    silent.close()
  })
  const { link: waiting } = await open(t, `redis://127.0.0.1:${(silent.address() as AddressInfo).port}`)
  t.notOk(waiting.up)
  t.match(waiting.reason, /no answer within/)
  const call = failure(waiting.command('k', 'GET', ['k']))
  t.match(await call, { name: 'StoreUnavailable', message: /no answer within/ })

  const redis = await startRedis(t, {})
  await redis.stop()
  const { link, lines } = await open(t, redis.url)
  t.notOk(link.up)
  t.match(link.reason, /ECONNREFUSED/)
  await redis.start()
  t.ok(await recovery(() => link.command('k', 'GET', ['k'])) < recoveryMs)
  t.same(lines.map(({ level, message }) => [level, message]), [['warn', 'Redis cannot be used'], ['info', 'Redis is back']])
  await link.close()
  t.match(await failure(link.command('k', 'GET', ['k'])), { name: 'StoreUnavailable', message: /closed/ })
  t.notOk(link.up)
})

t.test('closing lets calls on their way end', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const { link } = await open(t, relay.url)
  relay.delay(100, /^INCR/)
  const answer = link.command('k', 'INCR', ['k'])
  await link.close()
  t.equal(await answer, 1)
})

t.test('a server is tried once a second at most, however it fails', async (t) => {
  const redis = await startRedis(t, {})
  const full = await openRedisRelay(t, redis.port)
  full.answer('ERR max number of clients reached')
  const flapping = await openRedisRelay(t, redis.port)
  const { link } = await open(t, full.url)
  t.match(link.reason, /maxclients/)
  await open(t, flapping.url)
  const stop = setInterval(() => flapping.drop(), 130)
  await sleep(4500)
  clearInterval(stop)
  for (const [name, { acceptedAtMs }] of Object.entries({ full, flapping })) {
    const gaps = acceptedAtMs.slice(1).map((atMs, index) => atMs - acceptedAtMs[index]!)
    t.ok(gaps.length >= 3, `${name}: it goes on trying`)
    t.ok(gaps.every((gap) => gap > 950), `${name}: ${gaps.map(Math.round).join(', ')} ms`)
  }
  full.heal()
  t.ok(await recovery(() => link.command('k', 'GET', ['k'])) < recoveryMs)
})

t.test('a restart is told to those who must know, a mere reconnect is not; without INFO every reconnect counts as one', async (t) => {
  const redis = await startRedis(t, { appendonly: 'always' })
  const relay = await openRedisRelay(t, redis.port)
  await redis.cli('ACL', 'SETUSER', 'blind', 'on', '>hunter2', '~*', '+@all', '-info')
  const seeing = await open(t, relay.url)
  const blind = await open(t, relay.url.replace('//', '//blind:hunter2@'))
  t.ok(blind.link.up)
  relay.drop()
  await sleep(20)
  for (const { link } of [seeing, blind]) t.ok(await recovery(() => link.command('k', 'GET', ['k'])) < recoveryMs)
  t.equal(seeing.changes(), 0)
  t.equal(blind.changes(), 1)
  await redis.stop()
  await redis.start()
  await recovery(() => seeing.link.command('k', 'GET', ['k']))
  t.equal(seeing.changes(), 1)
})

t.test('a password that is not accepted is told without it, and the link recovers when it is', async (t) => {
  const redis = await startRedis(t, { password: 'hunter2' })
  const wrong = await open(t, `redis://:hunter3@127.0.0.1:${redis.port}`)
  const none = await open(t, `redis://127.0.0.1:${redis.port}`)
  const right = await open(t, redis.url)
  t.ok(right.link.up)
  t.match(wrong.link.reason, /password.*WRONGPASS/)
  t.match(none.link.reason, /password.*NOAUTH/)
  t.match(await failure(wrong.link.command('k', 'GET', ['k'])), { name: 'StoreUnavailable', message: /password/ })

  await redis.cli('CONFIG', 'SET', 'requirepass', 'hunter3')
  const tookMs = await recovery(() => wrong.link.command('k', 'GET', ['k']))
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  await runOn(redis.port, 'hunter3', 'CONFIG', 'SET', 'requirepass', '')
  t.ok(await recovery(() => none.link.command('k', 'GET', ['k'])) < recoveryMs)
  const told = JSON.stringify([wrong.lines, none.lines, right.lines])
  t.notMatch(told, /hunter/)
  t.match(told, /Redis does not accept the user or the password/)
  t.match(wrong.lines.map(({ level }) => level), ['warn', 'info'])

  // A server that wants no password takes one as a mistake; the link does not.
  const open2 = await open(t, `redis://:hunter9@127.0.0.1:${redis.port}`)
  t.ok(open2.link.up)
})

/** The password has changed under the fixture's own hands. */
async function runOn(port: number, password: string, ...args: string[]): Promise<void> {
  const link = await openLink({
    url: `redis://:${password}@127.0.0.1:${port}`, deadlineMs, clock: systemClock, random: systemRandom, log: { debug() {}, info() {}, warn() {}, error() {} },
  })
  await link.command('', args[0]!, args.slice(1))
  await link.close()
}

t.test('a user who may no longer run scripts is told once; the calls come back with the right', async (t) => {
  const redis = await startRedis(t, {})
  await redis.cli('ACL', 'SETUSER', 'gate', 'on', '>hunter2', '~*', '+@all')
  const { link, lines } = await open(t, `redis://gate:hunter2@127.0.0.1:${redis.port}`)
  await link.script(incr, ['k'], [])
  await redis.cli('ACL', 'SETUSER', 'gate', '-evalsha')
  for (let call = 0; call < 10; call += 1) t.match(await failure(link.script(incr, ['k'], [])), { name: 'StoreUnavailable', message: /NOPERM/ })
  t.equal(lines.length, 1)
  t.match(lines[0], { level: 'warn', fields: { reason: /NOPERM/ } })
  await redis.cli('ACL', 'SETUSER', 'gate', '+evalsha')
  t.ok(await recovery(() => link.script(incr, ['k'], [])) < recoveryMs)
})

t.test('a full memory refuses writes alone', async (t) => {
  const redis = await startRedis(t, { policy: 'noeviction' })
  const { link } = await open(t, redis.url)
  await link.command('small', 'SET', ['small', 'v'])
  await redis.cli('CONFIG', 'SET', 'maxmemory', '100kb')
  t.match(await failure(link.command('k', 'SET', ['k', 'v'])), { name: 'StoreUnavailable', message: /maxmemory.*OOM/ })
  for (let n = 0; n < 10; n += 1) t.match(await failure(link.script(incr, ['n'], [])), { message: /OOM/ })
  t.ok(link.up)
  t.equal(await link.command('small', 'GET', ['small']), 'v')
})

t.test('a server made a replica is left alone until it is a primary again', async (t) => {
  const redis = await startRedis(t, {})
  const { link } = await open(t, redis.url)
  await link.script(incr, ['k'], [])
  await redis.cli('REPLICAOF', '127.0.0.1', '1')
  t.match(await failure(link.command('k', 'SET', ['k', 'v'])), { name: 'StoreUnavailable', message: /read-only replica/ })
  await sleep(1500)
  t.notOk(link.up)
  t.match(link.reason, /read-only replica/)
  await redis.cli('REPLICAOF', 'NO', 'ONE')
  t.ok(await recovery(() => link.script(incr, ['k'], [])) < recoveryMs)
})

t.test('a write that must be on disk is refused by a server that cannot tell', async (t) => {
  const redis = await startRedis(t, { appendonly: 'always' })
  const version = /redis_version:(\d+)\.(\d+)/.exec(await redis.cli('INFO', 'server'))!
  const modern = Number(version[1]) * 100 + Number(version[2]) >= 702
  const confirm = { replicas: 0, fsync: true }
  if (modern) {
    const { link } = await open(t, redis.url, { confirm })
    t.equal(await link.script(incr, ['k'], [], { confirm }), 1)
  } else {
    t.match(await failure(open(t, redis.url, { confirm })), { message: /WAITAOF.*7\.2/ })
  }
})

t.test('through Sentinel: a write may wait for a replica, and both an orderly and a forced failover are followed', async (t) => {
  const sentinel = await startRedisSentinel(t, { sentinels: 3 })
  const { link, lines, changes } = await open(t, sentinel.url)
  const one = { replicas: 1, fsync: false }
  await link.command('', 'SCRIPT', ['LOAD', incr.source])
  const both = await Promise.all([
    link.script(incr, ['k'], [], { confirm: one }),
    link.script(incr, ['k'], [], { confirm: one }),
    link.command('k', 'GET', ['k'], { confirm: { replicas: 0, fsync: false } }),
  ])
  t.same(both, [1, 2, '2'])
  t.match(await failure(link.script(incr, ['k'], [], { confirm: { replicas: 2, fsync: false } })), {
    // On a busy machine the deadline may be over before the server has said how many there are.
    name: 'StoreUnavailable', message: /^the write was made, but (only 1 of 2 replicas had it in time|not confirmed within 250 ms)$/,
  })
  t.equal(await link.command('k', 'GET', ['k']), '3')
  t.ok(link.up)

  await sentinel.failover()
  // The former primary lives, hears of it late, and takes writes for seconds more: none may be sent to it once the sentinels' word has had time to come.
  await sleep(recoveryMs)
  t.equal(await link.script(incr, ['k'], []), 4)
  t.equal(await (await sentinel.primary()).cli('GET', 'k'), '4')
  t.equal(changes(), 1)

  const { promoted } = await sentinel.killPrimary()
  await promoted
  const tookMs = await recovery(() => link.script(incr, ['k'], []))
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  t.equal(changes(), 2)

  // Cut off from the others, the first sentinel to answer would still name the dead one: the latest election counts.
  await Promise.all(sentinel.sentinels.map((one) => one.stop()))
  await sleep(1200)
  t.ok(link.up, 'without any sentinel the primary at hand serves on')
  t.equal(typeof await link.script(incr, ['k'], []), 'number')
  t.equal(lines.filter(({ message }) => message === 'Redis is back').length, 2)
})

t.test('while a replica that must confirm is away, writes are refused one by one and reading goes on', async (t) => {
  const redis = await startRedis(t, { args: ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'] })
  const replica = await startRedis(t, { args: ['--replicaof', redis.host, String(redis.port)] })
  const { link } = await open(t, redis.url)
  const confirm = { replicas: 1, fsync: false }
  await waitFor('the replica to confirm', () => link.script(incr, ['k'], [], { confirm }).then(() => true, () => false))
  const fromMs = performance.now()
  await Promise.all(Array.from({ length: 200 }, () => link.script(incr, ['k'], [], { confirm })))
  t.ok(performance.now() - fromMs < 1000)
  const before = Number(await link.command('k', 'GET', ['k']))

  await replica.stop('SIGSTOP')
  const writes: Promise<Error>[] = []
  const reads: Promise<unknown>[] = []
  for (let n = 0; n < 100; n += 1) {
    writes.push(failure(link.script(incr, ['k'], [], { confirm })))
    reads.push(link.command('k', 'GET', ['k']))
    await sleep(10)
    t.ok(link.up)
  }
  for (const error of await Promise.all(writes)) t.match(error, { name: 'StoreUnavailable', message: /the write was made, but/ })
  t.equal((await Promise.all(reads)).length, 100)
  t.equal(Number(await link.command('k', 'GET', ['k'])), before + 100)
  await replica.stop('SIGCONT')
  t.ok(await recovery(() => link.script(incr, ['k'], [], { confirm })) < recoveryMs)
})

t.test('a primary that hangs is left as soon as the sentinels name another', async (t) => {
  const sentinel = await startRedisSentinel(t)
  const former = await sentinel.primary()
  const { link, changes } = await open(t, sentinel.url)
  await link.script(incr, ['k'], [])
  await former.stop('SIGSTOP')
  const next = sentinel.servers.find((server) => server !== former)!
  await waitFor('the other to be primary', async () => await sentinel.primary() === next && (await next.cli('ROLE')).startsWith('master'), {
    deadlineMs: 15_000, everyMs: 30,
  })
  const tookMs = await recovery(() => link.script(incr, ['k'], []))
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  t.equal(changes(), 1)
  t.equal(await next.cli('GET', 'k'), String(await link.command('k', 'GET', ['k'])))
})

t.test('in a cluster each call finds its server, while slots move and when one server dies', async (t) => {
  const cluster = await startRedisCluster(t, { replicas: true })
  const { link, changes } = await open(t, cluster.url.replace(/,.*/, ''))
  t.ok(link.clustered)
  t.equal((await link.info()).length, 3, 'one address is enough to find all')
  for (const key of ['foo', '{p1}:a', '{}x', 'a{b}{c}', 'é{ü}', '{x', '123456789', 'a{}{b}']) t.equal(slotOf(key), await cluster.slotOf(key), key)

  const tags = Array.from({ length: 64 }, (_, n) => `{p${n}}:n`)
  const answers = await link.commands(tags.map((key) => ({ key, name: 'INCR', args: [key] })))
  t.ok(answers.every((answer) => answer === 1))
  t.same(await Promise.all(tags.map((key) => link.script(incr, [key], []))), tags.map(() => 2))

  // A slot on its way: what is still there is served there, what is not is asked for at the other server, both at once must wait.
  const from = await cluster.ownerOf('{p1}')
  const end = await cluster.beginMove('{p1}', (from + 1) % 3)
  t.equal(await link.script(incr, ['{p1}:n'], []), 3)
  t.equal(await link.script(incr, ['{p1}:new'], []), 1)
  const half = script('return redis.call("MGET", KEYS[1], KEYS[2])')
  t.match(await failure(link.script(half, ['{p1}:n', '{p1}:new'], [])), { name: 'StoreUnavailable', message: /being moved/ })
  t.ok(link.up)
  await end()
  const fromMs = performance.now()
  t.same(await link.script(half, ['{p1}:n', '{p1}:new'], []), ['3', '1'])
  t.ok(performance.now() - fromMs < deadlineMs)
  await waitFor('the move to be told', () => changes() > 0)

  // One of three dies. Its slots fail at once, the others go on; its replica takes over.
  const told = changes()
  const dead = (from + 2) % 3
  let [lost, kept] = ['', '']
  for (const tag of tags) {
    if (await cluster.ownerOf(tag) === dead) lost = tag
    else kept = tag
    if (lost !== '' && kept !== '') break
  }
  const others = cluster.nodes[(dead + 1) % 3]!
  await others.cli('CONFIG', 'SET', 'cluster-require-full-coverage', 'no')
  await cluster.nodes[(dead + 2) % 3]!.cli('CONFIG', 'SET', 'cluster-require-full-coverage', 'no')
  await cluster.nodes[dead]!.stop('SIGKILL')
  await waitFor('the death to be noticed', () => link.script(incr, [lost], []).then(() => false, () => true))
  t.match(await failure(link.script(incr, [lost], [])), { name: 'StoreUnavailable' })
  t.equal(typeof await link.script(incr, [kept], []), 'number')
  t.ok(link.up)
  await waitFor('the replica to take over', async () => (await cluster.replicas[dead]!.cli('ROLE')).startsWith('master'), { deadlineMs: 15_000, everyMs: 20 })
  const tookMs = await recovery(() => link.script(incr, [lost], []))
  t.ok(tookMs < recoveryMs, `back after ${Math.round(tookMs)} ms`)
  t.equal(await cluster.replicas[dead]!.cli('GET', lost), '3')
  t.comment(`back ${Math.round(tookMs)} ms after the replica had taken over`)
  await waitFor('the failover to be told', () => changes() > told)
})

t.test('a cluster and a single server taken for each other say so', async (t) => {
  const redis = await startRedis(t, {})
  const { link: wrong } = await open(t, `redis+cluster://127.0.0.1:${redis.port}`)
  t.notOk(wrong.up)
  t.match(wrong.reason, /127\.0\.0\.1/)
  t.match(await failure(wrong.command('k', 'GET', ['k'])), { name: 'StoreUnavailable' })

  const cluster = await startRedisCluster(t)
  const owner = await cluster.ownerOf('k')
  const { link } = await open(t, cluster.nodes[(owner + 1) % 3]!.url)
  t.match(await failure(link.command('k', 'GET', ['k'])), { name: 'StoreUnavailable', message: /redis\+cluster/ })
})

t.test('over TLS, with a certificate that is trusted and only then', async (t) => {
  const dir = tmpDir(t)
  const made = spawnSync('openssl', [
    'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
    '-keyout', `${dir}/key.pem`, '-out', `${dir}/cert.pem`,
  ])
  t.equal(made.status, 0, String(made.stderr))
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  await new Promise((closed) => probe.close(closed))
  await startRedis(t, { password: 'hunter2', args: [
    '--tls-port', String(port), '--tls-cert-file', `${dir}/cert.pem`, '--tls-key-file', `${dir}/key.pem`, '--tls-auth-clients', 'no',
  ] })
  const url = `rediss://:hunter2@localhost:${port}`
  const { link: wary } = await open(t, url)
  t.match(wary.reason, /TLS failed: self-signed certificate/)
  const before = getCACertificates()
  t.teardown(() => setDefaultCACertificates(before))
  setDefaultCACertificates([readFileSync(`${dir}/cert.pem`, 'utf8')])
  t.ok(await recovery(() => wary.script(incr, ['k'], [])) < recoveryMs)
})

t.test('under random faults every call ends in time, and none is counted twice', async (t) => {
  const redis = await startRedis(t, {})
  const relay = await openRedisRelay(t, redis.port)
  const { link } = await open(t, relay.url)
  const once = script('if redis.call("SETNX", KEYS[2], 1) == 1 then redis.call("INCR", KEYS[1]) end return redis.call("EXISTS", KEYS[2])')
  let longestMs = 0
  let sent = 0
  let answered = 0
  const untilMs = performance.now() + 6000
  const workers = Array.from({ length: 20 }, async (_, worker) => {
    for (let n = 0; performance.now() < untilMs; n += 1) {
      const fromMs = performance.now()
      const error = await link.script(once, ['{k}', `{k}:${worker}:${n}`], []).then(() => undefined, (failed: unknown) => failed)
      longestMs = Math.max(longestMs, performance.now() - fromMs)
      sent += 1
      if (error === undefined) answered += 1
      else if (!(error instanceof StoreUnavailable)) throw error
      await sleep(error === undefined ? 1 : 5)
    }
  })
  const faults = (async () => {
    while (performance.now() < untilMs) {
      await sleep(200 + 300 * Math.random())
      const draw = Math.random()
      if (draw < 0.3) relay.cut('after', /^EVAL/, 1 + Math.floor(5 * Math.random()))
      else if (draw < 0.5) relay.cut('before', /^EVAL/)
      else if (draw < 0.7) relay.drop()
      else relay.delay(50 + 400 * Math.random(), /^EVAL/)
      await sleep(100)
      relay.heal()
    }
  })()
  await Promise.all([...workers, faults])
  t.ok(longestMs < deadlineMs + slackMs, `longest of ${sent} calls ${Math.round(longestMs)} ms`)
  t.ok(answered > 100, `${answered} answered`)
  const keys = Number((await redis.cli('DBSIZE'))) - 1
  t.equal(await redis.cli('GET', '{k}'), String(keys), 'each key counted once')
  t.ok(keys >= answered && keys <= sent)
})
