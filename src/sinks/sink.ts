import type { UsageEvent } from '../metering/event.ts'

/** Where events go. Batching, backing off, burying and measuring are in `deliver.ts`; a sink only speaks to its receiver. */
export interface Sink {
  readonly name: string
  readonly batchMax: number
  /** Resolves when the receiver has durably taken what it accepts. A throw means: outcome unknown or later, try the same ids again. */
  deliver(batch: readonly UsageEvent[], signal: AbortSignal): Promise<DeliveryReport>
  close(): Promise<void>
}

export interface DeliveryReport {
  readonly accepted: readonly string[]
  /** Permanently refused: buried with the reason, never retried. */
  readonly refused: readonly { readonly id: string; readonly reason: string }[]
}
