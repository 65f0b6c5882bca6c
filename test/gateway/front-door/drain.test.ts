// A graceful end: announced, then no new connections, then what is in flight is finished or cut.

import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { openDoor } from './door.ts'
import { openRawClient, rawRequest } from '../../fixtures/raw-client.ts'
import { waitFor } from '../../fixtures/wait-for.ts'

const slow = (ms: number): string => `GET /slow/${ms} HTTP/1.1\r\nHost: h\r\n\r\n`
const handle = async (d: Parameters<NonNullable<NonNullable<Parameters<typeof openDoor>[1]>['handle']>>[0]): Promise<void> => {
  const ms = Number(d.path.split('/')[2] ?? 0)
  d.writeHead(200, [])
  if (ms > 0) {
    d.write(Buffer.from('begun '))
    await sleep(ms)
  }
  if (!d.gone) d.end(Buffer.from('done'))
}

t.test('a drain announces itself, still serves for its delay, then finishes what is in flight', async (t) => {
  const door = await openDoor(t, { handle, settings: { drain: { delayMs: 300, timeoutMs: 2_000 } } })
  const running = await door.client()
  await running.send(slow(700))
  const idle = await door.client()
  await idle.send('GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n')
  await idle.readResponse()
  t.equal(door.server.draining, false)
  let over = false
  let cuts = 0
  const drained = door.server.drain(() => { cuts += 1 }).then(() => { over = true })
  t.equal(door.server.draining, true)
  t.match(await rawRequest(door, { target: '/-/ready' }), { status: 503 }, 'not ready at once')
  t.match((await rawRequest(door, { target: '/-/ready' })).json(), { reason: 'draining' })
  t.equal((await rawRequest(door, { target: '/-/live' })).status, 200, 'and still alive')
  t.match(await rawRequest(door, { target: '/v1/x' }), { status: 200, text: 'done' }, 'and still serving')
  await sleep(180)
  t.equal((await rawRequest(door, { target: '/v1/x' })).header('connection'), 'close', 'towards its end clients are sent elsewhere')
  await idle.whenEnded()
  await t.rejects(openRawClient({ port: door.port }), { code: 'ECONNREFUSED' }, 'then nobody new is let in')
  t.equal(over, false, 'what is in flight is waited for')
  t.match(await running.readResponse(), { text: 'begun done', ending: 'complete' })
  await drained
  t.equal(cuts, 0)
  await running.whenEnded()
})

t.test('what is not finished in time is cut, after its owner was told', async (t) => {
  const cut: (() => void)[] = []
  const door = await openDoor(t, { settings: { drain: { delayMs: 0, timeoutMs: 150 } }, handle: (d) => new Promise((resolve) => {
    d.writeHead(200, [])
    d.write(Buffer.from('begun'))
    cut.push(() => {
      d.cut()
      resolve()
    })
  }) })
  const client = await door.client()
  await client.send(slow(1))
  await client.readHead()
  const startedMs = performance.now()
  await door.server.drain(() => { for (const one of cut) one() })
  const elapsedMs = performance.now() - startedMs
  t.ok(elapsedMs > 130 && elapsedMs < 1_000, `${Math.round(elapsedMs)} ms`)
  t.notMatch(client.received().toString(), /0\r\n\r\n$/, 'it does not look whole')
  await client.whenEnded()
})

t.test('a second call cuts at once', async (t) => {
  let cuts = 0
  const door = await openDoor(t, { handle, settings: { drain: { delayMs: 5_000, timeoutMs: 60_000 } } })
  const client = await door.client()
  await client.send(slow(300))
  await client.readHead()
  const startedMs = performance.now()
  const first = door.server.drain(() => { cuts += 1 })
  await sleep(20)
  const second = door.server.drain(() => undefined)
  await Promise.all([first, second])
  t.ok(performance.now() - startedMs < 2_000)
  t.equal(cuts, 1)
})

t.test('settling after the client has gone is waited for', async (t) => {
  let settled = false
  const door = await openDoor(t, { settings: { drain: { delayMs: 0, timeoutMs: 2_000 } }, handle: (d) => new Promise((resolve) => {
    d.writeHead(200, [])
    d.write(Buffer.from('x'))
    d.onGone(() => { setTimeout(() => {
      settled = true
      resolve()
    }, 200) })
  }) })
  const client = await door.client()
  await client.send(slow(1))
  await client.readHead()
  client.reset()
  await sleep(30)
  await door.server.drain(() => undefined)
  t.equal(settled, true)
})

t.test('an idle server drains at once, and an upgraded connection is waited for', async (t) => {
  const idle = await openDoor(t)
  const startedMs = performance.now()
  await idle.server.drain(() => undefined)
  t.ok(performance.now() - startedMs < 300)

  let end = (): void => undefined
  const door = await openDoor(t, { settings: { drain: { delayMs: 0, timeoutMs: 2_000 } }, handleUpgrade: async (_d, _request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
    end = () => { socket.end() }
    await new Promise((resolve) => socket.once('close', resolve))
  } })
  const client = await door.client()
  await client.send('GET /v1/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
  await waitFor('101', () => client.received().length > 0)
  let over = false
  const drained = door.server.drain(() => undefined).then(() => { over = true })
  await sleep(100)
  t.equal(over, false)
  end()
  client.socket.on('end', () => client.close())
  await drained
})
