// Whatever an upstream does: the caller gets an answer it cannot mistake, the books are right, nothing stays held.
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import { chatChunk, chatCompletion, chatUsageChunk, openai, openaiAnswer, openaiError } from '../../fixtures/openai-scripts.ts'
import {
  chunk, end, head, inTurn, json, lastChunk, openScriptedUpstream, reset, sse, sseHead, stall, steps, wait, type Script, type Step,
} from '../../fixtures/scripted-upstream.ts'
import type { RawResponse } from '../../fixtures/raw-client.ts'
import { startRig, type Rig, type RigOptions } from './rig.ts'

const quick = '  timeouts: { connect: 500ms, first_byte: 400ms, idle: 400ms, total: 3s }'
const jsonHead = (length: number | string): string => head(200, { 'Content-Type': 'application/json', 'Content-Length': String(length) })
const hello = (text: string): Buffer => chunk(sse(chatChunk({ content: text })))
const whole = JSON.stringify(chatCompletion(openaiAnswer))

async function rigOf(t: Test, script: Script, options: RigOptions = {}): Promise<{ rig: Rig; upstream: Awaited<ReturnType<typeof openScriptedUpstream>> }> {
  const upstream = await openScriptedUpstream(t, script)
  return { rig: await startRig(t, upstream.url, { server: quick, ...options }), upstream }
}

async function isOurs(t: Test, rig: Rig, answer: RawResponse, status: number, reason: string): Promise<void> {
  t.equal(answer.status, status, answer.text)
  t.equal(answer.header('x-tallygate-error'), 'upstream')
  t.match(answer.json(), { error: { reason, message: String } })
  t.same(await rig.events(), [], 'nothing is billed')
  t.match(await rig.usage(), { rpm: { used: 0, reserved: 0 } }, 'a failed call counts toward nothing')
}

t.test('U1: a refused connection, a name that does not resolve and TLS that fails are 502, and nothing is billed', async (t) => {
  const server = createServer((socket) => { socket.end('this is no TLS') })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  for (const url of ['http://127.0.0.1:1', 'http://no-such-host.invalid', `https://127.0.0.1:${port}`]) {
    const rig = await startRig(t, url, { server: quick })
    await isOurs(t, rig, await rig.chat(), 502, 'upstream_unavailable')
  }
})

t.test('U2: an upstream that never answers is 504 at the first-byte timeout, and nothing is billed', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(stall))
  const startedAt = performance.now()
  await isOurs(t, rig, await rig.chat(), 504, 'upstream_timeout')
  t.ok(performance.now() - startedAt < 1500)
  t.equal(upstream.open, 0, 'its connection was destroyed')
})

t.test('U2: with count_failed a failed call counts as a request and as nothing else', async (t) => {
  const { rig } = await rigOf(t, steps(stall), { policy: 'count_failed: true, output_default: 100' })
  t.equal((await rig.chat()).status, 504)
  t.match(await rig.events(), [{ requests: 1, end: 'timed_out', status: 504 }])
  t.notOk('input_tokens' in ((await rig.events())[0] ?? {}))
  t.match(await rig.usage(), { rpm: { used: 1 }, daily: { used: 0 } })
})

for (const [row, last, how] of [
  ['U3: a stream that hangs', stall, 'timed_out'],
  ['U4: a stream that is reset', reset, 'upstream_broken'],
  ['U5: a stream whose connection ends without its last chunk', end, 'upstream_broken'],
] as [string, Step, string][]) {
  t.test(`${row} ends with an error event and a broken connection, and what was seen is billed`, async (t) => {
    const { rig } = await rigOf(t, steps(sseHead(), hello('Hello'), hello(' world'), wait(30), last))
    const answer = await rig.chat({ stream: true })
    t.equal(answer.status, 200)
    t.not(answer.ending, 'complete', 'it cannot be mistaken for a whole answer')
    t.match(answer.text, /Hello/)
    t.match(answer.text, /"error"/)
    t.notMatch(answer.text, /\[DONE\]/)
    const [event] = await rig.events()
    t.match(event, { end: how, requests: 1, status: 200 })
    t.ok(['counted', 'estimated'].includes(String(event?.['usage_source'])))
    t.ok(Number(event?.['output_tokens']) >= 1, 'the text that was seen')
  })
}

