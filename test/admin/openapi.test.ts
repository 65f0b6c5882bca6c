// The document of the admin API is held against the server that runs: every operation with a valid example and with wrong input, every answer against its schema.
// test: timeout 120 s

import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { createServer, get as httpGet } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { z } from 'zod'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'

type Json = Readonly<Record<string, unknown>>

interface Parameter { readonly name: string; readonly in: 'path' | 'query'; readonly required: boolean; readonly schema: Json }
interface Content { readonly content: Readonly<Record<string, { readonly schema: Json }>> }
interface Operation {
  readonly security: readonly unknown[]
  readonly 'x-tallygate-role'?: 'viewer' | 'admin'
  readonly parameters: readonly Parameter[]
  readonly requestBody?: Content
  readonly responses: Readonly<Record<string, Partial<Content>>>
}
interface Document { readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>; readonly components: { readonly schemas: Readonly<Record<string, Json>>; readonly securitySchemes: Readonly<Record<string, Json>> } }

/** A valid call of one operation. Values of the path by their names. */
interface Example {
  readonly path?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string>>
  readonly body?: Json
}

const day = 86_400_000
const opsToken = 'ops-token-0123456789abcdef'
const viewToken = 'view-token-0123456789abcdef'
const rpm = { name: 'rpm', meter: 'requests', limit: 60, window: '1m' }

