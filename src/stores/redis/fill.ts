import type { Clock } from '../../clock.ts'
import type { OutboxRecord } from '../../metering/event.ts'
import { Tally, RowsRefused, type ClosedRow, type ContentRow, type CounterRow, type DeadRow, type EventRow, type Filled, type Homes, type StoreRow } from '../rows.ts'
import { toClosedText } from './closed-text.ts'
import { beginFilling, endFilling, type StoreMeta } from './epoch.ts'
import { toPosition } from './event-position.ts'
import { toFields } from './event-record.ts'
import { KeyNames } from './keys.ts'
import type { LinkCommand, RedisLink } from './link.ts'
import { MARGIN_MS } from './moves.ts'
import { deadField, deadMember } from './outbox.ts'
import { scanKeys } from './scan-keys.ts'

export interface FillParts {
  readonly link: RedisLink
  readonly prefix: string
  readonly partitions: number
  /** Where the source has none that machines remember. */
  readonly newEpoch: () => string
  readonly clock: Clock
  readonly forgetAfterMs: number
  /** The instant that an id begins with. */
  readonly timeOf: (id: string) => number
}

const WRITTEN_TOGETHER = 512
const DEADLINE_MS = 5_000
const SHORTEST_MS = 1_000
/** Positions of the dead are of no event that will ever be there. */
const DEAD_ORDINAL = 900_000_000_000_000

/** Writes the rows of another store into an empty Redis. Nobody can open it until all is there. Throws RowsRefused, StoreRefused, StoreUnavailable. */
export async function fillRedis(parts: FillParts, rows: AsyncIterable<StoreRow>, homes: Homes): Promise<Filled> {
  const { link, prefix, partitions, clock } = parts
  const keys = new KeyNames(prefix, partitions)
  for await (const page of scanKeys(link, keys)) throw new RowsRefused(`the target is not empty: it has keys such as ${page[0]}; choose another store.prefix, or empty it`)
  let meta: StoreMeta | null = null
  const filling = new Filling(parts, keys, homes)
  for await (const row of rows) {
    if (row.t === 'store') meta = await beginFilling(link, prefix, partitions, row.epoch ?? parts.newEpoch(), clock.nowMs())
    if (meta === null) throw new RowsRefused('these rows have no header')
    await filling.take(row)
  }
  if (meta === null) throw new RowsRefused('there are no rows')
  const filled = await filling.end()
  await endFilling(link, prefix, meta)
  return filled
}

class Filling {
  readonly #parts: FillParts
  readonly #keys: KeyNames
  readonly #homes: Homes
  readonly #tally = new Tally()
  readonly #nowMs: number
  #commands: LinkCommand[] = []
  /** Looks at the answers of what was written, in order; null: any will do. */
  #reads: (((answer: unknown) => void) | null)[] = []
  /** The source's partitions are ours. */
  #samePlaces = false
  #over = 0
  readonly #consumers: string[] = []
  /** Markers whose partition only their event may tell. */
  readonly #homeless = new Map<string, ClosedRow>()
  /** Id of the last event of each partition, and how far each consumer has come. */
  readonly #lasts = new Map<number, { readonly ms: number; readonly ordinal: number }>()
  readonly #cursors = new Map<string, Map<number, string>>()
  #lastMs = 0
  #dead = 0

  constructor(parts: FillParts, keys: KeyNames, homes: Homes) {
    this.#parts = parts
    this.#keys = keys
    this.#homes = homes
    this.#nowMs = parts.clock.nowMs()
  }

