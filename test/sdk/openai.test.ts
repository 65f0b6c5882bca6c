// The official OpenAI SDK, unmodified, through the gateway.

import t from 'tap'
import OpenAI, { type ClientOptions } from 'openai'
import { freePort } from '../fixtures/gateway-process.ts'
import { chatChunk, chatUsageChunk, openai, openaiAnswer, openaiError } from '../fixtures/openai-scripts.ts'
import { openRawClient, rawRequest, requestBytes } from '../fixtures/raw-client.ts'
import {
  all as allSteps, chunk, end, head, inTurn, json, lastChunk, openScriptedUpstream, reset, sse, sseHead, stall, steps, wait, type Script,
} from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { all, errorOf, keyLine, openFront, secretOf, watchAttempts } from './front.ts'
import { baseUrl } from './recipes.ts'

const upstream = await openScriptedUpstream(t, openai())
const slow = await openScriptedUpstream(t, steps(stall))
const front = await openFront(t, `
upstreams:
  model: { url: "${upstream.url}", provider: openai, default: true, credential: upstream-credential }
  slow: { url: "${slow.url}", provider: openai, timeouts: { first_byte: 300ms } }
  gone: { url: "http://127.0.0.1:${await freePort()}", provider: openai }
models:
  slow-model: { upstream: slow }
  gone-model: { upstream: gone }
plans:
  open:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm,      meter: requests,     limit: 5000, window: 1m }
      - { name: tpm,      meter: total_tokens, limit: 10M,  window: 1m }
      - { name: parallel, meter: concurrency,  limit: 100 }
  narrow:
    entitlements: { models: ["test-*"] }
  brisk:
    entitlements: { models: ["*"] }
    limits: [ { name: burst, meter: requests, limit: 1, window: 1s } ]
  single:
    entitlements: { models: ["*"] }
    limits: [ { name: parallel, meter: concurrency, limit: 1 } ]
  once:
    entitlements: { models: ["*"] }
    limits: [ { name: daily, meter: requests, limit: 1, window: day } ]
  minute:
    entitlements: { models: ["*"] }
    limits: [ { name: tpm, meter: total_tokens, limit: 2000, window: 1m } ]
accounts:
  stopped: { plan: open, suspended: true }
keys:
${keyLine('open', 'plan: open')}
${keyLine('narrow', 'plan: narrow')}
${keyLine('brisk', 'plan: brisk')}
${keyLine('single', 'plan: single')}
${keyLine('once', 'plan: once')}
${keyLine('minute', 'plan: minute')}
${keyLine('stopped', 'account: stopped')}
`)
const { gateway } = front

const client = (key = 'open', options: ClientOptions = {}): OpenAI =>
  new OpenAI({ baseURL: baseUrl('OpenAI SDK (JavaScript, Python)', gateway.url), apiKey: secretOf(key), ...options })
const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'Say hello.' }]
const ask = { model: 'test-model', messages }
const tokens = ({ inputTokens, outputTokens } = openaiAnswer): object =>
  ({ input_tokens: inputTokens, output_tokens: outputTokens, total_tokens: inputTokens + outputTokens, usage_source: 'upstream', end: 'complete', requests: 1 })
const post = (target: string, body: object | string, key = 'open'): Parameters<typeof rawRequest>[1] =>
  ({ method: 'POST', target, headers: { authorization: `Bearer ${secretOf(key)}`, 'content-type': 'application/json' }, body })
const play = (script: Script): void => { upstream.script = script }
const lastBody = (): Record<string, unknown> => upstream.requests.at(-1)!.json()

t.test('a plain chat answer arrives whole, with our id, and is booked to the token', async (t) => {
  play(openai({ cachedTokens: 3, reasoningTokens: 2 }))
  const answer = await client().chat.completions.create(ask)
  t.equal(answer.choices[0]?.message.content, 'Hello, world!')
  t.match(answer.usage, { prompt_tokens: 9, completion_tokens: 4 })
  const event = await front.event(answer._request_id)
  t.match(event, { ...tokens(), cached_input_tokens: 3, reasoning_tokens: 2, endpoint: 'chat.completions', model: 'test-model', stream: false, status: 200 })
  const seen = upstream.requests.at(-1)!
  t.equal(seen.header('authorization'), 'Bearer upstream-credential', 'the upstream gets its own credential')
  t.notOk(seen.headers.some(([, value]) => value.includes(secretOf('open'))), 'and never the caller\'s key')
})

