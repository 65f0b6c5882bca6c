import { isDecimal } from './order.ts'

/** A cell that a spreadsheet would take for a formula, also behind blanks and in full width. */
const formula = /^\s*[=+\-@|＝＋－＠｜]|^[\t\r\n]/

export type Cell = string | number | null

/** RFC 4180, with a byte order mark, by which spreadsheets know UTF-8. Texts cannot become formulas; NUL is left out. */
export function toCsv(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  return `\ufeff${[head, ...rows].map((cells) => cells.map(toCell).join(',')).join('\r\n')}\r\n`
}

function toCell(cell: Cell): string {
  if (cell === null) return ''
  if (typeof cell === 'number') return Number.isFinite(cell) ? String(cell) : ''
  const text = cell.replaceAll('\0', '')
  const safe = formula.test(text) && !isDecimal(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
