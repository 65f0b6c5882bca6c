// The store is away while callers are served: what each plan says is done, and every answer that ended is billed once, after a restart too.
// test: timeout 180 s
import t, { type Test } from 'tap'
import { systemClock } from '../../src/clock.ts'
import { openSpool, type Spool } from '../../src/spool/spool.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { chatChunk, openai } from '../fixtures/openai-scripts.ts'
import { chunk, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { AwayStore } from './away-store.ts'
import { prompt, secrets, sleep, startRig, type Rig, type RigOptions } from './exchange/rig.ts'

t.setTimeout(180_000)

interface Scene {
  readonly store: AwayStore
  readonly memory: Store
  readonly spool: Spool
  readonly rig: Rig
  /** Ids in the books, as often as they are there. */
  booked(): Promise<string[]>
}

async function scene(t: Test, upstreamUrl: string, options: RigOptions & { dir?: string; under?: Store } = {}): Promise<Scene> {
  const memory = options.under ?? await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  const store = new AwayStore(memory)
  const spool = await openSpool({ dir: options.dir ?? tmpDir(t), clock: systemClock, log: new LogLines() })
  t.teardown(() => spool.close())
  const rig = await startRig(t, upstreamUrl, { ...options, bounds: { reserveMs: 250, ...options.bounds }, spool, wrap: () => store })
  return {
    store, memory, spool, rig,
    async booked() {
      await waitFor('everything to be booked', () => rig.gateway.openExchanges === 0 && rig.gateway.unsettled === 0 && spool.count === 0, { deadlineMs: 15_000 })
      const entries = await memory.outbox.scan(null, 100_000)
      return entries.map(({ record }) => record.id)
    },
  }
}

/** A stream of about a second. */
const slow = steps(sseHead(), ...Array.from({ length: 10 }, (_, i) => [chunk(sse(chatChunk({ content: ` word${i}` }))), wait(80)]).flat(), chunk(sse('[DONE]')), lastChunk)

t.test('ten seconds without the store, under load, store_down: deny: what was admitted before ends and is billed once, nothing else goes upstream, and it recovers by itself', async (t) => {
  const upstream = await openScriptedUpstream(t, slow)
  const { store, rig, booked } = await scene(t, upstream.url, { limits: ['{ name: daily, meter: requests, limit: 100k, window: day }'], policy: 'output_default: 100' })
  const seen: { id: string; status: number; whole: boolean; ms: number; atMs: number }[] = []
  const told = new Set<string>()
  const startedAt = performance.now()
  let going = true
  const callers = Array.from({ length: 16 }, async () => {
    while (going) {
      const at = performance.now()
      const answer = await rig.chat({ stream: true })
      seen.push({
        id: answer.header('x-request-id') ?? '', status: answer.status, whole: answer.ending === 'complete' && answer.text.endsWith('data: [DONE]\n\n'),
        ms: performance.now() - at, atMs: at - startedAt,
      })
      if (answer.status === 503) {
        told.add(`${answer.header('retry-after')} ${(answer.json() as { error: { reason: string } }).error.reason}`)
        await sleep(50)
      }
    }
  })
  await sleep(1_500)
  store.way = 'late'
  const awayAt = performance.now() - startedAt
  await sleep(1_000)
  store.way = 'refusing'
  await sleep(2_000)
  const executions = upstream.executions
  await sleep(7_000)
  t.equal(upstream.executions, executions, 'nothing goes upstream meanwhile')
  store.way = 'up'
  const backAt = performance.now() - startedAt
  await sleep(2_500)
  going = false
  await Promise.all(callers)
  const ids = await booked()
  const whole = seen.filter((one) => one.whole)
  t.ok(seen.filter(({ status, atMs, ms }) => status === 200 && atMs < awayAt && atMs + ms > awayAt).every((one) => one.whole), 'no answer was cut for the store\'s sake')
  t.same(whole.filter(({ id }) => ids.filter((one) => one === id).length !== 1).map(({ id }) => id), [], `each of ${whole.length} whole answers is billed once`)
  t.equal(new Set(ids).size, ids.length)
  t.match((await rig.usage())['daily'], { used: ids.length, reserved: 0 }, 'the events are the counters')
  t.same([...told], ['2 metering_unavailable'], 'Retry-After and reason of every refusal')
  const refusals = seen.filter(({ status }) => status === 503)
  t.ok(refusals.length > 100, `${refusals.length} refusals`)
  const slowest = Math.max(...refusals.map(({ ms }) => ms))
  t.ok(slowest < 1_000, `the slowest refusal took ${Math.round(slowest)} ms`)
  t.ok(seen.some(({ status, atMs }) => status === 200 && atMs > backAt && atMs < backAt + 2_000), 'it serves again within two seconds')
  t.ok(rig.logged.some(({ message, why }) => message === 'calls cannot be metered' && why === 'the store is away'))
  t.ok(rig.logged.filter(({ message }) => message === 'calls cannot be metered').length < 20, 'told, but not with every call')
})

t.test('store_down: allow: calls are served while the store is away, plain, streamed and in slices, and billed after a restart of the gateway', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const memory = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => memory.close())
  const dir = tmpDir(t)
  for (const policy of ['output_default: 100', 'reserve: slices, output_default: 100']) {
    const first = await scene(t, upstream.url, { dir, under: memory, policy: `store_down: allow, ${policy}` })
    const before = (await memory.outbox.scan(null, 1_000)).length
    first.store.way = 'refusing'
    const ids: string[] = []
    for (const body of [{}, { stream: true }, { stream: true, max_tokens: 5_000 }, {}]) {
      const answer = await first.rig.chat(body)
      t.equal(answer.status, 200)
      t.equal(answer.ending, 'complete')
      ids.push(answer.header('x-request-id') ?? '')
    }
    await first.rig.gateway.idle()
    t.equal(first.spool.count, 4)
    await first.rig.gateway.close()
    await first.spool.close()
    t.equal((await memory.outbox.scan(null, 1_000)).length, before)
    const second = await scene(t, upstream.url, { dir, under: memory })
    t.same((await second.booked()).slice(before), ids)
    await second.rig.gateway.close()
    await second.spool.close()
  }
})

