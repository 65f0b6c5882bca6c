import type { Clock } from '../clock.ts'
import { GatewayError } from '../errors.ts'
import { encoded } from '../metering/limits/counter.ts'
import { isSeats, seatCheck } from '../metering/limits/concurrency.ts'
import type { Balance, Check } from '../metering/check.ts'
import { exchangeId, timeOfId } from '../metering/id.ts'
import type { AppliedLimit } from '../metering/limits/limit.ts'
import { seatRefusal } from '../metering/quota.ts'
import type { Random } from '../random.ts'
import type { Store } from '../stores/store.ts'
import { skeletonOf } from './books.ts'
import { admitted, type Exchange } from './exchange.ts'
import type { Lease, Living } from './lease.ts'

export interface SeatParts {
  readonly store: Store
  readonly clock: Clock
  readonly random: Random
  readonly lease: Lease
  /** How long an open reservation outlives its gateway's last sign of life. */
  readonly leaseMs: number
  /** How long admission waits for the store. */
  readonly patienceMs: number
}

type Document = Readonly<Record<string, unknown>>

/** A seat as this gateway knows it. Other replicas may share it. */
export interface Seat extends Living {
  /** The counter of the seats, and who holds this one. */
  readonly name: string
  readonly counter: string
  readonly lingerMs: number
  /** It is the holder's until then at least; another replica may have made it later. */
  deadlineMs: number
  /** Calls of this gateway that run on it. */
  calls: number
}

/** One that is wanted: what it is counted against, and for whom. */
interface Wanted {
  readonly name: string
  readonly home: string
  readonly check: Check
  readonly lingerMs: number
  readonly x: Exchange
}

type Taken = { readonly seat: Seat; /** With this seat; null: it was known here already. */ readonly balance: Balance | null; readonly shadowed: readonly string[] }
type Refused = { readonly balance: Balance }

/** Documents by counter and holder: which reservation is his seat. */
const kind = 'seat'
const tries = 8
/** A refusal is remembered for a moment, so that who is refused and tries again at once costs nothing. */
const refusedMs = 500
const retryMinMs = 1_000
const retryMaxMs = 60_000
const tidyEveryMs = 600_000
/** A document is not looked at before: who wrote it may be about to make its reservation. */
const youngMs = 3_600_000

/**
 * Seats: at most so many distinct holders at once, each for as long as calls of his run and at least the linger after. A seat is a reservation of its own. Which
 * one is a holder's stands in a document that is written first; then every replica that reads it may make that reservation, for the same one again holds nothing
 * more. So a holder has one seat over all replicas, at every instant, and never two. A seat ends by its deadline alone, which is moved on for all who share it by
 * whoever finds less than the linger left; so most calls ask the store nothing.
 */
export class Seats {
  readonly #parts: SeatParts
  readonly #held = new Map<string, Seat>()
  /** Calls of one holder that come together wait for one answer. */
  readonly #opening = new Map<string, Promise<Taken | Refused>>()
  readonly #refused = new Map<string, { readonly balance: Balance; readonly untilMs: number }>()
  readonly #stop: () => void
  #untidy = false

  constructor(parts: SeatParts) {
    this.#parts = parts
    this.#stop = parts.clock.every(tidyEveryMs, () => { void this.tidy() })
  }

  close(): void {
    this.#stop()
  }

  /** Takes every seat that the admitted call needs. Throws the refusal; then the exchange holds those that it has got until `leave`. Rejects with StoreUnavailable. */
  async take(x: Exchange): Promise<void> {
    const { draft } = x
    if (draft === null) return
    for (const [index, check] of draft.checks.entries()) {
      const applied = draft.appliedByCheck[index] ?? []
      const [first] = applied
      if (first === undefined || !isSeats(first.limit)) continue
      const taken = await this.#take(wantedOf(x, check, applied))
      if (taken !== null && 'seat' in taken) {
        const { seat } = taken
        seat.calls += 1
        if (seat.calls === 1) this.#parts.lease.add(seat)
        x.seats.push(seat)
        x.shadowed = [...x.shadowed, ...taken.shadowed]
      }
      if (taken.balance !== null && x.balances !== null) x.balances = x.balances.with(index, taken.balance)
      if (!('seat' in taken)) throw this.#refusal(x, check, applied, taken.balance)
    }
  }

