import type { Gathered } from './gathering.ts'
import type { Kept, RefusalCount, RefusalQuestion, RefusalRow, Unit, UsageQuestion, UsageRow } from './rollups.ts'

/** What the main thread and the roll-ups' threads say to each other. One thread writes; another may read the same file. */
export interface RollupAsks {
  readonly open: { ask: { readonly path: string; readonly readOnly: boolean }; answer: null }
  /** Ids of the events that were counted last. */
  readonly last: { ask: null; answer: readonly string[] }
  /** `ids` null: they have no place in the outbox. */
  readonly count: { ask: { readonly rows: readonly Gathered[]; readonly ids: readonly string[] | null }; answer: null }
  readonly countRefusals: { ask: readonly RefusalCount[]; answer: null }
  readonly usage: { ask: UsageQuestion; answer: readonly UsageRow[] }
  readonly refusals: { ask: RefusalQuestion; answer: readonly RefusalRow[] }
  readonly wholeSince: { ask: null; answer: Readonly<Record<Unit, number>> }
  readonly isNew: { ask: null; answer: boolean }
  readonly reset: { ask: null; answer: null }
  readonly complete: { ask: null; answer: null }
  readonly prune: { ask: { readonly nowMs: number; readonly kept: Kept }; answer: null }
  readonly close: { ask: null; answer: null }
}
