import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Ledger, type Effect } from '../../metering/ledger.ts'
import { DirectoryRefused, layoutOf, lockDirectory, prepareDirectory, type Layout } from './directory.ts'
import {
  checkedDead, checkedDocument, checkedRow, createJournal, insertRow, openForReading, partsCrc, readCursors, readMeta, ROW_COLUMNS, runInsert, type Row,
} from './journal-file.ts'
import { listSnapshots, readSnapshot, snapshotPath, writeSnapshot } from './snapshot.ts'
import { errorText } from './sqlite-error.ts'
import { scanWal } from './wal-scan.ts'
import { readWatermark } from './watermark.ts'

export interface RepairReport {
  /** The repaired store; the damaged one is left as it was. */
  readonly copy: string
  /** Rows that are in the copy, in full. */
  readonly rowsKept: number
  /** What was found and what was left out, one sentence each, for people. Also in `report.txt` in the copy. */
  readonly findings: readonly string[]
  /** Rows that are in the copy only as events, or not at all. */
  readonly rowsLost: readonly number[]
}

/**
 * Writes what can be read of a damaged store to a copy beside it, and a report. Damaged rows are left out and named; the rows after them are kept
 * where the books still follow from them. Nothing is repaired in place.
 */
export function repair(dir: string, nowMs: number): RepairReport {
  const layout = prepareDirectory(dir)
  const unlock = lockDirectory(layout, { pid: process.pid, adminAddress: null, sinceMs: nowMs })
  try {
    if (!existsSync(layout.journal)) throw new DirectoryRefused(`${layout.journal} is missing: there is nothing to repair from`)
    return repairInto(layout, layoutOf(`${layout.dir}-repaired-${nowMs}`))
  } finally {
    unlock()
  }
}

function repairInto(from: Layout, to: Layout): RepairReport {
  const findings: string[] = []
  const attempt = <T>(what: string, otherwise: T, work: () => T): T => {
    try {
      return work()
    } catch (error) {
      findings.push(`${what}: ${errorText(error)}`)
      return otherwise
    }
  }
  mkdirSync(to.dir, { mode: 0o700 })
  const source = openForReading(from.journal)
  const epoch = attempt('description', null, () => readMeta(source, from.journal).epoch)
  const rows = salvageRows(source, from, findings)
  tellOfTheLog(from, rows, findings)

  const options = { forgetAfterMs: Number.MAX_SAFE_INTEGER }
  const first = rows[0]?.seq ?? 1
  const found = epoch === null ? null : bestSnapshot(from, epoch, findings)
  if (found === null && first > 1) findings.push(`no snapshot is usable and the journal begins at row ${first}: what came before is lost`)
  const base = found ?? first - 1
  const books = (): Ledger => (found === null || epoch === null ? new Ledger(options) : Ledger.restore(readSnapshot(from.dir, found, epoch), options))
  const lost = new Set<number>()
  const kept = followable(books(), base, rows, lost, findings)

  createJournal(to)
  const target = new DatabaseSync(to.journal)
  target.exec('BEGIN')
  const insert = insertRow(target)
  for (const row of kept) runInsert(insert, row)
  copySmallTables(source, target, from.journal, attempt)
  target.exec('COMMIT')
  source.close()
  const copyEpoch = readMeta(target, to.journal).epoch
  target.close()
  // A copy that begins after row 1 needs the snapshot that it follows from, under the copy's own name.
  if (base > 0) writeSnapshot(to.dir, { format: 1, epoch: copyEpoch, seq: base }, books().dump())

  const report: RepairReport = { copy: to.dir, rowsKept: kept.length, findings, rowsLost: [...lost].sort((a, b) => a - b) }
  const left = rows.filter((row) => row.row !== null && lost.has(row.seq)).map((row) => JSON.stringify(row.row)).join('\n')
  if (left !== '') writeFileSync(join(to.dir, 'left-out.ndjson'), `${left}\n`, { mode: 0o600 })
  writeFileSync(join(to.dir, 'report.txt'), [
    `Repaired copy of ${from.dir}`, `Rows kept: ${report.rowsKept}`, `Rows lost: ${report.rowsLost.join(', ') || 'none'}`, ...findings, '',
  ].join('\n'), { mode: 0o600 })
  return report
}

interface Salvaged {
  readonly seq: number
  /** Null: cannot be read, or is not what was written. */
  readonly row: Row | null
}

