import { assert } from '../assert.ts'
import type { SinkMapping } from '../config/config.ts'
import type { Clock } from '../clock.ts'
import { codeWords } from '../failure-words.ts'
import type { Log } from '../log.ts'
import { toUsageEvent, type UsageEvent } from '../metering/event.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import { StaleFence, StoreUnavailable, type Fence, type Outbox, type OutboxEntry, type Position, type Records } from '../stores/store.ts'
import { Attempts, type Item } from './attempts.ts'
import { recordsOf, rollUp, ruleOf, windowEnd, type Telling } from './mapping.ts'
import { quarantine, quarantined } from './quarantine.ts'
import type { SendOptions } from './sender.ts'
import { DeliveryFailed, type MeterRecord, type Sink } from './sink.ts'

export interface DeliveryParts {
  readonly name: string
  readonly kind: Telling
  /** null: whole events, all of them. */
  readonly mapping: SinkMapping | null
  readonly sink: Sink
  readonly outbox: Outbox
  /** For marks, sums and what is quarantined; a sink of whole events whose receiver never forgets an id does without. */
  readonly records?: Records
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Names this process in the lease. */
  readonly holder: string
  /** What parts an account's time into billing periods, for sums; absent: nothing does. */
  periodOf?(account: string, atMs: number): string
}

/** For people and their programs; nothing is decided by it. */
export interface DeliveryStatus {
  /**
   * `waiting`: after a failure, for its next try. `paused`: until an operator has mended what `reason` says, or a later try finds it mended. `not open`: it has no
   * loop, because it could not be opened.
   */
  readonly state: 'starting' | 'running' | 'waiting' | 'paused' | 'elsewhere' | 'not open'
  readonly reason: string | null
  readonly nextTryMs: number | null
  readonly lastDeliveryMs: number | null
}

/** Longer than an attempt: whoever takes over a lease that ran out finds nobody delivering. */
const LEASE_MS = 30_000
/** A request begins with at least an attempt's time left of the lease. */
const RENEW_MS = 8_000
/** While another delivers, this is how often the lease is asked for again. */
const ELSEWHERE_MS = 1_000
const FIRST_WAIT_MS = 200
const LONGEST_WAIT_MS = 60_000
/** For a store that is away: asking whether it is back costs no receiver anything. */
const LONGEST_STORE_WAIT_MS = 2_000
/** A pause is for people to end. */
const FIRST_PAUSE_MS = 30_000
const LONGEST_PAUSE_MS = 600_000
const MEASURE_EVERY_MS = 2_000
/** The list of what is quarantined is looked at less often. */
const COUNT_EVERY = 15
/** After a batch that was not full the next ones gather: under load a batch for every commit would cost more than the calls. */
const GATHER_MS = 50
/** What is under way at the end has this long to be answered. */
export const LAST_ANSWERS_MS = 2_000
/** What is read at once is sent in so many turns: moving the cursor waits for the disk. */
const ROUNDS = 4
const READ_MAX = 1_000
const READ_LEAST = 200
/** Entries that are done although one before them is not; more are not remembered. */
const KEPT_MAX = 20_000
/** Of a window that is over, events may still be on their way to the outbox. */
const STRAGGLERS_MS = 2_000
/** Whether so many events have come that a sum is made before its window is over is looked at this often. */
const FULL_LOOK_MS = 2_000

/** Documents: what of a sink's sums has been made and not yet delivered, by the sink's name. */
export const sealedKind = 'sealed'

interface Told {
  readonly entry: OutboxEntry
  readonly eventId: string
  readonly items: readonly Item[]
  /** What could not even be told. */
  readonly refused: readonly { readonly rule: string; readonly reason: string }[]
}

/** A chunk of sums: frozen before any of it is sent. */
interface Chunk {
  readonly records: readonly MeterRecord[]
  readonly positions: readonly Position[]
}

