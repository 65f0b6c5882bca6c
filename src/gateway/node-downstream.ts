import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { assert } from '../assert.ts'
import type { Clock } from '../clock.ts'
import type { Downstream } from './downstream.ts'
import { decodeBody } from './request-body.ts'
import type { RequestBody } from './request-body.ts'
import type { RequestHead } from './request-head.ts'

/** What the server knows about the connection that an exchange lives on. */
export interface Line {
  /** Nothing after this answer may be read from the connection. */
  closesAfter(): boolean
  /** Headers that every answer of this exchange gets (CORS). */
  readonly added: readonly string[]
  /** The answer ends the connection although bytes of the request are still to come. */
  willLinger(body: RequestBody): void
  readonly clock: Clock
  /** A client that takes nothing for so long is cut. */
  readonly stallMs: number
}

/** An early answer waits this long for a small rest of the body, so that the connection can be kept. */
const restOfBodyMs = 50
const restOfBodyMaxBytes = 65_536

/** A comment in an event stream: every reader skips it. */
const comment = ':\n\n'
const nothing = new Uint8Array(0)

/** A `Downstream` over Node's request and response. */
export class NodeDownstream implements Downstream {
  readonly method: string
  readonly path: string
  readonly query: string
  readonly headers: readonly string[]
  readonly address: string
  readonly httpVersion: '1.0' | '1.1'
  readonly body: RequestBody
  bytesOut = 0
  headSent = false
  gone = false
  readonly #response: ServerResponse
  readonly #line: Line
  readonly #acceptsTrailers: boolean
  /** The request waits for 100 before it sends its body. */
  #expecting: boolean
  /** Set for an upgrade: Node has let go of this socket, and the response must be put on it. */
  #upgradeSocket: Duplex | null
  /** Decided but held back while the rest of a small body comes in. */
  #heldHead: { status: number; headers: readonly string[] } | null = null
  #flushed = false
  #ended = false
  #cut = false
  #goneListeners: (() => void)[] = []
  #drainListener: (() => void) | null = null
  #cancelStall: (() => void) | null = null
  /** The answer is an event stream that may grow by a comment. */
  #commentable = false
  #lastChunk: Uint8Array = nothing

