import type { Check } from './check.ts'
import { boundOf, opaqueBound, type Bound } from './estimate.ts'
import type { AdmissionBound } from './event.ts'
import { kindOf } from './limits/index.ts'
import type { AppliedLimit } from './limits/limit.ts'
import type { Draw } from './moves.ts'
import { drawnCeiling } from './standing.ts'

/** Looking back at a call: what its event, or its reservation, tells of the limits that it came under. */

/** What a call needed, as its admission worked it out; `u`: the output bound that was held. null: its event does not tell. */
export function recallBound(kept: AdmissionBound | null, outputBound: string | null): { readonly bound: Bound; readonly u: number } | null {
  if (kept === null) return null
  const { input, bytes, output, choices = 1, media = false, images = 0 } = kept
  const bound = input === undefined ? opaqueBound(bytes) : boundOf({ inputMediaTokens: media ? 1 : 0, boundsOutput: output !== undefined, choices, imagesAsked: images }, input, bytes)
  // `812;asked=4096` where it was lowered.
  return { bound, u: outputBound === null ? output ?? 0 : Number.parseInt(outputBound, 10) }
}

/**
 * Whose draws are whose. An event lists them in the order of its checks, by bucket; limits of two accounts may have one name, so each check takes the first of a
 * name that is left. `rest`: those that no check of today knows.
 */
export function drawsByCheck(checks: readonly Check[], draws: readonly Draw[]): { readonly byCheck: readonly (readonly Draw[])[]; readonly rest: readonly Draw[] } {
  const left = [...draws]
  const byCheck = checks.map((check) => drawnCeiling(check).buckets.flatMap(({ name }) => {
    const at = left.findIndex(({ bucket }) => bucket === name)
    return at === -1 ? [] : left.splice(at, 1)
  }))
  return { byCheck, rest: left }
}

/** The window of a limit that a call admitted at `atMs` counted to: from when, and when it no longer counts; null: no edge. Of a sliding one, both go by the call. */
export function windowOf(applied: AppliedLimit, atMs: number): { readonly fromMs: number | null; readonly untilMs: number | null } {
  const { window } = applied.limit
  if (window.kind === 'in_flight') return { fromMs: null, untilMs: null }
  const kind = kindOf(window)
  const untilMs = kind.resetsAtMs(applied, atMs, undefined)
  if (window.kind === 'sliding') return { fromMs: atMs, untilMs }
  const lengthMs = kind.lengthMs(applied, atMs)
  return { fromMs: untilMs === null || lengthMs === null ? null : untilMs - lengthMs, untilMs }
}
