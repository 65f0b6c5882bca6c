// A receiver of webhooks that believes nothing: it checks signatures with an implementation of its own.

import { webcrypto } from 'node:crypto'
import { createServer } from 'node:http'
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Teardown } from '../fixtures/tmp-dir.ts'

export interface Received {
  readonly id: string
  readonly verified: boolean
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly event: { readonly id: string; readonly type: string; readonly subject: string; readonly data: Readonly<Record<string, unknown>> }
  readonly atMs: number
}

type Answer = (response: ServerResponse, received: Received) => void

export interface Receiver {
  readonly url: string
  readonly received: Received[]
  /** How the next calls are answered; 204 at first. */
  answer: Answer
  /** By ids that were taken: how often. */
  taken(): Map<string, number>
}

export const secretA = `whsec_${Buffer.from('the first secret of this test').toString('base64')}`
export const secretB = `whsec_${Buffer.from('the second secret of this test').toString('base64')}`

/** By the specification: any of the signatures, over id, timestamp and the very bytes. */
export async function verify(headers: Readonly<Record<string, unknown>>, body: Uint8Array, secret: string): Promise<boolean> {
  const raw = Uint8Array.from(atob(secret.replace(/^whsec_/, '')), (character) => character.charCodeAt(0))
  const key = await webcrypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify'])
  const signed = Buffer.concat([Buffer.from(`${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.`), body])
  for (const part of String(headers['webhook-signature']).split(' ')) {
    const [version, signature = ''] = part.split(',')
    if (version === 'v1' && await webcrypto.subtle.verify('HMAC', key, Buffer.from(signature, 'base64'), signed)) return true
  }
  return false
}

export async function startReceiver(t: Teardown, secret: string = secretA): Promise<Receiver> {
  const counts = new Map<string, number>()
  const receiver: Receiver & { url: string } = {
    url: '', received: [],
    answer: (response) => { response.writeHead(204).end() },
    taken: () => counts,
  }
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks)
    const received: Received = {
      id: String(request.headers['webhook-id']), verified: await verify(request.headers, body, secret), headers: request.headers, body: body.toString(),
      event: JSON.parse(body.toString()) as Received['event'], atMs: Date.now(),
    }
    receiver.received.push(received)
    response.on('finish', () => { if (response.statusCode < 300) counts.set(received.id, (counts.get(received.id) ?? 0) + 1) })
    receiver.answer(response, received)
  }
  const server = createServer((request, response) => { handle(request, response).catch(() => { response.destroy() }) })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  receiver.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook?token=in-the-url`
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return receiver
}
