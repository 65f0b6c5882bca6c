import { Worker } from 'node:worker_threads'
import { StoreUnavailable } from './store.ts'

/** A thread that writes must not be able to take the process's memory with it. */
const LIMITS = { maxOldGenerationSizeMb: 96, maxYoungGenerationSizeMb: 16, stackSizeMb: 2 }

export interface ThreadRequest {
  readonly number: number
  readonly name: string
  readonly ask: unknown
}

export type ThreadReply =
  | { readonly number: number; readonly ok: true; readonly answer: unknown }
  /** `fatal`: nothing more is written through this thread. */
  | { readonly number: number; readonly ok: false; readonly reason: string; readonly fatal: boolean }

/** The main thread's end of a worker that writes to disk: one question, one answer, in order. Rejections are StoreUnavailable. */
export class ThreadLink<Asks extends { readonly close: { ask: null; answer: null } } & { readonly [Name in keyof Asks]: { ask: unknown; answer: unknown } }> {
  /** The worker cannot go on; it is to be replaced. */
  onBroken: ((reason: string) => void) | null = null
  readonly #name: string
  readonly #worker: Worker
  /** In the order of their questions, which is that of the answers. */
  #waiting: { readonly number: number; resolve(answer: unknown): void; reject(error: Error): void }[] = []
  #number = 0
  #ended: string | null = null

  /** `name` is what the thread is called in messages; `entry` the file that it starts with. */
  constructor(name: string, entry: URL) {
    this.#name = name
    this.#worker = new Worker(entry, { resourceLimits: LIMITS, name })
    this.#worker.on('message', (reply: ThreadReply) => this.#take(reply))
    this.#worker.on('error', (error) => this.#end(`the ${name}'s thread failed: ${error instanceof Error ? error.message : String(error)}`))
    this.#worker.on('exit', () => this.#end(`the ${name}'s thread ended`))
  }

  ask<Name extends keyof Asks & string>(name: Name, ask: Asks[Name]['ask']): Promise<Asks[Name]['answer']> {
    if (this.#ended !== null) return Promise.reject(new StoreUnavailable(this.#ended))
    const request: ThreadRequest = { number: this.#number++, name, ask }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ number: request.number, resolve: resolve as (answer: unknown) => void, reject })
      this.#worker.postMessage(request)
    })
  }

  /** Lets it finish. */
  async close(): Promise<void> {
    this.onBroken = null
    // A connection that has failed has nothing left to close.
    if (this.#ended === null) await this.ask('close', null).catch(() => null)
    await this.#worker.terminate()
  }

  /** Ends it wherever it is; returns once it can no longer write. */
  async abandon(): Promise<void> {
    this.onBroken = null
    this.#end(`the ${this.#name} is being reopened`)
    await this.#worker.terminate()
  }

  #take(reply: ThreadReply): void {
    // Nobody waits any more for what a worker says after its end was declared.
    const waiting = this.#waiting[0]?.number === reply.number ? this.#waiting.shift() : undefined
    if (reply.ok) waiting?.resolve(reply.answer)
    else {
      waiting?.reject(new StoreUnavailable(reply.reason))
      if (reply.fatal) this.onBroken?.(reply.reason)
    }
  }

  #end(reason: string): void {
    if (this.#ended !== null) return
    this.#ended = reason
    for (const { reject } of this.#waiting) reject(new StoreUnavailable(reason))
    this.#waiting = []
    this.onBroken?.(reason)
  }
}
