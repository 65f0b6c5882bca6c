import { StoredKeyDirectory } from '../../src/accounts/key-directory.ts'
import type { Clock } from '../../src/clock.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { Config } from '../../src/config/config.ts'
import { toText } from '../../src/config/problem.ts'
import type { Downstream } from '../../src/gateway/downstream.ts'
import type { UpstreamCall, UpstreamListener, UpstreamRequest, UpstreamWire } from '../../src/gateway/forward.ts'
import { Gateway } from '../../src/gateway/gateway.ts'
import { silentLog } from '../../src/log.ts'
import { Metrics } from '../../src/metrics.ts'
import { toUsageEvent, type UsageEvent } from '../../src/metering/event.ts'
import { httpEndpoint, providers } from '../../src/providers/index.ts'
import { tokenizer } from '../../src/providers/tokenizer.ts'
import { openMemory } from '../../src/stores/memory/memory.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { ProcessClock, Timeline } from '../sim/virtual-clock.ts'

/** A month of calls to a real gateway, in virtual time: its server and its upstream are the only things that are not the product's own. */

export const startMs = Date.UTC(2026, 2, 5, 6)
const dayMs = 86_400_000
export const monthMs = 31 * dayMs

/** One call as its caller makes it, and as its upstream answers it; the same under every plan. */
export interface PlannedCall {
  readonly ordinal: number
  /** After the beginning: an even number, and no other call has it. */
  readonly atMs: number
  readonly key: string
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
  /** What the upstream would write, if it is let. */
  readonly output: number
  readonly input: number
  /** An odd number, so that nothing ends in the millisecond in which another call begins. */
  readonly lastsMs: number
}

export interface SeenRefusal {
  readonly ordinal: number
  readonly limit: string | null
  readonly reason: string
}

export interface Recording {
  readonly events: readonly UsageEvent[]
  readonly refusals: readonly SeenRefusal[]
  readonly served: number
}

export function configured(plans: string, accounts: string): Config {
  const text = `
server: { listen: 127.0.0.1:1 }
admin: { listen: 127.0.0.1:2 }
store: "memory:"
instance: month
upstreams: { model: { url: "http://127.0.0.1:9", provider: [openai, anthropic], credential: c } }
models: { "deep-*": { hidden_output: true, context_tokens: 40k } }
${plans}
${accounts}
`
  const { config, problems } = loadConfig({ file: 'month.yaml', env: {}, hostName: 'h', text })
  if (config === null) throw new Error(problems.map(toText).join('\n'))
  return config
}

const models = ['small', 'small', 'large', 'deep-thought']

/** Calls come in bursts, as they do. */
export function plannedCalls(seed: number, count: number): readonly PlannedCall[] {
  const random = new SeededRandom(seed, 'calls')
  const taken = new Set<number>()
  const calls: PlannedCall[] = []
  let atMs = 0
  for (let ordinal = 0; ordinal < count; ordinal++) {
    // Bursts of a few seconds, pauses of hours.
    atMs += random.chance(0.85) ? random.int(1, 2_000) : Math.floor(random.skewed(1_000, 2 * 6.6 * monthMs / count))
    let evenMs = 2 * Math.floor(atMs / 2)
    while (taken.has(evenMs)) evenMs += 2
    taken.add(evenMs)
    if (evenMs > monthMs) break
    const words = Math.floor(random.skewed(1, 400))
    const anthropic = random.chance(0.15)
    const embeds = !anthropic && random.chance(0.1)
    const streamed = !embeds && random.chance(0.5)
    const asked = anthropic || random.chance(0.7) ? random.int(1, 900) : null
    const text = `#${ordinal} ${'word '.repeat(words)}`
    calls.push({
      ordinal, atMs: evenMs, key: random.pick(['acme-a', 'acme-a', 'acme-b', 'lab', 'solo']),
      path: anthropic ? '/v1/messages' : embeds ? '/v1/embeddings' : '/v1/chat/completions',
      body: embeds ? { model: 'small', input: text, user: random.pick(['ann', 'bob']) } : {
        model: random.pick(models), messages: [{ role: 'user', content: text }], ...(asked === null ? {} : { max_tokens: asked }), ...(streamed ? { stream: true } : {}),
        ...(!anthropic && random.chance(0.1) ? { n: 2 } : {}), ...(!anthropic && random.chance(0.1) ? { response_format: { type: 'json_object' } } : {}),
        ...(anthropic ? { metadata: { user_id: random.pick(['ann', 'bob']) } } : { user: random.pick(['ann', 'bob']) }),
      },
      output: Math.floor(random.skewed(1, 1_500)), input: words + 7, lastsMs: 2 * Math.floor(random.skewed(20, 20_000)) + 1,
    })
  }
  return calls
}

