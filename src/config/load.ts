import { hash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'
import { matches } from '../metering/glob.ts'
import type { Config } from './config.ts'
import { parseConfig } from './parse.ts'
import type { Path, Problem } from './problem.ts'
import { Report, pathOf } from './problem.ts'
import { joinedSections, sharedSections } from './schema.ts'
import { isNothing, what } from './shape.ts'
import type { Entry, MapNode, Node, Substitute } from './yaml.ts'
import { parseYaml } from './yaml.ts'

/** Everything that a configuration is made of, handed in: nothing here looks at the process. */
export interface LoadOptions {
  /** Path of the main file. */
  readonly file: string
  readonly env: Readonly<Record<string, string | undefined>>
  /** Names this gateway when the file does not. */
  readonly hostName: string
  /** From the command line; they win over the environment and the file. */
  readonly listen?: string
  readonly adminListen?: string
  /** In place of the main file's content. */
  readonly text?: string
}

export interface LoadResult {
  /** null when there is any problem. */
  readonly config: Config | null
  readonly problems: readonly Problem[]
  readonly warnings: readonly Problem[]
  readonly sources: Sources
}

/** What was read, or tried: for watching. */
export interface Sources {
  /** Configuration files and secrets, each with the digest of what was read. */
  readonly files: ReadonlyMap<string, string>
  /** Patterns of `include`, as paths, each with what it meant. */
  readonly patterns: ReadonlyMap<string, string>
}

/** In place of a digest where nothing could be read. */
export const unreadable = 'unreadable'

export const fileBytesMax = 64 * 1_048_576
const secretBytesMax = 65_536
const filesMax = 1_000

/** Reads the file and all that it includes, and gives one frozen Config or every mistake in it. Never throws for what a file holds. */
export function loadConfig(options: LoadOptions): LoadResult {
  const report = new Report()
  const reader = new Reader(options, report)
  const root = reader.read()
  const { files, patterns } = reader
  const config = root === undefined ? null : parseConfig(root, options, [...files.keys()], report)
  const sources = { files, patterns }
  return { config: report.problems.length > 0 ? null : config, problems: inOrder(report.problems), warnings: inOrder(report.warnings), sources }
}

/** What a file that says nothing else is laid over another configuration with. */
const soldSections = new Set(['prices', 'plans', 'add_ons', 'meters', 'accounts'])

/**
 * A configuration that might be: a whole one, or a file with plans and prices alone (add-ons, meters and accounts too), laid over the present one: what has a name
 * there takes the place of what has it here, the rest stays. `laid`: the latter.
 */
export function loadCandidate(options: LoadOptions, file: string): LoadResult & { readonly laid: boolean } {
  const report = new Report()
  const reader = new Reader(options, report)
  if (!reader.isPart(file)) {
    const { text: _text, ...rest } = options
    return { ...loadConfig({ ...rest, file }), laid: false }
  }
  const root = reader.read(file)
  const { files, patterns } = reader
  const config = root === undefined ? null : parseConfig(root, options, [...files.keys()], report)
  return { config: report.problems.length > 0 ? null : config, problems: inOrder(report.problems), warnings: inOrder(report.warnings), sources: { files, patterns }, laid: true }
}

/** By file, as first met, then by place. */
function inOrder(problems: Problem[]): Problem[] {
  const files = [...new Set(problems.map((problem) => problem.file))]
  const rank = new Map(files.map((file, index) => [file, index]))
  return problems.sort((a, b) => (rank.get(a.file) ?? 0) - (rank.get(b.file) ?? 0) || a.line - b.line || a.column - b.column)
}

class Reader {
  readonly patterns = new Map<string, string>()
  /** Digests by path; configuration files and secrets. */
  readonly files = new Map<string, string>()
  readonly #options: LoadOptions
  readonly #report: Report
  /** Configuration files alone. */
  readonly #read = new Set<string>()
  readonly #root = new Map<string, Entry>()

  constructor(options: LoadOptions, report: Report) {
    this.#options = options
    this.#report = report
  }

  /** `over`: a file of parts that take the place of those of the same name. */
  read(over?: string): MapNode | undefined {
    const first = this.#file(this.#options.file, undefined)
    if (first === undefined) return undefined
    if (over !== undefined) for (const [section, entry] of this.#parsed(over, this.#report)?.entries ?? []) this.#replace(section, entry)
    return { ...first, entries: this.#root }
  }

  /** Does it hold nothing but what is sold? A file that cannot be read is for whoever reads it whole to complain of. */
  isPart(file: string): boolean {
    const root = this.#parsed(file, new Report())
    if (root === undefined || root.entries.size === 0) return false
    return [...root.entries.keys()].every((section) => soldSections.has(section) || section === '$schema' || section.startsWith('x-'))
  }

  #parsed(file: string, report: Report): MapNode | undefined {
    const content = readText(file, fileBytesMax)
    this.files.set(file, 'digest' in content ? content.digest : unreadable)
    const node = 'problem' in content ? undefined : parseYaml(file, content.text, this.#substitute(file), report, content.worldReadable)
    return node?.kind === 'map' ? node : undefined
  }

  #replace(section: string, entry: Entry): void {
    if (section === '$schema' || section.startsWith('x-') || isNothing(entry.value)) return
    const first = this.#root.get(section)
    if (first?.value.kind !== 'map' || entry.value.kind !== 'map') this.#root.set(section, entry)
    else this.#root.set(section, { key: first.key, value: { ...first.value, entries: new Map([...first.value.entries, ...entry.value.entries]) } })
  }

  #file(file: string, from: { node: Node; path: Path } | undefined): MapNode | undefined {
    if (this.#read.has(file)) return undefined
    this.#read.add(file)
    const { text } = this.#options
    const content = text !== undefined && from === undefined ? { text, worldReadable: false, digest: digestOf(text) } : readText(file, fileBytesMax)
    this.files.set(file, 'digest' in content ? content.digest : unreadable)
    if ('problem' in content) {
      if (from === undefined) this.#report.whole(file, content.problem)
      else this.#report.problem(from.node, from.path, `${from.node.kind === 'scalar' && from.node.substituted ? 'the file named here' : file} ${content.problem}`)
      return undefined
    }
    const node = parseYaml(file, content.text, this.#substitute(file), this.#report, content.worldReadable)
    if (node === undefined) return undefined
    if (node.kind !== 'map') {
      this.#report.problem(node, null, `has to be a mapping of sections such as plans and keys, but is ${what(node)}`)
      return undefined
    }
    for (const [section, entry] of node.entries) this.#take(section, entry)
    const include = node.entries.get('include')
    if (include !== undefined) this.#include(file, include.value)
    return node
  }

  #take(section: string, entry: Entry): void {
    // A section whose lines are all commented out says nothing.
    if (section === 'include' || section === '$schema' || section.startsWith('x-') || isNothing(entry.value)) return
    const first = this.#root.get(section)
    if (first === undefined) this.#root.set(section, entry)
    else if (sharedSections.has(section) && first.value.kind === 'map' && entry.value.kind === 'map') {
      const entries = new Map(first.value.entries)
      for (const [name, value] of entry.value.entries) {
        const before = entries.get(name)
        if (before === undefined) entries.set(name, value)
        else this.#twice(value, pathOf(pathOf(null, section), name), before)
      }
      this.#root.set(section, { key: first.key, value: { ...first.value, entries } })
    } else if (joinedSections.has(section) && first.value.kind === 'seq' && entry.value.kind === 'seq') {
      this.#root.set(section, { key: first.key, value: { ...first.value, items: [...first.value.items, ...entry.value.items] } })
    } else this.#twice(entry, pathOf(null, section), first)
  }

  #twice(entry: Entry, path: Path, first: Entry): void {
    const { line } = first.key.source.position(first.key.offset)
    this.#report.problemAt(entry.key.source, entry.key.offset, path, `is defined twice; the first is at ${first.key.source.file}:${line}`)
  }

  #include(file: string, node: Node): void {
    const items = node.kind === 'seq' ? node.items : [node]
    items.forEach((item, index) => {
      const path = node.kind === 'seq' ? pathOf(pathOf(null, 'include'), index) : pathOf(null, 'include')
      if (item.kind !== 'scalar' || isNothing(item)) {
        this.#report.problem(item, path, `has to be a path or a pattern, but is ${what(item)}`)
        return
      }
      const pattern = isAbsolute(item.text) ? item.text : join(dirname(file), item.text)
      const found = expand(pattern)
      if (pattern.includes('*')) {
        this.patterns.set(pattern, expansionText(found))
        if ('missing' in found) this.#report.problem(item, path, item.substituted ? 'there is no such directory' : `there is no directory ${found.missing}`)
        else if (found.files.length === 0) this.#report.warn(item, path, `no file matches ${item.substituted ? 'what is substituted here' : pattern}`)
      }
      for (const each of 'files' in found ? found.files : []) {
        if (this.#read.size >= filesMax) {
          this.#report.problem(item, path, `includes more than ${filesMax} files`)
          break
        }
        this.#file(each, { node: item, path })
      }
    })
  }

  /** `${NAME}`, `${NAME:-default}`, `${file:PATH}`; `$${` is a literal `${`. What is put in is not looked at again. */
  #substitute(file: string): Substitute {
    return (text) => {
      const problems: string[] = []
      const result = text.replaceAll(/\$\$\{|\$\{([^}]*)\}?/g, (whole: string, inside: string | undefined) => {
        if (inside === undefined) return '${'
        const answer = whole.endsWith('}') ? this.#value(inside, file) : { problem: `\${${inside.slice(0, 40)} is not closed; write }` }
        if ('text' in answer) return answer.text
        problems.push(answer.problem)
        return ''
      })
      return problems.length > 0 ? { problem: problems.join('; ') } : { text: result }
    }
  }

  #value(inside: string, file: string): { text: string } | { problem: string } {
    if (inside.startsWith('file:')) {
      const named = inside.slice(5)
      const path = isAbsolute(named) ? named : join(dirname(file), named)
      const content = readText(path, secretBytesMax)
      this.files.set(path, 'digest' in content ? content.digest : unreadable)
      if ('problem' in content) return { problem: `the file ${path} ${content.problem}` }
      const text = content.text.replace(/(\r?\n)+$/, '')
      return text === '' ? { problem: `the file ${path} is empty` } : { text }
    }
    const match = /^([A-Za-z_][A-Za-z0-9_]*)(?::-([\s\S]*))?$/.exec(inside)
    if (match === null) return { problem: `\${${inside.slice(0, 40)}} is not understood; write \${NAME}, \${NAME:-default} or \${file:/path}` }
    const [, name = '', fallback] = match
    const value = Object.hasOwn(this.#options.env, name) ? this.#options.env[name] : undefined
    // As in a shell: `:-` also stands in for a variable that is set and empty.
    if (value !== undefined && (value !== '' || fallback === undefined)) return { text: value }
    if (fallback !== undefined) return { text: fallback }
    return { problem: `the environment variable ${name} is not set; set it, or write \${${name}:-default}` }
  }
}

