import type { Clock } from '../clock.ts'
import type { Metrics } from '../metrics.ts'
import { DeliveryFailed, type Sink, type SinkContract, type SinkRecord } from './sink.ts'

export interface SenderParts {
  readonly name: string
  readonly contract: SinkContract
  readonly sink: Sink
  readonly clock: Clock
  readonly metrics: Metrics
}

/**
 * `accepted` now or before; `refused` for good; `later`: known not to have been booked; `unknown`: it may have been. `aloneSinceMs`: when it
 * first came to nothing, where that is no fault of the receiver, which accepts others. What is in no list has not been sent.
 */
export type Verdict = { readonly is: 'accepted' } | { readonly is: 'refused'; readonly reason: string } | { readonly is: 'later' | 'unknown'; readonly aloneSinceMs?: number }

export interface Sent {
  /** By the record's id. */
  readonly verdicts: ReadonlyMap<string, Verdict>
  /** Why not all of it was sent, or has been answered; null: it was. */
  readonly failure: DeliveryFailed | Error | null
}

export interface SendOptions {
  /** Nothing more is sent; what is under way goes on. */
  readonly stop: AbortSignal
  /** What is under way is given up, its outcome unknown. */
  readonly abort: AbortSignal
  /** Before every request: the lease may have to be renewed. Throws when nothing more may be sent. */
  before?(): Promise<void>
}

/** Shorter than a lease: whoever takes over one that ran out finds nobody delivering. */
const ATTEMPT_MS = 20_000
const IN_FLIGHT = 4
/** What a record takes on the way beside its own text, for the bound on bytes. */
const ENVELOPE_BYTES = 64
/** After so many batches that were taken, larger ones are tried again. */
const GROW_AFTER = 100
/** What has come to nothing so often is parted, and is no reason any more to send nothing else. */
const SUSPECT_AFTER = 3
/** So many requests that come to nothing, one after the other, although others were accepted: it is the receiver, and it is left alone for a while. */
const MISSES_IN_A_ROW = 3
/** So many refused one by one, with nothing taken in between: it is not they that are wrong. */
const REFUSED_IN_A_ROW = 100

const accepted: Verdict = { is: 'accepted' }
const later: Verdict = { is: 'later' }
const unknown: Verdict = { is: 'unknown' }

/** One look at what waits. */
interface Round {
  /** The receiver has taken something: it is not down. */
  accepted: boolean
  /** What came to nothing by itself, not as part of a request. */
  readonly single: Set<SinkRecord>
}

interface Misses {
  times: number
  readonly firstMs: number
  /** Others were accepted meanwhile. */
  alone: boolean
}

/** Records → requests that the receiver can take, several on the way at a time, each record with a verdict: bisected where one is bad, halved where it is too much. */
export class Sender {
  readonly #parts: SenderParts
  /** What the receiver was found to take at once. */
  #batchMax: number
  #taken = 0
  #refusedInARow = 0
  /** How often a record has come to nothing. */
  readonly #misses = new WeakMap<SinkRecord, Misses>()
  /** Of suspects at once, as long as nothing is accepted: halved each time, so that a receiver that is down has a few requests at a time all the same. */
  #suspectsMax: number
  #missesInARow = 0
  #lastAcceptedMs = -Infinity
  readonly #pace: Pace

  constructor(parts: SenderParts) {
    this.#parts = parts
    this.#batchMax = parts.contract.batchMax
    this.#suspectsMax = parts.contract.batchMax
    this.#pace = new Pace(parts.contract.ratePerSecond, parts.clock)
  }

  /** When the receiver last accepted anything, ms. */
  get lastAcceptedMs(): number {
    return this.#lastAcceptedMs
  }

