import { crc32 } from 'node:zlib'
import type { EventSkeleton, OutboxRecord } from '../metering/event.ts'
import type { Counted } from '../metering/moves.ts'

/**
 * Everything that a store keeps, as rows that every store can give and take: what `store copy`, `store backup` and `store restore` carry. In a file they are
 * lines of JSON. The header comes first and the end last; in between consumers, documents, dead events, counters and reservations, then events in order.
 * Nothing is held in them: a store that has an open reservation gives no rows.
 */
export type StoreRow = HeaderRow | ConsumerRow | DocumentRow | DeadRow | CounterRow | ClosedRow | ExpiredRow | EventRow | EndRow
/** Without header and end. */
export type ContentRow = Exclude<StoreRow, HeaderRow | EndRow>

export const ROWS_FORMAT = 1

export interface HeaderRow {
  readonly t: 'store'
  readonly format: number
  /** Of the product that wrote it. */
  readonly version: string
  readonly source: string
  /** Of a store that has them: what the rows' `partition` counts from. */
  readonly partitions: number | null
  /** The making of the books: machines that know it know the copy too. null: nobody does. */
  readonly epoch: string | null
  /** ISO 8601. */
  readonly at: string
}

/** Somebody who is or was delivered to. */
export interface ConsumerRow {
  readonly t: 'consumer'
  readonly name: string
}

export interface DocumentRow {
  readonly t: 'document'
  readonly kind: string
  readonly id: string
  readonly value: Readonly<Record<string, unknown>>
}

export interface DeadRow {
  readonly t: 'dead'
  readonly consumer: string
  readonly reason: string
  readonly buriedMs: number
  readonly record: OutboxRecord
}

export interface CounterRow {
  readonly t: 'counter'
  readonly name: string
  /** Decimal text: it may be larger than a number holds. */
  readonly settled: string
  /** End of its window; null: lifetime. */
  readonly ends: number | null
  readonly partition?: number
}

/** A reservation that was settled (`digest` of what was settled) or voided (`''`), for as long as a move on it may be repeated. */
export interface ClosedRow {
  readonly t: 'closed'
  readonly id: string
  readonly digest: string
  readonly partition?: number
}

/** A reservation that was expired, and may still be settled late. */
export interface ExpiredRow {
  readonly t: 'expired'
  readonly id: string
  readonly reservation: ExpiredReservation
  readonly partition?: number
}

export interface ExpiredReservation {
  readonly home: string
  readonly u: number
  readonly lines: readonly HeldLine[]
  readonly booked: Counted
  readonly corrections: number
  readonly skeleton: EventSkeleton
}

export interface HeldLine {
  readonly slot: string
  readonly ends: number | null
  readonly buckets: readonly { readonly name: string; readonly ceiling: number | null; readonly counter: string | null }[]
  readonly held: number
}

export interface EventRow {
  readonly t: 'event'
  readonly record: OutboxRecord
  /** Consumers that are done with it. */
  readonly done: readonly string[]
  readonly partition?: number
}

/** Proof that a file is whole. */
export interface EndRow {
  readonly t: 'end'
  readonly rows: number
  readonly tally: Readonly<Record<string, unknown>>
}

/** The store cannot give or take rows as it is; the message is a sentence that says what to do. */
export class RowsRefused extends Error {
  override name = 'RowsRefused'
}

/** Where what is counted and written for somebody has its place: his root account. */
export interface Homes {
  /** Keys made at run time are learnt from their documents. */
  learn(row: DocumentRow): void
  ofCounter(name: string): string
  ofAccount(id: string): string
}

/** What a store took of the rows that it was given. */
export interface Filled {
  readonly tally: Tally
  /** What nobody can ask for any more: windows and reservations that are over. */
  readonly over: number
  /** Markers of closed reservations whose account nothing tells any more. */
  readonly homeless: number
  /** Events that will be delivered again, by consumer: cursors of partitions became one. */
  readonly again: ReadonlyMap<string, number>
}

/** What a stream of rows holds, so that two can be compared: order and repetition of the reading do not matter, content does. */
export class Tally {
  rows = 0
  counters = 0
  settled = 0n
  closed = 0
  expired = 0
  documents = 0
  dead = 0
  events = 0
  /** Events that a consumer is not done with. */
  readonly waiting = new Map<string, number>()
  /** Over the content of all rows. */
  checksum = 0n

