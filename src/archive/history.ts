import type { Clock } from '../clock.ts'
import { timeOfId, toUsageEvent, type UsageEvent } from '../metering/event.ts'
import type { Outbox, Position } from '../stores/store.ts'
import { settledMs, type Archive, type ArchivePlace } from './archive.ts'

/** The name under which the archive is delivered to. */
export const ARCHIVE = 'archive'

export interface HistoryParts {
  readonly outbox: Outbox
  /** null: none is configured. */
  archive(): Archive | null
  readonly clock: Clock
}

export interface Page {
  readonly entries: readonly { readonly position: Position; readonly event: UsageEvent }[]
  /** To ask from the next time; null: from the beginning. */
  readonly next: Position | null
}

/** Few enough that whoever reads a month of events keeps nobody waiting between two pages. */
const SCANNED = 500
/** A search for one event looks at this many recent records at most. */
const SEARCHED_MAX = 1_000_000

/**
 * All events there are: those that the store still has, and before that the archive's. What leaves the store has been archived, for the archive's cursor holds
 * back trimming as every sink's does; so nothing is missing, and an instant in the middle of what the store has tells who is asked for which.
 */
export class EventHistory {
  readonly #parts: HistoryParts

  constructor(parts: HistoryParts) {
    this.#parts = parts
  }

  /** Events settled at or after an instant, each once, about in order. */
  async *read(sinceMs: number): AsyncGenerator<UsageEvent> {
    const { outbox } = this.#parts
    const archive = this.#parts.archive()
    let fromMs = sinceMs
    // What the archive does not have yet, if that is older than what everybody else is asked for.
    const unarchivedMs = archive === null ? null : (await outbox.lag(ARCHIVE)).oldestMs
    const archived = new Set<string>()
    // Reading may take longer than the store keeps what was next: then the archive is asked for that as well.
    const startMs = this.#parts.clock.nowMs()
    for (let untilMs = await this.#boundary(fromMs, startMs); archive !== null && untilMs !== null; untilMs = await this.#boundary(fromMs, startMs)) {
      for await (const { event, atMs } of archive.read({ sinceMs: fromMs })) {
        if (atMs < fromMs || atMs >= untilMs) continue
        if (unarchivedMs !== null && atMs >= unarchivedMs) archived.add(event.id)
        yield event
      }
      fromMs = untilMs
    }
    const hotMs = Math.min(fromMs, Math.max(sinceMs, unarchivedMs ?? fromMs))
    for (let position = await outbox.positionAt(hotMs); ;) {
      const entries = await outbox.scan(position, SCANNED)
      for (const { record } of entries) {
        const event = toUsageEvent(record)
        // Without an archive everything that the store gives is told, as it comes.
        if (fromMs === sinceMs || settledMs(event) >= fromMs || (settledMs(event) >= sinceMs && unarchivedMs !== null && !archived.has(event.id))) yield event
      }
      const last = entries.at(-1)
      if (last === undefined || entries.length < SCANNED) return
      position = last.position
    }
  }

  /** `after`: what an earlier page gave as next; else from `sinceMs` (null: from the oldest that the store has). Throws RangeError for what is no position. */
  async page(after: Position | null, sinceMs: number | null, count: number): Promise<Page> {
    const { outbox } = this.#parts
    const archive = this.#parts.archive()
    const startMs = this.#parts.clock.nowMs()
    let place = after?.startsWith(MARK) === true ? toPlace(after) : null
    if (after === null && sinceMs !== null && archive !== null) {
      const untilMs = await this.#boundary(sinceMs, startMs)
      if (untilMs !== null) place = { after: null, sinceMs, untilMs }
    }
    if (place === null || archive === null) return this.#hotPage(after ?? (sinceMs === null ? null : await outbox.positionAt(sinceMs)), count, null)
    const entries: { position: Position; event: UsageEvent }[] = []
    for (;;) {
      let last: ArchivePlace | null = place.after
      for await (const { event, atMs, place: at } of archive.read({ sinceMs: place.sinceMs, after: place.after })) {
        last = at
        if (atMs < place.sinceMs || atMs >= place.untilMs) continue
        entries.push({ position: toPosition({ ...place, after: at }), event })
        if (entries.length >= count) return { entries, next: toPosition({ ...place, after: at }) }
      }
      place = { ...place, after: last }
      // The archive's end: the store goes on, if it still has all of that.
      const untilMs = await this.#boundary(place.untilMs, startMs)
      if (untilMs === null) break
      place = { after: null, sinceMs: place.untilMs, untilMs }
    }
    const hot = await this.#hotPage(await outbox.positionAt(place.untilMs), count - entries.length, place.untilMs)
    return { entries: [...entries, ...hot.entries], next: hot.next ?? toPosition(place) }
  }

