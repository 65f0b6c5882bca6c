import type { Change } from '../local/journal.ts'
import type { DeadRow, Row, Synchronous } from './journal-file.ts'
import type { ThreadReply, ThreadRequest } from '../thread-link.ts'

/** What the main thread and the journal's worker say to each other. */

export interface OpenAsk {
  readonly dir: string
  readonly synchronous: Synchronous
  readonly ballastBytes: number
  /** The books were read and accepted as they are: the watermark begins there. */
  readonly verified: boolean
}

/** A request, and what it is answered with. */
export interface Asks {
  open: { ask: OpenAsk; answer: WriterState }
  /** One transaction: rows and changes, in order. */
  commit: { ask: { readonly rows: readonly Row[]; readonly changes: readonly WrittenChange[] }; answer: WriterState }
  /** Proves that the disk takes writes again; folds the log into the journal. */
  probe: { ask: null; answer: WriterState }
  /** Is the journal still the file that was opened? Is there room again for the ballast? */
  look: { ask: null; answer: WriterState }
  read: { ask: { readonly after: number; readonly count: number }; answer: readonly OutboxRow[] }
  ordinalBefore: { ask: { readonly atMs: number }; answer: number }
  /** Those behind `after` (null: from the first), by consumer and ordinal, a page of them. */
  dead: { ask: { readonly consumer: string | null; readonly after: { readonly consumer: string; readonly ordinal: number } | null; readonly count: number }; answer: readonly DeadRow[] }
  deadCount: { ask: { readonly consumer: string }; answer: number }
  document: { ask: { readonly kind: string; readonly id: string }; answer: string | null }
  /** Those whose id comes after `after` (null: from the first), by id, a page of them. */
  documents: { ask: { readonly kind: string; readonly after: string | null }; answer: DocumentsPage }
  trim: { ask: { readonly seq: number; readonly event: number; readonly beforeMs: number }; answer: Trimmed }
  close: { ask: null; answer: null }
}

export type AskName = keyof Asks

/** Records are text already. */
export type WrittenChange = Exclude<Change, { readonly kind: 'bury' }> | Omit<Extract<Change, { readonly kind: 'bury' }>, 'record'> & { readonly record: string }

export interface WriterState {
  /** The ballast has been let go: admit nothing more. */
  readonly full: boolean
}

export interface OutboxRow {
  /** Ordinal of the row's first event. */
  readonly first: number
  /** A JSON array of records. */
  readonly outbox: string
}

export interface DocumentsPage {
  readonly documents: readonly { readonly id: string; readonly value: string }[]
  readonly more: boolean
}

export interface Trimmed {
  readonly rows: number
  readonly trimmedThrough: number
  /** There may be more to trim. */
  readonly more: boolean
}

export interface Request extends ThreadRequest {
  readonly name: AskName
}

export type Reply = ThreadReply
