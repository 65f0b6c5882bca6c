import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../../src/clock.ts'
import { openLogTo } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openTelemetry } from '../../src/telemetry/otlp.ts'
import { answers, cell, children, cpuUs, dir, freePort, gatewayConfig, median, needs, nodeArgs, plainBody, root, ROUNDS, SECRET, startUpstream, stop, until, wrk } from './rig.ts'

/**
 * What it costs a call to be seen: CPU per exchange of gateways that differ only in what they tell, under the same load, in turns; the median round counts. The first
 * tells nothing but metrics, which cannot be switched off. Then each part by itself, which a busy machine disturbs less. Needs wrk.
 */
needs('wrk')

/** In a process of its own: its work is not ours. */
const receiverPort = await freePort()
children.push(spawn(process.execPath, ['-e', `require('node:http').createServer((q, r) => { q.resume(); q.on('end', () => r.writeHead(200, { 'content-type': 'application/json' }).end('{}')) }).listen(${receiverPort}, '127.0.0.1')`], { stdio: 'ignore' }))
const otlp = `http://127.0.0.1:${receiverPort}`
await until('the receiver', () => answers(receiverPort, '/'))
const upstream = await startUpstream()

const variants = [
  { name: 'metrics alone', level: 'error', more: 'telemetry: off', scrape: false },
  { name: 'scraped every second', level: 'error', more: 'telemetry: off', scrape: true },
  { name: 'a log line for each', level: 'info', more: 'telemetry: off', scrape: false },
  { name: 'telemetry, 1% of traces', level: 'error', more: `telemetry: { otlp: "${otlp}", sample: 1% }`, scrape: false },
  { name: 'telemetry, 10% of traces', level: 'error', more: `telemetry: { otlp: "${otlp}", sample: 10% }`, scrape: false },
  { name: 'telemetry, every trace', level: 'error', more: `telemetry: { otlp: "${otlp}", sample: 100% }`, scrape: false },
] as const

interface Running { readonly port: number; readonly admin: number; readonly child: ChildProcess; readonly us: number[] }
const running: Running[] = []
for (const [index, { level, more }] of variants.entries()) {
  const port = await freePort()
  const admin = await freePort()
  const data = join(dir, `data-${index}`)
  mkdirSync(data)
  const file = join(dir, `gateway-${index}.yaml`)
  writeFileSync(file, `${gatewayConfig({ gateway: port, admin, upstream }, `"embedded:${data}"`).replace('usage.ndjson', `usage-${index}.ndjson`)}\nanalytics: off\n${more}\n`)
  const child = spawn(process.execPath, [...nodeArgs, join(root, 'src/main.ts'), 'serve', '--config', file], {
    cwd: root, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, TALLYGATE_LOG_LEVEL: level },
  })
  children.push(child)
  await until('the gateway', () => answers(port, '/-/ready'))
  running.push({ port, admin, child, us: [] })
}
for (const { port } of running) await wrk(port, plainBody, SECRET, 32)
for (let round = 0; round < ROUNDS; round++) {
  for (const [index, { port, admin, child, us }] of running.entries()) {
    const scraper = variants[index]!.scrape ? setInterval(() => void answers(admin, '/metrics'), 1_000) : undefined
    const before = cpuUs([child.pid!])
    const load = await wrk(port, plainBody, SECRET, 32)
    us.push((cpuUs([child.pid!]) - before) / load.ok)
    clearInterval(scraper)
    if (load.ok === 0 || load.other > 0 || load.errors > 0) console.error(`${variants[index]!.name}: ${JSON.stringify(load)}`)
  }
}
for (const { child } of running) await stop(child)

/** Processor time of one call of `note`, by itself. `after`: what it leaves to be done later is part of it. */
async function ownUs(note: () => void, after: () => Promise<void> = async () => undefined): Promise<number> {
  const took: number[] = []
  for (let round = 0; round < 6; round++) {
    const before = process.cpuUsage()
    for (let i = 0; i < 2_000; i++) note()
    await after()
    const { user, system } = process.cpuUsage(before)
    if (round > 0) took.push((user + system) / 2_000)
  }
  return median(took)
}

