import { accountPath } from './address.ts'
import { get, post } from './api.ts'
import { Dialog, Field, FormEnd } from './dialog.ts'
import { useChange, useLoaded } from './loading.ts'
import { say } from './notify.ts'
import type { AccountDetail, Plan } from './shapes.ts'
import { html, useState } from './view.ts'
import type { VNode } from './view.ts'
import { yamlText } from './yaml-text.ts'

/** As the API takes it: nothing of this kind. */
const NONE = 'none'

type More = Readonly<Record<'timezone' | 'billing_anchor' | 'add_ons' | 'labels' | 'limits' | 'entitlements', string>>

/** As they are written; '' where there is nothing of the kind. */
function moreOf({ terms }: Partial<Pick<AccountDetail, 'terms'>>): More {
  return {
    timezone: terms?.timezone ?? '', billing_anchor: terms?.anchor ?? '', add_ons: (terms?.add_ons ?? []).join(', '),
    labels: yamlText(terms?.labels ?? {}), limits: yamlText(terms?.limits ?? []), entitlements: yamlText(terms?.entitlements ?? {}),
  }
}

/** Only what was changed is sent: what was written elsewhere stays as it was written. */
function changedIn(before: More, now: More): Partial<More> {
  return Object.fromEntries(Object.entries(now).filter(([name, text]) => text.trim() !== before[name as keyof More]).map(([name, text]) => [name, text.trim() === '' ? NONE : text.trim()]))
}

/** Makes an account of the store, or changes it. */
export function AccountTerms({ account, close, done }: { readonly account?: AccountDetail; close(): void; done(id: string): void }): VNode {
  const [id, setId] = useState(account?.id ?? '')
  const [plan, setPlan] = useState(account?.terms?.plan ?? NONE)
  const [parent, setParent] = useState(account?.terms?.parent ?? '')
  const [before] = useState(() => moreOf(account ?? {}))
  const [more, setMore] = useState(before)
  const { busy, problem, run } = useChange()
  const plans = useLoaded('plans', (signal) => get<{ plans: readonly Plan[] }>('/api/v1/plans', {}, signal))
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      // Of one that somebody else has made or changed meanwhile, nothing is changed.
      await post(`/api/v1${accountPath(id.trim())}`, { plan, parent: parent.trim() === '' ? NONE : parent.trim(), ...changedIn(before, more), revision: account?.revision ?? 0 })
      say(account === undefined ? `${id.trim()} is made.` : `${id} is changed.`)
      done(id.trim())
    })
  }
  const field = (name: keyof More, label: string, about: string, rest: { readonly placeholder?: string; readonly lines?: number } = {}): VNode =>
    html`<${Field} id=${`account-${name}`} label=${label} value=${more[name]} set=${(text: string) => setMore((last) => ({ ...last, [name]: text }))} about=${about} ...${rest} />`
  const names = [...new Set([...(plans.data?.plans ?? []).map(({ name }) => name), ...(plan === NONE ? [] : [plan])])]
  return html`<${Dialog} title=${account === undefined ? 'A new account' : `Change ${account.id}`} close=${close}><form onSubmit=${submit}>
    ${account === undefined ? html`<${Field} id="account-id" label="Name" value=${id} set=${setId} required placeholder="globex" about="Letters, digits and . _ @ + -. It cannot be changed later." />` : null}
    <${Field} id="account-plan" label="Plan" value=${plan} set=${setPlan} options=${[{ value: NONE, words: 'that of the account above it' }, ...names.map((name) => ({ value: name, words: name }))]} />
    <${Field} id="account-parent" label="Under the account" value=${parent} set=${setParent} about="Its limits apply too. Empty: it stands alone." />
    <details open=${Object.values(before).some((text) => text !== '')}><summary>More</summary>
      ${field('limits', 'Limits of its own', 'As in the configuration, a line for each. They apply beside those of its plan; of the same name, instead.', { lines: 3, placeholder: '- { name: rpm, meter: requests, limit: 60, window: 1m }' })}
      ${field('add_ons', 'Add-ons', 'Their names, with commas between.')}
      ${field('entitlements', 'Entitlements', "In place of the plan's, a line for each.", { lines: 2, placeholder: 'models: [small, "large-*"]' })}
      ${field('labels', 'Labels', 'Copied into its events, a line for each.', { lines: 2, placeholder: 'team: search' })}
      ${field('timezone', 'Time zone', 'Of its days and months; empty: UTC. A change acts at the next boundary.', { placeholder: 'Europe/Berlin' })}
      ${field('billing_anchor', 'Billing periods count from', 'Empty: 2000-01-01. A change acts at the next boundary.', { placeholder: '2027-01-15' })}
    </details>
    <${FormEnd} problem=${problem} busy=${busy} words=${account === undefined ? 'Create account' : 'Change'} cancel=${close} /></form></${Dialog}>`
}
