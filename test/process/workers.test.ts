// server.workers: several processes on one port, one Redis behind them.
// test: timeout 180 s
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { openRedisRelay } from '../fixtures/redis-relay.ts'
import { startRedis } from '../fixtures/redis.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { spawnTallygate, type Finished } from '../app/process.ts'
import { openCuedUpstream } from './cued-upstream.ts'
import { chat, configOf, linesOf, secret, standing, totalOf, usageLines, wide, type UsageLine } from './outside.ts'

t.setTimeout(170_000)

const workers = 3

async function startWorkers(t: Teardown, upstream: string, more: { limits?: readonly string[]; version?: number } = {}): Promise<{ gateway: GatewayProcess; configure: (limits: readonly string[], version: number) => void }> {
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const text = (limits: readonly string[], version: number): string => `store: { url: "${redis.url}", spool: "{dir}/spool" }
${configOf({ upstream, limits, version, server: `{ workers: ${workers}, drain: { delay: 300ms, timeout: 20s } }` })}`
  const gateway = await startGatewayProcess(t, text(more.limits ?? wide, more.version ?? 1))
  await allReady(gateway)
  return { gateway, configure: (limits, version) => gateway.configure(text(limits, version)) }
}

/** The first worker that is ready answers on the port of all; the banner comes when all are. */
async function allReady(gateway: GatewayProcess, starts = 1): Promise<void> {
  await waitFor('the banner', () => gateway.output().split('Tallygate is ready.').length > starts, { deadlineMs: 20_000 })
}

/** The processes that a process has started and that live. */
function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter((text) => text !== '').map(Number)
}

function lives(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    // No such process.
    return false
  }
}

/** How often each worker says that it has ended an exchange. */
function exchangesByWorker(gateway: GatewayProcess): Map<number, number> {
  const counts = new Map<number, number>()
  for (const line of gateway.output().split('\n')) {
    if (!line.includes('"msg":"exchange"')) continue
    const { worker } = JSON.parse(line) as { worker: number }
    counts.set(worker, (counts.get(worker) ?? 0) + 1)
  }
  return counts
}

