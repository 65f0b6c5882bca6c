import { toInstant } from '../metering/event.ts'
import { baseUrl } from './base-url.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer, type HttpRequest } from './http.ts'
import { DeliveryFailed, type DeliveryReport, type MeterRecord, type Sink, type SinkContract, type SinkKind, type SinkRecord, type SinkSurroundings } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

const DAY_MS = 86_400_000
/** A body of as many bytes is answered with 403, which would look like a wrong key. */
const BYTES_END = 512_000

const contract: SinkContract = {
  verified: true, readsBack: false,
  batchMax: 1_000,
  bytesMax: BYTES_END - 1,
  // 5,000 in any five minutes from one address.
  ratePerSecond: 16,
  dedupWindowMs: 35 * DAY_MS,
  dedupKey: 'uid',
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
  readonly api_url: string
  readonly private: boolean
  readonly organization: string
  readonly access_key_id: string
  readonly secret: string
  readonly unknown_accounts: 'refuse' | 'create'
}

/** A token is renewed when this share of its life is left. */
const SPARE = 0.1
/** Where the answer does not say how long it lasts. */
const TOKEN_S = 300
/** Codes of accounts in one question. */
const ASK_MAX = 50

/**
 * m3ter, `POST /organizations/{id}/measurements`, with a token of OAuth2 client credentials. Measurements are checked after they were accepted: what fails
 * then is an `ingest.validation.failure` event in m3ter.
 */
export const m3ter: SinkKind = {
  type: 'm3ter',
  contract,
  takes: 'records',
  settings: {
    organization: { is: 'text', about: 'The id of the organization.' },
    access_key_id: { is: 'text', about: 'Access key id of a service user.' },
    secret: { is: 'secret', about: 'API secret of that service user.' },
    unknown_accounts: { is: 'choice', among: ['refuse', 'create'], otherwise: 'refuse', about: 'Usage of an account that m3ter does not have: refuse keeps it among the dead, create lets m3ter make an empty account, which nobody pays for. Default refuse.' },
    url: { is: 'url', otherwise: 'https://ingest.m3ter.com', about: 'Where m3ter takes measurements. Default https://ingest.m3ter.com.' },
    api_url: { is: 'url', otherwise: 'https://api.m3ter.com', about: 'Where tokens are given and accounts listed. Default https://api.m3ter.com.' },
  },
  meters: tokenMeters(),
  open: async (_name, settings, around) => new M3terSink(settings as unknown as Settings, around),
}

class M3terSink implements Sink {
  readonly #settings: Settings
  readonly #http: SinkHttp
  readonly #clock: SinkSurroundings['clock']
  #token: Promise<string> | null = null
  #renewAtMs = 0
  readonly #known = new Set<string>()

  constructor(settings: Settings, around: SinkSurroundings) {
    this.#settings = { ...settings, url: baseUrl(settings.url), api_url: baseUrl(settings.api_url) }
    this.#clock = around.clock
    this.#http = new SinkHttp({ permitPrivate: settings.private }, around)
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const records = batch.filter((record) => record.is === 'meter')
    const unknown = this.#settings.unknown_accounts === 'create' ? new Set<string>() : await this.#unknownOf(new Set(records.map(({ customer }) => customer)), signal)
    const good = records.filter(({ customer }) => !unknown.has(customer))
    const refused = records.filter(({ customer }) => unknown.has(customer)).map(({ id }) => ({ id, reason: 'unknown_account' }))
    if (good.length === 0) return { accepted: [], refused }
    const body = JSON.stringify({ measurements: good.map(toMeasurement) })
    if (Buffer.byteLength(body) >= BYTES_END) throw new DeliveryFailed('too_large', `${Buffer.byteLength(body)} bytes`)
    const { url, organization } = this.#settings
    const answer = await this.#ask({ url: `${url}/organizations/${encodeURIComponent(organization)}/measurements`, body }, signal)
    if (fieldOf(jsonOf(answer), 'result') !== 'accepted') throw new DeliveryFailed('unknown', 'it did not say that it has accepted them')
    return { accepted: good.map(({ id }) => id), refused }
  }

