// test: alone
// test: timeout 420 s
import { createHash } from 'node:crypto'
import { Agent } from 'node:http'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { call, limits, usageLines, type CallResult } from './fleet.ts'
import { seeded, startTruthfulModel } from './model.ts'

const SECRET = 'tg_kills_0123456789abcdefghijklmno'
const KILLS = Number(process.env['KILLS'] ?? 30)
const SEED = Number(process.env['SEED'] ?? 1)
const CLIENTS = 24
const LONGEST_MS = 100_000 + KILLS * 8_000

t.setTimeout(LONGEST_MS)
t.test(`G8, I1, I2: ${KILLS} SIGKILLs at random instants: no completed answer unbilled, none billed twice, nothing left reserved`, { timeout: LONGEST_MS }, async (t) => {
  const random = seeded(SEED)
  const model = await startTruthfulModel(random, 80)
  t.teardown(() => model.close())
  const gateway = await startGatewayProcess(t, `
upstreams: { model: { url: "${model.url}", provider: openai } }
plans:
  exact:
    entitlements: { models: ["*"] }
    limits:
      - { name: budget, meter: total_tokens, limit: 1000M, window: lifetime }
      - { name: calls,  meter: requests, limit: 1000M, window: lifetime }
      - { name: parallel, meter: concurrency, limit: 1000 }
keys:
  - { id: exact, plan: exact, hash: "sha256:${createHash('sha256').update(SECRET).digest('hex')}" }
sinks:
  - { name: file, type: file, path: "{dir}/usage.ndjson" }
`)
  const results: CallResult[] = []
  let next = 0
  let running = true
  const clients = Array.from({ length: CLIENTS }, async () => {
    const agent = new Agent({ keepAlive: true })
    while (running) {
      const result = await call(agent, gateway.port, SECRET, `k-${next++}`, 20 + Math.floor(random() * 80), random() < 0.5)
      results.push(result)
      if (result.status === 0) await new Promise((resolve) => setTimeout(resolve, 20))
    }
    agent.destroy()
  })
  for (let kill = 0; kill < KILLS; kill++) {
    await new Promise((resolve) => setTimeout(resolve, 30 + random() * 400))
    await gateway.kill()
    await gateway.start()
  }
  await new Promise((resolve) => setTimeout(resolve, 300))
  running = false
  await Promise.all(clients)

  const state = await limits(gateway.url, SECRET)
  for (const limit of state) t.equal(limit.reserved, 0, `${limit.name}: nothing is left reserved`)
  t.equal(await gateway.stop(), 0, 'it drains and exits with 0')
  await waitFor('the file sink', () => usageLines(gateway.dir).length > 0)
  const lines = usageLines(gateway.dir)
  const byId = new Map<string, typeof lines>()
  for (const line of lines) byId.set(line.id, [...(byId.get(line.id) ?? []), line])
  t.equal([...byId.values()].filter((same) => same.length > 1).length, 0, 'no event is in the file twice')

  let unbilled = 0
  let wrong = 0
  const completed = results.filter((one) => one.complete)
  for (const one of completed) {
    const [line] = byId.get(one.requestId ?? '') ?? []
    const truth = model.calls.get(one.tag)!
    if (line === undefined) { unbilled++; continue }
    if (line.data.end !== 'complete' || line.data.total_tokens !== truth.inputTokens + truth.outputTokens) wrong++
  }
  t.equal(unbilled, 0, 'no completed answer is unbilled')
  t.equal(wrong, 0, 'every completed answer is billed with the model\'s own count')
  t.equal(new Set(completed.map((one) => one.requestId)).size, completed.length, 'every answer has its own id')
  const sum = lines.reduce((total, line) => total + (line.data.total_tokens ?? 0), 0)
  t.equal(state.find((limit) => limit.name === 'budget')!.used, sum, 'counters = events = the file')
  t.equal(state.find((limit) => limit.name === 'calls')!.used, lines.reduce((total, line) => total + (line.data.requests ?? 0), 0), 'requests too')
  // Whatever reached the model and was not completed has at most one event, and never more than was held.
  const ends = new Map<string, number>()
  for (const line of lines) ends.set(line.data.end, (ends.get(line.data.end) ?? 0) + 1)
  t.ok(completed.length > KILLS, 'there was work between the kills')
  t.comment(`seed ${SEED}: ${KILLS} kills, ${next} calls, ${completed.length} completed, ${unbilled} unbilled, ${lines.length - byId.size} billed twice; events by end: ${[...ends].map(([end, count]) => `${end} ${count}`).join(', ')}`)
})
