import { toUsageEvent, type EventBody } from '../../../src/metering/event.ts'
import { exchangeId } from '../../../src/metering/id.ts'
import type { EventRecord, MeterRecord, SinkKind, SinkRecord } from '../../../src/sinks/sink.ts'
import { SeededRandom } from '../../sim/seeded-random.ts'

const body: EventBody = {
  source: 'tallygate/gw-1', account: 'acme', key: 'acme-dev', plan: 'pro', plan_version: 1, labels: {}, provider: 'openai', endpoint: 'chat.completions',
  model: 'gpt-4o', model_served: 'gpt-4o-2024-08-06', upstream: 'main', stream: false, caller: { request_id: null, user: null, session: null, tags: {} },
  attempt: 1, status: 200, end: 'complete', usage_source: 'upstream', settled_at: '2026-08-21T10:00:02.000Z', currency: 'USD', price_version: '1',
}

/** Usage events of exchanges admitted one millisecond after the other, ending at `nowMs`. */
export function sampleEvents(count: number, nowMs: number, seed = 1): EventRecord[] {
  const random = new SeededRandom(seed, 'samples')
  return Array.from({ length: count }, (_, index) => {
    const timeMs = nowMs - count + index
    const id = exchangeId(timeMs, random.bytes(10))
    const input = random.int(1, 4_000)
    const output = random.int(1, 900)
    const event = toUsageEvent({
      kind: 'usage', id, correction: 0, atMs: timeMs + 1_000, body: { ...body, account: random.pick(['acme', 'globex', 'initech']) }, booked: null, drawn: [], overruns: [],
      usage: { requests: 1, input_tokens: input, output_tokens: output, total_tokens: input + output, cost: 2_500 * input + 10_000 * output },
    })
    return { is: 'event', id, timeMs, event }
  })
}

/** One record for each of the kind's own meters in turn, of different customers. */
export function sampleRecords(kind: SinkKind, count: number, nowMs: number, seed = 1): SinkRecord[] {
  const events = sampleEvents(count, nowMs, seed)
  if (kind.takes === 'events') return events
  const meters = kind.meters ?? []
  const random = new SeededRandom(seed, 'values')
  return events.map(({ id, timeMs, event }, index): MeterRecord => {
    const meter = meters[index % meters.length]
    if (meter === undefined) throw new Error(`${kind.type} takes records and has no meters of its own`)
    const copied = Object.entries(meter.copied ?? {}).flatMap(([name, field]) => typeof event.data[field] === 'string' ? [[name, event.data[field]]] : [])
    return {
      is: 'meter', id: `${id}:${meter.code}`.slice(0, 100), timeMs, code: meter.code, customer: `cus_${event.subject}`, account: event.subject,
      value: String(random.int(1, 5_000)), valueProperty: meter.valueProperty ?? 'value', properties: { ...Object.fromEntries(copied), ...meter.fixed },
    }
  })
}
