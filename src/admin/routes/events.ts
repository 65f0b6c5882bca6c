import { bucketOf } from '../../analytics/rollups.ts'
import { ARCHIVE, type EventHistory, type Page } from '../../archive/history.ts'
import { DEFAULT_CALENDAR, type SinkConfig } from '../../config/config.ts'
import { FocusSheet, focusColumns } from '../../invoices/focus.ts'
import { periodAt } from '../../metering/calendar.ts'
import { toUsageEvent } from '../../metering/event.ts'
import type { UsageEvent } from '../../metering/event.ts'
import { sinkKind, whyNoReplay } from '../../sinks/index.ts'
import type { DeadEntry, DeadPlace, Outbox } from '../../stores/store.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Route } from '../route.ts'
import { bucketSizes, groupings, reportUsage } from '../usage-report.ts'
import type { BucketSize, Grouping } from '../usage-report.ts'
import { rolledUsage } from '../rolled-usage.ts'
import { isAgo, toPastMs } from '../when.ts'

const waitMaxS = 30
const focusRowsMax = 100_000
const hourMs = 3_600_000
const deadRows = 1_000
const deadRowsMax = 10_000

export const eventRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/usage', shape: answers.usage, role: 'viewer', summary: 'Usage summed over events, or over roll-ups where they give the same',
    answer: 'from, to, counted_from: events or rollups, events, rows: grouping fields, sums of every quantity, cost by currency, shadow: refusals by shadow limits',
    query: {
      from: { type: 'string', about: 'admitted at or after: an instant, or how long ago such as 24h (the default), then from the beginning of that minute on' },
      to: { type: 'string', about: 'admitted before: an instant, or how long ago; now unless given' },
      by: { type: 'string', about: `comma-separated: ${groupings.join(', ')}` },
      bucket: { type: 'string', about: 'a row for each, in UTC', values: bucketSizes },
      account: { type: 'string', about: 'of this account only' },
    },
    async handle({ query }, { history, clock, analytics, gateway }) {
      const { fromMs, toMs } = spanOf(query, clock.nowMs())
      const bucket = textOf(query, 'bucket') as BucketSize | null
      const question = { fromMs, toMs, by: groupingsOf(textOf(query, 'by')), bucket, account: textOf(query, 'account') }
      // Without a gateway nobody has counted lately.
      const rolled = gateway === null ? null : await rolledUsage({ analytics, clock }, question)
      const report = rolled ?? await reportUsage(history, question)
      return { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), counted_from: rolled === null ? 'events' : 'rollups', ...report }
    },
  },
  {
    method: 'GET', path: '/api/v1/usage/focus', shape: answers.focus, role: 'viewer', summary: 'Rated usage as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification',
    answer: 'from, to, columns, rows: an array of texts and nulls for each, in the order of columns; events: that have a price; unpriced: those that have none, and no row',
    query: {
      from: { type: 'string', about: 'admitted at or after: an instant, or how long ago such as 24h (the default), then from the beginning of that minute on' },
      to: { type: 'string', about: 'admitted before: an instant, or how long ago; now unless given' },
      bucket: { type: 'string', about: 'the charge period; day unless given', values: ['hour', 'day'] },
      account: { type: 'string', about: 'of this account only' },
      provider: { type: 'string', about: 'who provides, publishes and invoices; the gateway\'s instance unless given' },
    },
    async handle({ query }, { history, clock, config, directory }) {
      const nowMs = clock.nowMs()
      const { fromMs, toMs } = spanOf(query, nowMs)
      const { plans, instance } = config()
      const account = textOf(query, 'account')
      const sheet = new FocusSheet({
        provider: textOf(query, 'provider') ?? instance, periodMs: textOf(query, 'bucket') === 'hour' ? hourMs : 24 * hourMs, plans,
        billingPeriod: (name, atMs) => periodAt('billing_period', directory.accountOf(name)?.calendar ?? DEFAULT_CALENDAR, atMs),
      })
      for await (const event of history.read(fromMs)) {
        const admittedMs = Date.parse(event.time)
        if (admittedMs < fromMs || admittedMs >= toMs || (account !== null && event.data['account'] !== account)) continue
        sheet.add(event.data, admittedMs)
        if (sheet.size > focusRowsMax) throw new Problem(422, `the answer would have more than ${focusRowsMax} rows; ask for a shorter time, or for days`)
      }
      const rows = sheet.rows().map((row) => focusColumns.map((column) => row[column]))
      return { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), columns: focusColumns, rows, events: sheet.events, unpriced: sheet.unpriced }
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
    method: 'GET', path: '/api/v1/events/dead', shape: answers.deadEvents, role: 'viewer', summary: 'Events that a sink refused for good', answer: 'total: how many there are; dead: sink, position, reason, buried_at, event',
    query: {
      sink: { type: 'string', about: 'of this sink only' },
      limit: { type: 'integer', about: `how many at most; ${deadRows} unless given. An answer that has fewer is the last`, minimum: 1, maximum: deadRowsMax },
      after: { type: 'string', about: 'those behind this one: the sink of the last one of an earlier answer, a space, and its position' },
    },
    async handle({ query }, { outbox, config }) {
      const sink = textOf(query, 'sink')
      const dead = await deadAfter(outbox, sink, textOf(query, 'after'), numberOf(query, 'limit') ?? deadRows)
      const counts = await Promise.all((sink === null ? config().sinks.map(({ name }) => name) : [sink]).map((name) => outbox.deadCount(name)))
      return {
        // Those of a sink that is no longer configured are listed, too.
        total: Math.max(dead.length, counts.reduce((sum, count) => sum + count, 0)),
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
      const why = whyNoReplay(config, sinceMs, parts.clock.nowMs())
      if (why !== null) throw new Problem(422, `nothing is delivered to ${sink} again: ${why}`)
      await parts.changes.note(who, 'events.replay', sink, { since })
      const { events, archived, done } = await parts.replay(config, sinceMs)
      // A command that is alone with the store ends with its answer.
      if (parts.gateway === null) await done
      return { sink, since, events, archived }
    },
  },
  {
    method: 'GET', path: '/api/v1/events/quarantined', shape: answers.withheld, role: 'viewer', summary: 'Records that are not sent to a sink any more until somebody decides: whether they were booked is not known',
    answer: 'quarantined: sink, of (event or sum), why, reason, sent_at, quarantined_at, records',
    query: { sink: { type: 'string', about: 'of this sink only' } },
    async handle({ query }, { withheld }) {
      const all = await withheld(textOf(query, 'sink') ?? undefined)
      return {
        quarantined: all.map(({ sink, of, why, reason, sinceMs, atMs, records }) => ({
          sink, of, why, reason, sent_at: sinceMs === null ? null : new Date(sinceMs).toISOString(), quarantined_at: new Date(atMs).toISOString(), records,
        })),
      }
    },
  },
  {
    method: 'POST', path: '/api/v1/events/quarantined/release', shape: answers.released, role: 'admin', summary: 'End the quarantine of records: send them although they may have been booked, or drop them although they may not',
    answer: 'released, failed',
    body: {
      sink: { type: 'string', required: true, about: 'which sink' },
      how: { type: 'string', required: true, about: 'send or drop', values: ['send', 'drop'] },
      of: { type: 'string', about: 'which events or sums, comma-separated; all of the sink unless given' },
    },
    async handle({ body, who }, parts) {
      const sink = textOf(body, 'sink') ?? ''
      const how = textOf(body, 'how') === 'drop' ? 'drop' : 'send'
      // What is left of a sink that is gone can still be dropped.
      if (how === 'send') mustBeSink(parts, sink)
      const ids = textOf(body, 'of')?.split(',').map((id) => id.trim()).filter((id) => id !== '') ?? null
      await parts.changes.note(who, `events.${how}`, sink, { of: ids?.join(',') ?? 'all' })
      return await parts.releaseWithheld(sink, ids, how)
    },
  },
  {
    method: 'POST', path: '/api/v1/events/{id}/credit', shape: answers.credited, role: 'admin', summary: 'Take an event back at a sink: the same records once more, with negative values',
    answer: 'sink, id, result: sent, or nothing (the sink was told nothing of this event)',
    body: { sink: { type: 'string', required: true, about: 'which sink' } },
    async handle({ params, body, who }, parts) {
      const sink = textOf(body, 'sink') ?? ''
      mustBeSink(parts, sink)
      const id = params['id'] ?? ''
      const event = (await eventsById(parts.history, id)).find((each) => each.id === id)
      if (event === undefined) throw new Problem(404, `there is no event "${id}" among those that are kept`)
      await parts.changes.note(who, 'events.credit', sink, { event: id })
      const result = await parts.credit(sink, event)
      if (result === 'credited') throw new Problem(409, `"${id}" has been taken back at ${sink} already`)
      if (typeof result === 'object') throw new Problem(422, `"${id}" was not taken back: ${result.failed}`)
      return { sink, id, result }
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
    method: 'GET', path: '/api/v1/sinks', shape: answers.sinks, role: 'viewer', summary: 'What each sink is doing, and how far it is behind',
    answer: 'sinks: name, type, contract, reads_back: whether its books can be asked, state, reason, next_try_at, last_delivery_at, waiting, oldest_at, dead, quarantined',
    async handle(_asked, { config, outbox, deliveryStatus, withheld, gateway }) {
      const sinks = []
      const running = deliveryStatus()
      const kept = await withheld()
      for (const { name, type, mapping } of config().sinks) {
        const lag = await outbox.lag(name)
        const dead = await outbox.deadCount(name)
        const status = running.get(name)
        const known = typeof status === 'object' ? status : null
        sinks.push({
          name, type, contract: sinkKind(type).contract.verified ? 'verified' : 'experimental', rollup: mapping?.rollup ?? null, reads_back: sinkKind(type).contract.readsBack,
          // Between two loops it has neither; why one is not open is known.
          state: known?.state ?? status ?? (gateway === null ? 'stopped' : 'starting'), reason: known?.reason ?? null,
          next_try_at: instantOrNull(known?.nextTryMs ?? null), last_delivery_at: instantOrNull(known?.lastDeliveryMs ?? null),
          waiting: lag.count, oldest_at: instantOrNull(lag.oldestMs), dead, quarantined: kept.filter(({ sink }) => sink === name).length,
        })
      }
      return { sinks }
    },
  },
  {
    method: 'POST', path: '/api/v1/sinks/{name}/retry', shape: answers.sinkRetried, role: 'admin', summary: 'Try a sink that waits or is paused again at once',
    answer: 'sink, result: trying, running (it does not wait), elsewhere (another gateway delivers: only that one can try), or replaying (the archive comes first)',
    async handle({ params, who }, parts) {
      const sink = params['name'] ?? ''
      mustBeSink(parts, sink)
      if (parts.gateway === null) throw new Problem(409, 'no gateway runs, so nothing is delivered; every sink is tried when it starts')
      await parts.changes.note(who, 'sinks.retry', sink, {})
      const status = parts.deliveryStatus().get(sink)
      parts.nudge(sink)
      const state = typeof status === 'object' ? status.state : status
      return { sink, result: state === 'elsewhere' || state === 'replaying' || state === 'running' ? state : 'trying' }
    },
  },
]

async function deadAfter(outbox: Outbox, sink: string | null, after: string | null, count: number): Promise<readonly DeadEntry[]> {
  const found: DeadEntry[] = []
  const space = after?.lastIndexOf(' ') ?? 0
  let place: DeadPlace | null = after === null ? null : { consumer: after.slice(0, space), position: after.slice(space + 1) }
  try {
    while (found.length < count) {
      const page = await outbox.dead(sink ?? undefined, place, count - found.length)
      found.push(...page)
      place = page.at(-1) ?? null
      if (place === null) break
    }
  } catch (error) {
    if (after === null || !(error instanceof RangeError)) throw error
    throw new Problem(400, `"${after}" is no place among dead events: after is the sink and the position of one of them, with a space between`)
  }
  return found
}

function instantOrNull(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}

function spanOf(query: Asked['query'], nowMs: number): { readonly fromMs: number; readonly toMs: number } {
  const from = textOf(query, 'from') ?? '24h'
  const givenMs = toPastMs(from, 'from', nowMs)
  // Roll-ups can answer for whole minutes alone; who says how long ago does not mean the millisecond.
  const fromMs = isAgo(from) ? bucketOf('minute', givenMs) : givenMs
  const to = textOf(query, 'to')
  // A call admitted in this very millisecond counts.
  const toMs = to === null ? nowMs + 1 : toPastMs(to, 'to', nowMs)
  if (toMs <= fromMs) throw new Problem(422, 'from must lie before to')
  return { fromMs, toMs }
}

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
