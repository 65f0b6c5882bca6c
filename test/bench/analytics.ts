import { spawn } from 'node:child_process'
import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { RedisRollups } from '../../src/analytics/redis-rollups.ts'
import { bucketOf, nextBucket } from '../../src/analytics/rollups.ts'
import type { Counted, Dimension, Rollups, UsageQuestion, UsageRow } from '../../src/analytics/rollups.ts'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { toPosition } from '../../src/stores/redis/event-position.ts'
import { openRedis } from '../../src/stores/redis/redis.ts'
import { sharedOf } from '../../src/stores/redis/store.ts'
import { chance } from '../analytics/rollups.ts'
import { cell, children, dir, freePort, median, needs } from './rig.ts'

/**
 * `npm run bench:analytics -- --events 10000000`: events of ten thousand accounts over the last calendar month go into roll-ups, as batches of the outbox do. Then what a
 * dashboard asks is timed, 20 times each, and every answer is compared with a recount that was kept beside: at last every row of every day, of all events.
 * `--store redis` starts a server of its own. It is as many events as the month has that make it slow, not the answers: a million (the default) take some minutes, ten an hour.
 */
const { values } = parseArgs({ options: { events: { type: 'string', default: '1000000' }, accounts: { type: 'string', default: '10000' }, store: { type: 'string', default: 'embedded' } } })
const EVENTS = Number(values.events)
const ACCOUNTS = Number(values.accounts)
const RUNS = 20
const BATCH = 1_000
const DAY_MS = 86_400_000
const LIMIT_MS = 200
const untilMs = bucketOf('month', Date.now())
const startMs = bucketOf('month', untilMs - 1)
const DAYS = (untilMs - startMs) / DAY_MS
const models = ['small', 'large', 'embed', 'vision']
/** The month is not over when it is asked for. */
const SPAN_MS = (DAYS - 1.5) * DAY_MS
/** Minutes as they are kept, and so that the whole month can be asked for by the hour. */
const kept = { minute: 2 * DAY_MS, hour: 100 * DAY_MS, day: 800 * DAY_MS, month: 3_660 * DAY_MS }

const next = chance(42)
const accounts = Array.from({ length: ACCOUNTS }, (_each, i) => `account-${i}`)
const numberOf = (account: string | undefined): number => Number(account?.slice('account-'.length))
/** Few accounts make most of the calls. */
const accountOf = (): number => Math.floor(ACCOUNTS * next() ** 3)

// === The recount: events, input tokens, output tokens and nanos, by day, account, model, and whether it failed. ===

const FIELDS = 4
const recount = new Float64Array(DAYS * ACCOUNTS * models.length * 2 * FIELDS)
const place = (day: number, account: number, model: number, failed: boolean): number => (((day * ACCOUNTS + account) * models.length + model) * 2 + (failed ? 1 : 0)) * FIELDS
const WATCHED = 3

/** The recount by other groups than it is kept in. */
function recounted(groupOf: (day: number, account: number, model: number, failed: boolean) => string | null): Map<string, number[]> {
  const groups = new Map<string, number[]>()
  for (let day = 0; day < DAYS; day++) {
    for (let account = 0; account < ACCOUNTS; account++) {
      for (let model = 0; model < models.length; model++) {
        for (const failed of [false, true]) {
          const at = place(day, account, model, failed)
          if (recount[at] === 0) continue
          const group = groupOf(day, account, model, failed)
          if (group === null) continue
          const sums = groups.get(group) ?? [0, 0, 0, 0]
          for (let field = 0; field < FIELDS; field++) sums[field]! += recount[at + field]!
          groups.set(group, sums)
        }
      }
    }
  }
  return groups
}

function equals(wanted: readonly number[] | undefined, { counts, costs }: UsageRow): boolean {
  return wanted !== undefined && wanted[0] === counts.events && wanted[0] === counts.requests && wanted[0] === counts.records && wanted[1] === counts.input_tokens && wanted[2] === counts.output_tokens
    && wanted[1]! + wanted[2]! === counts.total_tokens && BigInt(wanted[3]!) === counts.cost_nanos && costs.get('USD') === counts.cost_nanos && counts.compute_ms === 900 * wanted[0]!
}

// === The roll-ups ===

interface Opened { readonly rollups: Rollups; positionOf(account: string, atMs: number, ordinal: number): string; size(): Promise<string>; close(): Promise<void> }

async function inFile(): Promise<Opened> {
  const path = join(dir, 'analytics.db')
  const rollups = await openLocalRollups(path)
  return {
    rollups, positionOf: (_account, _atMs, ordinal) => String(ordinal).padStart(15, '0'), close: () => rollups.close(),
    size: async () => `${(['', '-wal'].reduce((sum, suffix) => sum + (statSync(`${path}${suffix}`, { throwIfNoEntry: false })?.size ?? 0), 0) / 1e6).toFixed(0)} MB in the file`,
  }
}

