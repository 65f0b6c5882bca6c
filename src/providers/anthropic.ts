import type { GatewayError } from '../errors.ts'
import { anthropicMeter } from './anthropic-answer.ts'
import { inspectAnthropic, prepareAnthropic } from './anthropic-request.ts'
import { passingMeter } from './passing.ts'
import type { ErrorFacts, Provider } from './provider.ts'
import { refusalMembers } from './refusal-body.ts'

function typeOf(error: GatewayError): string {
  switch (error.code) {
    case 'invalid_api_key': return 'authentication_error'
    case 'feature_unavailable': case 'subscription_inactive': return 'permission_error'
    case 'rate_limited': case 'capacity_reserved': case 'concurrency_limit': case 'usage_limit_reached': case 'too_many_bad_keys': return 'rate_limit_error'
    case 'no_credit_available': return 'billing_error'
    case 'request_too_large': return 'request_too_large'
    case 'not_found': return 'not_found_error'
    case 'metering_unavailable': case 'upstream_busy': case 'draining': return 'overloaded_error'
    case 'upstream_unavailable': case 'upstream_timeout': case 'internal': return 'api_error'
    default: return 'invalid_request_error'
  }
}

function errorBody(error: GatewayError, facts: ErrorFacts): string {
  return JSON.stringify({
    type: 'error',
    error: { type: typeOf(error), message: error.message, details: refusalMembers(error) },
    request_id: facts.requestId,
  })
}

/** Anthropic's Messages. */
export const anthropic: Provider = {
  name: 'anthropic',
  endpoints: [
    {
      name: 'messages', method: 'POST', path: '/v1/messages', body: 'json', byDefault: true, metered: true,
      inspect: (body) => inspectAnthropic(body, false),
      prepare: prepareAnthropic,
      meter: anthropicMeter,
    },
    {
      name: 'count_tokens', method: 'POST', path: '/v1/messages/count_tokens', body: 'json', byDefault: true, metered: false,
      inspect: (body) => inspectAnthropic(body, true),
      prepare: prepareAnthropic,
      meter: () => passingMeter(),
    },
  ],
  renderError: (error, facts) => Buffer.from(errorBody(error, facts)),
  renderStreamError: (error, facts) => Buffer.from(`event: error\ndata: ${errorBody(error, facts)}\n\n`),
  keyHeaders: ['x-api-key', 'authorization'],
  credentialHeaders: (credential) => [['x-api-key', credential]],
  requestIdHeader: 'request-id',
  upstreamRequestIdHeaders: ['request-id', 'x-request-id'],
  quotaHeaders: 'anthropic',
  listsModels: true,
  versionHeaders: ['anthropic-version', '2023-06-01'],
  basePath: '/v1',
}
