import type { Balance, Bucket, Ceiling, Check } from './check.ts'

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

/** The ceiling whose buckets are drawn: the one with grants, else the first that refuses, else the first. */
export function drawnCeiling(check: Check): Ceiling {
  return check.ceilings.find((ceiling) => ceiling.beyond !== undefined) ?? check.ceilings.find((ceiling) => ceiling.refuses) ?? check.ceilings[0]!
}

/** Does this bucket outlive the period? */
export function outlives(bucket: Bucket): boolean {
  return bucket.endsMs !== undefined
}

/**
 * What open reservations hold of what this ceiling is made of. Those of the periods before and after may draw only buckets that outlive the period: they hold no
 * more than is left of those.
 */
export function heldAgainst({ buckets, beyond }: Pick<Ceiling, 'buckets' | 'beyond'>, alongside: readonly string[] | undefined, pending: number, counter: CounterLookUp): number {
  if (beyond === undefined || alongside === undefined) return pending
  let held = 0
  for (const slot of alongside) held += counter(slot).pending
  if (held === 0) return pending
  let left = 0
  for (const bucket of buckets) if (outlives(bucket)) left += bucket.ceiling === null ? held : Math.max(0, bucket.ceiling - counter(bucket.counter!).settled)
  return pending + Math.min(left, held)
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
export function freeOf({ buckets, beyond }: Ceiling, settled: number, counter: CounterLookUp): number | null {
  const first = buckets[0]!
  // The usual case: one bucket. What is beyond it shows as a negative room.
  if (buckets.length === 1) return first.ceiling === null ? null : first.ceiling - settled + (beyond === undefined ? 0 : counter(beyond).settled)
  // What buckets that outlive the period were drawn in it.
  const drawnBeyond = beyond === undefined ? 0 : counter(beyond).settled
  let later = drawnBeyond
  let free = 0
  let total = drawnBeyond
  for (let i = 1; i < buckets.length; i++) {
    const bucket = buckets[i]!
    if (bucket.ceiling === null) return null
    const drawn = counter(bucket.counter!).settled
    if (outlives(bucket)) total += bucket.ceiling - drawn
    else {
      later += drawn
      total += bucket.ceiling
    }
    free += Math.max(0, bucket.ceiling - drawn)
  }
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
    if (free === null) continue
    const left = free - heldAgainst(ceiling, check.alongside, use.pending, counter)
    if (room === null || left < room) room = left
  }
  const granted = grantedIn(check, counter)
  if (granted !== null) return { used: use.settled, reserved: use.pending, room, granted }
  if (check.slots.length === 1) return { used: use.settled, reserved: use.pending, room }
  return { used: use.settled, reserved: use.pending, room, usedBySlot: check.slots.map((slot) => counter(slot).settled) }
}

function grantedIn(check: Check, counter: CounterLookUp): number | null {
  const ceiling = check.ceilings.find(({ beyond }) => beyond !== undefined)
  if (ceiling === undefined) return null
  let granted = counter(ceiling.beyond!).settled
  for (const bucket of ceiling.buckets) if (outlives(bucket) && bucket.ceiling !== null) granted += Math.max(0, bucket.ceiling - counter(bucket.counter!).settled)
  return granted
}
