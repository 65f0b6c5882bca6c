import type { Address, Config, KeyConfig, Plan } from '../config/config.ts'
import { demoModelName } from './demo-model.ts'

export const demoKeyId = 'demo'

/** The plan that a key made at the start is on: the wished one, else the first; undefined: there is none. */
export function startingPlan(config: Config, wished: string): Plan | undefined {
  return config.plans.get(wished) ?? config.plans.values().next().value
}

/** The config with the stand-in as its only upstream, and the demo key on one of its plans. */
export function withDemo(config: Config, model: Address, keyHash: string): Config {
  const plan = startingPlan(config, 'demo') ?? demoPlan
  const key: KeyConfig = Object.freeze({
    id: demoKeyId, hash: keyHash, account: null, plan: plan.name, limits: [], entitlements: {}, labels: {}, expiresMs: null, endUserFrom: null, where: 'demo',
  })
  const taken = config.accounts.has(demoKeyId) || config.keys.some(({ id }) => id === demoKeyId)
  return Object.freeze({
    ...config,
    upstreams: new Map([['demo', Object.freeze({
      name: 'demo', origin: `http://${model.host}:${model.port}`, pathPrefix: '', providers: ['openai'], credential: null, isDefault: true, connectionsMax: null, timeouts: null,
    })]]),
    models: [...config.models, Object.freeze({
      pattern: demoModelName, upstream: 'demo', upstreamModel: null, contextTokens: 32_768, outputTokensMax: 256, outputField: null, inputFactor: 1,
      templateTokens: null, encoding: null, imageTokens: null, hiddenOutput: false,
    })],
    plans: config.plans.has(plan.name) ? config.plans : new Map([[plan.name, plan]]),
    keys: taken ? config.keys : [...config.keys, key],
  })
}

/** For a config without any plan. */
const demoPlan: Plan = {
  name: 'demo', version: 1, public: false,
  entitlements: { models: ['*'], endpoints: null, maxOutputTokens: null, maxContextTokens: null, priority: null, features: [] },
  limits: [{
    name: 'rpm', meter: { kind: 'builtin', name: 'requests' }, ceiling: 20, window: { kind: 'sliding', ms: 60_000 }, per: 'account', forModels: null, forEndpoints: null,
    each: null, mode: 'enforce', visible: true, overdraft: { kind: 'none' },
  }],
  policy: {
    reserve: 'worst_case', outputDefault: 4_096, onInsufficient: 'clamp', clampFloor: 1_024, onDisconnect: 'cancel', countFailed: false, storeDown: { kind: 'deny' }, waitMs: 0, unpriced: null,
  },
  proration: 'none',
  prices: null,
  charges: null,
}
