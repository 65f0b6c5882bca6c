import { createReadStream } from 'node:fs'
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** What is sorted in memory at once. */
const runBytes = 48 * 1024 * 1024
const readBytes = 1024 * 1024
const writeBytes = 4 * 1024 * 1024
const lineMax = 16 * 1024 * 1024
const newline = 0x0a
/** Such as a gateway writes: nothing that anybody else has written stands before its time. */
const ourHead = Buffer.from('{"specversion":"1.0","type":"tallygate.usage.v1"')
const timeMark = Buffer.from('"time":"')
const timeLength = 24
const timeForm = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

interface Line {
  /** Of its event: the instant of admission. */
  readonly time: string
  readonly bytes: Buffer
}

export interface Lines {
  /** Some at a time, in the order of their events' times; of one time, in that of their bytes. */
  [Symbol.asyncIterator](): AsyncIterator<readonly Buffer[]>
  /** Lines that are no event. */
  readonly unreadable: number
}

/** A line that is longer than any event. */
export class LineTooLong extends Error {
  override name = 'LineTooLong'
}

/**
 * Events as JSON lines, in whatever order, told in that of their admission. What does not fit into a bounded memory is sorted piece by piece, into files of a
 * temporary folder that is gone again afterwards, and merged. `chunks`: the lines' bytes, cut anywhere.
 */
export function inOrderOfAdmission(chunks: AsyncIterable<Buffer>, bytesAtOnce = runBytes): Lines {
  let unreadable = 0
  async function* sorted(): AsyncGenerator<readonly Buffer[]> {
    let folder: string | null = null
    const files: string[] = []
    let run: Line[] = []
    let size = 0
    try {
      for await (const lines of linesOf(chunks)) {
        for (const bytes of lines) {
          const time = timeOf(bytes)
          if (time === null) unreadable += 1
          else run.push({ time, bytes })
          size += bytes.length
        }
        if (size < bytesAtOnce) continue
        folder ??= await mkdtemp(join(tmpdir(), 'tallygate-simulate-'))
        const file = join(folder, String(files.length))
        await write(file, run.sort(byTime))
        files.push(file)
        run = []
        size = 0
      }
      run.sort(byTime)
      if (files.length === 0) yield run.map(({ bytes }) => bytes)
      else yield* merged([...files.map(readLines), already(run)])
    } finally {
      if (folder !== null) await rm(folder, { recursive: true, force: true })
    }
  }
  return { [Symbol.asyncIterator]: sorted, get unreadable() { return unreadable } }
}

/** The bytes of files, one after the other; a file that ends within a line ends that line. */
export async function* bytesOf(files: readonly string[]): AsyncGenerator<Buffer> {
  for (const file of files) {
    yield* createReadStream(file, { highWaterMark: readBytes })
    yield Buffer.of(newline)
  }
}

/** Those that end in a chunk, and with the next one those that end there. */
async function* linesOf(chunks: AsyncIterable<Buffer>): AsyncGenerator<readonly Buffer[]> {
  let rest: Buffer[] = []
  let restLength = 0
  for await (const chunk of chunks) {
    const lines: Buffer[] = []
    let from = 0
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, from)) {
      const piece = chunk.subarray(from, end)
      from = end + 1
      const line = rest.length === 0 ? piece : Buffer.concat([...rest, piece])
      rest = []
      restLength = 0
      if (line.length > 0) lines.push(line)
    }
    if (lines.length > 0) yield lines
    if (from === chunk.length) continue
    rest.push(chunk.subarray(from))
    restLength += chunk.length - from
    if (restLength > lineMax) throw new LineTooLong(`a line has more than ${lineMax / 1024 / 1024} MiB: these are no events as JSON lines`)
  }
  if (rest.length > 0) yield [Buffer.concat(rest)]
}

/** null: the line is no event. */
function timeOf(line: Buffer): string | null {
  if (line.subarray(0, ourHead.length).equals(ourHead)) {
    const at = line.indexOf(timeMark)
    const time = at === -1 ? '' : line.toString('latin1', at + timeMark.length, at + timeMark.length + timeLength)
    if (timeForm.test(time)) return time
  }
  try {
    const event: unknown = JSON.parse(line.toString('utf8'))
    const time = typeof event === 'object' && event !== null && 'time' in event ? event.time : null
    const ms = typeof time === 'string' ? Date.parse(time) : NaN
    return Number.isNaN(ms) ? null : new Date(ms).toISOString()
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

function byTime(one: Line, other: Line): number {
  return one.time < other.time ? -1 : one.time > other.time ? 1 : Buffer.compare(one.bytes, other.bytes)
}

async function write(file: string, lines: readonly Line[]): Promise<void> {
  const handle = await open(file, 'wx', 0o600)
  try {
    let pieces: Buffer[] = []
    let size = 0
    for (const { time, bytes } of lines) {
      // The time goes before the line, so that it need not be looked for again.
      pieces.push(Buffer.from(time, 'latin1'), bytes, lineEnd)
      size += bytes.length
      if (size < writeBytes) continue
      await writeAll(handle, pieces)
      pieces = []
      size = 0
    }
    await writeAll(handle, pieces)
  } finally {
    await handle.close()
  }
}

const lineEnd = Buffer.of(newline)

async function writeAll(handle: FileHandle, pieces: readonly Buffer[]): Promise<void> {
  if (pieces.length > 0) await handle.appendFile(Buffer.concat(pieces))
}

async function* readLines(file: string): AsyncGenerator<readonly Line[]> {
  for await (const lines of linesOf(createReadStream(file, { highWaterMark: readBytes }))) yield lines.map((line) => ({ time: line.toString('latin1', 0, timeLength), bytes: line.subarray(timeLength) }))
}

async function* already(lines: readonly Line[]): AsyncGenerator<readonly Line[]> {
  if (lines.length > 0) yield lines
}

interface Head {
  readonly run: AsyncGenerator<readonly Line[]>
  lines: readonly Line[]
  at: number
}

async function* merged(runs: readonly AsyncGenerator<readonly Line[]>[]): AsyncGenerator<readonly Buffer[]> {
  const heads: Head[] = []
  for (const run of runs) {
    const first = await run.next()
    if (first.done !== true) heads.push({ run, lines: first.value, at: 0 })
  }
  while (heads.length > 0) {
    // There are few: to look at each of them is less than to keep them in order.
    const batch: Buffer[] = []
    let empty: Head | null = null
    while (empty === null) {
      let best = heads[0] as Head
      for (const head of heads) if (head !== best && byTime(head.lines[head.at] as Line, best.lines[best.at] as Line) < 0) best = head
      batch.push((best.lines[best.at] as Line).bytes)
      best.at += 1
      if (best.at === best.lines.length) empty = best
    }
    yield batch
    const next = await empty.run.next()
    if (next.done === true) heads.splice(heads.indexOf(empty), 1)
    else {
      empty.lines = next.value
      empty.at = 0
    }
  }
}
