import type { Model } from '../config/config.ts'
import type { RequestFacts } from '../providers/provider.ts'
import type { Entitlement } from './entitlement.ts'
import type { AdmissionBound } from './event.ts'
import type { Quantities } from './meter.ts'

/** What a template adds to the text, in tokens. */
export interface TemplateTokens {
  readonly perCall: number
  readonly perMessage: number
  readonly perTool: number
}

/** The most that a call can use: `fixed + perUnit × u`, where `u` is the output bound per choice. A quantity that is absent cannot be bounded ahead. */
export interface Bound {
  readonly fixed: Quantities
  readonly perUnit: Quantities
  /** True: the input refers to content that nobody here has seen, and nothing bounds it. */
  readonly inputUnknown?: boolean
}

/** No model writes more in one answer; larger bounds only overflow sums. */
const outputTokensEver = 10_000_000

/**
 * The most input tokens that a request can have; null: nothing bounds it. Bytes of text bound the tokens of byte-level tokenizers; the model's
 * context bounds everything, where it is known.
 */
export function inputBound(facts: RequestFacts, model: Model | null, templateDefaults: TemplateTokens): number | null {
  const context = model?.contextTokens ?? null
  if (facts.inputUnseen) return context
  const template = model?.templateTokens ?? templateDefaults
  const text = facts.inputTokensExact ?? Math.ceil(facts.inputBytes * (model?.inputFactor ?? 1))
  const tokens = text + mediaTokens(facts, model) + template.perCall + template.perMessage * facts.inputMessages + template.perTool * facts.inputTools
  return context === null ? tokens : Math.min(tokens, context)
}

/** The rule of the dialect, but for images of a model whose size of an image is configured. */
function mediaTokens({ inputMediaTokens, inputImages, inputImageTokens }: RequestFacts, model: Model | null): number {
  if (model === null || model.imageTokens === null || inputImages === undefined || inputImageTokens === undefined) return inputMediaTokens
  return inputMediaTokens - inputImageTokens + model.imageTokens * inputImages
}

/** The bound of a call of a dialect. `input`: from `inputBound`, or counted exactly. */
export function boundOf(facts: Pick<RequestFacts, 'inputMediaTokens' | 'boundsOutput' | 'choices' | 'imagesAsked'>, input: number | null, bytesIn: number): Bound {
  const fixed: Quantities = { requests: 1, concurrency: 1, bytes_in: bytesIn, output_tokens: 0, reasoning_tokens: 0 }
  if (input !== null) {
    fixed.input_tokens = input
    // Any part of the input may turn out to be cached, or to be written to the cache.
    fixed.cached_input_tokens = input
    fixed.cache_write_tokens = input
    fixed.total_tokens = input
  }
  // Text alone makes no images and no sound.
  if (facts.inputMediaTokens === 0) {
    fixed.images = facts.imagesAsked ?? 0
    fixed.audio_seconds = 0
  }
  const perUnit: Quantities = facts.boundsOutput
    ? { output_tokens: facts.choices, reasoning_tokens: facts.choices, total_tokens: facts.choices }
    : {}
  return input === null ? { fixed, perUnit, inputUnknown: true } : { fixed, perUnit }
}

/** The bound of a call that no dialect can read: one request, its bytes, and what only the answer will tell. */
export function opaqueBound(bytesIn: number): Bound {
  return { fixed: { requests: 1, concurrency: 1, bytes_in: bytesIn }, perUnit: {} }
}

export interface OutputRange {
  /** The lowest output bound that the call may be clamped to; equal to `uMax` where it may not be clamped. */
  readonly uMin: number
  readonly uMax: number
  /** The bound has to be written into the request, even if it is not clamped. */
  readonly write: boolean
  /** The caller's own bound; null: none, `uMax` is ours. */
  readonly asked: number | null
  /** The lowest bound that makes sense: below it, a call whose bound is ours is refused rather than lowered. */
  readonly least: number
  /** What the request needs (thinking budget, `min_tokens`) and `uMax`, lowered to what the plan or the model allows, does not give; 0: nothing. */
  readonly lacking: number
}

/** What of a request decides on its output bound. */
export type OutputFacts = Pick<RequestFacts, 'boundsOutput' | 'outputAsked' | 'outputDefault' | 'outputFloor' | 'clampable'>

/** The output bound, per choice (contract, section 4, items 1 and 2). */
export function outputRange(facts: OutputFacts, model: Model | null, entitlement: Pick<Entitlement, 'maxOutputTokens' | 'maxContextTokens' | 'policy'>, inputTokens: number | null): OutputRange {
  if (!facts.boundsOutput) return { uMin: 0, uMax: 0, write: false, asked: null, least: 0, lacking: 0 }
  const { policy, maxOutputTokens, maxContextTokens } = entitlement
  const allowed = Math.min(maxOutputTokens ?? outputTokensEver, maxContextTokens ?? outputTokensEver, model?.outputTokensMax ?? outputTokensEver, outputTokensEver)
  const asked = facts.outputAsked
  let uMax: number
  if (asked !== null) {
    uMax = Math.min(asked, allowed)
  } else {
    const known: number[] = []
    if (facts.outputDefault !== null) known.push(facts.outputDefault)
    if (maxOutputTokens !== null) known.push(maxOutputTokens)
    if (typeof model?.outputTokensMax === 'number') known.push(model.outputTokensMax)
    const context = Math.min(model?.contextTokens ?? Infinity, maxContextTokens ?? Infinity)
    if (context !== Infinity) {
      // The input bound counts bytes and is often several times too high: it must not take the whole answer away.
      known.push(Math.max(context - (inputTokens ?? 0), Math.min(policy.clampFloor, context), facts.outputFloor))
    }
    const smallest = known.length === 0 ? policy.outputDefault : Math.min(...known)
    uMax = Math.min(Math.max(smallest, facts.outputFloor), allowed)
  }
  const lowered = asked === null || uMax < asked
  const least = Math.min(uMax, Math.max(policy.clampFloor, facts.outputFloor))
  const clamps = policy.onInsufficient === 'clamp' && facts.clampable
  return {
    uMin: clamps ? least : uMax, uMax, write: lowered, asked, least,
    lacking: lowered && facts.outputFloor > uMax ? facts.outputFloor : 0,
  }
}

/** What is kept of a call's admission. `known`: a dialect reads it. `input`: from `inputBound`. `wanted`: the output bound before any limit looked at it. */
export function admissionBound(facts: RequestFacts, model: Model | null, known: boolean, input: number | null, wanted: number, bytes: number, afterMs: number): AdmissionBound {
  const bound: { -readonly [Name in keyof AdmissionBound]: AdmissionBound[Name] } = { bytes }
  if (known) bound.input = input
  if (known && facts.inputBytes > 0 && facts.inputTokensExact === null && !facts.inputUnseen) bound.text = Math.ceil(facts.inputBytes * (model?.inputFactor ?? 1))
  if (facts.boundsOutput) {
    bound.output = wanted
    if (facts.choices !== 1) bound.choices = facts.choices
    if (facts.outputAsked !== null) bound.asked = facts.outputAsked
    if (facts.outputDefault !== null) bound.default = facts.outputDefault
    if (facts.outputFloor > 0) bound.floor = facts.outputFloor
    if (!facts.clampable) bound.rigid = true
  }
  if (facts.inputMediaTokens !== 0) bound.media = true
  if (facts.imagesAsked !== undefined) bound.images = facts.imagesAsked
  if (afterMs > 0) bound.after_ms = afterMs
  return bound
}
