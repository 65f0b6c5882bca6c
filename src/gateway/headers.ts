import { serializeItem, serializeString } from 'structured-headers'
import type { QuotaItem } from '../metering/quota.ts'
import type { Provider } from '../providers/provider.ts'
import type { Trace } from '../telemetry/telemetry.ts'
import { listOf } from './request-head.ts'

/** Everything about headers that pass through or tell of quotas. All lists are flat: name, value, name, value …; names lower-case. */

// ---- What a hop keeps to itself -------------------------------------------------------------------------------------------------

const hopByHop = [
  'connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info', 'te', 'trailer',
  'transfer-encoding', 'upgrade', 'http2-settings',
]

/** Of requests: hop-by-hop, what is made anew, every place a key may be in, and what only our own hop or a trusted proxy may say. */
const keptFromUpstream: ReadonlySet<string> = new Set([
  ...hopByHop, 'host', 'content-length', 'content-encoding', 'expect', 'accept-encoding', 'via',
  'authorization', 'x-api-key', 'api-key', 'x-goog-api-key', 'cookie', 'referer',
  'openai-organization', 'openai-project', 'x-goog-user-project',
  'forwarded', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'cf-connecting-ip', 'x-original-url', 'x-rewrite-url', 'x-http-method-override',
  'x-request-id', 'request-id', 'ratelimit', 'ratelimit-policy', 'origin',
])
const keptFromUpstreamPrefixes = ['x-forwarded-', 'x-tallygate-', 'x-ratelimit-', 'anthropic-ratelimit-', 'access-control-', 'sec-fetch-']

/** Of answers: hop-by-hop, whatever describes the operator's account at the upstream, and what would send the caller past us. */
const keptFromDownstream: ReadonlySet<string> = new Set([
  ...hopByHop, 'set-cookie', 'set-cookie2', 'openai-organization', 'openai-project', 'anthropic-organization-id', 'anthropic-workspace-id',
  'ratelimit', 'ratelimit-policy', 'x-tokenlimit-limit', 'x-tokenlimit-remaining', 'x-request-id', 'request-id', 'alt-svc', 'strict-transport-security',
])
const keptFromDownstreamPrefixes = [
  'x-ratelimit', 'ratelimit-', 'anthropic-ratelimit-', 'anthropic-priority-', 'access-control-', 'x-tallygate-', 'x-ms-', 'ratelimitbysize-',
]

/** They tell of the whole body as the upstream sent it. */
const untrueOnceEdited: ReadonlySet<string> = new Set(['content-length', 'etag', 'content-md5', 'digest', 'content-digest', 'repr-digest', 'accept-ranges'])

/** Most names are decided by a look-up once they have been seen. Bounded, as callers choose names. */
class NameRule {
  readonly #names: ReadonlySet<string>
  readonly #prefixes: readonly string[]
  readonly #known = new Map<string, boolean>()

  constructor(names: ReadonlySet<string>, prefixes: readonly string[]) {
    this.#names = names
    this.#prefixes = prefixes
  }

  keeps(name: string): boolean {
    let keeps = this.#known.get(name)
    if (keeps === undefined) {
      keeps = this.#names.has(name) || this.#prefixes.some((prefix) => name.startsWith(prefix))
      if (this.#known.size < 512) this.#known.set(name, keeps)
    }
    return keeps
  }
}

const requestRule = new NameRule(keptFromUpstream, keptFromUpstreamPrefixes)
const answerRule = new NameRule(keptFromDownstream, keptFromDownstreamPrefixes)

/** Names that `Connection` makes hop-by-hop. */
function nominated(headers: readonly string[]): readonly string[] | null {
  let names: string[] | null = null
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i] === 'connection') names = [...names ?? [], ...listOf(headers[i + 1] ?? '')]
  }
  return names
}

// ---- Requests on their way upstream ---------------------------------------------------------------------------------------------

