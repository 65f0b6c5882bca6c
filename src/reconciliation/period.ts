/** A time, ms: `fromMs` is included, `untilMs` is not. */
export interface Period {
  readonly fromMs: number
  readonly untilMs: number
}

const instant = String.raw`\d{4}-\d{2}-\d{2}(?:T[\d:.]+Z)?`

/** `2026-11`, `2026-11-22`, or `FROM/UNTIL`, all in UTC and on whole minutes. Null: it is none. */
export function periodOf(text: string): Period | null {
  const month = /^(\d{4})-(\d{2})$/.exec(text)
  if (month !== null) return spanOf(`${text}-01`, (from) => from.setUTCMonth(from.getUTCMonth() + 1))
  if (/^\d{4}-\d{2}-\d{2}$/.test(text)) return spanOf(text, (from) => from.setUTCDate(from.getUTCDate() + 1))
  const [, from, until] = new RegExp(`^(${instant})/(${instant})$`).exec(text) ?? []
  return from === undefined || until === undefined ? null : spanOf(from, () => Date.parse(until))
}

function spanOf(from: string, until: (from: Date) => number): Period | null {
  const fromMs = Date.parse(from)
  if (Number.isNaN(fromMs)) return null
  const untilMs = until(new Date(fromMs))
  // A day that its month does not have is read as one of the next.
  if (new Date(fromMs).toISOString().slice(0, 10) !== from.slice(0, 10)) return null
  return untilMs > fromMs && fromMs % 60_000 === 0 && untilMs % 60_000 === 0 ? { fromMs, untilMs } : null
}
