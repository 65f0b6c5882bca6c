import { METERS } from '../metering/meter.ts'
import type { BuiltinMeter } from '../metering/meter.ts'
import { decimalOfNanos, withoutZeros } from '../metering/price.ts'

/** Money and quantities as texts, exactly. */

export interface Money {
  /** In 10⁻ˢᶜᵃˡᵉ of the currency. */
  readonly amount: number | bigint
  readonly scale: number
}

/** An event's cost: `-0.000412500` → −412500 with scale 9. null: it is no amount. */
export function moneyOf(text: string): Money | null {
  const point = text.indexOf('.')
  const scale = point === -1 ? 0 : text.length - point - 1
  const digits = point === -1 ? text : text.slice(0, point) + text.slice(point + 1)
  const amount = Number(digits)
  if (Number.isSafeInteger(amount)) return { amount, scale }
  return /^-?\d+$/.test(digits) ? { amount: BigInt(digits), scale } : null
}

/** `amount` in 10⁻ˢᶜᵃˡᵉ, with all its digits. */
export function moneyText(amount: bigint, scale: number): string {
  return scale === 0 ? String(amount) : decimalOfNanos(amount, scale)
}

/** Small units of a meter as people count it: 1930 ms → `1.93`. */
export function quantityText(quantity: bigint, meter: string): string {
  return plain(quantity, String(meterScale(meter)).length - 1)
}

/** A price as the configuration writes it: `0.15/M` for what is counted by the million, `0.002` for one. */
export function priceText(picos: number, meter: string, scale: number): string {
  const unit = Object.hasOwn(METERS, meter) ? METERS[meter as BuiltinMeter].unit : ''
  const million = unit === 'tokens' || unit === 'content-bytes'
  return `${plain(BigInt(picos) * BigInt(million ? 1_000_000 : meterScale(meter)), scale + 3)}${million ? '/M' : ''}`
}

/** Without zeros at its end. */
function plain(amount: bigint, digits: number): string {
  return digits === 0 ? String(amount) : withoutZeros(moneyText(amount, digits))
}

function meterScale(meter: string): number {
  return Object.hasOwn(METERS, meter) ? METERS[meter as BuiltinMeter].scale : 1
}
