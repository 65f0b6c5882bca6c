import type { Quantities } from '../metering/meter.ts'
import { DeltaTemplate } from './delta-template.ts'
import { chooseMeter, JsonAnswer, type JsonAnswerWords } from './json-answer.ts'
import { ARRAY, JsonCapture, JsonTape, name, NULL, NUMBER, OBJECT, STRING } from './json-scan.ts'
import type { AnswerMeter, Metered, RequestFacts, ResponseFacts } from './provider.ts'
import { doubtful, normalUsage, tokenCount, type ReportedUsage } from './reported-usage.ts'
import { HOLD, PASS, type Verdict } from './sse.ts'
import { StreamAnswer } from './stream-answer.ts'

const TYPE = name('type')
const MESSAGE = name('message')
const MODEL = name('model')
const USAGE = name('usage')
const INDEX = name('index')
const DELTA = name('delta')
const CONTENT = name('content')
const CONTENT_BLOCK = name('content_block')
const NAME = name('name')
const INPUT = name('input')
const TEXT = name('text')
const THINKING = name('thinking')
const PARTIAL_JSON = name('partial_json')
const SERVICE_TIER = name('service_tier')
const INPUT_TOKENS = name('input_tokens')
const OUTPUT_TOKENS = name('output_tokens')
const CACHE_WRITE = name('cache_creation_input_tokens')
const CACHE_READ = name('cache_read_input_tokens')
const OUTPUT_DETAILS = name('output_tokens_details')
const THINKING_TOKENS = name('thinking_tokens')
const ITERATIONS = name('iterations')

const scratch = new JsonTape()

export function anthropicMeter(facts: RequestFacts, response: ResponseFacts): AnswerMeter {
  return chooseMeter(facts, response, () => new JsonAnswer(facts, response, messageWords), () => new MessageStream(facts))
}

/** Anthropic's counts, of which caching is no part: the input is the sum. Fields arrive early and may be null later: the last number stands. */
class MessageCounts {
  #input: number | null = null
  #cacheWrite: number | null = null
  #cacheRead: number | null = null
  #output: number | null = null
  #thinking: number | null = null
  /** What iterations used beyond the counts above: compaction always, an advisor when the counts leave it out. */
  #moreInput = 0
  #moreCacheWrite = 0
  #moreCacheRead = 0
  #moreOutput = 0
  flawed = false

  take(tape: JsonTape, usage: number): void {
    this.#input = this.#latest(tape, tape.member(usage, INPUT_TOKENS), this.#input)
    this.#cacheWrite = this.#latest(tape, tape.member(usage, CACHE_WRITE), this.#cacheWrite)
    this.#cacheRead = this.#latest(tape, tape.member(usage, CACHE_READ), this.#cacheRead)
    this.#output = this.#latest(tape, tape.member(usage, OUTPUT_TOKENS), this.#output)
    this.#thinking = this.#latest(tape, tape.member(tape.member(usage, OUTPUT_DETAILS), THINKING_TOKENS), this.#thinking)
    this.#iterations(tape, tape.member(usage, ITERATIONS))
  }