/** In this order: what is made by one is used by the next. A new operation needs an example here. */
const examples: Readonly<Record<string, readonly Example[]>> = {
  'GET /': [{}],
  'GET /accounts': [{ query: { search: 'ac', sort: 'cost' } }],
  'GET /accounts/{id}': [{ path: { id: 'acme' } }, { path: { id: 'some one' } }],
  'GET /plans': [{}],
  'GET /sinks': [{}],
  'GET /sinks/{id}': [{ path: { id: 'file' } }],
  'GET /events': [{}],
  'GET /events/{id}': [{ path: { id: '{event}' } }],
  'GET /notices': [{}],
  'GET /assets/{version}/{file}': [{ path: { version: '{version}', file: 'main.ts' } }, { path: { version: '{version}', file: 'dashboard.css' } }],
  'GET /metrics': [{}],
  'GET /upstreams/{name}/health': [{ path: { name: 'model' } }],
  'GET /upstreams/{name}/metrics': [{ path: { name: 'model' } }],
  'GET /api/v1/openapi.json': [{}],
  'POST /api/v1/login': [{ body: { token: opsToken } }],
  'GET /api/v1/session': [{}],
  'POST /api/v1/logout': [{ body: {} }],
  'GET /api/v1/health': [{}],
  'GET /api/v1/config': [{}],
  'POST /api/v1/config/reload': [{ body: {} }],
  'POST /api/v1/accounts/{id}': [
    { path: { id: 'globex' }, body: { plan: 'pro', timezone: 'Europe/Berlin', billing_anchor: '2026-01-15', labels: { team: 'ml' }, add_ons: ['more'], limits: [rpm], entitlements: { models: ['m'] }, revision: 0, change: 'signup-1' } },
    { path: { id: 'globex' }, body: { limits: '[{ name: rpm, meter: requests, limit: 30, window: 1m }]', revision: 1 } },
    { path: { id: 'gone' }, body: { plan: 'free' } },
  ],
  'GET /api/v1/accounts': [
    {}, { query: { forecast: 'true' } }, { query: { limit: '2', offset: '1' } }, { query: { limit: '10', search: 'SMB', suspended: 'false' } }, { query: { search: 'nothing-like-it' } },
    ...['id', 'plan', 'keys', 'forecast', 'requests', 'total_tokens', 'cost', 'refused'].flatMap((sort) => [{ query: { sort, limit: '10' } }, { query: { sort, order: 'desc' } }]),
  ],
  'GET /api/v1/accounts/{id}': [{ path: { id: 'globex' } }, { path: { id: 'acme' } }, { path: { id: 'solo' } }],
  'DELETE /api/v1/accounts/{id}': [{ path: { id: 'gone' }, query: { revision: '1' } }, { path: { id: 'gone' } }],
  'POST /api/v1/accounts/{id}/suspend': [{ path: { id: 'globex' }, body: { reason: 'unpaid' } }],
  'POST /api/v1/accounts/{id}/resume': [{ path: { id: 'globex' } }],
  'GET /api/v1/plans': [{}],
  'POST /api/v1/keys': [{ body: { account: 'globex', id: 'g1', expires_in: '30d', change: 'order-1' } }, { body: { account: 'globex', id: 'g1', change: 'order-1' } }, { body: { plan: 'free' } }],
  'GET /api/v1/keys': [{}],
  'GET /api/v1/keys/{id}': [{ path: { id: 'g1' } }, { path: { id: 'acme-1' } }],
  'POST /api/v1/keys/{id}/rotate': [{ path: { id: 'g1' }, body: { grace: '1h', change: 'rotate-1' } }, { path: { id: 'g1' }, body: { change: 'rotate-1' } }],
  'POST /api/v1/keys/{id}/revoke': [{ path: { id: 'g1' }, body: { reason: 'lost' } }],
  'DELETE /api/v1/keys/{id}/revocation': [{ path: { id: 'g1' } }],
  'POST /api/v1/subscriptions/{account}': [{ path: { account: 'globex' }, body: { term: 'year', renewal: 'none', start: new Date(Date.now() - 30 * day).toISOString().slice(0, 10), grace: '14d', seats: 5, plan: 'free', add_ons: 'more', change: 'sub-1' } }],
  'GET /api/v1/subscriptions': [{}],
  'GET /api/v1/subscriptions/{account}': [{ path: { account: 'globex' } }],
  'POST /api/v1/subscriptions/{account}/renew': [{ path: { account: 'globex' }, body: { revision: 1 } }],
  'POST /api/v1/subscriptions/{account}/cancel': [{ path: { account: 'globex' }, body: { at: 'now' } }],
  'DELETE /api/v1/subscriptions/{account}': [{ path: { account: 'globex' }, query: { revision: '3' } }, { path: { account: 'globex' } }],
  'POST /api/v1/grants': [{ body: { account: 'acme', limit: 'monthly', amount: '500k', id: 'promo-1', expires: '2099-01-01', note: 'welcome' } }, { body: { account: 'acme', limit: 'monthly', amount: 10, id: 'promo-2' } }],
  'GET /api/v1/grants': [{}, { query: { account: 'acme' } }],
  'DELETE /api/v1/grants/{account}/{id}': [{ path: { account: 'acme', id: 'promo-2' }, query: { reason: 'mistake' } }],
  'GET /api/v1/breakage': [{}],
  'GET /api/v1/audit': [{ query: { limit: '5' } }, { query: { target: 'globex' } }],
  'GET /api/v1/usage': [{ query: { by: 'account,model', bucket: 'day' } }, {}],
  'GET /api/v1/events': [{ query: { since: '1h', limit: '10' } }, {}],
  'GET /api/v1/events/{id}': [{ path: { id: '{event}' } }],
  'GET /api/v1/events/dead': [{}],
  'POST /api/v1/events/dead/retry': [{ body: {} }],
  'POST /api/v1/events/replay': [{ body: { sink: 'file', since: '1h' } }],
  'GET /api/v1/sinks': [{}],
  'POST /api/v1/sinks/{name}/retry': [{ path: { name: 'file' } }],
  'GET /api/v1/sinks/{name}/reconciliation': [{ path: { name: 'file' }, query: { period: new Date().toISOString().slice(0, 7) } }],
  'POST /api/v1/sinks/{name}/reconciliation': [{ path: { name: 'file' }, body: { period: new Date().toISOString().slice(0, 7) } }],
  'GET /api/v1/usage/focus': [{}, { query: { bucket: 'hour', account: 'acme' } }],
  'GET /api/v1/events/quarantined': [{}, { query: { sink: 'file' } }],
  'POST /api/v1/events/quarantined/release': [{ body: { sink: 'file', how: 'drop' } }],
  'POST /api/v1/events/{id}/credit': [{ path: { id: '{event}' }, body: { sink: 'file' } }],
  'GET /api/v1/invoices/{account}': [{ path: { account: 'acme' }, query: { period: 'current', with: 'children' } }, { path: { account: 'acme' } }],
  'GET /api/v1/explain/{id}': [{ path: { id: '{event}' } }],
  'GET /api/v1/simulation/state': [{}],
  'GET /api/v1/notices': [{ query: { limit: '10' } }, {}],
  'GET /api/v1/store': [{}],
  'GET /api/v1/analytics': [{}],
  'GET /api/v1/analytics/usage': [
    {}, { query: { from: '2h', to: '1m', unit: 'minute', by: 'account,key,plan,model,endpoint,upstream,end,status', series: 'true' } },
    { query: { from: '30d', unit: 'auto', by: 'account', top: '3', order: 'cost', percentiles: 'false' } }, { query: { by: 'model', account: 'acme', key: 'acme-1', model: 'm', order: 'output_tokens' } },
    { query: { plan: 'pro', endpoint: 'nothing', upstream: 'model', end: 'complete', status: '200' } },
  ],
  'GET /api/v1/analytics/refusals': [
    {}, { query: { from: '1h', unit: 'minute', by: 'account,key,limit,reason,model', series: 'true' } }, { query: { by: 'reason', top: '1', account: 'tight', key: 'tight', limit: 'once', reason: 'nothing', model: 'm' } },
  ],
  'GET /api/v1/refusals': [{}, { query: { account: 'tight', limit: 'once', count: '1' } }],
  'GET /api/v1/live': [{}],
  'POST /api/v1/analytics/rebuild': [{ body: {} }],
}

