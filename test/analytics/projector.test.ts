// test: timeout 180 s
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { openLocalRollups } from '../../src/analytics/local-rollups.ts'
import { Projector, ROLLUPS } from '../../src/analytics/projector.ts'
import type { ProjectorParts } from '../../src/analytics/projector.ts'
import { bucketOf } from '../../src/analytics/rollups.ts'
import type { Rollups } from '../../src/analytics/rollups.ts'
import { Archive } from '../../src/archive/archive.ts'
import type { ArchivedEvent } from '../../src/archive/archive.ts'
import { ARCHIVE } from '../../src/archive/history.ts'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { toUsageEvent } from '../../src/metering/event.ts'
import type { UsageEvent } from '../../src/metering/event.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import type { Outbox, Store } from '../../src/stores/store.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import { tmpDir } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { check, eventBody, FORGET_AFTER_MS, newId, settleOf } from '../stores/sample-moves.ts'

const kept = { minute: 1e12, hour: 1e12, day: 1e12, month: 1e12 }
const nowMs = Date.now()

async function openStore(t: Test): Promise<Store> {
  const store = await openMemory({ clock: systemClock, forgetAfterMs: FORGET_AFTER_MS, hotMs: 86_400_000 })
  t.teardown(() => store.close())
  return store
}

async function settle(store: Pick<Store, 'settle'>, count: number, model = 'small'): Promise<void> {
  await Promise.all(Array.from({ length: count }, () => store.settle({ ...settleOf(newId(nowMs), nowMs, 'acme', [check('tokens', null, 1)], [5]), event: { ...eventBody, model, settled_at: new Date().toISOString() } })))
}

async function counted(rollups: Rollups, model?: string): Promise<number> {
  const day = bucketOf('day', nowMs)
  const [row] = await rollups.usage({ unit: 'day', fromMs: day, untilMs: day + 86_400_000, by: [], series: false, only: model === undefined ? {} : { model }, latencies: false, top: null })
  return row?.counts.events ?? 0
}

async function* eventsOf(archived: AsyncIterable<ArchivedEvent>): AsyncGenerator<UsageEvent> {
  for await (const { event } of archived) yield event
}

interface Told { readonly what: string; readonly fields: object }

function project(t: Test, outbox: Outbox, rollups: () => Promise<Rollups>, more: Partial<ProjectorParts> = {}): Projector & { readonly told: Told[]; readonly held: boolean[]; readonly failures: unknown[] } {
  const told: Told[] = []
  const held: boolean[] = []
  const failures: unknown[] = []
  const projector = new Projector({
    outbox, rollups, clock: systemClock, holder: 'me', kept: () => kept, archive: () => null, holdEvents: () => 200_000, holds: (holding) => held.push(holding), tell: (what, fields) => told.push({ what, fields }),
    failed: (error) => failures.push(error), ...more,
  })
  t.teardown(() => projector.stop())
  return Object.assign(projector, { told, held, failures })
}

/** An outbox some of whose steps fail. */
function failing(outbox: Outbox, steps: Partial<Outbox>): Outbox {
  return new Proxy(outbox, {
    get: (target, name) => {
      const step = (steps as Record<string | symbol, unknown>)[name] ?? (target as unknown as Record<string | symbol, unknown>)[name]
      return typeof step === 'function' ? step.bind(target) as unknown : step
    },
  })
}

/** An archive as its sink writes it, of what the consumer `archive` has been given. */
function archiveIn(dir: string): { readonly path: string; write(store: Store, count: number): Promise<void>; readonly parts: NonNullable<ReturnType<ProjectorParts['archive']>> } {
  mkdirSync(dir, { recursive: true })
  const path = join(dir, 'events.ndjson')
  return {
    path,
    async write({ outbox }, count) {
      const fence = (await outbox.lease(ARCHIVE, 'sink', Date.now(), Date.now() + 60_000))!
      const entries = await outbox.read(fence, count)
      writeFileSync(path, entries.map(({ record }) => `${JSON.stringify(toUsageEvent(record))}\n`).join(''), { flag: 'a' })
      await outbox.advance(fence, entries)
      await outbox.release(fence)
    },
    parts: {
      consumer: ARCHIVE,
      async snapshot() {
        const archive = new Archive(path, silentLog)
        const until = await archive.end()
        return eventsOf(archive.read({ sinceMs: 0, ...(until === null ? {} : { until }) }))
      },
    },
  }
}

t.test('what is settled is in the roll-ups within two seconds, and is done in the outbox', async (t) => {
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS])
  const rollups = await openLocalRollups(':memory:')
  t.teardown(() => rollups.close())
  project(t, store.outbox, async () => rollups).start()
  await settle(store, 3)
  await waitFor('the first', async () => await counted(rollups) === 3)
  for (let round = 0; round < 3; round++) {
    await systemClock.sleep(round * 300)
    const startMs = performance.now()
    const before = await counted(rollups)
    await settle(store, 20)
    await waitFor('the next', async () => await counted(rollups) === before + 20)
    const ms = performance.now() - startMs
    t.ok(ms < 2_000, `${Math.round(ms)} ms`)
  }
  await waitFor('done', async () => (await store.outbox.lag(ROLLUPS)).count === 0)
})