  #latest(tape: JsonTape, node: number, before: number | null): number | null {
    const count = tokenCount(tape, node)
    if (Number.isNaN(count)) this.flawed = true
    return count === null || Number.isNaN(count) ? before : count
  }

  #iterations(tape: JsonTape, list: number): void {
    if (tape.kind(list) !== ARRAY) return
    this.#moreInput = this.#moreCacheWrite = this.#moreCacheRead = this.#moreOutput = 0
    let messages = 0
    const extras: number[] = []
    const advisors: number[] = []
    for (let item = tape.first(list), end = tape.after(list); item < end; item = tape.after(item)) {
      const type = tape.member(item, TYPE)
      const word = tape.kind(type) === STRING ? tape.text(type) : ''
      if (word === 'compaction') extras.push(item)
      else if (word === 'advisor_message') advisors.push(item)
      else messages += tokenCount(tape, tape.member(item, OUTPUT_TOKENS)) || 0
    }
    if (messages === this.#output) extras.push(...advisors)
    for (const item of extras) {
      const write = tokenCount(tape, tape.member(item, CACHE_WRITE)) || 0
      const read = tokenCount(tape, tape.member(item, CACHE_READ)) || 0
      this.#moreInput += (tokenCount(tape, tape.member(item, INPUT_TOKENS)) || 0) + write + read
      this.#moreCacheWrite += write
      this.#moreCacheRead += read
      this.#moreOutput += tokenCount(tape, tape.member(item, OUTPUT_TOKENS)) || 0
    }
  }

  usage(): ReportedUsage {
    if (this.#input === null || this.#output === null) return doubtful
    const cacheWrite = this.#cacheWrite ?? 0
    const cacheRead = this.#cacheRead ?? 0
    const reported = normalUsage(this.#input + cacheWrite + cacheRead + this.#moreInput, this.#output + this.#moreOutput,
      cacheRead + this.#moreCacheRead, cacheWrite + this.#moreCacheWrite, this.#thinking ?? 0)
    return this.flawed ? { ...reported, flawed: true } : reported
  }

  /** The input alone, before any output was reported; null when there is none. */
  inputUsage(): Quantities | null {
    if (this.#input === null) return null
    const cacheWrite = this.#cacheWrite ?? 0
    const cacheRead = this.#cacheRead ?? 0
    return { input_tokens: this.#input + cacheWrite + cacheRead, cached_input_tokens: cacheRead, cache_write_tokens: cacheWrite }
  }
}

const messageWords: JsonAnswerWords = {
  failedStatuses: [],
  readUsage(tape, usage) {
    const counts = new MessageCounts()
    counts.take(tape, usage)
    return counts.usage()
  },
  tallyText(tape, tally) {
    const content = tape.member(0, CONTENT)
    if (tape.kind(content) !== ARRAY) return
    let index = 0
    for (let block = tape.first(content), end = tape.after(content); block < end; block = tape.after(block), index++) {
      for (const field of [TEXT, THINKING, NAME]) {
        const text = tape.member(block, field)
        if (tape.kind(text) === STRING) tally.add(index, tape.bytes, tape.start(text) + 1, tape.end(text) - 1)
      }
      const input = tape.member(block, INPUT)
      if (tape.kind(input) === OBJECT) tally.add(index, tape.bytes, tape.start(input), tape.end(input))
    }
  },
}

/** Named events: `message_start` with the input, deltas, `message_delta` with the output so far, `message_stop`. */
export class MessageStream extends StreamAnswer {
  readonly #counts = new MessageCounts()
  readonly #template = new DeltaTemplate()
  #openBlock = -1
  #large: JsonCapture | null = null
  #largeBytes = 0

  looksWhole(): boolean {
    return false
  }

  event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict {
    if (!isError && this.#template.matches(bytes, start, end, this.tally)) return PASS
    const tape = scratch
    const { pieces } = this.tally
    if (!tape.scan(bytes, start, end) || tape.kind(0) !== OBJECT) {
      this.alarm('malformed_event')
      return isError ? this.#fails() : PASS
    }
    const typeNode = tape.member(0, TYPE)
    const type = tape.kind(typeNode) === STRING ? tape.text(typeNode) : ''
    switch (type) {
      case 'content_block_delta':
        this.#delta(tape, tape.member(0, DELTA))
        if (this.tally.pieces === pieces + 1) this.#template.learn(bytes, start, end, this.tally)
        return PASS
      case 'message_start': {
        this.begun = true
        const message = tape.member(0, MESSAGE)
        const model = tape.member(message, MODEL)
        if (tape.kind(model) === STRING && tape.end(model) - tape.start(model) <= 258) this.modelServed = tape.text(model)
        this.#usage(tape, tape.member(message, USAGE))
        this.reportedInput = this.#counts.inputUsage()
        return PASS
      }
      case 'content_block_start': {
        this.begun = true
        const index = tape.member(0, INDEX)
        this.#openBlock = tape.kind(index) === NUMBER ? Number(tape.raw(index)) : 0
        const block = tape.member(0, CONTENT_BLOCK)
        for (const field of [NAME, TEXT, THINKING]) this.#text(tape, tape.member(block, field))
        return PASS
      }
      case 'content_block_stop':
        this.#openBlock = -1
        return PASS
      case 'message_delta': {
        this.begun = true
        const usage = tape.member(0, USAGE)
        if (tape.kind(usage) !== OBJECT) return PASS
        this.#usage(tape, usage)
        const output = tokenCount(tape, tape.member(usage, OUTPUT_TOKENS))
        if (output === null || Number.isNaN(output)) return PASS
        const reported = this.#counts.usage()
        if (reported.flawed) this.alarm('usage_invalid')
        if (reported.doubtful) return PASS
        if (this.reported !== null && (this.reported.output_tokens ?? 0) > (reported.usage.output_tokens ?? 0)) this.alarm('usage_conflicting')
        this.reported = reported.usage
        this.final = true
        return PASS
      }
      case 'message_stop':
        this.begun = true
        this.terminal = true
        return HOLD
      case 'error':
        return this.#fails()
      default:
        return isError ? this.#fails() : PASS
    }
  }

  #usage(tape: JsonTape, usage: number): void {
    if (tape.kind(usage) !== OBJECT) {
      if (usage >= 0 && tape.kind(usage) !== NULL) this.alarm('usage_invalid')
      return
    }
    this.#counts.take(tape, usage)
    const tier = tape.member(usage, SERVICE_TIER)
    if (tape.kind(tier) === STRING && tape.end(tier) - tape.start(tier) <= 66) this.serviceTier = tape.text(tier)
    if (this.#counts.flawed) this.alarm('usage_invalid')
  }

  #delta(tape: JsonTape, delta: number): void {
    this.begun = true
    if (tape.kind(delta) !== OBJECT) return
    for (let key = tape.first(delta), end = tape.after(delta); key < end; key = tape.after(tape.valueOf(key))) {
      if (tape.keyIs(key, TEXT) || tape.keyIs(key, PARTIAL_JSON) || tape.keyIs(key, THINKING)) this.#text(tape, tape.valueOf(key))
    }
  }

  #text(tape: JsonTape, node: number): void {
    if (tape.kind(node) === STRING) this.tally.add(0, tape.bytes, tape.start(node) + 1, tape.end(node) - 1)
  }

  #fails(): Verdict {
    this.failed = true
    this.terminal = true
    return HOLD
  }

  piece(bytes: Uint8Array, start: number, end: number): void {
    this.begun = true
    this.#large ??= new JsonCapture(['type'])
    this.#large.push(bytes, start, end)
    this.#largeBytes += end - start
  }

  pieceEnd(): Verdict {
    // A block of that size holds base64 or a search's results; what it cost is in the usage that follows.
    this.#large = null
    this.tally.addUnread(this.#largeBytes)
    this.#largeBytes = 0
    return PASS
  }

  renderQuotaStop(metered: Metered): Uint8Array {
    let frames = this.stream.flowing ? '\n\n' : ''
    if (this.#openBlock >= 0) frames += frame({ type: 'content_block_stop', index: this.#openBlock })
    const usage = { output_tokens: metered.usage.output_tokens ?? 0 }
    frames += frame({ type: 'message_delta', delta: { stop_reason: 'max_tokens', stop_sequence: null }, usage })
    return Buffer.from(frames + frame({ type: 'message_stop' }))
  }
}

function frame(data: { readonly type: string; readonly [member: string]: unknown }): string {
  return `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
}

