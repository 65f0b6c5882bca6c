import type { Upstream } from '../config/config.ts'
import type { BodyChanges, Provider } from '../providers/provider.ts'
import { admitted, type Exchange } from './exchange.ts'
import type { UpstreamRequest } from './forward.ts'
import { planRequestHeaders, upstreamQuery, upstreamRequestHeaders, type RequestHeaderPlan } from './headers.ts'

const plans = new WeakMap<Upstream, Map<string, RequestHeaderPlan>>()

/** What does not depend on the call, made once per upstream and dialect. */
export function headerPlan(upstream: Upstream, provider: Provider): RequestHeaderPlan {
  let byProvider = plans.get(upstream)
  if (byProvider === undefined) plans.set(upstream, byProvider = new Map())
  let plan = byProvider.get(provider.name)
  if (plan === undefined) byProvider.set(provider.name, plan = planRequestHeaders(provider, upstream.credential, true))
  return plan
}

/** The request as it goes upstream: the endpoint's own path below the upstream's prefix, our credential for the caller's, the body amended. */
export function upstreamRequest(x: Exchange, changes: BodyChanges): UpstreamRequest {
  const { route, facts, destination } = admitted(x)
  const { upstream } = destination
  const { endpoint } = route
  const method = route.known ? endpoint.method : x.d.method
  const query = upstreamQuery(x.d.query)
  const body = endpoint.body === 'none' && route.known ? null : endpoint.prepare(x.body, facts, changes)
  return {
    ...connectionOf(upstream, x.config.server.timeouts.connectMs),
    method,
    target: `${upstream.pathPrefix}${route.known ? endpoint.path : x.d.path}${query === '' ? '' : `?${query}`}`,
    headers: upstreamRequestHeaders(headerPlan(upstream, route.provider), x.d.headers, x.id, route.known && body !== null && body.length > 0, x.trace),
    body: body !== null && body.length === 0 && method === 'GET' ? null : body,
  }
}

export function connectionOf(upstream: Upstream, connectMs: number): Pick<UpstreamRequest, 'origin' | 'connectMs' | 'connectionsMax'> {
  return { origin: upstream.origin, connectMs: upstream.timeouts?.connectMs ?? connectMs, connectionsMax: upstream.connectionsMax }
}
