import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { gunzipSync } from 'node:zlib'
import type { SinkContract } from '../../../src/sinks/sink.ts'
import { Books, type Received } from './books.ts'
import { canary, type Answer, type Call, type Dialect, type Fate } from './dialect.ts'
import type { Fake, FakeOptions, Subject } from './fake.ts'
import { everyFault, Faults, type Fault, type Rates } from './faults.ts'

/** Of a receiver that speaks HTTP. */
export function httpSubject(dialect: Dialect): Subject {
  const contract = dialect.kind.contractOf?.(dialect.settings('http://127.0.0.1', true)) ?? dialect.kind.contract
  return {
    name: dialect.name,
    kind: dialect.kind,
    contract,
    faults: everyFault.filter((fault) => !(fault === 'empty' && dialect.mute === true) && !(fault === 'half' && contract.failureUnit === 'batch')),
    locked: dialect.authorized !== undefined,
    start: (options) => HttpFake.start(dialect, contract, options ?? {}),
  }
}

/** Long enough for two requests about the same to meet. */
const serialMs = 2

class HttpFake implements Fake {
  readonly #dialect: Dialect
  readonly #contract: SinkContract
  readonly #nowMs: () => number
  readonly #server: Server
  readonly #faults = new Faults()
  readonly #underway = new Set<string>()
  readonly books = new Books()
  url = ''
  requests = 0
  slowMs = 20
  retryAfterSeconds = 1
  judge: (received: Received) => string | null = () => null

