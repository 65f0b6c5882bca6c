// What has no worst case is held piece by piece, so that its limits are exact; a stream whose quota ends is ended in the dialect's words.
import t from 'tap'
import { chatChunk, openai } from '../../fixtures/openai-scripts.ts'
import { anthropic } from '../../fixtures/anthropic-scripts.ts'
import { chunk, head, json, lastChunk, openScriptedUpstream, sse, sseHead, steps, wait } from '../../fixtures/scripted-upstream.ts'
import type { Extend } from '../../../src/metering/moves.ts'
import { tokenizer } from '../../../src/providers/tokenizer.ts'
import { StoreUnavailable, type Store } from '../../../src/stores/store.ts'
import { prompt, sleep, startRig } from './rig.ts'

await tokenizer.count('o200k_base', ['x'])
const words = (count: number, everyMs = 0): (Buffer | ReturnType<typeof wait>)[] =>
  Array.from({ length: count }, (_, i) => [chunk(sse(chatChunk({ content: ` word${i % 10}` }))), ...(everyMs > 0 ? [wait(everyMs)] : [])]).flat()

t.test('reserve: slices holds a slice, not the whole bound, and grows with the stream', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(100, 5), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, { policy: 'reserve: slices, output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 100k, window: day }'] })
  const answer = rig.chat({ stream: true, max_tokens: 50_000 })
  await sleep(150)
  const { reserved } = (await rig.usage())['daily'] ?? { reserved: 0 }
  t.ok(reserved > 0 && reserved < 5_000, `${reserved} held`)
  t.equal((await answer).ending, 'complete')
  t.match(await rig.events(), [{ end: 'complete' }])
})

t.test('when growing is denied the stream ends with finish_reason length and usage, billed for what was sent, never over the limit', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(2_000, 1), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, { policy: 'reserve: slices, output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 1000, window: day }'] })
  const answer = await rig.chat({ stream: true, max_tokens: 50_000, stream_options: { include_usage: true } })
  t.equal(answer.status, 200)
  t.equal(answer.ending, 'complete')
  t.match(answer.text, /"finish_reason":"length"/)
  t.match(answer.text, /data: \[DONE\]\n\n$/)
  const [event] = await rig.events()
  t.match(event, { end: 'quota_stop' })
  const { used } = (await rig.usage())['daily'] ?? { used: Infinity }
  t.ok(used <= 1000 && used > 700, `${used} of 1000 used`)
  t.notOk('overrun' in (event ?? {}))
  t.match(answer.text, new RegExp(`"completion_tokens":${String(event?.['output_tokens'])}\\b`), 'what the caller is told is what is billed')
})

t.test('two streams that share a limit in slices never pass it together', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(2_000, 1), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, { policy: 'reserve: slices, output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 2000, window: day }'] })
  await Promise.all(Array.from({ length: 4 }, () => rig.chat({ stream: true, max_tokens: 50_000 })))
  await rig.settled()
  const { used } = (await rig.usage())['daily'] ?? { used: Infinity }
  t.ok(used <= 2000 && used > 1000, `${used} of 2000 used`)
})

/** A store whose extensions go another way. */
function extending(store: Store, extend: (move: Extend, store: Store) => ReturnType<Store['extend']>): Store {
  return new Proxy(store, { get(target, name) {
    const value: unknown = Reflect.get(target, name, target)
    if (name === 'extend') return (move: Extend) => extend(move, target)
    return typeof value === 'function' ? value.bind(target) : value
  } })
}

t.test('while the store is away nothing passes beyond the slice that is held', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(600), chunk(sse('[DONE]')), lastChunk))
  const rig = await startRig(t, upstream.url, {
    policy: 'reserve: slices, output_default: 100', bounds: { settleMs: 200 }, wrap: (store) => extending(store, () => Promise.reject(new StoreUnavailable('away'))),
  })
  const answer = await rig.chat({ stream: true, max_tokens: 50_000 })
  t.match(answer.text, /"finish_reason":"length"/)
  t.ok(answer.text.split(' word').length - 1 <= 256, 'no more than the first slice')
  const [event] = await rig.events()
  t.equal(event?.['end'], 'quota_stop')
  t.ok(Number(event?.['output_tokens']) <= 256, `${String(event?.['output_tokens'])} billed`)
})

t.test('a hold that grows for two reasons at once never shrinks', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(20, 5), chunk(sse('[DONE]')), lastChunk))
  const extended: (readonly number[])[] = []
  const rig = await startRig(t, upstream.url, {
    limits: ['{ name: time, meter: compute_seconds, limit: 1000, window: day }', '{ name: traffic, meter: bytes_out, limit: 100_000_000, window: day }'],
    wrap: (store) => extending(store, async (move, store) => {
      extended.push(move.checks?.map((check) => check.fixed) ?? [])
      await sleep(50)
      return store.extend(move)
    }),
  })
  t.equal((await rig.chat({ stream: true })).ending, 'complete')
  t.ok(extended.length >= 2, `${extended.length} extensions: the clock's and the first chunk's`)
  for (const [i, amounts] of extended.entries()) {
    t.ok(amounts.every((amount, check) => amount >= (extended[i - 1]?.[check] ?? 0)), `${amounts.join(' and ')} after ${extended[i - 1]?.join(' and ') ?? 'nothing'}`)
  }
  await rig.settled()
})

