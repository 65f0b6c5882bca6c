import type { ModelRates, PriceCard, RateCard, UnitPrices } from '../config/config.ts'
import { longestMatch } from './glob.ts'
import { Memo } from './limits/counter.ts'
import type { BuiltinMeter, Quantities } from './meter.ts'

/**
 * What a call costs. Prices are integers: picos (10⁻¹² of the currency) per small unit. Money is nanos (10⁻⁹), rounded up once per event. A currency that is
 * counted with fewer digits moves both alike, and nothing here knows.
 */

/** Priced as they are; tokens are not here, because some are parts of others. */
const plainMeters: readonly BuiltinMeter[] = ['requests', 'total_tokens', 'compute_seconds', 'bytes_in', 'bytes_out', 'audio_seconds', 'images']

/** The prices that hold for a call admitted at `atMs`; null: none yet. */
export function versionAt(card: RateCard | null, atMs: number): PriceCard | null {
  return card?.versions.findLast(({ fromMs }) => fromMs === null || fromMs <= atMs) ?? null
}

interface RateIndex {
  readonly own: readonly string[]
  readonly base: readonly string[]
  readonly byGlob: ReadonlyMap<string, ModelRates>
  readonly known: Memo<string, ModelRates | 'none'>
}

const indexes = new WeakMap<PriceCard, RateIndex>()

/** The rates that hold for a model: by its name, else by the longest glob; a card's own before public ones. A call without a model has those of `*`. */
export function ratesFor(card: PriceCard | null, model: string | null): ModelRates | null {
  if (card === null) return null
  let index = indexes.get(card)
  if (index === undefined) {
    index = indexOf(card)
    indexes.set(card, index)
  }
  const name = model ?? '*'
  const known = index.known.get(name)
  if (known !== undefined) return known === 'none' ? null : known
  const best = longestMatch(index.own, name) ?? longestMatch(index.base, name)
  const found = best === null ? null : index.byGlob.get(best) ?? null
  index.known.set(name, found ?? 'none')
  return found
}

function indexOf(card: PriceCard): RateIndex {
  const { rates, base = [] } = card
  const byGlob = new Map<string, ModelRates>()
  for (const each of [...rates, ...base]) for (const glob of each.models) if (!byGlob.has(glob)) byGlob.set(glob, each)
  return { own: rates.flatMap(({ models }) => models), base: base.flatMap(({ models }) => models), byGlob, known: new Memo(512) }
}

const withFeatures = new WeakMap<ModelRates, Memo<string, ModelRates>>()

/** The rates of a call that used these features: each call costs what they cost, too. */
export function ratesOfCall(rates: ModelRates | null, features: readonly string[]): ModelRates | null {
  if (rates === null || rates.features === undefined || features.length === 0) return rates
  const prices = rates.features
  const used = features.filter((feature) => prices[feature] !== undefined)
  if (used.length === 0) return rates
  const key = used.join()
  let known = withFeatures.get(rates)
  if (known === undefined) withFeatures.set(rates, known = new Memo(64))
  let found = known.get(key)
  if (found === undefined) {
    const extra = used.reduce((sum, feature) => sum + (prices[feature] ?? 0), 0)
    const dearer = (picosPer: UnitPrices): UnitPrices => ({ ...picosPer, requests: (picosPer['requests'] ?? 0) + extra })
    const { longInput } = rates
    found = { ...rates, picosPer: dearer(rates.picosPer), ...(longInput === undefined ? {} : { longInput: longInput.map((each) => ({ ...each, picosPer: dearer(each.picosPer) })) }) }
    known.set(key, found)
  }
  return found
}

/** The rates as they may turn out for an input of `inputTokens` at most: of those for longer inputs that it may reach, the dearest. */
export function ratesWithin(rates: ModelRates | null, inputTokens: number): ModelRates | null {
  if (rates?.longInput === undefined) return rates
  const reached = rates.longInput.filter(({ over }) => inputTokens > over)
  const dearest: { [meter: string]: number } = { ...rates.picosPer }
  // A part without a price of its own costs what the whole does: what is compared is what would be paid.
  for (const { picosPer } of reached) {
    for (const meter of Object.keys({ ...rates.picosPer, ...picosPer })) dearest[meter] = Math.max(paid(dearest, meter), paid(picosPer, meter))
  }
  return { models: rates.models, picosPer: dearest }
}

