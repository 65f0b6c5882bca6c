import { isDeepStrictEqual } from 'node:util'
import type { Records } from '../store.ts'
import type { Journal } from './journal.ts'

type Value = Readonly<Record<string, unknown>>
type Listener = (id: string, value: Value | undefined) => void

/** The documents of a store that lives in one process. */
export class LocalRecords implements Records {
  readonly #journal: Journal
  readonly #listeners = new Map<string, Set<Listener>>()
  /** Documents that are being written, each with the last who waits for his turn. */
  readonly #turns = new Map<string, Promise<unknown>>()

  constructor(journal: Journal) {
    this.#journal = journal
  }

  async get(kind: string, id: string): Promise<Value | undefined> {
    const text = await this.#journal.document(kind, id)
    return text === undefined ? undefined : JSON.parse(text) as Value
  }

  put(kind: string, id: string, value: Value): Promise<void> {
    return this.#inTurn(kind, id, () => this.#put(kind, id, JSON.stringify(value)))
  }

  swap(kind: string, id: string, expected: Value | undefined, value: Value): Promise<boolean> {
    const text = JSON.stringify(value)
    const before = expected === undefined ? undefined : JSON.stringify(expected)
    return this.#inTurn(kind, id, async () => {
      const found = await this.#journal.document(kind, id)
      if (sameDocument(found, text)) return true
      if (!sameDocument(found, before)) return false
      await this.#put(kind, id, text)
      return true
    })
  }

  delete(kind: string, id: string, expected?: Value): Promise<void> {
    return this.#inTurn(kind, id, async () => {
      if (expected !== undefined && !sameDocument(await this.#journal.document(kind, id), JSON.stringify(expected))) return
      await this.#journal.change([{ kind: 'delete', of: kind, id }])
      this.#tell(kind, id, undefined)
    })
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

  async #put(kind: string, id: string, text: string): Promise<void> {
    await this.#journal.change([{ kind: 'put', of: kind, id, value: text }])
    this.#tell(kind, id, JSON.parse(text) as Value)
  }

  #tell(kind: string, id: string, value: Value | undefined): void {
    for (const listener of this.#listeners.get(kind) ?? []) listener(id, value)
  }

  /** Changes of one document take turns: a swap decides on what the one before it left. Others travel together. */
  #inTurn<T>(kind: string, id: string, change: () => Promise<T>): Promise<T> {
    const name = JSON.stringify([kind, id])
    const before = this.#turns.get(name)
    const result = before === undefined ? change() : before.then(change, change)
    const over = (): void => { if (this.#turns.get(name) === result) this.#turns.delete(name) }
    this.#turns.set(name, result)
    result.then(over, over)
    return result
  }
}

/** The order of a document's fields is nobody's content. */
export function sameDocument(one: string | undefined, other: string | undefined): boolean {
  return one === other || (one !== undefined && other !== undefined && isDeepStrictEqual(JSON.parse(one), JSON.parse(other)))
}
