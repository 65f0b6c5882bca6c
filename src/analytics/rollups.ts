import { unreachable } from '../assert.ts'
import type { Position } from '../stores/store.ts'
import type { Counts, Sum } from './counts.ts'

/** Buckets, in UTC. */
export const UNITS = ['minute', 'hour', 'day', 'month'] as const
export type Unit = (typeof UNITS)[number]

/** What use is told apart by. `status` is the answer's, as text; a model that is one too many is `other`. */
export const DIMENSIONS = ['account', 'key', 'plan', 'model', 'endpoint', 'upstream', 'end', 'status'] as const
export type Dimension = (typeof DIMENSIONS)[number]
export type Dimensions = Readonly<Record<Dimension, string>>

/** What is remembered of calls that were refused. */
export const REFUSAL_DIMENSIONS = ['account', 'key', 'limit', 'reason', 'model'] as const
export type RefusalDimension = (typeof REFUSAL_DIMENSIONS)[number]
export type RefusalDimensions = Readonly<Record<RefusalDimension, string>>

/** What one event adds to the bucket of its admission. */
export interface Increment {
  readonly atMs: number
  readonly dimensions: Dimensions
  /** '' where nothing was priced. */
  readonly currency: string
  /** In the order of SUMS. */
  readonly sums: readonly number[]
  readonly costNanos: bigint
  /** Of the histograms; null: it was not measured. */
  readonly latencySlot: number | null
  readonly firstTokenSlot: number | null
}

export interface Counted {
  /** The event's. */
  readonly id: string
  /** Where it lies in the outbox. */
  readonly position: Position
  readonly increment: Increment
}

export interface RefusalCount {
  readonly atMs: number
  readonly dimensions: RefusalDimensions
  readonly refused: number
}

/** How long buckets of each unit are kept, ms. */
export type Kept = Readonly<Record<Unit, number>>

export interface UsageQuestion {
  readonly unit: Unit
  /** Buckets that begin at or after. */
  readonly fromMs: number
  /** And before. */
  readonly untilMs: number
  readonly by: readonly Dimension[]
  /** A row for every bucket, instead of one for the whole time. */
  readonly series: boolean
  /** Values that the rows must have. */
  readonly only: Partial<Dimensions>
  /** Latency and time to first token as well: they cost more to read. */
  readonly latencies: boolean
  /** Only the rows that have most; null: all, up to ROWS_MAX. */
  readonly top: { readonly of: Sum | 'cost_nanos'; readonly count: number } | null
}

/** Rows of one answer at most. */
export const ROWS_MAX = 50_000

export interface UsageRow {
  /** The bucket's; null: of the whole time. */
  readonly fromMs: number | null
  readonly by: Partial<Dimensions>
  readonly counts: Counts
  /** By currency, in 10⁻⁹. */
  readonly costs: ReadonlyMap<string, bigint>
}

export interface RefusalQuestion {
  readonly unit: Unit
  readonly fromMs: number
  readonly untilMs: number
  readonly by: readonly RefusalDimension[]
  readonly series: boolean
  readonly only: Partial<RefusalDimensions>
}

export interface RefusalRow {
  readonly fromMs: number | null
  readonly by: Partial<RefusalDimensions>
  readonly refused: number
}

/** Usage by minute, hour and day: a projection of the events, which can be made again from them. Rejects with StoreUnavailable. */
export interface Rollups {
  /**
   * Adds what the entries come to and in the same step remembers that they are counted, all of them or those of some partitions. What comes again, in the order
   * of the outbox, adds nothing: what was counted is done in the outbox before more is counted. `generation`: as it was before the entries were read, while the lease
   * was held; when they were reset since, nothing is added to what is counted now, and where that is known it rejects with StaleFence.
   */
  count(batch: readonly Counted[], generation: string): Promise<void>
  /** Another one after each `reset`. */
  generation(): Promise<string>
  /** Events that have no position any more, such as an archive's. Counted as often as they are given, and only between a `reset` and `complete`. */
  countArchived(batch: readonly Increment[]): Promise<void>
  /** Each given once. */
  countRefusals(batch: readonly RefusalCount[]): Promise<void>
  usage(question: UsageQuestion): Promise<readonly UsageRow[]>
  refusals(question: RefusalQuestion): Promise<readonly RefusalRow[]>
  /** Since when buckets of each unit are whole, as far as it is not how long they are kept that says so: they were kept shorter once. ms since 1970. */
  wholeSince(): Promise<Readonly<Record<Unit, number>>>
  /** They were never made, are being made, or their making was cut short. */
  isNew(): Promise<boolean>
  /** Forgets usage, to be counted anew; refusals stay. They are new until they are `complete`. */
  reset(): Promise<void>
  /** What the store no longer has is counted. */
  complete(): Promise<void>
  /** Removes buckets that are older than they are kept. */
  prune(nowMs: number, kept: Kept): Promise<void>
  close(): Promise<void>
}

/** Where the bucket begins in which an instant lies. */
export function bucketOf(unit: Unit, atMs: number): number {
  switch (unit) {
    case 'minute': return Math.floor(atMs / 60_000) * 60_000
    case 'hour': return Math.floor(atMs / 3_600_000) * 3_600_000
    case 'day': return Math.floor(atMs / 86_400_000) * 86_400_000
    case 'month': {
      const at = new Date(atMs)
      return Date.UTC(at.getUTCFullYear(), at.getUTCMonth())
    }
    default: return unreachable(unit)
  }
}

/** Refusals by the month are added up from days. */
export const REFUSAL_UNITS = ['minute', 'hour', 'day'] as const satisfies readonly Unit[]

/** Where the bucket after one begins. */
export function nextBucket(unit: Unit, bucket: number): number {
  switch (unit) {
    case 'minute': return bucket + 60_000
    case 'hour': return bucket + 3_600_000
    case 'day': return bucket + 86_400_000
    case 'month': {
      const at = new Date(bucket)
      return Date.UTC(at.getUTCFullYear(), at.getUTCMonth() + 1)
    }
    default: return unreachable(unit)
  }
}

/** The beginnings of all buckets from an instant on and before another. */
export function bucketsBetween(unit: Unit, fromMs: number, untilMs: number): number[] {
  const buckets: number[] = []
  const first = bucketOf(unit, fromMs)
  for (let bucket = first < fromMs ? nextBucket(unit, first) : first; bucket < untilMs && buckets.length < BUCKETS_MAX; bucket = nextBucket(unit, bucket)) buckets.push(bucket)
  return buckets
}

/** More than a year of minutes. */
const BUCKETS_MAX = 600_000

export interface Segment {
  readonly unit: Unit
  readonly fromMs: number
  readonly untilMs: number
}

/** A time in parts, each in whole buckets of the longest of these units (the shortest first) that fits. Both ends must lie on the shortest one's boundaries. */
export function segmentsOf(units: readonly Unit[], fromMs: number, untilMs: number): readonly Segment[] {
  const segments: { unit: Unit; fromMs: number; untilMs: number }[] = []
  for (let atMs = fromMs; atMs < untilMs;) {
    const unit = units.findLast((each) => bucketOf(each, atMs) === atMs && nextBucket(each, atMs) <= untilMs) ?? units[0]!
    const endMs = nextBucket(unit, bucketOf(unit, atMs))
    const last = segments.at(-1)
    if (last?.unit === unit) last.untilMs = endMs
    else segments.push({ unit, fromMs: atMs, untilMs: endMs })
    atMs = endMs
  }
  return segments
}