/** Lets a gateway under this configuration have the calls. */
export async function record(config: Config, calls: readonly PlannedCall[], seed: number): Promise<Recording> {
  const timeline = new Timeline()
  const clock = new ProcessClock(timeline, startMs)
  // Housekeeping every few seconds would be most of what happens in a month.
  const slowly: Clock = { nowMs: () => clock.nowMs(), monotonicMs: () => clock.monotonicMs(), after: (ms, task) => clock.after(ms, task), sleep: (ms) => clock.sleep(ms), every: (ms, task) => clock.every(Math.max(ms, 7_200_000), task) }
  const store = await openMemory({ clock: slowly, forgetAfterMs: 3_600_000, hotMs: 2 * monthMs })
  const keys = await StoredKeyDirectory.open(store.records, config, slowly)
  const gateway = new Gateway({
    config: () => config, keys, store, providers, httpEndpoint, clock: slowly, random: new SeededRandom(seed, 'gateway'), log: silentLog, metrics: new Metrics(),
    guard: { charge: async (_address, refusal) => refusal }, tokenizer, forwarder: new PlannedUpstream(timeline, calls), bounds: { leaseMs: 10 * dayMs, renewMs: 5 * dayMs },
  })
  const callers = calls.map((call) => new Caller(call))
  for (const caller of callers) timeline.at(caller.call.atMs, () => { void gateway.handle(caller) })
  await timeline.run(monthMs + dayMs)
  const entries = []
  for (let page = await store.outbox.scan(null, 1_000); page.length > 0; page = await store.outbox.scan(page.at(-1)?.position ?? null, 1_000)) entries.push(...page)
  const unanswered = callers.filter(({ status }) => status === 0)
  if (unanswered.length > 0 || gateway.openExchanges > 0) throw new Error(`${unanswered.length} calls were not answered, ${gateway.openExchanges} are open`)
  keys.close()
  const recording = { events: entries.map(({ record: each }) => toUsageEvent(each)), refusals: callers.flatMap((caller) => caller.refusal), served: callers.filter(({ status }) => status === 200).length }
  await gateway.close()
  await store.close()
  clock.kill()
  return recording
}

/** `call-17` → 17. */
export function ordinalOf(data: Readonly<Record<string, unknown>>): number {
  return Number(/^call-(\d+)$/.exec((data['caller'] as { request_id: string }).request_id)?.[1])
}

class Caller implements Downstream {
  readonly method = 'POST'
  readonly query = ''
  readonly address = '10.0.0.1'
  readonly httpVersion = '1.1'
  readonly call: PlannedCall
  readonly path: string
  readonly headers: readonly string[]
  readonly gone = false
  headSent = false
  bytesOut = 0
  status = 0
  #text = ''

  constructor(call: PlannedCall) {
    this.call = call
    this.path = call.path
    this.headers = ['authorization', `Bearer sk-of-this-very-month-${call.key}`, 'content-type', 'application/json', 'x-request-id', `call-${call.ordinal}`]
  }

