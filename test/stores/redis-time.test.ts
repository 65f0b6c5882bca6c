import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { ServerTime, TimeKeeper } from '../../src/stores/redis/server-time.ts'
import { startRedis, startRedisCluster } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'

const startMs = 1_800_000_000_000

/** A keeper that has read `startMs` at the monotonic clock's 0. */
function keeper(): TimeKeeper {
  const keeper = new TimeKeeper()
  keeper.read(startMs, -1, 1)
  return keeper
}

t.test('nothing is agreed on before the first reading', async (t) => {
  const time = new TimeKeeper()
  t.equal(time.nowMs(5), null)
  t.notOk(time.agreed)
  t.match(time.reason, /not been read/)
  time.read(startMs, 10, 14)
  t.ok(time.agreed)
  t.equal(time.reason, null)
  t.equal(time.nowMs(12), startMs, 'the reading holds for the middle of its way')
  t.equal(time.nowMs(1012), startMs + 1000)
})

t.test('small differences are taken over, and the time never goes back', async (t) => {
  // Server's clock at monotonic 1000, and what is then told at 1000 and at 3000.
  const table: readonly [string, number, number, number][] = [
    ['a little ahead', 1300, 1300, 3300],
    ['two seconds ahead', 3000, 3000, 5000],
    ['a little behind is waited for', 700, 1000, 2700],
    ['two seconds behind', -1000, 1000, 1000],
  ]
  for (const [name, serverMs, atOnce, later] of table) {
    const time = keeper()
    t.equal(time.nowMs(1000), startMs + 1000)
    time.read(startMs + serverMs, 1000, 1000)
    t.ok(time.agreed, name)
    t.equal(time.nowMs(1000), startMs + atOnce, name)
    t.equal(time.nowMs(3000), startMs + later, name)
  }
  const time = keeper()
  let last = 0
  let wrong = 0
  for (let at = 0; at < 60_000; at += 100) {
    // A server whose clock wanders by 1.5 s each way.
    if (at % 1000 === 0) time.read(startMs + at + 1500 * Math.sin(at / 3000), at - 2, at + 2)
    const now = time.nowMs(at)!
    if (now < last || !time.agreed) wrong += 1
    last = now
  }
  t.equal(wrong, 0)
})

t.test('a slow reading changes nothing that it may be wrong about', async (t) => {
  const time = keeper()
  time.read(startMs + 1100, 1000, 1400)
  t.equal(time.nowMs(1400), startMs + 1400, 'the server is at 1100 to 1500')
  time.read(startMs + 2500, 2000, 2200)
  t.equal(time.nowMs(2200), startMs + 2600, 'beyond doubt')
})

t.test('a jump is followed, either way, once three readings in a row agree; until then the time goes on as it was', async (t) => {
  for (const jumpMs of [3_600_000, -3_600_000, 2_100, -2_100, 86_400_000 * 365]) {
    const time = keeper()
    time.nowMs(1000)
    for (const at of [1000, 2000]) {
      time.read(startMs + at + jumpMs, at, at)
      t.notOk(time.agreed, `${jumpMs}`)
      t.match(time.reason, /jumped/)
      t.equal(time.nowMs(at), startMs + at)
    }
    time.read(startMs + 3000 + jumpMs, 3000, 3000)
    t.ok(time.agreed)
    t.equal(time.nowMs(3000), startMs + 3000 + jumpMs)
    t.equal(time.nowMs(4000), startMs + 4000 + jumpMs)
  }
})

t.test('a clock that does not settle is not followed, and one that comes back has never been away', async (t) => {
  const time = keeper()
  const hourMs = 3_600_000
  const hops = [hourMs, hourMs, -hourMs, hourMs, 2 * hourMs, 2 * hourMs, 0, 0]
  for (const [index, hop] of hops.entries()) {
    const at = (index + 1) * 1000
    time.read(startMs + at + hop, at, at)
    t.notOk(time.agreed)
    t.equal(time.nowMs(at), startMs + at)
  }
  t.equal(time.nowMs(9000), startMs + 9000)
  time.read(startMs + 9000 - 50, 9000, 9000)
  t.ok(time.agreed)
  t.equal(time.nowMs(9000), startMs + 9000, 'still not going back')
  t.equal(time.nowMs(10_000), startMs + 9950)
})

t.test('the time is the server\'s, and goes on while it is away', async (t) => {
  const redis = await startRedis(t, {})
  const link = await openLink({ url: redis.url, deadlineMs: 250, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  // This machine's own clock is a day off; the server's is what counts.
  const dayMs = 86_400_000
  const time = new ServerTime(link, 'tallygate:{books}:meta', { ...clockOf(systemClock), nowMs: () => Date.now() + dayMs })
  t.teardown(() => time.close())
  t.ok(Math.abs(time.nowMs() - Date.now() - dayMs) < 100, 'before the first reading this machine\'s')
  t.notOk(time.agreed)
  await time.start()
  t.ok(time.agreed)
  t.ok(Math.abs(time.nowMs() - Date.now()) < 100)
  await redis.stop('SIGSTOP')
  await sleep(1500)
  t.ok(time.agreed)
  t.ok(Math.abs(time.nowMs() - Date.now()) < 100)
  await redis.stop('SIGCONT')
})

t.test('a time not read at the start is read once the server is there', async (t) => {
  const redis = await startRedis(t, {})
  await redis.stop()
  const link = await openLink({ url: redis.url, deadlineMs: 250, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  const time = new ServerTime(link, 'tallygate:{books}:meta', systemClock)
  t.teardown(() => time.close())
  await time.start()
  t.notOk(time.agreed)
  await redis.start()
  await waitFor('the first reading', () => time.agreed)
})

t.test('in a cluster the time is that of the server that owns the books', async (t) => {
  const cluster = await startRedisCluster(t)
  const link = await openLink({ url: cluster.url, deadlineMs: 250, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  const key = 'tallygate:{books}:meta'
  const time = new ServerTime(link, key, systemClock)
  t.teardown(() => time.close())
  const calls = async (node: number): Promise<number> =>
    Number(/cmdstat_time:calls=(\d+)/.exec(await cluster.nodes[node]!.cli('INFO', 'commandstats'))?.[1] ?? 0)
  await time.start()
  t.ok(time.agreed)
  const owner = await cluster.ownerOf(key)
  t.same((await Promise.all([0, 1, 2].map(calls))).map((count) => count > 0), [0, 1, 2].map((node) => node === owner))
})

function clockOf(clock: typeof systemClock): typeof systemClock {
  return {
    nowMs: () => clock.nowMs(), monotonicMs: () => clock.monotonicMs(), after: clock.after.bind(clock), every: clock.every.bind(clock), sleep: clock.sleep.bind(clock),
  }
}
