import { after } from './clock.ts'
import { html, useEffect, useState } from './view.ts'
import type { VNode } from './view.ts'

const SHOWN_MS = 6_000

let tell: (text: string) => void = () => undefined

/** Says something to everybody, to those who hear the page as well. */
export function say(text: string): void {
  tell(text)
}

export function Announcer(): VNode {
  const [text, setText] = useState('')
  useEffect(() => {
    let cancel = (): void => undefined
    tell = (said) => {
      cancel()
      setText(said)
      cancel = after(SHOWN_MS, () => setText(''))
    }
    return () => cancel()
  }, [])
  return html`<div class="toast" role="status" aria-live="polite">${text === '' ? null : html`<p>${text}</p>`}</div>`
}
