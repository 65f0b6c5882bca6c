import { ARCHIVE, type EventHistory, type Page } from '../../archive/history.ts'
import type { SinkConfig } from '../../config/config.ts'
import { toUsageEvent } from '../../metering/event.ts'
import type { UsageEvent } from '../../metering/event.ts'
import type { Outbox } from '../../stores/store.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Route } from '../route.ts'
import { bucketSizes, groupings, reportUsage } from '../usage-report.ts'
import type { BucketSize, Grouping } from '../usage-report.ts'
import { toPastMs } from '../when.ts'

const waitMaxS = 30

export const eventRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/usage', shape: answers.usage, role: 'viewer', summary: 'Usage summed over events',
    answer: 'from, to, events, rows: grouping fields, sums of every quantity, cost by currency, shadow: refusals by shadow limits',
    query: {
      from: { type: 'string', about: 'admitted at or after: an instant, or how long ago such as 24h (the default)' },
      to: { type: 'string', about: 'admitted before: an instant, or how long ago; now unless given' },
      by: { type: 'string', about: `comma-separated: ${groupings.join(', ')}` },
      bucket: { type: 'string', about: 'a row for each, in UTC', values: bucketSizes },
      account: { type: 'string', about: 'of this account only' },
    },
    async handle({ query }, { history, clock }) {
      const nowMs = clock.nowMs()
      const fromMs = toPastMs(textOf(query, 'from') ?? '24h', 'from', nowMs)
      const to = textOf(query, 'to')
      // A call admitted in this very millisecond counts.
      const toMs = to === null ? nowMs + 1 : toPastMs(to, 'to', nowMs)
      if (toMs <= fromMs) throw new Problem(422, 'from must lie before to')
      const bucket = textOf(query, 'bucket') as BucketSize | null
      const report = await reportUsage(history, { fromMs, toMs, by: groupingsOf(textOf(query, 'by')), bucket, account: textOf(query, 'account') })
      return { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), ...report }
    },
  },
  {
    method: 'GET', path: '/api/v1/events', shape: answers.events, role: 'viewer', summary: 'Usage events in order, from a position on',
    answer: 'events: position, event; next: the position to ask from the next time',
    query: {
      after: { type: 'string', about: 'a position that an earlier answer gave as next' },
      since: { type: 'string', about: 'instead: written at or after this instant, or how long ago' },
      limit: { type: 'integer', about: 'how many at most; 100 unless given', minimum: 1, maximum: 1000 },
      wait: { type: 'integer', about: `seconds to wait for the first one; 0 unless given, ${waitMaxS} at most`, minimum: 0, maximum: waitMaxS },
    },
    async handle({ query, gone }, { outbox, history, clock }) {
      const after = textOf(query, 'after')
      const since = textOf(query, 'since')
      const sinceMs = since === null ? null : toPastMs(since, 'since', clock.nowMs())
      const count = numberOf(query, 'limit') ?? 100
      let page: Page
      try {
        page = await history.page(after, sinceMs, count)
      } catch (error) {
        if (after === null || !(error instanceof RangeError)) throw error
        throw new Problem(400, `"${after}" is no position of an event: after is what an earlier answer gave as next`)
      }
      const untilMs = clock.monotonicMs() + (numberOf(query, 'wait') ?? 0) * 1_000
      while (page.entries.length === 0 && !gone()) {
        const leftMs = untilMs - clock.monotonicMs()
        if (leftMs <= 0) break
        await appended(outbox, clock, Math.min(leftMs, 1_000))
        page = await history.page(page.next ?? after, sinceMs, count)
      }
      return { events: page.entries, next: page.next }
    },
  },
  {
    method: 'GET', path: '/api/v1/events/dead', shape: answers.deadEvents, role: 'viewer', summary: 'Events that a sink refused for good', answer: 'dead: sink, position, reason, buried_at, event',
    query: { sink: { type: 'string', about: 'of this sink only' } },
    async handle({ query }, { outbox }) {
      const dead = await outbox.dead(textOf(query, 'sink') ?? undefined)
      return {
        dead: dead.map((entry) => ({
          sink: entry.consumer, position: entry.position, reason: entry.reason, buried_at: new Date(entry.buriedMs).toISOString(), event: toUsageEvent(entry.record),
        })),
      }
    },
  },
  {
    method: 'POST', path: '/api/v1/events/dead/retry', shape: answers.retried, role: 'admin', summary: 'Deliver dead events once more', answer: 'delivered, failed',
    body: { sink: { type: 'string', about: 'of this sink only' } },
    async handle({ body, who }, parts) {
      const sink = textOf(body, 'sink')
      if (sink !== null) mustBeSink(parts, sink)
      await parts.changes.note(who, 'events.retry', sink ?? 'all sinks', {})
      return await parts.retryDead(sink)
    },
  },
  {
    method: 'POST', path: '/api/v1/events/replay', shape: answers.replayed, role: 'admin', summary: 'Deliver again what was written since an instant; ids are the same, so books do not change twice',
    answer: 'sink, since, events: how many of the store will be delivered, archived: how many of the archive before',
    body: {
      sink: { type: 'string', required: true, about: 'which sink' },
      since: { type: 'string', required: true, about: 'an instant, or how long ago such as 24h' },
    },
    async handle({ body, who }, parts) {
      const sink = textOf(body, 'sink') ?? ''
      const config = mustBeSink(parts, sink)
      if (sink === ARCHIVE) throw new Problem(422, 'the archive is what older events are replayed from; it has them already')
      const sinceMs = toPastMs(textOf(body, 'since') ?? '', 'since', parts.clock.nowMs())
      const since = new Date(sinceMs).toISOString()
      await parts.changes.note(who, 'events.replay', sink, { since })
      const { events, archived, done } = await parts.replay(config, sinceMs)
      // A command that is alone with the store ends with its answer.
      if (parts.gateway === null) await done
      return { sink, since, events, archived }
    },
  },
  {
    method: 'GET', path: '/api/v1/events/{id}', shape: answers.eventsOfCall, role: 'viewer', summary: 'An event and its corrections, by the id that answers carry as x-request-id', answer: 'events',
    async handle({ params }, { history }) {
      const events = await eventsById(history, params['id'] ?? '')
      if (events.length === 0) throw new Problem(404, `there is no event "${params['id']}" among those that are kept`)
      return { events }
    },
  },
  {
    method: 'GET', path: '/api/v1/sinks', shape: answers.sinks, role: 'viewer', summary: 'How far each sink is behind', answer: 'sinks: name, type, waiting, oldest_at, dead',
    async handle(_asked, { config, outbox }) {
      const sinks = []
      for (const { name, type } of config().sinks) {
        const lag = await outbox.lag(name)
        const dead = await outbox.deadCount(name)
        sinks.push({ name, type, waiting: lag.count, oldest_at: lag.oldestMs === null ? null : new Date(lag.oldestMs).toISOString(), dead })
      }
      return { sinks }
    },
  },
]

