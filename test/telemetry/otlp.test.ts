// OpenTelemetry: traces joined and passed on, spans and metrics by the conventions, nothing of what was said, and calls that do not care whether anyone listens.
// test: timeout 120 s
import { createRequire } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import type { Telemetry, TelemetrySettings } from '../../src/telemetry/telemetry.ts'
import { canaries, canariesIn } from '../fixtures/canaries.ts'
import { openai, openaiError } from '../fixtures/openai-scripts.ts'
import { json, openScriptedUpstream, reset, stall, steps } from '../fixtures/scripted-upstream.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { secrets, startRig } from '../gateway/exchange/rig.ts'
import { startOtlpReceiver, type OtlpReceiver, type ReceivedSpan } from './otlp-receiver.ts'

t.setTimeout(110_000)

const traceId = '0af7651916cd43dd8448eb211c80319c'
const spanId = 'b7ad6b7169203331'
const sampledParent = `00-${traceId}-${spanId}-01`
const models = '  test-model: { upstream: model, context_tokens: 8192 }\n  "known-*": { upstream: model }'

// First, while this process has not read them.
t.test('switched off it is not there: no package is read, no id is made, and the caller\'s own words pass', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url)
  await rig.chat({}, { traceparent: sampledParent, tracestate: 'a=1', baggage: 'b=2' })
  const request = upstream.requests[0]
  t.same([request?.header('traceparent'), request?.header('tracestate'), request?.header('baggage')], [sampledParent, 'a=1', 'b=2'])
  await rig.chat({}, { traceparent: 'anything' })
  t.equal(upstream.requests[1]?.header('traceparent'), 'anything', 'it is none of ours to judge')
  await rig.chat()
  t.equal(upstream.requests[2]?.header('traceparent'), undefined)
  t.notOk(rig.logged.some((line) => (line as { trace?: unknown }).trace !== undefined))
  // The interfaces are there: Prometheus' client has them too.
  const read = (): string[] => Object.keys(createRequire(import.meta.url).cache).filter((path) => /@opentelemetry\/(sdk|otlp|exporter|resources)/.test(path))
  t.same(read(), [], 'no package of it is in memory')
  await import('../../src/telemetry/otlp.ts')
  t.ok(read().length > 50, 'and this would be seen')
})

