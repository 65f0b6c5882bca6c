import { createHmac, timingSafeEqual } from 'node:crypto'
import { webhook } from '../../../../src/sinks/webhook.ts'
import type { Received } from '../books.ts'
import { canary, json, type Answer, type Call, type Dialect } from '../dialect.ts'

const secret = `whsec_${Buffer.from('the secret of the webhook').toString('base64')}`
/** Older and newer signatures are refused, seconds. */
const tolerance = 300

interface Event {
  readonly id: string
  readonly type: string
  readonly subject: string
  readonly time: string
}

export const webhookBatched = dialect('batched', false)
export const webhookGzip = dialect('batched', true)
export const webhookStructured = dialect('structured', false)

/** A receiver that checks what Standard Webhooks asks for, and names the events that it refuses. */
function dialect(format: 'batched' | 'structured', gzip: boolean): Dialect {
  return {
    name: `webhook, ${format}${gzip ? ' and compressed' : ''}`,
    kind: webhook,
    duplicates: 'silent',
    mute: true,
    settings: (url, right) => ({ url: `${url}/usage`, private: true, format, batch: 100, secrets: right ? ['an old secret', secret] : ['wrong-secret'], token: null, gzip }),
    authorized: signed,
    read(call) {
      if (call.path !== '/usage' || call.headers['content-type'] !== (format === 'structured' ? 'application/cloudevents+json' : 'application/cloudevents-batch+json')) return refusal(415)
      const body = JSON.parse(call.text) as unknown
      return (Array.isArray(body) ? body as Event[] : [body as Event]).map(received)
    },
    answer(fates) {
      const refused = fates.flatMap((fate) => fate.fate === 'refused' ? [{ id: fate.received.id, reason: fate.reason }] : [])
      return refused.length === 0 ? { status: 204, body: '' } : json(200, { refused })
    },
    refusal: (why) => refusal({ unauthorized: 401, busy: 429, broken: 500, too_many: 413, too_large: 413, concurrent: 409 }[why]),
  }
}

function refusal(status: number): Answer {
  return { status, headers: { 'content-type': 'text/plain' }, body: canary }
}

function received({ id, subject, time }: Event): Received {
  return { key: id, id, code: 'event', customer: subject, timeMs: Date.parse(time), value: '1', bad: null }
}

/** Written for this test alone: what a receiver does with a signature. */
function signed({ headers, text, nowMs }: Call): boolean {
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures } = headers
  if (typeof id !== 'string' || typeof timestamp !== 'string' || typeof signatures !== 'string') return false
  if (Math.abs(nowMs / 1_000 - Number(timestamp)) > tolerance) return false
  const expected = createHmac('sha256', Buffer.from(secret.slice('whsec_'.length), 'base64')).update(`${id}.${timestamp}.${text}`).digest()
  return signatures.split(' ').some((each) => {
    const [version, signature = ''] = each.split(',')
    const given = Buffer.from(signature, 'base64')
    return version === 'v1' && given.length === expected.length && timingSafeEqual(given, expected)
  })
}
