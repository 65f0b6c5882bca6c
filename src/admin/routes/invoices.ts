import * as answers from '../answers.ts'
import { previewInvoice } from '../invoice-report.ts'
import type { Route } from '../route.ts'

export const invoiceRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/invoices/{account}', shape: answers.invoice, role: 'viewer', summary: 'Preview of an account\'s invoice for a billing period',
    answer: 'account, period, events, currencies: lines, usage, adjustments and total as decimal texts; as_of; known_since: an instant before which events are no longer kept, if that touches the period',
    query: {
      period: { type: 'string', about: 'current (the default), previous, a month such as 2026-11 in which it begins, or a day in it' },
      with: { type: 'string', about: 'the accounts under it as well, each with its own invoice, and the sums of all', values: ['children'] },
    },
    handle({ params, query }, parts) {
      const period = query['period']
      return previewInvoice(parts, { account: params['account'] ?? '', period: typeof period === 'string' ? period : 'current', withChildren: query['with'] === 'children' })
    },
  },
]
