import type { Account, AddOn, Config, Entitlements, Plan } from '../config/config.ts'
import { periodAt } from '../metering/calendar.ts'
import type { Period } from '../metering/calendar.ts'
import { DEFAULT_ENDPOINTS } from '../metering/entitlement.ts'
import { extensionOf } from '../metering/grant.ts'
import type { AccountGrants, MeteredGrant } from '../metering/grant.ts'
import { windowTag } from '../metering/limits/window.ts'
import type { AccountCalendar, Limit } from '../metering/limits/limit.ts'
import { meterName } from '../metering/meter.ts'
import { ceilingIn, planAt } from '../metering/plan-change.ts'
import type { PlanChange } from '../metering/plan-change.ts'
import { grantsAt } from '../metering/recurring-grant.ts'
import { isServed, subscriptionAt, usageTermAt } from '../metering/subscription.ts'
import type { Subscription, SubscriptionStanding } from '../metering/subscription.ts'

/** What is sold, as far as an account's terms are made of it. */
export type Offer = Pick<Config, 'plans' | 'addOns'>

/** An account and those above it with the terms that hold at an instant: plan, add-ons and seats are in their limits and entitlements. */
export interface ActingChain {
  readonly chain: readonly Account[]
  /** Of the nearest account that has one; undefined: none has, or it is gone. */
  readonly plan: Plan | undefined
  /** The first subscription on the way up that is not served; null: all are. */
  readonly refused: { readonly account: Account; readonly subscription: Subscription; readonly standing: SubscriptionStanding } | null
  /** What files give each of the chain; what recurs, of this span. */
  readonly given: readonly AccountGrants[]
  /** All of this holds from here, until here. */
  readonly fromMs: number
  readonly untilMs: number
}

/** The limit whose ceiling is the number of seats that the subscription has. */
const seatsName = 'seats'

/** `configured`: the account, its parent … as the file has them. `stored`: what the store has of an account's subscription; the file's wins. */
export function actingChain(configured: readonly Account[], offer: Offer, stored: (accountId: string) => Subscription | undefined, atMs: number): ActingChain {
  const span = new Span()
  let refused: ActingChain['refused'] = null
  const levels = configured.map((account): Level => {
    const subscription = account.subscription ?? stored(account.id) ?? null
    if (subscription !== null) {
      const standing = subscriptionAt(subscription, atMs)
      span.narrow(standing.sinceMs, standing.untilMs)
      if (refused === null && !isServed(standing.state)) refused = { account, subscription, standing }
    }
    const changes = planChangesOf(account, subscription, offer.plans)
    const current = subscription === null ? undefined : planAt(subscription.plans, atMs)
    const next = subscription?.plans.find(({ fromMs }) => fromMs > atMs)
    span.narrow(current?.fromMs ?? null, next?.fromMs ?? null)
    return { account, subscription, changes, plan: current?.plan ?? account.plan, addOns: [...account.addOns, ...(subscription?.addOns ?? [])] }
  })
  // Who has no plan of his own has that of the nearest account above, with what was bought beside it there.
  const owner = levels.findIndex(({ plan }) => plan !== null)
  const planName = levels[owner]?.plan ?? null
  const plan = planName === null ? undefined : offer.plans.get(planName)
  const given: AccountGrants[] = []
  const chain = levels.map((level, index) => {
    const from = index === 0 ? levels[owner] ?? level : level
    const names = index === 0 ? levels.slice(0, owner + 1).flatMap(({ addOns }) => addOns) : level.addOns
    const bought = names.map((name) => offer.addOns.get(name)).filter((addOn) => addOn !== undefined)
    const subscription = levels.slice(index).find((each) => each.subscription !== null)?.subscription ?? null
    given.push(givenTo(level.account, from.plan === null ? undefined : offer.plans.get(from.plan), bought, subscription, atMs, span))
    return acting(level, from, subscription, bought, offer, atMs, span, index === 0)
  })
  return { chain, plan, refused, given, fromMs: span.fromMs, untilMs: span.untilMs }
}

const nothingGiven: AccountGrants = Object.freeze({ grants: [], extended: new Set<string>() })

