// Rules about the source itself: who may import whom, through which door packages come in, where time and chance are
// touched, and what nothing may be called. A rule that is in the way is changed here, with its reason, or obeyed.

import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import t from 'tap'

/** Path from the root of the project → text. */
type Tree = ReadonlyMap<string, string>
type Import = { line: number; of: string; typeOnly: boolean }

/** Files beside the folders that every part may be allowed to use; whatever else lies beside the folders joins them all. */
const leaves = ['acting-characters', 'assert', 'clock', 'random', 'errors', 'failure-words', 'log', 'metrics']

/** Folder → what it may import besides itself: leaves by name, other folders with a slash, single files by path. */
const mayImport: Record<string, readonly string[]> = {
  metering: ['assert', 'errors'],
  providers: ['metering/', 'assert', 'errors'],
  stores: ['metering/', 'clock', 'assert', 'errors', 'log', 'random', 'config/config.ts'],
  // It lies beside a store and is built like the embedded one: the same care for the disk, the same thread.
  spool: ['metering/', 'stores/', 'clock', 'assert', 'log'],
  sinks: ['metering/', 'stores/store.ts', 'clock', 'random', 'log', 'metrics', 'errors', 'failure-words', 'assert'],
  archive: ['metering/', 'stores/store.ts', 'clock', 'log'],
  reconciliation: ['metering/', 'sinks/', 'archive/archive.ts', 'stores/store.ts', 'clock', 'metrics'],
  // What a sink can be told is said by its kind, and where it may be by the one who connects.
  config: ['metering/', 'sinks/index.ts', 'sinks/address.ts', 'errors', 'assert', 'clock'],
  gateway: ['dashboard/usage-view.ts', 'metering/', 'providers/provider.ts', 'stores/store.ts', 'clock', 'log', 'metrics', 'errors', 'assert', 'random'],
  // Accounts made at run time are judged by the grammar of the file.
  accounts: ['metering/', 'stores/store.ts', 'config/config.ts', 'config/account-terms.ts', 'clock', 'random', 'errors', 'assert'],
  // Its file lies beside a store and is written as that one is; its hashes lie within one.
  analytics: ['metering/', 'stores/', 'clock', 'log', 'errors', 'assert'],
  invoices: ['metering/', 'config/config.ts', 'assert'],
  // A gateway's memory of refusals decides which of several limits it names.
  simulation: ['metering/', 'invoices/', 'accounts/', 'config/', 'gateway/refusal-memory.ts', 'errors', 'assert'],
  // The page in browsers, and the thread that makes its files: they know nothing of the gateway but its API.
  dashboard: [],
  // Who asks, behind proxies, is read in one place.
  admin: ['dashboard/', 'gateway/client-address.ts', 'metering/', 'invoices/', 'providers/', 'stores/', 'sinks/', 'reconciliation/', 'archive/', 'config/', 'accounts/', 'notices/', 'analytics/', ...leaves],
  notices: ['metering/', 'stores/store.ts', 'sinks/', 'accounts/', 'config/config.ts', 'clock', 'random', 'log', 'metrics'],
  // Others are told of calls; it asks nobody.
  telemetry: ['config/config.ts', 'clock', 'random', 'failure-words'],
  cli: ['metering/', 'invoices/', 'simulation/', 'providers/', 'stores/', 'sinks/', 'config/', 'accounts/', 'analytics/', 'gateway/', 'admin/', 'app', 'cli', ...leaves],
  demo: ['metering/', 'config/', 'accounts/', 'providers/', ...leaves],
  leaf: leaves,
}

/** Their types may be imported by every folder; `metering` sees those that say what a key, a plan and a request are. */
const plainFacts = /^src\/(providers\/provider|config\/config|accounts\/principal)\.ts$/
const contracts = /^src\/((providers\/provider|stores\/store|spool\/spool|telemetry\/telemetry|sinks\/sink|config\/config|accounts\/principal)\.ts$|metering\/)/
/** Their types may be imported by `admin`. */
const gatewayFile = /^src\/gateway\//

