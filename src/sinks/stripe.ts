import { baseUrl } from './base-url.ts'
import type { Clock } from '../clock.ts'
import { toInstant } from '../metering/event.ts'
import { decimalOf, sumOf } from './decimal.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer } from './http.ts'
import { DeliveryFailed, type DeliveryReport, type MeterMapping, type MeterRecord, type ReadBack, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'

interface Settings {
  readonly url: string
  readonly stream_url: string
  readonly private: boolean
  readonly api_key: string
  readonly mode: 'v1' | 'v2' | 'stream'
  readonly version: string
  readonly customer_property: string
}

type Asked = { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }

const minuteMs = 60_000
const dayMs = 86_400_000
/** Of identifiers and event names. */
const lengthMax = 100
/** The event of Stripe's token billing. */
const tokenBilling = 'token-billing-tokens'
/** A session is renewed this long before it ends. */
const marginMs = minuteMs

const v2: SinkContract = {
  verified: true, readsBack: true, batchMax: 1, bytesMax: null, ratePerSecond: 1_000, dedupWindowMs: dayMs, dedupKey: 'identifier', duplicateSignal: 'status', failureUnit: 'record',
  oldestMs: 35 * dayMs, newestMs: 5 * minuteMs, timePrecision: 'millisecond', values: 'integer', acknowledges: 'validated', corrections: 'negative',
  serialBy: 'customer_and_meter', inFlightMax: 32,
}
const v1: SinkContract = { ...v2, timePrecision: 'second', acknowledges: 'queued' }
const stream: SinkContract = {
  ...v2, batchMax: 100, ratePerSecond: 10_000, duplicateSignal: 'silent', failureUnit: 'async', acknowledges: 'queued', serialBy: 'none', inFlightMax: 8,
}
const contracts = { v1, v2, stream }

/**
 * Stripe's meter events. `v1` and `v2` take one a request and answer a copy with a 400, which is a delivery; only one request for a customer and meter may be under
 * way. `stream` takes a hundred under a session that lasts a quarter of an hour, and judges them later. An identifier is known for a day; after that an event
 * whose outcome is unknown is for `reconcile`.
 */
export const stripe: SinkKind = {
  type: 'stripe',
  takes: 'records',
  contract: v1,
  contractOf: (settings) => contracts[(settings as unknown as Settings).mode],
  customerDefault: 'none',
  settings: {
    url: { is: 'url', otherwise: 'https://api.stripe.com', about: 'Of the API. Default https://api.stripe.com.' },
    stream_url: { is: 'url', otherwise: 'https://meter-events.stripe.com', about: 'Of the stream. Default https://meter-events.stripe.com.' },
    api_key: { is: 'secret', about: 'Secret or restricted key that may write meter events, and read meters for reconcile.' },
    mode: { is: 'choice', among: ['v1', 'v2', 'stream'], otherwise: 'v1', about: 'v1 and v2: one event a request; stream: a hundred, judged later. Default v1.' },
    version: { is: 'text', otherwise: '2024-09-30.acacia', about: 'Stripe-Version. Default 2024-09-30.acacia, the first that has v2 meter events.' },
    customer_property: { is: 'text', otherwise: 'stripe_customer_id', about: 'The payload\'s key of the customer, as the meter\'s customer_mapping has it. Default stripe_customer_id.' },
  },
  meters: [
    tokens('input', 'input_tokens - cached_input_tokens - cache_write_tokens'), tokens('cached_input', 'cached_input_tokens'),
    tokens('cached_write', 'cache_write_tokens'), tokens('output', 'output_tokens'),
  ],
  open: async (_name, settings, around) => new Stripe(settings as unknown as Settings, new SinkHttp({ permitPrivate: settings['private'] === true, connections: 32 }, around), around.clock),
}

/** What is cached has a type of its own, because it has a price of its own. */
function tokens(type: string, quantity: string): MeterMapping {
  return { code: tokenBilling, quantity, valueProperty: 'value', copied: { model: 'model', model_served: 'model_served', provider: 'provider' }, fixed: { token_type: type } }
}

class Stripe implements Sink {
  readonly readBack: ReadBack
  readonly #settings: Settings
  readonly #url: string
  readonly #http: SinkHttp
  readonly #clock: Clock
  readonly #meters = new Map<string, string>()
  #session: Promise<Session> | null = null

  constructor(settings: Settings, http: SinkHttp, clock: Clock) {
    this.#settings = settings
    this.#url = baseUrl(settings.url)
    this.#http = http
    this.#clock = clock
    this.readBack = { total: (asked, signal) => this.#total(asked, signal) }
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const records = batch.flatMap((record) => record.is === 'meter' ? [record] : [])
    const refused = records.flatMap(({ id, code }) => id.length > lengthMax ? [{ id, reason: 'identifier_too_long' }] : code.length > lengthMax ? [{ id, reason: 'event_name_too_long' }] : [])
    const bad = new Set(refused.map(({ id }) => id))
    const good = records.filter(({ id }) => !bad.has(id))
    if (good.length === 0) return { accepted: [], refused }
    let duplicates = 0
    if (this.#settings.mode === 'stream') await this.#stream(good, signal)
    else for (const record of good) if (await this.#single(record, signal) === 'known') duplicates += 1
    return { accepted: good.map(({ id }) => id), refused, duplicates }
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  /** The contract has one record a batch here. */
  async #single(record: MeterRecord, signal: AbortSignal): Promise<'taken' | 'known'> {
    const first = this.#settings.mode === 'v1'
    const answer = await this.#http.send({
      url: `${this.#url}/${first ? 'v1' : 'v2'}/billing/meter_events`, headers: this.#headers(first ? 'application/x-www-form-urlencoded' : 'application/json'),
      body: first ? this.#form(record) : JSON.stringify(this.#event(record)),
    }, signal)
    if (answer.status >= 200 && answer.status < 300) {
      if (fieldOf(jsonOf(answer), 'identifier') !== record.id) throw new DeliveryFailed('unknown', 'not an answer of Stripe')
      return 'taken'
    }
    if (!isCopy(answer)) throw this.#failureOf(answer)
    return 'known'
  }

  async #stream(records: readonly MeterRecord[], signal: AbortSignal): Promise<void> {
    const body = JSON.stringify({ events: records.map((record) => this.#event(record)) })
    const url = `${baseUrl(this.#settings.stream_url)}/v2/billing/meter_event_stream`
    let session = await this.#open(signal)
    let answer = await this.#http.send({ url, headers: this.#headers('application/json', session.token), body }, signal)
    // Nothing of it was taken.
    if (answer.status === 401 && errorOf(answer).code === 'billing_meter_event_session_expired') {
      this.#session = null
      session = await this.#open(signal)
      answer = await this.#http.send({ url, headers: this.#headers('application/json', session.token), body }, signal)
    }
    if (answer.status < 200 || answer.status >= 300) throw this.#failureOf(answer)
    const said = jsonOf(answer)
    if (typeof said !== 'object' || said === null || Array.isArray(said)) throw new DeliveryFailed('unknown', 'not an answer of Stripe')
  }

  /** One session for all that is under way. */
  async #open(signal: AbortSignal): Promise<Session> {
    const before = this.#session
    if (before !== null) {
      const session = await before
      if (this.#clock.nowMs() < session.untilMs - marginMs) return session
      if (this.#session !== before && this.#session !== null) return await this.#session
    }
    const opening = this.#begin(signal)
    this.#session = opening
    try {
      return await opening
    } catch (error) {
      if (this.#session === opening) this.#session = null
      throw error
    }
  }

  async #begin(signal: AbortSignal): Promise<Session> {
    try {
      const answer = await this.#http.send({ url: `${this.#url}/v2/billing/meter_event_session`, headers: this.#headers('application/json'), body: '{}' }, signal)
      if (answer.status < 200 || answer.status >= 300) throw this.#failureOf(answer)
      const said = jsonOf(answer)
      const token = fieldOf(said, 'authentication_token')
      const until = fieldOf(said, 'expires_at')
      if (typeof token !== 'string' || typeof until !== 'string') throw new DeliveryFailed('busy', 'not a session of Stripe')
      const untilMs = Date.parse(until)
      return { token, untilMs: Number.isNaN(untilMs) ? this.#clock.nowMs() + 5 * minuteMs : untilMs }
    } catch (error) {
      // Whatever went wrong, no event has left.
      if (error instanceof DeliveryFailed && error.kind !== 'unauthorized') throw new DeliveryFailed('busy', `session: ${error.message}`, error.retryAfterMs)
      throw error
    }
  }

  #headers(contentType: string | null, token = this.#settings.api_key): Record<string, string> {
    return { authorization: `Bearer ${token}`, 'stripe-version': this.#settings.version, ...(contentType === null ? {} : { 'content-type': contentType }) }
  }

  #payload(record: MeterRecord): Record<string, string> {
    return { [this.#settings.customer_property]: record.customer, [record.valueProperty]: record.value, ...(record.code === tokenBilling ? tokenProperties(record.properties) : record.properties) }
  }

  #event(record: MeterRecord): object {
    return { event_name: record.code, identifier: record.id, timestamp: toInstant(record.timeMs), payload: this.#payload(record) }
  }

  #form(record: MeterRecord): string {
    const form = new URLSearchParams({ event_name: record.code, identifier: record.id, timestamp: String(Math.floor(record.timeMs / 1_000)) })
    for (const [name, value] of Object.entries(this.#payload(record))) form.set(`payload[${name}]`, value)
    return form.toString()
  }

  #failureOf(answer: HttpAnswer): DeliveryFailed {
    const { code } = errorOf(answer)
    // Another request for the same customer and meter is under way.
    if (answer.status === 409 || answer.headers['stripe-should-retry'] === 'true') {
      const failure = this.#http.failureOf(answer, code)
      return answer.status >= 500 ? failure : new DeliveryFailed('busy', failure.message, failure.retryAfterMs)
    }
    // A 404 with a code of Stripe's speaks of the event's meter or customer, not of the address.
    if (answer.status === 404 && code !== undefined) return new DeliveryFailed('refused', this.#http.failureOf(answer, code).message)
    return this.#http.failureOf(answer, code)
  }

  async #total(asked: Asked, signal: AbortSignal): Promise<string | null> {
    if (asked.fromMs % minuteMs !== 0 || asked.untilMs % minuteMs !== 0) return null
    const meter = this.#meters.get(asked.code) ?? await this.#meterOf(asked.code, signal)
    if (meter === null) return null
    const values: string[] = []
    for (let after: string | null = null; ;) {
      const query = new URLSearchParams({ customer: asked.customer, start_time: String(asked.fromMs / 1_000), end_time: String(asked.untilMs / 1_000), limit: '100', ...(after === null ? {} : { starting_after: after }) })
      const page = await this.#page(`/v1/billing/meters/${encodeURIComponent(meter)}/event_summaries?${query.toString()}`, signal)
      for (const summary of page.data) {
        const value = decimalOf(fieldOf(summary, 'aggregated_value'))
        if (value === null) return null
        values.push(value)
      }
      if (page.after === null) return sumOf(values)
      after = page.after
    }
  }

  /** The meter that counts events of this name; null: there is none. */
  async #meterOf(eventName: string, signal: AbortSignal): Promise<string | null> {
    for (let after: string | null = null; ;) {
      const page = await this.#page(`/v1/billing/meters?status=active&limit=100${after === null ? '' : `&starting_after=${encodeURIComponent(after)}`}`, signal)
      for (const meter of page.data) {
        const [id, name] = [fieldOf(meter, 'id'), fieldOf(meter, 'event_name')]
        if (typeof id === 'string' && typeof name === 'string') this.#meters.set(name, id)
      }
      const found = this.#meters.get(eventName)
      if (found !== undefined || page.after === null) return found ?? null
      after = page.after
    }
  }

  async #page(path: string, signal: AbortSignal): Promise<{ data: readonly unknown[]; after: string | null }> {
    const said = jsonOf(await this.#http.mustAccept({ method: 'GET', url: `${this.#url}${path}`, headers: this.#headers(null) }, signal))
    const data = fieldOf(said, 'data')
    if (!Array.isArray(data)) throw new DeliveryFailed('unknown', 'not a list of Stripe')
    const last = fieldOf((data as unknown[]).at(-1), 'id')
    return { data: data as unknown[], after: fieldOf(said, 'has_more') === true && typeof last === 'string' ? last : null }
  }
}

interface Session {
  readonly token: string
  readonly untilMs: number
}

function errorOf(answer: HttpAnswer): { code?: string; message: string } {
  const error = fieldOf(jsonOf(answer), 'error')
  const [code, message] = [fieldOf(error, 'code'), fieldOf(error, 'message')]
  return { ...(typeof code === 'string' ? { code } : {}), message: typeof message === 'string' ? message : '' }
}

/** It was booked before: v1 says so in a sentence and may leave the code out, v2 by a code. */
function isCopy(answer: HttpAnswer): boolean {
  if (answer.status !== 400) return false
  const { code, message } = errorOf(answer)
  return code === 'duplicate_meter_event' || /already exists with identifier/.test(message) || /duplicate identifier has already been submitted/.test(message)
}

/** Token billing knows models as `anthropic/claude-sonnet-4.5`: the provider, and the model without its date. */
function tokenProperties({ model, model_served, provider, ...others }: Readonly<Record<string, string>>): Record<string, string> {
  const named = model_served ?? model
  if (named === undefined) return others
  return { ...others, model: provider === undefined ? plainModel(named) : `${provider}/${plainModel(named)}` }
}

/** Of this snapshot the price differs from the model's own. */
const pricedApart = 'gpt-4o-2024-05-13'

function plainModel(model: string): string {
  if (model === pricedApart) return model
  const plain = model.replace(/-latest$/, '').replace(/-(?:\d{8}|\d{4}-\d{2}-\d{2})$/, '')
  return plain.startsWith('claude-') ? plain.replace(/(?<=-)(\d)-(\d)(?=-|$)/, '$1.$2') : plain
}
