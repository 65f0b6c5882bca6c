import type { Inactive, KeyLookup, Principal } from '../accounts/principal.ts'
import { unreachable } from '../assert.ts'
import { GatewayError } from '../errors.ts'
import { toWholeSecond } from '../metering/event.ts'
import type { Downstream } from './downstream.ts'
import { queryValues } from './headers.ts'
import type { GatewayParts } from './parts.ts'

/** Every place where some SDK puts its key. All are looked at in every dialect, so that two that differ can never be told apart by who reads them. */
const keyHeaders = ['x-api-key', 'api-key', 'x-goog-api-key'] as const

/** Visible ASCII. Anything else cannot be a key of ours and is not worth hashing. */
const grammar = /^[\x21-\x7e]{1,512}$/

/** Whose key it is, by their ids. */
export interface KeyOwner {
  readonly account: string
  readonly key: string
}

/** Says to operators, never to the caller, whose key it is that opens nothing: of an account that may not call now, revoked, expired or replaced. */
export interface KeyOwners {
  /** null: nobody's. Asked for every refused call: out of memory, no more than a digest and a few map reads. */
  ownerOf(secret: string, nowMs: number): KeyOwner | null
}

/** A refusal as any other to the caller, of a key that is known. */
export class KeyRefused extends GatewayError {
  readonly owner: KeyOwner
  constructor({ code, message, source, details }: GatewayError, owner: KeyOwner) {
    super(code, message, { source, details })
    this.owner = owner
  }
}

/**
 * Who is calling. Throws `invalid_api_key` (the same words for every wrong key), `subscription_inactive`, `bad_request`, `too_many_bad_keys`; as `KeyRefused` where it
 * is known whose key it is.
 */
export async function authenticate(d: Downstream, parts: Pick<GatewayParts, 'keys' | 'guard' | 'clock' | 'metrics'>): Promise<Principal> {
  const secret = secretOf(d)
  if (secret === null) throw invalidKey()
  const nowMs = parts.clock.nowMs()
  const isWord = grammar.test(secret)
  const lookup: KeyLookup = isWord ? parts.keys.find(secret, nowMs) : { outcome: 'unknown' }
  if (lookup.outcome === 'found') return lookup.principal
  const owner = isWord ? parts.keys.ownerOf?.(secret, nowMs) ?? null : null
  const refusal = lookup.outcome === 'inactive' ? inactive(lookup) : await unknownKey(d, parts)
  throw owner === null ? refusal : new KeyRefused(refusal, owner)
}

/** Only now is anyone braked: a valid key never gets here. */
async function unknownKey(d: Downstream, { guard, metrics }: Pick<GatewayParts, 'guard' | 'metrics'>): Promise<GatewayError> {
  const refusal = await guard.charge(d.address, invalidKey())
  metrics.badKeys.inc({ braked: refusal.code === 'too_many_bad_keys' ? 'yes' : 'no' })
  return refusal
}

/** Says which and when, and of accounts above no more than that there is one. */
function inactive(lookup: Inactive): GatewayError {
  const owner = lookup.whose === 'own' ? 'This account' : 'An account above this one'
  const its = lookup.whose === 'own' ? 'this account' : 'an account above this one'
  switch (lookup.why) {
    case 'suspended': {
      const since = lookup.sinceMs === null ? 'is suspended' : `has been suspended since ${toWholeSecond(lookup.sinceMs)}`
      const until = lookup.untilMs === null ? '' : `, until ${toWholeSecond(lookup.untilMs)}`
      return new GatewayError('subscription_inactive', `${owner} ${since}${until}.`)
    }
    case 'not_started': return new GatewayError('subscription_inactive', `The subscription of ${its} begins at ${toWholeSecond(lookup.startsMs)}.`)
    case 'ended': {
      const grace = lookup.servedUntilMs > lookup.endedMs ? `, and the grace after it at ${toWholeSecond(lookup.servedUntilMs)}` : ''
      return new GatewayError('subscription_inactive', `The ${lookup.trial ? 'trial' : 'subscription'} of ${its} ended at ${toWholeSecond(lookup.endedMs)}${grace}.`)
    }
    default: return unreachable(lookup)
  }
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
