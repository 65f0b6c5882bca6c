import { isIP } from 'node:net'
import { assert } from '../assert.ts'
import { METERS } from '../metering/meter.ts'
import type { BuiltinMeter } from '../metering/meter.ts'
import type { Rollover } from '../metering/limits/limit.ts'
import { sinkKinds } from '../sinks/index.ts'
import type { SettingField, SinkKind } from '../sinks/sink.ts'
import type { RedisStoreConfig } from './config.ts'
import { NOTICE_TYPES } from './config.ts'
import { redisUrlOf } from './redis-url.ts'
import { addressOf, dateOf, decimalOf, durationOf, instantOf, integerOf, isTimeZone, momentOf, percentOf, sizeOf, termOf } from './scalars.ts'
import type { Field, Fields, Json, Read, Shape } from './shape.ts'
import { bool, either, grammar, isNothing, jsonOf, list, mapping, named, object, oneOf, oneOrMore, optional, quote, raw, refuseQuoted, required, scalar, section, textOrEmpty, what } from './shape.ts'
import { listed, pathOf, shown } from './problem.ts'

/** What the file may hold, key by key. Relationships between the parts are checked in `parse.ts`. */

export const idGrammar = grammar(/^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$/, 'it begins with a letter or digit and has letters, digits and . _ @ + - (128 at most)')
const labelGrammar = grammar(/^[A-Za-z][A-Za-z0-9_.-]{0,63}$/, 'it begins with a letter and has letters, digits and _ . - (64 at most)')
const limitGrammar = /^[!#-[\]-~](?:[ !#-[\]-~]{0,62}[!#-[\]-~])?$/
const meterGrammar = grammar(/^[a-z][a-z0-9_]{0,63}$/, 'it begins with a small letter and has small letters, digits and _ (64 at most)')
const modelGrammar = grammar(/^[!-~]{1,256}$/, 'it has no spaces and only printable ASCII (256 at most); * stands for anything')

const numberPattern = '^[0-9]+(_[0-9]+)+$|^[0-9][0-9_]*(\\.[0-9]+)?[kMG]$'
const durationPattern = '^0$|^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)$'
const sizePattern = '^[0-9]+(\\.[0-9]+)?(B|KiB|MiB|GiB)$'
const numberJson: readonly Json[] = [{ type: 'number', minimum: 0 }, { type: 'string', pattern: numberPattern }]
const durationJson: readonly Json[] = [{ const: 0 }, { type: 'string', pattern: durationPattern }]

function integer(name: string, min: number, max = Number.MAX_SAFE_INTEGER): Shape<number> {
  const wanted = max === Number.MAX_SAFE_INTEGER ? `a whole number, ${min} or more` : `a whole number from ${min} to ${max}`
  return scalar(name, wanted, [{ type: 'integer', minimum: min, maximum: max }, { type: 'string', pattern: numberPattern }], (text, node) => refuseQuoted(node) ?? integerOf(text, min, max))
}

function duration(name: string, minMs: number, maxMs: number): Shape<number> {
  const wanted = `a duration such as 500ms, 30s, 5m, 1h or 7d`
  return scalar(name, wanted, durationJson, (text) => {
    const answer = durationOf(text)
    if ('problem' in answer) return answer
    if (answer.value < minMs) return { problem: `${text} is too short; ${words(minMs)} is the least` }
    return answer.value > maxMs ? { problem: `${text} is too long; ${words(maxMs)} is the most` } : answer
  })
}

/** A duration in the largest unit that is whole. */
export function words(ms: number): string {
  for (const [unit, each] of [['d', 86_400_000], ['h', 3_600_000], ['m', 60_000], ['s', 1_000]] as const) if (ms >= each && ms % each === 0) return `${ms / each}${unit}`
  return `${ms}ms`
}

const dayMs = 86_400_000
const whole = integer('whole', 0)
const positive = integer('positive', 1)
const shortOrNone = duration('pause', 0, 3_600_000)
const timeout = duration('timeout', 1, dayMs)
const size = scalar('size', 'a size such as 512KiB or 10MiB', [{ type: 'string', pattern: sizePattern }], sizeOf)
const address = scalar('address', 'an address to listen on, such as 127.0.0.1:8080', [{ type: 'string', pattern: ':[0-9]{1,5}$' }], addressOf)
const id = named('an id (a letter or digit first, then letters, digits and . _ @ + -; 128 at most)', idGrammar)
const model = named('a model name or a pattern with * (no spaces, 256 characters at most)', modelGrammar)
const path = scalar('path', 'a path', [{ type: 'string', minLength: 1 }], (text) => text === '' || text.includes('\0') ? { problem: 'is not a path' } : { value: text })
const instant = scalar('instant', 'a date or an instant such as 2027-01-15T10:00:00Z', [{ type: 'string', pattern: '^\\d{4}-\\d{2}-\\d{2}' }], instantOf)
const models = list(model)

/** Credentials go into a header: visible ASCII. What was wrong is said without showing it. */
function visible(text: string): boolean {
  return /^[\x21-\x7e]*$/.test(text)
}

const credential: Shape<string> = {
  name: 'credential',
  json: { description: 'a secret, best as "${NAME}" or "${file:/run/secrets/name}"', type: ['string', 'null'] },
  read(node, at, report) {
    const value = textOrEmpty.read(node, at, report)
    if (value === undefined || visible(value)) return value
    report.problem(node, at, 'a credential is made of visible ASCII characters, without spaces or line breaks')
    return undefined
  },
}

const secretMin = 20
export const secret = scalar('secret', `a secret of ${secretMin} characters or more`, [{ type: 'string', minLength: secretMin }], (text) => {
  if (!visible(text)) return { problem: 'a secret is made of visible ASCII characters, without spaces or line breaks' }
  return text.length >= secretMin ? { value: text } : { problem: `is ${text.length} characters long; a secret needs ${secretMin} or more, so that it cannot be guessed` }
})

const hash = scalar('hash', 'the SHA-256 of a secret, as sha256:<64 hex digits>', [{ type: 'string', pattern: '^sha256:[0-9A-Fa-f]{64}$' }], (text) => {
  if (/^sha256:[0-9A-Fa-f]{64}$/.test(text)) return { value: text.slice(7).toLowerCase() }
  if (/^[0-9A-Fa-f]{64}$/.test(text)) return { problem: 'has to say which hash it is; write sha256: before the 64 hex digits' }
  if (/^sha256:[0-9A-Fa-f]*$/.test(text)) return { problem: `has ${text.length - 7} hex digits after sha256: instead of 64` }
  return { problem: 'is not sha256: and 64 hex digits; `tallygate keys new --yaml` prints a secret and this line' }
})

// ---------------------------------------------------------------------------------------------------------------- server and admin

const timeouts = {
  connect: optional(timeout, null, 'Longest time to connect to an upstream. Default 5s.'),
  first_byte: optional(timeout, null, 'Longest wait for the first byte of an answer. Default 5m.'),
  idle: optional(timeout, null, 'Longest silence within an answer. Default 2m.'),
  total: optional(timeout, null, 'Longest exchange. Default 30m.'),
}

const proxy = scalar('proxy', 'an address, a CIDR range, loopback, linklocal or uniquelocal', [{ type: 'string' }], (text) => {
  if (text === 'loopback' || text === 'linklocal' || text === 'uniquelocal') return { value: text }
  const [host = '', bits, ...more] = text.split('/')
  const version = isIP(host)
  const longest = version === 4 ? 32 : 128
  const right = version !== 0 && more.length === 0 && (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest))
  return right ? { value: text } : { problem: `${shown(text)} is not an address, a range such as 10.0.0.0/8, or one of loopback, linklocal, uniquelocal` }
})

const origin = scalar('origin', 'an origin such as https://app.example.com, or *', [{ type: 'string' }], (text) => {
  if (text === '*') return { value: text }
  const url = URL.parse(text)
  if (url !== null && /^https?:$/.test(url.protocol) && url.origin === text) return { value: text }
  return { problem: `${shown(text)} is not an origin; write scheme, host and port alone, such as https://app.example.com, or *` }
})

