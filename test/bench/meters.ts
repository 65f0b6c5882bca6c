// What metering costs per event of a stream: nanoseconds over passing the bytes on unread. Run it by itself on a quiet machine:
//   node test/bench/meters.ts

import { anthropic } from '../../src/providers/anthropic.ts'
import { openai } from '../../src/providers/openai.ts'
import type { AnswerMeter, Endpoint, Provider } from '../../src/providers/provider.ts'

const stream = { status: 200, contentType: 'text/event-stream', contentEncoding: '' }
const endpointOf = (provider: Provider, wanted: string): Endpoint => {
  const found = provider.endpoints.find((endpoint) => endpoint.name === wanted)
  if (found === undefined) throw new Error(wanted)
  return found
}
const chat = endpointOf(openai, 'chat.completions')
const responses = endpointOf(openai, 'responses')
const messages = endpointOf(anthropic, 'messages')
const say = [{ role: 'user', content: 'hi' }]
const body = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))

const chatEvent = Buffer.from('data: {"id":"chatcmpl-123456789","object":"chat.completion.chunk","created":1795000000,"model":"llama-3.1-8b-instruct","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n')
const responseEvent = Buffer.from('event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":" word","logprobs":[],"obfuscation":"x1abcdef"}\n\n')
const messageEvent = Buffer.from('event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"}}\n\n')

const chatFacts = chat.inspect(body({ model: 'm', messages: say, stream: true }))
const responseFacts = responses.inspect(body({ model: 'm', input: 'hi', stream: true }))
const messageFacts = messages.inspect(body({ model: 'c', max_tokens: 9, messages: say, stream: true }))
const many = (event: Buffer, times: number): Buffer => Buffer.concat(Array.from({ length: times }, () => event))
const split = (event: Buffer): Buffer[] => [event.subarray(0, 100), event.subarray(100)]

const passing: AnswerMeter = {
  ended: false,
  pass: (chunk) => chunk,
  counted: () => ({}),
  finish: () => ({ usage: {}, source: 'counted', rest: new Uint8Array(0), whole: true, alarms: [] }),
}
const cases: [string, () => AnswerMeter, Buffer[], number][] = [
  ['bytes passed on unread', () => passing, [chatEvent], 1],
  ['chat, one event a chunk', () => chat.meter(chatFacts, stream), [chatEvent], 1],
  ['chat, 20 events a chunk', () => chat.meter(chatFacts, stream), [many(chatEvent, 20)], 20],
  ['chat, an event in two chunks', () => chat.meter(chatFacts, stream), split(chatEvent), 1],
  ['responses, one event a chunk', () => responses.meter(responseFacts, stream), [responseEvent], 1],
  ['messages, one event a chunk', () => messages.meter(messageFacts, stream), [messageEvent], 1],
]
const streams = 500
const eventsEach = 200
for (const [what, make, chunks, eventsInThem] of cases) {
  let best = Infinity
  for (let round = 0; round < 6; round++) {
    let out = 0
    const start = process.cpuUsage()
    for (let s = 0; s < streams; s++) {
      const meter = make()
      for (let i = 0; i < eventsEach; i += eventsInThem) for (const chunk of chunks) out += meter.pass(chunk).length
      out += meter.finish('client_gone').rest.length
    }
    const used = process.cpuUsage(start)
    if (out < 0) throw new Error('nothing passed')
    best = Math.min(best, ((used.user + used.system) * 1_000) / (streams * eventsEach))
  }
  console.log(`${what.padEnd(32)} ${best.toFixed(0).padStart(6)} ns/event`)
}
const request = body({ model: 'm', messages: Array.from({ length: 10 }, () => ({ role: 'user', content: 'x'.repeat(80) })), stream: true })
let best = Infinity
for (let round = 0; round < 6; round++) {
  const start = process.cpuUsage()
  for (let i = 0; i < 20_000; i++) chat.prepare(request, chat.inspect(request), { outputBound: 5, outputField: null, upstreamModel: null, askUsage: true, forbidStore: false })
  const used = process.cpuUsage(start)
  best = Math.min(best, ((used.user + used.system) * 1_000) / 20_000)
}
console.log(`inspect and prepare 1 KB         ${best.toFixed(0).padStart(6)} ns/request`)