const wholeOf: { readonly [meter: string]: string } = {
  cached_input_tokens: 'input_tokens', cache_write_tokens: 'input_tokens', reasoning_tokens: 'output_tokens',
}

function paid(prices: UnitPrices, meter: string): number {
  return prices[meter] ?? prices[wholeOf[meter] ?? ''] ?? 0
}

/** What is paid for one part of a call: `quantity` small units of `meter`, at the price of `price`, picos each. */
export type TakePart = (meter: BuiltinMeter, price: BuiltinMeter, quantity: number, picos: number) => void

/**
 * The parts of a call that have a price. Cached tokens and cache writes are parts of the input, reasoning is part of the output: each part has its own price
 * where the card gives one, else that of the whole. Parts are never more than the whole, whatever an upstream says; of a `correction`, which is a difference, any may be negative.
 */
export function eachPart(usage: Quantities, rates: ModelRates, take: TakePart, correction = false): void {
  const prices = pricesOf(usage, rates)
  const input = usage.input_tokens ?? 0
  const output = usage.output_tokens ?? 0
  let cached = usage.cached_input_tokens ?? 0
  let written = usage.cache_write_tokens ?? 0
  let reasoning = usage.reasoning_tokens ?? 0
  if (!correction) {
    cached = Math.min(cached, input)
    written = Math.min(written, input - cached)
    reasoning = Math.min(reasoning, output)
  }
  part('input_tokens', 'input_tokens', input - cached - written, prices, take)
  part('cached_input_tokens', 'input_tokens', cached, prices, take)
  part('cache_write_tokens', 'input_tokens', written, prices, take)
  part('output_tokens', 'output_tokens', output - reasoning, prices, take)
  part('reasoning_tokens', 'output_tokens', reasoning, prices, take)
  for (const meter of plainMeters) part(meter, meter, usage[meter] ?? 0, prices, take)
}

function part(meter: BuiltinMeter, whole: BuiltinMeter, quantity: number, prices: UnitPrices, take: TakePart): void {
  if (quantity === 0) return
  const own = prices[meter]
  const picos = own ?? prices[whole]
  if (picos !== undefined) take(meter, own === undefined ? whole : meter, quantity, picos)
}

/** A long input has prices of its own: for all of its call. */
function pricesOf(usage: Quantities, { picosPer, longInput }: ModelRates): UnitPrices {
  if (longInput === undefined) return picosPer
  const input = usage.input_tokens ?? 0
  return longInput.findLast(({ over }) => input > over)?.picosPer ?? picosPer
}

/** What `usage` costs, in nanos. */
export function costNanos(usage: Quantities, rates: ModelRates): number {
  const factors: number[] = []
  eachPart(usage, rates, (_meter, _price, quantity, picos) => factors.push(quantity, picos))
  return nanosOf(factors)
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
  for (const meter of plainMeters) factors.push(quantities[meter] ?? 0, prices[meter] ?? 0)
  return nanosOf(factors)
}

/** `usage` with its cost, where there are rates: what a settlement and its event carry. */
export function pricedUsage(usage: Quantities, rates: ModelRates | null): Quantities {
  return rates === null ? usage : { ...usage, cost: costNanos(usage, rates) }
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

/** Nanos as a decimal with nine digits: 412500 → "0.000412500"; with fewer for a currency that is counted so. */
export function decimalOfNanos(nanos: number | bigint, scale = 9): string {
  const digits = (typeof nanos === 'bigint' ? (nanos < 0n ? -nanos : nanos).toString() : Math.abs(nanos).toFixed(0)).padStart(scale + 1, '0')
  return `${nanos < 0 ? '-' : ''}${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}

/** Decimal text without the zeros at the end of its fraction. */
export function withoutZeros(decimal: string): string {
  if (!decimal.includes('.')) return decimal
  let end = decimal.length
  while (decimal[end - 1] === '0') end -= 1
  return decimal.slice(0, decimal[end - 1] === '.' ? end - 1 : end)
}