t.test('U5: a plain answer whose length lies is never delivered as whole', async (t) => {
  const { rig } = await rigOf(t, steps(jsonHead(whole.length + 50), whole, end))
  const answer = await rig.chat()
  t.equal(answer.status, 502)
  t.match(answer.json(), { error: { reason: 'upstream_unavailable' } })
  await rig.settled()
})

t.test('U6: where only the end of the connection frames a stream, its own terminator decides whether it is whole', async (t) => {
  const open = head(200, { 'Content-Type': 'text/event-stream', Connection: 'close' })
  const { rig, upstream } = await rigOf(t, steps(open, sse(chatChunk({ content: 'Hello' })), sse('[DONE]'), end))
  const good = await rig.chat({ stream: true })
  t.equal(good.ending, 'complete')
  upstream.script = steps(open, sse(chatChunk({ content: 'Hello' })), end)
  const bad = await rig.chat({ stream: true })
  t.not(bad.ending, 'complete')
  t.match((await rig.events()).map((event) => event['end']), ['complete', 'upstream_broken'])
})

t.test('U7: a body shorter than its length is 502 while nothing was sent', async (t) => {
  const { rig } = await rigOf(t, steps(jsonHead(1000), whole, reset))
  t.equal((await rig.chat()).status, 502)
  await rig.settled()
})

t.test('U8: bytes after the end of an answer reach nobody, and their connection is not used again', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(jsonHead(whole.length), `${whole}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil`))
  for (let i = 0; i < 3; i++) {
    const answer = await rig.chat()
    t.equal(answer.status, 200)
    t.equal(answer.text, whole)
  }
  t.equal(upstream.connections.length, 3)
  t.equal((await rig.events()).length, 3)
})

t.test('U9: a second answer on an idle connection is never delivered to anyone', async (t) => {
  const { rig } = await rigOf(t, inTurn(
    steps(jsonHead(whole.length), whole, wait(50), json(200, { evil: true })),
    steps(jsonHead(whole.length), whole),
  ))
  t.equal((await rig.chat()).text, whole)
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.equal((await rig.chat()).text, whole)
})

t.test('U10: an unsolicited 101, a flood of interim answers, statuses that are none, are 502', async (t) => {
  for (const bytes of [
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
    'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n'.repeat(50) + json(200, {}),
    head(0o0, { 'Content-Length': '0' }).replace('HTTP/1.1 0', 'HTTP/1.1 000'),
    head(999, { 'Content-Length': '0' }),
    head(601, { 'Content-Length': '0' }),
  ]) {
    const { rig } = await rigOf(t, steps(bytes, wait(100), end))
    await isOurs(t, rig, await rig.chat(), 502, 'upstream_unavailable')
  }
})

t.test('U10: one early hint and a 204 with a body do no harm', async (t) => {
  const { rig, upstream } = await rigOf(t, steps('HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n', jsonHead(whole.length), whole))
  t.equal((await rig.chat()).text, whole)
  upstream.script = steps(head(204, { 'Content-Length': '4' }), 'evil')
  const answer = await rig.chat()
  t.equal(answer.status, 204)
  t.equal(answer.body.length, 0)
  upstream.script = steps(jsonHead(whole.length), whole)
  t.equal((await rig.chat()).text, whole)
  await rig.settled()
})

