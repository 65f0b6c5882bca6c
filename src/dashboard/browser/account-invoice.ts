import { setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { day, exact } from './format.ts'
import { useLoaded } from './loading.ts'
import { Choice, Name, Section } from './pieces.ts'
import type { Invoice, InvoiceLine } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

const PERIODS = [{ value: 'current', words: 'This period' }, { value: 'previous', words: 'Last period' }] as const
const kinds: Readonly<Record<string, string>> = {
  usage: '', rounding: 'calls rounded up', recorded: 'as recorded', included: 'included', prices: 'prices of the period', minimum: 'up to the minimum', credit: 'prepaid', fee: 'fee',
}

/** What the account would be billed if the period ended now. Amounts are the API's own decimal texts. */
export function AccountInvoice({ account }: { readonly account: string }): VNode {
  const { query } = useAddress()
  const period = PERIODS.find(({ value }) => value === query.get('period'))?.value ?? 'current'
  const loaded = useLoaded(`${account} ${period}`, (signal) => get<Invoice>(`/api/v1/invoices/${encodeURIComponent(account)}`, { period }, signal))
  return html`<${Section} title="Invoice preview" tools=${html`<${Choice} label="Period" options=${PERIODS} value=${period} choose=${(value: string) => setQuery({ period: value === 'current' ? '' : value })} /><button type="button" class="quiet" onClick=${loaded.reload}>Work out anew</button>`}>
    <${Waiting} of=${loaded}>${(invoice: Invoice) => html`
      <p class="muted">${day(invoice.period.start)} up to ${day(invoice.period.end)} (${invoice.period.timezone}), ${exact(invoice.events)} calls${invoice.unpriced_events > 0 ? `, ${exact(invoice.unpriced_events)} of them without a price` : ''}.
        ${invoice.known_since === null ? '' : ` Events before ${day(invoice.known_since)} are no longer kept.`}</p>
      ${invoice.currencies.length === 0 ? html`<${Empty} title="Nothing to pay.">The plan has no prices, or nothing was used.</${Empty}>` : invoice.currencies.map((section) => html`<div key=${section.currency}>
        <${Table} name=${`invoice-${section.currency}`} caption=${section.currency} rows=${section.lines} key_=${(row: InvoiceLine) => String(section.lines.indexOf(row))} empty="" fold=${12} columns=${[
          { name: 'plan', title: 'Plan', value: (row: InvoiceLine) => row.plan ?? null, show: (row: InvoiceLine) => html`<${Name} of=${row.plan} />` },
          { name: 'item', title: 'Item', value: itemOf, show: (row: InvoiceLine) => html`<${Name} of=${itemOf(row)} />` },
          { name: 'quantity', title: 'Quantity', numeric: true, value: (row: InvoiceLine) => row.quantity ?? (row.days === undefined ? null : `${row.days} of ${row.of_days} days`) },
          { name: 'each', title: 'Each', numeric: true, value: (row: InvoiceLine) => row.unit_price ?? null },
          { name: 'amount', title: section.currency, numeric: true, value: (row: InvoiceLine) => row.amount },
        ]} />
        <dl class="total"><div><dt>Calls</dt><dd>${section.usage}</dd></div><div><dt>Adjustments</dt><dd>${section.adjustments}</dd></div><div class="sum"><dt>Total</dt><dd>${section.total} ${section.currency}</dd></div></dl></div>`)}`}</${Waiting}></${Section}>`
}

function itemOf({ kind, model, price, by }: InvoiceLine): string {
  const what = kind === 'fee' ? price ?? '' : [model, price].filter((part) => part !== undefined).join(' ')
  const why = kind === 'prices' ? by ?? '' : kinds[kind] ?? kind
  return kind === 'fee' || why === '' ? what.replaceAll('_', ' ') : what === '' ? why : `${what.replaceAll('_', ' ')} (${why})`
}
