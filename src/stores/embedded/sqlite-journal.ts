import type { Clock } from '../../clock.ts'
import type { OutboxRecord } from '../../metering/event.ts'
import type { Effect } from '../../metering/ledger.ts'
import type { Change, DeadEvent, Journal, StoredEvent } from '../local/journal.ts'
import { StoreUnavailable, type StoreStatus } from '../store.ts'
import type { Bounds, Row } from './journal-file.ts'
import type { JournalLink } from './journal-link.ts'
import type { WriterState, WrittenChange } from './worker-protocol.ts'

/** What a group may hold; the next move begins another. */
const GROUP_MOVES = 512
const GROUP_BYTES = 1024 * 1024
/** How many groups travel in one transaction. */
const GROUPS_AT_ONCE = 8
/** With more moves than this waiting, nothing is admitted. */
const WAITING_MAX = 50_000
/** A disk that has been busy with one commit for longer is as good as absent. */
const STALLED_MS = 2_000
/** Delivery is usually just behind: the last events are read from here and not from disk. */
const TAIL_EVENTS = 2_048

/** Moves that become durable together. */
class Group {
  readonly effects: string[] = []
  readonly outbox: string[] = []
  readonly records: OutboxRecord[] = []
  readonly changes: WrittenChange[] = []
  readonly resolves: (() => void)[] = []
  readonly rejects: ((error: Error) => void)[] = []
  bytes = 0

  get isFull(): boolean {
    return this.resolves.length >= GROUP_MOVES || this.bytes >= GROUP_BYTES
  }
}

/**
 * Gathers what one turn of the event loop brings, and everything that comes while a commit is under way, into groups; hands them to the journal's
 * thread and answers once they are on disk. After a failed commit it refuses everything until `resume`.
 */
export class SqliteJournal implements Journal {
  onEvents: (() => void) | null = null
  lastOrdinal: number
  trimmedThrough: number
  /** Moves since the last snapshot. */
  movesSinceSnapshot = 0
  readonly #clock: Clock
  readonly #onFailure: () => void
  #link: JournalLink
  #lastSeq: number
  #lastAtMs: number
  #queue: Group[] = []
  #waiting = 0
  #flying: readonly Group[] | null = null
  #flyingSinceMs = 0
  #scheduled = false
  #full: boolean
  #failed: string | null = null
  #tail: StoredEvent[] = []
  #idle: (() => void)[] = []

  constructor(parts: { clock: Clock; link: JournalLink; bounds: Bounds; state: WriterState; replayed: number; onFailure: () => void }) {
    this.#clock = parts.clock
    this.#onFailure = parts.onFailure
    this.#link = parts.link
    this.#lastSeq = parts.bounds.last
    this.#lastAtMs = parts.bounds.lastAtMs
    this.lastOrdinal = parts.bounds.lastEvent
    this.trimmedThrough = parts.bounds.trimmedThrough
    this.#full = parts.state.full
    this.movesSinceSnapshot = parts.replayed
    this.#listen()
  }

  /** The last durable row. */
  get lastSeq(): number {
    return this.#lastSeq
  }

