import type { Sink, SinkKind } from './sink.ts'

/** Usage events as NDJSON on standard output, for whoever collects it. Acknowledged once handed to the kernel. */
export const stdout: SinkKind = {
  type: 'stdout',
  takes: 'events',
  contract: {
    verified: true, readsBack: false, batchMax: 200, bytesMax: null, ratePerSecond: null, dedupWindowMs: 'forever', dedupKey: 'the event\'s id, by whoever collects',
    duplicateSignal: 'none', failureUnit: 'batch', oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'queued',
    corrections: 'negative', serialBy: 'none', inFlightMax: 1,
  },
  settings: {},
  open: async (_name, _settings, { stdout: output }) => openStdout(output),
}

function openStdout(output: NodeJS.WritableStream): Sink {
  return {
    deliver(batch) {
      const text = batch.map((record) => `${JSON.stringify(record.is === 'event' ? record.event : record)}\n`).join('')
      return new Promise((resolve, reject) => {
        output.write(text, (error) => {
          if (error) reject(error)
          else resolve({ accepted: batch.map(({ id }) => id), refused: [] })
        })
      })
    },
    async close() {},
  }
}
