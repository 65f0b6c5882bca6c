// Settlements that the store did not take reach it later, in the order in which they came; with a spool over a restart as well.
// test: timeout 120 s
import t, { type Test } from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import { Settler, type SettlerParts } from '../../src/gateway/settler.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openSpool, type Spool } from '../../src/spool/spool.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { StoreUnavailable, type Store } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { LogLines } from '../stores/embedded-fixture.ts'
import { check, newId, reserveOf, settleOf } from '../stores/sample-moves.ts'
import { AwayStore } from './away-store.ts'

t.setTimeout(120_000)

const tokens = [check('tokens', null, 0)]

t.test('while a settlement waits for its next try, later ones queue behind it', async (t) => {
  const pause = Promise.withResolvers<void>()
  const clock: Clock = {
    nowMs: () => systemClock.nowMs(), monotonicMs: () => systemClock.monotonicMs(), every: (periodMs, task) => systemClock.every(periodMs, task),
    after: (delayMs, task, options) => systemClock.after(delayMs, task, options), sleep: () => pause.promise,
  }
  const memory = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => memory.close())
  const tried: string[] = []
  const store: Store = new Proxy(memory, { get(target, name) {
    const value: unknown = Reflect.get(target, name, target)
    if (name === 'settle') return (move: Parameters<Store['settle']>[0]) => {
      tried.push(move.id)
      return tried.length === 1 ? Promise.reject(new Error('away')) : target.settle(move)
    }
    return typeof value === 'function' ? value.bind(target) : value
  } })
  const settler = new Settler({ store, spool: null, clock, random: systemRandom, log: silentLog, metrics: new Metrics(), settleMs: 10_000, queueMax: 10 })
  const nowMs = clock.nowMs()
  const [older, newer] = [newId(nowMs), newId(nowMs)]
  const settle = (id: string): ReturnType<Settler['settle']> => settler.settle(settleOf(id, nowMs, 'acme', tokens, [7]), 10_000)

  const answers = [settle(older)]
  await new Promise((resolve) => setImmediate(resolve))
  answers.push(settle(newer))
  await new Promise((resolve) => setImmediate(resolve))
  t.same(tried, [older], 'the newer one does not overtake it')
  t.equal(settler.waiting, 2)
  pause.resolve()
  t.match(await Promise.all(answers), [{ outcome: 'settled_unheld' }, { outcome: 'settled_unheld' }])
  t.same(tried, [older, older, newer])
})

interface Bench {
  readonly store: AwayStore
  readonly memory: Store
  readonly spool: Spool
  readonly settler: Settler
  readonly log: LogLines
  readonly metrics: Metrics
  /** Settles 7 tokens of an account. */
  settle(home?: string, waitMs?: number): { readonly id: string; readonly answer: ReturnType<Settler['settle']> }
  /** Ids in the books, as often as they are there. */
  booked(): Promise<string[]>
}

async function bench(t: Test, more: Partial<SettlerParts> & { dir?: string; maxBytes?: number; under?: Store } = {}): Promise<Bench> {
  const memory = more.under ?? await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  const store = new AwayStore(memory)
  const log = new LogLines()
  const metrics = new Metrics()
  const spool = await openSpool({ dir: more.dir ?? tmpDir(t), clock: systemClock, log, ...(more.maxBytes === undefined ? {} : { maxBytes: more.maxBytes }) })
  const settler = new Settler({ store, spool, clock: systemClock, random: systemRandom, log, metrics, settleMs: 150, queueMax: 10_000, ...more })
  t.teardown(async () => {
    settler.close()
    await spool.close()
    if (more.under === undefined) await memory.close()
  })
  return {
    store, memory, spool, settler, log, metrics,
    settle(home = 'acme', waitMs = 5_000) {
      const nowMs = systemClock.nowMs()
      const id = newId(nowMs)
      return { id, answer: settler.settle(settleOf(id, nowMs, home, tokens, [7]), waitMs) }
    },
    async booked() {
      const entries = await memory.outbox.scan(null, 10_000)
      return entries.map(({ record }) => record.id)
    },
  }
}

t.test('a store that refuses at once: the settlement is durable at once, and booked once when the store is back, in order', async (t) => {
  const { store, spool, settler, metrics, settle, booked } = await bench(t)
  store.way = 'refusing'
  const startedAt = performance.now()
  const ids: string[] = []
  for (let i = 0; i < 100; i++) {
    const { id, answer } = settle()
    ids.push(id)
    t.equal((await answer)?.outcome, 'spooled')
  }
  t.ok(performance.now() - startedAt < 100 * 140, 'none waited for its time to pass')
  t.equal(settler.waiting, 0, 'nothing is kept in memory')
  await settler.idle()
  t.equal(spool.count, 100)
  const text = await metrics.text()
  t.match(text, /tallygate_spool_settlements 100\n/)
  t.notMatch(text, /tallygate_spool_bytes 0\n/)
  t.same(await booked(), [])
  store.way = 'up'
  await waitFor('the spool to be empty', () => spool.count === 0)
  t.same(await booked(), ids)
  t.match(await metrics.text(), /tallygate_spool_settlements 0\n/)
  t.equal((await settle().answer)?.outcome, 'settled_unheld', 'the next one goes straight to the store')
})

