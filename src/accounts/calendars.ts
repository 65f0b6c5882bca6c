import type { Account, Config } from '../config/config.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import type { Records } from '../stores/store.ts'
import { recordKinds } from './account-records.ts'

/** Longer than any period that may have been running at a change. */
const LONGEST_PERIOD_MS = 62 * 86_400_000

/**
 * The config with each account's calendar as it acts: an edited time zone or billing anchor acts at the next boundary, also over restarts, so the store
 * remembers which calendar was in force and when it changed.
 */
export async function withCalendars(config: Config, records: Records, nowMs: number): Promise<Config> {
  const known = new Map((await records.list(recordKinds.calendar)).map(({ id, value }) => [id, toCalendar(value)]))
  const puts: Promise<void>[] = []
  const accounts = new Map<string, Account>()
  for (const [id, account] of config.accounts) {
    const calendar = actingCalendar(account.calendar, known.get(id), nowMs)
    if (!same(calendar, known.get(id))) puts.push(records.put(recordKinds.calendar, id, { ...calendar }))
    accounts.set(id, calendar.before === undefined ? account : Object.freeze({ ...account, calendar }))
  }
  await Promise.all(puts)
  return Object.freeze({ ...config, accounts })
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

function toCalendar(value: Readonly<Record<string, unknown>>): AccountCalendar | undefined {
  const { timeZone, anchor, before } = value
  if (typeof timeZone !== 'string' || typeof anchor !== 'string') return undefined
  const old = before as AccountCalendar['before']
  return typeof old?.changedMs === 'number' ? { timeZone, anchor, before: old } : { timeZone, anchor }
}
