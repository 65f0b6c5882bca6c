import { toInstant } from '../metering/event.ts'
import type { Invoice, InvoiceLine, InvoiceSection } from './invoice.ts'
import { moneyText, priceText, quantityText } from './money.ts'

/** An invoice as JSON: amounts and quantities are decimal texts, so that no reader rounds them. What does not apply to a line is left out. */
export interface InvoiceDocument {
  readonly account: string
  readonly period: { readonly start: string; readonly end: string; readonly timezone: string }
  readonly events: number
  readonly corrections: number
  readonly unpriced_events: number
  readonly currencies: readonly {
    readonly currency: string
    readonly usage: string
    readonly adjustments: string
    readonly total: string
    readonly lines: readonly LineDocument[]
  }[]
}

export interface LineDocument {
  readonly kind: InvoiceLine['kind']
  readonly plan?: string
  readonly price_version?: string
  readonly model?: string
  readonly price?: string
  readonly by?: string
  readonly quantity?: string
  readonly unit_price?: string
  readonly calls?: number
  readonly days?: number
  readonly of_days?: number
  readonly amount: string
}

export function invoiceDocument(invoice: Invoice): InvoiceDocument {
  return {
    account: invoice.account,
    period: { start: toInstant(invoice.startMs), end: toInstant(invoice.endMs), timezone: invoice.timeZone },
    events: invoice.events, corrections: invoice.corrections, unpriced_events: invoice.unpriced,
    currencies: invoice.sections.map((section) => ({
      currency: section.currency, usage: moneyText(section.usage, section.scale), adjustments: moneyText(section.adjustments, section.scale), total: moneyText(section.total, section.scale),
      lines: section.lines.map((line) => lineDocument(line, section)),
    })),
  }
}

function lineDocument(line: InvoiceLine, { scale }: InvoiceSection): LineDocument {
  const { kind, plan, version, model, price, by, quantity, picos, calls, days, amount } = line
  return {
    kind,
    ...(plan === null ? {} : { plan }), ...(version === null ? {} : { price_version: version }), ...(model === null ? {} : { model }), ...(price === null ? {} : { price }),
    ...(by === null ? {} : { by }), ...(quantity === null ? {} : { quantity: quantityText(quantity, price ?? '') }), ...(picos === null ? {} : { unit_price: priceText(picos, price ?? '', scale) }),
    ...(calls === null ? {} : { calls }), ...(days === null ? {} : { days: days[0], of_days: days[1] }),
    amount: moneyText(amount, scale),
  }
}

const words: { readonly [kind in InvoiceLine['kind']]: string } = {
  usage: '', rounding: 'calls rounded up', recorded: 'as recorded', included: 'included', prices: 'prices of the period', minimum: 'up to the minimum', credit: 'prepaid', fee: 'fee',
}

/** An invoice for people: a table for each currency. */
export function invoiceText({ account, period, currencies, events, corrections, unpriced_events: unpriced }: InvoiceDocument): string {
  const counted = [`${events} ${events === 1 ? 'call' : 'calls'}`, ...(corrections === 0 ? [] : [`${corrections} corrections`]), ...(unpriced === 0 ? [] : [`${unpriced} without a price`])]
  const head = [`Invoice preview of ${shown(account)}`, `${period.start} up to ${period.end} (${period.timezone}), ${counted.join(', ')}`]
  if (currencies.length === 0) return [...head, '', 'Nothing to pay.'].join('\n')
  const tables = currencies.map(({ currency, lines, usage, adjustments, total }) => {
    const rows = lines.map((line) => [
      line.plan ?? '', itemOf(line), line.price_version ?? '', line.quantity ?? (line.days === undefined ? '' : `${line.days}/${line.of_days} days`), line.unit_price ?? '', line.amount,
    ])
    return table([['plan', 'item', 'prices', 'quantity', 'each', currency], ...rows, ['', 'calls', '', '', '', usage], ['', 'adjustments', '', '', '', adjustments], ['', 'total', '', '', '', total]])
  })
  return [...head, ...tables.flatMap((each) => ['', each])].join('\n')
}

function itemOf({ kind, model, price, by }: LineDocument): string {
  const what = kind === 'fee' ? price ?? '' : [model, price].filter((part) => part !== undefined).join(' ')
  const why = kind === 'prices' ? by ?? '' : words[kind]
  return kind === 'fee' || why === '' ? what : what === '' ? why : `${what} (${why})`
}

/** Numbers stand at the right: the last three columns. */
function table(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map(shown))
  const widths = (cells[0] ?? []).map((_, column) => cells.reduce((widest, row) => Math.max(widest, row[column]?.length ?? 0), 0))
  return cells.map((row) => row.map((cell, column) => (column >= 3 ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0))).join('  ').trimEnd()).join('\n')
}

/** A name that came from outside must not move the cursor of a terminal. */
function shown(text: string): string {
  return text.replace(/\p{Cc}/gu, '?')
}
