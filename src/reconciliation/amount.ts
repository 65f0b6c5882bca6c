import { withoutZeros } from '../metering/price.ts'

/** Amounts as whole numbers of the finest fraction that a quantity can have: sums and differences of them are exact. */
const places = 18
const one = 10n ** BigInt(places)

/** Of decimal text; what is finer is cut off. */
export function unitsOf(decimal: string): bigint {
  const [, sign = '', whole = '', part = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(decimal) ?? []
  if (whole === '') throw new RangeError('not a decimal number')
  const units = BigInt(whole) * one + BigInt(part.padEnd(places, '0').slice(0, places))
  return sign === '-' ? -units : units
}

export function textOf(units: bigint): string {
  const positive = units < 0n ? -units : units
  return `${units < 0n ? '-' : ''}${withoutZeros(`${positive / one}.${String(positive % one).padStart(places, '0')}`)}`
}

/** What a receiver that adds up binary fractions may be off by, where our sum is no whole number. */
export function slackOf(ours: bigint, values: 'integer' | 'number' | 'decimal'): bigint {
  if (values !== 'number' || ours % one === 0n) return 0n
  const positive = ours < 0n ? -ours : ours
  return positive / 10n ** 12n + one / 10n ** 6n
}
