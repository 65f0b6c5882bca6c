import { GatewayError } from '../../src/errors.ts'
import { DownstreamGone, type Downstream } from '../../src/gateway/downstream.ts'
import type { UpstreamCall, UpstreamListener, UpstreamRequest, UpstreamWire } from '../../src/gateway/forward.ts'
import type { DeliveryReport, Sink, SinkKind, SinkRecord } from '../../src/sinks/sink.ts'
import { someKind } from '../sinks/some-kind.ts'
import type { FaultKind } from './scenario.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { GatewayProcess, World } from './world.ts'

// === Clients ===

interface Plan {
  readonly number: number
  readonly keyId: string
  readonly streamed: boolean
  readonly path: string
  readonly query: string
  readonly headers: readonly string[]
  readonly body: Uint8Array
  readonly random: SeededRandom
}

/** One caller with one question, who may leave, dawdle or ask again. */
export class Client {
  readonly #world: World
  readonly #plan: Plan
  #tries = 0

  constructor(world: World, number: number, random: SeededRandom) {
    this.#world = world
    this.#plan = drawPlan(world, number, random)
  }

  call(): void {
    const { random, number } = this.#plan
    const world = this.#world
    const process = world.somewhere(random)
    this.#tries += 1
    if (process === undefined) {
      world.trace(() => `client ${number} finds nobody`)
      return this.#again(500)
    }
    const call = new ClientCall(world, process, this.#plan, (retryMs) => this.#again(retryMs))
    world.calls.push(call)
    void process.gateway.handle(call).catch((error: unknown) => world.violate(10, `handle rejected: ${String(error)}`))
  }

  #again(afterMs: number | null): void {
    if (afterMs === null || this.#tries > 3 || !this.#world.strikes('client_retries', this.#plan.random)) return
    this.#world.fault('client_retries', `client ${this.#plan.number}`)
    this.#world.timeline.at(afterMs, () => this.call())
  }
}

function drawPlan(world: World, number: number, random: SeededRandom): Plan {
  const streamed = random.chance(0.6)
  const keyId = random.pick(world.scenario.keyIds)
  let secret = `sk-${keyId}`
  if (world.strikes('client_bad_key', random)) {
    world.fault('client_bad_key', `client ${number}`)
    secret = 'sk-nobody'
  }
  const words = random.int(1, 60)
  const request: Record<string, unknown> = {
    // The exact tokenizer is known for the first, and decides where bytes do not fit.
    model: random.pick(['gpt-4o', 'test-model', 'test-model', 'other-model']),
    messages: [{ role: 'user', content: 'word '.repeat(words) }],
  }
  if (random.chance(0.85)) request[random.pick(['max_tokens', 'max_completion_tokens'])] = random.int(1, 300)
  if (streamed) request['stream'] = true
  if (streamed && random.chance(0.4)) request['stream_options'] = { include_usage: true }
  if (random.chance(0.15)) request['n'] = random.int(1, 3)
  if (random.chance(0.5)) request['user'] = random.pick(['ann', 'bob', 'ann|x'])
  let text = JSON.stringify(request)
  if (world.strikes('client_bad_body', random)) {
    world.fault('client_bad_body', `client ${number}`)
    text = random.pick([text.slice(0, -5), '', '[]', '{"model":5}', text.padEnd(120_000, ' ')])
  }
  const headers = ['authorization', `Bearer ${secret}`, 'content-type', 'application/json']
  if (random.chance(0.3)) headers.push('te', 'trailers')
  return { number, keyId, streamed, path: random.chance(0.9) ? '/v1/chat/completions' : '/chat/completions', query: '', headers, body: Buffer.from(text), random }
}

const networkBufferBytes = 2_000

/** The client's end of one exchange: what it sent, and everything that it saw. */
export class ClientCall implements Downstream {
  readonly method = 'POST'
  readonly address = '10.0.0.1'
  readonly httpVersion = '1.1'
  readonly path: string
  readonly query: string
  readonly headers: readonly string[]
  readonly plan: Plan
  readonly process: GatewayProcess
  readonly startedMs: number
  headSent = false
  gone = false
  bytesOut = 0
  status = 0
  answerHeaders: readonly string[] = []
  trailers: readonly string[] = []
  /** How it ended for the client. */
  over: 'open' | 'ended' | 'cut' | 'left' | 'reset' = 'open'
  endedMs = 0
  headMs = 0
  readonly #world: World
  readonly #onOver: (retryMs: number | null) => void
  readonly #chunks: Uint8Array[] = []
  #onGone: () => void = () => {}
  #onDrain: () => void = () => {}
  #unread = 0
  readonly #slow: boolean

