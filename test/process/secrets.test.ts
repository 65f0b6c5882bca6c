// Invariant I8: keys, credentials, prompts and answers are in nothing that a gateway writes or tells: log, files, events, metrics, traces, notices, admin answers, pages.
// test: timeout 110 s
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { canaries, canariesIn } from '../fixtures/canaries.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { chatChunk, openai, openaiError } from '../fixtures/openai-scripts.ts'
import { chunk, head, openScriptedUpstream, reset, sse, sseHead, stall, steps, type Script } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { tallygate } from '../app/process.ts'
import { startReceiver, secretA } from '../notices/receiver.ts'
import { startOtlpReceiver } from '../telemetry/otlp-receiver.ts'
import { chat, linesOf, standing } from './outside.ts'

t.setTimeout(105_000)

const yaml = (upstream: string, webhook: string, otlp: string): string => `
server: { drain: { delay: 0s, timeout: 5s }, timeouts: { first_byte: 400ms } }
upstreams: { model: { url: "${upstream}", provider: [openai, anthropic], credential: "\${CANARY_UPSTREAM}" } }
plans:
  process:
    entitlements: { models: ["test-*"] }
    policy: { output_default: 100 }
    limits:
      - { name: calls, meter: requests, limit: 60, window: lifetime, notify: [10%] }
      - { name: budget, meter: total_tokens, limit: 100k, window: day }
keys:
  - { id: dev, plan: process, secret: "\${CANARY_KEY}" }
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
  - { name: out, type: stdout }
notifications: { webhooks: [{ url: "${webhook}", secret: "${secretA}" }] }
telemetry: { otlp: "${otlp}", headers: { authorization: "Bearer \${CANARY_UPSTREAM}" }, sample: 100% }
`

function filesIn(dir: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => join(dir, name)).filter((path) => statSync(path).isFile())
}

