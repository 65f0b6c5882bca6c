import { toldInstant } from '../../accounts/latest-instant.ts'
import { findSubscription, listSubscriptions } from '../../accounts/subscriptions.ts'
import type { SubscriptionOverview, SubscriptionWishes } from '../../accounts/subscriptions.ts'
import { isTimeZone, termOf, termText } from '../../config/scalars.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Field, Fields, Route } from '../route.ts'
import { toDurationMs, toMomentMs } from '../when.ts'
import { intentFields, intentOf } from './intent.ts'

const none = 'none'

const moment = (about: string): Field => ({ type: 'string', about: `${about}: a day such as 2027-01-15, by the time zone, or an instant` })

const wishFields: Fields = {
  kind: { type: 'string', values: ['perpetual', 'term', 'trial'], about: 'perpetual has no end; term ends, or renews; trial ends for good' },
  start: moment('refused before; now, unless given'),
  trial_end: moment('end of the trial; none takes it away'),
  end: moment('refused from then on, after the grace; none takes it away'),
  term: { type: 'string', about: 'length of a term: month, year, 3 months; none takes it away' },
  renewal: { type: 'string', values: ['auto', 'none'], about: 'does a term follow the other?' },
  grace: { type: 'string', about: 'a duration such as 14d: still served after the end' },
  timezone: { type: 'string', about: 'by whose clock days begin and terms are counted; that of the account\'s billing, unless given' },
  seats: { type: 'integer', about: 'ceiling of the concurrency limit named seats; 0 takes it away' },
  plan: { type: 'string', about: 'the plan from then on' },
  plan_from: moment('when that plan begins; now, unless given'),
  proration: { type: 'string', values: ['none', 'by_day'], about: 'of allowances and fees of the period in which the plan changes; the plan\'s own, unless given' },
  add_ons: { type: 'string', about: 'names with commas between, in place of those there are; none takes them away' },
  suspended_from: moment('refused from then on; none lifts the suspension'),
  suspended_until: moment('and served again'),
}

export const subscriptionRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/subscriptions', shape: answers.subscriptions, role: 'viewer', summary: 'All subscriptions: of the config and made at run time', answer: 'subscriptions: account, kind, state, instants, term, plans, add-ons, where, revision',
    handle: (_asked, { directory, clock }) => ({ subscriptions: listSubscriptions(directory, clock.nowMs()).map(toDocument) }),
  },
  {
    method: 'GET', path: '/api/v1/subscriptions/{account}', shape: answers.subscription, role: 'viewer', summary: 'The subscription of an account', answer: 'the subscription as in the list',
    handle: ({ params }, parts) => subscriptionOf(params['account'] ?? '', parts),
  },
  {
    method: 'POST', path: '/api/v1/subscriptions/{account}', shape: answers.subscription, role: 'admin', summary: 'Make or change the subscription of an account; what is not given stays as it is',
    answer: 'the subscription as in the list', body: { ...wishFields, ...intentFields },
    async handle(asked, parts) {
      const account = asked.params['account'] ?? ''
      await parts.subscriptions.set(account, wishesOf(asked.body, zoneOf(asked.body, account, parts)), intentOf(asked))
      return subscriptionOf(account, parts)
    },
  },
  {
    method: 'POST', path: '/api/v1/subscriptions/{account}/renew', shape: answers.subscription, role: 'admin', summary: 'One term more for a subscription that does not renew by itself', answer: 'the subscription as in the list', body: intentFields,
    async handle(asked, parts) {
      const account = asked.params['account'] ?? ''
      await parts.subscriptions.renew(account, intentOf(asked))
      return subscriptionOf(account, parts)
    },
  },
  {
    method: 'POST', path: '/api/v1/subscriptions/{account}/cancel', shape: answers.subscription, role: 'admin', summary: 'End a subscription: with the term that runs, or when it is said', answer: 'the subscription as in the list',
    body: { at: { type: 'string', about: 'now, a day or an instant; the end of the running term, unless given' }, ...intentFields },
    async handle(asked, parts) {
      const account = asked.params['account'] ?? ''
      const at = textOf(asked.body, 'at')
      const endMs = at === null ? null : at === 'now' ? parts.clock.nowMs() : toMomentMs(at, 'at', zoneOf(asked.body, account, parts))
      await parts.subscriptions.cancel(account, endMs, intentOf(asked))
      return subscriptionOf(account, parts)
    },
  },
  {
    method: 'DELETE', path: '/api/v1/subscriptions/{account}', shape: answers.subscriptionRemoved, role: 'admin', summary: 'Take a subscription away: the account is then served without one', answer: 'account, removed',
    query: { revision: intentFields['revision'] as Field },
    async handle({ params, query, who }, { subscriptions }) {
      const account = params['account'] ?? ''
      const revision = query['revision']
      return { account, removed: await subscriptions.remove(account, { who, revision: typeof revision === 'number' ? revision : undefined, changeId: undefined }) }
    },
  },
]

