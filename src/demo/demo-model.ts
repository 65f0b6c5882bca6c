import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Clock } from '../clock.ts'
import type { Address } from '../config/config.ts'

/**
 * A stand-in for a model server, so that the gateway can be tried without one. It speaks the OpenAI dialect (chat completions plain and
 * streamed, embeddings, models), counts a word as a token, and says in every answer what it is.
 */
export interface RunningDemoModel {
  readonly address: Address
  close(): Promise<void>
}

export const demoModelName = 'demo'
const bodyBytesMax = 8 * 1024 * 1024
const wordPauseMs = 25
const dimensions = 16
/** What the chat template of a real model would add to each message. */
const tokensPerMessage = 3

type Body = Readonly<Record<string, unknown>>

class BadRequest extends Error {
  override name = 'BadRequest'
}

/** Rejects when the address cannot be had. */
export async function startDemoModel(listen: Address, clock: Clock): Promise<RunningDemoModel> {
  const server = createServer((request, response) => {
    answer(request, response, clock).catch((error: unknown) => {
      if (response.headersSent) response.destroy()
      else sendError(response, error instanceof BadRequest ? 400 : 500, error instanceof BadRequest ? error.message : 'the stand-in failed')
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(listen.port, listen.host, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const { address, port } = server.address() as AddressInfo
  return {
    address: { host: address, port },
    close: () => new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    }),
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, clock: Clock): Promise<void> {
  const path = (request.url ?? '').split('?')[0]?.replace(/^\/v1(?=\/)/, '')
  const route = `${request.method} ${path}`
  if (route === 'GET /health') return sendJson(response, 200, { status: 'ok' })
  if (route === 'GET /models') return sendJson(response, 200, { object: 'list', data: [{ id: demoModelName, object: 'model', created: 0, owned_by: 'tallygate' }] })
  if (route === 'POST /chat/completions') return chat(await readJson(request), response, clock)
  if (route === 'POST /embeddings') return embed(await readJson(request), response)
  sendError(response, 404, 'the stand-in knows /v1/chat/completions, /v1/embeddings and /v1/models')
}

async function chat(body: Body, response: ServerResponse, clock: Clock): Promise<void> {
  const { messages } = body
  if (!Array.isArray(messages) || messages.length === 0) throw new BadRequest('messages must be a list that is not empty')
  const texts = (messages as unknown[]).map(textOf)
  const promptTokens = texts.reduce((sum, text) => sum + words(text).length + tokensPerMessage, 0)
  const most = boundOf(body['max_completion_tokens'] ?? body['max_tokens'])
  const all = words(reply(words(texts.at(-1) ?? '').length))
  const said = all.slice(0, most)
  const nowMs = clock.nowMs()
  const common = { id: `chatcmpl-demo-${nowMs.toString(36)}`, created: Math.floor(nowMs / 1_000), model: modelOf(body) }
  const finish = said.length < all.length ? 'length' : 'stop'
  const usage = { prompt_tokens: promptTokens, completion_tokens: said.length, total_tokens: promptTokens + said.length }
  if (body['stream'] !== true) {
    const message = { role: 'assistant', content: said.join('') }
    return sendJson(response, 200, { ...common, object: 'chat.completion', choices: [{ index: 0, message, finish_reason: finish }], usage })
  }
  const options = body['stream_options']
  const withUsage = typeof options === 'object' && options !== null && (options as Body)['include_usage'] === true
  const chunk = (delta: Body, finishReason: string | null): string => event({
    ...common, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finishReason }], ...(withUsage ? { usage: null } : {}),
  })
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  response.write(chunk({ role: 'assistant', content: '' }, null))
  for (const word of said) {
    await clock.sleep(wordPauseMs)
    if (response.destroyed) return
    response.write(chunk({ content: word }, null))
  }
  response.write(chunk({}, finish))
  if (withUsage) response.write(event({ ...common, object: 'chat.completion.chunk', choices: [], usage }))
  response.end('data: [DONE]\n\n')
}

function embed(body: Body, response: ServerResponse): void {
  const { input } = body
  const inputs = typeof input === 'string' ? [input] : input
  if (!Array.isArray(inputs) || inputs.length === 0 || !inputs.every((each) => typeof each === 'string')) throw new BadRequest('input must be a text or a list of texts')
  const texts = inputs as string[]
  const tokens = texts.reduce((sum, text) => sum + words(text).length, 0)
  const data = texts.map((text, index) => {
    const vector = vectorOf(text)
    return { object: 'embedding', index, embedding: body['encoding_format'] === 'base64' ? Buffer.from(vector.buffer).toString('base64') : [...vector] }
  })
  sendJson(response, 200, { object: 'list', data, model: modelOf(body), usage: { prompt_tokens: tokens, total_tokens: tokens } })
}

function reply(wordCount: number): string {
  return `I am the Tallygate demo model, a stand-in that only pretends to think. Your message had ${wordCount} ${wordCount === 1 ? 'word' : 'words'}, `
    + 'and this answer was metered on its way to you: look at the RateLimit headers, or ask /-/usage. '
    + 'Set UPSTREAM_URL to a real model server, and the same gateway meters that one.'
}

/** Words with the space after them, so that joined they give the text back. */
function words(text: string): string[] {
  return text.match(/\S+\s*/g) ?? []
}

function textOf(message: unknown): string {
  const content = typeof message === 'object' && message !== null ? (message as Body)['content'] : undefined
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) return ''
  return (content as unknown[]).map((part) => (typeof part === 'object' && part !== null ? String((part as Body)['text'] ?? '') : '')).join(' ')
}

function boundOf(value: unknown): number {
  if (value === undefined || value === null) return Infinity
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw new BadRequest('max_tokens must be a whole number above 0')
  return value
}

function modelOf(body: Body): string {
  return typeof body['model'] === 'string' ? body['model'] : demoModelName
}

/** The same text always has the same vector, of length 1; near texts do not have near ones. */
function vectorOf(text: string): Float32Array<ArrayBuffer> {
  const vector = new Float32Array(dimensions)
  let state = 2_166_136_261
  for (const byte of Buffer.from(text)) state = Math.imul(state ^ byte, 16_777_619)
  for (let index = 0; index < dimensions; index += 1) {
    state = Math.imul(state ^ (index + 1), 16_777_619)
    vector[index] = state / 2 ** 31
  }
  const length = Math.hypot(...vector)
  return vector.map((value) => value / length)
}

function event(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`
}

async function readJson(request: IncomingMessage): Promise<Body> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length
    if (bytes > bodyBytesMax) throw new BadRequest('the body is too large')
    chunks.push(part)
  }
  let value: unknown
  try {
    value = JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) throw new BadRequest('the body is not JSON')
    throw error
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadRequest('the body must be a JSON object')
  return value as Body
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  const text = JSON.stringify(value)
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
  response.end(text)
}

function sendError(response: ServerResponse, status: number, message: string): void {
  sendJson(response, status, { error: { message, type: status < 500 ? 'invalid_request_error' : 'server_error', param: null, code: null } })
}
