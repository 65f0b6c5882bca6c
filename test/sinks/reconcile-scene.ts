import { PassThrough } from 'node:stream'
import type { Test } from 'tap'
import { systemClock, withTime } from '../../src/clock.ts'
import type { Config, SinkConfig, SinkMapping } from '../../src/config/config.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { EventHistory } from '../../src/archive/history.ts'
import { toUsageEvent } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import { Metrics } from '../../src/metrics.ts'
import { reconcile, reconcileAndApply, type Difference, type Reconciliation } from '../../src/reconciliation/reconcile.ts'
import { noteTelling } from '../../src/reconciliation/telling.ts'
import { recordsOf } from '../../src/sinks/mapping.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import { kindOf, openSink } from '../../src/sinks/index.ts'
import type { SinkRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { eventBody, settleOf } from '../stores/sample-moves.ts'
import type { Dialect } from './kit/dialect.ts'
import type { Fake } from './kit/fake.ts'
import { httpSubject } from './kit/http-fake.ts'
import { surroundings } from './open.ts'
import { mappingOf } from './sample-events.ts'

export interface SettleOptions {
  readonly account?: string
  readonly usage?: Quantities
  /** How long before now it was admitted; it is settled a second later, or when `settledAgoMs` says. */
  readonly agoMs?: number
  readonly settledAgoMs?: number
}

/** A store with events, a receiver that is a fake, and what is asked of both. Time stands still unless the test moves it. */
export interface Scene {
  nowMs: number
  readonly store: Store
  readonly fake: Fake
  readonly config: SinkConfig
  readonly metrics: Metrics
  readonly log: LogLines
  /** Gives what the sink is told of it. */
  settle(options?: SettleOptions): Promise<readonly SinkRecord[]>
  /** Everything that waits. */
  deliver(): Promise<void>
  /** From now on the sink is configured in another way. */
  tellOtherwise(mapping: Partial<SinkMapping>, settings?: object): void
  /** As a gateway does something with its sinks. */
  withDeliveries<T>(task: (deliveries: Deliveries, config: Config) => Promise<T>): Promise<T>
  /** Takes the first event back. */
  credit(): Promise<unknown>
  compare(more?: { readonly each?: boolean; readonly account?: string; readonly period?: readonly [fromMs: number, untilMs: number] }): Promise<Reconciliation>
  /** Also gives what was written down before it was sent. */
  apply(): Promise<Reconciliation & { readonly noted: readonly Difference[] }>
}

const dayMs = 86_400_000
export const sceneName = 'billing'

export async function sceneOf(t: Test, dialect: Dialect, more: { readonly settings?: object; readonly mapping?: Partial<SinkMapping> } = {}): Promise<Scene> {
  let nowMs = Date.parse('2026-11-22T10:30:00Z')
  // Nobody waits here for a receiver's patience.
  const clock = { ...withTime(systemClock, () => nowMs), sleep: (delayMs: number) => systemClock.sleep(delayMs / 50) }
  const fake = await httpSubject(dialect).start({ nowMs: () => nowMs })
  const store = await openMemory({ clock, forgetAfterMs: 365 * dayMs, hotMs: 365 * dayMs })
  const metrics = new Metrics()
  const log = new LogLines()
  const random = new SeededRandom(7)
  t.teardown(async () => {
    await store.close()
    await fake.stop()
  })
  const { kind } = dialect
  const customers = { acme: 'cus_acme', globex: 'cus_globex' }
  const config: { -readonly [Name in keyof SinkConfig]: SinkConfig[Name] } = {
    name: sceneName, type: kind.type, settings: { ...fake.settings(), ...more.settings },
    mapping: kind.takes === 'events' ? null : mappingOf(kind.meters ?? [], { customers, ...more.mapping }),
  }
  const history = new EventHistory({ outbox: store.outbox, archive: () => null, clock })
  const parts = { outbox: store.outbox, records: store.records, history, clock, metrics, keptSinceMs: async () => 0 }
  const around = { ...surroundings, clock }
  const spanOf = (period: readonly [number, number] = [Date.parse('2026-11-01'), Date.parse('2026-12-01')]) => ({ fromMs: period[0], untilMs: period[1] })
  const withSink = async <T>(task: (sink: Awaited<ReturnType<typeof openSink>>) => Promise<T>): Promise<T> => {
    const sink = await openSink(config, around)
    try {
      return await task(sink)
    } finally {
      await sink.close()
    }
  }
  const withDeliveries = async <T>(task: (deliveries: Deliveries, config: Config) => Promise<T>): Promise<T> => {
    const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random, log, metrics, stdout: new PassThrough() })
    try {
      return await task(deliveries, { sinks: [config] as readonly SinkConfig[], instance: 'scene' } as Config)
    } finally {
      await deliveries.stop()
    }
  }
  await store.outbox.setConsumers([sceneName])
  return {
    get nowMs() { return nowMs },
    set nowMs(ms) { nowMs = ms },
    store, fake, config, metrics, log,
    async settle({ account = 'acme', usage, agoMs = 2 * 3_600_000, settledAgoMs = agoMs - 1_000 } = {}) {
      const admittedMs = nowMs - agoMs
      const atMs = nowMs - settledAgoMs
      const id = exchangeId(admittedMs, random.bytes(10))
      const input = random.int(100, 50_000)
      const output = random.int(100, 50_000)
      const move = settleOf(id, atMs, account, [], [], {
        usage: usage ?? { requests: 1, input_tokens: input, output_tokens: output, total_tokens: input + output },
        event: { ...eventBody, account, model_served: 'gpt-4o', settled_at: new Date(atMs).toISOString() },
      })
      await store.settle(move)
      const event = toUsageEvent({ kind: 'usage', id, correction: 0, atMs, body: move.event, usage: move.usage, booked: null, drawn: [], overruns: [] })
      return recordsOf(event, kindOf(config), config.mapping).records
    },
    async deliver() {
      await noteTelling(store.records, config, nowMs)
      const sink = await openSink(config, around)
      const delivery = new Delivery({ name: sceneName, kind: kindOf(config), mapping: config.mapping, sink, outbox: store.outbox, records: store.records, clock, random, log, metrics, holder: 'scene' })
      delivery.start()
      while ((await store.outbox.lag(sceneName)).count > 0) await systemClock.sleep(5)
      await delivery.stop()
    },
    tellOtherwise(mapping, settings = {}) {
      config.settings = { ...config.settings, ...settings }
      if (config.mapping !== null) config.mapping = { ...config.mapping, ...mapping }
    },
    async credit() {
      const [entry] = await store.outbox.scan(null, 1)
      if (entry === undefined) throw new Error('no event')
      return await withDeliveries((deliveries, whole) => deliveries.credit(whole, sceneName, toUsageEvent(entry.record)))
    },
    withDeliveries,
    compare: ({ each = false, account, period } = {}) => withSink((sink) => reconcile(config, sink, { ...spanOf(period), account: account ?? null, each }, parts)),
    async apply() {
      const noted: Difference[] = []
      const result = await withSink((sink) => reconcileAndApply(config, sink, { ...spanOf(), account: null, each: false }, parts, async (difference) => { noted.push(difference) }))
      return { ...result, noted }
    },
  }
}

/** Why → records of it. */
export function byWhy({ differences }: Reconciliation): Record<string, (string | null)[]> {
  const found: Record<string, (string | null)[]> = {}
  for (const { why, record } of differences) found[why] = [...found[why] ?? [], record]
  return found
}