const server = object({
  listen: optional(address, null, 'Where callers connect. Default 127.0.0.1:8080.'),
  body_max: optional(size, 32 * 1_048_576, 'Largest request body of a metered endpoint. Default 32MiB.'),
  timeouts: optional(object(timeouts), null, 'How long to wait for what.'),
  trusted_proxies: optional(list(proxy), [], 'Whose X-Forwarded-For is believed: addresses, ranges, loopback, linklocal, uniquelocal. Default none.'),
  cors: optional(object({ origins: optional(list(origin), [], 'Origins of web pages that may call. Default none.') }), null, 'Calls from web pages.'),
  drain: optional(object({
    delay: optional(shortOrNone, 5_000, 'Still accepting, but no longer ready. Default 5s.'),
    timeout: optional(shortOrNone, 120_000, 'Then running exchanges have this long to end. Default 120s.'),
  }), null, 'How to stop.'),
  tls: optional(object({ cert: required(path, 'PEM file with the certificate chain.'), key: required(path, 'PEM file with the private key.') }), null, 'Serve HTTPS. Default: plain HTTP.'),
  stream_ping: optional(shortOrNone, 0, 'Sends a comment into silent streams this often; 0: never. Default 0.'),
  drains_max: optional(whole, 64, 'How many answers of callers who left may be read to their end at once. Default 64.'),
  workers: optional(integer('workers', 1, 64), 1, 'Processes that share the port, one a core. More than 1 needs a Redis store. Default 1.'),
}, { hints: { worker: 'did you mean "workers"?', processes: 'did you mean "workers"?', cluster: 'did you mean "workers"?', threads: 'did you mean "workers"?' } })

const token = object({
  name: required(id, 'Who it is; appears in the audit trail.'),
  hash: optional(hash, null, 'SHA-256 of the token, as sha256:<hex>.'),
  secret: optional(secret, null, 'The token itself, 20 characters or more; best as "${NAME}".'),
  role: optional(oneOf(['admin', 'viewer']), 'viewer', 'admin may change things, viewer only look. Default viewer.'),
})

const admin = object({
  listen: optional(address, null, 'Where the admin API and the dashboard are. Default 127.0.0.1:8081.'),
  tokens: optional(list(token), [], 'Who may use them. None: only callers on this machine may.'),
  metrics: optional(oneOf(['token', 'open']), 'token', 'open: /metrics needs no token. Default token.'),
})

// ---------------------------------------------------------------------------------------------------------------- store and upstreams

const storeUrl = scalar('store_url', 'memory:, embedded:DIRECTORY or a redis:// address', [{ type: 'string', pattern: '^(memory:$|embedded:.|rediss?(\\+cluster|\\+sentinel)?://.)' }], (text, node) => {
  if (text === 'memory:' || /^embedded:./.test(text)) return { value: text }
  if (/^rediss?(\+[a-z]+)?:/.test(text)) return redisUrlOf(text)
  const meant = /^mem(ory)?:?$/i.test(text) ? '; did you mean "memory:"?' : /^[./]/.test(text) && !node.substituted ? `; did you mean "embedded:${text}"?` : ''
  // It may hold a password, so it is not shown.
  return { problem: `is no store that is known; write memory:, embedded:DIRECTORY or a redis:// address${meant}` }
}, { discreet: true })

type Confirm = RedisStoreConfig['confirm']
const confirmWanted = 'replicas=N, fsync, or fsync,replicas=N'

/** `replicas=1`, `fsync`, `fsync,replicas=1`, `none`. */
const confirm = scalar<Confirm>('confirm', confirmWanted, [{ type: 'string', pattern: '^(none|fsync|(fsync,)? *replicas=[1-9]|replicas=[1-9], *fsync)$' }], (text) => {
  if (text === 'none') return { value: { replicas: 0, fsync: false } }
  let replicas = 0
  let fsync = false
  for (const part of text.split(',').map((each) => each.trim())) {
    const count = /^replicas=(\d+)$/.exec(part)?.[1]
    if (part === 'fsync' && !fsync) fsync = true
    else if (count !== undefined && replicas === 0) {
      replicas = Number(count)
      if (replicas < 1 || replicas > 9) return { problem: `${shown(part)} is out of range; it has to be from replicas=1 to replicas=9` }
    } else return { problem: `${shown(text)} is not understood; write ${confirmWanted}` }
  }
  return { value: { replicas, fsync } }
})

const redisOnly = {
  spool: optional(path, null, 'Redis: the folder that keeps settlements while it is away, or none. Default ./data/spool.'),
  spool_max: optional(size, null, 'Redis: a spool that is this full stops admission. Default 256MiB.'),
  prefix: optional(named('a prefix (letters, digits and . _ : / -, 64 at most, no braces or spaces)', /^[A-Za-z0-9._:/-]{1,64}$/), null, 'Redis: begins every key, so that two products may share a server. Default tallygate.'),
  partitions: optional(integer('partitions', 1, 4_096), null, 'Redis: in how many parts the accounts are kept; fixed at the first start. Default 256.'),
  deadline: optional(duration('deadline', 10, 60_000), null, 'Redis: longest wait for one answer of the server. Default 250ms.'),
  durability: optional(oneOf(['always', 'everysec', 'none'], { no: '"no" is not one of always, everysec, none; did you mean "none"?', everysecond: '"everysecond" is not one of always, everysec, none; did you mean "everysec"?' }), null, 'Redis: what the server must promise at the start, else the gateway refuses to run. Default everysec.'),
  confirm: optional(confirm, null, 'Redis: what is waited for after each write: replicas=N, fsync, both, or none. Default none.'),
  events_max: optional(integer('events_max', 1_000), null, 'Redis: so many events that no sink has taken stop admission. Default 1M.'),
}
/** Keys of a store that mean something with Redis alone. */
export const REDIS_ONLY = ['spool', 'spool_max', 'prefix', 'partitions', 'deadline', 'durability', 'confirm', 'events_max'] as const satisfies readonly (keyof typeof redisOnly)[]

const store = either(storeUrl, object({
  url: required(storeUrl, 'memory:, embedded:DIRECTORY, or a Redis address.'),
  synchronous: optional(oneOf(['full', 'normal']), null, 'embedded: full survives a power cut, normal a crash of the process only. Default full.'),
  ...redisOnly,
}, { hints: { timeout: 'did you mean "deadline"?', password: 'write it in the url: redis://:PASSWORD@HOST', replicas: 'did you mean confirm: replicas=N?', key_prefix: 'did you mean "prefix"?', spool_bytes: 'did you mean "spool_max"?' } }))

const events = object({
  hot: optional(duration('hot', 60_000, 366 * dayMs), dayMs, 'How long delivered events stay at hand in the store. Default 1d.'),
  archive: optional(path, null, 'A folder for every event, as files of one JSON event a line: a file sink named archive. Default none.'),
  keep: optional(duration('keep', dayMs, 3_660 * dayMs), null, 'How long those files are kept. Default 90d.'),
})

const analyticsWrong = 'has to be a mapping, or off'
const analytics = either(oneOf(['off'], { none: 'has to be a mapping, or off; to switch it off write off', on: analyticsWrong, true: analyticsWrong, false: 'has to be a mapping, or off; to switch it off write off' }), object({
  minutes: optional(duration('minutes', 3_600_000, 31 * dayMs), null, 'How long usage is kept by the minute. Default 2d; with Redis 6h.'),
  hours: optional(duration('hours', dayMs, 366 * dayMs), null, 'How long it is kept by the hour. Default 45d.'),
  days: optional(duration('days', 31 * dayMs, 3_660 * dayMs), null, 'How long it is kept by the day. Default 800d.'),
  months: optional(duration('months', 366 * dayMs, 7_320 * dayMs), null, 'How long it is kept by the month. Default 3660d.'),
}, { hints: { minute: 'did you mean "minutes"?', hour: 'did you mean "hours"?', day: 'did you mean "days"?', month: 'did you mean "months"?' } }))

export const PROVIDERS = ['openai', 'anthropic', 'http'] as const
export const LATER_PROVIDERS = ['gemini', 'ollama', 'tgi', 'llamacpp', 'cohere', 'bedrock', 'kserve'] as const
const later = Object.fromEntries(LATER_PROVIDERS.map((name) => [name, `${name} is not in this release; openai, anthropic and http are`]))
export const provider = oneOf(PROVIDERS, later)

