import { readFileSync } from 'node:fs'
import { countTokens } from '../../src/providers/tokenizer.ts'
import { Client } from './actors.ts'
import { checkAtRest } from './checkers.ts'
import { plantedBugs } from './planted-bugs.ts'
import type { FaultKind } from './scenario.ts'
import { World, type Bug, type Violation } from './world.ts'

export interface Result {
  readonly seed: number
  readonly violations: readonly Violation[]
  readonly steps: number
  readonly exchanges: number
  readonly admitted: number
  readonly events: number
  readonly faults: ReadonlyMap<FaultKind, number>
  readonly lostAfterRelease: number
  readonly spooled: number
  readonly spooledThroughDeath: number
  readonly hash: string
  readonly lines: readonly string[]
}

/** Long enough for leases to run out, sweepers to sweep, back-offs to end and sinks to catch up. */
const restMs = 200_000

let current: World | null = null
process.on('unhandledRejection', (error) => {
  current?.violate(10, `a rejection that nobody handled: ${error instanceof Error ? error.stack ?? error.message : String(error)}`)
})

let loaded: Promise<unknown> | null = null

/** Lives one world from its beginning until it is at rest, and checks it. */
export async function simulate(seed: number, { bug = null, tracing = false }: { readonly bug?: Bug | null; readonly tracing?: boolean } = {}): Promise<Result> {
  // Tables are read from disk, which takes real time: before the world's time begins.
  loaded ??= Promise.all([countTokens(['a'], 'o200k_base'), countTokens(['a'], 'cl100k_base'), countTokens(['a'], 'o200k_harmony')])
  await loaded
  const world = new World(seed, bug, tracing)
  current = world
  try {
    world.begin()
    const { scenario, timeline, random } = world
    const clients = random.fork('clients')
    for (let i = 0; i < scenario.exchanges; i++) {
      const client = new Client(world, i, clients.fork(`client ${i}`))
      timeline.at(20 + clients.fraction() * scenario.activeMs, () => client.call())
    }
    await timeline.run(scenario.activeMs + 15_000)
    world.rest()
    const untilMs = timeline.nowMs + restMs
    while (timeline.nowMs < untilMs && world.violations.length === 0 && !world.isAtRest()) await timeline.run(timeline.nowMs + 5_000)
    if (world.violations.length === 0) checkAtRest(world)
  } catch (error) {
    world.violate(10, error instanceof Error ? error.stack ?? error.message : String(error))
  }
  current = null
  world.end()
  return {
    seed, violations: world.violations, steps: world.timeline.steps, exchanges: world.calls.length,
    admitted: world.books.reservations.size, events: world.disk.events.length, faults: world.faults, lostAfterRelease: world.lostAfterRelease,
    spooled: world.spooled, spooledThroughDeath: world.spooledThroughDeath,
    hash: world.traceHash(), lines: world.lines(),
  }
}

export interface Figures {
  seeds: number
  steps: number
  exchanges: number
  admitted: number
  events: number
  lostAfterRelease: number
  spooled: number
  spooledThroughDeath: number
  readonly faults: Map<FaultKind, number>
  failed: Result | null
  seconds: number
}

export function noFigures(): Figures {
  return { seeds: 0, steps: 0, exchanges: 0, admitted: 0, events: 0, lostAfterRelease: 0, spooled: 0, spooledThroughDeath: 0, faults: new Map(), failed: null, seconds: 0 }
}

/** Fresh seeds until the time is over or one fails. */
export async function simulateFor(ms: number, firstSeed: number, figures = noFigures()): Promise<Figures> {
  const startedMs = performance.now()
  for (let seed = firstSeed; performance.now() - startedMs < ms && figures.failed === null; seed++) count(figures, await simulate(seed))
  figures.seconds += (performance.now() - startedMs) / 1_000
  return figures
}

export function count(figures: Figures, result: Result): void {
  figures.seeds += 1
  figures.steps += result.steps
  figures.exchanges += result.exchanges
  figures.admitted += result.admitted
  figures.events += result.events
  figures.lostAfterRelease += result.lostAfterRelease
  figures.spooled += result.spooled
  figures.spooledThroughDeath += result.spooledThroughDeath
  for (const [kind, times] of result.faults) figures.faults.set(kind, (figures.faults.get(kind) ?? 0) + times)
  if (result.violations.length > 0) figures.failed ??= result
}

export function told(figures: Figures): string[] {
  const { seeds, seconds, steps, exchanges, admitted, events, lostAfterRelease, spooled, spooledThroughDeath } = figures
  return [
    `${seeds} seeds in ${seconds.toFixed(1)} s (${(seeds / seconds).toFixed(0)} a second), ${steps} steps, ${exchanges} exchanges, ${admitted} reservations, ${events} events`,
    `faults: ${[...figures.faults].sort(([a], [b]) => (a < b ? -1 : 1)).map(([kind, times]) => `${kind} ${times}`).join(', ')}`,
    `${spooled} settlements went to a spool, ${spooledThroughDeath} were in one when their gateway died`,
    `answers that plans with store_down: allow released unsettled, where there is no spool, and lost with their gateway: ${lostAfterRelease}`,
  ]
}

/** Seeds that ever failed. */
export function keptSeeds(): number[] {
  const text = readFileSync(new URL('seeds.txt', import.meta.url), 'utf8')
  return text.split('\n').map((line) => line.replace(/#.*/, '').trim()).filter((line) => line !== '').map(Number)
}

async function main(args: readonly string[]): Promise<void> {
  const planted = args.find((arg) => arg.startsWith('--seeded-bug='))?.slice('--seeded-bug='.length)
  const bug = plantedBugs.find((one) => one.bug === planted)?.bug ?? null
  if (planted !== undefined && bug === null) throw new Error(`there is no such bug; there are ${plantedBugs.map((one) => one.bug).join(', ')}`)
  const given = args.find((arg) => /^\d+$/.test(arg))
  const seconds = Number(args.find((arg) => arg.startsWith('--seconds='))?.slice('--seconds='.length) ?? 60)
  let failed: Result | null = null
  if (given !== undefined) {
    const result = await simulate(Number(given), { bug, tracing: true })
    console.log(`seed ${given}: ${result.exchanges} exchanges, ${result.events} events, ${result.steps} steps, trace ${result.hash.slice(0, 16)}`)
    if (result.violations.length > 0 || args.includes('--trace')) failed = result
  } else {
    const first = Number(args.find((arg) => arg.startsWith('--from='))?.slice('--from='.length) ?? Date.now() % 1_000_000_000)
    const figures = await simulateFor(seconds * 1_000, first)
    for (const line of told(figures)) console.log(line)
    if (figures.failed !== null) failed = await simulate(figures.failed.seed, { bug, tracing: true })
  }
  if (failed === null) return
  for (const line of failed.lines) console.log(line)
  console.log(`seed ${failed.seed} ${failed.violations.length > 0 ? 'FAILED' : 'held'}`)
  for (const { invariant, what } of failed.violations.slice(0, 5)) console.log(`  invariant ${invariant}: ${what}`)
  if (failed.violations.length > 0) process.exitCode = 1
}

if (import.meta.main) await main(process.argv.slice(2))
