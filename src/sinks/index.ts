import type { Writable } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { SinkConfig } from '../config/config.ts'
import { openFileSink, type FileSettings } from './file.ts'
import type { Sink } from './sink.ts'
import { openStdoutSink } from './stdout.ts'

export interface SinkSurroundings {
  readonly clock: Clock
  readonly stdout: Writable
}

type Open = (config: SinkConfig, around: SinkSurroundings) => Promise<Sink>

/** The sinks there are. A new one is one file and one line here. */
const SINKS: Readonly<Record<string, Open>> = {
  file: (config, { clock }) => openFileSink(config.name, config.settings as unknown as FileSettings, clock),
  stdout: async (config, { stdout }) => openStdoutSink(config.name, stdout),
}

export const sinkTypes: readonly string[] = Object.keys(SINKS)

export function openSink(config: SinkConfig, around: SinkSurroundings): Promise<Sink> {
  const open = SINKS[config.type]
  if (open === undefined) throw new Error(`no sink of type ${config.type}`)
  return open(config, around)
}
