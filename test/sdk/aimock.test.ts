// An upstream that nobody here wrote, @copilotkit/aimock, which keeps a journal of its own: what it served is what the books say.

import t from 'tap'
import Anthropic from '@anthropic-ai/sdk'
import { LLMock } from '@copilotkit/aimock'
import OpenAI from 'openai'
import { all, keyLine, openFront, secretOf } from './front.ts'
import { baseUrl } from './recipes.ts'
import { waitFor } from '../fixtures/wait-for.ts'

const mock = new LLMock({ port: 0, host: '127.0.0.1', chunkSize: 5 })
// Every answer names its usage, so that the sums below are this file's, and not the gateway's.
const calls = [
  { say: 'plain chat', input: 11, output: 5 },
  { say: 'streamed chat', input: 23, output: 7 },
  { say: 'streamed usage', input: 31, output: 9 },
  { say: 'use a tool', input: 41, output: 13 },
  { say: 'plain response', input: 53, output: 17 },
  { say: 'streamed response', input: 61, output: 19 },
  { say: 'plain message', input: 71, output: 23 },
  { say: 'streamed message', input: 83, output: 29 },
] as const
for (const { say, input, output } of calls) {
  mock.onMessage(say, {
    ...(say === 'use a tool' ? { toolCalls: [{ name: 'get_weather', arguments: '{"place":"Kiel"}' }] } : { content: `This answers "${say}", piece by piece.` }),
    usage: { prompt_tokens: input, completion_tokens: output, input_tokens: input, output_tokens: output, total_tokens: input + output },
  })
}
mock.onEmbedding('embed me', { embedding: [0.5, -0.25] })
await mock.start()
t.teardown(() => mock.stop())

const front = await openFront(t, `
upstreams:
  mock: { url: "${mock.url}", provider: [openai, anthropic] }
plans:
  open:
    entitlements: { models: ["*"] }
    limits:
      - { name: calls,  meter: requests,     limit: 1000, window: lifetime }
      - { name: tokens, meter: total_tokens, limit: 1M,   window: lifetime }
keys:
${keyLine('open', 'plan: open')}
`)
const openai = new OpenAI({ baseURL: baseUrl('OpenAI SDK (JavaScript, Python)', front.gateway.url), apiKey: secretOf('open'), maxRetries: 0 })
const anthropic = new Anthropic({ baseURL: baseUrl('Anthropic SDK (JavaScript, Python)', front.gateway.url), apiKey: secretOf('open'), maxRetries: 0 })
const user = (content: string): { role: 'user'; content: string }[] => [{ role: 'user', content }]
const answerTo = (say: string): string => `This answers "${say}", piece by piece.`
const tools: OpenAI.ChatCompletionTool[] = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: {} } } }]

/** What the event of the call that says `say` must hold. */
function booked(say: (typeof calls)[number]['say']): object {
  const { input, output } = calls.find((call) => call.say === say)!
  return { input_tokens: input, output_tokens: output, total_tokens: input + output, usage_source: 'upstream', end: 'complete' }
}

t.test('chat: plain, streamed, with usage, with a tool', async (t) => {
  const plain = await openai.chat.completions.create({ model: 'gpt-4o', messages: user('plain chat') })
  t.equal(plain.choices[0]?.message.content, answerTo('plain chat'))
  t.match(await front.event(plain._request_id), booked('plain chat'))

  const unasked = await openai.chat.completions.create({ model: 'gpt-4o', messages: user('streamed chat'), stream: true }).withResponse()
  const chunks = await all(unasked.data)
  t.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), answerTo('streamed chat'))
  t.ok(chunks.every((chunk) => chunk.choices.length > 0), 'no extra chunk')
  t.match(await front.event(unasked.request_id), booked('streamed chat'))

  const asked = await openai.chat.completions.create({ model: 'gpt-4o', messages: user('streamed usage'), stream: true, stream_options: { include_usage: true } }).withResponse()
  t.match((await all(asked.data)).at(-1), { choices: [], usage: { prompt_tokens: 31, completion_tokens: 9 } })
  t.match(await front.event(asked.request_id), booked('streamed usage'))

  const tool = await openai.chat.completions.create({ model: 'gpt-4o', messages: user('use a tool'), tools })
  t.match(tool.choices[0]?.message.tool_calls, [{ function: { name: 'get_weather', arguments: '{"place":"Kiel"}' } }])
  t.match(await front.event(tool._request_id), booked('use a tool'))
})

