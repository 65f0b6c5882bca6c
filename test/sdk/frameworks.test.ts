// The real clients of Vercel AI and LangChain, unmodified, through the gateway, by the base URLs of docs/clients.md.

import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { ChatAnthropic } from '@langchain/anthropic'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { APICallError, embed, generateText, streamText, type LanguageModel } from 'ai'
import t from 'tap'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { all, errorOf, keyLine, openFront, secretOf, watchAttempts, type UsageEvent } from './front.ts'
import { baseUrl } from './recipes.ts'

const model = await openScriptedUpstream(t, openai())
const claude = await openScriptedUpstream(t, anthropic())
const front = await openFront(t, `
upstreams:
  model: { url: "${model.url}", provider: openai }
  claude: { url: "${claude.url}", provider: anthropic }
plans:
  open:
    entitlements: { models: ["*"] }
    limits: [ { name: calls, meter: requests, limit: 1000, window: 1m } ]
  once:
    entitlements: { models: ["*"] }
    limits: [ { name: daily, meter: requests, limit: 1, window: day } ]
  brisk:
    entitlements: { models: ["*"] }
    limits: [ { name: burst, meter: requests, limit: 1, window: 1s } ]
keys:
${keyLine('open', 'plan: open')}
${keyLine('once', 'plan: once')}
${keyLine('brisk', 'plan: brisk')}
`)
const at = (row: string): string => baseUrl(row, front.gateway.url)
const text = 'Hello, world!'
const booked = { input_tokens: 9, output_tokens: 4, total_tokens: 13, usage_source: 'upstream', end: 'complete' }

/** The events that `calls` make, each once. */
async function eventsOf(count: number, calls: () => Promise<void>): Promise<UsageEvent['data'][]> {
  // Only the key of these calls: an event of the test before may still be on its way to the file.
  const ours = (): ReturnType<typeof front.events> => front.events().filter((event) => event.data.key === 'open')
  const before = ours().length
  await calls()
  await waitFor(`${count} events`, () => ours().length >= before + count)
  return ours().slice(before).map(({ data }) => data)
}

const vercel = (key: string, fetch = globalThis.fetch): Record<string, { model: LanguageModel; endpoint: string }> => {
  const own = createOpenAI({ baseURL: baseUrl('Vercel AI (@ai-sdk/openai, @ai-sdk/openai-compatible)', front.gateway.url), apiKey: secretOf(key), fetch })
  const compatible = createOpenAICompatible({ name: 'tallygate', baseURL: at('Vercel AI (@ai-sdk/openai, @ai-sdk/openai-compatible)'), apiKey: secretOf(key), fetch })
  const messages = createAnthropic({ baseURL: baseUrl('Vercel AI (@ai-sdk/anthropic)', front.gateway.url), apiKey: secretOf(key), fetch })
  return {
    'openai.chat': { model: own.chat('test-model'), endpoint: 'chat.completions' },
    'openai.responses': { model: own('test-model'), endpoint: 'responses' },
    'openai-compatible': { model: compatible('test-model'), endpoint: 'chat.completions' },
    anthropic: { model: messages('test-claude'), endpoint: 'messages' },
  }
}

for (const [name, { model: one, endpoint }] of Object.entries(vercel('open'))) {
  t.test(`Vercel AI, ${name}: generateText and streamText, booked to the token`, async (t) => {
    const events = await eventsOf(2, async () => {
      t.equal((await generateText({ model: one, prompt: 'Say hello.', maxRetries: 0 })).text, text)
      const streamed = streamText({ model: one, prompt: 'Say hello.', maxRetries: 0, onError: ({ error }) => t.fail(String(error)) })
      t.equal((await all(streamed.textStream)).join(''), text)
    })
    t.match(events, [{ ...booked, endpoint, stream: false }, { ...booked, endpoint, stream: true }])
  })
}

t.test('Vercel AI: embeddings', async (t) => {
  const own = createOpenAI({ baseURL: at('Vercel AI (@ai-sdk/openai, @ai-sdk/openai-compatible)'), apiKey: secretOf('open') })
  const events = await eventsOf(1, async () => {
    t.same((await embed({ model: own.embedding('test-model'), value: 'one' })).embedding, [0.25, -0.5, 0.125])
  })
  t.match(events, [{ endpoint: 'embeddings', input_tokens: 9 }])
})

t.test('Vercel AI: a short wait is waited for; a long one is an error with our sentence', async (t) => {
  const watched = watchAttempts()
  for (let call = 0; call < 2; call++) t.equal((await generateText({ model: vercel('brisk', watched.fetch)['openai.chat']!.model, prompt: 'x' })).text, text)
  t.same(watched.list.map(({ status }) => status), [200, 429, 200])
  const waited = watched.list[2]!.atMs - watched.list[1]!.answeredMs
  t.ok(waited >= Number(watched.list[1]!.headers.get('retry-after-ms')) - 2, `waited ${Math.round(waited)} ms`)

  const once = vercel('once')['openai.chat']!.model
  await generateText({ model: once, prompt: 'x', maxRetries: 0 })
  const error = await errorOf(generateText({ model: once, prompt: 'x', maxRetries: 0 }))
  if (!APICallError.isInstance(error)) return t.fail(String(error))
  t.equal(error.statusCode, 429)
  t.match(error.message, /daily/)
})

const langchain = (key: string): Record<string, { chat: ChatOpenAI | ChatAnthropic; endpoint: string }> => ({
  ChatOpenAI: {
    chat: new ChatOpenAI({ model: 'test-model', apiKey: secretOf(key), configuration: { baseURL: baseUrl('LangChain (ChatOpenAI)', front.gateway.url) } }),
    endpoint: 'chat.completions',
  },
  ChatAnthropic: {
    chat: new ChatAnthropic({ model: 'test-claude', apiKey: secretOf(key), anthropicApiUrl: baseUrl('LangChain (ChatAnthropic)', front.gateway.url) }),
    endpoint: 'messages',
  },
})

for (const [name, { chat, endpoint }] of Object.entries(langchain('open'))) {
  t.test(`LangChain, ${name}: invoke and stream, booked to the token`, async (t) => {
    const events = await eventsOf(2, async () => {
      t.equal((await chat.invoke('Say hello.')).text, text)
      const chunks = await all(await chat.stream('Say hello.'))
      t.equal(chunks.map((chunk) => chunk.text).join(''), text)
    })
    t.match(events, [{ ...booked, endpoint }, { ...booked, endpoint, stream: true }])
  })
}

t.test('LangChain: embeddings', async (t) => {
  const embeddings = new OpenAIEmbeddings({ model: 'test-model', apiKey: secretOf('open'), encodingFormat: 'float', configuration: { baseURL: at('LangChain (ChatOpenAI)') } })
  const events = await eventsOf(1, async () => {
    t.same(await embeddings.embedQuery('one'), [0.25, -0.5, 0.125])
  })
  t.match(events, [{ endpoint: 'embeddings', input_tokens: 9 }])
})

t.test('LangChain: a used-up allowance is an error after one attempt', async (t) => {
  for (const [name, { chat }] of Object.entries(langchain('once'))) {
    const before = [model, claude].reduce((sum, upstream) => sum + upstream.executions, 0)
    const startedMs = performance.now()
    const error = await errorOf(chat.invoke('x'))
    t.match(String(error), /daily/, name)
    t.ok(performance.now() - startedMs < 2000, `${name}: at once`)
    t.equal([model, claude].reduce((sum, upstream) => sum + upstream.executions, 0), before)
  }
})
