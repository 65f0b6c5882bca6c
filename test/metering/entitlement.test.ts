import t from 'tap'
import type { Account, Entitlements, ModelRates, Plan, Policy, RateCard } from '../../src/config/config.ts'
import { GatewayError } from '../../src/errors.ts'
import { type Ask, mayUseModel, resolveEntitlement } from '../../src/metering/entitlement.ts'
import { longestMatch, matches } from '../../src/metering/glob.ts'
import type { Limit } from '../../src/metering/limits/limit.ts'
import { draftReservation, draftStanding } from '../../src/metering/reservation.ts'
import { accountOf, cardOf, limitOf, planOf, policy, principalOf } from './people.ts'
import { readTable } from './table.ts'

const noon = Date.UTC(2026, 10, 22, 12)

interface Written { name: string; words: Record<string, string>; limits: Limit[]; public: boolean }

const spaced = (text: string): string => text.replaceAll('\\x20', ' ')

function entitlementsOf({ words }: Written): Partial<Entitlements> {
  const listed = (text: string): string[] => text.split(',').map(spaced)
  return {
    ...(words['models'] === undefined ? {} : { models: listed(words['models']) }),
    ...(words['endpoints'] === undefined ? {} : { endpoints: words['endpoints'] === 'default' ? null : listed(words['endpoints']) }),
    ...(words['features'] === undefined ? {} : { features: listed(words['features']) }),
    ...(words['deny'] === undefined ? {} : { deniedFeatures: listed(words['deny']) }),
    ...(words['max_output'] === undefined ? {} : { maxOutputTokens: Number(words['max_output']) }),
  }
}

function askOf(endpoint: string, what: string): Ask {
  const [model = '-', ...words] = what.split(/\s+/)
  const user = words.find((word) => word.startsWith('user='))
  const uses = words.find((word) => word.startsWith('uses='))
  const features = words.filter((word) => !word.includes('=')).flatMap((word) => word.split(','))
  const known = !endpoint.includes(' ')
  return {
    endpoint, known, endpointByDefault: endpoint === 'chat' || endpoint === 'embeddings', model: model === '-' ? null : model, features,
    endUser: user === undefined ? null : user.slice('user='.length), ...(uses === undefined ? {} : { ordinary: uses.slice('uses='.length).split(',') }),
  }
}

