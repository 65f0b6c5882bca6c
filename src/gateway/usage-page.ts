import { usageView } from '../dashboard/usage-view.ts'
import { GatewayError } from '../errors.ts'
import { toInstant, toWholeSecond } from '../metering/event.ts'
import { burnDown, grantEndsMs, isEffective } from '../metering/grant.ts'
import type { Grant } from '../metering/grant.ts'
import { grantLook } from '../metering/limits/counter.ts'
import { quotaForecasts } from '../metering/limit-forecast.ts'
import { meterName, meterScale } from '../metering/meter.ts'
import type { Meter } from '../metering/meter.ts'
import { limitNameOf, quotaItems } from '../metering/quota.ts'
import { subscriptionAt } from '../metering/subscription.ts'
import type { Subscription } from '../metering/subscription.ts'
import { draftStanding } from '../metering/reservation.ts'
import type { Draft } from '../metering/reservation.ts'
import { authenticate, hasCredential } from './authenticate.ts'
import type { Downstream } from './downstream.ts'
import type { Exchange } from './exchange.ts'
import type { Workings } from './parts.ts'
import { respondJson } from './respond.ts'

export const usagePath = '/-/usage'

/** A caller's own standing: every visible limit that does not belong to one model or end user alone. */
export async function answerUsage(x: Exchange, w: Workings): Promise<void> {
  if (x.d.method !== 'GET') throw new GatewayError('method_not_allowed', 'This page is read with GET.', { details: { allow: 'GET' } })
  if (!hasCredential(x.d) && wantsPage(x.d)) {
    sendPage(x.d)
    x.status = 200
    x.end = 'complete'
    return
  }
  const principal = x.principal = await authenticate(x.d, w)
  const nowMs = w.clock.nowMs()
  const draft = draftStanding(principal, x.config.plans, nowMs)
  const granted = grantedLimits(draft, nowMs)
  const looks = [...draft.checks, ...granted.map(({ grant }) => grantLook(grant))]
  let balances
  try {
    balances = looks.length === 0 ? [] : await w.store.balances(principal.home, looks)
  } catch (cause) {
    throw new GatewayError('metering_unavailable', 'Usage cannot be read at the moment. Please try again shortly.', { source: 'store', cause })
  }
  const items = quotaItems(draft, balances, nowMs)
  const forecasts = quotaForecasts(draft, balances, w.paces, nowMs)
  x.status = 200
  x.end = 'complete'
  respondJson(x.d, 200, {
    account: principal.account.id,
    key: principal.keyId,
    plan: principal.plan.name,
    as_of: toInstant(nowMs),
    ...subscriptionOf(principal.account.subscription, nowMs),
    limits: items.map((item, index) => ({ item, exhaustsMs: forecasts[index] ?? null })).filter(({ item }) => item.visible).map(({ item, exhaustsMs }) => ({
      name: item.name, meter: item.meter, window: item.window, per: item.per, limit: item.limit,
      used: item.used, reserved: item.reserved, remaining: item.remaining,
      resets_at: item.resetsAtMs === null ? null : toWholeSecond(item.resetsAtMs),
      resets_in_seconds: item.resetsAtMs === null ? null : Math.max(0, Math.ceil((item.resetsAtMs - nowMs) / 1_000)),
      exhausts_at: exhaustsMs === null ? null : toWholeSecond(exhaustsMs),
    })),
    grants: granted.map((one, index) => grantText(one, balances[draft.checks.length + index]?.used ?? 0)),
  })
}

/** Browsers name what they show first. */
function wantsPage(d: Downstream): boolean {
  const [first = ''] = (d.header('accept') ?? '').split(',')
  return first.split(';')[0]?.trim().toLowerCase() === 'text/html'
}

function sendPage(d: Downstream): void {
  const { html, policy } = usageView()
  d.writeHead(200, [
    'content-type', 'text/html; charset=utf-8', 'content-length', String(html.length), 'cache-control', 'no-store', 'content-security-policy', policy,
    'x-content-type-options', 'nosniff', 'x-frame-options', 'DENY', 'referrer-policy', 'no-referrer', 'cross-origin-opener-policy', 'same-origin',
  ])
  d.end(html)
}

/** A grant, and the limit that it extends, as the caller sees that. */
interface GrantedLimit {
  readonly grant: Grant
  readonly name: string
  readonly meter: Meter
}

/** In the order in which they are drawn; those of the caller's own account first. */
function grantedLimits(draft: Draft, nowMs: number): readonly GrantedLimit[] {
  const found: GrantedLimit[] = []
  for (const applied of draft.appliedByCheck.flat()) {
    const { limit, grants = [] } = applied
    if (!limit.visible || limit.mode === 'shadow') continue
    const open = grants.filter((grant) => (grantEndsMs(grant) ?? Infinity) > nowMs)
    for (const grant of [...burnDown(open, nowMs), ...open.filter((each) => !isEffective(each, nowMs))]) found.push({ grant, name: limitNameOf(draft, applied), meter: limit.meter })
  }
  return found
}

/** Exact, in the meter's units. */
function grantText({ grant, name, meter }: GrantedLimit, used: number): unknown {
  const scale = meterScale(meter)
  return {
    id: grant.id, limit: name, meter: meterName(meter), amount: grant.amount / scale, used: used / scale, remaining: Math.max(0, grant.amount - used) / scale,
    effective_at: grant.effectiveMs === 0 ? null : toWholeSecond(grant.effectiveMs), expires_at: grant.expiresMs === null ? null : toWholeSecond(grant.expiresMs), source: grant.source,
  }
}

/** Nothing at all for an account without one. */
function subscriptionOf(subscription: Subscription | null, nowMs: number): Readonly<Record<string, unknown>> {
  if (subscription === null) return {}
  const { state, sinceMs, untilMs, term } = subscriptionAt(subscription, nowMs)
  const instant = (atMs: number | null | undefined): string | null => (atMs === null || atMs === undefined ? null : toWholeSecond(atMs))
  return {
    subscription: {
      kind: subscription.kind, state, since: instant(sinceMs), until: instant(untilMs), renewal: subscription.renewal, seats: subscription.seats,
      term: term === null ? null : { start: instant(term.startMs), end: instant(term.endMs) },
    },
  }
}
