import { statSync } from 'node:fs'
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { unreachable } from '../../assert.ts'
import { fillBallast, releaseBallast } from './ballast.ts'
import { layoutOf, type Layout } from './directory.ts'
import {
  checkedDead, checkedDocument, firstSeq, insertRow, JournalDamaged, naming, openForWriting, outboxCrc, partsCrc, readBounds, readMeta, runInsert,
  type DeadRow, type Row,
} from './journal-file.ts'
import { SQLITE_FULL, sqliteCode } from './sqlite-error.ts'
import { WatermarkFile } from './watermark.ts'
import type { DocumentsPage, OpenAsk, OutboxRow, Trimmed, WriterState, WrittenChange } from './worker-protocol.ts'

/** The one who writes the journal; it lives in a worker thread, so that waiting for the disk stalls nobody. */
const TRIMMED_AT_ONCE = 256
/** A page: a commit waits no longer than for one of them. */
const DOCUMENTS_AT_ONCE = 10_000
const READ_BYTES_MAX = 4 * 1024 * 1024
const DEAD_BYTES_MAX = 1024 * 1024
/** In pages: with little room left, the log is folded into the journal early, so that it does not grow. */
const CHECKPOINT_PAGES_FULL = 64

export class JournalWriter {
  readonly #options: OpenAsk
  readonly #layout: Layout
  readonly #watermark: WatermarkFile
  #db: DatabaseSync
  #statements: Statements
  #inode: bigint
  #first: number
  #last: number
  #full: boolean
  /** How many of each consumer are dead, as they are committed: counting them on disk takes half a second for a hundred thousand. Null: not counted. */
  #deadCounts: Map<string, number> | null = null

