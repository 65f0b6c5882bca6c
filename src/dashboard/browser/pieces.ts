import { callPath } from './address.ts'
import { fromNow, instant, plainName } from './format.ts'
import { nowMs } from './clock.ts'
import { html } from './view.ts'
import type { Children, VNode } from './view.ts'

const NAME_MAX = 120
/** Names of this length stay on one line. */
const SHORT_MAX = 24

/** A name that others chose: it turns nothing around and takes no more room than it gets. */
export function Name({ of }: { readonly of: string | null | undefined }): VNode {
  if (of === null || of === undefined || of === '') return html`<span class="muted">–</span>`
  const plain = plainName(of)
  return html`<bdi class=${plain.length <= SHORT_MAX ? 'name short' : 'name'} title=${plain.length > NAME_MAX || plain.length > 40 ? plain.slice(0, 1_000) : undefined}>${plain.length > NAME_MAX ? `${plain.slice(0, NAME_MAX)}…` : plain}</bdi>`
}

/** An instant, by how far it is from now; the whole of it on asking. */
export function When({ at, exact = false }: { readonly at: string | null | undefined; readonly exact?: boolean }): VNode {
  if (at === null || at === undefined) return html`<span class="muted">–</span>`
  return html`<time datetime=${at} title=${exact ? at : instant(at)}>${exact ? instant(at) : fromNow(at, nowMs())}</time>`
}

/** A call, by the part of its id that tells it from its neighbours. */
export function CallLink({ id }: { readonly id: string }): VNode {
  return html`<a href=${callPath(id)} title=${id} aria-label=${`Call ${id}`}><code>${id.length > 16 ? `…${id.slice(-12)}` : id}</code></a>`
}

export type Tone = 'good' | 'warn' | 'bad' | 'plain'

/** A state in a word; its colour says nothing that the word does not. */
export function Badge({ tone, children }: { readonly tone: Tone; readonly children: Children }): VNode {
  return html`<span class=${`badge ${tone}`}>${children}</span>`
}

export function Section({ title, tools, children, id }: { readonly title: string; readonly tools?: Children; readonly children: Children; readonly id?: string }): VNode {
  const heading = `h-${id ?? title.toLowerCase().replaceAll(/\W+/g, '-')}`
  return html`<section class="panel" aria-labelledby=${heading} id=${id}>
    <div class="panel-head"><h2 id=${heading}>${title}</h2>${tools === undefined ? null : html`<div class="tools">${tools}</div>`}</div>
    ${children}
  </section>`
}

/** The page's heading: where the keyboard and the screen reader begin. */
export function PageHead({ title, about, tools }: { readonly title: Children; readonly about?: Children; readonly tools?: Children }): VNode {
  return html`<header class="page-head"><div><h1 tabindex="-1">${title}</h1>${about === undefined ? null : html`<p class="muted">${about}</p>`}</div>
    ${tools === undefined ? null : html`<div class="tools">${tools}</div>`}</header>`
}

/** Terms and what they are; what is nothing is left out. */
export function Facts({ of }: { readonly of: readonly (readonly [string, Children])[] }): VNode {
  return html`<dl class="facts">${of.filter(([, value]) => value !== null && value !== undefined && value !== '').map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`
}

export interface Option {
  readonly value: string
  readonly words: string
}

/** One of few, in one row. */
export function Choice({ label, options, value, choose }: { readonly label: string; readonly options: readonly Option[]; readonly value: string; choose(value: string): void }): VNode {
  return html`<div class="choice" role="group" aria-label=${label}>${options.map((option) => html`
    <button type="button" key=${option.value} aria-pressed=${option.value === value ? 'true' : 'false'} onClick=${() => choose(option.value)}>${option.words}</button>`)}</div>`
}
