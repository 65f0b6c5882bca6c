import type { IncomingMessage, ServerResponse } from 'node:http'
import { refuseCrossSite, tokenOf } from './admin-caller.ts'
import type { AdminCaller, AdminToken } from './admin-caller.ts'
import * as answers from './answers.ts'
import type { LoginBrake } from './login-brake.ts'
import { Problem } from './problem.ts'
import type { Asked, Operation } from './route.ts'
import { sessionCookie, sessionIdIn } from './session.ts'
import type { Sessions } from './session.ts'

/** What the login and the session of a request need. */
export interface LoginParts {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly sessions: Sessions
  readonly brake: LoginBrake
  readonly tokens: readonly AdminToken[]
  /** Of who asks, as trusted proxies say it. */
  readonly address: string
  /** Throws a Problem for a wrong token in the header. */
  caller(): Promise<AdminCaller | null>
}

interface LoginOperation extends Operation {
  readonly role: null
  handle(body: Asked['body'], parts: LoginParts): Promise<unknown> | unknown
}

/** They are about the browser's connection, so a command that has the store to itself has none of them. */
export const loginOperations: readonly LoginOperation[] = [
  {
    method: 'GET', path: '/api/v1/session', shape: answers.session, role: null, summary: 'Who asks', answer: 'name, role; by: token, session, or machine (this one, while no token is configured); all null: nobody has logged in',
    problems: { only: [400, 401, 403, 421, 429] },
    async handle(_body, { caller }) {
      const who = await caller()
      return who === null ? nobody : { name: who.name, role: who.role, by: who.by }
    },
  },
  {
    method: 'POST', path: '/api/v1/login', shape: answers.session, role: null, summary: 'Open a session for a token: sets the cookie that pages send from then on; the session before it ends', answer: 'name, role, by: session',
    body: { token: { type: 'string', about: 'an admin token', required: true } }, problems: { only: [400, 401, 403, 409, 413, 415, 422, 429] },
    handle: ({ token }, parts) => logIn(String(token), parts),
  },
  {
    method: 'POST', path: '/api/v1/logout', shape: answers.session, role: null, summary: 'End the session, if there is one, and take its cookie away', answer: 'name, role, by: all null',
    body: {}, problems: { only: [400, 403, 413, 415, 422] },
    handle(_body, { request, response, sessions }) {
      refuseForeign(request)
      endSession(request, sessions)
      response.setHeader('set-cookie', sessionCookie(null, isSecure(request)))
      return nobody
    },
  },
]

const nobody = { name: null, role: null, by: null }

async function logIn(given: string, { request, response, sessions, brake, tokens, address }: LoginParts): Promise<unknown> {
  refuseForeign(request)
  if (tokens.length === 0) throw new Problem(409, 'no admin token is configured: on this machine there is nothing to log in to')
  const waitMs = await brake.waitMs('login', address)
  if (waitMs > 0) throw tooMany(waitMs)
  const token = tokenOf(given.trim(), tokens)
  if (token === undefined) {
    await brake.failed('login', address)
    throw new Problem(401, 'This token is not known.')
  }
  endSession(request, sessions)
  response.setHeader('set-cookie', sessionCookie(sessions.begin(token), isSecure(request)))
  return { name: token.name, role: token.role, by: 'session' }
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
