import type { ServerConfig } from '../config/config.ts'
import { GatewayError } from '../errors.ts'
import type { Downstream } from './downstream.ts'
import { exposedHeaders } from './headers.ts'
import { allowedMethods, listOf } from './request-head.ts'
import { respondError, respondJson } from './respond.ts'
import { usageHistoryPath } from './usage-history.ts'
import { usagePath } from './usage-page.ts'

export interface Readiness {
  readonly ready: boolean
  readonly reason: string
}

const own: ReadonlySet<string> = new Set(['/', '/health', '/-/live', '/-/ready'])

/** These need a key. */
const ofCallers: ReadonlySet<string> = new Set([usagePath, usageHistoryPath])

/** Answers what needs neither a key nor an upstream. True: it did. */
export function answerLocally(d: Downstream, cors: ServerConfig['cors'], ready: () => Readiness): boolean {
  const { method, path } = d
  if (method === 'OPTIONS') {
    d.writeHead(204, ['allow', allowedMethods, ...preflightHeaders(d, cors)])
    d.end()
    return true
  }
  if (own.has(path)) {
    if (method !== 'GET' && method !== 'HEAD') {
      respondError(d, new GatewayError('method_not_allowed', `${method} is not offered here.`, { details: { allow: 'GET, HEAD, OPTIONS' } }), null, { requestId: '' })
    } else if (path === '/-/ready') {
      const { ready: isReady, reason } = ready()
      respondJson(d, isReady ? 200 : 503, isReady ? { status: 'ready' } : { status: 'not ready', reason })
    } else {
      respondJson(d, 200, path === '/' ? { name: 'tallygate', status: 'ok' } : { status: 'ok' })
    }
    return true
  }
  // What belongs to the admin port is never found on this one, nor is anything else of ours that does not exist.
  if (path === '/metrics' || path === '/api' || path.startsWith('/api/v1/') || path === '/api/v1' || (path.startsWith('/-/') && !ofCallers.has(path))) {
    respondError(d, new GatewayError('not_found', 'There is nothing at this path.'), null, { requestId: '' })
    return true
  }
  return false
}

function isAllowed(origin: string | undefined, cors: ServerConfig['cors']): origin is string {
  return origin !== undefined && (cors.origins.includes('*') || cors.origins.includes(origin))
}

/** Flat: what every answer to a page of an allowed origin carries. */
export function corsHeaders(origin: string | undefined, cors: ServerConfig['cors']): readonly string[] {
  if (cors.origins.length === 0 || !isAllowed(origin, cors)) return []
  return cors.origins.includes('*')
    ? ['access-control-allow-origin', '*', 'access-control-expose-headers', exposedHeaders]
    : ['access-control-allow-origin', origin, 'vary', 'Origin', 'access-control-expose-headers', exposedHeaders]
}

function preflightHeaders(d: Downstream, cors: ServerConfig['cors']): readonly string[] {
  const asked = d.header('access-control-request-headers')
  if (d.header('access-control-request-method') === undefined || !isAllowed(d.header('origin'), cors)) return []
  // SDKs send headers of their own making, and a wildcard does not cover `authorization`: what was asked for is granted, if it is a list of names.
  const names = asked === undefined ? [] : listOf(asked)
  const granted = names.length <= 64 && names.every((name) => /^[a-z0-9-]{1,64}$/.test(name)) ? names.join(', ') : 'authorization, content-type, x-api-key'
  return ['access-control-allow-methods', allowedMethods, ...(granted === '' ? [] : ['access-control-allow-headers', granted]), 'access-control-max-age', '600']
}