  add(row: ContentRow): void {
    this.rows += 1
    switch (row.t) {
      case 'consumer':
        if (!this.waiting.has(row.name)) this.waiting.set(row.name, 0)
        break
      case 'counter':
        this.counters += 1
        this.settled += BigInt(row.settled)
        // Linear, because counters of one name may become one.
        this.checksum += BigInt(crc32(row.name)) * BigInt(row.settled)
        break
      case 'closed':
        this.closed += 1
        this.#weigh(['closed', row.id, row.digest])
        break
      case 'expired': {
        this.expired += 1
        const { home, booked, corrections } = row.reservation
        this.#weigh(['expired', row.id, home, booked.amounts, corrections])
        break
      }
      case 'document':
        this.documents += 1
        this.#weigh(['document', row.kind, row.id, row.value])
        break
      case 'dead':
        this.dead += 1
        this.#weigh(['dead', row.consumer, row.reason, row.buriedMs, textOf(row.record)])
        break
      case 'event':
        this.events += 1
        this.#weigh(['event', textOf(row.record)])
        for (const name of this.waiting.keys()) if (!row.done.includes(name)) this.waiting.set(name, this.waiting.get(name)! + 1)
    }
  }

  /** Two counters of one name have become one. */
  merged(): void {
    this.counters -= 1
  }

  toDocument(): Readonly<Record<string, unknown>> {
    const { counters, settled, closed, expired, documents, dead, events, checksum } = this
    return { counters, settled: String(settled), closed, expired, documents, dead, events, waiting: Object.fromEntries(this.waiting), checksum: String(checksum) }
  }

  #weigh(content: readonly unknown[]): void {
    this.checksum += BigInt(crc32(JSON.stringify(content)))
  }
}

function textOf({ kind, id, correction, atMs, body, usage, booked, drawn, overruns }: OutboxRecord): string {
  const sorted = (quantities: object): [string, unknown][] => Object.entries(quantities).filter(([, amount]) => amount !== undefined).sort(([a], [b]) => (a < b ? -1 : 1))
  return JSON.stringify([kind, id, correction, atMs, body, sorted(usage), booked === null ? null : sorted(booked), drawn, overruns])
}

/** Lines of JSON, each with its line end. */
export async function* toLines(rows: AsyncIterable<StoreRow>): AsyncGenerator<string> {
  for await (const row of rows) yield `${JSON.stringify(row)}\n`
}

/** Out of text in pieces. Throws RowsRefused for what is no such file, is cut short or was changed; what was built from it by then must be dropped. */
export async function* fromLines(pieces: AsyncIterable<string>): AsyncGenerator<StoreRow> {
  const tally = new Tally()
  let rest = ''
  let line = 0
  let end: EndRow | null = null
  for await (const piece of pieces) {
    const lines = (rest + piece).split('\n')
    rest = lines.pop() ?? ''
    for (const text of lines) {
      line += 1
      const row = rowOf(text)
      if (row === null || end !== null) throw new RowsRefused(`line ${line} is not what \`store backup\` writes`)
      if ((line === 1) !== (row.t === 'store')) throw new RowsRefused(line === 1 ? 'this is not a file of `store backup`' : `line ${line} is not what \`store backup\` writes`)
      if (row.t === 'store' && row.format > ROWS_FORMAT) throw new RowsRefused(`this backup is of format ${row.format}, and this release knows ${ROWS_FORMAT}: use the release that wrote it, or a newer one`)
      if (row.t === 'end') end = row
      else if (row.t !== 'store') tally.add(row)
      yield row
    }
  }
  if (end === null || rest !== '' || end.rows !== tally.rows || JSON.stringify(end.tally) !== JSON.stringify(tally.toDocument())) {
    throw new RowsRefused(end === null ? 'the file is cut short: its end is missing' : 'the file was changed after it was written: its counts do not agree with its end')
  }
}

const kinds: ReadonlySet<string> = new Set<StoreRow['t']>(['store', 'consumer', 'document', 'dead', 'counter', 'closed', 'expired', 'event', 'end'])

function rowOf(text: string): StoreRow | null {
  try {
    const row = JSON.parse(text) as unknown
    return typeof row === 'object' && row !== null && 't' in row && typeof row.t === 'string' && kinds.has(row.t) ? row as StoreRow : null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

/** The rows of a store with header and end around them. */
export async function* framed(header: Omit<HeaderRow, 't' | 'format'>, rows: AsyncIterable<ContentRow>): AsyncGenerator<StoreRow> {
  const tally = new Tally()
  yield { t: 'store', format: ROWS_FORMAT, ...header }
  for await (const row of rows) {
    tally.add(row)
    yield row
  }
  yield { t: 'end', rows: tally.rows, tally: tally.toDocument() }
}
