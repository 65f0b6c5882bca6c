import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * `npm run bench`: CPU per exchange of the gateway beside nginx, proxying the same upstream under the same load in the same run. Machines are noisy,
 * so the ratios count; rounds alternate and the median round is printed. Needs nginx and wrk (Debian: nginx-light, wrk).
 */
const ROUNDS = Number(process.env['ROUNDS'] ?? 3)
const SECONDS = Number(process.env['SECONDS'] ?? 4)
const here = new URL('.', import.meta.url).pathname
const root = join(here, '../..')
const SECRET = 'tg_bench_0123456789abcdefghijklmnop'
const BROKE = 'tg_broke_0123456789abcdefghijklmnop'
const TICKS = Number(spawnSync('getconf', ['CLK_TCK']).stdout.toString()) || 100

for (const tool of ['nginx', 'wrk']) {
  if (spawnSync('sh', ['-c', `command -v ${tool} /usr/sbin/${tool}`]).status !== 0 && spawnSync('which', [tool]).status !== 0) {
    console.error(`npm run bench needs ${tool}: apt-get install nginx-light wrk`)
    process.exit(2)
  }
}

const dir = mkdtempSync(join(tmpdir(), 'tallygate-bench-'))
const children: ChildProcess[] = []
process.on('exit', () => {
  // nginx ends its workers when it is asked to end, not when it is killed.
  for (const child of children) child.kill(child.spawnfile.endsWith('nginx') ? 'SIGTERM' : 'SIGKILL')
  rmSync(dir, { recursive: true, force: true })
})

const nodeArgs = ['--disable-warning=ExperimentalWarning']

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

async function until(what: string, test: () => Promise<boolean>, ms = 20_000): Promise<number> {
  const start = performance.now()
  while (performance.now() - start < ms) {
    if (await test()) return performance.now() - start
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  throw new Error(`${what} did not happen within ${ms} ms`)
}

function answers(port: number, path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const req = request({ host: '127.0.0.1', port, path, timeout: 1000 }, (res) => { res.resume(); resolve(res.statusCode === 200) })
    req.on('error', () => resolve(false))
    req.end()
  })
}

/** CPU microseconds of the process and its children so far. */
function cpuUs(pids: readonly number[]): number {
  let ticks = 0
  for (const pid of pids) {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
    ticks += Number(fields[11]) + Number(fields[12])
  }
  return (ticks / TICKS) * 1e6
}

function rssMb(pid: number, field = 'VmRSS'): number {
  return Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024
}

interface Load { ok: number; refused: number; other: number; p50_us: number; p99_us: number; errors: number }

function wrk(port: number, body: object, key: string, connections: number): Promise<Load> {
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

// === The three processes ===

const upstreamPort = await freePort()
children.push(spawn(process.execPath, [...nodeArgs, join(here, 'upstream.ts')], { env: { ...process.env, PORT: String(upstreamPort) }, stdio: 'ignore' }))
await until('the upstream', () => new Promise((resolve) => {
  const socket = connect(upstreamPort, '127.0.0.1', () => { socket.destroy(); resolve(true) }).on('error', () => resolve(false))
}))

const nginxPort = await freePort()
writeFileSync(join(dir, 'nginx.conf'), `
worker_processes 1; daemon off; pid ${dir}/nginx.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path ${dir}/b; proxy_temp_path ${dir}/p; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
  keepalive_requests 1000000000;
  upstream model { server 127.0.0.1:${upstreamPort}; keepalive 512; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:${nginxPort}; location / { proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }
}`)
const nginx = spawn(spawnSync('which', ['nginx']).stdout.toString().trim() || '/usr/sbin/nginx', ['-c', join(dir, 'nginx.conf')], { stdio: 'ignore' })
children.push(nginx)

const gatewayPort = await freePort()
const adminPort = await freePort()
const hash = (secret: string): string => createHash('sha256').update(secret).digest('hex')
writeFileSync(join(dir, 'tallygate.yaml'), `
server: { listen: "127.0.0.1:${gatewayPort}" }
admin: { listen: "127.0.0.1:${adminPort}" }
store: "embedded:${dir}/data"
upstreams:
  model: { url: "http://127.0.0.1:${upstreamPort}", provider: openai }
models:
  bench: { upstream: model, context_tokens: 131072, output_tokens_max: 8192 }
plans:
  bench:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm,      meter: requests,     limit: 1000M, window: 1m }
      - { name: tpm,      meter: total_tokens, limit: 1000G, window: 1m }
      - { name: daily,    meter: total_tokens, limit: 1000G, window: day }
      - { name: monthly,  meter: total_tokens, limit: 1000G, window: billing_period }
      - { name: parallel, meter: concurrency,  limit: 100k }
  broke:
    entitlements: { models: ["*"] }
    limits:
      - { name: rpm,      meter: requests,     limit: 1000M, window: 1m }
      - { name: tpm,      meter: total_tokens, limit: 1000G, window: 1m }
      - { name: daily,    meter: requests, limit: 1, window: day }
      - { name: monthly,  meter: total_tokens, limit: 1000G, window: billing_period }
      - { name: parallel, meter: concurrency,  limit: 100k }
keys:
  - { id: bench, plan: bench, hash: "sha256:${hash(SECRET)}" }
  - { id: broke, plan: broke, hash: "sha256:${hash(BROKE)}" }
sinks:
  - { name: file, type: file, path: "${dir}/usage.ndjson" }
`.replaceAll('1000G', '1000000M'))

function startGateway(): ChildProcess {
  const child = spawn(process.execPath, [...nodeArgs, join(root, 'src/main.ts'), 'serve', '--config', join(dir, 'tallygate.yaml')], {
    cwd: root, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, TALLYGATE_LOG_LEVEL: 'warn' },
  })
  children.push(child)
  return child
}

