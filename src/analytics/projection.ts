import type { UsageEvent } from '../metering/event.ts'
import { slotOf } from './counts.ts'
import type { Increment } from './rollups.ts'

/** Names in a dimension are this long at most: a model's name is the caller's own text. */
const NAME_MAX = 128
const COST_DIGITS = 9

/** What an event adds to the roll-ups. A correction adds its differences and is no event of its own. */
export function incrementOf({ time, data }: UsageEvent): Increment {
  const corrects = data['corrects'] !== undefined
  const status = data['status']
  const shadow = data['shadow']
  const cost = data['cost']
  const isPriced = typeof cost === 'string'
  const costNanos = isPriced ? nanosOf(cost) : 0n
  return {
    atMs: Date.parse(time), currency: isPriced ? name(data['currency']) : '', costNanos,
    sums: [
      corrects ? 0 : 1, number(data['requests']), number(data['input_tokens']), number(data['cached_input_tokens']), number(data['cache_write_tokens']),
      number(data['output_tokens']), number(data['reasoning_tokens']), number(data['total_tokens']), number(data['compute_ms']),
      number(data['bytes_in']), number(data['bytes_out']), Math.round(number(data['audio_seconds']) * 1_000), number(data['images']),
      1, Array.isArray(shadow) && shadow.length > 0 ? 1 : 0,
    ],
    latencySlot: corrects ? null : slot(data['compute_ms']), firstTokenSlot: corrects ? null : slot(data['time_to_first_token_ms']),
    dimensions: {
      account: name(data['account']), key: name(data['key']), plan: name(data['plan']), model: name(data['model']), endpoint: name(data['endpoint']),
      upstream: name(data['upstream']), end: name(data['end']), status: typeof status === 'number' ? String(status) : '',
    },
  }
}

function number(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}

const plain = /^[ -~]{0,128}$/

/** Without control characters, which separate names where they are kept. */
export function name(value: unknown): string {
  if (typeof value !== 'string' || plain.test(value)) return typeof value === 'string' ? value : ''
  return value.replace(/[\0-\x1f\x7f]/g, '').slice(0, NAME_MAX).toWellFormed()
}

function slot(ms: unknown): number | null {
  return typeof ms === 'number' && ms >= 0 ? slotOf(ms) : null
}

/** Of exact decimal text, as events have it. */
function nanosOf(text: string): bigint {
  const match = /^(-?)(\d{1,30})(?:\.(\d{1,9}))?$/.exec(text)
  if (match === null) return 0n
  const [, sign, whole = '0', fraction = ''] = match
  const nanos = BigInt(whole + fraction.padEnd(COST_DIGITS, '0'))
  return sign === '-' ? -nanos : nanos
}
