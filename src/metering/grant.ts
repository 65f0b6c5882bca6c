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

/** A grant with the name of the meter that it was given in: a limit of its name on another one is not extended. */
export interface MeteredGrant extends Grant {
  readonly meter: string
}

/** What extends the limits of one account. */
export interface AccountGrants {
  /** Those that may be drawn, now or later. */
  readonly grants: readonly MeteredGrant[]
  /** `extensionOf` of everything that was ever given, because what it was drawn still lies in the limit's counters. */
  readonly extended: ReadonlySet<string>
}

/** Which limits a grant extends: by name and meter. */
export function extensionOf({ limit, meter }: Pick<MeteredGrant, 'limit' | 'meter'>): string {
  return `${meter}|${limit}`
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

/** What is left at an end is looked at so much later at most: counters are kept for that, also while no gateway runs. */
export const LOOKED_AT_LATE_MS = 62 * 86_400_000

/** When it stops being drawn; null: never. */
export function grantEndsMs({ expiresMs, voidedMs }: Grant): number | null {
  if (expiresMs === null || voidedMs === null) return expiresMs ?? voidedMs
  return Math.min(expiresMs, voidedMs)
}
