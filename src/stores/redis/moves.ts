import { assert } from '../../assert.ts'
import type { Balance, Bucket, Check } from '../../metering/check.ts'
import { digestOf } from '../../metering/ledger.ts'
import type { Quantities } from '../../metering/meter.ts'
import type {
  CheckRefusal, Draw, Expire, ExpireAnswer, Extend, ExtendAnswer, PendingReservation, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../metering/moves.ts'
import { balanceOf, drawnCeiling, NOTHING, slotOf, type Use } from '../../metering/standing.ts'
import { fromUsageText, toUsageText } from './event-record.ts'
import type { KeyNames } from './keys.ts'

/**
 * Moves as the scripts read them, and the scripts' answers as moves are answered: one writer and one reader for each move. The layouts are described where
 * the scripts take them apart (lua/admit.lua, lua/finish.lua).
 */

/** The reservation is not what the caller took it for: the move is to be sent again with what the store said. */
export class Again {
  /** Names of the counters that the reservation holds; null: read the reservation first. */
  readonly slots: readonly string[] | null
  constructor(slots: readonly string[] | null) {
    this.slots = slots
  }
}

/** The partition's counts are not those that this process knew: lost, or made anew. Nothing was done. */
export class EpochLost {}

/** Keys live on past the instant from which they cannot matter by this: a server's clock that jumps must not change an answer. */
export const MARGIN_MS = 3_600_000
const SHORTEST_MS = 1_000

export interface MoveRules {
  readonly keys: KeyNames
  readonly epoch: () => string
  readonly forgetAfterMs: number
  readonly timeOf: (id: string) => number
}

/** One script call in the making: keys without repetition, and the moves one after the other. */
export class MoveBatch {
  readonly #rules: MoveRules
  readonly #plain: string[] = []
  readonly #others: string[] = []
  readonly #at = new Map<string, number>()
  readonly #args: string[] = []
  moves = 0

  constructor(rules: MoveRules) {
    this.#rules = rules
  }

  get keyCount(): number {
    return this.#plain.length + this.#others.length
  }

  keys(): string[] {
    return [...this.#plain, ...this.#others]
  }

  args(): string[] {
    return [this.#rules.epoch(), String(this.#plain.length), ...this.#args]
  }

  reserve(m: Reserve): void {
    const { keys } = this.#rules
    const p = keys.partitionOf(m.home)
    const checks = this.#checks(p, m.checks, m.nowMs, false)
    this.#add(
      ['reserve', this.#key(keys.epoch(p)), this.#key(keys.reservation(p, m.id)), this.#other(keys.due(p)), m.id, m.deadlineMs, m.uMin, m.uMax, this.#forgotten(m.id, m.nowMs), checks],
      slotsText(m.checks), linesText(m.checks), JSON.stringify(m.skeleton), lineOf(m.home),
    )
  }

  extend(m: Extend, told: readonly string[] | null): void {
    const { keys } = this.#rules
    const p = keys.partitionOf(m.home)
    const checks = m.checks === null ? null : this.#checks(p, m.checks, m.nowMs, false)
    this.#add(
      ['extend', this.#key(keys.epoch(p)), this.#key(keys.reservation(p, m.id)), this.#other(keys.due(p)), m.id, m.checkpoint, m.deadlineMs, m.counted?.amounts ?? null, checks, this.#slots(p, told)],
      m.checks === null ? '' : slotsText(m.checks), m.counted === null ? '' : toUsageText(m.counted.usage),
    )
  }

  settle(m: Settle, told: readonly string[] | null): void {
    assert(m.amounts.length === m.checks.length, 'one amount per check')
    for (const amount of m.amounts) assert(Number.isSafeInteger(amount) && amount >= 0, 'amounts are integers of 0 and more')
    const { keys } = this.#rules
    const p = keys.partitionOf(m.home)
    const checks = this.#checks(p, m.checks, m.nowMs, true)
    this.#add(
      ['settle', this.#key(keys.epoch(p)), this.#key(keys.reservation(p, m.id)), this.#other(keys.due(p)), this.#key(keys.lastEvent(p)), this.#other(keys.events(p)), m.id, m.nowMs,
        this.#forgotten(m.id, m.nowMs), checks, m.amounts, this.#slots(p, told), this.#closedMs(m.id, m.nowMs)],
      slotsText(m.checks), digestOf(m.amounts, m.usage), toUsageText(m.usage), JSON.stringify(m.event),
    )
  }

  /** `own`: the counters that this process remembers the reservation to hold; null: it knows of none. */
  void(m: Void, own: readonly string[] | null, told: readonly string[] | null): void {
    const { keys } = this.#rules
    const p = keys.partitionOf(m.home)
    this.#add(
      ['void', this.#key(keys.epoch(p)), this.#key(keys.reservation(p, m.id)), this.#other(keys.due(p)), m.id, this.#forgotten(m.id, m.nowMs), this.#slots(p, own), this.#slots(p, told), this.#closedMs(m.id, m.nowMs)],
      own === null ? '' : JSON.stringify(own),
    )
  }

  /** `lines`: the reservation's, as it was read; null: it is not there, or no longer open. */
  expire(m: Expire, lines: string | null): void {
    const { keys } = this.#rules
    const p = keys.partitionOf(m.home)
    const parsed = lines === null ? [] : (JSON.parse(lines) as readonly StoredLine[]).map(([slot, ends, buckets, beyond, alongside]) => [
      this.#counter(p, slot), this.#buckets(p, buckets.map(([name, ceiling, counter, ...own]) => (own.length === 0 ? { name, ceiling, counter } : { name, ceiling, counter, endsMs: own[0] })), true, m.nowMs),
      this.#lifeMs(ends, m.nowMs), ...(beyond === undefined ? [] : [this.#counter(p, beyond), (alongside ?? []).map((one) => this.#counter(p, one))]),
    ])
    this.#add(
      ['expire', this.#key(keys.epoch(p)), this.#key(keys.reservation(p, m.id)), this.#other(keys.due(p)), this.#key(keys.lastEvent(p)), this.#other(keys.events(p)), m.id, m.nowMs,
        m.checkpoint, parsed, this.#closedMs(m.id, m.nowMs)],
      lines ?? '',
    )
  }

  #add(move: readonly unknown[], ...texts: readonly string[]): void {
    this.#args.push(JSON.stringify(move), ...texts)
    this.moves += 1
  }

  #key(name: string): number {
    let at = this.#at.get(name)
    if (at === undefined) this.#at.set(name, at = this.#plain.push(name))
    return at
  }

  #other(name: string): number {
    let at = this.#at.get(name)
    if (at === undefined) this.#at.set(name, at = this.#others.push(name))
    return at
  }

  /** Settled, and right behind it pending; the place of settled stands for both. */
  #counter(p: number, name: string): number {
    const { keys } = this.#rules
    const settled = keys.settled(p, name)
    let at = this.#at.get(settled)
    if (at === undefined) {
      this.#at.set(settled, at = this.#plain.push(settled))
      this.#plain.push(keys.held(p, name))
    }
    return at
  }

  #slots(p: number, names: readonly string[] | null): number[] | null {
    return names === null ? null : names.map((name) => this.#counter(p, name))
  }

  #checks(p: number, checks: readonly Check[], nowMs: number, named: boolean): unknown[] {
    return checks.map((check) => {
      const slots = check.slots.map((slot) => this.#counter(p, slot))
      const first = slots[0]!
      const sideBySide = slots.every((slot, i) => slot === first + 2 * i)
      const line: unknown[] = [
        first, slots.length, check.at + 1, check.span, check.fixed, check.perUnit, check.clampable ? 1 : 0,
        check.ceilings.map(({ refuses, buckets, beyond }) => [refuses ? 1 : 0, this.#buckets(p, buckets, named, nowMs), ...(beyond === undefined ? [] : [this.#counter(p, beyond)])]),
        this.#lifeMs(check.endsMs, nowMs),
      ]
      if (check.alongside !== undefined || !sideBySide) line.push(check.alongside?.map((slot) => this.#counter(p, slot)) ?? false)
      if (!sideBySide) line.push(slots)
      return line
    })
  }

  #buckets(p: number, buckets: readonly Bucket[], named: boolean, nowMs: number): unknown[] {
    return buckets.map(({ name, ceiling, counter, endsMs }) => {
      const key = counter === null ? 0 : this.#counter(p, counter)
      if (endsMs !== undefined) return [ceiling ?? -1, key, named ? JSON.stringify(name) : 0, this.#lifeMs(endsMs, nowMs)]
      return named ? [ceiling ?? -1, key, JSON.stringify(name)] : [ceiling ?? -1, key]
    })
  }

  /** How long a counter is kept from now on; 0: for ever. */
  #lifeMs(endsMs: number | null, nowMs: number): number {
    return endsMs === null ? 0 : Math.max(SHORTEST_MS, Math.ceil(endsMs + this.#rules.forgetAfterMs + MARGIN_MS - nowMs))
  }

  #closedMs(id: string, nowMs: number): number {
    return Math.max(SHORTEST_MS, Math.ceil(this.#rules.timeOf(id) + this.#rules.forgetAfterMs + MARGIN_MS - nowMs))
  }

  #forgotten(id: string, nowMs: number): 0 | 1 {
    return this.#rules.timeOf(id) + this.#rules.forgetAfterMs < nowMs ? 1 : 0
  }
}

// === Answers ===

export type Unmade = Again | EpochLost

export function toReserveAnswer(text: string, { checks }: Reserve): ReserveAnswer | Unmade {
  const [outcome, first = '', second = '', third = ''] = text.split('\n')
  switch (outcome) {
    case 'admitted': {
      const shadowed = list(second).map((one) => {
        const [check, ceiling] = one.split('.').map(Number)
        return checks[check!]!.ceilings[ceiling!]!.limit
      })
      return { outcome, u: Number(first), balances: toBalances(third, checks), shadowed }
    }
    case 'denied': return { outcome, refusals: toRefusals(first, checks), balances: toBalances(second, checks) }
    case 'already_voided': case 'already_settled': case 'expired': case 'too_old': return { outcome }
    default: return unmade(text)
  }
}

export function toExtendAnswer(text: string, { checks }: Extend): ExtendAnswer | Unmade {
  const [outcome, first = ''] = text.split('\n')
  switch (outcome) {
    case 'denied': return { outcome, refusals: toRefusals(first, checks ?? []) }
    case 'extended': case 'revived': case 'expired': case 'already_settled': case 'already_voided': case 'unknown': return { outcome }
    default: return unmade(text)
  }
}

export function toSettleAnswer(text: string, { checks }: Settle): SettleAnswer | Unmade {
  const [outcome, drawn = '[]', overruns = '[]', standing = ''] = text.split('\n')
  switch (outcome) {
    case 'settled': case 'settled_unheld': case 'settled_late':
      return { outcome, drawn: JSON.parse(drawn) as Draw[], overruns: JSON.parse(overruns) as Draw[], balances: toBalances(standing, checks) }
    case 'already_settled': case 'differs': case 'already_voided': case 'quarantined': return { outcome }
    default: return unmade(text)
  }
}

export function toVoidAnswer(text: string): VoidAnswer | Unmade {
  switch (text) {
    case 'voided': case 'already_voided': case 'already_settled': case 'expired': return { outcome: text }
    default: return unmade(text)
  }
}

export function toExpireAnswer(text: string): ExpireAnswer | Unmade {
  switch (text) {
    case 'expired': case 'freed': case 'not_due': case 'unknown': return { outcome: text }
    default: return unmade(text)
  }
}

function unmade(text: string): { readonly outcome: 'broken' } | Unmade {
  const [outcome, rest] = text.split('\n')
  if (outcome === 'again') return rest === undefined ? new Again(null) : toldSlots(rest)
  if (outcome === 'epoch') return new EpochLost()
  return { outcome: 'broken' }
}

function toldSlots(text: string): Again | { readonly outcome: 'broken' } {
  try {
    const slots = JSON.parse(text) as unknown
    return Array.isArray(slots) && slots.every((slot) => typeof slot === 'string') ? new Again(slots) : { outcome: 'broken' }
  } catch {
    return { outcome: 'broken' }
  }
}

function toRefusals(text: string, checks: readonly Check[]): CheckRefusal[] {
  return list(text).map((one) => {
    const [check, ceiling, why] = one.split('.')
    const index = Number(check)
    return { check: index, limit: checks[index]!.ceilings[Number(ceiling)]!.limit, why: why === 'u' ? 'used_up' : 'held' }
  })
}

function list(text: string): string[] {
  return text === '' ? [] : text.split(',')
}

/** Out of the list that the scripts make (lua/books.lua, standingOf). */
export function toBalances(text: string, checks: readonly Check[]): Balance[] {
  const values = text.split(' ')
  let at = 0
  return checks.map((check) => {
    const { slots } = check
    const known = new Map<string, Use>()
    const inUse = slots.length === 1 ? 1 : Number(values[at++])
    for (let i = 0; i < inUse; i++) {
      const slot = slots.length === 1 ? 0 : Number(values[at++])
      known.set(slots[slot]!, { settled: Number(values[at++]), pending: Number(values[at++]) })
    }
    for (const slot of check.alongside ?? []) known.set(slot, { settled: 0, pending: Number(values[at++]) })
    for (const { buckets, beyond } of check.ceilings) {
      if (beyond !== undefined) known.set(beyond, { settled: Number(values[at++]), pending: 0 })
      for (let i = 1; i < buckets.length; i++) known.set(buckets[i]!.counter!, { settled: Number(values[at++]), pending: 0 })
    }
    return balanceOf(check, (name) => known.get(name) ?? NOTHING)
  })
}

/** The keys of all counters that balances are made of: settled and pending of each slot, pending of those alongside, then settled beyond and of each later bucket. */
export function standingKeys(keys: KeyNames, partition: number, checks: readonly Check[]): string[] {
  return checks.flatMap((check) => [
    ...check.slots.flatMap((slot) => [keys.settled(partition, slot), keys.held(partition, slot)]),
    ...(check.alongside ?? []).map((slot) => keys.held(partition, slot)),
    ...check.ceilings.flatMap(({ buckets, beyond }) => [
      ...(beyond === undefined ? [] : [keys.settled(partition, beyond)]), ...buckets.slice(1).map((bucket) => keys.settled(partition, bucket.counter!)),
    ]),
  ])
}

/** Balances out of the values of `standingKeys`. */
export function fromStandingValues(values: readonly (string | null)[], checks: readonly Check[]): Balance[] {
  let at = 0
  const next = (): number => Number(values[at++] ?? 0)
  return checks.map((check) => {
    const known = new Map<string, Use>()
    for (const slot of check.slots) known.set(slot, { settled: next(), pending: next() })
    for (const slot of check.alongside ?? []) known.set(slot, { settled: 0, pending: next() })
    for (const { buckets, beyond } of check.ceilings) {
      if (beyond !== undefined) known.set(beyond, { settled: next(), pending: 0 })
      for (const bucket of buckets.slice(1)) known.set(bucket.counter!, { settled: next(), pending: 0 })
    }
    return balanceOf(check, (name) => known.get(name) ?? NOTHING)
  })
}

// === Reservations ===

/** Name, ceiling, counter; and the counter's own end, where the bucket outlives the period. */
type StoredBucket = readonly [string, number | null, string | null] | readonly [string, number | null, string | null, number | null]
/** Slot, end of its window, and the buckets that are drawn; where there are grants also their counter of this period, and the neighbouring periods' slots. */
type StoredLine = readonly [slot: string, ends: number | null, buckets: readonly StoredBucket[], beyond?: string, alongside?: readonly string[]]

/** The counters that a reservation's checks hold, as it keeps them. */
export function slotsOf(checks: readonly Check[]): string[] {
  return checks.map(slotOf)
}

function slotsText(checks: readonly Check[]): string {
  return JSON.stringify(slotsOf(checks))
}

function linesText(checks: readonly Check[]): string {
  return JSON.stringify(checks.map((check): StoredLine => {
    const { buckets, beyond } = drawnCeiling(check)
    const stored = buckets.map(({ name, ceiling, counter, endsMs }): StoredBucket => (endsMs === undefined ? [name, ceiling, counter] : [name, ceiling, counter, endsMs]))
    return beyond === undefined ? [slotOf(check), check.endsMs, stored] : [slotOf(check), check.endsMs, stored, beyond, check.alongside ?? []]
  }))
}

export interface StoredReservation {
  readonly state: 'open' | 'expired' | 'settled' | 'voided'
  readonly home: string
  readonly deadlineMs: number
  readonly checkpoint: number
  readonly held: readonly number[]
  readonly counted: { readonly amounts: readonly number[]; readonly usage: Quantities } | null
  readonly slots: readonly string[]
  readonly lines: string
}

/** A reservation's text; null: not one of this release. */
export function toReservation(text: string): StoredReservation | null {
  const f = text.split('\n')
  const state = ({ '1O': 'open', '1E': 'expired', '1S': 'settled', '1V': 'voided' } as const)[f[0] ?? '']
  if (state === undefined) return null
  if (state === 'settled' || state === 'voided') return { state, home: '', deadlineMs: 0, checkpoint: 0, held: [], counted: null, slots: [], lines: '[]' }
  if (f.length < 14) return null
  try {
    const slots = JSON.parse(f[11]!) as unknown
    const lines = JSON.parse(f[12]!) as unknown
    if (!Array.isArray(slots) || !Array.isArray(lines) || !lines.every((line) => Array.isArray(line) && Array.isArray(line[2]))) return null
    return {
      state, home: f[1]!, deadlineMs: Number(f[3]), checkpoint: Number(f[4]), held: list(f[5]!).map(Number),
      counted: f[6] === '-' ? null : { amounts: list(f[6]!).map(Number), usage: fromUsageText(f[7]!) },
      slots: slots as string[], lines: f[12]!,
    }
  } catch {
    // Its fields are no JSON, or its usage is none.
    return null
  }
}

/** An open reservation's text; null: it is not open, or not one of this release. */
export function toPending(id: string, text: string): PendingReservation | null {
  const stored = toReservation(text)
  const skeleton = text.split('\n')[13]
  if (stored === null || stored.state !== 'open' || skeleton === undefined) return null
  const { home, deadlineMs, held, slots } = stored
  return {
    id, home, deadlineMs, u: Number(text.split('\n')[2]), held: slots.map((counter, i) => ({ counter, amount: held[i] ?? 0 })), skeleton: JSON.parse(skeleton) as PendingReservation['skeleton'],
  }
}

function lineOf(text: string): string {
  assert(!text.includes('\n'), 'one line')
  return text
}
