import { asBuffer, ByteHold } from './byte-hold.ts'

/**
 * JSON read where it lies. `JsonTape` notes where every value stands without building any of them, so that hostile nesting, a
 * million keys or colliding keys cost linear time, and an edit can leave every other byte as it was. `JsonCapture` does the
 * same for an answer of any size that passes in pieces, keeping only the members it was asked for.
 */

export const OBJECT = 1
export const ARRAY = 2
export const STRING = 3
export const NUMBER = 4
export const TRUE = 5
export const FALSE = 6
export const NULL = 7
const KEY = 8

const ESCAPED = 16
const KINDS = 15

/** Deeper than any request of a known protocol, shallow enough that nothing recursive can be hurt. */
export const DEPTH_MAX = 64
/** One value costs 16 bytes of tape. The largest honest bodies are token arrays of embeddings: 300,000 numbers. */
export const VALUES_MAX = 400_000
/** Objects, arrays and member names: dearer than numbers, and no honest body has so many. */
export const STRUCTURE_MAX = 150_000

const structureProblem = `it holds more than ${STRUCTURE_MAX} objects, arrays and names`

/** A member's name, ready to be compared with bytes. */
export interface Name { readonly text: string; readonly bytes: Uint8Array }

export function name(text: string): Name {
  return { text, bytes: Buffer.from(text) }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const COMMA = 0x2c
const COLON = 0x3a

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39
}

function isHex(byte: number | undefined): boolean {
  return byte !== undefined && (isDigit(byte) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66))
}

/** 1 for the bytes that stand for themselves in a string. */
const plain = new Uint8Array(256).fill(1, 0x20)
plain[QUOTE] = 0
plain[BACKSLASH] = 0

const literals = [
  { kind: TRUE, bytes: Buffer.from('true') },
  { kind: FALSE, bytes: Buffer.from('false') },
  { kind: NULL, bytes: Buffer.from('null') },
]

/**
 * Where every value of one JSON text stands. A node is a number: its place on the tape. Members of an object are pairs: the
 * key's node, then the value's. Reused from text to text: a scan forgets the one before.
 */
export class JsonTape {
  /** Four numbers a node: kind and flags, start, end (offsets in bytes; strings with their quotes), the node after this one's subtree. */
  #nodes = new Int32Array(4 * 64)
  #length = 0
  #bytes: Uint8Array = new Uint8Array(0)
  #escaped = false
  readonly #open = new Int32Array(DEPTH_MAX)
  #structure = 0
  /** Why the last scan gave false: a part of a sentence. */
  problem = ''

