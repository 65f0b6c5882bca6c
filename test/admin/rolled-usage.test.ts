// What `GET /api/v1/usage` takes from the roll-ups is what it would count itself.

import t from 'tap'
import type { Test } from 'tap'
import { rolledUsage } from '../../src/admin/rolled-usage.ts'
import { reportUsage } from '../../src/admin/usage-report.ts'
import type { UsageQuestion } from '../../src/admin/usage-report.ts'
import { Analytics } from '../../src/analytics/analytics.ts'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { incrementOf } from '../../src/analytics/projection.ts'
import { bucketOf } from '../../src/analytics/rollups.ts'
import type { EventHistory } from '../../src/archive/history.ts'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { silentLog } from '../../src/log.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { chance, inOneRow, randomEvent, startMs } from '../analytics/rollups.ts'
import { FakeOutbox } from './fake-outbox.ts'

const hour = 3_600_000
const day = 86_400_000
const lengths = { minutes: day, hours: 2 * day, days: 30 * day, months: 3_660 * day }

function configOf({ minutes, hours, days, months }: typeof lengths): Config {
  return { analytics: { minutesMs: minutes, hoursMs: hours, daysMs: days, monthsMs: months }, instance: 'test', store: { kind: 'memory' }, sinks: [] } as unknown as Config
}

function reader(events: readonly UsageEvent[]): EventHistory {
  return { async *read() { yield* events } } as unknown as EventHistory
}

async function rolled(t: Test, events: readonly UsageEvent[], nowMs: number) {
  const clock = withTime(systemClock, () => nowMs)
  const rollups = await openLocalRollups(':memory:')
  await rollups.complete()
  const positions = inOneRow(events)
  await rollups.count(events.map((event, index) => ({ id: event.id, position: positions[index]!, increment: incrementOf(event) })), await rollups.generation())
  const analytics = new Analytics({ outbox: new FakeOutbox(), open: async () => rollups, archive: () => null, onHold: () => undefined, clock, log: silentLog })
  await analytics.use(configOf(lengths))
  t.teardown(() => analytics.stop())
  return { analytics, rollups, clock }
}

/** Neither the order of rows nor that of fields and currencies says anything. */
const inText = (rows: readonly object[]): string[] => rows.map((row) => JSON.stringify(inOrder(row))).sort()

function inOrder(value: unknown): unknown {
  return typeof value === 'object' && value !== null ? Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, each]) => [name, inOrder(each)]) : value
}

/** Told by the roll-ups, as a recount has it; or told by nobody. */
async function same(t: Test, parts: Awaited<ReturnType<typeof rolled>>, events: readonly UsageEvent[], question: UsageQuestion): Promise<boolean> {
  const answer = await rolledUsage(parts, question)
  if (answer === null) return false
  const counted = await reportUsage(reader(events), question)
  t.equal(answer.events, counted.events, JSON.stringify(question))
  t.same(inText(answer.rows), inText(counted.rows), JSON.stringify(question))
  return true
}

t.test('whatever is asked for, also after old buckets were removed and after they are kept longer: the same as a recount, or nothing', async (t) => {
  const next = chance(19)
  const nowMs = bucketOf('hour', startMs + 80 * day) + hour
  const events = Array.from({ length: 700 }, (_each, ordinal) => randomEvent(next, ordinal, 6, 80 * day))
  const parts = await rolled(t, events, nowMs)
  let told = 0
  const askAll = async (): Promise<void> => {
    for (let n = 0; n < 60; n++) {
      const unit = (['minute', 'hour', 'day', 'month'] as const)[Math.floor(next() * 4)]!
      const by = ([[], ['account'], ['model'], ['key'], ['account', 'model'], ['status', 'end']] as const)[Math.floor(next() * 6)]!
      const fromMs = bucketOf(unit, nowMs - next() * (next() < 0.5 ? 90 : 3) * day)
      const toMs = next() < 0.3 ? nowMs + 1 : next() < 0.2 ? nowMs + 400 * day : bucketOf('hour', fromMs + next() * 40 * day) + hour
      const bucket = next() < 0.5 ? null : (['hour', 'day', 'month'] as const)[Math.floor(next() * 3)]!
      if (await same(t, parts, events, { fromMs, toMs, by, bucket, account: next() < 0.3 ? 'acct-2' : null })) told += 1
    }
  }
  await askAll()
  t.ok(told > 10, `${told} of 60 were told by the roll-ups`)
  await parts.rollups.prune(nowMs, parts.analytics.kept!)
  await askAll()
  await parts.analytics.use(configOf({ ...lengths, hours: 45 * day, days: 800 * day }))
  await askAll()
  t.equal(await rolledUsage(parts, { fromMs: nowMs - 8 * day, toMs: nowMs + 1, by: [], bucket: 'hour', account: null }), null, 'hours of last week were removed, whatever is kept from now on')
  t.equal(await rolledUsage(parts, { fromMs: Date.parse('2026-11-01'), toMs: nowMs + 1, by: ['key'], bucket: 'month', account: null }), null, 'months of keys are read from days')
})

t.test('names that were put together are not told', async (t) => {
  const events = ['xy', 'x\u0007y', 'x\u0008y'].map((model, ordinal) => {
    const event = randomEvent(chance(5), ordinal, 1, 1)
    return { ...event, data: { ...event.data, model } }
  })
  const parts = await rolled(t, events, startMs + 60_000)
  const question = { fromMs: bucketOf('minute', startMs), toMs: startMs + 60_001, by: ['model'], bucket: null, account: null } as const
  t.equal(await rolledUsage(parts, question), null)
  t.ok(await same(t, parts, events, { ...question, by: [] }))
})

t.test('a time in the future is told as well, and its look harms nothing', async (t) => {
  const nowMs = startMs + day
  const events = Array.from({ length: 20 }, (_each, ordinal) => randomEvent(chance(ordinal), ordinal, 2, hour))
  const parts = await rolled(t, events, nowMs)
  for (const bucket of [null, 'hour', 'day', 'month'] as const) {
    t.ok(await same(t, parts, events, { fromMs: bucketOf('day', startMs), toMs: nowMs + 70 * day, by: [], bucket, account: null }))
    t.ok(await same(t, parts, events, { fromMs: bucketOf('month', nowMs + 70 * day), toMs: nowMs + 200 * day, by: [], bucket, account: null }))
  }
  t.same(await parts.analytics.usage({ unit: 'minute', fromMs: 0, untilMs: 60_000, by: [], series: false, only: {}, latencies: true, top: null }), [], 'and one that is no longer kept')
  t.same(await parts.analytics.refusals({ unit: 'minute', fromMs: nowMs + 10 * day, untilMs: nowMs + 11 * day, by: [], series: false, only: {} }), [])
})
