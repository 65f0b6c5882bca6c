import { NO_TERMS } from '../config/account-terms.ts'
import type { AccountTerms, Words } from '../config/account-terms.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import type { PlanChange } from '../metering/plan-change.ts'
import { subscriptionOf } from '../metering/subscription.ts'
import type { Subscription } from '../metering/subscription.ts'

// The documents about keys and accounts that are made at run time, as they lie in the store's records.

/**
 * Kinds of documents; the id is a key's or an account's. `calendar`: the time zone and billing anchor in force and the plans that were, see calendars.ts.
 * `account`: one that is in no file, see made-accounts.ts.
 * `grant` and `grant_void` (taken back), by account and grant: see grant-book.ts. `ending`, by account, and `breakage`: see period-ends.ts.
 */
export const recordKinds = {
  key: 'key', rotation: 'rotation', revocation: 'revocation', suspension: 'suspension', audit: 'audit', calendar: 'calendar',
  subscription: 'subscription', account: 'account',
  grant: 'grant', grantVoid: 'grant_void', ending: 'ending', breakage: 'breakage',
} as const

type Document = Readonly<Record<string, unknown>>

/** A key made by the API or the command line. */
export interface StoredKey {
  readonly hash: string
  readonly account: string | null
  readonly plan: string | null
  readonly expires_ms: number | null
  readonly created_ms: number
  readonly created_by: string
  /** What who made it called that: made again, it is this key. */
  readonly change: string | null
}

/** A key's newer secret, for keys of the YAML as well. */
export interface Rotation {
  readonly hash: string
  /** Retired hashes: each is good until its instant, then never again, whatever the YAML still says. */
  readonly previous: readonly { readonly hash: string; readonly until_ms: number }[]
  readonly at_ms: number
  readonly by: string
  /** What who rotated it called that: rotated again, nothing more changes. */
  readonly change: string | null
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
  const { hash, account, plan, expires_ms, created_ms, created_by, change } = value
  if (typeof hash !== 'string') return undefined
  return {
    hash,
    account: typeof account === 'string' ? account : null,
    plan: typeof plan === 'string' ? plan : null,
    // An expiry that cannot be read must not make a key that lives for ever.
    expires_ms: expires_ms === null || expires_ms === undefined ? null : numberOr(expires_ms, 0),
    created_ms: numberOr(created_ms, 0),
    created_by: typeof created_by === 'string' ? created_by : 'unknown',
    change: typeof change === 'string' ? change : null,
  }
}

export function toRotation(value: Document): Rotation | undefined {
  const { hash, previous, at_ms, by, change } = value
  if (typeof hash !== 'string' || !Array.isArray(previous)) return undefined
  const retired: { hash: string; until_ms: number }[] = []
  for (const item of previous as readonly unknown[]) {
    if (typeof item !== 'object' || item === null) continue
    const { hash: old, until_ms } = item as Document
    if (typeof old === 'string') retired.push({ hash: old, until_ms: numberOr(until_ms, 0) })
  }
  return { hash, previous: retired, at_ms: numberOr(at_ms, 0), by: typeof by === 'string' ? by : 'unknown', change: typeof change === 'string' ? change : null }
}

/** Never undefined: a revocation that cannot be read revokes all the same. */
export function toBan(value: Document): Ban {
  const { at_ms, by, reason } = value
  return { at_ms: numberOr(at_ms, 0), by: typeof by === 'string' ? by : 'unknown', reason: typeof reason === 'string' ? reason : null }
}

/** An account made by the API or the command line. */
export interface StoredAccount {
  readonly terms: AccountTerms
  /** The calendar as it acts: a changed one acts at the next boundary. */
  readonly calendar: AccountCalendar
  /** Which plan of its own it was on since when. */
  readonly plans: readonly PlanChange[]
  readonly created_ms: number
  readonly created_by: string
  /** Of the document: 1 at first, and one more with every change. */
  readonly revision: number
  /** The latest ones, oldest first. */
  readonly changes: readonly NamedChange[]
}

export function toStoredAccount(value: Document): StoredAccount {
  const { terms, calendar, plans, created_ms, created_by, revision, changes } = value
  const told = documentOr(terms)
  const { timeZone, anchor, before } = documentOr(calendar)
  const held = typeof before === 'object' && before !== null ? (before as NonNullable<AccountCalendar['before']>) : undefined
  return {
    terms: {
      ...NO_TERMS, plan: textOrNull(told['plan']), parent: textOrNull(told['parent']), timezone: textOrNull(told['timezone']), anchor: textOrNull(told['anchor']),
      labels: documentOr(told['labels']) as Readonly<Record<string, string>>, add_ons: Array.isArray(told['add_ons']) ? told['add_ons'].map(String) : [],
      limits: Array.isArray(told['limits']) ? told['limits'] as readonly Words[] : [], entitlements: documentOr(told['entitlements']) as Readonly<Record<string, Words>>,
    },
    calendar: { timeZone: typeof timeZone === 'string' ? timeZone : 'UTC', anchor: typeof anchor === 'string' ? anchor : '2000-01-01', ...(held === undefined ? {} : { before: held }) },
    plans: documentsOf(plans).map(toPlanChange), created_ms: numberOr(created_ms, 0), created_by: typeof created_by === 'string' ? created_by : 'unknown',
    revision: numberOr(revision, 0), changes: toNamedChanges(changes),
  }
}

