import type { Balance } from '../metering/check.ts'
import { quotaItems } from '../metering/quota.ts'
import type { Exchange } from './exchange.ts'
import { downstreamHeaders, quotaHeaders, remainingTrailer, remainingTrailerName } from './headers.ts'
import type { Workings } from './parts.ts'
import { headerOf } from './upstream-error.ts'

/**
 * The head of an answer that passes: the upstream's, without what is its own affair, with the caller's standing. `balances`: the settled standing; null: that
 * of the reservation. `length`: of a body that is known whole.
 */
export function answerHeaders(x: Exchange, w: Workings, upstream: readonly string[], balances: readonly Balance[] | null, length: number | null): string[] {
  const added = standingHeaders(x, w, balances)
  const provider = x.route?.provider
  if (provider !== undefined) added.push(provider.requestIdHeader, x.id)
  if (x.answer !== null && x.status >= 400) added.push('x-tallygate-error', 'upstream')
  const declared = headerOf(upstream, 'content-length')
  const edited = length === null ? (headerOf(upstream, 'content-type') ?? '').startsWith('text/event-stream') : declared !== undefined && Number(declared) !== length
  if (length !== null && (edited || declared === undefined)) added.push('content-length', String(length))
  return downstreamHeaders(upstream, edited, added)
}

/** What every metered answer carries, admitted or refused: quotas, and the output bound where it was lowered. */
export function standingHeaders(x: Exchange, w: Workings, balances: readonly Balance[] | null): string[] {
  const standing = balances ?? x.balances
  const nowMs = w.clock.nowMs()
  const headers = x.draft === null || standing === null ? [] : quotaHeaders(quotaItems(x.draft, standing, nowMs), x.route?.provider.quotaHeaders ?? 'none', nowMs)
  if (x.loweredBound !== null) headers.push('x-tallygate-output-bound', x.loweredBound)
  return headers
}

/** The settled state, after a stream whose head could only tell that of the reservation. */
export function trailerOf(x: Exchange, w: Workings, balances: readonly Balance[] | null): readonly string[] {
  if (x.draft === null || balances === null) return []
  const nowMs = w.clock.nowMs()
  const value = remainingTrailer(quotaItems(x.draft, balances, nowMs), nowMs)
  return value === '' ? [] : [remainingTrailerName, value]
}
