import { readFileSync } from 'node:fs'

/** One line of a text table: what stands left of `->` and right of it, each cut at `|`. */
export interface Row {
  readonly line: number
  readonly text: string
  readonly left: readonly string[]
  readonly right: readonly string[]
}

/** Reads a table beside this file. Empty lines and those that start with `#` are for people. */
export function readTable(name: string): Row[] {
  const rows: Row[] = []
  readFileSync(new URL(name, import.meta.url), 'utf8').split('\n').forEach((raw, index) => {
    const text = raw.replace(/\s+#.*$/, '').trim()
    if (text === '' || text.startsWith('#')) return
    const [left = '', right = ''] = text.split('->')
    rows.push({ line: index + 1, text, left: cells(left), right: cells(right) })
  })
  return rows
}

function cells(part: string): string[] {
  const trimmed = part.trim()
  return trimmed === '' ? [] : trimmed.split('|').map((cell) => cell.trim())
}

/** A number as tables write it: 40k, 2M, `-` for none. */
export function amount(text: string): number | null {
  if (text === '-') return null
  const match = /^(\d+(?:\.\d+)?)([kM]?)(\$?)$/.exec(text)
  if (match === null) throw new Error(`not an amount: ${text}`)
  const factor = match[2] === 'k' ? 1_000 : match[2] === 'M' ? 1_000_000 : 1
  return Math.round(Number(match[1]) * factor * (match[3] === '$' ? 1_000_000_000 : 1))
}
