import type { Quantities } from '../metering/meter.ts'
import { asBuffer } from './byte-hold.ts'
import { DeltaTemplate } from './delta-template.ts'
import { chooseMeter, JsonAnswer, type JsonAnswerWords } from './json-answer.ts'
import { ARRAY, FALSE, JsonCapture, JsonTape, name, NULL, NUMBER, OBJECT, STRING, type Name } from './json-scan.ts'
import type { AnswerMeter, Metered, RequestFacts, ResponseFacts } from './provider.ts'
import { openaiUsage, type ReportedUsage } from './reported-usage.ts'
import { DROP, HOLD, PASS, type Verdict } from './sse.ts'
import { StreamAnswer } from './stream-answer.ts'
import type { TextTally } from './text-tally.ts'

const ID = name('id')
const CREATED = name('created')
const MODEL = name('model')
const CHOICES = name('choices')
const USAGE = name('usage')
const ERROR = name('error')
const SERVICE_TIER = name('service_tier')
const X_GROQ = name('x_groq')
const INDEX = name('index')
const DELTA = name('delta')
const MESSAGE = name('message')
const TEXT = name('text')
const THINKING = name('thinking')
const FINISH_REASON = name('finish_reason')
const CONTENT = name('content')
const REFUSAL = name('refusal')
const REASONING_CONTENT = name('reasoning_content')
const REASONING = name('reasoning')
const TOOL_CALLS = name('tool_calls')
const FUNCTION_CALL = name('function_call')
const FUNCTION = name('function')
const CUSTOM = name('custom')
const NAME = name('name')
const ARGUMENTS = name('arguments')
const INPUT = name('input')
const TYPE = name('type')
const RESPONSE = name('response')
const SEQUENCE_NUMBER = name('sequence_number')
const SUMMARY = name('summary')
const OUTPUT = name('output')

/** Where the event or answer being looked at stands. One for all: nothing is kept between two events. */
const scratch = new JsonTape()
const nameCharsMax = 256

export function openaiMeter(kind: 'chat' | 'completions' | 'embeddings' | 'responses', facts: RequestFacts, response: ResponseFacts): AnswerMeter {
  const words = kind === 'responses' ? responsesWords : chatWords
  return chooseMeter(facts, response, () => new JsonAnswer(facts, response, words),
    () => kind === 'responses' ? new ResponsesStream(facts) : new ChatStream(facts, kind === 'completions'))
}

// ---- text ----

function addString(tape: JsonTape, node: number, tally: TextTally, choice: number): void {
  if (tape.kind(node) === STRING) tally.add(choice, tape.bytes, tape.start(node) + 1, tape.end(node) - 1)
}

/** A string, or a list of parts that hold their text in `text`, `thinking`, `refusal` or `summary`. */
function addContent(tape: JsonTape, node: number, tally: TextTally, choice: number): void {
  if (tape.kind(node) !== ARRAY) return addString(tape, node, tally, choice)
  for (let part = tape.first(node), end = tape.after(node); part < end; part = tape.after(part)) {
    addString(tape, tape.member(part, TEXT), tally, choice)
    addString(tape, tape.member(part, REFUSAL), tally, choice)
    addContent(tape, tape.member(part, THINKING), tally, choice)
  }
}

function addCall(tape: JsonTape, call: number, tally: TextTally, choice: number): void {
  addString(tape, tape.member(call, NAME), tally, choice)
  addString(tape, tape.member(call, ARGUMENTS), tally, choice)
  addString(tape, tape.member(call, INPUT), tally, choice)
}

/** A chat message or a delta of one. */
function addMessage(tape: JsonTape, message: number, tally: TextTally, choice: number): void {
  if (tape.kind(message) !== OBJECT) return
  let reasoned = false
  for (let key = tape.first(message), end = tape.after(message); key < end; key = tape.after(tape.valueOf(key))) {
    const value = tape.valueOf(key)
    if (tape.kind(value) === NULL) continue
    if (tape.keyIs(key, CONTENT)) addContent(tape, value, tally, choice)
    else if (tape.keyIs(key, REFUSAL)) addString(tape, value, tally, choice)
    else if (tape.keyIs(key, REASONING_CONTENT) || tape.keyIs(key, REASONING)) {
      // Some servers send the same text under both names.
      if (!reasoned) addString(tape, value, tally, choice)
      reasoned = tape.kind(value) === STRING
    } else if (tape.keyIs(key, TOOL_CALLS) && tape.kind(value) === ARRAY) {
      for (let call = tape.first(value), last = tape.after(value); call < last; call = tape.after(call)) {
        addCall(tape, tape.member(call, FUNCTION), tally, choice)
        addCall(tape, tape.member(call, CUSTOM), tally, choice)
      }
    } else if (tape.keyIs(key, FUNCTION_CALL)) addCall(tape, value, tally, choice)
  }
}

