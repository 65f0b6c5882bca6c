import { GatewayError, type ErrorCode } from '../errors.ts'
import type { Config, Model } from '../config/config.ts'
import { draftCall, heldInSlices, mayFitExactly, type CallPlan, type MeasuredCall } from '../metering/call-draft.ts'
import { RefusalMemory } from '../gateway/refusal-memory.ts'
import { resolveEntitlement, type Entitlement } from '../metering/entitlement.ts'
import type { EventBody } from '../metering/event.ts'
import { Ledger } from '../metering/ledger.ts'
import { meterName, meterScale, type BuiltinMeter, type Quantities } from '../metering/meter.ts'
import { modelOf } from '../metering/model.ts'
import type { Draw, ReserveAnswer } from '../metering/moves.ts'
import { pricedUsage } from '../metering/price.ts'
import { refusalOf } from '../metering/quota.ts'
import { amountsOf, draftSeenAt, extendedChecks, lateMs, type Draft } from '../metering/reservation.ts'
import { Agenda } from './agenda.ts'
import type { Callers } from './callers.ts'
import type { RecordedCall } from './recorded-call.ts'

/** What calls are judged by. */
export interface Offer {
  readonly config: Pick<Config, 'plans' | 'models'>
  readonly callers: Pick<Callers, 'of'>
  /** Endpoints that a plan has when it names none. */
  readonly defaultEndpoints: ReadonlySet<string>
  /** Would the gateway count a text for this model exactly, where its bytes are too many? */
  countsExactly(model: Model | null, name: string | null): boolean
  /** How long what is closed is remembered: the longest exchange and more, ms. */
  readonly forgetAfterMs: number
}

export interface Refused {
  readonly call: RecordedCall
  readonly atMs: number
  readonly plan: string
  /** null: no limit refuses it, but the plan or the subscription. A parent's is `<account>/<name>`. */
  readonly limit: string | null
  readonly reason: ErrorCode
  /** Settled use alone refuses it, or only with what calls in flight held; null: no limit did. */
  readonly why: 'used_up' | 'held' | null
  /** In units that people read; null: no limit did, or none of its windows could ever hold the call. */
  readonly need: { readonly meter: string; readonly needed: number; readonly left: number } | null
  /** What the caller would have been told. */
  readonly sentence: string
  /** Decided with a guess: of the exact count of its tokens, or of its bound. */
  readonly guessed: boolean
}

export interface Served {
  readonly call: RecordedCall
  readonly entitlement: Entitlement
  /** With what it would have cost; of a correction, differences. Empty: it would not have been billed. */
  readonly usage: Quantities
  readonly drawn: readonly Draw[]
  /** The output bound that it would have been lowered to; null: it would not have. */
  readonly clampedTo: number | null
  /** It used more than it would have been let: its usage is lowered to that. */
  readonly shortened: boolean
  /** What it was held for piece by piece would have run out in the middle. */
  readonly cut: boolean
  readonly waitedMs: number
  /** Shadow limits that would have refused it. */
  readonly shadowed: readonly string[]
  readonly keyGone: boolean
  readonly guessed: boolean
}

export interface Watcher {
  refused(refusal: Refused): void
  served(served: Served): void
  /** Nothing is known of whose call it was, or of the call that it corrects. */
  skipped(call: RecordedCall, why: 'caller_gone' | 'correction_of_unknown'): void
}

interface Admission {
  readonly call: RecordedCall
  readonly entitlement: Entitlement
  readonly home: string
  readonly keyGone: boolean
  measured: MeasuredCall
  plan: CallPlan
  guessed: boolean
  /** The next pause, where the plan waits for capacity. */
  stepMs: number
}

interface Open extends Admission {
  readonly u: number
  readonly shadowed: readonly string[]
  readonly waitedMs: number
}

/** Of a call that expired: what its books have so far. */
interface Expired {
  readonly open: Open
  readonly usage: Quantities
  readonly checkpoint: number
}

type Due =
  | { readonly kind: 'reserve'; readonly admission: Admission }
  | { readonly kind: 'settle'; readonly open: Open }
  | { readonly kind: 'correct'; readonly call: RecordedCall }

/** Of one millisecond, what ends goes before what begins. */
const settlesFirst = 0
const reservesThen = 1
const waitStepMs = 50
const waitStepMaxMs = 250
const forgetEveryMs = 3_600_000
/** Between two guesses of how far an answer would have come, this much of it. */
const cutSteps = 10

