import { listAccounts, listKeys } from '../../accounts/account-overview.ts'
import type { Plan } from '../../config/config.ts'
import { toWholeSecond } from '../../metering/event.ts'
import { meterName, meterScale } from '../../metering/meter.ts'
import type { Limit, Overdraft, Window } from '../../metering/limits/limit.ts'
import { StoreUnavailable } from '../../stores/store.ts'
import { accountPage, accountSorts } from '../account-page.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Field, Route } from '../route.ts'
import { accountFields, wishesOf } from './account-wishes.ts'
import { intentFields, intentOf } from './intent.ts'

export const accountRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/accounts', shape: answers.accounts, role: 'viewer', summary: 'All accounts, keys that are their own account among them',
    query: {
      limit: { type: 'integer', about: 'how many; all unless given', minimum: 1, maximum: 500 },
      offset: { type: 'integer', about: 'so many are passed over', minimum: 0, maximum: 10_000_000 },
      search: { type: 'string', about: 'a part of the id, the plan, the parent or a label, whatever its case' },
      sort: { type: 'string', about: 'id unless given; the last four by the roll-ups of the last 30 days', values: accountSorts },
      order: { type: 'string', about: 'unless given, names from the first on and amounts from the largest', values: ['asc', 'desc'] },
      suspended: { type: 'boolean', about: 'only those that are, or are not' },
      forecast: { type: 'boolean', about: 'forecast_at of all of them too; it looks at the limits of every account, which takes a while where there are many; with limit it is always told' },
    },
    answer: 'total, offset, limit; accounts: id, plan, parent, where, revision, unused_because, keys, suspension, calendar, add-ons, state of the subscription, forecast_at: when the first of its limits will be used up at its present rate, where that is before the limit begins anew',
    handle: ({ query }, parts) => accountPage(query, parts),
  },
  {
    method: 'GET', path: '/api/v1/accounts/{id}', shape: answers.account, role: 'viewer', summary: 'One account with its keys', answer: 'the account as in the list, its labels, limits of its own and keys; standing: what is used of every limit; terms: as they were given, of one made at run time',
    handle: ({ params }, parts) => accountOf(params['id'] ?? '', parts),
  },
  {
    method: 'POST', path: '/api/v1/accounts/{id}', shape: answers.account, role: 'admin', summary: 'Make or change an account that is not in the config; what is not given stays as it is',
    answer: 'the account as GET gives it', body: accountFields,
    async handle(asked, parts) {
      const id = asked.params['id'] ?? ''
      await parts.accounts.set(id, wishesOf(asked.body), intentOf(asked))
      return accountOf(id, parts)
    },
  },
  {
    method: 'DELETE', path: '/api/v1/accounts/{id}', shape: answers.accountRemoved, role: 'admin', summary: 'Take away an account that is not in the config; its counters and events stay', answer: 'id, removed',
    query: { revision: intentFields['revision'] as Field },
    async handle({ params, query, who }, { accounts }) {
      const id = params['id'] ?? ''
      const revision = query['revision']
      return { id, removed: await accounts.remove(id, { who, revision: typeof revision === 'number' ? revision : undefined, changeId: undefined }) }
    },
  },
  {
    method: 'POST', path: '/api/v1/accounts/{id}/suspend', shape: answers.accountSuspended, role: 'admin', summary: 'Refuse every call of an account and of those under it, until resumed',
    answer: 'id, state',
    body: { reason: { type: 'string', about: 'why, for the record' } },
    async handle({ params, body, who }, { changes }) {
      const reason = body['reason']
      await changes.suspendAccount(params['id'] ?? '', typeof reason === 'string' ? reason : null, who)
      return { id: params['id'], state: 'suspended' }
    },
  },
  {
    method: 'POST', path: '/api/v1/accounts/{id}/resume', shape: answers.accountResumed, role: 'admin', summary: 'Lift a suspension',
    answer: 'id, state: active, or suspended while the config says so',
    async handle({ params, who }, { changes }) {
      const { suspendedByConfig } = await changes.resumeAccount(params['id'] ?? '', who)
      return { id: params['id'], state: suspendedByConfig ? 'suspended' : 'active', suspended_in: suspendedByConfig ? ['config'] : [] }
    },
  },
  {
    method: 'GET', path: '/api/v1/plans', shape: answers.plans, role: 'viewer', summary: 'The plans in use', answer: 'plans: name, version, public, entitlements, limits, policy, prices',
    handle: (_asked, { config }) => ({ plans: [...config().plans.values()].map(toPlanDocument) }),
  },
  {
    method: 'GET', path: '/api/v1/audit', shape: answers.audit, role: 'viewer', summary: 'Who changed what, newest first', answer: 'changes: at, who, action, target, details',
    query: {
      target: { type: 'string', about: 'only what was changed of this account, key or sink' },
      limit: { type: 'integer', about: 'how many; 100 unless given', minimum: 1, maximum: 1000 },
    },
    async handle({ query }, { changes }) {
      const { target, limit } = query
      const entries = await changes.audit(typeof limit === 'number' ? limit : 100, typeof target === 'string' ? target : null)
      return { changes: entries.map(({ at_ms, ...entry }) => ({ at: new Date(at_ms).toISOString(), ...entry })) }
    },
  },
]

