import { setTimeout as sleep } from 'node:timers/promises'
import { StoredKeyDirectory } from '../../../src/accounts/key-directory.ts'
import { systemClock } from '../../../src/clock.ts'
import type { Config } from '../../../src/config/config.ts'
import { loadConfig } from '../../../src/config/load.ts'
import { toText } from '../../../src/config/problem.ts'
import { Gateway } from '../../../src/gateway/gateway.ts'
import { Guard } from '../../../src/gateway/guard.ts'
import type { Bounds, GatewayParts } from '../../../src/gateway/parts.ts'
import { startServer, type RunningServer, type ServerBounds } from '../../../src/gateway/server.ts'
import type { Log } from '../../../src/log.ts'
import { Metrics } from '../../../src/metrics.ts'
import { toUsageEvent } from '../../../src/metering/event.ts'
import type { Provider } from '../../../src/providers/provider.ts'
import { httpEndpoint, providers } from '../../../src/providers/index.ts'
import { tokenizer } from '../../../src/providers/tokenizer.ts'
import { systemRandom } from '../../../src/random.ts'
import type { Spool } from '../../../src/spool/spool.ts'
import { openMemory } from '../../../src/stores/memory/memory.ts'
import type { Store } from '../../../src/stores/store.ts'
import type { Telemetry } from '../../../src/telemetry/telemetry.ts'
import { openRawClient, rawRequest, requestBytes, type RawClient, type RawRequest, type RawResponse } from '../../fixtures/raw-client.ts'
import type { Teardown } from '../../fixtures/tmp-dir.ts'
import { waitFor } from '../../fixtures/wait-for.ts'

/** Secrets of the rig's keys, and the plan each is on. */
export const secrets = { main: 'tg-test-main-0123456789', other: 'tg-test-other-0123456789' }

export interface RigOptions {
  /** YAML of the plan `main`, below its name, at indentation 4. */
  readonly plan?: string
  readonly policy?: string
  readonly limits?: readonly string[]
  readonly entitlements?: string
  readonly server?: string
  readonly models?: string
  /** More upstreams, or settings of the one called `model`, as YAML at indentation 4. */
  readonly upstream?: string
  readonly upstreams?: string
  readonly providerList?: string
  /** More sections, and more keys, one line each. */
  readonly sections?: string
  readonly keys?: readonly string[]
  readonly wrap?: (store: Store) => Store
  readonly spool?: Spool
  readonly providers?: readonly Provider[]
  readonly telemetry?: Telemetry
  readonly parts?: (store: Store, config: () => Config) => Promise<Partial<GatewayParts>>
  readonly bounds?: Partial<Bounds>
  readonly serverBounds?: Partial<ServerBounds>
}

export interface Rig {
  readonly port: number
  readonly gateway: Gateway
  readonly server: RunningServer
  readonly store: Store
  readonly metrics: Metrics
  readonly logged: readonly Record<string, unknown>[]
  configure(options: RigOptions): Promise<void>
  request(request: RawRequest & { readonly key?: string | null }): Promise<RawResponse>
  chat(body?: object, headers?: Record<string, string>): Promise<RawResponse>
  open(request: RawRequest & { readonly key?: string | null }): Promise<RawClient>
  /** Every event so far, once all is settled. */
  events(): Promise<Record<string, unknown>[]>
  usage(key?: string): Promise<Record<string, { used: number; reserved: number; remaining: number }>>
  /** Fails unless nothing is open and nothing is held. */
  settled(): Promise<void>
}

export const prompt = { model: 'test-model', messages: [{ role: 'user', content: 'Say hello.' }] }