const secret = 'tg-test-openapi-0123456789'
const sha = (of: string): string => createHash('sha256').update(of).digest('hex')

const yaml = (model: string): string => `
admin:
  tokens: [{ name: ops, hash: "sha256:${sha(opsToken)}", role: admin }, { name: view, hash: "sha256:${sha(viewToken)}", role: viewer }]
upstreams: { model: { url: "${model}", provider: openai } }
prices: { standard: { currency: USD, version: 2026-01, models: { "*": { input_tokens: 1/k, output_tokens: { graduated: [{ up_to: 100, price: 2/k }, { price: 1/k }] }, requests: 0.0001 } } } }
plans:
  tight: { entitlements: { models: [m] }, limits: [{ name: once, meter: requests, limit: 1, window: day }] }
  free: { public: true, limits: [{ name: rpm, meter: requests, limit: 100, window: 1m }] }
  pro:
    prices: standard
    fees: [{ name: Base, amount: 49 }]
    limits: [{ name: monthly, meter: total_tokens, limit: 1M, window: billing_period, overdraft: 10% }, { name: spend, meter: cost, limit: 50, window: month }, { name: seats, meter: seats, limit: 5, linger: 1m }]
add_ons: { more: { limits: [{ name: monthly, limit: +1M }] } }
accounts:
  acme: { plan: pro, labels: { segment: smb } }
  team: { parent: acme }
  trial: { plan: free, subscription: { kind: trial, start: 2026-01-01, trial_end: 2099-01-01 } }
keys:
  - { id: acme-1, account: acme, secret: "${secret}" }
  - { id: team-1, account: team, secret: "${secret}-team" }
  - { id: tight, plan: tight, secret: "${secret}-tight" }
  - { id: solo, plan: free, secret: "${secret}-solo" }
sinks: [{ name: file, type: file, path: "{dir}/events.ndjson" }]
`

/** The data of the first two server-sent events. */
async function someEvents(response: Response): Promise<readonly unknown[]> {
  const found: unknown[] = []
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk
    const whole = text.split('\n\n')
    text = whole.pop() ?? ''
    for (const event of whole) if (event.startsWith('data: ')) found.push(JSON.parse(event.slice('data: '.length)))
    if (found.length >= 2) break
  }
  return found
}

async function startModel(): Promise<{ url: string; close(): void }> {
  const server = createServer((request, response) => {
    request.resume()
    if (request.method === 'GET') {
      response.writeHead(200, { 'content-type': 'text/plain' }).end('fine')
      return
    }
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ id: 'x', object: 'chat.completion', model: 'm', choices: [{ index: 0, message: { role: 'assistant', content: 'hi' }, finish_reason: 'stop' }], usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 } }))
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => { server.closeAllConnections(); server.close() } }
}

