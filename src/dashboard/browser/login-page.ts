import { useChange } from './loading.ts'
import { logIn } from './session.ts'
import type { Session } from './session.ts'
import { html, useEffect, useRef, useState } from './view.ts'
import type { VNode } from './view.ts'

/** The token leaves this page once, in the body of one request; the browser keeps a cookie that no script can read. */
export function LoginPage({ done }: { done(session: Session): void }): VNode {
  const [token, setToken] = useState('')
  const { busy, problem, run } = useChange()
  const input = useRef<HTMLInputElement>(null)
  useEffect(() => {
    document.title = 'Log in · Tallygate'
    input.current?.focus()
  }, [])
  const submit = (event: Event): void => {
    event.preventDefault()
    run(async () => {
      const session = await logIn(token).finally(() => setToken(''))
      done(session)
    })
  }
  return html`<main id="main" class="lone login">
    <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3.2 3v10M6.4 3v10M9.6 3v10M12.8 3v10M1 10.6 15 5.4" /></svg>
    <h1>Tallygate</h1>
    <form onSubmit=${submit}>
      <div class="field"><label for="token">Admin token</label>
        <input id="token" type="password" ref=${input} value=${token} onInput=${(event: Event) => setToken((event.currentTarget as HTMLInputElement).value)} required autocomplete="current-password" aria-describedby="token-about" />
        <p class="muted" id="token-about">One of <code>admin.tokens</code>, or <code>TALLYGATE_ADMIN_TOKEN</code>.</p></div>
      <p class="problem" role="alert">${problem}</p>
      <button type="submit" class="primary" disabled=${busy}>${busy ? 'One moment …' : 'Log in'}</button>
    </form>
  </main>`
}
