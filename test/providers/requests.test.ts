// What is read from a request is what the protocol says, or a sentence that names the field; what is sent on differs only where it must.

import t from 'tap'
import { GatewayError } from '../../src/errors.ts'
import { anthropic } from '../../src/providers/anthropic.ts'
import { http, httpEndpoint } from '../../src/providers/http.ts'
import { imageSize, openaiImageTokens } from '../../src/providers/media.ts'
import { openai } from '../../src/providers/openai.ts'
import type { BodyChanges, Endpoint, Provider, RequestFacts } from '../../src/providers/provider.ts'

const endpointOf = (provider: Provider, wanted: string): Endpoint => provider.endpoints.find((endpoint) => endpoint.name === wanted)!
const chat = endpointOf(openai, 'chat.completions')
const completions = endpointOf(openai, 'completions')
const embeddings = endpointOf(openai, 'embeddings')
const responses = endpointOf(openai, 'responses')
const images = endpointOf(openai, 'images.generations')
const messages = endpointOf(anthropic, 'messages')
const countTokens = endpointOf(anthropic, 'count_tokens')

const bytes = (body: unknown): Uint8Array => Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
const say = [{ role: 'user', content: 'hi' }]
const chatBody = (more: object): object => ({ model: 'm', messages: say, ...more })
const messageBody = (more: object): object => ({ model: 'c', max_tokens: 100, messages: say, ...more })

// Endpoint, what is wrong, the words the sentence must have.
const refused: [Endpoint, unknown, RegExp][] = [
  [chat, { messages: say }, /^model is missing/],
  [chat, { model: 1, messages: say }, /^model has to be a string/],
  [chat, { model: '', messages: say }, /^model is missing/],
  [chat, { model: 'x'.repeat(1_000_000), messages: say }, /^model is longer/],
  [chat, { model: 'm' }, /^messages is missing/],
  [chat, { model: 'm', messages: 'hi' }, /^messages has to be an array/],
  [chat, { model: 'm', messages: ['hi'] }, /^messages has to be/],
  [chat, chatBody({ stream: 'true' }), /^stream has to be true or false/],
  [chat, chatBody({ stream: 1 }), /^stream has to be/],
  [chat, chatBody({ stream_options: 1 }), /^stream_options has to be an object/],
  [chat, chatBody({ stream_options: { include_usage: 1 } }), /^stream_options.include_usage has to be/],
  [chat, '{"model":"m","messages":[],"stream_options":{"include_usage":true,"include_usage":false}}', /"include_usage" twice/],
  [chat, chatBody({ max_tokens: '100' }), /^max_tokens has to be a whole number/],
  [chat, chatBody({ max_tokens: 1.5 }), /^max_tokens/],
  [chat, chatBody({ max_tokens: -1 }), /^max_tokens/],
  [chat, chatBody({ max_tokens: 0 }), /^max_tokens/],
  [chat, '{"model":"m","messages":[],"max_tokens":1e309}', /^max_tokens/],
  [chat, '{"model":"m","messages":[],"max_tokens":1e3}', /^max_tokens/],
  [chat, '{"model":"m","messages":[],"max_tokens":12345678901234567890}', /^max_tokens/],
  [chat, '{"model":"m","messages":[],"max_tokens":-0}', /^max_tokens/],
  [chat, chatBody({ max_completion_tokens: [1] }), /^max_completion_tokens/],
  [chat, chatBody({ n_predict: -1 }), /^n_predict/],
  [chat, chatBody({ n: 0 }), /^n has to be a whole number from 1 to 128/],
  [chat, chatBody({ n: 129 }), /^n has to be/],
  [chat, chatBody({ user: {} }), /^user has to be a string/],
  [chat, chatBody({ store: 'yes' }), /^store has to be/],
  [chat, chatBody({ tools: {} }), /^tools has to be an array/],
  [completions, { model: 'm', prompt: 'x', best_of: 1000 }, /^best_of/],
  [completions, { model: 'm', prompt: [] }, /^prompt is empty/],
  [completions, { model: 'm', prompt: ['a', 1] }, /^prompt has to be/],
  [completions, { model: 'm', prompt: [[1, 'a']] }, /^prompt has to be/],
  [completions, { model: 'm', prompt: { a: 1 } }, /^prompt has to be/],
  [embeddings, { model: 'm' }, /^input is missing/],
  [images, { model: 'm' }, /^prompt has to be/],
  [images, { prompt: 'a cat' }, /^model is missing/],
  [images, { model: 'm', prompt: 'a cat', n: 11 }, /^n has to be a whole number from 1 to 10/],
  [images, { model: 'm', prompt: 'a cat', stream: true }, /^Images are not streamed here/],
  [responses, { model: 'm', input: 1 }, /^input has to be/],
  [responses, { model: 'm', input: 'x', max_output_tokens: 'inf' }, /^max_output_tokens/],
  [responses, { model: 'm', input: 'x', background: 1 }, /^background/],
  [messages, { model: 'c', messages: say }, /^max_tokens is missing/],
  [messages, messageBody({ max_tokens: null }), /^max_tokens is missing/],
  [messages, messageBody({ max_tokens: '5' }), /^max_tokens has to be/],
  [messages, messageBody({ thinking: { type: 'enabled', budget_tokens: -1 } }), /^thinking.budget_tokens/],
  [messages, messageBody({ billing_policy: { bill_to: 'user_profile' } }), /^billing_policy/],
  [messages, messageBody({ system: 5 }), /^system has to be/],
  [messages, messageBody({ metadata: { user_id: 5 } }), /^metadata.user_id/],
  [countTokens, { model: 'c' }, /^messages is missing/],
]
t.test('B5, B11, B12, C13: a field that is not what the protocol says is refused by name', (t) => {
  for (const [endpoint, body, sentence] of refused) {
    try {
      endpoint.inspect(bytes(body))
      t.fail(`${endpoint.name} took ${JSON.stringify(body).slice(0, 80)}`)
    } catch (error) {
      t.ok(error instanceof GatewayError && error.code === 'bad_request', String(error).slice(0, 120))
      t.match((error as Error).message, sentence)
    }
  }
  t.end()
})

