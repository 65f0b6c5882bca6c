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

/** Keeps what has become of these items of one event or sum, beside what is kept of it already; the same again changes nothing but the instant. */
export async function quarantine(records: Records, sink: string, of: string, items: readonly Item[], nowMs: number): Promise<void> {
  const [first] = items
  if (first === undefined) return
  const id = `${sink} ${of}`
  for (;;) {
    const stored = await records.get(quarantineKind, id)
    const before = stored as unknown as Omit<Quarantined, 'id'> | undefined
    const kept = new Map([...before?.records ?? [], ...items.map(({ record }) => record)].map((record) => [record.id, record]))
    const ambiguous = before?.why === 'ambiguous' || first.state !== 'refused'
    const since = [before?.sinceMs ?? null, first.sinceMs].filter((ms) => ms !== null)
    const document: Omit<Quarantined, 'id'> = {
      sink, of, why: ambiguous ? 'ambiguous' : 'refused', reason: before === undefined || before.reason.includes(first.reason ?? '') ? before?.reason ?? first.reason ?? '' : `${before.reason}; ${first.reason ?? ''}`,
      sinceMs: since.length === 0 ? null : Math.min(...since), atMs: nowMs, records: [...kept.values()],
    }
    // An operator may be at it, here or at another gateway.
    if (await records.swap(quarantineKind, id, stored, { ...document })) return
  }
}

/** By sink, in the order of their ids. */
export async function quarantined(records: Records, sink?: string): Promise<readonly Quarantined[]> {
  const all = (await records.list(quarantineKind)).map(({ id, value }) => ({ ...value, id }) as Quarantined)
  return sink === undefined ? all : all.filter((one) => one.sink === sink)
}
