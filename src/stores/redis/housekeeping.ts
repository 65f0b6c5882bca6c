import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import { StoreUnavailable } from '../store.ts'
import type { KeyNames } from './keys.ts'
import type { RedisLink } from './link.ts'
import { freeScript, HOLDS_MS, leaseScript, type RedisOutbox } from './outbox.ts'
import { loadScript } from './scripts.ts'

export interface HousekeepingParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  readonly outbox: RedisOutbox
  readonly clock: Clock
  /** The store's time, ms since 1970. */
  readonly nowMs: () => number
  readonly log: Log
  /** How long delivered events stay. */
  readonly hotMs: number
  /** Undelivered events beyond which nothing new is admitted. */
  readonly eventsMax: number
  /** How long after its start a process begins to trim, ms; unless given, as long as a consumer holds back trimming. */
  readonly settleMs?: number
}

const tendScript = loadScript('outbox-tend', ['outbox.lua', 'outbox-tend.lua'], ['allow-oom'])

const ROUND_MS = 2_000
const LEASE_MS = 10_000
const REGISTER_MS = 60_000
/** Partitions that are tended together: the scripts are short, and calls may come between. */
const TOGETHER = 32
const REMOVED_AT_ONCE = 5_000
/** Shares of Redis's memory limit: above the one delivered events leave early, below the other they may stay again. */
const MEMORY_SHORT = 0.8
const MEMORY_FINE = 0.7
const HOT_LEAST_MS = 1_000
/** Of `eventsMax`: admission begins again below it, so that it does not flap. */
const AGAIN_BELOW = 0.95

/**
 * What somebody has to do for all replicas now and then: trimming, and measuring what waits for delivery. Whoever holds the lease does it; all others read what he
 * has measured. An event is removed only once every configured consumer is done with it, never before.
 */
export class Housekeeping {
  readonly #parts: HousekeepingParts
  readonly #startedMs: number
  #stop: (() => void) | null = null
  #running: Promise<void> | null = null
  #registeredMs = -Infinity
  #hotMs: number
  #undelivered = 0
  #full = false
  /** Of the lease, as long as this process has it. */
  #token: number | null = null

  constructor(parts: HousekeepingParts) {
    this.#parts = parts
    this.#startedMs = parts.clock.monotonicMs()
    this.#hotMs = parts.hotMs
  }

  /** Only gateways do this: a command that looks at the store has no consumers to speak for. */
  start(): void {
    this.#stop ??= this.#parts.clock.every(ROUND_MS, () => void this.round())
    void this.round()
  }

  /** Events that at least one configured consumer has not delivered, as last measured by any replica. */
  get undelivered(): number {
    return this.#undelivered
  }

  /** The same, as the store has it; null: nobody has measured it yet. */
  async measured(): Promise<number | null> {
    const { link, keys } = this.#parts
    const lease = keys.lease('housekeeping')
    const text = await link.command(lease, 'HGET', [lease, 'undelivered'])
    return typeof text === 'string' ? Number(text) : null
  }

