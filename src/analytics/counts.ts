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

/** Adds up, in place. Plain data, so that it travels between threads. A histogram that has nothing yet is null: most rows are of one event. */
export interface Adding extends Addend {
  readonly sums: number[]
  costNanos: bigint
  latency: Map<number, number> | null
  firstToken: Map<number, number> | null
}

export function nothingAdded(): Adding {
  return { sums: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], costNanos: 0n, latency: null, firstToken: null }
}

export function addSums(to: Adding, { sums, costNanos }: Addend): void {
  for (let i = 0; i < SUMS.length; i++) to.sums[i]! += sums[i]!
  if (costNanos !== 0n) to.costNanos += costNanos
}

export function addAll(to: Adding, other: Adding): void {
  addSums(to, other)
  if (other.latency !== null) addHistogram(to.latency ??= new Map(), other.latency)
  if (other.firstToken !== null) addHistogram(to.firstToken ??= new Map(), other.firstToken)
}

export function raise(histogram: Map<number, number>, slot: number): Map<number, number> {
  return histogram.set(slot, (histogram.get(slot) ?? 0) + 1)
}

export function countsOf({ sums, costNanos, latency, firstToken }: Adding): Counts {
  return {
    ...Object.fromEntries(SUMS.map((name, index) => [name, sums[index]!])) as Record<Sum, number>, cost_nanos: costNanos, latency: latency ?? noHistogram, first_token: firstToken ?? noHistogram,
  }
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
export function histogramText(histogram: Histogram | null): string {
  let text = ''
  if (histogram !== null) for (const [slot, count] of histogram) text += text === '' ? `${slot}:${count}` : `,${slot}:${count}`
  return text
}

export function histogramOf(text: string): Histogram {
  if (text === '') return noHistogram
  const histogram = new Map<number, number>()
  addHistogramText(histogram, text)
  return histogram
}

/** Adds `12:3,40:1`, in which a slot may stand twice; `~` separates as well. Makes nothing in between: an answer may be of a million rows. */
export function addHistogramText(to: Map<number, number>, text: string): void {
  for (let at = 0; at < text.length; at++) {
    let slot = 0
    for (; text.charCodeAt(at) !== 58; at++) slot = slot * 10 + text.charCodeAt(at) - 48
    let count = 0
    for (at++; at < text.length && text.charCodeAt(at) !== 44 && text.charCodeAt(at) !== 126; at++) count = count * 10 + text.charCodeAt(at) - 48
    to.set(slot, (to.get(slot) ?? 0) + count)
  }
}
