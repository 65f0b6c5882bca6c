import { accountPath, callPath, go, setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { costColumns } from './costs.ts'
import type { Costs } from './costs.ts'
import { exact } from './format.ts'
import { latency } from './live-page.ts'
import { useLoaded } from './loading.ts'
import { Badge, CallLink, Choice, Name, PageHead, Section, When } from './pieces.ts'
import type { UsageEvent } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html, useState } from './view.ts'
import type { VNode } from './view.ts'

const SINCE = [{ value: '5m', words: '5 min' }, { value: '1h', words: '1 h' }, { value: '24h', words: '24 h' }] as const
const PAGE = 1_000
/** Pages that are read to reach the newest; beyond, a shorter time says more. */
const PAGES = 5
const SHOWN = 200

interface Tail {
  /** The newest first. */
  readonly events: readonly UsageEvent[]
  /** There are newer ones that were not read. */
  readonly cut: boolean
}

interface EventPage {
  readonly events: readonly { readonly position: string; readonly event: UsageEvent }[]
  readonly next: string | null
}

/** Usage events as they were written, and the way to any call by its request id. */
export function EventsPage(): VNode {
  const { query } = useAddress()
  const since = SINCE.find(({ value }) => value === query.get('since'))?.value ?? '1h'
  const loaded = useLoaded(since, (signal) => tail(since, signal), 5_000)
  return html`<${PageHead} title="Events" about="One for each call, when it is settled. Refused calls leave none, nor do those that failed upstream, unless their plan counts them." />
    <${Explain} />
    <${Section} title="Latest events" tools=${html`<${Choice} label="How far back" options=${SINCE} value=${since} choose=${(value: string) => setQuery({ since: value === '1h' ? '' : value })} />`}>
      <${Waiting} of=${loaded} lines=${8}>${({ events, cut }: Tail) => html`
        ${cut ? html`<p class="stale">There are more events than are read here: choose a shorter time to see the newest.</p>` : null}
        <${Table} name="events" caption="Usage events" quiet rows=${events} key_=${(row: UsageEvent) => row.id} columns=${columns} empty=${html`<${Empty} title="No call was settled in this time." />`} />`}</${Waiting}></${Section}>`
}

async function tail(since: string, signal: AbortSignal): Promise<Tail> {
  let kept: readonly UsageEvent[] = []
  let page = await get<EventPage>('/api/v1/events', { since, limit: PAGE }, signal)
  for (let pages = 1; ; pages += 1) {
    kept = [...kept, ...page.events.map(({ event }) => event)].slice(-SHOWN)
    const full = page.events.length === PAGE && page.next !== null
    if (!full || pages === PAGES) return { events: kept.toReversed(), cut: full }
    page = await get<EventPage>('/api/v1/events', { after: page.next ?? '', limit: PAGE }, signal)
  }
}

function text(row: UsageEvent, name: string): string | null {
  const value = row.data[name]
  return typeof value === 'string' ? value : null
}

function number(row: UsageEvent, name: string): number | null {
  const value = row.data[name]
  return typeof value === 'number' ? value : null
}

function costsOf(row: UsageEvent): Costs {
  const cost = text(row, 'cost')
  return cost === null ? {} : { [text(row, 'currency') ?? '']: cost }
}

const columns = (rows: readonly UsageEvent[]): readonly Column<UsageEvent>[] => [
  { name: 'time', title: 'Admitted', value: (row) => row.time, show: (row) => html`<${When} at=${row.time} />` },
  { name: 'account', title: 'Account', value: (row) => row.subject, show: (row) => html`<a href=${accountPath(row.subject)}><${Name} of=${row.subject} /></a>` },
  { name: 'key', title: 'Key', value: (row) => text(row, 'key'), show: (row) => html`<${Name} of=${text(row, 'key')} />` },
  { name: 'model', title: 'Model', value: (row) => text(row, 'model'), show: (row) => html`<${Name} of=${text(row, 'model')} />` },
  { name: 'end', title: 'End', value: (row) => text(row, 'end'), show: (row) => html`<${Badge} tone=${text(row, 'end') === 'complete' ? 'good' : 'warn'}>${(text(row, 'end') ?? '').replaceAll('_', ' ')}</${Badge}>` },
  { name: 'tokens', title: 'Tokens', numeric: true, value: (row) => number(row, 'total_tokens'), show: (row) => exact(number(row, 'total_tokens')) },
  ...costColumns(rows, costsOf),
  { name: 'upstream', title: 'Upstream', about: 'How long the upstream took: from when the call was passed on to the end of its answer', numeric: true, value: (row) => number(row, 'compute_ms'), show: (row) => latency(number(row, 'compute_ms')) },
  { name: 'id', title: 'Call', value: (row) => row.id, show: (row) => html`<${CallLink} id=${row.id} />` },
]

function Explain(): VNode {
  const [id, setId] = useState('')
  const submit = (event: Event): void => {
    event.preventDefault()
    if (id.trim() !== '') go(callPath(id.trim()))
  }
  return html`<form class="panel explain" onSubmit=${submit}>
    <div class="field"><label for="request-id">Explain a call</label><input id="request-id" value=${id} onInput=${(event: Event) => setId((event.currentTarget as HTMLInputElement).value)} placeholder="0197…" autocomplete="off" spellcheck=${false} aria-describedby="request-id-about" />
    <p class="muted" id="request-id-about">By the id that its answer carries as <code>x-request-id</code> (Anthropic's dialect: <code>request-id</code>).</p></div>
    <button type="submit" class="primary">Explain</button></form>`
}