async function metric(gateway: GatewayProcess, name: string): Promise<number> {
  const text = await (await fetch(`${gateway.adminUrl}/metrics`)).text()
  return [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce((sum, match) => sum + Number(match[1]), 0)
}

/** An open stream on each worker, as far as round robin gives one to each. */
async function openStreams(gateway: GatewayProcess, model: Awaited<ReturnType<typeof openCuedUpstream>>, count: number) {
  return await Promise.all(Array.from({ length: count }, async (_, index) => {
    const call = chat(gateway.port, `stream-${index}`)
    const cued = await model.call(`stream-${index}`)
    await cued.begin()
    await cued.say(2)
    await waitFor('its first words', () => call.text.includes('word'), { deadlineMs: 15_000 })
    return { call, cued }
  }))
}

t.test('one limit over all workers: exact at any concurrency, every worker answers, /metrics is their sum', async (t) => {
  const model = await openCuedUpstream(t)
  const { gateway } = await startWorkers(t, model.url, { limits: ['{ name: calls, meter: requests, limit: 40, window: lifetime }', ...wide.slice(0, 1)] })
  t.match(gateway.output(), /workers +3 processes share the callers' port/)
  const calls = Array.from({ length: 120 }, (_, index) => chat(gateway.port, `c-${index}`, { stream: false }))
  const done = new Set<string>()
  const answering = (async () => {
    for (let answered = 0; answered < 40;) {
      for (const [tag, cued] of model.calls) {
        if (done.has(tag)) continue
        done.add(tag)
        answered += 1
        await cued.answer()
      }
      await sleep(5)
    }
  })()
  await Promise.all(calls.map(({ over }) => over))
  await answering
  const count = (status: number): number => calls.filter((call) => call.status === status).length
  t.same([count(200), count(429)], [40, 80])
  const lines = await linesOf(gateway, 40)
  t.equal(lines.length, 40)
  t.match(await standing(gateway), { calls: { used: 40, reserved: 0 }, budget: { used: totalOf(lines, 'total_tokens'), reserved: 0 } })
  const shares = await waitFor('every line of the log', () => {
    const counts = exchangesByWorker(gateway)
    return [...counts.values()].reduce((sum, each) => sum + each, 0) === 121 ? counts : undefined
  })
  t.same([...shares.keys()].sort(), [1, 2, 3], 'each of them')
  t.equal(await metric(gateway, 'tallygate_requests_total'), 121)
  t.equal(await metric(gateway, 'tallygate_workers'), workers)
  t.equal(await metric(gateway, 'tallygate_store_admitting'), 1)
  t.comment(`120 calls over ${[...shares.values()].join(' + ')} of ${workers} workers (one more asked what is left): 40 admitted of 40`)
})

t.test('a worker that is killed takes only its own calls along, and is started again under its number', async (t) => {
  const model = await openCuedUpstream(t)
  const { gateway, configure } = await startWorkers(t, model.url)
  const streams = await openStreams(gateway, model, workers)
  const before = await metric(gateway, 'tallygate_requests_total')
  const [victim = 0] = childrenOf(gateway.pid)
  process.kill(victim, 'SIGKILL')
  await waitFor('a stream to be cut', () => streams.some(({ call }) => call.request.destroyed || call.request.closed))
  await waitFor('the worker to be back', async () => await metric(gateway, 'tallygate_workers') === workers, { deadlineMs: 10_000, everyMs: 50 })
  t.equal(childrenOf(gateway.pid).length, workers)
  t.notOk(childrenOf(gateway.pid).includes(victim))
  t.equal(await metric(gateway, 'tallygate_worker_restarts_total'), 1)
  t.ok(await metric(gateway, 'tallygate_requests_total') >= before, 'what it had counted is still counted')
  for (const { cued } of streams) {
    await cued.say(1)
    await cued.close()
    await cued.end()
  }
  const whole = await Promise.all(streams.map(({ call }) => call.over))
  t.equal(whole.filter((each) => each).length, workers - 1, 'the others went on')

  // A file with a mistake in it keeps no worker from coming back: the primary hands over what is in use.
  configure(['{ name: calls, meter: requsts, limit: 40, window: lifetime }'], 2)
  gateway.signal('SIGHUP')
  await waitFor('the refusal', () => gateway.output().includes('the new configuration has mistakes'), { deadlineMs: 5_000 })
  process.kill(childrenOf(gateway.pid)[0] ?? 0, 'SIGKILL')
  await waitFor('the second restart', async () => await metric(gateway, 'tallygate_worker_restarts_total') === 2 && await metric(gateway, 'tallygate_workers') === workers, { deadlineMs: 10_000, everyMs: 50 })
  configure([...wide.slice(0, 1), '{ name: calls, meter: requests, limit: 77, window: lifetime }'], 3)
  gateway.signal('SIGHUP')
  await waitFor('the good edit', async () => (await standing(gateway))['calls']?.limit === 77, { deadlineMs: 5_000, everyMs: 50 })
  for (let look = 0; look < 2 * workers; look++) {
    const answer = await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${secret}`, connection: 'close' } })
    t.match(await answer.json(), { limits: [{}, { limit: 77 }] }, 'on every worker')
  }
})

t.test('SIGTERM, to the primary and to the whole group as supervisors send it, drains every worker; a second one later hurries', async (t) => {
  const model = await openCuedUpstream(t)
  const { gateway } = await startWorkers(t, model.url)
  const streams = await openStreams(gateway, model, 2 * workers)
  const pids = childrenOf(gateway.pid)
  for (const pid of pids) process.kill(pid, 'SIGTERM')
  const code = gateway.stop()
  await sleep(1_500)
  t.ok(pids.every(lives), 'what runs is waited for')
  for (const { cued } of streams.slice(1)) {
    await cued.say(1)
    await cued.close()
    await cued.end()
  }
  for (const { call } of streams.slice(1)) t.equal(await call.over, true)
  gateway.signal('SIGTERM')
  const startedAt = performance.now()
  t.equal(await code, 0)
  t.ok(performance.now() - startedAt < 8_000, 'the last one was cut')
  t.notOk(pids.some(lives))
  const lines = usageLines(gateway.dir)
  t.equal(lines.length, 2 * workers, 'all are billed, the one that was cut too')
  t.equal(lines.filter(({ data }) => data.end === 'complete').length, 2 * workers - 1)
})

t.test('workers whose primary is killed settle what they have and end; the next start goes on with right books', async (t) => {
  const model = await openCuedUpstream(t)
  const { gateway } = await startWorkers(t, model.url)
  const streams = await openStreams(gateway, model, workers)
  const pids = childrenOf(gateway.pid)
  await gateway.kill()
  await waitFor('the workers to end', () => !pids.some(lives), { deadlineMs: 10_000, everyMs: 20 })
  for (const { call } of streams) t.equal(await call.over, false)
  await gateway.start()
  await allReady(gateway, 2)
  // Its lease on the sink outlives a primary that was killed; the events themselves are there.
  const { events } = await (await fetch(`${gateway.adminUrl}/api/v1/events`)).json() as { events: { event: UsageLine }[] }
  const lines = events.map(({ event }) => event)
  t.equal(lines.length, workers)
  for (const { data } of lines) t.ok((data.output_tokens ?? 0) >= 2 && (data.input_tokens ?? 0) >= 1 && data.end !== 'complete', `${data.end}: ${data.output_tokens} tokens`)
  t.match(await standing(gateway), { budget: { used: totalOf(lines, 'total_tokens'), reserved: 0 }, parallel: { used: 0 } })
  t.equal(await gateway.stop(), 0)
})

t.test('a worker that cannot reach its store when it starts waits for it, or ends with a sentence and is started again; the others answer meanwhile', async (t) => {
  const model = await openCuedUpstream(t)
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const relay = await openRedisRelay(t, redis.port)
  const gateway = await startGatewayProcess(t, `store: { url: "${relay.url}", spool: "{dir}/spool" }
${configOf({ upstream: model.url, limits: wide, server: '{ workers: 2, drain: { delay: 0s, timeout: 20s } }' })}`)
  await allReady(gateway)
  const both = async (): Promise<boolean> => await metric(gateway, 'tallygate_workers') === 2
  const answers = async (): Promise<void> => {
    const tag = `call-${model.calls.size}`
    const call = chat(gateway.port, tag, { stream: false })
    await (await model.call(tag)).answer()
    t.equal(await call.over, true)
  }

  // It is there, but what a new process reads of it first is refused.
  const read = /^HSCAN /
  const refused = 'BUSY Redis is busy running a script'
  const before = relay.seen(read)
  relay.answer(refused, read)
  process.kill(childrenOf(gateway.pid)[0] ?? 0, 'SIGKILL')
  await waitFor('the new worker to read', () => relay.seen(read) > before + 5, { deadlineMs: 20_000 })
  await answers()
  relay.heal()
  await waitFor('the new worker', both, { deadlineMs: 20_000, everyMs: 50 })
  t.equal(await metric(gateway, 'tallygate_worker_restarts_total'), 1, 'it has waited')

  relay.answer(refused, read)
  process.kill(childrenOf(gateway.pid)[0] ?? 0, 'SIGKILL')
  const told = await waitFor('the sentence', () => /"code":1,[^\n]*"why":"(the store cannot be read: [^"]+)"[^\n]*"a worker has ended; it is started again"/.exec(gateway.output())?.[1], { deadlineMs: 40_000, everyMs: 100 })
  t.comment(told)
  await answers()
  relay.heal()
  await waitFor('the new worker', both, { deadlineMs: 20_000, everyMs: 50 })
  await answers()
  t.notMatch(gateway.output(), /"level":"fatal"|^\s+at /m, 'nothing of it is a bug')
  t.equal(await gateway.stop(), 0)
})

t.test('what keeps workers from starting is one clear sentence, and no process is left', async (t) => {
  const redis = await startRedis(t, { appendonly: 'everysec' })
  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await waitFor('the port', () => other.listening)
  const { port } = other.address() as AddressInfo
  const dir = tmpDir(t)
  const start = (text: string): Promise<Finished> => {
    writeFileSync(`${dir}/w.yaml`, text)
    return spawnTallygate(t, ['serve', '--config', `${dir}/w.yaml`, '--admin-listen', '127.0.0.1:0'], { cwd: dir }).finished
  }
  const taken = await start(`server: { workers: 2, listen: "127.0.0.1:${port}" }\nstore: "${redis.url}"\n`)
  t.equal(taken.code, 1)
  t.match(taken.err, new RegExp(`cannot listen on 127.0.0.1:${port}: something else listens there`))
  t.notMatch(taken.err + taken.out, /^\s+at /m)
  const spool = await start(`server: { workers: 2, listen: "127.0.0.1:0" }\nstore: { url: "${redis.url}", spool: "${dir}/w.yaml" }\n`)
  t.equal(spool.code, 1)
  t.match(spool.err, /w\.yaml/)
  t.notMatch(spool.err + spool.out, /^\s+at /m)
})