  async take(row: StoreRow): Promise<void> {
    switch (row.t) {
      case 'store': this.#samePlaces = row.partitions === this.#keys.partitions; return
      case 'end': return
      case 'consumer': this.#consumers.push(row.name); this.#tally.add(row); break
      case 'document': this.#homes.learn(row); this.#document(row); break
      case 'dead': this.#bury(row); break
      case 'counter': this.#count(row); break
      case 'closed': this.#close(row); break
      case 'expired': this.#close(row); break
      case 'event': this.#append(row)
    }
    if (this.#commands.length >= WRITTEN_TOGETHER) await this.#write()
  }

  async end(): Promise<Filled> {
    const configured = JSON.stringify({ v: 1, configured: this.#nowMs })
    for (const name of this.#consumers) this.#add(this.#keys.consumers(), 'HSET', [name, configured])
    for (const [name, cursors] of this.#cursors) for (const [p, id] of cursors) this.#add(this.#keys.cursor(p, name), 'HSET', ['token', '0', 'id', id])
    for (const [p, { ms, ordinal }] of this.#lasts) this.#add(this.#keys.lastEvent(p), 'SET', [`${ms}-${ordinal}`])
    await this.#write()
    return { tally: this.#tally, over: this.#over, homeless: this.#homeless.size, again: new Map() }
  }

  #document(row: Extract<ContentRow, { t: 'document' }>): void {
    this.#tally.add(row)
    this.#add(this.#keys.records(row.kind), 'HSET', [row.id, JSON.stringify(row.value)])
  }

  #bury(row: DeadRow): void {
    this.#tally.add(row)
    const { consumer, reason, buriedMs, record } = row
    const position = toPosition({ ms: Math.max(0, Math.floor(record.atMs)), partition: this.#partitionOf(record), ordinal: DEAD_ORDINAL + ++this.#dead })
    this.#add(this.#keys.dead(), 'HSET', [deadField(consumer, position), JSON.stringify({ v: 1, consumer, position, reason, buried: buriedMs, record })])
    this.#add(this.#keys.deadOrder(), 'ZADD', [0, deadMember(consumer, position)])
  }

  #count(row: CounterRow): void {
    const { name, settled, ends } = row
    const lifeMs = ends === null ? null : ends + this.#parts.forgetAfterMs - this.#nowMs
    if (lifeMs !== null && lifeMs <= 0) {
      this.#over += 1
      return
    }
    this.#tally.add(row)
    const key = this.#keys.settled(this.#placed(row.partition) ?? this.#keys.partitionOf(this.#homes.ofCounter(name)), name)
    // Counters of one name are one here: an account that was moved under another root left some behind.
    this.#add(key, 'INCRBY', [settled], (sum) => { if (String(sum) !== settled) this.#tally.merged() })
    if (lifeMs !== null) this.#add(key, 'PEXPIRE', [Math.max(SHORTEST_MS, Math.ceil(lifeMs + MARGIN_MS))])
  }

  #close(row: Extract<ContentRow, { t: 'closed' | 'expired' }>): void {
    if (this.#parts.timeOf(row.id) + this.#parts.forgetAfterMs < this.#nowMs) {
      this.#over += 1
      return
    }
    const partition = row.t === 'expired' ? this.#placed(row.partition) ?? this.#keys.partitionOf(row.reservation.home) : this.#placed(row.partition)
    if (partition === undefined) this.#homeless.set(row.id, row as ClosedRow)
    else this.#mark(partition, row)
  }

  #mark(partition: number, row: Extract<ContentRow, { t: 'closed' | 'expired' }>): void {
    this.#tally.add(row)
    const { timeOf, forgetAfterMs } = this.#parts
    const lifeMs = Math.max(SHORTEST_MS, Math.ceil(timeOf(row.id) + forgetAfterMs + MARGIN_MS - this.#nowMs))
    this.#add(this.#keys.reservation(partition, row.id), 'SET', [toClosedText(row), 'PX', lifeMs])
  }

  #append(row: EventRow): void {
    this.#tally.add(row)
    const { record, done } = row
    const partition = this.#placed(row.partition) ?? this.#partitionOf(record)
    const closed = this.#homeless.get(record.id)
    if (closed !== undefined) {
      this.#homeless.delete(record.id)
      this.#mark(partition, closed)
    }
    // In the order in which they come, over all partitions.
    this.#lastMs = Math.max(this.#lastMs, Math.floor(record.atMs))
    const last = { ms: this.#lastMs, ordinal: (this.#lasts.get(partition)?.ordinal ?? 0) + 1 }
    this.#lasts.set(partition, last)
    const id = `${last.ms}-${last.ordinal}`
    this.#add(this.#keys.events(partition), 'XADD', [id, ...toFields(record)])
    for (const name of done) {
      let cursors = this.#cursors.get(name)
      if (cursors === undefined) this.#cursors.set(name, cursors = new Map())
      cursors.set(partition, id)
    }
  }

  #placed(partition: number | undefined): number | undefined {
    return this.#samePlaces ? partition : undefined
  }

  #partitionOf({ body }: OutboxRecord): number {
    return this.#keys.partitionOf(this.#homes.ofAccount(body.account))
  }

  #add(key: string, name: string, args: readonly (string | number)[], read: ((answer: unknown) => void) | null = null): void {
    this.#commands.push({ key, name, args: [key, ...args] })
    this.#reads.push(read)
  }

  async #write(): Promise<void> {
    const [commands, reads] = [this.#commands, this.#reads]
    this.#commands = []
    this.#reads = []
    const answers = await this.#parts.link.commands(commands, { deadlineMs: DEADLINE_MS })
    for (const [i, answer] of answers.entries()) {
      if (answer instanceof Error) throw answer
      reads[i]?.(answer)
    }
  }
}
