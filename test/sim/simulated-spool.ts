import type { Settle } from '../../src/metering/moves.ts'
import type { Spool, SpoolEntry } from '../../src/spool/spool.ts'
import { StoreUnavailable } from '../../src/stores/store.ts'
import type { GatewayProcess, World } from './world.ts'

/** What a process death leaves of a gateway's spool: text, as on a disk. */
export class SpoolDisk {
  readonly entries = new Map<number, { readonly atMs: number; readonly json: string }>()
  last = 0

  write(atMs: number, json: string): void {
    this.last += 1
    this.entries.set(this.last, { atMs, json })
  }
}

/** A gateway's own disk: slow, sometimes failing, and with only what was written when the gateway dies. */
export class SimulatedSpool implements Spool {
  readonly #world: World
  readonly #process: GatewayProcess
  readonly #disk: SpoolDisk

  constructor(world: World, process: GatewayProcess, disk: SpoolDisk) {
    this.#world = world
    this.#process = process
    this.#disk = disk
  }

  get count(): number {
    return this.#disk.entries.size
  }

  get bytes(): number {
    return this.#disk.entries.size * 1_000
  }

  get oldestMs(): number | null {
    return this.#disk.entries.values().next().value?.atMs ?? null
  }

  get full(): string | null {
    return this.count >= this.#world.spoolMax ? 'the spool is full' : null
  }

  append(move: Settle): Promise<void> {
    const json = JSON.stringify(move)
    const fails = this.#world.strikes('spool_failure', this.#world.spoolRandom)
    if (fails) this.#world.fault('spool_failure', move.id.slice(-6))
    this.#world.trace(() => `${this.#process.name} spools ${move.id.slice(-6)}`)
    return this.#later(() => {
      // Whether a failed write is on the disk all the same is known to nobody.
      if (!fails || this.#world.spoolRandom.chance(0.5)) this.#disk.write(this.#process.clock.nowMs(), json)
      this.#world.spooled += 1
      if (fails) throw new StoreUnavailable('the spool could not be written')
    })
  }

  read(after: number, count: number): Promise<readonly SpoolEntry[]> {
    return this.#later(() => {
      const rows = [...this.#disk.entries].filter(([sequence]) => sequence > after).slice(0, count)
      if (this.#world.bug === 'spool_forgets') for (const [sequence] of rows) this.#disk.entries.delete(sequence)
      return rows.map(([sequence, { json }]) => ({ sequence, move: JSON.parse(json) as Settle }))
    })
  }

  remove(sequences: readonly number[]): Promise<void> {
    return this.#later(() => { for (const sequence of sequences) this.#disk.entries.delete(sequence) })
  }

  async close(): Promise<void> {}

  /** Nothing is done, and nobody is told of it, once the process is dead. */
  #later<Answer>(work: () => Answer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#world.timeline.at(this.#world.spoolRandom.skewed(0.2, 8), () => {
        if (!this.#process.alive) return
        try {
          resolve(work())
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      })
    })
  }
}
