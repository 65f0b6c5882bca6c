import type { ClickHouseClient, InsertResult } from '@clickhouse/client'
import type { UsageEvent } from '../metering/event.ts'
import { codeWords, placeOf } from '../failure-words.ts'
import { whyNotHost } from './address.ts'
import { lookupOf } from './http.ts'
import { DeliveryFailed, type EventRecord, type ReadBack, type Sink, type SinkContract, type SinkKind } from './sink.ts'

const contract: SinkContract = {
  verified: true, readsBack: true,
  batchMax: 5_000,
  bytesMax: null,
  ratePerSecond: null,
  dedupWindowMs: 'forever',
  dedupKey: 'account, time and id, by which the table is ordered',
  duplicateSignal: 'silent',
  failureUnit: 'batch',
  oldestMs: null,
  newestMs: null,
  timePrecision: 'millisecond',
  values: 'decimal',
  acknowledges: 'durable',
  corrections: 'negative',
  serialBy: 'none',
  // Large inserts that follow each other make fewer parts than small ones at the same time.
  inFlightMax: 1,
}

interface Settings {
  readonly url: string
  readonly private: boolean
  readonly database: string
  readonly table: string
  readonly username: string
  readonly password: string | null
  readonly create_table: boolean
}

/** Quantities, by the name that an event has for them, and their types. Corrections are negative, so none is unsigned. */
const quantities: Readonly<Record<string, string>> = {
  requests: 'Int64', input_tokens: 'Int64', cached_input_tokens: 'Int64', cache_write_tokens: 'Int64', output_tokens: 'Int64', reasoning_tokens: 'Int64', total_tokens: 'Int64',
  compute_ms: 'Int64', bytes_in: 'Int64', bytes_out: 'Int64', images: 'Int64', audio_seconds: 'Decimal(18, 3)', cost: 'Decimal(38, 9)',
}

const words: Readonly<Record<string, string>> = {
  key: 'LowCardinality(String)', plan: 'LowCardinality(String)', provider: 'LowCardinality(String)', endpoint: 'LowCardinality(String)', model: 'LowCardinality(String)',
  model_served: 'LowCardinality(String)', upstream: 'LowCardinality(String)', end: 'LowCardinality(String)', usage_source: 'LowCardinality(String)', currency: 'LowCardinality(String)',
  corrects: 'String',
}

/**
 * The table that events are written to, as the documentation has it. A second copy of an event is in the same partition and has the same place in the order,
 * so the two become one: when parts are merged, or at once where FINAL is asked for.
 */
export function tableDefinition(table: string): string {
  const columns = [
    'id String', 'time DateTime64(3, \'UTC\')', 'account LowCardinality(String)', 'settled_at DateTime64(3, \'UTC\')', 'status UInt16',
    ...Object.entries(words).map(([name, type]) => `${name} ${type}`),
    ...Object.entries(quantities).map(([name, type]) => `${name} ${type}`),
    'event String',
  ]
  return `CREATE TABLE IF NOT EXISTS ${table} (\n${columns.map((column) => `  ${column}`).join(',\n')}\n)\nENGINE = ReplacingMergeTree\nPARTITION BY toYYYYMM(time)\nORDER BY (account, time, id)`
}

const requestMs = 15_000
/** They stand in the address of the request. */
const findMax = 100

/**
 * Usage events as rows of a ClickHouse table, one each. An insert is acknowledged once it is in the table: nothing is left to the server's own buffer.
 * Sent again, an event replaces itself.
 */
export const clickhouse: SinkKind = {
  type: 'clickhouse',
  contract,
  takes: 'events',
  settings: {
    url: { is: 'url', about: 'Of its HTTP interface: https://clickhouse.example.com:8443.' },
    database: { is: 'text', otherwise: 'default', about: 'Default default.' },
    table: { is: 'text', otherwise: 'tallygate_usage', about: 'The table; docs/sinks/clickhouse.md has its definition. Default tallygate_usage.' },
    username: { is: 'text', otherwise: 'default', about: 'Who may insert into the table, and for reconcile select from it. Default default.' },
    password: { is: 'secret', otherwise: null, about: 'Of that user. Default none.' },
    create_table: { is: 'boolean', otherwise: false, about: 'Make the table where it is missing. Default false.' },
  },
  async open(_name, settings) {
    const { url, private: permitPrivate, database, table, username, password, create_table } = settings as unknown as Settings
    if (!/^[A-Za-z_]\w{0,63}$/.test(table)) throw new Error('the name of the table is made of letters, digits and _')
    const { ClickHouseLogLevel, createClient } = await import('@clickhouse/client')
    const why = whyNotHost(new URL(url).hostname, permitPrivate)
    const connections = { keepAlive: true, maxSockets: 4, lookup: lookupOf(permitPrivate) }
    const client = createClient({
      http_agent: new (url.startsWith('https:') ? await import('node:https') : await import('node:http')).Agent(connections),
      url, database, username, password: password ?? '', application: 'tallygate', request_timeout: requestMs, compression: { request: true },
      log: { level: ClickHouseLogLevel.OFF },
      clickhouse_settings: {
        // The answer comes after the rows are in the table, and an error has a status.
        async_insert: 0, wait_end_of_query: 1,
        // A table of one's own may have fewer columns; `event` has everything.
        input_format_skip_unknown_fields: 1, date_time_input_format: 'best_effort',
      },
    })
    let made = !create_table
    return {
      async deliver(batch, signal) {
        // Nothing but the configuration can change that; the events wait for it.
        if (why !== null) throw new DeliveryFailed('unauthorized', `the address of the receiver ${why}`)
        const events = batch.filter((record): record is EventRecord => record.is === 'event')
        let done: InsertResult
        try {
          if (!made) await client.command({ query: tableDefinition(table), abort_signal: signal })
          made = true
          done = await client.insert({ table, values: events.map(({ event }) => toRow(event)), format: 'JSONEachRow', abort_signal: signal })
        } catch (error) {
          throw failureOf(error, url)
        }
        // Whoever answers without the number of the query is something in between.
        if (done.response_headers['x-clickhouse-query-id'] !== done.query_id) throw new DeliveryFailed('unknown', 'not an answer of ClickHouse')
        return { accepted: batch.map(({ id }) => id), refused: [] }
      },
      readBack: readBackOf(client, table, url),
      close: () => client.close(),
    } satisfies Sink
  },
}

