// What was lost, doubled and late is found at receivers of every kind that can be asked, called by its name, and put right once.

import t, { type Test } from 'tap'
import { textOf, unitsOf } from '../../src/reconciliation/amount.ts'
import type { Reconciliation } from '../../src/reconciliation/reconcile.ts'
import type { MeterRecord, SinkRecord } from '../../src/sinks/sink.ts'
import type { Books } from './kit/books.ts'
import type { Dialect } from './kit/dialect.ts'
import { clickhouseDialect } from './kit/dialects/clickhouse.ts'
import { flexpriceDialect } from './kit/dialects/flexprice.ts'
import { lagoClickhouse, lagoPostgres } from './kit/dialects/lago.ts'
import { metronomeDialect } from './kit/dialects/metronome.ts'
import { openmeterV1, openmeterV3 } from './kit/dialects/openmeter.ts'
import { orbDialect } from './kit/dialects/orb.ts'
import { polarDialect } from './kit/dialects/polar.ts'
import { stripeStream, stripeV1 } from './kit/dialects/stripe.ts'
import { webhookBatched } from './kit/dialects/webhook.ts'
import { rulesOf } from './sample-events.ts'
import { byWhy, sceneName, sceneOf, type Scene } from './reconcile-scene.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs

const first = (records: readonly SinkRecord[]): MeterRecord => {
  const [record] = records
  if (record?.is !== 'meter') throw new Error('no record of a meter')
  return record
}

/** Of a code that is nobody else's, and with nothing that is copied: a sum of it can be made again. */
const oneMeter = rulesOf([{ code: 'token-billing-tokens', quantity: 'total_tokens', fixed: { region: 'eu' } }])

/** Rows say what the books say, and their parts add up. */
function adds(t: Test, scene: Scene, result: Reconciliation): void {
  for (const { code, customer, ours, theirs, difference, late, refused, quarantined, missing, doubled, unexplained } of result.rows) {
    if (theirs === null || customer === null) continue
    const parts = [late, refused, quarantined, missing, doubled, unexplained].reduce((sum, part) => sum + unitsOf(part), 0n)
    if (textOf(parts) !== difference || unitsOf(theirs) - unitsOf(ours) !== parts) t.fail(`${customer} ${code}: the parts do not add up to ${String(difference)}`)
    if (scene.config.mapping !== null) t.equal(unitsOf(theirs), unitsOf(scene.fake.books.total({ code, customer })), `${customer} ${code} as the books have it`)
  }
}

const receivers: readonly { readonly dialect: Dialect; readonly asked: Reconciliation['asked']; readonly settings?: object }[] = [
  { dialect: lagoPostgres, asked: 'totals and records' },
  { dialect: lagoClickhouse, asked: 'totals and records' },
  { dialect: openmeterV1, asked: 'totals and records' },
  { dialect: openmeterV3, asked: 'records' },
  { dialect: flexpriceDialect, asked: 'totals and records' },
  { dialect: polarDialect, asked: 'totals and records' },
  { dialect: orbDialect, asked: 'records' },
  { dialect: metronomeDialect, asked: 'records' },
  { dialect: stripeV1, asked: 'totals' },
  { dialect: stripeStream, asked: 'totals' },
]

