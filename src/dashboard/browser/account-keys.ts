import { post, remove } from './api.ts'
import { Dialog, Field, FormEnd } from './dialog.ts'
import { useChange } from './loading.ts'
import { say } from './notify.ts'
import { Badge, Name, Section, When } from './pieces.ts'
import type { Tone } from './pieces.ts'
import type { KeyRow } from './shapes.ts'
import { Empty } from './states.ts'
import { Table } from './table.ts'
import type { Column } from './table.ts'
import { html, useState } from './view.ts'
import type { VNode } from './view.ts'

type Doing = { readonly what: 'create' } | { readonly what: 'rotate' | 'revoke'; readonly id: string } | { readonly what: 'told'; readonly id: string; readonly secret: string; readonly more: string }

const tones: Readonly<Record<string, Tone>> = { active: 'good', revoked: 'bad', expired: 'bad', suspended: 'bad', ended: 'bad' }

export function AccountKeys({ account, keys, changes, changed }: { readonly account: string; readonly keys: readonly KeyRow[]; readonly changes: boolean; changed(): void }): VNode {
  const [doing, setDoing] = useState<Doing | null>(null)
  const close = (): void => setDoing(null)
  const told = (id: string, secret: string, more: string): void => {
    setDoing({ what: 'told', id, secret, more })
    changed()
  }
  const done = (words: string): void => {
    close()
    say(words)
    changed()
  }
  const columns: readonly Column<KeyRow>[] = [
    { name: 'id', title: 'Key', value: (row) => row.id, show: (row) => html`<${Name} of=${row.id} />` },
    { name: 'state', title: 'State', value: (row) => row.state, show: (row) => html`<${Badge} tone=${tones[row.state] ?? 'warn'}>${row.state.replaceAll('_', ' ')}</${Badge}>${row.revoked_reason === null ? null : html`<br /><small class="muted"><bdi>${row.revoked_reason}</bdi></small>`}` },
    { name: 'expires', title: 'Expires', value: (row) => row.expires_at, show: (row) => html`<${When} at=${row.expires_at} />` },
    { name: 'rotated', title: 'Secret of', value: (row) => row.rotated_at ?? row.created_at, show: (row) => html`<${When} at=${row.rotated_at ?? row.created_at} />${row.grace_until === null ? null : html`<br /><small class="muted">the old one works on, ends <${When} at=${row.grace_until} /></small>`}` },
    { name: 'where', title: 'Where', value: (row) => row.where, show: (row) => html`<code>${row.where}</code>` },
    ...(changes ? [{ name: 'do', title: 'Change', sorts: false, value: () => null, show: (row: KeyRow) => html`<${KeyButtons} row=${row} start=${setDoing} done=${done} />` }] : []),
  ]
  return html`<${Section} title="Keys" tools=${changes ? html`<button type="button" onClick=${() => setDoing({ what: 'create' })}>New key …</button>` : undefined}>
    <${Table} name="keys" caption="Keys" quiet rows=${keys} key_=${(row: KeyRow) => `${row.id} ${row.where}`} columns=${columns} empty=${html`<${Empty} title="No key yet.">Nobody can call as this account until it has one.</${Empty}>`} />
    ${doing?.what === 'create' ? html`<${CreateKey} account=${account} close=${close} told=${told} />` : null}
    ${doing?.what === 'rotate' ? html`<${RotateKey} id=${doing.id} close=${close} told=${told} />` : null}
    ${doing?.what === 'revoke' ? html`<${RevokeKey} id=${doing.id} close=${close} done=${done} />` : null}
    ${doing?.what === 'told' ? html`<${Told} id=${doing.id} secret=${doing.secret} more=${doing.more} close=${close} />` : null}
  </${Section}>`
}

