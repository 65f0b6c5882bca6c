import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import type { Random } from '../../random.ts'
import type { HostPort, RedisAddress } from './address.ts'
import { Breaker } from './breaker.ts'
import type { Deadlines } from './deadlines.ts'
import { readErrorReply, type ErrorReply } from './error-reply.ts'
import { parseInfo } from './info.ts'
import { ErrorAnswer, Wire } from './wire.ts'

export interface ServerParts {
  readonly address: RedisAddress
  readonly deadlineMs: number
  /** Calls will ask for WAITAOF: a server without it serves us nothing. */
  readonly needsWaitaof: boolean
  readonly clock: Clock
  readonly random: Random
  readonly deadlines: Deadlines
  readonly log: Log
}

export interface ServerEvents {
  /** It can be used (again). `changed`: it may not have any more what it had acknowledged. */
  onUp(server: Server, changed: boolean): void
  onDown(server: Server): void
}

/**
 * One primary: its connection, opened again and again for as long as it is wanted, and the breaker before it. A server is up while it is connected and the
 * breaker is closed.
 */
export class Server {
  /** For messages: `HOST:PORT`, or the URL without its secrets where the address is looked up. */
  readonly name: string
  readonly #parts: ServerParts
  readonly #events: ServerEvents
  readonly #find: () => Promise<HostPort>
  readonly #breaker: Breaker
  readonly #waiting: { readonly up: () => void; readonly failed: (error: Error) => void }[] = []
  #wire: Wire | null = null
  #reason = 'not connected yet'
  #tooOld: Error | null = null
  /** Of the server's process and its line of data; null: it does not say. */
  #identity: string | null = null
  #everUp = false
  #up = false
  /** The connection was lost a moment ago, and the first attempt to have it back has not failed yet. */
  #reviving = false
  #closed = false
  #downSinceMs: number
  /** Reasons told since it was last up, so that each is logged once. */
  readonly #told = new Set<string>()
  #attemptAtMs = -Infinity
  #cancelTimer = (): void => {}

  /** `find` says where to connect to, anew for each attempt. */
  constructor(name: string, find: () => Promise<HostPort>, parts: ServerParts, events: ServerEvents) {
    this.name = name
    this.#find = find
    this.#parts = parts
    this.#events = events
    this.#breaker = new Breaker(parts.random)
    this.#downSinceMs = parts.clock.monotonicMs()
  }

  get up(): boolean {
    return this.#up
  }

  /** It will be up, or known to be down, in a moment: worth waiting for. */
  get reviving(): boolean {
    return this.#reviving
  }

  /** Why it is not up, in plain words. */
  get reason(): string {
    return this.#breaker.reason ?? this.#reason
  }

  /** The server was reached and is too old for what the configuration asks. */
  get tooOld(): Error | null {
    return this.#tooOld
  }

  /** Null while it is not connected. Not for calls unless `up`. */
  get wire(): Wire | null {
    return this.#wire
  }

  /** The first attempt; resolves when it has succeeded or failed. */
  async start(): Promise<void> {
    await this.#attempt()
  }

  close(): void {
    this.#closed = true
    this.#reason = 'the connection is closed'
    this.#cancelTimer()
    this.#wire?.destroy()
    this.#wire = null
    this.#up = false
    this.#reviving = false
    this.#tellWaiting()
  }

