// The official Anthropic SDK, unmodified, through the gateway.

import t from 'tap'
import Anthropic, { type ClientOptions } from '@anthropic-ai/sdk'
import { anthropic, anthropicAnswer, anthropicError, messagesEvents } from '../fixtures/anthropic-scripts.ts'
import { freePort } from '../fixtures/gateway-process.ts'
import { rawRequest } from '../fixtures/raw-client.ts'
import {
  chunk, head, inTurn, json, lastChunk, openScriptedUpstream, reset, sse, sseHead, stall, steps, wait, type Script,
} from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { all, errorOf, keyLine, openFront, secretOf, watchAttempts } from './front.ts'
import { baseUrl } from './recipes.ts'

const upstream = await openScriptedUpstream(t, anthropic())
const slow = await openScriptedUpstream(t, steps(stall))
const front = await openFront(t, `
upstreams:
  claude: { url: "${upstream.url}", provider: anthropic, default: true, credential: upstream-credential }
  slow: { url: "${slow.url}", provider: anthropic, timeouts: { first_byte: 300ms } }
  gone: { url: "http://127.0.0.1:${await freePort()}", provider: anthropic }
models:
  slow-claude: { upstream: slow }
  gone-claude: { upstream: gone }
plans:
  open:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm,   meter: requests,      limit: 5000, window: 1m }
      - { name: tpm,   meter: total_tokens,  limit: 10M,  window: 1m }
      - { name: itpm,  meter: input_tokens,  limit: 8M,   window: 1m }
      - { name: otpm,  meter: output_tokens, limit: 2M,   window: 1m }
  narrow:
    entitlements: { models: ["test-*"] }
  brisk:
    entitlements: { models: ["*"] }
    limits: [ { name: burst, meter: requests, limit: 1, window: 1s } ]
  once:
    entitlements: { models: ["*"] }
    limits: [ { name: daily, meter: requests, limit: 1, window: day } ]
accounts:
  stopped: { plan: open, suspended: true }
keys:
${keyLine('open', 'plan: open')}
${keyLine('narrow', 'plan: narrow')}
${keyLine('brisk', 'plan: brisk')}
${keyLine('once', 'plan: once')}
${keyLine('stopped', 'account: stopped')}
`)
const { gateway } = front

const client = (key = 'open', options: ClientOptions = {}): Anthropic =>
  new Anthropic({ baseURL: baseUrl('Anthropic SDK (JavaScript, Python)', gateway.url), apiKey: secretOf(key), ...options })
const messages: Anthropic.MessageParam[] = [{ role: 'user', content: 'Say hello.' }]
const ask = { model: 'test-claude', max_tokens: 200, messages }
const booked = { endpoint: 'messages', input_tokens: 9, output_tokens: 4, total_tokens: 13, usage_source: 'upstream', end: 'complete', requests: 1 }
const textOf = (message: Anthropic.Message): string => message.content.map((block) => block.type === 'text' ? block.text : '').join('')
const play = (script: Script): void => { upstream.script = script }

t.test('a plain message arrives whole, with our id, and is booked to the token', async (t) => {
  play(anthropic({ headers: { 'request-id': 'req_upstream' } }))
  const answer = await client().messages.create(ask, { headers: { 'anthropic-beta': 'one-2026-01-01,two-2026-01-01' } })
  t.equal(textOf(answer), 'Hello, world!')
  t.match(answer.usage, { input_tokens: 9, output_tokens: 4 })
  t.not(answer._request_id, 'req_upstream')
  t.match(await front.event(answer._request_id), { ...booked, model: 'test-claude', stream: false, status: 200 })
  const seen = upstream.requests.at(-1)!
  t.equal(seen.header('x-api-key'), 'upstream-credential', 'the upstream gets its own credential')
  t.notOk(seen.headers.some(([, value]) => value.includes(secretOf('open'))), 'and never the caller\'s key')
  t.match(seen.header('anthropic-version'), /^\d{4}-\d\d-\d\d$/)
  t.equal(seen.header('anthropic-beta'), 'one-2026-01-01,two-2026-01-01')
})

