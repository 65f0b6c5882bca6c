import { GatewayError } from '../errors.ts'
import type { ErrorCode } from '../errors.ts'

/**
 * The one judge of a request's head, over plain values. Node's parser lets things pass that an upstream may read in another way;
 * whatever can be read in two ways is refused here, before anyone is authenticated.
 */
export interface RequestHead {
  /** Exactly as received, without the query. */
  readonly path: string
  readonly query: string
  /** Flat, names lower-case, repeats kept. */
  readonly headers: readonly string[]
  /** Bytes as declared, or `chunked`; 0: there is none. */
  readonly body: number | 'chunked'
  readonly expectsContinue: boolean
  readonly acceptsTrailers: boolean
  readonly upgrades: boolean
  /** An upgrade was asked for that nobody needs to make. */
  readonly upgradeIgnored: boolean
}

/** Why a request was refused at the edge: a closed set, for the metric. */
export type Malformation = 'target' | 'host' | 'framing' | 'header' | 'headers_too_large' | 'version' | 'method' | 'expectation' | 'upgrade'

export class Malformed extends GatewayError {
  override name = 'Malformed'
  readonly why: Malformation
  constructor(code: ErrorCode, why: Malformation, message: string, allow?: string) {
    super(code, message, allow === undefined ? {} : { details: { allow } })
    this.why = why
  }
}

export interface ReceivedHead {
  readonly method: string
  readonly target: string
  readonly httpVersion: string
  /** As received: name, value, name, value … */
  readonly rawHeaders: readonly string[]
}

export const headerLinesMax = 100
export const headerBytesMax = 16_384
export const targetBytesMax = 8_192
export const allowedMethods = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'

/** Headers that decide framing, routing or identity. They may come once, may not be spelt with `_`, and may not be nominated by `Connection`. */
const decisive = [
  'host', 'content-length', 'transfer-encoding', 'content-type', 'content-encoding', 'expect', 'upgrade',
  'authorization', 'proxy-authorization', 'x-api-key', 'api-key', 'x-goog-api-key',
  'sec-websocket-key', 'sec-websocket-version',
] as const
const bits = new Map<string, number>(decisive.map((name, index) => [name, 1 << index]))
/** Decisive too, though they may repeat. */
const decisiveLists = new Set([
  'connection', 'te', 'trailer', 'keep-alive', 'cookie', 'forwarded', 'via', 'x-real-ip', 'x-request-id', 'idempotency-key', 'cache-control', 'date',
  'x-original-url', 'x-rewrite-url', 'x-http-method-override',
])

function isDecisive(name: string): boolean {
  return bits.has(name) || decisiveLists.has(name) || name.startsWith('x-forwarded-') || name.startsWith('x-tallygate-')
}

/** Throws Malformed. */
export function readRequestHead(received: ReceivedHead): RequestHead {
  const { method, httpVersion, rawHeaders } = received
  if (httpVersion !== '1.1' && httpVersion !== '1.0') throw new Malformed('version_not_supported', 'version', 'Only HTTP/1.1 and HTTP/1.0 are spoken here.')
  if (method === 'TRACE' || method === 'CONNECT') throw new Malformed('method_not_allowed', 'method', `${method} is not offered.`, allowedMethods)
  if (rawHeaders.length > headerLinesMax * 2) throw tooManyHeaders()

  const headers: string[] = []
  let bytes = 0
  let seen = 0
  let host: string | undefined
  let length: string | undefined
  let coding: string | undefined
  let expect: string | undefined
  let upgrade: string | undefined
  let connection: string | undefined
  let te: string | undefined
  let socketKey: string | undefined
  let socketVersion: string | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] ?? '').toLowerCase()
    const value = rawHeaders[i + 1] ?? ''
    headers.push(name, value)
    bytes += name.length + value.length + 4
    const bit = bits.get(name)
    if (bit !== undefined) {
      if ((seen & bit) !== 0) throw new Malformed('bad_request', name === 'host' ? 'host' : 'header', `The header ${name} may be given only once.`)
      seen |= bit
    }
    switch (name) {
      case 'host': host = value; break
      case 'content-length': length = value; break
      case 'transfer-encoding': coding = value; break
      case 'expect': expect = value; break
      case 'upgrade': upgrade = value; break
      case 'connection': connection = connection === undefined ? value : `${connection},${value}`; break
      case 'te': te = te === undefined ? value : `${te},${value}`; break
      case 'sec-websocket-key': socketKey = value; break
      case 'sec-websocket-version': socketVersion = value; break
      default:
        // Servers that speak CGI read `_` as `-`: such a twin would be a second, unchecked copy.
        if (name.includes('_') && isDecisive(name.replaceAll('_', '-'))) {
          throw new Malformed('bad_request', 'header', 'Header names of framing, routing and identity may not be written with an underscore.')
        }
    }
  }
  if (bytes > headerBytesMax) throw tooManyHeaders()

  const [path, query] = readTarget(method, received.target, host)
  checkHost(host, httpVersion)
  const nominated = connection === undefined ? [] : listOf(connection)
  for (const name of nominated) {
    if (isDecisive(name) && name !== 'te' && name !== 'upgrade' && name !== 'keep-alive' && name !== 'trailer') {
      throw new Malformed('bad_request', 'framing', 'Connection names a header that decides framing, routing or identity.')
    }
  }
  const body = readFraming(length, coding, httpVersion)
  const upgrades = upgrade !== undefined
    && checkUpgrade({ protocols: listOf(upgrade), nominated, method, httpVersion, hasBody: body !== 0, key: socketKey, version: socketVersion })
  if (expect !== undefined && expect.trim().toLowerCase() !== '100-continue') {
    throw new Malformed('expectation_failed', 'expectation', 'The only expectation that can be met is 100-continue.')
  }
  return {
    path, query, headers, body, upgrades, upgradeIgnored: upgrade !== undefined && !upgrades,
    expectsContinue: expect !== undefined && httpVersion === '1.1',
    acceptsTrailers: te !== undefined && httpVersion === '1.1' && listOf(te).some((entry) => entry === 'trailers'),
  }
}