export function digestOf(content: string | Uint8Array): string {
  return hash('sha256', content)
}

interface FileText { readonly text: string; readonly worldReadable: boolean; readonly digest: string }

/** A regular file's text. Anything else (a directory, a pipe, a device) is refused without waiting for it. */
function readText(path: string, bytesMax: number): FileText | { readonly problem: string } {
  let bytes: Buffer
  let mode: number
  try {
    // Asked before opening: opening some devices has effects.
    if (!statSync(path).isFile()) return { problem: 'is not a regular file' }
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stat = fstatSync(fd)
      if (!stat.isFile()) return { problem: 'is not a regular file' }
      if (stat.size > bytesMax) return { problem: `is larger than ${bytesMax / 1024} KiB` }
      mode = stat.mode
      bytes = readAll(fd, bytesMax)
      if (bytes.length > bytesMax) return { problem: `is larger than ${bytesMax / 1024} KiB` }
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    return { problem: `cannot be read: ${whyUnreadable(error)}` }
  }
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes), worldReadable: (mode & 0o004) !== 0, digest: digestOf(bytes) }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    return { problem: 'is not UTF-8 text' }
  }
}

/** Files such as those of /proc say 0 bytes and hold more. */
function readAll(fd: number, bytesMax: number): Buffer {
  const chunks: Buffer[] = []
  for (let total = 0; total <= bytesMax;) {
    const chunk = Buffer.allocUnsafe(1_048_576)
    const length = readSync(fd, chunk)
    if (length === 0) break
    chunks.push(chunk.subarray(0, length))
    total += length
  }
  return Buffer.concat(chunks)
}

