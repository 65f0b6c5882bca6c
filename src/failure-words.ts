/** What a status means to whoever has to mend it. `code`: the receiver's own word for it, where it has one. */
export function statusWords(status: number, code = ''): string {
  return `status ${status}${code === '' ? '' : ` ${code}`}: ${meaningOf(status)}`
}

function meaningOf(status: number): string {
  const known = statuses[status]
  if (known !== undefined) return known
  if (status < 200) return 'it began an answer and did not give it'
  if (status < 300) return 'it does not say that it has them'
  if (status < 400) return 'it points to another address, and that is not followed'
  return status < 500 ? 'it refuses the request' : 'it has failed itself'
}

const statuses: Readonly<Record<number, string>> = {
  400: 'it finds the request wrong', 401: 'it does not accept the credentials', 402: 'it wants to be paid first', 403: 'the credentials do not permit this', 404: 'there is nothing of that name or at that address',
  405: 'nothing can be sent to this address', 408: 'the request took it too long', 409: 'it is in conflict with what it has', 410: 'this address is gone for good', 413: 'it is too much at once',
  415: 'it does not take this format', 422: 'it finds the request wrong', 429: 'it wants fewer requests', 502: 'what it stands before is away', 503: 'it is not available just now', 504: 'what it stands before does not answer',
}

/** What a code of the network or the system means, and where; a code that is not known stays as it is. `place`: host and port, nothing else of an address. */
export function codeWords(code: string, place: string | null): string {
  const where = place ?? 'the receiver'
  const host = where.replace(/:\d+$/, '')
  const words = Object.hasOwn(codes, code) ? codes[code]?.(where, host) : undefined
  if (words !== undefined) return `${words} (${code})`
  return place !== null && /^[A-Z][A-Z0-9_]{2,60}$/.test(code) ? `${place}: ${code}` : code
}

type Words = (where: string, host: string) => string
const unreachable: Words = (where) => `${where} cannot be reached`
const silent: Words = (where) => `${where} does not answer`
const broken: Words = (where) => `${where} broke the connection off`
const untrusted: Words = (where) => `the certificate of ${where} is not trusted`
const denied: Words = () => 'this user may not do that there'
const codes: Readonly<Record<string, Words>> = {
  ECONNREFUSED: (where) => `nobody listens at ${where}`, ENOTFOUND: (_, host) => `${host} is not known`, EAI_AGAIN: (_, host) => `${host} cannot be looked up just now`,
  EHOSTUNREACH: unreachable, ENETUNREACH: unreachable, ETIMEDOUT: silent, UND_ERR_CONNECT_TIMEOUT: silent, UND_ERR_HEADERS_TIMEOUT: silent, UND_ERR_BODY_TIMEOUT: silent,
  ECONNRESET: broken, EPIPE: broken, UND_ERR_SOCKET: broken,
  CERT_HAS_EXPIRED: (where) => `the certificate of ${where} has expired`, ERR_TLS_CERT_ALTNAME_INVALID: (where) => `the certificate of ${where} is for another name`,
  DEPTH_ZERO_SELF_SIGNED_CERT: untrusted, SELF_SIGNED_CERT_IN_CHAIN: untrusted, UNABLE_TO_VERIFY_LEAF_SIGNATURE: untrusted, UNABLE_TO_GET_ISSUER_CERT_LOCALLY: untrusted,
  ERR_SSL_WRONG_VERSION_NUMBER: (where) => `${where} does not speak TLS`,
  ENOSPC: () => 'the disk is full', EROFS: () => 'the disk can only be read', EACCES: denied, EPERM: denied, ENOENT: () => 'there is no such place', EISDIR: () => 'it is a folder',
}

/** Host and port of an address, with the port that goes without saying. */
export function placeOf(url: string): string | null {
  const found = URL.parse(url)
  if (found === null || found.hostname === '') return null
  return `${found.hostname}:${found.port === '' ? (found.protocol === 'https:' ? '443' : '80') : found.port}`
}
