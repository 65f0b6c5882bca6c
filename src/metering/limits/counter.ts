import type { Bucket, Ceiling, Check } from '../check.ts'
import { burnDown, grantEndsMs, LOOKED_AT_LATE_MS } from '../grant.ts'
import type { Grant } from '../grant.ts'
import { meterName } from '../meter.ts'
import type { AppliedLimit, Limit, Overdraft } from './limit.ts'
import { windowTag } from './window.ts'

/**
 * Counters' names: scope | meter | selector | window | period. Never a limit's or a plan's name, so that renaming, upgrading or raising a limit
 * resets nothing. Variable parts are percent-encoded: whatever they hold, two counters never share a name.
 */

const plain = /^[A-Za-z0-9._~-]*$/
const special = /[^A-Za-z0-9._~-]/gu

/** Injective for every text, half surrogate pairs included, which a JSON body can hold. */
export function encoded(text: string): string {
  if (plain.test(text)) return text
  return text.replace(special, (character) => {
    if (!character.isWellFormed()) return `%u${character.charCodeAt(0).toString(16)}`
    const bytes = encodeURIComponent(character)
    return bytes === character ? `%${character.charCodeAt(0).toString(16).toUpperCase()}` : bytes
  })
}

/** What all counters of an applied limit begin with. Limits that have it in common share one check. */
export function counterBase(applied: AppliedLimit): string {
  const { meter, window } = applied.limit
  // A weighted meter is marked, so that one named like a builtin is not mistaken for it.
  const meterPart = meter.kind === 'builtin' ? meter.name : `=${encoded(meterName(meter))}`
  return `${applied.scope.id}|${meterPart}|${applied.selector}|${windowTag(window)}|`
}

/** The amount that an overdraft adds to a ceiling; null: without end. A percentage is rounded down. */
export function overdraftAmount(ceiling: number, overdraft: Overdraft): number | null {
  switch (overdraft.kind) {
    case 'none': return 0
    case 'absolute': return overdraft.amount
    case 'unlimited': return null
    case 'percentage': return Number(BigInt(ceiling) * BigInt(Math.round(overdraft.percent * 1_000)) / 100_000n)
  }
}

/** A limit's ceiling over a check: the allowance, then the overdraft. `slot` is the admission's counter; `spread`: the use is spread over several. */
export function ceilingOf(limit: Limit, slot: string, spread: boolean): Ceiling {
  const enforced = limit.mode === 'enforce'
  return { limit: limit.name, buckets: bucketsOf(limit, slot, spread), refuses: enforced && limit.ceiling !== null, visible: limit.visible && enforced }
}

function bucketsOf(limit: Limit, slot: string, spread: boolean): readonly Bucket[] {
  const allowance = limit.ceiling
  if (allowance === null) return [{ name: limit.name, ceiling: null, counter: null }]
  const overdraft = overdraftAmount(allowance, limit.overdraft)
  if (overdraft === 0) return [{ name: limit.name, ceiling: allowance, counter: null }]
  // One counter cannot tell which of 13 slots drew the overdraft: where the use is spread, it only raises the ceiling.
  if (spread) return [{ name: limit.name, ceiling: overdraft === null ? null : allowance + overdraft, counter: null }]
  return [
    { name: limit.name, ceiling: allowance, counter: null },
    { name: `${limit.name}.overdraft`, ceiling: overdraft, counter: `${slot}|overdraft` },
  ]
}

/**
 * A limit's ceiling with the grants that a call admitted at `atMs` may draw: after the allowance, before the overdraft. A grant's counter is its own, over all
 * periods; `beyond` keeps what this period has drawn of them all.
 */
export function grantedCeiling({ limit, grants = [] }: AppliedLimit, slot: string, atMs: number): Ceiling {
  const plain = ceilingOf(limit, slot, false)
  const granted = burnDown(grants, atMs).map(grantBucket)
  const [allowance, ...overdraft] = plain.buckets
  return { ...plain, buckets: [allowance!, ...granted, ...overdraft], beyond: beyondName(slot) }
}

export function grantBucket(grant: Grant): Bucket {
  return { name: grant.id, ceiling: grant.amount, counter: grantCounter(grant), endsMs: grantCounterEndsMs(grant) }
}

/** The counter of what a grant was drawn, over all periods. */
function grantCounter({ account, id }: Pick<Grant, 'account' | 'id'>): string {
  return `grant|${encoded(account)}|${encoded(id)}`
}

/** When its counter can no longer matter: what was left is still looked at after the end. */
function grantCounterEndsMs(grant: Grant): number | null {
  const endsMs = grantEndsMs(grant)
  return endsMs === null ? null : endsMs + LOOKED_AT_LATE_MS
}

/** For a look at what a grant was drawn: the balance's `used`. Never for a reservation. */
export function grantLook(grant: Pick<Grant, 'account' | 'id' | 'amount'>): Check {
  return lookAt(grantCounter(grant), { limit: grant.id, buckets: [{ name: grant.id, ceiling: grant.amount, counter: null }], refuses: true, visible: true })
}

/** For a look at what a period, by its counter, has left of an allowance alone, whatever grants were drawn in it: the balance's `room`. Never for a reservation. */
export function allowanceLook(slot: string, ceiling: number): Check {
  return lookAt(slot, { limit: slot, buckets: [{ name: slot, ceiling, counter: null }], refuses: true, visible: true, beyond: beyondName(slot) })
}

function lookAt(slot: string, ceiling: Ceiling): Check {
  return { slots: [slot], at: 0, span: 1, endsMs: null, ceilings: [ceiling], fixed: 0, perUnit: 0, clampable: false }
}

function beyondName(slot: string): string {
  return `${slot}|granted`
}

/** What a limit's counters are in one period: made once per period and limit, because every call needs it. */
export interface Named {
  /** The slot or the start of the period that it was made for. */
  readonly period: number
  readonly slots: readonly string[]
  readonly ceilings: readonly Ceiling[]
}

/** Remembers a bounded number of values: two generations, the older one dropped whole when the younger is full. */
export class Memo<K, V> {
  readonly #max: number
  #young = new Map<K, V>()
  #old = new Map<K, V>()
  constructor(max: number) {
    this.#max = max
  }
  get(key: K): V | undefined {
    const value = this.#young.get(key)
    if (value !== undefined) return value
    const older = this.#old.get(key)
    if (older !== undefined) this.set(key, older)
    return older
  }
  set(key: K, value: V): void {
    if (this.#young.size >= this.#max && !this.#young.has(key)) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(key, value)
  }
}

const named = new Memo<AppliedLimit, Named>(4_096)

/** The names for one period of a limit, from memory while the period lasts. */
export function namesOf(applied: AppliedLimit, period: number, make: (base: string, period: number) => readonly string[]): Named {
  const known = named.get(applied)
  if (known !== undefined && known.period === period) return known
  const slots = make(counterBase(applied), period)
  const slot = slots[slots.length - 1] ?? ''
  const fresh = { period, slots, ceilings: [ceilingOf(applied.limit, slot, slots.length > 1)] }
  named.set(applied, fresh)
  return fresh
}
