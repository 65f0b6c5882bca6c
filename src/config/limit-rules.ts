import { whyNotExtended } from '../metering/extension.ts'
import type { CalendarUnit, Limit, Overdraft, Rollover, Window } from '../metering/limits/limit.ts'
import { METERS, meterName, meterScale, meterUnit } from '../metering/meter.ts'
import type { BuiltinMeter, Meter, WeightedMeter } from '../metering/meter.ts'
import type { Report } from './problem.ts'
import { pathOf } from './problem.ts'
import type { Answer } from './scalars.ts'
import { decimalOf, durationOf, percentOf, scaled, sizeOf } from './scalars.ts'
import type { RawLimit } from './schema.ts'
import { quote, refuseQuoted } from './shape.ts'
import type { ScalarNode } from './yaml.ts'

export interface KnownMeters {
  readonly weighted: ReadonlyMap<string, WeightedMeter>
  /** All names, broken ones too. */
  readonly names: ReadonlySet<string>
  /** In how many digits after the point money is counted; 9 unless the currency is a small one. */
  readonly moneyScale?: number
}

const sumMax = Number.MAX_SAFE_INTEGER
const windowMinMs = 1_000
/** Of seats, unless it is said. */
const lingerMs = 600_000
const hourMs = 3_600_000
const windowMaxMs = 400 * 86_400_000

/** The limits of one plan, account or key: each by itself, their names, and their sums. Broken ones are left out; the report has said why. */
export function limitsOf(raws: readonly RawLimit[], meters: KnownMeters, report: Report): readonly Limit[] {
  const limits: Limit[] = []
  const names = new Set<string>()
  const sums = new Map<string, number>()
  for (const raw of raws) {
    if (names.has(raw.name)) report.problem(raw.node, raw.trail, `there are two limits named ${raw.name} here; the second would hide the first`)
    names.add(raw.name)
    const limit = limitOf(raw, meters, report)
    if (limit === undefined) continue
    limits.push(limit)
    const meter = meterName(limit.meter)
    const sum = (sums.get(meter) ?? 0) + (limit.ceiling ?? 0) + overdraftAmount(limit)
    sums.set(meter, sum)
    if (sum > sumMax) report.problem(raw.node, raw.trail, `the limits on ${meter} add up to more than can be counted exactly (2^53 - 1)`)
  }
  return limits
}

/** What an overdraft adds to a ceiling; an unlimited one nothing that could be summed. */
export function overdraftAmount(limit: Limit): number {
  if (limit.overdraft.kind === 'absolute') return limit.overdraft.amount
  return limit.overdraft.kind === 'percentage' ? Math.floor((limit.ceiling ?? 0) / 100 * limit.overdraft.percent) : 0
}

