import type { KeyDirectory, KeyLookup, Principal } from '../../src/accounts/principal.ts'
import type { Account, Config, Plan, Policy, RateCard } from '../../src/config/config.ts'
import type { Limit, Overdraft, Window } from '../../src/metering/limits/limit.ts'
import type { Meter } from '../../src/metering/meter.ts'
import type { SeededRandom } from './seeded-random.ts'

/** Who may what in one world, and what goes wrong in it: drawn from the seed, a different mixture in each. */

export type FaultKind =
  | 'store_late' | 'store_lost_before' | 'store_lost_answer' | 'store_sent_again' | 'store_outage' | 'journal_failure'
  | 'kill' | 'kill_at_move' | 'drain' | 'clock_jump' | 'clock_skew'
  | 'upstream_unreachable' | 'upstream_slow' | 'upstream_stall' | 'upstream_reset' | 'upstream_truncated' | 'upstream_error' | 'upstream_no_usage'
  | 'upstream_usage_twice' | 'upstream_usage_each' | 'upstream_over_bound' | 'upstream_hidden_prompt' | 'upstream_mid_error'
  | 'client_leaves' | 'client_slow' | 'client_retries' | 'client_bad_key' | 'client_bad_body'
  | 'sink_timeout_after' | 'sink_refuses' | 'sink_partial' | 'sink_dead' | 'sink_poison'
  | 'config_edit' | 'spool_failure'

/** Probability of each kind, where it applies; absent: never in this world. */
export type FaultRates = Partial<Record<FaultKind, number>>

export interface Scenario {
  readonly startMs: number
  readonly shared: boolean
  readonly processes: number
  readonly sinks: readonly string[]
  readonly exchanges: number
  /** Clients come within this time. */
  readonly activeMs: number
  readonly faults: FaultRates
  readonly config: Config
  readonly keyIds: readonly string[]
  readonly forgetAfterMs: number
}

const faultMenu: readonly (readonly [FaultKind, number, number])[] = [
  ['store_late', 0.02, 0.5], ['store_lost_before', 0.005, 0.1], ['store_lost_answer', 0.005, 0.1], ['store_sent_again', 0.01, 0.2], ['store_outage', 0.3, 1], ['journal_failure', 0.3, 1],
  ['kill', 0.3, 1], ['kill_at_move', 0.002, 0.03], ['drain', 0.3, 1], ['clock_jump', 0.3, 1], ['clock_skew', 0.5, 1],
  ['upstream_unreachable', 0.02, 0.2], ['upstream_slow', 0.02, 0.3], ['upstream_stall', 0.02, 0.15], ['upstream_reset', 0.02, 0.3], ['upstream_truncated', 0.02, 0.3],
  ['upstream_error', 0.02, 0.3], ['upstream_no_usage', 0.02, 0.5], ['upstream_usage_twice', 0.02, 0.5], ['upstream_usage_each', 0.02, 0.5],
  ['upstream_over_bound', 0.01, 0.1], ['upstream_hidden_prompt', 0.01, 0.1], ['upstream_mid_error', 0.02, 0.2],
  ['client_leaves', 0.05, 0.5], ['client_slow', 0.05, 0.5], ['client_retries', 0.2, 0.8], ['client_bad_key', 0.02, 0.1], ['client_bad_body', 0.02, 0.1],
  ['sink_timeout_after', 0.05, 0.4], ['sink_refuses', 0.05, 0.4], ['sink_partial', 0.05, 0.4], ['sink_dead', 0.3, 1], ['sink_poison', 0.01, 0.05],
  ['config_edit', 0.3, 1], ['spool_failure', 0.01, 0.3],
]

/** Some kinds, none, or all of them: bugs hide in mixtures, and behind faults that end everything early. */
function drawFaults(random: SeededRandom): FaultRates {
  const share = random.pick([0, 0.15, 0.3, 0.3, 0.6, 1])
  const rates: FaultRates = {}
  for (const [kind, least, most] of faultMenu) if (random.chance(share)) rates[kind] = least + (most - least) * random.fraction()
  return rates
}

