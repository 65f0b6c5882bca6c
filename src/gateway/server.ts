import { readFileSync } from 'node:fs'
import { createServer, ServerResponse } from 'node:http'
import type { IncomingMessage, Server } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { Address, ServerConfig } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { addressReader, trustChecker } from './client-address.ts'
import type { AddressReader } from './client-address.ts'
import { DownstreamGone } from './downstream.ts'
import type { Downstream } from './downstream.ts'
import { answerLocally, corsHeaders } from './local-answers.ts'
import type { Readiness } from './local-answers.ts'
import { NodeDownstream } from './node-downstream.ts'
import type { Line } from './node-downstream.ts'
import { RequestBody } from './request-body.ts'
import type { BodyPace } from './request-body.ts'
import { headerBytesMax, Malformed, readRequestHead } from './request-head.ts'
import type { RequestHead } from './request-head.ts'
import { errorHeaders, presentable, renderPlainError, respondError, statusOf } from './respond.ts'

export interface ServerOptions {
  readonly listen: Address
  /** Of this moment: a reload changes CORS, trusted proxies, timeouts and drain; never the address or TLS. */
  settings(): ServerConfig
  /** Answers one request. Resolves when nothing of it is left; what it throws before the head was sent becomes the answer. */
  handle(d: Downstream): Promise<void>
  /**
   * A flawless WebSocket handshake. Refused through `d` like any request; accepted by taking the socket over. `head` holds bytes that the
   * caller sent too early: they are for after the upstream's 101. Resolves when the tunnel has ended.
   */
  handleUpgrade(d: Downstream, request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>
  ready(): Readiness
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Pick<Metrics, 'rejected'>
  readonly bounds?: Partial<ServerBounds>
}

/** Milliseconds and counts that hold an attacker back; only tests change them. */
export interface ServerBounds {
  readonly headersMs: number
  readonly checkEveryMs: number
  readonly keepAliveMs: number
  readonly bodyPace: BodyPace
  /** null: the configured idle timeout. */
  readonly stallMs: number | null
  /** How long and how much is still read behind an answer that ends its connection, so that no reset overtakes it. */
  readonly lingerMs: number
  readonly lingerBytes: number
  readonly connectionsMax: number
  /** From one address that is no trusted proxy. */
  readonly connectionsPerAddressMax: number
  readonly requestsPerConnectionMax: number
  /** Requests that may wait on a connection behind the one in flight. */
  readonly pipelinedMax: number
}

export const defaultServerBounds: ServerBounds = {
  headersMs: 10_000,
  checkEveryMs: 2_500,
  // Longer than the idle timeout of the usual load balancers, which would else send into a closing connection.
  keepAliveMs: 75_000,
  bodyPace: { graceMs: 10_000, bytesPerSecond: 1_024 },
  stallMs: null,
  lingerMs: 2_000,
  lingerBytes: 4 * 1_024 * 1_024,
  connectionsMax: 16_384,
  connectionsPerAddressMax: 4_096,
  requestsPerConnectionMax: 10_000,
  pipelinedMax: 64,
}

export interface RunningServer {
  readonly address: Address
  readonly url: string
  readonly draining: boolean
  /**
   * Not ready at once; still accepts for `drain.delay`; then stops listening and waits for what is in flight, `drain.timeout` at most, after
   * which `cutAll` is called and what is left is cut. Called again it cuts at once. Resolves when nothing is left.
   */
  drain(cutAll: () => void): Promise<void>
  /** Cuts everything now. */
  close(): Promise<void>
}

export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const running = new FrontDoor(options)
  await running.listen()
  return running
}

/** One connection of a client, with the requests that it has sent. */
interface Connection {
  readonly socket: Socket
  current: NodeDownstream | null
  /** True while something is answered that never became an exchange. */
  refusing: boolean
  /** Nothing more is read: the answer in flight, or the last in the queue, ends the connection. */
  closing: boolean
  lingering: boolean
  requests: number
  readonly queue: { request: IncomingMessage; response: ServerResponse }[]
}

