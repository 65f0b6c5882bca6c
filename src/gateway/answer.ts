import type { Balance } from '../metering/check.ts'
import type { StreamEnd, UsageSource } from '../metering/event.ts'
import type { BuiltinMeter, Quantities } from '../metering/meter.ts'
import type { CheckRefusal, Counted } from '../metering/moves.ts'
import { toInstant } from '../metering/event.ts'
import { pricedUsage } from '../metering/price.ts'
import { quotaItems } from '../metering/quota.ts'
import { amountsOf } from '../metering/reservation.ts'
import { GatewayError } from '../errors.ts'
import type { AnswerMeter, BodyChanges, Metered, MeterAlarm, ResponseFacts } from '../providers/provider.ts'
import { answerHeaders, standingHeaders, trailerOf } from './answer-head.ts'
import { ByteMeter } from './byte-meter.ts'
import { Deadline } from './deadline.ts'
import { admitted, type Exchange } from './exchange.ts'
import type { UpstreamCall, UpstreamFailure, UpstreamListener } from './forward.ts'
import type { Holding } from './admission.ts'
import { none, type Hold, type Wanted } from './hold.ts'
import type { Workings } from './parts.ts'
import { respondError, statusOf } from './respond.ts'
import { rejectedBound, rejectsUsageOption, smallerBound } from './second-try.ts'
import { headerOf, unavailable, upstreamError } from './upstream-error.ts'
import { tellRefused } from './told.ts'
import { upstreamRequest } from './upstream-request.ts'

const quotaEnded = 'The allowance for this call is used up.'

/** What came of a forwarded call: exactly one per admitted exchange. */
export interface Outcome {
  readonly end: StreamEnd
  /**
   * `used`: settle the usage. `failed`: the upstream failed before it answered, or answered an error without usage. `untouched`: surely not executed.
   */
  readonly verdict: 'used' | 'failed' | 'untouched'
  /** What the caller sees, or would have seen. */
  readonly status: number
  readonly usage: Quantities
  readonly source: UsageSource
  readonly modelServed: string | null
  readonly serviceTier: string | null
  readonly alarms: readonly MeterAlarm[]
  /** Lets the caller see the end, with the standing after the settlement where that is known. Called once, after the books are true. */
  release(balances: readonly Balance[] | null): void
}

type Phase = 'waiting' | 'error' | 'holding' | 'flowing' | 'over'

/** An answer of the upstream's that is held whole: errors, and plain JSON until it is settled. */
const heldBytesMax = 1_048_576
/** After the terminal event of a stream usage may still follow. */
const afterEndMs = 2_000
/** How much is held ahead of a stream. */
const aheadBytes = 262_144
const aheadTokens = 256
const aheadComputeMs = 5_000
/** Cutting takes a moment: compute time ends this much before what is held does. */
const computeMarginMs = 250
const empty = new Uint8Array(0)

/**
 * The way of one answer from the upstream to the caller. Everything that can end it (the upstream, the caller, a timer, a quota, a shutdown) comes
 * together in `#conclude`, which runs once; what comes after is ignored.
 */
export class Answer implements UpstreamListener {
  readonly #x: Exchange
  readonly #w: Workings
  readonly #deadline: Deadline
  readonly #timeouts: { readonly connectMs: number; readonly firstByteMs: number; readonly idleMs: number; readonly totalMs: number }
  readonly #hold: Hold | null
  /** Nothing passes that the hold does not cover. */
  readonly #grows: boolean
  readonly #tokensInSlices: boolean
  #changes: BodyChanges
  #boundWritten: number | null
  #call: UpstreamCall | null = null
  #phase: Phase = 'waiting'
  #sent = false
  /** A whole answer that its quota did not cover: nobody gets it, nobody pays for it. */
  #withheld = false
  #startedMs = 0
  #headMs = 0
  #lastMs = 0
  #endedMs: number | null = null
  #status = 0
  #headers: readonly string[] = []
  #meter: AnswerMeter | null = null
  #held: Uint8Array[] = []
  #heldBytes = 0
  /** The caller takes nothing at the moment. */
  #blocked = false
  /** Waiting for the hold to grow: no chunk may pass. */
  #pumping = false
  #queue: Uint8Array[] = []
  /** Body bytes that were taken from the queue: what is passed on and what is held back is never more. */
  #taken = 0
  #upstreamEnded = false
  /** The caller has gone, and the upstream is read on for its usage. */
  #draining = false
  #lastByte = 0x0a
  #beforeLastByte = 0x0a
  /** What checkpoints have told. */
  #soFar: Quantities = {}
  #resolve: (outcome: Outcome) => void = () => {}

