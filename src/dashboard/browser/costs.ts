/** Sums of money by currency: those of several are never added up. Everything here is pure. */

import { sum } from './format.ts'
import type { Column } from './table.ts'

/** Exact decimal text by currency. */
export type Costs = Readonly<Record<string, string>>

/** All there are, the one that most have something in first. */
export function currenciesOf(all: readonly Costs[]): readonly string[] {
  const counts = new Map<string, number>()
  for (const costs of all) for (const [currency, amount] of Object.entries(costs)) counts.set(currency, (counts.get(currency) ?? 0) + (Number(amount) === 0 ? 0 : 1))
  return [...counts].sort(([a, most], [b, more]) => more - most || (a < b ? -1 : 1)).map(([currency]) => currency)
}

/** A column for each currency, with bare amounts: by each can be sorted, and spreadsheets can add each up. */
export function costColumns<R>(rows: readonly R[], costsOf: (row: R) => Costs): readonly Column<R>[] {
  const currencies = currenciesOf(rows.map(costsOf))
  return (currencies.length === 0 ? [''] : currencies).map((currency) => {
    const value = (row: R): string | null => costsOf(row)[currency] ?? null
    const show = (row: R): string => {
      const amount = value(row)
      return amount === null ? '–' : sum(amount, '')
    }
    return { name: currency === '' ? 'cost' : `cost-${currency}`, title: currency === '' ? 'Cost' : `Cost (${currency})`, numeric: true, value, show }
  })
}
