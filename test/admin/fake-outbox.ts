import type { OutboxRecord } from '../../src/metering/event.ts'
import { Analytics } from '../../src/analytics/analytics.ts'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import type { DeadEntry, Outbox, OutboxEntry, Position } from '../../src/stores/store.ts'

/** Records in memory; positions are counts. Delivery is not its concern. */
export class FakeOutbox implements Outbox {
  readonly #records: OutboxRecord[] = []
  readonly #listeners = new Set<() => void>()
  reads = 0

  append(...records: readonly OutboxRecord[]): void {
    this.#records.push(...records)
    for (const listener of this.#listeners) listener()
  }
  scan(from: Position | null, count: number): Promise<OutboxEntry[]> {
    this.reads += 1
    if (from !== null && !/^\d+$/.test(from)) throw new RangeError('not a position')
    const start = from === null ? 0 : Number(from)
    return Promise.resolve(this.#records.slice(start, start + count).map((record, index) => ({ position: String(start + index + 1), record })))
  }
  positionAt(atMs: number): Promise<Position | null> {
    const index = this.#records.findIndex((record) => record.atMs >= atMs)
    const before = index === -1 ? this.#records.length : index
    return Promise.resolve(before === 0 ? null : String(before))
  }
  onAppend(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
  lag(): Promise<{ count: number; oldestMs: number | null }> {
    return Promise.resolve({ count: this.#records.length, oldestMs: this.#records[0]?.atMs ?? null })
  }
  dead(): Promise<DeadEntry[]> {
    return Promise.resolve([])
  }
  deadCount(): Promise<number> {
    return Promise.resolve(0)
  }
  lease(): Promise<undefined> {
    return Promise.resolve(undefined)
  }
  release(): Promise<void> {
    return Promise.resolve()
  }
  read(): Promise<never[]> {
    return Promise.resolve([])
  }
  advance(): Promise<void> {
    return Promise.resolve()
  }
  bury(): Promise<void> {
    return Promise.resolve()
  }
  exhume(): Promise<void> {
    return Promise.resolve()
  }
  rewind(): Promise<void> {
    return Promise.resolve()
  }
  setConsumers(): Promise<void> {
    return Promise.resolve()
  }
}

/** Nobody looks. */
export function analyticsOff(outbox: Outbox): Analytics {
  return new Analytics({ outbox, open: () => Promise.reject(new StoreUnavailable('there are none')), archive: () => null, onHold: () => undefined, clock: systemClock, log: silentLog })
}
