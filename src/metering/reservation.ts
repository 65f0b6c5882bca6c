import type { Principal } from '../accounts/principal.ts'
import type { ModelRates, Plan } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import type { Ceiling, Check } from './check.ts'
import { type Entitlement, type StandingOf, standingEntitlement } from './entitlement.ts'
import type { Bound, OutputRange } from './estimate.ts'
import { counterBase } from './limits/counter.ts'
import { kindOf } from './limits/index.ts'
import type { AppliedLimit, LimitKind, Need } from './limits/limit.ts'
import { isMoney, windowPhrase } from './limits/window.ts'
import { type BuiltinMeter, type Meter, type Quantities, amountOf, meterScale, meterUnit, moneyDigits } from './meter.ts'
import { costBound, costNanos, decimalOfNanos, ratesWithin } from './price.ts'

/** A reservation before it is asked for: everything a Reserve needs besides its id, and what the answer is read with. */
export interface Draft {
  readonly entitlement: Entitlement
  readonly checks: readonly Check[]
  /** The limits behind each check: `appliedByCheck[i][j]` has the ceiling `checks[i].ceilings[j]`. */
  readonly appliedByCheck: readonly (readonly AppliedLimit[])[]
  readonly uMin: number
  readonly uMax: number
  /** The output bound that the answer's would be compared with: the caller's, else ours. */
  readonly asked: number
  readonly admittedMs: number
}

/** Limits with the same counters: one check, a ceiling each. */
interface Group {
  readonly kind: LimitKind
  readonly meter: Meter
  readonly applied: readonly AppliedLimit[]
}

/** A move may be this long on its way, and replicas' clocks may differ by as much: sliding windows that begin until then must hold too. */
export const lateMs = 2_000

const groupsByEntitlement = new WeakMap<Entitlement, readonly Group[]>()

