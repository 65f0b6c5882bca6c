import type { Sink, SinkContract, SinkKind } from '../../src/sinks/sink.ts'

/** A contract that asks for nothing; tests say what differs. */
export const easyContract: SinkContract = {
  verified: true, readsBack: false, batchMax: 10, bytesMax: null, ratePerSecond: null, dedupWindowMs: 'forever', dedupKey: 'id', duplicateSignal: 'silent', failureUnit: 'record',
  oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'durable', corrections: 'negative', serialBy: 'none', inFlightMax: 1,
}

/** A kind of sink that is nowhere registered: a test is its receiver. */
export function someKind(more: { readonly takes?: SinkKind['takes']; readonly contract?: Partial<SinkContract>; readonly customerDefault?: 'none'; readonly deliver?: Sink['deliver'] } = {}): SinkKind {
  const { takes = 'events', contract, customerDefault = 'account', deliver = async (batch) => ({ accepted: batch.map(({ id }) => id), refused: [] }) } = more
  return { type: 'some', takes, customerDefault, contract: { ...easyContract, ...contract }, settings: {}, open: async () => ({ deliver, close: async () => undefined }) }
}
