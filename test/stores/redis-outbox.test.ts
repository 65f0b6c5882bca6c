import t, { type Test } from 'tap'
import { systemClock, type Clock } from '../../src/clock.ts'
import { silentLog, type Log } from '../../src/log.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { eventIdText, toPlace, toPosition } from '../../src/stores/redis/event-position.ts'
import { EventUnreadable, fromUsageText, toFields, toRecord, toUsageText } from '../../src/stores/redis/event-record.ts'
import { Housekeeping } from '../../src/stores/redis/housekeeping.ts'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import type { LinkCommand, RedisLink } from '../../src/stores/redis/link.ts'
import { HOLDS_MS, RedisOutbox } from '../../src/stores/redis/outbox.ts'
import { everyDead, StaleFence, StoreUnavailable, type Fence, type OutboxEntry } from '../../src/stores/store.ts'
import { startRedis, startRedisCluster } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { eventBody, skeleton } from './sample-moves.ts'

const PARTITIONS = 16

t.setTimeout(120_000)
let spaces = 0

function record(n: number, atMs: number, more: Partial<OutboxRecord> = {}): OutboxRecord {
  return {
    kind: 'usage', id: `event-${n}`, correction: 0, atMs, body: eventBody, usage: { requests: 1, total_tokens: n }, booked: null,
    drawn: [{ bucket: 'limit', amount: n }], overruns: [], ...more,
  }
}

/** Partitions of their own in a shared Redis, written to as the settling script does. */
class Space {
  readonly keys: KeyNames
  readonly link: RedisLink
  readonly #last = new Map<number, { ms: number; ordinal: number }>()

  constructor(link: RedisLink, partitions = PARTITIONS) {
    this.link = link
    this.keys = new KeyNames(`test${++spaces}`, partitions)
  }

  outbox(more: { clock?: Clock; log?: Log; link?: RedisLink } = {}): RedisOutbox {
    return new RedisOutbox({ link: more.link ?? this.link, keys: this.keys, clock: more.clock ?? systemClock, random: systemRandom, log: more.log ?? silentLog })
  }

  async append(partition: number, ...records: readonly OutboxRecord[]): Promise<void> {
    const key = this.keys.events(partition)
    const commands: LinkCommand[] = []
    let last = this.#last.get(partition) ?? { ms: 0, ordinal: 0 }
    for (const one of records) {
      last = { ms: Math.max(last.ms, one.atMs), ordinal: last.ordinal + 1 }
      commands.push({ key, name: 'XADD', args: [key, eventIdText(last), ...toFields(one)] })
    }
    this.#last.set(partition, last)
    const lastKey = this.keys.lastEvent(partition)
    for (const answer of await this.link.commands([...commands, { key: lastKey, name: 'SET', args: [lastKey, eventIdText(last)] }])) {
      if (answer instanceof Error) throw answer
    }
  }

  run(name: string, key: string, ...args: (string | number)[]): Promise<unknown> {
    return this.link.command(key, name, [key, ...args])
  }
}

const numberOf = ({ record }: OutboxEntry): number => record.usage.total_tokens ?? -1
const partitionOf = ({ position }: OutboxEntry): number => toPlace(position).partition
const lease = async (outbox: RedisOutbox, consumer = 'sink', holder = 'me', nowMs = 1_000, untilMs = 2_000): Promise<Fence> => {
  return (await outbox.lease(consumer, holder, nowMs, untilMs))!
}

