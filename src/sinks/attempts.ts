import { isDeepStrictEqual } from 'node:util'
import { assert } from '../assert.ts'
import type { Clock } from '../clock.ts'
import type { Metrics } from '../metrics.ts'
import { StaleFence, type Records } from '../stores/store.ts'
import { Sender, type SendOptions } from './sender.ts'
import type { Sink, SinkContract, SinkRecord } from './sink.ts'

/** Documents: which records of a sink may have been booked without anybody knowing, by the sink's name. */
export const attemptKind = 'attempt'

type Document = Readonly<Record<string, unknown>>

/** What is left to be told of an event of which something was told, by the name of the rule: since when that may have been booked; null: it is known not to be. */
type Left = Readonly<Record<string, number | null>>

/** A record on its way, with what is known of it. */
export interface Item {
  readonly record: SinkRecord
  /** The name of the rule that made it; '' of a whole event. */
  readonly rule: string
  /** What it is marked by: the id of its event, or its own where it is a sum. */
  readonly mark: string
  /** When it was first sent without an answer, or accepted, ms; null: it is known not to have been booked. */
  sinceMs: number | null
  /** `held`: it is too late to send it again, and nobody knows whether it was booked. */
  state: 'waiting' | 'accepted' | 'refused' | 'held'
  reason: string | null
  /** It alone came to nothing while others were accepted: how often, and when it is tried again. */
  alone?: { readonly times: number; readonly nextMs: number }
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
  /** What is accepted before its turn is remembered by rule, whatever the receiver's memory: so a restart, or other rules, do not tell it again. */
  readonly remembers?: boolean
}

/** The longest that a receiver's memory of ids is trusted less than it is said to last. */
const MARGIN_MAX_MS = 3_600_000

