import { anything, either, flag, instant, list, mapOf, number, object, oneOf, orNull, text, whole } from './answer-shape.ts'
import type { AnswerShape } from './answer-shape.ts'
import { DIMENSIONS, REFUSAL_DIMENSIONS, UNITS } from '../analytics/rollups.ts'
import { summed } from './usage-report.ts'

/** What the routes answer. An open object is one whose fields another document fixes: the events' the CloudEvent, the audit's the change. */

const moment = orNull(instant)
const word = orNull(text)
const texts = list(text)
const open: AnswerShape = { type: 'object', properties: {} }
/** Exact, as decimal text. */
const money = text

// ---------------------------------------------------------------------------------------------------------------- gateway and store

export const health = object({ status: oneOf('ok', 'draining', 'not_admitting'), reason: word })

const reload = { ok: flag, at: instant, problems: texts }
export const reloaded = object({ ...reload, version: text })
export const configInUse = object({
  version: text, instance: text, files: texts, plans: whole, accounts: whole, accounts_in_store: whole, keys: whole, keys_in_store: whole,
  upstreams: list(object({ name: text, providers: texts })), sinks: list(object({ name: text, type: text })), started_at: moment, last_reload: orNull(object(reload)),
})

/** Of whoever asks; all null: he has not shown who he is. `machine`: he is on this machine, and no token is configured. */
export const session = object({ name: word, role: orNull(oneOf('admin', 'viewer')), by: orNull(oneOf('token', 'session', 'machine')) })

export const store = object({
  kind: oneOf('memory', 'embedded', 'redis'), admitting: flag, reason: word, format: orNull(whole), epoch: word, partitions: orNull(whole), reservations: orNull(whole), undelivered: whole, quarantined: whole,
  servers: list(object({ address: text, product: text, version: word, memory_bytes: orNull(whole), memory_max_bytes: orNull(whole) })), losses: texts,
  sinks: list(object({ name: text, waiting: whole, oldest_at: moment, dead: whole, missed: whole, missed_at: moment })),
  missed_before: list(object({ name: text, missed: whole, missed_at: moment })), spool: orNull(object({ directory: text, settlements: orNull(whole), bytes: orNull(whole) })),
}, { directory: text, synchronous: oneOf('full', 'normal'), url: text, prefix: text })

// ---------------------------------------------------------------------------------------------------------------- keys and accounts

export const key = object({
  id: text, account: text, plan: word, state: oneOf('active', 'revoked', 'expired', 'suspended', 'not_started', 'ended', 'orphaned', 'hidden'), where: text, expires_at: moment, created_at: moment,
  created_by: word, revoked_at: moment, revoked_by: word, revoked_reason: word, rotated_at: moment, grace_until: moment,
})
export const keys = object({ keys: list(key) })
export const keyMade = object({ id: text, secret: word, key: orNull(key) }, { told: text })
export const keyRotated = object({ id: text, secret: word, grace_until: instant, where: text }, { told: text })
export const keyRevoked = object({ id: text, state: oneOf('revoked'), where: text })
/** A revocation may be of a key that is there no more. */
export const keyRestored = either(key, object({ id: text }))

const accountFields = {
  id: text, plan: word, parent: word, where: text, revision: orNull(whole), unused_because: word, keys: whole, suspended: flag, suspended_in: list(oneOf('config', 'store')), suspended_parent: word,
  suspended_at: moment, suspended_by: word, suspended_reason: word, timezone: text, billing_anchor: text, add_ons: texts,
  subscription: orNull(oneOf('pending', 'trial', 'active', 'grace', 'ended', 'suspended')),
}
const limit = object({
  name: text, meter: text, limit: orNull(number), window: word, per: oneOf('account', 'key', 'end_user'), each: orNull(oneOf('model')), for: object({ models: orNull(texts), endpoints: orNull(texts) }),
  mode: oneOf('enforce', 'shadow'), visible: flag, overdraft: either(text, number),
}, { seats: object({ holder: oneOf('key', 'end_user'), linger_ms: whole, by_subscription: flag }) })
/** How a limit stands now, in the unit of its meter. */
const standing = object({
  name: text, meter: text, window: word, per: text, limit: orNull(number), used: number, reserved: number, remaining: orNull(number), resets_at: moment, forecast_at: moment, mode: oneOf('enforce', 'shadow'), visible: flag,
})
export const accounts = object({
  total: whole, offset: whole, limit: orNull(whole),
  accounts: list(object(accountFields, { forecast_at: moment, limits_now: list(standing), usage_30d: object({ requests: whole, total_tokens: whole, cost: mapOf(money), refused: whole }) })),
})
export const account = object({
  ...accountFields, forecast_at: moment,
  standing: orNull(object({
    as_of: instant, limits: list(standing),
    grants: list(object({ id: text, limit: text, meter: text, amount: number, used: number, remaining: number, effective_at: moment, expires_at: moment, source: text })),
  })),
  keys: list(key), labels: mapOf(text), limits: list(limit),
  terms: orNull(object({ plan: word, parent: word, timezone: word, anchor: word, labels: mapOf(text), add_ons: texts, limits: list(anything), entitlements: open })), created_at: moment, created_by: word,
})
export const accountRemoved = object({ id: text, removed: flag })
export const accountSuspended = object({ id: text, state: oneOf('suspended') })
export const accountResumed = object({ id: text, state: oneOf('active', 'suspended'), suspended_in: texts })
export const plans = object({ plans: list(object({
  name: text, version: whole, proration: oneOf('none', 'by_day'), public: flag,
  entitlements: object({
    models: texts, endpoints: orNull(texts), max_output_tokens: orNull(whole), max_context_tokens: orNull(whole), priority: orNull(whole), features: texts, deny_features: texts,
  }),
  limits: list(limit),
  policy: object({
    reserve: text, output_default: whole, on_insufficient: text, clamp_floor: whole, on_disconnect: text, count_failed: flag, store_down: oneOf('deny', 'allow', 'allow_up_to'), wait_ms: whole,
  }),
  prices: orNull(object({ currency: text, version: word })),
})) })
export const audit = object({ changes: list(object({ at: instant, who: text, action: text, target: text, details: open })) })

