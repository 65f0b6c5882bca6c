import { request as httpRequest } from 'node:http'
import type { IncomingHttpHeaders } from 'node:http'
import t from 'tap'
import { recordKinds } from '../../src/accounts/account-records.ts'
import { AccountChanges } from '../../src/accounts/account-changes.ts'
import { GrantChanges } from '../../src/accounts/grants.ts'
import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import { MadeAccounts } from '../../src/accounts/made-accounts.ts'
import { SubscriptionChanges } from '../../src/accounts/subscriptions.ts'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { adminOperations, adminRoutes } from '../../src/admin/admin-api.ts'
import { adminCaller } from '../../src/admin/admin-caller.ts'
import { startAdminServer } from '../../src/admin/admin-server.ts'
import type { AdminParts, ReloadState } from '../../src/admin/route.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { systemClock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { Dashboard } from '../../src/dashboard/dashboard.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { FakeRecords, account, configOf, key } from '../accounts/fixture.ts'
import { canaries, canariesIn } from '../fixtures/canaries.ts'
import { openScriptedUpstream, json } from '../fixtures/scripted-upstream.ts'
import type { DeliveryStatus } from '../../src/sinks/deliver.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { analyticsOff, FakeOutbox } from './fake-outbox.ts'

const opsSecret = 'ops-token-0123456789abcdef'
const viewSecret = 'view-token-0123456789abcdef'
const localSecret = 'local-token-0123456789abcdef'
const callerSecret = canaries.key
const tokens = [
  { name: 'ops', hash: hashOfSecret(opsSecret), role: 'admin' as const },
  { name: 'view', hash: hashOfSecret(viewSecret), role: 'viewer' as const },
]

interface Answer { status: number; headers: IncomingHttpHeaders; text: string; json: Record<string, unknown> }
type Extra = { secret?: string; headers?: Record<string, string>; body?: unknown; rawBody?: string }

async function open(t: Teardown, more: { tokens?: typeof tokens; upstreamUrl?: string; metrics?: 'open' | 'token'; brokenStore?: boolean } = {}) {
  const records = new FakeRecords()
  const upstreams = new Map(more.upstreamUrl === undefined ? [] : [['model', { name: 'model', origin: more.upstreamUrl, pathPrefix: '', providers: ['openai'] }]])
  const config = {
    ...configOf([key('dev', hashOfSecret(callerSecret))], [account('acme')]),
    admin: { listen: { host: '127.0.0.1', port: 0 }, tokens: more.tokens ?? [], metrics: more.metrics ?? 'token' },
    upstreams, sinks: [{ name: 'file', type: 'file', settings: {}, mapping: null }], store: { kind: 'memory' }, version: 'abc', files: [], instance: 'test',
  } as unknown as Config
  const directory = await StoredKeyDirectory.open(records, config, systemClock)
  const deliveries = new Map<string, DeliveryStatus | 'replaying'>()
  const nudged: string[] = []
  let reloads: ReloadState = { atMs: 0, ok: true, problems: [] }
  const outbox = new FakeOutbox()
  if (more.brokenStore === true) outbox.scan = () => Promise.reject(new StoreUnavailable('the disk is full'))
  const changes = new AccountChanges(records, directory, systemClock, systemRandom)
  const api: AdminParts = {
    config: () => config, directory, changes, subscriptions: new SubscriptionChanges(records, directory, changes, systemClock),
    grants: new GrantChanges({ records, balances: async () => [] }, directory, changes, systemClock, systemRandom),
    accounts: new MadeAccounts({ records, due: async () => [], balances: async () => [] }, directory, changes, systemClock), records, outbox, clock: systemClock,
    quarantined: async () => [], storeStatus: () => ({ admitting: true, reason: null }),
    gateway: { startedMs: 0, draining: () => false, reloads: () => reloads, reload: () => Promise.resolve(reloads) },
    history: new EventHistory({ outbox, archive: () => null, clock: systemClock }),
    pendingCall: async () => undefined, forecasts: async () => new Map(), standing: async () => null, analytics: analyticsOff(outbox),
    inspectStore: async () => ({ details: null, gaps: [], spool: null }),
    replay: async () => ({ events: 1, archived: 0, done: Promise.resolve() }),
    reconcile: async () => { throw new Error('nobody asks for it here') },
    deliveryStatus: () => deliveries, nudge: (sink) => void nudged.push(sink), withheld: async () => [], releaseWithheld: async () => ({ released: 0, failed: 0 }), credit: async () => 'sent',
    retryDead: () => Promise.resolve({ delivered: 0, failed: 0 }),
  }
  const server = await startAdminServer({
    listen: { host: '127.0.0.1', port: 0 }, api, extraTokens: [], localToken: { name: 'cli', hash: hashOfSecret(localSecret), role: 'admin' }, metrics: new Metrics(), dashboard: new Dashboard(), random: systemRandom, log: silentLog,
  })
  t.teardown(() => server.close())
  const ask = (method: string, path: string, { secret, headers = {}, body, rawBody }: Extra = {}): Promise<Answer> => new Promise((resolve, reject) => {
    const payload = rawBody ?? (body === undefined ? undefined : JSON.stringify(body))
    const request = httpRequest({
      host: '127.0.0.1', port: server.address.port, method, path, agent: false,
      headers: {
        ...(secret === undefined ? {} : { authorization: `Bearer ${secret}` }),
        ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }), ...headers,
      },
    }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        const isJson = /json/.test(response.headers['content-type'] ?? '')
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: isJson ? JSON.parse(text) as Record<string, unknown> : {} })
      })
    })
    request.on('error', reject)
    request.end(payload)
  })
  return { ask, records, directory, outbox, deliveries, nudged, setReload: (state: ReloadState) => { reloads = state } }
}

