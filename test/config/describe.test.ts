import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Config } from '../../src/config/config.ts'
import { describe, printConfig } from '../../src/config/describe.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

function config(text: string, env: Record<string, string> = {}): Config {
  const result = loadConfig({ file: 'test.yaml', text, env, hostName: 'h' })
  if (result.config === null) throw new Error(result.problems.map(toText).join('\n'))
  return result.config
}

function warnings(text: string, env: Record<string, string> = {}): readonly string[] {
  const result = loadConfig({ file: 'test.yaml', text, env, hostName: 'h' })
  return [...result.problems.map(toText), ...result.warnings.map(toText)]
}

t.test('a plan is said in words', async (t) => {
  const { config: shipped } = loadConfig({ file: new URL('../../config/tallygate.yaml', import.meta.url).pathname, env: {}, hostName: 'h' })
  t.strictSame(shipped === null ? [] : describe(shipped).map((plan) => plan.sentence), [
    'demo: at most 60 requests in any minute; at most 200,000 tokens a day; at most 8 calls at once. Every model.',
    'free: at most 20 requests in any minute; at most 40,000 tokens in any minute; at most 100,000 tokens a day; at most 2,000,000 tokens in a billing period and 10% over; at most 4 calls at once. Every model.',
  ])
  const cases: readonly (readonly [string, string])[] = [
    ['meter: requests, limit: 0, window: 5m', 'no requests in any 5 minutes'],
    ['meter: requests, limit: unlimited, window: lifetime', 'any number of requests for ever'],
    ['meter: compute_seconds, limit: 1.5, window: 90s', 'at most 1.5 seconds of compute in any 90 seconds'],
    ['meter: audio_seconds, limit: 1h, window: week', 'at most 3,600 seconds of audio a week'],
    ['meter: bytes_out, limit: 1MiB, window: 24h, kind: fixed', 'at most 1,048,576 bytes out in every day of the clock'],
    ['meter: w, limit: 10, window: month, overdraft: 5', 'at most 10 w a calendar month and 5 over'],
    ['meter: cost, limit: 0.000000001, window: hour', 'at most 0.000000001 USD in a calendar hour (not shown to callers)'],
    ['meter: concurrency, limit: 1, per: end_user, mode: shadow', 'at most 1 call at once per end user (only watched, never refused)'],
  ]
  for (const [limit, words] of cases) {
    const text = `meters: { w: 0.5 * input_tokens }\nplans:\n  p:\n    prices: { currency: USD, version: "1", models: { "*": { requests: 1 } } }\n    limits: [{ name: l, ${limit} }]\n`
    t.match(describe(config(text))[0]?.sentence, `p: ${words}. `, limit)
  }
})

t.test('the printed configuration hides every secret, and is complete', async (t) => {
  const text = printConfig(config(`
store: { url: "redis://user:hunter2-store@h:6379" }
upstreams: { m: { url: http://h, credential: hunter2-credential } }
plans: { p: { limits: [{ name: l, meter: requests, limit: 1, window: 1m }] } }
keys: [{ id: k, plan: p, secret: hunter2-hunter2-hunter2 }, { id: k2, plan: p, hash: "sha256:${'ab'.repeat(32)}" }]
admin: { tokens: [{ name: t, secret: hunter2-hunter2-token }] }
models: { __proto__: { context_tokens: 5 } }
telemetry: { otlp: http://h:4318, headers: { x-token: hunter2 } }
notifications: { webhooks: [{ url: "https://hooks.example.com/hunter2?token=hunter2", secret: whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==, headers: { authorization: hunter2 } }] }
`, { TALLYGATE_ADMIN_TOKEN: 'hunter2-hunter2-admin' }))
  t.notMatch(text, /hunter2|abab|whsec_|aHVudGVy/)
  t.notMatch(text, /[0-9a-f]{64}/, 'nor a hash')
  for (const part of ['redis://(hidden)@h:6379', 'credential: (hidden)', 'id: k2', 'name: env', 'ceiling: 1', 'bodyMaxBytes', '__proto__', 'https://hooks.example.com/(hidden)', 'authorization: (hidden)', 'x-token: (hidden)']) t.ok(text.includes(part), part)
})