for (const { dialect, asked } of receivers) {
  t.test(`${dialect.name}: a lost record, a doubled and a late one are told apart, and put right once`, async (t) => {
    const scene = await sceneOf(t, dialect)
    const { fake } = scene
    const told: SinkRecord[][] = []
    for (let n = 0; n < 12; n++) told.push([...await scene.settle({ account: n % 3 === 0 ? 'globex' : 'acme', agoMs: 3 * hourMs + n * 7_000 })])
    await scene.deliver()
    const well = await scene.compare()
    t.match(well, { asked, differences: [], unexplained: 0, notes: [] }, 'before, all is well')
    adds(t, scene, well)

    const [lost, doubled] = [first(told[4] ?? []), first(told[8] ?? [])]
    const late = await scene.settle({ agoMs: 2 * hourMs })
    fake.books.plantLoss(lost.id)
    fake.books.plantDouble(doubled.id)
    const found = await scene.compare()
    adds(t, scene, found)
    t.match(byWhy(found), { missing: [lost.id], doubled: [doubled.id] })
    t.same([...new Set(found.differences.map(({ why }) => why))].sort(), ['doubled', 'late', 'missing'], 'and nothing else')
    t.equal(found.differences.filter(({ why }) => why === 'late').reduce((sum, { records }) => sum + records, 0), late.length)
    t.equal(found.unexplained, 2, 'what is late is explained by our books')
    const of = (why: string) => found.differences.find((difference) => difference.why === why)
    t.match(of('missing'), { amount: `-${lost.value}`, account: 'acme', proposal: { is: 'send', record: { id: lost.id, value: lost.value, timeMs: lost.timeMs } } }, 'the same record once more')
    t.match(of('doubled'), { amount: doubled.value })

    // What is taken back has an id of its own, and waits until the receiver surely shows what it has.
    scene.nowMs += 2 * hourMs
    const applied = await scene.apply()
    t.match(applied.differences.filter(({ why }) => why !== 'late').map(({ outcome }) => outcome), ['sent', 'sent'])
    t.equal(applied.unexplained, 0)
    t.same(applied.noted.map(({ why }) => why).sort(), ['doubled', 'missing'], 'each was written down before')
    for (const { code, customer } of [lost, doubled]) {
      const right = told.flat().reduce((sum, record) => (record.is === 'meter' && record.code === code && record.customer === customer ? sum + unitsOf(record.value) : sum), 0n)
      t.equal(unitsOf(fake.books.total({ code, customer })), right, `${code} of ${customer} is right`)
    }
    const requests = fake.books.size
    const again = await scene.apply()
    t.same([again.noted, again.unexplained, fake.books.size], [[], 0, requests], 'nothing is left to send')
    adds(t, scene, again)
    await scene.deliver()
    t.match(await scene.compare(), { differences: [], unexplained: 0 }, 'the late one has come')
  })
}

t.test('a table of events is asked for each of them', async (t) => {
  let books: Books | null = null
  const scene = await sceneOf(t, clickhouseDialect(() => books))
  books = scene.fake.books
  const told: SinkRecord[][] = []
  for (let n = 0; n < 5; n++) told.push([...await scene.settle({ agoMs: 3 * hourMs + n * 60_000 })])
  await scene.deliver()
  t.match(await scene.compare(), { asked: 'records', differences: [], rows: [{ ours: '5', theirs: '5' }] })
  const id = told[2]?.[0]?.id ?? ''
  scene.fake.books.plantLoss(id)
  t.match(await scene.compare(), { differences: [{ why: 'missing', record: id, amount: '-1' }], rows: [{ ours: '5', theirs: '4', missing: '-1' }], unexplained: 1 })
  t.match(await scene.apply(), { differences: [{ outcome: 'sent' }], unexplained: 0 })
  t.match(await scene.compare(), { differences: [], rows: [{ theirs: '5' }] })
})

t.test('what is booked between the total and the look at single records is on its way, not missing', async (t) => {
  let behind = 0n
  // The total of a moment ago.
  const earlier: Dialect = {
    ...flexpriceDialect,
    ask: (call, books) => {
      const answer = flexpriceDialect.ask?.(call, books) ?? null
      if (answer === null || !call.path.endsWith('/usage')) return answer
      const told = JSON.parse(String(answer.body)) as { value: number; event_name: string }
      return { ...answer, body: JSON.stringify({ ...told, value: told.value - (told.event_name === 'llm_input_tokens' ? Number(textOf(behind)) : 0) }) }
    },
  }
  const scene = await sceneOf(t, earlier)
  for (let n = 0; n < 4; n++) await scene.settle({ usage: { requests: 1, input_tokens: 700, total_tokens: 700 } })
  const last = first(await scene.settle({ usage: { requests: 1, input_tokens: 700, total_tokens: 700 }, agoMs: 1_000, settledAgoMs: 500 }))
  await scene.deliver()
  t.match(await scene.compare(), { rows: [{ ours: '3500', theirs: '3500', late: '0' }], differences: [], unexplained: 0 })
  behind = unitsOf(last.value)
  const result = await scene.compare()
  t.match(result, { rows: [{ ours: '3500', theirs: '2800', late: '-700', missing: '0' }], unexplained: 0 })
  t.same(Object.keys(byWhy(result)), ['late'])
  behind *= 2n
  t.match(await scene.compare(), { rows: [{ theirs: '2100', late: '0', missing: '-1400' }], unexplained: 2 }, 'one that lacks more is still seen')
})

