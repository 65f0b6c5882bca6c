import { bucketOf, bucketsBetween, nextBucket, segmentsOf, UNITS } from './rollups.ts'
import type { UsageQuestion } from './rollups.ts'

/** So many are asked for first, then so many more, then all that are left: each of them costs as much as the time has buckets. */
const CHUNKS = [40, 200, 1_000]

const FEW_BUCKETS = 4

type Amount = readonly [name: string, amount: number]

/**
 * Which of many have most, without adding up all of them: of each is known what it comes to at most (its longer buckets, in which the time lies), and those that
 * could still be among the best are asked for, the likeliest first. What is added up is never less than nothing.
 */
export class TopSearch {
  readonly #count: number
  #best: readonly Amount[] = []
  #asked = 0
  #chunk = 0
  /** Of those that were not asked for; null: there are none. */
  #most: number | null = Infinity

  constructor(count: number) {
    this.#count = count
  }

  /** Nobody who was not asked for can have more than the best ones have. */
  get isOver(): boolean {
    const last = this.#best[this.#count - 1]
    return this.#most === null || (last !== undefined && last[1] >= this.#most)
  }

  /** How many bounds are to be given to the next step. */
  get wanted(): number {
    return this.#until + 1
  }

  /** Whose sums are to be told. `bounds`: what each comes to at most; so many as are wanted, or all that there are, the largest first. */
  next(bounds: readonly Amount[]): readonly string[] {
    const names = bounds.slice(this.#asked, this.#until).map(([name]) => name)
    this.#most = bounds[this.#until]?.[1] ?? null
    this.#asked = this.#until
    this.#chunk += 1
    return names
  }

  /** Who has nothing may be left out. */
  tell(sums: readonly Amount[]): void {
    this.#best = [...this.#best, ...sums].sort(([, a], [, b]) => b - a).slice(0, this.#count)
  }

  /** The most first. */
  get best(): readonly string[] {
    return this.#best.map(([name]) => name)
  }

  get #until(): number {
    return this.#asked + Math.max(CHUNKS[this.#chunk] ?? Infinity, this.#count)
  }
}

/** What bounds the sums of a question for the accounts that have most: the same of the longer buckets around its time. null: it is no such question, or needs no search. */
export function aroundOf(question: UsageQuestion): UsageQuestion | null {
  const { unit, fromMs, untilMs, by, series, only, top } = question
  const units = UNITS.slice(UNITS.indexOf(unit))
  const wider = units[1]
  if (top === null || by.length !== 1 || by[0] !== 'account' || Object.keys(only).length > 0 || wider === undefined) return null
  const segments = segmentsOf(units, fromMs, untilMs)
  if (!series && segments.every((segment) => segment.unit !== unit)) return null
  // Few buckets are added up themselves: their month would say little of one day. Minutes are not kept by account.
  if (unit !== 'minute' && segments.reduce((sum, each) => sum + bucketsBetween(each.unit, each.fromMs, each.untilMs).length, 0) <= FEW_BUCKETS) return null
  return { ...question, unit: wider, fromMs: bucketOf(wider, fromMs), untilMs: nextBucket(wider, bucketOf(wider, untilMs - 1)), series: false, latencies: false, top: null }
}
