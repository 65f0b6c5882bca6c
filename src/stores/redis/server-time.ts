import { createHash } from 'node:crypto'
import type { Clock } from '../../clock.ts'
import type { RedisLink, Script } from './link.ts'

/**
 * The store's time as one gateway has it, from readings of the server's clock: an offset to the gateway's own monotonic clock. Pure: every instant is an argument.
 *
 * Small differences are taken over without ever letting the time go back. A jump (the server's clock was set, another server took over) is believed only when
 * three readings in a row say the same; until then the time is not agreed on, and goes on as before. Then it is followed, back as well as forth.
 */
export class TimeKeeper {
  /** Server's ms since 1970 minus the monotonic clock's ms; null before the first reading. */
  #offsetMs: number | null = null
  #candidateMs = 0
  /** Readings in a row that agree with the candidate; null: nothing is in doubt. */
  #agreeing: number | null = null
  #lastMs = -Infinity

  /** The server's clock showed `serverMs` at some instant between two instants of the monotonic clock. */
  read(serverMs: number, sentMs: number, receivedMs: number): void {
    const offsetMs = serverMs - (sentMs + receivedMs) / 2
    const doubtMs = (receivedMs - sentMs) / 2
    if (this.#offsetMs === null) {
      this.#offsetMs = offsetMs
      return
    }
    const differs = Math.abs(offsetMs - this.#offsetMs)
    if (this.#agreeing === null) {
      // A slow answer says little: what it may be wrong by is no reason to change anything.
      if (differs <= doubtMs) return
      if (differs <= TOLERANCE_MS) {
        this.#offsetMs = offsetMs
        return
      }
    }
    const again = this.#agreeing !== null && Math.abs(offsetMs - this.#candidateMs) <= TOLERANCE_MS
    this.#agreeing = again ? this.#agreeing! + 1 : 1
    this.#candidateMs = offsetMs
    if (this.#agreeing < READINGS) return
    // Back at the time before the jump nothing is to be followed, and the time need not go back.
    if (differs > TOLERANCE_MS) this.#lastMs = -Infinity
    this.#offsetMs = offsetMs
    this.#agreeing = null
  }

  /** Whole ms since 1970 by the server's clock; never less than before, unless a jump back was agreed on. Null before the first reading. */
  nowMs(monotonicMs: number): number | null {
    if (this.#offsetMs === null) return null
    this.#lastMs = Math.max(this.#lastMs, Math.floor(monotonicMs + this.#offsetMs))
    return this.#lastMs
  }

  get agreed(): boolean {
    return this.#offsetMs !== null && this.#agreeing === null
  }

  /** In plain words; null when agreed. */
  get reason(): string | null {
    if (this.#offsetMs === null) return 'the store\'s time has not been read yet'
    return this.#agreeing === null ? null : 'the store\'s clock has jumped, and is being watched until it is steady again'
  }
}

/** Reads the server's clock every second and tells the time in between; while the server is away, the gateway's own clock carries it on. */
export class ServerTime {
  readonly #link: RedisLink
  readonly #key: string
  readonly #clock: Clock
  readonly #keeper = new TimeKeeper()
  #cancel = (): void => {}
  #closed = false

  /** `key`: one of the books'; in a cluster the server that owns it has the time. */
  constructor(link: RedisLink, key: string, clock: Clock) {
    this.#link = link
    this.#key = key
    this.#clock = clock
  }

  /** Resolves after the first attempt to read the time, whether or not it succeeded; goes on reading until `close`. */
  async start(): Promise<void> {
    await this.#read()
    this.#plan()
  }

  /** Whole ms since 1970 by the server's clock; by this machine's before the first reading. */
  nowMs(): number {
    return this.#keeper.nowMs(this.#clock.monotonicMs()) ?? this.#clock.nowMs()
  }

  /** False: nothing may be decided by this time yet. */
  get agreed(): boolean {
    return this.#keeper.agreed
  }

  get reason(): string | null {
    return this.#keeper.reason
  }

  close(): void {
    this.#closed = true
    this.#cancel()
  }

  // What is in doubt is settled soon: nobody is admitted meanwhile.
  #plan(): void {
    if (this.#closed) return
    this.#cancel = this.#clock.after(this.#keeper.agreed ? READ_EVERY_MS : READ_IN_DOUBT_MS, async () => {
      await this.#read()
      this.#plan()
    }, { unref: true })
  }

  async #read(): Promise<void> {
    if (!this.#link.up) return
    const sentMs = this.#clock.monotonicMs()
    try {
      const [seconds, micros] = await this.#link.script(timeScript, [this.#key], []) as readonly [string, string]
      this.#keeper.read(Number(seconds) * 1000 + Number(micros) / 1000, sentMs, this.#clock.monotonicMs())
    } catch {
      // The link tells and logs that the server is away; the time goes on by our own clock.
      return
    }
  }
}

const source = 'return redis.call("TIME")'
/** A script, as a command without a key cannot be sent to the owner of one. */
const timeScript: Script = { name: 'time', source, sha1: createHash('sha1').update(source).digest('hex') }

const TOLERANCE_MS = 2000
const READINGS = 3
const READ_EVERY_MS = 1000
const READ_IN_DOUBT_MS = 250
