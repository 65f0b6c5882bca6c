// The books come out right whatever the store does, and headers tell nothing but the truth.
import t from 'tap'
import { chatChunk, chatCompletion, openai, openaiAnswer, openaiError } from '../../fixtures/openai-scripts.ts'
import { anthropic } from '../../fixtures/anthropic-scripts.ts'
import { chunk, json, lastChunk, openScriptedUpstream, reset, sse, sseHead, stall, steps, wait, type Script } from '../../fixtures/scripted-upstream.ts'
import { canaries, canariesIn } from '../../fixtures/canaries.ts'
import { waitFor } from '../../fixtures/wait-for.ts'
import type { Store } from '../../../src/stores/store.ts'
import { StoreUnavailable } from '../../../src/stores/store.ts'
import { failing, prompt, secrets, sleep, startRig } from './rig.ts'

type Change = { [M in 'reserve' | 'extend' | 'settle' | 'void' | 'due']?: (store: Store) => Store[M] }

/** A store with some moves replaced. */
function changed(store: Store, change: Change): Store {
  return new Proxy(store, { get(target, name) {
    const replacement = (change as Record<string, ((of: Store) => unknown) | undefined>)[String(name)]
    if (replacement !== undefined) return replacement(target)
    const value: unknown = Reflect.get(target, name, target)
    return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value
  } })
}

const words = Array.from({ length: 30 }, (_, i) => chunk(sse(chatChunk({ content: ` word${i}` }))))
const exchanges: readonly [string, Script, object, string][] = [
  ['a plain answer', openai(), {}, ''],
  ['a stream', openai(), { stream: true }, ''],
  ['a stream in slices', steps(sseHead(), ...words, chunk(sse('[DONE]')), lastChunk), { stream: true, max_tokens: 5_000 }, 'reserve: slices, '],
  ['an error of the upstream', steps(openaiError(400, 'no', 'no')), {}, ''],
  ['a broken stream', steps(sseHead(), ...words, reset), { stream: true }, ''],
]

for (const [name, script, body, policy] of exchanges) {
  t.test(`the N-th call to the store fails, before or after it was applied, through ${name}: one event or none, nothing held`, async (t) => {
    for (const when of ['before', 'after'] as const) {
      for (let n = 1; n <= 12; n++) {
        let calls = 0
        const upstream = await openScriptedUpstream(t, script)
        const rig = await startRig(t, upstream.url, {
          policy: `${policy}output_default: 100`, bounds: { settleMs: 300 }, wrap: (store) => failing(store, () => n, when, () => { calls += 1 }),
        })
        const answer = await rig.chat(body)
        const events = await rig.events()
        const usage = await rig.usage()
        const billed = events.reduce((sum, event) => sum + Number(event['total_tokens'] ?? 0), 0)
        const good = usage['daily']?.used === billed && usage['rpm']?.used === events.length && events.length <= 1
          && (answer.status !== 200 || events.length === 1) && (answer.status !== 503 || (events.length === 0 && upstream.executions === 0))
        if (!good) t.fail(`call ${n} failed ${when}`, { status: answer.status, events, usage })
        if (calls < n) break
        t.ok(good, `call ${n} failed ${when}: ${answer.status}, ${events.length} events`)
      }
    }
  })
}

t.test('I5: remaining is limit less settled less reserved at each answer\'s own instant, and never grows again within a window', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: daily, meter: total_tokens, limit: 10k, window: day }', '{ name: rpd, meter: requests, limit: 50, window: day }'] })
  for (let n = 1; n <= 10; n++) {
    const answer = await rig.chat()
    t.match(answer.header('ratelimit'), new RegExp(`"daily";r=${10_000 - 13 * n};`))
    t.match(answer.header('ratelimit'), new RegExp(`"rpd";r=${50 - n};`))
    t.equal(answer.header('x-ratelimit-remaining-requests'), String(50 - n))
    t.equal(answer.header('x-ratelimit-remaining-tokens'), String(10_000 - 13 * n))
  }
  t.match(await rig.usage(), { daily: { used: 130, remaining: 9_870, reserved: 0 }, rpd: { used: 10 } })
})