function limitOf(raw: RawLimit, meters: KnownMeters, report: Report): Limit | undefined {
  const before = report.problems.length
  const wrong = (field: string, sentence: string): void => report.problem(raw.node.entries.get(field)?.value ?? raw.node, pathOf(raw.trail, field), sentence)

  const meter = meterOf(raw.meter.text, meters)
  if (meter === undefined) {
    // A meter that is defined and broken has been reported where it is defined.
    if (!meters.names.has(raw.meter.text)) wrong('meter', `there is no meter ${quote(raw.meter)}${report.suggestion(raw.meter.text, meters.names)}`)
    return undefined
  }
  const seated = meterName(meter) === 'seats'
  const concurrent = seated || meterName(meter) === 'concurrency'
  const bySubscription = seated && raw.limit.text === 'subscription'
  const ceiling = bySubscription ? { value: 0 } : ceilingOf(raw.limit, meter)
  if ('problem' in ceiling) wrong('limit', ceiling.problem)
  const window = windowOf(raw, concurrent ? meterName(meter) : null, report)
  if ('problem' in window) wrong('window', window.problem)
  if (raw.kind !== null && 'value' in window && window.value.kind !== 'sliding' && window.value.kind !== 'fixed') {
    wrong('kind', concurrent ? `${meterName(meter)} has no window, so no kind of one` : 'is for windows that are durations; a named window is aligned to the calendar already')
  }
  const overdraft = overdraftOf(raw.overdraft, meter)
  if ('problem' in overdraft) wrong('overdraft', overdraft.problem)
  else if (overdraft.value.kind !== 'none' && concurrent) wrong('overdraft', `${meterName(meter)} has no overdraft; raise the limit instead`)
  else if (overdraft.value.kind !== 'none' && 'value' in ceiling && ceiling.value === null) wrong('overdraft', 'the limit is unlimited, so nothing can be over it')
  for (const field of ['holder', 'linger'] as const) if (!seated && raw[field] !== null) wrong(field, 'is for seats, which are held by somebody; write meter: seats')
  if (seated && raw.per === 'end_user') wrong('per', 'says whose seats they are, and an end user would have them to himself; write holder: end_user')
  const rollover = rolloverOf(raw, meter)
  if ('problem' in rollover) report.problem(raw.rollover?.node.entries.get('max')?.value ?? raw.node, pathOf(pathOf(raw.trail, 'rollover'), 'max'), rollover.problem)
  if (raw.for !== null && raw.for.models === null && raw.for.endpoints === null) wrong('for', 'has to name models or endpoints; leave it out to mean every call')
  if (report.problems.length > before || 'problem' in ceiling || 'problem' in window || 'problem' in overdraft || 'problem' in rollover) return undefined
  const limit: Limit = {
    name: raw.name, meter, ceiling: ceiling.value, window: window.value, per: raw.per, forModels: raw.for?.models ?? null, forEndpoints: raw.for?.endpoints ?? null,
    each: raw.each, mode: raw.mode, visible: raw.visible ?? meterName(meter) !== 'cost', overdraft: overdraft.value,
    ...(bySubscription ? { bySubscription } : {}), ...(raw.prepaid ? { prepaid: true } : {}), ...(raw.notify === null ? {} : { notify: raw.notify }), ...(rollover.value === null ? {} : { rollover: rollover.value }),
  }
  const untold = raw.notify === null || raw.notify.length === 0 ? null : whyNotTold(limit)
  if (untold !== null) wrong('notify', untold)
  const why = whyNotExtended(limit)
  if (why !== null && raw.prepaid) wrong('prepaid', `${limit.name} ${why}`)
  if (why !== null && rollover.value !== null) wrong('rollover', `what is left goes on as a grant, and ${limit.name} ${why}`)
  else if (rollover.value !== null && limit.window.kind === 'lifetime') wrong('rollover', 'a lifetime has no end that anything could be left at')
  if (report.problems.length > before) return undefined
  if ((limit.ceiling ?? 0) + overdraftAmount(limit) <= sumMax) return limit
  wrong('overdraft', 'limit and overdraft together are more than can be counted exactly (2^53 - 1)')
  return undefined
}

/** Why nobody can be told how much of it is used; null: it can be done. */
function whyNotTold({ ceiling, window }: Limit): string | null {
  if (window.kind === 'in_flight') return 'concurrency is never used up for good, so there is nothing to tell; leave it out'
  if (ceiling === null) return 'the limit is unlimited, so there is nothing to be a percentage of'
  const ms = window.kind === 'sliding' || window.kind === 'fixed' ? window.ms : window.kind === 'calendar' && window.unit === 'minute' ? 60_000 : hourMs
  return ms < hourMs ? 'is for windows of an hour or longer: what a shorter one says is over when it is read' : null
}

function rolloverOf({ rollover }: RawLimit, meter: Meter): Answer<Rollover | null> {
  if (rollover === null) return { value: null }
  const { max, expires } = rollover
  const lasts: Rollover['lasts'] = expires === null ? { kind: 'periods', count: 1 } : expires === 'never' ? null : expires
  if (max.text.endsWith('%')) {
    const percent = percentOf(max.text)
    if ('problem' in percent) return hideSubstituted(max, percent)
    return percent.value > 0 && percent.value <= 100 ? { value: { max: { kind: 'percentage', percent: percent.value }, lasts } } : { problem: 'has to be more than nothing and no more than 100%; for none leave rollover out' }
  }
  const amount = amountOf(max, meter)
  if ('problem' in amount) return { problem: `${amount.problem}; or write a percentage of the limit such as 50%` }
  return amount.value > 0 ? { value: { max: { kind: 'absolute', amount: amount.value }, lasts } } : { problem: 'nothing would roll over; leave rollover out' }
}

function meterOf(name: string, meters: KnownMeters): Meter | undefined {
  if (name === 'cost' && meters.moneyScale !== undefined && meters.moneyScale !== 9) return { kind: 'builtin', name, scale: 10 ** meters.moneyScale }
  if (Object.hasOwn(METERS, name)) return { kind: 'builtin', name: name as BuiltinMeter }
  const weighted = meters.weighted.get(name)
  return weighted === undefined ? undefined : { kind: 'weighted', weighted }
}

function ceilingOf(node: ScalarNode, meter: Meter): Answer<number | null> {
  if (node.text === 'unlimited') return { value: null }
  if (node.text === 'subscription') return { problem: 'a subscription has seats and nothing else; write a number, or meter: seats' }
  if (/^unli|^(none|inf|infinite|infinity|no)$/i.test(node.text)) return { problem: `${quote(node)} is not a number; for no limit at all write unlimited` }
  return amountOf(node, meter)
}