t.test('a streamed answer without include_usage has no extra chunk, and is booked to the token all the same', async (t) => {
  play(openai())
  const { data: stream, request_id: id } = await client().chat.completions.create({ ...ask, stream: true }).withResponse()
  const chunks = await all(stream)
  t.equal(chunks.map((one) => one.choices[0]?.delta.content ?? '').join(''), 'Hello, world!')
  t.ok(chunks.every((one) => one.choices.length > 0), 'no chunk without a choice')
  t.match(lastBody(), { stream_options: { include_usage: true } }, 'the upstream was asked for usage')
  t.match(await front.event(id), { ...tokens(), stream: true })
})

t.test('a streamed answer with include_usage has the extra chunk, with the upstream\'s own numbers', async (t) => {
  play(openai())
  const { data: stream, request_id: id } = await client().chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }).withResponse()
  const chunks = await all(stream)
  t.match(chunks.at(-1), { choices: [], usage: { prompt_tokens: 9, completion_tokens: 4, total_tokens: 13 } })
  t.match(await front.event(id), tokens())
})

t.test('where the upstream reports no usage the text is counted, and the event says so', async (t) => {
  play(openai({ usage: 'never' }))
  const { data: stream, request_id: id } = await client().chat.completions.create({ ...ask, stream: true }).withResponse()
  await all(stream)
  const event = await front.event(id)
  t.match(event, { usage_source: 'counted', end: 'complete', output_tokens: 4 }, '"Hello, world!" is four tokens')
  t.ok(event.input_tokens! > 0)
})

t.test('bytes: a plain answer is the upstream\'s, byte for byte, however oddly it is written', async (t) => {
  const odd = '{ "id":"x",\r\n\t"choices" : [{"index":0,"message":{"role":"assistant","content":"\\u00e9\\ud83d\\ude00 é😀 \\/"},"finish_reason":"stop"}],'
    + '"big":12345678901234567890.10e2, "usage": {"prompt_tokens" : 9, "completion_tokens":4,"total_tokens":13, "x":null}, "id":"twice" }\n'
  const bytes = Buffer.from(odd)
  play(steps(head(200, { 'Content-Type': 'application/json', 'Content-Length': String(bytes.length) }), bytes))
  const answer = await rawRequest(gateway, post('/v1/chat/completions', { ...ask, max_tokens: 50 }))
  t.same(answer.body, bytes)
  t.equal(answer.header('content-length'), String(bytes.length))
  t.match(await front.event(answer.header('x-request-id')), tokens())
})

t.test('bytes: a request in which nothing must change reaches the upstream byte for byte', async (t) => {
  play(openai())
  const odd = '{ "messages":[ {"content" : "\\u00e9 é","role":"user"} ],\n "unknown_to_us": {"a":[1,2.50,-0]}, "max_tokens": 50,"model":"test-model" }'
  t.equal((await rawRequest(gateway, post('/v1/chat/completions', odd))).status, 200)
  t.equal(upstream.requests.at(-1)!.body.toString(), odd)
})

t.test('bytes: a stream is the upstream\'s, byte for byte, but for the one chunk that was not asked for', async (t) => {
  const usage = sse(chatUsageChunk(openaiAnswer))
  const before = [
    ': a comment\n\n', 'id: 7\nretry: 10\ndata:{"choices":[{"index":0,"delta":{"role":"assistant","content":"H\\u00e9"}}],"x" : 1.0}\n\n',
    sse(chatChunk({ content: '😀 é' })), 'data: {"choices": [{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n',
  ]
  const done = 'data: [DONE]\n\n'
  // Cut where no event ends, so that a character and a line break fall apart.
  const bytes = Buffer.from([...before, usage, done].join(''))
  const parts = Array.from({ length: Math.ceil(bytes.length / 23) }, (_, index) => chunk(bytes.subarray(index * 23, (index + 1) * 23)))
  play(steps(sseHead(), ...parts, lastChunk))
  const asked = await rawRequest(gateway, post('/v1/chat/completions', { ...ask, stream: true, stream_options: { include_usage: true } }))
  t.equal(asked.text, bytes.toString())
  const unasked = await rawRequest(gateway, post('/v1/chat/completions', { ...ask, stream: true }))
  t.equal(unasked.text, [...before, done].join(''))
  for (const answer of [asked, unasked]) t.match(await front.event(answer.header('x-request-id')), tokens())
})