/** The answer alone tells these amounts; a call needs at least something left of them. */
const unbounded: readonly BuiltinMeter[] = ['compute_seconds', 'bytes_out', 'audio_seconds', 'images']
/** They depend on an input that may be unknown. */
const ofInput: readonly BuiltinMeter[] = ['input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'total_tokens', 'cost']

/**
 * Turns a call's bound into checks. Refuses what no waiting would help: a bound that no empty window could hold (`request_too_large`), an input or
 * a price that is not known where a limit depends on it, an output bound that the plan allows and the request cannot live with.
 * `seenMs`: when the reservation will be asked for, at the latest; windows that have begun by then must hold too.
 */
export function draftReservation(
  entitlement: Entitlement, bound: Bound, range: Pick<OutputRange, 'uMin' | 'uMax'> & Partial<OutputRange>, nowMs: number, seenMs: number = nowMs,
): Draft | GatewayError {
  if (range.lacking) {
    return new GatewayError('feature_unavailable', `This request needs an output bound of at least ${range.lacking} tokens; your plan and model allow ${range.uMax}.`)
  }
  const groups = groupsOf(entitlement)
  const rates = ratesWithin(entitlement.rates, bound.inputUnknown === true ? Infinity : bound.fixed.input_tokens ?? 0)
  const fixed = withCost(bound.fixed, rates)
  const perUnit = withCost(bound.perUnit, rates)
  const clamp = entitlement.policy.onInsufficient === 'clamp'
  let { uMin, uMax } = range
  // A bound that is ours may come down to what an empty window holds, whatever the window: a caller who asked for nothing in particular is not too large.
  const ours = range.asked === null
  const checks: Check[] = []
  for (const group of groups) {
    const check = checkOf(group, needOf(group.meter, fixed, perUnit), nowMs, seenMs, clamp)
    checks.push(check)
    for (const [index, ceiling] of check.ceilings.entries()) {
      if (!ceiling.refuses) continue
      const { limit } = group.applied[index] as AppliedLimit
      const unknown = unknowable(group.meter, bound, rates, entitlement.policy.unpriced === 'free')
      if (unknown !== null) return new GatewayError('feature_unavailable', `${unknown}, and the limit '${limit.name}' depends on it.`)
      const most = totalOf(ceiling)
      if (most === null) continue
      const floor = ours ? Math.min(uMin, range.least ?? uMin) : check.clampable ? uMin : uMax
      const least = check.fixed + check.perUnit * floor
      // What was not paid for yet is nobody's size: the ledger says that there is no credit.
      if (!Number.isSafeInteger(least) || (least > most && limit.prepaid !== true)) return tooLarge(group.applied[index] as AppliedLimit, least, most)
      if (ours && check.perUnit > 0 && least <= most) {
        uMax = Math.min(uMax, Math.floor((most - check.fixed) / check.perUnit))
        uMin = Math.min(uMin, uMax)
      }
    }
  }
  return { entitlement, checks, appliedByCheck: groups.map((group) => group.applied), uMin, uMax, asked: range.asked ?? range.uMax, admittedMs: nowMs }
}

/** The checks of a principal with nothing needed: for showing where it stands. `of`: with the limits of one end user and one model. */
export function draftStanding(principal: Principal, plans: ReadonlyMap<string, Plan>, nowMs: number, of?: StandingOf): Draft {
  const entitlement = standingEntitlement(principal, plans, of)
  const groups = groupsOf(entitlement)
  const checks = groups.map((group) => checkOf(group, nothing, nowMs, nowMs, false))
  return { entitlement, checks, appliedByCheck: groups.map((group) => group.applied), uMin: 0, uMax: 0, asked: 0, admittedMs: nowMs }
}

/** The checks of a call that was made, with nothing refused: for looking back. `bound` null: what it needed is not known. */
export function recallChecks(entitlement: Entitlement, bound: Bound | null, admittedMs: number): Pick<Draft, 'checks' | 'appliedByCheck'> {
  const groups = groupsOf(entitlement)
  const rates = bound === null ? null : ratesWithin(entitlement.rates, bound.inputUnknown === true ? Infinity : bound.fixed.input_tokens ?? 0)
  const needs = (meter: Meter): Need => (bound === null ? nothing : needOf(meter, withCost(bound.fixed, rates), withCost(bound.perUnit, rates)))
  return { checks: groups.map((group) => checkOf(group, needs(group.meter), admittedMs, admittedMs, false)), appliedByCheck: groups.map((group) => group.applied) }
}

/** The draft as it has to be asked for later, at `seenMs`: it is still booked at its admission, and windows that have begun since must hold too. */
export function draftSeenAt(draft: Draft, seenMs: number): Draft {
  const checks = groupsOf(draft.entitlement).map((group, i) => {
    const { fixed, perUnit, clampable } = draft.checks[i] as Check
    return checkOf(group, { fixed, perUnit }, draft.admittedMs, seenMs, clampable)
  })
  return { ...draft, checks }
}

/** The draft's checks for an Extend: `fixed` is the whole amount now wanted, the windows are those of the admission as seen from `nowMs`. */
export function extendedChecks(draft: Draft, fixed: Quantities, nowMs: number): readonly Check[] {
  const wanted = withCost(fixed, ratesWithin(draft.entitlement.rates, fixed.input_tokens ?? Infinity))
  return groupsOf(draft.entitlement).map((group) => checkOf(group, needOf(group.meter, wanted, none), draft.admittedMs, nowMs, false))
}

/** What is really used of each check, in the checks' order; a call that has ended holds no concurrency. */
export function amountsOf(draft: Draft, usage: Quantities): readonly number[] {
  const { rates } = draft.entitlement
  const priced = usage.cost === undefined && rates !== null ? { ...usage, cost: costNanos(usage, rates) } : usage
  return groupsOf(draft.entitlement).map(({ meter }) => (isConcurrency(meter) ? 0 : amountOf(meter, priced)))
}

/** `812;asked=4096` where the granted output bound is lower than what was asked for; null where it is not. */
export function outputBoundReport(draft: Draft, granted: number): string | null {
  return granted < draft.asked ? `${granted};asked=${draft.asked}` : null
}

const none: Quantities = {}
const nothing: Need = { fixed: 0, perUnit: 0 }

function groupsOf(entitlement: Entitlement): readonly Group[] {
  const known = groupsByEntitlement.get(entitlement)
  if (known !== undefined) return known
  const byCounter = new Map<string, { kind: LimitKind; meter: Meter; applied: AppliedLimit[] }>()
  for (const applied of entitlement.applied) {
    const { limit } = applied
    const base = counterBase(applied)
    const group = byCounter.get(base)
    if (group === undefined) byCounter.set(base, { kind: kindOf(limit.window), meter: limit.meter, applied: [applied] })
    else group.applied.push(applied)
  }
  const groups = [...byCounter.values()]
  groupsByEntitlement.set(entitlement, groups)
  return groups
}

function checkOf(group: Group, need: Need, admittedMs: number, nowMs: number, clamp: boolean): Check {
  const [first, ...others] = group.applied
  const check = group.kind.check(first as AppliedLimit, need, admittedMs, nowMs, clamp)
  if (others.length === 0) return check
  const further = others.map((applied) => group.kind.check(applied, need, admittedMs, nowMs, clamp))
  const alongside = check.alongside ?? further.find((one) => one.alongside !== undefined)?.alongside
  return { ...check, ceilings: [...check.ceilings, ...further.flatMap(({ ceilings }) => ceilings)], ...(alongside === undefined ? {} : { alongside }) }
}

function isConcurrency(meter: Meter): boolean {
  return meter.kind === 'builtin' && meter.name === 'concurrency'
}

function metersIn(meter: Meter): readonly BuiltinMeter[] {
  return meter.kind === 'builtin' ? [meter.name] : meter.weighted.terms.map((term) => term.meter)
}

function needOf(meter: Meter, fixed: Quantities, perUnit: Quantities): Need {
  const need = amountOf(meter, fixed)
  const untold = need === 0 && metersIn(meter).some((name) => unbounded.includes(name) && fixed[name] === undefined)
  return { fixed: untold ? 1 : need, perUnit: amountOf(meter, perUnit) }
}

function withCost(quantities: Quantities, rates: ModelRates | null): Quantities {
  return rates === null ? quantities : { ...quantities, cost: costBound(quantities, rates) }
}

/** Why a hard limit on `meter` cannot be held; null: it can. */
function unknowable(meter: Meter, bound: Bound, rates: ModelRates | null, free: boolean): string | null {
  const names = metersIn(meter)
  if (rates === null && !free && names.includes('cost')) return 'There is no price for this model'
  if (bound.inputUnknown === true && names.some((name) => ofInput.includes(name))) return 'The request refers to content whose size is not known here'
  return null
}

/** Everything that a ceiling's buckets hold together; null: unlimited. */
export function totalOf(ceiling: Ceiling): number | null {
  let sum = 0
  for (const bucket of ceiling.buckets) {
    if (bucket.ceiling === null) return null
    sum += bucket.ceiling
  }
  return sum
}

function tooLarge({ limit }: AppliedLimit, amount: number, most: number): GatewayError {
  const scale = meterScale(limit.meter)
  // Money is told exactly, all else in whole units.
  const money = isMoney(limit)
  const asked = money ? Number(decimalOfNanos(amount, moneyDigits(limit.meter))) : Math.ceil(amount / scale)
  const ceiling = money ? Number(decimalOfNanos(most, moneyDigits(limit.meter))) : Math.floor(most / scale)
  return new GatewayError('request_too_large',
    `This request alone can never fit the limit '${limit.name}': it may need ${asked} ${meterUnit(limit.meter)}, the limit is ${ceiling} ${windowPhrase(limit.window)}.`,
    { details: { limit: limit.name, ceiling, retryAfterMs: null } })
}
