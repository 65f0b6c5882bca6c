import type { Balance, Check } from '../../src/metering/check.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../src/metering/moves.ts'
import { StoreUnavailable, type Outbox, type Records, type Store, type StoreStatus } from '../../src/stores/store.ts'

export type Way =
  /** As it should be. */
  | 'up'
  /** Every call is refused at once, unmade. */
  | 'refusing'
  /** Every call is refused after a while, as if a deadline had passed; made or not. */
  | 'late'
  /** Every call is made, and its answer lost. */
  | 'mute'
  /** No call is ever answered, nor made. */
  | 'hanging'

/** A store that can be away in every way; what it has made by then is in the one beneath. */
export class AwayStore implements Store {
  way: Way = 'up'
  lateMs = 50
  /** Settlements of these accounts meet damage, those of others do not. */
  readonly broken = new Set<string>()
  /** Moves of these root accounts are refused: their part of the store is away. */
  readonly gone = new Set<string>()
  readonly settles: string[] = []
  readonly outbox: Outbox
  readonly records: Records
  calls = { reserve: 0, extend: 0, settle: 0, void: 0 }
  readonly #inner: Store

  constructor(inner: Store) {
    this.#inner = inner
    this.outbox = inner.outbox
    this.records = inner.records
  }

  reserve(move: Reserve): Promise<ReserveAnswer> {
    this.calls.reserve += 1
    return this.#pass(move.home, () => this.#inner.reserve(move))
  }

  extend(move: Extend): Promise<ExtendAnswer> {
    this.calls.extend += 1
    return this.#pass(move.home, () => this.#inner.extend(move))
  }

  settle(move: Settle): Promise<SettleAnswer> {
    this.calls.settle += 1
    this.settles.push(move.id)
    if (this.way === 'up' && this.broken.has(move.home)) return Promise.resolve({ outcome: 'broken' })
    return this.#pass(move.home, () => this.#inner.settle(move))
  }

  void(move: Void): Promise<VoidAnswer> {
    this.calls.void += 1
    return this.#pass(move.home, () => this.#inner.void(move))
  }

  expire(move: Expire): Promise<ExpireAnswer> { return this.#pass(move.home, () => this.#inner.expire(move)) }
  due(nowMs: number): Promise<readonly DueReservation[]> { return this.#pass('', () => this.#inner.due(nowMs)) }
  balances(home: string, checks: readonly Check[]): Promise<readonly Balance[]> { return this.#pass(home, () => this.#inner.balances(home, checks)) }
  status(): StoreStatus { return this.way === 'refusing' ? { admitting: false, reason: 'the store is away' } : this.#inner.status() }
  async close(): Promise<void> {}

  async #pass<Answer>(home: string, make: () => Promise<Answer>): Promise<Answer> {
    const { way } = this
    if (way === 'refusing' || this.gone.has(home)) throw new StoreUnavailable('the store is away')
    if (way === 'hanging') return new Promise(() => {})
    if (way === 'late') {
      if (Math.random() < 0.5) void make()
      await new Promise((resolve) => setTimeout(resolve, this.lateMs))
      throw new StoreUnavailable('no answer in time')
    }
    const answer = await make()
    if (way === 'mute') throw new StoreUnavailable('the answer was lost')
    return answer
  }
}
