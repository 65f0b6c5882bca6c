// Faults G10 to G12: told to stop while calls are running.
// test: timeout 120 s
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { chunk, openScriptedUpstream, sse, sseHead, stall, steps } from '../fixtures/scripted-upstream.ts'
import { chatChunk } from '../fixtures/openai-scripts.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { inputTokens, openCuedUpstream } from './cued-upstream.ts'
import { chat, configOf, portIsClosed, standing, totalOf, usageLines } from './outside.ts'

t.setTimeout(110_000)

t.test('G10: SIGTERM during 100 streams: all finish, the listener closes first, exit 0, every event is kept for every sink', async (t) => {
  const model = await openCuedUpstream(t)
  const yaml = (late: string): string => configOf({
    upstream: model.url, server: '{ drain: { delay: 800ms, timeout: 30s } }', sinks: `  - { name: late, type: file, path: "${late}" }\n`,
  })
  // One sink has no place to write to before the end of this process: what should be its folder is a file.
  const gateway = await startGatewayProcess(t, yaml('{dir}/tallygate.yaml/late.ndjson'))
  const streams = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    const call = chat(gateway.port, `g10-${i}`)
    const cued = await model.call(`g10-${i}`)
    await cued.begin()
    await cued.say(2)
    await waitFor('its first words', () => call.text.includes('word'), { deadlineMs: 15_000 })
    return { call, cued }
  }))
  const pid = gateway.pid
  const code = gateway.stop()
  await waitFor('not ready', async () => (await fetch(`${gateway.url}/-/ready`)).status === 503, { everyMs: 2 })
  const within = chat(gateway.port, 'within', { stream: false })
  await (await model.call('within')).answer()
  t.equal(await within.over, true)
  t.equal(within.status, 200, 'a call within the delay is served')
  await waitFor('the listener to close', () => portIsClosed(gateway.port), { everyMs: 10 })
  const late = chat(gateway.port, 'too-late')
  t.equal(await late.over, false)
  t.equal(late.status, 0, 'afterwards nobody is let in')
  t.equal(process.kill(pid, 0), true, 'and what runs is waited for')
  for (const { cued } of streams) await cued.say(1)
  await Promise.all(streams.map(async ({ cued }) => {
    await cued.close()
    await cued.end()
  }))
  for (const { call } of streams) {
    t.equal(await call.over, true)
    t.match(call.text, /data: \[DONE\]\n\n$/)
  }
  t.equal(await code, 0)
  t.notOk(model.calls.has('too-late'))
  const lines = usageLines(gateway.dir)
  t.equal(lines.length, 101, 'every event was delivered before the end')
  t.ok(lines.every(({ data }) => data.end === 'complete' && data.usage_source === 'upstream'))
  t.equal(totalOf(lines, 'total_tokens'), 100 * (inputTokens + 3) + inputTokens + 4)

  gateway.configure(yaml('{dir}/late.ndjson'))
  await gateway.start()
  const afterwards = await waitFor('the sink that had no place', () => {
    const taken = existsSync(join(gateway.dir, 'late.ndjson')) ? usageLines(gateway.dir, /^late/) : []
    return taken.length === 101 ? taken : undefined
  }, { deadlineMs: 15_000 })
  t.same(afterwards, lines, 'no event was lost on the way')
  const { budget } = await standing(gateway)
  t.match(budget, { used: totalOf(lines, 'total_tokens'), reserved: 0 })
})

t.test('G11: streams longer than the drain are cut with an error event in their dialect, settled, and the process ends in time', async (t) => {
  const upstream = await openScriptedUpstream(t, (request, reply) => steps(sseHead(), ...(request.target === '/v1/messages'
    ? [chunk(sse({ type: 'message_start', message: { id: 'm', type: 'message', role: 'assistant', model: 'test-model', content: [], stop_reason: null, usage: { input_tokens: 9, output_tokens: 1 } } }, 'message_start')),
        chunk(sse({ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }, 'content_block_start')),
        chunk(sse({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'some words' } }, 'content_block_delta'))]
    : [chunk(sse(chatChunk({ content: 'some words' })))]), stall)(request, reply))
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url, provider: '[openai, anthropic]', server: '{ drain: { delay: 100ms, timeout: 1s } }' }))
  const openai = chat(gateway.port, 'g11')
  const anthropic = chat(gateway.port, 'g11', { path: '/v1/messages' })
  await waitFor('both to run', () => openai.text.includes('words') && anthropic.text.includes('words'))
  const startedMs = performance.now()
  t.equal(await gateway.stop(), 0)
  const tookMs = performance.now() - startedMs
  t.ok(tookMs >= 1_000 && tookMs < 6_100, `it ended after ${Math.round(tookMs)} ms`)
  t.equal(await openai.over, false, 'the answer does not look whole')
  t.equal(await anthropic.over, false)
  t.match(openai.text, /data: \{"error":\{.*"code":"draining".*\}\}\n\n$/)
  t.match(anthropic.text, /event: error\ndata: \{"type":"error","error":\{.*\}.*\}\n\n$/)
  const lines = usageLines(gateway.dir)
  t.equal(lines.length, 2)
  for (const { data } of lines) {
    t.equal(data.end, 'timed_out')
    t.ok((data.output_tokens ?? 0) >= 2 && (data.output_tokens ?? 0) <= 50, `${data.output_tokens} tokens`)
  }
  await gateway.start()
  const { budget } = await standing(gateway)
  t.match(budget, { used: totalOf(lines, 'total_tokens'), reserved: 0 })
})

t.test('G12: a second SIGTERM cuts at once, and the books are whole', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url, server: '{ drain: { delay: 5s, timeout: 60s } }' }))
  const calls = await Promise.all(Array.from({ length: 10 }, async (_, i) => {
    const call = chat(gateway.port, `g12-${i}`)
    const cued = await model.call(`g12-${i}`)
    await cued.begin()
    await cued.say(i + 1)
    await waitFor('its words', () => call.text.split('word').length - 1 === i + 1)
    return call
  }))
  const code = gateway.stop()
  // One Ctrl-C may arrive twice: within half a second it is one.
  await new Promise((resolve) => setTimeout(resolve, 600))
  const startedMs = performance.now()
  gateway.signal('SIGTERM')
  t.equal(await code, 0)
  t.ok(performance.now() - startedMs < 5_000)
  for (const call of calls) t.equal(await call.over, false)
  const lines = usageLines(gateway.dir)
  t.equal(lines.length, 10)
  const byId = new Map(lines.map((line) => [line.id, line.data]))
  calls.forEach(({ headers }, i) => {
    const data = byId.get(String(headers['x-request-id']))
    t.ok(data?.end === 'timed_out' && (data.output_tokens ?? 0) > i, `cut after ${i + 1} pieces: ${data?.output_tokens} tokens`)
  })
  await gateway.start()
  const { budget } = await standing(gateway)
  t.match(budget, { used: totalOf(lines, 'total_tokens'), reserved: 0 })
})
