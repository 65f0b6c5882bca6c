import { isDeepStrictEqual } from 'node:util'
import type { Bucket, Ceiling, Check } from '../../src/metering/check.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import { Ledger } from '../../src/metering/ledger.ts'
import type { Counted, Extend } from '../../src/metering/moves.ts'
import type { Store } from '../../src/stores/store.ts'
import { seeded } from '../exactness/model.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { openTestStore } from './redis-fixture.ts'
import { eventBody, FORGET_AFTER_MS, LEASE_MS, skeleton } from './sample-moves.ts'

const MOVES = 400
const PARTITIONS = 8

/** What a limit of this world is made of; a call's check is cut from it for one instant. */
interface Template {
  readonly name: string
  readonly sliding: boolean
  /** Their ceilings; an operator edits them now and then. */
  buckets: readonly (number | null)[]
  /** A second limit over the same counters. */
  readonly second: { readonly ceiling: number | null; readonly refuses: boolean; readonly first: boolean } | null
  readonly refuses: boolean
  readonly clampable: boolean
  /** Buckets that outlive the period: how many there are now, and whether there ever were any. Periods are minutes then. */
  grants: number
  readonly granted: boolean
}

interface Life {
  readonly id: string
  readonly home: string
  readonly admittedMs: number
  readonly templates: readonly Template[]
  readonly needs: readonly { readonly fixed: number; readonly perUnit: number }[]
  checkpoint: number
  counted: Counted | null
  readonly seat: boolean
}

class World {
  readonly random: () => number
  readonly ledger = new Ledger({ forgetAfterMs: FORGET_AFTER_MS })
  readonly records: OutboxRecord[] = []
  readonly lives: Life[] = []
  readonly expired: Life[] = []
  readonly homes = ['acme', 'globex', 'initech / ünïcode {p3}']
  readonly templates = new Map<string, Template[]>()
  nowMs = Date.UTC(2030, 0, 1)

  constructor(seed: number) {
    this.random = seeded(seed)
    for (const home of this.homes) {
      this.templates.set(home, Array.from({ length: 5 }, (_, i): Template => {
        const sliding = this.chance(0.3)
        return {
          name: `${home}|${i}`, sliding,
          buckets: Array.from({ length: sliding || this.chance(0.4) ? 1 : 2 + this.below(2) }, () => this.ceiling()),
          second: this.chance(0.3) ? { ceiling: this.ceiling(), refuses: this.chance(0.5), first: this.chance(0.5) } : null,
          refuses: this.chance(0.85), clampable: this.chance(0.5),
          ...(sliding || this.chance(0.6) ? { grants: 0, granted: false } : { grants: this.below(3), granted: true }),
        }
      }))
    }
  }

  /** Small ones are soon overrun; none at all is unlimited. */
  ceiling(): number | null {
    return this.chance(0.08) ? null : this.below(this.chance(0.4) ? 600 : 4_000)
  }

  below(n: number): number { return Math.floor(this.random() * n) }
  chance(p: number): boolean { return this.random() < p }
  pick<T>(list: readonly T[]): T { return list[this.below(list.length)]! }

  check(template: Template, atMs: number, fixed: number, perUnit: number): Check {
    const slotMs = 5_000
    const now = Math.floor(atMs / slotMs)
    const lengthMs = template.granted ? 60_000 : 86_400_000
    const period = Math.floor(atMs / lengthMs)
    const slots = template.sliding ? Array.from({ length: 13 }, (_, i) => `${template.name}|${now - 12 + i}`) : [`${template.name}|${period}`]
    const slot = slots.at(-1)!
    const buckets = template.buckets.map((ceiling, i): Bucket => ({ name: i === 0 ? 'limit' : `later "${i}"`, ceiling, counter: i === 0 ? null : `${slot}|bucket ${i}` }))
    // Between the allowance and the overdraft.
    buckets.splice(1, 0, ...Array.from({ length: template.grants }, (_, i): Bucket => ({
      name: `grant ${i}`, ceiling: 100 + 300 * i, counter: `${template.name}|grant ${i}`, endsMs: i === 0 ? null : (period + 100) * lengthMs,
    })))
    const ceilings: Ceiling[] = [{
      limit: `of ${template.name}`, refuses: template.refuses, visible: true, buckets, ...(template.granted ? { beyond: `${slot}|beyond` } : {}),
    }]
    if (template.second !== null) {
      const second = { limit: `second of ${template.name}`, refuses: template.second.refuses, visible: true, buckets: [{ name: 'second', ceiling: template.second.ceiling, counter: null }] }
      if (template.second.first) ceilings.unshift(second)
      else ceilings.push(second)
    }
    return { slots, at: slots.length - 1, span: slots.length, endsMs: template.sliding ? (now + 13) * slotMs : (period + 1) * lengthMs, ceilings, fixed, perUnit, clampable: template.clampable && !template.sliding,
      ...(template.granted ? { alongside: [`${template.name}|${period - 1}`, `${template.name}|${period + 1}`] } : {}),
    }
  }

