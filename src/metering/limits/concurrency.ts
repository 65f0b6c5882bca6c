import type { LimitKind } from './limit.ts'
import { singleCheck } from './single.ts'

/** How many calls may be in flight. Only open reservations count: a call holds one and settles nothing. Never clamped. */
export const concurrency: LimitKind = {
  name: 'concurrency',
  handles: (window) => window.kind === 'in_flight',
  check: (applied) => singleCheck(applied, oneCall, 0, null, false),
  resetsAtMs: () => null,
  fitsAtMs: (_applied, nowMs, _usedBySlot, ceiling, amount) => (amount <= ceiling ? nowMs : null),
  lengthMs: () => null,
}

const oneCall = { fixed: 1, perUnit: 0 }
