import { request, type Agent } from 'node:http'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

export interface CallResult {
  readonly tag: string
  /** 0: no answer. */
  readonly status: number
  /** The whole answer was received, terminal frame included. */
  readonly complete: boolean
  readonly requestId: string | null
  readonly reason: string | null
}

export interface UsageLine { id: string; data: { end: string; usage_source: string; requests?: number; input_tokens?: number; output_tokens?: number; total_tokens?: number; corrects?: string } }

/** One chat call as a client sees it; never rejects. */
export function call(agent: Agent, port: number, secret: string, tag: string, maxTokens: number, stream: boolean): Promise<CallResult> {
  return new Promise((resolve) => {
    const body = JSON.stringify({ model: 'm', max_tokens: maxTokens, stream, messages: [{ role: 'user', content: `${tag} say something` }] })
    const req = request({ agent, host: '127.0.0.1', port, path: '/v1/chat/completions', method: 'POST',
      headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) } }, (res) => {
      let text = ''
      const id = res.headers['x-request-id']
      const end = (whole: boolean): void => {
        const ok = res.statusCode === 200
        const complete = whole && ok && (stream ? text.includes('data: [DONE]\n\n') : text.endsWith('}'))
        const reason = ok ? null : /"reason":"([a-z_]+)"/.exec(text)?.[1] ?? null
        resolve({ tag, status: res.statusCode ?? 0, complete, requestId: typeof id === 'string' ? id : null, reason })
      }
      res.setEncoding('utf8')
      res.on('data', (data: string) => { text += data })
      res.on('end', () => end(res.complete))
      res.on('error', () => end(false))
    })
    req.on('error', () => resolve({ tag, status: 0, complete: false, requestId: null, reason: null }))
    req.end(body)
  })
}

/** Every line of the file sink, rotated files included. */
export function usageLines(dir: string): UsageLine[] {
  return readdirSync(dir).filter((name) => /^usage.*ndjson$/.test(name)).sort()
    .flatMap((name) => readFileSync(join(dir, name), 'utf8').split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as UsageLine))
}

export interface LimitState { name: string; limit: number; used: number; reserved: number; remaining: number }

export async function limits(url: string, secret: string): Promise<LimitState[]> {
  const answer = await fetch(`${url}/-/usage`, { headers: { authorization: `Bearer ${secret}` } })
  return ((await answer.json()) as { limits: LimitState[] }).limits
}
