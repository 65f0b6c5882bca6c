import type { Test } from 'tap'
import type { Balance, Check } from '../../src/metering/check.ts'
import type { Draw } from '../../src/metering/moves.ts'
import { everyDead, StaleFence, type OutboxEntry, type Position, type Store } from '../../src/stores/store.ts'
import { check, extendOf, FORGET_AFTER_MS, LEASE_MS, newId, reserveOf, settleOf, slidingCheck } from './sample-moves.ts'

export interface StoreSuiteOptions {
  readonly name: string
  /** A store that nobody has used, remembering closed reservations for FORGET_AFTER_MS. The suite closes it. */
  open(): Promise<Store>
  /** Closes the store and opens what it kept. */
  reopen(store: Store): Promise<Store>
  readonly supports: {
    /** What was acknowledged is there after `reopen`. */
    readonly durable: boolean
    /** Damages the stored counter; null: a counter of this store cannot be damaged alone. */
    readonly damage: ((store: Store, counter: string) => Promise<void>) | null
  }
  /** Exact test name → why it is not asked of this store. */
  readonly skip: Readonly<Record<string, string>>
}

/** What every store promises: the laws, and each row of the moves' table. */
export function storeSuite(t: Test, options: StoreSuiteOptions): void {
  const names = new Set<string>()
  let homes = 0

  interface Case {
    readonly t: Test
    store: Store
    /** A root account and counters of this test alone. */
    readonly home: string
    readonly now: number
    counter(name: string): string
  }

  const law = (name: string, body: (c: Case) => Promise<void>): void => {
    names.add(name)
    const reason = options.skip[name]
    if (reason !== undefined) {
      t.comment(`${options.name}: not asked: "${name}", because ${reason}`)
      return
    }
    void t.test(`${options.name}: ${name}`, async (t) => {
      const home = `home ${++homes}`
      const c: Case = { t, store: await options.open(), home, now: Date.now(), counter: (counter) => `${home} ${counter}` }
      t.teardown(() => c.store.close())
      await body(c)
    })
  }

  const balance = async (c: Case, one: Check): Promise<Balance> => (await c.store.balances(c.home, [one]))[0]!
  const events = (c: Case): Promise<readonly OutboxEntry[]> => c.store.outbox.scan(null, 1000)
  const eventsOf = async (c: Case, id: string): Promise<readonly OutboxEntry[]> => (await events(c)).filter((entry) => entry.record.id === id)
  const admit = async (c: Case, checks: readonly Check[], id = newId(c.now), nowMs = c.now): Promise<string> => {
    c.t.equal((await c.store.reserve(reserveOf(id, nowMs, c.home, checks))).outcome, 'admitted')
    return id
  }

  // === Laws ===

  law('an empty store admits exactly up to the ceiling and denies the next unit', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    await admit(c, [tokens(400)])
    await admit(c, [tokens(600)])
    const denied = await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens(1)]))
    c.t.match(denied, { outcome: 'denied', refusals: [{ check: 0, limit: tokens(0).ceilings[0]!.limit, why: 'held' }] })
    c.t.match(await balance(c, tokens(0)), { used: 0, reserved: 1000, room: 0 })
  })

  law('a refusal says whether settled use alone refuses or only open reservations do', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    const id = await admit(c, [tokens(700)])
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens(301)])), { refusals: [{ why: 'held' }] })
    await c.store.settle(settleOf(id, c.now, c.home, [tokens(700)], [700]))
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens(301)])), { refusals: [{ why: 'used_up' }] })
  })

  law('what a call holds is told by its id, until it has ended', async (c) => {
    if (c.store.pending === undefined) return
    const tokens = check(c.counter('tokens'), 1000, 100, { perUnit: 2 })
    const open = check(c.counter('open'), 5, 1)
    const id = newId(c.now)
    c.t.equal(await c.store.pending(id), undefined)
    await c.store.reserve(reserveOf(id, c.now, c.home, [tokens, open], { uMin: 7, uMax: 7 }))
    c.t.match(await c.store.pending(id), {
      id, home: c.home, u: 7, deadlineMs: c.now + LEASE_MS, held: [{ counter: c.counter('tokens'), amount: 114 }, { counter: c.counter('open'), amount: 1 }], skeleton: { account: 'acme', key: 'k_1' },
    })
    await c.store.settle(settleOf(id, c.now, c.home, [tokens, open], [50, 0]))
    c.t.equal(await c.store.pending(id), undefined)
  })

  law('the largest output bound that fits is granted', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 100, { perUnit: 2, clampable: true })
    const answer = await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens], { uMin: 1, uMax: 5000 }))
    c.t.match(answer, { outcome: 'admitted', u: 450 })
    c.t.match(await balance(c, tokens), { reserved: 1000, room: 0 })
    const strict = check(c.counter('strict'), 1000, 100, { perUnit: 2 })
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [strict], { uMin: 1, uMax: 5000 })), { outcome: 'denied' })
  })

  law('a denial holds nothing on any counter', async (c) => {
    const wide = check(c.counter('wide'), 1000, 10)
    const narrow = check(c.counter('narrow'), 5, 10)
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [wide, narrow])), { outcome: 'denied' })
    c.t.match(await c.store.balances(c.home, [wide, narrow]), [{ used: 0, reserved: 0 }, { used: 0, reserved: 0 }])
  })

  law('several checks are held all or none, whichever one refuses', async (c) => {
    for (const refusing of [0, 1, 2]) {
      const checks = [0, 1, 2].map((i) => check(c.counter(`${refusing}-${i}`), i === refusing ? 1 : 100, 10))
      const denied = await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, checks))
      c.t.match(denied, { outcome: 'denied', refusals: [{ check: refusing }] })
      for (const one of await c.store.balances(c.home, checks)) c.t.equal(one.reserved, 0)
    }
  })

  law('a shadow limit counts and reports and never refuses', async (c) => {
    const shadow = check(c.counter('shadow'), 5, 10, { refuses: false })
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [shadow])), { outcome: 'admitted', shadowed: [shadow.ceilings[0]!.limit] })
    c.t.match(await balance(c, shadow), { reserved: 10, room: -5 })
  })

  law('a repeated reserve gives the same grant and holds nothing more', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 0, { perUnit: 1, clampable: true })
    const move = reserveOf(newId(c.now), c.now, c.home, [tokens], { uMin: 1, uMax: 700 })
    c.t.match(await c.store.reserve(move), { outcome: 'admitted', u: 700 })
    c.t.match(await c.store.reserve(move), { outcome: 'admitted', u: 700 })
    c.t.equal((await balance(c, tokens)).reserved, 700)
  })

  law('a denial leaves no trace: the same reserve is admitted once there is room', async (c) => {
    const tokens = check(c.counter('tokens'), 10, 10)
    const first = await admit(c, [tokens])
    const move = reserveOf(newId(c.now), c.now, c.home, [tokens])
    c.t.match(await c.store.reserve(move), { outcome: 'denied' })
    await c.store.void({ id: first, nowMs: c.now, home: c.home })
    c.t.match(await c.store.reserve(move), { outcome: 'admitted' })
  })

  law('settle moves pending to settled and frees the difference', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const id = await admit(c, [tokens])
    const answer = await c.store.settle(settleOf(id, c.now, c.home, [tokens], [250]))
    c.t.match(answer, { outcome: 'settled', drawn: [{ bucket: 'limit', amount: 250 }], overruns: [], balances: [{ used: 250, reserved: 0, room: 750 }] })
    c.t.match(await balance(c, tokens), { used: 250, reserved: 0, room: 750 })
  })

  law('what happened beyond the ceiling is recorded as an overrun', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 900)
    const id = await admit(c, [tokens])
    const answer = await c.store.settle(settleOf(id, c.now, c.home, [tokens], [1300]))
    c.t.match(answer, { outcome: 'settled', overruns: [{ bucket: 'limit', amount: 300 }] })
    c.t.match(await balance(c, tokens), { used: 1300, reserved: 0, room: -300 })
    c.t.match((await eventsOf(c, id))[0]!.record.overruns, [{ bucket: 'limit', amount: 300 }])
  })

  law('a repeated settle changes nothing, and says so when the amounts differ', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const id = await admit(c, [tokens])
    const move = settleOf(id, c.now, c.home, [tokens], [250])
    await c.store.settle(move)
    c.t.equal((await c.store.settle(move)).outcome, 'already_settled')
    c.t.equal((await c.store.settle({ ...move, nowMs: c.now + 60_000 })).outcome, 'already_settled')
    c.t.equal((await c.store.settle({ ...move, amounts: [300] })).outcome, 'differs')
    c.t.equal((await c.store.settle({ ...move, usage: { requests: 1, total_tokens: 251 } })).outcome, 'differs')
    c.t.equal((await c.store.void({ id, nowMs: c.now, home: c.home })).outcome, 'already_settled')
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'already_settled')
    c.t.match(await balance(c, tokens), { used: 250, reserved: 0 })
    c.t.equal((await eventsOf(c, id)).length, 1)
  })

  law('void leaves the counters as if the reservation had never been, and no event', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const id = await admit(c, [tokens])
    c.t.equal((await c.store.void({ id, nowMs: c.now, home: c.home })).outcome, 'voided')
    c.t.equal((await c.store.void({ id, nowMs: c.now, home: c.home })).outcome, 'already_voided')
    c.t.match(await balance(c, tokens), { used: 0, reserved: 0, room: 1000 })
    c.t.same(await events(c), [])
  })

  law('expire takes exactly what is due, once, settles what was counted, and leaves an event', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const dead = await admit(c, [tokens])
    const living = await admit(c, [tokens])
    await c.store.extend(extendOf(dead, c.now, c.home, 1, { counted: { amounts: [120], usage: { requests: 1, total_tokens: 120 } } }))
    await c.store.extend(extendOf(living, c.now + 10_000, c.home, 1))
    const nowMs = c.now + LEASE_MS
    const due = await c.store.due(nowMs)
    c.t.match(due, [{ id: dead, home: c.home, checkpoint: 1, deadlineMs: nowMs }])
    c.t.equal(due.length, 1, 'and nothing else')
    const expire = { id: dead, nowMs, home: c.home, checkpoint: due[0]!.checkpoint }
    c.t.equal((await c.store.expire(expire)).outcome, 'expired')
    c.t.equal((await c.store.expire(expire)).outcome, 'unknown', 'once')
    c.t.match(await balance(c, tokens), { used: 120, reserved: 400, room: 480 })
    const written = await eventsOf(c, dead)
    c.t.equal(written.length, 1)
    c.t.match(written[0]!.record, { kind: 'expired', correction: 0, usage: { total_tokens: 120 }, body: { account: 'acme' }, atMs: nowMs })
  })

  law('a late settle after expiry is counted once, with one correction event of the difference', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const id = await admit(c, [tokens])
    await c.store.extend(extendOf(id, c.now, c.home, 1, { counted: { amounts: [120], usage: { requests: 1, total_tokens: 120 } } }))
    await c.store.expire({ id, nowMs: c.now + LEASE_MS, home: c.home, checkpoint: 1 })
    const late = settleOf(id, c.now + 20_000, c.home, [tokens], [370])
    c.t.match(await c.store.settle(late), { outcome: 'settled_late', drawn: [{ amount: 250 }] })
    c.t.equal((await c.store.settle(late)).outcome, 'already_settled')
    c.t.match(await balance(c, tokens), { used: 370, reserved: 0 })
    const written = await eventsOf(c, id)
    c.t.equal(written.length, 2)
    c.t.match(written[1]!.record, { kind: 'late', correction: 1, usage: { total_tokens: 370 }, booked: { total_tokens: 120 } })
  })

  law('a late settle of less than expiry booked gives the rest back', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 400)
    const id = await admit(c, [tokens])
    await c.store.extend(extendOf(id, c.now, c.home, 1, { counted: { amounts: [300], usage: { requests: 1, total_tokens: 300 } } }))
    await c.store.expire({ id, nowMs: c.now + LEASE_MS, home: c.home, checkpoint: 1 })
    c.t.match(await c.store.settle(settleOf(id, c.now + 20_000, c.home, [tokens], [200])), { outcome: 'settled_late', drawn: [{ amount: -100 }] })
    c.t.match(await balance(c, tokens), { used: 200, reserved: 0 })
  })

  law('no real interval of a sliding window\'s length admits more than its limit', async (c) => {
    const windowMs = 12_000
    const ceiling = 50
    const admitted: { atMs: number; amount: number }[] = []
    let seed = 7
    const chance = (): number => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647
    for (let nowMs = c.now; nowMs < c.now + 5 * windowMs; nowMs += Math.floor(chance() * 700)) {
      const amount = 1 + Math.floor(chance() * 9)
      const one = slidingCheck(c.counter('window'), ceiling, amount, nowMs, windowMs)
      const id = newId(nowMs)
      const answer = await c.store.reserve(reserveOf(id, nowMs, c.home, [one]))
      if (answer.outcome !== 'admitted') continue
      admitted.push({ atMs: nowMs, amount })
      await c.store.settle(settleOf(id, nowMs + 200, c.home, [one], [amount]))
    }
    let fullest = 0
    for (const { atMs } of admitted) {
      const sum = admitted.filter((one) => one.atMs >= atMs && one.atMs < atMs + windowMs).reduce((total, one) => total + one.amount, 0)
      fullest = Math.max(fullest, sum)
    }
    c.t.ok(fullest <= ceiling, `${fullest} of ${ceiling}`)
    c.t.ok(admitted.reduce((total, one) => total + one.amount, 0) > 3 * ceiling, 'and room comes back')
  })

  law('settled amounts and events appear together or not at all', async (c) => {
    const tokens = check(c.counter('tokens'), 100_000, 10)
    const ids = await Promise.all(Array.from({ length: 50 }, () => admit(c, [tokens])))
    const settling = Promise.all(ids.map((id, i) => c.store.settle(settleOf(id, c.now, c.home, [tokens], [i]))))
    // A settlement is booked at the latest when its event can be read: never an event without its booking.
    const seen = await events(c)
    const used = (await balance(c, tokens)).used
    c.t.ok(used >= seen.reduce((sum, entry) => sum + (entry.record.usage.total_tokens ?? 0), 0))
    await settling
    const total = (await events(c)).reduce((sum, entry) => sum + (entry.record.usage.total_tokens ?? 0), 0)
    c.t.equal(total, (await balance(c, tokens)).used)
    c.t.equal((await events(c)).length, 50)
  })

  law('of two holders of a lease only one is obeyed: a stale fence cannot read, advance or bury', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    const id = await admit(c, [tokens])
    await c.store.settle(settleOf(id, c.now, c.home, [tokens], [1]))
    const { outbox } = c.store
    const first = await outbox.lease('sink', 'replica 1', c.now, c.now + 10_000)
    c.t.ok(first)
    c.t.equal(await outbox.lease('sink', 'replica 2', c.now + 9_000, c.now + 20_000), undefined, 'while another holds it')
    c.t.ok(await outbox.lease('sink', 'replica 1', c.now + 9_000, c.now + 12_000), 'renewed')
    c.t.equal(await outbox.lease('sink', 'replica 2', c.now + 11_000, c.now + 20_000), undefined, 'renewal counts')
    const [entry] = await outbox.read(first!, 1)
    const second = await outbox.lease('sink', 'replica 2', c.now + 12_000, c.now + 20_000)
    c.t.ok(second)
    await c.t.rejects(outbox.read(first!, 1), StaleFence)
    await c.t.rejects(outbox.advance(first!, [entry!]), StaleFence)
    await c.t.rejects(outbox.bury(first!, entry!, 'no', c.now), StaleFence)
    c.t.equal((await outbox.read(second!, 1)).length, 1, 'the new holder reads what was not done')
    c.t.same(await outbox.dead(), [])
  })

  law('advance is idempotent, only moves forward, and is each consumer\'s own', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    for (let i = 0; i < 5; i++) await c.store.settle(settleOf(newId(c.now), c.now + i, c.home, [tokens], [i]))
    const { outbox } = c.store
    const one = (await outbox.lease('one', 'me', c.now, c.now + 60_000))!
    const two = (await outbox.lease('two', 'me', c.now, c.now + 60_000))!
    const all = await outbox.read(one, 10)
    c.t.same(all.map((entry) => entry.record.usage.total_tokens), [0, 1, 2, 3, 4], 'in order')
    await outbox.advance(one, all.slice(0, 3))
    await outbox.advance(one, [all[2]!])
    await outbox.advance(one, [all[1]!, all[0]!])
    await outbox.advance(one, [])
    c.t.same((await outbox.read(one, 10)).map((entry) => entry.position), all.slice(3).map((entry) => entry.position))
    c.t.equal((await outbox.read(two, 10)).length, 5)
    c.t.match(await outbox.lag('one'), { count: 2, oldestMs: c.now + 3 })
    c.t.match(await outbox.lag('two'), { count: 5, oldestMs: c.now })
    await outbox.advance(one, [all[4]!, all[3]!])
    c.t.same(await outbox.lag('one'), { count: 0, oldestMs: null })
    c.t.same(await outbox.read(one, 10), [])
  })

  law('what a consumer does not have yet can be read by anybody, page by page', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    const { outbox } = c.store
    const waiting = async (consumer: string, count = 2): Promise<(number | undefined)[]> => {
      const found: (number | undefined)[] = []
      for (let after: Position | null = null; ;) {
        const page: readonly OutboxEntry[] = await outbox.waiting?.(consumer, after, count) ?? []
        const last = page.at(-1)
        if (last === undefined) return found
        found.push(...page.map((entry) => entry.record.usage.total_tokens))
        after = last.position
      }
    }
    c.t.ok(outbox.waiting !== undefined)
    c.t.same(await waiting('one'), [])
    for (let i = 0; i < 5; i++) await c.store.settle(settleOf(newId(c.now), c.now + i, c.home, [tokens], [i]))
    const fence = (await outbox.lease('one', 'me', c.now, c.now + 60_000))!
    const all = await outbox.read(fence, 10)
    c.t.same(await waiting('one'), [0, 1, 2, 3, 4])
    await outbox.advance(fence, all.slice(0, 2))
    c.t.same(await waiting('one'), [2, 3, 4])
    c.t.same(await waiting('one', 100), [2, 3, 4])
    c.t.same(await waiting('nobody'), [0, 1, 2, 3, 4], 'of one that nobody has seen: all')
    await outbox.advance(fence, all)
    c.t.same(await waiting('one'), [])
  })

  law('bury keeps the event with its reason until it is exhumed', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    const id = newId(c.now)
    await c.store.settle(settleOf(id, c.now, c.home, [tokens], [7]))
    const { outbox } = c.store
    const fence = (await outbox.lease('sink', 'me', c.now, c.now + 60_000))!
    const [entry] = await outbox.read(fence, 1)
    await outbox.bury(fence, entry!, 'the receiver says 422', c.now + 5)
    await outbox.bury(fence, entry!, 'the receiver says 422', c.now + 5)
    await outbox.advance(fence, [entry!])
    c.t.match(await outbox.dead('sink'), [{ consumer: 'sink', position: entry!.position, reason: 'the receiver says 422', buriedMs: c.now + 5, record: { id } }])
    c.t.equal((await outbox.dead()).length, 1)
    c.t.same(await outbox.dead('other'), [])
    c.t.same([await outbox.deadCount('sink'), await outbox.deadCount('other')], [1, 0])
    await outbox.exhume([{ consumer: 'sink', position: entry!.position }])
    c.t.same(await outbox.dead(), [])
  })

  law('the dead are counted as they are buried and exhumed, each consumer\'s own, however often either is repeated', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    for (let i = 0; i < 5; i++) await c.store.settle(settleOf(newId(c.now), c.now + i, c.home, [tokens], [i]))
    const { outbox } = c.store
    const counts = async (): Promise<readonly number[]> => Promise.all(['one', 'one more', 'nobody'].map((consumer) => outbox.deadCount(consumer)))
    c.t.same(await counts(), [0, 0, 0])
    const one = (await outbox.lease('one', 'me', c.now, c.now + 60_000))!
    const more = (await outbox.lease('one more', 'me', c.now, c.now + 60_000))!
    const all = await outbox.read(one, 10)
    await Promise.all(all.map((entry) => outbox.bury(one, entry, 'refused', c.now)))
    await outbox.bury(more, all[2]!, 'refused too', c.now)
    c.t.same(await counts(), [5, 1, 0])
    await Promise.all([...all, ...all].map((entry) => outbox.bury(one, entry, 'refused again', c.now + 1)))
    c.t.same(await counts(), [5, 1, 0], 'buried once more')
    c.t.match(await outbox.dead('one'), all.map(({ position }) => ({ position, reason: 'refused again' })))
    const places = all.slice(0, 2).map(({ position }) => ({ consumer: 'one', position }))
    await outbox.exhume([...places, ...places, { consumer: 'nobody', position: all[0]!.position }])
    c.t.same(await counts(), [3, 1, 0])
    await outbox.exhume(places)
    c.t.same(await counts(), [3, 1, 0], 'exhumed once more')
    await Promise.all([outbox.bury(one, all[0]!, 'refused', c.now), outbox.exhume([{ consumer: 'one more', position: all[2]!.position }])])
    c.t.same(await counts(), [4, 0, 0], 'and after all of it')
    const stale = await outbox.lease('one', 'me', c.now, c.now + 60_000)
    await outbox.release(stale!)
    await c.t.rejects(outbox.bury(one, all[1]!, 'too late', c.now), StaleFence)
    c.t.same(await counts(), [4, 0, 0], 'a stale fence counts nothing')
  })

  law('the dead are listed page by page, by consumer and position, none left out and none twice', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    await Promise.all(Array.from({ length: 1_100 }, (_, i) => c.store.settle(settleOf(newId(c.now), c.now + i, c.home, [tokens], [i]))))
    const { outbox } = c.store
    const consumers = ['b', 'a b', 'a']
    let buried: readonly OutboxEntry[] = []
    for (const consumer of consumers) {
      const fence = (await outbox.lease(consumer, 'me', c.now, c.now + 60_000))!
      buried = []
      for (;;) {
        const entries = await outbox.read(fence, 1_000)
        if (entries.length === 0) break
        // In whatever order.
        await Promise.all(entries.toReversed().map((entry) => outbox.bury(fence, entry, `refused by ${consumer}`, c.now)))
        await outbox.advance(fence, entries)
        buried = [...buried, ...entries]
      }
    }
    const positions = buried.map(({ position }) => position).sort()
    c.t.equal(positions.length, 1_100)
    const read = async (consumer?: string): Promise<readonly string[]> => {
      const found: string[] = []
      for await (const page of everyDead(outbox, consumer)) found.push(...page.map((one) => `${one.consumer} ${one.position} ${one.reason}`))
      return found
    }
    const expected = (consumer: string): readonly string[] => positions.map((position) => `${consumer} ${position} refused by ${consumer}`)
    for (const consumer of consumers) c.t.same(await read(consumer), expected(consumer))
    c.t.same(await read(), ['a', 'a b', 'b'].flatMap(expected))
    c.t.same(await read('nobody'), [])
    c.t.ok((await outbox.dead()).length <= 1_000, 'a page is bounded')
    c.t.ok((await outbox.dead('a', null, 1_000_000)).length <= 1_000, 'whatever is asked for')
    c.t.same(await outbox.dead('a', null, 0), [])
    const place = (consumer: string, at: number) => ({ consumer, position: positions[at]! })
    c.t.match(await outbox.dead('a', place('a', 9), 2), [place('a', 10), place('a', 11)])
    c.t.match(await outbox.dead(undefined, place('a', 1_098), 2), [place('a', 1_099)])
    c.t.match(await outbox.dead(undefined, place('a', 1_099), 2), [place('a b', 0), place('a b', 1)])
    c.t.match(await outbox.dead('b', place('a', 9), 1), [place('b', 0)], 'behind another consumer\'s')
    c.t.same(await outbox.dead('a', place('b', 9), 1), [])
    await c.t.rejects(outbox.dead('a', { consumer: 'a', position: 'none' }), RangeError)
    // What is exhumed on the way disturbs nothing.
    const seen: Position[] = []
    for await (const page of everyDead(outbox, 'a')) {
      seen.push(...page.map(({ position }) => position))
      await outbox.exhume(page)
    }
    c.t.same(seen, positions)
    c.t.same([await outbox.deadCount('a'), await outbox.deadCount('a b'), await read('a')], [0, 1_100, []])
  })

  law('an event that was buried before the cursor moved over it is dead once, also when it comes again after a restart', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    for (let i = 0; i < 3; i++) await c.store.settle(settleOf(newId(c.now), c.now + i, c.home, [tokens], [i]))
    const fence = (await c.store.outbox.lease('sink', 'me', c.now, c.now + 1))!
    await Promise.all((await c.store.outbox.read(fence, 2)).map((entry) => c.store.outbox.bury(fence, entry, 'refused', c.now)))
    c.store = await options.reopen(c.store)
    const { outbox } = c.store
    c.t.equal(await outbox.deadCount('sink'), 2)
    const again = (await outbox.lease('sink', 'me again', c.now + 2, c.now + 60_000))!
    const entries = await outbox.read(again, 10)
    c.t.equal(entries.length, 3, 'the cursor did not move')
    await Promise.all(entries.map((entry) => outbox.bury(again, entry, 'refused', c.now + 2)))
    await outbox.advance(again, entries)
    c.t.equal(await outbox.deadCount('sink'), 3)
    await outbox.exhume([{ consumer: 'sink', position: entries[1]!.position }])
    c.store = await options.reopen(c.store)
    c.t.equal(await c.store.outbox.deadCount('sink'), 2)
    c.t.same((await c.store.outbox.dead('sink')).map(({ position }) => position), [entries[0]!.position, entries[2]!.position])
  })

  law('any event can be found again by position and by time, and delivered again', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    for (let i = 0; i < 6; i++) await c.store.settle(settleOf(newId(c.now), c.now + 1000 * i, c.home, [tokens], [i]))
    const { outbox } = c.store
    const all = await outbox.scan(null, 100)
    c.t.equal(all.length, 6)
    c.t.same((await outbox.scan(all[1]!.position, 2)).map((entry) => entry.record.usage.total_tokens), [2, 3])
    c.t.same(all.map((entry) => entry.position).sort(), all.map((entry) => entry.position), 'positions are ordered')
    for (const [atMs, first] of [[c.now - 1, 0], [c.now + 1000, 1], [c.now + 1001, 2], [c.now + 5000, 5], [c.now + 9000, undefined]] as const) {
      const [entry] = await outbox.scan(await outbox.positionAt(atMs), 1)
      c.t.equal(entry?.record.usage.total_tokens, first)
    }
    const fence = (await outbox.lease('sink', 'me', c.now, c.now + 60_000))!
    await outbox.advance(fence, all)
    await outbox.rewind('sink', all[3]!.position)
    await outbox.rewind('sink', all[5]!.position)
    const again = (await outbox.lease('sink', 'me', c.now, c.now + 60_000))!
    c.t.same((await outbox.read(again, 10)).map((entry) => entry.record.usage.total_tokens), [4, 5])
    await outbox.rewind('sink', null)
    const whole = (await outbox.lease('sink', 'me', c.now, c.now + 60_000))!
    c.t.equal((await outbox.read(whole, 10)).length, 6)
  })

  law('a cursor is put where another consumer stands, forward and back, by whoever holds its lease', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    const { outbox } = c.store
    await outbox.setConsumers(['sink', 'other'])
    for (let i = 1; i <= 5; i++) await c.store.settle(settleOf(newId(c.now), c.now, c.home, [tokens], [i]))
    const other = (await outbox.lease('other', 'me', c.now, c.now + 60_000))!
    const entries = await outbox.read(other, 10)
    await outbox.advance(other, entries.slice(0, 2))
    const fence = (await outbox.lease('sink', 'me', c.now, c.now + 60_000))!
    const left = async (): Promise<readonly (number | undefined)[]> => (await outbox.read(fence, 10)).map(({ record }) => record.usage.total_tokens)
    c.t.equal((await left()).length, entries.length)
    await outbox.follow!(fence, 'other')
    c.t.same(await left(), entries.slice(2).map(({ record }) => record.usage.total_tokens), 'forward')
    await outbox.advance(fence, await outbox.read(fence, 10))
    c.t.same(await left(), [])
    await outbox.follow!(fence, 'other')
    c.t.same(await left(), entries.slice(2).map(({ record }) => record.usage.total_tokens), 'back')
    await outbox.release(fence)
    await outbox.lease('sink', 'you', c.now, c.now + 60_000)
    await c.t.rejects(outbox.follow!(fence, 'other'), { name: 'StaleFence' })
  })

  law('who listens is told of new events, until he stops', async (c) => {
    const tokens = check(c.counter('tokens'), null, 1)
    let told = 0
    const stop = c.store.outbox.onAppend(() => { told += 1 })
    await c.store.settle(settleOf(newId(c.now), c.now, c.home, [tokens], [1]))
    c.t.ok(told > 0)
    stop()
    const before = told
    await c.store.settle(settleOf(newId(c.now), c.now, c.home, [tokens], [1]))
    c.t.equal(told, before)
  })

  law('documents are kept by kind and id, listed, deleted and watched', async (c) => {
    const { records } = c.store
    const seen: unknown[] = []
    const stop = records.watch('key', (id, value) => seen.push([id, value]))
    await records.put('key', 'a', { plan: 'pro', labels: ['x'] })
    await records.put('key', 'b', { plan: 'free' })
    await records.put('audit', 'a', { who: 'me' })
    await records.put('key', 'a', { plan: 'max' })
    c.t.same(await records.get('key', 'a'), { plan: 'max' })
    c.t.same(await records.get('key', 'z'), undefined)
    c.t.same(await records.list('key'), [{ id: 'a', value: { plan: 'max' } }, { id: 'b', value: { plan: 'free' } }])
    await records.delete('key', 'a')
    c.t.same(await records.get('key', 'a'), undefined)
    c.t.same(await records.get('audit', 'a'), { who: 'me' })
    stop()
    await records.put('key', 'c', {})
    c.t.same(seen, [['a', { plan: 'pro', labels: ['x'] }], ['b', { plan: 'free' }], ['a', { plan: 'max' }], ['a', undefined]])
  })

  law('a document is swapped only where it is what was expected, compared by content', async (c) => {
    const { records } = c.store
    const seen: unknown[] = []
    records.watch('key', (id, value) => seen.push([id, value]))
    c.t.equal(await records.swap('key', 'a', { plan: 'pro' }, { plan: 'max' }), false, 'there is none')
    c.t.equal(await records.get('key', 'a'), undefined)
    c.t.equal(await records.swap('key', 'a', undefined, { plan: 'pro', 2: 'x' }), true)
    c.t.equal(await records.swap('key', 'a', undefined, { plan: 'free' }), false, 'there is one')
    c.t.equal(await records.swap('key', 'a', undefined, { 2: 'x', plan: 'pro' }), true, 'repeated')
    c.t.equal(await records.swap('key', 'a', { plan: 'pro' }, { plan: 'free' }), false, 'only a part of it is the same')
    c.t.same(await records.get('key', 'a'), { plan: 'pro', 2: 'x' })
    c.t.equal(await records.swap('key', 'a', { 2: 'x', plan: 'pro' }, { plan: 'max' }), true, 'in whatever order its fields come')
    c.t.same(await records.get('key', 'a'), { plan: 'max' })
    await records.delete('key', 'a')
    c.t.equal(await records.swap('key', 'a', { plan: 'max' }, { plan: 'free' }), false, 'deleted')
    await records.put('note', 'a', { plan: 'pro', 2: 'x' })
    await records.delete('note', 'a', { plan: 'pro' })
    c.t.same(await records.get('note', 'a'), { plan: 'pro', 2: 'x' }, 'it is something else')
    await records.delete('note', 'a', { 2: 'x', plan: 'pro' })
    c.t.equal(await records.get('note', 'a'), undefined)
    await records.delete('note', 'a', { plan: 'pro' })
    c.t.same(seen, [['a', { plan: 'pro', 2: 'x' }], ['a', { plan: 'max' }], ['a', undefined]], 'and watchers are told of what was done')
  })

  law('of many who make one document at the same time exactly one succeeds', async (c) => {
    const { records } = c.store
    const made = await Promise.all(Array.from({ length: 50 }, (_, i) => records.swap('key', 'a', undefined, { i })))
    c.t.equal(made.filter((one) => one).length, 1)
    c.t.same(await records.get('key', 'a'), { i: made.indexOf(true) })
    const rounds = await Promise.all(Array.from({ length: 20 }, async () => {
      for (;;) {
        const found = await records.get('count', 'a')
        if (await records.swap('count', 'a', found, { n: Number(found?.['n'] ?? 0) + 1, by: newId(c.now) })) return
      }
    }))
    c.t.match(await records.get('count', 'a'), { n: rounds.length }, 'and no change is written over another')
  })

  law('a list knows every document, however many there are', async (c) => {
    const { records } = c.store
    const count = 20_001
    for (let i = 0; i < count; i += 500) {
      await Promise.all(Array.from({ length: Math.min(500, count - i) }, (_, j) => records.put('key', `key ${i + j}`, { n: i + j })))
    }
    const listed = await records.list('key')
    c.t.equal(listed.length, count)
    c.t.equal(new Set(listed.map(({ value }) => value['n'])).size, count)
  })

  law('a lease that was let go of is free at once, and its fence is not obeyed any more', async (c) => {
    const { outbox } = c.store
    const first = (await outbox.lease('sink', 'replica 1', c.now, c.now + 10_000))!
    await outbox.release(first)
    await c.t.rejects(outbox.read(first, 1), StaleFence)
    const second = await outbox.lease('sink', 'replica 2', c.now, c.now + 10_000)
    c.t.ok(second)
    await outbox.release(first)
    c.t.equal(await outbox.lease('sink', 'replica 1', c.now, c.now + 10_000), undefined, 'a lease of another is left alone')
  })

  law('everything acknowledged is there after the store is opened again', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    const settled = await admit(c, [tokens(100)])
    await c.store.settle(settleOf(settled, c.now, c.home, [tokens(100)], [80]))
    const voided = await admit(c, [tokens(100)])
    await c.store.void({ id: voided, nowMs: c.now, home: c.home })
    const open = await admit(c, [tokens(300)])
    await c.store.extend(extendOf(open, c.now, c.home, 3, { counted: { amounts: [40], usage: { requests: 1, total_tokens: 40 } } }))
    const fence = (await c.store.outbox.lease('sink', 'me', c.now, c.now + 1))!
    const [entry] = await c.store.outbox.read(fence, 1)
    await c.store.outbox.bury(fence, entry!, 'refused', c.now)
    await c.store.outbox.advance(fence, [entry!])
    await c.store.records.put('key', 'a', { plan: 'pro' })

    c.store = await options.reopen(c.store)
    c.t.equal((await c.store.settle(settleOf(settled, c.now, c.home, [tokens(100)], [80]))).outcome, 'already_settled')
    c.t.equal((await c.store.reserve(reserveOf(voided, c.now, c.home, [tokens(100)]))).outcome, 'already_voided')
    c.t.same(await c.store.records.get('key', 'a'), { plan: 'pro' })
    c.t.equal((await c.store.outbox.dead('sink')).length, 1)
    const all = await events(c)
    c.t.equal(all.filter((one) => one.record.id === settled).length, 1)
    // The open one is still held, or was expired with what it had counted: never forgotten.
    const standing = await balance(c, tokens(0))
    const written = all.filter((one) => one.record.id === open)
    if (written.length === 0) c.t.match(standing, { used: 80, reserved: 300 })
    else {
      c.t.match(standing, { used: 120, reserved: 0 })
      c.t.match(written, [{ record: { kind: 'expired', usage: { total_tokens: 40 } } }])
    }
    const after = (await c.store.outbox.lease('sink', 'me', c.now + 2, c.now + 60_000))!
    c.t.same((await c.store.outbox.read(after, 10)).map((one) => one.record.id), written.map((one) => one.record.id), 'the cursor stands where it stood')
  })

  law('a thousand concurrent reservations on one counter admit exactly the ceiling', async (c) => {
    const tokens = check(c.counter('tokens'), 333, 1)
    const answers = await Promise.all(Array.from({ length: 1000 }, () => c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens]))))
    c.t.equal(answers.filter((answer) => answer.outcome === 'admitted').length, 333)
    c.t.equal(answers.filter((answer) => answer.outcome === 'denied').length, 667)
    c.t.match(await balance(c, tokens), { reserved: 333, room: 0 })
  })

  law('names with spaces, colons, braces, unicode and 200 characters do not collide', async (c) => {
    const names = ['a b', 'a:b', 'a', 'b', '{a}b', '{a}{b}', 'a}b{', 'ä', 'a\u0308', '日本 🌊', 'a|b', 'a\u0000b', 'a%20b', `${'x'.repeat(199)}1`, `${'x'.repeat(199)}2`, '__proto__', 'constructor', '"a"', '\\a']
    for (const [i, name] of names.entries()) {
      const one = check(c.counter(name), 1000, i + 1)
      await admit(c, [one])
      await c.store.records.put(name, name, { i })
    }
    for (const [i, name] of names.entries()) {
      c.t.equal((await balance(c, check(c.counter(name), 1000, 0))).reserved, i + 1, name)
      c.t.same(await c.store.records.list(name), [{ id: name, value: { i } }], name)
    }
    const homes = await Promise.all(['x:y', 'x', '{x}'].map(async (home) => {
      const answer = await c.store.reserve(reserveOf(newId(c.now), c.now, `${c.home} ${home}`, [check(`${c.counter(home)} own`, 1, 1)]))
      return answer.outcome
    }))
    c.t.same(homes, ['admitted', 'admitted', 'admitted'])
  })

  law('draws over buckets follow settled use alone: concurrent holds never burn a later bucket early', async (c) => {
    const buckets = [
      { name: 'allowance', ceiling: 100, counter: null },
      { name: 'grant', ceiling: 50, counter: c.counter('grant') },
      { name: 'overdraft', ceiling: 10, counter: c.counter('overdraft') },
    ]
    const tokens = (need: number): Check => check(c.counter('tokens'), null, need, { buckets })
    const first = await admit(c, [tokens(90)])
    const second = await admit(c, [tokens(60)])
    c.t.match(await c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [tokens(11)])), { outcome: 'denied' }, 'ten are left in all')
    const drawn = async (id: string, amount: number): Promise<readonly Draw[]> => {
      const answer = await c.store.settle(settleOf(id, c.now, c.home, [tokens(amount)], [amount]))
      return answer.outcome === 'settled' ? answer.drawn : []
    }
    c.t.same(await drawn(second, 60), [{ bucket: 'allowance', amount: 60 }], 'the other\'s hold is not use')
    c.t.same(await drawn(first, 90), [{ bucket: 'allowance', amount: 40 }, { bucket: 'grant', amount: 50 }])
    const third = await admit(c, [tokens(10)])
    c.t.same(await drawn(third, 10), [{ bucket: 'overdraft', amount: 10 }])
    c.t.match(await balance(c, tokens(0)), { used: 160, room: 0 })
  })

  const { damage } = options.supports
  if (damage !== null) {
    law('one damaged key answers broken for its own moves and no other\'s', async (c) => {
      const bad = check(c.counter('bad'), 100, 1)
      const good = check(c.counter('good'), 100, 1)
      const held = await admit(c, [bad])
      await damage(c.store, c.counter('bad'))
      const [broken, fine, finish] = await Promise.all([
        c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [bad])), c.store.reserve(reserveOf(newId(c.now), c.now, c.home, [good])),
        c.store.settle(settleOf(held, c.now, c.home, [bad], [1])),
      ])
      c.t.same([broken!.outcome, fine!.outcome, finish!.outcome], ['broken', 'admitted', 'broken'])
    })
  } else t.comment(`${options.name}: not asked: damaged keys, because no counter of this store can be damaged alone`)

  // === Each row of the table of moves ===

  law('reserve of a voided id: already_voided', async (c) => {
    const tokens = check(c.counter('tokens'), 10, 1)
    const id = await admit(c, [tokens])
    await c.store.void({ id, nowMs: c.now, home: c.home })
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'already_voided')
    c.t.equal((await c.store.extend(extendOf(id, c.now, c.home, 1))).outcome, 'already_voided')
    c.t.equal((await c.store.settle(settleOf(id, c.now, c.home, [tokens], [1]))).outcome, 'already_voided')
    c.t.match(await balance(c, tokens), { used: 0, reserved: 0 })
  })

  law('reserve of an id older than forget_after: too_old', async (c) => {
    const tokens = check(c.counter('tokens'), 10, 1)
    const id = newId(c.now - FORGET_AFTER_MS - 1)
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'too_old')
    c.t.equal((await balance(c, tokens)).reserved, 0)
  })

  law('extend of a pending one: amounts, counted and deadline only rise', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    const id = await admit(c, [tokens(100)])
    const counted = (n: number) => ({ amounts: [n], usage: { requests: 1, total_tokens: n } })
    c.t.equal((await c.store.extend(extendOf(id, c.now + 5000, c.home, 2, { checks: [tokens(300)], counted: counted(90) }))).outcome, 'extended')
    c.t.equal((await balance(c, tokens(0))).reserved, 300)
    c.t.equal((await c.store.extend(extendOf(id, c.now + 9000, c.home, 1, { checks: [tokens(200)], counted: counted(50) }))).outcome, 'extended', 'a delayed older one')
    c.t.equal((await balance(c, tokens(0))).reserved, 300, 'changes nothing')
    c.t.match(await c.store.due(c.now + 5000 + LEASE_MS), [{ id, checkpoint: 2, deadlineMs: c.now + 5000 + LEASE_MS }], 'nor the deadline')
    await c.store.extend(extendOf(id, c.now + 1000, c.home, 3, { counted: counted(80) }))
    c.t.match(await c.store.due(c.now + 60_000), [{ checkpoint: 3, deadlineMs: c.now + 5000 + LEASE_MS }], 'a deadline never moves back')
    await c.store.expire({ id, nowMs: c.now + 60_000, home: c.home, checkpoint: 3 })
    c.t.equal((await balance(c, tokens(0))).used, 90, 'counted never falls')
  })

  law('a denied extend holds nothing more, and still records what was counted and the deadline', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    const id = await admit(c, [tokens(900)])
    const answer = await c.store.extend(extendOf(id, c.now + 5000, c.home, 1, { checks: [tokens(1001)], counted: { amounts: [500], usage: { requests: 1, total_tokens: 500 } } }))
    c.t.match(answer, { outcome: 'denied', refusals: [{ check: 0, why: 'held' }] })
    c.t.equal((await balance(c, tokens(0))).reserved, 900)
    c.t.same(await c.store.due(c.now + LEASE_MS), [])
    await c.store.expire({ id, nowMs: c.now + 60_000, home: c.home, checkpoint: 1 })
    c.t.equal((await balance(c, tokens(0))).used, 500)
  })

  law('extend of an expired one: revived where it fits, expired where it does not', async (c) => {
    const tokens = (need: number): Check => check(c.counter('tokens'), 1000, need)
    const counted = { amounts: [100], usage: { requests: 1, total_tokens: 100 } }
    const id = await admit(c, [tokens(400)])
    await c.store.extend(extendOf(id, c.now, c.home, 1, { counted }))
    await c.store.expire({ id, nowMs: c.now + 20_000, home: c.home, checkpoint: 1 })
    const other = await admit(c, [tokens(700)])
    const revive = extendOf(id, c.now + 21_000, c.home, 2, { checks: [tokens(400)] })
    c.t.equal((await c.store.extend(revive)).outcome, 'expired', '300 more do not fit')
    c.t.equal((await c.store.extend(extendOf(id, c.now + 21_000, c.home, 2))).outcome, 'expired', 'a sign of life alone revives nothing')
    await c.store.void({ id: other, nowMs: c.now, home: c.home })
    c.t.equal((await c.store.extend(revive)).outcome, 'revived')
    c.t.match(await balance(c, tokens(0)), { used: 100, reserved: 300 })
    c.t.match(await c.store.settle(settleOf(id, c.now + 22_000, c.home, [tokens(400)], [350])), { outcome: 'settled_late' })
    c.t.match(await balance(c, tokens(0)), { used: 350, reserved: 0 })
    c.t.match((await eventsOf(c, id)).map((entry) => entry.record.kind), ['expired', 'late'])
  })

  law('extend of an unknown or settled one says so', async (c) => {
    const tokens = check(c.counter('tokens'), 10, 1)
    c.t.equal((await c.store.extend(extendOf(newId(c.now), c.now, c.home, 1))).outcome, 'unknown')
    const id = await admit(c, [tokens])
    await c.store.settle(settleOf(id, c.now, c.home, [tokens], [1]))
    c.t.equal((await c.store.extend(extendOf(id, c.now, c.home, 1))).outcome, 'already_settled')
  })

  law('settle of an unknown young one is booked in full: the answer happened', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 10)
    const id = newId(c.now)
    c.t.match(await c.store.settle(settleOf(id, c.now, c.home, [tokens], [70])), { outcome: 'settled_unheld' })
    c.t.match(await balance(c, tokens), { used: 70, reserved: 0 })
    c.t.match(await eventsOf(c, id), [{ record: { kind: 'usage', usage: { total_tokens: 70 } } }])
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'already_settled', 'the reserve that comes late holds nothing')
  })

  law('settle of an unknown old one is quarantined and never booked', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 10)
    const id = newId(c.now - FORGET_AFTER_MS - 1)
    c.t.equal((await c.store.settle(settleOf(id, c.now, c.home, [tokens], [70]))).outcome, 'quarantined')
    c.t.match(await balance(c, tokens), { used: 0, reserved: 0 })
    c.t.same(await events(c), [])
  })

  law('void of an unknown one leaves a tombstone for the reserve that comes late', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 10)
    const id = newId(c.now)
    c.t.equal((await c.store.void({ id, nowMs: c.now, home: c.home })).outcome, 'voided')
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'already_voided')
    c.t.equal((await balance(c, tokens)).reserved, 0)
  })

  law('void of an expired one comes too late: its event stays', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 10)
    const id = await admit(c, [tokens])
    await c.store.expire({ id, nowMs: c.now + 20_000, home: c.home, checkpoint: 0 })
    c.t.equal((await c.store.void({ id, nowMs: c.now + 21_000, home: c.home })).outcome, 'expired')
    c.t.equal((await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))).outcome, 'expired')
    c.t.equal((await eventsOf(c, id)).length, 1)
  })

  law('expire does nothing before the deadline, after a newer sign of life, or to what it does not know', async (c) => {
    const tokens = check(c.counter('tokens'), 1000, 10)
    const id = await admit(c, [tokens])
    c.t.equal((await c.store.expire({ id, nowMs: c.now + LEASE_MS - 1, home: c.home, checkpoint: 0 })).outcome, 'not_due')
    await c.store.extend(extendOf(id, c.now + 14_000, c.home, 1))
    c.t.equal((await c.store.expire({ id, nowMs: c.now + 60_000, home: c.home, checkpoint: 0 })).outcome, 'not_due', 'the sweeper read an older checkpoint')
    c.t.equal((await c.store.expire({ id: newId(c.now), nowMs: c.now, home: c.home, checkpoint: 0 })).outcome, 'unknown')
    c.t.equal((await balance(c, tokens)).reserved, 10)
    c.t.equal((await c.store.expire({ id, nowMs: c.now, home: c.home, checkpoint: null })).outcome, 'expired', 'at start, whatever the deadline')
  })

  law('moves in any order end in the same books', async (c) => {
    // Every order of a life's moves, each repeated: whichever is first decides, and nothing stays held.
    const orders = [['r', 'e', 's'], ['r', 's', 'e'], ['e', 'r', 's'], ['e', 's', 'r'], ['s', 'r', 'e'], ['s', 'e', 'r']]
    for (const [i, order] of orders.entries()) {
      const tokens = check(c.counter(`tokens ${i}`), 1000, 100)
      const id = newId(c.now)
      for (const move of order.flatMap((one) => [one, one])) {
        if (move === 'r') await c.store.reserve(reserveOf(id, c.now, c.home, [tokens]))
        if (move === 'e') await c.store.extend(extendOf(id, c.now, c.home, 1))
        if (move === 's') await c.store.settle(settleOf(id, c.now, c.home, [tokens], [60]))
      }
      c.t.match(await balance(c, tokens), { used: 60, reserved: 0 }, order.join(' '))
      c.t.equal((await eventsOf(c, id)).length, 1)
    }
  })

  if (!options.supports.durable) t.comment(`${options.name}: ends with its process`)
  for (const name of Object.keys(options.skip)) if (!names.has(name)) t.fail(`skip names no test: ${name}`)
}
