// What can be seen of a gateway process from outside: what it answers, what it holds, what it told its file sink, what the kernel knows of it.

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'

export const secret = 'tg_process_0123456789abcdefghijk'

export interface Setting {
  readonly upstream: string
  readonly server?: string
  readonly limits?: readonly string[]
  readonly version?: number
  readonly provider?: string
  readonly sinks?: string
}

export const wide = [
  '{ name: budget, meter: total_tokens, limit: 1000M, window: lifetime }',
  '{ name: calls, meter: requests, limit: 1000M, window: lifetime }',
  '{ name: parallel, meter: concurrency, limit: 10000 }',
]

/** One upstream, one plan, one key, one file sink. */
export function configOf({ upstream, server = '{}', limits = wide, version = 1, provider = 'openai', sinks = '' }: Setting): string {
  return `
server: ${server}
upstreams: { model: { url: "${upstream}", provider: ${provider} } }
plans:
  process:
    version: ${version}
    entitlements: { models: ["*"] }
    policy: { output_default: 100, on_insufficient: refuse }
    limits:
${limits.map((limit) => `      - ${limit}\n`).join('')}
keys:
  - { id: dev, plan: process, hash: "sha256:${createHash('sha256').update(secret).digest('hex')}" }
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
${sinks}`
}

export interface Call {
  readonly request: ClientRequest
  /** 0 while there is no head, or none came. */
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly text: string
  /** Resolves when nothing more comes: true when the answer was whole as HTTP has it. */
  readonly over: Promise<boolean>
  /** Leaves at once, without a word. */
  leave(): void
}

/** A chat call, watched while it runs. */
export function chat(port: number, tag: string, { stream = true, maxTokens = 50, key = secret, prompt = 'say something', path = '/v1/chat/completions' }:
{ stream?: boolean; maxTokens?: number; key?: string; prompt?: string; path?: string } = {}): Call {
  const body = JSON.stringify({ model: 'test-model', max_tokens: maxTokens, stream, messages: [{ role: 'user', content: `${tag} ${prompt}` }] })
  const seen = { status: 0, headers: {} as IncomingMessage['headers'], text: '' }
  let settle = (_whole: boolean): void => undefined
  const over = new Promise<boolean>((resolve) => { settle = resolve })
  const outgoing = request({
    host: '127.0.0.1', port, path, method: 'POST', agent: false,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
  }, (incoming) => {
    seen.status = incoming.statusCode ?? 0
    seen.headers = incoming.headers
    incoming.setEncoding('utf8')
    incoming.on('data', (text: string) => { seen.text += text })
    incoming.on('end', () => settle(incoming.complete))
    incoming.on('error', () => settle(false))
    incoming.on('close', () => settle(incoming.complete))
  })
  outgoing.on('error', () => settle(false))
  outgoing.on('close', () => { if (seen.status === 0) settle(false) })
  outgoing.end(body)
  return {
    request: outgoing, over,
    get status() { return seen.status },
    get headers() { return seen.headers },
    get text() { return seen.text },
    leave: () => outgoing.destroy(),
  }
}

export interface UsageLine {
  readonly id: string
  readonly data: {
    readonly end: string
    readonly usage_source: string
    readonly endpoint: string
    readonly plan_version: number
    readonly status?: number
    readonly requests?: number
    readonly input_tokens?: number
    readonly output_tokens?: number
    readonly total_tokens?: number
    readonly corrects?: string
  }
}

/** Whole lines of a file sink. */
export function usageLines(dir: string, pattern = /^usage.*ndjson$/): UsageLine[] {
  return readdirSync(dir).filter((name) => pattern.test(name)).sort()
    .flatMap((name) => readFileSync(join(dir, name), 'utf8').split('\n').slice(0, -1).map((line) => JSON.parse(line) as UsageLine))
}

/** Waits until the file sink has so many lines, and gives them. */
export async function linesOf(gateway: GatewayProcess, count: number): Promise<UsageLine[]> {
  await waitFor(`${count} events in the file`, () => usageLines(gateway.dir).length >= count, { deadlineMs: 10_000 })
  return usageLines(gateway.dir)
}

export interface Standing { readonly limit: number; readonly used: number; readonly reserved: number; readonly remaining: number }

/** Every visible limit of the key by name. */
export async function standing(gateway: GatewayProcess, key = secret): Promise<Record<string, Standing>> {
  const answer = await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${key}` } })
  const { limits } = await answer.json() as { limits: (Standing & { name: string })[] }
  return Object.fromEntries(limits.map((limit) => [limit.name, limit]))
}

export const totalOf = (lines: readonly UsageLine[], quantity: 'requests' | 'total_tokens'): number =>
  lines.reduce((sum, { data }) => sum + (data[quantity] ?? 0), 0)

/** What a process holds open, by what the kernel says. */
export function openFiles(pid: number): { all: number; sockets: number } {
  let all = 0
  let sockets = 0
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    try {
      if (readlinkSync(`/proc/${pid}/fd/${name}`).startsWith('socket:')) sockets += 1
      all += 1
    } catch {
      // Closed between listing and looking.
      continue
    }
  }
  return { all, sockets }
}

/** Processor time so far, in milliseconds (clock ticks are 10 ms). */
export function processorMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return 10 * (Number(fields[11]) + Number(fields[12]))
}

/** True while nobody listens on the port. */
export function portIsClosed(port: number): Promise<boolean> {
  return fetch(`http://127.0.0.1:${port}/-/live`).then(() => false, () => true)
}
