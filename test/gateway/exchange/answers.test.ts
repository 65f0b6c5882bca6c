import t from 'tap'
import { chatChunk, openai } from '../../fixtures/openai-scripts.ts'
import { chunk, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait } from '../../fixtures/scripted-upstream.ts'
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

t.test('with server.stream_ping a silent stream gets comments, between events only, that nobody pays for', async (t) => {
  const event = sse(chatChunk({ content: 'Hello' }))
  const upstream = await openScriptedUpstream(t, steps(sseHead(), chunk(event), wait(250), chunk(event.slice(0, 20)), wait(250), chunk(event.slice(20)), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, { server: '  stream_ping: 100ms' })
  const answer = await rig.chat({ stream: true })
  t.match(answer.text, /: ping\n\n/)
  t.equal(answer.text.replaceAll(': ping\n\n', ''), event + event + sse('[DONE]'), 'the rest is what the upstream sent')
  t.match(await rig.events(), [{ bytes_out: (event + event + sse('[DONE]')).length }])
})
