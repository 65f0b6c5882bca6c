/** The only door to the time. Everything else is handed a `Clock` or an instant, so that a seed can replay any failure. */
export interface Clock {
  /** Milliseconds since 1970, never going backwards within this process: it decides windows and periods. */
  nowMs(): number
  /** Milliseconds from an arbitrary start, never jumping: it measures durations. */
  monotonicMs(): number
  /** Runs `task` once after `delayMs`; the returned function cancels it. Does not keep the process alive when `unref`. */
  after(delayMs: number, task: () => void, options?: { unref?: boolean }): () => void
  /** Runs `task` every `periodMs` until cancelled. Never keeps the process alive. */
  every(periodMs: number, task: () => void): () => void
  sleep(delayMs: number): Promise<void>
  /** Runs `task` once what this turn of the event loop brought has been handled. Absent (virtual clocks): a microtask serves. */
  afterTurn?(task: () => void): void
}

class SystemClock implements Clock {
  #last = 0
  nowMs(): number {
    // A wall clock set back must not reopen a window that has ended.
    const now = Date.now()
    if (now > this.#last) this.#last = now
    // A clock that was an hour ahead and came back would freeze us: after 2 s of disagreement follow it.
    else if (this.#last - now > 2_000) this.#last = now
    return this.#last
  }
  monotonicMs(): number {
    return performance.now()
  }
  after(delayMs: number, task: () => void, options?: { unref?: boolean }): () => void {
    const timer = setTimeout(task, delayMs)
    if (options?.unref === true) timer.unref()
    return () => clearTimeout(timer)
  }
  every(periodMs: number, task: () => void): () => void {
    const timer = setInterval(task, periodMs)
    timer.unref()
    return () => clearInterval(timer)
  }
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, delayMs))
  }
  afterTurn(task: () => void): void {
    setImmediate(task)
  }
}

export const systemClock: Clock = new SystemClock()

/** `clock`, but for what time it is: where several gateways share a store, they go by one. */
export function withTime(clock: Clock, nowMs: () => number): Clock {
  return {
    nowMs,
    monotonicMs: () => clock.monotonicMs(),
    after: (delayMs, task, options) => clock.after(delayMs, task, options),
    every: (periodMs, task) => clock.every(periodMs, task),
    sleep: (delayMs) => clock.sleep(delayMs),
    ...(clock.afterTurn === undefined ? {} : { afterTurn: (task: () => void) => clock.afterTurn?.(task) }),
  }
}