t.test('the head of a stream tells what is left with its own reservation counted', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: daily, meter: total_tokens, limit: 10k, window: day }'] })
  const client = await rig.open({ method: 'POST', target: '/v1/chat/completions', body: { ...prompt, stream: true } })
  const answer = await client.readHead()
  const left = Number(/"daily";r=(\d+)/.exec(answer.header('ratelimit') ?? '')?.[1])
  t.ok(left < 10_000 - 100 && left > 9_000, `${left} left`)
  await rig.settled()
})

t.test('Anthropic answers carry their own headers and ids', async (t) => {
  const upstream = await openScriptedUpstream(t, anthropic({ inputTokens: 5, cacheReadTokens: 3, cacheWriteTokens: 1, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url)
  const answer = await rig.request({ method: 'POST', target: '/v1/messages', headers: { 'x-api-key': secrets.main }, key: null, body: { ...prompt, max_tokens: 50 } })
  t.equal(answer.status, 200)
  t.equal(answer.header('anthropic-ratelimit-tokens-remaining'), String(1_000_000 - 13))
  t.ok(answer.header('request-id'))
  t.equal(upstream.requests[0]?.header('x-api-key'), 'upstream-credential')
  t.match(await rig.events(), [{ input_tokens: 9, cached_input_tokens: 3, cache_write_tokens: 1, output_tokens: 4, provider: 'anthropic' }])
  const counted = await rig.request({ method: 'POST', target: '/v1/messages/count_tokens', body: prompt })
  t.match(counted.json(), { input_tokens: 5 })
  t.equal((await rig.events()).length, 1, 'counting tokens costs nothing')
})

t.test('an event tells what its admission was computed from: enough to draft it again, and no text', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, {
    policy: 'output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 100k, window: day }'],
  })
  const body = { ...prompt, max_tokens: 1_000, n: 2 }
  await rig.chat(body)
  await rig.chat()
  await rig.chat({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: {} } } })
  await rig.request({ method: 'POST', target: '/v1/embeddings', body: { model: 'test-model', input: 'some text' } })
  const bounds = (await rig.events()).map(({ bound }) => bound as Record<string, number>)
  const bytes = JSON.stringify(body).length
  t.match(bounds[0], { bytes, output: 1_000, asked: 1_000, choices: 2 })
  t.ok((bounds[0]?.['text'] ?? 0) > 5 && (bounds[0]?.['input'] ?? 0) >= (bounds[0]?.['text'] ?? 0) + 64)
  t.match(bounds[1], { output: 100 })
  t.same(['asked', 'choices', 'default', 'floor', 'rigid', 'media'].filter((name) => name in (bounds[1] ?? {})), [], 'what is as usual is left out')
  t.match(bounds[2], { rigid: true })
  t.match(bounds[3], { input: Number })
  t.notOk('output' in (bounds[3] ?? {}), 'nothing to bound')
  const plain = await startRig(t, (await openScriptedUpstream(t, steps(json(200, {})))).url, { entitlements: '{ endpoints: ["POST /v1/other"] }' })
  await plain.request({ method: 'POST', target: '/v1/other', body: { plain: true } })
  t.same(Object.keys(Object((await plain.events())[0]?.['bound'])).filter((name) => name !== 'after_ms'), ['bytes'], 'no dialect reads it')
})

t.test('an output bound that does not fit a long window is lowered, and both sides are told', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { policy: 'clamp_floor: 50, output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 400, window: day }'] })
  const answer = await rig.chat({ max_tokens: 1_000 })
  t.equal(answer.status, 200)
  const bound = Number(/^(\d+);asked=1000$/.exec(answer.header('x-tallygate-output-bound') ?? '')?.[1])
  t.ok(bound >= 50 && bound < 400)
  const sent = upstream.requests[0]?.json()
  t.equal(sent?.['max_tokens'], bound)
  t.match(await rig.events(), [{ output_bound: `${bound};asked=1000` }])
})

