import type { Clock } from '../clock.ts'
import { NO_TERMS, accountParts } from '../config/account-terms.ts'
import type { AccountTerms } from '../config/account-terms.ts'
import type { Account, Config, Plan } from '../config/config.ts'
import { accountScopeId } from '../metering/entitlement.ts'
import { encoded } from '../metering/limits/counter.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { isMoney } from '../metering/limits/window.ts'
import { draftStanding } from '../metering/reservation.ts'
import type { Store } from '../stores/store.ts'
import { ChangeRefused, idGrammar, mustBeChangeId } from './account-changes.ts'
import type { AccountChanges } from './account-changes.ts'
import { recordKinds, toAccountDocument, toStoredAccount } from './account-records.ts'
import type { StoredAccount } from './account-records.ts'
import { actingCalendar, planHistory, rememberCalendar, rememberedCalendar } from './calendars.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import type { Intent } from './subscriptions.ts'

/** What to change; what is absent stays as it is. */
export type AccountWishes = Partial<AccountTerms>

type Books = Pick<Store, 'records' | 'due' | 'balances'>

const changesKept = 50
const tries = 5
/** As deep as the file may have them. */
const levelsMax = 4

/** Accounts that operators make and change at run time. Those of the file are changed there; any account is suspended with AccountChanges. */
export class MadeAccounts {
  readonly #books: Books
  readonly #directory: StoredKeyDirectory
  readonly #audit: Pick<AccountChanges, 'note'>
  readonly #clock: Clock

  constructor(books: Books, directory: StoredKeyDirectory, audit: Pick<AccountChanges, 'note'>, clock: Clock) {
    this.#books = books
    this.#directory = directory
    this.#audit = audit
    this.#clock = clock
  }

  /** Makes an account, or changes the one there is. */
  async set(id: string, wishes: AccountWishes, intent: Intent): Promise<StoredAccount> {
    const { who, changeId } = intent
    const { records } = this.#books
    const action = 'account.set'
    mustBeChangeId(changeId)
    if (!idGrammar.test(id)) throw new ChangeRefused('invalid', 'an id is 1 to 128 letters, digits and . _ @ + -, beginning with a letter or digit')
    this.#mustBeOurs(id)
    for (let attempt = 0; attempt < tries; attempt++) {
      const document = await records.get(recordKinds.account, id)
      const known = document === undefined ? undefined : toStoredAccount(document)
      if (known !== undefined && known.changes.some((change) => change.id === changeId)) return known
      mustMatch(known, intent, id)
      if (known === undefined && this.#directory.isOwnAccount(id)) throw new ChangeRefused('conflict', `"${id}" is a key that is its own account: an account needs another id`)
      const terms: AccountTerms = { ...(known?.terms ?? NO_TERMS), ...wishes }
      if (known !== undefined && changeId === undefined && sameTerms(known.terms, terms)) return known
      const nowMs = this.#clock.nowMs()
      const { account, plan } = this.#checked(id, terms)
      this.#mustStayUnderItsRoot(id, terms.parent, known)
      // An account that was in the file before goes on with the calendar that was in force there.
      const before = known ?? rememberedCalendar(await records.get(recordKinds.calendar, id))
      const revision = (known?.revision ?? 0) + 1
      const made: StoredAccount = {
        terms, revision, created_ms: known?.created_ms ?? nowMs, created_by: known?.created_by ?? who,
        calendar: actingCalendar(account.calendar, before?.calendar, nowMs), plans: planHistory(plan, before?.plans ?? [], nowMs),
        changes: [...(known?.changes ?? []), { id: changeId ?? `${action}-${revision}`, action, revision, at_ms: nowMs, by: who }].slice(-changesKept),
      }
      await this.#audit.note(who, action, id, { ...terms, revision, ...(changeId === undefined ? {} : { change: changeId }) })
      if (await records.swap(recordKinds.account, id, document, toAccountDocument(made))) {
        await rememberCalendar(records, id, made)
        return made
      }
      await this.#audit.note(who, `${action}_refused`, id, { revision, reason: 'changed at the same time elsewhere' })
    }
    throw new ChangeRefused('conflict', `the account "${id}" is being changed elsewhere all the time; try again`)
  }

  /** Its counters and events stay. Gives whether there was one. */
  async remove(id: string, intent: Intent): Promise<boolean> {
    const { records } = this.#books
    const document = await records.get(recordKinds.account, id)
    if (document === undefined) {
      this.#mustBeOurs(id)
      return false
    }
    mustMatch(toStoredAccount(document), intent, id)
    // A hidden one serves nobody: what has its name belongs to the one of the file.
    if (!this.#directory.isHiddenAccount(id)) await this.#mustBeUnused(id)
    await this.#audit.note(intent.who, 'account.remove', id, {})
    await records.delete(recordKinds.account, id)
    return true
  }

  /** Another configuration is about to be used: a new version of a plan is noted with the accounts that are on it. */
  async notePlans({ accounts, plans: offered }: Pick<Config, 'accounts' | 'plans'>): Promise<void> {
    const nowMs = this.#clock.nowMs()
    const { records } = this.#books
    for (const [id, stored] of this.#directory.storedAccounts) {
      if (accounts.has(id)) continue
      const plans = planHistory(stored.terms.plan === null ? undefined : offered.get(stored.terms.plan), stored.plans, nowMs)
      if (plans === stored.plans) continue
      const document = await records.get(recordKinds.account, id)
      // Who was faster, an operator or another replica, has noted it too.
      if (document !== undefined) await records.swap(recordKinds.account, id, document, toAccountDocument({ ...toStoredAccount(document), plans }))
    }
  }

  #planNamed(name: string | null): Plan | undefined {
    return name === null ? undefined : this.#directory.config.plans.get(name)
  }

  #mustBeOurs(id: string): void {
    const { config } = this.#directory
    const configured = config.accounts.get(id)
    if (configured !== undefined) throw new ChangeRefused('conflict', `the account "${id}" stands in ${configured.where}: it is changed there; \`accounts suspend\` works all the same`)
    const key = this.#directory.configuredKey(id)
    if (key !== undefined && key.plan !== null) throw new ChangeRefused('conflict', `"${id}" is a key in ${key.where} that is its own account: an account needs another id`)
  }

