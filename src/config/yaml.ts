import { isAlias, isMap, isPair, isScalar, isSeq, LineCounter, parseDocument, stringify } from 'yaml'
import type { Node as YamlNode, YAMLError } from 'yaml'
import type { Path, Report } from './problem.ts'
import { pathOf, shown } from './problem.ts'

/**
 * YAML 1.2 text as nodes that know where they stand. Scalars stay text: what they mean is decided by who reads them, so that `0123`, `yes`
 * and `1e3` are what the operator wrote. Aliases and merge keys are resolved here; tags are refused.
 */
export type Node = ScalarNode | MapNode | SeqNode

interface At {
  readonly source: Source
  readonly offset: number
}

export interface ScalarNode extends At {
  readonly kind: 'scalar'
  readonly text: string
  /** Written in quotes or as a block: always a text, never a number, a boolean or nothing. */
  readonly quoted: boolean
  /** Came from a substitution: never quoted in a message. */
  readonly substituted: boolean
}

export interface MapNode extends At {
  readonly kind: 'map'
  readonly entries: ReadonlyMap<string, Entry>
}

export interface SeqNode extends At {
  readonly kind: 'seq'
  readonly items: readonly Node[]
}

export interface Entry {
  /** The place of the key. */
  readonly key: At
  readonly value: Node
}

/** Where a node was written. */
export interface Source {
  readonly file: string
  readonly worldReadable: boolean
  /** 1-based; line 0: there is no such place. */
  position(offset: number): { readonly line: number; readonly column: number }
}

class FileSource implements Source {
  readonly file: string
  readonly worldReadable: boolean
  readonly #lines: LineCounter
  constructor(file: string, lines: LineCounter, worldReadable: boolean) {
    this.file = file
    this.#lines = lines
    this.worldReadable = worldReadable
  }
  position(offset: number): { readonly line: number; readonly column: number } {
    const { line, col } = this.#lines.linePos(offset)
    return { line: Math.max(1, line), column: Math.max(1, col) }
  }
}

/** A value that stands in no file, such as an environment variable's; `name` is said in its place. */
export function looseText(name: string, text: string): ScalarNode {
  const source = { file: name, worldReadable: false, position: () => ({ line: 0, column: 0 }) }
  return { kind: 'scalar', source, offset: 0, text, quoted: false, substituted: false }
}

/** What a scalar becomes after substitution; `problem` when it cannot be done. */
export type Substitute = (text: string) => { readonly text: string } | { readonly problem: string }

const depthMax = 64
/** A document may say through its aliases at most this many times what it says in full. */
const expansionMax = 20
const expansionFree = 100_000
const syntaxProblemsMax = 20