  /** The exchange is over. */
  leave(x: Exchange): void {
    for (const seat of x.seats.splice(0)) {
      seat.calls -= 1
      if (seat.calls > 0) continue
      this.#parts.lease.remove(seat)
      const nowMs = this.#parts.clock.nowMs()
      // What is lost with the store away is only a part of the linger.
      if (this.#held.get(seat.name) === seat && seat.deadlineMs - nowMs < seat.lingerMs) this.#renew(seat, nowMs).catch(() => undefined)
    }
  }

  /** Forgets what has ended: here, and documents of seats that are no more. */
  async tidy(): Promise<void> {
    const { store, clock } = this.#parts
    const nowMs = clock.nowMs()
    for (const [name, seat] of this.#held) if (seat.calls === 0 && seat.deadlineMs < nowMs) this.#held.delete(name)
    for (const [name, { untilMs }] of this.#refused) if (untilMs < nowMs) this.#refused.delete(name)
    if (!this.#untidy) return
    this.#untidy = this.#held.size > 0
    try {
      for (const { id, value } of await store.records.list(kind)) {
        const { reservation, home } = value
        if (typeof reservation !== 'string' || typeof home !== 'string' || timeOfId(reservation) > nowMs - youngMs) continue
        // An old checkpoint changes nothing: it only asks whether it is there.
        const { outcome } = await store.extend({ id: reservation, nowMs, home, checkpoint: 0, deadlineMs: 0, counted: null, checks: null })
        if (outcome === 'extended') this.#untidy = true
        else if (outcome !== 'broken') await store.records.delete(kind, id, value)
      }
    } catch {
      // The store is away; there is another time.
      this.#untidy = true
    }
  }

  #take(wanted: Wanted): Promise<Taken | Refused> {
    const { name, home, lingerMs, check } = wanted
    const nowMs = this.#parts.clock.nowMs()
    const seat = this.#held.get(name)
    if (seat !== undefined && seat.home === home && seat.deadlineMs - nowMs >= lingerMs) return Promise.resolve({ seat, balance: null, shadowed: [] })
    const refused = this.#refused.get(roomOf(check))
    if (seat === undefined && refused !== undefined && refused.untilMs > nowMs) return Promise.resolve(refused)
    const opening = this.#opening.get(name)
    if (opening !== undefined) return opening
    const opened = this.#inTime(this.#open(wanted)).finally(() => this.#opening.delete(name))
    this.#opening.set(name, opened)
    return opened
  }

  async #open(wanted: Wanted): Promise<Taken | Refused> {
    const { name, home, check } = wanted
    const { store, clock, random } = this.#parts
    const known = this.#held.get(name)
    if (known !== undefined && known.home === home && await this.#renew(known, clock.nowMs())) return { seat: known, balance: null, shadowed: [] }
    this.#untidy = true
    let found = await store.records.get(kind, name)
    for (let attempt = 0; attempt < tries; attempt++) {
      let id = reservationIn(found, home)
      const isNew = id === null
      if (id === null) {
        id = exchangeId(clock.nowMs(), random.bytes(10))
        const written = { reservation: id, home }
        if (!await store.records.swap(kind, name, found, written)) {
          found = await store.records.get(kind, name)
          continue
        }
        found = written
      }
      const nowMs = clock.nowMs()
      const deadlineMs = this.#deadlineMs(wanted, nowMs)
      const answer = await store.reserve({ id, nowMs, home, checks: [seatCheck(check)], uMin: 0, uMax: 0, deadlineMs, skeleton: { seat: true, ...skeletonOf(wanted.x) } })
      if (answer.outcome === 'broken') throw new Error('the reservation of a seat is damaged')
      if (answer.outcome === 'denied') {
        const [balance = nobody] = answer.balances
        this.#refused.set(roomOf(check), { balance, untilMs: nowMs + refusedMs })
        return { balance }
      }
      if (answer.outcome === 'admitted') {
        const seat = this.#seat(wanted, id, deadlineMs)
        const [balance = nobody] = answer.balances
        // One that was there before has a deadline of its own.
        if (isNew || await this.#renew(seat, nowMs)) {
          this.#held.set(name, seat)
          return { seat, balance, shadowed: answer.shadowed }
        }
      }
      // It has ended meanwhile: another takes its place, of whoever is first to say so.
      const ended: Document | undefined = found
      const next = exchangeId(clock.nowMs(), random.bytes(10))
      found = await store.records.swap(kind, name, ended, { reservation: next, home }) ? { reservation: next, home } : await store.records.get(kind, name)
    }
    throw new Error('the seat changes faster than it can be taken')
  }

  #seat(wanted: Wanted, id: string, deadlineMs: number): Seat {
    const { name, home, lingerMs, check } = wanted
    const { clock } = this.#parts
    const seat: Seat = {
      name, id, home, lingerMs, deadlineMs, calls: 0, counter: check.slots[0] ?? '', place: -1,
      counted: () => null,
      // Replicas share the seat and the time: whoever's extend is later tells more.
      nextCheckpoint: () => Math.floor(clock.nowMs()),
      renewalMs: (nowMs) => (seat.deadlineMs - nowMs < Math.max(seat.lingerMs, this.#parts.leaseMs) ? this.#deadlineMs(seat, nowMs) : null),
      renewed: (untilMs) => { seat.deadlineMs = Math.max(seat.deadlineMs, untilMs) },
      lost: () => { if (this.#held.get(name) === seat) this.#held.delete(name) },
    }
    return seat
  }

  /** False: it has ended. */
  async #renew(seat: Seat, nowMs: number): Promise<boolean> {
    const deadlineMs = this.#deadlineMs(seat, nowMs)
    const { outcome } = await this.#parts.store.extend({ id: seat.id, nowMs, home: seat.home, checkpoint: seat.nextCheckpoint(), deadlineMs, counted: null, checks: null })
    if (outcome === 'extended') seat.renewed?.(deadlineMs)
    else seat.lost()
    return outcome === 'extended'
  }

  /** Further than the linger, so that not every call has to move it on. */
  #deadlineMs({ lingerMs }: Pick<Seat, 'lingerMs'>, nowMs: number): number {
    return nowMs + lingerMs + Math.max(lingerMs / 2, this.#parts.leaseMs)
  }

  #refusal(x: Exchange, check: Check, applied: readonly AppliedLimit[], balance: Balance): GatewayError {
    const nowMs = this.#parts.clock.nowMs()
    const counter = check.slots[0]
    let firstMs = Infinity
    for (const seat of this.#held.values()) {
      if (seat.counter === counter) firstMs = Math.min(firstMs, seat.calls > 0 ? nowMs + seat.lingerMs : seat.deadlineMs)
    }
    const waitMs = Math.min(retryMaxMs, Math.max(retryMinMs, firstMs - nowMs))
    const draft = x.draft
    const least = lowest(applied)
    if (draft === null || least === undefined) throw new Error('a seat is refused to nobody')
    return seatRefusal(draft, least, balance, waitMs, nowMs)
  }

  /** A store that does not answer must not be waited for: what it does yet is found the next time. */
  #inTime<T>(promise: Promise<T>): Promise<T> {
    const { clock, patienceMs } = this.#parts
    return new Promise((resolve, reject) => {
      const cancel = clock.after(patienceMs, () => reject(new GatewayError('metering_unavailable', unmetered, { source: 'store', cause: 'no seat was found in time' })), { unref: true })
      promise.then(resolve, reject).finally(cancel)
    })
  }
}

const unmetered = 'Usage cannot be metered at the moment. Please try again shortly.'
const nobody: Balance = Object.freeze({ used: 0, reserved: 0, room: null })

/** Of limits over the same seats the lower one refuses. */
function lowest(applied: readonly AppliedLimit[]): AppliedLimit | undefined {
  return applied.filter(({ limit }) => limit.mode === 'enforce').sort((a, b) => (a.limit.ceiling ?? Infinity) - (b.limit.ceiling ?? Infinity))[0]
}

function wantedOf(x: Exchange, check: Check, applied: readonly AppliedLimit[]): Wanted {
  const { principal } = admitted(x)
  const seatings = applied.map(({ limit: { window } }) => (window.kind === 'in_flight' ? window.seats : undefined)).filter((each) => each !== undefined)
  const user = seatings[0]?.holder === 'end_user' && x.endUser !== null ? `/${encoded(x.endUser)}` : ''
  return { x, check, home: principal.home, name: `${check.slots[0] ?? ''} ${encoded(principal.keyId)}${user}`, lingerMs: Math.max(...seatings.map(({ lingerMs }) => lingerMs)) }
}

/** Which seats, and how many: more of them are another matter at once. */
function roomOf({ slots, ceilings }: Check): string {
  return `${slots[0] ?? ''} ${ceilings.map(({ buckets }) => buckets[0]?.ceiling ?? '').join()}`
}

function reservationIn(document: Document | undefined, home: string): string | null {
  const reservation = document?.['reservation']
  return typeof reservation === 'string' && document?.['home'] === home ? reservation : null
}
