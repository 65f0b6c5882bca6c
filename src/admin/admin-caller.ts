import { timingSafeEqual } from 'node:crypto'
import { isLoopback } from '../config/scalars.ts'
import { hashOfSecret } from '../accounts/secret.ts'
import { Problem } from './problem.ts'
import type { Role } from './route.ts'
import { sessionIdIn } from './session.ts'
import type { Sessions } from './session.ts'

export interface AdminToken {
  readonly name: string
  /** Hex SHA-256, with or without `sha256:` before it. */
  readonly hash: string
  readonly role: Role
}

export interface AdminHead {
  /** The peer's address. */
  readonly address: string
  readonly host: string | undefined
  readonly origin: string | undefined
  readonly fetchSite: string | undefined
  readonly authorization: string | undefined
  readonly cookie: string | undefined
  /** Whether it came through a proxy, by what proxies add. */
  readonly proxied: boolean
  /** It asks for nothing but an answer. */
  readonly reads: boolean
  /** Somebody asks, and not a page by itself: a session is used by that. */
  readonly attended: boolean
}

export interface Credentials {
  /** The configured ones; while there are none, this machine itself is trusted. */
  readonly tokens: readonly AdminToken[]
  /** The token that a running gateway leaves for the command line. */
  readonly local: AdminToken | null
  readonly sessions: Pick<Sessions, 'find'>
}

export interface AdminCaller {
  readonly name: string
  readonly role: Role
  /** How he has shown it; `machine`: he is on this machine, and no token is configured. */
  readonly by: 'token' | 'session' | 'machine'
}

/** The token in the Authorization header is not known. */
export class UnknownToken extends Problem {
  override name = 'UnknownToken'
  constructor() {
    super(401, 'this admin token is not known')
  }
}

/** Who asks; null when he has not shown it. Throws a Problem for what a browser was tricked into sending, UnknownToken for a guess. */
export function adminCaller(head: AdminHead, { tokens, local, sessions }: Credentials): AdminCaller | null {
  refuseCrossSite(head)
  if (head.authorization !== undefined) {
    const secret = /^bearer ([\x21-\x7e]+)$/i.exec(head.authorization)?.[1]
    const token = secret === undefined ? undefined : tokenOf(secret, local === null ? tokens : [...tokens, local])
    if (token === undefined) throw new UnknownToken()
    return { name: token.name, role: token.role, by: 'token' }
  }
  if (tokens.length > 0) return sessionCaller(head, tokens, sessions)
  if (!isLoopback(plainAddress(head.address))) throw new Problem(403, 'no admin token is configured, so the admin port answers on this machine only; see admin.tokens')
  // A proxy on this machine speaks for others.
  if (head.proxied) throw new Problem(403, 'no admin token is configured, so the admin port answers nobody who comes through a proxy; see admin.tokens')
  // A page of another site that points its own name at this machine must not be taken for the operator.
  if (head.host === undefined || !isLoopback(hostName(head.host))) throw new Problem(421, 'without an admin token, call the admin port as localhost, 127.0.0.1 or [::1]')
  return { name: 'local', role: 'admin', by: 'machine' }
}

function sessionCaller({ cookie, reads, attended, origin, fetchSite }: AdminHead, tokens: readonly AdminToken[], sessions: Credentials['sessions']): AdminCaller | null {
  const id = sessionIdIn(cookie)
  const token = id === undefined ? undefined : sessions.find(id, tokens, { touch: attended })
  if (token === undefined) return null
  // A cookie comes by itself: a change needs a browser's word that this page asked for it.
  if (!reads && origin === undefined && fetchSite !== 'same-origin') throw new Problem(403, 'a change with a session needs the Origin header, which browsers send')
  return { name: token.name, role: token.role, by: 'session' }
}

/** Browsers say where a request comes from; one from another site is never the operator's wish. */
export function refuseCrossSite({ origin, host, fetchSite }: Pick<AdminHead, 'origin' | 'host' | 'fetchSite'>): void {
  if (fetchSite !== undefined && fetchSite !== 'same-origin' && fetchSite !== 'none') throw new Problem(403, 'requests from other sites are refused')
  if (origin === undefined) return
  const from = URL.parse(origin)
  if (from === null || host === undefined || from.host !== host.toLowerCase()) throw new Problem(403, 'requests from other sites are refused')
}

/** Looks at every token, so that time tells nothing about which one nearly matched. */
export function tokenOf(secret: string, tokens: readonly AdminToken[]): AdminToken | undefined {
  const digest = Buffer.from(hashOfSecret(secret), 'hex')
  let found: AdminToken | undefined
  for (const token of tokens) {
    const known = Buffer.from(token.hash.replace(/^sha256:/, ''), 'hex')
    if (known.length === digest.length && timingSafeEqual(known, digest)) found = token
  }
  return found
}

/** IPv4 addresses arrive as `::ffff:127.0.0.1` on sockets that speak both. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:/, '')
}

function hostName(host: string): string {
  return host.replace(/:\d{1,5}$/, '').replace(/^\[(.*)\]$/, '$1').toLowerCase()
}