  close(): Promise<void> {
    return this.#http.close()
  }

  /** Those that m3ter does not have. One that is there is not asked for again. */
  async #unknownOf(codes: ReadonlySet<string>, signal: AbortSignal): Promise<ReadonlySet<string>> {
    const asked = [...codes].filter((code) => !this.#known.has(code))
    const { api_url, organization } = this.#settings
    for (let at = 0; at < asked.length; at += ASK_MAX) {
      const query = new URLSearchParams(asked.slice(at, at + ASK_MAX).map((code): [string, string] => ['codes', code]))
      query.append('pageSize', '100')
      const answer = await this.#ask({ method: 'GET', url: `${api_url}/organizations/${encodeURIComponent(organization)}/accounts?${query.toString()}` }, signal)
      const accounts = fieldOf(jsonOf(answer), 'data')
      // Nothing has been sent: what is no answer here says nothing about the measurements.
      if (!Array.isArray(accounts)) throw new DeliveryFailed('busy', 'no list of accounts')
      for (const account of accounts) {
        const code = fieldOf(account, 'code')
        if (typeof code === 'string') this.#known.add(code)
      }
    }
    return new Set(asked.filter((code) => !this.#known.has(code)))
  }

  /** With a token; with a new one when it was not taken, which m3ter says before it looks at anything. */
  async #ask(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const token = await this.#currentToken(signal)
    const answer = await this.#http.send(this.#signed(request, token), signal)
    if (answer.status !== 401) return this.#accepted(answer)
    this.#token = null
    return this.#accepted(await this.#http.send(this.#signed(request, await this.#currentToken(signal)), signal))
  }

  #signed(request: HttpRequest, token: string): HttpRequest {
    return { ...request, headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' } }
  }

  #accepted(answer: HttpAnswer): HttpAnswer {
    if (answer.status >= 200 && answer.status < 300) return answer
    throw this.#http.failureOf(answer)
  }

  /** Requests that run at the same time wait for the same one. */
  #currentToken(signal: AbortSignal): Promise<string> {
    if (this.#token !== null && this.#clock.monotonicMs() < this.#renewAtMs) return this.#token
    this.#renewAtMs = Infinity
    const token = this.#newToken(signal)
    this.#token = token
    token.catch(() => {
      if (this.#token === token) this.#token = null
    })
    return token
  }

  async #newToken(signal: AbortSignal): Promise<string> {
    const { api_url, access_key_id, secret } = this.#settings
    const headers = { authorization: `Basic ${Buffer.from(`${access_key_id}:${secret}`).toString('base64')}`, 'content-type': 'application/json' }
    let answer: unknown
    try {
      answer = jsonOf(await this.#http.mustAccept({ url: `${api_url}/oauth/token`, headers, body: JSON.stringify({ grant_type: 'client_credentials' }) }, signal))
    } catch (error) {
      // Whatever it was: no measurement has left.
      if (error instanceof DeliveryFailed && error.kind === 'unauthorized') throw error
      throw error instanceof DeliveryFailed ? new DeliveryFailed('busy', `no token: ${error.message}`, error.retryAfterMs) : new DeliveryFailed('busy', 'no token')
    }
    const token = fieldOf(answer, 'access_token')
    if (typeof token !== 'string' || token === '') throw new DeliveryFailed('busy', 'no token')
    const seconds = fieldOf(answer, 'expires_in')
    this.#renewAtMs = this.#clock.monotonicMs() + (typeof seconds === 'number' && seconds > 0 ? seconds : TOKEN_S) * (1 - SPARE) * 1_000
    return token
  }
}

function toMeasurement(record: MeterRecord): Record<string, unknown> {
  return {
    uid: record.id, meter: record.code, account: record.customer, ts: toInstant(record.timeMs), measure: { [record.valueProperty]: Number(record.value) }, what: record.properties,
  }
}
