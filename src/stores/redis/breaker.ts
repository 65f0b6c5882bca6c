import type { Random } from '../../random.ts'

/**
 * Says whether calls to one server are worth sending. Opens after several calls in a row that got no answer in time, or at once when the server says that
 * it serves nobody; closes at the first answer. Pure: instants are milliseconds of a monotonic clock.
 */
export class Breaker {
  readonly #random: Random
  #missed = 0
  #reason: string | null = null
  #probeAtMs = 0
  /** When the server last showed a sign of life, or when it was opened. */
  #heardAtMs = 0

  constructor(random: Random) {
    this.#random = random
  }

  get open(): boolean {
    return this.#reason !== null
  }

  /** Why it is open, in plain words; null: it is closed. */
  get reason(): string | null {
    return this.#reason
  }

  /** When the next probe is due while it is open. */
  get probeAtMs(): number {
    return this.#probeAtMs
  }

  /** An answer that came in time, of whatever content. True: this closed it. */
  answered(): boolean {
    const closed = this.open
    this.#missed = 0
    this.#reason = null
    return closed
  }

  /** A call or a probe had no answer in time. True: this opened it. */
  timedOut(nowMs: number, reason: string): boolean {
    this.#missed += 1
    if (this.open) {
      this.#planProbe(nowMs)
      return false
    }
    return this.#missed >= missesMax && this.#open(nowMs, reason)
  }

  /** The server lives and serves nobody (it loads its data, say). True: this opened it. */
  refused(nowMs: number, reason: string): boolean {
    this.#heardAtMs = nowMs
    if (!this.open) return this.#open(nowMs, reason)
    this.#reason = reason
    this.#planProbe(nowMs)
    return false
  }

  /** Open, and not a word since a while: the connection itself may be dead without anybody having said so. */
  isSilent(nowMs: number): boolean {
    return this.open && nowMs - this.#heardAtMs >= silenceMaxMs
  }

  #open(nowMs: number, reason: string): boolean {
    this.#reason = reason
    this.#heardAtMs = nowMs
    this.#planProbe(nowMs)
    return true
  }

  // Jittered, so that a hundred gateways do not knock in step.
  #planProbe(nowMs: number): void {
    this.#probeAtMs = nowMs + probeEveryMs * (0.75 + 0.5 * this.#random.fraction())
  }
}

const missesMax = 5
const probeEveryMs = 250
const silenceMaxMs = 1000
