import { anthropicImageTokens, imageSize, type ImageSize } from './media.ts'
import { ordinaryFeatures } from './ordinary.ts'
import type { BodyChanges, RequestFacts } from './provider.ts'
import { ARRAY, badRequest, edited, name, OBJECT, RequestBody, STRING, type Edit } from './request-body.ts'

const TYPE = name('type')
const SOURCE = name('source')
const DATA = name('data')
const BUDGET_TOKENS = name('budget_tokens')
const FORMAT = name('format')
const INPUT_SCHEMA = name('input_schema')
const USER_ID = name('user_id')

/** Tools that the caller runs itself, though Anthropic defines them. */
const callersTools = /^(bash|text_editor|computer|memory)_/
/** What a call with thinking needs beyond its budget to say anything. */
const ANSWER_FLOOR = 1_024

const inert = new Set(['model', 'metadata', 'max_tokens', 'stream', 'stop_sequences', 'service_tier', 'thinking', 'tool_choice', 'container', 'context_management', 'speed', 'inference_geo'])
const unsaidKeys = [TYPE, name('id'), name('tool_use_id'), name('media_type'), name('cache_control')]
const knownKeys = ['role', 'content', 'type', 'text', 'name', 'id', 'tool_use_id', 'cache_control', 'source', 'media_type', 'input', 'thinking', 'signature', 'is_error'].map(name)

interface InputSum { bytes: number; imageTokens: number; images: number; /** Pictures, or documents whose pages are looked at. */ sees: boolean; unseen: boolean; stateful: boolean }

export function inspectAnthropic(bytes: Uint8Array, counting: boolean): RequestFacts {
  const body = new RequestBody(bytes)
  const { tape } = body
  const model = body.model()
  if (body.place('billing_policy') >= 0) throw badRequest('billing_policy is not accepted here.')
  const outputAsked = counting ? null : body.integer('max_tokens', 0)
  if (outputAsked === null && !counting) throw badRequest('max_tokens is missing: it has to be a whole number.')
  const streamed = counting ? false : body.boolean('stream') ?? false
  const list = body.array('messages')
  if (list < 0) throw badRequest('messages is missing: it has to be an array of messages.')
  for (const message of body.items(list)) if (tape.kind(message) !== OBJECT) throw badRequest('messages has to be an array of objects.')
  const system = body.get('system')
  if (system >= 0 && tape.kind(system) !== STRING && tape.kind(system) !== ARRAY) throw badRequest('system has to be a string or an array.')

  const features = new Set<string>()
  const tools = body.array('tools')
  for (const tool of body.items(tools)) {
    const type = body.word(body.within(tool, TYPE))
    const theirs = type !== null && type !== 'custom' && body.within(tool, INPUT_SCHEMA) < 0 && !callersTools.test(type)
    if (theirs) features.add('hosted_tools')
  }
  if (tape.count(body.array('mcp_servers')) > 0) features.add('hosted_tools')
  const tier = body.string('service_tier', 64)
  if (tier !== null && tier !== 'auto' && tier !== 'standard_only') features.add('service_tiers')
  const speed = body.string('speed', 64)
  if (speed !== null && speed !== 'standard') features.add('service_tiers')

  const thinking = body.object('thinking')
  const budgetNode = body.within(thinking, BUDGET_TOKENS)
  const budget = budgetNode < 0 ? 0 : body.integerAt(budgetNode, 'thinking.budget_tokens', 0)

  const sum: InputSum = { bytes: 0, imageTokens: 0, images: 0, sees: false, unseen: features.has('hosted_tools'), stateful: body.get('container') >= 0 }
  for (const [field, node] of body.topLevel()) {
    if (inert.has(field)) continue
    if (field === 'messages' || field === 'system') sumParts(body, node, sum)
    else if (tape.kind(node) === STRING || tape.kind(node) === OBJECT || tape.kind(node) === ARRAY) sum.bytes += body.size(node)
  }
  if (sum.stateful) features.add('stateful')

  const userNode = body.within(body.object('metadata'), USER_ID)
  return {
    model,
    streamed,
    usageAsked: true,
    outputAsked,
    outputDefault: null,
    boundsOutput: !counting,
    choices: 1,
    outputFloor: budget === 0 ? 0 : budget + ANSWER_FLOOR,
    clampable: !forcesShape(body),
    inputBytes: sum.bytes,
    inputMessages: tape.count(list) + (system < 0 ? 0 : 1),
    inputTools: tape.count(tools),
    inputMediaTokens: sum.imageTokens,
    inputImages: sum.images,
    inputImageTokens: sum.imageTokens,
    inputTokensExact: null,
    inputUnseen: sum.unseen || sum.stateful,
    features: [...features],
    ordinary: ordinaryFeatures(streamed, tape.count(tools) > 0 || tape.count(body.array('mcp_servers')) > 0, sum.sees),
    user: userNode < 0 ? null : body.stringAt(userNode, 'metadata.user_id', 512),
    texts: () => promptTexts(bytes),
  }
}

