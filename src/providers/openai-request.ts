import { ordinaryFeatures } from './ordinary.ts'
import type { BodyChanges, RequestFacts } from './provider.ts'
import { audioTokens, imageSize, openaiImageTokens } from './media.ts'
import { ARRAY, badRequest, edited, name, NUMBER, OBJECT, RequestBody, STRING, TRUE, type Edit } from './request-body.ts'

export type OpenaiKind = 'chat' | 'completions' | 'embeddings' | 'responses'

const INCLUDE_USAGE = name('include_usage')
const TYPE = name('type')
const FORMAT = name('format')
const MODE = name('mode')
const ROLE = name('role')
const URL = name('url')
const IMAGE_URL = name('image_url')
const DETAIL = name('detail')
const INPUT_AUDIO = name('input_audio')
const DATA = name('data')
const FILE = name('file')
const FILE_ID = name('file_id')
const FILE_DATA = name('file_data')
const FILE_URL = name('file_url')
const AUDIO = name('audio')
const ID = name('id')
const EXECUTION = name('execution')
const ENVIRONMENT = name('environment')
const TOOLS = name('tools')
const knownKeys = ['role', 'content', 'type', 'text', 'name', 'tool_calls', 'function', 'arguments', 'id', 'tool_call_id', 'call_id', 'output', 'status'].map(name)

const USER_CHARS_MAX = 512
const CHOICES_MAX = 128
/** What a responses call needs to be accepted at all. */
const RESPONSES_FLOOR = 16
/** The completions API's own default. */
const COMPLETIONS_DEFAULT = 16

/** Fields that bound the output, as OpenAI and servers that speak its dialect have them. Where several are given, one server obeys the one, another the other. */
const outputFields: Record<OpenaiKind, readonly string[]> = {
  chat: ['max_completion_tokens', 'max_tokens', 'n_predict'],
  completions: ['max_tokens', 'max_completion_tokens', 'n_predict'],
  embeddings: [],
  responses: ['max_output_tokens'],
}

/** Members that never reach the model as text. Whatever is not listed is taken to be part of the prompt, so that none is forgotten. */
const inert = new Set([
  'model', 'user', 'metadata', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention', 'service_tier', 'stream_options', 'stop', 'logit_bias',
  'modalities', 'reasoning_effort', 'reasoning', 'verbosity', 'include', 'truncation', 'encoding_format', 'store', 'stop_token_ids', 'audio', 'provider',
  'priority', 'request_id', 'tool_choice', 'previous_response_id', 'conversation', 'background', 'bad_words', 'allowed_token_ids',
])
/** Members that some servers turn into more text than they are. */
const amplifying = ['chat_template', 'prompt_embeds', 'documents', 'mm_processor_kwargs', 'vllm_xargs']

/** Sums up what the input holds. */
interface InputSum {
  bytes: number
  mediaTokens: number
  images: number
  imageTokens: number
  /** Pictures, videos, or files whose pages are looked at. */
  sees: boolean
  unseen: boolean
  stateful: boolean
}

