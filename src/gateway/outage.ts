import type { Policy } from '../config/config.ts'
import type { Check } from '../metering/check.ts'

/**
 * What is served while the store is away, by plan: nothing, everything, or up to an amount of each refusing check. Counted anew in each
 * outage, which ends when the store has answered.
 */
export class Outage {
  readonly #served = new Map<string, number>()

  /** May this call be served unheld? Counts it if so. */
  serves(policy: Policy['storeDown'], checks: readonly Check[], u: number): boolean {
    if (policy.kind === 'deny') return false
    if (policy.kind === 'allow') return true
    const refusing = checks.filter((check) => check.ceilings.some((ceiling) => ceiling.refuses))
    const wanted = refusing.map((check) => ({ name: check.slots[check.at] ?? '', amount: check.fixed + check.perUnit * u }))
    if (wanted.some(({ name, amount }) => (this.#served.get(name) ?? 0) + amount > policy.amount)) return false
    for (const { name, amount } of wanted) this.#served.set(name, (this.#served.get(name) ?? 0) + amount)
    return true
  }

  ended(): void {
    if (this.#served.size > 0) this.#served.clear()
  }
}
