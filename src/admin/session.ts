import { hash } from 'node:crypto'
import type { Clock } from '../clock.ts'
import type { Random } from '../random.ts'
import type { AdminToken } from './admin-caller.ts'

/** A session ends when nothing was asked in it for so long. */
const IDLE_MS = 8 * 3_600_000
/** Or when it has lasted so long, used or not. */
const LIFE_MS = 24 * 3_600_000
const PER_TOKEN_MAX = 50
const SESSIONS_MAX = 1_000
const ID_BYTES = 32
export const SESSION_COOKIE = 'tallygate_session'

interface Session {
  readonly token: AdminToken
  readonly beganMs: number
  usedMs: number
}

/**
 * Who has logged in, in memory: a restart ends every session. Ids are made here alone and kept as hashes; whatever a browser brings that was not made here is
 * no session. One lives only as long as the token it was opened with is configured, with the role it has then.
 */
export class Sessions {
  readonly #clock: Clock
  readonly #random: Random
  /** By the id's hash; the one that was used last is at the end. */
  readonly #open = new Map<string, Session>()

  constructor(clock: Clock, random: Random) {
    this.#clock = clock
    this.#random = random
  }

  /** Gives the id, which nobody has had before. */
  begin(token: AdminToken): string {
    const id = Buffer.from(this.#random.bytes(ID_BYTES)).toString('base64url')
    const nowMs = this.#clock.nowMs()
    this.#makeRoom(token)
    this.#open.set(hash('sha256', id), { token, beganMs: nowMs, usedMs: nowMs })
    return id
  }

  /** The token behind a session as it is configured now; undefined: there is no such session, or not any more. `touch`: it was used just now. */
  find(id: string, tokens: readonly AdminToken[], { touch }: { readonly touch: boolean }): AdminToken | undefined {
    const key = hash('sha256', id)
    const session = this.#open.get(key)
    if (session === undefined) return undefined
    const nowMs = this.#clock.nowMs()
    const token = tokens.find(({ name, hash: known }) => name === session.token.name && known === session.token.hash)
    if (token === undefined || nowMs >= session.usedMs + IDLE_MS || nowMs >= session.beganMs + LIFE_MS) {
      this.#open.delete(key)
      return undefined
    }
    if (touch) {
      session.usedMs = nowMs
      this.#open.delete(key)
      this.#open.set(key, session)
    }
    return token
  }

  end(id: string): void {
    this.#open.delete(hash('sha256', id))
  }

  /** Whoever logs in often ends sessions of his own token, and nobody else's; where there are too many of all, of the token that has most. */
  #makeRoom(token: AdminToken): void {
    const byToken = new Map<string, string[]>()
    for (const [key, session] of this.#open) {
      const keys = byToken.get(session.token.hash)
      if (keys === undefined) byToken.set(session.token.hash, [key])
      else keys.push(key)
    }
    const own = byToken.get(token.hash) ?? []
    const most = [...byToken.values()].reduce((longest, keys) => (keys.length > longest.length ? keys : longest), own)
    const [oldest] = own.length >= PER_TOKEN_MAX ? own : this.#open.size >= SESSIONS_MAX ? most : []
    if (oldest !== undefined) this.#open.delete(oldest)
  }
}

/** The id in a Cookie header; undefined: none, or nothing that could be one. */
export function sessionIdIn(cookies: string | undefined): string | undefined {
  for (const part of cookies?.split(';') ?? []) {
    const [name, value] = part.split('=', 2)
    if (name?.trim() === SESSION_COOKIE && value !== undefined && /^[\w-]{43}$/.test(value.trim())) return value.trim()
  }
  return undefined
}

/** `secure`: the browser came over TLS. It goes with the browser; without `id` it is taken away. */
export function sessionCookie(id: string | null, secure: boolean): string {
  return `${SESSION_COOKIE}=${id ?? ''}; Path=/; HttpOnly; SameSite=Strict${secure ? '; Secure' : ''}${id === null ? '; Max-Age=0' : ''}`
}
