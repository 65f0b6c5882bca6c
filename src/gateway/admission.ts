import { GatewayError } from '../errors.ts'
import { resolveEntitlement, type Entitlement } from '../metering/entitlement.ts'
import { draftCall, firstBytes, firstComputeMs, growingMeters, heldInSlices, mayFitExactly, type CallPlan } from '../metering/call-draft.ts'
import { admissionBound, inputBound, type TemplateTokens } from '../metering/estimate.ts'
import type { Reserve, ReserveAnswer } from '../metering/moves.ts'
import { refusalOf } from '../metering/quota.ts'
import { draftSeenAt, lateMs, outputBoundReport } from '../metering/reservation.ts'
import type { BodyChanges, RequestFacts } from '../providers/provider.ts'
import { DownstreamGone } from './downstream.ts'
import { endUserHeader, skeletonOf } from './books.ts'
import { admitted, type Exchange } from './exchange.ts'
import { Hold } from './hold.ts'
import { ordinaryOf } from './route.ts'
import type { Workings } from './parts.ts'

/** Everything is held before anything is forwarded. */

type Denied = Extract<ReserveAnswer, { outcome: 'denied' }>

const templateDefaults: TemplateTokens = { perCall: 64, perMessage: 8, perTool: 64 }
const anthropicTemplates: TemplateTokens = { perCall: 64, perMessage: 8, perTool: 400 }
/** A store call that fails so soon was not waited for in vain: its connection broke. */
const quicklyMs = 75
const waitStepMs = 50
const waitStepMaxMs = 250

/** What may be asked, and what it is counted against. Throws `feature_unavailable`, `not_found`. */
export function entitle(x: Exchange): Entitlement {
  const { route, principal, facts } = x
  if (route === null || principal === null || facts === null) throw new Error('nothing is known of the call')
  const claimed = principal.endUserFrom === null ? null : principal.endUserFrom.kind === 'header' ? endUserHeader(x) : facts.user
  const endUser = x.endUser = claimed === null ? null : claimed.slice(0, 256)
  const entitlement = resolveEntitlement(principal, {
    endpoint: route.name, endpointByDefault: route.endpoint.byDefault, known: route.known, model: facts.model, features: facts.features, ordinary: ordinaryOf(route, facts),
    endUser,
  }, x.config.plans, x.admittedMs)
  if (entitlement instanceof GatewayError) throw entitlement
  return entitlement
}

/** Reserves the call's upper bound against every limit. Throws the refusal, with the caller's standing in `x.balances`. */
export async function admit(x: Exchange, w: Workings): Promise<void> {
  const { facts } = admitted(x)
  const { full } = w.settler
  if (full !== null) {
    w.outage.began(full)
    throw unmetered(full)
  }
  let refusal = await tryReserve(x, w, facts)
  if (refusal !== null && refusal.mayFitExactly) {
    // The byte bound is often several times too high: where the model's own tokenizer is known, it decides.
    const exact = await countedExactly(x, w, facts)
    if (exact !== null) {
      x.facts = exact
      // What is told of its admission is told anew.
      x.skeleton = null
      refusal = await tryReserve(x, w, exact)
    }
  }
  if (refusal !== null) throw refusal.error
  await takeSeats(x, w)
  if (x.d.gone) throw new DownstreamGone()
}

/** After everything else: a call that is refused for another reason takes nobody's seat. */
async function takeSeats(x: Exchange, w: Workings): Promise<void> {
  // The store is away, and the plan serves all the same.
  if (x.unheld) return
  try {
    await w.seats.take(x)
  } catch (error) {
    if (error instanceof GatewayError && error.code === 'concurrency_limit') throw error
    if (admitted(x).entitlement.policy.storeDown.kind === 'allow') return
    if (error instanceof GatewayError) throw error
    throw unmetered(error instanceof Error && error.name === 'StoreUnavailable' ? error.message : `no seat could be taken: ${error instanceof Error ? error.name : 'unknown'}`)
  }
}

interface Refused {
  readonly error: GatewayError
  /** With the prompt's exact tokens instead of their bound it might fit. */
  readonly mayFitExactly: boolean
}

/** null: admitted. */
async function tryReserve(x: Exchange, w: Workings, facts: RequestFacts): Promise<Refused | null> {
  const plan = draftOf(x, w, facts)
  if (plan instanceof GatewayError) return { error: plan, mayFitExactly: plan.code === 'request_too_large' }
  const denied = await reserve(x, w, plan)
  if (denied === null) return null
  return { error: refusalOf(plan.draft, denied, w.clock.nowMs()), mayFitExactly: mayFitExactly(plan, denied) }
}

