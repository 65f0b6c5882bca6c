// The program as a process of its own, as an operator starts it.

import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(TALLYGATE|UPSTREAM)_/.test(name)))

export type Env = Readonly<Record<string, string>>

export interface Finished {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

export interface RunningProcess {
  readonly child: ChildProcess
  out(): string
  err(): string
  readonly finished: Promise<Finished>
}

export function spawnTallygate(t: Teardown, args: readonly string[], { cwd, env = {} }: { cwd: string; env?: Env }): RunningProcess {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main, ...args], { cwd, env: { ...inherited, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk: Buffer) => { out += chunk.toString() })
  child.stderr.on('data', (chunk: Buffer) => { err += chunk.toString() })
  const finished = new Promise<Finished>((resolve) => child.on('close', (code) => resolve({ code, out, err })))
  t.teardown(async () => {
    child.kill('SIGKILL')
    await finished
  })
  return { child, out: () => out, err: () => err, finished }
}

/** Runs a command to its end. */
export function tallygate(t: Teardown, dir: string, args: readonly string[], env: Env = {}): Promise<Finished> {
  return spawnTallygate(t, args, { cwd: dir, env }).finished
}

export interface RunningGateway extends RunningProcess {
  readonly gateway: string
  readonly admin: string
  /** The lines to paste. */
  readonly curlLines: readonly string[]
  /** A row of the banner. */
  row(name: string): string | undefined
}

/** Starts `serve` and waits for its banner. */
export async function serve(t: Teardown, dir: string, env: Env = {}): Promise<RunningGateway> {
  const running = spawnTallygate(t, ['serve'], { cwd: dir, env })
  let ended: Finished | undefined
  void running.finished.then((finished) => { ended = finished })
  await waitFor('the banner', () => {
    if (ended !== undefined) throw new Error(`it ended with ${ended.code}: ${ended.err}${ended.out}`)
    return running.out().includes('Tallygate is ready.') && running.out().endsWith('\n\n')
  }, { deadlineMs: 30_000 })
  const banner = running.out()
  const row = (name: string): string | undefined => new RegExp(`^  ${name} +(\\S+)`, 'm').exec(banner)?.[1]
  return {
    ...running, row, gateway: row('gateway') ?? '', admin: row('admin') ?? '',
    curlLines: banner.split('\n').filter((line) => line.startsWith('  curl ')).map((line) => line.trim()),
  }
}

/** A folder with a config that listens on free ports and keeps everything inside. */
export function configIn(dir: string, more = ''): string {
  mkdirSync(join(dir, 'config'), { recursive: true })
  writeConfig(dir, `${basics}${more}`)
  return dir
}

export function writeConfig(dir: string, text: string): void {
  writeFileSync(join(dir, 'config/tallygate.yaml'), text, { mode: 0o600 })
}

export const basics = `
server: { listen: "127.0.0.1:0", drain: { delay: 300ms, timeout: 20s } }
admin: { listen: "127.0.0.1:0" }
store: "embedded:./data"
sinks:
  - { name: file, type: file, path: ./data/usage.ndjson }
`

export const freePlan = `
plans:
  free:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm, meter: requests, limit: 20, window: 1m }
      - { name: daily, meter: total_tokens, limit: 100k, window: day }
accounts:
  acme: { plan: free }
`

/** Runs a line in a shell, as pasted. */
export function paste(line: string): Promise<Finished> {
  return new Promise((resolve) => {
    const child = spawn('sh', ['-c', line], { stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    let err = ''
    child.stdout.on('data', (chunk: Buffer) => { out += chunk.toString() })
    child.stderr.on('data', (chunk: Buffer) => { err += chunk.toString() })
    child.on('close', (code) => resolve({ code, out, err }))
  })
}

export function chat(gateway: string, secret: string, more: Readonly<Record<string, unknown>> = {}): Promise<Response> {
  return fetch(`${gateway}/v1/chat/completions`, {
    method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'demo', messages: [{ role: 'user', content: 'Hello there!' }], ...more }),
  })
}

export async function usage(gateway: string, secret: string): Promise<{ limits: { name: string; limit: number; used: number; reserved: number }[] }> {
  const response = await fetch(`${gateway}/-/usage`, { headers: { authorization: `Bearer ${secret}` } })
  return await response.json() as { limits: { name: string; limit: number; used: number; reserved: number }[] }
}
