import { accountPath } from './address.ts'
import { get, post } from './api.ts'
import { Dialog, Field, FormEnd } from './dialog.ts'
import { useChange, useLoaded } from './loading.ts'
import { say } from './notify.ts'
import type { AccountDetail, Plan } from './shapes.ts'
import { html, useState } from './view.ts'
import type { VNode } from './view.ts'

/** As the API takes it: nothing of this kind. */
const NONE = 'none'

/** Makes an account of the store, or changes its plan and the account above it. */
export function AccountTerms({ account, close, done }: { readonly account?: AccountDetail; close(): void; done(id: string): void }): VNode {
  const [id, setId] = useState(account?.id ?? '')
  const [plan, setPlan] = useState(account?.terms?.plan ?? NONE)
  const [parent, setParent] = useState(account?.terms?.parent ?? '')
  const { busy, problem, run } = useChange()
  const plans = useLoaded('plans', (signal) => get<{ plans: readonly Plan[] }>('/api/v1/plans', {}, signal))
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      // Of one that somebody else has made or changed meanwhile, nothing is changed.
      await post(`/api/v1${accountPath(id.trim())}`, { plan, parent: parent.trim() === '' ? NONE : parent.trim(), revision: account?.revision ?? 0 })
      say(account === undefined ? `${id.trim()} is made.` : `${id} is changed.`)
      done(id.trim())
    })
  }
  const names = [...new Set([...(plans.data?.plans ?? []).map(({ name }) => name), ...(plan === NONE ? [] : [plan])])]
  return html`<${Dialog} title=${account === undefined ? 'A new account' : `Change ${account.id}`} close=${close}><form onSubmit=${submit}>
    ${account === undefined ? html`<${Field} id="account-id" label="Name" value=${id} set=${setId} required placeholder="globex" about="Letters, digits and . _ @ + -. It cannot be changed later." />` : null}
    <${Field} id="account-plan" label="Plan" value=${plan} set=${setPlan} options=${[{ value: NONE, words: 'that of the account above it' }, ...names.map((name) => ({ value: name, words: name }))]} />
    <${Field} id="account-parent" label="Under the account" value=${parent} set=${setParent} about="Its limits apply too. Empty: it stands alone." />
    ${account === undefined ? html`<p class="muted">Limits of its own, labels and billing dates are set with <code>tallygate accounts set</code>.</p>` : null}
    <${FormEnd} problem=${problem} busy=${busy} words=${account === undefined ? 'Create account' : 'Change'} cancel=${close} /></form></${Dialog}>`
}
