import type { IncomingMessage, ServerResponse } from 'node:http'
import { refuseCrossSite, tokenOf } from './admin-caller.ts'
import type { AdminCaller, AdminToken } from './admin-caller.ts'
import type { LoginBrake } from './login-brake.ts'
import { Problem } from './problem.ts'
import { sessionCookie, sessionIdIn } from './session.ts'
import type { Sessions } from './session.ts'

export interface LoginParts {
  readonly sessions: Sessions
  readonly brake: LoginBrake
  readonly tokens: readonly AdminToken[]
  /** Of who asks, as trusted proxies say it. */
  readonly address: string
}

/** Opens a session for a token and sets its cookie; whatever session the browser had ends. Throws a Problem for a wrong token, or too many. */
export async function logIn(request: IncomingMessage, response: ServerResponse, body: Readonly<Record<string, unknown>>, { sessions, brake, tokens, address }: LoginParts): Promise<unknown> {
  refuseForeign(request)
  if (tokens.length === 0) throw new Problem(409, 'no admin token is configured: on this machine there is nothing to log in to')
  const waitMs = await brake.waitMs('login', address)
  if (waitMs > 0) throw tooMany(waitMs)
  const given = body['token']
  const token = typeof given === 'string' && given.length <= 1_024 ? tokenOf(given.trim(), tokens) : undefined
  if (token === undefined) {
    await brake.failed('login', address)
    throw new Problem(401, 'This token is not known.')
  }
  endSession(request, sessions)
  response.setHeader('set-cookie', sessionCookie(sessions.begin(token), isSecure(request)))
  return { name: token.name, role: token.role, by: 'session' }
}

export function logOut(request: IncomingMessage, response: ServerResponse, sessions: Sessions): unknown {
  refuseForeign(request)
  endSession(request, sessions)
  response.setHeader('set-cookie', sessionCookie(null, isSecure(request)))
  return { name: null, role: null, by: null }
}

/** What a page is told of who looks at it. */
export function whoAmI(caller: AdminCaller | null): unknown {
  return caller === null ? { name: null, role: null, by: null } : { name: caller.name, role: caller.role, by: caller.by }
}

export function tooMany(waitMs: number): Problem {
  const seconds = Math.max(1, Math.ceil(waitMs / 1_000))
  return new Problem(429, `Too many wrong tokens came from this address. Try again in ${seconds} s.`, { retry_after: seconds })
}

function endSession(request: IncomingMessage, sessions: Sessions): void {
  const id = sessionIdIn(request.headers.cookie)
  if (id !== undefined) sessions.end(id)
}

/** Else another site could log a visitor in as somebody else, or out. */
function refuseForeign(request: IncomingMessage): void {
  const { origin, host } = request.headers
  const site = request.headers['sec-fetch-site']
  refuseCrossSite({ origin, host, fetchSite: typeof site === 'string' ? site : undefined })
}

/** The page's own address tells whether the browser speaks TLS, also through a proxy that ends it. */
function isSecure({ headers }: IncomingMessage): boolean {
  return headers.origin?.toLowerCase().startsWith('https:') === true
}
