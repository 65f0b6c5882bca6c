import type { Account, Config } from '../config/config.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import type { Records } from '../stores/store.ts'
import { recordKinds } from './account-records.ts'

type Document = Readonly<Record<string, unknown>>

/** A start with many accounts must not put them all on their way at once: each write has a deadline. */
const WRITTEN_TOGETHER = 256
/** Longer than any period that may have been running at a change. */
const LONGEST_PERIOD_MS = 62 * 86_400_000

/**
 * The config with each account's calendar as it acts: an edited time zone or billing anchor acts at the next boundary, also over restarts, so the store
 * remembers which calendar was in force and when it changed.
 */
export async function withCalendars(config: Config, records: Records, nowMs: number): Promise<Config> {
  const known = new Map((await records.list(recordKinds.calendar)).map(({ id, value }) => [id, value]))
  const accounts = new Map<string, Account>()
  let writing: Promise<void>[] = []
  const act = (account: Account, calendar: AccountCalendar): void => {
    accounts.set(account.id, calendar.before === undefined ? account : Object.freeze({ ...account, calendar }))
  }
  for (const [id, account] of config.accounts) {
    const found = known.get(id)
    const calendar = actingCalendar(account.calendar, toCalendar(found), nowMs)
    act(account, calendar)
    if (same(calendar, toCalendar(found))) continue
    writing.push(agree(records, account, found, nowMs).then((agreed) => act(account, agreed)))
    if (writing.length < WRITTEN_TOGETHER) continue
    await Promise.all(writing)
    writing = []
  }
  await Promise.all(writing)
  return Object.freeze({ ...config, accounts })
}

/** Writes the calendar that acts, where `found` was read. Replicas that take up one edit at the same time agree on the instant of the first. */
async function agree(records: Records, account: Account, found: Document | undefined, nowMs: number): Promise<AccountCalendar> {
  for (let before = found; ;) {
    const calendar = actingCalendar(account.calendar, toCalendar(before), nowMs)
    if (same(calendar, toCalendar(before)) || await records.swap(recordKinds.calendar, account.id, before, { ...calendar })) return calendar
    before = await records.get(recordKinds.calendar, account.id)
  }
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

function same(one: AccountCalendar, other: AccountCalendar | undefined): boolean {
  return other !== undefined && one.timeZone === other.timeZone && one.anchor === other.anchor && one.before?.changedMs === other.before?.changedMs
}

function toCalendar(value: Document | undefined): AccountCalendar | undefined {
  if (value === undefined) return undefined
  const { timeZone, anchor, before } = value
  if (typeof timeZone !== 'string' || typeof anchor !== 'string') return undefined
  const old = before as AccountCalendar['before']
  return typeof old?.changedMs === 'number' ? { timeZone, anchor, before: old } : { timeZone, anchor }
}