const weather: OpenAI.ChatCompletionFunctionTool = {
  type: 'function',
  function: { name: 'get_weather', description: 'Weather of a place.', parameters: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] } },
}
const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"place":"Kiel"}' } }

t.test('tools: a plain tool call, and the turn that answers it', async (t) => {
  play(inTurn(
    steps(json(200, {
      id: 'c', object: 'chat.completion', created: 1, model: 'test-model', usage: { prompt_tokens: 30, completion_tokens: 12, total_tokens: 42 },
      choices: [{ index: 0, finish_reason: 'tool_calls', message: { role: 'assistant', content: null, tool_calls: [call] } }],
    })),
    openai({ pieces: ['Windy.'] }),
  ))
  const first = await client().chat.completions.create({ ...ask, tools: [weather], tool_choice: 'required' })
  const message = first.choices[0]!.message
  t.match(message.tool_calls, [call])
  t.match(lastBody(), { tools: [weather], tool_choice: 'required' })
  const second = await client().chat.completions.create({ ...ask, tools: [weather], messages: [...messages, message, { role: 'tool', tool_call_id: 'call_1', content: 'wind' }] })
  t.equal(second.choices[0]?.message.content, 'Windy.')
  t.match(await front.event(first._request_id), { input_tokens: 30, output_tokens: 12 })
})

t.test('tools: a streamed tool call is put together by the SDK\'s own stream', async (t) => {
  const piece = (text: string): object => ({ tool_calls: [{ index: 0, function: { arguments: text } }] })
  const events = [
    chatChunk({ role: 'assistant', content: null, tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '' } }] }),
    ...['{"pl', 'ace":', '"Kiel"}'].map((text) => chatChunk(piece(text))), chatChunk({}, { finish: 'tool_calls' }), chatUsageChunk(openaiAnswer), '[DONE]',
  ]
  play(steps(sseHead(), ...events.map((event) => chunk(sse(event))), lastChunk))
  const attempts = watchAttempts()
  const stream = client('open', { fetch: attempts.fetch }).chat.completions.stream({ ...ask, tools: [weather] })
  const whole = await stream.finalChatCompletion()
  t.match(whole.choices[0]?.message.tool_calls, [call])
  t.equal(whole.choices[0]?.finish_reason, 'tool_calls')
  t.match(await front.event(attempts.list[0]!.headers.get('x-request-id')), tokens())
})

t.test('JSON mode and JSON schemas reach the upstream as they were asked', async (t) => {
  play(openai({ pieces: ['{"city":', '"Kiel"}'] }))
  const schema = { type: 'json_schema', json_schema: { name: 'place', strict: true, schema: { type: 'object', properties: { city: { type: 'string' } } } } } as const
  for (const format of [{ type: 'json_object' } as const, schema]) {
    const answer = await client().chat.completions.create({ ...ask, response_format: format })
    t.same(JSON.parse(answer.choices[0]!.message.content!), { city: 'Kiel' })
    t.same(lastBody()['response_format'], format)
    t.match(await front.event(answer._request_id), tokens())
  }
})

t.test('vision: a picture in the request or at an address reaches the upstream, and is never fetched', async (t) => {
  play(openai({ inputTokens: 264 }))
  const dot = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='
  for (const url of [`data:image/png;base64,${dot}`, `http://127.0.0.1:${upstream.port}/picture.png`]) {
    const content: OpenAI.ChatCompletionContentPart[] = [{ type: 'text', text: 'What is it?' }, { type: 'image_url', image_url: { url, detail: 'high' } }]
    const answer = await client().chat.completions.create({ model: 'gpt-4o', messages: [{ role: 'user', content }] })
    t.same(lastBody()['messages'], [{ role: 'user', content }])
    t.match(await front.event(answer._request_id), { input_tokens: 264, output_tokens: 4, usage_source: 'upstream' })
  }
  t.notOk(upstream.requests.some((request) => request.target.includes('picture')))
})

