import type { ClientRequest, IncomingMessage } from 'node:http'
import { Duplex } from 'node:stream'
import { ProxyServer } from 'http-proxy-3'
import { GatewayError } from '../errors.ts'
import type { StreamEnd } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'
import type { Counted } from '../metering/moves.ts'
import { amountsOf } from '../metering/reservation.ts'
import { admit, entitle, holdOf } from './admission.ts'
import { authenticate, hasCredential } from './authenticate.ts'
import { skeletonOf } from './books.ts'
import { closeBooks } from './close-books.ts'
import { Deadline } from './deadline.ts'
import { admitted, type Exchange } from './exchange.ts'
import { downstreamHeaders, upstreamQuery, upstreamRequestHeaders } from './headers.ts'
import { none, type Hold } from './hold.ts'
import type { Workings } from './parts.ts'
import { respondError } from './respond.ts'
import { destinationOf, opaqueRoute } from './route.ts'
import { unavailable, upstreamError } from './upstream-error.ts'
import { headerPlan } from './upstream-request.ts'

/** How much is held ahead of a tunnel, in either direction and in time. */
const aheadBytes = 262_144
const aheadComputeMs = 5_000
const computeMarginMs = 250

type Ending = { readonly end: StreamEnd; readonly error: GatewayError | null }

/**
 * An upgraded connection: authenticated and admitted like any call, before the upstream is dialled, then metered by bytes and time until either
 * side ends it. What the caller sent too early waits for the upstream's 101.
 */
export class Tunnel {
  readonly #x: Exchange
  readonly #w: Workings
  readonly #request: IncomingMessage
  readonly #socket: Duplex
  readonly #head: Buffer
  readonly #over = Promise.withResolvers<Ending>()
  readonly #deadline: Deadline
  #proxyRequest: ClientRequest | null = null
  #gated: GatedSocket | null = null
  #hold: Hold | null = null
  #grows = false
  #startedMs = 0
  #lastMs = 0
  #nextGrowthMs = Infinity
  #dialled = false
  #open = false
  #status = 0
  #ended = false

  constructor(x: Exchange, w: Workings, request: IncomingMessage, socket: Duplex, head: Buffer) {
    this.#x = x
    this.#w = w
    this.#request = request
    this.#socket = socket
    this.#head = head
    this.#deadline = new Deadline(w.clock, () => this.#onDue())
  }

