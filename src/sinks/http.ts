import { lookup as resolveName } from 'node:dns'
import type { LookupFunction } from 'node:net'
import type { Agent, Dispatcher } from 'undici'
import { codeWords, placeOf, statusWords } from '../failure-words.ts'
import { whyNotAddress, whyNotHost } from './address.ts'
import { DeliveryFailed, type SinkSurroundings } from './sink.ts'

export interface HttpRequest {
  /** POST unless given. */
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** With its query. */
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array
  /** Bytes of an answer that are read at most; 4 MiB unless given. */
  readonly answerMax?: number
  /** The status says it all: an answer that is too long, or has no end, is what was read of it. */
  readonly statusSuffices?: boolean
}

export interface HttpAnswer {
  readonly status: number
  /** Names in lower case; of repeats the last. */
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
}

export interface HttpOptions {
  /** The sink's own `private`. */
  readonly permitPrivate: boolean
  /** Connections to one origin at most; 8 unless given. */
  readonly connections?: number
  /** Longest silence of the receiver, ms; 15 s unless given. The loop ends an attempt as a whole. */
  readonly silenceMs?: number
  /** Certificates that are trusted beside the usual ones, PEM; for receivers of one's own. */
  readonly ca?: string
}

const CONNECT_MS = 5_000
const SILENCE_MS = 15_000
const ANSWER_MAX = 4 * 1_048_576
const RETRY_AFTER_MAX_MS = 3_600_000

/**
 * The sinks' way to their receivers: keep-alive connections of one sink, nothing followed, decoded or tried again. Which addresses may be connected to is
 * decided on what a name has resolved to, at the connection itself, so that a name cannot become another address in between.
 */
export class SinkHttp {
  /** Opened by the first request: whoever only reads the configuration does without it. */
  #agent: Promise<Agent> | null = null
  readonly #options: HttpOptions
  readonly #clock: SinkSurroundings['clock']

  constructor(options: HttpOptions, around: Pick<SinkSurroundings, 'clock'>) {
    this.#options = options
    this.#clock = around.clock
  }

  /**
   * The receiver's answer, whatever its status; `mustAccept` and `failureOf` say what a status means where the receiver has no meaning of its own for it.
   * Throws DeliveryFailed when there is none: `busy` when nothing has left, `unknown` after that.
   */
  async send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const url = new URL(request.url)
    const why = whyNotHost(url.hostname, this.#options.permitPrivate)
    // Nothing but the configuration can change that; the events wait for it.
    if (why !== null) throw new DeliveryFailed('unauthorized', `the address of the receiver ${why}`)
    const agent = await (this.#agent ??= openAgent(this.#options))
    if (signal.aborted) throw new DeliveryFailed('busy', 'stopped')
    return await new Promise((resolve, reject) => {
      const exchange = new Exchange(request, resolve, reject)
      const abort = (): void => exchange.abort()
      signal.addEventListener('abort', abort, { once: true })
      exchange.over = () => signal.removeEventListener('abort', abort)
      agent.dispatch({
        origin: url.origin, path: `${url.pathname}${url.search}`, method: request.method ?? 'POST',
        headers: { 'user-agent': 'tallygate', accept: 'application/json', ...request.headers }, body: request.body ?? null,
      }, exchange)
    })
  }

  /** The answer, when its status is 2xx; throws `failureOf` otherwise. */
  async mustAccept(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const answer = await this.send(request, signal)
    if (answer.status >= 200 && answer.status < 300) return answer
    throw this.failureOf(answer)
  }

  /**
   * What a status means that is no acceptance. `code`: the receiver's own code for it, if it is a word of a closed set; never its sentences.
   * A redirect, a 404 and a 405 are no fault of an event: the place is wrong, so the loop pauses as it does for a wrong key.
   */
  failureOf(answer: HttpAnswer, code?: string): DeliveryFailed {
    const { status } = answer
    const message = statusWords(status, code?.replace(/[^\w.-]/g, '').slice(0, 64))
    const retryAfterMs = this.#retryAfterMs(answer.headers['retry-after'])
    if (status === 401 || status === 403 || status === 404 || status === 405 || (status >= 300 && status < 400)) return new DeliveryFailed('unauthorized', message)
    if (status === 408 || status === 425 || status === 429 || (status === 503 && retryAfterMs !== null)) return new DeliveryFailed('busy', message, retryAfterMs)
    if (status === 413) return new DeliveryFailed('too_large', message)
    if (status >= 400 && status < 500) return new DeliveryFailed('refused', message)
    return new DeliveryFailed('unknown', message, retryAfterMs)
  }

  async close(): Promise<void> {
    await (await this.#agent)?.destroy()
  }

  /** Seconds or a date; an hour at most. */
  #retryAfterMs(value: string | undefined): number | null {
    if (value === undefined) return null
    const ms = /^\s*\d{1,9}\s*$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - this.#clock.nowMs()
    return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), RETRY_AFTER_MAX_MS)
  }
}

