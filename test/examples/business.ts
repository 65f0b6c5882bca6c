// A sample business of config/examples, started as it stands there, with a model behind it that does what it is told and counts what it did.

import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openScriptedUpstream, json, steps, type Script, type ScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import type { InvoiceDocument } from '../../src/invoices/document.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Answer {
  readonly status: number
  readonly body: Record<string, unknown>
  readonly headers: Headers
  /** Of a refusal. */
  readonly reason: string | undefined
  readonly message: string
}

export interface Standing {
  readonly plan: string
  readonly limits: readonly { readonly name: string; readonly limit: number | null; readonly used: number; readonly reserved: number; readonly remaining: number | null; readonly meter: string }[]
  readonly grants: readonly Record<string, unknown>[]
  readonly subscription?: Record<string, unknown>
}

export interface BillingEvent { readonly id: string; readonly subject: string; readonly data: Readonly<Record<string, unknown>> }

export interface Business {
  readonly gateway: GatewayProcess
  /** What `check` said of the file, warnings included. */
  readonly checked: { readonly code: number | null; readonly out: string; readonly err: string }
  call(secret: string, path: string, body: object, headers?: Record<string, string>): Promise<Answer>
  usage(secret: string): Promise<Standing>
  invoice(account: string, query?: string): Promise<InvoiceDocument & { readonly children?: InvoiceDocument[]; readonly family?: { currency: string; total: string }[]; readonly known_since: string | null }>
  cli(...args: string[]): Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>
  /** As the sink has them, once there are so many. */
  events(count: number): Promise<BillingEvent[]>
}

/** `env`: what the example says that it needs. */
export async function startBusiness(t: Teardown, name: string, env: Record<string, string>): Promise<Business> {
  const yaml = readFileSync(join(root, 'config/examples', name), 'utf8')
  const folder = tmpDir(t)
  const file = join(folder, name)
  writeFileSync(file, yaml, { mode: 0o600 })
  const checked = await run(['check', '--config', file], folder, env)
  const gateway = await startGatewayProcess(t, yaml, env)
  const cli: Business['cli'] = (...args) => run([...args, '--config', join(gateway.dir, 'tallygate.yaml')], gateway.dir, env)
  return {
    gateway, checked, cli,
    async call(secret, path, body, headers = {}) {
      const response = await fetch(`${gateway.url}${path}`, { method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })
      const text = await response.text()
      const parsed = text.startsWith('{') ? JSON.parse(text) as Record<string, unknown> : { text }
      const error = parsed['error'] as { reason?: string; message?: string; details?: { reason?: string } } | undefined
      return { status: response.status, body: parsed, headers: response.headers, reason: error?.reason ?? error?.details?.reason, message: error?.message ?? '' }
    },
    async usage(secret) {
      const response = await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${secret}` } })
      if (!response.ok) throw new Error(`/-/usage answered ${response.status}: ${await response.text()}`)
      return await response.json() as Standing
    },
    async invoice(account, query = '') {
      const response = await fetch(`${gateway.adminUrl}/api/v1/invoices/${account}${query}`, { headers: { authorization: `Bearer ${env['OPS_TOKEN'] ?? ''}` } })
      if (!response.ok) throw new Error(`the invoice of ${account} answered ${response.status}: ${await response.text()}`)
      return await response.json() as Awaited<ReturnType<Business['invoice']>>
    },
    events: (count) => waitFor(`${count} events in the file`, () => {
      const lines = readFileSync(join(gateway.dir, 'data/usage.ndjson'), 'utf8').split('\n').filter((line) => line !== '')
      return lines.length >= count ? lines.map((line) => JSON.parse(line) as BillingEvent) : undefined
    }),
  }
}

function run(args: readonly string[], cwd: string, env: Record<string, string>): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(root, 'src/main.ts'), ...args], { cwd, env: { PATH: process.env['PATH'] ?? '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    let err = ''
    child.stdout.on('data', (data: Buffer) => { out += data.toString() })
    child.stderr.on('data', (data: Buffer) => { err += data.toString() })
    child.on('close', (code) => resolve({ code, out, err }))
  })
}

/** A prompt of so many tokens, at one a byte, that asks for so many in answer. */
export function words(input: number, output: number): { readonly role: 'user'; readonly content: string }[] {
  const order = `answer=${output} `
  return [{ role: 'user', content: order + 'x'.repeat(Math.max(0, input - order.length)) }]
}

/** Speaks both dialects: every byte of the prompt is a token, and the answer is as long as the prompt asks, up to its bound. */
export function openModel(t: Teardown): Promise<ScriptedUpstream> {
  const script: Script = (request, reply) => {
    const body = request.json()
    if (request.target.endsWith('/images/generations')) {
      const data = Array.from({ length: Number(body['n'] ?? 1) }, (_, nth) => ({ url: `https://pictures.test/${nth}.png` }))
      return steps(json(200, { created: 1, data }))(request, reply)
    }
    const messages = body['messages'] as readonly { content: string }[]
    const text = messages.map(({ content }) => content).join('')
    const bound = Number(body['max_completion_tokens'] ?? body['max_tokens'] ?? Infinity)
    const output = Math.min(bound, Number(/answer=(\d+)/.exec(text)?.[1] ?? 1))
    const usage = request.target.endsWith('/messages')
      ? { id: 'msg_1', type: 'message', role: 'assistant', model: body['model'], content: [{ type: 'text', text: 'ok' }], stop_reason: 'end_turn', stop_sequence: null, usage: { input_tokens: text.length, output_tokens: output, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 } }
      : { id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: body['model'], choices: [{ index: 0, message: { role: 'assistant', content: 'ok' }, finish_reason: 'stop' }], usage: { prompt_tokens: text.length, completion_tokens: output, total_tokens: text.length + output } }
    return steps(json(200, usage))(request, reply)
  }
  return openScriptedUpstream(t, script)
}

/** Decimal texts of nine digits, as nanos. */
export function nanos(text: string | undefined): bigint {
  return BigInt((text ?? '').replace('.', ''))
}

/** What the events of an account cost, as they say it. */
export function costOf(events: readonly BillingEvent[], account: string): bigint {
  return events.filter(({ subject }) => subject === account).reduce((sum, { data }) => sum + (typeof data['cost'] === 'string' ? nanos(data['cost']) : 0n), 0n)
}
