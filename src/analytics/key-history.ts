import type { Clock } from '../clock.ts'
import type { Outbox } from '../stores/store.ts'
import { OTHER } from './gathering.ts'
import { ROLLUPS } from './projector.ts'
import { bucketOf, nextBucket } from './rollups.ts'
import type { Kept, Rollups } from './rollups.ts'

export interface KeyHistoryParts {
  /** null: switched off. */
  kept(): Kept | null
  rollups(): Promise<Rollups>
  readonly outbox: Pick<Outbox, 'lag'>
  readonly clock: Clock
}

interface Question {
  readonly account: string
  readonly key: string
  readonly unit: 'hour' | 'day' | 'month'
  readonly backMs: number | null
}

interface Row {
  readonly fromMs: number
  requests: number
  inputTokens: number
  outputTokens: number
  totalTokens: number
  costs: ReadonlyMap<string, bigint>
  refused: number | null
}

const DAY_MS = 86_400_000
const MONTHS = 12

/** What single keys have used, for whoever holds them (`UsageHistory` of the gateway). It reads alone, so that it also answers in a process that counts nothing. */
export class KeyHistory {
  readonly #parts: KeyHistoryParts

  constructor(parts: KeyHistoryParts) {
    this.#parts = parts
  }

  get isKept(): boolean {
    return this.#parts.kept() !== null
  }

  async of({ account, key, unit, backMs }: Question): Promise<{ fromMs: number; untilMs: number; completeUntilMs: number | null; rows: readonly Row[] }> {
    const { outbox, clock } = this.#parts
    const nowMs = clock.nowMs()
    const span = { fromMs: this.#fromMs(unit, backMs, nowMs), untilMs: nextBucket(unit, bucketOf(unit, nowMs)) }
    const rollups = await this.#parts.rollups()
    // Before: what is counted in between is in the answer, and is not claimed to be.
    const [isNew, { oldestMs }] = await Promise.all([rollups.isNew(), outbox.lag(ROLLUPS)])
    const question = { unit, ...span, by: [], series: true, only: { account, key } }
    const [used, refused] = await Promise.all([rollups.usage({ ...question, latencies: false, top: null }), rollups.refusals(question)])
    // Refusals of keys that are too many are counted under this name.
    const none = key === OTHER ? null : 0
    const rows = new Map<number, Row>()
    const rowAt = (fromMs: number): Row => {
      const row = rows.get(fromMs) ?? { fromMs, requests: 0, inputTokens: 0, outputTokens: 0, totalTokens: 0, costs: new Map(), refused: none }
      rows.set(fromMs, row)
      return row
    }
    for (const { fromMs, counts, costs } of used) {
      Object.assign(rowAt(fromMs ?? span.fromMs), { requests: counts.requests, inputTokens: counts.input_tokens, outputTokens: counts.output_tokens, totalTokens: counts.total_tokens, costs })
    }
    if (none !== null) for (const row of refused) rowAt(row.fromMs ?? span.fromMs).refused = row.refused
    return { ...span, completeUntilMs: isNew ? null : oldestMs ?? nowMs, rows: [...rows.values()].sort((a, b) => a.fromMs - b.fromMs) }
  }

  /** The beginning of a bucket of which everything is still kept. */
  #fromMs(unit: Question['unit'], backMs: number | null, nowMs: number): number {
    const current = bucketOf(unit, nowMs)
    // Of a key's months its days tell.
    const oldestMs = nowMs - (this.#parts.kept()?.[unit === 'month' ? 'day' : unit] ?? 0)
    const oldest = bucketOf(unit, oldestMs)
    return Math.min(current, Math.max(oldest < oldestMs ? nextBucket(unit, oldest) : oldest, backMs === null ? usualFromMs(unit, nowMs) : bucketOf(unit, nowMs - backMs)))
  }
}

function usualFromMs(unit: Question['unit'], nowMs: number): number {
  if (unit !== 'month') return bucketOf(unit, nowMs - (unit === 'hour' ? DAY_MS : 30 * DAY_MS))
  const at = new Date(nowMs)
  return Date.UTC(at.getUTCFullYear(), at.getUTCMonth() - MONTHS + 1)
}
