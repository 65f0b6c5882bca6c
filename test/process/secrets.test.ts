// Invariant I8: keys, credentials, prompts and answers are in nothing that a gateway writes or tells: log, files, events, metrics, traces, notices, admin answers, pages.
// test: timeout 110 s
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { anthropic } from '../fixtures/anthropic-scripts.ts'
import { canaries, canariesIn } from '../fixtures/canaries.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { chatChunk, openai, openaiError } from '../fixtures/openai-scripts.ts'
import { chunk, head, openScriptedUpstream, reset, sse, sseHead, stall, steps, type Script } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { tallygate } from '../app/process.ts'
import { startReceiver } from '../notices/receiver.ts'
import { flexpriceDialect } from '../sinks/kit/dialects/flexprice.ts'
import { httpSubject } from '../sinks/kit/http-fake.ts'
import { startOtlpReceiver } from '../telemetry/otlp-receiver.ts'
import { chat, linesOf, standing } from './outside.ts'

t.setTimeout(105_000)

const webhookSecret = `whsec_${Buffer.from(canaries.webhookSecret).toString('base64')}`

interface Others { readonly upstream: string; readonly webhook: string; readonly billing: string; readonly otlp: string }

const yaml = ({ upstream, webhook, billing, otlp }: Others): string => `
admin: { tokens: [{ name: ops, hash: "sha256:${hashOfSecret(canaries.adminToken)}", role: admin }] }
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
  - { name: hook, type: webhook, url: "${webhook}", private: true, secrets: ["\${CANARY_WEBHOOK}"] }
  # Its key is refused; nobody listens for the others.
  - { name: billing, type: flexprice, url: "${billing}", private: true, api_key: "\${CANARY_SINK}", customers: { dev: cus_1 } }
  - { name: table, type: clickhouse, url: "http://127.0.0.1:1", private: true, database: default, username: tallygate, password: "\${CANARY_SINK}" }
  - { name: stream, type: kafka, brokers: ["127.0.0.1:1"], topic: usage, sasl: plain, username: tallygate, password: "\${CANARY_SINK}" }
notifications: { webhooks: [{ url: "${webhook}", secret: "\${CANARY_WEBHOOK}", headers: { x-token: "\${CANARY_SINK}" } }] }
telemetry: { otlp: "${otlp}", headers: { authorization: "Bearer \${CANARY_UPSTREAM}" }, sample: 100% }
`

function filesIn(dir: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => join(dir, name)).filter((path) => statSync(path).isFile())
}

