// /metrics: what docs/metrics.md says is what comes out, and nothing that a caller sends makes a series.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Metrics, grown } from '../src/metrics.ts'
import { openai } from './fixtures/openai-scripts.ts'
import { json, openScriptedUpstream, reset, steps } from './fixtures/scripted-upstream.ts'
import { SeededRandom } from './sim/seeded-random.ts'
import { startRig, type Rig } from './gateway/exchange/rig.ts'

interface Documented { readonly name: string; readonly type: string; readonly labels: readonly string[] }

const text = readFileSync(new URL('../docs/metrics.md', import.meta.url), 'utf8')
const words = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, word = '']) => word)
const documented: readonly Documented[] = [...text.matchAll(/^\| `(tallygate_\w+)` \| (\w+) \|([^|]*)\|/gm)].map(([, name = '', type = '', labels = '']) => ({ name, type, labels: words(labels) }))

interface Sample { readonly name: string; readonly labels: Readonly<Record<string, string>>; readonly value: number }
interface Scrape { readonly types: ReadonlyMap<string, string>; readonly samples: readonly Sample[] }

function parsed(output: string): Scrape {
  const types = new Map([...output.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type] as const))
  const samples = [...output.matchAll(/^([a-z_]+)(?:\{(.*)\})? (\S+)$/gm)].map(([, name = '', labels = '', value]) => (
    { name, labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', each = '']) => [label, each])), value: Number(value) }))
  return { types, samples }
}

/** The family a sample belongs to: a histogram has three kinds of them. */
function familyOf(name: string, types: ReadonlyMap<string, string>): string {
  const base = name.replace(/_(bucket|sum|count)$/, '')
  return types.get(base) === 'histogram' ? base : name
}

const valueOf = (scrape: Scrape, name: string, labels: Record<string, string> = {}): number =>
  scrape.samples.filter((sample) => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value)).reduce((sum, { value }) => sum + value, 0)

const scrapeOf = async (rig: Rig): Promise<Scrape> => parsed(await rig.metrics.text())

t.test('the document names every metric with its type and labels, and no other', async (t) => {
  const metrics = new Metrics()
  const { types } = parsed(await metrics.text())
  const real = [...types].map(([name, type]) => ({ name, type, labels: (metrics.registry.getSingleMetric(name) as unknown as { labelNames: string[] }).labelNames }))
  const sorted = (list: readonly Documented[]): Documented[] => list.toSorted((a, b) => (a.name < b.name ? -1 : 1)).map(({ name, type, labels }) => ({ name, type, labels: labels.toSorted() }))
  t.same(sorted(documented), sorted(real))
  t.ok(real.every(({ name }) => name.startsWith('tallygate_')))
  t.ok(real.filter(({ type }) => type === 'counter').every(({ name }) => name.endsWith('_total')), 'counters say so')
})

t.test('what a busy gateway tells has the documented labels, with documented values', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 2 }))
  const rig = await startRig(t, upstream.url, {
    models: '  test-model: { upstream: model }\n  "known-*": { upstream: model }', entitlements: '{ models: ["*"], endpoints: [chat.completions, embeddings, models, "POST /rerank"] }',
    limits: ['{ name: calls, meter: requests, limit: 12, window: lifetime }', '{ name: watched, meter: requests, limit: 1, window: lifetime, mode: shadow }'],
  })
  for (const body of [{}, { stream: true, stream_options: { include_usage: true } }, { model: 'known-1', stream: true }, { model: 'free' }]) await rig.chat(body)
  await rig.request({ method: 'POST', target: '/rerank', body: '{}' })
  await rig.request({ method: 'POST', target: '/v1/chat/completions', key: 'tg-unknown-0123456789', body: '{}' })
  await rig.request({ method: 'GET', target: '/v1/chat/completions' })
  await rig.request({ target: '/v1/models' })
  upstream.script = steps(reset)
  await rig.chat()
  upstream.script = steps(json(500, { error: {} }))
  await rig.chat()
  upstream.script = openai({ inputTokens: 0, outputTokens: 0, pieces: [] })
  await rig.chat()
  upstream.script = openai()
  for (let i = 0; i < 12; i++) await rig.chat()
  await rig.settled()

  const scrape = await scrapeOf(rig)
  const names = new Map(documented.map((each) => [each.name, each]))
  const values = new Map([...text.matchAll(/^\| ((?:`\w+`(?:, )?)+)((?: of [\w ]+)?) \| ([^|]*) \|$/gm)].flatMap(([, labels = '', of = '', listed = '']) => words(labels).map((label) => [`${label}${of}`, words(listed)] as const)))
  const open = new Set(['model', 'upstream', 'plan', 'limit', 'sink', 'webhook', 'version', 'reason', 'le'])
  const scopes: Record<string, string> = { tallygate_tokens_total: ' of tokens', tallygate_zero_charges_total: ' of zero charges', tallygate_rejected_total: ' of rejected requests', tallygate_config_reloads_total: ' of reloads' }
  let seen = 0
  for (const { name, labels } of scrape.samples) {
    const family = familyOf(name, scrape.types)
    const has = Object.keys(labels).filter((label) => label !== 'le')
    if (!t.same(has.toSorted(), names.get(family)?.labels.toSorted(), family)) return
    for (const [label, value] of Object.entries(labels)) {
      const allowed = values.get(`${label}${scopes[family] ?? ''}`) ?? values.get(label)
      if (open.has(label) || family === 'tallygate_rejected_total') continue
      t.ok(allowed?.includes(value), `${family}: ${label}="${value}"`)
      seen += 1
    }
  }
  t.ok(seen > 50, `${seen} values`)
  t.same([...new Set(scrape.samples.map(({ labels }) => labels['model']).filter((model) => model !== undefined))].toSorted(), ['known-*', 'other', 'test-model'], 'models as the configuration names them')
  for (const name of ['requests_total', 'tokens_total', 'settlements_total', 'time_to_first_token_seconds_count', 'time_per_output_token_seconds_count', 'upstream_duration_seconds_count', 'gateway_overhead_seconds_count', 'store_seconds_count', 'bad_keys_total', 'shadow_refusals_total', 'process_cpu_seconds_total', 'process_resident_memory_bytes']) {
    t.ok(valueOf(scrape, `tallygate_${name}`) > 0, name)
  }
  t.equal(valueOf(scrape, 'tallygate_zero_charges_total', { provider: 'openai', why: 'zero' }), 1, 'an answer that was billed with nothing is told')
  t.equal(valueOf(scrape, 'tallygate_refusals_total', { reason: 'upstream_unavailable' }), 2)
  t.ok(valueOf(scrape, 'tallygate_refusals_total', { reason: 'usage_limit_reached' }) > 0)
})

