import cluster from 'node:cluster'
import type { Worker } from 'node:cluster'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import type { TrafficReport } from './analytics/traffic.ts'
import type { Clock } from './clock.ts'
import type { Address, Config } from './config/config.ts'
import { toPieces } from './config/pieces.ts'
import { listening } from './front.ts'
import type { Front } from './front.ts'
import type { Log } from './log.ts'
import { grown } from './metrics.ts'
import type { Metrics, MetricsSnapshot } from './metrics.ts'
import type { FromWorker, ToWorker } from './worker-messages.ts'

export interface WorkerPoolParts {
  /** Its `server` says how many workers, and where they listen. */
  readonly config: Config
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** What a worker has seen of calls. */
  readonly traffic: (worker: number, report: TrafficReport) => void
}

/** A worker could not be started; the message is a sentence that says what to do. */
export class WorkerFailed extends Error {
  override name = 'WorkerFailed'
}

const firstPauseMs = 100
const longestPauseMs = 2_000
/** A worker that lived this long is started again at once. */
const soundMs = 30_000
const answerMs = 1_000
const useMs = 10_000

/** Callers are answered by worker processes that share the port. One that dies is started again under its number; the others go on meanwhile. */
export async function openWorkers(parts: WorkerPoolParts): Promise<Front> {
  const pool = new WorkerPool(parts, await reserved(parts.config.server.listen))
  try {
    await pool.start()
    return pool
  } catch (error) {
    await pool.close()
    throw error
  }
}

/** Says at once when the address cannot be had, and which port it is where any free one may serve: every worker has to ask for the same. */
async function reserved(listen: Address): Promise<Address> {
  const server = createServer()
  await listening(listen, new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(listen.port, listen.host, resolve)
  }))
  const { port } = server.address() as AddressInfo
  await new Promise<void>((resolve) => { server.close(() => resolve()) })
  return { host: listen.host, port }
}

/** One place in the pool, and the process that is in it now. */
interface Member {
  readonly number: number
  process: Worker | null
  startedMs: number
  /** Ends in a row, none of which came after a long life. */
  failures: number
  ready: boolean
  /** Version of the configuration that it uses. */
  using: string | null
  /** What it said of why it cannot go on. */
  sentence: string | null
  /** Last seen, since it started. */
  snapshot: MetricsSnapshot | null
}

class WorkerPool implements Front {
  readonly #parts: WorkerPoolParts
  readonly #listen: Address
  readonly #members: readonly Member[]
  readonly #listeners = new Set<() => void>()
  #config: Config
  #address: Address
  #started = false
  #stopping = false
  #questions = 0
  /** What processes that are gone had counted when they were last asked. */
  #gone: MetricsSnapshot | null = null

