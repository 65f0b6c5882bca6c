import cluster from 'node:cluster'
import type { Writable } from 'node:stream'
import { isQuiet } from './analytics/traffic.ts'
import { BooksUnavailable, openBooks } from './books.ts'
import type { Books } from './books.ts'
import { productVersion } from './cli/version.ts'
import type { Clock } from './clock.ts'
import type { Config } from './config/config.ts'
import { PiecedConfig } from './config/pieces.ts'
import { AddressUnavailable, openFront } from './front.ts'
import type { Front } from './front.ts'
import { openLog } from './log.ts'
import type { Log } from './log.ts'
import { Metrics } from './metrics.ts'
import type { Random } from './random.ts'
import type { FromWorker, ToWorker } from './worker-messages.ts'

export interface WorkerParts {
  readonly clock: Clock
  readonly random: Random
  readonly stdout: Writable
  readonly logLevel: string
  onSignal(signal: 'stop' | 'reload', listener: () => void): void
}

/** True in a process that was started by `WorkerPool`. */
export function isWorker(): boolean {
  return cluster.isWorker
}

/**
 * Answers callers on the port that the workers share, with a store of its own, and does what the primary says: configuration, metrics, the end. It has no
 * admin port and delivers to no sink. Gives the exit code.
 */
export async function runWorker(parts: WorkerParts): Promise<number> {
  return await new WorkerProcess(parts).run()
}

/** Twice in each second that watchers see: what is told waits for the end of one. */
const trafficMs = 500

class WorkerProcess {
  readonly #parts: WorkerParts
  readonly #metrics = new Metrics()
  readonly #pieces = new PiecedConfig()
  #number: number | null = null
  #log: Log | null = null
  #config: Config | null = null
  #books: Books | null = null
  #front: Front | null = null
  /** One configuration after the other, in the order in which they came. */
  #last: Promise<void> = Promise.resolve()
  #stopping: Promise<void> | null = null
  #stopTelling: (() => void) | null = null
  /** The primary has said once that this is the end. */
  #told = false
  #finish: (code: number) => void = () => undefined

  constructor(parts: WorkerParts) {
    this.#parts = parts
  }

  run(): Promise<number> {
    return new Promise((resolve) => {
      this.#finish = resolve
      process.on('message', (message: ToWorker) => this.#take(message))
      // A supervisor tells the whole group to stop, and so does a terminal: the primary says it too, and only its second word means haste.
      this.#parts.onSignal('stop', () => this.#stop())
      // The primary reads the configuration and hands it over.
      this.#parts.onSignal('reload', () => undefined)
      cluster.worker?.on('disconnect', () => this.#orphaned())
    })
  }

  #take(message: ToWorker): void {
    switch (message.kind) {
      case 'number':
        this.#number = message.number
        this.#log = openLog(this.#parts.logLevel, message.number)
        break
      case 'config': {
        const config = this.#pieces.add(message.piece)
        if (config !== undefined) this.#last = this.#last.then(() => this.#books === null ? this.#start(config) : this.#use(config))
        break
      }
      case 'metrics':
        void this.#metrics.snapshot().then((snapshot) => tell({ kind: 'metrics', question: message.question, snapshot }))
        break
      case 'stop':
        if (this.#told) void this.#front?.drain()
        this.#told = true
        this.#stop()
    }
  }

  async #start(config: Config): Promise<void> {
    const { clock, random, stdout, logLevel } = this.#parts
    const log = this.#log ?? openLog(logLevel)
    this.#config = config
    const current = (): Config => this.#config ?? config
    try {
      const books = await openBooks(config, { clock, random, log, metrics: this.#metrics, stdout })
      this.#books = books
      this.#metrics.beforeReading.push(() => this.#metrics.storeAdmitting.set(books.store.status().admitting ? 1 : 0))
      this.#front = await openFront({ config: current, books, clock, random, log, metrics: this.#metrics, version: productVersion(), ...(this.#number === null ? {} : { worker: this.#number }) })
      tell({ kind: 'ready', version: config.version, ...this.#front.address })
      this.#tellTraffic(books)
    } catch (error) {
      await this.#books?.close()
      // A bug is told by this process itself, with where it is.
      if (!(error instanceof BooksUnavailable) && !(error instanceof AddressUnavailable)) throw error
      tell({ kind: 'failed', sentence: error.message }, () => this.#finish(1))
    }
  }

  /** Again and again while there is any, and once more when it has ended. */
  #tellTraffic({ analytics: { traffic } }: Books): void {
    let wasQuiet = true
    this.#stopTelling = this.#parts.clock.every(trafficMs, () => {
      const report = traffic.take()
      const quiet = isQuiet(report)
      if (!quiet || !wasQuiet) tell({ kind: 'traffic', report })
      wasQuiet = quiet
    })
  }

  /** Swaps config and keys in one step, so that no call sees a key of one and a plan of the other. */
  async #use(config: Config): Promise<void> {
    if (this.#books === null || this.#stopping !== null) return
    try {
      const index = await this.#books.directory.prepare(config, this.#parts.clock)
      this.#config = config
      this.#books.directory.use(index)
      tell({ kind: 'using', version: config.version })
    } catch (error) {
      tell({ kind: 'refused', version: config.version, sentence: error instanceof Error ? error.message : String(error) })
    }
  }

  #stop(): void {
    this.#stopping ??= this.#end()
  }

  async #end(): Promise<void> {
    // What is being opened is opened first, and then closed.
    await this.#last
    await this.#front?.drain()
    this.#stopTelling?.()
    if (this.#books !== null) tell({ kind: 'traffic', report: this.#books.analytics.traffic.take() })
    await this.#front?.close()
    await this.#books?.close()
    this.#finish(0)
  }

  /** Nobody can end this process any more, and the next primary wants its number: what runs is cut, settled with what it had, and that is the end. */
  #orphaned(): void {
    // Otherwise Node ends the process before anything is settled.
    if (cluster.worker !== undefined) cluster.worker.exitedAfterDisconnect = true
    this.#log?.error({}, 'the primary process is gone; this worker ends')
    this.#stop()
    void this.#front?.drain()
  }
}

function tell(message: FromWorker, then: () => void = () => undefined): void {
  // When the primary is gone, so is the one who wanted to know.
  if (process.send === undefined || !process.connected) then()
  else process.send(message, undefined, undefined, then)
}