t.test('a step that counted and could not say so is not counted again', async (t) => {
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS])
  const path = join(tmpDir(t), 'analytics.db')
  let rollups = await openLocalRollups(path)
  await rollups.complete()
  await settle(store, 50)
  let refusals = 0
  const outbox = failing(store.outbox, {
    advance() {
      refusals += 1
      return Promise.reject(new StoreUnavailable('the process dies here'))
    },
  })
  const first = project(t, outbox, async () => rollups)
  first.start()
  await waitFor('counted and not done', () => refusals >= 2)
  await first.stop()
  await rollups.close()
  rollups = await openLocalRollups(path)
  t.teardown(() => rollups.close())
  t.equal(await counted(rollups), 50)
  await settle(store, 7)
  project(t, store.outbox, async () => rollups).start()
  await waitFor('all', async () => await counted(rollups) === 57)
  await systemClock.sleep(1_500)
  t.equal(await counted(rollups), 57)
})

t.test('made again from archive and store: each event once, on both sides of where the archive stands, also when it is cut short', async (t) => {
  const dir = tmpDir(t)
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS, ARCHIVE])
  const archive = archiveIn(join(dir, 'archive'))
  await settle(store, 300)
  await archive.write(store, 200)
  // Written, and not done: what a sink leaves that is killed there.
  const fence = (await store.outbox.lease(ARCHIVE, 'sink', Date.now(), Date.now() + 60_000))!
  const torn = await store.outbox.read(fence, 30)
  writeFileSync(archive.path, torn.map(({ record }) => `${JSON.stringify(toUsageEvent(record))}\n`).join(''), { flag: 'a' })
  await store.outbox.release(fence)

  const rollups = await openLocalRollups(join(dir, 'analytics.db'))
  t.teardown(() => rollups.close())
  let cut = 0
  const broken: Rollups = new Proxy(rollups, {
    get: (target, name) => {
      if (name === 'countArchived' && cut++ < 1) {
        return async (batch: Parameters<Rollups['countArchived']>[0]) => {
          await target.countArchived(batch.slice(0, 77))
          throw new StoreUnavailable('the disk is full')
        }
      }
      const value = (target as unknown as Record<string | symbol, unknown>)[name]
      return typeof value === 'function' ? value.bind(target) as unknown : value
    },
  })
  const projector = project(t, store.outbox, async () => broken, { archive: () => archive.parts })
  projector.start()
  // Calls go on meanwhile, and the archive's sink.
  for (let i = 0; i < 10; i++) {
    await settle(store, 10)
    await archive.write(store, 5).catch(() => undefined)
    await systemClock.sleep(20)
  }
  await waitFor('all of them', async () => await counted(rollups) === 400, { deadlineMs: 20_000 })
  t.ok(cut >= 2, 'it was cut short')
  t.equal(await rollups.isNew(), false)
  for (let round = 0; round < 3; round++) {
    const made = projector.rebuild()
    const more = settle(store, 25)
    await archive.write(store, 1_000).catch(() => undefined)
    t.ok(await made >= 200)
    await more
    await waitFor(`all after round ${round}`, async () => await counted(rollups) === 425 + round * 25, { deadlineMs: 20_000 })
  }
  await systemClock.sleep(1_500)
  t.equal(await counted(rollups), 475)
  t.ok(readFileSync(archive.path, 'utf8').split('\n').length > 200)
  t.ok(projector.told.some(({ what }) => what === 'rebuilt'))
})

t.test('a rebuild that fails half-way is told, is not taken for whole, and is done again by itself', async (t) => {
  const dir = tmpDir(t)
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS, ARCHIVE])
  const archive = archiveIn(join(dir, 'archive'))
  const rollups = await openLocalRollups(join(dir, 'analytics.db'))
  t.teardown(() => rollups.close())
  let isAway = false
  const parts = { ...archive.parts, snapshot: () => (isAway ? Promise.reject(new StoreUnavailable('the archive cannot be read')) : archive.parts.snapshot()) }
  const projector = project(t, store.outbox, async () => rollups, { archive: () => parts })
  projector.start()
  await settle(store, 30)
  await archive.write(store, 20)
  await waitFor('all of them', async () => await counted(rollups) === 30)
  t.equal(await rollups.isNew(), false)
  isAway = true
  await t.rejects(projector.rebuild(), { message: 'the archive cannot be read' })
  for (let n = 0; n < 4; n++) {
    await settle(store, 2)
    await systemClock.sleep(300)
    t.equal(await rollups.isNew(), true, 'what is left does not pass for whole')
    t.equal(projector.state.failure, 'the archive cannot be read')
  }
  t.ok(projector.failures.length > 0, 'and the log has heard of it')
  isAway = false
  await waitFor('all again', async () => await counted(rollups) === 38, { deadlineMs: 20_000 })
  t.equal(await rollups.isNew(), false)
  await waitFor('well again', () => projector.state.failure === null)
})

