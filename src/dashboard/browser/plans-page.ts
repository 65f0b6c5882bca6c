import { get } from './api.ts'
import { exact, meterWords, windowWords } from './format.ts'
import { useLoaded } from './loading.ts'
import { Badge, Facts, Name, PageHead, Section } from './pieces.ts'
import type { Plan, PlanLimit } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

export function PlansPage(): VNode {
  const loaded = useLoaded('plans', (signal) => get<{ plans: readonly Plan[] }>('/api/v1/plans', {}, signal), 30_000)
  return html`<${PageHead} title="Plans" about="As the configuration that is in use has them. A change of it acts at once, and resets nobody's usage." />
    <${Waiting} of=${loaded} lines=${8}>${({ plans }: { plans: readonly Plan[] }) => (plans.length === 0 ? html`<${Empty} title="There are no plans." />` : plans.map((plan) => html`<${PlanPanel} key=${plan.name} plan=${plan} />`))}</${Waiting}>`
}

const columns: readonly Column<PlanLimit>[] = [
  { name: 'name', title: 'Limit', value: (row) => row.name },
  { name: 'limit', title: 'At most', numeric: true, value: (row) => row.limit, show: (row) => (row.limit === null ? 'no end' : exact(row.limit)) },
  { name: 'meter', title: 'Of', value: (row) => row.meter, show: (row) => meterWords(row.meter) },
  { name: 'window', title: 'In', value: (row) => row.window, show: (row) => windowWords(row.window) },
  { name: 'per', title: 'For', value: scopeWords },
  { name: 'overdraft', title: 'Beyond', value: (row) => String(row.overdraft), show: (row) => (row.overdraft === 'none' || row.overdraft === 0 ? '–' : String(row.overdraft)) },
  { name: 'mode', title: 'Mode', value: (row) => row.mode, show: (row) => html`${row.mode === 'shadow' ? html`<${Badge} tone="warn">only watched</${Badge}>` : 'enforced'}${row.visible ? '' : html` <${Badge} tone="plain">hidden</${Badge}>`}` },
]

function scopeWords({ per, each, for: only }: PlanLimit): string {
  return [per === 'key' ? 'each key' : per === 'end_user' ? 'each end user' : 'the account', ...(each === null ? [] : [`each ${each}`]), ...(only.models === null ? [] : [`models ${only.models.join(', ')}`]), ...(only.endpoints === null ? [] : [`endpoints ${only.endpoints.join(', ')}`])].join('; ')
}

function PlanPanel({ plan }: { readonly plan: Plan }): VNode {
  const { entitlements, policy } = plan
  return html`<${Section} id=${`plan-${plan.name}`} title=${plan.name} tools=${html`<span class="muted">version ${plan.version}</span>${plan.public ? html`<${Badge} tone="good">public</${Badge}>` : null}`}>
    <${Table} name=${`plan-${plan.name}`} caption=${`Limits of ${plan.name}`} quiet rows=${plan.limits} key_=${(row: PlanLimit) => `${row.name} ${plan.limits.indexOf(row)}`} columns=${columns} empty=${html`<${Empty} title="No limits.">Everything that it may use, it may use without end.</${Empty}>`} />
    <${Facts} of=${[
      ['Models', entitlements.models.map((name) => html`<code key=${name}><${Name} of=${name} /></code> `)], ['Endpoints', entitlements.endpoints === null ? null : entitlements.endpoints.join(', ')],
      ['Output tokens', entitlements.max_output_tokens === null ? null : `at most ${exact(entitlements.max_output_tokens)} a call`], ['Context', entitlements.max_context_tokens === null ? null : `at most ${exact(entitlements.max_context_tokens)} tokens`], ['Priority', entitlements.priority], ['Features', entitlements.features.join(', ')], ['Denied', entitlements.deny_features.join(', ')],
      ['Prices', plan.prices === null ? 'none' : `${plan.prices.currency}${plan.prices.version === null ? '' : `, ${plan.prices.version}`}`],
    ]} />
    <details><summary>Policy</summary><${Facts} of=${Object.entries(policy).map(([name, value]) => [name.replaceAll('_', ' '), String(value)])} /></details></${Section}>`
}
