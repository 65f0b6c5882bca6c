// The base URLs that docs/clients.md tells users, so that the tests call the gateway by them and by nothing else.

import { readFileSync } from 'node:fs'

/** Where the gateway is in the document. */
export const documentedOrigin = 'http://localhost:8080'

export const clientsDocument = readFileSync(new URL('../../docs/clients.md', import.meta.url), 'utf8')

/** Client → base URL as the table has it. */
export const documentedBaseUrls: ReadonlyMap<string, string> = new Map(
  [...clientsDocument.matchAll(/^\| (.+?) \| `(http[^`]+)` \|/gm)].map((row) => [row[1]!.replaceAll('`', ''), row[2]!]),
)

/** The documented base URL of the one client whose row is named `client`, for the gateway at `origin`. */
export function baseUrl(client: string, origin: string): string {
  const url = documentedBaseUrls.get(client)
  if (url === undefined) throw new Error(`docs/clients.md has no row for ${client}`)
  return url.replace(documentedOrigin, origin)
}
