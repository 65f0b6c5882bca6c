/** An amount given to an account beyond a limit's allowance: bought, given, or carried over. It extends one limit of the account, and outlives that limit's periods. */
export interface Grant {
  /** Unique within the account. */
  readonly id: string
  readonly account: string
  /** Name of the limit that it extends. */
  readonly limit: string
  /** In the small units of the limit's meter. */
  readonly amount: number
  /** 1 to 255; the lowest is drawn first. */
  readonly priority: number
  readonly effectiveMs: number
  /** Not included; null: never. */
  readonly expiresMs: number | null
  readonly createdMs: number
  /** Where it comes from. `rollover`: carried over from a period; `recurrence`: made by another grant that recurs. */
  readonly source: GrantSource
  /** Taken back: what was drawn stays drawn, the rest is gone. */
  readonly voidedMs: number | null
  readonly note: string | null
}

export const GRANT_SOURCES = ['operator', 'plan', 'purchase', 'rollover', 'recurrence'] as const
export type GrantSource = (typeof GRANT_SOURCES)[number]

/** Unless it says otherwise. */
export const DEFAULT_PRIORITY = 100

/** What may be drawn by a call admitted at `atMs`, in the order in which it is drawn: priority, then earliest expiry, then earliest created. */
export function burnDown(grants: readonly Grant[], atMs: number): readonly Grant[] {
  return grants.filter((grant) => isEffective(grant, atMs)).sort(inBurnDownOrder)
}

export function isEffective({ effectiveMs, expiresMs, voidedMs }: Grant, atMs: number): boolean {
  return effectiveMs <= atMs && (expiresMs === null || atMs < expiresMs) && (voidedMs === null || atMs < voidedMs)
}

function inBurnDownOrder(one: Grant, other: Grant): number {
  return one.priority - other.priority
    || (one.expiresMs ?? Infinity) - (other.expiresMs ?? Infinity) || 0
    || one.createdMs - other.createdMs
    || (one.id < other.id ? -1 : 1)
}

/** When the grant's counter can no longer matter; null: never. */
export function grantEndsMs({ expiresMs, voidedMs }: Grant): number | null {
  if (expiresMs === null || voidedMs === null) return expiresMs ?? voidedMs
  return Math.min(expiresMs, voidedMs)
}
