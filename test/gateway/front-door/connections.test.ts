// faults.md, section 4.5 and the rows of 3.5 that concern the connection itself.
// test: alone

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import type { Downstream } from '../../../src/gateway/downstream.ts'
import { respondJson } from '../../../src/gateway/respond.ts'
import { openDoor } from './door.ts'
import { openRawClient } from '../../fixtures/raw-client.ts'
import { waitFor } from '../../fixtures/wait-for.ts'

const get = (headers = ''): string => `GET /v1/x HTTP/1.1\r\nHost: h\r\n${headers}\r\n`
const chunk = Buffer.alloc(65_536, 'x')

/** Streams as fast as the client takes it, until it is gone. */
const flood = (seen: { gone: number; most: number; out: number }) => (d: Downstream): Promise<void> => new Promise((resolve) => {
  let open = true
  d.onGone(() => {
    open = false
    seen.gone += 1
    resolve()
  })
  const pump = (): void => {
    let more = true
    while (open && more) {
      more = d.write(chunk)
      seen.out = d.bytesOut
    }
  }
  d.writeHead(200, ['content-type', 'application/octet-stream'])
  d.onDrain(pump)
  pump()
})

t.test('N1: slow headers end in 408 and a closed connection', async (t) => {
  const door = await openDoor(t, { bounds: { headersMs: 150, checkEveryMs: 50 } })
  const client = await door.client()
  await client.send('GET /v1/x HTTP/1.1\r\nHost: h\r\n')
  const dripping = client.sendSlowly('X-A: aaaaaaaaaaaaaaaaaaaa', 1, 30).catch(() => undefined)
  t.equal((await client.readResponse()).status, 408)
  await client.whenEnded()
  const mute = await door.client()
  await mute.whenEnded()
  t.equal(mute.received().length, 0, 'one that never spoke is closed without a word')
  await dripping
  t.equal(door.seen.length, 0)
  t.equal((await door.rejected()).timeout, 1)
})

t.test('N2, C5, C6: a client that stops reading holds little memory, is cut after the stall time, and others are served meanwhile', async (t) => {
  const seen = { gone: 0, most: 0, out: 0 }
  const stream = flood(seen)
  const door = await openDoor(t, { bounds: { stallMs: 400 }, handle: async (d) => (d.path === '/flood' ? stream(d) : respondJson(d, 200, {})) })
  const client = await door.client()
  client.socket.pause()
  const startedMs = performance.now()
  await client.send('GET /flood HTTP/1.1\r\nHost: h\r\n\r\n')
  await sleep(100)
  const other = await door.client()
  await other.send(get())
  t.equal((await other.readResponse()).status, 200)
  t.ok(seen.out < 16 * 1_024 * 1_024, `only ${seen.out} bytes were taken into buffers`)
  await waitFor('the cut', () => seen.gone === 1, { deadlineMs: 3_000 })
  const elapsedMs = performance.now() - startedMs
  t.ok(elapsedMs > 350 && elapsedMs < 2_000, `cut after ${Math.round(elapsedMs)} ms`)
})

t.test('N2: an answer whose end is not taken is cut too', async (t) => {
  const door = await openDoor(t, { bounds: { stallMs: 200 }, handle: async (d) => {
    d.writeHead(200, [])
    d.end(Buffer.alloc(32 * 1_024 * 1_024))
  } })
  const client = await door.client()
  client.socket.pause()
  await client.send(get())
  await sleep(600)
  client.socket.resume()
  const answer = await client.readResponse()
  t.not(answer.ending, 'complete', 'what was not taken in time is not sent as if it were whole')
})

t.test('C5: a slow reader that keeps reading is served to the end', async (t) => {
  const whole = 4 * 1_024 * 1_024
  const door = await openDoor(t, { bounds: { stallMs: 1_000 }, handle: (d) => new Promise((resolve) => {
    d.writeHead(200, [])
    const pump = (): void => {
      while (d.bytesOut < whole) if (!d.write(chunk)) return
      d.end()
      resolve()
    }
    d.onDrain(pump)
    pump()
  }) })
  const client = await door.client()
  await client.send(get())
  const head = await client.readHead()
  let bytes = 0
  for await (const piece of client.pieces(head)) {
    bytes += piece.bytes.length
    client.socket.pause()
    await sleep(2)
    client.socket.resume()
  }
  t.equal(bytes, whole)
})