  /** Reads the terms and looks whether everything that they name is there. */
  #checked(id: string, terms: AccountTerms): { readonly account: Pick<Account, 'calendar' | 'limits'>; readonly plan: Plan | undefined } {
    const { config, accounts } = this.#directory
    const parts = accountParts(terms, config)
    if (!('calendar' in parts)) throw new ChangeRefused('invalid', parts.join('; '))
    const plan = this.#planNamed(terms.plan)
    if (terms.plan !== null && plan === undefined) throw new ChangeRefused('not_found', `there is no plan "${terms.plan}"`)
    for (const name of terms.add_ons) if (!config.addOns.has(name)) throw new ChangeRefused('not_found', `there is no add-on "${name}"`)
    if (terms.parent !== null && !accounts.has(terms.parent)) throw new ChangeRefused('not_found', `there is no account "${terms.parent}"`)
    const own: Placed = { id, plan: terms.plan, parent: terms.parent, limits: parts.limits }
    const after: LookUp = { get: (name) => (name === id ? own : accounts.get(name)) }
    const under = [...accounts.values()].some(({ parent }) => parent === id) ? [...accounts.keys()] : []
    for (const each of [id, ...under]) {
      const chain = chainOf(after, each)
      if (!chain.some((level) => level.id === id)) continue
      if (chain.length > levelsMax) throw new ChangeRefused('invalid', chain.at(-1)?.parent === null ? `parent: puts the account "${each}" ${chain.length} levels deep; ${levelsMax} are the most` : 'parent: comes back to this account: accounts would be under each other in a circle')
      mustBePriced(chain, config)
    }
    return { account: parts, plan }
  }

  /** Counters lie with the root account: under another one they would begin anew, and what is pending would be let go of where nobody looks. */
  #mustStayUnderItsRoot(id: string, parent: string | null, known: StoredAccount | undefined): void {
    const { accounts } = this.#directory
    if (known === undefined || known.terms.parent === parent || !accounts.has(id)) return
    const before = chainOf(accounts, id).at(-1)?.id ?? id
    const after = parent === null ? id : chainOf(accounts, parent).at(-1)?.id ?? parent
    if (before === after) return
    const key = this.#keysUnder(id)[0]
    if (key === undefined) return
    throw new ChangeRefused('conflict', `the account "${id}" is under "${before}", where its counters lie, and has been called with (key "${key}"): it cannot move under "${after}"; make another account there`)
  }

  /** Keys of the account and of those under it, whatever their state. */
  #keysUnder(id: string): readonly string[] {
    const { accounts, storedKeys, config } = this.#directory
    const isUnder = (account: string | null): boolean => account !== null && chainOf(accounts, account).some((level) => level.id === id)
    const keys = [...config.keys.map((key) => [key.id, key.account] as const), ...[...storedKeys].map(([keyId, { account }]) => [keyId, account] as const)]
    return keys.filter(([, account]) => isUnder(account)).map(([keyId]) => keyId)
  }

  async #mustBeUnused(id: string): Promise<void> {
    const { accounts, storedKeys, storedSubscriptions, config } = this.#directory
    const nowMs = this.#clock.nowMs()
    const child = [...accounts.values()].find(({ parent }) => parent === id)
    if (child !== undefined) throw new ChangeRefused('conflict', `the account "${child.id}" is under "${id}"; remove it first`)
    if (storedSubscriptions.has(id)) throw new ChangeRefused('conflict', `"${id}" has a subscription; remove it first`)
    const keys = [...storedKeys].filter(([, { account }]) => account === id)
    const inUse = keys.find(([keyId, { expires_ms }]) => this.#directory.revocationOf(keyId) === undefined && (expires_ms === null || expires_ms > nowMs))
    if (inUse !== undefined) throw new ChangeRefused('conflict', `the key "${inUse[0]}" belongs to "${id}"; revoke it first`)
    const pending = (): ChangeRefused => new ChangeRefused('conflict', `calls of "${id}" are still running, or its seats are still held; try again when they have ended`)
    const isRoot = accounts.get(id)?.parent === null
    if (isRoot && (await this.#books.due(Number.MAX_SAFE_INTEGER)).some(({ home }) => home === id)) throw pending()
    for (const [keyId] of keys) {
      const principal = this.#directory.principalOf(keyId, nowMs)
      if (principal === undefined) continue
      const { checks } = draftStanding(principal, config.plans, nowMs)
      const balances = checks.length === 0 ? [] : await this.#books.balances(principal.home, checks)
      const own = [`${accountScopeId(id)}|`, `key:${encoded(keyId)}|`]
      if (checks.some(({ slots }, index) => own.some((scope) => slots[0]?.startsWith(scope) === true) && (balances[index]?.reserved ?? 0) > 0)) throw pending()
    }
  }
}

interface LookUp { get(id: string): Placed | undefined }
type Placed = Pick<Account, 'id' | 'plan' | 'parent' | 'limits'>

/** The account, then its parents; one more than there may be where they do not end. */
function chainOf(accounts: LookUp, id: string): readonly Placed[] {
  const chain: Placed[] = []
  for (let at = accounts.get(id); at !== undefined && chain.length <= levelsMax; at = at.parent === null ? undefined : accounts.get(at.parent)) chain.push(at)
  return chain
}

/** Money can be limited only where what counts toward it has a price, and all of it in one currency. */
function mustBePriced(chain: readonly Placed[], { plans }: Pick<Config, 'plans'>): void {
  const planOf = (from: number): Plan | undefined => {
    const name = chain.slice(from).find(({ plan }) => plan !== null)?.plan
    return name === undefined || name === null ? undefined : plans.get(name)
  }
  const plan = planOf(0)
  if (plan === undefined) return
  for (const [index, { id, limits }] of chain.entries()) {
    const own = planOf(index)
    const limit = [...limits, ...(index > 0 ? own?.limits ?? [] : [])].find((each: Limit) => isMoney(each))
    if (limit === undefined) continue
    if (plan.prices === null) throw new ChangeRefused('invalid', `"${limit.name}" of the account "${id}" limits cost, but the plan "${plan.name}" has no prices`)
    if (own !== undefined && own.prices !== null && own.prices.currency !== plan.prices.currency) {
      throw new ChangeRefused('invalid', `"${limit.name}" of the account "${id}" limits cost, but its plans are priced in ${own.prices.currency} and in ${plan.prices.currency}`)
    }
  }
}

function mustMatch(known: StoredAccount | undefined, { revision }: Intent, id: string): void {
  const found = known?.revision ?? 0
  if (revision === undefined || revision === found) return
  if (revision === 0) throw new ChangeRefused('conflict', `there is already an account "${id}" (store, revision ${found}); \`accounts set\` changes it`)
  throw new ChangeRefused('conflict', found === 0 ? `there is no account "${id}" in the store` : `the account "${id}" is at revision ${found}, not ${revision}: somebody has changed it; look again`)
}

/** The order of fields means nothing; that of limits does. */
function sameTerms(one: AccountTerms, other: AccountTerms): boolean {
  const text = (terms: AccountTerms): string => JSON.stringify(terms, (_, value: unknown) => (
    typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value))
  return text(one) === text(other)
}
