import type { Line } from './chart.ts'
import type { UsageAnswer, UsageRow } from './shapes.ts'

export const MEASURES = [
  { value: 'total_tokens', words: 'Tokens' }, { value: 'requests', words: 'Requests' }, { value: 'cost', words: 'Cost' },
] as const
export type Measure = (typeof MEASURES)[number]['value']

export const RANGES = [
  { value: '1h', words: '1 h', ms: 3_600_000, unit: 'minute' }, { value: '24h', words: '24 h', ms: 86_400_000, unit: 'hour' },
  { value: '7d', words: '7 d', ms: 7 * 86_400_000, unit: 'hour' }, { value: '30d', words: '30 d', ms: 30 * 86_400_000, unit: 'day' }, { value: '365d', words: '1 y', ms: 365 * 86_400_000, unit: 'day' },
] as const

const stepsMs: Readonly<Record<string, number>> = { minute: 60_000, hour: 3_600_000, day: 86_400_000 }
const LINES_MAX = 7
const REST = 'others'

export function measured(row: UsageRow, measure: Measure, currency: string): number {
  return measure === 'cost' ? Number(row.cost[currency] ?? 0) : row[measure]
}

export interface Series {
  readonly times: readonly number[]
  readonly stepMs: number
  readonly lines: readonly Line[]
}

/** Rows of buckets as lines: the largest few by name, everything else as one; buckets without rows are zero. Costs are those in one currency. */
export function seriesOf(answer: UsageAnswer, by: 'account' | 'model' | 'key', measure: Measure, nameless: string, currency = ''): Series {
  const stepMs = stepsMs[answer.unit] ?? 86_400_000
  const from = Math.floor(Date.parse(answer.from) / stepMs) * stepMs
  const times: number[] = []
  for (let ms = from; ms < Date.parse(answer.to); ms += stepMs) times.push(ms)
  const totals = new Map<string, number>()
  for (const row of answer.rows) totals.set(row[by] ?? '', (totals.get(row[by] ?? '') ?? 0) + measured(row, measure, currency))
  const named = [...totals].filter(([, total]) => total > 0).sort((a, b) => b[1] - a[1]).map(([name]) => name)
  const shown = named.length > LINES_MAX + 1 ? named.slice(0, LINES_MAX) : named
  const lines = new Map([...shown, ...(shown.length < named.length ? [REST] : [])].map((name) => [name, times.map(() => 0)]))
  for (const row of answer.rows) {
    const values = lines.get(row[by] ?? '') ?? lines.get(REST)
    const index = row.from === undefined ? -1 : (Math.floor(Date.parse(row.from) / stepMs) * stepMs - from) / stepMs
    if (values?.[index] !== undefined) values[index] += measured(row, measure, currency)
  }
  return { times, stepMs, lines: [...lines].map(([name, values]) => ({ name: name === '' ? nameless : name, values })) }
}