/** Made once per route: what does not depend on the call. */
export interface RequestHeaderPlan {
  /** The operator's credential and our own additions, flat. */
  readonly added: readonly string[]
  /** Caller's headers that the added ones replace. */
  readonly replaced: ReadonlySet<string>
}

/** `readable`: the answer will be metered, so it must not come encoded. */
export function planRequestHeaders(provider: Provider | null, credential: string | null, readable: boolean): RequestHeaderPlan {
  const added: string[] = []
  if (credential !== null && provider !== null) for (const [name, value] of provider.credentialHeaders(credential)) added.push(name.toLowerCase(), value)
  if (readable) added.push('accept-encoding', 'identity')
  const replaced = new Set([...added.filter((_, index) => index % 2 === 0), ...provider?.keyHeaders ?? []])
  return { added, replaced }
}

/**
 * `requestId`: the exchange's id, so that the upstream's log can be joined with ours. `hasBody`: JSON is said where the caller said nothing. `trace`: the upstream's
 * part in it is told instead of the caller's own words; null: those pass unchanged.
 */
export function upstreamRequestHeaders(plan: RequestHeaderPlan, headers: readonly string[], requestId: string, hasBody: boolean, trace: Trace | null = null): string[] {
  const out: string[] = []
  const dropped = nominated(headers)
  let via = '1.1 tallygate'
  let typed = !hasBody
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i] ?? ''
    const value = headers[i + 1] ?? ''
    if (name === 'via') via = `${value}, ${via}`
    if (requestRule.keeps(name) || plan.replaced.has(name) || dropped?.includes(name) === true) continue
    if (trace !== null && (name === 'traceparent' || name === 'tracestate')) continue
    if (name === 'content-type') typed = true
    out.push(name, value)
  }
  if (!typed) out.push('content-type', 'application/json')
  out.push('via', via, 'x-request-id', requestId, ...plan.added)
  if (trace !== null) out.push('traceparent', trace.upstreamParent)
  if (trace !== null && trace.state !== '') out.push('tracestate', trace.state)
  return out
}

const keyParameters: ReadonlySet<string> = new Set(['key', 'api_key', 'api-key', 'apikey', 'access_token', 'x-api-key', 'x-goog-api-key'])

/** The query without anything that may be a key. Parameters that stay keep their bytes. */
export function upstreamQuery(query: string): string {
  if (query === '') return ''
  return query.split('&').filter((parameter) => {
    const name = parameter.split('=', 1)[0] ?? ''
    return !keyParameters.has(decoded(name).toLowerCase())
  }).join('&')
}

/** Every value of a query parameter, decoded. */
export function queryValues(query: string, name: string): string[] {
  const values: string[] = []
  for (const parameter of query.split('&')) {
    const at = parameter.indexOf('=')
    if (at >= 0 && decoded(parameter.slice(0, at)) === name) values.push(decoded(parameter.slice(at + 1)))
  }
  return values
}

