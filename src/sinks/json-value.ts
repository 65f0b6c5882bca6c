/**
 * A decimal text as JSON carries it exactly: a number where no digit is lost, else the text itself, which receivers that take numbers read as well.
 */
export function jsonValue(decimal: string): number | string {
  const value = Number(decimal)
  return String(value) === decimal && (!Number.isInteger(value) || Number.isSafeInteger(value)) ? value : decimal
}
