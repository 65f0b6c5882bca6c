import type { Plan } from '../config/config.ts'
import { eachPart, ratesFor } from '../metering/price.ts'
import { cardOf, featuresOf, quantitiesOf, textOf, type EventData } from './billed.ts'
import { moneyOf, moneyText, quantityText } from './money.ts'
import { Sum } from './sum.ts'

/** Columns of FOCUS 1.2: every mandatory one, those conditional and recommended ones that are known here, and our own, which begin with `x_`. */
export const focusColumns = [
  'BilledCost', 'BillingAccountId', 'BillingAccountName', 'BillingAccountType', 'BillingCurrency', 'BillingPeriodEnd', 'BillingPeriodStart', 'ChargeCategory', 'ChargeClass', 'ChargeDescription',
  'ChargeFrequency', 'ChargePeriodEnd', 'ChargePeriodStart', 'ConsumedQuantity', 'ConsumedUnit', 'ContractedCost', 'ContractedUnitPrice', 'EffectiveCost', 'InvoiceIssuerName', 'ListCost', 'ListUnitPrice',
  'PricingCategory', 'PricingQuantity', 'PricingUnit', 'ProviderName', 'PublisherName', 'ServiceCategory', 'ServiceName', 'ServiceSubcategory', 'SkuId', 'SkuMeter', 'SkuPriceId', 'SubAccountId',
  'SubAccountName', 'SubAccountType', 'x_Model', 'x_Plan', 'x_PriceVersion', 'x_Provider',
] as const
export type FocusColumn = (typeof focusColumns)[number]
/** Decimal texts, which may be negative. */
export const focusNumbers: ReadonlySet<FocusColumn> = new Set<FocusColumn>([
  'BilledCost', 'ConsumedQuantity', 'ContractedCost', 'ContractedUnitPrice', 'EffectiveCost', 'ListCost', 'ListUnitPrice', 'PricingQuantity',
])
/** null: FOCUS's null. */
export type FocusRow = { readonly [column in FocusColumn]: string | null }

export interface FocusTerms {
  /** Who provides, publishes and invoices. */
  readonly provider: string
  /** Of charge periods, ms; they begin at whole ones, UTC. */
  readonly periodMs: number
  readonly plans: ReadonlyMap<string, Plan>
  /** In which an account's instant lies. */
  billingPeriod(account: string, atMs: number): { readonly startMs: number; readonly endMs: number }
}

interface Charge {
  readonly account: string
  readonly key: string | null
  readonly plan: string | null
  readonly version: string | null
  readonly provider: string | null
  readonly model: string | null
  readonly currency: string
  /** Digits of the money. */
  readonly scale: number
  readonly periodMs: number
  readonly billing: { readonly startMs: number; readonly endMs: number }
  /** A meter or a feature; null: what events were rounded up by, or cost otherwise. */
  readonly counted: string | null
  readonly price: string
  /** Per small unit; null: not known any more. */
  readonly picos: number | null
  readonly quantity: Sum
  /** 10⁻³ of the money's last digit. */
  readonly cost: Sum
}

/**
 * Rated usage as rows of FOCUS: one for each charge period, account, key, model, meter and price. Σ of the rows = Σ of the events' costs, to the last digit: what events were rounded up by
 * has rows of its own. Memory grows with rows, not with events. Each event once: a second delivery has to be left out before.
 */
export class FocusSheet {
  readonly #terms: FocusTerms
  readonly #charges = new Map<string, Charge>()
  /** Counted in. */
  events = 0
  /** Without a price: they cost nothing, and have no row. */
  unpriced = 0

  constructor(terms: FocusTerms) {
    this.#terms = terms
  }

  get size(): number {
    return this.#charges.size
  }

