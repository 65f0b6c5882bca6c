// config/prometheus and config/grafana against a real Prometheus that scrapes a real gateway: every query is of series that there are, and answers.
// test: timeout 120 s
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { startPrometheus } from '../fixtures/prometheus.ts'
import { openScriptedUpstream, reset, steps } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { startReceiver, secretA } from '../notices/receiver.ts'
import { flexpriceDialect } from '../sinks/kit/dialects/flexprice.ts'
import { httpSubject } from '../sinks/kit/http-fake.ts'
import { chat, secret } from '../process/outside.ts'

t.setTimeout(110_000)

const config = fileURLToPath(new URL('../../config/', import.meta.url))
const read = (path: string): string => readFileSync(join(config, path), 'utf8')

const viewer = 'viewer-token-0123456789abcdef'

interface Scraping {
  global: Record<string, string>
  rule_files: string[]
  scrape_configs: { job_name: string; authorization?: { credentials_file: string }; static_configs: { targets: string[] }[] }[]
}
interface Target { readonly datasource?: { readonly uid: string }; readonly expr: string }
interface Panel { readonly id: number; readonly title: string; readonly type: string; readonly targets?: readonly Target[]; readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number } }
interface Board {
  readonly uid: string
  readonly panels: readonly Panel[]
  readonly annotations: { readonly list: readonly { readonly expr: string }[] }
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] }
}

/** Empty because nothing is wrong, or because nothing of the kind is configured here. */
const emptyWhenWell = new Set(['resets(tallygate_process_cpu_seconds_total{instance=~"$instance"}[1m]) > 0'])

const selectors = (expression: string): string[] => [...expression.matchAll(/\b(tallygate_\w+|up)(\{[^}]*\})?/g)].map(([all]) => all)

