import { toInstant } from '../metering/event.ts'
import { baseUrl } from './base-url.ts'
import { decimalOf, shifted, sumOf } from './decimal.ts'
import { fieldOf, jsonOf, SinkHttp, type HttpAnswer } from './http.ts'
import { DeliveryFailed, type DeliveryReport, type MeterRecord, type ReadBack, type Sink, type SinkContract, type SinkKind, type SinkSurroundings } from './sink.ts'
import { tokenMeters } from './token-meters.ts'

const NEWEST_MS = 3_600_000

const contract: SinkContract = {
  verified: true, readsBack: true,
  // Not stated by Polar; an older page of its documentation has 100.
  batchMax: 100,
  bytesMax: null,
  ratePerSecond: 100,
  dedupWindowMs: 'forever',
  dedupKey: 'external_id',
  duplicateSignal: 'silent',
  failureUnit: 'batch',
  oldestMs: null,
  // It takes nothing of its future. A little of that is waited for here; what is further ahead is of a clock that was wrong.
  newestMs: NEWEST_MS,
  timePrecision: 'millisecond',
  values: 'number',
  acknowledges: 'durable',
  corrections: 'negative',
  serialBy: 'none',
}

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly access_token: string
  readonly id_prefix: string
}

/** The property that stands for money: `_cost` of the metadata, in cents. */
const COST = '_cost'
const KEYS_MAX = 50
const KEY_MAX = 40
const TEXT_MAX = 500
/** A time so little ahead that the two clocks may just disagree. */
const SKEW_MS = 60_000
const PAGE = 100
const PAGES_MAX = 500

const meters = [...tokenMeters(), { code: 'llm_cost', quantity: 'cost', valueProperty: COST, copied: { model: 'model_served', provider: 'provider', currency: 'currency' } }]

/**
 * Polar, `POST /v1/events/ingest`. It knows ids of all of its customers in one space, so ours begin with a prefix that nobody else has. A time must not lie in its
 * future: rather than to change one, an event waits until it has come.
 */
export const polar: SinkKind = {
  type: 'polar',
  contract,
  takes: 'records',
  settings: {
    access_token: { is: 'secret', about: 'Organization access token with events:write; for reconcile also events:read.' },
    id_prefix: { is: 'text', about: 'Begins every external_id, such as the slug of your organization: Polar has one space of ids for everybody. The same in every gateway, and never changed.' },
    url: { is: 'url', otherwise: 'https://api.polar.sh', about: 'Where Polar is; https://sandbox-api.polar.sh to try it. Default https://api.polar.sh.' },
  },
  meters,
  async open(_name, settings, around): Promise<Sink> {
    const { url: address, private: permitPrivate, access_token, id_prefix } = settings as unknown as Settings
    const url = baseUrl(address)
    const http = new SinkHttp({ permitPrivate }, around)
    const headers = { authorization: `Bearer ${access_token}`, 'content-type': 'application/json' }
    return {
      async deliver(batch, signal) {
        const nowMs = around.clock.nowMs()
        const records = batch.filter((record) => record.is === 'meter')
        const refused = records.filter(({ timeMs }) => timeMs - nowMs > NEWEST_MS).map(({ id }) => ({ id, reason: 'its time is further ahead than is waited for' }))
        const later = records.filter(({ timeMs }) => timeMs > nowMs && timeMs - nowMs <= NEWEST_MS).map(({ id }) => id)
        const sent = records.filter(({ timeMs }) => timeMs <= nowMs)
        if (sent.length === 0) return { accepted: [], refused, later }
        const body = JSON.stringify({ events: sent.map((record) => toPolar(record, id_prefix)) })
        const answer = await http.send({ url: `${url}/v1/events/ingest`, headers, body }, signal)
        if (answer.status === 422) {
          const said = refusalOf(answer, sent, around.clock) ?? raise(http.failureOf(answer))
          return { ...said, refused: [...refused, ...said.refused], later: [...later, ...said.later ?? []] }
        }
        if (answer.status < 200 || answer.status > 299) throw http.failureOf(answer)
        const counts = jsonOf(answer)
        const inserted = fieldOf(counts, 'inserted')
        const duplicates = fieldOf(counts, 'duplicates') ?? 0
        if (typeof inserted !== 'number' || typeof duplicates !== 'number' || inserted + duplicates !== sent.length) throw new DeliveryFailed('unknown', 'it did not count all of them')
        return { accepted: sent.map(({ id }) => id), refused, later, duplicates }
      },
      readBack: readBackOf(http, url, headers, id_prefix),
      close: () => http.close(),
    }
  },
}

function raise(failure: DeliveryFailed): never {
  throw failure
}