const starts: number[] = []
let gateway = startGateway()
for (let i = 0; i < ROUNDS; i++) {
  if (i > 0) {
    gateway.kill('SIGTERM')
    await new Promise((resolve) => gateway.once('exit', resolve))
    gateway = startGateway()
  }
  starts.push(await until('the gateway', () => answers(gatewayPort, '/-/ready')))
}
await new Promise((resolve) => setTimeout(resolve, 1500))
const idleMb = rssMb(gateway.pid!)
const nginxWorkers = spawnSync('pgrep', ['-P', String(nginx.pid)]).stdout.toString().trim().split('\n').map(Number)

// === Rounds ===

interface Row { name: string; gateway: number[]; nginx: number[]; ratio: number[]; p50: number[]; p99: number[] }
const rows: Row[] = []
const message = [{ role: 'user', content: 'Say a word, and then another one, and then some more of them, please. '.repeat(12) }]
const plainBody = { model: 'bench', max_tokens: 256, messages: message }
const streamBody = { ...plainBody, stream: true, stream_options: { include_usage: true } }
const cases = [
  { name: 'plain 1 KB exchange', body: plainBody, key: SECRET, connections: 64, per: 1, status: 'ok' as const },
  { name: 'streamed, per event', body: streamBody, key: SECRET, connections: 64, per: 201, status: 'ok' as const },
  { name: 'refused call', body: plainBody, key: BROKE, connections: 64, per: 1, status: 'refused' as const },
]
// One call uses the broke key's only request up; one round of each warms both up.
await wrk(gatewayPort, plainBody, BROKE, 1)
await wrk(gatewayPort, plainBody, SECRET, 64)
await wrk(nginxPort, plainBody, SECRET, 64)

for (const one of cases) {
  const row: Row = { name: one.name, gateway: [], nginx: [], ratio: [], p50: [], p99: [] }
  rows.push(row)
  for (let i = 0; i < ROUNDS; i++) {
    const measure = async (port: number, pids: readonly number[], status: 'ok' | 'refused'): Promise<{ us: number; load: Load }> => {
      const before = cpuUs(pids)
      const load = await wrk(port, one.body, one.key, one.connections)
      if (load[status] === 0 || load.other > 0 || load.errors > 0) console.error(`${one.name}: ${JSON.stringify(load)}`)
      return { us: (cpuUs(pids) - before) / (load[status] * one.per), load }
    }
    const ours = await measure(gatewayPort, [gateway.pid!], one.status)
    const theirs = await measure(nginxPort, nginxWorkers, 'ok')
    row.gateway.push(ours.us)
    row.nginx.push(theirs.us)
    row.ratio.push(ours.us / theirs.us)
    row.p50.push(ours.load.p50_us)
    row.p99.push(ours.load.p99_us)
  }
}
const peakMb = rssMb(gateway.pid!, 'VmHWM')

// === A thousand open streams ===

const sockets: ReturnType<typeof connect>[] = []
let begun = 0
for (let i = 0; i < 1000; i++) {
  const text = JSON.stringify(streamBody)
  const socket = connect(gatewayPort, '127.0.0.1', () => {
    socket.write(`POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${SECRET}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`)
  })
  socket.once('data', () => begun++)
  socket.on('error', () => {})
  sockets.push(socket)
}
await until('a thousand streams', async () => begun === 1000)
const openMb = rssMb(gateway.pid!)
for (const socket of sockets) socket.destroy()

gateway.kill('SIGTERM')
await new Promise((resolve) => gateway.once('exit', resolve))
const recovery = spawnSync(process.execPath, [...nodeArgs, '--max-old-space-size=4096', join(here, 'recovery.ts')], { encoding: 'utf8' })

// === The table ===

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
const cell = (text: string | number, width: number): string => String(text).padStart(width)
console.log(`\n${'CPU per unit, µs'.padEnd(24)}${cell('gateway', 10)}${cell('nginx', 10)}${cell('ratio', 8)}${cell('p50 ms', 10)}${cell('p99 ms', 10)}`)
for (const row of rows) {
  console.log(`${row.name.padEnd(24)}${cell(median(row.gateway).toFixed(1), 10)}${cell(median(row.nginx).toFixed(1), 10)}${cell(median(row.ratio).toFixed(2), 8)}${cell((median(row.p50) / 1000).toFixed(1), 10)}${cell((median(row.p99) / 1000).toFixed(1), 10)}`)
}
console.log('(a refused call is held against nginx proxying the same call)')
console.log(`\nready after            ${median(starts).toFixed(0)} ms
memory, idle           ${idleMb.toFixed(0)} MB
memory, 1,000 streams  ${openMb.toFixed(0)} MB
memory, peak           ${peakMb.toFixed(0)} MB
recovery               ${recovery.status === 0 ? recovery.stdout.trim().split('\n').at(-1) : `failed: ${recovery.stderr.trim().split('\n').at(-1)}`}`)
process.exit(0)
