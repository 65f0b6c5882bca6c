import { createServer } from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Address } from '../config/config.ts'
import type { Dashboard } from '../dashboard/dashboard.ts'
import { addressReader } from '../gateway/client-address.ts'
import type { AddressReader } from '../gateway/client-address.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import { answerAdmin } from './admin-api.ts'
import { UnknownToken, adminCaller } from './admin-caller.ts'
import type { AdminCaller, AdminHead, AdminToken, Credentials } from './admin-caller.ts'
import { sendEvents } from './event-stream.ts'
import { loginOperations, tooMany } from './login.ts'
import { LoginBrake } from './login-brake.ts'
import { Problem, toProblem } from './problem.ts'
import { findRoute, readFields } from './route.ts'
import type { AdminParts } from './route.ts'
import { Sessions } from './session.ts'
import { passProbe } from './upstream-probe.ts'

export interface AdminServerParts {
  readonly listen: Address
  readonly api: AdminParts
  /** Tokens beside those of the config, such as `env`. */
  readonly extraTokens: readonly AdminToken[]
  /** The token left for commands on this machine. */
  readonly localToken: AdminToken | null
  /** Of all processes of this gateway. */
  readonly metrics: Pick<Metrics, 'text'>
  readonly dashboard: Dashboard
  readonly random: Random
  readonly log: Log
}

/** What a server remembers between requests. */
interface Memory {
  readonly sessions: Sessions
  readonly brake: LoginBrake
  /** For the proxies that are trusted now. */
  addresses: { readonly trusted: readonly string[]; readonly read: AddressReader }
}

export interface RunningAdminServer {
  readonly address: Address
  close(): Promise<void>
}

const bodyBytesMax = 64 * 1024
/** On what a page asks by itself. */
const UNATTENDED = 'x-tallygate-unattended'
/** What proxies add: each of them is enough. */
const ofProxies = /^(?:via|forwarded|x-forwarded-.+|x-real-ip|x-client-ip|true-client-ip|cf-connecting-ip)$/
const plainHeaders = {
  'cache-control': 'no-store', 'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY', 'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin', 'cross-origin-opener-policy': 'same-origin',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}

/** Listens on the admin port. Rejects when the address cannot be had. */
export async function startAdminServer(parts: AdminServerParts): Promise<RunningAdminServer> {
  const server = createServer({ requestTimeout: 30_000, headersTimeout: 10_000, maxHeaderSize: 16_384 })
  const memory: Memory = {
    sessions: new Sessions(parts.api.clock, parts.random), brake: new LoginBrake(), addresses: { trusted: [], read: addressReader([]) },
  }
  server.on('request', (request, response) => void answer(request, response, parts, memory))
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(parts.listen.port, parts.listen.host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const { address, port } = server.address() as AddressInfo
  return { address: { host: address, port }, close: () => closeServer(server) }
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}

async function answer(request: IncomingMessage, response: ServerResponse, parts: AdminServerParts, memory: Memory): Promise<void> {
  try {
    await route(request, response, parts, memory)
  } catch (error) {
    if (response.headersSent) {
      response.destroy()
      return
    }
    const problem = toProblem(error)
    if (problem === undefined) {
      const bug = error instanceof Error ? error : new Error(String(error))
      parts.log.error({ error: bug.name, stack: bug.stack, method: request.method }, 'bug: an admin request failed')
    }
    sendProblem(response, problem ?? new Problem(500, 'something broke inside; the log has more'))
  }
}

async function route(request: IncomingMessage, response: ServerResponse, parts: AdminServerParts, memory: Memory): Promise<void> {
  // A target that is no path (`*`, an absolute URL) is nothing that is here.
  const url = request.url?.startsWith('/') === true ? URL.parse(request.url, 'http://admin') : null
  if (url === null) throw new Problem(400, 'the request target is not a path')
  const path = url.pathname
  const config = parts.api.config()
  const tokens = tokensOf(parts)
  const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '')
  const { sessions, brake } = memory
  const address = addressOf(request, config.server?.trustedProxies ?? [], memory)
  const credentials = { tokens, local: parts.localToken, sessions }
  const caller = (): Promise<AdminCaller | null> => callerOf(request, credentials, brake, address)

  if (path === '/metrics') {
    mustGet(method, path)
    if (config.admin.metrics !== 'open' && await caller() === null) throw new Problem(401, 'an admin token is needed: Authorization: Bearer …')
    send(response, 200, 'text/plain; version=0.0.4; charset=utf-8', await parts.metrics.text())
  } else if (path.startsWith('/upstreams/')) {
    mustGet(method, path)
    if (await caller() === null) throw new Problem(401, 'an admin token is needed: Authorization: Bearer …')
    const match = /^\/upstreams\/([^/]+)\/(health|metrics)$/.exec(path)
    const upstream = match === null ? undefined : config.upstreams.get(match[1] ?? '')
    if (upstream === undefined) throw new Problem(404, 'there is only /upstreams/NAME/health and /upstreams/NAME/metrics, of configured upstreams')
    await passProbe(upstream, match?.[2] === 'health' ? 'health' : 'metrics', response, plainHeaders)
  } else if (path.startsWith('/api/')) {
    const query = queryOf(url)
    const body = (): Promise<Record<string, unknown>> | Record<string, unknown> => (method === 'GET' ? {} : readBody(request))
    const login = findRoute(loginOperations, method, path)?.route
    if (login !== undefined) {
      readFields(login.query ?? {}, query, 'query')
      const asked = readFields(login.body ?? {}, await body(), 'body')
      sendJson(response, await login.handle(asked, { request, response, sessions, brake, tokens, address, caller }))
      return
    }
    const answered = await answerAdmin({ method, path, query, caller: await caller(), body: await body(), gone: () => response.destroyed }, parts.api)
    if (isIterable(answered.body)) await sendEvents(response, plainHeaders, answered.body, async () => adminCaller({ ...headOf(request), attended: false }, { ...credentials, tokens: tokensOf(parts) }) !== null)
    else send(response, answered.status, 'application/json', JSON.stringify(answered.body))
  } else {
    const page = await parts.dashboard.answer({ path, acceptEncoding: textHeader(request.headers['accept-encoding']), ifNoneMatch: request.headers['if-none-match'] })
    if (page === undefined) throw new Problem(404, `there is nothing at ${path}; the dashboard is at /, the API under /api/v1`)
    mustGet(method, path)
    response.writeHead(page.status, { ...plainHeaders, ...page.headers, ...(page.status === 304 ? {} : { 'content-length': page.body.length }) })
    response.end(request.method === 'HEAD' ? undefined : page.body)
  }
}

