import type { Quantities } from '../metering/meter.ts'
import type { AnswerMeter, Metered, RequestFacts } from '../providers/provider.ts'

/** Common text has about four bytes a token. */
const bytesPerToken = 4

/** Stands in for a meter that failed: it passes everything on and estimates from bytes, so that an answer is never broken and never free. */
export class ByteMeter implements AnswerMeter {
  readonly ended = false
  readonly #input: number
  #bytes = 0

  constructor(facts: RequestFacts) {
    this.#input = facts.inputTokensExact ?? Math.ceil(facts.inputBytes / bytesPerToken) + facts.inputMediaTokens
  }

  pass(chunk: Uint8Array): Uint8Array {
    this.#bytes += chunk.length
    return chunk
  }

  counted(): Quantities {
    const output = Math.ceil(this.#bytes / bytesPerToken)
    return { input_tokens: this.#input, output_tokens: output, total_tokens: this.#input + output }
  }

  finish(): Metered {
    return { usage: this.counted(), source: 'estimated', rest: new Uint8Array(0), whole: true, alarms: ['meter_failed'] }
  }
}