t.test('an Anthropic stream is ended in its own words', async (t) => {
  const upstream = await openScriptedUpstream(t, anthropic({ pieces: Array.from({ length: 1500 }, (_, i) => ` word${i % 10}`), outputTokens: 1500, everyMs: 1 }))
  const rig = await startRig(t, upstream.url, { policy: 'reserve: slices, output_default: 100', limits: ['{ name: daily, meter: total_tokens, limit: 1000, window: day }'] })
  const answer = await rig.request({ method: 'POST', target: '/v1/messages', body: { ...prompt, max_tokens: 50_000, stream: true } })
  t.equal(answer.ending, 'complete')
  t.match(answer.text, /"stop_reason":"max_tokens"/)
  t.match(answer.text, /message_stop/)
  t.match(await rig.events(), [{ end: 'quota_stop' }])
})

t.test('a limit on bytes out is exact for any answer', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(head(200, { 'Content-Type': 'application/octet-stream', 'Transfer-Encoding': 'chunked' }), ...Array.from({ length: 40 }, () => chunk(Buffer.alloc(10_000))), lastChunk))
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["*"], endpoints: ["* /files/*"] }', limits: ['{ name: traffic, meter: bytes_out, limit: 1_000_000, window: day }'] })
  const answers = []
  for (let i = 0; i < 4; i++) answers.push(await rig.request({ method: 'POST', target: '/files/a', body: {} }))
  t.same(answers.slice(0, 3).map((answer) => answer.ending === 'complete' && answer.status), [200, 200, false])
  t.equal(answers[3]?.status, 429)
  const events = await rig.events()
  t.equal(events[0]?.['bytes_out'], 400_000)
  const { used } = (await rig.usage())['traffic'] ?? { used: Infinity }
  t.ok(used <= 1_000_000 && used > 900_000, `${used} used`)
  t.equal(used, events.reduce((sum, event) => sum + Number(event['bytes_out']), 0), 'the counter is the sum of the events')
})

t.test('a plain JSON answer that does not fit the bytes left is refused whole', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ pieces: ['x'.repeat(5_000)] }))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: traffic, meter: bytes_out, limit: 1000, window: day }', '{ name: daily, meter: total_tokens, limit: 100k, window: day }'] })
  const answer = await rig.chat()
  t.equal(answer.status, 429)
  t.equal(answer.header('x-should-retry'), 'false', 'another answer may be as long')
  t.match(answer.json(), { error: { reason: 'usage_limit_reached', limit: 'traffic', ceiling: 1000, used: 0, message: /does not fit into what is left of the limit 'traffic'/ } })
  t.match(await rig.usage(), { traffic: { used: 0, reserved: 0 }, daily: { used: 0, reserved: 0 } }, 'who is refused is not billed')
  t.same(await rig.events(), [])
})

t.test('a limit on compute time cuts a call before its time is used up', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(sseHead(), ...words(400, 25), lastChunk))
  const rig = await startRig(t, upstream.url, { limits: ['{ name: time, meter: compute_seconds, limit: 2, window: day }'] })
  const startedAt = performance.now()
  const answer = await rig.chat({ stream: true })
  const took = performance.now() - startedAt
  t.match(answer.text, /"finish_reason":"length"/)
  t.ok(took > 1_000 && took < 5_000, `${Math.round(took)} ms`)
  const [event] = await rig.events()
  t.equal(event?.['end'], 'quota_stop')
  t.ok(Number(event?.['compute_ms']) <= 2_000)
})

t.test('bytes in and requests are metered for endpoints that only a plan names', async (t) => {
  const upstream = await openScriptedUpstream(t, steps(json(200, { ok: true })))
  const rig = await startRig(t, upstream.url, { entitlements: '{ models: ["*"], endpoints: ["POST /custom/*"] }' })
  t.equal((await rig.request({ method: 'POST', target: '/custom/run?x=1&key=tg-test-main-0123456789', body: { a: 1 } })).status, 200)
  t.equal(upstream.requests[0]?.target, '/custom/run?x=1', 'the key does not travel in the query either')
  t.match(await rig.events(), [{ endpoint: 'POST /custom/*', requests: 1, bytes_in: 7, bytes_out: 11, provider: 'http', usage_source: 'counted' }])
  t.equal((await rig.request({ method: 'GET', target: '/custom/run' })).status, 404)
})