/**
 * Recorded calls under other terms, through the same code as a gateway's: entitlement, draft and ledger, over plain maps and in the calls' own time. Takes calls
 * in the order of their admission.
 */
export class Replay {
  readonly #offer: Offer
  readonly #watcher: Watcher
  readonly #ledger: Ledger
  readonly #agenda = new Agenda<Due>()
  /** A gateway that is asked for the same again within a second says what it said before. */
  readonly #refusals = new RefusalMemory()
  readonly #expired = new Map<string, Expired>()
  #nowMs = -Infinity
  #forgottenMs = -Infinity

  constructor(offer: Offer, watcher: Watcher) {
    this.#offer = offer
    this.#watcher = watcher
    this.#ledger = new Ledger({ forgetAfterMs: offer.forgetAfterMs, tellsStanding: false })
  }

  take(call: RecordedCall): void {
    this.#runUntil(call.admittedMs)
    this.#nowMs = Math.max(this.#nowMs, call.admittedMs)
    if (this.#nowMs - this.#forgottenMs >= forgetEveryMs) this.#forget()
    if (call.correction) {
      this.#agenda.add(call.settledMs, settlesFirst, { kind: 'correct', call })
      return
    }
    const admission = this.#entitled(call)
    if (admission === null) return
    const afterMs = call.bound.after_ms ?? 0
    if (afterMs > 0) this.#agenda.add(call.admittedMs + afterMs, reservesThen, { kind: 'reserve', admission })
    else this.#reserve(admission, call.admittedMs)
  }

  /** Lets everything end that is still open. */
  finish(): void {
    this.#runUntil(Infinity)
  }

  #runUntil(untilMs: number): void {
    // What ends in the millisecond of an admission has ended before it.
    while (this.#agenda.nextMs <= untilMs && this.#agenda.size > 0) {
      const due = this.#agenda.take()
      if (due === undefined) return
      const { item, atMs } = due
      this.#nowMs = Math.max(this.#nowMs, atMs)
      if (item.kind === 'reserve') this.#reserve(item.admission, atMs)
      else if (item.kind === 'settle') this.#settle(item.open, atMs)
      else this.#correct(item.call, atMs)
    }
  }

  #forget(): void {
    this.#forgottenMs = this.#nowMs
    this.#ledger.forget(this.#nowMs)
    for (const [id, { open }] of this.#expired) if (open.call.settledMs + this.#offer.forgetAfterMs < this.#nowMs) this.#expired.delete(id)
  }

  // === Admission ===

