import type { SinkConfig } from '../config/config.ts'
import { file } from './file.ts'
import { openmeter } from './openmeter.ts'
import type { Sink, SinkKind, SinkSurroundings } from './sink.ts'
import { stdout } from './stdout.ts'

/** The sinks there are. A new one is one file and one line here. */
export const sinkKinds: readonly SinkKind[] = [
  file,
  openmeter,
  stdout,
]

const kinds = new Map(sinkKinds.map((kind) => [kind.type, kind]))

export function sinkKind(type: string): SinkKind {
  const kind = kinds.get(type)
  if (kind === undefined) throw new Error(`no sink of type ${type}`)
  return kind
}

export function openSink(config: SinkConfig, around: SinkSurroundings): Promise<Sink> {
  return sinkKind(config.type).open(config.name, config.settings, around)
}