const dayMs = 86_400_000

export function drawScenario(random: SeededRandom): Scenario {
  const shared = random.chance(0.5)
  const faults = drawFaults(random.fork('faults'))
  const day = Date.UTC(2026, 10, 22)
  // Half of the worlds live over midnight, where windows end.
  const startMs = random.chance(0.5) ? day + dayMs - random.int(0, 60_000) : day + random.int(0, dayMs)
  const draw = random.fork('plans')
  const plan = drawPlan(draw)
  const root = drawAccount(draw, 'root', null, null)
  const accounts = new Map([[root.id, root]])
  const child = draw.chance(0.5)
  if (child) {
    // A parent is counted by limits of its own.
    accounts.set('root', { ...root, limits: drawLimits(draw, 'up', draw.int(1, 2)).map((limit) => ({ ...limit, per: 'account' })) })
    accounts.set('child', drawAccount(draw, 'child', 'root', plan.name))
  }
  const keyIds = Array.from({ length: draw.int(1, 3) }, (_, i) => `key${i}`)
  const sinks = draw.chance(0.3) ? ['billing', 'archive'] : ['billing']
  return {
    startMs, shared,
    processes: shared ? random.int(1, 3) : 1,
    sinks,
    exchanges: random.int(25, 55),
    activeMs: random.pick([3_000, 20_000, 60_000, 120_000]),
    faults,
    keyIds,
    forgetAfterMs: 3_600_000,
    config: {
      server: {
        listen: { host: '127.0.0.1', port: 0 }, bodyMaxBytes: 100_000, timeouts: { connectMs: 1_000, firstByteMs: 8_000, idleMs: 5_000, totalMs: draw.pick([0, 25_000]) },
        trustedProxies: [], cors: { origins: [] }, drain: { delayMs: 0, timeoutMs: 5_000 }, tls: null, streamPingMs: 0, drainsMax: draw.pick([0, 2, 100]), workers: 1,
      },
      admin: { listen: { host: '127.0.0.1', port: 0 }, tokens: [], metrics: 'open' },
      store: { kind: 'memory' }, meters: new Map(), moneyScale: 9,
      upstreams: new Map([['model', {
        name: 'model', origin: 'http://model', pathPrefix: '', providers: ['openai'], credential: 'upstream-secret', isDefault: true, connectionsMax: null, timeouts: null,
      }]]),
      models: [],
      plans: new Map([[plan.name, plan]]),
      addOns: new Map(),
      accounts,
      keys: keyIds.map((id) => ({
        id, hash: id, account: child ? 'child' : 'root', plan: plan.name, limits: draw.chance(0.3) ? keyLimits(draw, id) : [], entitlements: {}, labels: {}, expiresMs: null,
        endUserFrom: { kind: 'body', field: 'user' }, where: 'scenario',
      })),
      sinks: sinks.map((name) => ({ name, type: 'simulated', settings: {}, mapping: null })),
      events: { hotMs: dayMs, archive: null, keepMs: 90 * dayMs }, analytics: null, notifications: null,
      instance: 'sim',
      version: '0',
      files: [],
    },
  }
}

function drawAccount(random: SeededRandom, id: string, parent: string | null, plan: string | null): Account {
  return {
    id, plan, parent, calendar: { timeZone: random.pick(['UTC', 'Europe/Berlin', 'Asia/Kolkata']), anchor: '2026-01-31' },
    limits: [], entitlements: {}, labels: {}, suspended: false, subscription: null, addOns: [], planHistory: [], where: 'tallygate.yaml:1',
  }
}

const rates = {
  models: ['*'], picosPer: { input_tokens: 2_500_001, cached_input_tokens: 1_250_000, output_tokens: 10_000_003, requests: 7 },
} as const