/** How often a half-closed connection is asked whether anyone is there, in milliseconds since it was half-closed. */
const probesMs = [0, 10, 40, 150, 500, 2_000]

class FrontDoor implements RunningServer {
  readonly #options: ServerOptions
  readonly #bounds: ServerBounds
  readonly #server: Server
  readonly #connections = new WeakMap<object, Connection>()
  readonly #sockets = new Set<Socket>()
  readonly #perAddress = new Map<string, number>()
  /** Exchanges whose handler runs or whose answer is not out. */
  #inFlight = 0
  #drainStep: 'none' | 'accepting' | 'announcing' | 'stopped' = 'none'
  #drainDone: Promise<void> | null = null
  #cutNow: (() => void) | null = null
  #onIdle: (() => void) | null = null
  #proxies: readonly string[] | null = null
  #readAddress: AddressReader = () => ''
  #isProxy: (address: string) => boolean = () => false

  constructor(options: ServerOptions) {
    this.#options = options
    this.#bounds = { ...defaultServerBounds, ...options.bounds }
    this.#server = this.#createServer(options.settings().tls)
  }

  get draining(): boolean {
    return this.#drainStep !== 'none'
  }

  get address(): Address {
    const { address, port } = this.#server.address() as AddressInfo
    return { host: address, port }
  }

  get url(): string {
    const { host, port } = this.address
    return `${this.#options.settings().tls === null ? 'http' : 'https'}://${host.includes(':') ? `[${host}]` : host}:${port}`
  }