t.test('embeddings: as numbers and, the SDK\'s default, in base64', async (t) => {
  const vector = [0.25, -0.5, 0.125]
  play((request, reply) => {
    const { encoding_format: format } = request.json()
    const embedding = format === 'base64' ? Buffer.from(new Float32Array(vector).buffer).toString('base64') : vector
    return steps(json(200, { object: 'list', model: 'test-embed', data: [{ object: 'embedding', index: 0, embedding }], usage: { prompt_tokens: 5, total_tokens: 5 } }))(request, reply)
  })
  for (const [options, sent] of [[{}, 'base64'], [{ encoding_format: 'float' as const }, 'float']] as const) {
    const answer = await client().embeddings.create({ model: 'test-embed', input: ['one', 'two'], ...options })
    t.same([...answer.data[0]!.embedding], vector)
    t.equal(lastBody()['encoding_format'], sent)
    t.match(await front.event(answer._request_id), { endpoint: 'embeddings', input_tokens: 5, output_tokens: 0, total_tokens: 5, usage_source: 'upstream' })
  }
})

t.test('responses: plain, streamed, and the SDK\'s own stream', async (t) => {
  play(openai({ cachedTokens: 3, reasoningTokens: 2 }))
  const plain = await client().responses.create({ model: 'test-model', input: 'Say hello.' })
  t.equal(plain.output_text, 'Hello, world!')
  t.match(lastBody(), { store: false }, 'nothing is kept at the shared account')
  const booked = { ...tokens(), endpoint: 'responses', cached_input_tokens: 3, reasoning_tokens: 2 }
  t.match(await front.event(plain._request_id), booked)

  const { data: stream, request_id: id } = await client().responses.create({ model: 'test-model', input: 'Say hello.', stream: true }).withResponse()
  const events = await all(stream)
  t.equal(events.flatMap((event) => event.type === 'response.output_text.delta' ? [event.delta] : []).join(''), 'Hello, world!')
  t.match(events.at(-1), { type: 'response.completed', response: { usage: { input_tokens: 9, output_tokens: 4 } } })
  t.match(await front.event(id), { ...booked, stream: true })

  const final = await client().responses.stream({ model: 'test-model', input: [{ role: 'user', content: 'Say hello.' }] }).finalResponse()
  t.equal(final.output_text, 'Hello, world!')
})

t.test('completions: plain and streamed, bounded as the protocol bounds them', async (t) => {
  play(openai())
  const plain = await client().completions.create({ model: 'test-model', prompt: 'Say hello.' })
  t.equal(plain.choices[0]?.text, 'Hello, world!')
  t.match(lastBody(), { max_tokens: 16 })
  t.match(await front.event(plain._request_id), { ...tokens(), endpoint: 'completions' })
  const { data: stream, request_id: id } = await client().completions.create({ model: 'test-model', prompt: 'Say hello.', stream: true }).withResponse()
  const chunks = await all(stream)
  t.equal(chunks.map((one) => one.choices[0]?.text).join(''), 'Hello, world!')
  t.ok(chunks.every((one) => one.choices.length > 0))
  t.match(await front.event(id), { ...tokens(), stream: true })
})

t.test('models: the list is what the plan allows', async (t) => {
  play(openai({}, ['test-model', 'test-large', 'other']))
  t.same((await all(client('open').models.list())).map((model) => model.id), ['gone-model', 'other', 'slow-model', 'test-large', 'test-model'])
  t.same((await all(client('narrow').models.list())).map((model) => model.id), ['test-large', 'test-model'])
})

t.test('quota headers: what is left, from the numbers that decide', async (t) => {
  play(openai())
  const { response } = await client().chat.completions.create(ask).withResponse()
  const [rpm, tpm] = await front.limits('open')
  t.equal(response.headers.get('x-ratelimit-limit-requests'), '5000')
  t.equal(response.headers.get('x-ratelimit-remaining-requests'), String(rpm!.remaining))
  t.equal(response.headers.get('x-ratelimit-remaining-tokens'), String(tpm!.remaining))
  t.match(response.headers.get('ratelimit-policy'), '"rpm";q=5000;w=60, "tpm";q=10000000;w=60;qu="tokens", "parallel";q=100;qu="concurrent-requests"')
  t.match(response.headers.get('ratelimit'), `"rpm";r=${rpm!.remaining};t=`)
})

