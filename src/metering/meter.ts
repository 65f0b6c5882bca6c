/**
 * Meters: what can be counted. Every quantity inside Tallygate is an integer in the meter's own small unit;
 * `scale` says how many of those make one unit that people write and read.
 */
export const METERS = {
  requests: { scale: 1, unit: 'requests' },
  input_tokens: { scale: 1, unit: 'tokens' },
  cached_input_tokens: { scale: 1, unit: 'tokens' },
  cache_write_tokens: { scale: 1, unit: 'tokens' },
  output_tokens: { scale: 1, unit: 'tokens' },
  reasoning_tokens: { scale: 1, unit: 'tokens' },
  total_tokens: { scale: 1, unit: 'tokens' },
  /** Upstream wall time, counted in milliseconds. */
  compute_seconds: { scale: 1_000, unit: 'seconds' },
  bytes_in: { scale: 1, unit: 'content-bytes' },
  bytes_out: { scale: 1, unit: 'content-bytes' },
  /** Counted in milliseconds. */
  audio_seconds: { scale: 1_000, unit: 'seconds' },
  images: { scale: 1, unit: 'images' },
  /** Counted in nanos: billionths of the currency unit. */
  cost: { scale: 1_000_000_000, unit: 'currency' },
  concurrency: { scale: 1, unit: 'concurrent-requests' },
  /** Holders (keys or end users) at once, see limits/concurrency.ts. */
  seats: { scale: 1, unit: 'concurrent-requests' },
} as const

export type BuiltinMeter = keyof typeof METERS

/** Quantities by meter, integers in small units. Absent is not zero: an absent one was not measured. */
export type Quantities = { [M in BuiltinMeter]?: number }

/** A meter of the operator's own: Σ coefficient × builtin, e.g. `input_tokens + 4 * output_tokens`. Coefficients are integers ≥ 0, already times `scale`. */
export interface WeightedMeter {
  readonly name: string
  readonly terms: readonly { readonly meter: BuiltinMeter; readonly coefficient: number }[]
  readonly scale: number
}

/** What a limit counts. */
export type Meter = { readonly kind: 'builtin'; readonly name: BuiltinMeter; /** Of `cost`, in a currency that is counted with fewer digits. */ readonly scale?: number } | { readonly kind: 'weighted'; readonly weighted: WeightedMeter }

export function meterName(meter: Meter): string {
  return meter.kind === 'builtin' ? meter.name : meter.weighted.name
}

/** Small units in one unit that people see. */
export function meterScale(meter: Meter): number {
  return meter.kind === 'builtin' ? meter.scale ?? METERS[meter.name].scale : meter.weighted.scale
}

/** In how many digits after the point this meter's money is counted. */
export function moneyDigits(meter: Meter): number {
  return String(meterScale(meter)).length - 1
}

/** The IETF quota unit (`qu`) that people see. */
export function meterUnit(meter: Meter): string {
  return meter.kind === 'builtin' ? METERS[meter.name].unit : meter.weighted.name
}

/** The amount of `meter` in `quantities`; what was not measured counts as nothing. */
export function amountOf(meter: Meter, quantities: Quantities): number {
  if (meter.kind === 'builtin') return quantities[meter.name] ?? 0
  let sum = 0
  for (const term of meter.weighted.terms) sum += term.coefficient * (quantities[term.meter] ?? 0)
  return sum
}
