// Refusals as they stand on the wire, the gateway's own paths, CORS, trailers, and the brake for unknown keys.

import { execFileSync } from 'node:child_process'
import t from 'tap'
import { GatewayError, type ErrorCode, type RefusalDetails } from '../../../src/errors.ts'
import { addressReader } from '../../../src/gateway/client-address.ts'
import { Guard } from '../../../src/gateway/guard.ts'
import { errorHeaders, respondError, respondJson, statusOf } from '../../../src/gateway/respond.ts'
import type { Provider } from '../../../src/providers/provider.ts'
import { openDoor } from './door.ts'
import { rawRequest } from '../../fixtures/raw-client.ts'

const headersOf = (code: ErrorCode, details: RefusalDetails = {}, source: 'downstream' | 'upstream' = 'downstream'): Record<string, string> => {
  const flat = errorHeaders(new GatewayError(code, 'No.', { details, source }))
  return Object.fromEntries(flat.flatMap((name, i) => (i % 2 === 0 ? [[name, flat[i + 1] ?? '']] : [])))
}

t.test('every reason of the contract has its status', async (t) => {
  const table: Partial<Record<ErrorCode, number>> = {
    invalid_api_key: 401, feature_unavailable: 403, subscription_inactive: 403, rate_limited: 429, capacity_reserved: 429, concurrency_limit: 429, usage_limit_reached: 429,
    no_credit_available: 402, request_too_large: 413, metering_unavailable: 503, upstream_unavailable: 502, upstream_busy: 503, upstream_timeout: 504,
  }
  for (const [code, status] of Object.entries(table)) t.equal(statusOf(code as ErrorCode), status, code)
})

t.test('retry-after is whole, at least 1, and never earlier than the truth; long waits say that retrying is in vain', async (t) => {
  t.match(headersOf('rate_limited', { retryAfterMs: 11_001 }), { 'retry-after': '12', 'retry-after-ms': '11001' })
  t.match(headersOf('rate_limited', { retryAfterMs: 0 }), { 'retry-after': '1', 'retry-after-ms': '1' })
  const short = headersOf('rate_limited', { retryAfterMs: 60_000 })
  t.match(short, { 'retry-after': '60', 'retry-after-ms': '60000' })
  t.notOk('x-should-retry' in short)
  const long = headersOf('usage_limit_reached', { retryAfterMs: 60_001 })
  t.match(long, { 'retry-after': '61', 'x-should-retry': 'false' })
  t.notOk('retry-after-ms' in long)
  const never = headersOf('usage_limit_reached', { retryAfterMs: null })
  t.same([never['x-should-retry'], 'retry-after' in never], ['false', false])
  t.match(headersOf('capacity_reserved'), { 'retry-after': /^[1-5]$/ })
  t.match(headersOf('concurrency_limit'), { 'retry-after': /^[1-5]$/ })
  for (const code of ['invalid_api_key', 'no_credit_available', 'feature_unavailable', 'subscription_inactive', 'request_too_large'] as const) t.equal(headersOf(code)['x-should-retry'], 'false', code)
})

t.test('every error says whose it is and is not cached', async (t) => {
  t.match(headersOf('bad_request'), { 'x-tallygate-error': 'gateway', 'cache-control': 'no-store' })
  t.equal(headersOf('upstream_timeout')['x-tallygate-error'], 'upstream')
  t.equal(headersOf('bad_request', {}, 'upstream')['x-tallygate-error'], 'upstream')
  t.match(headersOf('upstream_unavailable', { retryAfterMs: null }), { 'x-should-retry': 'false' })
  t.match(headersOf('invalid_api_key'), { 'www-authenticate': /^Bearer/ })
  t.equal(headersOf('method_not_allowed', { allow: 'POST' }).allow, 'POST')
})

t.test('a refusal is in the dialect\'s shape with its request id, and in a common one before there is a dialect', async (t) => {
  const provider = { requestIdHeader: 'request-id', renderError: (error: GatewayError, facts: object) => Buffer.from(JSON.stringify({ said: error.message, ...facts })) } as unknown as Provider
  const door = await openDoor(t, { handle: async (d) => respondError(d, new GatewayError('rate_limited', 'Slow down.', { details: { retryAfterMs: 2_000, limit: 'rpm' } }), d.path === '/dialect' ? provider : null,
    { requestId: 'id-1', headers: ['ratelimit', '"rpm";r=0;t=2'] }) })
  const own = await rawRequest(door, { target: '/dialect' })
  t.same([own.status, own.header('request-id'), own.header('ratelimit'), own.header('content-type'), own.json()], [429, 'id-1', '"rpm";r=0;t=2', 'application/json', { said: 'Slow down.', status: 429, requestId: 'id-1' }])
  const common = await rawRequest(door, { target: '/none' })
  t.same([common.header('x-request-id'), common.json()], ['id-1', { error: { message: 'Slow down.', type: 'invalid_request_error', param: null, code: 'rate_limited', reason: 'rate_limited', limit: 'rpm' } }])
  t.equal((await rawRequest(door, { method: 'HEAD', target: '/none' })).body.length, 0)
})

