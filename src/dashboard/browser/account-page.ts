import { AccountGrants } from './account-grants.ts'
import { AccountInvoice } from './account-invoice.ts'
import { AccountKeys } from './account-keys.ts'
import { AccountSubscription } from './account-subscription.ts'
import { AccountUsage } from './account-usage.ts'
import { AccountTerms } from './account-terms.ts'
import { stateBadge } from './accounts-page.ts'
import { accountPath } from './address.ts'
import { get, post, queryText } from './api.ts'
import { LimitBar } from './bar.ts'
import { Dialog, Field, FormEnd } from './dialog.ts'
import { day } from './format.ts'
import { useChange, useLoaded } from './loading.ts'
import type { Loaded } from './loading.ts'
import { say } from './notify.ts'
import { Facts, Name, PageHead, Section, When } from './pieces.ts'
import { RefusalTable } from './refusal-table.ts'
import type { AccountPage as AccountRows, AccountDetail, LimitStanding, Refusal } from './shapes.ts'
import { Empty, Failed, Skeleton, Waiting } from './states.ts'
import { Table } from './table.ts'
import { html, useState } from './view.ts'
import type { Children, VNode } from './view.ts'

/** One account: what it used, what it has left, and everything that can be done for it. */
export function AccountPage({ id, changes }: { readonly id: string; readonly changes: boolean }): VNode {
  const loaded = useLoaded(id, (signal) => get<AccountDetail>(`/api/v1${accountPath(id)}`, {}, signal), 5_000)
  const { data, problem, reload } = loaded
  if (data === undefined) return html`<${PageHead} title=${html`<${Name} of=${id} />`} />${problem === undefined ? html`<${Skeleton} lines=${8} />`
    : problem.status === 404 ? html`<${Empty} title="There is no such account."><a href="/accounts">All accounts</a></${Empty}>` : html`<${Failed} words=${problem.message} retry=${reload} />`}`
  return html`
    <p class="trail"><a href="/accounts">Accounts</a></p>
    <${PageHead} title=${html`<${Name} of=${id} /> ${stateBadge(data)}`} tools=${changes ? html`<${Change} account=${data} done=${reload} /><${Suspension} account=${data} done=${reload} />` : undefined}
      about=${html`Plan <${Name} of=${data.plan} />${data.parent === null ? null : html`, under <a href=${accountPath(data.parent)}><${Name} of=${data.parent} /></a>`}`} />
    <${Standing} account=${data} />
    <${Limits} of=${loaded} below=${html`<${AccountsUnder} parent=${id} />`} />
    <${AccountUsage} account=${id} />
    <${AccountRefusals} account=${id} />
    <${AccountKeys} account=${id} keys=${data.keys} changes=${changes} changed=${reload} />
    <${AccountGrants} account=${id} limits=${data.standing?.limits ?? null} changes=${changes} changed=${reload} />
    <div class="columns"><${AccountSubscription} account=${id} has=${data.subscription !== null} /><${About} account=${data} /></div>
    <${AccountInvoice} account=${id} />`
}

/** What stands in its way, if anything does. */
function Standing({ account }: { readonly account: AccountDetail }): VNode | null {
  if (account.unused_because !== null) return html`<p class="notice bad">This account is not used: ${account.unused_because}.</p>`
  if (!account.suspended) return null
  const by = account.suspended_parent !== null ? html`<a href=${accountPath(account.suspended_parent)}>${account.suspended_parent}</a> above it is suspended` : account.suspended_in.includes('config') ? 'The configuration says so' : `By ${account.suspended_by ?? 'somebody'}`
  return html`<p class="notice bad">Suspended: every call is refused. ${by}${account.suspended_at === null ? '' : html`, <${When} at=${account.suspended_at} />`}${account.suspended_reason === null ? '.' : html`: <bdi>${account.suspended_reason}</bdi>`}</p>`
}

function Limits({ of: { data, problem }, below }: { readonly of: Loaded<AccountDetail>; readonly below: Children }): VNode {
  const limits = data?.standing?.limits ?? []
  return html`<${Section} title="Limits">
    ${problem === undefined ? null : html`<p class="stale" role="status">Not up to date: ${problem.message}</p>`}
    ${data?.standing === null ? html`<${Empty} title="What is used is not known now.">The account has no plan, or the store is away.</${Empty}>` : limits.length === 0 ? html`<${Empty} title="No limit applies.">Neither the plan nor the account has one.</${Empty}>` : html`<div class="limits">${limits.map((limit, index) => html`<${LimitBar} key=${`${limit.name} ${limit.per} ${index}`} of=${limit} />`)}</div>
    <details><summary>As a table</summary><${Table} name="limits" caption="Limits" quiet rows=${limits} key_=${(row: LimitStanding) => `${row.name} ${row.per} ${limits.indexOf(row)}`} empty="" columns=${[
      { name: 'name', title: 'Limit', value: (row: LimitStanding) => row.name }, { name: 'meter', title: 'Meter', value: (row: LimitStanding) => row.meter }, { name: 'window', title: 'Window', value: (row: LimitStanding) => row.window },
      { name: 'limit', title: 'At most', numeric: true, value: (row: LimitStanding) => row.limit }, { name: 'used', title: 'Used', numeric: true, value: (row: LimitStanding) => row.used },
      { name: 'reserved', title: 'Held', numeric: true, value: (row: LimitStanding) => row.reserved }, { name: 'remaining', title: 'Left', numeric: true, value: (row: LimitStanding) => row.remaining },
      { name: 'resets', title: 'Begins anew', value: (row: LimitStanding) => row.resets_at }, { name: 'forecast', title: 'Runs out', value: (row: LimitStanding) => row.forecast_at },
    ]} /></details>`}
    ${below}
  </${Section}>`
}

