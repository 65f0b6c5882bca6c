import type { Clock } from '../../clock.ts'
import { StoreUnavailable } from '../store.ts'
import type { LinkOptions, RedisLink, Script } from './link.ts'
import { MoveBatch, type MoveRules } from './moves.ts'

interface Waiting {
  readonly write: (batch: MoveBatch) => void
  readonly resolve: (answer: string) => void
  readonly reject: (error: unknown) => void
}

/** Moves of one call at most: a long script would hold up everybody else's. */
const MOVES_MAX = 64
const KEYS_MAX = 4_000
/** Calls under way at once per lane; what comes meanwhile gathers for the next one. */
const CALLS_MAX = 2
/** Moves that may wait: more than that cannot be answered in time anyway. */
const WAITING_MAX = 20_000

/** Moves that may share a call, in the order in which they came. */
class Lane {
  readonly #link: RedisLink
  readonly #script: Script
  readonly #rules: MoveRules
  readonly #options: LinkOptions
  readonly #afterTurn: (task: () => void) => void
  #waiting: Waiting[] = []
  #calls = 0
  #scheduled = false

  constructor(link: RedisLink, script: Script, rules: MoveRules, options: LinkOptions, clock: Clock) {
    this.#afterTurn = (task) => (clock.afterTurn === undefined ? queueMicrotask(task) : clock.afterTurn(task))
    this.#link = link
    this.#script = script
    this.#rules = rules
    this.#options = options
  }

  add(waiting: Waiting): void {
    if (this.#waiting.length >= WAITING_MAX) return waiting.reject(new StoreUnavailable('too many moves wait for Redis'))
    this.#waiting.push(waiting)
    if (this.#scheduled || this.#calls >= CALLS_MAX) return
    this.#scheduled = true
    // At the end of this turn of the event loop: everything that it brings travels together.
    this.#afterTurn(() => {
      this.#scheduled = false
      this.#flush()
    })
  }

  #flush(): void {
    while (this.#waiting.length > 0 && this.#calls < CALLS_MAX) void this.#call()
  }

  async #call(): Promise<void> {
    const batch = new MoveBatch(this.#rules)
    const sent: Waiting[] = []
    let taken = 0
    while (taken < this.#waiting.length && batch.moves < MOVES_MAX && batch.keyCount < KEYS_MAX) {
      const waiting = this.#waiting[taken++]!
      try {
        waiting.write(batch)
        sent.push(waiting)
      } catch (error) {
        waiting.reject(error)
      }
    }
    this.#waiting = taken === this.#waiting.length ? [] : this.#waiting.slice(taken)
    if (sent.length === 0) return
    this.#calls += 1
    try {
      const answers = await this.#link.script(this.#script, batch.keys(), batch.args(), this.#options) as readonly string[]
      for (const [i, { resolve }] of sent.entries()) resolve(answers[i]!)
    } catch (error) {
      for (const { reject } of sent) reject(error)
    } finally {
      this.#calls -= 1
      this.#flush()
    }
  }
}

/**
 * Sends moves by one script, all of one turn of the event loop together: on one server whatever their partition, in a cluster those of one partition.
 * While calls are under way the next moves gather.
 */
export class Batcher {
  readonly #make: () => Lane
  readonly #lanes = new Map<number, Lane>()
  readonly #clustered: boolean

  constructor(link: RedisLink, script: Script, rules: MoveRules, options: LinkOptions, clock: Clock) {
    this.#clustered = link.clustered
    this.#make = () => new Lane(link, script, rules, options, clock)
  }

  /** `write` puts the move into a batch. Gives the script's answer to it; rejects as RedisLink does. */
  send(partition: number, write: (batch: MoveBatch) => void): Promise<string> {
    const of = this.#clustered ? partition : 0
    let lane = this.#lanes.get(of)
    if (lane === undefined) this.#lanes.set(of, lane = this.#make())
    return new Promise((resolve, reject) => lane.add({ write, resolve, reject }))
  }
}
