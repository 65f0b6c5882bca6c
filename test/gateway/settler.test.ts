// Settlements that the store did not take reach it later, in the order in which they came.
import t from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import { Settler } from '../../src/gateway/settler.ts'
import type { Log } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Store } from '../../src/stores/store.ts'
import { check, newId, settleOf } from '../stores/sample-moves.ts'

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
  const silent = (): void => {}
  const log: Log = { debug: silent, info: silent, warn: silent, error: silent }
  const settler = new Settler({ store, spool: null, clock, random: systemRandom, log, metrics: new Metrics(), settleMs: 10_000, queueMax: 10 })
  const nowMs = clock.nowMs()
  const [older, newer] = [newId(nowMs), newId(nowMs)]
  const settle = (id: string): ReturnType<Settler['settle']> => settler.settle(settleOf(id, nowMs, 'acme', [check('tokens', null, 0)], [7]), 10_000)

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