t.test('responses: plain and streamed', async (t) => {
  const plain = await openai.responses.create({ model: 'gpt-4o', input: 'plain response' })
  t.equal(plain.output_text, answerTo('plain response'))
  t.match(await front.event(plain._request_id), booked('plain response'))
  const streamed = await openai.responses.create({ model: 'gpt-4o', input: 'streamed response', stream: true }).withResponse()
  const events = await all(streamed.data)
  t.equal(events.flatMap((event) => event.type === 'response.output_text.delta' ? [event.delta] : []).join(''), answerTo('streamed response'))
  t.match(await front.event(streamed.request_id), booked('streamed response'))
})

t.test('messages: plain and streamed', async (t) => {
  const plain = await anthropic.messages.create({ model: 'claude-sonnet-4-5', max_tokens: 100, messages: user('plain message') })
  t.match(plain.content, [{ type: 'text', text: answerTo('plain message') }])
  t.match(await front.event(plain._request_id), booked('plain message'))
  const stream = anthropic.messages.stream({ model: 'claude-sonnet-4-5', max_tokens: 100, messages: user('streamed message') })
  t.equal(await stream.finalText(), answerTo('streamed message'))
  t.match(await front.event(stream.request_id), booked('streamed message'))
})

t.test('embeddings', async (t) => {
  const answer = await openai.embeddings.create({ model: 'text-embedding-3-small', input: 'embed me' })
  t.same([...answer.data[0]!.embedding], [0.5, -0.25])
  t.match(await front.event(answer._request_id), { endpoint: 'embeddings', input_tokens: answer.usage.prompt_tokens, usage_source: 'upstream' })
})

t.test('bytes: a plain answer through the gateway is the answer without it', async (t) => {
  const body = JSON.stringify({ model: 'gpt-4o', max_tokens: 100, messages: user('plain chat') })
  const ask = async (url: string, headers: Record<string, string> = {}): Promise<string> => {
    const answer = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { authorization: `Bearer ${secretOf('open')}`, 'content-type': 'application/json', ...headers }, body })
    return await answer.text()
  }
  // Each answer has an id and a time of its own.
  const plain = (text: string): string => text.replace(/"id":"[^"]*"/, '"id":"…"').replace(/"created":\d+/, '"created":0')
  t.equal(plain(await ask(front.gateway.url)), plain(await ask(mock.url, { 'x-round': 'the gateway' })))
})

t.test('its journal has every call once, and its usage is the books\'', async (t) => {
  const served = mock.getRequests().filter((entry) => entry.method === 'POST' && entry.headers['x-round'] === undefined)
  t.ok(served.every((entry) => entry.response.status === 200))
  const events = await waitFor('the file sink', () => {
    const now = front.events()
    return now.length === served.length ? now : undefined
  })
  const paths: Record<string, string> = { 'chat.completions': '/v1/chat/completions', responses: '/v1/responses', messages: '/v1/messages', embeddings: '/v1/embeddings' }
  t.same(events.map(({ data }) => paths[data.endpoint]).sort(), served.map((entry) => entry.path.split('?')[0]).sort())
  // The plain chat was played twice; embeddings are the one answer whose usage aimock makes up itself.
  const embedded = events.find(({ data }) => data.endpoint === 'embeddings')!.data.total_tokens!
  const sum = calls.reduce((tokens, { input, output }) => tokens + input + output, 0) + 11 + 5 + embedded
  t.equal(events.reduce((tokens, { data }) => tokens + data.total_tokens!, 0), sum)
  const limits = await front.limits('open')
  t.same(limits.map(({ used, reserved }) => [used, reserved]), [[served.length, 0], [sum, 0]])
  t.comment(`${served.length} calls served, ${events.length} events, ${sum} tokens in both`)
})
