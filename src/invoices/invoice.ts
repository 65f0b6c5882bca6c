import type { PlanCharges, RateCard, PeriodPrice } from '../config/config.ts'
import type { UsageEvent } from '../metering/event.ts'
import { toInstant } from '../metering/event.ts'
import { periodCharge } from '../metering/period-price.ts'
import type { PlanShare } from '../metering/plan-change.ts'
import { floored, rounded } from './sum.ts'
import { Tally, type ModelUse, type PlanUse } from './tally.ts'
import type { InvoiceTerms } from './terms.ts'

/**
 * `usage`: calls at a price. `rounding`: every call is rounded up by itself, lines down. `recorded`: what events cost more than their version says now. These three
 * are Σ of the events' costs; all others are adjustments. `prices`: what tiers and packages make of the period, less what events were charged.
 */
export type LineKind = 'usage' | 'rounding' | 'recorded' | 'included' | 'prices' | 'minimum' | 'credit' | 'fee'

export interface InvoiceLine {
  readonly kind: LineKind
  readonly plan: string | null
  readonly version: string | null
  /** As callers named it; of an adjustment, the patterns that share the price. */
  readonly model: string | null
  /** The meter or feature that is priced; of a fee, its name. */
  readonly price: string | null
  /** Small units. */
  readonly quantity: bigint | null
  /** For one small unit. */
  readonly picos: number | null
  /** How the price depends on the period. */
  readonly by: PeriodPrice['kind'] | null
  readonly calls: number | null
  /** Days of the period that the plan bears, of all; null: it does not depend on them. */
  readonly days: readonly [number, number] | null
  /** In 10⁻ˢᶜᵃˡᵉ of the currency. */
  readonly amount: bigint
}

/** The part of an invoice that is in one currency. */
export interface InvoiceSection {
  readonly currency: string
  readonly scale: number
  readonly lines: readonly InvoiceLine[]
  /** Σ of the events' costs. */
  readonly usage: bigint
  readonly adjustments: bigint
  readonly total: bigint
}

export interface Invoice {
  readonly account: string
  readonly startMs: number
  readonly endMs: number
  readonly timeZone: string
  readonly events: number
  readonly corrections: number
  /** Events without a price: they cost nothing. */
  readonly unpriced: number
  readonly sections: readonly InvoiceSection[]
}

/** Makes one account's invoice for one period. Give it each of the account's events once, in any order; those of other times are left out. */
export class InvoicePreview {
  readonly #terms: InvoiceTerms
  readonly #tally: Tally
  readonly #from: string
  readonly #to: string

  constructor(terms: InvoiceTerms) {
    this.#terms = terms
    this.#tally = new Tally(terms.plans, terms.prepaidLimitOf)
    this.#from = toInstant(terms.period.startMs)
    this.#to = toInstant(terms.period.endMs)
  }

