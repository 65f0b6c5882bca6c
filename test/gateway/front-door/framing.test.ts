// faults.md, section 4.1: framing and smuggling.

import t from 'tap'
import { openDoor, runRows, type Row } from './door.ts'
import { openRawClient } from '../../fixtures/raw-client.ts'

const post = (headers: string, body = ''): string => `POST /v1/x HTTP/1.1\r\nHost: h\r\n${headers}\r\n${body}`
const chunked = (body: string, more = ''): string => post(`${more}Transfer-Encoding: chunked\r\n`, body)
const refused = (id: string, what: string, bytes: string, status: number | readonly number[] = 400): Row => ({ id, what, bytes, status })
const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n'

const rows: Row[] = [
  refused('H1', 'Content-Length, then Transfer-Encoding', post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n')),
  refused('H1', 'Transfer-Encoding, then Content-Length', post('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', '0\r\n\r\n')),
  refused('H2', 'two equal Content-Lengths', post('Content-Length: 5\r\nContent-Length: 5\r\n', 'hello')),
  refused('H2', 'two different Content-Lengths', post('Content-Length: 5\r\nContent-Length: 6\r\n', 'hello!')),
  refused('H2', 'a list of Content-Lengths', post('Content-Length: 5, 5\r\n', 'hello')),
  ...['+5', '-5', '0x5', '', '1 1', '18446744073709551617', '9007199254740993'].map((length) =>
    refused('H3', `Content-Length ${JSON.stringify(length)}`, post(`Content-Length: ${length}\r\n`, 'hello'))),
  refused('H3', 'a space before the colon', post('Content-Length : 5\r\n', 'hello')),
  refused('H4', 'leading zeros', post('Content-Length: 005\r\n', 'hello')),
  refused('H4', 'several zeros', post('Content-Length: 00\r\n')),
  ...['xchunked', 'chunked, identity', 'chunked, chunked', 'chunked, gzip', 'chunked,', '', '"chunked"', 'chunked;q=1', '\x0bchunked', 'chun\0ked'].map((coding) =>
    refused('H5', `Transfer-Encoding ${JSON.stringify(coding)}`, post(`Transfer-Encoding: ${coding}\r\n`, '0\r\n\r\n'))),
  refused('H5', 'identity with a Content-Length', post('Transfer-Encoding: identity\r\nContent-Length: 5\r\n', 'hello')),
  refused('H5', 'two Transfer-Encodings', post('Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n', '0\r\n\r\n')),
  refused('H5', 'a folded Transfer-Encoding', post('Transfer-Encoding:\r\n chunked\r\n', '0\r\n\r\n')),
  refused('H5', 'a space before its colon', post('Transfer-Encoding : chunked\r\n', '0\r\n\r\n')),
  refused('H6', 'gzip, chunked', post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n'), 501),
  refused('H7', 'an empty coding first', post('Transfer-Encoding: , chunked\r\n', '0\r\n\r\n')),
  { id: 'H7', what: 'a tab before the value is white space', bytes: post('Transfer-Encoding:\tchunked\r\n', '5\r\nhello\r\n0\r\n\r\n'), status: 200, served: true,
    check: (t, seen) => t.equal(seen.body, 'hello') },
  refused('H8', 'HTTP/1.0 with Transfer-Encoding', 'POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
  ...['Transfer_Encoding: chunked', 'Content_Length: 5', 'X_Api_Key: k', 'Proxy_Authorization: x', 'X_Forwarded_For: 1.1.1.1', 'X-Goog_Api-Key: k'].map((line) =>
    refused('H9', line, post(`${line}\r\n`))),
  { id: 'H9', what: 'an underscore elsewhere is the sender\'s own business', bytes: post('my_own: x\r\n'), status: 200, served: true },
  refused('H10', 'a folded header', post('X-A: a\r\n b\r\n')),
  refused('H11', 'bare LF everywhere', 'POST /v1/x HTTP/1.1\nHost: h\n\n'),
  refused('H11', 'bare LF after one header', 'POST /v1/x HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n'),
  refused('H11', 'bare CR in a value', post('X-A: a\rb\r\n')),
  refused('H11', 'NUL in a value', post('X-A: a\0b\r\n')),
  refused('H12', 'a space in a name', post('X A: b\r\n')),
  refused('H12', 'no colon', post('X-A\r\n')),
  refused('H12', 'an empty name', post(': b\r\n')),
  refused('H12', 'a space before the first header', 'POST /v1/x HTTP/1.1\r\n Host: h\r\n\r\n'),
  { id: 'H13', what: 'a chunk extension is dropped', bytes: chunked('5;a=b\r\nhello\r\n0\r\n\r\n'), status: 200, served: true, check: (t, seen) => t.equal(seen.body, 'hello') },
  refused('H14', 'a bare semicolon', chunked('5;\r\nhello\r\n0\r\n\r\n')),
  refused('H14', 'an extension with LF', chunked('5;a\n\r\nhello\r\n0\r\n\r\n')),
  refused('H14', 'an extension with CR', chunked('5;a\rb\r\nhello\r\n0\r\n\r\n')),
  refused('H14', 'an extension with a quoted line end', chunked('5;a="\r\n"\r\nhello\r\n0\r\n\r\n')),
  refused('H15', '20 KB of extensions', chunked(`5;${'a'.repeat(20_000)}\r\nhello\r\n0\r\n\r\n`), 413),
  ...['5\n', '-5\r\n', '+5\r\n', '0x5\r\n', ' 5\r\n', '5 \r\n', '10000000000000005\r\n'].map((size) =>
    refused('H16', `chunk size ${JSON.stringify(size)}`, chunked(`${size}hello\r\n0\r\n\r\n`))),
  refused('H16', 'more data than the size says', chunked('5\r\nhelloworld\r\n0\r\n\r\n')),
  refused('H16', 'no line end behind the data', chunked('5\r\nhello0\r\n\r\n')),
  refused('H17', 'a trailer Content-Length', chunked('5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n')),
  { id: 'H18', what: 'trailers of identity and framing are dropped', status: 200, served: true,
    bytes: chunked('5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\nHost: evil\r\nx-api-key: k\r\n\r\n'),
    check: (t, seen) => t.notMatch(seen.headers.join(), /Bearer|evil|x-api-key/i) },
  ...['GET', 'HEAD', 'DELETE'].map((method): Row => ({ id: 'H19', what: `${method} with a body: it is read and nothing stays on the wire`,
    bytes: `${method} /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello`, status: 200, served: true, check: (t, seen) => t.equal(seen.body, 'hello') })),
  { id: 'H19', what: 'OPTIONS with a body: answered, and nothing stays on the wire', bytes: 'OPTIONS /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello', status: 204,
    served: 'here' },
  { id: 'H20', what: 'POST without a length has no body; what follows is a request of its own', bytes: post(''), status: 200, served: true, check: (t, seen) => t.equal(seen.body, '') },
  refused('H21', 'an upgrade with a body and a smuggled request', `GET /v1/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`),
  { id: 'H22', what: 'h2c is ignored and answered over HTTP/1.1', bytes: 'GET /v1/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n',
    status: 200, served: true, closes: true },
  { id: 'H23', what: '100-continue with the body right behind', bytes: post('Expect: 100-continue\r\nContent-Length: 5\r\n', 'hello'), status: 200, served: true,
    check: (t, seen) => t.equal(seen.body, 'hello') },
  ...['200-ok', '100-continue, 200-ok', 'x100-continue', '100-continue-x'].map((expect) =>
    refused('H24', `Expect: ${expect}`, post(`Expect: ${expect}\r\nContent-Length: 5\r\n`, 'hello'), 417)),
  refused('H25', 'Expect twice', post('Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n', 'hello')),
  refused('H25', 'Content-Length hidden behind a space', post(' Content-Length: 5\r\n', 'hello')),
  refused('H25', 'Content-Length hidden behind a tab', post('\tContent-Length: 5\r\n', 'hello')),
  ...['Content-Length', 'Authorization, Host, Transfer-Encoding, x-api-key, Cookie', 'close, authorization', 'Host', 'x-forwarded-for', 'Content-Type'].map((names) =>
    refused('H26', `Connection: ${names}`, post(`Connection: ${names}\r\nContent-Length: 5\r\n`, 'hello'))),
  { id: 'H26', what: 'Connection names a header of no importance', bytes: post('Connection: X-Mine\r\nX-Mine: 1\r\n'), status: 200, served: true },
]

t.test('every row of section 4.1, with a marker behind it (H27)', (t) => runRows(t, rows))

t.test('H19, H25: an early answer never leaves bytes of the body to be read as a request', async (t) => {
  const early = await openDoor(t, { handle: async (d) => {
    d.writeHead(401, ['content-length', '2'])
    d.end(Buffer.from('no'))
  } })
  const arrived = await early.client()
  await arrived.send(post('Content-Length: 5\r\n', 'hello') + post('Content-Length: 5\r\n', 'hello'))
  t.same([(await arrived.readResponse()).header('connection'), (await arrived.readResponse()).status], ['keep-alive', 401], 'a small body that has come is thrown away, and the connection is kept')

  const missing = await early.client()
  await missing.send(post(`Content-Length: ${smuggled.length}\r\n`))
  const answer = await missing.readResponse()
  t.same([answer.status, answer.header('connection'), answer.text], [401, 'close', 'no'], 'a body that does not come ends the connection, after the answer')
  await missing.send(smuggled + smuggled)
  t.equal(await missing.whenEnded(), 'end')
  t.equal(missing.received().toString('latin1').match(/HTTP\/1\.1 /g)?.length, 1, 'nothing else is answered')

  const large = await early.client()
  const sending = large.send(Buffer.concat([Buffer.from(post('Content-Length: 3000000\r\n')), Buffer.alloc(3_000_000)])).catch(() => undefined)
  const whole = await large.readResponse()
  t.same([whole.status, whole.text, whole.ending], [401, 'no', 'complete'], 'a client that is still sending gets the whole answer and no reset before it')
  await sending
})

t.test('H23: 100 is sent when the handler asks for the body, and never to a refused request', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    if (d.header('authorization') === undefined) {
      d.writeHead(401, ['content-length', '0'])
      return d.end()
    }
    const body = await d.readBody(100)
    d.writeHead(200, [])
    d.end(body)
  } })
  const client = await door.client()
  await client.send(post('Expect: 100-continue\r\nContent-Length: 5\r\n'))
  const refusal = await client.readResponse()
  t.same([refusal.status, refusal.interim, refusal.header('connection')], [401, [], 'close'])
  await client.whenEnded()

  const known = await door.client()
  await known.send(post('Authorization: Bearer k\r\nExpect: 100-continue\r\nContent-Length: 5\r\n'))
  const head = known.readHead()
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.match(known.received().toString(), /^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  await known.send('hello')
  t.same([(await head).status, (await head).interim], [200, [100]])

  const tooLarge = await door.client()
  await tooLarge.send(post('Authorization: Bearer k\r\nExpect: 100-continue\r\nContent-Length: 500\r\n'))
  t.match(await tooLarge.readResponse(), { status: 413, interim: [] }, 'too large by its length alone: no 100')
})

