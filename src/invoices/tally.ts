import type { ModelRates, Plan, PriceCard } from '../config/config.ts'
import type { Quantities } from '../metering/meter.ts'
import { eachPart, ratesFor } from '../metering/price.ts'
import { cardOf, featuresOf, quantitiesOf, textOf, type EventData } from './billed.ts'
import { moneyOf } from './money.ts'
import { floored, Sum } from './sum.ts'

/** Beyond so many models of one plan and version, those that share a price are one line: callers may make names up. */
const modelsMax = 10_000
const safe = Number.MAX_SAFE_INTEGER

/** What one price was charged for. */
export interface PricedUse {
  /** A meter, or a feature. */
  readonly price: string
  readonly picos: number
  readonly quantity: Sum
  calls: number
}

/** A model's use under one version of one plan's prices. */
export interface ModelUse {
  readonly model: string | null
  /** null: the prices of its version are no longer known; the events' costs still are. */
  readonly rates: ModelRates | null
  readonly uses: PricedUse[]
  calls: number
  readonly cost: Sum
}

export interface VersionUse {
  readonly version: string | null
  readonly card: PriceCard | null
  readonly models: Map<string | null, ModelUse>
  /** Of the models that are too many, by what they cost. */
  readonly others: Map<ModelRates | null, ModelUse>
}

/** All use of one plan in one currency. */
export interface PlanUse {
  readonly plan: string
  readonly currency: string
  readonly scale: number
  readonly versions: Map<string | null, VersionUse>
  /** Σ of the events' costs. */
  readonly cost: Sum
  /** What the events' costs are more than their prices say now, which happens when a version was edited. */
  readonly unexplained: Sum
  /** Of the costs, what prepaid grants had covered. */
  readonly prepaid: Sum
}

/** Counts events one at a time, in any order, in bounded memory. Each event once: a second delivery has to be left out before. */
export class Tally {
  readonly #plans: ReadonlyMap<string, Plan>
  readonly #prepaidLimitOf: (bucket: string) => string | null
  readonly uses: PlanUse[] = []
  events = 0
  corrections = 0
  /** Had no price: they cost nothing. */
  unpriced = 0
  // The event that is being added: kept here, because a million closures would cost more than the arithmetic.
  #uses: PricedUse[] = []
  #correction = false
  #picos = 0
  #bigPicos = 0n
  readonly #take = (_counted: string, price: string, quantity: number, each: number): void => {
    addUse(this.#uses, price, quantity, each, this.#correction)
    const product = quantity * each
    const sum = this.#picos + product
    if (product <= safe && product >= -safe && sum <= safe && sum >= -safe) this.#picos = sum
    else this.#bigPicos += BigInt(quantity) * BigInt(each)
  }

  /** `prepaidLimitOf`: the limit that a bucket extends, where the bucket is a grant that has been paid for. */
  constructor(plans: ReadonlyMap<string, Plan>, prepaidLimitOf: (bucket: string) => string | null) {
    this.#plans = plans
    this.#prepaidLimitOf = prepaidLimitOf
  }

