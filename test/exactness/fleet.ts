import { readFileSync, readdirSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'

export interface CallResult {
  readonly tag: string
  /** 0: no answer. */
  readonly status: number
  /** The whole answer was received, terminal frame included. */
  readonly complete: boolean
  readonly requestId: string | null
  readonly reason: string | null
}

export interface UsageLine {
  id: string
  data: {
    key: string; model: string; end: string; usage_source: string; requests?: number; input_tokens?: number; output_tokens?: number; total_tokens?: number; cost?: string; corrects?: string
  }
}

/** One chat call as a client sees it; never rejects. */
export function call(
  agent: Agent, port: number, secret: string, tag: string, maxTokens: number, stream: boolean, { model = 'm', content = `${tag} say something` }: { model?: string; content?: string } = {},
): Promise<CallResult> {
  return new Promise((resolve) => {
    const body = JSON.stringify({ model, max_tokens: maxTokens, stream, messages: [{ role: 'user', content }] })
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

/** Gateways over one Redis, which write their events into one file. */
export interface Fleet {
  readonly gateways: readonly GatewayProcess[]
  /** Where the file is. */
  readonly dir: string
  readonly agent: Agent
}

/** Started at once: more would take longer, for all of them compile at the start. */
const startsAtOnce = 4

/** `store`: the value of that key in YAML, in which `{dir}` is the gateway's own folder. `config`: everything else but the sink. */
export async function startFleet(t: Teardown, count: number, store: string, config: string): Promise<Fleet> {
  const dir = tmpDir(t)
  const gateways: GatewayProcess[] = []
  const names = Array.from({ length: count }, (_, n) => `gateway-${n}`)
  while (gateways.length < count) {
    gateways.push(...await Promise.all(names.slice(gateways.length, gateways.length + startsAtOnce).map((name) => startGatewayProcess(t, `
instance: ${name}
store: ${store}
admin: { metrics: open }
sinks: [{ name: file, type: file, path: "${dir}/usage.ndjson", daily: false }]
${config}`))))
  }
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 1_024 })
  t.teardown(() => agent.destroy())
  return { gateways, dir, agent }
}
