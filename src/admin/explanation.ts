import type { Principal } from '../accounts/principal.ts'
import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import type { RefusedCall } from '../analytics/refusal-tally.ts'
import type { Plan } from '../config/config.ts'
import { explainPrice } from '../invoices/explanation.ts'
import type { PriceExplanation } from '../invoices/explanation.ts'
import type { Ceiling, Check } from '../metering/check.ts'
import { accountScopeId, recallEntitlement } from '../metering/entitlement.ts'
import type { Bound } from '../metering/estimate.ts'
import { timeOfId, toInstant } from '../metering/event.ts'
import type { AdmissionBound, UsageEvent } from '../metering/event.ts'
import type { AppliedLimit } from '../metering/limits/limit.ts'
import { windowName } from '../metering/limits/window.ts'
import { meterName, meterScale } from '../metering/meter.ts'
import type { Draw, PendingReservation } from '../metering/moves.ts'
import { drawsByCheck, recallBound, windowOf } from '../metering/recall.ts'
import { recallChecks } from '../metering/reservation.ts'
import { drawnCeiling } from '../metering/standing.ts'
import { knownSinceMs } from './known-since.ts'
import { Problem } from './problem.ts'
import type { AdminParts } from './route.ts'
import { summed } from './usage-report.ts'

/** Everything that is known of one call. Amounts are in the units of the configuration; money of prices is decimal text. Nothing in it is the caller's or the model's text. */
export interface Explanation {
  readonly id: string
  readonly state: 'in_flight' | 'settled' | 'expired'
  readonly admitted_at: string
  readonly settled_at: string | null
  readonly account: string
  readonly key: string
  readonly plan: string
  readonly plan_version: number
  readonly endpoint: string
  readonly model: string | null
  readonly model_served: string | null
  readonly provider: string
  readonly upstream: string
  readonly stream: boolean
  readonly features: readonly string[]
  readonly status: number | null
  readonly end: string | null
  readonly usage_source: string | null
  /** What the reservation was computed from; null: the event is of a release that did not tell it. */
  readonly bound: AdmissionBound | null
  /** `812;asked=4096` where the output bound was lowered. */
  readonly output_bound: string | null
  /** Of a call in flight: until when its gateway has to show a sign of life. */
  readonly expires_at: string | null
  readonly limits: readonly LimitExplanation[]
  /** Draws of limits that are no longer there, in small units. */
  readonly other_draws: readonly Draw[]
  /** Beyond what was held and what was left, in small units. */
  readonly overruns: readonly Draw[]
  /** Shadow limits that would have refused it. */
  readonly shadow: readonly string[]
  /** With all corrections. */
  readonly usage: Readonly<Record<string, number>>
  readonly price: PriceExplanation | null
  readonly corrections: readonly { readonly id: string; readonly settled_at: string; readonly usage: Readonly<Record<string, number>>; readonly drawn: readonly Draw[]; readonly price: PriceExplanation }[]
  /** What has to be known to read it, in sentences. */
  readonly notes: readonly string[]
}

export interface LimitExplanation {
  readonly name: string
  /** The account or key whose limit, and whose counter, it is. */
  readonly of: string
  readonly per: 'account' | 'key' | 'end_user'
  readonly meter: string
  readonly window: string | null
  /** Its window's edges for this call; of a sliding window: the admission, and when the call no longer counts. */
  readonly from: string | null
  readonly until: string | null
  /** null: unlimited. */
  readonly limit: number | null
  readonly mode: 'enforce' | 'shadow'
  /** null: not known. */
  readonly held: number | null
  /** null: the call has not ended. */
  readonly used: number | null
  /** What of that came from where, in the order in which it is drawn; `of` null: without end. */
  readonly buckets: readonly { readonly bucket: string; readonly of: number | null; readonly drawn: number }[]
}

