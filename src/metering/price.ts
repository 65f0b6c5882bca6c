import type { ModelRates, PriceCard } from '../config/config.ts'
import { longestMatch } from './glob.ts'
import type { BuiltinMeter, Quantities } from './meter.ts'

/** Prices are integers: picos (10⁻¹² of the currency) per small unit. Money is nanos (10⁻⁹), rounded up once per event. */

/** Priced as they are; tokens are not here, because some are parts of others. */
const plainMeters: readonly BuiltinMeter[] = ['requests', 'total_tokens', 'compute_seconds', 'bytes_in', 'bytes_out', 'audio_seconds', 'images']

/** The rates that hold for a model: by its name, else by the longest glob. A call without a model has those of `*`. */
export function ratesFor(card: PriceCard | null, model: string | null): ModelRates | null {
  if (card === null) return null
  const globs: string[] = []
  for (const rates of card.rates) globs.push(...rates.models)
  const best = longestMatch(globs, model ?? '*')
  if (best === null) return null
  return card.rates.find((rates) => rates.models.includes(best)) ?? null
}

/**
 * What `usage` costs, in nanos. Cached tokens and cache writes are parts of the input, reasoning is part of the output: each part has its own
 * rate where the card gives one, else that of the whole.
 */
export function costNanos(usage: Quantities, rates: ModelRates): number {
  const prices = rates.picosPer
  const input = usage.input_tokens ?? 0
  const cached = Math.min(usage.cached_input_tokens ?? 0, input)
  const written = Math.min(usage.cache_write_tokens ?? 0, input - cached)
  const output = usage.output_tokens ?? 0
  const reasoning = Math.min(usage.reasoning_tokens ?? 0, output)
  const inputPrice = prices['input_tokens'] ?? 0
  const outputPrice = prices['output_tokens'] ?? 0
  const factors = [
    input - cached - written, inputPrice,
    cached, prices['cached_input_tokens'] ?? inputPrice,
    written, prices['cache_write_tokens'] ?? inputPrice,
    output - reasoning, outputPrice,
    reasoning, prices['reasoning_tokens'] ?? outputPrice,
  ]
  return nanosOf(addPlain(factors, usage, rates))
}

/** The most that `quantities` can cost, in nanos: every input token at the dearest input rate, every output token at the dearest output rate. */
export function costBound(quantities: Quantities, rates: ModelRates): number {
  const prices = rates.picosPer
  const inputPrice = prices['input_tokens'] ?? 0
  const outputPrice = prices['output_tokens'] ?? 0
  const factors = [
    quantities.input_tokens ?? 0, Math.max(inputPrice, prices['cached_input_tokens'] ?? 0, prices['cache_write_tokens'] ?? 0),
    quantities.output_tokens ?? 0, Math.max(outputPrice, prices['reasoning_tokens'] ?? 0),
  ]
  return nanosOf(addPlain(factors, quantities, rates))
}

/** `usage` with its cost, where there are rates: what a settlement and its event carry. */
export function pricedUsage(usage: Quantities, rates: ModelRates | null): Quantities {
  return rates === null ? usage : { ...usage, cost: costNanos(usage, rates) }
}

function addPlain(factors: number[], quantities: Quantities, rates: ModelRates): number[] {
  for (const meter of plainMeters) {
    const price = rates.picosPer[meter]
    const quantity = quantities[meter]
    if (price !== undefined && quantity !== undefined) factors.push(quantity, price)
  }
  return factors
}

/** Σ quantity × price over pairs, in picos, rounded up to nanos. */
function nanosOf(factors: readonly number[]): number {
  let picos = 0
  for (let index = 0; index < factors.length; index += 2) {
    const part = (factors[index] ?? 0) * (factors[index + 1] ?? 0)
    picos += part
    if (!Number.isSafeInteger(part) || !Number.isSafeInteger(picos)) return bigNanosOf(factors)
  }
  // The remainder is exact where a quotient would be rounded.
  const rest = picos % 1000
  return (picos - rest) / 1000 + (rest > 0 ? 1 : 0)
}

function bigNanosOf(factors: readonly number[]): number {
  let picos = 0n
  for (let index = 0; index < factors.length; index += 2) picos += BigInt(factors[index] ?? 0) * BigInt(factors[index + 1] ?? 0)
  return Number((picos + 999n) / 1000n)
}

/** Nanos as a decimal with nine digits: 412500 → "0.000412500". */
export function decimalOfNanos(nanos: number): string {
  const digits = Math.abs(nanos).toFixed(0).padStart(10, '0')
  return `${nanos < 0 ? '-' : ''}${digits.slice(0, -9)}.${digits.slice(-9)}`
}