  /** The journey of `handle.ts`, with a tunnel for its third step. Throws what is refused before the upstream was dialled. */
  async run(): Promise<void> {
    const x = this.#x
    const w = this.#w
    const { d } = x
    // An endpoint of a dialect is not reached by asking for an upgrade.
    if (w.routes.match(d).outcome !== 'unknown' || !hasCredential(d)) throw new GatewayError('not_found', 'There is no such endpoint to upgrade on.')
    const route = x.route = opaqueRoute(w.providers, w.httpEndpoint, d)
    if (route === null) throw new GatewayError('not_found', 'There is no such endpoint to upgrade on.')
    x.principal = await authenticate(d, w)
    x.facts = { ...route.endpoint.inspect(x.body), streamed: true }
    x.entitlement = entitle(x)
    x.destination = destinationOf(x.config, route.provider, null)
    await admit(x, w)

    x.skeleton ??= skeletonOf(x)
    const { hold, grows } = holdOf(x, w, true)
    this.#hold = hold
    this.#grows = grows
    if (x.holding) {
      x.living = {
        place: -1, id: x.id, home: x.principal.home,
        counted: () => this.#counted(), nextCheckpoint: () => ++x.checkpoint, lost: () => this.#lost(),
      }
      w.lease.add(x.living)
    }
    this.#dial()
    const { end, error } = await this.#over.promise
    this.#ended = true
    this.#deadline.clear()
    this.#proxyRequest?.destroy()
    x.upstreamMs = w.clock.monotonicMs() - this.#startedMs
    x.upstreamStatus = this.#status
    const answered = this.#status !== 0 && this.#status < 400
    await closeBooks(x, w, {
      end, verdict: answered ? 'used' : this.#dialled ? 'failed' : 'untouched', status: this.#status === 0 ? 502 : this.#status,
      usage: this.#usage(), source: 'counted', modelServed: null, serviceTier: null, alarms: [], release: () => undefined,
    })
    if (error !== null && !this.#open && this.#gated?.spoken !== true) respondError(d, error, route.provider, { requestId: x.id })
    else this.#socket.destroy()
  }

  stop(): void {
    this.#finish('timed_out', new GatewayError('draining', 'The gateway is restarting. Please try again.', { source: 'gateway' }))
  }

  #dial(): void {
    const x = this.#x
    const w = this.#w
    const { destination, route } = admitted(x)
    const { upstream } = destination
    this.#startedMs = this.#lastMs = x.forwardedMs = w.clock.monotonicMs()
    const query = upstreamQuery(x.d.query)
    const headers = upstreamRequestHeaders(headerPlan(upstream, route.provider), x.d.headers, x.id, false, x.trace)
    const outgoing = Object.assign(Object.create(null) as object, {
      method: 'GET', url: `${upstream.pathPrefix}${x.d.path}${query === '' ? '' : `?${query}`}`, httpVersion: '1.1', httpVersionMajor: 1,
      headers: { ...objectOf(headers), connection: 'Upgrade', upgrade: 'websocket' }, socket: this.#request.socket, connection: this.#request.socket,
    }) as IncomingMessage
    const gated = this.#gated = new GatedSocket(this.#socket, this.#head, {
      passIn: (bytes) => this.#pass(bytes, 0),
      passOut: (bytes) => this.#pass(0, bytes),
      closed: () => this.#finish(this.#open ? 'complete' : 'client_gone', null),
    })
    const proxy = new ProxyServer({ changeOrigin: true })
    proxy.on('proxyReqWs', (proxyRequest: ClientRequest) => {
      this.#proxyRequest = proxyRequest
      proxyRequest.on('socket', (socket) => { socket.once('connect', () => { this.#dialled = true }) })
      proxyRequest.on('upgrade', (response) => {
        this.#status = 101
        this.#open = true
        this.#lastMs = w.clock.monotonicMs()
        x.firstByteMs = this.#lastMs - x.startedMs
        cleanHeaders(response)
      })
      proxyRequest.on('response', (response) => this.#onResponse(response, gated))
    })
    proxy.ws(outgoing, gated as never, Buffer.alloc(0), { target: upstream.origin }, () => {
      // The proxy closes the socket next; while nothing was said, we still have a sentence for the caller.
      if (!gated.spoken) gated.mute()
      this.#finish('upstream_broken', unavailable('The model server cannot be reached.'))
    })
    if (this.#grows) this.#background(this.#growCompute())
    this.#arm()
  }

  /** The upstream answers instead of upgrading: a normal answer is relayed, its failures are told in our words, the tunnel never opens. */
  #onResponse(response: IncomingMessage, gated: GatedSocket): void {
    this.#status = response.statusCode ?? 502
    this.#x.failure = `status_${this.#status}`
    const flat = response.rawHeaders.map((value, index) => (index % 2 === 0 ? value.toLowerCase() : value))
    const error = this.#status >= 300 ? upstreamError(this.#status, flat, new Uint8Array(0), this.#w.clock.nowMs()) : null
    if (error === null) return cleanHeaders(response)
    gated.mute()
    response.resume()
    this.#finish('upstream_broken', error)
  }

  /** True once the bytes may pass; false: the tunnel is over. Never rejects. */
  async #pass(bytesIn: number, bytesOut: number): Promise<boolean> {
    const passes = this.#cover(bytesIn, bytesOut)
    this.#background(passes)
    return passes.catch(() => false)
  }

  async #cover(bytesIn: number, bytesOut: number): Promise<boolean> {
    const x = this.#x
    this.#lastMs = this.#w.clock.monotonicMs()
    const hold = this.#hold
    if (hold !== null && this.#grows) {
      const wanted = { ...hold.held, bytesIn: this.#bytesIn + bytesIn, bytesOut: x.bytesOut + bytesOut }
      if (!hold.covers(wanted)) {
        const grown = await hold.grow(wanted, { ...none, bytesIn: bytesIn > 0 ? aheadBytes : 0, bytesOut: bytesOut > 0 ? aheadBytes : 0 })
        if (this.#ended) return false
        if (grown.outcome === 'denied') {
          this.#finish('quota_stop', null)
          return false
        }
      }
    }
    this.#bytesIn += bytesIn
    x.bytesOut += bytesOut
    return true
  }

  #bytesIn = 0

  async #growCompute(): Promise<void> {
    const hold = this.#hold
    if (hold === null || hold.held.computeMs === Infinity) return
    const elapsed = Math.ceil(this.#w.clock.monotonicMs() - this.#startedMs)
    const { held } = hold
    const grown = await hold.grow({ ...held, computeMs: elapsed + 2 * computeMarginMs }, { ...none, computeMs: aheadComputeMs })
    if (this.#ended) return
    this.#nextGrowthMs = grown.outcome === 'held' ? this.#startedMs + hold.held.computeMs - aheadComputeMs / 2 : Infinity
    this.#arm()
  }

  #lost(): void {
    if (this.#hold === null) return
    this.#background(this.#hold.revive().then((grown) => {
      if (grown.outcome === 'denied') this.#finish('quota_stop', null)
    }))
  }

  #usage(): Quantities {
    return { requests: 1, bytes_in: this.#bytesIn, bytes_out: this.#x.bytesOut, compute_seconds: Math.round(this.#w.clock.monotonicMs() - this.#startedMs) }
  }

  #counted(): Counted | null {
    const { draft } = this.#x
    if (draft === null || !this.#open) return null
    const usage = this.#usage()
    return { usage, amounts: amountsOf(draft, usage) }
  }

  #arm(): void {
    const { firstByteMs, idleMs, totalMs } = admitted(this.#x).destination.upstream.timeouts ?? this.#x.config.server.timeouts
    let due = this.#status === 0 ? this.#startedMs + firstByteMs : this.#lastMs + idleMs
    if (totalMs > 0) due = Math.min(due, this.#startedMs + totalMs)
    if (this.#hold !== null && this.#grows) due = Math.min(due, this.#startedMs + Math.max(0, this.#hold.held.computeMs - computeMarginMs), this.#nextGrowthMs)
    this.#deadline.set(due)
  }

  #onDue(): void {
    if (this.#ended) return
    const now = this.#w.clock.monotonicMs()
    const { firstByteMs, idleMs, totalMs } = admitted(this.#x).destination.upstream.timeouts ?? this.#x.config.server.timeouts
    const late = now >= (this.#status === 0 ? this.#startedMs + firstByteMs : this.#lastMs + idleMs) || (totalMs > 0 && now >= this.#startedMs + totalMs)
    if (late) return this.#finish('timed_out', new GatewayError('upstream_timeout', 'The model server took too long to answer.', { source: 'upstream' }))
    if (this.#hold !== null && this.#grows) {
      if (now >= this.#startedMs + this.#hold.held.computeMs - computeMarginMs) return this.#finish('quota_stop', null)
      if (now >= this.#nextGrowthMs) {
        this.#nextGrowthMs = Infinity
        this.#background(this.#growCompute())
      }
    }
    this.#arm()
  }

  /** Work that nobody waits for: a failure of it ends this tunnel, not the process. */
  #background(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#w.log.error({ id: this.#x.id, err: error instanceof Error ? error.name : typeof error }, 'a tunnel failed')
      this.#finish('upstream_broken', null)
    })
  }

  #finish(end: StreamEnd, error: GatewayError | null): void {
    this.#over.resolve({ end, error })
  }
}

interface Gate {
  passIn(bytes: number): Promise<boolean>
  passOut(bytes: number): Promise<boolean>
  closed(): void
}

/** The caller's socket as the proxy sees it: every byte in either direction passes the gate first. The first write is the answer's head. */
class GatedSocket extends Duplex {
  readonly #socket: Duplex
  readonly #gate: Gate
  #early: Buffer | null
  #reading = false
  #muted = false
  spoken = false

  constructor(socket: Duplex, early: Buffer, gate: Gate) {
    super({ allowHalfOpen: false })
    // What the proxy sets on a socket, beyond a stream; the caller's is the server's to set.
    for (const setting of ['Timeout', 'NoDelay', 'KeepAlive']) Object.defineProperty(this, `set${setting}`, { value: () => this })
    this.#socket = socket
    this.#gate = gate
    this.#early = early.length > 0 ? early : null
    socket.on('close', () => {
      this.destroy()
      gate.closed()
    })
    socket.on('end', () => this.push(null))
    // A reset by the caller ends the tunnel through 'close'.
    this.on('error', () => this.destroy())
  }

  /** From here on the proxy speaks to nobody. */
  mute(): void {
    this.#muted = true
  }

  override _read(): void {
    if (this.#reading) return this.#socket.isPaused() ? void this.#socket.resume() : undefined
    this.#reading = true
    const early = this.#early
    this.#early = null
    if (early !== null) void this.#take(early)
    this.#socket.on('data', (chunk: Buffer) => {
      this.#socket.pause()
      void this.#take(chunk)
    })
  }

  async #take(chunk: Buffer): Promise<void> {
    if (!await this.#gate.passIn(chunk.length) || this.destroyed) return
    if (this.push(chunk)) this.#socket.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#muted) return done()
    if (!this.spoken) {
      this.spoken = true
      this.#socket.write(chunk, done)
      return
    }
    void this.#pass(chunk, done)
  }

  async #pass(chunk: Buffer, done: (error?: Error | null) => void): Promise<void> {
    if (await this.#gate.passOut(chunk.length) && !this.#socket.destroyed) this.#socket.write(chunk, done)
    else done()
  }

  /** The upstream has ended: what was written still leaves, then the tunnel is over. */
  override _final(done: (error?: Error | null) => void): void {
    if (!this.#muted) this.#socket.end(() => this.#socket.destroy())
    done()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#muted && !this.#socket.writableEnded) this.#socket.destroy()
    done(error)
  }

  destroySoon(): void {
    if (this.#muted) return
    this.end(() => this.destroy())
  }
}

function objectOf(flat: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {}
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const name = flat[i] ?? ''
    const value = flat[i + 1] ?? ''
    headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`
  }
  return headers
}

/** Takes from an upstream's head what is its own affair; the handshake's fields stay. */
function cleanHeaders(response: IncomingMessage): void {
  const flat = response.rawHeaders.map((value, index) => (index % 2 === 0 ? value.toLowerCase() : value))
  const kept = downstreamHeaders(flat, false, [])
  for (const name of Object.keys(response.headers)) {
    const handshake = name === 'connection' || name === 'upgrade' || name.startsWith('sec-websocket-')
    if (!handshake && !kept.includes(name)) delete response.headers[name]
  }
}
