// The real front door with a handler that records what it is given, and rows of raw bytes thrown at it.

import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Test } from 'tap'
import { systemClock } from '../../../src/clock.ts'
import type { ServerConfig } from '../../../src/config/config.ts'
import type { Downstream } from '../../../src/gateway/downstream.ts'
import { respondJson } from '../../../src/gateway/respond.ts'
import { startServer, type RunningServer, type ServerBounds } from '../../../src/gateway/server.ts'
import { silentLog } from '../../../src/log.ts'
import { Metrics } from '../../../src/metrics.ts'
import { openRawClient, type RawClient } from '../../fixtures/raw-client.ts'

export type Seen = { method: string; path: string; query: string; headers: readonly string[]; body: string; address: string }

export type DoorOptions = {
  settings?: Partial<ServerConfig>
  bounds?: Partial<ServerBounds>
  handle?: (d: Downstream) => Promise<void>
  handleUpgrade?: (d: Downstream, request: IncomingMessage, socket: Duplex, head: Buffer) => Promise<void>
  ready?: () => { ready: boolean; reason: string }
}

export type Door = {
  server: RunningServer
  port: number
  /** What reached the handler, in order. */
  seen: Seen[]
  upgrades: string[]
  /** Logged errors. */
  errors: object[]
  /** Refusals at the edge by why. */
  rejected(): Promise<Record<string, number>>
  client(): Promise<RawClient>
}

export const plainSettings: ServerConfig = {
  listen: { host: '127.0.0.1', port: 0 }, bodyMaxBytes: 1_048_576,
  timeouts: { connectMs: 1_000, firstByteMs: 5_000, idleMs: 5_000, totalMs: 10_000 },
  trustedProxies: [], cors: { origins: [] }, drain: { delayMs: 0, timeoutMs: 1_000 }, tls: null, streamPingMs: 0, drainsMax: 8, workers: 1,
}

export async function openDoor(t: Test, options: DoorOptions = {}): Promise<Door> {
  const seen: Seen[] = []
  const upgrades: string[] = []
  const errors: object[] = []
  const settings = { ...plainSettings, ...options.settings }
  const metrics = new Metrics()
  const server = await startServer({
    listen: settings.listen,
    settings: () => settings,
    handle: options.handle ?? (async (d) => {
      const body = await d.readBody(settings.bodyMaxBytes)
      seen.push({ method: d.method, path: d.path, query: d.query, headers: d.headers, body: Buffer.from(body).toString('latin1'), address: d.address })
      respondJson(d, 200, { saw: d.path })
    }),
    handleUpgrade: options.handleUpgrade ?? (async (d) => {
      upgrades.push(d.path)
      respondJson(d, 403, { saw: d.path })
    }),
    ready: options.ready ?? (() => ({ ready: true, reason: '' })),
    clock: systemClock,
    log: { ...silentLog, error: (fields, message) => { errors.push({ ...fields, message }) } },
    metrics,
    bounds: { lingerMs: 300, ...options.bounds },
  })
  t.teardown(() => server.close())
  const { port } = server.address
  return {
    server, port, seen, upgrades, errors,
    client: async () => {
      const client = await openRawClient({ port })
      t.teardown(() => client.close())
      return client
    },
    rejected: async () => {
      const { values } = await metrics.rejected.get()
      return Object.fromEntries(values.map(({ labels, value }) => [String(labels.why), value]))
    },
  }
}

export type Row = {
  /** Of `faults.md`, section 4. */
  id: string
  what: string
  /** The bytes of the case. */
  bytes: string | Buffer
  /** One of these statuses; 0: closed without an answer. */
  status: number | readonly number[]
  /** Whether the handler is to see the case; `here`: the server answers it itself and goes on. Otherwise it is refused. */
  served?: boolean | 'here'
  /** Looks at what the handler saw. */
  check?: (t: Test, seen: Seen) => void
  /** A served case after which the connection ends. */
  closes?: boolean
}

const markerBody = 'marker-body-7'
const marker = (token: string): string => `POST /marker-${token} HTTP/1.1\r\nHost: marker\r\nContent-Length: ${markerBody.length}\r\n\r\n${markerBody}`

/**
 * Each case, with a marker request right behind it on the same connection, and one more on a second connection. A refused case is answered
 * with its status, closes, and nothing behind it is served; a served one is seen once and its marker once, with its own body.
 */
export async function runRows(t: Test, rows: readonly Row[], options: DoorOptions = {}): Promise<void> {
  const door = await openDoor(t, options)
  let nth = 0
  for (const row of rows) {
    await t.test(`${row.id}: ${row.what}`, async (t) => {
      const token = String(++nth)
      door.seen.length = 0
      const client = await openRawClient({ port: door.port, timeoutMs: 3_000 })
      t.teardown(() => client.close())
      const bytes = Buffer.isBuffer(row.bytes) ? row.bytes : Buffer.from(row.bytes, 'latin1')
      await client.send(Buffer.concat([bytes, Buffer.from(marker(`same-${token}`), 'latin1')]))
      const statuses = Array.isArray(row.status) ? row.status : [row.status]
      if (statuses.includes(0) && statuses.length === 1) await client.whenEnded()
      else {
        const method = bytes.toString('latin1').split(' ')[0]
        const answer = await client.readResponse(method)
        t.ok(statuses.includes(answer.status), `status ${answer.status} is one of ${statuses.join(', ')}`)
        if (row.served === undefined && answer.status >= 400) {
          t.equal(answer.header('connection'), 'close', 'the answer says that the connection ends')
          if (method !== 'HEAD') t.match(answer.json(), { error: { message: /\.$/, code: String } }, 'a sentence in JSON')
          t.equal(answer.header('x-tallygate-error'), 'gateway')
        }
      }
      const goesOn = row.served !== undefined && row.closes !== true
      if (goesOn) {
        const second = await client.readResponse('POST')
        t.match(second.json(), { saw: `/marker-same-${token}` }, 'the request behind it is answered as itself')
      } else {
        await client.whenEnded()
        t.equal(/marker-same/.test(client.received().toString('latin1')), false, 'nothing behind it is answered')
      }
      const other = await openRawClient({ port: door.port, timeoutMs: 3_000 })
      t.teardown(() => other.close())
      await other.send(marker(`other-${token}`))
      t.match((await other.readResponse('POST')).json(), { saw: `/marker-other-${token}` }, 'others are served')

      const cases = door.seen.filter(({ path }) => !path.startsWith('/marker'))
      const markers = door.seen.filter(({ path }) => path.startsWith('/marker'))
      t.equal(cases.length, row.served === true ? 1 : 0, 'the handler sees the case as often as it should')
      const expected = goesOn ? [`/marker-same-${token}`, `/marker-other-${token}`] : [`/marker-other-${token}`]
      t.same(markers.map(({ path, body }) => ({ path, body })), expected.map((path) => ({ path, body: markerBody })), 'each marker once, with its own body')
      const first = cases[0]
      if (first !== undefined) row.check?.(t, first)
    })
  }
  t.same(door.errors, [], 'nothing failed inside')
}
