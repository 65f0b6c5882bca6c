/** The order of rows by a value. Everything here is pure. */

import type { Cell } from './csv.ts'

const decimal = /^-?\d+(\.\d+)?$/
const leading = /^-?\d+(\.\d+)?/

export function isDecimal(text: string): boolean {
  return decimal.test(text)
}

/** Exactly, whatever their size: a float would take neighbours for equals. */
export function compareDecimals(a: string, b: string): number {
  const places = Math.max(placesOf(a), placesOf(b))
  const [first, second] = [scaled(a, places), scaled(b, places)]
  return first < second ? -1 : first > second ? 1 : 0
}

function placesOf(text: string): number {
  return text.split('.')[1]?.length ?? 0
}

function scaled(text: string, places: number): bigint {
  const [whole = '', part = ''] = text.split('.')
  return BigInt(whole + part.padEnd(places, '0'))
}

export interface Order {
  readonly down: boolean
  /** Values are amounts; digits in what is none count as numbers, too. */
  readonly numeric: boolean
}

/** Up or down; what is unknown is last both ways, and words among amounts come before that. */
export function inOrder<R>(rows: readonly R[], valueOf: (row: R) => Cell, { down, numeric }: Order): R[] {
  const rank = (cell: Cell): number => (cell === null ? 2 : numeric && typeof cell === 'string' && !isDecimal(cell) ? 1 : 0)
  return rows.toSorted((a, b) => {
    const [first, second] = [valueOf(a), valueOf(b)]
    return rank(first) - rank(second) || (first === null || second === null ? 0 : compare(first, second, numeric) * (down ? -1 : 1))
  })
}

function compare(a: string | number, b: string | number, numeric: boolean): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b
  const [first, second] = [String(a), String(b)]
  // Words among amounts begin with one where they can: 0.25/M.
  const [amount, other] = numeric ? [leading.exec(first)?.[0], leading.exec(second)?.[0]] : []
  return (amount === undefined || other === undefined ? 0 : compareDecimals(amount, other)) || first.localeCompare(second, 'en', { numeric: true })
}