export function inspectOpenai(kind: OpenaiKind, bytes: Uint8Array): RequestFacts {
  const body = new RequestBody(bytes)
  const { tape } = body
  const model = body.model()
  const streamed = kind === 'embeddings' ? false : body.boolean('stream') ?? false
  const features = new Set<string>()
  const sum: InputSum = { bytes: 0, mediaTokens: 0, images: 0, imageTokens: 0, sees: false, unseen: false, stateful: false }

  let usageAsked = kind === 'responses' || kind === 'embeddings'
  const streamOptions = body.object('stream_options')
  if (kind === 'chat' || kind === 'completions') {
    const include = body.within(streamOptions, INCLUDE_USAGE)
    usageAsked = include >= 0 && body.booleanAt(include, 'stream_options.include_usage')
  }

  let outputAsked: number | null = null
  for (const field of outputFields[kind]) {
    const asked = body.integer(field, kind === 'chat' || kind === 'responses' ? 1 : 0)
    if (asked !== null) outputAsked = Math.max(outputAsked ?? 0, asked)
  }

  const prompt = kind === 'completions' || kind === 'embeddings' ? readPrompts(body, kind === 'completions' ? 'prompt' : 'input', kind === 'embeddings') : null
  let choices = 1
  if (kind === 'chat' || kind === 'completions') {
    for (const field of ['n', 'best_of', 'n_cmpl']) choices = Math.max(choices, body.integer(field, 1, CHOICES_MAX) ?? 1)
    choices *= prompt?.count ?? 1
  }

  const tools = kind === 'chat' || kind === 'responses' ? readTools(body, features) : 0
  let messages = 0
  if (kind === 'chat') {
    const list = body.array('messages')
    if (list < 0) throw badRequest('messages is missing: it has to be an array of messages.')
    for (const message of body.items(list)) {
      if (tape.kind(message) !== OBJECT) throw badRequest('messages has to be an array of objects.')
      messages++
    }
  } else if (kind === 'responses') {
    const input = body.get('input')
    if (input >= 0 && tape.kind(input) !== STRING && tape.kind(input) !== ARRAY) throw badRequest('input has to be a string or an array.')
    messages = tape.kind(input) === ARRAY ? tape.count(input) : input >= 0 ? 1 : 0
    if (body.get('instructions') >= 0) messages++
  }

  const outputs = new Set(outputFields[kind])
  for (const [field, node] of body.topLevel()) {
    if (inert.has(field) || outputs.has(field)) continue
    if (field === 'messages' || field === 'input') sumParts(body, node, model, sum)
    else if (tape.kind(node) === STRING) sum.bytes += body.size(node) - 2
    else if (tape.kind(node) === OBJECT || tape.kind(node) === ARRAY) sum.bytes += body.size(node)
  }
  for (const field of amplifying) if (body.get(field) >= 0) sum.unseen = true

  const tier = body.string('service_tier', 64)
  if (tier !== null && tier !== 'auto' && tier !== 'default') features.add('service_tiers')
  if ((kind === 'chat' || kind === 'responses') && body.boolean('store') === true) features.add('store')
  if (kind === 'responses') {
    if (body.boolean('background') === true) features.add('background')
    // What is kept at the upstream belongs to its account, not to this caller, and only the model's context bounds it.
    for (const field of ['previous_response_id', 'conversation']) if (body.get(field) >= 0) sum.stateful = true
    if (tape.kind(body.get('prompt')) === OBJECT) sum.stateful = true
  }
  const webSearch = body.get('web_search_options')
  const plugins = body.get('plugins')
  if (webSearch >= 0 || tape.count(plugins) > 0) features.add('hosted_tools')
  if (sum.stateful) features.add('stateful')
  const unseen = sum.unseen || sum.stateful || features.has('hosted_tools')

  const minTokens = kind === 'chat' || kind === 'completions' ? body.integer('min_tokens', 0) ?? 0 : 0
  const kept = bytes
  return {
    model,
    streamed,
    usageAsked,
    outputAsked,
    outputDefault: kind === 'completions' ? COMPLETIONS_DEFAULT : null,
    boundsOutput: kind !== 'embeddings',
    choices,
    outputFloor: kind === 'responses' ? RESPONSES_FLOOR : minTokens,
    clampable: !forcesShape(body, kind),
    inputBytes: prompt?.tokens !== null && prompt !== null ? 0 : sum.bytes,
    inputMessages: messages,
    inputTools: tools,
    inputMediaTokens: sum.mediaTokens,
    inputImages: sum.images,
    inputImageTokens: sum.imageTokens,
    inputTokensExact: prompt?.tokens ?? null,
    inputUnseen: unseen,
    features: [...features],
    ordinary: ordinaryFeatures(streamed, tools > 0, sum.sees),
    user: kind === 'responses' || kind === 'chat' || kind === 'completions' || kind === 'embeddings' ? body.string('user', USER_CHARS_MAX) : null,
    texts: () => promptTexts(kept, kind),
  }
}

/** Completions and embeddings take one text, several, one list of tokens, or several. */
function readPrompts(body: RequestBody, field: string, required: boolean): { count: number; tokens: number | null } {
  const { tape } = body
  const node = body.get(field)
  const wrong = badRequest(`${field} has to be a string, an array of strings, an array of tokens, or an array of arrays of tokens.`)
  if (node < 0) {
    if (required) throw badRequest(`${field} is missing.`)
    return { count: 1, tokens: null }
  }
  if (tape.kind(node) === STRING) return { count: 1, tokens: null }
  if (tape.kind(node) !== ARRAY) throw wrong
  let kind = 0
  let count = 0
  let tokens = 0
  for (const item of body.items(node)) {
    if (count > 0 && tape.kind(item) !== kind) throw wrong
    kind = tape.kind(item)
    count++
    if (kind === ARRAY) {
      for (const token of body.items(item)) if (tape.kind(token) !== NUMBER) throw wrong
      tokens += tape.count(item)
    } else if (kind !== STRING && kind !== NUMBER) throw wrong
  }
  if (count === 0) throw badRequest(`${field} is empty.`)
  if (kind === NUMBER) return { count: 1, tokens: count }
  return { count, tokens: kind === ARRAY ? tokens : null }
}

/** Tools that the upstream runs itself cost more than their tokens, and read what is not in the body. */
function readTools(body: RequestBody, features: Set<string>): number {
  const { tape } = body
  const tools = body.array('tools')
  const functions = body.array('functions')
  let count = tape.count(functions)
  for (const tool of body.items(tools)) {
    count++
    if (!isCallersTool(body, tool)) features.add('hosted_tools')
  }
  return count
}