t.test('calls are allowed, counted and refused as entitlement.txt says', async (t) => {
  const written = { plan: new Map<string, Written>(), account: new Map<string, Written>() }
  let last: Written | undefined
  let key: Written | undefined
  const rows = readTable('entitlement.txt')
  // Plans are known before the first call, as in a configuration.
  const definition = (text: string): Written => {
    const [, name = '', ...words] = text.split(/\s+/)
    return { name, public: words.includes('public'), limits: [], words: Object.fromEntries(words.filter((word) => word.includes('=')).map((word) => word.split('=') as [string, string])) }
  }
  for (const { text } of rows) {
    const kind = text.split(/\s+/)[0]
    if (kind === 'plan') written.plan.set(definition(text).name, last = definition(text))
    else if (kind === 'account' || kind === 'key') last = undefined
    else if (kind === 'limit') last?.limits.push(limitOf(text.slice('limit '.length).trim()))
  }
  const plans = new Map<string, Plan>([...written.plan].map(([name, plan]) =>
    [name, planOf(name, plan.limits, { public: plan.public, entitlements: entitlementsOf(plan), prices: cardOf([{ models: ['*'], picosPer: { input_tokens: 1 } }]) })]))
  const accountFrom = (name: string): Account => {
    const account = written.account.get(name)!
    return accountOf(name, { plan: account.words['plan'] ?? null, parent: account.words['parent'] ?? null, limits: account.limits, entitlements: entitlementsOf(account) })
  }
  let calls = 0
  for (const { line, text, left: [first], left, right } of rows) {
    const [kind] = text.split(/\s+/)
    if (kind === 'plan') last = { name: '', public: false, limits: [], words: {} }
    else if (kind === 'account') written.account.set(definition(text).name, last = definition(text))
    else if (kind === 'key') key = last = definition(text)
    else if (kind === 'limit') last!.limits.push(limitOf(text.slice('limit '.length).trim()))
    else {
      const chain: Account[] = []
      for (let name: string | null = key!.words['account']!; name !== null; name = chain.at(-1)!.parent) chain.push(accountFrom(name))
      const principal = principalOf(plans.get(key!.words['plan']!)!, chain, { keyId: key!.name, keyLimits: key!.limits, keyEntitlements: entitlementsOf(key!) })
      const ask = askOf(spaced(first!.slice('call '.length).trim()), left[1]!)
      const once = resolveEntitlement(principal, ask, plans)
      const again = resolveEntitlement(principal, ask, plans)
      for (const entitlement of [once, again]) {
        if (entitlement instanceof GatewayError) {
          t.same([entitlement.code, entitlement.message], right, `line ${line}: ${text}`)
          continue
        }
        const draft = draftReservation(entitlement, { fixed: {}, perUnit: {} }, { uMin: 0, uMax: 0 }, noon)
        if (draft instanceof GatewayError) throw draft
        const found = draft.checks.map((check) => [
          check.slots[check.at]!.split('|').slice(0, 4).join('|'), ...check.ceilings.map((ceiling) => `${ceiling.buckets[0]!.ceiling}${ceiling.refuses ? '' : '?'}`),
        ].join(' '))
        // A counter's name has bars of its own.
        t.same(found.length === 0 ? 'nothing' : found.join(' | '), text.split('->')[1]!.trim(), `line ${line}: ${text}`)
      }
      if (!(once instanceof GatewayError) && ask.model !== null) t.ok(mayUseModel(principal, ask.model), 'and /v1/models lists it')
      if (once instanceof GatewayError && once.message.startsWith('The model')) t.notOk(mayUseModel(principal, ask.model!), 'and /v1/models does not list it')
      calls++
    }
  }
  t.ok(calls >= 33, `${calls} calls`)
})

t.test('calls by the thousand do not mix up endpoints, models and end users', async (t) => {
  const plan = planOf('p', [limitOf('m requests 5 1m each:model'), limitOf('e requests 5 1m at:a'), limitOf('u requests 5 1m per:end_user')])
  const principal = principalOf(plan, [accountOf('acme')])
  const plans = new Map([['p', plan]])
  for (let round = 0; round < 3; round++) {
    for (let index = 0; index < 100; index++) {
      const endpoint = index % 2 === 0 ? 'a' : 'a =b'
      const model = index % 3 === 0 ? null : `b ${index}`
      const endUser = index % 5 === 0 ? null : `u${index}`
      const found = resolveEntitlement(principal, { endpoint, known: true, endpointByDefault: true, model, features: [], endUser }, plans)
      if (found instanceof GatewayError) throw found
      const expected = [model === null ? 'each' : `each=b%20${index}`, ...(endpoint === 'a' ? ['endpoints=a'] : []), endUser === null ? 'end_user:acme-dev' : `end_user:acme-dev/u${index}`]
      const got = found.applied.map(({ limit, selector, scope }) => (limit.per === 'end_user' ? scope.id : selector))
      if (JSON.stringify(got) !== JSON.stringify(expected)) t.same(got, expected)
    }
  }
  t.pass('300 calls')
})

t.test('a reload acts on the next call, for the plans of parents too', async (t) => {
  const parent = accountOf('root', { plan: 'corp' })
  const principal = principalOf(planOf('free', []), [accountOf('acme', { parent: 'root' }), parent])
  const ask: Ask = { endpoint: 'chat', known: true, endpointByDefault: true, model: null, features: [], endUser: null }
  for (const ceiling of [10, 20]) {
    const found = resolveEntitlement(principal, ask, new Map([['corp', planOf('corp', [limitOf(`rpm requests ${ceiling} 1m`)])]]))
    t.same(found instanceof GatewayError ? found.message : found.applied.map((one) => one.limit.ceiling), [ceiling])
  }
})

