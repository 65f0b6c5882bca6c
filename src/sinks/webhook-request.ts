import { Agent, request } from 'undici'

export interface WebhookAnswer {
  readonly status: number
  /** As it was sent; null: it was not. */
  readonly retryAfter: string | null
}

const connectMs = 5_000
/** An answer is waited for this long, and read no further than this: what it says is nobody's business. */
const answerMs = 15_000
const bodyBytesMax = 65_536
const headBytesMax = 16_384
const connectionsMax = 4

/** The way to one receiver. Redirects are not followed. */
export class WebhookWire {
  readonly #url: string
  readonly #agent = new Agent({
    connections: connectionsMax, pipelining: 1, allowH2: false, connect: { timeout: connectMs }, headersTimeout: answerMs, bodyTimeout: answerMs, maxHeaderSize: headBytesMax,
  })

  constructor(url: string) {
    this.#url = url
  }

  /** One attempt. Rejects when there was no answer; the error has a code, and no words of the receiver's. */
  async post(headers: Readonly<Record<string, string>>, body: string, signal: AbortSignal): Promise<WebhookAnswer> {
    const answer = await request(this.#url, { method: 'POST', headers, body, dispatcher: this.#agent, signal })
    // An answer without its end has said what it had to say with its status.
    await answer.body.dump({ limit: bodyBytesMax, signal }).catch(() => undefined)
    const retryAfter = answer.headers['retry-after']
    return { status: answer.statusCode, retryAfter: typeof retryAfter === 'string' ? retryAfter : null }
  }

  /** Cuts what runs. */
  async close(): Promise<void> {
    await this.#agent.destroy()
  }
}
