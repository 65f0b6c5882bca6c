import { periodAt } from './calendar.ts'
import type { PeriodUnit } from './calendar.ts'
import type { GrantSource, MeteredGrant } from './grant.ts'
import type { AccountCalendar } from './limits/limit.ts'
import { usageTermAt } from './subscription.ts'
import type { Subscription } from './subscription.ts'

/** Grants as a file says them: once, or anew in every period. Instants are ms since 1970. */
export interface GrantTerms {
  readonly id: string
  readonly limit: string
  readonly meter: string
  /** Small units; of one that recurs, of each. */
  readonly amount: number
  readonly priority: number
  /** null: always. Nothing is drawn before, of whatever recurs. */
  readonly effectiveMs: number | null
  /** null: never. Nothing is drawn from then on, of whatever recurs. */
  readonly expiresMs: number | null
  readonly source: GrantSource
  readonly note: string | null
  /** null: once. */
  readonly every: GrantRhythm | null
  /** How long each of what recurs lasts, from the period's start; null: for its period. */
  readonly lastsMs: number | null
  /** `file:line`. */
  readonly where: string
}

export type GrantRhythm = Extract<PeriodUnit, 'day' | 'week' | 'month' | 'billing_period'> | 'term'

/** More of one grant at once would make every call slower. */
export const TOGETHER_MAX = 62

export interface GrantsAt {
  /** Of what recurs: those that may be drawn within the span, the latest first. */
  readonly grants: readonly MeteredGrant[]
  /** This holds from here, until here. */
  readonly fromMs: number
  readonly untilMs: number
}

/**
 * What the terms give an account, seen at an instant. What recurs gives one grant a period, with the id `<id>@<start of the period>`: the same one whoever asks, and
 * whenever, so that none is given twice. `subscription`: whose terms `every: term` means; null: it has none, and so no grant.
 */
export function grantsAt(terms: GrantTerms, account: string, calendar: AccountCalendar, subscription: Subscription | null, atMs: number): GrantsAt {
  const { every, lastsMs, effectiveMs, expiresMs } = terms
  if (every === null) return { grants: [grantOf(terms, account, terms.id, effectiveMs ?? 0, expiresMs)], fromMs: -Infinity, untilMs: Infinity }
  const running = rhythmPeriod(every, calendar, subscription, atMs)
  if (running === null) return { grants: [], fromMs: -Infinity, untilMs: Infinity }
  const grants: MeteredGrant[] = []
  for (let period: Rhythm | null = running; period !== null && grants.length < TOGETHER_MAX;) {
    const { startMs, endMs }: Rhythm = period
    const overMs = least(lastsMs === null ? endMs : startMs + lastsMs, expiresMs)
    // An earlier one is over before this span begins, and so are all before it.
    if (period !== running && overMs !== null && overMs <= running.startMs) break
    const fromMs = Math.max(startMs, effectiveMs ?? -Infinity)
    if (overMs === null || fromMs < overMs) grants.push(grantOf(terms, account, `${terms.id}@${instantText(startMs)}`, fromMs, overMs))
    // One that lasts for its period is over before the next begins.
    const before: Rhythm | null = lastsMs === null ? null : rhythmPeriod(every, calendar, subscription, startMs - 1)
    period = before === null || before.startMs >= startMs ? null : before
  }
  return { grants, fromMs: running.startMs, untilMs: running.endMs ?? Infinity }
}

interface Rhythm {
  readonly startMs: number
  /** null: the last term, which has no end. */
  readonly endMs: number | null
}

function rhythmPeriod(every: GrantRhythm, calendar: AccountCalendar, subscription: Subscription | null, atMs: number): Rhythm | null {
  if (every !== 'term') return periodAt(every, calendar, atMs)
  return subscription === null ? null : usageTermAt(subscription, atMs)
}

function grantOf(terms: GrantTerms, account: string, id: string, effectiveMs: number, expiresMs: number | null): MeteredGrant {
  const { limit, meter, amount, priority, source, note } = terms
  return { id, account, limit, meter, amount, priority, effectiveMs, expiresMs, createdMs: effectiveMs, source, voidedMs: null, note }
}

function least(one: number | null, other: number | null): number | null {
  return one === null || other === null ? one ?? other : Math.min(one, other)
}

/** RFC 3339, without parts of a second where there are none. */
export function instantText(atMs: number): string {
  return new Date(atMs).toISOString().replace('.000Z', 'Z')
}
