import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { costOf, inputBoundOf } from './entitlement.ts'

/** How much of its bound a call uses: some, by chance; all of it; all of it, once `release` is called. */
export type Use = 'some' | 'all' | 'held'

/** What the model server knows of one call. Costs are in 10⁻⁹ of the currency. */
export interface Answered {
  readonly tag: string
  readonly key: string
  readonly model: string
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cost: number
  /** The whole answer was written. */
  whole: boolean
}

/** The model's own count of what one entitlement has used. */
export interface Spent {
  readonly answers: Map<string, Answered>
  open: number
  /** Most calls that were open at one time. */
  peak: number
  /** Held calls that wait for `release`. */
  held: number
}

export interface CountingModel {
  readonly url: string
  readonly port: number
  /** By the cell that the call's tag begins with. */
  spent(cell: string): Spent
  release(cell: string): void
  close(): void
}

/** The tag, the key and the use travel in the prompt, padded with dots to any length. */
export function promptOf(tag: string, key: string, use: Use, bytes: number): string {
  return `${tag}|${key}|${use[0]!}|`.padEnd(bytes, '.')
}

/**
 * A model server that keeps its own books: it spends at most the bound that it is given (one token for each byte of the message, and `max_tokens`) and reports usage
 * truthfully. `random` decides how much and how fast; it takes up to `slowestMs`.
 */
export async function startCountingModel(random: () => number, slowestMs: number): Promise<CountingModel> {
  const cells = new Map<string, Spent & { waiting: (() => void)[] }>()
  const cellOf = (name: string): Spent & { waiting: (() => void)[] } => {
    let cell = cells.get(name)
    if (cell === undefined) cells.set(name, cell = { answers: new Map(), open: 0, peak: 0, held: 0, waiting: [] })
    return cell
  }
  const server = createServer((req, res) => {
    const chunks: Buffer[] = []
    req.on('data', (data: Buffer) => chunks.push(data))
    req.on('end', () => void answer(JSON.parse(Buffer.concat(chunks).toString('utf8')) as Call, res))
  })
  interface Call { model: string; messages: { content: string }[]; max_tokens: number; stream?: boolean }

  async function answer(call: Call, res: ServerResponse): Promise<void> {
    const prompt = call.messages[0]!.content
    const [tag = '', key = '', use = ''] = prompt.split('|')
    const cell = cellOf(tag.split('.')[0]!)
    if (cell.answers.has(tag)) throw new Error(`the model was asked twice for ${tag}`)
    const share = (of: number): number => (use === 's' ? 1 + Math.floor(random() * of) : of)
    const inputTokens = share(inputBoundOf(prompt.length))
    const outputTokens = share(call.max_tokens)
    const answered: Answered = { tag, key, model: call.model, inputTokens, outputTokens, cost: costOf(call.model, inputTokens, outputTokens), whole: false }
    cell.answers.set(tag, answered)
    cell.open += 1
    cell.peak = Math.max(cell.peak, cell.open)
    // A gateway that dies drops the connection: nobody is served any more.
    let open = true
    const over = (): void => {
      if (open) cell.open -= 1
      open = false
    }
    res.on('close', over)
    res.on('error', over)
    const usage = { prompt_tokens: inputTokens, completion_tokens: outputTokens, total_tokens: inputTokens + outputTokens }
    const takesMs = random() * slowestMs
    if (use === 'h') {
      cell.held += 1
      await new Promise<void>((resolve) => cell.waiting.push(resolve))
      cell.held -= 1
    }
    if (call.stream !== true) {
      await sleep(takesMs)
      if (res.destroyed) return
      res.writeHead(200, { 'content-type': 'application/json' })
      // From here on the gateway may let the call go at any moment.
      over()
      res.end(JSON.stringify({ id: 'c', object: 'chat.completion', created: 1, model: call.model, choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }], usage }))
      answered.whole = true
      return
    }
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const event = (data: object): string => `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: call.model, ...data })}\n\n`
    for (let i = 0; i < 2; i++) {
      res.write(event({ choices: [{ index: 0, delta: { content: 'word ' }, finish_reason: null }] }))
      await sleep(takesMs / 2)
      if (res.destroyed) return
    }
    over()
    res.end(`${event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}${event({ choices: [], usage })}data: [DONE]\n\n`)
    answered.whole = true
  }

  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`, port, spent: cellOf,
    release: (name) => { for (const go of cellOf(name).waiting.splice(0)) go() },
    close: () => { server.closeAllConnections(); server.close() },
  }
}
