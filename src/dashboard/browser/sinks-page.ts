import { sinkPath } from './address.ts'
import { get, post } from './api.ts'
import { nowMs } from './clock.ts'
import { brief, exact } from './format.ts'
import { useLoaded, useChange } from './loading.ts'
import { say } from './notify.ts'
import { Badge, CallLink, Facts, Name, PageHead, Section, When } from './pieces.ts'
import type { Tone } from './pieces.ts'
import type { DeadEvent, Missed, Sink, Store } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { Children, VNode } from './view.ts'

/** Is everything told to whom it is to be told? */
export function SinksPage({ changes }: { readonly changes: boolean }): VNode {
  const sinks = useLoaded('sinks', (signal) => get<{ sinks: readonly Sink[] }>('/api/v1/sinks', {}, signal), 2_000)
  const store = useLoaded('store', (signal) => get<Store>('/api/v1/store', {}, signal), 5_000)
  return html`<${PageHead} title="Sinks" about="Every usage event reaches every sink whose filter lets it through, at least once and with an id that makes a second delivery harmless." />
    <${Section} title="Delivery"><${Waiting} of=${sinks}>${({ sinks: rows }: { sinks: readonly Sink[] }) => html`<${Table} name="sinks" caption="Delivery" quiet rows=${rows} key_=${(row: Sink) => row.name} columns=${columns}
      empty=${html`<${Empty} title="No sink is configured.">Usage events stay in the store, where the API reads them. Add one under <code>sinks</code> to have them delivered.</${Empty}>`} />`}</${Waiting}></${Section}>
    <${RefusedEvents} changes=${changes} />
    <${Section} title="Store"><${Waiting} of=${store}>${(of: Store) => html`<${StoreFacts} of=${of} />`}</${Waiting}></${Section}>`
}

const tones: Readonly<Record<Sink['state'], Tone>> = { starting: 'plain', running: 'good', waiting: 'warn', paused: 'bad', elsewhere: 'plain', replaying: 'warn', 'not open': 'bad', stopped: 'bad' }
const meanings: Readonly<Partial<Record<Sink['state'], string>>> = { elsewhere: 'another gateway delivers', replaying: 'events are delivered again', 'not open': 'it could not be opened' }

/** What it is doing; of one that does not deliver, why, and when it is tried again. */
export function SinkState({ of: { state, reason, next_try_at: nextTry } }: { readonly of: Sink }): VNode {
  const why = reason ?? meanings[state]
  return html`<${Badge} tone=${tones[state] ?? 'plain'}>${state}</${Badge}>${why === undefined ? null : html`<br /><small class="muted"><bdi>${why}</bdi></small>`}${nextTry === null ? null : html`<br /><small class="muted">tried again <${When} at=${nextTry} /></small>`}`
}

/** A count that should be zero. */
function Bad({ count }: { readonly count: number }): VNode {
  return count === 0 ? html`<span>0</span>` : html`<${Badge} tone="bad">${exact(count)}</${Badge}>`
}

const columns: readonly Column<Sink>[] = [
  { name: 'name', title: 'Sink', value: (row) => row.name, show: (row) => html`<a href=${sinkPath(row.name)}><${Name} of=${row.name} /></a><br /><small class="muted" title=${contractWords(row) || undefined}>${kindWords(row)}</small>` },
  { name: 'state', title: 'State', value: (row) => [row.state, row.reason].filter((part) => part !== null).join(': '), show: (row) => html`<${SinkState} of=${row} />` },
  { name: 'waiting', title: 'Waiting', numeric: true, value: (row) => row.waiting, show: (row) => exact(row.waiting) },
  { name: 'oldest', title: 'Oldest', value: (row) => row.oldest_at, show: (row) => html`<${When} at=${row.oldest_at} />` },
  { name: 'last', title: 'Delivered', value: (row) => row.last_delivery_at, show: (row) => html`<${When} at=${row.last_delivery_at} />` },
  { name: 'dead', title: 'Refused', numeric: true, value: (row) => row.dead, show: (row) => html`<${Bad} count=${row.dead} />` },
  { name: 'quarantined', title: 'Quarantined', numeric: true, value: (row) => row.quarantined, show: (row) => html`<${Bad} count=${row.quarantined} />` },
  { name: 'books', title: 'Books', sorts: false, value: () => null, show: (row) => !row.reads_back ? html`<small class="muted">cannot be asked</small>` : html`<a class="button small" href=${`${sinkPath(row.name)}?period=${new Date(nowMs()).toISOString().slice(0, 10)}`} aria-label=${`Compare books of ${row.name}`}>Compare books</a>` },
]

export function kindWords({ type, contract }: Sink): string {
  return `${type}, ${contract}`
}

/** Whoever receives from these is the operator's own: nothing is known of it from anywhere. */
const unknown: readonly string[] = ['file', 'stdout', 'webhook']

