import { setQuery, useAddress } from './address.ts'
import { ApiProblem } from './api.ts'
import { toCsv } from './csv.ts'
import type { Cell } from './csv.ts'
import { say } from './notify.ts'
import { inOrder } from './order.ts'
import { html, useState } from './view.ts'
import type { Children, VNode } from './view.ts'

export interface Column<R> {
  readonly name: string
  readonly title: string
  /** What the title means, on asking. */
  readonly about?: string
  /** What is sorted by and exported. */
  value(row: R): Cell
  /** What is shown, where that is not the value. */
  show?(row: R): Children
  /** Values are numbers or exact decimal texts. */
  readonly numeric?: boolean
  /** false: sorting by it says nothing. */
  readonly sorts?: boolean
}

export interface TableProps<R> {
  /** Names its state in the address, and its file. */
  readonly name: string
  readonly caption: string
  /** A function: which there are follows from the rows. */
  readonly columns: readonly Column<R>[] | ((rows: readonly R[]) => readonly Column<R>[])
  readonly rows: readonly R[]
  readonly empty: Children
  key_(row: R): string
  /** The rows are a part of more, in an order that was asked for: all of them, for the export. */
  all?(): Promise<readonly R[]>
  /** The caption is only heard: a heading says the same. */
  readonly quiet?: boolean
  /** Below the rows. */
  readonly foot?: Children
  /** So many rows are shown until all are asked for. */
  readonly fold?: number
}

const FOLD = 50
/** Nobody is asked for the sake of a few. */
const FOLD_SLACK = 3

/** A table with a caption, sortable heads, its state in the address, and its rows as CSV. On a phone each row becomes a card. */
export function Table<R>({ name, caption, columns: given, rows, empty, key_, all, quiet = false, foot, fold = FOLD }: TableProps<R>): VNode {
  const [whole, setWhole] = useState(false)
  const { query } = useAddress()
  const columnsOf = (of: readonly R[]): readonly Column<R>[] => (typeof given === 'function' ? given(of) : given)
  const columns = columnsOf(rows)
  const parameter = `${name}.sort`
  const order = all === undefined ? query.get(parameter) ?? '' : ''
  const by = columns.find((column) => column.name === order.replace(/^-/, ''))
  const sorted = by === undefined ? rows : inOrder(rows, (row) => by.value(row), { down: order.startsWith('-'), numeric: by.numeric === true })
  const folded = !whole && sorted.length > fold + FOLD_SLACK
  const shown = folded ? sorted.slice(0, fold) : sorted
  const sortBy = (column: Column<R>): void => setQuery({ [parameter]: order === column.name ? `-${column.name}` : column.name })
  return html`<div class="table">
    <p class=${quiet ? 'unseen' : 'caption'} id=${`caption-${name}`}>${caption}</p>
    ${rows.length === 0 ? empty : html`<table role="table" aria-labelledby=${`caption-${name}`}>
      <thead role="rowgroup"><tr role="row">${columns.map((column) => html`<${Head} key=${column.name} column=${column} order=${order} sort=${all === undefined && column.sorts !== false ? () => sortBy(column) : undefined} />`)}</tr></thead>
      <tbody role="rowgroup">${shown.map((row) => html`<tr role="row" key=${key_(row)}>${columns.map((column) => html`<td role="cell" key=${column.name} class=${column.numeric === true ? 'number' : undefined} data-title=${column.title}>
        <div>${column.show === undefined ? column.value(row) ?? '–' : column.show(row)}</div></td>`)}</tr>`)}</tbody>
    </table>`}
    ${rows.length === 0 ? null : html`<div class="table-foot">${foot}${folded ? html`<button type="button" class="small" onClick=${() => setWhole(true)}>Show all ${sorted.length}</button>` : null}<${CsvButton} name=${name} caption=${caption} columnsOf=${columnsOf} rows=${async () => (all === undefined ? sorted : all())} /></div>`}
  </div>`
}

function Head<R>({ column, order, sort }: { readonly column: Column<R>; readonly order: string; readonly sort: (() => void) | undefined }): VNode {
  const direction = order === column.name ? 'ascending' : order === `-${column.name}` ? 'descending' : undefined
  return html`<th role="columnheader" scope="col" title=${column.about} class=${column.numeric === true ? 'number' : undefined} aria-sort=${direction}>
    ${sort === undefined ? column.title : html`<button type="button" class="sort" onClick=${sort}>${column.title}<span aria-hidden="true">${direction === 'ascending' ? ' ↑' : direction === 'descending' ? ' ↓' : ''}</span></button>`}
  </th>`
}

function CsvButton<R>({ name, caption, columnsOf, rows }: { readonly name: string; readonly caption: string; columnsOf(rows: readonly R[]): readonly Column<R>[]; rows(): Promise<readonly R[]> }): VNode {
  const [busy, setBusy] = useState(false)
  const fetchAndSave = async (): Promise<void> => {
    const all = await rows()
    const columns = columnsOf(all)
    save(`${name}.csv`, toCsv(columns.map(({ title }) => title), all.map((row) => columns.map(({ value }) => value(row)))))
  }
  const onClick = (): void => {
    setBusy(true)
    fetchAndSave()
      .catch((error: unknown) => say(error instanceof ApiProblem ? error.message : 'The table could not be exported.'))
      .finally(() => setBusy(false))
  }
  return html`<button type="button" class="quiet" aria-label=${`${caption} as CSV`} disabled=${busy} onClick=${onClick}>CSV</button>`
}

function save(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }))
  const link = document.createElement('a')
  link.href = address
  link.download = name
  link.click()
  URL.revokeObjectURL(address)
}
