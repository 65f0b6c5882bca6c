import type { Clock } from '../clock.ts'
import type { Random } from '../random.ts'
import type { TelemetryConfig } from '../config/config.ts'

/** Who is told of every exchange, for distributed traces and metrics of models: what the gateway needs of it. */
export interface Telemetry {
  /** The caller's trace, continued; a new one where it has none, or none that can be read. `headers`: flat, as the caller sent them. */
  begin(headers: readonly string[]): Trace
  /** An exchange is over. Never throws, never waits; what cannot be sent is dropped. */
  ended(call: ObservedCall): void
  /** Sends what is left, a few seconds at most. */
  close(): Promise<void>
}

/** Where an exchange belongs to. Ids in lower-case hex. */
export interface Trace {
  readonly traceId: string
  /** The caller's span; null: the trace begins here. */
  readonly parentId: string | null
  /** Of the exchange, and of its call to the upstream. */
  readonly spanId: string
  readonly upstreamSpanId: string
  /** Its spans are recorded: as the caller has decided, else by the configured share. */
  readonly sampled: boolean
  /** What the upstream is told: `traceparent`, and `tracestate` ('': none). */
  readonly upstreamParent: string
  readonly state: string
}

/** What is told of one exchange: no body, no credential, no header of the caller's. Durations in milliseconds. */
export interface ObservedCall {
  readonly trace: Trace
  readonly id: string
  /** Since 1970. */
  readonly startMs: number
  readonly ms: number
  readonly method: string
  /** null: no dialect knows it; a caller may write anything there. */
  readonly path: string | null
  readonly endpoint: string | null
  /** What the caller was answered. */
  readonly status: number
  readonly end: string
  readonly failure: string | null
  readonly account: string | null
  readonly key: string | null
  readonly plan: string | null
  /** null: no upstream was asked. */
  readonly upstream: ObservedUpstreamCall | null
}

export interface ObservedUpstreamCall {
  /** After the exchange's start. */
  readonly afterMs: number
  readonly ms: number
  readonly name: string
  readonly origin: string
  /** 0: it did not answer. */
  readonly status: number
  readonly attempts: number
  readonly provider: string | null
  /** As the caller wrote it. */
  readonly model: string | null
  /** The configuration's name or pattern for it, or `other`. */
  readonly modelLabel: string
  readonly modelServed: string | null
  readonly streamed: boolean
  readonly outputBound: number | null
  readonly choices: number
  /** After the exchange's start. */
  readonly firstByteMs: number | null
  readonly perOutputTokenMs: number | null
  readonly inputTokens: number | null
  readonly cachedInputTokens: number | null
  readonly cacheWriteTokens: number | null
  readonly outputTokens: number | null
}

export interface TelemetrySettings extends TelemetryConfig {
  /** Names this process. */
  readonly instance: string
  readonly version: string
}

export interface TelemetryParts {
  readonly clock: Clock
  readonly random: Random
  readonly log: { warn(fields: object, message: string): void; info(fields: object, message: string): void }
  /** Counts batches by signal and result. */
  readonly exports: { inc(labels: { signal: string; result: string }, by: number): void }
}
