import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Metrics } from '../../src/metrics.ts'
import { answers, cell, children, cpuUs, dir, freePort, gatewayConfig, median, needs, nodeArgs, plainBody, root, ROUNDS, SECRET, startUpstream, stop, until, wrk } from './rig.ts'

/**
 * What it costs a call to be seen: CPU per exchange of gateways that differ only in what they tell, under the same load, in turns; the median round counts. The first
 * tells nothing but metrics, which cannot be switched off: their part is measured by itself. Needs wrk.
 */
needs('wrk')

const receiver = createServer((request, response) => {
  request.resume()
  request.on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end('{}'))
})
await new Promise<void>((resolve) => { receiver.listen(0, '127.0.0.1', resolve) })
const otlp = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`
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

/** What one plain exchange notes, by itself. */
function metricsUs(): number {
  const metrics = new Metrics()
  const note = (): void => {
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
  for (let i = 0; i < 20_000; i++) note()
  const took: number[] = []
  for (let round = 0; round < 5; round++) {
    const { user } = process.cpuUsage()
    for (let i = 0; i < 20_000; i++) note()
    took.push((process.cpuUsage().user - user) / 20_000)
  }
  return Math.min(...took)
}

const base = median(running[0]!.us)
const ownUs = metricsUs()
console.log(`\n${'CPU per plain exchange, µs'.padEnd(28)}${cell('gateway', 10)}${cell('more', 10)}`)
console.log(`${'metrics, by themselves'.padEnd(28)}${cell(ownUs.toFixed(1), 10)}${cell(`${((ownUs / base) * 100).toFixed(1)} %`, 10)}`)
for (const [index, { us }] of running.entries()) {
  const mid = median(us)
  console.log(`${variants[index]!.name.padEnd(28)}${cell(mid.toFixed(1), 10)}${cell(index === 0 ? '' : `${((mid / base - 1) * 100).toFixed(1)} %`, 10)}`)
}
process.exit(0)
