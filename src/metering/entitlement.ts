import type { Principal } from '../accounts/principal.ts'
import type { Account, Entitlements, ModelRates, Plan, Policy, PriceCard } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import { extensions } from './extension.ts'
import { longestMatch, matches, matchesAny } from './glob.ts'
import type { Grant } from './grant.ts'
import { Memo, encoded } from './limits/counter.ts'
import type { AppliedLimit, Limit, Scope } from './limits/limit.ts'
import { ratesFor, ratesOfCall, versionAt } from './price.ts'
import type { Subscription } from './subscription.ts'

/** What one call asks for. */
export interface Ask {
  /** The endpoint's name, or `METHOD /path` where no dialect knows it. */
  readonly endpoint: string
  /** Is it among the endpoints that a plan has when it names none? */
  readonly endpointByDefault: boolean
  /** Does a dialect know it? */
  readonly known: boolean
  readonly model: string | null
  readonly features: readonly string[]
  /** What it does that a plan has unless it denies it; absent: nothing, or nobody can tell. */
  readonly ordinary?: readonly string[]
  /** A trusted key's claim, already bounded in length; null: none. */
  readonly endUser: string | null
}

/** What this principal may do with this call, and what it is counted against. Shared between calls: never changed. */
export interface Entitlement {
  readonly principal: Principal
  /** As events name it: what a dialect knows by its name, any other path by the pattern that admits it, as paths hold ids; null: of no call. */
  readonly endpoint: string | null
  readonly applied: readonly AppliedLimit[]
  readonly maxOutputTokens: number | null
  readonly maxContextTokens: number | null
  /** 1 to 255, a lower one first; null: none. */
  readonly priority: number | null
  /** Those of a call with these features; null: the model has no price. */
  readonly rates: ModelRates | null
  readonly currency: string | null
  /** In how many digits after the point money is counted. */
  readonly moneyScale: number
  readonly priceVersion: string | null
  readonly policy: Policy
  /** The plan does not grant `store`: it is sent as false. */
  readonly forbidStore: boolean
}

/** Among endpoints: those that a plan has when it names none. */
export const DEFAULT_ENDPOINTS = 'default'

/** A principal's own answers, made once: they hold for every call. */
interface Rights {
  readonly plans: ReadonlyMap<string, Plan>
  readonly entitlements: Entitlements
  /** The limits of the account with the plan's and the key's, then those of its parents. */
  readonly levels: readonly Level[]
  readonly byEndUser: boolean
  readonly known: Memo<string, Entitlement>
  standing: Entitlement | null
}

interface Level {
  readonly account: Account
  /** The account's own, else that of the nearest one above it. */
  readonly subscription: Subscription | null
  readonly limits: readonly Limit[]
  /** Of those that grants extend. */
  readonly extended: ReadonlyMap<Limit, readonly Grant[]>
}

const notExtended: Level['extended'] = new Map()
const rights = new Memo<Principal, Rights>(2_048)

/**
 * The limits that apply to a call, or why it may not be made: `feature_unavailable`; `not_found` for an endpoint that neither a dialect
 * nor any plan knows. `plans` are all plans: public ones that have what is missing are named, and parents' plans are looked up. The prices are those
 * of `admittedMs`.
 */
export function resolveEntitlement(principal: Principal, ask: Ask, plans: ReadonlyMap<string, Plan>, admittedMs = Infinity): Entitlement | GatewayError {
  const own = rightsOf(principal, plans)
  const refusal = refused(principal, own.entitlements, ask, plans)
  if (refusal !== null) return refusal
  const version = versionAt(principal.plan.prices, admittedMs)
  const prices: CallPrices = { version, rates: ratesOfCall(ratesFor(version, ask.model), ask.features) }
  const unpriced = refusedUnpriced(principal, ask, prices)
  if (unpriced !== null) return unpriced
  if (own.byEndUser && ask.endUser !== null) return { ...entitlementOf(principal, own, ask.endpoint, ask.model, ask.endUser, prices), endpoint: endpointOf(own.entitlements, ask) }
  // The model comes last: it is the caller's own word, and may hold anything.
  const key = `${encoded(ask.endpoint)} ${ask.features.join()} ${version?.version ?? ''} ${ask.model === null ? '' : `=${ask.model}`}`
  const known = own.known.get(key)
  if (known !== undefined) return known
  const fresh = { ...entitlementOf(principal, own, ask.endpoint, ask.model, null, prices), endpoint: endpointOf(own.entitlements, ask) }
  own.known.set(key, fresh)
  return fresh
}

/** What a call that was made comes under, with nothing refused: for looking back. `principal` and `plans` are those of its admission, as far as they are still known. */
export function recallEntitlement(principal: Principal, { endpoint, model, features, endUser }: Pick<Ask, 'endpoint' | 'model' | 'features' | 'endUser'>, plans: ReadonlyMap<string, Plan>, admittedMs: number): Entitlement {
  const version = versionAt(principal.plan.prices, admittedMs)
  const prices: CallPrices = { version, rates: ratesOfCall(ratesFor(version, model), features) }
  return { ...entitlementOf(principal, rightsOf(principal, plans), endpoint, model, endUser, prices), endpoint }
}

