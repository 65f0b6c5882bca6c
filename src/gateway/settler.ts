import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Settle, SettleAnswer, Void } from '../metering/moves.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import type { Spool } from '../spool/spool.ts'
import type { Store } from '../stores/store.ts'
import { SpoolDrain } from './spool-drain.ts'

/**
 * Settlements and voids on their way to the store. No settlement is ever dropped: what the store does not take in time goes to the spool, and is applied
 * from there; without a spool, or when that cannot be written, it is tried again from here until it is taken. The queue is bounded the only honest way:
 * when it is full, `full` stops admission. A void that is lost costs nothing: what it would free expires.
 */
export interface SettlerParts {
  readonly store: Store
  readonly spool: Spool | null
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** How long the store has for a settlement before it goes to the spool, and how long the end of an answer waits for a void: nobody is billed by that. */
  readonly settleMs: number
  readonly queueMax: number
}

/** The store's answer; or the settlement is on this gateway's disk, and what it came to is not known yet. */
export type Settled = SettleAnswer | { readonly outcome: 'spooled' }

interface WaitingSettle {
  readonly kind: 'settle'
  readonly move: Settle
  tries: number
  /** It is in the store, or on disk. */
  over: boolean
  spooling: boolean
  /** It waits for its next try. */
  queued: boolean
  readonly done: (answer: Settled) => void
}

interface WaitingVoid {
  readonly kind: 'void'
  readonly move: Void
  tries: number
  readonly done: () => void
}

type Waiting = WaitingSettle | WaitingVoid

const backoffMs = 50
const backoffMaxMs = 5_000
/** How many go to the store at once when it has come back. */
const burst = 256
/** No call to a store is let take longer where others wait for it. */
const hungMs = 5_000
/** What they would free has long expired when so many newer ones wait. */
const voidsMax = 10_000

export class Settler {
  readonly #parts: SettlerParts
  readonly #drain: SpoolDrain | null
  /** How many are not yet durable, in flight or waiting for their next try. */
  #settles = 0
  #voids = 0
  #retrySettles: WaitingSettle[] = []
  #retryVoids: WaitingVoid[] = []
  #failures = 0
  #retrying = false
  #closed = false
  #whenChanged: (() => void)[] = []

  constructor(parts: SettlerParts) {
    this.#parts = parts
    const { spool, store, clock, random, log, metrics } = parts
    this.#drain = spool === null ? null : new SpoolDrain({ spool, clock, random, log, metrics, apply: (move) => answered(applySettle(move, store, log, clock), clock) })
    this.#drain?.start()
    metrics.beforeReading.push(() => metrics.unsettled.set(this.waiting))
  }

