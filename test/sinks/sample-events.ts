import { toldQuantity } from '../../src/config/weighted-meter.ts'
import type { SinkMapping } from '../../src/config/config.ts'
import { toUsageEvent, type OutboxRecord, type UsageEvent } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import type { MeterMapping, MeterRule } from '../../src/sinks/sink.ts'
import { eventBody } from '../stores/sample-moves.ts'

const seed = Buffer.alloc(10)

/** An event as the outbox gives it; `n` makes its id. */
export function usageEvent(n: number, admittedMs: number, usage: Quantities, more: { readonly body?: object; readonly kind?: OutboxRecord['kind']; readonly booked?: Quantities; readonly correction?: number } = {}): UsageEvent {
  seed.writeUInt32BE(n, 6)
  return toUsageEvent({
    kind: more.kind ?? 'usage', id: exchangeId(admittedMs, Uint8Array.from(seed)), correction: more.correction ?? 0, atMs: admittedMs + 1_000, body: { ...eventBody, currency: 'USD', ...more.body },
    usage, booked: more.booked ?? null, drawn: [], overruns: [],
  })
}

export function rulesOf(mappings: readonly MeterMapping[]): readonly MeterRule[] {
  return mappings.map((mapping) => {
    const quantity = toldQuantity(mapping.quantity)
    if ('problem' in quantity) throw new Error(quantity.problem)
    const alone = mappings.filter(({ code }) => code === mapping.code).length === 1
    return {
      name: alone ? mapping.code : [mapping.code, ...Object.values(mapping.fixed ?? {})].join(':'), code: mapping.code, ...quantity.value, valueProperty: mapping.valueProperty ?? 'value',
      copied: mapping.copied ?? {}, fixed: mapping.fixed ?? {},
    }
  })
}

export function mappingOf(meters: readonly MeterMapping[], more: Partial<SinkMapping> = {}): SinkMapping {
  return { filter: { accounts: null, plans: null, models: null }, meters: rulesOf(meters), customers: {}, unmapped: 'bury', rollup: null, ...more }
}