t.test('a receiver that cannot be asked: what is known here', async (t) => {
  const scene = await sceneOf(t, webhookBatched)
  await scene.settle()
  const bad = await scene.settle()
  scene.fake.judge = ({ id }) => (id === bad[0]?.id ? 'no_such_account' : null)
  await scene.deliver()
  await scene.settle()
  t.match(await scene.compare(), {
    asked: 'nothing', unexplained: 0, rows: [{ accounts: ['acme'], code: 'event', records: 3, ours: '3', theirs: null, difference: null, late: '-1', refused: '-1' }],
    differences: [{ why: 'refused', record: bad[0]?.id, reason: 'no_such_account' }, { why: 'late', records: 1 }],
  })
})

t.test('what is dead says why: refused with its code, never sent, or out of the receiver\'s time', async (t) => {
  const scene = await sceneOf(t, stripeV1)
  const good = first(await scene.settle({ agoMs: 36 * dayMs, settledAgoMs: 3 * hourMs }))
  t.equal(good.customer, 'cus_acme')
  const refused = first(await scene.settle())
  const nobody = await scene.settle({ account: 'initech' })
  t.same(nobody, [], 'nobody has said who that is there')
  scene.fake.judge = ({ id }) => (id === refused.id ? 'meter_event_customer_not_found' : null)
  await scene.deliver()
  const found = await scene.compare({ period: [Date.parse('2026-10-01'), Date.parse('2026-12-01')] })
  t.same([...new Set(found.differences.map(({ why }) => why))].sort(), ['buried', 'outside', 'refused'])
  const of = (record: string) => found.differences.find((difference) => difference.record === record)
  t.match(of(good.id), { why: 'outside', reason: /older than the receiver takes: 35 days/ })
  t.match(of(refused.id), { why: 'refused', reason: /meter_event_customer_not_found/, amount: `-${refused.value}`, proposal: { is: 'none' } })
  t.match(found.differences.find(({ why }) => why === 'buried'), { account: 'initech', customer: null, reason: 'its account has no customer there' })
  t.equal(found.unexplained, 0, 'our books explain all of it')
  t.match(found.rows.find(({ customer }) => customer === null), { accounts: ['initech'], theirs: null })
  adds(t, scene, found)

  const one = await scene.compare({ account: 'initech' })
  t.same(new Set(one.rows.flatMap(({ accounts }) => accounts)), new Set(['initech']), 'of one account')
})

t.test('S10: accepted, and refused afterwards: told with its code', async (t) => {
  const scene = await sceneOf(t, openmeterV3)
  const one = first(await scene.settle())
  scene.fake.judge = ({ id }) => (id === one.id ? 'invalid_subject' : null)
  await scene.deliver()
  t.match(await scene.compare(), { differences: [{ why: 'refused', record: one.id, reason: 'accepted, and refused afterwards: invalid_subject' }], unexplained: 0 })
})

t.test('S11: what is in quarantine is looked up: dropped where it was booked, sent where it was not', async (t) => {
  for (const dialect of [openmeterV3, stripeV1]) {
    for (const booked of [true, false]) {
      const scene = await sceneOf(t, dialect)
      const { fake, store } = scene
      const records = await scene.settle({ agoMs: 5_000, usage: { requests: 1, input_tokens: 4_711 } })
      // Its first attempt has no answer; then nothing is heard of the receiver until it has forgotten.
      fake.faults(1, booked ? { reset_after: 1 } : { reset_before: 1 })
      const delivering = scene.deliver()
      while (fake.requests < records.length) await new Promise((resolve) => { setTimeout(resolve, 5) })
      await new Promise((resolve) => { setTimeout(resolve, 50) })
      scene.nowMs += 2 * dayMs
      fake.faults(1, {})
      await delivering
      t.ok((await store.records.list('undelivered')).length > 0, 'it is in quarantine')
      const copies = (): number[] => records.map(({ id }) => fake.books.copies(id))
      const before = copies()
      const found = await scene.apply()
      const want = booked ? 'dropped' : 'sent'
      t.same([...new Set(found.differences.map(({ why, outcome }) => `${why} ${String(outcome)}`))], [`quarantined ${want}`], `${dialect.name}: ${booked ? 'booked' : 'not booked'}`)
      t.same(before, records.map(() => (booked ? 1 : 0)))
      t.same(copies(), records.map(() => 1))
      t.same(await store.records.list('undelivered'), [], 'and out of quarantine')
      t.match(await scene.compare(), { differences: [], unexplained: 0 })
    }
  }
})

