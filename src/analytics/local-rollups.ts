import { rmSync } from 'node:fs'
import { StaleFence, StoreUnavailable } from '../stores/store.ts'
import { ThreadLink } from '../stores/thread-link.ts'
import { gathered } from './gathering.ts'
import type { RollupAsks } from './rollup-protocol.ts'
import type { Counted, Increment, Kept, RefusalCount, RefusalQuestion, RefusalRow, Rollups, Unit, UsageQuestion, UsageRow } from './rollups.ts'

type Link = ThreadLink<RollupAsks>

/** Roll-ups of one gateway, in a file beside its store; `:memory:` for a store that is itself in memory. A file that is damaged is thrown away: it is made again from the events. */
export async function openLocalRollups(path: string): Promise<Rollups> {
  return new LocalRollups(path, await openOrRemake(path))
}

async function openOrRemake(path: string): Promise<Link> {
  try {
    return await open(path, false)
  } catch (error) {
    if (path === ':memory:') throw error
    remove(path)
    return await open(path, false)
  }
}

async function open(path: string, readOnly: boolean): Promise<Link> {
  const link: Link = new ThreadLink(readOnly ? 'roll-ups\' reader' : 'roll-ups', new URL('./rollup-thread.ts', import.meta.url))
  try {
    await link.ask('open', { path, readOnly })
  } catch (error) {
    await link.close()
    throw error
  }
  return link
}

function remove(path: string): void {
  for (const suffix of ['', '-wal', '-shm']) rmSync(`${path}${suffix}`, { force: true })
}

class LocalRollups implements Rollups {
  readonly #path: string
  #link: Link
  /** A long answer must not hold up the counting. Opened when the first one is asked for. */
  #reader: Promise<Link> | null = null
  /** Ids that were counted last; null: to be asked for. */
  #last: ReadonlySet<string> | null = null
  /** The thread said that its file is damaged. */
  #damaged = false
  #generation = 0
  /** null: to be asked for. */
  #isNew: boolean | null = null
  #mending: Promise<void> | null = null
  #closed = false

  constructor(path: string, link: Link) {
    this.#path = path
    this.#link = link
    this.#watch()
  }

  async generation(): Promise<string> {
    return String(this.#generation)
  }

  async count(batch: readonly Counted[], generation: string): Promise<void> {
    await this.#mended()
    this.#last ??= new Set(await this.#link.ask('last', null))
    const last = this.#last
    const ids = batch.map(({ id }) => id)
    const fresh = last.size === 0 ? batch : batch.filter(({ id }) => !last.has(id))
    if (generation !== String(this.#generation)) throw new StaleFence('the roll-ups are made anew; what was read before comes again')
    // Whether it was done is not known until it is said.
    this.#last = null
    await this.#link.ask('count', { rows: gathered(fresh.map(({ increment }) => increment)), ids })
    this.#last = new Set(ids)
  }
  async countArchived(batch: readonly Increment[]): Promise<void> {
    await this.#link.ask('count', { rows: gathered(batch), ids: null })
  }
  async countRefusals(batch: readonly RefusalCount[]): Promise<void> {
    await this.#link.ask('countRefusals', batch)
  }
  async usage(question: UsageQuestion): Promise<readonly UsageRow[]> {
    return (await this.#reading()).ask('usage', question)
  }
  async refusals(question: RefusalQuestion): Promise<readonly RefusalRow[]> {
    return (await this.#reading()).ask('refusals', question)
  }
  async isNew(): Promise<boolean> {
    await this.#mended()
    // Whoever looks asks as well, and must not wait behind what is being counted.
    const generation = this.#generation
    const isNew = this.#isNew ?? await this.#link.ask('isNew', null)
    if (generation === this.#generation) this.#isNew = isNew
    return isNew
  }
  async wholeSince(): Promise<Readonly<Record<Unit, number>>> {
    return (await this.#reading()).ask('wholeSince', null)
  }
  async reset(): Promise<void> {
    this.#generation += 1
    this.#last = null
    this.#isNew = true
    await this.#link.ask('reset', null)
  }
  async complete(): Promise<void> {
    await this.#link.ask('complete', null)
    this.#isNew = false
  }
  async prune(nowMs: number, kept: Kept): Promise<void> {
    await this.#link.ask('prune', { nowMs, kept })
  }
  async close(): Promise<void> {
    this.#closed = true
    await this.#mending?.catch(() => undefined)
    await (await this.#reader?.catch(() => null))?.close()
    await this.#link.close()
  }

  #reading(): Promise<Link> {
    if (this.#path === ':memory:') return Promise.resolve(this.#link)
    return this.#reader ??= open(this.#path, true).then((link) => {
      link.onBroken = () => {
        this.#reader = null
        void link.abandon()
      }
      return link
    }, (error: unknown) => {
      this.#reader = null
      throw error
    })
  }

  #watch(): void {
    this.#link.onBroken = () => { this.#damaged = true }
  }

  /** A thread that failed is started again; a file that is damaged is begun anew, and is new then. */
  #mended(): Promise<void> {
    if (this.#closed) return Promise.reject(new StoreUnavailable('the roll-ups are closed'))
    if (!this.#damaged) return Promise.resolve()
    return this.#mending ??= this.#mend().finally(() => { this.#mending = null })
  }

  async #mend(): Promise<void> {
    this.#last = null
    this.#isNew = null
    await this.#link.abandon()
    await (await this.#reader?.catch(() => null))?.close()
    this.#reader = null
    if (this.#path !== ':memory:') remove(this.#path)
    this.#generation += 1
    this.#link = await openOrRemake(this.#path)
    this.#damaged = false
    this.#watch()
  }
}
