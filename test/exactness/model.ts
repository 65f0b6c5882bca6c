import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What the model server knows of one call: the truth that the books are held against. */
export interface Truth { readonly tag: string; readonly inputTokens: number; readonly outputTokens: number; finished: boolean }

export interface TruthfulModel { readonly url: string; readonly calls: Map<string, Truth>; close(): void }

/**
 * A model server that spends at most the bound it is given, keeps its own count of every call, and reports usage truthfully.
 * A call is known by the `tag` in its first message; `random` decides how much it says and how fast.
 */
export async function startTruthfulModel(random: () => number, slowestMs: number): Promise<TruthfulModel> {
  const calls = new Map<string, Truth>()
  const server = createServer((req, res) => {
    const chunks: Buffer[] = []
    req.on('data', (data: Buffer) => chunks.push(data))
    req.on('end', () => void answer(JSON.parse(Buffer.concat(chunks).toString('utf8')) as Call, res))
  })
  interface Call { messages: { content: string }[]; max_tokens: number; stream?: boolean }
  async function answer(call: Call, res: ServerResponse): Promise<void> {
    const tag = call.messages[0]!.content.split(' ')[0]!
    const outputTokens = 1 + Math.floor(random() * call.max_tokens)
    const inputTokens = 8
    const truth: Truth = { tag, inputTokens, outputTokens, finished: false }
    if (calls.has(tag)) throw new Error(`the model was asked twice for ${tag}`)
    calls.set(tag, truth)
    const usage = { prompt_tokens: inputTokens, completion_tokens: outputTokens, total_tokens: inputTokens + outputTokens }
    const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
    res.on('error', () => {})
    if (call.stream !== true) {
      await pause(random() * slowestMs)
      res.writeHead(200, { 'content-type': 'application/json' })
      res.end(JSON.stringify({ id: 'c', object: 'chat.completion', created: 1, model: 'm', choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }], usage }))
      truth.finished = true
      return
    }
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const event = (data: object): string => `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm', ...data })}\n\n`
    for (let i = 0; i < 5; i++) {
      res.write(event({ choices: [{ index: 0, delta: { content: 'word ' }, finish_reason: null }] }))
      await pause((random() * slowestMs) / 5)
      if (res.destroyed) return
    }
    res.write(event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }))
    res.write(event({ choices: [], usage }))
    res.end('data: [DONE]\n\n')
    truth.finished = true
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls,
    close: () => { server.closeAllConnections(); server.close() },
  }
}

/** A small seeded generator (mulberry32): the same seed, the same run of choices. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = state
    x = Math.imul(x ^ (x >>> 15), x | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}