t.test('where the receiver has forgotten an id, a lost record comes again under one of its own, once', async (t) => {
  const scene = await sceneOf(t, stripeV1)
  const records = await scene.settle({ agoMs: 60_000 })
  const lost = first(records)
  await scene.deliver()
  scene.nowMs += 3 * dayMs
  scene.fake.books.plantLoss(lost.id)
  const { fake } = scene
  fake.next('reset_after')
  const applied = await scene.apply()
  t.match(applied.differences, [{ why: 'missing', record: lost.id, outcome: 'sent', proposal: { record: { id: `${lost.id}:r1`, value: lost.value, timeMs: lost.timeMs } } }])
  t.equal(fake.books.copies(`${lost.id}:r1`), 1, 'although its first answer was lost')
  t.match(await scene.apply(), { differences: [], noted: [], unexplained: 0 })
  fake.books.plantLoss(`${lost.id}:r1`)
  scene.nowMs += 3 * dayMs
  t.match((await scene.apply()).differences, [{ outcome: 'sent' }], 'lost again')
  t.match(await scene.compare(), { differences: [], unexplained: 0 })
  scene.nowMs += 36 * dayMs
  fake.books.plantLoss(first([...records].reverse()).id)
  const old = await scene.apply()
  t.match(old.differences.map(({ why, proposal }) => [why, proposal]), [['missing', { is: 'none', because: 'the receiver takes nothing that is older than 35 days' }]])
  t.equal(old.unexplained, 1)
})

t.test('a compensation that was written down and not answered is sent as it was, not anew', async (t) => {
  const scene = await sceneOf(t, orbDialect)
  const doubled = first(await scene.settle({ agoMs: 3 * hourMs }))
  await scene.deliver()
  scene.fake.books.plantDouble(doubled.id)
  scene.fake.faults(3, { reset_after: 1 })
  const trying = scene.apply()
  while (scene.fake.books.copies(`${doubled.id}:r1`) === 0) await new Promise((resolve) => { setTimeout(resolve, 5) })
  const compensation = `${doubled.id}:r1`
  t.equal(scene.fake.books.copies(compensation), 1, 'it has been booked, and nobody knows')
  const [document] = await scene.store.records.list('compensation')
  t.match(document, { id: `${sceneName} ${compensation}`, value: { done: false } })
  scene.fake.faults(3, {})
  await scene.apply()
  await trying
  t.same(scene.fake.books.copies(compensation), 1)
  t.match(await scene.compare(), { differences: [], unexplained: 0 })
  t.match((await scene.store.records.list('compensation'))[0], { value: { done: true } })
})

t.test('a compensation that never left is not sent when it is no longer wanted', async (t) => {
  const scene = await sceneOf(t, stripeV1)
  const lost = first(await scene.settle({ agoMs: 60_000, usage: { requests: 1, input_tokens: 12 } }))
  await scene.deliver()
  scene.nowMs += 3 * dayMs
  scene.fake.books.plantLoss(lost.id)
  scene.fake.faults(3, { reset_before: 1 })
  const failed = await scene.apply()
  t.match(failed, { differences: [{ why: 'missing', outcome: { failed: /./ } }], unexplained: 1 })
  scene.fake.faults(3, {})
  const { books } = scene.fake
  const again = await scene.compare()
  t.match(again.differences, [{ proposal: { record: { id: `${lost.id}:r1` } } }], 'it would be the same')
  // The receiver has found it.
  books.book({ key: lost.id, id: lost.id, code: lost.code, customer: lost.customer, timeMs: lost.timeMs, value: lost.value, bad: null }, 'forever', scene.nowMs)
  t.match(await scene.apply(), { differences: [], noted: [] })
  t.equal(books.copies(`${lost.id}:r1`), 0)
})

