import { extensionOf } from './grant.ts'
import type { AccountGrants, Grant } from './grant.ts'
import { encoded } from './limits/counter.ts'
import { kindOf } from './limits/index.ts'
import type { Limit } from './limits/limit.ts'
import { windowTag } from './limits/window.ts'
import { meterName } from './meter.ts'

/** Which limits grants may extend, and by which. */

/** Why grants cannot extend this limit, as the end of a sentence that begins with its name; null: they can. One grant has one counter, so the limit must have one too. */
export function whyNotExtended(limit: Limit): string | null {
  if (kindOf(limit.window).name !== 'allowance') return 'is no allowance; grants extend what counts a day, week, month, billing_period, term or lifetime'
  if (limit.per !== 'account') return `counts per ${limit.per === 'key' ? 'key' : 'end user'}; grants extend what counts per account`
  if (limit.each !== null) return 'counts each model by itself; grants extend what has one counter'
  return limit.ceiling === null ? 'is unlimited' : null
}

/** What of an account's calls a limit counts: two that have this in common share their counters. */
export function counterIdentity(limit: Limit): string {
  const globs = (list: readonly string[] | null): string => (list === null ? '*' : [...new Set(list.map(encoded))].sort().join(','))
  return `${limit.per}|${meterName(limit.meter)}|${globs(limit.forModels)}|${globs(limit.forEndpoints)}|${limit.each ?? ''}|${windowTag(limit.window)}`
}

/**
 * The grants of each limit that they extend. `own`: the account's limits, whose counters are meant: a key's limit of the same name is extended where it shares
 * them. Of two limits over the same counters only the first is, because a call draws from one.
 */
export function extensions(limits: readonly Limit[], own: readonly Limit[], { grants, extended }: AccountGrants): ReadonlyMap<Limit, readonly Grant[]> {
  const found = new Map<Limit, readonly Grant[]>()
  const identities = new Set<string>()
  for (const limit of limits) {
    const which = { limit: limit.name, meter: meterName(limit.meter) }
    if (!extended.has(extensionOf(which)) || whyNotExtended(limit) !== null) continue
    const identity = counterIdentity(limit)
    if (identities.has(identity) || !own.some((each) => each.name === limit.name && counterIdentity(each) === identity)) continue
    identities.add(identity)
    found.set(limit, grants.filter((grant) => grant.limit === which.limit && grant.meter === which.meter))
  }
  return found
}
