import { readFileSync, statSync } from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'
import type { Address, Config, StoreConfig } from '../config/config.ts'
import { expand, fileBytesMax, loadConfig } from '../config/load.ts'
import type { LoadOptions } from '../config/load.ts'
import { Report } from '../config/problem.ts'
import { isNothing } from '../config/shape.ts'
import { parseYaml } from '../config/yaml.ts'
import type { Node } from '../config/yaml.ts'

/** What a command has to know to find the gateway that runs. */
export interface GatewayPlace {
  readonly store: StoreConfig
  /** null: not known. */
  readonly adminListen: Address | null
}

/**
 * The same out of a configuration with mistakes, of which a running gateway knows nothing: of every file only the lines are read that tell
 * the place. undefined: they do not tell it, and nothing is guessed, because another gateway might answer there.
 */
export function placeDespiteMistakes(source: LoadOptions): GatewayPlace | undefined {
  const { adminListen, listen: _listen, ...rest } = source
  const files = filesOf(source.file)
  const store = understood(rest, told(files, 'store', 'url'))?.store
  if (store === undefined) return undefined
  const admin = adminListen === undefined ? understood(rest, told(files, 'admin', 'listen')) : understood({ ...rest, adminListen }, nothing)
  // An embedded store's gateway has left its address beside it.
  return admin === null && store.kind !== 'embedded' ? undefined : { store, adminListen: admin?.admin.listen ?? null }
}

interface Piece {
  readonly file: string
  readonly text: string
}

const nothing: Piece = { file: 'tallygate.yaml', text: '{}' }

/** Read as ever, as if nothing else stood in the file. */
function understood(source: LoadOptions, piece: Piece | undefined): Config | null {
  if (piece === undefined) return null
  const { file, text } = piece
  // Nor is anything else of the environment judged.
  const env = Object.fromEntries(Object.entries(source.env).filter(([name]) => text.includes(name)))
  return loadConfig({ ...source, file, env, text, listen: '127.0.0.1:0' }).config
}

/** What the files say of a section, or of this key of it, and nothing else. undefined: that cannot be told. */
function told({ texts, isWhole }: Files, section: string, key: string): Piece | undefined {
  const found: Piece[] = []
  let isKnown = isWhole
  for (const [file, text] of texts) {
    const lines = linesOf(text, section)
    if (lines === undefined) isKnown = false
    if (lines === undefined || lines === '') continue
    const node = nodeOf(file, lines, section)
    if (node === undefined) return undefined
    if (isNothing(node)) continue
    const value = node.kind === 'map' ? node.entries.get(key)?.value : node
    if (value === undefined && section === 'store') return undefined
    if (value === undefined || isNothing(value)) continue
    if (value.kind !== 'scalar') return undefined
    const said = JSON.stringify(value.text)
    found.push({ file, text: `${section}: ${node.kind === 'map' ? `{ ${key}: ${said} }` : said}` })
  }
  return found.length > 1 ? undefined : found[0] ?? (isKnown ? nothing : undefined)
}

interface Files {
  readonly texts: ReadonlyMap<string, string>
  /** false: one cannot be read, or what one includes is not known. */
  readonly isWhole: boolean
}

/** The file and those that it includes. */
function filesOf(main: string): Files {
  const texts = new Map<string, string>()
  let isWhole = true
  const files = new Set([main])
  for (const file of files) {
    const text = readRegular(file)
    const included = text === undefined ? undefined : includedBy(file, text)
    if (text !== undefined) texts.set(file, text)
    if (included === undefined) isWhole = false
    for (const each of included ?? []) files.add(each)
  }
  return { texts, isWhole }
}

function includedBy(file: string, text: string): readonly string[] | undefined {
  const lines = linesOf(text, 'include')
  if (lines === undefined || lines === '') return lines === undefined ? undefined : []
  const node = nodeOf(file, lines, 'include')
  if (node === undefined) return undefined
  const found: string[] = []
  for (const item of node.kind === 'seq' ? node.items : isNothing(node) ? [] : [node]) {
    if (item.kind !== 'scalar' || item.text.includes('${')) return undefined
    const expansion = expand(isAbsolute(item.text) ? item.text : join(dirname(file), item.text))
    if ('missing' in expansion) return undefined
    found.push(...expansion.files)
  }
  return found
}

function nodeOf(file: string, lines: string, section: string): Node | undefined {
  const report = new Report()
  const root = parseYaml(file, lines, (text) => ({ text }), report)
  return report.problems.length > 0 || root?.kind !== 'map' ? undefined : root.entries.get(section)?.value
}

/** The lines of a section in a text that may be anything but YAML elsewhere; '' where there are none. undefined: where a section begins and ends cannot be told. */
function linesOf(text: string, section: string): string | undefined {
  const lines = text.split(/\r?\n/)
  const first = lines.find((line) => !/^\s*(#|$)|^---\s*(#|$)|^%/.test(line))
  if (first !== undefined && /^[\s{[]/.test(first)) return undefined
  const begins = new RegExp(`^(["']?)${section}\\1[ \\t]*:`)
  const own: string[] = []
  let isInside = false
  let count = 0
  for (const line of lines) {
    if (begins.test(line)) count++
    // What hangs on a section is indented; only the items of its list and its closing bracket need not be.
    if (/^[^\s#\-\]}]/.test(line)) isInside = begins.test(line)
    if (isInside) own.push(line)
  }
  const isAstray = count === 0 && new RegExp(`^[ \\t]+(["']?)${section}\\1[ \\t]*:`, 'm').test(text)
  return count > 1 || isAstray ? undefined : own.join('\n')
}

/** Neither a device nor a pipe: a command must not wait for one. */
function readRegular(file: string): string | undefined {
  try {
    const found = statSync(file)
    return found.isFile() && found.size <= fileBytesMax ? readFileSync(file, 'utf8') : undefined
  } catch (error) {
    if (error instanceof Error && 'code' in error) return undefined
    throw error
  }
}
