import * as answers from '../answers.ts'
import { explainCall } from '../explanation.ts'
import type { Route } from '../route.ts'

export const explainRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/explain/{id}', shape: answers.explanation, role: 'viewer', summary: 'How a call was held, settled and priced, by the id that answers carry as x-request-id',
    answer: 'the call; bound: what its reservation was computed from; limits: window, held, used and what was drawn from which bucket; overruns; usage; price: version, rate, parts; corrections; notes',
    handle: ({ params }, parts) => explainCall(parts, params['id'] ?? ''),
  },
]
