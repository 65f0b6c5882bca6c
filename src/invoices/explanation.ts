import type { Plan } from '../config/config.ts'
import { eachPart, ratesFor } from '../metering/price.ts'
import { toInstant } from '../metering/event.ts'
import { cardOf, featuresOf, quantitiesOf, textOf, type EventData } from './billed.ts'
import { moneyOf, moneyText, priceText, quantityText } from './money.ts'

/** How the cost of one event came about. Amounts are decimal texts; parts are exact, the cost is rounded up once. */
export interface PriceExplanation {
  readonly plan: string | null
  readonly currency: string | null
  readonly price_version: string | null
  /** From when that version's prices are in force; null: always, or not known. */
  readonly in_force_from: string | null
  readonly model: string | null
  /** The patterns of the rate that was used; null: there is no price, or its version is no longer known. */
  readonly rate: readonly string[] | null
  readonly parts: readonly PricePart[]
  /** Σ of the parts; null: the prices are no longer known. */
  readonly sum: string | null
  readonly cost: string | null
  /** One sentence where something has to be known to understand the numbers; null: nothing. */
  readonly note: string | null
}

export interface PricePart {
  /** What was counted. */
  readonly counted: string
  /** Whose price it has: a part without its own has that of the whole. */
  readonly price: string
  readonly quantity: string
  readonly unit_price: string
  readonly amount: string
}

export function explainPrice(data: EventData, plans: ReadonlyMap<string, Plan>): PriceExplanation {
  const plan = textOf(data, 'plan')
  const version = textOf(data, 'price_version')
  const model = textOf(data, 'model')
  const cost = textOf(data, 'cost')
  const money = cost === null ? null : moneyOf(cost)
  const card = cardOf(plans, plan, version)
  const rates = ratesFor(card, model)
  const head = {
    plan, currency: textOf(data, 'currency'), price_version: version, model, cost,
    in_force_from: card === null || card.fromMs === null ? null : toInstant(card.fromMs),
  }
  if (money === null) return { ...head, rate: null, parts: [], sum: null, note: 'The call had no price: it cost nothing.' }
  if (rates === null) return { ...head, rate: null, parts: [], sum: null, note: 'The prices that it was settled by are no longer in the configuration.' }
  const { scale } = money
  const parts: PricePart[] = []
  let sum = 0n
  const take = (counted: string, price: string, quantity: number, picos: number): void => {
    const amount = BigInt(quantity) * BigInt(picos)
    sum += amount
    parts.push({ counted, price, quantity: quantityText(BigInt(quantity), counted), unit_price: priceText(picos, price, scale), amount: moneyText(amount, scale + 3) })
  }
  const quantities = quantitiesOf(data)
  const correction = data['corrects'] !== undefined
  eachPart(quantities, rates, take, correction)
  for (const feature of featuresOf(data)) {
    const picos = rates.features?.[feature]
    if (picos !== undefined && (quantities.requests ?? 0) !== 0) take(feature, feature, quantities.requests ?? 0, picos)
  }
  return { ...head, rate: rates.models, parts, sum: moneyText(sum, scale + 3), note: noteOf(BigInt(money.amount) * 1_000n - sum, correction, rates.byPeriod !== undefined) }
}

/** `more`: the cost less the sum of its parts, in picos. */
function noteOf(more: bigint, correction: boolean, byPeriod: boolean): string | null {
  if (correction ? more <= -1_000n || more >= 1_000n : more < 0n || more >= 1_000n) return 'The cost is not what these prices say: the version was edited after the call.'
  if (correction) return 'A correction: the difference between what was used and what had been booked.'
  return byPeriod ? 'A price by tier or package depends on the whole period: the call counts at the dearest one, and the invoice sets it right.' : null
}
