/**
 * RFC 4180. `numbers`: columns of decimal texts. A spreadsheet takes a text that begins with one of = + - @ | for a formula and runs it, and names come from outside: such a text gets an
 * apostrophe before it. NUL is left out: what reads the file in C would end there.
 */
export function toCsv(columns: readonly string[], rows: readonly (readonly (string | null)[])[], numbers: ReadonlySet<string>): string {
  const isNumber = columns.map((column) => numbers.has(column))
  const line = (texts: readonly string[]): string => `${texts.join(',')}\r\n`
  return [line(columns.map(quoted)), ...rows.map((row) => line(columns.map((_column, index) => field(row[index] ?? null, isNumber[index] === true))))].join('')
}

function field(text: string | null, number: boolean): string {
  if (text === null) return ''
  if (number && /^-?\d+(\.\d+)?$/.test(text)) return text
  const shown = text.replaceAll('\0', '')
  return quoted(/^\s*[=+\-@|\uff1d\uff0b\uff0d\uff20\uff5c]|^[\t\r\n]/.test(shown) ? `'${shown}` : shown)
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
