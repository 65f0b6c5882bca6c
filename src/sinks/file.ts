import { constants } from 'node:fs'
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Clock } from '../clock.ts'
import type { DeliveryReport, Sink, SinkKind, SinkRecord } from './sink.ts'

interface FileSettings {
  readonly path: string
  readonly max_bytes: number
  readonly daily: boolean
  /** ms */
  readonly keep: number | null
}

const DAY_MS = 86_400_000
/** Appending, so that a gateway that was stopped in the middle of a batch and goes on later overwrites nobody's lines. */
const MODE = constants.O_RDWR | constants.O_CREAT | constants.O_APPEND

/** How much of the file's end is read at the start, to find what had been written before a crash: more than any batch. */
const TAIL_BYTES = 8 * 1024 * 1024

/**
 * Usage events as NDJSON, one a line. A batch is acknowledged once it is on disk. After a crash the file is resumed at its last whole line, and
 * events that it already holds are not written again: the file counts each id once, without anyone having to. Several gateways may share a file:
 * one delivers at a time, and whoever takes over finds it as the one before has left it.
 * Rotated files are named `usage.2026-11-22.1.ndjson`.
 */
export const file: SinkKind = {
  type: 'file',
  takes: 'events',
  contract: {
    verified: true, readsBack: false, batchMax: 1_000, bytesMax: null, ratePerSecond: null, dedupWindowMs: 'forever', dedupKey: 'the event\'s id, at the end of the file',
    duplicateSignal: 'silent', failureUnit: 'batch', oldestMs: null, newestMs: null, timePrecision: 'millisecond', values: 'decimal', acknowledges: 'durable',
    corrections: 'negative', serialBy: 'none', inFlightMax: 1,
  },
  settings: {
    path: { is: 'path', about: 'Where; folders are made.' },
    max_bytes: { is: 'size', otherwise: 100 * 1_048_576, about: 'A new file is begun beyond this. Default 100MiB.' },
    daily: { is: 'boolean', otherwise: true, about: 'A new file is begun every day (UTC). Default true.' },
    keep: { is: 'duration', otherwise: null, about: 'Files begun longer ago than this are removed. Default: none is.' },
  },
  open: (_name, settings, { clock }) => openFile(settings as unknown as FileSettings, clock),
}

async function openFile(settings: FileSettings, clock: Clock): Promise<Sink> {
  // That it can be had is found out now; how it ends only once this gateway delivers, because another may be in the middle of a line.
  await mkdir(dirname(settings.path), { recursive: true, mode: 0o700 })
  await (await open(settings.path, MODE, 0o600)).close()
  return new FileSink(settings, clock)
}

class FileSink implements Sink {
  readonly #settings: FileSettings
  readonly #clock: Clock
  #file: FileHandle | null = null
  /** Bytes of whole, acknowledged lines: where a failed write is cut back to. */
  #size = 0
  #inode = 0
  #day = ''
  /** Ids at the file's end, which may come again; dropped once deliveries have passed them. */
  #written = new Set<string>()

  constructor(settings: FileSettings, clock: Clock) {
    this.#settings = settings
    this.#clock = clock
  }

  async #open(): Promise<void> {
    await mkdir(dirname(this.#settings.path), { recursive: true, mode: 0o700 })
    const file = await open(this.#settings.path, MODE, 0o600)
    const { size, mtimeMs, ino } = await file.stat()
    this.#inode = ino
    this.#day = dayOf(size === 0 ? this.#clock.nowMs() : mtimeMs)
    const from = Math.max(0, size - TAIL_BYTES)
    const tail = Buffer.alloc(size - from)
    await file.read(tail, 0, tail.length, from)
    const end = tail.lastIndexOf(0x0a) + 1
    // What follows the last line end was being written when we died: its batch was never acknowledged and comes again.
    this.#size = from + end
    if (this.#size < size) await file.truncate(this.#size)
    for (const line of tail.subarray(0, end).toString('utf8').split('\n')) {
      const id = /"id":"([^"]+)"/.exec(line)?.[1]
      if (id !== undefined) this.#written.add(id)
    }
    this.#file = file
    await this.#removeOld()
  }

  async deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    signal.throwIfAborted()
    await this.#asItIs()
    await this.#rotate()
    const accepted = batch.map(({ id }) => id)
    const fresh = this.#written.size === 0 ? batch : batch.filter(({ id }) => !this.#written.has(id))
    if (fresh.length > 0) {
      const bytes = Buffer.from(fresh.map((record) => `${JSON.stringify(record.is === 'event' ? record.event : record)}\n`).join(''), 'utf8')
      await this.#append(bytes)
      // Deliveries are in order: after a batch that is wholly new, nothing older than that can come but on purpose. It comes itself, with more behind it, when
      // the store was not there to be told that it is done.
      if (fresh.length === batch.length) this.#written.clear()
      for (const { id } of fresh) this.#written.add(id)
    }
    return { accepted, refused: [] }
  }

