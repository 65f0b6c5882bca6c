import type { Balance } from '../metering/check.ts'
import type { Quantities } from '../metering/meter.ts'
import type { Outcome } from './answer.ts'
import { settlementOf } from './books.ts'
import { admitted, type Exchange } from './exchange.ts'
import type { Workings } from './parts.ts'
import { modelLabel } from './record.ts'

export interface Closed {
  /** False: what was used is neither in the books nor on disk yet; the settler goes on trying for as long as this process lives. */
  readonly durable: boolean
  /** The standing afterwards; null where it is not known. */
  readonly balances: readonly Balance[] | null
}

/** What ends in a terminal frame, ours included, ends only once it is billed; unless the plan serves whatever the store does. */
export function waitsForBooks(x: Exchange, outcome: Outcome): boolean {
  return (outcome.end === 'complete' || outcome.end === 'quota_stop') && x.entitlement?.policy.storeDown.kind === 'deny'
}

const nothingToBook: Closed = { durable: true, balances: null }

/** Makes the books true for one outcome. */
export async function closeBooks(x: Exchange, w: Workings, outcome: Outcome): Promise<Closed> {
  const { draft, skeleton } = x
  const { provider } = admitted(x).route
  x.end = outcome.end
  x.source = outcome.source
  x.status = outcome.status
  x.modelServed = outcome.modelServed
  for (const alarm of outcome.alarms) w.metrics.alarms.inc({ provider: provider.name, alarm })
  if (draft === null || skeleton === null) return nothingToBook
  const { principal } = admitted(x)
  const { home, grants } = principal
  const nowMs = w.clock.nowMs()
  const settlement = settlementOf(x, skeleton, outcome, w.keys.grantsNow?.(principal, nowMs) ?? grants, nowMs)
  // What is served unheld may be held all the same: only the answer was lost.
  const held = x.holding || x.unheld
  // From here on the settler answers for it.
  x.holding = false
  x.unheld = false
  w.lease.remove(x.living)
  if (settlement === null) {
    if (!held) return nothingToBook
    await w.settler.void({ id: x.id, nowMs, home })
    return { durable: true, balances: await standing(x, w) }
  }
  x.usage = settlement.usage
  w.metrics.settlements.inc({ end: outcome.end, usage_source: outcome.source })
  const model = modelLabel(x)
  for (const type of tokenTypes) {
    const tokens = settlement.usage[`${type}_tokens`]
    if (tokens !== undefined && tokens > 0) w.metrics.tokens.inc({ provider: provider.name, model, type }, tokens)
  }
  const why = whyFree(x, outcome, settlement.usage)
  if (why !== null) w.metrics.zeroCharges.inc({ provider: provider.name, why })
  // A spool takes it when the store does not: an answer that may end whatever the store does waits for that too.
  const answer = await w.settler.settle(settlement, waitsForBooks(x, outcome) || w.settler.hasSpool ? w.limits.endMs : w.limits.settleMs)
  if (answer === null) return { durable: false, balances: null }
  if (!('balances' in answer)) return nothingToBook
  if (answer.overruns.length > 0) {
    w.metrics.overruns.inc()
    w.log.warn({ id: x.id, overruns: answer.overruns }, 'more was used than any ceiling covers')
  }
  return { durable: true, balances: answer.balances }
}

const tokenTypes = ['input', 'cached_input', 'cache_write', 'output', 'reasoning'] as const

/** Why an answer that somebody got may be billed with too little; null: no reason to think so. */
function whyFree(x: Exchange, outcome: Outcome, usage: Quantities): 'zero' | 'estimated' | null {
  if (outcome.end !== 'complete' || outcome.verdict !== 'used' || x.route?.known !== true) return null
  if ((usage.input_tokens ?? 0) + (usage.output_tokens ?? 0) + (usage.images ?? 0) + (usage.audio_seconds ?? 0) === 0) return 'zero'
  return outcome.source === 'estimated' ? 'estimated' : null
}

/** After a void the caller is told where it stands without it; not worth an error if it cannot be read. */
async function standing(x: Exchange, w: Workings): Promise<readonly Balance[] | null> {
  if (x.draft === null || w.settler.waiting > 0) return null
  try {
    return await w.store.balances(admitted(x).principal.home, x.draft.checks)
  } catch {
    return null
  }
}
