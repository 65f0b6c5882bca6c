import type { Config } from '../config/config.ts'
import { accountScopeId } from '../metering/entitlement.ts'
import { encoded } from '../metering/limits/counter.ts'
import { recordKinds, toStoredAccount, toStoredKey } from './account-records.ts'

/** Parents may be nested this deep. */
const chainMax = 8

/**
 * The root account of whatever is counted or written down, by the accounts and keys as they are configured now. What is configured no longer is its own root:
 * nobody can call under its name.
 */
export class AccountHomes {
  readonly #config: Config
  /** Parents of accounts, of the file and of the store. */
  readonly #parents = new Map<string, string | null>()
  /** Accounts of stored keys, which may be under accounts that are learnt later. */
  readonly #learnt = new Map<string, string | null>()
  /** By the scope that counters' names begin with. */
  readonly #byScope = new Map<string, string>()

  constructor(config: Config) {
    this.#config = config
    for (const id of config.accounts.keys()) this.#byScope.set(accountScopeId(id), this.ofAccount(id))
    for (const { id, account } of config.keys) this.#addKey(id, account)
  }

  /** A document of the store: keys made at run time. */
  learn({ kind, id, value }: { readonly kind: string; readonly id: string; readonly value: Readonly<Record<string, unknown>> }): void {
    const key = kind === recordKinds.key ? toStoredKey(value) : undefined
    // A key of the file hides a stored one of the same id.
    if (key !== undefined && !this.#byScope.has(keyScope(id))) this.#addKey(id, key.account)
  }

  ofAccount(id: string): string {
    let root = id
    for (let depth = 0; depth < chainMax; depth++) {
      const parent = this.#config.accounts.get(root)?.parent ?? null
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
    return this.#byScope.get(of) ?? decoded(of.slice(of.indexOf(':') + 1))
  }

  #addKey(id: string, account: string | null): void {
    this.#byScope.set(keyScope(id), account === null ? id : this.ofAccount(account))
    // A key that names a plan is its own account.
    if (account === null) this.#byScope.set(accountScopeId(id), id)
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