t.test('no form of a store\'s address shows its password, printed or refused', async (t) => {
  const addresses = [
    'redis://user:hunter2@h', 'rediss://:hunter2@h:6379/1', 'redis+cluster://user:hunter2@a:1,b:2', 'redis+sentinel://user:hunter2@a:1,b:2/m/0', 'redis://user:hunter2%40hunter2@[::1]:6379',
    'redis://user:hunter2', 'redis://hunter2@h', 'redis://user:hunter2@h:hunter2', 'redis://user:hunter2@h/hunter2', 'redis://user:hunter2@hunter2@h', 'redis://user:hunter2/@h', 'redis://user:hunter2#@h', 'redis://user:hunter2?@h',
    'redis://user:hunter2 @h', 'redis://user:hun%ter2hunter2@h', 'redis://user:hunter2:hunter2@h', 'redis://user:hunter2@h?hunter2', 'redis+cluster://user:hunter2@a:1,b:2/hunter2', 'redis+sentinel://user:hunter2@a', 'redis+nothing://hunter2@h',
    'redis:hunter2', 'postgres://hunter2@h',
  ]
  for (const address of addresses) {
    const { config, problems } = loadConfig({ file: 'test.yaml', text: 'store: "${STORE}"', env: { STORE: address }, hostName: 'h' })
    const said = config === null ? problems.map(toText).join() : printConfig(config)
    t.notMatch(said, /hunter2/, address)
    t.match(said, config === null ? /store: / : /\(hidden\)@/, address)
    const written = loadConfig({ file: 'test.yaml', text: `store: "${address}"`, env: {}, hostName: 'h' })
    t.notMatch(written.problems.map(toText).join(), /hunter2/, `${address} in the file`)
  }
})

const limits = (limit: string, more = ''): string => `plans: { p: { limits: [{ name: l, ${limit} }]${more} } }`

t.test('what is legal and hardly meant is a warning', async (t) => {
  const cases: (readonly [string, readonly RegExp[], Record<string, string>?])[] = [
    [limits('meter: requests, limit: 20, window: 1m'), []],
    [limits('meter: total_tokens, limit: 1024, window: 1m'), []],
    [limits('meter: total_tokens, limit: 1023, window: 1m'), [/limits\[0\]: refuses every call that gives no output bound of its own: such a call is lowered to 1024 output tokens at most, and this limit holds 1,023;/]],
    [limits('meter: total_tokens, limit: 1023, window: 1m', ', policy: { reserve: slices }'), [/refuses every call without a stream that gives no output bound/]],
    [limits('meter: total_tokens, limit: 1023, window: 1m', ', policy: { output_default: 1k }'), []],
    [limits('meter: total_tokens, limit: 1023, window: 1m', ', policy: { clamp_floor: 1000 }'), []],
    [limits('meter: total_tokens, limit: 1023, window: 1m', ', entitlements: { max_output_tokens: 500 }'), []],
    [limits('meter: total_tokens, limit: 1024, window: day'), []],
    [limits('meter: total_tokens, limit: 1023, window: day'), [/lowered to 1024 output tokens at most, and this limit holds 1,023/]],
    [limits('meter: total_tokens, limit: 1000, window: day, overdraft: 24'), []],
    [limits('meter: total_tokens, limit: 10, window: day, overdraft: unlimited'), []],
    [limits('meter: total_tokens, limit: 10, window: day, mode: shadow'), [/plans.p: has no limit that refuses anything/]],
    [`meters: { w: 4 * output_tokens }\n${limits('meter: w, limit: 4095, window: 1m')}`, [/lowered to 1024 output tokens at most, and this limit holds 4,095/]],
    [limits('meter: requests, limit: 0, window: day'), [/admits nothing/]],
    ['plans: { p: {} }', [/plans.p: has no limit that refuses anything: whoever is on it is not limited/]],
    [limits('meter: requests, limit: 1, window: day', ', entitlements: { models: [] }'), [/plans.p: grants no model/]],
    [`models: { llama: {} }\n${limits('meter: requests, limit: 1, window: day, for: { models: [lama] }')}`, [/lama is none of the models that are configured/]],
    [`models: { llama: {} }\n${limits('meter: cost, limit: 1, window: day', ', prices: { currency: USD, version: "1", models: { "gpt-*": { requests: 1 } } }')}`, [/limits cost and grants llama without a price/]],
    [limits('meter: requests, limit: 1, window: day', ', prices: { currency: USD, version: "1", models: { "*": { input_tokens: 1/M } } }'), [/prices input_tokens of \* but not output_tokens, which are then free/]],
    [`${limits('meter: requests, limit: 1, window: day, per: end_user')}\nkeys: [{ id: k, plan: p, hash: "sha256:${'a'.repeat(64)}" }]`, [/l is per end user, but the key k has no end_user_from/]],
    ['admin: { listen: 0.0.0.0:8081 }', [/the admin port listens on 0.0.0.0 without a token/]],
    ['admin: { listen: 0.0.0.0:8081 }', [], { TALLYGATE_ADMIN_TOKEN: 'a-token-of-twenty-characters' }],
    ['models: { "*": { upstream: a } }\nupstreams: { a: { url: http://a }, b: { url: http://b } }', []],
    ['models: { "m*": { upstream: a } }\nupstreams: { a: { url: http://a }, b: { url: http://b } }', [/a model that models does not name could go to any of them/]],
    ['upstreams: { m: { url: http://h } }', [/UPSTREAM_URL: is not used, because the configuration names its upstreams/], { UPSTREAM_URL: 'http://other' }],
    [`store: { url: "redis://h", spool: none }\n${limits('meter: requests, limit: 1, window: day', ', policy: { store_down: allow }')}`, [/policy.store_down: lets calls through while the store is away, but spool: none leaves nowhere/]],
    [`store: "redis://h"\n${limits('meter: requests, limit: 1, window: day', ', policy: { store_down: allow }')}`, []],
    ['plans: { a: { limits: [{ name: z, meter: requests, limit: 0, window: 1m }] }, b: { extends: a } }', [/plans.a.limits\[0\]: admits nothing/, /plans.b: z \(from the plan it extends\): admits nothing/]],
  ]
  const named = (sink: string, more = `keys: [{ id: own, plan: pro, hash: "sha256:${'a'.repeat(64)}" }]\n`): string => `plans: { pro: { limits: [{ name: l, meter: requests, limit: 1, window: day }] }, team: { extends: pro } }
accounts: { acme: { plan: pro }, acme-eu: { plan: team } }
${more}sinks:
  - { name: s, type: lago, url: "https://api.getlago.com", api_key: "\${K}", ${sink} }`
  cases.push(
    [named('filter: { plans: [pro, "t*", "*"], accounts: [own, "acme*"], models: [whatever] }, customers: { acme: a, own: b }'), [], { K: 'key' }],
    [named('filter: { plans: [pro, prro, "x*"] }'), [/^test.yaml:5:\d+ sinks\[0\]\.filter\.plans\[1\]: no plan is called "prro", so nothing of it is told; did you mean "pro"\?$/, /plans\[2\]: no plan is called "x\*"/], { K: 'key' }],
    ...['usage events', '.', '..', 'ä', 'a'.repeat(250), 'a/b'].map((topic) => [`sinks: [{ name: k, type: kafka, brokers: [h:9092], topic: "${topic}" }]`, [/^test.yaml:1:\d+ sinks\[0\]\.topic: is no name of a topic: /]] as const),
    ...['usage-events_1.v2', '...', 'a'.repeat(249)].map((topic) => [`sinks: [{ name: k, type: kafka, brokers: [h:9092], topic: "${topic}" }]`, []] as const),
    [named('filter: { plans: nope }'), [/filter\.plans: no plan is called "nope".*; known here: pro, team$/], { K: 'key' }],
    [named('filter: { accounts: [amce] }'), [/filter\.accounts\[0\]: no account of this file is called "amce"; ignore this if it is made at run time; did you mean "acme"\?$/], { K: 'key' }],
    [named('customers: { nobody: x, acme: y }'), [/^test.yaml:5:\d+ sinks\[0\]\.customers\.nobody: no account of this file is called "nobody"; ignore this if it is made at run time; known here: acme, acme-eu, own$/], { K: 'key' }],
    [named('filter: { plans: "${K}" }'), [/no plan is called the value put in here/], { K: 'word' }],
    [named(`customers: { ${Array.from({ length: 30 }, (_, index) => `nobody-${index}: c`).join(', ')} }`), [/sinks\[0\]\.customers: 10 more are no accounts of this file/, ...Array.from({ length: 20 }, () => /nobody/)], { K: 'key' }],
    ['plans: { pro: { limits: [{ name: l, meter: requests, limit: 1, window: day }] } }\nsinks: [{ name: f, type: lago, url: "https://a.b", api_key: k, filter: { accounts: [made-later] }, customers: { made-later: c } }]', []],
  )
  for (const [text, expected, env] of cases) {
    const found = warnings(text, env)
    t.equal(found.length, expected.length, `${text}: ${found.join('; ')}`)
    expected.forEach((pattern, index) => t.match(found[index], pattern, text))
  }
})

