import { get, post } from './api.ts'
import { brief, exact } from './format.ts'
import { useLoaded, useChange } from './loading.ts'
import { say } from './notify.ts'
import { Badge, CallLink, Facts, Name, PageHead, Section, When } from './pieces.ts'
import type { DeadEvent, Store, StoreSink } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { Children, VNode } from './view.ts'

/** Is everything told to whom it is to be told? */
export function SinksPage({ changes }: { readonly changes: boolean }): VNode {
  const store = useLoaded('store', (signal) => get<Store>('/api/v1/store', {}, signal), 2_000)
  const dead = useLoaded('dead', (signal) => get<{ dead: readonly DeadEvent[] }>('/api/v1/events/dead', {}, signal), 5_000)
  const reload = (): void => {
    store.reload()
    dead.reload()
  }
  return html`<${PageHead} title="Sinks" about="Every usage event reaches every sink, at least once and with an id that makes a second delivery harmless." />
    <${Section} title="Delivery"><${Waiting} of=${store}>${({ sinks }: Store) => html`<${Table} name="sinks" caption="Delivery" quiet rows=${sinks} key_=${(row: StoreSink) => row.name} columns=${sinkColumns(changes && sinks.some((each) => each.dead > 0), reload)}
      empty=${html`<${Empty} title="No sink is configured.">Usage events stay in the store, where the API reads them. Add one under <code>sinks</code> to have them delivered.</${Empty}>`} />`}</${Waiting}></${Section}>
    <${Section} title="Refused events"><${Waiting} of=${dead}>${({ dead: rows }: { dead: readonly DeadEvent[] }) => html`<${Table} name="dead" caption="Events that a sink refused for good" quiet rows=${rows} key_=${(row: DeadEvent) => `${row.sink} ${row.position}`} columns=${deadColumns}
      empty=${html`<${Empty} title="No sink has refused an event." />`} />`}</${Waiting}></${Section}>
    <${Section} title="Store"><${Waiting} of=${store}>${(of: Store) => html`<${StoreFacts} of=${of} />`}</${Waiting}></${Section}>`
}

function stateOf({ waiting, dead, missed }: StoreSink): string {
  return dead > 0 ? 'refuses events' : missed > 0 && waiting === 0 ? 'up to date, has missed some' : waiting > 0 ? 'behind' : 'up to date'
}

function sinkColumns(retries: boolean, reload: () => void): readonly Column<StoreSink>[] {
  return [
    { name: 'name', title: 'Sink', value: (row) => row.name, show: (row) => html`<${Name} of=${row.name} />` },
    { name: 'state', title: 'State', value: stateOf, show: (row) => html`<${Badge} tone=${row.dead > 0 ? 'bad' : row.waiting > 0 ? 'warn' : 'good'}>${stateOf(row)}</${Badge}>` },
    { name: 'waiting', title: 'Waiting', numeric: true, value: (row) => row.waiting, show: (row) => exact(row.waiting) },
    { name: 'oldest', title: 'Oldest', value: (row) => row.oldest_at, show: (row) => html`<${When} at=${row.oldest_at} />` },
    { name: 'dead', title: 'Refused', numeric: true, value: (row) => row.dead, show: (row) => exact(row.dead) },
    { name: 'missed', title: 'Missed', numeric: true, value: (row) => row.missed, show: (row) => exact(row.missed) },
    ...(retries ? [{ name: 'do', title: 'Change', sorts: false, value: () => null, show: (row: StoreSink): Children => (row.dead > 0 ? html`<${Retry} sink=${row.name} done=${reload} />` : null) }] : []),
  ]
}

function Retry({ sink, done }: { readonly sink: string; done(): void }): VNode {
  const { busy, problem, run } = useChange()
  const retry = (): void => run(async () => {
    const { delivered, failed } = await post<{ delivered: number; failed: number }>('/api/v1/events/dead/retry', { sink })
    say(failed === 0 ? `${sink} has taken ${exact(delivered)} events.` : `${sink} has taken ${exact(delivered)} events, and refused ${exact(failed)} again.`)
    done()
  })
  return html`<button type="button" class="small" disabled=${busy} onClick=${retry} aria-label=${`Deliver refused events to ${sink} again`}>${busy ? 'Delivering …' : 'Deliver again'}</button>${problem === '' ? null : html`<p class="problem" role="alert">${problem}</p>`}`
}

const deadColumns: readonly Column<DeadEvent>[] = [
  { name: 'sink', title: 'Sink', value: (row) => row.sink, show: (row) => html`<${Name} of=${row.sink} />` },
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
    ['Servers', of.servers.length === 0 ? null : of.servers.map((each) => html`<div key=${each.address}>${each.address} (${each.product} ${each.version})</div>`)],
  ]} />`
}
