import type { Clock } from '../clock.ts'
import type { AnalyticsConfig, Config } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Outbox } from '../stores/store.ts'
import { StoreUnavailable } from '../stores/store.ts'
import { KeyHistory } from './key-history.ts'
import { LiveFeed } from './live-feed.ts'
import { Projector, ROLLUPS } from './projector.ts'
import type { ArchivedEvents, ProjectorState } from './projector.ts'
import { RefusalTally } from './refusal-tally.ts'
import type { RefusedCall } from './refusal-tally.ts'
import { bucketOf, nextBucket, UNITS } from './rollups.ts'
import type { Kept, RefusalQuestion, RefusalRow, Rollups, Unit, UsageQuestion, UsageRow } from './rollups.ts'
import { Traffic } from './traffic.ts'
import type { TrafficReport } from './traffic.ts'

export interface AnalyticsParts {
  readonly outbox: Outbox
  /** Opens the roll-ups of the store. Rejects while they cannot be had; then it is asked again. */
  open(kept: () => Kept): Promise<Rollups>
  /** What the archive of a configuration has; null: there is none. */
  archive(config: Config): ArchivedEvents | null
  /** The outbox's consumers have changed: the roll-ups hold back trimming, or no longer do. */
  onHold(): void
  readonly clock: Clock
  readonly log: Log
}

export interface AnalyticsStatus extends ProjectorState {
  /** Not whole, or not known to be. */
  readonly isNew: boolean
  /** Events that are not counted yet. */
  readonly behind: number
  /** Everything that was settled before is counted; null: nobody knows, they are being made again. */
  readonly completeUntilMs: number | null
}

const TRAFFIC_MS = 1_000
/** The name of this process among those that tell of traffic. */
const OWN = 'own'
/** Clocks of gateways differ. */
const AHEAD_MS = 60_000

/** What is looked at: roll-ups, refusals, and what happens just now. It may fail in every part, and calls go on. */
export class Analytics {
  /** What this process sees of calls. */
  readonly traffic = new Traffic()
  readonly live: LiveFeed
  readonly #parts: AnalyticsParts
  /** Of all processes. */
  readonly #tally = new RefusalTally()
  #config: Config | null = null
  #projector: Projector | null = null
  #holding = true
  #rollups: Promise<Rollups> | null = null
  #stopTraffic: (() => void) | null = null
  #lostRefusals = false
  /** Applying and stopping take turns. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(parts: AnalyticsParts) {
    this.#parts = parts
    this.live = new LiveFeed(parts.clock)
  }

  /** null: switched off. */
  get kept(): Kept | null {
    return keptOf(this.#config?.analytics ?? null)
  }

  /** Consumers of the outbox that no sink is. */
  consumers({ analytics }: Pick<Config, 'analytics'>): readonly string[] {
    return analytics === null || !this.#holding ? [] : [ROLLUPS]
  }

  /** Counts as this config wants. The outbox must know the consumers by then. */
  use(config: Config): Promise<void> {
    return this.#inTurn(async () => {
      this.#config = config
      // In this order: what a second had is told when it ends, not with the next one.
      this.#stopTraffic ??= this.#parts.clock.every(TRAFFIC_MS, () => this.#takeOwn())
      this.live.start()
      if (config.analytics === null) await this.#close()
      else if (this.#projector === null) this.#start(config)
    })
  }

  /** What another process of this gateway has seen. */
  add(process: string, report: TrafficReport): void {
    this.live.add(process, report)
    this.#tally.add(report)
  }

