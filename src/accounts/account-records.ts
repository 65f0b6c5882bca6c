// The documents about keys and accounts that are made at run time, as they lie in the store's records.

/** Kinds of documents; the id is a key's or an account's. `calendar`: the time zone and billing anchor in force, see calendars.ts. */
export const recordKinds = { key: 'key', rotation: 'rotation', revocation: 'revocation', suspension: 'suspension', audit: 'audit', calendar: 'calendar' } as const

type Document = Readonly<Record<string, unknown>>

/** A key made by the API or the command line. */
export interface StoredKey {
  readonly hash: string
  readonly account: string | null
  readonly plan: string | null
  readonly expires_ms: number | null
  readonly created_ms: number
  readonly created_by: string
}

/** A key's newer secret, for keys of the YAML as well. */
export interface Rotation {
  readonly hash: string
  /** Retired hashes: each is good until its instant, then never again, whatever the YAML still says. */
  readonly previous: readonly { readonly hash: string; readonly until_ms: number }[]
  readonly at_ms: number
  readonly by: string
}

/** A revocation of a key, or a suspension of an account: wins over everything until it is lifted. */
export interface Ban {
  readonly at_ms: number
  readonly by: string
  readonly reason: string | null
}

/** One change by an operator. */
export interface AuditEntry {
  readonly at_ms: number
  readonly who: string
  readonly action: string
  readonly target: string
  readonly details: Document
}

export function toStoredKey(value: Document): StoredKey | undefined {
  const { hash, account, plan, expires_ms, created_ms, created_by } = value
  if (typeof hash !== 'string') return undefined
  return {
    hash,
    account: typeof account === 'string' ? account : null,
    plan: typeof plan === 'string' ? plan : null,
    // An expiry that cannot be read must not make a key that lives for ever.
    expires_ms: expires_ms === null || expires_ms === undefined ? null : numberOr(expires_ms, 0),
    created_ms: numberOr(created_ms, 0),
    created_by: typeof created_by === 'string' ? created_by : 'unknown',
  }
}

export function toRotation(value: Document): Rotation | undefined {
  const { hash, previous, at_ms, by } = value
  if (typeof hash !== 'string' || !Array.isArray(previous)) return undefined
  const retired: { hash: string; until_ms: number }[] = []
  for (const item of previous as readonly unknown[]) {
    if (typeof item !== 'object' || item === null) continue
    const { hash: old, until_ms } = item as Document
    if (typeof old === 'string') retired.push({ hash: old, until_ms: numberOr(until_ms, 0) })
  }
  return { hash, previous: retired, at_ms: numberOr(at_ms, 0), by: typeof by === 'string' ? by : 'unknown' }
}

/** Never undefined: a revocation that cannot be read revokes all the same. */
export function toBan(value: Document): Ban {
  const { at_ms, by, reason } = value
  return { at_ms: numberOr(at_ms, 0), by: typeof by === 'string' ? by : 'unknown', reason: typeof reason === 'string' ? reason : null }
}

export function toAuditEntry(value: Document): AuditEntry {
  const { at_ms, who, action, target, details } = value
  return {
    at_ms: numberOr(at_ms, 0),
    who: typeof who === 'string' ? who : 'unknown',
    action: typeof action === 'string' ? action : 'unknown',
    target: typeof target === 'string' ? target : '',
    details: typeof details === 'object' && details !== null ? (details as Document) : {},
  }
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : otherwise
}
