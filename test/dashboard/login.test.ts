import { request as httpRequest } from 'node:http'
import type { IncomingHttpHeaders } from 'node:http'
import t from 'tap'
import { hashOfSecret } from '../../src/accounts/secret.ts'
import { startAdminServer } from '../../src/admin/admin-server.ts'
import type { AdminParts } from '../../src/admin/route.ts'
import { Sessions } from '../../src/admin/session.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import { Dashboard } from '../../src/dashboard/dashboard.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'

const secrets = { ops: 'ops-token-0123456789abcdef', view: 'view-token-0123456789abcdef' }
const bothTokens = [
  { name: 'ops', hash: hashOfSecret(secrets.ops), role: 'admin' as const },
  { name: 'view', hash: hashOfSecret(secrets.view), role: 'viewer' as const },
]
const HOUR_MS = 3_600_000

interface Answer { readonly status: number; readonly headers: IncomingHttpHeaders; readonly text: string; readonly json: Record<string, unknown> }
interface Ask { readonly cookie?: string | undefined; readonly headers?: Record<string, string>; readonly body?: unknown; readonly from?: string }

async function open(t: Teardown, trustedProxies: readonly string[] = []) {
  const tokens = [...bothTokens]
  const suspended: string[] = []
  const time = { ms: Date.UTC(2026, 10, 22, 10) }
  const config = { admin: { tokens, metrics: 'token' }, server: { trustedProxies }, plans: new Map(), version: 'abc' }
  const api = {
    config: () => config, clock: withTime(systemClock, () => time.ms), gateway: null,
    changes: { suspendAccount: async (id: string, _reason: string | null, who: string) => { suspended.push(`${id} by ${who}`) } },
    storeStatus: () => ({ admitting: true, reason: null }),
  } as unknown as AdminParts
  const server = await startAdminServer({ listen: { host: '127.0.0.1', port: 0 }, api, extraTokens: [], localToken: { name: 'cli', hash: hashOfSecret('local-token-0123456789abcdef'), role: 'admin' }, metrics: new Metrics(), dashboard: new Dashboard(), random: systemRandom, log: silentLog })
  t.teardown(() => server.close())
  const origin = `http://127.0.0.1:${server.address.port}`
  const ask = (method: string, path: string, { cookie, headers = {}, body, from = '127.0.0.1' }: Ask = {}): Promise<Answer> => new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body)
    const request = httpRequest({
      host: '127.0.0.1', port: server.address.port, localAddress: from, method, path, agent: false,
      headers: { ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }), ...(method === 'GET' ? {} : { origin }), ...(cookie === undefined ? {} : { cookie }), ...headers },
    }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: /json/.test(response.headers['content-type'] ?? '') ? JSON.parse(text) as Record<string, unknown> : {} })
      })
    })
    request.on('error', reject)
    request.end(payload)
  })
  const logIn = async (token: string, more: Ask = {}): Promise<string> => {
    const answer = await ask('POST', '/api/v1/login', { body: { token }, ...more })
    return String(answer.headers['set-cookie']?.[0] ?? '').split(';')[0] ?? ''
  }
  return { ask, logIn, tokens, suspended, time, origin }
}

