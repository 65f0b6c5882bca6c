import { readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { z } from 'zod'
import { loadConfig } from '../../src/config/load.ts'
import { jsonSchema, jsonSchemaText } from '../../src/config/json-schema.ts'
import { toText } from '../../src/config/problem.ts'
import { ENDPOINTS, PROVIDERS } from '../../src/config/schema.ts'
import { providers } from '../../src/providers/index.ts'
import { sinkKinds } from '../../src/sinks/index.ts'

const checkout = new URL('../../', import.meta.url)
const good = new URL('./good/', import.meta.url)
const bad = new URL('./bad/', import.meta.url)

function read(file: URL | string, base: URL = checkout): string {
  return readFileSync(new URL(file, base), 'utf8')
}

function filesIn(directory: URL): readonly string[] {
  return readdirSync(directory).filter((name) => name.endsWith('.yaml') && !name.startsWith('.')).sort()
}

t.test('the published JSON Schema is the one that the code gives: npm run schema', async (t) => {
  t.equal(read('config/tallygate.schema.json'), jsonSchemaText())
})

/** Judged by a validator that nobody here wrote. */
const schema = z.fromJSONSchema(jsonSchema() as Parameters<typeof z.fromJSONSchema>[0])

t.test('the JSON Schema accepts what is good', async (t) => {
  // A plain JSON reader gives numbers and nothing for the words of names.yaml; that file is for our own reader.
  for (const name of filesIn(good).filter((name) => name !== 'names.yaml')) {
    const result = schema.safeParse(parse(read(name, good).replace(/^\ufeff/, ''), { merge: true }))
    t.ok(result.success, `${name} ${result.success ? '' : result.error.message}`)
  }
  t.ok(schema.safeParse(parse(read('config/tallygate.yaml'))).success, 'the shipped file')
})

/** Mistakes that lie between the parts, in the environment, in other files, or in what is finer than a shape; `check` finds them. */
const beyondShapes = new Set([
  'account-anchor', 'account-circle', 'account-label-too-long', 'account-timezone', 'account-too-deep', 'account-unknown-parent', 'admin-token-twice', 'alias-bomb', 'alias-circle', 'concurrency-window',
  'cost-in-two-currencies', 'cost-of-account-without-prices', 'cost-without-prices', 'empty', 'key-account-without-plan', 'key-hash-twice', 'key-id-twice', 'key-is-an-account-already', 'key-no-owner', 'key-no-secret',
  'key-secret-and-hash', 'key-secret-space', 'key-two-owners', 'key-unknown-account', 'limit-for-nothing', 'limit-for-ungranted-model', 'limit-kind-on-day', 'limit-meter-case', 'limit-meter-constructor', 'limit-meter-typo',
  'limit-name-twice', 'limit-window-missing', 'limit-window-too-short', 'meter-minus', 'meter-number-only', 'meter-of-cost', 'meter-of-nothing', 'meter-reserved', 'model-output-beyond-context', 'models-tie',
  'number-beyond-2-53', 'number-cost-too-fine', 'number-fraction', 'number-huge-suffix', 'number-octal', 'number-plus', 'number-scientific', 'number-hex', 'number-inf', 'overdraft-beyond-2-53', 'overdraft-on-concurrency', 'overdraft-on-unlimited',
  'plan-extends-circle', 'plan-extends-typo', 'plan-typo-in-account', 'plan-typo-in-key', 'price-card-typo', 'price-patterns-tie', 'price-too-fine', 'price-twice', 'server-cors-path', 'server-listen-port-range',
  'server-listens-on-admin-port', 'server-proxy', 'sink-meters', 'sink-name-twice', 'sink-path-twice', 'sink-private-address', 'store-spool-on-embedded', 'sum-beyond-2-53', 'upstream-missing', 'upstream-url-password', 'upstream-credential-newline',
  'upstreams-ambiguous', 'upstreams-two-defaults', 'yaml-1-1', 'tag-int', 'tag-custom', 'two-documents', 'secret-file-missing', 'secret-file-empty', 'secret-env-short', 'key-twice',
  'store-redis-no-host', 'store-redis-port', 'store-redis-port-word', 'store-redis-port-zero', 'store-redis-several', 'store-redis-password-at', 'store-redis-password-slash', 'store-redis-password-colon', 'store-redis-password-percent',
  'store-redis-password-latin1', 'store-redis-password-space', 'store-redis-password-missing', 'store-redis-query', 'store-redis-database', 'store-redis-database-twice', 'store-redis-ipv6', 'store-redis-ipv6-nonsense', 'store-redis-host',
  'store-redis-substituted', 'store-substituted-path', 'store-cluster-database', 'store-cluster-comma', 'store-sentinel-no-master', 'store-sentinel-master', 'store-sentinel-database', 'store-synchronous-on-redis', 'store-partitions-on-embedded',
  'grant-limit', 'grant-id', 'grant-beside', 'subscription-end-and-renewal', 'subscription-moment', 'subscription-plan-changes', 'subscription-term', 'add-on-unknown', 'add-on-amount',
  'store-deadline-short', 'events-keep-alone', 'events-archive-name', 'events-keep-short', 'server-workers-embedded', 'server-workers-memory', 'plan-name-proto', 'merge-proto',
  'cost-plus-currency', 'cost-plus-hidden', 'cost-plus-provider', 'plan-fee-twice', 'plan-fee-without-prices', 'plan-included', 'plan-unpriced-model',
  'price-long-input-order', 'price-long-input-tiers', 'price-no-models', 'price-package-of-nothing', 'price-tiers-end', 'price-tiers-middle',
  'key-seats-by-subscription', 'limit-subscription-elsewhere', 'meter-of-seats', 'seats-linger-elsewhere', 'seats-linger-too-long', 'seats-per-end-user', 'seats-with-overdraft', 'seats-with-window',
  'limit-notify-concurrency', 'limit-notify-minute', 'limit-notify-unlimited', 'notifications-threshold-zero', 'webhook-header', 'webhook-no-secret', 'webhook-secret-and-secrets', 'webhook-secret-plain',
  'telemetry-password', 'telemetry-sample', 'telemetry-signal', 'webhook-secret-short', 'webhook-secret-twice', 'webhook-url-password', 'webhook-url-twice',
  'price-tiers-order', 'price-two-forms', 'price-two-scales', 'price-version-order', 'price-version-twice', 'price-versions-in-two-currencies',
])

t.test('the JSON Schema refuses mistakes of shape', async (t) => {
  const accepted: string[] = []
  for (const file of filesIn(bad)) {
    const name = file.replace('.yaml', '')
    if (/^(env|environment|include)-/.test(name) || beyondShapes.has(name)) continue
    let value: unknown
    try {
      value = parse(read(file, bad), { merge: true, logLevel: 'error' })
    } catch (error) {
      if (error instanceof Error) continue
      throw error
    }
    if (schema.safeParse(value).success) accepted.push(name)
  }
  t.strictSame(accepted, [])
})

t.test('every YAML block in our documents that looks like a configuration passes check', async (t) => {
  const documents = ['README.md', ...readdirSync(new URL('docs/', checkout), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)]
  let blocks = 0
  let hashes = 0
  for (const document of documents) {
    for (const [, block = ''] of read(document).matchAll(/^```yaml\n([\s\S]*?)^```/gm)) {
      if (!/^(server|admin|store|events|upstreams|models|meters|prices|plans|accounts|keys|sinks|notifications|telemetry|include):/m.test(block) || /^apiVersion:|^services:/m.test(block)) continue
      blocks++
      const named = [...block.matchAll(/\$\{([A-Z][A-Z0-9_]*)\}/g)].map(([, name = '']) => [name, 'a-secret-of-twenty-characters'])
      const env = { ...Object.fromEntries(named) as Record<string, string>, UPSTREAM_API_KEY: 'sk-x', OPS_TOKEN: 'a-token-of-twenty-characters', HOOK_SECRET: 'whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=', OLD_HOOK_SECRET: 'whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXx=' }
      const text = block.replaceAll(/sha256:(…|<[^>]*>)/g, () => `sha256:${String(blocks).padStart(32, '0')}${String(hashes++).padStart(32, '0')}`)
      const { config, problems } = loadConfig({ file: `${document} (block ${blocks})`, text, env, hostName: 'h' })
      t.ok(config !== null, problems.map(toText).join('\n'))
    }
  }
  t.ok(blocks >= 2, `${blocks} blocks`)
})

t.test('every setting is in docs/configuration.md, or in docs/sinks.md', async (t) => {
  const text = `${read('docs/configuration.md')}${read('docs/sinks.md')}`
  const missing: string[] = []
  const visit = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return
    if ('properties' in node && typeof node.properties === 'object' && node.properties !== null) {
      for (const key of Object.keys(node.properties)) if (!new RegExp(`\\b${key.replace('$', '\\$')}\\b`).test(text) && key !== '$schema') missing.push(key)
    }
    for (const each of Object.values(node)) visit(each)
  }
  visit(jsonSchema())
  t.strictSame(missing, [])
})