  /** null: it is refused, or nobody knows whose it was. */
  #entitled(call: RecordedCall): Admission | null {
    const { config, callers, defaultEndpoints } = this.#offer
    const caller = callers.of(call)
    if (caller.outcome === 'gone') {
      this.#watcher.skipped(call, 'caller_gone')
      return null
    }
    if (caller.outcome === 'inactive') {
      this.#refuse(call, call.plan, new GatewayError('subscription_inactive', `The subscription of this account, or of one above it, is not in force: ${caller.why}.`), call.guessed)
      return null
    }
    const { principal, keyGone } = caller
    const claim = principal.endUserFrom
    const endUser = claim === null ? null : claim.kind === 'header' ? call.endUser : call.user
    const entitlement = resolveEntitlement(principal, {
      endpoint: call.endpoint, endpointByDefault: defaultEndpoints.has(call.endpoint), known: call.known, model: call.model, features: call.features, ordinary: call.ordinary, endUser,
    }, config.plans, call.admittedMs)
    if (entitlement instanceof GatewayError) {
      this.#refuse(call, principal.plan.name, entitlement, call.guessed)
      return null
    }
    const { bound } = call
    const measured: MeasuredCall = {
      facts: {
        boundsOutput: bound.output !== undefined, choices: bound.choices ?? 1, outputAsked: bound.asked ?? null, outputDefault: bound.default ?? null, outputFloor: bound.floor ?? 0,
        clampable: bound.rigid !== true, inputMediaTokens: bound.media === true ? 1 : 0, streamed: call.streamed, imagesAsked: bound.images ?? 0,
      },
      model: call.model === null ? null : modelOf(config, call.model), known: call.known, input: bound.input === undefined ? 0 : bound.input, bytes: bound.bytes,
    }
    const afterMs = bound.after_ms ?? 0
    const plan = this.#draft(call, entitlement, measured, call.admittedMs + afterMs)
    if (plan === null) return null
    return { call, entitlement, home: principal.home, keyGone, ...plan, stepMs: waitStepMs }
  }

  /** As the gateway does: by the bytes first, and where those are too many by the tokens, if it can count them. null: refused. */
  #draft(call: RecordedCall, entitlement: Entitlement, measured: MeasuredCall, atMs: number): Pick<Admission, 'plan' | 'measured' | 'guessed'> | null {
    const plan = draftCall(measured, entitlement, call.admittedMs, atMs + lateMs)
    if (!(plan instanceof GatewayError)) return { plan, measured, guessed: call.guessed }
    const counted = plan.code === 'request_too_large' ? this.#counted(call, measured) : null
    if (counted === null) {
      this.#refuse(call, entitlement.principal.plan.name, plan, call.guessed)
      return null
    }
    const again = draftCall(counted, entitlement, call.admittedMs, atMs + lateMs)
    if (!(again instanceof GatewayError)) return { plan: again, measured: counted, guessed: true }
    this.#refuse(call, entitlement.principal.plan.name, again, true)
    return null
  }

  /** null: the gateway would not have counted it either. How many tokens there were is known of the upstream alone: about as many. */
  #counted({ bound, model, usage }: RecordedCall, measured: MeasuredCall): MeasuredCall | null {
    const { text } = bound
    if (text === undefined || measured.input === null || usage.input_tokens === undefined || !this.#offer.countsExactly(measured.model, model)) return null
    const input = Math.max(0, measured.input - text) + Math.min(text, usage.input_tokens)
    return input < measured.input ? { ...measured, input } : null
  }

  #reserve(admission: Admission, atMs: number): void {
    const { call } = admission
    let { plan } = admission
    const waitedMs = atMs - call.admittedMs - (call.bound.after_ms ?? 0)
    for (;;) {
      const draft = waitedMs === 0 ? plan.draft : draftSeenAt(plan.draft, atMs + lateMs)
      const answer = this.#ask(admission, draft, atMs)
      if (answer.outcome === 'admitted') {
        const open: Open = { ...admission, plan: { ...plan, draft }, u: answer.u, shadowed: answer.shadowed, waitedMs }
        // What it waited then is in the time it took; what it waits now stands in its place.
        this.#agenda.add(Math.max(atMs, call.settledMs - (call.bound.waited_ms ?? 0) + waitedMs), settlesFirst, { kind: 'settle', open })
        return
      }
      // An id that is there twice: its first event counts.
      if (answer.outcome !== 'denied') return
      if (this.#waits(admission, answer, atMs)) return
      const counted = waitedMs === 0 && mayFitExactly(plan, answer) ? this.#counted(call, admission.measured) : null
      const again = counted === null || admission.measured === counted ? null : draftCall(counted, admission.entitlement, call.admittedMs, atMs + lateMs)
      if (counted === null || again === null || admission.guessed) {
        const refusal = refusalOf(draft, answer, atMs)
        this.#refuse(call, admission.entitlement.principal.plan.name, refusal, admission.guessed, { draft, answer })
        return
      }
      admission.guessed = true
      if (again instanceof GatewayError) {
        this.#refuse(call, admission.entitlement.principal.plan.name, again, true)
        return
      }
      admission.measured = counted
      admission.plan = plan = again
    }
  }

  #ask({ call, home }: Admission, draft: Draft, atMs: number): ReserveAnswer {
    const { checks, uMin, uMax } = draft
    const { config } = this.#offer
    const known = this.#refusals.recall(config, checks, uMin, uMax, atMs)
    if (known !== null) return known
    const { answer } = this.#ledger.reserve({ id: call.exchange, nowMs: call.admittedMs, home, checks, uMin, uMax, deadlineMs: atMs, skeleton: nobody })
    if (answer.outcome === 'denied') this.#refusals.remember(config, checks, uMin, uMax, answer, atMs)
    return answer
  }

  /** As the gateway waits for what calls in flight hold. */
  #waits(admission: Admission, answer: Extract<ReserveAnswer, { outcome: 'denied' }>, atMs: number): boolean {
    const { call, entitlement, stepMs } = admission
    if (!answer.refusals.every(({ why }) => why === 'held') || atMs + stepMs > call.admittedMs + entitlement.policy.waitMs) return false
    admission.stepMs = Math.min(waitStepMaxMs, stepMs * 2)
    this.#agenda.add(atMs + stepMs, reservesThen, { kind: 'reserve', admission })
    return true
  }

  #refuse(call: RecordedCall, plan: string, error: GatewayError, guessed: boolean, denied?: { readonly draft: Draft; readonly answer: Extract<ReserveAnswer, { outcome: 'denied' }> }): void {
    const { limit = null } = error.details
    this.#watcher.refused({ call, atMs: this.#nowMs, plan, limit, reason: error.code, ...(denied === undefined || limit === null ? { why: null, need: null } : missing(limit, error, denied)), sentence: error.message, guessed })
  }

  // === The end of a call ===

  #settle(open: Open, atMs: number): void {
    const { call, entitlement, home, u } = open
    if (call.failed && !entitlement.policy.countFailed) {
      this.#ledger.void({ id: call.exchange, nowMs: atMs, home })
      this.#watcher.served(this.#servedAs(open, {}, [], false, false))
      return
    }
    const most = u * open.measured.facts.choices
    const slices = heldInSlices(entitlement, open.measured.facts, open.measured.model)
    const short = !slices && open.measured.facts.boundsOutput && (call.granted === null || u < call.granted) && (call.usage.output_tokens ?? 0) > most
    let usage = short ? upTo(call.usage, most) : call.usage
    const reached = this.#grown(open, usage, atMs)
    if (reached < 1) usage = partOf(usage, reached)
    const priced = pricedUsage(usage, entitlement.rates)
    if (call.end === 'expired') this.#expire({ open, usage: priced, checkpoint: 1 }, atMs)
    const drawn = call.end === 'expired' ? [] : this.#book(open, priced, atMs)
    this.#watcher.served(this.#servedAs(open, priced, drawn, short, reached < 1))
  }

  #book({ call, home, plan }: Open, usage: Quantities, atMs: number): readonly Draw[] {
    const { draft } = plan
    const { answer } = this.#ledger.settle({ id: call.exchange, nowMs: atMs, home, checks: draft.checks, amounts: amountsOf(draft, usage), usage, event: nobody })
    return 'drawn' in answer ? answer.drawn : []
  }

  /** Its gateway was never heard of again: what it had counted is booked, and it may come back. */
  #expire(expired: Expired, atMs: number): void {
    const { open, usage, checkpoint } = expired
    const { call, home, plan } = open
    this.#ledger.extend({ id: call.exchange, nowMs: atMs, home, checkpoint, deadlineMs: atMs, counted: { amounts: amountsOf(plan.draft, usage), usage }, checks: null })
    this.#ledger.expire({ id: call.exchange, nowMs: atMs, home, checkpoint: null })
    this.#expired.set(call.exchange, expired)
  }

  #correct(call: RecordedCall, atMs: number): void {
    const expired = this.#expired.get(call.exchange)
    if (expired === undefined) {
      this.#watcher.skipped(call, 'correction_of_unknown')
      return
    }
    const { open, usage: before, checkpoint } = expired
    const { entitlement } = open
    const usage = pricedUsage(sum(before, call.usage), entitlement.rates)
    if (call.end === 'expired') {
      // It was heard of again in between, with what it had booked, and once more it was not.
      const checks = open.plan.draft.checks.map((check, i) => ({ ...check, fixed: amountsOf(open.plan.draft, before)[i] ?? 0, perUnit: 0 }))
      this.#ledger.extend({ id: call.exchange, nowMs: atMs, home: open.home, checkpoint: checkpoint + 1, deadlineMs: atMs, counted: null, checks })
      this.#expire({ open, usage, checkpoint: checkpoint + 2 }, atMs)
    } else {
      this.#expired.delete(call.exchange)
      this.#book(open, usage, atMs)
    }
    this.#watcher.served({ ...this.#servedAs(open, difference(usage, before), [], false, false), call })
  }

  /** How much of an answer that is held piece by piece would have got through, from 0 to 1. All of it is asked for at its end, because the events do not tell when it grew. */
  #grown(open: Open, usage: Quantities, atMs: number): number {
    const { plan, measured, entitlement } = open
    const bytesOut = plan.bound.fixed.bytes_out !== undefined
    const compute = plan.bound.fixed.compute_seconds !== undefined
    if (!bytesOut && !compute && !heldInSlices(entitlement, measured.facts, measured.model)) return 1
    const { fixed } = plan.bound
    const fits = (part: number): boolean => {
      const output = Math.ceil((usage.output_tokens ?? 0) * part)
      const wanted: Quantities = {
        ...fixed, output_tokens: output, reasoning_tokens: output, total_tokens: (fixed.input_tokens ?? 0) + output,
        ...(bytesOut ? { bytes_out: Math.ceil((usage.bytes_out ?? 0) * part) } : {}), ...(compute ? { compute_seconds: Math.ceil((usage.compute_seconds ?? 0) * part) } : {}),
      }
      const { answer } = this.#ledger.extend({
        id: open.call.exchange, nowMs: atMs, home: open.home, checkpoint: 0, deadlineMs: atMs, counted: null, checks: extendedChecks(plan.draft, wanted, atMs + lateMs),
      })
      return answer.outcome === 'extended'
    }
    if (fits(1)) return 1
    let low = 0
    let high = 1
    for (let step = 0; step < cutSteps; step++) {
      const middle = (low + high) / 2
      if (fits(middle)) low = middle
      else high = middle
    }
    return low
  }

  #servedAs({ call, entitlement, plan, u, waitedMs, shadowed, keyGone, guessed }: Open, usage: Quantities, drawn: readonly Draw[], shortened: boolean, cut: boolean): Served {
    const clamped = !plan.tokensInSlices && u < plan.draft.asked
    return { call, entitlement, usage, drawn, clampedTo: clamped ? u : null, shortened, cut, waitedMs, shadowed, keyGone, guessed }
  }
}