function logLines(): Log & { readonly lines: string[] } {
  const lines: string[] = []
  const write = (level: string) => (fields: object, message: string): void => { lines.push(`${level} ${message} ${JSON.stringify(fields)}`) }
  return { lines, debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') }
}

t.test('an event is read as it was written, and what cannot be read says so', async (t) => {
  const whole = record(7, 1_234, { booked: { total_tokens: 3 }, kind: 'late', correction: 2, overruns: [{ bucket: 'limit', amount: 1 }] })
  t.same(toRecord(toFields(whole)), whole)
  const plain = record(8, 1_235, { kind: 'expired', body: skeleton, usage: {}, drawn: [] })
  t.same(toRecord(toFields(plain)), plain)
  t.equal(toUsageText({ total_tokens: 2, requests: 1 }), 'requests=1,total_tokens=2')
  t.equal(toUsageText({ requests: 1, total_tokens: 2 }), 'requests=1,total_tokens=2', 'the same text for the same quantities')
  t.same(fromUsageText(''), {})
  for (const damage of [['v', '2'], ['t', 'soon'], ['b', '{'], ['u', 'x'], ['k', 'other']] as const) {
    const fields = toFields(whole)
    fields[fields.indexOf(damage[0]) + 1] = damage[1]
    t.throws(() => toRecord(fields), EventUnreadable, damage.join('='))
  }
})

for (const kind of ['one server', 'cluster'] as const) {
  t.test(`on ${kind}`, async (t) => {
    const { url } = kind === 'cluster' ? await startRedisCluster(t) : await startRedis(t, {})
    const link = await openLink({ url, deadlineMs: 2_000, clock: systemClock, random: systemRandom, log: silentLog })
    t.teardown(() => link.close())
    await waitFor('the link', () => link.up)
    suite(t, link)
  })
}

function suite(t: Test, link: RedisLink): void {
  const test = (name: string, body: (t: Test, space: Space) => Promise<void>): void => {
    void t.test(name, async (t) => body(t, new Space(link)))
  }

  test('events come in order within a partition, and every partition gets its share', async (t, space) => {
    const outbox = space.outbox()
    await space.append(3, ...Array.from({ length: 500 }, (_, i) => record(i, 1_000 + i)))
    for (let partition = 4; partition < 10; partition++) await space.append(partition, record(1_000 + partition, 9_000), record(2_000 + partition, 9_000))
    const fence = await lease(outbox)
    const first = await outbox.read(fence, 70)
    t.equal(first.length, 70)
    for (let partition = 4; partition < 10; partition++) t.equal(first.filter((entry) => partitionOf(entry) === partition).length, 2, 'a long backlog holds nobody up')
    t.same(first.filter((entry) => partitionOf(entry) === 3).map(numberOf), Array.from({ length: 58 }, (_, i) => i))
    t.same(await outbox.read(fence, 70), first, 'the same until they are done')
    const got: number[] = []
    for (;;) {
      const entries = await outbox.read(fence, 100)
      if (entries.length === 0) break
      got.push(...entries.filter((entry) => partitionOf(entry) === 3).map(numberOf))
      await outbox.advance(fence, entries)
    }
    t.same(got, Array.from({ length: 500 }, (_, i) => i))
    t.same(await outbox.lag('sink'), { count: 0, oldestMs: null })
    await space.append(15, record(1, 1), record(2, 2))
    t.same((await outbox.read(fence, 1)).map(numberOf), [1], 'what comes later is found')
  })

  test('fewer asked for than there are partitions: all get their turn', async (t, space) => {
    const outbox = space.outbox()
    for (let partition = 0; partition < PARTITIONS; partition++) await space.append(partition, record(partition, 1_000), record(100 + partition, 1_000))
    const fence = await lease(outbox)
    const got: OutboxEntry[] = []
    for (let i = 0; i < 2 * PARTITIONS; i++) {
      const entries = await outbox.read(fence, 3)
      got.push(...entries)
      await outbox.advance(fence, entries)
    }
    t.equal(got.length, 2 * PARTITIONS)
    t.equal(new Set(got.slice(0, 24).map(partitionOf)).size, PARTITIONS)
  })

  test('the lag is exact: by ordinals, over all partitions, and after the oldest was removed', async (t, space) => {
    const outbox = space.outbox()
    t.same(await outbox.lag('sink'), { count: 0, oldestMs: null })
    await space.append(1, record(1, 5_000), record(2, 4_000), record(3, 6_000))
    await space.append(2, record(4, 4_500))
    t.same(await outbox.lag('sink'), { count: 4, oldestMs: 4_500 })
    const fence = await lease(outbox)
    const entries = await outbox.read(fence, 10)
    await outbox.advance(fence, entries.filter((entry) => [1, 4].includes(numberOf(entry))))
    t.same(await outbox.lag('sink'), { count: 2, oldestMs: 4_000 }, 'the instant of the move, also where it was before that of the one before')
    await space.run('XTRIM', space.keys.events(1), 'MINID', '5000-3')
    t.same(await outbox.lag('sink'), { count: 1, oldestMs: 6_000 })
    t.same(await outbox.lag('new'), { count: 2, oldestMs: 4_500 }, 'and of a consumer that nobody has seen')
  })

  test('a deliverer that was paused and lost its lease can neither read, advance nor bury, not even a partition that the next has not touched', async (t, space) => {
    const paused = space.outbox()
    const other = space.outbox()
    await space.append(1, record(1, 1_000), record(2, 1_000))
    await space.append(2, record(3, 1_000))
    const first = await lease(paused, 'sink', 'gateway', 1_000, 2_000)
    const entries = await paused.read(first, 10)
    t.equal(await other.lease('sink', 'gateway', 1_999, 3_000), undefined, 'another process of the same name is another holder')
    const second = await lease(other, 'sink', 'gateway', 2_000, 3_000)
    t.ok(second.token > first.token)
    await t.rejects(paused.read(first, 10), StaleFence)
    await t.rejects(paused.advance(first, entries), StaleFence)
    await t.rejects(paused.bury(first, entries[0]!, 'no', 1), StaleFence)
    t.same((await other.read(second, 10)).map(numberOf).sort(), [1, 2, 3], 'the new holder reads all that was not done')
    // As if the question for the lease had been answered just before the other took it.
    const late = space.outbox({ link: answering(link, space.keys, first.token) })
    await t.rejects(late.advance(first, entries), StaleFence, 'and the cursors themselves refuse him too')
    const blind = space.outbox({ link: answering(link, space.keys, second.token) })
    await blind.read(second, 10)
    const third = await lease(paused, 'sink', 'gateway', 3_000, 4_000)
    await paused.read(third, 10)
    await t.rejects(blind.advance(second, entries), StaleFence, 'also when he had them already')
    await paused.release(third)
    const fourth = await lease(other, 'sink', 'gateway', 5_000, 6_000)
    t.same(await cursorsOf(space, 'sink'), ['1000-0', '1000-0'], 'nothing has moved')
    await other.advance(fourth, await other.read(fourth, 10))
    t.same(await other.lag('sink'), { count: 0, oldestMs: null })
  })

  test('a dead holder\'s work is taken over when his lease has run out', async (t, space) => {
    await space.append(1, record(1, 1_000), record(2, 1_000), record(3, 1_000))
    const dead = space.outbox()
    const fence = await lease(dead, 'sink', 'a', 1_000, 2_000)
    await dead.advance(fence, (await dead.read(fence, 10)).slice(0, 1))
    const heir = space.outbox()
    t.equal(await heir.lease('sink', 'b', 1_500, 2_500), undefined)
    t.same((await heir.read(await lease(heir, 'sink', 'b', 2_000, 3_000), 10)).map(numberOf), [2, 3])
  })

  test('leases whose counting was lost with a server find back above what the cursors obey', async (t, space) => {
    const outbox = space.outbox()
    await space.append(1, record(1, 1_000), record(2, 1_000))
    for (let i = 0; i < 3; i++) await outbox.release(await lease(outbox))
    const fence = await lease(outbox)
    await outbox.advance(fence, await outbox.read(fence, 1))
    await space.run('DEL', space.keys.lease('consumer:sink'))
    await t.rejects(outbox.read(await lease(outbox), 10), StaleFence)
    t.same((await outbox.read(await lease(outbox), 10)).map(numberOf), [2])
  })

  test('what a failover takes back is delivered again, and what is written under the same ordinals is not skipped', async (t, space) => {
    const outbox = space.outbox()
    await space.append(1, ...[1, 2, 3, 4].map((n) => record(n, 1_000 + n)))
    const fence = await lease(outbox)
    await outbox.advance(fence, await outbox.read(fence, 10))
    // The new server knows two events and one delivered; then two others are written, with the same ordinals, and a fifth.
    await space.run('DEL', space.keys.events(1))
    await space.run('HSET', space.keys.cursor(1, 'sink'), 'id', '1001-1')
    const events = space.keys.events(1)
    for (const [id, n] of [['1001-1', 1], ['1002-2', 2], ['1003-3', 33], ['1004-4', 44], ['2000-5', 5]] as const) {
      await space.run('XADD', events, id, ...toFields(record(n, 1_000)))
    }
    await space.run('SET', space.keys.lastEvent(1), '2000-5')
    const got: number[] = []
    for (let i = 0; i < 3; i++) {
      const again = await lease(outbox)
      const entries = await outbox.read(again, 10)
      got.push(...entries.map(numberOf))
      await outbox.advance(again, entries).catch((error: unknown) => { if (!(error instanceof StoreUnavailable)) throw error })
    }
    t.same([...new Set(got)].sort((a, b) => a - b), [2, 5, 33, 44])
    t.same(got.slice(-4), [2, 33, 44, 5], 'in order')
    t.same(await outbox.lag('sink'), { count: 0, oldestMs: null })
  })

  test('a server that knows fewer events than are done is noticed by its end alone', async (t, space) => {
    const outbox = space.outbox()
    await space.append(1, record(1, 1_001), record(2, 1_002))
    const fence = await lease(outbox)
    await outbox.advance(fence, await outbox.read(fence, 10))
    await space.run('XDEL', space.keys.events(1), '1002-2')
    await space.run('HSET', space.keys.cursor(1, 'sink'), 'id', '1001-1')
    await space.run('XADD', space.keys.events(1), '3000-2', ...toFields(record(22, 3_000)))
    await space.run('SET', space.keys.lastEvent(1), '3000-2')
    t.same((await outbox.read(fence, 10)).map(numberOf), [22])
    await outbox.advance(fence, await outbox.read(fence, 10))
    await space.append(2, ...[1, 2, 3, 4].map((n) => record(n, 1_000)))
    await outbox.advance(fence, await outbox.read(fence, 10))
    await space.run('XDEL', space.keys.events(2), '1000-4')
    await space.run('HSET', space.keys.cursor(2, 'sink'), 'id', '1000-1')
    await space.run('SET', space.keys.lastEvent(2), '1000-3')
    t.same((await outbox.read(fence, 10)).map(numberOf), [2, 3])
  })

  test('all events are scanned in one order over all partitions, the same in pages of any size', async (t, space) => {
    const outbox = space.outbox()
    t.same(await outbox.scan(null, 10), [])
    const times = new Map<number, number>()
    for (let n = 0; n < 40; n++) {
      for (let partition = 0; partition < PARTITIONS; partition++) {
        if ((n * 7 + partition * 3) % 5 === 0) continue
        // One far ahead of the others, and many at the same instant.
        const atMs = partition === 5 ? 90_000 + n : 1_000 + Math.floor(n / 3) * 10 + (partition % 2)
        times.set(n * 100 + partition, atMs)
        await space.append(partition, record(n * 100 + partition, atMs))
      }
    }
    const all = await outbox.scan(null, 1_000)
    t.equal(all.length, times.size)
    t.same(all.map(({ position }) => position).sort(), all.map(({ position }) => position), 'positions are ordered, as text too')
    t.same(all.map(({ record }) => record.atMs), [...times.values()].sort((a, b) => a - b))
    for (const count of [1, 3, 50]) {
      const paged: OutboxEntry[] = []
      for (let from: string | null = null; ;) {
        const page: readonly OutboxEntry[] = await outbox.scan(from, count)
        if (page.length === 0) break
        paged.push(...page)
        from = page.at(-1)!.position
      }
      t.same(paged.map(numberOf), all.map(numberOf), `by ${count}`)
    }
    for (const atMs of [0, 1_000, 1_010, 1_011, 1_015, 90_005, 99_999]) {
      const found = await outbox.scan(await outbox.positionAt(atMs), 1_000)
      t.same(found.map(numberOf), all.filter(({ record }) => record.atMs >= atMs).map(numberOf), `since ${atMs}`)
    }
    await t.rejects(outbox.scan('12', 1), RangeError)
  })

  test('a rewind delivers again from one instant in all partitions, ends the fence, and skips nothing that was never delivered', async (t, space) => {
    const outbox = space.outbox()
    for (let n = 0; n < 10; n++) for (const partition of [1, 2, 3]) await space.append(partition, record(n * 10 + partition, 1_000 + n))
    const fence = await lease(outbox)
    const all = await outbox.read(fence, 100)
    // Partition 3 is far behind, and must not be moved forward.
    await outbox.advance(fence, all.filter((entry) => partitionOf(entry) !== 3 || entry.record.atMs < 1_002))
    const position = all.find((entry) => numberOf(entry) === 62)!.position
    await outbox.rewind('sink', position)
    await t.rejects(outbox.read(fence, 10), StaleFence)
    const again = (await outbox.read(await lease(outbox), 100)).map(numberOf)
    t.same(again.filter((n) => n % 10 === 1), [71, 81, 91])
    t.same(again.filter((n) => n % 10 === 2), [72, 82, 92])
    t.same(again.filter((n) => n % 10 === 3), [23, 33, 43, 53, 63, 73, 83, 93])
    await outbox.rewind('sink', null)
    t.equal((await outbox.lag('sink')).count, 30)
    const whole = await lease(outbox)
    t.equal((await outbox.read(whole, 100)).length, 30)
    await outbox.rewind('nobody', null)
    t.equal((await outbox.lag('nobody')).count, 30)
  })

  test('a holder whose cursors were moved back under him delivers again', async (t, space) => {
    const outbox = space.outbox()
    await space.append(1, record(1, 1_000), record(2, 1_000), record(3, 1_000))
    const fence = await lease(outbox)
    const entries = await outbox.read(fence, 2)
    await outbox.advance(fence, entries)
    await space.run('HSET', space.keys.cursor(1, 'sink'), 'id', '1000-1')
    await t.rejects(outbox.advance(fence, await outbox.read(fence, 10)), StoreUnavailable)
    t.same((await outbox.read(fence, 10)).map(numberOf), [2, 3])
  })

  test('dead events are kept once per consumer, in order, until they are exhumed', async (t, space) => {
    const outbox = space.outbox()
    await space.append(2, record(1, 1_000), record(2, 1_001))
    for (const consumer of ['a', 'b c']) {
      const fence = await lease(outbox, consumer)
      const entries = await outbox.read(fence, 10)
      for (const entry of [entries[1]!, entries[0]!, entries[1]!]) await outbox.bury(fence, entry, `refused by ${consumer}`, 5)
    }
    const dead = await outbox.dead()
    t.same(dead.map(({ consumer, record, reason, buriedMs }) => [consumer, record.id, reason, buriedMs]).sort(), [
      ['a', 'event-1', 'refused by a', 5], ['a', 'event-2', 'refused by a', 5], ['b c', 'event-1', 'refused by b c', 5], ['b c', 'event-2', 'refused by b c', 5],
    ])
    t.same((await outbox.dead('b c')).map(numberOf), [1, 2])
    await outbox.exhume((await outbox.dead('b c')).map(({ position }) => ({ consumer: 'b c', position })))
    t.same([(await outbox.dead('b c')).length, (await outbox.dead('a')).length], [0, 2])
  })

  test('dead events of a release that kept no order are counted and listed all the same, also while it is still at work', async (t, space) => {
    let skippedMs = 0
    const clock: Clock = { ...methods(systemClock), monotonicMs: () => systemClock.monotonicMs() + skippedMs }
    const outbox = space.outbox({ clock })
    const position = (n: number): string => toPosition({ ms: 1_000 + n, partition: 1, ordinal: n })
    const before = async (consumer: string, n: number): Promise<void> => {
      const value = { v: 1, consumer, position: position(n), reason: 'refused', buried: 5, record: record(n, 1_000 + n) }
      await space.run('HSET', space.keys.dead(), `${position(n)} ${consumer}`, JSON.stringify(value))
    }
    const numbers = async (consumer?: string): Promise<readonly string[]> => {
      const found: string[] = []
      for await (const page of everyDead(outbox, consumer)) found.push(...page.map((one) => `${one.consumer} ${numberOf(one)}`))
      return found
    }
    for (let n = 1_200; n > 0; n--) await before(n % 3 === 0 ? 'b c' : 'a', n)
    t.same(await Promise.all([outbox.deadCount('a'), outbox.deadCount('b c'), outbox.deadCount('b'), outbox.deadCount('a')]), [800, 400, 0, 800], 'at the first look, whoever asks')
    const expected = Array.from({ length: 1_200 }, (_, i) => i + 1)
    t.same(await numbers(), [...expected.filter((n) => n % 3 !== 0).map((n) => `a ${n}`), ...expected.filter((n) => n % 3 === 0).map((n) => `b c ${n}`)])
    await outbox.exhume(expected.slice(6).map((n) => ({ consumer: n % 3 === 0 ? 'b c' : 'a', position: position(n) })))
    t.same(await numbers(), ['a 1', 'a 2', 'a 4', 'a 5', 'b c 3', 'b c 6'])
    t.equal(await space.run('HLEN', space.keys.dead()), 6)

    // It buries one and exhumes two, which nobody notes.
    await before('a', 7)
    await space.run('HDEL', space.keys.dead(), `${position(1)} a`, `${position(6)} b c`)
    t.same(await numbers('b c'), ['b c 3'], 'nothing is listed that is not there')
    skippedMs += 61_000
    t.same([await outbox.deadCount('a'), await outbox.deadCount('b c')], [4, 1])
    t.same(await numbers(), ['a 2', 'a 4', 'a 5', 'a 7', 'b c 3'])

    const fence = await lease(outbox, 'a')
    await outbox.bury(fence, { position: position(8), record: record(8, 1_008) }, 'refused', 5)
    t.equal(await outbox.deadCount('a'), 5)
    await space.run('HSET', space.keys.dead(), `${position(9)} a`, '{', 'no field of ours', '{')
    skippedMs += 61_000
    t.same([await outbox.deadCount('a'), await numbers('a')], [6, ['a 2', 'a 4', 'a 5', 'a 7', 'a 8']], 'one that cannot be read is counted, not listed')
  })

  test('a page of the dead is bounded in bytes too', async (t, space) => {
    const outbox = space.outbox()
    const fence = await lease(outbox)
    const labels = { team: 'x'.repeat(100_000) }
    await Promise.all(Array.from({ length: 40 }, (_, i) => outbox.bury(fence, { position: toPosition({ ms: 1_000, partition: 1, ordinal: i + 1 }), record: record(i, 1_000, { body: { ...eventBody, labels } }) }, 'refused', 5)))
    const pages: number[] = []
    for await (const page of everyDead(outbox, 'sink')) pages.push(page.length)
    t.equal(pages.reduce((sum, count) => sum + count, 0), 40)
    t.ok(pages.every((count) => count < 15))
  })

  test('a partition that is damaged stops alone', async (t, space) => {
    const log = logLines()
    const outbox = space.outbox({ log })
    await space.append(1, record(1, 1_000))
    await space.run('XADD', space.keys.events(1), '1001-2', 'v', '9')
    await space.run('XADD', space.keys.events(1), '1002-3', ...toFields(record(3, 1_002)))
    await space.run('SET', space.keys.lastEvent(1), '1002-3')
    await space.append(2, record(4, 1_000))
    await space.append(3, record(5, 1_000))
    await space.run('DEL', space.keys.events(3))
    await space.run('SET', space.keys.events(3), 'not a stream')
    const fence = await lease(outbox)
    const entries = await outbox.read(fence, 10)
    t.same(entries.map(numberOf).sort(), [1, 4], 'what comes before the damage, and the others')
    await outbox.advance(fence, entries)
    await t.rejects(outbox.read(fence, 10), 'that there is more is not hidden')
    await space.append(2, record(6, 1_003))
    t.same((await outbox.read(fence, 10)).map(numberOf), [6])
    t.same((await outbox.scan(null, 10)).map(numberOf).sort(), [1, 3, 4, 6])
    t.match(log.lines.join('\n'), /error events of one partition cannot be read; the others go on .*"partition":1/)
  })

  test('a listener hears of this replica\'s events at once and of another\'s within about a second, until he stops', async (t, space) => {
    const outbox = space.outbox()
    t.teardown(() => outbox.close())
    await space.append(1, record(1, 1_000))
    let told = 0
    const stop = outbox.onAppend(() => { told += 1 })
    outbox.appended(1)
    t.equal(told, 1)
    await waitFor('the first look', () => told === 2)
    const startMs = performance.now()
    await space.append(2, record(2, 1_000))
    await waitFor('the news', () => told === 3)
    t.ok(performance.now() - startMs < 1_800)
    stop()
    outbox.appended(1)
    t.equal(told, 3)
  })

  test('a first look at nothing new costs one trip, and no partition is read', async (t, space) => {
    for (let partition = 0; partition < PARTITIONS; partition++) await space.append(partition, record(partition, 1_000))
    const counted = counting(link)
    const outbox = space.outbox({ link: counted.link })
    const fence = await lease(outbox)
    await outbox.advance(fence, await outbox.read(fence, 100))
    counted.reset()
    t.same(await outbox.read(fence, 100), [])
    t.equal(counted.trips(), 1)
    await space.append(4, record(99, 1_000))
    counted.reset()
    t.same((await outbox.read(fence, 100)).map(numberOf), [99])
    t.equal(counted.trips(), 2)
    counted.reset()
    await outbox.advance(fence, await outbox.read(fence, 100))
    t.ok(counted.trips() <= 4)
  })

  test('deliverers that crash and stall deliver 5,000 events, in order per partition, none skipped', async (t, space) => {
    const total = 5_000
    const written: number[][] = Array.from({ length: PARTITIONS }, () => [])
    const delivered: number[][] = Array.from({ length: PARTITIONS }, () => [])
    let n = 0
    const writing = (async () => {
      while (n < total) {
        // Some partitions are busier than others.
        const partition = Math.floor(systemRandom.fraction() ** 2 * PARTITIONS)
        const some = Array.from({ length: Math.min(total - n, 1 + Math.floor(systemRandom.fraction() * 40)) }, () => record(n++, Date.now()))
        await space.append(partition, ...some)
        written[partition]!.push(...some.map(({ usage }) => usage.total_tokens!))
      }
    })()
    let crashes = 0
    let stale = 0
    let done = false
    const leaseMs = 60
    const deliverer = async (holder: string): Promise<void> => {
      while (!done) {
        // A new life: nothing of the last one is known, and its lease has to run out.
        const outbox = space.outbox()
        for (let alive = true; alive && !done;) {
          const chance = systemRandom.fraction()
          const nowMs = Date.now()
          const fence = await outbox.lease('sink', holder, nowMs, nowMs + leaseMs)
          if (fence === undefined) {
            await systemClock.sleep(5)
            continue
          }
          try {
            const entries = await outbox.read(fence, 30)
            if (entries.length === 0) await systemClock.sleep(2)
            if (chance < 0.05) await systemClock.sleep(leaseMs + 40)
            else if (chance < 0.1) alive = false
            if (alive) {
              for (const entry of entries) delivered[partitionOf(entry)]!.push(numberOf(entry))
              if (chance > 0.97) alive = false
              else if (chance > 0.94) await outbox.advance(fence, entries.slice(0, Math.ceil(entries.length / 2)))
              else await outbox.advance(fence, entries)
            }
            if (!alive) crashes += 1
          } catch (error) {
            if (!(error instanceof StaleFence)) throw error
            stale += 1
          }
        }
        outbox.close()
      }
    }
    const watcher = space.outbox()
    const work = Promise.all(['a', 'b', 'c'].map(deliverer))
    await Promise.race([work, writing.then(() => waitFor('all to be delivered', async () => (await watcher.lag('sink')).count === 0, { deadlineMs: 45_000, everyMs: 20 }))])
    done = true
    await work
    for (let partition = 0; partition < PARTITIONS; partition++) {
      t.strictSame([...new Set(delivered[partition])], written[partition], `partition ${partition}: every event, first time in order`)
    }
    const count = delivered.reduce((sum, some) => sum + some.length, 0)
    t.comment(`${count} deliveries of ${total} events, ${crashes} crashes, ${stale} stale fences`)
    t.ok(crashes > 3 && stale > 0, 'and there were crashes and lost leases')
  })

  test('a gap is told although the consumer had to be made known twice', async (t, space) => {
    const outbox = space.outbox()
    await space.append(1, ...[1, 2, 3].map((n) => record(n, 1_000)))
    await outbox.setConsumers(['sink'])
    // As if the gateway had ended before it had noted the name.
    await space.run('HDEL', space.keys.consumers(), 'sink')
    await space.run('XTRIM', space.keys.events(1), 'MINID', '1000-3')
    await outbox.setConsumers(['sink'])
    t.same((await outbox.read(await lease(outbox), 10)).map(numberOf), [3])
    t.same(outbox.gaps(), [{ consumer: 'sink', events: 2 }])
  })

  test('a consumer seen the first time begins at the oldest kept event, and one that was away is told its gap', async (t, space) => {
    const log = logLines()
    const outbox = space.outbox({ log })
    await space.append(1, ...[1, 2, 3, 4].map((n) => record(n, 1_000 + n)))
    await space.run('XTRIM', space.keys.events(1), 'MINID', '1002-2')
    await outbox.setConsumers(['sink'])
    const fence = await lease(outbox)
    t.same((await outbox.read(fence, 2)).map(numberOf), [2, 3])
    t.same(outbox.gaps(), [], 'what was there before it is none of its business')
    await outbox.advance(fence, await outbox.read(fence, 1))
    await outbox.release(fence)
    await outbox.setConsumers([])
    // While it is away one partition loses events that it had not, and another is used for the first time and loses all of them.
    await space.run('XTRIM', space.keys.events(1), 'MINID', '1004-4')
    await space.append(2, record(21, 2_000), record(22, 2_000))
    await space.run('DEL', space.keys.events(2))
    await outbox.setConsumers(['sink'])
    t.equal((await outbox.lag('sink')).count, 1)
    const again = await lease(outbox)
    t.same((await outbox.read(again, 10)).map(numberOf), [4])
    t.same(outbox.gaps(), [{ consumer: 'sink', events: 3 }])
    t.match(log.lines, [/warn events were removed before this sink had them.*"sink":"sink","events":3/])
    await outbox.advance(again, await outbox.read(again, 10))
    t.same(await outbox.read(again, 10), [])
    t.same(await outbox.lag('sink'), { count: 0, oldestMs: null })
  })

  const bytes = 'x'.repeat(2_000)
  const fat = (n: number, atMs: number): OutboxRecord => record(n, atMs, { body: { ...eventBody, model: bytes } })
  const housekeeping = (space: Space, outbox: RedisOutbox, nowMs: () => number, more: { hotMs?: number; eventsMax?: number; settleMs?: number; log?: Log; link?: RedisLink } = {}): Housekeeping => {
    return new Housekeeping({
      link: more.link ?? space.link, keys: space.keys, outbox, clock: systemClock, nowMs, log: more.log ?? silentLog,
      hotMs: more.hotMs ?? 10_000, eventsMax: more.eventsMax ?? 1_000, settleMs: more.settleMs ?? 0,
    })
  }
  const kept = async (outbox: RedisOutbox): Promise<number[]> => (await outbox.scan(null, 1_000)).map(numberOf)

  test('only events that every configured consumer is done with are removed, and only when they are cold', async (t, space) => {
    const outbox = space.outbox()
    await outbox.setConsumers(['a', 'b'])
    for (const partition of [1, 2]) await space.append(partition, ...Array.from({ length: 50 }, (_, i) => fat(i, 1_000 + i)))
    let nowMs = Date.now()
    const keeping = housekeeping(space, outbox, () => nowMs)
    const a = await lease(outbox, 'a')
    await outbox.advance(a, await outbox.read(a, 100))
    await keeping.round()
    t.equal((await kept(outbox)).length, 100, 'one of them is done with nothing')
    t.equal(keeping.undelivered, 100)
    const b = await lease(outbox, 'b')
    await outbox.advance(b, (await outbox.read(b, 100)).filter((entry) => numberOf(entry) < 30))
    await keeping.round()
    const left = await kept(outbox)
    t.ok(left.length < 60 && left.length >= 40, `${left.length} left`)
    t.equal(left.filter((n) => n >= 30).length, 40, 'no event that somebody waits for is gone')
    t.equal(keeping.undelivered, 40)
    t.equal((await outbox.lag('b')).count, 40)
    await outbox.advance(b, await outbox.read(b, 100))
    nowMs = 1_030 + 10_000
    await keeping.round()
    t.equal((await kept(outbox)).filter((n) => n >= 30).length, 40, 'what is delivered stays for its time')
    t.equal(keeping.undelivered, 0)
    nowMs += 20_000
    await keeping.round()
    t.ok((await kept(outbox)).length < 10)
    await space.append(1, record(99, 1_000))
    t.equal((await outbox.lag('a')).count, 1, 'ordinals go on')
    await keeping.close()
  })

  test('one old replica does not remove what a sink of the newer ones needs; a sink that nobody has any more holds nothing back', async (t, space) => {
    let nowMs = Date.now()
    const clock: Clock = { ...methods(systemClock), nowMs: () => nowMs }
    const older = space.outbox({ clock })
    const newer = space.outbox({ clock })
    await older.setConsumers(['a'])
    await newer.setConsumers(['a', 'b'])
    await space.append(1, ...Array.from({ length: 20 }, (_, i) => fat(i, 1_000)))
    const a = await lease(older, 'a')
    await older.advance(a, await older.read(a, 100))
    const keeping = housekeeping(space, older, () => nowMs)
    await keeping.round()
    t.equal((await kept(older)).length, 20)
    nowMs += HOLDS_MS / 2
    await newer.register()
    nowMs += HOLDS_MS - 1_000
    await keeping.round()
    t.equal((await kept(older)).length, 20, 'it is said again and again')
    nowMs += 2_000
    await keeping.round()
    t.ok((await kept(older)).length < 5)
    t.equal(keeping.undelivered, 0)
  })

  test('nothing is removed by a process that has not said what it delivers to, nor right after a start', async (t, space) => {
    const command = space.outbox()
    await space.append(1, ...Array.from({ length: 20 }, (_, i) => fat(i, 1_000)))
    await housekeeping(space, command, () => Date.now()).round()
    t.equal((await kept(command)).length, 20)
    const fresh = space.outbox()
    await fresh.setConsumers([])
    const keeping = housekeeping(space, fresh, () => Date.now(), { settleMs: 150 })
    await keeping.round()
    t.equal((await kept(command)).length, 20)
    await systemClock.sleep(160)
    await keeping.round()
    t.ok((await kept(command)).length < 5, 'nobody wants them')
  })

  test('too many undelivered events end admission on every replica until some are taken; none is dropped', async (t, space) => {
    const log = logLines()
    const one = space.outbox()
    const two = space.outbox()
    await Promise.all([one.setConsumers(['sink']), two.setConsumers(['sink'])])
    const leader = housekeeping(space, one, () => 2_000, { eventsMax: 100, log })
    const follower = housekeeping(space, two, () => 2_000, { eventsMax: 100 })
    await space.append(1, ...Array.from({ length: 60 }, (_, i) => record(i, 1_000)))
    await space.append(2, ...Array.from({ length: 40 }, (_, i) => record(i, 1_000)))
    for (const each of [leader, follower]) await each.round()
    t.same([leader.refusal, follower.refusal, follower.undelivered], [null, null, 100])
    await space.append(3, record(1, 1_000))
    for (const each of [leader, follower]) await each.round()
    t.match(leader.refusal, /^101 events wait for delivery, and 100 may: nothing is admitted/)
    t.equal(follower.refusal, leader.refusal)
    const fence = await lease(one)
    await one.advance(fence, await one.read(fence, 3))
    await leader.round()
    t.ok(leader.refusal !== null, 'not after the first one')
    await one.advance(fence, await one.read(fence, 5))
    for (const each of [leader, follower]) await each.round()
    t.same([leader.refusal, follower.refusal, leader.undelivered], [null, null, 93])
    t.equal((await kept(one)).length, 101)
    t.match(log.lines, [/^error too many events/, /^warn sinks have taken/])
  })

  test('short of memory, delivered events are removed before their time, and undelivered ones never', async (t, space) => {
    const log = logLines()
    const outbox = space.outbox()
    await outbox.setConsumers(['sink'])
    const nowMs = Date.now()
    await space.append(1, ...Array.from({ length: 40 }, (_, i) => fat(i, nowMs - 3_600_000)))
    const fence = await lease(outbox)
    await outbox.advance(fence, await outbox.read(fence, 20))
    let used = 0.85
    const weighed: RedisLink = { ...methodsOf(link), info: async () => [{ address: 'x', info: new Map([['maxmemory', '1000'], ['used_memory', String(used * 1_000)]]) }] }
    const keeping = housekeeping(space, outbox, () => nowMs, { hotMs: 24 * 3_600_000, log, link: weighed })
    await keeping.round()
    t.equal((await kept(outbox)).length, 40, 'the oldest go first')
    for (let i = 0; i < 5; i++) await keeping.round()
    const left = await kept(outbox)
    t.ok(left.length < 30)
    t.same(left.filter((n) => n >= 20).length, 20)
    used = 0.5
    for (let i = 0; i < 8; i++) await keeping.round()
    t.match(log.lines, [/^warn Redis is short of memory: .*"memory_percent":85/, /^info delivered events stay for their time again/])
    t.equal(log.lines.length, 2)
  })

  test('a damaged partition is not measured, and the others are trimmed all the same', async (t, space) => {
    const log = logLines()
    const outbox = space.outbox()
    await outbox.setConsumers([])
    await space.append(1, ...Array.from({ length: 20 }, (_, i) => fat(i, 1_000)))
    await space.run('HSET', space.keys.lastEvent(2), 'not', 'a string')
    await housekeeping(space, outbox, () => Date.now(), { log }).round()
    t.ok(Number(await space.run('XLEN', space.keys.events(1))) < 5)
    t.match(log.lines, [/^error a partition cannot be tended .*"partition":2/])
  })
}

async function cursorsOf(space: Space, consumer: string): Promise<unknown[]> {
  const ids = await Promise.all(Array.from({ length: PARTITIONS }, (_, partition) => space.run('HGET', space.keys.cursor(partition, consumer), 'id')))
  return ids.filter((id) => id !== null)
}

function methods(clock: Clock): Clock {
  return {
    nowMs: () => clock.nowMs(), monotonicMs: () => clock.monotonicMs(), after: (ms, task, options) => clock.after(ms, task, options),
    every: (ms, task) => clock.every(ms, task), sleep: (ms) => clock.sleep(ms),
  }
}

function methodsOf(link: RedisLink): RedisLink {
  return {
    command: (...args) => link.command(...args), script: (...args) => link.script(...args), commands: (...args) => link.commands(...args),
    clustered: link.clustered, up: true, reason: null, onServerChange: (listener) => link.onServerChange(listener), info: () => link.info(),
    configuration: (names) => link.configuration(names), close: () => link.close(),
  }
}

/** Says that a token still holds the lease. */
function answering(link: RedisLink, keys: KeyNames, token: number): RedisLink {
  const asked = keys.lease('consumer:sink')
  return { ...methodsOf(link), command: (key, ...args) => (key === asked ? Promise.resolve(String(token)) : link.command(key, ...args)) }
}

/** Counts what is sent together as one trip. */
function counting(link: RedisLink): { link: RedisLink; trips(): number; reset(): void } {
  let trips = 0
  let under = false
  const sent = (): void => {
    if (under) return
    under = true
    trips += 1
    setImmediate(() => { under = false })
  }
  return {
    trips: () => trips,
    reset: () => { trips = 0 },
    link: {
      ...methodsOf(link),
      command: (...args) => { sent(); return link.command(...args) },
      script: (...args) => { sent(); return link.script(...args) },
      commands: (...args) => { sent(); return link.commands(...args) },
    },
  }
}