function toPolar(record: MeterRecord, prefix: string): Record<string, unknown> {
  const metadata: [string, unknown][] = Object.entries(record.properties).filter(([name]) => record.valueProperty !== COST || name !== 'currency')
    .slice(0, KEYS_MAX - 1).map(([name, text]) => [name.slice(0, KEY_MAX), text.slice(0, TEXT_MAX)])
  const cost = { amount: shifted(record.value, 2), currency: (record.properties['currency'] ?? 'usd').toLowerCase() }
  return {
    name: record.code, external_customer_id: record.customer, external_id: `${prefix}:${record.id}`, timestamp: toInstant(record.timeMs),
    metadata: Object.fromEntries([...metadata, record.valueProperty === COST ? [COST, cost] : [record.valueProperty.slice(0, KEY_MAX), Number(record.value)]]),
  }
}

/** It takes nothing of a batch with a bad event, and says which those are. Null: it does not say. */
function refusalOf(answer: HttpAnswer, sent: readonly MeterRecord[], clock: SinkSurroundings['clock']): DeliveryReport | null {
  const details = fieldOf(jsonOf(answer), 'detail')
  if (!Array.isArray(details)) return null
  const refused = new Map<string, string>()
  const waiting = new Set<string>()
  for (const detail of details) {
    const where = fieldOf(detail, 'loc')
    const [, , index, ...field] = Array.isArray(where) ? where : []
    const record = typeof index === 'number' ? sent[index] : undefined
    if (record === undefined) return null
    const name = String(field.at(-1) ?? 'event').replace(/[^\w.]/g, '').slice(0, 40)
    if (name === 'timestamp' && record.timeMs > clock.nowMs() - SKEW_MS) waiting.add(record.id)
    else refused.set(record.id, `status 422 ${name}`)
  }
  const later = sent.filter(({ id }) => waiting.has(id) || !refused.has(id)).map(({ id }) => id)
  return refused.size === 0 && waiting.size === 0 ? null : { accepted: [], refused: [...refused].filter(([id]) => !waiting.has(id)).map(([id, reason]) => ({ id, reason })), later }
}

function readBackOf(http: SinkHttp, url: string, headers: Readonly<Record<string, string>>, prefix: string): ReadBack {
  type Asked = { readonly code: string; readonly customer: string; readonly fromMs: number; readonly untilMs: number }
  /** Our events of that time; null: they are too many to look at one by one. */
  const list = async ({ code, customer, fromMs, untilMs }: Asked, signal: AbortSignal): Promise<readonly unknown[] | null> => {
    const all: unknown[] = []
    for (let page = 1; page <= PAGES_MAX; page++) {
      const query = new URLSearchParams({ external_customer_id: customer, name: code, start_timestamp: toInstant(fromMs), end_timestamp: toInstant(untilMs), limit: String(PAGE), page: String(page), sorting: 'timestamp' })
      const items = fieldOf(jsonOf(await http.mustAccept({ method: 'GET', url: `${url}/v1/events/?${query.toString()}`, headers }, signal)), 'items')
      if (!Array.isArray(items)) throw new DeliveryFailed('unknown', 'not an answer of Polar')
      all.push(...items)
      if (items.length < PAGE) {
        return all.filter((event) => {
          const atMs = Date.parse(String(fieldOf(event, 'timestamp')))
          return atMs >= fromMs && atMs < untilMs && String(fieldOf(event, 'external_id')).startsWith(`${prefix}:`)
        })
      }
    }
    return null
  }
  return {
    async total(asked, signal) {
      const events = await list(asked, signal)
      if (events === null) return null
      const values = events.map((event) => valueOf(event, asked.code))
      return values.includes(null) ? null : sumOf(values.filter((value) => value !== null))
    },
    async find(ids, asked, signal) {
      const wanted = new Set(ids)
      const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
      for (const event of (await list(asked, signal)) ?? []) {
        const id = String(fieldOf(event, 'external_id')).slice(prefix.length + 1)
        if (wanted.has(id)) found.set(id, { copies: (found.get(id)?.copies ?? 0) + 1, value: valueOf(event, asked.code), refused: null })
      }
      return found
    },
  }
}

/** In units of the currency where it is money. */
function valueOf(event: unknown, code: string): string | null {
  const metadata = fieldOf(event, 'metadata')
  const property = meters.find((meter) => meter.code === code)?.valueProperty ?? 'value'
  if (property !== COST) return decimalOf(fieldOf(metadata, property))
  const cents = decimalOf(fieldOf(fieldOf(metadata, COST), 'amount'))
  return cents === null ? null : shifted(cents, -2)
}
