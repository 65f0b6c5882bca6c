import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Provider } from '../providers/provider.ts'
import type { ObservedCall, Telemetry } from '../telemetry/telemetry.ts'
import { ownerOf, type Exchange } from './exchange.ts'
import { callerRequestId } from './headers.ts'
import { errorCodes } from './respond.ts'

/** What is told of an exchange that is over: metrics, one line of the log, and spans where somebody wants them. */

interface Told {
  readonly log: Log
  readonly metrics: Metrics
  readonly telemetry?: Telemetry | null
}

/** Models as metrics name them: by the configuration's own name or pattern, for callers may write anything. */
export function modelLabel(x: Exchange): string {
  return x.destination?.model?.pattern ?? 'other'
}

/** Series that alerts look at begin at 0: one that is born with its first event shows no increase over it. */
export function beginSeries(metrics: Metrics, providers: readonly Provider[]): void {
  for (const reason of errorCodes) metrics.refusals.inc({ reason }, 0)
  for (const braked of ['yes', 'no']) metrics.badKeys.inc({ braked }, 0)
  for (const { name, endpoints } of providers) {
    if (endpoints.length > 0) for (const why of ['zero', 'estimated']) metrics.zeroCharges.inc({ provider: name, why }, 0)
  }
}

/** `ms`: from the request to the end of everything. */
export function record(x: Exchange, { log, metrics, telemetry }: Told, ms: number): void {
  const endpoint = x.route === null || !x.route.known ? 'other' : x.route.endpoint.name
  measure(x, metrics, endpoint, ms)
  const { facts, destination, skeleton } = x
  const owner = ownerOf(x)
  // What is undefined is left out of the line; always the same fields cost least.
  log.info({
    id: x.id, account: owner?.account, key: owner?.key, endpoint, model: facts?.model ?? undefined, upstream: destination?.upstream.name,
    status: x.status, end: x.end, ms: Math.round(ms), upstream_ms: x.forwardedMs === null ? undefined : Math.round(x.upstreamMs),
    first_byte_ms: x.firstByteMs === null ? undefined : Math.round(x.firstByteMs),
    input_tokens: x.usage.input_tokens, output_tokens: x.usage.output_tokens, usage_source: x.source ?? undefined,
    failure: x.failure ?? undefined, shadowed: x.shadowed.length === 0 ? undefined : x.shadowed,
    caller_request_id: (skeleton === null ? callerRequestId(x.d.header('x-request-id')) : skeleton.caller.request_id) ?? undefined,
    trace: x.trace?.traceId,
  }, 'exchange')
  if (x.trace !== null) telemetry?.ended(observed(x, x.trace, ms))
}

function measure(x: Exchange, metrics: Metrics, endpoint: string, ms: number): void {
  const provider = x.route?.provider.name ?? 'none'
  metrics.requests.inc({ provider, endpoint, outcome: x.end })
  metrics.duration.observe({ endpoint }, ms / 1_000)
  if (x.firstByteMs !== null) metrics.firstByte.observe({ endpoint }, x.firstByteMs / 1_000)
  if (x.forwardedMs === null || x.destination === null) return
  metrics.upstreamDuration.observe({ upstream: x.destination.upstream.name }, x.upstreamMs / 1_000)
  if (x.end !== 'complete') return
  metrics.overhead.observe(Math.max(0, ms - x.upstreamMs - x.readingMs - x.waitedMs) / 1_000)
  if (x.facts?.streamed !== true || x.firstByteMs === null || !x.route?.known) return
  const model = modelLabel(x)
  metrics.firstToken.observe({ provider, model }, x.firstByteMs / 1_000)
  const perTokenMs = perOutputTokenMs(x)
  if (perTokenMs !== null) metrics.perToken.observe({ provider, model }, perTokenMs / 1_000)
}

/** null: it was not streamed, or there were too few to say. */
function perOutputTokenMs(x: Exchange): number | null {
  const tokens = x.usage.output_tokens ?? 0
  if (x.facts?.streamed !== true || x.firstByteMs === null || x.forwardedMs === null || tokens < 2) return null
  return Math.max(0, x.forwardedMs + x.upstreamMs - x.startedMs - x.firstByteMs) / (tokens - 1)
}

function observed(x: Exchange, trace: Exchange['trace'] & object, ms: number): ObservedCall {
  const { route, facts, destination, principal, usage } = x
  const known = route !== null && route.known
  const owner = ownerOf(x)
  return {
    trace, id: x.id, startMs: x.admittedMs, ms, method: x.d.method, path: known ? route.endpoint.path : null, endpoint: known ? route.endpoint.name : null,
    status: x.status, end: x.end, failure: x.failure,
    account: owner?.account ?? null, key: owner?.key ?? null, plan: principal?.plan.name ?? null,
    upstream: x.forwardedMs === null || destination === null ? null : {
      afterMs: x.forwardedMs - x.startedMs, ms: x.upstreamMs, name: destination.upstream.name, origin: destination.upstream.origin, status: x.upstreamStatus, attempts: x.attempt,
      provider: route?.provider.name ?? null, model: facts?.model ?? null, modelLabel: modelLabel(x), modelServed: x.modelServed, streamed: facts?.streamed === true,
      outputBound: x.draft === null || facts?.boundsOutput !== true ? null : x.outputBound, choices: facts?.choices ?? 1,
      firstByteMs: x.firstByteMs, perOutputTokenMs: perOutputTokenMs(x),
      inputTokens: usage.input_tokens ?? null, cachedInputTokens: usage.cached_input_tokens ?? null, cacheWriteTokens: usage.cache_write_tokens ?? null, outputTokens: usage.output_tokens ?? null,
    },
  }
}
