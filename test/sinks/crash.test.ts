// S13: the gateway is gone at any point between the outbox and the receiver's books, and another goes on: each event is booked once. The point is each call of
// the store in turn: before it, and after it without its answer. With every kind of store, for single records, for sums, and for receivers that forget.

import t, { type Test } from 'tap'
import { systemClock, withTime, type Clock } from '../../src/clock.ts'
import type { SinkMapping } from '../../src/config/config.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import { quarantined } from '../../src/sinks/quarantine.ts'
import type { SinkContract, SinkRecord } from '../../src/sinks/sink.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { startRedis } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { embeddedIn, newDir } from '../stores/embedded-fixture.ts'
import { openTestStore } from '../stores/redis-fixture.ts'
import { eventBody, newId, settleOf } from '../stores/sample-moves.ts'
import { mappingOf } from './sample-events.ts'
import { someKind } from './some-kind.ts'

const dayMs = 86_400_000
const meters = [{ code: 'in', quantity: 'input_tokens' }, { code: 'out', quantity: 'output_tokens' }]

interface Case {
  readonly name: string
  readonly mapping: SinkMapping | null
  readonly contract: Partial<SinkContract>
  /** How much later the other goes on, beyond the lease. */
  readonly laterMs: number
}

const cases: readonly Case[] = [
  { name: 'whole events', mapping: null, contract: {}, laterMs: 0 },
  { name: 'records', mapping: mappingOf(meters), contract: { batchMax: 3 }, laterMs: 0 },
  { name: 'records, to a receiver that forgets after a day, at once', mapping: mappingOf(meters), contract: { batchMax: 3, dedupWindowMs: dayMs }, laterMs: 0 },
  { name: 'records, to a receiver that has forgotten them by then', mapping: mappingOf(meters), contract: { batchMax: 3, dedupWindowMs: dayMs }, laterMs: 2 * dayMs },
  { name: 'sums', mapping: mappingOf(meters, { rollup: 'minute' }), contract: { batchMax: 1 }, laterMs: 0 },
  { name: 'sums, to a receiver that has forgotten them by then', mapping: mappingOf(meters, { rollup: 'minute' }), contract: { batchMax: 1, dedupWindowMs: dayMs }, laterMs: 2 * dayMs },
]

/** The parts of a store that a loop uses, which fall silent at the n-th call: before it is made, or after it. */
function silentAt(store: Store, n: number, when: 'before' | 'after'): Pick<Store, 'outbox' | 'records'> & { readonly calls: () => number; readonly silent: () => boolean } {
  let calls = 0
  let silent = false
  const around = <T extends object>(part: T): T => new Proxy(part, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...args: unknown[]): unknown => {
        if (name === 'onAppend' || name === 'lag' || name === 'deadCount' || name === 'list') return Reflect.apply(value, target, args) as unknown
        calls += 1
        if (silent || (calls === n && when === 'before')) {
          silent = true
          return new Promise(() => undefined)
        }
        const answer = Reflect.apply(value, target, args) as Promise<unknown>
        if (calls !== n) return answer
        return answer.then(() => {
          silent = true
          return new Promise(() => undefined)
        })
      }
    },
  })
  return { outbox: around(store.outbox), records: around(store.records), calls: () => calls, silent: () => silent }
}

/** Books by customer and code, each id once within the receiver's memory. */
class Books {
  readonly ids = new Map<string, number>()
  readonly contents = new Map<string, string>()
  readonly records: SinkRecord[] = []
  changed = 0
  #forget = false

  take(batch: readonly SinkRecord[]): void {
    for (const record of batch) {
      const content = JSON.stringify(record)
      if (this.contents.has(record.id) && this.contents.get(record.id) !== content) this.changed += 1
      this.contents.set(record.id, content)
      if (this.ids.has(record.id) && !this.#forget) continue
      this.ids.set(record.id, (this.ids.get(record.id) ?? 0) + 1)
      this.records.push(record)
    }
  }

  forget(): void {
    this.#forget = true
  }

  get doubled(): readonly string[] {
    return [...this.ids].filter(([, times]) => times > 1).map(([id]) => id)
  }
}

function sumsOf(records: readonly SinkRecord[]): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const record of records) {
    if (record.is === 'event') sums[record.id] = (sums[record.id] ?? 0) + 1
    else sums[record.code] = (sums[record.code] ?? 0) + Number(record.value)
  }
  return sums
}

