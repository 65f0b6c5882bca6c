import type { Writable } from 'node:stream'
import type { UsageEvent } from '../metering/event.ts'
import type { DeliveryReport, Sink } from './sink.ts'

/** Usage events as NDJSON on standard output, for whoever collects it. Acknowledged once handed to the kernel. */
export function openStdoutSink(name: string, output: Writable): Sink {
  return {
    name,
    batchMax: 200,
    deliver(batch: readonly UsageEvent[]): Promise<DeliveryReport> {
      const text = batch.map((event) => `${JSON.stringify(event)}\n`).join('')
      return new Promise((resolve, reject) => {
        output.write(text, (error) => {
          if (error) reject(error)
          else resolve({ accepted: batch.map((event) => event.id), refused: [] })
        })
      })
    },
    async close() {},
  }
}
