import { hash, timingSafeEqual } from 'node:crypto'
import type { Clock } from '../clock.ts'
import { DEFAULT_CALENDAR } from '../config/config.ts'
import type { Account, Config, KeyConfig } from '../config/config.ts'
import type { Records } from '../stores/store.ts'
import type { AccountGrants } from '../metering/grant.ts'
import type { Subscription } from '../metering/subscription.ts'
import { endOf, lastServedMs } from '../metering/subscription.ts'
import { recordKinds, toBan, toRotation, toStoredAccount, toStoredKey, toStoredSubscription } from './account-records.ts'
import type { Ban, Rotation, StoredAccount, StoredKey, StoredSubscription } from './account-records.ts'
import { AccountRegister } from './account-register.ts'
import { actingChain } from './acting-account.ts'
import type { ActingChain } from './acting-account.ts'
import { GrantBooks, grantsInForce } from './grant-book.ts'
import type { GrantBook } from './grant-book.ts'
import type { Inactive, KeyDirectory, KeyLookup, Principal } from './principal.ts'

const unknown: KeyLookup = Object.freeze({ outcome: 'unknown' })

/** Parents may be nested this deep; the config says so with a sentence, this only ends loops. */
const chainMax = 8
/** How many keys are indexed before other work gets its turn: about five milliseconds' worth. */
const keysPerTurn = 10_000

/** The configured keys, indexed. Made beside the one in use and swapped in whole. */
export interface KeyIndex {
  readonly config: Config
  readonly byHash: ReadonlyMap<string, KeyConfig>
  readonly byId: ReadonlyMap<string, KeyConfig>
}

/**
 * All keys in memory: those of the YAML, indexed at each load, and those of the store, followed as they change. A lookup is one digest
 * and a few map reads; principals are built when first asked for and kept until something about them changes.
 */
export class StoredKeyDirectory implements KeyDirectory {
  #index: KeyIndex
  readonly #register: AccountRegister
  readonly #storedById = new Map<string, StoredKey>()
  readonly #storedByHash = new Map<string, string>()
  readonly #rotations = new Map<string, Rotation>()
  readonly #rotatedByHash = new Map<string, string>()
  readonly #revocations = new Map<string, Ban>()
  readonly #suspensions = new Map<string, Ban>()
  readonly #subscriptions = new Map<string, StoredSubscription>()
  readonly #grants = new GrantBooks()
  readonly #known = new Map<string, Known>()
  readonly #unwatch: (() => void)[] = []

  private constructor(index: KeyIndex) {
    this.#index = index
    this.#register = new AccountRegister(index.config, isOwnAccountIn(index))
  }