t.test('N3: connections from one address are capped; those of a trusted proxy are not', async (t) => {
  const capped = await openDoor(t, { bounds: { connectionsPerAddressMax: 5 } })
  const clients = await Promise.all(Array.from({ length: 8 }, () => openRawClient({ port: capped.port })))
  await waitFor('three to be closed', () => clients.filter((client) => client.ended() !== undefined).length >= 3)
  await sleep(20)
  t.equal(clients.filter((client) => client.ended() !== undefined).length, 3)
  t.equal((await capped.rejected()).connections, 3)
  for (const client of clients) client.close()
  await sleep(100)
  const later = await capped.client()
  await later.send(get())
  t.equal((await later.readResponse()).status, 200, 'places become free again')

  const trusting = await openDoor(t, { bounds: { connectionsPerAddressMax: 5 }, settings: { trustedProxies: ['loopback'] } })
  const many = await Promise.all(Array.from({ length: 8 }, () => openRawClient({ port: trusting.port })))
  await sleep(50)
  t.equal(many.filter((client) => client.ended() !== undefined).length, 0)
  for (const client of many) client.close()
})

t.test('N3: all connections together are capped', async (t) => {
  const door = await openDoor(t, { bounds: { connectionsMax: 4 } })
  const clients = await Promise.all(Array.from({ length: 10 }, () => openRawClient({ port: door.port })))
  await waitFor('six to be closed', () => clients.filter((client) => client.ended() !== undefined).length >= 6)
  await sleep(20)
  t.equal(clients.filter((client) => client.ended() === undefined).length, 4)
  for (const client of clients) client.close()
})

t.test('N3: TLS: plaintext, garbage and a hostile server name end their own connection only', async (t) => {
  const dir = t.testdir({})
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-keyout', keyFile, '-out', certFile], { stdio: 'ignore' })
  const door = await openDoor(t, { settings: { tls: { certFile, keyFile } } })
  t.match(door.server.url, /^https:/)
  for (const bytes of [get(), '\x16\x03\x01\xff\xff'.padEnd(500, '\xff'), '']) {
    const client = await openRawClient({ port: door.port })
    await client.send(Buffer.from(bytes, 'latin1'))
    if (bytes === '') client.reset()
    else await client.whenEnded()
  }
  const ask = (servername: string): Promise<string> => new Promise((resolve, reject) => {
    const socket = connectTls({ port: door.port, host: '127.0.0.1', ca: readFileSync(certFile), servername, checkServerIdentity: () => undefined }, () => socket.write(get('Connection: close\r\n')))
    let text = ''
    socket.on('data', (bytes) => { text += bytes.toString('latin1') }).on('end', () => resolve(text)).on('error', reject)
  })
  for (const name of ['localhost', '__proto__', `${'a'.repeat(63)}.${'b'.repeat(63)}`]) t.match(await ask(name), /^HTTP\/1\.1 200/, name.slice(0, 20))
  t.same(door.errors, [])
})

t.test('N5: a reset at every byte of a request and of its answer is nobody\'s trouble', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    const body = await d.readBody(1_000)
    d.writeHead(200, ['content-type', 'text/plain'])
    for (let i = 0; i < 5; i += 1) {
      d.write(body)
      await sleep(1)
      if (d.gone) return
    }
    d.end()
  } })
  const request = `POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello`
  for (let length = 0; length <= request.length; length += 1) {
    const client = await openRawClient({ port: door.port })
    await client.send(request.slice(0, length))
    client.reset()
  }
  for (let length = 1; length <= 120; length += 3) {
    const client = await openRawClient({ port: door.port })
    await client.send(request)
    await waitFor('bytes of the answer', () => client.received().length >= Math.min(length, 60))
    client.reset()
  }
  const after = await door.client()
  await after.send(request)
  t.equal((await after.readResponse()).text, 'hello'.repeat(5), 'the next one is served')
  t.same(door.errors, [])
  await door.server.drain(() => undefined)
  t.pass('nothing is in flight any more')
})

const handshake = (changes: Record<string, string | null> = {}, line = 'GET /v1/realtime HTTP/1.1'): string => {
  const headers: Record<string, string | null> = {
    Host: 'h', Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', ...changes,
  }
  return `${line}\r\n${Object.entries(headers).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`
}