/** Of whom and what the limits are that belong to one end user, or one model; null: those are left out. */
export interface StandingOf {
  readonly model: string | null
  readonly endUser: string | null
}

const ofNobody: StandingOf = { model: null, endUser: null }

/** Everything a principal is counted against that is not of one model or end user alone: what `/-/usage` shows. With `of`, what is of those too. */
export function standingEntitlement(principal: Principal, plans: ReadonlyMap<string, Plan>, of: StandingOf = ofNobody): Entitlement {
  const own = rightsOf(principal, plans)
  if (of === ofNobody && own.standing !== null) return own.standing
  const wanted = (limit: Limit): boolean => (limit.each === null || (of.model !== null && selectsName(limit.forModels, of.model))) && (limit.per !== 'end_user' || of.endUser !== null)
  const standing = { ...entitlementOf(principal, own, null, null, null, noPrices), applied: appliedLimits(principal, own.levels, wanted, of.model, of.endUser) }
  if (of === ofNobody) own.standing = standing
  return standing
}

/** Has it, or one above it, a limit of this kind? */
export function someLimit(principal: Principal, plans: ReadonlyMap<string, Plan>, is: (limit: Limit) => boolean): boolean {
  return rightsOf(principal, plans).levels.some(({ limits }) => limits.some(is))
}

/** For `/v1/models`. */
export function mayUseModel(principal: Principal, model: string): boolean {
  const { entitlements } = principal.plan
  return matchesAny(principal.keyEntitlements.models ?? principal.account.entitlements.models ?? entitlements.models, model)
}

function rightsOf(principal: Principal, plans: ReadonlyMap<string, Plan>): Rights {
  const known = rights.get(principal)
  // After a reload the plans are other ones.
  if (known !== undefined && known.plans === plans) return known
  const levels = principal.chain.map((account, index): Level => {
    const subscription = principal.chain.slice(index).find((each) => each.subscription !== null)?.subscription ?? null
    const plan = index === 0 ? principal.plan : account.plan === null ? undefined : plans.get(account.plan)
    const own = replaced(plan?.limits ?? [], account.limits)
    const limits = index === 0 ? replaced(own, principal.keyLimits) : own
    const granted = principal.grants?.get(account.id)
    return { account, subscription, limits, extended: granted === undefined ? notExtended : extensions(limits, own, granted) }
  })
  const fresh: Rights = {
    plans,
    entitlements: { ...principal.plan.entitlements, ...given(principal.account.entitlements), ...given(principal.keyEntitlements) },
    levels,
    byEndUser: levels.some((level) => level.limits.some((limit) => limit.per === 'end_user')),
    known: new Memo(16),
    standing: null,
  }
  rights.set(principal, fresh)
  return fresh
}

/** Without what is present but undefined, which would hide the plan's. */
function given(entitlements: Partial<Entitlements>): Partial<Entitlements> {
  return Object.fromEntries(Object.entries(entitlements).filter(([, value]) => value !== undefined))
}

/** The same name replaces, in place; a new name is added. */
export function replaced(limits: readonly Limit[], by: readonly Limit[]): readonly Limit[] {
  if (by.length === 0) return limits
  const kept = limits.map((limit) => by.find((other) => other.name === limit.name) ?? limit)
  return [...kept, ...by.filter((other) => !limits.some((limit) => limit.name === other.name))]
}

function refused(principal: Principal, own: Entitlements, ask: Ask, plans: ReadonlyMap<string, Plan>): GatewayError | null {
  const plan = principal.plan.name
  if (!namesEndpoint(own, ask)) {
    if (!ask.known && ![...plans.values()].some((other) => namesEndpoint(other.entitlements, ask))) return new GatewayError('not_found', 'There is no such endpoint.')
    return missing(`The endpoint '${shown(ask.endpoint)}'`, plan, plans, (other) => namesEndpoint(other, ask))
  }
  const { model } = ask
  if (model !== null && !matchesAny(own.models, model)) {
    return missing(`The model '${shown(model)}'`, plan, plans, (other) => matchesAny(other.models, model))
  }
  for (const feature of ask.features) {
    if (!own.features.includes(feature)) return missing(`The feature '${feature}'`, plan, plans, (other) => other.features.includes(feature))
  }
  for (const feature of ask.ordinary ?? []) {
    if (denies(own, feature)) return missing(`The feature '${feature}'`, plan, plans, (other) => !denies(other, feature))
  }
  return null
}

/** What is granted by name wins: so an add-on, or an account, gives back what the plan denies. */
function denies({ features, deniedFeatures }: Entitlements, feature: string): boolean {
  return deniedFeatures !== undefined && deniedFeatures.includes(feature) && !features.includes(feature)
}

