import { statSync } from 'node:fs'
import type { DatabaseSync } from 'node:sqlite'
import { Ledger, type Effect } from '../../metering/ledger.ts'
import { StoreUnavailable } from '../store.ts'
import { layoutOf, type Layout } from './directory.ts'
import {
  checkedDead, checkedDocument, firstSeq, JournalDamaged, naming, openForReading, readBounds, readCursors, readMeta, readRows, type Bounds, type Synchronous,
} from './journal-file.ts'
import { listSnapshots, readSnapshot, SnapshotDamaged, snapshotPath } from './snapshot.ts'
import { errorText, isDamage } from './sqlite-error.ts'
import { bootId, readWatermark } from './watermark.ts'
import { scanWal } from './wal-scan.ts'

export interface RecoveryOptions {
  readonly forgetAfterMs: number
  /** Journals up to this size are read whole; of larger ones, what the ledger and the undelivered events need. */
  readonly verifyBytes?: number
  readonly synchronous: Synchronous
  /** Starts although acknowledged moves are missing: after a backup was restored on purpose. */
  readonly acceptLoss: boolean
  /** Called often; waits when other work should have its turn. */
  readonly pause?: () => Promise<void> | undefined
  /** What is worth telling but stops nothing. */
  readonly warn: (fields: object, message: string) => void
}

export interface Recovered {
  readonly ledger: Ledger
  readonly bounds: Bounds
  readonly cursors: Map<string, number>
  readonly epoch: string
  /** Newest first; only good ones. */
  readonly snapshots: readonly number[]
  /** Rows that were replayed after the snapshot. */
  readonly replayed: number
}

/** More than this of journal is not read again at every start. */
const VERIFY_BYTES = 64 * 1024 * 1024

/** Acknowledged moves are not in the journal any more. */
export class AcknowledgedLost extends StoreUnavailable {
  override name = 'AcknowledgedLost'
}

/** Rebuilds the ledger as the disk has it. Changes no file, so that what is refused can still be examined and repaired. */
export async function recover(layout: Layout, options: RecoveryOptions): Promise<Recovered> {
  const path = layout.journal
  const db = openForReading(path)
  try {
    const { epoch } = readMeta(db, path)
    const bounds = readBounds(db, path)
    checkWatermark(layout, epoch, bounds, options)
    const cursors = readCursors(db, path)

    const { ledger, snapshot, snapshots } = await newestSnapshot(layout.dir, db, epoch, bounds, options)
    const replayed = await replay(ledger, db, path, snapshot, bounds.last, options.pause)
    await verifyRest(db, layout, bounds, snapshot, cursors, options)
    return { ledger, bounds, cursors, epoch, snapshots, replayed }
  } catch (error) {
    throw isDamage(error) ? new JournalDamaged(`${path}: ${errorText(error)}`, { cause: error }) : error
  } finally {
    db.close()
  }
}

/** For the snapshot worker: the ledger after row `upTo`. */
export async function ledgerAt(dir: string, upTo: number, options: RecoveryOptions): Promise<{ ledger: Ledger; epoch: string }> {
  const layout = layoutOf(dir)
  const db = openForReading(layout.journal)
  try {
    const { epoch } = readMeta(db, layout.journal)
    const bounds = readBounds(db, layout.journal)
    const { ledger, snapshot } = await newestSnapshot(dir, db, epoch, { ...bounds, last: upTo }, options)
    await replay(ledger, db, layout.journal, snapshot, upTo, options.pause)
    return { ledger, epoch }
  } finally {
    db.close()
  }
}

async function newestSnapshot(dir: string, db: DatabaseSync, epoch: string, bounds: Bounds, options: RecoveryOptions):
Promise<{ ledger: Ledger; snapshot: number; snapshots: readonly number[] }> {
  const found = listSnapshots(dir)
  for (const [i, seq] of found.entries()) {
    if (seq > bounds.last) {
      options.warn({ snapshot: snapshotPath(dir, seq) }, 'a snapshot is ahead of the journal and is not used')
      continue
    }
    try {
      return { ledger: Ledger.restore(readSnapshot(dir, seq, epoch), options), snapshot: seq, snapshots: found.slice(i) }
    } catch (error) {
      // Damage may also show as lines that cannot be parsed.
      if (!(error instanceof SnapshotDamaged) && !(error instanceof SyntaxError)) throw error
      options.warn({ snapshot: snapshotPath(dir, seq), reason: error.message }, 'a snapshot is damaged and is not used')
    }
  }
  if (bounds.first > 1) {
    throw new JournalDamaged(`${dir}: no snapshot is usable, and the journal begins at row ${bounds.first}: the books cannot be rebuilt from these files; restore a backup`)
  }
  return { ledger: new Ledger(options), snapshot: 0, snapshots: [] }
}

