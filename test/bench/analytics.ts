import { statSync } from 'node:fs'
import { join } from 'node:path'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { bucketOf, nextBucket } from '../../src/analytics/rollups.ts'
import type { Counted, UsageQuestion, UsageRow } from '../../src/analytics/rollups.ts'
import { chance } from '../analytics/rollups.ts'
import { cell, dir, median } from './rig.ts'

/**
 * `npm run bench:analytics`: ten million events (EVENTS) of ten thousand accounts (ACCOUNTS) over a month go into roll-ups in a file; then what a dashboard asks is timed, and
 * every answer is compared with a recount that was kept beside.
 */
const EVENTS = Number(process.env['EVENTS'] ?? 10_000_000)
const ACCOUNTS = Number(process.env['ACCOUNTS'] ?? 10_000)
const BATCH = 1_000
const DAYS = 31
const DAY_MS = 86_400_000
const startMs = Date.UTC(2026, 9, 1)
const models = ['small', 'large', 'embed', 'vision']

const next = chance(42)
const accounts = Array.from({ length: ACCOUNTS }, (_each, i) => `account-${i}`)
/** Few accounts make most of the calls. */
const accountOf = (): number => Math.floor(ACCOUNTS * next() ** 3)

// === The recount: by account, and by day and model of one account. ===
const WATCHED = 3
const byAccount = new Float64Array(ACCOUNTS * 2)
const byDayAndModel = new Map<string, { events: number; tokens: number; nanos: bigint }>()
const byModel = new Map<string, number>()
let nanosInAll = 0n

const path = join(dir, 'analytics.db')
const rollups = await openLocalRollups(path)
const cpuBefore = process.cpuUsage()
const begunMs = performance.now()
for (let at = 0; at < EVENTS; at += BATCH) {
  const batch: Counted[] = []
  for (let i = at; i < Math.min(EVENTS, at + BATCH); i++) {
    const account = accountOf()
    // Each has its two models, and one in five a second key.
    const model = models[(account + (next() < 0.7 ? 0 : 1)) % models.length]!
    const input = Math.floor(next() * 3_000)
    const output = Math.floor(next() * 600)
    const costNanos = BigInt(input * 250 + output * 1_000)
    // In the order of time, about.
    const atMs = startMs + Math.floor(((i + next() * 500) / (EVENTS + 500)) * DAYS * DAY_MS)
    batch.push({
      id: `e${i}`, position: String(i + 1).padStart(15, '0'),
      increment: {
        atMs, currency: 'USD', costNanos, sums: [1, 1, input, 0, 0, output, 0, input + output, 900, 1_500, 4_000, 0, 0, 1, 0], latencySlot: Math.floor(60 + next() * 40), firstTokenSlot: Math.floor(30 + next() * 30),
        dimensions: { account: accounts[account]!, key: `${accounts[account]!}-${account % 5 === 0 ? i % 2 : 0}`, plan: account % 3 === 0 ? 'pro' : 'free', model, endpoint: 'chat.completions', upstream: 'model', end: 'complete', status: i % 40 === 0 ? '502' : '200' },
      },
    })
    byAccount[account * 2]! += 1
    byAccount[account * 2 + 1]! += input + output
    byModel.set(model, (byModel.get(model) ?? 0) + input + output)
    nanosInAll += costNanos
    if (account === WATCHED) {
      const key = `${bucketOf('day', atMs)} ${model}`
      const row = byDayAndModel.get(key) ?? { events: 0, tokens: 0, nanos: 0n }
      byDayAndModel.set(key, { events: row.events + 1, tokens: row.tokens + input + output, nanos: row.nanos + costNanos })
    }
  }
  await rollups.count(batch)
  if (at % 1_000_000 === 0 && at > 0) console.log(`${at / 1_000_000} M events after ${Math.round((performance.now() - begunMs) / 1_000)} s`)
}
const tookS = (performance.now() - begunMs) / 1_000
const { user, system } = process.cpuUsage(cpuBefore)
const bytes = ['', '-wal'].reduce((sum, suffix) => sum + (statSync(`${path}${suffix}`, { throwIfNoEntry: false })?.size ?? 0), 0)
console.log(`\n${EVENTS} events of ${ACCOUNTS} accounts: ${tookS.toFixed(0)} s, ${((user + system) / EVENTS).toFixed(1)} µs CPU each with making them up, ${(bytes / 1e6).toFixed(0)} MB\n`)

