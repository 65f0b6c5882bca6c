import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Counted, ExtendAnswer } from '../metering/moves.ts'
import type { Store } from '../stores/store.ts'
import { Roster, type Listed } from './roster.ts'

/** An exchange whose reservation must be kept alive. */
export interface Living extends Listed {
  readonly id: string
  readonly home: string
  /** What it has counted so far; null: nothing worth billing yet. */
  counted(): Counted | null
  /** The next number of its own: extends of one exchange are told apart by it. */
  nextCheckpoint(): number
  /** The store no longer holds the reservation: hold it again, or end. */
  lost(): void
  /** Until when it is to live from now on; null: it needs no sign of life now. Absent: for a lease from every beat on. */
  renewalMs?(nowMs: number): number | null
  renewed?(deadlineMs: number): void
}

export interface LeaseParts {
  readonly store: Store
  readonly clock: Clock
  readonly log: Log
  readonly leaseMs: number
  readonly renewMs: number
}

/**
 * Signs of life: every few seconds every open exchange is renewed, with what it has counted. The same beat sweeps reservations of gateways
 * that are no more, but only after one whole lease of unbroken contact with the store: after an outage everything looks due.
 */
export class Lease {
  readonly #parts: LeaseParts
  readonly #living = new Roster<Living>()
  #contactSinceMs: number | null = null
  #beating = false
  #stop: () => void

  constructor(parts: LeaseParts) {
    this.#parts = parts
    this.#stop = parts.clock.every(parts.renewMs, () => { void this.beat() })
  }

  /** When a reservation that is alive now expires. */
  deadlineMs(nowMs: number): number {
    return nowMs + this.#parts.leaseMs
  }

  /** Exchanges that hold something. */
  get size(): number {
    return this.#living.size
  }

  add(living: Living): void {
    this.#living.add(living)
  }

  remove(living: Living | null): void {
    if (living !== null) this.#living.remove(living)
  }

  close(): void {
    this.#stop()
  }

  /** One beat: renew, then sweep. */
  async beat(): Promise<void> {
    if (this.#beating) return
    this.#beating = true
    try {
      const renewed = await Promise.all(this.#living.list().map((living) => this.#renew(living)))
      if (renewed.includes(false)) this.#contactSinceMs = null
      await this.#sweep()
    } finally {
      this.#beating = false
    }
  }

  /** False: the store could not be reached. */
  async #renew(living: Living): Promise<boolean> {
    const { store, clock } = this.#parts
    const nowMs = clock.nowMs()
    const deadlineMs = living.renewalMs === undefined ? this.deadlineMs(nowMs) : living.renewalMs(nowMs)
    if (deadlineMs === null) return true
    let answer: ExtendAnswer
    try {
      answer = await store.extend({
        id: living.id, nowMs, home: living.home, checkpoint: living.nextCheckpoint(), deadlineMs, counted: living.counted(), checks: null,
      })
    } catch (error) {
      this.#failed('extend', error)
      return false
    }
    if (answer.outcome === 'extended') living.renewed?.(deadlineMs)
    // A seat is freed without an event, and voided by that.
    if (answer.outcome === 'already_voided' && living.renewed !== undefined) living.lost()
    // It may have ended while the answer was on its way.
    if ((answer.outcome === 'expired' || answer.outcome === 'unknown') && this.#living.has(living)) living.lost()
    return true
  }

  async #sweep(): Promise<void> {
    const { store, clock, leaseMs } = this.#parts
    const nowMs = clock.nowMs()
    try {
      const due = await store.due(nowMs)
      const monotonicMs = clock.monotonicMs()
      this.#contactSinceMs ??= monotonicMs
      if (monotonicMs - this.#contactSinceMs < leaseMs) return
      if (due.length === 0) return
      const living = new Set(this.#living.list().map(({ id }) => id))
      const orphans = due.filter(({ id }) => !living.has(id))
      const answers = await Promise.all(orphans.map(({ id, home, checkpoint }) => store.expire({ id, home, checkpoint, nowMs })))
      // That a seat has lingered long enough is nothing to tell.
      const expired = answers.filter(({ outcome }) => outcome !== 'freed').length
      if (expired > 0) this.#parts.log.warn({ reservations: expired }, 'reservations of a gateway that is gone have expired')
    } catch (error) {
      this.#contactSinceMs = null
      this.#failed('due', error)
    }
  }

  #failed(move: string, error: unknown): void {
    this.#parts.log.debug({ move, why: error instanceof Error ? error.name : 'unknown' }, 'the store did not answer')
  }
}
