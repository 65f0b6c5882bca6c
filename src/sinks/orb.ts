import { baseUrl } from './base-url.ts'
import { toInstant } from '../metering/event.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer } from './http.ts'
import { jsonValue } from './json-value.ts'
import { DeliveryFailed, type DeliveryReport, type MeterRecord, type ReadBack, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly api_key: string
  readonly customer_field: 'external_customer_id' | 'customer_id'
  /** ms */
  readonly grace_period: number | null
  readonly debug: boolean
}

const hourMs = 3_600_000
const contract: SinkContract = {
  verified: true, readsBack: true,
  // Orb states no bound; this keeps an answer that names every event small.
  batchMax: 200, bytesMax: null, ratePerSecond: 100,
  // Not published. What is older than the account's grace period is refused and cannot count twice; this is for accounts that have not said theirs.
  dedupWindowMs: 12 * hourMs,
  dedupKey: 'idempotency_key', duplicateSignal: 'per_record', failureUnit: 'batch', oldestMs: null, newestMs: hourMs, timePrecision: 'millisecond', values: 'number',
  acknowledges: 'validated', corrections: 'negative', serialBy: 'none',
}
const searched = 100

/**
 * Orb: an event for each quantity, to `/ingest`. When one of them is bad the whole request is refused, with a list of the bad ones by key; whether Orb has kept the
 * others is not stated, so they come again under the same keys. With `debug` it also names which it has taken and which it knew.
 */
export const orb: SinkKind = {
  type: 'orb',
  takes: 'records',
  contract,
  contractOf(settings) {
    const { grace_period: graceMs } = settings as unknown as Settings
    return graceMs === null ? contract : { ...contract, oldestMs: graceMs, dedupWindowMs: graceMs }
  },
  settings: {
    url: { is: 'url', otherwise: 'https://api.withorb.com/v1', about: 'Of the API. Default https://api.withorb.com/v1.' },
    api_key: { is: 'secret', about: 'API key.' },
    customer_field: { is: 'choice', among: ['external_customer_id', 'customer_id'], otherwise: 'external_customer_id', about: 'Whether customers are named by your id of them or by Orb\'s. Default external_customer_id.' },
    grace_period: { is: 'duration', otherwise: null, about: 'Of the account: older events are refused by Orb. Default: Orb decides.' },
    debug: { is: 'boolean', otherwise: true, about: 'Has Orb name the events that it has taken and those that it knew already. Default true.' },
  },
  meters: tokenMeters(),
  open: async (_name, settings, around) => new Orb(settings as unknown as Settings, new SinkHttp({ permitPrivate: settings['private'] === true }, around)),
}

class Orb implements Sink {
  readonly readBack: ReadBack
  readonly #settings: Settings
  readonly #url: string
  readonly #http: SinkHttp
  readonly #headers: Readonly<Record<string, string>>

  constructor(settings: Settings, http: SinkHttp) {
    this.#settings = settings
    this.#url = baseUrl(settings.url)
    this.#http = http
    this.#headers = { authorization: `Bearer ${settings.api_key}`, 'content-type': 'application/json' }
    this.readBack = { find: (ids, asked, signal) => this.#find(ids, asked, signal) }
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const body = JSON.stringify({ events: batch.flatMap((record) => record.is === 'meter' ? [this.#event(record)] : []) })
    const answer = await this.#http.send({ url: `${this.#url}/ingest${this.#settings.debug ? '?debug=true' : ''}`, headers: this.#headers, body }, signal)
    const failed = validationFailed(answer)
    if (answer.status < 200 || answer.status >= 300) {
      const ours = new Set(batch.map(({ id }) => id))
      const refused = (failed ?? []).filter(({ id }) => ours.has(id))
      if (answer.status >= 500 || refused.length === 0) throw this.#http.failureOf(answer)
      return { accepted: [], refused }
    }
    if (failed === null) throw new DeliveryFailed('unknown', 'not an answer of Orb')
    const bad = new Set(failed.map(({ id }) => id))
    const debug = fieldOf(jsonOf(answer), 'debug')
    const known = listOf(fieldOf(debug, 'duplicate'))
    const taken = this.#settings.debug && debug !== undefined ? new Set([...listOf(fieldOf(debug, 'ingested')), ...known]) : null
    return { accepted: batch.flatMap(({ id }) => !bad.has(id) && (taken === null || taken.has(id)) ? [id] : []), refused: failed, duplicates: known.length }
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  #event(record: MeterRecord): object {
    return {
      event_name: record.code, idempotency_key: record.id, [this.#settings.customer_field]: record.customer, timestamp: toInstant(record.timeMs),
      properties: { ...record.properties, [record.valueProperty]: jsonValue(record.value) },
    }
  }

  async #find(ids: readonly string[], asked: { readonly fromMs: number; readonly untilMs: number }, signal: AbortSignal): ReturnType<NonNullable<ReadBack['find']>> {
    const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
    for (let at = 0; at < ids.length; at += searched) {
      const body = JSON.stringify({ event_ids: ids.slice(at, at + searched), timeframe_start: toInstant(asked.fromMs), timeframe_end: toInstant(asked.untilMs) })
      const events = fieldOf(jsonOf(await this.#http.mustAccept({ url: `${this.#url}/events/search`, headers: this.#headers, body }, signal)), 'data')
      if (!Array.isArray(events)) throw new DeliveryFailed('unknown', 'not an answer of Orb')
      for (const event of events as unknown[]) {
        const id = fieldOf(event, 'id')
        if (typeof id === 'string') found.set(id, { copies: (found.get(id)?.copies ?? 0) + 1, value: null, refused: fieldOf(event, 'deprecated') === true ? 'deprecated' : null })
      }
    }
    return found
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value as unknown[] : []
}

/** Null: the answer has no such list, so it is not Orb's. */
function validationFailed(answer: HttpAnswer): { id: string; reason: string }[] | null {
  const list = fieldOf(jsonOf(answer), 'validation_failed')
  if (!Array.isArray(list)) return null
  return (list as unknown[]).flatMap((each) => {
    const id = fieldOf(each, 'idempotency_key')
    return typeof id === 'string' ? [{ id, reason: reasonOf(fieldOf(each, 'validation_errors')) }] : []
  })
}

/** Sentences about the event's own fields; they are all that tells an operator what to mend. */
function reasonOf(errors: unknown): string {
  const texts = Array.isArray(errors) ? (errors as unknown[]).filter((each) => typeof each === 'string') : []
  return texts.join('; ').replace(/[^\x20-\x7e]/g, ' ').slice(0, 200) || 'validation_failed'
}
