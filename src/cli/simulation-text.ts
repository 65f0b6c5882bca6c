import type { AccountDocument, MoneyDocument, SimulationReport } from '../simulation/simulation.ts'
import { toTable } from './table.ts'

export interface SimulationAnswer extends SimulationReport {
  readonly candidate: string
  /** What the candidate is laid over; null: it is a whole config. */
  readonly laid_over: string | null
  /** How many of each were taken from the store; null: it was not asked. */
  readonly taken: Readonly<Record<string, number>> | null
}

const rowsShown = 30

/** A simulation for people. */
export function simulationText(answer: SimulationAnswer, listed: boolean): string {
  if (answer.from === null) return `No calls were recorded in this time${answer.skipped.not_events === 0 ? '' : `; ${answer.skipped.not_events} lines are no usage events`}.`
  const parts = [headOf(answer), limitsTable(answer), accountsTable(answer), boundariesText(answer)]
  if (listed) parts.push(refusalsTable(answer))
  const notes = notesOf(answer)
  if (notes.length > 0) parts.push(notes.map((note) => `- ${note}`).join('\n'))
  return parts.join('\n\n')
}

function headOf({ candidate, laid_over: laid, from, to, calls, refused, clamped, shortened, cut, waited, accounts }: SimulationAnswer): string {
  const share = calls === 0 ? '' : ` (${(100 * refused / calls).toFixed(2)}%)`
  const affected = accounts.filter((account) => account.refused > 0).length
  const also = [
    ...(clamped === 0 ? [] : [`${number(clamped)} would have had their output bound lowered, ${number(shortened)} of them would have given less`]),
    ...(cut === 0 ? [] : [`${number(cut)} would have been cut short`]), ...(waited === 0 ? [] : [`${number(waited)} would have waited`]),
  ]
  return [
    `${number(calls)} calls from ${String(from)} to ${String(to)}, under ${candidate}${laid === null ? '' : ` laid over ${laid}`}:`,
    `${number(refused)}${share} would have been refused, of ${affected} ${affected === 1 ? 'account' : 'accounts'}${also.length === 0 ? '' : `; ${also.join('; ')}`}.`,
  ].join('\n')
}

function limitsTable({ by_limit: rows }: SimulationAnswer): string {
  const table = toTable(rows.slice(0, rowsShown), [
    { title: 'ACCOUNT', cell: (row) => row.account },
    { title: 'PLAN', cell: (row) => row.plan },
    { title: 'LIMIT', cell: (row) => row.limit },
    { title: 'REASON', cell: (row) => row.reason },
    { title: 'REFUSED', cell: (row) => row.count },
    { title: 'FIRST', cell: (row) => row.first },
    { title: 'LAST', cell: (row) => row.last },
  ], 'Nobody would have been refused.')
  return rows.length > rowsShown ? `${table}\n… and ${rows.length - rowsShown} more: --json has all of them` : table
}

interface Row {
  readonly account: AccountDocument
  readonly revenue: AccountDocument['revenue'][number] | null
}

function accountsTable({ accounts }: SimulationAnswer): string {
  const rows: readonly Row[] = accounts.flatMap((account): readonly Row[] => (account.revenue.length === 0 ? [{ account, revenue: null }] : account.revenue.map((revenue) => ({ account, revenue }))))
  const costs = accounts.some(({ own_cost: cost }) => cost !== null)
  const shadows = accounts.some(({ shadow }) => Object.keys(shadow).length > 0)
  const money = (title: string, of: (row: NonNullable<Row['revenue']>) => MoneyDocument): { title: string; cell(row: Row): string | null } => (
    { title, cell: ({ revenue }) => (revenue === null ? null : `${shortened(of(revenue).total)} ${revenue.currency}`) })
  const table = toTable(rows.slice(0, rowsShown), [
    { title: 'ACCOUNT', cell: ({ account }) => account.account },
    { title: 'CALLS', cell: ({ account }) => account.calls },
    { title: 'REFUSED', cell: ({ account }) => account.refused },
    { title: 'CLAMPED', cell: ({ account }) => account.clamped },
    money('PAYS NOW', ({ before }) => before), money('WOULD PAY', ({ after }) => after),
    ...(costs ? [{ title: 'COSTS US', cell: ({ account: { own_cost: cost } }: Row) => (cost === null ? null : shortened(cost.before)) }, { title: 'WOULD COST', cell: ({ account: { own_cost: cost } }: Row) => (cost === null ? null : shortened(cost.after)) }] : []),
    ...(shadows ? [{ title: 'SHADOW', cell: ({ account: { shadow } }: Row) => Object.entries(shadow).map(([limit, count]) => `${limit} ${count}`).join(', ') }] : []),
  ], 'no accounts')
  return rows.length > rowsShown ? `${table}\n… and ${rows.length - rowsShown} more: --json has all of them` : table
}

