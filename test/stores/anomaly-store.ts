import type { Balance, Check } from '../../src/metering/check.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../src/metering/moves.ts'
import { StoreUnavailable, type Outbox, type Records, type Store, type StoreStatus } from '../../src/stores/store.ts'

/** Which call fails, counted from 1 over all moves, and whether the store beneath has made the move by then. */
export interface Anomaly {
  readonly call: number
  readonly when: 'before' | 'after'
}

/** A store that loses one call, or the answer to it; everything else passes through. */
export class AnomalyStore implements Store {
  readonly outbox: Outbox
  readonly records: Records
  /** Moves so far. */
  calls = 0
  readonly #inner: Store
  readonly #anomaly: Anomaly | null

  constructor(inner: Store, anomaly: Anomaly | null = null) {
    this.#inner = inner
    this.#anomaly = anomaly
    this.outbox = inner.outbox
    this.records = inner.records
  }

  reserve(move: Reserve): Promise<ReserveAnswer> { return this.#pass('reserve', () => this.#inner.reserve(move)) }
  extend(move: Extend): Promise<ExtendAnswer> { return this.#pass('extend', () => this.#inner.extend(move)) }
  settle(move: Settle): Promise<SettleAnswer> { return this.#pass('settle', () => this.#inner.settle(move)) }
  void(move: Void): Promise<VoidAnswer> { return this.#pass('void', () => this.#inner.void(move)) }
  expire(move: Expire): Promise<ExpireAnswer> { return this.#pass('expire', () => this.#inner.expire(move)) }
  due(nowMs: number): Promise<readonly DueReservation[]> { return this.#inner.due(nowMs) }
  balances(home: string, checks: readonly Check[]): Promise<readonly Balance[]> { return this.#inner.balances(home, checks) }
  status(): StoreStatus { return this.#inner.status() }
  close(): Promise<void> { return this.#inner.close() }

  async #pass<Answer>(name: string, make: () => Promise<Answer>): Promise<Answer> {
    const failing = ++this.calls === this.#anomaly?.call ? this.#anomaly.when : null
    if (failing === 'before') throw new StoreUnavailable(`injected: ${name} was lost on its way`)
    const answer = await make()
    if (failing === 'after') throw new StoreUnavailable(`injected: the answer to ${name} was lost`)
    return answer
  }
}
