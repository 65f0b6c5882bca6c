import { toInstant } from '../metering/event.ts'
import { baseUrl } from './base-url.ts'
import { fieldOf, jsonOf, SinkHttp } from './http.ts'
import { DeliveryFailed, type ReadBack, type Sink, type SinkContract, type SinkKind } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

const DAY_MS = 86_400_000

const contract: SinkContract = {
  verified: true, readsBack: true,
  batchMax: 100,
  bytesMax: null,
  ratePerSecond: null,
  dedupWindowMs: 34 * DAY_MS,
  dedupKey: 'transaction_id',
  duplicateSignal: 'silent',
  failureUnit: 'async',
  oldestMs: 34 * DAY_MS,
  newestMs: DAY_MS,
  timePrecision: 'millisecond',
  values: 'decimal',
  acknowledges: 'queued',
  corrections: 'negative',
  serialBy: 'none',
}

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly api_key: string
}

/** Of one search; it is heavily limited. */
const searchMax = 100

/**
 * Metronome, `POST /v1/ingest`: a bare array of events. Its answer is empty and says only that they were queued; duplicates are dropped silently for 34 days.
 * What became of an event is found with the search.
 */
export const metronome: SinkKind = {
  type: 'metronome',
  contract,
  takes: 'records',
  settings: {
    url: { is: 'url', otherwise: 'https://api.metronome.com', about: 'Where Metronome is. Default https://api.metronome.com.' },
    api_key: { is: 'secret', about: 'API token.' },
  },
  meters: tokenMeters(),
  async open(_name, settings, around): Promise<Sink> {
    const { url: address, private: permitPrivate, api_key } = settings as unknown as Settings
    const url = baseUrl(address)
    const http = new SinkHttp({ permitPrivate }, around)
    const headers = { authorization: `Bearer ${api_key}`, 'content-type': 'application/json' }
    return {
      async deliver(batch, signal) {
        const events = batch.flatMap((record) => record.is !== 'meter' ? [] : [{
          transaction_id: record.id, customer_id: record.customer, event_type: record.code, timestamp: toInstant(record.timeMs),
          // Decimals of any precision are read from strings only.
          properties: { ...record.properties, [record.valueProperty]: record.value },
        }])
        const answer = await http.mustAccept({ url: `${url}/v1/ingest`, headers, body: JSON.stringify(events) }, signal)
        // It answers nothing at all: a page of something in between is no acceptance.
        if (answer.text.trim() !== '' && jsonOf(answer) === undefined) throw new DeliveryFailed('unknown', 'not an answer of Metronome')
        return { accepted: batch.map(({ id }) => id), refused: [] }
      },
      readBack: readBackOf(http, url, headers),
      close: () => http.close(),
    }
  },
}

function readBackOf(http: SinkHttp, url: string, headers: Readonly<Record<string, string>>): ReadBack {
  return {
    async find(ids, _asked, signal) {
      const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
      for (let at = 0; at < ids.length; at += searchMax) {
        const body = JSON.stringify({ transactionIds: ids.slice(at, at + searchMax) })
        const events = jsonOf(await http.mustAccept({ url: `${url}/v1/events/search`, headers, body }, signal))
        if (!Array.isArray(events)) throw new DeliveryFailed('unknown', 'not an answer of Metronome')
        for (const event of events) {
          const id = fieldOf(event, 'transaction_id')
          if (typeof id !== 'string') continue
          const before = found.get(id)?.copies ?? 0
          const copies = before + (fieldOf(event, 'is_duplicate') === true ? 0 : 1)
          found.set(id, { copies, value: null, refused: whyUnbilled(event) })
        }
      }
      return found
    },
  }
}

/** It bills only what has found a customer and a metric. */
function whyUnbilled(event: unknown): string | null {
  if ((fieldOf(event, 'matched_customer') ?? null) === null) return 'no_customer'
  const metrics = fieldOf(event, 'matched_billable_metrics')
  return Array.isArray(metrics) && metrics.length === 0 ? 'no_billable_metric' : null
}
