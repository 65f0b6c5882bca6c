import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { codeWords, placeOf, statusWords } from '../../src/failure-words.ts'
import { whyNotAddress, whyNotHost } from '../../src/sinks/address.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpOptions } from '../../src/sinks/http.ts'
import { DeliveryFailed } from '../../src/sinks/sink.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'

const never = new AbortController().signal

async function serve(t: Teardown, answer: (request: IncomingMessage, response: ServerResponse, body: string) => void): Promise<string> {
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => { body += chunk.toString('utf8') }).on('end', () => answer(request, response, body)).on('error', () => undefined)
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function client(t: Teardown, options: Partial<HttpOptions> = {}): SinkHttp {
  const http = new SinkHttp({ permitPrivate: true, ...options }, { clock: systemClock })
  t.teardown(() => http.close())
  return http
}

async function failureOf(promise: Promise<unknown>): Promise<DeliveryFailed> {
  const failure: unknown = await promise.then((value) => value, (error: unknown) => error)
  if (failure instanceof DeliveryFailed) return failure
  throw new Error(`no failure: ${String(failure)}`)
}

t.test('every status says what the loop does about it', async (t) => {
  let status = 200
  let headers: Record<string, string> = {}
  const url = await serve(t, (_request, response) => {
    response.writeHead(status, headers)
    response.end('{"code":"x"}')
  })
  const http = client(t)
  const table: readonly (readonly [number, Record<string, string>, DeliveryFailed['kind'], number | null])[] = [
    [400, {}, 'refused', null], [401, {}, 'unauthorized', null], [403, {}, 'unauthorized', null], [404, {}, 'unauthorized', null], [405, {}, 'unauthorized', null], [408, {}, 'busy', null],
    [409, {}, 'refused', null], [413, {}, 'too_large', null], [422, {}, 'refused', null], [425, {}, 'busy', null], [429, {}, 'busy', null], [429, { 'retry-after': '30' }, 'busy', 30_000],
    [429, { 'retry-after': '999999' }, 'busy', 3_600_000], [429, { 'retry-after': 'soon' }, 'busy', null], [500, {}, 'unknown', null], [502, {}, 'unknown', null], [503, {}, 'unknown', null],
    [503, { 'retry-after': '2' }, 'busy', 2_000], [504, {}, 'unknown', null], [301, { location: 'http://127.0.0.1/' }, 'unauthorized', null], [307, { location: '/' }, 'unauthorized', null],
  ]
  for (const [code, given, kind, retryAfterMs] of table) {
    status = code
    headers = given
    const failure = await failureOf(http.mustAccept({ url }, never))
    t.strictSame([failure.kind, failure.retryAfterMs, failure.message], [kind, retryAfterMs, statusWords(code)], `${code} ${JSON.stringify(given)}`)
  }
  status = 429
  headers = { 'retry-after': new Date(Date.now() + 20_000).toUTCString() }
  const { retryAfterMs } = await failureOf(http.mustAccept({ url }, never))
  t.ok(retryAfterMs !== null && retryAfterMs > 15_000 && retryAfterMs <= 20_000, 'Retry-After as a date')
  headers = { 'retry-after': new Date(Date.now() - 20_000).toUTCString() }
  t.equal((await failureOf(http.mustAccept({ url }, never))).retryAfterMs, 0)
})

t.test('requests go out as they are told, over connections that are kept; answers come back with status, headers and text', async (t) => {
  const seen: unknown[] = []
  const ports = new Set<number | undefined>()
  const url = await serve(t, (request, response, body) => {
    ports.add(request.socket.remotePort)
    seen.push([request.method, request.url, request.headers['authorization'], request.headers['content-type'], body])
    response.writeHead(202, { 'x-one': 'a' })
    response.end('{"done":["é"]}')
  })
  const http = client(t)
  for (let i = 0; i < 5; i++) {
    const answer = await http.mustAccept({ url: `${url}/v1/events?a=b`, headers: { authorization: 'Bearer s', 'content-type': 'application/json' }, body: '{"x":"é"}' }, never)
    t.strictSame([answer.status, answer.headers['x-one'], fieldOf(jsonOf(answer), 'done')], [202, 'a', ['é']])
  }
  t.strictSame(seen[0], ['POST', '/v1/events?a=b', 'Bearer s', 'application/json', '{"x":"é"}'])
  t.ok(ports.size <= 2, `${ports.size} connections`)
  t.equal(jsonOf({ status: 200, headers: {}, text: '' }), undefined)
  t.equal(fieldOf({ a: 1 }, 'toString'), undefined)
})

