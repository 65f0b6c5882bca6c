// How long the embedded store takes to start on a journal of many settlements, without and with a snapshot, and what an exchange costs.
//
//   node test/bench/recovery.ts [settlements, default 1000000]
//
// Prints one JSON object. Each start is a process of its own, so that its memory is its own.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../src/clock.ts'
import { openEmbedded } from '../../src/stores/embedded/embedded.ts'
import type { Store } from '../../src/stores/store.ts'
import { check, newId, reserveOf, settleOf } from '../stores/sample-moves.ts'

const FORGET_AFTER_MS = 2 * 3_600_000
const DAY_MS = 86_400_000

const open = (dir: string, snapshotMoves: number): Promise<Store> =>
  openEmbedded({ dir, synchronous: 'full', forgetAfterMs: FORGET_AFTER_MS, hotMs: DAY_MS, clock: systemClock, snapshotMoves })

/** A plan with five limits, as a usual one has. */
function checksOf(account: number): ReturnType<typeof check>[] {
  const name = `account ${account}`
  return [check(`${name} rpm`, 1e9, 1), check(`${name} tpm`, 1e12, 900), check(`${name} month`, 1e12, 900), check(`${name} money`, 1e15, 5000), check(`${name} open`, 1e6, 1)]
}

async function run(store: Store, count: number, inFlight: number): Promise<number> {
  let left = count
  const started = performance.now()
  await Promise.all(Array.from({ length: inFlight }, async () => {
    while (left-- > 0) {
      const nowMs = systemClock.nowMs()
      const id = newId(nowMs)
      const home = `account ${left % 100}`
      const checks = checksOf(left % 100)
      await store.reserve(reserveOf(id, nowMs, home, checks))
      await store.settle(settleOf(id, nowMs, home, checks, [1, 700, 700, 3500, 0], { usage: { requests: 1, input_tokens: 400, output_tokens: 300, total_tokens: 700 } }))
    }
  }))
  return (performance.now() - started) * 1000 / count
}

function rssMb(): number {
  return Math.round(process.memoryUsage.rss() / 1e6)
}

const [first = '', dir = ''] = process.argv.slice(2)
if (first === 'start') {
  // A start as it is after a crash: nothing is closed, the process just ends.
  const started = performance.now()
  await open(dir, 1e9)
  process.stdout.write(JSON.stringify({ ms: Math.round(performance.now() - started), rssMb: rssMb() }), () => process.exit(0))
} else {
  const settlements = Number(first === '' ? 1_000_000 : first)
  const start = (at: string): unknown => JSON.parse(execFileSync(process.execPath, ['--disable-warning=ExperimentalWarning', fileURLToPath(import.meta.url), 'start', at], { encoding: 'utf8' }))
  const work = join(mkdtempSync(join(tmpdir(), 'tallygate-bench-')), 'data')
  const idleRssMb = rssMb()
  let store = await open(work, 1e9)
  const microsecondsPerExchange: Record<string, number> = {}
  for (const inFlight of [1, 20, 200]) {
    await run(store, 2000, inFlight)
    microsecondsPerExchange[inFlight] = Math.round(await run(store, inFlight === 1 ? 3000 : 20_000, inFlight) * 10) / 10
  }
  await run(store, Math.max(0, settlements - 49_000), 200)
  const rssAfterLoadMb = rssMb()
  const journalMb = readdirSync(work).filter((name) => name.startsWith('journal')).reduce((sum, name) => sum + statSync(join(work, name)).size, 0) / 1e6
  // The journal as a crash leaves it. Started from a copy of nothing: the lock must be free, so it is closed and its snapshot dropped.
  await store.close()
  const snapshots = readdirSync(work).filter((name) => name.startsWith('snapshot-'))
  const withSnapshot = start(work)
  const snapshotMb = snapshots.reduce((sum, name) => sum + statSync(join(work, name)).size, 0) / 1e6
  for (const name of snapshots) rmSync(join(work, name))
  const withoutSnapshot = start(work)
  store = await open(work, 1e9)
  const closing = performance.now()
  await store.close()
  process.stdout.write(`${JSON.stringify({
    settlements, microsecondsPerExchange, idleRssMb, rssAfterLoadMb, journalMb: Math.round(journalMb), snapshotMb: Math.round(snapshotMb),
    withSnapshot, withoutSnapshot, closeWithSnapshotMs: Math.round(performance.now() - closing),
  })}\n`)
  rmSync(join(work, '..'), { recursive: true, force: true })
}
