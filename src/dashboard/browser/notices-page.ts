import { accountPath, setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { detailWords } from './change-details.ts'
import { useLoaded } from './loading.ts'
import { Badge, Choice, Name, PageHead, Section, When } from './pieces.ts'
import type { Tone } from './pieces.ts'
import type { Change, Notice } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

const TYPES = [
  { value: '', words: 'All' }, { value: 'threshold', words: 'Thresholds' }, { value: 'forecast', words: 'Forecasts' }, { value: 'subscription', words: 'Subscriptions' }, { value: 'grant_expiring', words: 'Grants' }, { value: 'breakage', words: 'Lost' },
] as const
const tones: Readonly<Record<string, Tone>> = { threshold: 'warn', forecast: 'warn', subscription: 'plain', grant_expiring: 'warn', breakage: 'bad' }

/** What was told of accounts, and who changed what. */
export function NoticesPage(): VNode {
  const { query } = useAddress()
  const type = TYPES.find(({ value }) => value === query.get('type'))?.value ?? ''
  const account = query.get('account') ?? ''
  const notices = useLoaded(`${type} ${account}`, (signal) => get<{ notices: readonly Notice[]; more: number }>('/api/v1/notices', { type, account, limit: 200 }, signal), 5_000)
  const changes = useLoaded('audit', (signal) => get<{ changes: readonly Change[] }>('/api/v1/audit', { limit: 200 }, signal), 10_000)
  return html`<${PageHead} title="Notices" about="Limits that run out, subscriptions that end, grants that expire: each told once, here, in the log and to webhooks." />
    <${Section} title="What was told" tools=${html`<${Choice} label="Which" options=${TYPES} value=${type} choose=${(value: string) => setQuery({ type: value })} />`}>
      <${Waiting} of=${notices} lines=${6}>${({ notices: rows, more }: { notices: readonly Notice[]; more: number }) => html`<${Table} name="notices" caption="Notices" quiet rows=${rows} key_=${(row: Notice) => row.id} columns=${noticeColumns} empty=${html`<${Empty} title="Nothing was told.">No limit is near its end, and nothing is about to expire.</${Empty}>`} />
        ${more > 0 ? html`<p class="muted">${more} older ones are not shown.</p>` : null}`}</${Waiting}></${Section}>
    <${Section} title="Who changed what"><${Waiting} of=${changes}>${({ changes: rows }: { changes: readonly Change[] }) => html`<${Table} name="changes" caption="Changes" quiet rows=${rows} key_=${(row: Change) => `${row.at} ${row.action} ${row.target}`} columns=${changeColumns} empty=${html`<${Empty} title="Nothing was changed yet." />`} />`}</${Waiting}></${Section}>`
}

const noticeColumns: readonly Column<Notice>[] = [
  { name: 'at', title: 'When', value: (row) => row.time, show: (row) => html`<${When} at=${row.time} />` },
  { name: 'type', title: 'Type', value: (row) => row.data.type, show: (row) => html`<${Badge} tone=${tones[row.data.type] ?? 'plain'}>${row.data.type.replaceAll('_', ' ')}</${Badge}>` },
  { name: 'account', title: 'Account', value: (row) => row.subject, show: (row) => html`<a href=${accountPath(row.subject)}><${Name} of=${row.subject} /></a>` },
  { name: 'text', title: 'What', value: (row) => row.data.text, show: (row) => html`<bdi>${row.data.text}</bdi>` },
]

const changeColumns: readonly Column<Change>[] = [
  { name: 'at', title: 'When', value: (row) => row.at, show: (row) => html`<${When} at=${row.at} />` },
  { name: 'who', title: 'Who', value: (row) => row.who, show: (row) => html`<${Name} of=${row.who} />` },
  { name: 'action', title: 'Did', value: (row) => row.action, show: (row) => html`<code>${row.action}</code>` },
  { name: 'target', title: 'To', value: (row) => row.target, show: (row) => html`<${Name} of=${row.target} />` },
  { name: 'details', title: 'Details', value: (row) => detailWords(row.details), show: (row) => html`<${Details} of=${detailWords(row.details)} />` },
]

const DETAILS_MAX = 120

/** All terms of an account are long: they fold. */
function Details({ of: words }: { readonly of: string }): VNode {
  if (words.length <= DETAILS_MAX) return html`<bdi>${words === '' ? '–' : words}</bdi>`
  return html`<details><summary><bdi>${words.slice(0, DETAILS_MAX)}…</bdi></summary><bdi>${words}</bdi></details>`
}
