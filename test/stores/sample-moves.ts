import type { Bucket, Check } from '../../src/metering/check.ts'
import type { EventBody, EventSkeleton } from '../../src/metering/event.ts'
import { exchangeId } from '../../src/metering/id.ts'
import type { Extend, Reserve, Settle } from '../../src/metering/moves.ts'
import { systemRandom } from '../../src/random.ts'

/** Moves as a gateway makes them, short enough to read in a test. */

export const FORGET_AFTER_MS = 2 * 3_600_000
export const LEASE_MS = 15_000

export const skeleton: EventSkeleton = {
  source: '/test', account: 'acme', key: 'k_1', plan: 'pro', plan_version: 1, labels: { team: 'blue' }, provider: 'openai', endpoint: 'chat',
  model: 'small', upstream: 'main', stream: false, caller: { request_id: null, user: null, session: null, tags: {} },
}

export const eventBody: EventBody = { ...skeleton, attempt: 1, status: 200, end: 'complete', usage_source: 'upstream', settled_at: '2030-01-01T00:00:00.000Z' }

export function newId(nowMs: number): string {
  return exchangeId(nowMs, systemRandom.bytes(10))
}

export interface CheckOptions {
  readonly perUnit?: number
  readonly clampable?: boolean
  readonly refuses?: boolean
  readonly buckets?: readonly Bucket[]
}

/** A check of one counter with one ceiling; null is unlimited. */
export function check(counter: string, ceiling: number | null, fixed: number, options: CheckOptions = {}): Check {
  return {
    slots: [counter], at: 0, span: 1, endsMs: null,
    ceilings: [{ limit: `limit of ${counter}`, refuses: options.refuses ?? true, visible: true, buckets: options.buckets ?? [{ name: 'limit', ceiling, counter: null }] }],
    fixed, perUnit: options.perUnit ?? 0, clampable: options.clampable ?? false,
  }
}

/** A sliding window: its current slot and the twelve before it. */
export function slidingCheck(counter: string, ceiling: number, fixed: number, nowMs: number, windowMs: number): Check {
  const slotMs = windowMs / 12
  const now = Math.floor(nowMs / slotMs)
  const slots = Array.from({ length: 13 }, (_, i) => `${counter} ${now - 12 + i}`)
  return { ...check(counter, ceiling, fixed), slots, at: 12, span: 13, endsMs: (now + 13) * slotMs }
}

export function reserveOf(id: string, nowMs: number, home: string, checks: readonly Check[], more: Partial<Reserve> = {}): Reserve {
  return { id, nowMs, home, checks, uMin: 0, uMax: 0, deadlineMs: nowMs + LEASE_MS, skeleton, ...more }
}

export function settleOf(id: string, nowMs: number, home: string, checks: readonly Check[], amounts: readonly number[], more: Partial<Settle> = {}): Settle {
  return { id, nowMs, home, checks, amounts, usage: { requests: 1, total_tokens: amounts[0] ?? 0 }, event: eventBody, ...more }
}

export function extendOf(id: string, nowMs: number, home: string, checkpoint: number, more: Partial<Extend> = {}): Extend {
  return { id, nowMs, home, checkpoint, deadlineMs: nowMs + LEASE_MS, counted: null, checks: null, ...more }
}