t.test('the list of models is the upstream\'s, as far as the plan allows, in the shape that the SDK reads', async (t) => {
  play(inTurn(steps(json(200, { data: [{ type: 'model', id: 'test-claude', display_name: 'Test', created_at: '2026-01-01T00:00:00Z' }, { type: 'model', id: 'other-claude' }], has_more: false })), anthropic()))
  const listed = await client('narrow').models.list()
  t.same(listed.data.map(({ id, type }) => ({ id, type })), [{ id: 'test-claude', type: 'model' }])
  t.equal(listed.has_more, false)
  t.match(upstream.requests.at(-1), { method: 'GET', target: '/v1/models' })
})

t.test('a token sent as Bearer works like a key', async (t) => {
  play(anthropic())
  const answer = await client('open', { apiKey: null, authToken: secretOf('open') }).messages.create(ask)
  t.equal(textOf(answer), 'Hello, world!')
  t.equal(upstream.requests.at(-1)!.header('authorization'), undefined)
})

t.test('a streamed message, event by event and by the SDK\'s own stream', async (t) => {
  play(anthropic())
  const { data: stream, request_id: id } = await client().messages.create({ ...ask, stream: true }).withResponse()
  const events = await all(stream)
  t.equal(events.map((event) => event.type === 'content_block_delta' && event.delta.type === 'text_delta' ? event.delta.text : '').join(''), 'Hello, world!')
  t.match(events.at(-2), { type: 'message_delta', usage: { output_tokens: 4 } })
  t.match(await front.event(id), { ...booked, stream: true })

  const seen: string[] = []
  const helped = client().messages.stream(ask).on('text', (text) => seen.push(text))
  const final = await helped.finalMessage()
  t.same(seen, anthropicAnswer.pieces)
  t.match(final, { stop_reason: 'end_turn', usage: { input_tokens: 9, output_tokens: 4 } })
  t.match(await front.event(helped.request_id), { ...booked, stream: true })
})

t.test('what was read from and written to the cache is part of the input on the event', async (t) => {
  play(anthropic({ inputTokens: 10, cacheReadTokens: 200, cacheWriteTokens: 30 }))
  const expected = { ...booked, input_tokens: 240, cached_input_tokens: 200, cache_write_tokens: 30, total_tokens: 244 }
  const system: Anthropic.TextBlockParam[] = [{ type: 'text', text: 'Be brief.', cache_control: { type: 'ephemeral' } }]
  const answer = await client().messages.create({ ...ask, system })
  t.match(answer.usage, { input_tokens: 10, cache_read_input_tokens: 200, cache_creation_input_tokens: 30 }, 'the caller sees the upstream\'s own numbers')
  t.match(await front.event(answer._request_id), expected)
  const stream = client().messages.stream({ ...ask, system })
  await stream.finalMessage()
  t.match(await front.event(stream.request_id), { ...expected, stream: true })
})

