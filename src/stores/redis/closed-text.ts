import type { ClosedRow, ExpiredReservation, ExpiredRow } from '../rows.ts'
import { fromUsageText, toUsageText } from './event-record.ts'

/** Reservations that hold nothing any more, as they lie in Redis (the list of lines is in moves.ts), and as rows. */

/** null: it is open, or not one of this release. */
export function toClosedRow(id: string, text: string): ClosedRow | ExpiredRow | null {
  if (text === '1V') return { t: 'closed', id, digest: '' }
  if (text.startsWith('1S\n') && text.length > 3) return { t: 'closed', id, digest: text.slice(3) }
  const f = text.split('\n')
  if (f[0] !== '1E' || f.length < 14 || f[8] === '-') return null
  const held = numbersOf(f[5]!)
  const lines = JSON.parse(f[12]!) as readonly StoredLine[]
  const reservation: ExpiredReservation = {
    home: f[1]!, u: Number(f[2]), corrections: Number(f[10]), skeleton: JSON.parse(f[13]!) as ExpiredReservation['skeleton'],
    booked: { amounts: numbersOf(f[8]!), usage: fromUsageText(f[9]!) },
    lines: lines.map(([slot, ends, buckets], i) => ({ slot, ends, held: held[i] ?? 0, buckets: buckets.map(([name, ceiling, counter]) => ({ name, ceiling, counter })) })),
  }
  return { t: 'expired', id, reservation }
}

export function toClosedText(row: ClosedRow | ExpiredRow): string {
  if (row.t === 'closed') return row.digest === '' ? '1V' : `1S\n${row.digest}`
  const { home, u, lines, booked, corrections, skeleton } = row.reservation
  const stored = lines.map(({ slot, ends, buckets }): StoredLine => [slot, ends, buckets.map(({ name, ceiling, counter }) => [name, ceiling, counter])])
  return [
    '1E', home, u, 0, 0, lines.map(({ held }) => held).join(','), '-', '', booked.amounts.join(','), toUsageText(booked.usage), corrections,
    JSON.stringify(lines.map(({ slot }) => slot)), JSON.stringify(stored), JSON.stringify(skeleton),
  ].join('\n')
}

type StoredLine = readonly [slot: string, ends: number | null, buckets: readonly (readonly [string, number | null, string | null])[]]

function numbersOf(text: string): number[] {
  return text === '' ? [] : text.split(',').map(Number)
}