  /** Why nothing may be admitted, in plain words; null: it may. */
  get refusal(): string | null {
    if (!this.#full) return null
    return `${this.#undelivered} events wait for delivery, and ${this.#parts.eventsMax} may: nothing is admitted until a sink has taken some`
  }

  /** One turn; while one is under way, that one. Never rejects. */
  round(): Promise<void> {
    return this.#running ??= this.#round().catch((error: unknown) => {
      // Redis being away is told by the link.
      if (!(error instanceof StoreUnavailable)) this.#parts.log.error({ error: String(error) }, 'housekeeping failed')
    }).finally(() => { this.#running = null })
  }

  async close(): Promise<void> {
    this.#stop?.()
    this.#stop = null
    await this.#running
    if (this.#token === null || !this.#parts.link.up) return
    // Left to run out when this fails: that only takes longer.
    await this.#parts.link.script(freeScript, [this.#parts.keys.lease('housekeeping')], [this.#token, 0]).catch(() => undefined)
  }

  async #round(): Promise<void> {
    const { link, keys, outbox, clock, nowMs } = this.#parts
    if (!link.up) return
    if (outbox.configured !== null && clock.monotonicMs() - this.#registeredMs >= REGISTER_MS) {
      await outbox.register()
      this.#registeredMs = clock.monotonicMs()
    }
    const lease = keys.lease('housekeeping')
    const now = nowMs()
    // A process that has no word on what is configured cannot know what may go.
    const token = outbox.configured === null ? null : await link.script(leaseScript, [lease], [outbox.instance, now, now + LEASE_MS])
    this.#token = token === null ? null : Number(token)
    if (this.#token !== null) {
      await this.#weigh()
      const measured = await this.#tend(now)
      if (measured !== null) await link.command(lease, 'HSET', [lease, 'undelivered', measured])
    }
    this.#take(Number(await link.command(lease, 'HGET', [lease, 'undelivered'])))
  }

  /** Trims and measures every partition. Null: some did not answer, and the sum is not known. */
  async #tend(now: number): Promise<number | null> {
    const { link, keys, outbox, clock, log, settleMs = HOLDS_MS } = this.#parts
    const consumers = await outbox.holding(now)
    // Right after the start of all replicas those that were away with them may not have said yet what they have configured.
    const beforeMs = clock.monotonicMs() - this.#startedMs < settleMs ? 0 : Math.max(0, Math.floor(now - this.#hotMs))
    let undelivered: number | null = 0
    for (let first = 0; first < keys.partitions; first += TOGETHER) {
      const partitions = Array.from({ length: Math.min(TOGETHER, keys.partitions - first) }, (_, i) => first + i)
      await Promise.all(partitions.map(async (partition) => {
        const names = [keys.events(partition), keys.lastEvent(partition), ...consumers.map((consumer) => keys.cursor(partition, consumer))]
        try {
          let answer: readonly [number, number]
          do answer = await link.script(tendScript, names, [beforeMs, REMOVED_AT_ONCE]) as readonly [number, number]
          while (answer[0] > 0)
          if (undelivered !== null) undelivered += answer[1]
        } catch (error) {
          undelivered = null
          // One partition's trouble, a slot that moves or a damaged key, is not the others'.
          if (!(error instanceof StoreUnavailable)) log.error({ partition, error: String(error) }, 'a partition cannot be tended')
        }
      }))
    }
    return undelivered
  }

  /** While memory is short, delivered events stay for half as long with every round. */
  async #weigh(): Promise<void> {
    const { link, hotMs, log } = this.#parts
    let fullest = 0
    for (const { info } of await link.info()) {
      const limit = Number(info.get('maxmemory') ?? 0)
      if (limit > 0) fullest = Math.max(fullest, Number(info.get('used_memory') ?? 0) / limit)
    }
    if (fullest > MEMORY_SHORT) {
      if (this.#hotMs === hotMs && hotMs > 0) log.warn({ memory_percent: Math.round(fullest * 100) }, 'Redis is short of memory: delivered events are removed before their time')
      this.#hotMs = this.#hotMs < HOT_LEAST_MS ? 0 : this.#hotMs / 2
    } else if (fullest < MEMORY_FINE && this.#hotMs < hotMs) {
      this.#hotMs = Math.min(hotMs, Math.max(HOT_LEAST_MS, this.#hotMs * 2))
      if (this.#hotMs === hotMs) log.info({ memory_percent: Math.round(fullest * 100) }, 'delivered events stay for their time again')
    }
  }

  #take(undelivered: number): void {
    const { eventsMax, log } = this.#parts
    if (Number.isNaN(undelivered)) return
    this.#undelivered = undelivered
    const wasFull = this.#full
    this.#full = undelivered > (wasFull ? eventsMax * AGAIN_BELOW : eventsMax)
    if (this.#full && !wasFull) log.error({ events: undelivered }, 'too many events wait for delivery: nothing is admitted until a sink has taken some')
    if (!this.#full && wasFull) log.warn({ events: undelivered }, 'sinks have taken enough events: calls are admitted again')
  }
}