  /** Opens the file anew when another gateway has written to it or begun the next one. */
  async #asItIs(): Promise<void> {
    if (this.#file !== null) {
      const now = await stat(this.#settings.path).catch(() => null)
      if (now?.ino === this.#inode && now.size === this.#size) return
      await this.#file.close()
      this.#file = null
      this.#written.clear()
    }
    await this.#open()
  }

  async #append(bytes: Buffer): Promise<void> {
    const file = this.#file!
    let done = 0
    try {
      while (done < bytes.length) done += (await file.write(bytes, done)).bytesWritten
      await file.datasync()
    } catch (error) {
      // The page cache may be wrong after a failed sync: open the file anew, which also cuts what was half written.
      this.#file = null
      await this.#undo(file, done)
      throw error
    }
    this.#size += bytes.length
  }

  /** Takes back what was written last, so that it is written anew; not when others have written behind it. */
  async #undo(file: FileHandle, bytes: number): Promise<void> {
    try {
      if ((await file.stat()).size <= this.#size + bytes) await file.truncate(this.#size)
    } catch {
      // The disk is not itself. What is in the file is found out before the next batch.
    } finally {
      await file.close().catch(() => undefined)
    }
  }

  async #rotate(): Promise<void> {
    const day = dayOf(this.#clock.nowMs())
    const due = this.#size >= this.#settings.max_bytes || (this.#settings.daily && day !== this.#day && this.#size > 0)
    if (!due) {
      if (this.#size === 0) this.#day = day
      return
    }
    const { path } = this.#settings
    await this.#file!.close()
    this.#file = null
    await rename(path, await this.#freeName())
    await syncFolder(dirname(path))
    await this.#open()
  }

  async #removeOld(): Promise<void> {
    const { path, keep } = this.#settings
    if (keep === null) return
    const oldest = dayOf(this.#clock.nowMs() - keep - DAY_MS)
    const folder = dirname(path)
    const { stem, extension } = this.#nameParts()
    for (const name of await readdir(folder)) {
      const day = name.startsWith(`${stem}.`) && name.endsWith(extension) ? /^\d{4}-\d{2}-\d{2}(?=\.\d+$)/.exec(name.slice(stem.length + 1, name.length - extension.length))?.[0] : undefined
      if (day !== undefined && day < oldest) await rm(join(folder, name), { force: true })
    }
  }

  #nameParts(): { stem: string; extension: string } {
    const { path } = this.#settings
    const extension = /\.[^.]*$/.exec(basename(path))?.[0] ?? ''
    return { stem: basename(path, extension), extension }
  }

  async #freeName(): Promise<string> {
    const folder = dirname(this.#settings.path)
    const { stem, extension } = this.#nameParts()
    const taken = new Set(await readdir(folder))
    for (let n = 1; ; n++) {
      const name = `${stem}.${this.#day}.${n}${extension}`
      if (!taken.has(name)) return join(folder, name)
    }
  }

  async close(): Promise<void> {
    await this.#file?.close()
    this.#file = null
  }
}

/** A renamed file is only safe once its folder is. */
async function syncFolder(folder: string): Promise<void> {
  if (!(await stat(folder)).isDirectory()) return
  const handle = await open(folder, 'r')
  await handle.sync()
  await handle.close()
}

function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10)
}