// === What is asked ===
const fromMs = startMs
const untilMs = startMs + DAYS * DAY_MS
const question: UsageQuestion = { unit: 'day', fromMs, untilMs, by: [], series: false, only: {}, latencies: true, top: null }
let failed = 0
const ask = async (name: string, more: Partial<UsageQuestion>, check: (rows: readonly UsageRow[]) => boolean): Promise<void> => {
  const times: number[] = []
  let rows: readonly UsageRow[] = []
  for (let i = 0; i < 5; i++) {
    const before = performance.now()
    rows = await rollups.usage({ ...question, ...more })
    times.push(performance.now() - before)
  }
  const equal = check(rows)
  if (!equal) failed += 1
  console.log(`${name.padEnd(58)}${cell(`${median(times).toFixed(0)} ms`, 10)}${cell(`${rows.length} rows`, 14)}   ${equal ? 'equals the recount' : 'IS NOT WHAT THE RECOUNT SAYS'}`)
}
await ask('a month of one account, by day and model', { series: true, by: ['model'], only: { account: accounts[WATCHED]! } }, (rows) => rows.length === byDayAndModel.size && rows.every(({ fromMs: day, by, counts }) => {
  const wanted = byDayAndModel.get(`${day} ${by.model}`)
  return wanted !== undefined && wanted.events === counts.events && wanted.tokens === counts.total_tokens && wanted.nanos === counts.cost_nanos
}))
await ask('the 20 accounts that have most tokens in the month', { untilMs: nextBucket('month', startMs), by: ['account'], top: { of: 'total_tokens', count: 20 } }, (rows) => {
  const wanted = accounts.map((account, i) => ({ account, tokens: byAccount[i * 2 + 1]! })).sort((a, b) => b.tokens - a.tokens).slice(0, 20)
  return rows.length === 20 && rows.every(({ by, counts }, i) => by.account === wanted[i]!.account && counts.total_tokens === wanted[i]!.tokens)
})
await ask('the same of 29 days of it', { fromMs: startMs + DAY_MS, by: ['account'], top: { of: 'total_tokens', count: 20 } }, (rows) => rows.length === 20)
await ask('all accounts in the month, with their latencies', { unit: 'month', untilMs: nextBucket('month', startMs), by: ['account'] }, (rows) => rows.every(({ by, counts }) => {
  const i = Number(by.account?.slice('account-'.length))
  return counts.events === byAccount[i * 2] && counts.total_tokens === byAccount[i * 2 + 1]
}) && rows.length === byAccount.filter((events, i) => i % 2 === 0 && events > 0).length)
await ask('everything by hour', { unit: 'hour', series: true }, (rows) => rows.reduce((sum, { counts }) => sum + counts.events, 0) === EVENTS && rows.reduce((sum, { counts }) => sum + counts.cost_nanos, 0n) === nanosInAll)
await ask('models in the month', { by: ['model'] }, (rows) => rows.length === byModel.size && rows.every(({ by, counts }) => byModel.get(by.model ?? '') === counts.total_tokens))
await ask('one account by hour and key', { unit: 'hour', series: true, by: ['key'], only: { account: accounts[WATCHED]! } }, (rows) => rows.reduce((sum, { counts }) => sum + counts.events, 0) === byAccount[WATCHED * 2])
await rollups.close()
process.exit(failed === 0 ? 0 : 1)
