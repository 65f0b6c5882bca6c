import type { Clock } from '../../src/clock.ts'

interface Due {
  readonly atMs: number
  readonly order: number
  task: (() => void) | null
}

/**
 * The world's time: a queue of what happens when. Between two events all promises are let run dry, so asynchronous code runs as if it took no time,
 * always in the same order.
 */
export class Timeline {
  nowMs = 0
  steps = 0
  readonly #queue: Due[] = []
  #order = 0
  #stopped = false

  /** Runs `task` after `delayMs`; the returned function cancels it. */
  at(delayMs: number, task: () => void): () => void {
    const due: Due = { atMs: this.nowMs + Math.max(0, delayMs), order: this.#order++, task }
    this.#push(due)
    return () => { due.task = null }
  }

  /** Lets the world go on until `untilMs`, or until `stop`. */
  async run(untilMs: number): Promise<void> {
    await dry()
    while (!this.#stopped) {
      const next = this.#queue[0]
      if (next === undefined || next.atMs > untilMs) break
      this.#pop()
      const { task } = next
      if (task === null) continue
      this.nowMs = next.atMs
      this.steps += 1
      task()
      await dry()
    }
    if (!this.#stopped) this.nowMs = Math.max(this.nowMs, untilMs)
  }

  stop(): void {
    this.#stopped = true
  }

  #push(due: Due): void {
    const queue = this.#queue
    let at = queue.push(due) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(due, queue[parent]!)) break
      queue[at] = queue[parent]!
      at = parent
    }
    queue[at] = due
  }

  #pop(): void {
    const queue = this.#queue
    const last = queue.pop()!
    if (queue.length === 0) return
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= queue.length) break
      if (child + 1 < queue.length && before(queue[child + 1]!, queue[child]!)) child += 1
      if (!before(queue[child]!, last)) break
      queue[at] = queue[child]!
      at = child
    }
    queue[at] = last
  }
}

function before(a: Due, b: Due): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}

/** An immediate runs only when no promise has anything left to do. */
function dry(): Promise<void> {
  return new Promise((resolve) => { setImmediate(resolve) })
}

/** One process's view of the time: a wall clock that is somewhat wrong and may jump, and timers that die with the process. */
export class ProcessClock implements Clock {
  readonly #timeline: Timeline
  readonly #startedMs: number
  #wallMs: number
  #last = 0
  #dead = false

  /** `epochMs`: the wall clock's time at the beginning of the timeline, as this process has it. */
  constructor(timeline: Timeline, epochMs: number) {
    this.#timeline = timeline
    this.#startedMs = timeline.nowMs
    this.#wallMs = epochMs
  }

  nowMs(): number {
    const now = Math.floor(this.#wallMs + this.#timeline.nowMs)
    if (now > this.#last || this.#last - now > 2_000) this.#last = now
    return this.#last
  }

  monotonicMs(): number {
    return this.#timeline.nowMs - this.#startedMs
  }

  after(delayMs: number, task: () => void): () => void {
    if (this.#dead) return () => {}
    return this.#timeline.at(delayMs, () => {
      if (!this.#dead) task()
    })
  }

  every(periodMs: number, task: () => void): () => void {
    let cancel = (): void => {}
    const again = (): void => {
      cancel = this.after(periodMs, () => {
        again()
        task()
      })
    }
    again()
    return () => cancel()
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => { this.after(delayMs, resolve) })
  }

  /** Sets the wall clock forward or back. */
  jump(byMs: number): void {
    this.#wallMs += byMs
  }

  /** Nothing that was to happen in this process will. */
  kill(): void {
    this.#dead = true
  }
}
