import { withoutZeros } from '../metering/price.ts'
import { hash } from 'node:crypto'
import type { SinkMapping } from '../config/config.ts'
import type { UsageEvent } from '../metering/event.ts'
import { matchesAny } from '../metering/glob.ts'
import { METERS, type BuiltinMeter } from '../metering/meter.ts'
import { eventRecord, type MeterRecord, type MeterRule, type SinkKind, type SinkRecord } from './sink.ts'

/** What of a kind decides what its sinks are told. */
export type Telling = Pick<SinkKind, 'type' | 'takes' | 'contract' | 'customerDefault'>

export interface Mapped {
  /** What there is to tell; nothing where the event is none of the sink's business, or used nothing that it is told. */
  readonly records: readonly SinkRecord[]
  /** What cannot be told, by the name of its rule ('' where none of it can be), and why: the event is buried for it. */
  readonly refused: readonly { readonly rule: string; readonly reason: string }[]
  /** Left out because nobody said who its account is there. */
  readonly unmapped: boolean
}

/** Stripe's; the shortest bound among receivers. */
const ID_MAX = 100
const nothing: Mapped = { records: [], refused: [], unmapped: false }
const nothingOfIt: Mapped = { records: [], refused: [], unmapped: true }

/** What a sink is told of an event: pure, so the same event gives the same records at every attempt. */
export function recordsOf(event: UsageEvent, kind: Telling, mapping: SinkMapping | null): Mapped {
  if (mapping === null) return { records: [eventRecord(event)], refused: [], unmapped: false }
  if (!passes(event, mapping.filter)) return nothing
  if (mapping.meters === null) return { records: [eventRecord(event)], refused: [], unmapped: false }
  const amounts = amountsOf(event, kind, mapping)
  if (amounts.customer === null) {
    if (amounts.all.length === 0) return nothing
    return mapping.unmapped === 'skip' ? nothingOfIt : { records: [], refused: [{ rule: '', reason: 'its account has no customer there' }], unmapped: true }
  }
  const records: SinkRecord[] = []
  const timeMs = Date.parse(event.time)
  const account = String(event.data['account'])
  for (const { rule, units } of amounts.all) {
    const id = recordId(event.id, rule.name)
    records.push({
      is: 'meter', id, timeMs, code: rule.code, customer: amounts.customer, account, value: decimalText(units, rule.scale), valueProperty: rule.valueProperty,
      properties: propertiesOf(event, rule),
    })
  }
  return { records, refused: amounts.refused, unmapped: false }
}

/** A rule's amount of an event: in units of 1/scale, not zero. */
interface Amount {
  readonly rule: MeterRule
  readonly units: bigint
}

interface Amounts {
  /** null: nobody is named, and the account's own id is none there. */
  readonly customer: string | null
  readonly all: readonly Amount[]
  readonly refused: Mapped['refused']
}

function amountsOf(event: UsageEvent, kind: Telling, mapping: SinkMapping): Amounts {
  const all: Amount[] = []
  const refused: { rule: string; reason: string }[] = []
  for (const rule of mapping.meters ?? []) {
    const units = unitsOf(event, rule)
    if (units === 0n) continue
    if (units < 0n && kind.contract.corrections === 'none') refused.push({ rule: rule.name, reason: `${rule.code} is ${decimalText(units, rule.scale)}, and the receiver takes nothing back` })
    else all.push({ rule, units })
  }
  return { customer: customerOf(event, kind, mapping), all, refused }
}

function passes({ data }: UsageEvent, { accounts, plans, models }: SinkMapping['filter']): boolean {
  return (accounts === null || matchesAny(accounts, String(data['account']))) && (plans === null || matchesAny(plans, String(data['plan'])))
    && (models === null || (typeof data['model'] === 'string' && matchesAny(models, data['model'])))
}

function customerOf({ data }: UsageEvent, { type, customerDefault }: Telling, { customers }: SinkMapping): string | null {
  const account = String(data['account'])
  if (Object.hasOwn(customers, account)) return customers[account] ?? null
  const label = fieldOf(data['labels'], `${type}_customer`)
  if (typeof label === 'string' && label !== '') return label
  return customerDefault === 'none' ? null : account
}

const fraction = /^(-?)(\d+)(?:\.(\d+))?$/

/** What an event says of a meter, in the meter's small units; what was not measured is nothing. */
function smallUnits(data: UsageEvent['data'], meter: BuiltinMeter): bigint {
  if (meter === 'compute_seconds') return whole(data['compute_ms'])
  if (meter === 'audio_seconds') return typeof data['audio_seconds'] === 'number' ? whole(Math.round(data['audio_seconds'] * METERS.audio_seconds.scale)) : 0n
  if (meter !== 'cost') return whole(data[meter])
  const [, sign, units = '', decimals = ''] = fraction.exec(String(data['cost'] ?? '')) ?? []
  if (units === '') return 0n
  const nanos = BigInt(units) * 1_000_000_000n + BigInt(decimals.padEnd(9, '0').slice(0, 9))
  return sign === '-' ? -nanos : nanos
}

function whole(value: unknown): bigint {
  return typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : 0n
}

function unitsOf({ data }: UsageEvent, { terms }: MeterRule): bigint {
  let sum = 0n
  for (const { meter, coefficient } of terms) sum += BigInt(coefficient) * smallUnits(data, meter)
  return sum
}

