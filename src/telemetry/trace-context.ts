import type { Random } from '../random.ts'
import type { Trace } from './telemetry.ts'

/** W3C Trace Context: `traceparent` and `tracestate`, read strictly and made anew for the upstream. */

const stateBytesMax = 4_096
const membersMax = 32
/** Version 00 ends there; a later one may have more behind a further dash. */
const parentLength = 55

interface Parent { readonly traceId: string; readonly spanId: string; readonly flags: number }

/** `headers`: flat, names in lower case. `share`: of the traces that begin here, from 0 to 1, so many are recorded. */
export function traceOf(headers: readonly string[], share: number, random: Random): Trace {
  let parents = 0
  let parentText = ''
  let stateText = ''
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i]
    if (name === 'traceparent') {
      parents += 1
      parentText = headers[i + 1] ?? ''
    } else if (name === 'tracestate') stateText = stateText === '' ? headers[i + 1] ?? '' : `${stateText},${headers[i + 1] ?? ''}`
  }
  const parent = parents === 1 ? parentOf(parentText) : null
  // One pull of chance: bytes 16 to 31 are the two spans, 0 to 15 a new trace's id.
  const ids = hex(random.bytes(32))
  const traceId = parent?.traceId ?? nonZero(ids.slice(0, 32))
  const upstreamSpanId = nonZero(ids.slice(48, 64))
  // By the id's own chance, as all of OpenTelemetry does it: whoever looks at the same trace with the same share decides alike.
  const sampled = parent === null ? Number.parseInt(traceId.slice(-14, -1), 16) >= (1 - share) * 2 ** 52 : (parent.flags & 1) === 1
  // A caller that knows its ids to be random says so with the second bit; ours are.
  const flags = (sampled ? 1 : 0) | (parent === null ? 2 : parent.flags & 2)
  return {
    traceId, parentId: parent?.spanId ?? null, spanId: nonZero(ids.slice(32, 48)), upstreamSpanId, sampled,
    upstreamParent: `00-${traceId}-${upstreamSpanId}-0${flags}`,
    // What belongs to a parent that cannot be read belongs to nothing.
    state: parent === null ? '' : stateOf(stateText),
  }
}

/** null: not one that may be joined. */
function parentOf(text: string): Parent | null {
  if (text.length < parentLength || text.length > 256) return null
  const match = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|$)/.exec(text)
  if (match === null) return null
  const [, version = '', traceId = '', spanId = '', flags = ''] = match
  if (version === 'ff' || (version === '00' && text.length !== parentLength)) return null
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return null
  return { traceId, spanId, flags: Number.parseInt(flags, 16) }
}

const memberKey = /^(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})$/
const memberValue = /^[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$/

/** As it came, without blanks around its members; '': there is none, or it cannot be read. */
function stateOf(text: string): string {
  if (text === '' || text.length > stateBytesMax) return ''
  const members: string[] = []
  const keys = new Set<string>()
  for (const each of text.split(',')) {
    const member = each.trim()
    if (member === '') continue
    const at = member.indexOf('=')
    const key = member.slice(0, Math.max(0, at))
    if (!memberKey.test(key) || !memberValue.test(member.slice(at + 1)) || keys.has(key)) return ''
    keys.add(key)
    members.push(member)
  }
  return members.length > membersMax ? '' : members.join(',')
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

/** All zeros means "none". */
function nonZero(id: string): string {
  return /^0+$/.test(id) ? `${id.slice(0, -1)}1` : id
}
