import { withoutZeros } from '../metering/price.ts'
import type { AddOn, Entitlements, ModelRates, Plan, PlanCharges, PriceCard, RateCard } from '../config/config.ts'
import { limitText } from '../config/describe.ts'
import { moneyText, priceText } from '../invoices/money.ts'
import { counterBase } from '../metering/limits/counter.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { METERS, meterScale, type BuiltinMeter } from '../metering/meter.ts'
import type { Side } from './revenue.ts'

/** One thing that is not as it was, in words. */
export interface Change {
  readonly kind:
    | 'plan_added' | 'plan_removed' | 'version' | 'limit_added' | 'limit_removed' | 'limit_raised' | 'limit_lowered' | 'limit_renamed' | 'limit_changed'
    | 'price_raised' | 'price_lowered' | 'price_added' | 'price_removed' | 'prices_changed' | 'charge_changed' | 'gained' | 'lost' | 'policy_changed' | 'grants_changed' | 'addition_changed'
  /** Of what: a limit's name, a model's and a meter's, an entitlement's. */
  readonly subject: string
  readonly text: string
  /** Of an amount, after against before: 50 is half as much again, −50 is half. */
  readonly percent?: number
  /** The counter is another one: what has been used does not count toward it. */
  readonly starts_at_zero?: true
}

export interface PlanDifference {
  readonly what: 'plan' | 'add_on'
  readonly name: string
  readonly changes: readonly Change[]
  /** Who is on it, on either side. */
  readonly accounts: readonly string[]
}

export interface Difference {
  readonly differences: readonly PlanDifference[]
  /** Accounts that come to another plan. */
  readonly moved: readonly { readonly account: string; readonly before: string | null; readonly after: string | null }[]
}

/** What is not the same on two sides, and whom it concerns, as far as the sides know accounts. `atMs`: by whose subscriptions accounts are on plans. */
export function diffPlans(before: Side, after: Side, atMs: number): Difference {
  const was = plansOfAccounts(before, atMs)
  const willBe = plansOfAccounts(after, atMs)
  const on = (name: string): readonly string[] => [...new Set([...was, ...willBe].filter(([, { plan }]) => plan === name).map(([account]) => account))].sort()
  const bought = (name: string): readonly string[] => [...new Set([...was, ...willBe].filter(([, { addOns }]) => addOns.includes(name)).map(([account]) => account))].sort()
  const differences: PlanDifference[] = []
  for (const name of names(before.config.plans, after.config.plans)) {
    const changes = planChanges(before.config.plans.get(name), after.config.plans.get(name))
    if (changes.length > 0) differences.push({ what: 'plan', name, changes, accounts: on(name) })
  }
  for (const name of names(before.config.addOns, after.config.addOns)) {
    const changes = addOnChanges(before.config.addOns.get(name), after.config.addOns.get(name))
    if (changes.length > 0) differences.push({ what: 'add_on', name, changes, accounts: bought(name) })
  }
  const moved = [...new Set([...was.keys(), ...willBe.keys()])].sort().flatMap((account) => {
    const [one, other] = [was.get(account)?.plan ?? null, willBe.get(account)?.plan ?? null]
    return one === other ? [] : [{ account, before: one, after: other }]
  })
  return { differences, moved }
}

function plansOfAccounts({ directory }: Side, atMs: number): ReadonlyMap<string, { readonly plan: string | null; readonly addOns: readonly string[] }> {
  const found = new Map<string, { plan: string | null; addOns: readonly string[] }>()
  for (const [id, { addOns }] of directory.accounts) {
    found.set(id, { plan: directory.actingChainOf(id, atMs).plan?.name ?? null, addOns: [...addOns, ...(directory.subscriptionOf(id)?.addOns ?? [])] })
  }
  // A key that names a plan is its own account.
  for (const { id, plan } of directory.config.keys) if (plan !== null) found.set(id, { plan, addOns: [] })
  for (const [id, { plan }] of directory.storedKeys) if (plan !== null) found.set(id, { plan, addOns: [] })
  return found
}