t.test('I8: planted secrets appear in no log, file, metric, event, notice, trace, admin answer, page or error, whatever went wrong', async (t) => {
  const normal: Script = (request, reply) => (request.target.startsWith('/v1/messages') ? anthropic({ pieces: [canaries.answer] }) : openai({ pieces: [canaries.answer] }))(request, reply)
  const upstream = await openScriptedUpstream(t, normal)
  const webhook = await startReceiver(t, webhookSecret)
  const billing = await httpSubject(flexpriceDialect).start()
  t.teardown(() => billing.stop())
  const otlp = await startOtlpReceiver(t)
  const config = yaml({ upstream: upstream.url, webhook: webhook.url, billing: billing.url, otlp: otlp.url })
  const env = { CANARY_KEY: canaries.key, CANARY_UPSTREAM: canaries.upstreamKey, CANARY_SINK: canaries.sinkKey, CANARY_WEBHOOK: webhookSecret, TALLYGATE_LOG_LEVEL: 'trace' }
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
  const ofNotices = (): typeof webhook.received => webhook.received.filter(({ headers }) => headers['x-token'] === canaries.sinkKey)
  await waitFor('a notice', () => ofNotices().length > 0, { deadlineMs: 15_000 })
  await waitFor('an event by webhook', () => webhook.received.length > ofNotices().length, { deadlineMs: 15_000 })
  t.ok(webhook.received.every(({ verified }) => verified), 'the secret does sign')
  await waitFor('the sink whose key is refused to be paused', () => /"sink":"billing"[^\n]*the sink is paused/.test(gateway.output()), { deadlineMs: 15_000 })
  await waitFor('the spans', () => otlp.spans.length > 10, { deadlineMs: 15_000 })

  // A person logs in, and is known by a cookie from then on.
  const login = await fetch(`${gateway.adminUrl}/api/v1/login`, { method: 'POST', headers: { 'content-type': 'application/json', origin: gateway.adminUrl }, body: JSON.stringify({ token: canaries.adminToken }) })
  told.push(await login.text())
  const cookie = login.headers.get('set-cookie')?.split(';')[0] ?? ''
  const session = cookie.split('=')[1] ?? ''
  t.ok(login.status < 300 && session.length >= 20, 'a session')
  const wrong = await fetch(`${gateway.adminUrl}/api/v1/login`, { method: 'POST', headers: { 'content-type': 'application/json', origin: gateway.adminUrl }, body: JSON.stringify({ token: `${canaries.adminToken}x` }) })
  t.equal(wrong.status, 401)
  told.push(await wrong.text())
  const changed = await fetch(`${gateway.adminUrl}/api/v1/keys`, { method: 'POST', headers: { 'content-type': 'application/json', origin: gateway.adminUrl, cookie }, body: JSON.stringify({ id: 'made', plan: 'process' }) })
  const { secret: made = '' } = await changed.json() as { secret?: string }
  t.match(made, /^tg[_-]/, 'a key is made; its secret is told once, to who made it')

  /** By the token, or by the cookie. */
  let turn = 0
  const admin = async (path: string): Promise<string> => {
    const answer = await fetch(`${gateway.adminUrl}${path}`, { headers: (turn += 1) % 2 === 0 ? { cookie } : { authorization: `Bearer ${canaries.adminToken}` } })
    return `${path} ${answer.status} ${JSON.stringify([...answer.headers])} ${await beginningOf(answer)}`
  }
  const { paths } = JSON.parse((await admin('/api/v1/openapi.json')).replace(/^\S+ 200 \[.*?\]\] /, '')) as { paths: Record<string, Record<string, unknown>> }
  const readable = Object.entries(paths).filter(([, methods]) => 'get' in methods).flatMap(([path]) => (path.includes('{name}') ? ['file', 'billing', 'hook'].map((name) => path.replace('{name}', name)) : [path.replace('{id}', 'dev')]))
  const answers = await Promise.all([...readable, '/metrics', '/', '/accounts/dev', '/api/v1/nothing'].map(admin))
  t.ok(answers.filter((text) => / 200 /.test(text.slice(0, 80))).length >= 8, `${answers.length} admin answers`)
  const printed = await tallygate(t, gateway.dir, ['check', '--print', '--config', 'tallygate.yaml'], env)
  t.equal(printed.code, 0)
  const usage = await (await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${canaries.key}` } })).text()
  t.match(usage, /"limits"/)
  const page = await (await fetch(`${gateway.url}/-/usage`, { headers: { accept: 'text/html' } })).text()
  t.match(page, /<html/)
  const commands = await Promise.all([['sinks', 'list'], ['notices'], ['audit'], ['keys', 'list'], ['events', 'dead'], ['usage', '--format', 'focus', '--since', '1h']].map((args) => tallygate(t, gateway.dir, [...args, '--config', 'tallygate.yaml'], env)))
  t.same(commands.map(({ code }) => code), commands.map(() => 0))

  const places = [
    ...filesIn(gateway.dir).map((path) => [path.slice(gateway.dir.length + 1), readFileSync(path)] as const),
    ['standard output and error', gateway.output()] as const, ['check --print', printed.out + printed.err] as const, ['/-/usage', usage] as const, ['/-/usage as a page', page] as const,
    ...commands.map(({ out, err }, i) => [`command ${i}`, out + err] as const),
    ...answers.map((text) => [text.split(' ')[0] ?? '', text] as const), ...told.map((text, i) => [`answer ${i}`, text] as const),
  ]
  t.ok(places.some(([name]) => name.startsWith('data/journal')), 'the journal is among them')
  for (const [name, text] of places) {
    t.same(canariesIn(text), [], name)
    for (const own of [session, made]) t.notOk(text.includes(own), `${name}: neither the session nor the new key`)
  }
  t.equal(await gateway.stop(), 0)
  // What was told while it stopped is among it: metrics of models, the last spans.
  t.ok(otlp.points().length > 0 && otlp.spans.some(({ kind }) => kind === 3), 'traces and metrics were sent')
  t.match(otlp.headers[0]?.['authorization'], canaries.upstreamKey, 'with their own credential')
  t.same(canariesIn(otlp.bodies.join('\n')), [], `${otlp.bodies.length} messages to the OpenTelemetry receiver`)
  t.same(canariesIn(JSON.stringify(webhook.received.map(({ headers: { 'x-token': _own, ...headers }, body }) => ({ headers, body })))), [], `${webhook.received.length} notices and events`)
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
