// Faults G1 to G7 and G15: the process dies at a named point of an exchange.
// test: timeout 240 s
import { statSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import { openai } from '../fixtures/openai-scripts.ts'
import { openScriptedUpstream } from '../fixtures/scripted-upstream.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { inputTokens, openCuedUpstream } from './cued-upstream.ts'
import { inspect, inspectable } from './inspector.ts'
import { chat, configOf, linesOf, standing, totalOf, usageLines, type UsageLine } from './outside.ts'

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const hard = '{ name: budget, meter: total_tokens, limit: 1M, window: lifetime }'
const calls = '{ name: calls, meter: requests, limit: 1000, window: lifetime }'
const parallel = '{ name: parallel, meter: concurrency, limit: 1000 }'
const limits = [hard, calls, parallel]

/** Nothing is held, and the counters are the events. */
async function booksAreTrue(t: Test, gateway: GatewayProcess, count: number): Promise<UsageLine[]> {
  const lines = await linesOf(gateway, count)
  t.equal(lines.length, count, `${count} events`)
  t.equal(new Set(lines.map(({ id }) => id)).size, count, 'each once')
  const now = await standing(gateway)
  for (const [name, { reserved }] of Object.entries(now)) t.equal(reserved, 0, `${name}: nothing is held`)
  t.equal(now['budget']?.used, totalOf(lines, 'total_tokens'), 'the counter of tokens is what the events say')
  t.equal(now['calls']?.used, totalOf(lines, 'requests'), 'so is that of calls')
  return lines
}

t.setTimeout(120_000)
t.test('G1, G2: killed after the reservation and before a byte went upstream: nothing is billed, everything is free again', async (t) => {
  // The upstream lets connections in and never shakes hands: reservations are durable, and no request can have been sent.
  let reached = 0
  const upstream = createServer((socket) => {
    reached += 1
    socket.on('error', () => socket.destroy())
  }).listen(0, '127.0.0.1')
  t.teardown(() => upstream.close())
  await waitFor('the upstream', () => upstream.listening)
  const gateway = await startGatewayProcess(t, configOf({ upstream: `https://127.0.0.1:${(upstream.address() as AddressInfo).port}`, limits }))
  const running = Array.from({ length: 10 }, (_, i) => chat(gateway.port, `g2-${i}`))
  await waitFor('every call to reach the upstream', () => reached === 10)
  t.ok((await standing(gateway))['budget']!.reserved > 0, 'it was held')
  await gateway.kill()
  for (const call of running) t.equal(await call.over, false, 'the client sees a broken connection')

  // And killed at once, wherever each of them is.
  for (const afterMs of [0, 2, 5]) {
    await gateway.start()
    const more = Array.from({ length: 10 }, (_, i) => chat(gateway.port, `g1-${afterMs}-${i}`))
    await sleep(afterMs)
    await gateway.kill()
    await Promise.all(more.map(({ over }) => over))
  }
  await gateway.start()
  const lines = await waitFor('the first ten', () => (usageLines(gateway.dir).length >= 10 ? usageLines(gateway.dir) : undefined))
  await sleep(300)
  const all = await booksAreTrue(t, gateway, usageLines(gateway.dir).length)
  t.ok(all.length >= lines.length && all.length <= 40, `${all.length} of 40 had been held`)
  t.ok(all.every(({ data }) => data.end === 'expired' && (data.total_tokens ?? 0) === 0 && (data.requests ?? 0) === 0), 'and are told with nothing used')
  const { budget } = await standing(gateway)
  t.equal(budget?.remaining, 1_000_000, 'what remains is exactly what was there before')
})

t.test('G3: killed while the request is on its way: one event, not more than was held', async (t) => {
  const upstream = await openScriptedUpstream(t, async (_request, reply) => {
    reply.pauseReading()
    await reply.stall()
  }, { early: true })
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url, limits: [hard.replace('1M', '100M'), calls, parallel] }))
  const call = chat(gateway.port, 'g3', { prompt: 'x'.repeat(6_000_000) })
  await waitFor('the head of the request', () => upstream.requests.length === 1)
  await sleep(100)
  const { budget } = await standing(gateway)
  await gateway.kill()
  t.ok((upstream.connections[0]?.bytesReceived ?? Infinity) < 6_000_000, 'it had not been sent whole')
  await call.over
  await gateway.start()
  const [line] = await booksAreTrue(t, gateway, 1)
  t.equal(line?.data.end, 'expired')
  t.ok((line?.data.total_tokens ?? 0) <= (budget?.reserved ?? 0))
})

