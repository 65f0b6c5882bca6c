import t from 'tap'
import { conformance, opened } from './conformance.ts'
import { openmeterV1, openmeterV3 } from './kit/dialects/openmeter.ts'
import { httpSubject } from './kit/http-fake.ts'
import { sampleRecords } from './kit/samples.ts'
import { ship } from './kit/ship.ts'
import { wireTable } from './wire.ts'

conformance(t, httpSubject(openmeterV1))
conformance(t, httpSubject(openmeterV3))

wireTable(t, 'openmeter', openmeterV1.kind, (url) => openmeterV1.settings(url, true))

t.test('openmeter: what counts twice, and what was refused after it had been accepted, can be told', async (t) => {
  for (const subject of [openmeterV1, openmeterV3].map(httpSubject)) {
    const fake = await subject.start()
    t.teardown(() => fake.stop())
    const sink = await opened(t, subject, fake)
    const nowMs = Date.now()
    const records = sampleRecords(subject.kind, 3, nowMs)
    const [good, double, bad] = records
    if (good?.is !== 'meter' || double === undefined || bad === undefined) return t.fail('no records')
    fake.judge = ({ id }) => id === bad.id ? 'no meter of this name' : null
    await ship(sink, records, subject.contract)
    fake.books.plantDouble(double.id)
    const found = await sink.readBack?.find?.(records.map(({ id }) => id), { code: good.code, customer: good.customer, fromMs: nowMs - 60_000, untilMs: nowMs + 60_000 }, AbortSignal.timeout(5_000))
    t.same([...found ?? []].map(([id, { copies, refused }]) => [id, copies, refused]).sort(), [[good.id, 1, null], [double.id, 2, null], [bad.id, 1, 'no meter of this name']].sort())
  }
})