async function open(t: Teardown, receiver: Pick<OtlpReceiver, 'url'>, more: Partial<TelemetrySettings> = {}): Promise<{ telemetry: Telemetry; warned: object[]; metrics: Metrics }> {
  const { openTelemetry } = await import('../../src/telemetry/otlp.ts')
  const warned: object[] = []
  const metrics = new Metrics()
  const telemetry = openTelemetry(
    { endpoint: receiver.url, headers: { authorization: 'Bearer receiver-token' }, sampleShare: 1, serviceName: 'ai-front', instance: 'gw-1', version: '1.2.3', ...more },
    { clock: systemClock, random: systemRandom, log: { warn: (fields) => warned.push(fields), info: (fields) => warned.push(fields) }, exports: metrics.telemetryExports },
  )
  t.teardown(() => telemetry.close())
  return { telemetry, warned, metrics }
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

function heapMb(): number {
  collectGarbage()
  return process.memoryUsage().heapUsed / 1_048_576
}

const byKind = (spans: readonly ReceivedSpan[], kind: number): ReceivedSpan[] => spans.filter((span) => span.kind === kind)

t.test('one server span for the exchange and one client span for the upstream\'s call, joined to the caller\'s trace, by the conventions', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, cachedTokens: 5, outputTokens: 4, everyMs: 5 }))
  const receiver = await startOtlpReceiver(t)
  const { telemetry } = await open(t, receiver)
  const rig = await startRig(t, upstream.url, { telemetry, models })
  const answer = await rig.chat({ stream: true, max_tokens: 50, stream_options: { include_usage: true } }, { traceparent: sampledParent, tracestate: 'vendor=x' })
  await telemetry.close()

  const [server] = byKind(receiver.spans, 2)
  const [client] = byKind(receiver.spans, 3)
  t.equal(receiver.spans.length, 2)
  t.match(server, { traceId, parentSpanId: spanId, name: 'POST /v1/chat/completions', failed: false, traceState: 'vendor=x' })
  t.match(server?.attributes, {
    'http.request.method': 'POST', 'http.route': '/v1/chat/completions', 'http.response.status_code': 200, 'tallygate.request.id': answer.header('x-request-id'),
    'tallygate.account': 'main', 'tallygate.key': 'main', 'tallygate.plan': 'main', 'tallygate.end': 'complete',
  })
  t.match(client, { traceId, parentSpanId: server?.spanId, name: 'chat test-model', failed: false })
  const port = Number(new URL(upstream.url).port)
  t.match(client?.attributes, {
    'gen_ai.operation.name': 'chat', 'gen_ai.provider.name': 'openai', 'gen_ai.request.model': 'test-model', 'gen_ai.response.model': 'test-model', 'gen_ai.request.max_tokens': 50, 'gen_ai.request.stream': true,
    'gen_ai.usage.input_tokens': 9, 'gen_ai.usage.output_tokens': 4, 'gen_ai.usage.cache_read.input_tokens': 5, 'server.address': '127.0.0.1', 'server.port': port, 'http.response.status_code': 200,
  })
  t.notHas(client?.attributes, { 'error.type': String })
  t.match(server?.resource, { 'service.name': 'ai-front', 'service.version': '1.2.3', 'service.instance.id': 'gw-1' })
  // The client's span lies within the server's, and the upstream belongs below it.
  if (server !== undefined && client !== undefined) t.ok(server.startNanos <= client.startNanos && client.startNanos < client.endNanos && client.endNanos <= server.endNanos)
  t.equal(upstream.requests[0]?.header('traceparent'), `00-${traceId}-${client?.spanId}-01`)
  t.equal(upstream.requests[0]?.header('tracestate'), 'vendor=x')
  t.ok(rig.logged.some((line) => line['message'] === 'exchange' && line['trace'] === traceId), 'the log can be joined with the trace')
  t.ok(receiver.headers.every((headers) => headers['authorization'] === 'Bearer receiver-token'))

  const point = (metric: string, type?: string) => receiver.points().find((each) => each.metric === metric && (type === undefined || each.attributes['gen_ai.token.type'] === type))
  const common = { 'gen_ai.operation.name': 'chat', 'gen_ai.provider.name': 'openai', 'gen_ai.request.model': 'test-model', 'server.address': '127.0.0.1', 'server.port': port }
  t.match(point('gen_ai.client.token.usage', 'input'), { unit: '{token}', count: 1, sum: 9, attributes: common })
  t.match(point('gen_ai.client.token.usage', 'output'), { sum: 4, bounds: [1, 4, 16, 64] })
  for (const metric of ['gen_ai.client.operation.duration', 'gen_ai.server.request.duration', 'gen_ai.server.time_to_first_token', 'gen_ai.server.time_per_output_token']) {
    t.match(point(metric), { unit: 's', count: 1, attributes: common, resource: { 'service.name': 'ai-front' } }, metric)
    t.ok((point(metric)?.sum ?? -1) >= 0)
  }
})

