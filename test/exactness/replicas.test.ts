// A small run of what `npm run exactness` measures at length.
// test: timeout 150 s
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { startRedis } from '../fixtures/redis.ts'
import { checkThenIncrement } from './check-then-increment.ts'
import { startCountingModel } from './counting-model.ts'
import { configOf, type Cell } from './entitlement.ts'
import { killGateways } from './faults.ts'
import { startFleet } from './fleet.ts'
import { ceilingsFor } from './load.ts'
import { measure, missed, type Measured } from './measure.ts'
import { seeded } from './model.ts'
import { openOutsideBooks } from './outside-books.ts'

const GATEWAYS = 3
const CALLERS = 60
const KILLS = 2
const SEED = Number(process.env['SEED'] ?? 1 + Math.floor(Math.random() * 1_000_000))

const told = ({ calls, admitted, completed, refused, used, peak, looks }: Measured): string =>
  `seed ${SEED}: ${calls} calls, ${admitted} admitted, ${completed} completed, ${[...refused].map(([reason, count]) => `${reason} ${count}`).join(', ')}; ${used.run} requests, ${used.tokens} tokens, at once ${peak}, ${looks} looks`

t.setTimeout(140_000)
t.test(`I3, I6, G8: one entitlement over ${GATEWAYS} gateways: no limit is exceeded, everything fits to the last unit, and counters = events = the file`, async (t) => {
  const random = seeded(SEED)
  const model = await startCountingModel(random, 20)
  t.teardown(() => model.close())
  const redis = await startRedis(t, { appendonly: 'always' })
  const [calm, killed, plain] = ['calm', 'killed', 'plain'].map((name) => ({ name, ceilings: ceilingsFor(250, 12) })) as [Cell, Cell, Cell]
  const fleet = await startFleet(t, GATEWAYS, `{ url: "${redis.url}", spool: "{dir}/spool" }`, configOf(model.url, [calm, killed]))
  const books = await openOutsideBooks(t, redis.url)
  const usedUp = (cell: Cell) => (): boolean => model.spent(cell.name).answers.size >= cell.ceilings.requests

  await t.test('under contention, plain and streamed', async (t) => {
    const row = await measure({ fleet, model, books, cell: calm, random, load: { callers: CALLERS, answers: 'both', callsMax: 4_000, over: usedUp(calm) } })
    t.same(missed(row), [], row.notes.join('\n'))
    t.same(row.failed, { unanswered: 0, unmetered: 0, cut: 0 })
    t.ok(row.refused.size > 1, 'limits have refused calls for more than one reason')
    t.comment(told(row))
  })

  await t.test(`while one of them is killed with SIGKILL every second, ${KILLS} times`, async (t) => {
    // Two go on: they sweep up what the third leaves behind.
    const kills = { count: 0 }
    const faults = killGateways({ ...fleet, gateways: fleet.gateways.slice(0, 1) }, 1_000, kills)
    const row = await measure({ fleet, model, books, cell: killed, random, faults, load: { callers: CALLERS, answers: 'both', callsMax: 100_000, over: () => kills.count >= KILLS } })
    t.same(missed(row), [], row.notes.join('\n'))
    t.ok(row.completed > 0 && kills.count === KILLS)
    t.comment(told(row))
  })

  await t.test('the same yardstick sees what plain check-then-increment lets through', async (t) => {
    const links = await Promise.all(fleet.gateways.map(() => openLink({ url: redis.url, deadlineMs: 10_000, clock: systemClock, random: systemRandom, log: silentLog })))
    t.teardown(() => Promise.all(links.map((link) => link.close())))
    const row = await checkThenIncrement(links, model, plain, { callers: CALLERS, answers: 'both', callsMax: 4_000, over: usedUp(plain) }, random)
    t.ok(row.over.size > 0, `limits are exceeded: ${[...row.over].map(([limit, amount]) => `${limit} by ${amount}`).join(', ')}`)
  })
})
