import { assert } from '../assert.ts'
import type { Answer } from './scalars.ts'
import type { Path, Report } from './problem.ts'
import { listed, pathOf, shown } from './problem.ts'
import type { MapNode, Node, ScalarNode } from './yaml.ts'

/**
 * One description of each part of the file serves twice: it reads nodes, saying every mistake in words, and it is the JSON Schema
 * that editors use. `read` answers undefined when it has reported a problem.
 */
export interface Shape<T> {
  read(node: Node, path: Path | null, report: Report): T | undefined
  /** Defined once and referred to: its name among the schema's `$defs`. */
  readonly name?: string
  readonly json: Json
}

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

export interface Field<T> {
  readonly shape: Shape<T>
  /** Absent: the field has to be there. */
  readonly otherwise?: T
  /** For editors. */
  readonly about: string
}

export type Fields = { readonly [key: string]: Field<unknown> }
type Value<F> = F extends Field<infer T> ? T : never
/** What an object shape reads; `node` and `trail` say where it stands, for what is checked later. */
export type Read<F extends Fields> = { readonly [K in keyof F]: Value<F[K]> } & { readonly node: MapNode; readonly trail: Path | null }

export function required<T>(shape: Shape<T>, about: string): Field<T> {
  return { shape, about }
}

export function optional<T, const D>(shape: Shape<T>, otherwise: D, about: string): Field<T | D> {
  return { shape, otherwise, about }
}

/** Named things; none when left out. */
export function section<T>(shape: Shape<ReadonlyMap<string, T>>, about: string): Field<ReadonlyMap<string, T>> {
  return { shape, otherwise: new Map<string, T>(), about }
}

const defined = new Map<string, Json>()

/** What stands for `shape` in a schema: itself, or a reference to where it is defined. */
export function jsonOf(shape: { readonly name?: string; readonly json: Json }): Json {
  if (shape.name === undefined) return shape.json
  const before = defined.get(shape.name)
  assert(before === undefined || JSON.stringify(before) === JSON.stringify(shape.json), `two shapes are named ${shape.name}`)
  defined.set(shape.name, shape.json)
  return { $ref: `#/$defs/${shape.name}` }
}

/** The named shapes that were referred to. */
export function definitions(): Json {
  return Object.fromEntries([...defined].sort(([a], [b]) => a < b ? -1 : 1))
}

export function isNothing(node: Node): boolean {
  return node.kind === 'scalar' && !node.quoted && (node.text === '' || /^(~|null|Null|NULL)$/.test(node.text))
}

const kinds: Readonly<Record<Node['kind'], string>> = { scalar: 'a single value', map: 'a mapping', seq: 'a list' }

export function what(node: Node): string {
  return isNothing(node) ? 'nothing' : kinds[node.kind]
}

/** A value in a sentence, unless it may be a secret. */
export function quote(node: ScalarNode): string {
  return node.substituted ? 'the value put in here' : shown(node.text)
}

function wordOf(node: Node, path: Path | null, report: Report, wanted: string): ScalarNode | undefined {
  if (node.kind === 'scalar' && !isNothing(node)) return node
  report.problem(node, path, `has to be ${wanted}, but is ${what(node)}`)
  return undefined
}

/** A substitution may stand wherever a value stands. */
const substitution: Json = { type: 'string', pattern: '\\$\\{' }

/** A scalar read by a function from text; `json` describes the texts (and numbers) that are right. `discreet`: no sentence of `read` quotes what was put in from outside. */
export function scalar<T>(name: string, wanted: string, json: readonly Json[], read: (text: string, node: ScalarNode) => Answer<T>, options: { readonly discreet?: true } = {}): Shape<T> {
  return {
    name,
    json: { description: wanted, anyOf: [...json, substitution] },
    read(node, path, report) {
      const word = wordOf(node, path, report, wanted)
      if (word === undefined) return undefined
      const answer = read(word.text, word)
      if ('value' in answer) return answer.value
      report.problem(node, path, word.substituted && options.discreet !== true ? `what is substituted here has to be ${wanted}, and is not` : answer.problem)
      return undefined
    },
  }
}

/** Plain digits in quotes are a text; numbers with a suffix may be quoted, because JSON has to. */
export function refuseQuoted(node: ScalarNode): { readonly problem: string } | undefined {
  return node.quoted && /^[\d.]+$/.test(node.text) ? { problem: `is a text in quotes; write ${node.text} without them` } : undefined
}

