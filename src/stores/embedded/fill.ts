import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { RowsRefused, Tally, type ClosedRow, type CounterRow, type DeadRow, type DocumentRow, type EventRow, type ExpiredRow, type Filled, type StoreRow } from '../rows.ts'
import { layoutOf, lockDirectory, prepareDirectory, syncDirectory, type Layout } from './directory.ts'
import { createJournal, insertRow, partsCrc, readMeta, runInsert } from './journal-file.ts'
import { snapshotPath, writeSnapshot } from './snapshot.ts'
import { WatermarkFile } from './watermark.ts'

export interface FillOptions {
  readonly dir: string
  readonly nowMs: number
  readonly forgetAfterMs: number
  /** The instant that an id begins with. */
  readonly timeOf: (id: string) => number
}

/** What a copy that was stopped leaves: nobody uses it. */
const FILLING = 'filling'
const EVENTS_A_ROW = 256
/** Events of one instant that are put in order together. */
const TOGETHER_MAX = 50_000

/**
 * Makes a store of another's rows, in a folder that has none. It is there in one step: a crash leaves no store. Throws RowsRefused, DirectoryRefused.
 * A cursor is one number here: what some of the source's partitions had delivered beyond it is delivered again.
 */
export async function fillEmbedded(options: FillOptions, rows: AsyncIterable<StoreRow>): Promise<Filled> {
  const layout = prepareDirectory(options.dir)
  const unlock = lockDirectory(layout, { pid: process.pid, adminAddress: null, sinceMs: options.nowMs })
  const staged = layoutOf(join(layout.dir, FILLING))
  try {
    const there = readdirSync(layout.dir).filter((name) => name.startsWith('journal.db') || name === 'watermark' || name.startsWith('snapshot-'))
    if (there.length > 0) throw new RowsRefused(`the target is not empty: ${layout.dir} has ${there.join(', ')}; choose another folder`)
    rmSync(staged.dir, { recursive: true, force: true })
    mkdirSync(staged.dir, { mode: 0o700 })
    createJournal(staged)
    const filling = new Filling(options, staged)
    let filled: { readonly filled: Filled; readonly epoch: string; readonly seq: number }
    try {
      for await (const row of rows) filling.take(row)
      filled = filling.end()
    } finally {
      filling.close()
    }
    publish(staged, layout, filled.epoch, filled.seq)
    return filled.filled
  } finally {
    rmSync(staged.dir, { recursive: true, force: true })
    unlock()
  }
}

/** The journal last: with it the store is there. */
function publish(staged: Layout, layout: Layout, epoch: string, seq: number): void {
  const fd = openSync(staged.journal, 'r')
  fsyncSync(fd)
  closeSync(fd)
  renameSync(snapshotPath(staged.dir, seq), snapshotPath(layout.dir, seq))
  syncDirectory(layout.dir)
  renameSync(staged.journal, layout.journal)
  syncDirectory(layout.dir)
  const mark = new WatermarkFile(layout.watermark, epoch)
  mark.write(seq)
  mark.close()
}

interface Consumer {
  cursor: number
  /** Nothing before the cursor's end has been left out. */
  whole: boolean
  again: number
}

class Filling {
  readonly #options: FillOptions
  readonly #layout: Layout
  readonly #db: DatabaseSync
  readonly #insert: ReturnType<typeof insertRow>
  readonly #tally = new Tally()
  readonly #counters = new Map<string, { settled: bigint; ends: number | null }>()
  readonly #reservations: string[] = []
  readonly #consumers = new Map<string, Consumer>()
  #over = 0
  #dead = 0
  /** The journal begins at row 2: should the snapshot be lost, what is missing is seen. */
  #seq = 1
  #ordinal = 0
  #atMs = 0
  /** Events of the last instant. */
  #together: EventRow[] = []
  #records: unknown[] = []
  #recordsMs = 0

  constructor(options: FillOptions, layout: Layout) {
    this.#options = options
    this.#layout = layout
    this.#db = new DatabaseSync(layout.journal)
    this.#db.exec('BEGIN')
    this.#insert = insertRow(this.#db)
  }

  take(row: StoreRow): void {
    switch (row.t) {
      case 'store': case 'end': return
      case 'consumer': this.#consumers.set(row.name, { cursor: 0, whole: true, again: 0 }); this.#tally.add(row); return
      case 'document': this.#document(row); return
      case 'dead': this.#bury(row); return
      case 'counter': this.#count(row); return
      case 'closed': case 'expired': this.#close(row); return
      case 'event': this.#gather(row)
    }
  }

