import type { OutboxEntry } from '../store.ts'
import { comparePlaces, eventIdText, rangeStart, toEventId, toPlace, type EventId, type EventPlace, type StreamEntry } from './event-position.ts'
import type { KeyNames } from './keys.ts'
import type { RedisLink } from './link.ts'

const PAGE_MAX = 200

/** One partition's events, read ahead a little. */
interface Source {
  readonly partition: number
  /** Where XRANGE goes on. */
  next: string
  more: boolean
  ahead: OutboxEntry[]
}

export interface ScanParts {
  readonly link: RedisLink
  readonly keys: KeyNames
  /** Partitions that may have events after `from`. */
  readonly partitions: readonly number[]
  /** What of a partition is passed over, up to and with this one; absent: nothing. */
  readonly through?: ReadonlyMap<number, EventId>
  /** Reads a stored event; undefined: it is damaged. */
  read(partition: number, entry: StreamEntry): OutboxEntry | undefined
  /** Called when a partition's stream cannot be read at all. */
  damaged(partition: number, error: Error): void
}

/**
 * The first `count` events after `from`, over all partitions, in the order of their places. Read in pages that are as small as the partitions are many, so
 * that memory stays at a few times what is answered. Throws what the link throws.
 */
export async function scanEvents(parts: ScanParts, from: EventPlace | null, count: number): Promise<OutboxEntry[]> {
  const page = Math.min(PAGE_MAX, Math.max(2, Math.ceil((2 * count) / Math.max(1, parts.partitions.length))))
  let sources: Source[] = parts.partitions.map((partition) => ({ partition, next: rangeStart(partition, laterOf(from, partition, parts.through)), more: true, ahead: [] }))
  const found: OutboxEntry[] = []
  while (found.length < count) {
    await refill(parts, sources.filter((source) => source.more && source.ahead.length === 0), page)
    sources = sources.filter((source) => source.more || source.ahead.length > 0)
    if (sources.length === 0) break
    // Beyond the end of what one of them has shown, it may have something that comes first.
    let horizon: EventPlace | null = null
    for (const { more, ahead } of sources) {
      if (!more) continue
      const last = ahead.length === 0 ? null : toPlace(ahead.at(-1)!.position)
      if (last !== null && (horizon === null || comparePlaces(last, horizon) < 0)) horizon = last
    }
    const ready: { place: EventPlace; entry: OutboxEntry }[] = []
    for (const source of sources) {
      let taken = 0
      for (const entry of source.ahead) {
        const place = toPlace(entry.position)
        if (horizon !== null && comparePlaces(place, horizon) > 0) break
        ready.push({ place, entry })
        taken += 1
      }
      source.ahead = source.ahead.slice(taken)
    }
    for (const { entry } of ready.sort((a, b) => comparePlaces(a.place, b.place))) if (found.length < count) found.push(entry)
  }
  return found
}

function laterOf(from: EventPlace | null, partition: number, through: ScanParts['through']): EventPlace | null {
  const id = through?.get(partition)
  if (id === undefined) return from
  const place = { ...id, partition }
  return from === null || comparePlaces(place, from) > 0 ? place : from
}

async function refill({ link, keys, read, damaged }: ScanParts, sources: readonly Source[], page: number): Promise<void> {
  let empty = [...sources]
  while (empty.length > 0) {
    const pages = await link.commands(empty.map(({ partition, next }) => {
      const key = keys.events(partition)
      return { key, name: 'XRANGE', args: [key, next, '+', 'COUNT', page] }
    }))
    for (const [i, source] of empty.entries()) {
      const answer = pages[i]
      if (answer instanceof Error) {
        if (answer.name !== 'RedisError') throw answer
        damaged(source.partition, answer)
        source.more = false
        continue
      }
      const entries = answer as readonly StreamEntry[]
      source.more = entries.length === page
      if (entries.length > 0) source.next = `(${eventIdText(toEventId(entries.at(-1)![0]))}`
      source.ahead = entries.flatMap((entry) => read(source.partition, entry) ?? [])
    }
    // A page of nothing but damaged events.
    empty = empty.filter((source) => source.more && source.ahead.length === 0)
  }
}
