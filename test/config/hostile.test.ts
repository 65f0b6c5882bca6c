import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import type { LoadResult } from '../../src/config/load.ts'
import { toText } from '../../src/config/problem.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'

function load(text: string, env: Record<string, string> = {}): LoadResult {
  return loadConfig({ file: 'test.yaml', text, env, hostName: 'h' })
}

function sentences(result: LoadResult): string {
  return result.problems.map(toText).join('\n')
}

t.test('4.8, K2: what is no regular file is refused at once, not waited for', async (t) => {
  const dir = tmpDir(t)
  execFileSync('mkfifo', [join(dir, 'fifo.yaml')])
  mkdirSync(join(dir, 'directory.yaml'))
  symlinkSync('circle.yaml', join(dir, 'circle.yaml'))
  symlinkSync('/dev/zero', join(dir, 'zero.yaml'))
  const cases: readonly (readonly [string, RegExp])[] = [
    [join(dir, 'fifo.yaml'), /fifo.yaml: is not a regular file/], [join(dir, 'directory.yaml'), /is not a regular file/], [join(dir, 'zero.yaml'), /is not a regular file/],
    ['/dev/zero', /is not a regular file/], ['/dev/stdin', /is not a regular file|cannot be read|is empty/], [join(dir, 'circle.yaml'), /its links go in a circle/],
    [join(dir, 'missing.yaml'), /it does not exist/], [`${dir}/a\0b`, /cannot be read/],
  ]
  for (const [file, expected] of cases) {
    if (file === '/dev/stdin') continue
    const started = performance.now()
    const result = loadConfig({ file, env: {}, hostName: 'h' })
    t.equal(result.config, null)
    t.match(sentences(result), expected)
    t.ok(performance.now() - started < 1_000, 'at once')
  }
  // The same where a secret or an include points there.
  t.match(sentences(load(`upstreams: { m: { url: http://h, credential: "\${file:${join(dir, 'fifo.yaml')}}" } }`)), /is not a regular file/)
  t.match(sentences(load(`include: ${join(dir, '*.yaml')}`)), /directory.yaml is not a regular file/)
})

t.test('4.8, K2: a file that is empty, too large, or not UTF-8 is refused with a sentence', async (t) => {
  const dir = tmpDir(t)
  const cases: readonly (readonly [string, string | Buffer, RegExp])[] = [
    ['empty', '', /is empty/], ['blank', ' \n\n', /is empty/], ['comment', '# plans:\n', /is empty/], ['null', 'null\n', /mapping/], ['bom', '\ufeff', /is empty/],
    ['latin', Buffer.from([0x70, 0x3a, 0x20, 0xe4, 0x0a]), /is not UTF-8/], ['half', Buffer.from('plans: { a: {} } # \u20ac').subarray(0, -1), /is not UTF-8/],
    ['nul', 'plans: { a\0b: {} }', /./], ['word', 'plans', /has to be a mapping/],
  ]
  for (const [name, content, expected] of cases) {
    const file = join(dir, `${name}.yaml`)
    writeFileSync(file, content)
    const result = loadConfig({ file, env: {}, hostName: 'h' })
    t.equal(result.config, null, name)
    t.match(sentences(result), expected, name)
  }
  const large = join(dir, 'large.yaml')
  writeFileSync(large, '')
  truncateSync(large, 65 * 1_048_576)
  t.match(sentences(loadConfig({ file: large, env: {}, hostName: 'h' })), /is larger than 65536 KiB/)
})

t.test('4.8, K9: deep nesting and alias bombs end quickly and in a sentence', async (t) => {
  const bomb = (levels: number): string => {
    const lines = ['x-0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    for (let level = 1; level < levels; level++) lines.push(`x-${level}: &a${level} [${Array.from({ length: 10 }, () => `*a${level - 1}`).join(', ')}]`)
    return `${lines.join('\n')}\nplans: *a${levels - 1}\n`
  }
  const merges = Array.from({ length: 300 }, (_, index) => `x-${index}: &m${index} { ${index === 0 ? Array.from({ length: 3_000 }, (_, key) => `k${key}: 1`).join(', ') : `<<: *m${index - 1}`} }`).join('\n')
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['a million open brackets', `plans: ${'['.repeat(1_000_000)}`, /nested|not valid YAML/],
    ['a hundred thousand closed brackets', `plans: ${'['.repeat(100_000)}${']'.repeat(100_000)}`, /nested/],
    ['a hundred closed brackets', `plans: ${'['.repeat(100)}${']'.repeat(100)}`, /nested deeper than 64 levels/],
    ['blocks', Array.from({ length: 2_000 }, (_, depth) => `${' '.repeat(depth)}a:`).join('\n'), /nested/],
    ['aliases', bomb(12), /aliases expand/],
    ['aliases of scalars', `x-a: &a x\nplans:\n${Array.from({ length: 20_000 }, (_, index) => `  p${index}: *a`).join('\n')}`, /has to be a mapping/],
    ['merges', `${merges}\nplans: {}`, /aliases expand/],
  ]
  for (const [name, text, expected] of cases) {
    const started = performance.now()
    const result = load(text)
    t.equal(result.config, null, name)
    t.match(sentences(result), expected, name)
    t.ok(performance.now() - started < 15_000, `${name}: ${Math.round(performance.now() - started)} ms`)
  }
})

