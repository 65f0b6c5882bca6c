import type { HostPort, RedisAddress } from './address.ts'
import { showHost } from './address.ts'
import type { Deadlines } from './deadlines.ts'
import { authenticate, greetingWords } from './server.ts'
import { ErrorAnswer, Wire } from './wire.ts'

/**
 * Asks the sentinels who the primary is. All of them, as one that is cut off from the others still names the old one: the answer of the latest election counts,
 * and an election older than one already seen is never believed again.
 */
export class Sentinels {
  readonly #address: RedisAddress
  readonly #deadlines: Deadlines
  readonly #wires = new Map<string, Wire>()
  #epoch = -1
  #named: HostPort | null = null
  #finding: Promise<HostPort> | null = null

  constructor(address: RedisAddress, deadlines: Deadlines) {
    this.#address = address
    this.#deadlines = deadlines
  }

  /** Where the primary is by the latest election that a sentinel tells of within half a second; rejects with the reason in plain words. */
  find(): Promise<HostPort> {
    this.#finding ??= this.#find().finally(() => { this.#finding = null })
    return this.#finding
  }

  async #find(): Promise<HostPort> {
    const answers = await Promise.all(this.#address.hosts.map((sentinel) => this.#ask(sentinel).catch((error: unknown) => error as Error)))
    let refusal: Error | null = null
    for (const answer of answers) {
      if (answer instanceof Error) {
        refusal = answer
      } else if (answer.epoch >= this.#epoch) {
        this.#epoch = answer.epoch
        this.#named = answer.primary
      }
    }
    if (this.#named === null || answers.every((answer) => answer instanceof Error)) {
      throw new Error(`no sentinel says where the primary is: ${refusal?.message ?? 'their answers are out of date'}`)
    }
    return this.#named
  }

  /** True when the sentinels name another primary than `find` did last. */
  async hasMoved(): Promise<boolean> {
    const before = this.#named
    try {
      const now = await this.find()
      return before !== null && (before.host !== now.host || before.port !== now.port)
    } catch {
      // While no sentinel answers, the primary that we have is as good as any.
      return false
    }
  }

  close(): void {
    for (const wire of this.#wires.values()) wire.destroy()
    this.#wires.clear()
  }

  #ask(sentinel: HostPort): Promise<{ primary: HostPort; epoch: number }> {
    const name = showHost(sentinel)
    return new Promise((resolve, reject) => {
      const deadline = this.#deadlines.start(ASK_MS, () => {
        this.#drop(name)
        reject(new Error(`${name} gave no answer within ${ASK_MS} ms`))
      })
      this.#askOne(sentinel, name).then(resolve, (error: unknown) => {
        if (!(error instanceof ErrorAnswer)) this.#drop(name)
        reject(new Error(`${name}: ${greetingWords(error as Error)}`))
      }).finally(() => { deadline.met = true })
    })
  }

  async #askOne(sentinel: HostPort, name: string): Promise<{ primary: HostPort; epoch: number }> {
    let wire = this.#wires.get(name)
    if (wire === undefined) {
      wire = new Wire({ ...sentinel, tls: this.#address.tls, connectMs: ASK_MS }, () => this.#wires.delete(name))
      this.#wires.set(name, wire)
      await wire.connect()
    }
    try {
      return await this.#query(wire)
    } catch (error) {
      // Most sentinels ask for nothing, and one that asks for nothing takes a password as a mistake.
      if (!(error instanceof ErrorAnswer) || !error.message.startsWith('NOAUTH')) throw error
      await authenticate(wire, this.#address.user, this.#address.password)
      return this.#query(wire)
    }
  }

  async #query(wire: Wire): Promise<{ primary: HostPort; epoch: number }> {
    const name = this.#address.primary ?? ''
    const [found, about] = await Promise.all([
      // Names the new primary as soon as it is one; `SENTINEL MASTER` only when all replicas follow it.
      wire.send('SENTINEL', ['GET-MASTER-ADDR-BY-NAME', name]),
      wire.send('SENTINEL', ['MASTER', name]),
    ])
    if (!Array.isArray(found) || !Array.isArray(about)) throw new Error(`it knows no primary named ${name}`)
    return { primary: { host: String(found[0]), port: Number(found[1]) }, epoch: Number(about[about.indexOf('config-epoch') + 1]) }
  }

  #drop(name: string): void {
    this.#wires.get(name)?.destroy()
    this.#wires.delete(name)
  }
}

const ASK_MS = 500