/** An upstream's address without the `/v1` of its dialect. */
export interface UpstreamUrl { readonly origin: string; readonly pathPrefix: string }

export const upstreamUrl = scalar<UpstreamUrl>('upstream_url', 'an address such as http://127.0.0.1:8000', [{ type: 'string', pattern: '^https?://.' }], (text) => {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) return { problem: `is not an address; it begins with http:// or https://, such as http://127.0.0.1:8000` }
  if (url.username !== '' || url.password !== '') return { problem: 'holds a user name or password; write it as credential instead' }
  if (url.search !== '' || url.hash !== '') return { problem: `has a part after ${url.search === '' ? '#' : '?'}, which cannot be kept` }
  return { value: { origin: url.origin, pathPrefix: url.pathname.replace(/\/+$/, '').replace(/\/v1$/, '').replace(/\/+$/, '') } }
})

const upstream = object({
  url: required(upstreamUrl, 'Its address, with or without /v1.'),
  provider: optional(oneOrMore(provider, 'has to name a provider'), ['openai'] as const, 'The dialects it speaks: openai, anthropic, http; one or a list. Default openai.'),
  credential: optional(credential, '', 'Replaces the caller\'s key, in the provider\'s own way; best as "${NAME}".'),
  default: optional(bool, false, 'Takes the models that nothing else routes. Default false.'),
  connections_max: optional(positive, null, 'How many connections at most. Default: no bound.'),
  timeouts: optional(object(timeouts), null, 'Where they differ from the server\'s.'),
}, { hints: { base_url: 'did you mean "url"?', api_key: 'did you mean "credential"?', key: 'did you mean "credential"?', providers: 'did you mean "provider"?' } })

const factor = scalar('factor', 'a number, 1 or more, such as 1.5', numberJson, (text) => {
  const decimal = decimalOf(text)
  if ('problem' in decimal) return decimal
  const value = Number(decimal.value.units) / 10 ** decimal.value.decimals
  return value >= 1 && value <= 100 ? { value } : { problem: `${text} is out of range; it has to be from 1 to 100` }
})

const modelEntry = object({
  upstream: optional(id, null, 'Where it is served.'),
  upstream_model: optional(model, null, 'Its name there, when it differs.'),
  context_tokens: optional(positive, null, 'Size of its context.'),
  output_tokens_max: optional(positive, null, 'Longest answer it gives.'),
  output_field: optional(oneOf(['max_tokens', 'max_completion_tokens', 'max_output_tokens']), null, 'The field for the output bound, when the caller used none.'),
  input_factor: optional(factor, 1, 'Multiplies the bound on input tokens, for tokenizers that normalise. Default 1.'),
  template_tokens: optional(object({
    per_call: optional(whole, 0, 'Tokens that its chat template adds to every call.'),
    per_message: optional(whole, 0, 'And for every message.'),
    per_tool: optional(whole, 0, 'And for every tool.'),
  }), null, 'What its chat template adds.'),
  encoding: optional(oneOf(['o200k_base', 'o200k_harmony', 'cl100k_base', 'p50k_base', 'r50k_base']), null, 'Its tokenizer, when one of these is exact for it.'),
  image_tokens: optional(whole, null, 'Most tokens that one image takes.'),
  hidden_output: optional(bool, false, 'It makes output that is not shown, such as reasoning. Default false.'),
})

// ---------------------------------------------------------------------------------------------------------------- plans

export const FEATURES = ['hosted_tools', 'service_tiers', 'store', 'background', 'long_context', 'stateful'] as const

/** What every plan has unless it denies it. */
export const ORDINARY_FEATURES = ['tools', 'vision', 'streaming', 'batch'] as const

/** Endpoints as plans and events name them. */
export const ENDPOINTS = ['chat.completions', 'completions', 'embeddings', 'responses', 'images.generations', 'models', 'messages', 'count_tokens'] as const

const endpoint: Shape<string> = {
  json: { anyOf: [{ enum: ENDPOINTS }, { type: 'string', pattern: '^(GET|HEAD|POST|PUT|PATCH|DELETE|\\*) /\\S*$' }, { type: 'string', pattern: '\\*' }] },
  read(node, at, report) {
    if (node.kind !== 'scalar' || isNothing(node)) {
      report.problem(node, at, `has to be the name of an endpoint, but is ${what(node)}`)
      return undefined
    }
    if (ENDPOINTS.some((name) => name === node.text) || /^(GET|HEAD|POST|PUT|PATCH|DELETE|\*) \/\S*$/.test(node.text)) return node.text
    // A pattern of names has to meet one of them.
    if (/^[a-z_.*]+$/.test(node.text) && node.text.includes('*') && ENDPOINTS.some((name) => globsMeet(node.text, name))) return node.text
    const path = node.text.startsWith('/') ? `; did you mean "POST ${node.text}"?` : report.suggestion(node.text, ENDPOINTS)
    report.problem(node, at, `${quote(node)} is no endpoint; write a known name, or a method and path such as POST /rerank${path}`)
    return undefined
  },
}

/** Is there a name that both patterns match? Only `*` is special. */
export function globsMeet(a: string, b: string): boolean {
  // reachable[j]: the part of `a` read so far and b[0..j) can be equal.
  let reachable = Array.from({ length: b.length + 1 }, () => false)
  reachable[0] = true
  for (let j = 0; j < b.length && b[j] === '*'; j++) reachable[j + 1] = true
  for (const letter of a) {
    const next = Array.from({ length: b.length + 1 }, () => false)
    for (let j = 0; j <= b.length; j++) {
      const onStar = j > 0 && b[j - 1] === '*'
      if (letter === '*') next[j] = reachable[j] === true || (j > 0 && (next[j - 1] === true || reachable[j - 1] === true))
      else next[j] = (j > 0 && reachable[j - 1] === true && (b[j - 1] === letter)) || (onStar && (reachable[j] === true || reachable[j - 1] === true || next[j - 1] === true))
    }
    reachable = next
  }
  return reachable[b.length] === true
}

const entitlements = object({
  models: optional(models, null, 'Names and patterns with *. Default ["*"]: every model.'),
  endpoints: optional(list(endpoint), null, 'Endpoint names, or METHOD /path with *. Default: the stateless ones of the known dialects.'),
  max_output_tokens: optional(positive, null, 'Longest answer, in tokens.'),
  max_context_tokens: optional(positive, null, 'Longest input and answer together, in tokens.'),
  priority: optional(integer('priority', 1, 255), null, 'A lower number goes first; 1 to 255.'),
  features: optional(list(oneOf([...FEATURES, ...ORDINARY_FEATURES])), null, 'Granted: hosted_tools, service_tiers, store, background, long_context, stateful. Default none. And those that deny_features would take away: tools, vision, streaming, batch.'),
  deny_features: optional(list(oneOf(ORDINARY_FEATURES)), null, 'Taken away: tools, vision, streaming, batch, which everybody has otherwise. Default none.'),
})

/** `1 period`, `3 periods`, `30d`, `never`. */
function rolloverExpiry(text: string): { readonly value: NonNullable<Rollover['lasts']> | 'never' } | { readonly problem: string } {
  if (text === 'never') return { value: text }
  const count = /^(\d{1,3}) periods?$/.exec(text)?.[1]
  if (count !== undefined) return Number(count) >= 1 && Number(count) <= 24 ? { value: { kind: 'periods', count: Number(count) } } : { problem: `${shown(text)} is out of range; it is 1 to 24 periods` }
  const ms = durationOf(text)
  if ('problem' in ms) return { problem: `${shown(text)} is no time; write 1 period, 3 periods, a duration such as 30d, or never` }
  return ms.value > 0 ? { value: { kind: 'time', ms: ms.value } } : { problem: 'would be over at once; leave rollover out' }
}

