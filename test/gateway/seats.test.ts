// Seats: at most so many distinct holders at once, over all gateways; kept for the linger after the last call; freed without an event.
// test: timeout 120 s

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { Gateway } from '../../src/gateway/gateway.ts'
import { Guard } from '../../src/gateway/guard.ts'
import { startServer } from '../../src/gateway/server.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { httpEndpoint, providers } from '../../src/providers/index.ts'
import { tokenizer } from '../../src/providers/tokenizer.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { seeded } from '../exactness/model.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { startRedis } from '../fixtures/redis.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { check, newId, reserveOf, skeleton } from '../stores/sample-moves.ts'
import { openTestStore } from '../stores/redis-fixture.ts'

const secret = 'tg-test-seats-0123456789'
const lone = 'tg-test-lone-01234567890'

interface Holding { readonly running: number; readonly endedMs: number }

/** A model that knows who calls, how long for, and so who must have a seat. */
async function startModel(t: Teardown, lingerMs: number) {
  const holders = new Map<string, Holding>()
  let peak = 0
  let calls = 0
  const seated = (): number => [...holders.values()].filter(({ running, endedMs }) => running > 0 || Date.now() < endedMs + lingerMs).length
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (data: Buffer) => { body += data.toString() })
    request.on('end', () => {
      const { messages } = JSON.parse(body) as { messages: { content: string }[] }
      const [holder = '', ms = '0'] = (messages[0]?.content ?? '').split(' ')
      const before = holders.get(holder) ?? { running: 0, endedMs: 0 }
      holders.set(holder, { ...before, running: before.running + 1 })
      calls += 1
      peak = Math.max(peak, seated())
      setTimeout(() => {
        const now = holders.get(holder)
        if (now !== undefined) holders.set(holder, { running: now.running - 1, endedMs: Date.now() })
        response.writeHead(200, { 'content-type': 'application/json' })
        response.end(JSON.stringify({ id: 'x', object: 'chat.completion', model: 'm', choices: [{ index: 0, message: { role: 'assistant', content: 'hi' }, finish_reason: 'stop' }], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } }))
      }, Number(ms))
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { server.closeAllConnections(); server.close() })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seated, get peak() { return peak }, get calls() { return calls } }
}

const plan = (limit: string): string => `
plans:
  main: { limits: [${limit}] }
accounts:
  acme: { plan: main }
keys:
  - { id: app, account: acme, secret: "${secret}", end_user_from: "header:x-user" }
  - { id: lone, account: acme, secret: "${lone}" }
`

function configOf(modelUrl: string, limit: string): Config {
  const { config, problems } = loadConfig({ file: '/nowhere/tallygate.yaml', env: {}, hostName: 'test', text: `store: "memory:"\nupstreams: { model: { url: "${modelUrl}", provider: openai } }\n${plan(limit)}` })
  if (config === null) throw new Error(problems.map(toText).join('\n'))
  return config
}

const bounds = { leaseMs: 400, renewMs: 100 }

/** Gateways in this process, each with a store of its own, as replicas have. */
async function startGateways(t: Teardown, config: Config, stores: readonly Store[]): Promise<readonly number[]> {
  const ports: number[] = []
  for (const store of stores) {
    const clock = store.nowMs === undefined ? systemClock : withTime(systemClock, () => store.nowMs?.() ?? Date.now())
    const keys = await StoredKeyDirectory.open(store.records, config, clock)
    const metrics = new Metrics()
    const gateway = new Gateway({ config: () => config, keys, store, providers, httpEndpoint, clock, random: systemRandom, log: silentLog, metrics, guard: new Guard(), tokenizer, bounds })
    const server = await startServer({
      listen: { host: '127.0.0.1', port: 0 }, settings: () => config.server, clock, log: silentLog, metrics,
      handle: (d) => gateway.handle(d), handleUpgrade: (d, request, socket, head) => gateway.handleUpgrade(d, request, socket, head), ready: () => ({ ready: true, reason: '' }),
    })
    t.teardown(async () => {
      gateway.cutAll()
      await server.close()
      await gateway.close()
      keys.close()
    })
    ports.push(server.address.port)
  }
  return ports
}

