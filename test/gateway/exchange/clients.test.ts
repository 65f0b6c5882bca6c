// Whatever a client does: what was produced is billed once, what was not is not, nothing stays held.
import t from 'tap'
import type { Store } from '../../../src/stores/store.ts'
import { tokenizer } from '../../../src/providers/tokenizer.ts'
import { chatChunk, chatCompletion, openai, openaiAnswer } from '../../fixtures/openai-scripts.ts'
import { chunk, json, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait } from '../../fixtures/scripted-upstream.ts'
import { openRawClient, rawRequest, requestBytes } from '../../fixtures/raw-client.ts'
import { waitFor } from '../../fixtures/wait-for.ts'
import { prompt, secrets, sleep, startRig } from './rig.ts'

const hello = (text: string): Buffer => chunk(sse(chatChunk({ content: text })))
const streamed = { method: 'POST', target: '/v1/chat/completions', body: { ...prompt, stream: true } }

// Its tables take a third of a second to load, which would be measured here as someone else's delay.
await tokenizer.count('o200k_base', ['x'])

t.test('C1: a client that leaves before its body is complete costs nothing', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const client = await openRawClient({ port: rig.port })
  await client.send(`POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${secrets.main}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"model"`)
  await sleep(30)
  client.reset()
  t.same(await rig.events(), [])
  t.equal(upstream.connections.length, 0)
})

t.test('C2: a client that leaves before the answer began stops the upstream within 100 ms; one event tells of it', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(wait(5_000), json(200, {})))
  const rig = await startRig(t, upstream.url)
  const client = await rig.open({ method: 'POST', target: '/v1/chat/completions', body: prompt })
  await waitFor('the upstream to be called', () => upstream.executions === 1)
  const leftAt = performance.now()
  client.reset()
  await waitFor('its connection to be gone', () => upstream.connections[0]?.closedAtMs)
  const took = (upstream.connections[0]?.closedAtMs ?? Infinity) - leftAt
  t.ok(took < 100, `${took.toFixed(1)} ms`)
  t.match(await rig.events(), [{ end: 'client_gone', requests: 1, usage_source: 'estimated' }])
})

t.test('C2: a client that leaves while its reservation is on its way costs nothing, and the upstream is not even connected to', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let asked = false
  const rig = await startRig(t, upstream.url, { wrap: (store) => new Proxy(store, { get(target, name) {
    const value: unknown = Reflect.get(target, name, target)
    if (name === 'reserve') return async (move: Parameters<typeof target.reserve>[0]) => {
      asked = true
      await sleep(100)
      return target.reserve(move)
    }
    return typeof value === 'function' ? value.bind(target) : value
  } }) })
  const client = await rig.open(streamed)
  await waitFor('the store to be asked', () => asked)
  client.reset()
  t.same(await rig.events(), [])
  await sleep(50)
  t.equal(upstream.connections.length, 0)
})

for (const k of [1, 2, 5]) {
  t.test(`C3: a client that leaves at chunk ${k} stops the upstream within 100 ms and is billed for what was produced`, async (t) => {
    const upstream = await openScriptedUpstream(t, steps(sseHead(), ...Array.from({ length: 200 }, (_, i) => [hello(`word${i} `), wait(20)]).flat(), lastChunk))
    const rig = await startRig(t, upstream.url)
    const client = await rig.open(streamed)
    const answer = await client.readHead()
    let seen = 0
    for await (const _ of client.events(answer)) if (++seen === k) break
    const leftAt = performance.now()
    client.reset()
    await waitFor('the upstream connection to be gone', () => upstream.connections[0]?.closedAtMs)
    const took = (upstream.connections[0]?.closedAtMs ?? Infinity) - leftAt
    t.ok(took < 100, `${took.toFixed(1)} ms`)
    const [event, ...more] = await rig.events()
    t.equal(more.length, 0)
    t.match(event, { end: 'client_gone', status: 200, requests: 1 })
    const output = Number(event?.['output_tokens'])
    t.ok(output >= k && output <= 8 * (k + 5), `${output} tokens for ${k} chunks or a few more`)
    t.match((await rig.usage())['daily'], { used: Number(event?.['total_tokens']), reserved: 0 })
  })
}

t.test('C3: with on_disconnect: drain the upstream is read on to its own usage', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 30, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url, { policy: 'on_disconnect: drain, output_default: 100' })
  const client = await rig.open(streamed)
  await client.readHead()
  client.reset()
  t.match(await rig.events(), [{ end: 'client_gone', usage_source: 'upstream', output_tokens: 4, input_tokens: 9 }])
})

