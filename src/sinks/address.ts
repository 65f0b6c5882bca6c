import { BlockList, isIP } from 'node:net'

/** Never a receiver: link-local addresses and those under which clouds hand credentials out, "this host", multicast, broadcast. */
const never = listOf(['169.254.0.0/16', '168.63.129.16/32', '100.100.100.200/32', '192.0.0.192/32', '0.0.0.0/8', '224.0.0.0/4', '240.0.0.0/4', '::/128', 'fe80::/10', 'fd00:ec2::254/128', 'fd20:ce::254/128', 'ff00::/8'])
/** Receivers of one's own, when the sink says `private: true`. */
const own = listOf(['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '127.0.0.0/8', '100.64.0.0/10', '192.0.0.0/24', '198.18.0.0/15', '::1/128', 'fc00::/7', 'fec0::/10'])

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [network = '', bits] = range.split('/')
    list.addSubnet(network, Number(bits), isIP(network) === 4 ? 'ipv4' : 'ipv6')
  }
  return list
}

/**
 * Why a sink may not speak to this address, in words; null: it may. A name is judged by how it reads alone: what it resolves to is judged when it is
 * connected to. `host` as a URL has it, so IPv6 may stand in brackets.
 */
export function whyNotHost(host: string, permitPrivate: boolean): string | null {
  const bare = host.replace(/^\[|\]$/g, '').replace(/\.$/, '').toLowerCase()
  if (isIP(bare) !== 0) return whyNotAddress(bare, permitPrivate)
  if (bare === 'metadata.google.internal' || bare === 'metadata') return 'gives credentials of the cloud away and is no receiver'
  return !permitPrivate && (bare === 'localhost' || bare.endsWith('.localhost')) ? 'is on this machine; write private: true in the sink if that is meant' : null
}

/** The same for an address that a name has resolved to. */
export function whyNotAddress(address: string, permitPrivate: boolean): string | null {
  const plain = embedded(address) ?? address
  const family = isIP(plain) === 4 ? 'ipv4' : 'ipv6'
  if (never.check(plain, family)) return 'is a link-local or reserved address and is no receiver'
  return !permitPrivate && own.check(plain, family) ? 'is a private address; write private: true in the sink if that is meant' : null
}

/** The IPv4 address that an IPv6 one only wraps: mapped, translated (NAT64) or tunnelled (6to4). */
function embedded(address: string): string | null {
  if (isIP(address) !== 6) return null
  const groups = groupsOf(address)
  const dotted = (high: number, low: number): string => `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`
  const start = groups.slice(0, 6).join(',')
  if (start === '0,0,0,0,0,65535' || start === NAT64) return dotted(groups[6] ?? 0, groups[7] ?? 0)
  if (start === '0,0,0,0,0,0' && (groups[6] ?? 0) !== 0) return dotted(groups[6] ?? 0, groups[7] ?? 0)
  return groups[0] === 0x2002 ? dotted(groups[1] ?? 0, groups[2] ?? 0) : null
}

/** 64:ff9b::/96 as numbers. */
const NAT64 = [0x64, 0xff9b, 0, 0, 0, 0].join(',')

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): number[] {
  const text = address.replace(/%.*$/, '').replace(/(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/, (_, a: string, b: string, c: string, d: string) =>
    `${(Number(a) * 256 + Number(b)).toString(16)}:${(Number(c) * 256 + Number(d)).toString(16)}`)
  const [head = '', tail] = text.split('::')
  const first = head === '' ? [] : head.split(':')
  const last = tail === undefined || tail === '' ? [] : tail.split(':')
  return [...first, ...Array.from({ length: 8 - first.length - last.length }, () => '0'), ...last].map((group) => Number.parseInt(group, 16))
}
