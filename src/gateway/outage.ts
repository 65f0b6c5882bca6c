import type { Clock } from '../clock.ts'
import type { Policy } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Check } from '../metering/check.ts'

/** With so many root accounts or counters in one outage nothing more is served up to an amount: nobody can be counted beyond that. */
const countersMax = 100_000
/** How often a change is told. */
const tellMs = 1_000
/** Accounts that were served and never called again: when nothing has failed for so long, their outage is over as well. */
const forgetMs = 3_600_000

/**
 * What is served while the store is away, by plan: nothing, everything, or up to an amount of each refusing check. Counted anew in each outage. One
 * ends, for a root account, when the store has answered a reservation of that account: its other parts may be away still.
 */
export class Outage {
  readonly #log: Log
  readonly #clock: Clock
  /** Root account → counter without its window → amount. */
  readonly #served = new Map<string, Map<string, number>>()
  #counters = 0
  #reason: string | null = null
  #toldMs = -Infinity
  #failedMs = -Infinity

  constructor({ log, clock }: { readonly log: Log; readonly clock: Clock }) {
    this.#log = log
    this.#clock = clock
  }

  /** A call could not be metered, for this reason. It is told when it is new. */
  began(reason: string): void {
    const nowMs = this.#clock.monotonicMs()
    this.#failedMs = nowMs
    if (reason === this.#reason || nowMs - this.#toldMs < tellMs) return
    this.#reason = reason
    this.#toldMs = nowMs
    this.#log.warn({ why: reason }, 'calls cannot be metered')
  }

  /** May this be served unheld? `amounts`: what it may use, one per check. Counts it if so. */
  serves(policy: Policy['storeDown'], home: string, checks: readonly Check[], amounts: readonly number[]): boolean {
    if (policy.kind === 'deny') return false
    if (policy.kind === 'allow') return true
    const served = this.#served.get(home) ?? new Map<string, number>()
    const wanted: { name: string; sum: number }[] = []
    for (const [i, check] of checks.entries()) {
      if (!check.ceilings.some((ceiling) => ceiling.refuses)) continue
      const name = counterOf(check)
      const sum = (served.get(name) ?? 0) + (amounts[i] ?? 0)
      if (sum > policy.amount) return false
      wanted.push({ name, sum })
    }
    if (this.#counters + wanted.length > countersMax) return false
    for (const { name, sum } of wanted) {
      if (!served.has(name)) this.#counters += 1
      served.set(name, sum)
    }
    this.#served.set(home, served)
    return true
  }

  ended(home: string): void {
    if (this.#reason === null && this.#served.size === 0) return
    const nowMs = this.#clock.monotonicMs()
    const served = this.#served.get(home)
    if (served !== undefined) {
      this.#served.delete(home)
      this.#counters -= served.size
    }
    if (nowMs - this.#failedMs > forgetMs) {
      this.#served.clear()
      this.#counters = 0
    }
    if (this.#reason === null || nowMs - this.#toldMs < tellMs) return
    this.#reason = null
    this.#toldMs = nowMs
    this.#log.info({}, 'calls are metered again')
  }
}

/** A window that begins during the outage brings no new amount. */
function counterOf(check: Check): string {
  const slot = check.slots[check.at] ?? ''
  const window = slot.lastIndexOf('|')
  return window === -1 ? slot : slot.slice(0, window)
}