t.test('C4: a client that only stops sending gets its whole answer', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 20 }))
  const rig = await startRig(t, upstream.url)
  const client = await rig.open(streamed)
  client.halfClose()
  const answer = await client.readResponse()
  t.equal(answer.ending, 'complete')
  t.match(answer.text, /\[DONE\]/)
  t.match(await rig.events(), [{ end: 'complete', usage_source: 'upstream' }])
})

t.test('C5: a slow reader makes the upstream wait instead of filling the gateway', async (t) => {
  const big = chunk(sse(chatChunk({ content: 'x'.repeat(60_000) })))
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...Array.from({ length: 1000 }, () => big), lastChunk))
  const rig = await startRig(t, upstream.url, { server: '  timeouts: { idle: 5s }' })
  const client = await rig.open(streamed)
  await client.readHead()
  client.socket.pause()
  await sleep(700)
  const sent = upstream.connections[0]?.bytesSent ?? 0
  await sleep(300)
  t.equal(upstream.connections[0]?.bytesSent, sent, 'nothing more is taken from the upstream')
  t.ok(sent < 30_000_000, `${sent} of 60,000,000 bytes`)
  client.reset()
  await rig.settled()
})

t.test('C6: a client that takes nothing any more is cut, and billed', async (t) => {
  const big = chunk(sse(chatChunk({ content: 'x'.repeat(60_000) })))
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...Array.from({ length: 1000 }, () => big), lastChunk))
  const rig = await startRig(t, upstream.url, { serverBounds: { stallMs: 300 } })
  const client = await rig.open(streamed)
  await client.readHead()
  client.socket.pause()
  t.match(await rig.events(), [{ end: 'client_gone' }])
})

t.test('C7: tries of one call are calls of their own, and those refused cost nothing', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { limits: ['{ name: rpm, meter: requests, limit: 2, window: 1m }'] })
  const answers = []
  for (let i = 0; i < 4; i++) answers.push((await rig.chat({}, { 'X-Stainless-Retry-Count': String(i) })).status)
  t.same(answers, [200, 200, 429, 429])
  t.equal((await rig.events()).length, 2)
  t.match(await rig.usage(), { rpm: { used: 2, remaining: 0 } })
})

t.test('C11: of 200 calls at once with one unit left exactly one is admitted', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 50 }))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: daily, meter: requests, limit: 1, window: day }'] })
  const statuses = (await Promise.all(Array.from({ length: 200 }, () => rig.chat()))).map((answer) => answer.status)
  t.equal(statuses.filter((status) => status === 200).length, 1)
  t.equal(statuses.filter((status) => status === 429).length, 199)
  t.equal(upstream.executions, 1)
  t.match(await rig.usage(), { daily: { used: 1, remaining: 0 } })
})

t.test('C12: a refusal names the limit that refused and leaves every other as it was', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { limits: [
    '{ name: plenty, meter: requests, limit: 100, window: 1m }', '{ name: scarce, meter: total_tokens, limit: 180, window: day }', '{ name: parallel, meter: concurrency, limit: 9 }',
  ], policy: 'on_insufficient: refuse, output_default: 100' })
  t.equal((await rig.chat({ max_tokens: 2 })).status, 200)
  const refused = await rig.chat({ max_tokens: 60, messages: [{ role: 'user', content: 'a'.repeat(40) }] })
  t.equal(refused.status, 429, refused.text)
  t.match(refused.json(), { error: { reason: 'usage_limit_reached', limit: 'scarce' } })
  t.match(await rig.usage(), { plenty: { used: 1, reserved: 0 }, scarce: { used: 13, reserved: 0 }, parallel: { reserved: 0 } })
})

t.test('C13: an output bound that is none is 400; a missing one is the plan\'s; nothing is sent for the former', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  for (const body of ['{"max_tokens":-1}', '{"max_tokens":1e309}', '{"max_tokens":"100"}', '{"n":0}', '{"stream":"yes"}', '{', '[]', '"x"', '{"model":5}']) {
    const text = body === '{' || body[0] !== '{' ? body : JSON.stringify(prompt).replace(/}$/, `,${body.slice(1)}`)
    const answer = await rig.request({ method: 'POST', target: '/v1/chat/completions', headers: { 'Content-Type': 'application/json' }, body: text })
    t.equal(answer.status, 400, `${body} → ${answer.status} ${answer.text}`)
    t.equal(answer.header('x-tallygate-error'), 'gateway')
  }
  t.equal(upstream.executions, 0)
  t.same(await rig.events(), [])
})

