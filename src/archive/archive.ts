import type { FileHandle } from 'node:fs/promises'
import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Log } from '../log.ts'
import type { UsageEvent } from '../metering/event.ts'

/** Where a reader stands: behind a line of one file, whatever that file is called by now. */
export interface ArchivePlace {
  readonly inode: number
  readonly offset: number
}

export interface ArchivedEvent {
  readonly event: UsageEvent
  /** Of the settlement, ms: what it was written at. */
  readonly atMs: number
  readonly place: ArchivePlace
}

const DAY_MS = 86_400_000
const CHUNK_BYTES = 256 * 1024
/** A batch that was written twice, because its writer died or was stopped before he could say so, is not far behind itself. */
const REMEMBERED = 20_000

interface Segment {
  readonly path: string
  readonly inode: number
  /** It is kept open from the time of the listing on, because its name passes to the next one. */
  readonly live: FileHandle | null
}

/**
 * Reads what the archive's sink has written: one event a line, in `events.ndjson` and, before that, `events.DAY.N.ndjson`. A line that is being written is not
 * seen. An event that is there twice is told once.
 */
export class Archive {
  readonly #path: string
  readonly #log: Log

  /** `path`: of the file that is being written. */
  constructor(path: string, log: Log) {
    this.#path = path
    this.#log = log
  }

  /**
   * Events in the order of their files: all that were settled at or after `sinceMs`, and maybe earlier ones of the same day; or those behind a place (where its
   * file is gone: from the oldest on). `until`: none behind this place. `containing`: only lines in which this text occurs.
   */
  async *read({ sinceMs, after, until, containing }: {
    readonly sinceMs: number
    readonly after?: ArchivePlace | null
    readonly until?: ArchivePlace
    readonly containing?: string
  }): AsyncGenerator<ArchivedEvent> {
    const listed = await this.#segments(dayOf(sinceMs))
    const last = until === undefined ? -1 : listed.findIndex(({ inode }) => inode === until.inode)
    const segments = last === -1 ? listed : listed.slice(0, last + 1)
    const recent = new Set<string>()
    try {
      const first = after === undefined || after === null ? 0 : Math.max(0, segments.findIndex(({ inode }) => inode === after.inode))
      for (const segment of segments.slice(first)) {
        const from = segment.inode === after?.inode ? after.offset : 0
        for await (const { line, end } of linesOf(segment, from)) {
          if (segment.inode === until?.inode && end > until.offset) break
          if (containing !== undefined && !line.includes(containing)) continue
          const event = this.#parsed(line, segment, end)
          if (event === null || recent.has(event.id)) continue
          recent.add(event.id)
          if (recent.size > REMEMBERED) for (const oldest of recent) {
            recent.delete(oldest)
            break
          }
          yield { event, atMs: settledMs(event), place: { inode: segment.inode, offset: end } }
        }
      }
    } finally {
      for (const { live } of listed) await live?.close()
    }
  }

  /** Behind the last line that is there now; null: there is nothing. */
  async end(): Promise<ArchivePlace | null> {
    const segments = await this.#segments('')
    try {
      const last = segments.at(-1)
      if (last === undefined) return null
      const size = last.live === null ? (await found(stat(last.path)))?.size : (await last.live.stat()).size
      return { inode: last.inode, offset: size ?? 0 }
    } finally {
      for (const { live } of segments) await live?.close()
    }
  }

  /** From a day on, oldest first. The live one is opened before the others are listed: what is renamed meanwhile is seen under either name. */
  async #segments(day: string): Promise<readonly Segment[]> {
    const folder = dirname(this.#path)
    const live = await found(open(this.#path, 'r'))
    const inode = live === null ? -1 : (await live.stat()).ino
    const extension = /\.[^.]*$/.exec(basename(this.#path))?.[0] ?? ''
    const stem = basename(this.#path, extension)
    const named: { path: string; day: string; n: number }[] = []
    for (const name of await found(readdir(folder)) ?? []) {
      if (!name.startsWith(`${stem}.`) || !name.endsWith(extension)) continue
      const parts = /^(\d{4}-\d{2}-\d{2})\.(\d+)$/.exec(name.slice(stem.length + 1, name.length - extension.length))
      // A file has lines of its own day only, and an event is never archived before its settlement.
      if (parts !== null && parts[1]! >= day) named.push({ path: join(folder, name), day: parts[1]!, n: Number(parts[2]) })
    }
    named.sort((a, b) => (a.day < b.day ? -1 : a.day > b.day ? 1 : a.n - b.n))
    const segments: Segment[] = []
    for (const { path } of named) {
      // Gone: its time was over.
      const there = await found(stat(path))
      if (there !== null && there.ino !== inode) segments.push({ path, inode: there.ino, live: null })
    }
    if (live !== null) segments.push({ path: this.#path, inode, live })
    return segments
  }

  #parsed(line: string, { path }: Segment, end: number): UsageEvent | null {
    try {
      const event = JSON.parse(line) as UsageEvent
      if (typeof event.id === 'string' && !Number.isNaN(settledMs(event))) return event
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
    }
    this.#log.error({ file: path, before_byte: end }, 'a line of the archive is no event; it is passed over')
    return null
  }
}

/** When an event was written. */
export function settledMs({ data }: UsageEvent): number {
  return Date.parse(String(data['settled_at']))
}

async function* linesOf(segment: Segment, from: number): AsyncGenerator<{ readonly line: string; readonly end: number }> {
  const file = segment.live ?? await found(open(segment.path, 'r'))
  if (file === null) return
  try {
    let rest = Buffer.alloc(0)
    let at = from
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES)
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, at + rest.length)
      if (bytesRead === 0) return
      const bytes = Buffer.concat([rest, chunk.subarray(0, bytesRead)])
      let start = 0
      for (let end = bytes.indexOf(0x0a); end !== -1; end = bytes.indexOf(0x0a, start)) {
        yield { line: bytes.toString('utf8', start, end), end: at + end + 1 }
        start = end + 1
      }
      at += start
      rest = bytes.subarray(start)
    }
  } finally {
    if (segment.live === null) await file.close()
  }
}

/** null: there is no such file. */
async function found<T>(asked: Promise<T>): Promise<T | null> {
  try {
    return await asked
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  }
}

/** A moment earlier: clocks of gateways differ. */
function dayOf(ms: number): string {
  return new Date(Math.max(0, ms - DAY_MS / 24)).toISOString().slice(0, 10)
}
