import { accountPath } from './address.ts'
import { exact, fromNow, reasonWords } from './format.ts'
import { nowMs } from './clock.ts'
import { CallLink, Name, When } from './pieces.ts'
import type { Refusal } from './shapes.ts'
import { Empty } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

/** Calls that were refused, each with its reason in a sentence. */
export function RefusalTable({ refusals, of }: { readonly refusals: readonly Refusal[]; readonly of: 'everybody' | 'account' }): VNode {
  const columns: readonly Column<Refusal>[] = [
    { name: 'at', title: 'When', value: (row) => row.at, show: (row) => html`<${When} at=${row.at} />` },
    ...(of === 'account' ? [] : [{ name: 'account', title: 'Account', value: (row: Refusal) => row.account, show: (row: Refusal) => html`<a href=${accountPath(row.account)}><${Name} of=${row.account} /></a>` }]),
    { name: 'key', title: 'Key', value: (row) => row.key, show: (row) => html`<${Name} of=${row.key} />` },
    { name: 'model', title: 'Model', value: (row) => row.model, show: (row) => html`<${Name} of=${row.model} />` },
    { name: 'why', title: 'Why', value: (row) => explained(row), show: (row) => html`<strong>${reasonWords(row.reason)}</strong><br /><span class="muted">${explained(row)}</span>` },
    { name: 'id', title: 'Call', value: (row) => row.request_id, show: (row) => html`<${CallLink} id=${row.request_id} />` },
  ]
  return html`<${Table} name="refusals" caption="Recent refusals" quiet fold=${8} rows=${refusals} key_=${(row: Refusal) => row.request_id} empty=${html`<${Empty} title="Nobody was refused lately." />`} columns=${columns} />`
}

/** What the numbers of a refusal say, in a sentence or two. */
export function explained({ reason, limit, ceiling, used, remaining, resets_at: resetsAt, at, model }: Refusal): string {
  const of = limit === null ? '' : ` of "${limit}"`
  const again = resetsAt === null ? '' : ` It began anew ${fromNow(resetsAt, nowMs())}.`
  const next = resetsAt !== null && Date.parse(resetsAt) > nowMs() ? ` It begins anew ${fromNow(resetsAt, nowMs())}.` : again
  const numbers = ceiling === null ? '' : `${exact(used)} of ${exact(ceiling)}${of} were used${remaining === null ? '' : `, ${exact(remaining)} left`}.`
  switch (reason) {
    case 'capacity_reserved': return `${numbers} What was left is held by calls in flight; a moment later it might have been let in.`.trim()
    case 'concurrency_limit': return `${ceiling === null ? 'Too many calls' : `All ${exact(ceiling)} calls`}${of} were in flight.`
    case 'request_too_large': return `The call alone asks for more than ${ceiling === null ? 'what fits' : `the ${exact(ceiling)}`}${of} can ever give.`
    case 'feature_unavailable': return `The plan does not have what was asked for${model === null ? '' : `, such as the model "${model.slice(0, 80)}"`}.`
    case 'subscription_inactive': return 'The account is suspended, has not begun, or is past its end.'
    case 'no_credit_available': return `${numbers} Only a new grant helps.`.trim()
    case 'upstream_unavailable': return 'The upstream could not be reached, answered with an error of its own, or broke off.'
    case 'upstream_busy': return 'The upstream said that it has too much to do.'
    case 'upstream_timeout': return 'The upstream took too long to answer.'
    case 'bad_request': return 'The gateway could not make sense of the request.'
    default: return numbers === '' ? `Refused at ${at.slice(11, 19)} UTC.` : `${numbers}${next}`
  }
}