t.test('bytes: answers plain and streamed are the upstream\'s, byte for byte', async (t) => {
  const odd = '{ "type":"message","id" : "m","role":"assistant","model":"test-claude",\r\n"content":[{"type":"text","text":"\\u00e9 é😀"}],"x":1.50,'
    + '"stop_reason":"end_turn","stop_sequence":null, "usage":{"input_tokens":9,"output_tokens": 4,"later":{"a":[]}} }\n'
  const events = [...messagesEvents(anthropicAnswer).slice(0, 2), ': a comment\n\n', 'event:ping\r\ndata:{"type":"ping" }\r\n\r\n', ...messagesEvents(anthropicAnswer).slice(2)].join('')
  const bytes = Buffer.from(events)
  const parts = Array.from({ length: Math.ceil(bytes.length / 19) }, (_, index) => chunk(bytes.subarray(index * 19, (index + 1) * 19)))
  for (const [stream, script, expected] of [
    [false, steps(head(200, { 'Content-Type': 'application/json', 'Content-Length': String(Buffer.byteLength(odd)) }), odd), odd],
    [true, steps(sseHead(), ...parts, lastChunk), events],
  ] as const) {
    play(script)
    const body = JSON.stringify({ ...ask, stream, unknown_to_us: [1.5, { a: null }] })
    const answer = await rawRequest(gateway, {
      method: 'POST', target: '/v1/messages', body, headers: { 'x-api-key': secretOf('open'), 'anthropic-version': '2023-06-01', 'content-type': 'application/json' },
    })
    t.equal(answer.text, expected)
    t.equal(upstream.requests.at(-1)!.body.toString(), body, 'and so is the request')
    t.match(await front.event(answer.header('request-id')), booked)
  }
})

const weather: Anthropic.Tool = { name: 'get_weather', description: 'Weather of a place.', input_schema: { type: 'object', properties: { place: { type: 'string' } } } }
const use = { type: 'tool_use', id: 'toolu_1', name: 'get_weather', input: { place: 'Kiel' } } as const

t.test('tools: a plain tool use and the turn that answers it, and a streamed one', async (t) => {
  const usage = { input_tokens: 50, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 20 }
  const message = { id: 'm', type: 'message', role: 'assistant', model: 'test-claude', stop_sequence: null }
  const event = (type: string, more: object): Buffer => chunk(sse({ type, ...more }, type))
  play(inTurn(
    steps(json(200, { ...message, content: [use], stop_reason: 'tool_use', usage })),
    anthropic({ pieces: ['Windy.'] }),
    steps(
      sseHead(), event('message_start', { message: { ...message, content: [], stop_reason: null, usage: { ...usage, output_tokens: 1 } } }),
      event('content_block_start', { index: 0, content_block: { ...use, input: {} } }),
      ...['{"pl', 'ace":"', 'Kiel"}'].map((text) => event('content_block_delta', { index: 0, delta: { type: 'input_json_delta', partial_json: text } })),
      event('content_block_stop', { index: 0 }), event('message_delta', { delta: { stop_reason: 'tool_use', stop_sequence: null }, usage: { output_tokens: 20 } }),
      event('message_stop', {}), lastChunk,
    ),
  ))
  const first = await client().messages.create({ ...ask, tools: [weather], tool_choice: { type: 'any' } })
  t.match(first, { content: [use], stop_reason: 'tool_use' })
  t.match(upstream.requests.at(-1)!.json(), { tools: [weather], tool_choice: { type: 'any' } })
  const result: Anthropic.MessageParam = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'wind' }] }
  const second = await client().messages.create({ ...ask, tools: [weather], messages: [...messages, { role: 'assistant', content: first.content }, result] })
  t.equal(textOf(second), 'Windy.')
  const stream = client().messages.stream({ ...ask, tools: [weather] })
  t.match(await stream.finalMessage(), { content: [use], stop_reason: 'tool_use' })
  for (const id of [first._request_id, stream.request_id]) t.match(await front.event(id), { input_tokens: 50, output_tokens: 20 })
})

t.test('pictures and thinking reach the upstream as they were asked', async (t) => {
  play(anthropic())
  const dot = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='
  const content: Anthropic.ContentBlockParam[] = [
    { type: 'image', source: { type: 'base64', media_type: 'image/png', data: dot } },
    { type: 'image', source: { type: 'url', url: `http://127.0.0.1:${upstream.port}/picture.png` } }, { type: 'text', text: 'What is it?' },
  ]
  const body = { ...ask, max_tokens: 4000, thinking: { type: 'enabled', budget_tokens: 2000 } as const, messages: [{ role: 'user' as const, content }] }
  const answer = await client().messages.create(body)
  t.same(upstream.requests.at(-1)!.json(), body)
  t.match(await front.event(answer._request_id), booked)
  t.notOk(upstream.requests.some((request) => request.target.includes('picture')))
})