// Endpoint, body, what is read.
const read: [string, Endpoint, unknown, Partial<RequestFacts>][] = [
  ['nothing but what is needed', chat, chatBody({}), { model: 'm', streamed: false, usageAsked: false, outputAsked: null, outputDefault: null, choices: 1, outputFloor: 0, clampable: true, inputBytes: 6, inputMessages: 1, inputTools: 0, inputUnseen: false, features: [], user: null, boundsOutput: true }],
  ['the larger of two bounds', chat, chatBody({ max_tokens: 5, max_completion_tokens: 9 }), { outputAsked: 9 }],
  ['a bound under another name', chat, chatBody({ max_tokens: 5, n_predict: 900 }), { outputAsked: 900 }],
  ['null is absent', chat, chatBody({ max_tokens: null, n: null, stream: null, stream_options: null, tools: null, user: null }), { outputAsked: null, choices: 1, streamed: false, usageAsked: false }],
  ['usage is asked for only in so many words', chat, chatBody({ stream: true, stream_options: {} }), { streamed: true, usageAsked: false }],
  ['usage asked for', chat, chatBody({ stream: true, stream_options: { include_usage: true } }), { usageAsked: true }],
  ['choices', chat, chatBody({ n: 3 }), { choices: 3 }],
  ['a schema must not be cut', chat, chatBody({ response_format: { type: 'json_schema', json_schema: {} } }), { clampable: false }],
  ['JSON mode may be', chat, chatBody({ response_format: { type: 'json_object' } }), { clampable: true }],
  ['forced tools', chat, chatBody({ tool_choice: 'required' }), { clampable: false }],
  ['a forced function', chat, chatBody({ tool_choice: { type: 'function', function: { name: 'f' } } }), { clampable: false }],
  ['free tools', chat, chatBody({ tool_choice: 'auto', tools: [{ type: 'function', function: { name: 'f' } }] }), { clampable: true, inputTools: 1, features: [] }],
  ['hosted tools', chat, chatBody({ web_search_options: {} }), { features: ['hosted_tools'], inputUnseen: true }],
  ['images', images, { model: 'm', prompt: 'a cat', n: 4, user: 'u' }, { model: 'm', imagesAsked: 4, inputBytes: 5, boundsOutput: false, user: 'u', features: [], ordinary: [] }],
  ['an image', images, { model: 'm', prompt: 'a cat' }, { imagesAsked: 1 }],
  ['nothing that could be denied', chat, chatBody({}), { ordinary: [] }],
  ['a stream with tools', chat, chatBody({ stream: true, tools: [{ type: 'function', function: { name: 'f' } }] }), { ordinary: ['streaming', 'tools'] }],
  ['functions as they were', chat, chatBody({ functions: [{ name: 'f' }] }), { ordinary: ['tools'] }],
  ['no tool at all', chat, chatBody({ tools: [] }), { ordinary: [] }],
  ['a picture', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://x.test/a.png' } }] }] }, { ordinary: ['vision'] }],
  ['a video', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'video_url', video_url: { url: 'https://x.test/a.mp4' } }] }] }, { ordinary: ['vision'] }],
  ['sound', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'audio_url', audio_url: { url: 'https://x.test/a.mp3' } }] }] }, { ordinary: [] }],
  ['pages of a file', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'file', file: { file_data: 'data:application/pdf;base64,AAAA' } }] }] }, { ordinary: ['vision'] }],
  ['a picture and tools, as a response', responses, { model: 'm', stream: true, input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'https://x.test/a.png' }] }], tools: [{ type: 'web_search' }] }, { ordinary: ['streaming', 'tools', 'vision'] }],
  ['a screenshot', responses, { model: 'm', input: [{ type: 'computer_call_output', call_id: 'c', output: { type: 'computer_screenshot', image_url: 'data:image/png;base64,AAAA' } }] }, { ordinary: ['vision'] }],
  ['a message with tools', messages, messageBody({ stream: true, tools: [{ name: 'f', input_schema: {} }] }), { ordinary: ['streaming', 'tools'] }],
  ['servers of tools', messages, messageBody({ mcp_servers: [{ type: 'url', url: 'https://x.test', name: 'x' }] }), { ordinary: ['tools'] }],
  ['a picture in a message', messages, messageBody({ messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'https://x.test/a.png' } }] }] }), { ordinary: ['vision'] }],
  ['a picture that a tool gave', messages, messageBody({ messages: [{ role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', content: [{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AAAA' } }] }] }] }), { ordinary: ['vision'] }],
  ['pages of a document', messages, messageBody({ messages: [{ role: 'user', content: [{ type: 'document', source: { type: 'url', url: 'https://x.test/a.pdf' } }] }] }), { ordinary: ['vision'] }],
  ['a document of text', messages, messageBody({ messages: [{ role: 'user', content: [{ type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'words' } }] }] }), { ordinary: [] }],
  ['a service tier', chat, chatBody({ service_tier: 'priority' }), { features: ['service_tiers'] }],
  ['the default tier', chat, chatBody({ service_tier: 'auto' }), { features: [] }],
  ['store', chat, chatBody({ store: true }), { features: ['store'] }],
  ['the least output', chat, chatBody({ min_tokens: 7, user: 'u1' }), { outputFloor: 7, user: 'u1' }],
  ['a file of the account', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'file', file: { file_id: 'f' } }] }] }, { features: ['stateful'], inputUnseen: true }],
  ['a file in the body', chat, { model: 'm', messages: [{ role: 'user', content: [{ type: 'file', file: { file_data: 'data:application/pdf;base64,AAAA' } }] }] }, { features: [], inputUnseen: true }],
  ['an amplifying template', chat, chatBody({ chat_template: '{{ x * 1000 }}' }), { inputUnseen: true }],
  ['a prompt', completions, { model: 'm', prompt: 'hello' }, { outputDefault: 16, outputAsked: null, inputBytes: 5, choices: 1 }],
  ['prompts and candidates', completions, { model: 'm', prompt: ['a', 'b'], n: 2, best_of: 5, max_tokens: 0 }, { choices: 10, outputAsked: 0 }],
  ['tokens', completions, { model: 'm', prompt: [1, 2, 3] }, { inputTokensExact: 3, choices: 1, inputBytes: 0 }],
  ['lists of tokens', completions, { model: 'm', prompt: [[1, 2], [3]] }, { inputTokensExact: 3, choices: 2 }],
  ['embeddings', embeddings, { model: 'm', input: ['abc', 'de'] }, { boundsOutput: false, inputBytes: 5, outputAsked: null }],
  ['a response', responses, { model: 'm', input: 'hello', max_output_tokens: 50 }, { usageAsked: true, outputAsked: 50, outputFloor: 16, inputBytes: 5, inputMessages: 1, features: [] }],
  ['what went before', responses, { model: 'm', input: 'x', previous_response_id: 'r' }, { features: ['stateful'], inputUnseen: true }],
  ['a conversation', responses, { model: 'm', input: 'x', conversation: 'c' }, { features: ['stateful'] }],
  ['background', responses, { model: 'm', input: 'x', background: true, store: true }, { features: ['store', 'background'] }],
  ['web search', responses, { model: 'm', input: 'x', tools: [{ type: 'web_search' }] }, { features: ['hosted_tools'], inputTools: 1 }],
  ['own tools', responses, { model: 'm', input: 'x', tools: [{ type: 'function', name: 'f' }, { type: 'custom', name: 'g' }] }, { features: [] }],
  ['an account file', responses, { model: 'm', input: [{ role: 'user', content: [{ type: 'input_file', file_id: 'f' }] }] }, { features: ['stateful'] }],
  ['a message', messages, messageBody({}), { model: 'c', outputAsked: 100, inputBytes: 6, inputMessages: 1, usageAsked: true, clampable: true, outputFloor: 0, features: [] }],
  ['thinking', messages, messageBody({ max_tokens: 9000, thinking: { type: 'enabled', budget_tokens: 4000 } }), { outputFloor: 5024 }],
  ['forced tools', messages, messageBody({ tool_choice: { type: 'any' }, tools: [{ name: 'f', input_schema: {} }] }), { clampable: false, inputTools: 1, features: [] }],
  ['server tools', messages, messageBody({ tools: [{ type: 'web_search_20250305', name: 'web_search' }] }), { features: ['hosted_tools'], inputUnseen: true }],
  ['the caller\'s own typed tools', messages, messageBody({ tools: [{ type: 'bash_20250124', name: 'bash' }] }), { features: [] }],
  ['a container', messages, messageBody({ container: 'c1' }), { features: ['stateful'] }],
  ['the end user', messages, messageBody({ metadata: { user_id: 'u1' } }), { user: 'u1' }],
  ['counting', countTokens, { model: 'c', messages: say }, { model: 'c', outputAsked: null, boundsOutput: false }],
]
for (const [what, endpoint, body, facts] of read) {
  t.test(`${endpoint.name}: ${what}`, (t) => {
    t.match(endpoint.inspect(bytes(body)), facts)
    t.end()
  })
}