  get refusal(): readonly SeenRefusal[] {
    if (this.status === 200) return []
    type Told = { readonly reason?: string; readonly limit?: string }
    const { error } = JSON.parse(this.#text) as { error: Told & { readonly details?: Told } }
    const { reason = '', limit = null } = error.details ?? error
    return [{ ordinal: this.call.ordinal, limit, reason }]
  }

  header(name: string): string | undefined {
    const at = this.headers.indexOf(name)
    return at === -1 ? undefined : this.headers[at + 1]
  }

  readBody(): Promise<Uint8Array> {
    return Promise.resolve(Buffer.from(JSON.stringify(this.call.body)))
  }

  writeHead(status: number): void {
    this.headSent = true
    this.status = status
  }

  write(chunk: Uint8Array): boolean {
    this.bytesOut += chunk.length
    this.#text += Buffer.from(chunk).toString('utf8')
    return true
  }

  end(chunk?: Uint8Array): void {
    if (chunk !== undefined) this.write(chunk)
  }

  cut(): void {
    this.status = 599
  }

  onDrain(): void {}
  onGone(): void {}
}

/** Answers each call as it is planned, with no more output than it is let. */
class PlannedUpstream implements UpstreamWire {
  readonly #timeline: Timeline
  readonly #calls: readonly PlannedCall[]

  constructor(timeline: Timeline, calls: readonly PlannedCall[]) {
    this.#timeline = timeline
    this.#calls = calls
  }

  forward(request: UpstreamRequest, listener: UpstreamListener): UpstreamCall {
    const body = JSON.parse(Buffer.from(request.body ?? new Uint8Array(0)).toString('utf8')) as Record<string, number | string | boolean>
    // Its prompt says which one it is.
    const call = this.#calls[Number(/#(\d+) /.exec(JSON.stringify(body))?.[1])]
    if (call === undefined) throw new Error('an unknown call')
    const most = Number(body['max_tokens'] ?? body['max_completion_tokens'] ?? Infinity) * Number(body['n'] ?? 1)
    const { type, chunks } = answerOf(call, Math.min(call.output, most), body['stream'] === true)
    const cancels = [
      this.#timeline.at(0, () => listener.onSent()),
      this.#timeline.at(1, () => listener.onHead(200, ['content-type', type])),
      ...chunks.map((chunk, index) => this.#timeline.at(index === chunks.length - 1 ? call.lastsMs : 3, () => listener.onData(Buffer.from(chunk)))),
      this.#timeline.at(call.lastsMs, () => listener.onEnd()),
    ]
    return { pause() {}, resume() {}, abort() { for (const cancel of cancels) cancel() } }
  }

  keepOnly(): void {}

  async close(): Promise<void> {}
}

function answerOf({ path, input }: PlannedCall, output: number, streamed: boolean): { readonly type: string; readonly chunks: readonly string[] } {
  const event = (value: object): string => `data: ${JSON.stringify(value)}\n\n`
  const json = (value: object): { type: string; chunks: string[] } => ({ type: 'application/json', chunks: [JSON.stringify(value)] })
  const sse = (...chunks: string[]): { type: string; chunks: string[] } => ({ type: 'text/event-stream', chunks })
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output, prompt_tokens_details: { cached_tokens: Math.floor(input / 3) } }
  if (path === '/v1/embeddings') return json({ object: 'list', data: [{ object: 'embedding', index: 0, embedding: [0] }], model: 'm', usage: { prompt_tokens: input, total_tokens: input } })
  if (path === '/v1/messages') {
    const told = { input_tokens: input, output_tokens: output }
    if (!streamed) return json({ id: 'm', type: 'message', role: 'assistant', model: 'm', content: [{ type: 'text', text: 'x' }], stop_reason: 'end_turn', usage: told })
    const named = (type: string, more: object): string => `event: ${type}\n${event({ type, ...more })}`
    return sse(
      named('message_start', { message: { id: 'm', type: 'message', role: 'assistant', model: 'm', content: [], usage: { input_tokens: input, output_tokens: 1 } } }),
      named('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }) + named('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'x' } }),
      named('content_block_stop', { index: 0 }) + named('message_delta', { delta: { stop_reason: 'end_turn' }, usage: { output_tokens: output } }) + named('message_stop', {}),
    )
  }
  const base = { id: 'c', object: 'chat.completion', created: 1, model: 'm' }
  if (!streamed) return json({ ...base, choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }], usage })
  const chunk = { ...base, object: 'chat.completion.chunk' }
  return sse(event({ ...chunk, choices: [{ index: 0, delta: { content: 'x' }, finish_reason: null }] }), `${event({ ...chunk, choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}${event({ ...chunk, choices: [], usage })}data: [DONE]\n\n`)
}
