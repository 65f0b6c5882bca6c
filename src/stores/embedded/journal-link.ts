import { ThreadLink } from '../thread-link.ts'
import type { Asks } from './worker-protocol.ts'

/** The main thread's end of the journal's worker. */
export class JournalLink extends ThreadLink<Asks> {
  constructor() {
    super('journal', new URL('./journal-worker.ts', import.meta.url))
  }
}
