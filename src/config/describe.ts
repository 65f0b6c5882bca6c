import type { Limit, Rollover, Window } from '../metering/limits/limit.ts'
import { METERS, meterName, meterScale } from '../metering/meter.ts'
import type { BuiltinMeter } from '../metering/meter.ts'
import type { GrantTerms } from '../metering/recurring-grant.ts'
import { sinkKind } from '../sinks/index.ts'
import type { Config, Plan, PlanCharges, RateCard, SinkConfig } from './config.ts'
import { withoutPassword } from './redis-url.ts'
import { words } from './schema.ts'
import { toYaml } from './yaml.ts'

/** One plan, said in words: one sentence for people who check what they sell. */
export interface PlanWords {
  readonly plan: string
  /** `free: at most 20 requests in any minute; …` */
  readonly sentence: string
}

export function describe(config: Config): readonly PlanWords[] {
  return [...config.plans.values()].map((plan) => ({ plan: plan.name, sentence: `${plan.name}: ${limitsText(plan.limits, plan.prices?.currency)}. ${termsText(plan)}` }))
}

/** Several limits, said in one line. */
export function limitsText(limits: readonly Limit[], currency?: string): string {
  return limits.length === 0 ? 'no limits' : limits.map((limit) => limitText(limit, currency)).join('; ')
}

/** `at most 20 requests in any minute`. */
export function limitText(limit: Limit, currency = 'units of money'): string {
  const prepaid = limit.prepaid === true && limit.ceiling === 0
  const much = prepaid ? 'what is prepaid of' : limit.bySubscription === true ? 'as many as the subscription has' : limit.ceiling === null ? 'any number of' : limit.ceiling === 0 ? 'no' : `at most ${number(limit.ceiling / meterScale(limit.meter))}`
  const parts = [`${much} ${thing(limit, currency)}${prepaid && limit.window.kind === 'lifetime' ? '' : windowText(limit.window)}`]
  if (limit.rollover !== undefined) parts.push(rolloverText(limit, limit.rollover))
  const overdraft = limit.overdraft
  if (overdraft.kind === 'percentage') parts.push(`and ${overdraft.percent}% over`)
  if (overdraft.kind === 'absolute') parts.push(`and ${number(overdraft.amount / meterScale(limit.meter))} over`)
  if (overdraft.kind === 'unlimited') parts.push('and any number over')
  if (limit.window.kind === 'in_flight' && limit.window.seats !== undefined) parts.push(`for ${limit.window.seats.holder === 'key' ? 'keys' : 'end users'}, kept for ${lengthText(limit.window.seats.lingerMs)} after a call`)
  if (limit.each === 'model') parts.push('for each model')
  if (limit.forModels !== null) parts.push(`of ${limit.forModels.join(', ')}`)
  if (limit.forEndpoints !== null) parts.push(`on ${limit.forEndpoints.join(', ')}`)
  if (limit.per !== 'account') parts.push(limit.per === 'key' ? 'per key' : 'per end user')
  const notes = [limit.mode === 'shadow' ? 'only watched, never refused' : '', limit.visible ? '' : 'not shown to callers'].filter((note) => note !== '')
  return `${parts.join(' ')}${notes.length === 0 ? '' : ` (${notes.join(', ')})`}`
}

/** `(up to 50% of what is left goes on for 1 period)`. */
function rolloverText({ meter }: Limit, { max, lasts }: Rollover): string {
  const most = max.kind === 'percentage' ? `${max.percent}% of it` : number(max.amount / meterScale(meter))
  const time = lasts === null ? 'until it is used' : lasts.kind === 'time' ? `for ${words(lasts.ms)}` : `for ${lasts.count} ${lasts.count === 1 ? 'period' : 'periods'} more`
  return `(what is left, ${most} at most, goes on ${time})`
}

const things: Readonly<Record<string, string>> = {
  input_tokens: 'input tokens', cached_input_tokens: 'cached input tokens', cache_write_tokens: 'cache-write tokens', output_tokens: 'output tokens',
  reasoning_tokens: 'reasoning tokens', total_tokens: 'tokens', compute_seconds: 'seconds of compute', bytes_in: 'bytes in', bytes_out: 'bytes out',
  audio_seconds: 'seconds of audio', concurrency: 'calls at once', seats: 'seats',
}

function thing(limit: Limit, currency: string): string {
  const name = meterName(limit.meter)
  if (limit.meter.kind === 'weighted') return name
  if (name === 'cost') return currency
  const many = things[name] ?? name
  return limit.ceiling === meterScale(limit.meter) ? many.replace(/s\b/, '') : many
}

const calendar = { minute: 'in a calendar minute', hour: 'in a calendar hour', day: 'a day', week: 'a week', month: 'a calendar month' } as const

function windowText(window: Window): string {
  switch (window.kind) {
    case 'sliding': return ` in any ${lengthText(window.ms)}`
    case 'fixed': return ` in every ${lengthText(window.ms)} of the clock`
    case 'calendar': return ` ${calendar[window.unit]}`
    case 'billing_period': return ' in a billing period'
    case 'term': return ' in a term of the subscription'
    case 'lifetime': return ' for ever'
    case 'in_flight': return ''
  }
}

const units = { d: 'day', h: 'hour', m: 'minute', s: 'second', ms: 'millisecond' } as const

function lengthText(ms: number): string {
  const [, count = '', unit = 'ms'] = /^(\d+)(\w+)$/.exec(words(ms)) ?? []
  const noun = units[unit as keyof typeof units]
  return count === '1' ? noun : `${count} ${noun}s`
}

function number(value: number): string {
  return value.toLocaleString('en', { maximumFractionDigits: 12 })
}

