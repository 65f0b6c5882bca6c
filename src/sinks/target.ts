import { hash } from 'node:crypto'
import type { SinkConfig } from '../config/config.ts'
import type { Records } from '../stores/store.ts'

/** Documents: into whose books a sink delivers, by its name. */
const targetKind = 'sink_target'

/** What may change without its being another receiver. */
const credential = /key|token|secret|password|credential|username|timeout/

/**
 * Notes whose books a sink writes. Gives the name of one that wrote the same books and is configured no longer: this one is that one renamed, and begins where
 * nothing is known of what was delivered. Call `noted` once that was cared for; before, it is told again.
 */
export async function formerName(records: Records, sink: SinkConfig, configured: ReadonlySet<string>): Promise<{ readonly former: string | null; noted(): Promise<void> }> {
  const settings = Object.entries(sink.settings).filter(([name]) => !credential.test(name)).sort(([a], [b]) => (a < b ? -1 : 1))
  const target = hash('sha256', JSON.stringify([sink.type, settings]))
  const before = await records.get(targetKind, sink.name)
  const isNew = before === undefined
  const former = isNew ? (await records.list(targetKind)).find(({ id, value }) => value['target'] === target && !configured.has(id))?.id ?? null : null
  return {
    former,
    async noted() {
      if (before?.['target'] !== target) await records.put(targetKind, sink.name, { target })
      // It may be called so again.
      if (former !== null) await records.delete(targetKind, former)
    },
  }
}