t.test('an unknown key is an AuthenticationError, tried once', async (t) => {
  const attempts = watchAttempts()
  const error = await errorOf(client('nobody', { fetch: attempts.fetch }).chat.completions.create(ask))
  if (!(error instanceof OpenAI.AuthenticationError)) return t.fail(String(error))
  t.match(error, { status: 401, code: 'invalid_api_key', error: { reason: 'invalid_api_key' } })
  t.equal(error.message, '401 The API key is missing or not valid.')
  t.ok(error.requestID)
  t.equal(attempts.list.length, 1)
})

t.test('what the plan lacks, and a suspended account, are a PermissionDeniedError, tried once', async (t) => {
  const before = upstream.executions
  for (const [refused, reason, words] of [
    [(fetch: ClientOptions['fetch']) => client('narrow', { fetch }).chat.completions.create({ ...ask, model: 'other' }), 'feature_unavailable', /other/],
    [(fetch: ClientOptions['fetch']) => client('stopped', { fetch }).chat.completions.create(ask), 'subscription_inactive', /account/],
    [(fetch: ClientOptions['fetch']) => client('open', { fetch }).responses.create({ model: 'test-model', input: 'x', tools: [{ type: 'web_search' }] }), 'feature_unavailable', /hosted_tools/],
  ] as const) {
    const attempts = watchAttempts()
    const error = await errorOf(refused(attempts.fetch))
    if (!(error instanceof OpenAI.PermissionDeniedError)) return t.fail(String(error))
    t.match(error, { status: 403, code: reason, error: { reason } })
    t.match(error.message, words)
    t.ok(error.requestID)
    t.equal(attempts.list.length, 1)
    t.equal(attempts.list[0]!.headers.get('x-should-retry'), 'false')
  }
  t.equal(upstream.executions, before, 'none reached the upstream')
})

t.test('a call that can never fit is refused once and says so', async (t) => {
  const attempts = watchAttempts()
  const error = await errorOf(client('minute', { fetch: attempts.fetch }).chat.completions.create({ ...ask, max_tokens: 5000 }))
  if (!(error instanceof OpenAI.APIError)) return t.fail(String(error))
  t.match(error, { status: 413, code: 'request_too_large', error: { limit: 'tpm', ceiling: 2000 } })
  t.equal(attempts.list.length, 1)
})

t.test('a short wait: the SDK waits as long as it is told to, and succeeds', async (t) => {
  play(openai())
  await client('brisk').chat.completions.create(ask)
  const attempts = watchAttempts()
  const answer = await client('brisk', { fetch: attempts.fetch }).chat.completions.create(ask)
  t.equal(answer.choices[0]?.message.content, 'Hello, world!')
  t.equal(attempts.list.at(-1)?.status, 200)
  const [refusal, next] = attempts.list
  t.equal(refusal?.status, 429, 'it was refused first')
  const waitMs = Number(refusal?.headers.get('retry-after-ms'))
  t.ok(waitMs >= 1 && waitMs <= 2000, `told to wait ${waitMs} ms`)
  t.equal(refusal?.headers.get('retry-after'), String(Math.ceil(waitMs / 1000)))
  t.ok(next!.atMs - refusal!.answeredMs >= waitMs - 2, `waited ${Math.round(next!.atMs - refusal!.answeredMs)} ms`)
  t.equal(attempts.list.length, 2, 'the wait was true: one retry was enough')
})

t.test('a short wait without retries is a RateLimitError in words that clients do not misread', async (t) => {
  play(openai())
  const one = client('brisk', { maxRetries: 0 })
  const errors = (await Promise.all([1, 2, 3].map(() => one.chat.completions.create(ask).then(() => null, (error: unknown) => error)))).filter((error) => error !== null)
  t.ok(errors.length >= 2)
  for (const error of errors) {
    if (!(error instanceof OpenAI.RateLimitError)) return t.fail(String(error))
    t.match(error, { status: 429, code: 'rate_limit_exceeded', type: 'requests', error: { limit: 'burst', ceiling: 1 } })
    t.match(error.message, /Please try again in \d+s\./)
    t.notMatch(error.message, /quota|billing|will reset at/i)
    t.ok(error.requestID)
  }
})

