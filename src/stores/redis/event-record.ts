import type { OutboxRecord } from '../../metering/event.ts'
import type { BuiltinMeter, Quantities } from '../../metering/meter.ts'
import type { Draw } from '../../metering/moves.ts'

/**
 * An event as it lies in a partition's stream: a list of names and texts, written by `finish.lua`.
 *
 * | field | holds |
 * | --- | --- |
 * | `v` | format, `1` |
 * | `i` | the exchange's id |
 * | `k` | `usage`, `expired`, `late` |
 * | `c` | which correction, 0 for none |
 * | `t` | instant of the move, ms |
 * | `b` | body, JSON |
 * | `u` | usage, such as `requests=1,total_tokens=100`, meters by name |
 * | `p` | what had been booked before, likewise; absent: nothing had |
 * | `d`, `o` | what was drawn and overrun, JSON arrays |
 */
const FORMAT = '1'

/** A stored event that cannot be read: damage, or a format that is newer than this release. */
export class EventUnreadable extends Error {
  override name = 'EventUnreadable'
}

export function toRecord(fields: readonly string[]): OutboxRecord {
  const values = new Map<string, string>()
  for (let i = 0; i + 1 < fields.length; i += 2) values.set(fields[i]!, fields[i + 1]!)
  const of = (name: string): string => {
    const value = values.get(name)
    if (value === undefined) throw new EventUnreadable(`an event has no field "${name}"`)
    return value
  }
  const format = of('v')
  if (format !== FORMAT) throw new EventUnreadable(`an event is of format ${format.slice(0, 20)}, which this release does not know`)
  const booked = values.get('p')
  const kind = of('k')
  if (kind !== 'usage' && kind !== 'expired' && kind !== 'late') throw new EventUnreadable('an event is of an unknown kind')
  return {
    kind, id: of('i'), correction: integer(of('c')), atMs: integer(of('t')), body: json(of('b')) as OutboxRecord['body'], usage: fromUsageText(of('u')),
    booked: booked === undefined ? null : fromUsageText(booked), drawn: json(of('d')) as readonly Draw[], overruns: json(of('o')) as readonly Draw[],
  }
}

/** The same the other way round. */
export function toFields(record: OutboxRecord): string[] {
  return [
    'v', FORMAT, 'i', record.id, 'k', record.kind, 'c', String(record.correction), 't', String(record.atMs), 'b', JSON.stringify(record.body), 'u', toUsageText(record.usage),
    ...(record.booked === null ? [] : ['p', toUsageText(record.booked)]), 'd', JSON.stringify(record.drawn), 'o', JSON.stringify(record.overruns),
  ]
}

/** Quantities in one text, the same for the same quantities. */
export function toUsageText(usage: Quantities): string {
  return (Object.keys(usage) as BuiltinMeter[]).filter((meter) => usage[meter] !== undefined).sort().map((meter) => `${meter}=${usage[meter]}`).join(',')
}

export function fromUsageText(text: string): Quantities {
  const usage: Quantities = {}
  if (text === '') return usage
  for (const part of text.split(',')) {
    const at = part.indexOf('=')
    if (at < 1) throw new EventUnreadable('an event has usage that is none')
    usage[part.slice(0, at) as BuiltinMeter] = integer(part.slice(at + 1))
  }
  return usage
}

function integer(text: string): number {
  const value = Number(text)
  if (text === '' || !Number.isSafeInteger(value)) throw new EventUnreadable('an event has a number that is none')
  return value
}

function json(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    throw new EventUnreadable('an event has a field that is not JSON')
  }
}