const none: BodyChanges = { outputBound: null, outputField: null, upstreamModel: null, askUsage: true, forbidStore: false }
// What comes in, what is changed, what goes out: every other byte as it was.
const sent: [string, Endpoint, string, Partial<BodyChanges>, string][] = [
  ['nothing', chat, '{ "model":"m" , "messages":[ ] }', {}, '{ "model":"m" , "messages":[ ] }'],
  ['usage asked for', chat, '{"model":"m","stream":true,"messages":[]}', {}, '{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}'],
  ['usage: null', chat, '{"model":"m","stream":true, "stream_options" : null ,"messages":[]}', {}, '{"model":"m","stream":true, "stream_options" : {"include_usage":true} ,"messages":[]}'],
  ['usage: {}', chat, '{"model":"m","stream":true,"stream_options":{ },"messages":[]}', {}, '{"model":"m","stream":true,"stream_options":{"include_usage":true },"messages":[]}'],
  ['usage: false', chat, '{"model":"m","stream":true,"stream_options":{"include_usage":false,"x":1},"messages":[]}', {}, '{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1},"messages":[]}'],
  ['usage: other options', chat, '{"model":"m","stream":true,"stream_options":{"x":1},"messages":[]}', {}, '{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1},"messages":[]}'],
  ['usage: an upstream that rejects it', chat, '{"model":"m","stream":true,"messages":[]}', { askUsage: false }, '{"model":"m","stream":true,"messages":[]}'],
  ['usage: not streamed', chat, '{"model":"m","messages":[]}', {}, '{"model":"m","messages":[]}'],
  ['a bound', chat, '{"model":"m","messages":[]}', { outputBound: 7 }, '{"max_tokens":7,"model":"m","messages":[]}'],
  ['a bound for a reasoning model', chat, '{"model":"o3-mini","messages":[]}', { outputBound: 7 }, '{"max_completion_tokens":7,"model":"o3-mini","messages":[]}'],
  ['a bound by another name', chat, '{"model":"m","messages":[]}', { outputBound: 7, outputField: 'n_predict' }, '{"n_predict":7,"model":"m","messages":[]}'],
  ['the caller\'s own field', chat, '{"model":"m","max_completion_tokens": 90,"messages":[]}', { outputBound: 7, outputField: 'max_tokens' }, '{"model":"m","max_completion_tokens": 7,"messages":[]}'],
  ['both of his fields', chat, '{"model":"m","max_tokens":5,"max_completion_tokens":90,"messages":[]}', { outputBound: 7 }, '{"model":"m","max_tokens":5,"max_completion_tokens":7,"messages":[]}'],
  ['another model', chat, '{"model" : "m","messages":[{"role":"user","content":"\\"model\\":\\"m\\""}]}', { upstreamModel: 'a"b' }, '{"model" : "a\\"b","messages":[{"role":"user","content":"\\"model\\":\\"m\\""}]}'],
  ['store', chat, '{"model":"m","store":true,"messages":[]}', { forbidStore: true }, '{"model":"m","store":false,"messages":[]}'],
  ['store, not mentioned in a chat', chat, '{"model":"m","messages":[]}', { forbidStore: true }, '{"model":"m","messages":[]}'],
  ['store, not mentioned in a response', responses, '{"model":"m","input":"x"}', { forbidStore: true }, '{"store":false,"model":"m","input":"x"}'],
  ['a response\'s bound', responses, '{"model":"m","input":"x"}', { outputBound: 20 }, '{"max_output_tokens":20,"model":"m","input":"x"}'],
  ['a completion\'s bound', completions, '{"model":"gpt-5","prompt":"x"}', { outputBound: 16 }, '{"max_tokens":16,"model":"gpt-5","prompt":"x"}'],
  ['embeddings', embeddings, '{"model":"m","input":"x"}', { outputBound: 16, forbidStore: true }, '{"model":"m","input":"x"}'],
  ['a message', messages, '{"model":"c","max_tokens":100,"messages":[]}', { outputBound: 20, upstreamModel: 'd' }, '{"model":"d","max_tokens":20,"messages":[]}'],
]
t.test('only what must change is changed', (t) => {
  for (const [what, endpoint, before, changes, after] of sent) {
    const body = bytes(before)
    const out = endpoint.prepare(body, endpoint.inspect(body), { ...none, ...changes })
    t.equal(Buffer.from(out).toString(), after, what)
    if (before === after) t.equal(out, body, `${what}: the same bytes, not a copy`)
  }
  t.end()
})