/** An amount in the meter's small units: seconds may be written as a duration, bytes as a size. */
export function amountOf(node: ScalarNode, meter: Meter): Answer<number> {
  const refused = refuseQuoted(node)
  if (refused !== undefined) return refused
  const text = node.text
  const unit = meterUnit(meter)
  if (meter.kind === 'builtin' && unit === 'seconds' && /\d(ms|s|m|h|d)$/.test(text)) return hideSubstituted(node, durationOf(text))
  if (meter.kind === 'builtin' && unit === 'content-bytes' && text.endsWith('B')) return hideSubstituted(node, sizeOf(text))
  const decimal = decimalOf(text)
  if ('problem' in decimal) return hideSubstituted(node, decimal)
  const scale = meterScale(meter)
  return hideSubstituted(node, scaled(decimal.value, BigInt(scale), text, scale === 1 ? `${text} is not a whole number; ${meterName(meter)} are counted in whole ones` : `${text} is finer than 1/${scale}, the least that ${meterName(meter)} is counted in`))
}

function hideSubstituted<T>(node: ScalarNode, answer: Answer<T>): Answer<T> {
  return 'problem' in answer && node.substituted ? { problem: 'what is substituted here has to be an amount such as 20, 100k or 2.5M, and is not' } : answer
}

const windowNames = ['minute', 'hour', 'day', 'week', 'month', 'billing_period', 'term', 'lifetime'] as const
const calendarUnits: readonly CalendarUnit[] = ['minute', 'hour', 'day', 'week', 'month']
const otherWindows: Readonly<Record<string, string>> = {
  minutely: 'minute', hourly: 'hour', daily: 'day', weekly: 'week', monthly: 'month', days: 'day', hours: 'hour', minutes: 'minute', weeks: 'week', months: 'month',
  billing: 'billing_period', period: 'billing_period', billing_cycle: 'billing_period', 'billing-period': 'billing_period', renewal: 'term', subscription: 'term', forever: 'lifetime', total: 'lifetime', ever: 'lifetime', year: '365d',
}

function windowOf(raw: RawLimit, concurrent: string | null, report: Report): Answer<Window> {
  const node = raw.window
  if (concurrent !== null) {
    if (node !== null) return { problem: `${concurrent} has no window: it is what is in flight; leave it out` }
    return { value: concurrent === 'seats' ? { kind: 'in_flight', seats: { holder: raw.holder ?? 'key', lingerMs: raw.linger ?? lingerMs } } : { kind: 'in_flight' } }
  }
  if (node === null) return { problem: 'is missing; write a duration such as 1m, or one of minute, hour, day, week, month, billing_period, term, lifetime' }
  const unit = calendarUnits.find((candidate) => candidate === node.text)
  if (unit !== undefined) return { value: { kind: 'calendar', unit } }
  if (node.text === 'billing_period' || node.text === 'term' || node.text === 'lifetime') return { value: { kind: node.text } }
  if (!/^\d/.test(node.text)) {
    const other = node.text.toLowerCase()
    const near = report.suggestion(node.text, windowNames)
    const meant = Object.hasOwn(otherWindows, other) ? `; did you mean "${otherWindows[other]}"?` : near.startsWith('; did you mean') ? near : ''
    return { problem: `${quote(node)} is not a window; write a duration such as 1m, or one of minute, hour, day, week, month, billing_period, term, lifetime${meant}` }
  }
  const ms = durationOf(node.text)
  if ('problem' in ms) return hideSubstituted(node, ms)
  if (ms.value < windowMinMs || ms.value > windowMaxMs) return { problem: `${node.text} is out of range; a window is 1s at least and 400d at most` }
  return { value: { kind: raw.kind ?? 'sliding', ms: ms.value } }
}

function overdraftOf(node: ScalarNode | null, meter: Meter): Answer<Overdraft> {
  if (node === null || node.text === 'none') return { value: { kind: 'none' } }
  if (node.text === 'unlimited') return { value: { kind: 'unlimited' } }
  if (node.text.endsWith('%')) {
    const percent = percentOf(node.text)
    return 'problem' in percent ? hideSubstituted(node, percent) : { value: percent.value === 0 ? { kind: 'none' } : { kind: 'percentage', percent: percent.value } }
  }
  const amount = amountOf(node, meter)
  if ('problem' in amount) return { problem: `${amount.problem}; an overdraft is none, unlimited, a percentage such as 10%, or an amount` }
  return { value: amount.value === 0 ? { kind: 'none' } : { kind: 'absolute', amount: amount.value } }
}
