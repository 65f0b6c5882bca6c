// Faults G13 and G14: the process stands still for longer than a reservation lives without a sign of life.
// test: alone
// test: timeout 120 s
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { inputTokens, openCuedUpstream, type CuedUpstream } from './cued-upstream.ts'
import { inspect, inspectable } from './inspector.ts'
import { chat, configOf, linesOf, standing, totalOf, type Call } from './outside.ts'
import type { GatewayProcess } from '../fixtures/gateway-process.ts'

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
t.setTimeout(110_000)
// Both wait most of the time.
t.jobs = 2

async function begin(gateway: GatewayProcess, model: CuedUpstream, tag: string): Promise<Call> {
  const call = chat(gateway.port, tag)
  const cued = await model.call(tag)
  await cued.begin()
  await cued.say(3)
  await waitFor('its words', () => call.text.includes('word'))
  return call
}

t.test('G13: stopped for longer than the lease: whatever a call did meanwhile, its usage is booked once', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url }))
  const goesOn = await begin(gateway, model, 'goes-on')
  const ends = await begin(gateway, model, 'ends-meanwhile')
  const leaves = await begin(gateway, model, 'leaves-meanwhile')
  const breaks = await begin(gateway, model, 'breaks-meanwhile')
  gateway.signal('SIGSTOP')
  const finish = async (tag: string): Promise<void> => {
    const cued = model.calls.get(tag)
    await cued?.say(2)
    await cued?.close()
    await cued?.end()
  }
  await finish('ends-meanwhile')
  leaves.leave()
  model.calls.get('breaks-meanwhile')?.reply.reset()
  const asked = chat(gateway.port, 'asked-meanwhile', { stream: false })
  await sleep(20_000)
  gateway.signal('SIGCONT')
  await (await model.call('asked-meanwhile')).answer()
  t.equal(await asked.over, true)
  t.equal(asked.status, 200, 'who asked meanwhile is served late')
  await finish('goes-on')
  t.equal(await goesOn.over, true)
  t.equal(await ends.over, true)
  t.equal(await breaks.over, false)
  for (const call of [goesOn, ends]) t.match(call.text, /\[DONE\]/)
  await linesOf(gateway, 5)
  // A sweep may come yet.
  await sleep(5_500)
  const lines = await linesOf(gateway, 5)
  const told = (call: Call): unknown => {
    const own = lines.filter(({ id, data }) => id === call.headers['x-request-id'] || data.corrects === call.headers['x-request-id'])
    return own.reduce((sum, { data }) => sum + (data.output_tokens ?? 0), 0)
  }
  t.equal(told(goesOn), 5, 'what the upstream reported, whatever was booked before it')
  t.equal(told(ends), 5)
  t.ok(Number(told(leaves)) >= 3 && Number(told(breaks)) >= 3, 'and what was seen of the others')
  t.equal(new Set(lines.map(({ id }) => id)).size, lines.length, 'no id twice')
  t.equal(totalOf(lines, 'requests'), 5)
  const { budget, calls } = await standing(gateway)
  t.match(budget, { used: totalOf(lines, 'total_tokens'), reserved: 0 })
  t.match(calls, { used: 5, reserved: 0 })
  t.comment(`20 s stopped: ${lines.map(({ data }) => data.end).join(', ')}`)
})

t.test('G14: an event loop that is blocked for ten seconds answers late, and loses nothing', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url }), inspectable)
  const { evaluate } = await inspect(t, gateway)
  const streams = await Promise.all(['a', 'b', 'c'].map((name) => begin(gateway, model, name)))
  const over = evaluate('{ const end = Date.now() + 10_000; while (Date.now() < end); }')
  await sleep(200)
  const health = await fetch(`${gateway.url}/-/ready`, { signal: AbortSignal.timeout(2_000) }).then(({ status }) => status, () => 'no answer')
  t.equal(health, 'no answer', 'a health check fails meanwhile')
  const asked = chat(gateway.port, 'late', { stream: false })
  await over
  await (await model.call('late')).answer()
  t.equal(await asked.over, true)
  t.equal(asked.status, 200)
  t.equal((await fetch(`${gateway.url}/-/ready`)).status, 200)
  for (const name of ['a', 'b', 'c']) {
    const cued = model.calls.get(name)
    await cued?.close()
    await cued?.end()
  }
  for (const call of streams) t.equal(await call.over, true)
  const lines = await linesOf(gateway, 4)
  t.same(lines.map(({ data }) => data.end), ['complete', 'complete', 'complete', 'complete'])
  t.equal(totalOf(lines, 'total_tokens'), 3 * (inputTokens + 3) + inputTokens + 4)
  const { budget } = await standing(gateway)
  t.match(budget, { used: totalOf(lines, 'total_tokens'), reserved: 0 })
})
