import { unreachable } from '../assert.ts'
import { GatewayError, type RefusalDetails } from '../errors.ts'
import type { Balance } from './check.ts'
import { accountScopeId } from './entitlement.ts'
import { toWholeSecond } from './event.ts'
import { isSeats } from './limits/concurrency.ts'
import { kindOf } from './limits/index.ts'
import type { AppliedLimit } from './limits/limit.ts'
import { isLong, isMoney, waitText, windowName, windowPhrase } from './limits/window.ts'
import { type Meter, meterName, meterScale, meterUnit, moneyDigits } from './meter.ts'
import type { CheckRefusal, ReserveAnswer } from './moves.ts'
import { decimalOfNanos } from './price.ts'
import { type Draft, totalOf } from './reservation.ts'

/** What a client is told of one limit, in units that people read: used is rounded up to whole ones, what remains down, never below 0; money is exact. */
export interface QuotaItem {
  /** The limit's name; a parent's is `<account>/<name>`. */
  readonly name: string
  readonly meter: string
  /** IETF quota unit: `requests`, `tokens`, `concurrent-requests` … */
  readonly unit: string
  readonly per: 'account' | 'key' | 'end_user'
  /** As configured: `1m`, `day`; null: concurrency. */
  readonly window: string | null
  /** null: no window, or a lifetime. */
  readonly windowSeconds: number | null
  /** The allowance and what grants add to it, without overdraft; null: unlimited. */
  readonly limit: number | null
  readonly used: number
  readonly reserved: number
  readonly remaining: number | null
  /** null: never. */
  readonly resetsAtMs: number | null
  readonly visible: boolean
  readonly kind: 'requests' | 'tokens' | 'input_tokens' | 'output_tokens' | 'other'
}

/** One item per limit that applies, in the checks' order. */
export function quotaItems(draft: Draft, balances: readonly Balance[], nowMs: number): QuotaItem[] {
  const items: QuotaItem[] = []
  draft.checks.forEach((check, index) => {
    const balance = balances[index]
    const applied = draft.appliedByCheck[index]
    if (balance === undefined || applied === undefined) return
    check.ceilings.forEach((ceiling, nth) => {
      const one = applied[nth]
      if (one !== undefined) items.push(quotaItem(draft, one, balance, ceiling.visible, nowMs))
    })
  })
  return items
}

function quotaItem(draft: Draft, applied: AppliedLimit, balance: Balance, visible: boolean, nowMs: number): QuotaItem {
  const { limit } = applied
  const { meter, window } = limit
  const kind = kindOf(window)
  const scale = meterScale(meter)
  // A whole unit of money is a fortune: rounded to it, a limit of 0.02 would read 0.
  const up = isMoney(limit) ? exact : Math.ceil
  const down = isMoney(limit) ? exact : Math.floor
  const ceiling = limit.ceiling === null ? null : limit.ceiling + (applied.grants === undefined ? 0 : balance.granted ?? 0)
  const lengthMs = kind.lengthMs(applied, draft.admittedMs)
  const resetsAtMs = kind.resetsAtMs(applied, draft.admittedMs, slotsInUse(balance))
  return {
    name: limitNameOf(draft, applied), meter: meterName(meter), unit: meterUnit(meter), per: limit.per,
    window: windowName(window),
    windowSeconds: lengthMs === null ? null : Math.ceil(lengthMs / 1_000),
    limit: ceiling === null ? null : down(ceiling / scale),
    // A seat that is taken is used: nobody waits for what becomes of it.
    used: isSeats(limit) ? balance.reserved : up(Math.max(0, balance.used) / scale),
    reserved: isSeats(limit) ? 0 : up(balance.reserved / scale),
    remaining: ceiling === null ? null : Math.max(0, down((ceiling - balance.used - balance.reserved) / scale)),
    resetsAtMs: resetsAtMs === null ? null : Math.max(resetsAtMs, nowMs),
    visible, kind: quotaKind(meter),
  }
}

/** Nanos are whole numbers, so a quotient has nine digits after the point at most. */
function exact(amount: number): number {
  return amount
}

/** What is held counts as used in the newest slot: the quota is whole again only after that has gone too. */
function slotsInUse({ usedBySlot, reserved }: Balance): readonly number[] | undefined {
  if (usedBySlot === undefined || reserved === 0) return usedBySlot
  return usedBySlot.with(-1, (usedBySlot.at(-1) ?? 0) + reserved)
}

