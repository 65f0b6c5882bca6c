import * as answers from '../answers.ts'
import { explainCall } from '../explanation.ts'
import type { Route } from '../route.ts'

export const explainRoutes: readonly Route[] = [
  {
    method: 'GET', path: '/api/v1/explain/{id}', shape: answers.explanation, role: 'viewer', summary: 'How a call was held, settled and priced, or why it was refused, by the id that answers carry as x-request-id',
    answer: 'the call; bound: what its reservation was computed from; limits: window, held, used and what was drawn from which bucket; overruns; usage; price: version, rate, parts; corrections; notes. Of a refused call, while this gateway remembers it: state: refused, refused_at, reason, and the limit with its figures',
    handle: ({ params }, parts) => explainCall(parts, params['id'] ?? ''),
  },
]
