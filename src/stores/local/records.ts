import type { Records } from '../store.ts'
import type { Journal } from './journal.ts'

type Value = Readonly<Record<string, unknown>>
type Listener = (id: string, value: Value | undefined) => void

/** The documents of a store that lives in one process. */
export class LocalRecords implements Records {
  readonly #journal: Journal
  readonly #listeners = new Map<string, Set<Listener>>()

  constructor(journal: Journal) {
    this.#journal = journal
  }

  async get(kind: string, id: string): Promise<Value | undefined> {
    const text = await this.#journal.document(kind, id)
    return text === undefined ? undefined : JSON.parse(text) as Value
  }

  async put(kind: string, id: string, value: Value): Promise<void> {
    const text = JSON.stringify(value)
    await this.#journal.change([{ kind: 'put', of: kind, id, value: text }])
    this.#tell(kind, id, JSON.parse(text) as Value)
  }

  async delete(kind: string, id: string): Promise<void> {
    await this.#journal.change([{ kind: 'delete', of: kind, id }])
    this.#tell(kind, id, undefined)
  }

  async list(kind: string): Promise<readonly { readonly id: string; readonly value: Value }[]> {
    const documents = await this.#journal.documents(kind)
    return documents.map(({ id, value }) => ({ id, value: JSON.parse(value) as Value }))
  }

  watch(kind: string, listener: Listener): () => void {
    let listeners = this.#listeners.get(kind)
    if (listeners === undefined) this.#listeners.set(kind, listeners = new Set())
    listeners.add(listener)
    return () => { listeners.delete(listener) }
  }

  #tell(kind: string, id: string, value: Value | undefined): void {
    for (const listener of this.#listeners.get(kind) ?? []) listener(id, value)
  }
}