  /** Resolves once it is up; rejects with the reason when the attempt under way, or the next one, fails. */
  whenUp(): Promise<void> {
    if (this.#up) return Promise.resolve()
    return new Promise((up, failed) => this.#waiting.push({ up, failed }))
  }

  /** An answer came in time. */
  answered(): void {
    if (this.#breaker.answered()) this.#rise(false)
  }

  /** A call that was sent over `wire` had no answer in time. */
  timedOut(wire: Wire, words: string): void {
    if (wire === this.#wire && this.#breaker.timedOut(this.#parts.clock.monotonicMs(), words)) this.#fall()
  }

  /** An error reply that is about more than its own call. */
  refused(wire: Wire, reply: ErrorReply): void {
    if (wire !== this.#wire) return
    if (reply.kind === 'server') {
      if (this.#breaker.refused(this.#parts.clock.monotonicMs(), reply.words)) this.#fall()
    } else if (reply.kind === 'connection') {
      this.replace(reply.words)
    } else if (reply.kind === 'call') {
      // A command that the server's user may not use is a matter for the operator, who is told once.
      if (reply.code === 'NOPERM') this.#tell(reply.words)
      this.answered()
    }
  }

  /** Gives up the connection and looks for a new one. */
  replace(reason: string): void {
    if (this.#wire === null || this.#closed) return
    const wire = this.#wire
    this.#lose(reason)
    wire.destroy()
  }

  /** The connection is gone. */
  #lose(reason: string): void {
    this.#wire = null
    this.#reason = reason
    this.#breaker.answered()
    this.#reviving = this.#up && this.#parts.clock.monotonicMs() - this.#attemptAtMs >= ATTEMPT_EVERY_MS
    this.#fall()
    this.#planAttempt()
  }

  #rise(changed: boolean): void {
    const { clock, log } = this.#parts
    this.#up = true
    this.#reviving = false
    if (this.#everUp || this.#told.size > 0) {
      log.info({ redis: this.name, downMs: Math.round(clock.monotonicMs() - this.#downSinceMs) }, 'Redis is back')
    }
    this.#everUp = true
    this.#told.clear()
    this.#tellWaiting()
    this.#events.onUp(this, changed)
  }

  /** Connected no more, or not to be used; tells so once, and every new reason. */
  #fall(): void {
    const { clock } = this.#parts
    const wasUp = this.#up
    this.#up = false
    if (wasUp) this.#downSinceMs = clock.monotonicMs()
    this.#tell(this.reason)
    if (this.#breaker.open) this.#planProbe()
    if (wasUp) this.#events.onDown(this)
  }

  #tell(reason: string): void {
    if (this.#told.has(reason) || this.#closed) return
    this.#told.add(reason)
    this.#parts.log.warn({ redis: this.name, reason }, 'Redis cannot be used')
  }

  #tellWaiting(): void {
    for (const { up, failed } of this.#waiting.splice(0)) {
      if (this.#up) up()
      else failed(new Error(this.reason))
    }
  }

  // A lost connection is tried again at once, for most come back; after that no server is knocked at more than once a second by one gateway.
  #planAttempt(): void {
    const { clock, random } = this.#parts
    const nowMs = clock.monotonicMs()
    const atMs = Math.max(nowMs + QUICK_MS * (0.5 + random.fraction()), this.#attemptAtMs + ATTEMPT_EVERY_MS * (1 + 0.2 * random.fraction()))
    this.#cancelTimer()
    this.#cancelTimer = clock.after(atMs - nowMs, () => void this.#attempt(), { unref: true })
  }

  async #attempt(): Promise<void> {
    const { clock, deadlines } = this.#parts
    this.#attemptAtMs = clock.monotonicMs()
    let wire: Wire | null = null
    let late = false
    const deadline = deadlines.start(ATTEMPT_MS, () => {
      late = true
      wire?.destroy()
    })
    try {
      const target = await this.#find()
      if (late || this.#closed) throw new Error('it took too long to find out where Redis is')
      const opened: Wire = new Wire({ ...target, tls: this.#parts.address.tls, connectMs: ATTEMPT_MS }, (reason) => {
        if (this.#wire === opened) this.#lose(reason)
      })
      wire = opened
      await opened.connect()
      const identity = await this.#greet(opened)
      deadline.met = true
      if (this.#closed || late) throw new Error('closed meanwhile')
      const changed = this.#everUp && (identity === null || identity !== this.#identity)
      this.#identity = identity
      this.#wire = opened
      this.#rise(changed)
    } catch (error) {
      deadline.met = true
      wire?.destroy()
      if (this.#closed) return
      this.#tooOld = error instanceof WaitaofMissing ? error : null
      this.#reason = late ? `no answer within ${ATTEMPT_MS} ms` : (error as Error).message
      const revived = this.#reviving
      this.#reviving = false
      this.#fall()
      if (revived) this.#events.onDown(this)
      this.#tellWaiting()
      this.#planAttempt()
    }
  }

  /** Says who we are and finds out whether this server serves us. Rejects with the reason in plain words. */
  async #greet(wire: Wire): Promise<string | null> {
    const { address, needsWaitaof } = this.#parts
    const settle = (sent: Promise<unknown>): Promise<unknown> => sent.catch((error: unknown) => error)
    const [signedIn, chosen, , about, waitaof] = await Promise.all([
      settle(authenticate(wire, address.user, address.password)),
      address.db === 0 ? null : settle(wire.send('SELECT', [address.db])),
      // Only for an operator's CLIENT LIST; a user without the right to it is served all the same.
      settle(wire.send('CLIENT', ['SETNAME', 'tallygate'])),
      settle(wire.send('INFO', [])),
      needsWaitaof ? settle(wire.send('COMMAND', ['INFO', 'WAITAOF'])) : null,
    ])
    for (const answer of [signedIn, chosen]) if (answer instanceof Error) throw new Error(greetingWords(answer))
    let identity: string | null = null
    if (about instanceof Error) {
      if (!(about instanceof ErrorAnswer) || !about.message.startsWith('NOPERM')) throw new Error(greetingWords(about))
    } else {
      const info = parseInfo(String(about))
      // A primary that was a replica for a while is the same process with another history.
      if (info.has('run_id')) identity = `${info.get('run_id')} ${info.get('master_replid')}`
      if (info.get('loading') === '1') throw new Error('Redis is loading its data (LOADING)')
      if (info.get('role') === 'slave') throw new Error('Redis is a read-only replica here (READONLY)')
    }
    if (Array.isArray(waitaof) && waitaof[0] === null) throw new WaitaofMissing()
    await this.#probe(wire)
    return identity
  }

  /** Resolves when the server would run a script now; rejects with the reason. An unknown script serves: that it is unknown is an answer too. */
  #probe(wire: Wire): Promise<void> {
    const { deadlineMs, deadlines } = this.#parts
    return new Promise((resolve, reject) => {
      const deadline = deadlines.start(deadlineMs, () => reject(new ProbeTimeout(`no answer within ${deadlineMs} ms`)))
      wire.send('EVALSHA', [PROBE_SHA1, 0]).then(() => resolve(), (error: unknown) => {
        if (error instanceof ErrorAnswer && readErrorReply(error.message).kind === 'noscript') resolve()
        else reject(error as Error)
      }).finally(() => { deadline.met = true })
    })
  }

  #planProbe(): void {
    const { clock } = this.#parts
    const wire = this.#wire
    if (wire === null) return
    this.#cancelTimer()
    this.#cancelTimer = clock.after(Math.max(0, this.#breaker.probeAtMs - clock.monotonicMs()), () => {
      this.#probe(wire).then(() => {
        if (wire === this.#wire) this.answered()
      }, (error: unknown) => this.#probeFailed(wire, error as Error))
    }, { unref: true })
  }

  #probeFailed(wire: Wire, error: Error): void {
    if (wire !== this.#wire || !this.#breaker.open) return
    const nowMs = this.#parts.clock.monotonicMs()
    if (error instanceof ErrorAnswer) {
      const reply = readErrorReply(error.message)
      if (reply.kind === 'connection') return this.replace(reply.words)
      this.#breaker.refused(nowMs, greetingWords(error))
      this.#tell(this.reason)
    } else if (error instanceof ProbeTimeout) {
      this.#breaker.timedOut(nowMs, error.message)
      if (this.#breaker.isSilent(nowMs)) return this.replace(this.reason)
    }
    this.#planProbe()
  }
}

/** The server is too old for what was asked of it. */
export class WaitaofMissing extends Error {
  override name = 'WaitaofMissing'
  constructor() {
    super('store.confirm asks for fsync, and this server does not know WAITAOF (Redis 7.2 or newer does)')
  }
}

class ProbeTimeout extends Error {
  override name = 'ProbeTimeout'
}

/** Resolves once the wire is signed in, if there is anything to sign in with. */
export async function authenticate(wire: Wire, user: string | null, password: string | null): Promise<void> {
  if (password === null) return
  try {
    await wire.send('AUTH', user === null ? [password] : [user, password])
  } catch (error) {
    // A server that lets everybody in is content.
    if (!(error instanceof ErrorAnswer) || !/^ERR .*without any password configured/.test(error.message)) throw error
  }
}

/** Why a greeting failed; for an error reply that is none of the known ones its first word, as the rest may repeat what was sent. */
export function greetingWords(error: Error): string {
  if (!(error instanceof ErrorAnswer)) return error.message
  const reply = readErrorReply(error.message)
  if (reply.kind === 'wrong') return `Redis refuses the connection (${reply.error.code})`
  return 'words' in reply ? reply.words : `Redis answered ${reply.kind}`
}

const QUICK_MS = 50
const ATTEMPT_EVERY_MS = 1000
const ATTEMPT_MS = 1000
/** Of `return 1`. */
const PROBE_SHA1 = 'e0e1f9fabfc9d4800c877a703b823ac0578ff8db'
