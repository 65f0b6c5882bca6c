import type { Clock } from '../../clock.ts'
import type { Log } from '../../log.ts'
import type { Balance, Check } from '../../metering/check.ts'
import type {
  DueReservation, Expire, ExpireAnswer, Extend, ExtendAnswer, PendingReservation, Reserve, ReserveAnswer, Settle, SettleAnswer, Void, VoidAnswer,
} from '../../metering/moves.ts'
import { framed, type StoreRow } from '../rows.ts'
import { StoreUnavailable, type Store, type StoreDetails, type StoreStatus } from '../store.ts'
import { Batcher } from './batch.ts'
import { askDurability, judge, type DurabilityWanted } from './durability.ts'
import { readMeta, StoreRefused, type StoreMeta } from './epoch.ts'
import { exportRows } from './export.ts'
import type { Housekeeping } from './housekeeping.ts'
import type { KeyNames } from './keys.ts'
import type { Confirm, RedisLink } from './link.ts'
import {
  Again, EpochLost, fromStandingValues, slotsOf, standingKeys, toExpireAnswer, toPending, toExtendAnswer, toReservation, toReserveAnswer, toSettleAnswer, toVoidAnswer,
  type StoredReservation, type Unmade,
} from './moves.ts'
import type { RedisOutbox } from './outbox.ts'
import { RecentMoves } from './recent-moves.ts'
import type { RedisRecords } from './records.ts'
import { admitScript, finishScript } from './scripts.ts'
import type { ServerTime } from './server-time.ts'

export interface RedisStoreParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  readonly meta: StoreMeta
  readonly time: ServerTime
  readonly outbox: RedisOutbox
  readonly records: RedisRecords
  readonly housekeeping: Housekeeping
  readonly clock: Clock
  readonly log: Log
  readonly forgetAfterMs: number
  readonly timeOf: (id: string) => number
  /** Replicas and disks that must have a move before it is answered. */
  readonly confirm: Confirm | null
  /** What the server was asked to promise. */
  readonly wanted: DurabilityWanted
  /** Called when an operator has accepted a loss, with the new epoch. */
  readonly onEpoch: (epoch: string) => void
}

/** How often the books' own mark is looked at. */
const WATCH_MS = 1_000
/** Acknowledged moves that are repeated when the server has changed. */
const REPEAT_MS = 60_000
const REPEATS_AT_ONCE = 256
const REPEAT_PAUSE_MS = 500
/** How often a move is sent again because the reservation was not what it was taken for. */
const TRIES_MAX = 4
/** Remembered reservations; one that is not is read when it is voided. */
const OWN_MAX = 200_000
/** What the scripts take for a counter. */
const INTEGER = /^(0|-?[1-9]\d*)$/
const LARGEST = 9.2e18
/** Due reservations looked at per partition and sweep. */
const DUE_MAX = 1_000

/** The twin of the ledger: it decides in two scripts, inside Redis, for any number of gateways. */
/** What roll-ups in the same Redis are made with; null: it is another kind of store. */
export function sharedOf(store: Store): Pick<RedisStoreParts, 'link' | 'keys'> | null {
  return store instanceof RedisStore ? store.shared : null
}

export class RedisStore implements Store {
  readonly outbox: RedisOutbox
  readonly records: RedisRecords
  readonly #parts: RedisStoreParts
  readonly #admit: Batcher
  readonly #finish: Batcher
  readonly #recent = new RecentMoves()
  /** Counters that the reservations of this process hold, by id: what a void names. */
  readonly #own = new Map<string, readonly string[]>()
  readonly #stops: (() => void)[]
  #epoch: string
  /** In plain words; null: the counts are those that this process knows. */
  #lost: string | null = null
  #watching = false
  /** How often the server has changed since the repeating began; 0: none is under way. */
  #repeats = 0
  #closed = false

