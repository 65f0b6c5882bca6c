import type { StreamEnd } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'
import { ByteHold, emptyBytes } from './byte-hold.ts'
import { JsonCapture, JsonTape, NULL, OBJECT, STRING, FALSE } from './json-scan.ts'
import type { AnswerMeter, Metered, MeterAlarm, RequestFacts, ResponseFacts } from './provider.ts'
import type { ReportedUsage } from './reported-usage.ts'
import { boundedOutput, countedInput, estimatedInput, TextTally, tokensOf } from './text-tally.ts'

/** A plain answer is held whole up to here, so that its quota headers are exact; beyond, only its last piece is. */
export const HELD_BYTES_MAX = 1024 * 1024

/** What a dialect knows of its plain answers. */
export interface JsonAnswerWords {
  readUsage(tape: JsonTape, usage: number): ReportedUsage
  /** Adds the text that a whole answer holds to the tally. */
  tallyText(tape: JsonTape, tally: TextTally): void
  /** Does the `error` or `status` of a 200 say that it failed? */
  readonly failedStatuses: readonly string[]
}

const members = ['usage', 'model', 'service_tier', 'error', 'status']
const scratch = new JsonTape()

/** Meters one JSON answer, in chunks of any size and split. */
export class JsonAnswer implements AnswerMeter {
  readonly #facts: RequestFacts
  readonly #response: ResponseFacts
  readonly #words: JsonAnswerWords
  readonly #capture = new JsonCapture(members)
  readonly #hold = new ByteHold()
  #flowing = false
  #bytes = 0

  constructor(facts: RequestFacts, response: ResponseFacts, words: JsonAnswerWords) {
    this.#facts = facts
    this.#response = response
    this.#words = words
  }

  get ended(): boolean {
    return this.#capture.closed
  }

  pass(chunk: Uint8Array): Uint8Array {
    if (chunk.length === 0) return emptyBytes
    this.#bytes += chunk.length
    this.#capture.push(chunk)
    if (!this.#flowing && this.#hold.length + chunk.length <= HELD_BYTES_MAX) {
      this.#hold.add(chunk)
      return emptyBytes
    }
    // Always one chunk behind, so that the answer's last bytes wait for the books.
    this.#flowing = true
    const before = this.#hold.take()
    this.#hold.add(chunk)
    return before
  }

  counted(): Quantities {
    return this.#bytes === 0 || this.#response.status >= 400 ? {} : tokensOf(estimatedInput(this.#facts), 0)
  }

  finish(end: StreamEnd): Metered {
    const whole = this.#capture.closed && this.#capture.root !== 'none'
    const held = this.#hold.take()
    const rest = whole || end === 'complete' ? held : emptyBytes
    const alarms: MeterAlarm[] = []
    const modelServed = this.#string('model')
    const serviceTier = this.#string('service_tier')
    const failed = this.#response.status >= 400 || this.#saysFailed()
    const facts = {
      rest, whole, alarms,
      ...(modelServed === null ? {} : { modelServed }),
      ...(serviceTier === null ? {} : { serviceTier }),
      ...(failed ? { failed } : {}),
    }
    const reported = this.#reported()
    if (reported !== null && !reported.doubtful) {
      if (reported.flawed) alarms.push('usage_invalid')
      return { ...facts, usage: reported.usage, source: 'upstream' }
    }
    if (reported !== null) alarms.push('usage_invalid')
    // An error costs nothing unless it says so, and an answer without content is one.
    if (failed) return { ...facts, usage: {}, source: 'estimated' }
    if (end === 'complete' && reported === null) alarms.push('usage_missing')
    if (this.#bytes === 0 || (end === 'complete' && this.#capture.root !== 'object')) return { ...facts, failed: true, usage: {}, source: 'estimated' }
    return { ...facts, ...this.#ownCount(held, whole) }
  }

  #ownCount(held: Uint8Array, whole: boolean): Pick<Metered, 'usage' | 'source' | 'countLater'> {
    const facts = this.#facts
    const tally = new TextTally()
    const readable = !this.#flowing && whole && scratch.scan(held, textStart(held), held.length)
    if (readable) this.#words.tallyText(scratch, tally)
    else if (facts.boundsOutput) tally.addUnread(this.#bytes)
    const usage = tokensOf(estimatedInput(facts), facts.boundsOutput ? boundedOutput(facts, tally.estimate()) : 0)
    if (!readable || !tally.whole) return { usage, source: 'estimated' }
    return {
      usage,
      source: 'counted',
      countLater: async () => tokensOf(await countedInput(facts), facts.boundsOutput ? boundedOutput(facts, await tally.count(facts.model)) : 0),
    }
  }

  #reported(): ReportedUsage | null {
    const raw = this.#capture.found('usage')
    if (raw === undefined || !scratch.scan(raw, 0, raw.length) || scratch.kind(0) === NULL) return null
    return scratch.kind(0) === OBJECT ? this.#words.readUsage(scratch, 0) : { usage: {}, doubtful: true, flawed: true }
  }

  #saysFailed(): boolean {
    const error = this.#capture.found('error')
    if (error !== undefined && scratch.scan(error, 0, error.length) && scratch.kind(0) !== NULL && scratch.kind(0) !== FALSE) return true
    const status = this.#string('status')
    return status !== null && this.#words.failedStatuses.includes(status)
  }