t.test('every example passes check without a warning, those inside manifests too', async (t) => {
  const directory = new URL('config/examples/', checkout)
  const texts = filesIn(directory).map((name) => [name, read(name, directory)] as const)
  const manifests = parseAllDocuments(read('kubernetes/sidecar.yaml', directory)).flatMap((document): readonly (readonly [string, string])[] => {
    const text: unknown = 'getIn' in document ? document.getIn(['data', 'tallygate.yaml']) : undefined
    return typeof text === 'string' ? [['the manifest', text]] : []
  })
  t.ok(texts.length >= 1 && manifests.length === 1)
  for (const [name, text] of [...texts, ...manifests]) {
    // What each says that it needs.
    const needed = [...text.matchAll(/"\$\{([A-Z_]+)\}"/g)].map(([, variable = '']) => [variable, `${variable.toLowerCase()}-of-twenty-characters`])
    const { config, problems, warnings } = loadConfig({ file: name, text, env: { TALLYGATE_ADMIN_TOKEN: 'another-token-of-twenty-characters', ...Object.fromEntries(needed) }, hostName: 'h' })
    t.strictSame([...problems, ...warnings].map(toText), [], name)
    t.ok(config !== null, name)
  }
})

t.test('plans can name exactly the endpoints that the dialects have', async (t) => {
  t.strictSame([...ENDPOINTS].sort(), [...new Set(providers.flatMap((provider) => provider.endpoints.map((endpoint) => endpoint.name)))].sort())
  t.strictSame([...PROVIDERS].sort(), providers.map((provider) => provider.name).sort())
})

t.test('the sinks that a configuration may name are those that exist', async (t) => {
  const sinkTypes = sinkKinds.map((kind) => kind.type)
  const known = sinkTypes.filter((type) => loadConfig({ file: 's', text: `sinks: [{ name: s, type: ${type}, path: ./x }]`, env: {}, hostName: 'h' }).problems.every((problem) => problem.path !== 'sinks[0].type'))
  t.strictSame(known, sinkTypes)
})

t.test('the shipped file runs as shipped', async (t) => {
  const { config, problems, warnings } = loadConfig({ file: new URL('config/tallygate.yaml', checkout).pathname, env: {}, hostName: 'h' })
  t.strictSame([...problems, ...warnings].map(toText), [])
  t.strictSame([config?.upstreams.size, config?.keys.length, config?.store, config?.sinks[0]?.settings['path']], [0, 0, { kind: 'embedded', dir: './data', synchronous: 'full' }, './data/usage.ndjson'])
  t.ok(config?.plans.has('demo'))
})