const doors: Record<string, RegExp> = {
  'undici': /^src\/(gateway\/forward|sinks\/http)\.ts$/,
  'http-proxy-3': /^src\/gateway\/tunnel\.ts$/,
  'rate-limiter-flexible': /^src\/(gateway\/guard|admin\/login-brake)\.ts$/,
  'ioredis': /^src\/stores\/redis\/wire\.ts$/,
  'structured-headers': /^src\/gateway\/headers\.ts$/,
  'proxy-addr': /^src\/gateway\/(client-address|guard)\.ts$/,
  'yaml': /^src\/config\/(load|yaml)\.ts$/,
  'zod': /^src\/config\//,
  'fastest-levenshtein': /^src\/config\//,
  'pino': /^src\/log\.ts$/,
  'prom-client': /^src\/metrics\.ts$/,
  ...Object.fromEntries(['api', 'resources', 'sdk-trace-base', 'sdk-metrics', 'exporter-trace-otlp-http', 'exporter-metrics-otlp-http'].map((name) => [`@opentelemetry/${name}`, /^src\/telemetry\/otlp\.ts$/])),
  'gpt-tokenizer': /^src\/providers\/tokenizer\.ts$/,
  '@pydantic/genai-prices': /^src\/config\/public-prices\.ts$/,
  'temporal-polyfill': /^src\/metering\/calendar\.ts$/,
  'preact': /^src\/dashboard\/browser\/view\.ts$/,
  'htm': /^src\/dashboard\/browser\/view\.ts$/,
  'uplot': /^src\/dashboard\/browser\/chart\.ts$/,
  'commander': /^src\/cli(\.ts|\/.*)$/,
  '@platformatic/kafka': /^src\/sinks\/kafka\.ts$/,
  '@clickhouse/client': /^src\/sinks\/clickhouse\.ts$/,
  'package.json': /^src\/cli\/version\.ts$/,
}

