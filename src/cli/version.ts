import { readFileSync } from 'node:fs'

let version: string | null = null

/** Of the product, as its package says. */
export function productVersion(): string {
  version ??= String((JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: unknown }).version)
  return version
}
