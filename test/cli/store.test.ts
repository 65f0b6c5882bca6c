// test: timeout 240 s
// An operator looks at the store, moves it, and goes on after a loss.

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { basics, chat, configIn, serve, tallygate, writeConfig, type RunningGateway } from '../app/process.ts'

const capped = `
plans:
  free:
    entitlements: { models: ["*"] }
    limits: [{ name: cap, meter: requests, limit: 3, window: month }]
accounts:
  acme: { plan: free }
  sub: { parent: acme }
`
const onRedis = (url: string, more = ''): string => `${basics.replace('store: "embedded:./data"', `store: { url: "${url}", durability: none, partitions: 32, spool: ./spool${more} }`)}${capped}`
const secretIn = (out: string): string => /^secret +(\S+)/m.exec(out)?.[1] ?? ''

/** A command finds the gateway of a shared store by the port that the configuration names. */
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}

async function stop(running: RunningGateway): Promise<void> {
  running.child.kill('SIGTERM')
  await running.finished
}

async function makeKey(t: Parameters<typeof tallygate>[0], dir: string, id: string, account: string): Promise<string> {
  return secretIn((await tallygate(t, dir, ['keys', 'create', '--account', account, '--id', id])).out)
}

t.test('what was used up stays used up when the store is copied to Redis and restored from a backup', async (t) => {
  const dir = configIn(tmpDir(t), capped)
  const redis = await startRedis(t, { password: 'canary-pass' })
  const [good, gone] = [await makeKey(t, dir, 'good', 'sub'), await makeKey(t, dir, 'gone', 'acme')]
  t.equal((await tallygate(t, dir, ['keys', 'revoke', 'gone'])).code, 0)

  const statuses = async (gateway: string, count: number): Promise<number[]> => {
    const found = []
    for (let n = 0; n < count; n++) found.push((await chat(gateway, good, { max_tokens: 5 })).status)
    return found
  }
  const first = await serve(t, dir)
  t.same(await statuses(first.gateway, 2), [200, 200])
  const target = ['store', 'copy', '--to', redis.url, '--partitions', '32']
  // Only the folder's own lock and address show that it is used.
  t.match(await tallygate(t, dir, target), { code: 1, err: /in use by process/ })
  t.match(await tallygate(t, dir, ['store', 'info']), { code: 0, out: /^kind +embedded\n[\s\S]*^admitting +yes$[\s\S]*^file +0/m })
  await stop(first)

  const copied = await tallygate(t, dir, [...target, '--json'])
  t.equal(copied.code, 1, 'this Redis keeps nothing')
  t.match(copied.err, /keeps no append-only file/)
  await redis.cli('CONFIG', 'SET', 'appendonly', 'yes')
  const again = await tallygate(t, dir, target)
  t.match(again, { code: 0, out: /^counters +2 +2$[\s\S]*^events +2 +2$[\s\S]*Both sides agree\.$/m })
  t.match(await tallygate(t, dir, target), { code: 1, err: /not empty/ }, 'not over what is there')

  writeConfig(dir, onRedis(redis.url))
  const second = await serve(t, dir)
  t.same(await statuses(second.gateway, 2), [200, 429], 'one was left')
  t.equal((await chat(second.gateway, gone)).status, 401, 'revoked')
  t.match(await tallygate(t, dir, ['store', 'backup', 'all.ndjson']), { code: 1, err: /a gateway uses this store/ })
  await stop(second)
  const backup = await tallygate(t, dir, ['store', 'backup', 'all.ndjson', '--json'])
  t.match(JSON.parse(backup.out), { events: 3, counters: 2, settled: '6' })
  t.equal(statSync(join(dir, 'all.ndjson')).mode & 0o077, 0, 'nobody else may read it')
  t.notMatch(readFileSync(join(dir, 'all.ndjson'), 'utf8') + again.out + again.err + copied.err, /canary-pass/)
  t.match(await tallygate(t, dir, ['store', 'backup', 'all.ndjson']), { code: 2, err: /there already/ })

  writeConfig(dir, `${basics.replace('./data', './restored')}${capped}`)
  const cut = readFileSync(join(dir, 'all.ndjson'), 'utf8').split('\n').slice(0, -2).join('\n')
  writeFileSync(join(dir, 'cut.ndjson'), `${cut}\n`)
  t.match(await tallygate(t, dir, ['store', 'restore', 'cut.ndjson']), { code: 1, err: /cut short/ })
  t.notOk(existsSync(join(dir, 'restored/journal.db')))
  t.match(await tallygate(t, dir, ['store', 'restore', 'all.ndjson']), { code: 0, out: /Both sides agree/ })
  const third = await serve(t, dir)
  t.same(await statuses(third.gateway, 1), [429])
  t.equal((await chat(third.gateway, gone)).status, 401)
  const tail = await tallygate(t, dir, ['events', 'tail', '--since', '1h', '--no-follow', '--json'])
  t.equal(new Set(tail.out.trim().split('\n').map((line) => (JSON.parse(line) as { id: string }).id)).size, 3)
  await stop(third)
})