/** Undefined when the text is not YAML, or empty; the report then says why. */
export function parseYaml(file: string, text: string, substitute: Substitute, report: Report, worldReadable = false): Node | undefined {
  const lines = new LineCounter()
  const source = new FileSource(file, lines, worldReadable)
  const before = report.problems.length
  if (bracketsLeftOpen(text) > bracketsMax) {
    report.problemAt(source, 0, null, 'is nested too deeply to be read')
    return undefined
  }
  let document
  try {
    // The library's own search for duplicate keys is quadratic, so they are found below.
    document = parseDocument(text, { version: '1.2', schema: 'failsafe', uniqueKeys: false, prettyErrors: false, lineCounter: lines, logLevel: 'error' })
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    report.problemAt(source, 0, null, 'is nested too deeply to be read')
    return undefined
  }
  if (document.directives?.yaml.explicit === true && document.directives.yaml.version !== '1.2') {
    report.problemAt(source, 0, null, `is marked as YAML ${document.directives.yaml.version}; only YAML 1.2 is read`)
  }
  const told = new Set<number>()
  for (const error of document.errors) {
    const [offset] = error.pos
    const { line } = lines.linePos(offset)
    // One slip makes the reader stumble over the rest of its line, and may leave it lost for the rest of the file.
    if (told.has(line) || told.size >= syntaxProblemsMax || (told.size > 0 && isLost(error))) continue
    told.add(line)
    const unquoted = unquotedSubstitution(text, offset)
    if (unquoted !== undefined) {
      report.problemAt(source, offset - 1, null, `"\${…}" inside { } or [ ] has to stand in quotes: ${unquoted}`)
      continue
    }
    const sentence = error.code === 'MULTIPLE_DOCS' ? 'a second document begins here ("---"); a file holds one'
      : error.code === 'BLOCK_AS_IMPLICIT_KEY' ? 'is not valid YAML: a mapping cannot begin here, in the middle of a line; look at how this line and the one before are indented'
      : error.message.startsWith('Maximum call stack') ? 'is nested too deeply to be read' : `is not valid YAML: ${oneLine(error.message)}`
    report.problemAt(source, offset, null, sentence)
  }
  for (const warning of document.warnings.slice(0, syntaxProblemsMax)) {
    const tag = /^Unresolved tag: (.*)$/.exec(warning.message)
    report.problemAt(source, warning.pos[0], null, tag === null ? oneLine(warning.message) : `tags such as ${shown((tag[1] ?? '').replace('tag:yaml.org,2002:', '!!'))} are not supported`)
  }
  if (report.problems.length > before) return undefined
  if (document.contents === null || (isScalar(document.contents) && document.contents.value === '')) {
    report.problemAt(source, 0, null, 'is empty; a file that means to say nothing says {}')
    return undefined
  }
  const isBroken = report.problems.length > before
  const converter = new Converter(source, substitute, report)
  const root = converter.convert(document.contents, null, 0)
  if (converter.expanded > expansionFree && converter.expanded > expansionMax * converter.written) {
    report.problemAt(source, 0, null, 'its aliases expand to far more than the file itself says')
    return undefined
  }
  return isBroken || converter.isBroken ? undefined : root
}

/** Far more than anyone nests, and few enough to be read quickly; the exact bound is kept later. */
const bracketsMax = 1_000

/** The most brackets that are open at once, those in quotes counted too. */
function bracketsLeftOpen(text: string): number {
  let open = 0
  let most = 0
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === 0x5b || code === 0x7b) most = Math.max(most, ++open)
    else if ((code === 0x5d || code === 0x7d) && open > 0) open--
  }
  return most
}

/** It has fallen out of the document, and no longer knows what it reads. */
function isLost({ code, message }: YAMLError): boolean {
  return code === 'UNEXPECTED_TOKEN' && message.includes('token in YAML stream')
}

/** How the substitution whose brace stands here would be written in quotes; undefined: none does. Only inside { } or [ ] does such a brace make anybody stumble. */
function unquotedSubstitution(text: string, braceAt: number): string | undefined {
  const [found] = /^\$\{[^}\n]*\}?/.exec(text.slice(braceAt - 1, braceAt + 80)) ?? []
  if (found === undefined) return undefined
  const isPart = (character: string | undefined): boolean => character !== undefined && !/[\s,[\]{}]/.test(character)
  return `"${isPart(text[braceAt - 2]) ? '…' : ''}${found}${isPart(text[braceAt - 1 + found.length]) ? '…' : ''}"`
}

function oneLine(message: string): string {
  return message.slice(0, 200).replaceAll(/\s+/g, ' ').trim()
}

class Converter {
  readonly #source: Source
  readonly #substitute: Substitute
  readonly #report: Report
  /** Anchors seen so far, in document order: an alias means the latest one of its name. Undefined while its node is still being read. */
  readonly #anchors = new Map<string, { node: Node; size: number } | undefined>()
  /** What was read is not what was written. */
  isBroken = false
  /** Nodes written in the file. */
  written = 0
  /** Nodes if every alias were written out. */
  expanded = 0

  constructor(source: Source, substitute: Substitute, report: Report) {
    this.#source = source
    this.#substitute = substitute
    this.#report = report
  }

  convert(node: YamlNode | null, path: Path | null, depth: number): Node {
    const offset = node?.range?.[0] ?? 0
    if (isAlias(node)) return this.#alias(node.source, offset, path)
    const expandedBefore = this.expanded
    this.written++
    this.expanded++
    if (depth > depthMax) return this.#bad(offset, path, `is nested deeper than ${depthMax} levels`)
    const anchor = node !== null && 'anchor' in node ? node.anchor : undefined
    if (anchor !== undefined) this.#anchors.set(anchor, undefined)
    const result = this.#content(node, offset, path, depth)
    if (anchor !== undefined) this.#anchors.set(anchor, { node: result, size: this.expanded - expandedBefore })
    return result
  }