function subscriptionOf(account: string, { directory, clock }: AdminParts): unknown {
  const found = findSubscription(directory, account, clock.nowMs())
  if (found === undefined) throw new Problem(404, `the account "${account}" has no subscription`)
  return toDocument(found)
}

function toDocument({ account, subscription, revision, hidden, standing, plans, next }: SubscriptionOverview): unknown {
  const { term } = standing
  return {
    account, kind: subscription.kind, state: hidden ? 'hidden' : standing.state, since: instant(standing.sinceMs), until: instant(standing.untilMs),
    term: term === null ? null : { start: instant(term.startMs), end: instant(term.endMs) },
    start: instant(subscription.startMs), trial_end: instant(subscription.trialEndMs), end: instant(subscription.endMs), grace_ms: subscription.graceMs,
    renewal: subscription.renewal, term_length: subscription.term === null ? null : termText(subscription.term), timezone: subscription.timeZone, seats: subscription.seats,
    suspended: subscription.suspended === null ? null : { from: instant(subscription.suspended.fromMs), until: instant(subscription.suspended.untilMs) },
    plans: plans.map(({ plan, version, fromMs, proration }) => ({ plan, version, from: fromMs === 0 ? null : instant(fromMs), proration })),
    add_ons: subscription.addOns, next_announcement: next === null ? null : { what: next.what, days_ahead: next.daysAhead, at: instant(next.atMs) },
    where: subscription.where, revision,
  }
}

function instant(atMs: number | null): string | null {
  return atMs === null ? null : toldInstant(atMs)
}

/** By whose clock days are meant. */
function zoneOf(body: Asked['body'], account: string, { directory }: AdminParts): string {
  const given = textOf(body, 'timezone')
  if (given !== null && !isTimeZone(given)) throw new Problem(422, `timezone: "${given}" is not a time zone; write an IANA name such as Europe/Berlin`)
  return given ?? directory.subscriptionOf(account)?.timeZone ?? directory.accounts.get(account)?.calendar.timeZone ?? 'UTC'
}

function wishesOf(body: Asked['body'], zone: string): SubscriptionWishes {
  const wishes: SubscriptionWishes = {}
  const text = (name: string): string | null => textOf(body, name)
  const at = (name: string): number | null | undefined => {
    const given = text(name)
    return given === null ? undefined : given === none ? null : toMomentMs(given, name, zone)
  }
  const start = at('start')
  const [trialEnd, end, from, until, planFrom] = [at('trial_end'), at('end'), at('suspended_from'), at('suspended_until'), at('plan_from')]
  if (start === null) throw new Problem(422, 'start: a subscription has one')
  const kind = text('kind')
  if (kind === 'perpetual' || kind === 'term' || kind === 'trial') wishes.kind = kind
  if (start !== undefined) wishes.startMs = start
  if (trialEnd !== undefined) wishes.trialEndMs = trialEnd
  if (end !== undefined) wishes.endMs = end
  const term = text('term')
  if (term !== null) wishes.term = term === none ? null : termIn(term)
  const renewal = text('renewal')
  if (renewal === 'auto' || renewal === none) wishes.renewal = renewal
  const grace = text('grace')
  if (grace !== null) wishes.graceMs = toDurationMs(grace, 'grace')
  if (text('timezone') !== null) wishes.timeZone = zone
  if (typeof body['seats'] === 'number') wishes.seats = body['seats'] === 0 ? null : body['seats']
  const addOns = text('add_ons')
  if (addOns !== null) wishes.addOns = addOns === none ? [] : addOns.split(',').map((name) => name.trim())
  if (until !== undefined && (from === undefined || from === null)) throw new Problem(422, 'suspended_until: give suspended_from too')
  if (from !== undefined) wishes.suspended = from === null ? null : { fromMs: from, untilMs: until ?? null }
  const plan = text('plan')
  const proration = text('proration')
  if (plan === null && (planFrom !== undefined || proration !== null)) throw new Problem(422, `${proration === null ? 'plan_from' : 'proration'}: give plan too`)
  if (plan !== null) wishes.plan = { name: plan, fromMs: planFrom ?? null, proration: proration === none || proration === 'by_day' ? proration : null }
  return wishes
}

function termIn(text: string): { readonly unit: 'day' | 'month' | 'year'; readonly count: number } {
  const answer = termOf(text)
  if ('problem' in answer) throw new Problem(422, `term: ${answer.problem}`)
  return answer.value
}

function textOf(values: Asked['body'], name: string): string | null {
  const value = values[name]
  return typeof value === 'string' ? value : null
}