t.test('without tokens this machine is trusted, by a name of this machine only', async (t) => {
  const { ask } = await open(t)
  t.equal((await ask('GET', '/api/v1/keys')).status, 200)
  for (const host of ['localhost', 'LOCALHOST:8081', '127.0.0.1:1', '[::1]:80']) t.equal((await ask('GET', '/api/v1/keys', { headers: { host } })).status, 200, host)
  for (const host of ['evil.example', 'evil.example:8081', '127.0.0.1.evil.example', 'localhost.evil.example']) {
    t.equal((await ask('GET', '/api/v1/keys', { headers: { host } })).status, 421, `${host}: a name that was made to point here`)
  }
})

t.test('without tokens nobody from elsewhere is answered', async (t) => {
  const head = { host: 'localhost', origin: undefined, fetchSite: undefined, authorization: undefined, cookie: undefined, proxied: false, reads: true, attended: true }
  const none = { tokens: [], local: null, sessions: { find: () => undefined } }
  for (const address of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) t.match(adminCaller({ ...head, address }, none), { name: 'local', role: 'admin', by: 'machine' })
  for (const address of ['10.0.0.5', '::ffff:10.0.0.5', '2001:db8::1', '']) t.throws(() => adminCaller({ ...head, address }, none), { name: 'Problem', status: 403 }, address)
  t.throws(() => adminCaller({ ...head, address: '127.0.0.1', proxied: true }, none), { name: 'Problem', status: 403 }, 'a proxy on this machine speaks for others')
})

t.test('without tokens nobody is answered through a proxy, whatever of it the proxy adds', async (t) => {
  const { ask } = await open(t)
  const names = ['via', 'forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-server', 'x-forwarded-port', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'cf-connecting-ip']
  for (const name of names) t.match(await ask('GET', '/api/v1/keys', { headers: { host: 'localhost', [name]: '1.2.3.4' } }), { status: 403, json: { detail: /through a proxy/ } }, name)
  t.equal((await ask('GET', '/api/v1/keys', { headers: { host: 'localhost', 'x-request-id': 'via-nobody' } })).status, 200)
  const { ask: askWithToken } = await open(t, { tokens })
  t.equal((await askWithToken('GET', '/api/v1/keys', { secret: opsSecret, headers: { via: '1.1 proxy', 'x-forwarded-host': 'gate.example' } })).status, 200, 'with a token a proxy is nothing special')
})