t.test('who has no trace begins one; who was not chosen is passed on all the same, and is not told', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const receiver = await startOtlpReceiver(t)
  const { telemetry } = await open(t, receiver, { sampleShare: 0 })
  const rig = await startRig(t, upstream.url, { telemetry })
  await rig.chat()
  await rig.chat({}, { traceparent: `00-${traceId}-${spanId}-00`, tracestate: 'a=1' })
  await rig.chat({}, { traceparent: 'nonsense', tracestate: 'a=1' })
  await rig.chat({}, { traceparent: sampledParent })
  await telemetry.close()
  const [none, unchosen, nonsense, chosen] = upstream.requests.map((request) => [request.header('traceparent'), request.header('tracestate')])
  t.match(none, [/^00-[0-9a-f]{32}-[0-9a-f]{16}-02$/, undefined])
  t.match(unchosen, [new RegExp(`^00-${traceId}-(?!${spanId})[0-9a-f]{16}-00$`), 'a=1'])
  t.match(nonsense, [/^00-[0-9a-f]{32}-[0-9a-f]{16}-02$/, undefined])
  t.match(chosen?.[0], new RegExp(`^00-${traceId}-`))
  t.equal(receiver.spans.length, 2, 'only the caller that had decided so is recorded')
  t.equal(receiver.points().find(({ metric }) => metric === 'gen_ai.client.operation.duration')?.count, 4, 'metrics count everybody')
})

t.test('what went wrong is told by its kind, and what a caller was refused has no call below it', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(openaiError(500, canaries.answer, 'x')))
  const receiver = await startOtlpReceiver(t)
  const { telemetry } = await open(t, receiver)
  const rig = await startRig(t, upstream.url, { telemetry, entitlements: '{ models: ["test-*", "known-*"] }', models, limits: ['{ name: calls, meter: requests, limit: 100, window: lifetime }'] })
  await rig.chat({ model: 'known-7b' })
  upstream.script = steps(reset)
  await rig.chat()
  upstream.script = steps(json(400, { error: { message: 'bad' } }))
  await rig.chat()
  await rig.chat({ model: 'other' })
  await rig.request({ method: 'POST', target: '/v1/chat/completions', key: 'tg-wrong-key-0123456789', body: '{}' })
  await rig.request({ method: 'POST', target: `/v1/${canaries.prompt}`, key: null })
  await telemetry.close()
  const told = (spans: readonly ReceivedSpan[]): unknown[] => spans.map((span) => [span.name, span.attributes['http.response.status_code'] ?? null, span.attributes['error.type'] ?? null, span.failed])
  t.same(told(byKind(receiver.spans, 3)), [['chat known-7b', 500, '500', true], ['chat test-model', null, 'upstream_broken', true], ['chat test-model', 400, '400', true]])
  const name = 'POST /v1/chat/completions'
  t.match(told(byKind(receiver.spans, 2)), [[name, 502, 'status_500', true], [name, 502, /^(ECONNRESET|UND_ERR_SOCKET)$/, true], [name, 400, null, false], [name, 403, null, false], [name, 401, null, false], ['POST', 404, null, false]])
  t.match(byKind(receiver.spans, 2)[3]?.attributes, { 'tallygate.refusal': 'feature_unavailable' })
  const errors = receiver.points().filter(({ metric }) => metric === 'gen_ai.client.operation.duration').map(({ attributes }) => [attributes['gen_ai.request.model'], attributes['error.type']])
  t.same(errors, [['known-*', '500'], ['test-model', 'upstream_broken'], ['test-model', '400']], 'models as the configuration names them')
  t.same(canariesIn(receiver.bodies.join('\n')), [])
})

t.test('I8: neither prompt nor answer nor key is told; W5: what a caller writes is bounded in spans and makes no series', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ pieces: [canaries.answer], model: 'm'.repeat(5_000) }))
  const receiver = await startOtlpReceiver(t)
  const { telemetry } = await open(t, receiver)
  const rig = await startRig(t, upstream.url, { telemetry, models })
  const messages = [{ role: 'user', content: canaries.prompt }]
  for (let i = 0; i < 40; i++) {
    await rig.chat({ model: `${i}-${'x'.repeat(240)}`, messages, user: canaries.prompt }, { Authorization: `Bearer ${i % 2 === 0 ? secrets.main : canaries.key}`, 'user-agent': canaries.prompt })
    await rig.request({ method: 'POST', target: `/v1/${canaries.prompt}/${i}?key=${canaries.key}`, key: null, body: canaries.prompt })
  }
  await telemetry.close()
  t.equal(byKind(receiver.spans, 3).length, 20)
  t.ok(receiver.spans.every((span) => JSON.stringify(span.attributes).length < 2_000 && span.name.length < 300))
  t.equal(receiver.points().filter(({ metric }) => metric === 'gen_ai.client.operation.duration').length, 1, 'forty names, one series')
  t.match(receiver.points()[0]?.attributes, { 'gen_ai.request.model': 'other' })
  t.same(canariesIn(receiver.bodies.join('\n')), [])
  t.notMatch(receiver.bodies.join('\n'), secrets.main)
})