  constructor(parts: WorkerPoolParts, listen: Address) {
    this.#parts = parts
    this.#config = parts.config
    this.#listen = listen
    this.#address = listen
    this.#members = Array.from({ length: parts.config.server.workers }, (_, index) => (
      { number: index + 1, process: null, startedMs: 0, failures: 0, ready: false, using: null, sentence: null, snapshot: null }))
    parts.metrics.beforeReading.push(() => parts.metrics.workers.set(this.#members.filter(({ ready }) => ready).length))
  }

  get address(): Address {
    return this.#address
  }

  /** Resolves when every worker answers callers; rejects as soon as one cannot. */
  async start(): Promise<void> {
    cluster.setupPrimary({ args: ['serve'], serialization: 'advanced' })
    for (const member of this.#members) this.#fork(member)
    await this.#until(() => this.#members.every(({ ready }) => ready) || this.#members.some((member) => member.process === null))
    const failed = this.#members.find((member) => member.process === null)
    if (failed !== undefined) throw new WorkerFailed(failed.sentence ?? `worker ${failed.number} ended while it was starting; what it printed says why`)
    this.#started = true
  }

  async use(config: Config): Promise<void> {
    this.#config = config
    for (const member of this.#members) this.#hand(member, config)
    const { version } = config
    const using = (): boolean => this.#members.every((member) => !member.ready || member.using === version || member.sentence !== null)
    if (!(await this.#until(() => this.#stopping || using(), useMs))) this.#parts.log.warn({ workers: this.#members.filter((member) => member.using !== version).map(({ number }) => number) }, 'some workers have not taken the configuration over yet')
  }

  async drain(): Promise<void> {
    this.#stopping = true
    for (const member of this.#members) tell(member, { kind: 'stop' })
    await this.#until(() => this.#members.every((member) => member.process === null))
  }

  async snapshots(): Promise<readonly MetricsSnapshot[]> {
    const question = this.#questions += 1
    const asked = this.#members.filter(({ ready }) => ready)
    const answered = new Set<Member>()
    const stops = asked.map((member) => {
      const process = member.process
      const listener = (message: FromWorker): void => {
        if (message.kind !== 'metrics' || message.question !== question) return
        member.snapshot = message.snapshot
        answered.add(member)
        this.#changed()
      }
      process?.on('message', listener)
      return () => process?.off('message', listener)
    })
    for (const member of asked) tell(member, { kind: 'metrics', question })
    await this.#until(() => asked.every((member) => answered.has(member) || !member.ready), answerMs)
    for (const stop of stops) stop()
    const known = this.#members.map(({ snapshot }) => snapshot).filter((snapshot) => snapshot !== null)
    return this.#gone === null ? known : [...known, this.#gone]
  }

  async close(): Promise<void> {
    this.#stopping = true
    for (const member of this.#members) member.process?.process.kill('SIGKILL')
    await this.#until(() => this.#members.every((member) => member.process === null))
  }

  #fork(member: Member): void {
    const { clock, log } = this.#parts
    const process = cluster.fork()
    Object.assign(member, { process, startedMs: clock.monotonicMs(), ready: false, using: null, sentence: null, snapshot: null })
    process.on('message', (message: FromWorker) => this.#take(member, message))
    // A message to a process that has just died; its end is told by `exit`.
    process.on('error', (error) => log.warn({ worker: member.number, error: error.message }, 'a worker could not be told something'))
    process.on('exit', (code, signal) => void this.#ended(member, code, signal))
    tell(member, { kind: 'number', number: member.number })
    this.#hand(member, this.#config)
  }

  #hand(member: Member, config: Config): void {
    member.sentence = null
    // Where it listens is not for a new configuration to change.
    const own = { ...config, server: { ...config.server, listen: this.#listen, tls: this.#parts.config.server.tls } }
    for (const piece of toPieces(own)) tell(member, { kind: 'config', piece })
  }

  #take(member: Member, message: FromWorker): void {
    const { log, clock } = this.#parts
    switch (message.kind) {
      case 'ready':
        member.ready = true
        member.using = message.version
        this.#address = { host: message.host, port: message.port }
        break
      case 'using':
        member.using = message.version
        break
      case 'refused':
        member.sentence = message.sentence
        log.error({ worker: member.number, why: message.sentence }, 'a worker could not take the configuration over; it keeps the one before and is asked again')
        clock.after(longestPauseMs, () => {
          if (!this.#stopping && member.ready && member.using !== this.#config.version) this.#hand(member, this.#config)
        }, { unref: true })
        break
      case 'failed':
        member.sentence = message.sentence
        break
      case 'traffic':
        this.#parts.traffic(member.number, message.report)
        return
      case 'metrics':
        return
    }
    this.#changed()
  }

  async #ended(member: Member, code: number | null, signal: string | null): Promise<void> {
    const { clock, log, metrics } = this.#parts
    const wasReady = member.ready
    const last = member.snapshot
    member.process = null
    member.ready = false
    member.snapshot = null
    this.#changed()
    if (last !== null) this.#gone = await grown(this.#gone === null ? [last] : [this.#gone, last])
    if (this.#stopping || !this.#started) return
    const long = wasReady && clock.monotonicMs() - member.startedMs >= soundMs
    member.failures = long ? 1 : member.failures + 1
    const pauseMs = Math.min(longestPauseMs, firstPauseMs * 2 ** (member.failures - 1))
    metrics.workerRestarts.inc()
    log.error({ worker: member.number, code, signal, ...(member.sentence === null ? {} : { why: member.sentence }), again_in_ms: pauseMs }, 'a worker has ended; it is started again')
    clock.after(pauseMs, () => {
      if (!this.#stopping) this.#fork(member)
    })
  }

  /** Wakes those who wait for something to become true. */
  #changed(): void {
    for (const listener of this.#listeners) listener()
  }

  /** True once `done()` is; false when `limitMs` passes first. */
  #until(done: () => boolean, limitMs?: number): Promise<boolean> {
    if (done()) return Promise.resolve(true)
    return new Promise((resolve) => {
      const finish = (answer: boolean): void => {
        this.#listeners.delete(listener)
        cancel()
        resolve(answer)
      }
      const listener = (): void => {
        if (done()) finish(true)
      }
      const cancel = limitMs === undefined ? (): void => undefined : this.#parts.clock.after(limitMs, () => finish(false))
      this.#listeners.add(listener)
    })
  }
}

function tell(member: Member, message: ToWorker): void {
  if (member.process?.isConnected() === true) member.process.send(message)
}
