import { assert } from '../assert.ts'
import type { Clock } from '../clock.ts'
import type { Metrics } from '../metrics.ts'
import { StaleFence, type Records } from '../stores/store.ts'
import { Sender, type SendOptions } from './sender.ts'
import type { Sink, SinkContract, SinkRecord } from './sink.ts'

/** Documents: which records of a sink may have been booked without anybody knowing, by the sink's name. */
export const attemptKind = 'attempt'

type Document = Readonly<Record<string, unknown>>

/** A record on its way, with what is known of it. */
export interface Item {
  readonly record: SinkRecord
  /** The name of the rule that made it; '' of a whole event. */
  readonly rule: string
  /** What it is marked by: the id of its event, or its own where it is a sum. */
  readonly mark: string
  /** When it was first sent without an answer, ms; null: it is known not to have been booked. */
  sinceMs: number | null
  /** `held`: it is too late to send it again, and nobody knows whether it was booked. */
  state: 'waiting' | 'accepted' | 'refused' | 'held'
  reason: string | null
}

export interface AttemptsParts {
  readonly name: string
  readonly contract: SinkContract
  readonly sink: Sink
  /** Needed where the receiver forgets ids after a time. */
  readonly records: Records | undefined
  readonly clock: Clock
  readonly metrics: Metrics
  /** What marks are kept under: the sink's name, and what it does beside its loop. */
  readonly markedAs: string
}

/** The longest that a receiver's memory of ids is trusted less than it is said to last. */
const MARGIN_MAX_MS = 3_600_000

/** How long after a first attempt a record may be sent again without knowing what became of it, ms. */
export function safeMs({ dedupWindowMs }: SinkContract): number {
  return dedupWindowMs === 'forever' ? Infinity : dedupWindowMs - Math.min(MARGIN_MAX_MS, dedupWindowMs / 20)
}

/**
 * Sends records with what the receiver's memory permits. Where that has an end, every record is marked durably before it is sent first: so whoever goes on
 * after a crash knows which ones may have been booked, and since when. Such a one is never sent again once the receiver may have forgotten it.
 */
export class Attempts {
  readonly #parts: AttemptsParts
  readonly #sender: Sender
  readonly #forgets: boolean
  readonly #safeMs: number
  /** As the store has it; undefined: nothing. */
  #document: Document | undefined
  #marks: Readonly<Record<string, number>> = {}
  /** Of what was settled before this, each record may have been delivered then. */
  #replayMs = 0

  constructor(parts: AttemptsParts) {
    this.#parts = parts
    this.#sender = new Sender(parts)
    this.#safeMs = safeMs(parts.contract)
    this.#forgets = parts.contract.dedupWindowMs !== 'forever'
    assert(!this.#forgets || parts.records !== undefined, 'a receiver that forgets needs a place for marks')
  }

  /** Reads what others have left. */
  async load(): Promise<void> {
    if (!this.#forgets) return
    this.#document = await this.#parts.records?.get(attemptKind, this.#parts.markedAs)
    this.#marks = this.#document?.['marks'] as Record<string, number> | undefined ?? {}
    this.#replayMs = Number(this.#document?.['replay_ms'] ?? 0)
  }

  /** `settledMs`: when what it tells was settled. */
  item(record: SinkRecord, rule: string, mark: string, settledMs: number): Item {
    let sinceMs: number | null = null
    if (this.#forgets) {
      if (Object.hasOwn(this.#marks, mark)) sinceMs = this.#marks[mark] ?? null
      else if (settledMs < this.#replayMs) sinceMs = settledMs
    }
    return { record, rule, mark, sinceMs, state: 'waiting', reason: null }
  }

  /**
   * Sends those of `items` that wait and may be sent, and notes on each what became of it. `others`: marked before, and not to be forgotten.
   * Why something is left to be sent; null: nothing is. Rejects with StaleFence when another has taken over.
   */
  async send(items: readonly Item[], options: SendOptions, others: Iterable<Item> = []): Promise<Error | null> {
    const nowMs = this.#parts.clock.nowMs()
    const sendable = items.filter((item) => item.state === 'waiting' && this.#mayBeSent(item, nowMs))
    if (sendable.length === 0) return null
    if (this.#forgets) await this.#mark(sendable, others, nowMs)
    const { verdicts, failure } = await this.#sender.send(sendable.map(({ record }) => record), options)
    let known = 0
    for (const item of sendable) {
      const verdict = verdicts.get(item.record.id)
      if (verdict?.is === 'accepted') item.state = 'accepted'
      else if (verdict?.is === 'refused') this.#refuse(item, verdict.reason)
      else if (verdict?.is === 'unknown') item.sinceMs ??= nowMs
      else if (item.sinceMs === null) known += 1
    }
    // What is known not to have been booked is not to be taken for anything else after a crash.
    if (this.#forgets && known > 0) await this.#mark([], [...sendable, ...others], nowMs)
    return failure
  }

  #mayBeSent(item: Item, nowMs: number): boolean {
    const { oldestMs, newestMs, corrections } = this.#parts.contract
    const { record } = item
    if (item.sinceMs !== null && nowMs - item.sinceMs >= this.#safeMs) {
      item.state = 'held'
      item.reason = 'it was sent without an answer, and the receiver may have forgotten it by now'
    } else if (oldestMs !== null && nowMs - record.timeMs > oldestMs) this.#refuse(item, `it is older than the receiver takes: ${days(oldestMs)}`)
    else if (newestMs !== null && record.timeMs - nowMs > newestMs) this.#refuse(item, 'its time is further ahead of ours than the receiver takes')
    else if (corrections === 'none' && record.is === 'meter' && record.value.startsWith('-')) this.#refuse(item, 'it is negative, and the receiver takes nothing back')
    return item.state === 'waiting'
  }

  #refuse(item: Item, reason: string): void {
    item.state = 'refused'
    item.reason = reason
    this.#parts.metrics.refusedRecords.inc({ sink: this.#parts.name })
  }

  async #mark(sendable: readonly Item[], others: Iterable<Item>, nowMs: number): Promise<void> {
    const { records, name, markedAs } = this.#parts
    const marks: Record<string, number> = {}
    const earliest = (mark: string, ms: number): void => {
      marks[mark] = Object.hasOwn(marks, mark) ? Math.min(marks[mark] ?? ms, ms) : ms
    }
    for (const { state, sinceMs, mark } of others) if (state === 'waiting' && sinceMs !== null) earliest(mark, sinceMs)
    for (const { sinceMs, mark } of sendable) earliest(mark, sinceMs ?? nowMs)
    if (sendable.length > 0 && Object.entries(marks).every(([mark, ms]) => Object.hasOwn(this.#marks, mark) && (this.#marks[mark] ?? Infinity) <= ms)) return
    const next: Document = { marks, replay_ms: this.#replayMs }
    if (await records?.swap(attemptKind, markedAs, this.#document, next) !== true) throw new StaleFence(`another delivers to ${name}`)
    this.#document = next
    this.#marks = marks
  }
}

/** From now on, whatever was settled before counts as delivered perhaps. The loop sees it with its next lease. */
export async function markReplay(records: Records, name: string, nowMs: number): Promise<void> {
  for (;;) {
    const before = await records.get(attemptKind, name)
    if (await records.swap(attemptKind, name, before, { marks: before?.['marks'] ?? {}, replay_ms: Math.max(nowMs, Number(before?.['replay_ms'] ?? 0)) })) return
  }
}

function days(ms: number): string {
  return ms % 86_400_000 === 0 ? `${ms / 86_400_000} days` : `${Math.round(ms / 3_600_000)} hours`
}
