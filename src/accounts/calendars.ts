import type { Account, Config, Plan } from '../config/config.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import type { Records } from '../stores/store.ts'
import type { PlanChange } from '../metering/plan-change.ts'
import { documentsOf, recordKinds, toPlanChange, toPlanChangeDocument } from './account-records.ts'

type Document = Readonly<Record<string, unknown>>

/** A start with many accounts must not put them all on their way at once: each write has a deadline. */
const WRITTEN_TOGETHER = 256
/** Longer than any period that may have been running at a change. */
const LONGEST_PERIOD_MS = 62 * 86_400_000
/** Of an account's plans; older ones are forgotten. */
const PLANS_KEPT = 100

/** Of an account: what was in force, as the store remembers it. */
interface Remembered {
  readonly calendar: AccountCalendar
  readonly plans: readonly PlanChange[]
}

/**
 * The config with each account's calendar as it acts: an edited time zone or billing anchor acts at the next boundary, also over restarts, so the store
 * remembers which calendar was in force and when it changed. It also remembers since when the account is on which plan of its own.
 */
export async function withCalendars(config: Config, records: Records, nowMs: number): Promise<Config> {
  const known = new Map((await records.list(recordKinds.calendar)).map(({ id, value }) => [id, value]))
  const accounts = new Map<string, Account>()
  let writing: Promise<void>[] = []
  const act = (account: Account, { calendar, plans }: Remembered): void => {
    accounts.set(account.id, Object.freeze({ ...account, planHistory: plans, ...(calendar.before === undefined ? {} : { calendar }) }))
  }
  for (const [id, account] of config.accounts) {
    const found = known.get(id)
    const now = remembered(account, config, found, nowMs)
    act(account, now)
    if (same(now, rememberedCalendar(found))) continue
    writing.push(agree(records, account, config, found, nowMs).then((agreed) => act(account, agreed)))
    if (writing.length < WRITTEN_TOGETHER) continue
    await Promise.all(writing)
    writing = []
  }
  await Promise.all(writing)
  return Object.freeze({ ...config, accounts })
}

/** Writes the calendar that acts, where `found` was read. Replicas that take up one edit at the same time agree on the instant of the first. */
async function agree(records: Records, account: Account, config: Config, found: Document | undefined, nowMs: number): Promise<Remembered> {
  for (let before = found; ;) {
    const now = remembered(account, config, before, nowMs)
    if (same(now, rememberedCalendar(before)) || await records.swap(recordKinds.calendar, account.id, before, toDocument(now))) return now
    before = await records.get(recordKinds.calendar, account.id)
  }
}

/** For an account that is made at run time: should it stand in the file some day, it goes on with what was in force. */
export async function rememberCalendar(records: Records, id: string, { calendar, plans }: Remembered): Promise<void> {
  await records.put(recordKinds.calendar, id, toDocument({ calendar, plans }))
}

function remembered(account: Account, config: Config, found: Document | undefined, nowMs: number): Remembered {
  const known = rememberedCalendar(found)
  return { calendar: actingCalendar(account.calendar, known?.calendar, nowMs), plans: planHistory(account.plan === null ? undefined : config.plans.get(account.plan), known?.plans ?? [], nowMs) }
}

/** `own`: the plan that the account names now; undefined: none. The first one that is seen has always been there, as far as anybody knows. */
export function planHistory(own: Plan | undefined, known: readonly PlanChange[], nowMs: number): readonly PlanChange[] {
  const last = known.at(-1)
  if (own === undefined || (last !== undefined && last.plan === own.name && last.version === own.version)) return known
  const change: PlanChange = { plan: own.name, version: own.version, fromMs: last === undefined ? 0 : nowMs, proration: own.proration }
  return [...known.slice(1 - PLANS_KEPT), change]
}

/** `configured` as it acts at `nowMs`, where `known` was in force until now. */
export function actingCalendar(configured: AccountCalendar, known: AccountCalendar | undefined, nowMs: number): AccountCalendar {
  const { timeZone, anchor } = configured
  if (known === undefined) return { timeZone, anchor }
  if (known.timeZone === timeZone && known.anchor === anchor) {
    return known.before !== undefined && nowMs - known.before.changedMs < LONGEST_PERIOD_MS ? { timeZone, anchor, before: known.before } : { timeZone, anchor }
  }
  // Changed again while the period of the first change still runs: that period is still the one that is running.
  if (known.before !== undefined && nowMs - known.before.changedMs < LONGEST_PERIOD_MS) {
    if (known.before.timeZone === timeZone && known.before.anchor === anchor) return { timeZone, anchor }
    return { timeZone, anchor, before: known.before }
  }
  return { timeZone, anchor, before: { timeZone: known.timeZone, anchor: known.anchor, changedMs: nowMs } }
}

function same({ calendar: one, plans }: Remembered, known: Remembered | undefined): boolean {
  const other = known?.calendar
  return other !== undefined && one.timeZone === other.timeZone && one.anchor === other.anchor && one.before?.changedMs === other.before?.changedMs
    && plans.length === known?.plans.length && plans.at(-1)?.fromMs === known.plans.at(-1)?.fromMs
}

/** What the store remembers of an account, of the file or not; undefined: nothing yet. */
export function rememberedCalendar(value: Document | undefined): Remembered | undefined {
  if (value === undefined) return undefined
  const { timeZone, anchor, before, plans } = value
  if (typeof timeZone !== 'string' || typeof anchor !== 'string') return undefined
  const old = before as AccountCalendar['before']
  return { calendar: typeof old?.changedMs === 'number' ? { timeZone, anchor, before: old } : { timeZone, anchor }, plans: documentsOf(plans).map(toPlanChange) }
}

function toDocument({ calendar, plans }: Remembered): Document {
  return { ...calendar, ...(plans.length === 0 ? {} : { plans: plans.map(toPlanChangeDocument) }) }
}
