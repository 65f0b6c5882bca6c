import { METERS } from '../metering/meter.ts'
import { dearestUnit } from '../metering/period-price.ts'
import type { Fee, ModelRates, PeriodPrice, Plan, PlanCharges, PriceCard, PriceTier, RateCard, UnitPrices } from './config.ts'
import type { Path, Report } from './problem.ts'
import { listed, pathOf, shown } from './problem.ts'
import { publicPrices } from './public-prices.ts'
import type { PublicPrices } from './public-prices.ts'
import type { Answer } from './scalars.ts'
import { decimalOf, percentOf, priceOf, scaled } from './scalars.ts'
import { FEATURES, PRICED } from './schema.ts'
import type { Priced, RawPeriodPrice, RawPlan, RawPriceCard, RawRates, RawTier } from './schema.ts'
import { refuseQuoted } from './shape.ts'
import type { MapNode, Node, ScalarNode } from './yaml.ts'

/** Rate cards and what plans cost beside their calls: from what is written to integers, every mistake said. */

/** Something that stands at a place of the file. */
interface Placed { readonly node: MapNode; readonly trail: Path | null }

/** Digits after the point in which money is counted. */
export const defaultMoneyScale = 9
const largest = BigInt(Number.MAX_SAFE_INTEGER)

/** The versions of one card, by date. `name`: null where it is written in its plan. */
export function rateCardOf(name: string | null, raws: readonly RawPriceCard[], report: Report): RateCard {
  const [first] = raws
  const currency = first?.currency ?? ''
  const scale = first?.scale ?? defaultMoneyScale
  const versions: PriceCard[] = []
  for (const raw of raws) {
    if (raw.currency !== currency) wrong(raw, 'currency', `is not ${currency}, the currency of the card's first version; money of two kinds cannot be counted together`, report)
    const before = versions.at(-1)
    if (before !== undefined && raw.from === null) report.problem(raw.node, raw.trail, 'from is missing: each version but the first has to say when it begins')
    else if (before !== undefined && raw.from !== null && raw.from <= (before.fromMs ?? -Infinity)) wrong(raw, 'from', 'is not after the version before it; versions stand in order', report)
    // Expanded by dates of the public data, a version may have become several.
    if (versions.some(({ version }) => version === raw.version || version.startsWith(`${raw.version}+`))) wrong(raw, 'version', `there are two versions ${raw.version} of this card`, report)
    const next = raws[raws.indexOf(raw) + 1]?.from ?? null
    versions.push(...versionsOf(raw, scale, next, report))
  }
  return { name, currency, scale, versions }
}

/** One as it is written; several where public prices change while it is in force. */
function versionsOf(raw: RawPriceCard, scale: number, untilMs: number | null, report: Report): readonly PriceCard[] {
  const rates = ownRates(raw, scale, report)
  const own: PriceCard = { fromMs: raw.from, version: raw.version, rates }
  if (raw.cost_plus === null) {
    if (raw.models === null) report.problem(raw.node, raw.trail, 'models is missing; give models or cost_plus')
    return [own]
  }
  const cost = raw.cost_plus
  if (raw.currency !== 'USD') wrong(raw, 'currency', `is ${raw.currency}, and public prices are in USD`, report)
  if (scale !== defaultMoneyScale) wrong(raw, 'scale', 'is too coarse for public prices, which are in USD', report)
  if (rates.some(({ models }) => models.includes('*'))) wrong(raw, 'cost_plus', 'would never be asked, because models has a price for "*"', report)
  const markup = percentOf(cost.markup.text)
  if ('problem' in markup) {
    report.problem(cost.markup, pathOf(cost.trail, 'markup'), cost.markup.substituted ? 'what is substituted here has to be a percentage, and is not' : markup.problem)
    return [own]
  }
  const hundredths = Math.round(markup.value * 100)
  const found = publicPrices(cost.providers, hundredths, raw.from, untilMs)
  if ('unknown' in found) {
    wrong(cost, 'providers', `${shown(found.unknown)} is no provider of the public price data; some of them: ${listed(found.known)}`, report)
    return [own]
  }
  return found.map((each: PublicPrices): PriceCard => ({
    fromMs: each.fromMs, version: `${raw.version}+${each.version}`, rates, base: each.rates, markup: hundredths,
  }))
}

function ownRates(raw: RawPriceCard, scale: number, report: Report): readonly ModelRates[] {
  if (raw.models === null) return []
  const at = raw.node.entries.get('models')?.value ?? raw.node
  if (at.kind === 'map' && at.entries.size === 0) report.problem(at, pathOf(raw.trail, 'models'), 'prices no model; "*" stands for every one')
  return [...raw.models].map(([pattern, rates]) => ratesOf(pattern, rates, scale, report))
}