t.test('W5: random methods, paths, models, keys, users and ids make not one series more', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const rig = await startRig(t, upstream.url, { models: '  test-model: { upstream: model }' })
  const random = new SeededRandom(20_261_122)
  const word = (): string => Array.from({ length: 1 + Math.floor(random.fraction() * 30) }, () => 'abcdefghijklmnopqrstuvwxyz0123456789-_'[Math.floor(random.fraction() * 38)]).join('')
  const hostile = ['"} 1\ntallygate_forged 1', '\\', '\u202e', '<script>', '__proto__', 'constructor', 'toString']
  const methods = ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'PROPFIND', 'M-SEARCH', 'LINK']
  const round = async (i: number): Promise<void> => {
    const name = i < hostile.length ? hostile[i]! : word()
    await rig.chat({ model: name, user: name, stream: i % 3 === 0 }, { 'x-request-id': word(), 'user-agent': word(), traceparent: word() })
    await rig.chat({}, { Authorization: `Bearer tg-${word()}-0123456789` })
    for (const key of [null, undefined]) await rig.request({ method: methods[i % methods.length]!, target: `/v1/${word()}/${word()}?${word()}=${word()}`, body: '{}', ...(key === undefined ? {} : { key }) })
    upstream.script = i % 5 === 0 ? steps(json(400 + (i % 100), { error: { message: name, type: name, code: name } })) : openai({ model: word() })
  }
  // Everything that there is once.
  for (let i = 0; i < 30; i++) await round(i)
  await rig.settled()
  const series = async (): Promise<string[]> => (await scrapeOf(rig)).samples.map(({ name, labels }) => `${name}${JSON.stringify(labels)}`).toSorted()
  const before = await series()
  t.notOk(before.some((each) => /forged|<script|__proto__|toString/.test(each)))
  for (let i = 30; i < 180; i++) await round(i)
  await rig.settled()
  t.same(await series(), before, `${before.length} series before and after`)
})

t.test('the gateway\'s own time is what it adds: not the upstream\'s, not the caller\'s sending, not waiting that the plan allows', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 300 }))
  const rig = await startRig(t, upstream.url, { policy: 'output_default: 100, wait: 5s', limits: ['{ name: parallel, meter: concurrency, limit: 1 }'] })
  // The second waits until the first is over.
  await Promise.all([rig.chat(), rig.chat()])
  const body = JSON.stringify({ model: 'test-model', messages: [{ role: 'user', content: 'Hello.' }] })
  const client = await rig.open({ method: 'POST', target: '/v1/chat/completions', headers: { 'content-length': String(body.length), 'content-type': 'application/json' } })
  await sleep(400)
  await client.send(body)
  t.equal((await client.readResponse()).status, 200)
  await rig.settled()
  const scrape = await scrapeOf(rig)
  t.equal(valueOf(scrape, 'tallygate_gateway_overhead_seconds_count'), 3)
  t.ok(valueOf(scrape, 'tallygate_request_duration_seconds_sum', { endpoint: 'chat.completions' }) > 1.5)
  t.ok(valueOf(scrape, 'tallygate_upstream_duration_seconds_sum') > 0.85)
  const own = valueOf(scrape, 'tallygate_gateway_overhead_seconds_sum')
  t.ok(own > 0 && own < 0.35, `${(own * 1000).toFixed(0)} ms over three calls`)
})

