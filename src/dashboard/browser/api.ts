import { nowMs } from './clock.ts'

/** What the API said no with; `status` 0: it could not be reached. */
export class ApiProblem extends Error {
  override name = 'ApiProblem'
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export type Query = Readonly<Record<string, string | number | boolean | undefined>>

/** Somebody is there for so long after the last key or click. */
const ATTENDED_MS = 120_000
let touchedMs = nowMs()
for (const event of ['pointerdown', 'keydown', 'wheel']) addEventListener(event, () => { touchedMs = nowMs() }, { passive: true })

/** Called when the gateway does not know us any more. */
let onStranger = (): void => undefined
export function whenStranger(listener: () => void): void {
  onStranger = listener
}

export function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return ask<T>(`${path}${queryText(query)}`, signal === undefined ? {} : { signal })
}

export function post<T>(path: string, body: Readonly<Record<string, unknown>> = {}): Promise<T> {
  return ask<T>(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
}

export function remove<T>(path: string, query: Query = {}): Promise<T> {
  return ask<T>(`${path}${queryText(query)}`, { method: 'DELETE' })
}

export function queryText(query: Query): string {
  const given = Object.entries(query).flatMap(([name, value]) => (value === undefined || value === '' ? [] : [[name, String(value)]]))
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`
}

async function ask<T>(path: string, options: RequestInit & { readonly headers?: Readonly<Record<string, string>> }): Promise<T> {
  let response: Response
  let text: string
  try {
    // A page that refreshes itself does not keep its session alive.
    const unattended = nowMs() - touchedMs > ATTENDED_MS ? { 'x-tallygate-unattended': '1' } : {}
    response = await fetch(path, { ...options, headers: { ...options.headers, ...unattended }, credentials: 'same-origin', cache: 'no-store' })
    text = await response.text()
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error
    throw new ApiProblem(0, 'The gateway cannot be reached.')
  }
  const document = parsed(text)
  if (response.ok) return document as T
  const said = typeof document === 'object' && document !== null && 'detail' in document && typeof document.detail === 'string' ? document.detail : ''
  if (response.status === 401 && !path.startsWith('/api/v1/login')) onStranger()
  throw new ApiProblem(response.status, sentence(said === '' ? `The gateway answered ${response.status}.` : said))
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

function sentence(text: string): string {
  const first = text.slice(0, 1).toUpperCase() + text.slice(1)
  return /[.!?]$/.test(first) ? first : `${first}.`
}