/** Left as it is, for a reader that needs to know more first. */
export function raw(name: string, wanted: string, json: readonly Json[]): Shape<ScalarNode> {
  return {
    name,
    json: { description: wanted, anyOf: [...json, substitution] },
    read: (node, path, report) => wordOf(node, path, report, wanted),
  }
}

/** Empty is allowed: an unset `${NAME:-}`. */
export const textOrEmpty: Shape<string> = {
  json: { type: ['string', 'number', 'boolean', 'null'] },
  read(node, path, report) {
    if (node.kind === 'scalar') return isNothing(node) ? '' : node.text
    report.problem(node, path, `has to be a text, but is ${what(node)}`)
    return undefined
  },
}

export const bool: Shape<boolean> = {
  name: 'boolean',
  json: { anyOf: [{ type: 'boolean' }, substitution] },
  read(node, path, report) {
    const word = wordOf(node, path, report, 'true or false')
    if (word === undefined) return undefined
    if (!word.quoted && /^(true|True|TRUE)$/.test(word.text)) return true
    if (!word.quoted && /^(false|False|FALSE)$/.test(word.text)) return false
    const meant = /^(yes|on|y|true)$/i.test(word.text) ? '; did you mean true?' : /^(no|off|n|false)$/i.test(word.text) ? '; did you mean false?' : ''
    report.problem(node, path, `${quote(word)} is neither true nor false${meant}`)
    return undefined
  },
}

/** One of a few words. */
export function oneOf<const W extends string>(words: readonly W[], other: Readonly<Record<string, string>> = {}): Shape<W> {
  return {
    json: { anyOf: [{ enum: words }, substitution] },
    read(node, path, report) {
      const word = wordOf(node, path, report, `one of ${listed(words)}`)
      if (word === undefined) return undefined
      const found = words.find((candidate) => candidate === word.text)
      if (found !== undefined) return found
      const better = Object.hasOwn(other, word.text) ? other[word.text] : undefined
      report.problem(node, path, better ?? `${quote(word)} is not one of ${listed(words)}${meant(report, word, words)}`)
      return undefined
    },
  }
}

function meant(report: Report, word: ScalarNode, words: readonly string[]): string {
  const suggestion = report.suggestion(word.text, words)
  return suggestion.startsWith('; did you mean') ? suggestion : ''
}

/** A text that follows a grammar. */
export function named(wanted: string, pattern: RegExp): Shape<string> {
  return {
    json: { anyOf: [{ type: 'string', pattern: pattern.source }, { type: ['number', 'boolean'] }, substitution] },
    read(node, path, report) {
      const word = wordOf(node, path, report, wanted)
      if (word === undefined) return undefined
      if (pattern.test(word.text)) return word.text
      report.problem(node, path, `${quote(word)} is not ${wanted}`)
      return undefined
    },
  }
}

export function list<T>(item: Shape<T>, options: { readonly empty?: string } = {}): Shape<readonly T[]> {
  return {
    json: { type: 'array', items: jsonOf(item), ...(options.empty === undefined ? {} : { minItems: 1 }) },
    read(node, path, report) {
      if (node.kind !== 'seq') {
        const dash = node.kind === 'map' ? '; begin each item with "-"' : ''
        report.problem(node, path, `has to be a list, but is ${what(node)}${dash}${node.kind === 'scalar' && !isNothing(node) && !node.substituted ? `; did you mean [${shown(node.text)}]?` : ''}`)
        return undefined
      }
      if (node.items.length === 0 && options.empty !== undefined) {
        report.problem(node, path, options.empty)
        return undefined
      }
      const values: T[] = []
      node.items.forEach((each, index) => {
        const value = item.read(each, pathOf(path, index), report)
        if (value !== undefined) values.push(value)
      })
      // What could be read is still worth checking further; the report keeps the rest from being used.
      return values
    },
  }
}

/** A single value or a list of them. */
export function oneOrMore<T>(item: Shape<T>, empty: string): Shape<readonly T[]> {
  const many = list(item, { empty })
  return {
    json: { anyOf: [jsonOf(item), many.json] },
    read(node, path, report) {
      if (node.kind === 'seq') return many.read(node, path, report)
      const value = item.read(node, path, report)
      return value === undefined ? undefined : [value]
    },
  }
}

