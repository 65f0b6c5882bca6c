import type { Clock } from '../../clock.ts'

export interface Deadline {
  /** Called once when the time is over, unless `met` was set before. */
  readonly expire: () => void
  met: boolean
}

/**
 * Many deadlines of few different lengths, with one timer for each length: those of one length end in the order in which they began, so nothing is sorted
 * and meeting a deadline costs a flag.
 */
export class Deadlines {
  readonly #clock: Clock
  readonly #queues = new Map<number, Queue>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  start(lengthMs: number, expire: () => void): Deadline {
    let queue = this.#queues.get(lengthMs)
    if (queue === undefined) {
      queue = { lengthMs, waiting: [], head: 0, running: false }
      this.#queues.set(lengthMs, queue)
    }
    const deadline = { expire, met: false, atMs: this.#clock.monotonicMs() + lengthMs }
    queue.waiting.push(deadline)
    if (!queue.running) this.#run(queue, lengthMs)
    return deadline
  }

  #run(queue: Queue, delayMs: number): void {
    queue.running = true
    this.#clock.after(delayMs, () => this.#letIn(queue, this.#clock.monotonicMs(), TURNS))
  }

  /**
   * A process that was held up finds its timer due before it has read what came meanwhile, or even sent all of what it had to send: it is given some turns for
   * that. They cost an idle process nothing, and of a busy one they take what it needs, so that only the server's own slowness counts.
   */
  #letIn(queue: Queue, dueMs: number, turns: number): void {
    const { waiting } = queue
    while (waiting[queue.head]?.met === true) queue.head += 1
    const next = waiting[queue.head]
    if (turns === 0 || this.#clock.afterTurn === undefined || next === undefined || next.atMs > dueMs) this.#end(queue, dueMs)
    else this.#clock.afterTurn(() => this.#letIn(queue, dueMs, turns - 1))
  }

  #end(queue: Queue, dueMs: number): void {
    const nowMs = this.#clock.monotonicMs()
    const { waiting } = queue
    let next: Queue['waiting'][number] | undefined
    while ((next = waiting[queue.head]) !== undefined && (next.met || next.atMs <= dueMs)) {
      queue.head += 1
      if (!next.met) next.expire()
    }
    if (queue.head > waiting.length / 2) {
      waiting.splice(0, queue.head)
      queue.head = 0
    }
    queue.running = false
    if (next !== undefined) this.#run(queue, Math.max(1, next.atMs - nowMs))
    else if (waiting.length === 0) this.#queues.delete(queue.lengthMs)
  }
}

/** Turns of the event loop in which a large call is surely sent and its answer read. */
const TURNS = 8

interface Queue {
  readonly lengthMs: number
  readonly waiting: (Deadline & { readonly atMs: number })[]
  head: number
  running: boolean
}
