import { Worker } from 'node:worker_threads'
import { StoreUnavailable } from '../store.ts'
import type { AskName, Asks, Reply, Request } from './worker-protocol.ts'

/** The journal's thread must not be able to take the process's memory with it. */
const LIMITS = { maxOldGenerationSizeMb: 96, maxYoungGenerationSizeMb: 16, stackSizeMb: 2 }

/** The main thread's end of the journal's worker: one question, one answer, in order. */
export class JournalLink {
  /** The worker cannot go on; it is to be replaced. */
  onBroken: ((reason: string) => void) | null = null
  readonly #worker: Worker
  /** In the order of their questions, which is that of the answers. */
  #waiting: { readonly number: number; resolve(answer: unknown): void; reject(error: Error): void }[] = []
  #number = 0
  #ended: string | null = null

  constructor() {
    this.#worker = new Worker(new URL('./journal-worker.ts', import.meta.url), { resourceLimits: LIMITS, name: 'journal' })
    this.#worker.on('message', (reply: Reply) => this.#take(reply))
    this.#worker.on('error', (error) => this.#end(`the journal's thread failed: ${error instanceof Error ? error.message : String(error)}`))
    this.#worker.on('exit', () => this.#end('the journal\'s thread ended'))
  }

  ask<Name extends AskName>(name: Name, ask: Asks[Name]['ask']): Promise<Asks[Name]['answer']> {
    if (this.#ended !== null) return Promise.reject(new StoreUnavailable(this.#ended))
    const request: Request = { number: this.#number++, name, ask }
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
    this.#end('the journal is being reopened')
    await this.#worker.terminate()
  }

  #take(reply: Reply): void {
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