/** As configured now. */
function tokensOf({ api, extraTokens }: AdminServerParts): readonly AdminToken[] {
  return [...api.config().admin.tokens, ...extraTokens]
}

/** Throws a Problem for a wrong token, and for any when there were too many wrong ones; the command line's own is never one of those. */
async function callerOf(request: IncomingMessage, credentials: Credentials, brake: LoginBrake, address: string): Promise<AdminCaller | null> {
  try {
    const caller = adminCaller(headOf(request), credentials)
    if (caller?.by === 'token' && caller.name !== credentials.local?.name) await mustNotWait(brake, address)
    return caller
  } catch (error) {
    if (!(error instanceof UnknownToken)) throw error
    await mustNotWait(brake, address)
    await brake.failed('bearer', address)
    throw error
  }
}

function headOf({ socket, method, headers }: IncomingMessage): AdminHead {
  return {
    address: socket.remoteAddress ?? '', host: headers.host, origin: headers.origin, fetchSite: textHeader(headers['sec-fetch-site']), authorization: headers.authorization, cookie: headers.cookie,
    proxied: Object.keys(headers).some((name) => ofProxies.test(name)), reads: method === 'GET' || method === 'HEAD', attended: headers[UNATTENDED] === undefined,
  }
}

async function mustNotWait(brake: LoginBrake, address: string): Promise<void> {
  const waitMs = await brake.waitMs('bearer', address)
  if (waitMs > 0) throw tooMany(waitMs)
}

function addressOf(request: IncomingMessage, trusted: readonly string[], memory: Memory): string {
  if (memory.addresses.trusted !== trusted && trusted.join() !== memory.addresses.trusted.join()) memory.addresses = { trusted, read: addressReader(trusted) }
  return memory.addresses.read(request)
}

function isIterable(body: unknown): body is AsyncIterable<unknown> {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body
}

function textHeader(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function mustGet(method: string, path: string): void {
  if (method !== 'GET') throw new Problem(405, `${path} answers GET only`, { allow: 'GET' })
}

function queryOf(url: URL): Record<string, string> {
  const query: Record<string, string> = {}
  for (const [name, value] of url.searchParams) {
    if (Object.hasOwn(query, name)) throw new Problem(400, `query.${name} is given twice`)
    query[name] = value
  }
  return query
}

/** A JSON object, or nothing. Only `application/json` is taken: a form of another site cannot send that unasked. */
async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > bodyBytesMax) throw new Problem(413, `the body is larger than ${bodyBytesMax} bytes`)
    chunks.push(chunk)
  }
  if (bytes === 0) return {}
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase()
  if (type !== 'application/json') throw new Problem(415, 'the body must be sent as application/json')
  const value = parsed(Buffer.concat(chunks).toString('utf8'))
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Problem(400, 'the body must be one JSON object')
  return value as Record<string, unknown>
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) throw new Problem(400, 'the body is not JSON')
    throw error
  }
}

function sendProblem(response: ServerResponse, problem: Problem): void {
  const { allow, retry_after: wait } = problem.extra
  if (typeof wait === 'number') response.setHeader('retry-after', wait)
  if (typeof allow === 'string') response.setHeader('allow', allow)
  if (problem.status === 401) response.setHeader('www-authenticate', 'Bearer')
  // What is left of a refused body is not read: the connection ends with the answer.
  if (problem.status === 413) response.setHeader('connection', 'close')
  send(response, problem.status, 'application/problem+json', JSON.stringify(problem.toDocument()))
}

function sendJson(response: ServerResponse, body: unknown): void {
  send(response, 200, 'application/json', JSON.stringify(body))
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, { ...plainHeaders, 'content-type': type, 'content-length': Buffer.byteLength(text) })
  response.end(response.req.method === 'HEAD' ? undefined : text)
}
