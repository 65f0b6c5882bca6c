import { setTimeout as sleep } from 'node:timers/promises'
import { promptOf, type Spent } from './counting-model.ts'
import { countsTokens, costOf, inputBoundOf, keyOf, secretOf, type Cell, type Kind } from './entitlement.ts'
import { call, type CallResult, type Fleet } from './fleet.ts'

export type Answers = 'plain' | 'streamed' | 'both'

export interface Load {
  readonly callers: number
  readonly answers: Answers
  /** Calls at most. */
  readonly callsMax: number
  /** True: no more calls. */
  over(calls: number): boolean
}

/** A call of the load: what it may use at most is its message's bytes and `maxTokens`. */
export interface Wish { readonly kind: Kind; readonly bytes: number; readonly maxTokens: number; readonly stream: boolean }

export function wishOf(random: () => number, answers: Answers): Wish {
  const between = (least: number, most: number): number => least + Math.floor(random() * (most - least + 1))
  const stream = answers === 'both' ? random() < 0.5 : answers === 'streamed'
  const kind = random()
  if (kind < 0.4) return { kind: 'mixed', bytes: between(28, 60), maxTokens: between(10, 80), stream }
  if (kind < 0.5) return { kind: 'wide', bytes: between(28, 60), maxTokens: between(100, 400), stream }
  if (kind < 0.6) return { kind: 'dear', bytes: between(100, 400), maxTokens: between(1, 10), stream }
  return { kind: 'free', bytes: 28, maxTokens: between(1, 5), stream }
}

/** Limits that such a load uses up: tokens and cost about halfway, requests at the end. */
export function ceilingsFor(requests: number, concurrency: number): Cell['ceilings'] {
  return { requests, concurrency, tokens: requests * 14, cost: requests * 20_000 }
}

/** Would the call fit beside nothing but what the model knows to be used? */
export function fits({ ceilings }: Cell, spent: Spent, { kind, bytes, maxTokens }: Wish): boolean {
  let tokens = 0
  let cost = 0
  for (const answer of spent.answers.values()) {
    if (countsTokens(answer.model)) tokens += answer.inputTokens + answer.outputTokens
    cost += answer.cost
  }
  return spent.answers.size < ceilings.requests && (!countsTokens(kind) || tokens + inputBoundOf(bytes) + maxTokens <= ceilings.tokens) && cost + costOf(kind, inputBoundOf(bytes), maxTokens) <= ceilings.cost
}

/** Callers that call again and again, each over all gateways in turn. Who is refused or loses its gateway waits a moment. */
export async function runLoad(fleet: Fleet, cell: Cell, load: Load, random: () => number, spent: Spent): Promise<{ results: CallResult[]; misjudged: number }> {
  const { gateways, agent } = fleet
  const results: CallResult[] = []
  let next = 0
  let misjudged = 0
  await Promise.all(Array.from({ length: load.callers }, async (_, caller) => {
    for (let turn = caller; next < load.callsMax && !load.over(results.length); turn++) {
      const wish = wishOf(random, load.answers)
      const tag = `${cell.name}.${next++}`
      // With one caller nothing is pending between its calls.
      const known = load.callers === 1 ? fits(cell, spent, wish) : false
      const result = await call(agent, gateways[turn % gateways.length]!.port, secretOf(cell, 'run'), tag, wish.maxTokens, wish.stream, {
        model: wish.kind, content: promptOf(tag, keyOf(cell, 'run'), 'some', wish.bytes),
      })
      results.push(result)
      if (known && result.status !== 200) misjudged += 1
      if (load.callers > 1 && result.status !== 200) await sleep(random() * Math.max(result.status === 429 ? 20 : 100, load.callers / 4))
    }
  }))
  return { results, misjudged }
}