t.test('too many at once: the SDK comes again when the other call is done', async (t) => {
  play(openai({ everyMs: 100 }))
  const attempts = watchAttempts()
  const two = client('single', { fetch: attempts.fetch })
  const answers = await Promise.all([two.chat.completions.create(ask), two.chat.completions.create(ask)])
  t.same(answers.map((answer) => answer.choices[0]?.message.content), ['Hello, world!', 'Hello, world!'])
  t.same(attempts.list.map(({ status }) => status).sort(), [200, 200, 429])
  const refusal = attempts.list.find(({ status }) => status === 429)!
  t.match(refusal.headers.get('retry-after'), /^[1-5]$/)
})

t.test('a long wait is a RateLimitError after exactly one attempt', async (t) => {
  play(openai())
  await client('once').chat.completions.create(ask)
  const attempts = watchAttempts()
  const error = await errorOf(client('once', { fetch: attempts.fetch }).chat.completions.create(ask))
  if (!(error instanceof OpenAI.RateLimitError)) return t.fail(String(error))
  t.match(error, { status: 429, code: 'insufficient_quota', type: 'insufficient_quota', error: { reason: 'usage_limit_reached', limit: 'daily', used: 1, remaining: 0 } })
  t.match(error.error, { resets_at: /^\d{4}-\d\d-\d\dT00:00:00/, resets_in_seconds: Number })
  t.equal(attempts.list.length, 1)
  // Within the last minute of a day the wait is short, and so is what clients are told.
  const seconds = Number(attempts.list[0]!.headers.get('retry-after'))
  t.equal(attempts.list[0]!.headers.get('x-should-retry'), seconds > 60 ? 'false' : null)
})

t.test('upstream failures are ours, not the caller\'s: the right class, the right number of attempts', async (t) => {
  const failures: [string, Script, string, { status: number; code: string; attempts: number }][] = [
    ['its credential is refused', steps(openaiError(401, 'Incorrect API key: sk-upstream', 'invalid_api_key')), 'test-model', { status: 502, code: 'upstream_unavailable', attempts: 1 }],
    ['its account is out of credit', steps(openaiError(429, 'You exceeded your current quota', 'insufficient_quota')), 'test-model', { status: 502, code: 'upstream_unavailable', attempts: 1 }],
    ['it fails', steps(openaiError(500, 'secret detail', 'server_error', { 'x-should-retry': 'true' })), 'test-model', { status: 502, code: 'upstream_unavailable', attempts: 2 }],
    ['it cannot be reached', openai(), 'gone-model', { status: 502, code: 'upstream_unavailable', attempts: 2 }],
    ['it does not answer', openai(), 'slow-model', { status: 504, code: 'upstream_timeout', attempts: 2 }],
    ['it is busy', steps(openaiError(429, 'Rate limit reached', 'rate_limit_exceeded', { 'retry-after': '1' })), 'test-model', { status: 503, code: 'upstream_busy', attempts: 2 }],
  ]
  const refused: unknown[] = []
  for (const [what, script, model, expected] of failures) {
    play(script)
    const attempts = watchAttempts()
    const error = await errorOf(client('open', { maxRetries: 1, fetch: attempts.fetch }).chat.completions.create({ ...ask, model }))
    if (!(error instanceof OpenAI.InternalServerError)) return t.fail(`${what}: ${String(error)}`)
    t.match(error, { status: expected.status, code: expected.code }, what)
    t.notMatch(error.message, /sk-upstream|secret|quota/, 'in our words')
    t.equal(attempts.list.length, expected.attempts, `${what}: attempts`)
    t.equal(attempts.list[0]!.headers.get('x-tallygate-error'), 'upstream')
    refused.push(error.requestID)
  }
  await waitFor('all to be settled', async () => (await front.limits('open')).every((limit) => limit.reserved === 0))
  play(openai())
  await front.event((await client().chat.completions.create(ask))._request_id)
  t.same(front.events().filter((event) => refused.includes(event.id)), [], 'nothing is billed')
})