function ratesOf(pattern: string, raw: RawRates, scale: number, report: Report): ModelRates {
  const picosPer: { [meter: string]: number } = {}
  const byPeriod: { [meter: string]: PeriodPrice } = {}
  for (const meter of PRICED) {
    const price = raw[meter]
    if (price === null) continue
    if ('text' in price) {
      const picos = unitPrice(price, meter, scale, pathOf(raw.trail, meter), report)
      if (picos !== undefined) picosPer[meter] = picos
      continue
    }
    const period = periodPriceOf(price, meter, scale, report)
    if (period === undefined) continue
    byPeriod[meter] = period
    picosPer[meter] = dearestUnit(period)
  }
  checkDouble(picosPer, raw, report)
  const features: { [feature: string]: number } = {}
  for (const feature of FEATURES) {
    const price = raw[feature]
    if (price === null) continue
    const picos = told(priceOf(price.text, 1, scale), price, pathOf(raw.trail, feature), 'a price', report)
    if (picos !== undefined) features[feature] = picos
  }
  const longInput = longInputOf(raw, picosPer, scale, report)
  if (longInput.length > 0 && Object.keys(byPeriod).length > 0) wrong(raw, 'long_input', 'cannot stand beside prices by tier or package: which of its tokens would count toward them?', report)
  return {
    models: [pattern], picosPer,
    ...(Object.keys(byPeriod).length === 0 ? {} : { byPeriod }), ...(longInput.length === 0 ? {} : { longInput }), ...(Object.keys(features).length === 0 ? {} : { features }),
  }
}

function checkDouble(picosPer: UnitPrices, raw: Placed, report: Report): void {
  const has = (meter: string): boolean => picosPer[meter] !== undefined
  if (has('total_tokens') && (has('input_tokens') || has('output_tokens'))) wrong(raw, 'total_tokens', 'is input and output together, which have prices of their own here: tokens would be charged twice', report)
}

function longInputOf(raw: RawRates, picosPer: UnitPrices, scale: number, report: Report): readonly { readonly over: number; readonly picosPer: UnitPrices }[] {
  const found: { over: number; picosPer: UnitPrices }[] = []
  for (const each of raw.long_input ?? []) {
    const own: { [meter: string]: number } = {}
    for (const meter of PRICED) {
      const node = each[meter]
      if (node === null) continue
      const picos = unitPrice(node, meter, scale, pathOf(each.trail, meter), report)
      if (picos !== undefined) own[meter] = picos
    }
    const over = amountOf(each.over, 'input_tokens', pathOf(each.trail, 'over'), report)
    if (over === undefined) continue
    if (over === null) wrong(each, 'over', 'has to be a number', report)
    else if (over <= (found.at(-1)?.over ?? -1)) wrong(each, 'over', 'is not more than the one before it; they stand in order', report)
    else {
      const all = { ...found.at(-1)?.picosPer ?? picosPer, ...own }
      checkDouble(all, each, report)
      found.push({ over, picosPer: all })
    }
  }
  return found
}

function periodPriceOf(raw: RawPeriodPrice, meter: Priced, scale: number, report: Report): PeriodPrice | undefined {
  const given = (['graduated', 'volume', 'package'] as const).filter((kind) => raw[kind] !== null)
  if (given.length !== 1) {
    report.problem(raw.node, raw.trail, given.length === 0 ? 'has no price; give graduated, volume or package' : `has ${listed(given)}; only one of them can be its price`)
    return undefined
  }
  if (raw.package !== null) {
    const { package: each } = raw
    const size = amountOf(each.size, meter, pathOf(each.trail, 'size'), report)
    const nanos = moneyOf(each.price, scale, pathOf(each.trail, 'price'), report)
    if (size === null || size === 0) wrong(each, 'size', 'has to be a number above 0', report)
    return size === undefined || size === null || size === 0 || nanos === undefined ? undefined : { kind: 'package', size, nanos }
  }
  const kind = raw.graduated !== null ? 'graduated' : 'volume'
  const tiers = tiersOf(raw.graduated ?? raw.volume ?? [], meter, scale, report)
  return tiers === undefined ? undefined : { kind, tiers }
}

function tiersOf(raws: readonly RawTier[], meter: Priced, scale: number, report: Report): readonly PriceTier[] | undefined {
  const tiers: PriceTier[] = []
  for (const [index, raw] of raws.entries()) {
    const picos = unitPrice(raw.price, meter, scale, pathOf(raw.trail, 'price'), report)
    const upTo = raw.up_to === null ? null : amountOf(raw.up_to, meter, pathOf(raw.trail, 'up_to'), report)
    if (picos === undefined || upTo === undefined) return undefined
    const last = index === raws.length - 1
    if (last && upTo !== null) wrong(raw, 'up_to', 'ends the last tier: what would units beyond it cost? leave it out', report)
    else if (!last && upTo === null) report.problem(raw.node, raw.trail, 'up_to is missing: only the last tier goes on without end')
    else if (upTo !== null && upTo <= (tiers.at(-1)?.upTo ?? 0)) wrong(raw, 'up_to', 'is not more than the tier before it', report)
    else {
      tiers.push({ upTo, picos })
      continue
    }
    return undefined
  }
  return tiers
}