t.test('what the byte bound refuses and the model\'s own tokenizer allows is admitted', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 1_000 }))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: daily, meter: total_tokens, limit: 3000, window: day }'] })
  const body = { messages: [{ role: 'user', content: 'hello world '.repeat(500) }], max_tokens: 100 }
  t.ok([413, 429].includes((await rig.chat({ ...body, model: 'nobody-knows' })).status), 'an unknown tokenizer may need as many tokens as bytes')
  t.equal((await rig.chat({ ...body, model: 'gpt-4o' })).status, 200)
  t.equal((await rig.events()).length, 1)
})

t.test('a flood that settled use refuses costs the store one call; a raised limit works at once', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let reserves = 0
  const limits = (limit: number): string[] => [`{ name: rpd, meter: requests, limit: ${limit}, window: day }`]
  const rig = await startRig(t, upstream.url, { limits: limits(1), wrap: (store) => changed(store, { reserve: (of) => (move) => {
    reserves += 1
    return of.reserve(move)
  } }) })
  t.equal((await rig.chat()).status, 200)
  for (let i = 0; i < 20; i++) {
    const answer = await rig.chat()
    t.equal(answer.status, 429)
    t.match(answer.json(), { error: { reason: 'usage_limit_reached', code: 'insufficient_quota', limit: 'rpd', used: 1, remaining: 0 } })
    t.equal(answer.header('x-should-retry'), 'false')
  }
  t.ok(reserves <= 4, `${reserves} calls`)
  await rig.configure({ limits: limits(2) })
  t.equal((await rig.chat()).status, 200)
})

t.test('while the store is away calls are refused with 503 and nothing goes upstream; with store_down: allow they are served and billed later', async (t) => {
  for (const [policy, status, executions] of [['output_default: 100', 503, 0], ['store_down: allow, output_default: 100', 200, 1], ['store_down: { allow_up_to: 300 }, output_default: 100', 200, 1]] as const) {
    const upstream = await openScriptedUpstream(t, openai())
    let down = true
    const guarded = <M>(move: (of: M) => Promise<unknown>) => (of: M): Promise<never> => (down ? Promise.reject(new StoreUnavailable('away')) : move(of) as Promise<never>)
    const rig = await startRig(t, upstream.url, { policy, bounds: { settleMs: 100 }, wrap: (store) => changed(store, {
      reserve: (of) => guarded((move) => of.reserve(move)), settle: (of) => guarded((move) => of.settle(move)), void: (of) => guarded((move) => of.void(move)),
    }) })
    const answer = await rig.chat()
    t.equal(answer.status, status, policy)
    if (status === 503) t.match(answer.json(), { error: { reason: 'metering_unavailable' } })
    if (policy.includes('allow_up_to')) t.equal((await rig.chat()).status, 503, 'the amount of one outage is used up')
    t.equal(upstream.executions, executions)
    down = false
    t.equal((await rig.events()).length, executions)
  }
})

t.test('a store that does not answer a reservation in time is not waited for, and what it may hold is voided', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let slow = true
  const rig = await startRig(t, upstream.url, { bounds: { reserveMs: 100 }, wrap: (store) => changed(store, { reserve: (of) => async (move) => {
    if (slow) await sleep(300)
    return of.reserve(move)
  } }) })
  const startedAt = performance.now()
  t.equal((await rig.chat()).status, 503)
  t.ok(performance.now() - startedAt < 280)
  slow = false
  await sleep(300)
  await rig.settled()
  t.equal((await rig.chat()).status, 200)
})