/** Row by row, so that one unreadable page costs only its own rows. */
function salvageRows(db: DatabaseSync, from: Layout, findings: string[]): Salvaged[] {
  const edge = (order: string): number | null => {
    try {
      return Number(db.prepare(`SELECT seq FROM journal ORDER BY seq ${order} LIMIT 1`).get()?.['seq'] ?? 0)
    } catch (error) {
      findings.push(`${from.journal}: its ${order === 'ASC' ? 'first' : 'last'} row cannot be found: ${errorText(error)}`)
      return null
    }
  }
  const first = edge('ASC')
  const mark = readWatermark(from.watermark)
  const last = edge('DESC') ?? (typeof mark === 'object' ? mark.seq : 0)
  const salvaged: Salvaged[] = []
  const one = db.prepare(`SELECT ${ROW_COLUMNS} FROM journal WHERE seq = ?`)
  for (let seq = Math.max(1, first ?? 1); seq <= last; seq++) {
    let row: Row | null = null
    try {
      const raw = one.get(seq)
      if (raw === undefined) findings.push(`${from.journal}: row ${seq} is missing`)
      else row = checkedRow(raw, from.journal)
    } catch (error) {
      findings.push(errorText(error))
    }
    salvaged.push({ seq, row })
  }
  return salvaged
}

function tellOfTheLog(from: Layout, rows: readonly Salvaged[], findings: string[]): void {
  const scan = scanWal(from.wal)
  if (scan.badOffset !== null) findings.push(`${from.wal}: damaged at byte ${scan.badOffset}, after ${scan.goodFrames} good frames and before ${scan.framesAfter} more of its generation`)
  const mark = readWatermark(from.watermark)
  const last = rows.at(-1)?.seq ?? 0
  if (typeof mark === 'object' && mark.seq > last) findings.push(`${from.journal}: rows ${last + 1} to ${mark.seq} were acknowledged and are not there`)
}

function bestSnapshot(from: Layout, epoch: string, findings: string[]): number | null {
  for (const seq of listSnapshots(from.dir)) {
    try {
      for (const _line of readSnapshot(from.dir, seq, epoch));
      return seq
    } catch (error) {
      findings.push(error instanceof Error ? error.message : snapshotPath(from.dir, seq))
    }
  }
  return null
}

/** The rows of the copy: without gaps, unreadable ones emptied; from the first that does not follow from the ones before, only the events. */
function followable(ledger: Ledger, base: number, rows: readonly Salvaged[], lost: Set<number>, findings: string[]): Row[] {
  const kept: Row[] = []
  let lastEvent = 0
  let atMs = 0
  let follows = true
  for (const { seq, row } of rows) {
    if (row === null) {
      lost.add(seq)
      kept.push({ seq, atMs, events: 0, lastEvent, effects: '[]', outbox: '[]' })
      continue
    }
    // Up to the snapshot the books do not depend on these rows: they are there for their events.
    if (seq > base && follows) {
      try {
        for (const effect of JSON.parse(row.effects) as Effect[]) ledger.apply(effect)
      } catch (error) {
        follows = false
        findings.push(`row ${seq} does not follow from what is left: it and all after it are kept only as events (${errorText(error)})`)
      }
    }
    if (!follows) lost.add(seq)
    // Ordinals stay what they were, so that cursors do too; the events of an unreadable row leave a hole.
    kept.push(follows ? row : { ...row, effects: '[]' })
    lastEvent = row.lastEvent
    atMs = row.atMs
  }
  return kept
}

function copySmallTables(source: DatabaseSync, target: DatabaseSync, path: string, attempt: <T>(what: string, otherwise: T, work: () => T) => T): void {
  attempt('cursors', undefined, () => {
    for (const [consumer, ordinal] of readCursors(source, path)) target.prepare('INSERT INTO cursors VALUES (?, ?, ?)').run(consumer, ordinal, partsCrc(consumer, ordinal))
  })
  attempt('dead events', undefined, () => {
    for (const raw of source.prepare('SELECT * FROM dead').iterate()) {
      attempt('a dead event', undefined, () => {
        const { consumer, ordinal, reason, buriedMs, record } = checkedDead(raw, path)
        target.prepare('INSERT INTO dead VALUES (?, ?, ?, ?, ?, ?)').run(consumer, ordinal, reason, buriedMs, record, partsCrc(consumer, ordinal, reason, buriedMs, record))
      })
    }
  })
  attempt('documents', undefined, () => {
    for (const raw of source.prepare('SELECT kind, id, value, crc FROM documents').iterate()) {
      attempt('a document', undefined, () => {
        const kind = String(raw['kind'])
        const { id, value } = checkedDocument(raw, kind, path)
        target.prepare('INSERT INTO documents VALUES (?, ?, ?, ?)').run(kind, id, value, partsCrc(kind, id, value))
      })
    }
  })
}
