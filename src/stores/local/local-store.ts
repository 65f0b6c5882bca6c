import type { Balance, Check } from '../../metering/check.ts'
import type { Ledger, Step } from '../../metering/ledger.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, PendingReservation, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../metering/moves.ts'
import { StoreUnavailable, type Store, type StoreStatus } from '../store.ts'
import type { Journal } from './journal.ts'
import { LocalOutbox } from './outbox.ts'
import { LocalRecords } from './records.ts'

/**
 * The ledger in this process's memory, in front of a journal. The ledger decides at once; the answer waits for the journal, so that nothing
 * is acknowledged that a restart would not know.
 */
export abstract class LocalStore implements Store {
  readonly outbox: LocalOutbox
  readonly records: LocalRecords
  protected ledger: Ledger
  readonly #journal: Journal

  constructor(ledger: Ledger, journal: Journal, cursors: ReadonlyMap<string, number>) {
    this.ledger = ledger
    this.#journal = journal
    this.outbox = new LocalOutbox(journal, cursors)
    this.records = new LocalRecords(journal)
  }

  async reserve(move: Reserve): Promise<ReserveAnswer> {
    this.#mayMove('admit')
    const step = this.ledger.reserve(move)
    // A denial holds nothing: there is nothing to wait for.
    return step.answer.outcome === 'denied' ? step.answer : this.#keep(step)
  }

  async extend(move: Extend): Promise<ExtendAnswer> {
    this.#mayMove('finish')
    return this.#keep(this.ledger.extend(move))
  }

  async settle(move: Settle): Promise<SettleAnswer> {
    this.#mayMove('finish')
    return this.#keep(this.ledger.settle(move))
  }

  async void(move: Void): Promise<VoidAnswer> {
    this.#mayMove('finish')
    return this.#keep(this.ledger.void(move))
  }

  async expire(move: Expire): Promise<ExpireAnswer> {
    this.#mayMove('finish')
    return this.#keep(this.ledger.expire(move))
  }

  async due(nowMs: number): Promise<readonly DueReservation[]> {
    return this.ledger.due(nowMs)
  }

  async pending(id: string): Promise<PendingReservation | undefined> {
    return this.ledger.pending(id)
  }

  async balances(_home: string, checks: readonly Check[]): Promise<readonly Balance[]> {
    return this.ledger.balances(checks)
  }

  status(): StoreStatus {
    return this.#journal.status()
  }

  abstract close(): Promise<void>

  /** Before the ledger is touched: what is refused must not have been applied. */
  #mayMove(what: 'admit' | 'finish'): void {
    const refusal = this.#journal.refuses(what)
    if (refusal !== null) throw new StoreUnavailable(refusal)
  }

  #keep<Answer>(step: Step<Answer>): Promise<Answer> {
    return this.#journal.append(step.answer, step.effect, step.record)
  }
}