/** Of a call that was refused: it left no event, and is remembered for a while by the gateway that it came to. */
export interface RefusalExplanation {
  readonly id: string
  readonly state: 'refused'
  readonly refused_at: string
  readonly account: string
  readonly key: string
  readonly model: string | null
  readonly reason: string
  /** By name; null: no limit refused it. Its figures are in the units of the configuration. */
  readonly limit: string | null
  readonly ceiling: number | null
  readonly used: number | null
  readonly remaining: number | null
  readonly resets_at: string | null
}

type Parts = Pick<AdminParts, 'analytics' | 'config' | 'directory' | 'history' | 'clock' | 'outbox' | 'inspectStore' | 'pendingCall'>

/** Explains a call by its id, which answers carry as x-request-id. Throws 404 for one that has left nothing. */
export async function explainCall(parts: Parts, asked: string): Promise<Explanation | RefusalExplanation> {
  const id = asked.replace(/\.late\d*$/, '')
  if (!/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(id)) throw new Problem(422, `"${asked}" is not the id of a call; answers carry theirs as x-request-id (Anthropic's dialect: request-id)`)
  const events = await parts.history.find(id)
  const first = events.find((event) => event.id === id)
  if (first !== undefined) return explainEvent(parts, first, events.filter((event) => event !== first))
  const pending = await parts.pendingCall(id)
  if (pending !== undefined) return explainPending(parts, pending)
  const refused = parts.analytics.samples({}, Infinity).find((call) => call.id === id)
  if (refused !== undefined) return explainRefusal(refused)
  const admittedMs = timeOfId(id)
  const knownMs = await knownSinceMs(parts, parts.clock.nowMs())
  const gone = knownMs > admittedMs ? ` It would have begun at ${toInstant(admittedMs)}, and events that were settled before ${toInstant(knownMs)} are no longer kept.` : ''
  throw new Problem(404, `there is no event of "${id}", and no such call is in flight: a call that was refused, or that the upstream failed, leaves none.${gone}`)
}

function explainRefusal({ id, atMs, resetsAt, account, key, model, reason, limit, ceiling, used, remaining }: RefusedCall): RefusalExplanation {
  return { id, state: 'refused', refused_at: toInstant(atMs), account, key, model, reason, limit, ceiling, used, remaining, resets_at: resetsAt }
}

function explainEvent(parts: Parts, first: UsageEvent, corrections: readonly UsageEvent[]): Explanation {
  const { data } = first
  const { plans } = parts.config()
  const call = callOf(first.id, data)
  const events = [first, ...corrections]
  const outputBound = textOf(data['output_bound'])
  const recalled = recallBound(call.bound, outputBound)
  const sliced = call.stream && plans.get(call.plan)?.policy.reserve === 'slices'
  const { limits, rest, notes } = explainLimits(parts, call, {
    bound: recalled?.bound ?? null, draws: sumOfDraws(events.map((event) => drawsOf(event.data['drawn']))),
    heldOf: ({ fixed, perUnit }) => (recalled === null || sliced ? null : fixed + perUnit * recalled.u),
  })
  return {
    ...shownOf(call), state: data['end'] === 'expired' ? 'expired' : 'settled', settled_at: textOf(data['settled_at']),
    model_served: textOf(data['model_served']), status: typeof data['status'] === 'number' ? data['status'] : null, end: textOf(data['end']), usage_source: textOf(data['usage_source']),
    output_bound: outputBound, expires_at: null, limits, other_draws: rest, overruns: sumOfDraws(events.map((event) => drawsOf(event.data['overrun']))), shadow: textsOf(data['shadow']),
    usage: usageOf(events), price: explainPrice(data, plans),
    corrections: corrections.map((event) => ({
      id: event.id, settled_at: textOf(event.data['settled_at']) ?? '', usage: usageOf([event]), drawn: drawsOf(event.data['drawn']), price: explainPrice(event.data, plans),
    })),
    notes: [
      ...notes,
      ...(recalled === null ? ['The event does not tell what was held: it is of an earlier release.'] : []),
      ...(recalled !== null && sliced ? ['Its plan holds what a stream may use in slices: what was held grew with the answer.'] : []),
      ...(rest.length > 0 ? ['Some of what was drawn belongs to limits that are no longer there, or no longer known.'] : []),
    ],
  }
}