interface Answer { readonly status: number; readonly headers: Headers; readonly body: { error?: { message: string; reason?: string } } }

async function call(port: number, user: string | null, ms = 5, key = secret): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...(user === null ? {} : { 'x-user': user }) },
    body: JSON.stringify({ model: 'm', max_tokens: 5, messages: [{ role: 'user', content: `${user ?? key} ${ms}` }] }),
  })
  return { status: response.status, headers: response.headers, body: await response.json() as Answer['body'] }
}

async function used(port: number, key = secret): Promise<{ used: number; limit: number; remaining: number }> {
  const { limits } = await (await fetch(`http://127.0.0.1:${port}/-/usage`, { headers: { authorization: `Bearer ${key}` } })).json() as { limits: { name: string; meter: string; used: number; limit: number; remaining: number }[] }
  const found = limits.find(({ meter }) => meter === 'seats')
  if (found === undefined) throw new Error('no seats are shown')
  return found
}

async function memory(t: Teardown): Promise<Store> {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => store.close())
  return store
}

const eventsOf = async (store: Store): Promise<readonly string[]> => (await store.outbox.scan(null, 100_000)).map(({ record }) => record.kind)

t.test('the N+1st holder is refused with 429, and gets the seat of whoever has lingered long enough; what is seen says so', async (t) => {
  const lingerMs = 700
  const model = await startModel(t, lingerMs)
  const store = await memory(t)
  const [port = 0] = await startGateways(t, configOf(model.url, `{ name: seats, meter: seats, limit: 2, holder: end_user, linger: ${lingerMs}ms }`), [store])
  const first = await call(port, 'ann')
  t.equal(first.status, 200)
  t.equal(first.headers.get('ratelimit-policy'), '"seats";q=2;qu="concurrent-requests"')
  t.equal(first.headers.get('ratelimit'), '"seats";r=1', 'its own seat is counted')
  t.equal((await call(port, 'bob')).status, 200)
  t.equal((await call(port, 'ann')).status, 200, 'who has a seat keeps it')
  t.match(await used(port), { used: 2, limit: 2, remaining: 0 })
  const refused = await call(port, 'eve')
  t.equal(refused.status, 429)
  t.match(refused.body, { error: { reason: 'concurrency_limit', message: /^Seats 'seats': 2 end users at once, 2 seats are taken\. Please try again in \ds\.$/ } })
  t.equal(refused.headers.get('ratelimit'), '"seats";r=0')
  const retry = Number(refused.headers.get('retry-after'))
  t.ok(retry >= 1 && retry <= 60, `retry-after ${retry}`)
  const freed = await waitFor('a seat to be free', async () => ((await call(port, 'eve')).status === 200 ? true : undefined), { deadlineMs: 5_000, everyMs: 100 })
  t.ok(freed)
  t.equal(model.peak, 2)
  await waitFor('every seat to be freed', async () => (await used(port)).used === 0, { deadlineMs: 5_000, everyMs: 50 })
  t.same([...new Set(await eventsOf(store))], ['usage'], 'seats leave no event')
  t.equal((await eventsOf(store)).length, model.calls)
})

t.test('a call that is refused for another reason takes no seat, and one that runs on keeps it', async (t) => {
  const model = await startModel(t, 300)
  const store = await memory(t)
  const config = configOf(model.url, '{ name: rpm, meter: requests, limit: 2, window: 1h, per: key }, { name: seats, meter: seats, limit: 1, holder: key, linger: 300ms }')
  const [port = 0] = await startGateways(t, config, [store])
  const running = call(port, 'x', 2_000, lone)
  await waitFor('it to run', () => model.seated() === 1)
  await sleep(1_500)
  t.equal((await call(port, 'x', 5)).status, 429, 'five times the linger later')
  t.match(await used(port), { used: 1 })
  t.equal((await running).status, 200)
  await waitFor('the seat to be freed', async () => (await used(port)).used === 0, { deadlineMs: 5_000, everyMs: 50 })
  t.equal((await call(port, 'x', 5, lone)).status, 200)
  await waitFor('the seat to be freed', async () => (await used(port)).used === 0, { deadlineMs: 5_000, everyMs: 50 })
  t.match(await call(port, 'x', 5, lone), { status: 429, body: { error: { reason: 'rate_limited' } } })
  t.match(await used(port), { used: 0 }, 'its rate was used up')
  t.equal((await call(port, 'x', 5)).status, 200)
})

