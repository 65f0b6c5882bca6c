// `/-/usage/history` where several processes answer: each reads what one of them has counted.
// test: timeout 120 s
import { createHash } from 'node:crypto'
import t from 'tap'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { startRedis } from '../fixtures/redis.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'

t.setTimeout(110_000)

const keys = { one: 'tg_history_one_0123456789abcdef', two: 'tg_history_two_0123456789abcdef' }

interface History { readonly key: string; readonly complete_until: string | null; readonly rows: readonly object[]; readonly totals: { readonly requests: number; readonly total_tokens: number; readonly refused: number; readonly cost: Record<string, string> } }

const ask = (gateway: GatewayProcess, key: string): Promise<Response> => fetch(`${gateway.url}/-/usage/history`, { headers: { authorization: `Bearer ${key}`, connection: 'close' } })

t.test('every worker tells a key its own sums, out of what is in Redis; while Redis is away it is 503', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ inputTokens: 9, outputTokens: 4 }))
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const hashed = (id: keyof typeof keys): string => `- { id: ${id}, account: team, hash: "sha256:${createHash('sha256').update(keys[id]).digest('hex')}" }`
  const gateway = await startGatewayProcess(t, `store: { url: "${redis.url}", spool: "{dir}/spool" }
server: { workers: 3, drain: { delay: 100ms, timeout: 10s } }
upstreams: { model: { url: "${upstream.url}", provider: openai } }
prices: { standard: { currency: USD, version: 2026-01-01, models: { "*": { input_tokens: 1000/M, output_tokens: 1000/M } } } }
plans: { team: { entitlements: { models: ["*"] }, prices: standard, limits: [{ name: calls, meter: requests, limit: 12, window: lifetime, per: key }] } }
accounts: { team: { plan: team } }
keys:
  ${hashed('one')}
  ${hashed('two')}
sinks: []
`)
  await waitFor('the banner', () => gateway.output().includes('Tallygate is ready.'), { deadlineMs: 20_000 })
  const chat = async (key: string): Promise<number> => {
    const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST', headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify({ model: 'm', max_tokens: 50, messages: [{ role: 'user', content: 'hi' }] }),
    })
    await answer.text()
    return answer.status
  }
  for (let i = 0; i < 15; i++) await chat(keys.one)
  for (let i = 0; i < 4; i++) t.equal(await chat(keys.two), 200)
  const historyOf = async (key: string): Promise<History | undefined> => {
    const answer = await ask(gateway, key)
    return answer.status === 200 ? await answer.json() as History : undefined
  }
  const one = await waitFor('the sums', async () => {
    const found = await historyOf(keys.one)
    return found?.totals.requests === 12 && found.totals.refused === 3 ? found : undefined
  }, { deadlineMs: 30_000, everyMs: 1_000 })
  t.same(one.totals, { requests: 12, input_tokens: 108, output_tokens: 48, total_tokens: 156, cost: { USD: '0.156000000' }, refused: 3 })
  const seen: number[] = []
  // More than the workers are, one after the other.
  for (let i = 0; i < 6; i++) seen.push((await historyOf(keys.two))?.totals.requests ?? -1)
  t.same(seen, [4, 4, 4, 4, 4, 4])
  const tookMs: number[] = []
  for (let i = 0; i < 4; i++) {
    const startedMs = performance.now()
    await (await ask(gateway, keys.two)).text()
    tookMs.push(Math.round(performance.now() - startedMs))
  }
  t.comment(`answered after ${tookMs.join(', ')} ms`)
  await redis.stop()
  const away = await ask(gateway, keys.one)
  t.equal(away.status, 503)
  t.match(await away.json(), { error: { code: 'metering_unavailable' } })
  await gateway.stop()
})
