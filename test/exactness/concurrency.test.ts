// test: alone
// test: timeout 240 s
import { createHash } from 'node:crypto'
import { Agent } from 'node:http'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { call, limits, usageLines, type CallResult } from './fleet.ts'
import { seeded, startTruthfulModel } from './model.ts'

const SECRET = 'tg_exact_0123456789abcdefghijklmno'
const CALLS = Number(process.env['EXACT_CALLS'] ?? 2000)
const AT_ONCE = 200
const LIMIT = 30_000
const SEED = Number(process.env['SEED'] ?? 1)

t.setTimeout(220_000)
t.test('I3, I6, C11: 2,000 calls at concurrency 200 never settle more than the limit, and never refuse what fits once nothing is pending', { timeout: 220_000 }, async (t) => {
  const random = seeded(SEED)
  const model = await startTruthfulModel(random, 60)
  t.teardown(() => model.close())
  const gateway = await startGatewayProcess(t, `
upstreams: { model: { url: "${model.url}", provider: openai } }
plans:
  exact:
    entitlements: { models: ["*"] }
    policy: { on_insufficient: refuse }
    limits:
      - { name: budget, meter: total_tokens, limit: ${LIMIT}, window: lifetime }
keys:
  - { id: exact, plan: exact, hash: "sha256:${createHash('sha256').update(SECRET).digest('hex')}" }
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
`)
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE })
  t.teardown(() => agent.destroy())
  const results: CallResult[] = []
  let next = 0
  let overAtAnyTime = 0
  const watching = setInterval(() => {
    void limits(gateway.url, SECRET).then(([budget]) => { if (budget !== undefined && budget.used + budget.reserved > LIMIT) overAtAnyTime++ }, () => undefined)
  }, 50)
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (next < CALLS) {
      const n = next++
      results.push(await call(agent, gateway.port, SECRET, `call-${n}`, 20 + Math.floor(random() * 80), random() < 0.3))
    }
  }))
  clearInterval(watching)
  const settled = [...model.calls.values()].reduce((sum, one) => sum + one.inputTokens + one.outputTokens, 0)

  t.ok(settled <= LIMIT, `the model spent ${settled} of ${LIMIT}`)
  t.equal(overAtAnyTime, 0, 'at no look were use and holds together over the limit')
  const [budget] = await limits(gateway.url, SECRET)
  t.equal(budget!.reserved, 0, 'nothing is left reserved')
  t.equal(budget!.used, settled, 'the counter is the model\'s own count')
  await waitFor('the file sink', () => usageLines(gateway.dir).length === model.calls.size)
  const lines = usageLines(gateway.dir)
  t.equal(new Set(lines.map((line) => line.id)).size, lines.length, 'no event is there twice')
  t.equal(lines.reduce((sum, line) => sum + (line.data.total_tokens ?? 0), 0), settled, 'the events add up to it')
  t.equal(results.filter((one) => one.status === 200 && one.complete).length, model.calls.size, 'every admitted call was completed')
  const refused = results.filter((one) => one.status === 429)
  const statuses = new Map<number, number>()
  for (const { status } of results) statuses.set(status, (statuses.get(status) ?? 0) + 1)
  t.equal(refused.length + model.calls.size, CALLS, `every call was either answered or refused: ${[...statuses].map(([status, count]) => `${status} × ${count}`).join(', ')}`)
  t.ok(refused.length > 0, 'some were refused')

  // Nothing is pending: what fits is admitted, to the last token. A call holds its input bound and its output bound.
  let left = budget!.remaining
  let fitted = 0
  for (;;) {
    const before = model.calls.size
    const most = left > 800 ? 400 : 1
    const one = await call(agent, gateway.port, SECRET, `fits-${fitted}`, most, false)
    const [now] = await limits(gateway.url, SECRET)
    if (one.status !== 200) {
      t.equal(model.calls.size, before, 'a refused call never reached the model')
      t.ok(now!.remaining < 400, `refused only when its bound no longer fits: ${now!.remaining} left`)
      t.equal(now!.reserved, 0)
      break
    }
    fitted++
    const truth = model.calls.get(`fits-${fitted - 1}`)!
    left -= truth.inputTokens + truth.outputTokens
    t.equal(now!.remaining, left, 'remaining falls by what was used')
  }
  t.comment(`seed ${SEED}: ${CALLS} calls at concurrency ${AT_ONCE}: ${model.calls.size - fitted} admitted, ${refused.length} refused, settled ${settled} of ${LIMIT}, then ${fitted} more fitted; over-admission 0`)
  const reasons = new Map<string, number>()
  for (const one of refused) reasons.set(one.reason ?? 'none', (reasons.get(one.reason ?? 'none') ?? 0) + 1)
  t.comment(`refusals: ${[...reasons].map(([reason, count]) => `${reason} ${count}`).join(', ')}`)
  for (const reason of reasons.keys()) t.ok(['capacity_reserved', 'usage_limit_reached'].includes(reason), `${reason} is a truthful reason`)
})