  add(data: EventData): void {
    const correction = data['corrects'] !== undefined
    if (correction) this.corrections++
    else this.events++
    const text = textOf(data, 'cost')
    const cost = text === null ? null : moneyOf(text)
    if (cost === null) {
      this.unpriced++
      return
    }
    const use = this.#planUse(textOf(data, 'plan') ?? '', textOf(data, 'currency') ?? '', cost.scale)
    use.cost.add(cost.amount)
    const prepaid = prepaidPart(data['drawn'], cost.amount, this.#prepaidLimitOf)
    if (prepaid !== 0n) use.prepaid.add(prepaid)
    const model = this.#modelUse(use, textOf(data, 'price_version'), textOf(data, 'model'))
    model.cost.add(cost.amount)
    if (!correction) model.calls++
    if (model.rates !== null) use.unexplained.add(this.#addParts(model, model.rates, data, cost.amount, correction))
  }

  /** Adds the event to its prices; answers what its cost is more than they say. */
  #addParts(model: ModelUse, rates: ModelRates, data: EventData, cost: number | bigint, correction: boolean): number | bigint {
    const quantities = quantitiesOf(data)
    this.#uses = model.uses
    this.#correction = correction
    this.#picos = 0
    this.#bigPicos = 0n
    eachPart(quantities, rates, this.#take, correction)
    if (rates.features !== undefined) takeFeatures(rates.features, featuresOf(data), quantities, this.#take)
    if (this.#bigPicos === 0n && typeof cost === 'number') return unexplained(cost, this.#picos, correction)
    return bigUnexplained(BigInt(cost), this.#bigPicos + BigInt(this.#picos), correction)
  }

  #planUse(plan: string, currency: string, scale: number): PlanUse {
    // There are few, so that to look for one is less than to make a key.
    for (const use of this.uses) if (use.plan === plan && use.scale === scale && use.currency === currency) return use
    const use = { plan, currency, scale, versions: new Map(), cost: new Sum(), unexplained: new Sum(), prepaid: new Sum() }
    this.uses.push(use)
    return use
  }

  #modelUse(use: PlanUse, version: string | null, model: string | null): ModelUse {
    let ofVersion = use.versions.get(version)
    if (ofVersion === undefined) use.versions.set(version, ofVersion = { version, card: cardOf(this.#plans, use.plan, version), models: new Map(), others: new Map() })
    const known = ofVersion.models.get(model)
    if (known !== undefined) return known
    const rates = ratesFor(ofVersion.card, model)
    if (ofVersion.models.size < modelsMax) {
      const fresh: ModelUse = { model, rates, uses: [], calls: 0, cost: new Sum() }
      ofVersion.models.set(model, fresh)
      return fresh
    }
    let other = ofVersion.others.get(rates)
    if (other === undefined) ofVersion.others.set(rates, other = { model: rates?.models[0] ?? '*', rates, uses: [], calls: 0, cost: new Sum() })
    return other
  }
}

function addUse(uses: PricedUse[], price: string, quantity: number, picos: number, correction: boolean): void {
  for (const use of uses) {
    if (use.picos !== picos || use.price !== price) continue
    use.quantity.add(quantity)
    if (!correction) use.calls++
    return
  }
  const quantities = new Sum()
  quantities.add(quantity)
  uses.push({ price, picos, quantity: quantities, calls: correction ? 0 : 1 })
}

function takeFeatures(prices: { readonly [feature: string]: number }, features: readonly string[], { requests = 0 }: Quantities, take: (counted: string, price: string, quantity: number, picos: number) => void): void {
  if (requests === 0) return
  for (const feature of features) {
    const picos = prices[feature]
    if (picos !== undefined) take(feature, feature, requests, picos)
  }
}

/** A correction is the difference of two rounded costs: less than a nano beside what its parts say. */
function unexplained(cost: number, picos: number, correction: boolean): number {
  const rest = picos % 1000
  const floor = (picos - rest) / 1000 - (rest < 0 ? 1 : 0)
  const up = rest === 0 ? floor : floor + 1
  return cost === up || (correction && cost === floor) ? 0 : cost - up
}

function bigUnexplained(cost: bigint, picos: bigint, correction: boolean): bigint {
  const floor = floored(picos, 1_000n)
  const up = floor * 1_000n === picos ? floor : floor + 1n
  return cost === up || (correction && cost === floor) ? 0n : cost - up
}

/**
 * What of a cost had been paid before: of each prepaid limit, the part that its grants were drawn, of all that it was drawn. Rounded down, and never more than
 * the cost.
 */
function prepaidPart(drawn: unknown, cost: number | bigint, limitOf: (bucket: string) => string | null): bigint {
  if (!Array.isArray(drawn) || drawn.length === 0) return 0n
  let granted: Map<string, number> | undefined
  for (const { bucket, amount } of drawn as readonly { readonly bucket: string; readonly amount: number }[]) {
    const limit = limitOf(bucket)
    if (limit === null) continue
    granted ??= new Map()
    granted.set(limit, (granted.get(limit) ?? 0) + amount)
  }
  if (granted === undefined) return 0n
  const whole = BigInt(cost)
  let part = 0n
  for (const [limit, amount] of granted) {
    let all = amount
    for (const each of drawn as readonly { readonly bucket: string; readonly amount: number }[]) if (each.bucket === limit || each.bucket === `${limit}.overdraft`) all += each.amount
    if (all !== 0) part += whole * BigInt(amount) / BigInt(all)
  }
  // A correction takes back what it has in the same proportion.
  const least = whole < 0n ? whole : 0n
  const most = whole < 0n ? 0n : whole
  return part < least ? least : part > most ? most : part
}