t.test('a token opens a session, whose cookie no script can read and no other site can use', async (t) => {
  const { ask, logIn, origin } = await open(t)
  t.same((await ask('GET', '/api/v1/session')).json, { name: null, role: null, by: null })
  t.equal((await ask('GET', '/api/v1/plans')).status, 401)
  const answer = await ask('POST', '/api/v1/login', { body: { token: secrets.ops } })
  t.match(answer, { status: 200, json: { name: 'ops', role: 'admin', by: 'session' } })
  t.match(answer.headers['set-cookie'], [/^tallygate_session=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict$/])
  t.notMatch(answer.text, secrets.ops)
  const cookie = String(answer.headers['set-cookie']?.[0]).split(';')[0]
  t.equal((await ask('GET', '/api/v1/plans', { cookie })).status, 200)
  t.equal((await ask('GET', '/api/v1/plans', { cookie: `other=1; ${cookie}; more=2` })).status, 200, 'beside other cookies')
  t.match((await ask('GET', '/api/v1/session', { cookie })).json, { name: 'ops', role: 'admin' })
  const overTls = await ask('POST', '/api/v1/login', { body: { token: secrets.ops }, headers: { host: 'gate.example', origin: 'https://gate.example' } })
  t.match(overTls.headers['set-cookie'], [/; Secure$/], 'a browser that came over TLS keeps it for TLS')
  t.notMatch(await logIn(secrets.ops), cookie ?? '', 'every login has its own')
  t.equal((await ask('GET', '/api/v1/login')).status, 405)
  t.equal(origin.startsWith('http://127.0.0.1'), true)
})

t.test('tokens in the header work as they did', async (t) => {
  const { ask, suspended } = await open(t)
  const headers = { authorization: `Bearer ${secrets.ops}` }
  t.equal((await ask('GET', '/api/v1/plans', { headers })).status, 200)
  t.equal((await ask('POST', '/api/v1/accounts/acme/suspend', { headers, body: {} })).status, 200)
  t.same(suspended, ['acme by ops'])
  t.match((await ask('GET', '/api/v1/session', { headers })).json, { name: 'ops', by: 'token' })
})

t.test('a viewer changes nothing, whatever his page shows', async (t) => {
  const { ask, logIn, suspended } = await open(t)
  const cookie = await logIn(secrets.view)
  t.equal((await ask('GET', '/api/v1/plans', { cookie })).status, 200)
  t.match(await ask('POST', '/api/v1/accounts/acme/suspend', { cookie, body: {} }), { status: 403, json: { detail: /may look but not change/ } })
  t.same(suspended, [])
})

