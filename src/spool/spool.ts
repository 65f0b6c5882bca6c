import { dirname } from 'node:path'
import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Settle } from '../metering/moves.ts'
import { prepareDirectory } from '../stores/embedded/directory.ts'
import { StoreUnavailable } from '../stores/store.ts'
import { ThreadLink } from '../stores/thread-link.ts'
import { ENTRY_BYTES_MAX, HEAD_BYTES, type Entry } from './entry-line.ts'
import { freeLanes, takeLane, type Lane } from './lanes.ts'
import type { SpoolState } from './spool-file.ts'
import type { SpoolAnswer, SpoolAsks } from './spool-protocol.ts'

/**
 * A gateway's own durable queue of settlements that the store has not taken. Nothing that was appended is dropped: it is read until it is removed,
 * in this run or a later one. Only what is on its way to the disk is in memory.
 */
export interface Spool {
  /** Resolves once it is on disk; rejects with StoreUnavailable when it is not, or may not be. */
  append(move: Settle): Promise<void>
  /** The next entries after `after` (0: from the first), in order: `count` at most, and about a megabyte. None: the end. */
  read(after: number, count: number): Promise<readonly SpoolEntry[]>
  /** For what the store has acknowledged. Removing what is not there does nothing. */
  remove(sequences: readonly number[]): Promise<void>
  readonly count: number
  readonly bytes: number
  /** When the oldest entry came, ms since 1970; null: there is none. */
  readonly oldestMs: number | null
  /** Why nothing more may be admitted, in plain words; null: there is room. What was admitted before can still be written, as long as the reserve lasts. */
  readonly full: string | null
  /** Writes what is on its way, then lets go of the folder. */
  close(): Promise<void>
}

export interface SpoolEntry {
  readonly sequence: number
  readonly move: Settle
}

export interface SpoolOptions {
  /** Shared by all gateway processes of a machine; made if it is not there. */
  readonly dir: string
  /** Of entries, their reserve included. Default 256 MiB. */
  readonly maxBytes?: number
  readonly clock: Clock
  readonly log: Log
}

const MAX_BYTES = 256 * 1024 * 1024
/** Kept free for what was admitted before the spool was full: a share, 16 MiB at most. */
const RESERVE_SHARE = 1 / 4
const RESERVE_BYTES_MAX = 16 * 1024 * 1024
/** Put aside on the disk for the same, should the disk be full before the spool is. */
const BALLAST_SHARE = 1 / 8
const BALLAST_BYTES_MAX = 8 * 1024 * 1024
const GROUP_BYTES = 1024 * 1024
const GROUP_ENTRIES = 512
/** A disk that has been busy with one write for longer is as good as absent. */
const STALLED_MS = 2_000
const LOOK_MS = 5_000
const REOPEN_MS = 1_000

interface Appending {
  readonly entry: Entry
  resolve(): void
  reject(error: Error): void
}

/** Opens the spool and takes over what processes that are no more have left in it. Throws DirectoryRefused or StoreUnavailable; the message says what to do. */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const lane = takeLane(options.dir)
  const spool = new DiskSpool(lane, options)
  try {
    await spool.open()
    return spool
  } catch (error) {
    await spool.close()
    throw error
  }
}

class DiskSpool implements Spool {
  readonly #lane: Lane
  readonly #clock: Clock
  readonly #log: Log
  readonly #maxBytes: number
  readonly #reserveBytes: number
  readonly #ballastBytes: number
  readonly #stopLooking: () => void
  #link: ThreadLink<SpoolAsks>
  #state: SpoolState = { count: 0, bytes: 0, oldestMs: null, diskFull: false }
  #failed: string | null = 'it is not open yet'
  #queue: Appending[] = []
  /** Of what is not on disk yet. */
  #queuedBytes = 0
  #flying: readonly Appending[] = []
  #flyingSinceMs = 0
  #scheduled = false
  #reopening = false
  #closed = false
  #written: (() => void)[] = []

  constructor(lane: Lane, { maxBytes = MAX_BYTES, clock, log }: SpoolOptions) {
    this.#lane = lane
    this.#clock = clock
    this.#log = log
    this.#maxBytes = maxBytes
    this.#reserveBytes = Math.min(RESERVE_BYTES_MAX, Math.floor(maxBytes * RESERVE_SHARE))
    this.#ballastBytes = Math.min(BALLAST_BYTES_MAX, Math.floor(maxBytes * BALLAST_SHARE))
    this.#link = this.#newLink()
    this.#stopLooking = clock.every(LOOK_MS, () => { void this.#look() })
  }

