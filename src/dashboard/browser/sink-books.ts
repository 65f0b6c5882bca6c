import { accountPath, setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { nowMs } from './clock.ts'
import { exact, instant, utc } from './format.ts'
import { useLoaded } from './loading.ts'
import { Badge, CallLink, Choice, Name, Section } from './pieces.ts'
import type { Tone } from './pieces.ts'
import type { BookDifference, BookRow, Books, Sink } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html, useEffect, useState } from './view.ts'
import type { VNode } from './view.ts'

const DAY_MS = 86_400_000

/** What was settled beside what the sink's receiver has booked. Nothing is asked of it before a period is in the address. */
export function SinkBooks({ of: { name: sink, type, reads_back: asks } }: { readonly of: Sink }): VNode {
  const { query } = useAddress()
  const period = query.get('period') ?? ''
  const each = asks && query.get('each') === 'true'
  const [typed, setTyped] = useState(period)
  useEffect(() => setTyped(period), [period])
  const submit = (event: Event): void => {
    event.preventDefault()
    setQuery({ period: typed.trim() })
  }
  return html`<${Section} title="Books" id="books">
    <p class="muted">${asks ? 'What was settled, beside what the receiver has booked. Deliveries go on meanwhile, and looking changes nothing.' : `A sink of the kind ${type} cannot be asked what it has. What is known here of a time can be looked at.`}</p>
    <form class="period" onSubmit=${submit}>
      <${Choice} label="Period" options=${periods()} value=${period} choose=${(value: string) => setQuery({ period: value })} />
      <label class="sorted">Period (UTC) <input value=${typed} onInput=${(event: Event) => setTyped((event.currentTarget as HTMLInputElement).value)} placeholder="2026-11-22" aria-label="Period (UTC): a month, a day, or FROM/UNTIL" spellcheck=${false} autocomplete="off" required /></label>
      ${asks ? html`<label class="sorted"><input type="checkbox" checked=${each} onChange=${(event: Event) => setQuery({ each: (event.currentTarget as HTMLInputElement).checked ? 'true' : '' })} /> look every record up</label>` : null}
      <button type="submit" class=${asks ? 'primary' : undefined}>${asks ? 'Compare books' : 'Look at what is known here'}</button>
    </form>
    ${period === '' ? null : html`<${Comparison} key=${`${period} ${each}`} sink=${sink} period=${period} each=${each} />`}
  </${Section}>`
}

/** As the API takes them, by UTC. */
function periods(): readonly { readonly value: string; readonly words: string }[] {
  const at = (ms: number, length: number): string => new Date(ms).toISOString().slice(0, length)
  const now = nowMs()
  const monthBegan = Date.parse(`${at(now, 7)}-01`)
  return [{ value: at(now, 10), words: 'Today' }, { value: at(now - DAY_MS, 10), words: 'Yesterday' }, { value: at(now, 7), words: 'This month' }, { value: at(monthBegan - DAY_MS, 7), words: 'Last month' }]
}

function Comparison({ sink, period, each }: { readonly sink: string; readonly period: string; readonly each: boolean }): VNode {
  const loaded = useLoaded(`${sink} ${period} ${each}`, (signal) => get<Books>(`/api/v1/sinks/${encodeURIComponent(sink)}/reconciliation`, { period, each: each ? true : undefined }, signal))
  return html`<div class="result" aria-live="polite"><${Waiting} of=${loaded} lines=${5}>${(books: Books) => html`
    <${Verdict} of=${books} />
    <p class="muted">${utc(books.from)} up to ${utc(books.until)}${books.asked === 'nothing' ? '' : `; the receiver was asked for ${books.asked}`}. <button type="button" class="quiet" onClick=${loaded.reload}>Compare again</button></p>
    ${books.notes.map((note) => html`<p class="notice" key=${note}>${sentence(note)}</p>`)}
    ${books.unmapped === 0 ? null : html`<p class="notice">${exact(books.unmapped)} events were left out: their accounts have no customer there.</p>`}
    <${Table} name="books" caption="By account and meter" rows=${books.rows} key_=${(row: BookRow) => `${row.accounts.join()} ${row.customer} ${row.code}`} columns=${rowColumns(books)}
      empty=${html`<${Empty} title="Nothing was settled for this sink in this time." />`} />
    ${books.differences.length === 0 ? null : html`<${Table} name="differences" caption="Differences" rows=${books.differences.toSorted((a, b) => rank(a) - rank(b))} key_=${(row: BookDifference) => String(books.differences.indexOf(row))} columns=${differenceColumns} empty="" />`}
    ${books.differences.some(({ compensation }) => compensation.how !== 'none') ? html`<p class="muted">An administrator sends what puts it right: <code>tallygate reconcile --sink ${sink} --period ${period} --apply</code></p>` : null}`}</${Waiting}></div>`
}

function Verdict({ of: { asked, unexplained, differences } }: { readonly of: Books }): VNode {
  if (asked === 'nothing') return html`<p class="notice">The receiver cannot be asked: this is what is known here.</p>`
  if (unexplained > 0) return html`<p class="notice bad"><strong>${exact(unexplained)} ${unexplained === 1 ? 'difference is' : 'differences are'} not explained by our books:</strong> missing there, there more than once, or of unknown origin.</p>`
  return differences.length === 0 ? html`<p class="notice good">The books agree.</p>` : html`<p class="notice good">Every difference is explained.</p>`
}