t.test('the document says what the server does', { timeout: 110_000 }, async (t) => {
  const model = await startModel()
  t.teardown(() => model.close())
  const gateway = await startGatewayProcess(t, yaml(model.url))
  const callAs = (key: string, of = 'm'): Promise<Response> => fetch(`${gateway.url}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' }, body: JSON.stringify({ model: of, max_tokens: 20, messages: [{ role: 'user', content: 'hello' }] }),
  })
  const called = await callAs(secret)
  t.equal(called.status, 200, await called.text())
  const event = called.headers.get('x-request-id') ?? ''
  for (const [of, status] of [['m', 200], ['m', 429], ['another', 403]] as const) {
    const answer = await callAs(`${secret}-tight`, of)
    t.equal(answer.status, status, await answer.text())
  }
  const document = await (await fetch(`${gateway.adminUrl}/api/v1/openapi.json`)).json() as Document
  const page = await (await fetch(`${gateway.adminUrl}/`)).text()
  const version = /\/assets\/([^/]+)\//.exec(page)?.[1] ?? ''

  const send = (method: string, path: string, more: { token?: string | null; body?: unknown; raw?: string; type?: string; headers?: Readonly<Record<string, string>>; to?: string } = {}): Promise<Response> => {
    const { token = opsToken, body, raw, type = 'application/json', headers = {}, to = gateway.adminUrl } = more
    const text = raw ?? (body === undefined ? undefined : JSON.stringify(body))
    return fetch(`${to}${path}`, {
      method, ...(text === undefined ? {} : { body: text }), headers: { ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...(text === undefined ? {} : { 'content-type': type }), ...headers },
    })
  }
  const filled = (path: string, values: Readonly<Record<string, string>> = {}): string => path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent((values[name] ?? 'nothing-like-it').replace('{event}', event).replace('{version}', version)))
  const operations = Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, method: method.toUpperCase(), path, operation })))
  const operationOf = new Map(operations.map((each) => [each.name, each]))
  const schemaOf = (schema: Json): z.ZodType => z.fromJSONSchema({ ...(schema['$ref'] === '#/components/schemas/Problem' ? document.components.schemas['Problem'] : schema) } as Parameters<typeof z.fromJSONSchema>[0])

  /** The answer's status and content type are documented, and its body is as its schema says. Gives the body. */
  const asDocumented = async (t: Test, what: string, { responses }: Operation, response: Response, wanted: readonly number[]): Promise<unknown> => {
    const type = response.headers.get('content-type')?.split(';')[0] ?? ''
    const text = type === 'text/event-stream' ? JSON.stringify(await someEvents(response)) : await response.text()
    t.ok(wanted.includes(response.status), `${what}: ${response.status}, and not ${wanted.join(' or ')}: ${text.slice(0, 300)}`)
    const documented = responses[String(response.status)]
    if (documented === undefined) return t.fail(`${what}: ${response.status} is not documented`)
    if (type === '' && text === '' && documented.content === undefined) return text
    const content = documented.content?.[type] ?? documented.content?.['*/*']
    if (content === undefined) return t.fail(`${what}: ${type} is not documented for ${response.status}`)
    if (!type.endsWith('json') && type !== 'text/event-stream') return text
    const body = JSON.parse(text) as unknown
    for (const one of type === 'text/event-stream' ? body as readonly unknown[] : [body]) {
      const read = schemaOf(content.schema).safeParse(one)
      t.ok(read.success, `${what}: ${read.success ? 'as its schema says' : `${z.prettifyError(read.error)}\n${text.slice(0, 1_500)}`}`)
    }
    return body
  }

  await t.test('every operation has an example here, and a schema for its answer', async (t) => {
    t.same(operations.map(({ name }) => name).filter((name) => examples[name] === undefined), [], 'operations without an example')
    t.same(Object.keys(examples).filter((name) => !operationOf.has(name)), [], 'examples without an operation')
    for (const { name, operation } of operations) {
      const [success] = Object.entries(operation.responses).find(([status]) => status.startsWith('2')) ?? []
      const content = success === undefined ? undefined : operation.responses[success]?.content
      const json = content?.['application/json'] ?? content?.['text/event-stream']
      if (json !== undefined && name !== 'GET /api/v1/openapi.json') t.ok(json.schema['properties'] !== undefined || json.schema['anyOf'] !== undefined || json.schema['oneOf'] !== undefined, `${name} says what its answer looks like`)
    }
  })

  await t.test('the list for people has every operation of the API, and no other', (t) => {
    const listed = [...readFileSync(new URL('../../docs/admin-api.md', import.meta.url), 'utf8').matchAll(/^\| `(\/api\/[^`]+)` \| ([^|]+) \|/gm)]
      .flatMap(([, path, methods = '']) => [...methods.matchAll(/`(\w+)`/g)].map(([, method]) => `${method} ${path}`))
    t.same(listed.sort(), operations.filter(({ path }) => path.startsWith('/api/')).map(({ name }) => name).sort())
    t.end()
  })

  await t.test('every operation answers a valid example as documented', async (t) => {
    await waitFor('the event to be there', async () => (await send('GET', `/api/v1/events/${event}`)).status === 200)
    for (const [name, list] of Object.entries(examples)) {
      const found = operationOf.get(name)
      if (found === undefined) continue
      const success = Object.keys(found.operation.responses).map(Number).filter((status) => status >= 200 && status < 300)
      for (const { path, query, body } of list) {
        const search = query === undefined ? '' : `?${new URLSearchParams(query).toString()}`
        await asDocumented(t, name, found.operation, await send(found.method, `${filled(found.path, path)}${search}`, body === undefined ? {} : { body }), success)
      }
    }
  })

  await t.test('figures of traffic and refusals are told, and no list that should hold something is empty', async (t) => {
    const told = async (path: string, query: Readonly<Record<string, string>> = {}): Promise<Json> => {
      const { operation } = operationOf.get(`GET ${path.replace(/\/accounts\/\w+$/, '/accounts/{id}')}`)!
      return await asDocumented(t, path, operation, await send('GET', `${path}?${new URLSearchParams(query).toString()}`), [200]) as Json
    }
    const rowsOf = (answer: Json, name = 'rows'): readonly Json[] => answer[name] as readonly Json[]
    const every = 'account,key,plan,model,endpoint,upstream,end,status'
    // Made again, by the last of the examples: what was counted before is still told until that begins.
    await waitFor('the roll-ups to be made again', async () => {
      const { state, behind } = await told('/api/v1/analytics')
      return state === 'current' && behind === 0
    })
    await waitFor('both calls to be counted', async () => rowsOf(await told('/api/v1/analytics/usage', { by: every })).length === 2)
    await waitFor('both refusals to be counted', async () => rowsOf(await told('/api/v1/analytics/refusals', { by: 'reason' })).length === 2)
    t.match(await told('/api/v1/analytics'), { state: 'current', behind: 0, kept: { minute: '2d', hour: '45d', day: '800d', month: '3660d' }, missed: 0, failure: null })
    t.match(rowsOf(await told('/api/v1/analytics/usage', { by: every, series: 'true', account: 'acme' })), [{
      from: String, account: 'acme', key: 'acme-1', plan: 'pro', model: 'm', upstream: 'model', end: String, status: '200', events: 1, requests: 1, input_tokens: 10, output_tokens: 5, total_tokens: 15, cost: { USD: /^0\.0\d+$/ }, p50_ms: Number,
    }])
    const byAccount = rowsOf(await told('/api/v1/analytics/usage', { by: 'account' }))
    t.match(byAccount.find(({ account }) => account === 'tight'), { requests: 1, refused: 2 })
    t.match(byAccount.find(({ account }) => account === 'acme'), { requests: 1, refused: 0 })
    t.same(rowsOf(await told('/api/v1/analytics/refusals', { by: 'account,key,limit,model' })), [
      { account: 'tight', key: 'tight', limit: '', model: 'another', refused: 1 }, { account: 'tight', key: 'tight', limit: 'once', model: 'm', refused: 1 },
    ])
    t.match(rowsOf(await told('/api/v1/refusals'), 'refusals'), [
      { account: 'tight', key: 'tight', limit: null, model: 'another', ceiling: null, used: null, remaining: null, resets_at: null },
      { account: 'tight', key: 'tight', limit: 'once', model: 'm', ceiling: 1, used: 1, remaining: 0, resets_at: String },
    ])
    const [now] = await told('/api/v1/live') as unknown as readonly Json[]
    t.match(now, { sinks: [{ name: 'file', lag: Number, dead: 0 }], analytics_lag: Number })
    const [mine] = rowsOf(await told('/api/v1/accounts', { limit: '1', search: 'tight', sort: 'refused' }), 'accounts')
    t.match(mine, { id: 'tight', limits_now: [{ name: 'once', limit: 1, used: 1, remaining: 0, resets_at: String }], usage_30d: { requests: 1, total_tokens: 15, cost: {}, refused: 2 } })
    t.match(rowsOf(await told('/api/v1/accounts', { sort: 'cost', limit: '1' }), 'accounts'), [{ id: 'acme', usage_30d: { cost: { USD: String } } }], 'who costs most')
    const all = rowsOf(await told('/api/v1/accounts'), 'accounts')
    t.ok(all.length > 3 && all.every((account) => !('forecast_at' in account) && !('limits_now' in account)), 'all of them are told without a look at their limits')
    t.ok(rowsOf(await told('/api/v1/accounts', { forecast: 'true' }), 'accounts').every((account) => 'forecast_at' in account))
    t.match(await told('/api/v1/accounts/acme'), { standing: { limits: [{ name: 'monthly', used: 15 }], grants: [{ id: 'promo-1', limit: 'monthly', amount: 500_000 }] } })
  })

  await t.test('a login, its session and its end are as documented, and so are those that are refused', async (t) => {
    const origin = gateway.adminUrl
    const asked = async (name: string, response: Promise<Response>, status: number): Promise<Response> => {
      const answer = await response
      await asDocumented(t, name, operationOf.get(name)!.operation, answer.clone(), [status])
      return answer
    }
    const open = await asked('POST /api/v1/login', send('POST', '/api/v1/login', { token: null, body: { token: opsToken }, headers: { origin } }), 200)
    const cookie = open.headers.get('set-cookie')?.split(';')[0] ?? ''
    const { in: place, name } = document.components.securitySchemes['session'] ?? {}
    t.equal(place, 'cookie')
    t.equal(cookie.split('=')[0], name)
    const mine = { token: null, headers: { cookie, origin } }
    t.same(await (await asked('GET /api/v1/session', send('GET', '/api/v1/session', mine), 200)).json(), { name: 'ops', role: 'admin', by: 'session' })
    for (const { name: of, method, operation } of operations) {
      const [example] = examples[of] ?? []
      if (method === 'GET' && example !== undefined && operation.security.length > 0 && of !== 'GET /api/v1/live') {
        t.not((await send('GET', filled(of.slice('GET '.length), example.path), mine)).status, 401, `${of} with a session`)
      }
    }
    await asked('POST /api/v1/accounts/{id}/suspend', send('POST', '/api/v1/accounts/globex/suspend', { ...mine, body: {} }), 200)
    await asked('POST /api/v1/accounts/{id}/resume', send('POST', '/api/v1/accounts/globex/resume', { token: null, headers: { cookie }, body: {} }), 403)
    await asked('POST /api/v1/accounts/{id}/resume', send('POST', '/api/v1/accounts/globex/resume', { ...mine, body: {} }), 200)
    const elsewhere = { token: null, headers: { cookie, origin: 'https://elsewhere.example' } }
    await asked('GET /api/v1/session', send('GET', '/api/v1/session', elsewhere), 403)
    await asked('POST /api/v1/login', send('POST', '/api/v1/login', { ...elsewhere, body: { token: opsToken } }), 403)
    await asked('POST /api/v1/logout', send('POST', '/api/v1/logout', { ...elsewhere, body: {} }), 403)
    await asked('GET /api/v1/session', send('GET', '/api/v1/session', { token: 'wrong-token-0123456789' }), 401)
    await asked('GET /api/v1/health', send('GET', '/api/v1/health', { token: 'wrong-token-0123456789' }), 401)
    t.same(await (await asked('POST /api/v1/logout', send('POST', '/api/v1/logout', { ...mine, body: {} }), 200)).json(), { name: null, role: null, by: null })
    t.same(await (await asked('GET /api/v1/session', send('GET', '/api/v1/session', mine), 200)).json(), { name: null, role: null, by: null })
    const guess = (): Promise<Response> => send('POST', '/api/v1/login', { token: null, body: { token: 'wrong-token-0123456789' } })
    for (let n = 0; n < 10; n += 1) await asked('POST /api/v1/login', guess(), 401)
    t.match((await asked('POST /api/v1/login', guess(), 429)).headers.get('retry-after'), /^\d+$/)
  })

  await t.test('without tokens and without analytics, everything is refused as documented, too', async (t) => {
    const bare = await startGatewayProcess(t, `upstreams: { model: { url: "${model.url}", provider: openai } }\nplans: { free: {} }\nanalytics: off\n`)
    const asked = async (name: string, status: number, more: Parameters<typeof send>[2] = {}): Promise<unknown> => {
      const [method = '', path = ''] = name.split(' ')
      return await asDocumented(t, name, operationOf.get(name)!.operation, await send(method, path, { token: null, to: bare.adminUrl, ...more }), [status])
    }
    t.same(await asked('GET /api/v1/session', 200), { name: 'local', role: 'admin', by: 'machine' })
    await asked('POST /api/v1/login', 409, { body: { token: opsToken } })
    t.match(await asked('GET /api/v1/analytics', 200), { state: 'off', behind: null, complete_until: null, kept: null })
    for (const name of ['GET /api/v1/analytics/usage', 'GET /api/v1/analytics/refusals']) await asked(name, 409)
    await asked('POST /api/v1/analytics/rebuild', 409, { body: {} })
    t.same(await asked('GET /api/v1/refusals', 200), { refusals: [] })
    t.match(await asked('GET /api/v1/live', 200), [{ sinks: [], analytics_lag: null }])
    t.match(await asked('GET /api/v1/accounts', 200), { accounts: [], total: 0 })
    // Named by another name, as a page of another site might.
    const misdirected = await new Promise<Response>((resolve, reject) => {
      httpGet(`${bare.adminUrl}/api/v1/plans`, { headers: { host: 'elsewhere.example' }, agent: false }, (answer) => {
        void answer.toArray().then((chunks: readonly Buffer[]) => resolve(new Response(Buffer.concat(chunks), { status: answer.statusCode ?? 0, headers: { 'content-type': answer.headers['content-type'] ?? '' } })), reject)
      }).on('error', reject)
    })
    await asDocumented(t, 'called by another name', operationOf.get('GET /api/v1/plans')!.operation, misdirected, [421])
    for (let n = 0; n < 300; n += 1) await (await send('GET', '/api/v1/plans', { token: `wrong-token-${n}-0123456789`, to: bare.adminUrl })).text()
    await asked('GET /api/v1/plans', 429, { token: 'wrong-token-0123456789' })
  })

  await t.test('who has a page or a file of it already is told that it is still the same', async (t) => {
    for (const name of ['GET /', 'GET /assets/{version}/{file}']) {
      const { path, operation } = operationOf.get(name)!
      const at = filled(path, examples[name]?.[0]?.path)
      const etag = (await send('GET', at)).headers.get('etag') ?? ''
      await asDocumented(t, name, operation, await send('GET', at, { headers: { 'if-none-match': etag } }), [304])
    }
  })

  await t.test('an answer that is not as its schema says is seen', async (t) => {
    const { schema } = operationOf.get('GET /api/v1/config')?.operation.responses['200']?.content?.['application/json'] ?? { schema: {} }
    const config = await (await send('GET', '/api/v1/config')).json() as Json
    t.ok(schemaOf(schema).safeParse(config).success)
    const { version: _, ...less } = config
    for (const wrong of [less, { ...config, more: 1 }, { ...config, keys: '3' }, { ...config, started_at: 'yesterday' }]) t.notOk(schemaOf(schema).safeParse(wrong).success)
  })

  await t.test('every operation refuses wrong input as documented', async (t) => {
    for (const { name, method, path, operation } of operations) {
      const [example = {}] = examples[name] ?? []
      const good = filled(path, example.path)
      const refused = async (what: string, response: Promise<Response>, ...wanted: number[]): Promise<void> => {
        const body = await asDocumented(t, `${name}, ${what}`, operation, await response, wanted)
        t.match(body, { title: String, status: Number, detail: /\w+/ }, `${name}, ${what}: a sentence`)
      }
      if (operation.security.length > 0) {
        await refused('without a token', send(method, good, { token: null }), 401)
        await refused('with a wrong token', send(method, good, { token: 'wrong-token-0123456789' }), 401)
      }
      if (operation['x-tallygate-role'] === 'admin') await refused('as a viewer', send(method, good, { token: viewToken, ...(method === 'GET' ? {} : { body: example.body ?? {} }) }), 403)
      const isApi = path.startsWith('/api/')
      // The dashboard's document is the same for every account; it asks the API whether there is one.
      const isPage = operation.responses['200']?.content?.['text/html'] !== undefined
      if (path.includes('{') && !isPage && (method === 'GET' || method === 'DELETE')) {
        const asked = operation.parameters.filter((parameter) => parameter.in === 'query' && parameter.required).map(({ name: of }): [string, string] => [of, example.query?.[of] ?? ''])
        const response = await send(method, `${filled(path)}${asked.length === 0 ? '' : `?${new URLSearchParams(asked).toString()}`}`)
        // To take away what is not there is no mistake.
        if (!(method === 'DELETE' && response.status === 200)) await refused('about nothing that is there', Promise.resolve(response), 404, 422, 409)
      }
      if (isApi) await refused('with a question that it does not know', send(method, `${good}?nonsense=1`, method === 'GET' ? {} : { body: example.body ?? {} }), 400)
      for (const { name: field, in: place, schema } of operation.parameters) {
        if (place !== 'query' || (schema['type'] !== 'integer' && schema['type'] !== 'boolean' && schema['enum'] === undefined)) continue
        await refused(`with a wrong ${field}`, send(method, `${good}?${field}=nonsense`), 400)
      }
      if (operation.requestBody === undefined) continue
      const schema = operation.requestBody.content['application/json']?.schema
      await refused('with a field that it does not know', send(method, good, { body: { ...example.body, nonsense: 1 } }), 422)
      await refused('with what is no JSON', send(method, good, { raw: '{' }), 400)
      await refused('with a list', send(method, good, { raw: '[]' }), 400)
      await refused('with a form', send(method, good, { raw: 'a=b', type: 'application/x-www-form-urlencoded' }), 415)
      await refused('with far too much', send(method, good, { raw: `{"x":"${'x'.repeat(70_000)}"}` }), 413)
      for (const [field, of] of Object.entries((schema?.['properties'] ?? {}) as Readonly<Record<string, Json>>)) {
        await refused(`with a wrong ${field}`, send(method, good, { body: { ...example.body, [field]: of['type'] === 'string' || Array.isArray(of['type']) ? { no: 'text' } : 1.5 } }), 422)
      }
      for (const field of (schema?.['required'] ?? []) as readonly string[]) {
        const { [field]: _, ...rest } = example.body ?? {}
        await refused(`without ${field}`, send(method, good, { body: rest }), 422)
      }
    }
  })

  await t.test('every path that the server answers is in the document, and answers no other method', async (t) => {
    const matches = (template: string, path: string): boolean => new RegExp(`^${template.replace(/\{\w+\}/g, '[^/]+')}$`).test(path)
    const isDocumented = (path: string): boolean => Object.keys(document.paths).some((each) => matches(each, path))
    const linked = [...page.matchAll(/(?:href|src)="(\/[^"?]*)/g)].map(([, path]) => path ?? '')
    t.ok(linked.length > 5)
    for (const path of linked) t.ok(isDocumented(path), `${path}, which the page loads, is documented`)
    const browser = new URL('../../src/dashboard/browser/', import.meta.url)
    const pages = [...readFileSync(new URL('app.ts', browser), 'utf8').matchAll(/case '(\w*)': return (id === undefined)?/g)].flatMap(([, name = '', several]) => [`/${name}`, ...(several === undefined ? [] : [`/${name}/x`])])
    t.ok(pages.length > 5)
    for (const path of pages) t.ok(isDocumented(path), `${path}, which the page shows, is documented`)
    const asked = readdirSync(browser).filter((name) => name.endsWith('.ts')).flatMap((name) => [...readFileSync(new URL(name, browser), 'utf8').matchAll(/\b(get|post|remove|EventSource)(?:<[^(]*>)?\((['`])(\/api\/v1\/.+?)\2/g)])
      .map(([, by = '', , path = '']) => ({ method: { post: 'POST', remove: 'DELETE' }[by] ?? 'GET', path: path.replace(/\$\{[^}]*\}/g, 'x') }))
    t.ok(asked.length > 25)
    for (const { method, path } of asked) t.ok(operations.some((each) => each.method === method && matches(each.path, path)), `${method} ${path}, which the page asks, is documented`)
    const source = readFileSync(new URL('../../src/admin/admin-server.ts', import.meta.url), 'utf8')
    const own = [...source.matchAll(/path(?: === |\.startsWith\()'([^']+)'/g)].map(([, path]) => path ?? '')
    t.ok(own.includes('/metrics'))
    for (const path of own) t.ok(Object.keys(document.paths).some((each) => each === path || (path.endsWith('/') && each.startsWith(path))), `${path} is documented`)
    for (const path of Object.keys(document.paths)) {
      for (const method of ['GET', 'POST', 'DELETE', 'PUT', 'PATCH']) {
        // Another template may mean this path too: GET /events/{id} that of GET /events/dead.
        const also = operations.filter((each) => matches(each.path, path))
        if (also.some((each) => each.method === method)) continue
        const response = await send(method, filled(path, path.startsWith('/api/') ? {} : examples[`GET ${path}`]?.[0]?.path), method === 'GET' ? {} : { body: {} })
        t.equal(response.status, 405, `${method} ${path}`)
        if (path.startsWith('/api/')) t.same(response.headers.get('allow')?.split(', ').sort(), [...new Set(also.map((each) => each.method))].sort(), `${method} ${path}`)
        await response.text()
      }
    }
    for (const path of ['/api/v1/nothing', '/api/v2/health', '/api', '/favicon.ico', '/upstreams/model/other', '/assets/0/main.ts', `/assets/${version}/nothing.ts`, '/accounts/acme/keys', '/plans/']) t.equal((await send('GET', path)).status, 404, path)
  })
})
