import { lago } from '../../../../src/sinks/lago.ts'
import type { Books, Received } from '../books.ts'
import { canary, json, type Answer, type Call, type Dialect, type Fate } from '../dialect.ts'

const key = 'lago-test-key'
const batch = '/api/v1/events/batch'

interface Event {
  readonly transaction_id: string
  readonly external_subscription_id: string
  readonly code: string
  readonly timestamp?: string | number
  readonly properties?: Readonly<Record<string, unknown>>
}

export const lagoPostgres = dialect('postgres')
export const lagoClickhouse = dialect('clickhouse')

function dialect(store: 'postgres' | 'clickhouse'): Dialect {
  return {
    name: `lago on ${store}`,
    kind: lago,
    duplicates: store === 'postgres' ? 'refused' : 'overwrites',
    settings: (url, right) => ({ url: `${url}/api/v1`, private: true, api_key: right ? key : 'lago-wrong-key', store }),
    authorized: ({ headers }) => headers.authorization?.split(/\s+/)[1] === key,
    read(call) {
      if (call.path !== batch) return error(404, 'not_found')
      const events = eventsOf(call)
      return events === null ? json(400, { status: 400, error: `BadRequest: param is missing ${canary}` }) : events.map((event) => received(event, store, call.nowMs))
    },
    answer(fates, call) {
      const details = Object.fromEntries(fates.flatMap((fate, place) => fate.fate === 'refused' || (fate.fate === 'duplicate' && store === 'postgres') ? [[place, problemsOf(fate)]] : []))
      return Object.keys(details).length > 0 ? error(422, 'validation_errors', details) : json(200, { events: (eventsOf(call) ?? []).map((event) => ({ lago_id: event.transaction_id, lago_customer_id: null, lago_subscription_id: null, ...event })) })
    },
    refusal(why) {
      if (why === 'too_many') return error(422, 'validation_errors', { events: ['too_many_events'] })
      return error({ unauthorized: 401, busy: 429, broken: 500, too_large: 413, concurrent: 409 }[why], canary)
    },
    ask: asked,
  }
}

function eventsOf(call: Call): readonly Event[] | null {
  try {
    const { events } = JSON.parse(call.text) as { events?: unknown }
    return Array.isArray(events) ? events as Event[] : null
  } catch {
    return null
  }
}

function error(status: number, code: string, details?: object): Answer {
  return json(status, { status, error: canary, code, ...(details === undefined ? {} : { error_details: details }) })
}

function problemsOf(fate: Fate): object {
  return fate.fate === 'refused' ? { properties: [fate.reason] } : { transaction_id: ['value_already_exist'] }
}

function received(event: Event, store: 'postgres' | 'clickhouse', nowMs: number): Received {
  const { transaction_id: id, external_subscription_id: customer, code, timestamp, properties = {} } = event
  const good = timestamp === undefined || /^\d+(\.\d+)?$/.test(String(timestamp))
  const timeMs = timestamp === undefined || !good ? nowMs : Math.round(Number(timestamp) * 1_000)
  return {
    key: store === 'postgres' ? `${customer} ${id}` : `${code} ${customer} ${timeMs} ${id}`, id, code, customer, timeMs, value: String(properties['value']),
    bad: good ? (id === '' || code === '' ? 'value_is_mandatory' : null) : 'invalid_format',
  }
}

const listed = ({ received }: ReturnType<Books['bookings']>[number]): object =>
  ({ lago_id: received.key, transaction_id: received.id, external_subscription_id: received.customer, code: received.code, timestamp: new Date(received.timeMs).toISOString(), properties: { value: received.value } })

/** `GET /events/ID`, and `GET /events?…` in pages; what was refused later is listed as well. */
function asked(call: Call, books: Books): Answer | null {
  const id = /^\/api\/v1\/events\/(.+)$/.exec(call.path)?.[1]
  if (id !== undefined) {
    const [first] = books.of(decodeURIComponent(id))
    return first === undefined ? error(404, 'event_not_found') : json(200, { event: listed(first) })
  }
  if (call.path !== '/api/v1/events') return null
  const { query } = call
  const page = Number(query.get('page') ?? 1)
  const perPage = Math.min(Number(query.get('per_page') ?? 100), 2)
  // Those that count more than once were told under ids of Lago's own.
  const all = books.bookings({ code: query.get('code') ?? '', customer: query.get('external_subscription_id') ?? '', fromMs: Date.parse(query.get('timestamp_from') ?? ''), untilMs: Date.parse(query.get('timestamp_to') ?? '') + 1 }).flatMap((booking) => Array.from({ length: Math.max(1, booking.copies) }, () => booking))
  const last = Math.max(1, Math.ceil(all.length / perPage))
  return json(200, { events: all.slice((page - 1) * perPage, page * perPage).map(listed), meta: { current_page: page, next_page: page < last ? page + 1 : null, total_pages: last, total_count: all.length } })
}
