import { assert } from '../assert.ts'
import type { Balance, Bucket, Check } from './check.ts'
import type { EventSkeleton, OutboxRecord } from './event.ts'
import { timeOfId } from './id.ts'
import type { Quantities } from './meter.ts'
import { METERS, type BuiltinMeter } from './meter.ts'
import type {
  CheckRefusal, Counted, Draw, DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, PendingReservation, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from './moves.ts'
import { balanceOf, drawnCeiling, freeOf, heldAgainst, NOTHING, outlives, slotOf, useOf, type CounterLookUp, type Use } from './standing.ts'

/**
 * The ledger: reserve, extend, settle, void, expire over plain maps. This is the specification of the books; every store is this or its twin.
 * A move decides on what it sees, turns its decision into one `Effect`, and applies that effect. A journal keeps the effects: replaying them takes
 * no decisions, so what was once answered is rebuilt exactly, whatever the rules say by then.
 */
export class Ledger {
  readonly #forgetAfterMs: number
  readonly #timeOf: (id: string) => number
  readonly #told: boolean
  readonly #counters = new Map<string, Counter>()
  readonly #open = new Map<string, Open>()
  readonly #expired = new Map<string, Expired>()
  /** Settled: the digest of what was settled. Voided: the empty string. */
  readonly #closed = new Map<string, string>()

  readonly #lookUp: CounterLookUp = (name) => this.#counters.get(name) ?? NOTHING

  constructor(options: LedgerOptions) {
    this.#forgetAfterMs = options.forgetAfterMs
    this.#timeOf = options.timeOf ?? timeOfId
    this.#told = options.tellsStanding ?? true
  }

  // === Moves ===

  reserve(m: Reserve): Step<ReserveAnswer> {
    const open = this.#open.get(m.id)
    // The same grant again: it holds nothing more.
    if (open !== undefined) return unchanged({ outcome: 'admitted', u: open.u, balances: this.balances(m.checks), shadowed: [] })
    if (this.#expired.has(m.id)) return unchanged({ outcome: 'expired' })
    const closed = this.#closed.get(m.id)
    if (closed !== undefined) return unchanged({ outcome: closed === VOIDED ? 'already_voided' : 'already_settled' })
    if (this.#forgotten(m.id, m.nowMs)) return unchanged({ outcome: 'too_old' })

    const fit = this.#fit(m.checks, m.uMin, m.uMax)
    if (fit.refusals.length > 0) return unchanged({ outcome: 'denied', refusals: fit.refusals, balances: this.balances(m.checks) })

    const lines: HeldLine[] = m.checks.map((check) => ({ ...drawnLineOf(check), held: check.fixed + check.perUnit * fit.u }))
    const effect: Effect = { t: 'reserve', id: m.id, home: m.home, u: fit.u, deadline: m.deadlineMs, lines, skeleton: m.skeleton }
    this.apply(effect)
    return { answer: { outcome: 'admitted', u: fit.u, balances: this.#standing(m.checks), shadowed: fit.shadowed }, effect, record: null }
  }

  extend(m: Extend): Step<ExtendAnswer> {
    const open = this.#open.get(m.id)
    if (open !== undefined) return this.#extendOpen(m, open)
    const expired = this.#expired.get(m.id)
    if (expired !== undefined) return this.#revive(m, expired)
    const closed = this.#closed.get(m.id)
    if (closed === undefined) return unchanged({ outcome: 'unknown' })
    return unchanged({ outcome: closed === VOIDED ? 'already_voided' : 'already_settled' })
  }

  #extendOpen(m: Extend, open: Open): Step<ExtendAnswer> {
    let held: number[] | null = null
    let refusals: readonly CheckRefusal[] = []
    if (m.checks !== null) {
      assert(m.checks.length === open.lines.length, 'an extend has the checks of its reservation')
      // A revived reservation has already booked a part; only the rest is held.
      const wanted = m.checks.map((check, i) => Math.max(open.lines[i]!.held, check.fixed - (open.booked?.amounts[i] ?? 0)))
      const raises = wanted.map((amount, i) => amount - open.lines[i]!.held)
      if (raises.some((raise) => raise > 0)) {
        refusals = this.#fit(m.checks.map((check, i) => ({ ...check, fixed: raises[i]!, perUnit: 0, clampable: false })), 0, 0).refusals
        if (refusals.length === 0) held = wanted
      }
    }
    // A denied extend still tells what was counted and that its gateway lives; a delayed older one tells nothing.
    const newer = m.checkpoint > open.checkpoint
    const answer: ExtendAnswer = refusals.length > 0 ? { outcome: 'denied', refusals } : { outcome: 'extended' }
    if (!newer && held === null) return unchanged(answer)
    const effect: Effect = {
      t: 'extend', id: m.id,
      checkpoint: Math.max(m.checkpoint, open.checkpoint),
      deadline: newer ? Math.max(m.deadlineMs, open.deadline) : open.deadline,
      counted: newer ? risen(open.counted, m.counted) : open.counted,
      held,
    }
    this.apply(effect)
    return { answer, effect, record: null }
  }

  #revive(m: Extend, expired: Expired): Step<ExtendAnswer> {
    if (m.checks === null) return unchanged({ outcome: 'expired' })
    assert(m.checks.length === expired.lines.length, 'an extend has the checks of its reservation')
    const rest = m.checks.map((check, i) => Math.max(0, check.fixed - expired.booked.amounts[i]!))
    const { refusals } = this.#fit(m.checks.map((check, i) => ({ ...check, fixed: rest[i]!, perUnit: 0, clampable: false })), 0, 0)
    if (refusals.length > 0) return unchanged({ outcome: 'expired' })
    const effect: Effect = { t: 'revive', id: m.id, checkpoint: m.checkpoint, deadline: m.deadlineMs, counted: risen(expired.booked, m.counted), held: rest }
    this.apply(effect)
    return { answer: { outcome: 'revived' }, effect, record: null }
  }

  settle(m: Settle): Step<SettleAnswer> {
    assert(m.amounts.length === m.checks.length, 'one amount per check')
    for (const amount of m.amounts) assert(Number.isSafeInteger(amount) && amount >= 0, 'amounts are integers of 0 and more')
    const digest = digestOf(m.amounts, m.usage)
    const closed = this.#closed.get(m.id)
    if (closed === VOIDED) return unchanged({ outcome: 'already_voided' })
    if (closed !== undefined) return unchanged({ outcome: closed === digest ? 'already_settled' : 'differs' })
    const open = this.#open.get(m.id)
    const expired = this.#expired.get(m.id)
    if (open === undefined && expired === undefined && this.#forgotten(m.id, m.nowMs)) return unchanged({ outcome: 'quarantined' })

    const booked = open?.booked ?? expired?.booked ?? null
    const corrections = open?.corrections ?? expired?.corrections ?? 0
    const drawn: Draw[] = []
    const overruns: Draw[] = []
    const lines = m.checks.map((check, i): BookedLine => {
      const amount = m.amounts[i]! - (booked?.amounts[i] ?? 0)
      return this.#draw(drawnLineOf(check), useOf(check, this.#lookUp), amount, drawn, overruns, open?.lines[i]?.held ?? 0)
    })
    const effect: Effect = { t: 'settle', id: m.id, lines, digest }
    this.apply(effect)
    const record: OutboxRecord = {
      kind: booked === null ? 'usage' : 'late',
      id: m.id, correction: booked === null ? 0 : corrections + 1, atMs: m.nowMs,
      body: m.event, usage: m.usage, booked: booked?.usage ?? null, drawn, overruns,
    }
    const outcome = booked !== null ? 'settled_late' : open === undefined ? 'settled_unheld' : 'settled'
    return { answer: { outcome, drawn, overruns, balances: this.#standing(m.checks) }, effect, record }
  }

  void(m: Void): Step<VoidAnswer> {
    // What has been expired has left an event: it is too late to say that it never was.
    if (this.#expired.has(m.id)) return unchanged({ outcome: 'expired' })
    const closed = this.#closed.get(m.id)
    if (closed !== undefined) return unchanged({ outcome: closed === VOIDED ? 'already_voided' : 'already_settled' })
    if (this.#open.get(m.id)?.booked) return unchanged({ outcome: 'expired' })
    // Unknown: a tombstone, so that a delayed reserve finds it. Too old for that, there is nothing to wait for.
    if (!this.#open.has(m.id) && this.#forgotten(m.id, m.nowMs)) return unchanged({ outcome: 'voided' })
    const effect: Effect = { t: 'void', id: m.id }
    this.apply(effect)
    return { answer: { outcome: 'voided' }, effect, record: null }
  }

  expire(m: Expire): Step<ExpireAnswer> {
    const open = this.#open.get(m.id)
    if (open === undefined) return unchanged({ outcome: 'unknown' })
    if (m.checkpoint !== null && (m.checkpoint !== open.checkpoint || open.deadline > m.nowMs)) return unchanged({ outcome: 'not_due' })
    if (open.skeleton.seat === true) {
      const freed: Effect = { t: 'void', id: m.id }
      this.apply(freed)
      return { answer: { outcome: 'freed' }, effect: freed, record: null }
    }
    const amounts = open.counted?.amounts ?? open.booked?.amounts ?? open.lines.map(() => 0)
    const usage = open.counted?.usage ?? open.booked?.usage ?? {}
    const drawn: Draw[] = []
    const overruns: Draw[] = []
    const lines = open.lines.map((line, i) =>
      this.#draw(line, this.#lookUp(line.slot), amounts[i]! - (open.booked?.amounts[i] ?? 0), drawn, overruns, line.held))
    const again = open.booked !== null
    const corrections = again ? open.corrections + 1 : 0
    const effect: Effect = { t: 'expire', id: m.id, lines, booked: { amounts, usage }, corrections }
    const record: OutboxRecord = {
      kind: again ? 'late' : 'expired', id: m.id, correction: corrections, atMs: m.nowMs,
      body: open.skeleton, usage, booked: open.booked?.usage ?? null, drawn, overruns,
    }
    this.apply(effect)
    return { answer: { outcome: 'expired' }, effect, record }
  }

  // === Reading ===

  #standing(checks: readonly Check[]): readonly Balance[] {
    return this.#told ? this.balances(checks) : NO_BALANCES
  }

  balances(checks: readonly Check[]): Balance[] {
    return checks.map((check) => balanceOf(check, this.#lookUp))
  }

  due(nowMs: number): DueReservation[] {
    const due: DueReservation[] = []
    for (const [id, open] of this.#open) {
      if (open.deadline <= nowMs) due.push({ id, home: open.home, checkpoint: open.checkpoint, deadlineMs: open.deadline })
    }
    return due
  }

  /** undefined: nothing is pending under this id. */
  pending(id: string): PendingReservation | undefined {
    const open = this.#open.get(id)
    if (open === undefined) return undefined
    const { home, deadline, u, lines, skeleton } = open
    return { id, home, deadlineMs: deadline, u, held: lines.map(({ slot, held }) => ({ counter: slot, amount: held })), skeleton }
  }

  /** Ids of the pending reservations. */
  open(): readonly string[] {
    return [...this.#open.keys()]
  }

  // === Arithmetic ===

  /** The largest `u` in [uMin, uMax] that every refusing check admits, or who refuses. */
  #fit(checks: readonly Check[], uMin: number, uMax: number): { u: number; refusals: CheckRefusal[]; shadowed: string[] } {
    let u = uMax
    const refusals: CheckRefusal[] = []
    const shadowed: string[] = []
    for (let i = 0; i < checks.length; i++) {
      const check = checks[i]!
      const most = check.fixed + check.perUnit * uMax
      // A call that needs nothing of a meter is never refused for it.
      if (most === 0) continue
      const use = useOf(check, this.#lookUp)
      const clampable = check.clampable && check.perUnit > 0
      for (const ceiling of check.ceilings) {
        const free = freeOf(ceiling, use.settled, this.#lookUp)
        if (free === null) continue
        const room = free - heldAgainst(ceiling, check.alongside, use.pending, this.#lookUp)
        if (!ceiling.refuses) {
          if (most > room) shadowed.push(ceiling.limit)
          continue
        }
        const least = clampable ? check.fixed + check.perUnit * uMin : most
        if (least > room) refusals.push({ check: i, limit: ceiling.limit, why: least > free ? 'used_up' : 'held' })
        else if (clampable) u = Math.min(u, Math.floor((room - check.fixed) / check.perUnit))
      }
    }
    return { u, refusals, shadowed }
  }

  /**
   * Spreads `amount` over the buckets in order, by what is settled alone; what none covers lands on the last.
   * `within`: an amount up to this was held, so that it is no overrun, even if the ceilings have been changed since. More than that is one as far as
   * it takes room that is settled or that others hold: else they would settle what they hold, and nobody would have overrun.
   * A negative amount (a correction) is given back from the last bucket backwards.
   */
  #draw(line: DrawnLine, { settled, pending }: Use, amount: number, drawn: Draw[], overruns: Draw[], within: number): BookedLine {
    const { slot, ends, buckets, beyond, alongside } = line
    if (amount === 0) return { slot, ends, amount, draws: NO_DRAWS }
    const last = buckets.length - 1
    const drawnBeyond = beyond === undefined ? 0 : this.#lookUp(beyond).settled
    const held = heldAgainst(line, alongside, pending, this.#lookUp)
    if (last === 0) {
      // The usual case: one bucket has all of it.
      const { name, ceiling } = buckets[0]!
      drawn.push({ bucket: name, amount })
      const over = ceiling === null ? 0 : beyondOf(amount, Math.max(0, ceiling - settled + drawnBeyond), held, within)
      if (over > 0) overruns.push({ bucket: name, amount: over })
      return { slot, ends, amount, draws: NO_DRAWS }
    }
    const draws: BookedDraw[] = []
    const laterDrawn = buckets.map((bucket) => (bucket.counter === null ? 0 : this.#lookUp(bucket.counter).settled))
    let later = drawnBeyond
    for (const [i, bucket] of buckets.entries()) if (!outlives(bucket)) later += laterDrawn[i]!
    let sharedBeyond = 0
    const take = (index: number, share: number): void => {
      if (share === 0) return
      const bucket = buckets[index]!
      if (bucket.counter !== null) draws.push(outlives(bucket) ? [bucket.counter, share, bucket.name, bucket.endsMs ?? null] : [bucket.counter, share, bucket.name])
      if (outlives(bucket)) sharedBeyond += share
      drawn.push({ bucket: bucket.name, amount: share })
    }
    const booked = (): BookedLine => {
      if (beyond !== undefined && sharedBeyond !== 0) draws.push([beyond, sharedBeyond, ''])
      return { slot, ends, amount, draws }
    }
    if (amount < 0) {
      let back = -amount
      // A bucket that outlives the period gets back no more than this period has drawn from such buckets.
      let backBeyond = drawnBeyond
      for (let i = last; i > 0; i--) {
        const spans = outlives(buckets[i]!)
        const share = Math.max(0, Math.min(back, laterDrawn[i]!, spans ? backBeyond : Infinity))
        take(i, -share)
        back -= share
        if (spans) backBeyond -= share
      }
      take(0, -back)
      return booked()
    }
    let rest = amount
    let free: number | null = 0
    const shares = buckets.map((bucket, i) => {
      const has = i === 0 ? settled - later : laterDrawn[i]!
      const left = bucket.ceiling === null ? null : Math.max(0, bucket.ceiling - has)
      free = free === null || left === null ? null : free + left
      const share = left === null ? rest : Math.min(rest, left)
      rest -= share
      return share
    })
    const over = free === null ? 0 : beyondOf(amount, free, held, within)
    shares[last] = shares[last]! + rest
    shares.forEach((share, i) => take(i, share))
    if (over > 0) overruns.push({ bucket: buckets[last]!.name, amount: over })
    return booked()
  }

  #forgotten(id: string, nowMs: number): boolean {
    return this.#timeOf(id) + this.#forgetAfterMs < nowMs
  }

  // === Effects ===

  /** Makes one effect true. Takes no decision: a journal is replayed with it. */
  apply(effect: Effect): void {
    switch (effect.t) {
      case 'reserve': {
        for (const line of effect.lines) this.#hold(line, line.held)
        this.#open.set(effect.id, {
          home: effect.home, u: effect.u, deadline: effect.deadline, checkpoint: 0, lines: effect.lines, counted: null, booked: null, corrections: 0, skeleton: effect.skeleton,
        })
        return
      }
      case 'extend': {
        const open = this.#open.get(effect.id)!
        if (effect.held !== null) {
          open.lines = open.lines.map((line, i) => {
            const held = effect.held![i]!
            this.#hold(line, held - line.held)
            return { ...line, held }
          })
        }
        open.checkpoint = effect.checkpoint
        open.deadline = effect.deadline
        open.counted = effect.counted
        return
      }
      case 'revive': {
        const expired = this.#expired.get(effect.id)!
        this.#expired.delete(effect.id)
        const lines = expired.lines.map((line, i) => ({ ...line, held: effect.held[i]! }))
        for (const line of lines) this.#hold(line, line.held)
        this.#open.set(effect.id, { ...expired, lines, deadline: effect.deadline, checkpoint: effect.checkpoint, counted: effect.counted })
        return
      }
      case 'settle': {
        this.#release(effect.id)
        this.#book(effect.lines)
        this.#expired.delete(effect.id)
        this.#closed.set(effect.id, effect.digest)
        return
      }
      case 'void': {
        this.#release(effect.id)
        this.#closed.set(effect.id, VOIDED)
        return
      }
      case 'expire': {
        const open = this.#open.get(effect.id)!
        this.#release(effect.id)
        this.#book(effect.lines)
        this.#expired.set(effect.id, {
          home: open.home, u: open.u, lines: open.lines, booked: effect.booked, corrections: effect.corrections, skeleton: open.skeleton,
        })
        return
      }
      case 'forget': {
        this.#forget(effect.now)
        return
      }
    }
  }

  #counter(name: string, ends: number | null): Counter {
    let counter = this.#counters.get(name)
    if (counter === undefined) {
      counter = { settled: 0, pending: 0, ends }
      this.#counters.set(name, counter)
    }
    return counter
  }

  #hold(line: HeldLine, amount: number): void {
    const counter = this.#counter(line.slot, line.ends)
    counter.pending += amount
    assert(counter.pending >= 0, 'nothing frees more than it held')
  }

  #release(id: string): void {
    const open = this.#open.get(id)
    if (open === undefined) return
    for (const line of open.lines) this.#hold(line, -line.held)
    this.#open.delete(id)
  }

  #book(lines: readonly BookedLine[]): void {
    for (const line of lines) {
      if (line.amount !== 0) this.#counter(line.slot, line.ends).settled += line.amount
      for (const [name, amount, , ends] of line.draws) this.#counter(name, ends === undefined ? line.ends : ends).settled += amount
    }
  }

  /** Drops what can no longer change an answer; null when there is nothing to drop. */
  forget(nowMs: number): Effect | null {
    const oldest = nowMs - this.#forgetAfterMs
    const garbage = (): boolean => {
      for (const id of this.#closed.keys()) {
        // Ids are nearly in order of time: if the first is young, so are the rest, but for stragglers that wait for the next time.
        if (this.#timeOf(id) < oldest) return true
        break
      }
      for (const counter of this.#counters.values()) if (isGarbage(counter, oldest)) return true
      for (const id of this.#expired.keys()) if (this.#timeOf(id) < oldest) return true
      return false
    }
    if (!garbage()) return null
    const effect: Effect = { t: 'forget', now: nowMs }
    this.apply(effect)
    return effect
  }

  #forget(nowMs: number): void {
    const oldest = nowMs - this.#forgetAfterMs
    for (const id of this.#closed.keys()) if (this.#timeOf(id) < oldest) this.#closed.delete(id)
    for (const id of this.#expired.keys()) if (this.#timeOf(id) < oldest) this.#expired.delete(id)
    for (const [name, counter] of this.#counters) if (isGarbage(counter, oldest)) this.#counters.delete(name)
  }

  // === Snapshots ===

  /** The whole state as JSON lines, for `restore`. */
  *dump(): Iterable<string> {
    for (const [name, c] of this.#counters) yield JSON.stringify(['c', name, c.settled, c.pending, c.ends])
    for (const [id, open] of this.#open) yield JSON.stringify(['o', id, open])
    for (const [id, expired] of this.#expired) yield JSON.stringify(['e', id, expired])
    for (const [id, digest] of this.#closed) yield JSON.stringify(['x', id, digest])
  }

  static restore(lines: Iterable<string>, options: LedgerOptions): Ledger {
    const ledger = new Ledger(options)
    for (const line of lines) {
      const row = JSON.parse(line) as DumpRow
      switch (row[0]) {
        case 'c': ledger.#counters.set(row[1], { settled: row[2], pending: row[3], ends: row[4] }); break
        case 'o': ledger.#open.set(row[1], row[2]); break
        case 'e': ledger.#expired.set(row[1], row[2]); break
        case 'x': ledger.#closed.set(row[1], row[2]); break
      }
    }
    return ledger
  }
}

export interface LedgerOptions {
  /** How long a closed reservation is remembered: the longest exchange and an hour. */
  readonly forgetAfterMs: number
  /** The instant that an id begins with. */
  readonly timeOf?: (id: string) => number
  /** False: whoever is admitted or settled is not told where he stands, because nobody reads it. */
  readonly tellsStanding?: boolean
}

/** A move's answer, with what a journal keeps of it. `effect` null: nothing has changed. `record`: the event that it wrote. */
export interface Step<Answer> {
  readonly answer: Answer
  readonly effect: Effect | null
  readonly record: OutboxRecord | null
}

/** What a move changed; plain JSON. */
export type Effect =
  | { readonly t: 'reserve'; readonly id: string; readonly home: string; readonly u: number; readonly deadline: number; readonly lines: readonly HeldLine[]; readonly skeleton: EventSkeleton }
  | { readonly t: 'extend'; readonly id: string; readonly checkpoint: number; readonly deadline: number; readonly counted: Counted | null; readonly held: readonly number[] | null }
  | { readonly t: 'revive'; readonly id: string; readonly checkpoint: number; readonly deadline: number; readonly counted: Counted | null; readonly held: readonly number[] }
  | { readonly t: 'settle'; readonly id: string; readonly lines: readonly BookedLine[]; readonly digest: string }
  | { readonly t: 'void'; readonly id: string }
  | { readonly t: 'expire'; readonly id: string; readonly lines: readonly BookedLine[]; readonly booked: Counted; readonly corrections: number }
  | { readonly t: 'forget'; readonly now: number }

/** Where a check is booked: the admission's slot, and the buckets that are drawn. */
interface DrawnLine {
  readonly slot: string
  readonly ends: number | null
  readonly buckets: readonly Bucket[]
  readonly beyond?: string
  readonly alongside?: readonly string[]
}

/** What a reservation holds on one check. */
interface HeldLine extends DrawnLine {
  readonly held: number
}

/** Counter, share and bucket name; and the counter's own end, where it outlives the period. */
type BookedDraw = readonly [string, number, string] | readonly [string, number, string, number | null]

interface BookedLine {
  readonly slot: string
  readonly ends: number | null
  /** Negative in a correction. */
  readonly amount: number
  /** Of the later buckets, and of the counter of those that outlive the period. */
  readonly draws: readonly BookedDraw[]
}

interface Counter {
  settled: number
  pending: number
  readonly ends: number | null
}

interface Open {
  readonly home: string
  readonly u: number
  deadline: number
  checkpoint: number
  lines: readonly HeldLine[]
  counted: Counted | null
  /** What an earlier expiry booked, where this one was revived. */
  readonly booked: Counted | null
  readonly corrections: number
  readonly skeleton: EventSkeleton
}

interface Expired {
  readonly home: string
  readonly u: number
  readonly lines: readonly HeldLine[]
  readonly booked: Counted
  readonly corrections: number
  readonly skeleton: EventSkeleton
}

type DumpRow = ['c', string, number, number, number | null] | ['o', string, Open] | ['e', string, Expired] | ['x', string, string]

const VOIDED = ''
const NO_BALANCES: readonly Balance[] = []
const NO_DRAWS: BookedLine['draws'] = []
const METER_NAMES = Object.keys(METERS) as BuiltinMeter[]

function unchanged<A>(answer: A): Step<A> {
  return { answer, effect: null, record: null }
}

/** How much of `amount` takes room that is settled or that others hold: an overrun, as far as it was not held (`within`). */
function beyondOf(amount: number, free: number, pending: number, within: number): number {
  const uncovered = amount - free + Math.max(0, pending - within)
  return Math.min(uncovered, Math.max(0, amount - within))
}

/** Where a check is booked. */
function drawnLineOf(check: Check): DrawnLine {
  const { buckets, beyond } = drawnCeiling(check)
  const line = { slot: slotOf(check), ends: check.endsMs, buckets }
  return beyond === undefined ? line : { ...line, beyond, alongside: check.alongside ?? [] }
}

function isGarbage(counter: Counter, oldest: number): boolean {
  if (counter.pending !== 0) return false
  return counter.ends === null ? counter.settled === 0 : counter.ends < oldest
}

/** Counted amounts only ever rise. */
function risen(before: Counted | null, now: Counted | null): Counted | null {
  if (before === null || now === null) return now ?? before
  const usage: Quantities = { ...before.usage }
  for (const meter of METER_NAMES) {
    const value = now.usage[meter]
    if (value !== undefined) usage[meter] = Math.max(value, before.usage[meter] ?? 0)
  }
  return { amounts: before.amounts.map((amount, i) => Math.max(amount, now.amounts[i]!)), usage }
}

/** Tells one settlement from another: every amount and every quantity. */
export function digestOf(amounts: readonly number[], usage: Quantities): string {
  let digest = amounts.join(',')
  for (let i = 0; i < METER_NAMES.length; i++) {
    const value = usage[METER_NAMES[i]!]
    if (value !== undefined) digest += `;${i}=${value}`
  }
  // Never empty: that means voided.
  return digest === '' ? '-' : digest
}
