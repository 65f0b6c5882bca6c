import { orb } from '../../../../src/sinks/orb.ts'
import type { Books, Received } from '../books.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'

const key = 'orb-test-key'

interface Event {
  readonly event_name: string
  readonly idempotency_key: string
  readonly customer_id?: string
  readonly external_customer_id?: string
  readonly timestamp: string
  readonly properties: Readonly<Record<string, unknown>>
}

/** With a grace period of a day. */
export const orbDialect: Dialect = {
  name: 'orb',
  kind: orb,
  duplicates: 'silent',
  settings: (url, right) => ({ url: `${url}/v1`, private: true, api_key: right ? key : 'orb-wrong-key', customer_field: 'external_customer_id', grace_period: 86_400_000, debug: true }),
  authorized: ({ headers }) => headers.authorization === `Bearer ${key}`,
  aside: /^\/v1\/events\/search$/,
  read(call) {
    if (call.path !== '/v1/ingest') return problem(404)
    try {
      const { events } = JSON.parse(call.text) as { events?: unknown }
      return Array.isArray(events) ? (events as Event[]).map(received) : problem(400)
    } catch {
      return problem(400)
    }
  },
  answer(fates, call) {
    const failed = fates.flatMap((fate) => fate.fate === 'refused' ? [{ idempotency_key: fate.received.id, validation_errors: [fate.reason] }] : [])
    if (failed.length > 0) return json(400, { status: 400, title: canary, detail: canary, validation_failed: failed })
    const of = (wanted: string): string[] => fates.flatMap(({ fate, received: { id } }) => fate === wanted ? [id] : [])
    return json(200, { validation_failed: [], ...(call.query.get('debug') === 'true' ? { debug: { duplicate: of('duplicate'), ingested: of('booked') } } : {}) })
  },
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 413, too_large: 413, concurrent: 409 }[why]),
  ask: searched,
}

function problem(status: number): Answer {
  return json(status, { status, title: canary, detail: canary, type: 'about:blank' })
}

function received(event: Event): Received {
  const { event_name: code, idempotency_key: id, customer_id: theirs, external_customer_id: ours, properties } = event
  const value = properties['value']
  const flat = Object.values(properties).every((each) => ['string', 'number', 'boolean'].includes(typeof each))
  return {
    key: id, id, code, customer: theirs ?? ours ?? '', timeMs: Date.parse(event.timestamp), value: typeof value === 'number' || typeof value === 'string' ? String(value) : '0',
    bad: (theirs === undefined) === (ours === undefined) ? 'exactly one customer' : flat ? null : 'properties have to be flat',
  }
}

function searched({ path, text }: Call, books: Books): Answer | null {
  if (path !== '/v1/events/search') return null
  const { event_ids: ids, timeframe_start: from, timeframe_end: until } = JSON.parse(text) as { event_ids: string[]; timeframe_start: string; timeframe_end: string }
  const data = ids.flatMap((id) => books.of(id)).filter(({ received: { timeMs } }) => timeMs >= Date.parse(from) && timeMs < Date.parse(until))
    .flatMap(({ received: each, copies }) => Array.from({ length: copies }, () => ({ id: each.id, event_name: each.code, external_customer_id: each.customer, customer_id: null, timestamp: new Date(each.timeMs).toISOString(), properties: { value: each.value }, deprecated: false })))
  return json(200, { data })
}