t.test('N6: a WebSocket handshake with a flaw is never let through', async (t) => {
  const door = await openDoor(t)
  const flaws: [string, string, number][] = [
    ['no key', handshake({ 'Sec-WebSocket-Key': null }), 400],
    ['two keys', handshake({ 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }), 400],
    ['a short key', handshake({ 'Sec-WebSocket-Key': 'abc' }), 400],
    ['version 12', handshake({ 'Sec-WebSocket-Version': '12' }), 426],
    ['no version', handshake({ 'Sec-WebSocket-Version': null }), 426],
    ['POST', handshake({}, 'POST /v1/realtime HTTP/1.1'), 400],
    ['HTTP/1.0', handshake({}, 'GET /v1/realtime HTTP/1.0'), 400],
    ['no Connection', handshake({ Connection: null }), 400],
    ['Connection without upgrade', handshake({ Connection: 'keep-alive' }), 400],
    ['an unknown protocol', handshake({ Upgrade: 'irc' }), 400],
    ['two protocols', handshake({ Upgrade: 'websocket, irc' }), 400],
    ['a body', `${handshake({ 'Content-Length': '5' })}hello`, 400],
    ['a chunked body', `${handshake({ 'Transfer-Encoding': 'chunked' })}0\r\n\r\n`, 400],
    ['a dot segment', handshake({}, 'GET /v1/../admin HTTP/1.1'), 400],
    ['two Hosts', handshake({ host: 'h' }), 400],
    ['two Authorizations', handshake({ Authorization: 'a', authorization: 'b' }), 400],
  ]
  for (const [what, bytes, status] of flaws) {
    const client = await door.client()
    await client.send(bytes)
    const answer = await client.readResponse()
    t.equal(answer.status, status, what)
    if (status === 426) t.equal(answer.header('sec-websocket-version'), '13')
    await client.whenEnded()
  }
  t.same([door.upgrades, door.seen], [[], []], 'nobody saw any of them')
})

t.test('N7: the upgrade path is refused by its own handler, in a normal answer, and never reaches the plain one', async (t) => {
  const door = await openDoor(t)
  const client = await door.client()
  await client.send(`${handshake({}, 'GET /v1/x HTTP/1.1')}${get()}`)
  const answer = await client.readResponse()
  t.same([answer.status, answer.header('connection')], [403, 'close'])
  await client.whenEnded()
  t.same([door.upgrades, door.seen.length], [['/v1/x'], 0])
})