function names(one: ReadonlyMap<string, unknown>, other: ReadonlyMap<string, unknown>): readonly string[] {
  return [...new Set([...one.keys(), ...other.keys()])].sort()
}

function planChanges(before: Plan | undefined, after: Plan | undefined): readonly Change[] {
  if (after === undefined) return [{ kind: 'plan_removed', subject: before?.name ?? '', text: 'is gone' }]
  const currency = after.prices?.currency
  if (before === undefined) return [{ kind: 'plan_added', subject: after.name, text: 'is new' }, ...after.limits.map((limit) => added(limit, currency))]
  const changes = [
    ...limitChanges(before.limits, after.limits, currency), ...entitlementChanges(before.entitlements, after.entitlements), ...policyChanges(before, after),
    ...priceChanges(before.prices, after.prices), ...chargeChanges(before, after), ...jsonChange('grants_changed', 'grants', before.grants ?? [], after.grants ?? [], 'what is granted with it is not the same'),
  ]
  if (before.version !== after.version) return [{ kind: 'version', subject: 'version', text: `is version ${after.version}, and was ${before.version}` }, ...changes]
  if (changes.length > 0) return [{ kind: 'version', subject: 'version', text: `is still version ${after.version}: events will not tell the two apart` }, ...changes]
  return []
}

function addOnChanges(before: AddOn | undefined, after: AddOn | undefined): readonly Change[] {
  if (after === undefined) return [{ kind: 'plan_removed', subject: before?.name ?? '', text: 'is gone' }]
  if (before === undefined) return [{ kind: 'plan_added', subject: after.name, text: 'is new' }]
  const changes: Change[] = [...limitChanges(before.limits, after.limits, undefined), ...jsonChange('lost', 'entitlements', before.entitlements, after.entitlements, 'what it entitles to is not the same')]
  const key = ({ limit, meter }: AddOn['additions'][number]): string => `${limit} (${meter})`
  for (const name of new Set([...before.additions, ...after.additions].map(key))) {
    const [one, other] = [before, after].map(({ additions }) => additions.filter((each) => key(each) === name).reduce((sum, { amount }) => sum + amount, 0)) as [number, number]
    if (one !== other) changes.push({ kind: 'addition_changed', subject: name, text: `adds ${number(other)} to ${name}, and added ${number(one)}`, ...percentOf(one, other) })
  }
  return changes
}

// === Limits ===

/** What decides which counter it is, apart from whose: everything but the name and the ceiling. */
function identityOf(limit: Limit): string {
  const { forModels, forEndpoints, each, per } = limit
  const globs = (list: readonly string[] | null): string => (list === null ? '' : JSON.stringify([...new Set(list)].sort()))
  return counterBase({ limit, scope: { id: per, calendar: nobodys }, selector: `${globs(forModels)}${globs(forEndpoints)}${each ?? ''}` })
}

const nobodys = { timeZone: 'UTC', anchor: '2000-01-01' }

function limitChanges(before: readonly Limit[], after: readonly Limit[], currency: string | undefined): readonly Change[] {
  const changes: Change[] = []
  const gone = before.filter(({ name }) => !after.some((limit) => limit.name === name))
  const fresh = after.filter(({ name }) => !before.some((limit) => limit.name === name))
  for (const limit of gone) {
    const heir = fresh.find((other) => identityOf(other) === identityOf(limit))
    if (heir === undefined) changes.push({ kind: 'limit_removed', subject: limit.name, text: `the limit ${limit.name} is gone: ${limitText(limit, currency)}` })
    else changes.push({ kind: 'limit_renamed', subject: heir.name, text: `the limit ${limit.name} is called ${heir.name}; what has been used still counts` }, ...amounts(limit, heir, currency))
  }
  for (const limit of fresh) if (!gone.some((other) => identityOf(other) === identityOf(limit))) changes.push(added(limit, currency))
  for (const limit of before) {
    const other = after.find(({ name }) => name === limit.name)
    if (other === undefined) continue
    if (identityOf(limit) === identityOf(other)) changes.push(...amounts(limit, other, currency))
    else changes.push({ kind: 'limit_changed', subject: limit.name, text: `the limit ${limit.name} counts something else, and its use starts at zero: ${limitText(other, currency)}; it was: ${limitText(limit, currency)}`, starts_at_zero: true })
  }
  return changes
}

