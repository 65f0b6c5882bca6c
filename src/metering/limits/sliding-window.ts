import { assert } from '../../assert.ts'
import { namesOf } from './counter.ts'
import type { AppliedLimit, LimitKind } from './limit.ts'
import { roomIsSlow } from './window.ts'

/**
 * A window that moves with the clock, cut into 12 slots. The slot of the admission and the 12 before it count in full: any real interval of
 * the window's length touches at most 13 slots, so none ever holds more than the limit.
 */
const slotsPerWindow = 12
const span = slotsPerWindow + 1

export const slidingWindow: LimitKind = {
  name: 'sliding_window',
  handles: (window) => window.kind === 'sliding',
  check(applied, need, admittedMs, nowMs, clamp) {
    const windowMs = lengthOf(applied)
    const at = slotAt(admittedMs, windowMs)
    const { slots, ceilings } = namesOf(applied, at, slotNames)
    const endsMs = leavesAtMs(at, windowMs)
    const clampable = clamp && roomIsSlow(applied.limit)
    // A running exchange that grows is still booked at its admission; windows that have begun since contain that slot too and must hold as well.
    const newest = Math.min(slotAt(nowMs, windowMs), at + slotsPerWindow)
    if (newest <= at) return { slots, at: slotsPerWindow, span, endsMs, ceilings, fixed: need.fixed, perUnit: need.perUnit, clampable }
    const base = (slots[0] ?? '').slice(0, -String(at - slotsPerWindow).length)
    const grown = [...slots]
    for (let slot = at + 1; slot <= newest; slot++) grown.push(base + slot)
    return { slots: grown, at: slotsPerWindow, span, endsMs, ceilings, fixed: need.fixed, perUnit: need.perUnit, clampable }
  },
  resetsAtMs(applied, nowMs, usedBySlot) {
    const windowMs = lengthOf(applied)
    let newest = usedBySlot === undefined ? span - 1 : -1
    usedBySlot?.forEach((used, index) => { if (used > 0) newest = index })
    return newest === -1 ? nowMs : leavesAtMs(slotAt(nowMs, windowMs) - slotsPerWindow + newest, windowMs)
  },
  fitsAtMs(applied, nowMs, usedBySlot, ceiling, amount) {
    if (amount > ceiling) return null
    const windowMs = lengthOf(applied)
    const used = usedBySlot ?? []
    let left = 0
    for (const slot of used) left += slot
    if (left + amount <= ceiling) return nowMs
    const oldest = slotAt(nowMs, windowMs) - slotsPerWindow
    for (let index = 0; index < used.length; index++) {
      left -= used[index] ?? 0
      if (left + amount <= ceiling) return leavesAtMs(oldest + index, windowMs)
    }
    return leavesAtMs(oldest + slotsPerWindow, windowMs)
  },
  lengthMs: (applied) => lengthOf(applied),
}

function lengthOf(applied: AppliedLimit): number {
  const { window } = applied.limit
  assert(window.kind === 'sliding', 'a sliding window')
  return window.ms
}

/** Slots are counted from 1970; the n-th begins at n × W / 12, which need not be a whole millisecond. */
function slotAt(atMs: number, windowMs: number): number {
  return Math.floor((atMs * slotsPerWindow) / windowMs)
}

/** The first whole millisecond at which a slot no longer counts. */
function leavesAtMs(slot: number, windowMs: number): number {
  return Math.ceil(((slot + span) * windowMs) / slotsPerWindow)
}

function slotNames(base: string, at: number): readonly string[] {
  const names: string[] = []
  for (let slot = at - slotsPerWindow; slot <= at; slot++) names.push(base + slot)
  return names
}