  constructor(request: IncomingMessage, response: ServerResponse, head: RequestHead, body: RequestBody, address: string, line: Line, upgradeSocket: Duplex | null) {
    this.method = request.method ?? ''
    this.path = head.path
    this.query = head.query
    this.headers = head.headers
    this.address = address
    this.httpVersion = request.httpVersion === '1.0' ? '1.0' : '1.1'
    this.body = body
    this.#response = response
    this.#line = line
    this.#acceptsTrailers = head.acceptsTrailers
    this.#expecting = head.expectsContinue
    this.#upgradeSocket = upgradeSocket
    response.on('drain', () => this.#onDrain())
    response.on('finish', () => this.#stopStall())
    ;(upgradeSocket ?? response).on('close', () => this.#onClose())
  }

  header(name: string): string | undefined {
    const { headers } = this
    for (let i = 0; i < headers.length; i += 2) if (headers[i] === name) return headers[i + 1]
    return undefined
  }

  async readBody(maxBytes: number): Promise<Uint8Array> {
    const declared = this.body.declaredBytes
    // Only now: whoever is refused before this never sends its body.
    if (this.#expecting && !this.headSent && (declared === null || (declared > 0 && declared <= maxBytes))) {
      this.#expecting = false
      this.#response.writeContinue()
    }
    const bytes = await this.body.read(maxBytes)
    return bytes.length === 0 ? bytes : decodeBody(bytes, this.#contentEncoding(), maxBytes)
  }

  #contentEncoding(): string | undefined {
    return this.header('content-encoding')
  }

  writeHead(status: number, headers: readonly string[]): void {
    assert(!this.headSent, 'the head of an answer is written once')
    if (!this.gone && !this.#cut && this.body.arrived) {
      // Throws for a header that cannot be sent; then nothing is sent, and an error can still be.
      this.#sendHead(status, headers)
      this.headSent = true
      // The head of a stream must not wait for its first chunk; a whole answer goes out in one piece with its head.
      queueMicrotask(() => this.#flush())
      return
    }
    this.headSent = true
    if (this.gone || this.#cut) return
    this.#heldHead = { status, headers }
    queueMicrotask(() => { if (!this.#ended) this.#releaseHead() })
  }

  #sendHead(status: number, headers: readonly string[]): void {
    const { added } = this.#line
    const early = !this.body.arrived
    const mustClose = this.#line.closesAfter() || early || this.#upgradeSocket !== null
    if (early) this.#line.willLinger(this.body)
    if (this.#upgradeSocket !== null) {
      const socket = this.#upgradeSocket
      this.#response.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0])
      this.#response.on('finish', () => { socket.end(() => socket.destroy()) })
    }
    const all = mustClose || added.length > 0 ? [...headers, ...added, ...(mustClose ? ['connection', 'close'] : [])] : (headers as string[])
    this.#response.writeHead(status, all)
    this.#commentable = isEventStream(headers)
  }

  #flush(): void {
    if (this.#flushed || this.gone || this.#cut) return
    this.#flushed = true
    this.#response.flushHeaders()
  }

  /** Sends a head that waited for the body's rest. By then nobody is left who could handle an error but the connection's end. */
  #releaseHead(): void {
    const held = this.#heldHead
    this.#heldHead = null
    if (held === null || this.gone || this.#cut) return
    try {
      this.#sendHead(held.status, held.headers)
    } catch {
      return this.cut()
    }
    if (!this.#ended) this.#flush()
  }

  write(chunk: Uint8Array): boolean {
    assert(this.headSent && !this.#ended, 'the body of an answer follows its head')
    if (this.gone || this.#cut) return true
    this.#releaseHead()
    if (chunk.length === 0) return !this.#response.writableNeedDrain
    this.#flushed = true
    this.bytesOut += chunk.length
    this.#lastChunk = chunk
    if (this.#response.write(chunk)) return true
    this.#startStall()
    return false
  }

  onDrain(listener: () => void): void {
    this.#drainListener = listener
  }

  end(chunk?: Uint8Array, trailers?: readonly string[]): void {
    assert(this.headSent && !this.#ended, 'an answer ends once, after its head')
    this.#ended = true
    this.#flushed = true
    if (this.gone || this.#cut) return
    if (chunk !== undefined) this.bytesOut += chunk.length
    if (this.#heldHead === null) return this.#finish(chunk, trailers)
    let done = false
    const proceed = (): void => {
      if (done) return
      done = true
      cancel()
      this.#releaseHead()
      if (!this.gone && !this.#cut) this.#finish(chunk, trailers)
    }
    const cancel = this.#line.clock.after(restOfBodyMs, proceed, { unref: true })
    const declared = this.body.declaredBytes
    // Who waits for 100 has sent nothing and will send nothing now.
    if (this.#expecting || this.body.spoiled || this.#line.closesAfter() || (declared !== null && declared > restOfBodyMaxBytes)) return proceed()
    this.body.discard(restOfBodyMaxBytes, proceed)
  }

  #finish(chunk: Uint8Array | undefined, trailers: readonly string[] | undefined): void {
    const response = this.#response
    if (trailers !== undefined && this.#acceptsTrailers && response.chunkedEncoding) {
      const pairs: [string, string][] = []
      for (let i = 0; i + 1 < trailers.length; i += 2) pairs.push([trailers[i] ?? '', trailers[i + 1] ?? ''])
      response.addTrailers(pairs)
    }
    if (chunk === undefined || chunk.length === 0) response.end()
    else response.end(chunk)
    if ((response.socket?.writableLength ?? 0) > 0) this.#startStall()
  }

  /** True where the caller can be told in a trailer. */
  get acceptsTrailers(): boolean {
    return this.#acceptsTrailers
  }

  cut(): void {
    if (this.#cut || this.gone) return
    this.#cut = true
    this.headSent = true
    this.#stopStall()
    this.#destroy()
  }

  #destroy(): void {
    const socket = this.#upgradeSocket ?? this.#response.socket
    if (socket === null) return
    // An answer that is framed by the connection's end must not end like a whole one.
    if ('resetAndDestroy' in socket && !('encrypted' in socket) && this.httpVersion === '1.0') socket.resetAndDestroy()
    else socket.destroy()
  }

  onGone(listener: () => void): void {
    if (this.gone) return queueMicrotask(listener)
    this.#goneListeners.push(listener)
  }

  /**
   * Asks the kernel whether a client that has stopped sending still listens: what is sent to one that has left is met with a reset. Before the
   * head that is an interim answer; in an event stream a comment, which every reader skips, and only where no event is cut in two.
   */
  probe(): void {
    if (this.httpVersion !== '1.1' || this.#upgradeSocket !== null || this.#ended || this.gone || this.#cut) return
    if (!this.headSent) this.#response.writeContinue()
    else if (this.#commentable && this.#heldHead === null && endsAnEvent(this.#lastChunk) && !this.#response.writableNeedDrain) this.#response.write(comment)
  }

  #onDrain(): void {
    this.#stopStall()
    this.#drainListener?.()
  }

  #onClose(): void {
    this.#stopStall()
    if (this.gone || this.#cut || this.#response.writableFinished) return
    this.gone = true
    const listeners = this.#goneListeners
    this.#goneListeners = []
    for (const listener of listeners) listener()
  }

  #startStall(): void {
    this.#cancelStall ??= this.#line.clock.after(this.#line.stallMs, () => this.#destroy(), { unref: true })
  }

  #stopStall(): void {
    this.#cancelStall?.()
    this.#cancelStall = null
  }
}

function isEventStream(headers: readonly string[]): boolean {
  let streams = false
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i]?.toLowerCase()
    if (name === 'content-length' || name === 'content-encoding') return false
    if (name === 'content-type') streams = headers[i + 1]?.toLowerCase().startsWith('text/event-stream') === true
  }
  return streams
}

/** Whether a blank line was sent last, so that a new line would begin a new event. */
function endsAnEvent(sent: Uint8Array): boolean {
  const last = sent.at(-1)
  return sent.length === 0 || (last === 0x0a && (sent.at(-2) === 0x0a || (sent.at(-2) === 0x0d && sent.at(-3) === 0x0a)))
}
