// What was settled before a sink was told in another way, and what was taken back since, is neither missing nor sent once more.

import t from 'tap'
import { textOf, unitsOf } from '../../src/reconciliation/amount.ts'
import { noteTelling, tellingKind } from '../../src/reconciliation/telling.ts'
import type { SinkRecord } from '../../src/sinks/sink.ts'
import { flexpriceDialect } from './kit/dialects/flexprice.ts'
import { lagoPostgres } from './kit/dialects/lago.ts'
import { orbDialect } from './kit/dialects/orb.ts'
import { stripeV1 } from './kit/dialects/stripe.ts'
import { webhookBatched } from './kit/dialects/webhook.ts'
import { byWhy, sceneName, sceneOf, type Scene } from './reconcile-scene.ts'
import { rulesOf } from './sample-events.ts'

const hourMs = 3_600_000
const customers = { acme: 'cus_acme', globex: 'cus_globex' }

const sumOf = (records: readonly SinkRecord[]): string => textOf(records.reduce((sum, record) => (record.is === 'meter' ? sum + unitsOf(record.value) : sum), 0n))
const booked = ({ fake }: Scene): string => textOf(fake.books.bookings().reduce((sum, { received, copies }) => sum + BigInt(copies) * unitsOf(received.value), 0n))

async function told(scene: Scene, count = 6): Promise<SinkRecord[]> {
  const records: SinkRecord[] = []
  for (let n = 0; n < count; n++) records.push(...await scene.settle({ agoMs: 8 * hourMs - n * 600_000 }))
  await scene.deliver()
  return records
}

for (const dialect of [lagoPostgres, flexpriceDialect, stripeV1, orbDialect]) {
  t.test(`${dialect.name}: a credit note is not taken back`, async (t) => {
    const scene = await sceneOf(t, dialect)
    await told(scene)
    const before = booked(scene)
    t.equal(await scene.credit(), 'sent')
    const credited = booked(scene)
    t.not(credited, before)
    scene.nowMs += 30 * hourMs
    const applied = await scene.apply()
    t.match(applied, { differences: [], noted: [], unexplained: 0, notes: ['credited: 1 event was taken back; that is taken off what is ours'] })
    t.equal(textOf(applied.rows.reduce((sum, { ours }) => sum + unitsOf(ours), 0n)), credited)
    t.equal(booked(scene), credited)

    // As it was written down before its records were kept.
    const [document] = await scene.store.records.list('credit')
    await scene.store.records.put('credit', document?.id ?? '', { at_ms: scene.nowMs, done: true })
    t.match(await scene.compare(), { differences: [], unexplained: 0 })
  })
}

t.test('a credit note that had no answer is neither missing nor doubled', async (t) => {
  for (const dialect of [lagoPostgres, stripeV1]) {
    for (const arrived of [true, false]) {
      const scene = await sceneOf(t, dialect)
      await told(scene)
      await scene.credit()
      const [document] = await scene.store.records.list('credit')
      await scene.store.records.put('credit', document?.id ?? '', { ...document?.value, done: false })
      if (!arrived) for (const record of (document?.value['records'] ?? []) as SinkRecord[]) scene.fake.books.plantLoss(record.id)
      scene.nowMs += 30 * hourMs
      const applied = await scene.apply()
      t.match(applied, { noted: [], unexplained: 0 }, `${dialect.name}, ${arrived ? 'booked' : 'not booked'}`)
      t.same(Object.keys(byWhy(applied)).filter((why) => why !== 'late'), [])
    }
  }
})

