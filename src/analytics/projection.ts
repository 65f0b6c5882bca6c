import { quantitiesOf, timeOfId, toUsageEvent } from '../metering/event.ts'
import type { OutboxRecord, UsageEvent } from '../metering/event.ts'
import { METERS } from '../metering/meter.ts'
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

/** The same as `incrementOf` of the record's event, which costs several times as much: this is done for every call. */
export function incrementOfRecord(record: OutboxRecord): Increment {
  const { id, correction, body } = record
  const quantities = quantitiesOf(record)
  const { cost } = quantities
  const scale = body.money_scale ?? COST_DIGITS
  if (cost !== undefined && (!Number.isSafeInteger(cost) || scale > COST_DIGITS || scale < 1)) return incrementOf(toUsageEvent(record))
  const ended = 'end' in body ? body : null
  const corrects = correction > 0
  const computeMs = quantities.compute_seconds
  return {
    atMs: timeOfId(id), currency: cost === undefined ? '' : name(body.currency), costNanos: cost === undefined ? 0n : BigInt(cost) * SCALES[scale]!,
    sums: [
      corrects ? 0 : 1, number(quantities.requests), number(quantities.input_tokens), number(quantities.cached_input_tokens), number(quantities.cache_write_tokens),
      number(quantities.output_tokens), number(quantities.reasoning_tokens), number(quantities.total_tokens), number(computeMs),
      number(quantities.bytes_in), number(quantities.bytes_out), Math.round(number(quantities.audio_seconds) * (1_000 / METERS.audio_seconds.scale)), number(quantities.images),
      1, ended?.shadow !== undefined && ended.shadow.length > 0 ? 1 : 0,
    ],
    latencySlot: corrects ? null : slot(computeMs), firstTokenSlot: corrects ? null : slot(ended?.time_to_first_token_ms),
    dimensions: {
      account: name(body.account), key: name(body.key), plan: name(body.plan), model: name(body.model), endpoint: name(body.endpoint),
      upstream: name(body.upstream), end: ended?.end ?? 'expired', status: ended === null ? '' : String(ended.status),
    },
  }
}

/** Scale → nanos of one unit. */
const SCALES = Array.from({ length: COST_DIGITS + 1 }, (_, scale) => 10n ** BigInt(COST_DIGITS - scale))

function number(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}

const plain = /^[ -~]{0,128}$/
/** What separates names, and whatever else is not seen. */
const CONTROL = /\p{Cc}/gu
/** In their place: a name that has it may stand for several. */
export const UNSEEN = '\ufffd'

/** Without control characters, which separate names where they are kept. */
export function name(value: unknown): string {
  if (typeof value !== 'string' || plain.test(value)) return typeof value === 'string' ? value : ''
  return value.replace(CONTROL, UNSEEN).slice(0, NAME_MAX).toWellFormed()
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
