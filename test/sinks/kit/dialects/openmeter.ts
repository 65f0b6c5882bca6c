import { openmeter } from '../../../../src/sinks/openmeter.ts'
import type { Books, Received } from '../books.ts'
import { canary, json, type Answer, type Call, type Dialect, type Why } from '../dialect.ts'

const key = 'om_test-key'

/** An event as OpenMeter takes it; `source` is kept beside it, because it is part of the key. */
interface Event {
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject: string
  readonly time?: string
  readonly data?: Readonly<Record<string, unknown>>
}

export const openmeterV1 = dialect('openmeter v1', 1, '')
export const openmeterV3 = dialect('openmeter v3', 3, '/api/v3')

function dialect(name: string, version: 1 | 3, base: string): Dialect {
  const events = version === 3 ? `${base}/openmeter/events` : '/api/v1/events'
  return {
    name,
    kind: openmeter,
    duplicates: 'silent',
    settings: (url, right) => ({
      url: `${url}${base}`, private: true, token: right ? key : 'om_wrong-key', source: 'tallygate', deduplication: 86_400_000, meter_slugs: { prompt: 'tokens_total' },
    }),
    authorized: ({ headers }) => headers.authorization === `Bearer ${key}`,
    read(call) {
      if (call.path !== events) return problem(404)
      // The v1 API compares the header as it came.
      if (call.headers['content-type'] !== 'application/cloudevents-batch+json') return problem(400)
      let list: unknown
      try {
        list = JSON.parse(call.text)
      } catch {
        return problem(400)
      }
      return Array.isArray(list) ? (list as Event[]).map((event) => received(event, call.nowMs)) : problem(400)
    },
    answer: () => ({ status: version === 3 ? 202 : 204, body: '' }),
    refusal: (why) => problem(({ unauthorized: 401, busy: 429, broken: 500, too_many: 413, too_large: 413, concurrent: 409 } satisfies Record<Why, number>)[why]),
    ask(call, books) {
      if (call.path === events) return version === 3 ? json(200, { data: listed(books, call.query.get('filter[id][eq]') ?? '', 'validation_errors') }) : json(200, listed(books, call.query.get('id') ?? '', 'validationError'))
      return version === 1 && call.path === '/api/v1/meters/tokens_total/query' ? total(call, books) : null
    },
  }
}

function problem(status: number): Answer {
  return { status, headers: { 'content-type': 'application/problem+json' }, body: JSON.stringify({ type: 'about:blank', title: canary, status, detail: canary }) }
}

function received(event: Event, nowMs: number): Received {
  const { id, source, type, subject, time, data = {} } = event
  const value = data['tokens']
  const numeric = typeof value === 'number' || (typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value))
  return {
    key: `${source} ${id}`, id, code: type, customer: subject, timeMs: Math.floor((time === undefined ? nowMs : Date.parse(time)) / 1_000) * 1_000,
    value: numeric ? String(value) : '0', bad: numeric ? null : 'invalid event',
  }
}

/** The v1 API finds parts of an id. */
function listed(books: Books, id: string, problems: 'validationError' | 'validation_errors'): object[] {
  return books.bookings().filter(({ received }) => received.id.includes(id)).flatMap(({ received, copies, rejected }) => Array.from({ length: Math.max(copies, 1) }, () => ({
    event: { specversion: '1.0', id: received.id, source: received.key.split(' ')[0], type: received.code, subject: received.customer, time: new Date(received.timeMs).toISOString() },
    ...(rejected === null ? {} : problems === 'validationError' ? { validationError: rejected } : { validation_errors: [{ code: rejected, message: canary }] }),
  })))
}

function total({ query }: Call, books: Books): Answer {
  const value = Number(books.total({ code: 'prompt', customer: query.get('subject') ?? '', fromMs: Date.parse(query.get('from') ?? ''), untilMs: Date.parse(query.get('to') ?? '') }))
  return json(200, { from: query.get('from'), to: query.get('to'), data: value === 0 ? [] : [{ value, subject: query.get('subject') }] })
}