t.test('what is taken back while totals are told is not taken for lost', async (t) => {
  let meanwhile: () => void = () => {}
  const scene = await sceneOf(t, {
    ...stripeV1,
    ask: (call, books) => {
      meanwhile()
      return stripeV1.ask?.(call, books) ?? null
    },
  })
  await told(scene)
  await scene.credit()
  const [document] = await scene.store.records.list('credit')
  const { records } = scene.store
  const taken = scene.fake.books.bookings().filter(({ received }) => received.value.startsWith('-')).map(({ received }) => received)
  t.ok(taken.length > 0)
  await records.delete('credit', document?.id ?? '')
  for (const { id } of taken) scene.fake.books.plantLoss(id)
  meanwhile = () => {
    meanwhile = () => {}
    for (const each of taken) scene.fake.books.book(each, 'forever', scene.nowMs)
    void records.put('credit', document?.id ?? '', document?.value ?? {})
  }
  t.match(await scene.compare(), { differences: [], unexplained: 0 })
})

for (const dialect of [lagoPostgres, orbDialect, flexpriceDialect]) {
  t.test(`${dialect.name}: sums until now, single events from now on`, async (t) => {
    const scene = await sceneOf(t, dialect, { mapping: { rollup: 'hour' } })
    const records = await told(scene)
    scene.tellOtherwise({ rollup: null })
    t.match(await scene.apply(), { noted: [], unexplained: 0 }, 'nobody has delivered in the new way yet')
    scene.nowMs += 5_000
    await scene.deliver()
    scene.nowMs += hourMs
    const later = await scene.settle({ agoMs: 600_000 })
    await scene.deliver()
    scene.nowMs += 3 * hourMs
    const applied = await scene.apply()
    t.match(applied, { differences: [], noted: [], unexplained: 0 })
    t.equal(booked(scene), sumOf([...records, ...later]))
    const totals = dialect !== orbDialect
    t.equal(applied.notes.some((note) => /^settled under other settings until 2026-11-22T10:31:00.000Z; not compared: acme /.test(note)), !totals)
    t.equal(textOf(applied.rows.reduce((sum, { ours }) => sum + unitsOf(ours), 0n)), sumOf(totals ? [...records, ...later] : later), 'rows have what was compared')

    const lost = later[0]?.id ?? ''
    scene.fake.books.plantLoss(lost)
    t.match((await scene.compare()).differences, [{ why: 'missing', record: lost, proposal: { is: 'send' } }], 'what was settled since is looked at as ever')
  })
}

t.test('a loss from before is seen in the total, and nothing is made up for it', async (t) => {
  const scene = await sceneOf(t, lagoPostgres, { mapping: { rollup: 'hour' } })
  await told(scene)
  scene.tellOtherwise({ rollup: null })
  scene.nowMs += hourMs
  await scene.deliver()
  const [sum] = scene.fake.books.bookings()
  scene.fake.books.plantLoss(sum?.received.id ?? '')
  t.match(await scene.apply(), { differences: [{ why: 'unexplained', amount: `-${sum?.received.value ?? ''}`, proposal: { is: 'none', because: /under other settings/ } }], noted: [] })
})

t.test('where nobody has written down how it was told, totals that agree say enough', async (t) => {
  const scene = await sceneOf(t, lagoPostgres, { mapping: { rollup: 'hour' } })
  const records = await told(scene)
  await scene.store.records.delete(tellingKind, sceneName)
  scene.tellOtherwise({ rollup: null })
  scene.nowMs += 30 * hourMs
  const applied = await scene.apply()
  t.match(applied, { differences: [], noted: [], unexplained: 0, notes: [/^6 records of acme .* are not known there by their ids, but its total has the amount$/, /./] })
  t.equal(booked(scene), sumOf(records))
  // One hour is gone: which of them it was is not known.
  const [sum] = scene.fake.books.bookings()
  scene.fake.books.plantLoss(sum?.received.id ?? '')
  const less = await scene.apply()
  t.same(less.noted, [])
})

