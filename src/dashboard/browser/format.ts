/** How amounts, instants and names are written. Everything here is pure. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const fine = new Intl.NumberFormat('en', { maximumFractionDigits: 2 })
const finest = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 })
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 })
const instants = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' })
const days = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' })
const NONE = '–'

/** All digits: 1,234,567. */
export function exact(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  return Number.isInteger(value) ? whole.format(value) : Math.abs(value) < 1 ? finest.format(value) : fine.format(value)
}

/** As short as can be told apart: 1.23M. */
export function brief(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE
  return Math.abs(value) < 10_000 ? exact(value) : short.format(value)
}

const meterUnits: Readonly<Record<string, string>> = {
  requests: 'requests', concurrency: 'calls', seats: 'seats', images: 'images', compute_seconds: 's', audio_seconds: 's', bytes_in: 'bytes', bytes_out: 'bytes',
}

/** What an amount of a meter is counted in; '' for what has no word, such as a sum of money. */
export function unitOf(meter: string): string {
  return meterUnits[meter] ?? (meter.endsWith('_tokens') ? 'tokens' : '')
}

/** `3 requests`, `1 request`. */
export function amountWords(amount: number | null, meter: string): string {
  const unit = unitOf(meter)
  return `${exact(amount)} ${amount === 1 && unit.length > 1 ? unit.replace(/s$/, '') : unit}`.trim()
}

export function meterWords(meter: string): string {
  return meter === 'concurrency' ? 'calls' : meter.replaceAll('_', ' ')
}

/** `2.50 USD` of exact decimal text by currency; several currencies are not added up. */
export function money(amounts: Readonly<Record<string, string | number>> | null | undefined): string {
  const all = Object.entries(amounts ?? {}).filter(([, amount]) => Number(amount) !== 0)
  return all.length === 0 ? NONE : all.map(([currency, amount]) => sum(amount, currency)).join(' + ')
}

/** Of a sum that is less than a cent, as much as can be seen. */
export function sum(amount: string | number, currency: string): string {
  const value = Number(amount)
  const digits = value !== 0 && Math.abs(value) < 0.1 ? { maximumSignificantDigits: 3 } : { minimumFractionDigits: 2, maximumFractionDigits: 2 }
  // Of the text itself: a float has not all digits of a large sum.
  return `${new Intl.NumberFormat('en', digits).format(amount as `${number}`)} ${currency}`.trim()
}

export function instant(text: string | null | undefined): string {
  const at = text === null || text === undefined ? NaN : Date.parse(text)
  return Number.isNaN(at) ? NONE : instants.format(at)
}

/** To the minute, by the clock that periods go by. */
export function utc(text: string): string {
  return `${text.slice(0, 10)} ${text.slice(11, 16)} UTC`
}

export function day(text: string | null | undefined): string {
  const at = text === null || text === undefined ? NaN : Date.parse(text)
  return Number.isNaN(at) ? NONE : days.format(at)
}

const steps = [['d', 86_400_000], ['h', 3_600_000], ['min', 60_000], ['s', 1_000]] as const

/** The two largest units: `3 d 4 h`. */
export function length(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  let left = Math.round(ms / 1_000) * 1_000
  const parts: string[] = []
  for (const [unit, unitMs] of steps) {
    const count = Math.floor(left / unitMs)
    left -= count * unitMs
    if (count > 0) parts.push(`${count} ${unit}`)
    // A second unit says something only beside a small first one.
    if (parts.length === 2 || (parts.length === 1 && count >= 10)) break
  }
  return parts.join(' ')
}

/** `in 3 h`, `12 s ago`. */
export function fromNow(text: string | null | undefined, nowMs: number): string {
  const at = text === null || text === undefined ? NaN : Date.parse(text)
  if (Number.isNaN(at)) return NONE
  if (Math.abs(at - nowMs) < 1_000) return 'now'
  return at > nowMs ? `in ${length(at - nowMs)}` : `${length(nowMs - at)} ago`
}

const windows: Readonly<Record<string, string>> = {
  minute: 'per minute', hour: 'per hour', day: 'per day', week: 'per week', month: 'per month', billing_period: 'per billing period', term: 'per term', lifetime: 'ever', in_flight: 'at once',
}

export function windowWords(window: string | null | undefined): string {
  if (window === null || window === undefined) return 'at once'
  return windows[window] ?? `in ${window.replace(' (fixed)', '')}${window.endsWith('(fixed)') ? ' by the clock' : ''}`
}

const reasons: Readonly<Record<string, string>> = {
  rate_limited: 'Too many in a short time', capacity_reserved: 'Held by calls in flight', concurrency_limit: 'Too many at once', usage_limit_reached: 'Allowance used up',
  no_credit_available: 'Credit used up', request_too_large: 'Larger than the limit', feature_unavailable: 'Not in the plan', subscription_inactive: 'No active subscription',
  metering_unavailable: 'Store away', invalid_api_key: 'Unknown key', bad_request: 'Not understood', not_found: 'No such endpoint', method_not_allowed: 'Wrong method', draining: 'Gateway ending', internal: 'Gateway failed', too_many_bad_keys: 'Guessing keys', upstream_unavailable: 'Upstream failed', upstream_busy: 'Upstream busy', upstream_timeout: 'Upstream too slow',
}

/** A reason as people say it; those that are not known stay as they are. */
export function reasonWords(reason: string): string {
  return reasons[reason] ?? reason.replaceAll('_', ' ')
}

/** Calls with these reasons failed behind the gateway; nobody refused them. */
export function failedUpstream(reason: string): boolean {
  return reason.startsWith('upstream_')
}

/** A name of others, in which nothing can turn the direction of the text around it, end its line or hide in it. */
export function plainName(name: string): string {
  return name.replace(/[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
