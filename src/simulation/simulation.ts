import { cardOf } from '../invoices/billed.ts'
import { moneyText } from '../invoices/money.ts'
import { periodAt } from '../metering/calendar.ts'
import { toInstant, type UsageEvent } from '../metering/event.ts'
import type { Limit, Window } from '../metering/limits/limit.ts'
import { METERS, type BuiltinMeter, type Quantities } from '../metering/meter.ts'
import { decimalOfNanos, versionAt } from '../metering/price.ts'
import { checkBoundaries, type BoundaryCheck } from './boundaries.ts'
import { toRecordedCall, type RecordedCall } from './recorded-call.ts'
import { Callers } from './callers.ts'
import { Replay, type Offer, type Refused, type Served } from './replay.ts'
import { OwnCost, Revenue, type Money, type Side } from './revenue.ts'

export interface Question {
  /** What is in force, and what is to be. */
  readonly current: Side
  readonly candidate: Side
  readonly offer: Pick<Offer, 'defaultEndpoints' | 'countsExactly' | 'forgetAfterMs'>
  /** Calls admitted before only bring the counters where they were, ms; null: none does. */
  readonly sinceMs: number | null
  /** Told of this account alone; its calls are judged among everybody's. */
  readonly account: string | null
  /** Each refusal, not their numbers alone. */
  readonly listed: boolean
}

export interface RefusalDocument {
  readonly time: string
  readonly id: string
  readonly account: string
  readonly key: string
  readonly plan: string
  readonly model: string | null
  readonly limit: string | null
  readonly reason: string
  readonly why: 'used_up' | 'held' | null
  readonly meter: string | null
  readonly needed: number | null
  readonly left: number | null
  readonly sentence: string
  readonly guessed: boolean
}

export interface RefusedByLimit {
  readonly account: string
  readonly plan: string
  /** null: it is the plan or the subscription that refuses. */
  readonly limit: string | null
  readonly reason: string
  count: number
  /** Of them, by what was settled; the others by what calls in flight held, or by no amount. */
  used_up: number
  first: string
  last: string
}

/** Decimal texts. */
export interface MoneyDocument {
  readonly usage: string
  readonly adjustments: string
  readonly total: string
}

export interface AccountDocument {
  readonly account: string
  readonly calls: number
  readonly refused: number
  readonly clamped: number
  readonly shortened: number
  readonly cut: number
  readonly waited: number
  readonly shadow: Readonly<Record<string, number>>
  readonly revenue: readonly { readonly currency: string; readonly before: MoneyDocument; readonly after: MoneyDocument }[]
  /** What its calls cost the operator at public list prices, in US dollars; null: no plan has any. */
  readonly own_cost: { readonly before: string; readonly after: string } | null
}

export interface SimulationReport {
  /** Of the first and last admission that is told of; null: there was none. */
  readonly from: string | null
  readonly to: string | null
  /** Of the first admission that was replayed to bring the counters where they were; null: none was. */
  readonly warmed_up_from: string | null
  readonly calls: number
  readonly corrections: number
  readonly refused: number
  /** Their output bound would have been lowered. */
  readonly clamped: number
  /** They used more than they would have been let; their usage is lowered to that. */
  readonly shortened: number
  /** What they were held for piece by piece would have run out. */
  readonly cut: number
  /** The plan would have let them wait for capacity, and then served them. */
  readonly waited: number
  /** Decided with a guess: the event does not tell its bound, or the gateway would have counted tokens. */
  readonly guessed: number
  /** Their key is gone: its own limits are not known. */
  readonly keys_gone: number
  readonly skipped: { readonly not_events: number; readonly callers_gone: number; readonly corrections_of_unknown: number }
  readonly by_limit: readonly RefusedByLimit[]
  readonly accounts: readonly AccountDocument[]
  /** Billing periods that the adjustments are of: whole ones, whatever part of them was replayed; null: none. */
  readonly billing_periods: { readonly from: string; readonly to: string } | null
  readonly boundaries: BoundaryCheck
  /** Windows that began before anything that was replayed, so that their counters begin too low. */
  readonly unknown_before: readonly string[]
  readonly refusals?: readonly RefusalDocument[]
}

