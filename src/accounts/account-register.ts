import { accountParts } from '../config/account-terms.ts'
import type { AccountParts, AccountTerms } from '../config/account-terms.ts'
import type { Account, Config } from '../config/config.ts'
import type { StoredAccount } from './account-records.ts'

/** Limits and entitlements that were read are remembered by their words: many accounts have the same. */
const remembered = 1_000

/**
 * All accounts: those of the file, and those made at run time, as far as no account of the file has their name. What is not in here cannot call: an account
 * whose terms cannot be read (a meter is gone) must not be served without its limits.
 */
export class AccountRegister {
  readonly #accounts = new Map<string, Account>()
  readonly #stored = new Map<string, StoredAccount>()
  /** Of stored ones that cannot be used, and why not. */
  readonly #problems = new Map<string, string>()
  readonly #read = new Map<string, AccountParts | readonly string[]>()
  #config: Config
  /** Is there a key in the file that is its own account under this name? */
  #isKey: (id: string) => boolean

  constructor(config: Config, isKey: (id: string) => boolean) {
    this.#config = config
    this.#isKey = isKey
    this.use(config, isKey)
  }

  get accounts(): ReadonlyMap<string, Account> {
    return this.#accounts
  }

  get stored(): ReadonlyMap<string, StoredAccount> {
    return this.#stored
  }

  /** The file has one of this name, which stands in front of the stored one. */
  isHidden(id: string): boolean {
    return this.#config.accounts.has(id) || this.#isKey(id)
  }

  /** Why a stored account cannot be used; undefined: it can. */
  problemOf(id: string): string | undefined {
    return this.#problems.get(id)
  }

  use(config: Config, isKey: (id: string) => boolean): void {
    this.#config = config
    this.#isKey = isKey
    this.#read.clear()
    this.#problems.clear()
    this.#accounts.clear()
    for (const [id, account] of config.accounts) this.#accounts.set(id, account)
    for (const id of this.#stored.keys()) this.#place(id)
  }

  take(id: string, stored: StoredAccount | undefined): void {
    if (stored === undefined) this.#stored.delete(id)
    else this.#stored.set(id, stored)
    this.#place(id)
  }

  #place(id: string): void {
    const configured = this.#config.accounts.get(id)
    const stored = this.#stored.get(id)
    this.#problems.delete(id)
    if (configured !== undefined) this.#accounts.set(id, configured)
    else if (stored === undefined || this.#isKey(id)) this.#accounts.delete(id)
    else {
      const parts = this.#partsOf(stored.terms)
      if ('calendar' in parts) this.#accounts.set(id, toAccount(id, stored, parts))
      else {
        this.#accounts.delete(id)
        this.#problems.set(id, parts.join('; '))
      }
    }
  }

  #partsOf(terms: AccountTerms): AccountParts | readonly string[] {
    const key = JSON.stringify([terms.limits, terms.entitlements])
    const known = this.#read.get(key)
    if (known !== undefined) return known
    const read = accountParts({ ...terms, plan: null, parent: null, timezone: null, anchor: null, labels: {}, add_ons: [] }, this.#config)
    if (this.#read.size >= remembered) this.#read.clear()
    this.#read.set(key, read)
    return read
  }
}

function toAccount(id: string, { terms, calendar, plans }: StoredAccount, { limits, entitlements }: AccountParts): Account {
  return Object.freeze({
    id, plan: terms.plan, parent: terms.parent, calendar, limits, entitlements, labels: terms.labels, suspended: false, subscription: null, addOns: terms.add_ons, planHistory: plans, where: 'store',
  })
}