/** Names of the operator's choosing → values, in file order. Broken ones are left out, so that the others can still be checked. */
export function mapping<T>(wanted: string, name: RegExp, item: Shape<T>, rename?: (name: string) => string | undefined): Shape<ReadonlyMap<string, T>> {
  return {
    json: { type: 'object', propertyNames: { pattern: name.source }, additionalProperties: jsonOf(item) },
    read(node, path, report) {
      if (node.kind !== 'map') {
        report.problem(node, path, `has to be a mapping of ${wanted}s, but is ${what(node)}`)
        return undefined
      }
      const values = new Map<string, T>()
      for (const [key, entry] of node.entries) {
        const here = pathOf(path, key)
        const why = name.test(key) ? rename?.(key) : `${shown(key)} is not a name for a ${wanted}; ${grammarOf(name)}`
        if (why !== undefined) report.problemAt(entry.key.source, entry.key.offset, here, why)
        const value = item.read(entry.value, here, report)
        if (value !== undefined && why === undefined) values.set(key, value)
      }
      return values
    },
  }
}

const grammars = new Map<RegExp, string>()

/** Gives a grammar its words. */
export function grammar(pattern: RegExp, words: string): RegExp {
  grammars.set(pattern, words)
  return pattern
}

function grammarOf(pattern: RegExp): string {
  return grammars.get(pattern) ?? `it has to match ${pattern.source}`
}

/**
 * An object with known keys; `hints` says what to write instead of words that people try. `lenient`: where a field is wrong, its default
 * stands in, so that the others can still be checked.
 */
export function object<F extends Fields>(fields: F, options: { readonly name?: string; readonly hints?: Readonly<Record<string, string>>; readonly extra?: RegExp; readonly lenient?: true } = {}): Shape<Read<F>> {
  const keys = Object.keys(fields)
  const properties: { [key: string]: Json } = {}
  for (const key of keys) {
    const field = fields[key]
    if (field !== undefined) properties[key] = withAbout(field)
  }
  const needed = keys.filter((key) => !('otherwise' in (fields[key] ?? {})))
  return {
    ...(options.name === undefined ? {} : { name: options.name }),
    json: {
      type: 'object',
      properties,
      ...(needed.length === 0 ? {} : { required: needed }),
      ...(options.extra === undefined ? {} : { patternProperties: { [options.extra.source]: {} } }),
      additionalProperties: false,
    },
    read(node, path, report) {
      if (node.kind !== 'map') {
        report.problem(node, path, `has to be a mapping, but is ${what(node)}; its keys are ${listed(keys)}`)
        return undefined
      }
      let good = true
      let hints = ''
      for (const [key, entry] of node.entries) {
        if (Object.hasOwn(fields, key) || options.extra?.test(key) === true) continue
        const hint = options.hints !== undefined && Object.hasOwn(options.hints, key) ? `; ${options.hints[key]}` : report.suggestion(key, keys)
        report.problemAt(entry.key.source, entry.key.offset, pathOf(path, key), `unknown key${hint}`)
        hints += hint
        good = false
      }
      const values: { [key: string]: unknown } = {}
      for (const key of keys) {
        const field = fields[key]
        const entry = node.entries.get(key)
        if (field === undefined) continue
        if (entry === undefined || (isNothing(entry.value) && field.otherwise === null)) {
          if ('otherwise' in field) values[key] = field.otherwise
          else {
            // What is there under a mistyped name is not missing too.
            if (!hints.includes(`"${key}"`)) report.problem(node, path, `${key} is missing`)
            good = false
          }
          continue
        }
        values[key] = field.shape.read(entry.value, pathOf(path, key), report)
        if (values[key] !== undefined) continue
        good = false
        values[key] = field.otherwise
      }
      if (!good && options.lenient !== true) return undefined
      values['node'] = node
      values['trail'] = path
      // Every field was read by its own shape or is its own default.
      return values as Read<F>
    },
  }
}

function withAbout(field: Field<unknown>): Json {
  return { description: field.about, ...(jsonOf(field.shape) as { readonly [key: string]: Json }) }
}

/** A word, or a mapping that says more. */
export function either<A, B>(word: Shape<A>, more: Shape<B>): Shape<A | B> {
  return {
    json: { anyOf: [jsonOf(word), jsonOf(more)] },
    read: (node, path, report): A | B | undefined => (node.kind === 'map' ? more : word).read(node, path, report),
  }
}
