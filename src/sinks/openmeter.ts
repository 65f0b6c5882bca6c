import { statusWords } from '../failure-words.ts'
import { baseUrl } from './base-url.ts'
import { decimalOf } from './decimal.ts'
import { toInstant } from '../metering/event.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer } from './http.ts'
import { jsonValue } from './json-value.ts'
import { DeliveryFailed, type DeliveryReport, type MeterRecord, type ReadBack, type Sink, type SinkContract, type SinkKind, type SinkRecord } from './sink.ts'

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly token: string | null
  readonly source: string
  /** ms */
  readonly deduplication: number
  /** Code → slug. */
  readonly meter_slugs: Readonly<Record<string, string>>
}

/** The v1 API compares the header with `===`: a charset behind it is refused. */
const mediaType = 'application/cloudevents-batch+json'
/** Read-backs under way at the same time. */
const asking = 8
const minuteMs = 60_000

const contract: SinkContract = {
  verified: true, readsBack: true, batchMax: 500, bytesMax: null, ratePerSecond: null, dedupWindowMs: 86_400_000, dedupKey: 'namespace, source and id', duplicateSignal: 'silent',
  failureUnit: 'async', oldestMs: null, newestMs: null, timePrecision: 'second', values: 'number', acknowledges: 'queued', corrections: 'negative', serialBy: 'none',
}

/**
 * OpenMeter, its Cloud, and Kong Konnect: CloudEvents, one for each quantity. A 204 or 202 says that the events wait in OpenMeter's own queue, so
 * what was lost or refused behind it is only found by `reconcile`. After a 500 a part of the batch may be in that queue: it is sent again with the same ids.
 */
export const openmeter: SinkKind = {
  type: 'openmeter',
  takes: 'records',
  contract,
  contractOf: (settings) => ({ ...contract, dedupWindowMs: (settings as unknown as Settings).deduplication }),
  settings: {
    url: { is: 'url', about: 'Of the API: https://openmeter.cloud, http://localhost:8888, or of v3 https://eu.api.konghq.com/v3; how it ends says which API it is.' },
    token: { is: 'secret', otherwise: null, about: 'API key; a server of one\'s own may have none.' },
    source: { is: 'text', otherwise: 'tallygate', about: 'The events\' source. It is part of what makes an event one: the same in every gateway, and never changed. Default tallygate.' },
    deduplication: { is: 'duration', otherwise: contract.dedupWindowMs, about: 'How long this OpenMeter knows an id again (dedupe.* of its configuration); 0s where it does not. Default 24h.' },
    meter_slugs: { is: 'map', otherwise: {}, about: 'For reconcile: the slug of the meter that adds a code up, { prompt: tokens_total }.' },
  },
  meters: [
    tokens('input', 'input_tokens - cached_input_tokens - cache_write_tokens'), tokens('cached_input', 'cached_input_tokens'),
    tokens('cache_write', 'cache_write_tokens'), tokens('output', 'output_tokens'),
  ],
  open: async (_name, settings, around) => new OpenMeter(settings as unknown as Settings, new SinkHttp({ permitPrivate: settings['private'] === true }, around)),
}

/** As OpenMeter's template for LLM usage has it: one event type, the kind of token beside the model. */
function tokens(type: string, quantity: string): NonNullable<SinkKind['meters']>[number] {
  return { code: 'prompt', quantity, valueProperty: 'tokens', copied: { model: 'model', provider: 'provider' }, fixed: { type } }
}

class OpenMeter implements Sink {
  readonly readBack: ReadBack
  readonly #settings: Settings
  readonly #http: SinkHttp
  readonly #version: 1 | 3
  readonly #events: string

