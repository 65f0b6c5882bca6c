import type { Account, Entitlements, KeyConfig, Plan } from '../config/config.ts'
import type { AccountGrants } from '../metering/grant.ts'
import type { Limit } from '../metering/limits/limit.ts'

/** The authenticated key with its account: everything later asks only this. Frozen, shared between exchanges. */
export interface Principal {
  readonly keyId: string
  readonly account: Account
  /** The account, its parent … the root last. */
  readonly chain: readonly Account[]
  /** The root's id: the partition. */
  readonly home: string
  readonly plan: Plan
  readonly keyLimits: readonly Limit[]
  readonly keyEntitlements: Partial<Entitlements>
  /** By account, of those in the chain that have or had any; absent: none has. */
  readonly grants?: ReadonlyMap<string, AccountGrants>
  /** The account's and the key's, the key's winning. */
  readonly labels: Readonly<Record<string, string>>
  readonly endUserFrom: KeyConfig['endUserFrom']
}

export type KeyLookup =
  | { readonly outcome: 'found'; readonly principal: Principal }
  /** Unknown, revoked or expired: the caller is told the same. */
  | { readonly outcome: 'unknown' }
  | Inactive

/** The key is right, and the account may not call now. Instants are ms since 1970; null: not known, or never. */
export type Inactive =
  /** By an operator, or by the subscription until it is over. */
  | { readonly outcome: 'inactive'; readonly why: 'suspended'; readonly whose: Whose; readonly sinceMs: number | null; readonly untilMs: number | null }
  | { readonly outcome: 'inactive'; readonly why: 'not_started'; readonly whose: Whose; readonly startsMs: number }
  /** `servedUntilMs`: its end, or that of the grace after it. */
  | { readonly outcome: 'inactive'; readonly why: 'ended'; readonly whose: Whose; readonly trial: boolean; readonly endedMs: number; readonly servedUntilMs: number }

/** The caller's own account, or one above it. */
export type Whose = 'own' | 'parent'

/** Finds who a secret belongs to. Keys of the YAML and keys made at run time, revocations and suspensions winning over both. */
export interface KeyDirectory {
  find(secret: string, nowMs: number): KeyLookup
  /** What the accounts of a principal have been given by now; absent: nothing but what it says itself. */
  grantsNow?(principal: Principal, nowMs: number): Principal['grants']
}
