// faults.md, section 4.4: bodies, as far as the front door is concerned (size, encoding, pace, type).

import { setTimeout as sleep } from 'node:timers/promises'
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import t from 'tap'
import { requireJson } from '../../../src/gateway/request-body.ts'
import { openDoor, type Door } from './door.ts'
import { requestBytes } from '../../fixtures/raw-client.ts'

const settings = { bodyMaxBytes: 1_000 }

async function ask(door: Door, headers: Record<string, string>, body: Buffer | string): Promise<{ status: number; connection: string | undefined; body: unknown; accepts: string | undefined }> {
  const client = await door.client()
  await client.send(requestBytes({ method: 'POST', target: '/v1/x', headers, body }))
  const answer = await client.readResponse()
  client.close()
  return { status: answer.status, connection: answer.header('connection'), body: answer.json(), accepts: answer.header('accept-encoding') }
}

t.test('B1: a body over the bound is refused by its length, before it is read', async (t) => {
  const door = await openDoor(t, { settings })
  const client = await door.client()
  await client.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n')
  const answer = await client.readResponse()
  t.same([answer.status, answer.header('connection'), answer.header('x-should-retry')], [413, 'close', 'false'])
  await client.whenEnded()
  t.equal(door.seen.length, 0)
  t.equal((await ask(door, {}, 'x'.repeat(1_000))).status, 200, 'a body of just the bound is served')
})

t.test('B1: a chunked body is refused at the byte that crosses the bound', async (t) => {
  const door = await openDoor(t, { settings })
  const client = await door.client()
  await client.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n' + 'x'.repeat(1_000) + '\r\n')
  await sleep(50)
  t.equal(client.received().length, 0, 'at the bound it may still be fine')
  await client.send('1\r\nx\r\n')
  const answer = await client.readResponse()
  t.same([answer.status, answer.header('connection')], [413, 'close'], 'the end is not waited for')
  await client.whenEnded()
  t.equal(door.seen.length, 0)
})

t.test('B9: one layer of a known encoding is decoded', async (t) => {
  const door = await openDoor(t, { settings })
  const plain = JSON.stringify({ text: 'hello hello hello' })
  for (const [coding, bytes] of [
    ['gzip', gzipSync(plain)], ['x-gzip', gzipSync(plain)], ['br', brotliCompressSync(plain)], ['zstd', zstdCompressSync(plain)],
    ['deflate', deflateSync(plain)], ['deflate', deflateRawSync(plain)], ['identity', Buffer.from(plain)], ['GZIP', gzipSync(plain)],
  ] as const) {
    t.equal((await ask(door, { 'Content-Encoding': coding }, bytes)).status, 200, coding)
    t.equal(door.seen.at(-1)?.body, plain)
  }
  t.equal((await ask(door, { 'Content-Encoding': 'gzip' }, '')).status, 200, 'an empty body has nothing to decode')
})

t.test('B9: stacked, unknown and broken encodings are refused', async (t) => {
  const door = await openDoor(t, { settings })
  for (const coding of ['gzip, gzip', Array.from({ length: 1_000 }, () => 'gzip').join(','), 'compress', 'aes128gcm']) {
    t.match(await ask(door, { 'Content-Encoding': coding }, gzipSync(gzipSync('x'))), { status: 415, accepts: 'gzip, br, zstd, deflate' }, coding.slice(0, 20))
  }
  for (const coding of ['gzip', 'br', 'zstd', 'deflate']) t.equal((await ask(door, { 'Content-Encoding': coding }, 'not encoded at all')).status, 400, coding)
  t.equal((await ask(door, { 'Content-Encoding': 'gzip' }, gzipSync('hello hello').subarray(0, -6))).status, 400, 'cut short')
  t.equal(door.seen.length, 0)
})

t.test('B9: a bomb is stopped at the bound', async (t) => {
  const door = await openDoor(t, { settings: { bodyMaxBytes: 300_000 } })
  const zeros = Buffer.alloc(100 * 1_024 * 1_024)
  for (const [coding, bomb] of [['br', brotliCompressSync(zeros)], ['gzip', gzipSync(zeros)], ['zstd', zstdCompressSync(zeros)]] as const) {
    t.ok(bomb.length < 300_000)
    const before = process.memoryUsage().rss
    t.equal((await ask(door, { 'Content-Encoding': coding }, bomb)).status, 413, `${bomb.length} bytes of ${coding}`)
    t.ok(process.memoryUsage().rss - before < 50 * 1_024 * 1_024, 'nothing like the whole was made')
  }
  t.equal(door.seen.length, 0)
})

t.test('B8: only JSON in UTF-8 is taken for JSON', async (t) => {
  for (const good of [undefined, 'application/json', 'Application/JSON', 'application/json; charset=utf-8', 'application/json ; charset=UTF-8', 'application/json;charset="utf-8"', 'application/problem+json', 'application/json; profile=x']) {
    t.doesNotThrow(() => requireJson(good), String(good))
  }
  for (const bad of ['', 'text/plain', 'application/json, text/html', 'multipart/form-data; boundary=x', 'application/json; charset=utf-16', 'application/x-www-form-urlencoded', 'application/jsonx', 'text/json', 'xapplication/json', 'application/+json']) {
    t.throws(() => requireJson(bad), { code: 'unsupported_media_type' }, bad)
  }
})

t.test('B15: a body that trickles is given up with 408; a slow but honest one is not', async (t) => {
  const door = await openDoor(t, { bounds: { bodyPace: { graceMs: 200, bytesPerSecond: 1_000 } } })
  const slow = await door.client()
  await slow.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nx')
  const startedMs = performance.now()
  const answer = await slow.readResponse()
  t.same([answer.status, answer.header('connection')], [408, 'close'])
  t.ok(performance.now() - startedMs < 2_000, 'soon after the grace')
  await slow.whenEnded()
  t.equal(door.seen.length, 0)

  const honest = await door.client()
  await honest.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n')
  await honest.sendSlowly(Buffer.alloc(3_000, 'x'), 300, 50)
  t.equal((await honest.readResponse()).status, 200)
})

t.test('C1: a caller that leaves before its body is complete is told nothing and handed on to nobody', async (t) => {
  let outcome = ''
  const door = await openDoor(t, { handle: async (d) => {
    try {
      await d.readBody(1_000)
      outcome = 'read'
    } catch (error) {
      outcome = error instanceof Error ? error.name : ''
      throw error
    }
  } })
  const gone = await door.client()
  await gone.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nxx')
  await sleep(30)
  gone.reset()
  await sleep(30)
  t.equal(outcome, 'DownstreamGone')

  const closed = await door.client()
  await closed.send('POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nxx')
  closed.halfClose()
  t.equal((await closed.readResponse()).status, 400, 'one that only stopped sending hears that it was too early')
  t.equal(outcome, 'GatewayError')
  t.same(door.errors, [])
})

t.test('a body in many pieces is put together as it was', async (t) => {
  const door = await openDoor(t)
  const client = await door.client()
  const body = Buffer.from(Array.from({ length: 700 }, (_, i) => i % 251))
  await client.send(`POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: ${body.length}\r\n\r\n`)
  await client.sendSlowly(body, 97, 2)
  t.equal((await client.readResponse()).status, 200)
  t.equal(door.seen[0]?.body, body.toString('latin1'))
})
