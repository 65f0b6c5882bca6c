// Faults K3 to K6: plans and keys change while calls are running.
// test: timeout 90 s
import t from 'tap'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { inputTokens, openCuedUpstream, type CuedUpstream } from './cued-upstream.ts'
import { chat, configOf, linesOf, standing, totalOf, type Call } from './outside.ts'

t.setTimeout(85_000)

async function begin(gateway: GatewayProcess, model: CuedUpstream, tag: string): Promise<Call> {
  const call = chat(gateway.port, tag)
  const cued = await model.call(tag)
  await cued.begin()
  await cued.say(2)
  await waitFor('its words', () => call.text.includes('word'))
  return call
}

async function finish(model: CuedUpstream, tag: string): Promise<void> {
  const cued = model.calls.get(tag)
  await cued?.close()
  await cued?.end()
}

async function refused(gateway: GatewayProcess, tag: string): Promise<Call> {
  const call = chat(gateway.port, tag, { stream: false })
  await call.over
  return call
}

t.test('K3: 60 streams running through a reload end under the plan that they began with; the next call has the new one', async (t) => {
  const model = await openCuedUpstream(t)
  const rows = (calls: number): string[] => [
    '{ name: budget, meter: total_tokens, limit: 1M, window: lifetime }', `{ name: calls, meter: requests, limit: ${calls}, window: lifetime }`]
  // Fewer than are running.
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url, version: 1, limits: rows(1_000) }))
  const streams = await Promise.all(Array.from({ length: 60 }, (_, i) => begin(gateway, model, `k3-${i}`)))
  gateway.configure(configOf({ upstream: model.url, version: 2, limits: rows(10) }))
  gateway.signal('SIGHUP')
  await waitFor('the reload', async () => (await standing(gateway))['calls']?.limit === 10)
  t.match(await refused(gateway, 'new'), { status: 429 }, 'the new plan admits nothing')
  await Promise.all(streams.map((_, i) => finish(model, `k3-${i}`)))
  for (const call of streams) {
    t.equal(await call.over, true)
    t.match(call.text, /\[DONE\]/)
  }
  const lines = await linesOf(gateway, 60)
  t.ok(lines.every(({ data }) => data.end === 'complete' && data.plan_version === 1 && data.total_tokens === inputTokens + 2))
  t.notOk(model.calls.has('new'))
  t.match(await standing(gateway), { calls: { limit: 10, used: 60, reserved: 0, remaining: 0 }, budget: { used: 60 * (inputTokens + 2), reserved: 0 } })
})

t.test('K4: lowered below its use a limit has nothing left and never less; raised, it admits what now fits, and usage stays', async (t) => {
  const model = await openCuedUpstream(t)
  const plan = (limit: number, version: number): string => configOf({ upstream: model.url, version, limits: [`{ name: budget, meter: total_tokens, limit: ${limit}, window: day }`] })
  const gateway = await startGatewayProcess(t, plan(10_000, 1))
  const change = async (limit: number, version: number): Promise<void> => {
    gateway.configure(plan(limit, version))
    gateway.signal('SIGHUP')
    await waitFor('the reload', async () => (await standing(gateway))['budget']?.limit === limit)
  }
  for (const tag of ['one', 'two']) {
    const call = chat(gateway.port, tag, { stream: false })
    await (await model.call(tag)).answer()
    t.equal(await call.over, true)
  }
  const running = await begin(gateway, model, 'running')
  const { budget: before } = await standing(gateway)
  t.ok(before!.reserved > 0)
  await change(20, 2)
  t.match((await standing(gateway))['budget'], { limit: 20, used: before!.used, reserved: before!.reserved, remaining: 0 }, 'a running call keeps what it holds')
  t.match(await refused(gateway, 'lowered'), { status: 413 }, 'what alone can never fit says so')
  await change(150, 3)
  t.match(await refused(gateway, 'held'), { status: 429 })
  await finish(model, 'running')
  t.equal(await running.over, true)
  await change(20, 4)
  t.match((await standing(gateway))['budget'], { used: 2 * (inputTokens + 4) + inputTokens + 2, reserved: 0, remaining: 0 })
  await change(10_000, 5)
  const raised = chat(gateway.port, 'raised', { stream: false })
  await (await model.call('raised')).answer()
  t.equal(await raised.over, true)
  t.equal(raised.status, 200)
  const lines = await linesOf(gateway, 4)
  t.same(lines.map(({ data }) => data.plan_version), [1, 1, 1, 5])
  t.equal((await standing(gateway))['budget']?.used, totalOf(lines, 'total_tokens'))
})

