import type { Difference, Reconciliation } from '../../reconciliation/reconcile.ts'
import { periodOf } from '../../reconciliation/period.ts'
import { DeliveryFailed } from '../../sinks/sink.ts'
import * as answers from '../answers.ts'
import { Problem } from '../problem.ts'
import type { AdminParts, Asked, Fields, Route } from '../route.ts'

const about: Fields = {
  period: { type: 'string', required: true, about: 'by admission, UTC: a month (2026-11), a day (2026-11-22), or FROM/UNTIL on whole minutes' },
  account: { type: 'string', about: 'of this account only, with those that share its customer' },
  each: { type: 'boolean', about: 'look every record up, also where totals agree' },
}
const answer = 'sink, type, period, asked: how the receiver was asked; rows: accounts, customer, code, ours, theirs, difference and what it is made of; differences: why, record, amount, reason, compensation, outcome; unexplained: how many our books do not explain'

export const reconciliationRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/sinks/{name}/reconciliation', shape: answers.reconciliation, role: 'viewer', summary: 'What was settled beside what the sink\'s receiver has booked, every difference explained', answer,
    query: about,
    handle: ({ params, query }, parts) => compared(params['name'] ?? '', query, parts, null),
  },
  {
    method: 'POST', path: '/api/v1/sinks/{name}/reconciliation', shape: answers.reconciliation, role: 'admin', summary: 'The same, and what puts the receiver\'s books right is sent', answer,
    body: about,
    handle: ({ params, body, who }, parts) => {
      const name = params['name'] ?? ''
      return compared(name, body, parts, ({ why, proposal, amount, account }) =>
        parts.changes.note(who, 'sinks.compensate', name, { why, amount, account, ...(proposal.is === 'none' ? {} : { record: proposal.record.id, how: proposal.is }) }))
    },
  },
]

async function compared(name: string, values: Asked['query'], parts: AdminParts, note: ((difference: Difference) => Promise<void>) | null): Promise<unknown> {
  const { sinks } = parts.config()
  const sink = sinks.find((each) => each.name === name)
  if (sink === undefined) throw new Problem(404, `there is no sink "${name}"; there ${sinks.length === 0 ? 'are none' : `is ${sinks.map((each) => each.name).join(', ')}`}`)
  const period = periodOf(String(values['period']))
  if (period === null) throw new Problem(422, `"${String(values['period'])}" is no period: write a month (2026-11), a day (2026-11-22), or FROM/UNTIL on whole minutes`)
  if (period.fromMs >= parts.clock.nowMs()) throw new Problem(422, 'that period has not begun')
  const account = values['account']
  try {
    const found = await parts.reconcile(sink, { ...period, account: typeof account === 'string' ? account : null, each: values['each'] === true }, note)
    // One that is gone may still have used something.
    if (typeof account === 'string' && found.rows.length === 0 && parts.directory.accountOf(account) === undefined) throw new Problem(404, `there is no account "${account}"`)
    return toDocument(found)
  } catch (error) {
    if (!(error instanceof DeliveryFailed)) throw error
    throw new Problem(502, `the receiver of ${name} could not be asked: ${error.message}`)
  }
}

function toDocument({ sink, type, fromMs, untilMs, asked, rows, differences, unmapped, unexplained, notes }: Reconciliation): unknown {
  return {
    sink, type, from: instant(fromMs), until: instant(untilMs), asked, rows,
    differences: differences.map(({ why, record, event, account, customer, code, fromMs: from, untilMs: until, records, amount, reason, proposal, outcome }) => ({
      why, record, event, account, customer, code, from: instant(from), until: instant(until), records, amount, reason,
      compensation: proposal.is === 'none' ? { how: 'none', because: proposal.because } : { how: proposal.is, record: proposal.record },
      outcome: typeof outcome === 'object' && outcome !== null ? `failed: ${outcome.failed}` : outcome,
    })),
    unmapped, unexplained, notes,
  }
}

function instant(ms: number): string {
  return new Date(ms).toISOString()
}