t.test('count_tokens answers and costs nothing', async (t) => {
  play(anthropic({ inputTokens: 123 }))
  const before = await front.limits('open')
  t.match(await client().messages.countTokens({ model: 'test-claude', messages, system: 'Be brief.' }), { input_tokens: 123 })
  t.same((await front.limits('open')).map(({ used }) => used), before.map(({ used }) => used))
})

t.test('quota headers: what is left, from the numbers that decide', async (t) => {
  play(anthropic())
  const { response } = await client().messages.create(ask).withResponse()
  const limits = await front.limits('open')
  for (const [kind, name] of [['requests', 'rpm'], ['tokens', 'tpm'], ['input-tokens', 'itpm'], ['output-tokens', 'otpm']] as const) {
    const limit = limits.find((one) => one.name === name)!
    t.equal(response.headers.get(`anthropic-ratelimit-${kind}-limit`), String(limit.limit))
    t.equal(response.headers.get(`anthropic-ratelimit-${kind}-remaining`), String(limit.remaining))
    const reset = Date.parse(response.headers.get(`anthropic-ratelimit-${kind}-reset`) ?? '')
    t.ok(reset > Date.now() - 1000 && reset <= Date.now() + 120_000, `${kind} reset is a time soon`)
  }
  t.ok(response.headers.get('request-id'))
  t.ok(response.headers.get('ratelimit-policy'))
})

t.test('refusals are the SDK\'s own error classes, in our words, tried once', async (t) => {
  play(anthropic())
  await client('once').messages.create(ask)
  const before = upstream.executions
  for (const [what, key, model, Class, status, type, reason, words] of [
    ['an unknown key', 'nobody', 'test-claude', Anthropic.AuthenticationError, 401, 'authentication_error', 'invalid_api_key', /API key/],
    ['a model outside the plan', 'narrow', 'other', Anthropic.PermissionDeniedError, 403, 'permission_error', 'feature_unavailable', /other/],
    ['a suspended account', 'stopped', 'test-claude', Anthropic.PermissionDeniedError, 403, 'permission_error', 'subscription_inactive', /account/],
    ['an allowance used up', 'once', 'test-claude', Anthropic.RateLimitError, 429, 'rate_limit_error', 'usage_limit_reached', /daily/],
  ] as const) {
    const attempts = watchAttempts()
    const error = await errorOf(client(key, { fetch: attempts.fetch }).messages.create({ ...ask, model }))
    if (!(error instanceof Class)) return t.fail(`${what}: ${String(error)}`)
    t.match(error, { status, type, error: { type: 'error', error: { type, message: words, details: { reason } } } }, what)
    t.match(error.message, words, `${what}: ${error.message}`)
    t.ok(error.requestID, what)
    t.equal((error.error as { request_id?: string }).request_id, error.requestID, 'the body names the same id')
    t.equal(attempts.list.length, 1, what)
    t.equal(attempts.list[0]!.headers.get('x-should-retry'), 'false')
  }
  t.equal(upstream.executions, before, 'none reached the upstream')
})

t.test('a short wait: the SDK waits as long as it is told to, and succeeds', async (t) => {
  play(anthropic())
  await client('brisk').messages.create(ask)
  const attempts = watchAttempts()
  t.equal(textOf(await client('brisk', { fetch: attempts.fetch }).messages.create(ask)), 'Hello, world!')
  const [refusal, next] = attempts.list
  t.equal(attempts.list.length, 2)
  t.equal(refusal?.status, 429)
  const waitMs = Number(refusal?.headers.get('retry-after-ms'))
  t.ok(waitMs >= 1 && waitMs <= 2000, `told to wait ${waitMs} ms`)
  t.ok(next!.atMs - refusal!.answeredMs >= waitMs - 2)
  const error = await errorOf(client('brisk', { maxRetries: 0 }).messages.create(ask))
  if (!(error instanceof Anthropic.RateLimitError)) return t.fail(String(error))
  t.match(error.message, /Please try again in \d+s\./)
  t.notMatch(error.message, /quota|billing|will reset at/i)
})