const impure = new RegExp([
  String.raw`(?<![.\w$])(Date\.now|new Date(?:\(\s*\)|(?![\w(]))|performance\.now|process\.hrtime|Temporal\.Now)`,
  String.raw`(?<![.\w$])((?:globalThis\.|global\.)?set(?:Timeout|Interval|Immediate)\b|['"](?:node:)?timers(?:/promises)?['"])`,
  String.raw`(?<![.\w$])(Math\.random|(?:web)?crypto\.(?:random|getRandom)\w+|random(?:Bytes|UUID|Int|FillSync|Fill)\b|getRandomValues\b)`,
  String.raw`(?<![.\w$])(process(?:\.env\b|\[['"]env)|from ['"](?:node:)?process['"])`,
].join('|'), 'g')
/** A browser has a clock of its own. */
const mayBeImpure = /^src\/(clock|random|main|dashboard\/browser\/clock)\.ts$/
const bannedName = /(^|[/-])(utils?|helpers?|managers?|services?)(?=[/.-])/
const marker = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`, 'g')
/** The page in browsers begins with its `main.ts`. */
const startedByName = /^src\/(main\.ts|bin\.mjs|dashboard\/browser\/main\.ts)$/

// Comments become spaces. Only those that start a line or follow a space are seen, so that '*/*' and URLs stay what they are.
function withoutComments(text: string): string {
  return text
    .replace(/^[ \t]*\/\*[\s\S]*?\*\//gm, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|\s)\/\/.*$/gm, '$1')
}

const lineAt = (text: string, index: number): number => text.slice(0, index).split('\n').length

const clause = String.raw`(?:[\w$]+\s*,?\s*)?(?:\*(?:\s+as\s+[\w$]+)?|\{[^}]*\})?`
const importForms = [
  new RegExp(String.raw`^(?:import|export)\s+(type\s+(?!from\b))?${clause}\s*from\s*['"]([^'"]+)['"]`, 'gm'),
  /^import()\s*['"]([^'"]+)['"]/gm,
  /(?<![.\w])import()\(\s*['"]([^'"]+)['"]/g,
  // Only where a package is too large to be read by everybody.
  /(?<![.\w])require()\(\s*['"]([^'"]+)['"]/g,
  // A worker's entry, or a file that is read from where it lives.
  /new URL()\(\s*['"](\.[^'"]+)['"]\s*,\s*import\.meta\.url/g,
]

function importsOf(path: string, code: string): Import[] {
  return importForms.flatMap((form) => [...code.matchAll(form)].map((match) => {
    const of = match[2] ?? ''
    return { of: of.startsWith('.') ? join(dirname(path), of) : of, line: lineAt(code, match.index + match[0].length), typeOnly: match[1] !== undefined && match[1] !== '' }
  }))
}

/** The row of `mayImport` a file belongs to: its folder; for a file beside the folders `leaf`, or `cli` when it joins the parts. */
function rowOf(path: string): string {
  const [, folder = '', inside] = path.split('/')
  if (inside !== undefined) return folder
  return leaves.includes(folder.replace(/\.ts$/, '')) ? 'leaf' : 'cli'
}

function mayReach(path: string, of: string): boolean {
  const row = rowOf(path)
  // What lies beside the folders and is no leaf joins the parts: it may import anything, and only its like may import it.
  if (row === 'cli') return true
  return of.startsWith(`src/${row}/`) || (mayImport[row] ?? []).some((allowed) =>
    allowed.endsWith('/') ? of.startsWith(`src/${allowed}`) : of === `src/${allowed}` || of === `src/${allowed}.ts`)
}

function importProblems(path: string, { of, typeOnly }: Import): string | undefined {
  const row = rowOf(path)
  if (of.startsWith('src/') || of.startsWith('../')) {
    if (!of.startsWith('src/') || mayReach(path, of)) return undefined
    if (typeOnly && ((row === 'metering' ? plainFacts : contracts).test(of) || (row === 'admin' && gatewayFile.test(of)))) return undefined
    return `${row === 'leaf' ? 'a file beside the folders' : row} may not import ${of.slice(4)}: pass it in from app.ts, or import only the type of a contract`
  }
  if (/^(node:|bun:|https?:)/.test(of)) return row === 'metering' ? `metering is pure and may not import ${of}: take what it gives as an argument` : undefined
  const name = of.split('/').slice(0, of.startsWith('@') ? 2 : 1).join('/')
  const door = doors[name]
  if (door === undefined) return `${name} has no door: decide on the one file that imports it and add it to this test`
  return door.test(path) ? undefined : `${name} comes in through ${door.source} only: use what that file offers`
}

/** Files that import each other in a circle, each circle once, by the first of its files. */
function cycles(graph: ReadonlyMap<string, readonly Import[]>): { path: string; line: number; way: string[] }[] {
  const found: { path: string; line: number; way: string[] }[] = []
  const done = new Set<string>()
  const visit = (path: string, way: string[]): void => {
    for (const { of, typeOnly, line } of graph.get(path) ?? []) {
      if (typeOnly || of === path || !graph.has(of)) continue
      if (way.includes(of)) found.push({ path, line, way: [...way.slice(way.indexOf(of)), of] })
      else if (!done.has(of)) visit(of, [...way, of])
    }
    done.add(path)
  }
  for (const path of graph.keys()) if (!done.has(path)) visit(path, [path])
  return found
}

/** Every broken rule as one sentence that starts with file and line. */
function problemsOf(tree: Tree): string[] {
  const problems: string[] = []
  const report = (path: string, line: number, problem: string): void => { problems.push(`${path}:${line} ${problem}`) }
  const graph = new Map<string, Import[]>()

  for (const [path, text] of tree) {
    const name = bannedName.exec(`/${path}`)?.[2]
    if (name !== undefined) report(path, 1, `"${name}" names no thing: call the file after the one thing it does`)
    for (const match of text.matchAll(marker)) report(path, lineAt(text, match.index), `leftover ${match[1]}: do it now, or write an issue`)
    if (!/^src\/.*\.m?ts$/.test(path)) continue

    const code = withoutComments(text)
    const imports = importsOf(path, code)
    graph.set(path, imports)
    if (mayImport[rowOf(path)] === undefined) report(path, 1, `the folder ${rowOf(path)} has no row in this test: say what it may import`)
    else for (const entry of imports) {
      const problem = importProblems(path, entry)
      if (problem !== undefined) report(path, entry.line, problem)
    }
    if (!mayBeImpure.test(path)) {
      for (const match of code.matchAll(impure)) {
        const what = match.slice(1).find((part) => part !== undefined) ?? match[0]
        report(path, lineAt(code, match.index), `${what} belongs to clock.ts, random.ts or main.ts: take a clock, random or a value as an argument`)
      }
    }
  }

  for (const { path, line, way } of cycles(graph)) report(path, line, `import cycle ${way.map((file) => file.slice(4)).join(' → ')}: move what both need below both`)
  const imported = new Set([...graph].flatMap(([path, imports]) => imports.map(({ of }) => of).filter((of) => of !== path)))
  for (const path of graph.keys()) {
    if (!imported.has(path) && !startedByName.test(path)) report(path, 1, 'nobody imports this file: join it in app.ts, or delete it')
  }
  return problems.sort()
}

t.test('the source keeps its rules', async (t) => {
  const root = fileURLToPath(new URL('..', import.meta.url))
  const files = globSync(['src/**/*.{ts,mjs,lua,sql,md}', 'test/**/*.{ts,md}', 'config/**/*', 'docs/**/*', '*.md'], { cwd: root, withFileTypes: true })
    .filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(root.length))
  t.ok(files.includes('src/clock.ts') && files.includes('test/tidy.test.ts'), 'the files are found')
  const problems = problemsOf(new Map(files.map((path) => [path, readFileSync(join(root, path), 'utf8')])))
  for (const problem of problems) t.comment(problem)
  t.equal(problems.length, 0, `no rule is broken in ${files.length} files`)
})

t.test('every rule can fail, and what is allowed passes', async (t) => {
  /** A file that imports what the case is about, so that only the case itself can break a rule. */
  const verdict = (path: string, text: string, more: Record<string, string> = {}): string[] => problemsOf(new Map([
    [path, text], ...Object.entries(more), ['src/main.ts', [path, ...Object.keys(more)].map((of) => `import './${of.slice(4)}'`).join('\n')],
  ]))
  const bad = (path: string, text: string, expected: RegExp, more: Record<string, string> = {}): void => {
    const found = verdict(path, text, more)
    t.equal(found.length, 1, `one problem in ${path}: ${JSON.stringify(text)}${found.length === 1 ? '' : ` but found ${JSON.stringify(found)}`}`)
    t.match(found[0], expected)
  }
  const good = (path: string, text: string, more: Record<string, string> = {}): void => { t.same(verdict(path, text, more), [], `${path}: ${text}`) }

  bad('src/metering/a.ts', `\nimport { now } from '../clock.ts'`, /^src\/metering\/a\.ts:2 metering may not import clock\.ts/)
  bad('src/metering/a.ts', `import type { Store } from '../stores/store.ts'`, /may not import stores/)
  bad('src/metering/a.ts', `import { readFileSync } from 'node:fs'`, /metering is pure/)
  bad('src/gateway/a.ts', `import {\n  open,\n} from '../stores/embedded/store.ts'`, /a\.ts:3 gateway may not import stores\/embedded/)
  bad('src/sinks/a.ts', `export * from '../stores/embedded/store.ts'`, /sinks may not import/)
  bad('src/stores/a.ts', `const x = await import('../gateway/b.ts')`, /stores may not import gateway/)
  bad('src/admin/a.ts', `import { handle } from '../gateway/handle.ts'`, /admin may not import/)
  bad('src/clock.ts', `import { x } from './config/load.ts'`, /a file beside the folders may not/)
  bad('src/providers/a.ts', `import { start } from '../app.ts'`, /providers may not import app/)
  bad('src/novel/a.ts', '', /the folder novel has no row/)
  good('src/gateway/a.ts', `import type { Store } from '../stores/store.ts'\nimport type { Config } from '../config/config.ts'\nimport { add } from '../metering/usage.ts'`)
  good('src/admin/a.ts', `import type { Exchange } from '../gateway/exchange.ts'\nimport { x } from '../stores/index.ts'`)
  good('src/app.ts', `import { x } from './gateway/server.ts'\nimport { y } from './stores/index.ts'`)

  bad('src/gateway/a.ts', `import { request } from 'undici'`, /undici comes in through/)
  bad('src/config/a.ts', `const x = require('undici')`, /undici comes in through/)
  bad('src/config/a.ts', `import ms from '@scope/ms/lib.js'`, /@scope\/ms has no door/)
  bad('src/metering/a.ts', `import { Temporal } from 'temporal-polyfill'`, /temporal-polyfill comes in through/)
  good('src/gateway/forward.ts', `import { Agent } from 'undici'`)
  good('src/metering/calendar.ts', `import { Temporal } from 'temporal-polyfill'`)

  bad('src/stores/a.ts', `import './b.ts'`, /import cycle stores\/a\.ts → stores\/b\.ts → stores\/a\.ts/, { 'src/stores/b.ts': `export { a } from './a.ts'` })
  good('src/stores/a.ts', `import './b.ts'`, { 'src/stores/b.ts': `import type { A } from './a.ts'` })

  for (const text of [
    'const t = Date.now()', 'f(new Date())', 'f(new Date)', 'performance.now()', 'setTimeout(f, 1)', 'x = { setTimeout }', 'globalThis.setInterval(f, 1)',
    `import { setTimeout as sleep } from 'node:timers/promises'`, 'Math.random()', 'crypto.randomUUID()', `import { randomBytes } from 'node:crypto'`,
    'process.env.HOME', `process['env']`, `import { env } from 'node:process'`,
  ]) {
    const found = verdict('src/gateway/a.ts', text)
    t.ok(found.length > 0 && found.every((problem) => problem.includes('belongs to clock.ts')), text)
  }
  good('src/gateway/a.ts', `new Date(nowMs); clock.setTimeout(f, 1); random.randomBytes(8) // not Date.now()\n/* process.env */\nconst any = '*/*' + 'http://x'`)
  good('src/clock.ts', 'Date.now()')

  bad('src/gateway/string-utils.ts', '', /"utils" names no thing/)
  bad('src/gateway/helpers/a.ts', '', /"helpers" names no thing/)
  bad('src/gateway/a.ts', `// ${'TO' + 'DO'}: later`, /leftover/)
  t.match(problemsOf(new Map([['src/main.ts', ''], ['src/gateway/alone.ts', '']])), [/alone\.ts:1 nobody imports this file/])
  good('src/stores/a.ts', `new Worker(new URL('./worker.ts', import.meta.url))`, { 'src/stores/worker.ts': '' })
})
