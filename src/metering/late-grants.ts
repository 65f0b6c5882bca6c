import type { Principal } from '../accounts/principal.ts'
import type { Bucket, Check } from './check.ts'
import { accountScopeId } from './entitlement.ts'
import { whyNotExtended } from './extension.ts'
import { burnDown } from './grant.ts'
import type { Grant } from './grant.ts'
import { grantBucket } from './limits/counter.ts'
import { kindOf } from './limits/index.ts'
import type { AppliedLimit } from './limits/limit.ts'
import { meterName } from './meter.ts'
import type { Draft } from './reservation.ts'
import { outlives } from './standing.ts'

/**
 * The draft's checks as they are settled at `nowMs`. A call draws what could be drawn at its admission, and then what has come into effect while it ran: later calls were
 * held against both, and may have taken what this one was held against. `grants`: those of the caller's accounts by now.
 */
export function checksAtEnd(draft: Pick<Draft, 'checks' | 'appliedByCheck' | 'admittedMs' | 'entitlement'>, grants: Principal['grants'], nowMs: number): readonly Check[] {
  if (grants === undefined) return draft.checks
  let changed = false
  const checks = draft.checks.map((check, index) => {
    const at = check.ceilings.findIndex(({ beyond }) => beyond !== undefined)
    const limits = draft.appliedByCheck[index] ?? []
    const nth = at === -1 ? limits.findIndex((applied) => grantsOf(applied, draft.entitlement.principal, grants).length > 0) : at
    const applied = limits[nth]
    if (applied === undefined) return check
    const known = new Set(check.ceilings[nth]?.buckets.map(({ name }) => name))
    const late = burnDown(grantsOf(applied, draft.entitlement.principal, grants), nowMs).filter(({ id }) => !known.has(id))
    if (late.length === 0) return check
    changed = true
    return at === -1 ? extended(check, nth, applied, late, draft.admittedMs) : withBuckets(check, nth, late.map(grantBucket))
  })
  return changed ? checks : draft.checks
}

function grantsOf({ limit, scope }: AppliedLimit, { chain, keyLimits }: Principal, grants: NonNullable<Principal['grants']>): readonly Grant[] {
  if (keyLimits.includes(limit) || whyNotExtended(limit) !== null) return []
  const account = chain.find(({ id }) => accountScopeId(id) === scope.id)
  const given = account === undefined ? undefined : grants.get(account.id)
  return (given?.grants ?? []).filter((grant) => grant.limit === limit.name && grant.meter === meterName(limit.meter))
}

/** After the grants of the admission, before the overdraft. */
function withBuckets(check: Check, nth: number, late: readonly Bucket[]): Check {
  const ceilings = check.ceilings.map((ceiling, index) => {
    if (index !== nth) return ceiling
    const last = ceiling.buckets.findLastIndex((bucket, place) => place === 0 || outlives(bucket))
    return { ...ceiling, buckets: [...ceiling.buckets.slice(0, last + 1), ...late, ...ceiling.buckets.slice(last + 1)] }
  })
  return { ...check, ceilings }
}

/** There was no grant at all when the call was admitted. */
function extended(check: Check, nth: number, applied: AppliedLimit, late: readonly Grant[], admittedMs: number): Check {
  const effective = late.map((grant) => ({ ...grant, effectiveMs: Math.min(grant.effectiveMs, admittedMs) }))
  const { ceilings: [ceiling], alongside } = kindOf(applied.limit.window).check({ ...applied, grants: effective }, check, admittedMs, admittedMs, check.clampable)
  return { ...check, ceilings: check.ceilings.map((each, index) => (index === nth && ceiling !== undefined ? ceiling : each)), ...(alongside === undefined ? {} : { alongside }) }
}
