import { baseUrl } from './base-url.ts'
import { SinkHttp } from './http.ts'
import { DeliveryFailed, type Sink, type SinkContract, type SinkKind } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

const contract: SinkContract = {
  verified: false, readsBack: false,
  batchMax: 100,
  bytesMax: null,
  ratePerSecond: null,
  // Not stated anywhere, so what is ambiguous is looked at by a human soon.
  dedupWindowMs: 3_600_000,
  dedupKey: 'uniqueId',
  duplicateSignal: 'silent',
  failureUnit: 'async',
  oldestMs: null,
  newestMs: null,
  timePrecision: 'millisecond',
  values: 'number',
  acknowledges: 'queued',
  corrections: 'negative',
  serialBy: 'none',
}

interface Settings {
  readonly url: string
  readonly failover_url: string
  readonly private: boolean
  readonly api_key: string
}

/** Amberflo, `POST /ingest`. Experimental: how long it knows a `uniqueId` again, and what it does about bad records, is not published. */
export const amberflo: SinkKind = {
  type: 'amberflo',
  contract,
  takes: 'records',
  settings: {
    url: { is: 'url', otherwise: 'https://app.amberflo.io', about: 'Where Amberflo is. Default https://app.amberflo.io.' },
    failover_url: { is: 'url', otherwise: 'https://ingest.amberflo.io', about: 'Where to go when that cannot be connected to. Default https://ingest.amberflo.io.' },
    api_key: { is: 'secret', about: 'API key.' },
  },
  meters: tokenMeters(),
  async open(_name, settings, around): Promise<Sink> {
    const { url, failover_url, private: permitPrivate, api_key } = settings as unknown as Settings
    const endpointOf = (address: string): string => `${baseUrl(address)}/ingest`
    const http = new SinkHttp({ permitPrivate }, around)
    const headers = { 'x-api-key': api_key, 'content-type': 'application/json' }
    return {
      async deliver(batch, signal) {
        const body = JSON.stringify(batch.flatMap((record) => record.is !== 'meter' ? [] : [{
          uniqueId: record.id, meterApiName: record.code, customerId: record.customer, meterValue: Number(record.value), meterTimeInMillis: record.timeMs, dimensions: record.properties,
        }]))
        const answer = await http.send({ url: endpointOf(url), headers, body }, signal).catch((error: unknown) => {
          // Only what has certainly not arrived may go elsewhere: nobody says that the two know each other's ids.
          if (!(error instanceof DeliveryFailed) || error.kind !== 'busy' || signal.aborted) throw error
          return http.send({ url: endpointOf(failover_url), headers, body }, signal)
        })
        if (answer.status < 200 || answer.status > 299) throw http.failureOf(answer)
        const ingested = /^\W?(\d{1,6}) records? (?:was|were) ingested/i.exec(answer.text.trim())?.[1]
        if (Number(ingested) !== batch.length) throw new DeliveryFailed('unknown', 'it did not say that it has all of them')
        return { accepted: batch.map(({ id }) => id), refused: [] }
      },
      close: () => http.close(),
    }
  },
}
