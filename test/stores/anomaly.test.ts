import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { AnomalyStore, type Anomaly } from './anomaly-store.ts'
import { check, extendOf, FORGET_AFTER_MS, LEASE_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

const tokens = check('tokens', 1000, 300)
const home = 'acme'

/** An exchange whose gateway repeats what was not answered; `gives up` is one that dies instead. */
const lives = ['settles', 'voids', 'gives up'] as const

for (const life of lives) {
  t.test(`an exchange that ${life}: whichever call is lost, before or after it was made, the books come out right`, async (t) => {
    let calls = 1
    for (const when of ['before', 'after'] as const) {
      for (let call = 1; call <= calls; call++) {
        const anomaly: Anomaly = { call, when }
        const inner = await openMemory({ clock: systemClock, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000 })
        const store = new AnomalyStore(inner, anomaly)
        const now = Date.now()
        const id = newId(now)
        const insist = async <A>(move: () => Promise<A>): Promise<A> => {
          try {
            return await move()
          } catch (error) {
            if (!(error instanceof StoreUnavailable)) throw error
            return move()
          }
        }
        const counted = { amounts: [120], usage: { requests: 1, total_tokens: 120 } }
        t.match(await insist(() => store.reserve(reserveOf(id, now, home, [tokens]))), { outcome: 'admitted' })
        await insist(() => store.extend(extendOf(id, now + 5000, home, 1, { counted })))
        if (life === 'settles') await insist(() => store.settle(settleOf(id, now + 9000, home, [tokens], [250])))
        if (life === 'voids') await insist(() => store.void({ id, nowMs: now + 9000, home }))
        const nowMs = now + 5000 + LEASE_MS
        for (const due of await store.due(nowMs)) await insist(() => store.expire({ id: due.id, nowMs, home, checkpoint: due.checkpoint }))
        calls = Math.max(calls, store.calls)

        const used = { 'settles': 250, 'voids': 0, 'gives up': 120 }[life]
        t.match(await inner.balances(home, [tokens]), [{ used, reserved: 0 }], `call ${call} lost ${when}`)
        const events = await inner.outbox.scan(null, 10)
        t.equal(events.length, life === 'voids' ? 0 : 1)
        t.equal(events.reduce((sum, entry) => sum + (entry.record.usage.total_tokens ?? 0), 0), used)
        await store.close()
      }
    }
    t.ok(calls >= 3, `${calls} calls, each lost both ways`)
  })
}