/** The plan's grants, those of what was bought, once for each time, and the account's own, in place of the plan's of the same id. */
function givenTo(account: Account, plan: Plan | undefined, bought: readonly AddOn[], subscription: Subscription | null, atMs: number, span: Span): AccountGrants {
  const own = account.grants ?? []
  const ofPlan = (plan?.grants ?? []).filter(({ id }) => !own.some((each) => each.id === id))
  const ofAddOns = bought.flatMap(({ name, grants = [] }, index) => {
    const nth = bought.slice(0, index).filter((other) => other.name === name).length + 1
    return grants.map((terms) => ({ ...terms, id: `${name}/${terms.id}${nth === 1 ? '' : `/${nth}`}` }))
  })
  const all = [...ofPlan, ...ofAddOns, ...own]
  if (all.length === 0) return nothingGiven
  const grants: MeteredGrant[] = []
  for (const terms of all) {
    const at = grantsAt(terms, account.id, account.calendar, subscription, atMs)
    span.narrow(at.fromMs, at.untilMs)
    grants.push(...at.grants)
  }
  return { grants, extended: new Set(all.map(extensionOf)) }
}

/** Everything that is known of the plans that an account was on, in order: what was seen of the file, then what its subscription says. */
export function planChangesOf(account: Account, subscription: Subscription | null, plans: Offer['plans']): readonly PlanChange[] {
  const own = account.plan === null ? undefined : plans.get(account.plan)
  const seen = account.planHistory.length > 0 || own === undefined ? account.planHistory : [{ plan: own.name, version: own.version, fromMs: 0, proration: own.proration }]
  if (subscription === null) return seen
  const said = subscription.plans
  const all = [...seen.filter(({ fromMs }) => fromMs < (said[0]?.fromMs ?? Infinity)), ...said]
  const first = planAt(all, subscription.startMs)
  // Nothing is charged, and nothing allowed, before it starts.
  return first === undefined ? all : [{ ...first, fromMs: subscription.startMs }, ...all.filter(({ fromMs }) => fromMs > subscription.startMs)]
}

interface Level {
  readonly account: Account
  readonly subscription: Subscription | null
  readonly changes: readonly PlanChange[]
  /** Its own. */
  readonly plan: string | null
  readonly addOns: readonly string[]
}

/** From when until when something holds. */
class Span {
  fromMs = -Infinity
  untilMs = Infinity

  narrow(fromMs: number | null, untilMs: number | null): void {
    this.fromMs = Math.max(this.fromMs, fromMs ?? -Infinity)
    this.untilMs = Math.min(this.untilMs, untilMs ?? Infinity)
  }
}

function acting(level: Level, from: Level, nearest: Subscription | null, addOns: readonly AddOn[], offer: Offer, atMs: number, span: Span, isCaller: boolean): Account {
  const { account, subscription, plan: planName } = level
  const plan = from.plan === null ? undefined : offer.plans.get(from.plan)
  const terms = plan === undefined ? [] : plan.limits.map((limit) => withSeats(prorated(limit, plan, from.changes, account, nearest, offer, atMs, span), limit.bySubscription === true ? subscription ?? from.subscription : from.subscription))
  const own = account.limits.map((limit) => withSeats(limit, subscription ?? from.subscription))
  const changed = addOns.length > 0 || terms.some((limit, index) => limit !== plan?.limits[index]) || own.some((limit, index) => limit !== account.limits[index])
  if (!changed) return planName === account.plan && subscription === account.subscription ? account : Object.freeze({ ...account, plan: planName, subscription })
  let limits = replaced(terms, own)
  for (const addOn of addOns) limits = replaced(limits.map((limit) => withAddition(limit, addOn)), addOn.limits)
  const entitlements = isCaller && plan !== undefined ? entitledBy(addOns, account.entitlements, plan.entitlements) : account.entitlements
  return Object.freeze({ ...account, plan: planName, subscription, limits: Object.freeze(limits), entitlements: Object.freeze(entitlements) })
}

