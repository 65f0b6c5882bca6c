import type { Analytics } from '../analytics/analytics.ts'
import { sourceOf } from '../analytics/gathering.ts'
import { UNSEEN } from '../analytics/projection.ts'
import { bucketOf, DIMENSIONS, nextBucket, ROWS_MAX, UNITS } from '../analytics/rollups.ts'
import type { Dimension, Unit, UsageRow as RolledRow } from '../analytics/rollups.ts'
import type { Clock } from '../clock.ts'
import { StoreUnavailable } from '../stores/store.ts'
import { decimalOfNanos } from '../metering/price.ts'
import { bucketStart, summed } from './usage-report.ts'
import type { UsageQuestion, UsageRow } from './usage-report.ts'

export interface RolledParts {
  readonly analytics: Analytics
  readonly clock: Clock
}

/** As long as the roll-ups may be behind, and a little. */
const PATIENCE_MS = 2_500
const LOOK_MS = 50
/** A name that is so long may have been cut, and this one may stand for several. */
const CUT = 128
const OTHER = 'other'

interface Segment {
  readonly unit: Unit
  readonly fromMs: number
  readonly untilMs: number
}

/**
 * The same answer as `reportUsage`, out of the roll-ups; null where they cannot give it: for fields that they do not have, times within a minute or no longer kept, names that
 * were put together, shadow limits, and while they are not whole.
 */
export async function rolledUsage({ analytics, clock }: RolledParts, question: UsageQuestion): Promise<{ rows: UsageRow[]; events: number } | null> {
  const by = question.by.filter((name): name is Dimension => (DIMENSIONS as readonly string[]).includes(name))
  if (analytics.kept === null || by.length < question.by.length) return null
  const nowMs = clock.nowMs()
  const only = question.account === null ? {} : { account: question.account }
  const named = [...by, ...Object.keys(only) as Dimension[]]
  const segments = segmentsOf(question, await wholeUnits(analytics, named), nowMs)
  if (segments === null || !await isCurrent(analytics, clock, nowMs)) return null
  const groups = new Map<string, Group>()
  for (const segment of segments) {
    const rows = await analytics.usage({ ...segment, by, series: question.bucket !== null, only, latencies: false, top: null })
    if (rows.length >= ROWS_MAX) return null
    for (const row of rows) {
      const isVague = Object.values(row.by).some((name) => name.length >= CUT || name.includes(UNSEEN)) || row.by.model === OTHER || row.counts.shadowed > 0
      if (isVague) return null
      addTo(groups, row, question, by)
    }
  }
  const found = [...groups.values()].filter(({ records }) => records > 0)
  return {
    events: found.reduce((sum, { records }) => sum + records, 0),
    rows: found.map(({ key, sums, records, cost }) => ({
      ...key, events: records, ...Object.fromEntries(summed.map((name, index) => [name, name === 'audio_seconds' ? sums[index]! / 1_000 : sums[index]!])),
      cost: Object.fromEntries([...cost].map(([currency, nanos]) => [currency, decimalOfNanos(nanos)])), shadow: {},
    })),
  }
}

interface Group {
  readonly key: Readonly<Record<string, unknown>>
  /** In the order of `summed`. */
  readonly sums: number[]
  records: number
  readonly cost: Map<string, bigint>
}

function addTo(groups: Map<string, Group>, { fromMs, by: names, counts, costs }: RolledRow, { bucket }: UsageQuestion, by: readonly Dimension[]): void {
  const key: Record<string, unknown> = {}
  if (bucket !== null && fromMs !== null) key['from'] = bucketStart(fromMs, bucket)
  for (const dimension of by) key[dimension] = valueOf(dimension, names[dimension] ?? '')
  const text = JSON.stringify(Object.values(key))
  let group = groups.get(text)
  if (group === undefined) groups.set(text, group = { key, sums: summed.map(() => 0), records: 0, cost: new Map() })
  for (const [index, name] of summed.entries()) group.sums[index]! += counts[name === 'audio_seconds' ? 'audio_ms' : name]
  group.records += counts.records
  for (const [currency, nanos] of costs) group.cost.set(currency, (group.cost.get(currency) ?? 0n) + nanos)
}

/** As events have it. */
function valueOf(dimension: Dimension, text: string): string | number | null {
  if (text === '') return null
  return dimension === 'status' ? Number(text) : text
}

/** Since when what is read of each unit is whole; null while that cannot be had. What months of keys come to is read from their days. */
async function wholeUnits(analytics: Analytics, named: readonly Dimension[]): Promise<Readonly<Record<Unit, number>> | null> {
  try {
    const since = await analytics.wholeSince()
    return Object.fromEntries(UNITS.map((unit) => [unit, since[sourceOf(unit, named).unit]])) as Record<Unit, number>
  } catch (error) {
    if (error instanceof StoreUnavailable) return null
    throw error
  }
}

/** From minutes to whole hours, days and months, and back; null: not from minute to minute, or of a time of which so much is not kept. */
function segmentsOf({ fromMs, toMs, bucket }: UsageQuestion, wholeSince: Readonly<Record<Unit, number>> | null, nowMs: number): Segment[] | null {
  if (wholeSince === null) return null
  // Nothing is admitted in the future: up to now is up to the end of whatever lasts now.
  const isOpen = toMs >= nowMs
  if (bucketOf('minute', fromMs) !== fromMs || (!isOpen && bucketOf('minute', toMs) !== toMs)) return null
  const units = UNITS.slice(0, bucket === null ? undefined : UNITS.indexOf(bucket) + 1).toReversed()
  const segments: { unit: Unit; fromMs: number; untilMs: number }[] = []
  for (let atMs = fromMs; atMs < toMs;) {
    const unit = units.find((each) => bucketOf(each, atMs) === atMs && (isOpen || nextBucket(each, atMs) <= toMs))
    if (unit === undefined || atMs < wholeSince[unit]) return null
    const untilMs = nextBucket(unit, atMs)
    const last = segments.at(-1)
    if (last?.unit === unit) last.untilMs = untilMs
    else segments.push({ unit, fromMs: atMs, untilMs })
    atMs = untilMs
  }
  return segments
}

/** What was settled until now is counted, or soon will be. */
async function isCurrent(analytics: Analytics, clock: Clock, nowMs: number): Promise<boolean> {
  const giveUpMs = clock.monotonicMs() + PATIENCE_MS
  try {
    for (;;) {
      const { failure, rebuild, missed, completeUntilMs } = await analytics.status()
      if (failure !== null || rebuild !== null || missed > 0 || completeUntilMs === null) return false
      if (completeUntilMs >= nowMs) return true
      if (clock.monotonicMs() >= giveUpMs) return false
      await clock.sleep(LOOK_MS)
    }
  } catch (error) {
    // Then the events tell, or tell the same.
    if (error instanceof StoreUnavailable) return false
    throw error
  }
}
