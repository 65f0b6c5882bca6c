// Whole gateways over a real Redis that goes away: what callers of each `store_down` see, how soon it is over, and that every call is billed once.
// Covers R5, R8, R9, R10, R11, R13, R18 and R6 as operators see them.
// test: alone
// test: timeout 150 s

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { spawnTallygate } from '../app/process.ts'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { openRedisRelay, type RedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis, type Redis } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { inputTokens, openCuedUpstream, type CuedUpstream } from './cued-upstream.ts'
import { chat, standing, usageLines, type Call } from './outside.ts'

t.setTimeout(140_000)
// Each waits most of the time.
t.jobs = 6

/** How long Redis is away, and how soon after its return calls are admitted. */
const awayMs = 10_000
const recoveryMs = 2_000
/** Of each limit, while the store is away. */
const upTo = 20
/** One call of each plan so often. */
const everyMs = 150

const plans = ['deny', 'allow', 'up_to'] as const
type Plan = typeof plans[number]
const secretOf = (plan: Plan): string => `tg_outage_0123456789abcdefghi_${plan}`

function configOf(store: string, upstream: string): string {
  const down = { deny: 'deny', allow: 'allow', up_to: `{ allow_up_to: ${upTo} }` }
  return `
store: { url: "${store}", spool: "{dir}/spool", durability: everysec }
upstreams: { model: { url: "${upstream}", provider: openai } }
plans:
${plans.map((plan) => `  ${plan}:
    entitlements: { models: ["*"] }
    policy: { output_default: 100, on_insufficient: refuse, store_down: ${down[plan]} }
    limits: [{ name: calls, meter: requests, limit: 1000M, window: lifetime }]
`).join('')}
keys:
${plans.map((plan) => `  - { id: ${plan}, plan: ${plan}, hash: "sha256:${createHash('sha256').update(secretOf(plan)).digest('hex')}" }\n`).join('')}
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
`
}

interface Made {
  readonly plan: Plan
  readonly tag: string
  readonly call: Call
  readonly startedMs: number
  endedMs: number
}

/** Plain calls of all plans, one after the other, until stopped; a late answer holds up no later call. */
class Callers {
  readonly made: Made[] = []
  readonly #gateway: GatewayProcess
  #stopped = false
  readonly #lanes: Promise<unknown>[]

