import { GatewayError } from '../errors.ts'

/**
 * What an upstream's error means to the caller. Its failures are not the caller's: credentials, credit and load of the operator's account are
 * told in our words. null: the error is the caller's own (a bad request) and passes through.
 */
export function upstreamError(status: number, headers: readonly string[], body: Uint8Array, nowMs: number): GatewayError | null {
  if (status < 400) return unavailable('The model server redirected the request, which is never followed.', null)
  if (status === 401 || status === 402 || status === 403) return unavailable('The model server refused the gateway\'s own credential or account.', null)
  if (saysQuota(body)) return unavailable('The model server\'s own allowance is used up.', null)
  if (status === 429 || status === 503 || status === 529) {
    return new GatewayError('upstream_busy', 'The model server is busy. Please try again shortly.', {
      source: 'upstream', details: { retryAfterMs: Math.min(60_000, retryAfterMs(headers, nowMs) ?? 1_000) },
    })
  }
  if (status === 504) return new GatewayError('upstream_timeout', 'The model server took too long to answer.', { source: 'upstream' })
  if (status >= 500) return unavailable('The model server failed to answer the request.')
  return null
}

export function unavailable(message: string, retryMs?: number | null): GatewayError {
  return new GatewayError('upstream_unavailable', message, { source: 'upstream', details: retryMs === undefined ? {} : { retryAfterMs: retryMs } })
}

/** The error's own code or type, wherever the dialect puts it; looked for in a bounded part only. */
function saysQuota(body: Uint8Array): boolean {
  return /"(?:code|type)"\s*:\s*"(?:insufficient_quota|billing_error|billing_hard_limit_reached)"/.test(text(body))
}

/** Milliseconds from `retry-after-ms` or `retry-after` (seconds or a date); null: none that makes sense. */
function retryAfterMs(headers: readonly string[], nowMs: number): number | null {
  const inMs = Number(headerOf(headers, 'retry-after-ms') ?? NaN)
  if (inMs > 0) return Math.ceil(inMs)
  const value = headerOf(headers, 'retry-after')
  if (value === undefined) return null
  const seconds = Number(value)
  if (seconds > 0) return Math.ceil(seconds * 1_000)
  const date = Date.parse(value)
  return date > nowMs ? date - nowMs : null
}

/** The first value of a header in a flat list. */
export function headerOf(headers: readonly string[], name: string): string | undefined {
  for (let i = 0; i + 1 < headers.length; i += 2) if (headers[i] === name) return headers[i + 1]
  return undefined
}

export function text(body: Uint8Array): string {
  return Buffer.from(body.buffer, body.byteOffset, Math.min(body.byteLength, 65_536)).toString('utf8')
}