t.test('images cost what their header says, never their bytes', (t) => {
  const png = Buffer.alloc(33)
  png.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  png.writeUInt32BE(13, 8)
  png.write('IHDR', 12)
  png.writeUInt32BE(1024, 16)
  png.writeUInt32BE(1024, 20)
  const data = Buffer.concat([png, Buffer.alloc(300_000)]).toString('base64')
  const url = `data:image/png;base64,${data}`
  const facts = chat.inspect(bytes({ model: 'gpt-4o', messages: [{ role: 'user', content: [{ type: 'text', text: 'what' }, { type: 'image_url', image_url: { url } }] }] }))
  t.match(facts, { inputMediaTokens: 765, inputImages: 1, inputUnseen: false })
  t.ok(facts.inputBytes < 50)
  t.strictSame([...facts.texts()], ['user', 'what'])
  t.equal(messages.inspect(bytes({ model: 'c', max_tokens: 1, messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'base64', media_type: 'image/png', data } }] }] })).inputMediaTokens, 1403)
  t.equal(chat.inspect(bytes({ model: 'gpt-4o', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://x/y.png' } }] }] })).inputMediaTokens, 85 + 8 * 170)
  t.equal(openaiImageTokens('gpt-4o', { width: 2048, height: 4096 }, 'high'), 1105)
  t.equal(openaiImageTokens('gpt-4o', { width: 2048, height: 4096 }, 'low'), 85)
  t.equal(openaiImageTokens('o4-mini', { width: 100, height: 100 }, null), Math.ceil(16 * 1.72))
  t.strictSame(imageSize(Buffer.from('GIF89a\x10\x00\x20\x00', 'latin1').toString('base64')), { width: 16, height: 32 })
  t.strictSame(imageSize(Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0, 0xff, 0xc0, 0, 17, 8, 0, 50, 0, 60, 3]).toString('base64')), { width: 60, height: 50 })
  t.equal(imageSize('AAAA'), null)
  t.end()
})