t.test('nothing left: busy; something left and no answer: unknown', async (t) => {
  const closed = createTcpServer()
  await new Promise<void>((resolve) => { closed.listen(0, '127.0.0.1', resolve) })
  const { port } = closed.address() as AddressInfo
  await new Promise((resolve) => { closed.close(resolve) })
  const http = client(t, { silenceMs: 300 })
  t.match(await failureOf(http.send({ url: `http://127.0.0.1:${port}` }, never)), { kind: 'busy', message: `nobody listens at 127.0.0.1:${port} (ECONNREFUSED)` })
  const secret = http.send({ url: `http://user:hunter2@127.0.0.1:${port}/hunter2?key=hunter2` }, never)
  t.equal((await failureOf(secret) as Error).message, `nobody listens at 127.0.0.1:${port} (ECONNREFUSED)`, 'host and port, nothing else')
  t.match(await failureOf(http.send({ url: 'http://no-such-host.invalid' }, never)), { kind: 'busy', message: /^no-such-host\.invalid (is not known \(ENOTFOUND\)|cannot be looked up just now \(EAI_AGAIN\))$/ })
  const behaviours: Record<string, (socket: Socket) => void> = {
    'reset after the body': (socket) => { socket.once('data', () => socket.resetAndDestroy()) },
    'end without an answer': (socket) => { socket.once('data', () => socket.end()) },
    'half an answer': (socket) => { socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"accepted"')) },
    'no HTTP': (socket) => { socket.once('data', () => socket.end('nonsense\r\n\r\n')) },
    'silence': () => undefined,
    'silence in the answer': (socket) => { socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{')) },
  }
  for (const [name, behaviour] of Object.entries(behaviours)) {
    const sockets = new Set<Socket>()
    const server = createTcpServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => undefined)
      behaviour(socket)
    })
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    t.match(await failureOf(http.send({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, body: '{}' }, never)), { kind: 'unknown' }, name)
    for (const socket of sockets) socket.destroy()
    server.close()
  }
})

t.test('an attempt that is given up ends at once: unknown when it had begun, busy when not', async (t) => {
  const url = await serve(t, () => undefined)
  const http = client(t)
  const attempt = new AbortController()
  const sent = failureOf(http.send({ url, body: '{}' }, attempt.signal))
  setTimeout(() => attempt.abort(), 100)
  t.match(await sent, { kind: 'unknown', message: 'aborted' })
  t.match(await failureOf(http.send({ url }, AbortSignal.abort())), { kind: 'busy' })
})

t.test('an answer is not read without end, and not decoded', async (t) => {
  const url = await serve(t, (request, response) => {
    if (request.url === '/gzip') return response.writeHead(200, { 'content-encoding': 'gzip' }).end('not gzip at all')
    response.writeHead(200)
    const more = (): void => { while (response.write('x'.repeat(65_536)));  response.once('drain', more) }
    response.on('error', () => undefined)
    return more()
  })
  const http = client(t)
  t.match(await failureOf(http.send({ url, answerMax: 100_000 }, never)), { kind: 'unknown', message: 'the answer is too long' })
  t.equal((await http.send({ url: `${url}/gzip` }, never)).text, 'not gzip at all')
})

