import { SpanKind, SpanStatusCode, TraceFlags, ValueType, createTraceState } from '@opentelemetry/api'
import type { Attributes, HrTime, SpanContext } from '@opentelemetry/api'
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-http'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics'
import { BatchSpanProcessor } from '@opentelemetry/sdk-trace-base'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { clientAttributes, clientName, metricAttributes, serverAttributes, serverName, upstreamError } from './conventions.ts'
import type { ObservedCall, Telemetry, TelemetryParts, TelemetrySettings, Trace } from './telemetry.ts'
import { codeWords, placeOf, statusWords } from '../failure-words.ts'
import { traceOf } from './trace-context.ts'

/**
 * The one door of OpenTelemetry: spans and metrics by its conventions for generative AI, sent over OTLP. It is only read when it is configured. The packages send,
 * batch and repeat; what is told, and under which ids, is decided here when a call is over.
 */

/** Waiting spans; what comes while so many wait is dropped. */
const queueMax = 4_096
const batchMax = 512
const batchEveryMs = 1_000
const metricsEveryMs = 15_000
/** One batch, with its repetitions. */
const exportMs = 5_000
/** The last of them at the end. */
const closeMs = 3_000

export function openTelemetry(settings: TelemetrySettings, parts: TelemetryParts): Telemetry {
  return new Otlp(settings, parts)
}

class Otlp implements Telemetry {
  readonly #share: number
  readonly #place: string | null
  readonly #parts: TelemetryParts
  readonly #spans: BatchSpanProcessor
  readonly #meters: MeterProvider
  readonly #resource
  readonly #scope: { readonly name: string; readonly version: string }
  readonly #tokenUsage
  readonly #clientDuration
  readonly #serverDuration
  readonly #firstToken
  readonly #perToken
  #closing: Promise<void> | null = null

