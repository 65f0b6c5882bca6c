import { readdirSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { Clock } from '../../clock.ts'
import { silentLog, type Log } from '../../log.ts'
import { LocalStore } from '../local/local-store.ts'
import { framed, type StoreRow } from '../rows.ts'
import { StoreUnavailable, type Store, type StoreDetails } from '../store.ts'
import { closeToOthers, DirectoryRefused, lockDirectory, prepareDirectory, type Layout } from './directory.ts'
import { exportRows } from './export.ts'
import { createJournal, FORMAT, JournalDamaged, type Synchronous } from './journal-file.ts'
import { JournalLink } from './journal-link.ts'
import { recover, type Recovered, type RecoveryOptions } from './recovery.ts'
import { listSnapshots, removeOrphans, writeSnapshot } from './snapshot.ts'
import type { SnapshotDone, SnapshotTask } from './snapshot-worker.ts'
import { errorText } from './sqlite-error.ts'
import { SqliteJournal } from './sqlite-journal.ts'
import type { WriterState } from './worker-protocol.ts'

export interface EmbeddedOptions {
  readonly dir: string
  /** `full`: acknowledged means on disk. `normal`: survives the process, and may lose the last moments with the machine. */
  readonly synchronous: Synchronous
  /** How long a closed reservation is remembered: the longest exchange and an hour. */
  readonly forgetAfterMs: number
  /** How long delivered events stay readable. */
  readonly hotMs: number
  readonly clock: Clock
  readonly log?: Log
  /** Told to whoever tries to open the directory a second time. */
  readonly adminAddress?: string
  /** Space set aside for settling what runs when the disk gets full. */
  readonly ballastBytes?: number
  /** Moves between two snapshots, at least. */
  readonly snapshotMoves?: number
  /** Start although acknowledged moves are missing: a backup was restored on purpose. */
  readonly acceptLoss?: boolean
}

const BALLAST_BYTES = 4 * 1024 * 1024
const SNAPSHOT_MOVES = 100_000
const LOOK_MS = 1_000
const HOUSEKEEPING_MS = 10_000
const FORGET_MS = 60_000
const RETRY_FIRST_MS = 100
const RETRY_LAST_MS = 5_000
/** How long rebuilding may keep the event loop to itself. */
const SLICE_MS = 10
const SNAPSHOT_LIMITS = { maxYoungGenerationSizeMb: 32, stackSizeMb: 2 }

/**
 * Opens the store in `dir`, which no other process may have open. Throws DirectoryRefused, JournalDamaged, or StoreUnavailable with a
 * message that names the file and says what to do. Every reservation still pending is expired: no gateway can be left that holds it.
 */
export async function openEmbedded(options: EmbeddedOptions): Promise<Store> {
  const { clock } = options
  const log = options.log ?? silentLog
  const layout = prepareDirectory(options.dir)
  const unlock = lockDirectory(layout, { pid: process.pid, adminAddress: options.adminAddress ?? null, sinceMs: clock.nowMs() })
  // Threads take time to start: this one does while the books are read.
  const link = new JournalLink()
  try {
    const orphans = removeOrphans(layout.dir)
    if (orphans.length > 0) log.info({ files: orphans }, 'removed what a crash left half written')
    createIfNew(layout)
    closeToOthers(layout)
    const started = clock.monotonicMs()
    const recovered = await recover(layout, recoveryOptions(options, log))
    const state = await link.ask('open', { dir: layout.dir, synchronous: options.synchronous, ballastBytes: options.ballastBytes ?? BALLAST_BYTES, verified: true })
    const store = new EmbeddedStore({ options, log, layout, unlock, link, recovered, state })
    const expired = await store.expireAll()
    log.info({ rows: recovered.replayed, expired, ms: Math.round(clock.monotonicMs() - started) }, 'the books are rebuilt')
    return store
  } catch (error) {
    await link.abandon()
    unlock()
    throw error instanceof Error && 'errcode' in error ? new StoreUnavailable(`${layout.journal}: ${errorText(error)}`, { cause: error }) : error
  }
}

/** An empty directory becomes a store; one that has lost its journal does not. */
function createIfNew(layout: Layout): void {
  const names = new Set(readdirSync(layout.dir))
  if (names.has('journal.db')) return
  if (names.has('watermark') || names.has('journal.db-wal') || listSnapshots(layout.dir).length > 0) {
    throw new DirectoryRefused(`${layout.journal} is missing, though the files beside it belong to a store: restore it from a backup, or empty the directory to begin anew`)
  }
  createJournal(layout)
}

function recoveryOptions(options: EmbeddedOptions, log: Log): RecoveryOptions {
  return {
    forgetAfterMs: options.forgetAfterMs, synchronous: options.synchronous, acceptLoss: options.acceptLoss ?? false,
    warn: (fields, message) => log.warn(fields, message),
  }
}

interface StoreParts {
  readonly options: EmbeddedOptions
  readonly log: Log
  readonly layout: Layout
  readonly unlock: () => void
  readonly link: JournalLink
  readonly recovered: Recovered
  readonly state: WriterState
}

class EmbeddedStore extends LocalStore {
  readonly #options: EmbeddedOptions
  readonly #clock: Clock
  readonly #log: Log
  readonly #layout: Layout
  readonly #unlock: () => void
  readonly #journal: SqliteJournal
  readonly #epoch: string
  readonly #timers: (() => void)[]
  #snapshots: readonly number[]
  #snapshotLines = 0
  #snapshotting: { readonly worker: Worker; readonly ended: Promise<void> } | null = null
  #recovering: Promise<void> | null = null
  #wake: () => void = () => {}
  #trimming = false
  #closing: Promise<void> | null = null
  #toldGaps = ''

  constructor({ options, log, layout, unlock, link, recovered, state }: StoreParts) {
    const journal = new SqliteJournal({
      clock: options.clock, link, bounds: recovered.bounds, state, replayed: recovered.replayed,
      onFailure: () => { if (this.#closing === null) this.#recovering ??= this.#recover().finally(() => { this.#recovering = null }) },
    })
    super(recovered.ledger, journal, recovered.cursors)
    this.#options = options
    this.#clock = options.clock
    this.#log = log
    this.#layout = layout
    this.#unlock = unlock
    this.#journal = journal
    this.#epoch = recovered.epoch
    this.#snapshots = recovered.snapshots
    this.#timers = [
      this.#clock.every(LOOK_MS, () => this.#quietly('looking after the disk', this.#journal.look())),
      this.#clock.every(HOUSEKEEPING_MS, () => this.#keepHouse()),
      this.#clock.every(FORGET_MS, () => this.#forget()),
    ]
    if (state.full) log.error({ dir: layout.dir }, 'the disk is full: nothing is admitted until there is room')
  }

  /** Returns how many. */
  async expireAll(): Promise<number> {
    const nowMs = this.#clock.nowMs()
    const ids = this.ledger.open()
    await Promise.all(ids.map((id) => this.expire({ id, nowMs, home: '', checkpoint: null })))
    return ids.length
  }

  async inspect(): Promise<StoreDetails> {
    return {
      format: FORMAT, epoch: this.#epoch, partitions: null, reservations: this.ledger.open().length, undelivered: this.#journal.lastOrdinal - this.outbox.doneThrough(), servers: [],
      losses: ['When the process dies, nothing that was answered is lost.', this.#options.synchronous === 'full'
        ? 'When the machine loses power, nothing that was answered is lost, if the disk keeps what it says it has written.'
        : 'When the machine crashes or loses power, what was answered in the last moments may be lost (synchronous: normal).'],
    }
  }

  export(version: string): AsyncIterable<StoreRow> {
    const header = { version, source: 'embedded', partitions: null, epoch: null, at: new Date(this.#clock.nowMs()).toISOString() }
    return framed(header, exportRows(this.#layout, this.ledger, this.outbox))
  }

  override close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    for (const stop of this.#timers) stop()
    this.#wake()
    await this.#recovering
    await this.#journal.flushed()
    await this.#stopSnapshot()
    const healthy = this.#journal.refuses('finish') === null
    const seq = this.#journal.lastSeq
    await this.#journal.close('the store is closed')
    if (healthy && seq > (this.#snapshots[0] ?? 0)) {
      try {
        writeSnapshot(this.#layout.dir, { format: 1, epoch: this.#epoch, seq }, this.ledger.dump())
      } catch (error) {
        // The journal has it all; the next start only takes longer.
        this.#log.warn({ reason: errorText(error) }, 'the last snapshot could not be written')
      }
    }
    this.#unlock()
  }

  // === After a failed write ===

  async #recover(): Promise<void> {
    let told = ''
    for (let delayMs = RETRY_FIRST_MS; this.#closing === null; delayMs = Math.min(2 * delayMs, RETRY_LAST_MS)) {
      const reason = this.#journal.refuses('finish') ?? ''
      if (reason !== told) this.#log.error({ reason }, 'the store admits nothing: a write failed')
      told = reason
      try {
        await this.#rebuild()
        this.#log.info({}, 'the store was rebuilt from disk and admits again')
        return
      } catch (error) {
        this.#journal.fail(error instanceof Error ? error.message : String(error))
      }
      if (this.#closing !== null) return
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(delayMs, resolve, { unref: true })
        this.#wake = () => { cancel(); resolve() }
      })
    }
  }

  /** A new connection, a proof that it takes writes, and the books as they are on disk: nothing of the failed one is trusted. */
  async #rebuild(): Promise<void> {
    await this.#stopSnapshot()
    const link = new JournalLink()
    await this.#journal.relink(link)
    const { synchronous, ballastBytes } = this.#options
    await link.ask('open', { dir: this.#layout.dir, synchronous, ballastBytes: ballastBytes ?? BALLAST_BYTES, verified: false })
    const state = await link.ask('probe', null)
    let sinceMs = this.#clock.monotonicMs()
    const pause = (): Promise<void> | undefined => {
      if (this.#clock.monotonicMs() - sinceMs < SLICE_MS) return undefined
      sinceMs = this.#clock.monotonicMs()
      return this.#clock.sleep(0)
    }
    const recovered = await recover(this.#layout, { ...recoveryOptions(this.#options, this.#log), pause })
    this.ledger = recovered.ledger
    this.outbox.reload(recovered.cursors)
    this.#snapshots = recovered.snapshots
    this.#journal.resume(recovered.bounds, state)
  }

  // === Housekeeping ===

  #keepHouse(): void {
    if (this.#journal.refuses('finish') !== null) return
    this.#tellGaps()
    if (this.#snapshotting === null && this.#journal.movesSinceSnapshot >= Math.max(this.#options.snapshotMoves ?? SNAPSHOT_MOVES, this.#snapshotLines / 2)) this.#startSnapshot()
    // The journal reaches back to the older snapshot, should the newer one turn out damaged.
    const covered = this.#snapshots[1]
    if (covered === undefined || this.#trimming) return
    this.#trimming = true
    const trimmed = this.#journal.trim(covered, this.outbox.doneThrough(), this.#clock.nowMs() - this.#options.hotMs)
    this.#quietly('trimming the journal', trimmed.finally(() => { this.#trimming = false }))
  }

  #forget(): void {
    if (this.#journal.refuses('finish') !== null) return
    const effect = this.ledger.forget(this.#clock.nowMs())
    if (effect !== null) this.#quietly('forgetting old reservations', this.#journal.append(undefined, effect, null))
  }

  #tellGaps(): void {
    const gaps = this.outbox.gapsAhead()
    const text = JSON.stringify(gaps)
    if (gaps.length > 0 && text !== this.#toldGaps) this.#log.warn({ gaps }, 'events were trimmed before these consumers, which were not configured then, had them')
    this.#toldGaps = text
  }

  #startSnapshot(): void {
    const task: SnapshotTask = { dir: this.#layout.dir, seq: this.#journal.lastSeq, forgetAfterMs: this.#options.forgetAfterMs }
    this.#journal.movesSinceSnapshot = 0
    const worker = new Worker(new URL('./snapshot-worker.ts', import.meta.url), { workerData: task, resourceLimits: SNAPSHOT_LIMITS, name: 'snapshot' })
    const ended = new Promise<void>((resolve) => {
      worker.on('message', (done: SnapshotDone) => {
        this.#snapshotLines = done.lines
        this.#snapshots = [done.seq, ...this.#snapshots.filter((seq) => seq !== done.seq)].slice(0, 2)
        this.#log.debug({ row: done.seq, lines: done.lines }, 'snapshot written')
      })
      worker.on('error', (error) => this.#log.warn({ reason: errorText(error) }, 'a snapshot could not be written'))
      worker.on('exit', () => {
        this.#snapshotting = null
        resolve()
      })
    })
    this.#snapshotting = { worker, ended }
  }

  async #stopSnapshot(): Promise<void> {
    const running = this.#snapshotting
    if (running === null) return
    await running.worker.terminate()
    await running.ended
  }

  /** What fails here fails every call as well, and is told there. */
  #quietly(what: string, work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#log.debug({ reason: errorText(error) }, `${what} failed`))
  }
}

export { DirectoryRefused, JournalDamaged }
