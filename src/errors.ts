/**
 * Everything that ends a request early. A refusal is a value (the system worked and said no); an error says that something broke;
 * a failed assertion is a bug. `gateway/respond.ts` holds the one table from code to status and words.
 */
export type RefusalReason =
  | 'invalid_api_key' | 'feature_unavailable' | 'subscription_inactive'
  | 'rate_limited' | 'capacity_reserved' | 'concurrency_limit' | 'usage_limit_reached' | 'no_credit_available'
  | 'request_too_large' | 'metering_unavailable'
  | 'upstream_unavailable' | 'upstream_busy' | 'upstream_timeout'

export type ErrorCode = RefusalReason
  | 'bad_request' | 'not_found' | 'method_not_allowed' | 'unsupported_media_type' | 'request_timeout' | 'headers_too_large' | 'uri_too_long'
  | 'expectation_failed' | 'not_implemented' | 'version_not_supported' | 'upgrade_required' | 'too_many_bad_keys' | 'draining' | 'internal'

/** Which side is at fault. */
export type ErrorSource = 'downstream' | 'gateway' | 'upstream' | 'store'

export class GatewayError extends Error {
  override name = 'GatewayError'
  readonly code: ErrorCode
  readonly source: ErrorSource
  /** Extra facts of a refusal, as the contract names them (section 3); amounts in units people read. */
  readonly details: RefusalDetails
  /** For the log; the message is what the caller sees and holds nothing of prompts, keys or upstream texts. */
  constructor(code: ErrorCode, message: string, options: { source?: ErrorSource; details?: RefusalDetails; cause?: unknown } = {}) {
    // An answer and no bug: nobody reads where it was made, and noting that costs as much as a quarter of a refused call.
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    Error.stackTraceLimit = stackTraceLimit
    this.code = code
    this.source = options.source ?? 'downstream'
    this.details = options.details ?? {}
  }
}

export interface RefusalDetails {
  readonly limit?: string
  readonly ceiling?: number
  readonly used?: number
  readonly remaining?: number
  readonly resets_at?: string
  readonly resets_in_seconds?: number
  /** Milliseconds until a retry makes sense; null: never. Absent: the code's default. */
  readonly retryAfterMs?: number | null
  /** What the refused limit counts: OpenAI's error type `requests` or `tokens`. */
  readonly counts?: 'requests' | 'tokens'
  /** For 405. */
  readonly allow?: string
}
