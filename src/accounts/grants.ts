import type { Clock } from '../clock.ts'
import { counterIdentity, whyNotExtended } from '../metering/extension.ts'
import { replaced } from '../metering/entitlement.ts'
import { DEFAULT_PRIORITY, extensionOf, grantEndsMs, LOOKED_AT_LATE_MS } from '../metering/grant.ts'
import type { AccountGrants, GrantSource } from '../metering/grant.ts'
import { grantLook } from '../metering/limits/counter.ts'
import type { Limit } from '../metering/limits/limit.ts'
import { METERS, meterName } from '../metering/meter.ts'
import type { BuiltinMeter, Meter } from '../metering/meter.ts'
import type { Random } from '../random.ts'
import type { Records, Store } from '../stores/store.ts'
import { ChangeRefused } from './account-changes.ts'
import type { AccountChanges } from './account-changes.ts'
import { recordKinds } from './account-records.ts'
import type { Ban } from './account-records.ts'
import type { ActingChain } from './acting-account.ts'
import { fromGrantRecordId, grantRecordId, placedGrants, recurringId, toGrantDocument, toStoredGrant } from './grant-book.ts'
import type { PlacedGrant, StoredGrant } from './grant-book.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { LATEST_MS, toldInstant } from './latest-instant.ts'

export interface NewGrant {
  readonly account: string
  /** undefined: one is made up. Given again with the same id, it is the same grant. */
  readonly id: string | undefined
  readonly limit: string
  /** Small units of the limit's meter. */
  readonly amount: number
  readonly priority: number | undefined
  /** undefined: from now on. */
  readonly effectiveMs: number | undefined
  /** null: never. */
  readonly expiresMs: number | null
  readonly source: Extract<GrantSource, 'operator' | 'purchase'>
  readonly note: string | null
}

export interface GrantOverview extends PlacedGrant {
  /** `unused`: the account has no limit now that it would extend. */
  readonly state: 'pending' | 'active' | 'spent' | 'unused' | 'expired' | 'revoked' | 'hidden'
  /** The limit that it extends; null: the account has none now. */
  readonly extends: Limit | null
}

export interface GrantStanding extends GrantOverview {
  /** What was drawn, in small units; null: it ended so long ago that nobody knows. */
  readonly used: number | null
}

/** What a grant had left when it expired. */
export interface Breakage {
  readonly account: string
  readonly grant: string
  readonly limit: string
  readonly meter: string
  readonly amount: number
  readonly left: number
  readonly expiredMs: number
  readonly atMs: number
}

const idGrammar = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$/
/** Each makes every call that it extends slower. */
const openMax = 200
const noneGiven: AccountGrants = { grants: [], extended: new Set() }

/** The grants of an account (null: of all), of files and of the store, those that are over too, as they stand at an instant. What files give anew in every period is there as of now. */
export function listGrants(directory: StoredKeyDirectory, account: string | null, nowMs: number): GrantOverview[] {
  const accounts = account === null ? new Set([...directory.accounts.keys(), ...directory.ownAccounts(), ...directory.grantBooks.accounts]) : [account]
  const found: GrantOverview[] = []
  for (const id of accounts) {
    const acting = directory.actingChainOf(id, nowMs)
    const placed = placedGrants(acting.given[0] ?? noneGiven, directory.grantBooks.of(id))
    if (placed.length === 0) continue
    const limits = limitsIn(acting).filter((limit) => whyNotExtended(limit) === null)
    for (const grant of placed) found.push(overviewOf(grant, limits.find((limit) => extensionOf({ limit: limit.name, meter: meterName(limit.meter) }) === extensionOf(grant)) ?? null, nowMs))
  }
  return found.sort((a, b) => compare(a.account, b.account) || compare(a.limit, b.limit) || a.createdMs - b.createdMs || compare(a.id, b.id))
}

