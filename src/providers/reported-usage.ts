import type { Quantities } from '../metering/meter.ts'
import { name, NULL, NUMBER, type JsonTape } from './json-scan.ts'

/** What an upstream says it used. `doubtful`: numbers that cannot be true; we count ourselves then. */
export interface ReportedUsage {
  readonly usage: Quantities
  readonly doubtful: boolean
  /** A detail (cached tokens, reasoning) was left out because it cannot be true. */
  readonly flawed: boolean
}

/** More tokens than any exchange has: a number beyond is a fault, not a measure. */
const TOKENS_MAX = 1_000_000_000

/** A count of tokens: null when absent, NaN when it is none (negative, broken, text, absurd). */
export function tokenCount(tape: JsonTape, node: number): number | null {
  if (node < 0 || tape.kind(node) === NULL) return null
  if (tape.kind(node) !== NUMBER) return NaN
  const count = Number(tape.raw(node))
  return Number.isInteger(count) && count >= 0 && count <= TOKENS_MAX ? count + 0 : NaN
}

const PROMPT_TOKENS = name('prompt_tokens')
const COMPLETION_TOKENS = name('completion_tokens')
const INPUT_TOKENS = name('input_tokens')
const OUTPUT_TOKENS = name('output_tokens')
const TOTAL_TOKENS = name('total_tokens')
const PROMPT_DETAILS = name('prompt_tokens_details')
const COMPLETION_DETAILS = name('completion_tokens_details')
const INPUT_DETAILS = name('input_tokens_details')
const OUTPUT_DETAILS = name('output_tokens_details')
const CACHED_TOKENS = name('cached_tokens')
const CACHE_WRITE_TOKENS = name('cache_write_tokens')
const REASONING_TOKENS = name('reasoning_tokens')
const CACHE_HIT_TOKENS = name('prompt_cache_hit_tokens')

/** An OpenAI usage object, of chat (`prompt_tokens`) or of responses (`input_tokens`), with what vendors have made of it. */
export function openaiUsage(tape: JsonTape, node: number): ReportedUsage {
  const chat = tape.member(node, PROMPT_TOKENS) >= 0 || tape.member(node, COMPLETION_TOKENS) >= 0
  const total = tokenCount(tape, tape.member(node, TOTAL_TOKENS))
  let input = tokenCount(tape, tape.member(node, chat ? PROMPT_TOKENS : INPUT_TOKENS))
  let output = tokenCount(tape, tape.member(node, chat ? COMPLETION_TOKENS : OUTPUT_TOKENS))
  const inputDetails = tape.member(node, chat ? PROMPT_DETAILS : INPUT_DETAILS)
  const outputDetails = tape.member(node, chat ? COMPLETION_DETAILS : OUTPUT_DETAILS)
  const cached = tokenCount(tape, tape.member(inputDetails, CACHED_TOKENS)) ?? tokenCount(tape, tape.member(node, CACHE_HIT_TOKENS)) ?? 0
  const cacheWrite = tokenCount(tape, tape.member(inputDetails, CACHE_WRITE_TOKENS)) ?? 0
  const reasoning = tokenCount(tape, tape.member(outputDetails, REASONING_TOKENS)) ?? 0
  // Embeddings report no output. Whatever else is missing can be inferred from the total, or not at all.
  if (output === null && input !== null) output = total === null ? 0 : total - input
  if (input === null && output !== null && total !== null) input = total - output
  if (input === null || output === null) return doubtful
  // Some vendors leave reasoning out of the completion and count it in the total alone.
  if (total !== null && total === input + output + reasoning) output = total - input
  if (!(input >= 0 && output >= 0) || (total !== null && total !== input + output)) return doubtful
  return normalUsage(input, output, cached, cacheWrite, reasoning)
}

export const doubtful: ReportedUsage = { usage: {}, doubtful: true, flawed: true }

/** Totals that are sound, with details that may not be: parts of a whole cannot be more than it. */
export function normalUsage(input: number, output: number, cached: number, cacheWrite: number, reasoning: number): ReportedUsage {
  const inputFlawed = !(cached + cacheWrite <= input)
  const outputFlawed = !(reasoning <= output)
  const usage: Quantities = { input_tokens: input, output_tokens: output, total_tokens: input + output }
  if (!inputFlawed) {
    usage.cached_input_tokens = cached
    usage.cache_write_tokens = cacheWrite
  }
  if (!outputFlawed) usage.reasoning_tokens = reasoning
  return { usage, doubtful: false, flawed: inputFlawed || outputFlawed }
}
