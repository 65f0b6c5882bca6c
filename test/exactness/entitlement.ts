import { createHash } from 'node:crypto'

/** The four limits of one entitlement. Cost is in 10⁻⁹ of the currency, in steps of 1000. */
export interface Ceilings {
  readonly requests: number
  readonly tokens: number
  readonly cost: number
  readonly concurrency: number
}

/** What is held and used in one run: an account with two keys, `run` for the load and `rest` for what is tried afterwards, and their limits. */
export interface Cell {
  readonly name: string
  readonly ceilings: Ceilings
}

/**
 * All four limits apply to `mixed`; the others let one limit be filled while another is used up: `wide` costs nothing, the tokens of `dear` are not limited,
 * and `free` only needs a request and a place.
 */
export type Kind = 'mixed' | 'wide' | 'dear' | 'free'

const nanosPerInput = 1_000
const nanosPerOutput = 3_000
/** The most input tokens of a prompt: its bytes, and those of its role. */
export const inputBoundOf = (bytes: number): number => bytes + 'user'.length
export const countsTokens = (model: string): boolean => model === 'mixed' || model === 'wide'
export const costOf = (model: string, input: number, output: number): number =>
  (model === 'mixed' || model === 'dear' ? input * nanosPerInput + output * nanosPerOutput : 0)

export const secretOf = (cell: Cell, key: 'run' | 'rest'): string => `tg_exactness_${cell.name}_${key}_0123456789`
export const keyOf = (cell: Cell, key: 'run' | 'rest'): string => `${cell.name}-${key}`
/** What the second key may ask: enough for everything that is tried. */
export const restRequests = (cell: Cell): number => 2 * cell.ceilings.concurrency + 40

const hash = (secret: string): string => `sha256:${createHash('sha256').update(secret).digest('hex')}`

/** The gateway's config: `store` and `sinks` are its other half. */
export function configOf(upstream: string, cells: readonly Cell[]): string {
  return `
upstreams: { model: { url: "${upstream}", provider: openai } }
models:
  mixed: { upstream: model, template_tokens: { per_call: 0 } }
  wide: { upstream: model, template_tokens: { per_call: 0 } }
  dear: { upstream: model, template_tokens: { per_call: 0 } }
  free: { upstream: model, template_tokens: { per_call: 0 } }
prices:
  exact:
    currency: USD
    version: "1"
    models:
      mixed: { input_tokens: 1/M, output_tokens: 3/M }
      dear: { input_tokens: 1/M, output_tokens: 3/M }
      wide: { output_tokens: 0 }
      free: { output_tokens: 0 }
plans:
${cells.map(({ name, ceilings }) => `  ${name}:
    prices: exact
    policy: { on_insufficient: refuse }
    limits:
      - { name: requests, meter: requests, limit: ${ceilings.requests}, window: lifetime, per: key }
      - { name: tokens, meter: total_tokens, limit: ${ceilings.tokens}, window: lifetime, for: { models: [mixed, wide] } }
      - { name: cost, meter: cost, limit: ${(ceilings.cost / 1e9).toFixed(9)}, window: lifetime, visible: true }
      - { name: parallel, meter: concurrency, limit: ${ceilings.concurrency} }
`).join('')}
accounts:
${cells.map(({ name }) => `  ${name}: { plan: ${name} }\n`).join('')}
keys:
${cells.map((cell) => `  - { id: ${keyOf(cell, 'run')}, account: ${cell.name}, hash: "${hash(secretOf(cell, 'run'))}" }
  - id: ${keyOf(cell, 'rest')}
    account: ${cell.name}
    hash: "${hash(secretOf(cell, 'rest'))}"
    limits: [{ name: requests, meter: requests, limit: ${restRequests(cell)}, window: lifetime, per: key }]
`).join('')}`
}
