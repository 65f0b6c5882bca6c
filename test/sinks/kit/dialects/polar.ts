import { polar } from '../../../../src/sinks/polar.ts'
import { shifted } from '../../../../src/sinks/decimal.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'
import type { Booking, Books, Received } from '../books.ts'
import { eventsIn } from './shapes.ts'

const token = 'polar-test-token'
const prefix = 'our-slug'

interface Event {
  readonly name: string
  readonly external_customer_id: string
  readonly external_id: string
  readonly timestamp: string
  readonly metadata: Readonly<Record<string, unknown>>
}

const problem = (status: number): Answer => json(status, { detail: canary })

export const polarDialect: Dialect = {
  name: 'polar',
  kind: polar,
  duplicates: 'silent',
  settings: (url, right) => ({ url, private: true, access_token: right ? token : 'polar-wrong-token', id_prefix: prefix }),
  authorized: ({ headers }) => headers.authorization === `Bearer ${token}`,
  read(call) {
    if (call.path !== '/v1/events/ingest') return problem(404)
    const events = eventsIn<Event>(call, 'events')
    return events === null ? problem(422) : events.map((event) => received(event, call.nowMs))
  },
  answer(fates) {
    const detail = fates.flatMap((fate, index) => fate.fate !== 'refused' ? [] : [{
      type: 'value_error', loc: ['body', 'events', index, 'EventCreateExternalCustomer', fate.reason], msg: canary, input: canary,
    }])
    if (detail.length > 0) return json(422, { detail })
    return json(200, { inserted: fates.filter(({ fate }) => fate === 'booked').length, duplicates: fates.filter(({ fate }) => fate === 'duplicate').length })
  },
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 422, too_large: 413, concurrent: 409 }[why]),
  ask: (call, books) => (call.path === '/v1/events/' ? json(200, listed(call, books)) : null),
}

function received({ name: code, external_customer_id: customer, external_id, timestamp, metadata }: Event, nowMs: number): Received {
  const texts = Object.values(metadata).filter((value) => typeof value === 'string')
  const tooMuch = Object.keys(metadata).length > 50 || Object.keys(metadata).some((key) => key.length > 40) || texts.some((text) => text.length > 500)
  const cost = metadata['_cost'] as { amount: string } | undefined
  const value = cost === undefined ? String(metadata['value']) : shifted(cost.amount, -2)
  return {
    key: external_id, id: external_id.replace(`${prefix}:`, ''), code, customer, timeMs: Date.parse(timestamp), value,
    bad: Date.parse(timestamp) > nowMs ? 'timestamp' : tooMuch || !external_id.startsWith(`${prefix}:`) || !/^-?[\d.]+$/.test(value) ? 'metadata' : null,
  }
}

function listed({ query }: Call, books: Books): object {
  const [limit, page] = [Number(query.get('limit')), Number(query.get('page'))]
  const found = books.bookings({
    code: query.get('name') ?? '', customer: query.get('external_customer_id') ?? '', fromMs: Date.parse(query.get('start_timestamp') ?? ''), untilMs: Date.parse(query.get('end_timestamp') ?? ''),
  }).flatMap((booking) => Array.from({ length: booking.copies }, () => item(booking)))
  return { items: found.slice((page - 1) * limit, page * limit), pagination: { total_count: found.length, max_page: Math.ceil(found.length / limit) } }
}

function item({ received }: Booking): object {
  const money = received.code === 'llm_cost'
  return {
    name: received.code, external_customer_id: received.customer, external_id: received.key, timestamp: new Date(received.timeMs).toISOString(),
    metadata: money ? { _cost: { amount: shifted(received.value, 2), currency: 'usd' } } : { value: Number(received.value) },
  }
}
