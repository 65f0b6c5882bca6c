import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import proxyAddr from 'proxy-addr'

/** Who is asking: the peer, or what trusted proxies say of it, read from the right; never what the caller says itself. */
export type AddressReader = (request: IncomingMessage) => string

/** `trusted`: CIDR ranges, `loopback`, `linklocal`, `uniquelocal`. Throws TypeError for anything else. */
export function addressReader(trusted: readonly string[]): AddressReader {
  if (trusted.length === 0) return (request) => plainAddress(request.socket.remoteAddress ?? '')
  const trust = proxyAddr.compile([...trusted])
  return (request) => {
    const peer = request.socket.remoteAddress ?? ''
    if (request.headers['x-forwarded-for'] === undefined || !trust(peer, 0)) return plainAddress(peer)
    // What a trusted proxy wrote that is no address says nothing; the nearest one that is stands for the caller.
    const named = proxyAddr.all(request, trust).findLast((address) => isIP(address) !== 0)
    return plainAddress(named ?? peer)
  }
}

/** Is this peer one of our own proxies, through which many callers come? */
export function trustChecker(trusted: readonly string[]): (address: string) => boolean {
  return trusted.length === 0 ? () => false : ((trust) => (address: string) => trust(address, 0))(proxyAddr.compile([...trusted]))
}

/** IPv4 in its own notation also when it came over IPv6; without a zone. */
function plainAddress(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)
  return mapped?.[1] ?? address.replace(/%.*$/, '')
}