  checksOf(life: Life, atMs = life.admittedMs): Check[] {
    return life.templates.map((template, i) => this.check(template, atMs, life.needs[i]!.fixed, life.needs[i]!.perUnit))
  }

  newLife(): Life {
    const home = this.pick(this.homes)
    const admittedMs = this.chance(0.04) ? this.nowMs - FORGET_AFTER_MS - 1 - this.below(1_000_000) : this.nowMs - this.below(3_000)
    const templates = this.templates.get(home)!.filter(() => this.chance(0.6))
    const bytes = Uint8Array.from({ length: 10 }, () => this.below(256))
    const life: Life = {
      id: exchangeId(admittedMs, bytes), home, admittedMs, templates, checkpoint: 0, counted: null, seat: bytes[9]! < 26,
      needs: templates.map(() => ({ fixed: this.below(300), perUnit: this.chance(0.5) ? 1 + this.below(4) : 0 })),
    }
    this.lives.push(life)
    return life
  }

  /** One random move: made on the ledger, and how to make it on a store. The answers must be equal. */
  move(kinds: readonly string[]): { readonly what: string; readonly expected: unknown; on(store: Store): Promise<unknown> } {
    this.nowMs += this.chance(0.05) ? this.below(20_000) : this.below(400)
    if (this.chance(0.03)) {
      const edited = this.pick(this.templates.get(this.pick(this.homes))!)
      edited.buckets = edited.buckets.map(() => this.ceiling())
      if (edited.granted) edited.grants = this.below(3)
    }
    // What has been expired comes back more often than in life: that is where most rows of the table are.
    const returns = this.expired.length > 0 && this.chance(0.3)
    const known = this.lives.length > 0 && this.chance(0.8) ? this.lives[Math.max(0, this.lives.length - 1 - this.below(12))]! : this.newLife()
    const life = returns ? this.expired[Math.max(0, this.expired.length - 1 - this.below(4))]! : this.chance(0.05) ? this.newLife() : known
    const kind = returns ? this.pick(kinds.filter((one) => one !== 'settle elsewhere' && one !== 'void')) : this.pick(kinds)
    const { id, home } = life
    const { nowMs } = this
    switch (kind) {
      case 'reserve': {
        const uMax = this.below(400)
        const move = { id, nowMs, home, checks: this.checksOf(life), uMin: this.below(uMax + 1), uMax, deadlineMs: nowMs + LEASE_MS, skeleton: { ...(life.seat ? { seat: true as const } : {}), ...skeleton, model: `model of ${home}\n"quoted"` } }
        return { what: `reserve ${id}`, expected: this.ledger.reserve(move).answer, on: (store) => store.reserve(move) }
      }
      case 'extend': {
        const checkpoint = this.chance(0.9) ? ++life.checkpoint : Math.max(0, life.checkpoint - 1)
        const counted = this.chance(0.6) ? this.#count(life) : null
        const most = this.chance(0.5) ? 300 : 1_200
        const checks = this.chance(0.7) ? this.checksOf(life).map((check) => ({ ...check, fixed: this.below(most), perUnit: 0 })) : null
        const move: Extend = { id, nowMs, home, checkpoint, deadlineMs: nowMs + LEASE_MS - this.below(5_000), counted, checks }
        return { what: `extend ${id} ${checkpoint}`, expected: this.ledger.extend(move).answer, on: (store) => store.extend(move) }
      }
      case 'settle': case 'settle elsewhere': {
        // What a fault might do: the windows of another instant.
        const checks = this.checksOf(life, kind === 'settle elsewhere' ? life.admittedMs + 86_400_000 : life.admittedMs)
        const amounts = checks.map(() => (this.chance(0.2) ? 0 : this.below(700)))
        const move = { id, nowMs, home, checks, amounts, usage: { requests: 1, total_tokens: amounts[0] ?? 0, cost: this.below(1e9) }, event: { ...eventBody, model: null, status: this.below(600) } }
        const step = this.ledger.settle(move)
        if (step.record !== null) this.records.push(step.record)
        return { what: `settle ${id}`, expected: step.answer, on: (store) => store.settle(move) }
      }
      case 'void': {
        const move = { id, nowMs, home }
        return { what: `void ${id}`, expected: this.ledger.void(move).answer, on: (store) => store.void(move) }
      }
      default: {
        const move = { id, nowMs, home, checkpoint: this.chance(0.5) ? null : life.checkpoint + this.pick([0, 0, 0, 0, -1, 1]) }
        const step = this.ledger.expire(move)
        if (step.record !== null) {
          this.records.push(step.record)
          this.expired.push(life)
        }
        return { what: `expire ${id}`, expected: step.answer, on: (store) => store.expire(move) }
      }
    }
  }