  /** Why nothing more may be admitted, in plain words: it could not be billed. null: it may. */
  get full(): string | null {
    if (this.#settles >= this.#parts.queueMax) return `${this.#settles} settlements wait for the store`
    return this.#parts.spool?.full ?? null
  }

  /** Settlements that are neither in the store nor on disk, and voids. */
  get waiting(): number {
    return this.#settles + this.#voids
  }

  /** Settlements that have a durable place beside the store. */
  get hasSpool(): boolean {
    return this.#parts.spool !== null
  }

  /** Resolves once it is durable, or with null after `waitMs`: then it stays here until it is. */
  settle(move: Settle, waitMs: number): Promise<Settled | null> {
    const { clock, spool, settleMs } = this.#parts
    return new Promise((resolve) => {
      const giveUp = clock.after(waitMs, () => resolve(null), { unref: true })
      const late = spool === null ? () => {} : clock.after(settleMs, () => { void this.#spoolOrRepeat(item, 'it took too long') }, { unref: true })
      const item: WaitingSettle = { kind: 'settle', move, tries: 0, over: false, spooling: false, queued: false, done: (answer) => {
        giveUp()
        late()
        resolve(answer)
      } }
      this.#settles += 1
      this.#tell()
      // Without a spool a new one queues behind the older ones that wait for the store to come back.
      if (spool === null && this.#retrySettles.length > 0) this.#queue(item)
      else void this.#attempt(item)
    })
  }

  /** For what was surely never billed. Resolves like `settle`. */
  void(move: Void): Promise<void> {
    const { clock, settleMs } = this.#parts
    return new Promise((resolve) => {
      const giveUp = clock.after(settleMs, resolve, { unref: true })
      this.#voids += 1
      this.#tell()
      const item: WaitingVoid = { kind: 'void', move, tries: 0, done: () => {
        giveUp()
        resolve()
      } }
      if (this.#retryVoids.length > 0) this.#repeatVoid(item)
      else void this.#attempt(item)
    })
  }

  /** Resolves when every settlement is durable, in the store or on disk, and voids have had their time. */
  async idle(): Promise<void> {
    let patient = true
    const cancel = this.#parts.clock.after(this.#parts.settleMs, () => {
      patient = false
      this.#tell()
    })
    while (this.#settles > 0 || (this.#voids > 0 && patient)) await new Promise<void>((resolve) => { this.#whenChanged.push(resolve) })
    cancel()
  }

  /** Nothing more is tried. What is on disk is applied by the next run. */
  close(): void {
    this.#closed = true
    this.#drain?.stop()
  }

  async #attempt(item: Waiting): Promise<boolean> {
    const { store, log, clock, metrics } = this.#parts
    if (item.kind === 'settle' && item.over) return true
    const startedMs = clock.monotonicMs()
    item.tries += 1
    try {
      if (item.kind === 'void') {
        const answer = await store.void(item.move)
        if (answer.outcome === 'broken') throw new Error('broken')
        this.#voids -= 1
        item.done()
      } else {
        const answer = await applySettle(item.move, store, log, clock)
        if (answer.outcome === 'broken') throw new Error('broken')
        this.#finish(item, answer)
      }
      this.#tell()
      metrics.storeLatency.observe({ move: item.kind }, (clock.monotonicMs() - startedMs) / 1_000)
      return true
    } catch (error) {
      if (item.kind === 'void') this.#repeatVoid(item)
      // A connection that broke says so at once: repeated at once, an answer that was merely lost is learnt all the same.
      else if (this.#parts.spool !== null && item.tries === 1) return this.#attempt(item)
      else await this.#spoolOrRepeat(item, error instanceof Error ? error.name : 'unknown')
      return false
    }
  }

  /** The store did not take it. */
  async #spoolOrRepeat(item: WaitingSettle, why: string): Promise<void> {
    const { spool, log } = this.#parts
    // Whoever is writing it already sees to it.
    if (item.over || item.spooling) return
    if (spool !== null) {
      item.spooling = true
      try {
        await spool.append(item.move)
        this.#finish(item, { outcome: 'spooled' })
        this.#tell()
        this.#drain?.wake()
        return
      } catch (error) {
        if (item.tries <= 2) log.error({ id: item.move.id, why: error instanceof Error ? error.message : 'unknown' }, 'the spool did not take a settlement')
      } finally {
        item.spooling = false
      }
    }
    if (item.over || item.queued) return
    if (item.tries <= 2) log.warn({ id: item.move.id, move: 'settle', why }, 'the store did not take a move; it will be repeated')
    this.#queue(item)
    void this.#retryLoop()
  }

  /** Whatever becomes of that call, the others must not wait for it; it may be repeated beside it. */
  #hung(item: Waiting): boolean {
    if (item.kind === 'settle' && !item.over && !item.queued) this.#queue(item)
    return false
  }

  #finish(item: WaitingSettle, answer: Settled): void {
    // The store and the spool may both have it; repeating it changes nothing.
    if (item.over) return
    item.over = true
    this.#settles -= 1
    item.done(answer)
  }

  #queue(item: WaitingSettle): void {
    item.queued = true
    this.#retrySettles.push(item)
  }

  #repeatVoid(item: WaitingVoid): void {
    this.#retryVoids.push(item)
    if (this.#retryVoids.length > voidsMax) {
      this.#retryVoids.shift()?.done()
      this.#voids -= 1
    }
    void this.#retryLoop()
  }

  #tell(): void {
    for (const tell of this.#whenChanged.splice(0)) tell()
  }

  async #retryLoop(): Promise<void> {
    if (this.#retrying) return
    this.#retrying = true
    const { clock, random } = this.#parts
    while (!this.#closed && this.#retrySettles.length + this.#retryVoids.length > 0) {
      const pauseMs = Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(this.#failures, 10))
      await clock.sleep(pauseMs * (0.75 + 0.5 * random.fraction()))
      if (this.#closed) break
      const settles = this.#retrySettles.splice(0, burst)
      for (const item of settles) item.queued = false
      const batch: Waiting[] = [...settles, ...this.#retryVoids.splice(0, burst)]
      const taken = await Promise.all(batch.map((item) => answered(this.#attempt(item), clock).catch(() => this.#hung(item))))
      // One damaged reservation must not slow the others down: only a store that takes nothing makes us wait longer.
      this.#failures = taken.includes(true) ? 0 : this.#failures + 1
    }
    this.#retrying = false
    this.#failures = 0
  }
}

/** Rejects when that takes longer than any call to a store should. */
function answered<Answer>(promise: Promise<Answer>, clock: Clock): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(hungMs, () => reject(new Error('the store does not answer')), { unref: true })
    promise.then(resolve, reject).finally(cancel)
  })
}

/** One settlement to the store. What it does not book as it was sent is never lost: it is kept, whole, for an operator to look at. */
async function applySettle(move: Settle, store: Store, log: Log, clock: Clock): Promise<SettleAnswer> {
  const answer = await store.settle(move)
  if (answer.outcome === 'differs' || answer.outcome === 'already_voided' || answer.outcome === 'quarantined') {
    log.error({ id: move.id, outcome: answer.outcome }, 'a settlement was not booked as it was sent')
    const { id, amounts, usage, event } = move
    await store.records.put('quarantine', id, { outcome: answer.outcome, at_ms: clock.nowMs(), amounts, usage, event })
  }
  return answer
}
