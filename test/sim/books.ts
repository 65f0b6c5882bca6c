import type { Balance, Ceiling, Check } from '../../src/metering/check.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import type { Effect, Ledger, Step } from '../../src/metering/ledger.ts'
import { meterScale } from '../../src/metering/meter.ts'
import type {
  Draw, Expire, ExpireAnswer, Extend, ExtendAnswer, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../src/metering/moves.ts'
import { limitsOf } from './scenario.ts'
import type { World } from './world.ts'

/** One move as the store executed it. */
export type Observed =
  | { readonly kind: 'reserve'; readonly move: Reserve; readonly step: Step<ReserveAnswer> }
  | { readonly kind: 'extend'; readonly move: Extend; readonly step: Step<ExtendAnswer> }
  | { readonly kind: 'settle'; readonly move: Settle; readonly step: Step<SettleAnswer> }
  | { readonly kind: 'void'; readonly move: Void; readonly step: Step<VoidAnswer> }
  | { readonly kind: 'expire'; readonly move: Expire; readonly step: Step<ExpireAnswer> }

export interface Reservation {
  readonly id: string
  readonly checks: readonly Check[]
  state: 'open' | 'settled' | 'voided' | 'expired'
  held: number[]
  booked: number[] | null
  counted: number[] | null
  checkpoint: number
  /** Records by their correction number. */
  records: number[]
}

/** What the caller may have been told of its limits, at one move: what remains of each, by the limit's name. */
export interface Standing {
  readonly of: 'reserve' | 'settle'
  readonly atMs: number
  readonly remaining: ReadonlyMap<string, number>
}

/**
 * The checkers' own books: a second, plainer ledger that believes nothing but what was asked and answered. It decides nothing; it adds up, and
 * compares after every step.
 */
export class Books {
  readonly #world: World
  readonly settled = new Map<string, number>()
  readonly pending = new Map<string, number>()
  /** Used beyond what was held, by counter: only upstreams that ignore their bounds, and calls that were never held, make it. */
  readonly excess = new Map<string, number>()
  /** What the ledger itself recorded as overrun. */
  readonly recorded = new Map<string, number>()
  reservations = new Map<string, Reservation>()
  readonly #effects = new WeakMap<Effect, Observed>()
  readonly standings = new Map<string, Standing[]>()
  /** Told without a move of the exchange's own: a remembered refusal, a void. */
  readonly loose: Standing[] = []
  /** The highest that the ceilings of a limit have ever been; null: unlimited. */
  readonly highest = new Map<string, number | null>()

  constructor(world: World) {
    this.#world = world
  }

  seen(effect: Effect): Observed | null {
    return this.#effects.get(effect) ?? null
  }

  /** Starts again from what was durable. */
  rebuild(durable: readonly Observed[], ledger: Ledger): void {
    for (const map of [this.settled, this.pending, this.excess, this.recorded]) map.clear()
    this.reservations = new Map()
    for (const one of durable) this.#book(one)
    this.compare(ledger)
  }

  observe(one: Observed, ledger: Ledger): void {
    const { effect, record } = one.step
    const { id } = one.move
    this.#world.trace(() => `  ${one.kind} ${id.slice(-6)}${amountsText(one)} -> ${answerText(one)}`)
    if (effect !== null) this.#effects.set(effect, one)
    if (one.kind === 'reserve') for (const check of one.move.checks) this.#noteCeilings(check)
    if (effect === null) {
      if (record !== null) this.#violate(3, `${one.kind} of ${id} wrote an event and changed nothing`)
      if (one.kind === 'reserve' && one.step.answer.outcome === 'admitted' && this.reservations.get(id)?.state !== 'open') this.#violate(2, `${id} was admitted and is not held`)
      if ((one.kind === 'settle' || one.kind === 'void') && ['settled', 'settled_late', 'settled_unheld', 'voided'].includes(one.step.answer.outcome) && one.step.answer.outcome !== 'voided') {
        this.#violate(2, `${id} was answered ${one.step.answer.outcome} and nothing has changed`)
      }
    } else this.#book(one)
    this.#verify(one, ledger)
    this.#tell(one)
  }

  /** The standing was read without a move. */
  standing(checks: readonly Check[]): void {
    this.loose.push(this.#standingOf('settle', checks))
  }

  // === Booking ===

  #book(one: Observed): void {
    switch (one.kind) {
      case 'reserve': return this.#reserve(one.move, one.step.answer)
      case 'extend': return this.#extend(one.move, one.step.answer)
      case 'settle': return this.#settle(one.move, one.step)
      case 'void': return this.#void(one.move)
      case 'expire': return this.#expire(one.move, one.step.record)
    }
  }

  #reserve(m: Reserve, answer: ReserveAnswer): void {
    if (answer.outcome !== 'admitted') return this.#violate(6, `a reserve of ${m.id} that was answered ${answer.outcome} changed the books`)
    if (this.reservations.has(m.id)) return this.#violate(2, `${m.id} was admitted twice`)
    if (answer.u < m.uMin || answer.u > m.uMax) this.#violate(1, `${m.id} was granted ${answer.u}, outside of ${m.uMin} to ${m.uMax}`)
    const held = m.checks.map((check) => check.fixed + check.perUnit * answer.u)
    m.checks.forEach((check, i) => add(this.pending, slotOf(check), held[i]!))
    this.reservations.set(m.id, { id: m.id, checks: m.checks, state: 'open', held, booked: null, counted: null, checkpoint: 0, records: [] })
  }

  #extend(m: Extend, answer: ExtendAnswer): void {
    const r = this.reservations.get(m.id)
    if (r === undefined) return this.#violate(2, `${m.id} was extended and never admitted`)
    if (answer.outcome === 'revived' && m.checks !== null) {
      r.state = 'open'
      r.held = m.checks.map((check, i) => Math.max(0, check.fixed - (r.booked?.[i] ?? 0)))
      r.held.forEach((amount, i) => add(this.pending, slotOf(r.checks[i]!), amount))
      r.counted = risen(r.booked, m.counted?.amounts ?? null)
      r.checkpoint = m.checkpoint
      return
    }
    if (answer.outcome === 'extended' && m.checks !== null) {
      m.checks.forEach((check, i) => {
        const wanted = Math.max(r.held[i]!, check.fixed - (r.booked?.[i] ?? 0))
        add(this.pending, slotOf(r.checks[i]!), wanted - r.held[i]!)
        r.held[i] = wanted
      })
    }
    if (m.checkpoint > r.checkpoint) {
      r.counted = risen(r.counted, m.counted?.amounts ?? null)
      r.checkpoint = m.checkpoint
    }
  }

  #settle(m: Settle, { answer, record }: Step<SettleAnswer>): void {
    const r = this.reservations.get(m.id) ?? { id: m.id, checks: m.checks, state: 'expired', held: m.checks.map(() => 0), booked: null, counted: null, checkpoint: 0, records: [] }
    const was = this.reservations.has(m.id) ? r.state : 'unknown'
    if (was === 'settled' || was === 'voided') this.#violate(2, `${m.id} was ${was} and is settled again`)
    const due = r.booked !== null ? 'settled_late' : was === 'unknown' ? 'settled_unheld' : 'settled'
    if (answer.outcome !== due) this.#violate(2, `${m.id} was ${was} and is answered ${answer.outcome}`)
    this.#release(r)
    r.checks.forEach((check, i) => {
      const amount = m.amounts[i]! - (r.booked?.[i] ?? 0)
      add(this.settled, slotOf(check), amount)
      const excess = Math.max(0, amount - (was === 'open' ? r.held[i]! : 0))
      add(this.excess, slotOf(check), excess)
      // Ceilings hold because nothing uses more than it holds: only the upstream itself may break that.
      if (excess > 0 && was === 'open' && !this.#world.servesUnheld() && this.#world.upstream.truths.get(m.id)?.excessive !== true && refuses(check)) {
        this.#violate(1, `${m.id} held ${r.held[i]} and used ${amount} of ${slotOf(check)}, though its upstream kept to its bound`)
      }
    })
    r.state = 'settled'
    this.reservations.set(m.id, r)
    this.#record(r, record, 'overruns' in answer ? answer.overruns : [])
  }

  #void(m: Void): void {
    const r = this.reservations.get(m.id)
    if (r === undefined) {
      this.reservations.set(m.id, { id: m.id, checks: [], state: 'voided', held: [], booked: null, counted: null, checkpoint: 0, records: [] })
      return
    }
    if (r.state !== 'open') this.#violate(2, `${m.id} was ${r.state} and is voided`)
    this.#release(r)
    r.state = 'voided'
  }

  #expire(m: Expire, record: OutboxRecord | null): void {
    const r = this.reservations.get(m.id)
    if (r === undefined || r.state !== 'open') return this.#violate(2, `${m.id} expired and was not open`)
    const amounts = r.counted ?? r.booked ?? r.held.map(() => 0)
    this.#release(r)
    r.checks.forEach((check, i) => {
      const amount = amounts[i]! - (r.booked?.[i] ?? 0)
      add(this.settled, slotOf(check), amount)
      add(this.excess, slotOf(check), Math.max(0, amount - r.held[i]!))
    })
    r.booked = [...amounts]
    r.state = 'expired'
    this.#record(r, record, record?.overruns ?? [])
  }

  #release(r: Reservation): void {
    if (r.state !== 'open') return
    r.checks.forEach((check, i) => add(this.pending, slotOf(check), -r.held[i]!))
  }

  #record(r: Reservation, record: OutboxRecord | null, overruns: readonly Draw[]): void {
    if (record === null) return this.#violate(3, `${r.id} was booked without an event`)
    if (record.correction !== r.records.length) this.#violate(2, `the ${r.records.length}th event of ${r.id} is numbered ${record.correction}`)
    r.records.push(record.correction)
    for (const { bucket, amount } of overruns) {
      const check = r.checks.find((one) => one.ceilings.some(({ buckets }) => buckets.some(({ name }) => name === bucket)))
      if (check === undefined) this.#violate(1, `an overrun of ${r.id} names the unknown bucket ${bucket}`)
      else add(this.recorded, slotOf(check), amount)
    }
  }

  // === Checking, after every step ===

  #verify(one: Observed, ledger: Ledger): void {
    const checks = one.kind === 'reserve' || one.kind === 'settle' ? one.move.checks : this.reservations.get(one.move.id)?.checks ?? []
    const balances = ledger.balances(checks)
    const refused = one.kind === 'reserve' && one.step.answer.outcome !== 'admitted'
    checks.forEach((check, i) => this.#same(check, balances[i]!, refused ? 6 : 3, one))
    if ('balances' in one.step.answer) one.step.answer.balances.forEach((balance, i) => this.#same(checks[i]!, balance, refused ? 6 : 3, one))
    if (one.step.effect === null) {
      if (one.kind === 'reserve' && one.step.answer.outcome === 'denied') this.#deniedForAReason(one.move)
      return
    }
    const raising = one.kind === 'reserve' ? one.move.checks : one.kind === 'extend' ? one.move.checks ?? [] : []
    const held = this.reservations.get(one.move.id)?.held ?? []
    for (const [i, check] of raising.entries()) if (held[i]! > 0) this.#holds(check, one, one.kind === 'reserve')
    for (const check of checks) {
      this.#holds(check, one, false)
      if (one.kind === 'settle' || one.kind === 'expire') this.#overrunsAreTold(check, one.move.id)
    }
  }

  #same(check: Check, balance: Balance, invariant: number, one: Observed): void {
    const { used, reserved } = this.#use(check)
    if (balance.used !== used || balance.reserved !== reserved) {
      this.#violate(invariant, `after ${one.kind} of ${one.move.id} (${one.step.answer.outcome}) ${slotOf(check)} is at ${balance.used} used and ${balance.reserved} reserved, and should be at ${used} and ${reserved}`)
    }
  }

  /** Use and pending of every window are below every refusing ceiling. `now`: the ceilings of this very moment; else the highest they have ever been. */
  #holds(check: Check, one: Observed, now: boolean): void {
    for (const window of windowsOf(check)) {
      const use = this.#sum(this.settled, window) + this.#sum(this.pending, window)
      const excess = this.#sum(this.excess, window)
      for (const ceiling of check.ceilings) {
        if (!ceiling.refuses) continue
        const most = now && ceiling.buckets.length === 1 ? totalOf(ceiling) : this.highest.get(ceiling.limit) ?? null
        // What is over the ceiling already was not let in by this move.
        const allowed = now && ceiling.buckets.length === 1 ? 0 : excess
        if (most !== null && use > most + allowed) {
          this.#violate(1, `after ${one.kind} of ${one.move.id} the limit ${ceiling.limit} of ${most} is at ${use} (${excess} beyond what was held): ${window.join(' ')}`)
        }
      }
    }
  }

  /** More settled than every ceiling is told as an overrun, never in silence. */
  #overrunsAreTold(check: Check, id: string): void {
    const ceiling = check.ceilings.find((candidate) => candidate.refuses)
    if (ceiling === undefined || this.#world.edits > 0) return
    const most = totalOf(ceiling)
    // A settlement does not look at windows that have begun since its reservation: of those, the record may be short.
    if (check.slots.length > 1 || most === null) return
    const over = this.#sum(this.settled, check.slots) - most
    const recorded = this.#sum(this.recorded, check.slots)
    if (over > recorded) this.#violate(1, `after ${id} the limit ${ceiling.limit} of ${most} is settled ${over} beyond, of which ${recorded} were recorded as overrun`)
  }

  #deniedForAReason(m: Reserve): void {
    const fits = m.checks.every((check) => {
      const need = check.fixed + check.perUnit * (check.clampable ? m.uMin : m.uMax)
      const { used, reserved } = this.#use(check)
      const use = used + reserved
      return check.ceilings.every((ceiling) => {
        const most = totalOf(ceiling)
        return !ceiling.refuses || most === null || need === 0 || use + need <= most
      })
    })
    // Later buckets can be drawn though an edit has lowered the first: only ceilings of one bucket are told by their sum.
    if (fits && m.checks.every((check) => check.ceilings.every((ceiling) => ceiling.buckets.length === 1))) this.#violate(6, `${m.id} was denied, and would have fitted`)
  }

  /** Every counter of the ledger is the books' own. */
  compare(ledger: Ledger): void {
    for (const line of ledger.dump()) {
      const row = JSON.parse(line) as [string, string, number, number]
      if (row[0] !== 'c' || row[1].endsWith('|overdraft')) continue
      const [, name, settled, pending] = row
      if (settled !== (this.settled.get(name) ?? 0)) this.#violate(3, `${name} is at ${settled}, and ${this.settled.get(name) ?? 0} was settled`)
      if (pending !== (this.pending.get(name) ?? 0)) this.#violate(5, `${name} holds ${pending}, and ${this.pending.get(name) ?? 0} is reserved`)
    }
  }

  #noteCeilings(check: Check): void {
    for (const ceiling of check.ceilings) {
      const total = totalOf(ceiling)
      const known = this.highest.get(ceiling.limit)
      if (known === undefined) this.highest.set(ceiling.limit, total)
      else if (known !== null) this.highest.set(ceiling.limit, total === null ? null : Math.max(known, total))
    }
  }

  // === What callers may be told ===

  #tell(one: Observed): void {
    if ((one.kind !== 'reserve' && one.kind !== 'settle') || !('balances' in one.step.answer)) return
    const standing = this.#standingOf(one.kind, one.move.checks)
    const known = this.standings.get(one.move.id)
    if (known === undefined) this.standings.set(one.move.id, [standing])
    else known.push(standing)
    if (one.step.answer.outcome === 'denied') this.loose.push(standing)
  }

  #standingOf(of: Standing['of'], checks: readonly Check[]): Standing {
    const remaining = new Map<string, number>()
    const limits = limitsOf(this.#world.config)
    for (const check of checks) {
      const { used, reserved } = this.#use(check)
      const use = used + reserved
      for (const ceiling of check.ceilings) {
        const [allowance] = ceiling.buckets
        const limit = limits.get(ceiling.limit)
        if (limit === undefined || allowance === undefined || allowance.ceiling === null) continue
        remaining.set(ceiling.limit, Math.max(0, Math.floor((allowance.ceiling - use) / meterScale(limit.meter))))
      }
    }
    return { of, atMs: this.#world.timeline.nowMs, remaining }
  }

  /** Of the fullest window. */
  #use(check: Check): { used: number; reserved: number } {
    let use = { used: 0, reserved: 0 }
    for (const window of windowsOf(check)) {
      const used = this.#sum(this.settled, window)
      const reserved = this.#sum(this.pending, window)
      if (used + reserved > use.used + use.reserved) use = { used, reserved }
    }
    return use
  }

  #sum(map: ReadonlyMap<string, number>, slots: readonly string[]): number {
    let sum = 0
    for (const slot of slots) sum += map.get(slot) ?? 0
    return sum
  }

  #violate(invariant: number, what: string): void {
    this.#world.violate(invariant, what)
  }
}

