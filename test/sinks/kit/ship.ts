import { setTimeout as sleep } from 'node:timers/promises'
import { DeliveryFailed, type Sink, type SinkRecord } from '../../../src/sinks/sink.ts'

export interface Shipped {
  readonly accepted: ReadonlySet<string>
  /** Id → reason. */
  readonly refused: ReadonlyMap<string, string>
  readonly attempts: number
}

/**
 * The least that a loop has to do for a sink: send again what has no answer, halve what is refused or too large, bury a single one. It has neither
 * a cursor nor patience, which makes it quick; the real one is `src/sinks/deliver.ts`.
 */
export async function ship(sink: Sink, records: readonly SinkRecord[], { batchMax, attemptMs = 5_000, attemptsMax = 5_000 }: { batchMax: number; attemptMs?: number; attemptsMax?: number }): Promise<Shipped> {
  const accepted = new Set<string>()
  const refused = new Map<string, string>()
  const waiting: (readonly SinkRecord[])[] = []
  for (let at = 0; at < records.length; at += batchMax) waiting.push(records.slice(at, at + batchMax))
  let attempts = 0
  for (let batch = waiting.shift(); batch !== undefined; batch = waiting.shift()) {
    attempts += 1
    if (attempts > attemptsMax) throw new Error(`not delivered in ${attemptsMax} attempts`)
    try {
      const report = await sink.deliver(batch, AbortSignal.timeout(attemptMs))
      for (const id of report.accepted) accepted.add(id)
      for (const { id, reason } of report.refused) refused.set(id, reason)
      const left = batch.filter(({ id }) => !accepted.has(id) && !refused.has(id))
      if (left.length > 0) waiting.unshift(left)
    } catch (error) {
      const kind = error instanceof DeliveryFailed ? error.kind : 'unknown'
      const [first] = batch
      if (kind !== 'refused' && kind !== 'too_large') {
        await sleep(1)
        waiting.unshift(batch)
      } else if (batch.length === 1 && first !== undefined) refused.set(first.id, error instanceof Error ? error.message : kind)
      else waiting.unshift(batch.slice(0, Math.ceil(batch.length / 2)), batch.slice(Math.ceil(batch.length / 2)))
    }
  }
  return { accepted, refused, attempts }
}