t.test('store_down: allow: a stream whose hold cannot grow goes on; with deny it ends', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...Array.from({ length: 40 }, (_, i) => [chunk(sse(chatChunk({ content: ` ${'word '.repeat(20)}${i}` }))), wait(10)]).flat(), chunk(sse('[DONE]')), lastChunk))
  for (const [down, whole] of [['allow', true], ['deny', false], ['{ allow_up_to: 100000 }', true], ['{ allow_up_to: 10 }', false]] as const) {
    const { store, rig, booked } = await scene(t, upstream.url, { policy: `store_down: ${down}, reserve: slices`, limits: ['{ name: daily, meter: output_tokens, limit: 1M, window: day }'], bounds: { settleMs: 200 } })
    const client = await rig.open({ method: 'POST', target: '/v1/chat/completions', body: { ...prompt, stream: true, max_tokens: 50_000 } })
    const head = await client.readHead()
    store.way = 'refusing'
    let text = ''
    for await (const event of client.events(head)) text += event.data
    t.equal(text.includes('word 39'), whole, `${down}: ${text.slice(-200)}`)
    store.way = 'up'
    t.equal((await booked()).length, 1)
  }
})

t.test('store_down: allow_up_to: of each refusing check so much in one outage and no more, whatever windows begin; anew in the next', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const { store, rig, booked } = await scene(t, upstream.url, {
    policy: 'store_down: { allow_up_to: 5 }, output_default: 100', limits: ['{ name: rps, meter: requests, limit: 1000, window: 1s }', '{ name: daily, meter: requests, limit: 1000, window: day }'],
  })
  for (let outage = 1; outage <= 2; outage++) {
    store.way = 'refusing'
    const statuses: number[] = []
    for (let i = 0; i < 12; i++) {
      statuses.push((await rig.chat()).status)
      await sleep(200)
    }
    t.same(statuses, [...Array(5).fill(200), ...Array(7).fill(503)], `outage ${outage}`)
    t.equal((await Promise.all(Array.from({ length: 20 }, () => rig.chat()))).filter(({ status }) => status === 200).length, 0)
    store.way = 'up'
    t.equal((await rig.chat()).status, 200)
    t.equal((await booked()).length, 6 * outage)
  }
})

t.test('store_down: allow_up_to: what has no worst case is not served, and a slice counts as the whole', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const bytes = await scene(t, upstream.url, { policy: 'store_down: { allow_up_to: 100000 }', limits: ['{ name: out, meter: bytes_out, limit: 1M, window: day }'] })
  bytes.store.way = 'refusing'
  t.equal((await bytes.rig.chat()).status, 503)
  const slices = await scene(t, upstream.url, { policy: 'store_down: { allow_up_to: 2000 }, reserve: slices', limits: ['{ name: out, meter: output_tokens, limit: 1M, window: day }'] })
  slices.store.way = 'refusing'
  t.equal((await slices.rig.chat({ stream: true, max_tokens: 1_500 })).status, 200)
  t.equal((await slices.rig.chat({ stream: true, max_tokens: 600 })).status, 503)
  t.equal((await slices.rig.chat({ stream: true, max_tokens: 400 })).status, 200)
})

t.test('an outage of one root account\'s part does not end because another part answers', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const { store, rig } = await scene(t, upstream.url, { policy: 'store_down: { allow_up_to: 3 }', limits: ['{ name: daily, meter: requests, limit: 1000, window: day }'] })
  t.equal((await rig.chat()).status, 200)
  store.gone.add('main')
  const statuses: number[] = []
  for (let i = 0; i < 6; i++) {
    statuses.push((await rig.chat()).status)
    t.equal((await rig.request({ method: 'POST', target: '/v1/chat/completions', body: prompt, key: secrets.other })).status, 200)
  }
  t.same(statuses, [200, 200, 200, 503, 503, 503])
})

t.test('R1, R4: a reply that was lost, or a connection reset before: one quick repetition and a normal answer, one reservation', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  for (const way of ['mute', 'refusing'] as const) {
    const { store, rig, booked } = await scene(t, upstream.url)
    const original = store.reserve.bind(store)
    let calls = 0
    store.reserve = async (move) => {
      calls += 1
      store.way = calls === 1 ? way : 'up'
      return original(move).finally(() => { store.way = 'up' })
    }
    const answer = await rig.chat()
    t.equal(answer.status, 200, way)
    t.equal(calls, 2)
    t.equal((await booked()).length, 1)
    t.match((await rig.usage())['rpm'], { used: 1, reserved: 0 })
  }
})

t.test('the first call of an outage waits for the store\'s deadline at most, later ones while it refuses at once do not, and leave no voids', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const { store, rig } = await scene(t, upstream.url)
  store.way = 'hanging'
  let at = performance.now()
  t.equal((await rig.chat()).status, 503)
  t.ok(performance.now() - at < 400, `${Math.round(performance.now() - at)} ms`)
  store.way = 'refusing'
  const voids = store.calls.void
  for (let i = 0; i < 20; i++) {
    at = performance.now()
    t.equal((await rig.chat()).status, 503)
    t.ok(performance.now() - at < 100)
  }
  await sleep(50)
  t.ok(store.calls.void - voids < 5, 'only the first, whose outcome is unknown, is voided')
  t.equal(upstream.executions, 0)
})