t.test('time to first token and per output token are those of streams', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ pieces: ['a', 'b', 'c', 'd', 'e'], outputTokens: 5, everyMs: 60 }))
  const rig = await startRig(t, upstream.url)
  await rig.chat({ stream: true, stream_options: { include_usage: true } })
  await rig.chat()
  await rig.settled()
  const scrape = await scrapeOf(rig)
  t.equal(valueOf(scrape, 'tallygate_time_to_first_token_seconds_count'), 1)
  t.equal(valueOf(scrape, 'tallygate_time_per_output_token_seconds_count'), 1)
  const each = valueOf(scrape, 'tallygate_time_per_output_token_seconds_sum')
  t.ok(each > 0.04 && each < 0.15, `${(each * 1000).toFixed(0)} ms for each token, 60 between them`)
})

t.test('what every call counts and measures is what was counted and measured, whenever it is read', async (t) => {
  const metrics = new Metrics()
  const random = new SeededRandom(4)
  const took: Record<string, number[]> = { chat: [], embeddings: [] }
  let tokens = 0
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 400; i++) {
      const endpoint = random.fraction() < 0.7 ? 'chat' : 'embeddings'
      // On the bounds as well: they belong to the bucket below.
      const seconds = random.fraction() < 0.2 ? 0.25 : random.fraction() ** 4 * 400
      took[endpoint]!.push(seconds)
      metrics.duration.observe({ endpoint }, seconds)
      metrics.requests.inc({ provider: 'openai', endpoint, outcome: i % 5 === 0 ? 'error' : 'complete' })
      metrics.tokens.inc({ provider: 'openai', model: 'small', type: 'input' }, i)
      tokens += i
    }
    const scrape = parsed(await metrics.text())
    for (const [endpoint, all] of Object.entries(took)) {
      const buckets = scrape.samples.filter(({ name, labels }) => name === 'tallygate_request_duration_seconds_bucket' && labels['endpoint'] === endpoint)
      t.same(buckets.map(({ labels, value }) => [labels['le'], value]), [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, Infinity].map((bound) => [bound === Infinity ? '+Inf' : String(bound), all.filter((each) => each <= bound).length]))
      t.equal(valueOf(scrape, 'tallygate_request_duration_seconds_count', { endpoint }), all.length)
      t.ok(Math.abs(valueOf(scrape, 'tallygate_request_duration_seconds_sum', { endpoint }) - all.reduce((sum, each) => sum + each, 0)) < 1e-6)
      t.equal(valueOf(scrape, 'tallygate_requests_total', { endpoint }), all.length)
    }
    t.equal(valueOf(scrape, 'tallygate_requests_total', { outcome: 'error' }), 80 * (round + 1))
    t.equal(valueOf(scrape, 'tallygate_tokens_total'), tokens)
    t.match(await metrics.text(), '# TYPE tallygate_request_duration_seconds histogram')
  }
})

t.test('several processes are one: counters and gauges add up, and what a process that is gone had counted stays', async (t) => {
  const [primary, worker, other] = [new Metrics(), new Metrics(), new Metrics()]
  primary.lastReload.set(1)
  primary.build.set({ version: '1.0.0' }, 1)
  for (const one of [primary, worker, other]) {
    one.storeAdmitting.set(1)
    one.reservations.set(2)
    one.overhead.observe(0.003)
    one.zeroCharges.inc({ provider: 'openai', why: 'zero' }, 1)
  }
  other.storeAdmitting.set(0)
  const all = parsed(await primary.text([await worker.snapshot(), await other.snapshot()]))
  t.equal(valueOf(all, 'tallygate_store_admitting'), 0, 'the worst of them')
  t.equal(valueOf(all, 'tallygate_config_last_reload_successful'), 1, 'only the first reads it')
  t.equal(valueOf(all, 'tallygate_reservations_open'), 6)
  t.equal(valueOf(all, 'tallygate_zero_charges_total'), 3)
  t.equal(valueOf(all, 'tallygate_build_info', { version: '1.0.0' }), 1)
  t.same([...all.types.keys()].toSorted(), documented.map(({ name }) => name).toSorted())
  const after = parsed(await primary.text([await grown([await worker.snapshot(), await other.snapshot()])]))
  t.equal(valueOf(after, 'tallygate_gateway_overhead_seconds_count'), 3)
  t.equal(valueOf(after, 'tallygate_reservations_open'), 2)
})
