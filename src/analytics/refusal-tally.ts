import { bucketOf } from './rollups.ts'
import type { RefusalCount, RefusalDimensions } from './rollups.ts'
import { name } from './projection.ts'

/** A call that was refused, as people are shown it. */
export interface RefusedCall {
  readonly id: string
  readonly atMs: number
  readonly account: string
  readonly key: string
  /** null: no limit refused it. */
  readonly limit: string | null
  readonly reason: string
  readonly model: string | null
  readonly ceiling: number | null
  readonly used: number | null
  readonly remaining: number | null
  readonly resetsAt: string | null
}

const ROWS_MAX = 5_000
const SAMPLES_MAX = 1_000
const SAMPLES_OF_ACCOUNT = 100
/** Of an account and second: a flood must not push everybody else's out. */
const SAMPLES_A_SECOND = 5
const OTHER = 'other'

/** Counts refusals in memory until they are fetched, and keeps the latest ones to be looked at: a flood of them costs no write each. */
export class RefusalTally {
  #rows = new Map<string, { readonly atMs: number; readonly dimensions: RefusalDimensions; refused: number }>()
  /** The oldest first. */
  #samples: RefusedCall[] = []
  #second = 0
  readonly #sampled = new Map<string, number>()

  note(call: RefusedCall): void {
    const dimensions = { account: name(call.account), key: name(call.key), limit: name(call.limit), reason: name(call.reason), model: name(call.model) }
    const atMs = bucketOf('minute', call.atMs)
    this.#count(atMs, this.#rows.size < ROWS_MAX ? dimensions : { ...dimensions, key: OTHER, model: OTHER })
    this.#sample(call)
  }

  /** What was counted since the last time. */
  take(): readonly RefusalCount[] {
    const rows = [...this.#rows.values()]
    this.#rows = new Map()
    return rows
  }

  /** The latest first. */
  samples(only: { readonly account?: string; readonly limit?: string }, count: number): readonly RefusedCall[] {
    return this.#samples.filter(({ account, limit }) => (only.account === undefined || account === only.account) && (only.limit === undefined || limit === only.limit)).slice(-count).reverse()
  }

  #count(atMs: number, dimensions: RefusalDimensions): void {
    const text = `${atMs}\u001f${Object.values(dimensions).join('\u001f')}`
    const row = this.#rows.get(text)
    if (row === undefined) this.#rows.set(text, { atMs, dimensions, refused: 1 })
    else row.refused += 1
  }

  #sample(call: RefusedCall): void {
    const second = Math.floor(call.atMs / 1_000)
    if (second !== this.#second) {
      this.#second = second
      this.#sampled.clear()
    }
    const sampled = this.#sampled.get(call.account) ?? 0
    if (sampled >= SAMPLES_A_SECOND) return
    this.#sampled.set(call.account, sampled + 1)
    this.#samples.push(call)
    if (this.#samples.length < SAMPLES_MAX * 2) return
    // Half of them go at once, the most of whoever has most.
    const kept: RefusedCall[] = []
    const of = new Map<string, number>()
    for (const each of this.#samples.reverse()) {
      const already = of.get(each.account) ?? 0
      if (already >= SAMPLES_OF_ACCOUNT || kept.length >= SAMPLES_MAX) continue
      of.set(each.account, already + 1)
      kept.push(each)
    }
    this.#samples = kept.reverse()
  }
}