/** A parent's limit may have the name of one's own; whose it is tells them apart. */
export function limitNameOf(draft: Draft, { limit, scope }: AppliedLimit): string {
  if (limit.per !== 'account') return limit.name
  const owner = draft.entitlement.principal.chain.find((account, index) => index > 0 && accountScopeId(account.id) === scope.id)
  return owner === undefined ? limit.name : `${owner.id}/${limit.name}`
}

function quotaKind(meter: Meter): QuotaItem['kind'] {
  if (meter.kind === 'weighted') return 'other'
  switch (meter.name) {
    case 'requests': return 'requests'
    case 'total_tokens': return 'tokens'
    case 'input_tokens': return 'input_tokens'
    case 'output_tokens': return 'output_tokens'
    default: return 'other'
  }
}

type Denied = Extract<ReserveAnswer, { outcome: 'denied' }>

interface Candidate {
  readonly applied: AppliedLimit
  readonly balance: Balance
  readonly why: CheckRefusal['why']
  /** When the call would fit if nothing else were used; null: never. */
  readonly fitsAtMs: number | null
}

/** How soon calls in flight are worth another try. */
const heldRetryMs = 2_000
const concurrencyRetryMs = 1_000

/** The refusal of a denied reserve: the limit that settled use has exhausted for longest; else one that calls in flight hold. */
export function refusalOf(draft: Draft, answer: Denied, nowMs: number): GatewayError {
  let chosen: Candidate | null = null
  for (const refusal of answer.refusals) {
    const candidate = candidateOf(draft, answer, refusal)
    if (candidate !== null && (chosen === null || outlasts(candidate, chosen))) chosen = candidate
  }
  if (chosen === null) return new GatewayError('capacity_reserved', 'All capacity is in use by calls in flight. Please try again in 2s.', { details: { retryAfterMs: heldRetryMs } })
  return refusalFor(draft, chosen, nowMs)
}

function candidateOf(draft: Draft, answer: Denied, refusal: CheckRefusal): Candidate | null {
  const check = draft.checks[refusal.check]
  const balance = answer.balances[refusal.check]
  const limits = draft.appliedByCheck[refusal.check]
  if (check === undefined || balance === undefined || limits === undefined) return null
  // Two limits of one check may have one name (a parent's and one's own, per key): the lower ceiling is the one that refuses.
  let at = -1
  check.ceilings.forEach((ceiling, index) => {
    if (ceiling.limit !== refusal.limit || !ceiling.refuses) return
    const best = check.ceilings[at]
    if (best === undefined || (totalOf(ceiling) ?? Infinity) < (totalOf(best) ?? Infinity)) at = index
  })
  const applied = limits[at]
  const ceiling = check.ceilings[at]
  if (applied === undefined || ceiling === undefined) return null
  const needed = check.fixed + check.perUnit * (check.clampable ? draft.uMin : draft.uMax)
  const fitsAtMs = kindOf(applied.limit.window).fitsAtMs(applied, draft.admittedMs, balance.usedBySlot ?? [balance.used], totalOf(ceiling) ?? Infinity, needed)
  return { applied, balance, why: refusal.why, fitsAtMs }
}

function outlasts(one: Candidate, other: Candidate): boolean {
  if (one.why !== other.why) return one.why === 'used_up'
  if (one.why === 'held') return false
  return (one.fitsAtMs ?? Infinity) > (other.fitsAtMs ?? Infinity)
}

