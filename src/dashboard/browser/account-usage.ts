import { setQuery, useAddress } from './address.ts'
import { get } from './api.ts'
import { Chart } from './chart.ts'
import { nowMs } from './clock.ts'
import { costColumns, currenciesOf } from './costs.ts'
import { brief, exact, instant, sum } from './format.ts'
import { latency, upstreamTimes } from './live-page.ts'
import { useLoaded } from './loading.ts'
import { Choice, Name, Section } from './pieces.ts'
import { RollupsState } from './rollups-state.ts'
import type { UsageAnswer, UsageRow } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import { MEASURES, RANGES, seriesOf } from './usage.ts'
import type { Measure } from './usage.ts'
import { html, useMemo } from './view.ts'
import type { VNode } from './view.ts'

const GROUPS = [{ value: 'model', words: 'by model' }, { value: 'key', words: 'by key' }] as const

interface Both {
  readonly series: UsageAnswer
  readonly sums: UsageAnswer
}

/** Usage over time, and its sums; what is shown is in the address. */
export function AccountUsage({ account }: { readonly account: string }): VNode {
  const { query } = useAddress()
  const range = RANGES.find(({ value }) => value === query.get('range')) ?? RANGES[1]
  const by = GROUPS.find(({ value }) => value === query.get('by'))?.value ?? 'model'
  const measure: Measure = MEASURES.find(({ value }) => value === query.get('measure'))?.value ?? 'total_tokens'
  const loaded = useLoaded(`${account} ${range.value} ${by}`, async (signal): Promise<Both> => {
    const asked = { from: new Date(nowMs() - range.ms).toISOString(), unit: range.unit, by, account }
    const [series, sums] = await Promise.all([get<UsageAnswer>('/api/v1/analytics/usage', { ...asked, series: true, percentiles: false }, signal), get<UsageAnswer>('/api/v1/analytics/usage', { ...asked, top: 50, order: 'total_tokens' }, signal)])
    return { series, sums }
  }, 10_000)
  const { data } = loaded
  const currencies = useMemo(() => currenciesOf((data?.series.rows ?? []).map((row) => row.cost)), [data])
  const currency = currencies.find((each) => each === query.get('currency')) ?? currencies[0] ?? ''
  const shown = useMemo(() => (data === undefined ? null : seriesOf(data.series, by, measure, by === 'model' ? 'without a model' : 'without a key', currency)), [data, by, measure, currency])
  const write = measure === 'cost' ? (value: number) => sum(value, currency) : exact
  const words = MEASURES.find(({ value }) => value === measure)?.words ?? ''
  return html`<${Section} title="Usage" tools=${html`
      <${Choice} label="What" options=${MEASURES} value=${measure} choose=${(value: string) => setQuery({ measure: value === 'total_tokens' ? '' : value })} />
      ${measure === 'cost' && currencies.length > 1 ? html`<${Choice} label="Currency" options=${currencies.map((value) => ({ value, words: value }))} value=${currency} choose=${(value: string) => setQuery({ currency: value })} />` : null}
      <${Choice} label="By" options=${GROUPS} value=${by} choose=${(value: string) => setQuery({ by: value === 'model' ? '' : value })} />
      <${Choice} label="How long" options=${RANGES} value=${range.value} choose=${(value: string) => setQuery({ range: value === '24h' ? '' : value })} />`}>
    <${RollupsState} />
    <${Waiting} of=${loaded} lines=${6}>${({ sums }: Both) => (shown === null || sums.rows.length === 0 ? html`<${Empty} title="Nothing was used in this time.">Choose a longer one, or another account.</${Empty}>` : html`
      <${Chart} about=${aboutChart(words, by, sums, measure, currency)} times=${shown.times} stepMs=${shown.stepMs} lines=${shown.lines} write=${write} />
      <${Sums} rows=${sums.rows} by=${by} />
      <details><summary>Every bar as a table</summary><${Buckets} rows=${data?.series.rows ?? []} by=${by} /></details>`)}</${Waiting}></${Section}>`
}

function aboutChart(words: string, by: string, { from, to, rows }: UsageAnswer, measure: Measure, currency: string): string {
  const top = (measure === 'cost' ? rows.filter(({ cost }) => Number(cost[currency] ?? 0) !== 0) : rows).slice(0, 5)
    .map((row) => `${(by === 'model' ? row.model : row.key) ?? 'nothing'} ${measure === 'cost' ? sum(row.cost[currency] ?? '0', currency) : exact(row[measure])}`)
  return `${words} by ${by} from ${instant(from)} to ${instant(to)}: ${top.join(', ')}. The table that follows has the sums.`
}

function Sums({ rows, by }: { readonly rows: readonly UsageRow[]; readonly by: 'model' | 'key' }): VNode {
  const name = (row: UsageRow): string => row[by] ?? ''
  return html`<${Table} name="usage" caption=${`Usage by ${by}`} rows=${rows} key_=${name} empty="" columns=${[
    { name: 'name', title: by === 'model' ? 'Model' : 'Key', value: name, show: (row: UsageRow) => html`<${Name} of=${name(row)} />` },
    { name: 'requests', title: 'Requests', numeric: true, value: (row: UsageRow) => row.requests, show: (row: UsageRow) => exact(row.requests) },
    { name: 'input', title: 'Input tokens', numeric: true, value: (row: UsageRow) => row.input_tokens, show: (row: UsageRow) => brief(row.input_tokens) },
    { name: 'output', title: 'Output tokens', numeric: true, value: (row: UsageRow) => row.output_tokens, show: (row: UsageRow) => brief(row.output_tokens) },
    ...costColumns(rows, (row) => row.cost),
    ...upstreamTimes,
    { name: 'ttft', title: 'First token', about: 'Half of the calls had begun to be answered so long after they came in, or sooner', numeric: true, value: (row: UsageRow) => row.ttft_p50_ms, show: (row: UsageRow) => latency(row.ttft_p50_ms) },
    { name: 'speed', title: 'Tokens / s', numeric: true, value: (row: UsageRow) => row.tokens_per_second, show: (row: UsageRow) => (row.tokens_per_second === null ? '–' : brief(Math.round(row.tokens_per_second))) },
  ]} />`
}

function Buckets({ rows, by }: { readonly rows: readonly UsageRow[]; readonly by: 'model' | 'key' }): VNode {
  return html`<${Table} name="series" caption="Usage over time" rows=${rows} key_=${(row: UsageRow) => `${row.from} ${row[by]}`} empty="" columns=${[
    { name: 'from', title: 'From', value: (row: UsageRow) => row.from ?? null, show: (row: UsageRow) => instant(row.from) },
    { name: 'name', title: by === 'model' ? 'Model' : 'Key', value: (row: UsageRow) => row[by] ?? '', show: (row: UsageRow) => html`<${Name} of=${row[by]} />` },
    { name: 'requests', title: 'Requests', numeric: true, value: (row: UsageRow) => row.requests, show: (row: UsageRow) => exact(row.requests) },
    { name: 'tokens', title: 'Tokens', numeric: true, value: (row: UsageRow) => row.total_tokens, show: (row: UsageRow) => exact(row.total_tokens) },
    ...costColumns(rows, (row) => row.cost),
  ]} />`
}
