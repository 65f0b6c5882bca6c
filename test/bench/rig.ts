import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** What the benchmarks have in common: processes, their CPU and memory, and load from wrk. */
export const ROUNDS = Number(process.env['ROUNDS'] ?? 3)
export const SECONDS = Number(process.env['SECONDS'] ?? 4)
export const here = new URL('.', import.meta.url).pathname
export const root = join(here, '../..')
export const SECRET = 'tg_bench_0123456789abcdefghijklmnop'
export const BROKE = 'tg_broke_0123456789abcdefghijklmnop'
const TICKS = Number(spawnSync('getconf', ['CLK_TCK']).stdout.toString()) || 100

export function needs(...tools: readonly string[]): void {
  for (const tool of tools) {
    if (spawnSync('sh', ['-c', `command -v ${tool} || ls /usr/sbin/${tool}`]).status === 0) continue
    console.error(`npm run bench needs ${tool}: apt-get install nginx-light wrk redis-server`)
    process.exit(2)
  }
}

export const dir = mkdtempSync(join(tmpdir(), 'tallygate-bench-'))
export const children: ChildProcess[] = []
process.on('exit', () => {
  // nginx ends its workers when it is asked to end, not when it is killed.
  for (const child of children) child.kill(child.spawnfile.endsWith('nginx') ? 'SIGTERM' : 'SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

export const nodeArgs = ['--disable-warning=ExperimentalWarning']

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

export async function until(what: string, test: () => Promise<boolean>, ms = 20_000): Promise<number> {
  const start = performance.now()
  while (performance.now() - start < ms) {
    if (await test()) return performance.now() - start
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  throw new Error(`${what} did not happen within ${ms} ms`)
}

export function answers(port: number, path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const req = request({ host: '127.0.0.1', port, path, timeout: 1000 }, (res) => { res.resume(); resolve(res.statusCode === 200) })
    req.on('error', () => resolve(false))
    req.end()
  })
}

/** CPU microseconds of the process and its children so far. */
export function cpuUs(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of pids) {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
    ticks += Number(fields[11]) + Number(fields[12])
  }
  return (ticks / TICKS) * 1e6
}

export function rssMb(pid: number, field = 'VmRSS'): number {
  return Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024
}

export interface Load { ok: number; refused: number; other: number; p50_us: number; p99_us: number; errors: number }

export function wrk(port: number, body: object, key: string, connections: number): Promise<Load> {
  return new Promise((resolve, reject) => {
    const child = spawn('wrk', ['-t1', `-c${connections}`, `-d${SECONDS}s`, '--timeout', '20s', '-s', join(here, 'load.lua'), `http://127.0.0.1:${port}`],
      { env: { ...process.env, BODY: JSON.stringify(body), KEY: key }, stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.on('data', (data: Buffer) => { out += data.toString() })
    child.on('close', () => {
      const line = out.split('\n').find((one) => one.startsWith('{'))
      if (line === undefined) reject(new Error(`wrk said nothing:\n${out}`))
      else resolve(JSON.parse(line) as Load)
    })
  })
}


export const hash = (secret: string): string => createHash('sha256').update(secret).digest('hex')

/** The model server that everything proxies: its port. */
export async function startUpstream(): Promise<number> {
  const port = await freePort()
  children.push(spawn(process.execPath, [...nodeArgs, join(here, 'upstream.ts')], { env: { ...process.env, PORT: String(port) }, stdio: 'ignore' }))
  await until('the upstream', () => new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true) }).on('error', () => resolve(false))
  }))
  return port
}

/** Five limits on one key, as a paying customer has them; and a key whose day is over. `store`: the configuration's value. */
export function gatewayConfig(ports: { readonly gateway: number; readonly admin: number; readonly upstream: number }, store: string): string {
  const others = `
      - { name: rpm,      meter: requests,     limit: 1000M, window: 1m }
      - { name: tpm,      meter: total_tokens, limit: 1000000M, window: 1m }
      - { name: monthly,  meter: total_tokens, limit: 1000000M, window: billing_period }
      - { name: parallel, meter: concurrency,  limit: 100k }`
  return `
server: { listen: "127.0.0.1:${ports.gateway}" }
admin: { listen: "127.0.0.1:${ports.admin}" }
store: ${store}
upstreams:
  model: { url: "http://127.0.0.1:${ports.upstream}", provider: openai }
models:
  bench: { upstream: model, context_tokens: 131072, output_tokens_max: 8192 }
plans:
  bench:
    entitlements: { models: ["*"] }
    limits:${others}
      - { name: daily,    meter: total_tokens, limit: 1000000M, window: day }
  broke:
    entitlements: { models: ["*"] }
    limits:${others}
      - { name: daily,    meter: requests, limit: 1, window: day }
keys:
  - { id: bench, plan: bench, hash: "sha256:${hash(SECRET)}" }
  - { id: broke, plan: broke, hash: "sha256:${hash(BROKE)}" }
sinks:
  - { name: file, type: file, path: "${dir}/usage.ndjson" }
`
}

export function startGateway(config: string, level = 'error'): ChildProcess {
  const child = spawn(process.execPath, [...nodeArgs, join(root, 'src/main.ts'), 'serve', '--config', config], {
    cwd: root, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, TALLYGATE_LOG_LEVEL: level },
  })
  children.push(child)
  return child
}

export async function stop(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM')
  await new Promise((resolve) => child.once('exit', resolve))
}

const message = [{ role: 'user', content: 'Say a word, and then another one, and then some more of them, please. '.repeat(12) }]
export const plainBody = { model: 'bench', max_tokens: 256, messages: message }
export const streamBody = { ...plainBody, stream: true, stream_options: { include_usage: true } }

export const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
export const cell = (text: string | number, width: number): string => String(text).padStart(width)
