import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'
import type { Provider } from '../providers/provider.ts'
import type { Downstream } from './downstream.ts'
import { acceptedEncodings } from './request-body.ts'

/** The one table from code to status. */
const statuses: Readonly<Record<ErrorCode, number>> = {
  bad_request: 400,
  invalid_api_key: 401,
  no_credit_available: 402,
  feature_unavailable: 403,
  subscription_inactive: 403,
  not_found: 404,
  method_not_allowed: 405,
  request_timeout: 408,
  request_too_large: 413,
  uri_too_long: 414,
  unsupported_media_type: 415,
  expectation_failed: 417,
  upgrade_required: 426,
  rate_limited: 429,
  capacity_reserved: 429,
  concurrency_limit: 429,
  usage_limit_reached: 429,
  too_many_bad_keys: 429,
  headers_too_large: 431,
  internal: 500,
  not_implemented: 501,
  upstream_unavailable: 502,
  metering_unavailable: 503,
  upstream_busy: 503,
  draining: 503,
  upstream_timeout: 504,
  version_not_supported: 505,
}

/** Every reason that a caller can be told. */
export const errorCodes: readonly string[] = Object.keys(statuses)

/** Waits where the error itself names none. */
const waitsMs: Partial<Readonly<Record<ErrorCode, number>>> = {
  capacity_reserved: 1_000,
  concurrency_limit: 1_000,
  metering_unavailable: 2_000,
  upstream_busy: 5_000,
  draining: 1_000,
}

/** Retrying cannot help, whatever the wait. */
const hopeless: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'invalid_api_key', 'no_credit_available', 'feature_unavailable', 'subscription_inactive', 'request_too_large', 'too_many_bad_keys',
])

/** Clients differ beyond this: some sleep for days, some hammer. They are told not to retry. */
const retryHorizonMs = 60_000

export interface AnswerFacts {
  readonly requestId: string
  /** Flat headers to add: the quota headers of a metered call. */
  readonly headers?: readonly string[]
}

export function statusOf(code: ErrorCode): number {
  return statuses[code]
}

/** Flat. Everything of a refusal's head that does not depend on the dialect. */
export function errorHeaders(error: GatewayError): string[] {
  const { code, details } = error
  const headers = ['x-tallygate-error', error.source === 'upstream' || code.startsWith('upstream_') ? 'upstream' : 'gateway', 'cache-control', 'no-store']
  const waitMs = details.retryAfterMs === undefined ? waitsMs[code] ?? null : details.retryAfterMs
  if (waitMs !== null) {
    const ms = Math.max(1, Math.ceil(waitMs))
    headers.push('retry-after', String(Math.ceil(ms / 1_000)))
    if (ms <= retryHorizonMs) headers.push('retry-after-ms', String(ms))
  }
  const never = details.retryAfterMs === null
  if (never || hopeless.has(code) || (waitMs !== null && waitMs > retryHorizonMs)) headers.push('x-should-retry', 'false')
  if (code === 'invalid_api_key') headers.push('www-authenticate', 'Bearer realm="tallygate"')
  if (code === 'unsupported_media_type') headers.push('accept-encoding', acceptedEncodings)
  if (code === 'upgrade_required') headers.push('sec-websocket-version', '13')
  if (details.allow !== undefined) headers.push('allow', details.allow)
  return headers
}

/** Answers with an error in the dialect's shape; without a dialect in the shape that most clients parse. */
export function respondError(d: Downstream, error: GatewayError, provider: Provider | null, facts: AnswerFacts): void {
  const status = statuses[error.code]
  const body = provider === null ? renderPlainError(error) : provider.renderError(error, { status, requestId: facts.requestId })
  const headers = errorHeaders(error)
  headers.push('content-type', 'application/json', 'content-length', String(body.length))
  if (facts.requestId !== '') headers.push(provider?.requestIdHeader ?? 'x-request-id', facts.requestId)
  if (facts.headers !== undefined) headers.push(...facts.headers)
  d.writeHead(status, headers)
  d.end(body)
}

/** An answer of the gateway's own. */
export function respondJson(d: Downstream, status: number, value: unknown, headers: readonly string[] = []): void {
  const body = Buffer.from(JSON.stringify(value))
  d.writeHead(status, ['content-type', 'application/json', 'content-length', String(body.length), 'cache-control', 'no-store', ...headers])
  d.end(body)
}

/** For errors before any dialect is known. */
export function renderPlainError(error: GatewayError): Uint8Array {
  const { code, message, details } = error
  const type = statuses[code] >= 500 ? 'server_error' : 'invalid_request_error'
  const { limit, ceiling, used, remaining, resets_at, resets_in_seconds } = details
  // JSON leaves out what is undefined.
  return Buffer.from(JSON.stringify({
    error: { message, type, param: null, code, reason: code, limit, ceiling, used, remaining, resets_at, resets_in_seconds },
  }))
}

/** What was thrown at the edge of an exchange, as an error that may be shown: nothing of an unknown one is told to the caller. */
export function presentable(thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown
  return new GatewayError('internal', 'The gateway failed to handle this request.', { source: 'gateway', cause: thrown })
}