t.test('a secret in a file that everyone may read is a warning; from the environment it is none', async (t) => {
  const file = join(tmpDir(t), 'main.yaml')
  const plan = limits('meter: requests, limit: 20, window: 1m')
  const find = (): readonly string[] => loadConfig({ file, env: { K: 'a-secret-of-twenty-characters' }, hostName: 'h' }).warnings.map((warning) => warning.sentence)
  writeFileSync(file, `${plan}\nkeys: [{ id: k, plan: p, secret: a-secret-of-twenty-characters }, { id: k2, plan: p, secret: another-secret-of-a-good-length }]\nstore: "redis://:password@h"\n`)
  chmodSync(file, 0o644)
  t.match(find(), [/every user of this machine may read/])
  t.equal(find().length, 1, 'once for the file')
  chmodSync(file, 0o640)
  t.strictSame(find(), [])
  writeFileSync(file, `${plan}\nkeys: [{ id: k, plan: p, secret: "\${K}" }]\nstore: "\${R:-redis://:password@h}"\n`)
  chmodSync(file, 0o644)
  t.strictSame(find(), [])
  for (const [address, count] of [['redis://:password@h', 1], ['redis://h', 0]] as const) {
    writeFileSync(file, `${plan}\nstore: "${address}"\n`)
    t.equal(find().length, count, address)
  }
})