t.test('a store that hangs has its time, then the settlement goes to the spool', async (t) => {
  const { store, spool, settle, booked } = await bench(t)
  store.way = 'hanging'
  const startedAt = performance.now()
  const settled = settle()
  t.equal((await settled.answer)?.outcome, 'spooled')
  t.ok(performance.now() - startedAt >= 145)
  store.way = 'up'
  const next = settle()
  t.equal((await next.answer)?.outcome, 'settled_unheld')
  await waitFor('the call that hung to be given up', () => spool.count === 0, { deadlineMs: 10_000 })
  t.same(await booked(), [next.id, settled.id])
})

t.test('R2: the answer is lost after the settlement was booked: it is learnt by a repetition, and booked once', async (t) => {
  const { store, spool, settle, booked } = await bench(t)
  store.way = 'mute'
  const settled = settle()
  store.way = 'up'
  t.equal((await settled.answer)?.outcome, 'already_settled')
  t.equal(spool.count, 0)
  t.same(await booked(), [settled.id])
})

t.test('whatever a store does before it comes back, each settlement is booked once', async (t) => {
  const { store, spool, settler, settle, booked } = await bench(t)
  const ids: string[] = []
  const answers: Promise<unknown>[] = []
  for (const way of ['late', 'mute', 'refusing', 'late', 'up', 'mute'] as const) {
    store.way = way
    for (let i = 0; i < 30; i++) {
      const { id, answer } = settle(`account${i % 3}`)
      ids.push(id)
      answers.push(answer)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }
  t.ok((await Promise.all(answers)).every((answer) => answer !== null), 'every end could be released')
  store.way = 'up'
  await waitFor('everything to be booked', () => spool.count === 0 && settler.waiting === 0)
  t.same((await booked()).sort(), ids.sort())
  t.match(await store.balances('', tokens), [{ used: 7 * ids.length, reserved: 0 }])
})

t.test('what an earlier run has left is booked in the background, reservations it still held included', async (t) => {
  const dir = tmpDir(t)
  const memory = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => memory.close())
  const first = await bench(t, { dir, under: memory })
  const nowMs = systemClock.nowMs()
  const held = newId(nowMs)
  await memory.reserve(reserveOf(held, nowMs, 'acme', [check('tokens', null, 50)]))
  first.store.way = 'refusing'
  t.equal((await first.settler.settle(settleOf(held, nowMs, 'acme', tokens, [7]), 5_000))?.outcome, 'spooled')
  const unheld = first.settle()
  t.equal((await unheld.answer)?.outcome, 'spooled')
  first.settler.close()
  await first.spool.close()
  t.match(await memory.balances('acme', tokens), [{ used: 0, reserved: 50 }])
  const second = await bench(t, { dir, under: memory })
  await waitFor('the spool to be empty', () => second.spool.count === 0)
  t.same(await second.booked(), [held, unheld.id])
  t.match(await memory.balances('acme', tokens), [{ used: 14, reserved: 0 }])
})

t.test('one damaged counter, and one part of the store that is away, block nothing behind them', async (t) => {
  const { store, spool, log, settle, booked } = await bench(t)
  store.way = 'refusing'
  const [broken, gone, ...good] = ['damaged', 'elsewhere', 'acme', 'acme', 'acme'].map((home) => settle(home))
  await Promise.all([broken, gone, ...good].map((one) => one?.answer))
  store.broken.add('damaged')
  store.gone.add('elsewhere')
  store.way = 'up'
  await waitFor('the good ones', () => spool.count === 2)
  t.same(await booked(), good.map(({ id }) => id))
  t.ok(log.lines.some(({ level, message }) => level === 'error' && /cannot be booked: what the store has for them is damaged/.test(message)))
  store.gone.clear()
  await waitFor('its part to be back', () => spool.count === 1, { deadlineMs: 10_000 })
  store.broken.clear()
  await waitFor('the repair', () => spool.count === 0, { deadlineMs: 20_000 })
  t.same((await booked()).sort(), [broken, gone, ...good].map((one) => one?.id).sort())
})

