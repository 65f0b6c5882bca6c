// What every test in this folder stands in front of: the gateway as a process, and a book-keeper's view of what it wrote.

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { startGatewayProcess, type GatewayProcess } from '../fixtures/gateway-process.ts'
import type { Teardown } from '../fixtures/tmp-dir.ts'
import { waitFor } from '../fixtures/wait-for.ts'

/** The part of a usage event that these tests read. */
export type UsageEvent = {
  readonly id: string
  readonly data: {
    readonly key: string
    readonly endpoint: string
    readonly model: string
    readonly stream: boolean
    readonly status: number
    readonly end: string
    readonly usage_source: string
    readonly requests: number
    readonly input_tokens?: number
    readonly cached_input_tokens?: number
    readonly cache_write_tokens?: number
    readonly output_tokens?: number
    readonly reasoning_tokens?: number
    readonly total_tokens?: number
  }
}

export type LimitState = { readonly name: string; readonly limit: number; readonly used: number; readonly reserved: number; readonly remaining: number }

export type Front = {
  readonly gateway: GatewayProcess
  /** What the file sink holds now, one per exchange. */
  events(): UsageEvent[]
  /** The event of the exchange with this id, as soon as the file sink has it. */
  event(id: string | null | undefined): Promise<UsageEvent['data']>
  limits(key: string): Promise<LimitState[]>
}

/** The secret of the key `id`, which `keyLine` puts into the plan. */
export const secretOf = (id: string): string => `tg_sdk_${id}_0123456789abcdef`

export const keyLine = (id: string, owner: string): string =>
  `  - { id: ${id}, ${owner}, hash: "sha256:${createHash('sha256').update(secretOf(id)).digest('hex')}" }`

/** Starts a gateway with this configuration; the file sink is added. */
export async function openFront(t: Teardown, yaml: string): Promise<Front> {
  const gateway = await startGatewayProcess(t, `${yaml}\nsinks:\n  - { name: file, type: file, path: "{dir}/usage.ndjson" }\n`)
  const events = (): UsageEvent[] => readdirSync(gateway.dir).filter((name) => name.endsWith('.ndjson')).sort()
    .flatMap((name) => readFileSync(join(gateway.dir, name), 'utf8').split('\n').slice(0, -1).map((line) => JSON.parse(line) as UsageEvent))
  return {
    gateway,
    events,
    event: async (id) => (await waitFor(`the event of ${id}`, () => events().find((event) => event.id === id), { everyMs: 20 })).data,
    limits: async (key) => {
      const answer = await fetch(`${gateway.url}/-/usage`, { headers: { authorization: `Bearer ${secretOf(key)}` } })
      return ((await answer.json()) as { limits: LimitState[] }).limits
    },
  }
}

/** Keeps what passed through an SDK's own `fetch`: how often and when it called, and the heads it was answered with. */
export type Attempts = { readonly fetch: typeof fetch; readonly list: { readonly atMs: number; readonly answeredMs: number; readonly status: number; readonly headers: Headers }[] }

export function watchAttempts(): Attempts {
  const list: Attempts['list'] = []
  return {
    list,
    fetch: async (input, init) => {
      const atMs = performance.now()
      const answer = await fetch(input, init)
      list.push({ atMs, answeredMs: performance.now(), status: answer.status, headers: answer.headers })
      return answer
    },
  }
}

/** The error that `call` ends with; fails when it ends without one. */
export async function errorOf(call: PromiseLike<unknown>): Promise<unknown> {
  try {
    await call
  } catch (error) {
    return error
  }
  throw new Error('no error was raised')
}

export async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of stream) items.push(item)
  return items
}
