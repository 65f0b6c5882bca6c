import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Metrics } from '../../src/metrics.ts'
import { answers, cell, cpuUs, dir, freePort, gatewayConfig, median, needs, plainBody, ROUNDS, SECRET, startGateway, startUpstream, stop, streamBody, until, wrk } from './rig.ts'

/**
 * `npm run bench:analytics-cost`, and a part of `npm run bench`: what it costs a call to be seen. CPU of two gateways under the same load at the same time, so that a busy
 * machine disturbs both alike: one as it is installed (roll-ups, live figures, a log line for each call), the other with nothing of it. The roll-ups' thread and whatever a
 * call leaves to be done later are in. Metrics cannot be switched off: what they cost is measured by itself and added.
 */
needs('wrk')
const upstream = await startUpstream()

const open = async (name: string, more: string, level: string): Promise<{ port: number; gateway: ReturnType<typeof startGateway> }> => {
  const ports = { gateway: await freePort(), admin: await freePort(), upstream }
  const home = join(dir, name)
  mkdirSync(home)
  const path = join(home, 'tallygate.yaml')
  writeFileSync(path, `${gatewayConfig(ports, `"embedded:${home}/data"`).replace(`${dir}/usage.ndjson`, `${home}/usage.ndjson`)}${more}`)
  const gateway = startGateway(path, level)
  await until('the gateway', () => answers(ports.gateway, '/-/ready'))
  return { port: ports.gateway, gateway }
}
const on = await open('on', '', 'info')
const off = await open('off', 'analytics: off\n', 'error')
const cases = [{ name: 'plain 1 KB exchange', body: plainBody, per: 1 }, { name: 'streamed, per event', body: streamBody, per: 201 }] as const

const metrics = new Metrics()
function measured(streamed: boolean): void {
  metrics.storeLatency.observe({ move: 'reserve' }, 0.001)
  metrics.settlements.inc({ end: 'complete', usage_source: 'upstream' })
  metrics.tokens.inc({ provider: 'openai', model: 'bench', type: 'input' }, 20)
  metrics.tokens.inc({ provider: 'openai', model: 'bench', type: 'output' }, 20)
  metrics.storeLatency.observe({ move: 'settle' }, 0.001)
  metrics.requests.inc({ provider: 'openai', endpoint: 'chat.completions', outcome: 'complete' })
  metrics.duration.observe({ endpoint: 'chat.completions' }, 0.02)
  metrics.firstByte.observe({ endpoint: 'chat.completions' }, 0.02)
  metrics.upstreamDuration.observe({ upstream: 'model' }, 0.02)
  metrics.overhead.observe(0.001)
  if (!streamed) return
  metrics.firstToken.observe({ provider: 'openai', model: 'bench' }, 0.02)
  metrics.perToken.observe({ provider: 'openai', model: 'bench' }, 0.001)
}

/** Under the load that the gateways are under. */
function metricsUs(streamed: boolean): number {
  const before = process.threadCpuUsage()
  for (let i = 0; i < 20_000; i++) measured(streamed)
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 20_000
}

console.log(`${'being seen, CPU per unit, µs'.padEnd(30)}${cell('without', 10)}${cell('with', 10)}${cell('metrics', 10)}${cell('in all', 10)}`)
for (const { name, body, per } of cases) {
  const costs: { on: number[]; off: number[]; metrics: number[]; share: number[] } = { on: [], off: [], metrics: [], share: [] }
  for (let round = -1; round < ROUNDS * 3; round++) {
    const before = [on, off].map(({ gateway }) => cpuUs([gateway.pid!]))
    const loads = Promise.all([on, off].map(({ port }) => wrk(port, body, SECRET, 32)))
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    const metricsOfCall = metricsUs(body === streamBody) / per
    const done = await loads
    // What waits for a step is paid for as well.
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    const [onUs = 0, offUs = 0] = [on, off].map(({ gateway }, i) => (cpuUs([gateway.pid!]) - before[i]!) / (done[i]!.ok * per))
    if (round < 0) continue
    costs.on.push(onUs)
    costs.off.push(offUs)
    costs.metrics.push(metricsOfCall)
    costs.share.push((onUs - offUs + metricsOfCall) / (offUs - metricsOfCall))
  }
  const share = `${(median(costs.share) * 100).toFixed(1)} %`
  console.log(`${name.padEnd(30)}${cell(median(costs.off).toFixed(1), 10)}${cell(median(costs.on).toFixed(1), 10)}${cell(median(costs.metrics).toFixed(2), 10)}${cell(share, 10)}`)
}
await stop(on.gateway)
await stop(off.gateway)
process.exit(0)