function forcesShape(body: RequestBody): boolean {
  const choice = body.word(body.within(body.object('tool_choice'), TYPE))
  if (choice === 'any' || choice === 'tool') return true
  const format = body.within(body.object('output_config'), FORMAT)
  return body.word(body.within(format, TYPE)) === 'json_schema' || body.word(body.within(body.object('output_format'), TYPE)) === 'json_schema'
}

function sumParts(body: RequestBody, node: number, sum: InputSum): void {
  const { tape } = body
  switch (tape.kind(node)) {
    case STRING:
      sum.bytes += body.size(node) - 2
      return
    case ARRAY:
      for (const item of body.items(node)) sumParts(body, item, sum)
      return
    case OBJECT: {
      if (sumMedia(body, node, sum)) return
      for (let key = tape.first(node), end = tape.after(node); key < end; key = tape.after(tape.valueOf(key))) {
        if (!knownKeys.some((known) => tape.keyIs(key, known))) sum.bytes += body.size(key) - 2
        sumParts(body, tape.valueOf(key), sum)
      }
      return
    }
    default:
      sum.bytes += body.size(node)
  }
}

/** Reads an image or document whose source is not text; false if the part is none. */
function sumMedia(body: RequestBody, part: number, sum: InputSum): boolean {
  const { tape } = body
  const type = body.word(tape.member(part, TYPE))
  if (type === 'container_upload') {
    sum.stateful = true
    return true
  }
  if (type !== 'image' && type !== 'document') return false
  const source = body.within(part, SOURCE)
  const kind = body.word(body.within(source, TYPE))
  if (kind === 'file') sum.stateful = true
  if (type === 'image') {
    const tokens = anthropicImageTokens(kind === 'base64' ? sizeOf(body, body.within(source, DATA)) : null)
    sum.images++
    sum.sees = true
    sum.imageTokens += tokens
    return true
  }
  // A document's text is in the body or is not: a PDF's pages are read as pictures and text by the upstream.
  if (kind !== 'text' && kind !== 'content') {
    sum.sees = true
    sum.unseen = true
    return true
  }
  return false
}

function sizeOf(body: RequestBody, data: number): ImageSize | null {
  if (body.tape.kind(data) !== STRING) return null
  const start = body.bytes.byteOffset + body.tape.start(data) + 1
  return imageSize(Buffer.from(body.bytes.buffer, start, Math.min(body.size(data) - 2, 128 * 1024)).toString('latin1').replaceAll('\\/', '/'))
}

function* promptTexts(bytes: Uint8Array): Iterable<string> {
  const body = new RequestBody(bytes, true)
  for (const [field, node] of body.topLevel()) {
    if (inert.has(field)) continue
    const kind = body.tape.kind(node)
    if (field === 'messages' || field === 'system') yield* partTexts(body, node)
    else if (kind === STRING) yield body.tape.text(node)
    else if (kind === OBJECT || kind === ARRAY) yield body.tape.raw(node)
  }
}

function* partTexts(body: RequestBody, node: number): Iterable<string> {
  const { tape } = body
  if (tape.kind(node) === STRING) yield tape.text(node)
  else if (tape.kind(node) === ARRAY) for (const item of body.items(node)) yield* partTexts(body, item)
  else if (tape.kind(node) === OBJECT) {
    if (sumMedia(body, node, { bytes: 0, imageTokens: 0, images: 0, sees: false, unseen: false, stateful: false })) return
    for (let key = tape.first(node), end = tape.after(node); key < end; key = tape.after(tape.valueOf(key))) {
      if (!unsaidKeys.some((unsaid) => tape.keyIs(key, unsaid))) yield* partTexts(body, tape.valueOf(key))
    }
  }
}

export function prepareAnthropic(bytes: Uint8Array, facts: RequestFacts, changes: BodyChanges): Uint8Array {
  const lowers = changes.outputBound !== null && facts.boundsOutput && changes.outputBound !== facts.outputAsked
  const renames = changes.upstreamModel !== null && changes.upstreamModel !== facts.model
  if (!lowers && !renames) return bytes
  const body = new RequestBody(bytes)
  const edits: Edit[] = []
  if (renames) edits.push(body.setting('model', JSON.stringify(changes.upstreamModel)))
  if (lowers) edits.push(body.setting('max_tokens', String(changes.outputBound)))
  return edited(bytes, edits)
}
