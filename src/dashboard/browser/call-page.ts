import { accountPath } from './address.ts'
import { ApiProblem, get } from './api.ts'
import { exact, failedUpstream, meterWords, reasonWords, windowWords } from './format.ts'
import { useLoaded } from './loading.ts'
import { Badge, Facts, Name, PageHead, Section, When } from './pieces.ts'
import { explained } from './refusal-table.ts'
import type { CallPrice, Explanation, PricePart, Refusal, RefusalExplanation, UsageEvent } from './shapes.ts'
import { Empty, Failed, Skeleton } from './states.ts'
import { Table } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

type Found = { readonly call: Explanation; readonly events: readonly UsageEvent[] } | { readonly refusal: Refusal } | { readonly nothing: string }
type LimitRow = Explanation['limits'][number]

/** How a call was held, settled and priced; of a refused one, why. */
export function CallPage({ id }: { readonly id: string }): VNode {
  const { data, problem, reload } = useLoaded(id, (signal) => find(id, signal))
  return html`<p class="trail"><a href="/events">Events</a></p>
    <${PageHead} title="A call" about=${html`<code class="id">${id}</code>`} />
    ${data === undefined ? (problem === undefined ? html`<${Skeleton} lines=${8} />` : html`<${Failed} words=${problem.message} retry=${reload} />`)
    : 'call' in data ? html`<${Settled} call=${data.call} events=${data.events} />` : 'refusal' in data ? html`<${Refused} of=${data.refusal} />` : html`<${Empty} title="No such call is known.">${data.nothing}</${Empty}>`}`
}

async function find(id: string, signal: AbortSignal): Promise<Found> {
  const path = encodeURIComponent(id)
  try {
    const call = await get<Explanation | RefusalExplanation>(`/api/v1/explain/${path}`, {}, signal)
    if (call.state === 'refused') return { refusal: { ...call, at: call.refused_at, request_id: call.id } }
    const { events } = call.state === 'in_flight' ? { events: [] } : await get<{ events: readonly UsageEvent[] }>(`/api/v1/events/${path}`, {}, signal)
    return { call, events }
  } catch (error) {
    if (!(error instanceof ApiProblem) || (error.status !== 404 && error.status !== 422)) throw error
    return { nothing: error.message }
  }
}

function Refused({ of }: { readonly of: Refusal }): VNode {
  return html`<${Section} title=${failedUpstream(of.reason) ? 'Failed upstream' : 'Refused'}><p class="notice bad"><strong>${reasonWords(of.reason)}.</strong> ${explained(of)}</p>
    <${Facts} of=${[
      ['When', html`<${When} at=${of.at} exact />`], ['Account', html`<a href=${accountPath(of.account)}><${Name} of=${of.account} /></a>`], ['Key', html`<${Name} of=${of.key} />`], ['Model', html`<${Name} of=${of.model} />`],
      ['Reason', html`<code>${of.reason}</code>`], ['Limit', of.limit], ['At most', of.ceiling === null ? null : exact(of.ceiling)], ['Used', of.used === null ? null : exact(of.used)], ['Left', of.remaining === null ? null : exact(of.remaining)],
      ['Begins anew', of.resets_at === null ? null : html`<${When} at=${of.resets_at} exact />`],
    ]} /><p class="muted">${consequence(of)}</p></${Section}>`
}

function consequence({ reason }: Refusal): string {
  if (failedUpstream(reason)) return 'It failed at the upstream, not here: it changed no counter, and nothing was billed.'
  return reason === 'internal' ? 'It changed no counter, and nothing was billed.' : 'A refused call changed no counter, cost nothing and never reached an upstream.'
}

