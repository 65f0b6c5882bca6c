// test: timeout 180 s
// Books that move from one kind of store to another are the same books.

import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { AccountHomes } from '../../src/accounts/homes.ts'
import { systemClock } from '../../src/clock.ts'
import type { Config } from '../../src/config/config.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { fillStore, openStore, type Opening } from '../../src/stores/index.ts'
import { fromLines, Tally, toLines, type StoreRow } from '../../src/stores/rows.ts'
import type { Store } from '../../src/stores/store.ts'
import { startRedis, startRedisCluster } from '../fixtures/redis.ts'
import { tmpDir, type Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { check, eventBody, FORGET_AFTER_MS, newId, reserveOf, settleOf, skeleton } from './sample-moves.ts'

const opening: Opening = { clock: systemClock, random: systemRandom, log: silentLog, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000, acceptLoss: false }
const embedded = (dir: string) => ({ kind: 'embedded', dir, synchronous: 'normal' } as const)
const redis = (url: string, partitions = 16, prefix = 'moved') => ({
  kind: 'redis', url, spool: null, spoolMaxBytes: 1e6, prefix, partitions, deadlineMs: 2_000, durability: 'none', confirm: { replicas: 0, fsync: false }, eventsMax: 1e6,
} as const)

const accounts = new Map([['acme', { id: 'acme', parent: null }], ['team', { id: 'team', parent: 'acme' }], ['other', { id: 'other', parent: null }]])
const config = { accounts, keys: [{ id: 'dev', account: 'team' }, { id: 'solo', account: null }] } as unknown as Config
const people = [
  { account: 'acme', home: 'acme', counter: 'account:acme|total_tokens||lifetime|' },
  { account: 'team', home: 'acme', counter: 'key:dev|total_tokens||lifetime|' },
  { account: 'other', home: 'other', counter: 'account:other|total_tokens||lifetime|' },
  { account: 'solo', home: 'solo', counter: 'end_user:solo/u%201|total_tokens||lifetime|' },
  { account: 'made', home: 'other', counter: 'key:made|total_tokens||lifetime|' },
]
const ceiling = 1_000

/** Books with something of everything; the ids of settled and voided calls. */
async function write(store: Store) {
  const nowMs = systemClock.nowMs()
  await store.records.put('key', 'made', { hash: 'ab', account: 'other', plan: null, expires_ms: null, created_ms: 1, created_by: 'test' })
  await store.records.put('revocation', 'dev', { at_ms: 1, by: 'me', reason: null })
  await store.records.put('quarantine', 'q', { outcome: 'quarantined', nested: { a: [1, 'ü'] } })
  await store.outbox.setConsumers(['fast', 'slow', 'new'])
  const settled: { id: string; home: string; counter: string; amount: number }[] = []
  let n = 0
  for (let round = 0; round < 6; round++) {
    for (const { account, home, counter } of people) {
      const id = newId(nowMs)
      const checks = [check(counter, ceiling, 100), { ...check(`${counter}window`, 50, 1), endsMs: nowMs + 3_600_000 }]
      await store.reserve(reserveOf(id, nowMs, home, checks))
      const amount = 40 + n
      await store.settle(settleOf(id, nowMs + n % 3, home, checks, [amount, 1], { event: { ...eventBody, account } }))
      settled.push({ id, home, counter, amount })
      n += 1
    }
  }
  const voided = newId(nowMs)
  await store.reserve(reserveOf(voided, nowMs, 'acme', [check(people[0]!.counter, ceiling, 5)]))
  await store.void({ id: voided, nowMs, home: 'acme' })
  const lapsed = newId(nowMs)
  await store.reserve(reserveOf(lapsed, nowMs, 'acme', [check(people[0]!.counter, ceiling, 7)], { skeleton: { ...eventBody, account: 'acme' } }))
  await store.extend({ id: lapsed, nowMs, home: 'acme', checkpoint: 1, deadlineMs: nowMs + 1, counted: { amounts: [3], usage: { requests: 1, total_tokens: 3 } }, checks: null })
  await store.expire({ id: lapsed, nowMs: nowMs + 2, home: 'acme', checkpoint: null })
  // `fast` has all, `slow` a part and a dead one, `new` nothing.
  for (const [name, many] of [['fast', 1_000], ['slow', 9]] as const) {
    const fence = (await store.outbox.lease(name, 'test', nowMs, nowMs + 60_000))!
    const batch = await store.outbox.read(fence, many)
    if (name === 'slow') await store.outbox.bury(fence, batch[4]!, 'not wanted', nowMs)
    await store.outbox.advance(fence, batch.slice(0, many))
    await store.outbox.release(fence)
  }
  return { settled, voided, lapsed, nowMs }
}

type Written = Awaited<ReturnType<typeof write>>

async function rowsOf(store: Store): Promise<StoreRow[]> {
  const rows: StoreRow[] = []
  for await (const row of store.export!('test')) rows.push(row)
  return rows
}

async function tallyOf(store: Store): Promise<Record<string, unknown>> {
  const tally = new Tally()
  for (const row of await rowsOf(store)) if (row.t !== 'store' && row.t !== 'end') tally.add(row)
  return tally.toDocument()
}

/** What the books answer: the same before and after. */
async function answers(store: Store, { settled, nowMs }: Written) {
  const balances = []
  for (const { home, counter } of people) balances.push(...await store.balances(home, [check(counter, ceiling, 0), { ...check(`${counter}window`, 50, 0), endsMs: nowMs + 3_600_000 }]))
  const events = (await store.outbox.scan(null, 1_000)).map(({ record }) => `${record.id} ${record.correction} ${record.kind}`).sort()
  const waiting: Record<string, string[]> = {}
  const at = systemClock.nowMs()
  for (const name of ['fast', 'slow', 'new']) {
    const fence = (await store.outbox.lease(name, 'look', at, at + 60_000))!
    waiting[name] = (await store.outbox.read(fence, 1_000)).map(({ record }) => record.id).sort()
    await store.outbox.release(fence)
  }
  const dead = (await store.outbox.dead()).map(({ consumer, reason, buriedMs, record }) => ({ consumer, reason, buriedMs, id: record.id }))
  const documents = [await store.records.list('key'), await store.records.list('revocation'), await store.records.list('quarantine')]
  return { balances, events, waiting, dead, documents, settled: settled.length }
}

async function* each(rows: readonly StoreRow[]): AsyncGenerator<StoreRow> { yield* rows }

/** Opened by itself, filled by another's rows. */
async function moved(t: Teardown, from: Store, to: Parameters<typeof fillStore>[0]) {
  const filled = await fillStore(to, opening, from.export!('test'), new AccountHomes(config))
  await from.close()
  const store = await openStore(to, opening)
  t.teardown(() => store.close())
  return { filled, store }
}

t.test('embedded to Redis to embedded: balances, events, cursors, dead events and documents stay what they are', async (t) => {
  const dir = tmpDir(t)
  const server = await startRedis(t, {})
  const first = await openStore(embedded(join(dir, 'one')), opening)
  const written = await write(first)
  const before = await answers(first, written)
  t.equal(before.events.length, written.settled.length + 1)
  t.same([before.waiting['fast']!.length, before.waiting['slow']!.length, before.waiting['new']!.length], [0, before.events.length - 9, before.events.length])
  t.equal(before.dead.length, 1)
  const tally = await tallyOf(first)

  const there = await moved(t, first, redis(server.url))
  t.same(there.filled.tally.toDocument(), { ...tally, closed: (tally['closed'] as number) - 1, checksum: there.filled.tally.toDocument()['checksum'] }, 'the marker of a voided call has no account')
  t.equal(there.filled.homeless, 1)
  t.same(await answers(there.store, written), before)
  t.same(await tallyOf(there.store), there.filled.tally.toDocument())
  t.equal((await there.store.inspect!()).partitions, 16)

  // A settlement that is repeated is known, one that was expired is corrected, and what is used up stays used up.
  const { settled, nowMs, lapsed } = written
  const again = settled[3]!
  const at = nowMs + 5
  t.match(await there.store.settle(settleOf(again.id, at, again.home, [check(again.counter, ceiling, 100), check(`${again.counter}window`, 50, 1)], [again.amount, 1])), { outcome: 'already_settled' })
  t.match(await there.store.reserve(reserveOf(lapsed, at, 'acme', [check(people[0]!.counter, ceiling, 7)])), { outcome: 'expired' })
  const used = before.balances[0]!.used
  t.match(await there.store.reserve(reserveOf(newId(at), at, 'acme', [check(people[0]!.counter, ceiling, ceiling - used + 1)])), { outcome: 'denied', refusals: [{ why: 'used_up' }] })

  const back = await moved(t, there.store, embedded(join(dir, 'two')))
  t.same(await answers(back.store, written), before)
  t.same([...back.filled.again], [], 'nothing is delivered again')
  t.same(await tallyOf(back.store), back.filled.tally.toDocument())
  t.match(await back.store.settle(settleOf(lapsed, at, 'acme', [check(people[0]!.counter, ceiling, 7)], [5])), { outcome: 'settled_late' })
  const fit = check(people[0]!.counter, ceiling, ceiling - used - 2)
  t.match(await back.store.reserve(reserveOf(newId(at), at, 'acme', [fit])), { outcome: 'admitted' }, 'to the last token')
  t.match(await back.store.reserve(reserveOf(newId(at), at, 'acme', [check(people[0]!.counter, ceiling, 1)])), { outcome: 'denied' })
})

t.test('Redis to a Redis with other partitions, and to a cluster', async (t) => {
  const [server, cluster] = [await startRedis(t, {}), await startRedisCluster(t)]
  const first = await openStore(redis(server.url, 16, 'a[*]'), opening)
  const written = await write(first)
  const before = await answers(first, written)
  const key = await first.records.get('key', 'made')
  await first.close()
  const source = await openStore(redis(server.url, 16, 'a[*]'), opening)
  const there = await moved(t, source, redis(cluster.url, 64))
  t.same(await answers(there.store, written), before)
  t.same(await tallyOf(there.store), there.filled.tally.toDocument())
  const back = await moved(t, there.store, redis(server.url, 64, 'b'))
  t.same(await answers(back.store, written), before)
  t.same(back.filled.homeless, 0, 'with as many partitions every marker finds its place')
  t.same(await back.store.records.get('key', 'made'), key)
})

t.test('a store that is used, or a target that is not empty, is refused, and nothing is changed', async (t) => {
  const dir = tmpDir(t)
  const server = await startRedis(t, {})
  const store = await openStore(redis(server.url), opening)
  const written = await write(store)
  const open = newId(written.nowMs)
  await store.reserve(reserveOf(open, written.nowMs, 'acme', [check(people[0]!.counter, ceiling, 1)]))
  await waitFor('its lease', async () => Number(await server.cli('HGET', 'moved:{books}:lease:housekeeping', 'until')) > systemClock.nowMs())
  await t.rejects(rowsOf(store), { name: 'RowsRefused', message: /a gateway uses this store/ }, 'it is this one')
  await store.close()
  const looking = await openStore(redis(server.url), opening)
  t.teardown(() => looking.close())
  // Seats linger after calls: nobody waits for those.
  await looking.reserve(reserveOf(newId(written.nowMs), written.nowMs, 'acme', [check('account:acme|seats||seats_key|0', 2, 1)], { deadlineMs: written.nowMs + 3_600_000, skeleton: { seat: true, ...skeleton } }))
  await t.rejects(rowsOf(looking), { name: 'RowsRefused', message: /1 calls are still open/ })
  await looking.void({ id: open, nowMs: written.nowMs, home: 'acme' })
  const rows = await rowsOf(looking)
  await t.rejects(fillStore(redis(server.url), opening, each(rows), new AccountHomes(config)), { name: 'RowsRefused', message: /not empty/ })
  await fillStore(embedded(join(dir, 'copy')), opening, each(rows), new AccountHomes(config))
  await t.rejects(fillStore(embedded(join(dir, 'copy')), opening, each(rows), new AccountHomes(config)), { name: 'RowsRefused', message: /not empty/ })
  t.same(await rowsOf(looking).then((after) => after.length), rows.length)
})

t.test('a copy that stops half way leaves nothing that could be opened', async (t) => {
  const dir = tmpDir(t)
  const server = await startRedis(t, {})
  const source = await openStore(embedded(join(dir, 'source')), opening)
  t.teardown(() => source.close())
  await write(source)
  const rows = await rowsOf(source)
  async function* broken(): AsyncGenerator<StoreRow> {
    yield* rows.slice(0, rows.length - 5)
    throw new Error('the disk is gone')
  }
  await t.rejects(fillStore(embedded(join(dir, 'copy')), opening, broken(), new AccountHomes(config)), /the disk is gone/)
  t.same(readdirSync(join(dir, 'copy')).filter((name) => name !== 'lock.db'), [], 'no store')
  await t.rejects(fillStore(redis(server.url), opening, broken(), new AccountHomes(config)), /the disk is gone/)
  await t.rejects(openStore(redis(server.url), opening), { name: 'StoreRefused', message: /being copied into this Redis/ })
})

t.test('a backup that was cut, changed or is none is found out', async (t) => {
  const source = await openStore(embedded(join(tmpDir(t), 'source')), opening)
  t.teardown(() => source.close())
  await write(source)
  let text = ''
  for await (const line of toLines(source.export!('test'))) text += line
  async function* pieces(of: string): AsyncGenerator<string> { for (let at = 0; at < of.length; at += 1_000) yield of.slice(at, at + 1_000) }
  const read = async (of: string): Promise<StoreRow[]> => {
    const rows: StoreRow[] = []
    for await (const row of fromLines(pieces(of))) rows.push(row)
    return rows
  }
  t.same(await read(text), await rowsOf(source).then((rows) => rows.map((row) => (row.t === 'store' ? { ...row, at: (JSON.parse(text.split('\n')[0]!) as { at: string }).at } : row))))
  const lines = text.split('\n')
  await t.rejects(read(lines.slice(0, -2).join('\n') + '\n'), /cut short/)
  await t.rejects(read(text.slice(0, text.length / 2)), /cut short/)
  await t.rejects(read([...lines.slice(0, 20), ...lines.slice(21)].join('\n')), /was changed/)
  await t.rejects(read(text.replace(/"settled":"\d/, '"settled":"9')), /was changed/)
  await t.rejects(read('hello\n'), /line 1/)
  await t.rejects(read('{"t":"end"}\n'), /not a file of/)
  await t.rejects(read(text.replace('"format":1', '"format":7')), /format 7/)
})
