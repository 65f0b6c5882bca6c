import type { GatewayError } from '../errors.ts'
import type { StreamEnd, UsageSource } from '../metering/event.ts'
import type { Quantities } from '../metering/meter.ts'

/**
 * What bytes mean in one protocol. A new dialect is one file that implements this, one line in `index.ts`, and recorded exchanges
 * that pass `test/providers/conformance.ts`. Nothing here knows HTTP servers, stores or money.
 */
export interface Provider {
  readonly name: string
  readonly endpoints: readonly Endpoint[]
  /** Our errors in the shape that this protocol's SDKs parse; `requestId` goes into the body where the dialect has a place for it. */
  renderError(error: GatewayError, facts: ErrorFacts): Uint8Array
  /** An error inside a stream that has begun, as the dialect's SDKs raise it. Empty: the dialect has no such thing. */
  renderStreamError(error: GatewayError, facts: ErrorFacts): Uint8Array
  /** Where callers put their key, most specific first; lower-case header names. `query`: a query parameter's name. */
  readonly keyHeaders: readonly string[]
  /** Headers to send upstream for a configured credential, and which request headers are replaced by it. */
  credentialHeaders(credential: string): readonly (readonly [string, string])[]
  /** Header of the caller-visible request id: `x-request-id`, `request-id`. */
  readonly requestIdHeader: string
  /** Header(s) of the upstream's own request id. */
  readonly upstreamRequestIdHeaders: readonly string[]
  /** Which quota headers of its own the dialect has; rendered in `gateway/headers.ts`. */
  readonly quotaHeaders: 'openai' | 'anthropic' | 'none'
  /** Does an upstream of this protocol list its models at `<basePath>/models`, as `data[].id`? */
  readonly listsModels: boolean
  /** Headers that the protocol demands of every request, for those that the gateway makes itself; flat. */
  readonly versionHeaders: readonly string[]
  /** The upstream's path prefix that base URLs may or may not carry ('/v1'); '' for none. */
  readonly basePath: string
}

export interface ErrorFacts {
  readonly status: number
  readonly requestId: string
}

export interface Endpoint {
  /** As plans and events name it: `chat.completions`. */
  readonly name: string
  readonly method: 'GET' | 'POST'
  /** Exact path. */
  readonly path: string
  /** `json`: the body is read whole, inspected and may be amended. `none`: no body. */
  readonly body: 'json' | 'none'
  /** Part of a plan's default endpoints? Only stateless ones are. */
  readonly byDefault: boolean
  /** False for endpoints that cost nothing and count toward no limit (`/v1/models`, count_tokens). They are authenticated and authorised all the same. */
  readonly metered: boolean
  /** `models`: answered by the gateway itself from what the key may use. */
  readonly local?: 'models'
  /** Reads only what admission needs. Throws GatewayError('bad_request' …) when the body is not this protocol's. */
  inspect(body: Uint8Array): RequestFacts
  /** The bytes to send on. Returns its argument if nothing changes; all other bytes stay as they were. */
  prepare(body: Uint8Array, facts: RequestFacts, changes: BodyChanges): Uint8Array
  /** A meter for the answer, chosen once per exchange. */
  meter(facts: RequestFacts, response: ResponseFacts): AnswerMeter
}

