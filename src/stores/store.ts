import type { Balance, Check } from '../metering/check.ts'
import type { OutboxRecord } from '../metering/event.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, PendingReservation, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../metering/moves.ts'
import type { StoreRow } from './rows.ts'

/**
 * Keeps the ledger true across processes and restarts. Moves are handed over one by one, travel in batches, are answered one by one,
 * and may all be repeated blindly. A promise resolves once the move is durable; it rejects with StoreUnavailable when its outcome is unknown
 * or it was not made.
 */
export interface Store {
  reserve(move: Reserve): Promise<ReserveAnswer>
  extend(move: Extend): Promise<ExtendAnswer>
  settle(move: Settle): Promise<SettleAnswer>
  void(move: Void): Promise<VoidAnswer>
  expire(move: Expire): Promise<ExpireAnswer>
  /** Reservations whose deadline has passed. */
  due(nowMs: number): Promise<readonly DueReservation[]>
  /** What an exchange that has not ended holds, wherever its account is; undefined: nothing is pending under this id. For people: it may be slow. Absent: it cannot tell. */
  pending?(id: string): Promise<PendingReservation | undefined>
  /** Standing of checks without holding anything, in their order. */
  balances(home: string, checks: readonly Check[]): Promise<readonly Balance[]>
  readonly outbox: Outbox
  readonly records: Records
  /** The time that all replicas of this store go by, in ms since 1970; absent: this process's own clock. */
  nowMs?(): number
  status(): StoreStatus
  /** What an operator may want to know of it. Rejects with StoreUnavailable. */
  inspect?(): Promise<StoreDetails>
  /** All that it keeps, with header and end, while nobody uses it: throws RowsRefused otherwise. `version` is the product's. */
  export?(version: string): AsyncIterable<StoreRow>
  close(): Promise<void>
}

/** For people and their programs; nothing is decided by it. */
export interface StoreDetails {
  readonly format: number
  /** Names one making of the books. */
  readonly epoch: string
  /** null: it has none. */
  readonly partitions: number | null
  /** Reservations that are pending. */
  readonly reservations: number
  /** Events that at least one configured consumer has not taken; null: nobody has measured it. */
  readonly undelivered: number | null
  readonly servers: readonly { readonly address: string; readonly product: string; readonly version: string | null; readonly memoryBytes: number | null; /** 0: no bound. */ readonly memoryMaxBytes: number | null }[]
  /** What can be lost and what cannot, in sentences. */
  readonly losses: readonly string[]
}

export class StoreUnavailable extends Error {
  override name = 'StoreUnavailable'
}

export interface StoreStatus {
  /** False: admission is refused until the store has recovered; reading may still work. */
  readonly admitting: boolean
  /** In plain words, when not admitting. */
  readonly reason: string | null
}

/** Where a consumer stands: opaque, ordered within one store, printable. */
export type Position = string