t.test('N6: an accepted upgrade hands over the socket and what came too early; a failing one ends alone', async (t) => {
  const door = await openDoor(t, { handleUpgrade: async (d, _request, socket, head) => {
    if (d.path === '/fails') throw new Error('broken inside')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n\r\nearly:${head.toString()}`)
    await new Promise((resolve) => socket.once('close', resolve).once('data', (bytes: Buffer) => socket.end(`echo:${bytes.toString()}`)))
  } })
  const client = await door.client()
  await client.send(`${handshake()}abc`)
  await waitFor('101', () => client.received().includes('early:abc'))
  await client.send('ping')
  await client.whenEnded()
  t.match(client.received().toString(), /early:abcecho:ping$/)
  const failing = await door.client()
  await failing.send(handshake({}, 'GET /fails HTTP/1.1'))
  t.equal((await failing.readResponse()).status, 500)
  const reset = await door.client()
  await reset.send(handshake())
  reset.reset()
  await sleep(30)
  t.equal(door.errors.length, 1)
})

t.test('C4: a client that only stopped sending gets its whole answer', async (t) => {
  let gone = 0
  const door = await openDoor(t, { handle: async (d) => {
    d.onGone(() => { gone += 1 })
    await sleep(400)
    d.writeHead(200, [])
    for (let i = 0; i < 5; i += 1) {
      d.write(Buffer.from('part '))
      await sleep(20)
    }
    d.end()
  } })
  const client = await door.client()
  await client.send(get())
  client.halfClose()
  const answer = await client.readResponse()
  t.same([answer.status, answer.text, answer.ending, gone], [200, 'part '.repeat(5), 'complete', 0])
  await client.whenEnded()
})

t.test('C2: a client that has closed is noticed within 100 ms, although it looks half-closed', async (t) => {
  let goneMs = Infinity
  const door = await openDoor(t, { handle: (d) => new Promise((resolve) => d.onGone(() => {
    goneMs = performance.now()
    resolve()
  })) })
  for (const how of ['close', 'reset'] as const) {
    goneMs = Infinity
    const client = await openRawClient({ port: door.port })
    await client.send(get())
    await sleep(50)
    const leftMs = performance.now()
    client[how]()
    await waitFor('the news', () => goneMs < Infinity, { deadlineMs: 2_000 })
    t.ok(goneMs - leftMs < 100, `${how}: noticed after ${Math.round(goneMs - leftMs)} ms`)
  }
})

t.test('C3: a client that leaves mid-stream is told of once, and what is written after that goes nowhere', async (t) => {
  let gone = 0
  let wrote = 0
  const door = await openDoor(t, { handle: async (d) => {
    d.onGone(() => { gone += 1 })
    d.writeHead(200, ['content-type', 'text/event-stream'])
    while (!d.gone && wrote < 1_000) {
      d.write(Buffer.from('data: x\n\n'))
      wrote += 1
      await sleep(5)
    }
    d.write(Buffer.from('more'))
    d.end(Buffer.from('end'))
    d.onGone(() => { gone += 10 })
  } })
  const client = await door.client()
  await client.send(get())
  await client.readHead()
  client.close()
  await waitFor('the news', () => gone === 11, { deadlineMs: 2_000 })
  t.ok(wrote < 30, `after ${wrote} events`)
  t.same(door.errors, [])
})

t.test('a whole answer is not mistaken for a client that has gone', async (t) => {
  let gone = 0
  const door = await openDoor(t, { handle: async (d) => {
    d.onGone(() => { gone += 1 })
    respondJson(d, 200, {})
  } })
  const client = await door.client()
  await client.send(get('Connection: close\r\n'))
  t.equal((await client.readResponse()).ending, 'complete')
  await client.whenEnded()
  client.close()
  await sleep(20)
  t.equal(gone, 0)
})

t.test('a cut answer never looks whole: chunked, by length, by the connection\'s end', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    d.writeHead(200, d.path === '/length' ? ['content-length', '100'] : [])
    d.write(Buffer.from('some'))
    await sleep(20)
    d.cut()
  } })
  for (const [target, version, ending] of [['/chunked', '1.1', 'end'], ['/length', '1.1', 'end'], ['/close', '1.0', 'reset']] as const) {
    const client = await door.client()
    await client.send(`GET ${target} HTTP/${version}\r\nHost: h\r\n\r\n`)
    t.equal((await client.readResponse()).ending, ending, target)
  }
})

t.test('G16: an error inside is a 500 without its words, or a cut once the answer has begun; the process goes on', async (t) => {
  const door = await openDoor(t, { handle: async (d) => {
    if (d.path === '/late') d.writeHead(200, [])
    if (d.path === '/silent') return
    if (d.path === '/header') return d.writeHead(200, ['x-a', 'line\nbreak'])
    throw new Error('secret of the inside')
  } })
  for (const path of ['/early', '/silent', '/header']) {
    const client = await door.client()
    await client.send(`GET ${path} HTTP/1.1\r\nHost: h\r\n\r\n`)
    const answer = await client.readResponse()
    t.match(answer.json(), { error: { code: 'internal', type: 'server_error' } }, path)
    t.notMatch(answer.text, /secret/)
  }
  const late = await door.client()
  await late.send('GET /late HTTP/1.1\r\nHost: h\r\n\r\n')
  t.not((await late.readResponse()).ending, 'complete')
  t.ok(door.errors.length >= 3)
  t.notMatch(JSON.stringify(door.errors), /secret/, 'the log does not have them either')
})

t.test('N12: a PROXY protocol line is no request', async (t) => {
  const door = await openDoor(t)
  for (const bytes of [`PROXY TCP4 9.9.9.9 127.0.0.1 1 2\r\n${get()}`, `\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c${get()}`]) {
    const client = await door.client()
    await client.send(Buffer.from(bytes, 'latin1'))
    t.equal((await client.readResponse()).status, 400)
    await client.whenEnded()
  }
  t.equal(door.seen.length, 0)
})

t.test('a taken address is an error of start, not a crash', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => taken.once('listening', resolve))
  t.teardown(() => { taken.close() })
  const address = taken.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  await t.rejects(openDoor(t, { settings: { listen: { host: '127.0.0.1', port } } }), { code: 'EADDRINUSE' })
})