t.test('H28, C18: pipelined requests are handled one at a time, answered in order, and bounded', async (t) => {
  let running = 0
  let most = 0
  let handled = 0
  const door = await openDoor(t, { bounds: { pipelinedMax: 20 }, handle: async (d) => {
    most = Math.max(most, ++running)
    handled += 1
    await new Promise((resolve) => setTimeout(resolve, 1))
    running -= 1
    d.writeHead(200, ['content-length', String(d.path.length)])
    d.end(Buffer.from(d.path))
  } })
  const client = await door.client()
  await client.send(Array.from({ length: 1_000 }, (_, i) => `GET /n${i} HTTP/1.1\r\nHost: h\r\n\r\n`).join(''))
  await client.whenEnded()
  const text = client.received().toString('latin1')
  const answered = [...text.matchAll(/\/n\d+/g)].map(([path]) => path)
  t.equal(most, 1, 'never two at once')
  t.ok(handled <= 21, `${handled} were handled`)
  t.same(answered, Array.from({ length: handled }, (_, i) => `/n${i}`), 'in order, none twice')
  t.match(text.slice(text.lastIndexOf('HTTP/1.1')), /connection: close/i, 'the last answer says that it is the last')
})

t.test('H28, N4: a connection serves a bounded number of requests', async (t) => {
  const door = await openDoor(t, { bounds: { requestsPerConnectionMax: 3 } })
  const client = await door.client()
  for (let i = 0; i < 3; i += 1) {
    await client.send('GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n')
    t.equal((await client.readResponse()).header('connection'), i === 2 ? 'close' : 'keep-alive')
  }
  await client.whenEnded()
  t.equal(door.seen.length, 3)
})

t.test('C17: a connection remembers nobody: each request carries its own headers', async (t) => {
  const door = await openDoor(t)
  const client = await openRawClient({ port: door.port })
  t.teardown(() => client.close())
  for (let i = 0; i < 100; i += 1) {
    await client.send(`GET /v1/x HTTP/1.1\r\nHost: h\r\n${i % 2 === 0 ? `Authorization: Bearer k${i}\r\n` : ''}\r\n`)
    await client.readResponse()
  }
  t.same(door.seen.map(({ headers }) => headers[3]), Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? `Bearer k${i}` : undefined)))
})
