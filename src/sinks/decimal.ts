import { withoutZeros } from '../metering/price.ts'

/** What a receiver gives as a quantity, as exact decimal text; null: it is none. Of a number that is no whole one, what binary fractions add is left out. */
export function decimalOf(value: unknown): string | null {
  if (typeof value === 'string') return /^-?\d+(\.\d+)?$/.test(value) ? value : null
  if (typeof value !== 'number' || !Number.isFinite(value)) return null
  if (Number.isInteger(value)) return BigInt(value).toString()
  return withoutZeros(value.toFixed(9))
}

/** Σ of decimal texts. */
export function sumOf(values: readonly string[]): string {
  const digits = values.reduce((most, value) => Math.max(most, (value.split('.')[1] ?? '').length), 0)
  let total = 0n
  for (const value of values) total += BigInt(unscaled(value, digits))
  return shifted(total.toString(), -digits)
}

/** `value` × 10^`places`, exactly. */
export function shifted(value: string, places: number): string {
  const [, sign = '', whole = '0', fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(value) ?? []
  const digits = `${whole}${fraction}`
  const point = whole.length + places
  const padded = point <= 0 ? digits.padStart(digits.length - point + 1, '0') : digits.padEnd(point, '0')
  const at = point <= 0 ? 1 : point
  const text = withoutZeros(`${padded.slice(0, at).replace(/^0+(?=\d)/, '')}.${padded.slice(at)}`)
  return text === '0' ? '0' : `${sign}${text}`
}

function unscaled(value: string, digits: number): string {
  const [whole = '0', fraction = ''] = value.split('.')
  return `${whole}${fraction.padEnd(digits, '0')}`
}