export interface RequestFacts {
  /** null where the endpoint has no model. */
  readonly model: string | null
  readonly streamed: boolean
  /** Did the caller ask for what we would otherwise switch on (usage in the stream)? */
  readonly usageAsked: boolean
  /** The caller's output bound per choice; null: none given. 0 and up. */
  readonly outputAsked: number | null
  /** The dialect's own default bound when the caller gives none (16 for `/v1/completions`); null: none. */
  readonly outputDefault: number | null
  /** False: the endpoint has no output tokens to bound (embeddings): u is 0. */
  readonly boundsOutput: boolean
  /** What one unit of the output bound costs in output tokens: n, best_of × prompts … ≥ 1. */
  readonly choices: number
  /** The least useful output bound: thinking budget + 1024, min_tokens, 16 on responses; 0 otherwise. */
  readonly outputFloor: number
  /** False: lowering the bound would break the answer (JSON schema, forced tools): refuse instead. */
  readonly clampable: boolean
  /** Bytes of text that bound the input's tokens, plus tokens of images, audio and templates by rule; before `input_factor`. */
  readonly inputBytes: number
  readonly inputMessages: number
  readonly inputTools: number
  /** Tokens by rule for content that is not text (images, audio). */
  readonly inputMediaTokens: number
  /** How many images there are; `models.X.image_tokens`, where given, replaces the rule: it counts for each of them. */
  readonly inputImages?: number
  /** The part of `inputMediaTokens` that is for images. */
  readonly inputImageTokens?: number
  /** How many images it wants made; absent: none. */
  readonly imagesAsked?: number
  /** Tokens already known exactly (token arrays); null: count text. */
  readonly inputTokensExact: number | null
  /** Content that is not in the body (previous_response_id, files …): only the model's context bounds it. */
  readonly inputUnseen: boolean
  /** Features that a plan must grant: hosted_tools, service_tiers, store, background, long_context, stateful. */
  readonly features: readonly string[]
  /** Of `streaming`, `tools`, `vision`, those that it uses: a plan has them unless it denies them. Absent: nobody can tell. */
  readonly ordinary?: readonly string[]
  /** The caller's end-user claim (`user`, `metadata.user_id`). */
  readonly user: string | null
  /** The texts of the prompt, for exact counting; lazily made, nothing kept. */
  texts(): Iterable<string>
}

/** What the gateway wants changed in the request. */
export interface BodyChanges {
  /** Write this output bound; null: leave as it is. */
  readonly outputBound: number | null
  /** The field to write it in when the caller used none (`models.X.output_field`); null: the dialect's own. */
  readonly outputField: string | null
  /** Rename the model; null: leave. */
  readonly upstreamModel: string | null
  /** False: this upstream rejected our asking for usage. */
  readonly askUsage: boolean
  /** True: the plan does not grant `store`: send it as false. */
  readonly forbidStore: boolean
}

export interface ResponseFacts {
  readonly status: number
  /** Lower-case, without parameters: `text/event-stream`. '' when absent. */
  readonly contentType: string
  /** Anything but '' or 'identity' means that the bytes cannot be read. */
  readonly contentEncoding: string
}

/**
 * Looks at an answer as it passes. Never throws into the path (the gateway replaces one that does), keeps a bounded carry,
 * and holds back only the terminal frame, which `finish` hands over.
 */
export interface AnswerMeter {
  /** Takes the next chunk; gives what may be passed on now: usually the chunk itself; empty when all of it is held. */
  pass(chunk: Uint8Array): Uint8Array
  /** The dialect's terminal frame has been seen: what follows a client's leaving now is a normal end. */
  readonly ended: boolean
  /** What has been counted so far, never more than was seen; output tokens may be an estimate. Cheap. */
  counted(): Quantities
  /** Called exactly once, however the answer ended. */
  finish(end: StreamEnd): Metered
  /** Meters of streams that can be ended in the dialect's own words have this (see `QuotaStop`); called after `finish('quota_stop')`. */
  renderQuotaStop?(metered: Metered): Uint8Array
}

export interface Metered {
  /** input_tokens incl. cached and cache writes; output_tokens incl. reasoning; total_tokens. */
  readonly usage: Quantities
  readonly source: UsageSource
  /** What was held back: the terminal frame and anything after it. Empty where the end is not whole, unless the upstream itself ended so (`complete`). */
  readonly rest: Uint8Array
  /** The answer was whole by the dialect's own measure (sentinel seen, JSON closed). */
  readonly whole: boolean
  readonly modelServed?: string
  readonly serviceTier?: string
  /** An error inside a 200. */
  readonly failed?: boolean
  /** No usage where one was due, unreadable usage, malformed events: counted as alarms, by name. */
  readonly alarms: readonly MeterAlarm[]
  /**
   * Set when text must still be counted with the tokenizer; the gateway awaits it before settling. Resolves to all token quantities, which
   * replace those of `usage`. When it rejects or takes too long, `usage` stands, with source `estimated`.
   */
  readonly countLater?: () => Promise<Quantities>
}

export type MeterAlarm = 'usage_missing' | 'usage_invalid' | 'usage_conflicting' | 'malformed_event' | 'undecodable' | 'meter_failed'

/** Ending a stream in the dialect's own words when its quota ends: the frames to send (`finish_reason: length`, usage, terminator). */
export interface QuotaStop {
  renderQuotaStop(metered: Metered): Uint8Array
}