  stop(): Promise<void> {
    return this.#inTurn(async () => {
      this.live.close()
      this.#takeOwn()
      this.#stopTraffic?.()
      this.#stopTraffic = null
      await this.#close()
      this.#config = null
    })
  }

  async usage(question: UsageQuestion): Promise<readonly UsageRow[]> {
    const span = this.#withinKept(question)
    if (span.fromMs >= span.untilMs) return []
    // Nothing is counted in the future: without a row for each bucket, this month is asked for as a whole.
    const isOpen = !question.series && (question.unit === 'day' || question.unit === 'month') && span.untilMs > this.#parts.clock.nowMs()
    return (await this.#open()).usage({ ...question, ...span, ...(isOpen ? { untilMs: nextBucket('month', bucketOf('month', span.untilMs - 1)) } : {}) })
  }

  /** Since when buckets of each unit are whole, ms since 1970. */
  async wholeSince(): Promise<Readonly<Record<Unit, number>>> {
    const since = await (await this.#open()).wholeSince()
    const kept = this.kept ?? nothingKept
    const nowMs = this.#parts.clock.nowMs()
    return Object.fromEntries(UNITS.map((unit) => [unit, Math.max(since[unit], nowMs - kept[unit])])) as Record<Unit, number>
  }

  async refusals(question: RefusalQuestion): Promise<readonly RefusalRow[]> {
    const span = this.#withinKept(question)
    return span.fromMs >= span.untilMs ? [] : (await this.#open()).refusals({ ...question, ...span })
  }

  /** For callers, under the configuration of each moment; also of a process that counts nothing. */
  historyOf(config: () => Pick<Config, 'analytics'>): KeyHistory {
    const { outbox, clock } = this.#parts
    return new KeyHistory({ kept: () => keptOf(config().analytics), rollups: () => this.#open(), outbox, clock })
  }

  /** The latest first. */
  samples(only: { readonly account?: string; readonly limit?: string }, count: number): readonly RefusedCall[] {
    return this.#tally.samples(only, count)
  }

  async status(): Promise<AnalyticsStatus> {
    const { clock, outbox } = this.#parts
    const nowMs = clock.nowMs()
    const { count, oldestMs } = await outbox.lag(ROLLUPS)
    const state = this.#projector?.state ?? { failure: null, rebuild: null, missed: 0 }
    // Another gateway may be making them, or nobody yet after an attempt that failed.
    const isNew = this.kept !== null && await this.#open().then((rollups) => rollups.isNew()).catch(() => true)
    return { ...state, isNew, behind: count, completeUntilMs: state.rebuild !== null || isNew ? null : oldestMs ?? nowMs }
  }

  /** Makes the roll-ups again. Resolves with how many events the archive had. `config`: of a command that is alone with the store, which also counts what the store has. */
  async rebuild(config?: Config): Promise<number> {
    if (this.#projector !== null) return this.#projector.rebuild()
    if (config === undefined) throw new StoreUnavailable('analytics are switched off')
    const projector = this.#projectorOf(config)
    const archived = await projector.rebuild()
    await projector.catchUp()
    await this.#close()
    return archived
  }

  /** Nobody has to look where nothing can be. */
  #withinKept({ unit, fromMs, untilMs }: Pick<UsageQuestion, 'unit' | 'fromMs' | 'untilMs'>): { readonly fromMs: number; readonly untilMs: number } {
    const nowMs = this.#parts.clock.nowMs()
    // By the month is told what is kept by the day as well.
    const keptMs = Math.max((this.kept ?? nothingKept)[unit], unit === 'month' ? (this.kept ?? nothingKept).day : 0)
    return { fromMs: Math.max(fromMs, bucketOf(unit, nowMs - keptMs)), untilMs: Math.min(untilMs, nextBucket(unit, bucketOf(unit, nowMs + AHEAD_MS))) }
  }

  #start(config: Config): void {
    this.#projector = this.#projectorOf(config)
    this.#projector.start()
  }

  #projectorOf(first: Config): Projector {
    const { outbox, clock, log, archive, onHold } = this.#parts
    return new Projector({
      outbox, clock, holder: first.instance, holdEvents: () => holdEventsOf(this.#config ?? first), rollups: () => this.#open(), archive: () => archive(this.#config ?? first), kept: () => keptOf((this.#config ?? first).analytics) ?? nothingKept,
      holds: (holding) => {
        this.#holding = holding
        if (holding) log.info({}, 'the roll-ups have caught up; events wait for them again')
        else log.error({}, 'the roll-ups are far behind; events that all sinks have are removed without waiting for them')
        onHold()
        // At once, and not only when nobody has said for a while that he waits.
        if (!holding) void outbox.letGo?.(ROLLUPS).catch(() => undefined)
      },
      tell: (what, fields) => {
        if (what === 'rebuilt') log.info(fields, 'the roll-ups are made anew; the archive\'s events are counted, the store\'s follow')
        else log.warn(fields, 'events were removed before they were counted into the roll-ups')
      },
      failed: (error) => {
        const reason = error instanceof StoreUnavailable ? error.message : error instanceof Error ? `${error.name}: ${error.message}` : 'unknown'
        log.warn({ reason }, 'usage cannot be rolled up just now; it is tried again')
      },
    })
  }

  #open(): Promise<Rollups> {
    return this.#rollups ??= this.#parts.open(() => this.kept ?? nothingKept).catch((error: unknown) => {
      this.#rollups = null
      throw error instanceof StoreUnavailable ? error : new StoreUnavailable(`the roll-ups cannot be opened: ${error instanceof Error ? error.message : 'unknown'}`)
    })
  }

  async #close(): Promise<void> {
    await this.#projector?.stop()
    this.#projector = null
    await this.#writeRefusals()
    const rollups = await this.#rollups?.catch(() => null)
    this.#rollups = null
    await rollups?.close()
  }

  #takeOwn(): void {
    const report = this.traffic.take()
    this.add(OWN, report)
    void this.#writeRefusals()
  }

  async #writeRefusals(): Promise<void> {
    const { counts } = this.#tally.take()
    if (counts.length === 0 || this.#config === null || this.#config.analytics === null) return
    try {
      await (await this.#open()).countRefusals(counts)
      this.#lostRefusals = false
    } catch (error) {
      // They are let go: they are for people to look at, and nothing is billed by them.
      if (!this.#lostRefusals) this.#parts.log.warn({ reason: error instanceof Error ? error.message : 'unknown' }, 'refusals are not counted into the roll-ups until they can be written')
      this.#lostRefusals = true
    }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => undefined)
    return result
  }
}

const HOLD_EVENTS = 200_000

/** Well before a store admits nothing because of what waits in it. */
function holdEventsOf({ store }: Config): number {
  return store.kind === 'redis' ? Math.min(HOLD_EVENTS, Math.floor(store.eventsMax / 4)) : HOLD_EVENTS
}

const nothingKept: Kept = { minute: 0, hour: 0, day: 0, month: 0 }

/** null: switched off. */
export function keptOf(config: AnalyticsConfig | null): Kept | null {
  if (config === null) return null
  // What is kept in a shorter unit is in the longer ones too: answers go from one to the other.
  const hour = Math.max(config.minutesMs, config.hoursMs)
  const day = Math.max(hour, config.daysMs)
  return { minute: config.minutesMs, hour, day, month: Math.max(day, config.monthsMs) }
}
