import { civilDayMs } from '../metering/calendar.ts'
import type { TermLength } from '../metering/calendar.ts'
import { shown } from './problem.ts'

/** Texts that people write, turned into values; a sentence when they cannot be. Pure: no YAML, no files. */
export type Answer<T> = { readonly value: T } | { readonly problem: string }

const suffixes: Readonly<Record<string, bigint>> = { k: 1_000n, M: 1_000_000n, G: 1_000_000_000n }
const largest = BigInt(Number.MAX_SAFE_INTEGER)

/** An exact decimal: `units / 10 ** decimals`. Never a float on the way. */
export interface Decimal { readonly units: bigint; readonly decimals: number }

const wantNumber = 'write it in digits, such as 20, 100_000, 100k or 2.5M'

/** `20`, `1.5`, `100_000`, `100k`, `2.5M`, `1G`; zero or more. */
export function decimalOf(text: string): Answer<Decimal> {
  const match = /^(\d+(?:_\d+)*)(?:\.(\d+))?([kMG]?)$/.exec(text)
  if (match === null) return { problem: whyNoNumber(text) }
  const whole = (match[1] ?? '').replaceAll('_', '')
  const fraction = match[2] ?? ''
  if (whole.length > 30 || fraction.length > 30) return { problem: `${shown(text)} is far too long for a number` }
  if (/^0\d/.test(whole)) return { problem: `${shown(text)} begins with a zero, which some read as octal; write it without` }
  return { value: { units: BigInt(whole + fraction) * (suffixes[match[3] ?? ''] ?? 1n), decimals: fraction.length } }
}

function whyNoNumber(text: string): string {
  if (text === '' || /^(~|null)$/i.test(text)) return `a number is missing; ${wantNumber}`
  if (/^-[\d.]/.test(text)) return `${text} is negative; it has to be 0 or more`
  if (/^[-+]?\.?(nan|inf|infinity)$/i.test(text)) return `${text} is not a number that can be counted to; ${wantNumber}`
  if (/^[\d_.]+e[-+]?\d+$/i.test(text)) return `${text} is in scientific notation; ${wantNumber}`
  const suffix = /^([\d_.]+)\s*(K|m|g|mn|bn|b|B|T|t)$/.exec(text)
  if (suffix !== null) return `${shown(text)} has no suffix that is known; they are k (thousand), M (million) and G (billion), and case matters`
  return `${shown(text)} is not a number; ${wantNumber}`
}

/** The decimal times `scale`, when that is an integer below 2⁵³. `what` is what one counts: "requests". */
export function scaled(decimal: Decimal, scale: bigint, text: string, tooFine: string): Answer<number> {
  const divisor = 10n ** BigInt(decimal.decimals)
  const product = decimal.units * scale
  if (product % divisor !== 0n) return { problem: tooFine }
  const value = product / divisor
  if (value > largest) return { problem: `${shown(text)} is more than can be counted exactly (2^53 - 1${scale === 1n ? '' : ` / ${scale}`}); for no limit at all write unlimited` }
  return { value: Number(value) }
}

/** A whole number from `min` to `max`. */
export function integerOf(text: string, min: number, max: number): Answer<number> {
  const decimal = decimalOf(text)
  if ('problem' in decimal) return decimal
  const value = scaled(decimal.value, 1n, text, `${shown(text)} is not a whole number`)
  if ('problem' in value) return value
  if (value.value < min || value.value > max) return { problem: `${text} is out of range; it has to be ${range(min, max)}` }
  return value
}

function range(min: number, max: number): string {
  return max === Number.MAX_SAFE_INTEGER ? `${min} or more` : `from ${min} to ${max}`
}

const durations: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const otherDurations: Readonly<Record<string, string>> = {
  sec: 's', secs: 's', second: 's', seconds: 's', min: 'm', mins: 'm', minute: 'm', minutes: 'm', hr: 'h', hrs: 'h', hour: 'h', hours: 'h',
  day: 'd', days: 'd', S: 's', H: 'h', D: 'd', msec: 'ms', MS: 'ms',
}