interface Account {
  calls: number
  refused: number
  clamped: number
  shortened: number
  cut: number
  waited: number
  readonly shadow: Map<string, number>
  readonly before: OwnCost
  readonly after: OwnCost
}

/** Events are given some at a time, in the order of their admission; one that comes twice in a millisecond counts once. */
export class Simulation {
  readonly #question: Question
  readonly #replay: Replay
  readonly #before: Revenue
  readonly #after: Revenue
  readonly #accounts = new Map<string, Account>()
  readonly #byLimit = new Map<string, RefusedByLimit>()
  readonly #refusals: RefusalDocument[] = []
  readonly #skipped = { not_events: 0, callers_gone: 0, corrections_of_unknown: 0 }
  /** Of the events of one instant. */
  readonly #ids = new Set<string>()
  #time = ''
  #firstMs: number | null = null
  #fromMs: number | null = null
  #toMs = 0
  #corrections = 0
  #guessed = 0
  #keysGone = 0

  constructor(question: Question) {
    this.#question = question
    const { current, candidate, offer } = question
    this.#before = new Revenue(current)
    this.#after = new Revenue(candidate)
    this.#replay = new Replay({ ...offer, config: candidate.config, callers: new Callers(candidate.directory, candidate.config.plans) }, {
      refused: (refused) => this.#refused(refused),
      served: (served) => this.#served(served),
      skipped: (call, why) => {
        if (this.#isTold(call)) this.#skipped[why === 'caller_gone' ? 'callers_gone' : 'corrections_of_unknown'] += 1
      },
    })
  }

  take(event: Pick<UsageEvent, 'id' | 'time' | 'data'>): void {
    const call = toRecordedCall(event)
    if (call === null) {
      this.#skipped.not_events += 1
      return
    }
    if (call.time !== this.#time) {
      this.#ids.clear()
      this.#time = call.time
    }
    if (this.#ids.has(call.id)) return
    this.#ids.add(call.id)
    this.#firstMs ??= call.admittedMs
    if (this.#isTold(call)) this.#record(call)
    this.#replay.take(call)
  }

  /** Lines that were no events are told of as well. */
  finish(unreadable = 0): SimulationReport {
    this.#replay.finish()
    this.#skipped.not_events += unreadable
    const { current, candidate, listed, account } = this.#question
    const fromMs = this.#fromMs
    const toMs = this.#toMs
    if (fromMs !== null) {
      this.#addSilent(current, this.#before, fromMs, toMs)
      this.#addSilent(candidate, this.#after, fromMs, toMs)
    }
    const told = [...this.#accounts].filter(([id]) => account === null || id === account).sort(([one], [other]) => (one < other ? -1 : 1))
    const total = (of: (each: Account) => number): number => told.reduce((sum, [, each]) => sum + of(each), 0)
    const priced = told.some(([, { before, after }]) => before.calls + after.calls > 0)
    const limits = [...this.#byLimit.values()].sort((one, other) => other.count - one.count || (one.account < other.account ? -1 : 1))
    return {
      from: fromMs === null ? null : toInstant(fromMs), to: fromMs === null ? null : toInstant(toMs),
      warmed_up_from: this.#firstMs !== null && (fromMs === null || this.#firstMs < fromMs) ? toInstant(this.#firstMs) : null,
      calls: total(({ calls }) => calls), corrections: this.#corrections, refused: total(({ refused }) => refused), clamped: total(({ clamped }) => clamped),
      shortened: total(({ shortened }) => shortened), cut: total(({ cut }) => cut), waited: total(({ waited }) => waited), guessed: this.#guessed, keys_gone: this.#keysGone,
      skipped: this.#skipped, by_limit: limits,
      accounts: told.map(([id, each]) => this.#document(id, each, priced)),
      billing_periods: this.#after.span,
      boundaries: checkBoundaries(current.directory, candidate.directory, fromMs ?? 0, fromMs === null ? 0 : toMs),
      unknown_before: this.#firstMs === null ? [] : windowsBefore(candidate, this.#firstMs, fromMs ?? this.#firstMs),
      ...(listed ? { refusals: this.#refusals } : {}),
    }
  }

  /** In the time that is told of? */
  #isTold({ admittedMs }: RecordedCall): boolean {
    const { sinceMs } = this.#question
    return sinceMs === null || admittedMs >= sinceMs
  }

  #record(call: RecordedCall): void {
    const { account, admittedMs, correction, data } = call
    this.#fromMs ??= admittedMs
    this.#toMs = Math.max(this.#toMs, admittedMs)
    const tally = this.#account(account)
    if (correction) this.#corrections += 1
    else tally.calls += 1
    this.#before.add(account, admittedMs, call)
    const version = typeof data['price_version'] === 'string' ? data['price_version'] : null
    tally.before.add(cardOf(this.#question.current.config.plans, call.plan, version), call.model, call.usage, correction)
  }

  #account(id: string): Account {
    let account = this.#accounts.get(id)
    if (account === undefined) {
      account = { calls: 0, refused: 0, clamped: 0, shortened: 0, cut: 0, waited: 0, shadow: new Map(), before: new OwnCost(), after: new OwnCost() }
      this.#accounts.set(id, account)
    }
    return account
  }

  /** Whether its account is one that the report is about. */
  #isAsked({ account }: RecordedCall): boolean {
    return this.#question.account === null || account === this.#question.account
  }

  #refused(refused: Refused): void {
    const { call, limit, reason, plan, why, need, sentence, guessed } = refused
    if (!this.#isTold(call) || !this.#isAsked(call)) return
    const { account, time, id, key, model } = call
    this.#account(account).refused += 1
    if (guessed) this.#guessed += 1
    const name = JSON.stringify([account, plan, limit, reason])
    let sums = this.#byLimit.get(name)
    if (sums === undefined) this.#byLimit.set(name, sums = { account, plan, limit, reason, count: 0, used_up: 0, first: time, last: time })
    sums.count += 1
    if (why === 'used_up') sums.used_up += 1
    if (time < sums.first) sums.first = time
    if (time > sums.last) sums.last = time
    if (this.#question.listed) {
      this.#refusals.push({ time, id, account, key, plan, model, limit, reason, why, meter: need?.meter ?? null, needed: need?.needed ?? null, left: need?.left ?? null, sentence, guessed })
    }
  }

  #served(served: Served): void {
    const { call, entitlement, usage, clampedTo, shortened, cut, waitedMs, shadowed, keyGone, guessed } = served
    if (!this.#isTold(call) || !this.#isAsked(call)) return
    const { plan } = entitlement.principal
    const account = this.#account(call.account)
    if (clampedTo !== null) account.clamped += 1
    if (shortened) account.shortened += 1
    if (cut) account.cut += 1
    if (waitedMs > 0) account.waited += 1
    if (guessed) this.#guessed += 1
    if (keyGone) this.#keysGone += 1
    for (const limit of shadowed) account.shadow.set(limit, (account.shadow.get(limit) ?? 0) + 1)
    if (Object.keys(usage).length === 0) return
    this.#after.add(call.account, call.admittedMs, { time: call.time, data: billedData(served) })
    account.after.add(versionAt(plan.prices, call.admittedMs), call.model, usage, call.correction)
  }

  /** Who has not called pays fees too, where there are any. */
  #addSilent({ config, directory }: Side, revenue: Revenue, fromMs: number, toMs: number): void {
    if (![...config.plans.values()].some(({ charges }) => charges !== null)) return
    for (const [id] of directory.accounts) {
      revenue.addPeriods(id, fromMs, toMs)
      this.#account(id)
    }
  }

  #document(id: string, { calls, refused, clamped, shortened, cut, waited, shadow, before, after }: Account, priced: boolean): AccountDocument {
    const [was, willBe] = [this.#before.sums(id), this.#after.sums(id)]
    const currencies = [...new Set([...was, ...willBe].map(({ currency }) => currency))].sort()
    return {
      account: id, calls, refused, clamped, shortened, cut, waited, shadow: Object.fromEntries(shadow),
      revenue: currencies.map((currency) => ({ currency, before: moneyOf(was, currency), after: moneyOf(willBe, currency) })),
      own_cost: priced ? { before: decimalOfNanos(before.nanos), after: decimalOfNanos(after.nanos) } : null,
    }
  }
}

/** What an invoice needs of the event that would have been written. */
function billedData({ call, entitlement, usage, drawn }: Served): Readonly<Record<string, unknown>> {
  const data: Record<string, unknown> = { plan: entitlement.principal.plan.name, model: call.model, drawn }
  if (call.correction) data['corrects'] = call.exchange
  if (call.features.length > 0) data['features'] = call.features
  addQuantities(data, usage)
  if (usage.cost !== undefined) {
    data['cost'] = decimalOfNanos(usage.cost, entitlement.moneyScale)
    data['currency'] = entitlement.currency ?? undefined
    data['price_version'] = entitlement.priceVersion ?? undefined
  }
  return data
}

const meters = (Object.keys(METERS) as BuiltinMeter[]).filter((meter) => meter !== 'cost' && meter !== 'concurrency')

function addQuantities(data: Record<string, unknown>, usage: Quantities): void {
  for (const meter of meters) {
    const quantity = usage[meter]
    if (quantity !== undefined) data[meter === 'compute_seconds' ? 'compute_ms' : meter] = meter === 'audio_seconds' ? quantity / METERS.audio_seconds.scale : quantity
  }
}

function moneyOf(sums: readonly Money[], currency: string): MoneyDocument {
  const found = sums.filter((each) => each.currency === currency)
  const scale = found.reduce((most, each) => Math.max(most, each.scale), 0)
  const all = (of: (each: Money) => bigint): bigint => found.reduce((sum, each) => sum + of(each) * 10n ** BigInt(scale - each.scale), 0n)
  const usage = all((each) => each.usage)
  const adjustments = all((each) => each.adjustments)
  return { usage: moneyText(usage, scale), adjustments: moneyText(adjustments, scale), total: moneyText(usage + adjustments, scale) }
}

/** Every limit that anybody may be held against. */
function* limitsOf({ config }: Side): Iterable<Limit> {
  for (const { limits } of [...config.plans.values(), ...config.addOns.values(), ...config.accounts.values(), ...config.keys]) yield* limits
}

/**
 * From when on calls have to be replayed, so that the counters of windows that contain `sinceMs` begin where they were, ms. Windows without end, and terms, are
 * counted from there on: what was used before is not looked for.
 */
export function warmUpMs(side: Side, sinceMs: number): number {
  let fromMs = sinceMs
  const calendars = new Map([...side.directory.accounts.values()].map(({ calendar }) => [JSON.stringify(calendar), calendar]))
  const windows = new Map<string, Window>([...limitsOf(side)].map(({ window }) => [JSON.stringify(window), window]))
  for (const window of windows.values()) {
    if (window.kind === 'sliding') fromMs = Math.min(fromMs, sinceMs - Math.ceil(window.ms * 13 / 12))
    else if (window.kind === 'fixed') fromMs = Math.min(fromMs, sinceMs - window.ms)
    else if (window.kind === 'calendar' || window.kind === 'billing_period') {
      const unit = window.kind === 'calendar' ? window.unit : window.kind
      for (const calendar of [utc, ...calendars.values()]) fromMs = Math.min(fromMs, periodAt(unit, calendar, sinceMs).startMs)
    }
  }
  return fromMs
}

const utc = { timeZone: 'UTC', anchor: '2000-01-01' }

/** Names of limits whose window began before the first call that was replayed. */
function windowsBefore(side: Side, firstMs: number, fromMs: number): readonly string[] {
  const names = new Set<string>()
  for (const limit of limitsOf(side)) {
    const { kind } = limit.window
    if (kind === 'lifetime' || kind === 'term') names.add(limit.name)
    else if (kind !== 'in_flight' && limit.ceiling !== null && startsBefore(limit.window, firstMs, fromMs)) names.add(limit.name)
  }
  return [...names].sort()
}

/** A minute or an hour are over before anybody looks. */
function startsBefore(window: Window, firstMs: number, fromMs: number): boolean {
  if (window.kind === 'sliding' || window.kind === 'fixed') return window.ms >= 86_400_000 && fromMs - firstMs < window.ms
  if (window.kind !== 'calendar' && window.kind !== 'billing_period') return false
  const unit = window.kind === 'calendar' ? window.unit : window.kind
  return unit !== 'minute' && unit !== 'hour' && periodAt(unit, utc, fromMs).startMs < firstMs
}
