// The same invoice by another method: decimals of big.js in whole units of the currency, no integers in small units, no running sums. Every event is priced
// again from the plan's numbers; nothing is shared with the code under test but the shape of a plan.
import Big from 'big.js'
import type { ModelRates, Plan } from '../../src/config/config.ts'

Big.DP = 60

export interface SimpleEvent {
  readonly model: string
  readonly version: string
  readonly plan: string
  readonly cost: string
  readonly correction: boolean
  readonly quantities: Readonly<Record<string, number>>
  readonly features: readonly string[]
  readonly drawn: readonly { readonly bucket: string; readonly amount: number }[]
}

interface Share { readonly plan: string; readonly days: number; readonly ofDays: number }

const parts: readonly (readonly [part: string, whole: string])[] = [
  ['cached_input_tokens', 'input_tokens'], ['cache_write_tokens', 'input_tokens'], ['reasoning_tokens', 'output_tokens'],
]
const others = ['requests', 'total_tokens', 'compute_seconds', 'bytes_in', 'bytes_out', 'audio_seconds', 'images']

/** [price, quantity, price of one] of a call; the units are the small ones, the prices those of the currency. */
export function pricedParts(quantities: Readonly<Record<string, number>>, rates: ModelRates, features: readonly string[], scale: number): [string, number, Big][] {
  const unit = Big(10).pow(-(scale + 3))
  const of = (name: string): number => quantities[name] ?? 0
  const prices = [...rates.longInput ?? []].reverse().find(({ over }) => of('input_tokens') > over)?.picosPer ?? rates.picosPer
  const found: [string, number, Big][] = []
  const add = (name: string, otherwise: string, quantity: number): void => {
    const price = prices[name] !== undefined ? name : otherwise
    if (prices[price] !== undefined) found.push([price, quantity, Big(prices[price]).times(unit)])
  }
  for (const whole of ['input_tokens', 'output_tokens']) {
    const own = parts.filter(([, each]) => each === whole)
    add(whole, whole, own.reduce((left, [part]) => left - of(part), of(whole)))
    for (const [part] of own) add(part, whole, of(part))
  }
  for (const name of others) add(name, name, of(name))
  for (const feature of features) if (rates.features?.[feature] !== undefined) found.push([feature, of('requests'), Big(rates.features[feature]).times(unit)])
  return found
}

export function costOf(quantities: Readonly<Record<string, number>>, rates: ModelRates, features: readonly string[], scale: number): Big {
  const exact = pricedParts(quantities, rates, features, scale).reduce((sum, [, quantity, price]) => sum.plus(price.times(quantity)), Big(0))
  return exact.round(scale, Big.roundUp)
}

/** Half goes up, below zero too. */
function nearest(value: Big, scale: number): Big {
  const step = Big(10).pow(-scale)
  const down = value.round(scale, value.lt(0) ? Big.roundUp : Big.roundDown)
  return value.minus(down).gte(step.div(2)) ? down.plus(step) : down
}