function drawPlan(random: SeededRandom): Plan {
  const prices: RateCard | null = random.chance(0.6) ? { name: null, currency: 'USD', scale: 9, versions: [{ fromMs: null, version: '1', rates: [rates] }] } : null
  const policy: Policy = {
    reserve: random.chance(0.35) ? 'slices' : 'worst_case',
    outputDefault: 64,
    onInsufficient: random.chance(0.6) ? 'clamp' : 'refuse',
    clampFloor: 8,
    onDisconnect: random.chance(0.4) ? 'drain' : 'cancel',
    countFailed: random.chance(0.3),
    storeDown: random.chance(0.85) ? { kind: 'deny' } : random.chance(0.5) ? { kind: 'allow' } : { kind: 'allow_up_to', amount: 500 },
    waitMs: random.chance(0.3) ? random.int(200, 8_000) : 0,
    unpriced: null,
  }
  return {
    name: 'plan', version: 1, public: true, policy, proration: 'none', prices, charges: null,
    entitlements: { models: ['*'], endpoints: null, maxOutputTokens: random.chance(0.3) ? 150 : null, maxContextTokens: null, priority: null, features: [] },
    limits: drawLimits(random, 'own', random.int(1, 4)).filter((limit) => prices !== null || limit.meter.kind !== 'builtin' || limit.meter.name !== 'cost'),
  }
}

const weighted: Meter = {
  kind: 'weighted', weighted: { name: 'credits', scale: 10, terms: [{ meter: 'input_tokens', coefficient: 10 }, { meter: 'output_tokens', coefficient: 40 }] },
}

function drawLimits(random: SeededRandom, prefix: string, count: number): Limit[] {
  const seen = new Set<string>()
  const limits: Limit[] = []
  for (let i = 0; i < count; i++) {
    const limit = drawLimit(random, `${prefix}${i}`)
    // Two limits of one identity merge into one check; here each has its own, so that every ceiling can be told apart by name.
    const identity = JSON.stringify([limit.meter, limit.window, limit.per, limit.each])
    if (!seen.has(identity)) limits.push(limit)
    seen.add(identity)
  }
  return limits
}

/** They count what the key does: a ceiling over what others use as well would not bind the others. */
function keyLimits(random: SeededRandom, id: string): Limit[] {
  return drawLimits(random, `${id}-own`, 1).map((limit) => (limit.per === 'account' ? { ...limit, per: 'key' } : limit))
}

function drawLimit(random: SeededRandom, name: string): Limit {
  const per = random.pick(['account', 'account', 'key', 'end_user'] as const)
  const base = { name, per, forModels: null, forEndpoints: null, each: random.chance(0.1) ? 'model' as const : null, mode: random.chance(0.1) ? 'shadow' as const : 'enforce' as const, visible: true }
  const short: Window = random.pick([
    { kind: 'sliding', ms: random.pick([6_000, 12_000, 20_011, 60_000]) }, { kind: 'sliding', ms: 30_000 }, { kind: 'fixed', ms: random.pick([5_000, 17_000, 60_000]) }, { kind: 'calendar', unit: 'minute' },
  ] as const)
  const long: Window = random.pick([{ kind: 'calendar', unit: 'day' }, { kind: 'billing_period' }, { kind: 'lifetime' }, { kind: 'calendar', unit: 'month' }] as const)
  const overdraft: Overdraft = random.pick([{ kind: 'none' }, { kind: 'none' }, { kind: 'absolute', amount: 300 }, { kind: 'percentage', percent: 10 }, { kind: 'unlimited' }] as const)
  const of = (meter: Meter, ceiling: number, window: Window, over: Overdraft = { kind: 'none' }): Limit => ({ ...base, meter, ceiling, window, overdraft: over })
  const builtin = (meter: 'requests' | 'total_tokens' | 'output_tokens' | 'input_tokens' | 'concurrency' | 'cost' | 'bytes_out' | 'compute_seconds'): Meter => ({ kind: 'builtin', name: meter })
  switch (random.int(0, 9)) {
    case 0: return of(builtin('requests'), random.int(3, 25), short)
    case 1: return of(builtin('total_tokens'), random.int(600, 4_000), short)
    case 2: return of(builtin('output_tokens'), random.int(250, 1_500), short)
    case 3: return of(builtin('total_tokens'), random.int(1_000, 12_000), long, overdraft)
    case 4: return of(builtin('input_tokens'), random.int(1_000, 8_000), long, overdraft)
    case 5: return of(builtin('concurrency'), random.int(1, 6), { kind: 'in_flight' })
    case 6: return of(builtin('cost'), random.int(2_000_000, 30_000_000), long)
    case 7: return of(weighted, random.int(10_000, 80_000), random.chance(0.5) ? short : long)
    case 8: return of(builtin('bytes_out'), random.int(5_000, 60_000), random.chance(0.5) ? short : long)
    default: return random.chance(0.5) ? of(builtin('compute_seconds'), random.int(10_000, 90_000), long) : of(builtin('requests'), random.int(10, 60), long)
  }
}

