import { accountPath, sinkPath } from './address.ts'
import { get } from './api.ts'
import { nowMs } from './clock.ts'
import { Chart } from './chart.ts'
import { costColumns, currenciesOf } from './costs.ts'
import { brief, exact, money, reasonWords, sum } from './format.ts'
import { KEPT, useFeed } from './live-feed.ts'
import { useLoaded } from './loading.ts'
import { Badge, Name, PageHead, Section } from './pieces.ts'
import { RefusalTable } from './refusal-table.ts'
import { RollupsState } from './rollups-state.ts'
import type { Live, Refusal, UsageAnswer, UsageRow } from './shapes.ts'
import { Sparkline } from './sparkline.ts'
import { Empty, Skeleton, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { seriesOf } from './usage.ts'
import { html, useMemo } from './view.ts'
import type { VNode } from './view.ts'

/** What happens now. */
export function LivePage(): VNode {
  const { seconds, state } = useFeed()
  const now = seconds.at(-1)
  return html`
    <${PageHead} title="Live" about="What happens now, second by second." />
    <${RollupsState} />
    ${now === undefined ? html`<${Skeleton} lines=${2} />` : html`<div class=${`tiles ${state === 'lost' ? 'old' : ''}`}>
      <${Tile} words="Requests / s" value=${brief(now.requests_per_second)} values=${seconds.map((each) => each.requests_per_second)} />
      <${Tile} words="Tokens / s" value=${brief(now.tokens_per_second)} values=${seconds.map((each) => each.tokens_per_second)} />
      <${CostTile} seconds=${seconds} now=${now} />
      <${Tile} words="Calls open" value=${exact(now.open)} more=${`${exact(now.streams)} streams`} values=${seconds.map((each) => each.open)} />
      <${Tile} words="Refusals / s" value=${brief(now.refused_per_second)} values=${seconds.map((each) => each.refused_per_second)} tone=${now.refused_per_second > 0 ? 'bad' : ''} />
    </div>`}
    <${LastHour} />
    <div class="columns">
      <${Section} title="Refused in the last minute"><${Reasons} now=${now} /></${Section}>
      <${Section} title="Delivery"><${Delivery} now=${now} /></${Section}>
    </div>
    <${Busiest} />
    <${Latest} />`
}

/** The curve and the figure are those of one currency; what comes in others stands beside it. */
function CostTile({ seconds, now: { cost_per_second: now } }: { readonly seconds: readonly Live[]; readonly now: Live }): VNode {
  const [currency = ''] = currenciesOf(seconds.map((each) => each.cost_per_second))
  const others = Object.entries(now).filter(([name, amount]) => name !== currency && Number(amount) !== 0)
  const amount = now[currency] ?? '0'
  return html`<${Tile} words="Cost / s" value=${Number(amount) === 0 && others.length === 0 ? '0' : sum(amount, currency)} more=${others.length === 0 ? undefined : `+ ${money(Object.fromEntries(others))}`}
    values=${seconds.map(({ cost_per_second: cost }) => Number(cost[currency] ?? 0))} />`
}

function Tile({ words, value, more, values, tone = '' }: { readonly words: string; readonly value: string; readonly more?: string; readonly values: readonly number[]; readonly tone?: string }): VNode {
  return html`<div class=${`tile ${tone}`}><h2>${words}</h2><p class="figure">${value}${more === undefined ? null : html` <small class="muted">${more}</small>`}</p><${Sparkline} values=${values} length=${KEPT} /></div>`
}

function Reasons({ now }: { readonly now: Live | undefined }): VNode {
  if (now === undefined) return html`<${Skeleton} lines=${2} />`
  const rows = Object.entries(now.refusals).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1])
  if (rows.length === 0) return html`<${Empty} title="Nobody was refused." />`
  const most = rows[0]?.[1] ?? 1
  return html`<ul class="ranks">${rows.map(([reason, count]) => html`<li key=${reason}><span>${reasonWords(reason)}</span><b>${exact(count)}</b><i style=${{ width: `${(count / most) * 100}%` }} aria-hidden="true"></i></li>`)}</ul>`
}