const percent = scalar('threshold', 'a percentage such as 80%', [{ type: 'string', pattern: '^[0-9]+(\\.[0-9]+)?%$' }], (text) => {
  const answer = percentOf(text)
  return 'value' in answer && answer.value === 0 ? { problem: '0% is reached before anything is used; for nothing at all write none' } : answer
})
const percents = list(percent, { empty: 'has to have a percentage; for nothing at all write none' })

/** `none`, `80%` or `[50%, 80%]` → percentages, ascending. */
const thresholds: Shape<readonly number[]> = {
  name: 'thresholds',
  json: { anyOf: [{ const: 'none' }, jsonOf(percent), percents.json] },
  read(node, at, report) {
    if (node.kind === 'scalar' && node.text === 'none') return []
    const read = node.kind === 'seq' ? percents.read(node, at, report) : percent.read(node, at, report)
    return read === undefined ? undefined : [...new Set(typeof read === 'number' ? [read] : read)].sort((a, b) => a - b)
  },
}

const limit = object({
  name: required(named('a name for a limit (printable ASCII without " and \\, no space at its ends, 64 characters at most)', limitGrammar), 'Appears in headers and refusals. The same name in an account or key replaces the plan\'s.'),
  meter: required(raw('meter', 'the name of a meter', [{ type: 'string' }]), `What is counted: ${Object.keys(METERS).join(', ')}, or one of meters.`),
  limit: required(raw('ceiling', 'a number such as 20, 100k or 2.5M, or unlimited', [...numberJson, { type: 'string', pattern: durationPattern }, { type: 'string', pattern: sizePattern }, { enum: ['unlimited', 'subscription'] }]), 'How much; 0 refuses everything. Or unlimited. Of seats also: subscription, as many as that has.'),
  window: optional(raw('window', 'a duration such as 1m, or one of minute, hour, day, week, month, billing_period, term, lifetime', [{ type: 'string', pattern: durationPattern }, { enum: ['minute', 'hour', 'day', 'week', 'month', 'billing_period', 'term', 'lifetime'] }]), null, 'In which time. Concurrency has none.'),
  kind: optional(oneOf(['sliding', 'fixed']), null, 'For a duration: sliding holds in every interval of that length; fixed is aligned to the clock. Default sliding.'),
  per: optional(oneOf(['account', 'key', 'end_user'], { user: '"user" is not one of account, key, end_user; did you mean "end_user"?' }), 'account', 'Whose counter. Default account.'),
  for: optional(object({
    models: optional(list(model, { empty: 'has to name a model; leave it out to mean every model' }), null, 'Only these models.'),
    endpoints: optional(list(endpoint, { empty: 'has to name an endpoint; leave it out to mean every endpoint' }), null, 'Only these endpoints.'),
  }, { hints: { model: 'did you mean "models"?', endpoint: 'did you mean "endpoints"?' } }), null, 'Which calls it counts. Default: all.'),
  each: optional(oneOf(['model']), null, 'model: every model has its own counter.'),
  holder: optional(oneOf(['key', 'end_user'], { user: '"user" is not one of key, end_user; did you mean "end_user"?' }), null, 'Of seats: who holds one. Default key.'),
  linger: optional(duration('linger', 0, 7 * 86_400_000), null, 'Of seats: for how long one is kept after the last call, at least. Default 10m.'),
  mode: optional(oneOf(['enforce', 'shadow'], { enforced: '"enforced" is not one of enforce, shadow; did you mean "enforce"?' }), 'enforce', 'shadow counts and reports, and never refuses. Default enforce.'),
  visible: optional(bool, null, 'In headers and /-/usage. Default true, for cost false.'),
  prepaid: optional(bool, false, 'What is drawn here was paid before: used up, it is refused with 402. A limit of 0 with grants is prepaid credit. Default false.'),
  rollover: optional(object({
    max: required(raw('rollover_max', 'an amount, or a percentage of the limit such as 50%', [...numberJson, { type: 'string', pattern: '%$' }, { type: 'string', pattern: durationPattern }, { type: 'string', pattern: sizePattern }]), 'At most so much of each period: 500k, or 50% of the limit.'),
    expires: optional(scalar('rollover_expiry', 'a number of periods, a duration, or never', [{ type: 'string', pattern: '^([0-9]+ periods?|never)$' }, { type: 'string', pattern: durationPattern }], rolloverExpiry), null, 'How long it lasts from the period\'s end: 1 period, 3 periods, 30d, never. Default 1 period.'),
  }, { hints: { expires_after: 'did you mean "expires"?', limit: 'did you mean "max"?', cap: 'did you mean "max"?' } }), null, 'What a period leaves of the limit goes on as a grant. Default: it is lost.'),
  notify: optional(thresholds, null, 'Percentages of use that are told, such as [50%, 80%], or none. Default: those of notifications.'),
  overdraft: optional(raw('overdraft', 'none, unlimited, a percentage such as 10%, or an amount', [...numberJson, { type: 'string', pattern: '%$' }, { type: 'string', pattern: durationPattern }, { type: 'string', pattern: sizePattern }, { enum: ['none', 'unlimited'] }]), null, 'Use beyond the limit that is still permitted: 10%, an amount, unlimited. Default none.'),
}, {
  name: 'limit',
  hints: {
    max: 'did you mean "limit"?', amount: 'did you mean "limit"?', ceiling: 'did you mean "limit"?', quota: 'did you mean "limit"?', period: 'did you mean "window"?', interval: 'did you mean "window"?',
    enforcement: 'did you mean "mode"?', unit: 'did you mean "meter"?', metric: 'did you mean "meter"?', dimension: 'did you mean "meter"?', scope: 'did you mean "per"?', models: 'did you mean for: { models: [...] }?',
    model: 'did you mean for: { models: [...] }?', endpoints: 'did you mean for: { endpoints: [...] }?', burst: 'there is no burst; a sliding window admits its limit at any speed',
  },
})
const limits = list(limit)

const rate = raw('price', 'a price such as 0.15/M, 2/k or 0.001', [{ type: 'number', minimum: 0 }, { type: 'string', pattern: '^[0-9][0-9_]*(\\.[0-9]+)?(/[kM])?$' }])
const quantity = raw('quantity', 'an amount such as 1000, 100k or 2.5M, or unlimited', [...numberJson, { const: 'unlimited' }])
const money = raw('money', 'an amount of money such as 49 or 49.90', numberJson)

const tiers = list(object({
  up_to: optional(quantity, null, 'The last unit that it holds for; the last tier has none.'),
  price: required(rate, 'Price of a unit in this tier.'),
}, { name: 'price_tier', hints: { from: 'tiers say where they end: did you mean "up_to"?' } }), { empty: 'has to have a tier' })

/** Of the forms exactly one; that and the tiers' order are checked in `price-cards.ts`. */
const periodPrice = object({
  graduated: optional(tiers, null, 'Each unit has the price of its tier, counted over the billing period.'),
  volume: optional(tiers, null, 'All units of the billing period have the price of the tier that the last one is in.'),
  package: optional(object({
    size: required(quantity, 'Units in a package.'),
    price: required(money, 'What a package costs; begun ones count whole, over the billing period.'),
  }), null, 'So much for every so many.'),
}, { name: 'period_price', hints: { tiers: 'did you mean "graduated" or "volume"?', unit: 'write the price itself: 0.15/M' } })
const price = either(rate, periodPrice)

/** What a price can be for. */
export const PRICED = [
  'requests', 'input_tokens', 'cached_input_tokens', 'cache_write_tokens', 'output_tokens', 'reasoning_tokens', 'total_tokens', 'compute_seconds',
  'bytes_in', 'bytes_out', 'audio_seconds', 'images',
] as const satisfies readonly BuiltinMeter[]
export type Priced = (typeof PRICED)[number]

function priceFields<N extends string, T>(names: readonly N[], shape: Shape<T>, about: (name: N) => string): { readonly [K in N]: Field<T | null> } {
  return Object.fromEntries(names.map((name) => [name, optional(shape, null, about(name))])) as { readonly [K in N]: Field<T | null> }
}
const aboutPrice = (meter: Priced): string => `Price of ${METERS[meter].unit}: 0.15/M for a million, 2/k for a thousand, 0.001 for one.`

