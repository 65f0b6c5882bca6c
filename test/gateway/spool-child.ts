// Started by tests as a process of its own: `spool-child.ts <dir>`. Settles against a store that is away, twenty at a time, until it is killed, and says on
// standard output which settlement may end its answer, the moment it may.
import { writeSync } from 'node:fs'
import { systemClock } from '../../src/clock.ts'
import { Settler } from '../../src/gateway/settler.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { openSpool } from '../../src/spool/spool.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { check, newId, settleOf } from '../stores/sample-moves.ts'
import { AwayStore } from './away-store.ts'

const [dir = ''] = process.argv.slice(2)
const store = new AwayStore(await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 }))
store.way = 'refusing'
const spool = await openSpool({ dir, clock: systemClock, log: silentLog })
const settler = new Settler({ store, spool, clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), settleMs: 2_000, queueMax: 10_000 })
writeSync(1, `open ${spool.count}\n`)
await Promise.all(Array.from({ length: 20 }, async () => {
  for (;;) {
    const nowMs = systemClock.nowMs()
    const id = newId(nowMs)
    const answer = await settler.settle(settleOf(id, nowMs, 'acme', [check('tokens', null, 0)], [7]), 10_000)
    if (answer?.outcome === 'spooled') writeSync(1, `S ${id}\n`)
    // A pipe that nobody reads in time must not be waited for.
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}))