t.test('4.8, K9: names of the object prototype are plain names or refused, and pollute nothing', async (t) => {
  for (const name of ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'valueOf']) {
    const texts = [
      `${name}: { polluted: true }`, `plans: { ${name}: { polluted: true } }`, `plans: { a: { ${name}: { polluted: true } } }`, `plans: { a: { <<: { ${name}: { polluted: true } } } }`,
      `plans: { a: { limits: [{ name: x, meter: ${name}, limit: 1, window: 1m }] } }`, `plans: { a: { policy: { reserve: ${name} } } }`, `sinks: [{ name: a, type: ${name} }]`,
      `upstreams: { a: { url: http://h, provider: ${name} } }`, `plans: { a: { limits: [{ name: x, meter: requests, limit: 1, window: ${name} }] } }`, `meters: { w: ${name} }`,
      `plans: { a: { limits: [{ name: x, meter: requests, limit: 1, window: 1${name} }] } }`, `server: { drain: { delay: 5${name} } }`, `accounts: { a: { billing: { timezone: ${name} } } }`,
      `plans: { a: { prices: ${name} } }`, `server: { listen: "\${${name}}" }`, `keys: [{ id: k, account: ${name}, secret: aaaaaaaaaaaaaaaaaaaaaaa }]`, `models: { m: { upstream: ${name} } }`,
    ]
    for (const text of texts) t.equal(load(text).config, null, text)
  }
  const { config } = load('accounts: { constructor: { labels: { constructor: a, toString: b } } }\nmeters: { constructor: input_tokens }\nplans: { toString: { limits: [{ name: valueOf, meter: constructor, limit: 1, window: 1m }] } }')
  t.equal(config?.accounts.get('constructor')?.labels['toString'], 'b')
  t.equal(config?.plans.get('toString')?.limits[0]?.meter.kind, 'weighted')
  t.equal(({} as Record<string, unknown>)['polluted'], undefined)
})

t.test('a secret never appears in a problem or a warning, wherever it was put by mistake', async (t) => {
  const places = [
    'keys: [{ id: k, plan: free, secret: "$S" }]', 'keys: [{ id: k, plan: free, hash: "$S" }]', 'keys: [{ id: "$S", plan: free }]', 'keys: [{ id: k, plan: "$S" }]', 'upstreams: { m: { url: "$S" } }',
    'upstreams: { m: { url: "http://u:$S@h/" } }', 'upstreams: { m: { url: http://h, provider: "$S" } }', 'upstreams: { m: { url: http://h, credential: "$S\u00e4" } }', 'store: "$S"', 'store: { url: "$S" }',
    'admin: { tokens: [{ name: a, secret: "$S" }] }', 'admin: { tokens: "$S" }', 'server: { listen: "$S" }', 'server: "$S"', 'instance: "$S"', 'plans: { a: { limits: [{ name: a, meter: "$S", limit: 1, window: 1m }] } }',
    'plans: { a: { limits: [{ name: a, meter: requests, limit: "$S", window: "$S", overdraft: "$S", mode: "$S" }] } }', 'sinks: [{ name: a, type: "$S" }]', 'plans: { a: { entitlements: { models: "$S", endpoints: ["$S"] } } }',
    'meters: { w: "$S" }', 'prices: { p: { currency: "$S", version: "$S", models: { "*": { input_tokens: "$S" } } } }', 'accounts: { a: { billing: { timezone: "$S", anchor: "$S" }, parent: "$S", plan: "$S" } }',
    'keys: [{ id: k, plan: free, expires: "$S", end_user_from: "$S" }]', 'events: { hot: "$S" }', 'include: "$S"', 'include: ["/etc/$S/*.yaml"]', 'models: { m: { upstream: "$S" } }', 'plans: { a: { extends: "$S", prices: "$S" } }',
  ]
  for (const place of places) {
    for (const secret of ['hunter2-hunter2-hunter2 !', 'hunter2-hunter2-hunter2']) {
      const result = load(place.replaceAll('$S', '${SECRET}'), { SECRET: secret })
      t.ok(result.problems.length > 0 || secret.endsWith('2'), place)
      t.notMatch([...result.problems, ...result.warnings].map(toText).join('\n'), /hunter2/, place)
    }
  }
  // Written into the file itself, at the places where a secret belongs.
  for (const place of places.slice(0, 2).concat(places.slice(7, 11))) t.notMatch(sentences(load(place.replaceAll('$S', 'hunter2-hunter2-hunter2 !'))), /hunter2/, place)
})