/** Fees, the minimum and what is included; what is not given is that of the plan that is extended. */
export function chargesOf(raw: RawPlan, card: RateCard | null, extended: Pick<Plan, 'prices' | 'charges'> | null, report: Report): PlanCharges | null {
  const base = extended?.charges ?? null
  const own = (['fees', 'minimum', 'included'] as const).filter((field) => raw[field] !== null)
  const foreign = base !== null && card !== null && extended?.prices?.currency !== card.currency
  if (foreign && own.length < 3) wrong(raw, 'prices', `are in ${card.currency}, and what the extended plan costs is in ${extended?.prices?.currency}; give fees, minimum and included of its own`, report)
  if (own.length === 0) return base
  if (card === null) {
    wrong(raw, own[0] ?? 'fees', 'needs prices: they say in which currency', report)
    return null
  }
  const fees: Fee[] = []
  for (const each of raw.fees ?? []) {
    if (fees.some(({ name }) => name === each.name)) wrong(each, 'name', `there are two fees named ${each.name}`, report)
    const amount = moneyOf(each.amount, card.scale, pathOf(each.trail, 'amount'), report)
    if (amount !== undefined) fees.push({ name: each.name, amount, every: each.every })
  }
  const minimum = raw.minimum === null ? undefined : moneyOf(raw.minimum, card.scale, pathOf(raw.trail, 'minimum'), report)
  return {
    fees: raw.fees === null ? base?.fees ?? [] : fees,
    minimum: minimum ?? base?.minimum ?? null,
    included: raw.included === null ? base?.included ?? {} : includedOf(raw, raw.included, card, report),
  }
}

function includedOf(raw: RawPlan, included: ReadonlyMap<string, ScalarNode>, card: RateCard, report: Report): UnitPrices {
  const found: { [meter: string]: number } = {}
  const at = pathOf(raw.trail, 'included')
  const priced = new Set(card.versions.flatMap(({ rates, base = [] }) => [...rates, ...base].flatMap(({ picosPer }) => Object.keys(picosPer))))
  for (const [name, node] of included) {
    const meter = PRICED.find((candidate) => candidate === name)
    if (meter === undefined) report.problem(node, pathOf(at, name), `there is no price for ${shown(name)}${report.suggestion(name, PRICED)}`)
    else if (!priced.has(meter)) report.problem(node, pathOf(at, name), `the prices have none for ${meter}, so nothing of it can be included`)
    else {
      const amount = amountOf(node, meter, pathOf(at, name), report)
      if (amount === null) report.problem(node, pathOf(at, name), 'has to be a number; what is always free needs no price')
      else if (amount !== undefined) found[meter] = amount
    }
  }
  return found
}

function unitPrice(node: ScalarNode, meter: Priced, scale: number, path: Path | null, report: Report): number | undefined {
  return told(priceOf(node.text, METERS[meter].scale, scale), node, path, 'a price', report)
}

/** In small units of the meter; null: unlimited. */
function amountOf(node: ScalarNode, meter: Priced, path: Path | null, report: Report): number | null | undefined {
  if (node.text === 'unlimited') return null
  const { scale } = METERS[meter]
  const decimal = decimalOf(node.text)
  const answer = refuseQuoted(node) ?? ('problem' in decimal ? decimal : scaled(decimal.value, BigInt(scale), node.text, `${shown(node.text)} is finer than ${meter} is counted in`))
  return told(answer, node, path, 'an amount', report)
}

function moneyOf(node: ScalarNode, scale: number, path: Path | null, report: Report): number | undefined {
  const decimal = decimalOf(node.text)
  if ('problem' in decimal) return told(decimal, node, path, 'an amount of money', report)
  const product = decimal.value.units * 10n ** BigInt(scale)
  const divisor = 10n ** BigInt(decimal.value.decimals)
  const answer: Answer<number> = product % divisor !== 0n ? { problem: `${shown(node.text)} has more than ${scale} digits after the point` }
    : product / divisor > largest ? { problem: `${shown(node.text)} is too much to count exactly` } : { value: Number(product / divisor) }
  return told(refuseQuoted(node) ?? answer, node, path, 'an amount of money', report)
}

/** The value, or the problem reported; what was put in from outside is not shown. */
function told<T>(answer: Answer<T>, node: ScalarNode, path: Path | null, wanted: string, report: Report): T | undefined {
  if ('value' in answer) return answer.value
  report.problem(node, path, node.substituted ? `what is substituted here has to be ${wanted}, and is not` : answer.problem)
  return undefined
}

function wrong(raw: Placed, field: string, sentence: string, report: Report): void {
  const node: Node = raw.node.entries.get(field)?.value ?? raw.node
  report.problem(node, pathOf(raw.trail, field), sentence)
}
