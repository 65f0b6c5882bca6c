import type { Writable } from 'node:stream'
import { isDeepStrictEqual } from 'node:util'
import type { Clock } from './clock.ts'
import type { Config, SinkConfig } from './config/config.ts'
import type { Log } from './log.ts'
import { toUsageEvent } from './metering/event.ts'
import type { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import { Delivery } from './sinks/deliver.ts'
import { openSink } from './sinks/index.ts'
import type { Outbox } from './stores/store.ts'

export interface DeliveriesParts {
  readonly outbox: Outbox
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

const attemptMs = 20_000

/** The delivery loops of all configured sinks. A reload touches only those that changed; cursors are the store's, so nothing is skipped or repeated. */
export class Deliveries {
  readonly #parts: DeliveriesParts
  readonly #running = new Map<string, Running>()
  /** Applying, retrying and stopping take turns. */
  #last: Promise<unknown> = Promise.resolve()
  #config: Config | null = null

  constructor(parts: DeliveriesParts) {
    this.#parts = parts
  }

  /** Runs exactly the sinks of `config`. A sink that cannot be opened is logged and tried again every few seconds. */
  use(config: Config): Promise<void> {
    return this.#inTurn(async () => {
      this.#config = config
      await this.#parts.outbox.setConsumers(config.sinks.map((sink) => sink.name))
      for (const [name, running] of this.#running) {
        const wanted = config.sinks.find((sink) => sink.name === name)
        if (wanted === undefined || !isDeepStrictEqual(wanted, running.config)) await this.#stop(name)
      }
      for (const sink of config.sinks) if (!this.#running.has(sink.name)) await this.#start(sink, config.instance)
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
      await Promise.all([...this.#running.keys()].map((name) => this.#stop(name)))
    })
  }

  /** Delivers dead events again: of one consumer, or of all sinks of `config`. Its loop pauses meanwhile, because a sink has one writer. */
  retryDead(consumer: string | null, config: Config): Promise<{ delivered: number; failed: number }> {
    return this.#inTurn(async () => {
      let delivered = 0
      let failed = 0
      for (const sink of config.sinks.filter(({ name }) => consumer === null || name === consumer)) {
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

  async #retry(config: SinkConfig): Promise<{ delivered: number; failed: number }> {
    const { outbox, clock, log } = this.#parts
    const dead = await outbox.dead(config.name)
    if (dead.length === 0) return { delivered: 0, failed: 0 }
    const sink = await openSink(config, this.#surroundings())
    let delivered = 0
    try {
      for (let at = 0; at < dead.length; at += sink.batchMax) {
        const batch = dead.slice(at, at + sink.batchMax)
        const events = batch.map((entry) => toUsageEvent(entry.record))
        const abort = new AbortController()
        const cancel = clock.after(attemptMs, () => abort.abort())
        const report = await sink.deliver(events, abort.signal).finally(cancel)
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
      const sink = await openSink(config, this.#surroundings())
      const delivery = new Delivery({ sink, outbox, clock, random, log, metrics, holder })
      delivery.start()
      this.#running.set(config.name, { config, delivery })
    } catch (error) {
      log.error({ sink: config.name, error: error instanceof Error ? error.message : String(error) }, 'the sink cannot be opened; its events wait in the outbox')
      const now = this.#config
      clock.after(reopenMs, () => {
        if (now !== null && this.#config === now) void this.use(now)
      }, { unref: true })
    }
  }

  async #stop(name: string): Promise<void> {
    const running = this.#running.get(name)
    this.#running.delete(name)
    await running?.delivery.stop()
  }

  #surroundings(): { clock: Clock; stdout: Writable } {
    return { clock: this.#parts.clock, stdout: this.#parts.stdout }
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => undefined)
    return result
  }
}

const reopenMs = 5_000