function refusalFor(draft: Draft, { applied, balance, why, fitsAtMs }: Candidate, nowMs: number): GatewayError {
  const { limit } = applied
  const { meter, window } = limit
  const item = quotaItem(draft, applied, balance, true, nowMs)
  const base: RefusalDetails = {
    limit: item.name, ceiling: item.limit ?? 0, used: item.used, remaining: item.remaining ?? 0, counts: countsOf(meter),
    ...(item.resetsAtMs === null ? {} : { resets_at: toWholeSecond(item.resetsAtMs), resets_in_seconds: Math.max(0, Math.ceil((item.resetsAtMs - nowMs) / 1_000)) }),
  }
  const unit = isMoney(limit) ? draft.entitlement.currency ?? item.unit : item.limit === 1 && meter.kind === 'builtin' ? item.unit.replace(/s$/, '') : item.unit
  const ceiling = isMoney(limit) ? moneyText(limit, limit.ceiling ?? 0) : item.limit ?? 0
  const used = isMoney(limit) ? moneyText(limit, balance.used) : item.used
  const amount = `${ceiling} ${alarming.test(unit) ? 'units' : unit} ${windowPhrase(window)}`
  if (window.kind === 'in_flight') {
    return refusal('concurrency_limit', `${named('Concurrency limit', limit.name)} reached: ${item.limit ?? 0} ${item.limit === 1 ? 'request' : 'requests'} at once, ${item.reserved} in flight.`, base, concurrencyRetryMs)
  }
  if (why === 'held') {
    return refusal('capacity_reserved', `${named('Limit', limit.name)}: ${plainWords(amount)}, ${used} used and ${isMoney(limit) ? moneyText(limit, balance.reserved) : item.reserved} held by calls in flight.`, base, heldRetryMs)
  }
  if (limit.prepaid === true) {
    const short = (item.remaining ?? 0) > 0 ? `The credit that is left for '${limit.name}' is not enough for this call` : `There is no credit left for '${limit.name}'`
    return new GatewayError('no_credit_available', `${short}: ${used} of ${isMoney(limit) ? moneyText(limit, (limit.ceiling ?? 0) + (balance.granted ?? 0)) : item.limit ?? 0} ${unit} are used.`, { details: { ...base, retryAfterMs: null } })
  }
  const waitMs = fitsAtMs === null ? null : Math.max(1, fitsAtMs - nowMs)
  const long = isLong(window) || isMoney(limit)
  const code = long ? 'usage_limit_reached' : 'rate_limited'
  // Clients parse "quota" and "billing" as "give up until someone pays": a short wait must not say them.
  if (!long || (waitMs !== null && waitMs <= 60_000)) {
    return refusal(code, `${named(long ? 'Usage limit' : 'Rate limit', limit.name)} reached: ${plainWords(amount)}, ${used} used.`, base, waitMs)
  }
  const until = fitsAtMs === null ? 'it does not reset' : `it resets at ${toWholeSecond(fitsAtMs)}`
  return new GatewayError(code, `You exceeded your current quota '${limit.name}': ${amount}, ${used} used; ${until}.`, { details: { ...base, retryAfterMs: waitMs } })
}

/** A call that finds no seat. `balance`: how many are taken; `waitMs`: when the first of them may be free, as far as is known. */
export function seatRefusal(draft: Draft, applied: AppliedLimit, balance: Balance, waitMs: number, nowMs: number): GatewayError {
  const { name, limit, used, remaining } = quotaItem(draft, applied, balance, true, nowMs)
  const holders = applied.limit.window.kind === 'in_flight' && applied.limit.window.seats?.holder === 'end_user' ? 'end users' : 'keys'
  return refusal('concurrency_limit', `${named('Seats', applied.limit.name)}: ${limit ?? 0} ${holders} at once, ${used} seats are taken.`, {
    limit: name, ceiling: limit ?? 0, used, remaining: remaining ?? 0, counts: 'requests',
  }, waitMs)
}

function refusal(code: 'rate_limited' | 'capacity_reserved' | 'concurrency_limit' | 'usage_limit_reached', sentence: string, details: RefusalDetails, waitMs: number | null): GatewayError {
  const again = waitMs === null ? '' : ` Please try again in ${waitText(waitMs)}.`
  return new GatewayError(code, sentence + again, { details: { ...details, retryAfterMs: waitMs } })
}

const alarming = /quota|billing|will reset at/i

/** A limit's name is the operator's: one with a word that clients take for a hard stop is not said aloud. */
function named(what: string, name: string): string {
  return alarming.test(name) ? what : `${what} '${name}'`
}

/** Nanos as people write money: two digits after the point, more where there are more. */
function moneyText({ meter }: AppliedLimit['limit'], nanos: number): string {
  return decimalOfNanos(nanos, moneyDigits(meter)).replace(/(\.\d\d\d*?)0+$/, '$1')
}

function plainWords(amount: string): string {
  return amount.replace('per billing period', 'per period')
}

function countsOf(meter: Meter): 'requests' | 'tokens' {
  if (meter.kind === 'weighted') return 'tokens'
  switch (meter.name) {
    case 'input_tokens':
    case 'cached_input_tokens':
    case 'cache_write_tokens':
    case 'output_tokens':
    case 'reasoning_tokens':
    case 'total_tokens': return 'tokens'
    case 'requests':
    case 'compute_seconds':
    case 'bytes_in':
    case 'bytes_out':
    case 'audio_seconds':
    case 'images':
    case 'cost':
    case 'concurrency':
    case 'seats': return 'requests'
    default: return unreachable(meter.name)
  }
}