t.test('W8: the gateway\'s own paths answer without the handler; the admin port\'s are not here', async (t) => {
  let ready = true
  const door = await openDoor(t, { ready: () => ({ ready, reason: 'store not opened' }) })
  for (const target of ['/', '/health', '/-/live', '/-/ready']) {
    const got = await rawRequest(door, { target })
    t.same([got.status, got.header('content-type')], [200, 'application/json'], target)
    const head = await rawRequest(door, { method: 'HEAD', target })
    t.same([head.status, head.body.length], [200, 0])
    const post = await rawRequest(door, { method: 'POST', target })
    t.same([post.status, post.header('allow')], [405, 'GET, HEAD, OPTIONS'])
  }
  ready = false
  const not = await rawRequest(door, { target: '/-/ready' })
  t.match([not.status, not.json()], [503, { reason: 'store not opened' }])
  t.equal((await rawRequest(door, { target: '/-/live' })).status, 200)
  for (const target of ['/metrics', '/api', '/api/v1/keys', '/-/other', '/-/']) t.equal((await rawRequest(door, { target })).status, 404, target)
  t.equal(door.seen.length, 0)
  for (const target of ['/-/usage', '/api/chat', '/v1/models']) t.equal((await rawRequest(door, { target })).status, 200, `${target} is the handler's`)
})

t.test('C20: CORS for the configured origins only', async (t) => {
  const door = await openDoor(t, { settings: { cors: { origins: ['https://app.example'] } } })
  const preflight = (origin: string): ReturnType<typeof rawRequest> => rawRequest(door, { method: 'OPTIONS', target: '/v1/chat/completions', headers: {
    Origin: origin, 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization,content-type,x-stainless-os',
  } })
  const good = await preflight('https://app.example')
  t.same([good.status, good.header('access-control-allow-origin'), good.header('access-control-allow-headers'), good.header('vary')],
    [204, 'https://app.example', 'authorization, content-type, x-stainless-os', 'Origin'])
  t.match(good.header('access-control-allow-methods'), /POST/)
  const bad = await preflight('https://evil.example')
  t.same([bad.status, bad.headers.filter(([name]) => name.startsWith('access-control'))], [204, []])
  const answer = await rawRequest(door, { target: '/v1/x', headers: { Origin: 'https://app.example' } })
  t.match(answer.header('access-control-expose-headers'), /RateLimit.*x-ratelimit-remaining-tokens/)
  t.equal((await rawRequest(door, { target: '/v1/x', headers: { Origin: 'https://evil.example' } })).header('access-control-allow-origin'), undefined)
  t.equal((await rawRequest(door, { target: '/v1/x' })).header('access-control-allow-origin'), undefined)
  const open = await openDoor(t, { settings: { cors: { origins: ['*'] } } })
  t.equal((await rawRequest(open, { target: '/v1/x', headers: { Origin: 'https://any.example' } })).header('access-control-allow-origin'), '*')
  const closed = await openDoor(t)
  t.equal((await rawRequest(closed, { target: '/v1/x', headers: { Origin: 'https://app.example' } })).header('access-control-allow-origin'), undefined)
})

t.test('trailers come only where the caller said that it takes them', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    d.writeHead(200, ['trailer', 'x-tallygate-remaining'])
    d.write(Buffer.from('body'))
    d.end(undefined, ['x-tallygate-remaining', '"rpm";r=1'])
  } })
  t.same((await rawRequest(door, { headers: { TE: 'trailers', Connection: 'TE' }, target: '/v1/x' })).trailers, [['x-tallygate-remaining', '"rpm";r=1']])
  t.same((await rawRequest(door, { target: '/v1/x' })).trailers, [])
})

t.test('the head of a stream does not wait for its first chunk, and a whole answer is one piece', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    if (d.path === '/whole') return respondJson(d, 200, { a: 1 })
    d.writeHead(200, ['content-type', 'text/event-stream'])
    await new Promise((resolve) => setTimeout(resolve, 150))
    d.end(Buffer.from('x'))
  } })
  const client = await door.client()
  const startedMs = performance.now()
  await client.send('GET /stream HTTP/1.1\r\nHost: h\r\n\r\n')
  const head = await client.readHead()
  t.ok(performance.now() - startedMs < 100)
  for await (const piece of client.pieces(head)) t.equal(piece.bytes.toString(), 'x')
  let packets = 0
  client.socket.on('data', () => { packets += 1 })
  await client.send('GET /whole HTTP/1.1\r\nHost: h\r\n\r\n')
  t.same((await client.readResponse()).json(), { a: 1 })
  t.equal(packets, 1)
})

