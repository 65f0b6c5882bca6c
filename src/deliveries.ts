import type { Writable } from 'node:stream'
import { isDeepStrictEqual } from 'node:util'
import { ARCHIVE, type EventHistory } from './archive/history.ts'
import type { Clock } from './clock.ts'
import type { Config, SinkConfig } from './config/config.ts'
import type { Log } from './log.ts'
import { toUsageEvent, type UsageEvent } from './metering/event.ts'
import type { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import { Delivery } from './sinks/deliver.ts'
import { openSink, sinkKind } from './sinks/index.ts'
import { eventRecord, type Sink, type SinkSurroundings } from './sinks/sink.ts'
import { StoreUnavailable, type Fence, type Outbox, type Records } from './stores/store.ts'

export interface DeliveriesParts {
  readonly outbox: Outbox
  /** Remembers what sinks have missed; absent: nobody does. */
  readonly records?: Records
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  readonly stdout: Writable
}

interface Running {
  readonly config: SinkConfig
  readonly delivery: Delivery
}

interface Replay {
  readonly config: SinkConfig
  readonly stop: AbortController
  readonly ended: Promise<void>
}

export interface Replayed {
  /** Events that the store still has, and delivers again in its own time. */
  readonly events: number
  /** Events of the archive. */
  readonly archived: number
  /** Resolves when the archive's have been delivered, or this process stops. */
  readonly done: Promise<void>
}

/** Documents: what a sink has missed, by its name. */
export const gapKind = 'gap'

const attemptMs = 20_000
const gapsEveryMs = 2_000
const replayLeaseMs = 30_000
const replayTries = 50
const replayTryMs = 100
const replayRetryFirstMs = 200
const replayRetryLastMs = 60_000

/** The delivery loops of all configured sinks. A reload touches only those that changed; cursors are the store's, so nothing is skipped or repeated. */
export class Deliveries {
  readonly #parts: DeliveriesParts
  readonly #running = new Map<string, Running>()
  /** Applying, retrying and stopping take turns. */
  #last: Promise<unknown> = Promise.resolve()
  #config: Config | null = null
  readonly #replays = new Map<string, Replay>()
  readonly #missed = new Map<string, number>()
  #stopGaps: (() => void) | null = null

  constructor(parts: DeliveriesParts) {
    this.#parts = parts
  }

  /** Runs exactly the sinks of `config`. A sink that cannot be opened is logged and tried again every few seconds. */
  use(config: Config): Promise<void> {
    return this.#inTurn(async () => {
      this.#config = config
      this.#stopGaps ??= this.#parts.clock.every(gapsEveryMs, () => void this.#tellGaps())
      await this.#parts.outbox.setConsumers(config.sinks.map((sink) => sink.name))
      for (const [name, replay] of this.#replays) {
        if (!isDeepStrictEqual(config.sinks.find((sink) => sink.name === name), replay.config)) await this.#stopReplay(replay)
      }
      for (const [name, running] of this.#running) {
        const wanted = config.sinks.find((sink) => sink.name === name)
        if (wanted === undefined || !isDeepStrictEqual(wanted, running.config)) await this.#stop(name)
      }
      for (const sink of config.sinks) if (!this.#running.has(sink.name) && !this.#replays.has(sink.name)) await this.#start(sink, config.instance)
    })
  }

  /** Delivers what is left until `untilMs`. True: nothing is left. */
  async flush(untilMs: number): Promise<boolean> {
    const done = await Promise.all([...this.#running.values()].map(({ delivery }) => delivery.flush(untilMs)))
    return done.every((each) => each)
  }

  stop(): Promise<void> {
    return this.#inTurn(async () => {
      this.#config = null
      this.#stopGaps?.()
      this.#stopGaps = null
      await this.#tellGaps()
      await Promise.all([...this.#replays.values()].map((replay) => this.#stopReplay(replay)))
      await Promise.all([...this.#running.keys()].map((name) => this.#stop(name)))
    })
  }

  /** Delivers dead events again: of one consumer, or of all sinks of `config`. Its loop pauses meanwhile, because a sink has one writer. */
  retryDead(consumer: string | null, config: Config): Promise<{ delivered: number; failed: number }> {
    return this.#inTurn(async () => {
      let delivered = 0
      let failed = 0
      for (const sink of config.sinks.filter(({ name }) => consumer === null || name === consumer)) {
        // A sink has one writer: what is dead stays so until the replay is over.
        if (this.#replays.has(sink.name)) {
          failed += await this.#parts.outbox.deadCount(sink.name)
          continue
        }
        const wasRunning = this.#running.has(sink.name)
        await this.#stop(sink.name)
        const counts = await this.#retry(sink)
        delivered += counts.delivered
        failed += counts.failed
        if (wasRunning) await this.#start(sink, config.instance)
      }
      return { delivered, failed }
    })
  }

  /**
   * Delivers to a sink again what was settled since an instant. What the store still has comes with the sink's own loop, whose cursor is moved back; what only the
   * archive has is delivered before, and meanwhile the loop waits, in whatever gateway it runs. It ends with this process: then it is to be asked for again.
   */
  async replay(config: SinkConfig, holder: string, sinceMs: number, history: EventHistory): Promise<Replayed> {
    const { outbox, log } = this.#parts
    const untilMs = config.name === ARCHIVE ? null : await history.archivedUntil(sinceMs)
    if (untilMs === null) {
      await outbox.rewind(config.name, await outbox.positionAt(sinceMs))
      return { events: (await outbox.lag(config.name)).count, archived: 0, done: Promise.resolve() }
    }
    let archived = 0
    for await (const _event of history.archived(sinceMs, untilMs)) archived += 1
    return await this.#inTurn(async () => {
      const before = this.#replays.get(config.name)
      if (before !== undefined) await this.#stopReplay(before)
      await this.#stop(config.name)
      const fence = await this.#leaseFrom(config.name, holder, untilMs)
      const events = (await outbox.lag(config.name)).count
      log.info({ sink: config.name, archived, events }, 'events of the archive are delivered again')
      const stop = new AbortController()
      const ended = this.#deliverArchived(config, holder, fence, history.archived(sinceMs, untilMs), stop.signal).finally(() => {
        this.#replays.delete(config.name)
        // Its own loop goes on with what the store has.
        this.#useAgain()
      })
      this.#replays.set(config.name, { config, stop, ended })
      return { events, archived, done: ended }
    })
  }

  /** Moves the cursor back and takes the lease, from whoever delivers now. */
  async #leaseFrom(sink: string, holder: string, fromMs: number): Promise<Fence> {
    const { outbox, clock } = this.#parts
    for (let tries = 0; tries < replayTries; tries++) {
      await outbox.rewind(sink, await outbox.positionAt(fromMs))
      const fence = await outbox.lease(sink, `${holder} replay`, clock.nowMs(), clock.nowMs() + replayLeaseMs)
      if (fence !== undefined) return fence
      await clock.sleep(replayTryMs)
    }
    throw new StoreUnavailable(`another gateway delivers to ${sink} and does not let go`)
  }

  async #deliverArchived(config: SinkConfig, holder: string, fence: Fence, events: AsyncIterable<UsageEvent>, signal: AbortSignal): Promise<void> {
    const { outbox, clock, log } = this.#parts
    // A sink that is slow, or away for long, must not lose the lease to a loop: the archive's events come first.
    const stopRenewing = clock.every(replayLeaseMs / 3, () => void outbox.lease(config.name, `${holder} replay`, clock.nowMs(), clock.nowMs() + replayLeaseMs).catch(() => undefined))
    let sink: Sink | null = null
    let delivered = 0
    try {
      sink = await openSink(config, this.#surroundings(this.#config?.instance ?? 'tallygate'))
      let batch: UsageEvent[] = []
      const { batchMax } = sinkKind(config.type).contract
      for await (const event of events) {
        batch.push(event)
        if (batch.length < batchMax) continue
        delivered += await this.#insist(config.name, sink, batch, signal)
        batch = []
      }
      if (batch.length > 0) delivered += await this.#insist(config.name, sink, batch, signal)
      log.info({ sink: config.name, events: delivered }, 'the archive has been delivered again')
    } catch (error) {
      log.warn({ sink: config.name, delivered, error: error instanceof Error ? error.message : String(error) }, 'delivering the archive again was cut short; ask for it once more')
    } finally {
      stopRenewing()
      await sink?.close().catch(() => undefined)
      await outbox.release(fence).catch(() => undefined)
    }
  }

  /** Until the sink has spoken about every event. */
  async #insist(name: string, sink: Sink, batch: readonly UsageEvent[], signal: AbortSignal): Promise<number> {
    const { clock, log } = this.#parts
    let left = batch
    let accepted = 0
    for (let waitMs = replayRetryFirstMs; ; waitMs = Math.min(2 * waitMs, replayRetryLastMs)) {
      signal.throwIfAborted()
      try {
        const attempt = new AbortController()
        const cancel = clock.after(attemptMs, () => attempt.abort())
        const report = await sink.deliver(left.map(eventRecord), AbortSignal.any([signal, attempt.signal])).finally(cancel)
        for (const { id, reason } of report.refused) log.error({ sink: name, event: id, reason }, 'an event of the archive was refused for good')
        const spoken = new Set([...report.accepted, ...report.refused.map(({ id }) => id)])
        accepted += report.accepted.length
        left = left.filter(({ id }) => !spoken.has(id))
      } catch (error) {
        signal.throwIfAborted()
        log.warn({ sink: name, error: error instanceof Error ? error.name : 'unknown', retry_in_ms: waitMs }, 'events of the archive were not taken; they are tried again')
      }
      if (left.length === 0) return accepted
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          cancel()
          resolve()
        }
        const cancel = clock.after(waitMs, () => {
          signal.removeEventListener('abort', wake)
          resolve()
        }, { unref: true })
        signal.addEventListener('abort', wake, { once: true })
      })
    }
  }

  async #stopReplay({ stop, ended }: Replay): Promise<void> {
    stop.abort(new Error('it was stopped'))
    await ended
  }

  /** What a sink has missed is told, counted, and kept for `store info`. */
  async #tellGaps(): Promise<void> {
    const { outbox, records, log, metrics, clock } = this.#parts
    for (const { consumer, events } of outbox.gaps?.() ?? []) {
      const missed = events - (this.#missed.get(consumer) ?? 0)
      if (missed <= 0) continue
      this.#missed.set(consumer, events)
      metrics.outboxMissed.inc({ sink: consumer }, missed)
      log.warn({ sink: consumer, events: missed }, 'events were removed before this sink had them: it was not configured then')
      try {
        const before = Number((await records?.get(gapKind, consumer))?.['events'] ?? 0)
        await records?.put(gapKind, consumer, { events: before + missed, at_ms: clock.nowMs() })
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        log.warn({ sink: consumer, reason: error.message }, 'what a sink has missed could not be kept')
      }
    }
  }

  async #retry(config: SinkConfig): Promise<{ delivered: number; failed: number }> {
    const { outbox, clock, log } = this.#parts
    const dead = await outbox.dead(config.name)
    if (dead.length === 0) return { delivered: 0, failed: 0 }
    const sink = await openSink(config, this.#surroundings(this.#config?.instance ?? 'tallygate'))
    const { batchMax } = sinkKind(config.type).contract
    let delivered = 0
    try {
      for (let at = 0; at < dead.length; at += batchMax) {
        const batch = dead.slice(at, at + batchMax)
        const events = batch.map((entry) => toUsageEvent(entry.record))
        const abort = new AbortController()
        const cancel = clock.after(attemptMs, () => abort.abort())
        const report = await sink.deliver(events.map(eventRecord), abort.signal).finally(cancel)
        const accepted = new Set(report.accepted)
        const alive = batch.filter((_entry, index) => accepted.has(events[index]?.id ?? ''))
        await outbox.exhume(alive.map(({ position }) => ({ consumer: config.name, position })))
        delivered += alive.length
      }
    } catch (error) {
      // The rest stays among the dead and can be tried again.
      log.warn({ sink: config.name, error: error instanceof Error ? error.name : 'unknown' }, 'dead events could not be delivered')
    } finally {
      await sink.close()
    }
    return { delivered, failed: dead.length - delivered }
  }

  async #start(config: SinkConfig, holder: string): Promise<void> {
    const { outbox, clock, random, log, metrics } = this.#parts
    try {
      const sink = await openSink(config, this.#surroundings(this.#config?.instance ?? 'tallygate'))
      const delivery = new Delivery({ name: config.name, kind: sinkKind(config.type), sink, outbox, clock, random, log, metrics, holder })
      delivery.start()
      this.#running.set(config.name, { config, delivery })
    } catch (error) {
      log.error({ sink: config.name, error: error instanceof Error ? error.message : String(error) }, 'the sink cannot be opened; its events wait in the outbox')
      this.#useAgainSoon()
    }
  }

  /** Starts what does not run, as often as it takes: the store may be away just now. */
  #useAgain(): void {
    const now = this.#config
    if (now === null) return
    this.use(now).catch((error: unknown) => {
      this.#parts.log.warn({ error: error instanceof Error ? error.message : String(error) }, 'the sinks cannot be started yet')
      this.#useAgainSoon()
    })
  }

  #useAgainSoon(): void {
    const now = this.#config
    this.#parts.clock.after(reopenMs, () => {
      if (this.#config === now) this.#useAgain()
    }, { unref: true })
  }

  async #stop(name: string): Promise<void> {
    const running = this.#running.get(name)
    this.#running.delete(name)
    await running?.delivery.stop()
  }

  #surroundings(instance: string): SinkSurroundings {
    return { clock: this.#parts.clock, random: this.#parts.random, stdout: this.#parts.stdout, instance }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => undefined)
    return result
  }
}

const reopenMs = 5_000
