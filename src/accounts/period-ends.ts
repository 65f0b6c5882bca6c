import type { Clock } from '../clock.ts'
import { DEFAULT_PRIORITY, grantEndsMs, LOOKED_AT_LATE_MS } from '../metering/grant.ts'
import { whyNotExtended } from '../metering/extension.ts'
import { periodOf } from '../metering/limits/allowance.ts'
import { allowanceLook, counterBase, grantLook } from '../metering/limits/counter.ts'
import type { AppliedLimit, Limit, Rollover } from '../metering/limits/limit.ts'
import { meterName } from '../metering/meter.ts'
import { instantText } from '../metering/recurring-grant.ts'
import { accountScopeId, selectorOf } from '../metering/entitlement.ts'
import type { Store } from '../stores/store.ts'
import { documentsOf, recordKinds } from './account-records.ts'
import type { ActingChain } from './acting-account.ts'
import { grantRecordId, placedGrants, toGrantDocument, toStoredGrant } from './grant-book.ts'
import type { StoredGrant } from './grant-book.ts'
import { limitsIn } from './grants.ts'
import type { Breakage } from './grants.ts'
import type { StoredKeyDirectory } from './key-directory.ts'
import { LATEST_SECOND_MS } from './latest-instant.ts'

type Document = Readonly<Record<string, unknown>>

const lookEveryMs = 60_000
/** What a period has left may go down for a while: it is looked at again so often. */
const againEveryMs = 600_000
/** Clocks of replicas may differ by so much. */
const skewMs = 5_000
/** Rollovers and breakage are remembered for so long. */
const keptMs = 400 * 86_400_000
const forgetEveryMs = 86_400_000
const perTurn = 200
/** So many open ones make no call noticeably slower. */
const manyGrants = 16
/** Periods that passed while nobody looked are gone through one by one, up to here. */
const periodsMax = 64

export interface PeriodEndsParts {
  readonly store: Pick<Store, 'records' | 'balances'>
  readonly directory: StoredKeyDirectory
  readonly clock: Clock
  /** So long after its admission a call may still be settled. */
  readonly forgetAfterMs: number
  /** A look that did not come to its end; there will be others. */
  failed(error: unknown): void
}

/** A period of an allowance that rolls over, by the terms that were last seen while it ran. */
interface OpenPeriod {
  readonly limit: string
  readonly meter: string
  readonly slot: string
  readonly startMs: number
  readonly endMs: number
  readonly ceiling: number
  /** At most so much rolls over. */
  readonly max: number
  /** When what rolls over expires; null: never. */
  readonly expiresMs: number | null
  /** It ran already when it was first seen: its counter may be gone soon after its end. */
  readonly first: boolean
}

/** A grant of a file that will expire: files change, and are not asked for what was. */
type OpenGrant = Pick<Breakage, 'grant' | 'limit' | 'meter' | 'amount'> & { readonly expiresMs: number }

/** What will end, of one account. */
interface Ending {
  readonly periods: readonly OpenPeriod[]
  readonly grants: readonly OpenGrant[]
}

const nothingEnds: Ending = Object.freeze({ periods: [], grants: [] })

/**
 * What happens when periods and grants end. Of an allowance that rolls over, what its period leaves goes on as a grant, once nothing of the period is pending; while calls of
 * the period may still be settled, that grant follows them downward. What a grant has left when it expires is recorded as breakage, once nothing can draw it any more.
 * Every replica looks; ids follow from what ended, and whoever writes a record first has written it for all.
 */
export class PeriodEnds {
  readonly #parts: PeriodEndsParts
  /** As the store has them, as far as this process knows. */
  #documents: Map<string, Document> | null = null
  /** Grants of the store that need no further look. */
  readonly #done = new Set<string>()
  /** By its counter: when a period that has ended needs its next look. */
  readonly #againMs = new Map<string, number>()
  #forgottenMs = -Infinity
  #looking = false
  #stop: (() => void) | undefined

  constructor(parts: PeriodEndsParts) {
    this.#parts = parts
  }

