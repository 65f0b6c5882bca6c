import type { Clock } from '../../src/clock.ts'
import { systemClock } from '../../src/clock.ts'
import { systemRandom } from '../../src/random.ts'
import { file } from '../../src/sinks/file.ts'
import type { Sink, SinkSurroundings } from '../../src/sinks/sink.ts'

/** What a sink is opened with by tests. */
export const surroundings: SinkSurroundings = { clock: systemClock, random: systemRandom, stdout: process.stdout, instance: 'test' }

export interface FileSettings {
  readonly path: string
  readonly max_bytes: number
  readonly daily: boolean
  readonly keep: number | null
}

export function openFile(settings: FileSettings, clock: Clock): Promise<Sink> {
  return file.open('file', { ...settings }, { ...surroundings, clock })
}
