import t from 'tap'
import { systemClock } from '../../../src/clock.ts'
import { Settler } from '../../../src/gateway/settler.ts'
import { silentLog } from '../../../src/log.ts'
import { Metrics } from '../../../src/metrics.ts'
import { systemRandom } from '../../../src/random.ts'
import { openMemory } from '../../../src/stores/memory/memory.ts'
import { check, newId, settleOf } from '../../stores/sample-moves.ts'

t.test('a settlement that is too old to be told from a repetition is kept whole, and never booked silently', async (t) => {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  t.teardown(() => store.close())
  const settler = new Settler({ store, spool: null, clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), settleMs: 2_000, queueMax: 10 })
  const checks = [check('tokens', 100, 7)]
  const old = newId(systemClock.nowMs() - 2 * 3_600_000)
  const answer = await settler.settle(settleOf(old, systemClock.nowMs(), 'acme', checks, [7]), 2_000)
  t.equal(answer?.outcome, 'quarantined')
  t.equal((await store.balances('acme', checks))[0]!.used, 0, 'no counter has moved')
  t.equal((await store.outbox.scan(null, 10)).length, 0, 'no event was written')
  t.match(await store.records.get('quarantine', old), { outcome: 'quarantined', amounts: [7], usage: { total_tokens: 7 }, event: { account: 'acme' } }, 'all of it can be looked at')
  await settler.idle()
})
