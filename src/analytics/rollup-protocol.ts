import type { Counted, Increment, Kept, RefusalCount, RefusalQuestion, RefusalRow, UsageQuestion, UsageRow } from './rollups.ts'

/** What the main thread and the roll-ups' thread say to each other. */
export interface RollupAsks {
  readonly open: { ask: { readonly path: string }; answer: null }
  readonly count: { ask: readonly Counted[]; answer: null }
  readonly countArchived: { ask: readonly Increment[]; answer: null }
  readonly countRefusals: { ask: readonly RefusalCount[]; answer: null }
  readonly usage: { ask: UsageQuestion; answer: readonly UsageRow[] }
  readonly refusals: { ask: RefusalQuestion; answer: readonly RefusalRow[] }
  readonly isNew: { ask: null; answer: boolean }
  readonly reset: { ask: null; answer: null }
  readonly complete: { ask: null; answer: null }
  readonly prune: { ask: { readonly nowMs: number; readonly kept: Kept }; answer: null }
  readonly close: { ask: null; answer: null }
}
