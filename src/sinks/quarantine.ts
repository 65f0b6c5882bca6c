import type { Records } from '../stores/store.ts'
import type { Item } from './attempts.ts'
import type { SinkRecord } from './sink.ts'

/** Documents: records that nobody sends any more until an operator decides, kept whole. */
export const quarantineKind = 'undelivered'

export interface Quarantined {
  /** Of the document; names the sink, too. */
  readonly id: string
  readonly sink: string
  /** The event, or the sum. */
  readonly of: string
  /** `ambiguous`: it may have been booked. `refused`: a sum that the receiver refused for good. */
  readonly why: 'ambiguous' | 'refused'
  readonly reason: string
  /** When it was first sent; null: it is known not to have been booked. */
  readonly sinceMs: number | null
  readonly atMs: number
  readonly records: readonly SinkRecord[]
}

/** Keeps what has become of these items of one event or sum; the same again changes nothing but the instant. */
export async function quarantine(records: Records, sink: string, of: string, items: readonly Item[], nowMs: number): Promise<void> {
  const [first] = items
  if (first === undefined) return
  const document: Omit<Quarantined, 'id'> = {
    sink, of, why: first.state === 'refused' ? 'refused' : 'ambiguous', reason: first.reason ?? '', sinceMs: first.sinceMs, atMs: nowMs, records: items.map(({ record }) => record),
  }
  await records.put(quarantineKind, `${sink} ${of}`, { ...document })
}

/** By sink, in the order of their ids. */
export async function quarantined(records: Records, sink?: string): Promise<readonly Quarantined[]> {
  const all = (await records.list(quarantineKind)).map(({ id, value }) => ({ ...value, id }) as Quarantined)
  return sink === undefined ? all : all.filter((one) => one.sink === sink)
}
