import { stripe } from '../../../../src/sinks/stripe.ts'
import type { Books, Received } from '../books.ts'
import { canary, json, type Answer, type Call, type Dialect, type Fate, type Why } from '../dialect.ts'

const key = 'sk_test_right'
const session = 'session-token'
const meter = 'mtr_test_tokens'

interface Event {
  readonly event_name: string
  readonly identifier: string
  readonly timestamp: string
  readonly payload: Readonly<Record<string, string>>
}

export const stripeV1 = single('v1')
export const stripeV2 = single('v2')

/** Answers copies of v1 in its other spelling: without a code. */
export const stripeV1WithoutCodes = single('v1', 'v1 without codes')

function settings(mode: 'v1' | 'v2' | 'stream') {
  return (url: string, right: boolean): Readonly<Record<string, unknown>> =>
    ({ url, stream_url: url, private: true, api_key: right ? key : 'sk_test_wrong', mode, version: '2024-09-30.acacia', customer_property: 'stripe_customer_id' })
}

function single(mode: 'v1' | 'v2', about: string = mode): Dialect {
  return {
    name: `stripe ${about}`,
    kind: stripe,
    duplicates: 'refused',
    settings: settings(mode),
    authorized: ({ headers }) => headers.authorization === `Bearer ${key}`,
    read(call) {
      if (call.path !== `/${mode}/billing/meter_events`) return error(404, 'Unrecognized request URL')
      const type = mode === 'v1' ? 'application/x-www-form-urlencoded' : 'application/json'
      if (call.headers['content-type'] !== type) return error(400, 'content type')
      if (mode === 'v2' && call.headers['stripe-version'] === undefined) return error(400, 'version')
      return [received(mode === 'v1' ? ofForm(call) : JSON.parse(call.text) as Event)]
    },
    answer([fate]) {
      if (fate === undefined) return error(400, 'nothing')
      const { id, code, customer, value, timeMs } = fate.received
      if (fate.fate === 'duplicate') return copy(mode, about === mode, id)
      if (fate.fate === 'refused') return error(400, 'invalid', fate.reason)
      const payload = { stripe_customer_id: customer, value }
      return mode === 'v1'
        ? json(200, { object: 'billing.meter_event', created: 1, event_name: code, identifier: id, livemode: false, payload, timestamp: timeMs / 1_000 })
        : json(200, { object: 'v2.billing.meter_event', created: '2026-08-21T10:00:00.000Z', event_name: code, identifier: id, livemode: false, payload, timestamp: new Date(timeMs).toISOString() })
    },
    refusal,
    ask: asked,
  }
}

/** A session is good for three deliveries, then it has expired. */
export const stripeStream: Dialect = {
  name: 'stripe stream',
  kind: stripe,
  duplicates: 'silent',
  settings: settings('stream'),
  authorized: ({ headers, path }) => path.endsWith('/meter_event_stream') ? headers.authorization?.startsWith(`Bearer ${session}`) === true : headers.authorization === `Bearer ${key}`,
  aside: /meter_event_session$/,
  read(call) {
    if (call.path !== '/v2/billing/meter_event_stream') return error(404, 'path')
    const token = call.headers.authorization ?? ''
    const used = (uses.get(token) ?? 0) + 1
    uses.set(token, used)
    if (used > 3) return error(401, 'expired', 'billing_meter_event_session_expired')
    return (JSON.parse(call.text) as { events: Event[] }).events.map(received)
  },
  answer: (_fates: readonly Fate[]) => json(200, {}),
  refusal,
  ask: (call, books) => call.path === '/v2/billing/meter_event_session'
    ? json(200, { object: 'v2.billing.meter_event_session', id: 'mes_1', authentication_token: `${session}-${++sessions}`, expires_at: new Date(call.nowMs + 900_000).toISOString(), livemode: false })
    : asked(call, books),
}
const uses = new Map<string, number>()
let sessions = 0

function refusal(why: Why): Answer {
  return error({ unauthorized: 401, busy: 429, broken: 500, too_many: 400, too_large: 413, concurrent: 409 }[why], 'refused')
}

function error(status: number, about: string, code?: string): Answer {
  return json(status, { error: { type: 'invalid_request_error', message: `${about} ${canary}`, ...(code === undefined ? {} : { code }) } })
}

function copy(mode: 'v1' | 'v2', withCode: boolean, id: string): Answer {
  const message = mode === 'v1' ? `An event already exists with identifier ${id}.` : 'A meter event with a duplicate identifier has already been submitted.'
  return json(400, { error: { type: 'invalid_request_error', message, ...(withCode ? { code: 'duplicate_meter_event' } : {}) } }, { 'stripe-should-retry': 'false' })
}

function ofForm(call: Call): Event {
  const form = new URLSearchParams(call.text)
  const payload = Object.fromEntries([...form].flatMap(([name, value]) => {
    const inside = /^payload\[(.+)\]$/.exec(name)?.[1]
    return inside === undefined ? [] : [[inside, value]]
  }))
  return { event_name: form.get('event_name') ?? '', identifier: form.get('identifier') ?? '', timestamp: new Date(Number(form.get('timestamp')) * 1_000).toISOString(), payload }
}

function received({ event_name: code, identifier: id, timestamp, payload }: Event): Received {
  const texts = Object.values(payload).every((value) => typeof value === 'string')
  return {
    key: id, id, code, customer: payload['stripe_customer_id'] ?? '', timeMs: Date.parse(timestamp), value: payload['value'] ?? '',
    bad: id.length > 100 || id === '' ? 'invalid_identifier' : texts ? null : 'payload_not_text',
  }
}

/** One meter, of token billing, and what it adds up; the list of meters in pages of one. */
function asked({ path, query }: Call, books: Books): Answer | null {
  if (path === '/v1/billing/meters') {
    const other = { object: 'billing.meter', id: 'mtr_other', event_name: 'other' }
    return json(200, query.get('starting_after') === null ? { data: [other], has_more: true } : { data: [{ ...other, id: meter, event_name: 'token-billing-tokens' }], has_more: false })
  }
  if (path !== `/v1/billing/meters/${meter}/event_summaries`) return null
  const [fromMs, untilMs] = [Number(query.get('start_time')) * 1_000, Number(query.get('end_time')) * 1_000]
  if (fromMs % 60_000 !== 0 || untilMs % 60_000 !== 0) return error(400, 'aligned')
  const total = Number(books.total({ code: 'token-billing-tokens', customer: query.get('customer') ?? '', fromMs, untilMs }))
  return json(200, { data: total === 0 ? [] : [{ object: 'billing.meter_event_summary', id: 'sum_1', meter, aggregated_value: total, start_time: fromMs / 1_000, end_time: untilMs / 1_000 }], has_more: false })
}