async function crashEverywhere(t: Pick<Test, 'ok' | 'same' | 'comment'>, store: Store, one: Case): Promise<void> {
  const takes = one.mapping === null ? 'events' : 'records'
  const kind = someKind({ takes, contract: one.contract })
  const events = 4
  let points = 0
  for (const when of ['before', 'after'] as const) {
    for (let n = 1; n < 60; n++) {
      const name = `${one.name.replace(/\W+/g, '-')}-${when}-${n}`.slice(-100)
      await store.outbox.setConsumers([name])
      // The sink is new: what was written for those before it is none of its business.
      const nowMs = systemClock.nowMs()
      const begin = await store.outbox.lease(name, 'begin', nowMs, nowMs + 1)
      for (let left = true; begin !== undefined && left;) {
        const entries = await store.outbox.read(begin, 1_000)
        left = entries.length > 0
        if (left) await store.outbox.advance(begin, entries)
      }
      if (begin !== undefined) await store.outbox.release(begin)
      const ids: string[] = []
      for (let i = 0; i < events; i++) {
        // Two minutes ago: the windows of sums are over.
        const atMs = systemClock.nowMs() - 120_000
        const id = newId(atMs)
        await store.settle(settleOf(id, atMs, 'acme', [], [], { usage: { requests: 1, input_tokens: 3, output_tokens: 5 }, event: eventBody }))
        ids.push(id)
      }
      const books = new Books()
      const deliveryOf = (parts: Pick<Store, 'outbox' | 'records'>, clock: Clock, holder: string): Delivery => new Delivery({
        name, kind, mapping: one.mapping, outbox: parts.outbox, records: parts.records, clock, random: systemRandom, log: silentLog, metrics: new Metrics(), holder,
        sink: {
          deliver: async (batch) => {
            books.take(batch)
            return { accepted: batch.map(({ id }) => id), refused: [] }
          },
          close: async () => undefined,
        },
      })
      const doomed = silentAt(store, n, when)
      const first = deliveryOf(doomed, systemClock, 'first')
      first.start()
      await waitFor('its end, or the end of what there is', async () => doomed.silent() || (await store.outbox.lag(name)).count === 0, { deadlineMs: 10_000 })
      const died = doomed.silent()
      // Its last call may be the one that is never answered.
      if (!died) await Promise.race([first.stop(), waitFor('its end', () => doomed.silent(), { deadlineMs: 10_000 })])
      if (one.laterMs > 0) books.forget()
      const aheadMs = 31_000 + one.laterMs
      const second = deliveryOf(store, withTime(systemClock, () => systemClock.nowMs() + aheadMs), 'second')
      second.start()
      await waitFor(`the rest, ${name}`, async () => (await store.outbox.lag(name)).count === 0, { deadlineMs: 10_000 })
      await second.stop()
      const held = (await quarantined(store.records, name)).flatMap(({ records }) => records)
      const expected = one.mapping === null ? Object.fromEntries(ids.map((id) => [id, 1])) : { in: 3 * events, out: 5 * events }
      const told = sumsOf(books.records)
      // What is held may have been booked or not; together they are all there is, once.
      const heldOnly = held.filter(({ id }) => !books.ids.has(id))
      t.same(sumsOf([...books.records, ...heldOnly]), expected, `${name}: ${JSON.stringify(told)}, ${held.length} held`)
      t.same([books.doubled, books.changed], [[], 0], `${name}: nothing doubled, nothing changed`)
      if (one.laterMs === 0) t.same(held, [], `${name}: nothing held that could be sent`)
      if (!died) break
      points += 1
    }
  }
  t.comment(`${points} points`)
  t.ok(points >= 5, `${points} points of ${one.name}`)
}

t.test('memory', async (t) => {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: dayMs })
  t.teardown(() => store.close())
  for (const one of cases) await t.test(one.name, (t) => crashEverywhere(t, store, one))
})

t.test('embedded', async (t) => {
  const store = await embeddedIn(newDir(t))
  t.teardown(() => store.close())
  for (const one of cases) await t.test(one.name, (t) => crashEverywhere(t, store, one))
})

t.test('Redis', async (t) => {
  const redis = await startRedis(t)
  const store = await openTestStore(t, redis.url)
  for (const one of cases) await t.test(one.name, (t) => crashEverywhere(t, store, one))
})