const chatWords: JsonAnswerWords = {
  failedStatuses: [],
  readUsage: openaiUsage,
  tallyText(tape, tally) {
    const choices = tape.member(0, CHOICES)
    if (tape.kind(choices) !== ARRAY) return
    let at = 0
    for (let choice = tape.first(choices), end = tape.after(choices); choice < end; choice = tape.after(choice), at++) {
      addString(tape, tape.member(choice, TEXT), tally, at)
      addMessage(tape, tape.member(choice, MESSAGE), tally, at)
    }
  },
}

const responsesWords: JsonAnswerWords = {
  failedStatuses: ['failed'],
  readUsage: openaiUsage,
  tallyText(tape, tally) {
    const output = tape.member(0, OUTPUT)
    if (tape.kind(output) !== ARRAY) return
    for (let item = tape.first(output), end = tape.after(output); item < end; item = tape.after(item)) {
      addContent(tape, tape.member(item, CONTENT), tally, 0)
      addContent(tape, tape.member(item, SUMMARY), tally, 0)
      addCall(tape, item, tally, 0)
    }
  },
}

// ---- what streams have in common ----

/** A short string member; null when there is none. */
function stringMember(tape: JsonTape, node: number, wanted: Name): string | null {
  const value = tape.member(node, wanted)
  if (tape.kind(value) !== STRING || tape.end(value) - tape.start(value) > nameCharsMax) return null
  return tape.text(value)
}

function isTruthy(tape: JsonTape, node: number): boolean {
  const kind = tape.kind(node)
  return node >= 0 && kind !== NULL && kind !== FALSE && !(kind === STRING && tape.end(node) - tape.start(node) === 2)
}

/** `[DONE]`, with whatever follows: older clients take any text that begins so for the end. */
function isDone(bytes: Uint8Array, start: number, end: number): boolean {
  return end - start >= 6 && bytes[start] === 0x5b && asBuffer(bytes).toString('latin1', start, start + 6) === '[DONE]'
}

function frame(data: unknown, event = ''): string {
  return `${event === '' ? '' : `event: ${event}\n`}data: ${JSON.stringify(data)}\n\n`
}

function openaiUsageObject(usage: Quantities, chat: boolean): Record<string, number> {
  const input = usage.input_tokens ?? 0
  const output = usage.output_tokens ?? 0
  return chat
    ? { prompt_tokens: input, completion_tokens: output, total_tokens: input + output }
    : { input_tokens: input, output_tokens: output, total_tokens: input + output }
}

// ---- chat.completions and completions ----

/** Streams of `data:` events that end with `data: [DONE]`; usage in a chunk of its own, or wherever a vendor puts it. */
export class ChatStream extends StreamAnswer {
  readonly #legacy: boolean
  readonly #template = new DeltaTemplate()
  #finished = false
  /** Choices that have begun and not ended: they get their `finish_reason` when a quota ends the stream. */
  readonly #open = new Set<number>()
  #id: string | null = null
  #created = 0
  #model: string | null = null
  /** For a chunk too large to keep. */
  #large: JsonCapture | null = null
  #largeBytes = 0

  constructor(facts: RequestFacts, legacy: boolean) {
    super(facts)
    this.#legacy = legacy
  }

  looksWhole(): boolean {
    return this.#finished && this.final
  }