function explainPending(parts: Parts, { id, deadlineMs, held, u, skeleton }: PendingReservation): Explanation {
  const call = callOf(id, { ...skeleton })
  const byCounter = new Map(held.map(({ counter, amount }) => [counter, amount]))
  const { limits, notes } = explainLimits(parts, call, { bound: null, draws: null, heldOf: ({ slots, at }) => byCounter.get(slots[at] ?? '') ?? null })
  const wanted = call.bound?.output
  return {
    ...shownOf(call), state: 'in_flight', settled_at: null, model_served: null, status: null, end: null, usage_source: null,
    output_bound: wanted === undefined || wanted <= u ? null : `${u};asked=${wanted}`, expires_at: toInstant(deadlineMs),
    limits, other_draws: [], overruns: [], shadow: [], usage: {}, price: null, corrections: [], notes: ['The call has not ended: nothing of it is settled yet.', ...notes],
  }
}

/** What is known of a call from its admission on. */
interface Call extends Pick<Explanation, 'id' | 'account' | 'key' | 'plan' | 'plan_version' | 'endpoint' | 'model' | 'provider' | 'upstream' | 'stream' | 'features' | 'bound'> {
  readonly admittedMs: number
  /** What the caller claimed; only to find whose counters are meant. */
  readonly claims: Readonly<Record<string, unknown>>
}

function callOf(id: string, data: Readonly<Record<string, unknown>>): Call {
  const text = (name: string): string => textOf(data[name]) ?? ''
  return {
    id, admittedMs: timeOfId(id), account: text('account'), key: text('key'), plan: text('plan'), plan_version: Number(data['plan_version']), endpoint: text('endpoint'), model: textOf(data['model']),
    provider: text('provider'), upstream: text('upstream'), stream: data['stream'] === true, features: textsOf(data['features']), bound: (data['bound'] ?? null) as AdmissionBound | null,
    claims: (data['caller'] ?? {}) as Readonly<Record<string, unknown>>,
  }
}

function shownOf({ admittedMs, claims: _claims, ...call }: Call): Omit<Call, 'admittedMs' | 'claims'> & { readonly admitted_at: string } {
  return { ...call, admitted_at: toInstant(admittedMs) }
}

interface Recollection {
  readonly bound: Bound | null
  /** null: nothing is settled yet. */
  readonly draws: readonly Draw[] | null
  /** In small units; null: not known. */
  heldOf(check: Check): number | null
}

/** The limits that apply to such a call of the time of its admission, as the configuration has them now. */
function explainLimits(parts: Parts, call: Call, { bound, draws, heldOf }: Recollection): { limits: readonly LimitExplanation[]; rest: readonly Draw[]; notes: readonly string[] } {
  const { principal, notes } = recallPrincipal(parts, call)
  if (principal === null) return { limits: [], rest: draws ?? [], notes }
  const entitlement = recallEntitlement(principal, { ...call, endUser: endUserOf(principal, call) }, parts.config().plans, call.admittedMs)
  const { checks, appliedByCheck } = recallChecks(entitlement, bound, call.admittedMs)
  const { byCheck, rest } = drawsByCheck(checks, draws ?? [])
  const limits = checks.flatMap((check, index) => {
    const drawn = byCheck[index] ?? []
    const used = draws === null ? null : drawn.reduce((sum, { amount }) => sum + amount, 0)
    return (appliedByCheck[index] ?? []).map((applied, nth) => explainLimit(principal, applied, check.ceilings[nth] as Ceiling, call.admittedMs, heldOf(check), used, check.ceilings[nth] === drawnCeiling(check) ? drawn : []))
  })
  return { limits, rest, notes }
}

