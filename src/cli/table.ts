import { harmlessText } from '../acting-characters.ts'

/** A column: its title, and the text of a row's cell. Numbers stand at the right. */
export interface Column<Row> {
  readonly title: string
  cell(row: Row): string | number | null
}

/** Rows under titles, aligned, two spaces between. Without rows: `empty`. */
export function toTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[], empty: string): string {
  if (rows.length === 0) return empty
  const cells = rows.map((row) => columns.map((column) => column.cell(row)))
  const widths = columns.map((column, index) => cells.reduce((widest, row) => Math.max(widest, toCell(row[index]).length), column.title.length))
  const right = columns.map((_column, index) => cells.some((row) => typeof row[index] === 'number'))
  const line = (texts: readonly string[]): string =>
    texts.map((text, index) => (right[index] === true ? text.padStart(widths[index] ?? 0) : text.padEnd(widths[index] ?? 0))).join('  ').trimEnd()
  return [line(columns.map((column) => column.title)), ...cells.map((row) => line(row.map(toCell)))].join('\n')
}

function toCell(value: string | number | null | undefined): string {
  if (value === null || value === undefined || value === '') return '-'
  if (typeof value === 'number') return value.toLocaleString('en-US', { maximumFractionDigits: 3 })
  // A name that came from outside must not move the cursor of a terminal, nor turn the line around.
  return harmlessText(value)
}