// ---------------------------------------------------------------------------------------------------------------- subscriptions and grants

const proration = oneOf('none', 'by_day')
export const subscription = object({
  account: text, kind: oneOf('perpetual', 'term', 'trial'), state: oneOf('pending', 'trial', 'active', 'grace', 'ended', 'suspended', 'hidden'), since: moment, until: moment,
  term: orNull(object({ start: instant, end: moment })), start: instant, trial_end: moment, end: moment, grace_ms: whole, renewal: oneOf('auto', 'none'), term_length: word, timezone: text,
  seats: orNull(whole), suspended: orNull(object({ from: instant, until: moment })), plans: list(object({ plan: text, version: whole, from: moment, proration })), add_ons: texts,
  next_announcement: orNull(object({ what: oneOf('trial', 'subscription', 'grace'), days_ahead: whole, at: instant })), where: text, revision: orNull(whole),
})
export const subscriptions = object({ subscriptions: list(subscription) })
export const subscriptionRemoved = object({ account: text, removed: flag })

export const grant = object({
  account: text, id: text, limit: text, meter: text, amount: number, used: orNull(number), remaining: orNull(number), priority: whole, effective_at: moment, expires_at: moment, created_at: moment,
  created_by: word, source: text, note: word, revoked_at: moment, state: text, where: text,
})
export const grants = object({ grants: list(grant) })
export const grantRevoked = object({ account: text, id: text, revoked_at: moment })
export const breakage = object({ breakage: list(object({ account: text, grant: text, limit: text, meter: text, amount: number, left: number, expired_at: instant })) })

// ---------------------------------------------------------------------------------------------------------------- events, usage, money

const cloudEvent = object({ specversion: oneOf('1.0'), type: text, source: text, id: text, subject: text, time: instant, datacontenttype: oneOf('application/json'), data: open })
export const events = object({ events: list(object({ position: text, event: cloudEvent })), next: word })
export const eventsOfCall = object({ events: list(cloudEvent) })
export const deadEvents = object({ total: whole, dead: list(object({ sink: text, position: text, reason: text, buried_at: instant, event: cloudEvent })) })
export const retried = object({ delivered: whole, failed: whole })
export const replayed = object({ sink: text, since: instant, events: whole, archived: whole })
const sinkStates = ['starting', 'running', 'waiting', 'paused', 'elsewhere', 'replaying', 'not open', 'stopped'] as const
export const sinks = object({ sinks: list(object({
  name: text, type: text, contract: oneOf('verified', 'experimental'), reads_back: flag, rollup: orNull(anything), state: oneOf(...sinkStates), reason: word, next_try_at: moment, last_delivery_at: moment,
  waiting: whole, oldest_at: moment, dead: whole, quarantined: whole,
})) })
export const sinkRetried = object({ sink: text, result: oneOf('trying', 'running', 'elsewhere', 'replaying') })
export const withheld = object({ quarantined: list(object({
  sink: text, of: text, why: oneOf('ambiguous', 'refused'), reason: text, sent_at: moment, quarantined_at: instant, records: list(open),
})) })
export const released = object({ released: whole, failed: whole })
export const credited = object({ sink: text, id: text, result: oneOf('sent', 'nothing') })
export const reconciliation = object({
  sink: text, type: text, from: instant, until: instant, asked: oneOf('totals', 'records', 'totals and records', 'nothing'),
  rows: list(object({
    accounts: texts, customer: word, code: text, records: whole, ours: text, theirs: word, difference: word, late: text, refused: text, quarantined: text, missing: text, doubled: text, unexplained: text,
  })),
  differences: list(object({
    why: text, record: word, event: word, account: word, customer: word, code: text, from: instant, until: instant, records: whole, amount: text, reason: text, compensation: open, outcome: word,
  })),
  unmapped: whole, unexplained: whole, notes: texts,
})
/** The rows' texts are in the order of the columns. */
export const focus = object({ from: instant, to: instant, columns: texts, rows: list(list(word)), events: whole, unpriced: whole })
export const notices = object({ notices: list(cloudEvent), more: whole })