function explainLimit(principal: Principal, applied: AppliedLimit, { buckets }: Ceiling, atMs: number, held: number | null, used: number | null, drawn: readonly Draw[]): LimitExplanation {
  const { limit, scope } = applied
  const scale = meterScale(limit.meter)
  const { fromMs, untilMs } = windowOf(applied, atMs)
  const owner = principal.chain.find(({ id }) => accountScopeId(id) === scope.id)
  return {
    name: limit.name, of: owner?.id ?? principal.keyId, per: limit.per, meter: meterName(limit.meter), window: windowName(limit.window),
    from: fromMs === null ? null : toInstant(fromMs), until: untilMs === null ? null : toInstant(untilMs),
    limit: limit.ceiling === null ? null : limit.ceiling / scale, mode: limit.mode, held: held === null ? null : held / scale, used: used === null ? null : used / scale,
    buckets: buckets.map(({ name, ceiling }) => ({ bucket: name, of: ceiling === null ? null : ceiling / scale, drawn: (drawn.find(({ bucket }) => bucket === name)?.amount ?? 0) / scale })),
  }
}

/** Who made the call, with the terms of its admission; null: neither the key nor its account is there any more. */
function recallPrincipal({ config, directory }: Parts, { account: accountId, key, plan: planName, plan_version: version, admittedMs }: Call): { principal: Principal | null; notes: readonly string[] } {
  const plan = config().plans.get(planName)
  const known = directory.principalOf(key, admittedMs) ?? principalOfAccount(directory, accountId, key, plan, admittedMs)
  if (known === null || known.account.id !== accountId) return { principal: null, notes: [`The account "${accountId}" or its plan is no longer there: which limits applied is not known.`] }
  if (plan === undefined) return { principal: known, notes: [`The plan "${planName}" is no longer there: the limits are those of "${known.plan.name}".`] }
  // What it was on then is what its event says, whatever the configuration says of that time by now.
  const principal = known.plan.name === planName ? known : { ...known, plan, account: directory.accountOf(accountId) ?? known.account, chain: [directory.accountOf(accountId) ?? known.account, ...known.chain.slice(1)] }
  return { principal, notes: plan.version === version ? [] : [`The plan "${planName}" was at version ${version}, and is at ${plan.version} by now: the limits are today's.`] }
}

/** For a key that is gone. */
function principalOfAccount(directory: StoredKeyDirectory, accountId: string, keyId: string, plan: Plan | undefined, atMs: number): Principal | null {
  const { chain, plan: current } = directory.actingChainOf(accountId, atMs)
  const [account] = chain
  const root = chain.at(-1)
  const acting = current ?? plan
  if (account === undefined || root === undefined || acting === undefined) return null
  return { keyId, account, chain, home: root.id, plan: acting, keyLimits: [], keyEntitlements: {}, labels: {}, endUserFrom: null }
}

function endUserOf({ endUserFrom }: Principal, { claims }: Call): string | null {
  return endUserFrom === null ? null : textOf(endUserFrom.kind === 'header' ? claims['end_user'] : claims['user'])
}

/** Draws of an event and of its corrections. Limits of two accounts may have one name: the n-th of a name in each list is the same one. */
function sumOfDraws(lists: readonly (readonly Draw[])[]): readonly Draw[] {
  const sums: { bucket: string; amount: number }[] = []
  for (const list of lists) {
    const seen: { bucket: string; amount: number }[] = []
    for (const { bucket, amount } of list) {
      let sum = sums.find((each) => each.bucket === bucket && !seen.includes(each))
      if (sum === undefined) sums.push(sum = { bucket, amount: 0 })
      sum.amount += amount
      seen.push(sum)
    }
  }
  return sums
}

function usageOf(events: readonly UsageEvent[]): Readonly<Record<string, number>> {
  const sums: Record<string, number> = {}
  for (const { data } of events) {
    for (const name of summed) {
      const value = data[name]
      if (typeof value === 'number') sums[name] = (sums[name] ?? 0) + value
    }
  }
  return sums
}

function drawsOf(value: unknown): readonly Draw[] {
  return Array.isArray(value) ? (value as readonly Draw[]) : []
}

function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : []
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}