  /** Ids are different among `records`. Never rejects. */
  async send(records: readonly SinkRecord[], options: SendOptions): Promise<Sent> {
    const { contract } = this.#parts
    const verdicts = new Map<string, Verdict>()
    const round: Round = { accepted: false, single: new Set() }
    this.#missesInARow = 0
    const suspects = records.filter((record) => this.#isSuspect(record))
    // One after the other means in order, also when it goes wrong.
    if (contract.inFlightMax !== 1) suspects.sort((a, b) => this.#missesOf(a) - this.#missesOf(b))
    const waiting = suspects.length === 0 || contract.inFlightMax === 1 ? this.#batches(records) : [...this.#batches(records.filter((record) => !this.#isSuspect(record))), ...this.#batches(suspects)]
    const busy = new Set<string>()
    const under: Promise<void>[] = []
    let failure: Error | null = null
    let wake: () => void = () => {}
    const inFlightMax = contract.inFlightMax ?? IN_FLIGHT
    let inFlight = 0
    for (;;) {
      if (options.stop.aborted) break
      const batch = inFlight < inFlightMax && failure === null ? this.#next(waiting, busy, round) : undefined
      if (batch === undefined) {
        if (inFlight === 0) break
        await new Promise<void>((resolve) => { wake = resolve })
        continue
      }
      try {
        await options.before?.()
        await this.#pace.turn(options.stop)
      } catch (error) {
        failure ??= error as Error
      }
      if (options.stop.aborted || failure !== null) {
        waiting.unshift(batch)
        continue
      }
      const keys = this.#keysOf(batch)
      for (const key of keys) busy.add(key)
      inFlight += 1
      under.push(this.#attempt(batch, verdicts, waiting, options.abort, round).then((failed) => {
        failure ??= failed
        inFlight -= 1
        for (const key of keys) busy.delete(key)
        wake()
      }))
    }
    await Promise.all(under)
    for (const record of round.single) {
      const verdict = verdicts.get(record.id)
      const misses = this.#misses.get(record)
      if (misses === undefined || (verdict?.is !== 'later' && verdict?.is !== 'unknown')) continue
      misses.alone ||= round.accepted && this.#isSuspect(record)
      if (misses.alone) verdicts.set(record.id, { is: verdict.is, aloneSinceMs: misses.firstMs })
    }
    // What was put off by itself was no reason to stop, but it is one to say so.
    if (failure === null && !options.stop.aborted) failure = this.#remainder(records, verdicts)
    if (!round.accepted && failure !== null && records.some((record) => this.#isSuspect(record))) this.#suspectsMax = Math.max(1, Math.floor(this.#suspectsMax / 2))
    return { verdicts, failure }
  }

  /** Why nothing more is to be sent for now; null: go on. */
  async #attempt(batch: readonly SinkRecord[], verdicts: Map<string, Verdict>, waiting: (readonly SinkRecord[])[], abort: AbortSignal, round: Round): Promise<Error | null> {
    const { name, sink, clock, metrics } = this.#parts
    const attempt = new AbortController()
    const cancel = clock.after(ATTEMPT_MS, () => attempt.abort(new Error('the receiver took too long')), { unref: true })
    const signal = AbortSignal.any([abort, attempt.signal])
    try {
      const report = await given(sink.deliver(batch, signal), signal)
      if (report.duplicates !== undefined) metrics.duplicates.inc({ sink: name }, report.duplicates)
      for (const id of report.accepted) verdicts.set(id, accepted)
      for (const { id, reason } of report.refused) verdicts.set(id, { is: 'refused', reason })
      if (report.accepted.length > 0) this.#noteAccepted(round)
      for (const id of report.later ?? []) verdicts.set(id, later)
      let left = 0
      for (const { id } of batch) {
        if (verdicts.has(id)) continue
        verdicts.set(id, unknown)
        left += 1
      }
      metrics.ambiguous.inc({ sink: name }, left)
      if (report.accepted.length > 0) this.#refusedInARow = 0
      this.#grow()
      if (left > 0 || (report.later?.length ?? 0) > 0) {
        const failed = left > 0 ? new DeliveryFailed('unknown', 'a part of the batch is unanswered') : new DeliveryFailed('busy', 'a part of the batch is to come later')
        return this.#missed(batch.filter(({ id }) => verdicts.get(id)?.is === 'unknown' || verdicts.get(id)?.is === 'later'), failed, verdicts, waiting, round, batch.length)
      }
      return this.#countRefused(report.refused.length)
    } catch (error) {
      const failed = error instanceof Error ? error : new Error('unknown')
      const kind = failed instanceof DeliveryFailed ? failed.kind : 'unknown'
      if (kind === 'refused' || kind === 'too_large') {
        if (kind === 'too_large') this.#batchMax = Math.max(1, Math.floor(batch.length / 2))
        if (batch.length > 1) {
          const half = Math.ceil(batch.length / 2)
          waiting.unshift(batch.slice(0, half), batch.slice(half))
          return null
        }
        verdicts.set(batch[0]!.id, { is: 'refused', reason: kind === 'refused' ? failed.message : `too large: ${failed.message}` })
        return this.#countRefused(1)
      }
      for (const { id } of batch) verdicts.set(id, kind === 'unknown' ? unknown : later)
      if (kind === 'unknown') metrics.ambiguous.inc({ sink: name }, batch.length)
      return kind === 'unauthorized' || abort.aborted ? failed : this.#missed(batch, failed, verdicts, waiting, round, batch.length)
    } finally {
      cancel()
    }
  }

  #missesOf(record: SinkRecord): number {
    return this.#misses.get(record)?.times ?? 0
  }

