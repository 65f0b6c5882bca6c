import { anything } from './answer-shape.ts'
import { loginOperations } from './login.ts'
import { toOpenApi } from './openapi.ts'
import { Problem } from './problem.ts'
import { findRoute, readFields } from './route.ts'
import type { AdminParts, Operation, Role, Route } from './route.ts'
import { analyticsRoutes } from './routes/analytics.ts'
import { accountRoutes } from './routes/accounts.ts'
import { eventRoutes } from './routes/events.ts'
import { explainRoutes } from './routes/explain.ts'
import { gatewayRoutes } from './routes/gateway.ts'
import { invoiceRoutes } from './routes/invoices.ts'
import { grantRoutes } from './routes/grants.ts'
import { keyRoutes } from './routes/keys.ts'
import { noticeRoutes } from './routes/notices.ts'
import { simulationRoutes } from './routes/simulation.ts'
import { reconciliationRoutes } from './routes/reconciliation.ts'
import { storeRoutes } from './routes/store.ts'
import { subscriptionRoutes } from './routes/subscriptions.ts'

/** A request to the admin API as plain values: the admin port makes them, and so does a command that has opened the store itself. */
export interface AdminRequest {
  readonly method: string
  /** Without the query. */
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly body: Readonly<Record<string, unknown>>
  /** null: nobody has shown who he is. */
  readonly caller: { readonly name: string; readonly role: Role } | null
  gone(): boolean
}

export interface AdminAnswer {
  readonly status: number
  readonly body: unknown
}

const openApiRoute: Route = {
  method: 'GET', path: '/api/v1/openapi.json', shape: anything, role: null, summary: 'This description', answer: 'an OpenAPI 3.1 document',
  handle: () => toOpenApi(adminOperations),
}

export const adminRoutes: readonly Route[] = [...gatewayRoutes, ...keyRoutes, ...accountRoutes, ...subscriptionRoutes, ...grantRoutes, ...eventRoutes, ...analyticsRoutes, ...reconciliationRoutes, ...invoiceRoutes, ...explainRoutes, ...simulationRoutes, ...noticeRoutes, ...storeRoutes, openApiRoute]

/** All that is under /api/ on the admin port. */
export const adminOperations: readonly Operation[] = [...adminRoutes, ...loginOperations]

/** Throws a Problem, ChangeRefused or StoreUnavailable for whatever is not to be; anything else thrown is a bug. */
export async function answerAdmin(request: AdminRequest, parts: AdminParts): Promise<AdminAnswer> {
  const match = findRoute(adminRoutes, request.method, request.path)
  if (match === undefined) throw new Problem(404, `there is nothing at ${request.path}; /api/v1/openapi.json lists what there is`)
  const { route, params } = match
  if (route.role !== null) {
    if (request.caller === null) throw new Problem(401, 'an admin token is needed: Authorization: Bearer …')
    if (route.role === 'admin' && request.caller.role !== 'admin') throw new Problem(403, `"${request.caller.name}" may look but not change anything`)
  }
  const body = await route.handle({
    params,
    query: readFields(route.query ?? {}, request.query, 'query'),
    body: readFields(route.body ?? {}, request.body, 'body'),
    who: request.caller?.name ?? 'nobody',
    gone: request.gone,
  }, parts)
  return { status: route.status ?? 200, body }
}