  get count(): number { return this.#state.count }
  get bytes(): number { return this.#state.bytes }
  get oldestMs(): number | null { return this.#state.oldestMs }

  get full(): string | null {
    if (this.#failed !== null) return `the spool cannot be written: ${this.#failed}`
    if (this.#state.bytes >= this.#maxBytes - this.#reserveBytes) return `the spool is full: ${this.#state.count} settlements wait for the store`
    if (this.#state.diskFull) return 'the disk of the spool is full'
    if (this.#flying.length > 0 && this.#clock.monotonicMs() - this.#flyingSinceMs > STALLED_MS) return 'the disk of the spool has not confirmed a write for more than two seconds'
    return null
  }

  async open(): Promise<void> {
    await this.#openFile()
    for (const other of freeLanes(dirname(this.#lane.dir), this.#lane)) {
      try {
        this.#take(await this.#link.ask('absorb', { dir: other.dir }))
      } catch (error) {
        this.#log.error({ dir: other.dir, why: textOf(error) }, 'what another process has left in the spool cannot be taken over; it stays where it is')
      } finally {
        other.release()
      }
    }
    if (this.count > 0) this.#log.warn({ settlements: this.count, dir: this.#lane.dir }, 'settlements of an earlier run wait for the store')
  }

  append(move: Settle): Promise<void> {
    if (this.#failed !== null) return Promise.reject(new StoreUnavailable(this.#failed))
    const json = JSON.stringify(move)
    if (json.length > ENTRY_BYTES_MAX) return Promise.reject(new StoreUnavailable('the settlement is too large for the spool'))
    const bytes = Buffer.byteLength(json) + HEAD_BYTES
    if (this.#state.bytes + this.#queuedBytes + bytes > this.#maxBytes) return Promise.reject(new StoreUnavailable('the spool is full'))
    this.#queuedBytes += bytes
    return new Promise<void>((resolve, reject) => {
      this.#queue.push({ entry: { atMs: this.#clock.nowMs(), json }, resolve, reject })
      this.#schedule()
    }).finally(() => { this.#queuedBytes -= bytes })
  }

  async read(after: number, count: number): Promise<readonly SpoolEntry[]> {
    const answer = await this.#link.ask('read', { after, count })
    this.#take(answer)
    return answer.rows.map(({ seq, json }) => ({ sequence: seq, move: JSON.parse(json) as Settle }))
  }

  async remove(sequences: readonly number[]): Promise<void> {
    if (sequences.length > 0) this.#take(await this.#link.ask('remove', { seqs: sequences }))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    if (this.#failed === null && (this.#queue.length > 0 || this.#flying.length > 0)) await new Promise<void>((resolve) => { this.#written.push(resolve) })
    this.#closed = true
    this.#stopLooking()
    this.#refuse('the spool is closed')
    await this.#link.close()
    this.#lane.release()
  }

  #newLink(): ThreadLink<SpoolAsks> {
    const link = new ThreadLink<SpoolAsks>('spool', new URL('./spool-thread.ts', import.meta.url))
    link.onBroken = (reason) => { if (link === this.#link) this.#onBroken(reason) }
    return link
  }

  async #openFile(): Promise<void> {
    this.#take(await this.#link.ask('open', { dir: this.#lane.dir, ballastBytes: this.#ballastBytes }))
    this.#failed = null
  }

  #take({ state, notes }: SpoolAnswer): void {
    this.#state = state
    for (const note of notes) this.#log.error({ dir: this.#lane.dir }, note)
  }

  /** At the end of this turn, so that what it brings travels together; while a write is under way, after that. */
  #schedule(): void {
    if (this.#scheduled || this.#flying.length > 0) return
    this.#scheduled = true
    const send = (): void => {
      this.#scheduled = false
      if (this.#failed === null && this.#flying.length === 0 && this.#queue.length > 0) void this.#send()
    }
    if (this.#clock.afterTurn === undefined) queueMicrotask(send)
    else this.#clock.afterTurn(send)
  }

  async #send(): Promise<void> {
    let bytes = 0
    let many = 0
    while (many < this.#queue.length && many < GROUP_ENTRIES && bytes < GROUP_BYTES) bytes += this.#queue[many++]!.entry.json.length
    const group = this.#queue.splice(0, many)
    this.#flying = group
    this.#flyingSinceMs = this.#clock.monotonicMs()
    try {
      this.#take(await this.#link.ask('append', { entries: group.map(({ entry }) => entry) }))
      for (const { resolve } of group) resolve()
    } catch (error) {
      for (const { reject } of group) reject(error instanceof Error ? error : new StoreUnavailable(textOf(error)))
      if (this.#failed === null) await this.#look()
    } finally {
      this.#flying = []
    }
    if (this.#queue.length > 0) this.#schedule()
    else for (const tell of this.#written.splice(0)) tell()
  }

  /** Asks for the state: after a write that failed it is unknown, and a disk that was full may have room again. */
  async #look(): Promise<void> {
    if (this.#failed !== null || this.#closed) return
    try {
      this.#take(await this.#link.ask('look', null))
    } catch (error) {
      this.#log.debug({ why: textOf(error) }, 'the spool could not be looked at')
    }
  }

  #refuse(reason: string): void {
    this.#failed = reason
    for (const { reject } of this.#queue.splice(0)) reject(new StoreUnavailable(reason))
    for (const tell of this.#written.splice(0)) tell()
  }

  #onBroken(reason: string): void {
    if (this.#closed) return
    if (this.#failed === null) this.#log.error({ dir: this.#lane.dir, why: reason }, 'the spool cannot be written; nothing is admitted until it can')
    this.#refuse(reason)
    if (!this.#reopening) this.#reopenLater()
  }

  #reopenLater(): void {
    this.#reopening = true
    this.#clock.after(REOPEN_MS, () => { void this.#reopen() }, { unref: true })
  }

  async #reopen(): Promise<void> {
    if (this.#closed) return
    await this.#link.abandon()
    if (this.#closed) return
    this.#link = this.#newLink()
    try {
      // Should somebody have deleted it.
      prepareDirectory(this.#lane.dir)
      await this.#openFile()
      this.#reopening = false
      this.#log.info({ dir: this.#lane.dir, settlements: this.count }, 'the spool can be written again')
    } catch (error) {
      if (this.#closed) return
      this.#refuse(textOf(error))
      this.#reopenLater()
    }
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
