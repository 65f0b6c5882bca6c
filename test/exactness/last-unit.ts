import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '../fixtures/wait-for.ts'
import { promptOf, type CountingModel, type Use } from './counting-model.ts'
import { inputBoundOf, keyOf, secretOf, type Cell, type Kind } from './entitlement.ts'
import { call, type CallResult, type Fleet } from './fleet.ts'
import type { OutsideBooks } from './outside-books.ts'

/** What was answered otherwise than the room says. */
export interface LastUnit {
  readonly results: readonly CallResult[]
  /** Refused, though it would have fitted. */
  readonly wrongly: number
  /** Admitted, though it did not fit. */
  readonly beyond: number
  readonly notes: readonly string[]
}

const triesMax = 20
/** Requests of the load's own key that are made one by one at most. */
const requestsMax = 60

/**
 * With nothing pending: what fits exactly is admitted and fills each limit to its last unit; one unit more is refused. Every other call is streamed, and each goes
 * to the next gateway.
 */
export async function fillToTheLastUnit(fleet: Fleet, cell: Cell, model: CountingModel, books: OutsideBooks): Promise<LastUnit> {
  const results: CallResult[] = []
  const notes: string[] = []
  let wrongly = 0
  let beyond = 0
  let n = 0
  const nextTag = (): string => `${cell.name}.last${n++}`
  const send = async (kind: Kind, key: 'run' | 'rest', bytes: number, maxTokens: number, use: Use): Promise<CallResult> => {
    for (let tries = 1; ; tries++) {
      const tag = nextTag()
      const result = await call(fleet.agent, fleet.gateways[n % fleet.gateways.length]!.port, secretOf(cell, key), tag, maxTokens, n % 2 === 0, {
        model: kind, content: promptOf(tag, keyOf(cell, key), use, bytes),
      })
      results.push(result)
      // Not metered is not refused: a Redis that has just come back may not have answered in time.
      if (result.status !== 503 || tries === triesMax) return result
      notes.push(`${tag}: answered 503 ${result.reason ?? ''}, tried again`)
      await sleep(250)
    }
  }
  const expect = async (fitting: boolean, what: string, sent: Promise<CallResult>): Promise<void> => {
    const { status, complete, reason } = await sent
    if (fitting && !complete) {
      wrongly += 1
      notes.push(`${what}: answered ${status} ${reason ?? ''} although it fits`)
    } else if (!fitting && status !== 429) {
      if (status === 200) beyond += 1
      notes.push(`${what}: answered ${status} ${reason ?? ''} although it does not fit`)
    }
  }
  const promptBytes = promptOf(`${cell.name}.last99`, keyOf(cell, 'rest'), 'all', 0).length

  const before = await books.look(cell)
  const requestsLeft = cell.ceilings.requests - before.used.run
  for (let i = 0; i < Math.min(requestsLeft, requestsMax); i++) await expect(true, 'a request', send('free', 'run', promptBytes, 1, 'all'))
  if (requestsLeft <= requestsMax) await expect(false, 'a request too many', send('free', 'run', promptBytes, 1, 'all'))

  const tokensLeft = cell.ceilings.tokens - before.used.tokens
  const fitsTokens = tokensLeft >= inputBoundOf(promptBytes) + 1
  const outputTokens = Math.max(1, tokensLeft - inputBoundOf(promptBytes))
  if (fitsTokens) {
    await expect(false, 'one token too many', send('wide', 'rest', promptBytes, outputTokens + 1, 'all'))
    await expect(true, 'the last token', send('wide', 'rest', promptBytes, outputTokens, 'all'))
  }
  await expect(false, 'tokens beyond the last', send('wide', 'rest', promptBytes, fitsTokens ? 1 : outputTokens, 'all'))

  // A byte of the prompt costs one step, a token of output three.
  const stepsLeft = Math.floor((cell.ceilings.cost - before.used.cost) / 1_000)
  const dearTokens = Math.max(1, Math.floor((stepsLeft - inputBoundOf(promptBytes)) / 3))
  const dearBytes = stepsLeft - 3 * dearTokens - inputBoundOf(0)
  if (dearBytes >= promptBytes) {
    await expect(false, 'a step of cost too many', send('dear', 'rest', dearBytes + 1, dearTokens, 'all'))
    await expect(true, 'the last step of cost', send('dear', 'rest', dearBytes, dearTokens, 'all'))
  }
  await expect(false, 'cost beyond the last', send('dear', 'rest', promptBytes, 1, 'all'))

  const spent = model.spent(cell.name)
  const held = Array.from({ length: cell.ceilings.concurrency }, () => expect(true, 'a call at once', send('free', 'rest', promptBytes, 1, 'held')))
  await waitFor('all calls to be with the model', () => spent.held === cell.ceilings.concurrency, { deadlineMs: 20_000, everyMs: 10 }).catch((error: unknown) => {
    notes.push(`${String(error)}: ${spent.held} of ${cell.ceilings.concurrency}`)
  })
  await expect(false, 'a call too many at once', send('free', 'rest', promptBytes, 1, 'all'))
  model.release(cell.name)
  await Promise.all(held)
  return { results, wrongly, beyond, notes }
}
