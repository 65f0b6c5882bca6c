// faults.md, section 4.3: headers and credentials, as far as the front door is concerned.

import t from 'tap'
import { callerRequestId, planRequestHeaders, upstreamQuery, upstreamRequestHeaders } from '../../../src/gateway/headers.ts'
import { openDoor, runRows, type Row } from './door.ts'

const get = (headers: string): string => `GET /v1/x HTTP/1.1\r\nHost: h\r\n${headers}\r\n`
const refused = (id: string, what: string, headers: string, status: number | readonly number[] = 400): Row => ({ id, what, bytes: get(headers), status })
const served = (id: string, what: string, headers: string, check?: Row['check']): Row => ({ id, what, bytes: get(headers), status: 200, served: true, ...(check === undefined ? {} : { check }) })

const rows: Row[] = [
  refused('A1', 'headers of 17 KiB', `X-A: ${'a'.repeat(17_000)}\r\n`, 431),
  refused('A1', 'headers of 40 KiB', `X-A: ${'a'.repeat(40_000)}\r\n`, 431),
  refused('A1', 'many headers of 17 KiB together', Array.from({ length: 50 }, (_, i) => `X-${i}: ${'a'.repeat(350)}\r\n`).join(''), 431),
  served('A1', 'headers of 15 KiB are fine', `X-A: ${'a'.repeat(15_000)}\r\n`, (t, seen) => t.equal(seen.headers[3]?.length, 15_000)),
  refused('A2', '3,000 short headers', 'a:\r\n'.repeat(3_000), 431),
  refused('A2', '101 headers', 'a: b\r\n'.repeat(100), 431),
  served('A2', '100 headers, none lost', 'a: b\r\n'.repeat(99), (t, seen) => t.equal(seen.headers.length, 200)),
  refused('A3', 'two Authorizations', 'Authorization: Bearer a\r\nAuthorization: Bearer b\r\n'),
  ...['x-api-key', 'api-key', 'x-goog-api-key', 'Proxy-Authorization', 'Content-Type', 'Content-Encoding'].map((name) => refused('A4', `${name} twice`, `${name}: a\r\n${name.toUpperCase()}: a\r\n`)),
  served('A8', 'names of object members are names like others', '__proto__: a\r\nconstructor: b\r\ntoString: c\r\nhasOwnProperty: d\r\n',
    (t, seen) => t.same(seen.headers.slice(2), ['__proto__', 'a', 'constructor', 'b', 'tostring', 'c', 'hasownproperty', 'd'])),
  served('A9', 'Latin-1 and UTF-8 bytes in a value stay the bytes they are', 'X-A: \xe9\xc3\xa9\r\n', (t, seen) => t.equal(seen.headers[3], '\xe9\xc3\xa9')),
  refused('A11', 'a control byte in a value', 'X-A: a\x01b\r\n'),
  refused('A11', 'DEL in a value', 'X-A: a\x7fb\r\n'),
  refused('A11', 'a control byte in a name', 'X\x01A: b\r\n'),
]

t.test('the front door\'s rows of section 4.3, with a marker behind each', (t) => runRows(t, rows))

t.test('A10: what only the gateway may say does not go upstream', async (t) => {
  const door = await openDoor(t)
  const client = await door.client()
  await client.send(get([
    'Authorization: Bearer caller', 'x-api-key: caller', 'api-key: caller', 'x-goog-api-key: caller', 'Cookie: s=caller', 'Referer: http://h/?key=caller', 'Proxy-Authorization: caller',
    'x-ratelimit-limit-requests: 9', 'RateLimit: "a";r=9', 'anthropic-ratelimit-requests-limit: 9', 'x-request-id: forged', 'x-tallygate-account: forged', 'OpenAI-Organization: forged',
    'X-Forwarded-For: 9.9.9.9', 'Forwarded: for=9.9.9.9', 'X-Original-URL: /admin', 'Connection: close, X-Mine', 'X-Mine: 1', 'TE: trailers', 'Keep-Alive: 1', 'Expect: 100-continue', 'Upgrade: h2c', 'HTTP2-Settings: x',
    'Accept-Encoding: gzip', 'Via: 1.0 fred', 'User-Agent: OpenAI/JS', 'X-Stainless-Retry-Count: 1', 'anthropic-version: 2023-06-01', 'traceparent: 00-x',
  ].map((text) => `${text}\r\n`).join('')))
  await client.readResponse()
  const headers = door.seen[0]?.headers ?? []
  t.ok(headers.includes('forged') && headers.includes('9.9.9.9'), 'the handler sees what was sent')
  const plan = planRequestHeaders({ credentialHeaders: (secret: string) => [['Authorization', `Bearer ${secret}`]], keyHeaders: ['authorization'] } as unknown as Parameters<typeof planRequestHeaders>[0], 'operator', true)
  t.same(upstreamRequestHeaders(plan, headers, 'id-1', true), [
    'user-agent', 'OpenAI/JS', 'x-stainless-retry-count', '1', 'anthropic-version', '2023-06-01', 'traceparent', '00-x',
    'content-type', 'application/json', 'via', '1.0 fred, 1.1 tallygate', 'x-request-id', 'id-1', 'authorization', 'Bearer operator', 'accept-encoding', 'identity',
  ])
  t.same(upstreamRequestHeaders(planRequestHeaders(null, null, false), ['content-type', 'text/x', 'content-length', '5', 'content-encoding', 'gzip', 'x-a', '1', 'x-a', '2'], 'i', true),
    ['content-type', 'text/x', 'x-a', '1', 'x-a', '2', 'via', '1.1 tallygate', 'x-request-id', 'i'], 'repeats stay, framing is made anew')
})

t.test('L18, 5.2: a key in the query never goes upstream, however it is spelt', async (t) => {
  t.equal(upstreamQuery('key=secret'), '')
  t.equal(upstreamQuery('a=1&key=secret&b=%20x&k%65y=secret&API_KEY=secret&access_token=secret&b=2'), 'a=1&b=%20x&b=2')
  t.equal(upstreamQuery('keys=1&monkey=2&%zz=3'), 'keys=1&monkey=2&%zz=3')
  t.equal(upstreamQuery(''), '')
})

t.test('A10: a caller\'s request id is believed only if it can be shown', async (t) => {
  t.equal(callerRequestId('req_1-a.B'), 'req_1-a.B')
  for (const bad of [undefined, '', 'a b', 'a\nb', 'é', 'x'.repeat(129)]) t.equal(callerRequestId(bad), null)
})