  /** The period goes by the admission: by the event's time. */
  add({ time, data }: Pick<UsageEvent, 'time' | 'data'>): void {
    // Both are written alike, so that their order is that of the instants.
    if (time >= this.#from && time < this.#to) this.#tally.add(data)
  }

  finish(): Invoice {
    const { account, period, timeZone } = this.#terms
    const { events, corrections, unpriced } = this.#tally
    return { account, startMs: period.startMs, endMs: period.endMs, timeZone, events, corrections, unpriced, sections: sectionsOf(this.#terms, this.#tally.uses) }
  }
}

export function invoiceOf(terms: InvoiceTerms, events: Iterable<Pick<UsageEvent, 'time' | 'data'>>): Invoice {
  const preview = new InvoicePreview(terms)
  for (const event of events) preview.add(event)
  return preview.finish()
}

function sectionsOf(terms: InvoiceTerms, uses: readonly PlanUse[]): readonly InvoiceSection[] {
  const sections = new Map<string, { currency: string; scale: number; lines: InvoiceLine[]; usage: bigint }>()
  const sectionOf = (currency: string, scale: number): { currency: string; scale: number; lines: InvoiceLine[]; usage: bigint } => {
    const key = `${currency} ${scale}`
    let section = sections.get(key)
    if (section === undefined) sections.set(key, section = { currency, scale, lines: [], usage: 0n })
    return section
  }
  const plans = [...new Set([...terms.shares.map(({ plan }) => plan), ...terms.joined, ...(terms.yearOf === null ? [] : [terms.yearOf]), ...uses.map(({ plan }) => plan)])].sort()
  for (const name of plans) {
    const plan = terms.plans.get(name)
    const share = shareOf(terms.shares, name)
    for (const use of uses) {
      if (use.plan !== name) continue
      const section = sectionOf(use.currency, use.scale)
      section.usage += use.cost.value
      // What belongs to the plan is in the currency of its prices; use that was counted in another one stands by itself.
      const home = plan?.prices?.currency === use.currency && plan.prices.scale === use.scale
      section.lines.push(...planLines(use, home ? plan?.charges ?? null : null, share))
    }
    if (plan?.prices === null || plan?.charges === null || plan === undefined) continue
    const { prices, charges } = plan
    const section = sectionOf(prices.currency, prices.scale)
    if (share !== null && !uses.some((use) => isHome(use, name, prices))) section.lines.push(...minimumLines(name, charges, share, 0n))
    section.lines.push(...feeLines(name, charges, share, terms))
  }
  return [...sections.values()].map(({ currency, scale, lines, usage }): InvoiceSection => {
    const adjustments = lines.reduce((sum, line) => (isUsage(line.kind) ? sum : sum + line.amount), 0n)
    return { currency, scale, lines: inOrder(lines), usage, adjustments, total: usage + adjustments }
  }).sort((one, other) => (one.currency < other.currency ? -1 : 1))
}

function isHome(use: PlanUse, plan: string, prices: RateCard): boolean {
  return use.plan === plan && use.currency === prices.currency && use.scale === prices.scale
}

function isUsage(kind: LineKind): boolean {
  return kind === 'usage' || kind === 'rounding' || kind === 'recorded'
}

/** All days of the period that one plan bears: it may have been left and come back to. */
function shareOf(shares: readonly PlanShare[], plan: string): PlanShare | null {
  const own = shares.filter((share) => share.plan === plan)
  const [first] = own
  return first === undefined ? null : { ...first, days: own.reduce((sum, { days }) => sum + days, 0) }
}

/** What the models that share a rate were charged for, at one price. */
interface Group {
  readonly version: string | null
  readonly models: string
  readonly price: string
  readonly picos: number
  readonly byPeriod: PeriodPrice | null
  quantity: bigint
}

function planLines(use: PlanUse, charges: PlanCharges | null, share: PlanShare | null): readonly InvoiceLine[] {
  const lines: InvoiceLine[] = []
  const groups: Group[] = []
  let shown = 0n
  for (const { version, models, others } of use.versions.values()) {
    const byRate = new Map<object, Group[]>()
    for (const model of [...models.values(), ...others.values()]) {
      for (const line of usageLines(use.plan, version, model)) {
        lines.push(line)
        shown += line.amount
      }
      gather(byRate, version, model)
    }
    groups.push(...[...byRate.values()].flat())
  }
  const unexplained = use.unexplained.value
  if (unexplained !== 0n) lines.push(line('recorded', { plan: use.plan, amount: unexplained }))
  const rounding = use.cost.value - shown - unexplained
  if (rounding !== 0n) lines.push(line('rounding', { plan: use.plan, amount: rounding }))
  const adjusted = periodLines(use.plan, groups, charges, share)
  lines.push(...adjusted)
  const cost = adjusted.reduce((sum, { amount }) => sum + amount, use.cost.value)
  if (charges !== null && share !== null) lines.push(...minimumLines(use.plan, charges, share, cost))
  // What was paid before is taken off, and never more than there is to pay.
  const prepaid = use.prepaid.value < cost ? use.prepaid.value : cost
  if (prepaid > 0n) lines.push(line('credit', { plan: use.plan, amount: -prepaid }))
  return lines
}

function usageLines(plan: string, version: string | null, { model, rates, uses, calls, cost }: ModelUse): readonly InvoiceLine[] {
  if (rates === null) return [line('usage', { plan, version, model, calls, amount: cost.value })]
  return uses.map((each) => line('usage', {
    plan, version, model, price: each.price, quantity: each.quantity.value, picos: each.picos, calls: each.calls,
    amount: floored(each.quantity.value * BigInt(each.picos), 1_000n),
  }))
}

function gather(byRate: Map<object, Group[]>, version: string | null, { rates, uses }: ModelUse): void {
  if (rates === null) return
  let groups = byRate.get(rates)
  if (groups === undefined) byRate.set(rates, groups = [])
  for (const use of uses) {
    let group = groups.find((each) => each.price === use.price && each.picos === use.picos)
    if (group === undefined) groups.push(group = { version, models: rates.models.join(', '), price: use.price, picos: use.picos, byPeriod: rates.byPeriod?.[use.price] ?? null, quantity: 0n })
    group.quantity += use.quantity.value
  }
}

/** Included units come off the dearest use first; what is left has its tiers and packages. */
function periodLines(plan: string, groups: readonly Group[], charges: PlanCharges | null, share: PlanShare | null): readonly InvoiceLine[] {
  const lines: InvoiceLine[] = []
  const left = new Map<string, bigint>()
  for (const [meter, amount] of Object.entries(charges?.included ?? {})) if (share !== null) left.set(meter, ceiled(BigInt(amount) * BigInt(share.days), BigInt(share.ofDays)))
  for (const group of [...groups].sort(dearestFirst)) {
    const { version, models, price, picos, byPeriod } = group
    const place = { plan, version, model: models, price }
    const free = least(left.get(price) ?? 0n, group.quantity)
    if (free > 0n) {
      left.set(price, (left.get(price) ?? 0n) - free)
      const days = share === null ? null : [share.days, share.ofDays] as const
      lines.push(line('included', { ...place, quantity: -free, picos, days, amount: rounded(-free * BigInt(picos), 1_000n) }))
    }
    if (byPeriod === null) continue
    const paid = group.quantity - free
    const amount = rounded(periodCharge(byPeriod, paid) - paid * BigInt(picos), 1_000n)
    if (amount !== 0n) lines.push(line('prices', { ...place, quantity: paid, by: byPeriod.kind, amount }))
  }
  return lines
}

function dearestFirst(one: Group, other: Group): number {
  return other.picos - one.picos || compare(one.version ?? '', other.version ?? '') || compare(one.models, other.models)
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0
}

/** What is missing to the minimum of the plan's days. */
function minimumLines(plan: string, { minimum }: PlanCharges, { days, ofDays }: PlanShare, cost: bigint): readonly InvoiceLine[] {
  if (minimum === null) return []
  const missing = rounded(BigInt(minimum) * BigInt(days), BigInt(ofDays)) - cost
  return missing > 0n ? [line('minimum', { plan, days: [days, ofDays], amount: missing })] : []
}

function feeLines(plan: string, { fees }: PlanCharges, share: PlanShare | null, { joined, yearOf }: InvoiceTerms): readonly InvoiceLine[] {
  const lines: InvoiceLine[] = []
  for (const { name, amount, every } of fees) {
    if (every === 'once') {
      for (const each of joined) if (each === plan) lines.push(line('fee', { plan, price: name, amount: BigInt(amount) }))
    } else if (every === 'year') {
      if (yearOf === plan) lines.push(line('fee', { plan, price: name, amount: BigInt(amount) }))
    } else if (share !== null) {
      const { days, ofDays } = share
      lines.push(line('fee', { plan, price: name, days: [days, ofDays], amount: rounded(BigInt(amount) * BigInt(days), BigInt(ofDays)) }))
    }
  }
  return lines
}

function line(kind: LineKind, given: Partial<InvoiceLine> & { readonly amount: bigint }): InvoiceLine {
  return { kind, plan: null, version: null, model: null, price: null, quantity: null, picos: null, by: null, calls: null, days: null, ...given }
}

function least(one: bigint, other: bigint): bigint {
  return one < other ? one : other
}

function ceiled(numerator: bigint, divisor: bigint): bigint {
  return -floored(-numerator, divisor)
}

const order: readonly LineKind[] = ['usage', 'recorded', 'rounding', 'included', 'prices', 'minimum', 'credit', 'fee']

/** Whatever the order of the events, the same lines in the same order. */
function inOrder(lines: readonly InvoiceLine[]): readonly InvoiceLine[] {
  const key = (each: InvoiceLine): string => [each.plan, String(order.indexOf(each.kind)), each.version, each.model, each.price].map((part) => part ?? '').join('\u0000')
  return lines.map((each) => [key(each), each] as const).sort(([one, a], [other, b]) => compare(one, other) || (b.picos ?? 0) - (a.picos ?? 0)).map(([, each]) => each)
}
