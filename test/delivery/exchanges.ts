import { toUsageEvent, type UsageEvent } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Settle } from '../../src/metering/moves.ts'
import type { Store } from '../../src/stores/store.ts'
import { SeededRandom } from '../sim/seeded-random.ts'
import { eventBody, settleOf } from '../stores/sample-moves.ts'

export interface Many {
  readonly count: number
  readonly seed: number
  /** Of the last one's settlement; they began so long before. */
  readonly untilMs: number
  readonly spanMs: number
}

/** As many as receivers that take one request at a time for each need. */
export const accounts: readonly string[] = Array.from({ length: 200 }, (_, n) => `account-${n}`)
const models = ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet-4-5']
const together = 2_000

/** Settlements of exchanges; the same for the same seed. */
export function* settlements({ count, seed, untilMs, spanMs }: Many): Generator<Settle> {
  const random = new SeededRandom(seed, 'exchanges')
  for (let n = 0; n < count; n++) {
    const nowMs = untilMs - spanMs + Math.floor(((n + 1) / count) * spanMs)
    const account = random.pick(accounts)
    const model = random.pick(models)
    const input = random.int(1, 9_000)
    yield settleOf(exchangeId(nowMs - random.int(5, 900), random.bytes(10)), nowMs, account, [], [], {
      usage: { requests: 1, input_tokens: input }, event: { ...eventBody, account, model, model_served: model, settled_at: new Date(nowMs).toISOString() },
    })
  }
}

export function eventOf({ id, nowMs: atMs, usage, event: body }: Settle): UsageEvent {
  return toUsageEvent({ kind: 'usage', id, correction: 0, atMs, body, usage, booked: null, drawn: [], overruns: [] })
}

/** Settles all of them. */
export async function settleAll(store: Store, many: Many): Promise<void> {
  let wave: Promise<unknown>[] = []
  for (const move of settlements(many)) {
    wave.push(store.settle(move))
    if (wave.length < together) continue
    await Promise.all(wave)
    wave = []
  }
  await Promise.all(wave)
}