t.test('refusals have the shape that the dialect\'s SDKs parse, with all their facts', (t) => {
  const details = { limit: 'daily', ceiling: 100, used: 100, remaining: 0, resets_at: '2026-11-23T00:00:00Z', resets_in_seconds: 60 }
  const facts = { status: 429, requestId: 'r1' }
  const parse = (bytesOf: Uint8Array): unknown => JSON.parse(Buffer.from(bytesOf).toString())
  t.strictSame(parse(openai.renderError(new GatewayError('usage_limit_reached', 'No more.', { details }), facts)),
    { error: { message: 'No more.', type: 'insufficient_quota', code: 'insufficient_quota', param: null, reason: 'usage_limit_reached', ...details } })
  t.match(parse(openai.renderError(new GatewayError('capacity_reserved', 'x', { details: { counts: 'tokens' } }), facts)), { error: { type: 'tokens', code: 'rate_limit_exceeded', reason: 'capacity_reserved' } })
  t.match(parse(openai.renderError(new GatewayError('invalid_api_key', 'x'), facts)), { error: { code: 'invalid_api_key' } })
  t.strictSame(parse(anthropic.renderError(new GatewayError('usage_limit_reached', 'No more.', { details }), facts)),
    { type: 'error', error: { type: 'rate_limit_error', message: 'No more.', details: { reason: 'usage_limit_reached', ...details } }, request_id: 'r1' })
  t.match(parse(anthropic.renderError(new GatewayError('no_credit_available', 'x'), facts)), { error: { type: 'billing_error' } })
  t.match(Buffer.from(anthropic.renderStreamError(new GatewayError('upstream_unavailable', 'x'), facts)).toString(), /^event: error\ndata: \{"type":"error",.*\}\n\n$/)
  t.match(Buffer.from(openai.renderStreamError(new GatewayError('upstream_unavailable', 'x'), facts)).toString(), /^data: \{"error":.*\}\n\n$/)
  t.equal(http.renderStreamError(new GatewayError('internal', 'x'), facts).length, 0)
  t.end()
})

