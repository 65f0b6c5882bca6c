import { isDeepStrictEqual } from 'node:util'
import { ARCHIVE, type EventHistory } from './archive/history.ts'
import { settledMs } from './archive/archive.ts'
import type { Clock } from './clock.ts'
import { DEFAULT_CALENDAR, type Config, type SinkConfig } from './config/config.ts'
import type { Log } from './log.ts'
import { periodAt } from './metering/calendar.ts'
import { toUsageEvent, type UsageEvent } from './metering/event.ts'
import type { AccountCalendar } from './metering/limits/limit.ts'
import type { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import { creditKind } from './reconciliation/credits.ts'
import { noteTelling } from './reconciliation/telling.ts'
import { Attempts, markReplay, type Item } from './sinks/attempts.ts'
import { Backlog, beginSinkSeries, Delivery, LAST_ANSWERS_MS, reasonFor, reasonOf, reasonOnly, rulesIn, type DeliveryStatus } from './sinks/deliver.ts'
import { kindOf, openSink } from './sinks/index.ts'
import { creditOf, recordsOf, ruleOf } from './sinks/mapping.ts'
import { quarantine, quarantined, quarantineKind, type Quarantined } from './sinks/quarantine.ts'
import { pause, Sender, type SendOptions } from './sinks/sender.ts'
import type { Sink, SinkRecord, SinkSurroundings } from './sinks/sink.ts'
import { formerName } from './sinks/target.ts'
import { everyDead, StoreUnavailable, type DeadEntry, type Fence, type Outbox, type Records } from './stores/store.ts'

export interface DeliveriesParts {
  readonly outbox: Outbox
  /** Remembers what sinks have missed, what may have been booked, and what is frozen. */
  readonly records: Records
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  readonly stdout: NodeJS.WritableStream
  /** By which an account's sums are parted into billing periods; absent: everybody's is the usual one. */
  readonly calendarOf?: (account: string) => AccountCalendar | undefined
  /** Consumers of the outbox that are no sinks: they hold back trimming too. */
  readonly further?: (config: Config) => readonly string[]
}

interface Running {
  readonly config: SinkConfig
  readonly delivery: Delivery
}

/** A sink without a loop, measured all the same. */
interface Idle {
  readonly config: SinkConfig
  readonly backlog: Backlog
}

/** What an operator has asked for has its own time, until this gateway stops or its configuration changes. */
class Asked {
  readonly #stop = new AbortController()
  readonly #abort = new AbortController()
  readonly signals: SendOptions = { stop: this.#stop.signal, abort: this.#abort.signal }

  /** Ends after the requests under way, if they are answered soon. */
  end(clock: Clock): void {
    this.#stop.abort(new Error('it was interrupted; ask for it again'))
    clock.after(LAST_ANSWERS_MS, () => this.#abort.abort(new Error('it was interrupted; ask for it again')), { unref: true })
  }
}

/** A dead event that is sent again. */
interface Raised {
  readonly entry: DeadEntry
  readonly items: readonly Item[]
  readonly tellable: boolean
  /** What of it still cannot be told. */
  readonly untold: readonly { readonly rule: string; readonly reason: string }[]
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

const lookEveryMs = 2_000
const replayLeaseMs = 30_000
const replayTries = 50
const replayTryMs = 100
const replayBatch = 500
const retryBatch = 1_000
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
  /** Those that could not be opened, by name. */
  readonly #unopened = new Map<string, DeliveryStatus>()
  readonly #idle = new Map<string, Idle>()
  /** When what does not run is started again; null: nothing waits for that. */
  #again: { readonly atMs: number; readonly cancel: () => void } | null = null
  readonly #missed = new Map<string, number>()
  #asked = new Asked()
  /** Readers of our own that were measured. */
  #readers: readonly string[] = []
  #stopLooking: (() => void) | null = null

  constructor(parts: DeliveriesParts) {
    this.#parts = parts
  }

  /** Runs exactly the sinks of `config`. A sink that cannot be opened is logged and tried again every few seconds. */
  use(config: Config): Promise<void> {
    this.#interrupt()
    return this.#inTurn(async () => {
      this.#config = config
      this.#stopLooking ??= this.#parts.clock.every(lookEveryMs, () => {
        void this.#tellGaps()
        void this.#measureReaders()
        void this.#measureIdle()
      })
      for (const { delivery } of await this.#apply(config)) delivery.nudge()
    })
  }

  /** Gives those that were left alone. */
  async #apply(config: Config): Promise<readonly Running[]> {
    await this.#parts.outbox.setConsumers(this.#consumers(config))
    for (const [name, replay] of this.#replays) {
      if (!isDeepStrictEqual(config.sinks.find((sink) => sink.name === name), replay.config)) await this.#stopReplay(replay)
    }
    for (const name of this.#unopened.keys()) if (!config.sinks.some((sink) => sink.name === name)) this.#noLongerUnopened(name)
    const same: Running[] = []
    for (const [name, running] of this.#running) {
      const wanted = config.sinks.find((sink) => sink.name === name)
      if (wanted === undefined || !isDeepStrictEqual(wanted, running.config)) await this.#stop(name)
      else same.push(running)
    }
    for (const sink of config.sinks) if (!this.#running.has(sink.name) && !this.#replays.has(sink.name)) await this.#start(sink, config.instance)
    return same
  }

  /** The outbox is told again which consumers there are: those that are no sinks have changed. */
  tellConsumers(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#config !== null) await this.#parts.outbox.setConsumers(this.#consumers(this.#config))
    })
  }

  /** Tries what waits or is paused again at once: all sinks, or one. */
  nudge(name?: string): void {
    if (name === undefined) for (const { delivery } of this.#running.values()) delivery.nudge()
    else if (this.#running.has(name)) this.#running.get(name)?.delivery.nudge()
    // It could not be opened.
    else if (!this.#replays.has(name)) this.#useAgain()
  }

  /** Of the sinks that run here or could not be opened, by name. */
  status(): ReadonlyMap<string, DeliveryStatus | 'replaying'> {
    return new Map<string, DeliveryStatus | 'replaying'>([
      ...this.#unopened, ...[...this.#running].map(([name, { delivery }]) => [name, delivery.status] as const), ...[...this.#replays.keys()].map((name) => [name, 'replaying'] as const),
    ])
  }

  /** Delivers what is left until `untilMs`. True: nothing is left. */
  async flush(untilMs: number): Promise<boolean> {
    const done = await Promise.all([...this.#running.values()].map(({ delivery }) => delivery.flush(untilMs)))
    return done.every((each) => each)
  }

  stop(): Promise<void> {
    this.#interrupt()
    return this.#inTurn(async () => {
      this.#config = null
      this.#stopLooking?.()
      this.#stopLooking = null
      this.#again?.cancel()
      this.#again = null
      for (const name of this.#unopened.keys()) this.#noLongerUnopened(name)
      await this.#measureIdle()
      await this.#tellGaps()
      await Promise.all([...this.#replays.values()].map((replay) => this.#stopReplay(replay)))
      await Promise.all([...this.#running.keys()].map((name) => this.#stop(name)))
    })
  }

  /** Nobody waits behind a long list that is sent again. */
  #interrupt(): void {
    this.#asked.end(this.#parts.clock)
    this.#asked = new Asked()
  }

  /** Delivers dead events again: of one consumer, or of all sinks of `config`. Its loop pauses meanwhile, because a sink has one writer. */
  retryDead(consumer: string | null, config: Config): Promise<{ delivered: number; failed: number }> {
    const { signals } = this.#asked
    return this.#inTurn(async () => {
      let delivered = 0
      let failed = 0
      for (const sink of config.sinks.filter(({ name }) => consumer === null || name === consumer)) {
        // A sink has one writer: what is dead stays so until the replay is over.
        const counts = this.#replays.has(sink.name) ? { delivered: 0, failed: await this.#parts.outbox.deadCount(sink.name) } : await this.#aside(sink, config.instance, () => this.#retry(sink, signals))
        delivered += counts.delivered
        failed += counts.failed
      }
      return { delivered, failed }
    })
  }

  /** Records that wait for an operator, of one sink or all. */
  quarantined(sink?: string): Promise<readonly Quarantined[]> {
    return quarantined(this.#parts.records, sink)
  }

  /**
   * Ends the quarantine of these (null: of all of the sink): sends them, although they may have been booked, or drops them, although they may not. What the
   * receiver does not take stays.
   */
  release(config: Config, name: string, ids: readonly string[] | null, how: 'send' | 'drop'): Promise<{ released: number; failed: number }> {
    const { records } = this.#parts
    const { signals } = this.#asked
    return this.#inTurn(async () => {
      const sink = config.sinks.find((each) => each.name === name)
      const chosen = (await quarantined(records, name)).filter(({ id, of }) => ids === null || ids.includes(of) || ids.includes(id))
      const missing = ids === null ? 0 : ids.filter((id) => !chosen.some((one) => one.of === id || one.id === id)).length
      if (how === 'drop') {
        for (const { id } of chosen) await records.delete(quarantineKind, id)
        return { released: chosen.length, failed: missing }
      }
      if (sink === undefined || chosen.length === 0 || this.#replays.has(name)) return { released: 0, failed: chosen.length + missing }
      return await this.#aside(sink, config.instance, async () => {
        let released = 0
        await this.#withSink(sink, config.instance, async (open) => {
          const sender = new Sender({ ...this.#parts, name, contract: kindOf(sink).contract, sink: open })
          const { verdicts } = await sender.send(chosen.flatMap((one) => one.records), signals)
          for (const one of chosen) {
            const left = one.records.filter(({ id }) => verdicts.get(id)?.is !== 'accepted')
            if (left.length === 0) {
              await records.delete(quarantineKind, one.id)
              released += 1
            } else if (left.length < one.records.length) await records.put(quarantineKind, one.id, { ...one, records: left })
          }
        })
        return { released, failed: chosen.length - released + missing }
      })
    })
  }

  /**
   * Takes an event back where the receiver permits it: a credit note, whose records are the event's with negative values and ids of their own. Each event is taken
   * back once: a second time is refused with `credited`.
   */
  credit(config: Config, name: string, event: UsageEvent): Promise<'sent' | 'credited' | 'nothing' | { readonly failed: string }> {
    const { records, clock } = this.#parts
    const { signals } = this.#asked
    return this.#inTurn(async () => {
      const sink = config.sinks.find((each) => each.name === name)
      if (sink === undefined) return { failed: 'there is no such sink' }
      const id = `${name} ${event.id}`
      const before = await records.get(creditKind, id)
      if (before?.['done'] === true) return 'credited'
      const nowMs = clock.nowMs()
      const kind = kindOf(sink)
      const note = creditOf(event)
      const { records: made, refused } = recordsOf(note, kind, sink.mapping)
      // What may have been sent comes again as it was.
      const told = before?.['records'] as readonly SinkRecord[] | undefined ?? made
      if (refused[0] !== undefined) return { failed: refused[0].reason }
      if (told.length === 0) return 'nothing'
      if (kind.contract.corrections === 'none') return { failed: 'the receiver takes nothing back' }
      if (!await records.swap(creditKind, id, before, { at_ms: nowMs, done: false, records: told })) return { failed: 'another gateway is at it' }
      return await this.#aside(sink, config.instance, () => this.#withSink(sink, config.instance, async (open) => {
        const attempts = this.#attempts(sink, open, `${name} credit ${event.id}`)
        await attempts.load()
        const items = told.map((record) => attempts.item(record, ruleOf(record, note.id, sink.mapping), record.id, Infinity))
        const failure = await attempts.send(items, signals)
        const left = items.find(({ state }) => state !== 'accepted')
        if (left !== undefined) return { failed: left.reason ?? failure?.message ?? 'it is unknown whether it was booked; ask again' }
        await records.put(creditKind, id, { at_ms: nowMs, done: true, records: told })
        return 'sent'
      }))
    })
  }

  /**
   * Delivers to a sink again what was settled since an instant. What the store still has comes with the sink's own loop, whose cursor is moved back; what only the
   * archive has is delivered before, and meanwhile the loop waits, in whatever gateway it runs. It ends with this process: then it is to be asked for again.
   */
  async replay(config: SinkConfig, holder: string, sinceMs: number, history: EventHistory): Promise<Replayed> {
    const { outbox, records, clock, log } = this.#parts
    // Whatever comes again is sent only where its receiver still knows its id, and nothing of it counts as told.
    await markReplay(records, config.name, clock.nowMs())
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
      this.#noLongerUnopened(config.name)
      const fence = await this.#leaseFrom(config.name, holder, untilMs)
      const events = (await outbox.lag(config.name)).count
      log.info({ sink: config.name, archived, events }, 'events of the archive are delivered again')
      const stop = new AbortController()
      const ended = this.#deliverArchived(config, holder, fence, history.archived(sinceMs, untilMs), stop).finally(() => {
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

  async #deliverArchived(config: SinkConfig, holder: string, fence: Fence, events: AsyncIterable<UsageEvent>, stop: AbortController): Promise<void> {
    const { outbox, clock, log } = this.#parts
    // A sink that is slow, or away for long, must not lose the lease to a loop: the archive's events come first.
    const stopRenewing = clock.every(replayLeaseMs / 3, () => void outbox.lease(config.name, `${holder} replay`, clock.nowMs(), clock.nowMs() + replayLeaseMs).catch(() => undefined))
    let delivered = 0
    try {
      await this.#withSink(config, holder, async (sink) => {
        const attempts = this.#attempts(config, sink, `${config.name} replay`)
        await attempts.load()
        let batch: UsageEvent[] = []
        for await (const event of events) {
          batch.push(event)
          if (batch.length < replayBatch) continue
          delivered += await this.#insist(config, attempts, batch, stop.signal)
          batch = []
        }
        if (batch.length > 0) delivered += await this.#insist(config, attempts, batch, stop.signal)
      })
      log.info({ sink: config.name, events: delivered }, 'the archive has been delivered again')
    } catch (error) {
      log.warn({ sink: config.name, delivered, error: error instanceof Error ? error.message : String(error) }, 'delivering the archive again was cut short; ask for it once more')
    } finally {
      stopRenewing()
      await outbox.release(fence).catch(() => undefined)
    }
  }

  /** Until the sink has spoken about every event. Gives how many it took. */
  async #insist(config: SinkConfig, attempts: Attempts, batch: readonly UsageEvent[], signal: AbortSignal): Promise<number> {
    const { clock, random, log } = this.#parts
    const kind = kindOf(config)
    const told = batch.map((event) => {
      const { records, refused } = recordsOf(event, kind, config.mapping)
      if (refused[0] !== undefined) log.error({ sink: config.name, event: event.id, reason: refused[0].reason }, 'an event of the archive cannot be told')
      const items = records.map((record) => attempts.item(record, ruleOf(record, event.id, config.mapping), event.id, settledMs(event)))
      // It was delivered when it was settled, as far as anybody knows.
      if (kind.contract.dedupWindowMs !== 'forever') for (const item of items) item.sinceMs ??= settledMs(event)
      return items
    })
    const items = told.flat()
    for (let waitMs = replayRetryFirstMs; ; waitMs = Math.min(2 * waitMs, replayRetryLastMs)) {
      signal.throwIfAborted()
      const failure = await attempts.send(items, { stop: signal, abort: signal })
      signal.throwIfAborted()
      if (failure === null && items.every(({ state }) => state !== 'waiting')) break
      const inMs = Math.max(waitMs * (0.5 + 0.5 * random.fraction()), failure !== null && 'retryAfterMs' in failure ? Number(failure.retryAfterMs ?? 0) : 0)
      log.warn({ sink: config.name, error: failure?.name ?? 'unknown', retry_in_ms: Math.round(inMs) }, 'events of the archive were not taken; they are tried again')
      await pause(clock, inMs, signal)
    }
    for (const { state, mark, reason } of items) if (state === 'refused' || state === 'held') log.error({ sink: config.name, event: mark, reason: reason ?? '' }, 'an event of the archive was not delivered again')
    return told.filter((each) => each.some(({ state }) => state === 'accepted')).length
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
        const before = Number((await records.get(gapKind, consumer))?.['events'] ?? 0)
        await records.put(gapKind, consumer, { events: before + missed, at_ms: clock.nowMs() })
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        log.warn({ sink: consumer, reason: error.message }, 'what a sink has missed could not be kept')
      }
    }
  }

  /** How far our own readers are behind, as sinks measure it themselves. */
  async #measureReaders(): Promise<void> {
    const { outbox, metrics, clock, further } = this.#parts
    const readers = this.#config === null ? [] : further?.(this.#config) ?? []
    for (const sink of this.#readers) {
      if (readers.includes(sink)) continue
      for (const gauge of [metrics.outboxLag, metrics.outboxAge]) gauge.remove({ sink })
    }
    this.#readers = readers
    try {
      for (const sink of readers) {
        const { count, oldestMs } = await outbox.lag(sink)
        metrics.outboxLag.set({ sink }, count)
        metrics.outboxAge.set({ sink }, oldestMs === null ? 0 : Math.max(0, clock.nowMs() - oldestMs) / 1_000)
      }
    } catch (error) {
      // What was seen last stays; the store says itself that it is away.
      if (!(error instanceof StoreUnavailable)) throw error
    }
  }

  /** A sink that is not open, or is told the archive first, has no loop that would measure it. */
  async #measureIdle(): Promise<void> {
    const sinks = this.#config?.sinks.filter(({ name }) => !this.#running.has(name)) ?? []
    for (const [name, { config, backlog }] of this.#idle) {
      if (sinks.some((sink) => isDeepStrictEqual(sink, config))) continue
      this.#idle.delete(name)
      // Its loop tells the same series, and takes them back at its end.
      if (!this.#running.has(name)) backlog.forget()
    }
    try {
      for (const config of sinks) {
        const idle = this.#idle.get(config.name) ?? { config, backlog: new Backlog({ ...this.#parts, name: config.name, mapping: config.mapping }) }
        this.#idle.set(config.name, idle)
        await idle.backlog.measure()
      }
    } catch (error) {
      // What was seen last stays; the store says itself that it is away.
      if (!(error instanceof StoreUnavailable)) throw error
    }
  }

  async #retry(config: SinkConfig, signals: SendOptions): Promise<{ delivered: number; failed: number }> {
    const { outbox, log } = this.#parts
    const dead = await outbox.deadCount(config.name)
    let delivered = 0
    if (dead === 0) return { delivered: 0, failed: 0 }
    try {
      await this.#withSink(config, this.#config?.instance ?? config.name, async (sink) => {
        const attempts = this.#attempts(config, sink, `${config.name} dead`)
        await attempts.load()
        // Sent without an answer, by record: on whatever page they are, they must stay marked.
        const unanswered = new Map<string, Item>()
        const keep = (items: readonly Item[]): void => {
          for (const item of items) if (item.state === 'waiting' && item.sinceMs !== null) unanswered.set(item.record.id, item)
        }
        if (kindOf(config).contract.dedupWindowMs !== 'forever') {
          for await (const page of everyDead(outbox, config.name)) for (const entry of page) keep(this.#itemsOfDead(config, attempts, entry).items)
        }
        for await (const page of everyDead(outbox, config.name)) {
          const all = page.map((entry) => {
            const one = this.#itemsOfDead(config, attempts, entry)
            return { ...one, items: one.items.map((item) => unanswered.get(item.record.id) ?? item) }
          })
          const items = all.flatMap((one) => one.items)
          for (let at = 0; at < all.length; at += retryBatch) {
            const batch = all.slice(at, at + retryBatch)
            const failure = await attempts.send(batch.flatMap((one) => one.items), signals, [...unanswered.values(), ...items])
            delivered += await this.#raise(config, batch)
            // What was refused is known not to have been booked.
            await attempts.keep([...unanswered.values(), ...items])
            signals.stop.throwIfAborted()
            if (failure !== null) throw failure
          }
          keep(items)
        }
      })
    } catch (error) {
      // The rest stays among the dead and can be tried again.
      log.warn({ sink: config.name, error: error instanceof Error ? error.message : 'unknown' }, 'dead events could not be delivered')
    }
    return { delivered, failed: Math.max(0, dead - delivered) }
  }

  /** Those that were delivered are dead no longer; those that may have been, and are too old to be sent again, wait for an operator. */
  async #raise(config: SinkConfig, batch: readonly Raised[]): Promise<number> {
    const { outbox, records, clock } = this.#parts
    const alive: DeadEntry[] = []
    const held: DeadEntry[] = []
    const inPart: Raised[] = []
    for (const one of batch) {
      const { entry, items, tellable } = one
      const kept = items.filter(({ state }) => state === 'held')
      if (kept.length > 0) await quarantine(records, config.name, toUsageEvent(entry.record).id, kept, clock.nowMs())
      if (tellable && items.every(({ state }) => state === 'accepted' || state === 'held')) (kept.length > 0 ? held : alive).push(entry)
      else if (items.some(({ state }) => state === 'accepted' || state === 'held')) inPart.push(one)
    }
    await this.#narrow(config, inPart)
    await outbox.exhume([...alive, ...held].map(({ position }) => ({ consumer: config.name, position })))
    for (const { entry, items } of batch) if (alive.includes(entry) || held.includes(entry)) for (const item of items) item.sinceMs = null
    return alive.length
  }

  /** Of what was taken in part only the rest is dead. While another gateway delivers, marks alone remember it. */
  async #narrow(config: SinkConfig, inPart: readonly Raised[]): Promise<void> {
    if (inPart.length === 0) return
    const { outbox, clock } = this.#parts
    const nowMs = clock.nowMs()
    const fence = await outbox.lease(config.name, `${this.#config?.instance ?? config.name} dead`, nowMs, nowMs + replayLeaseMs)
    if (fence === undefined) return
    try {
      for (const { entry, items, untold } of inPart) {
        const before = reasonOnly(entry.reason)
        const left = items.flatMap(({ state, rule, reason }) => (state === 'waiting' || state === 'refused' ? [{ rule, reason: reason ?? before }] : []))
        await outbox.bury(fence, entry, reasonFor([...untold, ...left], Infinity), nowMs)
        for (const item of items) if (item.state === 'accepted' || item.state === 'held') item.sinceMs = null
      }
    } finally {
      await outbox.release(fence).catch(() => undefined)
    }
  }

  /** Only what was refused of it comes again. */
  #itemsOfDead(config: SinkConfig, attempts: Attempts, entry: DeadEntry): Raised {
    const event = toUsageEvent(entry.record)
    const rules = rulesIn(entry.reason)
    const { records, refused } = recordsOf(event, kindOf(config), config.mapping)
    const items = records.map((record) => attempts.item(record, ruleOf(record, event.id, config.mapping), event.id, Infinity)).filter(({ rule }) => rules === null || rules.includes(rule))
    return { entry, items, tellable: refused.length === 0, untold: refused.filter(({ rule }) => rules === null || rules.includes(rule)) }
  }

  #attempts(config: SinkConfig, sink: Sink, markedAs: string): Attempts {
    const { records, clock, metrics } = this.#parts
    return new Attempts({ name: config.name, contract: kindOf(config).contract, sink, records, clock, metrics, markedAs })
  }

  async #withSink<T>(config: SinkConfig, instance: string, task: (sink: Sink) => Promise<T>): Promise<T> {
    const sink = await openSink(config, this.#surroundings(instance))
    try {
      return await task(sink)
    } finally {
      await sink.close().catch(() => undefined)
    }
  }

  /** Does something with a sink while its loop does not. */
  async #aside<T>(config: SinkConfig, instance: string, task: () => Promise<T>): Promise<T> {
    const wasRunning = this.#running.has(config.name)
    await this.#stop(config.name)
    try {
      return await task()
    } finally {
      if (wasRunning) await this.#start(config, instance)
    }
  }

  async #start(config: SinkConfig, holder: string): Promise<void> {
    const { outbox, records, clock, random, log, metrics } = this.#parts
    try {
      await this.#lookForFormerName(config)
      await noteTelling(records, config, clock.nowMs(), (await outbox.lag(config.name)).oldestMs)
      const sink = await openSink(config, this.#surroundings(holder))
      const delivery = new Delivery({
        name: config.name, kind: kindOf(config), mapping: config.mapping, sink, outbox, records, clock, random, log, metrics, holder,
        periodOf: (account, atMs) => String(periodAt('billing_period', this.#parts.calendarOf?.(account) ?? DEFAULT_CALENDAR, atMs).startMs),
      })
      delivery.start()
      this.#running.set(config.name, { config, delivery })
      this.#unopened.delete(config.name)
    } catch (error) {
      log.error({ sink: config.name, error: error instanceof Error ? error.message : String(error) }, 'the sink cannot be opened; its events wait in the outbox')
      beginSinkSeries(metrics, config.name)
      metrics.sinkPaused.set({ sink: config.name }, 1)
      this.#unopened.set(config.name, { state: 'not open', reason: error instanceof Error ? reasonOf(error) : 'unknown', nextTryMs: this.#useAgainSoon(), lastDeliveryMs: null })
    }
  }

  /** A renamed sink begins with the oldest event that there is: what its receiver may have forgotten is not sent again blindly. */
  async #lookForFormerName(config: SinkConfig): Promise<void> {
    const { records, clock, log } = this.#parts
    const { former, noted } = await formerName(records, config, new Set(this.#config?.sinks.map(({ name }) => name)))
    if (former !== null) {
      if (kindOf(config).contract.dedupWindowMs !== 'forever') await markReplay(records, config.name, clock.nowMs())
      log.warn({ sink: config.name, former }, 'this sink delivers where another one did, and begins anew: events come again under their ids; those that the receiver may have forgotten wait in quarantine')
    }
    await noted()
  }

  #noLongerUnopened(name: string): void {
    if (this.#unopened.delete(name)) this.#parts.metrics.sinkPaused.remove({ sink: name })
  }

  /** Starts what does not run, as often as it takes: the store may be away just now. What runs is left alone, so that a pause lasts. */
  #useAgain(): void {
    this.#inTurn(async () => {
      if (this.#config !== null) await this.#apply(this.#config)
    }).catch((error: unknown) => {
      this.#parts.log.warn({ error: error instanceof Error ? error.message : String(error) }, 'the sinks cannot be started yet')
      this.#useAgainSoon()
    })
  }

  /** When. One timer for all: each of them starts all that does not run, so with one for each they would double every time. */
  #useAgainSoon(): number {
    const { clock } = this.#parts
    this.#again ??= {
      atMs: clock.nowMs() + reopenMs,
      cancel: clock.after(reopenMs, () => {
        this.#again = null
        this.#useAgain()
      }, { unref: true }),
    }
    return this.#again.atMs
  }

  async #stop(name: string): Promise<void> {
    const running = this.#running.get(name)
    this.#running.delete(name)
    await running?.delivery.stop()
  }

  #consumers(config: Config): string[] {
    return [...config.sinks.map((sink) => sink.name), ...this.#parts.further?.(config) ?? []]
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