function KeyButtons({ row, start, done }: { readonly row: KeyRow; start(doing: Doing): void; done(words: string): void }): VNode | null {
  const { busy, run, problem } = useChange()
  const restore = (): void => run(async () => {
    await remove(`/api/v1/keys/${encodeURIComponent(row.id)}/revocation`)
    done(`${row.id} works again.`)
  })
  if (row.state === 'hidden') return null
  return row.state === 'revoked'
    ? html`<button type="button" class="small" disabled=${busy} onClick=${restore} aria-label=${`Restore ${row.id}`}>Restore</button>${problem === '' ? null : html`<p class="problem" role="alert">${problem}</p>`}`
    : html`<span class="buttons"><button type="button" class="small" onClick=${() => start({ what: 'rotate', id: row.id })} aria-label=${`Rotate ${row.id}`}>Rotate …</button>
      <button type="button" class="small" onClick=${() => start({ what: 'revoke', id: row.id })} aria-label=${`Revoke ${row.id}`}>Revoke …</button></span>`
}

interface TellsSecret {
  close(): void
  told(id: string, secret: string, more: string): void
}

function CreateKey({ account, close, told }: TellsSecret & { readonly account: string }): VNode {
  const [id, setId] = useState('')
  const [expires, setExpires] = useState('')
  const { busy, problem, run } = useChange()
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      const made = await post<{ id: string; secret: string }>('/api/v1/keys', { account, ...(id === '' ? {} : { id }), ...(expires === '' ? {} : { expires_in: expires }) })
      told(made.id, made.secret, '')
    })
  }
  return html`<${Dialog} title=${`New key for ${account}`} close=${close}><form onSubmit=${submit}>
    <${Field} id="key-id" label="Name" value=${id} set=${setId} about="Letters, digits, dots and dashes. One is made up, unless given." />
    <${Field} id="key-expires" label="Expires after" value=${expires} set=${setExpires} placeholder="30d" about="A time such as 12h or 30d; never, unless given." />
    <${FormEnd} problem=${problem} busy=${busy} words="Create key" cancel=${close} /></form></${Dialog}>`
}

function RotateKey({ id, close, told }: TellsSecret & { readonly id: string }): VNode {
  const [grace, setGrace] = useState('24h')
  const { busy, problem, run } = useChange()
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      const made = await post<{ secret: string }>(`/api/v1/keys/${encodeURIComponent(id)}/rotate`, { grace })
      told(id, made.secret, `The old secret works on for ${grace}.`)
    })
  }
  return html`<${Dialog} title=${`Rotate ${id}`} close=${close}><form onSubmit=${submit}>
    <p>The key gets a new secret. Its usage and limits stay.</p>
    <${Field} id="key-grace" label="The old secret works on for" value=${grace} set=${setGrace} required about="A time such as 24h; 0s ends it at once." />
    <${FormEnd} problem=${problem} busy=${busy} words="Rotate" cancel=${close} /></form></${Dialog}>`
}

function RevokeKey({ id, close, done }: { readonly id: string; close(): void; done(words: string): void }): VNode {
  const [reason, setReason] = useState('')
  const { busy, problem, run } = useChange()
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      await post(`/api/v1/keys/${encodeURIComponent(id)}/revoke`, reason === '' ? {} : { reason })
      done(`${id} is revoked.`)
    })
  }
  return html`<${Dialog} title=${`Revoke ${id}?`} close=${close}><form onSubmit=${submit}>
    <p>Calls with this key are refused from now on, until it is restored.</p>
    <${Field} id="key-reason" label="Reason, for the record" value=${reason} set=${setReason} />
    <${FormEnd} problem=${problem} busy=${busy} words="Revoke" danger cancel=${close} /></form></${Dialog}>`
}

/** The only time that a secret is seen. */
function Told({ id, secret, more, close }: { readonly id: string; readonly secret: string; readonly more: string; close(): void }): VNode {
  const [copied, setCopied] = useState(false)
  const copy = (): void => { navigator.clipboard.writeText(secret).then(() => setCopied(true), () => say('The browser did not allow copying: select the secret and copy it.')) }
  return html`<${Dialog} title=${`The secret of ${id}`} close=${close}>
    <p>It is shown this once; only its hash is kept. ${more}</p>
    <p class="secret"><code id="secret">${secret}</code><button type="button" onClick=${copy}>${copied ? 'Copied' : 'Copy'}</button></p>
    <div class="form-end"><button type="button" class="primary" onClick=${close}>I have kept it</button></div></${Dialog}>`
}
