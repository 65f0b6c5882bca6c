import type { StoredKeyDirectory } from '../accounts/key-directory.ts'
import { planChangesOf } from '../accounts/acting-account.ts'
import { LATEST_MS } from '../accounts/latest-instant.ts'
import { paidLimitOf } from '../accounts/paid-grants.ts'
import type { EventHistory } from '../archive/history.ts'
import type { Clock } from '../clock.ts'
import { dateOf } from '../config/scalars.ts'
import type { Account } from '../config/config.ts'
import { invoiceDocument } from '../invoices/document.ts'
import type { InvoiceDocument } from '../invoices/document.ts'
import { InvoicePreview } from '../invoices/invoice.ts'
import type { Invoice } from '../invoices/invoice.ts'
import { moneyText } from '../invoices/money.ts'
import { termsOf } from '../invoices/terms.ts'
import { civilDayMs, periodAt } from '../metering/calendar.ts'
import type { Period } from '../metering/calendar.ts'
import { toInstant } from '../metering/event.ts'
import type { AccountCalendar } from '../metering/limits/limit.ts'
import type { Subscription } from '../metering/subscription.ts'
import { knownSinceMs } from './known-since.ts'
import { Problem } from './problem.ts'
import type { AdminParts } from './route.ts'

export interface InvoiceQuestion {
  readonly account: string
  /** `current`, `previous`, `2026-11` (the period that begins in that month) or a day (the period that contains it), by the account's calendar. */
  readonly period: string
  /** The accounts under it as well, each with an invoice of its own. */
  readonly withChildren: boolean
}

export interface InvoiceAnswer extends InvoiceDocument {
  /** When it was worked out: calls that have not ended are not in it. */
  readonly as_of: string
  /** Events that were settled before are no longer kept, and some of the period's may have been among them; null: all are here. */
  readonly known_since: string | null
  readonly children?: readonly InvoiceDocument[]
  /** Sums of the account's invoice and its children's. */
  readonly family?: readonly { readonly currency: string; readonly total: string }[]
}

/** How many events are summed before other work gets its turn: a millisecond's worth or two. */
const eventsPerTurn = 500

type Parts = Pick<AdminParts, 'config' | 'directory' | 'history' | 'clock' | 'outbox' | 'inspectStore'>

/** Previews an account's invoice from the events that are kept. All accounts that are asked for are summed in one reading. */
export async function previewInvoice(parts: Parts, question: InvoiceQuestion): Promise<InvoiceAnswer> {
  const { directory, history, clock } = parts
  const account = directory.accountOf(question.account)
  if (account === undefined) throw new Problem(404, `there is no account "${question.account}"`)
  const nowMs = clock.nowMs()
  const billed = [account, ...(question.withChildren ? accountsUnder(directory, account.id) : [])]
  const periods = billed.map(({ calendar }) => periodNamed(question.period, calendar, nowMs))
  if (periods.some(({ endMs }) => endMs > LATEST_MS)) throw new Problem(422, 'period: it ends after the year 9999')
  const previews = new Map(billed.map((each, index) => [each.id, previewOf(parts, each, periods[index] as Period)]))
  const fromMs = Math.min(...periods.map(({ startMs }) => startMs))
  const knownMs = await knownSinceMs(parts, nowMs)
  await addEvents(history, clock, fromMs, previews)
  const [own, ...children] = [...previews.values()].map((preview) => preview.finish()) as [Invoice, ...Invoice[]]
  return {
    ...invoiceDocument(own), as_of: toInstant(nowMs), known_since: knownMs > fromMs ? toInstant(knownMs) : null,
    ...(question.withChildren ? { children: children.map(invoiceDocument), family: totalsOf([own, ...children]) } : {}),
  }
}

function previewOf({ config, directory }: Parts, account: Account, period: Period): InvoicePreview {
  const { plans } = config()
  const subscription = subscriptionFor(directory, account)
  const changes = planChangesOf(account, directory.subscriptionOf(account.id) ?? null, plans)
  return new InvoicePreview(termsOf({ id: account.id, calendar: account.calendar, subscription, changes }, period, plans, paidLimitOf(directory, account)))
}

/** Its own, or that of the nearest account above it. */
function subscriptionFor(directory: StoredKeyDirectory, account: Account): Subscription | null {
  for (let each: Account | undefined = account; each !== undefined; each = each.parent === null ? undefined : directory.accountOf(each.parent)) {
    const subscription = directory.subscriptionOf(each.id)
    if (subscription !== undefined) return subscription
  }
  return null
}

function accountsUnder(directory: StoredKeyDirectory, id: string): readonly Account[] {
  return [...directory.accounts.values()].filter(({ parent }) => parent === id).flatMap((child) => [child, ...accountsUnder(directory, child.id)])
}

/** Nothing is settled before it was admitted, so no event older than the period can matter; a correction may come long after. */
async function addEvents(history: EventHistory, clock: Clock, fromMs: number, previews: ReadonlyMap<string, InvoicePreview>): Promise<void> {
  let count = 0
  for await (const event of history.read(fromMs)) {
    previews.get(event.subject)?.add(event)
    count += 1
    if (count % eventsPerTurn === 0) await clock.sleep(0)
  }
}

function totalsOf(invoices: readonly Invoice[]): InvoiceAnswer['family'] & {} {
  const totals = new Map<string, { readonly currency: string; readonly scale: number; total: bigint }>()
  for (const { currency, scale, total } of invoices.flatMap(({ sections }) => sections)) {
    const sum = totals.get(`${currency} ${scale}`)
    if (sum === undefined) totals.set(`${currency} ${scale}`, { currency, scale, total })
    else sum.total += total
  }
  return [...totals.values()].map(({ currency, scale, total }) => ({ currency, total: moneyText(total, scale) }))
}

function periodNamed(text: string, calendar: AccountCalendar, nowMs: number): Period {
  const current = periodAt('billing_period', calendar, nowMs)
  if (text === 'current') return current
  if (text === 'previous') return periodAt('billing_period', calendar, current.startMs - 1)
  const month = /^(\d{4})-(\d{2})$/.exec(text)
  const day = dateOf(month === null ? text : `${text}-01`)
  if ('problem' in day) throw new Problem(422, `period: "${text}" is no billing period; write current, previous, a month such as 2026-11 in which it begins, or a day in it`)
  const dayMs = civilDayMs(calendar.timeZone, day.value)
  if (month === null) return periodAt('billing_period', calendar, dayMs)
  // One begins in each month, on the anchor's day or on the month's last.
  const period = periodAt('billing_period', calendar, periodAt('month', { timeZone: calendar.timeZone, anchor: calendar.anchor }, dayMs).endMs - 1)
  if (period.startMs < dayMs) throw new Problem(422, `period: no billing period begins in ${text}, because the calendar of the account was changed; name a day in it`)
  return period
}
