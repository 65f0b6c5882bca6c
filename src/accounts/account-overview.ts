import type { Account } from '../config/config.ts'
import { isServed, subscriptionAt } from '../metering/subscription.ts'
import type { SubscriptionState } from '../metering/subscription.ts'
import type { StoredAccount } from './account-records.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { toldInstant } from './latest-instant.ts'
import type { Principal } from './principal.ts'

/** A key as operators see it; never a secret, never a hash. Instants are RFC 3339. */
export interface KeyOverview {
  readonly id: string
  readonly account: string
  readonly plan: string | null
  /** `hidden`: a key of the config has the same id. `orphaned`: its account or plan is gone. */
  readonly state: 'active' | 'revoked' | 'expired' | 'suspended' | 'not_started' | 'ended' | 'orphaned' | 'hidden'
  /** `file:line` of the YAML, or `store`. */
  readonly where: string
  readonly expires_at: string | null
  readonly created_at: string | null
  readonly created_by: string | null
  readonly revoked_at: string | null
  readonly revoked_by: string | null
  readonly revoked_reason: string | null
  readonly rotated_at: string | null
  /** Until when an older secret works; null: only the newest does. */
  readonly grace_until: string | null
}

export interface AccountOverview {
  readonly id: string
  readonly plan: string | null
  readonly parent: string | null
  /** `file:line` of the YAML, `store`, or `key` for a key that is its own account. */
  readonly where: string
  /** Of an account of the store; null: it is none. */
  readonly revision: number | null
  /** An account of the store that cannot be used, and why: the file has one of its name, or its terms cannot be read any more. */
  readonly unused_because: string | null
  readonly keys: number
  readonly suspended: boolean
  /** `config` or `store`. */
  readonly suspended_in: readonly string[]
  /** The nearest account above that is suspended: what it may not do, this one may not either. */
  readonly suspended_parent: string | null
  readonly suspended_at: string | null
  readonly suspended_by: string | null
  readonly suspended_reason: string | null
  readonly timezone: string
  readonly billing_anchor: string
  readonly add_ons: readonly string[]
  /** Of its own subscription; null: it has none. */
  readonly subscription: SubscriptionState | null
}

export function listKeys(directory: StoredKeyDirectory, nowMs: number): KeyOverview[] {
  const configured = directory.config.keys.map((key) => overviewOfKey(directory, key.id, key.where, nowMs))
  const stored = [...directory.storedKeys.keys()].map((id) => overviewOfKey(directory, id, 'store', nowMs))
  return [...configured, ...stored].sort((a, b) => compare(a.id, b.id) || compare(a.where, b.where))
}

/** undefined: no such key. */
export function findKey(directory: StoredKeyDirectory, id: string, nowMs: number): KeyOverview | undefined {
  const configured = directory.configuredKey(id)
  if (configured !== undefined) return overviewOfKey(directory, id, configured.where, nowMs)
  return directory.storedKeys.has(id) ? overviewOfKey(directory, id, 'store', nowMs) : undefined
}

export function listAccounts(directory: StoredKeyDirectory, nowMs: number): AccountOverview[] {
  const accounts = new Map<string, Account>(directory.accounts)
  const keysOf = new Map<string, number>()
  for (const id of keyIds(directory)) {
    const principal = directory.principalOf(id, nowMs)
    if (principal === undefined) continue
    accounts.set(principal.account.id, principal.account)
    keysOf.set(principal.account.id, (keysOf.get(principal.account.id) ?? 0) + 1)
  }
  const unused = [...directory.storedAccounts].filter(([id]) => directory.accounts.get(id)?.where !== 'store').map(([id, stored]) => overviewOfUnused(directory, id, stored, nowMs))
  return [...[...accounts.values()].map((account) => overviewOfAccount(directory, account, keysOf.get(account.id) ?? 0, nowMs)), ...unused]
    .sort((a, b) => compare(a.id, b.id) || Number(a.unused_because !== null) - Number(b.unused_because !== null))
}