const longInput = object({
  over: required(quantity, 'For calls whose input has more tokens than this: all their tokens have these prices.'),
  ...priceFields(PRICED, rate, aboutPrice),
}, { name: 'long_input' })
const rates = object({
  ...priceFields(PRICED, price, aboutPrice),
  ...priceFields(FEATURES, rate, (feature) => `For each call that uses ${feature}.`),
  long_input: optional(list(longInput), null, 'Prices of calls with a long input; what is not given stays.'),
}, { name: 'rates', hints: { cache_read_tokens: 'did you mean "cached_input_tokens"?', features: 'write the features themselves: hosted_tools: 0.01' } })

const costPlus = object({
  providers: required(oneOrMore(named('a provider of the public price data, such as openai', /^[a-z0-9_-]{1,64}$/), 'has to name a provider'), 'Whose public prices: openai, anthropic, google … ; of two that have a model, the first.'),
  markup: required(raw('markup', 'a percentage such as 20%', [{ type: 'string', pattern: '%$' }]), 'Added to them.'),
}, { name: 'cost_plus', hints: { provider: 'did you mean "providers"?' } })

const priceCard = object({
  currency: required(named('a currency code of three capital letters, such as USD', /^[A-Z]{3}$/), 'ISO 4217 code.'),
  scale: optional(integer('scale', 6, 9), null, 'In how many digits after the point money is counted: 9, or 6 for a currency of which much makes little, such as JPY. Default 9.'),
  version: required(named('a version such as its date, 2026-11-01 (printable ASCII, 64 characters at most)', /^[!-~]{1,64}$/), 'When these prices began; events carry it.'),
  from: optional(instant, null, 'In force from then on, by the instant of a call\'s admission. Default: always.'),
  models: optional(mapping('model', modelGrammar, rates), null, 'Prices by model; the exact name, then the longest pattern.'),
  cost_plus: optional(costPlus, null, 'Public prices with a markup, for models that have none here.'),
}, { name: 'price_card', hints: { rates: 'did you mean "models"?', prices: 'did you mean "models"?' } })

/** One card, or its versions one after the other. */
function rateCard(card: Shape<RawPriceCard>): Shape<readonly RawPriceCard[]> {
  const versions = list(card, { empty: 'has to have a version' })
  return {
    name: 'rate_card',
    json: { anyOf: [jsonOf(card), versions.json] },
    read(node, at, report) {
      if (node.kind === 'seq') return versions.read(node, at, report)
      const value = card.read(node, at, report)
      return value === undefined ? undefined : [value]
    },
  }
}
const prices = rateCard(priceCard)
const planPrices: Shape<string | readonly RawPriceCard[]> = {
  json: { anyOf: [jsonOf(id), jsonOf(prices)] },
  read: (node, at, report) => (node.kind === 'scalar' ? id : prices).read(node, at, report),
}

const fee = object({
  name: required(named('a name for a fee (printable ASCII without " and \\, no space at its ends, 64 characters at most)', limitGrammar), 'Stands on the invoice.'),
  amount: required(money, 'How much, in the currency of the prices.'),
  every: optional(oneOf(['billing_period', 'year', 'once'], { month: '"month" is not one of billing_period, year, once; a billing period is a month long: write billing_period' }), 'billing_period', 'billing_period; year: in the billing period in which a year of the account begins; once: when the account comes to the plan. Default billing_period.'),
})

const policy = object({
  reserve: optional(oneOf(['worst_case', 'slices']), null, 'worst_case holds the whole output bound; slices grow with the stream. Default worst_case.'),
  output_default: optional(positive, null, 'The output bound when nothing gives one. Default 4096.'),
  on_insufficient: optional(oneOf(['clamp', 'refuse']), null, 'When less is left than asked for. Default clamp.'),
  clamp_floor: optional(positive, null, 'Never clamped below this. Default 1024.'),
  on_disconnect: optional(oneOf(['cancel', 'drain']), null, 'When the caller leaves: stop the upstream, or read to its end. Default cancel.'),
  count_failed: optional(bool, null, 'Calls that the upstream failed count toward request limits. Default false.'),
  store_down: optional(either(oneOf(['deny', 'allow'], { allow_up_to: 'allow_up_to needs an amount: { allow_up_to: 1000 }' }), object({ allow_up_to: required(whole, 'So many calls.') })), null, 'While the store is away: deny, allow, or { allow_up_to: N }. Default deny.'),
  wait: optional(duration('wait', 0, 600_000), null, 'How long a call may wait for capacity before it is refused. Default 0s.'),
  unpriced: optional(oneOf(['check', 'refuse', 'free']), null, 'A model without a price, on a plan with prices: check makes a configured one a mistake and refuses all others; refuse; free. Default: refused where a limit in money depends on it.'),
})

const moment = scalar('moment', 'a day such as 2027-01-15 or an instant such as 2027-01-15T10:00:00Z', [{ type: 'string', pattern: '^\\d{4}-\\d{2}-\\d{2}' }], (text) => {
  const answer = momentOf(text, 'UTC')
  return 'problem' in answer ? answer : { value: text }
})

const grantFields = {
  id: required(named('an id (a letter or digit first, then letters, digits and . _ + -; 64 at most)', /^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$/), 'Identifies it within the account; in events it is the name of the bucket.'),
  limit: required(named('the name of a limit', limitGrammar), 'Which limit it extends: an allowance of the account.'),
  amount: required(raw('grant_amount', 'an amount such as 500k or 25.50', [...numberJson, { type: 'string', pattern: durationPattern }, { type: 'string', pattern: sizePattern }]), 'How much, in units of what the limit counts.'),
  meter: optional(raw('meter', 'the name of a meter', [{ type: 'string' }]), null, 'Needed only where there are limits of this name on different meters.'),
  priority: optional(integer('grant_priority', 1, 255), null, 'The lowest is drawn first; 1 to 255. Default 100.'),
  effective: optional(moment, null, 'Drawn from then on. Default: always.'),
  expires: optional(moment, null, 'Not drawn from then on. Default: never.'),
  every: optional(oneOf(['day', 'week', 'month', 'billing_period', 'term'], { monthly: '"monthly" is not a period; did you mean "month"?', year: '"year" is not a period here; with a yearly term write term' }), null, 'A new one in every period, in place of the last. Default: once.'),
  expires_after: optional(duration('grant_length', 60_000, 3_660 * dayMs), null, 'How long each lasts from its start. Default, with every: its period.'),
  note: optional(scalar('note', 'a text of 256 characters at most', [{ type: 'string' }], (text) => text.length <= 256 ? { value: text } : { problem: 'is longer than 256 characters' }), null, 'For people.'),
}
const grantHints = { expires_at: 'did you mean "expires"?', expiry: 'did you mean "expires"?', effective_at: 'did you mean "effective"?', from: 'did you mean "effective"?', until: 'did you mean "expires"?', recurrence: 'did you mean "every"?', name: 'did you mean "id"?', meter_amount: 'did you mean "amount"?' }
const grants = list(object({ ...grantFields, source: optional(oneOf(['operator', 'purchase']), null, 'purchase: it was paid for. Default operator; in an add-on, purchase.') }, { name: 'grant', hints: grantHints }))

const proration = oneOf(['none', 'by_day'], { daily: '"daily" is not one of none, by_day; did you mean "by_day"?' })

const plan = object({
  version: optional(positive, 1, 'Labels events. Default 1.'),
  public: optional(bool, false, 'Refusals may name it as a plan that has what is missing. Default false.'),
  extends: optional(id, null, 'The plan whose terms it takes over and changes.'),
  entitlements: optional(entitlements, null, 'What it may use.'),
  limits: optional(limits, [], 'How much.'),
  grants: optional(grants, [], 'Given to every account on the plan, on top of its allowances: included credit.'),
  policy: optional(policy, null, 'What to do at the edges.'),
  proration: optional(proration, null, 'A change to this plan within a period: none, or by_day for allowances and fees. Default none.'),
  prices: optional(planPrices, null, 'Prices: the name of one of prices, or a card of its own.'),
  fees: optional(list(fee), null, 'Flat fees.'),
  minimum: optional(money, null, 'What the usage of a billing period costs at least: the invoice adds what is missing.'),
  included: optional(mapping('priced meter', grammar(/^[a-z_]{1,32}$/, `it is one of ${PRICED.join(', ')}`), quantity), null, 'Units of a billing period that cost nothing, by meter; the dearest first.'),
}, { hints: { models: 'did you mean entitlements: { models: [...] }?', endpoints: 'did you mean entitlements: { endpoints: [...] }?', features: 'did you mean entitlements: { features: [...] }?', price: 'did you mean "prices"?', commitment: 'did you mean "minimum"?', inherits: 'did you mean "extends"?', parent: 'did you mean "extends"?' } })

