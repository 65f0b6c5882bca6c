import type { UsageEvent } from '../metering/event.ts'
import { noHistogram, slotOf } from './counts.ts'
import type { Counts } from './counts.ts'
import type { Increment } from './rollups.ts'

/** Names in a dimension are this long at most: a model's name is the caller's own text. */
const NAME_MAX = 128
const COST_DIGITS = 9

/** What an event adds to the roll-ups. A correction adds its differences and is no event of its own. */
export function incrementOf({ time, data }: UsageEvent): Increment {
  const corrects = data['corrects'] !== undefined
  const status = data['status']
  const cost = typeof data['cost'] === 'string' ? nanosOf(data['cost']) : 0n
  const counts: Counts = {
    events: corrects ? 0 : 1, requests: number(data['requests']),
    input_tokens: number(data['input_tokens']), cached_input_tokens: number(data['cached_input_tokens']), cache_write_tokens: number(data['cache_write_tokens']),
    output_tokens: number(data['output_tokens']), reasoning_tokens: number(data['reasoning_tokens']), total_tokens: number(data['total_tokens']),
    compute_ms: number(data['compute_ms']), bytes_in: number(data['bytes_in']), bytes_out: number(data['bytes_out']),
    audio_ms: Math.round(number(data['audio_seconds']) * 1_000), images: number(data['images']),
    cost_nanos: cost,
    latency: corrects ? noHistogram : one(data['compute_ms']), first_token: corrects ? noHistogram : one(data['time_to_first_token_ms']),
  }
  return {
    atMs: Date.parse(time), currency: cost === 0n ? '' : name(data['currency']), counts,
    dimensions: {
      account: name(data['account']), key: name(data['key']), plan: name(data['plan']), model: name(data['model']), endpoint: name(data['endpoint']),
      upstream: name(data['upstream']), end: name(data['end']), status: typeof status === 'number' ? String(status) : '',
    },
  }
}

function number(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}

/** Without control characters, which separate names where they are kept. */
export function name(value: unknown): string {
  return typeof value === 'string' ? value.replace(/[\0-\x1f\x7f]/g, '').slice(0, NAME_MAX).toWellFormed() : ''
}

function one(ms: unknown): Counts['latency'] {
  return typeof ms === 'number' && ms >= 0 ? new Map([[slotOf(ms), 1]]) : noHistogram
}

/** Of exact decimal text, as events have it. */
function nanosOf(text: string): bigint {
  const match = /^(-?)(\d{1,30})(?:\.(\d{1,9}))?$/.exec(text)
  if (match === null) return 0n
  const [, sign, whole = '0', fraction = ''] = match
  const nanos = BigInt(whole + fraction.padEnd(COST_DIGITS, '0'))
  return sign === '-' ? -nanos : nanos
}
