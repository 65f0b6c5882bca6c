// The process dies at every step of counting, in both stores: each event is counted once.
// test: timeout 300 s
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { incrementOfRecord } from '../../src/analytics/projection.ts'
import { Projector, ROLLUPS } from '../../src/analytics/projector.ts'
import type { Rollups } from '../../src/analytics/rollups.ts'
import { bucketOf } from '../../src/analytics/rollups.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { OutboxEntry, Position, Store } from '../../src/stores/store.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { kept, openCounted } from './counting-process.ts'
import type { Counting } from './counting-process.ts'

t.setTimeout(280_000)
const script = fileURLToPath(new URL('counting-process.ts', import.meta.url))

/** `started`: it settles and counts, or is dead already. `ended`: by itself, where it is to be killed at a step. */
function run(t: Test, counting: Counting): { readonly started: Promise<unknown>; readonly ended: Promise<unknown>; kill(): void } {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, JSON.stringify(counting)], { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data: Buffer) => { said += data.toString() })
  t.teardown(() => child.kill('SIGKILL'))
  const ended = once(child, 'exit').then(([code, signal]) => { if (signal !== 'SIGKILL') t.fail(`it ended with ${code}: ${said.slice(-1_000)}`) })
  return { started: Promise.race([once(child.stdout, 'data'), ended]), ended, kill: () => child.kill('SIGKILL') }
}

type Sums = Record<string, readonly number[]>

async function rolledUp(rollups: Rollups): Promise<Sums> {
  const month = bucketOf('month', Date.now() - 3_600_000)
  const rows = await rollups.usage({ unit: 'month', fromMs: month, untilMs: month + 80 * 86_400_000, by: ['account'], series: false, only: {}, latencies: false, top: null })
  return Object.fromEntries(rows.map(({ by, counts }) => [by.account ?? '', [counts.events, counts.total_tokens, Number(counts.cost_nanos)]]))
}

/** Of everything that the store has. */
async function recounted({ outbox }: Store): Promise<Sums> {
  const sums: Record<string, number[]> = {}
  for (let after: Position | null = null; ;) {
    const entries: readonly OutboxEntry[] = await outbox.scan(after, 500)
    for (const { record } of entries) {
      const { dimensions, sums: each, costNanos } = incrementOfRecord(record)
      const sum = sums[dimensions.account] ??= [0, 0, 0]
      for (const [index, value] of [each[0]!, each[7]!, Number(costNanos)].entries()) sum[index]! += value
    }
    const last = entries.at(-1)
    if (last === undefined) return sums
    after = last.position
  }
}

const steps: readonly Pick<Counting, 'step' | 'when' | 'rebuild'>[] = [
  { step: 'read', when: 'before', rebuild: false }, { step: 'read', when: 'after', rebuild: false },
  { step: 'count', when: 'before', rebuild: false }, { step: 'count', when: 'in', rebuild: false }, { step: 'count', when: 'after', rebuild: false },
  { step: 'advance', when: 'in', rebuild: false }, { step: 'advance', when: 'after', rebuild: false },
  { step: 'reset', when: 'in', rebuild: true }, { step: 'reset', when: 'after', rebuild: true }, { step: 'rewind', when: 'after', rebuild: true },
  { step: 'complete', when: 'before', rebuild: true }, { step: 'complete', when: 'in', rebuild: true }, { step: 'count', when: 'after', rebuild: true },
]

async function kills(t: Test, url: string | null, replicas: number): Promise<void> {
  const dir = tmpDir(t)
  const beside = url === null ? null : (await openCounted(url, dir)).store
  t.teardown(() => beside?.close())
  // Whoever was killed holds it for half a minute.
  const takeLease = async (): Promise<void> => { await beside?.outbox.rewind(ROLLUPS, await beside.outbox.positionAt(Date.now() + 86_400_000)) }
  for (const [index, step] of steps.entries()) {
    await takeLease()
    const others = Array.from({ length: replicas - 1 }, () => run(t, { url, dir, step: null, when: 'before', nth: 1, rebuild: false }))
    const dies = run(t, { url, dir, ...step, nth: step.rebuild ? 1 : 1 + index % 2 })
    // Of several only one counts; the one that is to die may not come to its step.
    if (replicas > 1) void Promise.all([dies, ...others].map(({ started }) => started)).then(() => systemClock.sleep(1_000)).then(() => dies.kill())
    await dies.ended
    for (const other of others) other.kill()
    await Promise.all(others.map(({ ended }) => ended))
  }
  await takeLease()
  const { store, rollups, nowMs } = await openCounted(url, dir)
  t.teardown(async () => {
    await projector.stop()
    await rollups.close()
    await store.close()
  })
  await store.outbox.setConsumers([ROLLUPS])
  const projector = new Projector({
    outbox: store.outbox, rollups: async () => rollups, clock: withTime(systemClock, nowMs), holder: 'last', kept: () => kept, archive: () => null,
    holdEvents: () => 200_000, holds: () => undefined, tell: () => undefined, failed: () => undefined,
  })
  projector.start()
  const wanted = await recounted(store)
  const events = Object.values(wanted).reduce((sum, [count = 0]) => sum + count, 0)
  await waitFor(`${events} events`, async () => Object.values(await rolledUp(rollups)).reduce((sum, [count = 0]) => sum + count, 0) >= events && (await store.outbox.lag(ROLLUPS)).count === 0, { deadlineMs: 60_000 })
  t.ok(events > 100, `${events} events`)
  t.same(await rolledUp(rollups), wanted, 'the roll-ups are a recount')
  await projector.rebuild()
  await waitFor('made again', async () => (await store.outbox.lag(ROLLUPS)).count === 0, { deadlineMs: 30_000 })
  t.same(await rolledUp(rollups), wanted, 'and so they are when they are made again')
}

t.test('killed at each step, embedded store', (t) => kills(t, null, 1))

t.test('killed at each step, Redis, one gateway', async (t) => kills(t, (await startRedis(t, {})).url, 1))

t.test('killed at each step, Redis, beside another gateway', async (t) => kills(t, (await startRedis(t, {})).url, 2))
