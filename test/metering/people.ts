import type { Principal } from '../../src/accounts/principal.ts'
import type { Account, Entitlements, ModelRates, Plan, Policy, RateCard } from '../../src/config/config.ts'
import type { Limit, Overdraft, Window } from '../../src/metering/limits/limit.ts'
import { METERS, type BuiltinMeter, type Meter } from '../../src/metering/meter.ts'
import { amount } from './table.ts'

/** Plans, accounts and limits for tests, from the short words that the tables use. */

export const policy: Policy = {
  reserve: 'worst_case', outputDefault: 4096, onInsufficient: 'clamp', clampFloor: 1024, onDisconnect: 'cancel', countFailed: false,
  storeDown: { kind: 'deny' }, waitMs: 0, unpriced: null,
}

/** `tpm total_tokens 40k 1m`, then any of: `shadow`, `hidden`, `per:key`, `each:model`, `for:gpt-*,llama`, `at:chat.*`, `overdraft:10%`. */
export function limitOf(text: string): Limit {
  const [name = '', meter = '', ceiling = '', window = '', ...words] = text.split(/\s+/)
  const word = (prefix: string): string | undefined => words.find((one) => one.startsWith(`${prefix}:`))?.slice(prefix.length + 1)
  const builtin = meterOf(meter)
  const scale = builtin.kind === 'builtin' && !ceiling.endsWith('$') ? METERS[builtin.name].scale : 1
  const most = amount(ceiling)
  return {
    name, meter: builtin, ceiling: most === null ? null : most * scale, window: windowOf(window),
    per: (word('per') ?? 'account') as Limit['per'], each: word('each') === 'model' ? 'model' : null,
    forModels: word('for')?.split(',') ?? null, forEndpoints: word('at')?.split(',') ?? null,
    mode: words.includes('shadow') ? 'shadow' : 'enforce', visible: !words.includes('hidden'), overdraft: overdraftOf(word('overdraft')),
  }
}

function meterOf(text: string): Meter {
  if (text in METERS) return { kind: 'builtin', name: text as BuiltinMeter }
  // weighted:input_tokens*1+output_tokens*4
  const [name = '', terms = ''] = text.split(':')
  return {
    kind: 'weighted',
    weighted: { name, scale: 1, terms: terms.split('+').map((term) => ({ meter: term.split('*')[0] as BuiltinMeter, coefficient: Number(term.split('*')[1]) })) },
  }
}

const unitMs: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

export function windowOf(text: string): Window {
  if (text === 'billing_period' || text === 'term' || text === 'lifetime' || text === 'in_flight') return { kind: text }
  if (text === 'minute' || text === 'hour' || text === 'day' || text === 'week' || text === 'month') return { kind: 'calendar', unit: text }
  const match = /^(fixed:)?(\d+)(ms|s|m|h|d)$/.exec(text)
  if (match === null) throw new Error(`not a window: ${text}`)
  return { kind: match[1] === undefined ? 'sliding' : 'fixed', ms: Number(match[2]) * (unitMs[match[3]!] ?? 0) }
}

function overdraftOf(text: string | undefined): Overdraft {
  if (text === undefined) return { kind: 'none' }
  if (text === 'unlimited') return { kind: 'unlimited' }
  return text.endsWith('%') ? { kind: 'percentage', percent: Number(text.slice(0, -1)) } : { kind: 'absolute', amount: amount(text) ?? 0 }
}

export function planOf(name: string, limits: readonly Limit[], more: Partial<Omit<Plan, 'entitlements'>> & { entitlements?: Partial<Entitlements> } = {}): Plan {
  return {
    name, version: 1, public: false, limits, policy, proration: 'none', prices: null, charges: null, ...more,
    entitlements: { models: ['*'], endpoints: null, maxOutputTokens: null, maxContextTokens: null, priority: null, features: [], ...more.entitlements },
  }
}

export function accountOf(id: string, more: Partial<Account> = {}): Account {
  return { id, plan: null, parent: null, calendar: { timeZone: 'UTC', anchor: '2026-01-01' }, limits: [], entitlements: {}, labels: {}, suspended: false, subscription: null, addOns: [], planHistory: [], where: 'tallygate.yaml:1', ...more }
}

export function principalOf(plan: Plan, chain: readonly Account[], more: Partial<Principal> = {}): Principal {
  return {
    keyId: 'acme-dev', account: chain[0]!, chain, home: chain.at(-1)!.id, plan, keyLimits: [], keyEntitlements: {}, labels: {}, endUserFrom: null, ...more,
  }
}

/** A card that has always been in force. */
export function cardOf(rates: readonly ModelRates[], { currency = 'USD', version = '1' } = {}): RateCard {
  return { name: null, currency, scale: 9, versions: [{ fromMs: null, version, rates }] }
}
