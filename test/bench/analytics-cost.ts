import { spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { answers, cell, children, dir, freePort, gatewayConfig, here, median, needs, nodeArgs, plainBody, root, ROUNDS, SECRET, startUpstream, stop, streamBody, until, wrk } from './rig.ts'

/**
 * `npm run bench:analytics-cost`, and a part of `npm run bench`: which part of a gateway's CPU goes into its being seen. The difference between two gateways is a tenth of
 * what two that are alike differ by, so it is counted instead: what the profiler finds in roll-ups, live figures, metrics and log (and whatever they call) on the thread
 * that serves calls, and all of the roll-ups' own thread. As a share of what all threads take, but for the profiler's own.
 */
needs('wrk')

const PARTS = [
  ['roll-ups, live', /\/src\/analytics\//],
  ['metrics', /\/src\/metrics\.ts|\/node_modules\/prom-client\//],
  ['log', /\/src\/(log|acting-characters)\.ts|\/node_modules\/(pino|sonic-boom)\//],
  ['tracing', /\/src\/telemetry\/|\/node_modules\/@opentelemetry\//],
] as const
const cases = [{ name: 'plain 1 KB exchange', body: plainBody }, { name: 'streamed, 200 events', body: streamBody }] as const

interface Profile {
  /** µs, as `process.hrtime`. */
  readonly startTime: number
  readonly nodes: readonly { readonly id: number; readonly callFrame: { readonly functionName: string; readonly url: string }; readonly children?: readonly number[] }[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
}

/** Of the time between the two instants in which the thread was busy: the share of each of PARTS. */
function sharesOf({ startTime, nodes, samples, timeDeltas }: Profile, fromUs: number, untilUs: number): number[] {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const callers = new Map(nodes.flatMap(({ id, children: called = [] }) => called.map((each) => [each, id] as const)))
  const partOf = (id: number | undefined): number => {
    if (id === undefined) return -1
    // Whoever called counts: a text that is made for the log is the log's.
    const outer = partOf(callers.get(id))
    return outer >= 0 ? outer : PARTS.findIndex(([, files]) => files.test(byId.get(id)!.callFrame.url))
  }
  const parts = new Map(nodes.map(({ id }) => [id, partOf(id)]))
  const us = PARTS.map(() => 0)
  let busyUs = 0
  let atUs = startTime
  for (const [index, id] of samples.entries()) {
    const tookUs = timeDeltas[index] ?? 0
    atUs += tookUs
    if (atUs < fromUs || atUs > untilUs || byId.get(id)!.callFrame.functionName === '(idle)') continue
    busyUs += tookUs
    const part = parts.get(id) ?? -1
    if (part >= 0) us[part]! += tookUs
  }
  return us.map((each) => each / busyUs)
}

/** CPU ticks of each thread that is not the profiler's, by its number. */
function threads(pid: number): Map<string, { readonly name: string; readonly ticks: number }> {
  return new Map(readdirSync(`/proc/${pid}/task`).map((id) => {
    const stat = readFileSync(`/proc/${pid}/task/${id}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(') ') + 2).split(' ')
    return [id, { name: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')), ticks: Number(fields[11]) + Number(fields[12]) }] as const
  }).filter(([, { name }]) => !name.includes('ProfEvnt')))
}

const nowUs = (): number => Number(process.hrtime.bigint() / 1_000n)
const upstream = await startUpstream()
let runs = 0

async function measured(body: object): Promise<readonly number[]> {
  const ports = { gateway: await freePort(), admin: await freePort(), upstream }
  const home = join(dir, `seen-${++runs}`)
  mkdirSync(home)
  const path = join(home, 'tallygate.yaml')
  writeFileSync(path, gatewayConfig(ports, `"embedded:${home}/data"`).replace(`${dir}/usage.ndjson`, `${home}/usage.ndjson`))
  const gateway = spawn(process.execPath, [...nodeArgs, '--import', join(here, 'profile-main.ts'), join(root, 'src/main.ts'), 'serve', '--config', path], {
    cwd: root, stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, PROFILE: join(home, 'profile.json') },
  })
  children.push(gateway)
  await until('the gateway', () => answers(ports.gateway, '/-/ready'))
  // What is compiled is compiled.
  await wrk(ports.gateway, body, SECRET, 32)
  const before = threads(gateway.pid!)
  const fromUs = nowUs()
  await wrk(ports.gateway, body, SECRET, 32)
  await wrk(ports.gateway, body, SECRET, 32)
  // What waits for a step is paid for as well.
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  const untilUs = nowUs()
  const ticks = [...threads(gateway.pid!)].map(([id, { name, ticks: after }]) => ({ name, main: Number(id) === gateway.pid, ticks: after - (before.get(id)?.ticks ?? 0) }))
  await stop(gateway)
  const all = ticks.reduce((sum, each) => sum + each.ticks, 0)
  const mainShare = (ticks.find(({ main }) => main)?.ticks ?? 0) / all
  const ownShare = (ticks.find(({ name }) => name === 'roll-ups')?.ticks ?? 0) / all
  const profile = JSON.parse(readFileSync(join(home, 'profile.json'), 'utf8')) as Profile
  const shares = sharesOf(profile, fromUs, untilUs).map((share) => share * mainShare)
  return shares.map((share, part) => (part === 0 ? share + ownShare : share))
}

console.log(`${'being seen, % of all CPU'.padEnd(30)}${PARTS.map(([name]) => cell(name, 16)).join('')}${cell('in all', 10)}`)
for (const { name, body } of cases) {
  const rounds: (readonly number[])[] = []
  for (let round = 0; round < ROUNDS; round++) rounds.push(await measured(body))
  const percent = (share: number): string => `${(share * 100).toFixed(2)} %`
  const inAll = median(rounds.map((shares) => shares.reduce((sum, share) => sum + share, 0)))
  console.log(`${name.padEnd(30)}${PARTS.map((_part, part) => cell(percent(median(rounds.map((shares) => shares[part]!))), 16)).join('')}${cell(percent(inAll), 10)}`)
}
process.exit(0)
