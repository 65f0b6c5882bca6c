import { Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RedisLink } from '../../src/stores/redis/link.ts'
import { promptOf, type CountingModel } from './counting-model.ts'
import { countsTokens, costOf, keyOf, type Cell } from './entitlement.ts'
import { call } from './fleet.ts'
import { wishOf, type Load } from './load.ts'
import { over, type Over } from './outside-books.ts'

export interface Unheld {
  readonly calls: number
  readonly admitted: number
  readonly refused: number
  readonly tokens: number
  readonly cost: number
  readonly peak: number
  readonly over: Over
  readonly seconds: number
}

/**
 * The usual way, at the same load, with the same limits in the same Redis: every gateway reads the counters, compares, calls the model, and counts afterwards.
 * Each link stands for a gateway.
 */
export async function checkThenIncrement(links: readonly RedisLink[], model: CountingModel, cell: Cell, load: Load, random: () => number): Promise<Unheld> {
  const startedAt = performance.now()
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 1_024 })
  const key = (name: string): string => `plain:${cell.name}:${name}`
  const [requests, tokens, cost, parallel] = [key('requests'), key('tokens'), key('cost'), key('parallel')]
  const { ceilings } = cell
  let next = 0
  let refused = 0
  let calls = 0
  await Promise.all(Array.from({ length: load.callers }, async (_, caller) => {
    for (let turn = caller; next < load.callsMax && !load.over(calls); turn++) {
      const link = links[turn % links.length]!
      const wish = wishOf(random, load.answers)
      const tag = `${cell.name}.${next++}`
      const used = (await link.command(requests, 'MGET', [requests, tokens, cost, parallel]) as readonly (string | null)[]).map((value) => Number(value ?? 0))
      const fits = used[0]! < ceilings.requests && (!countsTokens(wish.kind) || used[1]! < ceilings.tokens) &&
        (costOf(wish.kind, 1, 1) === 0 || used[2]! < ceilings.cost) && used[3]! < ceilings.concurrency
      calls += 1
      if (!fits) {
        refused += 1
        if (load.callers > 1) await sleep(random() * Math.max(20, load.callers / 4))
        continue
      }
      await link.command(parallel, 'INCRBY', [parallel, 1])
      await call(agent, model.port, 'none', tag, wish.maxTokens, wish.stream, { model: wish.kind, content: promptOf(tag, keyOf(cell, 'run'), 'some', wish.bytes) })
      const answer = model.spent(cell.name).answers.get(tag)!
      await link.commands([
        { key: requests, name: 'INCRBY', args: [requests, 1] },
        { key: tokens, name: 'INCRBY', args: [tokens, countsTokens(wish.kind) ? answer.inputTokens + answer.outputTokens : 0] },
        { key: cost, name: 'INCRBY', args: [cost, answer.cost] },
        { key: parallel, name: 'DECRBY', args: [parallel, 1] },
      ])
    }
  }))
  agent.destroy()
  const spent = model.spent(cell.name)
  const used = { run: spent.answers.size, rest: 0, tokens: 0, cost: 0 }
  for (const answer of spent.answers.values()) {
    if (countsTokens(answer.model)) used.tokens += answer.inputTokens + answer.outputTokens
    used.cost += answer.cost
  }
  return { calls, admitted: used.run, refused, tokens: used.tokens, cost: used.cost, peak: spent.peak, over: over(cell, { ...used, parallel: spent.peak }), seconds: (performance.now() - startedAt) / 1000 }
}
