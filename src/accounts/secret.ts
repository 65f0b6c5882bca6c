import { hash } from 'node:crypto'
import type { Random } from '../random.ts'

/** What a key's secret may look like, wherever it comes from. */
export const secretGrammar = /^[A-Za-z0-9_-]{20,128}$/

const secretBytes = 27

/** A new secret of 216 random bits: `tg_` and 36 characters of base64url. */
export function newSecret(random: Random): string {
  return `tg_${Buffer.from(random.bytes(secretBytes)).toString('base64url')}`
}

/** Lower-case hex SHA-256: the only form in which a secret is kept. Secrets are random, so one fast hash is enough. */
export function hashOfSecret(secret: string): string {
  return hash('sha256', secret, 'hex')
}