const usageRow: AnswerShape = {
  type: 'object', required: ['events', 'cost', 'shadow', ...summed],
  properties: { events: whole, cost: mapOf(money), shadow: mapOf(whole), ...Object.fromEntries(summed.map((name) => [name, number])) },
}
export const usage = object({ from: instant, to: instant, counted_from: oneOf('events', 'rollups'), events: whole, rows: list(usageRow) })

// ---------------------------------------------------------------------------------------------------------------- analytics

const unit = oneOf(...UNITS)
const span = { unit, from: instant, to: instant }
export const analytics = object({
  state: oneOf('current', 'behind', 'rebuilding', 'failing', 'off'), behind: orNull(whole), complete_until: moment, kept: orNull(object(Object.fromEntries(UNITS.map((each) => [each, text])))),
  rebuild: orNull(object({ started_at: instant, archived: whole })), missed: whole,
}, { failure: word, archived: whole })
export const rolledUsage = object({
  ...span, complete_until: moment, by: list(oneOf(...DIMENSIONS)), series: flag, truncated: flag,
  rows: list(object({
    events: whole, requests: whole, input_tokens: whole, cached_input_tokens: whole, cache_write_tokens: whole, output_tokens: whole, reasoning_tokens: whole, total_tokens: whole, compute_ms: whole,
    bytes_in: whole, bytes_out: whole, audio_seconds: number, images: whole, cost: mapOf(money), refused: orNull(whole),
    p50_ms: orNull(number), p95_ms: orNull(number), p99_ms: orNull(number), ttft_p50_ms: orNull(number), ttft_p95_ms: orNull(number), tokens_per_second: orNull(number),
  }, { from: instant, ...Object.fromEntries(DIMENSIONS.map((name) => [name, text])) })),
})
export const rolledRefusals = object({
  ...span, by: list(oneOf(...REFUSAL_DIMENSIONS)), series: flag, truncated: flag,
  rows: list(object({ refused: whole }, { from: instant, ...Object.fromEntries(REFUSAL_DIMENSIONS.map((name) => [name, text])) })),
})
export const refusals = object({ refusals: list(object({
  at: instant, request_id: text, account: text, key: text, limit: word, reason: text, model: word, ceiling: orNull(number), used: orNull(number), remaining: orNull(number), resets_at: moment,
})) })
/** Of each event. */
export const live = object({
  at: instant, requests_per_second: number, tokens_per_second: number, cost_per_second: mapOf(money), errors_per_second: number, refused_per_second: number, open: whole, streams: whole, refusals: mapOf(whole),
  sinks: list(object({ name: text, lag: whole, dead: whole })), analytics_lag: orNull(whole),
})

const invoiceLine = object({ kind: text, amount: money }, {
  plan: text, price_version: text, model: text, price: text, by: text, quantity: text, unit_price: text, calls: whole, days: whole, of_days: whole,
})
const invoiceFields = {
  account: text, period: object({ start: instant, end: instant, timezone: text }), events: whole, corrections: whole, unpriced_events: whole,
  currencies: list(object({ currency: text, usage: money, adjustments: money, total: money, lines: list(invoiceLine) })),
}
export const invoice = object({ ...invoiceFields, as_of: instant, known_since: moment }, { children: list(object(invoiceFields)), family: list(object({ currency: text, total: money })) })

const draws = list(object({ bucket: text, amount: number }))
const price = object({
  plan: word, currency: word, price_version: word, in_force_from: moment, model: word, rate: orNull(texts),
  parts: list(object({ counted: text, price: text, quantity: text, unit_price: money, amount: money })), sum: word, cost: word, note: word,
})
const callExplanation = object({
  id: text, state: oneOf('in_flight', 'settled', 'expired'), admitted_at: instant, settled_at: moment, account: text, key: text, plan: text, plan_version: whole, endpoint: text, model: word,
  model_served: word, provider: text, upstream: text, stream: flag, features: texts, status: orNull(whole), end: word, usage_source: word, bound: orNull(open), output_bound: word, expires_at: moment,
  limits: list(object({
    name: text, of: text, per: oneOf('account', 'key', 'end_user'), meter: text, window: word, from: moment, until: moment, limit: orNull(number), mode: oneOf('enforce', 'shadow'),
    held: orNull(number), used: orNull(number), buckets: list(object({ bucket: text, of: orNull(number), drawn: number })),
  })),
  other_draws: draws, overruns: draws, shadow: texts, usage: mapOf(number), price: orNull(price),
  corrections: list(object({ id: text, settled_at: text, usage: mapOf(number), drawn: draws, price })), notes: texts,
})
const refusalExplanation = object({
  id: text, state: oneOf('refused'), refused_at: instant, account: text, key: text, model: word, reason: text, limit: word, ceiling: orNull(number), used: orNull(number), remaining: orNull(number), resets_at: moment,
})
export const explanation = either(callExplanation, refusalExplanation)

export const simulationState = object({ state: mapOf(list(object({ id: text, value: open }))) })
