// Started by tests as a process of its own: `kill-child.ts <dir> <url> <work|drain>`. Settles exchanges and delivers them to two sinks, until it is killed; or
// delivers what is left and says `done`. Says `S id` for every exchange whose settlement was acknowledged.
import { writeSync } from 'node:fs'
import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { Delivery } from '../../src/sinks/deliver.ts'
import { SinkHttp } from '../../src/sinks/http.ts'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import { eventBody, newId, settleOf } from '../stores/sample-moves.ts'
import { mappingOf } from './sample-events.ts'
import { someKind } from './some-kind.ts'

const [dir = '', url = '', task = ''] = process.argv.slice(2)
const store = await embeddedIn(dir)
const meters = [{ code: 'in', quantity: 'input_tokens' }]
const sinks = { single: mappingOf(meters), sums: mappingOf(meters, { rollup: 'minute' }) } as const
await store.outbox.setConsumers(Object.keys(sinks))
const http = new SinkHttp({ permitPrivate: true }, { clock: systemClock })
const deliveries = Object.entries(sinks).map(([name, mapping]) => {
  const kind = someKind({ takes: 'records', contract: { batchMax: 20, dedupWindowMs: 86_400_000, inFlightMax: 4 } })
  const sink = {
    deliver: async (batch: readonly { readonly id: string }[], signal: AbortSignal) => {
      await http.mustAccept({ url: `${url}/${name}`, body: JSON.stringify(batch) }, signal)
      return { accepted: batch.map(({ id }) => id), refused: [] }
    },
    close: async () => undefined,
  }
  return new Delivery({ name, kind, mapping, sink, outbox: store.outbox, records: store.records, clock: systemClock, random: systemRandom, log: silentLog, metrics: new Metrics(), holder: 'child' })
})
for (const delivery of deliveries) delivery.start()

if (task === 'work') {
  for (;;) {
    await Promise.all(Array.from({ length: 10 }, async () => {
      // Two minutes ago, so that the windows of sums are over.
      const nowMs = Date.now() - 120_000
      const id = newId(nowMs)
      await store.settle(settleOf(id, nowMs, 'acme', [], [], { usage: { requests: 1, input_tokens: 3 }, event: eventBody }))
      writeSync(1, `S ${id}\n`)
    }))
    await systemClock.sleep(5)
  }
}
while ((await Promise.all(Object.keys(sinks).map((name) => store.outbox.lag(name)))).some(({ count }) => count > 0)) await systemClock.sleep(20)
await Promise.all(deliveries.map((delivery) => delivery.stop()))
writeSync(1, `done ${(await quarantined(store.records)).length}\n`)
await store.close()
process.exit(0)