/** The same limits with other ceilings: nothing is renamed, so nothing is reset. */
export function edited(config: Config, random: SeededRandom): Config {
  const limit = (one: Limit): Limit => (one.ceiling === null || random.chance(0.4) ? one : { ...one, ceiling: Math.max(1, Math.floor(one.ceiling * (0.4 + 1.4 * random.fraction()))) })
  return {
    ...config,
    version: String(Number(config.version) + 1),
    plans: new Map([...config.plans].map(([name, plan]) => [name, { ...plan, version: plan.version + 1, limits: plan.limits.map(limit) }])),
    accounts: new Map([...config.accounts].map(([id, account]) => [id, { ...account, limits: account.limits.map(limit) }])),
    keys: config.keys.map((key) => ({ ...key, limits: key.limits.map(limit) })),
  }
}

/** Every limit that is configured, by its name: names are unique in a world. */
export function limitsOf(config: Config): Map<string, Limit> {
  const all = [
    ...[...config.plans.values()].flatMap((plan) => plan.limits), ...[...config.accounts.values()].flatMap((account) => account.limits),
    ...config.keys.flatMap((key) => key.limits),
  ]
  return new Map(all.map((limit) => [limit.name, limit]))
}

/** Finds keys in the configuration of the moment; the secret of a key is its id with `sk-` before it. */
export class ScenarioKeys implements KeyDirectory {
  readonly #config: () => Config
  #of: Config | null = null
  #principals = new Map<string, Principal>()

  constructor(config: () => Config) {
    this.#config = config
  }

  find(secret: string): KeyLookup {
    const config = this.#config()
    if (config !== this.#of) {
      this.#of = config
      this.#principals = principalsOf(config)
    }
    const principal = this.#principals.get(secret)
    return principal === undefined ? { outcome: 'unknown' } : { outcome: 'found', principal }
  }
}

function principalsOf(config: Config): Map<string, Principal> {
  const principals = new Map<string, Principal>()
  for (const key of config.keys) {
    const chain: Account[] = []
    for (let account = config.accounts.get(key.account ?? ''); account !== undefined; account = config.accounts.get(account.parent ?? '')) chain.push(account)
    const [account] = chain
    const plan = config.plans.get(key.plan ?? '')
    if (account === undefined || plan === undefined) throw new Error('a key of a scenario has an account and a plan')
    principals.set(`sk-${key.id}`, {
      keyId: key.id, account, chain, home: chain.at(-1)?.id ?? account.id, plan, keyLimits: key.limits, keyEntitlements: key.entitlements, labels: {}, endUserFrom: key.endUserFrom,
    })
  }
  return principals
}
