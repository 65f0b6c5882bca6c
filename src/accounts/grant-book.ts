import { DEFAULT_PRIORITY, extensionOf, grantEndsMs, GRANT_SOURCES } from '../metering/grant.ts'
import type { AccountGrants, MeteredGrant } from '../metering/grant.ts'
import { toBan } from './account-records.ts'
import type { Ban } from './account-records.ts'
import { LATEST_MS, LATEST_SECOND_MS } from './latest-instant.ts'

type Document = Readonly<Record<string, unknown>>

/** A grant made at run time: by an operator, or of what a period left. */
export interface StoredGrant extends MeteredGrant {
  readonly createdBy: string
  /** Found to be used up, and left out of calls since, which it would make slower; null: not yet. */
  readonly spentMs: number | null
}

/** What the store has of one account's grants. */
export interface GrantBook {
  readonly stored: ReadonlyMap<string, StoredGrant>
  /** By the id of the grant, stored or of a file; of one that recurs also without its period, which takes all of it back. */
  readonly voids: ReadonlyMap<string, Ban>
}

/** An account's ids have no `/`, a grant's may. */
export function grantRecordId(account: string, grant: string): string {
  return `${account}/${grant}`
}

export function fromGrantRecordId(id: string): { readonly account: string; readonly grant: string } {
  const at = id.indexOf('/')
  return { account: id.slice(0, at), grant: id.slice(at + 1) }
}

/** undefined: it cannot be read, and gives nothing. */
export function toStoredGrant(recordId: string, value: Document): StoredGrant | undefined {
  const { account, grant: id } = fromGrantRecordId(recordId)
  const { limit, meter, amount, priority, effective_ms, expires_ms, created_ms, created_by, source, note, spent_ms } = value
  if (typeof limit !== 'string' || typeof meter !== 'string' || typeof amount !== 'number' || !Number.isSafeInteger(amount) || amount < 0) return undefined
  if (typeof effective_ms !== 'number' || (expires_ms !== null && typeof expires_ms !== 'number')) return undefined
  return {
    id, account, limit, meter, amount, priority: typeof priority === 'number' ? priority : DEFAULT_PRIORITY, effectiveMs: effective_ms,
    // Every answer and notice tells it as an instant; a rollover could once be made to last longer than those go.
    expiresMs: expires_ms !== null && expires_ms > LATEST_MS ? LATEST_SECOND_MS : expires_ms,
    createdMs: typeof created_ms === 'number' ? created_ms : 0, createdBy: typeof created_by === 'string' ? created_by : 'unknown',
    source: GRANT_SOURCES.find((each) => each === source) ?? 'operator', voidedMs: null, note: typeof note === 'string' ? note : null, spentMs: typeof spent_ms === 'number' ? spent_ms : null,
  }
}

export function toGrantDocument({ limit, meter, amount, priority, effectiveMs, expiresMs, createdMs, createdBy, source, note, spentMs }: StoredGrant): Document {
  return {
    limit, meter, amount, priority, effective_ms: effectiveMs, expires_ms: expiresMs, created_ms: createdMs, created_by: createdBy, source, note, ...(spentMs === null ? {} : { spent_ms: spentMs }),
  }
}

const emptyBook: GrantBook = Object.freeze({ stored: new Map(), voids: new Map() })

/** The grants of the store by account, followed as they change. A book is never changed: there is another one then. */
export class GrantBooks {
  readonly #books = new Map<string, GrantBook>()
  #changes = 0

  /** Rises with every change of any book. */
  get changes(): number {
    return this.#changes
  }

  get accounts(): Iterable<string> {
    return this.#books.keys()
  }

  of(account: string): GrantBook | undefined {
    return this.#books.get(account)
  }

  takeGrant(recordId: string, value: Document | undefined): void {
    const { account, grant } = fromGrantRecordId(recordId)
    const book = this.#books.get(account) ?? emptyBook
    this.#place(account, { ...book, stored: changed(book.stored, grant, value === undefined ? undefined : toStoredGrant(recordId, value)) })
  }

  takeVoid(recordId: string, value: Document | undefined): void {
    const { account, grant } = fromGrantRecordId(recordId)
    const book = this.#books.get(account) ?? emptyBook
    this.#place(account, { ...book, voids: changed(book.voids, grant, value === undefined ? undefined : toBan(value)) })
  }

  #place(account: string, book: GrantBook): void {
    this.#changes += 1
    if (book.stored.size === 0 && book.voids.size === 0) this.#books.delete(account)
    else this.#books.set(account, book)
  }
}

/** A grant with where it stands. */
export interface PlacedGrant extends MeteredGrant {
  /** `file`, or `store`. */
  readonly where: 'file' | 'store'
  readonly createdBy: string | null
  readonly spentMs: number | null
  /** A grant of the file has its id. */
  readonly hidden: boolean
}

/** All grants of an account, those that are over or taken back too. `given`: what files give it. */
export function placedGrants(given: AccountGrants, book: GrantBook | undefined): readonly PlacedGrant[] {
  const ofFile = given.grants.map((grant): PlacedGrant => ({ ...grant, voidedMs: voidOf(grant.id, book)?.at_ms ?? null, where: 'file', createdBy: null, spentMs: null, hidden: false }))
  if (book === undefined) return ofFile
  const ids = new Set(ofFile.map(({ id }) => id))
  const stored = [...book.stored.values()].map((grant): PlacedGrant => ({ ...grant, voidedMs: book.voids.get(grant.id)?.at_ms ?? null, where: 'store', hidden: ids.has(grant.id) }))
  return [...ofFile, ...stored]
}

/** What extends the account's limits from `atMs` on; undefined: it never had a grant. */
export function grantsInForce(given: AccountGrants, book: GrantBook | undefined, atMs: number): AccountGrants | undefined {
  if (given.extended.size === 0 && (book === undefined || book.stored.size === 0)) return undefined
  const placed = placedGrants(given, book)
  return {
    grants: placed.filter((grant) => !grant.hidden && grant.spentMs === null && (grantEndsMs(grant) ?? Infinity) > atMs),
    extended: new Set([...given.extended, ...placed.map(extensionOf)]),
  }
}

/** The word that takes a grant of a file back, or all of what recurs. */
export function voidOf(grantId: string, book: GrantBook | undefined): Ban | undefined {
  if (book === undefined || book.voids.size === 0) return undefined
  const own = book.voids.get(grantId)
  const all = book.voids.get(recurringId(grantId))
  return own === undefined || (all !== undefined && all.at_ms < own.at_ms) ? all ?? own : own
}

/** Without its period. */
export function recurringId(grantId: string): string {
  const at = grantId.lastIndexOf('@')
  return at === -1 ? grantId : grantId.slice(0, at)
}

function changed<T>(map: ReadonlyMap<string, T>, id: string, value: T | undefined): ReadonlyMap<string, T> {
  const next = new Map(map)
  if (value === undefined) next.delete(id)
  else next.set(id, value)
  return next
}
