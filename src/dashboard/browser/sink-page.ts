import { get, post } from './api.ts'
import { exact } from './format.ts'
import { useChange, useLoaded } from './loading.ts'
import { say } from './notify.ts'
import { Badge, CallLink, Facts, Name, PageHead, Section, When } from './pieces.ts'
import type { Sink, Withheld } from './shapes.ts'
import { SinkBooks } from './sink-books.ts'
import { RefusedEvents, SinkState, contractWords, kindWords } from './sinks-page.ts'
import { Empty, Failed, Skeleton, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

/** It does not deliver, and tries again by itself. */
const tried: readonly Sink['state'][] = ['waiting', 'paused', 'not open']

/** One sink: how it does, whether its receiver's books are ours, and what it has not taken. */
export function SinkPage({ name, changes }: { readonly name: string; readonly changes: boolean }): VNode {
  const { data, problem, reload } = useLoaded('sinks', (signal) => get<{ sinks: readonly Sink[] }>('/api/v1/sinks', {}, signal), 2_000)
  const sink = data?.sinks.find((each) => each.name === name)
  const trail = html`<p class="trail"><a href="/sinks">Sinks</a></p>`
  if (sink === undefined) return html`${trail}<${PageHead} title=${html`<${Name} of=${name} />`} />
    ${data !== undefined ? html`<${Empty} title="There is no such sink."><a href="/sinks">All sinks</a></${Empty}>` : problem === undefined ? html`<${Skeleton} lines=${6} />` : html`<${Failed} words=${problem.message} retry=${reload} />`}`
  return html`${trail}
    <${PageHead} title=${html`<${Name} of=${name} />`} about=${`${kindWords(sink)}. ${contractWords(sink)}`.trim()} />
    <${Section} title="Delivery" tools=${changes && tried.includes(sink.state) ? html`<${TryNow} sink=${name} done=${reload} />` : undefined}>${problem === undefined ? null : html`<p class="stale" role="status">Not up to date: ${problem.message}</p>`}<${Facts} of=${[
      ['State', html`<${SinkState} of=${sink} />`], ['Waiting', `${exact(sink.waiting)} events`], ['Oldest', sink.oldest_at === null ? null : html`<${When} at=${sink.oldest_at} />`],
      ['Last delivery', html`<${When} at=${sink.last_delivery_at} />`], ['Refused', count(sink.dead)], ['Quarantined', count(sink.quarantined)],
    ]} /></${Section}>
    <${SinkBooks} of=${sink} />
    <${RefusedEvents} sink=${name} changes=${changes} />
    ${sink.quarantined === 0 ? null : html`<${Quarantine} sink=${name} />`}`
}

/** Whoever has mended the receiver need not wait until the sink tries by itself. */
function TryNow({ sink, done }: { readonly sink: string; done(): void }): VNode {
  const { busy, problem, run } = useChange()
  const retry = (): void => run(async () => {
    const { result } = await post<{ result: 'trying' | 'running' | 'elsewhere' | 'replaying' }>(`/api/v1/sinks/${encodeURIComponent(sink)}/retry`)
    say(result === 'elsewhere' ? `Another gateway delivers to ${sink}: only that one can try.` : `${sink} is tried again.`)
    done()
  })
  return html`<span class="buttons"><button type="button" disabled=${busy} onClick=${retry}>Try now</button>${problem === '' ? null : html`<span class="problem" role="alert">${problem}</span>`}</span>`
}

function count(of: number): VNode {
  return of === 0 ? html`<span>none</span>` : html`<${Badge} tone="bad">${exact(of)}</${Badge}>`
}

function Quarantine({ sink }: { readonly sink: string }): VNode {
  const loaded = useLoaded(`quarantine ${sink}`, (signal) => get<{ quarantined: readonly Withheld[] }>('/api/v1/events/quarantined', { sink }, signal), 10_000)
  return html`<${Section} title="Quarantine"><p class="muted">Nobody sends these until somebody decides: <code>tallygate events quarantined --send</code> or <code>--drop</code>, when it is known whether they were booked.</p>
    <${Waiting} of=${loaded}>${({ quarantined }: { quarantined: readonly Withheld[] }) => html`<${Table} name="quarantine" caption="Records in quarantine" quiet rows=${quarantined} key_=${(row: Withheld) => row.of} columns=${columns} empty=${html`<${Empty} title="Nothing is in quarantine." />`} />`}</${Waiting}></${Section}>`
}

const columns: readonly Column<Withheld>[] = [
  { name: 'of', title: 'Of', value: (row) => row.of, show: (row) => html`<${CallLink} id=${row.of} />` },
  { name: 'why', title: 'Why', value: (row) => row.why, show: (row) => html`<${Badge} tone="bad">${row.why === 'ambiguous' ? 'maybe booked' : row.why}</${Badge}>` },
  { name: 'reason', title: 'Its words', value: (row) => row.reason, show: (row) => html`<${Name} of=${row.reason} />` },
  { name: 'sent', title: 'Sent', value: (row) => row.sent_at, show: (row) => html`<${When} at=${row.sent_at} />` },
  { name: 'since', title: 'Since', value: (row) => row.quarantined_at, show: (row) => html`<${When} at=${row.quarantined_at} />` },
  { name: 'records', title: 'Records', numeric: true, value: (row) => row.records.length },
]