  constructor(world: World, process: GatewayProcess, plan: Plan, onOver: (retryMs: number | null) => void) {
    this.#world = world
    this.process = process
    this.plan = plan
    this.path = plan.path
    this.query = plan.query
    this.headers = plan.headers
    this.startedMs = world.timeline.nowMs
    this.#onOver = onOver
    process.calls.add(this)
    this.#slow = world.strikes('client_slow', plan.random)
    if (this.#slow) world.fault('client_slow', this.#name())
    if (world.strikes('client_leaves', plan.random)) world.timeline.at(plan.random.skewed(0, 9_000), () => this.#leave())
    world.trace(() => `${this.#name()} calls ${process.name}: ${plan.keyId} ${plan.streamed ? 'streamed' : 'plain'}`)
  }

  get body(): string {
    return Buffer.concat(this.#chunks).toString('utf8')
  }

  /** The exchange's id, as the client was told it. */
  get id(): string {
    return this.answerHeader('x-request-id') ?? ''
  }

  answerHeader(name: string): string | undefined {
    for (let i = 0; i < this.answerHeaders.length; i += 2) if (this.answerHeaders[i] === name) return this.answerHeaders[i + 1]
    return undefined
  }

  header(name: string): string | undefined {
    for (let i = 0; i < this.headers.length; i += 2) if (this.headers[i] === name) return this.headers[i + 1]
    return undefined
  }

  readBody(maxBytes: number): Promise<Uint8Array> {
    if (this.gone) return Promise.reject(new DownstreamGone())
    if (this.plan.body.length > maxBytes) return Promise.reject(new GatewayError('request_too_large', 'The body is too large.'))
    if (!this.#slow) return Promise.resolve(this.plan.body)
    return new Promise((resolve, reject) => {
      this.#world.timeline.at(this.plan.random.skewed(0, 400), () => {
        if (!this.process.alive) return
        if (this.gone) reject(new DownstreamGone())
        else resolve(this.plan.body)
      })
    })
  }

  writeHead(status: number, headers: readonly string[]): void {
    if (this.headSent) this.#world.violate(10, `the head of ${this.#name()} was sent twice`)
    this.headSent = true
    if (this.#deaf()) return
    this.status = status
    this.answerHeaders = headers
    this.headMs = this.#world.timeline.nowMs
    this.#world.trace(() => `${this.#name()} sees ${status} of ${this.id.slice(-6)}`)
  }

  write(chunk: Uint8Array): boolean {
    if (this.#deaf()) return true
    this.#take(chunk)
    if (!this.#slow) return true
    this.#unread += chunk.length
    if (this.#unread < networkBufferBytes) return true
    this.#world.timeline.at(this.plan.random.skewed(5, 3_000), () => {
      this.#unread = 0
      if (!this.#deaf()) this.#onDrain()
    })
    return false
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener
  }

  #conclude(how: ClientCall['over']): void {
    if (this.over !== 'open') return
    this.over = how
    this.endedMs = this.#world.timeline.nowMs
    this.process.calls.delete(this)
    this.#world.trace(() => `${this.#name()} is over: ${how}`)
    const retryMs = Number(this.answerHeader('retry-after-ms') ?? Number(this.answerHeader('retry-after') ?? 1) * 1_000)
    const hopeless = how === 'left' || (how === 'ended' && ![429, 502, 503, 504].includes(this.status)) || this.answerHeader('x-should-retry') === 'false'
    this.#onOver(hopeless ? null : Math.min(retryMs, 20_000))
  }

  cut(): void {
    if (!this.#deaf()) this.#conclude('cut')
  }

  onGone(listener: () => void): void {
    this.#onGone = listener
    if (this.gone) listener()
  }

  /** The gateway's process died: the connection is reset. */
  serverDied(): void {
    this.#conclude('reset')
  }

  #leave(): void {
    if (this.over !== 'open' || this.#world.calm) return
    this.#world.fault('client_leaves', this.#name())
    this.gone = true
    this.#conclude('left')
    this.#onGone()
  }

  #take(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.bytesOut += chunk.length
    this.#chunks.push(Uint8Array.from(chunk))
  }

  #deaf(): boolean {
    return !this.process.alive || this.over !== 'open'
  }

  #name(): string {
    return `client ${this.plan.number}`
  }

  end(chunk?: Uint8Array, trailers?: readonly string[]): void {
    if (this.#deaf()) return
    if (chunk !== undefined) this.#take(chunk)
    this.trailers = trailers ?? []
    this.#conclude('ended')
  }
}

// === The upstream ===

/** What the upstream itself knows of a call: the truth that bills are held against. */
export interface Truth {
  attempts: number
  /** The usage it reported last; null: none. */
  reported: { readonly input: number; readonly output: number } | null
  /** It sent the whole answer. */
  whole: boolean
  /** It used more than it was allowed to, or than the prompt could be taken for. */
  excessive: boolean
  /** When its answer had come whole. */
  endedMs: number
}

export class Upstream {
  readonly truths = new Map<string, Truth>()
  readonly world: World
  readonly random: SeededRandom

  constructor(world: World) {
    this.world = world
    this.random = world.random.fork('upstream')
  }
}

/** One process's connections to the upstream. */
export class UpstreamLink implements UpstreamWire {
  process: GatewayProcess | null = null
  readonly #world: World
  readonly #calls = new Set<SimulatedCall>()

  constructor(world: World) {
    this.#world = world
  }

  forward(request: UpstreamRequest, listener: UpstreamListener): UpstreamCall {
    const call = new SimulatedCall(this.#world, request, listener, () => this.#calls.delete(call))
    this.#calls.add(call)
    if (this.process?.alive !== true) call.abort()
    return call
  }

  kill(): void {
    for (const call of this.#calls) call.abort()
  }

  keepOnly(): void {}

  async close(): Promise<void> {}
}

interface Step {
  readonly afterMs: number
  readonly run: () => void
}

class SimulatedCall implements UpstreamCall {
  readonly #world: World
  readonly #listener: UpstreamListener
  readonly #onOver: () => void
  readonly #steps: Step[] = []
  readonly #id: string
  #next = 0
  #over = false
  #paused = false
  #waiting = false

  constructor(world: World, request: UpstreamRequest, listener: UpstreamListener, onOver: () => void) {
    this.#world = world
    this.#listener = listener
    this.#onOver = onOver
    const at = request.headers.indexOf('x-request-id')
    this.#id = request.headers[at + 1] ?? ''
    if (request.headers.some((value) => value.includes('sk-'))) world.violate(10, 'a caller\'s key went upstream')
    this.#plan(JSON.parse(Buffer.from(request.body ?? new Uint8Array(0)).toString('utf8')) as Record<string, unknown>)
    this.#go()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    if (!this.#waiting) this.#go()
  }

  abort(): void {
    this.#end()
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    this.#onOver()
  }

  #go(): void {
    const step = this.#steps[this.#next]
    if (this.#over || this.#waiting || step === undefined) return
    this.#waiting = true
    this.#world.timeline.at(step.afterMs, () => {
      this.#waiting = false
      if (this.#over || this.#paused) return
      this.#next += 1
      step.run()
      this.#go()
    })
  }

  #strikes(kind: FaultKind): boolean {
    const struck = this.#world.strikes(kind, this.#world.upstream.random)
    if (struck) this.#world.fault(kind, this.#id.slice(-6))
    return struck
  }

  #plan(body: Record<string, unknown>): void {
    const { random } = this.#world.upstream
    const bound = Number(body['max_tokens'] ?? body['max_completion_tokens'] ?? 64) * Number(body['n'] ?? 1)
    const messages = body['messages'] as { content: string }[]
    const words = messages.reduce((sum, { content }) => sum + content.length / 5, 0)
    const truth = this.#world.upstream.truths.get(this.#id) ?? { attempts: 0, reported: null, whole: false, excessive: false, endedMs: 0 }
    truth.attempts += 1
    this.#world.upstream.truths.set(this.#id, truth)

    const step = (afterMs: number, run: () => void): void => { this.#steps.push({ afterMs, run }) }
    const fail = (afterMs: number, kind: 'unreachable' | 'broken', code: string): void => step(afterMs, () => {
      this.#end()
      this.#listener.onFailed({ kind, code })
    })
    if (this.#strikes('upstream_unreachable')) return fail(random.skewed(0, 1_000), 'unreachable', 'ECONNREFUSED')
    step(random.skewed(0.1, 20), () => this.#listener.onSent())
    if (this.#strikes('upstream_stall')) return
    const headMs = this.#strikes('upstream_slow') ? random.skewed(500, 9_000) : random.skewed(2, 300)
    if (this.#strikes('upstream_error')) return this.#planError(step, headMs, random)

    let output = random.int(1, Math.max(1, bound))
    if (this.#strikes('upstream_over_bound')) {
      output = bound + random.int(1, bound + 20)
      truth.excessive = true
    }
    let input = words + random.int(0, 60)
    if (this.#strikes('upstream_hidden_prompt')) {
      input += random.int(300, 900)
      truth.excessive = true
    }
    const finish = output >= bound ? 'length' : 'stop'
    const usage = (tokens: number): object => ({
      prompt_tokens: input, completion_tokens: tokens, total_tokens: input + tokens,
      prompt_tokens_details: { cached_tokens: input % 3 === 0 ? Math.floor(input / 2) : 0 }, completion_tokens_details: { reasoning_tokens: 0 },
    })
    const silent = this.#strikes('upstream_no_usage')
    if (body['stream'] === true) {
      const options = body['stream_options'] as { include_usage?: boolean } | undefined
      this.#planStream({ output, input, finish, usage, silent: silent || options?.include_usage !== true, headMs, truth }, step, fail)
    } else {
      const text = JSON.stringify({
        id: 'chatcmpl-sim', object: 'chat.completion', created: 1, model: body['model'],
        choices: [{ index: 0, message: { role: 'assistant', content: ' the'.repeat(output) }, finish_reason: finish }], ...(silent ? {} : { usage: usage(output) }),
      })
      const bytes = Buffer.from(text)
      step(headMs, () => this.#listener.onHead(200, ['content-type', 'application/json', 'content-length', String(bytes.length), 'x-ratelimit-remaining-tokens', '77', 'x-request-id', 'up-1']))
      const broken = this.#strikes('upstream_reset') ? random.fraction() : 1
      for (const piece of pieces(bytes.subarray(0, Math.floor(bytes.length * broken)), random)) step(random.skewed(0, 200), () => this.#listener.onData(piece))
      if (broken < 1) return fail(random.skewed(0, 100), 'broken', 'ECONNRESET')
      step(0, () => {
        truth.whole = true
        truth.endedMs = this.#world.timeline.nowMs
        truth.reported = silent ? null : { input, output }
        this.#end()
        this.#listener.onEnd()
      })
    }
  }

  #planStream(
    { output, input, finish, usage, silent, headMs, truth }: {
      output: number; input: number; finish: string; usage: (tokens: number) => object; silent: boolean; headMs: number; truth: Truth
    },
    step: (afterMs: number, run: () => void) => void, fail: (afterMs: number, kind: 'unreachable' | 'broken', code: string) => void,
  ): void {
    const { random } = this.#world.upstream
    const each = !silent && this.#strikes('upstream_usage_each')
    const base = { id: 'chatcmpl-sim', object: 'chat.completion.chunk', created: 1, model: 'served' }
    const frames: { text: string; tokens: number | null }[] = []
    const size = random.int(1, Math.max(1, Math.ceil(output / 12)))
    let sent = 0
    while (sent < output) {
      const tokens = Math.min(size, output - sent)
      sent += tokens
      frames.push({
        text: sse({ ...base, choices: [{ index: 0, delta: { content: ' the'.repeat(tokens) }, finish_reason: null }], ...(each ? { usage: usage(sent) } : {}) }),
        tokens: each ? sent : null,
      })
    }
    frames.push({ text: sse({ ...base, choices: [{ index: 0, delta: {}, finish_reason: finish }], ...(each ? { usage: usage(output) } : {}) }), tokens: each ? output : null })
    if (!silent) {
      const last = { text: sse({ ...base, choices: [], usage: usage(output) }), tokens: output }
      frames.push(last)
      if (this.#strikes('upstream_usage_twice')) frames.push(last)
    }
    frames.push({ text: 'data: [DONE]\n\n', tokens: null })
    const whole = frames.length
    let ending: 'end' | 'reset' | 'truncated' | 'error' = 'end'
    if (this.#strikes('upstream_reset')) ending = 'reset'
    else if (this.#strikes('upstream_truncated')) ending = 'truncated'
    else if (this.#strikes('upstream_mid_error')) ending = 'error'
    const count = ending === 'end' ? whole : random.int(0, whole - 1)
    const gapMs = random.pick([0.1, 5, 40, 250])
    step(headMs, () => this.#listener.onHead(200, ['content-type', 'text/event-stream', ...(ending === 'truncated' && random.chance(0.5) ? [] : ['transfer-encoding', 'chunked'])]))
    const cuts = random.chance(0.3)
    for (const frame of frames.slice(0, count)) {
      const bytes = Buffer.from(frame.text)
      for (const piece of cuts ? pieces(bytes, random) : [bytes]) {
        step(random.skewed(0, gapMs), () => {
          this.#listener.onData(piece)
        })
      }
      if (frame.tokens !== null) {
        const tokens = frame.tokens
        step(0, () => { truth.reported = { input, output: tokens } })
      }
    }
    if (ending === 'reset') return fail(random.skewed(0, 100), 'broken', 'ECONNRESET')
    if (ending === 'error') step(1, () => this.#listener.onData(Buffer.from(sse({ error: { message: 'the model fell over', type: 'server_error', code: null } }))))
    step(random.skewed(0, 30), () => {
      truth.whole = ending === 'end'
      truth.endedMs = this.#world.timeline.nowMs
      this.#end()
      this.#listener.onEnd()
    })
  }

  #planError(step: (afterMs: number, run: () => void) => void, headMs: number, random: SeededRandom): void {
    const status = random.pick([400, 401, 404, 429, 500, 503])
    const body = Buffer.from(JSON.stringify({ error: { message: 'no', type: 'error', param: null, code: null } }))
    step(headMs, () => this.#listener.onHead(status, ['content-type', 'application/json', 'content-length', String(body.length), 'retry-after', '2']))
    step(0, () => this.#listener.onData(body))
    step(0, () => {
      this.#end()
      this.#listener.onEnd()
    })
  }
}

function sse(value: object): string {
  return `data: ${JSON.stringify(value)}\n\n`
}

function pieces(bytes: Buffer, random: SeededRandom): Buffer[] {
  const parts: Buffer[] = []
  let at = 0
  while (at < bytes.length && parts.length < 6) {
    const next = parts.length === 5 ? bytes.length : Math.min(bytes.length, at + random.int(1, Math.max(1, bytes.length >> 1)))
    parts.push(bytes.subarray(at, next))
    at = next
  }
  return parts
}

// === Sinks ===

/** A billing system: it keeps what it got, whatever becomes of the gateway that sent it. */
export interface Receiver {
  readonly name: string
  /** Events by id, as JSON, as they came first. */
  readonly got: Map<string, string>
  readonly refused: Set<string>
  deliveries: number
  deadUntilMs: number
}

export class SimulatedSink implements Sink {
  readonly name: string
  readonly kind: SinkKind
  readonly #world: World
  readonly #process: GatewayProcess
  readonly #receiver: Receiver
  readonly #random: SeededRandom

  constructor(world: World, process: GatewayProcess, receiver: Receiver, random: SeededRandom) {
    this.name = receiver.name
    this.kind = someKind({ contract: { batchMax: random.pick([1, 3, 100]) } })
    this.#world = world
    this.#process = process
    this.#receiver = receiver
    this.#random = random
  }

  deliver(batch: readonly SinkRecord[], signal: AbortSignal): Promise<DeliveryReport> {
    const world = this.#world
    const random = this.#random
    if (signal.aborted) return Promise.reject(new Error('aborted'))
    // The bytes leave now; what comes back may be lost.
    const sent = batch.map((record) => {
      const event = record.is === 'event' ? record.event : null
      return { id: record.id, json: JSON.stringify(event !== null && world.bug === 'change_event' && random.chance(0.3) ? { ...event, time: `${event.time} ` } : event) }
    })
    return new Promise((resolve, reject) => {
      const answer = (afterMs: number, settle: () => void): void => {
        world.timeline.at(afterMs, () => { if (this.#process.alive) settle() })
      }
      signal.addEventListener('abort', () => { if (this.#process.alive) reject(new Error('aborted')) }, { once: true })
      if (world.timeline.nowMs < this.#receiver.deadUntilMs && !world.calm) return random.chance(0.5) ? answer(5, () => reject(new Error('refused'))) : undefined
      const lateMs = random.skewed(0.5, 200)
      if (this.#strikes('sink_refuses')) return answer(lateMs, () => reject(new Error('503')))
      if (this.#strikes('sink_timeout_after')) return void world.timeline.at(lateMs, () => this.#accept(sent))
      const count = this.#strikes('sink_partial') ? random.int(0, sent.length) : sent.length
      const poison = this.#strikes('sink_poison') ? random.int(0, count - 1) : -1
      world.timeline.at(lateMs, () => {
        // What was refused once is refused again.
        const refused = sent.slice(0, count).filter(({ id }, i) => i === poison ? !this.#receiver.got.has(id) : this.#receiver.refused.has(id))
        const accepted = sent.slice(0, count).filter((one) => !refused.includes(one))
        this.#accept(world.bug === 'lose_delivery' && world.bugStrikes() ? accepted.slice(1) : accepted)
        for (const { id } of refused) this.#receiver.refused.add(id)
        answer(random.skewed(0, 50), () => resolve({ accepted: accepted.map(({ id }) => id), refused: refused.map(({ id }) => ({ id, reason: 'not understood' })) }))
      })
    })
  }

  #accept(sent: readonly { readonly id: string; readonly json: string }[]): void {
    this.#receiver.deliveries += sent.length
    for (const { id, json } of sent) {
      const known = this.#receiver.got.get(id)
      if (known === undefined) this.#receiver.got.set(id, json)
      else if (known !== json) this.#world.violate(4, `${id} reached ${this.name} with another content: ${known} / ${json}`)
    }
  }

  #strikes(kind: FaultKind): boolean {
    const struck = this.#world.strikes(kind, this.#random)
    if (struck) this.#world.fault(kind, this.name)
    return struck
  }

  async close(): Promise<void> {}
}