  constructor(parts: RedisStoreParts) {
    const { link, keys, meta, clock, forgetAfterMs, timeOf, confirm } = parts
    this.#parts = parts
    this.outbox = parts.outbox
    this.records = parts.records
    this.#epoch = meta.epoch
    const rules = { keys, epoch: () => this.#epoch, forgetAfterMs, timeOf }
    const options = confirm === null ? {} : { confirm }
    this.#admit = new Batcher(link, admitScript, rules, options, clock)
    this.#finish = new Batcher(link, finishScript, rules, options, clock)
    this.#stops = [
      link.onServerChange(() => void this.#repeatRecent()),
      clock.every(WATCH_MS, () => void this.#watchEpoch()),
    ]
  }

  get shared(): Pick<RedisStoreParts, 'link' | 'keys'> {
    const { link, keys } = this.#parts
    return { link, keys }
  }

  async reserve(move: Reserve): Promise<ReserveAnswer> {
    const { admitting, reason } = this.status()
    if (!admitting) throw new StoreUnavailable(reason ?? 'the store does not admit')
    if (this.#own.size >= OWN_MAX) this.#own.clear()
    this.#own.set(move.id, slotsOf(move.checks))
    const answer = this.#made(toReserveAnswer(await this.#admit.send(this.#partition(move.home), (batch) => batch.reserve(move)), move))
    if (answer.outcome !== 'admitted') this.#own.delete(move.id)
    return answer
  }

  extend(move: Extend): Promise<ExtendAnswer> {
    return this.#insist((told) => this.#admit.send(this.#partition(move.home), (batch) => batch.extend(move, told)), (text) => toExtendAnswer(text, move))
  }

  async settle(move: Settle): Promise<SettleAnswer> {
    const answer = await this.#settle(move)
    if (answer.outcome !== 'broken') this.#recent.note(move, this.#parts.clock.monotonicMs())
    return answer
  }

  async void(move: Void): Promise<VoidAnswer> {
    const answer = await this.#void(move)
    if (answer.outcome !== 'broken') this.#recent.note(move, this.#parts.clock.monotonicMs())
    return answer
  }

  async #settle(move: Settle): Promise<SettleAnswer> {
    const partition = this.#partition(move.home)
    const answer = await this.#insist((told) => this.#finish.send(partition, (batch) => batch.settle(move, told)), (text) => toSettleAnswer(text, move))
    this.#own.delete(move.id)
    if ('drawn' in answer) this.outbox.appended(partition)
    return answer
  }

  async #void(move: Void): Promise<VoidAnswer> {
    const own = this.#own.get(move.id) ?? null
    const answer = await this.#insist((told) => this.#finish.send(this.#partition(move.home), (batch) => batch.void(move, own, told)), toVoidAnswer)
    this.#own.delete(move.id)
    return answer
  }

  async expire(move: Expire): Promise<ExpireAnswer> {
    const partition = this.#partition(move.home)
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const stored = await this.#read(partition, move.id)
      if (stored === 'broken') return { outcome: 'broken' }
      const lines = stored?.state === 'open' ? stored.lines : null
      const answer = toExpireAnswer(await this.#finish.send(partition, (batch) => batch.expire(move, lines)))
      if (answer instanceof Again) continue
      const made = this.#made(answer)
      if (made.outcome === 'expired') this.outbox.appended(partition)
      return made
    }
    throw new StoreUnavailable('the reservation changes faster than it can be read')
  }

  async pending(id: string): Promise<PendingReservation | undefined> {
    const { link, keys } = this.#parts
    const texts = await link.commands(Array.from({ length: keys.partitions }, (_, p) => ({ key: keys.reservation(p, id), name: 'GET', args: [keys.reservation(p, id)] })))
    for (const text of texts) {
      const found = typeof text === 'string' ? toPending(id, text) : null
      if (found !== null) return found
    }
    // What a server that is away has is not known.
    const away = texts.find((text) => text instanceof StoreUnavailable)
    if (away !== undefined) throw away
    return undefined
  }

  async due(nowMs: number): Promise<readonly DueReservation[]> {
    const { link, keys, time } = this.#parts
    // Before the replicas agree on the time, everything may look due.
    if (!time.agreed) throw new StoreUnavailable('the time is not agreed on')
    const partitions = Array.from({ length: keys.partitions }, (_, p) => p)
    const lists = await link.commands(partitions.map((p) => ({ key: keys.due(p), name: 'ZRANGEBYSCORE', args: [keys.due(p), '-inf', nowMs, 'LIMIT', 0, DUE_MAX] })))
    const due: DueReservation[] = []
    let away: StoreUnavailable | null = null
    for (const [p, ids] of lists.entries()) {
      // A server of a cluster that is away, or a damaged list, is its own partitions' trouble; the moves of a damaged one are answered with `broken`.
      if (ids instanceof StoreUnavailable) away = ids
      if (ids instanceof Error || (ids as readonly string[]).length === 0) continue
      const texts = await link.commands((ids as readonly string[]).map((id) => ({ key: keys.reservation(p, id), name: 'GET', args: [keys.reservation(p, id)] })))
      for (const [i, id] of (ids as readonly string[]).entries()) {
        const text = texts[i]
        if (text instanceof StoreUnavailable) away = text
        const stored = typeof text === 'string' ? toReservation(text) : null
        if (stored?.state === 'open') due.push({ id, home: stored.home, checkpoint: stored.checkpoint, deadlineMs: stored.deadlineMs })
        // It was closed since the list was read, or the list was left behind by damage: a list that keeps it would be looked at for ever.
        // An expired one may be revived meanwhile, and is in the list again.
        else if (text === null || stored?.state === 'settled' || stored?.state === 'voided') await link.commands([{ key: keys.due(p), name: 'ZREM', args: [keys.due(p), id] }])
      }
    }
    // What was not told must not look like nothing.
    if (due.length === 0 && away !== null) throw away
    return due
  }

  async balances(home: string, checks: readonly Check[]): Promise<readonly Balance[]> {
    const { link, keys } = this.#parts
    const wanted = standingKeys(keys, this.#partition(home), checks)
    if (wanted.length === 0) return []
    const key = wanted[0]!
    const [answer, present] = await link.commands([{ key, name: 'MGET', args: wanted }, { key, name: 'EXISTS', args: wanted }])
    for (const one of [answer, present]) if (one instanceof Error) throw one
    const values = answer as readonly (string | null)[]
    // MGET shows what is no text as absent, which would read as 0. What came between the two commands is no damage.
    const damaged = values.some((value) => value !== null && !(INTEGER.test(value) && Math.abs(Number(value)) <= LARGEST))
      || (values.filter((value) => value !== null).length !== present && (await this.#typesOf(wanted)).some((type) => type !== 'none' && type !== 'string'))
    if (damaged) throw new StoreUnavailable('a counter is damaged')
    return fromStandingValues(values, checks)
  }

  #typesOf(names: readonly string[]): Promise<readonly unknown[]> {
    return this.#parts.link.commands(names.map((key) => ({ key, name: 'TYPE', args: [key] })))
  }

  status(): StoreStatus {
    const reason = this.#closed ? 'the store is closed' : this.#lost ?? this.#parts.link.reason ?? this.#parts.time.reason ?? this.#parts.housekeeping.refusal
    return { admitting: reason === null, reason }
  }

  async inspect(): Promise<StoreDetails> {
    const { link, keys, meta, housekeeping, wanted } = this.#parts
    const [facts, infos] = await Promise.all([askDurability(link), link.info()])
    const open = await link.commands(Array.from({ length: keys.partitions }, (_, p) => ({ key: keys.due(p), name: 'ZCARD', args: [keys.due(p)] })))
    for (const answer of open) if (answer instanceof StoreUnavailable) throw answer
    return {
      format: meta.format, epoch: this.#epoch, partitions: keys.partitions,
      reservations: open.reduce<number>((sum, one) => sum + (typeof one === 'number' ? one : 0), 0),
      undelivered: await housekeeping.measured(),
      servers: facts.map(({ address, product, version, maxmemory }) => ({
        address, product, version, memoryMaxBytes: maxmemory, memoryBytes: numberOf(infos.find((one) => one.address === address)?.info.get('used_memory')),
      })),
      losses: judge(facts, wanted).losses,
    }
  }

  export(version: string): AsyncIterable<StoreRow> {
    const { link, keys, clock, forgetAfterMs } = this.#parts
    const nowMs = (): number => this.nowMs()
    return framed({ version, source: 'redis', partitions: keys.partitions, epoch: this.#epoch, at: new Date(nowMs()).toISOString() },
      exportRows({ link, keys, outbox: this.outbox, clock, nowMs, forgetAfterMs, endSeats: () => this.#endSeats() }))
  }

  async #endSeats(): Promise<void> {
    const nowMs = this.nowMs()
    for (let ended = -1; ended !== 0;) {
      ended = 0
      for (const { id, home } of await this.due(Number.MAX_SAFE_INTEGER)) {
        if ((await this.pending(id))?.skeleton.seat !== true) continue
        await this.expire({ id, home, nowMs, checkpoint: null })
        ended += 1
      }
    }
  }

  /** The time that all replicas go by. */
  nowMs(): number {
    return this.#parts.time.nowMs()
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const stop of this.#stops) stop()
    await this.#parts.housekeeping.close()
    this.records.close()
    this.outbox.close()
    this.#parts.time.close()
    await this.#parts.link.close()
  }

  #partition(home: string): number {
    return this.#parts.keys.partitionOf(home)
  }

  /** Sends a move, and once more with what the reservation really holds where that was not known. */
  async #insist<Answer extends { readonly outcome: string }>(send: (told: readonly string[] | null) => Promise<string>, read: (text: string) => Answer | Unmade): Promise<Answer> {
    let told: readonly string[] | null = null
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const answer = read(await send(told))
      if (!(answer instanceof Again)) return this.#made(answer)
      told = answer.slots
    }
    throw new StoreUnavailable('the reservation changes faster than it can be read')
  }

  #made<Answer>(answer: Answer | Unmade): Answer {
    if (answer instanceof EpochLost) {
      this.#lose('Redis has lost what was counted (it was emptied, or restarted without its data): restore it, or run `tallygate store accept-loss`')
      throw new StoreUnavailable('the counts of this partition are lost')
    }
    if (answer instanceof Again) throw new StoreUnavailable('the reservation could not be read')
    return answer
  }

  #lose(why: string): void {
    if (this.#lost === null) this.#parts.log.error({ why }, 'nothing is admitted any more')
    this.#lost = why
    void this.#watchEpoch()
  }

  async #read(partition: number, id: string): Promise<StoredReservation | null | 'broken'> {
    const key = this.#parts.keys.reservation(partition, id)
    let text: unknown
    try {
      text = await this.#parts.link.command(key, 'GET', [key])
    } catch (error) {
      if (error instanceof StoreUnavailable) throw error
      return 'broken'
    }
    if (typeof text !== 'string') return null
    return toReservation(text) ?? 'broken'
  }

  /** Has somebody accepted a loss, or emptied the store while nobody called? */
  async #watchEpoch(): Promise<void> {
    if (this.#watching || this.#closed) return
    this.#watching = true
    const { link, keys, log } = this.#parts
    try {
      const meta = await readMeta(link, keys.meta())
      if (meta === null) this.#lose('Redis has lost the books (it was emptied, or restarted without its data): restore it, or run `tallygate store accept-loss`')
      else if (meta.state === 'ready' && meta.epoch === this.#epoch) {
        // Restored from a backup: what it knows is what counts.
        if (this.#lost !== null && await this.#wholeAgain()) {
          this.#lost = null
          log.warn({}, 'the books are there again; calls are admitted')
          void this.#repeatRecent()
        }
      } else if (meta.state === 'ready' && meta.accepted) {
        this.#epoch = meta.epoch
        this.#lost = null
        this.#parts.onEpoch(meta.epoch)
        log.warn({}, 'an operator has accepted the loss; calls are admitted again')
        void this.#repeatRecent()
      } else if (meta.state === 'ready') this.#lose('the books in Redis were made anew by another gateway, without an operator\'s word: `tallygate store accept-loss` goes on with what is there')
    } catch (error) {
      // Not there: the link says so itself. Refused: a newer release has changed the format under us.
      if (error instanceof StoreRefused) this.#lose(error.message)
      else if (!(error instanceof StoreUnavailable)) log.error({ error: error instanceof Error ? error.message : 'unknown' }, 'the mark of the books cannot be looked at')
    } finally {
      this.#watching = false
    }
  }

  async #wholeAgain(): Promise<boolean> {
    const { link, keys } = this.#parts
    const marks = await link.commands(Array.from({ length: keys.partitions }, (_, p) => ({ key: keys.epoch(p), name: 'GET', args: [keys.epoch(p)] })))
    return marks.every((mark) => mark === this.#epoch)
  }

  /** The server has changed: what the last one acknowledged the new one may never have seen. Moves may be repeated blindly. */
  async #repeatRecent(): Promise<void> {
    this.#repeats += 1
    if (this.#repeats > 1 || this.#closed) return
    const { log, clock } = this.#parts
    let left: readonly (Settle | Void)[] = []
    for (let seen = 0; seen !== this.#repeats && !this.#closed;) {
      seen = this.#repeats
      const moves = [...new Set([...left, ...this.#recent.since(clock.monotonicMs() - REPEAT_MS)])]
      let anew = 0
      for (left = moves; left.length > 0 && seen === this.#repeats && !this.#closed;) {
        const untaken: (Settle | Void)[] = []
        for (let at = 0; at < left.length; at += REPEATS_AT_ONCE) {
          const some = left.slice(at, at + REPEATS_AT_ONCE)
          const answers = await Promise.allSettled(some.map((move) => ('amounts' in move ? this.#settle(move) : this.#void(move))))
          anew += answers.filter((answer) => answer.status === 'fulfilled' && 'drawn' in answer.value).length
          untaken.push(...some.filter((_, i) => {
            const answer = answers[i]!
            return answer.status === 'rejected' && answer.reason instanceof StoreUnavailable
          }))
        }
        left = untaken
        // A server that has just come up often falters once more, and nobody else would repeat these.
        if (left.length > 0) await clock.sleep(REPEAT_PAUSE_MS)
      }
      if (moves.length > 0) log.info({ repeated: moves.length - left.length, missing: anew }, 'the server has changed; the settlements of the last minute were repeated')
    }
    this.#repeats = 0
  }
}

function numberOf(text: string | undefined): number | null {
  return text === undefined || !/^\d+$/.test(text) ? null : Number(text)
}
