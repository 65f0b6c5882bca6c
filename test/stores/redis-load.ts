import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Check } from '../../src/metering/check.ts'
import type { SettleAnswer } from '../../src/metering/moves.ts'
import type { RedisStore } from '../../src/stores/redis/store.ts'
import { StoreUnavailable, type OutboxEntry, type Store } from '../../src/stores/store.ts'
import { waitFor } from '../fixtures/wait-for.ts'
import { check, newId, reserveOf, settleOf } from './sample-moves.ts'

// Exchanges without end while a fault is on, made as a gateway makes them, and what must be true of the books afterwards.

/** Tokens of one settlement. */
const TOKENS = 7
/** How long a gateway insists on a settlement or a void before a test has failed. */
const INSIST_MS = 40_000
/** A reservation that failed within this is tried once more. */
const AGAIN_MS = 500

export const homes = ['acme', 'globex', 'initech', 'umbrella', 'hooli'] as const

export const tokensOf = (home: string, fixed = 10): Check => check(`${home} tokens`, 100_000_000, fixed)

export interface Tally {
  /** Reservations that were asked for; those that the store did not take; the instants of these (`performance.now()`). */
  readonly asked: number
  readonly refused: number
  readonly refusedAtMs: readonly number[]
  /** Ids of the exchanges whose settlement was acknowledged, by root account. */
  readonly settled: ReadonlyMap<string, ReadonlySet<string>>
  /** The longest that one call took, ms. */
  readonly longestMs: number
  /** Why reservations were not taken. */
  readonly reasons: ReadonlySet<string>
}

export interface Load {
  readonly admitted: number
  readonly refused: number
  /** Resolves with how long it took from now until a reservation was taken, ms. */
  recovery(): Promise<number>
  /** No new exchanges; those under way are brought to their end. */
  stop(): Promise<Tally>
}

export interface LoadOptions {
  /** Exchanges under way at once. */
  readonly parallel?: number
  /** Between two exchanges of a lane. */
  readonly pauseMs?: number
}

/** Lanes of exchanges over the stores, in turns. */
export function startLoad(stores: readonly Store[], { parallel = 10, pauseMs = 5 }: LoadOptions = {}): Load {
  const settled = new Map<string, Set<string>>(homes.map((home) => [home, new Set()]))
  const refusedAtMs: number[] = []
  const reasons = new Set<string>()
  let asked = 0
  let admitted = 0
  let longestMs = 0
  let stopped = false

  const timed = async <Answer>(call: () => Promise<Answer>): Promise<Answer> => {
    const fromMs = performance.now()
    try {
      return await call()
    } finally {
      longestMs = Math.max(longestMs, performance.now() - fromMs)
    }
  }
  const insist = async <Answer>(call: () => Promise<Answer>): Promise<Answer> => {
    const endMs = performance.now() + INSIST_MS
    for (;;) {
      try {
        return await timed(call)
      } catch (error) {
        if (!(error instanceof StoreUnavailable) || performance.now() > endMs) throw error
        await sleep(20)
      }
    }
  }
  const ends: Promise<unknown>[] = []
  const exchange = async (store: Store, home: string): Promise<void> => {
    const nowMs = Date.now()
    const id = newId(nowMs)
    const checks = [tokensOf(home)]
    asked += 1
    try {
      const move = reserveOf(id, nowMs, home, checks)
      const fromMs = performance.now()
      // A connection that broke says so quickly: the same move again, at once.
      const answer = await timed(() => store.reserve(move)).catch((error: unknown) => {
        if (!(error instanceof StoreUnavailable) || performance.now() - fromMs > AGAIN_MS) throw error
        return timed(() => store.reserve(move))
      })
      if (answer.outcome !== 'admitted') throw new Error(`a reservation was answered with ${answer.outcome}`)
      admitted += 1
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      refusedAtMs.push(performance.now())
      reasons.add(error.message)
      // Unknown: it may have been made. It is let go of by its id, never just forgotten.
      ends.push(insist(() => store.void({ id, nowMs: Date.now(), home })))
      await sleep(20)
      return
    }
    const move = settleOf(id, Date.now(), home, checks, [TOKENS])
    const settle = async (answered: Promise<SettleAnswer>): Promise<void> => {
      const { outcome } = await answered
      if (!['settled', 'already_settled', 'settled_unheld', 'settled_late'].includes(outcome)) throw new Error(`a settlement was answered with ${outcome}`)
      settled.get(home)!.add(id)
    }
    try {
      await settle(timed(() => store.settle(move)))
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error
      // As out of a gateway's spool, while it goes on with other calls.
      ends.push(settle(insist(() => store.settle(move))))
    }
  }
  const lanes = Array.from({ length: parallel }, async (_, lane) => {
    for (let turn = lane; !stopped; turn += parallel) {
      await exchange(stores[turn % stores.length]!, homes[turn % homes.length]!)
      if (pauseMs > 0) await sleep(pauseMs)
    }
  })
  // Whoever stops it hears of a lane's failure.
  const over = Promise.all(lanes)
  over.catch(() => { stopped = true })
  return {
    get admitted() { return admitted },
    get refused() { return refusedAtMs.length },
    async recovery() {
      const fromMs = performance.now()
      const before = admitted
      await waitFor('a reservation to be taken', () => stopped || admitted > before, { deadlineMs: 20_000 })
      return performance.now() - fromMs
    },
    async stop() {
      stopped = true
      await over
      await Promise.all(ends)
      return { asked, refused: refusedAtMs.length, refusedAtMs, settled, longestMs, reasons }
    },
  }
}

export async function allEvents(store: Store): Promise<readonly OutboxEntry[]> {
  const events: OutboxEntry[] = []
  for (;;) {
    const page = await store.outbox.scan(events.at(-1)?.position ?? null, 1_000)
    if (page.length === 0) return events
    events.push(...page)
  }
}

/** Counters, events and what was acknowledged agree to the last unit, and nothing is held. `store` sees the books as they are. */
export async function audit(t: Test, store: RedisStore, { settled }: Tally): Promise<{ readonly lost: number; readonly doubled: number }> {
  const events = await allEvents(store)
  const told = new Set(events.map(({ record }) => record.id))
  const acknowledged = new Set([...settled.values()].flatMap((ids) => [...ids]))
  const lost = [...acknowledged].filter((id) => !told.has(id)).length
  const doubled = events.length - told.size
  t.equal(lost, 0, 'no event is lost')
  t.equal(doubled, 0, 'none is told twice')
  t.equal(told.size, acknowledged.size, 'and none is about a call that was not settled')
  for (const home of homes) t.match(await store.balances(home, [tokensOf(home)]), [{ used: TOKENS * settled.get(home)!.size, reserved: 0 }], home)
  return { lost, doubled }
}

/** Seconds between the first and the last refusal. */
export function secondsOf503({ refusedAtMs }: Tally): string {
  return refusedAtMs.length === 0 ? '0' : ((Math.max(...refusedAtMs) - Math.min(...refusedAtMs)) / 1_000).toFixed(1)
}
