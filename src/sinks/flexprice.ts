import { toInstant } from '../metering/event.ts'
import { baseUrl } from './base-url.ts'
import { decimalOf } from './decimal.ts'
import { fieldOf, jsonOf, SinkHttp } from './http.ts'
import { DeliveryFailed, type ReadBack, type Sink, type SinkContract, type SinkKind } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

const contract: SinkContract = {
  verified: true, readsBack: true,
  batchMax: 1_000,
  bytesMax: 32 * 1_048_576,
  ratePerSecond: null,
  dedupWindowMs: 'forever',
  dedupKey: 'event_id and timestamp',
  duplicateSignal: 'silent',
  // What stands before an event without a required field may have been taken when the request is refused.
  failureUnit: 'prefix',
  oldestMs: null,
  newestMs: null,
  timePrecision: 'millisecond',
  values: 'decimal',
  acknowledges: 'queued',
  corrections: 'negative',
  serialBy: 'none',
}

/** The property that has the value, unless the configuration says another. */
const VALUE = 'value'

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly api_key: string
}

/** Flexprice, `POST /v1/events/bulk`. Two copies are one only when id and timestamp are the same to the millisecond; both are frozen, so every attempt is. */
export const flexprice: SinkKind = {
  type: 'flexprice',
  contract,
  takes: 'records',
  settings: {
    url: { is: 'url', otherwise: 'https://us.api.flexprice.io', about: 'Where Flexprice is. Default https://us.api.flexprice.io.' },
    api_key: { is: 'secret', about: 'API key.' },
  },
  meters: tokenMeters(),
  async open(_name, settings, around): Promise<Sink> {
    const { url: address, private: permitPrivate, api_key } = settings as unknown as Settings
    const url = baseUrl(address)
    const http = new SinkHttp({ permitPrivate }, around)
    const headers = { 'x-api-key': api_key, 'content-type': 'application/json' }
    return {
      async deliver(batch, signal) {
        const events = batch.flatMap((record) => record.is !== 'meter' ? [] : [{
          event_name: record.code, external_customer_id: record.customer, event_id: record.id, timestamp: toInstant(record.timeMs), source: 'tallygate',
          properties: { ...record.properties, [record.valueProperty]: record.value },
        }])
        const answer = await http.mustAccept({ url: `${url}/v1/events/bulk`, headers, body: JSON.stringify({ events }) }, signal)
        if (typeof jsonOf(answer) !== 'object') throw new DeliveryFailed('unknown', 'not an answer of Flexprice')
        return { accepted: batch.map(({ id }) => id), refused: [] }
      },
      readBack: readBackOf(http, url, headers),
      close: () => http.close(),
    }
  },
}

function readBackOf(http: SinkHttp, url: string, headers: Readonly<Record<string, string>>): ReadBack {
  const ask = async (path: string, body: unknown, signal: AbortSignal): Promise<unknown> => jsonOf(await http.mustAccept({ url: `${url}${path}`, headers, body: JSON.stringify(body) }, signal))
  const eventsOf = async (body: unknown, signal: AbortSignal): Promise<readonly unknown[]> => {
    const events = fieldOf(await ask('/v1/events/query', body, signal), 'events')
    if (!Array.isArray(events)) throw new DeliveryFailed('unknown', 'not an answer of Flexprice')
    return events
  }
  return {
    async total({ code, customer, fromMs, untilMs }, signal) {
      const time = { external_customer_id: customer, event_name: code, start_time: toInstant(fromMs), end_time: toInstant(untilMs) }
      const sample = await eventsOf({ ...time, page_size: 1 }, signal)
      if (sample.length === 0) return '0'
      // Where the configuration puts the value elsewhere, a sum over the usual place would be a wrong one.
      if (fieldOf(fieldOf(sample[0], 'properties'), VALUE) === undefined) return null
      const value = fieldOf(await ask('/v1/events/usage', { ...time, aggregation_type: 'SUM', property_name: VALUE }, signal), 'value')
      return value === undefined ? '0' : decimalOf(value)
    },
    async find(ids, { code, customer, fromMs, untilMs }, signal) {
      const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
      for (const id of ids) {
        const events = await eventsOf({ external_customer_id: customer, event_name: code, event_id: id, start_time: toInstant(fromMs), end_time: toInstant(untilMs), page_size: 10 }, signal)
        // Copies of one instant collapse before anything is billed.
        const copies = new Set(events.map((event) => fieldOf(event, 'timestamp'))).size
        if (copies > 0) found.set(id, { copies, value: decimalOf(fieldOf(fieldOf(events[0], 'properties'), VALUE)), refused: null })
      }
      return found
    },
  }
}
