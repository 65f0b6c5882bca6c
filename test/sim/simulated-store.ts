import type { Balance, Check } from '../../src/metering/check.ts'
import type { OutboxRecord } from '../../src/metering/event.ts'
import { Ledger, type Effect, type Step } from '../../src/metering/ledger.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../src/metering/moves.ts'
import type { Change, DeadEvent, Journal, StoredEvent } from '../../src/stores/local/journal.ts'
import { LocalStore } from '../../src/stores/local/local-store.ts'
import { StoreUnavailable, type DeadEntry, type Fence, type Outbox, type OutboxEntry, type Position, type Records, type Store, type StoreStatus } from '../../src/stores/store.ts'
import type { Observed } from './books.ts'
import type { GatewayProcess, World } from './world.ts'

/**
 * The real local store (ledger, outbox, fences, records) over a journal whose disk is a list. Embedded: it lives and dies with its one gateway, and
 * what was not yet durable is gone. Shared: it outlives gateways, which reach it over a link that is slow and loses things.
 */

interface Entry {
  readonly effect: Effect | null
  readonly record: OutboxRecord | null
  readonly changes: readonly Change[]
  readonly seen: Observed | null
}

/** What a process death leaves. */
export class Disk {
  readonly entries: Entry[] = []
  readonly events: StoredEvent[] = []
  readonly cursors = new Map<string, number>()
  readonly dead = new Map<string, DeadEvent>()
  readonly documents = new Map<string, Map<string, string>>()

  write(entry: Entry): void {
    this.entries.push(entry)
    if (entry.record !== null) this.events.push({ ordinal: this.events.length + 1, record: entry.record })
    for (const change of entry.changes) this.#change(change)
  }

  #change(change: Change): void {
    switch (change.kind) {
      case 'cursor': this.cursors.set(change.consumer, change.ordinal); break
      case 'bury': this.dead.set(`${change.ordinal} ${change.consumer}`, change); break
      case 'exhume': this.dead.delete(`${change.ordinal} ${change.consumer}`); break
      case 'put': {
        const documents = this.documents.get(change.of) ?? new Map<string, string>()
        this.documents.set(change.of, documents.set(change.id, change.value))
        break
      }
      case 'delete': this.documents.get(change.of)?.delete(change.id); break
    }
  }
}

interface Queued extends Entry {
  readonly done: () => void
  readonly fail: (error: Error) => void
}

/** Group commit: what comes while a group is being written waits for the next. */
class SimulatedJournal implements Journal {
  onEvents: (() => void) | null = null
  onBroken: () => void = () => {}
  readonly trimmedThrough = 0
  readonly #world: World
  readonly #disk: Disk
  /** null: every write is durable at once. */
  readonly #commitMs: (() => number) | null
  #queue: Queued[] = []
  #writing: Queued[] = []
  #broken = false
  #dead = false

  constructor(world: World, disk: Disk, commitMs: (() => number) | null) {
    this.#world = world
    this.#disk = disk
    this.#commitMs = commitMs
  }

  get lastOrdinal(): number {
    return this.#disk.events.length
  }

  refuses(): string | null {
    return this.#broken ? 'the journal could not be written' : null
  }

  append<Answer>(answer: Answer, effect: Effect | null, record: OutboxRecord | null): Promise<Answer> {
    const kept = record !== null && this.#world.bug === 'lose_event' && this.#world.bugStrikes() ? null : record
    return this.#keep({ effect, record: kept, changes: [], seen: effect === null ? null : this.#world.books.seen(effect) }).then(() => answer)
  }