/** What the word behind the kind means; '' where it says nothing. */
export function contractWords({ type, contract, reads_back: asks }: Sink): string {
  if (!asks && unknown.includes(type)) return ''
  return contract === 'verified' ? 'What its receiver does is known from its documentation or its source.' : 'What its receiver does could not be confirmed from its documentation or its source: compare its totals with yours.'
}

/** Events that were refused for good: of one sink, or of all. */
export function RefusedEvents({ sink = '', changes }: { readonly sink?: string; readonly changes: boolean }): VNode {
  const loaded = useLoaded(`dead ${sink}`, (signal) => get<{ total: number; dead: readonly DeadEvent[] }>('/api/v1/events/dead', { sink }, signal), 5_000)
  const rows = loaded.data?.dead ?? []
  const sinks = [...new Set(rows.map((row) => row.sink))]
  const shown = sink === '' ? deadColumns : deadColumns.filter(({ name }) => name !== 'sink')
  return html`<${Section} title="Refused events" tools=${changes && sinks.length > 0 ? sinks.map((name) => html`<${Retry} key=${name} sink=${name} done=${loaded.reload} />`) : undefined}>
    <${Waiting} of=${loaded}>${() => html`<${Table} name="dead" caption="Events that a sink refused for good" quiet rows=${rows} key_=${(row: DeadEvent) => `${row.sink} ${row.position}`} columns=${shown}
      empty=${html`<${Empty} title=${sink === '' ? 'No sink has refused an event.' : 'This sink has refused no event.'} />`} />`}</${Waiting}>
    ${(loaded.data?.total ?? 0) <= rows.length ? null : html`<p class="muted">The first ${exact(rows.length)} of ${exact(loaded.data?.total)}.</p>`}</${Section}>`
}

function Retry({ sink, done }: { readonly sink: string; done(): void }): VNode {
  const { busy, problem, run } = useChange()
  const retry = (): void => run(async () => {
    const { delivered, failed } = await post<{ delivered: number; failed: number }>('/api/v1/events/dead/retry', { sink })
    say(failed === 0 ? `${sink} has taken ${exact(delivered)} ${delivered === 1 ? 'event' : 'events'}.` : `${sink} has taken ${exact(delivered)} ${delivered === 1 ? 'event' : 'events'}, and refused ${exact(failed)} again.`)
    done()
  })
  return html`<span class="buttons"><button type="button" disabled=${busy} onClick=${retry}>${busy ? 'Delivering …' : html`Deliver to <bdi>${sink}</bdi> again`}</button>${problem === '' ? null : html`<span class="problem" role="alert">${problem}</span>`}</span>`
}

const deadColumns: readonly Column<DeadEvent>[] = [
  { name: 'sink', title: 'Sink', value: (row) => row.sink, show: (row) => html`<a href=${sinkPath(row.sink)}><${Name} of=${row.sink} /></a>` },
  { name: 'reason', title: 'Its words', value: (row) => row.reason, show: (row) => html`<${Name} of=${row.reason} />` },
  { name: 'at', title: 'Refused', value: (row) => row.buried_at, show: (row) => html`<${When} at=${row.buried_at} />` },
  { name: 'account', title: 'Account', value: (row) => row.event.subject, show: (row) => html`<${Name} of=${row.event.subject} />` },
  { name: 'event', title: 'Event', value: (row) => row.event.id, show: (row) => html`<${CallLink} id=${row.event.id} />` },
]

function StoreFacts({ of }: { readonly of: Store }): VNode {
  return html`<${Facts} of=${[
    ['Kind', of.kind], ['Where', of.directory ?? of.url ?? null],
    ['State', of.admitting ? html`<${Badge} tone="good">admitting</${Badge}>` : html`<${Badge} tone="bad">not admitting</${Badge}> ${of.reason}`],
    ['Calls in flight', of.reservations === null ? null : exact(of.reservations)], ['Undelivered', exact(of.undelivered)],
    ['Quarantined', of.quarantined === 0 ? null : `${exact(of.quarantined)} settlements could not be booked; see tallygate events`],
    ['Spool', of.spool === null ? null : `${exact(of.spool.settlements)} settlements, ${brief(of.spool.bytes)} bytes`],
    ['Servers', of.servers.length === 0 ? null : of.servers.map((each) => html`<div key=${each.address}>${each.address} (${each.product}${each.version === null ? '' : ` ${each.version}`})</div>`)],
    ['Missed', missedWords([...of.sinks, ...of.missed_before])],
  ]} />${of.losses.length === 0 ? null : html`<details><summary>What a crash could lose</summary>${of.losses.map((each) => html`<p key=${each}>${each}</p>`)}</details>`}`
}

/** Events that a sink will never get, because the store had to forget them. */
function missedWords(all: readonly Missed[]): Children {
  const some = all.filter(({ missed }) => missed > 0)
  return some.length === 0 ? null : some.map(({ name, missed, missed_at: at }) => html`<div key=${name}><${Name} of=${name} />: <span class="warning">${exact(missed)} events</span>, last <${When} at=${at} /></div>`)
}
