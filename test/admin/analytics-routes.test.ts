import t from 'tap'
import { Analytics } from '../../src/analytics/analytics.ts'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import type { RefusedCall } from '../../src/analytics/refusal-tally.ts'
import { analyticsRoutes } from '../../src/admin/routes/analytics.ts'
import { readFields } from '../../src/admin/route.ts'
import type { AdminParts } from '../../src/admin/route.ts'
import { incrementOf } from '../../src/analytics/projection.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { silentLog } from '../../src/log.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { chance, inOneRow, randomEvent, startMs } from '../analytics/rollups.ts'
import { FakeOutbox } from './fake-outbox.ts'

const nowMs = startMs + 3 * 86_400_000
const config = { analytics: { minutesMs: 2 * 86_400_000, hoursMs: 45 * 86_400_000, daysMs: 800 * 86_400_000, monthsMs: 3_660 * 86_400_000 }, instance: 'test', store: { kind: 'memory' }, sinks: [] } as unknown as Config
const clock = withTime(systemClock, () => nowMs)
const rollups = await openLocalRollups(':memory:')
const outbox = new FakeOutbox()
const analytics = new Analytics({ outbox, open: async () => rollups, archive: () => null, onHold: () => undefined, clock, log: silentLog })
await analytics.use(config)
t.teardown(() => analytics.stop())
const next = chance(19)
const events = Array.from({ length: 900 }, (_each, i) => randomEvent(next, i, 9, 3 * 86_400_000))
const positions = inOneRow(events)
await rollups.count(events.map((event, i) => ({ id: event.id, position: positions[i]!, increment: incrementOf(event) })), await rollups.generation())
await rollups.countRefusals([
  { atMs: nowMs - 60_000, refused: 7, dimensions: { account: 'acct-3', key: 'acct-3-a', limit: 'rpm', reason: 'rate_limited', model: 'small' } },
  { atMs: nowMs - 60_000, refused: 2, dimensions: { account: 'only-refused', key: 'k', limit: '', reason: 'feature_unavailable', model: 'none' } },
])
const parts = { analytics, clock, outbox, config: () => config, gateway: {} } as unknown as AdminParts

type Answer = Readonly<Record<string, unknown>> & { readonly rows: readonly Readonly<Record<string, unknown>>[] }

async function ask(path: string, query: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const route = analyticsRoutes.find((each) => each.method === 'GET' && each.path === path)!
  return await route.handle({ params: {}, query: readFields(route.query ?? {}, query, 'query'), body: {}, who: 'me', gone: () => false }, parts) as Answer
}

const sum = (rows: Answer['rows'], name: string): number => rows.reduce((all, row) => all + Number(row[name]), 0)
const all = events.filter(({ data }) => !('corrects' in data)).length

t.test('usage is told by any grouping, in whole buckets, with what was refused', async (t) => {
  const byAccount = await ask('/api/v1/analytics/usage', { from: '7d', by: 'account' })
  t.equal(byAccount['unit'], 'day')
  t.match([byAccount['from'], byAccount['to']], [/T00:00:00Z$/, /T00:00:00Z$/])
  t.equal(sum(byAccount.rows, 'events'), all)
  t.equal(byAccount.rows.find(({ account }) => account === 'acct-3')?.['refused'], 7)
  t.match(byAccount.rows.at(-1), { account: 'only-refused', events: 0, requests: 0, refused: 2, cost: {}, p50_ms: null, tokens_per_second: null })
  for (const row of byAccount.rows.slice(0, -1)) {
    t.match(row, { cost: { USD: /^\d+\.\d{9}$/, EUR: /^\d+\.\d{9}$/ } })
    t.ok(Number(row['p50_ms']) > 500 && Number(row['p50_ms']) <= Number(row['p95_ms']) && Number(row['p95_ms']) <= Number(row['p99_ms']))
    t.ok(Number(row['tokens_per_second']) > 0)
  }
  const top = await ask('/api/v1/analytics/usage', { from: '7d', by: 'account', top: '2', order: 'cost', percentiles: 'false' })
  t.equal(top.rows.length, 2)
  t.equal(top.rows[0]?.['p50_ms'], null)
  const ordered = await ask('/api/v1/analytics/usage', { from: '7d', by: 'account', order: 'output_tokens' })
  const tokens = ordered.rows.map(({ output_tokens }) => Number(output_tokens))
  t.same(tokens, tokens.toSorted((a, b) => b - a))
  const byEnd = await ask('/api/v1/analytics/usage', { from: '7d', by: 'end,status' })
  t.ok(byEnd.rows.every(({ refused }) => refused === null), 'refusals have no end')
  t.equal(sum(byEnd.rows, 'events'), all)
})

t.test('a series has a row for each bucket, and auto chooses the bucket by the time', async (t) => {
  for (const [from, unit] of [['2h', 'minute'], ['30h', 'hour'], ['30d', 'day'], ['700d', 'month']] as const) t.equal((await ask('/api/v1/analytics/usage', { from }))['unit'], unit, from)
  t.equal((await ask('/api/v1/analytics/usage', { from: '72h', to: '71h' }))['unit'], 'hour', 'minutes are not kept for so long')
  const hours = await ask('/api/v1/analytics/usage', { from: '4d', unit: 'hour', series: 'true', by: 'model' })
  t.equal(sum(hours.rows, 'events'), all)
  const froms = hours.rows.map(({ from }) => String(from))
  t.same(froms, froms.toSorted())
  t.equal(new Set(hours.rows.map(({ from, model }) => `${String(from)} ${String(model)}`)).size, hours.rows.length)
})