const reasons: Readonly<Record<string, string>> = { ENOENT: 'it does not exist', EACCES: 'permission denied', EISDIR: 'it is a directory', ENOTDIR: 'a part of its path is not a directory', ELOOP: 'its links go in a circle', ENAMETOOLONG: 'its name is too long' }

function whyUnreadable(error: unknown): string {
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
  return reasons[code] ?? (code === '' ? 'its name is not valid' : code)
}

export type Expansion = { readonly files: readonly string[] } | { readonly missing: string }

/** Two expansions have the same text when they mean the same files. */
export function expansionText(found: Expansion): string {
  return 'files' in found ? found.files.join('\0') : `missing ${found.missing}`
}

/** The files that a pattern means, sorted. `*` does not cross `/`, and passes over names that begin with a dot. */
export function expand(pattern: string): Expansion {
  if (!pattern.includes('*')) return { files: [pattern] }
  let found = [isAbsolute(pattern) ? '/' : '']
  const steps = pattern.split('/').filter((step, index) => step !== '' || index > 0)
  for (const [index, step] of steps.entries()) {
    if (step === '') continue
    if (!step.includes('*')) {
      found = found.map((at) => at === '' ? step : join(at, step))
      continue
    }
    const next: string[] = []
    for (const at of found) {
      const names = namesIn(at === '' ? '.' : at)
      if (names === undefined && found.length === 1) return { missing: at === '' ? '.' : at }
      for (const name of names ?? []) if (!name.startsWith('.') && matches(step, name)) next.push(at === '' ? name : join(at, name))
    }
    found = next
    if (found.length === 0) break
    if (index < steps.length - 1) found = found.filter((at) => namesIn(at) !== undefined)
  }
  return { files: found.sort() }
}

/** Undefined when it is no directory that can be read. */
function namesIn(directory: string): readonly string[] | undefined {
  try {
    return readdirSync(directory)
  } catch (error) {
    if (error instanceof Error && 'code' in error) return undefined
    throw error
  }
}
