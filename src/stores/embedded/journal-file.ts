import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync } from 'node:fs'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { crc32 } from 'node:zlib'
import { assert } from '../../assert.ts'
import { syncDirectory, type Layout } from './directory.ts'
import { errorText, isDamage } from './sqlite-error.ts'

/** The journal on disk: a SQLite file with one row per group of moves, and small tables for what stands beside the ledger. */

export const FORMAT = 1
export const ROW_COLUMNS = 'seq, at_ms, events, last_event, effects, effects_crc, outbox, outbox_crc'

/** One group of moves: what is written in one piece or not at all. */
export interface Row {
  /** From 1, without gaps. */
  readonly seq: number
  /** Never smaller than that of the row before. */
  readonly atMs: number
  readonly events: number
  /** Ordinal of the last event in this row or before it. */
  readonly lastEvent: number
  /** JSON arrays, in order. */
  readonly effects: string
  readonly outbox: string
}

/** Something on disk is not what was written there. The message names file and place. */
export class JournalDamaged extends Error {
  override name = 'JournalDamaged'
}

export interface Meta {
  readonly format: number
  /** Random, chosen when the store was created: files of two stores never mix. */
  readonly epoch: string
}

export type Synchronous = 'full' | 'normal'

/** An empty journal, there in one step: a crash leaves either nothing or all of it. */
export function createJournal(layout: Layout): void {
  const temporary = `${layout.journal}.tmp`
  rmSync(temporary, { force: true })
  closeSync(openSync(temporary, 'wx', 0o600))
  const db = new DatabaseSync(temporary)
  db.exec(`
    BEGIN;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE journal (
      seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, events INTEGER NOT NULL, last_event INTEGER NOT NULL,
      effects_crc INTEGER NOT NULL, outbox_crc INTEGER NOT NULL, effects TEXT NOT NULL, outbox TEXT NOT NULL
    );
    CREATE TABLE cursors (consumer TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE dead (
      consumer TEXT NOT NULL, ordinal INTEGER NOT NULL, reason TEXT NOT NULL, buried_ms INTEGER NOT NULL, record TEXT NOT NULL, crc INTEGER NOT NULL,
      PRIMARY KEY (consumer, ordinal)
    ) WITHOUT ROWID;
    CREATE TABLE documents (kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID;
    INSERT INTO meta VALUES ('format', '${FORMAT}'), ('epoch', lower(hex(randomblob(16))));
    COMMIT;
    PRAGMA journal_mode = WAL;
  `)
  // In its final mode from the start: changing it later would leave a moment at which a crash needs a rollback.
  db.close()
  const fd = openSync(temporary, 'r')
  fsyncSync(fd)
  closeSync(fd)
  renameSync(temporary, layout.journal)
  syncDirectory(layout.dir)
}

