import { readFile, realpath, stat } from 'node:fs/promises'
import type { Clock } from '../clock.ts'
import type { Config } from './config.ts'
import { digestOf, expand, expansionText, fileBytesMax, unreadable } from './load.ts'
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
  /** Of the latest attempt: what it read decides what is a change. */
  #sources: Sources
  readonly #prints = new Map<string, Print>()
  #seen: string | undefined
  /** What the files held when a change was last taken; never taken twice, whatever came of it. */
  #taken: string | undefined
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
      const now = await this.#standing()
      const still = now === this.#seen
      this.#seen = now
      if (!still || now === this.#taken || now === textOf(this.#sources)) return
      this.#taken = now
      await this.reload()
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
    const result = await this.#attempt()
    this.#last = result
    this.counts[result.outcome]++
    this.#options.onResult(result)
    return result
  }

  /** What the sources hold now, in the same form as what was read. */
  async #standing(): Promise<string> {
    const nowMs = this.#options.clock.nowMs()
    const files = new Map<string, string>()
    for (const file of this.#sources.files.keys()) files.set(file, await this.#digest(file, nowMs))
    const patterns = new Map([...this.#sources.patterns.keys()].map((pattern) => [pattern, expansionText(expand(pattern))]))
    return textOf({ files, patterns })
  }

  /** The content is read again only when the file system says that it may differ. */
  async #digest(file: string, nowMs: number): Promise<string> {
    try {
      const at = await realpath(file)
      const facts = await stat(at, { bigint: true })
      if (!facts.isFile() || facts.size > fileBytesMax) return unreadable
      const print = `${at} ${facts.dev} ${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs}`
      const before = this.#prints.get(file)
      if (before?.stat === print && Math.abs(nowMs - Number(facts.mtimeMs)) > racyMs) return before.digest
      const digest = digestOf(await readFile(at))
      this.#prints.set(file, { stat: print, digest })
      return digest
    } catch (error) {
      this.#prints.delete(file)
      if (error instanceof Error && 'code' in error) return unreadable
      throw error
    }
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
    ['server.workers', (config) => config.server.workers],
    ['admin.listen', (config) => config.admin.listen],
    ['store', (config) => config.store],
    ['events.hot', (config) => config.events.hotMs],
    ['telemetry', (config) => config.telemetry],
    ['instance', (config) => config.instance],
  ]
  return fixed.filter(([, part]) => JSON.stringify(part(before)) !== JSON.stringify(part(after))).map(([name]) => name)
}

interface Print {
  readonly stat: string
  readonly digest: string
}

/** A file system's clock may be this coarse: what was written this recently may be written again without a trace. */
const racyMs = 3_000

function textOf(sources: Sources): string {
  return JSON.stringify([[...sources.files].sort(), [...sources.patterns].sort()])
}