  #isSuspect(record: SinkRecord): boolean {
    return this.#missesOf(record) >= SUSPECT_AFTER
  }

  #noteAccepted(round: Round): void {
    round.accepted = true
    this.#missesInARow = 0
    this.#suspectsMax = this.#parts.contract.batchMax
    this.#lastAcceptedMs = this.#parts.clock.nowMs()
  }

  /**
   * These came to nothing, of a request with `of` records. Whether it is the receiver or one of them shows by what becomes of others: those that have come to
   * nothing several times are parted while the receiver surely knows their ids, and others go on, until too many came to nothing in a row. Why to stop; null: go on.
   */
  #missed(records: readonly SinkRecord[], failed: Error, verdicts: Map<string, Verdict>, waiting: (readonly SinkRecord[])[], round: Round, of: number): Error | null {
    const { dedupWindowMs, inFlightMax } = this.#parts.contract
    const busy = failed instanceof DeliveryFailed && failed.kind === 'busy'
    const spoken = records.length < of
    const single = of === 1 || spoken
    const known = single && records.every((record) => this.#misses.get(record)?.alone === true)
    for (const record of records) {
      const misses = this.#misses.get(record) ?? { times: 0, firstMs: this.#parts.clock.nowMs(), alone: false }
      misses.times += 1
      this.#misses.set(record, misses)
      if (single) round.single.add(record)
    }
    // Of the receiver that says nothing.
    if (known) return null
    this.#missesInARow += 1
    // A receiver that asks for a time means everybody, unless it takes others.
    const all = !round.accepted && failed instanceof DeliveryFailed && failed.retryAfterMs !== null
    // One that is down is asked once. Where the order is kept, the next one shows whether it is the first.
    const enough = round.accepted ? MISSES_IN_A_ROW : inFlightMax === 1 && this.#suspectsMax === 1 ? 2 : 1
    if (this.#missesInARow >= enough || all) return failed
    if (!records.every((record) => this.#isSuspect(record))) return single && round.accepted ? null : failed
    if (of > 1 && !spoken && !busy && dedupWindowMs !== 0) {
      const half = Math.ceil(records.length / 2)
      waiting[inFlightMax === 1 ? 'unshift' : 'push'](records.slice(0, half), records.slice(half))
    }
    return null
  }

  /** Why some are left; null: none are, or only such as keep nobody else waiting. */
  #remainder(records: readonly SinkRecord[], verdicts: ReadonlyMap<string, Verdict>): Error | null {
    for (const { id } of records) {
      const verdict = verdicts.get(id)
      if (verdict === undefined) return new DeliveryFailed('unknown', 'a part of the batch is unanswered')
      if ((verdict.is === 'later' || verdict.is === 'unknown') && verdict.aloneSinceMs === undefined) return new DeliveryFailed(verdict.is === 'later' ? 'busy' : 'unknown', 'a part of the batch came to nothing')
    }
    return null
  }

  #countRefused(count: number): Error | null {
    this.#refusedInARow += count
    if (count === 0 || this.#refusedInARow < REFUSED_IN_A_ROW) return null
    this.#refusedInARow = 0
    return new DeliveryFailed('unauthorized', 'everything is refused')
  }

  /** What was too large once may have been one large record. */
  #grow(): void {
    if (this.#batchMax >= this.#parts.contract.batchMax) return
    this.#taken += 1
    if (this.#taken < GROW_AFTER) return
    this.#taken = 0
    this.#batchMax = Math.min(this.#parts.contract.batchMax, this.#batchMax * 2)
  }

  #batches(records: readonly SinkRecord[]): (readonly SinkRecord[])[] {
    const { bytesMax } = this.#parts.contract
    const batches: (readonly SinkRecord[])[] = []
    let batch: SinkRecord[] = []
    let bytes = 0
    let suspect = false
    for (const record of records) {
      const size = bytesMax === null ? 0 : Buffer.byteLength(JSON.stringify(record.is === 'event' ? record.event : record)) + ENVELOPE_BYTES
      const isSuspect = this.#isSuspect(record)
      const parted = batch.length > 0 && isSuspect !== suspect
      suspect = isSuspect
      if (parted || batch.length >= this.#batchMax || (batch.length > 0 && bytesMax !== null && bytes + size > bytesMax)) {
        batches.push(batch)
        batch = []
        bytes = 0
      }
      batch.push(record)
      bytes += size
    }
    if (batch.length > 0) batches.push(batch)
    return batches
  }

  /** The first that has nothing in common with what is on the way, nor with one that waits before it. */
  #next(waiting: (readonly SinkRecord[])[], busy: ReadonlySet<string>, round: Round): readonly SinkRecord[] | undefined {
    if (this.#parts.contract.serialBy === 'none') {
      const batch = waiting.shift()
      return batch === undefined ? undefined : this.#cut(batch, waiting, 0, round)
    }
    const before = new Set(busy)
    for (const [index, batch] of waiting.entries()) {
      const keys = this.#keysOf(batch)
      if (keys.every((key) => !before.has(key))) {
        waiting.splice(index, 1)
        return this.#cut(batch, waiting, index, round)
      }
      for (const key of keys) before.add(key)
    }
    return undefined
  }

  /** It was made before it was known that so many are too many. */
  #cut(batch: readonly SinkRecord[], waiting: (readonly SinkRecord[])[], index: number, round: Round): readonly SinkRecord[] {
    const [first] = batch
    const most = !round.accepted && first !== undefined && this.#isSuspect(first) ? Math.min(this.#suspectsMax, this.#batchMax) : this.#batchMax
    if (batch.length <= most) return batch
    waiting.splice(index, 0, batch.slice(most))
    return batch.slice(0, most)
  }

  #keysOf(batch: readonly SinkRecord[]): readonly string[] {
    if (this.#parts.contract.serialBy === 'none') return []
    return [...new Set(batch.map((record) => (record.is === 'meter' ? `${record.code} ${record.customer}` : '')))]
  }
}