  #string(member: string): string | null {
    const raw = this.#capture.found(member)
    if (raw === undefined || raw.length > 512 || !scratch.scan(raw, 0, raw.length) || scratch.kind(0) !== STRING) return null
    return scratch.text(0)
  }
}

/** After a byte order mark, which some servers send and the grammar does not have. */
function textStart(bytes: Uint8Array): number {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0
}

/** Meters bytes that nobody here can read: a content encoding that we had not asked for. */
export class UnreadableAnswer implements AnswerMeter {
  readonly #facts: RequestFacts
  readonly #response: ResponseFacts
  #bytes = 0
  readonly ended = false

  constructor(facts: RequestFacts, response: ResponseFacts) {
    this.#facts = facts
    this.#response = response
  }

  pass(chunk: Uint8Array): Uint8Array {
    this.#bytes += chunk.length
    return chunk
  }

  counted(): Quantities {
    if (this.#bytes === 0 || this.#response.status >= 400) return {}
    return tokensOf(estimatedInput(this.#facts), this.#facts.boundsOutput ? boundedOutput(this.#facts, Math.ceil(this.#bytes / 4)) : 0)
  }

  finish(end: StreamEnd): Metered {
    const failed = this.#response.status >= 400
    return {
      usage: this.counted(), source: 'estimated', rest: emptyBytes, whole: end === 'complete',
      alarms: failed ? [] : ['undecodable'], ...(failed ? { failed } : {}),
    }
  }
}

/** Chooses the meter by the first byte, for a caller who asked for a stream reads one whatever its content type says. */
export class UnlabelledAnswer implements AnswerMeter {
  readonly #json: () => AnswerMeter
  readonly #stream: () => AnswerMeter
  #chosen: AnswerMeter | null = null
  readonly #before = new ByteHold()

  constructor(json: () => AnswerMeter, stream: () => AnswerMeter) {
    this.#json = json
    this.#stream = stream
  }

  get ended(): boolean {
    return this.#chosen?.ended ?? false
  }

  pass(chunk: Uint8Array): Uint8Array {
    if (this.#chosen !== null) return this.#chosen.pass(chunk)
    this.#before.add(chunk)
    const first = firstByte(this.#before.view())
    if (first === undefined && this.#before.length < 1024) return emptyBytes
    this.#chosen = first === 0x7b || first === 0x5b ? this.#json() : this.#stream()
    return this.#chosen.pass(this.#before.take())
  }

  counted(): Quantities {
    return this.#chosen?.counted() ?? {}
  }

  finish(end: StreamEnd): Metered {
    if (this.#chosen === null) {
      this.#chosen = this.#json()
      this.#chosen.pass(this.#before.take())
    }
    return this.#chosen.finish(end)
  }

  renderQuotaStop(metered: Metered): Uint8Array {
    return this.#chosen?.renderQuotaStop?.(metered) ?? emptyBytes
  }
}

function firstByte(bytes: Uint8Array): number | undefined {
  for (let i = textStart(bytes); i < bytes.length; i++) {
    const byte = bytes[i]
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte
  }
  return undefined
}

/** Which meter an answer of a dialect gets. */
export function chooseMeter(facts: RequestFacts, response: ResponseFacts, json: () => AnswerMeter, stream: () => AnswerMeter): AnswerMeter {
  if (response.contentEncoding !== '' && response.contentEncoding !== 'identity') return new UnreadableAnswer(facts, response)
  if (response.contentType === 'text/event-stream') return stream()
  return facts.streamed && response.status < 400 ? new UnlabelledAnswer(json, stream) : json()
}
