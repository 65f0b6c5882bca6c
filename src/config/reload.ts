import { createHash } from 'node:crypto'
import { readFile, realpath, stat } from 'node:fs/promises'
import type { Clock } from '../clock.ts'
import type { Config } from './config.ts'
import { expand } from './load.ts'
import type { LoadResult, Sources } from './load.ts'
import type { Problem } from './problem.ts'

export interface ReloaderOptions {
  /** What the process started with. */
  readonly first: LoadResult & { readonly config: Config }
  /** Reads everything again; see `loadAside`. */
  readonly load: () => Promise<LoadResult>
  /** Takes over a config that is right as a whole; a throw leaves the old one in place. */
  readonly apply: (config: Config, restart: readonly string[]) => void | Promise<void>
  /** Told of every attempt. */
  readonly onResult: (result: ReloadResult) => void
  readonly clock: Clock
  readonly everyMs?: number
}

export interface ReloadResult {
  readonly outcome: 'applied' | 'unchanged' | 'refused'
  /** Of the config that is now in use. */
  readonly version: string
  readonly problems: readonly Problem[]
  readonly warnings: readonly Problem[]
  /** Settings that changed and act only after a restart. */
  readonly restart: readonly string[]
}

/**
 * Keeps one config in use and replaces it as a whole, or not at all. Looks at the content of every file that was read, of every directory that a
 * pattern names, and through symlinks, every second; a change is taken once it has stood still for one look, so that a file half
 * written is not taken for a shorter one.
 */
export class ConfigReloader {
  readonly counts = { applied: 0, unchanged: 0, refused: 0 }
  readonly #options: ReloaderOptions
  #config: Config
  #last: ReloadResult
  #sources: Sources
  readonly #prints = new Map<string, Print>()
  #loaded: string | undefined
  #seen: string | undefined
  #looking = false
  #reloading: Promise<ReloadResult> | undefined
  #again: Promise<ReloadResult> | undefined
  #stop: (() => void) | undefined

  constructor(options: ReloaderOptions) {
    this.#options = options
    this.#config = options.first.config
    this.#sources = options.first.sources
    this.#last = { outcome: 'applied', version: options.first.config.version, problems: [], warnings: options.first.warnings, restart: [] }
  }

  get config(): Config {
    return this.#config
  }

  /** The latest attempt. */
  get last(): ReloadResult {
    return this.#last
  }

  start(): void {
    this.#stop ??= this.#options.clock.every(this.#options.everyMs ?? 1_000, () => void this.look())
  }

  close(): void {
    this.#stop?.()
    this.#stop = undefined
  }

  /** One look at the files; reloads when something changed and has stood still since the look before. */
  async look(): Promise<void> {
    if (this.#looking || this.#reloading !== undefined) return
    this.#looking = true
    try {
      const now = await fingerprint(this.#sources, this.#prints, this.#options.clock.nowMs())
      const still = now === this.#seen
      this.#seen = now
      this.#loaded ??= now
      if (still && now !== this.#loaded) await this.reload()
    } finally {
      this.#looking = false
    }
  }

  /** Reads everything now (SIGHUP, the admin API). Asked again while it runs, it reads once more afterwards: the files may have changed since. */
  reload(): Promise<ReloadResult> {
    if (this.#reloading === undefined) {
      this.#reloading = this.#run().finally(() => {
        this.#reloading = undefined
      })
      return this.#reloading
    }
    this.#again ??= this.#reloading.then(() => {
      this.#again = undefined
      return this.reload()
    })
    return this.#again
  }

  async #run(): Promise<ReloadResult> {
    // Taken before reading: what changes meanwhile is seen as a change by the next look.
    const before = await fingerprint(this.#sources, this.#prints, this.#options.clock.nowMs())
    const result = await this.#attempt()
    this.#loaded = before
    this.#last = result
    this.counts[result.outcome]++
    this.#options.onResult(result)
    return result
  }

  async #attempt(): Promise<ReloadResult> {
    const version = this.#config.version
    let loaded: LoadResult
    try {
      loaded = await this.#options.load()
    } catch (error) {
      return { outcome: 'refused', version, problems: [failure(error)], warnings: [], restart: [] }
    }
    const { problems, warnings, config } = loaded
    // Watched from now on even when refused: the mistake may be in a file that is new.
    this.#sources = loaded.sources
    if (config === null || problems.length > 0) return { outcome: 'refused', version, problems, warnings, restart: [] }
    if (config.version === version) return { outcome: 'unchanged', version, problems, warnings, restart: [] }
    const restart = restartNeeded(this.#config, config)
    try {
      await this.#options.apply(config, restart)
    } catch (error) {
      return { outcome: 'refused', version, problems: [failure(error)], warnings, restart: [] }
    }
    this.#config = config
    return { outcome: 'applied', version: config.version, problems, warnings, restart }
  }
}

function failure(error: unknown): Problem {
  return { file: 'configuration', line: 0, column: 0, path: '', sentence: `could not be taken over: ${error instanceof Error ? error.message : 'unknown'}` }
}

/** What is fixed when the process starts. */
export function restartNeeded(before: Config, after: Config): readonly string[] {
  const fixed: readonly (readonly [string, (config: Config) => unknown])[] = [
    ['server.listen', (config) => config.server.listen],
    ['server.tls', (config) => config.server.tls],
    ['admin.listen', (config) => config.admin.listen],
    ['store', (config) => config.store],
    ['instance', (config) => config.instance],
    ['sinks', (config) => config.sinks],
  ]
  return fixed.filter(([, part]) => JSON.stringify(part(before)) !== JSON.stringify(part(after))).map(([name]) => name)
}

interface Print {
  readonly stat: string
  readonly digest: string
}

/** A file system's clock may be this coarse: what was written this recently may be written again without a trace. */
const racyMs = 3_000

/** What the sources hold, as one text that changes when they do. Contents are read again only when the file system says that they may differ. */
async function fingerprint(sources: Sources, prints: Map<string, Print>, nowMs: number): Promise<string> {
  const files = new Set(sources.files)
  const parts: string[] = []
  for (const pattern of sources.patterns) {
    const found = expand(pattern)
    parts.push(pattern, 'files' in found ? found.files.join('\0') : `missing ${found.missing}`)
    for (const file of 'files' in found ? found.files : []) files.add(file)
  }
  for (const file of [...files].sort()) parts.push(file, await digestOf(file, prints, nowMs))
  return createHash('sha256').update(parts.join('\n')).digest('hex')
}

async function digestOf(file: string, prints: Map<string, Print>, nowMs: number): Promise<string> {
  try {
    const at = await realpath(file)
    const facts = await stat(at, { bigint: true })
    if (!facts.isFile()) return 'not a regular file'
    const text = `${at} ${facts.dev} ${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs} ${facts.mode}`
    const before = prints.get(file)
    if (before !== undefined && before.stat === text && Math.abs(nowMs - Number(facts.mtimeMs)) > racyMs) return before.digest
    const digest = createHash('sha256').update(await readFile(at)).digest('hex')
    prints.set(file, { stat: text, digest })
    return digest
  } catch (error) {
    prints.delete(file)
    return error instanceof Error && 'code' in error ? `unreadable ${String(error.code)}` : 'unreadable'
  }
}