t.test('U11: heads that are too large, or framed in two ways, are 502', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(end))
  for (const bytes of [
    head(200, { 'X-Big': 'x'.repeat(20_000), 'Content-Length': '0' }),
    head(200, Array.from({ length: 10_000 }, (_, i) => [`x-${i}`, '1'] as const)),
    head(200, { 'Content-Length': '4', 'Transfer-Encoding': 'chunked' }) + '0\r\n\r\n',
    head(200, { 'Transfer-Encoding': 'gzip, chunked' }) + '0\r\n\r\n',
    head(200, [['Content-Length', '4'], ['Content-Length', '5']]) + 'evil',
    'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type : text/plain\r\n\r\n{}',
  ]) {
    upstream.script = steps(bytes, wait(50), end)
    await isOurs(t, rig, await rig.chat(), 502, 'upstream_unavailable')
  }
})

t.test('U12: what is not HTTP/1 is 502', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(end))
  for (const bytes of ['garbage\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '']) {
    upstream.script = steps(bytes, wait(20), end)
    await isOurs(t, rig, await rig.chat(), 502, 'upstream_unavailable')
  }
})

t.test('U13: an upstream that answers before it has read the body is heard, and its connection not used again', async (t) => {
  const upstream = await openScriptedUpstream(t, steps((reply) => reply.pauseReading(), openaiError(413, 'too long', 'too_long'), wait(100), end), { early: true })
  const rig = await startRig(t, upstream.url, { server: quick, policy: 'output_default: 10', limits: ['{ name: rpm, meter: requests, limit: 100, window: 1m }'] })
  const answer = await rig.chat({ messages: [{ role: 'user', content: 'x'.repeat(4_000_000) }] })
  t.equal(answer.status, 413)
  await rig.settled()
})

t.test('U14: redirects are never followed', async (t) => {
  const target = await openScriptedUpstream(t, steps(json(200, {})))
  const { rig } = await rigOf(t, steps(head(307, { Location: `${target.url}/steal`, 'Content-Length': '0' })))
  await isOurs(t, rig, await rig.chat(), 502, 'upstream_unavailable')
  t.equal(target.connections.length, 0)
})

t.test('U15: the upstream\'s own load is told as 503 with its retry-after, a minute at most', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(openaiError(429, 'slow down', 'rate_limit_exceeded', { 'Retry-After': '7' })))
  const busy = await rig.chat()
  t.equal(busy.header('retry-after'), '7')
  await isOurs(t, rig, busy, 503, 'upstream_busy')
  upstream.script = steps(openaiError(503, 'overloaded', 'overloaded', { 'Retry-After': '3600' }))
  t.equal((await rig.chat()).header('retry-after'), '60')
  upstream.script = steps(openaiError(500, 'secret internals of the upstream', 'internal'))
  const broken = await rig.chat()
  t.equal(broken.status, 502)
  t.notMatch(broken.text, /secret internals/)
  t.equal(upstream.executions, 3, 'nothing is tried again behind the caller\'s back')
})

t.test('the upstream\'s refusal of our credential or credit is our misconfiguration, not the caller\'s', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(end))
  for (const [status, code] of [[401, 'invalid_api_key'], [402, 'x'], [403, 'x'], [429, 'insufficient_quota'], [400, 'insufficient_quota']] as const) {
    upstream.script = steps(openaiError(status, 'the operator\'s account', code))
    const answer = await rig.chat()
    t.equal(answer.header('x-should-retry'), 'false')
    await isOurs(t, rig, answer, 502, 'upstream_unavailable')
  }
})

t.test('a bad request is the caller\'s own: the upstream\'s words pass, and nothing is billed', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(openaiError(400, 'messages[0] is wrong', 'bad_messages')))
  const answer = await rig.chat({ max_tokens: 5 })
  t.equal(answer.status, 400)
  t.equal(answer.header('x-tallygate-error'), 'upstream')
  t.match(answer.json(), { error: { message: 'messages[0] is wrong' } })
  t.match(answer.header('ratelimit'), /"daily";r=1000000/, 'its headers tell that nothing was charged')
  t.same(await rig.events(), [])
  t.equal(upstream.executions, 1)
})