t.test('when settlements pile up beyond their bound nothing more is admitted', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let down = true
  const rig = await startRig(t, upstream.url, { policy: 'store_down: allow', bounds: { settleMs: 50, settlementsMax: 3 }, wrap: (store) => changed(store, {
    settle: (of) => (move) => (down ? Promise.reject(new StoreUnavailable('away')) : of.settle(move)),
  }) })
  const statuses: number[] = []
  for (let i = 0; i < 5; i++) statuses.push((await rig.chat()).status)
  t.same(statuses, [200, 200, 200, 503, 503])
  down = false
  t.equal((await rig.events()).length, 3)
})

t.test('open exchanges are renewed with what they counted; what a vanished gateway held expires after a lease of contact', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...Array.from({ length: 60 }, (_, i) => [chunk(sse(chatChunk({ content: ` word${i}` }))), wait(20)]).flat(), chunk(sse('[DONE]')), lastChunk))
  const renewals: unknown[] = []
  const rig = await startRig(t, upstream.url, { bounds: { leaseMs: 300, renewMs: 100 }, wrap: (store) => changed(store, { extend: (of) => (move) => {
    renewals.push(move.counted?.usage.output_tokens)
    return of.extend(move)
  } }) })
  const call = rig.chat({ stream: true })
  await sleep(50)
  t.match(await rig.usage(), { parallel: { reserved: 1 } })
  // A reservation of a gateway that is no more.
  const orphan = { id: orphanId(), nowMs: Date.now(), home: 'main', uMin: 0, uMax: 0, deadlineMs: Date.now() + 100, skeleton: {
    source: 'x', account: 'main', key: 'main', plan: 'main', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions', model: null, upstream: 'model', stream: false,
    caller: { request_id: null, user: null, session: null, tags: {} },
  }, checks: [] }
  await rig.store.reserve(orphan)
  t.equal((await call).ending, 'complete', 'a long call outlives its lease while its gateway lives')
  t.ok(renewals.some((tokens) => typeof tokens === 'number' && tokens > 0), 'renewals carry what was counted')
  const events = await waitFor('the orphan to expire', async () => {
    const all = await rig.events()
    return all.length === 2 ? all : undefined
  })
  t.same(events.map((event) => event['end']).sort(), ['complete', 'expired'])
})

