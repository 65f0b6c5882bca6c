import type { Account, Entitlements, KeyConfig, Plan } from '../config/config.ts'
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
  /** The account's and the key's, the key's winning. */
  readonly labels: Readonly<Record<string, string>>
  readonly endUserFrom: KeyConfig['endUserFrom']
}

export type KeyLookup =
  | { readonly outcome: 'found'; readonly principal: Principal }
  /** Unknown, revoked or expired: the caller is told the same. */
  | { readonly outcome: 'unknown' }
  | { readonly outcome: 'inactive'; readonly why: 'suspended' }

/** Finds who a secret belongs to. Keys of the YAML and keys made at run time, revocations and suspensions winning over both. */
export interface KeyDirectory {
  find(secret: string, nowMs: number): KeyLookup
}
