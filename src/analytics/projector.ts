import type { Clock } from '../clock.ts'
import { eventId } from '../metering/event.ts'
import type { UsageEvent } from '../metering/event.ts'
import type { Fence, Outbox } from '../stores/store.ts'
import { StaleFence, StoreUnavailable } from '../stores/store.ts'
import { incrementOf, incrementOfRecord } from './projection.ts'
import { bucketOf, nextBucket } from './rollups.ts'
import type { Increment, Kept, Rollups } from './rollups.ts'

/** The name under which the roll-ups have their place in the outbox. */
export const ROLLUPS = '@rollups'

export interface ProjectorParts {
  readonly outbox: Outbox
  /** Opens them, or gives those that are open. */
  rollups(): Promise<Rollups>
  readonly clock: Clock
  /** Names this process in the lease. */
  readonly holder: string
  kept(): Kept
  /** null: there is none. */
  archive(): ArchivedEvents | null
  /** So far behind, the store's events are kept for the roll-ups no longer than for anybody else. */
  holdEvents(): number
  /** Has held back trimming for too long, or does so again. */
  holds(holding: boolean): void
  tell(what: 'rebuilt' | 'missed', fields: object): void
  failed(error: unknown): void
}

/** What an archive has. */
export interface ArchivedEvents {
  /** The name under which it is delivered to. */
  readonly consumer: string
  /** All that it has at this moment, and nothing that comes later. */
  snapshot(): Promise<AsyncIterable<UsageEvent>>
}

export interface ProjectorState {
  /** null: the last step was well. */
  readonly failure: string | null
  readonly rebuild: { readonly startedMs: number; readonly archived: number } | null
  /** Events that were removed before they were counted, since this process began, and are not made up for yet. */
  readonly missed: number
}

const LEASE_MS = 30_000
const ELSEWHERE_MS = 1_000
const BATCH = 1_000
/** Under load a step every time something is appended would cost more than the calls: two seconds behind is what is promised. */
const GATHER_MS = 700
const IDLE_MS = LEASE_MS / 3
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 5_000
const TRIES = 50
const TRY_MS = 100
const PRUNE_MS = 3_600_000
const HOLD_LOOK_MS = 10_000
/** As `holdEvents`: looking must never keep calls from being admitted. */
const HOLD_MS = 86_400_000
/** What an archive's sink writes at once at most, and as much again. */
const IN_FLIGHT = 2_000
const REBUILD_AGAIN_MS = 3_600_000

/**
 * Outbox → roll-ups. One gateway at a time, as for every consumer. A batch is counted, with the mark of how far, in one step, and only then done in the outbox:
 * what comes again after a crash in between is known by that mark, and adds nothing.
 */
export class Projector {
  readonly #parts: ProjectorParts
  readonly #stop = new AbortController()
  #running: Promise<void> | null = null
  #fence: Fence | null = null
  #wake: () => void = () => {}
  /** Since the last step began. */
  #appended = false
  #stopping: (() => void)[] = []
  #holding = true
  #failure: string | null = null
  /** As the outbox has told. */
  #told = 0
  /** Those that are not in the roll-ups. */
  #missed = 0
  #rebuild: { startedMs: number; archived: number } | null = null
  #rebuilding: Promise<number> | null = null
  #rebuiltMs = -Infinity
  /** Whether they are whole is asked before the next step. */
  #fresh = true

  constructor(parts: ProjectorParts) {
    this.#parts = parts
  }

