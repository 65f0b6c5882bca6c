import { spawn } from 'node:child_process'
import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface Settling {
  readonly name: string
  readonly count: number
  readonly seconds: number
  /** Of one settlement, from the call to its acknowledgement. */
  readonly p50Ms: number
  readonly p99Ms: number
  readonly mostMs: number
  /** Of the process, MiB, after its garbage was collected. */
  readonly rss: number
  /** What of it is in use. */
  readonly heap: number
}

export interface Drained {
  readonly name: string
  readonly count: number
  readonly seconds: number
  /** Different ids that have come. */
  readonly booked: number
  readonly rssMost: number
}

export interface DrainFigures {
  readonly backlog: number
  readonly awayMs: number
  readonly settling: readonly Settling[]
  readonly drained: readonly Drained[]
  readonly wrong: readonly string[]
}

/** MiB that a process may grow by while a backlog grows to five times what it was: of what is in use, and with what its allocator does not give back. */
const heapGrowthMax = 32
const growthMax = 256
const perSecondLeast = 5_000

/** A gateway's store and sinks in a process of their own; its receivers are here: a webhook that is gone, and a folder that is none. Both come back after an hour. */
export async function measureDrain(dir: string, backlog: number, seed: number): Promise<DrainFigures> {
  const ids = { webhook: new Set<string>(), file: new Set<string>() }
  let away = true
  const server = createServer((request, response) => {
    if (away) return void request.socket.destroy()
    let body = ''
    request.setEncoding('utf8').on('data', (chunk: string) => { body += chunk }).on('end', () => {
      for (const { id } of JSON.parse(body) as { id: string }[]) ids.webhook.add(id)
      response.writeHead(204).end()
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/usage`
  const folder = join(dir, 'out')
  // Where a file is, no folder can be made.
  writeFileSync(folder, '')
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', '--expose-gc', fileURLToPath(new URL('./away.ts', import.meta.url)), join(dir, 'data'), url, join(folder, 'usage.ndjson'), String(backlog), String(seed)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const died = (): void => { child.kill('SIGKILL') }
  process.once('exit', died)
  const settling: Settling[] = []
  const drained: Drained[] = []
  let awayMs = 0
  for await (const line of createInterface({ input: child.stdout })) {
    const said = JSON.parse(line) as { settled?: Settling; awayMs?: number; back?: 'webhook' | 'file'; drained?: Drained }
    if (said.settled !== undefined) settling.push(said.settled)
    if (said.awayMs !== undefined) awayMs = said.awayMs
    if (said.back === 'webhook') away = false
    if (said.back === 'file') {
      rmSync(folder)
      mkdirSync(folder)
    }
    if (said.back !== undefined) child.stdin.write('go on\n')
    if (said.drained !== undefined) {
      if (said.drained.name === 'file' && existsSync(folder)) {
        for (const name of readdirSync(folder)) for await (const each of createInterface({ input: createReadStream(join(folder, name)) })) ids.file.add((JSON.parse(each) as { id: string }).id)
      }
      drained.push({ ...said.drained, booked: ids[said.drained.name as 'webhook' | 'file'].size })
    }
  }
  process.off('exit', died)
  server.closeAllConnections()
  server.close()
  return { backlog, awayMs, settling, drained, wrong: problemsOf(settling, drained, awayMs) }
}

function problemsOf(settling: readonly Settling[], drained: readonly Drained[], awayMs: number): string[] {
  const wrong: string[] = []
  const [alone, down, later] = settling
  if (alone === undefined || down === undefined || later === undefined || drained.length < 2) return ['the process that delivers has died']
  if (awayMs < 3_600_000) wrong.push(`the receivers were away for ${awayMs} ms only`)
  // A neighbour on the machine makes ten times of little; an outage that is felt makes seconds.
  if (down.p99Ms > 10 * alone.p99Ms + 50) wrong.push(`settling takes ${down.p99Ms.toFixed(1)} ms (p99) while receivers are away, ${alone.p99Ms.toFixed(1)} ms without sinks`)
  if (later.rss - down.rss > growthMax || later.heap - down.heap > heapGrowthMax) wrong.push(`memory grew by ${(later.rss - down.rss).toFixed(0)} MiB with the backlog, what is in use by ${(later.heap - down.heap).toFixed(0)}`)
  for (const { name, count, seconds, booked } of drained) {
    if (booked < count) wrong.push(`${name}: ${count - booked} of ${count} events have not come`)
    if (count / seconds < perSecondLeast) wrong.push(`${name}: ${(count / seconds).toFixed(0)} events a second`)
  }
  return wrong
}
