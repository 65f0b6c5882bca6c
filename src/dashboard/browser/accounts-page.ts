import { AccountTerms } from './account-terms.ts'
import { accountPath, go, setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { LimitBar, shareOf } from './bar.ts'
import { after } from './clock.ts'
import { costColumns } from './costs.ts'
import { brief, exact } from './format.ts'
import { useLoaded } from './loading.ts'
import { Badge, Name, PageHead, When } from './pieces.ts'
import { RollupsState } from './rollups-state.ts'
import type { AccountPage, AccountRow, LimitStanding } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html, useEffect, useState } from './view.ts'
import type { Children, VNode } from './view.ts'

const PAGE = 25
const EXPORT_PAGE = 500
const BARS = 3
const TYPED_MS = 250
/** Not often: the gateway goes through all accounts for a page of them. */
const AGAIN_MS = 30_000
const SEARCH_MAX = 1_024
const SORTS = [
  { value: '', words: 'name' }, { value: 'plan', words: 'plan' }, { value: 'forecast', words: 'what runs out first' }, { value: 'requests', words: 'requests of 30 days' }, { value: 'total_tokens', words: 'tokens of 30 days' },
  { value: 'cost', words: 'cost of 30 days' }, { value: 'refused', words: 'refusals of 30 days' }, { value: 'keys', words: 'number of keys' },
] as const

/** All accounts, a page at a time. */
export function AccountsPage({ changes }: { readonly changes: boolean }): VNode {
  const [making, setMaking] = useState(false)
  const { query } = useAddress()
  const search = query.get('search') ?? ''
  const sort = SORTS.find(({ value }) => value === query.get('sort'))?.value ?? ''
  const page = Math.max(1, Number(query.get('page') ?? '1') || 1)
  const asked = { search: search.slice(0, SEARCH_MAX), sort, offset: (page - 1) * PAGE, limit: PAGE }
  const loaded = useLoaded(JSON.stringify(asked), (signal) => get<AccountPage>('/api/v1/accounts', asked, signal), AGAIN_MS)
  return html`
    <${PageHead} title="Accounts" about=${loaded.data === undefined ? ' ' : `${exact(loaded.data.total)} ${search === '' ? 'in all' : `match "${search}"`}`} tools=${html`
      <label class="sorted">Sorted by <select value=${sort} onChange=${(event: Event) => setQuery({ sort: (event.currentTarget as HTMLSelectElement).value, page: '' })}>${SORTS.map(({ value, words }) => html`<option key=${value} value=${value} selected=${value === sort}>${words}</option>`)}</select></label>
      <${Search} value=${search} />${changes ? html`<button type="button" onClick=${() => setMaking(true)}>New account …</button>` : null}`} />
    ${making ? html`<${AccountTerms} close=${() => setMaking(false)} done=${(id: string) => go(accountPath(id))} />` : null}
    ${isSize(sort) ? html`<${RollupsState} />` : null}
    <section class="panel" aria-label="Accounts"><${Waiting} of=${loaded} lines=${8}>${(data: AccountPage) => html`
      <${Table} name="accounts" caption="Accounts" quiet rows=${data.accounts} key_=${(row: AccountRow) => `${row.id} ${row.unused_because ?? ''}`} columns=${isSize(sort) ? (rows: readonly AccountRow[]) => [...columns, ...sizeColumns(rows)] : columns} all=${() => everyAccount(search, sort)}
        empty=${search === '' ? html`<${Empty} title="There are no accounts yet.">They are written into the configuration, or made here, over the API and by the command line.</${Empty}>` : html`<${Empty} title="No account matches.">Try a part of its name.</${Empty}>`} foot=${html`<${Pages} page=${page} pages=${Math.max(1, Math.ceil(data.total / PAGE))} />`} />`}</${Waiting}></section>`
}

const columns: readonly Column<AccountRow>[] = [
  { name: 'id', title: 'Account', value: (row) => row.id, show: (row) => html`<a href=${accountPath(row.id)}><${Name} of=${row.id} /></a>${row.parent === null ? null : html`<br /><small class="muted">under <${Name} of=${row.parent} /></small>`}` },
  { name: 'plan', title: 'Plan', value: (row) => row.plan, show: (row) => html`<${Name} of=${row.plan} />` },
  { name: 'state', title: 'State', value: stateWords, show: stateBadge },
  { name: 'used', title: 'Used of its limits', value: (row) => tightest(row.limits_now ?? []).map((limit) => `${limit.name} ${limit.used + limit.reserved}/${limit.limit ?? '∞'}`).join('; '), show: bars },
  { name: 'forecast_at', title: 'Runs out', value: (row) => row.forecast_at, show: (row) => html`<${When} at=${row.forecast_at} />` },
  { name: 'keys', title: 'Keys', numeric: true, value: (row) => row.keys },
]