  change(changes: readonly Change[]): Promise<void> {
    if (this.#broken) return Promise.reject(new StoreUnavailable('the journal could not be written'))
    return this.#keep({ effect: null, record: null, changes, seen: null })
  }

  #keep(entry: Entry): Promise<void> {
    if (this.#commitMs === null) {
      this.#disk.write(entry)
      if (entry.record !== null) this.onEvents?.()
      return Promise.resolve()
    }
    const empty = entry.effect === null && entry.record === null && entry.changes.length === 0
    if (empty && this.#queue.length === 0 && this.#writing.length === 0) return Promise.resolve()
    return new Promise((done, fail) => {
      const early = this.#world.bug === 'ack_before_durable'
      this.#queue.push({ ...entry, done: early ? () => undefined : done, fail })
      if (early) done()
      if (this.#writing.length === 0) this.#write()
    })
  }

  #write(): void {
    this.#writing = this.#queue
    this.#queue = []
    const slowMs = this.#world.bug === 'ack_before_durable' ? 1_000 : 0
    this.#world.timeline.at((this.#commitMs?.() ?? 0) + slowMs, () => {
      if (this.#dead) return
      if (this.#broken) return this.#fail(false)
      if (this.#world.takesJournalFailure()) {
        this.#world.fault('journal_failure', 'a commit fails')
        // Whether a failed write is on the disk all the same is only known once it is read again.
        this.#fail(this.#world.random.chance(0.5))
        return
      }
      const group = this.#writing
      this.#writing = []
      this.#commit(group)
      for (const one of group) one.done()
      if (this.#queue.length > 0) this.#write()
    })
  }

  #commit(group: readonly Queued[]): void {
    let events = false
    for (const { effect, record, changes, seen } of group) {
      this.#disk.write({ effect, record, changes, seen })
      events ||= record !== null
    }
    if (events) this.onEvents?.()
  }

  #fail(written: boolean): void {
    const group = [...this.#writing, ...this.#queue]
    if (written) this.#commit(this.#writing)
    this.#writing = []
    this.#queue = []
    this.#broken = true
    for (const one of group) one.fail(new StoreUnavailable('the journal could not be written'))
    this.onBroken()
  }

  mended(): void {
    this.#broken = false
  }

  /** The process dies: of what was being written, a part may have arrived. */
  kill(): void {
    this.#dead = true
    const arrived = this.#writing.slice(0, this.#world.random.int(0, this.#writing.length))
    for (const { effect, record, changes, seen } of arrived) this.#disk.write({ effect, record, changes, seen })
  }

  async read(after: number, count: number): Promise<readonly StoredEvent[]> {
    return this.#disk.events.slice(after, after + count)
  }

  async ordinalBefore(atMs: number): Promise<number> {
    const index = this.#disk.events.findIndex(({ record }) => record.atMs >= atMs)
    return index === -1 ? this.#disk.events.length : index
  }

  async dead(consumer: string | undefined, after: { readonly consumer: string; readonly ordinal: number } | null, count: number): Promise<readonly DeadEvent[]> {
    const place = (one: { readonly consumer: string; readonly ordinal: number }): string => `${one.consumer} ${String(one.ordinal).padStart(16, '0')}`
    return [...this.#disk.dead.values()].filter((one) => (consumer === undefined || one.consumer === consumer) && (after === null || place(one) > place(after)))
      .sort((a, b) => (place(a) < place(b) ? -1 : 1)).slice(0, count)
  }

  async document(kind: string, id: string): Promise<string | undefined> {
    return this.#disk.documents.get(kind)?.get(id)
  }

  async documents(kind: string): Promise<readonly { readonly id: string; readonly value: string }[]> {
    return [...this.#disk.documents.get(kind) ?? []].map(([id, value]) => ({ id, value }))
  }

  status(): StoreStatus {
    return { admitting: !this.#broken, reason: this.refuses() }
  }
}

/** The real ledger, every move of which is also told to the checkers' own books. Bugs are planted here, between the move and the ledger. */
class WatchedLedger extends Ledger {
  readonly #world: World

  constructor(world: World) {
    super({ forgetAfterMs: world.scenario.forgetAfterMs })
    this.#world = world
  }

  override reserve(m: Reserve): Step<ReserveAnswer> {
    const { bug } = this.#world
    const planted = bug === 'over_admit' ? { ...m, checks: m.checks.map((check) => raised(check)) } : m
    const step = super.reserve(planted)
    if (bug === 'refusal_counts' && step.answer.outcome === 'denied') this.#count(m.checks)
    if (bug === 'stale_standing' && 'balances' in step.answer) {
      const balances = step.answer.balances.map((balance) => ({ ...balance, used: balance.used + 40 }))
      return this.#tell('reserve', m, step, { ...step, answer: { ...step.answer, balances } })
    }
    return this.#tell('reserve', m, step)
  }

  override extend(m: Extend): Step<ExtendAnswer> {
    return this.#tell('extend', m, super.extend(m))
  }

  override settle(m: Settle): Step<SettleAnswer> {
    const step = super.settle(m)
    if (this.#world.bug === 'settle_twice' && step.effect !== null && this.#world.bugStrikes()) this.apply(step.effect)
    return this.#tell('settle', m, step)
  }

  override void(m: Void): Step<VoidAnswer> {
    if (this.#world.bug === 'void_keeps_hold' && this.open().includes(m.id)) return this.#tell('void', m, { answer: { outcome: 'voided' }, effect: null, record: null })
    return this.#tell('void', m, super.void(m))
  }

  override expire(m: Expire): Step<ExpireAnswer> {
    return this.#tell('expire', m, super.expire(m))
  }

  #count(checks: readonly Check[]): void {
    const lines = checks.map((check) => ({ slot: check.slots[check.at] ?? '', ends: check.endsMs, amount: 1, draws: [] }))
    this.apply({ t: 'settle', id: 'refused', lines, digest: 'refused' })
  }

  #tell<Answer>(kind: Observed['kind'], move: Observed['move'], step: Step<Answer>, told: Step<Answer> = step): Step<Answer> {
    this.#world.books.observe({ kind, move, step } as Observed, this)
    return told
  }
}

function raised(check: Check): Check {
  return {
    ...check,
    ceilings: check.ceilings.map((ceiling) => ({ ...ceiling, buckets: ceiling.buckets.map((bucket) => ({ ...bucket, ceiling: bucket.ceiling === null ? null : bucket.ceiling * 2 })) })),
  }
}

const mendMs = 300
const housekeepingMs = 10_000

export class SimulatedStore extends LocalStore {
  readonly #world: World
  readonly #disk: Disk
  readonly #sim: SimulatedJournal
  #open = true

  constructor(world: World, disk: Disk, commitMs: (() => number) | null) {
    const journal = new SimulatedJournal(world, disk, commitMs)
    super(rebuilt(world, disk), journal, disk.cursors)
    this.#world = world
    this.#disk = disk
    this.#sim = journal
    journal.onBroken = () => world.timeline.at(mendMs, () => { if (this.#open) this.#mend() })
    this.#keepHouse()
  }

  get watched(): Ledger {
    return this.ledger
  }

  /** The embedded store at its start: no gateway can be left of those that held something. */
  async expireAll(nowMs: number): Promise<void> {
    await Promise.all(this.ledger.open().map((id) => this.expire({ id, nowMs, home: '', checkpoint: null })))
  }

  /** Takes everything from the disk again. */
  #mend(): void {
    this.ledger = rebuilt(this.#world, this.#disk)
    this.outbox.reload(this.#disk.cursors)
    this.#sim.mended()
    this.#world.trace(() => 'the journal is mended')
  }

  #keepHouse(): void {
    this.#world.timeline.at(housekeepingMs, () => {
      if (!this.#open) return
      if (this.#sim.refuses() === null) {
        const effect = this.ledger.forget(this.#world.wallMs())
        if (effect !== null) void this.#sim.append(undefined, effect, null).catch(() => undefined)
      }
      this.#keepHouse()
    })
  }

  kill(): void {
    this.#open = false
    this.#sim.kill()
  }

  override async close(): Promise<void> {
    this.#open = false
  }
}

function rebuilt(world: World, disk: Disk): Ledger {
  const ledger = new WatchedLedger(world)
  for (const { effect } of disk.entries) if (effect !== null) ledger.apply(effect)
  world.books.rebuild(disk.entries.flatMap(({ seen }) => (seen === null ? [] : [seen])), ledger)
  return ledger
}

type MoveName = 'reserve' | 'extend' | 'settle' | 'void' | 'expire'

/** A gateway's way to the store: late, lossy, and silent once the gateway is dead. */
export class StoreLink implements Store {
  readonly outbox: Outbox
  readonly records: Records
  readonly #world: World
  readonly #process: GatewayProcess
  readonly #server: SimulatedStore

  constructor(world: World, process: GatewayProcess, server: SimulatedStore) {
    this.#world = world
    this.#process = process
    this.#server = server
    this.outbox = new OutboxLink(server.outbox, this)
    this.records = server.records
  }

  reserve(move: Reserve): Promise<ReserveAnswer> {
    this.#world.handlers.set(move.id, this.#process)
    return this.#move('reserve', move.id, () => this.#server.reserve(this.#seen(move)))
  }

  extend(move: Extend): Promise<ExtendAnswer> {
    return this.#move('extend', move.id, () => this.#server.extend(move))
  }

  settle(move: Settle): Promise<SettleAnswer> {
    const { bug } = this.#world
    if (bug === 'abort_not_settled' && move.event.end === 'client_gone') return Promise.resolve({ outcome: 'already_settled' })
    if (bug === 'bills_half') {
      const usage = { ...move.usage, output_tokens: Math.floor((move.usage.output_tokens ?? 0) / 2) }
      return this.#move('settle', move.id, () => this.#server.settle({ ...move, usage }))
    }
    return this.#move('settle', move.id, () => this.#server.settle(this.#seen(move)))
  }

  #seen<Move extends { readonly checks: readonly Check[] }>(move: Move): Move {
    return this.#world.bug === 'sliding_is_short' ? { ...move, checks: move.checks.map(shortened) } : move
  }

  void(move: Void): Promise<VoidAnswer> {
    return this.#move('void', move.id, () => this.#server.void(move))
  }

  expire(move: Expire): Promise<ExpireAnswer> {
    if (this.#world.bug === 'never_swept') return Promise.resolve({ outcome: 'unknown' })
    return this.#move('expire', move.id, () => this.#server.expire(move))
  }

  due(nowMs: number): Promise<readonly DueReservation[]> {
    return this.carry('due', () => this.#server.due(nowMs))
  }

  balances(home: string, checks: readonly Check[]): Promise<readonly Balance[]> {
    // The standing after a void: there is no move that tells it.
    return this.carry('balances', async () => {
      const answer = await this.#server.balances(home, checks)
      this.#world.books.standing(checks)
      return answer
    })
  }

  status(): StoreStatus {
    return this.#server.status()
  }

  async close(): Promise<void> {}

  #move<Answer>(name: MoveName, id: string, make: () => Promise<Answer>): Promise<Answer> {
    const world = this.#world
    const when = world.killsAtMove() ? world.random.pick(['before', 'after'] as const) : null
    if (when === 'before') {
      world.fault('kill_at_move', `${this.#process.name} dies before ${name} of ${id.slice(-6)}`)
      world.kill(this.#process)
      return forever()
    }
    return this.carry(`${name} ${id.slice(-6)}`, () => {
      const made = make()
      if (when === 'after') {
        world.fault('kill_at_move', `${this.#process.name} dies after ${name} of ${id.slice(-6)}`)
        world.kill(this.#process)
      }
      return made
    })
  }

  /** One call over the link. */
  carry<Answer>(what: string, make: () => Promise<Answer>): Promise<Answer> {
    const world = this.#world
    const process = this.#process
    if (!process.alive) return forever()
    if (!world.scenario.shared) {
      // In one process nothing gets lost on the way; still, no answer reaches the dead.
      return make().then((answer) => (process.alive ? answer : forever<Answer>()), (error: unknown) => (process.alive ? Promise.reject(error) : forever<Answer>()))
    }
    const way = world.linkFault(what)
    return new Promise((resolve, reject) => {
      const answered = (settle: () => void): void => {
        world.timeline.at(way.backMs, () => { if (process.alive) settle() })
      }
      if (way.kind === 'lost_before') return answered(() => reject(new StoreUnavailable('the store cannot be reached')))
      // Once sent, it is applied, whatever becomes of who sent it.
      world.timeline.at(way.thereMs, () => {
        const first = make()
        if (way.kind === 'lost_answer') {
          first.then(() => undefined, () => undefined)
          return answered(() => reject(new StoreUnavailable('no answer came')))
        }
        if (way.kind === 'sent_again') {
          first.then(() => undefined, () => undefined)
          world.timeline.at(way.againMs, () => { make().then((answer) => answered(() => resolve(answer)), (error: unknown) => answered(() => reject(error))) })
          return
        }
        first.then((answer) => answered(() => resolve(answer)), (error: unknown) => answered(() => reject(error)))
      })
    })
  }
}

function shortened(check: Check): Check {
  return check.slots.length === 1 ? check : { ...check, slots: check.slots.slice(7), at: check.at - 7, span: check.span - 7 }
}

function forever<Answer>(): Promise<Answer> {
  return new Promise(() => {})
}

class OutboxLink implements Outbox {
  readonly #server: Outbox
  readonly #link: StoreLink

  constructor(server: Outbox, link: StoreLink) {
    this.#server = server
    this.#link = link
  }

  lease(consumer: string, holder: string, nowMs: number, untilMs: number): Promise<Fence | undefined> {
    return this.#link.carry('lease', () => this.#server.lease(consumer, holder, nowMs, untilMs))
  }
  read(fence: Fence, count: number): Promise<readonly OutboxEntry[]> {
    return this.#link.carry('read', () => this.#server.read(fence, count))
  }
  release(fence: Fence): Promise<void> {
    return this.#link.carry('release', () => this.#server.release(fence))
  }
  advance(fence: Fence, done: readonly OutboxEntry[]): Promise<void> {
    return this.#link.carry('advance', () => this.#server.advance(fence, done))
  }
  bury(fence: Fence, entry: OutboxEntry, reason: string, nowMs: number): Promise<void> {
    return this.#link.carry('bury', () => this.#server.bury(fence, entry, reason, nowMs))
  }
  dead(...asked: Parameters<Outbox['dead']>): Promise<readonly DeadEntry[]> {
    return this.#link.carry('dead', () => this.#server.dead(...asked))
  }
  deadCount(consumer: string): Promise<number> {
    return this.#link.carry('deadCount', () => this.#server.deadCount(consumer))
  }
  exhume(ids: readonly { readonly consumer: string; readonly position: Position }[]): Promise<void> {
    return this.#link.carry('exhume', () => this.#server.exhume(ids))
  }
  scan(from: Position | null, count: number): Promise<readonly OutboxEntry[]> {
    return this.#link.carry('scan', () => this.#server.scan(from, count))
  }
  positionAt(atMs: number): Promise<Position | null> {
    return this.#link.carry('positionAt', () => this.#server.positionAt(atMs))
  }
  rewind(consumer: string, to: Position | null): Promise<void> {
    return this.#link.carry('rewind', () => this.#server.rewind(consumer, to))
  }
  lag(consumer: string): Promise<{ readonly count: number; readonly oldestMs: number | null }> {
    return this.#link.carry('lag', () => this.#server.lag(consumer))
  }
  onAppend(listener: () => void): () => void {
    return this.#server.onAppend(listener)
  }
  setConsumers(names: readonly string[]): Promise<void> {
    return this.#link.carry('setConsumers', () => this.#server.setConsumers(names))
  }
}
