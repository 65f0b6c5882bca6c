import { StaleFence, type DeadEntry, type DeadPlace, type Fence, type Outbox, type OutboxEntry, type Position } from '../store.ts'
import type { Journal, StoredEvent } from './journal.ts'

const POSITION_DIGITS = 15
const READ_MAX = 1000
const SLACK_MS = 2_000

interface Lease {
  readonly holder: string
  readonly token: number
  untilMs: number
}

/** The outbox of a store that lives in one process: leases are here, cursors and events in the journal. */
export class LocalOutbox implements Outbox {
  readonly #journal: Journal
  readonly #leases = new Map<string, Lease>()
  readonly #listeners = new Set<() => void>()
  #cursors: Map<string, number>
  /** Null: not said yet, and every known consumer holds back trimming. */
  #configured: readonly string[] | null = null
  #lastToken = 0
  readonly #gaps = new Map<string, number>()

  constructor(journal: Journal, cursors: ReadonlyMap<string, number>) {
    this.#journal = journal
    this.#cursors = new Map(cursors)
    journal.onEvents = () => { for (const listener of this.#listeners) listener() }
  }

  async lease(consumer: string, holder: string, nowMs: number, untilMs: number): Promise<Fence | undefined> {
    const lease = this.#leases.get(consumer)
    if (lease !== undefined && lease.holder === holder) {
      lease.untilMs = Math.max(lease.untilMs, untilMs)
      return { consumer, token: lease.token }
    }
    if (lease !== undefined && lease.untilMs > nowMs) return undefined
    this.#lastToken += 1
    this.#leases.set(consumer, { holder, token: this.#lastToken, untilMs })
    return { consumer, token: this.#lastToken }
  }

  async read(fence: Fence, count: number): Promise<readonly OutboxEntry[]> {
    this.#obey(fence)
    const events = await this.#read(this.#cursor(fence.consumer), count)
    // The lease may have changed hands while the disk was read.
    this.#obey(fence)
    return events
  }

  async release(fence: Fence): Promise<void> {
    if (this.#leases.get(fence.consumer)?.token === fence.token) this.#leases.delete(fence.consumer)
  }

  async advance(fence: Fence, done: readonly OutboxEntry[]): Promise<void> {
    this.#obey(fence)
    const ordinal = Math.min(done.reduce((last, { position }) => Math.max(last, ordinalOf(position)), 0), this.#journal.lastOrdinal)
    if (ordinal > this.#cursor(fence.consumer)) {
      this.#noteGap(fence.consumer)
      await this.#move(fence.consumer, ordinal)
    }
    else await this.#journal.append(undefined, null, null)
  }

  async bury(fence: Fence, entry: OutboxEntry, reason: string, nowMs: number): Promise<void> {
    this.#obey(fence)
    const ordinal = ordinalOf(entry.position)
    await this.#journal.change([{ kind: 'bury', consumer: fence.consumer, ordinal, reason, buriedMs: nowMs, record: entry.record }])
  }

  async dead(consumer?: string, after: DeadPlace | null = null, count = READ_MAX): Promise<readonly DeadEntry[]> {
    const wanted = Math.min(count, READ_MAX)
    if (wanted <= 0) return []
    const dead = await this.#journal.dead(consumer, after === null ? null : { consumer: after.consumer, ordinal: ordinalOf(after.position) }, wanted)
    return dead.map((one) => ({ ...entryOf(one), consumer: one.consumer, reason: one.reason, buriedMs: one.buriedMs }))
  }

  async deadCount(consumer: string): Promise<number> {
    return await this.#journal.deadCount?.(consumer) ?? (await this.#journal.dead(consumer, null, Infinity)).length
  }

  async exhume(ids: readonly DeadPlace[]): Promise<void> {
    await this.#journal.change(ids.map(({ consumer, position }) => ({ kind: 'exhume', consumer, ordinal: ordinalOf(position) })))
  }

  scan(from: Position | null, count: number): Promise<readonly OutboxEntry[]> {
    return this.#read(from === null ? 0 : ordinalOf(from), count)
  }

  async positionAt(atMs: number): Promise<Position | null> {
    const ordinal = await this.#journal.ordinalBefore(atMs)
    return ordinal <= this.#journal.trimmedThrough ? null : positionOf(ordinal)
  }

  async rewind(consumer: string, to: Position | null): Promise<void> {
    // Whoever is delivering now would move the cursor forward again over what is to be repeated: his fence ends here.
    this.#leases.delete(consumer)
    const ordinal = to === null ? this.#journal.trimmedThrough : ordinalOf(to)
    if (ordinal < this.#cursor(consumer)) await this.#move(consumer, ordinal)
  }

  async follow(fence: Fence, other: string): Promise<void> {
    this.#obey(fence)
    await this.#move(fence.consumer, this.#cursor(other))
  }

  waiting(consumer: string, after: Position | null, count: number): Promise<readonly OutboxEntry[]> {
    return this.#read(Math.max(this.#cursor(consumer), after === null ? 0 : ordinalOf(after)), count)
  }

  async lag(consumer: string): Promise<{ readonly count: number; readonly oldestMs: number | null }> {
    const from = Math.max(this.#cursor(consumer), this.#journal.trimmedThrough)
    const count = this.#journal.lastOrdinal - from
    if (count <= 0) return { count: 0, oldestMs: null }
    const [oldest] = await this.#journal.read(from, 1)
    return { count, oldestMs: oldest?.record.atMs ?? null }
  }

  onAppend(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  async setConsumers(names: readonly string[]): Promise<void> {
    this.#configured = [...names]
  }

  async completeSince(): Promise<number> {
    const { trimmedThrough } = this.#journal
    if (trimmedThrough === 0) return 0
    const [oldest] = await this.#journal.read(trimmedThrough, 1)
    // Records are nearly in order of their instants.
    return oldest === undefined ? Infinity : oldest.record.atMs + SLACK_MS
  }

  gaps(): readonly { readonly consumer: string; readonly events: number }[] {
    return [...this.#gaps].map(([consumer, events]) => ({ consumer, events }))
  }

  // === For the store around it ===

  /** How far each consumer has come: the last event that is done. */
  cursors(): ReadonlyMap<string, number> {
    return this.#cursors
  }

  /** Events up to this one are wanted by no configured consumer any more. */
  doneThrough(): number {
    let done = this.#journal.lastOrdinal
    for (const name of this.#configured ?? this.#cursors.keys()) done = Math.min(done, this.#cursor(name))
    return done
  }

  /** Takes the cursors as they are on disk, after a failure. */
  reload(cursors: ReadonlyMap<string, number>): void {
    this.#cursors = new Map(cursors)
  }

  /** Configured consumers whose next event has been trimmed, with how many they will miss. */
  gapsAhead(): readonly { readonly consumer: string; readonly events: number }[] {
    const trimmed = this.#journal.trimmedThrough
    return (this.#configured ?? []).flatMap((consumer) => {
      const cursor = this.#cursors.get(consumer)
      return cursor === undefined || cursor >= trimmed ? [] : [{ consumer, events: trimmed - cursor }]
    })
  }

  async #read(after: number, count: number): Promise<readonly OutboxEntry[]> {
    const wanted = Math.min(count, READ_MAX)
    if (wanted <= 0 || after >= this.#journal.lastOrdinal) return []
    return (await this.#journal.read(Math.max(after, this.#journal.trimmedThrough), wanted)).map(entryOf)
  }

  /** Its next event is not the one after the last that it had. */
  #noteGap(consumer: string): void {
    const cursor = this.#cursors.get(consumer)
    const missed = cursor === undefined ? 0 : this.#journal.trimmedThrough - cursor
    if (missed > 0) this.#gaps.set(consumer, (this.#gaps.get(consumer) ?? 0) + missed)
  }

  async #move(consumer: string, ordinal: number): Promise<void> {
    this.#cursors.set(consumer, ordinal)
    await this.#journal.change([{ kind: 'cursor', consumer, ordinal }])
  }

  #cursor(consumer: string): number {
    return this.#cursors.get(consumer) ?? 0
  }

  #obey(fence: Fence): void {
    if (this.#leases.get(fence.consumer)?.token !== fence.token) throw new StaleFence(`another holds the lease of ${fence.consumer}`)
  }
}

function entryOf(event: StoredEvent): OutboxEntry {
  return { position: positionOf(event.ordinal), record: event.record }
}

/** Padded, so that positions are ordered as text too. */
function positionOf(ordinal: number): Position {
  return String(ordinal).padStart(POSITION_DIGITS, '0')
}

function ordinalOf(position: Position): number {
  if (!/^\d{15}$/.test(position)) throw new RangeError('not a position of this store')
  return Number(position)
}
