import type { SinkRecord } from '../sinks/sink.ts'
import type { Records } from '../stores/store.ts'

/** Documents: events that were taken back at a sink, one each, by sink and event. */
export const creditKind = 'credit'

export interface Credit {
  /** The event that was taken back. */
  readonly eventId: string
  readonly atMs: number
  /** False: it may have been sent. */
  readonly done: boolean
  /** What was sent for it; null: it is from a time when that was not kept. */
  readonly records: readonly SinkRecord[] | null
}

/** Of one sink, by event. */
export async function credits(records: Records, sink: string): Promise<ReadonlyMap<string, Credit>> {
  const start = `${sink} `
  return new Map((await records.list(creditKind)).filter(({ id }) => id.startsWith(start)).map(({ id, value }) => {
    const eventId = id.slice(start.length)
    return [eventId, { eventId, atMs: Number(value['at_ms']), done: value['done'] === true, records: (value['records'] as readonly SinkRecord[] | undefined) ?? null }]
  }))
}
