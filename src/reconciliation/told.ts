import type { SinkMapping } from '../config/config.ts'
import type { UsageEvent } from '../metering/event.ts'
import { creditOf, recordsOf, ruleOf, type Telling } from '../sinks/mapping.ts'
import type { SinkRecord } from '../sinks/sink.ts'
import { unitsOf } from './amount.ts'

/** One amount of an event that a sink is told, or would be if its receiver could be. */
export interface Amount {
  readonly record: SinkRecord
  /** Whose event it is. */
  readonly eventId: string
  readonly rule: string
  readonly account: string
  /** null: nobody has said who the account is there. */
  readonly customer: string | null
  readonly code: string
  readonly units: bigint
  readonly timeMs: number
  /** False: it cannot be told, so that its event was buried. */
  readonly tellable: boolean
}

/** The code of a whole event: it counts as 1. */
const eventCode = 'event'

/** What a sink is told of an event by its own mapping, with what cannot be told. Null: it was left out because its account has no customer there. */
export function amountsOf(event: UsageEvent, kind: Telling, mapping: SinkMapping | null): readonly Amount[] | null {
  const told = recordsOf(event, kind, mapping)
  if (told.unmapped && mapping?.unmapped === 'skip') return null
  const ids = new Set(told.records.map(({ id }) => id))
  // What was refused has an amount all the same: it was settled.
  const everything = told.refused.length === 0 ? told : recordsOf(event, { ...kind, customerDefault: 'account', contract: { ...kind.contract, corrections: 'negative' } }, mapping)
  return everything.records.map((record) => amountOf(record, event, mapping, { tellable: ids.has(record.id), unmapped: told.unmapped }))
}

/** What was sent to take an event back; where it was not kept, what would be. */
export function creditedAmounts(event: UsageEvent, records: readonly SinkRecord[] | null, kind: Telling, mapping: SinkMapping | null): readonly Amount[] {
  const note = creditOf(event)
  return (records ?? recordsOf(note, kind, mapping).records).map((record) => amountOf(record, note, mapping, { tellable: true, unmapped: false }))
}

function amountOf(record: SinkRecord, event: UsageEvent, mapping: SinkMapping | null, { tellable, unmapped }: { readonly tellable: boolean; readonly unmapped: boolean }): Amount {
  return {
    record, eventId: event.id, rule: ruleOf(record, event.id, mapping), account: String(event.data['account']), timeMs: record.timeMs, tellable,
    ...(record.is === 'meter' ? { customer: unmapped ? null : record.customer, code: record.code, units: unitsOf(record.value) }
      : { customer: event.subject, code: eventCode, units: unitsOf('1') }),
  }
}
