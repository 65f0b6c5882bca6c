import type { Loaded } from './loading.ts'
import { html } from './view.ts'
import type { Children, VNode } from './view.ts'

/** What a place shows before it has something, and when it cannot get it. What it has stays while a newer attempt fails, with a word about that. */
export function Waiting<T>({ of, lines = 4, children }: { readonly of: Loaded<T>; readonly lines?: number; children(data: T): Children }): VNode {
  const { data, problem } = of
  if (data === undefined && problem === undefined) return html`<${Skeleton} lines=${lines} />`
  if (data === undefined) return html`<${Failed} words=${problem?.message ?? ''} retry=${of.reload} />`
  return html`${problem === undefined ? null : html`<${Stale} words=${problem.message} />`}${children(data)}`
}

export function Skeleton({ lines }: { readonly lines: number }): VNode {
  return html`<div class="skeleton" role="status"><span class="unseen">Loading</span>${Array.from({ length: lines }, (_, index) => html`<i key=${index}></i>`)}</div>`
}

export function Failed({ words, retry }: { readonly words: string; retry(): void }): VNode {
  return html`<div class="failed" role="alert"><p>${words}</p><button type="button" onClick=${retry}>Try again</button></div>`
}

function Stale({ words }: { readonly words: string }): VNode {
  return html`<p class="stale" role="status">Not up to date: ${words}</p>`
}

/** Nothing there, and what that means. */
export function Empty({ title, children }: { readonly title: string; readonly children?: Children }): VNode {
  return html`<div class="empty"><p class="empty-title">${title}</p>${children === undefined ? null : html`<p>${children}</p>`}</div>`
}