  constructor(settings: Settings, http: SinkHttp) {
    this.#settings = settings
    this.#http = http
    const url = baseUrl(settings.url)
    this.#version = url.endsWith('/v3') ? 3 : 1
    this.#events = this.#version === 3 ? `${url}/openmeter/events` : `${url.replace(/\/api\/v1$/, '')}/api/v1/events`
    this.readBack = {
      find: (ids, asked, signal) => this.#find(ids, asked, signal),
      ...(this.#version === 1 ? { total: (asked, signal) => this.#total(asked, signal) } : {}),
    }
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const body = JSON.stringify(batch.flatMap((record) => record.is === 'meter' ? [this.#event(record)] : []))
    const answer = await this.#http.mustAccept({ url: this.#events, headers: { ...this.#headers(), 'content-type': mediaType }, body }, signal)
    // Whoever answers in another way is not OpenMeter.
    if (answer.status !== (this.#version === 3 ? 202 : 204)) throw new DeliveryFailed('unknown', statusWords(answer.status))
    return { accepted: batch.map(({ id }) => id), refused: [] }
  }

  async close(): Promise<void> {
    await this.#http.close()
  }

  #headers(): Record<string, string> {
    const { token } = this.#settings
    return token === null || token === '' ? {} : { authorization: `Bearer ${token}` }
  }

  #event(record: MeterRecord): object {
    return {
      specversion: '1.0', id: record.id, source: this.#settings.source, type: record.code, subject: record.customer, time: toInstant(record.timeMs),
      datacontenttype: 'application/json', data: { ...record.properties, [record.valueProperty]: jsonValue(record.value) },
    }
  }

  async #find(ids: readonly string[], asked: { readonly code: string; readonly fromMs: number }, signal: AbortSignal): ReturnType<NonNullable<ReadBack['find']>> {
    const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
    for (let at = 0; at < ids.length; at += asking) {
      await Promise.all(ids.slice(at, at + asking).map(async (id) => {
        const answer = await this.#http.mustAccept({ method: 'GET', url: this.#search(id, asked.fromMs), headers: this.#headers() }, signal)
        // The v1 API takes parts of an id for it, and finds the events of every source.
        const copies = this.#listed(answer).filter((each) => fieldOf(fieldOf(each, 'event'), 'id') === id && fieldOf(fieldOf(each, 'event'), 'source') === this.#settings.source)
        const first = copies[0]
        if (first !== undefined) found.set(id, { copies: copies.length, value: null, refused: problemOf(first) })
      }))
    }
    return found
  }

  #search(id: string, fromMs: number): string {
    const url = new URL(this.#events)
    if (this.#version === 3) {
      url.searchParams.set('filter[id][eq]', id)
      url.searchParams.set('page[size]', '100')
    } else {
      url.searchParams.set('id', id)
      url.searchParams.set('from', toInstant(Math.floor(fromMs / 1_000) * 1_000))
      url.searchParams.set('limit', '100')
    }
    return url.href
  }

  #listed(answer: HttpAnswer): readonly unknown[] {
    const body = jsonOf(answer)
    const list = this.#version === 3 ? fieldOf(body, 'data') : body
    if (!Array.isArray(list)) throw new DeliveryFailed('unknown', 'the list of events cannot be read')
    return list as unknown[]
  }

  async #total(asked: { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }, signal: AbortSignal): Promise<string | null> {
    const slug = this.#settings.meter_slugs[asked.code]
    // OpenMeter adds up whole minutes.
    if (slug === undefined || asked.fromMs % minuteMs !== 0 || asked.untilMs % minuteMs !== 0) return null
    const url = new URL(`${this.#events.replace(/\/events$/, '')}/meters/${encodeURIComponent(slug)}/query`)
    url.searchParams.set('from', toInstant(asked.fromMs))
    url.searchParams.set('to', toInstant(asked.untilMs))
    url.searchParams.set('subject', asked.customer)
    const rows = fieldOf(jsonOf(await this.#http.mustAccept({ method: 'GET', url: url.href, headers: this.#headers() }, signal)), 'data')
    if (!Array.isArray(rows)) throw new DeliveryFailed('unknown', 'the total cannot be read')
    if (rows.length > 1) return null
    const value: unknown = rows.length === 0 ? 0 : fieldOf(rows[0], 'value')
    return typeof value === 'number' ? decimalOf(value) : null
  }
}

/** Why it was accepted and does not count. */
function problemOf(listed: unknown): string | null {
  const one = fieldOf(listed, 'validationError')
  if (typeof one === 'string') return one.slice(0, 200)
  const several = fieldOf(listed, 'validation_errors')
  const code = Array.isArray(several) ? fieldOf(several[0], 'code') : undefined
  return typeof code === 'string' ? code.slice(0, 200) : null
}