export function toAccountDocument({ terms, calendar, plans, created_ms, created_by, revision, changes }: StoredAccount): Document {
  return {
    terms: { ...terms }, calendar: { ...calendar }, plans: plans.map(toPlanChangeDocument), created_ms, created_by, revision, changes: changes.map((change) => ({ ...change })),
  }
}

/** A subscription made by the API or the command line. */
export interface StoredSubscription {
  readonly subscription: Subscription
  /** Of the document: 1 at first, and one more with every change. */
  readonly revision: number
  /** The latest ones, oldest first. */
  readonly changes: readonly NamedChange[]
}

export interface NamedChange {
  /** Chosen by who asked for it, so that asking again changes nothing more. */
  readonly id: string
  readonly action: string
  readonly revision: number
  readonly at_ms: number
  readonly by: string
}

/** Never undefined: a subscription that cannot be read serves nobody. */
export function toStoredSubscription(value: Document): StoredSubscription {
  const { kind, start_ms, trial_end_ms, end_ms, grace_ms, renewal, term, time_zone, suspended, seats, plans, add_ons, revision, changes } = value
  const held = typeof suspended === 'object' && suspended !== null ? (suspended as Document) : null
  const length = typeof term === 'object' && term !== null ? (term as Document) : null
  const unit = length?.['unit']
  const made = subscriptionOf({
    kind: kind === 'perpetual' || kind === 'trial' ? kind : 'term', startMs: numberOr(start_ms, NaN), trialEndMs: numberOrNull(trial_end_ms), endMs: numberOrNull(end_ms),
    graceMs: numberOr(grace_ms, 0), renewal: kind === 'perpetual' ? null : renewal === 'auto' ? 'auto' : 'none',
    term: unit === 'day' || unit === 'month' || unit === 'year' ? { unit, count: numberOr(length?.['count'], 1) } : null,
    timeZone: typeof time_zone === 'string' ? time_zone : 'UTC',
    suspended: held === null ? null : { fromMs: numberOr(held['from_ms'], 0), untilMs: numberOrNull(held['until_ms']) },
    seats: numberOrNull(seats), plans: documentsOf(plans).map(toPlanChange), addOns: Array.isArray(add_ons) ? add_ons.filter((name) => typeof name === 'string') : [],
    where: 'store',
  })
  return {
    subscription: typeof made === 'string' || Number.isNaN(made.startMs) ? unreadable : made,
    revision: numberOr(revision, 0),
    changes: toNamedChanges(changes),
  }
}

export function toSubscriptionDocument({ subscription: s, revision, changes }: StoredSubscription): Document {
  return {
    kind: s.kind, start_ms: s.startMs, trial_end_ms: s.trialEndMs, end_ms: s.endMs, grace_ms: s.graceMs, renewal: s.renewal, term: s.term === null ? null : { ...s.term },
    time_zone: s.timeZone, suspended: s.suspended === null ? null : { from_ms: s.suspended.fromMs, until_ms: s.suspended.untilMs }, seats: s.seats,
    plans: s.plans.map(toPlanChangeDocument), add_ons: [...s.addOns], revision, changes: changes.map((change) => ({ ...change })),
  }
}

const unreadable: Subscription = Object.freeze({
  kind: 'term', startMs: 0, trialEndMs: null, endMs: 1, graceMs: 0, renewal: 'none', term: null, timeZone: 'UTC', suspended: null, seats: null, plans: [], addOns: [], where: 'store',
})

export function toPlanChange({ plan, version, from_ms, proration }: Document): PlanChange {
  return { plan: String(plan), version: numberOr(version, 1), fromMs: numberOr(from_ms, 0), proration: proration === 'by_day' ? 'by_day' : 'none' }
}

export function toPlanChangeDocument({ plan, version, fromMs, proration }: PlanChange): Document {
  return { plan, version, from_ms: fromMs, proration }
}

function toNamedChanges(changes: unknown): readonly NamedChange[] {
  return documentsOf(changes).map(({ id, action, revision, at_ms, by }) => ({
    id: String(id), action: String(action), revision: numberOr(revision, 0), at_ms: numberOr(at_ms, 0), by: String(by),
  }))
}

export function documentsOf(value: unknown): readonly Document[] {
  return Array.isArray(value) ? value.filter((each): each is Document => typeof each === 'object' && each !== null) : []
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

function documentOr(value: unknown): Document {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Document) : {}
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}

function numberOrNull(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : otherwise
}
