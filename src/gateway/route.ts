import type { Config, Model, Upstream } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import { modelOf } from '../metering/model.ts'
import type { Endpoint, Provider, RequestFacts } from '../providers/provider.ts'
import type { Downstream } from './downstream.ts'

export interface Route {
  readonly provider: Provider
  readonly endpoint: Endpoint
  /** As plans name it: the endpoint's name, or `METHOD /path` where no dialect knows the path. */
  readonly name: string
  readonly known: boolean
}

type Match =
  | { readonly outcome: 'found'; readonly route: Route }
  | { readonly outcome: 'wrong_method'; readonly route: Route; readonly allow: string }
  | { readonly outcome: 'unknown' }

/** Method and path → endpoint. Built once from the list of providers; a dialect's base path may be there or not. */
export class RouteTable {
  readonly #paths = new Map<string, Route[]>()

  constructor(providers: readonly Provider[]) {
    for (const provider of providers) {
      for (const endpoint of provider.endpoints) {
        const route: Route = { provider, endpoint, name: endpoint.name, known: true }
        this.#add(endpoint.path, route)
        const { basePath } = provider
        if (basePath !== '' && endpoint.path.startsWith(`${basePath}/`)) this.#add(endpoint.path.slice(basePath.length), route)
      }
    }
  }

  #add(path: string, route: Route): void {
    const routes = this.#paths.get(path)
    if (routes === undefined) this.#paths.set(path, [route])
    else routes.push(route)
  }

  match(d: Downstream): Match {
    const routes = this.#paths.get(d.path)
    const first = routes?.[0]
    if (routes === undefined || first === undefined) return { outcome: 'unknown' }
    const fitting = routes.filter((route) => route.endpoint.method === d.method)
    const route = fitting.length > 1 ? fitting.find((candidate) => speaks(candidate.provider, d)) ?? fitting[0] : fitting[0]
    if (route !== undefined) return { outcome: 'found', route }
    const allow = [...new Set(routes.map((candidate) => candidate.endpoint.method))].sort().join(', ')
    return { outcome: 'wrong_method', route: first, allow }
  }
}

/** Where two dialects share a path (`/v1/models`), the caller's own headers tell which one it speaks. */
function speaks(provider: Provider, d: Downstream): boolean {
  if (d.header('anthropic-version') !== undefined) return provider.name === 'anthropic'
  return provider.keyHeaders.some((name) => name !== 'authorization' && d.header(name) !== undefined)
}

/** The route of a path that no dialect knows, named as plans name it; null: the plain dialect is not there. */
export function opaqueRoute(providers: readonly Provider[], endpoint: Endpoint, d: Pick<Downstream, 'method' | 'path'>): Route | null {
  const provider = providers.find((candidate) => candidate.name === 'http')
  return provider === undefined ? null : { provider, endpoint, name: `${d.method} ${d.path}`, known: false }
}

const noOrdinary: readonly string[] = []
const batches: readonly string[] = ['batch']

/** What a call does that a plan has unless it denies it. No dialect reads batches: their paths tell. */
export function ordinaryOf({ known, name }: Route, { ordinary = noOrdinary }: Pick<RequestFacts, 'ordinary'>): readonly string[] {
  return !known && /^\S+ (\/v1)?(\/messages)?\/batches(\/|$)/.test(name) ? batches : ordinary
}

export interface Destination {
  readonly upstream: Upstream
  /** What is known of the model; null: nothing. */
  readonly model: Model | null
}

/** Where a model is served. Throws `not_found` when nothing serves it in this dialect. */
export function destinationOf(config: Config, provider: Provider, model: string | null): Destination {
  const known = model === null ? null : modelOf(config, model)
  if (known !== null && known.upstream !== null) {
    const upstream = config.upstreams.get(known.upstream)
    if (upstream !== undefined && upstream.providers.includes(provider.name)) return { upstream, model: known }
    throw new GatewayError('not_found', `The model \`${shown(model)}\` is not served on this endpoint.`)
  }
  const upstream = upstreamFor(config, provider)
  if (upstream === undefined) throw new GatewayError('not_found', 'No upstream serves this endpoint.')
  return { upstream, model: known }
}

/** The only one that speaks the dialect, else the default one. */
export function upstreamFor(config: Config, provider: Provider): Upstream | undefined {
  const speaking = [...config.upstreams.values()].filter((upstream) => upstream.providers.includes(provider.name))
  if (speaking.length === 1) return speaking[0]
  const fallback = speaking.find((upstream) => upstream.isDefault)
  if (fallback !== undefined || provider.name !== 'http') return fallback
  return [...config.upstreams.values()].find((upstream) => upstream.isDefault)
}

/** A caller's model name in a sentence: bounded, and nothing that could break out of it. */
export function shown(model: string | null): string {
  return (model ?? '').replace(/[^\x20-\x7e]|`/g, '?').slice(0, 100)
}