  add(data: EventData, admittedMs: number): void {
    const text = textOf(data, 'cost')
    const cost = text === null ? null : moneyOf(text)
    const currency = textOf(data, 'currency')
    if (cost === null || currency === null) {
      this.unpriced += 1
      return
    }
    this.events += 1
    const account = textOf(data, 'account') ?? ''
    const head = {
      account, key: textOf(data, 'key'), plan: textOf(data, 'plan'), version: textOf(data, 'price_version'), provider: textOf(data, 'provider'), model: textOf(data, 'model'), currency, scale: cost.scale,
      periodMs: admittedMs - (admittedMs % this.#terms.periodMs), billing: this.#terms.billingPeriod(account, admittedMs),
    }
    const rates = ratesFor(cardOf(this.#terms.plans, head.plan, head.version), head.model)
    const quantities = quantitiesOf(data)
    let left = BigInt(cost.amount) * 1_000n
    const take = (counted: string, price: string, quantity: number, picos: number): void => {
      const amount = BigInt(quantity) * BigInt(picos)
      left -= amount
      this.#charge({ ...head, counted, price, picos }, quantity, amount)
    }
    if (rates === null) {
      // The prices are gone, what was paid is not: it is told by the call.
      this.#charge({ ...head, counted: 'requests', price: 'requests', picos: null }, quantities.requests ?? 0, left)
      return
    }
    eachPart(quantities, rates, take, data['corrects'] !== undefined)
    for (const feature of featuresOf(data)) {
      const picos = rates.features?.[feature]
      if (picos !== undefined && (quantities.requests ?? 0) !== 0) take(feature, feature, quantities.requests ?? 0, picos)
    }
    if (left !== 0n) this.#charge({ ...head, counted: null, price: '', picos: null }, 0, left)
  }

  /** By time, account, key and model. */
  rows(): FocusRow[] {
    return [...this.#charges].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, charge]) => this.#row(charge))
  }

  #charge(head: Omit<Charge, 'quantity' | 'cost'>, quantity: number, amount: bigint): void {
    const { periodMs, billing, account, key, model, provider, plan, version, currency, scale, counted, price, picos } = head
    const name = JSON.stringify([toSecond(periodMs), billing.startMs, account, key, model, provider, plan, version, currency, scale, counted ?? '~', price, picos])
    let charge = this.#charges.get(name)
    if (charge === undefined) this.#charges.set(name, charge = { ...head, quantity: new Sum(), cost: new Sum() })
    charge.quantity.add(quantity)
    charge.cost.add(amount)
  }

  #row(charge: Charge): FocusRow {
    const { provider, periodMs } = this.#terms
    const { account, key, model, counted, picos, scale, billing } = charge
    const usage = counted !== null
    const cost = plain(moneyText(charge.cost.value, scale + 3))
    const { unit, size } = unitOf(counted ?? '')
    const quantity = usage ? quantityText(charge.quantity.value, counted) : null
    const unitPrice = picos === null ? null : plain(moneyText(BigInt(picos) * BigInt(size), scale + 3))
    const served = model ?? 'no model'
    return {
      BilledCost: cost, EffectiveCost: cost, ContractedCost: cost, ListCost: cost,
      BillingAccountId: account, BillingAccountName: null, BillingAccountType: 'Account', BillingCurrency: charge.currency,
      BillingPeriodStart: toSecond(billing.startMs), BillingPeriodEnd: toSecond(billing.endMs), ChargePeriodStart: toSecond(charge.periodMs), ChargePeriodEnd: toSecond(charge.periodMs + periodMs),
      ChargeCategory: usage ? 'Usage' : 'Adjustment', ChargeClass: null, ChargeFrequency: 'Usage-Based',
      ChargeDescription: usage ? `${wordsOf(counted)} of ${served}` : `What calls of ${served} were rounded up by, or cost beside their price`,
      ConsumedQuantity: quantity, ConsumedUnit: usage ? unit : null, PricingQuantity: quantity, PricingUnit: usage ? unit : null, PricingCategory: usage ? 'Standard' : null,
      ContractedUnitPrice: unitPrice, ListUnitPrice: unitPrice,
      ProviderName: provider, PublisherName: provider, InvoiceIssuerName: provider,
      ServiceCategory: 'AI and Machine Learning', ServiceSubcategory: 'Generative AI', ServiceName: 'AI Inference',
      SkuId: usage ? `${served}/${counted}` : null, SkuMeter: usage ? wordsOf(counted) : null,
      SkuPriceId: usage && picos !== null ? [charge.plan, charge.version, served, charge.price, picos].join('/') : null,
      SubAccountId: key, SubAccountName: null, SubAccountType: key === null ? null : 'API key',
      x_Model: model, x_Plan: charge.plan, x_PriceVersion: charge.version, x_Provider: charge.provider,
    }
  }
}

/** As FOCUS writes units, and how many small units of ours make one. */
function unitOf(counted: string): { readonly unit: string; readonly size: number } {
  if (counted.endsWith('_tokens')) return { unit: 'Tokens', size: 1 }
  if (counted.endsWith('_seconds')) return { unit: 'Seconds', size: 1_000 }
  if (counted.startsWith('bytes_')) return { unit: 'B', size: 1 }
  return { unit: counted === 'images' ? 'Images' : 'Requests', size: 1 }
}

/** `cached_input_tokens` → `Cached Input Tokens`. */
function wordsOf(counted: string): string {
  return counted.split('_').map((word) => `${word[0]?.toUpperCase() ?? ''}${word.slice(1)}`).join(' ')
}

function toSecond(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z')
}

/** Without zeros at the end of its fraction. */
function plain(decimal: string): string {
  if (!decimal.includes('.')) return decimal
  let end = decimal.length
  while (decimal[end - 1] === '0') end -= 1
  return decimal.slice(0, decimal[end - 1] === '.' ? end - 1 : end)
}
