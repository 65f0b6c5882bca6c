import type { UsageEvent } from '../metering/event.ts'
import type { EventHistory } from '../archive/history.ts'
import { Problem } from './problem.ts'

/** What usage may be grouped by: fields of the events. */
export const groupings = ['account', 'key', 'plan', 'model', 'model_served', 'endpoint', 'provider', 'upstream', 'end', 'usage_source', 'status'] as const
export type Grouping = (typeof groupings)[number]
export const bucketSizes = ['hour', 'day', 'month'] as const
export type BucketSize = (typeof bucketSizes)[number]

export const summed = [
  'requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens',
  'compute_ms', 'bytes_in', 'bytes_out', 'audio_seconds', 'images',
] as const

export interface UsageQuestion {
  /** Admitted at or after, ms since 1970. */
  readonly fromMs: number
  /** Admitted before. */
  readonly toMs: number
  readonly by: readonly Grouping[]
  /** null: the whole time is one bucket. Buckets are of UTC. */
  readonly bucket: BucketSize | null
  readonly account: string | null
}

type Sums = { [name in (typeof summed)[number]]: number } & { events: number }

/** A row holds the grouping's values, the sums, the money by currency as decimal text, and how often which shadow limit would have refused. */
export type UsageRow = Readonly<Record<string, unknown>>

const rowsMax = 10_000

/**
 * Sums usage events. Time is the instant of admission, as everywhere: an event belongs to the window that admitted it, whenever it was
 * settled. Reads events piece by piece, so memory is bounded by the number of rows.
 */
export async function reportUsage(history: Pick<EventHistory, 'read'>, question: UsageQuestion): Promise<{ rows: UsageRow[]; events: number }> {
  const groups = new Map<string, { key: Record<string, unknown>; sums: Sums; costNanos: Map<string, bigint>; shadow: Map<string, number> }>()
  let events = 0
  // Nothing is settled before it was admitted, so no record older than `fromMs` can matter.
  for await (const event of history.read(question.fromMs)) {
    const admittedMs = Date.parse(event.time)
    if (admittedMs < question.fromMs || admittedMs >= question.toMs) continue
    if (question.account !== null && event.data['account'] !== question.account) continue
    events += 1
    const key = groupOf(event, admittedMs, question)
    const name = JSON.stringify(Object.values(key))
    let group = groups.get(name)
    if (group === undefined) {
      if (groups.size === rowsMax) throw new Problem(422, `the answer would have more than ${rowsMax} rows; ask for a shorter time or group by less`)
      group = { key, sums: noSums(), costNanos: new Map(), shadow: new Map() }
      groups.set(name, group)
    }
    addTo(group.sums, group.costNanos, event)
    addShadow(group.shadow, event.data['shadow'])
  }
  const rows = [...groups.values()].map(({ key, sums, costNanos, shadow }) => ({
    ...key, ...sums, cost: Object.fromEntries([...costNanos].map(([currency, nanos]) => [currency, toDecimal(nanos)])),
    shadow: Object.fromEntries(shadow),
  }))
  return { rows, events }
}

function groupOf(event: UsageEvent, admittedMs: number, { by, bucket }: UsageQuestion): Record<string, unknown> {
  const key: Record<string, unknown> = {}
  if (bucket !== null) key['from'] = bucketStart(admittedMs, bucket)
  for (const name of by) key[name] = event.data[name] ?? null
  return key
}

/** Where the bucket begins in which an instant lies, as rows tell it. */
export function bucketStart(ms: number, bucket: BucketSize): string {
  const text = new Date(ms).toISOString()
  if (bucket === 'hour') return `${text.slice(0, 13)}:00:00Z`
  return bucket === 'day' ? `${text.slice(0, 10)}T00:00:00Z` : `${text.slice(0, 7)}-01T00:00:00Z`
}

function noSums(): Sums {
  return {
    events: 0, requests: 0, input_tokens: 0, cached_input_tokens: 0, cache_write_tokens: 0, output_tokens: 0, reasoning_tokens: 0, total_tokens: 0,
    compute_ms: 0, bytes_in: 0, bytes_out: 0, audio_seconds: 0, images: 0,
  }
}

function addTo(sums: Sums, costNanos: Map<string, bigint>, event: UsageEvent): void {
  sums.events += 1
  for (const name of summed) {
    const value = event.data[name]
    if (typeof value === 'number') sums[name] += value
  }
  const { cost, currency } = event.data
  if (typeof cost === 'string' && typeof currency === 'string') costNanos.set(currency, (costNanos.get(currency) ?? 0n) + toNanos(cost))
}

function addShadow(counts: Map<string, number>, limits: unknown): void {
  if (!Array.isArray(limits)) return
  for (const limit of limits as readonly unknown[]) if (typeof limit === 'string') counts.set(limit, (counts.get(limit) ?? 0) + 1)
}

function toNanos(decimal: string): bigint {
  const match = /^(-?)(\d+)(?:\.(\d{1,9}))?$/.exec(decimal)
  const [, sign = '', whole = '0', fraction = ''] = match ?? []
  const nanos = BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'))
  return sign === '-' ? -nanos : nanos
}

function toDecimal(nanos: bigint): string {
  const positive = nanos < 0n ? -nanos : nanos
  return `${nanos < 0n ? '-' : ''}${positive / 1_000_000_000n}.${String(positive % 1_000_000_000n).padStart(9, '0')}`
}