/** A record that alone comes to nothing rests between its attempts. */
const REST_FIRST_MS = 1_000
const REST_MAX_MS = 600_000
/** And this long; where too much is done behind it, it holds everything else up, and has less. */
const PATIENCE_MS = 86_400_000
const PATIENCE_LEAST_MS = 600_000

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
  /** As the store has it, by the same name as marks. */
  #told: Readonly<Record<string, Left>> = {}
  /** What was loaded and has not been asked for yet: not to be forgotten. */
  #unreadMarks = new Map<string, number>()
  #unreadTold = new Map<string, Left>()
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
    const { records, markedAs, remembers = false } = this.#parts
    if (!this.#forgets && !remembers) return
    this.#document = await records?.get(attemptKind, markedAs)
    this.#marks = this.#document?.['marks'] as Record<string, number> | undefined ?? {}
    this.#told = this.#document?.['told'] as Record<string, Left> | undefined ?? {}
    this.#unreadMarks = new Map(remembers ? Object.entries(this.#marks) : [])
    this.#unreadTold = new Map(Object.entries(this.#told))
    this.#replayMs = Number(this.#document?.['replay_ms'] ?? 0)
  }

  /** Nothing waits any more: what was left of others concerns nobody. */
  forget(): void {
    this.#unreadMarks.clear()
    this.#unreadTold.clear()
  }

  /** Something of it was told before. */
  wasTold(mark: string): boolean {
    return Object.hasOwn(this.#told, mark)
  }

  /** `settledMs`: when what it tells was settled. */
  item(record: SinkRecord, rule: string, mark: string, settledMs: number): Item {
    let sinceMs: number | null = null
    if (this.#forgets) {
      if (Object.hasOwn(this.#marks, mark)) sinceMs = this.#marks[mark] ?? null
      else if (settledMs < this.#replayMs) sinceMs = settledMs
    }
    const left = Object.hasOwn(this.#told, mark) ? this.#told[mark] : undefined
    const isLeft = left === undefined || Object.hasOwn(left, rule)
    return { record, rule, mark, sinceMs: left?.[rule] ?? sinceMs, state: isLeft ? 'waiting' : 'accepted', reason: null }
  }

  /**
   * The records of an event by the rules of now. Where others told a part of it, and what they left has no rule any more, nobody knows which of these it is: those
   * are held.
   */
  items(records: readonly SinkRecord[], ruleOf: (record: SinkRecord) => string, mark: string, settledMs: number): readonly Item[] {
    const items = records.map((record) => this.item(record, ruleOf(record), mark, settledMs))
    const left = this.wasTold(mark) ? Object.keys(this.#told[mark] ?? {}) : []
    if (!left.every((rule) => items.some((item) => item.rule === rule))) for (const item of items) if (item.state === 'accepted') hold(item, 'a part of the event was told by other rules, and the rest has no rule any more', settledMs)
    this.#unreadMarks.delete(mark)
    this.#unreadTold.delete(mark)
    return items
  }

  /**
   * Sends those of `items` that wait and may be sent, and notes on each what became of it. `besides`: marked before, and not to be forgotten.
   * `crowded`: whoever rests holds everything else up. Why something is left to be sent; null: nothing is, or only what rests. Rejects with StaleFence when another has taken over.
   */
  async send(items: readonly Item[], options: SendOptions, besides: Iterable<Item> = [], crowded = false): Promise<Error | null> {
    const nowMs = this.#parts.clock.nowMs()
    const all = new Set([...items, ...besides])
    const sendable = items.filter((item) => item.state === 'waiting' && nowMs >= (item.alone?.nextMs ?? 0) && this.#mayBeSent(item, nowMs))
    if (sendable.length === 0) return null
    if (this.#forgets) await this.#mark(sendable, all, nowMs)
    const { verdicts, failure } = await this.#sender.send(sendable.map(({ record }) => record), options)
    let known = 0
    for (const item of sendable) {
      const verdict = verdicts.get(item.record.id)
      if (verdict?.is === 'accepted') {
        item.state = 'accepted'
        item.sinceMs ??= nowMs
      } else if (verdict?.is === 'refused') this.#refuse(item, verdict.reason)
      else if (verdict?.is === 'unknown') item.sinceMs ??= nowMs
      else if (item.sinceMs === null) known += 1
      if (verdict?.is === 'unknown' || verdict?.is === 'later') this.#rest(item, verdict.is, verdict.aloneSinceMs, crowded)
    }
    // What is known not to have been booked is not to be taken for anything else after a crash.
    if (this.#forgets && known > 0) await this.#write(this.#marksOf([], all, nowMs), this.#toldOf(all))
    return failure
  }

  /** Makes durable what is known of these and of nothing else: what is done needs no mark. */
  async keep(items: Iterable<Item>): Promise<void> {
    const { remembers = false, clock } = this.#parts
    if (!this.#forgets && !remembers) return
    const all = new Set(items)
    const marks = this.#forgets ? this.#marksOf([], all, clock.nowMs()) : {}
    const told = this.#toldOf(all)
    // Marks of what is done are gone with the next ones that are made.
    if (isDeepStrictEqual(told, this.#told) && (remembers || isDeepStrictEqual(marks, this.#marks))) return
    await this.#write(marks, told)
  }

  /** One that comes to nothing while others are accepted keeps nobody waiting, and not for ever. */
  #rest(item: Item, is: 'unknown' | 'later', firstMs: number | undefined, crowded: boolean): void {
    if (firstMs === undefined) return
    const nowMs = this.#parts.clock.nowMs()
    const sinceMs = is === 'unknown' ? Math.min(item.sinceMs ?? firstMs, firstMs) : firstMs
    const times = item.alone?.times ?? 0
    // Only where others were accepted after it had come to nothing: an outage is no fault of a record.
    if (nowMs - sinceMs >= (crowded ? PATIENCE_LEAST_MS : PATIENCE_MS) && this.#sender.lastAcceptedMs >= firstMs) {
      if (is === 'later') this.#refuse(item, 'the receiver puts it off and takes others')
      else hold(item, 'it alone is never answered; others are accepted')
    }
    item.alone = { times: times + 1, nextMs: nowMs + Math.min(REST_MAX_MS, REST_FIRST_MS * 2 ** Math.min(times, 20)) }
  }

  #mayBeSent(item: Item, nowMs: number): boolean {
    const { oldestMs, newestMs, corrections } = this.#parts.contract
    const { record } = item
    if (item.sinceMs !== null && nowMs - item.sinceMs >= this.#safeMs) {
      hold(item, 'it was sent without an answer, and the receiver may have forgotten it by now')
    } else if (oldestMs !== null && nowMs - record.timeMs > oldestMs) this.#refuse(item, `it is older than the receiver takes: ${days(oldestMs)}`)
    else if (newestMs !== null && record.timeMs - nowMs > newestMs) this.#refuse(item, 'its time is further ahead of ours than the receiver takes')
    else if (corrections === 'none' && record.is === 'meter' && record.value.startsWith('-')) this.#refuse(item, 'it is negative, and the receiver takes nothing back')
    return item.state === 'waiting'
  }

  /**
   * What may have been booked is not refused for good where the receiver forgets: an operator would have it sent again. Of a sum, which is put into quarantine in
   * any case, the truth is told.
   */
  #refuse(item: Item, reason: string): void {
    if (item.sinceMs !== null && (this.#forgets || (item.record.is === 'meter' && item.mark === item.record.id))) return hold(item, `it was sent before without an answer, and then refused: ${reason}`)
    item.state = 'refused'
    item.reason = reason
    this.#parts.metrics.refusedRecords.inc({ sink: this.#parts.name })
  }

  async #mark(sendable: readonly Item[], all: Iterable<Item>, nowMs: number): Promise<void> {
    const marks = this.#marksOf(sendable, all, nowMs)
    if (Object.entries(marks).every(([mark, ms]) => Object.hasOwn(this.#marks, mark) && (this.#marks[mark] ?? Infinity) <= ms)) return
    await this.#write(marks, this.#toldOf(all))
  }

  #marksOf(sendable: readonly Item[], all: Iterable<Item>, nowMs: number): Record<string, number> {
    const marks = Object.fromEntries(this.#unreadMarks)
    const earliest = (mark: string, ms: number): void => {
      marks[mark] = Object.hasOwn(marks, mark) ? Math.min(marks[mark] ?? ms, ms) : ms
    }
    for (const { state, sinceMs, mark } of all) if ((state === 'waiting' || (state === 'accepted' && this.#parts.remembers !== true)) && sinceMs !== null) earliest(mark, sinceMs)
    for (const { sinceMs, mark } of sendable) earliest(mark, sinceMs ?? nowMs)
    return marks
  }

  #toldOf(all: Iterable<Item>): Record<string, Left> {
    if (this.#parts.remembers !== true) return {}
    const told = new Map<string, Record<string, number | null>>()
    const items = [...all]
    for (const { state, sinceMs, mark } of items) if (state === 'accepted' || sinceMs !== null) told.set(mark, {})
    for (const { state, sinceMs, mark, rule } of items) if (state !== 'accepted') Object.assign(told.get(mark) ?? {}, { [rule]: sinceMs })
    return { ...Object.fromEntries(this.#unreadTold), ...Object.fromEntries(told) }
  }

  async #write(marks: Readonly<Record<string, number>>, told: Readonly<Record<string, Left>>): Promise<void> {
    const { records, name, markedAs } = this.#parts
    const next: Document = { marks, replay_ms: this.#replayMs, ...(Object.keys(told).length === 0 ? {} : { told }) }
    if (await records?.swap(attemptKind, markedAs, this.#document, next) !== true) throw new StaleFence(`another delivers to ${name}`)
    this.#document = next
    this.#marks = marks
    this.#told = told
  }
}

function hold(item: Item, reason: string, sinceMs?: number): void {
  item.state = 'held'
  item.reason = reason
  if (sinceMs !== undefined) item.sinceMs ??= sinceMs
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