t.test("W3: a session changes nothing at another site's wish", async (t) => {
  const { ask, logIn, suspended, origin } = await open(t)
  const cookie = await logIn(secrets.ops)
  const change = (headers: Record<string, string>): Promise<Answer> => ask('POST', '/api/v1/accounts/acme/suspend', { cookie, body: {}, headers })
  for (const headers of [{ origin: 'https://evil.example' }, { origin: 'null' }, { origin: 'http://localhost:1' }, { origin: `${origin}.evil.example` }, { 'sec-fetch-site': 'cross-site' }, { 'sec-fetch-site': 'same-site' }]) {
    t.equal((await change(headers as Record<string, string>)).status, 403, JSON.stringify(headers))
  }
  const silent = await new Promise<number>((resolve, reject) => {
    const request = httpRequest(`${origin}/api/v1/accounts/acme/suspend`, { method: 'POST', agent: false, headers: { cookie, 'content-type': 'application/json', 'content-length': 2 } }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    request.on('error', reject)
    request.end('{}')
  })
  t.equal(silent, 403, 'without a word of the browser either')
  t.same(suspended, [])
  t.equal((await ask('POST', '/api/v1/login', { body: { token: secrets.view }, headers: { origin: 'https://evil.example' } })).status, 403, 'nor is a visitor logged in as somebody else')
  t.equal((await ask('POST', '/api/v1/logout', { cookie, body: {}, headers: { origin: 'https://evil.example' } })).status, 403, 'or out')
  t.equal((await change({})).status, 200, 'what the page itself asks is done')
  t.same(suspended, ['acme by ops'])
})

t.test('W4: a session that was planted is none, logging in ends the one before, logging out ends it here', async (t) => {
  const { ask, logIn } = await open(t)
  const planted = `tallygate_session=${'A'.repeat(43)}`
  t.equal((await ask('GET', '/api/v1/plans', { cookie: planted })).status, 401)
  const first = await logIn(secrets.ops, { cookie: planted })
  t.not(first, planted)
  t.equal((await ask('GET', '/api/v1/plans', { cookie: planted })).status, 401, 'it has not become one')
  const second = await logIn(secrets.ops, { cookie: first })
  t.equal((await ask('GET', '/api/v1/plans', { cookie: first })).status, 401, 'the one before has ended')
  const out = await ask('POST', '/api/v1/logout', { cookie: second, body: {} })
  t.match(out, { status: 200, headers: { 'set-cookie': [/^tallygate_session=; .*Max-Age=0$/] } })
  t.equal((await ask('GET', '/api/v1/plans', { cookie: second })).status, 401, 'the cookie is worth nothing to whoever has kept it')
  for (const cookie of ['tallygate_session=', 'tallygate_session', 'tallygate_session=x', `tallygate_session=${'€'.repeat(14)}`, `tallygate_session=${'a'.repeat(4_000)}`, '=;;=', '__proto__=1']) {
    t.equal((await ask('GET', '/api/v1/plans', { cookie: Buffer.from(cookie).toString('latin1') })).status, 401, cookie.slice(0, 40))
  }
})

t.test('a session ends when it is not used, after a day, and with its token', async (t) => {
  const { ask, logIn, time, tokens } = await open(t)
  const status = async (cookie: string): Promise<number> => (await ask('GET', '/api/v1/plans', { cookie })).status
  const idle = await logIn(secrets.ops)
  time.ms += 8 * HOUR_MS
  t.equal(await status(idle), 401, 'eight hours without a request')
  const used = await logIn(secrets.ops)
  for (const expected of [200, 200, 200, 401]) {
    time.ms += 7 * HOUR_MS - (expected === 401 ? 0 : 1)
    t.equal(await status(used), expected)
  }
  const alone = await logIn(secrets.ops)
  for (const expected of [200, 401]) {
    time.ms += 5 * HOUR_MS
    t.equal((await ask('GET', '/api/v1/plans', { cookie: alone, headers: { 'x-tallygate-unattended': '1' } })).status, expected, 'a page that asks by itself does not use it')
  }
  const ops = await logIn(secrets.ops)
  const view = await logIn(secrets.view)
  tokens.splice(0, 1)
  t.same([await status(ops), await status(view)], [401, 200], 'a token that is taken away takes its sessions along')
  tokens.splice(0, 1, { name: 'view', hash: hashOfSecret(secrets.view), role: 'admin' as unknown as 'viewer' })
  t.match((await ask('GET', '/api/v1/session', { cookie: view })).json, { role: 'admin' }, 'a role is what it is now')
})

t.test('who logs in often ends sessions of his own token only', async (t) => {
  const { ask, logIn } = await open(t)
  const status = async (cookie: string): Promise<number> => (await ask('GET', '/api/v1/plans', { cookie })).status
  const admin = await logIn(secrets.ops)
  const first = await logIn(secrets.view)
  const second = await logIn(secrets.view)
  for (let n = 2; n < 50; n += 1) await logIn(secrets.view)
  t.equal(await status(first), 200, 'fifty are kept, and this one was used last')
  await logIn(secrets.view)
  t.same([await status(first), await status(second)], [200, 401], 'the one that was used longest ago has ended')
  for (let n = 0; n < 1_000; n += 1) await logIn(secrets.view)
  t.same([await status(first), await status(admin)], [401, 200])
})

t.test('sessions are bounded over all tokens: the token that has most gives one up', async (t) => {
  const sessions = new Sessions(systemClock, systemRandom)
  const tokens = Array.from({ length: 40 }, (_each, n) => ({ name: `t${n}`, hash: hashOfSecret(`t${n}`), role: 'viewer' as const }))
  const rare = sessions.begin(tokens[0]!)
  const ids = tokens.slice(1).flatMap((token) => Array.from({ length: 50 }, () => sessions.begin(token)))
  const isOpen = (id: string): boolean => sessions.find(id, tokens, { touch: false }) !== undefined
  t.equal([rare, ...ids].filter(isOpen).length, 1_000)
  t.ok(isOpen(rare))
})

t.test('W4: guessing is braked by address, and nobody is braked by what others say or guess', async (t) => {
  const { ask, logIn } = await open(t)
  const guess = (n: number, more: Ask = {}): Promise<Answer> => ask('POST', '/api/v1/login', { body: { token: `wrong-token-${n}-0123456789` }, ...more })
  for (let n = 0; n < 10; n += 1) t.equal((await guess(n, { from: '127.0.0.2', headers: { 'x-forwarded-for': `10.0.0.${n}` } })).status, 401, `guess ${n}`)
  const braked = await guess(11, { from: '127.0.0.2', headers: { 'x-forwarded-for': '10.0.0.99', 'x-real-ip': '10.0.0.98', forwarded: 'for=10.0.0.97' } })
  t.match(braked, { status: 429, headers: { 'retry-after': /^([1-9]|[1-5]\d|60)$/ }, json: { detail: /^Too many wrong tokens/ } })
  t.equal((await ask('POST', '/api/v1/login', { body: { token: secrets.ops }, from: '127.0.0.2' })).status, 429, 'the right one as well')
  t.match(await logIn(secrets.ops, { from: '127.0.0.3' }), /^tallygate_session=./, 'another address is let in')
  t.equal((await ask('GET', '/api/v1/plans', { headers: { authorization: `Bearer ${secrets.ops}` }, from: '127.0.0.2' })).status, 200, 'scripts with a token go on')
})

t.test('W4: what a trusted proxy says of an address is believed', async (t) => {
  const { ask } = await open(t, ['127.0.0.1'])
  const guess = (from: string): Promise<Answer> => ask('POST', '/api/v1/login', { body: { token: 'wrong-token-0123456789' }, headers: { 'x-forwarded-for': `1.2.3.4, ${from}` } })
  for (let n = 0; n < 10; n += 1) t.equal((await guess('10.0.0.1')).status, 401)
  t.equal((await guess('10.0.0.1')).status, 429)
  t.equal((await guess('10.0.0.2')).status, 401)
})

t.test('W4: many addresses that guess at once have one attempt each', async (t) => {
  const { ask, logIn } = await open(t, ['127.0.0.1'])
  const guess = (from: string): Promise<Answer> => ask('POST', '/api/v1/login', { body: { token: 'wrong-token-0123456789' }, headers: { 'x-forwarded-for': from } })
  for (let n = 0; n < 200; n += 1) await guess(`10.0.1.${n}`)
  t.equal((await guess('10.0.2.1')).status, 401)
  t.equal((await guess('10.0.2.1')).status, 429)
  t.match(await logIn(secrets.ops, { headers: { 'x-forwarded-for': '10.0.3.1' } }), /^tallygate_session=./, 'who has not guessed is let in')
})

t.test('W4: guessing in the header is braked too', async (t) => {
  const { ask } = await open(t)
  let braked = 0
  for (let n = 0; n < 305; n += 1) braked += (await ask('GET', '/api/v1/plans', { headers: { authorization: `Bearer wrong-token-${n}-0123456789` }, from: '127.0.0.4' })).status === 429 ? 1 : 0
  t.equal(braked, 5)
  t.equal((await ask('GET', '/api/v1/plans', { headers: { authorization: `Bearer ${secrets.ops}` }, from: '127.0.0.4' })).status, 429)
  t.equal((await ask('GET', '/api/v1/plans', { headers: { authorization: 'Bearer local-token-0123456789abcdef' }, from: '127.0.0.4' })).status, 200, 'the command line on this machine is never braked')
  t.equal((await ask('GET', '/api/v1/plans', { headers: { authorization: `Bearer ${secrets.ops}` } })).status, 200)
})