async function inRedis(): Promise<Opened> {
  needs('redis-server')
  const port = await freePort()
  const url = `redis://127.0.0.1:${port}`
  mkdirSync(join(dir, 'redis'))
  children.push(spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', join(dir, 'redis'), '--save', ''], { stdio: 'ignore' }))
  await new Promise((resolve) => setTimeout(resolve, 500))
  const store = await openRedis({
    url, prefix: 'tallygate', partitions: 256, deadlineMs: 10_000, durability: 'none', confirm: { replicas: 0, fsync: false }, eventsMax: 1e9, memoryDir: null,
    clock: systemClock, random: systemRandom, log: silentLog, forgetAfterMs: 7_200_000, hotMs: DAY_MS, acceptLoss: false,
  })
  const shared = sharedOf(store)!
  const rollups = new RedisRollups({ ...shared, kept: () => kept })
  const ordinals = new Map<number, number>()
  return {
    rollups,
    positionOf(account, ms) {
      const partition = shared.keys.partitionOf(account)
      const ordinal = (ordinals.get(partition) ?? 0) + 1
      ordinals.set(partition, ordinal)
      return toPosition({ ms, partition, ordinal })
    },
    async size() {
      const link = await openLink({ url, deadlineMs: 5_000, clock: systemClock, random: systemRandom, log: silentLog })
      const [one] = await link.info()
      await link.close()
      return `${(Number(one!.info.get('used_memory')) / 1e6).toFixed(0)} MB in Redis`
    },
    async close() {
      await rollups.close()
      await store.close()
    },
  }
}

const { rollups, positionOf, size, close } = values.store === 'redis' ? await inRedis() : await inFile()
const cpuBefore = process.cpuUsage()
const begunMs = performance.now()
for (let at = 0; at < EVENTS; at += BATCH) {
  const batch: Counted[] = []
  for (let i = at; i < Math.min(EVENTS, at + BATCH); i++) {
    const account = accountOf()
    const name = accounts[account]!
    // Each has its two models, and one in five a second key.
    const model = (account + (next() < 0.7 ? 0 : 1)) % models.length
    const input = Math.floor(next() * 3_000)
    const output = Math.floor(next() * 600)
    const nanos = input * 250 + output * 1_000
    const failed = i % 40 === 0
    // In the order of time, about.
    const atMs = startMs + Math.floor(((i + next() * 500) / (EVENTS + 500)) * SPAN_MS)
    batch.push({
      id: `e${i}`, position: positionOf(name, atMs, i + 1),
      increment: {
        atMs, currency: 'USD', costNanos: BigInt(nanos), sums: [1, 1, input, 0, 0, output, 0, input + output, 900, 1_500, 4_000, 0, 0, 1, 0], latencySlot: Math.floor(60 + next() * 40), firstTokenSlot: Math.floor(30 + next() * 30),
        dimensions: { account: name, key: `${name}-${account % 5 === 0 ? i % 2 : 0}`, plan: account % 3 === 0 ? 'pro' : 'free', model: models[model]!, endpoint: 'chat.completions', upstream: 'model', end: 'complete', status: failed ? '502' : '200' },
      },
    })
    const slot = place(Math.floor((atMs - startMs) / DAY_MS), account, model, failed)
    for (const [field, value] of [1, input, output, nanos].entries()) recount[slot + field]! += value
  }
  await rollups.count(batch, await rollups.generation())
  if (at % (EVENTS / 10) === 0 && at > 0) console.log(`${at / 1_000_000} M events after ${Math.round((performance.now() - begunMs) / 1_000)} s`)
}
const tookS = (performance.now() - begunMs) / 1_000
const { user, system } = process.cpuUsage(cpuBefore)
console.log(`\n${EVENTS} events of ${ACCOUNTS} accounts: ${tookS.toFixed(0)} s, ${((user + system) / EVENTS).toFixed(1)} µs CPU each with making them up, ${await size()}\n`)

// === What is asked ===

let failures = 0
const month: UsageQuestion = { unit: 'day', fromMs: startMs, untilMs, by: [], series: false, only: {}, latencies: true, top: null }

console.log(`${''.padEnd(58)}${cell('p50 ms', 9)}${cell('worst', 9)}${cell('rows', 9)}`)
/** `isPromised`: answers within 200 ms as a rule, or the benchmark fails. */
async function ask(name: string, more: Partial<UsageQuestion>, check: (rows: readonly UsageRow[]) => boolean, isPromised = false): Promise<void> {
  const times: number[] = []
  let rows: readonly UsageRow[] = []
  for (let run = 0; run < RUNS; run++) {
    const before = performance.now()
    rows = await rollups.usage({ ...month, ...more })
    times.push(performance.now() - before)
  }
  const equal = check(rows)
  const slow = isPromised && median(times) >= LIMIT_MS
  if (!equal || slow) failures += 1
  console.log(`${name.padEnd(58)}${cell(median(times).toFixed(0), 9)}${cell(Math.max(...times).toFixed(0), 9)}${cell(rows.length, 9)}   ${equal ? 'equals the recount' : 'IS NOT WHAT THE RECOUNT SAYS'}${slow ? ', TOO SLOW' : ''}`)
}

/** Every row, and none beside them. */
const allOf = (wanted: ReadonlyMap<string, readonly number[]>, groupOf: (row: UsageRow) => string) => (rows: readonly UsageRow[]): boolean =>
  rows.length === wanted.size && rows.every((row) => equals(wanted.get(groupOf(row)), row))
const dayOf = ({ fromMs }: UsageRow): number => ((fromMs ?? 0) - startMs) / DAY_MS
const most = (fromDay: number, untilDay = DAYS) => (rows: readonly UsageRow[]): boolean => {
  const wanted = recounted((day, account) => (day < fromDay || day >= untilDay ? null : accounts[account]!))
  const best = [...wanted].sort(([, a], [, b]) => b[1]! + b[2]! - a[1]! - a[2]!).slice(0, 20)
  return rows.length === 20 && rows.every((row, i) => row.by.account === best[i]![0] && equals(best[i]![1], row))
}
const top20 = { by: ['account'] as const, top: { of: 'total_tokens', count: 20 } as const }
const ofOne = { account: accounts[WATCHED]! }

await ask('a month of one account, by day and model', { series: true, by: ['model'], only: ofOne },
  allOf(recounted((day, account, model) => (account === WATCHED ? `${day} ${models[model]}` : null)), (row) => `${dayOf(row)} ${row.by.model}`), true)
await ask('a month of one account, by day', { series: true, only: ofOne }, allOf(recounted((day, account) => (account === WATCHED ? `${day}` : null)), (row) => `${dayOf(row)}`), true)
await ask('a month of one account, by key', { by: ['key'], only: ofOne }, (rows) => rows.reduce((sum, { counts }) => sum + counts.events, 0) === recounted((_day, account) => (account === WATCHED ? '' : null)).get('')![0], true)
await ask('the 20 accounts that have most tokens in the month', { untilMs: nextBucket('month', startMs), ...top20 }, most(0), true)
await ask(`the same of ${DAYS - 2} days of it`, { fromMs: startMs + 2 * DAY_MS, ...top20 }, most(2), true)
const DAY = 12
await ask('the same of one day', { fromMs: startMs + DAY * DAY_MS, untilMs: startMs + (DAY + 1) * DAY_MS, ...top20 }, most(DAY, DAY + 1), true)
const hours = { unit: 'hour', fromMs: startMs + DAY * DAY_MS + 3 * 3_600_000, untilMs: startMs + DAY * DAY_MS + 6 * 3_600_000 } as const
const inHours = (await rollups.usage({ ...month, ...hours, by: ['account'] })).map(({ counts }) => counts.total_tokens).sort((a, b) => b - a)
await ask('the same of three hours', { ...hours, ...top20 }, (rows) => rows.length === Math.min(20, inHours.length) && rows.every(({ counts }, i) => counts.total_tokens === inHours[i]), true)
await ask('everything by day', { series: true }, allOf(recounted((day) => `${day}`), (row) => `${dayOf(row)}`))
await ask('everything by hour', { unit: 'hour', series: true }, (rows) => rows.reduce((sum, { counts }) => sum + counts.events, 0) === EVENTS)
await ask('models in the month', { by: ['model'] }, allOf(recounted((_day, _account, model) => models[model]!), ({ by }) => by.model!))
await ask('all accounts in the month, with their latencies', { unit: 'month', by: ['account'] }, allOf(recounted((_day, account) => accounts[account]!), ({ by }) => by.account!))

// === All of it ===

const by: readonly Dimension[] = ['account', 'model', 'status']
let rowsSeen = 0
let wrong = 0
for (let day = 0; day < DAYS; day++) {
  const fromMs = startMs + day * DAY_MS
  const seen = new Set<number>()
  for (const row of await rollups.usage({ ...month, fromMs, untilMs: fromMs + DAY_MS, by })) {
    const at = place(day, numberOf(row.by.account), models.indexOf(row.by.model!), row.by.status === '502')
    seen.add(at)
    const latencies = [...row.counts.latency.values()].reduce((sum, count) => sum + count, 0)
    if (!equals([...recount.subarray(at, at + FIELDS)], row) || latencies !== row.counts.events) wrong += 1
  }
  for (let at = place(day, 0, 0, false); at < place(day + 1, 0, 0, false); at += FIELDS) if (recount[at]! > 0 && !seen.has(at)) wrong += 1
  rowsSeen += seen.size
}
console.log(`\nall ${rowsSeen} rows by day, account, model and status: ${wrong === 0 ? 'they equal the recount' : `${wrong} ARE NOT WHAT THE RECOUNT SAYS`}`)
await close()
process.exit(failures === 0 && wrong === 0 ? 0 : 1)
