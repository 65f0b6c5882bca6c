import type { Quantities } from '../metering/meter.ts'
import { emptyBytes } from './byte-hold.ts'
import type { AnswerMeter, RequestFacts } from './provider.ts'

/** The facts of a request that nobody here reads. */
export const nothingToRead: RequestFacts = {
  model: null,
  streamed: false,
  usageAsked: true,
  outputAsked: null,
  outputDefault: null,
  boundsOutput: false,
  choices: 1,
  outputFloor: 0,
  clampable: false,
  inputBytes: 0,
  inputMessages: 0,
  inputTools: 0,
  inputMediaTokens: 0,
  inputTokensExact: null,
  inputUnseen: false,
  features: [],
  user: null,
  texts: () => [],
}

/** Passes everything untouched and counts its bytes. Its answers have no end of their own but the connection's. */
export function passingMeter(): AnswerMeter {
  let bytes = 0
  const counted = (): Quantities => ({ bytes_out: bytes })
  return {
    ended: false,
    pass(chunk) {
      bytes += chunk.length
      return chunk
    },
    counted,
    finish: (end) => ({ usage: counted(), source: 'counted', rest: emptyBytes, whole: end === 'complete', alarms: [] }),
  }
}
