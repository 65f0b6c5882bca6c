import type { Clock } from '../clock.ts'
import type { Check } from '../metering/check.ts'
import type { Quantities } from '../metering/meter.ts'
import type { CheckRefusal, Counted } from '../metering/moves.ts'
import { extendedChecks, lateMs, type Draft } from '../metering/reservation.ts'
import type { Store } from '../stores/store.ts'

/** What a running exchange needs, where it is held piece by piece; whole amounts, not differences. Infinity: it is not held piece by piece. */
export interface Wanted {
  readonly outputTokens: number
  readonly bytesIn: number
  readonly bytesOut: number
  readonly computeMs: number
}

export type Grown = { readonly outcome: 'held' } | { readonly outcome: 'denied'; readonly refusals: readonly CheckRefusal[] }

export interface HoldParts {
  readonly id: string
  readonly home: string
  readonly draft: Draft
  /** Everything held for the whole call: requests, input, concurrency, bytes in. */
  readonly fixed: Quantities
  readonly store: Store
  readonly clock: Clock
  /** How long an unreachable store may keep the stream waiting, ms. */
  readonly patienceMs: number
  deadlineMs(nowMs: number): number
  nextCheckpoint(): number
  counted(): Counted | null
  /** The store is away: does the plan let so much more of each check pass all the same? */
  servesUnheld(checks: readonly Check[], amounts: readonly number[]): boolean
}

/**
 * A reservation that grows ahead of its stream (ledger.md, "Slices"). What has no worst case (bytes out, compute time) is always held so; output
 * tokens are where the plan says `reserve: slices`. One extension is under way at a time: they are whole amounts, so the last one tells all.
 */
export class Hold {
  readonly #parts: HoldParts
  #held: Wanted
  #turn: Promise<unknown> = Promise.resolve()

  constructor(parts: HoldParts, held: Wanted) {
    this.#parts = parts
    this.#held = held
  }

  get held(): Wanted {
    return this.#held
  }

  covers(wanted: Wanted): boolean {
    const held = this.#held
    return wanted.outputTokens <= held.outputTokens && wanted.bytesIn <= held.bytesIn && wanted.bytesOut <= held.bytesOut && wanted.computeMs <= held.computeMs
  }

  /** Holds at least `wanted`, and `ahead` more where there is room. Denied: not even `wanted` fits, and nothing has changed. */
  grow(wanted: Wanted, ahead: Wanted): Promise<Grown> {
    const mine = this.#turn.then(() => this.#grow(wanted, ahead))
    this.#turn = mine
    return mine
  }

  /** Holds again what was held, after the store let it expire. */
  revive(): Promise<Grown> {
    const mine = this.#turn.then(() => this.#extend(this.#held))
    this.#turn = mine
    return mine
  }

  async #grow(wanted: Wanted, ahead: Wanted): Promise<Grown> {
    if (this.covers(plus(wanted, scaled(ahead, 1 / 2)))) return { outcome: 'held' }
    // Near the ceiling a whole slice does not fit any more, but the last tokens do.
    for (const room of [ahead, scaled(ahead, 1 / 8)]) {
      const grown = await this.#extend(atLeast(plus(wanted, room), this.#held))
      if (grown.outcome === 'held') return grown
    }
    return this.covers(wanted) ? { outcome: 'held' } : this.#extend(atLeast(wanted, this.#held))
  }

  async #extend(whole: Wanted): Promise<Grown> {
    const { id, home, store, clock, patienceMs } = this.#parts
    const giveUpMs = clock.monotonicMs() + patienceMs
    for (let tries = 1; ; tries++) {
      const nowMs = clock.nowMs()
      const checks = this.#checks(whole, nowMs)
      try {
        const answer = await store.extend({
          id, nowMs, home, checkpoint: this.#parts.nextCheckpoint(), deadlineMs: this.#parts.deadlineMs(nowMs),
          counted: this.#parts.counted(), checks,
        })
        if (answer.outcome === 'extended' || answer.outcome === 'revived') {
          this.#held = whole
          return { outcome: 'held' }
        }
        return { outcome: 'denied', refusals: answer.outcome === 'denied' ? answer.refusals : [] }
      } catch {
        // The outcome is unknown and the move may be repeated, the first time at once; what cannot be held in time must not be served.
        if (tries === 1) continue
        if (this.#passesUnheld(checks, nowMs)) {
          this.#held = whole
          return { outcome: 'held' }
        }
        if (clock.monotonicMs() >= giveUpMs) return { outcome: 'denied', refusals: [] }
        await clock.sleep(50)
      }
    }
  }

  #passesUnheld(checks: readonly Check[], nowMs: number): boolean {
    const before = this.#checks(this.#held, nowMs)
    return this.#parts.servesUnheld(checks, checks.map((check, i) => Math.max(0, check.fixed - (before[i]?.fixed ?? 0))))
  }

  #checks(whole: Wanted, nowMs: number): readonly Check[] {
    const { draft, fixed } = this.#parts
    const quantities: Quantities = {
      ...fixed, output_tokens: whole.outputTokens, reasoning_tokens: whole.outputTokens, total_tokens: (fixed.input_tokens ?? 0) + whole.outputTokens,
      // Infinite where no limit counts it.
      ...(whole.bytesIn === Infinity ? {} : { bytes_in: whole.bytesIn }),
      ...(whole.bytesOut === Infinity ? {} : { bytes_out: whole.bytesOut }),
      ...(whole.computeMs === Infinity ? {} : { compute_seconds: whole.computeMs }),
    }
    return extendedChecks(draft, quantities, nowMs + lateMs)
  }
}

export const none: Wanted = { outputTokens: 0, bytesIn: 0, bytesOut: 0, computeMs: 0 }

function each(of: (name: keyof Wanted) => number): Wanted {
  return { outputTokens: of('outputTokens'), bytesIn: of('bytesIn'), bytesOut: of('bytesOut'), computeMs: of('computeMs') }
}

function plus(a: Wanted, b: Wanted): Wanted {
  return each((name) => a[name] + b[name])
}

function atLeast(a: Wanted, b: Wanted): Wanted {
  return each((name) => Math.max(a[name], b[name]))
}

function scaled(a: Wanted, by: number): Wanted {
  return each((name) => Math.ceil(a[name] * by))
}
