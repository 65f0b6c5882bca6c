import { baseUrl } from './base-url.ts'
import { decimalOf, sumOf } from './decimal.ts'
import { fieldOf, jsonOf, SinkHttp } from './http.ts'
import { DeliveryFailed, type DeliveryReport, type MeterRecord, type ReadBack, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly api_key: string
  readonly store: 'postgres' | 'clickhouse'
}

type Asked = { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }

const postgres: SinkContract = {
  verified: true, readsBack: true, batchMax: 100, bytesMax: null, ratePerSecond: 500, dedupWindowMs: 'forever', dedupKey: 'external_subscription_id and transaction_id',
  duplicateSignal: 'per_record', failureUnit: 'batch', oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'queued',
  corrections: 'negative', serialBy: 'none',
}
const clickhouse: SinkContract = {
  ...postgres, dedupKey: 'code, external_subscription_id, timestamp and transaction_id; the last one stands', duplicateSignal: 'silent', failureUnit: 'async',
}

/** Under it a copy is told from a fault. */
const knownAlready = 'value_already_exist'
const pageSize = 100
/** Beyond this many pages a list says nothing that reconcile should wait for. */
const pagesMax = 200
const asking = 8

/**
 * Lago, its Cloud or one's own: an event for each quantity, to `/events/batch`, under the codes of Lago's own SDK for agents. Where Lago stores in Postgres, one copy in a
 * batch has all of it refused, named by its place: the copies are delivered, what is named otherwise is bad, and the rest comes again. Where it stores in
 * ClickHouse, a copy is told by its time too, so that always ours is sent, in milliseconds. A code or property that Lago does not know is refused
 * only after the answer, by its webhook `events.errors`.
 */
export const lago: SinkKind = {
  type: 'lago',
  takes: 'records',
  contract: postgres,
  contractOf: (settings) => settings['store'] === 'clickhouse' ? clickhouse : postgres,
  settings: {
    url: { is: 'url', otherwise: 'https://api.getlago.com/api/v1', about: 'Of the API, with /api/v1 at its end. Default https://api.getlago.com/api/v1.' },
    api_key: { is: 'secret', about: 'API key.' },
    store: { is: 'choice', among: ['postgres', 'clickhouse'], otherwise: 'postgres', about: 'Where this Lago stores events: it decides what it does about copies. Default postgres.' },
  },
  meters: tokenMeters(),
  open: async (_name, settings, around) => new Lago(settings as unknown as Settings, new SinkHttp({ permitPrivate: settings['private'] === true }, around)),
}

class Lago implements Sink {
  readonly readBack: ReadBack
  readonly #url: string
  readonly #http: SinkHttp
  readonly #headers: Readonly<Record<string, string>>

  constructor(settings: Settings, http: SinkHttp) {
    this.#url = baseUrl(settings.url)
    this.#http = http
    this.#headers = { authorization: `Bearer ${settings.api_key}` }
    this.readBack = {
      find: (ids, asked, signal) => this.#find(ids, asked, signal),
      total: (asked, signal) => this.#total(asked, signal),
    }
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const body = JSON.stringify({ events: batch.flatMap((record) => record.is === 'meter' ? [eventOf(record)] : []) })
    const answer = await this.#http.send({ url: `${this.#url}/events/batch`, headers: { ...this.#headers, 'content-type': 'application/json' }, body }, signal)
    const said = jsonOf(answer)
    if (answer.status === 422) {
      const details = fieldOf(said, 'error_details')
      const wrong = fieldOf(details, 'events')
      if (Array.isArray(wrong) && wrong.includes('too_many_events')) throw new DeliveryFailed('too_large', 'too_many_events')
      const report = byPlace(batch, details)
      if (report !== null) return report
    }
    if (answer.status < 200 || answer.status >= 300) throw this.#http.failureOf(answer)
    // It repeats every event that it has taken; one that it does not has an unknown outcome.
    const events = fieldOf(said, 'events')
    if (!Array.isArray(events)) throw new DeliveryFailed('unknown', 'not an answer of Lago')
    const taken = new Set((events as unknown[]).map((event) => fieldOf(event, 'transaction_id')))
    return { accepted: batch.flatMap(({ id }) => taken.has(id) ? [id] : []), refused: [] }
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  async #find(ids: readonly string[], asked: Asked, signal: AbortSignal): ReturnType<NonNullable<ReadBack['find']>> {
    const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
    for (let at = 0; at < ids.length; at += asking) {
      await Promise.all(ids.slice(at, at + asking).map(async (id) => {
        const answer = await this.#http.send({ method: 'GET', url: `${this.#url}/events/${encodeURIComponent(id)}`, headers: this.#headers }, signal)
        // It says so itself: a 404 of something else in between is no answer.
        if (answer.status === 404 && fieldOf(jsonOf(answer), 'code') === 'event_not_found') return
        if (answer.status !== 200) throw this.#http.failureOf(answer)
        const event = fieldOf(jsonOf(answer), 'event')
        if (fieldOf(event, 'transaction_id') !== id) throw new DeliveryFailed('unknown', 'not an answer of Lago')
        if (fieldOf(event, 'external_subscription_id') === asked.customer) found.set(id, { copies: 1, value: valueOf(event), refused: null })
      }))
    }
    return found
  }