t.test('what somebody else reports under our meter is unexplained', async (t) => {
  for (const dialect of [flexpriceDialect, stripeV1]) {
    const scene = await sceneOf(t, dialect)
    const one = first(await scene.settle({ agoMs: 3 * hourMs }))
    await scene.settle({ agoMs: 5 * hourMs })
    await scene.deliver()
    scene.fake.books.book({ key: 'theirs', id: 'theirs', code: one.code, customer: one.customer, timeMs: one.timeMs - 20 * 60_000, value: '777777', bad: null }, 'forever', scene.nowMs)
    const found = await scene.compare()
    adds(t, scene, found)
    t.match(found, { differences: [{ why: 'unexplained', amount: '777777', record: null, proposal: { is: 'none' } }], unexplained: 1 }, dialect.name)
    const [difference] = found.differences
    t.ok((difference?.fromMs ?? Infinity) <= one.timeMs - 20 * 60_000 && (difference?.untilMs ?? 0) > one.timeMs - 20 * 60_000, 'in its time')
  }
})

t.test('of many records only those are looked up that can be meant', async (t) => {
  const scene = await sceneOf(t, flexpriceDialect)
  const told = await Promise.all(Array.from({ length: 2_600 }, async (_, n) => first(await scene.settle({ agoMs: 20 * dayMs - n * 300_000, settledAgoMs: 2 * hourMs }))))
  await scene.deliver()
  const [lost, doubled, other] = [told[250], told[1_900], told[2_400]]
  scene.fake.books.plantLoss(lost?.id ?? '')
  scene.fake.books.plantDouble(doubled?.id ?? '')
  scene.fake.books.plantLoss(other?.id ?? '')
  const before = scene.fake.requests
  const found = await scene.compare()
  t.same(byWhy(found), { missing: [lost?.id, other?.id], doubled: [doubled?.id] })
  const questions = scene.fake.requests - before
  t.ok(questions < 1_000, `${questions} questions for ${2 * told.length} records`)
})

t.test('sums of an hour: which hour of whom has too much or too little', async (t) => {
  const scene = await sceneOf(t, stripeV1, { mapping: { rollup: 'hour', meters: oneMeter } })
  for (let n = 0; n < 20; n++) await scene.settle({ agoMs: 6 * hourMs - n * 600_000, account: n % 2 === 0 ? 'acme' : 'globex' })
  await scene.deliver()
  t.match(await scene.compare(), { asked: 'totals', differences: [], unexplained: 0 })
  const bookings = scene.fake.books.bookings({ customer: 'cus_acme' })
  // The first event of it was admitted within the hour.
  const sum = bookings.find(({ received }) => received.timeMs % hourMs !== 0)
  const value = sum?.received.value ?? ''
  scene.fake.books.plantLoss(sum?.received.id ?? '')
  const found = await scene.compare()
  t.match(found, { differences: [{ why: 'missing', amount: `-${value}`, account: 'acme', record: null }], unexplained: 1 })
  adds(t, scene, found)
  const applied = await scene.apply()
  t.match(applied.differences, [{ outcome: 'sent', proposal: { record: { value, timeMs: sum?.received.timeMs, properties: { region: 'eu' } } } }], 'at its own time, as a sum is sent')
  t.match(await scene.apply(), { differences: [], noted: [] })
  // Not over yet: its events are in the outbox.
  await scene.settle({ agoMs: 5_000 })
  t.match(await scene.compare(), { differences: [{ why: 'late' }], unexplained: 0 })
})