  get state(): ProjectorState {
    return { failure: this.#failure, rebuild: this.#rebuild, missed: this.#missed }
  }

  start(): void {
    const { outbox, clock } = this.#parts
    this.#stopping = [
      outbox.onAppend(() => {
        this.#appended = true
        this.#wake()
      }),
      clock.every(PRUNE_MS, () => void this.#prune()),
      clock.every(HOLD_LOOK_MS, () => void this.lookAtHold()),
    ]
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stop.abort(new StoreUnavailable('the roll-ups are being closed'))
    this.#wake()
    for (const stop of this.#stopping) stop()
    await this.#running
    await this.#rebuilding?.catch(() => undefined)
    if (this.#fence !== null) await this.#parts.outbox.release(this.#fence).catch(() => undefined)
  }

  /** Counts what there is now, for a command that is alone with the store. */
  async catchUp(): Promise<void> {
    for (let counted: number | null = 1; counted !== null && counted > 0;) counted = await this.#step(false)
    if (this.#fence !== null) await this.#parts.outbox.release(this.#fence)
  }

  /**
   * Forgets all roll-ups of usage and makes them again from the events that there are: the archive's, then the store's behind them. Gives how many the archive had;
   * the store's follow. While one is under way, that one.
   */
  rebuild(): Promise<number> {
    if (this.#rebuilding !== null) return this.#rebuilding
    const state = { startedMs: this.#parts.clock.nowMs(), archived: 0 }
    this.#rebuild = state
    this.#rebuilding = this.#make(state).catch((error: unknown) => {
      // What is left is not whole, whoever had asked for it: the next step begins it anew.
      this.#fresh = true
      if (!this.#stop.signal.aborted) this.#failure = error instanceof Error ? error.message : 'unknown'
      throw error
    }).finally(() => {
      this.#rebuilding = null
      this.#rebuild = null
      this.#wake()
    })
    return this.#rebuilding
  }

  /** Lets go of trimming while it is far behind, and holds on again once it is not. */
  async lookAtHold(): Promise<void> {
    const { outbox, clock, holds, holdEvents } = this.#parts
    try {
      const { count, oldestMs } = await outbox.lag(ROLLUPS)
      const isFar = count > holdEvents() || (oldestMs !== null && clock.nowMs() - oldestMs > HOLD_MS)
      if (this.#holding === !isFar) return
      this.#holding = !isFar
      holds(this.#holding)
    } catch (error) {
      // A store that is away trims nothing.
      if (!(error instanceof StoreUnavailable)) this.#parts.failed(error)
    }
  }

  async #make(state: { archived: number }): Promise<number> {
    const { outbox, clock, holder } = this.#parts
    const rollups = await this.#parts.rollups()
    const archive = outbox.follow === undefined ? null : this.#parts.archive()
    const own = `${holder} rebuild`
    const fence = await this.#seize(ROLLUPS, own)
    const fences = [fence]
    const renew = clock.every(LEASE_MS / 3, () => {
      for (const { consumer } of fences) void outbox.lease(consumer, own, clock.nowMs(), clock.nowMs() + LEASE_MS).catch(() => undefined)
    })
    try {
      await rollups.reset()
      if (archive === null) await outbox.rewind(ROLLUPS, null)
      else {
        // The archive stands still for a moment. Where it stands divides all events in two: those that are read from it, and those that the store gives afterwards.
        const archiveFence = await this.#seize(archive.consumer, own)
        fences.push(archiveFence)
        await outbox.follow?.(fence, archive.consumer)
        // A batch that its writer had begun may be in the file already.
        const later = new Set((await outbox.read(archiveFence, IN_FLIGHT)).map(({ record }) => eventId(record.id, record.correction)))
        const archived = await archive.snapshot()
        fences.pop()
        await outbox.release(archiveFence)
        let batch: Increment[] = []
        const count = async (): Promise<void> => {
          await this.#mustHold(fence, own)
          await rollups.countArchived(batch)
          state.archived += batch.length
          batch = []
        }
        for await (const event of archived) {
          if (later.has(event.id)) continue
          batch.push(incrementOf(event))
          if (batch.length >= BATCH) await count()
        }
        if (batch.length > 0) await count()
      }
      await rollups.complete()
      if (archive !== null) this.#missed = 0
      this.#rebuiltMs = clock.monotonicMs()
      this.#parts.tell('rebuilt', { archived: state.archived })
      return state.archived
    } finally {
      renew()
      for (const each of fences) await outbox.release(each).catch(() => undefined)
    }
  }

  /** Stopped, or another has begun to make them. */
  async #mustHold(fence: Fence, own: string): Promise<void> {
    this.#stop.signal.throwIfAborted()
    const { outbox, clock } = this.#parts
    const held = await outbox.lease(fence.consumer, own, clock.nowMs(), clock.nowMs() + LEASE_MS)
    if (held?.token !== fence.token) throw new StaleFence(`another holds the lease of ${fence.consumer}`)
  }

  /** Takes the lease from whoever has it. Its cursor stays where it is. */
  async #seize(consumer: string, own: string): Promise<Fence> {
    const { outbox, clock } = this.#parts
    for (let tries = 0; tries < TRIES; tries++) {
      this.#stop.signal.throwIfAborted()
      // Back to what was written by tomorrow is nowhere; but whoever holds the lease loses it.
      await outbox.rewind(consumer, await outbox.positionAt(clock.nowMs() + HOLD_MS))
      const fence = await outbox.lease(consumer, own, clock.nowMs(), clock.nowMs() + LEASE_MS)
      if (fence !== undefined) return fence
      await clock.sleep(TRY_MS)
    }
    throw new StoreUnavailable(`another gateway holds the lease of ${consumer} and does not let go`)
  }

  async #run(): Promise<void> {
    const { clock, failed } = this.#parts
    let failures = 0
    while (!this.#stop.signal.aborted) {
      let pauseMs: number
      let wakes = false
      try {
        await this.#rebuilding?.catch(() => undefined)
        this.#appended = false
        const fresh = this.#fresh
        this.#fresh = false
        const counted = await this.#step(fresh)
        // Whoever takes over asks anew whether they are whole.
        if (counted === null) this.#fresh = true
        failures = 0
        this.#failure = null
        wakes = counted === 0
        pauseMs = counted === null ? ELSEWHERE_MS : counted === 0 ? IDLE_MS : counted < BATCH ? GATHER_MS : 0
      } catch (error) {
        failures += 1
        this.#fresh = true
        this.#fence = null
        if (!(error instanceof StaleFence) && !this.#stop.signal.aborted) {
          this.#failure = error instanceof Error ? error.message : 'unknown'
          if (failures === 1 || failures % 10 === 0) failed(error)
        }
        pauseMs = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(failures, 10))
      }
      // What was appended while there was nothing to be read is not waited for.
      if (pauseMs > 0 && !(wakes && this.#appended)) await this.#pause(pauseMs, wakes)
      // What woke us is the first of several.
      if (wakes && !this.#stop.signal.aborted) await clock.sleep(GATHER_MS / 2)
    }
  }

  /** How many events were counted; null: another gateway counts. `fresh`: whether the roll-ups are whole is asked first, and they are made if not. */
  async #step(fresh: boolean): Promise<number | null> {
    const { outbox, clock, holder } = this.#parts
    const nowMs = clock.nowMs()
    const fence = await outbox.lease(ROLLUPS, holder, nowMs, nowMs + LEASE_MS)
    this.#fence = fence ?? null
    if (fence === undefined) return null
    const rollups = await this.#parts.rollups()
    if (fresh && await rollups.isNew()) {
      await this.rebuild()
      return 1
    }
    // Asked before reading: whoever makes them again takes the lease first, and then begins another one.
    const generation = await rollups.generation()
    const entries = await outbox.read(fence, BATCH)
    if (entries.length === 0) return 0
    await rollups.count(entries.map(({ record, position }) => ({ id: eventId(record.id, record.correction), position, increment: incrementOfRecord(record) })), generation)
    await outbox.advance(fence, entries)
    await this.#lookForGaps()
    return entries.length
  }

  /** What the store removed before it was counted an archive may have. */
  async #lookForGaps(): Promise<void> {
    const { outbox, clock, tell } = this.#parts
    const missed = outbox.gaps?.().find(({ consumer }) => consumer === ROLLUPS)?.events ?? 0
    if (missed <= this.#told) return
    const events = missed - this.#told
    this.#told = missed
    this.#missed += events
    const mayMake = clock.monotonicMs() - this.#rebuiltMs > REBUILD_AGAIN_MS && await this.#archiveHasAll()
    tell('missed', { events, made_again: mayMake })
    if (mayMake) await this.rebuild()
  }

  /** Nothing that is rolled up is older than what the archive still has: it would be gone. */
  async #archiveHasAll(): Promise<boolean> {
    const { clock, kept, archive } = this.#parts
    const archived = archive()
    if (archived === null) return false
    const nowMs = clock.nowMs()
    const days = { unit: 'day', fromMs: bucketOf('day', nowMs - kept().day), untilMs: nextBucket('day', bucketOf('day', nowMs)), by: [], series: true, only: {}, latencies: false, top: null } as const
    const [oldest] = await (await this.#parts.rollups()).usage(days)
    for await (const event of await archived.snapshot()) return oldest === undefined || oldest.fromMs === null || bucketOf('day', Date.parse(event.time)) <= oldest.fromMs
    return false
  }

  async #prune(): Promise<void> {
    try {
      // Of several gateways only the one that counts.
      if (this.#fence === null || this.#rebuilding !== null) return
      await (await this.#parts.rollups()).prune(this.#parts.clock.nowMs(), this.#parts.kept())
      if (this.#missed > 0 && await this.#archiveHasAll()) await this.rebuild()
    } catch (error) {
      this.#parts.failed(error)
    }
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