/** What an event does not have is left out, and has the default of its column. */
function toRow(event: UsageEvent): Record<string, unknown> {
  const row: Record<string, unknown> = { id: event.id, time: event.time, account: event.subject, settled_at: event.data['settled_at'] ?? event.time, status: event.data['status'] ?? 0 }
  for (const name of [...Object.keys(words), ...Object.keys(quantities)]) {
    const value = event.data[name]
    if (value !== undefined && value !== null) row[name] = value
  }
  row['event'] = JSON.stringify(event)
  return row
}

function readBackOf(client: ClickHouseClient, table: string, url: string): ReadBack {
  const rows = async <R>(query: string, params: Record<string, unknown>, signal: AbortSignal): Promise<R[]> => {
    try {
      return await (await client.query({ query, query_params: params, format: 'JSONEachRow', abort_signal: signal })).json<R>()
    } catch (error) {
      throw failureOf(error, url)
    }
  }
  const columnOf = (code: string): string | null => (Object.hasOwn(quantities, code) ? code : null)
  const between = 'account = {account:String} AND time >= fromUnixTimestamp64Milli({from:Int64}) AND time < fromUnixTimestamp64Milli({until:Int64})'
  return {
    async total({ code, customer, fromMs, untilMs }, signal) {
      const column = columnOf(code)
      if (column === null) return null
      const [row] = await rows<{ total: string }>(`SELECT toString(sum(${column})) AS total FROM ${table} FINAL WHERE ${between}`, { account: customer, from: fromMs, until: untilMs }, signal)
      // A sum has one row, even over none: whatever answers otherwise is not the server.
      if (row === undefined) throw new DeliveryFailed('unknown', 'not an answer of ClickHouse')
      return row.total
    },
    async find(ids, { code, customer, fromMs, untilMs }, signal) {
      const value = columnOf(code) === null ? 'NULL' : `toString(any(${code}))`
      const query = `SELECT id, toString(count()) AS copies, ${value} AS value FROM ${table} FINAL WHERE ${between} AND id IN {ids:Array(String)} GROUP BY id`
      const found = new Map<string, { copies: number; value: string | null; refused: string | null }>()
      for (let at = 0; at < ids.length; at += findMax) {
        const params = { account: customer, from: fromMs, until: untilMs, ids: ids.slice(at, at + findMax) }
        for (const row of await rows<{ id: string; copies: string; value: string | null }>(query, params, signal)) found.set(row.id, { copies: Number(row.copies), value: row.value, refused: null })
      }
      return found
    },
  }
}

/** By number, as `system.errors` of the server has them. */
const meanings: Readonly<Record<string, readonly [DeliveryFailed['kind'], string]>> = {
  // Not an event's fault, and nothing but an operator changes it.
  16: ['unauthorized', 'no such column'], 60: ['unauthorized', 'no such table'], 81: ['unauthorized', 'no such database'], 164: ['unauthorized', 'read only'], 192: ['unauthorized', 'unknown user'],
  193: ['unauthorized', 'wrong password'], 194: ['unauthorized', 'password required'], 497: ['unauthorized', 'not permitted'], 516: ['unauthorized', 'not authenticated'],
  // Nothing was written.
  201: ['busy', 'over a quota'], 202: ['busy', 'too many queries'], 241: ['busy', 'out of memory'], 242: ['busy', 'the table is read only'], 243: ['busy', 'out of space'], 252: ['busy', 'too many parts'],
  // Something in the rows.
  6: ['refused', 'a value cannot be parsed'], 26: ['refused', 'a value cannot be parsed'], 27: ['refused', 'a value cannot be parsed'], 38: ['refused', 'a date cannot be parsed'],
  41: ['refused', 'a time cannot be parsed'], 53: ['refused', 'a value of the wrong type'], 69: ['refused', 'a value out of bounds'], 72: ['refused', 'a number cannot be parsed'], 117: ['refused', 'a row cannot be read'],
  407: ['refused', 'a decimal out of bounds'],
}

const unsent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])

function failureOf(error: unknown, url: string): DeliveryFailed {
  // Older servers say their numbers in words that the client does not know.
  const code = error instanceof Error ? ('code' in error ? String(error.code) : /^Code: (\d{1,4})\b/.exec(error.message)?.[1] ?? '') : ''
  const meaning = meanings[code]
  if (meaning !== undefined) return new DeliveryFailed(meaning[0], `${code} ${meaning[1]}`)
  return new DeliveryFailed(unsent.has(code) ? 'busy' : 'unknown', /^\w{1,40}$/.test(code) ? codeWords(code, placeOf(url)) : 'no answer of ClickHouse')
}