  refuses(what: 'admit' | 'finish'): string | null {
    if (this.#failed !== null) return this.#failed
    if (what === 'finish') return null
    if (this.#full) return 'the disk is full: running calls are settled, no new ones are admitted'
    if (this.#waiting >= WAITING_MAX) return `${this.#waiting} moves wait for the disk`
    if (this.#flying !== null && this.#clock.monotonicMs() - this.#flyingSinceMs > STALLED_MS) return 'the disk has not confirmed a write for more than two seconds'
    return null
  }

  status(): StoreStatus {
    const reason = this.refuses('admit')
    return { admitting: reason === null, reason }
  }

  append<Answer>(answer: Answer, effect: Effect | null, record: OutboxRecord | null): Promise<Answer> {
    if (this.#failed !== null) return Promise.reject(new StoreUnavailable(this.#failed))
    if (effect === null && record === null && this.#flying === null && this.#queue.length === 0) return Promise.resolve(answer)
    const group = this.#group()
    // As text at once: what an effect points to may change with the next move.
    if (effect !== null) {
      const text = JSON.stringify(effect)
      group.effects.push(text)
      group.bytes += text.length
    }
    if (record !== null) {
      const text = JSON.stringify(record)
      group.outbox.push(text)
      group.records.push(record)
      group.bytes += text.length
    }
    return this.#wait(group, answer)
  }

  change(changes: readonly Change[]): Promise<void> {
    if (this.#failed !== null) return Promise.reject(new StoreUnavailable(this.#failed))
    const group = this.#group()
    for (const change of changes) {
      const written = change.kind === 'bury' ? { ...change, record: JSON.stringify(change.record) } : change
      group.changes.push(written)
      if (written.kind === 'put') group.bytes += written.value.length
      else if (written.kind === 'bury') group.bytes += written.record.length
    }
    return this.#wait(group, undefined)
  }

  async read(after: number, count: number): Promise<readonly StoredEvent[]> {
    const from = this.#tail[0]?.ordinal
    if (from !== undefined && after >= from - 1) return this.#tail.slice(after + 1 - from, after + 1 - from + count)
    const rows = await this.#link.ask('read', { after, count })
    const events: StoredEvent[] = []
    for (const row of rows) {
      let ordinal = row.first
      for (const record of JSON.parse(row.outbox) as OutboxRecord[]) {
        if (ordinal > after && events.length < count) events.push({ ordinal, record })
        ordinal += 1
      }
    }
    return events
  }

  ordinalBefore(atMs: number): Promise<number> {
    return this.#link.ask('ordinalBefore', { atMs })
  }

  async dead(consumer: string | undefined, after: { readonly consumer: string; readonly ordinal: number } | null, count: number): Promise<readonly DeadEvent[]> {
    const rows = await this.#link.ask('dead', { consumer: consumer ?? null, after, count })
    return rows.map((row) => ({ ...row, record: JSON.parse(row.record) as OutboxRecord }))
  }

  deadCount(consumer: string): Promise<number> {
    return this.#link.ask('deadCount', { consumer })
  }

  async document(kind: string, id: string): Promise<string | undefined> {
    return await this.#link.ask('document', { kind, id }) ?? undefined
  }

  async documents(kind: string): Promise<readonly { readonly id: string; readonly value: string }[]> {
    const found: { readonly id: string; readonly value: string }[] = []
    for (let more = true; more;) {
      const page = await this.#link.ask('documents', { kind, after: found.at(-1)?.id ?? null })
      for (const document of page.documents) found.push(document)
      more = page.more
    }
    return found
  }

  // === For the store around it ===

  /** Resolves when nothing waits for the disk. */
  flushed(): Promise<void> {
    if (this.#flying === null && this.#queue.length === 0) return Promise.resolve()
    return new Promise((resolve) => this.#idle.push(resolve))
  }

  /** Finds a deleted directory although nothing is written, and room on a disk that was full. */
  async look(): Promise<void> {
    if (this.#failed !== null) return
    this.#full = (await this.#link.ask('look', null)).full
  }

  /** Removes delivered, cold rows that the snapshot of `seq` covers, some at a time. */
  async trim(seq: number, event: number, beforeMs: number): Promise<void> {
    for (let more = true; more && this.#failed === null;) {
      const trimmed = await this.#link.ask('trim', { seq, event, beforeMs })
      this.trimmedThrough = trimmed.trimmedThrough
      more = trimmed.more
    }
  }

  /** Refuses everything from now on; who waits is told that the outcome is unknown. */
  fail(reason: string): void {
    if (this.#failed !== null) {
      this.#failed = reason
      return
    }
    this.#failed = reason
    const groups = [...this.#flying ?? [], ...this.#queue]
    this.#flying = null
    this.#queue = []
    this.#waiting = 0
    const error = new StoreUnavailable(reason)
    for (const group of groups) for (const reject of group.rejects) reject(error)
    this.#tellIdle()
    this.#onFailure()
  }

  /** Another connection, still refusing moves: it answers reads. */
  async relink(link: JournalLink): Promise<void> {
    const old = this.#link
    this.#link = link
    await old.abandon()
  }

  /** Admits again, on books that were rebuilt from disk. */
  resume(bounds: Bounds, state: WriterState): void {
    this.#lastSeq = bounds.last
    this.#lastAtMs = bounds.lastAtMs
    this.#tail = []
    const grown = bounds.lastEvent > this.lastOrdinal
    this.lastOrdinal = bounds.lastEvent
    this.trimmedThrough = bounds.trimmedThrough
    this.#full = state.full
    this.#failed = null
    this.#listen()
    if (grown) this.onEvents?.()
  }

  async close(reason: string): Promise<void> {
    this.fail(reason)
    await this.#link.close()
  }

  #listen(): void {
    const link = this.#link
    link.onBroken = (reason) => { if (link === this.#link) this.fail(reason) }
  }

  #group(): Group {
    let group = this.#queue.at(-1)
    if (group === undefined || group.isFull) this.#queue.push(group = new Group())
    return group
  }

  #wait<Answer>(group: Group, answer: Answer): Promise<Answer> {
    this.#waiting += 1
    this.#schedule()
    return new Promise((resolve, reject) => {
      group.resolves.push(() => resolve(answer))
      group.rejects.push(reject)
    })
  }

  /** At the end of this turn, so that what it brings travels together; while a commit is under way, after that. */
  #schedule(): void {
    if (this.#scheduled || this.#flying !== null) return
    this.#scheduled = true
    const send = (): void => {
      this.#scheduled = false
      if (this.#failed === null && this.#flying === null && this.#queue.length > 0) this.#send()
    }
    if (this.#clock.afterTurn === undefined) queueMicrotask(send)
    else this.#clock.afterTurn(send)
  }

  #send(): void {
    const groups = this.#queue.splice(0, GROUPS_AT_ONCE)
    const rows: Row[] = []
    let seq = this.#lastSeq
    let lastEvent = this.lastOrdinal
    let atMs = this.#lastAtMs
    for (const group of groups) {
      if (group.effects.length === 0 && group.outbox.length === 0) continue
      for (const record of group.records) atMs = Math.max(atMs, record.atMs)
      lastEvent += group.records.length
      seq += 1
      rows.push({ seq, atMs, events: group.records.length, lastEvent, effects: `[${group.effects.join(',')}]`, outbox: `[${group.outbox.join(',')}]` })
    }
    const changes = groups.flatMap((group) => group.changes)
    this.#flying = groups
    if (rows.length === 0 && changes.length === 0) {
      this.#landed(groups, seq, atMs)
      return
    }
    this.#flyingSinceMs = this.#clock.monotonicMs()
    const link = this.#link
    // A rejection is followed by `onBroken`, unless it was not the disk's doing: either way nothing is known about these groups.
    link.ask('commit', { rows, changes }).then(
      (state) => { if (this.#flying === groups) { this.#full = state.full; this.#landed(groups, seq, atMs) } },
      (error: Error) => { if (this.#flying === groups) this.fail(error.message) },
    )
  }

  #landed(groups: readonly Group[], seq: number, atMs: number): void {
    this.#flying = null
    this.#lastSeq = seq
    this.#lastAtMs = atMs
    let events = 0
    for (const group of groups) {
      for (const record of group.records) this.#tail.push({ ordinal: this.lastOrdinal + ++events, record })
      this.#waiting -= group.resolves.length
      this.movesSinceSnapshot += group.effects.length
    }
    this.lastOrdinal += events
    if (this.#tail.length > 2 * TAIL_EVENTS) this.#tail = this.#tail.slice(-TAIL_EVENTS)
    for (const group of groups) for (const resolve of group.resolves) resolve()
    if (events > 0) this.onEvents?.()
    if (this.#queue.length > 0) this.#schedule()
    else this.#tellIdle()
  }

  #tellIdle(): void {
    const idle = this.#idle
    this.#idle = []
    for (const tell of idle) tell()
  }
}
