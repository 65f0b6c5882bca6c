// test: alone
// Callers that leave in the middle of a stream, as the official SDKs leave: how soon the upstream call is stopped, and what is billed.

import t from 'tap'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { chatChunk, openai } from '../fixtures/openai-scripts.ts'
import { openRawClient, requestBytes } from '../fixtures/raw-client.ts'
import { all as inOrder, chunk, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait, type ScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { errorOf, keyLine, openFront, secretOf } from './front.ts'
import { baseUrl } from './recipes.ts'

const model = await openScriptedUpstream(t, openai())
const claude = await openScriptedUpstream(t, anthropic())
const front = await openFront(t, `
upstreams:
  model: { url: "${model.url}", provider: openai }
  claude: { url: "${claude.url}", provider: anthropic }
plans:
  open: { entitlements: { models: ["*"] } }
keys:
${keyLine('open', 'plan: open')}
`)
const { gateway } = front
const ask = { model: 'test-model', max_tokens: 1000, messages: [{ role: 'user' as const, content: 'Say many words.' }] }
const many = { pieces: Array.from({ length: 200 }, () => ' word'), outputTokens: 200, everyMs: 20 }
const rounds = 5

/** Leaves by the SDK's own means when `seen` pieces of text have come; answers when it did and the exchange's id. */
type Leave = (seen: number) => Promise<{ readonly leftAtMs: number; readonly id: string | null | undefined }>

const openaiLeaves: Leave = async (seen) => {
  const client = new OpenAI({ baseURL: baseUrl('OpenAI SDK (JavaScript, Python)', gateway.url), apiKey: secretOf('open') })
  const { data: stream, request_id: id } = await client.chat.completions.create({ ...ask, stream: true }).withResponse()
  let got = 0
  for await (const part of stream) {
    if (part.choices[0]?.delta.content) got += 1
    if (got === seen) break
  }
  const leftAtMs = performance.now()
  stream.controller.abort()
  return { leftAtMs, id }
}

const anthropicLeaves: Leave = async (seen) => {
  const client = new Anthropic({ baseURL: baseUrl('Anthropic SDK (JavaScript, Python)', gateway.url), apiKey: secretOf('open') })
  const stream = client.messages.stream(ask)
  let leftAtMs = 0
  let got = 0
  stream.on('text', () => {
    got += 1
    if (got !== seen) return
    leftAtMs = performance.now()
    stream.abort()
  })
  if (!(await errorOf(stream.finalMessage()) instanceof Anthropic.APIUserAbortError)) throw new Error('the SDK did not abort')
  return { leftAtMs, id: stream.request_id }
}

async function stoppedAfterMs(upstream: ScriptedUpstream, leftAtMs: number): Promise<number> {
  const { connection } = upstream.requests.at(-1)!
  await waitFor('the upstream connection to end', () => connection.closedAtMs, { everyMs: 1 })
  return connection.closedAtMs! - leftAtMs
}

for (const [who, leave, upstream, script] of [
  ['OpenAI', openaiLeaves, model, openai(many)],
  ['Anthropic', anthropicLeaves, claude, anthropic(many)],
] as const) {
  t.test(`${who}: abort() mid-stream stops the upstream call within 100 ms, and what came is billed, marked so`, async (t) => {
    upstream.script = script
    // Once before it counts: the SDK's own way out is slow the first time.
    await stoppedAfterMs(upstream, (await leave(1)).leftAtMs)
    const afterMs: number[] = []
    for (let round = 0; round < rounds; round++) {
      const { leftAtMs, id } = await leave(3)
      afterMs.push(await stoppedAfterMs(upstream, leftAtMs))
      t.equal(upstream.requests.at(-1)!.connection.closedBy, 'peer')
      const event = await front.event(id)
      t.match(event, { end: 'client_gone', requests: 1, stream: true })
      t.ok(event.input_tokens! >= 1)
      t.ok(event.output_tokens! >= 3 && event.output_tokens! <= 12, `${event.output_tokens} tokens billed`)
    }
    const worst = Math.max(...afterMs)
    t.ok(worst < 100, `stopped ${worst.toFixed(1)} ms after the abort, at worst`)
    t.comment(`${who}: stopped ${afterMs.map((ms) => ms.toFixed(0)).join(', ')} ms after the abort`)
  })
}

t.test('a model that is silent for long is stopped as soon', async (t) => {
  model.script = steps(sseHead(), chunk(sse(chatChunk({ content: 'Let me think.' }))), wait(4000), chunk(sse(chatChunk({ content: 'Well.' }))), lastChunk)
  const afterMs: number[] = []
  for (let round = 0; round < rounds; round++) {
    const { leftAtMs, id } = await openaiLeaves(1)
    afterMs.push(await stoppedAfterMs(model, leftAtMs))
    t.match(await front.event(id), { end: 'client_gone' })
  }
  const worst = Math.max(...afterMs)
  t.ok(worst < 100, `stopped ${worst.toFixed(1)} ms after the abort, at worst`)
  t.comment(`silent: stopped ${afterMs.map((ms) => ms.toFixed(0)).join(', ')} ms after the abort`)
})

t.test('a caller that only stops sending gets every event whole, with nothing but comments between them', async (t) => {
  const events = [chatChunk({ content: 'H😀' }), chatChunk({ content: 'llo' }), chatChunk({}, { finish: 'stop' }), '[DONE]'].map((event) => sse(event))
  const cut = Math.floor(events[1]!.length / 2)
  // The second event comes in two halves with silence between them: nothing may be put there.
  model.script = steps(sseHead(), chunk(events[0]!), wait(80), chunk(events[1]!.slice(0, cut)), wait(80), chunk(events[1]!.slice(cut)), wait(80), inOrder(...events.slice(2).map((event) => chunk(event))), lastChunk)
  const client = await openRawClient(gateway)
  await client.send(requestBytes({ method: 'POST', target: '/v1/chat/completions', headers: { authorization: `Bearer ${secretOf('open')}` }, body: { ...ask, stream: true } }))
  const head = await client.readHead()
  client.halfClose()
  const got: string[] = []
  for await (const event of client.events(head)) got.push(`${event.raw}\n\n`)
  t.same(got.filter((event) => event !== ':\n\n'), events)
  t.ok(got.length > events.length, 'it was asked whether it is there')
  t.match(await front.event(head.header('x-request-id')), { end: 'complete' })
})
