import t from 'tap'
import { chatChunk, chatCompletion, openai, openaiAnswer } from '../../fixtures/openai-scripts.ts'
import { chunk, json, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait } from '../../fixtures/scripted-upstream.ts'
import { startRig } from './rig.ts'

t.test('I9: a plain answer passes byte for byte, is settled with what the upstream reported, and its headers tell the settled standing', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url)
  const answer = await rig.chat()
  t.equal(answer.status, 200, answer.text)
  t.equal(answer.ending, 'complete')
  t.match(answer.header('ratelimit'), /"daily";r=999987;t=\d+/)
  t.match(answer.header('ratelimit'), /"rpm";r=999;/)
  t.match(answer.header('ratelimit'), /"parallel";r=100/)
  const [event] = await rig.events()
  t.match(event, { input_tokens: 9, output_tokens: 4, total_tokens: 13, requests: 1, end: 'complete', usage_source: 'upstream', status: 200, attempt: 1, model: 'test-model' })
  t.equal(event?.['bytes_out'], answer.body.length)
  t.match(upstream.requests[0]?.header('authorization'), 'Bearer upstream-credential')
  t.notMatch(upstream.requests[0]?.headers.flat().join(' '), /tg-test/)
  t.equal(upstream.requests[0]?.json()['max_tokens'] ?? upstream.requests[0]?.json()['max_completion_tokens'], 100, 'the bound of the plan is written into the request')
})

t.test('a streamed answer passes, with the usage chunk we asked for taken out again', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const rig = await startRig(t, upstream.url)
  const answer = await rig.chat({ stream: true }, { TE: 'trailers' })
  t.equal(answer.status, 200)
  t.equal(answer.ending, 'complete')
  t.match(answer.text, /Hello/)
  t.match(answer.text, /data: \[DONE\]\n\n$/)
  t.notMatch(answer.text, /prompt_tokens/)
  t.match(answer.trailers.flat().join(' '), /x-tallygate-remaining .*"daily";r=999987/)
  const [event] = await rig.events()
  t.match(event, { input_tokens: 9, output_tokens: 4, end: 'complete', usage_source: 'upstream', stream: true })
})

t.test('what tells of the upstream\'s very bytes passes with a plain answer, and not with a stream, which is edited', async (t) => {
  const ofTheBody = { 'ETag': '"x"', 'Content-MD5': 'x', 'Digest': 'sha-256=x', 'Content-Digest': 'sha-256=:eA==:', 'Repr-Digest': 'sha-256=:eA==:', 'Accept-Ranges': 'bytes' }
  const upstream = await openScriptedUpstream(t, steps(json(200, chatCompletion(openaiAnswer), ofTheBody)))
  const rig = await startRig(t, upstream.url)
  const told = (answer: { header(name: string): string | undefined }): (string | undefined)[] => Object.keys(ofTheBody).map((name) => answer.header(name.toLowerCase()))
  t.same(told(await rig.chat()), Object.values(ofTheBody))
  upstream.script = openai({ headers: ofTheBody })
  const streamed = await rig.chat({ stream: true })
  t.match(streamed.text, /Hello/)
  t.same(told(streamed), Object.keys(ofTheBody).map(() => undefined))
})

t.test('with server.stream_ping a silent stream gets comments, between events only, that nobody pays for', async (t) => {
  const event = sse(chatChunk({ content: 'Hello' }))
  const upstream = await openScriptedUpstream(t, steps(sseHead(), chunk(event), wait(250), chunk(event.slice(0, 20)), wait(250), chunk(event.slice(20)), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, { server: '  stream_ping: 100ms' })
  const answer = await rig.chat({ stream: true })
  t.match(answer.text, /: ping\n\n/)
  t.equal(answer.text.replaceAll(': ping\n\n', ''), event + event + sse('[DONE]'), 'the rest is what the upstream sent')
  t.match(await rig.events(), [{ bytes_out: (event + event + sse('[DONE]')).length }])
})

t.test('log line, event and metric name the shadow limits that would have refused a call, and the caller is told nothing of them', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { limits: ['{ name: watched, meter: requests, limit: 1, window: day, mode: shadow }', '{ name: rpm, meter: requests, limit: 100, window: 1m }'] })
  const answers = [await rig.chat(), await rig.chat()]
  await rig.settled()
  const lines = rig.logged.filter((line) => line['message'] === 'exchange' && line['account'] === 'main' && line['input_tokens'] !== undefined)
  t.strictSame(lines.map((line) => line['shadowed']), [undefined, ['watched']])
  t.strictSame((await rig.events()).map((event) => event['shadow']), [undefined, ['watched']])
  t.match(await rig.metrics.text(), 'tallygate_shadow_refusals_total{plan="main",limit="watched"} 1')
  for (const answer of answers) t.notMatch(JSON.stringify(answer.headers) + answer.text, /watched/)
})

t.test("a path that no dialect knows is told of by the plan's pattern in events, and by nothing in metrics", async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), chunk('x'), lastChunk))
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["*"], endpoints: ["GET /*", "GET /files/*"] }' })
  await rig.request({ target: '/files/of-a-customer' })
  await rig.request({ target: '/elsewhere/of-a-customer' })
  t.strictSame((await rig.events()).map((event) => event['endpoint']), ['GET /files/*', 'GET /*'])
  t.notMatch(await rig.metrics.text(), /of-a-customer/)
})
