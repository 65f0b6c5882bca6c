import { useEffect, useState } from './view.ts'

/** Where the page is: everything that is shown follows from it, so that a link shows the same to somebody else. */
export interface Address {
  /** Decoded, without empty ones. */
  readonly segments: readonly string[]
  readonly query: URLSearchParams
}

const listeners = new Set<() => void>()

function addressNow(): Address {
  return { segments: location.pathname.split('/').filter((part) => part !== '').map(decoded), query: new URLSearchParams(location.search) }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch (error) {
    if (error instanceof URIError) return part
    throw error
  }
}

/** Another page, or the same one in another state. */
export function go(to: string, { replace = false }: { readonly replace?: boolean } = {}): void {
  if (replace) history.replaceState(null, '', to)
  else history.pushState(null, '', to)
  for (const listener of listeners) listener()
}

/** Sets parts of the state; '' takes one away. */
export function setQuery(changes: Readonly<Record<string, string>>): void {
  const { query } = addressNow()
  for (const [name, value] of Object.entries(changes)) {
    if (value === '') query.delete(name)
    else query.set(name, value)
  }
  const text = query.toString()
  go(`${location.pathname}${text === '' ? '' : `?${text}`}`, { replace: true })
}

export function useAddress(): Address {
  const [address, setAddress] = useState(addressNow)
  useEffect(() => {
    const listener = (): void => setAddress(addressNow())
    listeners.add(listener)
    addEventListener('popstate', listener)
    return () => {
      listeners.delete(listener)
      removeEventListener('popstate', listener)
    }
  }, [])
  return address
}

/** Links of the page itself change the page without loading it anew. */
export function followLinks(): void {
  document.addEventListener('click', (event) => {
    const link = event.target instanceof Element ? event.target.closest('a') : null
    if (link === null || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
    const to = link.getAttribute('href') ?? ''
    if (!to.startsWith('/') || to.startsWith('//') || to.startsWith('/api/') || link.target !== '' || link.hasAttribute('download')) return
    event.preventDefault()
    go(to)
    scrollTo(0, 0)
  })
}

export function accountPath(id: string): string {
  return `/accounts/${encodeURIComponent(id)}`
}

export function sinkPath(name: string): string {
  return `/sinks/${encodeURIComponent(name)}`
}

export function callPath(id: string): string {
  return `/events/${encodeURIComponent(id)}`
}
