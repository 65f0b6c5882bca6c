import type { OutboxRecord } from '../../metering/event.ts'
import type { Effect } from '../../metering/ledger.ts'
import type { StoreStatus } from '../store.ts'

/**
 * What a store in this process keeps of its moves, in order. An event's *ordinal* counts the events ever written, from 1: it is what
 * positions and cursors are made of.
 */
export interface Journal {
  /** Why a move may not be made now, in plain words; null: it may. `finish` is everything that lets go of what is held. */
  refuses(what: 'admit' | 'finish'): string | null
  /**
   * Keeps one move. Resolves with `answer` once it, and everything before it, is durable; rejects with StoreUnavailable when that is unknown.
   * Without effect and record it only waits for what came before.
   */
  append<Answer>(answer: Answer, effect: Effect | null, record: OutboxRecord | null): Promise<Answer>
  /** Changes beside the ledger, in order with the moves. */
  change(changes: readonly Change[]): Promise<void>
  /** Durable events after an ordinal, in order; at most `count`, maybe fewer, none only at the end. */
  read(after: number, count: number): Promise<readonly StoredEvent[]>
  /** The ordinal just before the first event written at or after an instant. */
  ordinalBefore(atMs: number): Promise<number>
  /** The last durable event. */
  readonly lastOrdinal: number
  /** Events up to this one have been trimmed. */
  readonly trimmedThrough: number
  /** The dead behind a place (null: from the first one on), by consumer and ordinal; at most `count`, maybe fewer, none only at the end. */
  dead(consumer: string | undefined, after: { readonly consumer: string; readonly ordinal: number } | null, count: number): Promise<readonly DeadEvent[]>
  /** Absent: they are few, and are counted one by one. */
  deadCount?(consumer: string): Promise<number>
  document(kind: string, id: string): Promise<string | undefined>
  /** All of them, by id. */
  documents(kind: string): Promise<readonly { readonly id: string; readonly value: string }[]>
  /** Called after events became durable. */
  onEvents: (() => void) | null
  status(): StoreStatus
}

export interface StoredEvent {
  readonly ordinal: number
  readonly record: OutboxRecord
}

export interface DeadEvent extends StoredEvent {
  readonly consumer: string
  readonly reason: string
  readonly buriedMs: number
}

export type Change =
  | { readonly kind: 'cursor'; readonly consumer: string; readonly ordinal: number }
  | { readonly kind: 'bury'; readonly consumer: string; readonly ordinal: number; readonly reason: string; readonly buriedMs: number; readonly record: OutboxRecord }
  | { readonly kind: 'exhume'; readonly consumer: string; readonly ordinal: number }
  | { readonly kind: 'put'; readonly of: string; readonly id: string; readonly value: string }
  | { readonly kind: 'delete'; readonly of: string; readonly id: string }
