import type { Check } from '../check.ts'
import { counterBase, grantedCeiling, namesOf } from './counter.ts'
import type { AppliedLimit, Need } from './limit.ts'

/** The check of a limit whose use is one counter, named by the start of its period. `endsMs`: the period's end; null: it has none. */
export function singleCheck(applied: AppliedLimit, need: Need, period: number, endsMs: number | null, clampable: boolean): Check {
  const { slots, ceilings } = namesOf(applied, period, oneName)
  return { slots, at: 0, span: 1, endsMs, ceilings, fixed: need.fixed, perUnit: need.perUnit, clampable }
}

/** What the check of a limit that grants extend has in one period, as long as the same of them may be drawn. */
export interface Granted extends Pick<Check, 'slots' | 'endsMs' | 'ceilings' | 'alongside'> {
  readonly fromMs: number
  readonly untilMs: number
}

/** `neighbours`: the starts of the periods before and after, whose calls may draw the same grants. */
export function grantedNames(applied: AppliedLimit, atMs: number, period: number, endsMs: number | null, neighbours: readonly number[], span: Pick<Granted, 'fromMs' | 'untilMs'>): Granted {
  const base = counterBase(applied)
  const slot = base + period
  return { ...span, slots: [slot], endsMs, ceilings: [grantedCeiling(applied, slot, atMs)], alongside: neighbours.map((start) => base + start) }
}

/** The same for a limit that grants extend. */
export function grantedCheck({ slots, endsMs, ceilings, alongside = [] }: Granted, need: Need, clampable: boolean): Check {
  return { slots, at: 0, span: 1, endsMs, ceilings, alongside, fixed: need.fixed, perUnit: need.perUnit, clampable }
}

function oneName(base: string, period: number): readonly string[] {
  return [base + period]
}

/** One counter that is emptied at `endMs`: everything fits again then, or never. */
export function singleFitsAtMs(nowMs: number, endMs: number | null, used: number, ceiling: number, amount: number): number | null {
  if (used + amount <= ceiling) return nowMs
  return amount <= ceiling ? endMs : null
}