/** A gateway with its real server, in this process, on the store in memory. */
export async function startRig(t: Teardown, upstreamUrl: string, options: RigOptions = {}): Promise<Rig> {
  let config = toConfig(upstreamUrl, options)
  const memory = await openMemory({ clock: systemClock, forgetAfterMs: 3_600_000, hotMs: 3_600_000 })
  const store = options.wrap === undefined ? memory : options.wrap(memory)
  const keys = await StoredKeyDirectory.open(memory.records, config, systemClock)
  const metrics = new Metrics()
  const logged: Record<string, unknown>[] = []
  const note = (level: string) => (fields: object, message: string): void => { logged.push({ level, message, ...fields }) }
  const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') }
  const gateway = new Gateway({
    config: () => config, keys, store, spool: options.spool ?? null, providers: options.providers ?? providers, httpEndpoint, clock: systemClock, random: systemRandom, log, metrics, guard: new Guard(),
    tokenizer, telemetry: options.telemetry ?? null,
    bounds: { reserveMs: 2_000, ...options.bounds }, ...await options.parts?.(memory, () => config),
  })
  const server = await startServer({
    listen: { host: '127.0.0.1', port: 0 }, settings: () => config.server, clock: systemClock, log, metrics,
    handle: (d) => gateway.handle(d), handleUpgrade: (d, request, socket, head) => gateway.handleUpgrade(d, request, socket, head),
    ready: () => ({ ready: true, reason: '' }),
    ...(options.serverBounds === undefined ? {} : { bounds: options.serverBounds }),
  })
  t.teardown(async () => {
    gateway.cutAll()
    await server.close()
    await gateway.close()
    await memory.close()
  })
  const { port } = server.address
  const withKey = ({ key, ...request }: RawRequest & { readonly key?: string | null }): RawRequest => ({
    ...request, headers: { ...(key === null ? {} : { Authorization: `Bearer ${key ?? secrets.main}` }), ...(request.headers as Record<string, string> | undefined) },
  })
  const rig: Rig = {
    port, gateway, server, store: memory, metrics, logged,
    async configure(next) {
      config = toConfig(upstreamUrl, next)
      keys.use(await keys.prepare(config, systemClock))
    },
    request: (request) => rawRequest({ port }, withKey(request)),
    chat: (body = {}, headers = {}) => rawRequest({ port }, withKey({ method: 'POST', target: '/v1/chat/completions', body: { ...prompt, ...body }, headers })),
    async open(request) {
      const client = await openRawClient({ port })
      t.teardown(() => client.close())
      await client.send(requestBytes(withKey(request)))
      return client
    },
    async events() {
      await rig.settled()
      const entries = await memory.outbox.scan(null, 10_000)
      return entries.map(({ record }) => toUsageEvent(record).data as Record<string, unknown>)
    },
    async usage(key = secrets.main) {
      const answer = await rawRequest({ port }, withKey({ target: '/-/usage', key }))
      const { limits } = answer.json() as { limits: { name: string; used: number; reserved: number; remaining: number }[] }
      return Object.fromEntries(limits.map((limit) => [limit.name, limit]))
    },
    async settled() {
      await waitFor('every exchange to end', () => gateway.openExchanges === 0 && gateway.unsettled === 0)
      const usage = await waitFor('nothing to be held', async () => {
        const all = await rig.usage()
        return Object.values(all).every((limit) => limit.reserved === 0) ? all : undefined
      }, { deadlineMs: 3_000 })
      void usage
    },
  }
  return rig
}

function toConfig(upstreamUrl: string, options: RigOptions): Config {
  const limits = options.limits ?? ['{ name: rpm, meter: requests, limit: 1000, window: 1m }', '{ name: daily, meter: total_tokens, limit: 1M, window: day }', '{ name: parallel, meter: concurrency, limit: 100 }']
  const text = `
server:
  listen: 127.0.0.1:1
${options.server ?? ''}
admin:
  listen: 127.0.0.1:2
store: "memory:"
upstreams:
  model:
    url: ${upstreamUrl}
    provider: ${options.providerList ?? '[openai, anthropic, http]'}
    credential: upstream-credential
${options.upstream ?? ''}
${options.upstreams ?? ''}
${options.models === undefined ? '' : `models:\n${options.models}`}
plans:
  main:
    version: 1
    entitlements: ${options.entitlements ?? '{ models: ["*"] }'}
    policy: { ${options.policy ?? 'output_default: 100'} }
    limits:
${limits.map((limit) => `      - ${limit}\n`).join('')}
keys:
  - { id: main, plan: main, secret: "${secrets.main}" }
  - { id: other, plan: main, secret: "${secrets.other}" }
${(options.keys ?? []).map((key) => `  - ${key}\n`).join('')}
sinks: []
${options.sections ?? ''}
`
  const { config, problems } = loadConfig({ file: '/nowhere/tallygate.yaml', env: {}, hostName: 'test', text })
  if (config === null) throw new Error(`${problems.map(toText).join('\n')}\n${text}`)
  return config
}

/** A store whose N-th move fails, before it was applied or after. */
export function failing(store: Store, nth: () => number, when: 'before' | 'after', onCall: () => void): Store {
  let calls = 0
  const around = async <Answer>(move: () => Promise<Answer>): Promise<Answer> => {
    calls += 1
    onCall()
    const fails = calls === nth()
    if (fails && when === 'before') throw new Error('the store failed before')
    const answer = await move()
    if (fails) throw new Error('the store failed after')
    return answer
  }
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const bound = (value as (...args: unknown[]) => Promise<unknown>).bind(target)
      return ['reserve', 'extend', 'settle', 'void'].includes(String(name)) ? (...args: unknown[]) => around(() => bound(...args)) : bound
    },
  })
}

export { sleep }
