import type { Model } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import type { RequestFacts } from '../providers/provider.ts'
import type { Entitlement } from './entitlement.ts'
import { boundOf, opaqueBound, outputRange, type Bound, type OutputFacts, type OutputRange } from './estimate.ts'
import type { Meter } from './meter.ts'
import type { ReserveAnswer } from './moves.ts'
import { draftReservation, type Draft } from './reservation.ts'

/** The first slice of a stream that is held piece by piece. */
const sliceTokens = 256
/** Bytes and compute time have no worst case: a little is held at once, the rest as it comes. */
export const firstBytes = 1
export const firstComputeMs = 1_000

/** A call as its admission sees it: a request that has come in, or what an event tells of one. */
export interface MeasuredCall {
  readonly facts: OutputFacts & Pick<RequestFacts, 'inputMediaTokens' | 'choices' | 'streamed' | 'imagesAsked'>
  readonly model: Model | null
  /** A dialect reads it. */
  readonly known: boolean
  /** The most input tokens; null: nothing bounds them. */
  readonly input: number | null
  /** Of the body. */
  readonly bytes: number
}

export interface CallPlan {
  readonly draft: Draft
  readonly range: OutputRange
  readonly bound: Bound
  readonly tokensInSlices: boolean
}

/** What has to be held for a call. Refuses what no waiting would help. `seenMs`: when the store will look at it, at the latest. */
export function draftCall(call: MeasuredCall, entitlement: Entitlement, admittedMs: number, seenMs: number): CallPlan | GatewayError {
  const { facts, model, known, input, bytes } = call
  const { maxContextTokens } = entitlement
  if (maxContextTokens !== null && known && (input === null || input > maxContextTokens)) return contextTooLarge(input, maxContextTokens)
  const bound = known ? boundOf(facts, input, bytes) : opaqueBound(bytes)
  const range = outputRange(facts, model, entitlement, input)
  const tokensInSlices = heldInSlices(entitlement, facts, model)
  const grown = growingMeters(entitlement)
  const fixed = {
    ...bound.fixed,
    ...(grown.bytesOut ? { bytes_out: firstBytes } : {}),
    ...(grown.compute ? { compute_seconds: firstComputeMs } : {}),
  }
  // Of a stream held in slices only the first is held now, and less of it where less is left.
  const slice = Math.min(range.uMax, sliceTokens)
  const draft = draftReservation(
    entitlement, { ...bound, fixed }, tokensInSlices ? { ...range, uMin: Math.min(1, slice), uMax: slice, asked: null, least: Math.min(1, slice) } : range,
    admittedMs, seenMs)
  return draft instanceof GatewayError ? draft : { draft, range, bound: { fixed, perUnit: bound.perUnit }, tokensInSlices }
}

/** With the prompt's exact tokens instead of their bound it might fit. Counting is work: it is not done for whom the input alone does not refuse. */
export function mayFitExactly({ draft }: CallPlan, denied: Extract<ReserveAnswer, { outcome: 'denied' }>): boolean {
  return denied.refusals.every((refusal) => {
    const check = draft.checks[refusal.check]
    const room = denied.balances[refusal.check]?.room ?? 0
    return check !== undefined && check.fixed > 1 && room > check.perUnit * (check.clampable ? draft.uMin : draft.uMax)
  })
}

/** `reserve: slices` is for streams whose output is seen; where output is hidden the worst case is the only bound. */
export function heldInSlices({ policy }: Entitlement, facts: Pick<RequestFacts, 'streamed' | 'boundsOutput'>, model: Model | null): boolean {
  return policy.reserve === 'slices' && facts.streamed && facts.boundsOutput && model?.hiddenOutput !== true
}

/** Meters that a limit counts, and that only the answer tells. */
export interface GrowingMeters { readonly bytesIn: boolean; readonly bytesOut: boolean; readonly compute: boolean }

const growingByEntitlement = new WeakMap<Entitlement, GrowingMeters>()

export function growingMeters(entitlement: Entitlement): GrowingMeters {
  const known = growingByEntitlement.get(entitlement)
  if (known !== undefined) return known
  const counts = (meter: Meter, name: string): boolean => (meter.kind === 'builtin' ? meter.name === name : meter.weighted.terms.some((term) => term.meter === name))
  const priced = (name: string): boolean => entitlement.rates?.picosPer[name] !== undefined
  const any = (name: string): boolean => entitlement.applied.some(({ limit }) => counts(limit.meter, name) || (priced(name) && counts(limit.meter, 'cost')))
  const growing = { bytesIn: any('bytes_in'), bytesOut: any('bytes_out'), compute: any('compute_seconds') }
  growingByEntitlement.set(entitlement, growing)
  return growing
}

function contextTooLarge(input: number | null, max: number): GatewayError {
  const most = `your plan's context is ${max.toLocaleString('en')} tokens`
  if (input === null) return new GatewayError('feature_unavailable', `This request refers to content whose length is not known here, and ${most}.`)
  return new GatewayError('request_too_large', `This request may be ${input.toLocaleString('en')} tokens long before any answer; ${most}.`)
}