/** The ceiling of a period in which the plan has changed. */
function prorated(
  limit: Limit, plan: Plan, changes: readonly PlanChange[], { calendar }: Account, subscription: Subscription | null, { plans }: Offer, atMs: number, span: Span,
): Limit {
  const current = planAt(changes, atMs)
  if (limit.ceiling === null || current === undefined || current.plan !== plan.name || current.proration === 'none') return limit
  const period = periodOf(limit, calendar, subscription, atMs)
  if (period === null || current.fromMs <= period.startMs) return limit
  span.narrow(current.fromMs, period.endMs)
  const like = (name: string): number | null => plans.get(name)?.limits.find((other) => sameCounter(other, limit))?.ceiling ?? null
  return { ...limit, ceiling: ceilingIn(changes, like, period, calendar.timeZone, atMs) }
}

/** Only allowances of periods that have days are prorated. */
function periodOf({ window }: Limit, calendar: AccountCalendar, subscription: Subscription | null, atMs: number): Period | null {
  if (window.kind === 'billing_period') return periodAt('billing_period', calendar, atMs)
  if (window.kind === 'calendar' && (window.unit === 'week' || window.unit === 'month')) return periodAt(window.unit, calendar, atMs)
  if (window.kind !== 'term' || subscription === null) return null
  const { startMs, endMs } = usageTermAt(subscription, atMs)
  return endMs === null ? null : { startMs, endMs }
}

function sameCounter(one: Limit, other: Limit): boolean {
  return one.name === other.name && meterName(one.meter) === meterName(other.meter) && windowTag(one.window) === windowTag(other.window)
}

function withSeats(limit: Limit, subscription: Subscription | null): Limit {
  const seats = subscription?.seats ?? null
  // Who has no seats has bought none.
  if (limit.bySubscription === true) return { ...limit, ceiling: seats ?? 0 }
  return seats === null || limit.name !== seatsName || meterName(limit.meter) !== 'concurrency' ? limit : { ...limit, ceiling: seats }
}

function withAddition(limit: Limit, { additions }: AddOn): Limit {
  const { ceiling } = limit
  if (ceiling === null) return limit
  const more = additions.filter((addition) => addition.limit === limit.name && addition.meter === meterName(limit.meter)).reduce((sum, { amount }) => sum + amount, 0)
  return more === 0 ? limit : { ...limit, ceiling: Math.min(Number.MAX_SAFE_INTEGER, ceiling + more) }
}

/** Lists are joined; of what is one value the account's own word counts, else the last add-on's. */
function entitledBy(addOns: readonly AddOn[], own: Partial<Entitlements>, plan: Entitlements): Partial<Entitlements> {
  const bought = addOns.map(({ entitlements }) => entitlements)
  const last = <F extends 'maxOutputTokens' | 'maxContextTokens' | 'priority'>(field: F): Entitlements[F] => own[field] ?? bought.findLast((each) => each[field] !== undefined)?.[field] ?? plan[field]
  const endpoints = own.endpoints ?? plan.endpoints
  const moreEndpoints = bought.flatMap((each) => each.endpoints ?? [])
  return {
    models: joined(own.models ?? plan.models, bought.flatMap(({ models }) => models ?? [])),
    endpoints: moreEndpoints.length === 0 ? endpoints : joined(endpoints ?? [DEFAULT_ENDPOINTS], moreEndpoints),
    ...(own.deniedFeatures === undefined ? {} : { deniedFeatures: own.deniedFeatures }),
    features: joined(own.features ?? plan.features, bought.flatMap(({ features }) => features ?? [])),
    maxOutputTokens: last('maxOutputTokens'), maxContextTokens: last('maxContextTokens'), priority: last('priority'),
  }
}

function joined(one: readonly string[], more: readonly string[]): readonly string[] {
  return [...new Set([...one, ...more])]
}

/** The same name replaces, in place; a new name is added. */
function replaced(limits: readonly Limit[], by: readonly Limit[]): readonly Limit[] {
  const kept = limits.map((limit) => by.find((other) => other.name === limit.name) ?? limit)
  return [...kept, ...by.filter((other) => !limits.some((limit) => limit.name === other.name))]
}
