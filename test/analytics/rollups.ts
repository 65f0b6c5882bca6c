import type { Test } from 'tap'
import { addSums, countsOf, nothingAdded, raise, SUMS } from '../../src/analytics/counts.ts'
import type { Adding } from '../../src/analytics/counts.ts'
import { incrementOf } from '../../src/analytics/projection.ts'
import { bucketOf, DIMENSIONS } from '../../src/analytics/rollups.ts'
import type { Counted, Dimension, Increment, Rollups, Unit, UsageRow } from '../../src/analytics/rollups.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { StaleFence } from '../../src/stores/store.ts'

/** What roll-ups hold to wherever they are kept. `open` opens the same ones again. */

export const startMs = Date.parse('2026-11-02T09:58:30Z')

export function chance(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

export function randomEvent(next: () => number, ordinal: number, accounts: number, spanMs: number): UsageEvent {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!
  const account = `acct-${Math.floor(next() * accounts)}`
  const input = Math.floor(next() * 5_000)
  const output = Math.floor(next() * 900)
  const late = next() < 0.02
  const time = new Date(startMs + Math.floor(next() * spanMs)).toISOString()
  return {
    specversion: '1.0', type: 'tallygate.usage.v1', source: 'tallygate/test', id: `event-${ordinal}`, subject: account, time, datacontenttype: 'application/json',
    data: {
      account, key: `${account}-${pick(['a', 'b'])}`, plan: pick(['free', 'pro']), model: pick(['small', 'large', 'embed']), endpoint: 'chat.completions', upstream: 'model',
      end: pick(['complete', 'complete', 'client_gone']), status: pick([200, 200, 200, 502]), requests: late ? 0 : 1, ...(late ? { corrects: 'x' } : {}),
      input_tokens: input, output_tokens: late ? -output : output, total_tokens: input + (late ? -output : output), compute_ms: Math.floor(next() * 3_000), bytes_in: 100, bytes_out: 900,
      time_to_first_token_ms: Math.floor(next() * 400), cost: `${late ? '-' : ''}0.${String(Math.floor(next() * 1e9)).padStart(9, '0')}`, currency: pick(['USD', 'EUR']),
    },
  }
}

/** Positions of a store in one process. */
export function inOneRow(events: readonly UsageEvent[]): string[] {
  return events.map((_event, index) => String(index + 1).padStart(15, '0'))
}

function countedOf(events: readonly UsageEvent[], positions: readonly string[]): Counted[] {
  return events.map((event, index) => ({ id: event.id, position: positions[index]!, increment: incrementOf(event) }))
}

function addOne(adding: Adding, increment: Increment): void {
  addSums(adding, increment)
  const { latencySlot, firstTokenSlot } = increment
  if (latencySlot !== null) raise(adding.latency ??= new Map(), latencySlot)
  if (firstTokenSlot !== null) raise(adding.firstToken ??= new Map(), firstTokenSlot)
}

/** Another way to the same: over all events, one after the other. */
function recount(increments: readonly Increment[], unit: Unit, by: readonly Dimension[], series: boolean, fits: (increment: Increment) => boolean): Map<string, string> {
  const groups = new Map<string, { adding: Adding; costs: Map<string, bigint> }>()
  for (const increment of increments.filter(fits)) {
    const key = JSON.stringify([series ? bucketOf(unit, increment.atMs) : null, ...by.map((dimension) => increment.dimensions[dimension])])
    let group = groups.get(key)
    if (group === undefined) groups.set(key, group = { adding: nothingAdded(), costs: new Map() })
    addOne(group.adding, increment)
    if (increment.currency !== '') group.costs.set(increment.currency, (group.costs.get(increment.currency) ?? 0n) + increment.costNanos)
  }
  return new Map([...groups].map(([key, { adding, costs }]) => [key, textOf(countsOf(adding), costs)]))
}

function textOf(counts: UsageRow['counts'], costs: ReadonlyMap<string, bigint>): string {
  const sorted = (map: ReadonlyMap<number | string, unknown>): string => [...map].map(([name, value]) => `${name}=${String(value)}`).sort().join(' ')
  const { latency, first_token, cost_nanos, ...sums } = counts
  return `${JSON.stringify(sums)} ${cost_nanos} ${sorted(costs)} | ${sorted(latency)} | ${sorted(first_token)}`
}

function rowsOf(rows: readonly UsageRow[], by: readonly Dimension[]): Map<string, string> {
  return new Map(rows.map(({ fromMs, by: values, counts, costs }) => [JSON.stringify([fromMs, ...by.map((dimension) => values[dimension])]), textOf(counts, costs)]))
}

/** `positionsOf` tells where events lie that were written in this order. */
export function rollupLaws(t: Test, name: string, open: () => Promise<Rollups>, positionsOf: (events: readonly UsageEvent[]) => string[], count = 4_000): void {
  const questions: readonly (readonly [Unit, readonly Dimension[], boolean, Partial<Record<Dimension, string>>])[] = [
    ['day', [], false, {}], ['hour', [], true, {}], ['day', ['account'], false, {}], ['hour', ['model'], true, {}], ['minute', ['status'], false, {}],
    ['day', ['key', 'model'], false, { account: 'acct-3' }], ['hour', ['account', 'model'], true, { plan: 'pro' }], ['day', [...DIMENSIONS], false, {}], ['day', [], true, { account: 'acct-1', end: 'complete' }], ['month', ['account'], true, {}], ['month', ['key', 'model'], true, {}], ['day', ['key'], true, {}],
  ]

  t.test(`${name}: roll-ups equal a recount of the events, whatever is asked, also when a batch comes again and after they are opened again`, async (t) => {
    const next = chance(7)
    const events = Array.from({ length: count }, (_each, ordinal) => randomEvent(next, ordinal, 12, 40 * 86_400_000))
    const all = countedOf(events, positionsOf(events))
    let rollups = await open()
    t.equal(await rollups.isNew(), true)
    for (let at = 0; at < events.length;) {
      const batch = all.slice(at, at + 1 + Math.floor(next() * 300))
      await rollups.count(batch, await rollups.generation())
      // Not heard of by the outbox: the same comes once more, and more behind it.
      if (next() < 0.3) {
        if (next() < 0.5) {
          await rollups.close()
          rollups = await open()
        }
        const more = all.slice(at, at + batch.length + 20)
        await rollups.count(more, await rollups.generation())
        at += more.length
      } else at += batch.length
    }
    const increments = events.map(incrementOf)
    const untilMs = startMs + 40 * 86_400_000
    for (const [unit, by, series, only] of questions) {
      const fromMs = bucketOf(unit, startMs)
      const end = bucketOf(unit, untilMs)
      const rows = await rollups.usage({ unit, fromMs, untilMs: end, by, series, only, latencies: true, top: null })
      const wanted = recount(increments, unit, by, series, ({ atMs, dimensions }) => atMs >= fromMs && atMs < end && Object.entries(only).every(([dimension, value]) => dimensions[dimension as Dimension] === value))
      const found = rowsOf(rows, by)
      t.ok(found.size > 0 && found.size === rows.length)
      t.same([...found].sort(), [...wanted].sort(), `${unit} by ${by.join(', ')}${series ? ' in buckets' : ''} of ${JSON.stringify(only)}`)
    }
    const top = await rollups.usage({ unit: 'day', fromMs: bucketOf('month', startMs), untilMs: bucketOf('day', untilMs + 86_400_000), by: ['account'], series: false, only: {}, latencies: false, top: { of: 'total_tokens', count: 3 } })
    const each = [...(await rollups.usage({ unit: 'day', fromMs: bucketOf('month', startMs), untilMs: bucketOf('day', untilMs + 86_400_000), by: ['account'], series: false, only: {}, latencies: false, top: null }))]
    t.same(top.map(({ by }) => by.account), each.sort((a, b) => b.counts.total_tokens - a.counts.total_tokens).slice(0, 3).map(({ by }) => by.account))
    t.equal(await rollups.isNew(), true)
    await rollups.complete()
    t.equal(await rollups.isNew(), false)
    await rollups.reset()
    t.equal(await rollups.isNew(), true, 'until it is complete')
    await rollups.countArchived(increments)
    t.same([...rowsOf(await rollups.usage({ unit: 'day', fromMs: bucketOf('month', startMs), untilMs: bucketOf('day', untilMs + 86_400_000), by: ['key'], series: false, only: {}, latencies: true, top: null }), ['key'])].sort(),
      [...recount(increments, 'day', ['key'], false, () => true)].sort(), 'made again from an archive')
    await rollups.close()
  })

  t.test(`${name}: the accounts that have most are those of a recount, whether few have nearly all or all have alike`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    const next = chance(31)
    const [monthMs, dayMs] = [bucketOf('month', startMs), 86_400_000]
    const events = Array.from({ length: 1_600 }, (_each, ordinal): UsageEvent => {
      const event = randomEvent(next, ordinal, 1, 1)
      // In the second month all have about the same, in the first the first ones have most.
      const isFlat = ordinal % 2 === 0
      const account = `of-many-${String(Math.floor(260 * (isFlat ? next() : next() ** 3)))}`
      const time = new Date(monthMs + Math.floor((isFlat ? 30 + next() * 30 : next() * 30) * dayMs)).toISOString()
      return { ...event, subject: account, time, data: { ...event.data, account, key: account, total_tokens: Math.floor(next() * 9_000), cost: '0.000000100' } }
    })
    const all = countedOf(events, positionsOf(events))
    for (let at = 0; at < events.length; at += 200) await rollups.count(all.slice(at, at + 200), await rollups.generation())
    const increments = events.map(incrementOf)
    const spans: readonly (readonly [Unit, number, number])[] = [['day', 2, 30], ['day', 0, 30], ['day', 10, 61], ['day', 33, 34], ['day', 31, 58], ['hour', 2.5, 4.25], ['hour', 1, 2], ['minute', 3.25, 3.75], ['month', 0, 61]]
    for (const [unit, from, until] of spans) {
      for (const [of, series] of [['total_tokens', false], ['requests', false], ['total_tokens', true]] as const) {
        const span = { unit, fromMs: bucketOf(unit, monthMs + from * dayMs), untilMs: bucketOf(unit, monthMs + until * dayMs) }
        const within = increments.filter(({ atMs }) => atMs >= span.fromMs && atMs < span.untilMs)
        const sums = new Map<string, number>()
        for (const { dimensions: { account }, sums: each } of within) sums.set(account, (sums.get(account) ?? 0) + each[SUMS.indexOf(of)]!)
        const wanted = [...sums.values()].sort((a, b) => b - a).slice(0, 7)
        const found = new Map<string, number>()
        for (const { by, counts } of await rollups.usage({ ...span, by: ['account'], series, only: {}, latencies: false, top: { of, count: 7 } })) found.set(by.account!, (found.get(by.account!) ?? 0) + counts[of])
        t.same([...found.values()].sort((a, b) => b - a), wanted, `${of} from day ${from} to ${until} by ${unit}${series ? ' in buckets' : ''}`)
        for (const [account, sum] of found) t.equal(sum, sums.get(account))
      }
    }
    await rollups.close()
  })

  t.test(`${name}: whatever time is asked for, at any moment of the counting`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    const next = chance(97)
    const spanMs = 30 * 3_600_000
    // In the order of time, as they come: the latest are in no longer unit yet.
    const events = Array.from({ length: 600 }, (_each, ordinal) => ({ ...randomEvent(next, ordinal, 4, 1), time: new Date(startMs + Math.floor((ordinal / 600) * spanMs)).toISOString() }))
    const all = countedOf(events, positionsOf(events))
    const kinds: readonly (readonly [readonly Dimension[], Partial<Record<Dimension, string>>])[] = [[[], {}], [['account'], {}], [['model'], {}], [['model'], { account: 'acct-1' }], [['key', 'status'], {}], [[], { account: 'acct-2' }]]
    for (let at = 0; at < events.length; at += 12) {
      await rollups.count(all.slice(at, at + 12), await rollups.generation())
      const counted = events.slice(0, at + 12).map(incrementOf)
      const newestMs = counted.at(-1)!.atMs
      for (const unit of ['minute', 'hour'] as const) {
        const [by, only] = kinds[Math.floor(next() * kinds.length)]!
        const series = next() < 0.3
        const fromMs = bucketOf(unit, newestMs - next() * spanMs)
        // The minute before a full hour as well: the whole hour is asked for, and nothing of it is added up.
        const untilMs = next() < 0.5 ? bucketOf('hour', newestMs) + 3_600_000 : bucketOf(unit, newestMs + 7_200_000)
        const rows = await rollups.usage({ unit, fromMs, untilMs, by, series, only, latencies: true, top: null })
        const wanted = recount(counted, unit, by, series, ({ atMs, dimensions }) => atMs >= fromMs && atMs < untilMs && Object.entries(only).every(([dimension, value]) => dimensions[dimension as Dimension] === value))
        t.same([...rowsOf(rows, by)].sort(), [...wanted].sort(), `${new Date(fromMs).toISOString()} to ${new Date(untilMs).toISOString()} by ${unit} and ${by.join(', ')}${series ? ' in buckets' : ''} of ${JSON.stringify(only)}`)
        if (by.length === 0) continue
        const most = await rollups.usage({ unit, fromMs, untilMs, by, series: false, only, latencies: false, top: { of: 'total_tokens', count: 2 } })
        const sums = [...recount(counted, unit, by, false, ({ atMs, dimensions }) => atMs >= fromMs && atMs < untilMs && Object.entries(only).every(([dimension, value]) => dimensions[dimension as Dimension] === value)).values()]
          .map((text) => Number(/"total_tokens":(-?\d+)/.exec(text)?.[1])).sort((a, b) => b - a)
        t.same(most.map(({ counts }) => counts.total_tokens), sums.slice(0, 2))
      }
    }
    await rollups.close()
  })

  t.test(`${name}: what was read before they were made anew is not counted afterwards`, async (t) => {
    const [slow, other] = [await open(), await open()]
    const events = Array.from({ length: 40 }, (_each, ordinal) => randomEvent(chance(ordinal), ordinal, 3, 86_400_000))
    const all = countedOf(events, positionsOf(events))
    const eventsIn = async (rollups: Rollups): Promise<number> => (await rollups.usage({ unit: 'day', fromMs: 0, untilMs: startMs + 10 * 86_400_000, by: [], series: false, only: {}, latencies: false, top: null }))[0]?.counts.events ?? 0
    const wanted = events.filter(({ data }) => !('corrects' in data)).length
    // A file is one process's.
    for (const who of positionsOf === inOneRow ? [slow] : [slow, other]) {
      await who.reset()
      const before = await slow.generation()
      await slow.count(all.slice(0, 10), before)
      // Another gateway, or somebody who asks for it while a step is under way.
      await who.reset()
      await slow.count(all.slice(10), before).catch((error: unknown) => { if (!(error instanceof StaleFence)) throw error })
      t.not(await slow.generation(), before)
      t.equal(await eventsIn(slow), 0)
      await slow.count(all, await slow.generation())
      t.equal(await eventsIn(slow), wanted)
    }
    await slow.close()
    await other.close()
  })

  t.test(`W5: ${name}: names that callers make up do not make the roll-ups grow`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    const next = chance(3)
    const events = Array.from({ length: 1_500 }, (_each, ordinal) => {
      const event = randomEvent(next, ordinal, 1, 1_000)
      return { ...event, data: { ...event.data, model: `made-up-${ordinal}` } }
    })
    const all = countedOf(events, positionsOf(events))
    for (let at = 0; at < events.length; at += 100) await rollups.count(all.slice(at, at + 100), await rollups.generation())
    const rows = await rollups.usage({ unit: 'day', fromMs: bucketOf('day', startMs), untilMs: bucketOf('day', startMs + 86_400_000), by: ['model'], series: false, only: {}, latencies: false, top: null })
    t.equal(rows.length, 201)
    t.equal(rows.reduce((sum, { counts }) => sum + counts.events, 0), events.filter(({ data }) => !('corrects' in data)).length)
    t.ok((rows.find(({ by }) => by.model === 'other')?.counts.events ?? 0) > 1_000)
    await rollups.close()
  })

  t.test(`${name}: a time in which nothing can be has no rows, and does no harm`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    const events = [randomEvent(chance(5), 0, 1, 1)]
    await rollups.count(countedOf(events, positionsOf(events)), await rollups.generation())
    const at = bucketOf('month', startMs)
    for (const unit of ['minute', 'hour', 'day', 'month'] as const) {
      for (const by of [[], ['account'], ['model'], ['key', 'status']] as const) {
        for (const top of [null, { of: 'requests', count: 2 } as const]) {
          for (const series of [false, true]) {
            t.same(await rollups.usage({ unit, fromMs: at, untilMs: at, by, series, only: {}, latencies: true, top }), [])
            t.same(await rollups.usage({ unit, fromMs: at, untilMs: at - 86_400_000, by, series, only: {}, latencies: true, top }), [])
          }
        }
      }
      t.same(await rollups.refusals({ unit, fromMs: at, untilMs: at, by: ['account'], series: true, only: {} }), [])
    }
    const span = { unit: 'day', fromMs: bucketOf('day', startMs), untilMs: bucketOf('day', startMs) + 86_400_000 } as const
    t.equal((await rollups.usage({ ...span, by: [], series: false, only: {}, latencies: false, top: null })).length, 1)
    await rollups.close()
  })

  t.test(`${name}: money is exact, however much there is of it`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    const events = Array.from({ length: 60 }, (_each, ordinal): UsageEvent => {
      const event = randomEvent(chance(ordinal), ordinal, 2, 1)
      // Twenty days of both accounts; beyond 2⁶³ nanos for each of them, and in every sum.
      return { ...event, time: new Date(startMs + (ordinal % 20) * 86_400_000).toISOString(), data: { ...event.data, corrects: undefined, account: `acct-${ordinal % 2}`, cost: `${ordinal % 7 === 3 ? '-' : ''}9${ordinal}00000000.123456789`, currency: ordinal % 5 === 0 ? 'VND' : 'IDR' } }
    })
    await rollups.count(countedOf(events, positionsOf(events)), await rollups.generation())
    const increments = events.map(incrementOf)
    const [fromMs, untilMs] = [bucketOf('month', startMs), startMs + 40 * 86_400_000]
    for (const unit of ['hour', 'day', 'month'] as const) {
      for (const by of [[], ['account'], ['model'], ['key']] as const) {
        const rows = await rollups.usage({ unit, fromMs, untilMs: bucketOf(unit, untilMs), by, series: false, only: {}, latencies: true, top: null })
        t.same([...rowsOf(rows, by)].sort(), [...recount(increments, unit, by, false, () => true)].sort(), `${unit} by ${by.join()}`)
      }
    }
    const of = (account: string): bigint => increments.filter(({ dimensions }) => dimensions.account === account).reduce((sum, { costNanos }) => sum + costNanos, 0n)
    const [most] = await rollups.usage({ unit: 'day', fromMs, untilMs: bucketOf('day', untilMs), by: ['account'], series: false, only: {}, latencies: false, top: { of: 'cost_nanos', count: 1 } })
    t.equal(most?.by.account, of('acct-0') > of('acct-1') ? 'acct-0' : 'acct-1')
    t.equal(most?.counts.cost_nanos, of('acct-0') > of('acct-1') ? of('acct-0') : of('acct-1'))
    await rollups.close()
  })

  t.test(`${name}: when old buckets are removed, all that is kept longer stays whole, and the accounts that have most are found`, async (t) => {
    const rollups = await open()
    const next = chance(53)
    for (let round = 0; round < 12; round++) {
      await rollups.reset()
      const spanMs = 3 * 86_400_000
      const events = Array.from({ length: 250 }, (_each, ordinal) => ({ ...randomEvent(next, ordinal, 5, 1), time: new Date(startMs + Math.floor((ordinal / 250) * spanMs)).toISOString() }))
      const all = countedOf(events, positionsOf(events))
      for (let at = 0; at < all.length; at += 40) await rollups.count(all.slice(at, at + 40), await rollups.generation())
      // Between two minutes, and with units that are kept equally long.
      const nowMs = startMs + spanMs + Math.floor(next() * 86_400_000)
      const day = 86_400_000
      const minute = Math.floor((0.2 + next() * 2) * day)
      const hour = next() < 0.5 ? minute : minute + Math.floor(next() * day)
      const days = next() < 0.5 ? hour : hour + Math.floor(next() * day)
      const kept = { minute, hour, day: days, month: next() < 0.5 ? days : 3_660 * day }
      await rollups.prune(nowMs, kept)
      const increments = events.map(incrementOf)
      for (const unit of ['minute', 'hour', 'day'] as const) {
        const fromMs = bucketOf(unit, nowMs - kept[unit])
        const untilMs = bucketOf(unit, nowMs + 2 * day)
        for (const by of [[], ['account'], ['key'], ['model']] as const) {
          const wanted = recount(increments, unit, by, false, ({ atMs }) => atMs >= fromMs)
          t.same([...rowsOf(await rollups.usage({ unit, fromMs, untilMs, by, series: false, only: {}, latencies: true, top: null }), by)].sort(), [...wanted].sort(), `round ${round}: by ${unit} and ${by.join()}`)
        }
        const sums = [...recount(increments, unit, ['account'], false, ({ atMs }) => atMs >= fromMs).values()].map((text) => Number(/"total_tokens":(-?\d+)/.exec(text)?.[1])).sort((a, b) => b - a)
        const top = await rollups.usage({ unit, fromMs, untilMs, by: ['account'], series: false, only: {}, latencies: false, top: { of: 'total_tokens', count: 2 } })
        t.same(top.map(({ counts }) => counts.total_tokens), sums.slice(0, 2), `round ${round}: most by ${unit}`)
      }
    }
    await rollups.close()
  })

  t.test(`${name}: refusals are counted, by whatever is asked, within bounds; old buckets go`, async (t) => {
    const rollups = await open()
    await rollups.reset()
    for (let second = 0; second < 120; second++) {
      await rollups.countRefusals([
        { atMs: startMs + second * 1_000, refused: 5, dimensions: { account: 'acct-1', key: 'k', limit: 'rpm', reason: 'rate_limited', model: 'small' } },
        { atMs: startMs + second * 1_000, refused: 1, dimensions: { account: 'acct-2', key: `k${second}`, limit: 'daily', reason: 'usage_limit_reached', model: `m${second}` } },
      ])
    }
    const asked = { unit: 'day', fromMs: bucketOf('day', startMs), untilMs: bucketOf('day', startMs + 86_400_000), series: false, only: {} } as const
    t.same((await rollups.refusals({ ...asked, by: ['account', 'reason'] })).map(({ by, refused }) => [by.account, by.reason, refused]), [['acct-1', 'rate_limited', 600], ['acct-2', 'usage_limit_reached', 120]])
    t.same((await rollups.refusals({ ...asked, by: [], only: { limit: 'daily' } })).map(({ refused }) => refused), [120])
    t.same((await rollups.refusals({ ...asked, by: [], only: { limit: 'none such' } })), [])
    t.equal((await rollups.refusals({ ...asked, unit: 'minute', by: ['account'], series: true, only: { account: 'acct-1' } })).length, 3)
    await rollups.prune(startMs + 86_400_000, { minute: 3_600_000, hour: 86_400_000 * 2, day: 86_400_000 * 10, month: 86_400_000 * 100 })
    t.same(await rollups.refusals({ ...asked, unit: 'minute', by: [] }), [])
    t.equal((await rollups.refusals({ ...asked, unit: 'hour', by: [] }))[0]?.refused, 720)
    await rollups.close()
  })
}
