import type { UsageEvent } from '../metering/event.ts'
import type { StandingOf } from '../metering/entitlement.ts'

/** Offsets of time zones are multiples of it: no period of days begins within. */
const stretchMs = 15 * 60_000

/** What settled events were counted against, however many there were. */
export interface Touched {
  readonly key: string
  readonly account: string
  /** Instants of admission, ms since 1970: the first and the last of every quarter of an hour, so that no period is left out. */
  readonly instants: readonly number[]
  /** The end users and models of its calls. */
  readonly of: readonly StandingOf[]
}

interface Collected {
  readonly account: string
  readonly stretches: Map<number, { first: number; last: number }>
  readonly of: Map<string, StandingOf>
}

/** One for each key of a batch. */
export function touchedBy(events: readonly UsageEvent[]): readonly Touched[] {
  const keys = new Map<string, Collected>()
  for (const { data, time } of events) {
    const { key, account, model, caller } = data
    if (typeof key !== 'string' || typeof account !== 'string') continue
    const atMs = Date.parse(time)
    let touched = keys.get(key)
    if (touched === undefined) keys.set(key, touched = { account, stretches: new Map(), of: new Map() })
    const stretch = touched.stretches.get(Math.floor(atMs / stretchMs))
    if (stretch === undefined) touched.stretches.set(Math.floor(atMs / stretchMs), { first: atMs, last: atMs })
    else {
      stretch.first = Math.min(stretch.first, atMs)
      stretch.last = Math.max(stretch.last, atMs)
    }
    const endUser = typeof caller === 'object' && caller !== null && 'end_user' in caller && typeof caller.end_user === 'string' ? caller.end_user : null
    const of: StandingOf = { model: typeof model === 'string' ? model : null, endUser }
    if (of.model !== null || of.endUser !== null) touched.of.set(JSON.stringify([of.model, of.endUser]), of)
  }
  return [...keys].map(([key, { account, stretches, of }]) => ({
    key, account, instants: [...new Set([...stretches.values()].flatMap(({ first, last }) => [first, last]))], of: [...of.values()],
  }))
}
