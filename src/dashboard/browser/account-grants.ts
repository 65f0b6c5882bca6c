import { get, post, remove } from './api.ts'
import { Dialog, Field, FormEnd } from './dialog.ts'
import { amountWords, exact, meterWords, unitOf } from './format.ts'
import { useChange, useLoaded } from './loading.ts'
import { say } from './notify.ts'
import { Badge, Name, Section, When } from './pieces.ts'
import type { Tone } from './pieces.ts'
import type { GrantRow, LimitStanding } from './shapes.ts'
import { Empty, Waiting } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html, useState } from './view.ts'
import type { VNode } from './view.ts'

const tones: Readonly<Record<string, Tone>> = { active: 'good', pending: 'warn', revoked: 'bad', expired: 'plain', spent: 'plain', unused: 'warn', hidden: 'plain' }

/** The gateway refuses grants beyond others: they go beyond an amount for a period, not a rate. */
const extended: readonly (string | null)[] = ['day', 'week', 'month', 'billing_period', 'term', 'lifetime']

/** `limits` null: they are not known now. */
export function AccountGrants({ account, limits, changes, changed }: { readonly account: string; readonly limits: readonly LimitStanding[] | null; readonly changes: boolean; changed(): void }): VNode {
  const [giving, setGiving] = useState(false)
  const [revoking, setRevoking] = useState<GrantRow | null>(null)
  const loaded = useLoaded(account, (signal) => get<{ grants: readonly GrantRow[] }>('/api/v1/grants', { account }, signal), 10_000)
  const done = (words: string): void => {
    setGiving(false)
    setRevoking(null)
    say(words)
    loaded.reload()
    changed()
  }
  const columns: readonly Column<GrantRow>[] = [
    { name: 'id', title: 'Grant', value: (row) => row.id, show: (row) => html`<${Name} of=${row.id} />${row.note === null ? null : html`<br /><small class="muted"><bdi>${row.note}</bdi></small>`}` },
    { name: 'limit', title: 'Beyond', value: (row) => row.limit, show: (row) => html`<${Name} of=${row.limit} />` },
    { name: 'amount', title: 'Amount', numeric: true, value: (row) => row.amount, show: (row) => amountWords(row.amount, row.meter) },
    { name: 'used', title: 'Used', numeric: true, value: (row) => row.used, show: (row) => exact(row.used) },
    { name: 'left', title: 'Left', numeric: true, value: (row) => row.remaining, show: (row) => exact(row.remaining) },
    { name: 'from', title: 'From', value: (row) => row.effective_at, show: (row) => html`<${When} at=${row.effective_at} />` },
    { name: 'expires', title: 'Expires', value: (row) => row.expires_at, show: (row) => html`<${When} at=${row.expires_at} />` },
    { name: 'state', title: 'State', value: (row) => row.state, show: (row) => html`<${Badge} tone=${tones[row.state] ?? 'plain'}>${row.state === 'revoked' ? 'taken back' : row.state}</${Badge}>` },
    ...(changes ? [{ name: 'do', title: 'Change', sorts: false, value: () => null, show: (row: GrantRow) => (row.state === 'active' || row.state === 'pending' ? html`<button type="button" class="small" aria-label=${`Take back ${row.id}`} onClick=${() => setRevoking(row)}>Take back …</button>` : null) }] : []),
  ]
  const extendable = (limits ?? []).filter(({ name, limit, window, per }) => limit !== null && !name.includes('/') && per === 'account' && extended.includes(window))
  return html`<${Section} title="Grants" tools=${changes && extendable.length > 0 ? html`<button type="button" onClick=${() => setGiving(true)}>Give a grant …</button>` : undefined}>
    <${Waiting} of=${loaded}>${({ grants }: { grants: readonly GrantRow[] }) => html`<${Table} name="grants" caption="Grants" quiet rows=${grants} key_=${(row: GrantRow) => row.id} columns=${columns}
      empty=${html`<${Empty} title="No grants.">A grant is an amount beyond a limit: credit that was bought, or help in a bad week.</${Empty}>`} />`}</${Waiting}>
    ${changes && limits !== null && extendable.length === 0 ? html`<p class="muted">No grant can be given: none of its limits counts a day, week, month, billing period, term or lifetime.</p>` : null}
    ${giving ? html`<${GiveGrant} account=${account} limits=${extendable} close=${() => setGiving(false)} done=${done} />` : null}
    ${revoking === null ? null : html`<${TakeBack} grant=${revoking} close=${() => setRevoking(null)} done=${done} />`}
  </${Section}>`
}

function GiveGrant({ account, limits, close, done }: { readonly account: string; readonly limits: readonly LimitStanding[]; close(): void; done(words: string): void }): VNode {
  const [limit, setLimit] = useState(limits[0]?.name ?? '')
  const [amount, setAmount] = useState('')
  const [expires, setExpires] = useState('')
  const [note, setNote] = useState('')
  const { busy, problem, run } = useChange()
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      const made = await post<GrantRow>('/api/v1/grants', { account, limit, amount: amount.trim(), ...(expires === '' ? {} : { expires }), ...(note === '' ? {} : { note }) })
      done(`${amountWords(made.amount, made.meter)} granted beyond ${made.limit}.`)
    })
  }
  const chosen = limits.find(({ name }) => name === limit)
  return html`<${Dialog} title=${`A grant for ${account}`} close=${close}><form onSubmit=${submit}>
    <${Field} id="grant-limit" label="Beyond the limit" value=${limit} set=${setLimit} options=${limits.map(({ name, meter }) => ({ value: name, words: `${name} (${meterWords(meter)})` }))} />
    <${Field} id="grant-amount" label="Amount" value=${amount} set=${setAmount} required placeholder="500k" about=${`In ${unitOf(chosen?.meter ?? '') || 'the units of the limit'}; 500k and 2.5M are understood.`} />
    <${Field} id="grant-expires" label="Expires" value=${expires} set=${setExpires} placeholder="2027-01-31" about="A day by the account's time zone, or an instant; never, unless given." />
    <${Field} id="grant-note" label="Note" value=${note} set=${setNote} />
    <${FormEnd} problem=${problem} busy=${busy} words="Give" cancel=${close} /></form></${Dialog}>`
}

function TakeBack({ grant, close, done }: { readonly grant: GrantRow; close(): void; done(words: string): void }): VNode {
  const [reason, setReason] = useState('')
  const { busy, problem, run } = useChange()
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      await remove(`/api/v1/grants/${encodeURIComponent(grant.account)}/${encodeURIComponent(grant.id)}`, { reason })
      done(`What is left of ${grant.id} is taken back.`)
    })
  }
  return html`<${Dialog} title=${`Take back ${grant.id}?`} close=${close}><form onSubmit=${submit}>
    <p>Left of it: ${amountWords(grant.remaining, grant.meter)}. What was used stays used.</p>
    <${Field} id="grant-reason" label="Reason, for the record" value=${reason} set=${setReason} />
    <${FormEnd} problem=${problem} busy=${busy} words="Take back" danger cancel=${close} /></form></${Dialog}>`
}