t.test('G4: killed mid-stream at every chunk: one event, at least what the last checkpoint had counted, at most what was held', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url, limits }))
  const begin = async (tag: string, pieces: number): Promise<ReturnType<typeof chat>> => {
    const call = chat(gateway.port, tag)
    const cued = await model.call(tag)
    await cued.begin()
    if (pieces > 0) await cued.say(pieces)
    await waitFor('the pieces', () => call.text.split('word').length - 1 === pieces)
    return call
  }
  const old = await Promise.all(Array.from({ length: 12 }, (_, k) => begin(`old-${k + 1}`, k + 1)))
  // A checkpoint is made every five seconds.
  await sleep(5_400)
  for (let k = 1; k <= 12; k++) await model.calls.get(`old-${k}`)?.say(3)
  const young = await Promise.all(Array.from({ length: 8 }, (_, k) => begin(`young-${k}`, k)))
  const ids = (list: typeof old): string[] => list.map(({ headers }) => String(headers['x-request-id']))
  const [oldIds, youngIds] = [ids(old), ids(young)]
  await gateway.kill()
  for (const call of [...old, ...young]) {
    t.equal(await call.over, false)
    t.notMatch(call.text, /\[DONE\]/, 'no client takes it for whole')
  }
  await gateway.start()
  const lines = await booksAreTrue(t, gateway, 20)
  const byId = new Map(lines.map((line) => [line.id, line.data]))
  oldIds.forEach((id, index) => {
    const data = byId.get(id)
    t.match(data, { end: 'expired', usage_source: 'estimated' })
    t.ok((data?.output_tokens ?? 0) >= index + 1 && (data?.output_tokens ?? 0) <= 50, `chunk ${index + 1}: ${data?.output_tokens} tokens`)
    t.equal(data?.requests, 1)
  })
  for (const id of youngIds) t.ok((byId.get(id)?.output_tokens ?? 0) <= 50 && byId.has(id), 'one without a checkpoint has its event too')
  await gateway.kill()
  await gateway.start()
  await booksAreTrue(t, gateway, 20)
  t.comment(`output tokens billed for streams that had said 1 to 12 pieces by their last checkpoint: ${oldIds.map((id) => byId.get(id)?.output_tokens).join(', ')}`)
})

t.test('G5: killed between the upstream\'s last byte and the settlement: one event, and no client had the end', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url, limits }))
  // The terminator has come and the connection is still open: the end is held back while usage may follow.
  const held = await Promise.all(Array.from({ length: 6 }, async (_, i) => {
    const call = chat(gateway.port, `held-${i}`)
    const cued = await model.call(`held-${i}`)
    await cued.begin()
    await cued.say(4)
    await cued.close()
    await waitFor('the pieces', () => call.text.includes('word'))
    return call
  }))
  await sleep(100)
  await gateway.kill()
  for (const call of held) {
    await call.over
    t.notMatch(call.text, /\[DONE\]/, 'the end was not released: it was not settled')
  }
  await gateway.start()
  const first = await booksAreTrue(t, gateway, 6)
  t.ok(first.every(({ data }) => data.end === 'expired' && (data.output_tokens ?? 0) <= 50))

  // And a little after the very last byte, while settlements are under way.
  const ended = new Map<string, ReturnType<typeof chat>>()
  for (const [round, afterMs] of [0, 1, 3, 6, 12].entries()) {
    const running = await Promise.all(Array.from({ length: 8 }, async (_, i) => {
      const tag = `race-${round}-${i}`
      const call = chat(gateway.port, tag)
      const cued = await model.call(tag)
      await cued.begin()
      await cued.say(4)
      await waitFor('the pieces', () => call.text.includes('word'))
      return { call, cued }
    }))
    const past = Promise.all(running.map(async ({ cued }) => {
      await cued.close()
      await cued.end()
    }))
    const untilMs = performance.now() + afterMs
    await past
    while (performance.now() < untilMs) await new Promise((resolve) => setImmediate(resolve))
    await gateway.kill()
    for (const { call } of running) {
      await call.over
      ended.set(String(call.headers['x-request-id']), call)
    }
    await gateway.start()
  }
  const lines = await booksAreTrue(t, gateway, 6 + 40)
  const byId = new Map(lines.map((line) => [line.id, line.data]))
  let complete = 0
  let expired = 0
  for (const [id, call] of ended) {
    const data = byId.get(id)
    if (data?.end === 'complete') {
      complete += 1
      t.match(data, { usage_source: 'upstream', input_tokens: inputTokens, output_tokens: 4 })
    } else {
      expired += 1
      t.equal(data?.end, 'expired')
      t.notMatch(call.text, /\[DONE\]/, 'whoever saw the end was settled')
    }
  }
  t.comment(`40 streams killed 0 to 12 ms after their last byte: ${complete} complete, ${expired} expired, 0 lost, 0 twice`)
})