t.test('a busy upstream that has room again: the SDK waits as the upstream said, and succeeds', async (t) => {
  play(inTurn(steps(openaiError(429, 'Rate limit reached', 'rate_limit_exceeded', { 'retry-after-ms': '300' })), openai()))
  const attempts = watchAttempts()
  const answer = await client('open', { fetch: attempts.fetch }).chat.completions.create(ask)
  t.equal(answer.choices[0]?.message.content, 'Hello, world!')
  t.equal(attempts.list.length, 2)
  t.ok(attempts.list[1]!.atMs - attempts.list[0]!.answeredMs >= 298)
})

t.test('a bad request is the caller\'s own: the upstream\'s words pass', async (t) => {
  play(steps(openaiError(400, 'temperature must be at most 2', 'invalid_value')))
  const error = await errorOf(client().chat.completions.create({ ...ask, temperature: 2 }))
  if (!(error instanceof OpenAI.BadRequestError)) return t.fail(String(error))
  t.match(error, { message: '400 temperature must be at most 2', code: 'invalid_value' })
})

t.test('a stream that breaks is an exception, whether it says why or not, and what came is billed', async (t) => {
  const begun = allSteps(sseHead(), ...['Hel', 'lo'].map((content) => chunk(sse(chatChunk({ content })))), wait(30))
  for (const [what, script] of [
    ['reset', steps(begun, reset)],
    ['ended without its end', steps(begun, end)],
    ['an error in the stream', steps(begun, chunk(sse({ error: { message: 'overloaded', type: 'server_error', code: 'overloaded' } })), lastChunk)],
  ] as const) {
    play(script)
    const { data: stream, request_id: id } = await client().chat.completions.create({ ...ask, stream: true }).withResponse()
    let text = ''
    const error = await errorOf((async () => {
      for await (const part of stream) text += part.choices[0]?.delta.content ?? ''
    })())
    t.ok(error instanceof OpenAI.OpenAIError, `${what}: ${String(error)}`)
    t.equal(text, 'Hello', what)
    const event = await front.event(id)
    t.equal(event.end, 'upstream_broken', what)
    t.ok(event.output_tokens! >= 1 && event.input_tokens! >= 1, `${what}: ${event.input_tokens} + ${event.output_tokens}`)
  }
})

t.test('a caller that leaves at [DONE] has not aborted', async (t) => {
  // The SDK stops reading at [DONE] and closes; here the upstream's own end comes later than that.
  play(steps(sseHead(), ...[chatChunk({ content: 'Hi' }, { finish: 'stop' }), chatUsageChunk(openaiAnswer), '[DONE]'].map((event) => chunk(sse(event))), wait(200), lastChunk))
  const { data: stream, request_id: id } = await client().chat.completions.create({ ...ask, stream: true }).withResponse()
  t.equal((await all(stream)).length, 1)
  t.match(await front.event(id), tokens())

  const raw = await openRawClient(gateway)
  await raw.send(requestBytes(post('/v1/chat/completions', { ...ask, stream: true }) as Parameters<typeof requestBytes>[0]))
  const answered = await raw.readHead()
  for await (const event of raw.events(answered)) {
    if (event.data === '[DONE]') break
  }
  raw.reset()
  t.match(await front.event(answered.header('x-request-id')), tokens())
})

t.test('at the end nothing is reserved, and the counters are the events', async (t) => {
  await waitFor('all calls to be settled', async () => (await front.limits('open')).every((limit) => limit.reserved === 0))
  const [rpm, tpm, parallel] = await front.limits('open')
  const events = front.events().filter((event) => event.data.key === 'open')
  t.equal(parallel!.used, 0)
  t.equal(new Set(events.map((event) => event.id)).size, events.length)
  t.equal(rpm!.used, events.reduce((sum, { data }) => sum + data.requests, 0))
  t.equal(tpm!.used, events.reduce((sum, { data }) => sum + (data.total_tokens ?? 0), 0))
  t.comment(`${events.length} exchanges, ${tpm!.used} tokens`)
})
