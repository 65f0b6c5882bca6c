import type { OutboxEntry, Position } from '../store.ts'
import { toRecord } from './event-record.ts'

/** An event's id in its partition's stream: the instant of the move, in ms, and how many events the partition had with it, from 1. Both only rise. */
export interface EventId {
  readonly ms: number
  readonly ordinal: number
}

/** Where an event stands among all: by time, then by partition. */
export interface EventPlace extends EventId {
  readonly partition: number
}

/** What XRANGE gives: an id, and names and values in turn. */
export type StreamEntry = readonly [string, readonly string[]]

const ORDINAL_MAX = 999_999_999_999_999
const PARTITION_MAX = 9_999

export function toEventId(text: string): EventId {
  const found = /^(\d+)-(\d+)$/.exec(text)
  if (found === null) throw new Error('the id of an event is damaged')
  return { ms: Number(found[1]), ordinal: Number(found[2]) }
}

export function eventIdText({ ms, ordinal }: EventId): string {
  return `${ms}-${ordinal}`
}

/** Padded, so that positions are ordered as text too. */
export function toPosition({ ms, partition, ordinal }: EventPlace): Position {
  return `${String(ms).padStart(15, '0')}.${String(partition).padStart(4, '0')}.${String(ordinal).padStart(15, '0')}`
}

export function toPlace(position: Position): EventPlace {
  const found = /^(\d{15})\.(\d{4})\.(\d{15})$/.exec(position)
  if (found === null) throw new RangeError('not a position of this store')
  return { ms: Number(found[1]), partition: Number(found[2]), ordinal: Number(found[3]) }
}

/** After everything of the milliseconds before `atMs`, and before everything else. */
export function placeBefore(atMs: number): EventPlace {
  return { ms: Math.ceil(atMs) - 1, partition: PARTITION_MAX, ordinal: ORDINAL_MAX }
}

export function comparePlaces(one: EventPlace, other: EventPlace): number {
  return one.ms - other.ms || one.partition - other.partition || one.ordinal - other.ordinal
}

/** Where XRANGE begins in a partition for what comes after `from`. */
export function rangeStart(partition: number, from: EventPlace | null): string {
  if (from === null) return '-'
  if (partition === from.partition) return `(${from.ms}-${from.ordinal}`
  return partition < from.partition ? `${from.ms + 1}-0` : `${from.ms}-0`
}

/** The last id in a partition that is not after `to`. Without an ordinal it means all of that millisecond. */
export function rangeEnd(partition: number, to: EventPlace): string {
  if (partition === to.partition) return `${to.ms}-${to.ordinal}`
  return partition < to.partition ? `${to.ms}` : `${to.ms - 1}`
}

export function toEntry(partition: number, [id, fields]: StreamEntry): OutboxEntry {
  return { position: toPosition({ ...toEventId(id), partition }), record: toRecord(fields) }
}
