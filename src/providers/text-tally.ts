import type { Quantities } from '../metering/meter.ts'
import { asBuffer, ByteHold } from './byte-hold.ts'
import type { RequestFacts } from './provider.ts'
import { countTokens, encodingOf } from './tokenizer.ts'

/** Text kept of one answer, in case that it must be counted; what goes beyond is taken to be like it. */
export const TALLY_BYTES_MAX = 256 * 1024
const CHOICES_MAX = 128

/**
 * The text that an answer has produced so far, as it stood in JSON strings, in case that the upstream never says how much it
 * was. Choices are kept apart, for they arrive interleaved.
 */
export class TextTally {
  readonly #choices: ByteHold[] = []
  #kept = 0
  #bytes = 0
  #pieces = 0
  /** Where the last string stood, and whose it was. */
  lastStart = 0
  lastEnd = 0
  lastChoice = 0

  /** How many strings have been added. */
  get pieces(): number {
    return this.#pieces
  }

  get empty(): boolean {
    return this.#bytes === 0
  }

  /** Takes a JSON string's bytes without its quotes. */
  add(choice: number, bytes: Uint8Array, start: number, end: number): void {
    if (end <= start) return
    this.#bytes += end - start
    this.#pieces++
    this.lastStart = start
    this.lastEnd = end
    this.lastChoice = choice
    if (this.#kept + end - start > TALLY_BYTES_MAX) return
    this.#kept += end - start
    const place = choice >= 0 && choice < CHOICES_MAX ? choice : 0
    let hold = this.#choices[place]
    if (hold === undefined) {
      hold = new ByteHold()
      this.#choices[place] = hold
    }
    hold.addCopy(bytes, start, end)
  }

  /** Text that was seen but could not be kept apart from what surrounds it. */
  addUnread(bytes: number): void {
    this.#bytes += bytes
  }

  /** Tokens, cheaply and never more than there are bytes: four bytes a token, but a piece of a stream is a token at least. */
  estimate(): number {
    return Math.max(this.#pieces, Math.ceil(this.#bytes / 4))
  }

  /** Tokens by the tokenizer. */
  async count(model: string | null): Promise<number> {
    if (this.#bytes === 0) return 0
    if (this.#kept === 0) return this.estimate()
    const tokens = await countTokens(this.#texts(), encodingOf(model).encoding)
    return Math.ceil(tokens * (this.#bytes / this.#kept))
  }

  /** All of it was kept: the count is exact. */
  get whole(): boolean {
    return this.#kept === this.#bytes
  }

  * #texts(): Iterable<string> {
    for (const hold of this.#choices) {
      if (hold === undefined) continue
      const raw = asBuffer(hold.view()).toString('utf8')
      yield raw.includes('\\') ? unescaped(raw) : raw
    }
  }
}

function unescaped(raw: string): string {
  try {
    return String(JSON.parse(`"${raw}"`))
  } catch {
    // An escape was cut by the bound: the raw text is nearly as long.
    return raw
  }
}

/** The prompt's tokens, cheaply; exact text where it is known, and what OpenAI documents as a chat's overhead. */
export function estimatedInput(facts: RequestFacts): number {
  const overhead = facts.inputMessages > 0 ? 3 + 3 * facts.inputMessages : 0
  return (facts.inputTokensExact ?? Math.ceil(facts.inputBytes / 4)) + overhead + facts.inputMediaTokens
}

/** The same with the text counted by the tokenizer. */
export async function countedInput(facts: RequestFacts): Promise<number> {
  const inputTokensExact = facts.inputTokensExact ?? await countTokens(facts.texts(), encodingOf(facts.model).encoding)
  return estimatedInput({ ...facts, inputTokensExact })
}

/** Never more than the bound that the upstream was given for certain. */
export function boundedOutput(facts: RequestFacts, tokens: number): number {
  return facts.outputAsked === null ? tokens : Math.min(tokens, facts.outputAsked * facts.choices)
}

export function tokensOf(input: number, output: number): Quantities {
  return { input_tokens: input, output_tokens: output, total_tokens: input + output }
}