t.test('as many seats as the subscription has; none without one', async (t) => {
  const model = await startModel(t, 10_000)
  const store = await memory(t)
  const config = configOf(model.url, '{ name: seats, meter: seats, limit: subscription, holder: end_user, linger: 10s }')
  const [port = 0] = await startGateways(t, config, [store])
  t.match(await call(port, 'ann'), { status: 429, body: { error: { message: /^Seats 'seats': 0 end users at once/ } } })
  await store.records.put('subscription', 'acme', { kind: 'perpetual', start_ms: 1, seats: 2, time_zone: 'UTC', plans: [], add_ons: [], revision: 1, changes: [] })
  t.same([(await call(port, 'ann')).status, (await call(port, 'bob')).status], [200, 200])
  await sleep(600)
  t.equal((await call(port, 'eve')).status, 429)
})

for (const [kind, storesOf] of [
  ['one store in memory', async (t: Teardown) => { const store = await memory(t); return [store, store] }],
  ['one Redis', async (t: Teardown) => { const { url } = await startRedis(t, {}); return [await openTestStore(t, url), await openTestStore(t, url)] }],
] as const) {
  t.test(`two gateways on ${kind}, 30 holders for 10 seats: never more than 10 in flight or lingering, nobody counted twice, all freed`, async (t) => {
    const seed = Number(process.env['SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))
    const random = seeded(seed)
    const lingerMs = 500
    const model = await startModel(t, lingerMs)
    const stores = await storesOf(t)
    const ports = await startGateways(t, configOf(model.url, `{ name: seats, meter: seats, limit: 10, holder: end_user, linger: ${lingerMs}ms }`), stores)
    const anyPort = (): number => ports[Math.floor(random() * ports.length)] ?? 0

    // One holder, at both at once: one seat.
    const alone = Array.from({ length: 40 }, () => call(anyPort(), 'only', 100))
    let most = 0
    for (let look = 0; look < 10; look++) most = Math.max(most, (await used(anyPort())).used)
    t.same([...new Set((await Promise.all(alone)).map(({ status }) => status))], [200])
    t.equal(Math.max(most, (await used(anyPort())).used), 1, 'a holder is counted once')

    const untilMs = Date.now() + 6_000
    const admitted = new Set<string>()
    const statuses = new Map<number, number>()
    let overused = 0
    const watch = (async () => {
      while (Date.now() < untilMs) {
        overused = Math.max(overused, (await used(anyPort())).used)
        await sleep(50)
      }
    })()
    await Promise.all(Array.from({ length: 30 }, async (_, i) => {
      const holder = `u${i}`
      while (Date.now() < untilMs) {
        // Some go on for a while, then give others their turn.
        for (let burst = 0; burst < 5 && Date.now() < untilMs; burst++) {
          const { status } = await call(anyPort(), holder, 5 + random() * 60)
          statuses.set(status, (statuses.get(status) ?? 0) + 1)
          if (status === 200) admitted.add(holder)
          await sleep(random() * 80)
        }
        await sleep(random() * 2_500)
      }
    }))
    await watch
    t.comment(`seed ${seed}: ${[...statuses].map(([status, count]) => `${status}: ${count}`).join(', ')}; ${admitted.size} holders got a seat, ${model.peak} at once, ${overused} counted`)
    t.ok(model.peak <= 10, `${model.peak} at once in flight or lingering`)
    t.ok(overused <= 10, `${overused} counted`)
    t.equal(model.peak, 10, 'they were all in use')
    t.ok(admitted.size > 10, 'seats went from one to the other')
    t.same([...statuses.keys()].sort(), [200, 429])
    await waitFor('every seat to be freed', async () => (await used(ports[0] ?? 0)).used === 0, { deadlineMs: 8_000, everyMs: 100 })
    // A machine that stands still for longer than a lease makes an early end and a correction of a call, and still no event of a seat.
    // The correction comes when the settlement that Redis did not answer in time is repeated.
    const uncorrected = async (): Promise<unknown[]> => {
      const records = await (stores[0] as Store).outbox.scan(null, 100_000)
      return records.filter(({ record: { kind, id } }) => kind === 'expired' && !records.some(({ record }) => record.kind === 'late' && record.id === id))
    }
    await waitFor('what has ended early to be corrected', async () => (await uncorrected()).length === 0, { deadlineMs: 15_000, everyMs: 200 }).catch(() => undefined)
    t.same(await uncorrected(), [], 'nothing but calls has ended early')
    const records = await (stores[0] as Store).outbox.scan(null, 100_000)
    t.equal(new Set(records.map(({ record }) => record.id)).size, model.calls, 'events of each call and none of a seat')
  })
}

t.test('seats of a gateway that was killed are freed after their time, by the others and without an event', { timeout: 90_000 }, async (t) => {
  const model = await startModel(t, 2_000)
  const { url } = await startRedis(t, { appendonly: 'always' })
  const yaml = `store: { url: "${url}", durability: none, spool: "{dir}/spool" }\nupstreams: { model: { url: "${model.url}", provider: openai } }\nsinks: [{ name: file, type: file, path: "{dir}/events.ndjson" }]\n${plan('{ name: seats, meter: seats, limit: 2, holder: end_user, linger: 2s }')}`
  const [one, other] = await Promise.all([startGatewayProcess(t, yaml), startGatewayProcess(t, yaml)])
  t.same([(await call(one.port, 'ann')).status, (await call(other.port, 'bob')).status], [200, 200])
  t.equal((await call(other.port, 'ann')).status, 200, 'the other one shares her seat')
  t.equal((await call(one.port, 'eve')).status, 429)
  const running = call(one.port, 'bob', 60_000).catch(() => null)
  await waitFor('it to run', () => model.seated() === 2)
  await one.kill()
  await running
  t.equal((await call(other.port, 'eve')).status, 429, 'not at once')
  const killedMs = Date.now()
  await waitFor('seats to be free', async () => (await used(other.port)).used === 0, { deadlineMs: 45_000, everyMs: 250 })
  t.comment(`freed ${Date.now() - killedMs} ms after the kill`)
  t.same([(await call(other.port, 'eve')).status, (await call(other.port, 'fay')).status, (await call(other.port, 'ann')).status], [200, 200, 429])
})

t.test('what a store finds pending at its start may be seats: they end without an event', async (t) => {
  const { openEmbedded } = await import('../../src/stores/embedded/embedded.ts')
  const { tmpDir } = await import('../fixtures/tmp-dir.ts')
  const dir = tmpDir(t)
  const open = () => openEmbedded({ dir, synchronous: 'normal', forgetAfterMs: 3_600_000, hotMs: 3_600_000, clock: systemClock, ballastBytes: 4_096 })
  const before = await open()
  const nowMs = Date.now()
  const seats = check('account:acme|seats||seats_key|0', 2, 1)
  for (let i = 0; i < 2; i++) t.equal((await before.reserve(reserveOf(newId(nowMs), nowMs, 'acme', [seats], { skeleton: { seat: true, ...skeleton } }))).outcome, 'admitted')
  const callId = newId(nowMs)
  await before.reserve(reserveOf(callId, nowMs, 'acme', [check('c', 5, 1)]))
  await before.close()
  const after = await open()
  t.teardown(() => after.close())
  t.same((await after.balances('acme', [seats])).map(({ used: settled, reserved }) => [settled, reserved]), [[0, 0]])
  t.same((await after.outbox.scan(null, 10)).map(({ record }) => [record.kind, record.id]), [['expired', callId]], 'only the call is told')
})