async function replay(ledger: Ledger, db: DatabaseSync, path: string, after: number, upTo: number, pause: RecoveryOptions['pause']): Promise<number> {
  for (const row of readRows(db, path, after, upTo)) {
    for (const effect of JSON.parse(row.effects) as Effect[]) ledger.apply(effect)
    await pause?.()
  }
  return upTo - after
}

/** What replay did not read and somebody may still need; everything, where that is quick. */
async function verifyRest(db: DatabaseSync, layout: Layout, bounds: Bounds, snapshot: number, cursors: ReadonlyMap<string, number>, options: RecoveryOptions): Promise<void> {
  const path = layout.journal
  const small = statSync(path).size + (statSync(layout.wal, { throwIfNoEntry: false })?.size ?? 0) <= (options.verifyBytes ?? VERIFY_BYTES)
  let from = bounds.first - 1
  if (!small && cursors.size > 0) {
    const delivered = Math.min(...cursors.values())
    const lastEvent = db.prepare('SELECT last_event FROM journal WHERE seq = ?')
    from = naming(path, () => firstSeq(bounds.first, bounds.last, (seq) => Number(lastEvent.get(seq)?.['last_event'] ?? 0) > delivered)) - 1
  } else if (!small) from = snapshot
  for (const _row of readRows(db, path, from, Math.min(snapshot, bounds.last))) await options.pause?.()
  if (!small) return
  naming(path, () => {
    for (const row of db.prepare('SELECT kind, id, value, crc FROM documents').iterate()) checkedDocument(row, String(row['kind']), path)
    for (const row of db.prepare('SELECT * FROM dead').iterate()) checkedDead(row, path)
    const verdict = db.prepare('PRAGMA quick_check').get()?.['quick_check']
    if (verdict !== 'ok') throw new JournalDamaged(`${path}: ${String(verdict)}`)
  })
}

function checkWatermark(layout: Layout, epoch: string, bounds: Bounds, options: RecoveryOptions): void {
  const mark = readWatermark(layout.watermark)
  if (mark === 'absent' || mark === 'damaged') {
    if (bounds.last > 0) options.warn({ file: layout.watermark }, `the watermark is ${mark}: whether acknowledged moves are missing cannot be told`)
    return
  }
  if (mark.epoch !== epoch) {
    if (options.acceptLoss) return
    throw new AcknowledgedLost(`${layout.journal} belongs to another store than the files beside it: restore the whole directory together, or accept the loss with \`serve --accept-loss\``)
  }
  if (mark.seq <= bounds.last) return
  const scan = scanWal(layout.wal)
  const place = scan.badOffset === null ? '' : ` ${layout.wal} is damaged at byte ${scan.badOffset} (after ${scan.goodFrames} good frames, with ${scan.framesAfter} frames behind it).`
  const lost = `${layout.journal} ends at row ${bounds.last}, though rows up to ${mark.seq} were acknowledged.${place}`
  if (options.acceptLoss) options.warn({ journal: layout.journal, rows: mark.seq - bounds.last }, `${lost} The loss was accepted explicitly.`)
  // Only `normal` promises less than this, and only after the machine itself went down.
  else if (options.synchronous === 'normal' && mark.boot !== bootId()) options.warn({ journal: layout.journal, rows: mark.seq - bounds.last }, `${lost} The machine was restarted, and synchronous: normal allows it.`)
  else throw new AcknowledgedLost(`${lost} An old backup, or lost writes: \`tallygate store repair\` writes a copy and a report; \`serve --accept-loss\` starts with what is there`)
}