/** `500ms`, `30s`, `5m`, `1.5h`, `7d`, `0` → milliseconds. */
export function durationOf(text: string): Answer<number> {
  if (text === '0') return { value: 0 }
  const match = /^(\d{1,12})(?:\.(\d{1,3}))?(ms|s|m|h|d)$/.exec(text)
  if (match === null) {
    const near = /^([\d.]+)\s*([A-Za-z]+)$/.exec(text)
    const written = near?.[2] ?? ''
    const unit = Object.hasOwn(durations, written) ? written : Object.hasOwn(otherDurations, written) ? otherDurations[written] : undefined
    if (unit !== undefined) return { problem: `${shown(text)} is not a duration; did you mean "${near?.[1] ?? ''}${unit}"?` }
    if (/^[\d.]+$/.test(text)) return { problem: `${text} has no unit; did you mean "${text}s"?` }
    return { problem: `${shown(text)} is not a duration; write a number and one of ms, s, m, h, d, such as 30s` }
  }
  const value = Number(`${match[1]}.${match[2] ?? '0'}`) * (durations[match[3] ?? ''] ?? 1)
  if (!Number.isInteger(value)) return { problem: `${shown(text)} is finer than a millisecond` }
  if (!Number.isSafeInteger(value)) return { problem: `${shown(text)} is too long` }
  return { value }
}

const sizes: Readonly<Record<string, bigint>> = { B: 1n, KiB: 1_024n, MiB: 1_048_576n, GiB: 1_073_741_824n }

/** `512B`, `64KiB`, `10MiB`, `1.5GiB` → bytes. */
export function sizeOf(text: string): Answer<number> {
  const match = /^(\d{1,15})(?:\.(\d{1,6}))?(B|KiB|MiB|GiB)$/.exec(text)
  if (match === null) {
    const near = /^([\d.]+)\s*([kKmMgG])i?[bB]?$/.exec(text)
    if (near !== null) return { problem: `${shown(text)} is not a size; did you mean "${near[1]}${(near[2] ?? '').toUpperCase()}iB"?` }
    if (/^\d+$/.test(text)) return { problem: `${text} has no unit; did you mean "${text}B"?` }
    return { problem: `${shown(text)} is not a size; write a number and one of B, KiB, MiB, GiB, such as 10MiB` }
  }
  const fraction = match[2] ?? ''
  return scaled({ units: BigInt(`${match[1]}${fraction}`), decimals: fraction.length }, sizes[match[3] ?? ''] ?? 1n, text, `${shown(text)} is not a whole number of bytes`)
}

export interface HostPort { readonly host: string; readonly port: number }

/** `127.0.0.1:8080`, `[::1]:8080`, `:8080` (every address). */
export function addressOf(text: string): Answer<HostPort> {
  const match = /^(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})$/.exec(text)
  if (match === null) {
    if (/^\d{1,5}$/.test(text)) return { problem: `${shown(text)} names no address; did you mean "127.0.0.1:${text}", or ":${text}" for every address?` }
    return { problem: `${shown(text)} is not an address to listen on; write HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or :8080` }
  }
  const port = Number(match[3])
  if (port > 65_535) return { problem: `${match[3]} is not a port; ports go up to 65535` }
  const host = match[1] ?? match[2] ?? ''
  return { value: { host: host === '' ? '0.0.0.0' : host, port } }
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

/** `2026-01-15`, a day that exists. */
export function dateOf(text: string): Answer<string> {
  const match = /^(\d{4})-(\d{2})-(\d{2})$/.exec(text)
  if (match === null) return { problem: `${shown(text)} is not a date; write it as 2026-01-15` }
  const ms = Date.UTC(Number(match[1]), Number(match[2]) - 1, Number(match[3]))
  if (new Date(ms).toISOString().slice(0, 10) !== text) return { problem: `${text} is a day that does not exist` }
  return { value: text }
}

/** A date (its first instant in UTC) or an RFC 3339 instant → ms since 1970. */
export function instantOf(text: string): Answer<number> {
  const want = 'write a date such as 2027-01-15 (it ends as that day begins in UTC) or an instant such as 2027-01-15T10:00:00Z'
  const day = dateOf(text.slice(0, 10))
  if ('problem' in day) return { problem: /^\d+[a-z]+$/.test(text) ? `${shown(text)} is a duration, counted from when? ${want}` : `${shown(text)} is not an instant; ${want}` }
  if (text.length === 10) return { value: Date.parse(`${text}T00:00:00Z`) }
  const valid = /^.{10}T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,3})?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/.test(text)
  return valid ? { value: Date.parse(text) } : { problem: `${shown(text)} is not an instant; ${want}` }
}