t.test('U16: a plain answer without usage is counted by the gateway, and an alarm rises', async (t) => {
  const { rig } = await rigOf(t, openai({ usage: 'never' }))
  t.equal((await rig.chat()).status, 200)
  const [event] = await rig.events()
  t.ok(['counted', 'estimated'].includes(String(event?.['usage_source'])))
  t.ok(Number(event?.['output_tokens']) > 0 && Number(event?.['input_tokens']) > 0)
  t.match(await rig.metrics.text(), /tallygate_meter_alarms_total\{[^}]*usage_missing[^}]*\} 1/)
})

t.test('U17: a stream without usage is counted from its text', async (t) => {
  const { rig } = await rigOf(t, openai({ usage: 'never' }))
  t.equal((await rig.chat({ stream: true })).ending, 'complete')
  const [event] = await rig.events()
  t.ok(['counted', 'estimated'].includes(String(event?.['usage_source'])))
  t.ok(Number(event?.['output_tokens']) > 0)
})

t.test('U18, U19: usage that comes twice or grows with every chunk is counted once', async (t) => {
  for (const usage of ['twice', 'each', 'always'] as const) {
    const { rig } = await rigOf(t, openai({ usage, inputTokens: 9, outputTokens: 4 }))
    t.equal((await rig.chat({ stream: true })).ending, 'complete')
    t.match(await rig.events(), [{ input_tokens: 9, output_tokens: 4, usage_source: 'upstream' }], usage)
  }
})

t.test('U20: usage that makes no sense is not believed', async (t) => {
  for (const completion_tokens of [-5, 1.5, '7', 1e18, null]) {
    const { rig } = await rigOf(t, steps(json(200, { ...chatCompletion(openaiAnswer), usage: { prompt_tokens: 9, completion_tokens, total_tokens: 9 } })))
    t.equal((await rig.chat()).status, 200)
    const [event] = await rig.events()
    const output = Number(event?.['output_tokens'])
    t.ok(Number.isSafeInteger(output) && output >= 0 && output < 1000, `${String(completion_tokens)} became ${output}`)
  }
})

t.test('U21: more than was reserved is billed, recorded as overrun where it passes a ceiling, and seen by the next admission', async (t) => {
  const limits = ['{ name: daily, meter: total_tokens, limit: 300, window: day }']
  const { rig } = await rigOf(t, openai({ inputTokens: 9, outputTokens: 500 }), { limits, policy: 'output_default: 100, on_insufficient: refuse' })
  t.equal((await rig.chat({ max_tokens: 20 })).status, 200)
  t.match(await rig.events(), [{ output_tokens: 500, overrun: [{ amount: 209 }] }])
  const next = await rig.chat({ max_tokens: 20 })
  t.equal(next.status, 429)
  t.match(next.json(), { error: { reason: 'usage_limit_reached', remaining: 0 } })
})

t.test('U22: usage after the terminator is still read; without one the content is delivered', async (t) => {
  const usage = chunk(sse(chatUsageChunk(openaiAnswer)))
  const { rig, upstream } = await rigOf(t, steps(sseHead(), hello('Hello'), chunk(sse('[DONE]')), wait(20), usage, lastChunk))
  const late = await rig.chat({ stream: true })
  t.equal(late.ending, 'complete')
  t.match(late.text, /\[DONE\]/)
  upstream.script = steps(sseHead(), hello('Hello'), usage, lastChunk)
  const missing = await rig.chat({ stream: true })
  t.match(missing.text, /Hello/)
  t.equal(missing.ending, 'complete')
  const events = await rig.events()
  t.match(events.map((event) => event['output_tokens']), [4, 4])
})

t.test('U22: a connection that stays open after the terminator holds its end back two seconds at most', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(sseHead(), hello('Hello'), chunk(sse(chatUsageChunk(openaiAnswer))), chunk(sse('[DONE]')), stall), { server: '  timeouts: { idle: 30s }' })
  const startedAt = performance.now()
  const answer = await rig.chat({ stream: true })
  const took = performance.now() - startedAt
  t.equal(answer.ending, 'complete')
  t.ok(took < 3000, `${Math.round(took)} ms`)
  t.match(await rig.events(), [{ end: 'complete', output_tokens: 4 }])
  t.equal(upstream.open, 0)
})

