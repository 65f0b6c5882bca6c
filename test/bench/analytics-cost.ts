import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { answers, cell, cpuUs, dir, freePort, gatewayConfig, median, needs, plainBody, ROUNDS, SECRET, startGateway, startUpstream, stop, streamBody, until, wrk } from './rig.ts'

/**
 * `npm run bench:analytics-cost`: CPU per call of two gateways that differ in `analytics` alone, under the same load in turns. Everything that is paid for it is in: the
 * projector, the roll-ups' thread, refusals and live figures.
 */
needs('wrk')
const upstream = await startUpstream()

const open = async (name: string, more: string): Promise<{ port: number; gateway: ReturnType<typeof startGateway> }> => {
  const ports = { gateway: await freePort(), admin: await freePort(), upstream }
  const home = join(dir, name)
  mkdirSync(home)
  const path = join(home, 'tallygate.yaml')
  writeFileSync(path, `${gatewayConfig(ports, `"embedded:${home}/data"`).replace(`${dir}/usage.ndjson`, `${home}/usage.ndjson`)}${more}`)
  const gateway = startGateway(path)
  await until('the gateway', () => answers(ports.gateway, '/-/ready'))
  return { port: ports.gateway, gateway }
}
const on = await open('on', '')
const off = await open('off', 'analytics: off\n')
const cases = [{ name: 'plain 1 KB exchange', body: plainBody, per: 1 }, { name: 'streamed, per event', body: streamBody, per: 201 }] as const

console.log(`${'CPU per unit, µs'.padEnd(24)}${cell('on', 10)}${cell('off', 10)}${cell('more', 10)}`)
for (const { name, body, per } of cases) {
  const costs: { on: number[]; off: number[]; ratio: number[] } = { on: [], off: [], ratio: [] }
  const measure = async ({ port, gateway }: typeof on): Promise<number> => {
    const before = cpuUs([gateway.pid!])
    const load = await wrk(port, body, SECRET, 64)
    // What waits for a step is paid for as well.
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    return (cpuUs([gateway.pid!]) - before) / (load.ok * per)
  }
  for (let round = -1; round < ROUNDS * 3; round++) {
    // Whoever comes second must not always be the same.
    const first = round % 2 === 0 ? on : off
    const one = await measure(first)
    const other = await measure(first === on ? off : on)
    if (round < 0) continue
    const [onUs, offUs] = first === on ? [one, other] : [other, one]
    costs.on.push(onUs)
    costs.off.push(offUs)
    costs.ratio.push(onUs / offUs)
  }
  console.log(`${name.padEnd(24)}${cell(median(costs.on).toFixed(1), 10)}${cell(median(costs.off).toFixed(1), 10)}${cell(`${((median(costs.ratio) - 1) * 100).toFixed(1)} %`, 10)}`)
}
await stop(on.gateway)
await stop(off.gateway)
process.exit(0)