const addition = object({
  name: required(named('the name of a limit', limitGrammar), 'Which limit has more.'),
  limit: required(raw('added', 'an amount with a plus sign, such as +1M', [{ type: 'string', pattern: '^\\+' }, { type: 'number', minimum: 0 }]), 'How much more: +1M.'),
  meter: optional(raw('meter', 'the name of a meter', [{ type: 'string' }]), null, 'Needed only where plans have limits of this name on different meters.'),
}, { name: 'addition', hints: { window: 'what is added has the window of the limit; leave it out' } })

/** More of a limit that there is (`limit: +1M`), or a limit of its own. */
const addOnLimit: Shape<{ readonly addition: Of<typeof addition> } | { readonly own: Of<typeof limit> }> = {
  json: { anyOf: [jsonOf(addition), jsonOf(limit)] },
  read(node, at, report) {
    const amount = node.kind === 'map' ? node.entries.get('limit')?.value : undefined
    if (amount?.kind === 'scalar' && amount.text.startsWith('+')) {
      const read = addition.read(node, at, report)
      return read === undefined ? undefined : { addition: read }
    }
    const read = limit.read(node, at, report)
    return read === undefined ? undefined : { own: read }
  },
}

const addOn = object({
  limits: optional(list(addOnLimit), [], 'More of limits that there are, as limit: +1M, or limits of its own.'),
  entitlements: optional(entitlements, null, 'Models, endpoints and features are added; the rest stands in place of the plan\'s.'),
  grants: optional(grants, [], 'Given to every account that has it, once for each time.'),
}, { hints: { models: 'did you mean entitlements: { models: [...] }?', features: 'did you mean entitlements: { features: [...] }?' } })

// ---------------------------------------------------------------------------------------------------------------- accounts, keys, sinks

const labelValue = scalar('label', 'a text of 256 characters at most', [{ type: ['string', 'number', 'boolean'] }], (text) => text.length <= 256 ? { value: text } : { problem: 'is longer than 256 characters' })
const labels = mapping('label', labelGrammar, labelValue)

const timeZone = scalar('timezone', 'a time zone such as Europe/Berlin', [{ type: 'string' }], (text) => isTimeZone(text) ? { value: text } : { problem: `${shown(text)} is not a time zone; write an IANA name such as Europe/Berlin, or UTC` })

const billing = object({
  anchor: optional(scalar('date', 'a date such as 2026-01-15', [{ type: 'string', pattern: '^\\d{4}-\\d{2}-\\d{2}$' }], dateOf), null, 'The day from which billing periods are counted.'),
  timezone: optional(timeZone, null, 'IANA name. Default UTC.'),
}, { hints: { time_zone: 'did you mean "timezone"?', tz: 'did you mean "timezone"?', start: 'did you mean "anchor"?' } })

const subscription = object({
  kind: required(oneOf(['perpetual', 'term', 'trial']), 'perpetual has no end; term ends, or renews; trial ends for good.'),
  start: required(moment, 'Refused before. A day begins by the time zone.'),
  trial_end: optional(moment, null, 'Of a trial: its end. Of a term: a trial comes first, and the first term begins here.'),
  end: optional(moment, null, 'Refused from then on, after the grace.'),
  term: optional(scalar('term', 'month, year, or a number of days, weeks, months or years', [{ type: 'string' }], termOf), null, 'Length of a term: month, year, 3 months.'),
  renewal: optional(oneOf(['auto', 'none']), null, 'auto: a term follows the other; none: it ends with the first. Default auto where there is a term and no end.'),
  grace: optional(duration('grace', 0, 366 * dayMs), 0, 'Still served so long after the end. Default 0.'),
  timezone: optional(timeZone, null, 'By whose clock terms are counted. Default: that of billing.'),
  seats: optional(positive, null, 'The ceiling of seats limits that say limit: subscription, and of the plan\'s concurrency limit named seats.'),
  suspended: optional(object({ from: required(moment, 'Refused from then on.'), until: optional(moment, null, 'Served again.') }), null, 'Refused for a while.'),
  plan_changes: optional(list(object({
    plan: required(id, 'The new plan.'), from: required(moment, 'From when.'), proration: optional(proration, null, 'In place of the plan\'s.'),
  })), [], 'Other plans later; the account\'s plan is the first.'),
}, { hints: {
  starts: 'did you mean "start"?', ends: 'did you mean "end"?', expires: 'did you mean "end"?', until: 'did you mean "end"?', renew: 'did you mean "renewal"?', auto_renew: 'did you mean renewal: auto?',
  trial: 'did you mean "trial_end"?', trial_ends: 'did you mean "trial_end"?', plan: 'the plan stands beside subscription; later ones are plan_changes', time_zone: 'did you mean "timezone"?',
} })

export const account = object({
  plan: optional(id, null, 'Its plan.'),
  parent: optional(id, null, 'The account above it, whose limits apply too.'),
  billing: optional(billing, null, 'Its calendar.'),
  limits: optional(limits, [], 'Added to the plan\'s; the same name replaces.'),
  entitlements: optional(entitlements, null, 'In place of the plan\'s, field by field.'),
  labels: optional(labels, null, 'Copied into its events.'),
  suspended: optional(bool, false, 'Refused with 403. Default false.'),
  subscription: optional(subscription, null, 'From when until when. Default: always; or what the store has.'),
  add_ons: optional(list(id), [], 'What was bought beside the plan; named twice, it counts twice.'),
  grants: optional(grants, [], 'Amounts beyond the limits: bought, or given. The same id replaces the plan\'s.'),
})

