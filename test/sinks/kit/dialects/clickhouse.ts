import { clickhouse } from '../../../../src/sinks/clickhouse.ts'
import type { UsageEvent } from '../../../../src/metering/event.ts'
import { canary, type Answer, type Call, type Dialect } from '../dialect.ts'
import type { Books, Received } from '../books.ts'

const user = { name: 'tallygate', password: 'clickhouse-test-password' }

/** As the server's errors are numbered. */
const names: Readonly<Record<number, string>> = { 60: 'UNKNOWN_TABLE', 117: 'INCORRECT_DATA', 202: 'TOO_MANY_SIMULTANEOUS_QUERIES', 209: 'SOCKET_TIMEOUT', 252: 'TOO_MANY_PARTS', 516: 'AUTHENTICATION_FAILED' }

export function exception(status: number, code: number): Answer {
  return { status, headers: { 'content-type': 'text/plain', 'x-clickhouse-exception-code': String(code) }, body: `Code: ${code}. DB::Exception: ${canary}. (${names[code] ?? 'LOGICAL_ERROR'}) (version 25.8.1.1)` }
}

export interface ClickHouseRow {
  readonly id: string
  readonly account: string
  readonly time: string
  readonly event: string
  readonly [column: string]: unknown
}

/** Insertions into a ReplacingMergeTree that is ordered by account, time and id, and the sums of the sink's own questions. `books`: of the fake, for the latter. */
export function clickhouseDialect(books: () => Books | null = () => null): Dialect {
  return {
    name: 'clickhouse',
    kind: clickhouse,
    duplicates: 'overwrites',
    mute: true,
    settings: (url, right) => ({ url, private: true, database: 'default', table: 'tallygate_usage', username: user.name, password: right ? user.password : 'clickhouse-wrong-password', create_table: false }),
    authorized: ({ headers }) => headers.authorization === `Basic ${Buffer.from(`${user.name}:${user.password}`).toString('base64')}`,
    read(call) {
      const query = call.query.get('query')
      if (query === null) return select(call, books())
      if (!/^INSERT INTO tallygate_usage\s+FORMAT JSONEachRow$/.test(query.trim())) return exception(404, 60)
      // What is only in the server's memory is lost with it.
      if (call.query.get('async_insert') !== '0' || call.query.get('wait_end_of_query') !== '1') return exception(500, 117)
      return rowsOf(call.text).map(received)
    },
    answer: (fates, call) => (fates.some(({ fate }) => fate === 'refused') ? exception(400, 117) : done(call, '')),
    refusal: (why) => ({ unauthorized: exception(403, 516), busy: exception(500, 202), broken: exception(500, 209), too_many: exception(400, 117), too_large: exception(400, 117), concurrent: exception(500, 202) })[why],
  }
}

export function rowsOf(text: string): ClickHouseRow[] {
  return text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as ClickHouseRow)
}

function done(call: Call, body: string): Answer {
  return { status: 200, headers: { 'x-clickhouse-query-id': call.query.get('query_id') ?? '', 'x-clickhouse-summary': '{"written_rows":"1"}' }, body }
}

function received({ id, account, time, event }: ClickHouseRow): Received {
  const whole = JSON.parse(event) as UsageEvent
  return { key: `${account} ${time} ${id}`, id, code: 'requests', customer: account, timeMs: Date.parse(time), value: '1', bad: whole.id === id && whole.subject === account ? null : 'no event' }
}

function select(call: Call, books: Books | null): Answer {
  const asked = { customer: call.query.get('param_account') ?? '', fromMs: Number(call.query.get('param_from')), untilMs: Number(call.query.get('param_until')) }
  if (books === null || !call.text.includes(' FINAL WHERE ')) return exception(400, 117)
  if (call.text.startsWith('SELECT toString(sum(requests))')) return done(call, `${JSON.stringify({ total: books.total(asked) })}\n`)
  const ids = call.query.get('param_ids') ?? ''
  return done(call, books.bookings(asked).filter(({ received }) => ids.includes(`'${received.id}'`)).map(({ received, copies }) => `${JSON.stringify({ id: received.id, copies: String(copies), value: received.value })}\n`).join(''))
}