t.test('G7: killed between the sink\'s writing and the cursor: the file has every event once, unchanged', async (t) => {
  const upstream = await openScriptedUpstream(t, openai())
  const gateway = await startGatewayProcess(t, configOf({ upstream: upstream.url, limits }))
  const file = join(gateway.dir, 'usage.ndjson')
  const size = (): number => statSync(file, { throwIfNoEntry: false })?.size ?? 0
  let between = 0
  let made = 0
  const before = new Map<string, string>()
  for (let round = 0; round < 8; round++) {
    const from = size()
    const running = Array.from({ length: 5 }, (_, i) => chat(gateway.port, `g7-${round}-${i}`, { stream: false }))
    made += 5
    // Looks without a pause: the cursor follows the file by one write.
    const untilMs = performance.now() + 5_000
    while (size() === from && performance.now() < untilMs) await new Promise((resolve) => setImmediate(resolve))
    await gateway.kill()
    await Promise.all(running.map(({ over }) => over))
    for (const line of usageLines(gateway.dir)) before.set(line.id, JSON.stringify(line))
    if (await behind(t, gateway) > 0) between += 1
    await gateway.start()
  }
  await sleep(500)
  const lines = await booksAreTrue(t, gateway, usageLines(gateway.dir).length)
  t.ok(lines.length <= made)
  for (const line of lines) if (before.has(line.id)) t.equal(JSON.stringify(line), before.get(line.id), 'what was written stayed what it was')
  t.ok(between > 0, `in ${between} of 8 kills the file was ahead of its cursor`)
  t.comment(`8 kills, ${between} of them between the file and its cursor: ${lines.length} events, 0 twice`)
})

/** By how many events the file is ahead of the cursor, in a copy of a dead gateway's journal. */
async function behind(t: Test, gateway: GatewayProcess): Promise<number> {
  const copy = join(tmpDir(t), 'data')
  await cp(join(gateway.dir, 'data'), copy, { recursive: true })
  const db = new DatabaseSync(join(copy, 'journal.db'))
  try {
    const cursor = Number(db.prepare('SELECT ordinal FROM cursors WHERE consumer = ?').get('file')?.['ordinal'] ?? 0)
    return usageLines(gateway.dir).length - cursor
  } finally {
    db.close()
  }
}

t.test('G15: the heap is full: calls in flight are booked as after any death, once', async (t) => {
  const model = await openCuedUpstream(t)
  const gateway = await startGatewayProcess(t, configOf({ upstream: model.url, limits }), { NODE_OPTIONS: `${inspectable.NODE_OPTIONS} --max-old-space-size=96` })
  const running = await Promise.all(Array.from({ length: 5 }, async (_, i) => {
    const call = chat(gateway.port, `g15-${i}`)
    const cued = await model.call(`g15-${i}`)
    await cued.begin()
    await cued.say(5)
    await waitFor('the pieces', () => call.text.includes('word'))
    return call
  }))
  const { evaluate } = await inspect(t, gateway)
  void evaluate('globalThis.leak = []; for (;;) globalThis.leak.push(Array.from({ length: 100_000 }, (_, i) => ({ i })))')
  for (const call of running) t.equal(await call.over, false)
  await waitFor('the end of the process', () => /heap out of memory|heap limit/i.test(gateway.output()), { deadlineMs: 20_000 })
  await gateway.kill()
  for (let restart = 0; restart < 3; restart++) {
    await gateway.start()
    const lines = await booksAreTrue(t, gateway, 5)
    t.ok(lines.every(({ data }) => data.end === 'expired'))
    await gateway.kill()
  }
})