/** An endpoint that no dialect knows must be named with its method: a glob for names, such as `*`, never lets it in. */
function namesEndpoint(entitlements: Entitlements, ask: Ask): boolean {
  if (entitlements.endpoints === null) return ask.known && ask.endpointByDefault
  for (const glob of entitlements.endpoints) {
    if (glob === DEFAULT_ENDPOINTS && ask.known && ask.endpointByDefault) return true
    if ((ask.known || glob.includes(' ')) && matches(glob, ask.endpoint)) return true
  }
  return false
}

function endpointOf({ endpoints }: Entitlements, ask: Ask): string {
  return ask.known ? ask.endpoint : longestMatch((endpoints ?? []).filter((glob) => glob.includes(' ')), ask.endpoint) ?? ask.endpoint
}

function missing(what: string, plan: string, plans: ReadonlyMap<string, Plan>, has: (entitlements: Entitlements) => boolean): GatewayError {
  const names = [...plans.values()].filter((other) => other.public && has(other.entitlements)).map((other) => other.name)
  const where = names.length === 0 ? '' : ` Plans that have it: ${names.join(', ')}.`
  return new GatewayError('feature_unavailable', `${what} is not part of your plan '${plan}'.${where}`)
}

/** A caller's own words in a sentence of ours: short, and without control characters. */
function shown(text: string): string {
  const short = text.length > 100 ? `${text.slice(0, 100)}…` : text
  return short.replace(/\p{Cc}/gu, ' ').toWellFormed()
}

/** The prices in force and those of the call. */
interface CallPrices {
  readonly version: PriceCard | null
  readonly rates: ModelRates | null
}
const noPrices: CallPrices = { version: null, rates: null }

/** Calls without a model that a dialect knows, such as a list of models, are nothing that could have a price. */
function refusedUnpriced({ plan }: Principal, { model, known }: Ask, { rates }: CallPrices): GatewayError | null {
  const { unpriced } = plan.policy
  if (rates !== null || plan.prices === null || (unpriced !== 'refuse' && unpriced !== 'check') || (model === null && known)) return null
  return new GatewayError('feature_unavailable', `${model === null ? 'This endpoint' : `The model '${shown(model)}'`} has no price in your plan '${plan.name}'.`)
}

function entitlementOf(principal: Principal, own: Rights, endpoint: string | null, model: string | null, endUser: string | null, called: CallPrices): Entitlement {
  const { prices, policy } = principal.plan
  const { maxOutputTokens, maxContextTokens, priority, features } = own.entitlements
  return {
    principal,
    endpoint: null,
    applied: appliedLimits(principal, own.levels, (limit) => selects(limit, endpoint, model), model, endUser),
    maxOutputTokens,
    maxContextTokens,
    priority,
    rates: called.rates,
    currency: prices?.currency ?? null,
    moneyScale: prices?.scale ?? 9,
    priceVersion: called.version?.version ?? null,
    policy,
    forbidStore: !features.includes('store'),
  }
}

function selects(limit: Limit, endpoint: string | null, model: string | null): boolean {
  return selectsName(limit.forModels, model) && selectsName(limit.forEndpoints, endpoint)
}

/** A call without a model is of no model in particular: only `*` means it too. */
function selectsName(globs: readonly string[] | null, name: string | null): boolean {
  if (globs === null) return true
  return name === null ? globs.includes('*') : matchesAny(globs, name)
}

function appliedLimits(
  principal: Principal, levels: readonly Level[], wanted: (limit: Limit) => boolean, model: string | null, endUser: string | null,
): AppliedLimit[] {
  const applied: AppliedLimit[] = []
  for (const { account, subscription, limits, extended } of levels) {
    for (const limit of limits) {
      if (!wanted(limit)) continue
      const grants = extended.get(limit)
      applied.push({ limit, scope: { ...scopeOf(limit, account, principal.keyId, endUser), subscription }, selector: selectorOf(limit, model), ...(grants === undefined ? {} : { grants }) })
    }
  }
  return applied
}

export function accountScopeId(accountId: string): string {
  return `account:${encoded(accountId)}`
}

/** End users are their key's: two keys may call different people `u1`. Calls that name none share one counter. */
function scopeOf(limit: Limit, account: Account, keyId: string, endUser: string | null): Scope {
  const { calendar } = account
  switch (limit.per) {
    case 'account': return { id: accountScopeId(account.id), calendar }
    case 'key': return { id: `key:${encoded(keyId)}`, calendar }
    case 'end_user': return { id: `end_user:${encoded(keyId)}${endUser === null ? '' : `/${encoded(endUser)}`}`, calendar }
  }
}

/** What of all calls is counted: `for` and `each`, as part of the counter's identity. The order in which globs are written means nothing. */
export function selectorOf(limit: Limit, model: string | null): string {
  const parts: string[] = []
  if (limit.forModels !== null) parts.push(`models=${globList(limit.forModels)}`)
  if (limit.forEndpoints !== null) parts.push(`endpoints=${globList(limit.forEndpoints)}`)
  if (limit.each === 'model') parts.push(model === null ? 'each' : `each=${encoded(model)}`)
  return parts.join('&')
}

function globList(globs: readonly string[]): string {
  return [...new Set(globs.map(encoded))].sort().join(',')
}