  private constructor(dialect: Dialect, contract: SinkContract, { nowMs = Date.now }: FakeOptions) {
    this.#dialect = dialect
    this.#contract = contract
    this.#nowMs = nowMs
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        // A fake that fails must not look like a receiver that does.
        response.writeHead(599, { 'content-type': 'text/plain' }).end(error instanceof Error ? error.stack : String(error))
      })
    })
  }

  static async start(dialect: Dialect, contract: SinkContract, options: FakeOptions): Promise<HttpFake> {
    const fake = new HttpFake(dialect, contract, options)
    fake.#server.listen(options.port ?? 0, '127.0.0.1')
    await once(fake.#server, 'listening')
    fake.url = `http://127.0.0.1:${(fake.#server.address() as AddressInfo).port}`
    return fake
  }

  settings(right = true): Readonly<Record<string, unknown>> {
    return this.#dialect.settings(this.url, right)
  }

  faults(seed: number, rates: Rates): void {
    this.#faults.byChance(seed, rates)
  }

  next(...faults: readonly Fault[]): void {
    this.#faults.next(...faults)
  }

  async stop(): Promise<void> {
    this.#server.close()
    this.#server.closeAllConnections()
    if (this.#server.listening) await once(this.#server, 'close')
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const delivers = request.method !== 'GET' && this.#dialect.aside?.test(new URL(request.url ?? '/', this.url).pathname) !== true
    const fault = delivers ? this.#faults.take() : null
    if (fault === 'cut') return void request.socket.resetAndDestroy()
    const chunks: Buffer[] = []
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer)
    } catch {
      // Whoever sent it has gone in the middle of it: nothing was read whole.
      return
    }
    this.requests += 1
    const call = this.#call(request, Buffer.concat(chunks))
    const answer = delivers ? await this.#answer(call, fault) : this.#aside(call)
    if (answer === 'reset') return void request.socket.resetAndDestroy()
    response.writeHead(answer.status, answer.headers).end(answer.body)
  }

  #call(request: IncomingMessage, body: Buffer): Call {
    const { pathname, searchParams } = new URL(request.url ?? '/', this.url)
    const text = (request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString('utf8')
    return { method: request.method ?? 'GET', path: pathname, query: searchParams, headers: request.headers, body, text, nowMs: this.#nowMs(), url: this.url }
  }

  #aside(call: Call): Answer {
    if (this.#dialect.authorized?.(call) === false) return this.#dialect.refusal('unauthorized', call)
    return this.#dialect.ask?.(call, this.books) ?? { status: 404, headers: { 'content-type': 'text/plain' }, body: canary }
  }

  async #answer(call: Call, fault: Fault | null): Promise<Answer | 'reset'> {
    const dialect = this.#dialect
    if (dialect.authorized?.(call) === false) return dialect.refusal('unauthorized', call)
    if (fault === 'busy') {
      const refusal = dialect.refusal('busy', call)
      return { ...refusal, headers: { ...refusal.headers, 'retry-after': String(this.retryAfterSeconds) } }
    }
    if (fault === 'broken_before') return dialect.refusal('broken', call)
    if (fault === 'reset_before') return 'reset'
    if (fault === 'html') return { status: 200, headers: { 'content-type': 'text/html' }, body: `<html><body>Sign in, ${canary}</body></html>` }
    const { batchMax, bytesMax, serialBy } = this.#contract
    if (bytesMax !== null && Buffer.byteLength(call.text) > bytesMax) return dialect.refusal('too_large', call)
    const records = dialect.read(call)
    if (!Array.isArray(records)) return records as Answer
    const received = records as readonly Received[]
    if (received.length > batchMax) return dialect.refusal('too_many', call)
    const busyWith = serialBy === 'none' ? [] : [...new Set(received.map(({ customer, code }) => `${customer} ${code}`))]
    if (busyWith.some((key) => this.#underway.has(key))) return dialect.refusal('concurrent', call)
    for (const key of busyWith) this.#underway.add(key)
    if (busyWith.length > 0) await sleep(serialMs)
    const answer = this.#book(call, received, fault)
    for (const key of busyWith) this.#underway.delete(key)
    if (fault === 'slow') await sleep(this.slowMs, undefined, { ref: false })
    return answer
  }

  #book(call: Call, received: readonly Received[], fault: Fault | null): Answer | 'reset' {
    const dialect = this.#dialect
    if (fault === 'half') {
      this.#fates(received.slice(0, Math.ceil(received.length / 2)), call.nowMs)
      return dialect.refusal('broken', call)
    }
    const fates = this.#fates(received, call.nowMs)
    if (fault === 'broken_after') return dialect.refusal('broken', call)
    if (fault === 'reset_after') return 'reset'
    if (fault === 'empty') return { status: 200, body: '' }
    return dialect.answer(fates, call)
  }

  /** Books what is to be booked. */
  #fates(received: readonly Received[], nowMs: number): Fate[] {
    const { dedupWindowMs, failureUnit } = this.#contract
    const { duplicates } = this.#dialect
    const judged = received.map((one) => ({ one, reason: this.#wrong(one, nowMs) }))
    const seen = new Set<string>()
    const known = judged.map(({ one }) => {
      const again = seen.has(one.key) || this.books.knows(one.key, dedupWindowMs, nowMs)
      seen.add(one.key)
      return again
    })
    const bad = judged.map(({ reason }, index) => (reason !== null && failureUnit !== 'async') || (duplicates === 'refused' && known[index] === true))
    const firstBad = bad.indexOf(true)
    return judged.map(({ one, reason }, index): Fate => {
      if (duplicates === 'refused' && known[index] === true) {
        this.books.duplicates += 1
        return { received: one, fate: 'duplicate' }
      }
      if (reason !== null && failureUnit !== 'async') return { received: one, fate: 'refused', reason }
      if (firstBad >= 0 && (failureUnit === 'batch' || (failureUnit === 'prefix' && index > firstBad))) return { received: one, fate: 'left' }
      if (reason !== null) {
        this.books.reject(one, reason, nowMs)
        return { received: one, fate: 'booked' }
      }
      return { received: one, fate: this.books.book(one, dedupWindowMs, nowMs, duplicates === 'overwrites') }
    })
  }

  #wrong(received: Received, nowMs: number): string | null {
    const { oldestMs, newestMs, values } = this.#contract
    if (received.bad !== null) return received.bad
    if (oldestMs !== null && received.timeMs < nowMs - oldestMs) return 'too_old'
    if (newestMs !== null && received.timeMs > nowMs + newestMs) return 'too_new'
    if (values === 'integer' && !/^-?\d+$/.test(received.value)) return 'not_a_whole_number'
    return this.judge(received)
  }
}