/** For writing. Never creates: an empty journal where a full one was is the worst that could happen to the books. */
export function openForWriting(path: string, synchronous: Synchronous): DatabaseSync {
  refuseMissing(path)
  const db = new DatabaseSync(path, { timeout: 5000 })
  db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous === 'full' ? 'FULL' : 'NORMAL'}; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2000`)
  return db
}

/** For reading only: closing it leaves the files as they are, which matters while they are being judged. */
export function openForReading(path: string): DatabaseSync {
  refuseMissing(path)
  return new DatabaseSync(path, { timeout: 5000, readOnly: true })
}

function refuseMissing(path: string): void {
  if (!existsSync(path)) throw new JournalDamaged(`${path} is gone: the data directory was deleted or moved; nothing is created in its place`)
}

export function readMeta(db: DatabaseSync, path: string): Meta {
  const rows = new Map(naming(path, () => db.prepare('SELECT name, value FROM meta').all()).map((row) => [String(row['name']), String(row['value'])]))
  const format = Number(rows.get('format'))
  const epoch = rows.get('epoch') ?? ''
  if (!Number.isInteger(format) || !/^[0-9a-f]{32}$/.test(epoch)) throw new JournalDamaged(`${path}: its description (table meta) is damaged`)
  if (format !== FORMAT) throw new JournalDamaged(`${path} has format ${format}; this release reads format ${FORMAT}: use the release that wrote it, or a newer one`)
  return { format, epoch }
}

/** Rows in (after, upTo], in order, each checked; refuses gaps. Reads few at a time, so that no long read holds back the writer's checkpoints. */
export function* readRows(db: DatabaseSync, path: string, after: number, upTo: number): Generator<Row> {
  const page = db.prepare(`SELECT ${ROW_COLUMNS} FROM journal WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 16`)
  let last = after
  while (last < upTo) {
    const found = naming(path, () => page.all(last, upTo))
    if (found.length === 0) throw new JournalDamaged(`${path}: row ${last + 1} is missing, though row ${upTo} is there`)
    for (const raw of found) {
      const row = checkedRow(raw, path)
      if (row.seq !== last + 1) throw new JournalDamaged(`${path}: row ${last + 1} is missing, though row ${row.seq} is there`)
      last = row.seq
      yield row
    }
  }
}

export function checkedRow(raw: Readonly<Record<string, unknown>>, path: string): Row {
  const row: Row = {
    seq: Number(raw['seq']), atMs: Number(raw['at_ms']), events: Number(raw['events']), lastEvent: Number(raw['last_event']),
    effects: String(raw['effects']), outbox: String(raw['outbox']),
  }
  if (raw['effects_crc'] !== effectsCrc(row) || raw['outbox_crc'] !== outboxCrc(row)) throw new JournalDamaged(`${path}: row ${row.seq} fails its checksum`)
  return row
}

export function insertRow(db: DatabaseSync): StatementSync {
  return db.prepare(`INSERT INTO journal (${ROW_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
}

export function runInsert(statement: StatementSync, row: Row): void {
  statement.run(row.seq, row.atMs, row.events, row.lastEvent, row.effects, effectsCrc(row), row.outbox, outboxCrc(row))
}

/** A row's numbers are part of both checksums: a row in the wrong place is a damaged row. */
function headCrc(row: Row): number {
  return crc32(`${row.seq} ${row.atMs} ${row.events} ${row.lastEvent}\n`)
}

export function effectsCrc(row: Row): number {
  return crc32(row.effects, headCrc(row))
}

export function outboxCrc(row: Row): number {
  return crc32(row.outbox, headCrc(row))
}

/** For the small tables: every part of the row, in order. */
export function partsCrc(...parts: readonly (string | number)[]): number {
  return crc32(JSON.stringify(parts))
}

export interface Bounds {
  /** 0 and -1 apart by one: an empty journal has first 1 and last 0. */
  readonly first: number
  readonly last: number
  readonly lastEvent: number
  readonly lastAtMs: number
  readonly trimmedThrough: number
}

export function readBounds(db: DatabaseSync, path: string): Bounds {
  const edge = (order: 'ASC' | 'DESC'): Record<string, unknown> | undefined =>
    naming(path, () => db.prepare(`SELECT seq, at_ms, events, last_event FROM journal ORDER BY seq ${order} LIMIT 1`).get())
  const first = edge('ASC')
  const last = edge('DESC')
  if (first === undefined || last === undefined) return { first: 1, last: 0, lastEvent: 0, lastAtMs: 0, trimmedThrough: 0 }
  return {
    first: Number(first['seq']), last: Number(last['seq']), lastEvent: Number(last['last_event']), lastAtMs: Number(last['at_ms']),
    trimmedThrough: Number(first['last_event']) - Number(first['events']),
  }
}

export function readCursors(db: DatabaseSync, path: string): Map<string, number> {
  const cursors = new Map<string, number>()
  for (const row of naming(path, () => db.prepare('SELECT consumer, ordinal, crc FROM cursors').all())) {
    const consumer = String(row['consumer'])
    const ordinal = Number(row['ordinal'])
    if (row['crc'] !== partsCrc(consumer, ordinal)) throw new JournalDamaged(`${path}: the cursor of ${consumer} fails its checksum`)
    cursors.set(consumer, ordinal)
  }
  return cursors
}

export interface DeadRow {
  readonly consumer: string
  readonly ordinal: number
  readonly reason: string
  readonly buriedMs: number
  readonly record: string
}

export function checkedDead(raw: Readonly<Record<string, unknown>>, path: string): DeadRow {
  const row = { consumer: String(raw['consumer']), ordinal: Number(raw['ordinal']), reason: String(raw['reason']), buriedMs: Number(raw['buried_ms']), record: String(raw['record']) }
  if (raw['crc'] !== partsCrc(row.consumer, row.ordinal, row.reason, row.buriedMs, row.record)) throw new JournalDamaged(`${path}: dead event ${row.ordinal} of ${row.consumer} fails its checksum`)
  return row
}

export function checkedDocument(raw: Readonly<Record<string, unknown>>, kind: string, path: string): { readonly id: string; readonly value: string } {
  const document = { id: String(raw['id']), value: String(raw['value']) }
  if (raw['crc'] !== partsCrc(kind, document.id, document.value)) throw new JournalDamaged(`${path}: document ${kind} ${document.id} fails its checksum`)
  return document
}

/** SQLite's own discovery of damage, told with the file's name. */
export function naming<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (isDamage(error)) throw new JournalDamaged(`${path}: ${errorText(error)}`, { cause: error })
    throw error
  }
}

/** The first seq whose row satisfies `wanted`, where all rows after one that does do too; `last + 1` if none does. */
export function firstSeq(first: number, last: number, wanted: (seq: number) => boolean): number {
  let low = first
  let high = last + 1
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    if (wanted(middle)) high = middle
    else low = middle + 1
  }
  assert(low >= first, 'a search stays within its bounds')
  return low
}
