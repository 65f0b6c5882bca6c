import type { Clock } from '../../src/clock.ts'

interface Timer {
  atMs: number
  readonly task: () => void
  readonly periodMs: number | null
}

/** Time passes when the test says so; what is due runs in order, each time with everything that it sets off. */
export class VirtualClock implements Clock {
  #nowMs: number
  #timers: Timer[] = []

  constructor(startMs: number) {
    this.#nowMs = startMs
  }

  nowMs(): number { return this.#nowMs }
  monotonicMs(): number { return this.#nowMs }
  after(delayMs: number, task: () => void): () => void { return this.#add(delayMs, task, null) }
  every(periodMs: number, task: () => void): () => void { return this.#add(periodMs, task, periodMs) }
  sleep(delayMs: number): Promise<void> { return new Promise((resolve) => { this.after(delayMs, resolve) }) }

  #add(delayMs: number, task: () => void, periodMs: number | null): () => void {
    const timer: Timer = { atMs: this.#nowMs + Math.max(0, delayMs), task, periodMs }
    this.#timers.push(timer)
    return () => { this.#timers = this.#timers.filter((each) => each !== timer) }
  }

  /** Lets `ms` pass; `until` ends it before. True: it did. */
  async run(ms: number, until: () => boolean | Promise<boolean> = () => false): Promise<boolean> {
    const endMs = this.#nowMs + ms
    for (;;) {
      await this.settle()
      if (await until()) return true
      let next: Timer | null = null
      for (const timer of this.#timers) if (next === null || timer.atMs < next.atMs) next = timer
      if (next === null || next.atMs > endMs) break
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      if (next.periodMs === null) this.#timers = this.#timers.filter((each) => each !== next)
      else next.atMs += next.periodMs
      next.task()
    }
    this.#nowMs = endMs
    await this.settle()
    return await until()
  }

  /** The time is another, and nobody has noticed. */
  skip(ms: number): void {
    this.#nowMs += ms
    for (const timer of this.#timers) if (timer.periodMs !== null) timer.atMs += ms
  }

  /** Everything that needs no time. */
  async settle(): Promise<void> {
    for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => { setImmediate(resolve) })
  }
}
