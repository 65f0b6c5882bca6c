import { rmSync } from 'node:fs'
import { ThreadLink } from '../stores/thread-link.ts'
import type { RollupAsks } from './rollup-protocol.ts'
import type { Counted, Increment, Kept, RefusalCount, RefusalQuestion, RefusalRow, Rollups, UsageQuestion, UsageRow } from './rollups.ts'

/** Roll-ups of one gateway, in a file beside its store; `:memory:` for a store that is itself in memory. A file that is damaged is thrown away: it is made again from the events. */
export async function openLocalRollups(path: string): Promise<Rollups> {
  try {
    return await open(path)
  } catch (error) {
    if (path === ':memory:') throw error
    for (const suffix of ['', '-wal', '-shm']) rmSync(`${path}${suffix}`, { force: true })
    return await open(path)
  }
}

async function open(path: string): Promise<Rollups> {
  const link = new ThreadLink<RollupAsks>('roll-ups', new URL('./rollup-thread.ts', import.meta.url))
  try {
    await link.ask('open', { path })
  } catch (error) {
    await link.close()
    throw error
  }
  return new LocalRollups(link)
}

class LocalRollups implements Rollups {
  readonly #link: ThreadLink<RollupAsks>

  constructor(link: ThreadLink<RollupAsks>) {
    this.#link = link
  }

  async count(batch: readonly Counted[]): Promise<void> {
    await this.#link.ask('count', batch)
  }
  async countArchived(batch: readonly Increment[]): Promise<void> {
    await this.#link.ask('countArchived', batch)
  }
  async countRefusals(batch: readonly RefusalCount[]): Promise<void> {
    await this.#link.ask('countRefusals', batch)
  }
  usage(question: UsageQuestion): Promise<readonly UsageRow[]> {
    return this.#link.ask('usage', question)
  }
  refusals(question: RefusalQuestion): Promise<readonly RefusalRow[]> {
    return this.#link.ask('refusals', question)
  }
  isNew(): Promise<boolean> {
    return this.#link.ask('isNew', null)
  }
  async reset(): Promise<void> {
    await this.#link.ask('reset', null)
  }
  async complete(): Promise<void> {
    await this.#link.ask('complete', null)
  }
  async prune(nowMs: number, kept: Kept): Promise<void> {
    await this.#link.ask('prune', { nowMs, kept })
  }
  close(): Promise<void> {
    return this.#link.close()
  }
}
