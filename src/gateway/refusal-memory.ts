import type { Check } from '../metering/check.ts'
import type { ReserveAnswer } from '../metering/moves.ts'

type Denied = Extract<ReserveAnswer, { outcome: 'denied' }>

interface Memory {
  readonly answer: Denied
  /** The refusing check and the smallest amount it refused. */
  readonly check: number
  readonly amount: number
  readonly untilMs: number
}

const keepMs = 1_000
const entriesMax = 10_000

/**
 * Refusals that settled use alone caused, remembered for a moment: until the window moves on nothing can admit that amount, so a flood costs
 * no store call. A denial that open reservations caused is never remembered. Counters and what their ceilings hold are in the key, so a window that has moved on
 * is another entry, and so is a limit that was raised or extended by a grant; a changed configuration forgets everything.
 */
export class RefusalMemory {
  /** What was in force: another one is another object. */
  #config: object | null = null
  readonly #memories = new Map<string, Memory>()

  recall(config: object, checks: readonly Check[], uMin: number, uMax: number, nowMs: number): Denied | null {
    if (this.#memories.size === 0) return null
    if (config !== this.#config) {
      this.forget()
      return null
    }
    const key = keyOf(checks)
    const memory = this.#memories.get(key)
    if (memory === undefined) return null
    if (memory.untilMs <= nowMs) {
      this.#memories.delete(key)
      return null
    }
    const check = checks[memory.check]
    return check !== undefined && leastNeed(check, uMin, uMax) >= memory.amount ? memory.answer : null
  }

  remember(config: object, checks: readonly Check[], uMin: number, uMax: number, answer: Denied, nowMs: number): void {
    const refusal = answer.refusals.find((candidate) => candidate.why === 'used_up')
    const check = refusal === undefined ? undefined : checks[refusal.check]
    if (refusal === undefined || check === undefined) return
    if (config !== this.#config || this.#memories.size >= entriesMax) this.forget()
    this.#config = config
    this.#memories.set(keyOf(checks), { answer, check: refusal.check, amount: leastNeed(check, uMin, uMax), untilMs: nowMs + keepMs })
  }

  /** Forgets everything: the configuration, a grant or a plan has changed. */
  forget(): void {
    this.#memories.clear()
  }
}

function keyOf(checks: readonly Check[]): string {
  let key = ''
  for (const check of checks) {
    key += check.slots[check.at] ?? ''
    for (const { buckets } of check.ceilings) for (const { counter, ceiling } of buckets) key += `\n${counter ?? ''} ${ceiling}`
    key += '\n\n'
  }
  return key
}

/** The least that the call can do with. */
function leastNeed(check: Check, uMin: number, uMax: number): number {
  return check.fixed + check.perUnit * (check.clampable ? uMin : uMax)
}
