import { createHmac } from 'node:crypto'

/** What is signed: the id stays the same over all attempts, the body too. */
export interface SignedMessage {
  readonly id: string
  readonly body: string
}

const prefix = 'whsec_'

/**
 * Headers by Standard Webhooks: the message is what its sender sent, and was sent at `atMs`. One signature for each secret (`whsec_` and base64), so that a receiver may
 * know the old one or the new one while it is replaced.
 */
export function signatureHeaders({ id, body }: SignedMessage, secrets: readonly string[], atMs: number): { readonly 'webhook-id': string; readonly 'webhook-timestamp': string; readonly 'webhook-signature': string } {
  const timestamp = String(Math.floor(atMs / 1_000))
  const signatures = secrets.map((secret) => `v1,${createHmac('sha256', keyOf(secret)).update(`${id}.${timestamp}.${body}`).digest('base64')}`)
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') }
}

function keyOf(secret: string): Buffer {
  return Buffer.from(secret.slice(prefix.length), 'base64')
}