function Delivery({ now }: { readonly now: Live | undefined }): VNode {
  if (now === undefined) return html`<${Skeleton} lines=${2} />`
  if (now.sinks.length === 0) return html`<${Empty} title="No sink is configured.">Usage events stay in the store.</${Empty}>`
  return html`<ul class="rows">${now.sinks.map(({ name, lag, dead }) => html`<li key=${name}><a href=${sinkPath(name)}><${Name} of=${name} /></a>
    <span>${lag === 0 ? html`<${Badge} tone="good">up to date</${Badge}>` : html`<${Badge} tone="warn">${brief(lag)} waiting</${Badge}>`}${dead > 0 ? html` <${Badge} tone="bad">${brief(dead)} refused</${Badge}>` : null}</span></li>`)}</ul>`
}

const HOUR_MS = 3_600_000

function LastHour(): VNode {
  const loaded = useLoaded('hour', async (signal) => get<UsageAnswer>('/api/v1/analytics/usage', { from: new Date(nowMs() - HOUR_MS).toISOString(), unit: 'minute', by: 'model', series: true, percentiles: false }, signal), 15_000)
  const series = useMemo(() => (loaded.data === undefined ? null : seriesOf(loaded.data, 'model', 'requests', 'without a model')), [loaded.data])
  return html`<${Section} title="Requests in the last hour"><${Waiting} of=${loaded} lines=${5}>${() => (series === null || series.lines.length === 0
    ? html`<${Empty} title="No calls in the last hour.">Point an OpenAI or Anthropic client at the gateway with one of its keys; its calls appear here within two seconds.</${Empty}>`
    : html`<${Chart} about=${`Requests in each minute of the last hour, by model: ${series.lines.map(({ name, values }) => `${name} ${exact(values.reduce((all, value) => all + value, 0))}`).join(', ')}. The table of the busiest accounts follows.`} times=${series.times} stepMs=${series.stepMs} lines=${series.lines} write=${exact} />`)}</${Waiting}></${Section}>`
}

function Busiest(): VNode {
  const loaded = useLoaded('busiest', async (signal) => get<UsageAnswer>('/api/v1/analytics/usage', { from: new Date(nowMs() - HOUR_MS).toISOString(), unit: 'minute', by: 'account', top: 10 }, signal), 10_000)
  return html`<${Section} title="Busiest accounts of the last hour"><${Waiting} of=${loaded}>${({ rows }: UsageAnswer) => html`<${Table} name="busiest" caption="Busiest accounts of the last hour" quiet rows=${rows} key_=${(row: UsageRow) => row.account ?? ''}
    empty=${html`<${Empty} title="No calls in the last hour." />`} columns=${[
      { name: 'account', title: 'Account', value: (row: UsageRow) => row.account ?? '', show: (row: UsageRow) => html`<a href=${accountPath(row.account ?? '')}><${Name} of=${row.account} /></a>` },
      { name: 'requests', title: 'Requests', numeric: true, value: (row: UsageRow) => row.requests, show: (row: UsageRow) => exact(row.requests) },
      { name: 'tokens', title: 'Tokens', numeric: true, value: (row: UsageRow) => row.total_tokens, show: (row: UsageRow) => brief(row.total_tokens) },
      ...costColumns(rows, (row) => row.cost),
      { name: 'refused', title: 'Refused', numeric: true, value: (row: UsageRow) => row.refused, show: (row: UsageRow) => exact(row.refused) },
      ...upstreamTimes,
    ]} />`}</${Waiting}></${Section}>`
}

/** Not the whole time of calls: what was spent on admitting and reading them is beside it. */
export const upstreamTimes: readonly Column<UsageRow>[] = [
  { name: 'p50', title: 'Upstream median', about: 'The upstream took so long for half of the calls, or less: from when each was passed on to the end of its answer', numeric: true, value: (row) => row.p50_ms, show: (row) => latency(row.p50_ms) },
  { name: 'p95', title: 'Upstream 95 %', about: 'The upstream took so long for 95 of 100 calls, or less', numeric: true, value: (row) => row.p95_ms, show: (row) => latency(row.p95_ms) },
]

export function latency(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–'
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`
}

function Latest(): VNode {
  const loaded = useLoaded('latest', async (signal) => get<{ refusals: readonly Refusal[] }>('/api/v1/refusals', { count: 10 }, signal), 3_000)
  return html`<${Section} title="Latest refusals"><${Waiting} of=${loaded}>${({ refusals }: { refusals: readonly Refusal[] }) => html`<${RefusalTable} refusals=${refusals} of="everybody" />`}</${Waiting}>
    <p class="muted">Refusals are sampled: a flood shows its first few each second, and all of them are counted.</p></${Section}>`
}