  constructor(gateway: GatewayProcess) {
    this.#gateway = gateway
    this.#lanes = plans.map(async (plan) => {
      const under: Promise<unknown>[] = []
      while (!this.#stopped) {
        under.push(this.one(plan).call.over)
        await sleep(everyMs)
      }
      await Promise.all(under)
    })
  }

  one(plan: Plan): Made {
    const tag = `${plan}-${this.made.length}`
    const one: Made = { plan, tag, call: chat(this.#gateway.port, tag, { stream: false, key: secretOf(plan) }), startedMs: performance.now(), endedMs: Infinity }
    this.made.push(one)
    void one.call.over.then(() => { one.endedMs = performance.now() })
    return one
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#lanes)
  }

  of(plan: Plan, from = -Infinity, to = Infinity): readonly Made[] {
    return this.made.filter((one) => one.plan === plan && one.startedMs >= from && one.startedMs < to)
  }

  /** When the first call that was admitted by the store itself, after an instant, was answered; ms after it. */
  async recovery(fromMs: number): Promise<number> {
    const first = await waitFor('a call to be admitted', () => this.made.find(({ plan, call, endedMs }) => plan === 'deny' && call.status === 200 && endedMs >= fromMs && endedMs !== Infinity), { deadlineMs: 20_000 })
    return first.endedMs - fromMs
  }
}

/** Plain calls are answered at once, streams wait for their cues. */
function answering(model: CuedUpstream): () => void {
  const done = new Set<string>()
  const timer = setInterval(() => {
    for (const [tag, cued] of model.calls) {
      if (done.has(tag) || tag.startsWith('stream')) continue
      done.add(tag)
      void cued.answer()
    }
  }, 5)
  return () => clearInterval(timer)
}

async function openStream(model: CuedUpstream, gateway: GatewayProcess, tag: string): Promise<Call> {
  const call = chat(gateway.port, tag, { key: secretOf('deny') })
  const cued = await model.call(tag)
  await cued.begin()
  await cued.say(2)
  await waitFor('its words', () => call.text.includes('word'))
  return call
}

async function endStream(model: CuedUpstream, tag: string): Promise<void> {
  const cued = model.calls.get(tag)!
  await cued.say(3)
  await cued.close()
  await cued.end()
}

interface Fault {
  readonly name: string
  /** Begins it; what is returned ends it and resolves when Redis serves again. */
  begin(redis: Redis, relay: RedisRelay): Promise<() => Promise<void>>
  /** What the gateway's log says of it. */
  readonly says: RegExp
}

const answered = (error: string): Fault['begin'] => async (_redis, relay) => {
  // All that a client sends after its greeting, also the probes that see whether it is over.
  relay.answer(error, /^EVALSHA|^EVAL|^GET|^SET|^HGET|^HSET|^XRANGE|^MGET/)
  return async () => relay.heal()
}

const faults: readonly Fault[] = [
  { name: 'R8 R18: paused (CLIENT PAUSE)', says: /no answer within|gave no answer/, async begin(redis) {
    const endMs = performance.now() + awayMs
    await redis.cli('CLIENT', 'PAUSE', String(awayMs), 'ALL')
    return () => sleep(Math.max(0, endMs - performance.now()))
  } },
  { name: 'R5: killed', says: /ECONNREFUSED|was cut/, async begin(redis) {
    await redis.stop('SIGKILL')
    return () => redis.start()
  } },
  { name: 'R11: answering -OOM', says: /no memory left/, begin: answered('OOM command not allowed when used memory > \'maxmemory\'.') },
  { name: 'R10: answering -READONLY', says: /read-only replica/, begin: answered('READONLY You can\'t write against a read only replica.') },
  { name: 'R9: answering -LOADING', says: /loading its data/, begin: answered('LOADING Redis is loading the dataset in memory') },
]

let opening: Promise<unknown> = Promise.resolve()

/** One after the other: a port that was found free is to be free still. */
function open(t: Test): ReturnType<typeof openOne> {
  const opened = opening.then(() => openOne(t))
  opening = opened.catch(() => undefined)
  return opened
}

async function openOne(t: Test): Promise<{ redis: Redis; relay: RedisRelay; model: CuedUpstream; gateway: GatewayProcess }> {
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const relay = await openRedisRelay(t, redis.port)
  const model = await openCuedUpstream(t)
  const stop = answering(model)
  t.teardown(stop)
  return { redis, relay, model, gateway: await startGatewayProcess(t, configOf(relay.url, model.url)) }
}

/** Every call that went upstream has one event, every event a call; the counters say the same, and nothing is held. */
async function books(t: Test, gateway: GatewayProcess, model: CuedUpstream, calls: readonly Call[]): Promise<{ lost: number; doubled: number }> {
  const served = calls.filter(({ status }) => status === 200)
  t.same([...model.calls.keys()].length, served.length, 'nothing that was refused went upstream')
  await waitFor(`${served.length} events`, () => usageLines(gateway.dir).length >= served.length, { deadlineMs: 20_000, everyMs: 50 })
  await waitFor('nothing to be held', async () => (await Promise.all(plans.map((plan) => standing(gateway, secretOf(plan))))).every(({ calls }) => calls?.reserved === 0), { deadlineMs: 20_000, everyMs: 100 })
  const ids = usageLines(gateway.dir).map(({ id }) => id)
  const lost = served.filter(({ headers }) => !ids.includes(String(headers['x-request-id']))).length
  const doubled = ids.length - new Set(ids).size
  t.same([lost, doubled, ids.length], [0, 0, served.length], 'lost, doubled, events')
  for (const { data } of usageLines(gateway.dir)) t.ok(data.usage_source === 'upstream' && data.input_tokens === inputTokens, 'as the model counted it')
  return { lost, doubled }
}

for (const { name, says, begin } of faults) {
  t.test(`${name} for ${awayMs / 1_000} s: each plan's callers see what it says, calls that run go on, and within two seconds it is over`, async (t) => {
    const { redis, relay, model, gateway } = await open(t)
    const during = await openStream(model, gateway, 'stream-ends-meanwhile')
    const after = await openStream(model, gateway, 'stream-ends-afterwards')
    const callers = new Callers(gateway)
    // A busy machine may make the first calls of a process miss their deadline.
    await waitFor('a second of calls that are all admitted', () => {
      const latest = callers.of('deny').filter(({ endedMs }) => endedMs !== Infinity).slice(-7)
      return latest.length === 7 && latest.every(({ call }) => call.status === 200)
    }, { deadlineMs: 20_000 })

    const beganMs = performance.now()
    const end = await begin(redis, relay)
    const awayFromMs = performance.now()
    await sleep(awayMs / 2)
    await endStream(model, 'stream-ends-meanwhile')
    t.equal(await during.over, true)
    t.match(during.text, /\[DONE\]/, 'a stream that runs ends well')
    t.equal(await fetch(`${gateway.url}/-/live`).then(({ status }) => status), 200)
    await sleep(Math.max(0, awayMs - (performance.now() - awayFromMs)))
    const lastMs = performance.now()
    await end()
    const backMs = performance.now()
    const tookMs = await callers.recovery(backMs)
    t.ok(tookMs < recoveryMs, `admitted ${Math.round(tookMs)} ms after Redis was back`)
    await endStream(model, 'stream-ends-afterwards')
    t.equal(await after.over, true)
    await sleep(2_000)
    await callers.stop()

    // What was asked while it was surely away.
    const counts = Object.fromEntries(plans.map((plan) => {
      const made = callers.of(plan, awayFromMs, lastMs - 500)
      return [plan, { asked: made.length, served: made.filter(({ call }) => call.status === 200).length }]
    })) as Record<Plan, { asked: number; served: number }>
    t.ok(counts.deny.asked > 30)
    t.equal(counts.deny.served, 0, 'deny: none')
    t.equal(counts.allow.served, counts.allow.asked, 'allow: all')
    // Those that it served while the fault began are not among these.
    t.ok(counts.up_to.served <= upTo && counts.up_to.served >= upTo - 2, `allow_up_to: ${counts.up_to.served} of ${upTo}`)
    const refused = callers.made.filter(({ call }) => call.status !== 200)
    for (const { call } of refused) {
      t.equal(call.status, 503)
      t.match(call.text, /"metering_unavailable"/)
      t.match(call.headers['retry-after'], /^\d+$/)
    }
    t.ok(callers.of('allow').every(({ call }) => call.status === 200))
    const slowest = Math.max(...callers.made.map(({ startedMs, endedMs }) => endedMs - startedMs))
    t.ok(slowest < 2_500, `no call took longer than ${Math.round(slowest)} ms`)
    const denied = refused.filter(({ plan, startedMs }) => plan === 'deny' && startedMs > beganMs - 500)
    const seconds = (Math.max(...denied.map(({ endedMs }) => endedMs)) - Math.min(...denied.map(({ endedMs }) => endedMs))) / 1_000
    t.match(gateway.output(), says)
    const { lost, doubled } = await books(t, gateway, model, [...callers.made.map(({ call }) => call), during, after])
    t.comment(`${name}: 503 for ${seconds.toFixed(1)} s (deny), back ${Math.round(tookMs)} ms after Redis; meanwhile deny ${counts.deny.served}/${counts.deny.asked}, allow ${counts.allow.served}/${counts.allow.asked}, allow_up_to ${counts.up_to.served}/${counts.up_to.asked}; ${callers.made.length + 2} calls, events lost ${lost}, doubled ${doubled}`)
  })
}

t.test('R6: an emptied Redis stops admission at every gateway until an operator accepts the loss with the command; what the gateways know is settled again', async (t) => {
  const { redis, relay, model, gateway } = await open(t)
  const second = await startGatewayProcess(t, configOf(relay.url, model.url))
  const ask = async (one: GatewayProcess, tag: string): Promise<Call> => {
    const call = chat(one.port, tag, { stream: false, key: secretOf('deny') })
    await call.over
    return call
  }
  const calls: Call[] = []
  for (let n = 0; n < 10; n++) calls.push(await ask(n % 2 === 0 ? gateway : second, `before-${n}`))
  t.ok(calls.every(({ status }) => status === 200))
  await waitFor('the events', () => usageLines(gateway.dir).length + usageLines(second.dir).length === 10, { deadlineMs: 10_000 })
  await redis.cli('FLUSHALL')
  for (const one of [gateway, second]) {
    const call = await ask(one, 'emptied')
    t.equal(call.status, 503)
    t.match(call.text, /metering_unavailable/)
  }
  await sleep(1_500)
  t.equal((await ask(gateway, 'still-emptied')).status, 503)
  t.match(gateway.output(), /accept-loss/)
  t.notOk([...model.calls.keys()].some((tag) => tag.includes('emptied')), 'nothing went upstream')

  const unsure = await spawnTallygate(t, ['store', 'accept-loss', '--config', join(gateway.dir, 'tallygate.yaml')], { cwd: gateway.dir }).finished
  t.not(unsure.code, 0)
  t.equal((await ask(gateway, 'unsure-emptied')).status, 503)
  const accepted = await spawnTallygate(t, ['store', 'accept-loss', '--yes', '--config', join(gateway.dir, 'tallygate.yaml')], { cwd: gateway.dir }).finished
  t.equal(accepted.code, 0, accepted.err)
  const fromMs = performance.now()
  for (const one of [gateway, second]) await waitFor('it to admit', async () => (await ask(one, `after-${performance.now()}`)).status === 200, { deadlineMs: 5_000, everyMs: 50 })
  const tookMs = performance.now() - fromMs
  t.ok(tookMs < recoveryMs, `both admit ${Math.round(tookMs)} ms after the word`)
  await waitFor('what the gateways had settled in the last minute to be counted again', async () => (await standing(gateway, secretOf('deny')))['calls']!.used >= 12, { deadlineMs: 5_000, everyMs: 50 })
  t.match(await standing(second, secretOf('deny')), { calls: { used: [...model.calls.keys()].length, reserved: 0 } })
  t.comment(`emptied: 503 at both gateways until accepted, then back within ${Math.round(tookMs)} ms; 10 calls counted again by the gateways that knew them`)
})