t.test('C14: a prompt that does not fit what is left is refused before a byte goes upstream', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { limits: ['{ name: daily, meter: total_tokens, limit: 5000, window: day }'] })
  const answer = await rig.chat({ messages: [{ role: 'user', content: 'word '.repeat(5_000) }], max_tokens: 1 })
  t.ok([413, 429].includes(answer.status))
  t.equal(upstream.executions, 0)
  t.match(await rig.usage(), { daily: { used: 0, reserved: 0 } })
})

t.test('C15, C16: paths that no dialect knows are 404; models that the plan does not name are 403 and make no metric series', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["test-*"] }' })
  for (const target of ['/v1/batches', '/v1/files', '/v1/audio/speech', '/v1/images/edits', '/nothing', '/v1/chat/completions/']) {
    t.equal((await rig.request({ method: 'POST', target, body: {} })).status, 404, target)
    t.equal((await rig.request({ method: 'POST', target, body: {}, key: null })).status, 404, `${target} without a key`)
  }
  for (const model of ['other-model', 'TEST-model', 'tеst-model']) {
    const answer = await rig.chat({ model })
    t.equal(answer.status, 403)
    t.match(answer.json(), { error: { reason: 'feature_unavailable' } })
  }
  t.equal(upstream.executions, 0)
  t.notMatch(await rig.metrics.text(), /other-model|nothing|batches/)
})

t.test('C17: every request on a connection is judged by its own key', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const client = await openRawClient({ port: rig.port })
  t.teardown(() => client.close())
  const statuses: number[] = []
  for (const key of [secrets.main, 'wrong-key-of-some-length', secrets.other, 'wrong-key-of-some-length', secrets.main]) {
    await client.send(requestBytes({ method: 'POST', target: '/v1/chat/completions', headers: { Authorization: `Bearer ${key}` }, body: prompt }))
    statuses.push((await client.readResponse()).status)
  }
  t.same(statuses, [200, 401, 200, 401, 200])
  t.same((await rig.events()).map((event) => event['key']), ['main', 'other', 'main'])
})

t.test('C18: pipelined requests are answered in order', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const client = await openRawClient({ port: rig.port })
  t.teardown(() => client.close())
  const one = (model: string): Buffer => requestBytes({ method: 'POST', target: '/v1/chat/completions', headers: { Authorization: `Bearer ${secrets.main}` }, body: { ...prompt, model } })
  await client.send(Buffer.concat([one('first'), one('second'), one('third')]))
  for (const model of ['first', 'second', 'third']) t.match((await client.readResponse()).json(), { model })
  t.equal((await rig.events()).length, 3)
})

t.test('C19: a call that waits for a place is admitted when one is free, and leaves nothing behind when its client leaves', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(wait(300), json(200, chatCompletion(openaiAnswer))))
  const rig = await startRig(t, upstream.url, { policy: 'wait: 5s, output_default: 100', limits: ['{ name: parallel, meter: concurrency, limit: 1 }'] })
  const first = rig.chat()
  await waitFor('the first to run', () => upstream.executions === 1)
  const second = rig.chat()
  const third = await rig.open({ method: 'POST', target: '/v1/chat/completions', body: prompt })
  await sleep(60)
  third.reset()
  t.equal((await first).status, 200)
  t.equal((await second).status, 200)
  t.equal((await rig.events()).length, 2)
  t.equal(upstream.executions, 2)
})

t.test('without policy.wait a call beyond the concurrency limit is refused at once, with a wait of seconds', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(wait(200), json(200, chatCompletion(openaiAnswer))))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: parallel, meter: concurrency, limit: 1 }'] })
  const first = rig.chat()
  await waitFor('the first to run', () => upstream.executions === 1)
  const refused = await rig.chat()
  t.equal(refused.status, 429)
  t.match(refused.json(), { error: { reason: 'concurrency_limit' } })
  const after = Number(refused.header('retry-after'))
  t.ok(after >= 1 && after <= 5)
  await first
  await rig.settled()
})

