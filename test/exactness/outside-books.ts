import { systemClock } from '../../src/clock.ts'
import { silentLog } from '../../src/log.ts'
import { systemRandom } from '../../src/random.ts'
import { openLink } from '../../src/stores/redis/connection.ts'
import { toRecord } from '../../src/stores/redis/event-record.ts'
import { KeyNames } from '../../src/stores/redis/keys.ts'
import type { RedisLink } from '../../src/stores/redis/link.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { countsTokens, keyOf, restRequests, type Cell } from './entitlement.ts'
import type { UsageLine } from './fleet.ts'

/** What was booked, by the meters of a cell's limits. Cost is in 10⁻⁹. */
export interface Booked { readonly run: number; readonly rest: number; readonly tokens: number; readonly cost: number }

/** What Redis holds of a cell at one instant: settled, and held by open reservations. */
export interface Look { readonly used: Booked & { readonly parallel: number }; readonly held: Booked & { readonly parallel: number } }

const meters = ['run', 'rest', 'tokens', 'cost', 'parallel'] as const
const names = { run: 'requests', rest: 'requests of the second key', tokens: 'tokens', cost: 'cost', parallel: 'at once' } as const

/** The books as they lie in Redis and in the file, read past every gateway. */
export class OutsideBooks {
  readonly link: RedisLink
  readonly #keys = new KeyNames('tallygate', 256)

  constructor(link: RedisLink) {
    this.link = link
  }

  #counters(cell: Cell): readonly string[] {
    return [
      `key:${keyOf(cell, 'run')}|requests||lifetime|0`, `key:${keyOf(cell, 'rest')}|requests||lifetime|0`, `account:${cell.name}|total_tokens|models=mixed,wide|lifetime|0`,
      `account:${cell.name}|cost||lifetime|0`, `account:${cell.name}|concurrency||in_flight|0`,
    ]
  }

  /** All counters at one instant, by one command. */
  async look(cell: Cell): Promise<Look> {
    const partition = this.#keys.partitionOf(cell.name)
    const names = this.#counters(cell)
    const wanted = [...names.map((name) => this.#keys.settled(partition, name)), ...names.map((name) => this.#keys.held(partition, name))]
    const values = (await this.link.command(wanted[0]!, 'MGET', wanted) as readonly (string | null)[]).map((value) => Number(value ?? 0))
    const part = (from: number): Look['used'] => ({ run: values[from]!, rest: values[from + 1]!, tokens: values[from + 2]!, cost: values[from + 3]!, parallel: values[from + 4]! })
    return { used: part(0), held: part(meters.length) }
  }

  /** Pending reservations of the cell's partition, and what any counter of the account still holds. */
  async left(cell: Cell): Promise<number> {
    const partition = this.#keys.partitionOf(cell.name)
    const due = this.#keys.due(partition)
    const { held } = await this.look(cell)
    return Number(await this.link.command(due, 'ZCARD', [due])) + meters.reduce((sum, meter) => sum + Math.abs(held[meter]), 0)
  }

  /** Ids and sums of the events in Redis, corrections included. */
  async events(cell: Cell): Promise<{ readonly ids: readonly string[]; readonly booked: Booked }> {
    const stream = this.#keys.events(this.#keys.partitionOf(cell.name))
    const entries = await this.link.command(stream, 'XRANGE', [stream, '-', '+'], { deadlineMs: 20_000 }) as readonly (readonly [string, readonly string[]])[]
    const ids: string[] = []
    const booked = { run: 0, rest: 0, tokens: 0, cost: 0 }
    for (const [, fields] of entries) {
      const record = toRecord(fields)
      const { key, model } = record.body as { key?: string; model?: string }
      if (key !== keyOf(cell, 'run') && key !== keyOf(cell, 'rest')) continue
      ids.push(record.kind === 'late' ? `${record.id}.late.${record.correction}` : record.id)
      const of = (meter: 'requests' | 'total_tokens' | 'cost'): number => (record.usage[meter] ?? 0) - (record.booked?.[meter] ?? 0)
      booked[key === keyOf(cell, 'run') ? 'run' : 'rest'] += of('requests')
      if (countsTokens(model ?? '')) booked.tokens += of('total_tokens')
      booked.cost += of('cost')
    }
    return { ids, booked }
  }
}

export async function openOutsideBooks(t: Teardown, url: string): Promise<OutsideBooks> {
  const link = await openLink({ url, deadlineMs: 1_000, clock: systemClock, random: systemRandom, log: silentLog })
  t.teardown(() => link.close())
  return new OutsideBooks(link)
}

export function linesOf(cell: Cell, lines: readonly UsageLine[]): UsageLine[] {
  return lines.filter(({ data }) => data.key === keyOf(cell, 'run') || data.key === keyOf(cell, 'rest'))
}

export function sumOf(cell: Cell, lines: readonly UsageLine[]): Booked {
  const booked = { run: 0, rest: 0, tokens: 0, cost: 0 }
  for (const { data } of lines) {
    booked[data.key === keyOf(cell, 'run') ? 'run' : 'rest'] += data.requests ?? 0
    if (countsTokens(data.model)) booked.tokens += data.total_tokens ?? 0
    booked.cost += Math.round(Number(data.cost ?? 0) * 1e9)
  }
  return booked
}

/** By how much each limit is exceeded; nothing: by none. */
export function over({ ceilings, ...cell }: Cell, used: Booked & { readonly parallel?: number }): Over {
  const beyond = { run: used.run - ceilings.requests, rest: used.rest - restRequests({ ...cell, ceilings }), tokens: used.tokens - ceilings.tokens, cost: used.cost - ceilings.cost,
    parallel: (used.parallel ?? 0) - ceilings.concurrency }
  return new Map(meters.filter((meter) => beyond[meter] > 0).map((meter) => [names[meter], beyond[meter]]))
}

export type Over = Map<string, number>

/** The larger of both, limit by limit. */
export function worst(one: Over, other: Over): Over {
  const both = new Map(one)
  for (const [meter, amount] of other) both.set(meter, Math.max(amount, both.get(meter) ?? 0))
  return both
}

export const sameBooks = (one: Booked, other: Booked): boolean => one.run === other.run && one.rest === other.rest && one.tokens === other.tokens && one.cost === other.cost
