// A model server in which every call waits for its cue: the test says when which byte is sent, and so knows the instant of a fault.

import type { Teardown } from '../fixtures/tmp-dir.ts'
import { chatChunk, chatCompletion, chatUsageChunk, openaiAnswer } from '../fixtures/openai-scripts.ts'
import { chunk, json, lastChunk, openScriptedUpstream, sse, sseHead, type Reply, type ScriptedUpstream, type UpstreamRequest } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'

export interface Cued {
  readonly tag: string
  readonly request: UpstreamRequest
  readonly reply: Reply
  /** Pieces said so far, one token each. */
  readonly pieces: number
  begin(): Promise<boolean>
  /** So many pieces of text. */
  say(pieces: number): Promise<boolean>
  /** Finish reason, usage and `[DONE]`; the answer's own end is still open. */
  close(): Promise<boolean>
  /** The last byte of the answer. */
  end(): Promise<boolean>
  /** A whole plain answer. */
  answer(): Promise<boolean>
}

export interface CuedUpstream {
  readonly upstream: ScriptedUpstream
  readonly url: string
  readonly calls: ReadonlyMap<string, Cued>
  /** Waits until the call whose prompt begins with `tag` has arrived. */
  call(tag: string): Promise<Cued>
}

export const inputTokens = openaiAnswer.inputTokens

export async function openCuedUpstream(t: Teardown): Promise<CuedUpstream> {
  const calls = new Map<string, Cued>()
  const upstream = await openScriptedUpstream(t, async (request, reply) => {
    const { messages } = request.json() as { messages: { content: string }[] }
    const tag = messages[0]?.content.split(' ')[0] ?? ''
    let over = (): void => undefined
    const ended = new Promise<void>((resolve) => { over = resolve })
    let pieces = 0
    const used = (): typeof openaiAnswer => ({ ...openaiAnswer, outputTokens: pieces, usage: 'always' })
    calls.set(tag, {
      tag, request, reply,
      get pieces() { return pieces },
      begin: () => reply.write(sseHead()),
      async say(count) {
        pieces += count
        return reply.write(Buffer.concat(Array.from({ length: count }, () => chunk(sse(chatChunk({ content: 'word ' }))))))
      },
      close: () => reply.write(Buffer.concat([sse(chatChunk({}, { finish: 'stop' })), sse(chatUsageChunk(used())), sse('[DONE]')].map((text) => chunk(text)))),
      async end() {
        const sent = await reply.write(lastChunk)
        over()
        return sent
      },
      async answer() {
        pieces = openaiAnswer.outputTokens
        const sent = await reply.write(json(200, chatCompletion(used())))
        over()
        return sent
      },
    })
    await Promise.race([ended, reply.closed])
  })
  return { upstream, url: upstream.url, calls, call: (tag) => waitFor(`the call ${tag} to arrive`, () => calls.get(tag), { deadlineMs: 15_000 }) }
}