function refusalsTable({ refusals = [] }: SimulationAnswer): string {
  return toTable(refusals, [
    { title: 'TIME', cell: (row) => row.time },
    { title: 'ID', cell: (row) => row.id },
    { title: 'ACCOUNT', cell: (row) => row.account },
    { title: 'KEY', cell: (row) => row.key },
    { title: 'LIMIT', cell: (row) => row.limit },
    { title: 'REASON', cell: (row) => row.reason },
    { title: 'METER', cell: (row) => row.meter },
    { title: 'NEEDED', cell: (row) => row.needed },
    { title: 'LEFT', cell: (row) => row.left },
  ], 'no refusals')
}

function boundariesText({ boundaries }: SimulationAnswer): string {
  const { periods, calendars, problems, changed } = boundaries
  const checked = problems.length === 0 ? `Boundaries: ${number(periods)} days, weeks, months and billing periods of ${calendars} calendars follow one another without gap or overlap.` : `Boundaries:\n${problems.join('\n')}`
  return [checked, ...changed.slice(0, rowsShown).map(({ account, before, after }) => `The calendar of ${account} changes from ${before} to ${after}.`)].join('\n')
}

function notesOf({ taken, warmed_up_from: warmed, from, unknown_before: unknown, billing_periods: billed, guessed, keys_gone: gone, skipped }: SimulationAnswer): readonly string[] {
  const counts = taken === null ? [] : Object.entries(taken).filter(([, count]) => count > 0).map(([kind, count]) => `${count} ${kind}`)
  return [
    taken === null ? 'What the store knows of accounts, keys, subscriptions and grants was not asked (--store does).'
      : `Of the store were taken: ${counts.join(', ') || 'nothing, for it has nothing'}. Suspensions and revocations are not applied: who called was let in.`,
    ...(warmed === null ? [] : [`Calls since ${warmed} were replayed before ${String(from)}, so that counters began where they were.`]),
    ...(unknown.length === 0 ? [] : [`Use before the first call is not known: ${unknown.join(', ')} began too low.`]),
    ...(billed === null ? [] : [`What is paid holds the fees and adjustments of whole billing periods, from ${billed.from} to ${billed.to}, and of calls only those above.`]),
    ...(guessed === 0 ? [] : [`${number(guessed)} calls were judged by a guess: their events do not tell what they were admitted by, or their tokens would have been counted.`]),
    ...(gone === 0 ? [] : [`The keys of ${number(gone)} calls are gone: limits of their own are not known.`]),
    ...(skipped.callers_gone === 0 ? [] : [`${number(skipped.callers_gone)} calls are of nobody that the candidate knows.`]),
    ...(skipped.corrections_of_unknown === 0 ? [] : [`${number(skipped.corrections_of_unknown)} corrections are of calls that are not there, or were refused.`]),
    ...(skipped.not_events === 0 ? [] : [`${number(skipped.not_events)} lines are no usage events.`]),
  ]
}

function number(value: number): string {
  return value.toLocaleString('en')
}

/** Money for people: two digits after the point, more where there are more. */
function shortened(text: string): string {
  return text.replace(/(\.\d\d\d*?)0+$/, '$1')
}
