import { Redis, ReplyError } from 'ioredis'
import type { Confirm } from './link.ts'

export interface WireOptions {
  readonly host: string
  readonly port: number
  readonly tls: boolean
  /** For the TCP connection and the TLS handshake. */
  readonly connectMs: number
}

/** The server answered, and its answer is an error. Any other rejection of a wire means that the connection ended. */
export class ErrorAnswer extends Error {
  override name = 'ErrorAnswer'
}

/** How many copies a write has reached: on the disk of the primary (null: not asked), and at replicas. Or what kept the server from telling. */
export type Copies = { readonly local: number | null; readonly replicas: number } | Error

/**
 * One connection to one server, from its opening to its end; it never comes back to life, and nothing is ever sent twice over it. What is sent during one turn
 * of the event loop leaves in one write.
 */
export class Wire {
  readonly #redis: Redis
  readonly #onEnd: (reason: string) => void
  #unconfirmed: Confirmation[] = []
  #asking = false
  #corked = false
  #ended = false
  #reason = 'the connection ended'

  /** `onEnd` is called once, with plain words, when an open connection has ended for whatever reason but `destroy`. */
  constructor(options: WireOptions, onEnd: (reason: string) => void) {
    this.#onEnd = onEnd
    // Its own care (queues while offline, sending again, reconnecting) is turned off: a lost answer would be asked for again behind the caller's back,
    // long after its deadline, and how often a server is tried must be ours to say.
    this.#redis = new Redis({
      host: options.host,
      port: options.port,
      ...(options.tls ? { tls: {} } : {}),
      connectTimeout: options.connectMs,
      lazyConnect: true,
      protocol: 2,
      retryStrategy: () => null,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      enableReadyCheck: false,
      disableClientInfo: true,
      keepAlive: 10_000,
    })
    this.#redis.on('error', (error: unknown) => { this.#reason = connectionWords(error) })
    this.#redis.on('close', () => this.#end())
  }

  /** Rejects with an Error in plain words. */
  async connect(): Promise<void> {
    try {
      await this.#redis.connect()
    } catch {
      // What went wrong was told by the event before; this says only that something did.
      throw new Error(this.#reason)
    }
  }

  /** Rejects with ErrorAnswer for an error reply, with another Error when the connection ended first: then the outcome is unknown. */
  async send(name: string, args: readonly (string | number | Buffer)[]): Promise<unknown> {
    this.#cork()
    try {
      return await this.#redis.call(name, args as (string | number | Buffer)[])
    } catch (error) {
      // ioredis hangs the command's arguments onto its errors; a password may be one.
      if (error instanceof ReplyError) throw new ErrorAnswer((error as Error).message)
      // Whoever hears of this may send again at once, and must not do so over a connection whose end is about to be told.
      this.#end()
      throw new Error(this.#reason)
    }
  }

  /**
   * Tells how many copies there are of all that was sent before, as soon as there are as many as wanted, else when `remainingMs` has come to its end. Never
   * rejects. The question goes out in the same write, one for all who want the same. As the server keeps this connection's later commands waiting until it has
   * answered, one question is asked at a time, for a short time; those that come meanwhile share the next.
   */
  confirm(want: Confirm, remainingMs: () => number): Promise<Copies> {
    return new Promise((tell) => {
      this.#unconfirmed.push({ want, remainingMs, tell })
      this.#cork()
    })
  }

  /** Ends it without waiting for the other side, which may be gone. Commands without an answer are rejected. */
  destroy(): void {
    if (this.#ended) return
    this.#ended = true
    this.#redis.disconnect()
    // Only there once connecting has begun.
    const stream = this.#redis.stream as Redis['stream'] | undefined
    stream?.destroy()
  }

  #cork(): void {
    if (this.#corked) return
    this.#corked = true
    const { stream } = this.#redis
    stream.cork()
    queueMicrotask(() => {
      this.#askForCopies()
      this.#corked = false
      stream.uncork()
    })
  }

  #askForCopies(): void {
    const want = this.#unconfirmed[0]?.want
    if (this.#asking || want === undefined) return
    const asked = this.#unconfirmed.filter((one) => one.want.replicas === want.replicas && one.want.fsync === want.fsync)
    this.#unconfirmed = this.#unconfirmed.filter((one) => !asked.includes(one))
    // 0 would mean for ever.
    const timeoutMs = Math.max(1, Math.min(COPIES_MS, Math.floor(0.8 * Math.min(...asked.map(({ remainingMs }) => remainingMs())))))
    this.#asking = true
    const sent = want.fsync ? this.send('WAITAOF', [1, want.replicas, timeoutMs]) : this.send('WAIT', [want.replicas, timeoutMs])
    sent.then((reply): Copies => Array.isArray(reply)
      ? { local: Number(reply[0]), replicas: Number(reply[1]) }
      : { local: null, replicas: Number(reply) }, (error: unknown) => error as Error).then((copies) => {
      this.#asking = false
      const enough = copies instanceof Error || (copies.replicas >= want.replicas && copies.local !== 0)
      for (const one of asked) {
        if (enough || one.remainingMs() < AGAIN_MS) one.tell(copies)
        else this.#unconfirmed.push(one)
      }
      if (this.#unconfirmed.length > 0) this.#cork()
    })
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#onEnd(this.#reason)
  }
}

interface Confirmation {
  readonly want: Confirm
  readonly remainingMs: () => number
  readonly tell: (copies: Copies) => void
}

/** How long one question for copies may hold up the connection. */
const COPIES_MS = 100
/** With less time than this left, asking again is in vain. */
const AGAIN_MS = 20

/** What a socket's or TLS' error means, without anything that came over the wire. */
function connectionWords(error: unknown): string {
  const { code = '', message = '' } = error as { code?: string; message?: string }
  return connectionCodes[code] ?? (/CERT|TLS|SSL|ALTNAME/.test(code) ? `TLS failed: ${message} (${code})` : `the connection failed${code === '' ? '' : ` (${code})`}`)
}

const connectionCodes: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nobody listens there (ECONNREFUSED)',
  ECONNRESET: 'the connection was cut (ECONNRESET)',
  EPIPE: 'the connection was cut (EPIPE)',
  ETIMEDOUT: 'no answer while connecting (ETIMEDOUT)',
  EHOSTUNREACH: 'the network has no way there (EHOSTUNREACH)',
  ENETUNREACH: 'the network has no way there (ENETUNREACH)',
  ENOTFOUND: 'the host\'s name is not known (ENOTFOUND)',
  EAI_AGAIN: 'the host\'s name cannot be looked up (EAI_AGAIN)',
}
