import { flexprice } from '../../../../src/sinks/flexprice.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'
import type { Books, Received } from '../books.ts'
import { eventsIn, numeric } from './shapes.ts'

const key = 'flexprice-test-key'

interface Event {
  readonly event_id: string
  readonly event_name: string
  readonly external_customer_id: string
  readonly timestamp: string
  readonly properties: Readonly<Record<string, unknown>>
}

interface Query {
  readonly external_customer_id: string
  readonly event_name: string
  readonly event_id?: string
  readonly start_time: string
  readonly end_time: string
  readonly aggregation_type?: string
  readonly property_name?: string
}

const problem = (status: number): Answer => json(status, { success: false, error: { message: canary } })

export const flexpriceDialect: Dialect = {
  name: 'flexprice',
  kind: flexprice,
  duplicates: 'silent',
  settings: (url, right) => ({ url, private: true, api_key: right ? key : 'flexprice-wrong-key' }),
  authorized: ({ headers }) => headers['x-api-key'] === key,
  read(call) {
    if (call.path !== '/v1/events/bulk') return problem(404)
    const events = eventsIn<Event>(call, 'events')
    return events === null || events.length === 0 ? problem(400) : events.map(received)
  },
  answer: (fates) => (fates.some(({ fate }) => fate === 'refused') ? problem(400) : json(202, { message: 'Events accepted for processing' })),
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 400, too_large: 413, concurrent: 409 }[why]),
  aside: /^\/v1\/events\/(query|usage)$/,
  ask: (call, books) => json(200, call.path.endsWith('/usage') ? usage(call, books) : found(call, books)),
}

function received({ event_id: id, event_name: code, external_customer_id: customer, timestamp, properties }: Event): Received {
  const value = properties['value']
  const good = [id, code, customer].every((text) => text !== '') && typeof value === 'string' && numeric.test(value)
  return { key: `${id} ${timestamp}`, id, code, customer, timeMs: Date.parse(timestamp), value: typeof value === 'string' ? value : '0', bad: good ? null : 'required' }
}

function usage(call: Call, books: Books): object {
  const { external_customer_id: customer, event_name: code, start_time, end_time, aggregation_type, property_name } = JSON.parse(call.text) as Query
  const sums = aggregation_type === 'SUM' && property_name === 'value'
  return { event_name: code, type: aggregation_type, value: sums ? Number(books.total({ code, customer, fromMs: Date.parse(start_time), untilMs: Date.parse(end_time) })) : undefined }
}

function found(call: Call, books: Books): object {
  const { external_customer_id: customer, event_name: code, event_id, start_time, end_time } = JSON.parse(call.text) as Query
  const bookings = books.bookings({ code, customer, fromMs: Date.parse(start_time), untilMs: Date.parse(end_time) }).filter(({ received }) => event_id === undefined || received.id === event_id)
  return {
    events: bookings.map(({ received }) => ({ id: received.id, external_customer_id: customer, event_name: code, timestamp: new Date(received.timeMs).toISOString(), properties: { value: received.value } })),
    has_more: false,
  }
}