function priceTexts(prices: RateCard, charges: PlanCharges | null): readonly string[] {
  const money = (amount: number): string => `${number(amount / 10 ** prices.scale)} ${prices.currency}`
  const versions = prices.versions.map(({ version, fromMs }) => (fromMs === null ? version : `${version} from ${new Date(fromMs).toISOString().slice(0, 10)}`))
  const texts = [`Prices in ${prices.currency} of ${versions.join(', then ')}`]
  if (charges === null) return texts
  for (const { name, amount, every } of charges.fees) texts.push(`${name} ${money(amount)} ${every === 'once' ? 'once' : every === 'year' ? 'a year' : 'a billing period'}`)
  const included = Object.entries(charges.included).map(([meter, amount]) => `${number(amount / METERS[meter as BuiltinMeter].scale)} ${things[meter] ?? meter}`)
  if (included.length > 0) texts.push(`Included in a billing period: ${included.join(', ')}`)
  if (charges.minimum !== null) texts.push(`Usage of at least ${money(charges.minimum)} a billing period`)
  return texts
}

function grantText({ limit, meter, amount, every, lastsMs }: GrantTerms, plan: Plan): string {
  const counted = plan.limits.find((each) => each.name === limit && meterName(each.meter) === meter)
  const much = counted === undefined ? limit : `${number(amount / meterScale(counted.meter))} for ${limit}`
  return every === null ? `${much} once` : `${much} every ${every.replace('_', ' ')}${lastsMs === null ? '' : `, for ${words(lastsMs)}`}`
}

function termsText(plan: Plan): string {
  const { entitlements, policy, prices } = plan
  const sentences = [
    entitlements.models.includes('*') ? 'Every model' : entitlements.models.length === 0 ? 'No model' : `Models: ${entitlements.models.join(', ')}`,
  ]
  if (plan.grants !== undefined && plan.grants.length > 0) sentences.push(`Given beside the limits: ${plan.grants.map((grant) => grantText(grant, plan)).join('; ')}`)
  if (entitlements.endpoints !== null) sentences.push(`Endpoints: ${entitlements.endpoints.join(', ') || 'none'}`)
  if (entitlements.maxOutputTokens !== null) sentences.push(`Answers of ${number(entitlements.maxOutputTokens)} tokens at most`)
  if (entitlements.maxContextTokens !== null) sentences.push(`Contexts of ${number(entitlements.maxContextTokens)} tokens at most`)
  if (entitlements.priority !== null) sentences.push(`Priority ${entitlements.priority}`)
  if (entitlements.features.length > 0) sentences.push(`With ${entitlements.features.join(', ')}`)
  const denied = (entitlements.deniedFeatures ?? []).filter((feature) => !entitlements.features.includes(feature))
  if (denied.length > 0) sentences.push(`Without ${denied.join(', ')}`)
  if (policy.onInsufficient === 'refuse') sentences.push('Never shortens an answer to what is left')
  if (policy.reserve === 'slices') sentences.push('Holds what a stream may use in slices')
  if (policy.countFailed) sentences.push('Failed calls count')
  if (policy.waitMs > 0) sentences.push(`Waits ${words(policy.waitMs)} for capacity`)
  if (policy.storeDown.kind === 'allow') sentences.push('Lets every call through while the store is away')
  if (policy.storeDown.kind === 'allow_up_to') sentences.push(`Lets ${number(policy.storeDown.amount)} of each limit through while the store is away`)
  if (plan.proration === 'by_day') sentences.push('A change to it within a period counts by days')
  if (prices !== null) sentences.push(...priceTexts(prices, plan.charges))
  return `${sentences.join('. ')}.`
}

/** The whole configuration with every default, as YAML; credentials, hashes and passwords are hidden. */
export function printConfig(config: Config): string {
  return toYaml(plain({
    ...config,
    admin: { ...config.admin, tokens: config.admin.tokens.map((token) => ({ ...token, hash: hidden })) },
    store: config.store.kind === 'redis' ? { ...config.store, url: withoutPassword(config.store.url) } : config.store,
    upstreams: new Map([...config.upstreams].map(([name, upstream]) => [name, { ...upstream, credential: upstream.credential === null ? null : hidden }])),
    keys: config.keys.map((key) => ({ ...key, hash: hidden })),
    ...(config.telemetry === undefined ? {} : { telemetry: { ...config.telemetry, headers: Object.fromEntries(Object.keys(config.telemetry.headers).map((name) => [name, hidden])) } }),
    notifications: config.notifications === null ? null : {
      ...config.notifications, webhooks: config.notifications.webhooks.map((webhook) => ({
        ...webhook, url: `${new URL(webhook.url).origin}/${hidden}`, secrets: webhook.secrets.map(() => hidden), headers: Object.fromEntries(Object.keys(webhook.headers).map((name) => [name, hidden])),
      })),
    },
    sinks: config.sinks.map((sink) => ({ ...sink, settings: withoutSecrets(sink) })),
  }))
}

const hidden = '(hidden)'

/** An address may carry a token in its path or query. */
function withoutSecrets({ type, settings }: SinkConfig): Readonly<Record<string, unknown>> {
  const { settings: fields } = sinkKind(type)
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => {
    const is = Object.hasOwn(fields, name) ? fields[name]?.is : undefined
    if (value === null || value === undefined) return [name, value]
    return [name, is === 'secret' || is === 'secrets' || is === 'map' ? hidden : is === 'url' ? URL.parse(String(value))?.origin ?? hidden : value]
  }))
}

function plain(value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([name, each]) => [String(name), plain(each)]))
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]))
}