/** Whose event it is matters to nobody here: the recorded one says it. */
const nobody: EventBody = {
  source: '', account: '', key: '', plan: '', plan_version: 0, labels: {}, provider: '', endpoint: '', model: null, upstream: '', stream: false,
  caller: { request_id: null, user: null, session: null, tags: {} }, attempt: 1, status: 200, end: 'complete', usage_source: 'upstream', settled_at: '',
}

/** What was missing under the limit that refused. */
function missing(limit: string, error: GatewayError, { draft, answer }: { readonly draft: Draft; readonly answer: Extract<ReserveAnswer, { outcome: 'denied' }> }): Pick<Refused, 'why' | 'need'> {
  const told = answer.refusals.filter((refusal) => limit === refusal.limit || limit.endsWith(`/${refusal.limit}`))
  const held = error.code === 'capacity_reserved'
  const refusal = told.find(({ why }) => (why === 'held') === held) ?? told[0]
  const check = refusal === undefined ? undefined : draft.checks[refusal.check]
  const applied = refusal === undefined ? undefined : draft.appliedByCheck[refusal.check]?.[0]
  if (refusal === undefined || check === undefined || applied === undefined) return { why: null, need: null }
  const { meter } = applied.limit
  const scale = meterScale(meter)
  const needed = check.fixed + check.perUnit * (check.clampable ? draft.uMin : draft.uMax)
  return { why: refusal.why, need: { meter: meterName(meter), needed: needed / scale, left: Math.max(0, answer.balances[refusal.check]?.room ?? 0) / scale } }
}

