import { metronome } from '../../../../src/sinks/metronome.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'
import type { Books, Received } from '../books.ts'
import { eventsIn, numeric } from './shapes.ts'

const key = 'metronome-test-key'

interface Event {
  readonly transaction_id: string
  readonly customer_id: string
  readonly event_type: string
  readonly timestamp: string
  readonly properties: Readonly<Record<string, unknown>>
}

const problem = (status: number): Answer => json(status, { message: canary })

export const metronomeDialect: Dialect = {
  name: 'metronome',
  kind: metronome,
  duplicates: 'silent',
  mute: true,
  settings: (url, right) => ({ url, private: true, api_key: right ? key : 'metronome-wrong-key' }),
  authorized: ({ headers }) => headers.authorization === `Bearer ${key}`,
  read(call) {
    if (call.path !== '/v1/ingest') return problem(404)
    const events = eventsIn<Event>(call)
    return events === null ? problem(400) : events.map(received)
  },
  // Nothing at all.
  answer: () => ({ status: 200, body: '' }),
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 400, too_large: 413, concurrent: 409 }[why]),
  aside: /^\/v1\/events\/search$/,
  ask: (call, books) => (call.path === '/v1/events/search' ? json(200, search(call, books)) : null),
}

function received({ transaction_id: id, customer_id: customer, event_type: code, timestamp, properties }: Event): Received {
  const value = properties['value']
  // What is no text is taken, too, but loses digits: the sink must not rely on it.
  const good = typeof value === 'string' && numeric.test(value) && Object.values(properties).every((each) => typeof each === 'string')
  return { key: id, id, code, customer, timeMs: Date.parse(timestamp), value: good ? value : '0', bad: good ? null : 'not_a_text' }
}

function search(call: Call, books: Books): object[] {
  const { transactionIds } = JSON.parse(call.text) as { transactionIds: string[] }
  return transactionIds.flatMap((id) => books.of(id)).flatMap(({ received, copies, rejected }) => Array.from({ length: Math.max(1, copies) }, (_, index) => ({
    id: `${received.id}-${index}`, transaction_id: received.id, customer_id: received.customer, event_type: received.code, timestamp: new Date(received.timeMs).toISOString(), is_duplicate: false,
    properties: { value: received.value }, processed_at: new Date(call.nowMs).toISOString(),
    ...(rejected === 'customer_unknown' ? {} : { matched_customer: { id: 'c1', name: canary } }), matched_billable_metrics: rejected === null ? [{ id: 'm1', name: canary }] : [],
  })))
}