  listen(): Promise<void> {
    const { host, port } = this.#options.listen
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen({ host, port, backlog: 1_024 }, () => {
        this.#server.off('error', reject)
        // Running out of file descriptors while accepting must not end the process.
        this.#server.on('error', (error) => this.#options.log.error({ code: codeOf(error) }, 'the public port failed'))
        resolve()
      })
    })
  }

  // ---- Node's server ------------------------------------------------------------------------------------------------------------

  #createServer(tls: ServerConfig['tls']): Server {
    const bounds = this.#bounds
    const options = {
      // Above our own bounds, so that those answer with a sentence; this one is the parser's last word.
      maxHeaderSize: 32_768,
      insecureHTTPParser: false,
      requireHostHeader: false,
      joinDuplicateHeaders: false,
      headersTimeout: bounds.headersMs,
      // The pace of bodies is watched where they are read.
      requestTimeout: 0,
      connectionsCheckingInterval: bounds.checkEveryMs,
      keepAliveTimeout: bounds.keepAliveMs,
      noDelay: true,
      shouldUpgradeCallback: (request: IncomingMessage): boolean => wantsWebSocket(request),
    }
    const server = tls === null
      ? createServer(options)
      : createSecureServer({ ...options, cert: readFileSync(tls.certFile), key: readFileSync(tls.keyFile), minVersion: 'TLSv1.2', handshakeTimeout: 10_000 })
    server.maxHeadersCount = 0
    server.maxConnections = bounds.connectionsMax
    // A client that has said all it has to say may still listen. Without this Node ends the answer with the request.
    Object.assign(server, { httpAllowHalfOpen: true })

    const onRequest = (request: IncomingMessage, response: ServerResponse): void => this.#onRequest(request, response)
    server.on('request', onRequest)
    server.on('checkContinue', onRequest)
    server.on('checkExpectation', onRequest)
    server.on('upgrade', (request, socket, head) => this.#onUpgrade(request, socket, head))
    server.on('connect', (_request, socket) => {
      socket.on('error', () => socket.destroy())
      this.#answerRaw(socket, new Malformed('method_not_allowed', 'method', 'CONNECT is not offered.', 'GET, HEAD, POST, OPTIONS'))
    })
    server.on('connection', (socket) => this.#onConnection(socket))
    server.on('clientError', (error, socket) => this.#onClientError(error, socket as Socket))
    server.on('tlsClientError', (_error, socket) => {
      this.#count('tls')
      socket.destroy()
    })
    return server
  }

  #onConnection(socket: Socket): void {
    this.#sockets.add(socket)
    const address = socket.remoteAddress ?? ''
    const open = (this.#perAddress.get(address) ?? 0) + 1
    this.#perAddress.set(address, open)
    socket.on('close', () => {
      this.#sockets.delete(socket)
      const left = (this.#perAddress.get(address) ?? 1) - 1
      if (left <= 0) this.#perAddress.delete(address)
      else this.#perAddress.set(address, left)
    })
    if (open > this.#bounds.connectionsPerAddressMax && !this.#trusts(address)) {
      this.#count('connections')
      socket.destroy()
    }
  }

  #connectionOf(socket: Socket): Connection {
    let connection = this.#connections.get(socket)
    if (connection === undefined) {
      const made: Connection = { socket, current: null, refusing: false, closing: false, lingering: false, requests: 0, queue: [] }
      connection = made
      this.#connections.set(socket, made)
      socket.on('end', () => this.#onHalfClose(made))
      socket.on('close', () => { made.queue.length = 0 })
    }
    return connection
  }

  // ---- Requests -----------------------------------------------------------------------------------------------------------------

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const connection = this.#connectionOf(request.socket)
    // Bytes behind an answer that ends the connection are nobody's request.
    if (connection.closing) return
    connection.requests += 1
    if (connection.requests >= this.#bounds.requestsPerConnectionMax) connection.closing = true
    if (connection.current === null && !connection.refusing) return this.#turn(connection, request, response)
    connection.queue.push({ request, response })
    if (connection.queue.length >= this.#bounds.pipelinedMax) connection.closing = true
  }

  /** One request at a time on each connection. */
  #turn(connection: Connection, request: IncomingMessage, response: ServerResponse): void {
    let head: RequestHead
    try {
      head = readRequestHead({ method: request.method ?? '', target: request.url ?? '', httpVersion: request.httpVersion, rawHeaders: request.rawHeaders })
      if (head.upgrades) throw new Malformed('bad_request', 'upgrade', 'This upgrade cannot be made.')
    } catch (thrown) {
      return this.#refuse(connection, request, response, presentable(thrown))
    }
    // Node's parser drops what came in one packet with an upgrade that is not made.
    if (head.upgradeIgnored) connection.closing = true
    const d = this.#downstream(connection, request, response, head, null)
    connection.current = d
    this.#inFlight += 1
    let parts = 2
    const partOver = (): void => {
      parts -= 1
      if (parts === 0) this.#leave()
    }
    let out = false
    const answered = (): void => {
      if (out) return
      out = true
      this.#next(connection)
      partOver()
    }
    response.on('finish', answered)
    response.on('close', answered)
    void this.#run(d, () => this.#handle(d)).finally(partOver)
  }

  async #handle(d: NodeDownstream): Promise<void> {
    if (!answerLocally(d, this.#options.settings().cors, () => this.#readiness())) await this.#options.handle(d)
  }

  #readiness(): Readiness {
    return this.#drainStep === 'none' ? this.#options.ready() : { ready: false, reason: 'draining' }
  }

  /** Whatever happens inside, the caller gets an answer and the process goes on. */
  async #run(d: NodeDownstream, task: () => Promise<void>): Promise<void> {
    try {
      await task()
      if (!d.headSent && !d.gone) throw new Error('the handler ended without an answer')
    } catch (thrown) {
      if (thrown instanceof DownstreamGone) {
        d.cut()
        return
      }
      if (!(thrown instanceof GatewayError)) this.#options.log.error({ err: describe(thrown) }, 'an exchange failed')
      if (d.gone) return
      if (d.headSent) return d.cut()
      const error = presentable(thrown)
      try {
        respondError(d, error, null, { requestId: '' })
      } catch (again) {
        this.#options.log.error({ err: describe(again) }, 'an error could not be answered')
        d.cut()
      }
    }
  }

  /** The answer of the current request is out, or its client gone. */
  #next(connection: Connection): void {
    connection.current = null
    connection.refusing = false
    const next = connection.queue.shift()
    if (next !== undefined && !connection.socket.destroyed && !connection.lingering) return this.#turn(connection, next.request, next.response)
    if (connection.closing || this.#drainStep === 'stopped') connection.socket.destroySoon()
  }

  #downstream(connection: Connection, request: IncomingMessage, response: ServerResponse, head: RequestHead, upgradeSocket: Duplex | null): NodeDownstream {
    const settings = this.#options.settings()
    const line: Line = {
      closesAfter: () => (connection.closing && connection.queue.length === 0) || this.#drainStep === 'announcing' || this.#drainStep === 'stopped',
      added: settings.cors.origins.length === 0 ? [] : corsHeaders(firstOf(head.headers, 'origin'), settings.cors),
      willLinger: (body) => this.#linger(connection, body),
      clock: this.#options.clock,
      stallMs: this.#bounds.stallMs ?? settings.timeouts.idleMs,
    }
    const body = new RequestBody(request, head.body, this.#options.clock, this.#bounds.bodyPace)
    return new NodeDownstream(request, response, head, body, this.#clientAddress(request), line, upgradeSocket)
  }

  /** A head that can be read in two ways never becomes an exchange. */
  #refuse(connection: Connection, request: IncomingMessage, response: ServerResponse, error: GatewayError): void {
    this.#count(error instanceof Malformed ? error.why : error.code)
    connection.refusing = true
    connection.closing = true
    connection.queue.length = 0
    this.#linger(connection, new RequestBody(request, 'chunked', this.#options.clock, this.#bounds.bodyPace))
    const body = renderPlainError(error)
    response.writeHead(statusOf(error.code), [...errorHeaders(error), 'content-type', 'application/json', 'content-length', String(body.length), 'connection', 'close'])
    response.end(body)
  }

  /** Closing with unread bytes becomes a reset, which can take the answer with it: what still comes is thrown away for a while. */
  #linger(connection: Connection, body: RequestBody): void {
    if (connection.lingering) return
    connection.lingering = true
    connection.closing = true
    connection.queue.length = 0
    const { socket } = connection
    let ended = false
    socket.destroySoon = () => {
      if (ended) return
      ended = true
      socket.end()
      const cancel = this.#options.clock.after(this.#bounds.lingerMs, () => socket.destroy(), { unref: true })
      socket.once('close', cancel)
    }
    body.discard(this.#bounds.lingerBytes, (arrived) => { if (!arrived) socket.destroy() })
  }

  // ---- What is no request -------------------------------------------------------------------------------------------------------

  #onClientError(error: Error, socket: Socket): void {
    const code = codeOf(error)
    const connection = this.#connections.get(socket)
    if (code === 'ECONNRESET' || code === 'EPIPE' || !socket.writable) {
      socket.destroy()
      return
    }
    if (connection?.lingering === true) return
    const refusal = parserRefusal(code, error)
    const current = connection?.current ?? null
    if (connection !== undefined && current !== null) {
      connection.closing = true
      connection.queue.length = 0
      if (!current.body.arrived) {
        if (!current.body.spoiled) this.#count(whyOf(code))
        current.body.fail(refusal)
      }
      return
    }
    if (connection?.closing === true) return
    // A connection that never said a word is closed without one.
    if (socket.bytesRead === 0) {
      socket.destroy()
      return
    }
    this.#count(whyOf(code))
    this.#connectionOf(socket).closing = true
    this.#answerRaw(socket, refusal)
  }

  /** Where Node has no response object to answer with. */
  #answerRaw(socket: Duplex, error: GatewayError): void {
    const body = renderPlainError(error)
    const headers = [...errorHeaders(error), 'content-type', 'application/json', 'content-length', String(body.length), 'connection', 'close']
    let head = `HTTP/1.1 ${statusOf(error.code)} ${reasonOf(statusOf(error.code))}\r\n`
    for (let i = 0; i + 1 < headers.length; i += 2) head += `${headers[i] ?? ''}: ${headers[i + 1] ?? ''}\r\n`
    socket.end(`${head}\r\n${Buffer.from(body).toString('utf8')}`)
    const cancel = this.#options.clock.after(Math.min(500, this.#bounds.lingerMs), () => socket.destroy(), { unref: true })
    socket.once('close', cancel)
    socket.on('end', () => socket.destroy())
    socket.resume()
  }

  /**
   * A client that has closed looks like one that only stopped sending, until something is sent to it, and then something more. The answer may
   * be silent for long, so it is asked: before the head and between the events of a stream, by what every client has to skip.
   */
  #onHalfClose(connection: Connection): void {
    connection.closing = true
    const d = connection.current
    if (d === null) {
      if (connection.queue.length === 0 && !connection.refusing) connection.socket.end()
      return
    }
    if (!d.body.arrived) {
      d.body.fail(new GatewayError('bad_request', 'The body of the request ended too early.'))
      return
    }
    let probes = 0
    const probe = (): void => {
      if (connection.current !== d || d.gone || connection.socket.destroyed) return
      d.probe()
      const waitMs = (probesMs[probes + 1] ?? (probesMs[probes] ?? 0) + 3_000) - (probesMs[probes] ?? 0)
      if (probes < probesMs.length - 1) probes += 1
      this.#options.clock.after(waitMs, probe, { unref: true })
    }
    probe()
  }

  // ---- Upgrades -----------------------------------------------------------------------------------------------------------------

  #onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    // Node has taken its own listeners away.
    socket.on('error', () => socket.destroy())
    const connection = this.#connectionOf(request.socket)
    if (connection.closing || connection.current !== null || connection.refusing) {
      socket.destroy()
      return
    }
    let parsed: RequestHead
    try {
      parsed = readRequestHead({ method: request.method ?? '', target: request.url ?? '', httpVersion: request.httpVersion, rawHeaders: request.rawHeaders })
      if (!parsed.upgrades) throw new Malformed('bad_request', 'upgrade', 'This upgrade cannot be made.')
    } catch (thrown) {
      const error = presentable(thrown)
      this.#count(error instanceof Malformed ? error.why : error.code)
      return this.#answerRaw(socket, error)
    }
    const response = new ServerResponse(request)
    const d = this.#downstream(connection, request, response, parsed, socket)
    this.#inFlight += 1
    let parts = 2
    const partOver = (): void => {
      parts -= 1
      if (parts === 0) this.#leave()
    }
    socket.once('close', partOver)
    void this.#runUpgrade(d, request, socket, head).finally(partOver)
  }

  async #runUpgrade(d: NodeDownstream, request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    try {
      await this.#options.handleUpgrade(d, request, socket, head)
    } catch (thrown) {
      if (!(thrown instanceof GatewayError)) this.#options.log.error({ err: describe(thrown) }, 'an upgrade failed')
      // Once the tunnel has the socket there is no status left to answer with.
      if (d.headSent || d.gone || (socket as Socket).bytesWritten > 0) socket.destroy()
      else respondError(d, presentable(thrown), null, { requestId: '' })
    }
  }

  // ---- Who is asking ------------------------------------------------------------------------------------------------------------

  #clientAddress(request: IncomingMessage): string {
    this.#readProxies()
    return this.#readAddress(request)
  }

  #trusts(address: string): boolean {
    this.#readProxies()
    return this.#isProxy(address)
  }

  #readProxies(): void {
    const { trustedProxies } = this.#options.settings()
    if (trustedProxies === this.#proxies) return
    this.#proxies = trustedProxies
    this.#readAddress = addressReader(trustedProxies)
    this.#isProxy = trustChecker(trustedProxies)
  }

  #count(why: string): void {
    this.#options.metrics.rejected.inc({ why })
  }

  // ---- The end ------------------------------------------------------------------------------------------------------------------

  #leave(): void {
    this.#inFlight -= 1
    if (this.#inFlight === 0) this.#onIdle?.()
  }

  drain(cutAll: () => void): Promise<void> {
    if (this.#drainDone === null) this.#drainDone = this.#drain(cutAll)
    else this.#cutNow?.()
    return this.#drainDone
  }

  async #drain(cutAll: () => void): Promise<void> {
    const { clock } = this.#options
    const { delayMs, timeoutMs } = this.#options.settings().drain
    let impatient = false
    let wake = (): void => undefined
    this.#cutNow = () => {
      impatient = true
      wake()
    }
    const wait = (ms: number, until: (done: () => void) => void = () => undefined): Promise<void> => new Promise((resolve) => {
      const done = (): void => {
        cancel()
        resolve()
      }
      const cancel = clock.after(ms, done)
      wake = done
      until(done)
    })
    // Load balancers need a while to notice; towards its end clients are told to come back on another connection.
    this.#drainStep = 'accepting'
    await wait(delayMs / 2)
    this.#drainStep = 'announcing'
    if (!impatient) await wait(delayMs / 2)
    this.#drainStep = 'stopped'
    const closed = this.#stopListening()
    if (this.#inFlight > 0 && !impatient) await wait(timeoutMs, (done) => { this.#onIdle = done })
    if (this.#inFlight > 0) {
      cutAll()
      // What was cut still has to be settled by its handler; a handler that does not come back is not waited for.
      if (this.#inFlight > 0) await wait(5_000, (done) => { this.#onIdle = done })
    }
    this.#onIdle = null
    // An answer that is out is still on its way through the socket.
    await Promise.race([closed, wait(this.#bounds.lingerMs)])
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }

  #stopListening(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => resolve())
      this.#server.closeIdleConnections()
    })
  }

  async close(): Promise<void> {
    this.#drainStep = 'stopped'
    const closed = this.#stopListening()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}

function wantsWebSocket(request: IncomingMessage): boolean {
  return /(?:^|,)\s*websocket\s*(?:,|$)/i.test(request.headers.upgrade ?? '')
    && request.headers['transfer-encoding'] === undefined && (request.headers['content-length'] ?? '0') === '0'
}

function firstOf(headers: readonly string[], name: string): string | undefined {
  for (let i = 0; i < headers.length; i += 2) if (headers[i] === name) return headers[i + 1]
  return undefined
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name
}

/** What the parser's code means to the client. */
function parserRefusal(code: string, error: Error): GatewayError {
  const [status, message] = parserVerdict(code, error)
  return new GatewayError(status, message)
}

function parserVerdict(code: string, error: Error): [ErrorCode, string] {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return ['request_timeout', 'The request did not arrive in time.']
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW') return ['request_too_large', 'The chunk extensions are too long.']
  if (code !== 'HPE_HEADER_OVERFLOW') return ['bad_request', 'This is not a valid HTTP/1.1 request.']
  const packet = 'rawPacket' in error && error.rawPacket instanceof Uint8Array ? error.rawPacket : null
  const parsed = 'bytesParsed' in error && typeof error.bytesParsed === 'number' ? error.bytesParsed : headerBytesMax
  return packet !== null && !packet.subarray(0, Math.max(parsed, headerBytesMax)).includes(10) ? ['uri_too_long', 'The request target is too long.'] : ['headers_too_large', 'The headers are too large.']
}

function whyOf(code: string): string {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return 'timeout'
  return code === 'HPE_HEADER_OVERFLOW' ? 'headers_too_large' : 'parser'
}

const reasons: Readonly<Record<number, string>> = {
  400: 'Bad Request', 405: 'Method Not Allowed', 408: 'Request Timeout', 413: 'Content Too Large', 414: 'URI Too Long', 417: 'Expectation Failed',
  426: 'Upgrade Required', 431: 'Request Header Fields Too Large', 505: 'HTTP Version Not Supported',
}

function reasonOf(status: number): string {
  return reasons[status] ?? 'Error'
}

/** For the log: an unknown error's message may quote what a client sent, so only its kind and its place are told. */
function describe(thrown: unknown): { name: string; code?: string; at?: string } {
  if (!(thrown instanceof Error)) return { name: typeof thrown }
  const at = thrown.stack?.split('\n').filter((text) => /^\s+at /.test(text)).slice(0, 8).map((text) => text.trim()).join(' | ')
  return { name: thrown.name, code: codeOf(thrown), ...(at === undefined ? {} : { at }) }
}
