import type { PeriodPrice } from '../config/config.ts'

/** What `quantity` small units of a whole period cost, in picos. Less than nothing, as corrections alone may leave it, costs nothing. */
export function periodCharge(price: PeriodPrice, quantity: bigint): bigint {
  if (quantity <= 0n) return 0n
  if (price.kind === 'package') {
    const size = BigInt(price.size)
    return (quantity + size - 1n) / size * BigInt(price.nanos) * 1_000n
  }
  let charge = 0n
  let below = 0n
  for (const { upTo, picos } of price.tiers) {
    const within = upTo === null || quantity <= BigInt(upTo)
    if (price.kind === 'volume') {
      if (within) return quantity * BigInt(picos)
      continue
    }
    const end = within ? quantity : BigInt(upTo)
    charge += (end - below) * BigInt(picos)
    below = end
    if (within) break
  }
  return charge
}

/** What one unit may cost at most, in picos, rounded up: what events cost, and what limits in money count. */
export function dearestUnit(price: PeriodPrice): number {
  if (price.kind === 'package') return Number((BigInt(price.nanos) * 1_000n + BigInt(price.size) - 1n) / BigInt(price.size))
  return price.tiers.reduce((dearest, { picos }) => Math.max(dearest, picos), 0)
}
