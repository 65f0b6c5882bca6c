import type { ErrorCode, GatewayError, RefusalReason } from '../errors.ts'

const reasons: ReadonlySet<ErrorCode> = new Set<RefusalReason>([
  'invalid_api_key', 'feature_unavailable', 'subscription_inactive', 'rate_limited', 'capacity_reserved', 'concurrency_limit', 'usage_limit_reached',
  'no_credit_available', 'request_too_large', 'metering_unavailable', 'upstream_unavailable', 'upstream_busy', 'upstream_timeout',
])

/** The facts of a refusal as every dialect's error object carries them: the contract, section 3. Empty for errors that are none. */
export function refusalMembers(error: GatewayError): Record<string, string | number> {
  const members: Record<string, string | number> = {}
  if (reasons.has(error.code)) members['reason'] = error.code
  const { limit, ceiling, used, remaining, resets_at, resets_in_seconds } = error.details
  if (limit !== undefined) members['limit'] = limit
  if (ceiling !== undefined) members['ceiling'] = ceiling
  if (used !== undefined) members['used'] = used
  if (remaining !== undefined) members['remaining'] = remaining
  if (resets_at !== undefined) members['resets_at'] = resets_at
  if (resets_in_seconds !== undefined) members['resets_in_seconds'] = resets_in_seconds
  return members
}