const metrics = new Metrics()
function noteMetrics(): void {
  metrics.open.set(1)
  metrics.storeLatency.observe({ move: 'reserve' }, 0.001)
  metrics.unsettled.set(1)
  metrics.settlements.inc({ end: 'complete', usage_source: 'upstream' })
  metrics.tokens.inc({ provider: 'openai', model: 'bench', type: 'input' }, 20)
  metrics.tokens.inc({ provider: 'openai', model: 'bench', type: 'output' }, 20)
  metrics.storeLatency.observe({ move: 'settle' }, 0.001)
  metrics.unsettled.set(0)
  metrics.open.set(0)
  metrics.requests.inc({ provider: 'openai', endpoint: 'chat.completions', outcome: 'complete' })
  metrics.duration.observe({ endpoint: 'chat.completions' }, 0.02)
  metrics.firstByte.observe({ endpoint: 'chat.completions' }, 0.02)
  metrics.upstreamDuration.observe({ upstream: 'model' }, 0.02)
  metrics.overhead.observe(0.001)
}

const nowhere = openSync('/dev/null', 'w')
const log = openLogTo({ write: (line) => writeSync(nowhere, line) }, 'info')
function noteLine(): void {
  log.info({
    id: '01a204ab-e184-7f88-b929-1fff2afd8ea7', account: 'acme', key: 'acme-dev', endpoint: 'chat.completions', model: 'bench', upstream: 'model', status: 200, end: 'complete', ms: 23, upstream_ms: 22, first_byte_ms: 22,
    input_tokens: 20, output_tokens: 20, usage_source: 'upstream',
  }, 'exchange')
}

async function telemetryUs(sampleShare: number): Promise<number> {
  const telemetry = openTelemetry(
    { endpoint: otlp, headers: {}, sampleShare, serviceName: 'bench', instance: 'bench', version: '0' },
    { clock: systemClock, random: systemRandom, log: { warn() {}, info() {} }, exports: metrics.telemetryExports },
  )
  const headers = ['host', 'x', 'authorization', 'Bearer x', 'content-type', 'application/json', 'content-length', '1000']
  const us = await ownUs(() => telemetry.ended({
    trace: telemetry.begin(headers), id: '01a204ab-e184-7f88-b929-1fff2afd8ea7', startMs: 1_800_000_000_000, ms: 23, method: 'POST', path: '/v1/chat/completions', endpoint: 'chat.completions', status: 200, end: 'complete',
    failure: null, account: 'acme', key: 'acme-dev', plan: 'free',
    upstream: {
      afterMs: 1, ms: 22, name: 'model', origin: 'http://127.0.0.1:8000', status: 200, attempts: 1, provider: 'openai', model: 'bench', modelLabel: 'bench', modelServed: 'bench', streamed: false, outputBound: 256, choices: 1,
      firstByteMs: 22, perOutputTokenMs: null, inputTokens: 20, cachedInputTokens: 0, cacheWriteTokens: null, outputTokens: 20,
    },
  }), () => new Promise((resolve) => { setTimeout(resolve, 1_500) }))
  await telemetry.close()
  return us
}

const base = median(running[0]!.us)
const own = [
  ['metrics', await ownUs(noteMetrics)], ['a log line', await ownUs(noteLine)], ['telemetry, not recorded', await telemetryUs(0)], ['telemetry, recorded and sent', await telemetryUs(1)],
] as const
console.log(`\n${'CPU per plain exchange, µs'.padEnd(28)}${cell('gateway', 10)}${cell('more', 10)}`)
for (const [index, { us }] of running.entries()) {
  const mid = median(us)
  console.log(`${variants[index]!.name.padEnd(28)}${cell(mid.toFixed(1), 10)}${cell(index === 0 ? '' : `${((mid / base - 1) * 100).toFixed(1)} %`, 10)}`)
}
console.log(`\n${'by itself, µs'.padEnd(28)}${cell('', 10)}${cell('of a call', 10)}`)
for (const [name, us] of own) console.log(`${name.padEnd(28)}${cell(us.toFixed(1), 10)}${cell(`${((us / base) * 100).toFixed(1)} %`, 10)}`)
process.exit(0)
