import type { SinkMapping } from '../../src/config/config.ts'
import { eventId } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Quantities } from '../../src/metering/meter.ts'
import { Metrics } from '../../src/metrics.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import type { DeliveryReport, Sink, SinkContract, SinkKind, SinkRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { eventBody, settleOf } from '../stores/sample-moves.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { someKind } from './some-kind.ts'
import { VirtualClock } from './virtual-clock.ts'

/** What a receiver makes of a batch. It books by itself, so that it can do so and answer otherwise. */
export type Behaviour = (batch: readonly SinkRecord[], receiver: Receiver, signal: AbortSignal) => Promise<DeliveryReport> | DeliveryReport

/** A billing system with a memory of ids that may have an end. */
export class Receiver {
  /** How often an id has changed the books. */
  readonly booked = new Map<string, number>()
  /** Each batch that came, and when. */
  readonly batches: { readonly atMs: number; readonly ids: readonly string[] }[] = []
  /** Every content that came under an id. */
  readonly contents = new Map<string, Set<string>>()
  readonly #knownUntil = new Map<string, number>()
  readonly #clock: VirtualClock
  readonly #windowMs: number
  behaviour: Behaviour = (batch, receiver) => receiver.take(batch)
  inFlight = 0
  mostInFlight = 0

  constructor(clock: VirtualClock, contract: SinkContract) {
    this.#clock = clock
    this.#windowMs = contract.dedupWindowMs === 'forever' ? Infinity : contract.dedupWindowMs
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    this.batches.push({ atMs: this.#clock.nowMs(), ids: batch.map(({ id }) => id) })
    for (const record of batch) {
      const before = this.contents.get(record.id) ?? new Set()
      this.contents.set(record.id, before.add(JSON.stringify(record)))
    }
    this.inFlight += 1
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight)
    try {
      return await this.behaviour(batch, this, signal)
    } finally {
      this.inFlight -= 1
    }
  }

  /** Books what it does not know. */
  take(batch: readonly SinkRecord[]): DeliveryReport {
    let duplicates = 0
    for (const { id } of batch) {
      if ((this.#knownUntil.get(id) ?? -Infinity) > this.#clock.nowMs()) duplicates += 1
      else {
        this.booked.set(id, (this.booked.get(id) ?? 0) + 1)
        this.#knownUntil.set(id, this.#clock.nowMs() + this.#windowMs)
      }
    }
    return { accepted: batch.map(({ id }) => id), refused: [], duplicates }
  }

  get doubled(): readonly string[] {
    return [...this.booked].filter(([, times]) => times > 1).map(([id]) => id)
  }

  /** Ids that came with more than one content. */
  get changed(): readonly string[] {
    return [...this.contents].filter(([, contents]) => contents.size > 1).map(([id]) => id)
  }
}

export interface Lab {
  readonly clock: VirtualClock
  readonly store: Store
  readonly metrics: Metrics
  readonly log: LogLines
  /** Settles exchanges; gives the ids of their events. */
  add(count: number, more?: { readonly usage?: Quantities; readonly account?: string; readonly body?: object }): Promise<string[]>
  sink(name: string, options?: { readonly contract?: Partial<SinkContract>; readonly mapping?: SinkMapping | null; readonly takes?: SinkKind['takes']; readonly customerDefault?: 'none'; readonly receiver?: Receiver; readonly holder?: string; readonly store?: Store }): { readonly delivery: Delivery; readonly receiver: Receiver; readonly kind: SinkKind }
  /** Until nothing waits for the sink; false: it took longer. */
  drained(name: string, withinMs?: number): Promise<boolean>
}

export async function openLab(t: Teardown, options: { readonly startMs?: number } = {}): Promise<Lab> {
  const clock = new VirtualClock(options.startMs ?? Date.parse('2026-11-22T10:00:00Z'))
  const store = await openMemory({ clock, forgetAfterMs: 365 * 86_400_000, hotMs: 365 * 86_400_000 })
  const metrics = new Metrics()
  const log = new LogLines()
  const random = new SeededRandom(1)
  const deliveries: Delivery[] = []
  let n = 0
  t.teardown(async () => {
    const stopped = Promise.all(deliveries.map((delivery) => delivery.stop()))
    await clock.run(60_000)
    await stopped
    await store.close()
  })
  return {
    clock, store, metrics, log,
    async add(count, { usage = { requests: 1, total_tokens: 7 }, account = 'acme', body = {} } = {}) {
      const ids: string[] = []
      for (let i = 0; i < count; i++) {
        const nowMs = clock.nowMs()
        const bytes = Buffer.alloc(10)
        bytes.writeUInt32BE(n += 1, 6)
        const id = exchangeId(nowMs, bytes)
        await store.settle(settleOf(id, nowMs, account, [], [], { usage, event: { ...eventBody, account, settled_at: new Date(nowMs).toISOString(), ...body } }))
        ids.push(eventId(id, 0))
      }
      return ids
    },
    sink(name, more = {}) {
      const kind = someKind({ takes: more.takes ?? 'events', contract: more.contract ?? {}, ...(more.customerDefault === undefined ? {} : { customerDefault: more.customerDefault }) })
      const receiver = more.receiver ?? new Receiver(clock, kind.contract)
      const sink: Sink = { deliver: (batch, signal) => receiver.deliver(batch, signal), close: async () => undefined }
      const { outbox, records } = more.store ?? store
      const delivery = new Delivery({ name, kind, mapping: more.mapping ?? null, sink, outbox, records, clock, random, log, metrics, holder: more.holder ?? 'test' })
      // With a store of its own it is a process that will be gone before the test is.
      if (more.store === undefined) deliveries.push(delivery)
      return { delivery, receiver, kind }
    },
    drained: (name, withinMs = 3_600_000) => clock.run(withinMs, async () => (await store.outbox.lag(name)).count === 0),
  }
}

/** The value of a metric for a sink; 0 where there is none. */
export async function metricOf(lab: Lab, metric: string, sink: string): Promise<number> {
  return Number(new RegExp(`^${metric}\\{sink="${sink}"\\} (\\S+)$`, 'm').exec(await lab.metrics.text())?.[1] ?? 0)
}
