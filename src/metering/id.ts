/** An exchange's id: a UUIDv7, so that it begins with the instant of admission and sorts by it. */

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** `random`: ten bytes. */
export function exchangeId(nowMs: number, random: Uint8Array): string {
  const time = nowMs.toString(16).padStart(12, '0')
  const hex = (i: number): string => HEX[random[i]!]!
  const version = HEX[0x70 | (random[0]! & 0x0f)]!
  const variant = HEX[0x80 | (random[2]! & 0x3f)]!
  return `${time.slice(0, 8)}-${time.slice(8)}-${version}${hex(1)}-${variant}${hex(3)}-${hex(4)}${hex(5)}${hex(6)}${hex(7)}${hex(8)}${hex(9)}`
}

/** The instant that an exchange's id begins with, ms since 1970. */
export function timeOfId(id: string): number {
  return parseInt(id.slice(0, 8), 16) * 0x10000 + parseInt(id.slice(9, 13), 16)
}