const sizeColumns = (rows: readonly AccountRow[]): readonly Column<AccountRow>[] => [
  { name: 'requests', title: 'Requests', numeric: true, value: (row) => row.usage_30d?.requests ?? 0, show: (row) => brief(row.usage_30d?.requests ?? 0) },
  { name: 'tokens', title: 'Tokens', numeric: true, value: (row) => row.usage_30d?.total_tokens ?? 0, show: (row) => brief(row.usage_30d?.total_tokens ?? 0) },
  ...costColumns(rows, (row) => row.usage_30d?.cost ?? {}),
  { name: 'refused', title: 'Refused', numeric: true, value: (row) => row.usage_30d?.refused ?? 0, show: (row) => brief(row.usage_30d?.refused ?? 0) },
]

function isSize(sort: string): boolean {
  return sort === 'requests' || sort === 'total_tokens' || sort === 'cost' || sort === 'refused'
}

function stateWords(row: AccountRow): string {
  if (row.unused_because !== null) return 'not used'
  return row.suspended ? 'suspended' : row.subscription ?? 'active'
}

export function stateBadge(row: Pick<AccountRow, 'unused_because' | 'suspended' | 'subscription'>): Children {
  const words = row.unused_because !== null ? 'not used' : row.suspended ? 'suspended' : row.subscription ?? 'active'
  const tone = words === 'active' || words === 'trial' ? 'good' : words === 'suspended' || words === 'ended' || words === 'expired' ? 'bad' : 'warn'
  return html`<${Badge} tone=${tone}>${words.replaceAll('_', ' ')}</${Badge}>`
}

/** Those that are used most, of their limit. */
function tightest(limits: readonly LimitStanding[]): readonly LimitStanding[] {
  return limits.filter((limit) => shareOf(limit) !== null).toSorted((a, b) => (shareOf(b) ?? 0) - (shareOf(a) ?? 0)).slice(0, BARS)
}

function bars(row: AccountRow): Children {
  const shown = tightest(row.limits_now ?? [])
  return shown.length === 0 ? html`<span class="muted">–</span>` : html`<div class="bars">${shown.map((limit) => html`<${LimitBar} key=${`${limit.name} ${limit.per}`} of=${limit} brief />`)}</div>`
}

async function everyAccount(search: string, sort: string): Promise<readonly AccountRow[]> {
  const all: AccountRow[] = []
  for (;;) {
    const next = await get<AccountPage>('/api/v1/accounts', { search, sort, offset: all.length, limit: EXPORT_PAGE })
    all.push(...next.accounts)
    if (next.accounts.length === 0 || all.length >= next.total) return all
  }
}

/** What is typed becomes part of the address once nothing was typed for a moment. */
function Search({ value }: { readonly value: string }): VNode {
  const [typed, setTyped] = useState(value)
  useEffect(() => (typed === value ? undefined : after(TYPED_MS, () => setQuery({ search: typed, page: '' }))), [typed])
  return html`<form role="search" class="search" onSubmit=${(event: Event) => { event.preventDefault(); setQuery({ search: typed, page: '' }) }}>
    <input type="search" aria-label="Search accounts" placeholder="Search accounts" value=${typed} onInput=${(event: Event) => setTyped((event.currentTarget as HTMLInputElement).value)} /></form>`
}

function Pages({ page, pages }: { readonly page: number; readonly pages: number }): VNode | null {
  if (pages === 1 && page === 1) return null
  const to = (next: number): void => {
    setQuery({ page: next === 1 ? '' : String(next) })
    scrollTo(0, 0)
  }
  return html`<nav class="pages" aria-label="Pages of accounts">
    <button type="button" disabled=${page <= 1} onClick=${() => to(page - 1)}>Previous</button><span>Page ${exact(page)} of ${exact(pages)}</span><button type="button" disabled=${page >= pages} onClick=${() => to(page + 1)}>Next</button></nav>`
}