t.test('a sum that is sent again has its value where the meter reads it', async (t) => {
  const scene = await sceneOf(t, openmeterV1, { mapping: { rollup: 'hour', meters: rulesOf([{ code: 'prompt', quantity: 'total_tokens', valueProperty: 'tokens' }]) } })
  for (let n = 0; n < 6; n++) await scene.settle({ agoMs: 8 * hourMs - n * 600_000 })
  await scene.deliver()
  const whole = scene.fake.books.total()
  const [sum] = scene.fake.books.bookings()
  scene.fake.books.plantLoss(sum?.received.id ?? '')
  t.match(await scene.apply(), { differences: [{ why: 'missing', outcome: 'sent', fromMs: Date.parse('2026-11-22T02:00Z'), untilMs: Date.parse('2026-11-22T03:00Z') }], unexplained: 0 })
  const [again] = scene.fake.books.bookings().filter(({ received }) => received.id.includes('reconciled'))
  t.same([again?.received.timeMs, again?.received.value], [sum?.received.timeMs, sum?.received.value])
  t.equal(scene.fake.books.total(), whole)
  t.match(await scene.apply(), { differences: [], noted: [] })
})

t.test('sums whose properties nobody knows any more, or that are of nobody\'s hour, are not made up', async (t) => {
  const several = await sceneOf(t, stripeV1, { mapping: { rollup: 'hour' } })
  const copied = await sceneOf(t, stripeV1, { mapping: { rollup: 'hour', meters: oneMeter.map((rule) => ({ ...rule, copied: { model: 'model' } })) } })
  for (const [scene, because] of [[several, /several meters have this code/], [copied, /copied from events/]] as const) {
    for (let n = 0; n < 6; n++) await scene.settle({ agoMs: 8 * hourMs - n * 600_000 })
    await scene.deliver()
    scene.fake.books.plantLoss(scene.fake.books.bookings({})[0]?.received.id ?? '')
    t.match(await scene.apply(), { differences: [{ why: 'missing', proposal: { is: 'none', because }, outcome: null }], noted: [], unexplained: 1 })
  }
  const scene = await sceneOf(t, stripeV1, { mapping: { rollup: 'hour', meters: oneMeter } })
  await scene.settle({ agoMs: 8 * hourMs })
  await scene.deliver()
  const timeMs = scene.nowMs - 5 * dayMs
  scene.fake.books.book({ key: 'theirs', id: 'theirs', code: 'token-billing-tokens', customer: 'cus_acme', timeMs, value: '777', bad: null }, 'forever', scene.nowMs)
  t.match(await scene.apply(), { differences: [{ why: 'unexplained', amount: '777', proposal: { is: 'none' } }], noted: [] }, 'of an hour that has none')
})

t.test('what is dead and was booked all the same is no difference', async (t) => {
  const scene = await sceneOf(t, orbDialect)
  const one = first(await scene.settle({ usage: { requests: 1, input_tokens: 50 } }))
  scene.fake.judge = () => 'validation_failed'
  await scene.deliver()
  t.match(await scene.compare(), { rows: [{ refused: '-50' }], differences: [{ why: 'refused', amount: '-50' }] })
  scene.fake.books.book({ key: one.id, id: one.id, code: one.code, customer: one.customer, timeMs: one.timeMs, value: one.value, bad: null }, 'forever', scene.nowMs)
  t.match(await scene.compare(), { rows: [{ refused: '0', difference: '0' }], differences: [{ why: 'refused', record: one.id, amount: '0', reason: /^booked all the same: / }], unexplained: 0 })
})

t.test('a total of binary fractions is read however small it is', async (t) => {
  const scene = await sceneOf(t, openmeterV1, { mapping: { meters: rulesOf([{ code: 'prompt', quantity: 'cost', valueProperty: 'tokens' }]) } })
  scene.fake.books.book({ key: 'theirs', id: 'theirs', code: 'prompt', customer: 'cus_acme', timeMs: scene.nowMs - hourMs, value: '0.0000001', bad: null }, 'forever', scene.nowMs)
  await scene.settle({ usage: { requests: 1, cost: 5_000 } })
  t.match(await scene.compare(), { rows: [{ theirs: '0.0000001' }] })
})

t.test('a receiver that is busy is asked again, and one that refuses us is an error', async (t) => {
  const scene = await sceneOf(t, openmeterV1)
  await scene.settle()
  await scene.deliver()
  const wrong = await sceneOf(t, openmeterV1, { settings: { token: 'om_wrong' } })
  await wrong.settle()
  await t.rejects(wrong.compare(), { name: 'DeliveryFailed', kind: 'unauthorized' })
})
