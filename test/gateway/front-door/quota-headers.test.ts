// The quota headers of an answer, read back with an independent parser; and what else of an upstream's head is passed on.

import { parseList } from 'structured-headers'
import t from 'tap'
import { downstreamHeaders, goDuration, quotaHeaders, remainingTrailer } from '../../../src/gateway/headers.ts'
import type { QuotaItem } from '../../../src/metering/quota.ts'

const nowMs = Date.UTC(2026, 10, 22, 10, 0, 0, 123)
const item = (fields: Partial<QuotaItem>): QuotaItem => ({
  name: 'rpm', meter: 'requests', unit: 'requests', per: 'account', window: '1m', windowSeconds: 60, limit: 20, used: 1, reserved: 0, remaining: 19,
  resetsAtMs: nowMs + 42_000, visible: true, kind: 'requests', ...fields,
})
const daily = item({ name: 'daily', meter: 'total_tokens', unit: 'tokens', window: 'day', windowSeconds: 86_400, limit: 100_000, remaining: 99_213, resetsAtMs: nowMs + 46_798_001, kind: 'tokens' })
const tpm = item({ name: 'tpm', meter: 'total_tokens', unit: 'tokens', limit: 40_000, remaining: 39_213, resetsAtMs: nowMs + 90_500, kind: 'tokens' })
const parallel = item({ name: 'parallel', meter: 'concurrency', unit: 'concurrent-requests', window: null, windowSeconds: null, limit: 4, remaining: 3, resetsAtMs: null, kind: 'other' })
const lifetime = item({ name: 'trial', meter: 'total_tokens', unit: 'tokens', window: 'lifetime', windowSeconds: null, limit: 1_000, remaining: 10, resetsAtMs: null, kind: 'tokens' })

const toMap = (flat: readonly string[]): Record<string, string> => {
  const map: Record<string, string> = {}
  for (let i = 0; i < flat.length; i += 2) map[flat[i] ?? ''] = flat[i + 1] ?? ''
  return map
}
const parsed = (text: string | undefined): unknown[] => parseList(text ?? '').map((entry) => [entry[0], Object.fromEntries(entry[1] as Map<string, unknown>)])

t.test('the IETF fields are as in the contract, and parse as structured fields', async (t) => {
  const map = toMap(quotaHeaders([item({}), daily], 'none', nowMs))
  t.same(map, {
    'ratelimit-policy': '"rpm";q=20;w=60, "daily";q=100000;w=86400;qu="tokens"',
    ratelimit: '"rpm";r=19;t=42, "daily";r=99213;t=46799',
  })
  t.same(parsed(map['ratelimit-policy']), [['rpm', { q: 20, w: 60 }], ['daily', { q: 100_000, w: 86_400, qu: 'tokens' }]])
  t.same(parsed(map.ratelimit), [['rpm', { r: 19, t: 42 }], ['daily', { r: 99_213, t: 46_799 }]])
})

t.test('concurrency has neither w nor t, and a lifetime neither', async (t) => {
  const map = toMap(quotaHeaders([parallel, lifetime], 'none', nowMs))
  t.same(parsed(map['ratelimit-policy']), [['parallel', { q: 4, qu: 'concurrent-requests' }], ['trial', { q: 1_000, qu: 'tokens' }]])
  t.same(parsed(map.ratelimit), [['parallel', { r: 3 }], ['trial', { r: 10 }]])
})

t.test('money is in no header and no trailer: they hold whole numbers only', async (t) => {
  const money = item({ name: 'budget', meter: 'cost', unit: 'currency', window: 'month', windowSeconds: 2_592_000, limit: 0.02, used: 0.0123, remaining: 0.0077, kind: 'other' })
  for (const style of ['none', 'openai', 'anthropic'] as const) {
    t.same(quotaHeaders([money], style, nowMs), [])
    t.same(quotaHeaders([money, item({})], style, nowMs), quotaHeaders([item({})], style, nowMs))
  }
  t.equal(remainingTrailer([money], nowMs), '')
})

t.test('what is invisible or unlimited is in no header, and no limits make no header', async (t) => {
  for (const style of ['none', 'openai', 'anthropic'] as const) {
    t.same(quotaHeaders([item({ visible: false }), item({ limit: null, remaining: null })], style, nowMs), [])
    t.same(quotaHeaders([], style, nowMs), [])
  }
})

t.test('hostile and extreme values still make fields that parse', async (t) => {
  const map = toMap(quotaHeaders([
    item({ name: 'a"b\\c' }), item({ name: 'größe\n' }), item({ limit: Number.MAX_SAFE_INTEGER, remaining: Number.MAX_SAFE_INTEGER }), item({ remaining: -5, resetsAtMs: nowMs - 1_000 }), item({ remaining: 0.9 }),
  ], 'openai', nowMs))
  t.same(parsed(map.ratelimit).map((entry) => (entry as [string, object])[0]), ['a"b\\c', 'gr??e?', 'rpm', 'rpm', 'rpm'])
  t.same(parsed(map.ratelimit).slice(2).map((entry) => (entry as [string, { r: number; t: number }])[1]), [{ r: 999_999_999_999_999, t: 42 }, { r: 0, t: 0 }, { r: 0, t: 42 }])
})