t.test('roll-ups that are broken for long hold back trimming no more, until they have caught up again', async (t) => {
  const dir = tmpDir(t)
  const store = await openStore(t)
  const archive = archiveIn(join(dir, 'archive'))
  await store.outbox.setConsumers([ROLLUPS, ARCHIVE])
  const rollups = await openLocalRollups(join(dir, 'analytics.db'))
  t.teardown(() => rollups.close())
  let isBroken = false
  const projector = project(t, store.outbox, async () => {
    if (isBroken) throw new StoreUnavailable('the disk is full')
    return rollups
  }, { archive: () => archive.parts })
  projector.start()
  await settle(store, 10, 'before')
  await waitFor('the first', async () => await counted(rollups) === 10)
  isBroken = true
  await settle(store, 40, 'meanwhile')
  await archive.write(store, 1_000)
  await waitFor('it fails', () => projector.state.failure !== null)
  await projector.lookAtHold()
  t.same(projector.held, [], 'for a while they are waited for')
  const lag = store.outbox.lag.bind(store.outbox)
  store.outbox.lag = async (consumer) => ({ ...await lag(consumer), ...(consumer === ROLLUPS ? { oldestMs: Date.now() - 2 * 86_400_000 } : {}) })
  await projector.lookAtHold()
  t.same(projector.held, [false])
  store.outbox.lag = lag
  // What the application does then, and the store after a day.
  await store.outbox.setConsumers([ARCHIVE])
  const journal = (store as unknown as { outbox: { doneThrough(): number } }).outbox
  t.equal(journal.doneThrough(), 50, 'all of them may go')
  isBroken = false
  await waitFor('all again', async () => await counted(rollups) === 50, { deadlineMs: 20_000 })
  await projector.lookAtHold()
  t.same(projector.held, [false, true])
})

t.test('what was removed before it was counted is told, and made again from the archive', async (t) => {
  const dir = tmpDir(t)
  const store = await openStore(t)
  const archive = archiveIn(join(dir, 'archive'))
  await store.outbox.setConsumers([ROLLUPS, ARCHIVE])
  const rollups = await openLocalRollups(':memory:')
  t.teardown(() => rollups.close())
  await rollups.complete()
  await settle(store, 30)
  await archive.write(store, 1_000)
  let missed = 0
  const outbox = failing(store.outbox, { gaps: () => (missed === 0 ? [] : [{ consumer: ROLLUPS, events: missed }]) })
  const projector = project(t, outbox, async () => rollups, { archive: () => archive.parts })
  // The first thirty were trimmed, as it were.
  const fence = (await store.outbox.lease(ROLLUPS, 'gone', Date.now(), Date.now() + 60_000))!
  await store.outbox.advance(fence, await store.outbox.read(fence, 30))
  await store.outbox.release(fence)
  missed = 30
  await settle(store, 5)
  projector.start()
  await waitFor('the gap is filled', async () => await counted(rollups) === 35, { deadlineMs: 20_000 })
  t.match(projector.told, [{ what: 'missed', fields: { events: 30, made_again: true } }, { what: 'rebuilt' }])
  t.equal(projector.state.missed, 0, 'nothing is missing any more')
})

t.test('asked for while a step is under way, they are made of each event once', async (t) => {
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS])
  const rollups = await openLocalRollups(':memory:')
  t.teardown(() => rollups.close())
  await rollups.complete()
  await settle(store, 40)
  let made: Promise<number> | null = null
  const outbox = failing(store.outbox, {
    async read(fence, count) {
      const entries = await store.outbox.read(fence, count)
      // What this step has read is counted after the roll-ups were begun anew.
      if (made === null && entries.length > 0) {
        const { generation } = rollups
        const before = await generation.call(rollups)
        made = projector.rebuild()
        await waitFor('begun anew', async () => await generation.call(rollups) !== before)
      }
      return entries
    },
  })
  const projector = project(t, outbox, async () => rollups)
  projector.start()
  await waitFor('the first step', () => made !== null)
  await made
  await settle(store, 2_000)
  await waitFor('all', async () => await counted(rollups) >= 2_040)
  await systemClock.sleep(1_500)
  t.equal(await counted(rollups), 2_040)
})

t.test('what is appended just when there was nothing to be read is not left until the next look', async (t) => {
  const store = await openStore(t)
  await store.outbox.setConsumers([ROLLUPS])
  const rollups = await openLocalRollups(':memory:')
  t.teardown(() => rollups.close())
  await rollups.complete()
  let meanwhile = false
  const outbox = failing(store.outbox, {
    async read(fence, count) {
      const entries = await store.outbox.read(fence, count)
      if (!meanwhile) await settle(store, 1)
      meanwhile = true
      return entries
    },
  })
  project(t, outbox, async () => rollups).start()
  await waitFor('it', async () => await counted(rollups) === 1, { deadlineMs: 2_000 })
  t.ok(meanwhile)
})