/** A sink that does not heed its signal must not hold the loop up. */
function given<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason instanceof Error ? signal.reason : new Error('given up'))
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

/** So many requests a second at most, a tenth of a second's at once. */
class Pace {
  readonly #perMs: number
  readonly #most: number
  readonly #clock: Clock
  #left: number
  #atMs: number

  constructor(perSecond: number | null, clock: Clock) {
    this.#perMs = (perSecond ?? Infinity) / 1_000
    this.#most = Math.max(1, (perSecond ?? 0) / 10)
    this.#clock = clock
    this.#left = this.#most
    this.#atMs = clock.monotonicMs()
  }

  async turn(stop: AbortSignal): Promise<void> {
    if (this.#perMs === Infinity) return
    for (;;) {
      const nowMs = this.#clock.monotonicMs()
      this.#left = Math.min(this.#most, this.#left + (nowMs - this.#atMs) * this.#perMs)
      this.#atMs = nowMs
      if (this.#left >= 1 || stop.aborted) break
      await pause(this.#clock, Math.ceil((1 - this.#left) / this.#perMs), stop)
    }
    this.#left -= 1
  }
}

/** Until the time is over or `stop`. */
export function pause(clock: Clock, ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (stop.aborted) return resolve()
    const done = (): void => {
      cancel()
      stop.removeEventListener('abort', done)
      resolve()
    }
    const cancel = clock.after(ms, done, { unref: true })
    stop.addEventListener('abort', done, { once: true })
  })
}
