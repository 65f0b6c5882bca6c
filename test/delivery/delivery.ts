// Is each event booked once, at every kind of receiver, whatever dies and whatever fails? And what becomes of the rest while a receiver is away?
//
//   npm run test:delivery [-- --events 100000] [-- --kills 20] [-- --only lago] [-- --drain]       SEED=n for another run of choices
//
// For each kind: events that were settled in an embedded store are delivered by processes that are killed with SIGKILL, to a fake that fails a fifth of all requests in
// every way it can; then its books are compared with what was settled. After that (or with --drain alone) receivers are away for an hour of virtual time, while events
// pile up, and come back. Takes about three quarters of an hour on two cores. Exit code 1: something is not as it has to be.

import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { measureDrain } from './drain.ts'
import { fill, killAndCount } from './kill-and-count.ts'
import { courses } from './receivers.ts'

const words = process.argv.slice(2)
const given = (name: string): string | null => (words.includes(name) ? words[words.indexOf(name) + 1] ?? null : null)
const events = Number(given('--events') ?? 100_000)
const kills = Number(given('--kills') ?? 20)
const backlog = Number(given('--backlog') ?? 1_000_000)
const only = given('--only')
const seed = Number(process.env['SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))

const undone: (() => unknown)[] = []
const t: Teardown = { teardown: (undo) => undone.push(undo) }
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))

const problems: string[] = []

async function deliverEverywhere(): Promise<void> {
  const chosen = courses.filter(({ name }) => only === null || name.includes(only))
  if (chosen.length === 0) throw new Error(`there is no ${String(only)}; there is ${courses.map(({ name }) => name).join(', ')}`)
  const dir = tmpDir(t)
  const many = { count: events, seed, untilMs: Date.now() - 120_000, spanMs: 30 * 60_000 }
  const filled = join(dir, 'filled')
  await fill(filled, many)
  console.log(`${events} events each, a fifth of all requests goes wrong, ${kills} × SIGKILL, seed ${seed}\n`)
  const row = table(['receiver', 'events', 'records', 'requests', 'retries', 'in doubt', 'duplicates', 'kills', 'seconds', 'dead', 'quarantined', 'wrong'])
  for (const course of chosen) {
    const own = join(dir, course.name.replace(/\W/g, '-'))
    mkdirSync(own)
    const figures = await killAndCount(course, filled, own, many, kills)
    rmSync(own, { recursive: true, force: true })
    row([
      course.name, figures.events, figures.records, figures.requests ?? '-', figures.retries, figures.ambiguous, figures.duplicates, figures.kills, figures.seconds.toFixed(1), figures.dead,
      figures.quarantined, figures.wrong.length,
    ])
    for (const problem of figures.wrong) problems.push(`${course.name}: ${problem}`)
  }
}

async function drain(): Promise<void> {
  const figures = await measureDrain(tmpDir(t), backlog, seed)
  console.log(`\nReceivers away for ${(figures.awayMs / 60_000).toFixed(0)} minutes of virtual time, ${figures.backlog} events for each\n`)
  const settled = table(['settling', 'events', 'per second', 'p50 ms', 'p99 ms', 'most ms', 'heap MiB', 'rss MiB'])
  for (const { name, count, seconds, p50Ms, p99Ms, mostMs, heap, rss } of figures.settling) settled([name, count, (count / seconds).toFixed(0), p50Ms.toFixed(2), p99Ms.toFixed(2), mostMs.toFixed(0), heap.toFixed(0), rss.toFixed(0)])
  console.log('')
  const drained = table(['back again', 'events', 'seconds', 'per second', 'booked', 'rss MiB most'])
  for (const { name, count, seconds, booked, rssMost } of figures.drained) drained([name, count, seconds.toFixed(1), (count / seconds).toFixed(0), booked, rssMost.toFixed(0)])
  problems.push(...figures.wrong)
}

function table(heads: readonly string[]): (row: readonly (string | number)[]) => void {
  const widths = heads.map((head, index) => (index === 0 ? 32 : Math.max(head.length, 8)))
  const line = (cells: readonly (string | number)[]): string => cells.map((cell, index) => (index === 0 ? String(cell).padEnd(widths[index] ?? 0) : String(cell).padStart(widths[index] ?? 0))).join('  ')
  console.log(line(heads))
  return (row) => console.log(line(row))
}

try {
  if (!words.includes('--drain')) await deliverEverywhere()
  if (words.includes('--drain') || only === null) await drain()
} finally {
  for (const undo of undone.splice(0).reverse()) await undo()
}
console.log(problems.length === 0 ? '\nEvery event was booked once.' : `\n${problems.join('\n')}`)
process.exit(problems.length === 0 ? 0 : 1)
