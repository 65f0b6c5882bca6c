import { lengthsAfter, termAt } from './calendar.ts'
import type { Period, TermLength } from './calendar.ts'
import type { PlanChange } from './plan-change.ts'

/**
 * From when until when an account may use what it bought. All instants are ms since 1970; spans include their start and not their end. Made by
 * `subscriptionOf`, which refuses what contradicts itself.
 */
export interface Subscription {
  readonly kind: 'perpetual' | 'term' | 'trial'
  readonly startMs: number
  /** Of a trial: its end. Else a trial comes first, and the first term begins where it ends. */
  readonly trialEndMs: number | null
  /** null: it goes on, term after term, or for ever. */
  readonly endMs: number | null
  /** Served so much longer after the end. */
  readonly graceMs: number
  readonly renewal: 'auto' | 'none'
  /** null: all of it is one term. */
  readonly term: TermLength | null
  /** Terms are counted by this zone's clock. */
  readonly timeZone: string
  readonly suspended: { readonly fromMs: number; readonly untilMs: number | null } | null
  readonly seats: number | null
  /** By instant; before the first of them the account's own plan holds. */
  readonly plans: readonly PlanChange[]
  readonly addOns: readonly string[]
  /** `file:line`, or `store`. */
  readonly where: string
}

export type SubscriptionState = 'pending' | 'trial' | 'active' | 'suspended' | 'grace' | 'ended'

export interface SubscriptionStanding {
  readonly state: SubscriptionState
  /** null: it has always been so. */
  readonly sinceMs: number | null
  /** null: it stays so. */
  readonly untilMs: number | null
  /** The term that runs, or the last one in the grace; null: none has begun, or it is all over. `endMs` null: it has no end. */
  readonly term: { readonly startMs: number; readonly endMs: number | null } | null
}

/** May calls be made in this state? */
export function isServed(state: SubscriptionState): boolean {
  return state === 'trial' || state === 'active' || state === 'grace'
}

export const LONGEST_GRACE_MS = 366 * 86_400_000

/** What a subscription may leave to its kind. */
export interface SubscriptionFields extends Omit<Subscription, 'renewal'> {
  readonly renewal: 'auto' | 'none' | null
}

/** A sentence when the fields contradict each other. A `term` subscription without an end renews, unless it says `renewal: none`: then it ends with its first term. */
export function subscriptionOf(fields: SubscriptionFields): Subscription | string {
  const { kind, startMs, trialEndMs, endMs, term, suspended, plans } = fields
  if (trialEndMs !== null && trialEndMs <= startMs) return 'the trial ends before it starts'
  if (endMs !== null && endMs <= (trialEndMs ?? startMs)) return trialEndMs === null ? 'it ends before it starts' : 'it ends before its trial does'
  if (fields.graceMs > LONGEST_GRACE_MS) return 'its grace is longer than 366 days'
  if (suspended !== null && suspended.untilMs !== null && suspended.untilMs <= suspended.fromMs) return 'the suspension ends before it begins'
  if (plans.some((change, index) => change.fromMs <= (plans[index - 1]?.fromMs ?? -Infinity))) return 'its changes of plan are not one after the other'
  if (kind === 'trial') {
    if (trialEndMs === null) return 'a trial needs trial_end'
    if (endMs !== null) return 'a trial ends at trial_end; leave end out, or write kind: term for what follows'
    if (term !== null || fields.renewal === 'auto') return 'a trial has no terms and does not renew; write kind: term with trial_end for one that does'
    return { ...fields, renewal: 'none' }
  }
  if (kind === 'perpetual') {
    if (endMs !== null) return 'a perpetual subscription has no end; write kind: term'
    if (fields.renewal !== null) return 'a perpetual subscription is not renewed; leave renewal out'
    if (fields.graceMs > 0) return 'a perpetual subscription has no end, so no grace after it'
    return { ...fields, renewal: 'none' }
  }
  if (term === null && endMs === null) return 'needs a term (its length, such as month or year) or an end'
  if (fields.renewal === 'auto' && endMs !== null) return 'has an end and renews; leave out one of end and renewal: auto'
  if (fields.renewal === 'auto' && term === null) return 'renews, but has no term; write its length, such as month or year'
  if (endMs !== null) return { ...fields, renewal: 'none' }
  const renewal = fields.renewal ?? 'auto'
  return { ...fields, renewal, endMs: renewal === 'auto' || term === null ? null : lengthsAfter(trialEndMs ?? startMs, fields.timeZone, term, 1) }
}

/** What holds at an instant, since when and until when. */
export function subscriptionAt(subscription: Subscription, atMs: number): SubscriptionStanding {
  const spans = spansOf(subscription)
  const span = spans.find(({ toMs }) => toMs === null || atMs < toMs) ?? ended
  const term = span.state === 'pending' || span.state === 'ended' ? null : runningTerm(subscription, atMs)
  return { state: span.state, sinceMs: span.fromMs, untilMs: span.toMs, term }
}

/** The instant at which it stops being served; null: never. */
export function lastServedMs(subscription: Subscription): number | null {
  const endMs = endOf(subscription)
  return endMs === null ? null : endMs + subscription.graceMs
}

/** Without its grace; null: never. */
export function endOf({ kind, trialEndMs, endMs }: Subscription): number | null {
  return kind === 'trial' ? trialEndMs : endMs
}

const terms = new WeakMap<Subscription, Period & { readonly last: boolean }>()

