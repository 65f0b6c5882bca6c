import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Settle, SettleAnswer } from '../metering/moves.ts'
import type { Metrics } from '../metrics.ts'
import type { Random } from '../random.ts'
import type { Spool } from '../spool/spool.ts'

export interface SpoolDrainParts {
  readonly spool: Spool
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Rejects when the store did not take it. */
  apply(move: Settle): Promise<SettleAnswer>
}

/** So many go to the store together; while it takes nothing, a few see whether it is back. */
const burst = 256
const probes = 16
const backoffMs = 50
const backoffMaxMs = 1_000
/** After so many vain tries what is behind these is tried: perhaps only their part of the store is away. */
const triesBeforeNext = 5
/** Before what could not be taken, while other things could, is tried again. */
const asideMs = 1_000
const asideMaxMs = 15_000
const lookMs = 5_000

/**
 * Brings what is in the spool to the store, in its order, until nothing is left. An entry that the store cannot take for a reason of its own (a damaged
 * counter) is passed by and stays: what is behind it goes on, and the next round tries it again.
 */
export class SpoolDrain {
  readonly #parts: SpoolDrainParts
  #running = false
  #stopped = false
  /** Up to where this round has come. */
  #after = 0
  #wakeUp: () => void = () => {}
  #stopLooking: () => void = () => {}

  constructor(parts: SpoolDrainParts) {
    this.#parts = parts
  }

  /** Also what an earlier run has left, and what a write that was reported as failed has left all the same. */
  start(): void {
    this.#stopLooking = this.#parts.clock.every(lookMs, () => this.wake())
    this.wake()
  }

  /** There may be something new. */
  wake(): void {
    this.#measure()
    if (this.#stopped || this.#running || this.#parts.spool.count === 0) return
    this.#running = true
    void this.#run().finally(() => {
      this.#running = false
      this.wake()
    })
  }

  stop(): void {
    this.#stopped = true
    this.#stopLooking()
    this.#wakeUp()
  }

  async #run(): Promise<void> {
    const { spool, log } = this.#parts
    let failures = 0
    let asideRounds = 0
    let took = false
    this.#after = 0
    while (!this.#stopped && spool.count > 0) {
      const left = await this.#page(failures === 0 ? burst : probes)
      this.#measure()
      if (left === 'end') {
        // What is left was passed by. Slower and slower, as long as nothing of it can be taken.
        asideRounds = took ? 0 : asideRounds + 1
        took = false
        this.#after = 0
        if (spool.count > 0) await this.#pause(Math.min(asideMaxMs, asideMs * 2 ** Math.min(asideRounds, 10)))
      } else if (left === 'some') {
        if (failures > 0) log.info({ settlements: spool.count }, 'settlements from the spool are booked again')
        failures = 0
        took = true
      } else {
        failures += 1
        if (failures === 1) log.warn({ settlements: spool.count, why: left.why }, 'settlements wait in the spool')
        if (failures % triesBeforeNext === 0) this.#after = left.last
        await this.#pause(Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(failures, 10)))
      }
    }
  }

  /** `some`: the store has answered for at least one. */
  async #page(count: number): Promise<'end' | 'some' | { readonly why: string; readonly last: number }> {
    const { spool, log } = this.#parts
    try {
      const entries = await spool.read(this.#after, count)
      const last = entries.at(-1)?.sequence
      if (last === undefined) return 'end'
      const taken: number[] = []
      let answered = false
      const broken: string[] = []
      let why = ''
      await Promise.all(entries.map(async ({ sequence, move }) => {
        try {
          const { outcome } = await this.#parts.apply(move)
          answered = true
          if (outcome === 'broken') broken.push(move.id)
          else taken.push(sequence)
        } catch (error) {
          why = error instanceof Error ? error.message : String(error)
        }
      }))
      if (broken.length > 0) log.error({ settlements: broken.length, first: broken[0] }, 'settlements cannot be booked: what the store has for them is damaged; they stay in the spool')
      await spool.remove(taken)
      if (!answered) return { why, last }
      this.#after = last
      return 'some'
    } catch (error) {
      // The spool itself; what was applied and not removed is applied again, which changes nothing.
      return { why: error instanceof Error ? error.message : String(error), last: this.#after }
    }
  }

  #pause(ms: number): Promise<void> {
    const { clock, random } = this.#parts
    return new Promise((resolve) => {
      const cancel = clock.after(ms * (0.75 + 0.5 * random.fraction()), resolve, { unref: true })
      this.#wakeUp = () => {
        cancel()
        resolve()
      }
    })
  }

  #measure(): void {
    const { spool, metrics, clock } = this.#parts
    metrics.spoolEntries.set(spool.count)
    metrics.spoolBytes.set(spool.bytes)
    metrics.spoolAge.set(spool.oldestMs === null ? 0 : Math.max(0, clock.nowMs() - spool.oldestMs) / 1_000)
  }
}
