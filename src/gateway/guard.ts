import { RateLimiterMemory } from 'rate-limiter-flexible'
import type { RateLimiterRes } from 'rate-limiter-flexible'
import { GatewayError } from '../errors.ts'

export interface GuardOptions {
  /** So many unknown keys from one address … */
  readonly allowance: number
  /** … in so many seconds. */
  readonly windowSeconds: number
}

/**
 * Brakes guessing. Only a key that has proved unknown is charged to its address, so a valid key is never braked, however many bad
 * ones come from beside it. Addresses share a fixed number of places: a flood from everywhere cannot grow the memory.
 */
export class Guard {
  readonly #limiter: RateLimiterMemory

  constructor(options: GuardOptions = { allowance: 60, windowSeconds: 60 }) {
    this.#limiter = new RateLimiterMemory({ points: options.allowance, duration: options.windowSeconds })
  }

  /** Charges one unknown key. Returns what to answer: that the key is unknown, or that there were too many. */
  async charge(address: string, unknown: GatewayError): Promise<GatewayError> {
    try {
      await this.#limiter.consume(placeOf(address))
      return unknown
    } catch (thrown) {
      if (!isVerdict(thrown)) throw thrown
      const retryAfterMs = Math.max(1, thrown.msBeforeNext)
      return new GatewayError('too_many_bad_keys', 'Too many unknown API keys came from this address.', { details: { retryAfterMs } })
    }
  }
}

/** The limiter says no by throwing its count. */
function isVerdict(thrown: unknown): thrown is RateLimiterRes {
  return typeof thrown === 'object' && thrown !== null && 'msBeforeNext' in thrown
}

const places = 16_384

/** One host has all of a /64 in IPv6. */
function placeOf(address: string): number {
  const network = address.includes(':') ? network64(address) : address
  let hash = 0x811c9dc5
  for (let i = 0; i < network.length; i += 1) hash = Math.imul(hash ^ network.charCodeAt(i), 0x01000193)
  return (hash ^ (hash >>> 16)) & (places - 1)
}

/** The first four groups, without leading zeros. */
function network64(address: string): string {
  const gap = address.indexOf('::')
  const groups = (gap < 0 ? address : address.slice(0, gap)).split(':')
  if (gap >= 0 && groups.length < 4) {
    const behind = address.slice(gap + 2).split(':')
    // An address that ends in IPv4 notation counts two groups there.
    const written = groups.length + behind.length + (address.includes('.') ? 1 : 0)
    for (let missing = 8 - written; missing > 0 && groups.length < 4; missing -= 1) groups.push('0')
    groups.push(...behind)
  }
  let network = ''
  for (let i = 0; i < 4; i += 1) network += `${Number.parseInt(groups[i] ?? '0', 16) || 0}:`
  return network
}