/** With an output of `most` tokens. */
function upTo(usage: Quantities, most: number): Quantities {
  const less = (usage.output_tokens ?? 0) - most
  return {
    ...usage, output_tokens: most,
    ...(usage.reasoning_tokens === undefined ? {} : { reasoning_tokens: Math.min(usage.reasoning_tokens, most) }),
    ...(usage.total_tokens === undefined ? {} : { total_tokens: usage.total_tokens - less }),
  }
}

/** As far as it got. */
function partOf(usage: Quantities, part: number): Quantities {
  const shorter = upTo(usage, Math.floor((usage.output_tokens ?? 0) * part))
  return {
    ...(usage.output_tokens === undefined ? usage : shorter),
    ...(usage.bytes_out === undefined ? {} : { bytes_out: Math.floor(usage.bytes_out * part) }),
    ...(usage.compute_seconds === undefined ? {} : { compute_seconds: Math.floor(usage.compute_seconds * part) }),
  }
}

function sum(one: Quantities, other: Quantities): Quantities {
  const all: Quantities = {}
  for (const meter of Object.keys({ ...one, ...other }) as BuiltinMeter[]) if (meter !== 'cost') all[meter] = Math.max(0, (one[meter] ?? 0) + (other[meter] ?? 0))
  return all
}

function difference(one: Quantities, other: Quantities): Quantities {
  const all: Quantities = {}
  for (const meter of Object.keys({ ...one, ...other }) as BuiltinMeter[]) all[meter] = (one[meter] ?? 0) - (other[meter] ?? 0)
  return all
}
