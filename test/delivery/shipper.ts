// Started as a process of its own, and killed: `shipper.ts <data folder> <config of the sink, JSON>`. Delivers what the store has with everything that a gateway has
// for it. Events of the sink `stdout` go to its output; on descriptor 3 it says how far it is: `L <left> <failures> <ambiguous> <duplicates told>`, and at the end
// `done <dead> <quarantined>`.
import { writeSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import type { Config, SinkConfig } from '../../src/config/config.ts'
import { Deliveries } from '../../src/deliveries.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { systemRandom } from '../../src/random.ts'
import { sealedKind } from '../../src/sinks/deliver.ts'
import { quarantined } from '../../src/sinks/quarantine.ts'
import { embeddedIn } from '../stores/embedded-fixture.ts'
import { SwiftClock } from './swift-clock.ts'

// It will not get to do so at its end.
flushCompileCache()
const [dir = '', text = ''] = process.argv.slice(2)
const sink = JSON.parse(text) as SinkConfig
const store = await embeddedIn(dir)
const metrics = new Metrics()
const clock = new SwiftClock(20)
const deliveries = new Deliveries({ outbox: store.outbox, records: store.records, clock, random: systemRandom, log: silentLog, metrics, stdout: process.stdout })
await deliveries.use({ sinks: [sink], instance: 'shipper', accounts: new Map() } as unknown as Config)

const valueOf = async (counter: { get(): Promise<{ values: readonly { value: number }[] }> }): Promise<number> => (await counter.get()).values.reduce((sum, { value }) => sum + value, 0)
for (;;) {
  const { count } = await store.outbox.lag(sink.name)
  writeSync(3, `L ${count} ${await valueOf(metrics.deliveryRetries)} ${await valueOf(metrics.ambiguous)} ${await valueOf(metrics.duplicates)}\n`)
  const sealed = await store.records.get(sealedKind, sink.name)
  if (count === 0 && (sealed === undefined || sealed['chunk'] === null)) break
  await new Promise((resolve) => { setTimeout(resolve, 25) })
}
await deliveries.stop()
writeSync(3, `done ${await store.outbox.deadCount(sink.name)} ${(await quarantined(store.records)).length}\n`)
await store.close()
process.exit(0)