/** Exact: `scale` divides a power of ten. */
export function decimalText(units: bigint, scale: number): string {
  if (scale === 1) return String(units)
  let digits = 0
  let power = 1n
  while (power % BigInt(scale) !== 0n && digits < 40) {
    power *= 10n
    digits += 1
  }
  const scaled = units * (power / BigInt(scale))
  const text = String(scaled < 0n ? -scaled : scaled).padStart(digits + 1, '0')
  return `${scaled < 0n ? '-' : ''}${withoutZeros(`${text.slice(0, text.length - digits)}.${text.slice(text.length - digits)}`)}`
}

function propertiesOf(event: UsageEvent, { copied, fixed }: MeterRule): Readonly<Record<string, string>> {
  const properties: Record<string, string> = {}
  for (const [name, field] of Object.entries(copied)) {
    const value = fieldAt(event, field)
    if (value !== undefined && value !== null && typeof value !== 'object') properties[name] = String(value)
  }
  return Object.assign(properties, fixed)
}

function fieldAt(event: UsageEvent, field: string): unknown {
  if (field === 'id' || field === 'time' || field === 'source') return event[field]
  if (field.startsWith('labels.')) return fieldOf(event.data['labels'], field.slice(7))
  if (field.startsWith('caller.tags.')) return fieldOf(fieldOf(event.data['caller'], 'tags'), field.slice(12))
  return field.startsWith('caller.') ? fieldOf(event.data['caller'], field.slice(7)) : fieldOf(event.data, field)
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined
}

/** `<start>:<name>`; where that is no id that every receiver takes, the name's SHA-256 stands in for it. */
export function recordId(start: string, name: string): string {
  const id = `${start}:${name}`
  return id.length <= ID_MAX && /^[!-~]+$/.test(id) ? id : `${start}:${hash('sha256', name).slice(0, 32)}`
}

/** The name of the rule that made a record of an event. */
export function ruleOf(record: SinkRecord, eventId: string, mapping: SinkMapping | null): string {
  return mapping?.meters?.find(({ name }) => recordId(eventId, name) === record.id)?.name ?? ''
}

/** Takes an event back: every quantity negative, with an id of its own that refers to it. */
export function creditOf(event: UsageEvent): UsageEvent {
  const data: Record<string, unknown> = { ...event.data, corrects: event.id }
  for (const name of quantities) {
    const value = data[name]
    if (typeof value === 'number') data[name] = value === 0 ? 0 : -value
  }
  const { cost } = data
  if (typeof cost === 'string' && /[1-9]/.test(cost)) data['cost'] = cost.startsWith('-') ? cost.slice(1) : `-${cost}`
  return { ...event, id: `${event.id}.credit`, data: { ...data, drawn: [] } }
}

const quantities = [...Object.keys(METERS).filter((meter) => meter !== 'cost' && meter !== 'compute_seconds'), 'compute_ms']

// --- Sums of a time ---

export interface Window {
  readonly size: 'minute' | 'hour'
  /** Makes the ids of this chunk different from those of every other. */
  readonly chunk: string
  /** What parts an account's time into billing periods: the same for instants of one period. */
  periodOf(account: string, atMs: number): string
}

const sizes = { minute: 60_000, hour: 3_600_000 }

/** The end of the window that an instant lies in. */
export function windowEnd(size: Window['size'], atMs: number): number {
  return (Math.floor(atMs / sizes[size]) + 1) * sizes[size]
}

/**
 * One record for all that a customer used of a meter in a window: split where the billing period, the plan or a property changes. A sum of nothing is left out.
 * `refused` of an event is told apart, as `recordsOf` does.
 */
export function rollUp(events: readonly UsageEvent[], kind: Telling, mapping: SinkMapping, window: Window): { readonly records: readonly MeterRecord[]; readonly mapped: readonly Mapped[] } {
  interface Group {
    readonly rule: MeterRule
    readonly customer: string
    readonly account: string
    readonly startMs: number
    readonly properties: Readonly<Record<string, string>>
    units: bigint
    timeMs: number
  }
  const groups = new Map<string, Group>()
  const mapped: Mapped[] = []
  for (const event of events) {
    if (!passes(event, mapping.filter)) {
      mapped.push(nothing)
      continue
    }
    // What is taken back is summed up with what was used: only a sum below zero is refused.
    const { customer, all } = amountsOf(event, { ...kind, contract: { ...kind.contract, corrections: 'negative' } }, mapping)
    if (customer === null || all.length === 0) {
      mapped.push(recordsOf(event, kind, mapping))
      continue
    }
    mapped.push(nothing)
    const timeMs = Date.parse(event.time)
    const account = String(event.data['account'])
    const startMs = windowEnd(window.size, timeMs) - sizes[window.size]
    for (const { rule, units } of all) {
      const properties = propertiesOf(event, rule)
      const key = JSON.stringify([rule.name, customer, account, startMs, window.periodOf(account, timeMs), event.data['plan'], event.data['plan_version'], properties])
      const group = groups.get(key)
      if (group === undefined) groups.set(key, { rule, customer, account, startMs, properties, units, timeMs })
      else {
        group.units += units
        group.timeMs = Math.min(group.timeMs, timeMs)
      }
    }
  }
  const records: MeterRecord[] = []
  for (const { rule, customer, account, startMs, properties, units, timeMs } of groups.values()) {
    if (units === 0n) continue
    const end = `${new Date(startMs).toISOString().slice(0, 16)}Z:${window.chunk}.${records.length}`
    const start = `${rule.code}:${customer}`
    const id = start.length + end.length < ID_MAX && /^[!-~]+$/.test(start) ? `${start}:${end}` : `${hash('sha256', start).slice(0, 32)}:${end}`
    records.push({ is: 'meter', id, timeMs, code: rule.code, customer, account, value: decimalText(units, rule.scale), valueProperty: rule.valueProperty, properties })
  }
  return { records, mapped }
}