function added(limit: Limit, currency: string | undefined): Change {
  return { kind: 'limit_added', subject: limit.name, text: `there is a limit ${limit.name}: ${limitText(limit, currency)}`, starts_at_zero: true }
}

/** Of a limit whose counter stays. */
function amounts(before: Limit, after: Limit, currency: string | undefined): readonly Change[] {
  const [one, other] = [before.ceiling ?? Infinity, after.ceiling ?? Infinity]
  const changes: Change[] = []
  const rest = (limit: Limit): unknown => ({ mode: limit.mode, visible: limit.visible, overdraft: limit.overdraft, rollover: limit.rollover, prepaid: limit.prepaid, notify: limit.notify, bySubscription: limit.bySubscription, scale: meterScale(limit.meter) })
  if (one !== other) {
    const raised = other > one
    changes.push({
      kind: raised ? 'limit_raised' : 'limit_lowered', subject: after.name, ...percentOf(one, other),
      text: `the limit ${after.name} is ${raised ? 'raised' : 'lowered'} from ${amount(before)} to ${amount(after)}${percentText(one, other)}: ${limitText(after, currency)}`,
    })
  }
  if (before.mode !== after.mode) changes.push({ kind: 'limit_changed', subject: after.name, text: after.mode === 'shadow' ? `the limit ${after.name} is only watched, and refused` : `the limit ${after.name} refuses, and was only watched` })
  else if (!same(rest(before), rest(after))) changes.push({ kind: 'limit_changed', subject: after.name, text: `the limit ${after.name} is now: ${limitText(after, currency)}; it was: ${limitText(before, currency)}` })
  return changes
}

function amount({ ceiling, meter }: Limit): string {
  return ceiling === null ? 'unlimited' : number(ceiling / meterScale(meter))
}

// === What may be used, and how ===

function entitlementChanges(before: Entitlements, after: Entitlements): readonly Change[] {
  const changes: Change[] = []
  for (const [what, one, other] of [['model', before.models, after.models], ['endpoint', before.endpoints ?? stateless, after.endpoints ?? stateless], ['feature', before.features, after.features]] as const) {
    for (const each of other) if (!one.includes(each)) changes.push({ kind: 'gained', subject: each, text: `gains the ${what} ${worded(each)}` })
    for (const each of one) if (!other.includes(each)) changes.push({ kind: 'lost', subject: each, text: `loses the ${what} ${worded(each)}` })
  }
  for (const [what, one, other] of [
    ['output tokens in an answer', before.maxOutputTokens, after.maxOutputTokens], ['tokens of context', before.maxContextTokens, after.maxContextTokens],
  ] as const) {
    if (one === other) continue
    const more = (other ?? Infinity) > (one ?? Infinity)
    changes.push({
      kind: more ? 'gained' : 'lost', subject: what, ...percentOf(one ?? Infinity, other ?? Infinity),
      text: `allows ${other === null ? 'any number of' : `${number(other)}`} ${what}, and allowed ${one === null ? 'any number' : number(one)}${percentText(one ?? Infinity, other ?? Infinity)}`,
    })
  }
  if (before.priority !== after.priority) changes.push({ kind: 'policy_changed', subject: 'priority', text: `has the priority ${after.priority ?? 'none'}, and had ${before.priority ?? 'none'}` })
  return [...changes, ...jsonChange('policy_changed', 'entitlements', known(before), known(after), 'what it entitles to is not the same in another way')]
}

const stateless = ['(those without state)']