t.test('K5: a plan that changes under 300 calls at once: each is judged by one version, and never more are admitted than the larger allows', async (t) => {
  const upstream = await openScriptedUpstream(t, openai({ everyMs: 15 }))
  const plan = (limit: number, version: number): string => configOf({ upstream: upstream.url, version, limits: [
    `{ name: calls, meter: requests, limit: ${limit}, window: lifetime }`, '{ name: budget, meter: total_tokens, limit: 1M, window: lifetime }'] })
  const gateway = await startGatewayProcess(t, plan(60, 1))
  let next = 0
  const statuses: number[] = []
  const clients = Promise.all(Array.from({ length: 30 }, async () => {
    while (next < 300) {
      const call = chat(gateway.port, `k5-${next++}`, { stream: false })
      await call.over
      statuses.push(call.status)
      // Refusals are quick: the calls have to last through the reload.
      await new Promise((resolve) => setTimeout(resolve, 60))
    }
  }))
  await waitFor('some calls', () => statuses.length > 20)
  gateway.configure(plan(90, 2))
  gateway.signal('SIGHUP')
  await clients
  const admitted = statuses.filter((status) => status === 200).length
  const lines = await linesOf(gateway, admitted)
  const versions = new Map<number, number>()
  for (const { data } of lines) versions.set(data.plan_version, (versions.get(data.plan_version) ?? 0) + 1)
  t.equal(statuses.filter((status) => status !== 200 && status !== 429).length, 0)
  t.equal(lines.length, admitted)
  t.equal(upstream.executions, admitted)
  t.ok(admitted <= 90 && (versions.get(1) ?? 0) <= 60, `${admitted} admitted`)
  t.same([...versions.keys()].filter((version) => version !== 1 && version !== 2), [])
  t.match(await standing(gateway), { calls: { limit: 90, used: admitted, reserved: 0 }, budget: { used: totalOf(lines, 'total_tokens') } })
  t.comment(`300 calls: ${admitted} admitted, ${versions.get(1) ?? 0} by the first version (limit 60), ${versions.get(2) ?? 0} by the second (limit 90)`)
})

t.test('K6: a revoked key is refused at the next call, within a second; its running stream ends in peace', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url }))
  const running = await begin(gateway, model, 'running')
  const revoked = await fetch(`${gateway.adminUrl}/api/v1/keys/dev/revoke`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"reason":"test"}' })
  t.equal(revoked.status, 200)
  const next = await refused(gateway, 'next')
  t.equal(next.status, 401)
  t.match(next.text, /invalid_api_key/)
  t.equal((await fetch(`${gateway.url}/-/usage`, { headers: { authorization: 'Bearer tg_process_0123456789abcdefghijk' } })).status, 401)
  await finish(model, 'running')
  t.equal(await running.over, true)
  t.match(running.text, /\[DONE\]/)
  const lines = await linesOf(gateway, 1)
  t.match(lines, [{ data: { end: 'complete', total_tokens: inputTokens + 2 } }])
  t.notOk(model.calls.has('next'))
  await gateway.kill()
  await gateway.start()
  t.match(await refused(gateway, 'next'), { status: 401 }, 'after a restart as well, though the config still has the key')
})