t.test('a renamed code, another customer, other ids: nothing is billed once more', async (t) => {
  const meters = rulesOf([{ code: 'tok', quantity: 'input_tokens' }])
  const rows: readonly [about: string, change: (scene: Scene) => void, notes: RegExp[]][] = [
    ['a code', (scene) => scene.tellOtherwise({ meters: rulesOf([{ code: 'tokens', quantity: 'input_tokens' }]) }), [/not compared: acme tokens \(\d+\)$/]],
    ['a quantity', (scene) => scene.tellOtherwise({ meters: rulesOf([{ code: 'tok', quantity: 'output_tokens' }]) }), [/not compared: acme tok \(\d+\)$/]],
    ['a customer', (scene) => scene.tellOtherwise({ customers: { ...customers, acme: 'cus_new' } }), [/not compared: acme tok \(\d+\)$/]],
    ['a customer that is named no longer', (scene) => scene.tellOtherwise({ customers: { globex: 'cus_globex' } }), [/not compared: acme tok \(\d+\)$/]],
    ['the receiver', (scene) => scene.tellOtherwise({}, { store: 'clickhouse' }), []],
    ['names of records', (scene) => scene.tellOtherwise({ meters: meters.map((rule) => ({ ...rule, name: 'other' })) }), []],
    ['another customer', (scene) => scene.tellOtherwise({ customers: { ...customers, initech: 'cus_initech' } }), []],
  ]
  for (const dialect of [lagoPostgres, orbDialect]) {
    for (const [about, change, notes] of rows) {
      const scene = await sceneOf(t, dialect, { mapping: { meters } })
      const records = await told(scene)
      change(scene)
      scene.nowMs += 10_000
      await noteTelling(scene.store.records, scene.config, scene.nowMs)
      scene.nowMs += 30 * hourMs
      const applied = await scene.apply()
      t.match(applied, { differences: [], noted: [], unexplained: 0, ...(dialect === lagoPostgres ? { notes } : {}) }, `${dialect.name}: ${about}`)
      t.equal(booked(scene), sumOf(records))
    }
  }
})

t.test('a gateway writes down how it tells before it delivers', async (t) => {
  const scene = await sceneOf(t, lagoPostgres, { mapping: { rollup: 'hour' } })
  const parts = async (): Promise<unknown> => (await scene.store.records.get(tellingKind, sceneName))?.['parts']
  await scene.withDeliveries((deliveries, config) => deliveries.use(config))
  t.match(await parts(), { ids: { since_ms: 0 }, events: { since_ms: 0 }, 'customer acme': { since_ms: 0 } })
  scene.nowMs += hourMs
  scene.tellOtherwise({ rollup: null })
  await scene.withDeliveries((deliveries, config) => deliveries.use(config))
  t.match(await parts(), { ids: { since_ms: scene.nowMs }, events: { since_ms: 0 } })
  const silent = await sceneOf(t, webhookBatched)
  await silent.withDeliveries((deliveries, config) => deliveries.use(config))
  t.same(await silent.store.records.list(tellingKind), [], 'of a receiver that cannot be asked nobody asks')
})

t.test('the same settings hold on, and a part that changes touches no other', async (t) => {
  const scene = await sceneOf(t, lagoPostgres)
  const since = async (): Promise<Record<string, number>> => {
    await noteTelling(scene.store.records, scene.config, scene.nowMs)
    const { parts } = await scene.store.records.get(tellingKind, sceneName) as { parts: Record<string, { since_ms: number }> }
    return Object.fromEntries(Object.entries(parts).map(([name, { since_ms: ms }]) => [name, ms]))
  }
  const first = await since()
  t.ok(Object.values(first).every((ms) => ms === 0), 'of what was before nothing is known')
  scene.nowMs += hourMs
  scene.tellOtherwise({ customers: { globex: 'cus_globex', acme: 'cus_acme' } }, { api_key: 'lago_other' })
  t.same(await since(), first, 'keys, and the order of entries, decide nothing')
  const atMs = scene.nowMs
  scene.tellOtherwise({ customers: { ...customers, initech: 'cus_3' } })
  t.same(await since(), { ...first, 'customer initech': atMs })
  scene.nowMs += hourMs
  scene.tellOtherwise({ rollup: 'minute' })
  t.same(await since(), { ...first, 'customer initech': atMs, ids: scene.nowMs })
})
