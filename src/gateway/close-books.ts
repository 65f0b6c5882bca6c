import type { Balance } from '../metering/check.ts'
import type { Outcome } from './answer.ts'
import { settlementOf } from './books.ts'
import { admitted, type Exchange } from './exchange.ts'
import type { Workings } from './parts.ts'

/** Makes the books true for one outcome. Resolves with the standing after it, or null where that is not known (yet). */
export async function closeBooks(x: Exchange, w: Workings, outcome: Outcome): Promise<readonly Balance[] | null> {
  const { draft, skeleton } = x
  const { provider } = admitted(x).route
  x.end = outcome.end
  x.source = outcome.source
  x.status = outcome.status
  for (const alarm of outcome.alarms) w.metrics.alarms.inc({ provider: provider.name, alarm })
  if (draft === null || skeleton === null) return null
  const { home } = admitted(x).principal
  const nowMs = w.clock.nowMs()
  const settlement = settlementOf(x, skeleton, outcome, nowMs)
  // What is served unheld may be held all the same: only the answer was lost.
  const held = x.holding || x.unheld
  // From here on the settler answers for it.
  x.holding = false
  x.unheld = false
  w.lease.remove(x.living)
  if (settlement === null) {
    if (!held) return null
    await w.settler.void({ id: x.id, nowMs, home })
    return standing(x, w)
  }
  x.usage = settlement.usage
  w.metrics.settlements.inc({ end: outcome.end, usage_source: outcome.source })
  for (const type of ['input', 'cached_input', 'output', 'reasoning'] as const) {
    const tokens = settlement.usage[`${type}_tokens`]
    if (tokens !== undefined && tokens > 0) w.metrics.tokens.inc({ provider: provider.name, type }, tokens)
  }
  const answer = await w.settler.settle(settlement)
  if (answer === null || !('balances' in answer)) return null
  if (answer.overruns.length > 0) {
    w.metrics.overruns.inc()
    w.log.warn({ id: x.id, overruns: answer.overruns }, 'more was used than any ceiling covers')
  }
  return answer.balances
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
