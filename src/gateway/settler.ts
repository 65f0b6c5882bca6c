import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Settle, SettleAnswer, Void } from '../metering/moves.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import type { Store } from '../stores/store.ts'

/**
 * Settlements and voids on their way to the store. None is ever dropped: what the store does not take is tried again until it does,
 * in the order it came. The queue is bounded the only honest way: when it is full, `full` stops admission.
 */
export interface SettlerParts {
  readonly store: Store
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** How long the end of an answer waits for a void: nobody is billed by that. */
  readonly voidWaitMs: number
  readonly queueMax: number
}

type Waiting =
  | { readonly kind: 'settle'; readonly move: Settle; tries: number; readonly done: (answer: SettleAnswer) => void }
  | { readonly kind: 'void'; readonly move: Void; tries: number; readonly done: () => void }

const backoffMs = 50
const backoffMaxMs = 5_000
/** How many go to the store at once when it has come back. */
const burst = 256

export class Settler {
  readonly #parts: SettlerParts
  /** How many are not yet durable, in flight or waiting for their next try. */
  #open = 0
  #retry: Waiting[] = []
  #failures = 0
  #retrying = false
  #whenIdle: (() => void)[] = []

  constructor(parts: SettlerParts) {
    this.#parts = parts
  }

  /** True: nothing more may be admitted, because it could not be billed. */
  get full(): boolean {
    return this.#open >= this.#parts.queueMax
  }

  get waiting(): number {
    return this.#open
  }

  /** Resolves with the store's answer once it is durable, or with null after `waitMs`: then it stays here until it is. */
  settle(move: Settle, waitMs: number): Promise<SettleAnswer | null> {
    return new Promise((resolve) => {
      const giveUp = this.#parts.clock.after(waitMs, () => resolve(null), { unref: true })
      this.#begin({ kind: 'settle', move, tries: 0, done: (answer) => {
        giveUp()
        resolve(answer)
      } })
    })
  }

  /** For what was surely never billed. Resolves like `settle`. */
  void(move: Void): Promise<void> {
    return new Promise((resolve) => {
      const giveUp = this.#parts.clock.after(this.#parts.voidWaitMs, resolve, { unref: true })
      this.#begin({ kind: 'void', move, tries: 0, done: () => {
        giveUp()
        resolve()
      } })
    })
  }

  /** Resolves when everything is durable. */
  idle(): Promise<void> {
    if (this.#open === 0) return Promise.resolve()
    return new Promise((resolve) => { this.#whenIdle.push(resolve) })
  }

  #begin(item: Waiting): void {
    this.#open += 1
    this.#parts.metrics.unsettled.set(this.#open)
    // While older ones are waiting for the store to come back, a new one queues behind them.
    if (this.#retry.length > 0) this.#retry.push(item)
    else void this.#attempt(item)
  }

  async #attempt(item: Waiting): Promise<boolean> {
    const { store, log, clock, metrics } = this.#parts
    const startedMs = clock.monotonicMs()
    item.tries += 1
    try {
      if (item.kind === 'void') {
        const answer = await store.void(item.move)
        if (answer.outcome === 'broken') throw new Error('broken')
        this.#finish()
        item.done()
      } else {
        const answer = await store.settle(item.move)
        if (answer.outcome === 'broken') throw new Error('broken')
        if (answer.outcome === 'differs' || answer.outcome === 'already_voided' || answer.outcome === 'quarantined') {
          log.error({ id: item.move.id, outcome: answer.outcome }, 'a settlement was not booked as it was sent')
          // Never booked silently, and never lost: it is kept, whole, for an operator to look at.
          const { id, amounts, usage, event } = item.move
          await store.records.put('quarantine', id, { outcome: answer.outcome, at_ms: clock.nowMs(), amounts, usage, event })
        }
        this.#finish()
        item.done(answer)
      }
      metrics.storeLatency.observe({ move: item.kind }, (clock.monotonicMs() - startedMs) / 1_000)
      return true
    } catch (error) {
      if (item.tries === 1) log.warn({ id: item.move.id, move: item.kind, why: error instanceof Error ? error.name : 'unknown' }, 'the store did not take a move; it will be repeated')
      this.#retry.push(item)
      void this.#retryLoop()
      return false
    }
  }

  #finish(): void {
    this.#open -= 1
    this.#parts.metrics.unsettled.set(this.#open)
    if (this.#open > 0) return
    for (const resolve of this.#whenIdle.splice(0)) resolve()
  }

  async #retryLoop(): Promise<void> {
    if (this.#retrying) return
    this.#retrying = true
    const { clock, random } = this.#parts
    while (this.#retry.length > 0) {
      const pauseMs = Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(this.#failures, 10))
      await clock.sleep(pauseMs * (0.75 + 0.5 * random.fraction()))
      const batch = this.#retry.splice(0, burst)
      const taken = await Promise.all(batch.map((item) => this.#attempt(item)))
      // One damaged reservation must not slow the others down: only a store that takes nothing makes us wait longer.
      this.#failures = taken.includes(true) ? 0 : this.#failures + 1
    }
    this.#retrying = false
    this.#failures = 0
  }
}