  end(): { readonly filled: Filled; readonly epoch: string; readonly seq: number } {
    this.#flush()
    this.#row(true)
    for (const [name, { cursor }] of this.#consumers) {
      const ordinal = Math.max(cursor, this.#dead)
      this.#db.prepare('INSERT INTO cursors VALUES (?, ?, ?)').run(name, ordinal, partsCrc(name, ordinal))
    }
    this.#db.exec('COMMIT; PRAGMA wal_checkpoint(TRUNCATE)')
    const { epoch } = readMeta(this.#db, this.#layout.journal)
    writeSnapshot(this.#layout.dir, { format: 1, epoch, seq: this.#seq }, this.#ledgerLines())
    const again = new Map([...this.#consumers].flatMap(([name, consumer]) => (consumer.again === 0 ? [] : [[name, consumer.again] as const])))
    return { filled: { tally: this.#tally, over: this.#over, homeless: 0, again }, epoch, seq: this.#seq }
  }

  close(): void {
    this.#db.close()
  }

  *#ledgerLines(): Generator<string> {
    for (const [name, { settled, ends }] of this.#counters) yield JSON.stringify(['c', name, Number(settled), 0, ends])
    yield* this.#reservations
  }

  #document(row: DocumentRow): void {
    this.#tally.add(row)
    const value = JSON.stringify(row.value)
    this.#db.prepare('INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)').run(row.kind, row.id, value, partsCrc(row.kind, row.id, value))
  }

  /** Ordinals before those of all events are theirs. */
  #bury(row: DeadRow): void {
    this.#tally.add(row)
    const { consumer, reason, buriedMs } = row
    const record = JSON.stringify(row.record)
    const ordinal = ++this.#dead
    this.#ordinal = ordinal
    this.#db.prepare('INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?)').run(consumer, ordinal, reason, buriedMs, record, partsCrc(consumer, ordinal, reason, buriedMs, record))
  }

  #count(row: CounterRow): void {
    const { name, ends } = row
    if (ends !== null && ends + this.#options.forgetAfterMs <= this.#options.nowMs) {
      this.#over += 1
      return
    }
    this.#tally.add(row)
    const before = this.#counters.get(name)
    // Counters of one name are one here: an account that was moved under another root left some behind.
    if (before !== undefined) this.#tally.merged()
    const settled = (before?.settled ?? 0n) + BigInt(row.settled)
    if (!Number.isSafeInteger(Number(settled))) throw new RowsRefused(`the counter ${name} holds ${settled}, which is more than an embedded store counts exactly`)
    this.#counters.set(name, { settled, ends: before === undefined || ends === null ? ends : before.ends === null ? null : Math.max(before.ends, ends) })
  }

  #close(row: ClosedRow | ExpiredRow): void {
    if (this.#options.timeOf(row.id) + this.#options.forgetAfterMs < this.#options.nowMs) {
      this.#over += 1
      return
    }
    this.#tally.add(row)
    this.#reservations.push(JSON.stringify(row.t === 'closed' ? ['x', row.id, row.digest] : ['e', row.id, row.reservation]))
  }

  /** Of one instant those come first that more consumers are done with: so that a cursor, which is one number here, repeats as little as can be. */
  #gather(row: EventRow): void {
    this.#tally.add(row)
    const atMs = Math.floor(row.record.atMs)
    if (atMs > this.#atMs || this.#together.length >= TOGETHER_MAX) this.#flush()
    this.#atMs = Math.max(this.#atMs, atMs)
    this.#together.push(row)
  }

  #flush(): void {
    for (const { record, done } of this.#together.toSorted((a, b) => b.done.length - a.done.length)) {
      this.#ordinal += 1
      for (const [name, consumer] of this.#consumers) {
        const has = done.includes(name)
        if (has && consumer.whole) consumer.cursor = this.#ordinal
        else if (has) consumer.again += 1
        else consumer.whole = false
      }
      this.#records.push(record)
      this.#recordsMs = this.#atMs
      if (this.#records.length >= EVENTS_A_ROW) this.#row(false)
    }
    this.#together = []
  }

  /** `always`: also without events, for the snapshot is of a row. */
  #row(always: boolean): void {
    const events = this.#records.length
    if (events === 0 && (!always || this.#seq > 1)) return
    this.#seq += 1
    runInsert(this.#insert, { seq: this.#seq, atMs: this.#recordsMs, events, lastEvent: this.#ordinal, effects: '[]', outbox: JSON.stringify(this.#records) })
    this.#records = []
  }
}
