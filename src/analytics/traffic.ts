import { RefusalTally } from './refusal-tally.ts'
import type { RefusalReport, RefusedCall } from './refusal-tally.ts'

/** A call that is over, however it ended. */
export interface EndedCall {
  /** Something broke: its status says so, or its answer did not come to its end. */
  readonly failed: boolean
  readonly tokens: number
  /** In nanos of `currency`; 0: nothing was priced. */
  readonly costNanos: number
  readonly currency: string
}

/** What one process has seen since it told the last time, and what is open in it now. Plain data, which travels between processes. */
export interface TrafficReport extends RefusalReport {
  readonly requests: number
  readonly failed: number
  readonly tokens: number
  /** Currency → nanos. */
  readonly cost: Readonly<Record<string, number>>
  readonly refused: Readonly<Record<string, number>>
  readonly open: number
  readonly streams: number
}

/** What this process sees of calls, for those who watch. Adding is all that a call pays for it. */
export class Traffic {
  readonly #tally: RefusalTally
  /** What is open now. */
  open: () => { readonly open: number; readonly streams: number } = () => ({ open: 0, streams: 0 })
  #requests = 0
  #failed = 0
  #tokens = 0
  #cost: Record<string, number> = {}
  #refused: Record<string, number> = {}

  constructor(tally = new RefusalTally()) {
    this.#tally = tally
  }

  ended({ failed, tokens, costNanos, currency }: EndedCall): void {
    this.#requests += 1
    if (failed) this.#failed += 1
    this.#tokens += tokens
    if (costNanos !== 0) this.#cost[currency] = (this.#cost[currency] ?? 0) + costNanos
  }

  /** `call` null: nobody knows whose it was. */
  refused(reason: string, call: RefusedCall | null): void {
    this.#refused[reason] = (this.#refused[reason] ?? 0) + 1
    if (call !== null) this.#tally.note(call)
  }

  /** Since the last time. */
  take(): TrafficReport {
    const report = { ...this.#tally.take(), ...this.open(), requests: this.#requests, failed: this.#failed, tokens: this.#tokens, cost: this.#cost, refused: this.#refused }
    this.#requests = this.#failed = this.#tokens = 0
    this.#cost = {}
    this.#refused = {}
    return report
  }
}

/** Nothing worth telling another process. */
export function isQuiet({ requests, open, refused, counts }: TrafficReport): boolean {
  return requests === 0 && open === 0 && counts.length === 0 && Object.keys(refused).length === 0
}