const parts = [['late', 'Late'], ['refused', 'Refused'], ['quarantined', 'Quarantined'], ['missing', 'Missing'], ['doubled', 'Doubled'], ['unexplained', 'Unexplained']] as const
const worst: readonly string[] = ['unexplained', 'missing', 'doubled', 'quarantined', 'refused', 'buried', 'outside', 'late']
const tones: Readonly<Record<string, Tone>> = { unexplained: 'bad', missing: 'bad', doubled: 'bad', quarantined: 'warn', refused: 'warn', buried: 'warn', outside: 'warn', late: 'plain' }

function rank({ why }: BookDifference): number {
  return worst.indexOf(why)
}

/** Of what a difference is made of, only what there is. */
function rowColumns({ rows, asked }: Books): readonly Column<BookRow>[] {
  const made = parts.filter(([name]) => rows.some((row) => row[name] !== '0'))
  return [
    { name: 'account', title: 'Account', value: (row) => row.accounts.join(', '), show: (row) => row.accounts.map((account, index) => html`${index === 0 ? '' : ', '}<a key=${account} href=${accountPath(account)}><${Name} of=${account} /></a>`) },
    { name: 'customer', title: 'Customer there', value: (row) => row.customer, show: (row) => html`<${Name} of=${row.customer} />` },
    { name: 'meter', title: 'Meter', value: (row) => row.code, show: (row) => html`<${Name} of=${row.code} />` },
    { name: 'records', title: 'Records', numeric: true, value: (row) => row.records, show: (row) => exact(row.records) },
    { name: 'ours', title: 'Ours', numeric: true, value: (row) => row.ours, show: (row) => grouped(row.ours) },
    ...(asked === 'nothing' ? [] : [
      { name: 'theirs', title: 'Theirs', numeric: true, value: (row: BookRow) => row.theirs, show: (row: BookRow) => grouped(row.theirs) },
      { name: 'difference', title: 'Difference', numeric: true, value: (row: BookRow) => row.difference, show: (row: BookRow) => (row.difference === '0' ? '0' : html`<b>${signed(row.difference)}</b>`) },
    ]),
    ...made.map(([name, title]) => ({ name, title, numeric: true, value: (row: BookRow) => row[name], show: (row: BookRow) => (row[name] === '0' ? '0' : html`<span class=${tones[name] === 'bad' ? 'problem' : undefined}>${signed(row[name])}</span>`) })),
  ]
}

const differenceColumns: readonly Column<BookDifference>[] = [
  { name: 'why', title: 'Why', value: (row) => row.why, show: (row) => html`<${Badge} tone=${tones[row.why] ?? 'warn'}>${row.why}</${Badge}>` },
  { name: 'reason', title: 'Reason', value: (row) => row.reason, show: (row) => html`<bdi>${sentence(row.reason)}</bdi>` },
  { name: 'amount', title: 'Amount', numeric: true, value: (row) => row.amount, show: (row) => signed(row.amount) },
  { name: 'account', title: 'Account', value: (row) => row.account, show: (row) => html`<${Name} of=${row.account} />` },
  { name: 'meter', title: 'Meter', value: (row) => row.code, show: (row) => html`<${Name} of=${row.code} />` },
  { name: 'record', title: 'Record', value: (row) => row.record ?? `${row.records} records`, show: (row) => (row.event !== null ? html`<${CallLink} id=${row.event} />` : row.record === null ? `${exact(row.records)} records` : html`<code class="id">${row.record}</code>`) },
  { name: 'at', title: 'When', value: (row) => (row.from === row.until ? row.from : `${row.from}/${row.until}`), show: (row) => (row.from === row.until ? instant(row.from) : `${instant(row.from)} to ${instant(row.until)}`) },
  { name: 'remedy', title: 'Puts it right', value: remedyWords },
]

function remedyWords({ compensation: { how, because, record }, outcome }: BookDifference): string {
  if (outcome !== null) return outcome
  if (how === 'none') return `nothing yet: ${because ?? ''}`
  return how === 'drop' ? 'forget it: it was booked' : record?.value === undefined ? 'send it again' : `send ${grouped(record.value)}`
}

/** Exact decimal text with its thousands apart. */
function grouped(text: string | null): string {
  if (text === null) return '–'
  const [whole = '', part] = text.split('.')
  const sign = whole.startsWith('-') ? '-' : ''
  return `${sign}${BigInt(whole.slice(sign.length)).toLocaleString('en-US')}${part === undefined ? '' : `.${part}`}`
}

function signed(text: string | null): string {
  return text === null || text.startsWith('-') || text === '0' ? grouped(text).replace('-', '−') : `+${grouped(text)}`
}

function sentence(text: string): string {
  const first = text.slice(0, 1).toUpperCase() + text.slice(1)
  return /[.!?]$/.test(first) ? first : `${first}.`
}
