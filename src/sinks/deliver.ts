import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import { toUsageEvent } from '../metering/event.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import { StaleFence, StoreUnavailable, type Fence, type Outbox, type OutboxEntry } from '../stores/store.ts'
import { eventRecord, type Sink, type SinkKind } from './sink.ts'

export interface DeliveryParts {
  readonly name: string
  readonly kind: Pick<SinkKind, 'type' | 'takes' | 'contract' | 'customerDefault'>
  readonly sink: Sink
  readonly outbox: Outbox
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Names this process in the lease. */
  readonly holder: string
}

/** Longer than an attempt: whoever takes over a lease that ran out finds nobody delivering. */
const LEASE_MS = 30_000
/** While another delivers, this is how often the lease is asked for again. */
const ELSEWHERE_MS = 1_000
const ATTEMPT_MS = 20_000
const FIRST_WAIT_MS = 200
const LONGEST_WAIT_MS = 60_000
const MEASURE_EVERY_MS = 2_000
/** After a batch that was not full the next ones gather: under load a batch for every commit would cost more than the calls. */
const GATHER_MS = 50

/**
 * Outbox → sink, in order, at least once: lease the cursor, read, deliver, bury what is refused for good, advance. One of these per sink, so that
 * a slow one delays nobody. An event keeps its id and every byte over all attempts; that is what makes a second delivery harmless.
 */
export class Delivery {
  readonly #parts: DeliveryParts
  readonly #stop = new AbortController()
  #running: Promise<void> | null = null
  /** Null: another delivers, or nobody has asked yet. */
  #fence: Fence | null = null
  #elsewhere = false
  #wake: () => void = () => {}
  /** Something was appended since the last look began. */
  #news = false
  #stopListening: () => void = () => {}
  #stopMeasuring: () => void = () => {}

  constructor(parts: DeliveryParts) {
    this.#parts = parts
  }

  start(): void {
    const { outbox, clock } = this.#parts
    this.#stopListening = outbox.onAppend(() => {
      this.#news = true
      this.#wake()
    })
    this.#stopMeasuring = clock.every(MEASURE_EVERY_MS, () => void this.measure().catch(() => undefined))
    this.#running = this.#run()
  }

  /** Ends after the batch under way; what is left waits in the outbox. */
  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake()
    this.#stopListening()
    this.#stopMeasuring()
    await this.#running
    await this.#parts.sink.close()
    // Left to run out when this fails: that only takes longer.
    if (this.#fence !== null) await this.#parts.outbox.release(this.#fence).catch(() => undefined)
  }

  /** Delivers until the outbox is empty or `untilMs`; for the last moments of a drain. True: nothing is left for this process to deliver. */
  async flush(untilMs: number): Promise<boolean> {
    const { outbox, clock, name } = this.#parts
    while (clock.nowMs() < untilMs) {
      if (this.#elsewhere || (await outbox.lag(name)).count === 0) return true
      this.#wake()
      await clock.sleep(20)
    }
    return false
  }

  async measure(): Promise<void> {
    const { outbox, name, metrics, clock } = this.#parts
    const lag = await outbox.lag(name)
    metrics.outboxLag.set({ sink: name }, lag.count)
    metrics.outboxAge.set({ sink: name }, lag.oldestMs === null ? 0 : Math.max(0, clock.nowMs() - lag.oldestMs) / 1000)
    metrics.dead.set({ sink: name }, await outbox.deadCount(name))
  }

  async #run(): Promise<void> {
    const { name, kind, log, metrics, random } = this.#parts
    let failures = 0
    while (!this.#stop.signal.aborted) {
      let pauseMs: number
      let wakes = false
      this.#news = false
      try {
        const delivered = await this.#step()
        failures = 0
        // What is appended concerns whoever delivers; asking again at every event would only load the store.
        wakes = delivered === 0
        pauseMs = delivered === null ? ELSEWHERE_MS : delivered === 0 ? LEASE_MS / 3 : delivered < kind.contract.batchMax ? GATHER_MS : 0
      } catch (error) {
        failures++
        metrics.deliveryRetries.inc({ sink: name })
        const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(failures, 20))
        // Half of it is chance, so that many gateways do not knock at the same moment.
        pauseMs = longest / 2 + (longest / 2) * random.fraction()
        if (failures === 1 || failures % 10 === 0) log.warn({ sink: name, failures, error: reasonOf(error), retry_in_ms: Math.round(pauseMs) }, 'delivery failed; the events wait in the outbox')
      }
      if (pauseMs > 0) await this.#pause(pauseMs, wakes)
    }
  }

  /** One batch. How many events it had; null: another delivers. */
  async #step(): Promise<number | null> {
    const { name, kind, outbox, clock, holder } = this.#parts
    const nowMs = clock.nowMs()
    const fence = await outbox.lease(name, holder, nowMs, nowMs + LEASE_MS)
    this.#fence = fence ?? null
    this.#elsewhere = fence === undefined
    if (fence === undefined) return null
    const entries = await outbox.read(fence, kind.contract.batchMax)
    if (entries.length > 0) await this.#deliver(fence, entries)
    return entries.length
  }

  async #deliver(fence: Fence, entries: readonly OutboxEntry[]): Promise<void> {
    const { name, sink, outbox, clock, log, metrics } = this.#parts
    const attempt = new AbortController()
    const cancel = clock.after(ATTEMPT_MS, () => attempt.abort(new Error('the sink took too long')), { unref: true })
    const events = entries.map((entry) => toUsageEvent(entry.record))
    const report = await sink.deliver(events.map(eventRecord), AbortSignal.any([this.#stop.signal, attempt.signal])).finally(cancel)
    const reasons = new Map(report.refused.map(({ id, reason }) => [id, reason]))
    const accepted = new Set(report.accepted)
    let done = 0
    let delivered = 0
    // In order, up to the first that the sink did not speak about: that one and the rest are tried again.
    for (const [i, entry] of entries.entries()) {
      const { id } = events[i]!
      const reason = reasons.get(id)
      if (reason !== undefined) {
        await outbox.bury(fence, entry, reason, clock.nowMs())
        log.error({ sink: name, event: id, reason }, 'event refused for good and kept among the dead')
      } else if (accepted.has(id)) delivered++
      else break
      done = i + 1
    }
    if (done > 0) await outbox.advance(fence, entries.slice(0, done))
    metrics.delivered.inc({ sink: name }, delivered)
    if (done < entries.length) throw new Error('the sink left a part of the batch unanswered')
  }

  /** Until the time is over, or the end; `wakes`: or until something is appended. */
  #pause(ms: number, wakes: boolean): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel()
        this.#wake = () => {}
        resolve()
      }
      const cancel = this.#parts.clock.after(ms, done, { unref: true })
      this.#wake = () => {
        if (wakes || this.#stop.signal.aborted) done()
      }
      if (this.#stop.signal.aborted || (wakes && this.#news)) done()
    })
  }
}

/** Error names and codes only: a receiver's words may hold anything. */
function reasonOf(error: unknown): string {
  if (error instanceof StaleFence || error instanceof StoreUnavailable) return error.name
  if (error instanceof Error) return 'code' in error ? String(error.code) : error.message.slice(0, 200)
  return 'unknown'
}