/** A date (the first instant of that day in the zone) or an RFC 3339 instant → ms since 1970. */
export function momentOf(text: string, timeZone: string): Answer<number> {
  const want = 'write a day such as 2027-01-15 (from its first instant, by the time zone) or an instant such as 2027-01-15T10:00:00Z'
  const day = dateOf(text.slice(0, 10))
  if ('problem' in day) return { problem: text.length === 10 && /^\d{4}-\d{2}-\d{2}$/.test(text) ? day.problem : `${shown(text)} is neither a day nor an instant; ${want}` }
  if (text.length === 10) return { value: civilDayMs(timeZone, text) }
  const instant = instantOf(text)
  return 'problem' in instant ? { problem: `${shown(text)} is neither a day nor an instant; ${want}` } : instant
}

const termUnits: Readonly<Record<string, TermLength['unit']>> = { day: 'day', days: 'day', month: 'month', months: 'month', year: 'year', years: 'year' }
const weekDays = 7

/** `month`, `year`, `3 months`, `2 weeks`, `90 days`. */
export function termOf(text: string): Answer<TermLength> {
  const [, digits = '1', word = ''] = /^(?:(\d{1,4}) )?([a-z]+)$/.exec(text) ?? []
  const count = Number(digits)
  const weeks = word === 'week' || word === 'weeks'
  const unit = weeks ? 'day' : Object.hasOwn(termUnits, word) ? termUnits[word] : undefined
  if (unit === undefined) return { problem: `${shown(text)} is not a term; write month, year, or a number of days, weeks, months or years, such as 3 months` }
  if (count < 1 || count > 1_200) return { problem: `${shown(text)} is out of range; a term is 1 to 1200 ${weeks ? 'week' : unit}s long` }
  return { value: { unit, count: weeks ? count * weekDays : count } }
}

/** The other way: `month`, `3 months`. */
export function termText({ unit, count }: TermLength): string {
  return count === 1 ? unit : `${count} ${unit}s`
}

/** `10%`, `12.5%` → 10, 12.5. */
export function percentOf(text: string): Answer<number> {
  const match = /^(\d{1,4}(?:\.\d{1,2})?)%$/.exec(text)
  if (match === null || Number(match[1]) > 1_000) return { problem: `${shown(text)} is not a percentage up to 1000%, such as 10%` }
  return { value: Number(match[1]) }
}

/** `0.15/M`, `2/k`, `0.001` → picos (10⁻¹² of the currency, where it is counted with 9 digits) for one small unit of a meter whose unit has `meterScale` of them. */
export function priceOf(text: string, meterScale: number, moneyScale = 9): Answer<number> {
  const match = /^([^/]*)(?:\/([kM]))?$/.exec(text)
  if (match === null) return { problem: `${shown(text)} is not a price; write 0.15/M (for a million), 2/k (for a thousand) or 0.001 (for one)` }
  const decimal = decimalOf(match[1] ?? '')
  if ('problem' in decimal || /[kMG]$/.test(match[1] ?? '')) return { problem: `${shown(text)} is not a price; write 0.15/M (for a million), 2/k (for a thousand) or 0.001 (for one)` }
  const per = BigInt(meterScale) * (suffixes[match[2] ?? ''] ?? 1n)
  // The price of `per` small units, in picos; a price finer than one pico a unit would have to be rounded on every call.
  const picos = { units: decimal.value.units * 10n ** BigInt(moneyScale + 3), decimals: decimal.value.decimals }
  const divisor = 10n ** BigInt(picos.decimals) * per
  if (picos.units % divisor !== 0n) return { problem: `${shown(text)} is finer than 0.${'0'.repeat(moneyScale + 2)}1 for one counted unit` }
  const value = picos.units / divisor
  return value > largest ? { problem: `${shown(text)} is too much to count exactly` } : { value: Number(value) }
}

const zones = new Map<string, boolean>()

/** IANA names only. */
export function isTimeZone(name: string): boolean {
  let known = zones.get(name)
  if (known === undefined) {
    known = false
    if (/^[A-Za-z][A-Za-z0-9_+/-]*$/.test(name)) {
      try {
        known = new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== ''
      } catch (error) {
        if (!(error instanceof RangeError)) throw error
      }
    }
    if (zones.size < 1_000) zones.set(name, known)
  }
  return known
}