/** So many that are named like it are looked through for those that are under it: each costs the gateway a look at its limits. */
const LOOKED_THROUGH = 50

/** Whose use its bars have in them, and its figures of usage have not. */
function AccountsUnder({ parent }: { readonly parent: string }): VNode | null {
  const { data } = useLoaded(parent, (signal) => get<AccountRows>('/api/v1/accounts', { search: parent, limit: LOOKED_THROUGH }, signal), 60_000)
  const under = (data?.accounts ?? []).filter((each) => each.parent === parent)
  const others = data !== undefined && data.total > LOOKED_THROUGH ? html`<a href=${`/accounts${queryText({ search: parent })}`}>all that match "${parent}"</a>` : null
  if (under.length === 0 && others === null) return null
  return html`<p class="muted">What accounts under it use counts here too, and not in its usage below: ${under.map(({ id }, index) => html`${index === 0 ? '' : ', '}<a key=${id} href=${accountPath(id)}><${Name} of=${id} /></a>`)}${under.length > 0 && others !== null ? '; ' : ''}${others}</p>`
}

function AccountRefusals({ account }: { readonly account: string }): VNode {
  const loaded = useLoaded(account, (signal) => get<{ refusals: readonly Refusal[] }>('/api/v1/refusals', { account, count: 50 }, signal), 3_000)
  return html`<${Section} title="Recent refusals"><${Waiting} of=${loaded}>${({ refusals }: { refusals: readonly Refusal[] }) => html`<${RefusalTable} refusals=${refusals} of="account" />`}</${Waiting}></${Section}>`
}

function About({ account }: { readonly account: AccountDetail }): VNode {
  return html`<${Section} title="About"><${Facts} of=${[
    ['Where', html`<code>${account.where}</code>`], ['Time zone', account.timezone], ['Billing from', day(account.billing_anchor)], ['Add-ons', account.add_ons.join(', ')],
    ['Labels', Object.keys(account.labels).length === 0 ? null : Object.entries(account.labels).map(([name, value]) => html`<div key=${name}><bdi>${name}</bdi>: <${Name} of=${value} /></div>`)],
    ['Made', account.created_at === null ? null : html`<${When} at=${account.created_at} /> by ${account.created_by ?? '?'}`],
  ]} /></${Section}>`
}

/** What stands in the configuration is changed there. */
function Change({ account, done }: { readonly account: AccountDetail; done(): void }): VNode | null {
  const [changing, setChanging] = useState(false)
  const close = (): void => setChanging(false)
  if (account.terms === null) return null
  return html`<button type="button" onClick=${() => setChanging(true)}>Change …</button>
    ${changing ? html`<${AccountTerms} account=${account} close=${close} done=${() => { close(); done() }} />` : null}`
}

function Suspension({ account, done }: { readonly account: AccountDetail; done(): void }): VNode | null {
  const [asking, setAsking] = useState(false)
  const [reason, setReason] = useState('')
  const change = useChange()
  const path = `/api/v1${accountPath(account.id)}`
  const resume = (): void => change.run(async () => {
    const { state } = await post<{ state: string }>(`${path}/resume`)
    say(state === 'active' ? `${account.id} is served again.` : `${account.id} stays suspended: the configuration says so.`)
    done()
  })
  const suspend = (event: Event): void => {
    event.preventDefault()
    change.run(async () => {
      await post(`${path}/suspend`, reason === '' ? {} : { reason })
      setAsking(false)
      say(`${account.id} is suspended.`)
      done()
    })
  }
  if (account.unused_because !== null) return null
  if (account.suspended_in.length > 0) return html`<button type="button" disabled=${change.busy} onClick=${resume}>Resume</button>${change.problem === '' ? null : html`<p class="problem" role="alert">${change.problem}</p>`}`
  return html`<button type="button" onClick=${() => setAsking(true)}>Suspend …</button>
    ${asking ? html`<${Dialog} title=${`Suspend ${account.id}?`} close=${() => setAsking(false)}><form onSubmit=${suspend}>
      <p>Every call of this account, and of those under it, is refused until it is resumed. Calls in flight end as they would.</p>
      <${Field} id="suspend-reason" label="Reason, for the record" value=${reason} set=${setReason} />
      <${FormEnd} problem=${change.problem} busy=${change.busy} words="Suspend" danger cancel=${() => setAsking(false)} /></form></${Dialog}>` : null}`
}