function tooManyHeaders(): Malformed {
  return new Malformed('headers_too_large', 'headers_too_large', `A request may have ${headerLinesMax} headers of ${headerBytesMax / 1024} KiB together.`)
}

export function listOf(value: string): string[] {
  return value.split(',').map((part) => part.trim().toLowerCase()).filter((part) => part !== '')
}

function badTarget(message: string): Malformed {
  return new Malformed('bad_request', 'target', message)
}

function readTarget(method: string, target: string, host: string | undefined): [path: string, query: string] {
  if (target.length > targetBytesMax) throw new Malformed('uri_too_long', 'target', `The request target is longer than ${targetBytesMax} bytes.`)
  if (target === '*') {
    if (method === 'OPTIONS') return ['*', '']
    throw badTarget('The target * is for OPTIONS only.')
  }
  let origin = target
  if (!target.startsWith('/')) {
    const absolute = /^https?:\/\/([^/?#]*)(\/[^]*)?$/i.exec(target)
    if (absolute === null || absolute[1]?.toLowerCase() !== host?.toLowerCase()) throw badTarget('The request target names another host.')
    origin = absolute[2] ?? '/'
  }
  if (/[^!-~]|[\\#]/.test(origin)) throw badTarget('The request target has a character that must be encoded.')
  const mark = origin.indexOf('?')
  const path = mark < 0 ? origin : origin.slice(0, mark)
  checkPath(path)
  return [path, mark < 0 ? '' : origin.slice(mark + 1)]
}

/** What the gateway matches is what the upstream gets, so nothing may stand in the path that someone behind us could resolve or decode. */
function checkPath(path: string): void {
  if (path.startsWith('//')) throw badTarget('The path begins with two slashes.')
  // `..;x` is a dot segment for servers that strip path parameters.
  if (/(?:^|\/)\.{1,2}(?:;[^/]*)?(?:\/|$)/.test(path)) throw badTarget('The path has a dot segment.')
  if (!path.includes('%')) return
  if (/%(?![0-9a-f]{2})/i.test(path)) throw badTarget('The path has a broken percent escape.')
  if (/%(?:[01][0-9a-f]|7f|2e|2f|5c|25)/i.test(path)) throw badTarget('The path encodes a dot, a slash, a backslash, a percent sign or a control character.')
  try {
    decodeURIComponent(path)
  } catch {
    throw badTarget('The path is not UTF-8.')
  }
}

function checkHost(host: string | undefined, httpVersion: string): void {
  if (host === undefined) {
    if (httpVersion === '1.0') return
    throw new Malformed('bad_request', 'host', 'The Host header is missing.')
  }
  const match = host.length > 255 ? null : /^(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?$/.exec(host)
  if (match === null || Number(match[1] ?? 0) > 65_535) throw new Malformed('bad_request', 'host', 'The Host header is not a host and port.')
}

function badFraming(message: string): Malformed {
  return new Malformed('bad_request', 'framing', message)
}

function readFraming(length: string | undefined, coding: string | undefined, httpVersion: string): number | 'chunked' {
  if (coding !== undefined) {
    if (httpVersion === '1.0') throw badFraming('HTTP/1.0 has no Transfer-Encoding.')
    if (length !== undefined) throw badFraming('Content-Length and Transfer-Encoding exclude each other.')
    const codings = coding.split(',').map((part) => part.trim().toLowerCase())
    if (codings.some((part) => part === '') || codings.at(-1) !== 'chunked') throw badFraming('Transfer-Encoding has to be chunked.')
    if (codings.length > 1) throw new Malformed('not_implemented', 'framing', 'No transfer coding but chunked is implemented.')
    return 'chunked'
  }
  if (length === undefined) return 0
  // Leading zeros are read as octal by some.
  if (!/^(?:0|[1-9]\d{0,15})$/.test(length) || !Number.isSafeInteger(Number(length))) throw badFraming('Content-Length is not a plain number.')
  return Number(length)
}

interface AskedUpgrade {
  readonly protocols: readonly string[]
  readonly nominated: readonly string[]
  readonly method: string
  readonly httpVersion: string
  readonly hasBody: boolean
  readonly key: string | undefined
  readonly version: string | undefined
}

/** Upgrades to another HTTP are ignored, as the standard allows; everything else has to be a flawless WebSocket handshake. */
function checkUpgrade(asked: AskedUpgrade): boolean {
  const bad = (message: string): Malformed => new Malformed('bad_request', 'upgrade', message)
  if (asked.hasBody) throw bad('A request that asks for an upgrade may not have a body.')
  if (asked.protocols.length > 0 && asked.protocols.every((protocol) => protocol === 'h2c' || protocol.startsWith('http/') || protocol.startsWith('tls/'))) return false
  if (asked.protocols.length !== 1 || asked.protocols[0] !== 'websocket') throw bad('The only upgrade is to websocket.')
  if (!asked.nominated.includes('upgrade')) throw bad('Connection has to name upgrade.')
  if (asked.method !== 'GET' || asked.httpVersion !== '1.1') throw bad('A WebSocket begins with GET over HTTP/1.1.')
  if (asked.version !== '13') throw new Malformed('upgrade_required', 'upgrade', 'Only version 13 of WebSocket is spoken here.')
  if (asked.key === undefined || !/^[A-Za-z0-9+/]{22}==$/.test(asked.key)) throw bad('Sec-WebSocket-Key has to be 16 bytes in base64.')
  return true
}