function overviewOf(grant: PlacedGrant, limit: Limit | null, nowMs: number): GrantOverview {
  const { voidedMs, expiresMs, effectiveMs, spentMs, hidden } = grant
  const over = voidedMs !== null && (expiresMs === null || voidedMs < expiresMs) && voidedMs <= nowMs ? 'revoked' : expiresMs !== null && expiresMs <= nowMs ? 'expired' : null
  return { ...grant, extends: limit, state: hidden ? 'hidden' : over ?? (spentMs !== null ? 'spent' : effectiveMs > nowMs ? 'pending' : limit === null ? 'unused' : 'active') }
}

/** The limits of an account itself, as calls of its keys are held against them, whatever those keys have of their own. */
export function limitsIn({ chain: [own], plan }: Pick<ActingChain, 'chain' | 'plan'>): readonly Limit[] {
  return own === undefined ? [] : replaced(plan?.limits ?? [], own.limits)
}

/** The root above an account: where its counters are. */
function homeOf(directory: StoredKeyDirectory, account: string, atMs: number): string {
  return directory.actingChainOf(account, atMs).chain.at(-1)?.id ?? account
}

/** What was recorded as left when grants expired, of an account (null: of all), by instant. */
export async function listBreakage(records: Records, account: string | null): Promise<readonly Breakage[]> {
  const all = await records.list(recordKinds.breakage)
  return all.map(({ id, value }) => toBreakage(id, value)).filter((each) => account === null || each.account === account).sort((a, b) => a.expiredMs - b.expiredMs || compare(a.account, b.account))
}

export function toBreakage(recordId: string, { limit, meter, amount, left, expired_ms, at_ms }: Readonly<Record<string, unknown>>): Breakage {
  const { account, grant } = fromGrantRecordId(recordId)
  return { account, grant, limit: String(limit), meter: String(meter), amount: Number(amount), left: Number(left), expiredMs: Number(expired_ms), atMs: Number(at_ms) }
}

/** Grants that operators give and take back at run time. Those of files are changed there; taking back works wherever they stand. */
export class GrantChanges {
  readonly #store: Pick<Store, 'records' | 'balances'>
  readonly #directory: StoredKeyDirectory
  readonly #audit: Pick<AccountChanges, 'note'>
  readonly #clock: Clock
  readonly #random: Random

  constructor(store: Pick<Store, 'records' | 'balances'>, directory: StoredKeyDirectory, audit: Pick<AccountChanges, 'note'>, clock: Clock, random: Random) {
    this.#store = store
    this.#directory = directory
    this.#audit = audit
    this.#clock = clock
    this.#random = random
  }

