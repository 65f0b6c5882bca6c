// test: timeout 240 s
// Keys that hold what they must not, numbers at their end, and what another release has written: answered for their own scope alone, never half done, never
// misread. Covers R23, R24 and F3.

import t, { type Test } from 'tap'
import { systemClock } from '../../src/clock.ts'
import { silentLog, type Log } from '../../src/log.ts'
import type { Check } from '../../src/metering/check.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import type { RedisLink } from '../../src/stores/redis/link.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { startRedis, type Redis } from '../fixtures/redis.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { openTestStore } from './redis-fixture.ts'
import { check, extendOf, LEASE_MS, newId, reserveOf, settleOf } from './sample-moves.ts'

t.setTimeout(230_000)

const home = 'acme'
const other = 'globex'
const tokens = (fixed = 10, ceiling: number | null = 1_000): Check => check('tokens', ceiling, fixed, {
  buckets: [{ name: 'limit', ceiling, counter: null }, { name: 'overdraft', ceiling: 50, counter: 'tokens overdraft' }],
})
const sound = check('sound', 1_000, 1)
const moveNames = ['reserve', 'reserve again', 'extend', 'extend more', 'revive', 'settle', 'settle late', 'settle elsewhere', 'void', 'expire'] as const
type MoveName = typeof moveNames[number]

/** Books of one root account with a reservation in every state, in a single partition with another account. */
class Books {
  readonly redis: Redis
  readonly link: RedisLink
  readonly store: RedisStore
  readonly keys: KeyNames
  readonly prefix: string
  readonly now = Date.now()
  readonly ids = { open: newId(this.now), told: newId(this.now), expired: newId(this.now), settled: newId(this.now), unknown: newId(this.now) }

  constructor(redis: Redis, link: RedisLink, store: RedisStore, prefix: string) {
    this.redis = redis
    this.link = link
    this.store = store
    this.prefix = prefix
    this.keys = new KeyNames(prefix, 1)
  }

  async fill(): Promise<void> {
    const { store, ids, now } = this
    const counted = (n: number) => ({ amounts: [n, 1], usage: { requests: 1, total_tokens: n } })
    for (const id of [ids.open, ids.told, ids.expired, ids.settled]) await store.reserve(reserveOf(id, now, home, [tokens(), sound]))
    await store.extend(extendOf(ids.told, now + 1, home, 1, { counted: counted(4) }))
    await store.extend(extendOf(ids.expired, now + 1, home, 1, { counted: counted(5) }))
    await store.expire({ id: ids.expired, nowMs: now + 1 + LEASE_MS, home, checkpoint: 1 })
    await store.settle(settleOf(ids.settled, now + 2, home, [tokens(), sound], [7, 1]))
  }

  /** Everything that is stored, as one text: whatever a move changes, this changes. */
  async state(): Promise<string> {
    const source = `local out = {}
      for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
        out[#out + 1] = key .. '=' .. redis.call('TYPE', key).ok .. redis.sha1hex(redis.call('DUMP', key))
      end
      table.sort(out)
      return table.concat(out, '\\n')`
    return String(await this.link.command('', 'EVAL', [source, 0, `${this.prefix}:{p0}:*`]))
  }

  make(name: MoveName): Promise<{ readonly outcome: string }> {
    const { store, ids, now } = this
    const late = now + 60_000
    const counted = { amounts: [6, 1], usage: { requests: 1, total_tokens: 6 } }
    switch (name) {
      case 'reserve': return store.reserve(reserveOf(ids.unknown, now, home, [tokens(), sound]))
      case 'reserve again': return store.reserve(reserveOf(ids.open, now, home, [tokens(), sound]))
      case 'extend': return store.extend(extendOf(ids.told, late, home, 2, { counted }))
      case 'extend more': return store.extend(extendOf(ids.told, late, home, 3, { counted, checks: [tokens(50), sound] }))
      case 'revive': return store.extend(extendOf(ids.expired, late, home, 2, { counted, checks: [tokens(50), sound] }))
      case 'settle': return store.settle(settleOf(ids.open, late, home, [tokens(), sound], [8, 1]))
      case 'settle late': return store.settle(settleOf(ids.expired, late, home, [tokens(), sound], [8, 1]))
      case 'settle elsewhere': return store.settle(settleOf(ids.told, late, home, [check('tokens of another window', 100, 1), sound], [8, 1]))
      case 'void': return store.void({ id: ids.open, nowMs: late, home })
      case 'expire': return store.expire({ id: ids.told, nowMs: late + LEASE_MS, home, checkpoint: null })
    }
  }
}