t.test('C20: HEAD, GET and others on a POST route are 405 with Allow', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  for (const method of ['HEAD', 'GET', 'PUT', 'DELETE', 'PATCH']) {
    const answer = await rig.request({ method, target: '/v1/chat/completions' })
    t.equal(answer.status, 405, method)
    t.equal(answer.header('allow'), 'POST')
  }
  t.equal((await rig.request({ method: 'POST', target: '/v1/models', body: {} })).header('allow'), 'GET')
  t.equal(upstream.connections.length, 0)
})

t.test('a client that closes right after the terminal event has had its answer: complete', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  for (let i = 0; i < 5; i++) {
    const client = await rig.open(streamed)
    const answer = await client.readHead()
    for await (const event of client.events(answer)) if (event.data === '[DONE]') break
    client.reset()
  }
  t.same((await rig.events()).map((event) => event['end']), Array(5).fill('complete'))
})

t.test('the end of an answer is seen only after its settlement', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let settledAtMs = 0
  const rig = await startRig(t, upstream.url, { wrap: (store) => new Proxy(store, { get(target, name) {
    if (name !== 'settle') { const value: unknown = Reflect.get(target, name, target); return typeof value === 'function' ? value.bind(target) : value }
    return async (move: Parameters<typeof target.settle>[0]) => {
      await sleep(150)
      const answer = await target.settle(move)
      settledAtMs = performance.now()
      return answer
    }
  } }) })
  const client = await rig.open(streamed)
  const answer = await client.readHead()
  let doneAtMs = 0
  let helloAtMs = 0
  for await (const event of client.events(answer)) {
    if (event.data.includes('Hello')) helloAtMs = event.atMs
    if (event.data === '[DONE]') doneAtMs = event.atMs
  }
  t.ok(doneAtMs >= settledAtMs, 'the terminator waited')
  t.ok(helloAtMs < settledAtMs, 'the content did not')
  await rig.settled()
})

t.test('an answer that cannot be billed in time is cut, never completed; where the plan allows outages it is released', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  let down = true
  const wrap = (store: Store): Store => new Proxy(store, { get(target, name) {
    const value: unknown = Reflect.get(target, name, target)
    if (name === 'settle') return (move: Parameters<typeof target.settle>[0]) => (down ? Promise.reject(new Error('away')) : target.settle(move))
    return typeof value === 'function' ? value.bind(target) : value
  } })
  const strict = await startRig(t, upstream.url, { bounds: { endMs: 200 }, wrap })
  const startedAt = performance.now()
  const plain = await strict.chat().catch(() => null)
  t.ok(plain === null || plain.ending !== 'complete', 'a plain answer does not come')
  const streamed = await strict.chat({ stream: true })
  t.not(streamed.ending, 'complete', 'a stream does not end')
  t.notMatch(streamed.text, /\[DONE\]/)
  t.ok(performance.now() - startedAt < 2_000)
  t.equal(strict.gateway.unsettled, 2, 'the settlements wait')
  down = false
  t.match(await strict.events(), [{ output_tokens: 4 }, { output_tokens: 4 }], 'and are booked when the store is back')

  down = true
  const lenient = await startRig(t, upstream.url, { policy: 'store_down: allow', bounds: { settleMs: 200 }, wrap })
  const answer = await lenient.chat()
  t.equal(answer.status, 200)
  t.equal(answer.ending, 'complete')
  down = false
  t.match(await lenient.events(), [{ output_tokens: 4 }])
})

t.test('two keys that differ are 400; every wrong key gets the same 401', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  const two = await rig.chat({}, { 'x-api-key': secrets.other })
  t.equal(two.status, 400)
  t.equal((await rig.chat({}, { 'x-api-key': secrets.main })).status, 200, 'the same twice is one')
  const bodies = new Set<string>()
  for (const headers of [{}, { Authorization: 'Bearer wrong' }, { Authorization: 'Basic abc' }, { Authorization: `Bearer ${secrets.main}x` }, { 'api-key': 'ü' }] as Record<string, string>[]) {
    const answer = await rawRequest({ port: rig.port }, { method: 'POST', target: '/v1/chat/completions', headers, body: prompt })
    t.equal(answer.status, 401)
    t.equal(answer.header('x-should-retry'), 'false')
    bodies.add(answer.text.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'ID'))
  }
  t.equal(bodies.size, 1)
  t.equal(upstream.executions, 1)
  t.notMatch(JSON.stringify(rig.logged), /tg-test/, 'no key is logged')
})

