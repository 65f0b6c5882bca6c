import { findKey, listKeys } from '../../accounts/account-overview.ts'
import { toldInstant } from '../../accounts/latest-instant.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { Asked, Field, Route } from '../route.ts'
import { toDurationMs, toInstantMs } from '../when.ts'
import { intentFields } from './intent.ts'

const graceDefault = '24h'
const toldBefore = 'this change has been made before; its secret was told then, and is kept nowhere: rotate the key for a new one'
const changeField = intentFields['change'] as Field

export const keyRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/keys', shape: answers.keys, role: 'viewer', summary: 'All keys: of the config and made at run time', answer: 'keys: id, account, plan, state, where, expiry, rotation, revocation',
    handle: (_asked, { directory, clock }) => ({ keys: listKeys(directory, clock.nowMs()) }),
  },
  {
    method: 'POST', path: '/api/v1/keys', shape: answers.keyMade, role: 'admin', status: 201, summary: 'Make a key; its secret is told this once',
    answer: 'id, secret, and the key as in the list; secret null, and told: why, when this change has been made before',
    body: {
      id: { type: 'string', about: 'a name of your own; else one is made up' },
      account: { type: 'string', about: 'the account that the key belongs to' },
      plan: { type: 'string', about: 'instead of an account: the plan of a key that is its own account' },
      expires_in: { type: 'string', about: 'a duration such as 30d' },
      expires_at: { type: 'string', about: 'instead: an instant such as 2027-01-01T00:00:00Z' },
      change: changeField,
    },
    async handle({ body, who }, { directory, changes, clock }) {
      const nowMs = clock.nowMs()
      const { id, secret } = await changes.createKey({
        id: textOf(body, 'id') ?? undefined, account: textOf(body, 'account'), plan: textOf(body, 'plan'), expiresMs: expiryOf(body, nowMs), changeId: textOf(body, 'change') ?? undefined,
      }, who)
      return { id, secret, ...(secret === null ? { told: toldBefore } : {}), key: findKey(directory, id, nowMs) ?? null }
    },
  },
  {
    method: 'GET', path: '/api/v1/keys/{id}', shape: answers.key, role: 'viewer', summary: 'One key', answer: 'the key as in the list',
    handle({ params }, { directory, clock }) {
      const key = findKey(directory, params['id'] ?? '', clock.nowMs())
      if (key === undefined) throw new Problem(404, `there is no key "${params['id']}"`)
      return key
    },
  },
  {
    method: 'POST', path: '/api/v1/keys/{id}/rotate', shape: answers.keyRotated, role: 'admin', summary: 'Give a key a new secret; the old one works on for the grace',
    answer: 'id, secret (told this once), grace_until, where the config still has the old hash; secret null, and told: why, when this change has been made before',
    body: { change: changeField, grace: { type: 'string', about: `how long the old secret works on; ${graceDefault} unless given` } },
    async handle({ params, body, who }, { directory, changes, clock }) {
      const id = params['id'] ?? ''
      const { secret, graceUntilMs } = await changes.rotateKey(id, toDurationMs(textOf(body, 'grace') ?? graceDefault, 'grace'), who, textOf(body, 'change') ?? undefined)
      return { id, secret, ...(secret === null ? { told: toldBefore } : {}), grace_until: toldInstant(graceUntilMs), where: findKey(directory, id, clock.nowMs())?.where ?? 'store' }
    },
  },
  {
    method: 'POST', path: '/api/v1/keys/{id}/revoke', shape: answers.keyRevoked, role: 'admin', summary: 'Shut a key out until the revocation is lifted, one of the config too',
    answer: 'id, where the key still stands',
    body: { reason: { type: 'string', about: 'why, for the record' } },
    async handle({ params, body, who }, { changes }) {
      const id = params['id'] ?? ''
      return { id, state: 'revoked', ...(await changes.revokeKey(id, textOf(body, 'reason'), who)) }
    },
  },
  {
    method: 'DELETE', path: '/api/v1/keys/{id}/revocation', shape: answers.keyRestored, role: 'admin', summary: 'Lift a revocation', answer: 'the key as in the list',
    async handle({ params, who }, { changes, directory, clock }) {
      const id = params['id'] ?? ''
      await changes.liftRevocation(id, who)
      return findKey(directory, id, clock.nowMs()) ?? { id }
    },
  },
]

function expiryOf(body: Asked['body'], nowMs: number): number | null {
  const within = textOf(body, 'expires_in')
  const at = textOf(body, 'expires_at')
  if (within !== null && at !== null) throw new Problem(422, 'give expires_in or expires_at, not both')
  if (within !== null) return nowMs + toDurationMs(within, 'expires_in')
  return at === null ? null : toInstantMs(at, 'expires_at')
}

function textOf(values: Asked['body'], name: string): string | null {
  const value = values[name]
  return typeof value === 'string' ? value : null
}
