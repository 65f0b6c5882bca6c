// Several processes on one port: each sends what it saw, under a name of its own, and what is left when the gateway is stopped.
// test: timeout 90 s
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configOf } from '../process/outside.ts'
import { startOtlpReceiver } from './otlp-receiver.ts'

t.setTimeout(85_000)

t.test('workers send traces and metrics, each for itself, and all of it before they end', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const receiver = await startOtlpReceiver(t)
  const gateway = await startGatewayProcess(t, `
store: { url: "${redis.url}", spool: "{dir}/spool" }
instance: front
telemetry: { otlp: "${receiver.url}", sample: 100% }
${configOf({ upstream: upstream.url, server: '{ workers: 2, drain: { delay: 0s, timeout: 10s } }' })}`)
  await waitFor('both workers', () => gateway.output().includes('Tallygate is ready.'), { deadlineMs: 20_000 })
  const calls = 40
  for (let i = 0; i < calls; i++) t.equal(await chat(gateway.port, `call ${i}`, { stream: false }).over, true)
  t.equal(await gateway.stop(), 0)

  const servers = receiver.spans.filter(({ kind }) => kind === 2)
  t.equal(servers.length, calls)
  t.equal(new Set(servers.map(({ spanId }) => spanId)).size, calls, 'no two have one id')
  t.equal(receiver.spans.length, 2 * calls, 'each with its upstream\'s call')
  t.same(new Set(servers.map(({ resource }) => resource['service.instance.id'])), new Set(['front/1', 'front/2']))
  const durations = receiver.points().filter(({ metric }) => metric === 'gen_ai.client.operation.duration')
  t.same(new Set(durations.map(({ resource }) => resource['service.instance.id'])), new Set(['front/1', 'front/2']))
  t.equal(durations.reduce((sum, { count }) => sum + count, 0), calls)
  t.match(gateway.output(), /"worker":1[^\n]*"trace":"[0-9a-f]{32}"/)
})

t.test('an embedded store\'s gateway sends what is left when it is stopped; one without a receiver stops all the same', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const receiver = await startOtlpReceiver(t)
  const yaml = (url: string): string => `instance: single\ntelemetry: { otlp: "${url}", sample: 100% }\n${configOf({ upstream: upstream.url, server: '{ drain: { delay: 0s, timeout: 10s } }' })}`
  const gateway = await startGatewayProcess(t, yaml(receiver.url))
  await chat(gateway.port, 'hello').over
  t.equal(await gateway.stop(), 0)
  t.equal(receiver.spans.length, 2)
  t.match(receiver.points()[0]?.resource, { 'service.instance.id': 'single', 'service.name': 'tallygate' })
  gateway.configure(yaml('http://127.0.0.1:1'))
  await gateway.start()
  await chat(gateway.port, 'hello').over
  const startedMs = performance.now()
  t.equal(await gateway.stop(), 0)
  const tookMs = performance.now() - startedMs
  t.ok(tookMs < 10_000, `stopped after ${Math.round(tookMs)} ms`)
})
