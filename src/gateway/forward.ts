import { errors, Pool } from 'undici'
import type { Dispatcher } from 'undici'

/**
 * The upstream's side of an exchange as plain values, so that no rule knows undici: one request out, one answer in, exactly one end.
 * Nothing is decoded, followed or retried here. Header lists are flat (name, value …), names lower-case, repeats kept.
 */
export interface UpstreamRequest {
  readonly origin: string
  readonly connectMs: number
  readonly connectionsMax: number | null
  readonly method: string
  /** With its query. */
  readonly target: string
  readonly headers: readonly string[]
  readonly body: Uint8Array | null
}

export interface UpstreamListener {
  /** The request's bytes are leaving: from here on the upstream may have executed it. */
  onSent(): void
  onHead(status: number, headers: readonly string[]): void
  onData(chunk: Uint8Array): void
  onEnd(): void
  onFailed(failure: UpstreamFailure): void
}

export interface UpstreamFailure {
  /** `unreachable`: no byte of the request has left. `malformed`: what came is not HTTP that may be passed on. `broken`: all else. */
  readonly kind: 'unreachable' | 'malformed' | 'broken'
  /** A code for the log; never the upstream's words. */
  readonly code: string
}

export interface UpstreamCall {
  pause(): void
  resume(): void
  /** Destroys the connection at once; nothing is heard of it any more. */
  abort(): void
}

/** The way to the upstreams: what an exchange needs of it. */
export interface UpstreamWire {
  forward(request: UpstreamRequest, listener: UpstreamListener): UpstreamCall
  keepOnly(upstreams: Iterable<Pick<UpstreamRequest, 'origin' | 'connectMs' | 'connectionsMax'>>): void
  close(): Promise<void>
}

const headBytesMax = 16_384
/** Interim answers (103 and the like) beyond this are a flood. */
const interimMax = 16

export class Forwarder implements UpstreamWire {
  readonly #pools = new Map<string, Pool>()

  forward(request: UpstreamRequest, listener: UpstreamListener): UpstreamCall {
    const call = new Call(listener)
    this.#pool(request).dispatch({
      method: request.method,
      path: request.target,
      headers: request.headers as string[],
      body: request.body,
    }, call)
    return call
  }

  /** Lets go of pools whose upstream is no longer configured, once their running calls have ended. */
  keepOnly(upstreams: Iterable<Pick<UpstreamRequest, 'origin' | 'connectMs' | 'connectionsMax'>>): void {
    const wanted = new Set([...upstreams].map(poolName))
    for (const [name, pool] of this.#pools) {
      if (wanted.has(name)) continue
      this.#pools.delete(name)
      void pool.close()
    }
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()]
    this.#pools.clear()
    await Promise.all(pools.map((pool) => pool.destroy()))
  }

  #pool(request: UpstreamRequest): Pool {
    const name = poolName(request)
    let pool = this.#pools.get(name)
    if (pool === undefined) {
      pool = new Pool(request.origin, {
        connections: request.connectionsMax,
        pipelining: 1,
        allowH2: false,
        maxHeaderSize: headBytesMax,
        // The exchange has one clock of its own for every phase after connecting.
        headersTimeout: 0,
        bodyTimeout: 0,
        connect: { timeout: request.connectMs },
      })
      this.#pools.set(name, pool)
    }
    return pool
  }
}

function poolName(of: Pick<UpstreamRequest, 'origin' | 'connectMs' | 'connectionsMax'>): string {
  return `${of.origin} ${of.connectMs} ${of.connectionsMax ?? ''}`
}

/** One request's handler. After its end or its abort it is deaf. */
class Call implements Dispatcher.DispatchHandler, UpstreamCall {
  #listener: UpstreamListener
  #controller: Dispatcher.DispatchController | null = null
  #over = false
  #sent = false
  #headSeen = false
  #interim = 0

  constructor(listener: UpstreamListener) {
    this.#listener = listener
  }

  pause(): void {
    this.#controller?.pause()
  }

  resume(): void {
    this.#controller?.resume()
  }

  abort(): void {
    this.#over = true
    this.#controller?.abort(new errors.RequestAbortedError())
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    // Given up while it waited for a connection: it must not be sent after all.
    if (this.#over) return controller.abort(new errors.RequestAbortedError())
    this.#sent = true
    this.#listener.onSent()
  }

  onRequestUpgrade(controller: Dispatcher.DispatchController): void {
    this.#fail('malformed', 'unsolicited_upgrade')
    controller.abort(new errors.RequestAbortedError())
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number): void {
    if (this.#over) return
    if (status >= 100 && status < 200 && ++this.#interim <= interimMax) return
    if (status < 200 || status > 599) return this.#refuse(status < 200 && status >= 100 ? 'interim_flood' : 'status')
    const headers = flatHeaders(controller.rawHeaders)
    if (headers === null) return this.#refuse('header')
    this.#headSeen = true
    this.#listener.onHead(status, headers)
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#over) this.#listener.onData(chunk)
  }

  onResponseEnd(): void {
    if (this.#over) return
    try {
      this.#listener.onEnd()
    } catch {
      // The request is over for undici, which would tell nobody.
      this.#fail('broken', 'internal')
    }
    this.#over = true
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    const code = 'code' in error && typeof error.code === 'string' ? error.code : error.name
    const malformed = !this.#headSeen && (code.startsWith('HPE_') || code === 'UND_ERR_HEADERS_OVERFLOW' || /^bad (response|upgrade)/.test(error.message))
    this.#fail(this.#sent ? (malformed ? 'malformed' : 'broken') : 'unreachable', code)
  }

  #refuse(code: string): void {
    this.#fail('malformed', code)
    this.#controller?.abort(new errors.RequestAbortedError())
  }

  #fail(kind: UpstreamFailure['kind'], code: string): void {
    if (this.#over) return
    this.#over = true
    this.#listener.onFailed({ kind, code })
  }
}

/** null: a framing that only a smuggler would use. */
function flatHeaders(raw: Dispatcher.DispatchController['rawHeaders']): string[] | null {
  const flat: string[] = []
  if (!Array.isArray(raw)) return flat
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = latin1(raw[i]).toLowerCase()
    const value = latin1(raw[i + 1])
    if (name === 'transfer-encoding' && value.trim().toLowerCase() !== 'chunked') return null
    flat.push(name, value)
  }
  return flat
}

function latin1(bytes: Buffer | string | undefined): string {
  return typeof bytes === 'string' ? bytes : bytes?.toString('latin1') ?? ''
}