t.test('U24: a malformed event passes, and the later ones are still metered', async (t) => {
  const { rig } = await rigOf(t, steps(sseHead(), chunk('data: {"choices":[{"del\n\n'), hello('Hello'), chunk(sse(chatUsageChunk(openaiAnswer))), chunk(sse('[DONE]')), lastChunk))
  const answer = await rig.chat({ stream: true })
  t.match(answer.text, /data: \{"choices":\[\{"del\n\n/)
  t.match(await rig.events(), [{ output_tokens: 4, usage_source: 'upstream' }])
})

t.test('U25: usage inside model text is not usage', async (t) => {
  const text = '"usage":{"prompt_tokens":1,"completion_tokens":99999,"total_tokens":100000}'
  const { rig } = await rigOf(t, openai({ pieces: [text], inputTokens: 9, outputTokens: 4 }))
  await rig.chat({ stream: true })
  await rig.chat()
  t.match((await rig.events()).map((event) => event['output_tokens']), [4, 4])
})

t.test('U26: ten thousand events in one segment, and a line of a megabyte, pass whole', async (t) => {
  const events = Array.from({ length: 10_000 }, (_, i) => sse(chatChunk({ content: `w${i} ` }))).join('')
  const long = sse(chatChunk({ content: 'x'.repeat(1_000_000) }))
  const { rig } = await rigOf(t, steps(sseHead(), chunk(events), chunk(long), chunk(sse(chatUsageChunk(openaiAnswer))), chunk(sse('[DONE]')), lastChunk))
  const answer = await rig.chat({ stream: true, stream_options: { include_usage: true } })
  t.equal(answer.ending, 'complete')
  t.equal(answer.text, events + long + sse(chatUsageChunk(openaiAnswer)) + sse('[DONE]'))
  t.match(await rig.events(), [{ output_tokens: 4 }])
})

t.test('U27: an encoded answer passes unchanged and is estimated', async (t) => {
  const body = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3])
  const { rig, upstream } = await rigOf(t, steps(head(200, { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip', 'Content-Length': String(body.length) }), body))
  const answer = await rig.chat({}, { 'Accept-Encoding': 'gzip' })
  t.same(answer.body, body)
  t.equal(answer.header('content-encoding'), 'gzip')
  t.equal(upstream.requests[0]?.header('accept-encoding'), 'identity')
  t.match(await rig.events(), [{ usage_source: 'estimated' }])
})

t.test('U28: an error event inside a 200 passes; what was produced before it is billed', async (t) => {
  const { rig } = await rigOf(t, steps(sseHead(), hello('Hello there'), chunk(sse({ error: { message: 'it broke', type: 'server_error' } })), lastChunk))
  const answer = await rig.chat({ stream: true })
  t.match(answer.text, /it broke/)
  const [event] = await rig.events()
  t.equal(event?.['status'], 200)
  t.ok(Number(event?.['output_tokens']) > 0)
})

t.test('U29: a connection that the upstream closed while idle costs nobody a call, and nothing is executed twice', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(jsonHead(whole.length), whole, wait(20), end))
  for (let i = 0; i < 5; i++) {
    t.equal((await rig.chat()).status, 200)
    await new Promise((resolve) => setTimeout(resolve, 40))
  }
  t.equal(upstream.executions, 5)
  t.equal((await rig.events()).length, 5)
})

t.test('U29: a connection that breaks after the request was sent is 502 and not tried again', async (t) => {
  const { rig, upstream } = await rigOf(t, inTurn(steps(jsonHead(whole.length), whole), steps(reset), steps(jsonHead(whole.length), whole)))
  t.equal((await rig.chat()).status, 200)
  t.equal((await rig.chat()).status, 502)
  t.equal(upstream.executions, 2)
  t.equal((await rig.events()).length, 1)
})

t.test('U31, U32: cookies, the operator\'s ids, hop-by-hop fields and trailers stay behind', async (t) => {
  const body = chunk(whole)
  const { rig } = await rigOf(t, steps(
    head(200, { 'Content-Type': 'application/json', 'Transfer-Encoding': 'chunked', 'Set-Cookie': 'a=b', 'OpenAI-Organization': 'org-secret', Connection: 'x-hop', 'X-Hop': '1',
      Trailer: 'x-late', 'x-ratelimit-remaining-tokens': '5', 'Access-Control-Allow-Origin': '*', 'X-Kept': 'yes' }),
    body, '0\r\nx-late: evil\r\n\r\n',
  ))
  const answer = await rig.chat()
  const text = answer.headers.flat().join('\n')
  t.notMatch(text, /a=b|org-secret|x-hop|evil|allow-origin/i)
  t.equal(answer.header('x-kept'), 'yes')
  t.not(answer.header('x-ratelimit-remaining-tokens'), '5')
  t.same(answer.trailers, [])
  t.equal(answer.text, whole)
})

t.test('U33: an answer that comes byte by byte passes as long as bytes come', async (t) => {
  const text = sse(chatChunk({ content: 'slow' })) + sse(chatUsageChunk(openaiAnswer)) + sse('[DONE]')
  const bytes = Array.from({ length: 20 }, (_, i) => chunk(text.slice((i * text.length) / 20, ((i + 1) * text.length) / 20)))
  const { rig } = await rigOf(t, steps(sseHead(), ...bytes.flatMap((part) => [wait(30), part]), lastChunk), { server: '  timeouts: { first_byte: 300ms, idle: 200ms, total: 10s }' })
  const answer = await rig.chat({ stream: true })
  t.equal(answer.ending, 'complete')
  t.match(await rig.events(), [{ end: 'complete', output_tokens: 4 }])
})

t.test('U33: the total time of a call ends even a stream that never idles', async (t) => {
  const drip = Array.from({ length: 60 }, () => [wait(30), hello('x')]).flat()
  const { rig } = await rigOf(t, steps(sseHead(), ...drip, lastChunk), { server: '  timeouts: { first_byte: 300ms, idle: 300ms, total: 500ms }' })
  const answer = await rig.chat({ stream: true })
  t.not(answer.ending, 'complete')
  t.match(await rig.events(), [{ end: 'timed_out' }])
})

t.test('an output bound that we wrote and the upstream rejects is lowered and tried once more; the caller never sees that 400', async (t) => {
  const complaint = openaiError(400, "This model's maximum context length is 64 tokens. However, you requested 120 tokens (20 in the messages, 100 in the completion).", 'context_length_exceeded')
  const { rig, upstream } = await rigOf(t, inTurn(steps(complaint), openai()))
  t.equal((await rig.chat()).status, 200)
  const [first, second] = upstream.requests.map((request) => request.json())
  const boundOf = (body: Record<string, unknown> | undefined): unknown => body?.['max_tokens'] ?? body?.['max_completion_tokens']
  t.equal(boundOf(first), 100)
  t.equal(boundOf(second), 44)
  t.match(await rig.events(), [{ attempt: 2, requests: 1 }])
})

t.test('the caller\'s own bound is never second-guessed', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(openaiError(400, 'max_tokens is too large: 100. This model supports at most 50 completion tokens', 'x')))
  t.equal((await rig.chat({ max_tokens: 100 })).status, 400)
  t.equal(upstream.executions, 1)
})

t.test('an upstream that does not know stream_options is asked again without them, and remembered', async (t) => {
  const plain = openai({ usage: 'never' })
  const picky: Script = (request, reply) => ('stream_options' in request.json() ? steps(openaiError(400, 'unknown field stream_options', 'x'))(request, reply) : plain(request, reply))
  const { rig, upstream } = await rigOf(t, picky)
  t.equal((await rig.chat({ stream: true })).status, 200)
  t.equal((await rig.chat({ stream: true })).status, 200)
  t.equal(upstream.executions, 3)
  t.equal((await rig.events()).length, 2)
})

