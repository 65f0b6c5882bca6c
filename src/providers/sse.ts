import { ByteHold, joined } from './byte-hold.ts'

/** What becomes of an event: it passes, it is taken out, or it and all that follows is held until the end. */
export const PASS = 0
export const DROP = 1
export const HOLD = 2
export type Verdict = typeof PASS | typeof DROP | typeof HOLD

/** Understands events. Bytes are only lent: nothing of them may be kept. */
export interface EventReader {
  /** A whole event's data, its lines joined; `isError`: its name is `error`. Events without data are not shown. */
  event(bytes: Uint8Array, start: number, end: number, isError: boolean): Verdict
  /** More data of an event that is too large to keep; it has already passed. */
  piece(bytes: Uint8Array, start: number, end: number): void
  /** That event's end. HOLD keeps back the blank line without which no client takes it for whole. */
  pieceEnd(): Verdict
}

const LF = 10
const CR = 13
const COLON = 0x3a
const SPACE = 0x20
const DATA = Buffer.from('data:')
const EVENT = Buffer.from('event')
const ERROR = Buffer.from('error')

/** An event that is not whole is kept up to this size; a larger one flows, looked at but not edited. */
export const EVENT_BYTES_MAX = 256 * 1024
/** What follows the terminal frame; no client reads it. More is thrown away. */
export const AFTERMATH_BYTES_MAX = 64 * 1024

/**
 * Splits a stream of server-sent events into events without changing a byte of those that pass. Lines end with LF, CRLF or
 * CR, wherever chunks are cut. Each byte is looked at once and copied at most twice, whatever the chunks are like; a chunk of
 * whole events is given back as it is.
 */
export class EventStream {
  readonly #reader: EventReader
  /** The begun event: its bytes, from its first. */
  readonly #carry = new ByteHold()
  /** In `#carry`: where the unfinished line begins. */
  #lineStart = 0
  /** Of the begun event: how many data lines, and where the first one's value is, relative to the event. */
  #dataLines = 0
  #dataStart = 0
  #dataEnd = 0
  /** The others' values when an event has several data lines. */
  #moreData: number[] = []
  #isError = false
  #atStart = true
  /** The last byte was a CR that ended a line; an LF now belongs to it. */
  #skipLf = false
  /** And goes the way of the event that it ended. */
  #lfVerdict: Verdict = PASS
  /** In an event too large to keep: what the line is. -1: not in such an event. 0–5: so much of `data:` was read. 6: its value. 7: another line. */
  #flow = -1
  /** Where the blank line that ended such an event begins. */
  #blankStart = 0
  #held: ByteHold | null = null
  /** Bytes after the terminal frame beyond what is kept were thrown away. */
  overflowed = false

  constructor(reader: EventReader) {
    this.#reader = reader
  }

  /** An event told us to hold: the stream's terminal frame has been seen. */
  get holding(): boolean {
    return this.#held !== null
  }

  /** In the midst of an event whose beginning has been passed on. */
  get flowing(): boolean {
    return this.#flow >= 0
  }

