import { systemClock, type Clock } from '../../src/clock.ts'

/** The machine's time, and timers that are over sooner: a receiver that asks for patience is a test of patience only once. */
export class SwiftClock implements Clock {
  /** How many times sooner. */
  factor: number
  readonly #virtual: boolean
  #realMs = systemClock.nowMs()
  #nowMs = this.#realMs

  /** `virtual`: what time it is goes as much faster. */
  constructor(factor: number, virtual = false) {
    this.factor = factor
    this.#virtual = virtual
  }

  nowMs(): number {
    const realMs = systemClock.nowMs()
    this.#nowMs += (realMs - this.#realMs) * (this.#virtual ? this.factor : 1)
    this.#realMs = realMs
    return Math.floor(this.#nowMs)
  }
  monotonicMs(): number { return systemClock.monotonicMs() * this.factor }
  after(delayMs: number, task: () => void, options?: { unref?: boolean }): () => void { return systemClock.after(delayMs / this.factor, task, options) }
  every(periodMs: number, task: () => void): () => void { return systemClock.every(periodMs / this.factor, task) }
  sleep(delayMs: number): Promise<void> { return systemClock.sleep(delayMs / this.factor) }
  afterTurn(task: () => void): void { setImmediate(task) }
}