  #content(node: YamlNode | null, offset: number, path: Path | null, depth: number): Node {
    const source = this.#source
    if (isMap(node)) return { kind: 'map', source, offset, entries: this.#entries(node.items, path, depth) }
    if (isSeq(node)) {
      const items = node.items.map((item, index) => this.convert(isPair(item) ? null : item as YamlNode, pathOf(path, index), depth + 1))
      return { kind: 'seq', source, offset, items }
    }
    if (!isScalar(node)) return { kind: 'scalar', source, offset, text: '', quoted: false, substituted: false }
    const text = String(node.value ?? '')
    const quoted = node.type !== undefined && node.type !== 'PLAIN'
    if (!text.includes('${')) return { kind: 'scalar', source, offset, text, quoted, substituted: false }
    const answer = this.#substitute(text)
    if ('problem' in answer) {
      // The rest of the file is read all the same: an operator wants to hear of all mistakes at once.
      this.#report.unknownAt(source, offset, path, answer.problem)
      return { kind: 'scalar', source, offset, text: '', quoted: true, substituted: true }
    }
    // "${PORT}" has to be quoted inside { }, so the quotes say nothing about what is meant.
    return { kind: 'scalar', source, offset, text: answer.text, quoted: quoted && answer.text === text, substituted: true }
  }

  #entries(items: readonly { key: unknown; value: unknown }[], path: Path | null, depth: number): Map<string, Entry> {
    const entries = new Map<string, Entry>()
    const merges: { offset: number; node: Node }[] = []
    for (const item of items) {
      const key = item.key as YamlNode | null
      const keyOffset = key?.range?.[0] ?? 0
      if (!isScalar(key)) {
        this.#bad(keyOffset, path, 'a key has to be a plain word')
        continue
      }
      const name = String(key.value ?? '')
      const here = pathOf(path, name)
      if (name.includes('${')) this.#bad(keyOffset, here, 'nothing is substituted in a key')
      if (key.anchor !== undefined || key.tag !== undefined) this.#bad(keyOffset, here, 'a key cannot carry an anchor or a tag')
      const value = this.convert(item.value as YamlNode | null, here, depth + 1)
      const at = { source: this.#source, offset: keyOffset }
      if (name === '<<' && key.type === 'PLAIN') {
        if (merges.length > 0) this.#bad(keyOffset, here, 'is given twice; merge a list instead: <<: [*a, *b]')
        merges.push({ offset: keyOffset, node: value })
      } else if (entries.has(name)) {
        const first = entries.get(name)?.key
        this.#bad(keyOffset, here, `is given twice in one mapping; the first is in line ${first === undefined ? '?' : this.#source.position(first.offset).line}`)
      } else entries.set(name, { key: at, value })
    }
    for (const { offset, node } of merges) this.#merge(entries, offset, node, path)
    return entries
  }

  /** What the mapping says itself wins; of several merged ones, the first. */
  #merge(entries: Map<string, Entry>, offset: number, from: Node, path: Path | null): void {
    const maps = from.kind === 'seq' ? from.items : [from]
    for (const map of maps) {
      if (map.kind !== 'map') {
        this.#bad(offset, pathOf(path, '<<'), 'can only merge mappings')
        continue
      }
      this.expanded += map.entries.size
      for (const [name, entry] of map.entries) if (!entries.has(name)) entries.set(name, entry)
    }
  }

  #alias(name: string, offset: number, path: Path | null): Node {
    this.written++
    if (!this.#anchors.has(name)) return this.#bad(offset, path, `no anchor &${name} stands before this alias`)
    const target = this.#anchors.get(name)
    if (target === undefined) return this.#bad(offset, path, `the alias *${name} stands inside what it refers to`)
    this.expanded += target.size
    return target.node
  }

  #bad(offset: number, path: Path | null, sentence: string): Node {
    this.isBroken = true
    this.#report.problemAt(this.#source, offset, path, sentence)
    return { kind: 'scalar', source: this.#source, offset, text: '', quoted: false, substituted: false }
  }
}

/** For people: the printed configuration. */
export function toYaml(value: unknown): string {
  return stringify(value, { lineWidth: 140 })
}
