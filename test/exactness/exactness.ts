// One entitlement over many gateways, one Redis: is it exact? Limits on requests, tokens, cost and calls at once apply together, to every call.
//
//   npm run exactness [-- --quick] [-- --part contention|faults]       SEED=n for another run of choices
//
// Takes about ten minutes on two cores, two with --quick. Everything is judged from outside the gateways: by what the callers received, what the model counted
// itself, what lies in Redis, and what is in the file. Exit code 1: something is not as it has to be.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { startRedis, startRedisSentinel } from '../fixtures/redis.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { checkThenIncrement } from './check-then-increment.ts'
import { startCountingModel, type CountingModel, type Spent } from './counting-model.ts'
import { configOf, type Cell } from './entitlement.ts'
import { both, killGateways, restartRedis, type Faults, type Told } from './faults.ts'
import { startFleet } from './fleet.ts'
import { ceilingsFor } from './load.ts'
import { measure, missed, type Measured } from './measure.ts'
import { openOutsideBooks } from './outside-books.ts'
import { seeded } from './model.ts'

const words = process.argv.slice(2)
const quick = words.includes('--quick')
const part = words.includes('--part') ? words[words.indexOf('--part') + 1] : null
const seed = Number(process.env['SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))
const slowestMs = 25

interface Size { readonly callers: number; readonly requests: number; readonly concurrency: number; readonly callsMax: number; readonly afterwards: number }
/** So that each limit refuses some calls: what is used up at the end, and what is held meanwhile. */
const sizes: readonly Size[] = [
  { callers: 1, requests: quick ? 60 : 150, concurrency: 1, callsMax: 2_000, afterwards: 20 },
  { callers: 100, requests: quick ? 200 : 800, concurrency: 16, callsMax: 6_000, afterwards: 200 },
  { callers: 1_000, requests: quick ? 400 : 1_200, concurrency: quick ? 32 : 64, callsMax: 10_000, afterwards: 1_000 },
]
const fleets = quick ? [1, 4] : [1, 4, 8]
const faultSeconds = quick ? { least: 8, most: 20 } : { least: 25, most: 60 }

const undone: (() => unknown)[] = []
const t: Teardown = { teardown: (undo) => undone.push(undo) }
async function undoAll(): Promise<void> {
  for (const undo of undone.splice(0).reverse()) await undo()
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))
process.on('exit', () => {
  // Processes are killed before the first await, folders are removed after them.
  for (const undo of undone.splice(0).reverse()) void undo()
})

const problems: string[] = []

function table(heads: readonly string[]): (row: readonly string[]) => void {
  const widths = heads.map((head) => head.length)
  console.log(`\n${heads.join('  ')}\n${widths.map((width) => '-'.repeat(width)).join('  ')}`)
  return (row) => console.log(row.map((text, i) => text.padStart(widths[i]!)).join('  '))
}

const money = (nanos: number): string => (nanos / 1e9).toFixed(4)
const overText = (row: { readonly over: ReadonlyMap<string, number> }): string => (row.over.size === 0 ? '0' : [...row.over].map(([limit, amount]) => `${limit} +${limit === 'cost' ? money(amount) : amount}`).join(', '))

/** Refused because it is used up, because calls in flight hold the rest, because too many are in flight. */
function reasons({ refused }: Measured): string {
  const of = (name: string): number => refused.get(name) ?? 0
  return `${of('usage_limit_reached')}/${of('capacity_reserved')}/${of('concurrency_limit')}`
}

function booksColumns(row: Measured, { ceilings }: Cell): string[] {
  return [
    `${row.used.run}/${ceilings.requests}`, `${row.used.tokens}/${ceilings.tokens}`, `${money(row.used.cost)}/${money(ceilings.cost)}`, `${row.peak}/${ceilings.concurrency}`,
    overText(row), String(row.refusedThoughFitting), String(row.left), String(row.lost), String(row.doubled), row.booksAgree ? 'yes' : 'NO', row.seconds.toFixed(0),
  ]
}

const booksHeads = ['requests ', '     tokens', '           cost', ' at once', 'overshoot', 'refused though it fits', 'left reserved', 'lost', 'doubled', 'counters=events=file', '  s']

function judge(where: string, row: Measured, bars = true): void {
  const wrong = missed(row)
  for (const note of row.notes) console.log(`    ${where}: ${note}`)
  if (bars) for (const each of wrong) problems.push(`${where}: ${each}`)
}

/** Over once every request is used up and the callers have been told so often enough. */
function usedUp(spent: Spent, requests: number, afterwards: number): (calls: number) => boolean {
  let at: number | null = null
  return (calls) => {
    if (spent.answers.size >= requests) at ??= calls
    return at !== null && calls >= at + afterwards
  }
}

async function contention(model: CountingModel, random: () => number): Promise<void> {
  console.log('\nOne entitlement over all gateways. refused: used up / held by calls in flight / too many at once; requests to at once: used of the limit; at once: as the model saw it.')
  const print = table(['gateways', 'callers', ' answers', 'calls', 'admitted', '       refused', '  503', ...booksHeads])
  for (const count of fleets) {
    const cells = sizes.flatMap((size) => (['plain', 'streamed'] as const).map((answers) => (
      { size, answers, cell: { name: `g${count}c${size.callers}${answers[0]}`, ceilings: ceilingsFor(size.requests, size.concurrency) } })))
    const redis = await startRedis(t, { appendonly: 'everysec' })
    const fleet = await startFleet(t, count, `{ url: "${redis.url}", spool: "{dir}/spool" }`, configOf(model.url, cells.map(({ cell }) => cell)))
    const books = await openOutsideBooks(t, redis.url)
    for (const { size, answers, cell } of cells) {
      const over = usedUp(model.spent(cell.name), size.requests, size.afterwards)
      const row = await measure({ fleet, model, books, cell, random, load: { callers: size.callers, answers, callsMax: size.callsMax, over } })
      print([String(count), String(size.callers), answers, String(row.calls), String(row.admitted), reasons(row), String(row.calls - row.completed - [...row.refused.values()].reduce((sum, count) => sum + count, 0)), ...booksColumns(row, cell)])
      judge(`${count} gateways, ${size.callers} callers, ${answers}`, row)
    }
    await undoAll()
  }

  console.log('\nThe same load with plain check-then-increment: read the counters, compare, call, count afterwards.')
  const printPlain = table(['gateways', 'callers', ' answers', 'calls', 'admitted', 'refused', 'requests ', '     tokens', '           cost', '  at once', 'overshoot'])
  for (const size of sizes) {
    const redis = await startRedis(t, { appendonly: 'everysec' })
    const count = fleets.at(-1)!
    const links = await Promise.all(Array.from({ length: count }, () => openLink({ url: redis.url, deadlineMs: 20_000, clock: systemClock, random: systemRandom, log: silentLog })))
    t.teardown(() => Promise.all(links.map((link) => link.close())))
    const cell: Cell = { name: `plain${size.callers}`, ceilings: ceilingsFor(size.requests, size.concurrency) }
    const over = usedUp(model.spent(cell.name), size.requests, size.afterwards)
    const row = await checkThenIncrement(links, model, cell, { callers: size.callers, answers: 'both', callsMax: size.callsMax, over }, random)
    const { ceilings } = cell
    printPlain([
      String(count), String(size.callers), 'both', String(row.calls), String(row.admitted), String(row.refused), `${row.admitted}/${ceilings.requests}`, `${row.tokens}/${ceilings.tokens}`,
      `${money(row.cost)}/${money(ceilings.cost)}`, `${row.peak}/${ceilings.concurrency}`, overText(row),
    ])
    await undoAll()
  }
}

interface Disturbance {
  readonly name: string
  readonly bars: boolean
  /** Redis, the gateways' `store`, and how they are disturbed. */
  start(count: number, told: Told): Promise<{ readonly url: string; readonly store: string; faults(fleet: Awaited<ReturnType<typeof startFleet>>): Faults }>
}

const killsEveryMs = 1_000

async function always(): Promise<Awaited<ReturnType<typeof startRedis>>> {
  return await startRedis(t, { appendonly: 'always' })
}

function failover(confirm: string): Disturbance['start'] {
  return async (_count, told) => {
    const sentinel = await startRedisSentinel(t, { redis: { appendonly: 'always' } })
    return {
      url: sentinel.url, store: `{ url: "${sentinel.url}", spool: "{dir}/spool", durability: always, confirm: ${confirm} }`,
      faults: () => async (running) => {
        await new Promise((resolve) => setTimeout(resolve, 5_000))
        if (!running()) return
        const { dead, promoted } = await sentinel.killPrimary()
        told.count += 1
        await promoted
        // Back as a replica: the sentinel tells it whose.
        await dead.start()
      },
    }
  }
}

const disturbances: readonly Disturbance[] = [
  { name: 'gateways killed every second', bars: true, start: async (_count, told) => {
    const redis = await always()
    return { url: redis.url, store: `{ url: "${redis.url}", spool: "{dir}/spool", durability: always }`, faults: (fleet) => killGateways(fleet, killsEveryMs, told) }
  } },
  { name: 'Redis killed every 5 s', bars: true, start: async (_count, told) => {
    const redis = await always()
    return { url: redis.url, store: `{ url: "${redis.url}", spool: "{dir}/spool", durability: always }`, faults: () => restartRedis(redis, 5_000, 1_000, told) }
  } },
  { name: 'both', bars: true, start: async (_count, told) => {
    const redis = await always()
    return {
      url: redis.url, store: `{ url: "${redis.url}", spool: "{dir}/spool", durability: always }`,
      faults: (fleet) => both(killGateways(fleet, killsEveryMs, told), restartRedis(redis, 5_000, 1_000, told)),
    }
  } },
  { name: 'failover, confirm: replicas=1', bars: true, start: failover('replicas=1') },
  { name: 'failover, confirm: none', bars: false, start: failover('none') },
]

async function faults(model: CountingModel, random: () => number): Promise<void> {
  const count = quick ? 3 : 4
  console.log(`\n${count} gateways, 64 callers, plain and streamed, while things die. gone/503/cut: no gateway answered, Redis was away, the answer broke off. What a failover without confirm loses is told, not judged.`)
  const print = table(['fault                        ', 'times', 'calls', 'completed', 'gone/503/cut', '      refused', ...booksHeads])
  for (const [n, disturbance] of disturbances.entries()) {
    const told: Told = { count: 0 }
    const cell: Cell = { name: `f${n}`, ceilings: ceilingsFor(quick ? 400 : 3_000, 200) }
    const { url, store, faults } = await disturbance.start(count, told)
    const fleet = await startFleet(t, count, store, configOf(model.url, [cell]))
    const books = await openOutsideBooks(t, url)
    const done = usedUp(model.spent(cell.name), cell.ceilings.requests, 100)
    const startedAt = performance.now()
    const over = (calls: number): boolean => {
      const seconds = (performance.now() - startedAt) / 1000
      return seconds > faultSeconds.most || (done(calls) && seconds > faultSeconds.least)
    }
    const row = await measure({ fleet, model, books, cell, random, load: { callers: 64, answers: 'both', callsMax: 1_000_000, over }, faults: faults(fleet) })
    print([disturbance.name.padEnd(29), String(told.count), String(row.calls), String(row.completed), `${row.failed.unanswered}/${row.failed.unmetered}/${row.failed.cut}`, reasons(row), ...booksColumns(row, cell)])
    judge(disturbance.name, row, disturbance.bars)
    if (told.count === 0) problems.push(`${disturbance.name}: nothing was disturbed`)
    await undoAll()
  }
}

const versionOf = (path: string): string => (JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as { version: string }).version
const redisVersion = /v=(\S+)/.exec(spawnSync('redis-server', ['--version']).stdout?.toString() ?? '')?.[1] ?? 'of REDIS_URL'
console.log(`tallygate ${versionOf('../../package.json')}, Node ${process.version}, ioredis ${versionOf('../../node_modules/ioredis/package.json')}, Redis ${redisVersion}`)
console.log(`${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB; callers, model, gateways and Redis share them. SEED=${seed}`)

const startedAt = performance.now()
const random = seeded(seed)
const model = await startCountingModel(random, slowestMs)
try {
  if (part !== 'faults') await contention(model, random)
  if (part !== 'contention') await faults(model, random)
} catch (error) {
  problems.push(`it broke off: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
} finally {
  await undoAll()
  model.close()
}
console.log(`\n${((performance.now() - startedAt) / 1000).toFixed(0)} s, SEED=${seed}`)
for (const problem of problems) console.log(`MISSED  ${problem}`)
console.log(problems.length === 0 ? 'Every bar is met.' : `${problems.length} bars are missed.`)
process.exitCode = problems.length === 0 ? 0 : 1
