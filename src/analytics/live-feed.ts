import type { Clock } from '../clock.ts'
import type { TrafficReport } from './traffic.ts'

/** Means of the last two seconds; what is open is open now. */
export interface LiveFigures {
  readonly atMs: number
  readonly requestsPerSecond: number
  readonly tokensPerSecond: number
  readonly failedPerSecond: number
  readonly refusedPerSecond: number
  /** Currency → nanos a second. */
  readonly costPerSecond: ReadonlyMap<string, number>
  readonly open: number
  readonly streams: number
  /** Reason → how many in the last minute. */
  readonly refusals: ReadonlyMap<string, number>
}

/** Of one second, of all processes. */
interface Second {
  requests: number
  tokens: number
  failed: number
  readonly cost: Map<string, number>
  readonly refused: Map<string, number>
}

const SECONDS = 60
const MEAN_OF = 2
/** A process that says nothing for so long has nothing open: it is gone, or idle. */
const HEARD_MS = 3_500

/** Puts together what all processes of this gateway see, second by second. */
export class LiveFeed {
  readonly #clock: Clock
  /** The newest last; the one that is being filled. */
  readonly #seconds: Second[] = [emptySecond()]
  readonly #open = new Map<string, { readonly atMs: number; readonly open: number; readonly streams: number }>()
  readonly #listeners = new Set<() => void>()
  /** For each who watches, whether he is gone. */
  readonly #watchers = new Set<() => boolean>()
  #figures: LiveFigures
  #stop: (() => void) | null = null

  constructor(clock: Clock) {
    this.#clock = clock
    this.#figures = this.#read()
  }

  start(): void {
    this.#stop ??= this.#clock.every(1_000, () => this.#turn())
  }

  close(): void {
    this.#stop?.()
    this.#stop = null
    for (const listener of this.#listeners) listener()
  }

  /** What one process tells once a second. */
  add(process: string, { requests, tokens, failed, cost, refused, open, streams }: Omit<TrafficReport, 'counts' | 'samples'>): void {
    const second = this.#seconds.at(-1)!
    second.requests += requests
    second.tokens += tokens
    second.failed += failed
    for (const [currency, nanos] of Object.entries(cost)) raise(second.cost, currency, nanos)
    for (const [reason, count] of Object.entries(refused)) raise(second.refused, reason, count)
    this.#open.set(process, { atMs: this.#clock.monotonicMs(), open, streams })
  }

  get figures(): LiveFigures {
    return this.#figures
  }

  /** Resolves with the next second; false: there is none any more, or nobody wants it. */
  next(gone: () => boolean): Promise<boolean> {
    if (this.#stop === null || gone()) return Promise.resolve(false)
    return new Promise((resolve) => {
      const listener = (): void => {
        this.#listeners.delete(listener)
        resolve(this.#stop !== null && !gone())
      }
      this.#listeners.add(listener)
    })
  }

  /** Lets one more watch, until he calls what this gives, or is gone: not all that are let in ever begin. null: `max` watch already. */
  admit(max: number, gone: () => boolean): (() => void) | null {
    for (const isGone of this.#watchers) if (isGone()) this.#watchers.delete(isGone)
    if (this.#watchers.size >= max) return null
    const isGone = (): boolean => gone()
    this.#watchers.add(isGone)
    return () => { this.#watchers.delete(isGone) }
  }

  #turn(): void {
    this.#figures = this.#read()
    this.#seconds.push(emptySecond())
    if (this.#seconds.length > SECONDS) this.#seconds.shift()
    for (const listener of this.#listeners) listener()
  }

  #read(): LiveFigures {
    const last = this.#seconds.slice(-MEAN_OF)
    const mean = (of: (second: Second) => number): number => last.reduce((sum, second) => sum + of(second), 0) / last.length
    const cost = new Map<string, number>()
    for (const second of last) for (const [currency, nanos] of second.cost) raise(cost, currency, nanos / last.length)
    const refusals = new Map<string, number>()
    for (const { refused } of this.#seconds) for (const [reason, count] of refused) raise(refusals, reason, count)
    const sinceMs = this.#clock.monotonicMs() - HEARD_MS
    let open = 0
    let streams = 0
    for (const [process, heard] of this.#open) {
      if (heard.atMs < sinceMs) this.#open.delete(process)
      open += heard.atMs < sinceMs ? 0 : heard.open
      streams += heard.atMs < sinceMs ? 0 : heard.streams
    }
    return {
      atMs: this.#clock.nowMs(), requestsPerSecond: mean(({ requests }) => requests), tokensPerSecond: mean(({ tokens }) => tokens), failedPerSecond: mean(({ failed }) => failed),
      refusedPerSecond: mean(({ refused }) => [...refused.values()].reduce((sum, count) => sum + count, 0)), costPerSecond: cost, open, streams, refusals,
    }
  }
}

function emptySecond(): Second {
  return { requests: 0, tokens: 0, failed: 0, cost: new Map(), refused: new Map() }
}

function raise(map: Map<string, number>, name: string, by: number): void {
  map.set(name, (map.get(name) ?? 0) + by)
}