t.test('nobody listens: calls go on as fast, memory is bounded, it is told once, and the end does not wait', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const receiver = await startOtlpReceiver(t)
  for (const [what, url, status] of [['no receiver', 'http://127.0.0.1:1', 200], ['one that never answers', receiver.url, 0], ['one that refuses', receiver.url, 400]] as const) {
    receiver.status = status
    const { telemetry, warned, metrics } = await open(t, { url })
    const rig = await startRig(t, upstream.url, { telemetry })
    const answers = await Promise.all(Array.from({ length: 40 }, () => rig.chat()))
    t.ok(answers.every((answer) => answer.status === 200), what)
    // What a busy hour brings: no more is kept than fits.
    const trace = telemetry.begin([])
    const call = { trace, id: 'x', startMs: 0, ms: 1, method: 'POST', path: null, endpoint: null, status: 200, end: 'complete', failure: null, account: null, key: null, plan: null, upstream: null }
    for (let i = 0; i < 10_000; i++) telemetry.ended(call)
    const before = heapMb()
    for (let i = 0; i < 100_000; i++) telemetry.ended(call)
    const grownMb = heapMb() - before
    t.ok(grownMb < 8, `${what}: ${grownMb.toFixed(0)} MB more after 100,000 further calls`)
    const startedMs = performance.now()
    await telemetry.close()
    const tookMs = performance.now() - startedMs
    t.ok(tookMs < 3_500, `${what}: closed after ${Math.round(tookMs)} ms`)
    if (status === 400) {
      t.ok(warned.length >= 1 && warned.length <= 2, 'told once for each signal')
      t.match(warned[0], { why: `${new URL(url).host}: status 400: it finds the request wrong` })
      t.match(await metrics.text(), /tallygate_telemetry_exports_total\{signal="traces",result="failed"\} [1-9]/)
    }
    if (status === 200) for (const { why } of warned as { why: string }[]) t.match(why, /^(nobody listens at|127\.0\.0\.1:1 )/, 'who it was')
    t.same(canariesIn(JSON.stringify(warned)), [])
  }
})

t.test('a receiver that comes back is told again', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const receiver = await startOtlpReceiver(t)
  const { telemetry, warned, metrics } = await open(t, receiver)
  const rig = await startRig(t, upstream.url, { telemetry })
  receiver.status = 400
  await rig.chat()
  await waitFor('the failure', () => warned.length === 1, { deadlineMs: 5_000 })
  receiver.status = 200
  await rig.chat()
  await waitFor('the spans', () => receiver.spans.length === 2 && warned.length === 2, { deadlineMs: 5_000 })
  t.match(warned, [{ signal: 'traces', why: '400' }, { signal: 'traces' }])
  t.match(await metrics.text(), /signal="traces",result="ok"\} 1/)
})

t.test('a stream that is under way when its time is over is told with its end', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(stall))
  const receiver = await startOtlpReceiver(t)
  const { telemetry } = await open(t, receiver)
  const rig = await startRig(t, upstream.url, { telemetry, server: '  timeouts: { first_byte: 100ms }' })
  await rig.chat()
  await telemetry.close()
  t.match(byKind(receiver.spans, 3)[0]?.attributes, { 'error.type': 'timed_out' })
  t.match(byKind(receiver.spans, 2)[0]?.attributes, { 'http.response.status_code': 504, 'error.type': 'upstream_timeout' })
})