  /** Notes the values of the JSON text in [from, to). False: `problem` says why it is none. */
  scan(bytes: Uint8Array, from: number, to: number): boolean {
    this.#bytes = bytes
    this.#length = 0
    this.#structure = 0
    this.problem = ''
    // One very large text must not keep its tape for the life of the process.
    if (this.#nodes.length > 1 << 18) this.#nodes = new Int32Array(4 * 64)
    let pos = this.#skipSpace(from, to)
    let depth = 0
    for (;;) {
      // A value begins here.
      if (pos >= to) return this.#fails('it ends too early')
      const byte = bytes[pos]
      if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
        if (depth === DEPTH_MAX) return this.#fails(`it is nested deeper than ${DEPTH_MAX} levels`)
        if (++this.#structure > STRUCTURE_MAX) return this.#fails(structureProblem)
        const node = this.#add(byte === OPEN_BRACE ? OBJECT : ARRAY, pos, 0)
        if (node < 0) return false
        this.#open[depth++] = node
        pos = this.#skipSpace(pos + 1, to)
        if (bytes[pos] !== (byte === OPEN_BRACE ? CLOSE_BRACE : CLOSE_BRACKET) || pos >= to) {
          if (byte === OPEN_BRACE) {
            pos = this.#key(pos, to)
            if (pos < 0) return false
          }
          continue
        }
      } else {
        pos = this.#scalar(pos, to)
        if (pos < 0) return false
      }
      // A value has ended: what closes with it, and what comes next?
      for (;;) {
        if (depth === 0) {
          return this.#skipSpace(pos, to) >= to || this.#fails('something follows its end')
        }
        pos = this.#skipSpace(pos, to)
        if (pos >= to) return this.#fails('it ends too early')
        const node = this.#open[depth - 1] ?? 0
        const isObject = this.#nodes[node] === OBJECT
        const next = bytes[pos]
        if (next === COMMA) {
          pos = this.#skipSpace(pos + 1, to)
          if (isObject) {
            pos = this.#key(pos, to)
            if (pos < 0) return false
          }
          break
        }
        if (next !== (isObject ? CLOSE_BRACE : CLOSE_BRACKET)) return this.#fails(`a comma or a closing bracket is missing at byte ${pos}`)
        pos++
        depth--
        this.#nodes[node + 2] = pos
        this.#nodes[node + 3] = this.#length
      }
    }
  }

  get bytes(): Uint8Array {
    return this.#bytes
  }

  /** A copy of this tape that no later scan changes. */
  kept(): JsonTape {
    const tape = new JsonTape()
    tape.#nodes = this.#nodes.slice(0, this.#length)
    tape.#length = this.#length
    tape.#bytes = this.#bytes
    return tape
  }

  kind(node: number): number {
    return node < 0 ? 0 : (this.#nodes[node] ?? 0) & KINDS
  }

  start(node: number): number {
    return this.#nodes[node + 1] ?? 0
  }

  end(node: number): number {
    return this.#nodes[node + 2] ?? 0
  }

  /** Where the children of an object or array begin; they end at `after(node)`. In an object a key's value is `valueOf(key)`. */
  first(node: number): number {
    return node + 4
  }

  after(node: number): number {
    return this.#nodes[node + 3] ?? 0
  }

  valueOf(key: number): number {
    return key + 4
  }

  /** How many values an array holds, or members an object; 0 for anything else. */
  count(node: number): number {
    let count = 0
    const isObject = this.kind(node) === OBJECT
    if (!isObject && this.kind(node) !== ARRAY) return 0
    for (let child = this.first(node), end = this.after(node); child < end; child = this.after(isObject ? this.valueOf(child) : child)) count++
    return count
  }

  /** The value of an object's member; -1 when there is none or `node` is no object. Of several the last, as JSON.parse has it. */
  member(node: number, wanted: Name): number {
    if (this.kind(node) !== OBJECT) return -1
    let found = -1
    for (let key = this.first(node), end = this.after(node); key < end; key = this.after(this.valueOf(key))) {
      if (this.keyIs(key, wanted)) found = this.valueOf(key)
    }
    return found
  }

  keyIs(key: number, wanted: Name): boolean {
    const nodes = this.#nodes
    const start = (nodes[key + 1] ?? 0) + 1
    const length = (nodes[key + 2] ?? 0) - 1 - start
    if ((nodes[key] ?? 0) & ESCAPED) return length < 512 && this.text(key) === wanted.text
    const bytes = wanted.bytes
    if (length !== bytes.length) return false
    for (let i = 0; i < length; i++) if (this.#bytes[start + i] !== bytes[i]) return false
    return true
  }

  /** A string's or key's text; invalid UTF-8 as U+FFFD. */
  text(node: number): string {
    const start = this.start(node)
    const end = this.end(node)
    const buffer = asBuffer(this.#bytes)
    if (((this.#nodes[node] ?? 0) & ESCAPED) === 0) return buffer.toString('utf8', start + 1, end - 1)
    return JSON.parse(buffer.toString('utf8', start, end)) as string
  }

  /** The bytes of a value as text. */
  raw(node: number): string {
    return asBuffer(this.#bytes).toString('utf8', this.start(node), this.end(node))
  }

  #fails(problem: string): false {
    this.problem = problem
    return false
  }

  #add(kind: number, start: number, end: number): number {
    const node = this.#length
    if (node >= this.#nodes.length) {
      if (node >= 4 * VALUES_MAX) {
        this.problem = `it holds more than ${VALUES_MAX} values`
        return -1
      }
      const grown = new Int32Array(Math.min(this.#nodes.length * 4, 4 * VALUES_MAX))
      grown.set(this.#nodes)
      this.#nodes = grown
    }
    const nodes = this.#nodes
    nodes[node] = kind
    nodes[node + 1] = start
    nodes[node + 2] = end
    nodes[node + 3] = node + 4
    this.#length = node + 4
    return node
  }

  #skipSpace(pos: number, to: number): number {
    while (pos < to && isSpace(this.#bytes[pos])) pos++
    return pos
  }

  /** Reads `"key":` and what space there is; the value's place, or -1. */
  #key(pos: number, to: number): number {
    if (pos >= to) return this.#fails('it ends too early') ? 0 : -1
    if (++this.#structure > STRUCTURE_MAX) return this.#fails(structureProblem) ? 0 : -1
    if (this.#bytes[pos] !== QUOTE) return this.#fails(`a member's name is missing at byte ${pos}`) ? 0 : -1
    const end = this.#string(pos, to)
    if (end < 0) return -1
    if (this.#add(this.#escaped ? KEY | ESCAPED : KEY, pos, end) < 0) return -1
    const colon = this.#skipSpace(end, to)
    if (colon >= to || this.#bytes[colon] !== COLON) return this.#fails(`a colon is missing at byte ${colon}`) ? 0 : -1
    return this.#skipSpace(colon + 1, to)
  }

  /** Reads a string, a number, or a literal; the place after it, or -1. */
  #scalar(pos: number, to: number): number {
    const byte = this.#bytes[pos]
    if (byte === QUOTE) {
      const end = this.#string(pos, to)
      if (end < 0) return -1
      return this.#add(this.#escaped ? STRING | ESCAPED : STRING, pos, end) < 0 ? -1 : end
    }
    if (byte === 0x2d || isDigit(byte)) {
      const end = this.#number(pos, to)
      if (end < 0) return this.#fails(`a number is malformed at byte ${pos}`) ? 0 : -1
      return this.#add(NUMBER, pos, end) < 0 ? -1 : end
    }
    for (const literal of literals) {
      const end = pos + literal.bytes.length
      if (byte !== literal.bytes[0] || end > to) continue
      let i = 1
      while (i < literal.bytes.length && this.#bytes[pos + i] === literal.bytes[i]) i++
      if (i === literal.bytes.length) return this.#add(literal.kind, pos, end) < 0 ? -1 : end
    }
    return this.#fails(`something that is no JSON value stands at byte ${pos}`) ? 0 : -1
  }

  #string(pos: number, to: number): number {
    const bytes = this.#bytes
    const start = pos
    this.#escaped = false
    pos++
    while (pos < to) {
      while (pos < to && plain[bytes[pos] ?? 0] === 1) pos++
      if (pos >= to) break
      const byte = bytes[pos]
      if (byte === QUOTE) return pos + 1
      if (byte !== BACKSLASH) break
      this.#escaped = true
      const escape = pos + 1 < to ? bytes[pos + 1] : undefined
      switch (escape) {
        case QUOTE: case BACKSLASH: case 0x2f: case 0x62: case 0x66: case 0x6e: case 0x72: case 0x74:
          pos += 2
          continue
        case 0x75:
          if (pos + 6 <= to && isHex(bytes[pos + 2]) && isHex(bytes[pos + 3]) && isHex(bytes[pos + 4]) && isHex(bytes[pos + 5])) {
            pos += 6
            continue
          }
      }
      break
    }
    this.problem = pos >= to ? 'it ends too early' : `the string that begins at byte ${start} holds a control character or a wrong escape`
    return -1
  }

  #number(pos: number, to: number): number {
    const bytes = this.#bytes
    if (bytes[pos] === 0x2d) pos++
    if (pos < to && bytes[pos] === 0x30) pos++
    else pos = this.#digits(pos, to)
    if (pos >= 0 && pos < to && bytes[pos] === 0x2e) pos = this.#digits(pos + 1, to)
    if (pos >= 0 && pos < to && (bytes[pos] === 0x65 || bytes[pos] === 0x45)) {
      pos++
      if (pos < to && (bytes[pos] === 0x2b || bytes[pos] === 0x2d)) pos++
      pos = this.#digits(pos, to)
    }
    return pos
  }

  /** The place after one or more digits, or -1. */
  #digits(pos: number, to: number): number {
    const start = pos
    while (pos < to && isDigit(this.#bytes[pos])) pos++
    return pos === start ? -1 : pos
  }
}

/** Larger members are not kept: usage objects have hundreds of bytes. */
const capturedBytesMax = 64 * 1024
const nameBytesMax = 64

/**
 * Picks members out of a JSON object that passes in pieces of any size: those of the top level, and those of one member of it
 * (`parent`), named `parent.member`. Keeps nothing else. It follows brackets and strings only; what it captured is JSON if the
 * whole was. The last of several wins, as JSON.parse has it.
 */
export class JsonCapture {
  readonly #wanted: ReadonlySet<string>
  readonly #parent: string | null
  readonly #found = new Map<string, Uint8Array>()
  #depth = 0
  #inString = false
  #escape = false
  /** The string being read is a member's name. */
  #inName = false
  #nameNext = false
  readonly #name = new ByteHold()
  #lastName = ''
  #inParent = false
  /** What is being captured, and at which depth its object is; '' when nothing. */
  #capturing = ''
  #captureDepth = 0
  #captureTooLarge = false
  readonly #capture = new ByteHold()
  /** What the text is: nothing but space so far, an object, or anything else. */
  root: 'none' | 'object' | 'other' = 'none'
  /** The object or array has been closed. */
  closed = false

  constructor(wanted: readonly string[], parent: string | null = null) {
    this.#wanted = new Set(wanted)
    this.#parent = parent
  }

  /** The bytes of a member's value; undefined when it has not been seen whole. */
  found(member: string): Uint8Array | undefined {
    return this.#found.get(member)
  }

  push(bytes: Uint8Array, from = 0, to = bytes.length): void {
    let pos = from
    // Where in this chunk the value being captured goes on.
    let capturedFrom = from
    while (pos < to) {
      if (this.#inString) {
        const began = pos
        if (this.#escape) {
          this.#escape = false
          pos++
        }
        let byte = 0
        while (pos < to && (byte = bytes[pos] ?? 0) !== QUOTE) {
          if (byte === BACKSLASH) {
            pos++
            if (pos >= to) this.#escape = true
          }
          pos++
        }
        if (pos > to) pos = to
        if (pos >= to) {
          if (this.#inName) this.#keepName(bytes, began, pos)
          break
        }
        this.#inString = false
        if (this.#inName) this.#nameEnds(bytes, began, pos)
        pos++
        continue
      }
      const byte = bytes[pos]
      switch (byte) {
        case QUOTE:
          this.#inString = true
          this.#inName = this.#nameNext
          this.#nameNext = false
          break
        case OPEN_BRACE: case OPEN_BRACKET:
          if (this.#depth === 0) this.root = this.root === 'none' && byte === OPEN_BRACE ? 'object' : 'other'
          if (this.#depth === 1 && byte === OPEN_BRACE && this.root === 'object' && this.#lastName === this.#parent) this.#inParent = true
          this.#depth++
          this.#nameNext = byte === OPEN_BRACE && this.#atNames()
          break
        case CLOSE_BRACE: case CLOSE_BRACKET:
          if (this.#capturing !== '' && this.#depth === this.#captureDepth) this.#captureEnds(bytes, capturedFrom, pos)
          if (this.#depth === 2) this.#inParent = false
          this.#depth--
          this.#nameNext = false
          if (this.#depth <= 0) {
            this.#depth = 0
            this.closed = true
          }
          break
        case COMMA:
          if (this.#capturing !== '' && this.#depth === this.#captureDepth) this.#captureEnds(bytes, capturedFrom, pos)
          this.#nameNext = this.#atNames()
          break
        case COLON:
          if (this.#capturing === '' && this.#lastName !== '' && this.#atNames()) {
            const member = this.#inParent ? `${this.#parent}.${this.#lastName}` : this.#lastName
            if (this.#wanted.has(member)) {
              this.#capturing = member
              this.#captureDepth = this.#depth
              this.#captureTooLarge = false
              capturedFrom = pos + 1
            }
          }
          break
        default:
          if (this.root === 'none' && !isSpace(byte) && byte !== 0xef && byte !== 0xbb && byte !== 0xbf) this.root = 'other'
      }
      pos++
    }
    if (this.#capturing !== '') this.#keep(bytes, capturedFrom, to)
  }

  /** Are we directly in an object whose members' names matter? */
  #atNames(): boolean {
    return this.root === 'object' && !this.closed && (this.#depth === 1 || (this.#depth === 2 && this.#inParent))
  }

  #keepName(bytes: Uint8Array, from: number, to: number): void {
    if (this.#name.length <= nameBytesMax) this.#name.addCopy(bytes, from, Math.min(to, from + nameBytesMax + 1))
  }

  #nameEnds(bytes: Uint8Array, from: number, to: number): void {
    this.#inName = false
    let raw = bytes
    // Only a name that was cut by the end of a chunk had to be kept.
    if (this.#name.length > 0) {
      this.#keepName(bytes, from, to)
      raw = this.#name.take()
      from = 0
      to = raw.length
    }
    let text = to - from > nameBytesMax ? '' : asBuffer(raw).toString('utf8', from, to)
    if (text.includes('\\')) {
      try {
        text = String(JSON.parse(`"${text}"`))
      } catch {
        // A name that is no JSON is none of those we look for.
        text = ''
      }
    }
    this.#lastName = text
  }

  #keep(bytes: Uint8Array, from: number, to: number): void {
    if (this.#capture.length + to - from > capturedBytesMax) this.#captureTooLarge = true
    if (!this.#captureTooLarge) this.#capture.addCopy(bytes, from, to)
  }

  #captureEnds(bytes: Uint8Array, from: number, to: number): void {
    const whole = this.#capture.length === 0 && to - from <= capturedBytesMax
    if (!whole) this.#keep(bytes, from, to)
    const value = whole ? new Uint8Array(bytes.subarray(from, to)) : this.#capture.take()
    if (this.#captureTooLarge) this.#found.delete(this.#capturing)
    else this.#found.set(this.#capturing, value)
    this.#capturing = ''
  }
}
