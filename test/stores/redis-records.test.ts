import t, { type Test } from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import type { RedisLink } from '../../src/stores/redis/link.ts'
import { RedisRecords } from '../../src/stores/redis/records.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { startRedis, startRedisCluster, type Redis } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'

type Value = Readonly<Record<string, unknown>> | undefined

let spaces = 0

t.setTimeout(120_000)

async function linkTo(t: Test, url: string): Promise<RedisLink> {
  const link = await openLink({ url, deadlineMs: 500, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  await waitFor('the link', () => link.up)
  return link
}

async function freshKeys(link: RedisLink): Promise<KeyNames> {
  const keys = new KeyNames(`test${++spaces}`, 4)
  await link.command(keys.meta(), 'SET', [keys.meta(), '{}'])
  return keys
}

function recordsOf(t: Test, link: RedisLink, keys: KeyNames): RedisRecords {
  const records = new RedisRecords({ link, keys, clock: systemClock, log: silentLog })
  t.teardown(() => records.close())
  return records
}

/** What a watcher knows, and everything it was told. */
class Watcher {
  readonly known = new Map<string, Value>()
  readonly told: [string, Value][] = []
  readonly stop: () => void

  constructor(records: RedisRecords, kind: string) {
    this.stop = records.watch(kind, (id, value) => {
      this.told.push([id, value])
      if (value === undefined) this.known.delete(id)
      else this.known.set(id, value)
    })
  }
}

for (const kind of ['one server', 'cluster'] as const) {
  t.test(`on ${kind}`, async (t) => {
    const { url } = kind === 'cluster' ? await startRedisCluster(t) : await startRedis(t, {})
    const here = await linkTo(t, url)
    const there = await linkTo(t, url)

    await t.test('what one replica changes is told on another within a second, once, and on its own at once', async (t) => {
      const keys = await freshKeys(here)
      const one = recordsOf(t, here, keys)
      const two = recordsOf(t, there, keys)
      await one.put('key', 'old', { n: 0 })
      const first = new Watcher(one, 'key')
      const second = new Watcher(two, 'key')
      for (const records of [one, two]) t.same(await records.list('key'), [{ id: 'old', value: { n: 0 } }])
      await systemClock.sleep(800)
      let slowest = 0
      const within = async (what: string, done: () => boolean): Promise<void> => {
        const startMs = performance.now()
        await waitFor(what, done, { everyMs: 5 })
        slowest = Math.max(slowest, performance.now() - startMs)
      }
      await one.put('key', 'a', { n: 1 })
      t.same(first.told, [['old', { n: 0 }], ['a', { n: 1 }]])
      await within('the put', () => second.known.has('a'))
      await two.put('key', 'a', { n: 2 })
      t.same(second.known.get('a'), { n: 2 })
      await within('the change', () => first.known.get('a')?.['n'] === 2)
      await one.put('audit', 'a', { n: 3 })
      t.equal(await one.swap('key', 'a', { n: 2 }, { n: 4 }), true)
      await within('the swap', () => second.known.get('a')?.['n'] === 4)
      await two.delete('key', 'a')
      t.equal(second.known.has('a'), false)
      await within('the deletion', () => !first.known.has('a'))
      t.ok(slowest < 1_000, `${Math.round(slowest)} ms`)
      await systemClock.sleep(700)
      const all: [string, Value][] = [['old', { n: 0 }], ['a', { n: 1 }], ['a', { n: 2 }], ['a', { n: 4 }], ['a', undefined]]
      t.same(first.told, all)
      t.same(second.told, all)
      second.stop()
      await one.put('key', 'b', {})
      await systemClock.sleep(500)
      t.equal(second.told.length, 5, 'who has stopped is told nothing')
    })

    await t.test('a burst of changes arrives whole, also when the stream of changes is trimmed meanwhile', async (t) => {
      const keys = await freshKeys(here)
      const one = recordsOf(t, here, keys)
      const two = recordsOf(t, there, keys)
      const watcher = new Watcher(two, 'key')
      await two.list('key')
      for (let i = 0; i < 3_000; i += 500) await Promise.all(Array.from({ length: 500 }, (_, j) => one.put('key', `k${(i + j) % 1_500}`, { n: i + j })))
      await one.delete('key', 'k7')
      await waitFor('all of it', () => watcher.known.size === 1_499 && watcher.known.get('k1499')?.['n'] === 2_999)
      for (const [id, value] of watcher.known) if (value?.['n'] !== 1_500 + Number(id.slice(1))) t.fail(`${id} is not the newest`)
      await Promise.all(['k1', 'k2'].map((id) => one.delete('key', id)))
      await one.put('key', 'new', { n: 1 })
      await here.command(keys.changes(), 'XTRIM', [keys.changes(), 'MAXLEN', 1])
      await one.put('other', 'x', {})
      await here.command(keys.changes(), 'XTRIM', [keys.changes(), 'MAXLEN', 1])
      await waitFor('what was lost from the stream', () => watcher.known.has('new') && watcher.known.size === 1_498)
      t.equal(watcher.known.has('k1'), false, 'deletions too')
      t.same((await two.list('key')).map(({ id }) => id).sort(), [...watcher.known.keys()].sort())
    })

    await t.test('of replicas that make one document at the same time exactly one succeeds, and all agree on it', async (t) => {
      const keys = await freshKeys(here)
      const replicas = [recordsOf(t, here, keys), recordsOf(t, there, keys)]
      for (let i = 0; i < 20; i++) {
        const made = await Promise.all(replicas.flatMap((records, r) => [0, 1].map((n) => records.swap('key', `k${i}`, undefined, { r, n }))))
        t.equal(made.filter((one) => one).length, 1)
        t.same(await replicas[0]!.get('key', `k${i}`), await replicas[1]!.get('key', `k${i}`))
      }
      const [one] = replicas
      await one!.put('key', 'a', { x: 1, y: { z: [1, 2] } })
      t.equal(await one!.swap('key', 'a', { y: { z: [1, 2] }, x: 1 }, { y: 2, x: 1 }), true, 'compared by content')
      t.equal(await one!.swap('key', 'a', { y: 3 }, { y: 4 }), false)
      t.equal(await one!.swap('key', 'a', undefined, { x: 1, y: 2 }), true, 'it is that already')
      t.equal(await one!.swap('key', 'none', { y: 3 }, { y: 4 }), false)
      t.equal(await one!.get('key', 'none'), undefined)
      t.same((await one!.list('key')).map(({ id }) => id), ['a', ...Array.from({ length: 20 }, (_, i) => `k${i}`)].sort())
    })

    await t.test('a look that was under way does not take back what was told meanwhile', async (t) => {
      const keys = await freshKeys(here)
      const other = recordsOf(t, there, keys)
      let holdMs = 0
      let held = 0
      const hold = async <Answer>(answer: Promise<Answer>): Promise<Answer> => {
        const what = await answer
        if (holdMs > 0) {
          held += 1
          await systemClock.sleep(holdMs)
        }
        return what
      }
      const slow: RedisLink = {
        clustered: here.clustered, up: true, reason: null, script: (...args) => here.script(...args), onServerChange: (listener) => here.onServerChange(listener),
        info: () => here.info(), configuration: (names) => here.configuration(names), close: () => here.close(),
        commands: (list, options) => hold(here.commands(list, options)),
        command: (key, name, args, options) => (name === 'HSCAN' ? hold(here.command(key, name, args, options)) : here.command(key, name, args, options)),
      }
      const records = recordsOf(t, slow, keys)
      await other.put('audit', 'x', {})
      const watcher = new Watcher(records, 'key')
      await systemClock.sleep(700)
      await other.put('key', 'a', { n: 1 })
      holdMs = 200
      await waitFor('the look', () => held === 1, { everyMs: 2 })
      await records.put('key', 'a', { n: 2 })
      await systemClock.sleep(300)
      holdMs = 0
      await systemClock.sleep(700)
      t.same(watcher.told, [['a', { n: 2 }]])
      holdMs = 700
      const listing = records.list('key')
      await waitFor('the list', () => held === 2, { everyMs: 2 })
      holdMs = 0
      await other.put('key', 'a', { n: 3 })
      await listing
      await systemClock.sleep(700)
      t.same(watcher.told, [['a', { n: 2 }], ['a', { n: 3 }]])
    })

    await t.test('replicas that write one document as fast as they can leave every watcher with what is stored', async (t) => {
      const keys = await freshKeys(here)
      const replicas = [recordsOf(t, here, keys), recordsOf(t, there, keys)]
      const watchers = replicas.map((records) => new Watcher(records, 'key'))
      const untilMs = performance.now() + 1_500
      await Promise.all(replicas.map(async (records, r) => {
        for (let n = 0; performance.now() < untilMs; n++) {
          const id = `k${Math.floor(systemRandom.fraction() * 3)}`
          if (systemRandom.fraction() < 0.2) await records.delete('key', id)
          else await records.put('key', id, { r, n })
          if (systemRandom.fraction() < 0.1) await records.list('key')
          if (systemRandom.fraction() < 0.1) await systemClock.sleep(20)
        }
      }))
      await systemClock.sleep(800)
      const stored = Object.fromEntries((await replicas[0]!.list('key')).map(({ id, value }) => [id, value]))
      for (const watcher of watchers) t.same(Object.fromEntries(watcher.known), stored)
    })
  })
}

t.test('while Redis is away watchers keep what they know; when it is back they know what has changed', async (t) => {
  const redis = await startRedis(t, { appendonly: 'always' })
  const { link, keys, records, watcher } = await watched(t, redis)
  await redis.stop('SIGTERM')
  await t.rejects(records.put('key', 'b', {}), StoreUnavailable)
  await systemClock.sleep(600)
  t.same([...watcher.known], [['a', { n: 1 }]])
  await redis.start()
  // Before anybody has looked: as another replica would.
  await redis.cli('HSET', keys.records('key'), 'c', '{"n":3}')
  await redis.cli('HDEL', keys.records('key'), 'a')
  await waitFor('the news', () => link.up && watcher.known.has('c') && !watcher.known.has('a'), { deadlineMs: 5_000 })
  t.same(watcher.told.map(([id, value]) => `${id} ${JSON.stringify(value)}`).sort(), ['a undefined', 'a {"n":1}', 'c {"n":3}'], 'each once')
})

t.test('a server that was emptied revokes nothing; an operator decides what is to be done', async (t) => {
  const redis = await startRedis(t, {})
  const { link, keys, watcher } = await watched(t, redis)
  await redis.cli('FLUSHALL')
  await systemClock.sleep(800)
  t.same([...watcher.known], [['a', { n: 1 }]])
  await redis.stop('SIGKILL')
  await redis.start()
  await waitFor('the link', () => link.up)
  await systemClock.sleep(800)
  t.same([...watcher.known], [['a', { n: 1 }]])
  await redis.cli('SET', keys.meta(), '{}')
  await waitFor('what there is now', () => watcher.known.size === 0)
})

t.test('nobody asks Redis for changes while nobody watches', async (t) => {
  const redis = await startRedis(t, {})
  const { watcher } = await watched(t, redis)
  const asked = async (): Promise<number> => Number(/cmdstat_xrange:calls=(\d+)/.exec(await redis.cli('INFO', 'commandstats'))?.[1] ?? 0)
  await waitFor('the poll', async () => await asked() > 0)
  const before = await asked()
  await systemClock.sleep(1_050)
  const perSecond = await asked() - before
  t.ok(perSecond >= 2 && perSecond <= 4, `${perSecond} a second`)
  watcher.stop()
  await systemClock.sleep(50)
  const stopped = await asked()
  await systemClock.sleep(700)
  t.equal(await asked(), stopped)
})

async function watched(t: Test, redis: Redis): Promise<{ link: RedisLink; keys: KeyNames; records: RedisRecords; watcher: Watcher }> {
  const link = await linkTo(t, redis.url)
  const keys = await freshKeys(link)
  const records = recordsOf(t, link, keys)
  const watcher = new Watcher(records, 'key')
  await records.put('key', 'a', { n: 1 })
  await records.list('key')
  await systemClock.sleep(700)
  return { link, keys, records, watcher }
}
