import type { GatewayError } from '../errors.ts'
import { ownerOf, type Exchange } from './exchange.ts'
import type { GatewayParts } from './parts.ts'

/** Ends that are nobody's fault, or the caller's. */
const sound: readonly Exchange['end'][] = ['complete', 'client_gone', 'quota_stop', 'refused']
const NANO_DIGITS = 9

/** Whoever looks on is told of a refusal; once for each. */
export function tellRefused(x: Exchange, { metrics, onlooker }: Pick<GatewayParts, 'metrics' | 'onlooker'>, { code, details }: GatewayError, nowMs: number): void {
  metrics.refusals.inc({ reason: code })
  if (onlooker === undefined || isLook(x)) return
  const owner = ownerOf(x)
  onlooker.refused(code, owner === null ? null : {
    id: x.id, atMs: nowMs, account: owner.account, key: owner.key, limit: details.limit ?? null, reason: code, model: x.facts?.model ?? null,
    ceiling: details.ceiling ?? null, used: details.used ?? null, remaining: details.remaining ?? null, resetsAt: details.resets_at ?? null,
  })
}

/** Whoever looks on is told that a caller's exchange is over. */
export function tellEnded(x: Exchange, { onlooker }: Pick<GatewayParts, 'onlooker'>): void {
  if (onlooker === undefined || x.principal === null || isLook(x)) return
  const { total_tokens: tokens = 0, cost = 0 } = x.usage
  const scale = x.skeleton?.money_scale ?? NANO_DIGITS
  onlooker.ended({ failed: x.status >= 500 || !sound.includes(x.end), tokens, costNanos: scale === NANO_DIGITS ? cost : cost * 10 ** (NANO_DIGITS - scale), currency: x.skeleton?.currency ?? '' })
}

/** Whoever looks at what is left and what was used calls nothing, and is not counted in what is looked at. */
function isLook({ principal, owner, route }: Exchange): boolean {
  return (principal !== null || owner !== null) && route === null
}