  constructor(x: Exchange, w: Workings, changes: BodyChanges, holding: Holding) {
    this.#x = x
    this.#w = w
    this.#changes = changes
    this.#boundWritten = changes.outputBound
    this.#hold = holding.hold
    this.#grows = holding.grows
    this.#tokensInSlices = holding.tokensInSlices
    this.#timeouts = admitted(x).destination.upstream.timeouts ?? x.config.server.timeouts
    this.#deadline = new Deadline(w.clock, () => {
      try {
        this.#onDue()
      } catch (error) {
        this.#bug(error)
      }
    })
  }

  /** Forwards the request. Never rejects: an admitted exchange has exactly one outcome. */
  run(): Promise<Outcome> {
    return new Promise((resolve) => {
      this.#resolve = resolve
      this.#x.d.onDrain(() => this.#onDrain())
      this.#x.d.onGone(() => this.#onGone())
      this.#start()
    })
  }

  /** What was counted so far, for the day this gateway is not heard of again; null: nothing yet. */
  counted(): Counted | null {
    const { draft } = this.#x
    if (draft === null || this.#meter === null || this.#x.firstByteMs === null) return null
    this.#soFar = risen(this.#soFar, this.#usageOf(this.#withinBound(this.#countedUsage())))
    const usage = pricedUsage(this.#soFar, admitted(this.#x).entitlement.rates)
    return { usage, amounts: amountsOf(draft, usage) }
  }

  /** The gateway is being stopped and will wait no longer. */
  stop(): void {
    this.#conclude('timed_out', new GatewayError('draining', 'The gateway is restarting. Please try again.', { source: 'gateway' }))
  }

  /** The store let the reservation expire: hold it again, or end. */
  lost(): void {
    const hold = this.#hold
    if (hold === null) return
    this.#background(hold.revive().then((grown) => {
      if (grown.outcome === 'denied') this.#stopForQuota()
    }))
  }

  #start(): void {
    const { clock, forwarder } = this.#w
    this.#sent = false
    this.#startedMs = clock.monotonicMs()
    this.#x.forwardedMs ??= this.#startedMs
    this.#phase = 'waiting'
    this.#arm()
    if (this.#grows) this.#background(this.#growCompute())
    const call = forwarder.forward(upstreamRequest(this.#x, this.#changes), this)
    this.#call = call
    if (this.#phaseIs('over')) call.abort()
  }

  // The phase changes under a call's feet: the compiler must not remember it.
  #phaseIs(phase: Phase): boolean {
    return this.#phase === phase
  }

  // ── What the upstream does ──────────────────────────────────────────────────────────────────────────────────────────

  onSent(): void {
    this.#sent = true
  }

  onHead(status: number, headers: readonly string[]): void {
    if (this.#phase === 'over') return
    const x = this.#x
    const { route, facts } = admitted(x)
    this.#status = x.upstreamStatus = status
    this.#headers = headers
    this.#headMs = this.#lastMs = this.#w.clock.monotonicMs()
    for (const name of route.provider.upstreamRequestIdHeaders) x.upstreamRequestId ??= headerOf(headers, name)?.slice(0, 200) ?? null
    if (status >= 300) {
      this.#phase = 'error'
      return this.#arm()
    }
    const response = responseFacts(status, headers)
    this.#meter = this.#newMeter(response)
    const length = Number(headerOf(headers, 'content-length') ?? 0)
    const plain = route.known && !facts.streamed && response.contentType === 'application/json' && response.contentEncoding === ''
    if (plain && length <= heldBytesMax && x.draft !== null) this.#phase = 'holding'
    else this.#beginFlowing()
    this.#arm()
  }

  onData(chunk: Uint8Array): void {
    const x = this.#x
    this.#lastMs = this.#w.clock.monotonicMs()
    x.firstByteMs ??= this.#lastMs - x.startedMs
    switch (this.#phase) {
      case 'flowing':
        if (!this.#grows) this.#flow(this.#pass(chunk))
        else this.#enqueue(chunk)
        // What may be held of a stream's end is only known once it came.
        if (this.#meter?.ended === true) this.#arm()
        return
      case 'holding':
      case 'error': {
        const passed = this.#phase === 'holding' ? this.#pass(chunk) : chunk
        this.#held.push(passed)
        // What the meter keeps back leaves with the end, and counts too.
        this.#heldBytes += chunk.length
        if (this.#heldBytes > heldBytesMax) this.#overflow()
        return
      }
      default:
    }
  }

  onEnd(): void {
    this.#endedMs = this.#w.clock.monotonicMs()
    switch (this.#phase) {
      case 'error': return this.#background(this.#concludeError())
      case 'holding': return this.#background(this.#concludeHeld())
      case 'flowing':
        this.#upstreamEnded = true
        if (!this.#pumping && this.#queue.length === 0) this.#conclude('complete')
        return
      default:
    }
  }

  onFailed(failure: UpstreamFailure): void {
    this.#x.failure = failure.code
    if (failure.kind === 'unreachable') return this.#conclude('upstream_broken', unavailable('The model server cannot be reached.'))
    this.#conclude('upstream_broken', unavailable('The model server broke off its answer.'))
  }

  // ── What the caller does ────────────────────────────────────────────────────────────────────────────────────────────

  #onDrain(): void {
    if (!this.#blocked) return
    this.#blocked = false
    this.#lastMs = this.#w.clock.monotonicMs()
    if (this.#phase !== 'over' && !this.#pumping) this.#call?.resume()
  }

  #onGone(): void {
    if (this.#phase === 'over') return
    // The answer was whole by the dialect's own measure; only its last frame was not handed over yet.
    if (this.#meter?.ended === true) return this.#conclude('complete')
    const { drains } = this.#w
    const wanted = admitted(this.#x).entitlement.policy.onDisconnect === 'drain' && this.#x.draft !== null
    if (!wanted || !this.#sent || drains.running >= this.#x.config.server.drainsMax) return this.#conclude('client_gone')
    drains.running += 1
    this.#draining = true
    this.#blocked = false
    if (!this.#pumping) this.#call?.resume()
  }

  // ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The next instant at which something must be decided. */
  #arm(): void {
    const { firstByteMs, idleMs, totalMs } = this.#timeouts
    let due = totalMs > 0 ? this.#startedMs + totalMs : Infinity
    if (this.#phase === 'waiting') due = Math.min(due, this.#startedMs + firstByteMs)
    else if (!this.#blocked && !this.#pumping) due = Math.min(due, this.#lastMs + idleMs)
    else due = Math.min(due, this.#w.clock.monotonicMs() + idleMs)
    if (this.#phase === 'holding' && !this.#pumping) due = Math.min(due, this.#headMs + this.#w.limits.holdMs)
    if (this.#meter?.ended === true && !this.#pumping) due = Math.min(due, this.#lastMs + afterEndMs)
    if (this.#hold !== null && this.#grows) due = Math.min(due, this.#computeEndMs(this.#hold), this.#nextGrowthMs)
    this.#deadline.set(Math.min(due, this.#pingDueMs()))
  }

  #nextGrowthMs = Infinity
  #pingedMs = 0

  /** When the compute time that is held runs out. One sum for the timer and for the question: two that round apart would ask for ever. */
  #computeEndMs(hold: Hold): number {
    return this.#startedMs + Math.max(0, hold.held.computeMs - computeMarginMs)
  }

  /** When a silent event stream is due a comment, for proxies that cut what is silent; Infinity: never. */
  #pingDueMs(): number {
    const { streamPingMs } = this.#x.config.server
    const pings = streamPingMs > 0 && this.#phase === 'flowing' && !this.#draining && !this.#blocked && isEventStream(this.#headers)
    return pings ? Math.max(this.#lastMs, this.#pingedMs) + streamPingMs : Infinity
  }

  /** Only between two events, never inside one. Our own words: they are not counted as the answer's bytes. */
  #ping(now: number): void {
    this.#pingedMs = now
    if (this.#mark().length === 0 && !this.#x.d.write(Buffer.from(': ping\n\n'))) this.#blocked = true
  }

  #onDue(): void {
    if (this.#phase === 'over') return
    const now = this.#w.clock.monotonicMs()
    const { firstByteMs, idleMs, totalMs } = this.#timeouts
    const late = new GatewayError('upstream_timeout', 'The model server took too long to answer.', { source: 'upstream' })
    // While the hold grows, nothing is whole: what it does not cover must not leave.
    if (this.#meter?.ended === true && !this.#pumping && now >= this.#lastMs + afterEndMs) return this.#conclude('complete')
    if (totalMs > 0 && now >= this.#startedMs + totalMs) return this.#conclude('timed_out', late)
    if (this.#phase === 'waiting' && now >= this.#startedMs + firstByteMs) return this.#conclude('timed_out', late)
    if (this.#phase !== 'waiting' && !this.#blocked && !this.#pumping && now >= this.#lastMs + idleMs) return this.#conclude('timed_out', late)
    if (this.#phase === 'holding' && !this.#pumping && now >= this.#headMs + this.#w.limits.holdMs) this.#overflow()
    if (now >= this.#pingDueMs()) this.#ping(now)
    if (this.#hold !== null && this.#grows) {
      if (now >= this.#computeEndMs(this.#hold)) return this.#stopForQuota()
      if (now >= this.#nextGrowthMs) {
        this.#nextGrowthMs = Infinity
        this.#background(this.#growCompute())
      }
    }
    this.#arm()
  }

  /** Compute time runs whether or not anything is streamed: it is held ahead of the clock. */
  async #growCompute(): Promise<void> {
    const hold = this.#hold
    if (hold === null || hold.held.computeMs === Infinity) return
    const elapsed = Math.ceil(this.#w.clock.monotonicMs() - this.#startedMs)
    const { held } = hold
    const grown = await hold.grow({ ...held, computeMs: elapsed + 2 * computeMarginMs }, { ...none, computeMs: aheadComputeMs })
    if (this.#phase === 'over') return
    // When it was denied, what is held is all there is: the deadline cuts before it is used up.
    // Near the ceiling little is held ahead: the next try must not come at once, over and over.
    this.#nextGrowthMs = grown.outcome === 'held' ? this.#startedMs + Math.max(elapsed + computeMarginMs, hold.held.computeMs - aheadComputeMs / 2) : Infinity
    this.#arm()
  }

  // ── Bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #newMeter(response: ResponseFacts): AnswerMeter {
    const { route, facts } = admitted(this.#x)
    try {
      return route.endpoint.meter(facts, response)
    } catch {
      return new ByteMeter(admitted(this.#x).facts)
    }
  }

  /** The chunk as the meter lets it pass. A meter that throws is replaced by one that only counts bytes: it must never break an answer. */
  #pass(chunk: Uint8Array): Uint8Array {
    if (this.#meter === null) return chunk
    try {
      return this.#meter.pass(chunk)
    } catch {
      this.#meter = new ByteMeter(admitted(this.#x).facts)
      return this.#meter.pass(chunk)
    }
  }

  #beginFlowing(): void {
    this.#phase = 'flowing'
    const { d } = this.#x
    this.#x.status = this.#status
    if (!this.#draining && !d.gone) d.writeHead(this.#status, answerHeaders(this.#x, this.#w, this.#headers, null, null))
    const held = this.#held
    this.#held = []
    if (this.#grows) this.#releaseHeld(held)
    else for (const chunk of held) this.#flow(chunk)
  }

  /** What was held has been looked at already; it still has to be covered before it leaves. */
  #releaseHeld(held: readonly Uint8Array[]): void {
    if (held.length === 0 || this.#hold === null) return
    const bytes = Buffer.concat(held)
    this.#taken = this.#heldBytes
    this.#pumping = true
    this.#call?.pause()
    this.#background(this.#hold.grow(this.#wanted(this.#taken), { ...none, bytesOut: aheadBytes }).then((grown) => {
      this.#pumping = false
      if (this.#phaseIs('over')) return
      if (grown.outcome === 'denied') return this.#stopForQuota()
      this.#write(bytes)
      return this.#pump()
    }))
  }

  /** Held too long or too large: from here on it flows. */
  #overflow(): void {
    if (this.#phase === 'holding') return this.#beginFlowing()
    this.#call?.abort()
    this.#conclude('upstream_broken', unavailable('The model server answered with an error that is too long.'))
  }

  #flow(bytes: Uint8Array): void {
    this.#write(bytes)
    if (this.#blocked) this.#call?.pause()
  }

  #write(bytes: Uint8Array): void {
    if (bytes.length === 0 || this.#draining) return
    this.#x.bytesOut += bytes.length
    this.#beforeLastByte = bytes.length > 1 ? bytes[bytes.length - 2] ?? 0 : this.#lastByte
    this.#lastByte = bytes[bytes.length - 1] ?? 0
    if (!this.#x.d.write(bytes)) this.#blocked = true
  }

  // ── Slices ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #enqueue(chunk: Uint8Array): void {
    this.#queue.push(chunk)
    if (!this.#pumping) this.#background(this.#pump())
  }

  /** A chunk passes only when the hold covers it; until then the upstream is paused. */
  async #pump(): Promise<void> {
    const hold = this.#hold
    if (hold === null) return
    this.#pumping = true
    for (let chunk = this.#queue[0]; chunk !== undefined; chunk = this.#queue[0]) {
      const before = this.#countedUsage()
      const passed = this.#pass(chunk)
      this.#taken += chunk.length
      const wanted = this.#wanted(this.#taken)
      if (!hold.covers(wanted)) {
        this.#call?.pause()
        const grown = await hold.grow(wanted, { ...none, outputTokens: this.#tokensInSlices ? aheadTokens : 0, bytesOut: aheadBytes })
        if (this.#phaseIs('over')) return
        if (grown.outcome === 'denied') {
          this.#queue = []
          this.#pumping = false
          return this.#stopForQuota(before)
        }
      }
      this.#queue.shift()
      this.#write(passed)
    }
    this.#pumping = false
    if (this.#upstreamEnded) return this.#conclude('complete')
    this.#arm()
    if (this.#blocked) this.#call?.pause()
    else this.#call?.resume()
  }

  #wanted(bytes: number): Wanted {
    const { held } = this.#hold ?? { held: none }
    return {
      outputTokens: this.#tokensInSlices ? this.#countedUsage().output_tokens ?? 0 : held.outputTokens,
      bytesIn: held.bytesIn,
      bytesOut: bytes,
      computeMs: held.computeMs,
    }
  }

  /** A plain answer is only sent when its end is known: by then all of it must be held. */
  async #concludeHeld(): Promise<void> {
    if (this.#hold !== null && this.#grows) {
      this.#pumping = true
      const grown = await this.#hold.grow(this.#wanted(this.#heldBytes), none)
      this.#pumping = false
      if (this.#phaseIs('over')) return
      if (grown.outcome === 'denied') {
        // None of it has been sent and none of it will be: who is refused is not billed.
        this.#withheld = true
        return this.#conclude('quota_stop', await this.#refusalOf(grown.refusals))
      }
    }
    this.#conclude('complete')
  }

  /** Why a whole answer cannot be given. Asking again would make another that may not fit either. */
  async #refusalOf(refusals: readonly CheckRefusal[]): Promise<GatewayError> {
    const { draft } = this.#x
    const [refusal] = refusals
    const told = { source: 'gateway', details: { retryAfterMs: null } } as const
    if (draft === null || refusal === undefined) return new GatewayError('usage_limit_reached', quotaEnded, told)
    try {
      const nowMs = this.#w.clock.nowMs()
      const items = quotaItems(draft, await this.#w.store.balances(admitted(this.#x).principal.home, draft.checks), nowMs)
      const item = items.find(({ name }) => name === refusal.limit)
      if (item === undefined) return new GatewayError('usage_limit_reached', quotaEnded, told)
      return new GatewayError('usage_limit_reached', `The answer does not fit into what is left of the limit '${item.name}'; it was not given and is not counted.`, {
        source: 'gateway',
        details: {
          retryAfterMs: null, limit: item.name, ceiling: item.limit ?? 0, used: item.used, remaining: item.remaining ?? 0,
          ...(item.resetsAtMs === null ? {} : { resets_at: toInstant(item.resetsAtMs), resets_in_seconds: Math.max(0, Math.ceil((item.resetsAtMs - nowMs) / 1_000)) }),
        },
      })
    } catch {
      return new GatewayError('usage_limit_reached', quotaEnded, told)
    }
  }

  /** The quota has ended: the stream ends in the dialect's own words, billed for what was sent. */
  #stopForQuota(sent?: Quantities): void {
    this.#conclude('quota_stop', new GatewayError('usage_limit_reached', quotaEnded, { source: 'gateway', details: { retryAfterMs: null } }), sent)
  }

  // ── The end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #countedUsage(): Quantities {
    if (this.#meter === null) return {}
    try {
      return this.#meter.counted()
    } catch {
      this.#meter = new ByteMeter(admitted(this.#x).facts)
      return {}
    }
  }

  /** An estimate must not say more than the upstream was allowed to write. */
  #withinBound(usage: Quantities): Quantities {
    const { facts, route } = admitted(this.#x)
    const most = this.#x.outputBound * facts.choices
    const beyond = (usage.output_tokens ?? 0) - most
    if (beyond <= 0 || !facts.boundsOutput || !route.known || this.#x.draft === null) return usage
    return { ...usage, output_tokens: most, ...(usage.total_tokens === undefined ? {} : { total_tokens: usage.total_tokens - beyond }) }
  }

  /** With what the gateway itself measures. */
  #usageOf(usage: Quantities, moreBytes = 0): Quantities {
    const upstreamMs = Math.round((this.#endedMs ?? this.#w.clock.monotonicMs()) - this.#startedMs)
    return { requests: 1, ...usage, bytes_in: this.#x.body.length, bytes_out: this.#x.bytesOut + moreBytes, compute_seconds: upstreamMs }
  }

  /** An upstream's error has come whole: the caller's own passes, the rest is told in our words. */
  async #concludeError(): Promise<void> {
    const x = this.#x
    const body = Buffer.concat(this.#held)
    if (await this.#tryAgain(body)) return
    if (this.#phaseIs('over')) return
    x.failure = `status_${this.#status}`
    const error = upstreamError(this.#status, this.#headers, body, this.#w.clock.nowMs())
    if (error !== null) return this.#conclude('complete', error)
    // Some dialects bill errors: then they say so.
    this.#meter = this.#newMeter(responseFacts(this.#status, this.#headers))
    const passed = [this.#pass(body)]
    this.#held = passed
    this.#conclude('complete')
  }

  /** The upstream rejected something that we wrote: once more without it. Nothing was executed, so it is still one event. */
  async #tryAgain(body: Uint8Array): Promise<boolean> {
    const x = this.#x
    if (x.attempt > 1 || this.#draining) return false
    const { facts, destination } = admitted(x)
    if (this.#changes.askUsage && facts.streamed && !facts.usageAsked && rejectsUsageOption(this.#status, body)) {
      this.#w.upstreams.rejectedUsageOption(destination.upstream.name)
      this.#changes = { ...this.#changes, askUsage: false }
    } else {
      if (this.#boundWritten === null) return false
      const rejected = rejectedBound(this.#status, body, this.#changes.outputField ?? '')
      if (rejected === null) return false
      const { model } = destination
      const prompt = rejected.prompt === null && rejected.field === null
        ? await this.#w.tokenizer.count(model?.encoding ?? this.#w.tokenizer.encodingOf(facts.model).encoding, facts.texts()).catch(() => null)
        : null
      if (this.#phaseIs('over')) return true
      const bound = smallerBound(this.#boundWritten, rejected, model?.contextTokens ?? null, prompt)
      if (bound === null) return false
      if (rejected.field !== null) this.#w.upstreams.wantsOutputField(destination.upstream.name, facts.model, rejected.field)
      this.#boundWritten = bound
      this.#changes = { ...this.#changes, outputBound: bound, outputField: rejected.field ?? this.#changes.outputField }
    }
    x.attempt += 1
    x.upstreamMs += (this.#endedMs ?? this.#startedMs) - this.#startedMs
    this.#held = []
    this.#heldBytes = 0
    this.#endedMs = null
    this.#start()
    return true
  }

  /** Work that nobody waits for: a failure of it ends this answer, not the process. */
  #background(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#bug(error))
  }

  #bug(error: unknown): void {
    this.#w.log.error({ id: this.#x.id, err: error instanceof Error ? error.name : typeof error }, 'an answer could not be passed on')
    this.#conclude('upstream_broken', new GatewayError('internal', 'The gateway failed to handle this request.', { source: 'gateway', cause: error }))
  }

  /** Everything that ends an answer comes here, and only the first counts. */
  #conclude(end: StreamEnd, error?: GatewayError, sent?: Quantities): void {
    if (this.#phase === 'over') return
    const phase = this.#phase
    this.#phase = 'over'
    this.#deadline.clear()
    if (this.#draining) this.#w.drains.running -= 1
    if (this.#endedMs === null) {
      this.#endedMs = this.#w.clock.monotonicMs()
      this.#call?.abort()
    }
    this.#x.upstreamMs += this.#endedMs - this.#startedMs
    this.#finish(phase, end, error ?? null, sent ?? null).then(this.#resolve, (thrown: unknown) => {
      // The upstream may have worked: what can still be said of it is that it did.
      this.#bug(thrown)
      this.#resolve({
        end, verdict: 'used', status: 500, usage: this.#usageOf({}), source: 'estimated', modelServed: null, serviceTier: null, alarms: ['meter_failed'],
        release: () => this.#x.d.cut(),
      })
    })
  }

  async #finish(phase: Phase, end: StreamEnd, error: GatewayError | null, sent: Quantities | null): Promise<Outcome> {
    const x = this.#x
    const verdictBase = { modelServed: null, serviceTier: null, alarms: [] as readonly MeterAlarm[], usage: {} as Quantities, source: 'estimated' as UsageSource }

    if (!this.#sent) {
      return { ...verdictBase, end, verdict: 'untouched', status: error === null ? 499 : statusOf(error.code), release: (balances) => this.#refuse(error, balances) }
    }
    if (phase === 'waiting' && end !== 'client_gone' && end !== 'quota_stop') {
      return { ...verdictBase, end, verdict: 'failed', status: error === null ? 502 : statusOf(error.code), release: (balances) => this.#refuse(error, balances) }
    }
    if (phase === 'error' && error !== null) {
      return { ...verdictBase, end: end === 'complete' ? 'upstream_broken' : end, verdict: 'failed', status: statusOf(error.code), release: (balances) => this.#refuse(error, balances) }
    }

    // A caller that left before the answer began has still made the upstream work on its prompt.
    this.#meter ??= this.#newMeter({ status: 200, contentType: admitted(x).facts.streamed ? 'text/event-stream' : 'application/json', contentEncoding: '' })
    let metered = this.#finishMeter(end)
    // Where only the connection's end frames the answer, the dialect's own measure decides whether it is whole.
    const undelimited = headerOf(this.#headers, 'content-length') === undefined && headerOf(this.#headers, 'transfer-encoding') === undefined
    if (end === 'complete' && phase === 'flowing' && undelimited && !metered.whole && admitted(x).route.known) {
      end = 'upstream_broken'
      error = unavailable('The model server broke off its answer.')
    }
    if (this.#draining && end === 'complete') end = 'client_gone'
    metered = await this.#counted(metered)
    if (metered.source === 'estimated') metered = { ...metered, usage: this.#withinBound(metered.usage) }
    const complete = end === 'complete'
    const rest = complete ? metered.rest : empty
    const errorStatus = this.#status >= 400
    // Nothing of an answer was seen: it failed, whatever its status said.
    const nothing = metered.usage.output_tokens === undefined && metered.usage.input_tokens === undefined && admitted(x).route.known
    const unbilled = this.#withheld || (errorStatus && metered.source !== 'upstream') || (nothing && (end === 'upstream_broken' || end === 'timed_out' || (metered.failed === true && complete)))
    const usage = sent !== null && metered.source !== 'upstream' ? asSent(metered.usage, sent) : metered.usage
    const stop = end === 'quota_stop' && phase === 'flowing' && !this.#draining ? this.#quotaStop({ ...metered, usage }) : empty
    // More output than was held: the hold follows if there is room, before the books are closed over it.
    const output = usage.output_tokens ?? 0
    if (this.#tokensInSlices && this.#hold !== null && output > this.#hold.held.outputTokens) await this.#hold.grow({ ...this.#hold.held, outputTokens: output }, none)
    // What is held back counts as sent: it leaves with the end, if there is anyone to take it. Our own words do not.
    const stillHeld = x.d.gone ? 0 : phase === 'flowing' ? rest.length : complete && !this.#draining ? this.#held.reduce((sum, chunk) => sum + chunk.length, rest.length) : 0
    return {
      // A stream that ends with the upstream's own error was framed whole, and is no whole answer.
      end: complete && metered.failed === true && phase === 'flowing' ? 'upstream_broken' : end,
      verdict: unbilled ? 'failed' : 'used',
      status: phase === 'flowing' || complete ? this.#status : error === null ? 499 : statusOf(error.code),
      usage: this.#usageOf(usage, stillHeld),
      source: metered.source,
      modelServed: metered.modelServed ?? null,
      serviceTier: metered.serviceTier ?? null,
      alarms: metered.alarms,
      release: (balances) => {
        if (this.#draining || x.d.gone) return
        if (phase === 'flowing') this.#releaseStream(rest, stop, complete, error, balances)
        else if (complete) this.#releaseWhole(rest, balances)
        else this.#refuse(error, balances)
      },
    }
  }

  /** With the text counted where the upstream told nothing; what takes too long stays an estimate. */
  async #counted(metered: Metered): Promise<Metered> {
    if (metered.countLater === undefined) return metered
    const late = Promise.withResolvers<null>()
    const cancel = this.#w.clock.after(this.#w.limits.settleMs, () => late.resolve(null), { unref: true })
    try {
      const tokens = await Promise.race([metered.countLater(), late.promise])
      return tokens === null ? { ...metered, source: 'estimated' } : { ...metered, usage: { ...metered.usage, ...tokens } }
    } catch {
      return { ...metered, source: 'estimated' }
    } finally {
      cancel()
    }
  }

  #finishMeter(end: StreamEnd): Metered {
    const meter = this.#meter ?? new ByteMeter(admitted(this.#x).facts)
    try {
      return meter.finish(end)
    } catch {
      return new ByteMeter(admitted(this.#x).facts).finish()
    }
  }

  /** The frames that end the stream in the dialect's own words; empty where it has none. */
  #quotaStop(metered: Metered): Uint8Array {
    try {
      const frames = this.#meter?.renderQuotaStop?.(metered) ?? empty
      return frames.length === 0 ? frames : Buffer.concat([this.#mark(), frames])
    } catch {
      return empty
    }
  }

  /** An event that was cut in half must not swallow what follows it. */
  #mark(): Uint8Array {
    return this.#lastByte === 0x0a && this.#beforeLastByte === 0x0a ? empty : Buffer.from('\n\n')
  }

  /** A plain answer or an error of the upstream's: whole, with its settled standing in its head. */
  #releaseWhole(rest: Uint8Array, balances: readonly Balance[] | null): void {
    const x = this.#x
    const body = this.#held.length === 1 && rest.length === 0 ? this.#held[0] ?? empty : Buffer.concat([...this.#held, rest])
    x.status = this.#status
    x.bytesOut += body.length
    x.d.writeHead(this.#status, answerHeaders(x, this.#w, this.#headers, balances, body.length))
    x.d.end(body)
  }

  #releaseStream(rest: Uint8Array, stop: Uint8Array, complete: boolean, error: GatewayError | null, balances: readonly Balance[] | null): void {
    const { d } = this.#x
    if (complete || stop.length > 0) {
      this.#x.bytesOut += rest.length
      const trailers = trailerOf(this.#x, this.#w, balances)
      if (complete) return d.end(rest, trailers)
      return d.end(stop, trailers)
    }
    const { provider } = admitted(this.#x).route
    const told = error !== null && isEventStream(this.#headers) ? provider.renderStreamError(error, { status: statusOf(error.code), requestId: this.#x.id }) : empty
    if (told.length === 0) return d.cut()
    d.write(Buffer.concat([this.#mark(), told]))
    // The cut itself must not overtake what was just written.
    this.#w.clock.after(20, () => d.cut())
  }

  /** Before anything was sent: an error in the dialect's shape. */
  #refuse(error: GatewayError | null, balances: readonly Balance[] | null): void {
    const { d } = this.#x
    if (d.gone || this.#draining) return
    if (error === null || d.headSent) return d.cut()
    this.#x.status = statusOf(error.code)
    this.#x.failure ??= error.code
    tellRefused(this.#x, this.#w, error, this.#w.clock.nowMs())
    respondError(d, error, admitted(this.#x).route.provider, { requestId: this.#x.id, headers: standingHeaders(this.#x, this.#w, balances) })
  }
}

/** An upstream's first count may replace a higher estimate; checkpoints only rise, or amounts and quantities would rise apart. */
function risen(before: Quantities, now: Quantities): Quantities {
  const usage: Quantities = { ...before, ...now }
  for (const meter of Object.keys(usage) as BuiltinMeter[]) usage[meter] = Math.max(before[meter] ?? 0, now[meter] ?? 0)
  if (usage.total_tokens !== undefined) usage.total_tokens = (usage.input_tokens ?? 0) + (usage.output_tokens ?? 0)
  return usage
}

/** What was counted when the last chunk left; before the first one, that is no output at all. */
function asSent(whole: Quantities, sent: Quantities): Quantities {
  const usage = { ...whole, ...sent }
  if (whole.output_tokens === undefined || sent.output_tokens !== undefined) return usage
  return { ...usage, output_tokens: 0, total_tokens: usage.input_tokens ?? 0 }
}

function responseFacts(status: number, headers: readonly string[]): ResponseFacts {
  const coding = (headerOf(headers, 'content-encoding') ?? '').trim().toLowerCase()
  return { status, contentType: mediaType(headers), contentEncoding: coding === 'identity' ? '' : coding }
}

function mediaType(headers: readonly string[]): string {
  return (headerOf(headers, 'content-type') ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
}

function isEventStream(headers: readonly string[]): boolean {
  return mediaType(headers) === 'text/event-stream'
}