  event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict {
    if (!isError && this.#template.matches(bytes, start, end, this.tally)) return PASS
    if (isDone(bytes, start, end)) {
      this.terminal = true
      this.begun = true
      return HOLD
    }
    const tape = scratch
    const { pieces } = this.tally
    if (!tape.scan(bytes, start, end) || tape.kind(0) !== OBJECT) {
      this.alarm('malformed_event')
      return isError ? this.#fails() : PASS
    }
    let choices = -1
    let usage = -1
    let vendorUsage = -1
    let error = false
    for (let key = tape.first(0), last = tape.after(0); key < last; key = tape.after(tape.valueOf(key))) {
      const value = tape.valueOf(key)
      if (tape.keyIs(key, CHOICES)) choices = value
      else if (tape.keyIs(key, USAGE)) usage = value
      else if (tape.keyIs(key, ERROR)) error = isTruthy(tape, value)
      else if (tape.keyIs(key, X_GROQ)) vendorUsage = tape.member(value, USAGE)
      else if (this.#id === null && tape.keyIs(key, ID) && tape.kind(value) === STRING) this.#id = tape.text(value)
      else if (this.#created === 0 && tape.keyIs(key, CREATED) && tape.kind(value) === NUMBER) this.#created = Number(tape.raw(value))
      // Azure's first chunk has an empty model; the real one follows.
      else if (!this.#model && tape.keyIs(key, MODEL)) this.#model = stringMember(tape, 0, MODEL)
      else if (tape.keyIs(key, SERVICE_TIER) && tape.kind(value) === STRING) this.serviceTier = stringMember(tape, 0, SERVICE_TIER) ?? this.serviceTier
    }
    if (this.modelServed === null && this.#model) this.modelServed = this.#model
    if (error || isError) return this.#fails()
    this.begun = true
    const finished = this.#choices(tape, choices)
    const empty = tape.kind(choices) === ARRAY && tape.after(choices) === tape.first(choices)
    if (tape.kind(usage) !== OBJECT) usage = -1
    if (usage < 0) usage = tape.kind(vendorUsage) === OBJECT ? vendorUsage : -1
    else if (tape.kind(vendorUsage) === OBJECT) this.#take(openaiUsage(tape, vendorUsage), true)
    if (usage < 0) {
      if (!finished && !this.failed && this.tally.pieces === pieces + 1) this.#template.learn(bytes, start, end, this.tally)
      return PASS
    }
    this.#take(openaiUsage(tape, usage), empty || finished)
    return empty && !this.facts.usageAsked && usage !== vendorUsage ? DROP : PASS
  }

  /** Reads a chunk's choices; true if one of them ends with it. */
  #choices(tape: JsonTape, choices: number): boolean {
    if (tape.kind(choices) !== ARRAY) return false
    let finished = false
    for (let choice = tape.first(choices), end = tape.after(choices); choice < end; choice = tape.after(choice)) {
      if (tape.kind(choice) !== OBJECT) continue
      let index = 0
      let ends = false
      let delta = -1
      let text = -1
      for (let key = tape.first(choice), last = tape.after(choice); key < last; key = tape.after(tape.valueOf(key))) {
        const value = tape.valueOf(key)
        if (tape.keyIs(key, INDEX)) index = tape.kind(value) === NUMBER ? Number(tape.raw(value)) : 0
        else if (tape.keyIs(key, DELTA) || tape.keyIs(key, MESSAGE)) delta = value
        else if (tape.keyIs(key, TEXT)) text = value
        else if (tape.keyIs(key, FINISH_REASON)) ends = isTruthy(tape, value)
        else if (tape.keyIs(key, ERROR) && isTruthy(tape, value)) this.failed = true
      }
      addMessage(tape, delta, this.tally, index)
      addString(tape, text, this.tally, index)
      if (ends) {
        this.#open.delete(index)
        finished = true
      } else if (this.#open.size < 128) this.#open.add(index)
    }
    if (finished) this.#finished = true
    return finished
  }

  #take(reported: ReportedUsage, final: boolean): void {
    if (reported.doubtful) return this.alarm('usage_invalid')
    if (reported.flawed) this.alarm('usage_invalid')
    const before = this.reported
    const usage = reported.usage
    if (before !== null && (usage.input_tokens !== before.input_tokens || (this.final && usage.output_tokens !== before.output_tokens))) this.alarm('usage_conflicting')
    // Counts that grow with every chunk are of one choice on some servers: what was seen once stays the least of it.
    if (!final && before !== null && (before.output_tokens ?? 0) > (usage.output_tokens ?? 0)) return
    this.reported = usage
    this.final ||= final
  }

  #fails(): Verdict {
    this.failed = true
    this.terminal = true
    return HOLD
  }

  piece(bytes: Uint8Array, start: number, end: number): void {
    this.begun = true
    this.#large ??= new JsonCapture(['usage', 'error', 'choices', 'model'])
    this.#large.push(bytes, start, end)
    this.#largeBytes += end - start
  }

  pieceEnd(): Verdict {
    const large = this.#large
    this.#large = null
    // Its text was not kept; of its bytes a quarter is a fair count, as of any text.
    this.tally.addUnread(this.#largeBytes)
    this.#largeBytes = 0
    if (large === null) return PASS
    const usage = large.found('usage')
    if (usage !== undefined && scratch.scan(usage, 0, usage.length) && scratch.kind(0) === OBJECT) this.#take(openaiUsage(scratch, 0), true)
    const error = large.found('error')
    if (error !== undefined && scratch.scan(error, 0, error.length) && isTruthy(scratch, 0)) return this.#fails()
    return PASS
  }

  renderQuotaStop(metered: Metered): Uint8Array {
    const head = {
      id: this.#id ?? '', object: this.#legacy ? 'text_completion' : 'chat.completion.chunk', created: this.#created, model: this.#model ?? this.facts.model ?? '',
    }
    let frames = this.stream.flowing ? '\n\n' : ''
    if (this.#open.size === 0 && !this.#finished) this.#open.add(0)
    for (const index of this.#open) {
      const choice = this.#legacy ? { index, text: '', logprobs: null, finish_reason: 'length' } : { index, delta: {}, logprobs: null, finish_reason: 'length' }
      frames += frame({ ...head, choices: [choice] })
    }
    if (this.facts.usageAsked) frames += frame({ ...head, choices: [], usage: openaiUsageObject(metered.usage, true) })
    return Buffer.from(`${frames}data: [DONE]\n\n`)
  }
}

// ---- responses ----

/** Deltas that are no text: base64 audio and partial images. */
const binaryDeltas = new Set(['response.audio.delta', 'response.output_audio.delta', 'response.image_generation_call.partial_image'])

/** Streams of named events; the last one carries the whole response with its usage. */
export class ResponsesStream extends StreamAnswer {
  #id: string | null = null
  #sequence = -1
  #large: JsonCapture | null = null

  looksWhole(): boolean {
    return false
  }

  event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict {
    if (isDone(bytes, start, end)) return PASS
    const tape = scratch
    if (!tape.scan(bytes, start, end) || tape.kind(0) !== OBJECT) {
      this.alarm('malformed_event')
      return isError ? this.#fails() : PASS
    }
    let type = ''
    let delta = -1
    let response = -1
    for (let key = tape.first(0), last = tape.after(0); key < last; key = tape.after(tape.valueOf(key))) {
      const value = tape.valueOf(key)
      if (tape.keyIs(key, TYPE)) type = stringMember(tape, 0, TYPE) ?? ''
      else if (tape.keyIs(key, DELTA)) delta = value
      else if (tape.keyIs(key, RESPONSE)) response = value
      else if (tape.keyIs(key, SEQUENCE_NUMBER) && tape.kind(value) === NUMBER) this.#sequence = Number(tape.raw(value))
    }
    if (type === 'error' || (type === '' && (isError || isTruthy(tape, tape.member(0, ERROR))))) return this.#fails()
    this.begun = true
    if (delta >= 0) {
      if (!binaryDeltas.has(type)) addString(tape, delta, this.tally, 0)
      return PASS
    }
    if (response < 0) return PASS
    this.#id ??= stringMember(tape, response, ID)
    this.modelServed = stringMember(tape, response, MODEL) ?? this.modelServed
    this.serviceTier = stringMember(tape, response, SERVICE_TIER) ?? this.serviceTier
    const usage = tape.member(response, USAGE)
    return this.#after(type, tape.kind(usage) === OBJECT ? openaiUsage(tape, usage) : null)
  }

  /** What an event with a response says about the end. */
  #after(type: string, reported: ReportedUsage | null): Verdict {
    if (reported !== null) {
      if (reported.doubtful || reported.flawed) this.alarm('usage_invalid')
      if (!reported.doubtful) {
        if (this.reported !== null && this.reported.total_tokens !== reported.usage.total_tokens) this.alarm('usage_conflicting')
        this.reported = reported.usage
        this.final = true
      }
    }
    if (type !== 'response.completed' && type !== 'response.incomplete' && type !== 'response.failed' && type !== 'response.cancelled') return PASS
    if (type === 'response.failed') this.failed = true
    this.terminal = true
    return HOLD
  }

  #fails(): Verdict {
    this.failed = true
    this.terminal = true
    return HOLD
  }

  piece(bytes: Uint8Array, start: number, end: number): void {
    this.begun = true
    this.#large ??= new JsonCapture(['type', 'response.usage', 'response.model', 'response.service_tier', 'response.id'], 'response')
    this.#large.push(bytes, start, end)
  }

  pieceEnd(): Verdict {
    const large = this.#large
    this.#large = null
    if (large === null) return PASS
    const text = (member: string): string | null => {
      const raw = large.found(member)
      return raw !== undefined && raw.length <= nameCharsMax && scratch.scan(raw, 0, raw.length) && scratch.kind(0) === STRING ? scratch.text(0) : null
    }
    this.modelServed = text('response.model') ?? this.modelServed
    this.serviceTier = text('response.service_tier') ?? this.serviceTier
    const type = text('type') ?? ''
    const usage = large.found('response.usage')
    const readable = usage !== undefined && scratch.scan(usage, 0, usage.length) && scratch.kind(0) === OBJECT
    return this.#after(type, readable ? openaiUsage(scratch, 0) : null)
  }

  renderQuotaStop(metered: Metered): Uint8Array {
    const response = {
      id: this.#id ?? '', object: 'response', status: 'incomplete', error: null, incomplete_details: { reason: 'max_output_tokens' },
      model: this.modelServed ?? this.facts.model ?? '', output: [], usage: openaiUsageObject(metered.usage, false),
    }
    const end = frame({ type: 'response.incomplete', sequence_number: this.#sequence + 1, response }, 'response.incomplete')
    return Buffer.from((this.stream.flowing ? '\n\n' : '') + end)
  }
}

