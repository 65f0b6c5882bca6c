import type { Answer } from './scalars.ts'

/** The schemes under which a Redis is named, with what may follow. */
export const REDIS_SCHEMES = ['redis', 'rediss', 'redis+cluster', 'rediss+cluster', 'redis+sentinel', 'rediss+sentinel'] as const

const databaseMax = 99_999

/**
 * A Redis address that can be used as it is written. No sentence quotes any part of it: where an address is mistyped, anything in it may be the password.
 *
 * `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `redis+cluster://HOST:PORT,HOST:PORT`, `redis+sentinel://HOST:PORT,HOST:PORT/MASTER[/DATABASE]`; rediss… with TLS.
 */
export function redisUrlOf(text: string): Answer<string> {
  const problem = whyNot(text)
  return problem === undefined ? { value: text } : { problem }
}

function whyNot(text: string): string | undefined {
  const match = /^(rediss?)(\+cluster|\+sentinel)?:\/\/(.*)$/s.exec(text)
  if (match === null) return `has no scheme that is known; they are ${REDIS_SCHEMES.map((scheme) => `${scheme}://`).join(', ')}`
  const [, , kind = '', rest = ''] = match
  if (!/^[!-~]*$/.test(rest)) return 'holds a space, a line break or a letter beyond ASCII; percent-encode it, such as %20 for a space'
  const at = rest.lastIndexOf('@')
  const why = whyNotUser(rest.slice(0, Math.max(at, 0)), at >= 0)
  if (why !== undefined) return why
  const place = rest.slice(at + 1)
  const extra = /[?#]/.exec(place)?.[0]
  if (extra !== undefined) return `has a part after ${extra}, which is not understood; in a password ${extra} is ${extra === '?' ? '%3F' : '%23'}`
  const [servers = '', ...path] = place.split('/')
  const several = servers.split(',')
  for (const server of several) {
    const problem = whyNotServer(server, several.length > 1)
    if (problem !== undefined) return problem
  }
  if (kind === '' && several.length > 1) return 'names several servers; write redis+cluster:// for a cluster, or redis+sentinel:// for sentinels'
  return whyNotPath(kind, path)
}

/** What stands before the `@`. */
function whyNotUser(user: string, given: boolean): string | undefined {
  if (!given) return undefined
  if (/[@/?#[\]]/.test(user)) return 'has a user name or password with a character that has to be percent-encoded: @ is %40, / is %2F, ? is %3F, # is %23, [ is %5B, ] is %5D'
  const parts = user.split(':')
  if (parts.length > 2) return 'has a password with a : in it; write %3A'
  if (/%(?![0-9A-Fa-f]{2})/.test(user)) return 'has a % in its user name or password that begins no percent-encoded character; a % itself is %25'
  if (parts.length === 1 || parts[1] === '') return 'has a user name without a password; write user:password@, or :password@ for a password alone'
  try {
    decodeURIComponent(user)
    return undefined
  } catch (error) {
    if (!(error instanceof URIError)) throw error
    return 'has a user name or password that is not UTF-8 once its percent-encoding is undone'
  }
}

function whyNotServer(server: string, listed: boolean): string | undefined {
  if (server === '') return listed ? 'has a comma with no server beside it' : 'names no server; write redis://HOST:6379'
  const match = /^(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(.*))?$/s.exec(server)
  if (match === null) {
    if ((server.match(/:/g) ?? []).length > 1 && /^[0-9A-Fa-f:.]+$/.test(server)) return 'has an IPv6 address without brackets; write redis://[::1]:6379'
    return 'names a host that is none; it has letters, digits, dots and dashes, or is an IPv6 address in brackets'
  }
  const [, host = '', port] = match
  if (port !== undefined && (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535)) return 'has a port that is no number from 1 to 65535'
  if (host.startsWith('[') && URL.parse(`http://${host}/`) === null) return 'has something in brackets that is no IPv6 address'
  return undefined
}

/** What stands behind the servers. */
function whyNotPath(kind: string, path: readonly string[]): string | undefined {
  const parts = path.at(-1) === '' ? path.slice(0, -1) : path
  if (kind === '+cluster') return parts.length === 0 ? undefined : 'has a part after the servers; a cluster has no numbered databases, so nothing follows them'
  let database = parts[0]
  if (kind === '+sentinel') {
    const master = parts[0] ?? ''
    if (master === '') return 'does not name the master; write it as the sentinels know it: redis+sentinel://HOST:26379,HOST:26379/MASTER'
    if (!/^[A-Za-z0-9._-]+$/.test(master)) return 'has a master name that sentinels do not allow; it has letters, digits and . _ -'
    database = parts[1]
  }
  if (parts.length > (kind === '+sentinel' ? 2 : 1)) return 'has more parts than a database number behind the server'
  if (database !== undefined && (!/^\d{1,5}$/.test(database) || Number(database) > databaseMax)) return 'has a database that is no number, such as /0'
  return undefined
}

/** The address as it may be shown. */
export function withoutPassword(url: string): string {
  return url.replace(/^([a-z+]+:\/\/).*@/s, '$1(hidden)@')
}