t.test('the plan decides on store, output and prices; words of a caller are cut short', async (t) => {
  const rates = [{ models: ['gpt-*'], picosPer: { input_tokens: 5 } }, { models: ['*'], picosPer: { input_tokens: 1 } }]
  const plan = planOf('p', [], { prices: cardOf(rates, { currency: 'EUR', version: '7' }), entitlements: { maxOutputTokens: 500, features: ['store'] } })
  const ask: Ask = { endpoint: 'chat', known: true, endpointByDefault: true, model: 'gpt-4', features: [], endUser: null }
  const found = resolveEntitlement(principalOf(plan, [accountOf('a')], { keyEntitlements: { maxOutputTokens: 50, features: [] } }), ask, new Map())
  if (found instanceof GatewayError) throw found
  t.match(found, { maxOutputTokens: 50, rates: rates[0], currency: 'EUR', priceVersion: '7', forbidStore: true })
  const granted = resolveEntitlement(principalOf(plan, [accountOf('a')]), { ...ask, model: 'other' }, new Map())
  t.match(granted, { maxOutputTokens: 500, rates: rates[1], forbidStore: false })

  const long = resolveEntitlement(principalOf(planOf('p', [], { entitlements: { models: [] } }), [accountOf('a')]), { ...ask, model: `a\n\u0000${'x'.repeat(5_000)}\ud800` }, new Map())
  t.ok(long instanceof GatewayError && long.message.length < 200 && !/\p{Cc}/u.test(long.message))
})

t.test('the prices are those of the admission, with those of the features used', async (t) => {
  const rates: ModelRates = { models: ['*'], picosPer: { requests: 1_000 }, features: { hosted_tools: 5_000 } }
  const prices: RateCard = { name: null, currency: 'JPY', scale: 6, versions: [{ fromMs: 1_000, version: 'a', rates: [rates] }, { fromMs: 2_000, version: 'b', rates: [{ models: ['*'], picosPer: { requests: 2_000 } }] }] }
  const principal = principalOf(planOf('p', [], { prices, entitlements: { features: ['hosted_tools', 'store'] } }), [accountOf('a')])
  // The same plans each time, so that what was found once is remembered.
  const plans = new Map()
  const at = (admittedMs: number, features: readonly string[] = []): unknown => {
    const found = resolveEntitlement(principal, { endpoint: 'chat', known: true, endpointByDefault: true, model: 'm', features, endUser: null }, plans, admittedMs)
    if (found instanceof GatewayError) throw found
    return [found.priceVersion, found.rates?.picosPer['requests'] ?? null, found.currency, found.moneyScale]
  }
  for (let again = 0; again < 2; again++) {
    t.same(at(999), [null, null, 'JPY', 6])
    t.same(at(1_000), ['a', 1_000, 'JPY', 6])
    t.same(at(1_000, ['hosted_tools']), ['a', 6_000, 'JPY', 6])
    t.same(at(1_000, ['store']), ['a', 1_000, 'JPY', 6])
    t.same(at(2_000, ['hosted_tools']), ['b', 2_000, 'JPY', 6])
  }
  const named = (model: string, features: readonly string[]): unknown => {
    const found = resolveEntitlement(principal, { endpoint: 'chat', known: true, endpointByDefault: true, model, features, endUser: null }, plans, 1_000)
    return found instanceof GatewayError ? found : found.rates?.picosPer['requests']
  }
  t.same([named('n', ['hosted_tools']), named('n hosted_tools', []), named('hosted_tools a =n', [])], [6_000, 1_000, 1_000], 'no name of a model is taken for features')
})

