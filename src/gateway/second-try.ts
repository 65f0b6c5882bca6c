import { text } from './upstream-error.ts'

/**
 * Reads an upstream's 400 about something that we, not the caller, wrote into the request. Only then is a call made twice: the first was
 * refused before anything was computed.
 */

/** It does not know `stream_options`, which we added. */
export function rejectsUsageOption(status: number, body: Uint8Array): boolean {
  return (status === 400 || status === 422) && /stream_options|include_usage/.test(text(body))
}

export interface RejectedBound {
  /** What the upstream says it knows, in tokens; null: it does not say. */
  readonly context: number | null
  readonly prompt: number | null
  readonly outputMax: number | null
  /** The field it wants the bound in. */
  readonly field: string | null
}

/** It does not take the output bound. null: its complaint is about something else. */
export function rejectedBound(status: number, body: Uint8Array, writtenField: string): RejectedBound | null {
  if (status !== 400 && status !== 422) return null
  const words = text(body)
  if (!/max_(?:completion_|output_|new_)?tokens|maximum context|context (?:length|window|limit|size)|(?:completion|output) tokens/i.test(words)) return null
  const unsupported = /unsupported parameter|not supported/i.test(words)
  const wanted = /'?(max_completion_tokens|max_output_tokens|max_tokens)'? instead/i.exec(words)?.[1] ?? null
  return {
    context: number(/context (?:length|window|size)(?: is| of)?:? (\d+)/i, words) ?? number(/context limit: \d+ \+ \d+ > (\d+)/i, words),
    prompt: number(/\((\d+) in (?:the|your) (?:messages|prompt)/i, words) ?? number(/has (\d+) input tokens/i, words) ?? number(/context limit: (\d+) \+/i, words),
    outputMax: number(/at most (\d+) (?:completion|output) tokens/i, words) ?? number(/max_tokens: \d+ > (\d+)/i, words),
    field: unsupported && wanted !== null && wanted !== writtenField ? wanted : null,
  }
}

function number(pattern: RegExp, words: string): number | null {
  const digits = pattern.exec(words)?.[1]
  return digits === undefined || digits.length > 12 ? null : Number(digits)
}

/**
 * The bound for the second try, given the prompt's exact tokens (null: not countable); null: no bound can help, the prompt itself is too long.
 * Never above `written`, which is what the reservation holds.
 */
export function smallerBound(written: number, rejected: RejectedBound, context: number | null, prompt: number | null): number | null {
  if (rejected.field !== null) return written
  const room = rejected.context ?? context
  const used = rejected.prompt ?? prompt
  const fromContext = room !== null && used !== null ? room - used : null
  const candidates = [fromContext, rejected.outputMax].filter((candidate) => candidate !== null)
  const bound = candidates.length > 0 ? Math.min(...candidates) : Math.floor(written / 4)
  if (bound < 1) return null
  // A bound that is no smaller would be rejected again.
  return bound < written ? bound : Math.floor(written / 2) || null
}