t.test('W3: a page of another site can make a browser ask for nothing', async (t) => {
  const { ask, records } = await open(t)
  for (const headers of [{ origin: 'https://evil.example' }, { origin: 'null' }, { 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' }, { origin: 'http://localhost:9' }]) {
    const answer = await ask('POST', '/api/v1/keys/dev/revoke', { headers, body: {} })
    t.equal(answer.status, 403, JSON.stringify(headers))
  }
  const form = await ask('POST', '/api/v1/keys', { rawBody: '{"account":"acme"}', headers: { 'content-type': 'text/plain' } })
  t.equal(form.status, 415, 'what a form can send is no JSON')
  t.equal(records.writes, 0)
})

t.test('with tokens, every route asks for one, and a viewer changes nothing', async (t) => {
  const { ask, records } = await open(t, { tokens })
  for (const route of adminRoutes) {
    const path = route.path.replace(/\{\w+\}/g, 'dev')
    const body = route.method === 'POST' ? {} : undefined
    const open_ = route.role === null
    t.equal((await ask(route.method, path, { body })).status === 401, !open_, `${route.method} ${route.path} without a token`)
    t.equal((await ask(route.method, path, { body, secret: 'wrong-token-0123456789' })).status, 401, `${route.method} ${route.path} with a wrong one`)
    t.equal((await ask(route.method, path, { body, secret: viewSecret })).status === 403, route.role === 'admin', `${route.method} ${route.path} as a viewer`)
  }
  t.equal(records.writes, 0)
  t.equal((await ask('GET', '/api/v1/keys', { secret: opsSecret })).status, 200)
  t.equal((await ask('GET', '/api/v1/keys', { secret: localSecret })).status, 200, 'the token of the command line')
  t.equal((await ask('GET', '/api/v1/keys', { headers: { authorization: `bearer ${opsSecret}` } })).status, 200, 'the scheme in any case')
})

t.test("A12: a caller's key is nothing on the admin port", async (t) => {
  const { ask, records } = await open(t, { tokens })
  t.equal((await ask('GET', '/api/v1/keys', { secret: callerSecret })).status, 401)
  t.equal((await ask('POST', '/api/v1/keys', { secret: callerSecret, body: { account: 'acme' } })).status, 401)
  t.equal((await ask('GET', '/metrics', { secret: callerSecret })).status, 401)
  t.equal(records.writes, 0)
  const { ask: askOpen } = await open(t)
  t.equal((await askOpen('GET', '/api/v1/keys', { secret: callerSecret })).status, 401, 'not even where no token is needed')
})

t.test('metrics take any token, or none where the config opens them', async (t) => {
  const closed = await open(t, { tokens })
  t.equal((await closed.ask('GET', '/metrics')).status, 401)
  const answer = await closed.ask('GET', '/metrics', { secret: viewSecret })
  t.equal(answer.status, 200)
  t.match(answer.text, /^# HELP tallygate_/m)
  const opened = await open(t, { tokens, metrics: 'open' })
  t.equal((await opened.ask('GET', '/metrics')).status, 200)
  t.equal((await opened.ask('GET', '/api/v1/keys')).status, 401, 'only them')
})

t.test('the OpenAPI document has every route, and every route is in it', async (t) => {
  const { ask } = await open(t)
  const { json: document } = await ask('GET', '/api/v1/openapi.json')
  const paths = document['paths'] as Record<string, Record<string, { responses: object; parameters: { name: string }[] }>>
  // Its own pages are beside the routes; test/admin/openapi.test.ts calls all of it.
  const listed = Object.entries(paths).filter(([path]) => path.startsWith('/api/')).flatMap(([path, operations]) => Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`))
  t.same(listed.sort(), adminOperations.map(({ method, path }) => `${method} ${path}`).sort())
  for (const { method, path, query } of adminOperations) {
    const operation = paths[path]?.[method.toLowerCase()]
    const wanted = [...[...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name), ...Object.keys(query ?? {})]
    t.same(operation?.parameters.map(({ name }) => name), wanted, `${method} ${path}`)
  }
})

t.test('errors are problem documents with one clear sentence', async (t) => {
  const { ask, outbox } = await open(t)
  const cases: [string, string, Extra, number, RegExp][] = [
    ['GET', '/api/v1/nothing', {}, 404, /openapi/],
    ['GET', '/api/v1/keys/nobody', {}, 404, /no key "nobody"/],
    ['DELETE', '/api/v1/keys', {}, 405, /GET and POST only/],
    ['POST', '/metrics', {}, 405, /GET only/],
    ['POST', '/api/v1/keys', { rawBody: '{' }, 400, /not JSON/],
    ['POST', '/api/v1/keys', { rawBody: '[]' }, 400, /one JSON object/],
    ['POST', '/api/v1/keys', { rawBody: `{"account":"${'x'.repeat(70_000)}"}` }, 413, /larger/],
    ['POST', '/api/v1/keys', { body: { acount: 'acme' } }, 422, /body.acount is not known here.*account/],
    ['POST', '/api/v1/keys', { body: { account: 7 } }, 422, /must be a text/],
    ['POST', '/api/v1/keys', { body: { account: 'acme', expires_in: 'soon' } }, 422, /expires_in: .*not a duration/],
    ['POST', '/api/v1/keys', { body: { account: 'acme', id: 'dev' } }, 409, /already a key "dev"/],
    ['POST', '/api/v1/events/replay', { body: { sink: 'file' } }, 422, /body.since is missing/],
    ['POST', '/api/v1/events/replay', { body: { sink: 'nope', since: '1h' } }, 404, /no sink "nope"; there is file/],
    ['POST', '/api/v1/sinks/nope/retry', {}, 404, /no sink "nope"; there is file/],
    ['GET', '/api/v1/usage?by=colour', {}, 400, /cannot be grouped by "colour"/],
    ['GET', '/api/v1/usage?bucket=week', {}, 400, /one of hour, day, month/],
    ['GET', '/api/v1/usage?from=1h&from=2h', {}, 400, /given twice/],
    ['GET', '/api/v1/usage?from=1h&to=2h', {}, 422, /before/],
    ['GET', '/api/v1/events?limit=100000', {}, 400, /between 1 and 1000/],
    ['GET', '/api/v1/events?after=zzz', {}, 400, /"zzz" is no position/],
    ['GET', '/api/v1/events/not-an-id', {}, 422, /not the id/],
    ['GET', '/upstreams/nobody/health', {}, 404, /configured upstreams/],
    ['GET', '/upstreams/%2e%2e/health', {}, 404, /./],
  ]
  for (const [method, path, extra, status, sentence] of cases) {
    const answer = await ask(method, path, extra)
    t.match(answer, { status, headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' }, json: { status, type: 'about:blank' } }, `${method} ${path}`)
    t.match(answer.json['detail'], sentence)
  }
  t.match((await ask('DELETE', '/api/v1/keys')).headers, { allow: 'GET, POST' })
  outbox.scan = () => Promise.reject(new TypeError('secret inside'))
  const bug = await ask('GET', '/api/v1/usage')
  t.equal(bug.status, 500)
  t.notMatch(bug.text, /secret inside/, "a bug's own words stay inside")
})

t.test('a sink is tried at once by whoever delivers to it; another gateway says that it is not the one', async (t) => {
  const { ask, deliveries, nudged } = await open(t, { tokens })
  const status = { reason: null, nextTryMs: null, lastDeliveryMs: null }
  const retry = (): Promise<Answer> => ask('POST', '/api/v1/sinks/file/retry', { secret: opsSecret })
  t.match(await ask('POST', '/api/v1/sinks/file/retry', { secret: viewSecret }), { status: 403 })
  t.same(nudged, [])
  t.match(await retry(), { status: 200, json: { sink: 'file', result: 'trying' } }, 'one that could not be opened is opened')
  for (const state of ['paused', 'waiting', 'running', 'elsewhere'] as const) {
    deliveries.set('file', { ...status, state })
    t.match(await retry(), { status: 200, json: { sink: 'file', result: state === 'paused' || state === 'waiting' ? 'trying' : state } }, state)
  }
  deliveries.set('file', 'replaying')
  t.match(await retry(), { status: 200, json: { result: 'replaying' } })
  t.same(nudged, Array.from({ length: 6 }, () => 'file'))
  t.match((await ask('GET', '/api/v1/audit', { secret: viewSecret })).json['changes'], [{ who: 'ops', action: 'sinks.retry', target: 'file' }], 'it is in the audit')
})

t.test('a store that is away is 503 with its reason, and health says so', async (t) => {
  const { ask } = await open(t, { brokenStore: true })
  t.match(await ask('GET', '/api/v1/usage'), { status: 503, json: { detail: /the disk is full/ } })
  t.match(await ask('GET', '/api/v1/health'), { status: 200, json: { status: 'ok' } })
})

t.test('a key is made, rotated, revoked and restored; its secret is told once and every change is journaled', async (t) => {
  const { ask, directory } = await open(t, { tokens })
  const secret = opsSecret
  const made = await ask('POST', '/api/v1/keys', { secret, body: { account: 'acme', id: 'run', expires_in: '30d' } })
  t.match(made, { status: 201, json: { id: 'run', secret: /^tg_/, key: { state: 'active', created_by: 'ops', expires_at: String } } })
  t.equal(directory.find(String(made.json['secret']), systemClock.nowMs()).outcome, 'found')
  const list = await ask('GET', '/api/v1/keys', { secret: viewSecret })
  t.notMatch(list.text, String(made.json['secret']))
  t.notMatch(list.text, hashOfSecret(String(made.json['secret'])), 'nor is its hash')
  const rotated = await ask('POST', '/api/v1/keys/run/rotate', { secret, body: { grace: '1h' } })
  t.match(rotated, { status: 200, json: { secret: /^tg_/, grace_until: String, where: 'store' } })
  t.match(await ask('POST', '/api/v1/keys/dev/revoke', { secret, body: { reason: 'lost' } }), { status: 200, json: { where: 'tallygate.yaml:1' } })
  t.equal(directory.find(callerSecret, systemClock.nowMs()).outcome, 'unknown')
  t.match(await ask('DELETE', '/api/v1/keys/dev/revocation', { secret }), { status: 200, json: { state: 'active' } })
  const audit = await ask('GET', '/api/v1/audit', { secret: viewSecret })
  t.same((audit.json['changes'] as { who: string; action: string }[]).map(({ who, action }) => `${who} ${action}`).sort(),
    ['ops key.create', 'ops key.lift', 'ops key.revoke', 'ops key.rotate'])
  for (const { text } of [list, audit]) t.same(canariesIn(text), [])
})

const farDurations = ['99999999d', '104249991d']
const farInstant = '9999-12-31T23:59:59-23:59'

t.test('what would lie after the year 9999 is refused before anything is stored', async (t) => {
  const { ask, records } = await open(t, { tokens })
  const secret = opsSecret
  const refused: [string, object][] = [
    ...farDurations.flatMap((far): [string, object][] => [['keys', { account: 'acme', id: 'far', expires_in: far }], ['keys/dev/rotate', { grace: far }]]),
    ['keys', { account: 'acme', id: 'far', expires_at: farInstant }],
    ['subscriptions/acme', { kind: 'term', end: '9999-12-31', grace: '7d' }], ['subscriptions/acme', { kind: 'term', end: farInstant }], ['subscriptions/acme', { kind: 'perpetual', suspended_from: '2026-01-01', suspended_until: farInstant }],
    ['subscriptions/acme', { kind: 'term', start: '9000-01-01', term: '1200 years' }], ['subscriptions/acme', { kind: 'term', start: '9000-01-01', term: '1200 years', renewal: 'none' }],
  ]
  for (const [path, body] of refused) {
    t.match(await ask('POST', `/api/v1/${path}`, { secret, body }), { status: 422, json: { detail: /after the year 9999|beyond the year 9999/ } }, `${path} ${JSON.stringify(body)}`)
  }
  t.equal(records.writes, 0)
  t.match(await ask('POST', '/api/v1/keys', { secret, body: { account: 'acme', id: 'last', expires_at: '9999-12-31T23:59:59.999Z' } }), { status: 201, json: { key: { expires_at: '9999-12-31T23:59:59.999Z' } } })
  t.match(await ask('POST', '/api/v1/keys/dev/rotate', { secret, body: { grace: '36500d' } }), { status: 200 })
  t.match(await ask('GET', '/api/v1/invoices/acme?period=9999-12-31', { secret }), { status: 422 })
})

t.test('what an older version has stored of later instants is shown as the last there is', async (t) => {
  const { ask, records } = await open(t, { tokens })
  const secret = viewSecret
  await records.put(recordKinds.key, 'far', { hash: hashOfSecret('far'), account: 'acme', plan: null, expires_ms: 8_999_999_999_999_999, created_ms: 0, created_by: 'ops' })
  await records.put(recordKinds.rotation, 'dev', { hash: hashOfSecret('new'), previous: [{ hash: hashOfSecret(callerSecret), until_ms: 8_999_999_999_999_999 }], at_ms: 0, by: 'ops', change: 'again' })
  await records.put(recordKinds.grant, 'acme/far', { limit: 'daily', meter: 'total_tokens', amount: 5, effective_ms: 0, expires_ms: 8_999_999_999_999_999, created_ms: 0, created_by: 'rollover', source: 'rollover', note: null })
  const last = '9999-12-31T23:59:59.999Z'
  t.match((await ask('GET', '/api/v1/keys', { secret })).json['keys'], [{ id: 'dev', grace_until: last }, { id: 'far', state: 'active', expires_at: last }])
  t.match(await ask('GET', '/api/v1/keys/far', { secret }), { status: 200 })
  t.match((await ask('GET', '/api/v1/accounts/acme', { secret })).json['keys'], [{ id: 'dev' }, { id: 'far', expires_at: last }])
  t.match((await ask('GET', '/api/v1/grants', { secret })).json['grants'], [{ id: 'far', expires_at: '9999-12-31T23:59:59.000Z' }])
  t.match(await ask('POST', '/api/v1/keys/dev/rotate', { secret: opsSecret, body: { change: 'again' } }), { status: 200, json: { secret: null, grace_until: last } })
})

t.test('how long ago reaches back to 1970 and no further', async (t) => {
  const { ask } = await open(t, { tokens })
  const secret = opsSecret
  const first = '1970-01-01T00:00:00.000Z'
  for (const since of [...farDurations, '0100-01-01']) {
    t.match(await ask('POST', '/api/v1/events/replay', { secret, body: { sink: 'file', since } }), { status: 200, json: { since: first } }, since)
    for (const path of ['usage', 'usage/focus']) t.match(await ask('GET', `/api/v1/${path}?from=${since}`, { secret }), { status: 200, json: { from: first } }, `${path} ${since}`)
    for (const path of ['events', 'notices']) t.equal((await ask('GET', `/api/v1/${path}?since=${since}`, { secret })).status, 200, `${path} ${since}`)
  }
  for (const path of ['usage?to', 'usage/focus?to', 'events?since', 'notices?since']) t.match(await ask('GET', `/api/v1/${path}=${farInstant}`, { secret }), { status: 422, json: { detail: /after the year 9999/ } }, path)
})

t.test('a refused reload answers with every mistake', async (t) => {
  const { ask, setReload } = await open(t)
  t.match(await ask('POST', '/api/v1/config/reload'), { status: 200, json: { ok: true } })
  setReload({ atMs: 5, ok: false, problems: ['tallygate.yaml:3:1 plans.free: unknown key'] })
  t.match(await ask('POST', '/api/v1/config/reload'), { status: 422, json: { problems: ['tallygate.yaml:3:1 plans.free: unknown key'] } })
})

t.test("an upstream's own probes are passed on, without our credential, and say who failed", async (t) => {
  const upstream = await openScriptedUpstream(t, (request, reply) => reply.write(json(200, { path: request.target, authorization: request.header('authorization') ?? null })))
  const { ask } = await open(t, { tokens, upstreamUrl: upstream.url })
  t.equal((await ask('GET', '/upstreams/model/health')).status, 401)
  t.match(await ask('GET', '/upstreams/model/health', { secret: viewSecret }), { status: 200, json: { path: '/health', authorization: null } })
  t.match(await ask('GET', '/upstreams/model/metrics', { secret: viewSecret }), {
    status: 200, json: { path: '/metrics' }, headers: { 'content-security-policy': /^default-src 'none'/, 'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY' },
  }, 'a page of the upstream does nothing in the name of this port')
  t.equal((await ask('POST', '/upstreams/model/health', { secret: opsSecret, body: {} })).status, 405)
  t.equal((await ask('GET', '/upstreams/model/v1/models', { secret: opsSecret })).status, 404, 'nothing else of it')
  const gone = await open(t, { upstreamUrl: 'http://127.0.0.1:9' })
  t.match(await gone.ask('GET', '/upstreams/model/health'), { status: 502, json: { detail: /"model" cannot be reached/ } })
})

t.test('W1, W3: the page in a browser loads nothing from anywhere else, and what it loads comes compressed and is kept', async (t) => {
  const { ask } = await open(t)
  const page = await ask('GET', '/')
  t.match(page, { status: 200, headers: { 'content-type': /text\/html/, 'content-security-policy': /^default-src 'none'; script-src 'self'; style-src 'self'/, 'cache-control': 'no-cache' } })
  t.equal((await ask('GET', '/accounts/some%20one')).text, page.text, 'every address of the page is the page')
  t.notMatch(page.text, /<style|<script(?! type="module" src="\/assets\/)|(?:src|href)="(?!\/assets\/|data:image\/svg)/)
  for (const [, path = ''] of page.text.matchAll(/(?:src|href)="(\/[^"]+)"/g)) {
    const asset = await ask('GET', path, { headers: { 'accept-encoding': 'gzip, br' } })
    t.match(asset, { status: 200, headers: { 'content-encoding': 'br', 'cache-control': /immutable/, 'content-type': /^text\/(javascript|css)/ } }, path)
    t.equal((await ask('GET', path, { headers: { 'if-none-match': String(asset.headers.etag) } })).status, 304)
  }
  t.equal((await ask('GET', '/', { headers: { 'if-none-match': String(page.headers.etag) } })).status, 304)
  t.equal((await ask('GET', '/assets/0/main.ts')).status, 404)
  t.equal((await ask('POST', '/')).status, 405)
})
