import type { Config } from '../config/config.ts'
import { encoded } from '../metering/limits/counter.ts'
import { recordKinds, toStoredAccount, toStoredKey } from './account-records.ts'

/** Parents may be nested this deep. */
const chainMax = 8

/**
 * The root account of whatever is counted or written down, by the accounts and keys as they are now. What is there no longer is its own root:
 * nobody can call under its name.
 */
export class AccountHomes {
  readonly #config: Config
  /** Of accounts made at run time. An account of the file hides one of the same id. */
  readonly #storedParents = new Map<string, string | null>()
  /** Whose the keys are, by the scope that counters' names begin with. A key that names a plan is its own account. */
  readonly #owners = new Map<string, string>()

  constructor(config: Config) {
    this.#config = config
    for (const { id, account } of config.keys) this.#owners.set(keyScope(id), account ?? id)
  }

  /** A document of the store: accounts and keys made at run time, in any order. */
  learn({ kind, id, value }: { readonly kind: string; readonly id: string; readonly value: Readonly<Record<string, unknown>> }): void {
    if (kind === recordKinds.account) this.#storedParents.set(id, toStoredAccount(value).terms.parent)
    const key = kind === recordKinds.key ? toStoredKey(value) : undefined
    // A key of the file hides a stored one of the same id.
    if (key !== undefined && !this.#owners.has(keyScope(id))) this.#owners.set(keyScope(id), key.account ?? id)
  }

  ofAccount(id: string): string {
    let root = id
    for (let depth = 0; depth < chainMax; depth++) {
      const configured = this.#config.accounts.get(root)
      const parent = configured === undefined ? this.#storedParents.get(root) ?? null : configured.parent
      if (parent === null) return root
      root = parent
    }
    return root
  }

  ofCounter(name: string): string {
    const [first = '', second] = name.split('|')
    // A grant's counter names its account, and no scope.
    const scope = second === undefined ? '' : first === 'grant' ? `account:${second}` : first
    // An end user is his key's.
    const of = scope.startsWith('end_user:') ? `key:${scope.slice('end_user:'.length).split('/')[0]}` : scope
    return this.ofAccount(this.#owners.get(of) ?? decoded(of.slice(of.indexOf(':') + 1)))
  }
}

function keyScope(id: string): string {
  return `key:${encoded(id)}`
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    if (error instanceof URIError) return text
    throw error
  }
}
