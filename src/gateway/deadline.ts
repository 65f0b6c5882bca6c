import type { Clock } from '../clock.ts'

/**
 * One timer for everything an exchange waits for. Moving the deadline later costs nothing: the timer is only set again when it fires too early,
 * so a stream of a thousand chunks arms a handful of timers.
 */
export class Deadline {
  readonly #clock: Clock
  readonly #onDue: () => void
  #dueMs = Infinity
  #armedMs = Infinity
  #cancel: (() => void) | null = null

  constructor(clock: Clock, onDue: () => void) {
    this.#clock = clock
    this.#onDue = onDue
  }

  /** Due at `dueMs` of the monotonic clock; replaces what was set before. */
  set(dueMs: number): void {
    this.#dueMs = dueMs
    if (dueMs < this.#armedMs) this.#arm()
  }

  clear(): void {
    this.#dueMs = Infinity
    this.#armedMs = Infinity
    this.#cancel?.()
    this.#cancel = null
  }

  #arm(): void {
    this.#cancel?.()
    this.#armedMs = this.#dueMs
    this.#cancel = this.#clock.after(Math.max(0, Math.ceil(this.#dueMs - this.#clock.monotonicMs())), () => this.#fire(), { unref: true })
  }

  #fire(): void {
    this.#armedMs = Infinity
    this.#cancel = null
    if (this.#dueMs === Infinity) return
    if (this.#clock.monotonicMs() < this.#dueMs) return this.#arm()
    this.#dueMs = Infinity
    this.#onDue()
  }
}