t.test('a stream whose quota ends is ended in the dialect\'s words', (t) => {
  const stream = { status: 200, contentType: 'text/event-stream', contentEncoding: '' }
  const chatFacts = chat.inspect(bytes(chatBody({ stream: true, stream_options: { include_usage: true } })))
  const meter = chat.meter(chatFacts, stream)
  meter.pass(Buffer.from('data: {"id":"c1","created":5,"model":"m1","choices":[{"index":0,"delta":{"content":"Hi there"}}]}\n\ndata: {"id":"c1","choi'))
  const metered = meter.finish('quota_stop')
  t.equal(metered.rest.length, 0, 'half an event is not sent')
  t.equal(Buffer.from(meter.renderQuotaStop?.(metered) ?? []).toString(),
    'data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"m1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}\n\n' +
    `data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"m1","choices":[],"usage":{"prompt_tokens":${metered.usage.input_tokens},"completion_tokens":2,"total_tokens":${metered.usage.total_tokens}}}\n\n` +
    'data: [DONE]\n\n')
  const messageMeter = messages.meter(messages.inspect(bytes(messageBody({ stream: true }))), stream)
  messageMeter.pass(Buffer.from('event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'))
  const text = Buffer.from(messageMeter.renderQuotaStop?.(messageMeter.finish('quota_stop')) ?? []).toString()
  t.match(text, /^event: content_block_stop\n[\s\S]*"stop_reason":"max_tokens"[\s\S]*event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/)
  const responseMeter = responses.meter(responses.inspect(bytes({ model: 'm', input: 'x', stream: true })), stream)
  responseMeter.pass(Buffer.from('event: response.created\ndata: {"type":"response.created","sequence_number":4,"response":{"id":"r9"}}\n\n'))
  t.match(Buffer.from(responseMeter.renderQuotaStop?.(responseMeter.finish('quota_stop')) ?? []).toString(), /^event: response.incomplete\ndata: \{"type":"response.incomplete","sequence_number":5,.*"reason":"max_output_tokens"/)
  t.end()
})

t.test('answers that cannot be read pass untouched, with an alarm', (t) => {
  const meter = chat.meter(chat.inspect(bytes(chatBody({}))), { status: 200, contentType: 'application/json', contentEncoding: 'gzip' })
  const chunk = Buffer.from([0x1f, 0x8b, 1, 2, 3, 4, 5, 6])
  t.equal(meter.pass(chunk), chunk)
  t.match(meter.finish('complete'), { source: 'estimated', alarms: ['undecodable'], usage: { output_tokens: 2 } })
  const plain = httpEndpoint.meter(httpEndpoint.inspect(bytes('')), { status: 200, contentType: '', contentEncoding: '' })
  t.equal(plain.pass(chunk), chunk)
  t.match(plain.finish('complete'), { usage: { bytes_out: 8 }, whole: true })
  t.end()
})

t.test('a stream is read as one though it is labelled otherwise', (t) => {
  const meter = chat.meter(chat.inspect(bytes(chatBody({ stream: true }))), { status: 200, contentType: 'application/json', contentEncoding: '' })
  meter.pass(Buffer.from('data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\ndata: [DONE]\n\n'))
  t.match(meter.finish('complete'), { source: 'upstream', usage: { total_tokens: 7 }, whole: true })
  t.end()
})

t.test('events alike but for their text are counted as if each had been read', (t) => {
  const stream = { status: 200, contentType: 'text/event-stream', contentEncoding: '' }
  const facts = chat.inspect(bytes(chatBody({ stream: true })))
  const event = (delta: object, finish: string | null = null): string => `data: ${JSON.stringify({ id: 'c', model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
  const texts = ['one', 'two', '"},"finish_reason":"stop"}', '\\', '\\"', '', 'é\n', '{"usage":{"prompt_tokens":1}}', 'x'.repeat(900)]
  const meter = chat.meter(facts, stream)
  for (const text of texts) meter.pass(Buffer.from(event({ content: text })))
  // The same frame with a second member where the text was: read, not taken for text.
  meter.pass(Buffer.from(event({ content: 'a' }).replace('"a"', '"a","refusal":"b"')))
  const seen = [...texts, 'a', 'b'].reduce((sum, text) => sum + Buffer.byteLength(JSON.stringify(text)) - 2, 0)
  t.equal(meter.counted().output_tokens, Math.ceil(seen / 4))
  meter.pass(Buffer.from(event({}, 'stop') + 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\ndata: [DONE]\n\n'))
  t.match(meter.finish('complete'), { source: 'upstream', whole: true, alarms: [], usage: { total_tokens: 7 } })
  t.end()
})