async function accountOf(wanted: string, { directory, clock, forecasts, standing }: AdminParts): Promise<unknown> {
  const nowMs = clock.nowMs()
  const overview = listAccounts(directory, nowMs).find(({ id }) => id === wanted)
  if (overview === undefined) throw new Problem(404, `there is no account "${wanted}"`)
  const account = directory.accounts.get(wanted)
  const stored = overview.where === 'store' ? directory.storedAccounts.get(wanted) : undefined
  return {
    ...overview, forecast_at: forecastText((await forecasts([wanted])).get(wanted)), labels: account?.labels ?? stored?.terms.labels ?? {}, limits: (account?.limits ?? []).map(toLimitDocument), terms: stored?.terms ?? null,
    created_at: stored === undefined ? null : new Date(stored.created_ms).toISOString(), created_by: stored?.created_by ?? null,
    keys: listKeys(directory, nowMs).filter((key) => key.account === wanted),
    standing: await standing(wanted).catch(nullWhileAway),
  }
}

/** Who asks about an account is answered while the store is away, too. */
function nullWhileAway(error: unknown): null {
  if (error instanceof StoreUnavailable) return null
  throw error
}

function forecastText(atMs: number | undefined): string | null {
  return atMs === undefined ? null : toWholeSecond(atMs)
}

function toPlanDocument(plan: Plan): unknown {
  return {
    name: plan.name,
    version: plan.version,
    proration: plan.proration,
    public: plan.public,
    entitlements: {
      models: plan.entitlements.models, endpoints: plan.entitlements.endpoints,
      max_output_tokens: plan.entitlements.maxOutputTokens, max_context_tokens: plan.entitlements.maxContextTokens, priority: plan.entitlements.priority,
      features: plan.entitlements.features, deny_features: plan.entitlements.deniedFeatures ?? [],
    },
    limits: plan.limits.map(toLimitDocument),
    policy: {
      reserve: plan.policy.reserve, output_default: plan.policy.outputDefault, on_insufficient: plan.policy.onInsufficient,
      clamp_floor: plan.policy.clampFloor, on_disconnect: plan.policy.onDisconnect, count_failed: plan.policy.countFailed,
      store_down: plan.policy.storeDown.kind, wait_ms: plan.policy.waitMs,
    },
    prices: plan.prices === null ? null : { currency: plan.prices.currency, version: plan.prices.versions.at(-1)?.version ?? null },
  }
}

function toLimitDocument(limit: Limit): unknown {
  const scale = meterScale(limit.meter)
  return {
    name: limit.name, meter: meterName(limit.meter), limit: limit.ceiling === null ? null : limit.ceiling / scale, window: windowWords(limit.window),
    per: limit.per, each: limit.each, for: { models: limit.forModels, endpoints: limit.forEndpoints },
    mode: limit.mode, visible: limit.visible, overdraft: overdraftWords(limit.overdraft, scale),
    ...(limit.window.kind === 'in_flight' && limit.window.seats !== undefined ? { seats: { holder: limit.window.seats.holder, linger_ms: limit.window.seats.lingerMs, by_subscription: limit.bySubscription === true } } : {}),
  }
}

function windowWords(window: Window): string | null {
  if (window.kind === 'in_flight') return null
  if (window.kind === 'calendar') return window.unit
  if (window.kind === 'billing_period' || window.kind === 'term' || window.kind === 'lifetime') return window.kind
  return `${lengthWords(window.ms)}${window.kind === 'fixed' ? ' (fixed)' : ''}`
}

function lengthWords(ms: number): string {
  for (const [unit, unitMs] of [['d', 86_400_000], ['h', 3_600_000], ['m', 60_000], ['s', 1_000]] as const) {
    if (ms % unitMs === 0) return `${ms / unitMs}${unit}`
  }
  return `${ms}ms`
}

function overdraftWords(overdraft: Overdraft, scale: number): string | number {
  if (overdraft.kind === 'absolute') return overdraft.amount / scale
  return overdraft.kind === 'percentage' ? `${overdraft.percent}%` : overdraft.kind
}
