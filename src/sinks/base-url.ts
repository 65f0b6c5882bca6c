/** An address that paths are put behind. */
export function baseUrl(address: string): string {
  return address.endsWith('/') ? address.slice(0, -1) : address
}