function draftOf(x: Exchange, w: Workings, facts: RequestFacts): CallPlan | GatewayError {
  const { route, destination, entitlement } = admitted(x)
  const { model } = destination
  const { known } = route
  const input = known ? inputBound(facts, model, route.provider.name === 'anthropic' ? anthropicTemplates : templateDefaults) : 0
  const bytes = x.body.length
  const plan = draftCall({ facts, model, known, input, bytes }, entitlement, x.admittedMs, seenMs(w))
  if (plan instanceof GatewayError) return plan
  x.draft = plan.draft
  x.bound = plan.bound
  x.computedFrom = admissionBound(facts, model, known, input, plan.range.uMax, bytes, w.clock.nowMs() - x.admittedMs)
  return plan
}

export function inSlices(x: Exchange): boolean {
  const { facts, entitlement, destination } = admitted(x)
  return heldInSlices(entitlement, facts, destination.model)
}

export interface Holding {
  /** null: nothing is held. */
  readonly hold: Hold | null
  /** The answer may need more than is held: nothing passes uncovered. */
  readonly grows: boolean
  readonly tokensInSlices: boolean
}

/** What is held for an admitted exchange, and whether it grows with the answer. `bytesIn`: what comes in is not known ahead (a tunnel). */
export function holdOf(x: Exchange, w: Workings, bytesIn = false): Holding {
  const { draft, bound } = x
  if (draft === null || bound === null || !x.holding) return { hold: null, grows: false, tokensInSlices: false }
  const { entitlement, facts, principal } = admitted(x)
  const tokensInSlices = inSlices(x)
  const grown = growingMeters(entitlement)
  const hold = new Hold({
    id: x.id, home: principal.home, draft, fixed: bound.fixed, store: w.store, clock: w.clock, patienceMs: w.limits.settleMs,
    deadlineMs: (nowMs) => w.lease.deadlineMs(nowMs),
    nextCheckpoint: () => ++x.checkpoint,
    counted: () => x.answer?.counted() ?? null,
    servesUnheld: (checks, amounts) => w.outage.serves(entitlement.policy.storeDown, principal.home, checks, amounts),
  }, {
    outputTokens: x.granted * facts.choices,
    bytesIn: bytesIn && grown.bytesIn ? 0 : Infinity,
    bytesOut: grown.bytesOut ? firstBytes : Infinity,
    computeMs: grown.compute ? firstComputeMs : Infinity,
  })
  return { hold, grows: tokensInSlices || grown.bytesOut || grown.compute || (bytesIn && grown.bytesIn), tokensInSlices }
}

/** null: admitted. */
async function reserve(x: Exchange, w: Workings, plan: CallPlan): Promise<Denied | null> {
  let { draft } = plan
  const { facts, principal, entitlement } = admitted(x)
  const { policy } = entitlement
  const { uMin, uMax } = draft
  const giveUpMs = x.startedMs + policy.waitMs
  let stepMs = waitStepMs
  for (;;) {
    const { checks } = draft
    const known = w.refusals.recall(x.config, checks, uMin, uMax, w.clock.nowMs())
    const answer = known ?? await askStore(x, w, {
      id: x.id, nowMs: x.admittedMs, home: principal.home, checks, uMin, uMax, deadlineMs: w.lease.deadlineMs(w.clock.nowMs()),
      skeleton: x.skeleton ??= skeletonOf(x),
    }, plan)
    if (answer === null) {
      // The plan says that calls are served while the store is away; they are booked when it is back.
      x.holding = false
      x.unheld = true
      granted(x, facts, plan, uMax)
      return null
    }
    if (answer.outcome === 'admitted') {
      x.holding = true
      x.balances = answer.balances
      x.shadowed = answer.shadowed
      // Names of plans and their limits are few; those of accounts and keys may be many.
      for (const limit of answer.shadowed) w.metrics.shadowed.inc({ plan: principal.plan.name, limit: principal.plan.limits.some(({ name }) => name === limit) ? limit : 'other' })
      granted(x, facts, plan, answer.u)
      return null
    }
    if (answer.outcome !== 'denied') throw unmetered(`The reservation was answered with ${answer.outcome}`)
    x.balances = answer.balances
    if (known === null) w.refusals.remember(x.config, checks, uMin, uMax, answer, w.clock.nowMs())
    const mayWait = answer.refusals.every((refusal) => refusal.why === 'held')
    if (!mayWait || w.clock.monotonicMs() + stepMs > giveUpMs || w.stopping) return answer
    const sleptMs = w.clock.monotonicMs()
    await w.clock.sleep(stepMs)
    x.waitedMs += w.clock.monotonicMs() - sleptMs
    stepMs = Math.min(waitStepMaxMs, stepMs * 2)
    if (x.d.gone) throw new DownstreamGone()
    x.draft = draft = draftSeenAt(draft, seenMs(w))
    const bound = x.computedFrom
    if (bound !== null) x.computedFrom = { ...bound, waited_ms: w.clock.nowMs() - x.admittedMs - (bound.after_ms ?? 0) }
    x.skeleton = null
  }
}

/**
 * A call is booked at its admission, however long its body or its waiting took. Sliding windows that have begun until the store looks at it, by whichever
 * replica's clock, contain that instant too and must hold as well.
 */