  static async open(records: Records, config: Config, clock: Clock): Promise<StoredKeyDirectory> {
    const directory = new StoredKeyDirectory(await indexKeys(config, clock))
    const followed: readonly [string, (id: string, value: Readonly<Record<string, unknown>> | undefined) => void][] = [
      [recordKinds.account, (id, value) => directory.#takeAccount(id, value === undefined ? undefined : toStoredAccount(value))],
      [recordKinds.key, (id, value) => directory.#takeKey(id, value === undefined ? undefined : toStoredKey(value))],
      [recordKinds.rotation, (id, value) => directory.#takeRotation(id, value === undefined ? undefined : toRotation(value))],
      [recordKinds.revocation, (id, value) => take(directory.#revocations, id, value === undefined ? undefined : toBan(value))],
      [recordKinds.suspension, (id, value) => take(directory.#suspensions, id, value === undefined ? undefined : toBan(value))],
      [recordKinds.subscription, (id, value) => directory.#takeSubscription(id, value === undefined ? undefined : toStoredSubscription(value))],
      [recordKinds.grant, (id, value) => directory.#grants.takeGrant(id, value)],
      [recordKinds.grantVoid, (id, value) => directory.#grants.takeVoid(id, value)],
    ]
    try {
      for (const [kind, changed] of followed) {
        // Watched first: a change between the two is then seen twice rather than never.
        directory.#unwatch.push(records.watch(kind, changed))
        for (const { id, value } of await records.list(kind)) changed(id, value)
      }
    } catch (error) {
      directory.close()
      throw error
    }
    return directory
  }

  /** Indexes another config without disturbing the one in use; `use` swaps it in. */
  prepare(config: Config, clock: Clock): Promise<KeyIndex> {
    return indexKeys(config, clock)
  }

  use(index: KeyIndex): void {
    this.#index = index
    this.#register.use(index.config, isOwnAccountIn(index))
    this.#known.clear()
  }

  find(secret: string, nowMs: number): KeyLookup {
    const digest = hash('sha256', secret, 'buffer')
    const hex = digest.toString('hex')
    const id = this.#index.byHash.get(hex)?.id ?? this.#rotatedByHash.get(hex) ?? this.#storedByHash.get(hex)
    // The compare is over digests, whose bytes a guesser does not choose; it guards against a map that matched loosely.
    if (id === undefined || !this.#holds(id, digest, hex, nowMs)) return unknown
    const { principal, inactive } = this.#about(id, nowMs)
    if (principal === null) return unknown
    return this.#suspended(principal) ?? inactive ?? { outcome: 'found', principal }
  }

  /** Whose key a secret is or was, whether it opens anything now or not; null: nobody's. For operators: the caller is told nothing of it. */
  ownerOf(secret: string, nowMs: number): { readonly account: string; readonly key: string } | null {
    const hex = hash('sha256', secret, 'hex')
    const made = this.#storedByHash.get(hex)
    // A key of the file hides one of the store that has its id: that one's secret is not the file's owner's.
    const id = this.#index.byHash.get(hex)?.id ?? this.#rotatedByHash.get(hex) ?? (made === undefined || this.#index.byId.has(made) ? undefined : made)
    const principal = id === undefined ? null : this.#about(id, nowMs).principal
    return principal === null ? null : { account: principal.account.id, key: principal.keyId }
  }

  /** What `find` would say of a key at an instant, whatever has been revoked, suspended or has expired since. */
  lookUp(keyId: string, atMs: number): KeyLookup {
    const { principal, inactive } = this.#about(keyId, atMs)
    return principal === null ? unknown : inactive ?? { outcome: 'found', principal }
  }

  grantsNow(principal: Principal, nowMs: number): Principal['grants'] {
    return this.#about(principal.keyId, nowMs).principal?.grants ?? principal.grants
  }

  close(): void {
    for (const stop of this.#unwatch.splice(0)) stop()
  }

  /** The config whose keys are in use. */
  get config(): Config {
    return this.#index.config
  }

  /** Every account that there is, of the file and of the store: the file's hides one of the store that has its name. */
  get accounts(): ReadonlyMap<string, Account> {
    return this.#register.accounts
  }

  /** What the store has, hidden ones too. */
  get storedAccounts(): ReadonlyMap<string, StoredAccount> {
    return this.#register.stored
  }

  isHiddenAccount(id: string): boolean {
    return this.#register.isHidden(id)
  }

  /** Why a stored account cannot be used; undefined: it can, or is hidden. */
  accountProblem(id: string): string | undefined {
    return this.#register.problemOf(id)
  }

  get storedKeys(): ReadonlyMap<string, StoredKey> {
    return this.#storedById
  }

  configuredKey(id: string): KeyConfig | undefined {
    return this.#index.byId.get(id)
  }

  rotationOf(keyId: string): Rotation | undefined {
    return this.#rotations.get(keyId)
  }

  revocationOf(keyId: string): Ban | undefined {
    return this.#revocations.get(keyId)
  }

  suspensionOf(accountId: string): Ban | undefined {
    return this.#suspensions.get(accountId)
  }

  /** What the store has of an account's subscription, also where the file has one, which wins. */
  get storedSubscriptions(): ReadonlyMap<string, StoredSubscription> {
    return this.#subscriptions
  }

  /** The account's own: the file's, else the store's. */
  subscriptionOf(accountId: string): Subscription | undefined {
    return this.accounts.get(accountId)?.subscription ?? this.#subscriptions.get(accountId)?.subscription
  }

  /** A key that names a plan is its own account. */
  isOwnAccount(id: string): boolean {
    const key = this.#index.byId.get(id) ?? this.#storedById.get(id)
    return key !== undefined && key.plan !== null
  }

  /** An account without the terms that depend on the time; undefined: there is none, nor a key that is its own account. */
  accountOf(id: string): Account | undefined {
    const key = this.#index.byId.get(id) ?? this.#storedById.get(id)
    return this.accounts.get(id) ?? (key === undefined || key.plan === null ? undefined : ownAccount(id, key.plan))
  }

  /** An account and those above it, with the terms that hold at an instant; empty when there is none of this name. */
  actingChainOf(accountId: string, atMs: number): ActingChain {
    const account = this.accountOf(accountId)
    return this.#acting(account === undefined || this.accounts.has(accountId) ? accountChain(this.accounts, accountId) : [account], atMs)
  }

  /** What the store has of the accounts' grants. */
  get grantBooks(): Pick<GrantBooks, 'accounts' | 'of'> {
    return this.#grants
  }

  /** Keys that name a plan: each is its own account. */
  *ownAccounts(): Iterable<string> {
    for (const { id, plan } of this.#index.byId.values()) if (plan !== null) yield id
    for (const [id, { plan }] of this.#storedById) if (plan !== null && !this.#index.byId.has(id)) yield id
  }

  /** Who the key is, whatever its state; undefined when its account or plan is gone. */
  principalOf(keyId: string, nowMs: number): Principal | undefined {
    return this.#about(keyId, nowMs).principal ?? undefined
  }

  /** Hashes that open this key now, each with the instant at which it stops; null: it does not. */
  hashesOf(keyId: string, nowMs: number): readonly { readonly hash: string; readonly untilMs: number | null }[] {
    const rotation = this.#rotations.get(keyId)
    const configured = this.#index.byId.get(keyId)?.hash ?? this.#storedById.get(keyId)?.hash
    const all = new Set([configured, rotation?.hash, ...(rotation?.previous.map((old) => old.hash) ?? [])])
    const live: { hash: string; untilMs: number | null }[] = []
    for (const each of all) {
      if (each === undefined) continue
      const untilMs = rotation?.previous.find((old) => old.hash === each)?.until_ms ?? null
      if (untilMs === null || nowMs < untilMs) live.push({ hash: each, untilMs })
    }
    return live
  }

  /** Does this secret open this key now? */
  #holds(id: string, digest: Buffer, hex: string, nowMs: number): boolean {
    if (this.#revocations.has(id)) return false
    const configured = this.#index.byId.get(id)
    const stored = this.#storedById.get(id)
    const expiresMs = configured === undefined ? (stored?.expires_ms ?? null) : configured.expiresMs
    if (expiresMs !== null && nowMs >= expiresMs) return false
    const rotation = this.#rotations.get(id)
    const retired = rotation?.previous.find((old) => old.hash === hex)
    if (retired !== undefined) return nowMs < retired.until_ms && same(digest, retired.hash)
    if (rotation !== undefined && same(digest, rotation.hash)) return true
    // A key of the YAML hides a stored one of the same id: one id, one owner.
    const current = configured?.hash ?? stored?.hash
    return current !== undefined && same(digest, current)
  }

  #about(id: string, nowMs: number): Known {
    const known = this.#known.get(id)
    if (known !== undefined && known.fromMs <= nowMs && nowMs < known.untilMs && this.#hasItsGrants(known)) return known
    const key = this.#index.byId.get(id) ?? toKeyConfig(id, this.#storedById.get(id))
    const chain = key === undefined ? [] : key.account === null ? (key.plan === null ? [] : [ownAccount(key.id, key.plan)]) : accountChain(this.accounts, key.account)
    const acting = this.#acting(chain, nowMs)
    const books = acting.chain.map((account) => this.#grants.of(account.id))
    const fresh: Known = {
      principal: key === undefined ? null : toPrincipal(key, acting, grantsOf(acting, books, nowMs)), inactive: toInactive(acting), fromMs: acting.fromMs, untilMs: acting.untilMs,
      books, grantChanges: this.#grants.changes,
    }
    this.#known.set(id, fresh)
    return fresh
  }

  /** Grants change more often than anything else of an account: those of another one leave it as it is. */
  #hasItsGrants(known: Known): boolean {
    if (known.grantChanges === this.#grants.changes) return true
    if (known.principal?.chain.some(({ id }, index) => this.#grants.of(id) !== known.books[index]) === true) return false
    known.grantChanges = this.#grants.changes
    return true
  }

  #acting(chain: readonly Account[], atMs: number): ActingChain {
    return actingChain(chain, this.config, (id) => this.#subscriptions.get(id)?.subscription, atMs)
  }

  /** By an operator: the config's or the store's word. */
  #suspended(principal: Principal): Inactive | undefined {
    const account = principal.chain.find(({ id, suspended }) => suspended || this.#suspensions.has(id))
    if (account === undefined) return undefined
    return { outcome: 'inactive', why: 'suspended', whose: account === principal.account ? 'own' : 'parent', sinceMs: this.#suspensions.get(account.id)?.at_ms ?? null, untilMs: null }
  }

  #takeAccount(id: string, account: StoredAccount | undefined): void {
    this.#register.take(id, account)
    this.#known.clear()
  }

  #takeKey(id: string, key: StoredKey | undefined): void {
    const before = this.#storedById.get(id)
    if (before !== undefined && this.#storedByHash.get(before.hash) === id) this.#storedByHash.delete(before.hash)
    take(this.#storedById, id, key)
    if (key !== undefined) this.#storedByHash.set(key.hash, id)
    this.#known.delete(id)
  }

  #takeSubscription(accountId: string, subscription: StoredSubscription | undefined): void {
    take(this.#subscriptions, accountId, subscription)
    // Whose keys are under this account is not worth an index: it happens a few times a day.
    this.#known.clear()
  }

  #takeRotation(id: string, rotation: Rotation | undefined): void {
    const before = this.#rotations.get(id)
    for (const old of before === undefined ? [] : [before.hash, ...before.previous.map((each) => each.hash)]) this.#rotatedByHash.delete(old)
    take(this.#rotations, id, rotation)
    for (const each of rotation === undefined ? [] : [rotation.hash, ...rotation.previous.map((old) => old.hash)]) this.#rotatedByHash.set(each, id)
  }
}

function isOwnAccountIn({ byId }: KeyIndex): (id: string) => boolean {
  return (id) => typeof byId.get(id)?.plan === 'string'
}

async function indexKeys(config: Config, clock: Clock): Promise<KeyIndex> {
  const byHash = new Map<string, KeyConfig>()
  const byId = new Map<string, KeyConfig>()
  let count = 0
  for (const key of config.keys) {
    byHash.set(key.hash, key)
    byId.set(key.id, key)
    count += 1
    if (count % keysPerTurn === 0) await clock.sleep(0)
  }
  return { config, byHash, byId }
}

/** What is known of a key while nothing that depends on the time changes. */
interface Known {
  /** null: the key names an account or plan that is gone. */
  readonly principal: Principal | null
  readonly inactive: Inactive | null
  readonly fromMs: number
  readonly untilMs: number
  /** What the store had of the grants of each account of the chain, and when that was last found to be so. */
  readonly books: readonly (GrantBook | undefined)[]
  grantChanges: number
}

function grantsOf({ chain, given }: ActingChain, books: Known['books'], nowMs: number): Principal['grants'] {
  const grants = new Map<string, AccountGrants>()
  for (const [index, { id }] of chain.entries()) {
    const ofFiles = given[index]
    const inForce = ofFiles === undefined ? undefined : grantsInForce(ofFiles, books[index], nowMs)
    if (inForce !== undefined) grants.set(id, inForce)
  }
  return grants.size === 0 ? undefined : grants
}

function toPrincipal(key: KeyConfig, { chain, plan }: ActingChain, grants: Principal['grants']): Principal | null {
  const [account] = chain
  const root = chain.at(-1)
  if (account === undefined || root === undefined || plan === undefined) return null
  return Object.freeze({
    keyId: key.id,
    account,
    chain: Object.freeze(chain),
    home: root.id,
    plan,
    keyLimits: key.limits,
    keyEntitlements: key.entitlements,
    ...(grants === undefined ? {} : { grants }),
    labels: Object.freeze({ ...account.labels, ...key.labels }),
    endUserFrom: key.endUserFrom,
  })
}

function toInactive({ chain, refused }: ActingChain): Inactive | null {
  if (refused === null) return null
  const { account, subscription, standing } = refused
  const whose = account.id === chain[0]?.id ? 'own' : 'parent'
  if (standing.state === 'pending') return { outcome: 'inactive', why: 'not_started', whose, startsMs: subscription.startMs }
  if (standing.state === 'suspended') return { outcome: 'inactive', why: 'suspended', whose, sinceMs: standing.sinceMs, untilMs: standing.untilMs }
  return {
    outcome: 'inactive', why: 'ended', whose, trial: subscription.kind === 'trial', endedMs: endOf(subscription) ?? 0, servedUntilMs: lastServedMs(subscription) ?? 0,
  }
}

/** The account, then its parents. Empty when one of them is missing: a key must not escape a parent's limits. */
function accountChain(accounts: ReadonlyMap<string, Account>, accountId: string): readonly Account[] {
  const chain: Account[] = []
  for (let id: string | null = accountId; id !== null;) {
    const account = accounts.get(id)
    if (account === undefined || chain.length === chainMax) return []
    chain.push(account)
    id = account.parent
  }
  return chain
}

/** A key that names a plan is its own account. */
export function ownAccount(id: string, plan: string): Account {
  return Object.freeze({
    id, plan, parent: null, calendar: DEFAULT_CALENDAR, limits: [], entitlements: {}, labels: {}, suspended: false, subscription: null, addOns: [], planHistory: [], where: 'key',
  })
}

function toKeyConfig(id: string, key: StoredKey | undefined): KeyConfig | undefined {
  if (key === undefined) return undefined
  return {
    id, hash: key.hash, account: key.account, plan: key.plan, limits: [], entitlements: {}, labels: {}, expiresMs: key.expires_ms, endUserFrom: null, where: 'store',
  }
}

function same(digest: Buffer, hex: string): boolean {
  const other = Buffer.from(hex, 'hex')
  return other.length === digest.length && timingSafeEqual(digest, other)
}

function take<T>(map: Map<string, T>, id: string, value: T | undefined): void {
  if (value === undefined) map.delete(id)
  else map.set(id, value)
}
