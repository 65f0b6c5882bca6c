import type { SinkConfig } from '../config/config.ts'
import { safeMs } from './attempts.ts'
import { amberflo } from './amberflo.ts'
import { clickhouse } from './clickhouse.ts'
import { file } from './file.ts'
import { flexprice } from './flexprice.ts'
import { kafka } from './kafka.ts'
import { lago } from './lago.ts'
import { m3ter } from './m3ter.ts'
import { metronome } from './metronome.ts'
import { openmeter } from './openmeter.ts'
import { orb } from './orb.ts'
import { polar } from './polar.ts'
import type { Sink, SinkKind, SinkSurroundings } from './sink.ts'
import { stdout } from './stdout.ts'
import { stripe } from './stripe.ts'
import { webhook } from './webhook.ts'

/** The sinks there are. A new one is one file and one line here. */
export const sinkKinds: readonly SinkKind[] = [
  amberflo,
  clickhouse,
  file,
  flexprice,
  kafka,
  lago,
  m3ter,
  metronome,
  openmeter,
  orb,
  polar,
  stdout,
  stripe,
  webhook,
]

const kinds = new Map(sinkKinds.map((kind) => [kind.type, kind]))

export function sinkKind(type: string): SinkKind {
  const kind = kinds.get(type)
  if (kind === undefined) throw new Error(`no sink of type ${type}`)
  return kind
}

/** The kind under a sink's settings: they may decide what its receiver does. */
export function kindOf({ type, settings }: SinkConfig): SinkKind {
  const kind = sinkKind(type)
  return kind.contractOf === undefined ? kind : { ...kind, contract: kind.contractOf(settings) }
}

export function openSink(config: SinkConfig, around: SinkSurroundings): Promise<Sink> {
  return sinkKind(config.type).open(config.name, config.settings, around)
}

/** Why events that were settled after `sinceMs` cannot be delivered again without being booked twice; null: they can. */
export function whyNoReplay(config: SinkConfig, sinceMs: number, nowMs: number): string | null {
  if ((config.mapping?.rollup ?? null) !== null) return 'it is told sums, and a sum that is made again would have another id: it would be booked twice'
  const { contract } = kindOf(config)
  if (contract.dedupWindowMs === 0) return 'its receiver does not know an id again: everything would be booked twice'
  const fromMs = nowMs - safeMs(contract)
  return sinceMs >= fromMs ? null : `its receiver knows ids again for a time only, so what is older than ${new Date(fromMs).toISOString()} would be booked twice`
}
