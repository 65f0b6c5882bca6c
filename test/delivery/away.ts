// Started as a process of its own by `drain.ts`: `away.ts <data folder> <url> <file> <events> <seed>`. Settles events without sinks, then with two whose receivers are
// away for an hour of its time; says what that was like, then asks for one after the other to come back, and says how long it took to catch up.
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Config, SinkConfig } from '../../src/config/config.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { silentLog } from '../../src/log.ts'
import type { Settle } from '../../src/metering/moves.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import type { Settling } from './drain.ts'
import { settlements } from './exchanges.ts'
import { SwiftClock } from './swift-clock.ts'

const [dir = '', url = '', path = '', countText = '', seedText = ''] = process.argv.slice(2)
const count = Number(countText)
const hourMs = 3_600_000
const MiB = 1_048_576
/** As many callers as wait for their settlement at the same time. */
const callers = 64
/** How much faster the hour passes: timers too, so that what is tried again is tried as much oftener. */
const swift = 60

/** What is closed is remembered for a while by the store: that is over then, and is not what is measured. */
const forgottenMs = 61_000

const say = (what: object): void => { process.stdout.write(`${JSON.stringify(what)}\n`) }
const memory = (): { readonly rss: number; readonly heap: number } => {
  globalThis.gc?.()
  const { rss, heapUsed } = process.memoryUsage()
  return { rss: rss / MiB, heap: heapUsed / MiB }
}
const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms) })
const answers = createInterface({ input: process.stdin })

async function settleMany(name: string, moves: Iterator<Settle>, task: (move: Settle) => Promise<unknown>): Promise<void> {
  const tookMs: number[] = []
  const began = performance.now()
  await Promise.all(Array.from({ length: callers }, async () => {
    for (let next = moves.next(); next.done !== true; next = moves.next()) {
      const from = performance.now()
      await task(next.value)
      tookMs.push(performance.now() - from)
    }
  }))
  const seconds = (performance.now() - began) / 1_000
  const sorted = Float64Array.from(tookMs).sort()
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  tookMs.length = 0
  await pause(forgottenMs)
  const { rss, heap } = memory()
  const settled: Settling = { name, count: sorted.length, seconds, p50Ms: at(0.5), p99Ms: at(0.99), mostMs: at(1), rss, heap }
  say({ settled })
}

const many = (events: number, seed: number): Iterator<Settle> => settlements({ count: events, seed, untilMs: Date.now(), spanMs: hourMs / 2 })
const few = Math.floor(count / 5)

// Without sinks, in a store of its own: what settling takes and keeps anyway.
const plain = await embeddedIn(`${dir}-plain`, { forgetAfterMs: 60_000 })
await settleMany('without sinks', many(few, Number(seedText)), (move) => plain.settle(move))
await plain.close()

// As fast as it is while it is measured what that costs; the rest of the hour is only to pass.
const clock = new SwiftClock(1, true)
const store = await embeddedIn(dir, { forgetAfterMs: 60_000 })
const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random: systemRandom, log: silentLog, metrics: new Metrics(), stdout: process.stdout })
const sinks: readonly SinkConfig[] = [
  { name: 'webhook', type: 'webhook', settings: { url, private: true, format: 'batched', batch: 100, secrets: ['a secret of thirty-two characters'], token: null, gzip: false }, mapping: null },
  { name: 'file', type: 'file', settings: { path, max_bytes: 100 * MiB, daily: false, keep: null }, mapping: null },
]
await deliveries.use({ sinks, instance: 'gw-1', accounts: new Map() } as unknown as Config)
const awayFromMs = clock.nowMs()
await settleMany('both sinks away', many(few, Number(seedText) + 1), (move) => store.settle(move))
clock.factor = swift
await settleMany('until the hour is over', many(count - few, Number(seedText) + 2), (move) => store.settle(move))
while (clock.nowMs() - awayFromMs < hourMs) await pause(100)
say({ awayMs: clock.nowMs() - awayFromMs })

for (const name of ['file', 'webhook'] as const) {
  const { count: waiting } = await store.outbox.lag(name)
  say({ back: name })
  await once(answers, 'line')
  while ((await store.outbox.lag(name)).count === waiting) await pause(5)
  clock.factor = 1
  const began = performance.now()
  let rssMost = 0
  for (;;) {
    rssMost = Math.max(rssMost, process.memoryUsage().rss / MiB)
    if ((await store.outbox.lag(name)).count === 0) break
    await pause(50)
  }
  say({ drained: { name, count: waiting, seconds: (performance.now() - began) / 1_000, booked: 0, rssMost } })
  clock.factor = swift
}
await deliveries.stop()
await store.close()
process.exit(0)
