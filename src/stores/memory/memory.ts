import type { Clock } from '../../clock.ts'
import type { OutboxRecord } from '../../metering/event.ts'
import { Ledger, type Effect } from '../../metering/ledger.ts'
import { StoreUnavailable, type Store, type StoreDetails, type StoreStatus } from '../store.ts'
import type { Change, DeadEvent, Journal, StoredEvent } from '../local/journal.ts'
import { LocalStore } from '../local/local-store.ts'

export interface MemoryOptions {
  readonly clock: Clock
  /** How long a closed reservation is remembered: the longest exchange and an hour. */
  readonly forgetAfterMs: number
  /** How long delivered events stay readable. */
  readonly hotMs: number
  /** The instant that an id begins with, where ids are not UUIDv7. */
  readonly timeOf?: (id: string) => number
}

const HOUSEKEEPING_MS = 10_000
/** Even undelivered events end somewhere: admission stops here rather than the process. */
const EVENTS_MAX = 1_000_000

/** Everything in this process, gone with it: for tests, demonstrations, and limits that nobody bills by. */
export async function openMemory(options: MemoryOptions): Promise<Store> {
  return new MemoryStore(new MemoryJournal(), options)
}

class MemoryStore extends LocalStore {
  readonly #journal: MemoryJournal
  readonly #stop: () => void

  constructor(journal: MemoryJournal, options: MemoryOptions) {
    super(new Ledger(options), journal, new Map())
    this.#journal = journal
    this.#stop = options.clock.every(HOUSEKEEPING_MS, () => {
      const nowMs = options.clock.nowMs()
      this.ledger.forget(nowMs)
      journal.trim(this.outbox.doneThrough(), nowMs - options.hotMs)
    })
  }

  async inspect(): Promise<StoreDetails> {
    return {
      format: 1, epoch: 'memory', partitions: null, reservations: this.ledger.open().length, undelivered: this.#journal.lastOrdinal - this.outbox.doneThrough(), servers: [],
      losses: ['When the process ends, everything is lost.'],
    }
  }

  override async close(): Promise<void> {
    this.#stop()
    this.#journal.close()
  }
}

class MemoryJournal implements Journal {
  onEvents: (() => void) | null = null
  lastOrdinal = 0
  trimmedThrough = 0
  #records: OutboxRecord[] = []
  /** By consumer and ordinal. */
  readonly #dead = new Map<string, Map<number, DeadEvent>>()
  readonly #documents = new Map<string, Map<string, string>>()
  #closed = false

  refuses(what: 'admit' | 'finish'): string | null {
    if (this.#closed) return 'the store is closed'
    if (what === 'admit' && this.#records.length >= EVENTS_MAX) return 'too many events wait for delivery'
    return null
  }

  append<Answer>(answer: Answer, _effect: Effect | null, record: OutboxRecord | null): Promise<Answer> {
    if (record !== null) {
      this.#records.push(record)
      this.lastOrdinal += 1
      this.onEvents?.()
    }
    return Promise.resolve(answer)
  }

  async change(changes: readonly Change[]): Promise<void> {
    if (this.#closed) throw new StoreUnavailable('the store is closed')
    for (const change of changes) {
      switch (change.kind) {
        case 'cursor': break
        case 'bury': {
          let dead = this.#dead.get(change.consumer)
          if (dead === undefined) this.#dead.set(change.consumer, dead = new Map())
          dead.set(change.ordinal, change)
          break
        }
        case 'exhume': this.#dead.get(change.consumer)?.delete(change.ordinal); break
        case 'put': {
          let documents = this.#documents.get(change.of)
          if (documents === undefined) this.#documents.set(change.of, documents = new Map())
          documents.set(change.id, change.value)
          break
        }
        case 'delete': this.#documents.get(change.of)?.delete(change.id); break
      }
    }
  }

  async read(after: number, count: number): Promise<readonly StoredEvent[]> {
    const first = Math.max(after, this.trimmedThrough)
    const start = first - this.trimmedThrough
    return this.#records.slice(start, start + count).map((record, i) => ({ ordinal: first + 1 + i, record }))
  }

  async ordinalBefore(atMs: number): Promise<number> {
    const index = this.#records.findIndex((record) => record.atMs >= atMs)
    return index === -1 ? this.lastOrdinal : this.trimmedThrough + index
  }

  async dead(consumer: string | undefined, after: { readonly consumer: string; readonly ordinal: number } | null, count: number): Promise<readonly DeadEvent[]> {
    const page: DeadEvent[] = []
    for (const name of consumer === undefined ? [...this.#dead.keys()].sort() : [consumer]) {
      if (after !== null && name < after.consumer) continue
      const dead = this.#dead.get(name) ?? new Map<number, DeadEvent>()
      const ordinals = [...dead.keys()].filter((ordinal) => after === null || name > after.consumer || ordinal > after.ordinal).sort((a, b) => a - b)
      for (const ordinal of ordinals.slice(0, count - page.length)) page.push(dead.get(ordinal)!)
      if (page.length >= count) break
    }
    return page
  }

  async deadCount(consumer: string): Promise<number> {
    return this.#dead.get(consumer)?.size ?? 0
  }

  async document(kind: string, id: string): Promise<string | undefined> {
    return this.#documents.get(kind)?.get(id)
  }

  async documents(kind: string): Promise<readonly { readonly id: string; readonly value: string }[]> {
    return [...this.#documents.get(kind) ?? []].map(([id, value]) => ({ id, value })).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  status(): StoreStatus {
    const reason = this.refuses('admit')
    return { admitting: reason === null, reason }
  }

  trim(doneThrough: number, beforeMs: number): void {
    let count = 0
    while (count < this.#records.length && this.trimmedThrough + count < doneThrough && this.#records[count]!.atMs < beforeMs) count += 1
    if (count === 0) return
    this.#records = this.#records.slice(count)
    this.trimmedThrough += count
  }

  close(): void {
    this.#closed = true
  }
}