t.test('I8: planted secrets appear in no log, file, metric, event, admin answer or error, whatever went wrong', async (t) => {
  const normal: Script = (request, reply) => (request.target.startsWith('/v1/messages') ? anthropic({ pieces: [canaries.answer] }) : openai({ pieces: [canaries.answer] }))(request, reply)
  const upstream = await openScriptedUpstream(t, normal)
  const webhook = await startReceiver(t)
  const otlp = await startOtlpReceiver(t)
  const config = yaml(upstream.url, webhook.url, otlp.url)
  const env = { CANARY_KEY: canaries.key, CANARY_UPSTREAM: canaries.upstreamKey, TALLYGATE_LOG_LEVEL: 'trace' }
  const gateway = await startGatewayProcess(t, config, env)
  /** Everything that anyone but the caller of a good answer was told. */
  const told: string[] = []
  const ask = async (what: Parameters<typeof chat>[2] & object = {}, tag: string = canaries.prompt): Promise<number> => {
    const call = chat(gateway.port, tag, { key: canaries.key, prompt: canaries.prompt, ...what })
    await call.over
    told.push(JSON.stringify(call.headers))
    if (call.status !== 200) told.push(call.text)
    else t.match(call.text, canaries.answer, 'the answer itself arrives')
    return call.status
  }
  const raw = async (path: string, init: RequestInit): Promise<number> => {
    const answer = await fetch(`${gateway.url}${path}`, { method: 'POST', ...init })
    told.push(JSON.stringify([...answer.headers]), await answer.text())
    return answer.status
  }
  const auth = { authorization: `Bearer ${canaries.key}`, 'content-type': 'application/json' }

  t.equal(await ask({ stream: false }), 200)
  t.equal(await ask(), 200)
  t.equal(await ask({ stream: false, path: '/v1/messages' }), 200)
  t.equal(await ask({ path: '/v1/messages' }), 200)
  t.match(upstream.requests[0]?.header('authorization'), canaries.upstreamKey, 'the credential does go upstream')
  t.match(upstream.requests[0]?.body.toString(), canaries.prompt, 'and so does the prompt')
  t.notMatch(JSON.stringify(upstream.requests.map(({ headers }) => headers)), canaries.key, 'the caller\'s key does not')

  // What the caller does wrong.
  t.equal(await ask({ key: `${canaries.key}x` }), 401)
  t.equal(await raw('/v1/chat/completions', { headers: { ...auth, 'x-api-key': `${canaries.key}y` }, body: '{}' }), 400)
  t.equal(await raw('/v1/chat/completions', { headers: auth, body: `{"model":"test-model","messages":[{"content":"${canaries.prompt}"` }), 400)
  t.equal(await raw('/v1/chat/completions', { headers: auth, body: JSON.stringify({ model: 'test-model', messages: canaries.prompt }) }), 400)
  t.equal(await raw('/v1/chat/completions', { headers: { ...auth, 'content-type': 'text/plain' }, body: canaries.prompt }), 415)
  t.equal(await raw(`/v1/chat/completions?key=${canaries.key}`, { headers: { ...auth, authorization: '' }, body: JSON.stringify({ model: 'other', messages: [{ role: 'user', content: canaries.prompt }] }) }), 403)
  t.equal(await raw(`/v1/${canaries.prompt}?key=${canaries.key}`, { body: canaries.prompt }), 404, 'an endpoint that no plan names')
  t.equal(await ask({ prompt: `${canaries.prompt} `.repeat(30_000) }), 413)

  // What the upstream does wrong, with our credential and the prompt in its words.
  const words = `no: ${canaries.upstreamKey} ${canaries.prompt} ${canaries.answer}`
  for (const [status, script] of [
    [502, steps(openaiError(401, words, 'invalid_api_key'))], [502, steps(openaiError(500, words, 'x'))], [503, steps(openaiError(429, words, 'x'))],
    [502, steps(head(302, { Location: `http://127.0.0.1:1/${canaries.upstreamKey}`, 'Content-Length': '0' }))],
    [502, steps(words, reset)], [502, steps(reset)], [504, steps(stall)],
  ] as const) {
    upstream.script = script
    t.equal(await ask({ stream: false }), status)
  }
  upstream.script = steps(sseHead(), chunk(sse(chatChunk({ content: canaries.answer }))), chunk(`data: {"broken ${canaries.answer}\n\n`), reset)
  await ask()

  // A client that leaves, and a death in the middle.
  upstream.script = steps(sseHead(), chunk(sse(chatChunk({ content: canaries.answer }))), stall)
  const leaving = chat(gateway.port, canaries.prompt, { key: canaries.key })
  await waitFor('the first words', () => leaving.text.includes(canaries.answer))
  leaving.leave()
  const dying = chat(gateway.port, canaries.prompt, { key: canaries.key })
  await waitFor('the first words', () => dying.text.includes(canaries.answer))
  await gateway.kill()
  await gateway.start()
  upstream.script = normal
  t.equal(await ask(), 200)
  // A config with a mistake beside the secrets.
  gateway.configure(config.replace('window: day', 'windw: day'))
  gateway.signal('SIGHUP')
  await waitFor('the refusal', () => gateway.output().includes('windw'), { deadlineMs: 15_000 })
  gateway.configure(config)
  await linesOf(gateway, 8)
  await standing(gateway, canaries.key)
  await waitFor('a notice', () => webhook.received.length > 0, { deadlineMs: 15_000 })
  await waitFor('the spans', () => otlp.spans.length > 10, { deadlineMs: 15_000 })

  const admin = async (path: string): Promise<string> => {
    const answer = await fetch(`${gateway.adminUrl}${path}`)
    return `${path} ${answer.status} ${await beginningOf(answer)}`
  }
  const { paths } = JSON.parse((await admin('/api/v1/openapi.json')).replace(/^\S+ 200 /, '')) as { paths: Record<string, Record<string, unknown>> }
  const readable = Object.entries(paths).filter(([, methods]) => 'get' in methods).map(([path]) => path.replace('{id}', 'dev').replace('{name}', 'file'))
  const answers = await Promise.all([...readable, '/metrics', '/', '/api/v1/nothing'].map(admin))
  t.ok(answers.filter((text) => / 200 /.test(text.slice(0, 80))).length >= 8, `${answers.length} admin answers`)
  const printed = await tallygate(t, gateway.dir, ['check', '--print', '--config', 'tallygate.yaml'], env)
  t.equal(printed.code, 0)
  const usage = await (await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${canaries.key}` } })).text()
  t.match(usage, /"limits"/)

  const places = [
    ...filesIn(gateway.dir).map((path) => [path.slice(gateway.dir.length + 1), readFileSync(path)] as const),
    ['standard output and error', gateway.output()] as const, ['check --print', printed.out + printed.err] as const, ['/-/usage', usage] as const,
    ...answers.map((text) => [text.split(' ')[0] ?? '', text] as const), ...told.map((text, i) => [`answer ${i}`, text] as const),
  ]
  t.ok(places.some(([name]) => name.startsWith('data/journal')), 'the journal is among them')
  for (const [name, text] of places) t.same(canariesIn(text), [], name)
  t.equal(await gateway.stop(), 0)
  // What was told while it stopped is among it: metrics of models, the last spans.
  t.ok(otlp.points().length > 0 && otlp.spans.some(({ kind }) => kind === 3), 'traces and metrics were sent')
  t.match(otlp.headers[0]?.['authorization'], canaries.upstreamKey, 'with their own credential')
  t.same(canariesIn(otlp.bodies.join('\n')), [], `${otlp.bodies.length} messages to the OpenTelemetry receiver`)
  t.same(canariesIn(JSON.stringify(webhook.received)), [], `${webhook.received.length} notices`)
  for (const path of filesIn(gateway.dir)) t.same(canariesIn(readFileSync(path)), [], `after the end: ${path.slice(gateway.dir.length + 1)}`)
  t.same(canariesIn(gateway.output()), [])
  t.comment(`${places.length} places searched, ${places.reduce((sum, [, text]) => sum + text.length, 0)} bytes: 0 hits`)
})

/** The whole answer; of one that does not end by itself, the first part. */
async function beginningOf(answer: Response): Promise<string> {
  if (answer.headers.get('content-type') !== 'text/event-stream') return answer.text()
  const reader = answer.body?.getReader()
  let text = ''
  while (!text.includes('data:')) {
    const part = await reader?.read()
    if (part?.value === undefined) break
    text += Buffer.from(part.value).toString()
  }
  await reader?.cancel()
  return text
}