function Settled({ call, events }: { readonly call: Explanation; readonly events: readonly UsageEvent[] }): VNode {
  const { price } = call
  return html`${call.notes.map((note) => html`<p class="notice" key=${note}>${note}</p>`)}
    <${Section} title="What it was"><${Facts} of=${[
      ['State', html`<${Badge} tone=${call.state === 'settled' ? 'good' : 'warn'}>${call.state.replaceAll('_', ' ')}</${Badge}>${call.end === null ? '' : ` ${call.end.replaceAll('_', ' ')}`}`],
      ['Admitted', html`<${When} at=${call.admitted_at} exact />`], ['Settled', call.settled_at === null ? null : html`<${When} at=${call.settled_at} exact />`],
      ['Account', html`<a href=${accountPath(call.account)}><${Name} of=${call.account} /></a>`], ['Key', html`<${Name} of=${call.key} />`], ['Plan', `${call.plan}, version ${call.plan_version}`],
      ['Endpoint', `${call.provider} ${call.endpoint}${call.stream ? ', streamed' : ''}`], ['Model', html`<${Name} of=${call.model} />`], ['Served by', html`<${Name} of=${call.model_served} /> at <${Name} of=${call.upstream} />`],
      ['Features', call.features.join(', ')], ['Status', call.status], ['Counted by', call.usage_source === null ? null : call.usage_source.replaceAll('_', ' ')], ['Output bound', call.output_bound],
      ['Shadow limits', call.shadow.length === 0 ? null : `${call.shadow.join(', ')} would have refused it`],
    ]} /></${Section}>
    <${Section} title="Limits"><${Table} name="call-limits" caption="What it held and used of each limit" quiet rows=${call.limits} key_=${(row: LimitRow) => `${row.of} ${row.name} ${row.per}`} empty=${html`<${Empty} title="No limit applied." />`} columns=${[
      { name: 'name', title: 'Limit', value: (row: LimitRow) => row.name, show: (row: LimitRow) => html`<strong>${row.name}</strong>${row.mode === 'shadow' ? ' (only watched)' : ''}<br /><small class="muted">${meterWords(row.meter)} ${windowWords(row.window)}</small>` },
      { name: 'of', title: 'Whose', value: (row: LimitRow) => row.of, show: (row: LimitRow) => html`<${Name} of=${row.of} />` },
      { name: 'limit', title: 'At most', numeric: true, value: (row: LimitRow) => row.limit, show: (row: LimitRow) => (row.limit === null ? 'no end' : exact(row.limit)) },
      { name: 'held', title: 'Held', numeric: true, value: (row: LimitRow) => row.held, show: (row: LimitRow) => exact(row.held) },
      { name: 'used', title: 'Used', numeric: true, value: (row: LimitRow) => row.used, show: (row: LimitRow) => exact(row.used) },
      { name: 'drawn', title: 'Drawn from', sorts: false, value: (row: LimitRow) => drawn(row) },
    ]} /></${Section}>
    <div class="columns"><${Section} title="Usage"><${Facts} of=${Object.entries(call.usage).filter(([, amount]) => amount !== 0).map(([name, amount]) => [name.replaceAll('_', ' '), exact(amount)])} /></${Section}>
    <${Section} title="Price">${price === null || price.cost === null ? html`<${Empty} title="It cost nothing.">${price?.note ?? ''}</${Empty}>` : html`<${Parts} price=${price} />`}</${Section}></div>
    ${events.length === 0 ? null : html`<${Section} title="As delivered">${events.map((event) => html`<details key=${event.id}><summary><code class="id">${event.id}</code></summary><pre tabindex="0">${JSON.stringify(event, null, 2)}</pre></details>`)}</${Section}>`}`
}

function drawn({ buckets }: LimitRow): string {
  return buckets.filter((each) => each.drawn !== 0).map((each) => `${each.bucket} ${exact(each.drawn)}`).join(', ')
}

function Parts({ price }: { readonly price: CallPrice }): VNode {
  return html`<${Table} name="price" caption=${price.price_version === null ? 'Parts of the price' : `Prices ${price.price_version}`} rows=${price.parts} key_=${(row: PricePart) => row.counted} empty="" columns=${[
    { name: 'counted', title: 'Counted', value: (row: PricePart) => row.counted, show: (row: PricePart) => row.counted.replaceAll('_', ' ') }, { name: 'quantity', title: 'Quantity', numeric: true, value: (row: PricePart) => row.quantity },
    { name: 'each', title: 'Each', numeric: true, value: (row: PricePart) => row.unit_price }, { name: 'amount', title: price.currency ?? 'Amount', numeric: true, value: (row: PricePart) => row.amount },
  ]} /><dl class="total"><div class="sum"><dt>Cost</dt><dd>${price.cost} ${price.currency}</dd></div></dl>${price.note === null ? null : html`<p class="muted">${price.note}</p>`}`
}