t.test('many of a part that is away, before others: those behind them are booked', async (t) => {
  const { store, spool, settle, booked } = await bench(t)
  store.way = 'refusing'
  const away = Array.from({ length: 40 }, () => settle('elsewhere'))
  const here = [settle('acme'), settle('acme')]
  await Promise.all([...away, ...here].map(({ answer }) => answer))
  store.gone.add('elsewhere')
  store.way = 'up'
  await waitFor('those behind', () => spool.count === 40, { deadlineMs: 20_000 })
  t.same(await booked(), here.map(({ id }) => id))
})

t.test('what comes too late for the store, or differs, is kept whole and shown, and leaves the spool', async (t) => {
  const { store, spool, settler, memory } = await bench(t)
  store.way = 'refusing'
  const nowMs = systemClock.nowMs()
  const old = newId(nowMs - 2 * 3_600_000)
  const other = newId(nowMs)
  await memory.settle(settleOf(other, nowMs, 'acme', tokens, [5]))
  t.equal((await settler.settle(settleOf(old, nowMs, 'acme', tokens, [7]), 5_000))?.outcome, 'spooled')
  t.equal((await settler.settle(settleOf(other, nowMs, 'acme', tokens, [7]), 5_000))?.outcome, 'spooled')
  store.way = 'up'
  await waitFor('the spool to be empty', () => spool.count === 0)
  t.match(await memory.records.get('quarantine', old), { outcome: 'quarantined', amounts: [7], event: { account: 'acme' } })
  t.match(await memory.records.get('quarantine', other), { outcome: 'differs', amounts: [7] })
  t.match(await memory.balances('acme', tokens), [{ used: 5 }])
})

t.test('a repetition from the spool is known as the same settlement: JSON changes nothing that is compared', async (t) => {
  const { store, spool, settler, memory } = await bench(t)
  const nowMs = systemClock.nowMs()
  const id = newId(nowMs)
  const move = settleOf(id, nowMs, 'acme', tokens, [7], { usage: { requests: 1, total_tokens: 7, cost: undefined, input_tokens: 0 } as never })
  await memory.settle(move)
  store.way = 'refusing'
  await settler.settle(move, 5_000)
  store.way = 'up'
  await waitFor('the spool to be empty', () => spool.count === 0)
  t.equal(await memory.records.get('quarantine', id), undefined)
})

t.test('a full spool stops admission with its reason, and what is under way is still kept; then it admits again', async (t) => {
  const { store, spool, settler, settle, booked } = await bench(t, { maxBytes: 60_000 })
  store.way = 'refusing'
  const ids: string[] = []
  while (settler.full === null) {
    const { id, answer } = settle()
    ids.push(id)
    await answer
  }
  t.match(settler.full, /the spool is full: \d+ settlements wait for the store/)
  const more = settle()
  ids.push(more.id)
  t.equal((await more.answer)?.outcome, 'spooled', 'the reserve is for those')
  // Beyond the reserve they wait in memory, and their answers are cut.
  const beyond = Array.from({ length: 60 }, () => settle('acme', 300))
  const answers = await Promise.all(beyond.map(({ answer }) => answer))
  ids.push(...beyond.map(({ id }) => id))
  t.ok(answers.includes(null))
  t.ok(settler.waiting > 0 && spool.bytes <= 60_000)
  store.way = 'up'
  await waitFor('everything to be booked', () => spool.count === 0 && settler.waiting === 0)
  t.same((await booked()).sort(), ids.sort())
  t.equal(settler.full, null)
})

t.test('a spool that fails is no loss: the settlement waits in memory for either of them', async (t) => {
  const failing: Spool = {
    count: 0, bytes: 0, oldestMs: null, full: 'the spool cannot be written: injected',
    append: () => Promise.reject(new StoreUnavailable('injected')), read: async () => [], remove: async () => {}, close: async () => {},
  }
  const { store, settler, settle, booked } = await bench(t, { spool: failing })
  t.equal(settler.full, 'the spool cannot be written: injected')
  for (const way of ['refusing', 'hanging'] as const) {
    store.way = way
    t.equal(await settle('acme', 300).answer, null, 'the end of the answer is not released')
  }
  store.way = 'up'
  await waitFor('both to be booked', () => settler.waiting === 0, { deadlineMs: 15_000 })
  t.equal((await booked()).length, 2)
})

t.test('voids wait in memory, bounded, and a shutdown waits for settlements only', async (t) => {
  const { store, settler } = await bench(t)
  store.way = 'refusing'
  const nowMs = systemClock.nowMs()
  void settler.void({ id: newId(nowMs), nowMs, home: 'acme' })
  const startedAt = performance.now()
  await settler.idle()
  t.ok(performance.now() - startedAt < 1_000)
  for (let i = 0; i < 10_500; i++) void settler.void({ id: newId(nowMs), nowMs, home: 'acme' })
  await waitFor('the oldest to be let go', () => settler.waiting <= 10_256)
  t.equal(settler.full, null, 'they do not stop admission')
})