  constructor(options: OpenAsk) {
    this.#options = options
    this.#layout = layoutOf(options.dir)
    this.#db = openForWriting(this.#layout.journal, options.synchronous)
    this.#inode = this.#inodeOnDisk()
    const bounds = readBounds(this.#db, this.#layout.journal)
    this.#first = bounds.first
    this.#last = bounds.last
    this.#statements = prepareAll(this.#db)
    this.#watermark = new WatermarkFile(this.#layout.watermark, readMeta(this.#db, this.#layout.journal).epoch)
    this.#full = !fillBallast(this.#layout.ballast, options.ballastBytes)
    if (options.verified) this.#watermark.write(this.#last)
    try {
      this.#countDead()
    } catch (error) {
      // Damage among the dead stops nothing else: who asks for them meets it.
      if (!(error instanceof JournalDamaged)) throw error
    }
  }

  get state(): WriterState {
    return { full: this.#full }
  }

  get lastSeq(): number {
    return this.#last
  }

  /** All of it or nothing. A throw means: unknown, and this connection is not to be used again. */
  commit(rows: readonly Row[], changes: readonly WrittenChange[]): void {
    this.#withBallast(() => {
      if (rows.length > 0 && this.#last === rows.at(-1)!.seq) return
      this.#transaction(rows, changes)
    })
    if (rows.length > 0) this.#last = rows.at(-1)!.seq
    this.#checkStillThere()
  }

  /** After the acknowledgement has been sent. False: not written, which only makes it lag. */
  mark(seq: number): boolean {
    try {
      this.#watermark.write(seq)
      return true
    } catch {
      return false
    }
  }

  probe(): void {
    this.#withBallast(() => {
      this.#db.exec(`INSERT INTO meta VALUES ('probe', '0') ON CONFLICT (name) DO UPDATE SET value = value + 1`)
      // Frames that a failed sync may have left only in memory must not stay below new ones.
      this.#db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    })
    this.#checkStillThere()
  }

  look(): void {
    this.#checkStillThere()
    if (!this.#full || !fillBallast(this.#layout.ballast, this.#options.ballastBytes)) return
    this.#full = false
    this.#db.exec('PRAGMA wal_autocheckpoint = 1000')
  }

  read(after: number, count: number): OutboxRow[] {
    const path = this.#layout.journal
    const from = firstSeq(this.#first, this.#last, (seq) => this.#numbers(seq).lastEvent > after)
    const rows: OutboxRow[] = []
    let found = 0
    let bytes = 0
    naming(path, () => {
      for (const raw of this.#statements.outboxFrom.iterate(from)) {
        const row: Row = {
          seq: Number(raw['seq']), atMs: Number(raw['at_ms']), events: Number(raw['events']), lastEvent: Number(raw['last_event']), effects: '', outbox: String(raw['outbox']),
        }
        if (raw['outbox_crc'] !== outboxCrc(row)) throw new JournalDamaged(`${path}: the events of row ${row.seq} fail their checksum`)
        const first = row.lastEvent - row.events + 1
        rows.push({ first, outbox: row.outbox })
        found += row.lastEvent - Math.max(after, first - 1)
        bytes += row.outbox.length
        if (found >= count || bytes >= READ_BYTES_MAX) break
      }
    })
    return rows
  }

  ordinalBefore(atMs: number): number {
    const seq = firstSeq(this.#first, this.#last, (one) => this.#numbers(one).atMs >= atMs)
    if (seq > this.#last) return this.#last < this.#first ? 0 : this.#numbers(this.#last).lastEvent
    const { lastEvent, events } = this.#numbers(seq)
    let ordinal = lastEvent - events
    const [row] = events === 0 ? [] : this.read(ordinal, 1)
    for (const record of row === undefined ? [] : JSON.parse(row.outbox) as { atMs: number }[]) {
      if (record.atMs >= atMs) break
      ordinal += 1
    }
    return ordinal
  }

  dead(consumer: string | null, after: { readonly consumer: string; readonly ordinal: number } | null, count: number): DeadRow[] {
    const path = this.#layout.journal
    const { dead, deadOf } = this.#statements
    const rows: DeadRow[] = []
    let bytes = 0
    naming(path, () => {
      let found: ReturnType<typeof dead.iterate>
      if (consumer === null) found = dead.iterate(after?.consumer ?? '', after?.ordinal ?? -1, count)
      // Of another consumer's place only the name counts.
      else if (after !== null && after.consumer > consumer) return
      else found = deadOf.iterate(consumer, after?.consumer === consumer ? after.ordinal : -1, count)
      for (const raw of found) {
        const row = checkedDead(raw, path)
        rows.push(row)
        bytes += row.record.length
        if (bytes >= DEAD_BYTES_MAX) break
      }
    })
    return rows
  }

  deadCount(consumer: string): number {
    return (this.#deadCounts ?? this.#countDead()).get(consumer) ?? 0
  }

  document(kind: string, id: string): string | null {
    const row = naming(this.#layout.journal, () => this.#statements.document.get(kind, id))
    return row === undefined ? null : checkedDocument(row, kind, this.#layout.journal).value
  }

  documents(kind: string, after: string | null): DocumentsPage {
    const { documents, documentsAfter } = this.#statements
    const rows = naming(this.#layout.journal, () => (after === null ? documents.all(kind) : documentsAfter.all(kind, after)))
    return { documents: rows.map((row) => checkedDocument(row, kind, this.#layout.journal)), more: rows.length === DOCUMENTS_AT_ONCE }
  }

  /** Removes the oldest rows that are in the snapshot, delivered, and cold; never the last. */
  trim(seq: number, event: number, beforeMs: number): Trimmed {
    let through = this.#first - 1
    const upTo = Math.min(seq, this.#last - 1, this.#first + TRIMMED_AT_ONCE - 1)
    for (let one = this.#first; one <= upTo; one++) {
      const { lastEvent, atMs } = this.#numbers(one)
      if (lastEvent > event || atMs >= beforeMs) break
      through = one
    }
    const rows = through - this.#first + 1
    // Removing needs room as well; what is left of it is for settling.
    if (rows > 0 && this.#full) return { rows: 0, trimmedThrough: readBounds(this.#db, this.#layout.journal).trimmedThrough, more: false }
    if (rows > 0) {
      this.#withBallast(() => this.#statements.trim.run(through))
      this.#first = through + 1
    }
    return { rows, trimmedThrough: readBounds(this.#db, this.#layout.journal).trimmedThrough, more: rows === TRIMMED_AT_ONCE }
  }

  close(): void {
    this.#watermark.close()
    this.#db.close()
  }

  /** A full disk is met before anything is promised to be on it: with the ballast gone it is tried again, on another connection. */
  #withBallast(write: () => void): void {
    try {
      write()
    } catch (error) {
      if (sqliteCode(error) !== SQLITE_FULL || !releaseBallast(this.#layout.ballast, this.#options.ballastBytes)) throw error
      this.#full = true
      this.#reopen()
      write()
    }
  }

  #transaction(rows: readonly Row[], changes: readonly WrittenChange[]): void {
    const run = this.#statements
    const buried = new Map<string, number>()
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      for (const row of rows) runInsert(run.insert, row)
      for (const change of changes) this.#change(change, buried)
      this.#db.exec('COMMIT')
      for (const [consumer, more] of buried) this.#deadCounts?.set(consumer, (this.#deadCounts.get(consumer) ?? 0) + more)
    } catch (error) {
      // SQLite has rolled back by itself after most failures.
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw error
    }
  }

  /** `buried`: how many more of each consumer are dead. */
  #change(change: WrittenChange, buried: Map<string, number>): void {
    const run = this.#statements
    switch (change.kind) {
      case 'cursor': run.cursor.run(change.consumer, change.ordinal, partsCrc(change.consumer, change.ordinal)); return
      case 'bury': {
        const { consumer, ordinal, reason, buriedMs, record } = change
        if (run.isDead.get(consumer, ordinal) === undefined) buried.set(consumer, (buried.get(consumer) ?? 0) + 1)
        run.bury.run(consumer, ordinal, reason, buriedMs, record, partsCrc(consumer, ordinal, reason, buriedMs, record))
        return
      }
      case 'exhume': buried.set(change.consumer, (buried.get(change.consumer) ?? 0) - Number(run.exhume.run(change.consumer, change.ordinal).changes)); return
      case 'put': run.put.run(change.of, change.id, change.value, partsCrc(change.of, change.id, change.value)); return
      case 'delete': run.delete.run(change.of, change.id); return
      default: unreachable(change)
    }
  }

  #countDead(): Map<string, number> {
    const rows = naming(this.#layout.journal, () => this.#db.prepare('SELECT consumer, count(*) AS count FROM dead GROUP BY consumer').all())
    this.#deadCounts = new Map(rows.map((row) => [String(row['consumer']), Number(row['count'])]))
    return this.#deadCounts
  }

  #reopen(): void {
    this.#db.close()
    this.#db = openForWriting(this.#layout.journal, this.#options.synchronous)
    this.#db.exec(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES_FULL}`)
    this.#statements = prepareAll(this.#db)
    // The commit that failed may be there.
    this.#deadCounts = null
    this.#last = readBounds(this.#db, this.#layout.journal).last
    this.#inode = this.#inodeOnDisk()
  }

  #checkStillThere(): void {
    if (this.#inodeOnDisk() !== this.#inode) throw new JournalDamaged(`${this.#layout.journal} was replaced while it was open`)
  }

  #inodeOnDisk(): bigint {
    const found = statSync(this.#layout.journal, { bigint: true, throwIfNoEntry: false })
    if (found === undefined) throw new JournalDamaged(`${this.#layout.journal} is gone: the data directory was deleted or moved; nothing is created in its place`)
    return found.ino
  }

  #numbers(seq: number): { readonly atMs: number; readonly events: number; readonly lastEvent: number } {
    const row = naming(this.#layout.journal, () => this.#statements.numbers.get(seq))
    if (row === undefined) throw new JournalDamaged(`${this.#layout.journal}: row ${seq} is missing`)
    return { atMs: Number(row['at_ms']), events: Number(row['events']), lastEvent: Number(row['last_event']) }
  }
}

type Statements = ReturnType<typeof prepareAll>

function prepareAll(db: DatabaseSync) {
  const prepare = (sql: string): StatementSync => db.prepare(sql)
  return {
    insert: insertRow(db),
    cursor: prepare('INSERT OR REPLACE INTO cursors (consumer, ordinal, crc) VALUES (?, ?, ?)'),
    bury: prepare('INSERT OR REPLACE INTO dead (consumer, ordinal, reason, buried_ms, record, crc) VALUES (?, ?, ?, ?, ?, ?)'),
    exhume: prepare('DELETE FROM dead WHERE consumer = ? AND ordinal = ?'),
    put: prepare('INSERT OR REPLACE INTO documents (kind, id, value, crc) VALUES (?, ?, ?, ?)'),
    delete: prepare('DELETE FROM documents WHERE kind = ? AND id = ?'),
    outboxFrom: prepare('SELECT seq, at_ms, events, last_event, outbox, outbox_crc FROM journal WHERE seq >= ? AND events > 0 ORDER BY seq'),
    numbers: prepare('SELECT at_ms, events, last_event FROM journal WHERE seq = ?'),
    isDead: prepare('SELECT 1 FROM dead WHERE consumer = ? AND ordinal = ?'),
    dead: prepare('SELECT * FROM dead WHERE (consumer, ordinal) > (?, ?) ORDER BY consumer, ordinal LIMIT ?'),
    deadOf: prepare('SELECT * FROM dead WHERE consumer = ? AND ordinal > ? ORDER BY ordinal LIMIT ?'),
    document: prepare('SELECT id, value, crc FROM documents WHERE kind = ? AND id = ?'),
    documents: prepare(`SELECT id, value, crc FROM documents WHERE kind = ? ORDER BY id LIMIT ${DOCUMENTS_AT_ONCE}`),
    documentsAfter: prepare(`SELECT id, value, crc FROM documents WHERE kind = ? AND id > ? ORDER BY id LIMIT ${DOCUMENTS_AT_ONCE}`),
    trim: prepare('DELETE FROM journal WHERE seq <= ?'),
  }
}
