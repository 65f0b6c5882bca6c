import { hash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { SinkConfig } from '../config/config.ts'
import { kindOf } from '../sinks/index.ts'
import { StoreUnavailable, type Records } from '../stores/store.ts'

/** Documents: digests of what decides how a sink is told, and since when they hold, by the sink's name. */
export const tellingKind = 'telling'

interface Part {
  readonly digest: string
  /** 0: as long as anybody knows. */
  readonly since_ms: number
}

type Parts = Readonly<Record<string, Part>>

/** Since when a meter of a customer is told as it is now. What was settled before has other ids, or stands elsewhere in the receiver's books. */
export class Telling {
  /** What was settled since then was told as is written down here. How it was before nobody has noted. */
  readonly notedMs: number
  readonly #parts: Parts
  /** Of the receiver's customers, as far as the configuration names them. */
  readonly #customersMs = new Map<string, number>()

  constructor(config: SinkConfig, parts: Parts, notedMs: number) {
    this.notedMs = notedMs
    this.#parts = parts
    for (const [account, customer] of Object.entries(config.mapping?.customers ?? {})) {
      this.#customersMs.set(customer, Math.max(this.#customersMs.get(customer) ?? 0, this.#sinceMs(`customer ${account}`)))
    }
  }

  /** `records`: its ids are the same. `totals`: a total of it means the same. */
  sinceMs(code: string, customer: string | null): { readonly records: number; readonly totals: number } {
    const totals = Math.max(this.#sinceMs('events'), this.#sinceMs(`code ${code}`), this.#customersMs.get(customer ?? '') ?? 0)
    return { records: Math.max(totals, this.#sinceMs('ids')), totals }
  }

  #sinceMs(part: string): number {
    return this.#parts[part]?.since_ms ?? 0
  }
}

/** Before a sink is delivered to: what is settled from now on is told as `config` says. `waitsSinceMs`: when the oldest was settled that waits for it; null: none does. */
export async function noteTelling(records: Records, config: SinkConfig, nowMs: number, waitsSinceMs: number | null = null): Promise<void> {
  // Of others nobody ever asks.
  if (!kindOf(config).contract.readsBack) return
  for (let tries = 0; tries < notesMax; tries++) {
    const before = await records.get(tellingKind, config.name)
    const parts = partsSince(before, config, nowMs)
    if (isDeepStrictEqual(before?.['parts'], parts) || await records.swap(tellingKind, config.name, before, { parts, noted_ms: before?.['noted_ms'] ?? waitsSinceMs ?? nowMs })) return
  }
  throw new StoreUnavailable(`other gateways write down all the time how ${config.name} is told`)
}

/** As it was written down, and as it would be if a delivery began now. */
export async function tellingOf(records: Records, config: SinkConfig, nowMs: number): Promise<Telling> {
  const document = await records.get(tellingKind, config.name)
  return new Telling(config, partsSince(document, config, nowMs), Number(document?.['noted_ms'] ?? Infinity))
}

const notesMax = 20

function partsSince(document: Readonly<Record<string, unknown>> | undefined, config: SinkConfig, nowMs: number): Parts {
  const digests = digestsOf(config)
  if (document === undefined) return Object.fromEntries([...digests].map(([name, digest]) => [name, { digest, since_ms: 0 }]))
  const before = document['parts'] as Parts
  // Who such an account is now, its events alone say: then it may be anybody.
  const left = Object.keys(before).some((name) => name.startsWith('customer ') && !digests.has(name))
  return Object.fromEntries([...digests].map(([name, digest]) => {
    const part = before[name]
    return [name, part?.digest === digest && !(left && name === 'events') ? part : { digest, since_ms: nowMs }]
  }))
}

/** Keys, patience and the like are left out: they change nothing that was told. */
function digestsOf(config: SinkConfig): ReadonlyMap<string, string> {
  const { mapping, settings } = config
  const decisive = Object.entries(kindOf(config).settings).flatMap(([name, { is, otherwise }]) => {
    const value = settings[name] ?? null
    // One that comes with a later version changes nothing as long as nobody sets it.
    return (is === 'text' || is === 'url' || is === 'choice') && value !== (otherwise ?? null) ? [[name, value]] : []
  })
  const digests = new Map([['ids', digestOf([mapping?.rollup ?? null, decisive.sort()])], ['events', digestOf([mapping?.filter ?? null, mapping?.meters === null])]])
  const codes = new Set(mapping?.meters?.map(({ code }) => code))
  for (const each of codes) {
    const rules = mapping?.meters?.filter(({ code }) => code === each).map(({ name, terms, scale, valueProperty, copied, fixed }) => [name, terms, scale, valueProperty, sorted(copied), sorted(fixed)])
    digests.set(`code ${each}`, digestOf(rules))
  }
  for (const [account, customer] of Object.entries(mapping?.customers ?? {})) digests.set(`customer ${account}`, digestOf(customer))
  return digests
}

function sorted(map: Readonly<Record<string, string>>): readonly (readonly [string, string])[] {
  return Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1))
}

function digestOf(value: unknown): string {
  return hash('sha256', JSON.stringify(value)).slice(0, 16)
}
