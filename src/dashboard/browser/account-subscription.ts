import { get } from './api.ts'
import { day, instant, length } from './format.ts'
import { useLoaded } from './loading.ts'
import { Badge, Facts, Section, When } from './pieces.ts'
import type { SubscriptionShape } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { html } from './view.ts'
import type { VNode } from './view.ts'

export function AccountSubscription({ account, has }: { readonly account: string; readonly has: boolean }): VNode {
  return html`<${Section} title="Subscription">${has ? html`<${Details} account=${account} />` : html`<${Empty} title="No subscription of its own.">It is served on its plan, without an end.</${Empty}>`}</${Section}>`
}

function Details({ account }: { readonly account: string }): VNode {
  const loaded = useLoaded(account, (signal) => get<SubscriptionShape>(`/api/v1/subscriptions/${encodeURIComponent(account)}`, {}, signal), 30_000)
  return html`<${Waiting} of=${loaded}>${(of: SubscriptionShape) => html`<${Facts} of=${[
    ['State', html`<${Badge} tone=${of.state === 'active' || of.state === 'trial' ? 'good' : 'warn'}>${of.state.replaceAll('_', ' ')}</${Badge}>`],
    ['Kind', of.kind], [of.state === 'pending' ? 'Begins' : 'Until', of.until === null ? null : html`<${When} at=${of.until} exact />`],
    ['Term', of.term === null ? null : of.term.end === null ? `from ${day(of.term.start)}` : `${day(of.term.start)} to ${day(of.term.end)}`], ['Renews', of.renewal === 'auto' ? `by itself${of.term_length === null ? '' : `, for ${of.term_length}`}` : 'not by itself'],
    ['Ends', of.end === null ? null : instant(of.end)], ['Grace', of.grace_ms === 0 ? null : length(of.grace_ms)], ['Trial ends', of.trial_end === null ? null : instant(of.trial_end)], ['Seats', of.seats], ['Add-ons', of.add_ons.join(', ')],
    ['Suspended', of.suspended === null ? null : `from ${instant(of.suspended.from)}${of.suspended.until === null ? '' : ` until ${instant(of.suspended.until)}`}`],
    ['Plans', of.plans.length === 0 ? null : of.plans.map((each, index) => html`<div key=${index}>${each.plan}${each.from === null ? '' : ` from ${day(each.from)}`}</div>`)],
    ['Next notice', of.next_announcement === null ? null : html`<${When} at=${of.next_announcement.at} />`], ['Time zone', of.timezone],
  ]} />`}</${Waiting}>`
}