  #count(life: Life): Counted {
    const usage = this.chance(0.5) ? { requests: 1, output_tokens: this.below(200) } : { output_tokens: this.below(200), bytes_out: this.below(9_000) }
    life.counted = { amounts: life.templates.map(() => this.below(500)), usage }
    return life.counted
  }
}

/** What came out of one seed: how often each move had which outcome, and where the store differed from the ledger. */
export interface Comparison {
  readonly outcomes: ReadonlyMap<string, number>
  readonly moves: number
  readonly events: number
  readonly differences: readonly { readonly where: string; readonly is: unknown; readonly expected: unknown }[]
}

/** Makes the moves of one seed on the ledger and on two gateways' stores in Redis. `untilFirst`: ends with the first difference. */
export async function compare(t: Teardown, url: string, seed: number, prefix: string, untilFirst = false): Promise<Comparison> {
  const world = new World(seed)
  const one = await openTestStore(t, url, { prefix, partitions: PARTITIONS })
  // Another gateway, which knows nothing of the first one's reservations.
  const other = await openTestStore(t, url, { prefix, partitions: PARTITIONS })
  const outcomes = new Map<string, number>()
  const differences: { where: string; is: unknown; expected: unknown }[] = []
  let moves = 0
  const same = (where: string, is: unknown, expected: unknown): void => {
    if (!isDeepStrictEqual(is, expected)) differences.push({ where: `seed ${seed}: ${where}`, is, expected })
  }
  const answered = (what: string, is: unknown, expected: unknown): void => {
    moves++
    const name = `${what.split(' ')[0]} ${(expected as { outcome: string }).outcome}`
    outcomes.set(name, (outcomes.get(name) ?? 0) + 1)
    same(`move ${moves}, ${what}`, is, expected)
  }
  try {
    for (let i = 0; i < MOVES && differences.length === 0; i++) {
      if (world.chance(0.15)) {
        // Many in one script call: decided one after the other.
        const batch = Array.from({ length: 2 + world.below(20) }, () => world.move(world.chance(0.5) ? ['reserve'] : ['reserve', 'extend']))
        const store = world.pick([one, other])
        const answers = await Promise.all(batch.map((move) => move.on(store)))
        for (const [n, move] of batch.entries()) answered(move.what, answers[n], move.expected)
      } else {
        const move = world.move(['reserve', 'reserve', 'reserve', 'extend', 'extend', 'extend', 'settle', 'settle', 'settle elsewhere', 'void', 'expire', 'expire'])
        answered(move.what, await move.on(world.pick([one, other])), move.expected)
      }
    }
    if (untilFirst && differences.length > 0) return { outcomes, moves, events: 0, differences }
    for (const life of world.lives) {
      const checks = world.checksOf(life)
      same(`counters of ${life.id}`, await one.balances(life.home, checks), world.ledger.balances(checks))
    }
    const byId = (a: { readonly id: string }, b: { readonly id: string }): number => (a.id < b.id ? -1 : 1)
    same('open reservations', [...await one.due(Infinity)].sort(byId), [...world.ledger.due(Infinity)].sort(byId))
    const written: OutboxRecord[] = []
    for (let page = await one.outbox.scan(null, 500); page.length > 0; page = await one.outbox.scan(page.at(-1)!.position, 500)) written.push(...page.map((entry) => entry.record))
    const byEvent = (a: OutboxRecord, b: OutboxRecord): number => (`${a.id} ${a.correction}` < `${b.id} ${b.correction}` ? -1 : 1)
    same('events', written.sort(byEvent), [...world.records].sort(byEvent))
    // Nothing may be pending once all is over.
    for (const { id, home } of world.ledger.due(Infinity)) await other.expire({ id, home, nowMs: world.nowMs, checkpoint: null })
    same('open at the end', await one.due(Infinity), [])
    for (const life of world.lives) {
      for (const { reserved } of await one.balances(life.home, world.checksOf(life))) same(`pending at the end, ${life.id}`, reserved, 0)
    }
    return { outcomes, moves, events: written.length, differences }
  } finally {
    await one.close()
    await other.close()
  }
}