function add(map: Map<string, number>, name: string, amount: number): void {
  map.set(name, (map.get(name) ?? 0) + amount)
}

function slotOf(check: Check): string {
  return check.slots[check.at] ?? ''
}

/** Every run of `span` neighbouring slots that contains the admission's. */
function windowsOf(check: Check): string[][] {
  const windows: string[][] = []
  for (let first = Math.max(0, check.at - check.span + 1); first <= check.at && first <= Math.max(0, check.slots.length - check.span); first++) {
    windows.push(check.slots.slice(first, first + check.span))
  }
  return windows
}

export function totalOf(ceiling: Ceiling): number | null {
  let sum = 0
  for (const bucket of ceiling.buckets) {
    if (bucket.ceiling === null) return null
    sum += bucket.ceiling
  }
  return sum
}

function refuses(check: Check): boolean {
  return check.ceilings.some((ceiling) => ceiling.refuses)
}

function risen(before: readonly number[] | null, now: readonly number[] | null): number[] | null {
  if (before === null || now === null) return now === null ? (before === null ? null : [...before]) : [...now]
  return before.map((amount, i) => Math.max(amount, now[i]!))
}

function amountsText(one: Observed): string {
  switch (one.kind) {
    case 'reserve': return ` u ${one.move.uMin}..${one.move.uMax} ${one.move.checks.map((check) => `${check.fixed}+${check.perUnit}u`).join(' ')}`
    case 'extend': return ` #${one.move.checkpoint}${one.move.checks === null ? '' : ` ${one.move.checks.map((check) => check.fixed).join(' ')}`}`
    case 'settle': return ` ${one.move.event.end} ${one.move.amounts.join(' ')}`
    default: return ''
  }
}

function answerText(one: Observed): string {
  const { answer } = one.step
  const u = 'u' in answer ? ` u ${answer.u}` : ''
  const why = 'refusals' in answer ? ` ${answer.refusals.map(({ limit, why }) => `${limit} ${why}`).join(', ')}` : ''
  const standing = 'balances' in answer ? ` [${answer.balances.map(({ used, reserved, room }) => `${used}+${reserved} of ${room === null ? '∞' : used + reserved + room}`).join(' ')}]` : ''
  return `${answer.outcome}${u}${why}${standing}`
}
