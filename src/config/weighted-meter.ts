import { METERS } from '../metering/meter.ts'
import type { BuiltinMeter, WeightedMeter } from '../metering/meter.ts'
import type { Answer } from './scalars.ts'
import { decimalOf } from './scalars.ts'
import { listed, shown } from './problem.ts'

/** What can be added up: cost has its own limits, and what is in flight is no quantity of a call. */
const usable = Object.keys(METERS).filter((name): name is BuiltinMeter => name !== 'cost' && name !== 'concurrency' && name !== 'seats')
const scaleMax = 1_000_000_000n
/** A part of a cost is finer than any limit has to be. */
const toldScaleMax = 1_000_000_000_000_000n
const coefficientMax = 1_000_000_000_000n

/** A quantity that is told elsewhere may be money as well. */
const tellable = Object.keys(METERS).filter((name): name is BuiltinMeter => name !== 'concurrency' && name !== 'seats')

/**
 * `input_tokens + 4 * output_tokens`, exactly: the meter's small unit is made so fine that every coefficient is an integer,
 * however fine the small units of what it adds up.
 */
export function weightedMeter(name: string, expression: string): Answer<WeightedMeter> {
  if (/[-/()]/.test(expression)) return { problem: `${shown(expression)} is more than a sum; write terms such as 0.25 * input_tokens, joined by +` }
  const sum = sumOf(expression, usable, scaleMax)
  return 'problem' in sum ? sum : { value: { name, ...sum.value } }
}

/** `input_tokens - cached_input_tokens`, as exactly: what a sink is told may also be a difference, or a cost. */
export function toldQuantity(expression: string): Answer<Pick<WeightedMeter, 'terms' | 'scale'>> {
  if (/[/()]/.test(expression)) return { problem: `${shown(expression)} is more than a sum; write terms such as 0.25 * input_tokens, joined by + or -` }
  return sumOf(expression, tellable, toldScaleMax)
}

function sumOf(expression: string, meters: readonly BuiltinMeter[], finest: bigint): Answer<Pick<WeightedMeter, 'terms' | 'scale'>> {
  const parts = new Map<BuiltinMeter, { units: bigint; per: bigint }>()
  // Term, sign, term, sign …
  const pieces = expression.split(/([+-])/)
  for (let i = 0; i < pieces.length; i += 2) {
    const sign = i === 0 || pieces[i - 1] === '+' ? 1n : -1n
    const read = termOf((pieces[i] ?? '').trim(), meters, pieces[i - 1] ?? pieces[i + 1] ?? '+')
    if ('problem' in read) return read
    const { meter, units, per } = read.value
    const before = parts.get(meter) ?? { units: 0n, per: 1n }
    parts.set(meter, { units: before.units * per + sign * units * before.per, per: before.per * per })
  }
  let scale = 1n
  for (const { units, per } of parts.values()) {
    const divisor = per / gcd(units < 0n ? -units : units, per)
    scale = scale / gcd(scale, divisor) * divisor
  }
  const terms: { meter: BuiltinMeter; coefficient: number }[] = []
  for (const [meter, { units, per }] of parts) {
    const coefficient = scale * units / per
    if (scale > finest || coefficient > coefficientMax || coefficient < -coefficientMax) return { problem: `${shown(expression)} has weights that are too large or too fine to be counted exactly` }
    if (coefficient !== 0n) terms.push({ meter, coefficient: Number(coefficient) })
  }
  return terms.length === 0 ? { problem: `${shown(expression)} counts nothing` } : { value: { terms, scale: Number(scale) } }
}

interface Term { readonly meter: BuiltinMeter; readonly units: bigint; readonly per: bigint }

function termOf(term: string, meters: readonly BuiltinMeter[], sign: string): Answer<Term> {
  const match = /^(?:([^*]*)\*)?([^*]*)$/.exec(term)
  if (term === '' || match === null) return { problem: term === '' ? `a term is missing beside ${sign}` : `${shown(term)} multiplies more than once` }
  const [left = '', right = ''] = [match[1], match[2]].map((word) => word?.trim())
  const [factor, word] = match[1] === undefined ? ['1', right] : /^[\d.]/.test(right) ? [right, left] : [left, right]
  const meter = meters.find((candidate) => candidate === word)
  if (meter === undefined) {
    if (/^[\d.]+$/.test(word)) return { problem: `${shown(term)} names no meter; write 4 * output_tokens, say` }
    return { problem: `${shown(word)} cannot be part of a sum; these can: ${listed(meters)}` }
  }
  const decimal = decimalOf(factor)
  if ('problem' in decimal) return decimal
  return { value: { meter, units: decimal.value.units, per: 10n ** BigInt(decimal.value.decimals) * BigInt(METERS[meter].scale) } }
}

function gcd(a: bigint, b: bigint): bigint {
  return b === 0n ? a : gcd(b, a % b)
}