async function openAgent({ permitPrivate, connections = 8, silenceMs = SILENCE_MS, ca }: HttpOptions): Promise<Agent> {
  const { Agent } = await import('undici')
  return new Agent({
    connections, pipelining: 1, allowH2: false, maxHeaderSize: 32 * 1024, headersTimeout: silenceMs, bodyTimeout: silenceMs,
    connect: { timeout: CONNECT_MS, lookup: lookupOf(permitPrivate), ...(ca === undefined ? {} : { ca }) },
  })
}

/** The JSON of an answer; undefined where it is none. An empty or foreign body says nothing about what was booked. */
export function jsonOf(answer: HttpAnswer): unknown {
  try {
    return JSON.parse(answer.text)
  } catch {
    return undefined
  }
}

/** A field of something that may be an object. */
export function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined
}

class Exchange implements Dispatcher.DispatchHandler {
  over: () => void = () => {}
  readonly #place: string | null
  readonly #answerMax: number
  readonly #statusSuffices: boolean
  readonly #resolve: (answer: HttpAnswer) => void
  readonly #reject: (failure: DeliveryFailed) => void
  #controller: Dispatcher.DispatchController | null = null
  #done = false
  #status = 0
  readonly #headers: Record<string, string> = {}
  readonly #chunks: Buffer[] = []
  #bytes = 0

  constructor({ url, answerMax = ANSWER_MAX, statusSuffices = false }: HttpRequest, resolve: (answer: HttpAnswer) => void, reject: (failure: DeliveryFailed) => void) {
    this.#place = placeOf(url)
    this.#answerMax = answerMax
    this.#statusSuffices = statusSuffices
    this.#resolve = resolve
    this.#reject = reject
  }

  abort(): void {
    this.#fail('aborted')
    this.#controller?.abort(new Error('aborted'))
  }

  /** From here on bytes are leaving. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#done) return controller.abort(new Error('aborted'))
    this.#controller = controller
  }

  onRequestUpgrade(controller: Dispatcher.DispatchController): void {
    this.#fail('upgrade')
    controller.abort(new Error('aborted'))
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number): void {
    if (status < 200) return
    this.#status = status
    const raw = controller.rawHeaders
    if (!Array.isArray(raw)) return
    for (let i = 0; i + 1 < raw.length; i += 2) this.#headers[String(raw[i]).toLowerCase()] = String(raw[i + 1])
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#done) return
    this.#bytes += chunk.length
    if (this.#bytes > this.#answerMax) {
      this.#fail('the answer is too long')
      controller.abort(new Error('aborted'))
    } else this.#chunks.push(chunk)
  }

  onResponseEnd(): void {
    this.#answer()
  }

  #answer(): void {
    if (this.#done) return
    this.#done = true
    this.over()
    this.#resolve({ status: this.#status, headers: this.#headers, text: Buffer.concat(this.#chunks).toString('utf8') })
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#fail(codeWords(codeOf(error), this.#place))
  }

  #fail(code: string): void {
    if (this.#statusSuffices && this.#status !== 0) return this.#answer()
    if (this.#done) return
    this.#done = true
    this.over()
    this.#reject(new DeliveryFailed(this.#controller === null ? 'busy' : 'unknown', code))
  }
}

function codeOf(error: Error): string {
  if (error instanceof AddressRefused) return error.message
  // Of several addresses that were tried, one speaks for all.
  const cause = error instanceof AggregateError && error.errors[0] instanceof Error ? error.errors[0] : error
  return 'code' in cause && typeof cause.code === 'string' ? cause.code : cause.name
}

class AddressRefused extends Error {
  override name = 'AddressRefused'
}

/** Resolves names as everybody does, and gives on only the addresses that a sink may connect to. */
export function lookupOf(permitPrivate: boolean): LookupFunction {
  return (name, options, answer) => {
    resolveName(name, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return answer(error, '')
      const permitted = addresses.filter(({ address }) => whyNotAddress(address, permitPrivate) === null)
      const first = permitted[0]
      const why = addresses[0] === undefined ? 'is unknown' : whyNotAddress(addresses[0].address, permitPrivate) ?? ''
      if (first === undefined) return answer(new AddressRefused(`what the receiver's name stands for ${why}`), '')
      if (options.all === true) answer(null, permitted)
      else answer(null, first.address, first.family)
    })
  }
}
