// Gateways as operators run them, on one Redis: what is told, is told once over all of them.
// test: timeout 150 s
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { secretA, startReceiver } from './receiver.ts'
import type { Receiver } from './receiver.ts'

const accounts = ['one', 'two', 'three']
const secretOf = (account: string): string => `secret-of-${account}-0123456789`
const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))

const yaml = (name: string, redis: string, receiver: string): string => `
instance: ${name}
store: { url: "${redis}", spool: "{dir}/spool" }
server: { drain: { delay: 0, timeout: 5s } }
admin: { metrics: open, tokens: [{ name: ops, secret: an-admin-token-of-the-test, role: admin }] }
notifications:
  webhooks: [{ url: "${receiver}", secret: ${secretA} }]
plans:
  pro: { limits: [{ name: calls, meter: requests, limit: 100, window: month }, { name: daily, meter: requests, limit: 100_000, window: day, per: key, notify: none }] }
accounts: { ${accounts.map((id) => `${id}: { plan: pro }`).join(', ')} }
keys: [${accounts.map((id) => `{ id: key-${id}, account: ${id}, secret: ${secretOf(id)} }`).join(', ')}]
`

async function calls(gateways: readonly GatewayProcess[], account: string, count: number): Promise<number> {
  let done = 0
  let left = count
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    while (left > 0) {
      left -= 1
      const response = await fetch(`${gateways[n % gateways.length]!.url}/v1/chat/completions`, {
        method: 'POST', headers: { authorization: `Bearer ${secretOf(account)}`, 'content-type': 'application/json' }, body: JSON.stringify({ model: 'demo', max_tokens: 1, messages: [{ role: 'user', content: 'Hi' }] }),
      })
      await response.arrayBuffer()
      if (response.status === 200) done += 1
    }
  }))
  return done
}

/** `account threshold`, as often as the receiver was told. */
function thresholds({ received }: Receiver): string[] {
  return received.filter(({ event }) => event.data['type'] === 'threshold').map(({ event }) => `${event.subject} ${String(event.data['threshold'])}`).sort()
}

t.setTimeout(140_000)
t.test('two gateways on one Redis', async (t) => {
  const redis = await startRedis(t, { appendonly: 'always' })
  const receiver = await startReceiver(t)
  // Keeps the books of this test apart on a Redis that is not its own.
  const gateways = [await startGatewayProcess(t, yaml('first', redis.url, receiver.url)), await startGatewayProcess(t, yaml('second', redis.url, receiver.url))]
  const ask = async (path: string): Promise<Readonly<Record<string, unknown>>> => {
    for (const gateway of gateways) {
      const response = await fetch(`${gateway.adminUrl}${path}`, { headers: { authorization: 'Bearer an-admin-token-of-the-test' } }).catch(() => undefined)
      if (response?.ok === true) return await response.json() as Readonly<Record<string, unknown>>
    }
    throw new Error('no gateway answers')
  }

  await t.test('each threshold is told once under parallel load, within a few seconds', async (t) => {
    const began = Date.now()
    const done = await Promise.all(['one', 'two'].map((account) => calls(gateways, account, 85)))
    t.same(done, [85, 85])
    await waitFor('the thresholds', () => thresholds(receiver).length >= 4, { deadlineMs: 15_000 })
    t.comment(`told ${Date.now() - began} ms after the first call`)
    t.same(thresholds(receiver), ['one 50', 'one 80', 'two 50', 'two 80'])
    t.ok(receiver.received.every(({ verified }) => verified))
    const byId = (events: readonly { readonly id: string }[]): unknown => [...events].sort((a, b) => (a.id < b.id ? -1 : 1))
    const sent = receiver.received.filter(({ event }) => event.subject === 'one' && event.data['type'] === 'threshold').map(({ event }) => event)
    t.same(byId((await ask('/api/v1/notices?account=one&type=threshold'))['notices'] as { id: string }[]), byId(sent), 'the API gives the very events')
    const counted = await Promise.all(gateways.map(async ({ adminUrl }) => Number(/tallygate_notices_total\{type="threshold"\} (\d+)/.exec(await (await fetch(`${adminUrl}/metrics`)).text())?.[1] ?? 0)))
    t.equal(counted[0]! + counted[1]!, 4)
    const logged = gateways.map((gateway) => gateway.output().split('\n').filter((line) => line.includes('has reached')).length)
    t.equal(logged[0]! + logged[1]!, 4, 'a line of the log each')
  })

  await t.test('the one that watches and delivers is killed: the other goes on, and tells nothing twice', async (t) => {
    const watching = gateways.findIndex((gateway) => gateway.output().includes('has reached'))
    t.not(watching, -1)
    await gateways[watching]!.kill()
    const rest = gateways.filter((_, index) => index !== watching)
    t.equal(await calls(rest, 'one', 20), 15, 'fifteen are left')
    t.equal(await calls(rest, 'three', 60), 60)
    await waitFor('what came after', () => thresholds(receiver).length >= 6, { deadlineMs: 60_000 })
    t.same([...new Set(thresholds(receiver))], ['one 100', 'one 50', 'one 80', 'three 50', 'two 50', 'two 80'])
    await gateways[watching]!.start()
  })

  await t.test('both are stopped while the receiver is away: what was passed is told when they are back', async (t) => {
    receiver.answer = (response) => { response.destroy() }
    const before = new Set(receiver.taken().keys())
    t.equal(await calls(gateways, 'three', 25), 25)
    await Promise.all(gateways.map((gateway) => gateway.stop()))
    receiver.answer = (response) => { response.writeHead(204).end() }
    await Promise.all(gateways.map((gateway) => gateway.start()))
    await waitFor('it', () => [...receiver.taken().keys()].some((id) => !before.has(id) && receiver.received.some((each) => each.id === id && each.event.data['threshold'] === 80)), { deadlineMs: 60_000 })
    t.same([...new Set(thresholds(receiver))], ['one 100', 'one 50', 'one 80', 'three 50', 'three 80', 'two 50', 'two 80'])
  })

  await t.test('on the command line, and nowhere with a secret', async (t) => {
    const dir = tmpDir(t)
    const { stdout } = await promisify(execFile)(process.execPath, ['--disable-warning=ExperimentalWarning', main, 'notices', '--account', 'one', '--config', join(gateways[0]!.dir, 'tallygate.yaml')], {
      cwd: dir, env: { PATH: process.env['PATH'] ?? '', TALLYGATE_ADMIN_TOKEN: 'an-admin-token-of-the-test', TALLYGATE_ADMIN_LISTEN: gateways[0]!.adminUrl.slice('http://'.length) },
    })
    t.match(stdout, /^TIME +ACCOUNT +TYPE +WHAT\n/)
    t.match(stdout, /one +threshold +one has reached 100% of 'calls': 100 of 100 requests are used/)
    for (const gateway of gateways) t.notMatch(gateway.output(), /whsec_|in-the-url/)
  })
})