/**
 * The period of `window: term`: the term, or the trial before it. After the last one nothing begins anew, so it has no end (null): what is used in the grace
 * counts to it.
 */
export function usageTermAt(subscription: Subscription, atMs: number): { readonly startMs: number; readonly endMs: number | null } {
  let term = terms.get(subscription)
  if (term === undefined || atMs < term.startMs || (atMs >= term.endMs && !term.last)) {
    term = termOf(subscription, atMs)
    terms.set(subscription, term)
  }
  return { startMs: term.startMs, endMs: term.last ? null : term.endMs }
}

function runningTerm(subscription: Subscription, atMs: number): SubscriptionStanding['term'] {
  const { startMs, endMs } = termOf(subscription, atMs)
  return { startMs, endMs: endMs === Infinity ? null : endMs }
}

function termOf(subscription: Subscription, atMs: number): Period & { readonly last: boolean } {
  const { startMs, trialEndMs, timeZone } = subscription
  const endMs = endOf(subscription) ?? Infinity
  if (trialEndMs !== null && atMs < trialEndMs) return { startMs, endMs: trialEndMs, last: trialEndMs === endMs }
  const baseMs = subscription.kind === 'trial' ? startMs : trialEndMs ?? startMs
  if (subscription.term === null) return { startMs: baseMs, endMs, last: true }
  const term = termAt(baseMs, timeZone, subscription.term, Math.min(Math.max(atMs, baseMs), endMs - 1))
  return term.endMs < endMs ? { ...term, last: false } : { startMs: term.startMs, endMs, last: true }
}

interface Span {
  readonly state: SubscriptionState
  readonly fromMs: number | null
  readonly toMs: number | null
}

const ended: Span = { state: 'ended', fromMs: null, toMs: null }

/** One after the other, without a gap, from ever to ever. */
function spansOf(subscription: Subscription): readonly Span[] {
  const { kind, startMs, trialEndMs, graceMs, suspended } = subscription
  const endMs = endOf(subscription)
  const spans: Span[] = [{ state: 'pending', fromMs: null, toMs: startMs }]
  if (trialEndMs !== null) spans.push({ state: 'trial', fromMs: startMs, toMs: trialEndMs })
  if (kind !== 'trial') spans.push({ state: 'active', fromMs: trialEndMs ?? startMs, toMs: endMs })
  if (endMs !== null) {
    if (graceMs > 0) spans.push({ state: 'grace', fromMs: endMs, toMs: endMs + graceMs })
    spans.push({ state: 'ended', fromMs: endMs + graceMs, toMs: null })
  }
  return suspended === null ? spans : cutBy(spans, suspended.fromMs, suspended.untilMs ?? Infinity)
}

/** A suspension stands in place of what would have been served; it starts nothing, and prolongs nothing. */
function cutBy(spans: readonly Span[], fromMs: number, untilMs: number): readonly Span[] {
  const cut: Span[] = []
  for (const span of spans) {
    const startMs = span.fromMs ?? -Infinity
    const endMs = span.toMs ?? Infinity
    if (!isServed(span.state) || untilMs <= startMs || endMs <= fromMs) {
      cut.push(span)
      continue
    }
    if (startMs < fromMs) cut.push({ ...span, toMs: fromMs })
    const before = cut.at(-1)
    const toMs = untilMs < endMs ? untilMs : span.toMs
    if (before?.state === 'suspended') cut[cut.length - 1] = { ...before, toMs }
    else cut.push({ state: 'suspended', fromMs: Math.max(startMs, fromMs), toMs })
    if (untilMs < endMs) cut.push({ ...span, fromMs: untilMs })
  }
  return cut
}

// ---------------------------------------------------------------------------------------------------------------- announcements

export interface Announcement {
  /** What ends: the trial, the subscription, or the grace after it. */
  readonly what: 'trial' | 'subscription' | 'grace'
  /** 0: it ends now. */
  readonly daysAhead: number
  /** When to say it. */
  readonly atMs: number
  readonly endsMs: number
}

/** Days of the zone's clock. */
const daysAhead: readonly number[] = [30, 7, 1, 0]

/**
 * Everything that is to be announced from `fromMs` up to, not including, `toMs`, in order. What renews by itself does not end; what is shorter than the
 * notice is announced later.
 */
export function announcements(subscription: Subscription, fromMs: number, toMs: number): readonly Announcement[] {
  const { startMs, trialEndMs, kind, graceMs, timeZone } = subscription
  const endMs = endOf(subscription)
  const found: Announcement[] = []
  const announce = (what: Announcement['what'], beginsMs: number, endsMs: number): void => {
    for (const days of daysAhead) {
      const atMs = days === 0 ? endsMs : lengthsAfter(endsMs, timeZone, { unit: 'day', count: 1 }, -days)
      if (atMs > beginsMs && fromMs <= atMs && atMs < toMs) found.push({ what, daysAhead: days, atMs, endsMs })
    }
  }
  if (trialEndMs !== null) announce('trial', startMs, trialEndMs)
  if (kind !== 'trial' && endMs !== null) announce('subscription', trialEndMs ?? startMs, endMs)
  if (endMs !== null && graceMs > 0) announce('grace', endMs, endMs + graceMs)
  return found.sort((a, b) => a.atMs - b.atMs)
}

/** The instant of the next announcement after `afterMs`; null: there is none any more. */
export function nextAnnouncementMs(subscription: Subscription, afterMs: number): number | null {
  return announcements(subscription, afterMs + 1, Infinity)[0]?.atMs ?? null
}
