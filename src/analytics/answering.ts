import { addHistogramText, addSums, countsOf, nothingAdded } from './counts.ts'
import type { Addend, Adding } from './counts.ts'
import { SEPARATOR } from './gathering.ts'
import { bucketOf, ROWS_MAX } from './rollups.ts'
import type { RefusalQuestion, RefusalRow, UsageQuestion, UsageRow } from './rollups.ts'

/** Adds up rows that are read one by one into the answer to a question. */
export class Answering {
  readonly #question: UsageQuestion
  readonly #groups = new Map<string, { readonly fromMs: number | null; readonly names: readonly string[]; readonly adding: Adding; readonly costs: Map<string, bigint> }>()

  constructor(question: UsageQuestion) {
    this.#question = question
  }

  /** `names`: in the order of the question's `by`. Histograms are texts, or empty. */
  add(bucket: number, names: readonly string[], currency: string, value: Addend & { readonly latency: string; readonly firstToken: string }): void {
    const { series, unit } = this.#question
    const fromMs = series ? bucketOf(unit, bucket) : null
    const text = `${fromMs}${SEPARATOR}${names.join(SEPARATOR)}`
    let group = this.#groups.get(text)
    if (group === undefined) this.#groups.set(text, group = { fromMs, names, adding: nothingAdded(), costs: new Map() })
    const { adding, costs } = group
    addSums(adding, value)
    if (value.latency !== '') addHistogramText(adding.latency ??= new Map(), value.latency)
    if (value.firstToken !== '') addHistogramText(adding.firstToken ??= new Map(), value.firstToken)
    if (currency !== '') costs.set(currency, (costs.get(currency) ?? 0n) + value.costNanos)
  }

  rows(): readonly UsageRow[] {
    const { by, top } = this.#question
    let rows: UsageRow[] = [...this.#groups.values()].map(({ fromMs, names, adding, costs }) => (
      { fromMs, by: Object.fromEntries(by.map((dimension, index) => [dimension, names[index] ?? ''])), counts: countsOf(adding), costs }))
    if (top !== null && by.length > 0) {
      const groupOf = (row: UsageRow): string => by.map((dimension) => row.by[dimension] ?? '').join(SEPARATOR)
      const sums = new Map<string, number>()
      for (const row of rows) sums.set(groupOf(row), (sums.get(groupOf(row)) ?? 0) + Number(row.counts[top.of]))
      const most = new Set([...sums].sort(([, a], [, b]) => b - a).slice(0, top.count).map(([group]) => group))
      rows = rows.filter((row) => most.has(groupOf(row)))
    }
    return inOrder(rows, top?.of ?? 'requests')
  }
}

/** The same for refusals. */
export class RefusalAnswering {
  readonly #question: RefusalQuestion
  readonly #groups = new Map<string, { fromMs: number | null; names: readonly string[]; refused: number }>()

  constructor(question: RefusalQuestion) {
    this.#question = question
  }

  add(bucket: number, names: readonly string[], refused: number): void {
    const { series, unit } = this.#question
    const fromMs = series ? bucketOf(unit, bucket) : null
    const text = `${fromMs}${SEPARATOR}${names.join(SEPARATOR)}`
    const group = this.#groups.get(text)
    if (group === undefined) this.#groups.set(text, { fromMs, names, refused })
    else group.refused += refused
  }

  rows(): readonly RefusalRow[] {
    const { by } = this.#question
    return [...this.#groups.values()].map(({ fromMs, names, refused }) => ({ fromMs, by: Object.fromEntries(by.map((dimension, index) => [dimension, names[index] ?? ''])), refused }))
      .sort((a, b) => (a.fromMs ?? 0) - (b.fromMs ?? 0) || b.refused - a.refused).slice(0, ROWS_MAX)
  }
}

/** In the order of time, then by how much there is of what was asked for. */
export function inOrder(rows: readonly UsageRow[], of: NonNullable<UsageQuestion['top']>['of']): UsageRow[] {
  return rows.toSorted((a, b) => (a.fromMs ?? 0) - (b.fromMs ?? 0) || Number(b.counts[of]) - Number(a.counts[of])).slice(0, ROWS_MAX)
}
