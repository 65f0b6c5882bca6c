import { closeSync, existsSync, openSync, readSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { assert } from '../assert.ts'
import { fillBallast, releaseBallast } from '../stores/embedded/ballast.ts'
import { syncDirectory } from '../stores/embedded/directory.ts'
import { errorText, isDamage, SQLITE_FULL, sqliteCode } from '../stores/embedded/sqlite-error.ts'
import { scanWal } from '../stores/embedded/wal-scan.ts'
import { readWatermark, WatermarkFile } from '../stores/embedded/watermark.ts'
import { ENTRY_BYTES_MAX, entriesIn, entryOf, lineOf, type Entry } from './entry-line.ts'

/** The spool on disk: a SQLite file, one row per settlement. It is used in a thread of its own, so that waiting for the disk stalls nobody. */

export interface SpoolState {
  readonly count: number
  /** Of the entries' text. */
  readonly bytes: number
  /** When the oldest came; null: there is none. */
  readonly oldestMs: number | null
  /** The space put aside has been let go. */
  readonly diskFull: boolean
}

export interface SpoolRow extends Entry {
  readonly seq: number
}

/** So large that an entry lies in one piece on its page, and can be found there by itself when the pages around it are damaged. */
const PAGE_BYTES = 32_768
const CHECKPOINT_PAGES = 128
const CHECKPOINT_PAGES_FULL = 16
const SHRINK_PAGES = 64
const READ_BYTES = 1024 * 1024
const SCAN_BYTES = 16 * 1024 * 1024
const FORMAT = 1

export class SpoolFile {
  /** What was found that must be told to people: damage, and what became of it. */
  readonly notes: string[] = []
  readonly #dir: string
  readonly #path: string
  readonly #ballasts: { readonly append: string; readonly remove: string }
  readonly #ballastBytes: number
  readonly #watermark: WatermarkFile
  #db: DatabaseSync
  #statements: Statements
  #inode: bigint
  #count = 0
  #bytes = 0
  #diskFull: boolean

  /** Opens what is there, or makes it. What is damaged is kept aside, and all that can be read of it goes on. */
  constructor({ dir, ballastBytes }: { readonly dir: string; readonly ballastBytes: number }) {
    this.#dir = dir
    this.#path = join(dir, 'spool.db')
    this.#ballasts = { append: join(dir, 'ballast'), remove: join(dir, 'ballast-for-removing') }
    this.#ballastBytes = ballastBytes
    this.#db = this.#open()
    this.#statements = prepareAll(this.#db)
    this.#inode = this.#inodeOnDisk() ?? 0n
    this.#measure()
    this.#watermark = new WatermarkFile(join(dir, 'watermark'), 'spool')
    this.#watermark.write(this.#lastSeq())
    this.#diskFull = !this.#fillBallasts()
  }

  get state(): SpoolState {
    const first = this.#count === 0 ? undefined : this.#statements.first.get()
    return { count: this.#count, bytes: this.#bytes, oldestMs: first === undefined ? null : entryOf(String(first['line']))?.atMs ?? null, diskFull: this.#diskFull }
  }

  /** All of them or none. */
  append(entries: readonly Entry[]): void {
    const lines = entries.map(lineOf)
    this.#withBallast('append', () => this.#transaction(() => { for (const line of lines) this.#statements.insert.run(line) }))
    this.#count += lines.length
    for (const line of lines) this.#bytes += Buffer.byteLength(line)
    this.#checkStillThere()
    this.#watermark.write(this.#lastSeq())
  }

  /** In order, `count` at most and about a megabyte. What is not as it was written is set aside for good, and told. */
  read(after: number, count: number): SpoolRow[] {
    for (;;) {
      const rows: SpoolRow[] = []
      const damaged: number[] = []
      let bytes = 0
      for (const raw of this.#statements.from.iterate(after, count)) {
        const seq = Number(raw['seq'])
        const line = String(raw['line'])
        const entry = entryOf(line)
        if (entry === null) damaged.push(seq)
        else rows.push({ seq, ...entry })
        bytes += line.length
        if (bytes >= READ_BYTES) break
      }
      if (damaged.length > 0) this.#setAside(damaged)
      // An empty page means the end, so damage alone is no page.
      if (rows.length > 0 || damaged.length === 0) return rows
    }
  }

  remove(seqs: readonly number[]): void {
    let bytes = 0
    let count = 0
    this.#withBallast('remove', () => this.#transaction(() => {
      bytes = count = 0
      for (const seq of seqs) {
        const row = this.#statements.remove.get(seq)
        if (row === undefined) continue
        count += 1
        bytes += Number(row['bytes'])
      }
    }))
    this.#count -= count
    this.#bytes -= bytes
    if (this.#count === 0) this.#shrink()
  }

  /** Finds a deleted directory although nothing is written, and room on a disk that was full. */
  look(): void {
    this.#checkStillThere()
    if (!this.#diskFull) return
    if (this.#count === 0) this.#shrink()
    if (!this.#fillBallasts()) return
    this.#diskFull = false
    this.#db.exec(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`)
  }

  /** Takes over what another spool has left. A crash on the way leaves some entries in both: repeating a settlement changes nothing. */
  absorb(dir: string): void {
    if (!existsSync(join(dir, 'spool.db'))) return
    const other = new SpoolFile({ dir, ballastBytes: 0 })
    try {
      let taken = 0
      for (let rows = other.read(0, 256); rows.length > 0; rows = other.read(0, 256)) {
        this.append(rows)
        other.remove(rows.map(({ seq }) => seq))
        taken += rows.length
      }
      this.notes.push(...other.notes)
      if (taken > 0) this.notes.push(`${taken} settlements that another process had left in ${dir} were taken over`)
    } finally {
      other.close()
    }
  }

  close(): void {
    this.#watermark.close()
    this.#db.close()
  }

  #open(): DatabaseSync {
    const rescued = join(this.#dir, 'spool.rescued')
    if (existsSync(rescued)) this.#replace(rescued)
    if (!existsSync(this.#path)) {
      this.#tellOfMissing(0)
      return create(this.#path)
    }
    try {
      const { badOffset, framesAfter } = scanWal(`${this.#path}-wal`)
      if (badOffset !== null && framesAfter > 0) throw new Damaged(`its log fails its checksum at byte ${badOffset}`)
      const db = open(this.#path)
      try {
        this.#judge(db)
        return db
      } catch (error) {
        db.close()
        throw error
      }
    } catch (error) {
      if (!isDamage(error) && !(error instanceof Damaged)) throw error
      return this.#rescue(errorText(error))
    }
  }

  #judge(db: DatabaseSync): void {
    const found = String(db.prepare('PRAGMA quick_check(1)').get()?.['quick_check'] ?? '')
    if (found !== 'ok') throw new Damaged(found)
    const format = db.prepare('PRAGMA user_version').get()?.['user_version']
    if (format !== FORMAT) throw new Error(`${this.#path} has format ${String(format)}; this release reads format ${FORMAT}: use the release that wrote it, or a newer one`)
    this.#tellOfMissing(Number(db.prepare(`SELECT seq FROM sqlite_sequence WHERE name = 'entries'`).get()?.['seq'] ?? 0))
  }

  /** SQLite drops a damaged end of its log without a word. */
  #tellOfMissing(last: number): void {
    const mark = readWatermark(join(this.#dir, 'watermark'))
    if (typeof mark === 'object' && mark.seq > last) this.notes.push(`${this.#path}: the last ${mark.seq - last} settlements that were written are not there any more; those that the store did not take are lost`)
  }

  /** Reads every whole entry out of the damaged files, by their own marks, into a new one. Acknowledged entries may be among them: repeating is harmless. */
  #rescue(why: string): DatabaseSync {
    const found = new Map<string, Entry>()
    let broken = 0
    for (const path of [this.#path, `${this.#path}-wal`]) {
      if (existsSync(path)) broken += scan(path, (entry) => { found.set(`${entry.atMs} ${entry.json}`, entry) })
    }
    const fresh = join(this.#dir, 'spool.new')
    for (const path of [fresh, `${fresh}-wal`, `${fresh}-shm`]) rmSync(path, { force: true })
    const db = create(fresh)
    const insert = db.prepare('INSERT INTO entries (line) VALUES (?)')
    db.exec('BEGIN IMMEDIATE')
    for (const entry of [...found.values()].sort((a, b) => a.atMs - b.atMs)) insert.run(lineOf(entry))
    db.exec('COMMIT')
    // Closing folds the log into the file.
    db.close()
    const rescued = join(this.#dir, 'spool.rescued')
    renameSync(fresh, rescued)
    syncDirectory(this.#dir)
    this.#replace(rescued)
    this.notes.push(`${this.#path} is damaged (${why.replaceAll(/\s+/g, ' ')}): ${found.size} settlements were read from it and go on, ${broken} places could not be read; the damaged files are kept beside it`)
    return open(this.#path)
  }

  /** In steps that a crash may come between: as long as the rescued file is there, they are done again. */
  #replace(rescued: string): void {
    let n = 1
    while (existsSync(`${this.#path}.damaged-${n}`) || existsSync(`${this.#path}.damaged-${n}-wal`)) n += 1
    if (existsSync(`${this.#path}-wal`)) renameSync(`${this.#path}-wal`, `${this.#path}.damaged-${n}-wal`)
    rmSync(`${this.#path}-shm`, { force: true })
    if (existsSync(this.#path)) renameSync(this.#path, `${this.#path}.damaged-${n}`)
    renameSync(rescued, this.#path)
    syncDirectory(this.#dir)
  }

  #setAside(seqs: readonly number[]): void {
    this.#withBallast('append', () => this.#transaction(() => {
      for (const seq of seqs) this.#statements.setAside.run(seq)
    }))
    this.remove(seqs)
    this.notes.push(`${this.#path}: settlements ${seqs.join(', ')} fail their checksum and cannot be booked; they are kept in the table 'damaged' of that file`)
  }

  #transaction(write: () => void): void {
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      write()
      this.#db.exec('COMMIT')
    } catch (error) {
      // SQLite has rolled back by itself after most failures.
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw error
    }
  }

  #fillBallasts(): boolean {
    const { append, remove } = this.#ballasts
    return fillBallast(remove, this.#ballastBytes) && fillBallast(append, this.#ballastBytes)
  }

  /**
   * A full disk is met before anything is promised to be on it: with the ballast gone it is tried again, on another connection. Removing has one of its own,
   * for it needs room as well, and is what makes room.
   */
  #withBallast(what: 'append' | 'remove', write: () => void): void {
    try {
      write()
    } catch (error) {
      if (sqliteCode(error) !== SQLITE_FULL) throw error
      this.#diskFull = true
      if (!releaseBallast(this.#ballasts[what], this.#ballastBytes)) throw error
      this.#db.close()
      this.#db = open(this.#path)
      // The log is folded into the file early, so that it does not grow.
      this.#db.exec(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES_FULL}`)
      this.#statements = prepareAll(this.#db)
      write()
    }
  }

  /** An empty spool gives its space back, in steps that need little room themselves. */
  #shrink(): void {
    try {
      for (let before = Infinity, free = this.#freePages(); free < before; before = free, free = this.#freePages()) {
        this.#db.exec(`PRAGMA incremental_vacuum(${SHRINK_PAGES}); PRAGMA wal_checkpoint(TRUNCATE)`)
      }
    } catch (error) {
      // Only space is lost by that; it is tried again.
      if (sqliteCode(error) !== SQLITE_FULL) throw error
    }
  }

  #freePages(): number {
    return Number(this.#db.prepare('PRAGMA freelist_count').get()?.['freelist_count'] ?? 0)
  }

  #measure(): void {
    const row = this.#statements.measure.get()
    this.#count = Number(row?.['count'] ?? 0)
    this.#bytes = Number(row?.['bytes'] ?? 0)
  }

  #lastSeq(): number {
    return Number(this.#statements.lastSeq.get()?.['seq'] ?? 0)
  }

  #inodeOnDisk(): bigint | null {
    return statSync(this.#path, { bigint: true, throwIfNoEntry: false })?.ino ?? null
  }

  #checkStillThere(): void {
    if (this.#inodeOnDisk() !== this.#inode) throw new Error(`${this.#path} was deleted or replaced while it was open`)
  }
}

class Damaged extends Error {}

function create(path: string): DatabaseSync {
  const db = new DatabaseSync(path, { timeout: 5000 })
  // What was removed is overwritten: a rescue must find no more than what waits.
  db.exec(`
    PRAGMA page_size = ${PAGE_BYTES};
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA secure_delete = ON;
    BEGIN;
    CREATE TABLE entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
    CREATE TABLE damaged (seq INTEGER PRIMARY KEY, line TEXT NOT NULL);
    PRAGMA user_version = ${FORMAT};
    COMMIT;
  `)
  db.close()
  return open(path)
}

function open(path: string): DatabaseSync {
  assert(existsSync(path), 'it was looked for first')
  const db = new DatabaseSync(path, { timeout: 5000 })
  try {
    db.exec(`
      PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000;
      PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}
    `)
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

/** A file of any size, in pieces. Returns how many places could not be read. */
function scan(path: string, take: (entry: Entry) => void): number {
  const fd = openSync(path, 'r')
  const buffer = Buffer.allocUnsafe(SCAN_BYTES)
  let broken = 0
  try {
    for (let at = 0; ;) {
      const length = readSync(fd, buffer, 0, SCAN_BYTES, at)
      if (length === 0) return broken
      const found = entriesIn(buffer.subarray(0, length))
      found.entries.forEach(take)
      broken += found.broken
      const last = length < SCAN_BYTES
      if (last) return broken + (found.open === null ? 0 : 1)
      // An entry that goes on beyond this piece begins the next one; a mark may be cut as well.
      at += found.open ?? length - Math.min(length, 64)
    }
  } finally {
    closeSync(fd)
  }
}

assert(SCAN_BYTES > ENTRY_BYTES_MAX, 'a piece holds an entry')

type Statements = ReturnType<typeof prepareAll>

function prepareAll(db: DatabaseSync) {
  const prepare = (sql: string): StatementSync => db.prepare(sql)
  return {
    insert: prepare('INSERT INTO entries (line) VALUES (?)'),
    from: prepare('SELECT seq, line FROM entries WHERE seq > ? ORDER BY seq LIMIT ?'),
    first: prepare('SELECT line FROM entries ORDER BY seq LIMIT 1'),
    remove: prepare('DELETE FROM entries WHERE seq = ? RETURNING octet_length(line) AS bytes'),
    setAside: prepare('INSERT OR REPLACE INTO damaged SELECT seq, line FROM entries WHERE seq = ?'),
    measure: prepare('SELECT count(*) AS count, coalesce(sum(octet_length(line)), 0) AS bytes FROM entries'),
    lastSeq: prepare(`SELECT seq FROM sqlite_sequence WHERE name = 'entries'`),
  }
}
