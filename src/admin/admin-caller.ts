import { timingSafeEqual } from 'node:crypto'
import { isLoopback } from '../config/scalars.ts'
import { hashOfSecret } from '../accounts/secret.ts'
import { Problem } from './problem.ts'
import type { Role } from './route.ts'

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
}

export interface AdminCaller {
  readonly name: string
  readonly role: Role
}

/**
 * Who asks; null when he has not shown it. Throws a Problem for what a browser was tricked into sending. `tokens` are the configured
 * ones; while there are none, this machine itself is trusted. `local` is the token that a running gateway leaves for the command line.
 */
export function adminCaller(head: AdminHead, tokens: readonly AdminToken[], local: AdminToken | null): AdminCaller | null {
  refuseCrossSite(head)
  const all = local === null ? tokens : [...tokens, local]
  if (head.authorization !== undefined) {
    const secret = /^bearer ([\x21-\x7e]+)$/i.exec(head.authorization)?.[1]
    const token = secret === undefined ? undefined : tokenOf(secret, all)
    if (token === undefined) throw new Problem(401, 'this admin token is not known')
    return { name: token.name, role: token.role }
  }
  if (tokens.length > 0) return null
  if (!isLoopback(plainAddress(head.address))) throw new Problem(403, 'no admin token is configured, so the admin port answers on this machine only; see admin.tokens')
  // A page of another site that points its own name at this machine must not be taken for the operator.
  if (head.host === undefined || !isLoopback(hostName(head.host))) throw new Problem(421, 'without an admin token, call the admin port as localhost, 127.0.0.1 or [::1]')
  return { name: 'local', role: 'admin' }
}

/** Browsers say where a request comes from; one from another site is never the operator's wish. */
function refuseCrossSite({ origin, host, fetchSite }: AdminHead): void {
  if (fetchSite !== undefined && fetchSite !== 'same-origin' && fetchSite !== 'none') throw new Problem(403, 'requests from other sites are refused')
  if (origin === undefined) return
  const from = URL.parse(origin)
  if (from === null || host === undefined || from.host !== host.toLowerCase()) throw new Problem(403, 'requests from other sites are refused')
}

/** Looks at every token, so that time tells nothing about which one nearly matched. */
function tokenOf(secret: string, tokens: readonly AdminToken[]): AdminToken | undefined {
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