function mustBeSink({ config }: AdminParts, name: string): SinkConfig {
  const { sinks } = config()
  const found = sinks.find((sink) => sink.name === name)
  if (found !== undefined) return found
  const names = sinks.map((sink) => sink.name)
  throw new Problem(404, `there is no sink "${name}"; there ${names.length === 0 ? 'are none' : `is ${names.join(', ')}`}`)
}

function groupingsOf(text: string | null): Grouping[] {
  const chosen: Grouping[] = []
  for (const part of (text ?? '').split(',').map((each) => each.trim()).filter((each) => each !== '')) {
    const grouping = groupings.find((each) => each === part)
    if (grouping === undefined) throw new Problem(400, `usage cannot be grouped by "${part}"; there is ${groupings.join(', ')}`)
    if (!chosen.includes(grouping)) chosen.push(grouping)
  }
  return chosen
}

/** The id tells when the exchange was admitted, so the search begins there. */
async function eventsById(history: EventHistory, id: string): Promise<UsageEvent[]> {
  const exchange = id.replace(/\.late(\.?\d+)?$/, '')
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(exchange)) {
    throw new Problem(422, `"${id}" is not the id of an event`)
  }
  return await history.find(exchange)
}

/** Until records may have been appended, or the time is over. */
function appended(outbox: Outbox, clock: AdminParts['clock'], forMs: number): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stopListening()
      stopTimer()
      resolve()
    }
    const stopListening = outbox.onAppend(done)
    const stopTimer = clock.after(forMs, done)
  })
}

function textOf(values: Asked['query'], name: string): string | null {
  const value = values[name]
  return typeof value === 'string' ? value : null
}

function numberOf(values: Asked['query'], name: string): number | null {
  const value = values[name]
  return typeof value === 'number' ? value : null
}