/** Whether the caller runs the tool itself. What is not known is taken to be run, and charged for, by the upstream. */
function isCallersTool(body: RequestBody, tool: number): boolean {
  const { tape } = body
  switch (body.word(body.within(tool, TYPE))) {
    case 'function': case 'custom': case 'local_shell': case 'apply_patch': case 'computer': case 'computer_use_preview':
      return true
    case 'tool_search':
      return body.word(body.within(tool, EXECUTION)) === 'client'
    case 'shell':
      return body.word(body.within(body.within(tool, ENVIRONMENT), TYPE)) === 'local'
    case 'namespace': {
      const inner = body.within(tool, TOOLS)
      if (tape.kind(inner) !== ARRAY) return false
      for (const one of body.items(inner)) {
        const type = body.word(body.within(one, TYPE))
        if (type !== 'function' && type !== 'custom') return false
      }
      return true
    }
    default:
      return false
  }
}

/** A shorter answer would be a broken one. */
function forcesShape(body: RequestBody, kind: OpenaiKind): boolean {
  if (kind === 'embeddings') return true
  const format = kind === 'responses' ? body.within(body.object('text'), FORMAT) : body.object('response_format')
  if (body.word(body.within(format, TYPE)) === 'json_schema') return true
  for (const field of ['guided_json', 'guided_grammar', 'guided_regex', 'structured_outputs']) if (body.get(field) >= 0) return true
  for (const field of ['tool_choice', 'function_call']) {
    const choice = body.get(field)
    if (choice < 0) continue
    const word = body.word(choice)
    if (word !== null) {
      if (word !== 'auto' && word !== 'none') return true
    } else if (body.word(body.within(choice, TYPE)) !== 'allowed_tools' || body.word(body.within(choice, MODE)) === 'required') return true
  }
  return false
}

/** Adds up the text and media of messages: every string in them, but for media, which have rules of their own. */
function sumParts(body: RequestBody, node: number, model: string, sum: InputSum): void {
  const { tape } = body
  switch (tape.kind(node)) {
    case STRING:
      sum.bytes += body.size(node) - 2
      return
    case ARRAY:
      for (const item of body.items(node)) sumParts(body, item, model, sum)
      return
    case OBJECT:
      if (!sumMedia(body, node, model, sum)) {
        for (let key = tape.first(node), end = tape.after(node); key < end; key = tape.after(tape.valueOf(key))) {
          // Templates write no names of members; those that a server may know and we do not are counted.
          if (!knownKeys.some((known) => tape.keyIs(key, known))) sum.bytes += body.size(key) - 2
          sumParts(body, tape.valueOf(key), model, sum)
        }
      }
      return
    default:
      sum.bytes += body.size(node)
  }
}

/** Reads a part that is an image, sound or a file; false if it is none. */
function sumMedia(body: RequestBody, part: number, model: string, sum: InputSum): boolean {
  const { tape } = body
  const type = body.word(tape.member(part, TYPE))
  if (type === null) {
    const audio = tape.member(part, AUDIO)
    // An assistant's earlier spoken answer, kept at the upstream.
    if (tape.kind(audio) === OBJECT && tape.member(audio, ID) >= 0 && tape.member(part, ROLE) >= 0) sum.stateful = true
    return false
  }
  switch (type) {
    case 'image_url': case 'input_image': {
      const image = body.within(part, IMAGE_URL)
      const url = tape.kind(image) === OBJECT ? body.within(image, URL) : image
      const detail = body.word(body.within(tape.kind(image) === OBJECT ? image : part, DETAIL))
      if (body.within(part, FILE_ID) >= 0) sum.stateful = true
      addImage(body, url, model, detail, sum)
      return true
    }
    case 'input_audio': {
      const data = body.within(body.within(part, INPUT_AUDIO), DATA)
      sum.mediaTokens += audioTokens(body.size(data))
      return true
    }
    case 'file': case 'input_file': {
      sum.sees = true
      const file = type === 'file' ? body.within(part, FILE) : part
      if (body.within(file, FILE_ID) >= 0) sum.stateful = true
      if (body.within(file, FILE_DATA) >= 0 || body.within(file, FILE_URL) >= 0) sum.unseen = true
      return true
    }
    case 'item_reference':
      sum.stateful = true
      return false
    case 'computer_screenshot':
      sum.sees = true
      return false
    case 'video_url': case 'audio_url': case 'image_embeds': case 'image_pil':
      sum.sees ||= type !== 'audio_url'
      sum.unseen = true
      return true
    default:
      return false
  }
}