t.test('4.8: whatever the text, loading gives a config or a list of problems, and never throws', async () => {
  const words = fc.constantFrom(
    'plans', 'keys', 'limits', 'free', 'name', 'meter', 'limit', 'window', 'requests', '1m', '-1', '20', '{', '}', '[', ']', ':', ',', '- ', '\n', '  ', '    ', '"', "'", '&a', '*a', '<<', '!!', '!x', '|', '>', '#', '?', '%YAML', '---', '...',
    '${X}', '${', '${file:/dev/zero}', '\t', '\u0000', '\ud800', '\u00e4', '__proto__', 'null', '~', '1e309', '0x', '@', '`', '10%', 'include', 'upstreams', 'url', 'http://[', 'sinks', 'type', 'file',
  )
  const generated = fc.array(words, { maxLength: 40 }).map((parts) => parts.join(''))
  fc.assert(fc.property(fc.oneof(generated, fc.string({ maxLength: 200 }), fc.string({ unit: 'binary', maxLength: 60 })), (text) => {
    const result = load(text, { X: 'y' })
    return (result.config === null) === (result.problems.length > 0)
  }), { numRuns: 2_000 })
})

t.test('whatever stands in a field, loading gives a config or says the field\'s path', async () => {
  const leaf = fc.oneof(fc.string({ maxLength: 20 }), fc.double(), fc.integer(), fc.boolean(), fc.constant(null), fc.constantFrom('10%', '1m', 'unlimited', '*', 'day', 'redis://', 'http://', 'sha256:', '1/M', '::1', '10.0.0.0/8/8'))
  const value = fc.oneof({ weight: 4, arbitrary: leaf }, fc.array(leaf, { maxLength: 3 }), fc.dictionary(fc.constantFrom('url', 'name', 'limit', 'x', 'models'), leaf, { maxKeys: 3 }))
  const whole = (place: string) => (value: unknown): string => place.replace('VALUE', JSON.stringify(value) ?? 'null')
  const places = [
    '{"server":{"listen":VALUE}}', '{"server":{"trusted_proxies":[VALUE]}}', '{"server":{"timeouts":VALUE}}', '{"store":VALUE}', '{"upstreams":{"m":VALUE}}', '{"upstreams":{"m":{"url":VALUE}}}', '{"models":{"m":VALUE}}', '{"meters":{"w":VALUE}}',
    '{"prices":{"p":{"currency":"USD","version":"1","models":{"*":{"input_tokens":VALUE}}}}}', '{"plans":{"a":{"limits":[{"name":"x","meter":"requests","limit":VALUE,"window":"1m"}]}}}', '{"plans":{"a":{"limits":[{"name":"x","meter":"cost","limit":1,"window":VALUE}]}}}',
    '{"plans":{"a":{"limits":[{"name":"x","meter":"bytes_in","limit":5,"window":"1m","overdraft":VALUE}]}}}', '{"plans":{"a":{"policy":{"store_down":VALUE}}}}', '{"accounts":{"a":{"billing":VALUE}}}', '{"keys":[VALUE]}', '{"keys":[{"id":VALUE,"plan":VALUE}]}', '{"sinks":[VALUE]}', '{"admin":{"tokens":[VALUE]}}', '{"plans":{"a":{"limits":[{"name":"x","meter":VALUE,"limit":5,"window":"1m","for":VALUE}]}}}',
  ]
  fc.assert(fc.property(fc.constantFrom(...places), value, (place, value) => {
    const result = load(whole(place)(value))
    return result.problems.length === 0 ? result.config !== null : result.problems.every((problem) => problem.sentence !== '' && toText(problem).length < 2_000)
  }), { numRuns: 3_000 })
})
