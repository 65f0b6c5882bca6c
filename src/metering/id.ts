import { assert } from '../assert.ts'

const hex: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** A UUIDv7 in lower-case text: the instant of admission, then chance. `random` is ten bytes. */
export function exchangeId(nowMs: number, random: Uint8Array): string {
  assert(nowMs >= 0 && nowMs < 2 ** 48, 'an exchange id needs an instant after 1970')
  assert(random.length >= 10, 'an exchange id needs ten random bytes')
  const byte = (index: number): string => hex[random[index] ?? 0] ?? ''
  const time = Math.floor(nowMs).toString(16).padStart(12, '0')
  const version = hex[((random[0] ?? 0) & 0x0f) | 0x70] ?? ''
  const variant = hex[((random[2] ?? 0) & 0x3f) | 0x80] ?? ''
  return `${time.slice(0, 8)}-${time.slice(8)}-${version}${byte(1)}-${variant}${byte(3)}-${byte(4)}${byte(5)}${byte(6)}${byte(7)}${byte(8)}${byte(9)}`
}

const uuid7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

export function isExchangeId(text: string): boolean {
  return uuid7.test(text)
}

/** The instant of admission that an exchange's id (or a correction's) begins with, ms since 1970; NaN for anything else. */
export function timeOfId(id: string): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16)
}