t.test('each query of the dashboard and of the alerts answers, from a gateway under a little traffic; no alert fires', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 1, cachedTokens: 3 }))
  const receiver = await startReceiver(t)
  const billing = await httpSubject(flexpriceDialect).start()
  t.teardown(() => billing.stop())
  const { api_key: apiKey } = billing.settings() as { api_key: string }
  const gateway = await startGatewayProcess(t, `
admin: { tokens: [{ name: prometheus, hash: "sha256:${hashOfSecret(viewer)}" }] }
upstreams: { model: { url: "${upstream.url}" } }
models: { test-model: { upstream: model } }
plans:
  process:
    policy: { output_default: 100 }
    limits:
      - { name: calls, meter: requests, limit: 100k, window: day }
      - { name: watched, meter: requests, limit: 1, window: lifetime, mode: shadow }
      - { name: parallel, meter: concurrency, limit: 100 }
keys: [{ id: dev, plan: process, hash: "sha256:${hashOfSecret(secret)}" }]
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
  - { name: billing, type: flexprice, url: "${billing.url}", private: true, api_key: "${apiKey}", customers: { dev: cus_1 } }
notifications: { webhooks: [{ url: "${receiver.url}", secret: "${secretA}" }] }
`)
  t.equal((await fetch(`${gateway.adminUrl}/metrics`, { headers: { authorization: 'Bearer wrong-token-0123456789' } })).status, 401, 'a token is needed')
  t.equal((await fetch(`${gateway.adminUrl}/metrics`, { headers: { authorization: `Bearer ${viewer}` } })).status, 200, 'any will do')
  t.equal((await fetch(`${gateway.url}/metrics`)).status, 404, 'callers are not told')

  const prometheus = await startPrometheus(t, (dir) => {
    // As shipped, but for where the gateway is, where its token lies, and how long we want to wait.
    const scraping = parse(read('prometheus/scrape.yml')) as Scraping
    writeFileSync(join(dir, 'rules.yml'), read('prometheus/rules.yml'))
    writeFileSync(join(dir, 'token'), viewer)
    const [job] = scraping.scrape_configs
    if (job?.authorization === undefined) throw new Error('the scrape configuration has no token')
    job.authorization.credentials_file = join(dir, 'token')
    job.static_configs = [{ targets: [new URL(gateway.adminUrl).host] }]
    return stringify({ ...scraping, global: { scrape_interval: '500ms', evaluation_interval: '1s' } })
  })
  const board = JSON.parse(read('grafana/tallygate.json')) as Board
  const queries = [...board.panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ where: title, expr }))), ...board.annotations.list.map(({ expr }) => ({ where: 'annotation', expr }))]
  const asked = (expr: string): string => expr.replaceAll('$__rate_interval', '10s').replaceAll('$instance', '.*')

  let running = true
  const traffic = (async () => {
    for (let i = 0; running; i++) {
      // Some are refused for their key, fail upstream, or have no usage told: not more than alerts put up with.
      upstream.script = i % 40 === 7 ? steps(reset) : openai({ everyMs: 1, cachedTokens: 3, usage: i % 40 === 9 ? 'never' : 'asked' })
      await chat(gateway.port, 'hello', { stream: i % 2 === 0, ...(i % 20 === 3 ? { key: 'tg-unknown-key-0123456789' } : {}) }).over
      await new Promise((resolve) => setTimeout(resolve, 40))
    }
  })()
  t.teardown(() => { running = false })

  const empty = async (): Promise<string[]> => {
    const answers = await Promise.all(queries.map(async ({ where, expr }) => ({ where, expr, samples: await prometheus.query(asked(expr)) })))
    return answers.filter(({ expr, samples }) => !emptyWhenWell.has(expr) && samples.every(({ value }) => Number.isNaN(value))).map(({ where, expr }) => `${where}: ${expr}`)
  }
  // What receivers have booked is known once somebody has asked.
  const compared = await waitFor('something to be billed and compared', async () => {
    const answer = await fetch(`${gateway.adminUrl}/api/v1/sinks/billing/reconciliation?period=${new Date().toISOString().slice(0, 7)}`, { headers: { authorization: `Bearer ${viewer}` } })
    const reconciliation = await answer.json() as { asked: string; unexplained: number }
    return reconciliation.asked === 'nothing' ? undefined : reconciliation
  }, { deadlineMs: 15_000, everyMs: 500 })
  t.equal(compared.unexplained, 0, JSON.stringify(compared))
  let left: string[] = []
  await waitFor('every query to answer', async () => {
    left = await empty()
    return left.length === 0
  }, { deadlineMs: 40_000, everyMs: 500 }).catch(() => undefined)
  t.same(left, [], `${queries.length} queries`)
  for (const expr of emptyWhenWell) {
    t.ok(queries.some((query) => query.expr === expr), 'it is still there')
    t.same(await prometheus.query(asked(expr)), [])
  }

  const { groups } = await prometheus.api('rules') as { groups: { rules: { name: string; query: string; health: string; state: string; lastError?: string }[] }[] }
  const rules = groups.flatMap((group) => group.rules)
  t.ok(rules.length >= 18)
  await waitFor('the rules to be evaluated', async () => {
    const now = await prometheus.api('rules') as { groups: { rules: { health: string }[] }[] }
    return now.groups.flatMap((group) => group.rules).every(({ health }) => health === 'ok')
  }, { deadlineMs: 15_000, everyMs: 200 })
  for (const { name, query, state, lastError } of rules) {
    t.equal(lastError ?? '', '', name)
    t.not(state, 'firing', `${name} is silent`)
    for (const selector of selectors(query)) t.ok((await prometheus.query(selector)).length > 0, `${name} looks at series that there are: ${selector}`)
  }
  const { activeTargets } = await prometheus.api('targets') as { activeTargets: { health: string; lastError: string }[] }
  t.match(activeTargets, [{ health: 'up', lastError: '' }])

  // The drop-down of the dashboard asks for the values of a label.
  for (const { definition } of board.templating.list) {
    const [, metric = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? []
    if (metric !== '') t.ok((await prometheus.query(metric))[0]?.metric[label], String(definition))
  }
  await t.rejects(prometheus.query('sum(rate(tallygate_requests_total'), /parse error|unclosed/, 'a query that is wrong would be seen')
  t.same(await prometheus.query('tallygate_no_such_metric'), [], 'and one of nothing')
  running = false
  await traffic
})

t.test('the dashboard is one that Grafana can draw: panels have places of their own, and queries name the data source', async (t) => {
  const { uid, panels } = JSON.parse(read('grafana/tallygate.json')) as Board
  t.equal(uid, 'tallygate')
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  t.equal(new Set(panels.map(({ title }) => title)).size, panels.length)
  for (const { title, targets = [], type, gridPos: { x, w } } of panels) {
    t.ok(x + w <= 24, title)
    t.ok(type === 'row' || targets.length > 0, title)
    for (const { datasource, expr } of targets) {
      t.equal(datasource?.uid, '${datasource}')
      t.match(expr, /instance=~"\$instance"/, 'it minds the chosen gateway')
    }
  }
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) => Array.from({ length: w * h }, (_, i) => `${x + (i % w)} ${y + Math.floor(i / w)}`))
  t.equal(new Set(cells).size, cells.length, 'none covers another')
})