function overviewOfAccount(directory: StoredKeyDirectory, account: Account, keys: number, nowMs: number): AccountOverview {
  const suspension = directory.suspensionOf(account.id)
  const parents = parentsOf(directory, account)
  const acting = directory.actingChainOf(account.id, nowMs)
  const subscription = directory.subscriptionOf(account.id)
  const suspendedParent = parents.find((parent) => parent.suspended || directory.suspensionOf(parent.id) !== undefined)
  return {
    id: account.id,
    plan: acting.plan?.name ?? account.plan ?? null,
    parent: account.parent,
    where: account.where,
    revision: account.where === 'store' ? directory.storedAccounts.get(account.id)?.revision ?? null : null,
    unused_because: null,
    keys,
    suspended: account.suspended || suspension !== undefined || suspendedParent !== undefined,
    suspended_in: [...(account.suspended ? ['config'] : []), ...(suspension === undefined ? [] : ['store'])],
    suspended_parent: suspendedParent?.id ?? null,
    suspended_at: toInstant(suspension?.at_ms),
    suspended_by: suspension?.by ?? null,
    suspended_reason: suspension?.reason ?? null,
    timezone: account.calendar.timeZone,
    billing_anchor: account.calendar.anchor,
    add_ons: [...account.addOns, ...(subscription?.addOns ?? [])],
    subscription: subscription === undefined ? null : subscriptionAt(subscription, nowMs).state,
  }
}

function overviewOfUnused(directory: StoredKeyDirectory, id: string, { terms, calendar, plans, revision }: StoredAccount, nowMs: number): AccountOverview {
  const { plan, parent, labels, add_ons } = terms
  const account: Account = { id, plan, parent, calendar, limits: [], entitlements: {}, labels, suspended: false, subscription: null, addOns: add_ons, planHistory: plans, where: 'store' }
  const front = directory.accounts.get(id)?.where ?? directory.configuredKey(id)?.where
  return { ...overviewOfAccount(directory, account, 0, nowMs), plan, revision, unused_because: directory.accountProblem(id) ?? `${front ?? 'the file'} has this name, and wins` }
}

/** The nearest first. */
function parentsOf(directory: StoredKeyDirectory, account: Account): Account[] {
  const parents: Account[] = []
  for (let id = account.parent; id !== null;) {
    const parent = directory.accounts.get(id)
    if (parent === undefined || parents.includes(parent)) break
    parents.push(parent)
    id = parent.parent
  }
  return parents
}

function overviewOfKey(directory: StoredKeyDirectory, id: string, where: string, nowMs: number): KeyOverview {
  const configured = where === 'store' ? undefined : directory.configuredKey(id)
  const stored = where === 'store' ? directory.storedKeys.get(id) : undefined
  const hidden = where === 'store' && directory.configuredKey(id) !== undefined
  const principal = directory.principalOf(id, nowMs)
  const revocation = directory.revocationOf(id)
  const rotation = directory.rotationOf(id)
  const expiresMs = configured === undefined ? (stored?.expires_ms ?? null) : configured.expiresMs
  const graceUntilMs = directory.hashesOf(id, nowMs).reduce((latest, { untilMs }) => Math.max(latest, untilMs ?? 0), 0)
  const suspended = principal?.chain.some((account) => account.suspended || directory.suspensionOf(account.id) !== undefined) === true
  const expired = expiresMs !== null && nowMs >= expiresMs
  return {
    id,
    account: configured?.account ?? stored?.account ?? id,
    plan: principal?.plan.name ?? configured?.plan ?? stored?.plan ?? null,
    state: hidden ? 'hidden' : revocation !== undefined ? 'revoked' : expired ? 'expired' : principal === undefined ? 'orphaned' : suspended ? 'suspended' : standingOf(directory, principal, nowMs),
    where,
    expires_at: toInstant(expiresMs ?? undefined),
    created_at: toInstant(stored?.created_ms),
    created_by: stored?.created_by ?? null,
    revoked_at: toInstant(revocation?.at_ms),
    revoked_by: revocation?.by ?? null,
    revoked_reason: revocation?.reason ?? null,
    rotated_at: toInstant(rotation?.at_ms),
    grace_until: graceUntilMs === 0 ? null : toInstant(graceUntilMs),
  }
}

function* keyIds(directory: StoredKeyDirectory): Iterable<string> {
  for (const key of directory.config.keys) yield key.id
  for (const id of directory.storedKeys.keys()) if (directory.configuredKey(id) === undefined) yield id
}

function toInstant(ms: number | undefined): string | null {
  return ms === undefined ? null : toldInstant(ms)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** By the first subscription on the way up that is not served. */
function standingOf(directory: StoredKeyDirectory, { chain }: Principal, nowMs: number): KeyOverview['state'] {
  for (const { id, subscription } of chain) {
    const own = subscription ?? directory.subscriptionOf(id)
    if (own === undefined) continue
    const { state } = subscriptionAt(own, nowMs)
    if (!isServed(state)) return state === 'pending' ? 'not_started' : state === 'suspended' ? 'suspended' : 'ended'
  }
  return 'active'
}