  /** The event of an exchange, and its corrections. */
  async find(exchangeId: string): Promise<UsageEvent[]> {
    const { outbox } = this.#parts
    const archive = this.#parts.archive()
    const admittedMs = timeOfId(exchangeId)
    const found = new Map<string, UsageEvent>()
    if (archive !== null && await this.#boundary(admittedMs, this.#parts.clock.nowMs()) !== null) {
      for await (const { event } of archive.read({ sinceMs: admittedMs, containing: exchangeId })) if (event.id.startsWith(exchangeId)) found.set(event.id, event)
    }
    let position = await outbox.positionAt(admittedMs)
    for (let seen = 0; seen < SEARCHED_MAX;) {
      const entries = await outbox.scan(position, SCANNED)
      for (const { record } of entries) {
        if (record.id !== exchangeId) continue
        const event = toUsageEvent(record)
        found.set(event.id, event)
      }
      const last = entries.at(-1)
      if (last === undefined || entries.length < SCANNED) break
      seen += entries.length
      position = last.position
    }
    return [...found.values()]
  }

  /** How much of what was written since an instant only the archive has: up to this instant, ms. null: the store has all of it. */
  async archivedUntil(sinceMs: number): Promise<number | null> {
    return this.#parts.archive() === null ? null : await this.#boundary(sinceMs, this.#parts.clock.nowMs())
  }

  /** Events of the archive alone. */
  async *archived(sinceMs: number, untilMs: number): AsyncGenerator<UsageEvent> {
    const archive = this.#parts.archive()
    if (archive === null) return
    for await (const { event, atMs } of archive.read({ sinceMs })) if (atMs >= sinceMs && atMs < untilMs) yield event
  }

  /** In the middle of what the store has, so that it is still there when the archive has been read. null: the store has everything since `sinceMs`. */
  async #boundary(sinceMs: number, nowMs: number): Promise<number | null> {
    const completeMs = await this.#parts.outbox.completeSince?.() ?? 0
    if (completeMs <= sinceMs || sinceMs >= nowMs) return null
    return Math.floor(completeMs >= nowMs ? nowMs : (completeMs + nowMs) / 2)
  }

  async #hotPage(position: Position | null, count: number, fromMs: number | null): Promise<Page> {
    const entries: { position: Position; event: UsageEvent }[] = []
    let next = position
    while (entries.length < count) {
      const found = await this.#parts.outbox.scan(next, count - entries.length)
      for (const entry of found) {
        const event = toUsageEvent(entry.record)
        if (fromMs === null || settledMs(event) >= fromMs) entries.push({ position: entry.position, event })
      }
      next = found.at(-1)?.position ?? next
      // Without a filter one look is enough: the store may give fewer than there are.
      if (found.length === 0 || fromMs === null) break
    }
    return { entries, next }
  }
}

/** A position in the archive, as text: what it is behind, and the span of time that the archive is asked for. */
interface Place {
  readonly after: ArchivePlace | null
  readonly sinceMs: number
  readonly untilMs: number
}

const MARK = 'archive-'

function toPosition({ after, sinceMs, untilMs }: Place): Position {
  return `${MARK}${after?.inode ?? 0}-${after?.offset ?? 0}-${Math.floor(sinceMs)}-${Math.floor(untilMs)}`
}

function toPlace(position: Position): Place {
  const numbers = /^archive-(\d{1,16})-(\d{1,16})-(\d{1,16})-(\d{1,16})$/.exec(position)?.slice(1).map(Number)
  if (numbers === undefined) throw new RangeError('not a position of this store')
  const [inode = 0, offset = 0, sinceMs = 0, untilMs = 0] = numbers
  return { after: inode === 0 ? null : { inode, offset }, sinceMs, untilMs }
}
