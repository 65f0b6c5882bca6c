import { isUtf8 } from 'node:buffer'
import { GatewayError } from '../errors.ts'
import { asBuffer } from './byte-hold.ts'
import { ARRAY, FALSE, JsonTape, NULL, NUMBER, OBJECT, STRING, TRUE, type Name } from './json-scan.ts'

/** More than any protocol has; it also bounds the search for names that occur twice. */
const MEMBERS_MAX = 256
/** Longer numbers lose digits on the way to a double. */
const DIGITS_MAX = 15

const scratch = new JsonTape()

export function badRequest(sentence: string): GatewayError {
  return new GatewayError('bad_request', sentence)
}

/** A replacement of [start, end) of a body. */
export interface Edit { readonly start: number; readonly end: number; readonly text: string }

interface Place { readonly key: string; readonly node: number }

/**
 * A request's JSON object, read strictly: every field that a limit depends on is either what the protocol says or the caller's
 * own mistake, told by name. Members that occur twice are refused where they matter, for two parsers may choose differently.
 */
export class RequestBody {
  readonly bytes: Uint8Array
  readonly tape: JsonTape
  readonly #members = new Map<string, number>()

  /** `lasting`: nodes are looked at after other bodies have been read. */
  constructor(bytes: Uint8Array, lasting = false) {
    this.bytes = bytes
    if (bytes.length === 0) throw badRequest('The body is empty; it has to be a JSON object.')
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) throw badRequest('The body begins with a byte order mark; JSON has none.')
    if (!isUtf8(bytes)) throw badRequest('The body is not valid UTF-8.')
    if (!scratch.scan(bytes, 0, bytes.length)) throw badRequest(`The body is not valid JSON: ${scratch.problem}.`)
    if (scratch.kind(0) !== OBJECT) throw badRequest('The body has to be a JSON object.')
    this.tape = lasting ? scratch.kept() : scratch
    for (const { key, node } of this.members(0)) {
      if (this.#members.has(key)) throw badRequest(`The body has the member "${shown(key)}" twice.`)
      if (this.#members.size === MEMBERS_MAX) throw badRequest(`The body has more than ${MEMBERS_MAX} members.`)
      this.#members.set(key, node)
    }
  }

  * members(object: number): Iterable<Place> {
    const tape = this.tape
    if (tape.kind(object) !== OBJECT) return
    for (let key = tape.first(object), end = tape.after(object); key < end; key = tape.after(tape.valueOf(key))) {
      yield { key: tape.text(key), node: tape.valueOf(key) }
    }
  }

  * items(array: number): Iterable<number> {
    const tape = this.tape
    if (tape.kind(array) !== ARRAY) return
    for (let item = tape.first(array), end = tape.after(array); item < end; item = tape.after(item)) yield item
  }

  topLevel(): Iterable<readonly [string, number]> {
    return this.#members
  }

  /** A member's value; -1 when absent or null, which protocols take for the same. */
  get(field: string): number {
    const node = this.#members.get(field) ?? -1
    return this.tape.kind(node) === NULL ? -1 : node
  }

  /** Whether the member is there at all, null included. */
  place(field: string): number {
    return this.#members.get(field) ?? -1
  }

  /** A member of a nested object, which may be there once only. */
  within(object: number, wanted: Name): number {
    const tape = this.tape
    if (tape.kind(object) !== OBJECT) return -1
    let found = -1
    for (let key = tape.first(object), end = tape.after(object); key < end; key = tape.after(tape.valueOf(key))) {
      if (!tape.keyIs(key, wanted)) continue
      if (found >= 0) throw badRequest(`An object of the body has the member "${wanted.text}" twice.`)
      found = tape.valueOf(key)
    }
    return tape.kind(found) === NULL ? -1 : found
  }

  boolean(field: string): boolean | null {
    const node = this.get(field)
    return node < 0 ? null : this.booleanAt(node, field)
  }

  booleanAt(node: number, field: string): boolean {
    const kind = this.tape.kind(node)
    if (kind !== TRUE && kind !== FALSE) throw badRequest(`${field} has to be true or false.`)
    return kind === TRUE
  }

  integer(field: string, least: number, most = Number.MAX_SAFE_INTEGER): number | null {
    const node = this.get(field)
    return node < 0 ? null : this.integerAt(node, field, least, most)
  }

  integerAt(node: number, field: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
    const raw = this.tape.kind(node) === NUMBER && this.tape.end(node) - this.tape.start(node) <= DIGITS_MAX ? this.tape.raw(node) : ''
    const value = /^(0|[1-9][0-9]*)$/.test(raw) ? Number(raw) : -1
    if (value < least || value > most) {
      throw badRequest(`${field} has to be a whole number ${most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`}.`)
    }
    return value
  }

  string(field: string, charsMax: number): string | null {
    const node = this.get(field)
    return node < 0 ? null : this.stringAt(node, field, charsMax)
  }

  stringAt(node: number, field: string, charsMax: number): string {
    if (this.tape.kind(node) !== STRING) throw badRequest(`${field} has to be a string.`)
    if (this.tape.end(node) - this.tape.start(node) - 2 > charsMax * 4) throw badRequest(`${field} is longer than ${charsMax} characters.`)
    const text = this.tape.text(node)
    if (text.length > charsMax) throw badRequest(`${field} is longer than ${charsMax} characters.`)
    return text
  }

  /** The text of a short string, null for anything else: for fields that only choose a rule. */
  word(node: number): string | null {
    return this.tape.kind(node) === STRING && this.tape.end(node) - this.tape.start(node) <= 258 ? this.tape.text(node) : null
  }

  object(field: string): number {
    const node = this.get(field)
    if (node >= 0 && this.tape.kind(node) !== OBJECT) throw badRequest(`${field} has to be an object.`)
    return node
  }

  array(field: string): number {
    const node = this.get(field)
    if (node >= 0 && this.tape.kind(node) !== ARRAY) throw badRequest(`${field} has to be an array.`)
    return node
  }

  model(): string {
    const model = this.string('model', 256)
    if (model === null || model === '') throw badRequest('model is missing: it has to be the name of a model.')
    return model
  }

  /** Bytes of a value as it stands. */
  size(node: number): number {
    return node < 0 ? 0 : this.tape.end(node) - this.tape.start(node)
  }

  /** The edit that gives a top-level member a value, in its place or as a new one in front. */
  setting(field: string, json: string): Edit {
    const node = this.place(field)
    if (node >= 0) return { start: this.tape.start(node), end: this.tape.end(node), text: json }
    const start = this.tape.start(0) + 1
    return { start, end: start, text: `${JSON.stringify(field)}:${json}${this.#members.size === 0 ? '' : ','}` }
  }

  /** The same for a member of a nested object. */
  settingWithin(object: number, member: Name, json: string): Edit {
    const node = this.tape.member(object, member)
    if (node >= 0) return { start: this.tape.start(node), end: this.tape.end(node), text: json }
    const start = this.tape.start(object) + 1
    return { start, end: start, text: `${JSON.stringify(member.text)}:${json}${this.tape.count(object) === 0 ? '' : ','}` }
  }
}

/** The body with its edits made; every other byte stays as it was. */
export function edited(bytes: Uint8Array, edits: readonly Edit[]): Uint8Array {
  if (edits.length === 0) return bytes
  const ordered = edits.toSorted((a, b) => a.start - b.start)
  const parts: Buffer[] = []
  const source = asBuffer(bytes)
  let at = 0
  for (const edit of ordered) {
    parts.push(source.subarray(at, edit.start), Buffer.from(edit.text))
    at = edit.end
  }
  parts.push(source.subarray(at))
  return Buffer.concat(parts)
}

function shown(text: string): string {
  return text.length > 64 ? `${text.slice(0, 64)}…` : text
}

export { ARRAY, name, NUMBER, OBJECT, STRING, TRUE } from './json-scan.ts'
