import { SeededRandom } from '../../sim/seeded-random.ts'

/**
 * What goes wrong with one request.
 * `busy`: 429 with `Retry-After`. `broken_before` and `broken_after`: 500, before or after everything was booked. `reset_before`: the connection is reset when
 * the body has been read, nothing is booked; `reset_after`: everything is. `cut`: reset before the body is read. `half`: the first half is booked, then 500.
 * `slow`: booked, and the answer takes long. `empty`: booked, 200 without a body. `html`: 200 with the page of a proxy, nothing is booked.
 */
export const everyFault = ['busy', 'broken_before', 'broken_after', 'reset_before', 'reset_after', 'cut', 'half', 'slow', 'empty', 'html'] as const
export type Fault = typeof everyFault[number]

/** How likely each is; absent: never. */
export type Rates = { readonly [F in Fault]?: number }

/** `share` of all requests go wrong, in every way equally often. */
export function equally(share: number, faults: readonly Fault[] = everyFault): Rates {
  return Object.fromEntries(faults.map((fault) => [fault, share / faults.length]))
}

/** Which fault the next request meets: those that were asked for by name, then by chance that a seed repeats. */
export class Faults {
  readonly #named: Fault[] = []
  #random = new SeededRandom(1, 'faults')
  #rates: Rates = {}
  /** How many there were of each. */
  readonly met: { [F in Fault]?: number } = {}

  next(...faults: readonly Fault[]): void {
    this.#named.push(...faults)
  }

  byChance(seed: number, rates: Rates): void {
    this.#random = new SeededRandom(seed, 'faults')
    this.#rates = rates
  }

  take(): Fault | null {
    const fault = this.#named.shift() ?? this.#byChance()
    if (fault !== null) this.met[fault] = (this.met[fault] ?? 0) + 1
    return fault
  }

  #byChance(): Fault | null {
    let at = this.#random.fraction()
    for (const fault of everyFault) {
      at -= this.#rates[fault] ?? 0
      if (at < 0) return fault
    }
    return null
  }
}
