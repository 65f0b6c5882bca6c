import { createHmac } from 'node:crypto'

/** A secret with this prefix is base64; any other is the bytes of its text. */
const prefix = 'whsec_'

/**
 * Standard Webhooks: who sent a body, and when. One signature for each secret, so that a receiver may know the old or the new one while keys are changed.
 * `id`: the same at every attempt. `timestampSeconds`: of the attempt, so that a receiver may refuse one that is recorded and played again.
 */
export function signatureHeaders(secrets: readonly string[], id: string, timestampSeconds: number, body: string | Uint8Array): { 'webhook-id': string; 'webhook-timestamp': string; 'webhook-signature': string } {
  const signatures = secrets.map((secret) => {
    const key = secret.startsWith(prefix) ? Buffer.from(secret.slice(prefix.length), 'base64') : Buffer.from(secret, 'utf8')
    return `v1,${createHmac('sha256', key).update(`${id}.${timestampSeconds}.`).update(body).digest('base64')}`
  })
  return { 'webhook-id': id, 'webhook-timestamp': String(timestampSeconds), 'webhook-signature': signatures.join(' ') }
}
