// Fault G17: no file descriptor is left, for clients or for upstreams.
// test: timeout 60 s
import { execFileSync } from 'node:child_process'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { startGatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { chat, configOf, linesOf, openFiles, processorMs, standing } from './outside.ts'

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

t.test('G17: without descriptors calls are refused or closed, nothing is held for them, the processor rests, and it recovers by itself', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url }))
  const first = chat(gateway.port, 'before', { stream: false })
  t.equal(await first.over, true)
  // Right after the start files are read for a moment.
  const all = await waitFor('the start to be over', async () => {
    const before = openFiles(gateway.pid).all
    await sleep(500)
    const after = openFiles(gateway.pid).all
    return before === after ? after : undefined
  })
  const most = all + 20
  execFileSync('prlimit', ['--pid', String(gateway.pid), `--nofile=${most}:`])

  const crowd: Socket[] = Array.from({ length: 60 }, () => connect(gateway.port, '127.0.0.1').on('error', () => undefined))
  t.teardown(() => { for (const socket of crowd) socket.destroy() })
  await waitFor('the last descriptor to be taken', () => openFiles(gateway.pid).all >= most - 1)
  const before = processorMs(gateway.pid)
  const crowded = Array.from({ length: 20 }, (_, i) => chat(gateway.port, `crowded-${i}`, { stream: false }))
  await sleep(1_500)
  const busyMs = processorMs(gateway.pid) - before
  t.ok(busyMs < 1_000, `${busyMs} ms of processor in 1.5 s`)
  t.equal(process.kill(gateway.pid, 0), true)
  for (const socket of crowd) socket.destroy()
  await Promise.all(crowded.map(({ over }) => over))
  const served = crowded.filter(({ status }) => status === 200).length
  for (const { status } of crowded) t.ok([0, 200, 502, 503].includes(status), `status ${status}`)

  // Now clients get in, and the way to the upstream is what is missing.
  await waitFor('descriptors to be free again', () => openFiles(gateway.pid).all <= all)
  const fewer = openFiles(gateway.pid).all + 4
  upstream.script = async (request, reply) => {
    await reply.wait(400)
    await openai()(request, reply)
  }
  execFileSync('prlimit', ['--pid', String(gateway.pid), `--nofile=${fewer}:`])
  const starved = Array.from({ length: 12 }, (_, i) => chat(gateway.port, `starved-${i}`, { stream: false }))
  await Promise.all(starved.map(({ over }) => over))
  for (const { status } of starved) t.ok([0, 200, 502, 503].includes(status), `status ${status}`)
  t.ok(starved.some(({ status }) => status !== 200), 'some found no way')

  upstream.script = openai()
  execFileSync('prlimit', ['--pid', String(gateway.pid), '--nofile=1024:'])
  const after = Array.from({ length: 20 }, (_, i) => chat(gateway.port, `after-${i}`, { stream: false }))
  for (const call of after) {
    t.equal(await call.over, true)
    t.equal(call.status, 200)
  }
  const completed = 1 + served + starved.filter(({ status }) => status === 200).length + 20
  const lines = await linesOf(gateway, completed)
  t.equal(lines.filter(({ data }) => data.end === 'complete').length, completed, 'one event for each answer')
  const { budget, calls } = await standing(gateway)
  t.equal(budget?.reserved, 0)
  t.match(calls, { used: lines.length, reserved: 0 })
  t.comment(`limit ${most}: ${served} of 20 served in the crowd, ${busyMs} ms of processor; limit ${fewer}: ${starved.map(({ status }) => status).join(' ')}; then 20 of 20`)
})
