import type { KeyLookup, Principal } from '../accounts/principal.ts'
import { GatewayError } from '../errors.ts'
import type { Downstream } from './downstream.ts'
import { queryValues } from './headers.ts'
import type { GatewayParts } from './parts.ts'

/** Every place where some SDK puts its key. All are looked at in every dialect, so that two that differ can never be told apart by who reads them. */
const keyHeaders = ['x-api-key', 'api-key', 'x-goog-api-key'] as const

/** Visible ASCII. Anything else cannot be a key of ours and is not worth hashing. */
const grammar = /^[\x21-\x7e]{1,512}$/

/** Who is calling. Throws `invalid_api_key` (the same words for every wrong key), `subscription_inactive`, `bad_request`, `too_many_bad_keys`. */
export async function authenticate(d: Downstream, parts: Pick<GatewayParts, 'keys' | 'guard' | 'clock' | 'metrics'>): Promise<Principal> {
  const secret = secretOf(d)
  if (secret === null) throw invalidKey()
  const lookup: KeyLookup = grammar.test(secret) ? parts.keys.find(secret, parts.clock.nowMs()) : { outcome: 'unknown' }
  if (lookup.outcome === 'found') return lookup.principal
  if (lookup.outcome === 'inactive') throw new GatewayError('subscription_inactive', 'This account is not active.')
  // Only now is anyone braked: a valid key never gets here.
  const refusal = await parts.guard.charge(d.address, invalidKey())
  parts.metrics.badKeys.inc({ braked: refusal.code === 'too_many_bad_keys' ? 'yes' : 'no' })
  throw refusal
}

export function hasCredential(d: Downstream): boolean {
  return secretOf(d) !== null
}

function invalidKey(): GatewayError {
  return new GatewayError('invalid_api_key', 'The API key is missing or not valid.')
}

function secretOf(d: Downstream): string | null {
  let found: string | null = null
  const take = (value: string): void => {
    const secret = value.trim()
    if (secret === '') return
    if (found !== null && found !== secret) {
      throw new GatewayError('bad_request', 'The request carries two different API keys. Send one.')
    }
    found = secret
  }
  for (let i = 0; i + 1 < d.headers.length; i += 2) {
    const name = d.headers[i]
    const value = d.headers[i + 1] ?? ''
    if (name === 'authorization') {
      const bearer = /^bearer +(\S.*)$/i.exec(value)?.[1]
      if (bearer !== undefined) take(bearer)
    } else if (name !== undefined && (keyHeaders as readonly string[]).includes(name)) {
      take(value)
    }
  }
  if (d.query !== '') {
    for (const value of queryValues(d.query, 'key')) take(value)
  }
  return found
}
