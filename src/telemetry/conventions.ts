import type { ObservedCall, ObservedUpstreamCall } from './telemetry.ts'

/**
 * OpenTelemetry's names for what a call is: the conventions for HTTP, and those for generative AI. Spans may hold what a caller wrote, bounded; metrics hold only
 * what the configuration and the dialects name.
 */

type Values = Record<string, string | number | boolean>

const textMax = 200

/** By endpoint; an endpoint that is not here has no model. */
const operations: Readonly<Record<string, string>> = {
  'chat.completions': 'chat', responses: 'chat', messages: 'chat', completions: 'text_completion', embeddings: 'embeddings', 'images.generations': 'generate_content',
}
/** Others are plain HTTP. */
const genAiProviders: ReadonlySet<string> = new Set(['openai', 'anthropic'])
const methods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

interface Place { readonly address: string; readonly port: number }
const places = new Map<string, Place>()

export function serverName({ method, path }: ObservedCall): string {
  const shown = methods.has(method) ? method : 'HTTP'
  return path === null ? shown : `${shown} ${path}`
}

export function serverAttributes(call: ObservedCall): Values {
  return present({
    'http.request.method': methods.has(call.method) ? call.method : '_OTHER', 'http.route': call.path, 'url.scheme': 'http', 'http.response.status_code': call.status === 0 ? null : call.status,
    'error.type': call.status >= 500 ? call.failure ?? String(call.status) : null,
    'tallygate.request.id': call.id, 'tallygate.end': call.end, 'tallygate.refusal': call.status >= 400 && call.status < 500 ? call.failure : null,
    'tallygate.account': call.account, 'tallygate.key': call.key, 'tallygate.plan': call.plan,
  })
}

export function clientName(upstream: ObservedUpstreamCall, call: ObservedCall): string {
  const operation = operationOf(upstream, call)
  if (operation === null) return methods.has(call.method) ? call.method : 'HTTP'
  return upstream.model === null ? operation : `${operation} ${shortened(upstream.model)}`
}

export function clientAttributes(upstream: ObservedUpstreamCall, call: ObservedCall): Values {
  const operation = operationOf(upstream, call)
  const { address, port } = placeOf(upstream.origin)
  return present({
    'server.address': address, 'server.port': port, 'http.request.method': methods.has(call.method) ? call.method : '_OTHER',
    'http.response.status_code': upstream.status === 0 ? null : upstream.status, 'http.request.resend_count': upstream.attempts > 1 ? upstream.attempts - 1 : null,
    'error.type': upstreamError(upstream, call), 'tallygate.upstream': upstream.name,
    ...(operation === null ? {} : {
      'gen_ai.operation.name': operation, 'gen_ai.provider.name': upstream.provider,
      'gen_ai.request.model': upstream.model === null ? null : shortened(upstream.model), 'gen_ai.response.model': upstream.modelServed === null ? null : shortened(upstream.modelServed),
      'gen_ai.request.max_tokens': upstream.outputBound, 'gen_ai.request.choice.count': upstream.choices > 1 ? upstream.choices : null,
      'gen_ai.request.stream': upstream.streamed ? true : null, 'gen_ai.output.type': operation === 'generate_content' ? 'image' : null,
      'gen_ai.response.time_to_first_chunk': upstream.streamed && upstream.firstByteMs !== null ? Math.max(0, upstream.firstByteMs - upstream.afterMs) / 1_000 : null,
      'gen_ai.usage.input_tokens': upstream.inputTokens, 'gen_ai.usage.output_tokens': upstream.outputTokens,
      'gen_ai.usage.cache_read.input_tokens': upstream.cachedInputTokens, 'gen_ai.usage.cache_creation.input_tokens': upstream.cacheWriteTokens,
    }),
  })
}

/** Of a model's call; null: it is none. Every value is of a closed set, or the configuration's. */
export function metricAttributes(upstream: ObservedUpstreamCall, call: ObservedCall): Values | null {
  const operation = operationOf(upstream, call)
  if (operation === null) return null
  const { address, port } = placeOf(upstream.origin)
  return { 'gen_ai.operation.name': operation, 'gen_ai.provider.name': upstream.provider ?? '', 'gen_ai.request.model': upstream.modelLabel, 'server.address': address, 'server.port': port }
}

/** Of a few kinds; null: it went well. A caller who leaves is no error of the upstream's. */
export function upstreamError(upstream: ObservedUpstreamCall, { end }: ObservedCall): string | null {
  if (upstream.status >= 400) return String(upstream.status)
  return end === 'upstream_broken' || end === 'timed_out' || end === 'error' ? end : null
}

function operationOf({ provider }: ObservedUpstreamCall, { endpoint }: ObservedCall): string | null {
  return endpoint === null || provider === null || !genAiProviders.has(provider) ? null : operations[endpoint] ?? null
}

function placeOf(origin: string): Place {
  let place = places.get(origin)
  if (place === undefined) {
    const url = new URL(origin)
    place = { address: url.hostname.replace(/^\[|\]$/g, ''), port: url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port) }
    places.set(origin, place)
  }
  return place
}

function shortened(text: string): string {
  return text.length > textMax ? `${text.slice(0, textMax)}…` : text
}

function present(values: Readonly<Record<string, string | number | boolean | null>>): Values {
  const out: Values = {}
  for (const name in values) {
    const value = values[name]
    if (value !== null && value !== undefined) out[name] = value
  }
  return out
}