interface Sealed {
  /** As the store has it. */
  readonly document: Readonly<Record<string, unknown>> | undefined
  /** null: everything that was sealed has been delivered. */
  readonly chunk: Chunk | null
  readonly items: readonly Item[]
}

interface Step {
  /** Events that are off the outbox. */
  readonly done: number
  /** Until the first of those that rest is tried again. */
  readonly restsMs?: number
  /** Something was done behind one that is not. */
  readonly moved?: boolean
  /** There is more, as far as it looks. */
  readonly full: boolean
  readonly failure: Error | null
  /** Sums wait for the end of their window. */
  readonly gathersMs?: number
}

/** Series that alerts look at begin at 0. */
export function beginSinkSeries(metrics: Metrics, sink: string): void {
  for (const counter of [metrics.delivered, metrics.deliveryRetries, metrics.outboxMissed, metrics.ambiguous, metrics.refusedRecords, metrics.duplicates, metrics.unmapped]) counter.inc({ sink }, 0)
}

/** How far behind a sink is, told whether it is open or not: what waits for one that is not is what alerts are for. */
export class Backlog {
  readonly #parts: Pick<DeliveryParts, 'name' | 'mapping' | 'outbox' | 'records' | 'metrics' | 'clock'>
  #measured = 0
  #forgotten = false

  constructor(parts: Pick<DeliveryParts, 'name' | 'mapping' | 'outbox' | 'records' | 'metrics' | 'clock'>) {
    this.#parts = parts
  }

  async measure(): Promise<void> {
    const { outbox, records, name, metrics, clock, mapping } = this.#parts
    const lag = await outbox.lag(name)
    const dead = await outbox.deadCount(name)
    const held = records !== undefined && this.#measured % COUNT_EVERY === 0 ? (await quarantined(records, name)).length : null
    if (this.#forgotten) return
    const size = mapping?.rollup ?? null
    // What is summed up is not late before its minute or hour is over.
    const dueMs = lag.oldestMs === null || size === null ? lag.oldestMs : windowEnd(size, lag.oldestMs) + STRAGGLERS_MS
    metrics.outboxLag.set({ sink: name }, lag.count)
    metrics.outboxAge.set({ sink: name }, dueMs === null ? 0 : Math.max(0, clock.nowMs() - dueMs) / 1000)
    metrics.dead.set({ sink: name }, dead)
    if (held !== null) metrics.quarantined.set({ sink: name }, held)
    this.#measured += 1
  }

  /** The list of what is quarantined has changed. */
  recount(): void {
    this.#measured = 0
  }

  /** Nothing is told of it any more. */
  forget(): void {
    const { name: sink, metrics } = this.#parts
    this.#forgotten = true
    for (const gauge of [metrics.outboxLag, metrics.outboxAge, metrics.dead, metrics.quarantined]) gauge.remove({ sink })
  }
}

/**
 * Outbox → sink: lease the cursor, read, make records, send, bury what is refused for good, put aside what nobody knows of, advance. One of these per sink, so
 * that a slow one delays nobody. Records keep id, time and value over all attempts; that is what makes a second delivery harmless.
 */
export class Delivery {
  readonly #parts: DeliveryParts
  readonly #attempts: Attempts
  readonly #stop = new AbortController()
  readonly #abort = new AbortController()
  #running: Promise<void> | null = null
  /** Null: another delivers, or nobody has asked yet. */
  #fence: Fence | null = null
  #leasedMs = -Infinity
  #elsewhere = false
  #gathering = false
  readonly #told = new Map<Position, Told>()
  #sealed: Sealed | null = null
  #status: DeliveryStatus = { state: 'starting', reason: null, nextTryMs: null, lastDeliveryMs: null }
  readonly #backlog: Backlog
  #wake: () => void = () => {}
  /** Something was appended since the last look began. */
  #news = false
  #nudged = false
  #stopListening: () => void = () => {}
  #stopMeasuring: () => void = () => {}

