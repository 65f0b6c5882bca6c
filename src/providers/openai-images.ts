import type { Quantities } from '../metering/meter.ts'
import { HELD_BYTES_MAX, JsonAnswer, type JsonAnswerWords } from './json-answer.ts'
import { ARRAY, JsonTape, name, STRING } from './json-scan.ts'
import { nothingToRead, passingMeter } from './passing.ts'
import type { AnswerMeter, BodyChanges, Metered, RequestFacts, ResponseFacts } from './provider.ts'
import { openaiUsage } from './reported-usage.ts'
import { badRequest, edited, RequestBody } from './request-body.ts'

/** Images made by OpenAI's protocol: how many are wanted is in the request, so that they can be held; what tokens they took is in the answers of some models alone. */

const DATA = name('data')
const IMAGES_MAX = 10
const USER_CHARS_MAX = 512
const scratch = new JsonTape()
const words: JsonAnswerWords = { failedStatuses: [], readUsage: openaiUsage, tallyText: () => {} }

export function inspectImages(bytes: Uint8Array): RequestFacts {
  const body = new RequestBody(bytes)
  const prompt = body.get('prompt')
  if (prompt < 0 || body.tape.kind(prompt) !== STRING) throw badRequest('prompt has to be a string.')
  if (body.boolean('stream') === true) throw badRequest('Images are not streamed here: leave stream out.')
  const kept = bytes
  return {
    ...nothingToRead,
    model: body.model(),
    imagesAsked: body.integer('n', 1, IMAGES_MAX) ?? 1,
    inputBytes: body.size(prompt) - 2,
    user: body.string('user', USER_CHARS_MAX),
    ordinary: [],
    texts: () => {
      const again = new RequestBody(kept)
      return [again.tape.text(again.get('prompt'))]
    },
  }
}

export function prepareImages(bytes: Uint8Array, facts: RequestFacts, { upstreamModel }: BodyChanges): Uint8Array {
  if (upstreamModel === null || upstreamModel === facts.model) return bytes
  return edited(bytes, [new RequestBody(bytes).setting('model', JSON.stringify(upstreamModel))])
}

export function imagesMeter(facts: RequestFacts, response: ResponseFacts): AnswerMeter {
  return new ImagesAnswer(facts, response)
}

class ImagesAnswer implements AnswerMeter {
  readonly #facts: RequestFacts
  readonly #response: ResponseFacts
  readonly #inner: AnswerMeter
  #bytes = 0

  constructor(facts: RequestFacts, response: ResponseFacts) {
    const readable = response.contentType === 'application/json' && (response.contentEncoding === '' || response.contentEncoding === 'identity')
    this.#facts = facts
    this.#response = response
    this.#inner = readable ? new JsonAnswer(facts, response, words) : passingMeter()
  }

  get ended(): boolean {
    return this.#inner.ended
  }

  pass(chunk: Uint8Array): Uint8Array {
    this.#bytes += chunk.length
    return this.#inner.pass(chunk)
  }

  counted(): Quantities {
    return {}
  }

  finish(end: Parameters<AnswerMeter['finish']>[0]): Metered {
    const metered = this.#inner.finish(end)
    const { countLater: _countLater, failed, ...told } = metered
    if (failed === true || this.#response.status >= 400 || this.#bytes === 0) return { ...told, usage: {}, failed: true }
    const made = this.#bytes > HELD_BYTES_MAX ? null : imagesIn(metered.rest)
    const tokens = metered.source === 'upstream' ? metered.usage : {}
    return {
      ...told, usage: { ...tokens, images: made ?? this.#facts.imagesAsked ?? 1 }, source: metered.source === 'upstream' ? 'upstream' : made === null ? 'estimated' : 'counted',
      // Most models tell no tokens: nothing is missing.
      alarms: metered.alarms.filter((alarm) => alarm !== 'usage_missing'),
    }
  }
}

/** null: it was too large to be held, or is cut: what was wanted is counted. */
function imagesIn(held: Uint8Array): number | null {
  if (held.length === 0 || !scratch.scan(held, 0, held.length)) return null
  const data = scratch.member(0, DATA)
  return data >= 0 && scratch.kind(data) === ARRAY ? scratch.count(data) : null
}