  /** The grants with what was drawn. Rejects with StoreUnavailable. */
  async standing(account: string | null): Promise<readonly GrantStanding[]> {
    const nowMs = this.#clock.nowMs()
    const grants = listGrants(this.#directory, account, nowMs)
    const standing: GrantStanding[] = []
    for (const id of new Set(grants.map((each) => each.account))) {
      const own = grants.filter((each) => each.account === id)
      const balances = await this.#store.balances(homeOf(this.#directory, id, nowMs), own.map(grantLook))
      own.forEach((grant, index) => {
        const forgotten = (grantEndsMs(grant) ?? Infinity) + LOOKED_AT_LATE_MS <= nowMs
        standing.push({ ...grant, used: forgotten ? null : balances[index]?.used ?? 0 })
      })
    }
    return standing
  }

  breakage(account: string | null): Promise<readonly Breakage[]> {
    return listBreakage(this.#store.records, account)
  }

  /** undefined: there is none of this name now. */
  meterOf(name: string): Meter | undefined {
    const { meters, moneyScale } = this.#directory.config
    const weighted = meters.get(name)
    if (weighted !== undefined) return { kind: 'weighted', weighted }
    return isBuiltin(name) ? { kind: 'builtin', name, ...(name === 'cost' ? { scale: 10 ** moneyScale } : {}) } : undefined
  }

  /** The limit that a grant would extend: whose meter says what its amount is. */
  limitOf(account: string, name: string): Limit {
    if (this.#directory.accountOf(account) === undefined) throw new ChangeRefused('not_found', `there is no account "${account}"`)
    const limits = limitsIn(this.#directory.actingChainOf(account, this.#clock.nowMs()))
    const limit = limits.find((each) => each.name === name)
    if (limit === undefined) throw new ChangeRefused('not_found', `the account "${account}" has no limit "${name}"; it has ${limits.map((each) => each.name).join(', ') || 'none'}`)
    const why = whyNotExtended(limit)
    if (why !== null) throw new ChangeRefused('invalid', `${name} ${why}`)
    return limit
  }

  /** Gives a grant. The same one under the same id is answered alike, and given once. */
  async add(wish: NewGrant, who: string): Promise<GrantStanding> {
    const { account } = wish
    const nowMs = this.#clock.nowMs()
    const id = wish.id ?? `grant-${Buffer.from(this.#random.bytes(6)).toString('hex')}`
    if (!idGrammar.test(id)) throw new ChangeRefused('invalid', 'an id is 1 to 64 letters, digits and . _ + -, beginning with a letter or digit')
    if (id.startsWith('rollover-')) throw new ChangeRefused('invalid', 'ids that begin with rollover- are those of what periods leave; choose another')
    if (id === wish.limit) throw new ChangeRefused('invalid', `the id is the name of its limit: events and explain could not tell the two apart; call it something else, such as ${id}-extra`)
    const limit = this.limitOf(account, wish.limit)
    const recordId = grantRecordId(account, id)
    const known = await this.#store.records.get(recordKinds.grant, recordId)
    if (known !== undefined) return this.#standingOf(this.#theSame(toStoredGrant(recordId, known), wish, id), limit)
    const grant: StoredGrant = {
      id, account, limit: limit.name, meter: meterName(limit.meter), amount: wish.amount, priority: wish.priority ?? DEFAULT_PRIORITY, effectiveMs: wish.effectiveMs ?? nowMs, expiresMs: wish.expiresMs,
      createdMs: nowMs, createdBy: who, source: wish.source, voidedMs: null, note: wish.note, spentMs: null,
    }
    this.#check(grant, limit, nowMs)
    const document = toGrantDocument(grant)
    await this.#audit.note(who, 'grant.add', recordId, document)
    if (await this.#store.records.swap(recordKinds.grant, recordId, undefined, document)) return this.#standingOf(grant, limit)
    await this.#audit.note(who, 'grant.add_refused', recordId, { reason: 'given at the same time elsewhere' })
    const other = await this.#store.records.get(recordKinds.grant, recordId)
    return this.#standingOf(this.#theSame(other === undefined ? undefined : toStoredGrant(recordId, other), wish, id), limit)
  }

  /** What is left of it is gone, from now on; of one that recurs by its own id, of all that would come too. Gives since when. */
  async revoke(account: string, id: string, reason: string | null, who: string): Promise<{ readonly sinceMs: number }> {
    const nowMs = this.#clock.nowMs()
    const named = listGrants(this.#directory, account, nowMs).filter((grant) => grant.id === id || (grant.where === 'file' && recurringId(grant.id) === id))
    if (named.length === 0 && await this.#store.records.get(recordKinds.grant, grantRecordId(account, id)) === undefined) throw new ChangeRefused('not_found', `the account "${account}" has no grant "${id}"`)
    const known = this.#directory.grantBooks.of(account)?.voids.get(id)
    if (known !== undefined) return { sinceMs: known.at_ms }
    const over = named.find((grant) => grant.id === id && grant.state === 'expired')
    if (over !== undefined) throw new ChangeRefused('conflict', `the grant "${id}" expired at ${toldInstant(over.expiresMs ?? 0)}`)
    const ban: Ban = { at_ms: nowMs, by: who, reason }
    const recordId = grantRecordId(account, id)
    await this.#audit.note(who, 'grant.revoke', recordId, reason === null ? {} : { reason })
    await this.#store.records.put(recordKinds.grantVoid, recordId, { ...ban })
    return { sinceMs: nowMs }
  }

  /** Of one that the directory may not have heard of yet. */
  async #standingOf(grant: StoredGrant, limit: Limit): Promise<GrantStanding> {
    const nowMs = this.#clock.nowMs()
    const voidedMs = this.#directory.grantBooks.of(grant.account)?.voids.get(grant.id)?.at_ms ?? null
    const [balance] = await this.#store.balances(homeOf(this.#directory, grant.account, nowMs), [grantLook(grant)])
    return { ...overviewOf({ ...grant, voidedMs, where: 'store', hidden: false }, limit, nowMs), used: balance?.used ?? 0 }
  }

  #check(grant: StoredGrant, limit: Limit, nowMs: number): void {
    const { account, id, amount, priority, effectiveMs, expiresMs, note } = grant
    if (!Number.isSafeInteger(amount) || amount < 1) throw new ChangeRefused('invalid', 'a grant of nothing extends nothing')
    if (!Number.isInteger(priority) || priority < 1 || priority > 255) throw new ChangeRefused('invalid', 'a priority is 1 to 255')
    if (note !== null && note.length > 256) throw new ChangeRefused('invalid', 'a note is 256 characters long at most')
    if (expiresMs !== null && expiresMs <= effectiveMs) throw new ChangeRefused('invalid', 'it expires before it is effective')
    if (expiresMs !== null && expiresMs <= nowMs) throw new ChangeRefused('invalid', 'it would already have expired')
    if (Math.max(effectiveMs, expiresMs ?? 0) > LATEST_MS) throw new ChangeRefused('invalid', 'it would be effective or expire after the year 9999; without an expiry it never does')
    const all = listGrants(this.#directory, account, nowMs)
    const ofFile = all.find((each) => each.where === 'file' && (each.id === id || recurringId(each.id) === id))
    if (ofFile !== undefined) throw new ChangeRefused('conflict', `the grant "${id}" of "${account}" stands in a file: it is changed there; \`grants revoke\` works all the same`)
    const open = all.filter((each) => each.state === 'active' || each.state === 'pending')
    const beside = open.filter((each) => each.limit === limit.name)
    if (beside.length >= openMax) throw new ChangeRefused('conflict', `${limit.name} has ${openMax} open grants already`)
    if (beside.reduce((sum, each) => sum + each.amount, amount + (limit.ceiling ?? 0)) > Number.MAX_SAFE_INTEGER) throw new ChangeRefused('invalid', `${limit.name} and its grants would add up to more than can be counted exactly (2^53 - 1)`)
    const rival = open.find((each) => each.extends !== null && each.limit !== limit.name && counterIdentity(each.extends) === counterIdentity(limit))
    if (rival !== undefined) throw new ChangeRefused('conflict', `${limit.name} and ${rival.limit} share their counter, and grants extend ${rival.limit} already; give it to that one`)
  }

  #theSame(known: StoredGrant | undefined, wish: NewGrant, id: string): StoredGrant {
    const same = known !== undefined && known.limit === wish.limit && known.amount === wish.amount && known.priority === (wish.priority ?? DEFAULT_PRIORITY)
      && known.expiresMs === wish.expiresMs && known.source === wish.source && known.note === wish.note && (wish.effectiveMs === undefined || known.effectiveMs === wish.effectiveMs)
    if (!same) throw new ChangeRefused('conflict', `there is another grant "${id}" of "${wish.account}" already; give each an id of its own`)
    return known
  }
}

function isBuiltin(name: string): name is BuiltinMeter {
  return Object.hasOwn(METERS, name)
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