  constructor(parts: DeliveryParts) {
    this.#parts = parts
    this.#backlog = new Backlog(parts)
    const { name, kind, sink, records, clock, metrics } = parts
    this.#attempts = new Attempts({ name, contract: kind.contract, sink, records, clock, metrics, markedAs: name, remembers: records !== undefined && (kind.takes === 'records' || kind.contract.dedupWindowMs !== 'forever') })
    assert((parts.mapping?.rollup ?? null) === null || records !== undefined, 'sums need a place to be frozen in')
  }

  get status(): DeliveryStatus {
    return this.#status
  }

  start(): void {
    const { outbox, clock, metrics, name: sink } = this.#parts
    beginSinkSeries(metrics, sink)
    metrics.sinkPaused.set({ sink }, 0)
    this.#stopListening = outbox.onAppend(() => {
      this.#news = true
      this.#wake()
    })
    this.#stopMeasuring = clock.every(MEASURE_EVERY_MS, () => void this.measure().catch(() => undefined))
    this.#running = this.#run()
  }

  /** Tries again at once: the operator may have mended what it waits for. */
  nudge(): void {
    this.#nudged = true
    this.#wake()
  }

  /** Ends after the requests under way; what is left waits in the outbox. */
  async stop(): Promise<void> {
    const { clock, sink, outbox, metrics, name } = this.#parts
    this.#stop.abort()
    this.#wake()
    this.#stopListening()
    this.#stopMeasuring()
    const cancel = clock.after(LAST_ANSWERS_MS, () => this.#abort.abort(new Error('stopped')), { unref: true })
    await this.#running
    cancel()
    await sink.close()
    this.#backlog.forget()
    metrics.sinkPaused.remove({ sink: name })
    // Left to run out when this fails: that only takes longer.
    if (this.#fence !== null) await outbox.release(this.#fence).catch(() => undefined)
  }

  /** Delivers until the outbox is empty or `untilMs`; for the last moments of a drain. True: nothing is left for this process to deliver now. */
  async flush(untilMs: number): Promise<boolean> {
    const { outbox, clock, name } = this.#parts
    while (clock.nowMs() < untilMs) {
      if (this.#elsewhere || this.#gathering || (await outbox.lag(name)).count === 0) return true
      this.#wake()
      await clock.sleep(20)
    }
    return false
  }

  measure(): Promise<void> {
    return this.#backlog.measure()
  }

  async #run(): Promise<void> {
    const { random } = this.#parts
    let failures = 0
    let pauses = 0
    while (!this.#stop.signal.aborted) {
      let pauseMs: number
      let wakes = false
      this.#news = false
      this.#nudged = false
      let step: Step | null = null
      let failure: Error | null
      try {
        step = await this.#step()
        failure = step?.failure ?? null
      } catch (error) {
        failure = error instanceof Error ? error : new Error('unknown')
        if (error instanceof StaleFence) this.#forget()
      }
      if (this.#stop.signal.aborted) break
      if (step !== null && (step.done > 0 || step.moved === true)) failures = 0
      if (failure === null) {
        failures = 0
        pauses = 0
        this.#resumed(step === null)
        this.#gathering = step?.gathersMs !== undefined
        // What is appended concerns whoever delivers; asking again at every event would only load the store.
        wakes = step !== null && step.done === 0 && step.moved !== true && !this.#gathering
        if (step === null) pauseMs = ELSEWHERE_MS
        else if (step.gathersMs !== undefined) pauseMs = step.gathersMs
        else if (step.moved === true) pauseMs = GATHER_MS * (1 + this.#told.size / READ_MAX)
        else pauseMs = step.done === 0 ? Math.min(LEASE_MS / 3, Math.max(GATHER_MS, step.restsMs ?? Infinity)) : step.full ? 0 : GATHER_MS
      } else {
        failures += 1
        this.#parts.metrics.deliveryRetries.inc({ sink: this.#parts.name })
        if (failure instanceof DeliveryFailed && failure.kind === 'unauthorized') {
          // Many gateways do not knock at the same moment.
          pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(pauses, 20)) * (0.75 + 0.25 * random.fraction())
          pauses += 1
        } else {
          const longestMs = failure instanceof StoreUnavailable ? LONGEST_STORE_WAIT_MS : LONGEST_WAIT_MS
          pauseMs = Math.max(FIRST_WAIT_MS / 4, Math.min(longestMs, FIRST_WAIT_MS * 2 ** Math.min(failures, 20)) * random.fraction())
          const askedMs = failure instanceof DeliveryFailed ? failure.retryAfterMs : null
          if (askedMs !== null) pauseMs = Math.max(pauseMs, askedMs * (1 + 0.1 * random.fraction()))
        }
        this.#failed(failure, failures, pauseMs)
      }
      if (pauseMs > 0) await this.#pause(pauseMs, wakes)
    }
  }

  #resumed(elsewhere: boolean): void {
    const { log, name, metrics } = this.#parts
    const { state } = this.#status
    if ((state === 'paused' || state === 'waiting') && !elsewhere) log.info({ sink: name }, 'events are delivered again')
    if (state === 'paused') metrics.sinkPaused.set({ sink: name }, 0)
    this.#status = { ...this.#status, state: elsewhere ? 'elsewhere' : 'running', reason: null, nextTryMs: null }
  }

  #failed(failure: Error, failures: number, pauseMs: number): void {
    const { log, name, metrics, clock } = this.#parts
    const reason = reasonOf(failure)
    const paused = failure instanceof DeliveryFailed && failure.kind === 'unauthorized'
    const retryInMs = Math.round(pauseMs)
    if (paused && this.#status.state !== 'paused') {
      metrics.sinkPaused.set({ sink: name }, 1)
      log.error({ sink: name, error: reason, retry_in_ms: retryInMs }, 'the sink is paused: its key, its address or its settings are refused; mend that and reload. Its events wait in the outbox')
    } else if (!paused && (failures === 1 || failures % (failure instanceof StoreUnavailable ? 60 : 10) === 0)) {
      log.warn({ sink: name, failures, error: reason, retry_in_ms: retryInMs }, 'delivery failed; the events wait in the outbox')
    }
    this.#status = { ...this.#status, state: paused ? 'paused' : 'waiting', reason, nextTryMs: clock.nowMs() + retryInMs }
  }

  /** One look at the outbox. null: another delivers. */
  async #step(): Promise<Step | null> {
    const { name, kind, mapping, outbox, records, clock, holder } = this.#parts
    const rollup = mapping?.rollup ?? null
    const nowMs = clock.nowMs()
    const fence = await outbox.lease(name, holder, nowMs, nowMs + LEASE_MS)
    this.#elsewhere = fence === undefined
    if (fence === undefined) {
      this.#forget()
      return null
    }
    this.#leasedMs = nowMs
    if (fence.token !== this.#fence?.token) {
      this.#forget()
      // What whoever delivered before has left: he may have been cut off at any moment.
      await this.#attempts.load()
      if (kind.takes === 'records' && records !== undefined) this.#sealed = await this.#loadSealed(records)
      this.#fence = fence
    }
    // Frozen sums go first, even where nothing is summed up any more: their events are not to be told once more by themselves.
    if (this.#sealed !== null && records !== undefined && (this.#sealed.chunk !== null || rollup !== null)) return await this.#deliverSums(fence, records, this.#sealed, rollup)
    return await this.#deliver(fence)
  }

  #forget(): void {
    this.#fence = null
    this.#told.clear()
    this.#sealed = null
  }

  /** Before each request. */
  async #renew(): Promise<void> {
    const { name, outbox, clock, holder } = this.#parts
    const nowMs = clock.nowMs()
    if (nowMs - this.#leasedMs < RENEW_MS) return
    const fence = await outbox.lease(name, holder, nowMs, nowMs + LEASE_MS)
    if (fence?.token !== this.#fence?.token) throw new StaleFence(`another holds the lease of ${name}`)
    this.#leasedMs = nowMs
  }

  get #options(): SendOptions {
    return { stop: this.#stop.signal, abort: this.#abort.signal, before: () => this.#renew() }
  }

  async #deliver(fence: Fence): Promise<Step> {
    const { kind, outbox, metrics, name } = this.#parts
    const { batchMax, inFlightMax = 4 } = kind.contract
    // What is done, or rests, behind one that is not leaves room for others.
    let ahead = 0
    for (const { items } of this.#told.values()) if (items.every(({ state, alone }) => state !== 'waiting' || alone !== undefined)) ahead += 1
    const count = Math.min(KEPT_MAX, ahead + Math.min(READ_MAX, Math.max(READ_LEAST, batchMax * inFlightMax * ROUNDS)))
    const entries = await this.#read(fence, count, ahead)
    if (entries.length === 0) {
      this.#attempts.forget()
      return { done: 0, full: false, failure: null }
    }
    const told = entries.map((entry) => this.#toldOf(entry))
    const items = told.flatMap((one) => one.items)
    const waited = items.filter(({ state }) => state === 'waiting').length
    const failure = await this.#attempts.send(items, this.#options, this.#others(), ahead >= KEPT_MAX)
    const waiting = items.filter(({ state }) => state === 'waiting')
    const restsMs = waiting.reduce((least, { alone }) => Math.min(least, alone?.nextMs ?? Infinity), Infinity) - this.#parts.clock.nowMs()
    // In order, up to the first that is not done: that one is tried again, and what is done behind it is remembered.
    let done = 0
    while (done < told.length && told[done]!.items.every(({ state }) => state !== 'waiting')) done += 1
    let delivered = 0
    // At once, so that what was refused together is buried in one commit.
    await Promise.all(told.slice(0, done).map((one) => this.#putAway(fence, one)))
    for (const { items } of told.slice(0, done)) if (items.some(({ state }) => state === 'accepted')) delivered += 1
    for (let at = 0; at < done; at += READ_MAX) await outbox.advance(fence, entries.slice(at, Math.min(done, at + READ_MAX)))
    for (const { position } of entries.slice(0, done)) this.#told.delete(position)
    await this.#attempts.keep(this.#others())
    this.#noteDelivered(delivered)
    metrics.delivered.inc({ sink: name }, delivered)
    if (this.#stop.signal.aborted) return { done, full: false, failure: null }
    return { done, restsMs, moved: done === 0 && waiting.length < waited, full: entries.length >= Math.min(count, batchMax), failure }
  }

  /** The next ones; where some are done ahead of the cursor, those behind them too, of which the store gives a thousand at a time. */
  async #read(fence: Fence, count: number, ahead: number): Promise<readonly OutboxEntry[]> {
    const { outbox, name } = this.#parts
    const first = await outbox.read(fence, count)
    if (ahead === 0 || first.length === 0 || outbox.waiting === undefined) return first
    const entries = new Map(first.map((entry) => [entry.position, entry]))
    for (let after: Position | null = null; entries.size < count;) {
      const page: readonly OutboxEntry[] = await outbox.waiting(name, after, Math.min(READ_MAX, count))
      for (const entry of page) if (entries.size < count && !entries.has(entry.position)) entries.set(entry.position, entry)
      after = page.at(-1)?.position ?? null
      if (after === null) break
    }
    return [...entries.values()]
  }

  #noteDelivered(count: number): void {
    if (count > 0) this.#status = { ...this.#status, lastDeliveryMs: this.#parts.clock.nowMs() }
  }

  *#others(): Iterable<Item> {
    for (const { items } of this.#told.values()) yield* items
  }

  #toldOf(entry: OutboxEntry): Told {
    const known = this.#told.get(entry.position)
    if (known !== undefined) return known
    const { kind, mapping, metrics, name } = this.#parts
    const event = toUsageEvent(entry.record)
    const { records, refused, unmapped } = recordsOf(event, kind, mapping)
    if (unmapped) metrics.unmapped.inc({ sink: name })
    const items = this.#attempts.items(records, (record) => ruleOf(record, event.id, mapping), event.id, entry.record.atMs)
    const told = { entry, eventId: event.id, items, refused }
    this.#told.set(entry.position, told)
    return told
  }

  /** What of an event was refused goes to the dead, what nobody knows of to the quarantine: before the cursor moves over it. */
  async #putAway(fence: Fence, { entry, eventId, items, refused }: Told): Promise<void> {
    const { outbox, records, clock, log, name } = this.#parts
    const held = items.filter(({ state }) => state === 'held')
    if (held.length > 0 && records !== undefined) {
      await quarantine(records, name, eventId, held, clock.nowMs())
      log.error({ sink: name, event: eventId, reason: held[0]?.reason ?? '' }, 'event put into quarantine: whether it was booked has to be found out')
      this.#backlog.recount()
    }
    const all = [...refused, ...items.flatMap(({ state, rule, reason }) => (state === 'refused' ? [{ rule, reason: reason ?? '' }] : []))]
    if (all.length === 0) return
    const reason = reasonFor(all, items.length + refused.length)
    await outbox.bury(fence, entry, reason, clock.nowMs())
    log.error({ sink: name, event: eventId, reason }, 'event refused for good and kept among the dead')
  }

  // --- Sums ---

  async #deliverSums(fence: Fence, records: Records, before: Sealed, size: 'minute' | 'hour' | null): Promise<Step> {
    const { mapping, outbox, clock, log, name, metrics } = this.#parts
    let sealed = before
    if (sealed.chunk === null) {
      const entries = await outbox.read(fence, READ_MAX)
      if (entries.length === 0) this.#attempts.forget()
      if (entries.length === 0 || mapping === null || size === null) return { done: 0, full: false, failure: null }
      const oldestMs = entries.reduce((least, { record }) => Math.min(least, record.atMs), Infinity)
      const nowMs = clock.nowMs()
      const overMs = windowEnd(size, oldestMs) + STRAGGLERS_MS
      if (entries.length < READ_MAX && nowMs < overMs) return { done: 0, full: false, failure: null, gathersMs: Math.min(FULL_LOOK_MS, overMs - nowMs) }
      sealed = await this.#seal(fence, records, before, entries, mapping, size)
    }
    const { items, chunk } = sealed
    const failure = await this.#attempts.send(items, this.#options)
    if (chunk === null || items.some(({ state }) => state === 'waiting')) {
      await this.#attempts.keep(items)
      return { done: 0, full: true, failure }
    }
    for (const item of items) {
      if (item.state !== 'held' && item.state !== 'refused') continue
      await quarantine(records, name, item.record.id, [item], clock.nowMs())
      log.error({ sink: name, record: item.record.id, reason: item.reason ?? '' }, item.state === 'held' ? 'sum put into quarantine: whether it was booked has to be found out' : 'sum refused for good and put into quarantine')
      this.#backlog.recount()
    }
    await outbox.advance(fence, chunk.positions.map((position) => ({ position })))
    await this.#freeze(records, sealed, { number_ms: sealed.document?.['number_ms'] ?? 0, chunk: null })
    this.#noteDelivered(chunk.positions.length)
    metrics.delivered.inc({ sink: name }, chunk.positions.length)
    return { done: chunk.positions.length, full: true, failure }
  }

  async #loadSealed(records: Records): Promise<Sealed> {
    const document = await records.get(sealedKind, this.#parts.name)
    const chunk = document?.['chunk'] as Chunk | null | undefined ?? null
    return { document, chunk, items: this.#itemsOf(chunk) }
  }

  #itemsOf(chunk: Chunk | null): readonly Item[] {
    return chunk?.records.flatMap((record) => this.#attempts.items([record], () => record.code, record.id, Infinity)) ?? []
  }

  /** Makes the sums of these entries and freezes them: from now on these records are sent, whatever happens. */
  async #seal(fence: Fence, records: Records, before: Sealed, entries: readonly OutboxEntry[], mapping: SinkMapping, size: 'minute' | 'hour'): Promise<Sealed> {
    const { kind, clock, metrics, name, periodOf } = this.#parts
    const events: UsageEvent[] = []
    const summed: OutboxEntry[] = []
    for (const entry of entries) {
      const event = toUsageEvent(entry.record)
      if (this.#attempts.wasTold(event.id)) await this.#putAwayTold(fence, entry)
      else {
        events.push(event)
        summed.push(entry)
      }
    }
    // Chunks have rising numbers that no other store's chunks have had: an id of a sum is never used twice.
    const numberMs = Math.max(clock.nowMs(), Number(before.document?.['number_ms'] ?? 0) + 1)
    const sums = rollUp(events, kind, mapping, { size, chunk: numberMs.toString(36), periodOf: periodOf ?? (() => '') })
    for (const [index, { refused, unmapped }] of sums.mapped.entries()) {
      if (unmapped) metrics.unmapped.inc({ sink: name })
      const entry = summed[index]
      const event = events[index]
      if (entry !== undefined && event !== undefined && refused.length > 0) await this.#putAway(fence, { entry, eventId: event.id, items: [], refused })
    }
    return await this.#freeze(records, before, { number_ms: numberMs, chunk: { records: sums.records, positions: entries.map(({ position }) => position) } })
  }

  /** It was told singly, all or a part of it, before sums were asked for: it is in none of them. */
  async #putAwayTold(fence: Fence, entry: OutboxEntry): Promise<void> {
    const told = this.#toldOf(entry)
    this.#told.delete(entry.position)
    for (const item of told.items) {
      if (item.state !== 'waiting') continue
      item.state = 'held'
      item.reason = 'a part of the event was told singly, and now it would be summed up'
    }
    await this.#putAway(fence, told)
  }

  async #freeze(records: Records, before: Sealed, next: { readonly number_ms: unknown; readonly chunk: Chunk | null }): Promise<Sealed> {
    const document = { ...next }
    if (!await records.swap(sealedKind, this.#parts.name, before.document, document)) throw new StaleFence(`another delivers to ${this.#parts.name}`)
    const sealed = { document, chunk: next.chunk, items: this.#itemsOf(next.chunk) }
    this.#sealed = sealed
    return sealed
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
        if (wakes || this.#nudged || this.#stop.signal.aborted) done()
      }
      if (this.#stop.signal.aborted || this.#nudged || (wakes && this.#news)) done()
    })
  }
}

/** Why an event is dead; where only some of its records are, it begins with which: `of ["code"]: …`, so that only they are sent again. */
export function reasonFor(refused: readonly { readonly rule: string; readonly reason: string }[], total: number): string {
  const reasons = [...new Set(refused.map(({ reason }) => reason))].join('; ')
  return refused.length === total ? reasons : `of ${JSON.stringify(refused.map(({ rule }) => rule))}: ${reasons}`
}

/** Without the rules. */
export function reasonOnly(reason: string): string {
  return rulesIn(reason) === null ? reason : reason.replace(/^of \[".*?"\]: /, '')
}

/** Of which rules an event is dead; null: of all. */
export function rulesIn(reason: string): readonly string[] | null {
  const list = /^of (\[".*?"\]): /.exec(reason)?.[1]
  if (list === undefined) return null
  try {
    return JSON.parse(list) as string[]
  } catch {
    return null
  }
}

/** Error names and codes only: a receiver's words may hold anything. */
export function reasonOf(error: Error): string {
  if (error instanceof StaleFence || error instanceof StoreUnavailable) return error.name
  if (error instanceof DeliveryFailed) return error.message.slice(0, 200)
  return 'code' in error ? codeWords(String(error.code), null) : error.message.slice(0, 200)
}