  constructor(settings: TelemetrySettings, parts: TelemetryParts) {
    const { endpoint, headers, serviceName, instance, version } = settings
    this.#share = settings.sampleShare
    this.#place = placeOf(endpoint)
    this.#parts = parts
    this.#scope = { name: 'tallygate', version }
    this.#resource = resourceFromAttributes({ 'service.name': serviceName, 'service.version': version, 'service.instance.id': instance })
    const sending = { headers: { ...headers }, timeoutMillis: exportMs, concurrencyLimit: 1 + queueMax / batchMax, keepAlive: true }
    const traces = new OTLPTraceExporter({ ...sending, url: `${endpoint}/v1/traces` })
    const metrics = new OTLPMetricExporter({ ...sending, url: `${endpoint}/v1/metrics` })
    this.#note(traces, 'traces')
    this.#note(metrics, 'metrics')
    this.#spans = new BatchSpanProcessor(traces, { maxQueueSize: queueMax, maxExportBatchSize: batchMax, scheduledDelayMillis: batchEveryMs, exportTimeoutMillis: exportMs + 1_000 })
    this.#meters = new MeterProvider({
      resource: this.#resource,
      readers: [new PeriodicExportingMetricReader({ exporter: metrics, exportIntervalMillis: metricsEveryMs, exportTimeoutMillis: exportMs + 1_000 })],
    })
    const meter = this.#meters.getMeter(this.#scope.name, version)
    const histogram = (name: string, description: string, unit: string, explicitBucketBoundaries: number[]) => (
      meter.createHistogram(name, { description, unit, valueType: unit === 's' ? ValueType.DOUBLE : ValueType.INT, advice: { explicitBucketBoundaries } }))
    this.#tokenUsage = histogram('gen_ai.client.token.usage', 'Number of input and output tokens used.', '{token}', tokenBuckets)
    this.#clientDuration = histogram('gen_ai.client.operation.duration', 'GenAI operation duration.', 's', durationBuckets)
    this.#serverDuration = histogram('gen_ai.server.request.duration', 'Generative AI server request duration such as time-to-last byte or last output token.', 's', durationBuckets)
    this.#firstToken = histogram('gen_ai.server.time_to_first_token', 'Time to generate first token for successful responses.', 's', firstTokenBuckets)
    this.#perToken = histogram('gen_ai.server.time_per_output_token', 'Time per output token generated after the first token for successful responses.', 's', perTokenBuckets)
  }

  begin(headers: readonly string[]): Trace {
    return traceOf(headers, this.#share, this.#parts.random)
  }

  ended(call: ObservedCall): void {
    this.#measure(call)
    if (!call.trace.sampled) return
    const { trace, upstream } = call
    if (upstream !== null) {
      const error = upstreamError(upstream, call)
      this.#spans.onEnd(this.#span(trace, trace.upstreamSpanId, trace.spanId, SpanKind.CLIENT, clientName(upstream, call), call.startMs + upstream.afterMs, upstream.ms, clientAttributes(upstream, call), error !== null))
    }
    this.#spans.onEnd(this.#span(trace, trace.spanId, trace.parentId, SpanKind.SERVER, serverName(call), call.startMs, call.ms, serverAttributes(call), call.status >= 500))
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const { clock } = this.#parts
    const late = Promise.withResolvers<void>()
    const cancel = clock.after(closeMs, late.resolve, { unref: true })
    // Nobody waits for a receiver that is away, and its absence was told when it began.
    const all = Promise.allSettled([this.#spans.shutdown(), this.#meters.shutdown()])
    await Promise.race([all, late.promise])
    cancel()
  }

  #measure(call: ObservedCall): void {
    const { upstream } = call
    const attributes = upstream === null ? null : metricAttributes(upstream, call)
    if (upstream === null || attributes === null) return
    const error = upstreamError(upstream, call)
    const marked = error === null ? attributes : { ...attributes, 'error.type': error }
    this.#clientDuration.record(upstream.ms / 1_000, marked)
    this.#serverDuration.record(call.ms / 1_000, marked)
    if (upstream.inputTokens !== null) this.#tokenUsage.record(upstream.inputTokens, { ...attributes, 'gen_ai.token.type': 'input' })
    if (upstream.outputTokens !== null) this.#tokenUsage.record(upstream.outputTokens, { ...attributes, 'gen_ai.token.type': 'output' })
    if (error !== null || !upstream.streamed) return
    if (upstream.firstByteMs !== null) this.#firstToken.record(upstream.firstByteMs / 1_000, attributes)
    if (upstream.perOutputTokenMs !== null) this.#perToken.record(upstream.perOutputTokenMs / 1_000, attributes)
  }

  #span(trace: Trace, spanId: string, parentId: string | null, kind: SpanKind, name: string, startMs: number, ms: number, attributes: Attributes, failed: boolean): ReadableSpan {
    const context: SpanContext = { traceId: trace.traceId, spanId, traceFlags: TraceFlags.SAMPLED, ...(trace.state === '' ? {} : { traceState: createTraceState(trace.state) }) }
    return {
      name, kind, attributes, spanContext: () => context,
      ...(parentId === null ? {} : { parentSpanContext: { traceId: trace.traceId, spanId: parentId, traceFlags: TraceFlags.SAMPLED, isRemote: kind === SpanKind.SERVER } }),
      startTime: timeOf(startMs), endTime: timeOf(startMs + ms), duration: timeOf(ms), ended: true, status: { code: failed ? SpanStatusCode.ERROR : SpanStatusCode.UNSET },
      links: [], events: [], droppedAttributesCount: 0, droppedEventsCount: 0, droppedLinksCount: 0, resource: this.#resource, instrumentationScope: this.#scope,
    }
  }

  /** Counts what became of each batch, and tells when sending begins to fail and when it works again. The receiver's words are not repeated. */
  #note<Batch, Result extends { readonly code: number; readonly error?: Error }>(exporter: { export(batch: Batch, done: (result: Result) => void): void }, signal: string): void {
    const { log, exports } = this.#parts
    for (const result of ['ok', 'failed']) exports.inc({ signal, result }, 0)
    let fails = false
    const send = exporter.export.bind(exporter)
    exporter.export = (batch, done) => send(batch, (result) => {
      const failed = result.code !== 0
      exports.inc({ signal, result: failed ? 'failed' : 'ok' }, 1)
      if (failed && !fails) log.warn({ signal, why: reasonOf(result.error, this.#place) }, 'telemetry is not taken where telemetry.otlp (or OTEL_EXPORTER_OTLP_ENDPOINT) sends it; calls go on, what does not fit in memory is dropped')
      if (!failed && fails) log.info({ signal }, 'telemetry is taken again')
      fails = failed
      done(result)
    })
  }
}

const tokenBuckets = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864]
const durationBuckets = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const firstTokenBuckets = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const perTokenBuckets = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5]

function timeOf(ms: number): HrTime {
  const micros = Math.round(ms * 1_000)
  return [Math.floor(micros / 1e6), (micros % 1e6) * 1_000]
}

/** A code is a status, or one of the network. */
function reasonOf(error: Error | undefined, place: string | null): string {
  if (error === undefined) return `${place ?? 'the receiver'} does not answer`
  if (!('code' in error) || error.code === undefined) return error.name
  return typeof error.code === 'number' ? `${place ?? 'the receiver'}: ${statusWords(error.code)}` : codeWords(String(error.code), place)
}
