import { RateLimiterMemory } from 'rate-limiter-flexible'

/** Wrong tokens of one address … */
const LOGIN_FAILURES_MAX = 10
/** … also in the header of requests, where a script may be wrong for a while … */
const BEARER_FAILURES_MAX = 300
/** … and of all addresses together; beyond, an address has one attempt. */
const ALL_FAILURES_MAX = 200
const WINDOW_S = 60
const EVERYBODY = 'everybody'

export type Door = 'login' | 'bearer'

/**
 * Brakes guessing at admin tokens. An address that was wrong too often is refused whatever it brings, until its minute is over; while many addresses guess
 * at once, each may be wrong once. So nobody is locked out by the guesses of others, unless he shares their address.
 */
export class LoginBrake {
  readonly #login = new RateLimiterMemory({ points: LOGIN_FAILURES_MAX, duration: WINDOW_S, keyPrefix: 'login' })
  readonly #bearer = new RateLimiterMemory({ points: BEARER_FAILURES_MAX, duration: WINDOW_S, keyPrefix: 'bearer' })
  readonly #all = new RateLimiterMemory({ points: ALL_FAILURES_MAX, duration: WINDOW_S, keyPrefix: 'all' })

  /** How long the address has to wait, ms; 0: it may try. */
  async waitMs(door: Door, address: string): Promise<number> {
    const own = await this.#of(door).get(placeOf(address))
    if (own === null) return 0
    if (own.consumedPoints >= this.#of(door).points) return own.msBeforeNext
    if (door === 'bearer') return 0
    const all = await this.#all.get(EVERYBODY)
    return all !== null && all.consumedPoints >= ALL_FAILURES_MAX ? own.msBeforeNext : 0
  }

  async failed(door: Door, address: string): Promise<void> {
    await this.#of(door).penalty(placeOf(address), 1)
    if (door === 'login') await this.#all.penalty(EVERYBODY, 1)
  }

  #of(door: Door): RateLimiterMemory {
    return door === 'login' ? this.#login : this.#bearer
  }
}

/** One host has all of a /64 in IPv6. */
function placeOf(address: string): string {
  if (!address.includes(':')) return address
  const [before = '', behind] = address.split('::')
  const groups = before === '' ? [] : before.split(':')
  if (behind !== undefined) {
    const last = behind === '' ? [] : behind.split(':')
    while (groups.length < 8 - last.length) groups.push('0')
  }
  return groups.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, '')).join(':')
}
