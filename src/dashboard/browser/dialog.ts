import { html, useEffect, useRef } from './view.ts'
import type { Children, VNode } from './view.ts'

/** Above everything else; the browser keeps the keyboard inside, closes it on Esc and gives the focus back. */
export function Dialog({ title, close, children }: { readonly title: string; close(): void; readonly children: Children }): VNode {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const before = document.activeElement
    dialog.current?.showModal()
    return () => { if (before instanceof HTMLElement && before.isConnected) before.focus() }
  }, [])
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${close}>
    <div class="dialog-head"><h2 id="dialog-title">${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${() => dialog.current?.close()}>✕</button></div>
    ${children}
  </dialog>`
}

export interface FieldProps {
  readonly label: string
  readonly value: string
  set(value: string): void
  readonly about?: string
  readonly options?: readonly { readonly value: string; readonly words: string }[]
  readonly required?: boolean
  readonly placeholder?: string
  /** Of a text of several lines: how many are shown. */
  readonly lines?: number
  readonly id: string
}

/** A labelled input, a text of several `lines`, or a choice of `options`. */
export function Field({ label, value, set, about, options, required = false, placeholder, lines, id }: FieldProps): VNode {
  const onInput = (event: Event): void => set((event.currentTarget as HTMLInputElement).value)
  const described = about === undefined ? undefined : `${id}-about`
  return html`<div class="field"><label for=${id}>${label}</label>
    ${lines !== undefined
    ? html`<textarea id=${id} value=${value} onInput=${onInput} rows=${lines} placeholder=${placeholder} autocomplete="off" spellcheck=${false} aria-describedby=${described}></textarea>`
    : options === undefined
    ? html`<input id=${id} value=${value} onInput=${onInput} required=${required} placeholder=${placeholder} autocomplete="off" spellcheck=${false} aria-describedby=${described} />`
    : html`<select id=${id} value=${value} onChange=${onInput} required=${required} aria-describedby=${described}>${options.map((option) => html`<option key=${option.value} value=${option.value} selected=${option.value === value}>${option.words}</option>`)}</select>`}
    ${about === undefined ? null : html`<p class="muted" id=${described}>${about}</p>`}
  </div>`
}

/** The end of a form: what went wrong, and the ways out. */
export function FormEnd({ problem, busy, words, cancel, danger = false }: { readonly problem: string; readonly busy: boolean; readonly words: string; cancel(): void; readonly danger?: boolean }): VNode {
  return html`<div class="form-end"><p class="problem" role="alert">${problem}</p>
    <button type="button" onClick=${cancel}>Cancel</button><button type="submit" class=${danger ? 'primary danger' : 'primary'} disabled=${busy}>${busy ? 'One moment …' : words}</button></div>`
}