t.test('A13: guessing is braked per address, by a wait that is told, in bounded memory', async (t) => {
  const guard = new Guard({ allowance: 3, windowSeconds: 60 })
  const unknown = new GatewayError('invalid_api_key', 'No.')
  for (let i = 0; i < 3; i += 1) t.equal(await guard.charge('192.0.2.1', unknown), unknown)
  const braked = await guard.charge('192.0.2.1', unknown)
  t.equal(braked.code, 'too_many_bad_keys')
  const wait = braked.details.retryAfterMs ?? 0
  t.ok(wait > 50_000 && wait <= 60_000)
  t.same([statusOf(braked.code), errorHeaders(braked).includes('x-should-retry')], [429, true])
  t.equal(await guard.charge('192.0.2.2', unknown), unknown, 'another address is another matter')

  for (let i = 0; i < 3; i += 1) await guard.charge(`2001:db8::${i + 1}`, unknown)
  t.equal((await guard.charge('2001:db8:0:0:ffff::9', unknown)).code, 'too_many_bad_keys', 'a host has a whole /64')
  t.equal((await guard.charge('2001:0db8::1:0:0:5', unknown)).code, 'too_many_bad_keys', 'however it is written')
  t.equal(await guard.charge('2001:db8:0:1::1', unknown), unknown, 'the next /64 is another')
  t.equal(await guard.charge('2001:db8::1:0:0:0:5', unknown), unknown, 'also with the gap before it')

  // In a process of its own, where a collection can be asked for.
  const script = `
    const { Guard } = await import(process.argv[1])
    const guard = new Guard()
    const unknown = new Error('unknown')
    globalThis.gc()
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 100_000; i += 1) await guard.charge('2001:db8:' + (i >> 16).toString(16) + ':' + (i & 0xffff).toString(16) + '::1', unknown)
    globalThis.gc()
    console.log((process.memoryUsage().heapUsed - before) / 1_048_576)
    process.exit()`
  const grown = Number(execFileSync(process.execPath, ['--expose-gc', '--input-type=module', '-e', script, new URL('../../../src/gateway/guard.ts', import.meta.url).href], { encoding: 'utf8' }))
  t.ok(grown > 0 && grown < 16, `${grown.toFixed(1)} MiB after 100,000 addresses`)
})

t.test('L19: the address is the peer\'s, or what trusted proxies say, read from the right', async (t) => {
  const read = (trusted: string[], peer: string, forwarded?: string): string => addressReader(trusted)({ socket: { remoteAddress: peer }, headers: forwarded === undefined ? {} : { 'x-forwarded-for': forwarded } } as unknown as Parameters<ReturnType<typeof addressReader>>[0])
  t.equal(read([], '10.0.0.1', '9.9.9.9'), '10.0.0.1', 'nobody is trusted unasked')
  t.equal(read(['10.0.0.0/8'], '10.0.0.1', '9.9.9.9'), '9.9.9.9')
  t.equal(read(['10.0.0.0/8'], '10.0.0.1', '1.1.1.1, 9.9.9.9, 10.0.0.7'), '9.9.9.9', 'what the caller put in front is not believed')
  t.equal(read(['10.0.0.0/8'], '8.8.8.8', '9.9.9.9'), '8.8.8.8', 'a peer that is no proxy is not believed')
  t.equal(read(['10.0.0.0/8'], '10.0.0.1', 'unknown'), '10.0.0.1')
  t.equal(read(['10.0.0.0/8'], '10.0.0.1', '9.9.9.9, "><script>'), '10.0.0.1', 'what is no address says nothing')
  t.equal(read(['10.0.0.0/8'], '::ffff:10.0.0.1', '::ffff:9.9.9.9'), '9.9.9.9', 'IPv4 over IPv6')
  t.equal(read(['loopback', 'fc00::/7'], '::1', '2001:db8::1, fc00::5'), '2001:db8::1')
  t.throws(() => addressReader(['nonsense']), TypeError)
  const door = await openDoor(t, { settings: { trustedProxies: ['loopback'] } })
  await rawRequest(door, { target: '/v1/x', headers: [['X-Forwarded-For', '1.1.1.1'], ['X-Forwarded-For', '9.9.9.9']] })
  t.equal(door.seen[0]?.address, '9.9.9.9', 'lines are one list')
})