  pass(chunk: Uint8Array): Uint8Array {
    if (chunk.length === 0) return chunk
    let bytes = chunk
    let pos = 0
    if (this.#carry.length > 0) {
      pos = this.#carry.length
      this.#carry.addCopy(chunk, 0, chunk.length)
      bytes = this.#carry.view()
    }
    const length = bytes.length
    const out: Uint8Array[] = []
    let keptFrom = 0
    let eventStart = 0
    let lineStart = this.#lineStart

    if (this.#skipLf) {
      this.#skipLf = false
      if (bytes[pos] === LF) {
        if (pos === 0) {
          if (this.#lfVerdict === DROP) keptFrom = 1
          eventStart = 1
        }
        pos++
        lineStart = pos
      }
    }
    if (this.#flow >= 0) {
      const wasHolding = this.#held !== null
      pos = this.#flowOn(bytes, pos, length)
      if (this.#flow >= 0) {
        if (!wasHolding) return chunk
        this.overflowed = true
        return joined(out)
      }
      if (!wasHolding && this.holding) {
        // The flown event was the terminal one: its blank line is kept back, without which no client takes it for whole.
        out.push(bytes.subarray(0, this.#blankStart))
        keptFrom = this.#blankStart
      }
      eventStart = pos
      lineStart = pos
    }

    // Where the next of each lies; -1: none in this chunk. Looked for again only once passed, so that each byte is searched twice at most.
    let nextLf = bytes.indexOf(LF, pos)
    let nextCr = bytes.indexOf(CR, pos)
    for (;;) {
      if (nextLf >= 0 && nextLf < pos) nextLf = bytes.indexOf(LF, pos)
      if (nextCr >= 0 && nextCr < pos) nextCr = bytes.indexOf(CR, pos)
      let lineEnd = nextLf
      let after = lineEnd + 1
      if (nextCr >= 0 && (nextLf < 0 || nextCr < nextLf)) {
        lineEnd = nextCr
        after = lineEnd + 1
        if (after === length) this.#skipLf = true
        else if (bytes[after] === LF) after++
      }
      if (lineEnd < 0) break
      if (this.#atStart) {
        this.#atStart = false
        if (bytes[lineStart] === 0xef && bytes[lineStart + 1] === 0xbb && bytes[lineStart + 2] === 0xbf) lineStart += 3
      }
      if (lineEnd > lineStart) {
        this.#line(bytes, lineStart, lineEnd, eventStart)
      } else {
        const verdict = this.#dispatch(bytes, eventStart)
        this.#lfVerdict = verdict
        if (verdict === DROP) {
          if (eventStart > keptFrom) this.#emit(out, bytes, keptFrom, eventStart)
          keptFrom = after
        } else if (verdict === HOLD && this.#held === null) {
          if (eventStart > keptFrom) out.push(bytes.subarray(keptFrom, eventStart))
          keptFrom = eventStart
          this.#held = new ByteHold()
        }
        eventStart = after
      }
      pos = after
      lineStart = after
    }

    if (length - eventStart > EVENT_BYTES_MAX) {
      this.#startFlow(bytes, eventStart, lineStart, length)
      if (length > keptFrom) this.#emit(out, bytes, keptFrom, length)
      this.#carry.take()
      this.#lineStart = 0
      return joined(out)
    }
    if (eventStart === length && keptFrom === 0 && bytes === chunk && this.#held === null) {
      this.#lineStart = 0
      return chunk
    }
    if (eventStart > keptFrom) this.#emit(out, bytes, keptFrom, eventStart)
    this.#lineStart = lineStart - eventStart
    if (eventStart > 0 || bytes === chunk) {
      this.#carry.take()
      this.#carry.addCopy(bytes, eventStart, length)
    }
    return joined(out)
  }

  /**
   * After the last byte. `complete`: the stream ended by itself, so a last event that lacks its blank line is read too, as
   * official clients do. Gives what was kept back.
   */
  end(complete: boolean): Uint8Array {
    const tail = this.#carry.take()
    let keepTail = true
    if (this.#flow >= 0) {
      if (complete) this.#reader.pieceEnd()
      this.#flow = -1
    } else if (tail.length > 0 && complete) {
      if (this.#lineStart < tail.length) this.#line(tail, this.#lineStart, tail.length, 0)
      keepTail = this.#dispatch(tail, 0) !== DROP
    }
    const parts = this.#held === null ? [] : [this.#held.take()]
    if (keepTail && tail.length > 0) parts.push(tail)
    return joined(parts)
  }

  #emit(out: Uint8Array[], bytes: Uint8Array, from: number, to: number): void {
    if (this.#held === null) out.push(bytes.subarray(from, to))
    else this.#hold(bytes, from, to)
  }

  #hold(bytes: Uint8Array, from: number, to: number): void {
    const held = this.#held
    if (held === null) return
    // The terminal frame itself is always kept whole.
    const room = held.length === 0 ? Infinity : EVENT_BYTES_MAX + AFTERMATH_BYTES_MAX - held.length
    if (to - from > room) {
      this.overflowed = true
      return
    }
    held.addCopy(bytes, from, to)
  }

  #line(bytes: Uint8Array, start: number, end: number, eventStart: number): void {
    if (bytes[start] === 0x64) {
      if (end - start < 4 || bytes[start + 1] !== 0x61 || bytes[start + 2] !== 0x74 || bytes[start + 3] !== 0x61) return
      let value = end
      if (end - start > 4) {
        if (bytes[start + 4] !== COLON) return
        value = start + 5
        if (value < end && bytes[value] === SPACE) value++
      }
      if (this.#dataLines++ === 0) {
        this.#dataStart = value - eventStart
        this.#dataEnd = end - eventStart
      } else if (this.#moreData.length < 20_000) this.#moreData.push(value - eventStart, end - eventStart)
    } else if (bytes[start] === 0x65 && startsWith(bytes, start, end, EVENT)) {
      let value = start + 5
      if (bytes[value] !== COLON) return
      value++
      if (bytes[value] === SPACE) value++
      this.#isError = end - value === 5 && startsWith(bytes, value, end, ERROR)
    }
  }

  #dispatch(bytes: Uint8Array, eventStart: number): Verdict {
    const lines = this.#dataLines
    if (lines === 0) {
      this.#isError = false
      return PASS
    }
    const isError = this.#isError
    this.#dataLines = 0
    this.#isError = false
    const start = eventStart + this.#dataStart
    const end = eventStart + this.#dataEnd
    if (lines === 1) return end > start ? this.#reader.event(bytes, start, end, isError) : PASS
    const parts = [bytes.subarray(start, end)]
    for (let i = 0; i < this.#moreData.length; i += 2) {
      parts.push(lineFeed, bytes.subarray(eventStart + (this.#moreData[i] ?? 0), eventStart + (this.#moreData[i + 1] ?? 0)))
    }
    this.#moreData = []
    const data = joined(parts)
    return this.#reader.event(data, 0, data.length, isError)
  }

  /** The begun event has become too large: its data so far goes to the reader, and its bytes pass. */
  #startFlow(bytes: Uint8Array, eventStart: number, lineStart: number, length: number): void {
    if (this.#dataLines > 0) {
      this.#reader.piece(bytes, eventStart + this.#dataStart, eventStart + this.#dataEnd)
      for (let i = 0; i < this.#moreData.length; i += 2) {
        this.#reader.piece(bytes, eventStart + (this.#moreData[i] ?? 0), eventStart + (this.#moreData[i + 1] ?? 0))
      }
    }
    this.#dataLines = 0
    this.#moreData = []
    this.#isError = false
    this.#flow = 0
    if (this.#atStart) {
      this.#atStart = false
      if (bytes[lineStart] === 0xef && bytes[lineStart + 1] === 0xbb && bytes[lineStart + 2] === 0xbf) lineStart += 3
    }
    this.#lfVerdict = PASS
    this.#flowOn(bytes, lineStart, length)
  }

  /** Reads on in an event too large to keep; the place after its blank line, or `length`. */
  #flowOn(bytes: Uint8Array, pos: number, length: number): number {
    while (pos < length) {
      if (this.#flow >= 6) {
        let end = pos
        while (end < length && bytes[end] !== LF && bytes[end] !== CR) end++
        if (this.#flow === 6 && end > pos) this.#reader.piece(bytes, pos, end)
        pos = end
        if (pos >= length) break
      }
      const byte = bytes[pos]
      if (byte === LF || byte === CR) {
        const blank = this.#flow === 0
        const begin = pos
        pos++
        if (byte === CR) {
          if (pos === length) this.#skipLf = true
          else if (bytes[pos] === LF) pos++
        }
        this.#flow = 0
        if (!blank) continue
        this.#flow = -1
        this.#blankStart = begin
        this.#lfVerdict = PASS
        if (this.#reader.pieceEnd() === HOLD && this.#held === null) this.#held = new ByteHold()
        return pos
      }
      if (this.#flow === 5) {
        this.#flow = 6
        if (byte === SPACE) pos++
      } else if (byte === DATA[this.#flow]) {
        this.#flow++
        pos++
      } else this.#flow = 7
    }
    return pos
  }
}

const lineFeed = new Uint8Array([LF])

function startsWith(bytes: Uint8Array, start: number, end: number, wanted: Uint8Array): boolean {
  if (end - start < wanted.length) return false
  for (let i = 0; i < wanted.length; i++) if (bytes[start + i] !== wanted[i]) return false
  return true
}
