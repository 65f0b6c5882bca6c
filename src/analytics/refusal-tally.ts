import { OTHER, SEPARATOR } from './gathering.ts'
import { name } from './projection.ts'
import { bucketOf } from './rollups.ts'
import type { RefusalCount, RefusalDimensions } from './rollups.ts'

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

/** What a tally has to tell another: what was counted since, and the calls to be looked at among it. */
export interface RefusalReport {
  readonly counts: readonly RefusalCount[]
  readonly samples: readonly RefusedCall[]
}

/** A row costs a write when it is fetched: so many at most, whatever callers make up. */
const ROWS_MAX = 5_000
const SAMPLES_MAX = 1_000
const SAMPLES_OF_ACCOUNT = 100
/** Of an account and second: a flood must not push everybody else's out. */
const SAMPLES_A_SECOND = 5

/** Counts refusals in memory until they are fetched, and keeps the latest ones to be looked at: a flood of them costs no write each. */
export class RefusalTally {
  #rows = new Map<string, { readonly atMs: number; readonly dimensions: RefusalDimensions; refused: number }>()
  /** The oldest first. */
  #samples: RefusedCall[] = []
  #fresh: RefusedCall[] = []
  #second = 0
  readonly #sampled = new Map<string, number>()

  note(call: RefusedCall): void {
    const atMs = bucketOf('minute', call.atMs)
    this.#count(atMs, { account: name(call.account), key: name(call.key), limit: name(call.limit), reason: name(call.reason), model: name(call.model) }, 1)
    if (!this.#mayBeSampled(call)) return
    const shown = call.model === null ? call : { ...call, model: name(call.model) }
    this.#keep(shown)
    if (this.#fresh.length < SAMPLES_MAX) this.#fresh.push(shown)
  }

  /** What another tally has counted. */
  add({ counts, samples }: RefusalReport): void {
    for (const { atMs, dimensions, refused } of counts) this.#count(atMs, dimensions, refused)
    for (const sample of samples) this.#keep(sample)
  }

  /** What came since the last time. */
  take(): RefusalReport {
    const report = { counts: [...this.#rows.values()], samples: this.#fresh }
    this.#rows = new Map()
    this.#fresh = []
    return report
  }

  /** The latest first. */
  samples(only: { readonly account?: string; readonly limit?: string }, count: number): readonly RefusedCall[] {
    return this.#samples.filter(({ account, limit }) => (only.account === undefined || account === only.account) && (only.limit === undefined || limit === only.limit))
      .slice(-count).sort((a, b) => b.atMs - a.atMs)
  }

  #count(atMs: number, dimensions: RefusalDimensions, refused: number): void {
    const { account, key, limit, reason, model } = dimensions
    let text = `${atMs}${SEPARATOR}${account}${SEPARATOR}${key}${SEPARATOR}${limit}${SEPARATOR}${reason}${SEPARATOR}${model}`
    let kept = dimensions
    if (this.#rows.size >= ROWS_MAX && !this.#rows.has(text)) {
      // Whose they are stays told apart for as long as there is any room at all.
      kept = { ...dimensions, key: OTHER, model: OTHER, ...(this.#rows.size >= 2 * ROWS_MAX ? { account: OTHER } : {}) }
      text = `${atMs}${SEPARATOR}${kept.account}${SEPARATOR}${OTHER}${SEPARATOR}${limit}${SEPARATOR}${reason}${SEPARATOR}${OTHER}`
    }
    const row = this.#rows.get(text)
    if (row === undefined) this.#rows.set(text, { atMs, dimensions: kept, refused })
    else row.refused += refused
  }

  #mayBeSampled({ atMs, account }: RefusedCall): boolean {
    const second = Math.floor(atMs / 1_000)
    if (second !== this.#second) {
      this.#second = second
      this.#sampled.clear()
    }
    const sampled = this.#sampled.get(account) ?? 0
    if (sampled >= SAMPLES_A_SECOND) return false
    this.#sampled.set(account, sampled + 1)
    return true
  }

  #keep(call: RefusedCall): void {
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