function addImage(body: RequestBody, url: number, model: string, detail: string | null, sum: InputSum): void {
  const { tape } = body
  let size = null
  if (tape.kind(url) === STRING) {
    const start = tape.start(url) + 1
    const head = Buffer.from(body.bytes.buffer, body.bytes.byteOffset + start, Math.min(body.size(url) - 2, 256)).toString('latin1')
    const comma = head.indexOf(',')
    if (/^data:image\/[^,]*;base64,/.test(head)) {
      size = imageSize(Buffer.from(body.bytes.buffer, body.bytes.byteOffset + start + comma + 1, Math.min(body.size(url) - 3 - comma, 128 * 1024))
        .toString('latin1').replaceAll('\\/', '/'))
    } else if (/^data:/i.test(head) && !/^data:image\//i.test(head)) sum.unseen = true
  }
  const tokens = openaiImageTokens(model, size, detail)
  sum.images++
  sum.sees = true
  sum.imageTokens += tokens
  sum.mediaTokens += tokens
}

// ---- texts, for exact counting ----

/** The prompt's texts, in order. Reads the body anew: nothing is kept but its bytes. */
function* promptTexts(bytes: Uint8Array, kind: OpenaiKind): Iterable<string> {
  const body = new RequestBody(bytes, true)
  const outputs = new Set(outputFields[kind])
  for (const [field, node] of body.topLevel()) {
    if (inert.has(field) || outputs.has(field)) continue
    const type = body.tape.kind(node)
    if (field === 'messages' || field === 'input' || field === 'prompt') yield* partTexts(body, node)
    else if (type === STRING) yield body.tape.text(node)
    else if (type === OBJECT || type === ARRAY) yield body.tape.raw(node)
  }
}

const unsaidKeys = [TYPE, DETAIL, ID, name('call_id'), name('tool_call_id'), name('status')]

function* partTexts(body: RequestBody, node: number): Iterable<string> {
  const { tape } = body
  if (tape.kind(node) === STRING) yield tape.text(node)
  else if (tape.kind(node) === ARRAY) for (const item of body.items(node)) yield* partTexts(body, item)
  else if (tape.kind(node) === OBJECT) {
    const ignored: InputSum = { bytes: 0, mediaTokens: 0, images: 0, imageTokens: 0, sees: false, unseen: false, stateful: false }
    if (sumMedia(body, node, '', ignored)) return
    for (let key = tape.first(node), end = tape.after(node); key < end; key = tape.after(tape.valueOf(key))) {
      if (!unsaidKeys.some((unsaid) => tape.keyIs(key, unsaid))) yield* partTexts(body, tape.valueOf(key))
    }
  }
}

// ---- changes ----

/** OpenAI's reasoning models know only the newer name; servers that speak its dialect may know only the older. */
export function chatOutputField(model: string | null): string {
  return /^(o\d|gpt-[5-9])/.test((model ?? '').toLowerCase().replace(/^.*\//, '')) ? 'max_completion_tokens' : 'max_tokens'
}

export function prepareOpenai(kind: OpenaiKind, bytes: Uint8Array, facts: RequestFacts, changes: BodyChanges): Uint8Array {
  const asksUsage = (kind === 'chat' || kind === 'completions') && facts.streamed && changes.askUsage && !facts.usageAsked
  const bound = kind === 'embeddings' ? null : changes.outputBound
  const forbidsStore = changes.forbidStore && (kind === 'chat' || kind === 'responses')
  if (!asksUsage && bound === null && changes.upstreamModel === null && !forbidsStore) return bytes
  const body = new RequestBody(bytes)
  const edits: Edit[] = []
  if (changes.upstreamModel !== null && changes.upstreamModel !== facts.model) edits.push(body.setting('model', JSON.stringify(changes.upstreamModel)))
  if (bound !== null) edits.push(...boundEdits(kind, body, bound, changes, facts))
  if (asksUsage) {
    const options = body.get('stream_options')
    edits.push(options < 0 ? body.setting('stream_options', '{"include_usage":true}') : body.settingWithin(options, INCLUDE_USAGE, 'true'))
  }
  if (forbidsStore) {
    const store = body.get('store')
    // Chat does not store unless told to, and other servers may not know the field; responses are stored unless told not to.
    if (body.tape.kind(store) === TRUE || (kind === 'responses' && store < 0)) edits.push(body.setting('store', 'false'))
  }
  return edited(bytes, edits)
}

function boundEdits(kind: OpenaiKind, body: RequestBody, bound: number, changes: BodyChanges, facts: RequestFacts): Edit[] {
  const fields = outputFields[kind]
  const used = fields.filter((field) => body.get(field) >= 0)
  if (used.length === 0) {
    const own = kind === 'chat' ? chatOutputField(changes.upstreamModel ?? facts.model) : fields[0] ?? 'max_tokens'
    return [body.setting(changes.outputField ?? own, String(bound))]
  }
  return used.filter((field) => (body.integer(field, 0) ?? 0) > bound).map((field) => body.setting(field, String(bound)))
}