type EndUserFrom = { readonly kind: 'header'; readonly name: string } | { readonly kind: 'body'; readonly field: 'user' }
const endUser = scalar<EndUserFrom>('end_user_from', 'header:NAME or body:user', [{ type: 'string', pattern: '^(header:.+|body:user)$' }], (text) => {
  const header = /^header:([A-Za-z0-9!#$%&'*+.^_`|~-]+)$/.exec(text)
  if (header !== null) return { value: { kind: 'header', name: (header[1] ?? '').toLowerCase() } }
  return text === 'body:user' ? { value: { kind: 'body', field: 'user' } } : { problem: `${shown(text)} is neither header:NAME nor body:user` }
})

const key = object({
  id: required(id, 'Identifies it everywhere.'),
  account: optional(id, null, 'The account that pays.'),
  plan: optional(id, null, 'Instead of an account: it is its own, on this plan.'),
  hash: optional(hash, null, 'SHA-256 of the secret, as sha256:<hex>.'),
  secret: optional(secret, null, 'The secret itself, 20 characters or more; best as "${NAME}".'),
  limits: optional(limits, [], 'Added to the plan\'s and the account\'s; the same name replaces.'),
  entitlements: optional(entitlements, null, 'In place of the plan\'s, field by field.'),
  labels: optional(labels, null, 'Copied into its events.'),
  expires: optional(instant, null, 'Refused from then on.'),
  end_user_from: optional(endUser, null, 'Whose claim of an end user is believed: header:NAME or body:user.'),
}, { hints: { key: 'did you mean "secret" or "hash"?', name: 'did you mean "id"?', expires_at: 'did you mean "expires"?' } })

/** A secret of any length: others have made it. It may not be empty, which would sign for nobody. */
const givenSecret = scalar('given_secret', 'a secret, best as "${NAME}" or "${file:/run/secrets/name}"', [{ type: 'string', minLength: 1 }], (text) => (
  text !== '' && visible(text) ? { value: text } : { problem: 'is no secret: it is made of visible ASCII characters, without spaces or line breaks' }
), { discreet: true })
const receiver = scalar('receiver', 'the address of a receiver such as https://api.example.com', [{ type: 'string', pattern: '^https?://.' }], (text) => {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) return { problem: 'is not an address; it begins with https:// or http://' }
  if (url.username !== '' || url.password !== '') return { problem: 'holds a user name or password; there is a setting of its own for that' }
  return url.hash === '' ? { value: text } : { problem: 'has a part after #, which cannot be sent' }
}, { discreet: true })
const text = scalar('text', 'a text', [{ type: ['string', 'number', 'boolean'] }], (word) => ({ value: word }))
const patterns = oneOrMore(model, 'has to have a pattern; leave it out to mean all')
const fixedProperties = mapping('property', labelGrammar, text)

function settingShape(field: SettingField): Shape<unknown> {
  switch (field.is) {
    case 'text': return text
    case 'path': return path
    case 'url': return receiver
    case 'secret': return givenSecret
    case 'secrets': return oneOrMore(givenSecret, 'has to have a secret')
    case 'duration': return duration('setting_duration', 0, 3_660 * dayMs)
    case 'size': return size
    case 'integer': return field.min === undefined && field.max === undefined ? whole : integer(`integer_${field.min ?? 0}_${field.max ?? ''}`, field.min ?? 0, field.max)
    case 'boolean': return bool
    case 'choice': return oneOf(field.among ?? [])
    case 'texts': return oneOrMore(text, 'has to have an item')
    case 'map': return mapping('name', /^[!-~]{1,128}$/, text)
  }
}

const sinkFilter = object({
  accounts: optional(patterns, null, 'Only these accounts; names and patterns with *.'),
  plans: optional(patterns, null, 'Only these plans.'),
  models: optional(patterns, null, 'Only calls of these models, as callers named them.'),
}, { name: 'sink_filter', hints: { account: 'did you mean "accounts"?', plan: 'did you mean "plans"?', model: 'did you mean "models"?' } })
const sinkMeter = object({
  code: required(named('a name of a meter (printable ASCII, 80 characters at most)', /^[!-~](?:[ -~]{0,78}[!-~])?$/), 'The receiver\'s name of the meter.'),
  quantity: required(raw('told_quantity', 'a quantity such as input_tokens - cached_input_tokens, or cost', [{ type: 'string' }]), 'What is told: a meter, or a sum or difference of meters.'),
  value_property: optional(text, null, 'The property that holds the value, where the receiver has it among the properties. Default value.'),
  copied: optional(mapping('property', labelGrammar, text), null, 'Properties from fields of the event: { model: model_served }.'),
  fixed: optional(fixedProperties, null, 'Properties that are the same on every record: { type: input }.'),
}, { name: 'sink_meter', hints: { meter: 'did you mean "quantity" or "code"?', properties: 'did you mean "copied" or "fixed"?', name: 'did you mean "code"?' } })

/** Of every sink. */
const sinkFields = {
  name: required(id, 'Identifies it; its place in the outbox is kept under this name.'),
  filter: optional(sinkFilter, null, 'Which events it gets. Default: all.'),
}
/** Of sinks that are told single quantities. */
const recordFields = {
  meters: optional(list(sinkMeter, { empty: 'has to have a meter; leave it out for the sink\'s own' }), null, 'Which quantities become which meters of the receiver. Default: the sink\'s own.'),
  customers: optional(mapping('account', idGrammar, text), null, 'The receiver\'s ids of accounts: { acme: cus_123 }. Else the account\'s label TYPE_customer, else its own id.'),
  unmapped: optional(oneOf(['bury', 'skip']), 'bury', 'Events of accounts without an id there: bury keeps them among the dead, skip leaves them out. Default bury.'),
  rollup: optional(oneOf(['minute', 'hour']), null, 'One record for all that a customer used in a minute or an hour. Default: one for each event.'),
}
type RawSinkFields = Read<typeof sinkFields> & Partial<Read<typeof recordFields>>
/** The settings of its kind lie beside, under their own names. */
export type RawSink = RawSinkFields & { readonly type: string; readonly [setting: string]: unknown }

function sinkShape(kind: SinkKind): Shape<RawSink> {
  const settings: { [name: string]: Field<unknown> } = {}
  for (const [name, field] of Object.entries(kind.settings)) {
    assert(!Object.hasOwn(sinkFields, name) && !Object.hasOwn(recordFields, name) && name !== 'type' && name !== 'private', `the setting ${name} of ${kind.type} is called like one of every sink`)
    settings[name] = 'otherwise' in field ? optional(settingShape(field), field.otherwise, field.about) : required(settingShape(field), field.about)
  }
  if (Object.values(kind.settings).some(({ is }) => is === 'url')) settings['private'] = optional(bool, false, 'Loopback and private addresses are meant. Default false.')
  const shape = object({
    ...sinkFields, type: required(oneOf([kind.type]), `${kind.type}: this kind of sink.`), ...settings, ...(kind.takes === 'records' ? recordFields : {}),
  } as Fields, { name: `${kind.type}_sink` })
  // The fields are those of RawSink and the kind's settings, which no type can know.
  return shape as unknown as Shape<RawSink>
}

const sinkShapes = new Map(sinkKinds.map((kind) => [kind.type, sinkShape(kind)]))
const sinkTypes = [...sinkShapes.keys()]
const LATER_SINKS = ['nats', 'postgres', 's3', 'otlp', 'prometheus', 'exec', 'redis', 'autumn', 'schematic', 'stigg', 'zuora', 'killbill', 'moesif'] as const
const sinkType = oneOf(sinkTypes, Object.fromEntries(LATER_SINKS.map((name) => [name, `the sink ${name} is not in this release`])))

const sink: Shape<RawSink> = {
  json: { anyOf: [...sinkShapes.values()].map(jsonOf) },
  read(node, at, report) {
    if (node.kind !== 'map') {
      report.problem(node, at, `has to be a mapping with name and type, but is ${what(node)}`)
      return undefined
    }
    const entry = node.entries.get('type')
    if (entry === undefined) {
      report.problem(node, at, `type is missing; it is one of ${listed(sinkTypes)}`)
      return undefined
    }
    const type = sinkType.read(entry.value, pathOf(at, 'type'), report)
    return type === undefined ? undefined : sinkShapes.get(type)?.read(node, at, report)
  },
}

// ---------------------------------------------------------------------------------------------------------------- notifications

const webhookUrl = scalar('webhook_url', 'an address such as https://hooks.example.com/tallygate', [{ type: 'string', pattern: '^https?://.' }], (text) => {
  const url = URL.parse(text)
  // It may hold a secret, so it is not shown.
  if (url === null || !/^https?:$/.test(url.protocol)) return { problem: 'is not an address; it begins with http:// or https://, such as https://hooks.example.com/tallygate' }
  if (url.username !== '' || url.password !== '') return { problem: 'holds a user name or password; write it as headers: { authorization: "${NAME}" } instead' }
  return url.hash === '' ? { value: url.href } : { problem: 'has a part after #, which is never sent' }
}, { discreet: true })

const signingSecret = scalar('signing_secret', 'a secret as whsec_ and the base64 of 24 to 64 bytes', [{ type: 'string', pattern: '^whsec_[A-Za-z0-9+/]+=*$' }], (text) => {
  const made = 'make one with: echo whsec_$(openssl rand -base64 32)'
  if (!/^whsec_(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) return { problem: `is not whsec_ and base64; ${made}` }
  const bytes = Buffer.from(text.slice('whsec_'.length), 'base64').length
  return bytes >= 24 && bytes <= 64 ? { value: text } : { problem: `has ${bytes} bytes; it needs 24 to 64; ${made}` }
}, { discreet: true })

const headerGrammar = grammar(/^(?!(?:webhook-.*|content-.*|host|connection|transfer-encoding|upgrade|te|trailer|expect|keep-alive|user-agent)$)[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/i, 'it is a header that the gateway does not set itself')
const headerValue = scalar('header_value', 'a text of visible ASCII characters, best as "${NAME}"', [{ type: 'string' }], (text) => /^[!-~](?:[ -~]{0,1022}[!-~])?$/.test(text) ? { value: text } : { problem: 'is made of visible ASCII characters, 1024 at most' }, { discreet: true })

const webhook = object({
  url: required(webhookUrl, 'Where notices are sent, by POST.'),
  secret: optional(signingSecret, null, 'Signs each call: whsec_ and base64; best as "${NAME}".'),
  secrets: optional(list(signingSecret), null, 'While one is being replaced: all of them, the newest first; each signs.'),
  types: optional(list(oneOf(NOTICE_TYPES, { thresholds: '"thresholds" is not a type of notice; did you mean "threshold"?' }), { empty: 'has to name a type; leave it out to mean all' }), null, 'Which notices. Default: all.'),
  accounts: optional(list(named('an account or a pattern with *', /^[A-Za-z0-9*][A-Za-z0-9._@+*-]{0,127}$/), { empty: 'has to name an account; leave it out to mean all' }), null, 'Of which accounts. Default: all.'),
  headers: optional(mapping('header', headerGrammar, headerValue), null, 'Further headers, such as authorization.'),
}, { name: 'webhook', hints: { key: 'did you mean "secret"?', events: 'did you mean "types"?', type: 'did you mean "types"?', account: 'did you mean "accounts"?', signing_secret: 'did you mean "secret"?' } })

// ---------------------------------------------------------------------------------------------------------------- telemetry

/** An OTLP receiver's address over HTTP, without the paths of its signals and without a slash at its end. */
export const otlpUrl = scalar('otlp_url', 'an address such as http://127.0.0.1:4318', [{ type: 'string', pattern: '^https?://.' }], (text) => {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) return { problem: 'is not an address; it begins with http:// or https://, such as http://127.0.0.1:4318' }
  if (url.username !== '' || url.password !== '') return { problem: 'holds a user name or password; write it as headers: { authorization: "${NAME}" } instead' }
  if (url.search !== '' || url.hash !== '') return { problem: `has a part after ${url.search === '' ? '#' : '?'}, which cannot be kept` }
  if (/\/v1\/(traces|metrics|logs)\/?$/.test(url.pathname)) return { problem: 'names one signal; leave out /v1/traces or /v1/metrics, they are added' }
  return { value: `${url.origin}${url.pathname.replace(/\/+$/, '')}` }
})

const sample = scalar('sample', 'a percentage from 0% to 100%, such as 10%', [{ type: 'string', pattern: '^[0-9]+(\\.[0-9]+)?%$' }], (text) => {
  const answer = percentOf(text)
  return 'value' in answer && answer.value <= 100 ? answer : { problem: `${shown(text)} is not a percentage from 0% to 100%, such as 10%` }
})

const telemetryWrong = 'has to be a mapping, or off; to switch it off write off'
const telemetry = either(oneOf(['off'], { none: telemetryWrong, on: telemetryWrong, true: telemetryWrong, false: telemetryWrong }), object({
  otlp: required(otlpUrl, 'Where traces and metrics are sent: an OTLP receiver over HTTP, without /v1/traces.'),
  headers: optional(mapping('header', headerGrammar, headerValue), null, 'Sent with them, such as authorization.'),
  sample: optional(sample, null, 'How many of the traces that begin here are recorded; of the others the caller has decided. Default 10%.'),
  service_name: optional(named('a name (printable ASCII, 128 at most)', /^[!-~](?:[ -~]{0,126}[!-~])?$/), null, 'Names the service. Default tallygate.'),
}, { hints: { endpoint: 'did you mean "otlp"?', url: 'did you mean "otlp"?', ratio: 'did you mean "sample"?', sampling: 'did you mean "sample"?', service: 'did you mean "service_name"?' } }))

const off = 'has to be a mapping, or none; to switch everything off write none'
const notifications = either(oneOf(['none'], { off, false: off, no: off, true: off, on: off }), object({
  thresholds: optional(thresholds, null, 'Percentages of use at which somebody is told, or none. Default [50%, 80%, 100%].'),
  forecast: optional(bool, true, 'Tells ahead that a limit will be used up before its period ends. Default true.'),
  limits: optional(list(named('the name of a limit or a pattern with *', limitGrammar), { empty: 'has to name a limit; to tell of none write thresholds: none' }), null, 'Which limits. Default: visible ones of a day or longer, and all in money or prepaid.'),
  webhooks: optional(list(webhook), [], 'Who is told, beside the log and the admin API.'),
}, { hints: { webhook: 'did you mean "webhooks"?', notify: 'did you mean "thresholds"?', threshold: 'did you mean "thresholds"?' } }))

// ---------------------------------------------------------------------------------------------------------------- the file

const builtin = new Set(Object.keys(METERS))

export const root = object({
  $schema: optional(textOrEmpty, null, 'For editors.'),
  include: optional(oneOrMore(path, 'has to name a file'), null, 'Further files, as paths and patterns with *, relative to this one.'),
  instance: optional(id, null, 'Names this gateway in events. Default: the host\'s name.'),
  server: optional(server, null, 'The port that callers use.'),
  admin: optional(admin, null, 'The port that operators use.'),
  store: optional(store, null, 'Where counters and events are kept. Default embedded:./data.'),
  events: optional(events, null, 'How long usage events are kept.'),
  analytics: optional(analytics, null, 'How long usage is kept by minute, hour, day and month, for looking at; or off.'),
  upstreams: section(mapping('upstream', idGrammar, upstream), 'Where inference happens. None: UPSTREAM_URL, or the demo model.'),
  models: section(mapping('model', modelGrammar, modelEntry), 'Known models: their bounds and where they are served.'),
  meters: section(mapping('meter', meterGrammar, raw('expression', 'an expression such as input_tokens + 4 * output_tokens', [{ type: 'string' }]), (name) => builtin.has(name) ? `${name} is a meter already; choose another name` : undefined), 'Meters of your own: sums such as input_tokens + 4 * output_tokens.'),
  prices: section(mapping('price card', idGrammar, prices), 'Price cards that plans may name; one card, or its dated versions.'),
  plans: section(mapping('plan', idGrammar, plan), 'What can be bought.'),
  add_ons: section(mapping('add-on', idGrammar, addOn), 'What can be bought beside a plan.'),
  accounts: section(mapping('account', idGrammar, account), 'Who pays.'),
  keys: optional(list(key), [], 'Who may call.'),
  sinks: optional(list(sink), [], 'Where usage events go.'),
  notifications: optional(notifications, null, 'Who is told when something runs out or ends; or none.'),
  telemetry: optional(telemetry, null, 'Traces and metrics for an OpenTelemetry receiver; or off. Default: off, or what OTEL_EXPORTER_OTLP_ENDPOINT says.'),
}, { extra: /^x-/, lenient: true })

/** Sections of named things, which several files may share; lists are joined; all else stands in one file only. */
export const sharedSections = new Set(['upstreams', 'models', 'meters', 'prices', 'plans', 'add_ons', 'accounts'])
export const joinedSections = new Set(['keys', 'sinks'])

type Of<S> = S extends Shape<infer T> ? T : never
export type RawConfig = Of<typeof root>
export type RawLimit = Of<typeof limit>
export type RawNotifications = Of<typeof notifications>
export type RawWebhook = Of<typeof webhook>
export type RawTelemetry = Of<typeof telemetry>
export type RawEntitlements = Of<typeof entitlements>
export type RawPlan = Of<typeof plan>
export type RawAddOn = Of<typeof addOn>
export type RawAddition = Of<typeof addition>
export type RawGrant = Of<typeof grants>[number]
export type RawSubscription = Of<typeof subscription>
export type RawPolicy = Of<typeof policy>
export type RawPriceCard = Of<typeof priceCard>
export type RawRates = Of<typeof rates>
export type RawPeriodPrice = Of<typeof periodPrice>
export type RawTier = Of<typeof tiers>[number]
export type RawAccount = Of<typeof account>
export type RawKey = Of<typeof key>
export type RawSinkMeter = Of<typeof sinkMeter>
export type RawStore = Of<typeof store>
export type RawUpstream = Of<typeof upstream>
export type RawModel = Of<typeof modelEntry>
export type RawTimeouts = { readonly connect: number | null; readonly first_byte: number | null; readonly idle: number | null; readonly total: number | null }