t.test('S17: redirects are not followed, and addresses of one\'s own network need to be meant; those that give credentials away are refused always', async (t) => {
  let asked = 0
  const url = await serve(t, (_request, response) => {
    asked += 1
    response.end('{}')
  })
  const redirecting = await serve(t, (_request, response) => response.writeHead(308, { location: url }).end())
  t.match(await failureOf(client(t).mustAccept({ url: redirecting, body: '{"secret":1}' }, never)), { kind: 'unauthorized', message: 'status 308: it points to another address, and that is not followed' })
  t.equal(asked, 0)
  const strict = client(t, { permitPrivate: false })
  const { port } = new URL(url)
  for (const host of ['127.0.0.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '2130706433', '0x7f.1', '[::ffff:7f00:1]']) {
    t.match(await failureOf(strict.send({ url: `http://${host}:${port}/`, body: '{}' }, never)), { message: /private|this machine/ }, host)
  }
  t.equal(asked, 0, 'nothing has been connected to')
  for (const host of ['169.254.169.254', '[fe80::1]', '[::ffff:169.254.169.254]', '[64:ff9b::a9fe:a9fe]', '0.0.0.0', '100.100.100.200', '[fd00:ec2::254]', 'metadata.google.internal']) {
    t.match(await failureOf(client(t).send({ url: `http://${host}/latest/meta-data` }, never)), { kind: 'unauthorized' }, `${host}, also where private addresses are meant`)
  }
})

t.test('S17: what a name stands for is judged when it is connected to', async (t) => {
  let asked = 0
  const url = await serve(t, (_request, response) => {
    asked += 1
    response.end('{}')
  })
  // The name of this machine resolves to its own address, which nobody can read off the name.
  const { hostname } = await import('node:os')
  const failure = await failureOf(client(t, { permitPrivate: false }).send({ url: `http://${hostname()}:${new URL(url).port}/` }, never))
  t.equal(failure.kind, 'busy', failure.message)
  t.equal(asked, 0)
})

t.test('which addresses are whose', async (t) => {
  for (const address of ['8.8.8.8', '1.1.1.1', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '64:ff9b::808:808', '2002:808:808::1']) t.equal(whyNotAddress(address, false), null, address)
  for (const address of ['10.1.2.3', '172.16.0.1', '172.31.255.255', '192.168.1.1', '100.64.0.1', '127.9.9.9', '::1', 'fc00::1', 'fd12::1', '::ffff:10.0.0.1', '64:ff9b::a00:1', '2002:a00:1::1', '::10.0.0.1']) {
    t.match(whyNotAddress(address, false), /private/, address)
    t.equal(whyNotAddress(address, true), null, `${address} when it is meant`)
  }
  for (const address of ['169.254.0.1', '0.1.2.3', '224.0.0.1', '255.255.255.255', 'fe80::1%eth0', 'ff02::1', '::', '2002:a9fe:a9fe::1']) t.match(whyNotAddress(address.replace(/%.*/, ''), true), /reserved/, address)
  t.equal(whyNotHost('api.example.com', false), null)
  t.match(whyNotHost('a.localhost.', false), /this machine/)
})

t.test('a status and a code say what they mean, whatever they are', async (t) => {
  for (let status = 100; status < 600; status++) t.match(statusWords(status), new RegExp(`^status ${status}: [a-z]+ `))
  t.equal(statusWords(401), 'status 401: it does not accept the credentials')
  t.equal(statusWords(422, 'too_old'), 'status 422 too_old: it finds the request wrong')
  t.equal(codeWords('CERT_HAS_EXPIRED', 'a.b:443'), 'the certificate of a.b:443 has expired (CERT_HAS_EXPIRED)')
  t.equal(codeWords('ENOSPC', null), 'the disk is full (ENOSPC)')
  t.equal(codeWords('EWHATEVER', 'a.b:443'), 'a.b:443: EWHATEVER')
  t.equal(codeWords('constructor', 'a.b:443'), 'constructor')
  t.equal(placeOf('https://user:secret@a.b/secret?secret#secret'), 'a.b:443')
  t.equal(placeOf('http://[::1]:4318/v1'), '[::1]:4318')
  t.equal(placeOf('nonsense'), null)
})