  start(): void {
    const look = (): void => { this.look().catch(this.#parts.failed) }
    this.#stop ??= this.#parts.clock.every(lookEveryMs, look)
    look()
  }

  close(): void {
    this.#stop?.()
    this.#stop = undefined
  }

  /** Does all that is due. Rejects with StoreUnavailable; what is due then is done at the next look. */
  async look(): Promise<void> {
    if (this.#looking) return
    this.#looking = true
    try {
      const { directory, clock, store } = this.#parts
      this.#documents ??= await this.#open()
      const accounts = new Set([...this.#documents.keys(), ...directory.accounts.keys(), ...directory.ownAccounts(), ...directory.grantBooks.accounts])
      let looked = 0
      for (const account of accounts) {
        await this.#lookAt(account, clock.nowMs())
        looked += 1
        if (looked % perTurn === 0) await clock.sleep(0)
      }
      if (clock.nowMs() - this.#forgottenMs < forgetEveryMs) return
      this.#forgottenMs = clock.nowMs()
      await forget(store.records, clock.nowMs())
    } finally {
      this.#looking = false
    }
  }

  async #open(): Promise<Map<string, Document>> {
    const { records } = this.#parts.store
    for (const { id } of await records.list(recordKinds.breakage)) this.#done.add(id)
    return new Map((await records.list(recordKinds.ending)).map(({ id, value }) => [id, value]))
  }

  async #lookAt(account: string, nowMs: number): Promise<void> {
    const { directory } = this.#parts
    const found = this.#documents?.get(account)
    const known = found === undefined ? nothingEnds : toEnding(found)
    const acting = directory.actingChainOf(account, nowMs)
    const home = acting.chain.at(-1)?.id ?? account
    const left = await this.#end(account, home, this.#seen(account, acting, known, nowMs), nowMs)
    await this.#breakStored(account, home, nowMs)
    await this.#leaveOut(account, home, nowMs)
    await this.#keep(account, found, left)
  }

  /** What runs now, beside what has ended and is not done. */
  #seen(account: string, acting: ActingChain, known: Ending, nowMs: number): Ending {
    const periods = known.periods.filter(({ endMs }) => endMs <= nowMs)
    for (const limit of limitsIn(acting)) {
      if (limit.rollover === undefined || limit.ceiling === null || whyNotExtended(limit) !== null) continue
      periods.push(...running(account, acting, limit, limit.rollover, limit.ceiling, known.periods, nowMs))
    }
    const grants = known.grants.filter(({ expiresMs }) => expiresMs <= nowMs)
    const [given] = acting.given
    for (const grant of given === undefined ? [] : placedGrants(given, this.#parts.directory.grantBooks.of(account))) {
      const { id, limit, meter, amount, effectiveMs, expiresMs, voidedMs, where } = grant
      if (where === 'file' && expiresMs !== null && voidedMs === null && effectiveMs <= nowMs && nowMs < expiresMs) grants.push({ grant: id, limit, meter, amount, expiresMs })
    }
    return { periods, grants }
  }

  /** Ends what is due. Gives what is not done yet. */
  async #end(account: string, home: string, { periods, grants }: Ending, nowMs: number): Promise<Ending> {
    const { store, forgetAfterMs } = this.#parts
    const isFinal = (endedMs: number): boolean => endedMs + forgetAfterMs + skewMs <= nowMs
    const looks = periods.filter(({ endMs, slot }) => endMs + skewMs <= nowMs && (isFinal(endMs) || nowMs >= (this.#againMs.get(slot) ?? -Infinity)))
    const expired = grants.filter(({ expiresMs }) => isFinal(expiresMs))
    if (looks.length === 0 && expired.length === 0) return { periods, grants }
    const balances = await store.balances(home, [
      ...looks.map(({ slot, ceiling }) => allowanceLook(slot, ceiling)), ...expired.map(({ grant, amount }) => grantLook({ account, id: grant, amount })),
    ])
    const done = new Set<OpenPeriod | OpenGrant>()
    for (const [index, period] of looks.entries()) {
      const { room, reserved } = balances[index] ?? { room: 0, reserved: 0 }
      const final = isFinal(period.endMs)
      if (reserved > 0 && !final) continue
      // Its counter may be gone by now, and would look as if nothing had been used.
      if (isKept(period, forgetAfterMs, nowMs)) await this.#rollOver(account, period, (room ?? 0) + reserved)
      if (final) {
        done.add(period)
        this.#againMs.delete(period.slot)
      } else this.#againMs.set(period.slot, nowMs + againEveryMs)
    }
    for (const [index, grant] of expired.entries()) {
      await this.#break(account, grant, balances[looks.length + index]?.used ?? 0, nowMs)
      done.add(grant)
    }
    return { periods: periods.filter((each) => !done.has(each)), grants: grants.filter((each) => !done.has(each)) }
  }

  /** `left`: of the allowance alone. */
  async #rollOver(account: string, { limit, meter, startMs, endMs, max, expiresMs }: OpenPeriod, left: number): Promise<void> {
    const { records } = this.#parts.store
    const amount = Math.max(0, Math.min(max, left))
    const id = `rollover-${limit}-${instantText(startMs)}`
    const recordId = grantRecordId(account, id)
    const document = await records.get(recordKinds.grant, recordId)
    const known = document === undefined ? undefined : toStoredGrant(recordId, document)
    // Once made it only goes down: what came back to a period that is over is nobody's any more.
    if (document === undefined ? amount === 0 : known === undefined || known.amount <= amount) return
    const grant: StoredGrant = known === undefined ? {
      id, account, limit, meter, amount, priority: DEFAULT_PRIORITY, effectiveMs: endMs, expiresMs, createdMs: endMs, createdBy: 'rollover', source: 'rollover', voidedMs: null, note: null, spentMs: null,
    } : { ...known, amount }
    // Whoever comes second has seen the same, or less, and finds that at the next look.
    await records.swap(recordKinds.grant, recordId, document, toGrantDocument(grant))
  }

  /** Grants of the store, which need not have been seen before. */
  async #breakStored(account: string, home: string, nowMs: number): Promise<void> {
    const { store, directory, forgetAfterMs } = this.#parts
    const due: StoredGrant[] = []
    for (const grant of directory.grantBooks.of(account)?.stored.values() ?? []) {
      const { expiresMs, id } = grant
      if (expiresMs === null || expiresMs + forgetAfterMs + skewMs > nowMs || this.#done.has(grantRecordId(account, id))) continue
      const voided = directory.grantBooks.of(account)?.voids.has(id) === true
      if (voided || expiresMs + LOOKED_AT_LATE_MS <= nowMs) this.#done.add(grantRecordId(account, id))
      else due.push(grant)
    }
    if (due.length === 0) return
    const balances = await store.balances(home, due.map(grantLook))
    for (const [index, { id, limit, meter, amount, expiresMs }] of due.entries()) {
      await this.#break(account, { grant: id, limit, meter, amount, expiresMs: expiresMs ?? 0 }, balances[index]?.used ?? 0, nowMs)
    }
  }

  /** Where there are many grants, those that are used up: every call would be made of them too. What comes back to them goes to others. */
  async #leaveOut(account: string, home: string, nowMs: number): Promise<void> {
    const { store, directory } = this.#parts
    const book = directory.grantBooks.of(account)
    const open = book === undefined || book.stored.size <= manyGrants ? [] : [...book.stored.values()].filter((grant) => grant.spentMs === null && grant.effectiveMs <= nowMs && (grantEndsMs(grant) ?? Infinity) > nowMs && !book.voids.has(grant.id))
    if (open.length <= manyGrants) return
    const balances = await store.balances(home, open.map(grantLook))
    for (const [index, grant] of open.entries()) {
      if ((balances[index]?.used ?? 0) < grant.amount) continue
      await store.records.swap(recordKinds.grant, grantRecordId(account, grant.id), toGrantDocument(grant), toGrantDocument({ ...grant, spentMs: nowMs }))
    }
  }

  async #break(account: string, { grant, limit, meter, amount, expiresMs }: OpenGrant, used: number, nowMs: number): Promise<void> {
    const { store: { records } } = this.#parts
    const recordId = grantRecordId(account, grant)
    const left = amount - used
    if (left > 0 && expiresMs + LOOKED_AT_LATE_MS > nowMs && await records.get(recordKinds.breakage, recordId) === undefined) {
      // Whoever is first has recorded it for all; its notice tells it.
      await records.swap(recordKinds.breakage, recordId, undefined, { limit, meter, amount, left, expired_ms: expiresMs, at_ms: nowMs })
    }
    this.#done.add(recordId)
  }

  /** Keeps what will end. Where another replica has written meanwhile, its word is taken, and this look's is said again at the next. */
  async #keep(account: string, found: Document | undefined, left: Ending): Promise<void> {
    const { records } = this.#parts.store
    const empty = left.periods.length === 0 && left.grants.length === 0
    if (found === undefined ? empty : JSON.stringify(found) === JSON.stringify(toDocument(left))) return
    const next = toDocument(left)
    if (empty) {
      await records.delete(recordKinds.ending, account)
      this.#documents?.delete(account)
    } else if (await records.swap(recordKinds.ending, account, found, next)) this.#documents?.set(account, next)
    else {
      const other = await records.get(recordKinds.ending, account)
      if (other === undefined) this.#documents?.delete(account)
      else this.#documents?.set(account, other)
    }
  }
}

/** The running period of a limit, after those that passed since the last one that was seen. */
function running(account: string, { chain }: ActingChain, limit: Limit, rollover: Rollover, ceiling: number, known: readonly OpenPeriod[], nowMs: number): readonly OpenPeriod[] {
  const [own] = chain
  if (own === undefined) return []
  const meter = meterName(limit.meter)
  const subscription = chain.find((each) => each.subscription !== null)?.subscription ?? null
  const applied: AppliedLimit = { limit, scope: { id: accountScopeId(account), calendar: own.calendar, subscription }, selector: selectorOf(limit, null) }
  const before = known.filter((each) => each.limit === limit.name && each.meter === meter)
  const lastEndMs = Math.max(...before.map(({ endMs }) => endMs).filter((endMs) => endMs <= nowMs), -Infinity)
  const found: OpenPeriod[] = []
  let atMs = nowMs
  while (found.length < periodsMax) {
    const period = periodOf(applied, atMs)
    if (period === null || period.endMs === null || period.endMs <= lastEndMs) break
    const { startMs, endMs } = period
    const first = before.find((each) => each.startMs === startMs)?.first ?? lastEndMs === -Infinity
    found.push({ limit: limit.name, meter, slot: counterBase(applied) + startMs, startMs, endMs, ceiling, max: mostOf(rollover, ceiling), expiresMs: expiryOf(applied, rollover, endMs), first })
    if (lastEndMs === -Infinity || startMs <= lastEndMs || startMs < nowMs - LOOKED_AT_LATE_MS) break
    atMs = startMs - 1
  }
  return found
}

/** A counter that was begun under these terms is kept; any other only as long as calls may be booked to it. */
function isKept({ first, endMs }: OpenPeriod, forgetAfterMs: number, nowMs: number): boolean {
  return first ? nowMs < endMs + forgetAfterMs : nowMs < endMs + LOOKED_AT_LATE_MS
}

function mostOf({ max }: Rollover, ceiling: number): number {
  return max.kind === 'absolute' ? max.amount : Number(BigInt(ceiling) * BigInt(Math.round(max.percent * 1_000)) / 100_000n)
}

/** From the period's end on. */
function expiryOf(applied: AppliedLimit, { lasts }: Rollover, endMs: number): number | null {
  if (lasts === null) return null
  if (lasts.kind === 'time') return Math.min(endMs + lasts.ms, LATEST_SECOND_MS)
  let untilMs = endMs
  for (let count = 0; count < lasts.count; count++) {
    const period = periodOf(applied, untilMs)
    // The last term has no end, so what comes to it lasts.
    if (period === null || period.endMs === null) return null
    untilMs = period.endMs
  }
  return untilMs
}

/** Rollovers and breakage that nobody asks for any more. */
async function forget(records: Store['records'], nowMs: number): Promise<void> {
  for (const { id, value } of await records.list(recordKinds.breakage)) if (Number(value['expired_ms']) < nowMs - keptMs) await records.delete(recordKinds.breakage, id)
  for (const { id, value } of await records.list(recordKinds.grant)) {
    const grant = toStoredGrant(id, value)
    if (grant !== undefined && grant.source === 'rollover' && (grantEndsMs(grant) ?? Infinity) < nowMs - keptMs) await records.delete(recordKinds.grant, id)
  }
}

function toEnding({ periods, grants }: Document): Ending {
  return {
    periods: documentsOf(periods).map((each): OpenPeriod => ({
      limit: String(each['limit']), meter: String(each['meter']), slot: String(each['slot']), startMs: Number(each['start_ms']), endMs: Number(each['end_ms']), ceiling: Number(each['ceiling']), max: Number(each['max']),
      expiresMs: typeof each['expires_ms'] === 'number' ? each['expires_ms'] : null, first: each['first'] === true,
    })),
    grants: documentsOf(grants).map((each): OpenGrant => ({
      grant: String(each['grant']), limit: String(each['limit']), meter: String(each['meter']), amount: Number(each['amount']), expiresMs: Number(each['expires_ms']),
    })),
  }
}

function toDocument({ periods, grants }: Ending): Document {
  return {
    periods: [...periods].sort((a, b) => a.startMs - b.startMs || (a.slot < b.slot ? -1 : 1)).map(({ limit, meter, slot, startMs, endMs, ceiling, max, expiresMs, first }) => ({
      limit, meter, slot, start_ms: startMs, end_ms: endMs, ceiling, max, expires_ms: expiresMs, first,
    })),
    grants: [...grants].sort((a, b) => a.expiresMs - b.expiresMs || (a.grant < b.grant ? -1 : 1)).map(({ grant, limit, meter, amount, expiresMs }) => ({ grant, limit, meter, amount, expires_ms: expiresMs })),
  }
}