/** Events written and not yet delivered; one in-order cursor per consumer (a sink's name). */
export interface Outbox {
  /** Become the one who delivers for `consumer`; undefined while another holds it. Renewed by calling again. */
  lease(consumer: string, holder: string, nowMs: number, untilMs: number): Promise<Fence | undefined>
  /** Lets go of the lease before its time, so that another may deliver at once. Not refused when it is gone already. */
  release(fence: Fence): Promise<void>
  /** The next records after the consumer's cursor: those of one root account in order. Maybe fewer than there are; none only at the end. */
  read(fence: Fence, count: number): Promise<readonly OutboxEntry[]>
  /**
   * `done` were delivered, and with each everything that `read` gives before it for the same root account. In what order they are told does not matter.
   * Idempotent; refused with StaleFence when another holds the lease.
   */
  advance(fence: Fence, done: readonly Pick<OutboxEntry, 'position'>[]): Promise<void>
  /** Keeps the record with its reason in the list of the dead; the cursor is moved by `advance`. Those that are asked for at once travel together. */
  bury(fence: Fence, entry: OutboxEntry, reason: string, nowMs: number): Promise<void>
  /**
   * The dead behind `after` (null: from the first one on), by consumer and position: at most `count`, maybe fewer than there are; none only at the end. All of
   * them, page by page: `everyDead`.
   */
  dead(consumer?: string, after?: DeadPlace | null, count?: number): Promise<readonly DeadEntry[]>
  /** How many of the consumer's are dead: asked all the time, so it is quick however many there are. */
  deadCount(consumer: string): Promise<number>
  /** Forgets dead records, once delivered again. */
  exhume(ids: readonly DeadPlace[]): Promise<void>
  /** Any records after `from` (null: the oldest kept), for tail, replay, reports. Needs no lease. */
  scan(from: Position | null, count: number): Promise<readonly OutboxEntry[]>
  /** The position just before the first record written at or after `atMs`. */
  positionAt(atMs: number): Promise<Position | null>
  /** Moves a consumer's cursor back, so that it delivers again; never forward, over what it has not delivered. Whoever holds its lease has lost it. */
  rewind(consumer: string, to: Position | null): Promise<void>
  /** Moves the cursor of a lease's consumer to where another consumer's stands, forward or back. Absent: it cannot. Refused with StaleFence when another holds the lease. */
  follow?(fence: Fence, other: string): Promise<void>
  /** The next of what the consumer does not have yet, behind `after` (null: from the first one on), whoever delivers to it; none only at the end. Needs no lease. */
  waiting?(consumer: string, after: Position | null, count: number): Promise<readonly OutboxEntry[]>
  /** Records not yet delivered, and the instant of the oldest. */
  lag(consumer: string): Promise<{ readonly count: number; readonly oldestMs: number | null }>
  /** Wakes when records may have been appended; returns a function that stops listening. */
  onAppend(listener: () => void): () => void
  /** Which consumers are configured: only they hold back trimming. */
  setConsumers(names: readonly string[]): Promise<void>
  /** A consumer holds back trimming no more, from now on and until it is configured again. Absent: `setConsumers` says enough. */
  letGo?(consumer: string): Promise<void>
  /** `scan` still has everything that was written at or after this instant, ms; 0: everything ever; Infinity: nothing. Absent: 0. */
  completeSince?(): Promise<number>
  /** Consumers whose events were removed before they had them, with how many, as this process has found since it began: it only grows. */
  gaps?(): readonly { readonly consumer: string; readonly events: number }[]
}

export class StaleFence extends Error {
  override name = 'StaleFence'
}

export interface Fence {
  readonly consumer: string
  readonly token: number
}

export interface OutboxEntry {
  readonly position: Position
  readonly record: OutboxRecord
}

/** Which one of the dead. */
export interface DeadPlace {
  readonly consumer: string
  readonly position: Position
}

export interface DeadEntry extends OutboxEntry, DeadPlace {
  readonly reason: string
  readonly buriedMs: number
}

/** Pages of the dead, one after another, so that they are never all in memory. What is buried or exhumed meanwhile may be in them or not; all else is, once. */
export async function* everyDead(outbox: Pick<Outbox, 'dead'>, consumer?: string): AsyncGenerator<readonly DeadEntry[]> {
  for (let after: DeadPlace | null = null; ;) {
    const page: readonly DeadEntry[] = await outbox.dead(consumer, after)
    const last = page.at(-1)
    if (last === undefined) return
    yield page
    after = last
  }
}

/**
 * Small documents of the product (keys made at run time, revocations, suspensions, audit), by kind and id. A put is durable when it resolves.
 * `watch` tells of every change, of this or another process; of several changes at once maybe only what they came to.
 */
export interface Records {
  get(kind: string, id: string): Promise<Readonly<Record<string, unknown>> | undefined>
  put(kind: string, id: string, value: Readonly<Record<string, unknown>>): Promise<void>
  /**
   * Puts `value` only where the document is `expected` (undefined: where there is none); compared by content. True: the document is now `value`, also
   * when it was that already, so that it may be repeated blindly. False: it is something else, and was left alone.
   */
  swap(kind: string, id: string, expected: Readonly<Record<string, unknown>> | undefined, value: Readonly<Record<string, unknown>>): Promise<boolean>
  /** With `expected`: only while the document is still that. */
  delete(kind: string, id: string, expected?: Readonly<Record<string, unknown>>): Promise<void>
  /** All of them, by id. */
  list(kind: string): Promise<readonly { readonly id: string; readonly value: Readonly<Record<string, unknown>> }[]>
  watch(kind: string, listener: (id: string, value: Readonly<Record<string, unknown>> | undefined) => void): () => void
}