function orphanId(): string {
  const time = Date.now().toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-000000000001`
}

t.test('at the end of a drain streams are cut with an error event and settled, and nothing more is admitted', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words, stall))
  const rig = await startRig(t, upstream.url)
  const client = await rig.open({ method: 'POST', target: '/v1/chat/completions', body: { ...prompt, stream: true } })
  const head = await client.readHead()
  await sleep(50)
  rig.gateway.cutAll()
  let text = ''
  try {
    for await (const { bytes } of client.pieces(head)) text += bytes.toString()
    t.fail('the stream must not end like a whole one')
  } catch {
    t.match(text, /"error"/)
  }
  await rig.gateway.idle()
  t.equal((await rig.chat()).status, 503)
  t.match(await rig.store.outbox.scan(null, 10), [{ record: { body: { end: 'timed_out' }, usage: { requests: 1 } } }])
})

t.test('/v1/models is what the key may use, configured or listed by the upstream', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({}, ['test-a', 'test-b', 'secret-c']))
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["test-*"] }', models: '  test-configured: { upstream: model }\n  secret-configured: { upstream: model }' })
  const ids = async (): Promise<string[]> => ((await rig.request({ target: '/v1/models' })).json() as { data: { id: string }[] }).data.map(({ id }) => id)
  t.same(await ids(), ['test-a', 'test-b', 'test-configured'])
  t.same(await ids(), ['test-a', 'test-b', 'test-configured'])
  t.equal(upstream.executions, 1, 'the upstream is asked once a minute')
  t.equal((await rig.request({ target: '/v1/models', key: null })).status, 401)
})

t.test('/-/usage tells a key where it stands and needs one', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url)
  await rig.chat()
  const answer = await rig.request({ target: '/-/usage' })
  t.match(answer.json(), { account: 'main', key: 'main', plan: 'main', as_of: /^\d{4}-.*Z$/, grants: [] })
  const { limits } = answer.json() as { limits: Record<string, unknown>[] }
  t.match(limits.find(({ name }) => name === 'daily'), { meter: 'total_tokens', window: 'day', per: 'account', limit: 1_000_000, used: 13, reserved: 0, remaining: 999_987, resets_at: /T00:00:00Z$/ })
  t.equal((await rig.request({ target: '/-/usage', key: null })).status, 401)
})

t.test('/-/usage forecasts by the recent rate of use, where that is known', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const asked: string[] = []
  const rig = await startRig(t, upstream.url, {
    limits: ['{ name: monthly, meter: total_tokens, limit: 1M, window: month }'],
    parts: async () => ({ paces: { paceOf: (counters) => { asked.push(counters); return undefined } } }),
  })
  await rig.chat()
  t.equal((await rig.request({ target: '/-/usage' })).status, 200)
  t.equal(asked.length, 1)
})

t.test('models are routed by name and renamed for their upstream', async (t) => {
  const first = await openScriptedUpstream(t, openai())
  const second = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, first.url, {
    upstream: '    default: true', upstreams: `  other:\n    url: ${second.url}/v1\n    provider: openai`,
    models: '  fast: { upstream: other, upstream_model: tiny-1b }\n  "big-*": { upstream: other }',
  })
  await rig.chat({ model: 'fast' })
  await rig.chat({ model: 'big-70b' })
  await rig.chat({ model: 'anything' })
  t.same(second.requests.map((request) => [request.target, request.json()['model']]), [['/v1/chat/completions', 'tiny-1b'], ['/v1/chat/completions', 'big-70b']])
  t.equal(first.executions, 1)
  t.match((await rig.events()).map((event) => [event['model'], event['upstream']]), [['fast', 'other'], ['big-70b', 'other'], ['anything', 'model']])
  t.equal((await rig.request({ method: 'POST', target: '/chat/completions', body: prompt })).status, 200, 'the base path may be left out')
})

t.test('I8, W5: no key, prompt, answer or upstream\'s word reaches the log or the metrics', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ pieces: [canaries.answer] }))
  const rig = await startRig(t, upstream.url)
  const messages = [{ role: 'user', content: canaries.prompt }]
  await rig.chat({ messages })
  await rig.chat({ messages, stream: true })
  upstream.script = steps(openaiError(500, canaries.answer, 'x'))
  await rig.chat({ messages })
  upstream.script = steps(sseHead(), chunk(sse(chatChunk({ content: canaries.answer }))), reset)
  await rig.chat({ messages, stream: true })
  await rig.chat({ messages }, { Authorization: `Bearer ${canaries.key}` })
  await rig.settled()
  t.same(canariesIn(JSON.stringify(rig.logged) + await rig.metrics.text() + JSON.stringify(await rig.events())), [])
})

t.test('G16: a meter that throws never breaks an answer and never makes it free', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(json(200, chatCompletion(openaiAnswer))))
  const { providers } = await import('../../../src/providers/index.ts')
  const broken = providers.map((provider) => ({ ...provider, endpoints: provider.endpoints.map((endpoint) => ({
    ...endpoint, inspect: endpoint.inspect.bind(endpoint), prepare: endpoint.prepare.bind(endpoint),
    meter: () => ({ ended: false, pass() { throw new Error('broken') }, counted() { throw new Error('broken') }, finish() { throw new Error('broken') } }),
  })) }))
  const rig = await startRig(t, upstream.url, { providers: broken })
  const answer = await rig.chat()
  t.equal(answer.status, 200)
  t.match(answer.json(), { object: 'chat.completion' })
  const [event] = await rig.events()
  t.match(event, { usage_source: 'estimated' })
  t.ok(Number(event?.['output_tokens']) > 0)
  t.match(await rig.metrics.text(), /tallygate_meter_alarms_total\{[^}]*meter_failed[^}]*\} 1/)
})