function worded(name: string): string {
  return name === '*' ? '* (every one)' : name
}

/** Whatever is not told by a sentence of its own. */
function known(entitlements: Entitlements): unknown {
  const { models: _models, endpoints: _endpoints, features: _features, maxOutputTokens: _output, maxContextTokens: _context, priority: _priority, ...rest } = entitlements
  return rest
}

function policyChanges(before: Plan, after: Plan): readonly Change[] {
  const changes: Change[] = []
  const [one, other] = [{ ...before.policy, proration: before.proration, public: before.public }, { ...after.policy, proration: after.proration, public: after.public }] as [Record<string, unknown>, Record<string, unknown>]
  for (const name of new Set([...Object.keys(one), ...Object.keys(other)])) {
    if (!same(one[name], other[name])) changes.push({ kind: 'policy_changed', subject: setting(name), text: `${setting(name)} is ${plain(other[name])}, and was ${plain(one[name])}` })
  }
  return changes
}

/** As the config names it. */
function setting(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

// === Prices ===

function priceChanges(before: RateCard | null, after: RateCard | null): readonly Change[] {
  if (same(before, after)) return []
  if (after === null) return [{ kind: 'prices_changed', subject: 'prices', text: 'has no prices any more' }]
  if (before === null) return [{ kind: 'prices_changed', subject: 'prices', text: `has prices, in ${after.currency}` }]
  const changes: Change[] = []
  if (before.currency !== after.currency || before.scale !== after.scale) changes.push({ kind: 'prices_changed', subject: 'currency', text: `is priced in ${after.currency}, and was in ${before.currency}` })
  for (const version of before.versions) {
    const other = after.versions.find((each) => each.version === version.version)
    if (other !== undefined && !same(version, other)) changes.push({ kind: 'prices_changed', subject: version.version, text: `the prices of version ${version.version} are edited: calls of that version that were recorded no longer explain themselves` })
  }
  for (const { version, fromMs } of after.versions) {
    if (!before.versions.some((each) => each.version === version)) changes.push({ kind: 'prices_changed', subject: version, text: `has prices of version ${version}${fromMs === null ? '' : `, from ${new Date(fromMs).toISOString().slice(0, 10)}`}` })
  }
  const [old, last] = [before.versions.at(-1), after.versions.at(-1)]
  if (old === undefined || last === undefined || before.currency !== after.currency || before.scale !== after.scale) return changes
  return [...changes, ...rateChanges(old, last, after)]
}

/** The last version's of each. Public prices with a markup are too many to be told one by one. */
function rateChanges(before: PriceCard, after: PriceCard, { scale }: RateCard): readonly Change[] {
  const changes: Change[] = []
  const byModel = ({ rates }: PriceCard): Map<string, ModelRates> => new Map(rates.map((each) => [each.models.join(', '), each]))
  const [old, last] = [byModel(before), byModel(after)]
  for (const model of names(old, last)) {
    const [one, other] = [old.get(model), last.get(model)]
    const meters = new Set([...Object.keys(one?.picosPer ?? {}), ...Object.keys(other?.picosPer ?? {})])
    for (const meter of meters) changes.push(...priceChange(model, meter, one?.picosPer[meter], other?.picosPer[meter], scale))
    for (const feature of new Set([...Object.keys(one?.features ?? {}), ...Object.keys(other?.features ?? {})])) changes.push(...priceChange(model, feature, one?.features?.[feature], other?.features?.[feature], scale))
    if (!same(one?.byPeriod, other?.byPeriod)) changes.push({ kind: 'prices_changed', subject: model, text: `${worded(model)}: its tiers or packages are not the same` })
    if (!same(one?.longInput, other?.longInput)) changes.push({ kind: 'prices_changed', subject: model, text: `${worded(model)}: its prices for long inputs are not the same` })
  }
  if (!same(before.base, after.base)) {
    const markup = (card: PriceCard): string => (card.markup === undefined ? 'not used' : `used with a markup of ${card.markup / 100}%`)
    changes.push({ kind: 'prices_changed', subject: 'cost_plus', text: markup(before) === markup(after) ? 'the public prices are of another edition' : `public prices are ${markup(after)}, and were ${markup(before)}` })
  }
  return changes
}

function priceChange(model: string, meter: string, one: number | undefined, other: number | undefined, scale: number): readonly Change[] {
  if (one === other) return []
  const subject = `${model} ${meter}`
  const what = `${meter} of ${worded(model)}`
  if (one === undefined) return [{ kind: 'price_added', subject, text: `${what} has a price of its own: ${priceText(other ?? 0, meter, scale)}` }]
  if (other === undefined) return [{ kind: 'price_removed', subject, text: `${what} has no price of its own any more; it was ${priceText(one, meter, scale)}` }]
  return [{ kind: other > one ? 'price_raised' : 'price_lowered', subject, ...percentOf(one, other), text: `${what} costs ${priceText(other, meter, scale)}, and cost ${priceText(one, meter, scale)}${percentText(one, other)}` }]
}

function chargeChanges(before: Plan, after: Plan): readonly Change[] {
  const none: PlanCharges = { fees: [], minimum: null, included: {} }
  const [one, other] = [before.charges ?? none, after.charges ?? none]
  const scale = after.prices?.scale ?? before.prices?.scale ?? 9
  const currency = after.prices?.currency ?? before.prices?.currency ?? ''
  const money = (nanos: number | null): string => (nanos === null ? 'none' : `${withoutZeros(moneyText(BigInt(nanos), scale))} ${currency}`)
  const changes: Change[] = []
  for (const name of new Set([...one.fees, ...other.fees].map((fee) => fee.name))) {
    const [was, is] = [one.fees.find((fee) => fee.name === name), other.fees.find((fee) => fee.name === name)]
    if (same(was, is)) continue
    const text = was === undefined ? `has a fee ${name}: ${money(is?.amount ?? 0)}` : is === undefined ? `has no fee ${name} any more; it was ${money(was.amount)}`
      : `the fee ${name} is ${money(is.amount)} (${is.every}), and was ${money(was.amount)} (${was.every})${percentText(was.amount, is.amount)}`
    changes.push({ kind: 'charge_changed', subject: name, text, ...(was === undefined || is === undefined ? {} : percentOf(was.amount, is.amount)) })
  }
  if (one.minimum !== other.minimum) changes.push({ kind: 'charge_changed', subject: 'minimum', text: `the minimum is ${money(other.minimum)}, and was ${money(one.minimum)}${percentText(one.minimum ?? NaN, other.minimum ?? NaN)}` })
  for (const meter of new Set([...Object.keys(one.included), ...Object.keys(other.included)])) {
    const [was, is] = [one.included[meter] ?? 0, other.included[meter] ?? 0]
    const unit = Object.hasOwn(METERS, meter) ? METERS[meter as BuiltinMeter].scale : 1
    if (was !== is) changes.push({ kind: 'charge_changed', subject: meter, ...percentOf(was, is), text: `${number(is / unit)} ${meter} are included, and were ${number(was / unit)}${percentText(was, is)}` })
  }
  return changes
}

// === Words ===

function jsonChange(kind: Change['kind'], subject: string, one: unknown, other: unknown, text: string): readonly Change[] {
  return same(one, other) ? [] : [{ kind, subject, text }]
}

function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

function plain(value: unknown): string {
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value)
}

function percentOf(one: number, other: number): { readonly percent?: number } {
  const percent = Math.round(1_000 * (other - one) / one) / 10
  return Number.isFinite(percent) ? { percent } : {}
}

function percentText(one: number, other: number): string {
  const { percent } = percentOf(one, other)
  return percent === undefined ? '' : ` (${percent > 0 ? '+' : ''}${number(percent)}%)`
}

function number(value: number): string {
  return value.toLocaleString('en', { maximumFractionDigits: 12 })
}
