import type { Principal } from '../accounts/principal.ts'
import type { EventBody, EventSkeleton } from '../metering/event.ts'
import { toInstant } from '../metering/event.ts'
import { checksAtEnd } from '../metering/late-grants.ts'
import type { Quantities } from '../metering/meter.ts'
import type { Settle } from '../metering/moves.ts'
import { pricedUsage } from '../metering/price.ts'
import { amountsOf } from '../metering/reservation.ts'
import type { Outcome } from './answer.ts'
import { admitted, type Exchange } from './exchange.ts'
import { callerRequestId } from './headers.ts'
import { ordinaryOf } from './route.ts'

/** Whom a trusted key's call is for, as its header says; null: nobody, or another place says it. */
export function endUserHeader(x: Exchange): string | null {
  const claim = x.principal?.endUserFrom ?? null
  return claim === null || claim.kind !== 'header' ? null : x.d.header(claim.name.toLowerCase()) ?? null
}

/** What an event needs if this gateway is never heard of again. */
export function skeletonOf(x: Exchange): EventSkeleton {
  const { route, principal, facts, destination, entitlement } = admitted(x)
  const endUser = endUserHeader(x)
  return {
    source: `tallygate/${x.config.instance}`,
    account: principal.account.id,
    key: principal.keyId,
    plan: principal.plan.name,
    plan_version: principal.plan.version,
    labels: principal.labels,
    provider: route.provider.name,
    endpoint: entitlement.endpoint ?? route.name,
    model: facts.model,
    upstream: destination.upstream.name,
    stream: facts.streamed,
    caller: {
      request_id: callerRequestId(x.d.header('x-request-id')),
      user: facts.user === null ? null : facts.user.slice(0, 256),
      session: callerRequestId(x.d.header('x-tallygate-session')),
      tags: {},
      ...(endUser === null ? {} : { end_user: endUser.slice(0, 256) }),
    },
    ...(facts.features.length === 0 ? {} : { features: facts.features }),
    ...usesOf(ordinaryOf(route, facts)),
    ...(entitlement.moneyScale === 9 || entitlement.rates === null ? {} : { money_scale: entitlement.moneyScale }),
    ...(entitlement.currency === null || entitlement.rates === null ? {} : { currency: entitlement.currency }),
    ...(entitlement.priceVersion === null || entitlement.rates === null ? {} : { price_version: entitlement.priceVersion }),
    ...(x.computedFrom === null ? {} : { bound: x.computedFrom }),
  }
}

function usesOf(ordinary: readonly string[]): Pick<EventSkeleton, 'uses'> {
  const uses = ordinary.filter((feature) => feature !== 'streaming')
  return uses.length === 0 ? {} : { uses }
}

/** The settlement of an outcome; null: it is voided, nothing is billed. `grants`: those of the caller's accounts by now. */
export function settlementOf(x: Exchange, skeleton: EventSkeleton, outcome: Outcome, grants: Principal['grants'], nowMs: number): Settle | null {
  const { draft } = x
  const { principal, entitlement } = admitted(x)
  if (draft === null || outcome.verdict === 'untouched') return null
  const failed = outcome.verdict === 'failed'
  // The request counts where the plan says so; nothing else was given for it.
  if (failed && !entitlement.policy.countFailed) return null
  const usage: Quantities = pricedUsage(failed ? { requests: 1 } : outcome.usage, entitlement.rates)
  const event: EventBody = {
    ...skeleton,
    attempt: x.attempt,
    status: outcome.status,
    end: outcome.end,
    usage_source: outcome.source,
    settled_at: toInstant(nowMs),
    ...(outcome.modelServed === null ? {} : { model_served: outcome.modelServed }),
    ...(x.upstreamRequestId === null ? {} : { upstream_request_id: x.upstreamRequestId }),
    ...(outcome.serviceTier === null ? {} : { service_tier: outcome.serviceTier }),
    ...(x.firstByteMs === null ? {} : { time_to_first_token_ms: Math.round(x.firstByteMs) }),
    ...(x.loweredBound === null ? {} : { output_bound: x.loweredBound }),
    ...(x.shadowed.length === 0 ? {} : { shadow: x.shadowed }),
  }
  return { id: x.id, nowMs, home: principal.home, checks: checksAtEnd(draft, grants, nowMs), amounts: amountsOf(draft, usage), usage, event }
}