let prefixes = 0

async function openBooks(t: Test, redis: Redis, link: RedisLink, log: Log = silentLog): Promise<Books> {
  const prefix = `damage${++prefixes}`
  const books = new Books(redis, link, await openTestStore(t, redis.url, { prefix, partitions: 1, log }), prefix)
  await books.fill()
  return books
}

async function openServer(t: Test): Promise<{ redis: Redis; link: RedisLink }> {
  const redis = await startRedis(t, {})
  const link = await openLink({ url: redis.url, deadlineMs: 2_000, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  return { redis, link }
}

async function outcomeOf(move: Promise<{ readonly outcome: string }>): Promise<string> {
  try {
    return (await move).outcome
  } catch (error) {
    if (error instanceof StoreUnavailable) return 'unavailable'
    return `threw ${String(error)}`
  }
}

interface Damage {
  readonly what: string
  /** Moves that must be answered with `broken`; every other one may be, or may be made as a whole. */
  readonly breaks: readonly MoveName[]
  do(books: Books): Promise<unknown>
}

/** A counter is only read where it matters. */
const broken = {
  settled: ['reserve', 'extend more', 'revive', 'settle', 'settle late', 'expire'],
  held: ['reserve', 'extend more', 'revive', 'settle', 'settle late', 'settle elsewhere', 'void', 'expire'],
} as const satisfies Record<string, readonly MoveName[]>
const listOf = (key: string) => async ({ link }: Books): Promise<void> => {
  await link.command(key, 'DEL', [key])
  await link.command(key, 'RPUSH', [key, 'a', 'b'])
}
const set = (books: Books, key: string, value: string): Promise<unknown> => books.link.command(key, 'SET', [key, value])

/** Texts that are no integers as Redis has them, although some pass for numbers elsewhere. */
const noIntegers = ['', 'x', '1.5', 'nan', '-nan', 'inf', '0x10', '007', '-0', ' 1', '1 ', '+1', '1e3', '9223372036854775808', '-9223372036854775809', '9'.repeat(40), '１']

const counterDamages: readonly Damage[] = (['settled', 'held'] as const).flatMap((kind) => [
  { what: `${kind}: a list`, breaks: broken[kind], do: (books: Books) => listOf(books.keys[kind](0, 'tokens'))(books) },
  ...noIntegers.map((text): Damage => ({
    what: `${kind}: ${JSON.stringify(text)}`,
    breaks: broken[kind],
    do: (books) => set(books, books.keys[kind](0, 'tokens'), text),
  })),
])

const keyDamages: readonly Damage[] = [
  { what: 'due: a string', breaks: ['reserve', 'settle', 'void', 'expire', 'extend'], do: (books) => set(books, books.keys.due(0), 'x') },
  { what: 'events: a string', breaks: ['settle', 'settle late', 'expire'], do: (books) => set(books, books.keys.events(0), 'x') },
  { what: 'last: a list', breaks: ['settle', 'settle late', 'expire'], do: (books) => listOf(books.keys.lastEvent(0))(books) },
  ...['', 'x', '5', '5-', '-5', '1-2-3', 'a-b'].map((text): Damage => ({ what: `last: ${JSON.stringify(text)}`, breaks: ['settle', 'settle late', 'expire'], do: (books) => set(books, books.keys.lastEvent(0), text) })),
  { what: 'last: gone', breaks: ['settle', 'settle late', 'expire'], do: (books) => books.link.command('', 'DEL', [books.keys.lastEvent(0)]) },
]

/** Every reservation at once, changed by `change`. */
function reservationDamage(what: string, change: (lines: string[]) => string[], breaks: readonly MoveName[]): Damage {
  return { what: `reservation: ${what}`, breaks, async do({ link, keys, ids }) {
    for (const id of [ids.open, ids.told, ids.expired, ids.settled]) {
      const key = keys.reservation(0, id)
      await link.command(key, 'SET', [key, change(String(await link.command(key, 'GET', [key])).split('\n')).join('\n')])
    }
  } }
}

const onLine = (index: number, text: string) => (lines: string[]): string[] => lines.map((line, i) => (i === index && lines.length > 3 ? text : line))
const existing: readonly MoveName[] = ['reserve again', 'extend', 'extend more', 'revive', 'settle', 'settle late', 'settle elsewhere', 'void', 'expire']

const reservationDamages: readonly Damage[] = [
  { what: 'reservation: a list', breaks: existing, async do(books) {
    for (const id of Object.values(books.ids)) await listOf(books.keys.reservation(0, id))(books)
  } },
  reservationDamage('empty', () => [''], existing),
  reservationDamage('nonsense', () => ['x'], existing),
  reservationDamage('of format 2', (lines) => [`2${lines[0]!.slice(1)}`, ...lines.slice(1)], existing),
  reservationDamage('of an unknown state', (lines) => [`1Q`, ...lines.slice(1)], existing),
  ...Array.from({ length: 12 }, (_, n) => reservationDamage(`cut after ${n + 1} lines`, (lines) => (lines.length > 3 ? lines.slice(0, n + 1) : lines), existing)),
  reservationDamage('a deadline that is no number', onLine(3, 'soon'), existing),
  reservationDamage('holds less than it has lines', onLine(5, '10'), ['settle', 'void', 'expire']),
  reservationDamage('holds nothing', onLine(5, ''), ['settle', 'void', 'expire']),
  reservationDamage('holds what is no number', onLine(5, '1x,1'), existing),
  reservationDamage('counted for fewer lines', onLine(6, '4'), existing),
  reservationDamage('booked for fewer lines', onLine(8, '5'), existing),
  reservationDamage('booked as two numbers in one', onLine(8, '5-5,1'), existing),
  reservationDamage('counters that are no JSON', onLine(11, '["tokens"'), ['settle', 'void', 'expire']),
  reservationDamage('lines that are no JSON', onLine(12, '[[['), ['expire']),
  reservationDamage('lines of another shape', onLine(12, '[1,2]'), ['expire']),
]

async function checkDamage(t: Test, redis: Redis, link: RedisLink, damage: Damage): Promise<{ broken: number; made: number }> {
  const told: string[] = []
  const note = (fields: object, message: string): void => { told.push(`${message} ${JSON.stringify(fields)}`) }
  let [broken, made] = [0, 0]
  for (const name of moveNames) {
    const books = await openBooks(t, redis, link, { debug: note, info: note, warn: note, error: note })
    await damage.do(books)
    const before = await books.state()
    // Beside it a call of another account, in the same script.
    const neighbour = newId(books.now)
    const wasSound = await outcomeOf(books.store.reserve(reserveOf(neighbour, books.now, other, [check('fine', 10, 1)])))
    const damagedDue = damage.what.startsWith('due')
    t.equal(wasSound, damagedDue ? 'broken' : 'admitted', `${damage.what}: another account`)
    if (!damagedDue) t.equal(await outcomeOf(books.store.void({ id: neighbour, nowMs: books.now, home: other })), 'voided')
    await books.link.command('', 'DEL', [books.keys.reservation(0, neighbour)])
    t.equal(await books.state(), before)

    const outcome = await outcomeOf(books.make(name))
    if (outcome === 'broken') {
      broken += 1
      t.equal(await books.state(), before, `${damage.what}: ${name}: broken, and nothing was changed`)
    } else {
      made += 1
      t.notOk(damage.breaks.includes(name), `${damage.what}: ${name}: ${outcome}`)
      t.match(outcome, /^(admitted|denied|extended|revived|settled|settled_late|settled_unheld|voided|expired|unknown|too_old|already_voided|already_settled|not_due)$/, `${damage.what}: ${name}`)
    }
    // A sweep is not held up by it, and reading never says 0 for what cannot be read.
    await books.store.due(books.now + 1e9)
    const [balance] = await books.store.balances(home, [tokens()]).catch((error: unknown) => {
      if (!(error instanceof StoreUnavailable)) throw error
      return []
    })
    if (/^(settled|held)/.test(damage.what)) t.equal(balance, undefined, `${damage.what}: ${JSON.stringify(balance)}`)
    t.ok(books.store.status().admitting, 'the store itself goes on')
    await books.store.close()
  }
  return { broken, made }
}

for (const [what, damages] of [['a counter', counterDamages], ['what events need', keyDamages], ['a reservation', reservationDamages]] as const) {
  t.test(`R23 F3: ${what} that holds what it must not is broken for its own moves, and nothing is ever half done`, async (t) => {
    const { redis, link } = await openServer(t)
    let [broken, made] = [0, 0]
    for (let at = 0; at < damages.length; at += 8) {
      for (const one of await Promise.all(damages.slice(at, at + 8).map((damage) => checkDamage(t, redis, link, damage)))) {
        broken += one.broken
        made += one.made
      }
    }
    t.comment(`${damages.length} kinds of damage, ${moveNames.length} moves each: ${broken} broken with nothing changed, ${made} made as a whole`)
  })
}

t.test('R23: damage of what all partitions share is told in a sentence', async (t) => {
  const { redis, link } = await openServer(t)
  const books = await openBooks(t, redis, link)
  const meta = books.keys.meta()
  const whole = String(await link.command(meta, 'GET', [meta]))
  for (const text of ['', 'x', '[]', '1', 'null', '{}', '{"format":"1"}', '{"format":1,"partitions":"1"}']) {
    await set(books, meta, text)
    const opened = await openTestStore(t, redis.url, { prefix: books.prefix, partitions: 1 }).then(() => 'opened', (error: unknown) => error as Error)
    t.match(opened, { name: 'StoreRefused', message: /does not hold what Tallygate writes there/ }, text)
  }
  await listOf(meta)(books)
  const refused = await openTestStore(t, redis.url, { prefix: books.prefix, partitions: 1 }).then(() => 'opened', (error: unknown) => error as Error)
  t.match(refused, { name: 'StoreRefused', message: /does not hold what Tallygate writes there/ })
  await waitFor('the running store to notice', () => !books.store.status().admitting, { deadlineMs: 3_000 })
  await link.command(meta, 'DEL', [meta])
  await set(books, meta, whole)
  await waitFor('it to go on', () => books.store.status().admitting, { deadlineMs: 3_000 })

  // A part's mark of another type is a part that was lost.
  await listOf(books.keys.epoch(0))(books)
  t.equal(await outcomeOf(books.make('reserve')), 'unavailable')
  t.match(books.store.status().reason, /accept-loss/)
})

t.test('R24: counters near the end of what numbers can be are never wrapped, whoever adds to them', async (t) => {
  const { redis, link } = await openServer(t)
  const ends = [2n ** 53n - 2n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 60n + 1n, 9_199_999_999_999_999_999n, 9_200_000_000_000_000_001n, 2n ** 63n - 10n, 2n ** 63n - 1n, -(2n ** 63n), -5n]
  let [exact, broken] = [0, 0]
  await Promise.all(ends.flatMap((end) => ([['settled', 1_000], ['settled', null], ['held', 1_000], ['held', null]] as const).map(async ([kind, ceiling]) => {
    const books = await openBooks(t, redis, link)
    const key = books.keys[kind](0, 'wide')
    const one = check('wide', ceiling, 9)
    const id = newId(books.now)
    await books.store.reserve(reserveOf(id, books.now, home, [one]))
    await set(books, key, String(end))
    const read = async (): Promise<bigint> => BigInt(String(await link.command(key, 'GET', [key]) ?? '0'))
    let expected = end
    for (const [name, move, change] of [
      ['reserve', () => books.store.reserve(reserveOf(newId(books.now), books.now, home, [one])), kind === 'held' ? 9n : 0n],
      ['settle', () => books.store.settle(settleOf(id, books.now, home, [one], [11])), kind === 'held' ? -9n : 11n],
      ['settle unheld', () => books.store.settle(settleOf(newId(books.now), books.now, home, [one], [Number.MAX_SAFE_INTEGER])), kind === 'held' ? 0n : BigInt(Number.MAX_SAFE_INTEGER)],
    ] as const) {
      const before = await books.state()
      const outcome = await outcomeOf(move())
      if (outcome === 'broken') {
        broken += 1
        t.equal(await books.state(), before, `${kind} ${end}: ${name}: nothing was changed`)
      } else if (outcome === 'denied') {
        t.ok(ceiling !== null && end > 0n, `${kind} ${end}: ${name}: denied`)
        t.equal(await read(), expected)
      } else {
        exact += 1
        expected += change
        t.equal(await read(), expected, `${kind} ${end}: ${name}: ${outcome}`)
        t.ok(expected < 2n ** 63n && !(name === 'reserve' && ceiling !== null && end > 1_000n), `${kind} ${end}: ${name}: ${outcome}`)
      }
    }
  })))
  t.comment(`${exact} moves exact to the last unit beyond 2^53, ${broken} refused before 2^63, wrapped 0`)
})

t.test('what a neighbouring release may have added is read past, and what it made anew is never misread', async (t) => {
  const { redis, link } = await openServer(t)
  const books = await openBooks(t, redis, link)
  const { store, keys, ids, now } = books

  // The books' own mark.
  const meta = JSON.parse(String(await link.command(keys.meta(), 'GET', [keys.meta()]))) as Record<string, unknown>
  await set(books, keys.meta(), JSON.stringify({ ...meta, format: 2, made_by: '9.9.9', more: { nested: [1] } }))
  await (await openTestStore(t, redis.url, { prefix: books.prefix, partitions: 1 })).close()
  await set(books, keys.meta(), JSON.stringify({ ...meta, format: 3 }))
  const opened = await openTestStore(t, redis.url, { prefix: books.prefix, partitions: 1 }).then(() => 'opened', (error: unknown) => error as Error)
  t.match(opened, { name: 'StoreRefused', message: /format 3.*knows 1/ })
  await waitFor('a gateway that runs to stop admitting', () => !store.status().admitting, { deadlineMs: 3_000 })
  t.match(store.status().reason, /format 3/)
  await set(books, keys.meta(), JSON.stringify(meta))
  await waitFor('it to go on', () => store.status().admitting, { deadlineMs: 3_000 })

  // Reservations with lines that this release does not know.
  for (const id of [ids.open, ids.told, ids.settled]) {
    const key = keys.reservation(0, id)
    await link.command(key, 'APPEND', [key, '\nsomething new'])
  }
  t.match((await store.due(now + 1e9)).map(({ id }) => id).sort(), [ids.open, ids.told].sort())
  t.equal(await outcomeOf(store.settle(settleOf(ids.settled, now + 2, home, [tokens(), sound], [7, 1]))), 'already_settled')
  t.equal(await outcomeOf(store.settle(settleOf(ids.settled, now + 2, home, [tokens(), sound], [8, 1]))), 'differs')
  t.equal(await outcomeOf(books.make('settle')), 'settled')
  t.equal(await outcomeOf(books.make('extend')), 'extended')
  t.equal(await outcomeOf(books.make('expire')), 'expired')
  t.match(await store.balances(home, [tokens()]), [{ used: 7 + 5 + 8 + 6, reserved: 0 }])

  // Events: a field more is read past, another format is told, and nobody is delivered anything out of order.
  const before = (await store.outbox.scan(null, 100)).length
  const last = String(await link.command(keys.lastEvent(0), 'GET', [keys.lastEvent(0)]))
  const [, fields] = (await link.command(keys.events(0), 'XREVRANGE', [keys.events(0), '+', '-', 'COUNT', 1]) as [string, string[]][])[0]!
  const [ms = 0, ordinal = 0] = last.split('-').map(Number)
  const write = async (n: number, more: readonly string[]): Promise<void> => {
    await link.command(keys.events(0), 'XADD', [keys.events(0), `${ms}-${ordinal + n}`, ...more])
    await set(books, keys.lastEvent(0), `${ms}-${ordinal + n}`)
  }
  await write(1, [...fields, 'z', 'new'])
  t.equal((await store.outbox.scan(null, 100)).length, before + 1)
  await write(2, fields.map((value, i) => (i === 1 ? '2' : value)))
  await write(3, fields)
  const fence = (await store.outbox.lease('file', 'h', now, now + 60_000))!
  const read = await store.outbox.read(fence, 100)
  t.equal(read.length, before + 1, 'up to the one that is unreadable')
  await store.outbox.advance(fence, read)
  await t.rejects(store.outbox.read(fence, 100), { name: 'EventUnreadable' }, 'it is said that there is more')
  t.match(await store.outbox.lag('file'), { count: 2 }, 'and it waits for a release that can read it')

  // Documents.
  await link.command(keys.records('keys'), 'HSET', [keys.records('keys'), 'k', '{"id":"k","new_field":{"deep":1}}'])
  t.same(await store.records.get('keys', 'k'), { id: 'k', new_field: { deep: 1 } }, 'nothing of a document is dropped')
})

t.test('the tests can fail: a script that adds before it has looked leaves a half-done move, and the state shows it', async (t) => {
  const { redis, link } = await openServer(t)
  const books = await openBooks(t, redis, link)
  await set(books, books.keys.due(0), 'x')
  const before = await books.state()
  await link.command('', 'EVAL', ['redis.call("INCRBY", KEYS[1], 1) return redis.call("ZADD", KEYS[2], 1, "a")', 2, books.keys.settled(0, 'tokens'), books.keys.due(0)]).catch(() => undefined)
  t.not(await books.state(), before)
})