  /** Of what is listed; whether a charge counts it is Lago's own affair. */
  async #total(asked: Asked, signal: AbortSignal): Promise<string | null> {
    const values: string[] = []
    for (let page = 1; page <= pagesMax; page++) {
      const query = new URLSearchParams({
        external_subscription_id: asked.customer, code: asked.code, timestamp_from: new Date(asked.fromMs).toISOString(), timestamp_to: new Date(asked.untilMs).toISOString(),
        page: String(page), per_page: String(pageSize),
      })
      const said = jsonOf(await this.#http.mustAccept({ method: 'GET', url: `${this.#url}/events?${query.toString()}`, headers: this.#headers }, signal))
      const events = fieldOf(said, 'events')
      if (!Array.isArray(events)) throw new DeliveryFailed('unknown', 'not an answer of Lago')
      for (const event of events as unknown[]) {
        // Its end is included there, and not here.
        const timestamp = fieldOf(event, 'timestamp')
        if (typeof timestamp === 'string' && Date.parse(timestamp) >= asked.untilMs) continue
        const value = valueOf(event)
        if (value === null) return null
        values.push(value)
      }
      if (typeof fieldOf(fieldOf(said, 'meta'), 'next_page') !== 'number') return sumOf(values)
    }
    return null
  }
}

function eventOf(record: MeterRecord): object {
  return {
    transaction_id: record.id, external_subscription_id: record.customer, code: record.code,
    // Seconds; as text, because a binary fraction of them could be another millisecond.
    timestamp: (record.timeMs / 1_000).toFixed(3),
    properties: { ...record.properties, [record.valueProperty]: record.value },
  }
}

/** What a 422 says of single events, by their place in the batch: none of the batch was stored. Null: it says nothing of that kind. */
function byPlace(batch: readonly SinkRecord[], details: unknown): DeliveryReport | null {
  const accepted: string[] = []
  const refused: { id: string; reason: string }[] = []
  const later: string[] = []
  for (const [place, { id }] of batch.entries()) {
    const problems = fieldOf(details, String(place))
    if (problems === undefined) {
      later.push(id)
      continue
    }
    const codes = codesOf(problems)
    if (codes.length === 1 && codes[0] === `transaction_id ${knownAlready}`) accepted.push(id)
    // A copy that is bad beside it: it would be refused without being one, too.
    else refused.push({ id, reason: codes.join(', ').slice(0, 200) || 'refused' })
  }
  return accepted.length + refused.length === 0 ? null : { accepted, refused, later, duplicates: accepted.length }
}

/** `{ transaction_id: ['value_already_exist'] }` as words: fields and codes are of closed sets. */
function codesOf(problems: unknown): string[] {
  if (typeof problems !== 'object' || problems === null) return []
  return Object.entries(problems).flatMap(([field, codes]) => (Array.isArray(codes) ? codes as unknown[] : [codes]).map((code) => `${word(field)} ${word(code)}`))
}

function word(text: unknown): string {
  return typeof text === 'string' ? text.replace(/[^\w.-]/g, '').slice(0, 64) : ''
}

function valueOf(event: unknown): string | null {
  return decimalOf(fieldOf(fieldOf(event, 'properties'), 'value'))
}