t.test('a model without a price is refused, or free, as the plan says', async (t) => {
  const called = (unpriced: Policy['unpriced'], more: Partial<Ask> = {}, limits: readonly Limit[] = []): string => {
    const plan = planOf('p', limits, { prices: cardOf([{ models: ['gpt-*'], picosPer: { requests: 1 } }]), policy: { ...policy, unpriced }, entitlements: { endpoints: ['*', 'POST /rerank'] } })
    const found = resolveEntitlement(principalOf(plan, [accountOf('a')]), { endpoint: 'chat', known: true, endpointByDefault: true, model: 'llama', features: [], endUser: null, ...more }, new Map())
    const draft = found instanceof GatewayError ? found : draftReservation(found, { fixed: { requests: 1 }, perUnit: {} }, { uMin: 0, uMax: 0, asked: 0 }, noon)
    return draft instanceof GatewayError ? draft.message : 'served'
  }
  const money = [limitOf('budget cost 5$ day')]
  for (const unpriced of ['check', 'refuse'] as const) {
    t.equal(called(unpriced), "The model 'llama' has no price in your plan 'p'.")
    t.equal(called(unpriced, { model: 'gpt-4' }), 'served')
    t.equal(called(unpriced, { model: null }), 'served', 'a list of models, say')
    t.equal(called(unpriced, { model: null, known: false, endpoint: 'POST /rerank' }), "This endpoint has no price in your plan 'p'.")
  }
  t.equal(called(null), 'served')
  t.match(called(null, {}, money), /no price for this model/)
  t.equal(called('free', {}, money), 'served')
})

t.test('a currency that is counted with six digits is told with six', async (t) => {
  const prices: RateCard = { ...cardOf([{ models: ['*'], picosPer: { requests: 1_500_000_000 } }]), currency: 'JPY', scale: 6 }
  const limit: Limit = { ...limitOf('budget cost 1$ day'), meter: { kind: 'builtin', name: 'cost', scale: 1_000_000 }, ceiling: 1_000_000 }
  const found = resolveEntitlement(principalOf(planOf('p', [limit], { prices }), [accountOf('a')]), { endpoint: 'chat', known: true, endpointByDefault: true, model: 'm', features: [], endUser: null }, new Map())
  if (found instanceof GatewayError) throw found
  const draft = draftReservation(found, { fixed: { requests: 1 }, perUnit: {} }, { uMin: 0, uMax: 0, asked: 0 }, noon)
  t.match(draft instanceof GatewayError ? draft.message : '', /may need 1\.5 .*the limit is 1 /)
})

t.test('where a principal stands shows what is not of one model or end user alone', async (t) => {
  const plan = planOf('p', ['all requests 5 1m', 'each requests 5 1m each:model', 'some requests 5 1m for:gpt-*', 'user requests 5 1m per:end_user', 'in concurrency 4 in_flight'].map(limitOf))
  const draft = draftStanding(principalOf(plan, [accountOf('a')]), new Map(), noon)
  t.same(draft.checks.map((check) => check.ceilings[0]!.limit), ['all', 'some', 'in'])
})

t.test('globs: only the star is special', async (t) => {
  // glob | name | matches?
  const rows: [string, string, boolean][] = [
    ['*', '', true], ['*', 'a', true], ['', '', true], ['', 'a', false], ['a', 'a', true], ['a', 'A', false], ['a*', 'a', true], ['a*', 'ab', true], ['*a', 'ba', true],
    ['a*a', 'a', false], ['a*a', 'aa', true], ['a*b*c', 'abc', true], ['a*b*c', 'a-b-b-c', true], ['a*b*c', 'acb', false], ['gpt-?', 'gpt-4', false], ['[a]', 'a', false],
    ['a.c', 'abc', false], ['**', 'a', true], ['a**b', 'ab', true], ['*bc*cd', 'bcd', false], ['*a*', 'bab', true], ['ab*ba', 'aba', false], ['*.*', 'a.b', true],
  ]
  for (const [glob, name, expected] of rows) t.equal(matches(glob, name), expected, `'${glob}' and '${name}'`)
  t.equal(longestMatch(['*', 'gpt-*', 'gpt-4*', 'gpt-4o'], 'gpt-4o'), 'gpt-4o')
  t.equal(longestMatch(['*', 'gpt-*', 'gpt-4*'], 'gpt-4o'), 'gpt-4*')
  t.equal(longestMatch(['*', 'llama'], 'gpt'), '*')
  t.equal(longestMatch(['llama'], 'gpt'), null)
  const hostile = performance.now()
  matches(`${'a*'.repeat(2_000)}b`, 'a'.repeat(100_000))
  t.ok(performance.now() - hostile < 200, 'a hostile name costs nothing')
})
