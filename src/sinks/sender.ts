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
 * `accepted` now or before; `refused` for good; `later`: known not to have been booked; `unknown`: it may have been. What is in no list has not been sent.
 */
export type Verdict = { readonly is: 'accepted' } | { readonly is: 'refused'; readonly reason: string } | { readonly is: 'later' } | { readonly is: 'unknown' }

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
/** So many refused one by one, with nothing taken in between: it is not they that are wrong. */
const REFUSED_IN_A_ROW = 100

const accepted: Verdict = { is: 'accepted' }
const later: Verdict = { is: 'later' }
const unknown: Verdict = { is: 'unknown' }

/** Records → requests that the receiver can take, several on the way at a time, each record with a verdict: bisected where one is bad, halved where it is too much. */
export class Sender {
  readonly #parts: SenderParts
  /** What the receiver was found to take at once. */
  #batchMax: number
  #taken = 0
  #refusedInARow = 0
  readonly #pace: Pace

  constructor(parts: SenderParts) {
    this.#parts = parts
    this.#batchMax = parts.contract.batchMax
    this.#pace = new Pace(parts.contract.ratePerSecond, parts.clock)
  }

  /** Ids are different among `records`. Never rejects. */
  async send(records: readonly SinkRecord[], options: SendOptions): Promise<Sent> {
    const { contract } = this.#parts
    const verdicts = new Map<string, Verdict>()
    const waiting = this.#batches(records)
    const busy = new Set<string>()
    const under: Promise<void>[] = []
    let failure: Error | null = null
    let wake: () => void = () => {}
    const inFlightMax = contract.inFlightMax ?? IN_FLIGHT
    let inFlight = 0
    for (;;) {
      if (options.stop.aborted) break
      const batch = inFlight < inFlightMax && failure === null ? this.#next(waiting, busy) : undefined
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
      under.push(this.#attempt(batch, verdicts, waiting, options.abort).then((failed) => {
        failure ??= failed
        inFlight -= 1
        for (const key of keys) busy.delete(key)
        wake()
      }))
    }
    await Promise.all(under)
    if (failure === null && verdicts.size < records.length && !options.stop.aborted) failure = new DeliveryFailed('unknown', 'a part of the batch is unanswered')
    return { verdicts, failure }
  }

  /** Why nothing more is to be sent for now; null: go on. */
  async #attempt(batch: readonly SinkRecord[], verdicts: Map<string, Verdict>, waiting: (readonly SinkRecord[])[], abort: AbortSignal): Promise<Error | null> {
    const { name, sink, clock, metrics } = this.#parts
    const attempt = new AbortController()
    const cancel = clock.after(ATTEMPT_MS, () => attempt.abort(new Error('the receiver took too long')), { unref: true })
    const signal = AbortSignal.any([abort, attempt.signal])
    try {
      const report = await given(sink.deliver(batch, signal), signal)
      if (report.duplicates !== undefined) metrics.duplicates.inc({ sink: name }, report.duplicates)
      for (const id of report.accepted) verdicts.set(id, accepted)
      for (const { id, reason } of report.refused) verdicts.set(id, { is: 'refused', reason })
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
      if (left > 0) return new DeliveryFailed('unknown', 'a part of the batch is unanswered')
      return (report.later?.length ?? 0) > 0 ? new DeliveryFailed('busy', 'a part of the batch is to come later') : this.#countRefused(report.refused.length)
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
      return failed
    } finally {
      cancel()
    }
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
    for (const record of records) {
      const size = bytesMax === null ? 0 : Buffer.byteLength(JSON.stringify(record.is === 'event' ? record.event : record)) + ENVELOPE_BYTES
      if (batch.length >= this.#batchMax || (batch.length > 0 && bytesMax !== null && bytes + size > bytesMax)) {
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
  #next(waiting: (readonly SinkRecord[])[], busy: ReadonlySet<string>): readonly SinkRecord[] | undefined {
    if (this.#parts.contract.serialBy === 'none') {
      const batch = waiting.shift()
      // It was made before it was known that so many are too many.
      if (batch === undefined || batch.length <= this.#batchMax) return batch
      waiting.unshift(batch.slice(this.#batchMax))
      return batch.slice(0, this.#batchMax)
    }
    const before = new Set(busy)
    for (const [index, batch] of waiting.entries()) {
      const keys = this.#keysOf(batch)
      if (keys.every((key) => !before.has(key))) {
        waiting.splice(index, 1)
        return batch
      }
      for (const key of keys) before.add(key)
    }
    return undefined
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
