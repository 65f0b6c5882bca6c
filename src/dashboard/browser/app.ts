import { AccountPage } from './account-page.ts'
import { AccountsPage } from './accounts-page.ts'
import { useAddress } from './address.ts'
import { ApiProblem, whenStranger } from './api.ts'
import { CallPage } from './call-page.ts'
import { ConfigState } from './config-state.ts'
import { EventsPage } from './events-page.ts'
import { useFeed } from './live-feed.ts'
import { LivePage } from './live-page.ts'
import { LoginPage } from './login-page.ts'
import { NoticesPage } from './notices-page.ts'
import { Announcer, say } from './notify.ts'
import { PageHead } from './pieces.ts'
import { PlansPage } from './plans-page.ts'
import { logOut, whoAmI } from './session.ts'
import type { Session } from './session.ts'
import { SinkPage } from './sink-page.ts'
import { SinksPage } from './sinks-page.ts'
import { Empty, Failed, Skeleton } from './states.ts'
import { THEMES, setTheme, theme } from './theme.ts'
import { html, useEffect, useErrorBoundary, useRef, useState } from './view.ts'
import type { VNode } from './view.ts'

const pages = [
  { path: '', words: 'Live' }, { path: 'accounts', words: 'Accounts' }, { path: 'plans', words: 'Plans' },
  { path: 'sinks', words: 'Sinks' }, { path: 'events', words: 'Events' }, { path: 'notices', words: 'Notices' },
] as const

const stranger: Session = { name: null, role: null, by: null }

export function App(): VNode {
  const [session, setSession] = useState<Session | null>(null)
  const [problem, setProblem] = useState('')
  const begin = (): void => {
    setProblem('')
    whoAmI().then(setSession, (error: unknown) => setProblem(error instanceof ApiProblem ? error.message : 'Something broke in this page. Load it anew.'))
  }
  useEffect(() => {
    whenStranger(() => setSession((before) => {
      if (before?.name !== null && before !== null) say('The session has ended. Please log in again.')
      return stranger
    }))
    begin()
  }, [])
  const content = problem !== '' ? html`<main id="main" class="lone"><${Failed} words=${problem} retry=${begin} /></main>`
    : session === null ? html`<main id="main" class="lone"><${Skeleton} lines=${3} /></main>`
      : session.by === null ? html`<${LoginPage} done=${setSession} />`
        : html`<${Frame} session=${session} leave=${() => setSession(stranger)} />`
  return html`${content}<${Announcer} />`
}

function Frame({ session, leave }: { readonly session: Session; leave(): void }): VNode {
  const { segments } = useAddress()
  const [page = '', id] = segments
  const { state } = useFeed()
  const first = useRef(true)
  const title = `${id ?? pages.find(({ path }) => path === page)?.words ?? 'Nothing here'} · Tallygate`
  useEffect(() => {
    document.title = title
    // Who came by a link of the page begins to read at its heading; who came from outside, at the top.
    if (first.current) first.current = false
    else document.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true })
  }, [page, id])
  const out = (): void => { logOut().then(leave, leave) }
  return html`
    <a class="skip" href="#main">Skip to the content</a>
    <header class="top">
      <a class="brand" href="/"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3.2 3v10M6.4 3v10M9.6 3v10M12.8 3v10M1 10.6 15 5.4" /></svg>Tallygate</a>
      <nav aria-label="Pages">${pages.map(({ path, words }) => html`<a key=${path} href=${`/${path}`} aria-current=${path === page ? 'page' : undefined}>${words}</a>`)}</nav>
      <div class="who">
        <span class=${`feed ${state}`} role="status"><i aria-hidden="true"></i>${state === 'live' ? 'Live' : state === 'opening' ? 'Connecting' : 'Reconnecting'}</span>
        <${ThemeSwitch} />
        <span class="muted" title=${session.by === 'machine' ? 'This machine is trusted, because no admin token is configured.' : undefined}>${session.name}${session.role === 'viewer' ? ' (viewer)' : ''}</span>
        ${session.by === 'session' ? html`<button type="button" class="quiet" onClick=${out}>Log out</button>` : null}
      </div>
    </header>
    <main id="main" tabindex="-1"><${ConfigState} /><${Guarded} key=${`${page}/${id ?? ''}`} page=${page} id=${id} session=${session} /></main>`
}

interface PageProps {
  readonly page: string
  readonly id: string | undefined
  readonly session: Session
}

/** A page that breaks takes nothing else with it. */
function Guarded(props: PageProps): VNode {
  const [broken, mend] = useErrorBoundary()
  if (broken !== undefined) return html`<${Failed} words="Something broke in this page." retry=${mend} />`
  return pageOf(props)
}

function pageOf({ page, id, session }: PageProps): VNode {
  const changes = session.role === 'admin'
  switch (page) {
    case '': return html`<${LivePage} />`
    case 'accounts': return id === undefined ? html`<${AccountsPage} changes=${changes} />` : html`<${AccountPage} id=${id} changes=${changes} />`
    case 'plans': return html`<${PlansPage} />`
    case 'sinks': return id === undefined ? html`<${SinksPage} changes=${changes} />` : html`<${SinkPage} name=${id} changes=${changes} />`
    case 'events': return id === undefined ? html`<${EventsPage} />` : html`<${CallPage} id=${id} />`
    case 'notices': return html`<${NoticesPage} />`
    default: return html`<${PageHead} title="Nothing here" /><${Empty} title="There is no such page."><a href="/">Live traffic</a> is a good place to begin.</${Empty}>`
  }
}

function ThemeSwitch(): VNode {
  const [chosen, setChosen] = useState(theme)
  const next = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length] ?? 'system'
  const toggle = (): void => {
    setTheme(next)
    setChosen(next)
  }
  return html`<button type="button" class="quiet" onClick=${toggle} aria-label=${`Colours: ${chosen}. Change to ${next}`} title=${`Colours: ${chosen}`}>${chosen === 'system' ? '◐' : chosen === 'light' ? '☼' : '☾'}</button>`
}
