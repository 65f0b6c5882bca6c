import type { Balance, Ceiling, Check } from './check.ts'

/** Where a check stands, given its counters. Shared by the ledger and by stores that keep counters elsewhere. */

export interface Use {
  readonly settled: number
  readonly pending: number
}

/** A counter by its name; NOTHING where it is not known. */
export type CounterLookUp = (name: string) => Use

export const NOTHING: Use = Object.freeze({ settled: 0, pending: 0 })

/** The counter of the admission: it is booked there. */
export function slotOf(check: Check): string {
  return check.slots[check.at]!
}

/** The ceiling whose buckets are drawn: the first that refuses, else the first. */
export function drawnCeiling(check: Check): Ceiling {
  return check.ceilings.find((ceiling) => ceiling.refuses) ?? check.ceilings[0]!
}

/** Settled and pending over the fullest window of `span` slots that contains the admission's. */
export function useOf({ slots, span, at }: Check, counter: CounterLookUp): Use {
  if (slots.length === 1) return counter(slots[0]!)
  let fullest = NOTHING
  const last = Math.min(at, Math.max(0, slots.length - span))
  for (let first = Math.max(0, at - span + 1); first <= last; first++) {
    let settled = 0
    let pending = 0
    for (let i = first; i < first + span && i < slots.length; i++) {
      const one = counter(slots[i]!)
      settled += one.settled
      pending += one.pending
    }
    if (settled + pending > fullest.settled + fullest.pending) fullest = { settled, pending }
  }
  return fullest
}

/**
 * Σ max(0, ceiling − settled) over the buckets; null is unlimited. Never more than all ceilings together leave: what a bucket was drawn beyond its
 * ceiling (by an edit, or through another limit over the same counters) is not drawn a second time from the next one.
 */
export function freeOf({ buckets }: Ceiling, settled: number, counter: CounterLookUp): number | null {
  // The usual case: one bucket. What is beyond it shows as a negative room.
  if (buckets.length === 1) return buckets[0]!.ceiling === null ? null : buckets[0]!.ceiling - settled
  let later = 0
  let free = 0
  let total = 0
  for (let i = 1; i < buckets.length; i++) {
    const bucket = buckets[i]!
    if (bucket.ceiling === null) return null
    const drawn = counter(bucket.counter!).settled
    later += drawn
    total += bucket.ceiling
    free += Math.max(0, bucket.ceiling - drawn)
  }
  const first = buckets[0]!
  if (first.ceiling === null) return null
  return Math.min(free + Math.max(0, first.ceiling - (settled - later)), first.ceiling + total - settled)
}

export function balanceOf(check: Check, counter: CounterLookUp): Balance {
  const use = useOf(check, counter)
  let room: number | null = null
  const refusing = check.ceilings.some((ceiling) => ceiling.refuses)
  for (const ceiling of check.ceilings) {
    if (refusing && !ceiling.refuses) continue
    const free = freeOf(ceiling, use.settled, counter)
    if (free !== null && (room === null || free - use.pending < room)) room = free - use.pending
  }
  if (check.slots.length === 1) return { used: use.settled, reserved: use.pending, room }
  return { used: use.settled, reserved: use.pending, room, usedBySlot: check.slots.map((slot) => counter(slot).settled) }
}
