import type { Check } from '../check.ts'
import type { Limit, LimitKind } from './limit.ts'
import { singleCheck } from './single.ts'

/**
 * How many calls may be in flight. Only open reservations count: a call holds one and settles nothing. Never clamped. Of seats a call itself holds none: a seat is
 * a reservation of its own, which several calls share and which outlives them; the call's check only tells how many are taken.
 */
export const concurrency: LimitKind = {
  name: 'concurrency',
  handles: (window) => window.kind === 'in_flight',
  check: (applied) => singleCheck(applied, isSeats(applied.limit) ? nothing : one, 0, null, false),
  resetsAtMs: () => null,
  fitsAtMs: (_applied, nowMs, _usedBySlot, ceiling, amount) => (amount <= ceiling ? nowMs : null),
  lengthMs: () => null,
}

/** The check of one seat, made of that of a call. */
export function seatCheck(check: Check): Check {
  return { ...check, ...one }
}

export function isSeats({ window }: Limit): boolean {
  return window.kind === 'in_flight' && window.seats !== undefined
}

const one = { fixed: 1, perUnit: 0 }
const nothing = { fixed: 0, perUnit: 0 }
