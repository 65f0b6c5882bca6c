import { amberflo } from '../../../../src/sinks/amberflo.ts'
import { canary, json, type Answer, type Dialect } from '../dialect.ts'
import type { Received } from '../books.ts'
import { eventsIn } from './shapes.ts'

const key = 'amberflo-test-key'

interface Message {
  readonly uniqueId: string
  readonly meterApiName: string
  readonly customerId: string
  readonly meterValue: number
  readonly meterTimeInMillis: number
}

const problem = (status: number): Answer => json(status, { errorMessage: canary })

export const amberfloDialect: Dialect = {
  name: 'amberflo',
  kind: amberflo,
  duplicates: 'silent',
  settings: (url, right) => ({ url, failover_url: 'http://127.0.0.1:9', private: true, api_key: right ? key : 'amberflo-wrong-key' }),
  authorized: ({ headers }) => headers['x-api-key'] === key,
  read(call) {
    if (call.path !== '/ingest') return problem(404)
    const messages = eventsIn<Message>(call)
    return messages === null ? problem(400) : messages.map(received)
  },
  answer: (fates) => ({ status: 200, headers: { 'content-type': 'text/plain' }, body: `${fates.length} records were ingested` }),
  refusal: (why) => problem({ unauthorized: 401, busy: 429, broken: 500, too_many: 400, too_large: 413, concurrent: 409 }[why]),
}

function received({ uniqueId: id, meterApiName: code, customerId: customer, meterValue: value, meterTimeInMillis: timeMs }: Message): Received {
  return { key: id, id, code, customer, timeMs, value: String(value), bad: typeof value === 'number' ? null : 'no number' }
}