export function totalOf(plans: readonly Plan[], shares: readonly Share[], joined: readonly string[], yearOf: string | null, events: readonly SimpleEvent[], prepaid: ReadonlyMap<string, string>): { usage: string; total: string } {
  const scale = plans[0]?.prices?.scale ?? 9
  const money = Big(10).pow(-scale)
  let usage = Big(0)
  let total = Big(0)
  for (const plan of plans) {
    const own = events.filter((event) => event.plan === plan.name)
    const cost = own.reduce((sum, event) => sum.plus(event.cost), Big(0))
    usage = usage.plus(cost)
    const mine = shares.filter((share) => share.plan === plan.name)
    const days = mine.reduce((sum, share) => sum + share.days, 0)
    const ofDays = mine[0]?.ofDays ?? 1
    let spent = cost

    const groups: { rates: ModelRates; version: string; price: string; each: Big; quantity: number }[] = []
    for (const event of own) {
      const rates = ratesIn(plan, event)
      for (const [price, quantity, each] of pricedParts(event.quantities, rates, event.features, scale)) {
        const group = groups.find((one) => one.rates === rates && one.price === price && one.each.eq(each))
        if (group === undefined) groups.push({ rates, version: event.version, price, each, quantity })
        else group.quantity += quantity
      }
    }
    groups.sort((a, b) => b.each.cmp(a.each) || (a.version < b.version ? -1 : a.version > b.version ? 1 : 0) || (a.rates.models.join(', ') < b.rates.models.join(', ') ? -1 : 1))
    for (const group of groups) {
      const allowed = mine.length === 0 ? 0 : Math.ceil((plan.charges?.included[group.price] ?? 0) * days / ofDays)
      const before = groups.slice(0, groups.indexOf(group)).filter((each) => each.price === group.price).reduce((sum, each) => sum + Math.max(0, each.quantity), 0)
      const free = Math.max(0, Math.min(group.quantity, allowed - before))
      spent = spent.plus(nearest(group.each.times(-free), scale))
      const price = group.rates.byPeriod?.[group.price]
      if (price === undefined) continue
      const paid = group.quantity - free
      const unit = Big(10).pow(-(scale + 3))
      let charge = Big(0)
      if (paid > 0 && price.kind === 'package') charge = Big(Math.ceil(paid / price.size)).times(price.nanos).times(money)
      else if (paid > 0 && price.kind === 'volume') charge = unit.times(price.tiers.find(({ upTo }) => upTo === null || paid <= upTo)!.picos).times(paid)
      else if (paid > 0 && price.kind === 'graduated') {
        // Tier by tier from above: what is beyond the tier below.
        for (let at = price.tiers.length - 1, left = paid; at >= 0; at--) {
          const below = at === 0 ? 0 : price.tiers[at - 1]!.upTo!
          const here = Math.max(0, left - below)
          charge = charge.plus(unit.times(price.tiers[at]!.picos).times(here))
          left -= here
        }
      }
      spent = spent.plus(nearest(charge.minus(group.each.times(paid)), scale))
    }

    let due = spent
    if (mine.length > 0 && plan.charges !== null && plan.charges.minimum !== null) {
      const minimum = nearest(money.times(plan.charges.minimum).times(days).div(ofDays), scale)
      if (minimum.gt(spent)) due = minimum
    }
    let paidBefore = Big(0)
    for (const event of own) {
      let part = Big(0)
      for (const limit of new Set(event.drawn.map(({ bucket }) => prepaid.get(bucket)).filter((name) => name !== undefined))) {
        const granted = event.drawn.filter(({ bucket }) => prepaid.get(bucket) === limit).reduce((sum, each) => sum + each.amount, 0)
        const all = event.drawn.filter(({ bucket }) => prepaid.get(bucket) === limit || bucket === limit || bucket === `${limit}.overdraft`).reduce((sum, each) => sum + each.amount, 0)
        if (all !== 0) part = part.plus(Big(event.cost).times(granted).div(all).round(scale, Big.roundDown))
      }
      const whole = Big(event.cost)
      if (whole.gte(0) ? part.gt(whole) : part.lt(whole)) part = whole
      if (whole.gte(0) ? part.lt(0) : part.gt(0)) part = Big(0)
      paidBefore = paidBefore.plus(part)
    }
    const credit = paidBefore.gt(spent) ? spent : paidBefore
    if (credit.gt(0)) due = due.minus(credit)
    for (const fee of plan.charges?.fees ?? []) {
      const amount = money.times(fee.amount)
      if (fee.every === 'once') due = due.plus(amount.times(joined.filter((each) => each === plan.name).length))
      else if (fee.every === 'year') due = due.plus(yearOf === plan.name ? amount : 0)
      else if (mine.length > 0) due = due.plus(nearest(amount.times(days).div(ofDays), scale))
    }
    total = total.plus(due)
  }
  return { usage: usage.toFixed(scale), total: total.toFixed(scale) }
}

export function ratesIn(plan: Plan, event: { readonly version: string; readonly model: string }): ModelRates {
  return plan.prices!.versions.find(({ version }) => version === event.version)!.rates.find(({ models }) => models.includes(event.model))!
}