t.test('upstream failures are ours, not the caller\'s: the right class, the right number of attempts', async (t) => {
  for (const [what, script, model, status, type, attempts] of [
    ['its credential is refused', steps(anthropicError(401, 'authentication_error', 'invalid x-api-key sk-upstream')), 'test-claude', 502, 'api_error', 1],
    ['its account is out of credit', steps(anthropicError(402, 'billing_error', 'secret account')), 'test-claude', 502, 'api_error', 1],
    ['it is overloaded', steps(anthropicError(529, 'overloaded_error', 'secret load', { 'retry-after': '1' })), 'test-claude', 503, 'overloaded_error', 2],
    ['it cannot be reached', anthropic(), 'gone-claude', 502, 'api_error', 2],
    ['it does not answer', anthropic(), 'slow-claude', 504, 'api_error', 2],
  ] as const) {
    play(script)
    const watched = watchAttempts()
    const error = await errorOf(client('open', { maxRetries: 1, fetch: watched.fetch }).messages.create({ ...ask, model }))
    if (!(error instanceof Anthropic.InternalServerError)) return t.fail(`${what}: ${String(error)}`)
    t.match(error, { status, type }, what)
    t.notMatch(error.message, /sk-upstream|secret/, 'in our words')
    t.equal(watched.list.length, attempts, `${what}: attempts`)
  }
})

t.test('a bad request is the caller\'s own: the upstream\'s words pass', async (t) => {
  play(steps(anthropicError(400, 'invalid_request_error', 'messages: roles must alternate')))
  const error = await errorOf(client().messages.create(ask))
  if (!(error instanceof Anthropic.BadRequestError)) return t.fail(String(error))
  t.match(error.message, /roles must alternate/)
})

t.test('a stream that breaks is an exception, and what came is billed', async (t) => {
  const begun = [sseHead(), ...messagesEvents({ ...anthropicAnswer, inputTokens: 40 }).slice(0, 5).map((event) => chunk(event)), wait(30)]
  for (const [what, script] of [
    ['reset', steps(...begun, reset)],
    ['an error in the stream', steps(...begun, chunk(sse({ type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }, 'error')), lastChunk)],
  ] as const) {
    play(script)
    const { data: stream, request_id: id } = await client().messages.create({ ...ask, stream: true }).withResponse()
    const error = await errorOf(all(stream))
    t.ok(error instanceof Anthropic.AnthropicError, `${what}: ${String(error)}`)
    const event = await front.event(id)
    t.equal(event.end, 'upstream_broken', what)
    t.equal(event.input_tokens, 40, `${what}: the input as the upstream reported it`)
    t.ok(event.output_tokens! >= 1 && event.output_tokens! <= 4, `${what}: ${event.output_tokens}`)
  }
})

t.test('at the end nothing is reserved, and the counters are the events', async (t) => {
  await waitFor('all calls to be settled', async () => (await front.limits('open')).every((limit) => limit.reserved === 0))
  const limits = await front.limits('open')
  const events = front.events().filter((event) => event.data.key === 'open')
  const used = (name: string): number => limits.find((limit) => limit.name === name)!.used
  const sum = (field: 'requests' | 'input_tokens' | 'output_tokens' | 'total_tokens'): number => events.reduce((all, { data }) => all + (data[field] ?? 0), 0)
  t.same([used('rpm'), used('itpm'), used('otpm'), used('tpm')], [sum('requests'), sum('input_tokens'), sum('output_tokens'), sum('total_tokens')])
  t.comment(`${events.length} exchanges, ${used('tpm')} tokens`)
})
