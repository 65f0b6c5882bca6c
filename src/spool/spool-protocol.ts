import type { Entry } from './entry-line.ts'
import type { SpoolRow, SpoolState } from './spool-file.ts'

/** What the main thread and the spool's thread say to each other. Every answer tells the state, and what people must be told. */
export interface SpoolAsks {
  readonly open: { ask: { readonly dir: string; readonly ballastBytes: number }; answer: SpoolAnswer }
  /** One transaction. */
  readonly append: { ask: { readonly entries: readonly Entry[] }; answer: SpoolAnswer }
  readonly read: { ask: { readonly after: number; readonly count: number }; answer: SpoolAnswer & { readonly rows: readonly SpoolRow[] } }
  readonly remove: { ask: { readonly seqs: readonly number[] }; answer: SpoolAnswer }
  readonly look: { ask: null; answer: SpoolAnswer }
  readonly absorb: { ask: { readonly dir: string }; answer: SpoolAnswer }
  readonly close: { ask: null; answer: null }
}

export interface SpoolAnswer {
  readonly state: SpoolState
  readonly notes: readonly string[]
}