/** What is no valid escape stays as it is: it can then be neither a key's name nor a key. */
function decoded(text: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** The caller's own id for its request, if it can be shown in logs and events; null otherwise. */
export function callerRequestId(value: string | undefined): string | null {
  return value !== undefined && /^[A-Za-z0-9._-]{1,128}$/.test(value) ? value : null
}

// ---- Answers on their way downstream --------------------------------------------------------------------------------------------

/** `edited`: the body may not be byte for byte the upstream's. Names have to be lower-case. */
export function downstreamHeaders(upstream: readonly string[], edited: boolean, added: readonly string[]): string[] {
  const out: string[] = []
  const dropped = nominated(upstream)
  let streamed = false
  let cacheSaid = false
  for (let i = 0; i + 1 < upstream.length; i += 2) {
    const name = upstream[i] ?? ''
    const value = upstream[i + 1] ?? ''
    if (answerRule.keeps(name) || (edited && untrueOnceEdited.has(name)) || dropped?.includes(name) === true) continue
    if (name === 'content-type' && value.startsWith('text/event-stream')) streamed = true
    else if (name === 'cache-control') cacheSaid = true
    else if (name === 'x-accel-buffering') continue
    out.push(name, value)
  }
  // Proxies in front of us would else hold a stream back until it is long enough for them.
  if (streamed) {
    out.push('x-accel-buffering', 'no')
    if (!cacheSaid) out.push('cache-control', 'no-cache, no-transform')
  }
  for (const entry of added) out.push(entry)
  return out
}

/** For browsers: what a page may read of an answer. */
export const exposedHeaders = [
  'RateLimit', 'RateLimit-Policy', 'Retry-After', 'retry-after-ms', 'x-should-retry', 'x-request-id', 'request-id',
  ...['limit', 'remaining', 'reset'].flatMap((what) => ['requests', 'tokens'].map((of) => `x-ratelimit-${what}-${of}`)),
  ...['requests', 'tokens', 'input-tokens', 'output-tokens'].flatMap((of) => ['limit', 'remaining', 'reset'].map((what) => `anthropic-ratelimit-${of}-${what}`)),
  'x-tallygate-error', 'x-tallygate-output-bound',
].join(', ')

// ---- Quotas ---------------------------------------------------------------------------------------------------------------------

/** Of structured fields. */
const integerMax = 999_999_999_999_999
const hourSeconds = 3_600

/** Flat: the IETF fields and the dialect's own, for the visible items. Empty when there are none. */
export function quotaHeaders(items: readonly QuotaItem[], style: Provider['quotaHeaders'], nowMs: number): string[] {
  const out: string[] = []
  let policies = ''
  let limits = ''
  for (const item of items) {
    if (!isTold(item)) continue
    const text = policyOf(item)
    policies = policies === '' ? text.policy : `${policies}, ${text.policy}`
    const limit = limitText(text.name, item, nowMs)
    limits = limits === '' ? limit : `${limits}, ${limit}`
  }
  if (policies !== '') out.push('ratelimit-policy', policies, 'ratelimit', limits)
  if (style === 'openai') openaiHeaders(out, items, nowMs)
  else if (style === 'anthropic') anthropicHeaders(out, items)
  return out
}

/** Structured fields of quotas hold integers only: money, which is counted in fractions, is told by `/-/usage` and by refusals. */
function isTold(item: QuotaItem): boolean {
  return item.visible && item.limit !== null && item.unit !== 'currency'
}

/** The value of the trailer `x-tallygate-remaining`: the settled state, in the syntax of `RateLimit`. '' when nothing is visible. */
export function remainingTrailer(items: readonly QuotaItem[], nowMs: number): string {
  return items.filter(isTold).map((item) => limitText(policyOf(item).name, item, nowMs)).join(', ')
}

export const remainingTrailerName = 'x-tallygate-remaining'

interface PolicyText { readonly name: string; readonly policy: string }

/** A policy's text changes with the configuration only. Bounded, as `each: model` makes many. */
const policyTexts = new Map<string, PolicyText>()

function policyOf(item: QuotaItem): PolicyText {
  const key = `${item.limit ?? ''} ${item.windowSeconds ?? ''} ${item.unit} ${item.name}`
  let text = policyTexts.get(key)
  if (text === undefined) {
    const parameters = new Map<string, string | number>([['q', bounded(item.limit ?? 0)]])
    if (item.windowSeconds !== null && item.windowSeconds > 0) parameters.set('w', bounded(item.windowSeconds))
    if (item.unit !== 'requests') parameters.set('qu', printable(item.unit))
    text = { name: serializeString(printable(item.name)), policy: serializeItem(printable(item.name), parameters) }
    if (policyTexts.size >= 4_096) policyTexts.clear()
    policyTexts.set(key, text)
  }
  return text
}

function limitText(name: string, item: QuotaItem, nowMs: number): string {
  const remaining = bounded(item.remaining ?? item.limit ?? 0)
  return item.resetsAtMs === null ? `${name};r=${remaining}` : `${name};r=${remaining};t=${secondsUntil(item.resetsAtMs, nowMs)}`
}

function bounded(value: number): number {
  return Math.min(integerMax, Math.max(0, Math.floor(value)))
}

function printable(text: string): string {
  return text.replace(/[^ -~]/g, '?')
}

/** Rounded up: what is promised for then is there by then. */
function secondsUntil(instantMs: number, nowMs: number): number {
  return bounded(Math.ceil((instantMs - nowMs) / 1_000))
}

/** Of the windows up to an hour the one with the least left; a longer one only where there is none. */
function tightest(items: readonly QuotaItem[], kind: QuotaItem['kind']): QuotaItem | null {
  let best: QuotaItem | null = null
  for (const item of items) {
    if (item.kind !== kind || !item.visible || item.limit === null || item.remaining === null) continue
    if (best === null || isTighter(item, best)) best = item
  }
  return best
}

function isTighter(item: QuotaItem, than: QuotaItem): boolean {
  return isShort(item) === isShort(than) ? (item.remaining ?? Infinity) < (than.remaining ?? Infinity) : isShort(item)
}

function isShort(item: QuotaItem): boolean {
  return item.windowSeconds !== null && item.windowSeconds <= hourSeconds
}

function openaiHeaders(out: string[], items: readonly QuotaItem[], nowMs: number): void {
  const requests = tightest(items, 'requests')
  if (requests !== null) {
    out.push('x-ratelimit-limit-requests', String(requests.limit), 'x-ratelimit-remaining-requests', String(requests.remaining))
    if (requests.resetsAtMs !== null) out.push('x-ratelimit-reset-requests', goDuration(requests.resetsAtMs - nowMs))
  }
  const tokens = tightest(items, 'tokens') ?? tightest(items, 'output_tokens') ?? tightest(items, 'input_tokens')
  if (tokens !== null) {
    out.push('x-ratelimit-limit-tokens', String(tokens.limit), 'x-ratelimit-remaining-tokens', String(tokens.remaining))
    if (tokens.resetsAtMs !== null) out.push('x-ratelimit-reset-tokens', goDuration(tokens.resetsAtMs - nowMs))
  }
}

const anthropicKinds = [
  ['requests', 'anthropic-ratelimit-requests'],
  ['tokens', 'anthropic-ratelimit-tokens'],
  ['input_tokens', 'anthropic-ratelimit-input-tokens'],
  ['output_tokens', 'anthropic-ratelimit-output-tokens'],
] as const

function anthropicHeaders(out: string[], items: readonly QuotaItem[]): void {
  for (const [kind, prefix] of anthropicKinds) {
    const item = tightest(items, kind)
    if (item === null) continue
    out.push(`${prefix}-limit`, String(item.limit), `${prefix}-remaining`, String(item.remaining))
    if (item.resetsAtMs !== null) out.push(`${prefix}-reset`, new Date(Math.ceil(item.resetsAtMs / 1_000) * 1_000).toISOString().replace('.000Z', 'Z'))
  }
}

/** As OpenAI writes durations: `12ms`, `8.64s`, `1m30.5s`, `6m0s`, `1h0m0s`. */
export function goDuration(milliseconds: number): string {
  const ms = Math.max(0, Math.ceil(milliseconds))
  if (ms > 0 && ms < 1_000) return `${ms}ms`
  const hours = Math.floor(ms / 3_600_000)
  const minutes = Math.floor(ms / 60_000) % 60
  const seconds = `${(ms % 60_000) / 1_000}s`
  if (hours > 0) return `${hours}h${minutes}m${seconds}`
  return minutes > 0 ? `${minutes}m${seconds}` : seconds
}