t.test('OpenAI\'s own: the tightest window up to an hour, a longer one only where there is none', async (t) => {
  t.match(toMap(quotaHeaders([item({}), daily, tpm, parallel], 'openai', nowMs)), {
    'x-ratelimit-limit-requests': '20', 'x-ratelimit-remaining-requests': '19', 'x-ratelimit-reset-requests': '42s',
    'x-ratelimit-limit-tokens': '40000', 'x-ratelimit-remaining-tokens': '39213', 'x-ratelimit-reset-tokens': '1m30.5s',
  })
  t.match(toMap(quotaHeaders([daily], 'openai', nowMs)), { 'x-ratelimit-limit-tokens': '100000', 'x-ratelimit-remaining-tokens': '99213', 'x-ratelimit-reset-tokens': '12h59m58.001s' })
  const small = item({ name: 'rph', windowSeconds: 3_600, limit: 100, remaining: 7 })
  t.match(toMap(quotaHeaders([item({}), small], 'openai', nowMs)), { 'x-ratelimit-remaining-requests': '7', 'x-ratelimit-limit-requests': '100' }, 'the smallest remaining of the short ones')
  t.match(toMap(quotaHeaders([item({ windowSeconds: 86_400, remaining: 1 }), item({})], 'openai', nowMs)), { 'x-ratelimit-remaining-requests': '19' }, 'a long one with less left does not win')
  const trial = toMap(quotaHeaders([lifetime], 'openai', nowMs))
  t.equal(trial['x-ratelimit-remaining-tokens'], '10')
  t.notOk('x-ratelimit-reset-tokens' in trial, 'what never resets says no time')
})

t.test('Anthropic\'s own: four kinds, RFC 3339 times', async (t) => {
  const map = toMap(quotaHeaders([item({}), tpm, item({ name: 'in', kind: 'input_tokens', limit: 500, remaining: 400 }), item({ name: 'out', kind: 'output_tokens', limit: 50, remaining: 40 })], 'anthropic', nowMs))
  t.match(map, {
    'anthropic-ratelimit-requests-limit': '20', 'anthropic-ratelimit-requests-remaining': '19', 'anthropic-ratelimit-requests-reset': '2026-11-22T10:00:43Z',
    'anthropic-ratelimit-tokens-limit': '40000', 'anthropic-ratelimit-input-tokens-remaining': '400', 'anthropic-ratelimit-output-tokens-remaining': '40',
  })
  t.notOk('x-ratelimit-limit-requests' in map, 'and none of another dialect')
})

t.test('durations are written as OpenAI writes them', async (t) => {
  for (const [ms, text] of [[0, '0s'], [-5, '0s'], [12, '12ms'], [999.2, '1s'], [1_000, '1s'], [8_640, '8.64s'], [90_500, '1m30.5s'], [360_000, '6m0s'], [3_600_000, '1h0m0s'], [90_061_001, '25h1m1.001s']] as const) {
    t.equal(goDuration(ms), text)
  }
})

t.test('the trailer tells the settled state in the same syntax', async (t) => {
  t.equal(remainingTrailer([item({}), daily, item({ visible: false })], nowMs), '"rpm";r=19;t=42, "daily";r=99213;t=46799')
  t.equal(remainingTrailer([], nowMs), '')
})

t.test('of an upstream\'s head, its account, its limits, its cookies and its hop stay with us', async (t) => {
  const upstream = [
    'content-type', 'application/json', 'content-length', '5', 'etag', '"x"', 'x-custom', 'kept', 'x-custom', 'twice', 'openai-processing-ms', '12', 'retry-after', '3',
    'connection', 'keep-alive, x-hop', 'x-hop', '1', 'keep-alive', 'timeout=5', 'transfer-encoding', 'chunked', 'trailer', 'x', 'upgrade', 'h2c', 'proxy-authenticate', 'Basic',
    'x-ratelimit-limit-requests', '9', 'x-ratelimitbysize-limit-minute', '9', 'ratelimit', '"a";r=1', 'ratelimit-policy', '"a";q=1', 'anthropic-ratelimit-tokens-limit', '9', 'anthropic-priority-input-tokens-limit', '9',
    'openai-organization', 'org', 'openai-project', 'proj', 'anthropic-organization-id', 'org', 'set-cookie', 'a=b', 'access-control-allow-origin', '*', 'x-request-id', 'theirs', 'request-id', 'theirs', 'alt-svc', 'h3',
  ]
  t.same(downstreamHeaders(upstream, false, ['x-request-id', 'ours']), [
    'content-type', 'application/json', 'content-length', '5', 'etag', '"x"', 'x-custom', 'kept', 'x-custom', 'twice', 'openai-processing-ms', '12', 'retry-after', '3', 'x-request-id', 'ours',
  ])
  t.same(downstreamHeaders(upstream, true, []).slice(0, 4), ['content-type', 'application/json', 'x-custom', 'kept'], 'an edited body has no length and no tag of the old one')
  t.same(downstreamHeaders(['content-type', 'text/event-stream', 'x-accel-buffering', 'yes'], false, []), ['content-type', 'text/event-stream', 'x-accel-buffering', 'no', 'cache-control', 'no-cache, no-transform'])
  t.same(downstreamHeaders(['content-type', 'text/event-stream; charset=utf-8', 'cache-control', 'no-store'], false, []), ['content-type', 'text/event-stream; charset=utf-8', 'cache-control', 'no-store', 'x-accel-buffering', 'no'])
})