function seenMs(w: Workings): number {
  return w.clock.nowMs() + lateMs
}

/** null: the store is away, and the plan serves all the same. */
async function askStore(x: Exchange, w: Workings, move: Reserve, plan: CallPlan): Promise<ReserveAnswer | null> {
  const startedMs = w.clock.monotonicMs()
  // What does not admit has not made the move either.
  const { admitting } = w.store.status()
  let answer: ReserveAnswer | null = null
  let why = 'the store did not answer in time'
  let cancel = (): void => {}
  try {
    x.holding = true
    answer = await new Promise<ReserveAnswer | null>((resolve, reject) => {
      cancel = w.clock.after(w.limits.reserveMs, () => resolve(null), { unref: true })
      reserveTwice(w, move, startedMs).then(resolve, reject)
    })
  } catch (error) {
    // Only the store's own words: those of anything else may tell what is nobody's business.
    why = error instanceof Error && error.name === 'StoreUnavailable' ? error.message : `the store failed: ${error instanceof Error ? error.name : 'unknown'}`
  } finally {
    cancel()
    w.metrics.storeLatency.observe({ move: 'reserve' }, (w.clock.monotonicMs() - startedMs) / 1_000)
  }
  if (answer !== null) {
    x.holding = answer.outcome === 'admitted'
    w.outage.ended(move.home)
    return answer
  }
  w.outage.began(why)
  if (mayServeUnheld(x, w, move, plan)) return null
  x.holding = false
  // Its outcome is unknown: it may have been applied, or may yet be.
  if (admitting) void w.settler.void({ id: x.id, nowMs: w.clock.nowMs(), home: move.home })
  throw unmetered(why)
}

/** A connection that broke says so quickly: the same move again, at once, learns what became of it. */
async function reserveTwice(w: Workings, move: Reserve, startedMs: number): Promise<ReserveAnswer> {
  try {
    return await w.store.reserve(move)
  } catch (error) {
    if (w.clock.monotonicMs() - startedMs > quicklyMs) throw error
    return w.store.reserve(move)
  }
}

/** Up to an amount only what has a worst case: it is counted whole, for there is nothing that it could be held against piece by piece. */
function mayServeUnheld(x: Exchange, w: Workings, { home, checks }: Reserve, { draft, range, tokensInSlices }: CallPlan): boolean {
  const { entitlement, route } = admitted(x)
  const { storeDown } = entitlement.policy
  if (storeDown.kind === 'allow_up_to') {
    const grown = growingMeters(entitlement)
    if (grown.bytesOut || grown.compute || (grown.bytesIn && !route.known)) return false
  }
  const u = tokensInSlices ? range.uMax : draft.uMax
  return w.outage.serves(storeDown, home, checks, checks.map((check) => check.fixed + check.perUnit * u))
}

function unmetered(cause: string): GatewayError {
  return new GatewayError('metering_unavailable', 'Usage cannot be metered at the moment. Please try again shortly.', { source: 'store', cause })
}

function granted(x: Exchange, facts: RequestFacts, plan: CallPlan, u: number): void {
  const { draft, range, tokensInSlices } = plan
  x.granted = u
  const outputBound = tokensInSlices ? range.uMax : u
  x.outputBound = outputBound
  x.writesBound = facts.boundsOutput && (range.write || outputBound !== facts.outputAsked)
  x.loweredBound = tokensInSlices
    ? range.asked !== null && outputBound < range.asked ? `${outputBound};asked=${range.asked}` : null
    : outputBoundReport(draft, u)
}

/** What has to be changed in the request, given what was granted. */
export function changesOf(x: Exchange, w: Workings): BodyChanges {
  const { facts, destination, entitlement } = admitted(x)
  const { upstream, model } = destination
  return {
    outputBound: x.writesBound ? x.outputBound : null,
    outputField: model?.outputField ?? w.upstreams.outputField(upstream.name, facts.model),
    upstreamModel: model?.upstreamModel ?? null,
    askUsage: w.upstreams.asksUsage(upstream.name),
    forbidStore: entitlement.forbidStore,
  }
}

/** null: the tokenizer cannot decide, or could not tell more than is known. */
async function countedExactly(x: Exchange, w: Workings, facts: RequestFacts): Promise<RequestFacts | null> {
  if (facts.inputTokensExact !== null || facts.inputUnseen || facts.inputBytes === 0 || x.route?.known !== true) return null
  const configured = x.destination?.model?.encoding ?? null
  const guessed = w.tokenizer.encodingOf(x.destination?.model?.upstreamModel ?? facts.model)
  const encoding = configured ?? (guessed.known ? guessed.encoding : null)
  if (encoding === null) return null
  try {
    return { ...facts, inputTokensExact: await w.tokenizer.count(encoding, facts.texts()), texts: () => facts.texts() }
  } catch (error) {
    w.log.warn({ id: x.id, encoding, why: error instanceof Error ? error.name : 'unknown' }, 'the tokenizer failed')
    return null
  }
}
