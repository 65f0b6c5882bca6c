// Upgrades: admitted like any call before the upstream is dialled, metered by bytes and time, refused in words.
import t, { type Test } from 'tap'
import { head, json, openScriptedUpstream, steps, type Script, type ScriptedUpstream } from '../../fixtures/scripted-upstream.ts'
import { openRawClient, rawRequest, type RawClient } from '../../fixtures/raw-client.ts'
import { waitFor } from '../../fixtures/wait-for.ts'
import { secrets, startRig, type Rig, type RigOptions } from './rig.ts'

const switching = head(101, { Upgrade: 'websocket', Connection: 'Upgrade', 'Sec-WebSocket-Accept': 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=', 'Set-Cookie': 'secret=1' })

const echo: Script = async (_request, reply) => {
  await reply.write(switching)
  const tunnel = reply.takeOver()
  for (let part = await tunnel.read(); part !== undefined; part = await tunnel.read()) await reply.write(part)
  reply.end()
}

const named = '{ models: ["*"], endpoints: ["GET /v1/realtime"] }'

function handshake(headers: Record<string, string | null> = {}, target = '/v1/realtime', method = 'GET', version = '1.1'): string {
  const all: Record<string, string | null> = {
    Host: 'x', Authorization: `Bearer ${secrets.main}`, Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', ...headers,
  }
  return `${method} ${target} HTTP/${version}\r\n${Object.entries(all).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${String(value)}\r\n`).join('')}\r\n`
}

async function rigOf(t: Test, script: Script, options: RigOptions = {}): Promise<{ rig: Rig; upstream: ScriptedUpstream; open(early?: string): Promise<RawClient> }> {
  const upstream = await openScriptedUpstream(t, script)
  const rig = await startRig(t, upstream.url, { entitlements: named, server: '  timeouts: { connect: 500ms, first_byte: 500ms, idle: 2s, total: 10s }', ...options })
  return { rig, upstream, async open(early = '') {
    const client = await openRawClient({ port: rig.port })
    t.teardown(() => client.close())
    await client.send(handshake() + early)
    return client
  } }
}

async function readBytes(client: RawClient, bytes: number): Promise<Buffer> {
  const before = client.received().indexOf('\r\n\r\n') + 4
  await waitFor(`${bytes} bytes`, () => client.received().length - before >= bytes)
  return client.received().subarray(before)
}

t.test('a tunnel passes bytes both ways and is billed for bytes and time when it closes', async (t) => {
  const { rig, upstream, open } = await rigOf(t, echo)
  const client = await open()
  const answer = await client.readHead()
  t.equal(answer.status, 101)
  t.equal(answer.header('sec-websocket-accept'), 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=')
  t.equal(answer.header('set-cookie'), undefined)
  await client.send('hello')
  t.equal((await readBytes(client, 5)).toString(), 'hello')
  t.match(await rig.usage(), { parallel: { reserved: 1 } }, 'it holds a place while it is open')
  t.equal(upstream.requests[0]?.header('authorization'), 'Bearer upstream-credential')
  t.equal(upstream.requests[0]?.header('upgrade'), 'websocket')
  t.equal(upstream.requests[0]?.header('sec-websocket-key'), 'dGhlIHNhbXBsZSBub25jZQ==')
  client.close()
  t.match(await rig.events(), [{ endpoint: 'GET /v1/realtime', requests: 1, bytes_in: 5, bytes_out: 5, end: 'complete', status: 101, usage_source: 'counted' }])
  await waitFor('the upstream to be let go', () => upstream.open === 0)
})

t.test('a tunnel that the upstream closes ends at the caller too', async (t) => {
  const { rig, open } = await rigOf(t, async (_request, reply) => {
    await reply.write(switching)
    await reply.write('bye')
    await reply.wait(30)
    reply.end()
  })
  const client = await open()
  await client.readHead()
  await client.whenEnded()
  t.match(await rig.events(), [{ bytes_out: 3, end: 'complete' }])
})

t.test('N6: a handshake that is not flawless is never 101 and dials nobody', async (t) => {
  const { rig, upstream } = await rigOf(t, echo)
  for (const [bytes, expected] of [
    [handshake({ 'Sec-WebSocket-Key': null }), [400]],
    [handshake({ 'Sec-WebSocket-Key': 'short' }), [400]],
    [handshake({ 'Sec-WebSocket-Version': '12' }), [426]],
    [handshake({}, '/v1/realtime', 'POST'), [400, 404, 405]],
    [handshake({}, '/v1/realtime', 'GET', '1.0'), [400]],
    [handshake({ Connection: 'keep-alive' }), [400]],
    [handshake({ Upgrade: 'irc' }), [400]],
    [handshake({ 'Content-Length': '4' }) + 'body', [400]],
    [handshake({ Authorization: 'Bearer wrong' }), [401]],
    [handshake({ Authorization: null }), [401, 404]],
  ] as [string, number[]][]) {
    const answer = await rawRequest({ port: rig.port }, bytes)
    t.ok(expected.includes(answer.status), `${bytes.split('\r\n')[0] ?? ''} → ${answer.status}`)
  }
  t.equal(upstream.connections.length, 0)
})

t.test('N6: a refused admission is 429 before the upstream is dialled', async (t) => {
  const { rig, upstream } = await rigOf(t, echo, { limits: ['{ name: parallel, meter: concurrency, limit: 1 }'] })
  const first = await openRawClient({ port: rig.port })
  t.teardown(() => first.close())
  await first.send(handshake())
  t.equal((await first.readHead()).status, 101)
  const second = await rawRequest({ port: rig.port }, handshake())
  t.equal(second.status, 429)
  t.match(second.json(), { error: { reason: 'concurrency_limit' } })
  t.equal(upstream.connections.length, 1)
  first.close()
  await rig.settled()
})

t.test('N7: an upgrade is 404 where no plan names it, and reaches no plain endpoint', async (t) => {
  const { rig, upstream } = await rigOf(t, echo)
  t.equal((await rawRequest({ port: rig.port }, handshake({}, '/v1/other'))).status, 404)
  t.equal((await rawRequest({ port: rig.port }, handshake({}, '/v1/models'))).status, 404)
  t.equal((await rawRequest({ port: rig.port }, handshake({}, '/v1/chat/completions'))).status, 404)
  t.equal((await rawRequest({ port: rig.port }, handshake({}, '/-/usage'))).status, 404)
  t.equal(upstream.connections.length, 0)
})

t.test('N8: an upstream that answers instead of upgrading is relayed; the tunnel never opens', async (t) => {
  const { rig, upstream } = await rigOf(t, steps(json(200, { no: 'upgrade' })))
  const answer = await rawRequest({ port: rig.port }, handshake())
  t.equal(answer.status, 200)
  t.match(answer.json(), { no: 'upgrade' })
  upstream.script = steps(json(401, { error: 'the operator\'s key' }))
  const refused = await rawRequest({ port: rig.port }, handshake())
  t.equal(refused.status, 502)
  t.match(refused.json(), { error: { reason: 'upstream_unavailable' } })
  t.equal((await rig.events()).length, 1, 'the failure is not billed')
})

t.test('an upstream that cannot be reached, or says nothing, is 502 or 504 and bills nothing', async (t) => {
  const gone = await startRig(t, 'http://127.0.0.1:1', { entitlements: named })
  t.equal((await rawRequest({ port: gone.port }, handshake())).status, 502)
  t.same(await gone.events(), [])
  const { rig } = await rigOf(t, (_request, reply) => reply.stall())
  t.equal((await rawRequest({ port: rig.port }, handshake())).status, 504)
  t.same(await rig.events(), [])
})

t.test('bytes that were sent too early wait for the upstream\'s 101', async (t) => {
  let earlyBytes = 0
  const { rig, upstream, open } = await rigOf(t, async (request, reply) => {
    await reply.wait(100)
    earlyBytes = request.connection.bytesReceived
    await reply.write(switching)
    const tunnel = reply.takeOver()
    const part = await tunnel.read()
    await reply.write(part ?? '')
    reply.end()
  })
  const client = await open('early')
  await client.readHead()
  t.equal((await readBytes(client, 5)).toString(), 'early')
  t.ok(earlyBytes > 0 && upstream.connections[0]?.bytesReceived === earlyBytes + 5, 'nothing but the handshake went before')
  await client.whenEnded()
  t.match(await rig.events(), [{ bytes_in: 5, bytes_out: 5 }])
})

t.test('limits on bytes and time hold for tunnels', async (t) => {
  const { rig, open } = await rigOf(t, async (_request, reply) => {
    await reply.write(switching)
    for (let i = 0; i < 100 && !reply.gone; i++) await reply.write(Buffer.alloc(1_000))
    await reply.stall()
  }, { limits: ['{ name: traffic, meter: bytes_out, limit: 20_000, window: day }'] })
  const client = await open()
  await client.readHead()
  await client.whenEnded()
  const [event] = await rig.events()
  t.equal(event?.['end'], 'quota_stop')
  t.ok(Number(event?.['bytes_out']) <= 20_000)
  t.match(await rig.usage(), { traffic: { used: Number(event?.['bytes_out']) } })
})

t.test('N10: a tunnel in which nothing moves ends at the idle timeout, and at a shutdown', async (t) => {
  const { rig, open } = await rigOf(t, echo, { server: '  timeouts: { connect: 500ms, first_byte: 500ms, idle: 200ms, total: 10s }' })
  const client = await open()
  await client.readHead()
  await client.whenEnded()
  t.match(await rig.events(), [{ end: 'timed_out' }])
  const other = await open()
  await other.readHead()
  rig.gateway.cutAll()
  await other.whenEnded()
  await rig.gateway.idle()
  t.equal(rig.gateway.openExchanges, 0)
})

