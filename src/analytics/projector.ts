import type { Clock } from '../clock.ts'
import { toUsageEvent } from '../metering/event.ts'
import type { UsageEvent } from '../metering/event.ts'
import type { Fence, Outbox, Position } from '../stores/store.ts'
import { StaleFence, StoreUnavailable } from '../stores/store.ts'
import { incrementOf } from './projection.ts'
import type { Increment, Kept, RefusalCount, Rollups } from './rollups.ts'

/** The name under which the roll-ups have their place in the outbox. */
export const ROLLUPS = 'rollups'

export interface ProjectorParts {
  readonly outbox: Outbox
  readonly rollups: Rollups
  readonly clock: Clock
  /** Names this process in the lease. */
  readonly holder: string
  readonly kept: Kept
  /** What was settled before the oldest record that the store still has: events, and the instant before which they were. */
  readonly history: { archivedUntil(sinceMs: number): Promise<number | null>; archived(sinceMs: number, untilMs: number): AsyncIterable<UsageEvent> }
  /** Refusals since it was asked last. */
  takeRefusals(): readonly RefusalCount[]
  failed(error: unknown): void
}

const LEASE_MS = 30_000
const ELSEWHERE_MS = 1_000
const BATCH = 1_000
/** Under load a step every time something is appended would cost more than the calls: two seconds behind is what is promised. */
const GATHER_MS = 700
const IDLE_MS = LEASE_MS / 3
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 30_000
const TRIES = 50
const TRY_MS = 100
const REFUSALS_MS = 1_000
const PRUNE_MS = 3_600_000

/**
 * Outbox → roll-ups. One gateway at a time, as for every consumer. A batch is counted with its ids in one step, and only then done in the outbox: what comes again
 * after a crash in between is known, and adds nothing.
 */
export class Projector {
  readonly #parts: ProjectorParts
  readonly #stop = new AbortController()
  #running: Promise<void> | null = null
  #fence: Fence | null = null
  #wake: () => void = () => {}
  #stopping: (() => void)[] = []

  constructor(parts: ProjectorParts) {
    this.#parts = parts
  }

  start(): void {
    const { outbox, clock, rollups, kept } = this.#parts
    this.#stopping = [
      outbox.onAppend(() => this.#wake()),
      clock.every(REFUSALS_MS, () => void this.#countRefusals()),
      clock.every(PRUNE_MS, () => void rollups.prune(clock.nowMs(), kept).catch((error: unknown) => this.#parts.failed(error))),
    ]
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake()
    for (const stop of this.#stopping) stop()
    await this.#running
    await this.#countRefusals()
    if (this.#fence !== null) await this.#parts.outbox.release(this.#fence).catch(() => undefined)
  }

  /** Forgets all roll-ups of usage and makes them again from the events that there are. Gives how many of an archive were counted; the store's follow. */
  async rebuild(): Promise<number> {
    const { rollups, outbox, history, clock, holder } = this.#parts
    const untilMs = await history.archivedUntil(0)
    const fence = await this.#leaseFrom(untilMs === null ? null : await outbox.positionAt(untilMs))
    const renew = clock.every(LEASE_MS / 3, () => void outbox.lease(ROLLUPS, `${holder} rebuild`, clock.nowMs(), clock.nowMs() + LEASE_MS).catch(() => undefined))
    try {
      await rollups.reset()
      let archived = 0
      if (untilMs !== null) {
        let batch: Increment[] = []
        for await (const event of history.archived(0, untilMs)) {
          batch.push(incrementOf(event))
          archived += 1
          if (batch.length < BATCH) continue
          await rollups.countArchived(batch)
          batch = []
        }
        if (batch.length > 0) await rollups.countArchived(batch)
      }
      await rollups.complete()
      return archived
    } finally {
      renew()
      await outbox.release(fence).catch(() => undefined)
      this.#wake()
    }
  }

  /** Moves the cursor back and takes the lease, from whoever counts now. */
  async #leaseFrom(position: Position | null): Promise<Fence> {
    const { outbox, clock, holder } = this.#parts
    for (let tries = 0; tries < TRIES; tries++) {
      await outbox.rewind(ROLLUPS, position)
      const fence = await outbox.lease(ROLLUPS, `${holder} rebuild`, clock.nowMs(), clock.nowMs() + LEASE_MS)
      if (fence !== undefined) return fence
      await clock.sleep(TRY_MS)
    }
    throw new StoreUnavailable('another gateway makes the roll-ups and does not let go')
  }

  async #run(): Promise<void> {
    const { clock, failed } = this.#parts
    let failures = 0
    let fresh = true
    while (!this.#stop.signal.aborted) {
      let pauseMs: number
      let wakes = false
      try {
        // After the lease: only one of several gateways makes them.
        const counted = await this.#step(fresh)
        if (counted !== null) fresh = false
        failures = 0
        wakes = counted === 0
        pauseMs = counted === null ? ELSEWHERE_MS : counted === 0 ? IDLE_MS : counted < BATCH ? GATHER_MS : 0
      } catch (error) {
        failures += 1
        this.#fence = null
        if (!(error instanceof StaleFence)) failed(error)
        pauseMs = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(failures, 10))
      }
      if (pauseMs > 0) await this.#pause(pauseMs, wakes)
      // What woke us is the first of several.
      if (wakes && !this.#stop.signal.aborted) await clock.sleep(GATHER_MS / 2)
    }
  }

  /** How many events were counted; null: another gateway counts. */
  async #step(fresh: boolean): Promise<number | null> {
    const { outbox, rollups, clock, holder } = this.#parts
    const nowMs = clock.nowMs()
    const fence = await outbox.lease(ROLLUPS, holder, nowMs, nowMs + LEASE_MS)
    this.#fence = fence ?? null
    if (fence === undefined) return null
    if (fresh && await rollups.isNew()) {
      await outbox.release(fence)
      await this.rebuild()
      return 0
    }
    const entries = await outbox.read(fence, BATCH)
    if (entries.length === 0) return 0
    await rollups.count(entries.map(({ record, position }) => {
      const event = toUsageEvent(record)
      return { id: event.id, position, increment: incrementOf(event) }
    }))
    await outbox.advance(fence, entries)
    return entries.length
  }

  #countRefusals(): Promise<void> {
    const batch = this.#parts.takeRefusals()
    if (batch.length === 0) return Promise.resolve()
    return this.#parts.rollups.countRefusals(batch).catch((error: unknown) => {
      // They are for people to look at, and nothing is billed by them: what cannot be written is let go rather than kept in memory.
      if (!(error instanceof StoreUnavailable)) throw error
      this.#parts.failed(error)
    })
  }

  #pause(ms: number, wakes: boolean): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel()
        this.#wake = () => {}
        resolve()
      }
      const cancel = this.#parts.clock.after(ms, done, { unref: true })
      this.#wake = () => {
        if (wakes || this.#stop.signal.aborted) done()
      }
      if (this.#stop.signal.aborted) done()
    })
  }
}
