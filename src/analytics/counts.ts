/**
 * What is added up. Whole numbers, which stay exact up to 2⁵³; `cost_nanos` is apart, because money may grow larger and has a currency.
 * `latency` and `first_token` are histograms of ms. `events` are exchanges, `records` what was written of them, corrections too; `shadowed`: those that a shadow limit would have refused.
 */
export const SUMS = [
  'events', 'requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens',
  'compute_ms', 'bytes_in', 'bytes_out', 'audio_ms', 'images', 'records', 'shadowed',
] as const
export type Sum = (typeof SUMS)[number]

export interface Counts extends Readonly<Record<Sum, number>> {
  readonly cost_nanos: bigint
  readonly latency: Histogram
  readonly first_token: Histogram
}

/** Slot → how many. */
export type Histogram = ReadonlyMap<number, number>

export const noHistogram: Histogram = new Map()

/** What is added to an `Adding`: another one, or one event. */
export interface Addend {
  readonly sums: ArrayLike<number>
  readonly costNanos: bigint
}

/** Adds up, in place. Plain data, so that it travels between threads. */
export interface Adding extends Addend {
  readonly sums: Float64Array
  costNanos: bigint
  readonly latency: Map<number, number>
  readonly firstToken: Map<number, number>
}

export function nothingAdded(): Adding {
  return { sums: new Float64Array(SUMS.length), costNanos: 0n, latency: new Map(), firstToken: new Map() }
}

export function addSums(to: Adding, { sums, costNanos }: Addend): void {
  for (let i = 0; i < SUMS.length; i++) to.sums[i]! += sums[i]!
  if (costNanos !== 0n) to.costNanos += costNanos
}

export function addAll(to: Adding, other: Adding): void {
  addSums(to, other)
  addHistogram(to.latency, other.latency)
  addHistogram(to.firstToken, other.firstToken)
}

export function countsOf({ sums, costNanos, latency, firstToken }: Adding): Counts {
  return { ...Object.fromEntries(SUMS.map((name, index) => [name, sums[index]!])) as Record<Sum, number>, cost_nanos: costNanos, latency, first_token: firstToken }
}

export function addHistogram(to: Map<number, number>, other: Histogram): void {
  for (const [slot, count] of other) to.set(slot, (to.get(slot) ?? 0) + count)
}

/** Eight slots for each doubling: what is read from it is at most 5 % off. */
const SLOTS_PER_OCTAVE = 8
const SLOT_MAX = 25 * SLOTS_PER_OCTAVE

/** Of a duration in ms; slot 0 is below 1 ms, the last one is beyond nine hours. */
export function slotOf(ms: number): number {
  return ms < 1 ? 0 : Math.min(SLOT_MAX, 1 + Math.floor(Math.log2(ms) * SLOTS_PER_OCTAVE))
}

/** The middle of a slot, ms. */
function msOf(slot: number): number {
  return slot === 0 ? 0 : 2 ** ((slot - 0.5) / SLOTS_PER_OCTAVE)
}

/** The duration in ms, rounded, that `share` (0 to 1) of all do not exceed; null: there were none. */
export function percentile(histogram: Histogram, share: number): number | null {
  const slots = [...histogram].filter(([, count]) => count > 0).sort(([a], [b]) => a - b)
  const all = slots.reduce((sum, [, count]) => sum + count, 0)
  let left = Math.ceil(all * share)
  for (const [slot, count] of slots) {
    left -= count
    if (left <= 0) return Math.round(msOf(slot))
  }
  return null
}

/** `12:3,40:1`. */
export function histogramText(histogram: Histogram): string {
  let text = ''
  for (const [slot, count] of histogram) text += text === '' ? `${slot}:${count}` : `,${slot}:${count}`
  return text
}

export function histogramOf(text: string): Histogram {
  if (text === '') return noHistogram
  return new Map(text.split(',').map((pair) => {
    const [slot, count] = pair.split(':')
    return [Number(slot), Number(count)]
  }))
}