t.test('refusals are told by limit and reason; what cannot be asked is said', async (t) => {
  const rows = (await ask('/api/v1/analytics/refusals', { by: 'limit,reason' })).rows
  t.same(rows, [{ limit: 'rpm', reason: 'rate_limited', refused: 7 }, { limit: '', reason: 'feature_unavailable', refused: 2 }])
  t.equal((await ask('/api/v1/analytics/refusals', { by: 'account', top: '1' })).rows.length, 1)
  await t.rejects(ask('/api/v1/analytics/refusals', { by: 'plan' }), { name: 'Problem', status: 400 })
  await t.rejects(ask('/api/v1/analytics/usage', { by: 'nonsense' }), { name: 'Problem', status: 400 })
  await t.rejects(ask('/api/v1/analytics/usage', { from: '1h', to: '2h' }), { name: 'Problem', status: 422 })
  await t.rejects(ask('/api/v1/analytics/usage', { top: '100000' }), { name: 'Problem' })
})

t.test('hostile names come out as they are, bounded, and separate nothing', async (t) => {
  const hostile = '<img src=x onerror=alert(1)>\u001f\u0000=1+1\n'
  await rollups.count([{ id: 'hostile', position: '000000000009999', increment: incrementOf({ ...events[0]!, data: { ...events[0]!.data, model: hostile + 'x'.repeat(10_000) } }) }], await rollups.generation())
  const { rows } = await ask('/api/v1/analytics/usage', { from: '7d', by: 'model' })
  const found = rows.find(({ model }) => String(model).startsWith('<img'))
  t.match(found?.['model'], /^<img src=x onerror=alert\(1\)>\ufffd\ufffd=1\+1\ufffdx+$/)
  t.equal(String(found?.['model']).length, 128)
  const call: RefusedCall = { id: 'x', atMs: nowMs, account: 'acme', key: 'k', limit: null, reason: 'feature_unavailable', model: hostile.repeat(100), ceiling: null, used: null, remaining: null, resetsAt: null }
  analytics.traffic.refused('feature_unavailable', call)
  analytics.add('another', { ...analytics.traffic.take(), open: 0, streams: 0 })
  const { refusals } = await ask('/api/v1/refusals') as unknown as { refusals: readonly { model: string; limit: null }[] }
  t.equal(refusals[0]?.model.length, 128)
  t.equal(refusals[0]?.limit, null)
})

t.test('what was counted is told while the store is away', async (t) => {
  const { lag } = outbox
  outbox.lag = () => Promise.reject(new StoreUnavailable('away'))
  const answer = await ask('/api/v1/analytics/usage', { from: '7d' })
  outbox.lag = lag
  t.equal(answer['complete_until'], null)
  t.ok(sum(answer.rows, 'events') >= all)
})

t.test('times are told as RFC 3339 can, however far off they are asked for', async (t) => {
  for (const path of ['/api/v1/analytics/usage', '/api/v1/analytics/refusals']) {
    for (const from of ['104249991d', '99999999d', '0100-01-01']) t.match(await ask(path, { from }), { from: '1970-01-01T00:00:00Z' }, `${path} from ${from}`)
    for (const unit of ['minute', 'hour', 'day', 'month', 'auto']) t.match(await ask(path, { to: '9999-12-31', unit }), { to: /^(9999-12-31|9999-12-31T23:59:59Z$)/ }, `${path} by ${unit}`)
    t.equal((await ask(path, { to: '9999-12-31', unit: 'month' }))['to'], '9999-12-31T23:59:59Z')
    await t.rejects(ask(path, { to: '9999-12-31T23:59:59-23:59' }), { name: 'Problem', status: 422 })
  }
})

t.test('64 watch at a time, counted from when they are let in until they end or are gone', async (t) => {
  const route = analyticsRoutes.find(({ path }) => path === '/api/v1/live')!
  const watch = (gone = () => false): AsyncGenerator<unknown> | null => {
    try {
      return route.handle({ params: {}, query: {}, body: {}, who: 'me', gone }, parts) as AsyncGenerator<unknown>
    } catch (error) {
      t.match(error, { name: 'Problem', status: 503 })
      return null
    }
  }
  const left = new Set<unknown>()
  const many = Array.from({ length: 300 }, (_each, i) => watch(() => left.has(i)))
  const admitted = many.filter((each) => each !== null)
  t.equal(admitted.length, 64)
  for (const each of admitted.slice(0, 10)) await each.next()
  t.equal(watch(), null, 'also while they are told something')
  for (const each of admitted.slice(0, 10)) await each.return(undefined)
  t.equal(Array.from({ length: 20 }, () => watch()).filter((each) => each !== null).length, 10, 'who ends makes room')
  for (let i = 10; i < 15; i++) left.add(i)
  t.equal(Array.from({ length: 20 }, () => watch()).filter((each) => each !== null).length, 5, 'as does who was gone before it began')
})
