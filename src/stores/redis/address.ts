/** Where Redis is and who we are to it, out of one URL. */
export interface RedisAddress {
  readonly kind: 'single' | 'cluster' | 'sentinel'
  /** The server; some servers of the cluster; the sentinels. At least one. */
  readonly hosts: readonly HostPort[]
  readonly tls: boolean
  readonly user: string | null
  readonly password: string | null
  /** 0 in a cluster. */
  readonly db: number
  /** What the sentinels call the primary; null elsewhere. */
  readonly primary: string | null
  /** The URL without user and password: the only form of it for messages and logs. */
  readonly shown: string
}

export interface HostPort {
  readonly host: string
  readonly port: number
}

const form = /^(rediss?)(\+cluster|\+sentinel)?:\/\/(.*)$/i
const forms = 'redis://HOST:PORT, rediss://…, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/PRIMARY'

/** Throws an Error in plain words, which never repeats the URL: it may hold a password. */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme, suffix, rest] = form.exec(url.trim()) ?? []
  if (scheme === undefined || rest === undefined) throw new Error(`the store's URL has none of the forms ${forms}`)
  const kind = suffix === undefined ? 'single' : suffix.toLowerCase() === '+cluster' ? 'cluster' : 'sentinel'
  const tls = scheme.toLowerCase() === 'rediss'
  // A password may hold an `@` that nobody escaped, a host never does.
  const at = rest.lastIndexOf('@')
  const [user, password] = credentials(at === -1 ? null : rest.slice(0, at))
  const [hostsText = '', ...path] = rest.slice(at + 1).split('/')
  if (rest.slice(at + 1).includes('?')) throw new Error('the store\'s URL has options behind a question mark; none is known')
  const hosts = hostsText.split(',').map((text) => hostPort(text, kind === 'sentinel' ? 26_379 : 6_379))
  if (kind === 'single' && hosts.length > 1) throw new Error('the store\'s URL names several servers: write redis+cluster:// or redis+sentinel://')
  const primary = kind === 'sentinel' ? decode(path.shift() ?? '') : null
  if (primary === '') throw new Error('the store\'s URL lacks the primary\'s name behind the sentinels: redis+sentinel://HOST:PORT/PRIMARY')
  const [dbText = '', ...more] = path
  if (more.length > 0 || !/^\d{0,5}$/.test(dbText)) throw new Error('the store\'s URL ends in something that is not a database\'s number')
  const db = Number(dbText)
  if (kind === 'cluster' && db !== 0) throw new Error('a Redis cluster has only database 0')
  const shown = `${scheme}${suffix ?? ''}://${hosts.map(showHost).join(',')}${primary === null ? '' : `/${primary}`}${db === 0 ? '' : `/${db}`}`
  return { kind, hosts, tls, user, password, db, primary, shown }
}

/** `HOST:PORT`, an IPv6 address in brackets. */
export function showHost({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** The host of a `HOST:PORT`. */
export function hostOf(shown: string): string {
  return shown.slice(0, shown.lastIndexOf(':')).replace(/^\[|\]$/g, '')
}

function credentials(text: string | null): [string | null, string | null] {
  if (text === null || text === '' || text === ':') return [null, null]
  const colon = text.indexOf(':')
  if (colon === -1) throw new Error('the store\'s URL has a user without a password; a password alone is written :PASSWORD@')
  const user = decode(text.slice(0, colon))
  return [user === '' ? null : user, decode(text.slice(colon + 1))]
}

function hostPort(text: string, usualPort: number): HostPort {
  const [, host, portText] = /^(\[[0-9a-fA-F:.]+\]|[^:[\]\s]+)(?::(\d{1,5}))?$/.exec(text) ?? []
  const port = portText === undefined ? usualPort : Number(portText)
  if (host === undefined || port < 1 || port > 65_535) throw new Error('the store\'s URL has a server that is not written HOST:PORT')
  return { host: host.replace(/^\[|\]$/g, ''), port }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error('the store\'s URL has a % that is not followed by two hexadecimal digits (a literal % is written %25)')
  }
}