t.test('store info tells of Redis what an operator needs, with a gateway and without, and never the password', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec', password: 'canary-pass', maxmemory: '100mb' })
  const dir = configIn(tmpDir(t))
  writeConfig(dir, onRedis(redis.url).replace('admin: { listen: "127.0.0.1:0" }', `admin: { listen: "127.0.0.1:${await freePort()}" }`))
  const secret = await makeKey(t, dir, 'one', 'acme')
  const running = await serve(t, dir)
  t.equal((await chat(running.gateway, secret, { max_tokens: 5 })).status, 200)
  const [text, document] = [await tallygate(t, dir, ['store', 'info']), await tallygate(t, dir, ['store', 'info', '--json'])]
  t.match(text, { code: 0, out: /^url +redis:\/\/\(hidden\)@127[\s\S]*^partitions +32$[\s\S]*^admitting +yes$[\s\S]*^server +\S+, Redis 7\S*, \S+ MiB of memory used of 100\.0 MiB$[\s\S]*^spool +0 settlements[\s\S]*about the last second is lost/m })
  t.match(JSON.parse(document.out), { kind: 'redis', prefix: 'tallygate', partitions: 32, format: 1, admitting: true, reservations: 0, quarantined: 0, sinks: [{ name: 'file', dead: 0, missed: 0 }], spool: { settlements: 0 } })
  const { epoch } = JSON.parse(document.out) as { epoch: string }
  await stop(running)
  const alone = await tallygate(t, dir, ['store', 'info', '--json'])
  t.match(JSON.parse(alone.out), { epoch, kind: 'redis', sinks: [{ name: 'file', waiting: 0 }] })
  t.notMatch(text.out + document.out + alone.out + text.err + alone.err, /canary-pass/)
})

t.test('accept-loss says what it means, wants a yes, and is in force on a running gateway within a second', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const dir = configIn(tmpDir(t), capped)
  t.match(await tallygate(t, dir, ['store', 'accept-loss', '--yes']), { code: 2, err: /serve --accept-loss/ })
  writeConfig(dir, onRedis(redis.url))
  const secret = await makeKey(t, dir, 'one', 'acme')
  const running = await serve(t, dir)
  const status = async (): Promise<number> => (await chat(running.gateway, secret, { max_tokens: 5 })).status
  t.same([await status(), await status(), await status(), await status()], [200, 200, 200, 429])
  await redis.cli('FLUSHALL')
  await waitFor('the loss to be seen', async () => await status() === 503)
  const asked = await tallygate(t, dir, ['store', 'accept-loss'])
  t.match(asked, { code: 2, err: /stays lost[\s\S]*store accept-loss --yes$/m })
  t.match(await tallygate(t, dir, ['store', 'info']), { code: 1, err: /accept-loss/ }, 'no new store is made by looking')
  t.equal(await status(), 503)
  t.match(await tallygate(t, dir, ['store', 'accept-loss', '--yes']), { code: 0, out: /go on with what is there/ })
  // The key that was made at run time is lost with all else; what this gateway has settled in the last minute it has told again.
  const next = await makeKey(t, dir, 'two', 'acme')
  await waitFor('calls to be decided on', async () => (await chat(running.gateway, next, { max_tokens: 5 })).status === 429, { deadlineMs: 3_000 })
  await stop(running)
})

t.test('a copy that cannot be is one sentence', async (t) => {
  const dir = configIn(tmpDir(t), capped)
  const cases: [string[], number, RegExp][] = [
    [['store', 'copy'], 2, /--to is missing/],
    [['store', 'copy', '--to', 'memory:'], 2, /gone with the command/],
    [['store', 'copy', '--to', 'redis://user@h'], 2, /user name without a password/],
    [['store', 'copy', '--to', './x'], 2, /write embedded:DIRECTORY/],
    [['store', 'copy', '--to', 'embedded:./x', '--prefix', 'p'], 2, /belong to a Redis/],
    [['store', 'copy', '--to', 'redis://127.0.0.1:9', '--partitions', 'x'], 2, /whole number/],
    [['store', 'copy', '--to', 'embedded:./data'], 1, /in use by process/],
    [['store', 'restore', 'nowhere.ndjson'], 2, /is not there/],
    [['store', 'backup', 'no/such/dir/file'], 1, /cannot be written/],
  ]
  for (const [args, code, sentence] of cases) {
    const result = await tallygate(t, dir, args)
    t.equal(result.code, code, args.join(' '))
    t.match(result.err, sentence)
    t.notMatch(result.err + result.out, /^\s+at /m)
  }
})
