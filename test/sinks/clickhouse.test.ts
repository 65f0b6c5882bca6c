import { readFileSync } from 'node:fs'
import t from 'tap'
import { clickhouse, tableDefinition } from '../../src/sinks/clickhouse.ts'
import type { SinkKind } from '../../src/sinks/sink.ts'
import { conformance } from './conformance.ts'
import { clickhouseDialect, exception, rowsOf } from './kit/dialects/clickhouse.ts'
import type { Fake, Subject } from './kit/fake.ts'
import { httpSubject } from './kit/http-fake.ts'
import { sampleEvents } from './kit/samples.ts'
import { surroundings } from './open.ts'
import { attempt, failureOf, onTheWire } from './on-the-wire.ts'

// It never says how long to wait, and a statement is done or it is not. What the suite reads back is single quantities; rows are read back below.
const whole = httpSubject(clickhouseDialect())
const writing: SinkKind = {
  ...clickhouse,
  async open(name, settings, around) {
    const { deliver, close } = await clickhouse.open(name, settings, around)
    return { deliver, close }
  },
}
conformance(t, { ...whole, kind: writing, contract: { ...whole.contract, readsBack: false }, faults: whole.faults.filter((fault) => fault !== 'busy') } satisfies Subject)

t.test('a row has every quantity in its column, and the whole event', async (t) => {
  const { sink, calls } = await onTheWire(t, clickhouseDialect())
  const [record] = sampleEvents(1, Date.now())
  if (record === undefined) return t.fail('no event')
  await sink.deliver([record], attempt())
  const { event } = record
  const { data } = event
  t.equal(calls[0]?.headers['content-encoding'], 'gzip')
  t.same(rowsOf(calls[0]?.text ?? ''), [{
    id: event.id, time: event.time, account: event.subject, settled_at: data['settled_at'], status: 200, key: data['key'], plan: 'pro', provider: 'openai', endpoint: 'chat.completions', model: 'gpt-4o',
    model_served: 'gpt-4o-2024-08-06', upstream: 'main', end: 'complete', usage_source: 'upstream', currency: 'USD', requests: 1, input_tokens: data['input_tokens'], output_tokens: data['output_tokens'],
    total_tokens: data['total_tokens'], cost: data['cost'], event: JSON.stringify(event),
  }])
})

t.test('what the server says is told as what it means', async (t) => {
  for (const [status, code, kind] of [[404, 60, 'unauthorized'], [403, 516, 'unauthorized'], [500, 202, 'busy'], [500, 252, 'busy'], [400, 117, 'refused'], [500, 209, 'unknown']] as const) {
    const { sink } = await onTheWire(t, { ...clickhouseDialect(), read: () => exception(status, code) })
    t.match(await failureOf(sink.deliver(sampleEvents(1, Date.now()), attempt())), { kind }, `code ${code}`)
  }
  const older = await onTheWire(t, { ...clickhouseDialect(), read: () => ({ status: 404, body: 'Code: 60, e.displayText() = DB::Exception: Table default.x doesn\'t exist., e.what() = DB::Exception' }) })
  t.match(await failureOf(older.sink.deliver(sampleEvents(1, Date.now()), attempt())), { kind: 'unauthorized', message: '60 no such table' })
})

t.test('a private address has to be meant', async (t) => {
  const { fake } = await onTheWire(t, clickhouseDialect())
  for (const url of [fake.url, fake.url.replace('127.0.0.1', 'localhost')]) {
    const sink = await clickhouse.open('c', { ...fake.settings(), url, private: false }, surroundings)
    t.teardown(() => sink.close())
    t.equal((await failureOf(sink.deliver(sampleEvents(1, Date.now()), attempt()))).kind, 'unauthorized')
  }
})

t.test('sums and single events are read back as they count, not as often as they were written', async (t) => {
  let fake: Fake | null = null
  const wired = await onTheWire(t, clickhouseDialect(() => fake?.books ?? null))
  fake = wired.fake
  const records = sampleEvents(12, Date.now())
  await wired.sink.deliver(records, attempt())
  await wired.sink.deliver(records, attempt())
  const [first] = records
  if (first === undefined) return t.fail('no event')
  const asked = { code: 'requests', customer: first.event.subject, fromMs: first.timeMs, untilMs: Date.now() + 1 }
  t.equal(await wired.sink.readBack?.total?.(asked, attempt()), String(records.filter(({ event }) => event.subject === first.event.subject).length))
  t.equal(await wired.sink.readBack?.total?.({ ...asked, code: 'labels' }, attempt()), null, 'what is no quantity has no sum')
  t.same([...await wired.sink.readBack?.find?.([first.id, 'never'], asked, attempt()) ?? []], [[first.id, { copies: 1, value: '1', refused: null }]])
})

t.test('the documentation has the definition of the table as it is made', async (t) => {
  t.ok(readFileSync(new URL('../../docs/sinks/clickhouse.md', import.meta.url), 'utf8').includes(tableDefinition('tallygate_usage')))
})

// With CLICKHOUSE_URL=http://user:password@host:8123 the same is asked of a real one, in a table of its own.
const real = process.env['CLICKHOUSE_URL']
if (real !== undefined) {
  t.test('a real ClickHouse counts every event once, however often it was sent', async (t) => {
    const { createClient } = await import('@clickhouse/client')
    const client = createClient({ url: real })
    const table = `tallygate_test_${process.pid}`
    const { origin, username, password } = new URL(real)
    const sink = await clickhouse.open('c', { url: origin, private: true, database: 'default', table, username: username === '' ? 'default' : username, password, create_table: true }, surroundings)
    t.teardown(async () => {
      await client.command({ query: `DROP TABLE IF EXISTS ${table}` })
      await client.close()
      await sink.close()
    })
    const records = sampleEvents(1_000, Date.now())
    for (const part of [records.slice(0, 600), records.slice(400), records]) t.equal((await sink.deliver(part, attempt())).accepted.length, part.length)
    const asked = { customer: 'acme', fromMs: 0, untilMs: Date.now() + 1 }
    const ours = records.filter(({ event }) => event.subject === 'acme')
    for (const code of ['requests', 'input_tokens', 'output_tokens']) {
      t.equal(await sink.readBack?.total?.({ ...asked, code }, attempt()), String(ours.reduce((sum, { event }) => sum + Number(event.data[code]), 0)), code)
    }
    const found = await sink.readBack?.find?.([ours[0]?.id ?? '', 'never'], { ...asked, code: 'requests' }, attempt())
    t.same([...found ?? []], [[ours[0]?.id, { copies: 1, value: '1', refused: null }]])
  })
}
